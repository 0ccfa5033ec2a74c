"""Around a mixture's fit: criteria, slopes, standard errors, model choice, and data that come in blocks."""

import copy
import itertools
import warnings

import numpy as np
import pytest
from gradcheck import gradient, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    dense,
    mixture_bound,
    mixture_e_step,
    mixture_expected_bound,
    mixture_filled,
    mixture_gaps_expected_bound,
    mixture_log_likelihood,
    mixture_stepwise,
    observed,
)
from test_kernels_mixture import holed
from test_mixture import (
    TYPES,
    assert_same_fit,
    assert_same_state,
    assert_whole,
    clouds,
    covariances,
    fit,
    rng,
    state,
    type_,
    unsettled,
)

import lvm
from lvm import GaussianMixture, NumericalError, select_mixture
from lvm.datasets import load_faithful

gaps_ = pytest.mark.parametrize("gaps", [False, True])
weighted_ = pytest.mark.parametrize("weighted", [False, True])
NAMES = ("weights_", "means_", "covariances_")


def of_model(model):
    return model.weights_, model.means_, covariances(model)


def problem(kind, gaps=False, weighted=False, N=80, D=2, K=3, **params):
    """X (N,D), w, and a mixture of K components that has not quite been fitted to them."""
    X = clouds(N, D, apart=1.5)
    X = holed(X, part=0.3) if gaps else X
    w = np.where(rng(1).random(N) < 0.2, 0, rng(2).gamma(2.0, size=N)) if weighted else None
    return X, w, fit(X, K, kind, weight=w, **{"max_iter": 3, "tol": 0, **params})


# ------------------------------------------------------------------------------------------------ criteria
@type_
@gaps_
@weighted_
def test_criteria_are_what_their_formulas_say(kind, gaps, weighted):
    X, w, model = problem(kind, gaps, weighted, D=3)
    log_px, r = mixture_e_step(X, *of_model(model))
    v = np.where(np.isnan(X).all(1), 0, 1.0 if w is None else w)  # a row of gaps alone does not count
    n = {"full": 18, "tied": 6, "diag": 9, "spherical": 3}[kind] + 9 + 2
    bic = -2 * v @ log_px + n * np.log(v.sum())
    assert_allclose(model.score(X, sample_weight=w), np.average(log_px, weights=v), rtol=1e-10)
    assert_allclose(model.bic(X, w), bic, rtol=1e-10)
    assert_allclose(model.aic(X, w), -2 * v @ log_px + 2 * n, rtol=1e-10)
    assert_allclose(model.icl(X, w), bic - 2 * v @ np.log(r.max(1)), rtol=1e-10)


@type_
def test_criteria_count_a_weight_as_that_many_rows(kind):
    X, _, model = problem(kind, gaps=True)
    w = rng(3).integers(0, 4, size=len(X))
    for criterion in (model.score, model.bic, model.aic, model.icl):
        assert_allclose(criterion(X, sample_weight=w), criterion(np.repeat(X, w, axis=0)), rtol=1e-12)


def test_icl_is_bic_where_components_lie_apart_and_above_it_where_they_overlap():
    assert fit(clouds(), 1).icl(clouds()) == fit(clouds(), 1).bic(clouds())
    X = clouds(apart=50.0)
    model = fit(X, 3)
    assert_allclose(model.icl(X), model.bic(X), rtol=1e-12)
    X = clouds(apart=1.0)
    model = fit(X, 3)
    assert model.icl(X) > model.bic(X) + 20


# ------------------------------------------------------------------------------------------------ slopes
def as_function(model, f):
    """f(pi, mu, Sigma (K,D,D)) of arrays shaped as a model's attributes; pi divided by its sum, Sigma symmetric."""
    kind, (K, D) = model.covariance_type, model.means_.shape

    def of(pi, mu, Sigma):
        if kind in ("full", "tied"):
            Sigma = (Sigma + np.swapaxes(Sigma, -1, -2)) / 2
        return f(pi / pi.sum(), mu, dense(kind, Sigma, K, D))

    return of


def slopes(model, f):
    """Gradient of f by differences, named and shaped as score_gradient's."""
    at, of = [getattr(model, name).astype(float) for name in NAMES], as_function(model, f)
    return {name: gradient(lambda v, i=i: of(*at[:i], v, *at[i + 1 :]), at[i]) for i, name in enumerate(NAMES)}


