"""CUDA kernels of linear Gaussian models against their CPU twins, and ProbabilisticPCA(device="cuda") against "cpu".

The twins add the same numbers, some in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum. Inverses and stochastic steps carry such roundings on.
"""

import warnings

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_cuda_mixture import assert_same_model
from test_kernels_ppca import Problem, lower, rng
from test_mixture import assert_same_state, state, unsettled

from lvm import ProbabilisticPCA, kernels
from lvm.kernels.cuda import ppca as cuda_ppca
from lvm.kernels.cuda.api import cuda

F, G = np.float32, np.float64
TOL = {F: 3e-6, G: 1e-13}
T_ = pytest.mark.parametrize("T", [F, G])
cpu = kernels.load("cpu")


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


def called(k, name, *args):
    """All arrays after a call of a kernel of the set k: NumPy's, as those given stay as they are."""
    given = [k.put(a.copy()) if isinstance(a, np.ndarray) else a for a in args]
    getattr(k.ppca, name)(*given)
    return [k.get(a) for a, b in zip(given, args) if isinstance(b, np.ndarray)]


def assert_twins(cuda_set, name, *args, tol):
    """A kernel of the CUDA set leaves in all arrays what the CPU's does. -> these."""
    for i, (got, want) in enumerate(zip(called(cuda_set, name, *args), called(cpu, name, *args))):
        size = np.abs(np.nan_to_num(want)).max(initial=1)
        assert_allclose(got, want, rtol=tol, atol=tol * size, err_msg=f"{name}, array {i}")


def new(shape, T):
    """An array to be filled: what is left out shows."""
    return np.full(shape, np.nan, T)


# Around the sizes of groups and blocks: 1, 32 and 256 threads, runs of 128 rows.
SIZES = [  # N, D, d, gaps, T
    (1, 1, 1, False, G),
    (1, 5, 5, False, F),
    (1, 3, 2, True, F),
    (7, 1, 1, False, F),
    (9, 1, 2, True, G),
    (129, 5, 1, False, G),
    (40, 5, 3, True, F),
    (33, 33, 5, True, G),
    (300, 3, 5, False, F),
    (4, 300, 2, True, F),
    (3, 257, 1, False, G),
    (5, 2, 33, False, F),
    (40, 2, 3, True, G),
]
sizes_ = pytest.mark.parametrize(("N", "D", "d", "gaps", "T"), SIZES)


