"""ProbabilisticPCA's promises: known values, exact densities, bounds, one answer of all methods, hostile data."""

import contextlib
import copy
import pickle
import re
import tracemalloc
import warnings

import mpmath
import numpy as np
import pytest
from gradcheck import gradient
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    gaussian_log_density,
    mixture_filled,
    observed,
    ppca_em_step,
    ppca_exact,
    ppca_expected_bound,
    ppca_log_likelihood,
    ppca_moments,
    ppca_posterior,
    ppca_stepwise,
)
from scipy import stats
from scipy.optimize import minimize_scalar
from test_kernels_mixture import holed

import lvm
from lvm import ConvergenceWarning, NumericalError, ProbabilisticPCA
from lvm.datasets import load_faithful, load_iris
from lvm.objectives import ppca as objective
from lvm.objectives.ppca import Degenerate, Likelihood, Params, Rows, unpack

NOISES = ("isotropic", "diagonal")
METHODS = ("exact", "em", "stochastic_em")
ARRAYS = ("components_", "loadings_", "mean_", "explained_variance_", "explained_variance_ratio_")
noise_ = pytest.mark.parametrize("noise", NOISES)
gaps_ = pytest.mark.parametrize("gaps", [False, True])
weighted_ = pytest.mark.parametrize("weighted", [False, True])
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])


def rng(seed=0):
    return np.random.default_rng(seed)


def data(N=200, D=6, d=2, noise=0.5, seed=0, spread=1.0):
    """Rows of a model with d latent dimensions; the noise of a column is up to `spread` times another's: X (N,D)."""
    r = rng([seed, N, D, d])
    W, psi = r.standard_normal((D, d)) * np.linspace(2, 1, d), noise * np.geomspace(1, spread, D)
    return r.standard_normal((N, d)) @ W.T + r.standard_normal(D) + psi * r.standard_normal((N, D))


def gapped(N=200, D=6, d=2, **more):
    return holed(data(N, D, d, **more), part=0.3)


@contextlib.contextmanager
def unsettled():
    """Lets a fit end before it has converged without a word; other warnings stay errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fit(X, d=2, *, weight=None, seed=0, **params):
    with unsettled():
        return ProbabilisticPCA(d, random_state=seed, **params).fit(X, sample_weight=weight)


def by_hand(W, mu, psi):
    """A model of these parameters; psi a number or (D,)."""
    model = ProbabilisticPCA(W.shape[1], noise="isotropic" if np.ndim(psi) == 0 else "diagonal", random_state=0)
    model.loadings_, model.mean_, model.noise_variance_ = W, mu, psi
    model.n_components_, model.n_features_in_ = W.shape[1], len(W)
    return model


def some_model(D, d, noise, seed=0):
    r = rng([seed, D, d])
    W, mu, psi = r.standard_normal((D, d)), r.standard_normal(D), r.gamma(3.0, 0.1, D)
    return by_hand(W, mu, psi if noise == "diagonal" else float(psi[0]))


def theta(model):
    """W, mu, psi in float64, psi (D,)."""
    W = model.loadings_.astype(float)
    return W, model.mean_.astype(float), np.broadcast_to(model.noise_variance_, len(W)).astype(float)


def dense(model):
    """mu and W W' + Psi."""
    W, mu, psi = theta(model)
    return mu, W @ W.T + np.diag(psi)


def state(model):
    """What `fit` has left on a model, as copies."""
    return {name: copy.deepcopy(v) for name, v in vars(model).items() if name.endswith("_")}


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert_array_equal(a[name], b[name], err_msg=name)
        assert np.asarray(a[name]).dtype == np.asarray(b[name]).dtype, name


def assert_same_model(a, b, rtol=1e-8):
    """The same density, along the same axes."""
    assert_allclose(b.lower_bound_, a.lower_bound_, rtol=rtol, atol=rtol)
    for name in (*ARRAYS, "noise_variance_"):
        want = getattr(a, name)
        assert_allclose(getattr(b, name), want, rtol=rtol, atol=rtol * np.abs(want).max(), err_msg=name)


def assert_whole(model, X):
    """Every attribute is there, finite, of its shape, and they agree with each other."""
    (D, d), T = model.loadings_.shape, model.loadings_.dtype
    eps = np.finfo(T).eps
    shapes = {"components_": (d, D), "loadings_": (D, d), "mean_": (D,), "explained_variance_": (d,),
              "explained_variance_ratio_": (d,)}  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(model, name)
        assert value.shape == shape, name
        assert value.dtype == T, name
        assert np.isfinite(value).all(), name
        assert value.flags.c_contiguous, name
        assert value.flags.writeable, name
    U, W, psi = model.components_, model.loadings_, theta(model)[2]
    assert np.ndim(model.noise_variance_) == (0 if model.noise == "isotropic" else 1)
    assert (psi > 0).all()
    assert model.n_components_ == d
    assert model.n_features_in_ == D
    assert_allclose(U @ U.T, np.eye(d), atol=20 * D * eps)
    assert (U[np.arange(d), np.abs(U).argmax(1)] > 0).all()
    length = np.linalg.norm(W, axis=0)
    assert (np.diff(length) <= 0).all()
    assert_allclose(W, U.T * length, atol=20 * D * eps * length.max(initial=0))
    S = W.astype(float) @ W.T.astype(float) + np.diag(psi)
    variance = np.einsum("di,ij,dj->d", U.astype(float), S, U.astype(float))
    assert_allclose(model.explained_variance_, variance, rtol=0, atol=100 * D * eps * np.trace(S))
    assert_allclose(model.explained_variance_ratio_, variance / np.trace(S), rtol=0, atol=100 * D * eps)
    assert len(model.lower_bounds_) == model.n_iter_ or model.method == "stochastic_em"
    assert np.isfinite([*model.lower_bounds_, model.lower_bound_]).all()
    assert not model.lower_bounds_ or model.lower_bound_ == model.lower_bounds_[-1]
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.transform(X)).all()


# ------------------------------------------------------------------------------------------------ known values
IRIS = [(1, -470.66945832, 0.11413908), (2, -404.96278016, 0.050682148), (3, -379.91463012, 0.023676192)]


@pytest.mark.parametrize(("d", "value", "sigma2"), IRIS)
@pytest.mark.parametrize("method", ["exact", "em"])
def test_iris_has_its_closed_form_likelihood_and_noise(d, value, sigma2, method):
    X = load_iris()
    model = fit(X, d, method=method, tol=0, max_iter=400)
    assert_allclose(model.score(X) * 150, value, rtol=3e-11)  # as many digits as the numbers have
    assert_allclose(model.noise_variance_, sigma2, rtol=3e-8)
    W, mu, psi = ppca_exact(X, None, d)
    assert_allclose(model.score(X) * 150, ppca_log_likelihood(X, None, W, mu, psi), rtol=1e-12)
    rtol = 1e-12 if method == "exact" else 1e-9
    assert_allclose(model.noise_variance_, psi[0], rtol=rtol)
    assert_allclose(dense(model)[1], W @ W.T + np.diag(psi), rtol=rtol, atol=10 * rtol)
    assert_allclose(model.lower_bound_, model.score(X), rtol=1e-12)
    assert_whole(model, X)


@pytest.mark.parametrize("method", ["exact", "em"])
def test_as_many_components_as_columns_have_the_likelihood_of_one_less(method):
    X = load_iris()
    model = fit(X, 4, method=method)
    assert_allclose(model.score(X) * 150, -379.91463012, rtol=1e-9)
    assert_allclose(dense(model)[1], np.cov(X.T, bias=True), rtol=2e-3, atol=1e-5 if method == "em" else 1e-13)
    assert_whole(model, X)
    assert fit(X, 4).noise_variance_ == pytest.approx(0.023676192, rel=3e-8)  # the least eigenvalue is taken


@pytest.mark.parametrize("d", [1, 2, 3])
def test_stochastic_em_ends_near_the_maximum_of_iris(d):
    """Some number of parameters / n_draws below it, though d = 3 leaves but 0.6 % of the variance for noise."""
    X, value = load_iris(), IRIS[d - 1][1] / 150
    model = fit(X, d, method="stochastic_em", n_draws=1_000_000)
    assert value - 1e-5 * abs(value) < model.score(X) < value + 1e-12
    assert_allclose(model.lower_bound_, model.score(X), rtol=1e-12)
    assert_whole(model, X)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@noise_
def test_stochastic_em_of_any_batch_ends_near_em(batch_size, noise):
    X = data(300, 6, 2, noise=1.0)
    best = fit(X, method="em", noise=noise).score(X)
    model = fit(X, method="stochastic_em", noise=noise, n_draws=300_000, batch_size=batch_size)
    assert -4e-4 < model.score(X) - best < 1e-9
    assert model.converged_
    assert_whole(model, X)


def test_stochastic_em_with_gaps_and_weights_ends_near_em():
    X, w = gapped(300, 5, 2), rng(1).gamma(1.0, size=300)
    w[::3] = 0
    best = fit(X, weight=w).score(X, sample_weight=w)
    model = fit(X, weight=w, method="stochastic_em", n_draws=300_000, batch_size=4)
    assert -4e-4 < model.score(X, sample_weight=w) - best < 1e-9
    assert model.score(X, sample_weight=w) == pytest.approx(model.lower_bound_, rel=1e-12)


def test_stochastic_em_gets_nearer_the_more_it_draws():
    X = data(100, 5, 2)
    best = fit(X).score(X)
    short, long = (np.mean([best - fit(X, method="stochastic_em", n_draws=n, seed=s).score(X) for s in range(4)])
                   for n in (10_000, 300_000))  # fmt: skip
    assert 0 < long < short / 10


# ------------------------------------------------------------------------------------------------ densities
SIZES = [(1, 1), (2, 1), (3, 3), (5, 2), (12, 4), (60, 3), (100, 5), (40, 40)]


@noise_
@pytest.mark.parametrize(("D", "d"), SIZES)
def test_log_densities_are_those_of_the_dense_normal(D, d, noise):
    model = some_model(D, d, noise)
    X = 2 * rng(1).standard_normal((50, D))
    want = gaussian_log_density(X, *dense(model))
    assert_allclose(model.score_samples(X), want, rtol=1e-12, atol=1e-12)
    assert_allclose(model.score_samples(X[:7]), stats.multivariate_normal(*dense(model)).logpdf(X[:7]), rtol=1e-9)
    assert_allclose(model.score(X), want.mean(), rtol=1e-12)
    w = rng(2).gamma(1.0, size=50)
    assert_allclose(model.score(X, sample_weight=w), np.average(want, weights=w), rtol=1e-12)