@type_
@gaps_
@weighted_
def test_score_gradient_is_the_gradient_of_the_log_likelihood(kind, gaps, weighted):
    X, w, model = problem(kind, gaps, weighted)
    got = model.score_gradient(X, sample_weight=w)
    want = slopes(model, lambda *at: mixture_log_likelihood(X, w, *at))
    assert tuple(got) == NAMES
    for name in NAMES:
        assert got[name].shape == getattr(model, name).shape
        assert got[name].dtype == np.float64
        scale = np.abs(want[name]).max()
        assert scale > 0.1  # it is not at a maximum
        assert_allclose(got[name], want[name], rtol=1e-7, atol=1e-8 * (1 + scale), err_msg=name)
    assert_allclose(got["weights_"] @ model.weights_, 0, atol=1e-9)
    if kind in ("full", "tied"):
        assert_allclose(got["covariances_"], np.swapaxes(got["covariances_"], -1, -2), rtol=1e-12, atol=1e-12)


@type_
@gaps_
def test_after_an_e_step_the_bound_touches_the_likelihood_in_value_and_gradient(kind, gaps):
    """With responsibilities, and what is expected in the gaps, held fixed."""
    X, w, model = problem(kind, gaps, weighted=True, N=40, K=2)
    W, at = observed(X, w).sum(), of_model(model)
    r = mixture_e_step(X, *at)[1]
    q = r, *mixture_filled(X, *at[1:])
    if gaps:
        bound = lambda *at: W * mixture_gaps_expected_bound(X, w, q, *at)
    else:
        bound = lambda *at: W * mixture_expected_bound(X, w, r, *at)
    assert_allclose(bound(*at), w @ model.score_samples(X), rtol=1e-12)
    got, want = model.score_gradient(X, sample_weight=w), slopes(model, bound)
    for name in NAMES:
        assert_allclose(got[name], want[name], rtol=1e-7, atol=1e-6, err_msg=name)


@type_
def test_score_gradient_counts_a_weight_as_that_many_rows_and_adds_over_rows(kind):
    X, _, model = problem(kind, gaps=True)
    w = rng(3).integers(0, 4, size=len(X))
    weighted, repeated = model.score_gradient(X, sample_weight=w), model.score_gradient(np.repeat(X, w, axis=0))
    whole, parts = model.score_gradient(X), [model.score_gradient(x) for x in (X[:30], X[30:31], X[31:])]
    for name in NAMES:
        assert_allclose(weighted[name], repeated[name], rtol=1e-9, atol=1e-9)
        assert_allclose(sum(part[name] for part in parts), whole[name], rtol=1e-9, atol=1e-9)


@type_
@gaps_
def test_the_gradient_is_zero_where_em_comes_to_rest(kind, gaps):
    X = clouds(400, 3, apart=2.5)
    X = holed(X, part=0.2) if gaps else X
    model = fit(X, 3, kind, reg_covar=0, tol=1e-14, max_iter=20_000)
    assert model.converged_
    for name, g in model.score_gradient(X).items():
        assert np.abs(g).max() < 1e-6 * len(X), name


@type_
def test_regularisation_is_not_in_the_gradient_which_would_take_it_off(kind):
    """Of one component Sigma = S + R, and G = -N/2 Sigma^-1 R Sigma^-1; of one variance for all, the mean of R."""
    X = clouds(400, K=1)
    model = fit(X, 1, kind, reg_covar=0.1)
    Q, R = np.linalg.inv(covariances(model)[0]), np.diag(model.reg_covar_)
    G = -200 * Q @ R @ Q
    want = {"full": G, "tied": G, "diag": np.diag(G), "spherical": np.trace(G)}[kind]
    g = model.score_gradient(X)
    assert_allclose(g["covariances_"].ravel(), np.ravel(want), rtol=1e-9, atol=1e-9)
    assert_allclose(g["means_"], 0, atol=1e-8)


def test_score_gradient_of_float32_is_float64_and_close():
    X, _, model = problem("full", gaps=True)
    small = fit(X.astype(np.float32), 3, "full", max_iter=3, tol=0)
    for name in NAMES:
        setattr(small, name, getattr(model, name).astype(np.float32))
    small.precisions_cholesky_ = model.precisions_cholesky_.astype(np.float32)
    for name, g in small.score_gradient(X.astype(np.float32)).items():
        want = model.score_gradient(X)[name]
        assert g.dtype == np.float64
        assert_allclose(g, want, atol=1e-4 * np.abs(want).max())


# ------------------------------------------------------------------------------------------------ standard errors
def moments(X):
    """Of one Gaussian at its maximum: Sigma (D,D), and sum over rows of (y_i y_j - Sigma_ij)² (D,D)."""
    y = X - X.mean(0)
    Sigma = y.T @ y / len(X)
    return Sigma, ((y[:, :, None] * y[:, None, :] - Sigma) ** 2).sum(0)


