"""CUDA kernels of logistic regression and relevance vector machines against their CPU twins, and the estimators with
device="cuda" against "cpu".

The twins add the same numbers, some in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum.
"""

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_logistic import some
from test_mixture import assert_same_state, state

from lvm import RelevanceVectorClassifier, RelevanceVectorRegressor, VariationalLogisticRegression, kernels
from lvm import relevance as estimators
from lvm.kernels.cuda import relevance as cuda_relevance
from lvm.kernels.cuda.api import cuda
from lvm.objectives import relevance as objective

F, G = np.float32, np.float64
TOL = {F: 3e-6, G: 1e-13}
T_ = pytest.mark.parametrize("T", [F, G])
cpu = kernels.load("cpu")
none = np.empty(0)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


@pytest.fixture(autouse=True)
def same_runs(monkeypatch):
    """Sums of a minibatch over as many rows at a time on both sets."""
    monkeypatch.setattr(cpu.relevance, "RUN", cuda_relevance.RUN)


def called(k, family, name, *args):
    """All arrays after a call of a kernel of the set k: NumPy's, as those given stay as they are."""
    given = [k.put(a.copy()) if isinstance(a, np.ndarray) else a for a in args]
    getattr(getattr(k, family), name)(*given)
    return [k.get(a) for a, b in zip(given, args) if isinstance(b, np.ndarray)]


def assert_twins(cuda_set, name, *args, tol, family="relevance"):
    """A kernel of the CUDA set leaves in all arrays what the CPU's does. -> these."""
    found = called(cuda_set, family, name, *args)
    for i, (got, want) in enumerate(zip(found, called(cpu, family, name, *args))):
        assert not np.isnan(want).any(), f"{name}, array {i}"
        assert_allclose(got, want, rtol=tol, atol=tol * np.abs(want).max(initial=0), err_msg=f"{name}, array {i}")
    return found


def new(shape, T=G):
    """An array to be filled: what is left out shows."""
    return np.full(shape, np.nan, T)


def signs(B, T=G, seed=9):
    return np.where(rng(seed).random(B) < 0.5, T(-1), T(1))