def exact_log_density(x, W, mu, psi):
    """Of the observed part of x, in 60 digits."""
    o = np.flatnonzero(~np.isnan(x))
    if o.size == 0:
        return 0.0
    with mpmath.workdps(60):
        A = mpmath.matrix(W[o].tolist())
        S = A * A.T + mpmath.diag([mpmath.mpf(v) for v in psi[o]])
        y = mpmath.matrix([mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(x[o], mu[o])])
        q = (y.T * mpmath.lu_solve(S, y))[0]
        return float(-(q + len(o) * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(S))) / 2)


@noise_
@gaps_
@pytest.mark.parametrize("ratio", [1e-2, 1e-5, 1e-8])
def test_log_densities_keep_their_digits_where_the_noise_is_small(ratio, gaps, noise):
    """Woodbury's difference of squares would lose 1/ratio of them; a sum of squares at its minimum does not."""
    r = rng(5)
    W, mu = r.standard_normal((6, 2)), r.standard_normal(6)
    psi = ratio * (r.gamma(3.0, 0.5, 6) if noise == "diagonal" else 1.0)
    X = r.standard_normal((20, 2)) @ W.T + mu + np.sqrt(psi) * r.standard_normal((20, 6))
    X = holed(X, part=0.3) if gaps else X
    want = [exact_log_density(x, W, mu, np.broadcast_to(psi, 6)) for x in X]
    assert_allclose(by_hand(W, mu, psi).score_samples(X), want, rtol=0, atol=1e-12 / np.sqrt(ratio))


@noise_
@pytest.mark.parametrize(("D", "d"), SIZES[:-1])
def test_with_gaps_the_density_is_that_of_what_was_observed(D, d, noise):
    model, X = some_model(D, d, noise), holed(2 * rng(1).standard_normal((4000 // D if D > 20 else 200, D)))
    mu, S = dense(model)
    assert_allclose(model.score_samples(X), gaussian_log_density(X, mu, S), rtol=1e-10, atol=1e-12)
    assert_allclose(model.score(X), gaussian_log_density(X, mu, S).sum() / observed(X).sum(), rtol=1e-10)


@T_
@noise_
def test_float32_answers_are_those_of_float64_to_its_rounding(noise, T):
    model, X = some_model(8, 3, noise), gapped(500, 8, 3).astype(np.float32)
    want = gaussian_log_density(X.astype(float), *dense(model))
    got = model.score_samples(X.astype(T))
    assert got.dtype == T
    assert_allclose(got, want, rtol=1e-5 if T is np.float32 else 1e-11, atol=1e-4 if T is np.float32 else 0)


@noise_
def test_rows_far_from_everything_score_low_and_finite(noise):
    for T in (np.float32, np.float64):
        model = fit(data().astype(T), noise=noise)
        most = np.finfo(T).max
        X = np.zeros((4, 6), T)
        X[0], X[1, 2], X[2, ::2] = 1e10, -1e18, most / 8
        assert np.isfinite(model.score_samples(X)).all()
        assert (model.score_samples(X)[:3] < -1e15).all()


def test_many_columns_take_no_square_matrix():
    model, X = some_model(20_000, 3, "diagonal"), rng().standard_normal((20, 20_000))
    model.score_samples(X[:2])
    tracemalloc.start()
    got = model.score_samples(X)
    assert tracemalloc.get_traced_memory()[1] < 30e6  # 3.2 GB would be one
    tracemalloc.stop()
    assert np.isfinite(got).all()


# ------------------------------------------------------------------------------------------------ the objective
class Problem:
    """Parameters away from any optimum, data, weights, and the objective over a kernel set."""

    def __init__(self, k, noise, gaps, weighted, N=70, D=5, d=2, T=np.float64, seed=0):
        r = rng([seed, N, D, d])
        self.X = (gapped if gaps else data)(N, D, d, seed=seed).astype(T)
        self.w = r.gamma(1.0, size=N) if weighted else None
        if weighted:
            self.w[::4] = 0
        self.isotropic = noise == "isotropic"
        psi = np.full(D, 0.7) if self.isotropic else r.gamma(4.0, 0.2, D)
        self.p = Params(r.standard_normal((D, d)), r.standard_normal(D), psi)
        rows = Rows(k, k.put(self.X), self.X, np.empty(0) if self.w is None else self.w, gaps)
        self.likelihood = Likelihood(rows, self.isotropic, np.asarray(0.0))


def assert_same_params(got, want, rtol):
    """W W', mu and psi."""
    assert_allclose(got[0] @ got[0].T, want[0] @ want[0].T, rtol=rtol, atol=rtol * np.abs(want[0]).max() ** 2)
    assert_allclose(got[1], want[1], rtol=rtol, atol=rtol)
    assert_allclose(got[2], want[2], rtol=rtol)


objective_ = lambda f: noise_(gaps_(weighted_(f)))


@objective_
@pytest.mark.parametrize(("N", "D", "d"), [(70, 5, 2), (70, 5, 5), (400, 1, 1), (14, 19, 2), (9, 2, 1)])
def test_one_em_step_is_that_of_the_reference(k, noise, gaps, weighted, N, D, d):
    p = Problem(k, noise, gaps, weighted, N, D, d)
    s = p.likelihood.statistics(p.p)
    total = observed(p.X, p.w).sum()
    assert_allclose(s.weight, total, rtol=1e-12)
    assert_allclose(s.bound, ppca_log_likelihood(p.X, p.w, *p.p) / total, rtol=1e-11)
    assert_same_params(p.likelihood.maximise(s), ppca_em_step(p.X, p.w, *p.p, p.isotropic), 1e-8)


@objective_
def test_statistics_are_the_moments_of_the_reference(k, noise, gaps, weighted):
    p = Problem(k, noise, gaps, weighted)
    s, (W, mu, _), d = p.likelihood.statistics(p.p), p.p, 2
    A, _, _, whole = ppca_moments(p.X, p.w, *p.p)
    z, C = ppca_posterior(p.X, *p.p)
    assert_allclose(unpack(s.A[-1, :6], d + 1), whole, rtol=1e-11, atol=1e-11)
    assert_allclose(unpack(s.A[-1, 6:9], d), np.einsum("n,nij->ij", observed(p.X, p.w), C), rtol=1e-11)
    if gaps:
        assert_allclose(unpack(s.A[:-1, :6], d + 1), A, rtol=1e-11, atol=1e-11)
    else:
        assert s.A.shape == (1, 10)
    r = np.nan_to_num(p.X - mu - z @ W.T) * observed(p.X, p.w)[:, None]
    assert_allclose(s.g, r.T @ np.column_stack([z, np.ones(len(z))]), rtol=1e-10, atol=1e-10)
    assert_allclose(s.E, (r * np.nan_to_num(p.X - mu - z @ W.T)).sum(0), rtol=1e-11)


@objective_
def test_the_bound_has_the_gradient_of_the_likelihood_after_the_e_step(k, noise, gaps, weighted):
    """By hand from the statistics, and by differences of the bound (posterior held fixed) and of the likelihood."""
    p = Problem(k, noise, gaps, weighted, N=25)
    (W, mu, psi), q = p.p, ppca_posterior(p.X, *p.p)
    s = p.likelihood.statistics(p.p)
    if gaps:
        n, C = s.A[:-1, 5], unpack(s.A[:-1, 6:9], 2)
    else:
        n, C = np.full(5, s.A[0, 5]), np.array([unpack(s.A[0, 6:9], 2)] * 5)
    WC = np.einsum("di,dij->dj", W, C)
    by_hand = [(s.g[:, :2] - WC) / psi[:, None], s.g[:, 2] / psi, 0.5 * ((s.E + (WC * W).sum(1)) / psi - n)]
    flat = np.concatenate([a.ravel() for a in by_hand])
    at = lambda f: lambda v: f(v[:10].reshape(5, 2), v[10:15], psi * np.exp(v[15:]))
    x = np.concatenate([W.ravel(), mu, np.zeros(5)])
    bound = gradient(at(lambda *t: ppca_expected_bound(p.X, p.w, q, *t)), x)
    likelihood = gradient(at(lambda *t: ppca_log_likelihood(p.X, p.w, *t)), x)
    scale = np.abs(flat).max()
    assert_allclose(flat, bound, rtol=1e-8, atol=1e-9 * scale)
    assert_allclose(flat, likelihood, rtol=1e-8, atol=1e-9 * scale)
    assert_allclose(ppca_expected_bound(p.X, p.w, q, *p.p), s.bound * s.weight, rtol=1e-11)
    moved = q[0] + 0.1, q[1] * 1.1
    assert ppca_expected_bound(p.X, p.w, moved, *p.p) < s.bound * s.weight


@objective_
def test_statistics_add_and_scale(k, noise, gaps, weighted):
    p = Problem(k, noise, gaps, weighted, N=300)
    whole, parts = p.likelihood.statistics(p.p), []
    for rows in (slice(0, 100), slice(100, 300)):
        X, w = p.X[rows], np.empty(0) if p.w is None else p.w[rows]
        part = Likelihood(Rows(k, k.put(X), X, w, gaps), p.isotropic, np.asarray(0.0))
        parts.append(part.statistics(whole.at))
    total = parts[0]._replace(at=whole.at) + parts[1]._replace(at=whole.at)
    for name in ("A", "g", "E"):
        assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-11, atol=1e-10)
        assert_allclose(getattr(whole.scaled(3.0), name), 3 * getattr(whole, name), rtol=1e-15)
    assert_allclose(total.bound, whole.bound, rtol=1e-12)
    assert whole.scaled(3.0).bound == pytest.approx(whole.bound, rel=1e-14)
    other = p.likelihood.statistics(p.p._replace(mu=p.p.mu + 1))
    with pytest.raises(ValueError, match=r"^Statistics at different parameters do not add\.$"):
        whole + other


@objective_
def test_blocks_of_any_size_give_the_same_sums(k, noise, gaps, weighted, monkeypatch):
    p = Problem(k, noise, gaps, weighted, N=1000)
    want = p.likelihood.statistics(p.p)
    for room in (1, 5000, 50_000):
        monkeypatch.setattr(k.ppca, "ROOM", room)
        assert room > 1000 or len(list(p.likelihood.rows.blocks(p.p, False))) == len(p.likelihood.rows.ends) - 1
        got = p.likelihood.statistics(p.p)
        for name in ("A", "g", "E"):
            assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-11, atol=1e-10)


@noise_
@gaps_
def test_the_statistics_expected_from_a_model_give_that_model(k, noise, gaps):
    p = Problem(k, noise, gaps, False)
    for weight in (1.0, 0.3, 1e3):
        s = p.likelihood.expected(p.p, weight)
        assert_allclose(s.weight, weight, rtol=1e-14)
        assert_same_params(p.likelihood.maximise(s), p.p, 1e-11)


@noise_
def test_the_least_variance_is_held_or_degenerate(k, noise):
    p = Problem(k, noise, False, False)
    s = p.likelihood.statistics(p.p)
    free = p.likelihood.maximise(s).psi
    p.likelihood.least = free[2] * 1.01
    if noise == "isotropic":
        with pytest.raises(Degenerate):
            p.likelihood.maximise(s)
    else:
        assert_array_equal(p.likelihood.maximise(s).psi, np.maximum(free, free[2] * 1.01))


@gaps_
@noise_
def test_after_a_step_the_latent_covariance_given_data_is_diagonal(k, noise, gaps):
    p = Problem(k, noise, gaps, True, d=3)
    M = objective.inner(p.likelihood.maximise(p.likelihood.statistics(p.p)))
    assert_allclose(M - np.diag(np.diag(M)), 0, atol=1e-12 * M.max())


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e8])
@weighted_
def test_the_covariance_of_complete_rows_is_that_about_their_mean(k, offset, weighted, monkeypatch):
    X = np.round(data(3000, 5) * 64) / 64
    X[:, 1] += 50 * (np.arange(3000) > 2900)  # so that the mean of some rows is far from that of all
    w = rng(1).gamma(1.0, size=3000) * (np.arange(3000) % 3 > 0) if weighted else None
    mean, S = np.average(X, axis=0, weights=w), np.cov(X.T, aweights=w, bias=True)
    X += offset
    for room in (k.ppca.ROOM, 8 * 6 * 300):
        monkeypatch.setattr(k.ppca, "ROOM", room)
        s, about = np.sqrt(w) if weighted else np.empty(0), X.mean(0)
        W, m, C = objective.covariance(k, k.put(X), X, s, about)
        assert_allclose(W, w.sum() if weighted else 3000, rtol=1e-13)
        assert_allclose(m - offset, mean, rtol=0, atol=1e-12 if offset < 1e4 else 1e-7)
        assert_allclose(C, S, rtol=1e-11, atol=1e-11)