@type_
def test_one_gaussian_has_the_standard_errors_of_textbooks(kind):
    X = clouds(500, 3, K=1)
    X[:, 1] += X[:, 0]
    model, (Sigma, fourth), N = fit(X, 1, kind, reg_covar=0), moments(X), len(X)
    model_errors, robust = model.standard_errors(X, robust=False), model.standard_errors(X)
    v = np.diag(Sigma)
    mean = {"full": v, "tied": v, "diag": v, "spherical": np.full(3, v.mean())}[kind]
    for errors in (model_errors, robust):
        assert tuple(errors) == NAMES
        assert_allclose(errors["weights_"], [0], atol=1e-12)
        assert all(errors[name].shape == getattr(model, name).shape for name in NAMES)
    assert_allclose(model_errors["means_"][0], np.sqrt(mean / N), rtol=1e-6)
    assert_allclose(robust["means_"][0], np.sqrt(v / N), rtol=1e-6)
    if kind in ("full", "tied"):
        want, got = np.sqrt((v[:, None] * v + Sigma**2) / N), model_errors["covariances_"].reshape(3, 3)
        assert_allclose(got, want, rtol=1e-6)
        assert_allclose(robust["covariances_"].reshape(3, 3), np.sqrt(fourth) / N, rtol=1e-5)
    elif kind == "diag":
        assert_allclose(model_errors["covariances_"][0], np.sqrt(2 / N) * v, rtol=1e-6)
        assert_allclose(robust["covariances_"][0], np.sqrt(np.diag(fourth)) / N, rtol=1e-5)
    else:
        assert_allclose(model_errors["covariances_"], np.sqrt(2 / (3 * N)) * v.mean(), rtol=1e-6)
        each = ((X - X.mean(0)) ** 2).mean(1)
        assert_allclose(robust["covariances_"], np.std(each) / np.sqrt(N), rtol=1e-5)


def test_a_gap_leaves_a_mean_as_sure_as_the_rows_that_have_it():
    X = holed(clouds(500, 3, K=1), part=0.3)
    model, n = fit(X, 1, "diag", reg_covar=0, tol=1e-13), (~np.isnan(X)).sum(0)
    errors = model.standard_errors(X, robust=False)
    assert_allclose(errors["means_"][0], np.nanstd(X, axis=0) / np.sqrt(n), rtol=1e-5)
    assert_allclose(errors["covariances_"][0], np.nanvar(X, axis=0) * np.sqrt(2 / n), rtol=1e-5)


@type_
@gaps_
@weighted_
def test_standard_errors_are_those_of_second_derivatives_by_differences(kind, gaps, weighted):
    """H and J from the reference alone: t are free numbers (pi without its last, lower triangles)."""
    X = clouds(150, 2, K=2, apart=3.0)
    X = holed(X, part=0.2) if gaps else X
    w = rng(2).integers(0, 4, size=150).astype(float) if weighted else None
    model = fit(X, 2, kind, weight=w, reg_covar=0, tol=1e-14, max_iter=20_000)
    v, i = np.ones(150) if w is None else w, np.tril_indices(2)
    triangle = kind in ("full", "tied")

    def rows(t):
        pi, mu, free = np.append(t[:1], 1 - t[0]), t[1:5].reshape(2, 2), t[5:]
        if triangle:
            free = free.reshape(-1, 3)
            Sigma = np.zeros((len(free), 2, 2))
            Sigma[:, i[0], i[1]] = Sigma[:, i[1], i[0]] = free
            free = Sigma if kind == "full" else Sigma[0]
        return mixture_e_step(X, pi, mu, dense(kind, free.reshape(model.covariances_.shape), 2, 2))[0]

    Sigma = model.covariances_
    free = (Sigma.reshape(-1, 2, 2)[:, i[0], i[1]] if triangle else Sigma).ravel()
    at = np.concatenate([model.weights_[:1], model.means_.ravel(), free])
    e, h = np.eye(len(at)), 1e-3
    l = lambda t: v @ rows(t)
    second = lambda a, b: (l(at + a + b) - l(at + a - b) - l(at - a + b) + l(at - a - b)) / 4
    coarse, fine = (np.array([[-second(s * a, s * b) / s**2 for a in e] for b in e]) for s in (h, h / 2))
    C = np.linalg.inv((4 * fine - coarse) / 3)
    scores = np.array([richardson(lambda t, a=a: rows(at + t * a)) for a in e]).T
    for robust in (False, True):
        errors = model.standard_errors(X, sample_weight=w, robust=robust)
        sd = np.sqrt(np.diag(C @ (scores.T * v) @ scores @ C if robust else C))
        assert_allclose(errors["weights_"], [sd[0]] * 2, rtol=1e-3)
        assert_allclose(errors["means_"].ravel(), sd[1:5], rtol=1e-3)
        got = errors["covariances_"]
        assert_allclose((got.reshape(-1, 2, 2)[:, i[0], i[1]] if triangle else got).ravel(), sd[5:], rtol=1e-3)
        if triangle:
            assert_array_equal(got, np.swapaxes(got, -1, -2))


