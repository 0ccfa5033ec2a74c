"""One flat vector with named views, on both kernel sets."""

import numpy as np
import pytest

from lvm import kernels
from lvm.parameters import ALIGN, Parameters

SHAPES = {"W": (3, 5), "s": (), "none": (0, 3), "b": (17,)}
BOTH = pytest.mark.parametrize("device", ["cpu", "cuda"])
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])


def drawn(device, T):
    """Parameters with numbers in all they hold, and the values by name."""
    p, rng = Parameters(kernels.load(device), SHAPES, T), np.random.default_rng(0)
    values = {name: rng.normal(size=shape).astype(T) for name, shape in SHAPES.items()}
    p.assign(values)
    p.k.adam.assign(p.g, rng.normal(size=p.g.shape).astype(T))
    return p, values


@BOTH
@T_
def test_views_are_the_flat_vectors_memory(device, T, order):
    p, _ = drawn(device, T)
    for flat, views in ((p.theta, p.views), (p.g, p.gradients)):
        assert list(views) == list(SHAPES)
        p.k.adam.assign(flat, np.arange(flat.size))
        numbers = np.concatenate([p.k.get(view).reshape(-1) for view in views.values()])
        assert len(set(numbers)) == len(numbers) == sum(np.prod(s, dtype=int) for s in SHAPES.values())
        for name, view in views.items():
            assert view.shape == SHAPES[name]
            assert view.dtype == T
            first = p.k.get(view).reshape(-1)[:1]
            assert (first % ALIGN == 0).all()
            assert all(p.where(int(i)) == name for i in p.k.get(view).reshape(-1))


@BOTH
def test_what_is_assigned_is_got_and_nothing_else_changes(device, order):
    p, values = drawn(device, np.float64)
    p.assign({"b": np.ones(17)})
    for name, got in p.get().items():
        np.testing.assert_array_equal(got, np.ones(17) if name == "b" else values[name])
    assert np.count_nonzero(p.k.get(p.theta)) == 15 + 1 + 17
    got = p.get()["W"]
    got += 1
    np.testing.assert_array_equal(p.k.get(p.views["W"]), values["W"])


def test_another_shape_is_refused():
    p, _ = drawn("cpu", np.float64)
    with pytest.raises(ValueError, match=r"W must have the shape \(3, 5\), got \(5, 3\)\."):
        p.assign({"W": np.ones((5, 3))})


@BOTH
@T_
def test_from_a_state_the_same_steps_follow(device, T, order):
    rule = {"rate": 0.1, "period": 0, "clip": 3.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    p, _ = drawn(device, T)
    p.descend(**rule)
    state = p.state()
    theta = p.k.get(p.theta).copy()
    found = []
    for _ in range(2):
        p.descend(**rule)
        found.append(p.state())
        assert p.k.get(p.counter).tolist() == [2]
        p.restore(state)
        np.testing.assert_array_equal(p.k.get(p.theta), theta)
        assert p.k.get(p.counter).tolist() == [1]
    for name, a in found[0].items():
        np.testing.assert_array_equal(a, found[1][name])
        assert name == "control" or not np.array_equal(a, state[name])
    other = Parameters(kernels.load("cpu"), SHAPES, T)
    other.restore(state)
    for name, a in other.state().items():
        np.testing.assert_array_equal(a, state[name])