def test_the_covariance_is_taken_about_the_mean_where_some_rows_mislead(k):
    """Every other row, one of two that are looked at, is far away and weighs next to nothing."""
    X, w = data(3000, 5), np.ones(3000)
    X[::2] += 1e7
    w[::2] = 1e-30
    _, m, C = objective.covariance(k, k.put(X), X, np.sqrt(w), X.mean(0))
    assert_allclose(m, X[1::2].mean(0), rtol=1e-9)
    assert_allclose(C, np.cov(X[1::2].T, bias=True), rtol=1e-9, atol=1e-9)


@gaps_
@weighted_
def test_with_gaps_squares_are_taken_about_the_center_which_gaps_count_as(k, gaps, weighted):
    X, center = (gapped if gaps else data)(700, 5), rng(2).standard_normal(5)
    w = rng(1).gamma(1.0, size=700) if weighted else np.ones(700)
    Y = np.nan_to_num(X - center)
    W, mean, S = objective.covariance(k, k.put(X), X, np.sqrt(w) if weighted else np.empty(0), center, True)
    assert_allclose(W, w.sum(), rtol=1e-13)
    assert_allclose(mean, center + w @ Y / w.sum(), rtol=1e-12)
    assert_allclose(S, np.cov(Y.T, aweights=w, bias=True), rtol=1e-11, atol=1e-12)
    W, mean, var = objective.mean_and_variance(X, np.sqrt(w) if weighted else np.empty(0), center)
    assert_array_equal(mean, center)
    assert_allclose(var, w @ Y**2 / w.sum(), rtol=1e-12)


@weighted_
@pytest.mark.parametrize("N", [2, 5, 8])
def test_axes_of_few_rows_are_those_of_their_covariance(k, N, weighted):
    X = data(N, 8, 3) + 1e3
    w = rng(1).gamma(1.0, size=N) if weighted else None
    s = np.sqrt(w) if weighted else np.empty(0)
    S = np.cov(X.T, aweights=w, bias=True)
    W, mean, var = objective.mean_and_variance(X, s)
    assert_allclose(W, w.sum() if weighted else N)
    assert_allclose(mean, np.average(X, axis=0, weights=w), rtol=1e-14)
    assert_allclose(var, np.diag(S), rtol=1e-10)
    v, U = objective.axes_of_rows(k, k.put(X), s, mean, W)
    assert_allclose((U * v) @ U.T, S, rtol=1e-9, atol=1e-10)
    for d in (1, 2, 8):
        some, axes = objective.axes_of_rows(k, k.put(X), s, mean, W, d)
        assert_allclose(some, v, rtol=1e-12, atol=1e-12)
        assert_allclose(axes, U[:, :d], rtol=1e-6, atol=1e-6)
    unit = np.geomspace(0.1, 10, 8)
    v, U = objective.precise_axes(X, s, mean, unit, W)
    assert_allclose((U * v) @ U.T, S / np.outer(unit, unit), rtol=1e-9, atol=1e-9)
    assert_allclose(U.T @ U, np.eye(U.shape[1]), atol=1e-12)


@weighted_
def test_precise_axes_keep_a_variance_1e_20_of_the_largest(weighted):
    """From squares there would be 1e-16 of rounding. Many rows are reduced block by block."""
    Q = np.linalg.qr(rng().standard_normal((4, 4)))[0]
    Z = rng(1).standard_normal((3000, 4))
    w = rng(2).gamma(1.0, size=3000) if weighted else None
    Z -= np.average(Z, axis=0, weights=w)
    Z = np.linalg.solve(np.linalg.cholesky(np.cov(Z.T, aweights=w, bias=True)), Z.T).T  # covariance 1
    want = np.array([1, 1e-6, 1e-12, 1e-20])
    X = (Z * np.sqrt(want)) @ Q.T
    weight = w.sum() if weighted else 3000
    s = np.sqrt(w) if weighted else np.empty(0)
    v, U = objective.precise_axes(X, s, np.average(X, axis=0, weights=w), np.ones(4), weight)
    assert_allclose(v, want, rtol=1e-5)
    assert_allclose(np.abs(np.sum(U * Q, axis=0)), 1, atol=1e-9)


def test_axes_are_those_of_the_covariance_by_falling_variance():
    S = np.cov(rng().standard_normal((500, 30)).T * np.geomspace(5, 1, 30)[:, None])
    v, U = objective.axes_of(S)
    assert (np.diff(v) < 0).all()
    assert_allclose((U * v) @ U.T, S, atol=1e-12)
    assert (objective.axes_of(np.zeros((3, 3)))[0] == 0).all()


@pytest.mark.parametrize("n", [1, 3, 5])
def test_few_rows_have_the_mean_and_covariance_of_all(n):
    U = np.linalg.qr(rng().standard_normal((5, n)))[0]
    v = np.geomspace(3, 0.1, n)
    X = objective.few_rows(v, U)
    assert X.shape == (6, 5)
    assert_allclose(X.mean(0), 0, atol=1e-14)
    assert_allclose(np.cov(X.T, bias=True), (U * v) @ U.T, atol=1e-13)


# ------------------------------------------------------------------------------------------------ factor analysis
@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_step_of_factor_analysis_has_w_and_then_each_psi_at_the_best(d):
    """The likelihood in W, and in one psi after the other, has its maximum there."""
    X = data(40, 6, 3, seed=d)
    X = (X - X.mean(0)) / X.std(0)
    S, least = np.cov(X.T, bias=True), np.full(6, 1e-3)
    log_p = lambda W, psi: gaussian_log_density(X, np.zeros(6), W @ W.T + np.diag(psi)).mean()
    analysis = objective.FactorAnalysis(np.linalg.cholesky(S).T, least)
    p = objective.Params(rng(0).standard_normal((6, d)), np.zeros(6), np.array([0.5, 0.002, 0.9, 0.3, 2.0, 0.05]))
    s = analysis.statistics(p)
    W = s.at.W
    assert_allclose(s.bound, log_p(W, p.psi), rtol=1e-12)
    assert_allclose(gradient(lambda a: log_p(a, p.psi), W), 0, atol=1e-7)
    for seed in range(20):  # and of all W: there is no higher one
        assert log_p(rng(seed).standard_normal((6, d)) * 0.5, p.psi) < s.bound
    psi, new = p.psi.copy(), analysis.maximise(s).psi
    for i in range(6):
        at = lambda v, i=i: -log_p(W, np.where(np.arange(6) == i, np.exp(v), psi))
        found = minimize_scalar(at, bounds=(np.log(least[i]), 5), method="bounded", options={"xatol": 1e-10})
        assert_allclose(new[i], np.exp(found.x), rtol=1e-5)
        psi[i] = new[i]
    assert analysis.statistics(p._replace(psi=new)).bound > s.bound