# ------------------------------------------------------------------------------------------------ one row, one thread
@T_
def test_expectations_are_those_of_the_cpu(cuda_set, T):
    m, v = some(150, T)  # a block and a part of one; narrow, wide and far out
    assert_twins(
        cuda_set, "expectation", m, v, *(new(150, T) for _ in range(3)), tol=100 * np.finfo(T).eps, family="logistic"
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_sites_are_those_of_the_cpu(cuda_set, weighted):
    m, v = some(150)
    w = rng(1).random(150) if weighted else none
    assert_twins(cuda_set, "sites", m, v, signs(150), w, *(new(150) for _ in range(3)), tol=1e-13)


def test_odds_are_those_of_the_cpu(cuda_set):
    m, v = some(150)
    got = assert_twins(cuda_set, "odds", m, v, new(150), tol=1e-13)[2]
    assert_array_equal(np.sign(got), np.sign(m))


# ------------------------------------------------------------------------------------------------ design matrices
@pytest.mark.parametrize("ones", [0, 1])
@pytest.mark.parametrize(("B", "D", "M", "T"), [(1, 1, 1, G), (70, 3, 2, F), (9, 5, 33, G), (5, 2, 70, F)])
def test_basis_functions_are_those_of_the_cpu(cuda_set, B, D, M, T, ones):
    X, C = rng().standard_normal((B, D)).astype(T), rng(1).standard_normal((D, M))
    for kind in (0.7, True, 0.0, 1), (0.3, False, 2.0, 3), (1.0, False, 0.0, 1):
        assert_twins(cuda_set, "basis", X, C, *kind, new((B, M + ones)), tol=1e-14)


@pytest.mark.parametrize(("B", "M"), [(1, 1), (300, 2), (9, 33), (3, 70)])
def test_moments_by_a_root_scaled_rows_and_columns_are_those_of_the_cpu(cuda_set, B, M):
    r = rng()
    Phi, which = r.standard_normal((B, M)), r.permutation(M)[: M // 2 + 1]
    assert_twins(cuda_set, "collect", Phi, new(B), new(B), tol=1e-14)
    assert_twins(cuda_set, "scale", Phi, r.random(B), new((B, M)), tol=0)
    assert_twins(cuda_set, "columns", Phi, which, new((B, len(which))), tol=0)


@pytest.mark.parametrize(("B", "M", "parts"), [(1, 1, 1), (33, 3, 2), (70, 300, 3), (300, 2, 3)])
def test_squares_of_columns_are_those_of_the_cpu(cuda_set, B, M, parts, monkeypatch):
    """Also where a part takes its rows again and again."""
    monkeypatch.setattr(cuda_relevance, "PARTS", 3)
    assert min(-(-B // cuda_relevance.RUN), 3) == parts
    assert_twins(cuda_set, "squares", rng().standard_normal((B, M)), new(M), tol=1e-14)


def test_arrays_without_rows_or_columns_are_nothing_to_do(k):
    wide, tall = np.empty((0, 3)), np.empty((3, 0))
    assert_twins(k, "collect", wide, none, none, tol=0)
    assert_twins(k, "scale", wide, none, wide, tol=0)
    assert_twins(k, "columns", np.ones((3, 2)), np.empty(0, np.int64), tall, tol=0)
    assert_twins(k, "odds", none, none, none, tol=0)
    assert_twins(k, "basis", wide, np.ones((3, 2)), 1.0, True, 0.0, 1, np.empty((0, 2)), tol=0)
    assert_array_equal(called(k, "relevance", "squares", wide, new(3))[1], 0)


# ------------------------------------------------------------------------------------------------ minibatches
class Batch:
    """Rows of all kinds, and a posterior, in any number of columns."""

    def __init__(self, N, D, more, T):
        r = rng(N + D)
        self.X = (3 + 2 * r.standard_normal((N, D))).astype(T)
        self.shift, self.factor = np.full(D, 3, T), r.uniform(0.3, 0.6, D).astype(T)
        self.mu, self.rho = r.standard_normal(D + more).astype(T), r.normal(-4, 3, D + more).astype(T)
        self.S = np.exp(self.rho)
        self.y, self.w, self.rows = signs(N, T), r.random(N).astype(T), r.permutation(N)


# around the sizes of groups and blocks: 1, 32 and 256 threads, runs of 32 rows
SIZES = [(1, 1, 0), (31, 2, 1), (33, 5, 1), (70, 33, 0), (3, 300, 1)]
sizes_ = pytest.mark.parametrize(("N", "D", "more"), SIZES)


@T_
@sizes_
def test_moments_and_variances_are_those_of_the_cpu(cuda_set, N, D, more, T):
    b, P = Batch(N, D, more, T), D + more
    assert_twins(cuda_set, "moments", b.X, b.shift, b.factor, b.mu, b.S, new(N, T), new(N, T), tol=TOL[T])
    for shared in (0, D):
        assert_twins(cuda_set, "spread", b.mu, b.rho, shared, new(P, T), new(P, T), tol=TOL[T])


@T_
@sizes_
def test_sums_over_a_minibatch_are_those_of_the_cpu(cuda_set, N, D, more, T):
    b, B = Batch(N, D, more, T), -(-N // 2) if N > 33 else N
    rows, out = b.rows[:B], new((-(-B // cuda_relevance.RUN), 2 * (D + more) + 2), T)
    for w, eps in (np.empty(0, T), np.empty(0, T)), (b.w, rng(3).standard_normal(B).astype(T)):
        args = b.X, rows, b.shift, b.factor, b.y, w, b.mu, b.S, eps, out
        assert_twins(cuda_set, "local", *args, tol=10 * TOL[T])


@T_
@pytest.mark.parametrize(("P", "runs"), [(1, 1), (3, 5), (255, 2), (257, 1)])
def test_gradients_are_those_of_the_cpu(cuda_set, P, runs, T):
    b, sums = Batch(1, P, 0, T), rng(4).standard_normal((runs, 2 * P + 2)).astype(T)
    alpha, totals = b.mu**2 + b.S, np.array([-3, 7], T)
    for counter in (0, 3, 9):  # the first step, one while the KL's weight still rises, and one after
        rule = np.array([counter]), 5, 0.02, 0.3
        assert_twins(cuda_set, "finish", b.mu, b.rho, sums, b.S, alpha, *rule, new(P, T), new(P, T), totals, tol=TOL[T])


def test_a_row_without_variance_has_no_slope_there(k):
    b = Batch(2, 3, 0, G)
    given = b.X, b.rows, b.shift, b.factor, b.y, none, b.mu, np.zeros(3), np.array([1.5, -2]), new((1, 8))
    assert_array_equal(assert_twins(k, "local", *given, tol=1e-12)[-1][0, 3:6], 0)


@T_
def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k, T):
    b, found = Batch(70, 40, 1, T), []
    for order in ("forward", "reverse"):
        if not GPU:
            import simulator

            simulator.install(order)
        out, alpha = new((3, 84), T), called(k, "relevance", "spread", b.mu, b.rho, 40, new(41, T), new(41, T))
        all_ = called(k, "relevance", "moments", b.X, b.shift, b.factor, b.mu, b.S, new(70, T), new(70, T))
        args = b.X, b.rows, b.shift, b.factor, b.y, b.w, b.mu, b.S, np.empty(0, T), out
        sums = called(k, "relevance", "local", *args)[-1]
        rest = np.array([2]), 5, 0.02, 0.3, new(41, T), new(41, T), np.zeros(2, T)
        all_ += [sums, *called(k, "relevance", "finish", b.mu, b.rho, sums, b.S, alpha[-1], *rest)]
        found.append(all_ + called(k, "relevance", "squares", b.X, new(40, T)) + alpha)
    for x, y in zip(*found):
        assert_array_equal(x, y)


# ------------------------------------------------------------------------------------------------ the estimators
FITTED = "coef_", "intercept_", "alpha_", "intercept_alpha_", "covariance_", "relevance_", "lower_bounds_"


def data(T=G, N=18, D=3, classes=2):
    """Rows, labels, targets, and weights that are sometimes 0."""
    r = rng(5)
    X = (r.standard_normal((N, D)) + [3, *np.zeros(D - 1)]).astype(T)
    y = r.integers(0, 3, N) if classes > 2 else (X[:, 0] + 0.5 * r.standard_normal(N) > 3).astype(int)
    return X, y, np.sinc(X[:, 1]) + 0.1 * r.standard_normal(N), r.integers(0, 3, N).astype(float)


def fitted(kind, device, X, y, weight=None, **params):
    """A fit of few steps."""
    params = {"max_iter": 2, "tol": 0, "random_state": 0} | params
    return kind(device=device, **params).fit(X, y, sample_weight=weight)


def assert_same_model(got, want, tol=1e-10):
    for name in FITTED:
        a, b = (np.asarray(getattr(m, name)) for m in (got, want))
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert_allclose(a, b, rtol=tol, atol=tol * np.abs(b).max(initial=1), err_msg=name)


def answers(model, X):
    """All that a model says of rows."""
    if isinstance(model, RelevanceVectorRegressor):
        return [model.predict(X), model.predict(X, return_std=True)[1]]
    return [model.predict_proba(X), model.predict_log_proba(X), model.decision_function(X)]


def assert_same_answers(got, want, X, tol=1e-10):
    for a, b in zip(answers(got, X), answers(want, X)):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        assert_allclose(a, b, rtol=tol, atol=tol * np.abs(b).max())


ADAM = {"solver": "adam", "covariance": "diag", "max_epochs": 2, "batch_size": 7}
FITS = [  # params, classes, weighted, T, tol
    ({}, 3, True, F, 1e-6),
    ({"covariance": "diag"}, 2, True, G, 1e-10),
    ({"prior": "gaussian", "fit_intercept": False}, 2, False, G, 1e-10),
    (ADAM, 2, True, G, 1e-10),
    (ADAM | {"expectation": "monte_carlo", "early_stopping": True, "kl_warmup_steps": 3}, 2, False, F, 1e-4),
    (ADAM | {"prior": "gaussian", "batch_size": 99, "class_weight": "balanced"}, 2, False, G, 1e-10),
]


@pytest.mark.parametrize(("params", "classes", "weighted", "T", "tol"), FITS)
def test_a_logistic_regression_is_that_on_the_cpu(k, params, classes, weighted, T, tol):
    X, y, _, w = data(T, classes=classes)
    got, want = (
        fitted(VariationalLogisticRegression, d, X, y, w if weighted else None, **params) for d in ("cuda", "cpu")
    )
    assert_same_model(got, want, tol)
    assert_same_answers(got, want, X[:9], tol)
    assert_array_equal(got.predict(X[:9]), want.predict(X[:9]))


def similar(A, B):
    return np.exp(-((A[:, None] - B) ** 2).sum(-1))


KERNELS = [
    ({"gamma": 0.5}, RelevanceVectorClassifier, G),
    ({"kernel": "poly", "gamma": 0.5, "degree": 2, "n_centres": 5}, RelevanceVectorRegressor, G),
    ({"kernel": "linear", "fit_intercept": False}, RelevanceVectorClassifier, F),
    ({"kernel": similar}, RelevanceVectorRegressor, F),
    ({"kernel": "precomputed"}, RelevanceVectorClassifier, G),
]


@pytest.mark.parametrize(("params", "kind", "T"), KERNELS)
def test_a_relevance_vector_machine_is_that_on_the_cpu(k, params, kind, T):
    X, y, target, w = data(T)
    X = similar(X, X).astype(T) if params.get("kernel") == "precomputed" else X
    y = target if kind is RelevanceVectorRegressor else y
    got, want = (fitted(kind, d, X, y, w, **params) for d in ("cuda", "cpu"))
    assert_same_model(got, want)
    assert_same_answers(got, want, X[:9])


@pytest.mark.parametrize("kind", [VariationalLogisticRegression, RelevanceVectorRegressor])
def test_with_many_columns_some_rows_of_H_are_made_as_on_the_cpu(k, kind, monkeypatch):
    monkeypatch.setattr(objective, "MANY", 3)
    monkeypatch.setattr(objective, "CANDIDATES", 2)
    X, y, target, w = data(D=5)
    more, y = ({}, y) if kind is VariationalLogisticRegression else ({"gamma": 0.5}, target)
    seen, true = [], k.relevance.squares  # of H no more than the diagonal is needed from the other columns
    monkeypatch.setattr(k.relevance, "squares", lambda *a: seen.append(a) or true(*a))
    got, want = (fitted(kind, d, X, y, w, **more) for d in ("cuda", "cpu"))
    assert seen
    assert_same_model(got, want)


@pytest.mark.parametrize("gamma", ["cv", "bound"])
def test_a_width_is_chosen_as_on_the_cpu(k, gamma, monkeypatch):
    monkeypatch.setattr(estimators, "OCTAVES", np.array([-1, 1]))
    monkeypatch.setattr(estimators, "FOLDS", 2)
    X, _, target, _ = data(N=9)
    got, want = (fitted(RelevanceVectorRegressor, d, X, target, gamma=gamma) for d in ("cuda", "cpu"))
    assert got.gamma_ == want.gamma_
    assert_same_model(got, want)


FULL = VariationalLogisticRegression, {}
DIAG = VariationalLogisticRegression, ADAM
RVM = RelevanceVectorRegressor, {"gamma": 0.5}


@pytest.mark.parametrize(("kind", "params"), [FULL, DIAG, RVM], ids=["full", "adam", "regressor"])
def test_rows_on_the_device_are_answered_there(k, kind, params):
    X, y, target, _ = data()
    y = target if kind is RelevanceVectorRegressor else y
    given = cuda.to_device(X)
    model, want = fitted(kind, "cuda", given, y, **params), fitted(kind, "cpu", X, y, **params)
    assert_same_model(model, want)
    for a, b in zip(answers(model, given), answers(want, X)):
        assert type(a) is type(given)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert_allclose(k.get(a), b, rtol=1e-10, atol=1e-10)
    assert_allclose(model.score(given, y), want.score(X, y), rtol=1e-12)
    assert_array_equal(k.get(given), X)


@pytest.mark.parametrize(("kind", "params"), [FULL, DIAG, RVM], ids=["full", "adam", "regressor"])
def test_a_fit_that_is_stopped_leaves_the_model(k, kind, params, monkeypatch):
    """Ctrl-C, and no room on the device."""
    X, y, target, _ = data(N=9)
    y = target if kind is RelevanceVectorRegressor else y
    model = fitted(kind, "cuda", X, y, **params)
    before, name = state(model), "finish" if params is ADAM else "scale"
    for wrong in (KeyboardInterrupt(), MemoryError("The GPU has no room")):

        def fails(*_, wrong=wrong):
            raise wrong

        with monkeypatch.context() as patch:
            patch.setattr(k.relevance, name, fails)
            with pytest.raises(type(wrong)):
                model.fit(X, y)
        assert_same_state(state(model), before)
