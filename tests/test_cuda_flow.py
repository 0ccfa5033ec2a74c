"""CUDA kernels of flows against their CPU twins, and PlanarFlow with device="cuda" against "cpu".

The twins add the same numbers in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum.
"""

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_cuda_relevance import T_, F, G, assert_twins, new, rng
from test_mixture import assert_same_state, state

from lvm import PlanarFlow, kernels, targets
from lvm import flow as estimators
from lvm.kernels.cuda import flow as cuda_flow
from lvm.kernels.cuda.api import cuda
from lvm.kernels.shared.flow import AFFINE, ENDS, GIVEN, NORMAL, PLANAR, RADIAL, RING, U1

TOL = {F: 1e-5, G: 3e-14}
cpu = kernels.load("cpu")
MIXED = PLANAR, RADIAL, AFFINE, PLANAR
# by columns of a thread: one that has a row alone, up to 4 features; groups of 2, 4, 16 and 32, with and without rest
SIZES = [(1, 3), (2, 37), (4, 33), (5, 19), (13, 9), (40, 3), (130, 2)]
inverse_ = pytest.mark.parametrize("inverse", [0, 1])


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


@pytest.fixture(autouse=True)
def unwritten():
    """Kernels meet memory to work with that nobody wrote to."""
    cuda_flow._memory.cache_clear()


class Flow:
    """Layers of some kinds, and rows for them."""

    def __init__(self, D, B, kinds=MIXED, T=G, scale=0.7):
        r, K = rng(100 * D + B), len(kinds)
        self.kinds, self.T = np.array(kinds), T
        self.u, self.w = (scale * r.standard_normal((2, K, D)) / D**0.5).astype(T)
        self.b = (scale * r.standard_normal(K)).astype(T)
        self.X, self.rows = (3 + 2 * r.standard_normal((B + 5, D))).astype(T), r.permutation(B + 5)[:B]
        self.shift, self.factor = np.full(D, 3, T), r.uniform(0.3, 0.6, D).astype(T)
        self.given = r.standard_normal((B, D)).astype(T)

    def table(self, k):
        """On the device."""
        K, D = self.u.shape
        table = k.put(new((K, 2 * D + 3), self.T))
        k.flow.prepare(*map(k.put, (self.kinds, self.u, self.w, self.b)), table)
        return table

    def through(self, k, inverse, rows=None):
        """Z and l of the rows."""
        rows = self.rows if rows is None else rows
        B, D = len(rows) or len(self.X), self.X.shape[1]
        out = k.put(new((B, D), self.T)), k.put(new(B, self.T))
        k.flow.forward(
            k.put(self.kinds), self.table(k), inverse, *map(k.put, (self.X, rows, self.shift, self.factor)), *out
        )
        return list(map(k.get, out))

    def back(self, k, inverse, which=NORMAL, counter=0, annealing=0, rows=None):
        """The sums of `backward`, in all and of the end, and what `finish` makes of them."""
        K, D = self.u.shape
        rows = self.rows if rows is None else rows
        B, put = len(rows) or len(self.X), lambda *arrays: list(map(k.put, arrays))
        given = self.given if which == GIVEN else np.empty((0, D), self.T)
        sums = k.put(new((k.flow.parts(B, D, K), K + 1, 2 * D + 2), self.T))
        k.flow.backward(
            k.put(self.kinds),
            self.table(k),
            inverse,
            *put(self.X, rows, self.shift, self.factor),
            which,
            *put(given, np.array([counter])),
            annealing,
            sums,
        )
        parts = k.get(sums).copy()
        out = put(new((K, D), self.T), new((K, D), self.T), new(K, self.T), np.array([3, -7], self.T))
        k.flow.finish(*put(self.kinds, self.u, self.w, self.b), sums, -0.3, *out)
        return [parts[:, :K].sum(0), parts[:, K, :2].sum(0), *map(k.get, out)]