def test_factor_analysis_of_iris_is_at_its_maximum_in_few_steps():
    """One psi goes to 0 (Heywood 1931), where EM takes a hundred thousand steps."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    X = load_iris()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = decomposition.FactorAnalysis(1, svd_method="lapack", tol=1e-12, max_iter=20_000).fit(X).score(X)
    model = fit(X, 1, noise="diagonal")
    assert model.converged_
    assert model.n_iter_ < 20
    assert model.score(X) > peer


# ------------------------------------------------------------------------------------------------ bounds
@objective_
@T_
def test_the_bound_never_falls(noise, gaps, weighted, T):
    sets = [load_faithful(), load_iris(), data(100, 8, 3), rng(3).integers(0, 4, (150, 3)).astype(float)]
    for X in sets:
        X = (holed(X, part=0.3) if gaps else X).astype(T)
        w = rng(1).integers(0, 4, len(X)) if weighted else None
        for seed in range(3):
            model = fit(X, min(3, X.shape[1] - 1), weight=w, noise=noise, method="em", tol=0, max_iter=60, seed=seed)
            b, eps = np.array(model.lower_bounds_), np.finfo(T).eps
            assert len(b) == 60
            digits = 5000 if noise == "diagonal" and not gaps else 20  # ECME: singular values from 1 to 1e4
            assert (np.diff(b) >= -digits * eps * (1 + np.abs(b[1:]))).all(), np.diff(b).min()


@pytest.mark.parametrize(("noise", "gaps"), [("isotropic", False), ("isotropic", True), ("diagonal", True)])
def test_every_step_and_its_bound_are_those_of_the_reference(noise, gaps):
    X, w = (gapped if gaps else data)(60, 4, 2), rng(1).gamma(1.0, size=60)
    start = fit(X, weight=w, noise=noise, method="em", max_iter=0)
    assert (start.n_iter_, start.lower_bounds_, start.converged_) == (0, [], False)
    t, total = theta(start), observed(X, w).sum()
    assert_allclose(start.lower_bound_, ppca_log_likelihood(X, w, *t) / total, rtol=1e-11)
    model = fit(X, weight=w, noise=noise, method="em", max_iter=8, tol=0)
    for i in range(8):
        t = ppca_em_step(X, w, *t, noise == "isotropic")
        assert_allclose(model.lower_bounds_[i], ppca_log_likelihood(X, w, *t) / total, rtol=1e-10)
    assert_same_params(theta(model), t, 1e-8)
    assert_allclose(model.score(X, sample_weight=w), model.lower_bound_, rtol=1e-12)


@objective_
def test_a_converged_fit_is_a_fixed_point(k, noise, gaps, weighted):
    """At most 1e-9 nats are still to come; parameters rest to the root of that, and by far with a small tol."""
    X = (gapped if gaps else data)(120, 6, 2, spread=2.0)
    w = rng(1).gamma(1.0, size=120) if weighted else None
    model = fit(X, weight=w, noise=noise, method="em", tol=1e-15)
    assert model.converged_
    rows = Rows(k, k.put(X), X, np.empty(0) if w is None else w, gaps)
    likelihood = Likelihood(rows, noise == "isotropic", np.asarray(0.0))
    p = Params(*theta(model))
    assert_same_params(likelihood.maximise(likelihood.statistics(p)), p, 2e-6)
    if noise == "isotropic" and not gaps:
        p = Params(*ppca_exact(X, w, 2))
        assert_same_params(likelihood.maximise(likelihood.statistics(p)), p, 1e-10)


@noise_
@gaps_
def test_converged_means_converged(noise, gaps):
    for X in (load_iris(), data(100, 8, 3, spread=5.0), rng(1).standard_normal((200, 5))):
        X = holed(X, part=0.3) if gaps else X
        for seed in range(1):
            model = fit(X, 2, noise=noise, method="em", seed=seed, max_iter=1000)
            if model.converged_:
                further = fit(X, 2, noise=noise, method="em", seed=seed, tol=1e-14, max_iter=3000)
                assert 0 <= further.lower_bound_ - model.lower_bound_ + 1e-12 < 5e-9


@objective_
def test_from_anywhere_em_climbs_to_where_the_fit_ends(k, noise, gaps, weighted):
    """A fit may begin near its end; here steps begin at parameters drawn at random."""
    p = Problem(k, noise, gaps, weighted, N=150, D=8)
    bounds, s = [], p.likelihood.statistics(p.p)
    for _ in range(300):
        bounds.append(s.bound)
        s = p.likelihood.statistics(p.likelihood.maximise(s))
    assert (np.diff(bounds) > -1e-13 * np.abs(bounds[1:])).all()
    assert bounds[-1] - bounds[0] > 1
    model = fit(p.X, weight=p.w, noise=noise, tol=1e-12)
    assert_allclose(bounds[-1], model.lower_bound_, rtol=0, atol=1e-7)


@pytest.mark.parametrize("d", [1, 3, 6, 7, 8])
def test_em_reaches_the_maximum_of_any_number_of_components(d):
    """A start whose noise is far above the small eigenvalues must not lose the axes of these."""
    for seed in range(3):
        X = data(40, 8, 8, noise=0.02, seed=seed) * np.geomspace(1, 0.1, 8)
        best = fit(X, d).score(X)
        assert_allclose(fit(X, d, method="em", seed=seed).score(X), best, rtol=0, atol=1e-7)


def test_a_fit_that_did_not_converge_says_so():
    message = "EM did not converge: the bound still rose at step 3. Try a larger max_iter or tol."
    with pytest.warns(ConvergenceWarning, match=f"^{re.escape(message)}$"):
        model = ProbabilisticPCA(2, max_iter=3, random_state=0).fit(gapped())
    assert not model.converged_
    assert model.n_iter_ == 3


@pytest.mark.parametrize(("method", "steps"), [("exact", 1), ("stochastic_em", 143)])
def test_what_is_no_em_has_one_bound(method, steps):
    model = fit(data(), method=method, n_draws=1000, batch_size=7)
    assert model.converged_
    assert model.lower_bounds_ == [model.lower_bound_]
    assert model.n_iter_ in (steps, steps - 1) or method == "stochastic_em"


# ------------------------------------------------------------------------------------------------ rotation, invariance
def test_all_methods_end_at_the_same_axes_and_signs():
    X = data(400, 6, 3, noise=0.2)
    exact = fit(X, 3)
    assert_same_model(exact, fit(X, 3, method="em", tol=1e-15), 1e-6)
    drawn = fit(X, 3, method="stochastic_em", n_draws=1_000_000, batch_size=2)
    assert_allclose(drawn.components_, exact.components_, atol=0.02)
    assert_allclose(drawn.loadings_, exact.loadings_, atol=0.05)
    axes = np.linalg.eigh(np.cov(X.T))[1][:, :2:-1].T  # those of PCA
    assert_allclose(np.abs(np.sum(exact.components_ * axes, axis=1)), 1, rtol=1e-12)


@noise_
@gaps_
def test_axes_do_not_depend_on_the_order_of_rows_or_on_the_seed(noise, gaps):
    X = (gapped if gaps else data)(150, 8, 2)
    want = fit(X, noise=noise, tol=1e-14)
    assert_whole(want, X)
    assert_same_model(want, fit(X[rng().permutation(150)], noise=noise, tol=1e-14), 1e-5)
    assert_same_model(want, fit(X, noise=noise, tol=1e-14, seed=7), 1e-5)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
@noise_
@gaps_
def test_other_units_give_the_same_fit(noise, gaps, scale):
    X = (gapped if gaps else data)()
    want, got = (fit(x, noise=noise, tol=0, max_iter=30) for x in (X, X * scale))
    assert_allclose(got.loadings_ / scale, want.loadings_, rtol=1e-7, atol=1e-7)
    assert_allclose(got.noise_variance_ / scale / scale, want.noise_variance_, rtol=1e-6)
    assert_allclose(got.transform(X * scale), want.transform(X), atol=1e-6)
    seen = (~np.isnan(X)).sum(1)
    assert_allclose(got.score_samples(X * scale) + seen * np.log(scale), want.score_samples(X), atol=1e-6)


@pytest.mark.parametrize("scales", [(1e-6, 1e6), (1e-3, 1e3)])
@gaps_
def test_factor_analysis_does_not_see_the_units_of_columns(scales, gaps):
    X, units = (gapped if gaps else data)(spread=3.0), np.geomspace(*scales, 6)
    want, got = (fit(x, noise="diagonal", tol=0, max_iter=300) for x in (X, X * units))
    assert_allclose(dense(got)[1] / np.outer(units, units), dense(want)[1], rtol=1e-5, atol=1e-5)
    assert_allclose(got.lower_bound_ + (~np.isnan(X) @ np.log(units)).sum() / observed(X).sum(), want.lower_bound_)


@pytest.mark.parametrize("offset", [1e4, 1e8, -1e8])
@noise_
@gaps_
def test_an_offset_gives_the_same_fit(noise, gaps, offset):
    X = np.round((gapped if gaps else data)() * 2**16) / 2**16  # the offset adds all but without rounding
    far = X + offset
    X = far - offset
    want, got = fit(X, noise=noise), fit(far, noise=noise)
    assert_allclose(got.mean_ - offset, want.mean_, atol=1e-7)
    assert_allclose(dense(got)[1], dense(want)[1], rtol=1e-5, atol=1e-5)
    assert_allclose(got.score(far), want.score(X), rtol=1e-7)
    assert np.isfinite(got.score_samples(far)).all()


# ------------------------------------------------------------------------------------------------ weights
fits_ = pytest.mark.parametrize(
    ("method", "noise", "gaps"),
    [("exact", "isotropic", False), ("em", "isotropic", False), ("em", "diagonal", False), ("em", "isotropic", True),
     ("em", "diagonal", True)],
)  # fmt: skip


@fits_
@pytest.mark.parametrize(("N", "D"), [(150, 5), (30, 12)])
def test_a_weight_is_that_many_rows_and_weight_zero_is_no_row(method, noise, gaps, N, D):
    X, options = (gapped if gaps else data)(N, D, 2), {"method": method, "noise": noise, "max_iter": 50, "tol": 0}
    w = rng(1).integers(0, 4, size=N)
    got = fit(X, weight=w, **options)
    assert_same_model(got, fit(np.repeat(X, w, axis=0), **options), 1e-6)
    assert_same_model(got, fit(X[w > 0], weight=w[w > 0].astype(float), **options), 1e-6)
    far = np.where(w[:, None] > 0, X, 1e100)
    assert_same_model(got, fit(far, weight=w, **options), 1e-6)
    assert got.n_samples_seen_ == w[~np.isnan(X).all(1)].sum()


@fits_
@T_
def test_only_proportions_of_weights_matter(method, noise, gaps, T):
    X, w = (gapped if gaps else data)().astype(T), rng(1).gamma(1.0, size=200)
    w[::5] = 0
    options = {"method": method, "noise": noise, "max_iter": 30, "tol": 0}
    want = fit(X, weight=w, **options)
    for factor in (2.0**-30, 2.0**40):
        got = fit(X, weight=w * factor, **options)
        assert_same_model(want, got, 1e-9 if T is np.float64 else 1e-3)
    for factor in (1e-200, 1e-30, 3.0, 1e30, 1e200):
        got = fit(X, weight=w * factor, **options)
        assert_same_model(want, got, 1e-7 if T is np.float64 else 1e-3)
        assert got.n_samples_seen_ == pytest.approx(want.n_samples_seen_ * factor, rel=1e-6)
    assert_same_model(fit(X, **options), fit(X, weight=7, **options), 1e-7 if T is np.float64 else 1e-3)


def test_stochastic_em_draws_by_weight():
    X, w = data(200, 4, 2, noise=1.0), np.repeat([0.0, 1.0, 5.0], [50, 75, 75])
    X[:125] += 2
    want, got = fit(X, weight=w), fit(X, weight=w, method="stochastic_em", n_draws=300_000)
    assert got.score(X, sample_weight=w) == pytest.approx(want.lower_bound_, abs=1e-3)
    assert fit(X).score(X, sample_weight=w) < want.lower_bound_ - 0.02


@noise_
def test_rows_of_gaps_alone_count_nowhere(noise):
    X = gapped(100, 5, 2)
    X = X[~np.isnan(X).all(1)]
    empty = np.insert(X, [0, 3, 3, len(X)], np.nan, axis=0)
    want, got = (fit(x, noise=noise, max_iter=30) for x in (X, empty))
    assert_same_state(state(got), state(want))
    none = np.isnan(empty).all(1)
    assert none.sum() == 4
    assert_array_equal(got.score_samples(empty)[none], 0)
    assert_array_equal(got.transform(empty)[none], 0)
    assert_array_equal(got.posterior(empty)[1][none], [np.eye(2)] * 4)
    assert_array_equal(got.impute(empty)[none], [got.mean_] * 4)
    assert_allclose(got.impute(empty, return_variance=True)[1][none], [np.diag(dense(got)[1])] * 4, rtol=1e-12)
    assert_allclose(got.score(empty), got.score(X), rtol=1e-13)
    assert_allclose(got.bic(empty), got.bic(X), rtol=1e-13)
    with pytest.raises(ValueError, match=r"^X has nothing observed in it: its rows are all NaN, or have no weight\.$"):
        got.score(empty[none])


def test_complete_rows_beside_rows_of_gaps_alone_are_fitted_exactly():
    X = data()
    empty = np.insert(X, [0, 7], np.nan, axis=0)
    assert_same_state(state(fit(empty)), state(fit(X)))
    assert_same_state(state(fit(empty, method="exact")), state(fit(X)))


# ------------------------------------------------------------------------------------------------ partial_fit
def in_blocks(blocks, d=2, weights=None, **params):
    model = ProbabilisticPCA(d, random_state=0, **params)
    with unsettled():
        for i, block in enumerate(blocks):
            assert model.partial_fit(block, sample_weight=None if weights is None else weights[i]) is model
    return model


@pytest.mark.parametrize("method", ["exact", "em"])
@weighted_
def test_blocks_without_gaps_are_fitted_as_all_rows_together(method, weighted):
    X, w = data(300, 5, 2), rng(1).gamma(1.0, size=300) if weighted else None
    cuts = [40, 41, 43, 200]
    model = in_blocks(np.split(X, cuts), weights=np.split(w, cuts) if weighted else None, method=method)
    want, rtol = fit(X, weight=w), 1e-10 if method == "exact" else 1e-5  # EM ends 1e-9 nats below
    assert_allclose(dense(model)[1], dense(want)[1], rtol=rtol, atol=rtol)
    assert_allclose(model.mean_, want.mean_, rtol=1e-10)
    score = [m.score(X, sample_weight=w) for m in (model, want)]
    assert_allclose(*score, rtol=1e-10 if method == "exact" else 1e-9)
    assert_allclose(model.loadings_, want.loadings_, rtol=100 * rtol, atol=10 * rtol)
    assert_allclose(model.sample_covariance_, np.cov(X.T, aweights=w, bias=True), rtol=1e-10, atol=1e-11)
    assert model.n_samples_seen_ == pytest.approx(w.sum() if weighted else 300)


def test_blocks_of_factor_analysis_without_gaps_end_where_fit_does():
    X = data(300, 8, 2, spread=2.0)
    model = in_blocks(np.array_split(X, 3), noise="diagonal")
    assert model.score(X) == pytest.approx(fit(X, noise="diagonal").score(X), abs=1e-7)


@noise_
@weighted_
def test_a_block_with_gaps_is_the_stepwise_step_of_the_reference(noise, weighted):
    X, block = data(100, 5, 2), gapped(60, 5, 2)
    w = rng(1).gamma(1.0, size=60) if weighted else None
    model = fit(X, noise=noise)
    t, total = theta(model), observed(block, w).sum()
    model.partial_fit(block, sample_weight=w)
    eta = (total / (100 + total)) ** 0.7
    assert_same_params(theta(model), ppca_stepwise(block, w, *t, noise == "isotropic", eta), 1e-8)
    assert_allclose(model.lower_bound_, ppca_log_likelihood(block, w, *t) / total, rtol=1e-10)
    assert model.lower_bounds_ == [model.lower_bound_]
    assert model.n_samples_seen_ == pytest.approx(100 + total)
    assert not hasattr(model, "sample_covariance_")
    assert_whole_but_iterations(model, block)


def assert_whole_but_iterations(model, X):
    model = copy.copy(model)
    model.n_iter_ = len(model.lower_bounds_)
    assert_whole(model, X)


@noise_
def test_many_blocks_with_gaps_come_near_the_fit_of_all_rows(noise):
    X = holed(data(8000, 8, 2), part=0.3)
    model = in_blocks(np.array_split(X, 40), noise=noise, max_iter=50)
    best = fit(X, noise=noise).score(X)
    assert best - 0.01 < model.score(X) <= best + 1e-9
    assert best - 0.01 > in_blocks([X[:50]], noise=noise, max_iter=50).score(X)  # and that is no matter of course


def test_a_block_counts_its_steps_and_the_model_it_had_not_seen():
    blocks = np.array_split(data(), 4)
    model = in_blocks(blocks[:3])
    want, steps = model.score(blocks[3]), model.n_iter_
    model.partial_fit(blocks[3])
    assert model.lower_bound_ == pytest.approx(want, rel=1e-12)
    assert model.n_iter_ == steps + 1


@noise_
@gaps_
@T_
def test_partial_fit_goes_on_after_fit_and_after_a_file(noise, gaps, T, tmp_path):
    first, second = data().astype(T), (gapped if gaps else data)(80, seed=0).astype(T)
    model = fit(first, noise=noise, max_iter=30)
    model.save(tmp_path / "model")
    twin = lvm.load(tmp_path / "model")
    with unsettled():
        model.partial_fit(second)
        twin.partial_fit(second)
    assert_same_state(state(twin), state(model))
    assert model.loadings_.dtype == T


def test_a_block_may_have_one_row_lack_a_column_or_have_rows_of_nothing():
    model = in_blocks([data(), data()[:1]])
    block = data(30, seed=0)
    block[:, 2] = np.nan
    block[3] = np.nan
    model.partial_fit(block)
    assert_whole_but_iterations(model, block)


@pytest.mark.parametrize(
    ("block", "weight", "message"),
    [
        (np.full((3, 6), np.nan), None, "X has nothing observed in it: its rows are all NaN, or have no weight."),
        (np.ones((3, 5)), None, "X has 5 features, but ProbabilisticPCA is expecting 6 features as input."),
        (np.ones((2, 6)), [1, -1], "Negative values in sample_weight"),
        (np.full((2, 6), np.inf), None, "Input X contains infinity"),
    ],
)
def test_a_block_that_is_wrong_leaves_the_model_as_it_was(block, weight, message):
    model = fit(data())
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.partial_fit(block, sample_weight=weight)
    assert_same_state(state(model), before)


def test_only_proportions_of_weights_matter_to_partial_fit():
    for more in (data, gapped):
        one, many = fit(data()), fit(data(), weight=1e30)
        one.partial_fit(more(50))
        many.partial_fit(more(50), sample_weight=1e30)
        assert_same_model(one, many, 1e-7)


# ------------------------------------------------------------------------------------------------ how many components
@pytest.mark.parametrize("method", ["exact", "em"])
@pytest.mark.parametrize("d", [1, 3])
def test_bic_finds_the_dimensions_of_simulated_data(d, method):
    X = data(500, 8, d)
    model = fit(X, "bic", method=method)
    assert model.n_components_ == d == 1 + model.bics_.argmin()
    assert_same_model(fit(X, d, method=method, seed=0), model, 1e-3)
    for i, value in enumerate(model.bics_[:5]):
        assert_allclose(fit(X, i + 1, method=method).bic(X), value, rtol=1e-7)
    assert method == "em" or len(model.bics_) == 7


@noise_
def test_bic_with_gaps_and_weights_counts_parameters(noise):
    X, w = gapped(400, 6, 2), rng(1).integers(0, 3, 400)
    model = fit(X, "bic", weight=w, noise=noise, max_iter=500)
    assert model.n_components_ == 2
    l, n = ppca_log_likelihood(X, w, *theta(model)), observed(X, w).sum()
    parameters = 6 + 6 * 2 - 1 + (1 if noise == "isotropic" else 6)
    assert_allclose(model.bics_[1], -2 * l + parameters * np.log(n), rtol=1e-6)
    assert_allclose(model.bic(X, sample_weight=w), -2 * l + parameters * np.log(n), rtol=1e-10)
    assert model.bics_.argmin() == 1


def test_factor_analysis_by_bic_has_fewer_parameters_than_a_covariance():
    """Ledermann 1937: (D - d)² >= D + d; of 6 columns 3 factors at most."""
    model = fit(data(200, 6, 3, noise=0.1), "bic", noise="diagonal", max_iter=300)
    assert len(model.bics_) <= 3
    assert not hasattr(fit(data(), 2), "bics_")


def test_no_number_of_components_is_one_less_than_the_rank():
    assert fit(data(50, 6, 2), None).n_components_ == 5
    assert fit(data(5, 9, 2), None).n_components_ == 3
    assert fit(data(50, 1, 1), None).n_components_ == 1
    X = data(50, 6, 2)
    X[:, 3] = X[:, 0] - X[:, 1]
    assert fit(X, None).n_components_ == 4
    X[:, 4] = 7
    assert fit(X, None).n_components_ == 3


@pytest.mark.parametrize(("N", "D"), [(5, 9), (9, 9), (12, 9), (60, 6)])
def test_gaps_and_no_number_of_components_are_fitted(N, D):
    X = data(N, D, 2)
    X[0, 1] = np.nan
    assert_whole(fit(X, None, max_iter=300), X)


WRONG = [
    (
        {"n_components": 0},
        "The 'n_components' parameter of ProbabilisticPCA must be an integer of at least 1, 'bic' or None, got 0",
    ),
    (
        {"n_components": 2.0},
        "The 'n_components' parameter of ProbabilisticPCA must be an integer of at least 1, 'bic' or None, got 2",
    ),
    (
        {"n_components": "mle"},
        "The 'n_components' parameter of ProbabilisticPCA must be an integer of at least 1, 'bic' or None, got",
    ),
    ({"n_components": 7}, "n_components=7 must be at most the number of columns of X, 6."),
    (
        {"method": "svd"},
        "The 'method' parameter of ProbabilisticPCA must be one of 'auto', 'exact', 'em', 'stochastic_",
    ),
    ({"noise": "full"}, "The 'noise' parameter of ProbabilisticPCA must be one of 'isotropic', 'diagonal', got 'full'"),
    ({"tol": -1.0}, "The 'tol' parameter of ProbabilisticPCA must be a finite number of at least 0, got -1.0"),
    ({"max_iter": -1}, "The 'max_iter' parameter of ProbabilisticPCA must be an integer of at least 0, got -1"),
    ({"n_draws": 0}, "The 'n_draws' parameter of ProbabilisticPCA must be an integer of at least 1, got 0"),
    ({"batch_size": 0}, "The 'batch_size' parameter of ProbabilisticPCA must be an integer of at least 1, got 0"),
    ({"verbose": -1}, "The 'verbose' parameter of ProbabilisticPCA must be an integer of at least 0, got -1"),
    ({"random_state": -1}, "random_state must be None, an integer of at least 0"),
    ({"device": "gpu"}, "device must be one of"),
    (
        {"method": "exact", "noise": "diagonal"},
        "method='exact' is for noise='isotropic', since factor analysis has no closed form. Try method='em' or 'auto'.",
    ),
]


@pytest.mark.parametrize(("params", "message"), WRONG, ids=lambda v: str(v)[:40])
def test_parameters_out_of_range_are_named_and_the_model_stays_as_it_was(params, message):
    model = fit(data())
    before = state(model)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.set_params(**params).fit(data())
    assert_same_state(state(model), before)


def test_exact_needs_complete_data_and_says_so():
    message = (
        "X contains NaN, and method='exact' needs complete data: with gaps the likelihood has no closed form. "
        "Try method='em' or 'auto'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ProbabilisticPCA(2, method="exact").fit(gapped())
    for noise, X, steps in (("isotropic", data(), 1), ("isotropic", gapped(), None), ("diagonal", data(), None)):
        assert (fit(X, noise=noise).n_iter_ == 1) == (steps == 1)  # "auto" chooses


# ------------------------------------------------------------------------------------------------ hostile data
def lies_in(d):
    """The error's whole text."""
    fewer = f"fewer components than {d}" if d > 1 else "more rows"
    return (
        f"The noise variance is zero: X lies in {d} dimensions or fewer, and the likelihood has no maximum. Try "
        f"{fewer}, or leave out columns that others determine."
    )


