"""CUDA kernels of mixtures against their CPU twins, and GaussianMixture(device="cuda") against device="cpu".

The twins add the same numbers in another order. So sums agree to rounding, in units of the size of what was added: n
terms of float64 to far below 1e-13. Of float32, squares and products come with 6e-8 each and are summed over at most
some hundred rows before float64 takes over: 1e-6. An answer of one row is good to some roundings of its distance.
"""

import warnings

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_kernels_mixture import Holed, Problem, rng
from test_mixture import assert_same_state, clouds, state, unsettled

import lvm
from lvm import GaussianMixture, NumericalError, kernels
from lvm.fit import em
from lvm.kernels.cuda import mixture as cuda_mixture
from lvm.kernels.cuda.api import cuda

TOL = {np.float32: 1e-6, np.float64: 1e-13}
F, G = np.float32, np.float64
T_ = pytest.mark.parametrize("T", [F, G])
simulated = pytest.mark.skipif(GPU, reason="what the simulator does is tested without LVM_TEST_GPU=1")
cpu = kernels.load("cpu")
TYPES = ("full", "tied", "diag", "spherical")
type_ = pytest.mark.parametrize("kind", TYPES)


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


def missing(X, how):
    """X with gaps: a part of its numbers; one in each row; whole rows only; one column only; every number."""
    r = rng([1, *X.shape])
    gaps = np.zeros(X.shape, bool)
    if how == "each row":
        gaps[np.arange(len(X)), r.integers(X.shape[1], size=len(X))] = True
    elif how == "whole rows":
        gaps[::3] = True
    elif how == "a column":
        gaps[::2, -1] = True
    elif how == "all":
        gaps[:] = True
    else:
        gaps = r.random(X.shape) < how
        gaps[5::17] = True
    return np.where(gaps, np.nan, X).astype(X.dtype)


def problem(kind, K, D, N, T=G, how=None):
    p = (Problem if how is None else Holed)(kind, K, D, N, T)
    if how is not None:
        p.X = missing(Problem(kind, K, D, N, T).X, how)
    return p


def assert_twins(k, p, w=None, tol=None):
    """Statistics and answers of a problem, by the set k and by the CPU's."""
    tol = TOL[p.T] if tol is None else tol
    size = np.maximum(p.reference(w)[1], 1)
    assert_allclose(p.statistics(k, w=w) / size, p.statistics(cpu, w=w) / size, rtol=0, atol=tol)
    for got, want in zip(p.posterior(k), p.posterior(cpu)):
        assert_allclose(got, want, rtol=10 * tol, atol=10 * p.D * tol)


# ------------------------------------------------------------------------------------------------ E step
# Around the tiles: 16, 32 and 64 columns, 16 components, 64 rows. Of 33 columns and more few rows, few gaps: they cost.
SIZES = [  # kind, K, D, N, T, gaps, weights
    ("full", 1, 1, 1, F, None, None),
    ("full", 2, 3, 300, G, None, "zeros"),
    ("full", 17, 1, 64, F, None, "equal"),
    ("full", 2, 16, 65, F, None, None),
    ("full", 1, 17, 63, G, None, "zeros"),
    ("full", 1, 40, 65, F, None, None),
    ("tied", 1, 1, 64, G, None, None),
    ("tied", 2, 3, 65, F, None, "zeros"),
    ("tied", 2, 33, 1, G, None, "equal"),
    ("tied", 2, 17, 63, F, None, None),
    ("diag", 1, 1, 1, G, None, None),
    ("diag", 2, 3, 300, F, None, "zeros"),
    ("diag", 17, 33, 65, G, None, "equal"),
    ("diag", 2, 40, 64, F, None, None),
    ("diag", 17, 16, 63, F, None, None),
    ("full", 2, 3, 300, F, 0.3, "zeros"),
    ("full", 2, 3, 65, G, 0.02, None),
    ("full", 17, 2, 9, G, "each row", "equal"),
    ("full", 1, 33, 20, F, "each row", None),
    ("full", 2, 17, 20, G, 0.3, "zeros"),
    ("full", 2, 3, 64, F, "each row", None),
    ("full", 2, 3, 64, G, "whole rows", "equal"),
    ("full", 2, 3, 63, G, "a column", None),
    ("full", 2, 1, 63, F, "a column", None),
    ("full", 2, 3, 5, G, "all", None),
    ("tied", 2, 3, 65, G, 0.3, "zeros"),
    ("tied", 2, 17, 33, F, 0.02, None),
    ("tied", 2, 3, 64, F, "each row", None),
    ("tied", 2, 3, 63, G, "a column", "equal"),
    ("tied", 2, 3, 5, F, "all", None),
    ("diag", 2, 3, 300, G, 0.3, "zeros"),
    ("diag", 17, 33, 20, F, 0.02, None),
    ("diag", 2, 40, 64, G, "each row", "equal"),
    ("diag", 2, 3, 63, F, "whole rows", None),
    ("diag", 2, 1, 64, G, "a column", None),
    ("diag", 2, 3, 5, F, "all", None),
]


