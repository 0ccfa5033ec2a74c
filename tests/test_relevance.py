"""Variational logistic regression and relevance vector machines: bounds, fixed points, symmetries, hostile data."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest
from gradcheck import gradient
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    basis,
    logistic_slopes,
    relevance_bound,
    relevance_evidence,
    relevance_gradients,
)
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logit

import lvm
import lvm.objectives.relevance as objective
from lvm import RelevanceVectorClassifier, RelevanceVectorRegressor, VariationalLogisticRegression, kernels
from lvm.datasets import load_iris
from lvm.fit import newton
from lvm.kernels.shared.relevance import LARGEST
from lvm.objectives.relevance import Design, Logistic, Posterior, Regression
from lvm.parameters import Parameters


def squashed(A, B):
    return np.tanh(1 + A.astype(float) @ B.T.astype(float))


BOTH = {"full": True, "diag": False}
covariance_ = pytest.mark.parametrize("covariance", BOTH)
prior_ = pytest.mark.parametrize("prior", ["ard", "gaussian"])
CLASSIFIERS = {
    "linear": lambda **p: VariationalLogisticRegression(**p),
    "linear, diagonal": lambda **p: VariationalLogisticRegression(covariance="diag", **p),
    "linear, one alpha": lambda **p: VariationalLogisticRegression(prior="gaussian", **p),
    "linear, Adam": lambda **p: VariationalLogisticRegression(covariance="diag", solver="adam", random_state=0, **p),
    "rbf": lambda **p: RelevanceVectorClassifier(gamma=0.3, **p),
    "rbf, cv": lambda **p: RelevanceVectorClassifier(random_state=0, **p),
    "rbf, bound": lambda **p: RelevanceVectorClassifier(gamma="bound", **p),
    "kernel linear": lambda **p: RelevanceVectorClassifier(kernel="linear", **p),
    "kernel poly": lambda **p: RelevanceVectorClassifier(kernel="poly", gamma=0.5, **p),
    "kernel function": lambda **p: RelevanceVectorClassifier(kernel=squashed, **p),
}
NEWTON = {name: make for name, make in CLASSIFIERS.items() if "Adam" not in name}
newton_ = pytest.mark.parametrize("make", NEWTON.values(), ids=NEWTON)
STRAIGHT = {name: make for name, make in NEWTON.items() if name not in ("rbf, cv", "rbf, bound")}
straight_ = pytest.mark.parametrize("make", STRAIGHT.values(), ids=STRAIGHT)  # without a search for the width
every_ = pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
unsettled = pytest.mark.filterwarnings("ignore:The fit did not converge:lvm.ConvergenceWarning")


def rng(seed=0):
    return np.random.default_rng(seed)


def labelled(N=80, D=4, seed=0, strength=1.5):
    """X (N,D) and y of 0 and 1: every other column tells."""
    r = rng([1, seed, N, D])
    X = r.standard_normal((N, D))
    a = X[:, ::2].sum(1) * strength
    return X, (r.random(N) < expit(a + 0.5)).astype(int)


def sinc(N=100, noise=0.1, seed=0):
    r = rng([2, seed])
    x = r.uniform(-10, 10, N)
    return x[:, None], np.sinc(x / np.pi) + noise * r.standard_normal(N)


def problem(Phi, y, w=None, prior="ard", full=True, intercept=False, kind=Logistic):
    k = kernels.load("cpu")
    design = Design(k, *Phi.shape, lambda a, b, out: k.adam.assign(out, Phi[a:b]))
    w = np.empty(0) if w is None else w
    if kind is Regression:
        return Regression(k, k, design, y, w, intercept, prior)
    return Logistic(k, k, design, np.where(y > 0, 1.0, -1.0), w, intercept, prior, full)


def climbed(p, max_iter=300, tol=0.0, alpha=None):
    return newton(p, p.start(alpha), max_iter=max_iter, tol=tol)


def moments(q, D):
    """mean and the lower root of Sigma, of the active weights."""
    return q.mu, np.linalg.cholesky(q.covariance)


def state(model):
    return {name: copy.deepcopy(v) for name, v in vars(model).items() if name.endswith("_")}


def assert_same_state(a, b, but=()):
    assert a.keys() == b.keys()
    for name in a.keys() - set(but):
        assert_array_equal(a[name], b[name], err_msg=name)
        assert np.asarray(a[name]).dtype == np.asarray(b[name]).dtype, name


def assert_whole(model, X):
    """Every attribute is finite and of its shape, and answers are probabilities."""
    K, R, T = len(model.classes_), model.n_relevant_, X.dtype if X.dtype == np.float32 else np.float64
    C = 1 if K == 2 else K
    wide = R if isinstance(model, RelevanceVectorClassifier) else X.shape[1]
    full = getattr(model, "covariance", "full") == "full"
    shapes = {"coef_": (C, wide), "alpha_": (C, wide), "intercept_": (C,), "intercept_alpha_": (C,),
              "covariance_": (C, R + 1, R + 1) if full else (C, R + 1)}  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(model, name)
        assert value.shape == shape, name
        assert value.dtype == np.float64, name
        assert np.isfinite(value).all(), name
    assert getattr(model, "relevance_vectors_", np.empty(0, T)).dtype == T
    assert model.relevance_.shape == (R,)
    assert len(np.unique(model.relevance_)) == R
    assert np.all(model.alpha_ >= 0)
    assert np.isfinite([model.lower_bound_, *model.lower_bounds_]).all()
    assert model.lower_bound_ == model.lower_bounds_[-1]
    assert model.n_iter_ <= len(model.lower_bounds_)
    p = model.predict_proba(X)
    assert p.shape == (len(X), K)
    assert p.dtype == T
    assert np.all((p >= 0) & (p <= 1))
    assert_allclose(p.sum(1), 1, rtol=10 * np.finfo(T).eps)
    sure = p.max(1) > np.sort(p, axis=1)[:, -2] + 1e-6  # where two classes tie, rounding tells
    assert_array_equal(model.predict(X)[sure], model.classes_[p.argmax(1)][sure])
    assert np.isfinite(model.decision_function(X)).all()
    assert np.isfinite(model.predict_log_proba(X)).all()


# ------------------------------------------------------------------------------------------------ the bound
@covariance_
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bound_after_each_step_is_that_of_its_posterior(covariance, weighted):
    X, y = labelled(40, 5)
    w = rng(1).gamma(1.0, size=40) if weighted else None
    p = problem(X, y, w, full=BOTH[covariance])
    point = p.start()
    assert point.bound == pytest.approx(-np.log(2), rel=1e-14)
    for rho in (1.0, 1.0, 0.5, 0.25, 1.0, 1e-3):
        point = p.step(point, rho)
        q, a = point.q, point.q.active
        mu, C = moments(q, 5)
        want = relevance_bound(X[:, a], p.y, np.ones(40) if w is None else w, mu, C, point.alpha[a])
        assert_allclose(point.bound * p.weight, want, rtol=1e-11)
        assert_allclose(q.log_det, np.linalg.slogdet(q.covariance)[1], rtol=1e-10, atol=1e-10)
        assert_allclose(q.variances, np.diag(q.covariance), rtol=1e-13)
        assert_array_equal(np.flatnonzero(point.alpha), a)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_below_the_evidence_and_full_covariance_above_diagonal(seed):
    """D = 2 with correlated columns, so that the evidence is an integral over the plane; also with weights of rows."""
    r = rng([3, seed])
    X = r.standard_normal((25, 2)) @ [[1, 0.8], [0, 0.6]] * 10.0 ** r.uniform(-1, 1)
    y, w = np.where(r.random(25) < expit(X @ r.standard_normal(2)), 1.0, -1.0), r.integers(1, 4, 25).astype(float)
    w = w if seed % 2 else np.ones(25)
    alpha = r.gamma(1.0, size=2) / X.var(0) * 5
    exact = lambda q, a: relevance_evidence(X, y, w, a, q.mu, np.linalg.cholesky(q.covariance))
    best = {}
    for full in (True, False):
        p = problem(X, y, w, full=full)
        q = Posterior(np.arange(2), np.zeros(2), np.sqrt(alpha) * (np.eye(2) if full else np.ones(2)), 0.0)
        for _ in range(100):  # alpha held: q alone
            _, sites = p._sites(q, np.arange(2))
            q = objective.posterior(np.arange(2), sites.H, sites.h, alpha, full)
        F, _ = p._sites(q, np.arange(2))
        best[full] = F - objective.divergence(q, alpha)
        evidence = exact(q, alpha)
        assert best[full] < evidence
        for moved in (q._replace(mu=q.mu * 1.1), q._replace(mu=q.mu - 0.1), q._replace(root=q.root * 0.9,
                      log_det=q.log_det + 4 * np.log(0.9))):  # fmt: skip
            F, _ = p._sites(moved, np.arange(2))
            assert F - objective.divergence(moved, alpha) < best[full]
    assert best[True] > best[False] + 1e-6
    assert best[True] > evidence - 0.5  # and it is a good one
    ends = [climbed(problem(X, y, w, full=full)) for full in (True, False)]
    assert ends[0].bound >= ends[1].bound - 1e-10
    for end in ends:
        a = end.params.alpha
        if len(end.params.q.mu) == 2:
            assert end.bound * w.sum() < exact(end.params.q, a)


@covariance_
@pytest.mark.parametrize("seed", range(3))
def test_at_the_end_every_gradient_is_zero(covariance, seed):
    X, y = labelled(60, 5, seed)
    p = problem(X, y, full=BOTH[covariance])
    end = climbed(p).params
    a = end.q.active
    mu, C = moments(end.q, 5)
    in_mu, in_root, in_alpha = relevance_gradients(X[:, a], p.y, np.ones(60), mu, C, end.alpha[a])
    assert_allclose(in_mu, 0, atol=2e-4)
    assert_allclose(in_alpha * end.alpha[a], 0, atol=2e-4)
    assert_allclose(np.diag(in_root) if covariance == "diag" else in_root, 0, atol=2e-4)
    assert_allclose(end.alpha[a], mu**2 + np.diag(C @ C.T), rtol=2e-4)
    _, l = logistic_slopes(p.y * (X[:, a] @ mu), ((X[:, a] @ C) ** 2).sum(1))
    precision = (X[:, a] * l[:, None]).T @ X[:, a] + np.diag(1 / end.alpha[a])
    if covariance == "full":
        assert_allclose(end.q.covariance @ precision, np.eye(len(a)), atol=1e-4)
    else:
        assert_allclose(np.diag(end.q.covariance), 1 / np.diag(precision), rtol=1e-4)


def test_the_optimum_is_that_of_a_general_optimiser_of_the_reference():
    """L-BFGS over mu, log of the diagonal of C and the rest of it, and log alpha: it finds no more, and as much."""
    X, y = labelled(50, 3, seed=2, strength=1.0)
    s, low = np.where(y > 0, 1.0, -1.0), np.tril_indices(3, -1)
    one = np.ones(50)

    def parts(x):
        C = np.diag(np.exp(x[3:6]))
        C[low] = x[6:9]
        return x[:3], C, np.exp(x[9:])

    def value(x):
        mu, C, alpha = parts(x)
        in_mu, in_root, in_alpha = relevance_gradients(X, s, one, mu, C, alpha)
        g = np.concatenate([in_mu, np.diag(in_root) * np.diag(C), in_root[low], in_alpha * alpha])
        return -relevance_bound(X, s, one, mu, C, alpha), -g

    p = problem(X, y)
    end = climbed(p)
    assert len(end.params.q.active) == 3  # else the optimiser, which prunes nothing, is at another point
    found = minimize(value, np.r_[np.zeros(3), -np.ones(3), np.zeros(6)], jac=True, method="L-BFGS-B",
                     options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-8})  # fmt: skip
    mu, C, alpha = parts(found.x)
    assert_allclose(end.bound * 50, -found.fun, rtol=1e-8)
    assert_allclose(end.params.q.mu, mu, rtol=1e-3)
    assert_allclose(end.params.q.covariance, C @ C.T, rtol=2e-3, atol=1e-5)
    assert_allclose(end.params.alpha, alpha, rtol=2e-3)


class Counting:
    """An objective that counts shortened steps."""

    def __init__(self, p):
        self.p, self.shortened = p, 0

    def step(self, point, rho):
        self.shortened += rho < 1
        return self.p.step(point, rho)


@covariance_
@prior_
def test_the_bound_never_falls_also_where_steps_are_too_long(covariance, prior):
    """Few rows and many columns, separable: there whole steps overshoot."""
    shortened = 0
    for seed in range(6):
        r = rng([4, seed])
        X = r.standard_normal((12, 15)) * 10.0 ** r.uniform(-2, 2, 15)
        p = Counting(problem(X, rng(seed).random(12) < 0.5, prior=prior, full=BOTH[covariance]))
        start = p.p.start()
        end = newton(p, start, max_iter=60, tol=0)
        trace = np.r_[start.bound, end.bounds]
        assert np.all(np.diff(trace) >= -1e-12)
        shortened += p.shortened
    if prior == "ard":
        assert shortened > 0


@covariance_
def test_a_short_enough_step_is_uphill_and_a_shorter_one_gains_less(covariance):
    X, y = labelled(30, 6, 2)
    p = problem(X, y, full=BOTH[covariance])
    point = p.step(p.start(), 1.0)
    gains = [p.step(point, rho).bound - point.bound for rho in (1e-3, 1e-2, 1e-1)]
    assert np.all(np.diff([0, *gains]) > 0)


# ------------------------------------------------------------------------------------------------ many columns
def wide(N=60, D=400, seed=0):
    """Two columns of D tell."""
    r = rng([5, seed])
    X = r.standard_normal((N, D))
    return X, (r.random(N) < expit(5 * X[:, 3] - 5 * X[:, D - 4])).astype(int)


@covariance_
def test_with_rows_of_h_for_candidates_alone_the_answer_is_the_same(covariance, monkeypatch):
    """All of the 12 columns in 3 at a time; the bound at rest, where no column promises more, is as high."""
    X, y = labelled(100, 12)
    want = climbed(problem(X, y, full=BOTH[covariance]), tol=1e-9)
    monkeypatch.setattr(objective, "MANY", 4)
    monkeypatch.setattr(objective, "CANDIDATES", 3)
    got = climbed(problem(X, y, full=BOTH[covariance]), tol=1e-9)
    assert_allclose(got.bound, want.bound, atol=1e-6)  # both stop 1e-9 short in a step, of which there are many
    assert_array_equal(got.params.q.active, want.params.q.active)
    assert_allclose(got.params.q.mu, want.params.q.mu, atol=2e-2)


@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_where_some_rows_of_h_lead_all_of_them_lead_no_further(kind):
    """800 columns of 30 rows. (Begun with all of H, the fit may end at another maximum.)"""
    X, y = wide(30, 800)
    if kind == "targets":
        y = X[:, 3] - X[:, 796] + 0.1 * rng(1).standard_normal(30)
        y -= y.mean()
    make = lambda: problem(X, y, kind=Logistic if kind == "classes" else Regression)
    got = climbed(make(), tol=1e-5)
    assert len(got.params.q.active) < 30
    assert {3, 796} <= set(got.params.q.active) or kind == "classes"
    whole, point, every = make(), got.params, np.arange(800)
    if kind == "classes":
        point = point._replace(sites=whole._sites(point.q, every)[1])
    assert whole.step(point._replace(which=every) if kind == "targets" else point, 1.0).bound < got.bound + 1e-4


def test_no_square_matrix_is_made_of_many_columns():
    import tracemalloc

    X, y = wide(30, 20_000)
    VariationalLogisticRegression(max_iter=2, tol=1).fit(X[:, :70], y)
    tracemalloc.start()
    model = VariationalLogisticRegression(max_iter=20, tol=1e-3).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # 3.2 GB would be one
    assert np.isfinite(model.lower_bound_)


# ------------------------------------------------------------------------------------------------ symmetries
def same_model(a, b, rtol=1e-6):
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=rtol)
    assert_array_equal(b.relevance_, a.relevance_)
    for name in ("coef_", "intercept_", "alpha_", "covariance_"):
        want = getattr(a, name)
        assert_allclose(getattr(b, name), want, rtol=rtol, atol=rtol * np.abs(want).max(), err_msg=name)


def linear(**params):
    return VariationalLogisticRegression(tol=1e-10, **params)


@covariance_
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_relevance_determination_knows_no_units(covariance, scale):
    X, y = labelled()
    s = np.array([scale, 1, 1 / scale, 1])
    a, b = (linear(covariance=covariance).fit(Z, y) for Z in (X, X * s))
    assert_array_equal(b.relevance_, a.relevance_)
    assert_allclose(b.coef_ * s, a.coef_, rtol=1e-5, atol=1e-6)
    assert_allclose(b.alpha_ * s**2, a.alpha_, rtol=1e-5, atol=1e-6)
    assert_allclose(b.predict_proba(X * s), a.predict_proba(X), rtol=1e-6)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("prior", ["ard", "gaussian"])
def test_one_unit_of_all_columns_does_not_matter(prior, scale):
    X, y = labelled()
    a, b = (linear(prior=prior).fit(Z, y) for Z in (X, X * scale))
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-6)
    assert_allclose(b.predict_proba(X * scale), a.predict_proba(X), atol=1e-3)


@covariance_
@prior_
def test_an_offset_of_a_column_does_not_matter(covariance, prior):
    X, y = labelled()
    X = np.round(X * 2**20) / 2**20  # sums with 1e8 are exact
    a, b = (linear(covariance=covariance, prior=prior).fit(Z, y) for Z in (X, X + 1e8))
    assert_allclose(b.coef_, a.coef_, rtol=1e-6, atol=1e-7)
    assert_allclose(b.centred_intercept_, a.centred_intercept_, rtol=1e-6)
    assert_allclose(b.decision_function(X + 1e8), a.decision_function(X), rtol=1e-6, atol=1e-7)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-9)


@covariance_
def test_the_order_of_rows_and_columns_does_not_matter(covariance):
    X, y = labelled()
    a = linear(covariance=covariance).fit(X, y)
    rows = rng().permutation(len(X))
    same_model(a, linear(covariance=covariance).fit(X[rows], y[rows]))
    columns = [3, 1, 0, 2]
    b = linear(covariance=covariance).fit(X[:, columns], y)
    assert_allclose(b.coef_, a.coef_[:, columns], rtol=1e-3, atol=1e-4)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-8)
    assert set(np.array(columns)[b.relevance_]) == set(a.relevance_)


@pytest.mark.parametrize("gamma", [0.3, "cv", "bound"])
def test_the_order_of_rows_does_not_change_a_bit_of_a_vector_machine(gamma):
    X, y = labelled(60, 2)
    rows = rng().permutation(60)
    a = RelevanceVectorClassifier(gamma=gamma, random_state=0).fit(X, y)
    b = RelevanceVectorClassifier(gamma=gamma, random_state=0).fit(X[rows], y[rows])
    assert_same_state(state(a), state(b), but=["relevance_"])
    assert_array_equal(rows[b.relevance_], a.relevance_)


@newton_
@unsettled
def test_weight_two_is_the_row_twice_and_weight_nought_no_row(make):
    X, y = labelled(50, 2)
    w = rng().integers(0, 4, 50)
    a = make(tol=1e-9).fit(X, y, sample_weight=w)
    b = make(tol=1e-9).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    c = make(tol=1e-9).fit(X[w > 0], y[w > 0], w[w > 0])
    for other in (b, c):
        assert other.n_relevant_ == a.n_relevant_
        assert_allclose(other.lower_bound_, a.lower_bound_, rtol=1e-9)
        assert_allclose(other.predict_proba(X), a.predict_proba(X), rtol=1e-5, atol=1e-7)


@every_
@unsettled
def test_weights_of_one_are_none_and_class_weights_are_weights_of_rows(make):
    X, y = labelled(50, 2)
    a, b = make().fit(X, y), make().fit(X, y, np.ones(50))
    assert_same_state(state(a), state(b))
    a = make(class_weight={0: 0.5, 1: 3}).fit(X, y)
    b = make().fit(X, y, np.where(y, 3.0, 0.5))
    assert_same_state(state(a), state(b))
    w = rng().random(50)
    a = make(class_weight="balanced").fit(X, y, w)
    share = np.array([w[y == c].sum() for c in (0, 1)])
    b = make().fit(X, y, w * w.sum() / (2 * share[y]))
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-6)


@every_
@unsettled
def test_names_of_labels_do_not_matter(make):
    X, y = labelled(50, 2)
    a = make().fit(X, y)
    for names in (["a", "b"], [-5, 7], [False, True], [0.0, 1.0], ["", "ü"], [2**60, 2**62]):
        names = np.array(names)
        b = make().fit(X, names[y])
        assert_same_state(state(a), state(b), but=["classes_"])
        assert b.classes_.tolist() == names.tolist()
        assert b.predict(X).dtype == b.classes_.dtype
        assert_array_equal(b.predict(X), names[a.predict(X)])
        assert b.score(X, names[y]) == a.score(X, y)


@straight_
@unsettled
def test_the_other_class_first_gives_the_other_sign(make):
    X, y = labelled(50, 2)
    a, b = make(tol=1e-9).fit(X, y), make(tol=1e-9).fit(X, 1 - y)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-7)
    if a.n_relevant_ == b.n_relevant_:
        assert_allclose(b.predict_proba(X)[:, ::-1], a.predict_proba(X), atol=1e-3)


@every_
@unsettled
def test_fit_twice_gives_the_same_bits_and_float32_nearly_those_of_float64(make):
    X, y = labelled(60, 3)
    model = make().fit(X, y)
    first = state(model)
    assert_same_state(first, state(model.fit(X, y)))
    got = make().fit(X.astype(np.float32), y)
    assert_whole(got, X.astype(np.float32))
    assert_allclose(got.lower_bound_, model.lower_bound_, rtol=1e-4)
    assert_allclose(got.predict_proba(X.astype(np.float32)), model.predict_proba(X), atol=5e-3)


# ------------------------------------------------------------------------------------------------ answers
def phi_of(model, X):
    """The columns of all weights, the intercept's last; coef_ and covariance_ are of these."""
    if isinstance(model, VariationalLogisticRegression):
        Z = X[:, model.relevance_] - model.mean_[model.relevance_]
        return Z, model.coef_[:, model.relevance_], model.centred_intercept_
    vectors, g = model.relevance_vectors_, model.gamma_
    kinds = {"rbf": (g, True, 0, 1), "linear": (1.0, False, 0, 1), "poly": (g, False, model.coef0, model.degree)}
    mean = model.mean_ if model.kernel in ("linear", "poly") else 0
    f = model.kernel if callable(model.kernel) else lambda A, B: basis(A - mean, B - mean, *kinds[model.kernel])
    Phi = f(X, vectors)
    return Phi, model.coef_, model.intercept_