def rank(r, N=100, D=6, scale=1.0):
    """Rows in r dimensions, but for rounding."""
    return scale * (rng(r).standard_normal((N, r)) @ rng(r + 9).standard_normal((r, D)) + 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("X", "d"),
    [
        (rank(2), 2),
        (rank(3), 5),
        (rank(2, scale=1e-6), 2),
        (rank(2, scale=1e6), 3),
        (rank(2).astype(np.float32), 2),
        (data(3, 6), 2),
        (data(3, 6), 5),
        (data(6, 6), 5),
        (data(6, 6), 6),
        (np.arange(12.0).reshape(6, 2), 1),
    ],
    ids=["rank 2", "rank 3, d=5", "small", "large", "float32", "N=3", "N=3, d=5", "N=D", "d=N=D", "a line"],
)
def test_data_without_noise_are_refused_in_a_sentence(X, d, method):
    model = fit(data())
    before = state(model)
    model.set_params(n_components=d, method=method)
    with pytest.raises(NumericalError, match=f"^{re.escape(lies_in(d))}$"):
        model.fit(X)
    assert_same_state(state(model), before)
    assert issubclass(NumericalError, ValueError)


@pytest.mark.parametrize("level", [1e-3, 1e-6, 1e-9, 1e-11])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_noise_far_below_the_signal_is_found(level, offset):
    """Where squares would lose it: 1e-9 of the signal is 1e-18 of its variance."""
    Z, E = rng(1).standard_normal((500, 2)), rng(2).standard_normal((500, 6))
    W = rng(3).standard_normal((6, 2))
    X = Z @ W.T + level * E + offset
    Q = np.linalg.qr(W, mode="complete")[0][:, 2:]  # across W there is noise alone
    G = (E - E.mean(0)) @ Q
    C = np.column_stack([np.ones(500), Z])
    G -= C @ np.linalg.lstsq(C, G, rcond=None)[0]
    want = level**2 * (G**2).sum() / 500 / 4
    rounding = 1e-15 * (offset + 5) / level  # of X itself
    assert_allclose(fit(X).noise_variance_, want, rtol=1e-3 + 20 * rounding)
    assert np.isfinite(fit(X).score(X))