@sizes_
def test_rows_are_centered_and_weighed_as_on_the_cpu(cuda_set, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    for rows in (np.empty(0, np.int64), p.order[: N // 2 + 1]):
        assert_twins(cuda_set, "center", p.X, rows, p.mu.astype(T), new((len(rows) or N, D), T), tol=0)
    for s, more in ((np.empty(0), 0), (np.sqrt(p.w.astype(float)), 1)):
        assert_twins(cuda_set, "weigh", p.X, s, p.mu, new((N, D + more), G), tol=1e-15)


@sizes_
def test_posteriors_residuals_and_moments_are_those_of_the_cpu(cuda_set, N, D, d, gaps, T):
    p, r, tol = Problem(N, D, d, T, gaps), rng(1), TOL[T]
    U, q, e = len(p.first) - 1, d * (d + 1) // 2, (d + 1) * (d + 2) // 2
    seen = p.O[:, :-1] if gaps else np.ones((U, D))
    M = np.column_stack([lower(np.einsum("uo,oi,oj->uij", seen, p.W / p.psi[:, None], p.W)), seen @ np.log(p.psi)])
    M, C = M[:, : q + 1].copy(), p.packed_posterior()
    assert_twins(cuda_set, "posterior", M, d, new(M.shape, T), tol=10 * tol)
    X = C.astype(float)  # any numbers
    assert_twins(cuda_set, "means", r.standard_normal((N, d)).astype(T), X, p.first, new((N, d + 1), T), tol=tol)
    Y, Z, F_ = (r.standard_normal((N, n)).astype(T) for n in (D, d + 1, D))
    O, precision, log_px = p.O.astype(T), (1 / p.psi).astype(T), new(N, T)
    for w in (p.w, np.empty(0, T)):
        assert_twins(cuda_set, "residuals", Y, F_, O, precision, p.first, C, Z, w, log_px, tol=10 * tol)
    log_px, S = r.standard_normal(N).astype(T), new((U, e + q + 1), T)
    assert_twins(cuda_set, "moments", Z, C, p.first, p.w, log_px, S, tol=10 * tol)


def test_a_posterior_of_more_dimensions_than_threads(cuda_set):
    d, T = 131, G
    A = rng().standard_normal((d, d)) / np.sqrt(d)
    M = np.append(lower(A @ A.T), 3.0)[None]
    got, want = (called(k, "posterior", M, d, new(M.shape, T))[1] for k in (cuda_set, cpu))
    assert_allclose(got, want, rtol=TOL[T], atol=TOL[T])
    assert np.isfinite(got).all()
    d, C = 300, rng().standard_normal((1, 300 * 301 // 2 + 1))
    H, first = rng(1).standard_normal((2, d)), np.array([0, 2])
    assert_twins(cuda_set, "means", H, C, first, new((2, d + 1), T), tol=TOL[T])


@T_
def test_runs_of_any_length_that_begin_anywhere(cuda_set, T):
    """Most rows in one run, whose blocks have parts of it again and again; numbers from 1000 on, as of a block."""
    lengths, D, d, r = [1, 180, 2, 1, 3], 9, 2, rng(4)
    first, N, U, q = 1000 + np.append(0, np.cumsum(lengths)), sum(lengths), len(lengths), 3
    Y, F_, H, Z = (r.standard_normal((N, n)).astype(T) for n in (D, D, d, d + 1))
    C, O = r.standard_normal((U, q + 1)).astype(T), (r.random((U, D + 1)) < 0.7).astype(T)
    w, log_px = r.random(N).astype(T), r.standard_normal(N).astype(T)
    blocks, threads = cuda_ppca._by_row(N, U, 4)
    assert (blocks, threads) == (U, 3)  # of 16 rows: not enough for 180
    assert_twins(cuda_set, "means", H, C.astype(float), first, new((N, d + 1), T), tol=TOL[T])
    assert_twins(cuda_set, "residuals", Y, F_, O, np.ones(D, T), first, C, Z, w, new(N, T), tol=10 * TOL[T])
    assert_twins(cuda_set, "moments", Z, C, first, w, log_px, new((U, 6 + q + 1), T), tol=10 * TOL[T])


@T_
def test_a_row_beyond_the_range_of_squares_is_improbable_never_nan(k, T):
    p = Problem(4, 3, 1, T)
    Y = np.zeros((4, 3), T)
    Y[1], Y[2, 1] = np.finfo(T).max / 4, -1e30 if T is F else -1e200
    more = p.O.astype(T), np.ones(3, T), p.first, p.packed_posterior(), np.zeros((4, 2), T), np.empty(0, T)
    log_px = called(k, "residuals", Y, np.zeros((4, 3), T), *more, new(4, T))[-1]
    assert np.isfinite(log_px).all()
    assert (log_px[1:3] < -1e37).all()
    assert (log_px[[0, 3]] > -100).all()


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize(
    ("D", "d", "B", "weighted", "T"),
    [(1, 1, 1, False, F), (5, 3, 4, True, G), (260, 1, 2, True, F), (2, 1, 259, False, G)],
)
def test_stochastic_steps_are_those_of_the_cpu(cuda_set, D, d, B, weighted, T, isotropic, gaps):
    """Also more columns, and more rows of a batch, than threads. In two launches: rates and draws go on."""
    p = Problem(12, D, d, T, gaps)
    w = p.w.astype(float) * ~np.isnan(p.X).all(1) + 1e-3
    cumulated = np.cumsum(w) / w.sum() if weighted else np.empty(0)
    rate, psi = np.array([0.2, 7.0, 0.6, B]), np.full(D, 0.3) if isotropic else p.psi
    found = []
    for k in (cuda_set, cpu):
        theta = [k.put(a.copy()) for a in (p.W, p.mu, psi)]
        for step, steps in ((4, 2), (6, 1)):
            k.ppca.stochastic(
                k.put(p.X),
                k.put(cumulated),
                2**63 + 5,
                step,
                steps,
                rate,
                isotropic,
                *theta,
                k.put(np.zeros(theta[1].shape)),
            )
        found.append([k.get(a) for a in theta])
    for got, want, before in zip(*found, (p.W, p.mu, psi)):
        assert_allclose(got, want, rtol=1e-11, atol=1e-12)
        assert not np.array_equal(want, before)


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_step_changes_no_variance_by_more_than_e(k, isotropic):
    theta = [k.put(a) for a in (np.full((3, 1), 1e-3), np.zeros(3), np.ones(3))]
    X, none = k.put(np.full((1, 3), 1e6)), k.put(np.empty(0))
    k.ppca.stochastic(
        X, none, 0, 0, 1, np.array([0.5, 1.0, 0.5, 1]), isotropic, *theta, k.put(np.zeros(theta[1].shape))
    )
    assert_allclose(k.get(theta[2]), np.e)


def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k):
    p, found = Problem(40, 40, 3, F, True), []
    for order in ("forward", "reverse"):
        if not GPU:
            import simulator

            simulator.install(order)
        r, U = rng(2), len(p.first) - 1
        Y, F_, Z = (r.standard_normal((40, n)).astype(F) for n in (40, 40, 4))
        C, O, precision = p.packed_posterior(), p.O.astype(F), (1 / p.psi).astype(F)
        *_, log_px = all_ = called(k, "residuals", Y, F_, O, precision, p.first, C, Z, p.w, new(40, F))
        all_ += called(k, "moments", Z, C, p.first, p.w, log_px, new((U, 17), F))
        M = np.column_stack([np.tile(lower(np.eye(3)), (U, 1)), np.ones(U)])
        all_ += called(k, "posterior", M, 3, new((U, 7), F))
        theta = [k.put(a.copy()) for a in (p.W, p.mu, p.psi)]
        k.ppca.stochastic(
            k.put(p.X),
            k.put(np.empty(0)),
            3,
            0,
            2,
            np.array([0.2, 7.0, 0.6, 9]),
            True,
            *theta,
            k.put(np.zeros(theta[1].shape)),
        )
        found.append(all_ + [k.get(a) for a in theta])
    for a, b in zip(*found):
        assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------------ the estimator
def data(case, T=G, N=16, D=4):
    """Rows of two dimensions and noise, and weights or None."""
    r = rng(5)
    X = (r.standard_normal((N, 2)) @ r.standard_normal((2, D)) + 0.3 * r.standard_normal((N, D)) + 3).astype(T)
    if "gaps" in case:
        X[r.random((N, D)) < 0.2], X[5] = np.nan, np.nan
    return X, r.integers(0, 4, N) / 2 if "weights" in case else None


def fitted(device, X, weight=None, **params):
    """A fit of few steps."""
    with unsettled():
        params = {"max_iter": 2, "tol": 0, "random_state": 0, "n_draws": 60, "batch_size": 8} | params
        return ProbabilisticPCA(2, device=device, **params).fit(X, sample_weight=weight)


def on(device, model):
    """A copy of a fitted model that works on another device."""
    other = ProbabilisticPCA(**model.get_params() | {"device": device})
    other.__dict__ |= {name: v for name, v in vars(model).items() if name.endswith("_")}
    return other


FITS = [  # method, noise, case, T
    ("exact", "isotropic", "weights", F),
    ("em", "isotropic", "plain", G),
    ("em", "isotropic", "gaps, weights", F),
    ("em", "isotropic", "gaps", G),
    ("em", "diagonal", "weights", F),
    ("em", "diagonal", "gaps", G),
    ("stochastic_em", "isotropic", "gaps, weights", G),
    ("stochastic_em", "diagonal", "plain", F),
]


@pytest.mark.parametrize(("method", "noise", "case", "T"), FITS)
def test_a_fit_is_that_on_the_cpu(k, method, noise, case, T):
    X, w = data(case, T)
    got, want = (fitted(device, X, w, method=method, noise=noise) for device in ("cuda", "cpu"))
    assert_same_model(got, want, 1e-5 if T is F else 1e-10)


def test_a_fit_of_fewer_rows_than_columns_is_that_on_the_cpu(k):
    X, _ = data("plain", N=5, D=9)
    assert_same_model(fitted("cuda", X), fitted("cpu", X))
    assert_same_model(*(fitted(device, X, method="em") for device in ("cuda", "cpu")))


def test_the_kernels_room_changes_nothing_but_rounding(k, monkeypatch):
    """Blocks of one run each."""
    X, w = data("gaps, weights", N=12)
    want = fitted("cuda", X, w, max_iter=1)
    monkeypatch.setattr(cuda_ppca, "ROOM", 400)
    assert_same_model(fitted("cuda", X, w, max_iter=1), want)


@pytest.mark.parametrize("case", ["plain", "gaps"])
def test_learning_goes_on_as_on_the_cpu(k, case):
    X, _ = data(case)
    got, want = (fitted(device, X[:10]).partial_fit(X[10:], sample_weight=np.arange(6)) for device in ("cuda", "cpu"))
    assert_same_model(got, want)


@pytest.mark.parametrize(("case", "noise"), [("plain", "diagonal"), ("gaps", "isotropic")])
def test_answers_are_those_of_the_cpu(k, case, noise):
    X, _ = data(case)
    w, want = rng(4).integers(1, 4, len(X)), fitted("cpu", X, noise=noise, max_iter=50)
    got = on("cuda", want)
    for name in ("transform", "score_samples", "impute"):
        a, b = getattr(got, name)(X), getattr(want, name)(X)
        assert type(a) is np.ndarray
        assert_allclose(a, b, rtol=1e-10, atol=1e-12, err_msg=name)
    for pair in (lambda m: m.posterior(X), lambda m: m.impute(X, return_variance=True)):
        for a, b in zip(pair(got), pair(want)):
            assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    for name in ("score", "bic"):
        assert_allclose(getattr(got, name)(X, sample_weight=w), getattr(want, name)(X, sample_weight=w), rtol=1e-12)
    assert_allclose(got.sample(9), want.sample(9), rtol=1e-12, atol=1e-12)


def test_rows_of_gaps_alone_score_zero_and_transform_to_the_prior(k):
    X, _ = data("gaps")
    model = fitted("cuda", X)
    for rows in (X[5:6], X[4:7]):
        blank = np.isnan(rows).all(1)
        assert_array_equal(model.score_samples(rows)[blank], 0)
        assert_array_equal(model.transform(rows)[blank], 0)
        assert_array_equal(model.posterior(rows)[1][blank], np.eye(2)[None])


@pytest.mark.parametrize("case", ["plain", "gaps"])
def test_rows_on_the_device_are_taken_from_there_and_answers_are_there(k, case, monkeypatch):
    X, _ = data(case)
    given, read = cuda.to_device(X), []
    model, want = fitted("cuda", given), fitted("cpu", X)
    assert_same_model(model, want)
    true = k.ppca.center
    monkeypatch.setattr(k.ppca, "center", lambda x, *a: read.append(x) or true(x, *a))
    for method in ("transform", "score_samples", "impute"):
        got, b = getattr(model, method)(given), getattr(want, method)(X)
        assert type(got) is type(given), method
        assert (got.shape, got.dtype) == (b.shape, b.dtype)
        assert_allclose(k.get(got), b, rtol=1e-10, atol=1e-12)
    for a, b in zip(model.posterior(given), want.posterior(X)):
        assert type(a) is type(given)
        assert_allclose(k.get(a), b, rtol=1e-10, atol=1e-12)
    if case == "gaps":  # of complete rows the kernels get views
        assert len(read) > 3
        assert all(x is given for x in read)
    assert_allclose(model.score(given), want.score(X), rtol=1e-12)
    assert_array_equal(k.get(given), X)


@pytest.mark.parametrize("name", ["posterior", "moments", "stochastic"])
def test_a_fit_that_is_stopped_leaves_the_model(k, name, monkeypatch):
    """Ctrl-C, and no room on the device."""
    X, _ = data("gaps", N=8)
    model = fitted("cuda", X, method="stochastic_em" if name == "stochastic" else "em", max_iter=1)
    before = state(model)
    for wrong in (KeyboardInterrupt(), MemoryError("The GPU has no room")):

        def fails(*_, wrong=wrong):
            raise wrong

        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(k.ppca, name, fails)
            with pytest.raises(type(wrong)):
                model.fit(X)
        assert_same_state(state(model), before)