@every_
@unsettled
def test_probabilities_are_means_over_the_posterior(make):
    """A million draws of the weights: within 4 standard errors, and 4 numbers are rounded more coarsely than that."""
    X, y = labelled(40, 2, strength=3)
    model = make().fit(X, y)
    Phi, coef, intercept = phi_of(model, X[:6])
    Phi, r = np.column_stack([Phi, np.ones(6)]), rng(3)
    mu, S = np.append(coef[0], intercept[0]), model.covariance_[0]
    S = np.diag(S) if S.ndim == 1 else S
    v, U = np.linalg.eigh(S)
    draws = np.zeros(6), np.zeros(6)
    for _ in range(20):
        p = expit(Phi @ (mu[:, None] + (U * np.sqrt(np.maximum(v, 0))) @ r.standard_normal((len(mu), 50_000))))
        draws = draws[0] + p.sum(1), draws[1] + (p * p).sum(1)
    mean = draws[0] / 1e6
    error = np.sqrt((draws[1] / 1e6 - mean**2) / 1e6)
    assert np.all(np.abs(model.predict_proba(X[:6])[:, 1] - mean) < 4 * error + 1e-9)
    plug_in = expit(Phi @ mu)
    assert np.abs(plug_in - model.predict_proba(X[:6])[:, 1]).max() > 20 * error.max()  # it is no plug-in