@pytest.mark.parametrize("method", ["exact", "em"])
@pytest.mark.parametrize(("N", "D", "d"), [(3, 9, 1), (9, 9, 4), (10, 9, 4), (2000, 1, 1), (30, 200, 5), (4, 2, 1)])
def test_few_rows_or_columns_have_the_closed_form(N, D, d, method):
    X = data(N, D, d)
    model, (W, mu, psi) = fit(X, d, method=method, tol=1e-13), ppca_exact(X, None, d) if d < D else (None, None, None)
    assert_whole(model, X)
    if d < D:
        assert_allclose(model.score(X), ppca_log_likelihood(X, None, W, mu, psi) / N, rtol=1e-9)
        assert_allclose(dense(model)[1], W @ W.T + np.diag(psi), rtol=1e-4, atol=1e-5)
    else:
        assert_allclose(dense(model)[1], X.var(), rtol=1e-4)


@noise_
def test_a_column_of_gaps_alone_is_refused(noise):
    X = data()
    X[:, 3] = np.nan
    model = fit(data(), noise=noise)
    before = state(model)
    with pytest.raises(ValueError, match=r"^Column 3 of X has nothing observed, it is all NaN\. Leave it out\.$"):
        model.fit(X)
    assert_same_state(state(model), before)


@gaps_
def test_a_constant_column_is_fitted_or_refused_by_its_number(gaps):
    X = data()
    X[:, 4] = 1e8
    X = holed(X, part=0.3) if gaps else X
    model = fit(X)
    assert_whole(model, X)
    assert_allclose(model.loadings_[4], 0, atol=1e-6)
    assert_allclose(model.mean_[4], 1e8, rtol=1e-15)
    message = (
        "Column 4 of X is constant, so that with noise='diagonal' the likelihood has no maximum. Leave it out, or try "
        "noise='isotropic'."
    )
    with pytest.raises(NumericalError, match=f"^{re.escape(message)}$"):
        fit(X, noise="diagonal")


@pytest.mark.parametrize("method", ["exact", "em"])
def test_rows_that_are_all_the_same_are_refused(method):
    message = r"^The columns of X must vary, with standard deviations of .* got 0 as the largest\. Try scaling X\.$"
    for X in (np.ones((5, 3)), np.full((5, 3), 1e8), np.zeros((4, 6)), np.ones((5, 3), np.float32)):
        with pytest.raises(ValueError, match=message):
            fit(X, 1, method=method)


@pytest.mark.parametrize("value", [1e200, 1e-200, 1e300])
@gaps_
def test_numbers_whose_squares_leave_the_range_are_refused_or_fitted(value, gaps):
    X = (gapped if gaps else data)() * value
    try:
        model = fit(X)
    except ValueError as e:
        assert str(e).endswith("Try scaling X.")  # noqa: PT017
    else:
        assert_whole(model, X)


@pytest.mark.parametrize("method", ["em", "stochastic_em"])
def test_factor_analysis_of_data_without_noise_ends_finite_above_its_least_variance(method):
    """At least 1e-8 of each column's own."""
    for X in (rank(1), data(4, 6), data(3, 6)):
        model = fit(X, 2, noise="diagonal", method=method, max_iter=200, n_draws=20_000)
        assert_whole(model, X)
        assert (model.noise_variance_ >= 0.99e-8 * X.var(0)).all()


@pytest.mark.parametrize("value", [1e6, -1e9, 1e12])
@noise_
def test_one_row_far_away_is_fitted(value, noise):
    X = data()
    X[7, 2] = value
    model = fit(X, noise=noise, max_iter=100)
    assert_whole(model, X)


# ------------------------------------------------------------------------------------------------ answers
@noise_
@gaps_
def test_the_posterior_is_that_of_dense_formulas(noise, gaps):
    model, X = some_model(7, 3, noise), (gapped if gaps else data)(150, 7, 3)
    z, C = ppca_posterior(X, *theta(model))
    means, covariances = model.posterior(X)
    assert_allclose(means, z, rtol=1e-9, atol=1e-11)
    assert_allclose(covariances, C, rtol=1e-9, atol=1e-11)
    assert_array_equal(model.transform(X), means)
    assert means.flags.writeable
    if not gaps:
        assert not covariances.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            covariances[0, 0, 0] = 1


@noise_
def test_gaps_are_filled_with_conditional_means_and_variances(noise):
    model, X = some_model(7, 3, noise), gapped(150, 7, 3)
    mu, S = dense(model)
    E, C = mixture_filled(X, mu[None], S[None])
    filled, variance = model.impute(X, return_variance=True)
    assert_allclose(filled, E[:, 0], rtol=1e-9, atol=1e-11)
    assert_allclose(variance, np.diagonal(C[:, 0], axis1=1, axis2=2), rtol=1e-9, atol=1e-11)
    seen = ~np.isnan(X)
    assert_array_equal(filled[seen], X[seen])
    assert_array_equal(variance[seen], 0)
    assert_array_equal(model.impute(X), filled)
    whole, none = model.impute(data(9, 7), return_variance=True)
    assert_array_equal(whole, data(9, 7))
    assert_array_equal(none, np.zeros((9, 7)))


@noise_
def test_covariance_and_precision_are_each_others_inverse(noise):
    model = some_model(9, 3, noise)
    assert_allclose(model.get_covariance(), dense(model)[1], rtol=1e-14)
    assert_allclose(model.get_precision() @ model.get_covariance(), np.eye(9), atol=1e-11)
    assert_allclose(model.get_precision(), np.linalg.inv(dense(model)[1]), rtol=1e-9, atol=1e-11)


def test_inverse_transform_is_where_z_lies():
    model = fit(data())
    Z = rng().standard_normal((5, 2))
    assert_allclose(model.inverse_transform(Z), Z @ model.loadings_.T + model.mean_, rtol=1e-14)
    with pytest.raises(ValueError, match=r"^Z has 3 columns, and there are n_components_ = 2\.$"):
        model.inverse_transform(np.ones((4, 3)))


@noise_
def test_without_noise_rows_come_back_from_their_latents(noise):
    r = rng(1)
    W, mu = r.standard_normal((6, 2)), r.standard_normal(6)
    model = by_hand(W, mu, 1e-14 if noise == "isotropic" else np.full(6, 1e-14))
    Z = r.standard_normal((20, 2))
    assert_allclose(model.transform(Z @ W.T + mu), Z, atol=1e-10)
    assert_allclose(model.inverse_transform(model.transform(Z @ W.T + mu)), Z @ W.T + mu, atol=1e-10)