@pytest.mark.parametrize(("kind", "K", "D", "N", "T", "how", "weights"), SIZES)
def test_statistics_and_answers_are_those_of_the_cpu(cuda_set, kind, K, D, N, T, how, weights):
    p = problem(kind, K, D, N, T, how)
    assert_twins(cuda_set, p, {None: None, "zeros": p.w, "equal": np.full(N, 2.5)}[weights])


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
def test_no_rows_and_rows_without_weight_give_zeros(k, kind, how):
    p = problem(kind, 2, 3, 20, F, how)
    assert_array_equal(p.statistics(k, w=np.zeros(20)), 0)
    assert_array_equal(p.statistics(k, X=p.X[:0]), 0)
    assert [len(a) for a in p.posterior(k, X=p.X[:0])] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
def test_many_chunks_and_parts_are_one_sum(cuda_set, kind, how, monkeypatch):
    """Chunks of 8 rows, more of them than threads that add them up, and parts of 85 rows: as of millions."""
    p = problem(kind, 2, 3, 90, G, how)
    monkeypatch.setattr(cuda_mixture, "_at_once", lambda *_: 85)
    monkeypatch.setattr(cuda_mixture, "_chunk", lambda M, size: 8)
    assert_twins(cuda_set, p, p.w)
    monkeypatch.setattr(cuda_mixture, "_at_once", lambda *_: 50)
    if how:
        assert_allclose(p.impute(cuda_set), p.impute(cpu), atol=1e-13)


@pytest.mark.parametrize(("kind", "how"), [("full", 0.3), ("diag", None)])
def test_there_is_always_room_for_a_row(k, kind, how, monkeypatch):
    p = problem(kind, 2, 3, 7, F, how)
    monkeypatch.setattr(cuda_mixture, "ROOM", 1)
    assert_twins(k, p, p.w)