@every_
@unsettled
def test_decisions_are_logits_of_probabilities_and_of_integrated_moments(make):
    X, y = labelled(40, 2)
    model = make().fit(X, y)
    assert_whole(model, X)
    d = model.decision_function(X)
    assert_allclose(logit(model.predict_proba(X)[:, 1]), d, rtol=1e-9, atol=1e-12)
    assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-9, atol=1e-14)
    Phi, coef, intercept = phi_of(model, X)
    Phi = np.column_stack([Phi, np.ones(40)])
    S = model.covariance_[0]
    S = np.diag(S) if S.ndim == 1 else S
    m, v = Phi @ np.append(coef[0], intercept[0]), np.einsum("ni,ij,nj->n", Phi, S, Phi)
    if isinstance(model, VariationalLogisticRegression):
        assert_allclose(X @ model.coef_[0] + model.intercept_[0], m, rtol=1e-9, atol=1e-12)
    assert_allclose(d, np.log(logistic_slopes(-m, v)[0] / logistic_slopes(m, v)[0]), rtol=1e-8, atol=1e-9)
    assert_array_equal(model.predict(X), (d > 0).astype(int))
    assert model.score(X, y) == np.mean(model.predict(X) == y)
    w = rng().random(40)
    assert_allclose(model.score(X, y, w), np.average(model.predict(X) == y, weights=w))


@newton_
@unsettled
def test_the_bound_reported_is_that_of_the_attributes(make):
    X, y = labelled(40, 2)
    w = rng().gamma(2.0, size=40)
    model = make().fit(X, y, w)
    Phi, coef, intercept = phi_of(model, X)
    Phi, alpha = np.column_stack([Phi, np.ones(40)]), np.append(model.alpha_[0], model.intercept_alpha_[0])
    if isinstance(model, VariationalLogisticRegression):
        alpha = alpha[np.append(model.relevance_, X.shape[1])]
    some, S = alpha > 0, model.covariance_[0]
    C = np.linalg.cholesky((np.diag(S) if S.ndim == 1 else S)[np.ix_(some, some)])
    mu = np.append(coef[0], intercept[0])[some]
    want = relevance_bound(Phi[:, some], 2.0 * y - 1, w, mu, C, alpha[some])
    assert_allclose(model.lower_bound_, want / w.sum(), rtol=1e-8)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    assert model.converged_


def test_more_than_two_classes_are_each_against_the_rest_over_their_sum():
    X, y = load_iris()[::2], np.repeat(["setosa", "versicolor", "virginica"], 25)
    for make in (linear, lambda: RelevanceVectorClassifier(gamma=0.5)):
        model = make().fit(X, y)
        assert_whole(model, X)
        assert model.score(X, y) > 0.94
        d, p = model.decision_function(X), model.predict_proba(X)
        assert d.shape == p.shape == (75, 3)
        assert_allclose(p, expit(d) / expit(d).sum(1, keepdims=True), rtol=1e-10)
        total = 0.0
        for c, name in enumerate(model.classes_):
            one = make().fit(X, y == name)
            total += one.lower_bound_
            assert_allclose(d[:, c], one.decision_function(X), rtol=1e-6, atol=1e-8)
            assert set(one.relevance_) <= set(model.relevance_)
        assert_allclose(model.lower_bound_, total, rtol=1e-12)
        assert np.all(np.diff(model.lower_bounds_) >= -1e-12)


@every_
@unsettled
def test_a_row_alone_has_the_answer_it_has_in_company(make):
    X, y = labelled(40, 2)
    model = make().fit(X, y)
    alone = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(40)])
    assert_allclose(alone, model.predict_proba(X), rtol=1e-12)
    assert_allclose(model.predict_proba(X[::-1])[::-1], model.predict_proba(X), rtol=1e-12)


