"""The shipped targets: their formulas, slopes and normalisers, and what they take."""

import copy
import pickle
import re

import numpy as np
import pytest
from gradcheck import richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import energy, flow_end

import lvm
from lvm import targets

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
names = pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4"])


def rows(N=200, D=2):
    return np.random.default_rng(D).uniform(-6, 6, (N, D))


@names
@T_
def test_energies_are_those_of_the_paper_within_walls(name, T):
    z = rows().astype(T)
    log_pi, gradient = getattr(targets, name)(z)
    assert (log_pi.dtype, log_pi.shape, gradient.dtype, gradient.shape) == (T, (200,), T, (200, 2))
    want = energy(name, *z.T.astype(float))
    assert_allclose(log_pi, want, rtol=1e-12 if T is np.float64 else 1e-4, atol=1e-12 if T is np.float64 else 1e-4)


@T_
@pytest.mark.parametrize("D", [1, 2, 7])
def test_a_ring_has_radius_two_in_any_number_of_dimensions(D, T):
    z = rows(50, D).astype(T)
    assert_allclose(targets.ring(z)[0], flow_end("ring", z), rtol=1e-4 if T is np.float32 else 1e-12, atol=1e-5)
    at_two = 2 * z / np.linalg.norm(z, axis=1, keepdims=True)
    log_pi, gradient = targets.ring(at_two.astype(T))
    assert_allclose(log_pi, 0, atol=1e-10)
    assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4", "ring"])
def test_slopes_are_those_by_differences(name):
    target, z = getattr(targets, name), rows()
    for d in range(2):
        e = np.eye(2)[d]
        want = richardson(lambda t, e=e: target(z + t * e)[0], 1e-3)
        near_a_wall = (np.abs(np.abs(z) - 4) < 2e-3).any(1)  # where the second slope jumps
        assert not near_a_wall.any()
        assert_allclose(target(z)[1][:, d], want, rtol=1e-7, atol=1e-7)


@names
def test_log_z_is_that_of_quadrature_and_of_the_issue(name):
    """The midpoint rule: what is beyond 9 is below e^-70. Where the wall begins, its second slope jumps."""
    target, n, far = getattr(targets, name), 1800, 9.0
    t = (np.arange(n) + 0.5) * (2 * far / n) - far
    grid = np.stack(np.meshgrid(t, t), -1).reshape(-1, 2)
    log_pi = target(grid)[0]
    assert abs(np.log(np.exp(log_pi).sum() * (2 * far / n) ** 2) - target.log_z) < 1e-7
    edge = np.abs(grid).max(1) > far - 0.1
    assert log_pi[edge].max() < -70
    known = {"U1": 1.87750163, "U2": 2.20016693, "U3": 2.75978271, "U4": 2.82408550}  # another program's quadrature
    assert target.log_z == known[name]


def test_a_ring_has_no_one_log_z():
    assert targets.ring.log_z is None


@names
def test_what_is_not_float32_is_float64(name):
    target, z = getattr(targets, name), np.array([[1, -2], [0, 3]])
    want = target(z.astype(float))
    for other in (
        z,
        z.tolist(),
        np.asfortranarray(z.astype(float)),
        np.repeat(z.astype(float), 2, 0)[::2],
        z.astype(">f8"),
    ):
        for a, b in zip(target(other), want):
            assert a.dtype == np.float64
            assert_array_equal(a, b)
    frozen = z.astype(float)
    frozen.setflags(write=False)
    assert_array_equal(target(frozen)[1], want[1])
    log_pi, gradient = target(np.empty((0, 2)))
    assert (log_pi.shape, gradient.shape) == ((0,), (0, 2))


@names
@T_
def test_energies_are_finite_far_out_and_at_nought(name, T):
    z = np.array([[0, 0], [1e3, -1e3], [-1e6, 0], [0, 1e6], [4, -4]], T)
    for a in getattr(targets, name)(z):
        assert np.isfinite(a).all()
    assert_array_equal(targets.ring(np.zeros((1, 3), T))[1], 0)


def test_other_shapes_are_refused():
    for z, shape in (
        (np.zeros(2), "(2,)"),
        (np.zeros((3, 4)), "(3, 4)"),
        (1.0, "()"),
        (np.zeros((2, 2, 2)), "(2, 2, 2)"),
    ):
        with pytest.raises(
            ValueError, match=f"^{re.escape(f'lvm.targets.U3 wants z of the shape (M,2), got {shape}.')}$"
        ):
            targets.U3(z)
    with pytest.raises(ValueError, match=re.escape("lvm.targets.ring wants z of the shape (M,D), got (2,).")):
        targets.ring(np.zeros(2))


@pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4", "ring"])
def test_a_pickle_and_a_copy_are_the_target_itself(name):
    target = getattr(targets, name)
    assert repr(target) == f"lvm.targets.{name}"
    for twin in (pickle.loads(pickle.dumps(target)), copy.deepcopy(target), copy.copy(target)):
        assert twin is target


def test_targets_are_public():
    assert lvm.targets is targets
    assert {"U1", "U2", "U3", "U4", "ring"} <= set(targets.__all__)