def test_what_an_e_step_takes_at_once_fits_into_its_room():
    for T, K, D, most in ((F, 100, 50, 0), (G, 3, 10, 9), (F, 8, 32, 31), (F, 2, 100, 3)):
        rows, bytes_ = cuda_mixture._at_once(np.dtype(T), K, D, most), np.dtype(T).itemsize
        a_row = bytes_  # of a
        if most:  # of Y and E, cols, L, y
            a_row += D * bytes_ * (1 + most) + (D + 1) * 8 + most**2 * 8 + D * 8
        assert 0.9 * cuda_mixture.ROOM < rows * K * a_row <= cuda_mixture.ROOM
    for M, size in ((1, 1), (10**6, 5), (10**9, 10**6), (10**5, 10**9)):
        chunk = cuda_mixture._chunk(M, size)
        assert chunk % cuda_mixture.DEEP == 0
        assert chunk >= 256
        assert -(-M // chunk) * size * 4 <= max(2**28, 8 * 4 * size)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_an_answer_that_is_not_asked_for_is_skipped_and_changes_no_other(k, kind):
    p = problem(kind, 2, 3, 70, F, 0.3)
    whole = p.posterior(k)
    for i, name in enumerate(("log_px", "labels", "r")):
        alone = p.posterior(k, **{n: n == name for n in ("log_px", "labels", "r")})
        assert_array_equal(alone[i], whole[i])
        assert [a.size > 0 for a in alone] == [j == i for j in range(3)]


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k, kind, how):
    p = problem(kind, 2, 3, 70, F, how)
    found = [p.statistics(k, w=p.w), *p.posterior(k)]
    if not GPU:
        import simulator

        simulator.install("reverse")
    for a, b in zip([p.statistics(k, w=p.w), *p.posterior(k)], found):
        assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_rows_get_the_same_bits_alone_among_others_and_among_rows_with_gaps(k, kind):
    p = problem(kind, 2, 3, 100, F, 0.3)
    whole = ~np.isnan(p.X).any(1)
    found = p.posterior(k)
    for a, b in zip(p.posterior(k, X=p.X[whole], gaps=False), found):
        assert_array_equal(a, b[whole])
    for a, b in zip(p.posterior(k, X=p.X[31:38]), found):
        assert_array_equal(a, b[31:38])
    lost = np.isnan(p.X).all(1)
    assert lost.any()
    assert_array_equal(found[0][lost], 0)
    assert_allclose(found[2][lost], [p.pi] * lost.sum(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
@T_
def test_rows_beyond_the_range_of_squares_are_improbable_never_nan(k, kind, how, T):
    p = problem(kind, 2, 3, 20, T, how)
    before, big = p.posterior(k), 1e30 if T is F else 1e300
    p.X[7], p.X[9, 2], p.X[11, 1], p.X[13] = big / 1e11, -big, np.finfo(T).max, np.finfo(T).min
    log_px, labels, r = p.posterior(k)
    assert np.isfinite(log_px).all()
    assert (log_px[[7, 9, 11, 13]] < -1e35).all()
    assert_allclose(log_px, p.posterior(cpu)[0], rtol=1e-5)
    assert ((labels >= 0) & (labels < 2)).all()
    assert_allclose(r.sum(1), 1, rtol=1e-6)
    others = np.setdiff1d(np.arange(20), [7, 9, 11, 13])
    for a, b in zip((log_px, labels, r), before):
        assert_array_equal(a[others], b[others])


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
def test_an_offset_of_1e8_changes_nothing(k, kind, how):
    p = problem(kind, 2, 3, 40, G, how)
    p.mu, p.X = np.round(p.mu * 64) / 64, np.round(p.X * 64) / 64  # so that the offset adds without rounding
    want = p.statistics(k), *p.posterior(k)
    p.mu, p.X = p.mu + 2.0**27, p.X + 2.0**27
    for a, b in zip((p.statistics(k), *p.posterior(k)), want):
        assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("how", [None, 0.3])
def test_a_component_of_weight_zero_gets_no_row(k, kind, how):
    p = problem(kind, 3, 2, 40, F, how)
    P, c = p.factors()
    c[1] = -np.inf
    p.factors = lambda R=None: (P, c)
    S = p.statistics(k, w=p.w)
    assert_array_equal(S[[1, 5, 6]], 0)
    assert_allclose(S, p.statistics(cpu, w=p.w), rtol=1e-5, atol=1e-4)
    log_px, labels, r = p.posterior(k)
    assert np.isfinite(log_px).all()
    assert not (labels == 1).any()
    assert_array_equal(r[:, 1], 0)


# Rows of a chunk are many, and all but the first ones add less than half of the last digit of the sum: added up one by
# one they would be lost, 1e-6 in all, where a compensated sum is good to some 6e-8.
HEAVY, LIGHT = 2.0**20, 2.0**-5 * 0.9


@pytest.mark.parametrize("diagonal", [False, True])
def test_sums_of_float32_lose_nothing_over_a_long_chunk(cuda_set, diagonal):
    N = 64 * cuda_mixture.DEEP
    r = np.full((1, N), LIGHT / cuda_mixture.DEEP, F)
    r[0, : cuda_mixture.DEEP] = HEAVY / cuda_mixture.DEEP
    X, mu, weights, rows = (cuda_set.put(a) for a in (np.ones((N, 1), F), np.zeros((1, 1), F), r, np.empty(0, int)))
    part = cuda_set.put(np.zeros((1, 4), F))
    if diagonal:
        cuda_mixture._moments_diag((1, 1, 1), 128, X, rows, mu, cuda_set.put(np.ones((1, 1), F)), weights, N, 0, part)
    else:
        cuda_mixture._moments_full[16]((1, 1, 1), 128, X, rows, 0, 1, mu, weights, N, 0, part)
    assert_allclose(cuda_set.get(part)[0, :3], r.sum(dtype=G), rtol=2e-7)


def test_sums_of_log_densities_lose_nothing_over_a_long_chunk(cuda_set):
    N = 40 * 256  # rows of a thread, threads
    w = np.where(np.arange(N) < 256, HEAVY, LIGHT).astype(F)
    a, weights, rows = (cuda_set.put(x) for x in (np.ones((1, N), F), w, np.empty(0, int)))
    none, none_2 = cuda_set.empty(0, F), cuda_set.empty((0, 1), F)
    part = cuda_set.put(np.zeros((1, 4), F))
    cuda_mixture._normalise(1, 256, a, weights, rows, N, False, none, rows, none_2, part)
    assert_allclose(cuda_set.get(part)[0, 3], w.sum(dtype=G), rtol=2e-7)


# ------------------------------------------------------------------------------------------------ gaps
@T_
def test_gaps_are_lists_of_rows(k, T):
    X = missing(rng().standard_normal((60, 4)).astype(T), 0.3)
    found, n = k.mixture.gaps(k.put(X)), np.isnan(X).sum(1)
    assert_array_equal(k.get(found.complete), np.flatnonzero(n == 0))
    assert_array_equal(k.get(found.others), np.flatnonzero((n > 0) & (n < 4)))
    assert_array_equal(k.get(found.blank), np.flatnonzero(n == 4))
    assert found.most == n[n < 4].max()
    for X in (np.ones((3, 2), T), np.full((3, 2), np.nan, T), np.ones((0, 2), T)):
        found = k.mixture.gaps(k.put(X))
        assert found.most == 0
        assert len(found.complete) + len(found.blank) == len(X)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize(
    ("D", "how", "T"), [(3, 0.3, F), (3, 0.3, G), (17, 0.02, G), (1, "a column", F), (3, "all", G)]
)
def test_fillings_and_draws_are_those_of_the_cpu(cuda_set, kind, D, how, T):
    p = problem(kind, 3, D, 40, T, how)
    u, eps = rng(1).random(40), rng(2).standard_normal((40, D))
    tol = 1e-5 if T is F else 1e-12
    assert_allclose(p.impute(cuda_set), p.impute(cpu), rtol=tol, atol=tol)
    assert_allclose(p.impute(cuda_set, u=u, eps=eps), p.impute(cpu, u=u, eps=eps), rtol=tol, atol=tol)
    seen = ~np.isnan(p.X)
    assert_array_equal(p.impute(cuda_set)[seen], p.X[seen])


def test_gaps_that_all_but_determine_each_other_are_no_nan(k):
    """Columns 0 and 1 have a precision matrix that is singular but for rounding: both sets raise its last pivot."""
    p = Holed("full", 1, 3, 4)
    p.X[:, :2], p.X[:, 2] = np.nan, np.arange(4.0)
    P = np.array([[[1.0, 0, 0], [1e9, 1e9, 0], [0, 0, 1]]])
    p.factors = lambda R=None: (P, np.log(np.diagonal(P[0])).sum() - np.full(1, 1.5 * np.log(2 * np.pi)))
    assert_allclose(p.posterior(k)[0], p.posterior(cpu)[0], rtol=1e-9)
    for a in (p.statistics(k), p.impute(k), p.impute(k, u=np.full(4, 0.5), eps=np.ones((4, 3)))):
        assert np.isfinite(a).all()


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_draws_take_the_first_and_the_last_component_at_the_ends(k, kind):
    p = problem(kind, 3, 2, 10, G, "all")
    for u in (0.0, 1.0):
        eps = np.zeros((10, 2))
        assert_allclose(p.impute(k, u=np.full(10, u), eps=eps), [p.mu[0 if u == 0 else 2]] * 10, rtol=1e-14)


# ------------------------------------------------------------------------------------------------ M step
def maximised(k, kind, S, mu, R, least):
    K, D = mu.shape
    of_Sigma = {"full": (K, D, D), "tied": (D, D)}.get(kind, (K, D))
    out = [k.put(np.full(shape, np.nan)) for shape in ((K,), (K, D), of_Sigma, of_Sigma, (K,))]
    getattr(k.mixture, f"maximise_{kind}")(*map(k.put, (S, mu, R, least)), *out)
    return [k.get(a) for a in out]


def assert_same_step(k, kind, S, mu, R, least=None):
    """The M step of the set k is that of the CPU: the same components collapse. -> which are sound."""
    least = np.zeros(len(R)) if least is None else least
    pi, new, Sigma, P, c = maximised(k, kind, S, mu, R, least)
    want = maximised(cpu, kind, S, mu, R, least)
    assert_array_equal(c == -np.inf, want[4] == -np.inf)
    assert not np.isnan(c).any()
    sound = c > -np.inf
    assert_allclose(pi, want[0], rtol=1e-14)
    assert_allclose(new, want[1], rtol=1e-13, atol=1e-13)
    these = sound if kind != "tied" else sound.all()
    assert_allclose(Sigma[these], want[2][these], rtol=1e-11, atol=1e-13)
    assert_allclose(P[these], want[3][these], rtol=1e-10, atol=1e-11)
    assert_allclose(c[sound], want[4][sound], rtol=1e-12, atol=1e-11)
    return sound


@type_
@pytest.mark.parametrize(("K", "D"), [(1, 1), (17, 2), (2, 17), (3, 33)])
def test_the_m_step_is_that_of_the_cpu(cuda_set, kind, K, D):
    p = Problem(kind, K, D, 40 + 4 * D)
    assert assert_same_step(cuda_set, kind, p.statistics(cpu, w=p.w), p.mu, p.R).all()


@pytest.mark.parametrize(("kind", "D"), [("full", 130), ("tied", 130), ("diag", 70), ("spherical", 70)])
def test_the_m_step_of_more_columns_than_threads(cuda_set, kind, D):
    r = rng()
    A = r.standard_normal((D, D)) / np.sqrt(D)
    S2 = 7 * (A @ A.T + np.eye(D)) if kind in ("full", "tied") else 7 * r.gamma(5.0, size=D)
    S = np.concatenate([[7.0], 0.1 * r.standard_normal(D), S2.ravel(), [0]])
    assert assert_same_step(cuda_set, kind, S, r.standard_normal((1, D)), 0.1 * r.random(D)).all()


@type_
def test_components_collapse_where_those_of_the_cpu_do(cuda_set, kind):
    p, K, D = Problem(kind, 3, 4, 60), 3, 4
    S, zero = p.statistics(cpu), np.zeros(4)
    assert assert_same_step(cuda_set, kind, S, p.mu, zero).all()
    empty = S.copy()  # no row wants component 1
    empty[[1, *range(K + D, K + 2 * D)]] = 0
    if kind != "tied":
        empty[K + K * D :].reshape(-1)[:-1].reshape(K, -1)[1] = 0
    assert_array_equal(assert_same_step(cuda_set, kind, empty, p.mu, p.R), [True, False, True])
    flat = S.copy()  # in its last column component 1 has no variance, or (spherical) in all of them
    S2 = flat[K + K * D : -1].reshape({"full": (K, D, D), "tied": (D, D)}.get(kind, (K, D)))
    if kind in ("full", "tied"):
        A = S2[1] if kind == "full" else S2
        A[3], flat[K : K + K * D] = A[2] if kind == "tied" else 2 * A[2], 0
        A[3, 2], A[3, 3] = (A[2, 2], A[2, 2]) if kind == "tied" else (2 * A[2, 2], 4 * A[2, 2])
    else:
        mean = flat[K : K + K * D].reshape(K, D)
        S2[1, slice(3, 4) if kind == "diag" else slice(None)] = (mean[1] ** 2 / flat[1])[
            3 if kind == "diag" else None :
        ]
    bad = [False] * 3 if kind == "tied" else [True, False, True]
    assert_array_equal(assert_same_step(cuda_set, kind, flat, p.mu, zero), bad)
    assert assert_same_step(cuda_set, kind, flat, p.mu, np.full(4, 1e-3)).all()
    assert_array_equal(assert_same_step(cuda_set, kind, flat, p.mu, np.full(4, 1e-3), np.full(4, 6e-3)), bad)
    assert not assert_same_step(cuda_set, kind, S, p.mu, zero, np.array([0, 0, 0, 1e3])).any()
    assert_same_step(cuda_set, kind, np.where(np.arange(S.size) == S.size - 2, -5.0, S), p.mu, zero)  # S2 below zero


@pytest.mark.parametrize("K", [1, 17, 300])
def test_the_mean_bound(cuda_set, K):
    S, c = np.append(rng().gamma(1.0, size=K + 5), -3.0), rng(1).standard_normal(K)
    assert_allclose(cuda_set.mixture.bound(cuda_set.put(S), cuda_set.put(c)), cpu.mixture.bound(S, c), rtol=1e-14)
    for bad in (-np.inf, np.nan):
        assert np.isnan(cuda_set.mixture.bound(cuda_set.put(S), cuda_set.put(np.append(c[1:], bad))))
    assert np.isnan(cuda_set.mixture.bound(cuda_set.put(np.zeros(K + 1)), cuda_set.put(c)))


# ------------------------------------------------------------------------------------------------ starts, samples
@T_
@pytest.mark.parametrize(
    ("N", "D", "L", "how"), [(1, 1, 1, None), (129, 3, 4, None), (129, 3, 2, 0.3), (20, 40, 5, None)]
)
def test_squared_distances(cuda_set, T, N, D, L, how):
    r = rng(N)
    X, Z, s = (r.standard_normal(shape).astype(T) for shape in ((N, D), (L, D), D))
    X = X if how is None else missing(X, how)
    found = []
    for k in (cuda_set, cpu):
        d2 = k.put(np.full((L, N), np.nan, T))
        k.mixture.squared_distances(*map(k.put, (X, Z, s)), d2)
        found.append(k.get(d2))
    assert_allclose(*found, rtol=20 * np.finfo(T).eps, atol=1e-30)


def test_samples(cuda_set):
    K, D, N = 3, 5, 60
    mu, A, d, eps = (rng(i).standard_normal(s) for i, s in enumerate(((K, D), (K, D, D), (K, 1, D), (N, D))))
    z = rng(9).integers(K, size=N)
    for V in (A, A[:1], d):
        found = []
        for k in (cuda_set, cpu):
            X = k.put(np.full((N, D), np.nan))
            k.mixture.sample(*map(k.put, (mu, V, z, eps)), X)
            found.append(k.get(X))
        assert_allclose(*found, rtol=1e-13, atol=1e-13)


# ------------------------------------------------------------------------------------------------ the estimator
def data(case, T=G, n=30):
    """Rows of two clouds in two columns, and weights or None."""
    X, r = clouds(n, 2, 2), rng(3)
    X = X.astype(T)
    return missing(X, 0.2) if case == "gaps" else X, r.integers(0, 4, n) / 2 if case == "weights" else None


def fitted(device, X, kind="full", weight=None, K=2, **params):
    """A fit of few steps, which begins at the first rows but where told otherwise."""
    params = {"means_init": np.nan_to_num(X[:K]), "max_iter": 4, "tol": 0, "random_state": 0} | params
    with unsettled():
        return GaussianMixture(K, covariance_type=kind, device=device, **params).fit(X, sample_weight=weight)


def assert_same_model(got, want, tol=1e-10):
    """All that a fit leaves is NumPy's, of the same dtype, and equal to `tol` of the largest entry."""
    a, b = state(got), state(want)
    assert a.keys() == b.keys()
    for name, v in b.items():
        assert type(a[name]) is type(v), name
        assert np.asarray(a[name]).dtype == np.asarray(v).dtype, name
        assert_allclose(a[name], v, rtol=tol, atol=tol * np.abs(v).max(), err_msg=name)


def on(device, model):
    """A copy of a fitted model that works on another device."""
    other = GaussianMixture(**model.get_params() | {"device": device})
    other.__dict__ |= {name: v for name, v in vars(model).items() if name.endswith("_")}
    return other


@type_
@pytest.mark.parametrize("case", ["plain", "weights", "gaps", "float32"])
def test_a_fit_is_that_on_the_cpu(k, kind, case):
    X, w = data(case, F if case == "float32" else G)
    want = fitted("cpu", X, kind, w)
    assert_same_model(fitted("cuda", X, kind, w), want, 1e-5 if case == "float32" else 1e-10)


@pytest.mark.parametrize(
    ("kind", "start", "case"),
    [
        ("full", "random", "plain"),
        ("tied", "random_from_data", "gaps"),
        ("diag", "k-means++", "plain"),
        ("spherical", "kmeans", "weights"),
        ("full", "k-means++", "gaps"),
    ],
)
def test_a_start_is_that_on_the_cpu(k, kind, start, case, monkeypatch):
    monkeypatch.setattr(lvm.mixture, "TRIES", 2)
    monkeypatch.setattr(lvm.mixture, "SHORT", 2)
    X, w = data(case)
    params = {"means_init": None, "init_params": start, "n_init": 1 + (start == "random_from_data"), "max_iter": 2}
    assert_same_model(fitted("cuda", X, kind, w, **params), fitted("cpu", X, kind, w, **params))


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_fit_of_blocks_is_that_on_the_cpu_and_of_all_rows(k, kind):
    X, w = data("weights")
    X[20:] = missing(X[20:], 0.2)
    blocks = lambda: [(X[:9], w[:9]), (X[9:20], w[9:20]), (X[20:], w[20:])]
    with unsettled():
        begin = {"covariance_type": kind, "means_init": X[:2], "max_iter": 3, "tol": 0}
        got, want = (GaussianMixture(2, device=device, **begin).fit(blocks) for device in ("cuda", "cpu"))
    assert_same_model(got, want)
    assert_same_model(got, fitted("cpu", X, kind, w, max_iter=3))
    assert_allclose(got.score(blocks), want.score(blocks), rtol=1e-12)


@type_
def test_learning_goes_on_as_on_the_cpu_also_from_a_file(k, kind, tmp_path):
    """partial_fit, a model saved and loaded, a warm start."""
    X, _ = data("gaps", n=50)
    models = []
    for device in ("cuda", "cpu"):
        model = fitted(device, X[:30], kind, max_iter=2)
        model.partial_fit(X[30:], sample_weight=np.arange(20.0))
        model.save(tmp_path / device)
        model = lvm.load(tmp_path / device)
        assert model.device == device
        with unsettled():
            models.append(model.set_params(warm_start=True, max_iter=2).fit(X[:30]))
    assert_same_model(*models)


@type_
@pytest.mark.parametrize("case", ["plain", "gaps"])
def test_answers_are_those_of_the_cpu(k, kind, case):
    X, _ = data(case, n=25)
    w = rng(4).integers(1, 4, 25)
    want = fitted("cpu", X, kind, w, reg_covar=0, tol=1e-9, max_iter=3000)
    got = on("cuda", want)
    assert_array_equal(got.predict(X), want.predict(X))
    for name in ("predict_proba", "score_samples", "impute"):
        a, b = getattr(got, name)(X), getattr(want, name)(X)
        assert type(a) is np.ndarray
        assert_allclose(a, b, rtol=1e-10, atol=1e-12, err_msg=name)
    assert_allclose(got.impute(X, n_draws=2), want.impute(X, n_draws=2), rtol=1e-10, atol=1e-10)
    for name in ("score", "bic", "aic", "icl"):
        assert_allclose(getattr(got, name)(X, sample_weight=w), getattr(want, name)(X, sample_weight=w), rtol=1e-12)
    for a, b in zip(got.sample(9), want.sample(9)):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    slopes = [("score_gradient", 1e-9)]
    if (kind, case) in (("spherical", "plain"), ("diag", "gaps")):  # they take two E steps a parameter
        slopes.append(("standard_errors", 1e-6))
    for method, tol in slopes:
        a, b = getattr(got, method)(X, w), getattr(want, method)(X, w)
        for name in b:
            assert_allclose(a[name], b[name], rtol=tol, atol=tol, err_msg=f"{method} {name}")
    for part in (lambda m: m.marginal([1]), lambda m: m.condition([0.5, np.nan])):
        assert part(got).device == "cuda"
        assert_same_state(state(part(got)), state(part(want)))
        assert_allclose(part(got).score_samples(X[1:4, :1]), part(want).score_samples(X[1:4, :1]), rtol=1e-12)


def spiked():
    """A round cloud of which five rows are one and the same, and a start that sees them."""
    X = rng().standard_normal((40, 2))
    X[:5] = X[0]
    return X, {"reg_covar": 0, "means_init": X[[20, 0]], "max_iter": 6}


SHARP = {"full": [np.eye(2), 1e6 * np.eye(2)], "diag": [np.ones(2), np.full(2, 1e6)], "spherical": [1, 1e6]}


@pytest.mark.parametrize("kind", SHARP)
def test_a_collapsed_component_is_repaired_as_on_the_cpu(k, kind):
    (X, params), models = spiked(), []
    for device in ("cuda", "cpu"):
        model = GaussianMixture(2, covariance_type=kind, device=device, random_state=0, precisions_init=SHARP[kind])
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model.set_params(**params).fit(X)
        models.append(model)
        assert "Component 1 collapsed on too few rows" in str(seen[0].message)
        assert model.degenerate_
    assert_same_model(*models, tol=1e-8)


@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_a_fit_that_fails_says_what_the_cpu_says_and_leaves_the_model(k, kind):
    X, hopeless = clouds(30, 2), np.repeat(clouds(30, 2)[: 1 if kind == "spherical" else 2], 15, axis=0)
    model, said = fitted("cuda", X, kind, K=3, max_iter=1), []
    before = state(model)
    for device in ("cuda", "cpu"):
        params = {"reg_covar": 0, "max_iter": 20, "device": device, "means_init": np.array([[0, 0], [1, 1], [2, 2.0]])}
        with unsettled(), pytest.raises(NumericalError) as e:
            model.set_params(**params).fit(hopeless)
        said.append(str(e.value))
        assert_same_state(state(model), before)
    assert said[0] == said[1]


# ------------------------------------------------------------------------------------------------ arrays of the device
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_rows_on_the_device_are_taken_from_there_and_answers_are_there(k, kind, monkeypatch):
    X, _ = data("gaps")
    given, read, loops = cuda.to_device(X), [], "full" if kind == "full" else "diag"
    for name in (f"statistics_{loops}", f"posterior_{loops}", f"impute_{loops}"):
        true = getattr(k.mixture, name)
        monkeypatch.setattr(k.mixture, name, lambda x, *a, true=true, name=name: read.append((name, x)) or true(x, *a))
    model, want = GaussianMixture(2, covariance_type=kind, means_init=[[0, 0], [1, 1]], max_iter=3, tol=0), []
    with unsettled():
        want = GaussianMixture(**model.get_params()).fit(X)
        model.set_params(device="cuda").fit(given)
    assert_same_model(model, want)
    assert read.pop(0)[1] is not given  # the rows that a start looks at
    for method in ("predict", "predict_proba", "score_samples", "impute"):
        got, b = getattr(model, method)(given), getattr(want, method)(X)
        assert type(got) is type(given), method
        assert (got.shape, got.dtype) == (b.shape, b.dtype)
        assert_allclose(k.get(got), b, rtol=1e-10, atol=1e-12)
    draws = model.set_params(random_state=0).impute(given, n_draws=2)
    assert type(draws) is type(given)
    assert_allclose(k.get(draws), want.set_params(random_state=0).impute(X, n_draws=2), rtol=1e-10, atol=1e-12)
    assert len(read) > 7
    assert all(x is given for _, x in read)
    for method in ("score", "bic", "icl"):
        assert_allclose(getattr(model, method)(given), getattr(want, method)(X), rtol=1e-12)
    assert_array_equal(k.get(given), X)


@pytest.mark.parametrize(
    "made",
    [np.asfortranarray, lambda X: X.round().astype(int), np.float16, np.float32],
    ids=["F", "int", "half", "float"],
)
def test_rows_of_any_layout_and_kind_of_number_on_the_device(k, made):
    X = made(data("plain")[0])
    got, want = (fitted(device, X, "diag", means_init=[[0, 0], [1, 1]], max_iter=2) for device in ("cuda", "cpu"))
    given = cuda.to_device(X)
    with unsettled():
        there = GaussianMixture(**got.get_params()).fit(given)
    assert_same_state(state(there), state(got))
    assert_same_model(got, want, 1e-5 if X.dtype == F else 1e-10)
    labels = there.predict(given)
    assert type(labels) is type(given)
    assert_array_equal(k.get(labels), want.predict(X))
    assert type(there.predict(X)) is np.ndarray


def test_weights_and_blocks_on_the_device(k):
    X, w = data("weights")
    want = fitted("cuda", X, "diag", w, max_iter=2)
    given, weights = cuda.to_device(X), cuda.to_device(w)
    model = GaussianMixture(**want.get_params())
    with unsettled():
        assert_same_state(state(model.fit(given, sample_weight=weights)), state(want))
        assert_same_state(state(model.fit(X, sample_weight=weights)), state(want))
        model.fit(lambda: [(given[:12], weights[:12]), (given[12:], weights[12:])])
    assert_same_model(model, want)
    assert_allclose(model.score(given, sample_weight=weights), want.score(X, sample_weight=w), rtol=1e-12)
    model.partial_fit(given, sample_weight=weights)
    assert type(model.means_) is np.ndarray


def test_bad_rows_on_the_device_are_refused_as_those_on_the_host(k):
    for bad in (np.array([[1.0, 2], [np.inf, 3]]), np.ones(3), np.ones((1, 2)), np.ones((3, 2), complex)):
        said = []
        for X in (bad, cuda.to_device(bad)):
            with pytest.raises(ValueError) as e:
                GaussianMixture(device="cuda").fit(X)
            said.append(str(e.value))
        assert said[0] == said[1]


def test_rows_on_the_device_are_no_rows_for_the_cpu(k):
    X, _ = data("plain")
    given, want = cuda.to_device(X), fitted("cpu", X)
    before = state(want)
    for f in (want.fit, want.predict, want.score, want.partial_fit, want.impute):
        with pytest.raises(
            TypeError, match=r"X is on the GPU, and GaussianMixture has device='cpu'\. Try device='cuda', or"
        ):
            f(given)
    assert_same_state(state(want), before)


# ------------------------------------------------------------------------------------------------ which device
def test_auto_counts_passes_and_leaves_memory_maps_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "load", lambda *given: asked.append(given) or cpu)
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (60, 2))
    X[:] = np.random.default_rng(0).normal(size=X.shape)
    model = fitted("auto", X, max_iter=7)
    assert ("auto", 7 * 60 * 2 * 2 * 2, np.inf) in asked
    model.predict(np.array(X))
    assert asked[-1] == ("auto", 60 * 2 * 2 * 2, X.nbytes)