def test_standard_errors_cover_the_truth_as_often_as_they_say():
    z = []
    for seed in range(60):
        r = rng(seed)
        X = np.where(r.random(400) < 0.3, r.normal(4, 1, 400), r.normal(0, 2, 400))[:, None]
        model = fit(X, 2, "diag", reg_covar=0)
        o, errors = model.means_[:, 0].argsort(), model.standard_errors(X)
        away = (model.means_[o, 0] - [0, 4], model.covariances_[o, 0] - [4, 1], model.weights_[o] - [0.7, 0.3])
        z.append([a / errors[name].reshape(2)[o] for a, name in zip(away, ("means_", "covariances_", "weights_"))])
    z = np.array(z).reshape(60, 6)
    assert (np.abs(z) < 2).mean() > 0.85
    assert np.mean(z**2) > 0.5


@type_
def test_standard_errors_at_a_saddle_are_refused(kind):
    """Two components of one mean stay one, though the data are two clouds."""
    X = load_faithful()
    model = fit(X, 2, kind, means_init=[X.mean(0)] * 2, reg_covar=0)
    assert_allclose(model.means_[0], model.means_[1], rtol=1e-6)
    with pytest.raises(NumericalError, match="not at a maximum"):
        model.standard_errors(X)


def test_standard_errors_are_those_of_a_bootstrap():
    """Old Faithful, two components: 400 samples of its rows, with replacement; and 400 from the mixture itself."""
    X, r = load_faithful(), rng(5)
    model = GaussianMixture(2, reg_covar=0, tol=1e-10, max_iter=5000, random_state=0).fit(X)
    start = {"weights_init": model.weights_, "means_init": model.means_, "precisions_init": model.precisions_}
    again = GaussianMixture(2, reg_covar=0, tol=1e-7, **start)
    model.set_params(random_state=r)
    draws = {True: lambda: X[r.integers(len(X), size=len(X))], False: lambda: model.sample(len(X))[0]}
    for robust, draw in draws.items():
        fits = [copy.copy(again).fit(draw()) for _ in range(400)]
        for name, error in model.standard_errors(X, robust=robust).items():
            assert_allclose(
                error, np.std([getattr(m, name) for m in fits], axis=0), rtol=0.15, err_msg=f"{name} {robust}"
            )


# ------------------------------------------------------------------------------------------------ model choice
FIELDS = (
    *("covariance_type", "n_components", "log_likelihood", "n_parameters"),
    *("bic", "icl", "held_out", "converged", "degenerate", "seconds"),
)


def test_old_faithful_is_three_components_of_one_covariance_by_bic():
    X = load_faithful()
    found = select_mixture(X, random_state=0)
    best, table = found.best, found.table
    assert (best.covariance_type, best.n_components, found.criterion) == ("tied", 3, "bic")
    assert_allclose(table["bic"][0], 2314.30, atol=0.05)
    assert table.dtype.names == FIELDS
    assert len(table) == 36
    assert sorted(zip(table["covariance_type"], table["n_components"])) == sorted(
        (kind, K) for kind in TYPES for K in range(1, 10)
    )
    assert (np.diff(table["bic"][~table["degenerate"]]) >= -1e-6).all()
    assert (np.diff(table["degenerate"].astype(int)) >= 0).all()
    assert np.isnan(table["held_out"]).all()
    assert (table["seconds"] >= 0).all()
    assert table["converged"].dtype == bool
    assert_allclose(table["bic"], -2 * table["log_likelihood"] + table["n_parameters"] * np.log(272), rtol=1e-12)
    assert (table["icl"] >= table["bic"] - 1e-9).all()
    assert_allclose(best.bic(X), table["bic"][0], rtol=1e-12)
    assert_allclose(best.icl(X), table["icl"][0], rtol=1e-12)
    assert best.predict(X).max() == 2
    text = str(found).splitlines()
    assert all(name in text[0] for name in FIELDS if name != "held_out")
    assert len({len(line) for line in text[:37]}) == 1  # columns are aligned
    assert "2314.3" in text[1]


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_rows_of_gaps_alone_do_not_count_in_the_table(criterion):
    X = holed(clouds(90, 2, apart=3.0), part=0.2)
    lost = np.isnan(X).all(1)
    assert lost.any()
    found = select_mixture(X, [1, 2], ["full"], criterion=criterion, n_folds=2, random_state=0)
    l, n = found.best.score_samples(X[~lost]).sum(), found.table["n_parameters"][0]
    assert_allclose(found.table["log_likelihood"][0], l, rtol=1e-12)
    assert_allclose(found.table["bic"][0], -2 * l + n * np.log((~lost).sum()), rtol=1e-12)
    same = select_mixture(X[~lost], [1, 2], ["full"], criterion=criterion, n_folds=2, random_state=0)
    assert_allclose(same.table["held_out"], found.table["held_out"], rtol=1e-6)