@noise_
@gaps_
def test_an_answer_depends_on_its_row_alone(noise, gaps):
    model, X = some_model(6, 2, noise), (gapped if gaps else data)(500)
    order, part = rng().permutation(500), slice(123, 300)
    for f in (model.transform, model.score_samples, model.impute, lambda X: model.posterior(X)[1]):
        whole = f(X)
        for some in (order, part, slice(5, 6)):
            assert_allclose(f(X[some]), whole[some], rtol=1e-12, atol=1e-12)


@noise_
def test_samples_have_the_moments_of_the_model(noise):
    model, n = some_model(4, 2, noise), 100_000
    X, (mu, S) = model.sample(n), dense(model)
    assert X.shape == (n, 4)
    L = np.linalg.inv(np.linalg.cholesky(S))
    y = (X - mu) @ L.T  # standard normal
    assert stats.chi2(4).sf(n * (y.mean(0) ** 2).sum()) > 1e-3
    C = y.T @ y / n - np.eye(4)
    i, j = np.tril_indices(4)
    assert stats.chi2(10).sf(n * (C[i, j] ** 2 / np.where(i == j, 2, 1)).sum()) > 1e-3
    assert stats.kstest(y.ravel(), "norm").pvalue > 1e-3


def test_samples_repeat_with_their_seed_and_come_fresh_from_a_generator():
    model = fit(data())
    assert_array_equal(model.sample(5), model.sample(5))
    assert (model.sample(5) != model.set_params(random_state=1).sample(5)).all()
    model.set_params(random_state=rng(1))
    assert (model.sample(5) != model.sample(5)).all()
    assert fit(data().astype(np.float32)).sample(2).dtype == np.float32
    for n in (0, -1, 2.0, True, "3"):
        with pytest.raises(ValueError, match=r"The 'n_samples' parameter of sample must be an integer of at least 1"):
            model.sample(n)


@noise_
@gaps_
def test_the_posterior_is_calibrated(noise, gaps):
    """Of (z, x) from the model, the rank of z among draws from p(z | x) is uniform (Talts et al. 2018)."""
    model, r, n = some_model(5, 2, noise), rng(11), 4000
    W, mu, psi = theta(model)
    z = r.standard_normal((n, 2))
    X = z @ W.T + mu + np.sqrt(psi) * r.standard_normal((n, 5))
    X = holed(X) if gaps else X
    means, covariances = model.posterior(X)
    root = np.linalg.cholesky(covariances)
    draws = means[:, None] + np.einsum("nij,nsj->nsi", root, r.standard_normal((n, 19, 2)))
    for f in (lambda z: z[..., 0], lambda z: z[..., 1], lambda z: (z**2).sum(-1), lambda z: z[..., 0] * z[..., 1]):
        ranks = (f(draws) < f(z)[:, None]).sum(1)
        assert stats.chisquare(np.bincount(ranks, minlength=20)).pvalue > 1e-3
    y = np.linalg.solve(root, (z - means)[:, :, None])[:, :, 0]
    assert stats.kstest(y.ravel(), "norm").pvalue > 1e-3


@noise_
def test_what_was_filled_in_is_calibrated(noise):
    model, r = some_model(5, 2, noise), rng(12)
    whole = model.sample(4000)
    X = np.where(r.random(whole.shape) < 0.4, np.nan, whole)
    filled, variance = model.impute(X, return_variance=True)
    gap = np.isnan(X)
    assert stats.kstest((whole[gap] - filled[gap]) / np.sqrt(variance[gap]), "norm").pvalue > 1e-3


@noise_
def test_bic_counts_parameters(noise):
    X = data()
    model, n = fit(X, 3, noise=noise, max_iter=20), 6 + 6 * 3 - 3 + (1 if noise == "isotropic" else 6)
    assert_allclose(model.bic(X), -2 * model.score_samples(X).sum() + n * np.log(200), rtol=1e-12)
    assert_allclose(model.bic(X, sample_weight=np.full(200, 2.0)),
                    -4 * model.score_samples(X).sum() + n * np.log(400), rtol=1e-12)  # fmt: skip


def test_with_isotropic_noise_axes_are_those_of_scikit_learn():
    PCA = pytest.importorskip("sklearn.decomposition").PCA
    X = data(300, 6, 3)
    model, other = fit(X, 3), PCA(3).fit(X)
    ratio = 299 / 300  # it divides by N - 1
    assert_allclose(np.abs(np.sum(model.components_ * other.components_, axis=1)), 1, rtol=1e-12)
    assert_allclose(model.explained_variance_, other.explained_variance_ * ratio, rtol=1e-10)
    assert_allclose(model.explained_variance_ratio_, other.explained_variance_ratio_, rtol=1e-10)
    assert_allclose(model.noise_variance_, other.noise_variance_ * ratio, rtol=1e-10)
    assert_allclose(model.get_covariance(), other.get_covariance() * ratio, rtol=1e-10, atol=1e-12)


def test_factor_analysis_is_that_of_scikit_learn():
    FactorAnalysis = pytest.importorskip("sklearn.decomposition").FactorAnalysis
    X = data(300, 8, 2, spread=2.0)
    other = FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(X)
    model = fit(X, noise="diagonal", tol=1e-13)
    assert_allclose(model.score(X), other.score(X), rtol=1e-7)
    assert_allclose(model.get_covariance(), other.get_covariance(), rtol=1e-2, atol=1e-3)


# ------------------------------------------------------------------------------------------------ dtypes and memory
@noise_
@gaps_
@pytest.mark.parametrize("method", ["auto", "stochastic_em"])
def test_float32_stays_float32_and_is_accurate(noise, gaps, method):
    X = (gapped if gaps else data)().astype(np.float32)
    options = {"noise": noise, "method": method, "n_draws": 20_000, "tol": 0, "max_iter": 40}
    model, exact = fit(X, **options), fit(X.astype(float), **options)
    assert_whole(model, X)
    for a in (model.transform(X), model.score_samples(X), *model.posterior(X), model.impute(X), model.sample(2),
              model.inverse_transform(model.transform(X)), model.get_covariance(), model.get_precision(),
              model.impute(X, return_variance=True)[1], np.atleast_1d(model.mean_)):  # fmt: skip
        assert a.dtype == np.float32
    assert model.transform(X.astype(float)).dtype == np.float64
    assert_allclose(model.lower_bound_, exact.lower_bound_, rtol=1e-5)
    assert_allclose(dense(model)[1], dense(exact)[1], rtol=2e-3, atol=2e-3)
    assert type(model.noise_variance_) is (float if noise == "isotropic" else np.ndarray)


@noise_
@gaps_
def test_one_set_of_numbers_in_any_memory_gives_the_same_bits(noise, gaps, tmp_path):
    X = np.round((gapped if gaps else data)(), 3)
    before = X.copy()
    want = fit(X, noise=noise)
    np.save(tmp_path / "X.npy", X)
    frozen, w = X.copy(), np.ones(len(X))
    frozen.setflags(write=False)
    w.setflags(write=False)
    for other in (np.load(tmp_path / "X.npy", mmap_mode="r"), np.asfortranarray(X), frozen, X.astype(">f8")):
        got = fit(other, noise=noise)
        assert_same_state(state(got), state(want))
        assert_array_equal(got.transform(other), want.transform(X))
        assert_array_equal(got.score_samples(other), want.score_samples(X))
        assert_array_equal(got.impute(other), want.impute(X))
        got.partial_fit(other, sample_weight=w)
    fit(frozen, noise=noise, weight=w, method="stochastic_em", n_draws=1000)
    assert_array_equal(X, before)


@noise_
@gaps_
@pytest.mark.parametrize("method", ["auto", "em", "stochastic_em"])
def test_any_number_of_threads_gives_the_same_bits(noise, gaps, method):
    X = (gapped if gaps else data)(6000, 8, 3)
    options = {"noise": noise, "method": method, "n_draws": 5000, "max_iter": 5}
    want = fit(X, 3, **options)
    answers = lambda model: (model.transform(X), model.score_samples(X), *model.posterior(X), model.impute(X))
    first = answers(want)
    try:
        for threads in (1, 2, 8):
            lvm.set_num_threads(threads)
            assert_same_state(state(fit(X, 3, **options)), state(want))
            for a, b in zip(answers(want), first):
                assert_array_equal(a, b)
    finally:
        lvm.set_num_threads(None)