@simulated
def test_auto_is_never_the_simulator(k, monkeypatch):
    for work in (0, 2**30, np.inf):
        assert kernels.load("auto", work) is cpu
    monkeypatch.setattr(k.mixture, "statistics_full", None)
    X, _ = data("plain")
    assert_same_state(state(fitted("auto", X)), state(fitted("cpu", X)))


@pytest.mark.parametrize("device", ["gpu", "cuda:0", None])
def test_an_unknown_device_is_one_error_that_names_those_there_are(device):
    said = rf"^device must be one of \('cpu', 'cuda', 'auto'\), got {device!r}\.$"
    X, _ = data("plain")
    model = fitted("cpu", X).set_params(device=device)
    before = state(model)
    for f in (lambda: kernels.load(device), lambda: model.fit(X), lambda: model.predict(X), model.sample):
        with pytest.raises(ValueError, match=said):
            f()
    assert_same_state(state(model), before)


# ------------------------------------------------------------------------------------------------ what goes wrong
@pytest.mark.parametrize("name", ["statistics_full", "bound", "maximise_full"])
def test_ctrl_c_leaves_the_last_whole_step(k, name, monkeypatch):
    """Wherever in a step it comes: mostly while the bound is waited for."""
    X, _ = data("plain")
    want = fitted("cpu", X, max_iter=3)
    true, calls = getattr(k.mixture, name), 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls in (1, 7):  # in the start, and then in step 4 of the next fit, whose start makes two calls
            raise KeyboardInterrupt
        return true(*args)

    with monkeypatch.context() as patch:
        patch.setattr(k.mixture, name, interrupted)
        model = GaussianMixture(2, means_init=X[:2], tol=0, device="cuda")
        with pytest.raises(KeyboardInterrupt):
            model.fit(X)
        assert state(model) == {}
        with unsettled(), pytest.raises(KeyboardInterrupt, match="the model is that of EM step 3"):
            model.fit(X)
    assert_same_model(model, want)
    with unsettled():
        assert_same_model(model.set_params(max_iter=4).fit(X), fitted("cpu", X))