def test_blocks_of_rows_give_what_all_rows_at_once_give(monkeypatch):
    X, y = labelled(3000, 6)
    want = linear().fit(X, y)
    p = want.predict_proba(X)
    monkeypatch.setattr(objective, "KEPT", 0)
    monkeypatch.setattr(kernels.load("cpu").relevance, "ROOM", 8 * 7 * 600)
    same_model(want, linear().fit(X, y))
    assert_allclose(want.predict_proba(X), p, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ simulated truth
def test_columns_that_tell_are_found_and_the_others_pruned():
    X, y = wide(400, 50)
    for covariance in BOTH:
        model = VariationalLogisticRegression(covariance=covariance).fit(X, y)
        assert {3, 46} <= set(model.relevance_)
        assert model.n_relevant_ < 25
        gone = np.setdiff1d(np.arange(50), model.relevance_)
        assert_array_equal(model.coef_[0, gone], 0)
        assert_array_equal(model.alpha_[0, gone], 0)
        assert_allclose(model.coef_[0, [3, 46]], [5, -5], atol=2.5)


def test_with_many_rows_the_posterior_is_that_of_maximum_likelihood():
    """N = 20000: mu within a tenth of a standard deviation of the estimate of scipy, Sigma the inverse information."""
    X, y = labelled(20_000, 3, strength=0.5)
    s, Z = 2.0 * y - 1, np.column_stack([X - X.mean(0), np.ones(20_000)])
    loss = lambda w: (np.logaddexp(0, -s * (Z @ w)).sum(), -Z.T @ (s * expit(-s * (Z @ w))))
    best = minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-6}).x
    p = expit(Z @ best)
    S = np.linalg.inv((Z * (p * (1 - p))[:, None]).T @ Z)
    model = linear(prior="gaussian").fit(X, y)
    got = np.append(model.coef_[0], model.centred_intercept_[0])
    assert np.all(np.abs(got - best) < 0.1 * np.sqrt(np.diag(S)))
    assert_allclose(model.covariance_[0], S, rtol=0.02, atol=0.02 * S.max())


def test_the_gaussian_prior_shares_one_alpha_which_is_the_mean_square():
    X, y = labelled(100, 5)
    for covariance in BOTH:
        model = linear(prior="gaussian", covariance=covariance).fit(X, y)
        S = model.covariance_[0] if covariance == "diag" else np.diag(model.covariance_[0])
        assert len(np.unique(model.alpha_)) == 1
        assert model.n_relevant_ == 5
        assert_allclose(model.alpha_[0, 0], np.mean(model.coef_[0] ** 2 + S[:5]), rtol=1e-3)
        assert_allclose(model.intercept_alpha_[0], model.centred_intercept_[0] ** 2 + S[5], rtol=1e-3)


def test_two_rings_need_a_kernel_and_few_vectors():
    r = rng(6)
    angle, radius = r.uniform(0, 2 * np.pi, 200), np.where(np.arange(200) < 100, 1.0, 2.0)
    X = (radius + 0.15 * r.standard_normal(200))[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    y = radius > 1.5
    model = RelevanceVectorClassifier(gamma=1.0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.97
    assert model.n_relevant_ < 15
    assert_array_equal(model.relevance_vectors_, X[::2][model.relevance_])
    assert VariationalLogisticRegression().fit(X[::2], y[::2]).score(X[1::2], y[1::2]) < 0.7
    assert (
        RelevanceVectorClassifier(kernel="poly", degree=2, gamma=1).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.97
    )


def test_a_precomputed_kernel_is_the_kernel():
    X, y = labelled(50, 2)
    order = np.lexsort(X.T[::-1])  # in which a machine takes its rows
    X, y = X[order], y[order]
    K = basis(X, X, 0.3, True, 0, 1)
    a = RelevanceVectorClassifier(gamma=0.3).fit(X, y)
    b = RelevanceVectorClassifier(kernel="precomputed").fit(K, y)
    c = RelevanceVectorClassifier(kernel=lambda A, B: basis(A, B, 0.3, True, 0, 1)).fit(X, y)
    same_model(a, b)
    same_model(a, c)
    new = rng().standard_normal((7, 2))
    assert_allclose(b.predict_proba(basis(new, X, 0.3, True, 0, 1)), a.predict_proba(new), rtol=1e-6)
    assert_allclose(c.predict_proba(new), a.predict_proba(new), rtol=1e-6)
    assert not hasattr(b, "relevance_vectors_")
    w = (np.arange(50) % 3 > 0).astype(float)
    d = RelevanceVectorClassifier(kernel="precomputed").fit(K, y, w)
    assert np.all(w[d.relevance_] > 0)
    e = RelevanceVectorClassifier(gamma=0.3).fit(X, y, w)
    assert_allclose(d.predict_proba(K), e.predict_proba(X), rtol=1e-6)
    assert_array_equal(d.relevance_, e.relevance_)


def test_centres_are_as_many_as_allowed_and_rows_of_x():
    X, y = labelled(300, 2)
    model = RelevanceVectorClassifier(gamma=0.5, n_centres=20, random_state=0).fit(X, y)
    assert model.n_relevant_ <= 20
    assert_array_equal(model.relevance_vectors_, X[model.relevance_])
    assert model.score(X, y) > 0.7
    assert RelevanceVectorClassifier(gamma=0.5, n_centres=1, random_state=0).fit(X, y).n_relevant_ <= 1


def test_gamma_by_cross_validation_is_near_that_of_the_truth_and_by_the_bound_not_wider():
    X, y = sinc(60)
    cv = RelevanceVectorRegressor(random_state=0).fit(X, y)
    assert 0.02 < cv.gamma_ < 2
    assert RelevanceVectorRegressor(gamma=cv.gamma_).fit(X, y).lower_bound_ == cv.lower_bound_
    bound = RelevanceVectorRegressor(gamma="bound").fit(X, y)
    assert bound.lower_bound_ >= cv.lower_bound_ - 1e-9
    for cls in (RelevanceVectorClassifier, RelevanceVectorRegressor):
        for gamma in (1, 1.0, np.float32(1), np.int64(1)):
            assert cls(gamma=gamma).fit(X, y > 0).gamma_ == 1


# ------------------------------------------------------------------------------------------------ regression
def dense(model, X, y, w=None):
    """log N(y | mean of y, noise + Phi A Phi') of the attributes, a row of weight w being one of noise sigma²/w."""
    Phi = np.column_stack([basis(X, model.relevance_vectors_, model.gamma_, True, 0, 1), np.ones(len(X))])
    alpha = np.append(model.alpha_, model.intercept_alpha_)
    w = np.ones(len(X)) if w is None else w
    mean = np.average(y, weights=w) if model.fit_intercept else 0.0
    S = np.diag(model.noise_variance_ / w) + (Phi * alpha) @ Phi.T
    C = S.copy()
    slope = (alpha * Phi).T @ np.linalg.inv(C)
    posterior = np.append(np.zeros(len(alpha) - 1), mean) + slope @ (y - mean), np.diag(alpha) - slope @ (Phi * alpha)
    return stats.multivariate_normal(np.full(len(X), mean), S).logpdf(y), posterior


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_bound_of_regression_is_the_evidence_and_the_posterior_is_exact(fit_intercept, noise):
    X, y = sinc(60, noise)
    model = RelevanceVectorRegressor(gamma=0.1, fit_intercept=fit_intercept).fit(X, y + 3 * fit_intercept)
    log_p, (mu, S) = dense(model, X, y + 3 * fit_intercept)
    assert_allclose(model.lower_bound_ * 60, log_p, rtol=1e-8)
    assert_allclose(model.coef_, mu[:-1], rtol=1e-5, atol=1e-7)
    assert_allclose(model.intercept_, mu[-1], rtol=1e-5, atol=1e-7)
    assert_allclose(model.covariance_, S, rtol=1e-4, atol=1e-7 * np.abs(S).max())
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)


def test_no_alpha_and_no_noise_has_more_evidence():
    X, y = sinc(60, 0.2)
    model = RelevanceVectorRegressor(gamma=0.1, tol=1e-12).fit(X, y)
    for name in ("alpha_", "intercept_alpha_", "noise_variance_"):
        for i in np.ndindex(np.shape(getattr(model, name))):
            for factor in (0.7, 0.99, 1.01, 1.4):
                moved = copy.deepcopy(model)
                if i:
                    moved.alpha_[i] *= factor
                else:
                    setattr(moved, name, getattr(model, name) * factor)
                assert dense(moved, X, y)[0] < model.lower_bound_ * 60 + 1e-6, (name, i)


@pytest.mark.parametrize("sigma2", [1e-3, 1e-2, 1.0, 100.0])
def test_the_other_step_of_the_noise_is_that_of_em_and_never_down(sigma2):
    """From any noise: E|y - Phi w|²/N under the posterior at the old one."""
    X, y = sinc(30)
    y -= y.mean()
    Phi = basis(X, X, 0.1, True, 0, 1)
    p = problem(Phi, y, kind=Regression)
    new = p.step(p.start()._replace(sigma2=sigma2), 0.5)
    log_p = lambda s: stats.multivariate_normal(np.zeros(30), s * np.eye(30) + (Phi * new.alpha) @ Phi.T).logpdf(y)
    assert_allclose(new.bound * 30, log_p(new.sigma2), rtol=1e-9)
    assert log_p(new.sigma2) > log_p(sigma2)
    slope = (Phi * new.alpha).T @ np.linalg.inv(sigma2 * np.eye(30) + (Phi * new.alpha) @ Phi.T)
    S = np.diag(new.alpha) - slope @ (Phi * new.alpha)
    want = (((y - Phi @ slope @ y) ** 2).sum() + np.trace(Phi @ S @ Phi.T)) / 30
    assert_allclose(new.sigma2, want, rtol=1e-6)


def test_weights_of_a_regression_are_rows():
    X, y = sinc(50, 0.1)
    w = rng().integers(0, 3, 50)
    a = RelevanceVectorRegressor(gamma=0.1).fit(X, y, w)
    b = RelevanceVectorRegressor(gamma=0.1).fit(np.repeat(X, w, axis=0), np.repeat(y, w))
    assert_allclose(b.predict(X, return_std=True), a.predict(X, return_std=True), rtol=1e-9)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-10)
    twice = dense(b, np.repeat(X, w, axis=0), np.repeat(y, w))[0]
    assert_allclose(b.lower_bound_ * w.sum(), twice, rtol=1e-8)
    assert_allclose(a.score(X, y, w), b.score(np.repeat(X, w, axis=0), np.repeat(y, w)), rtol=1e-9)


