"""CUDA kernels of distributions and of gradient estimators against their CPU twins, and lvm.gradients on both sets.

The twins add the same numbers in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum. The CPU's are those of float64, which other tests have compiled, for both dtypes.
"""

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_cuda_relevance import T_, F, G, called, new, rng

from lvm import distributions, gradients, kernels
from lvm.kernels.cuda import gradients as cuda_gradients
from lvm.kernels.shared.distributions import CAUCHY, EXPONENTIAL, FULL, KINDS, MIXTURE, NORMAL, UNIFORM, WEIBULL

TOL = {F: 1e-5, G: 1e-12}
cpu = kernels.load("cpu")
N = 40  # a part of a block of samples; more than a warp, which adds them up
PLACES = np.arange(len(cpu.gradients.ESTIMATORS))
kind_ = pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


class Case:
    """A distribution's table, noise (R,N), samples X (D,N), and some log p and slopes G (N,D), of dtype T."""

    def __init__(self, kind, T=G, N=N):
        r, D, K = rng(kind), 1 if kind == CAUCHY else 3 if kind == FULL else 2, 2
        self.kind, self.T, self.shape = kind, T, (D, N)
        if kind == FULL:
            L = np.tril(r.normal(0, 0.5, (D, D)), -1) + np.diag(r.uniform(0.5, 1.5, D))
            table = np.vstack([r.normal(size=D), L])
        elif kind == MIXTURE:
            m, s = r.normal(0, 2, (K, D)), r.uniform(0.5, 1.5, (K, D))
            table = np.column_stack([np.log(r.dirichlet(np.ones(K))), np.log(s).sum(1), m, s])
        else:
            loc = np.zeros(D) if kind in (EXPONENTIAL, WEIBULL) else r.normal(size=D)
            scale, shape = r.uniform(0.5, 2, D), r.uniform(0.7, 3, D)
            shape = loc + scale if kind == UNIFORM else shape  # its end
            table = np.column_stack([loc, scale, np.log(scale), shape])
        noise = r.normal(size=(D, N)) if kind in (NORMAL, FULL, MIXTURE) else r.uniform(0.02, 0.98, (D, N))
        noise = np.vstack([r.random(N), noise]) if kind == MIXTURE else noise
        self.table, self.noise = table.astype(T), noise.astype(T)
        self.log_p, self.G = r.normal(size=N).astype(T), r.normal(size=(N, D)).astype(T)
        self.X, self.Z = (a.astype(T) for a in self.draw(cpu))
        self.P = cpu.distributions.coordinates(kind, self.table)

    def call(self, k, family, name, *args, out, sums=False):
        """Arrays of the shapes `out`, as the kernel leaves them: of dtype T, the CPU's of float64, and so are sums."""
        T = G if k is cpu else self.T
        given = [a.astype(T) if isinstance(a, np.ndarray) and a.dtype == self.T else a for a in (self.table, *args)]
        made = [new(shape, G if sums else T) for shape in out]
        return called(k, family, name, self.kind, *given, *made)[-len(out) :]

    def draw(self, k):
        """X (D,N) and Z (N,D)."""
        return self.call(k, "gradients", "draw", self.noise, out=(self.shape, self.shape[::-1]))

    def place(self, k):
        """Z (N,D), of rows."""
        return self.call(k, "distributions", "place", np.ascontiguousarray(self.noise.T), out=(self.shape[::-1],))[0]

    def slopes(self, k, parts=(1, 1, 1), Z=None):
        """log q, gz, gp, pulled: the first, the next two, the last where `parts` says so."""
        Z, D = self.Z if Z is None else Z, self.shape[0]
        n, m, l = (len(Z) if part else 0 for part in parts)
        return self.call(k, "distributions", "slopes", Z, self.G[:l], out=(n, (m, D), (m, self.P), (l, self.P)))

    def moments(self, k, which=PLACES, slopes=True):
        """value, mean, M2; c is 0.1, 0.2, ..."""
        c, each = (0.1 * (1 + np.arange(self.P))).astype(self.T), (len(which), self.P)
        given = self.X, self.log_p, self.G if slopes else self.G[:0], which, c
        return self.call(k, "gradients", "moments", *given, out=(2, each, each), sums=True)