@type_
@pytest.mark.parametrize("how", [None, 0.3])
def test_an_em_step_reads_one_number_back(k, kind, how, monkeypatch):
    p = problem(kind, 2, 2, 30, F, how)
    objective, read, steps = p.objective(k, w=p.w), [], []
    start, array = objective.params(p.pi, p.mu, p.Sigma), type(k.empty(1, G))
    true, attribute = array.copy_to_host, getattr(array, "__getattr__", None)

    def asked_for(self, name):
        assert not name.startswith("__array"), "NumPy read an array of the device in passing"
        return attribute(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(array, "copy_to_host", lambda self, *a, **b: read.append(self.size) or true(self, *a, **b))
        if not GPU:
            patch.setattr(array, "__getattr__", asked_for)
        em(objective, start, max_iter=3, tol=0, eps=1e-7, tick=lambda bound: steps.append(len(read)))
    assert read == [1] * 4
    assert steps == [2, 3, 4]


def test_want_of_memory_amid_a_fit_leaves_the_model_and_the_next_fit_works(k, monkeypatch):
    X, _ = data("gaps", n=9)
    model = fitted("cuda", X, max_iter=1)
    before, true = state(model), cuda.device_array
    for nth in (1, 40, 80):
        calls = 0

        def device_array(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls in (nth, nth + 1):  # noqa: B023  (also after the garbage was collected)
                raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
            return true(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(cuda, "device_array", device_array)
            with (
                unsettled(),
                pytest.raises(
                    MemoryError,
                    match=r"^The GPU has no room for an array .*: wanted \d+ MiB, free .* MiB\. Try float32",
                ),
            ):
                model.set_params(max_iter=9).fit(X)
        assert_same_state(state(model), before)
    with unsettled():
        assert_same_model(model.set_params(max_iter=4).fit(X), fitted("cpu", X))