def test_standard_deviations_are_those_of_draws_and_of_each_row_alone():
    X, y = sinc(60, 0.1)
    model, new = RelevanceVectorRegressor(gamma=0.1).fit(X, y), np.linspace(-14, 14, 9)[:, None]
    mean, std = model.predict(new, return_std=True)
    alone = np.concatenate([np.column_stack(model.predict(new[i : i + 1], return_std=True)) for i in range(9)])
    assert_allclose(alone, np.column_stack([mean, std]), rtol=1e-11)
    assert_array_equal(model.predict(new), mean)
    many = np.tile(new, (500, 1))
    assert_allclose(model.predict(many, return_std=True)[1].reshape(500, 9), np.tile(std, (500, 1)), rtol=1e-11)
    r, n = rng(1), 200_000
    Phi = np.column_stack([basis(new, model.relevance_vectors_, model.gamma_, True, 0, 1), np.ones(9)])
    w = r.multivariate_normal(np.append(model.coef_, model.intercept_), model.covariance_, n, method="eigh")
    draws = w @ Phi.T + np.sqrt(model.noise_variance_) * r.standard_normal((n, 9))
    assert np.all(np.abs(draws.mean(0) - mean) < 4 * std / np.sqrt(n))
    assert_allclose(draws.std(0), std, rtol=4 / np.sqrt(2 * n))


def test_sinc_is_found_its_noise_recovered_and_intervals_hold():
    """Tipping 2001 has an error of 0.0245 at noise of 0.115 (uniform, ±0.2), and 6.7 vectors, of N = 100."""
    errors, vectors, inside = [], [], []
    grid = np.linspace(-10, 10, 300)[:, None]
    for seed in range(5):
        X, y = sinc(100, 0.115, seed)
        model = RelevanceVectorRegressor(gamma=1 / 3**2).fit(X, y)
        errors.append(np.sqrt(np.mean((model.predict(grid) - np.sinc(grid[:, 0] / np.pi)) ** 2)))
        vectors.append(model.n_relevant_)
        Z, t = sinc(300, 0.115, 100 + seed)
        mean, std = model.predict(Z, return_std=True)
        inside.append(np.mean(np.abs(t - mean) < std))
    assert np.mean(errors) < 0.055
    assert np.mean(vectors) < 10
    assert abs(np.mean(inside) - 0.683) < 0.05
    X, y = sinc(3000, 0.2)
    assert RelevanceVectorRegressor(gamma=0.1, n_centres=50, random_state=0).fit(X, y).noise_variance_ == pytest.approx(
        0.04, rel=0.1
    )