def assert_same(got, want, tol):
    """Arrays that agree to roundings of the largest number in a row of the second, or of 1."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert np.isfinite(b).all(), f"array {i}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        size = np.maximum(np.abs(b).max(axis=-1, keepdims=True), 1)
        assert_allclose(a / size, b / size, rtol=0, atol=tol, err_msg=f"array {i}")


# ------------------------------------------------------------------------------------------------- through the layers
@T_
@pytest.mark.parametrize("D", [1, 2, 5, 40])
def test_tables_are_those_of_the_cpu(cuda_set, D, T):
    f = Flow(D, 1, 2 * MIXED, T)
    f.w[0], f.u[3], f.b[1], f.b[5] = 0, -30 * f.w[3], -200, 90  # no direction; far along it; nothing; much
    table, want = cuda_set.get(f.table(cuda_set)), f.table(cpu)
    assert_same([table], [want], TOL[T])
    planar = f.kinds == PLANAR
    assert_allclose(table[planar, -1], want[planar, -1], rtol=100 * TOL[T])  # 1 + m, however small


@T_
@inverse_
@pytest.mark.parametrize(("D", "B"), SIZES)
def test_rows_go_through_layers_of_all_kinds_as_on_the_cpu(cuda_set, D, B, inverse, T):
    f = Flow(D, B, T=T)
    assert_same(f.through(cuda_set, inverse), f.through(cpu, inverse), TOL[T])


@inverse_
@pytest.mark.parametrize("kinds", [(PLANAR,) * 6, (RADIAL,) * 3, (AFFINE,)], ids=["planar", "radial", "affine"])
def test_and_through_layers_of_one_kind_and_back(cuda_set, kinds, inverse):
    for D, B in (1, 2), (2, 33), (6, 3):
        f = Flow(D, B, kinds)
        assert_same(f.through(cuda_set, inverse), f.through(cpu, inverse), TOL[G])
        assert_same(f.back(cuda_set, inverse), f.back(cpu, inverse), 3 * TOL[G])


@T_
@inverse_
@pytest.mark.parametrize(("D", "B"), SIZES)
def test_slopes_in_layers_of_all_kinds_are_those_of_the_cpu(cuda_set, D, B, inverse, T):
    f = Flow(D, B, T=T)
    assert_same(f.back(cuda_set, inverse), f.back(cpu, inverse), 3 * TOL[T])


@inverse_
@pytest.mark.parametrize("end", [e for e in ENDS if e != "normal"])
def test_every_end_is_that_of_the_cpu(cuda_set, end, inverse):
    for D, B in [(2, 34)] if end[0] == "U" else [(2, 33), (6, 3)]:
        f, which = Flow(D, B), ENDS.index(end)
        assert_same(f.back(cuda_set, inverse, which), f.back(cpu, inverse, which), 10 * TOL[G])


@T_
def test_the_weight_of_the_end_rises_as_on_the_cpu(k, T):
    f = Flow(2, 3, T=T)
    for which in NORMAL, U1, GIVEN:
        for counter in 0, 3, 7, 99:
            got = f.back(k, 1, which, counter, 7)
            assert_same(got, f.back(cpu, 1, which, counter, 7), 3 * TOL[T])
        assert_same(got, f.back(cpu, 1, which), 3 * TOL[T])


def test_the_ring_has_no_slope_in_its_middle(k):
    f = Flow(3, 2, (AFFINE,))
    f.u[:], f.w[:], f.X[f.rows[0]] = 0, 0, f.shift
    assert_same(f.back(k, 0, RING), f.back(cpu, 0, RING), TOL[G])


def test_all_rows_in_turn_need_no_numbers(k):
    f, none = Flow(5, 19), np.empty(0, np.int64)
    for name in "through", "back":
        got, want = (getattr(f, name)(d, 0, rows=none) for d in (k, cpu))
        assert_same(got, want, 3 * TOL[G])


@pytest.mark.parametrize(("D", "B"), [(2, 100), (5, 67), (40, 7)])
def test_few_warps_take_row_after_row(cuda_set, D, B, monkeypatch):
    f = Flow(D, B)
    monkeypatch.setattr(cuda_flow, "PARTS", 2)
    assert cuda_set.flow.parts(B, D, 4) == 2
    for inverse in 0, 1:
        assert_same(f.through(cuda_set, inverse), f.through(cpu, inverse), TOL[G])
        assert_same(f.back(cuda_set, inverse), f.back(cpu, inverse), 3 * TOL[G])


def test_a_row_and_a_part_for_each_warp():
    for (B, D), warps in {(1, 2): 1, (33, 2): 2, (33, 5): 3, (33, 40): 17, (33, 65): 33, (10**6, 2): 2048}.items():
        assert cuda_flow.parts(B, D, 3) == warps


@T_
@inverse_
def test_saturated_and_nearly_singular_layers_are_those_of_the_cpu(k, inverse, T):
    f = Flow(2, 40, (PLANAR, RADIAL, AFFINE), T)
    f.w[0] *= 60
    f.u[0] = -6 * f.w[0] / (f.w[0] @ f.w[0])
    f.u[1, 0], f.b[1], f.w[2] = -9, 3, (6, -9)
    for call in f.through, f.back:
        got, want = (call(d, inverse) for d in (k, cpu))
        assert all(np.isfinite(a).all() for a in got)
        for a, b in zip(got, want, strict=True):
            assert_allclose(a, b, rtol=1e5 * np.finfo(T).eps, atol=1e3 * np.finfo(T).eps * np.abs(b).max())


def test_a_row_that_is_no_number_shows(k):
    f = Flow(2, 40)
    f.X[f.rows[7], 1] = np.nan
    Z, l = f.through(k, 0)
    assert_array_equal(np.isnan(l), np.arange(40) == 7)
    assert_array_equal(np.isnan(Z).any(1), np.arange(40) == 7)
    assert all(np.isnan(a).any() for a in f.back(k, 0))


def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k):
    found, T = [], F
    for order in ("forward", "reverse", "again"):  # the last one with memory that others wrote to
        if not GPU and order != "again":
            import simulator

            simulator.install(order)
        flows = Flow(2, 40, T=T), Flow(5, 19, T=T), Flow(40, 3, T=T)
        found.append([a for f in flows for i in (0, 1) for a in (*f.through(k, i), *f.back(k, i))])
    for x, y, z in zip(*found, strict=True):
        assert_array_equal(x, y)
        assert_array_equal(x, z)


def test_a_second_call_makes_no_arrays(k, monkeypatch):
    """As a recorded step must not."""
    f = Flow(5, 19)
    f.through(k, 0), f.back(k, 0)
    made, empty = [], cuda_flow.empty
    monkeypatch.setattr(cuda_flow, "empty", lambda *a: made.append(a) or empty(*a))
    f.through(k, 1), f.back(k, 1)
    assert made == []


@pytest.mark.skipif(GPU, reason="memory of a GPU does not begin as NaN")
def test_no_two_threads_have_the_same_place_in_memory(k, monkeypatch):
    f, made, empty = Flow(2, 70, (PLANAR,) * 3), [], cuda_flow.empty
    monkeypatch.setattr(cuda_flow, "empty", lambda *a: made.append(empty(*a)) or made[-1])
    for call, numbers in (f.through, 2), (f.back, 2 * (2 + 3)):
        call(k, 0)
        written = ~np.isnan(k.get(made[-1]))
        assert_array_equal(written, np.arange(written.size) < 3 * 32 * numbers)  # as many as threads need, side by side


# ---------------------------------------------------------------------------------------------------------- energies
@T_
@pytest.mark.parametrize("which", range(U1, RING + 1))
def test_energies_are_those_of_the_cpu(cuda_set, which, T):
    Z = 3 * rng().standard_normal((150, 2)).astype(T)  # a block and a part of one; some beyond the wall
    Z[3] = 0
    for D in (2, 5) if which == RING else (2,):
        args = which, np.ascontiguousarray(np.tile(Z, 3)[:, :D]), new(150, T), new((150, D), T)
        assert_twins(cuda_set, "energies", *args, tol=3 * TOL[T], family="flow")


def test_a_target_of_the_host_is_left_to_the_host(k):
    assert k.flow.fused(None) is None
    assert k.flow.ENDS == cpu.flow.ENDS
    assert k.flow.KINDS == cpu.flow.KINDS


# ---------------------------------------------------------------------------------------------------- the estimator
FITTED = "u_", "w_", "b_", "mean_", "scale_", "lower_bounds_", "converged_", "n_iter_", "layers_", "direction_"
FITS = [  # params, T, tol
    ({"layers": ("planar", "radial")}, G, 1e-9),
    ({"direction": "generative", "early_stopping": True, "batch_size": 7}, G, 1e-9),
    ({"base": "fixed", "standardise": False, "clip_norm": 0.1}, F, 1e-4),
]


@pytest.fixture
def few(monkeypatch):
    """Epochs of few steps."""
    monkeypatch.setattr(estimators, "STEPS", 3)


def data(T=G, N=20):
    r = rng(5)
    return (r.standard_normal((N, 3)) @ r.standard_normal((3, 3)) + 7).astype(T)


def model(device, **params):
    return PlanarFlow(2, max_epochs=2, random_state=0, device=device, **params)


def assert_same_model(got, want, tol):
    for name in FITTED:
        a, b = (np.asarray(getattr(m, name)) for m in (got, want))
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        if b.dtype.kind == "f":
            assert_allclose(a, b, rtol=tol, atol=tol, err_msg=name)
        else:
            assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(("params", "T", "tol"), FITS)
def test_a_flow_is_that_on_the_cpu(k, few, params, T, tol):
    X = data(T)
    got, want = (model(d, **params).fit(X) for d in ("cuda", "cpu"))
    assert_same_model(got, want, tol)
    for name in "transform", "inverse_transform", "score_samples", "warp":
        a, b = (getattr(m, name)(X) for m in (got, want))
        assert (type(a), a.dtype) == (type(b), b.dtype)
        assert_allclose(a, b, rtol=10 * tol, atol=10 * tol, err_msg=name)
    assert_allclose(got.sample(3), want.sample(3), rtol=10 * tol)
    assert_allclose(got.score(X), want.score(X), rtol=10 * tol)


def well(z):
    """A target by a user: log pi = -|z|⁴/4."""
    r2 = (z * z).sum(1)
    return -0.25 * r2 * r2, -r2[:, None] * z


@pytest.mark.parametrize(
    ("target", "params"), [(targets.U3, {}), (targets.ring, {"direction": "normalising"}), (well, {})]
)
def test_a_flow_to_a_target_is_that_on_the_cpu(k, few, target, params):
    got, want = (model(d, batch_size=9, **params).fit_target(target, 2) for d in ("cuda", "cpu"))
    assert_same_model(got, want, 1e-9)
    assert_allclose(got.elbo(target, 40), want.elbo(target, 40), rtol=1e-9)


def test_rows_on_the_device_are_answered_there(k, few):
    X = data()
    given, want = cuda.to_device(X), model("cpu").fit(X)
    got = model("cuda").fit(given)
    assert_same_model(got, want, 1e-9)
    for name in "transform", "inverse_transform", "score_samples":
        a, b = getattr(got, name)(given), getattr(want, name)(X)
        assert (type(a), a.dtype) == (type(given), b.dtype)
        assert_allclose(k.get(a), b, rtol=1e-9, atol=1e-9)
    assert_array_equal(k.get(given), X)


def test_a_fit_that_is_stopped_leaves_the_model(k, few, monkeypatch):
    X = data()
    got = model("cuda").fit(X)
    before = state(got)
    for wrong in KeyboardInterrupt(), MemoryError("The GPU has no room"):

        def fails(*_, wrong=wrong):
            raise wrong

        with monkeypatch.context() as patch:
            patch.setattr(k.flow, "finish", fails)
            with pytest.raises(type(wrong)):
                got.fit(X)
        assert_same_state(state(got), before)