@noise_
@T_
def test_a_file_and_copies_give_the_same_bits(noise, T, tmp_path):
    X = gapped().astype(T)
    for rows in (X, data().astype(T)):
        model = fit(rows, noise=noise, max_iter=50)
        model.save(tmp_path / "model")
        for twin in (lvm.load(tmp_path / "model"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert_same_state(state(twin), state(model))
            assert twin.get_params() == model.get_params()
            for f in ("transform", "score_samples", "impute"):
                assert_array_equal(getattr(twin, f)(X), getattr(model, f)(X))
            assert_array_equal(twin.sample(3), model.sample(3))
            assert twin.score(X) == model.score(X)


def test_a_fit_by_bic_is_saved_with_its_table(tmp_path):
    model = fit(data(), "bic")
    model.save(tmp_path / "model")
    assert_same_state(state(lvm.load(tmp_path / "model")), state(model))


def test_noise_that_was_changed_after_fit_is_an_error():
    for before, after in (NOISES, NOISES[::-1]):
        model = fit(data(), noise=before).set_params(noise=after)
        of_rows = "transform", "score_samples", "score", "posterior", "impute", "partial_fit", "bic"
        for name, args in [(name, (data(),)) for name in of_rows] + [
            ("get_covariance", ()), ("get_precision", ()), ("sample", (2,))
        ]:  # fmt: skip
            with pytest.raises(ValueError, match=f"^noise was changed to {after!r} after fit\\. Call fit again\\.$"):
                getattr(model, name)(*args)


# ------------------------------------------------------------------------------------------------ bar, Ctrl-C
def test_verbose_shows_a_bar_with_the_bound(capsys):
    model = fit(load_iris(), 2, method="em", verbose=1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"bound {model.lower_bound_:.6f} nats per row" in shown.err
    assert f" {model.n_iter_} steps" in shown.err
    fit(load_iris(), 2, method="em")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("noise", "d"), [("diagonal", 2), ("isotropic", "bic")])
def test_ctrl_c_at_any_line_leaves_the_last_complete_step_or_nothing(noise, d):
    X = gapped(40, 4)
    options = {"n_components": d, "noise": noise, "random_state": 0, "tol": 0, "max_iter": 2}
    fresh, fitted = ProbabilisticPCA(**options), fit(gapped(40, 4, seed=1), 1, noise=noise)
    before, faults, kept, raised, line = state(fitted), [], 0, True, 0
    fitted.set_params(**options)
    while raised is not False and line < 3000:
        line += 1 if line < 50 else 17
        for model, start in ((copy.deepcopy(fresh), {}), (copy.deepcopy(fitted), before)):
            with unsettled():
                raised = interrupted_at("ppca", line, lambda m=model: m.fit(X))
            now = state(model)
            try:
                if now.keys() == start.keys() and all(np.array_equal(now[n], start[n]) for n in now):
                    assert raised, "swallowed"
                    continue
                kept += 1
                assert_whole(model, X)
                assert_allclose(model.lower_bound_, model.score(X), rtol=1e-10)
                assert raised is not None, "swallowed"
            except (AssertionError, AttributeError) as e:
                faults.append(f"line event {line}: {' '.join(str(e).split())[:150]}")
    assert kept > 10
    assert raised is False
    assert not faults, f"{len(faults)} interruptions:\n" + "\n".join(faults)


@pytest.mark.parametrize("gaps", [False, True])
def test_ctrl_c_within_partial_fit_leaves_the_model_as_it_was_or_whole(gaps):
    block, first = (gapped if gaps else data)(30), fit(data())
    before, line, raised = state(first), 0, True
    with unsettled():
        after = state(copy.deepcopy(first).partial_fit(block))
    while raised is not False:
        model, line = copy.deepcopy(first), line + 1
        raised = interrupted_at("ppca", line, lambda m=model: m.partial_fit(block))
        now = state(model)
        assert_same_state(now, before if now["n_samples_seen_"] == before["n_samples_seen_"] else after)
    assert line > 20


@pytest.mark.parametrize("method", ["exact", "stochastic_em"])
def test_ctrl_c_within_a_fit_without_steps_leaves_the_model_as_it_was_or_whole(method, monkeypatch):
    monkeypatch.setattr(lvm.ppca, "SNAPSHOTS", 4)
    X, line, raised = data(30), 0, True
    first = fit(data(), method=method, n_draws=40)
    before, after = state(first), state(fit(X, method=method, n_draws=40))
    while raised is not False:
        model, line = copy.deepcopy(first), line + 1
        raised = interrupted_at("ppca", line, lambda m=model: m.fit(X))
        assert raised is not None, "swallowed"
        now = state(model)
        assert_same_state(now, before if now["n_samples_seen_"] == 200 else after)
    assert line > 30


def test_ctrl_c_says_at_which_step_it_came(monkeypatch):
    steps = []

    class Interrupting(Likelihood):
        def maximise(self, s):
            steps.append(s.bound)
            if len(steps) == 4:
                raise KeyboardInterrupt
            return super().maximise(s)

    monkeypatch.setattr(lvm.ppca, "Likelihood", Interrupting)
    model, X = ProbabilisticPCA(2, random_state=0), gapped()
    with pytest.raises(KeyboardInterrupt, match=r"^fit was stopped; the model is that of step 3$"):
        model.fit(X)
    assert (model.n_iter_, model.converged_) == (3, False)
    assert_allclose(model.score(X), model.lower_bound_, rtol=1e-12)
    assert_whole(model, X)


# ------------------------------------------------------------------------------------------------ in company
def test_a_data_frame_in_a_data_frame_out():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(data(20), columns=list("abcdef"), index=[f"row {i}" for i in range(20)])
    X.iloc[3, 2] = np.nan
    model = fit(X).set_output(transform="pandas")
    Z = model.transform(X)
    assert list(Z.columns) == ["probabilisticpca0", "probabilisticpca1"]
    assert list(Z.index) == list(X.index)
    assert_array_equal(Z, model.set_output(transform="default").transform(X))
    assert_array_equal(model.get_feature_names_out(), ["probabilisticpca0", "probabilisticpca1"])
    assert_array_equal(model.feature_names_in_, list("abcdef"))


def test_a_pipeline_scales_fits_and_transforms():
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = load_iris(), np.repeat([0, 1, 2], 50)
    pipe = make_pipeline(StandardScaler(), ProbabilisticPCA(2), LogisticRegression()).fit(X, y)
    assert pipe.score(X, y) > 0.85
    density = make_pipeline(StandardScaler(), ProbabilisticPCA(2)).fit(X)
    assert density.transform(X).shape == (150, 2)
    assert np.isfinite(density.score(X))
    assert density.inverse_transform(density.transform(X)).shape == (150, 4)
    found = GridSearchCV(ProbabilisticPCA(), {"n_components": [1, 2, 3, 4]}, cv=5).fit(data(300, 8, 3))
    assert found.best_params_ == {"n_components": 3}


# ------------------------------------------------------------------------------------------------ little noise
def mp_log_density(x, mu, W, psi):
    """log p(x_o) in 60 digits."""
    with mpmath.workdps(60):
        o = ~np.isnan(x)
        y = mpmath.matrix([mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(x[o], mu[o])])
        V = mpmath.matrix(W[o].tolist())
        C = V * V.T + mpmath.diag([mpmath.mpf(float(v)) for v in psi[o]])
        square = (y.T * mpmath.lu_solve(C, y))[0]
        return float(-(o.sum() * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(C)) + square) / 2)


@pytest.mark.parametrize(
    ("T", "noise", "within"), [(np.float64, 1e-4, 1e-7), (np.float64, 1e-6, 1e-3), (np.float32, 3e-3, 2e-3)]
)
def test_few_observed_columns_and_little_noise_score_right(T, noise, within):
    """Two of six columns leave one of three dimensions open; z must not be wrong along the two that they tell.

    (The 1 in 1 + W'W/psi is known to rounding times W'W/psi, and so is log p.)"""
    r = rng(4)
    A = r.standard_normal((3, 6))
    X = (r.standard_normal((200, 3)) @ A + noise * r.standard_normal((200, 6))).astype(T)
    model = fit(X, 3)
    W, mu, psi = theta(model)
    for columns in ([0, 1], [2, 5], [3]):
        x = np.full((5, 6), np.nan, T)
        x[:, columns] = X[:5, columns]
        want = [mp_log_density(a, mu, W, psi) for a in x.astype(float)]
        assert_allclose(model.score_samples(x), want, rtol=within, atol=within)


def test_em_with_gaps_and_one_percent_of_noise_climbs_to_its_end_in_float32():
    r = rng(5)
    X = r.standard_normal((300, 3)) @ r.standard_normal((3, 6)) + 0.01 * r.standard_normal((300, 6))
    X[r.random(X.shape) < 0.4] = np.nan
    want, got = fit(X, 3), fit(X.astype(np.float32), 3, tol=1e-6)
    assert_allclose(got.lower_bound_, want.lower_bound_, atol=2e-3)
    assert_allclose(got.noise_variance_, want.noise_variance_, rtol=0.02)


def test_more_rows_or_blocks_do_not_make_little_noise_none():
    r = rng(6)
    X = (r.standard_normal((100_000, 1)) * np.ones(4) + 4e-4 * r.standard_normal((100_000, 4))).astype(np.float32)
    model = fit(X, 1)
    assert model.noise_variance_ == pytest.approx(1.6e-7, rel=0.05)
    Y = (r.standard_normal((1000, 2)) @ r.standard_normal((2, 50)) * 3 + 0.02 * r.standard_normal((1000, 50))).astype(
        "f"
    )
    assert fit(Y[:500], 2).partial_fit(Y[500:]).noise_variance_ == pytest.approx(4e-4, rel=0.05)


@pytest.mark.parametrize("w", [2.0**22, 1e-7])
def test_bic_counts_weights_of_any_size(w):
    X, weight = load_iris(), np.full(150, w)
    model = fit(X, "bic", weight=weight)
    assert model.bics_[model.n_components_ - 1] == pytest.approx(model.bic(X, weight), rel=1e-9)


def test_partial_fit_keeps_the_covariance_whatever_the_first_block_and_the_rows_that_do_not_count():
    X = data(200, 6, 2)
    model = fit(X[:5], 2)  # fewer rows than columns
    block = X[5:].copy()
    block = np.vstack([block, np.full((1, 6), np.nan), np.append(np.full(5, 1.0), np.nan)[None]])
    model.partial_fit(block, sample_weight=np.append(np.ones(196), 0.0))
    assert model.n_samples_seen_ == 200
    assert_allclose(model.get_covariance(), fit(X, 2).get_covariance(), rtol=1e-9, atol=1e-10)


def test_the_mean_of_many_blocks_far_from_0_does_not_stall_in_float32():
    r = rng(7)
    X = (1e4 + np.array([3.0, 1.0, 1.0]) * r.standard_normal((3000, 3))).astype(np.float32)
    model = fit(X, 1)
    later = (X[:600] + 3).astype(np.float32)
    for block in np.array_split(later, 60):
        model.partial_fit(block)
    whole = np.vstack([X, later]).astype(float)
    assert_allclose(model.mean_, whole.mean(0), atol=2e-3)  # float32 knows 1e4 to 1e-3
    assert_allclose(model.get_covariance(), fit(whole, 1).get_covariance(), rtol=1e-4, atol=1e-4)


@gaps_
def test_columns_that_others_determine_leave_no_noise(gaps):
    X = load_iris()
    X = np.column_stack([X, X[:, 0] + X[:, 1]])
    X = holed(X, part=0.2) if gaps else X
    with pytest.raises(NumericalError, match=f"^{re.escape(lies_in(4))}$"):
        fit(X, 4)


def test_partial_fit_refuses_another_number_of_components_and_gaps_of_the_closed_form():
    model = fit(data(), 2)
    with pytest.raises(ValueError, match=r"goes on from 2 components, got n_components=3\. Try a new model\.$"):
        model.set_params(n_components=3).partial_fit(data())
    with pytest.raises(ValueError, match=r"^X contains NaN, and method='exact' needs complete data"):
        model.set_params(n_components=2, method="exact").partial_fit(gapped())


def test_a_column_of_no_weight_in_a_block_is_no_error():
    first = fit(gapped(100, 4), 1, weight=np.full(100, 1e-30))
    block = gapped(50, 4, seed=3)
    block[:, 1] = np.nan
    model = copy.deepcopy(first).partial_fit(block)
    assert np.isfinite(model.loadings_).all()
    assert np.isfinite(model.score_samples(block)).all()


@pytest.mark.parametrize("scale", [1e20, 1e-22])
@noise_
def test_float32_beyond_its_range_is_refused(noise, scale):
    with pytest.raises(
        ValueError, match=r"^The columns of X must vary, with standard deviations of 1e-11 to 1e\+15 in float32"
    ):
        fit((data() * scale).astype(np.float32), noise=noise)