def test_targets_far_from_nought_and_of_any_unit():
    X, y = sinc(50)
    y = np.round(y * 2**20) / 2**20
    a = RelevanceVectorRegressor(gamma=0.1).fit(X, y)
    b = RelevanceVectorRegressor(gamma=0.1).fit(X, y + 1e8)
    assert_allclose(b.predict(X) - 1e8, a.predict(X), atol=1e-6)
    assert_allclose(b.predict(X, return_std=True)[1], a.predict(X, return_std=True)[1], rtol=1e-6)
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=1e-7)
    assert_allclose(b.score(X, y + 1e8), a.score(X, y), rtol=1e-6)
    for unit in (1e-100, 1e-6, 1e6, 1e100):
        c = RelevanceVectorRegressor(gamma=0.1).fit(X, y * unit)
        assert_allclose(c.predict(X), a.predict(X) * unit, rtol=1e-6)
        assert_allclose(c.lower_bound_, a.lower_bound_ - np.log(unit), rtol=1e-9)
        assert_allclose(c.noise_variance_, a.noise_variance_ * unit**2, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.3, -1e8])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_targets_that_are_all_the_same_are_told_as_they_are(value, fit_intercept):
    X, _ = sinc(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RelevanceVectorRegressor(gamma=0.1, fit_intercept=fit_intercept).fit(X, np.full(20, value))
    mean, std = model.predict(X, return_std=True)
    if fit_intercept:
        assert_allclose(mean, value, rtol=1e-12)
    assert np.isfinite(std).all()
    assert np.isfinite(model.lower_bound_)
    assert model.noise_variance_ > 0


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_targets_beyond_the_range_of_squares_are_refused_or_told(unit):
    X, y = sinc(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            model = RelevanceVectorRegressor(gamma=0.1).fit(X, y * unit)
        except ValueError as e:
            assert "Try" in str(e)  # noqa: PT017
            return
    assert model.noise_variance_ > 0
    assert np.isfinite(model.alpha_).all()


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_targets_beyond_the_range_of_squares_in_float32_are_refused_or_told(unit):
    X, y = sinc(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            model = RelevanceVectorRegressor(gamma=0.1).fit(X.astype(np.float32), y * unit)
        except ValueError as e:
            assert "Try" in str(e)  # noqa: PT017
            return
        mean, std = model.predict(X.astype(np.float32), return_std=True)
    want, spread = RelevanceVectorRegressor(gamma=0.1).fit(X, y).predict(X, return_std=True)
    assert np.isfinite(model.alpha_).all()
    assert_allclose(mean / unit, want, atol=1e-3)
    assert_allclose(std / unit, spread, rtol=1e-2)


# ------------------------------------------------------------------------------------------------ minibatches
@prior_
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_the_batches_of_an_epoch_have_that_of_the_bound_as_their_mean(prior, weighted):
    """Of 80 rows, 20 more are held out; N/B by the objective, the KL counted once."""
    k, r = kernels.load("cpu"), rng(8)
    X, y = labelled(100, 3)
    s, w = np.where(y > 0, 1.0, -1.0), r.gamma(1.0, size=100) if weighted else np.ones(100)
    shift, factor = X.mean(0), 1 / X.std(0)
    p = Parameters(k, {"mu": (4,), "rho": (4,)}, np.float64)
    mu, rho = r.standard_normal(4), r.standard_normal(4) - 2
    p.assign({"mu": mu, "rho": rho})
    weight = w[:80].sum()
    rows, held = np.arange(80), np.arange(80, 100)
    given = s, w if weighted else np.empty(0), weight, rows, held, shift, factor, prior, None, 20, 0, p
    o = objective.Minibatch(k, X, *given)
    mean = np.zeros((2, 4))
    for batch in np.split(r.permutation(80), 4):
        o.step(batch, p.counter)
        mean += [p.gradients["mu"] / 4, p.gradients["rho"] / 4]
    Z = np.column_stack([(X - shift) * factor, np.ones(100)])

    def bound(rows, mu, rho, scale=1.0):
        S = np.exp(LARGEST * np.tanh(rho / LARGEST))
        alpha = mu**2 + S
        if prior == "gaussian":
            alpha = np.append(np.full(3, alpha[:3].mean()), alpha[3])
        C, n = np.diag(np.sqrt(S)), len(Z[rows])
        kl = -relevance_bound(Z[rows], s[rows], np.zeros(n), mu, C, alpha)
        F = relevance_bound(Z[rows], s[rows], w[rows], mu, C, alpha) + kl
        return F / w[rows].sum() - kl / weight

    some = slice(80)
    assert_allclose(mean[0], -gradient(lambda x: bound(some, x, rho), mu, 5e-3), rtol=1e-7, atol=1e-9)
    assert_allclose(mean[1], -gradient(lambda x: bound(some, mu, x), rho, 5e-3), rtol=1e-7, atol=1e-9)
    values = o.values()
    assert_allclose(values["lower_bound"], bound(some, mu, rho), rtol=1e-10)
    assert_allclose(values["log_likelihood"] - values["kl"], values["lower_bound"], rtol=1e-12)
    assert_allclose(o.validate(), bound(slice(80, 100), mu, rho), rtol=1e-10)


@unsettled
@pytest.mark.parametrize("expectation", ["quadrature", "monte_carlo"])
@prior_
def test_adam_ends_near_the_diagonal_optimum_of_newton(expectation, prior):
    X, y = labelled(600, 4)
    best = VariationalLogisticRegression(covariance="diag", prior=prior).fit(X, y)
    model = VariationalLogisticRegression(
        covariance="diag", solver="adam", expectation=expectation, prior=prior, batch_size=100, max_epochs=60,
        n_epochs_no_change=None, learning_rate=0.03, random_state=0,
    ).fit(X, y)  # fmt: skip
    assert_whole(model, X)
    assert {0, 2} <= set(model.relevance_)
    some = slice(0, None, 2)
    assert_allclose(model.coef_[0, some], best.coef_[0, some], rtol=0.15)
    assert abs(model.lower_bound_ - best.lower_bound_) < 0.02
    assert_allclose(model.predict_proba(X), best.predict_proba(X), atol=0.05)
    for name in ("lower_bound", "log_likelihood", "kl"):
        assert len(model.history_[name]) == model.n_iter_ == 60
    parts = np.array(model.history_["log_likelihood"]) - model.history_["kl"]
    assert_allclose(model.history_["lower_bound"], parts, rtol=1e-9)


@unsettled
def test_adam_takes_units_offsets_weights_memory_maps_and_more_classes(tmp_path):
    X, y = labelled(300, 3)
    adam = lambda **p: VariationalLogisticRegression(covariance="diag", solver="adam", max_epochs=20,
                                                     random_state=0, **p)  # fmt: skip
    a = adam().fit(X, y)
    b = adam().fit(X * [1e-3, 1, 1e3] + 64, y)
    assert_allclose(b.predict_proba(X * [1e-3, 1, 1e3] + 64), a.predict_proba(X), rtol=1e-4, atol=1e-6)
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    assert_same_state(state(a), state(adam().fit(np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape), y)))
    w = np.ones(300)
    w[::3] = 0
    assert_allclose(adam().fit(X, y, w).coef_, adam().fit(X[w > 0], y[w > 0]).coef_, rtol=1e-9)
    three = adam(batch_size=64).fit(X, y + (X[:, 0] > 1.0))
    assert_whole(three, X)
    held = adam(early_stopping=True, batch_size=64).fit(X, y)
    assert "validation_lower_bound" in held.history_


@unsettled
def test_adam_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path):
    X, y = labelled(200, 3)
    make = lambda epochs, **p: VariationalLogisticRegression(
        covariance="diag", solver="adam", expectation="monte_carlo", batch_size=64, max_epochs=20,
        n_epochs_no_change=None, random_state=0, callback=lambda n, values: n >= epochs, **p
    )  # fmt: skip
    want = make(20).fit(X, y)
    make(7, checkpoint=tmp_path / "c").fit(X, y)
    got = make(20, checkpoint=tmp_path / "c").fit(X, y)
    assert_same_state(state(want), state(got))
    with pytest.raises(ValueError, match=r"^A checkpoint is for two classes, got 3 in y\.$"):
        make(20, checkpoint=tmp_path / "c").fit(X, y + (X[:, 0] > 1))


# ------------------------------------------------------------------------------------------------ hostile data
HOSTILE = {
    "separable": lambda X, y: (X, (X[:, 0] > 0.1).astype(int)),
    "duplicate rows": lambda X, y: (np.vstack([X] * 4), np.tile(y, 4)),
    "contradictory duplicates": lambda X, y: (np.vstack([X, X]), np.append(y, 1 - y)),
    "constant and duplicate columns": lambda X, y: (np.column_stack([X, np.ones(40), np.zeros(40), X[:, 0], X]), y),
    "sums of columns": lambda X, y: (np.column_stack([X, X.sum(1), X[:, 0] - X[:, 1]]), y),
    "one sample a class": lambda X, y: (X[:5], np.arange(5)),
    "two rows": lambda X, y: (X[:2], np.arange(2)),
    "all of one class but one": lambda X, y: (X, (np.arange(40) == 7).astype(int)),
    "one point": lambda X, y: (np.ones((10, 2)), np.tile([0, 1], 5)),
    "tiny": lambda X, y: (X * 1e-30, y),
    "huge": lambda X, y: (X * 1e30, y),
    "far away": lambda X, y: (X + 1e8, y),
    "one far row": lambda X, y: (np.where(np.arange(40)[:, None] == 3, 1e9, X), y),
    "integers": lambda X, y: (np.round(X).astype(int), y),
    "more columns than rows": lambda X, y: (rng(1).standard_normal((10, 30)), y[:10]),
}


@every_
@pytest.mark.parametrize("kind", HOSTILE)
@unsettled
def test_hostile_data_have_a_finite_bound_and_probabilities(make, kind):
    X, y = HOSTILE[kind](*labelled(40, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            model = make().fit(X, y)
        except ValueError as e:  # (1e30)³ has no square
            assert kind == "huge"
            assert make().kernel == "poly"
            assert "Try" in str(e)  # noqa: PT017
            return
        assert_whole(model, X)
    K = len(model.classes_)
    assert model.lower_bound_ <= 1e-9
    if getattr(model, "solver", "newton") == "newton":
        assert model.lower_bound_ >= -np.log(2) * (K if K > 2 else 1) - 1e-9
    if kind == "contradictory duplicates":
        assert_allclose(model.predict_proba(X), 0.5, atol=0.1)


@newton_
@unsettled
def test_what_can_be_separated_is_with_moderate_confidence(make):
    X, y = HOSTILE["separable"](*labelled(40, 2))
    model = make().fit(X, y)
    assert model.score(X, y) > 0.9
    assert np.abs(model.decision_function(X)).max() < 100


@pytest.mark.parametrize("unit", [1e-30, 1e30])
@newton_
@unsettled
def test_float32_of_any_unit_is_fitted_or_refused(make, unit):
    X, y = labelled(40, 2)
    X = (X * unit).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            model = make().fit(X, y)
        except ValueError as e:
            assert "Try" in str(e)  # noqa: PT017
            return
        assert_whole(model, X)


@pytest.mark.parametrize("weight", [1e-9, 1e6, 1e9])
@newton_
def test_weights_of_any_size_have_a_finite_answer(make, weight):
    X, y = labelled(40, 2)
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("ignore", lvm.ConvergenceWarning)
            model = make().set_params(random_state=seed).fit(X, y, np.full(40, weight))
            assert_whole(model, X)


# ------------------------------------------------------------------------------------------------ refusals
REFUSED = {
    "none": (None, ValueError, "{} requires y to be passed, but the target y is None."),
    "short": ([0, 1], ValueError, "Found input variables with inconsistent numbers of samples: X has 20 rows, y has 2"),
    "table": (np.zeros((20, 2)), ValueError, "y should be a 1d array, got an array of shape (20, 2) instead."),
    "number": (3, ValueError, "y should be a 1d array, got an array of shape () instead."),
    "NaN": (np.r_[np.nan, np.arange(19)], ValueError, "Input y contains NaN. The first one is at index 0. Drop or"),
    "infinite": (np.r_[np.arange(19), np.inf], ValueError, "Input y contains infinity or a value too large for dtype("),
    "complex": (np.arange(20) * 1j, ValueError, "Complex data not supported: y has dtype complex128."),
}
LABELS = {
    "one class": (np.zeros(20), ValueError, "{} needs samples of at least 2 classes with weight in y, got 1 class(es)"),
    "continuous": (np.linspace(0, 1, 20), ValueError, "Unknown label type: continuous. {} is a classifier, and y has"),
    "mixed": (np.array([1, "a"] * 10, object), TypeError, "The labels in y must be all numbers or all strings, got bo"),
    "missing": (np.array([None, "a"] * 10, object), TypeError, "The labels in y must be all numbers or all strings"),
    "dates": (np.array(["2020-01-01"] * 20, "M8[D]"), ValueError, "Unknown label type: {} takes labels that are num"),
    "bytes": (np.array([b"a", b"b"] * 10), ValueError, "Unknown label type: {} takes labels that are numbers or str"),
}
TARGETS = {"text": (["a"] * 20, ValueError, "y must hold numbers, got dtype <U1.")}
MODELS = {
    "VariationalLogisticRegression": VariationalLogisticRegression(),
    "RelevanceVectorClassifier": RelevanceVectorClassifier(gamma=0.3),
    "RelevanceVectorRegressor": RelevanceVectorRegressor(gamma=0.3),
}
BAD_Y = [(name, kind, bad) for name in MODELS
         for kind, bad in {**REFUSED, **(TARGETS if "Regressor" in name else LABELS)}.items()]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "bad"), BAD_Y, ids=[f"{a}-{b}" for a, b, _ in BAD_Y])
def test_bad_targets_are_refused_and_change_nothing(name, kind, bad):
    y, error, message = bad
    X, good = labelled(20, 2)
    model = copy.deepcopy(MODELS[name]).fit(X, good)
    before = state(model)
    uses = [model.fit, copy.deepcopy(MODELS[name]).fit] + [model.score] * (kind != "one class")
    for use in uses:
        with pytest.raises(error, match="^" + re.escape(message.format(name))):
            use(X, y)
    assert_same_state(state(model), before)


WRONG = {
    "kernel": ["x", None, 3, ["rbf"]],
    "gamma": [0, -1, np.nan, np.inf, "scale", None, True, [1]],
    "degree": [0, 1.5, -1, None],
    "coef0": [-1, np.nan, "0"],
    "n_centres": [0, 2.0, None],
    "fit_intercept": [1, None, "yes"],
    "class_weight": ["x", [1, 2], 3],
    "tol": [-1, np.nan, "0", None],
    "max_iter": [0, 1.0, None],
    "verbose": [-1, "x", None],
    "prior": ["flat", None],
    "covariance": ["tied", None],
    "solver": ["lbfgs", None],
    "expectation": ["exact", None],
    "batch_size": [0, 1.0],
    "max_epochs": [0, None],
    "learning_rate": [0, -1, np.nan],
    "n_epochs_no_change": [0, 1.5],
    "early_stopping": [1],
    "validation_fraction": [0, 1, 1.5, np.nan],
    "clip_norm": [0, np.nan],
    "kl_warmup_steps": [-1, 1.0],
    "random_state": [-1, 1.5, "x"],
    "device": ["gpu", None, 1],
}


@pytest.mark.parametrize("name", MODELS)
def test_wrong_parameters_are_refused_by_name_and_change_nothing(name):
    X, y = labelled(20, 2)
    model = copy.deepcopy(MODELS[name]).fit(X, y)
    before, seen = state(model), 0
    for parameter, values in WRONG.items():
        if parameter not in model.get_params():
            continue
        right = getattr(model, parameter)
        if parameter == "random_state":
            model.set_params(**({"covariance": "diag", "solver": "adam"} if "Variational" in name else {"gamma": "cv"}))
        for value in values:
            with pytest.raises((ValueError, TypeError), match=parameter):
                model.set_params(**{parameter: value}).fit(X, y)
            seen += 1
        model.set_params(**{parameter: right})
    assert seen > 30
    assert_same_state(state(model), before)


def test_solvers_that_do_not_go_together_are_refused():
    X, y = labelled(20, 2)
    with pytest.raises(ValueError, match=r"^solver='adam' is for covariance='diag'\. Try that, or solver='newton'\.$"):
        VariationalLogisticRegression(solver="adam").fit(X, y)
    with pytest.raises(ValueError, match=r"^expectation='monte_carlo' is for solver='adam': Newton needs the exact"):
        VariationalLogisticRegression(expectation="monte_carlo").fit(X, y)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({7: 1}, "The classes [7] of class_weight are not among those of y, [0, 1]."),
        ({0: -1}, "The 'class_weight' parameter of {} must be a finite number of at least 0, got -1 instead."),
        ({0: np.nan}, "The 'class_weight' parameter of {} must be a finite number of at least 0, got nan instead."),
        ({0: "a"}, "The 'class_weight' parameter of {} must be a finite number of at least 0, got 'a' instead."),
        ({0: 0}, "{} needs samples of at least 2 classes with weight in y, got 1 class(es): [1]."),
        ({0: 0, 1: 0}, "{} needs samples of at least 2 classes with weight in y, got 0 class(es): []."),
        ({0: 1e300}, ""),
    ],
)
@pytest.mark.parametrize("name", list(MODELS)[:2])
def test_class_weights_that_are_refused(name, class_weight, message):
    X, y = labelled(20, 2)
    with pytest.raises(ValueError, match="^" + re.escape(message.format(name))):
        copy.deepcopy(MODELS[name]).set_params(class_weight=class_weight).fit(X, y)