def assert_same_selection(a, b, rtol=0.0):
    for name in FIELDS[:-1]:
        if a.table[name].dtype == float:
            assert_allclose(b.table[name], a.table[name], rtol=rtol, err_msg=name)
        else:
            assert_array_equal(b.table[name], a.table[name], err_msg=name)
    for name in NAMES:
        assert_allclose(getattr(b.best, name), getattr(a.best, name), rtol=100 * rtol, atol=100 * rtol)


@pytest.mark.parametrize("criterion", ["bic", "icl", "held_out"])
def test_the_choice_is_the_same_for_any_number_of_threads_and_for_the_same_seed(criterion):
    X, found = holed(clouds(120, 2, apart=3.0), part=0.1), []
    for threads in (1, 2, 8, 2):
        lvm.set_num_threads(threads)
        options = {"criterion": criterion, "random_state": 3, "n_init": 2, "n_folds": 3, "max_iter": 30}
        found.append(select_mixture(X, range(1, 4), ["full", "diag"], **options))
    lvm.set_num_threads(None)
    for other in found[1:]:
        assert_same_selection(found[0], other)
    assert found[0].criterion == criterion
    value = found[0].table[criterion] * (-1 if criterion == "held_out" else 1)
    assert (np.diff(value[~found[0].table["degenerate"]]) >= -1e-6).all()
    assert found[0].best.n_components == found[0].table["n_components"][0]
    assert found[0].best.covariance_type == found[0].table["covariance_type"][0]


def test_icl_wants_components_that_lie_apart_and_may_choose_fewer():
    X = load_faithful()
    found = select_mixture(X, range(1, 5), "tied", criterion="icl", random_state=0)
    assert found.best.n_components == 2
    assert found.table["n_components"][np.argmin(found.table["bic"])] == 3


def test_held_out_rows_are_scored_by_fits_that_did_not_see_them():
    X = rng(1).standard_normal((60, 3))
    found = select_mixture(X, [1, 2, 6], ["full"], criterion="held_out", n_folds=4, random_state=0, reg_covar=1e-2)
    assert found.best.n_components == 1
    table = found.table
    assert np.isfinite(table["held_out"]).all()
    assert (table["held_out"] < table["log_likelihood"] / 60).all()
    # of one Gaussian, leaving every row out in turn, which no folds can shuffle
    alone = select_mixture(X, 1, "full", criterion="held_out", n_folds=60, random_state=0, reg_covar=0)
    want = [fit(np.delete(X, n, axis=0), 1, reg_covar=0).score(X[n : n + 1]) for n in range(60)]
    assert_allclose(alone.table["held_out"], np.mean(want), rtol=1e-9)


def test_a_weight_counts_as_that_many_rows_in_the_choice():
    X = holed(clouds(100, 2, apart=3.0), part=0.1)
    w = rng(3).integers(0, 4, size=100)
    options = {"n_components": range(1, 4), "covariance_types": ["tied", "full"], "random_state": 0, "n_init": 2}
    weighted, repeated = (
        select_mixture(X, sample_weight=w, **options),
        select_mixture(np.repeat(X, w, axis=0), **options),
    )
    assert_same_selection(weighted, repeated, rtol=1e-7)


def test_a_fit_that_fails_comes_last_and_says_nothing():
    X = np.repeat(rng(1).standard_normal((6, 2)), 10, axis=0)
    for criterion in ("bic", "icl", "held_out"):
        found = select_mixture(X, [5, 1], ["full", "tied"], criterion=criterion, reg_covar=0, random_state=0)
        failed = np.isnan(found.table["log_likelihood"])
        assert failed.any()
        assert not failed[0]
        assert (np.diff(failed.astype(int)) >= 0).all()
        assert np.isnan([found.table[name][failed] for name in ("bic", "icl", "held_out")]).all()
        assert not found.table["converged"][failed].any()
        assert "nan" in str(found)
    with pytest.raises(NumericalError, match=r"Every fit failed, the first with: .* collapsed again"):
        select_mixture(X, [5, 6], ["full"], reg_covar=0, random_state=0)