def assert_same(got, want, tol):
    """Arrays that agree to roundings of the largest number in the second."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert not np.isnan(b).any(), f"array {i}"
        assert a.shape == b.shape
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)
        assert_allclose(a, b, rtol=tol, atol=tol * largest, err_msg=f"array {i}")


# ----------------------------------------------------------------------------------------------------- distributions
@T_
@kind_
def test_samples_are_those_of_the_cpu(cuda_set, kind, T):
    case = Case(kind, T)
    assert_array_equal(case.X, case.Z.T)
    assert_same([*case.draw(cuda_set), case.place(cuda_set)], [case.X, case.Z, case.Z], TOL[T])


def test_samples_of_several_blocks_are_those_of_the_cpu(k):
    case = Case(MIXTURE, N=150)
    assert_same([*case.draw(k), *case.slopes(k)], [case.X, case.Z, *case.slopes(cpu)], TOL[G])


@T_
@kind_
def test_densities_and_slopes_are_those_of_the_cpu(cuda_set, kind, T):
    case = Case(kind, T)
    assert_same(case.slopes(cuda_set), case.slopes(cpu), TOL[T])


@kind_
def test_each_part_comes_alone(k, kind):
    case = Case(kind)
    whole = case.slopes(k)
    for parts, of in ((1, 0, 0), (0,)), ((1, 1, 0), (0, 1, 2)), ((0, 0, 1), (3,)):
        for i, got in enumerate(case.slopes(k, parts)):
            assert_array_equal(got, whole[i] if i in of else whole[i][:0])


@pytest.mark.parametrize("kind", [UNIFORM, EXPONENTIAL, WEIBULL])
def test_outside_the_support_there_is_nothing(k, kind):
    case = Case(kind)
    loc, scale = case.table[:, 0], case.table[:, 1]
    Z = loc + scale * np.array([[0.5, 0.5], [-0.1, 0.5], [0.5, -9.0]])
    assert_array_equal(case.slopes(k, (1, 0, 0), Z)[0] == -np.inf, [False, True, True])


@T_
def test_far_from_all_components_slopes_are_those_of_the_cpu(k, T):
    case = Case(MIXTURE, T)
    far = np.array([[9, 0], [-9, 9], [3, -12]], T)
    assert_same(case.slopes(k, Z=far), case.slopes(cpu, Z=far), 10 * TOL[T])


def test_squares_may_be_infinite_of_a_component_that_is_far(k):
    case = Case(MIXTURE)
    for row, scale in enumerate([1e-150, 1e8]):
        case.table[row, 4:], case.table[row, 1] = scale, 2 * np.log(scale)
    case.Z = 1e8 * case.Z
    got, want = (case.slopes(d, (0, 0, 1))[3] for d in (k, cpu))
    assert_same([got], [want], TOL[G])


def test_where_the_density_is_zero_no_component_is_responsible(k):
    case, far = Case(MIXTURE), np.array([[1e200, 0]])
    got, want = (case.slopes(d, (1, 1, 0), far)[:3] for d in (k, cpu))
    assert got[0] == -np.inf
    assert_same(got, want, TOL[G])


# -------------------------------------------------------------------------------------------------------- estimators
@T_
@kind_
def test_all_estimators_are_those_of_the_cpu(cuda_set, kind, T):
    case = Case(kind, T)
    assert_same(case.moments(cuda_set), case.moments(cpu), TOL[T])


def test_some_estimators_without_slopes_of_log_p(k):
    case, some = Case(NORMAL), np.array([7, 2, 0])
    whole = case.moments(k)
    for got, want in zip(case.moments(k, some, slopes=False), whole):
        assert_array_equal(got, want if got.ndim == 1 else want[some])


@pytest.mark.parametrize("n", [2, 33, 300])
def test_any_number_of_samples_is_added_up(k, n):
    """By two threads of a warp; by all of it, one of them twice; by four warps."""
    case = Case(CAUCHY, N=n)
    assert_same(case.moments(k), case.moments(cpu), TOL[G])


def test_of_numbers_that_are_alike_nothing_cancels(k):
    case = Case(UNIFORM)
    case.table = np.column_stack([[0, 0], [1, 1], [0, 0], [1, 1.0]])  # log q = 0
    case.X, case.log_p = case.draw(k)[0], 1e8 + case.log_p
    value, mean, M2 = case.moments(k, PLACES[:1])  # s = -1 of a width
    want = case.log_p.mean(), case.log_p.var() * N
    assert_allclose(value, want, rtol=1e-12)
    assert_allclose([-mean[0, -1], M2[0, -1]], want, rtol=1e-12)


@pytest.mark.parametrize("kind", [NORMAL, FULL, MIXTURE])
def test_the_path_derivative_is_zero_for_each_sample_where_q_is_p(k, kind):
    case = Case(kind, F)
    case.G = case.slopes(k, (1, 1, 0))[1]
    _, mean, M2 = case.moments(k, np.array([cuda_gradients.PATH]))
    assert_array_equal(mean, 0)
    assert_array_equal(M2, 0)


def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k):
    found = []
    for order in ("forward", "reverse", "again"):  # the last one with memory that others wrote to
        if not GPU and order != "again":
            import simulator

            simulator.install(order)
        found.append(Case(MIXTURE, F, 300).moments(k, PLACES[2:4]))
    for x, y, z in zip(*found, strict=True):
        assert_array_equal(x, y)
        assert_array_equal(x, z)


def test_estimators_have_the_same_places_on_both_sets(k):
    assert k.gradients.ESTIMATORS == cpu.gradients.ESTIMATORS
    assert k.distributions.KINDS == cpu.distributions.KINDS


def test_blocks_are_called_in_their_order(k):
    called = []
    k.gradients.each(called.append, 3)
    assert called == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------ lvm.gradients
@pytest.mark.parametrize(
    "q",
    [
        distributions.MultivariateNormal([0.3, -1], [[1.5, 0], [0.4, 0.7]]),
        distributions.NormalMixture([0.3, 0.7], [[-1, 0], [1, 2]], [[1, 0.5], [0.6, 1]]),
        distributions.Gumbel([0.3, -1], 0.7),
    ],
    ids=["full", "mixture", "gumbel"],
)
def test_estimates_are_those_of_the_cpu(k, q):
    log_p = lambda z: (-0.5 * (z * z).sum(1), -z)
    got, want = (gradients.compare(log_p, q, N, random_state=0, device=d).gradients for d in ("cuda", "cpu"))
    assert got.keys() == want.keys()
    for name, b in want.items():
        a = got[name]
        assert_allclose([a.value, a.value_error], [b.value, b.value_error], rtol=1e-10)
        for of in "gradient", "error", "variance":
            for parameter, x in getattr(b, of).items():
                assert_allclose(getattr(a, of)[parameter], x, rtol=1e-8, atol=1e-10, err_msg=f"{name}, {of}")