def test_weights_that_leave_one_class_or_are_no_counts_are_refused():
    X, y = labelled(20, 2)
    for name in list(MODELS)[:2]:
        model = copy.deepcopy(MODELS[name])
        with pytest.raises(ValueError, match=re.escape("with weight in y, got 1 class(es): [1].")):
            model.fit(X, y, y)
        with pytest.raises(
            ValueError, match=r"^Weights count rows, and with .* they go up to 1e\+12\. Try weights of a"
        ):
            model.fit(X, y, np.full(20, 1e12))
        with pytest.raises(ValueError, match=r"^Negative values in sample_weight"):
            model.fit(X, y, -np.ones(20))


BAD_KERNELS = {
    "a row": (lambda A, B: A[:, 0], "here (20, 20), got (20,)."),
    "turned": (lambda A, B: np.zeros((len(B) + 1, len(A))), "here (20, 20), got (21, 20)."),
    "NaN": (lambda A, B: A @ B.T * np.nan, "here (20, 20), got some that are not, or above 1e140."),
    "infinite": (
        lambda A, B: np.full((len(A), len(B)), np.inf),
        "here (20, 20), got some that are not, or above 1e140.",
    ),
    "nothing": (lambda A, B: None, "here (20, 20), got ()."),
}


@pytest.mark.parametrize("kind", BAD_KERNELS)
@pytest.mark.parametrize("cls", [RelevanceVectorClassifier, RelevanceVectorRegressor])
def test_functions_that_are_no_kernels_are_refused(cls, kind):
    kernel, message = BAD_KERNELS[kind]
    X, y = labelled(20, 2)
    message = "kernel(X, Y) must give finite numbers in an array (rows of X, rows of Y), " + message
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        cls(kernel=kernel).fit(X, y)


@pytest.mark.parametrize("cls", [RelevanceVectorClassifier, RelevanceVectorRegressor])
def test_errors_of_a_kernel_come_through_and_leave_the_model_as_it_was(cls):
    X, y = labelled(20, 2)
    model = cls(gamma=0.3).fit(X, y)
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        model.set_params(kernel=lambda A, B: 1 / 0).fit(X, y)
    assert_same_state(state(model), before)
    with pytest.raises(
        ValueError, match=r"^A precomputed kernel must be square, \(N,N\) for the rows of fit, got \(20"
    ):
        model.set_params(kernel="precomputed").fit(X, y)
    assert_same_state(state(model), before)
    fitted = cls(kernel="precomputed").fit(X @ X.T, y)
    with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 20 features as input"):
        fitted.predict(X @ X[:5].T)


def test_a_regression_needs_two_rows():
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\) .* while a minimum of 2 is required by"):
        RelevanceVectorRegressor(gamma=1).fit([[1.0]], [1.0])


# ------------------------------------------------------------------------------------------------ manners
@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_callers_is_changed(name):
    X, y = labelled(40, 2)
    for T in (np.float32, np.float64):
        rows, w, labels = X.astype(T), np.arange(40.0), y.copy()
        weights = {0: 2.0, 1: 1.0}
        before = rows.copy(), w.copy(), labels.copy()
        model = copy.deepcopy(MODELS[name])
        if "Regressor" not in name:
            model.set_params(class_weight=weights)
        model.fit(rows, labels, w)
        model.predict(rows)
        model.score(rows, labels, w)
        for now, then in zip((rows, w, labels), before):
            assert_array_equal(now, then)
        assert weights == {0: 2.0, 1: 1.0}
        rows[:] = 0
        if hasattr(model, "relevance_vectors_"):
            assert np.any(model.relevance_vectors_ != 0)  # a copy
        model.relevance_[:0] = 0
        for name_ in ("coef_", "alpha_", "covariance_"):
            assert getattr(model, name_).flags.writeable


def test_read_only_and_odd_arrays_give_the_same_bits(tmp_path):
    X, y = labelled(40, 2)
    frozen = X.copy()
    frozen.setflags(write=False)
    for name, model in MODELS.items():
        want = copy.deepcopy(model).fit(X, y)
        for other in (frozen, np.asfortranarray(X), X.astype(">f8"), X.tolist(), X.astype(object)):
            got = copy.deepcopy(model).fit(other, y.tolist())
            assert_same_state(state(want), state(got))
            assert_array_equal(got.predict(other), want.predict(X), err_msg=name)


@straight_
@unsettled
def test_any_number_of_threads_gives_the_same_bits(make):
    X, y = labelled(2500 if isinstance(make(), VariationalLogisticRegression) else 100, 3)
    states = []
    try:
        for threads in (1, 2, 8):
            lvm.set_num_threads(threads)
            model = make(max_iter=20).fit(X, y)
            states.append({**state(model), "p": model.predict_proba(X)})
    finally:
        lvm.set_num_threads(None)
    assert_same_state(states[0], states[1])
    assert_same_state(states[0], states[2])


def test_a_fit_that_stops_early_says_so_and_tol_nought_takes_all_steps():
    X, y = labelled(60, 3)
    with pytest.warns(
        lvm.ConvergenceWarning, match=r"^The fit did not converge: the bound still rose in step 2 of at "
    ):
        model = VariationalLogisticRegression(max_iter=2).fit(X, y)
    assert (model.n_iter_, model.converged_) == (2, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = VariationalLogisticRegression(max_iter=5, tol=0).fit(X, y)
    assert model.n_iter_ == len(model.lower_bounds_) == 5


def test_the_rule_of_convergence_is_that_of_the_docstring():
    X, y = labelled(60, 3)
    for tol in (1e-2, 1e-4, 1e-6, 1e-8):
        model = VariationalLogisticRegression(tol=tol).fit(X, y)
        gains = np.diff(model.lower_bounds_)
        assert gains[-1] <= tol < gains[:-1].min(initial=1)
    exact = VariationalLogisticRegression(tol=1e-11).fit(X, y)
    assert 0 <= exact.lower_bound_ - VariationalLogisticRegression().fit(X, y).lower_bound_ < 1e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda: VariationalLogisticRegression(max_iter=3, tol=0),
        lambda: RelevanceVectorClassifier(max_iter=3, tol=0, gamma=0.3),
        lambda: RelevanceVectorRegressor(max_iter=3, tol=0, gamma=0.3),
    ],
    ids=["linear", "classifier", "regressor"],
)
def test_ctrl_c_at_any_line_leaves_the_last_complete_step_or_nothing(make):
    X, y = labelled(30, 3)
    other = make().fit(*labelled(30, 3, seed=1))
    before, ends, line, raised = state(other), [], 0, True
    for steps in range(1, 4):
        ends.append(state(make().set_params(max_iter=steps).fit(X, y)))
    kept = 0
    while raised is not False:
        line += 1 if line < 60 else 11
        model = copy.deepcopy(other)
        raised = interrupted_at("relevance", line, lambda m=model: m.fit(X, y))
        assert raised is not None, f"swallowed at {line}"
        now = state(model)
        if now["lower_bounds_"] == before["lower_bounds_"]:
            assert_same_state(now, before)
            continue
        kept += raised
        assert_same_state(now, ends[now["n_iter_"] - 1])
    assert kept > 5