def test_a_fit_of_all_rows_that_fails_comes_last_though_those_of_its_folds_do_not():
    X = np.r_[np.repeat(clouds(6, 2), 10, axis=0), clouds(40, 2)]
    for seed in range(6):
        found = select_mixture(X, [4, 1], "full", criterion="held_out", reg_covar=0, random_state=seed, n_init=1)
        assert np.isfinite(found.table["log_likelihood"][0])
        assert found.best.n_components == found.table["n_components"][0]


def test_one_number_one_type_and_further_parameters_will_do():
    X = clouds()
    found = select_mixture(X, 2, "diag", random_state=0, tol=1e-3, max_iter=7, init_params="kmeans")
    assert len(found.table) == 1
    params = found.best.get_params()
    assert (params["tol"], params["max_iter"], params["init_params"]) == (1e-3, 7, "kmeans")
    best, table, criterion = found
    assert best is found.best
    assert table is found.table
    assert criterion == "bic"


def test_the_choice_keeps_names_of_columns():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(load_faithful(), columns=["eruptions", "waiting"])
    found = select_mixture(X, 2, "full", random_state=0)
    assert list(found.best.feature_names_in_) == ["eruptions", "waiting"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.best.predict(X)
    assert pd.DataFrame(found.table).shape == (1, len(FIELDS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "aic"}, "criterion"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": []}, "at least one"),
        ({"covariance_types": []}, "at least one"),
        ({"covariance_types": "round"}, "covariance_type"),
        ({"covariance_types": ["full", "round"]}, "covariance_type"),
        ({"criterion": "held_out", "n_folds": 1}, "n_folds"),
        ({"n_init": 0}, "n_init"),
        ({"tol": -1}, "tol"),
        ({"n_components": 50}, "n_components = 50"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        select_mixture(clouds(40), **arguments)
    with pytest.raises(TypeError, match="n_component"):
        select_mixture(clouds(40), n_component=3)


# ------------------------------------------------------------------------------------------------ partial_fit
@type_
def test_the_first_block_is_a_fit(kind):
    X, w = holed(clouds(), part=0.3), rng(1).gamma(2.0, size=300)
    for weight in (None, w):
        a, b = (GaussianMixture(3, covariance_type=kind, random_state=0, max_iter=9) for _ in range(2))
        with unsettled():
            a.fit(X, sample_weight=weight)
            assert b.partial_fit(X, sample_weight=weight) is b
        assert_same_state(state(a), state(b))
        some = ~np.isnan(X).all(1)
        assert_allclose(a.n_samples_seen_, some.sum() if weight is None else w[some].sum(), rtol=1e-12)
        assert isinstance(a.n_samples_seen_, float)


@type_
@gaps_
@weighted_
@pytest.mark.parametrize("reg", [0, 0.1])
def test_every_block_is_the_step_of_the_reference(kind, gaps, weighted, reg):
    X = clouds(300, apart=1.5)
    X = holed(X, part=0.3) if gaps else X
    w = rng(2).gamma(2.0, size=300) if weighted else np.ones(300)
    model = fit(X[:120], 3, kind, weight=w[:120], reg_covar=reg, max_iter=5, tol=0)
    pi, mu, Sigma = model.weights_, model.means_, model.covariances_
    R, seen = model.reg_covar_, observed(X[:120], w[:120]).sum()
    for a, b in ((120, 200), (200, 230), (230, 300)):
        x, v = X[a:b], w[a:b]
        W = observed(x, v).sum()
        seen += W
        bound = mixture_bound(x, v, pi, mu, dense(kind, Sigma, 3, 3), R)
        pi, mu, Sigma = mixture_stepwise(kind, x, v, pi, mu, Sigma, R, (W / seen) ** 0.7)
        model.partial_fit(x, sample_weight=v if weighted else None)
        assert_allclose(model.weights_, pi, rtol=1e-9)
        assert_allclose(model.means_, mu, rtol=1e-9, atol=1e-10)
        assert_allclose(model.covariances_, Sigma, rtol=1e-8, atol=1e-10)
        assert_allclose(model.lower_bound_, bound, rtol=1e-10)
        assert_allclose(model.n_samples_seen_, seen, rtol=1e-12)
        assert_array_equal(model.reg_covar_, R)
        assert_whole_now(model, x)


def assert_whole_now(model, X):
    """Its parameters agree with each other, and it answers."""
    K, D = model.means_.shape
    assert_allclose(
        covariances(model) @ dense(model.covariance_type, model.precisions_, K, D), [np.eye(D)] * K, atol=1e-9
    )
    assert_allclose(model.score_samples(X), mixture_e_step(X, *of_model(model))[0], rtol=1e-9, atol=1e-9)
    assert_allclose(model.weights_.sum(), 1, rtol=1e-12)


@type_
def test_many_blocks_come_near_the_fit_of_all_rows(kind):
    X = clouds(20_000, 2, apart=8.0)
    whole, model = fit(X, 3, kind), GaussianMixture(3, covariance_type=kind, random_state=1)
    for block in np.split(X, 50):
        model.partial_fit(block)
    assert model.n_samples_seen_ == 20_000
    first = fit(X[:400], 3, kind, seed=1)
    assert whole.score(X) - model.score(X) < 0.003
    assert whole.score(X) - model.score(X) < 0.5 * (whole.score(X) - first.score(X))


def test_an_order_of_time_matters_later_blocks_count_more():
    r = rng(1)
    early, late = r.normal(0, 1, (1000, 1)), r.normal(3, 1, (1000, 1))
    model = GaussianMixture(1, random_state=0)
    for block in (*np.split(early, 10), *np.split(late, 10)):
        model.partial_fit(block)
    assert model.means_[0, 0] > 1.7


@type_
def test_a_block_may_lack_a_column_or_have_one_row_or_rows_of_nothing(kind):
    X = clouds(apart=2.0)
    model = fit(X, 2, kind)
    block = X[:50].copy()
    block[:, 1] = np.nan
    model.partial_fit(block)
    assert_whole_now(model, block)
    model.partial_fit(X[:1])
    model.partial_fit(np.r_[X[1:2], np.full((5, 3), np.nan)])
    assert model.n_samples_seen_ == 352
    assert_whole_now(model, X)


@type_
def test_a_block_that_is_wrong_leaves_the_model_as_it_was(kind):
    X = clouds()
    model = fit(X, 2, kind)
    before = state(model)
    for block, weight, message in (
        (X[:, :2], None, "X has 2 features, but GaussianMixture is expecting 3"),
        (np.full((9, 3), np.nan), None, "observed"),
        (np.where(np.eye(3) > 0, np.inf, 1.0), None, "infinity"),
        (X[:5], np.zeros(5), "weight"),
        (X[:5], np.ones(4), "sample_weight"),
    ):
        with pytest.raises(ValueError, match=message):
            model.partial_fit(block, sample_weight=weight)
        assert_same_state(state(model), before)


@type_
def test_only_proportions_of_weights_matter_to_partial_fit(kind):
    X, w, found = clouds(300, apart=1.5), rng(1).gamma(2.0, size=300), []
    for factor in (1, 1e-6, 1e6):
        model = fit(X[:200], 2, kind, weight=factor * w[:200], max_iter=9, tol=0)
        model.partial_fit(X[200:], sample_weight=factor * w[200:])
        found.append(model)
    for other in found[1:]:
        assert_allclose(other.means_, found[0].means_, rtol=1e-9)
        assert_allclose(other.covariances_, found[0].covariances_, rtol=1e-8, atol=1e-12)


@type_
def test_partial_fit_goes_on_after_a_file_and_keeps_float32(kind, tmp_path):
    X = clouds(400).astype(np.float32)
    model = fit(X[:200], 2, kind)
    model.save(tmp_path / "m.lvm")
    again = lvm.load(tmp_path / "m.lvm")
    for m in (model, again):
        m.partial_fit(X[200:])
    assert_same_state(state(again), state(model))
    assert model.means_.dtype == model.covariances_.dtype == np.float32
    assert model.n_samples_seen_ == 400


def test_partial_fit_far_from_the_origin_loses_no_digits():
    X = np.round(clouds(400, apart=2.0) * 2**16) / 2**16
    near, far = fit(X[:200], 2), fit(X[:200] + 1e8, 2)
    for model, offset in ((near, 0), (far, 1e8)):
        for a in (200, 300):
            model.partial_fit(X[a : a + 100] + offset)
    assert_allclose(far.covariances_, near.covariances_, rtol=1e-5, atol=1e-6)
    assert_allclose(far.means_ - 1e8, near.means_, atol=1e-5)


# ------------------------------------------------------------------------------------------------ blocks
@type_
@gaps_
@weighted_
def test_a_fit_over_blocks_is_that_of_all_rows(kind, gaps, weighted):
    X = clouds(500, apart=1.5)
    X = np.r_[holed(X[:200], part=0.3), X[200:]] if gaps else X  # gaps in some blocks alone
    w = np.where(rng(1).random(500) < 0.2, 0, rng(2).gamma(2.0, size=500)) if weighted else None
    ends = [0, 1, 130, 131, 200, 450, 500]
    calls = []

    def blocks():
        calls.append(1)
        for a, b in itertools.pairwise(ends):
            yield (X[a:b], w[a:b]) if weighted else X[a:b]

    options = {"reg_covar": 1e-3, "max_iter": 20, "tol": 0}
    whole, model = fit(X, 3, kind, weight=w, **options), fit(blocks, 3, kind, **options)
    assert_same_fit(whole, model)
    assert len(calls) >= 20
    assert_whole(model, X)
    assert_allclose(model.n_samples_seen_, whole.n_samples_seen_, rtol=1e-12)
    assert_same_fit(whole, fit(lambda: list(blocks()), 3, kind, **options))


def test_a_block_of_weight_zero_or_of_gaps_does_not_count():
    X = clouds()
    blocks = lambda: [(X[:150], None), (1e6 * X, np.zeros(300)), (np.full((9, 3), np.nan), None), (X[150:], None)]
    assert_same_fit(fit(X, 3, max_iter=10, tol=0), fit(blocks, 3, max_iter=10, tol=0))


def test_blocks_of_many_rows_are_fitted_from_a_start_on_a_sample_of_them():
    X = np.concatenate([rng(1).normal(-3, 1, (200_000, 1)), rng(2).normal(3, 0.5, (100_000, 1))])
    model = fit(lambda: np.array_split(X, 7), 2, max_iter=15)
    order = model.means_[:, 0].argsort()
    assert_allclose(model.means_[order, 0], [-3, 3], atol=0.02)
    assert_allclose(model.weights_[order], [2 / 3, 1 / 3], atol=0.005)
    assert model.n_samples_seen_ == 300_000


def test_blocks_of_data_frames_keep_names():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(load_faithful(), columns=["eruptions", "waiting"])
    model = fit(lambda: (X[:100], X[100:]), 2, max_iter=5)
    assert list(model.feature_names_in_) == ["eruptions", "waiting"]
    assert_same_fit(fit(X.to_numpy(), 2, max_iter=5), model)
    for wrong in (["b", "a"], ["a", "c"]):
        with pytest.raises(ValueError, match=r"^All blocks must have the same columns, the first has"):
            GaussianMixture(1).fit(lambda w=wrong: [pd.DataFrame(np.eye(2), columns=c) for c in (["a", "b"], w)])


def test_what_can_be_read_only_once_is_refused_with_advice():
    X = clouds()
    for once in ((x for x in (X[:100], X[100:])), iter([X]), map(np.asarray, [X])):
        with pytest.raises(TypeError, match=r"only once\. Give the function .* or call partial_fit"):
            GaussianMixture(2).fit(once)
    made = iter([X[:100], X[100:]])
    with pytest.raises(ValueError, match="anew"):  # a function, but it gives what was read before
        GaussianMixture(2, random_state=0).fit(lambda: made)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (list, "gave none"),
        (lambda: [np.ones((5, 3)), np.ones((5, 2))], "same columns"),
        (lambda: [np.ones((5, 3)), np.ones((5, 3), np.float32)], "dtype"),
        (lambda: [np.ones((5, 3)), np.full((5, 3), np.inf)], "infinity"),
        (lambda: [np.ones(5)], "2D array"),
        (lambda: [(clouds(20), np.ones(19))], "sample_weight"),
        (lambda: [(clouds(20), -np.ones(20))], "sample_weight"),
        (lambda: [(clouds(20), np.zeros(20))], "weight"),
        (lambda: [clouds(2)], "n_samples"),
        (lambda: [np.full((20, 3), np.nan)], "observed|NaN"),
    ],
)
def test_wrong_blocks_are_refused_and_the_model_stays_as_it_was(blocks, message):
    model = fit(clouds(), 3)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.fit(blocks)
    assert_same_state(state(model), before)
    with pytest.raises(ValueError, match="pairs"):
        model.fit(lambda: [clouds()], sample_weight=np.ones(300))


@type_
@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_a_memory_map_is_fitted_as_an_array_bit_by_bit(kind, T, tmp_path):
    X = holed(clouds(3000), part=0.1).astype(T)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    a, b = (fit(x, 3, kind, max_iter=5) for x in (X, mapped))
    assert_same_state(state(a), state(b))
    assert_array_equal(a.impute(X), b.impute(mapped))
    assert_array_equal(a.score_samples(X), b.score_samples(mapped))
    c = fit(lambda: (mapped[i : i + 999] for i in range(0, 3000, 999)), 3, kind, max_iter=5)
    assert_allclose(c.means_, a.means_, rtol=1e-3 if T is np.float32 else 1e-9, atol=1e-4 if T is np.float32 else 1e-9)