def test_ctrl_c_of_three_classes_or_of_a_search_leaves_the_model_as_it_was_or_whole():
    X, y = labelled(30, 2)
    for model, labels in (
        (VariationalLogisticRegression(max_iter=2, tol=0), y + (X[:, 0] > 1)),
        (RelevanceVectorRegressor(max_iter=2, tol=0, gamma="bound"), y),
    ):
        first, after = copy.deepcopy(model).fit(X, labels), state(model.fit(X + X**2, labels))
        before, line, raised = state(first), 0, True
        while raised is not False and line < 1500:
            line += 23
            now = copy.deepcopy(first)
            raised = interrupted_at("relevance", line, lambda m=now, t=labels: m.fit(X + X**2, t))
            whole = now.lower_bound_ == after["lower_bound_"]
            assert_same_state(state(now), after if whole else before)
        assert line > 300


def test_ctrl_c_says_where_it_stopped(monkeypatch):
    steps, step = [], Logistic.step

    def interrupting(self, point, rho):
        steps.append(rho)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, point, rho)

    monkeypatch.setattr(Logistic, "step", interrupting)
    X, y = labelled(60, 3)
    model = VariationalLogisticRegression(tol=0)
    with pytest.raises(KeyboardInterrupt, match=r"^fit was stopped; the model is that of step 3$"):
        model.fit(X, y)
    assert (model.n_iter_, model.converged_) == (3, False)
    assert_whole(model, X)


def test_a_pickle_and_a_file_predict_the_same_bits(tmp_path):
    X, y = labelled(60, 3)
    for name, model in MODELS.items():
        for T in (np.float32, np.float64):
            rows = X.astype(T)
            model = copy.deepcopy(model).fit(rows, y)
            model.save(tmp_path / "m")
            for twin in (pickle.loads(pickle.dumps(model)), lvm.load(tmp_path / "m")):
                assert_array_equal(twin.predict(rows), model.predict(rows))
                if "Regressor" in name:
                    assert_array_equal(twin.predict(rows, return_std=True), model.predict(rows, return_std=True))
                else:
                    assert_array_equal(twin.predict_proba(rows), model.predict_proba(rows))


def test_a_bar_with_the_bound_when_asked(capsys):
    X, y = labelled(60, 3)
    model = RelevanceVectorClassifier(verbose=1, random_state=0).fit(X, y)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Width" in shown.err
    assert f"bound {model.lower_bound_:.6f} nats per row" in shown.err
    VariationalLogisticRegression().fit(X, y)
    assert capsys.readouterr() == ("", "")


def test_a_search_over_gamma_by_scikit_learn_works():
    pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = labelled(60, 2)
    found = GridSearchCV(RelevanceVectorClassifier(), {"gamma": [0.01, 0.3]}, cv=3).fit(X, y)
    assert found.best_params_["gamma"] in (0.01, 0.3)
    pipe = make_pipeline(StandardScaler(), VariationalLogisticRegression())
    assert cross_val_score(pipe, X, np.where(y, "yes", "no"), cv=3).mean() > 0.6
    K = X @ X.T
    assert cross_val_score(RelevanceVectorClassifier(kernel="precomputed"), K, y, cv=3).mean() > 0.6  # pairwise


# ---------------------------------------------------------------------------------------------- found by a reader
def crossed(n=200):
    """X (n,3), labels that the first column tells, with noise, and a target."""
    r = rng(0)
    Z = r.standard_normal((n, 3))
    return Z, (Z[:, 0] + 0.5 * r.standard_normal(n) > 0).astype(int), Z[:, 0] + 0.1 * Z[:, 1]


def test_of_columns_that_are_alike_one_is_kept():
    Z, y, t = crossed()
    a, b = Z[:, :1], Z[:, 1:2]
    for columns in ([a, a, a, b], [a, 1 - a, b], [b, 3 * a, a]):
        model = VariationalLogisticRegression().fit(np.hstack(columns), y)
        assert model.n_relevant_ == 1
        assert_allclose(model.lower_bound_, VariationalLogisticRegression().fit(np.hstack([a, b]), y).lower_bound_)
    assert RelevanceVectorRegressor(kernel="linear").fit(a, t).n_relevant_ == 1
    assert RelevanceVectorClassifier(kernel="linear").fit(a, y).n_relevant_ == 1


@pytest.mark.parametrize("constant", [0.1, 1e5 / 3, 1e308])
@pytest.mark.parametrize("solver", ["newton", "adam"])
@unsettled
def test_a_column_that_is_constant_but_for_its_means_rounding_has_no_weight(constant, solver):
    Z, _, _ = crossed()
    y = Z[:, 0] > 0.6
    model = VariationalLogisticRegression(solver=solver, covariance="diag" if solver == "adam" else "full")
    model.fit(np.column_stack([np.full(200, constant), Z]), y)
    assert model.coef_[0, 0] == 0
    assert np.abs(model.intercept_) < 100


def test_numbers_that_overflow_end_in_an_error_and_not_in_a_null_model():
    Z, y, _ = crossed(3000)
    X = Z.copy()
    X[1001] = 1e200
    for model in (VariationalLogisticRegression(), RelevanceVectorClassifier(gamma=1.0)):
        with pytest.raises(ValueError, match="Try scaling X"):
            model.fit(X, y)
    with pytest.raises(ValueError, match="or above 1e140"):
        RelevanceVectorClassifier(kernel=lambda A, B: 1e200 * (A @ B.T)).fit(Z[:50], y[:50])
    model = VariationalLogisticRegression().fit(Z[:200], y[:200])
    with pytest.raises(ValueError, match=r"^Row 1 of X is so far from the data that w'x overflows\. Try scaling X\.$"):
        model.predict_proba([[0, 0, 0], [1e200, 0, 0]])
    tiny = VariationalLogisticRegression().fit(Z[:200] * [1e-155, 1, 1], (Z[:200, 1] > 0))
    assert tiny.relevance_.tolist() == [1]  # and the column that is as good as 0 does no harm


@pytest.mark.parametrize("changed", [{"kernel": "linear"}, {"kernel": "precomputed"}, {"degree": 5}, {"coef0": 7.0}])
def test_answers_of_a_machine_whose_kernel_was_changed_are_refused(changed, tmp_path):
    Z, y, _ = crossed(60)
    model = RelevanceVectorClassifier(kernel="poly", gamma=0.1).fit(Z, y).set_params(**changed)
    for use in (lambda: model.predict(Z), lambda: model.save(tmp_path / "m")):
        with pytest.raises(ValueError, match=r"^kernel, degree or coef0 was changed after fit\. Call fit again\.$"):
            use()
    model.set_params(kernel="rbf").fit(Z, y).predict(Z)


@pytest.mark.parametrize("kernel", ["linear", "poly"])
def test_products_do_not_see_where_the_origin_is(kernel):
    Z, y, t = crossed()
    for model, target in ((RelevanceVectorClassifier, y), (RelevanceVectorRegressor, t)):
        a, b = (model(kernel=kernel, degree=2, gamma=0.5).fit(Z + o, target) for o in (0, 2.0**20))
        assert_allclose(b.score(Z + 2.0**20, target), a.score(Z, target), atol=0.01)


@pytest.mark.parametrize(
    "changed", [{"prior": "gaussian"}, {"expectation": "monte_carlo"}, {"class_weight": {0: 2.0, 1: 1.0}}]
)
@unsettled
def test_a_checkpoint_of_another_fit_is_refused(changed, tmp_path):
    Z, y, _ = crossed()
    make = lambda **p: VariationalLogisticRegression(
        solver="adam", covariance="diag", max_epochs=5, checkpoint=tmp_path / "c", **{"random_state": 0, **p}
    )
    make().fit(Z, y)
    for model, X, labels in ((make(**changed), Z, y), (make(), Z * [1, 100, 0.01] + 5, y), (make(), Z, 1 - y)):
        with pytest.raises(ValueError, match=r"checkpoint|settings"):
            model.fit(X, labels)
    with pytest.raises(
        ValueError, match=r"^A checkpoint needs the same batches again\. Try an integer random_state\.$"
    ):
        make(random_state=None).fit(Z, y)


def test_a_search_may_name_classes_that_a_fold_lacks():
    Z, y, _ = crossed()
    VariationalLogisticRegression(class_weight={0: 1, 1: 2, 7: 5}).fit(Z, y)
    with pytest.raises(ValueError, match=r"^The classes \[7\] of class_weight are not among those of y, \[0, 1\]\.$"):
        VariationalLogisticRegression(class_weight={0: 1, 7: 5}).fit(Z, y)


def test_weights_of_classes_with_numbers_for_labels_are_kept_in_a_file(tmp_path):
    Z, y, _ = crossed()
    VariationalLogisticRegression(class_weight={0: 2.0, 1: 1}).fit(Z, y).save(tmp_path / "m")
    assert lvm.load(tmp_path / "m").class_weight == {0: 2.0, 1: 1}


def test_a_second_fit_leaves_nothing_of_the_first():
    Z, y, _ = crossed(60)
    model = RelevanceVectorClassifier(gamma=1.0).fit(Z, y)
    model.set_params(kernel="precomputed").fit(Z @ Z.T, y)
    assert not hasattr(model, "relevance_vectors_")
