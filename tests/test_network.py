"""Bayesian nets as estimators: the relevance vector machine where they are linear, answers by the formulas, pruning,
all kinds of training and data, and manners."""

import copy
import functools
import pickle
import re
import threading
import tracemalloc

import numpy as np
import pytest
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from reference import (
    log_variance,
    network_kl,
    network_linear_log_p,
    network_log_p,
    network_log_ratio,
    network_output,
    network_predict,
)
from scipy.stats import norm

import lvm
import lvm.network
from lvm import fit, kernels
from lvm.estimator import ConvergenceWarning, InvalidParameterError, NumericalError

IRIS = lvm.datasets.load_iris()
FLOWERS = np.repeat(["setosa", "versicolor", "virginica"], 50)
WIDTH = IRIS[:, 3]
CLASSES = {"classifier": lvm.BayesianMLPClassifier, "regressor": lvm.BayesianMLPRegressor}
both = pytest.mark.parametrize("which", CLASSES)
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
PRUNED = "ignore:All weights of the last layer are pruned:lvm.ConvergenceWarning"  # of trainings that are cut short
pytestmark = pytest.mark.filterwarnings(PRUNED)


def rng(seed=0):
    return np.random.default_rng(seed)


def small(which="classifier", **params):
    """A model that is quickly trained."""
    quick = {"hidden_layer_sizes": (6,), "max_epochs": 2, "learning_rate": 0.01, "random_state": 0}
    return CLASSES[which](**{**quick, **params})


def data(which, D=3):
    """X (150,D) and y."""
    return IRIS[:, :D], FLOWERS if which == "classifier" else WIDTH


MODELS = {
    "softmax": {},
    "logistic": {"activation": "tanh"},
    "gaussian": {"activation": "softplus"},
    "deep": {"hidden_layer_sizes": (5, 4), "activation": "leaky_relu", "prior": "log_uniform"},
    "linear": {"hidden_layer_sizes": (), "prior": "gaussian"},
}
model_ = pytest.mark.parametrize("kind", MODELS)


@functools.cache
def trained(kind, T=np.float64):
    """A model, its rows, which are not all those it was trained on, and their targets."""
    which = "regressor" if kind in ("gaussian", "deep") else "classifier"
    X, y = data(which)
    y, order = y == "versicolor" if kind == "logistic" else y, rng().permutation(150)
    X, y = X[order].astype(T), y[order]
    return small(which, max_epochs=5, **MODELS[kind]).fit(X[:120], y[:120]), X, y


def standardised(model, X):
    return (X.astype(float) - model.mean_) / model.scale_


def theta(model):
    return {name: w.astype(float) for name, w in model.weights_.items()}


def options(model):
    return {"likelihood": model.architecture_["likelihood"], "activation": model.architecture_["activation"]}


def noise(model, n):
    """The noise of n draws, that answers take: of each layer (n,O), pairs that are each other's mirror image."""
    found = []
    for l, O in enumerate(model.architecture_["sizes"][1:]):
        eps = np.empty((-(-n // 2), O))
        kernels.load("cpu").random.normal(0, lvm.network.ANSWER, l, eps)
        found.append(np.repeat(eps, 2, axis=0)[:n] * np.tile([1, -1], len(eps))[:n, None])
    return found


def answers(model, X, n=9):
    """All that a model says of rows, as one list of arrays."""
    if isinstance(model, lvm.BayesianMLPRegressor):
        return [*model.predict(X, return_std=True, n_samples=n), model.predict(X, n_samples=0)]
    return [model.predict_proba(X, n), model.predict_log_proba(X, n), model.predict_proba(X, 0)]


def state(model):
    return copy.deepcopy({name: a for name, a in vars(model).items() if name.endswith("_")})


def assert_same_state(a, b, but=()):
    assert a.keys() - set(but) == b.keys() - set(but)
    for name in a.keys() - set(but):
        assert_equal(a[name], b[name], err_msg=name)


def assert_sound(model, X, y):
    for name in ("parameters_", "lower_bound_", "lower_bounds_", "mean_", "scale_", "kl_"):
        assert np.isfinite(getattr(model, name)).all(), name
    for a in (*answers(model, X), model.score(X, y), model.evaluate(X, y)):
        assert np.isfinite(a).all()


def moons(n=300):
    """Two half rings of noisy points: rows (2n,2) in any order, and which one they are of."""
    r, t = rng(3), rng(4).uniform(0, np.pi, n)
    X = np.concatenate([np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), 0.5 - np.sin(t)]])
    order = r.permutation(2 * n)
    return (X + 0.15 * r.standard_normal(X.shape))[order], np.repeat([0, 1], n)[order]


# ------------------------------------------------------------------------------------------------ what training reaches
def test_a_linear_net_reaches_the_bound_of_the_diagonal_logistic_regression_and_does_not_exceed_it():
    """The exact bound, at the weights that noisy steps found."""
    r = rng()
    X = r.standard_normal((80, 5))
    y = X @ [2, -1, 0, 0, 0.5] + 0.3 + r.logistic(size=80) > 0
    X = (X - X.mean(0)) / X.std(0)
    want = lvm.VariationalLogisticRegression(covariance="diag", tol=1e-10).fit(X, y)
    net = small(hidden_layer_sizes=(), batch_size=80, max_epochs=40, learning_rate=0.02).fit(X, y)
    x, kl = standardised(net, X), sum(kl.sum() for kl in network_kl(theta(net))) / 80
    bound = network_linear_log_p(theta(net), x, y.astype(int), "logistic").mean() - kl
    assert want.lower_bound_ - 1e-3 < bound < want.lower_bound_
    assert_allclose(net.coefs_[0][:, 0], want.coef_[0], atol=0.03)
    assert_allclose(net.predict_proba(X, 2000), want.predict_proba(X), atol=0.02)
    pruned = net.log_ratio_[0][:-1, 0] >= 3
    assert_array_equal(pruned, [False, False, True, True, True])
    assert set(want.relevance_) == {0, 1}


def test_a_linear_regression_finds_the_noise_and_the_columns():
    r = rng(11)
    X = r.standard_normal((300, 6)) * [1, 10, 0.1, 1, 1, 1] + 3
    y = X @ [1, 0.2, 0, 0, 0, 0] + 5 + 0.5 * r.standard_normal(300)
    net = small("regressor", hidden_layer_sizes=(), max_epochs=80, learning_rate=0.02).fit(X, y)
    a = np.c_[X[:, :2], np.ones(300)]
    w, (rest,), *_ = np.linalg.lstsq(a, y)
    assert_allclose(net.coefs_[0][:2, 0] * net.y_scale_ / net.scale_[:2], w[:2], rtol=0.02)
    assert_allclose(net.noise_variance_, rest / 300, rtol=0.05)
    assert np.sqrt(np.mean((net.predict(X, n_samples=0) - a @ w) ** 2)) < 0.15
    ratio = net.log_ratio_[0][:-1, 0]
    assert ratio[:2].max() < -3
    assert ratio[2:].min() > -1
    assert ratio[2:].max() > 3
    everything = np.c_[X, np.ones(300)]  # what says least by least squares goes first: by w²/var(w)
    all_w, *_ = np.linalg.lstsq(everything, y)
    said = all_w**2 / np.diag(np.linalg.inv(everything.T @ everything))
    assert_array_equal(np.argsort(ratio[2:]), np.argsort(-said[2:6]))
    exact = network_linear_log_p(theta(net), standardised(net, X), (y - net.y_mean_) / net.y_scale_, "gaussian")
    e = net.evaluate(X, y, 2000)
    assert_allclose(e.log_likelihood, exact.mean() - np.log(net.y_scale_), rtol=1e-3)
    assert e.bound < norm(a @ w, np.sqrt(rest / 300)).logpdf(y).mean()


@pytest.mark.parametrize(
    ("params", "least", "left"),
    [
        ({}, 0.95, 30),
        ({"prior": "log_uniform", "activation": "tanh", "learning_rate": 0.03}, 0.95, 30),
        ({"prior": "gaussian", "prior_variance": 10.0, "activation": "softplus", "learning_rate": 0.03}, 0.88, 60),
    ],
    ids=str,
)
def test_two_moons_are_told_apart(params, least, left):
    """Also with the weights alone that pruning leaves."""
    X, y = moons()
    net = small(hidden_layer_sizes=(20,), max_epochs=25, **params).fit(X[:200], y[:200])
    assert net.score(X[200:], y[200:]) > least
    assert net.evaluate(X[200:], y[200:]).ece < 0.06
    assert net.prune().score(X[200:], y[200:]) > least
    assert net.export().n_weights <= net.n_weights_ <= left  # of 60


def test_a_curve_is_learned():
    r = rng(2)
    x = r.uniform(-3, 3, 200)[:, None]
    y = 100 * (np.sin(2 * x[:, 0]) + 0.1 * r.standard_normal(200))
    net = small("regressor", hidden_layer_sizes=(20, 20), activation="tanh", max_epochs=60, learning_rate=0.02)
    assert net.fit(x, y).score(x, y) > 0.95
    assert 0.8 < net.evaluate(x, y).coverage <= 1
    assert 8 < np.sqrt(net.noise_variance_) < 20


def test_bands_widen_away_from_the_rows():
    """Of a line by 12 rows, as much as the formula of linear regression says."""
    x = np.linspace(-1, 1, 12)[:, None]
    y = 2 * x[:, 0] + 0.5 * rng(1).standard_normal(12)
    net = small("regressor", hidden_layer_sizes=(), max_epochs=30, prior="gaussian", prior_variance=100.0).fit(x, y)
    far = np.array([[0.0], [5.0]])
    _, std = net.predict(far, return_std=True, n_samples=2000)
    noise_ = np.mean((y - np.polyval(np.polyfit(x[:, 0], y, 1), x[:, 0])) ** 2)
    want = np.sqrt(noise_ * (1 + 1 / 12 + far[:, 0] ** 2 / (x**2).sum()))
    assert_allclose(std, want, rtol=0.15)


def test_the_warm_up_keeps_weights_that_the_data_had_no_time_to_speak_for():
    """Of the gaussian's prior, too: the KL in the history rises less while it hardly counts."""
    X, y = data("classifier")
    late, early = (small(kl_warmup_steps=n, max_epochs=4).fit(X, y) for n in (10**9, 0))
    assert late.history_["kl"][0] > early.history_["kl"][0]
    assert late.sparsity_.mean() < early.sparsity_.mean()
    half = small(kl_warmup_steps=200, max_epochs=4).fit(X, y)
    assert_array_equal(small(max_epochs=4).fit(X, y).parameters_, half.parameters_)  # half of the steps by default
    whole = small(kl_warmup_steps=400, max_epochs=4).fit(X, y)
    assert_array_equal(late.parameters_, whole.parameters_)  # and at most all


# ------------------------------------------------------------------------------------------------ answers
@model_
@pytest.mark.parametrize("n", [0, 1, 9])
def test_answers_are_those_of_the_formulas(kind, n):
    """Before and after pruning, by a threshold that takes some weights."""
    model, X, _ = trained(kind)
    eps, x = noise(model, n) if n else None, standardised(model, X)
    log_ratios = np.concatenate([ratio.ravel() for ratio in model.log_ratio_])
    for threshold in (None, float(np.median(log_ratios))):
        pruned = copy.copy(model).prune(threshold)
        want = network_predict(theta(model), x, eps, threshold=threshold, **options(model))
        if model._kind == "classifier":
            assert_allclose(pruned.predict_proba(X, n), want, rtol=1e-9)
            assert_allclose(pruned.predict_log_proba(X, n), np.log(want), rtol=1e-9, atol=1e-12)
            assert_array_equal(pruned.predict(X, n), model.classes_[want.argmax(1)])
        else:
            mean, std = pruned.predict(X, return_std=True, n_samples=n)
            assert_allclose(mean, model.y_mean_ + model.y_scale_ * want[0], rtol=1e-9)
            assert_allclose(std, model.y_scale_ * want[1], rtol=1e-7)
            assert_array_equal(pruned.predict(X, n_samples=n), mean)


@model_
def test_the_noise_of_answers_is_normal_and_a_hundred_draws_are_near_many(kind):
    model, X, _ = trained(kind)
    eps = [rng(l).standard_normal((4000, O)) for l, O in enumerate(model.architecture_["sizes"][1:])]
    want = network_predict(theta(model), standardised(model, X[:40]), eps, **options(model))
    if model._kind == "classifier":
        assert_allclose(model.predict_proba(X[:40]), want, atol=0.06)
        assert_allclose(model.predict_proba(X[:40], 5000), want, atol=0.02)
    else:
        for got, b in zip(model.predict(X[:40], return_std=True, n_samples=5000), want):
            assert_allclose(got, model.y_scale_ * b + (model.y_mean_ if b is want[0] else 0), rtol=0.05, atol=0.02)


@model_
@T_
def test_a_row_alone_has_the_answer_it_has_in_company(kind, T):
    model, X, _ = trained(kind, T)
    order, tol = rng().permutation(150)[:40], 1e-4 if T is np.float32 else 1e-10
    some, one = answers(model, X[order]), [answers(model, x[None]) for x in X[:3]]
    for i, whole in enumerate(answers(model, X)):
        assert whole.dtype == T
        assert_allclose(some[i], whole[order], rtol=tol, atol=tol)  # (BLAS rounds by the shape)
        assert_allclose(np.concatenate([a[i] for a in one]), whole[:3], rtol=tol, atol=tol)


def test_answers_are_the_same_by_pieces(monkeypatch):
    """Of rows, and of draws where one row has more than there is room for."""
    for kind in ("softmax", "deep"):
        model, X, y = trained(kind)
        whole, evaluated = answers(model, X, 50), model.evaluate(X, y, 50)
        for room in ((120, 1 << 22), (7, 1 << 22), (4096, 6 * 60)):
            with monkeypatch.context() as patch:
                patch.setattr(lvm.network, "ROOM", room)
                for a, b in zip(answers(model, X, 50), whole):
                    assert_allclose(a, b, rtol=1e-10, atol=1e-10)
                assert_allclose(model.evaluate(X, y, 50), evaluated, rtol=1e-10)


@model_
def test_answers_do_not_draw(kind):
    model, X, _ = trained(kind)
    want = answers(model, X)
    for seed in (None, 5, rng(3)):
        other = copy.copy(model).set_params(random_state=seed)
        for _ in range(2):
            for a, b in zip(answers(other, X), want):
                assert_array_equal(a, b)


def test_predictions_are_the_most_probable_classes_and_have_their_dtype():
    for labels in (FLOWERS, np.repeat([3, 1, 2], 50), np.repeat([7.0, -2.0, 3.0], 50), FLOWERS.astype(object)):
        model = small().fit(IRIS, labels)
        assert_array_equal(model.classes_, np.unique(labels))
        assert_array_equal(model.predict(IRIS), model.classes_[model.predict_proba(IRIS).argmax(1)])
        assert model.predict(IRIS).dtype == model.classes_.dtype
        assert_allclose(model.predict_proba(IRIS).sum(1), 1, rtol=1e-12)
    a, b = (small().fit(IRIS[50:], y) for y in (FLOWERS[50:], np.repeat([False, True], 50)))
    assert_same_state(state(a), state(b), but=["classes_"])
    assert b.predict(IRIS).dtype == bool


@model_
def test_scores_are_of_the_predictions(kind):
    model, X, y = trained(kind)
    w = rng().integers(0, 3, 150)
    many = np.repeat(np.arange(150), w)
    assert_allclose(model.score(X, y, w), model.score(X[many], y[many]), rtol=1e-12)
    if model._kind == "classifier":
        assert model.score(X, y) == np.mean(model.predict(X) == y)
        assert model.score(X[:3], ["none", "of", "these"] if kind != "logistic" else [5, 6, 7]) == 0
    else:
        rest = ((y - model.predict(X)) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        assert_allclose(model.score(X, y), 1 - rest, rtol=1e-9)


@pytest.mark.parametrize("kind", ["softmax", "logistic", "linear"])
def test_an_evaluation_of_classes_is_of_the_plain_formulas(kind):
    model, X, y = trained(kind)
    p, n, right = model.predict_proba(X, 20), 20, model.predict(X, 20) == y
    codes = np.searchsorted(model.classes_, y)
    two = len(model.classes_) == 2
    sure, came_true = (p[:, 1], codes == 1) if two else (p.max(1), right)
    gap = 0.0
    for low in np.arange(10) / 10:
        inside = (sure >= low) & (sure < low + 0.1 + (1e-9 if low > 0.85 else 0))
        if inside.any():
            gap += inside.mean() * abs(sure[inside].mean() - came_true[inside].mean())
    each = [
        network_log_p({}, network_output(theta(model), standardised(model, X), e, options(model)["activation"]), codes,
                      options(model)["likelihood"]) for e in zip(*noise(model, n))
    ]  # fmt: skip
    kl = sum(kl.sum() for kl in network_kl(theta(model), model.prior)) / 120
    e = model.evaluate(X, y, n)
    want = {
        "bound": np.mean(each) - kl,
        "log_likelihood": np.mean(each),
        "kl": kl,
        "accuracy": right.mean(),
        "nll": -np.log(p[np.arange(150), codes]).mean(),
        "brier": ((p - np.eye(len(model.classes_))[codes]) ** 2).sum(1).mean() / (2 if two else 1),
        "ece": gap,
    }
    assert e._asdict() == pytest.approx(want, rel=1e-9)
    assert str(e).splitlines() == [
        f"accuracy        {e.accuracy:.4f}",
        f"NLL             {e.nll:.4f} nats a row",
        f"Brier score     {e.brier:.4f}",
        f"calibration     {e.ece:.4f}  (expected error of the probabilities)",
        f"bound           {e.bound:.4f} nats a row: {e.log_likelihood:.4f} less KL {e.kl:.4f}",
    ]


def fixed(model, output):
    """A copy of a model that puts this out for every row, but for 1e-9 or so: means of 0, and next to no variance."""
    model = copy.deepcopy(model)
    for name, w in model.weights_.items():
        if name.startswith("mu"):
            w[:] = 0
        elif name.startswith("rho"):
            w[:] = -300
    model.weights_[f"mu_{len(model.coefs_) - 1}"][-1] = output
    return model


def test_an_evaluation_of_known_probabilities():
    model = fixed(trained("logistic")[0], np.log(4))  # 0.8 for True
    y = [True, True, True, False]
    e = model.evaluate(IRIS[:4, :3], y)
    assert_allclose(e[3:6], [0.75, -(3 * np.log(0.8) + np.log(0.2)) / 4, (3 * 0.08 + 1.28) / 8], rtol=1e-3)
    assert_allclose(e.ece, 0.05, rtol=1e-2)
    assert_allclose(e.log_likelihood, -e.nll, rtol=1e-6)
    sure = fixed(model, 100.0).evaluate(IRIS[:4, :3], y)  # a probability of 1 is in the last bin
    assert_allclose(sure[3:], [0.75, 25, 0.25, 0.25], rtol=1e-4)


def test_an_evaluation_of_a_known_normal():
    model = fixed(trained("gaussian")[0], 0.0)
    s, X = np.sqrt(model.noise_variance_), IRIS[:5, :3]
    y = model.y_mean_ + s * np.array([0, 1, -1.64, 1.65, 5])
    e = model.evaluate(X, y)
    rmse = s * np.sqrt((0 + 1 + 1.64**2 + 1.65**2 + 25) / 5)
    nll = -norm(model.y_mean_, s).logpdf(y).mean()
    want = {"r2": 1 - rmse**2 / y.var(), "rmse": rmse, "nll": nll, "coverage": 0.6, "log_likelihood": -nll}
    assert {name: getattr(e, name) for name in want} == pytest.approx(want, rel=1e-3)
    assert e.bound == pytest.approx(e.log_likelihood - model.kl_ / 120, rel=1e-12)
    assert str(e).splitlines()[:4] == [
        f"R²              {e.r2:.4f}",
        f"RMSE            {e.rmse:.6g}",
        f"NLL             {e.nll:.4f} nats a row",
        f"coverage        {e.coverage:.4f} of the rows in intervals of 90%",
    ]


@pytest.mark.parametrize("kind", ["gaussian", "deep"])
def test_an_evaluation_of_a_regression_is_of_the_plain_formulas(kind):
    model, X, y = trained(kind)
    eps, x, unit = noise(model, 20), standardised(model, X), model.y_scale_
    draws = np.stack([network_output(theta(model), x, e, options(model)["activation"])[:, 0] for e in zip(*eps)])
    log_p = norm(model.y_mean_ + unit * draws, np.sqrt(model.noise_variance_)).logpdf(y)
    mean, std = model.predict(X, return_std=True, n_samples=20)
    e = model.evaluate(X, y, 20)
    want = {
        "log_likelihood": log_p.mean(),
        "kl": sum(kl.sum() for kl in network_kl(theta(model), model.prior)) / 120,
        "r2": 1 - ((y - mean) ** 2).mean() / y.var(),
        "rmse": np.sqrt(((y - mean) ** 2).mean()),
        "nll": -np.log(np.exp(log_p).mean(0)).mean(),
        "coverage": np.mean(np.abs(y - mean) <= norm.ppf(0.95) * std),
    }
    assert {name: getattr(e, name) for name in want} == pytest.approx(want, rel=1e-9)
    assert e.bound == pytest.approx(e.log_likelihood - e.kl, rel=1e-12)


def test_far_rows_have_answers_or_are_told():
    for kind in ("softmax", "linear", "gaussian"):
        model, X, _ = trained(kind)
        for far in (1e10, 1e100):
            rows = np.where(np.arange(150)[:, None] == 70, far, X)
            for a, b in zip(answers(model, rows), answers(model, X)):
                assert np.isfinite(a[70]).all()
                assert_allclose(np.delete(a, 70, 0), np.delete(b, 70, 0), rtol=1e-9)
        rows = np.where(np.arange(150)[:, None] == 70, 1e300, X)
        with pytest.raises(ValueError, match=r"^Row 70 of X is so far from the data that the net overflows\.$"):
            model.predict(rows)
    model, X, _ = trained("logistic")  # which saturates
    for a in answers(model, np.where(X > 5, 1e300, X)):
        assert np.isfinite(a).all()


# ------------------------------------------------------------------------------------------------ what is in a model
def test_weights_are_views_with_names_and_shapes():
    model, _, _ = trained("deep")
    assert {name: w.shape for name, w in model.weights_.items()} == {
        "mu_0": (4, 5), "mu_1": (6, 4), "mu_2": (5, 1),
        "rho_0": (4, 5), "rho_1": (6, 4), "rho_2": (5, 1), "noise": (1,),
    }  # fmt: skip
    assert all(np.shares_memory(w, model.parameters_) for w in model.weights_.values())
    assert_array_equal(np.concatenate([w.ravel() for w in model.weights_.values()]), model.parameters_)
    assert [w.shape for w in model.coefs_] == [(3, 5), (5, 4), (4, 1)]
    assert [b.shape for b in model.intercepts_] == [(5,), (4,), (1,)]
    for l in range(3):
        assert_array_equal(np.vstack([model.coefs_[l], model.intercepts_[l]]), model.weights_[f"mu_{l}"])
    assert "noise" not in trained("softmax")[0].weights_
    assert trained("logistic")[0].weights_["mu_1"].shape == (7, 1)
    noise_ = np.exp(log_variance(model.weights_["noise"][0])) * model.y_scale_**2
    assert_allclose(model.noise_variance_, noise_, rtol=1e-12)


@model_
def test_pruning_takes_what_the_log_ratio_tells_and_gives_it_back(kind):
    model, X, _ = trained(kind)
    ratios, before = network_log_ratio(theta(model)), answers(model, X)
    for a, b in zip(model.log_ratio_, ratios, strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    weights = np.concatenate([r[:-1].ravel() for r in ratios])
    assert model.n_weights_ == weights.size
    assert_allclose(model.sparsity_, [np.mean(r[:-1] >= 3) for r in ratios])
    other = copy.copy(model)
    for threshold in (3.0, float(np.median(weights)), -1000, 1000):
        assert other.prune(threshold) is other
        assert other.threshold_ == threshold
        assert other.n_weights_ == np.sum(weights < threshold)
        assert_allclose(other.sparsity_, [np.mean(r[:-1] >= threshold) for r in ratios])
        for l, ratio in enumerate(ratios):
            kept = np.where(ratio < threshold, model.weights_[f"mu_{l}"], 0)
            assert_array_equal(np.vstack([other.coefs_[l], other.intercepts_[l]]), kept)
    assert other.prune().threshold_ == 3
    assert_array_equal(other.parameters_, model.parameters_)
    assert other.prune(None).threshold_ is None
    for a, b in zip(answers(other, X), before):
        assert_array_equal(a, b)
    assert other.n_weights_ == weights.size


def test_with_all_pruned_every_row_has_one_answer():
    for kind in ("softmax", "logistic", "deep"):
        model, X, y = trained(kind)
        model = copy.copy(model).prune(-1000)
        assert model.n_weights_ == 0
        for a in answers(model, X):
            assert_array_equal(a, a[:1].repeat(len(a), 0))
        if kind != "deep":
            assert_allclose(model.predict_proba(X), 1 / len(model.classes_), rtol=1e-12)
        else:
            assert_allclose(model.predict(X), model.y_mean_, rtol=1e-12)
        assert_sound(model, X, y)


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -np.inf, "3", True, [3]], ids=str)
def test_thresholds_that_are_refused_change_nothing(threshold):
    model = copy.copy(trained("softmax")[0]).prune(2)
    with pytest.raises(InvalidParameterError, match=r"^The 'threshold' parameter of prune must be a finite number"):
        model.prune(threshold)
    assert model.threshold_ == 2


# ------------------------------------------------------------------------------------------------ small nets
def assert_exported(model, X, tol):
    """The small net says what the mean weights say."""
    net = model.export()
    if model._kind == "classifier":
        want = model.predict_log_proba(X, 0)
        assert_allclose(np.log(net.predict_proba(X)), want, rtol=tol, atol=tol)
        assert_allclose(net.predict_proba(X).sum(1), 1, rtol=10 * tol)
        sure = np.sort(want, axis=1)[:, -1] - np.sort(want, axis=1)[:, -2] > tol
        assert_array_equal(net.predict(X)[sure], model.predict(X, 0)[sure])
    else:
        assert_allclose(net.predict(X), model.predict(X, n_samples=0), rtol=tol, atol=tol)
    assert net.predict(X).shape == (len(X),)
    assert net.n_weights <= model.n_weights_
    assert {W.dtype for W, _ in net.layers} | {b.dtype for _, b in net.layers} == {model.parameters_.dtype}
    return net


@pytest.fixture(params=["dense", "sparse"])
def layers(request, monkeypatch):
    """Small nets of both kinds."""
    if request.param == "sparse":
        monkeypatch.setattr(lvm.network, "SPARSE", (1, 1))
    return request.param


@model_
def test_a_small_net_says_what_the_mean_weights_say(kind, layers):
    model, X, _ = trained(kind)
    sizes = "-".join(map(str, model.architecture_["sizes"]))
    net, kinds = assert_exported(model, X, 1e-9), ", ".join([layers] * len(model.coefs_))
    assert repr(net) == f"<SmallNet {sizes}: {model.n_weights_} weights, {kinds}>"
    assert net.n_weights == model.n_weights_
    ratios = np.concatenate([r.ravel() for r in model.log_ratio_])
    for threshold in (*np.quantile(ratios, [0.2, 0.5, 0.8, 0.95]), -1000):
        assert_exported(copy.copy(model).prune(float(threshold)), X, 1e-9)


def test_a_small_net_of_float32_is_float32(layers):
    for kind in ("softmax", "gaussian"):
        model, X, _ = trained(kind, np.float32)
        for threshold in (None, 0.0):
            assert_exported(copy.copy(model).prune(threshold), X, 1e-4)
        assert model.export().output(X).dtype == np.float32


def killed(activation, dead, which="classifier"):
    """A pruned model of 5 columns and layers of 6 and 5 units, in which `dead`, {layer: [(inputs, outputs), ...]}, are
    pruned."""
    X, y = np.hstack([IRIS[:, :3], np.sqrt(IRIS[:, :2])]), data(which)[1]
    model = small(which, hidden_layer_sizes=(6, 5), activation=activation, kl_warmup_steps=200).fit(X, y)
    for l, pairs in dead.items():
        for i, j in pairs:
            model.weights_[f"mu_{l}"][:-1][i, j] = 1e-9
    for name, w in model.weights_.items():
        if name.startswith("mu"):
            w[:] = np.where(np.abs(w) == 1e-9, w, np.sign(w) * np.maximum(np.abs(w), 0.1))
        elif name.startswith("rho"):
            w[:] = -8
    return model.prune(), X


ALL = slice(None)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize(
    ("dead", "sizes", "columns"),
    [
        ({0: [(ALL, 0)]}, (5, 5, 5, 3), ALL),  # a unit without inputs is its f(b)
        ({1: [(1, ALL)]}, (5, 5, 5, 3), ALL),  # a unit that nothing takes
        ({1: [(ALL, 2)]}, (5, 6, 4, 3), ALL),
        ({2: [(2, ALL)]}, (5, 6, 4, 3), ALL),
        ({0: [(ALL, 0), (ALL, 1)], 1: [(slice(2, 6), 3)]}, (5, 4, 4, 3), ALL),  # of units that are constants alone
        ({2: [(slice(1, 5), ALL)], 1: [(slice(0, 5), 0)]}, (5, 1, 1, 3), ALL),  # of one way through
        ({0: [(0, ALL), (4, ALL)]}, (3, 6, 5, 3), slice(1, 4)),  # columns that nothing takes
        ({0: [(0, slice(1, 6))], 1: [(0, ALL)]}, (4, 5, 5, 3), slice(1, 5)),  # or only a unit that nothing takes
        ({0: [(2, ALL)]}, (5, 6, 5, 3), ALL),  # a gap of one is not worth a copy of X
        ({0: [(slice(1, 4), ALL)]}, (2, 6, 5, 3), [0, 4]),  # and one of most columns is
        ({0: [(ALL, ALL)]}, (0, 0, 0, 3), []),
        ({1: [(ALL, ALL)]}, (0, 0, 0, 3), []),
        ({2: [(ALL, ALL)]}, (0, 0, 0, 3), []),
    ],
    ids=str,
)
def test_dead_units_are_left_out_and_what_they_said_is_not(dead, sizes, columns, activation, layers):
    model, X = killed(activation, dead)
    net = assert_exported(model, X, 1e-9)
    assert repr(net).startswith(f"<SmallNet {'-'.join(map(str, sizes))}: ")
    assert_array_equal(np.arange(5)[net.columns], np.arange(5)[columns or slice(0)])
    assert isinstance(net.columns, slice) == (columns != [0, 4])
    assert_exported(killed(activation, dead, "regressor")[0], X, 1e-9)


def test_large_layers_with_few_weights_are_sparse_and_others_dense():
    X, y = rng().standard_normal((30, 300)), np.arange(30) % 2
    model = small(hidden_layer_sizes=(300,), max_epochs=1, batch_size=30, callback=lambda *_: True).fit(X, y)
    for name, w in model.weights_.items():
        w[:] = 0.02 if name.startswith("mu") else -8
    for part, kinds in ((0.7, "sparse, dense"), (1.3, "dense, dense")):
        kept = rng(1).random((300, 300)) < part / lvm.network.SPARSE[1]
        model.weights_["rho_0"][:-1] = np.where(kept, -8, 8)
        net = assert_exported(model.prune(), X, 1e-9)
        assert repr(net).endswith(f"weights, {kinds}>")


@pytest.mark.parametrize("which", CLASSES)
def test_a_small_net_has_the_digits_of_columns_far_from_zero(which):
    """In float32, where biases could not hold the centring."""
    X, y = data(which)
    X = np.column_stack([X + [0, 1e4, 0], np.full(150, 1e8)]).astype(np.float32)
    net = small(which, prior="gaussian").fit(X, y)
    tiny, answer = net.export(), "predict_proba" if which == "classifier" else "predict"
    got = getattr(tiny, answer)(X)
    assert got.dtype == np.float32
    assert_allclose(got, getattr(net, answer)(X, n_samples=0), rtol=1e-4, atol=1e-5)
    assert small(which).fit(X[:, :1], y).export().shift is None


def test_a_small_net_takes_rows_alone_and_says_so():
    net = trained("softmax")[0].export()
    assert_array_equal(net.predict(IRIS[:, :3].tolist()), net.predict(IRIS[:, :3]))
    said = "X must have the shape (N, 3), got {}. Try X.reshape(1, -1) for one row."
    for bad, shape in ((IRIS, "(150, 4)"), (IRIS[0, :3], "(3,)")):
        with pytest.raises(
            ValueError,
            match=f"^{re.escape(said.format(shape))}$",
        ):
            net.predict(bad)
    with pytest.raises(ValueError, match=r"^A net for regression has no classes\. Try predict\.$"):
        trained("gaussian")[0].export().predict_proba(IRIS[:, :3])


def test_a_small_net_is_left_alone_by_its_model():
    model = copy.deepcopy(trained("softmax")[0])
    net = model.export()
    want = net.output(IRIS[:, :3])
    model.parameters_[:] = 0
    assert_array_equal(net.output(IRIS[:, :3]), want)
    twin = pickle.loads(pickle.dumps(net))
    assert_array_equal(twin.output(IRIS[:, :3]), want)


# ------------------------------------------------------------------------------------------------ history, ends
@both
@pytest.mark.parametrize("batch_size", [64, 200])
def test_the_history_is_of_means_over_all_rows_of_an_epoch(which, batch_size):
    """As steps of 1e-12 change nothing, they are those of the model itself, in the units of y."""
    X, y = data(which)
    y = 1000 * y if which == "regressor" else y
    model = small(which, learning_rate=1e-12, max_epochs=3, batch_size=batch_size).fit(X, y)
    e, h = model.evaluate(X, y, 2000), model.history_
    assert set(h) == {"lower_bound", "log_likelihood", "kl", "sparsity", "sparsity_0", "sparsity_1"}
    assert_allclose(h["kl"], [e.kl] * 3, rtol=1e-6)
    assert_allclose(h["log_likelihood"], [e.log_likelihood] * 3, rtol=0.02)
    assert_allclose(np.subtract(h["log_likelihood"], h["kl"]), h["lower_bound"], rtol=1e-9)
    assert_allclose(np.c_[h["sparsity_0"], h["sparsity_1"]], [model.sparsity_] * 3)
    sizes = [w.size for w in model.coefs_]
    assert_allclose(h["sparsity"], [model.sparsity_ @ sizes / sum(sizes)] * 3)
    assert model.lower_bounds_ == h["lower_bound"]
    assert model.lower_bound_ == model.lower_bounds_[-1]
    kl = sum(kl.sum() for kl in network_kl(theta(model)))
    assert (model.kl_, model.weight_) == (pytest.approx(kl, rel=1e-9), 150)


@both
def test_a_unit_of_y_or_x_changes_no_bit_of_the_net(which):
    X, y = data(which)
    a = small(which).fit(X, y)
    b = small(which).fit(X * 2.0**-40, y)
    assert_array_equal(b.parameters_, a.parameters_)
    assert_array_equal(b.predict(X * 2.0**-40), a.predict(X))
    if which == "regressor":
        for unit in (2.0**-400, 2.0**300):
            b = small(which).fit(X, y * unit)
            assert_array_equal(b.parameters_, a.parameters_)
            assert_array_equal(b.predict(X), a.predict(X) * unit)
            assert_allclose(b.lower_bounds_, a.lower_bounds_ - np.log(unit), rtol=1e-12)
            assert_allclose(b.evaluate(X, y * unit).bound, a.evaluate(X, y).bound - np.log(unit), rtol=1e-9)


def test_one_layer_has_one_sparsity():
    model = small(hidden_layer_sizes=()).fit(*data("classifier"))
    assert set(model.history_) == {"lower_bound", "log_likelihood", "kl", "sparsity"}
    assert model.sparsity_.shape == (1,)


@both
def test_early_stopping_keeps_what_was_best_on_the_rows_held_out(which):
    X, y = data(which)
    make = lambda **p: small(
        which, hidden_layer_sizes=(40,), max_epochs=60, early_stopping=True, n_epochs_no_change=3, learning_rate=0.1,
        validation_fraction=0.3, kl_warmup_steps=0, prior="gaussian", prior_variance=100.0, schedule="constant", **p,
    )  # fmt: skip
    some = np.arange(0, 150, 3)
    model = make().fit(X[some], y[some])
    h = model.history_
    assert {f"validation_{name}" for name in ("lower_bound", "log_likelihood", "kl")} < set(h)
    bounds = h["validation_lower_bound"]
    assert_allclose(np.subtract(h["validation_log_likelihood"], h["validation_kl"]), bounds, rtol=1e-9)
    assert model.converged_
    assert model.lower_bound_ == max(bounds) > bounds[-1]
    assert model.n_iter_ == len(bounds) < 60
    assert model.weight_ == 35
    best = int(np.argmax(bounds)) + 1
    stopped = make(callback=lambda n, _: n == best).fit(X[some], y[some])
    assert_array_equal(stopped.parameters_, model.parameters_)


def test_a_part_of_the_rows_is_held_out():
    """As steps of 1e-12 change nothing, the two parts have the mean of all rows, in proportion."""
    X, y = IRIS[:, :3], rng(6).standard_normal(150) ** 3
    model = small("regressor", early_stopping=True, validation_fraction=0.2, learning_rate=1e-12, max_epochs=1).fit(
        X, y
    )
    held, seen = model.history_["validation_log_likelihood"][0], model.history_["log_likelihood"][0]
    assert abs(held - seen) > 0.1
    assert_allclose(0.2 * held + 0.8 * seen, model.evaluate(X, y, 2000).log_likelihood, rtol=3e-3)


def test_training_begins_at_small_weights_of_little_variance():
    """Glorot & Bengio 2010; S = e^-8."""
    model = small(learning_rate=1e-12, max_epochs=1, hidden_layer_sizes=(50, 20)).fit(IRIS, FLOWERS)
    for mu, b, ratio in zip(model.coefs_, model.intercepts_, model.log_ratio_):
        most = np.sqrt(6 / sum(mu.shape))
        assert 0.8 * most < np.abs(mu).max() < most + 1e-6
        assert_allclose(mu.std(), most / np.sqrt(3), rtol=0.2)
        assert_allclose(b, 0, atol=1e-6)
        assert_allclose(ratio[:-1] + 2 * np.log(np.abs(mu)), -8, atol=1e-6)


def test_rows_held_out_have_weight():
    """Rows of weight 0 are in neither part."""
    X, y = data("classifier")
    w = np.tile([1.0, 0.0, 2.0], 50)
    model = small(early_stopping=True, validation_fraction=0.5, max_epochs=1, learning_rate=1e-12).fit(X, y, w)
    seen = np.flatnonzero(w)
    dropped = small(early_stopping=True, validation_fraction=0.5, max_epochs=1, learning_rate=1e-12)
    dropped.fit(X[seen], y[seen], w[seen])
    assert_same_state(state(model), state(dropped), but=["optimizer_state_"])
    assert 50 < model.weight_ < 100


def test_a_fit_with_all_rows_held_out_is_refused():
    with pytest.raises(ValueError, match=r"^validation_fraction=0\.9 leaves no rows to fit of 2\.$"):
        small(early_stopping=True, validation_fraction=0.9).fit(IRIS[:2], [0, 1])


def test_training_ends_when_the_bound_has_stopped_rising_or_after_all_epochs():
    X, y = data("classifier")
    for params, want in (
        ({"max_epochs": 50, "n_epochs_no_change": 2, "kl_warmup_steps": 0}, (4, True)),
        ({"max_epochs": 9, "n_epochs_no_change": 2, "kl_warmup_steps": 250}, (3 + 4, True)),
        ({"max_epochs": 5, "n_epochs_no_change": 3}, (5, False)),
        ({"max_epochs": 5}, (5, True)),
    ):
        model = small(tol=100.0, **params).fit(X, y)
        assert (model.n_iter_, model.converged_) == want


def test_a_callback_sees_each_epoch_and_may_end_the_training():
    seen = []
    model = small(max_epochs=50, callback=lambda *a: seen.append(a) or len(seen) == 3).fit(*data("classifier"))
    assert [e for e, _ in seen] == [1, 2, 3]
    assert (model.n_iter_, model.converged_) == (3, False)
    assert {name: [v[name] for _, v in seen] for name in seen[0][1]} == model.history_


@pytest.mark.parametrize(("N", "batch_size", "steps"), [(50, 128, 100), (700, 128, 102), (1100, 10, 110)])
def test_an_epoch_has_a_hundred_steps_or_the_passes_that_make_more(N, batch_size, steps, capsys):
    X = rng().standard_normal((N, 3))
    small(batch_size=batch_size, max_epochs=1, verbose=1).fit(X, X[:, 0] > 0)
    assert f"{steps}/{steps}" in capsys.readouterr().err
    small(max_epochs=1).fit(X[:20], X[:20, 0] > 0)
    assert capsys.readouterr() == ("", "")


def test_a_net_that_has_lost_all_its_weights_is_told_of():
    """Labels that X says nothing about; without pruning there is nothing to tell."""
    X, y = rng().standard_normal((60, 3)), rng(1).integers(0, 2, 60)
    with pytest.warns(ConvergenceWarning, match=r"^All weights of the last layer are pruned: all rows get the same"):
        small(max_epochs=30, kl_warmup_steps=0).fit(X, y)


@both
def test_a_rate_that_is_much_too_high_leaves_numbers(which):
    X, y = data(which)
    model = small(which, learning_rate=10.0).fit(X, y)
    assert_sound(model, X, y)


def test_a_rate_that_blows_up_is_an_error_and_a_clipped_gradient_is_none():
    X, y = data("classifier")
    model = small().fit(X, y)
    before = state(model)
    with np.errstate(all="ignore"), pytest.raises(NumericalError, match=r"from 1e\+30\. Try a smaller learning_rate"):
        model.set_params(learning_rate=1e30).fit(X.astype(np.float32), y)
    assert_same_state(state(model), before)
    a, b = (small(max_epochs=1, clip_norm=c).fit(X, y) for c in (1e9, 1e-9))
    assert_array_equal(a.parameters_, small(max_epochs=1).fit(X, y).parameters_)
    assert np.any(a.parameters_ != b.parameters_)


# ------------------------------------------------------------------------------------------------ weights of rows
@both
def test_rows_of_weight_0_do_not_matter(which):
    """Whatever is in them: not for what columns and y are measured by, not for one bit of the training."""
    X, y = data(which)
    bad, w = np.array([3, 70, 149]), np.ones(150)
    X, y, w[bad] = X.copy(), y.copy(), 0
    want = small(which).fit(np.delete(X, bad, 0), np.delete(y, bad))
    for far in (1e8, -1e140):
        X[bad] = far
        y[bad] = far if which == "regressor" else "none"
        got = small(which).fit(X, y, w)
        assert_same_state(state(got), state(want), but=["optimizer_state_"])


@both
def test_weights_count_rows(which):
    """The bound, its parts and the measures, of steps of 1e-12: the noise of training is another."""
    X, y = data(which)
    w = rng().integers(0, 4, 150)
    many = np.repeat(np.arange(150), w)
    make = lambda: small(which, learning_rate=1e-12, max_epochs=1, batch_size=1000)
    a, b = make().fit(X, y, w), make().fit(X[many], y[many])
    assert_allclose(a.mean_, b.mean_, rtol=1e-12)
    assert_allclose(a.scale_, b.scale_, rtol=1e-12)
    assert_allclose(a.parameters_, b.parameters_, rtol=1e-6, atol=1e-9)
    assert a.weight_ == b.weight_ == len(many)
    assert_allclose(a.history_["kl"], b.history_["kl"], rtol=1e-7)
    assert_allclose(a.history_["log_likelihood"], b.history_["log_likelihood"], rtol=0.02)
    ones, none = small(which).fit(X, y, np.ones(150)), small(which).fit(X, y)
    assert_same_state(state(ones), state(none))


def test_class_weights_are_weights_of_rows():
    X, y = IRIS[50:, :2], FLOWERS[50:]
    given = {"versicolor": 0.25, "virginica": 3.0}
    a, b = small(class_weight=given).fit(X, y), small().fit(X, y, np.where(y == "versicolor", 0.25, 3.0))
    assert_same_state(state(a), state(b))
    few = np.r_[0:10, 50:100]
    a = small(class_weight="balanced").fit(X[few], y[few])
    b = small().fit(X[few], y[few], np.where(np.arange(60) < 10, 3.0, 0.6))
    assert_same_state(state(a), state(b))
    plain = small(max_epochs=8).fit(X[few], y[few])
    even = small(max_epochs=8, class_weight="balanced").fit(X[few], y[few])
    assert even.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean()
    a = small(class_weight=given).partial_fit(X, y)
    b = small().partial_fit(X, y, sample_weight=np.where(y == "versicolor", 0.25, 3.0))
    assert_array_equal(a.parameters_, b.parameters_)


BAD_CLASS_WEIGHTS = [
    ({"versicolor": -1}, "must be a finite number of at least 0, got -1 instead."),
    ({"versicolor": np.nan}, "must be a finite number of at least 0, got nan instead."),
    ({"versicolor": "a"}, "must be a finite number of at least 0, got 'a' instead."),
    ("even", "must be 'balanced', a dict or None, got 'even' instead."),
    ([1, 2], "must be 'balanced', a dict or None, got [1, 2] instead."),
]


@pytest.mark.parametrize(("class_weight", "message"), BAD_CLASS_WEIGHTS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_class_weights_that_are_refused(class_weight, message, method):
    said = re.escape(f"The 'class_weight' parameter of BayesianMLPClassifier {message}")
    with pytest.raises(InvalidParameterError, match=f"^{said}$"):
        getattr(small(class_weight=class_weight), method)(IRIS[50:], FLOWERS[50:])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_class_weight_of_no_class_is_refused(method):
    said = re.escape(
        "The classes ['versicolour'] of class_weight are not among those of y, ['versicolor', 'virginica']"
    )
    with pytest.raises(ValueError, match=f"^{said}"):
        getattr(small(class_weight={"versicolour": 2.0}), method)(IRIS[50:], FLOWERS[50:])


def test_weights_that_leave_too_little_are_refused():
    X, y = data("classifier")
    said = "BayesianMLPClassifier needs samples of at least 2 classes with weight in y, got 1 class(es): ['setosa']."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        small().fit(X, y, np.arange(150) < 50)
    two_of_three = small().fit(X, y, np.arange(150) < 100)
    assert list(two_of_three.classes_) == ["setosa", "versicolor"]
    for which in CLASSES:
        with pytest.raises(ValueError, match=r"^Weights count rows, and add up to 1\.5e-08\. Try weights of a mean"):
            small(which).fit(*data(which), np.full(150, 1e-10))
    with pytest.raises(ValueError, match=r"^All rows have the weight 0, by sample_weight and class_weight\.$"):
        small(class_weight={"setosa": 0.0}).partial_fit(X[:50], y[:50], classes=np.unique(y))


# ------------------------------------------------------------------------------------------------ partial_fit
@both
def test_many_calls_on_blocks_come_near_one_fit(which):
    X, y = data(which)
    order = rng().permutation(150)
    model = small(which, batch_size=10, learning_rate=0.02)
    classes = {"classes": np.unique(y)} if which == "classifier" else {}
    for i in range(150):
        some = order[i % 3 :: 3]
        model.partial_fit(X[some], y[some], **classes, n_total=150)
        assert model.weight_ == 150
    assert model.score(X, y) > 0.85
    assert (model.n_iter_, len(model.lower_bounds_), len(model.history_["kl"])) == (150, 150, 150)
    assert not model.converged_


@both
def test_partial_fit_goes_on_from_a_fit_and_from_a_file(which, tmp_path):
    X, y = data(which)
    model = small(which, max_epochs=3).fit(X, y)
    model.save(tmp_path / "m")
    loaded, before = lvm.load(tmp_path / "m"), state(model)
    assert model.prune().partial_fit(X[::2], y[::2]).threshold_ is None
    assert (model.n_iter_, len(model.lower_bounds_), len(model.history_["kl"])) == (4, 4, 4)
    assert model.lower_bounds_[:3] == before["lower_bounds_"]
    for name in ("mean_", "scale_", "weight_", *(("y_mean_", "y_scale_") if which == "regressor" else ("classes_",))):
        assert_array_equal(getattr(model, name), before[name])
    assert 0 < np.abs(model.parameters_ - before["parameters_"]).max() < 0.1
    loaded.partial_fit(X, y)
    assert (loaded.n_iter_, len(loaded.lower_bounds_), len(loaded.history_["kl"])) == (4, 4, 1)
    assert 0 < np.abs(loaded.parameters_ - before["parameters_"]).max() < 0.1
    first, all_ = small(which).partial_fit(X, y), small(which, max_epochs=1).fit(X, y)
    assert_array_equal(first.mean_, all_.mean_)
    assert_array_equal(first.scale_, all_.scale_)
    first.fit(X, y)
    assert_same_state(state(first), state(small(which).fit(X, y)))


def test_the_kl_counts_for_all_rows_there_are():
    """n_total, or the most that one call had."""
    X, y = data("classifier")
    make = lambda: small(learning_rate=1e-12, prior="gaussian")
    kl = make().fit(X, y).kl_
    for n_total, want in ((None, 30), (1000, 1000), (30.5, 30.5)):
        model = make().partial_fit(X[::5], y[::5], n_total=n_total)
        assert model.weight_ == want
        assert_allclose(model.history_["kl"], [kl / want], rtol=1e-6)
    model = make().partial_fit(X[::5], y[::5]).partial_fit(X, y).partial_fit(X[::5], y[::5])
    assert_allclose(model.history_["kl"], [kl / 30, kl / 150, kl / 150], rtol=1e-6)
    moved = [small(prior="gaussian").partial_fit(X, y, n_total=n).parameters_ for n in (150, 1.0, 1e9)]
    assert np.any(moved[0] != moved[1])
    assert np.any(moved[0] != moved[2])
    for bad in (0, -1, np.nan, "x"):
        with pytest.raises(
            InvalidParameterError, match=r"^The 'n_total' parameter of partial_fit must be a finite numb"
        ):
            small().partial_fit(X, y, n_total=bad)


def test_the_kl_rises_once(tmp_path):
    """After a fit, or from a file, it counts whole; in a model begun by partial_fit it rises over its first steps."""
    X, y = data("classifier")
    make = lambda steps: small(kl_warmup_steps=steps, batch_size=50)
    fitted, plain = make(10**6).fit(X, y), make(0).fit(X, y)
    want = copy.deepcopy(plain)
    want.parameters_, want.optimizer_state_ = fitted.parameters_.copy(), copy.deepcopy(fitted.optimizer_state_)
    assert_array_equal(fitted.partial_fit(X, y).parameters_, want.partial_fit(X, y).parameters_)
    begun = [make(steps).partial_fit(X, y).partial_fit(X, y).parameters_ for steps in (0, 3, 6, None)]
    assert np.any(begun[0] != begun[1])
    assert np.any(begun[1] != begun[2])  # the second call is in the rise, too
    assert_array_equal(begun[0], begun[3])


def test_partial_fit_begins_at_weights_as_they_are():
    X, y = data("classifier")
    model = small().fit(X, y)
    model.weights_["mu_1"][-1] = 9
    model.partial_fit(X, y)
    assert_allclose(model.weights_["mu_1"][-1], 9, atol=0.5)


def test_classes_are_learned_from_the_first_call_and_others_are_refused():
    X, y = data("classifier")
    model = small().partial_fit(X[:60], y[:60], classes=["virginica", "setosa", "versicolor"])
    assert list(model.classes_) == ["setosa", "versicolor", "virginica"]
    model.partial_fit(X[140:], y[140:]).partial_fit(X, y, classes=np.unique(y))
    before = state(model)
    said = "y has labels ['rose'] that are not among the classes ['setosa', 'versicolor', 'virginica']."
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        model.partial_fit(X[:2], ["rose", "setosa"])
    with pytest.raises(ValueError, match=r"^classes must be those of the first call, \['setosa', 'versicolor', 'virgi"):
        model.partial_fit(X, y, classes=["setosa", "rose"])
    assert_same_state(state(model), before)
    with pytest.raises(
        ValueError, match=r"^BayesianMLPClassifier needs at least 2 classes, got \['setosa'\]\. Say them"
    ):
        small().partial_fit(X[:50], y[:50])
    with pytest.raises(ValueError, match=r"^y has labels \['setosa'\] that are not among the classes \['a', 'b'\]\.$"):
        small().partial_fit(X[:50], y[:50], classes=["a", "b"])
    with pytest.raises(ValueError, match=r"^class_weight='balanced' needs all rows\. Try a dict of the classes' wei"):
        small(class_weight="balanced").partial_fit(X, y)


@both
def test_partial_fit_has_other_batches_and_noise_in_each_call(which):
    model, (X, y) = small(which, learning_rate=1e-12), data(which)
    for _ in range(4):
        model.partial_fit(X, y)
    assert len(set(model.lower_bounds_)) == 4
    state_ = model.optimizer_state_
    again = [copy.copy(model).partial_fit(X, y)]
    model.n_iter_ += 1  # by which batches go, and noise by the steps so far
    again.append(copy.copy(model).partial_fit(X, y))
    assert_equal(model.optimizer_state_, state_)
    assert again[0].lower_bounds_[-1] != again[1].lower_bounds_[-1]


@both
def test_partial_fit_takes_what_fits_the_model_alone(which):
    X, y = data(which)
    model = small(which).fit(X, y)
    before = state(model)
    with pytest.raises(ValueError, match=r"^X has 2 features, but BayesianMLP.* is expecting 3 features as input"):
        model.partial_fit(X[:, :2], y)
    for name, value in (("hidden_layer_sizes", (9,)), ("hidden_layer_sizes", ()), ("activation", "tanh")):
        was = getattr(model, name)
        with pytest.raises(ValueError, match=r"^partial_fit goes on with the net as it is, and a parameter that makes"):
            model.set_params(**{name: value}).partial_fit(X, y)
        model.set_params(**{name: was})
    assert_same_state(state(model), before)
    model.set_params(batch_size=7, learning_rate=1e-4, prior="gaussian").partial_fit(X[:1], y[:1])  # of training
    assert model.n_iter_ == 3


def test_a_regressor_needs_two_rows_to_begin_with():
    for use in (small("regressor").fit, small("regressor").partial_fit):
        with pytest.raises(ValueError, match="minimum of 2 is required by BayesianMLPRegressor"):
            use(IRIS[:1], [1.0])


# ------------------------------------------------------------------------------------------------ checkpoints, Ctrl-C
TRAININGS = {
    "classes": lambda X, **p: small(**p).fit(X, FLOWERS),
    "early stopping": lambda X, **p: small(early_stopping=True, batch_size=64, **p).fit(X, FLOWERS),
    "regression": lambda X, **p: small("regressor", **p).fit(X.astype(np.float32), WIDTH, 1 + np.arange(150) % 3),
}


@pytest.mark.parametrize("how", TRAININGS)
def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped(how, tmp_path):
    make = lambda epochs=99, **p: TRAININGS[how](IRIS, **{"max_epochs": 6, "callback": lambda n, _: n >= epochs, **p})
    want = make()
    assert make(3, checkpoint=tmp_path / "c").n_iter_ == 3
    got = make(checkpoint=tmp_path / "c")
    assert got.n_iter_ == 6
    assert_same_state(state(got), state(want))
    again = make(checkpoint=tmp_path / "c", callback=lambda *_: 1 / 0)
    assert_same_state(state(again), state(want))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, (X, y) = tmp_path / "c", data("classifier")
    make = lambda: small(checkpoint=path, batch_size=100)
    make().fit(X, y)
    said = "^The checkpoint '.*c' is of another training: "
    for name, value in (
        ("hidden_layer_sizes", (9,)),
        ("hidden_layer_sizes", (6, 6)),
        ("activation", "leaky_relu"),
        ("prior", "gaussian"),
        ("prior_variance", 2.0),
        ("kl_warmup_steps", 5),
        ("batch_size", 50),
        ("max_epochs", 3),
        ("learning_rate", 0.1),
        ("schedule", "constant"),
        ("early_stopping", True),
        ("clip_norm", 1.0),
        ("class_weight", {"setosa": 2.0}),
        ("random_state", 1),
    ):
        with pytest.raises(ValueError, match=said):
            make().set_params(**{name: value}).fit(X, y)
    for other, labels in ((X / 2, y), (X[:149], y[:149]), (X.astype(np.float32), y), (X[:, :2], y), (X, y[::-1])):
        with pytest.raises(ValueError, match=said):
            make().fit(other, labels)
    make().fit(X, y)  # as it was
    with pytest.raises(ValueError, match=r"^A checkpoint needs the same noise again\. Try an integer random_state\.$"):
        make().set_params(random_state=None).fit(X, y)


def test_a_checkpoint_is_written_while_training_goes_on(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(fit, "EVERY", -1.0)
    seen = lambda *_: there.append((tmp_path / "c").exists())
    small(checkpoint=tmp_path / "c", callback=seen).fit(*data("classifier"))
    assert there == [True] * 2


@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_ctrl_c_at_any_line_leaves_the_last_whole_epoch_or_nothing(how, monkeypatch):
    monkeypatch.setattr(lvm.network, "STEPS", 2)  # of an epoch
    X, y, old = IRIS[:60, :2], FLOWERS[:60], slice(60, 150)
    use = {"fit": lambda m: m.fit(X, y), "partial_fit": lambda m: m.partial_fit(X, y)}[how]
    labels = np.where(FLOWERS == "virginica", "setosa", FLOWERS)
    other = small(hidden_layer_sizes=(3,)).fit(IRIS[old, :2], labels[old])
    before = state(other)
    ends = [state(use(copy.copy(other).set_params(callback=lambda n, _, e=e: n >= e))) for e in (1, 2)]
    kept, line, raised = 0, 0, True
    while raised is not False:
        line += 3
        model = copy.copy(other)
        raised = interrupted_at("network", line, lambda m=model: use(m))
        assert raised is not None, f"swallowed at {line}"
        now = state(model)
        if now["lower_bounds_"] == before["lower_bounds_"]:
            assert_same_state(now, before)
            continue
        kept += raised
        assert_same_state(now, ends[now["n_iter_"] - 1] if how == "fit" else ends[0])
    assert kept > (5 if how == "fit" else 0)


def test_ctrl_c_says_where_it_stopped():
    def stop(epoch, values):
        if epoch == 3:
            raise KeyboardInterrupt

    for early, said in ((False, "that of epoch 3"), (True, "that of the best epoch up to 3")):
        model = small(max_epochs=9, callback=stop, early_stopping=early)
        with pytest.raises(KeyboardInterrupt, match=f"^fit was stopped; the model is {said}$"):
            model.fit(*data("classifier"))
        assert (model.n_iter_, len(model.lower_bounds_), model.converged_) == (3, 3, False)


# ------------------------------------------------------------------------------------------------ seeds and arrays
@pytest.mark.parametrize("how", TRAININGS)
def test_a_seed_repeats_and_another_does_not(how):
    a, b, c = (state(TRAININGS[how](IRIS, random_state=seed)) for seed in (4, rng(4), 5))
    assert_same_state(a, b)
    assert np.mean(a["parameters_"] == c["parameters_"]) < 0.1


def test_any_number_of_threads_gives_the_same_bits():
    X, found = rng().random((3000, 40)).astype(np.float32), []
    y = (X[:, 0] > X[:, 1]).astype(int) + (X[:, 2] > 0.5)
    try:
        for threads in (1, 2):
            lvm.set_num_threads(threads)
            model = small(hidden_layer_sizes=(200,), max_epochs=1, batch_size=1000, callback=lambda *_: True).fit(X, y)
            found.append({**state(model), "answers": model.predict_proba(X[:300])})
    finally:
        lvm.set_num_threads(None)
    assert_same_state(found[0], found[1])


def test_a_fit_in_another_thread_at_the_same_time_gives_the_same_bits():
    X, y = data("classifier")
    want, found = [state(small(random_state=s).fit(X, y)) for s in range(3)], [{}] * 3

    def work(s):
        found[s] = state(small(random_state=s).fit(X, y))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(want, found):
        assert_same_state(a, b)


@both
def test_rows_may_lie_anywhere_in_memory_and_are_left_alone(which, tmp_path):
    X, y = data(which)
    X = X.copy()
    want = small(which, batch_size=64).fit(X, y)
    frozen = X.copy()
    frozen.setflags(write=False)
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    mapped = np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape)
    for other in (frozen, mapped, np.asfortranarray(X), X.astype(">f8"), X.tolist(), X.astype(object)):
        got = small(which, batch_size=64).fit(other, y)
        assert_same_state(state(got), state(want))
        for a, b in zip(answers(got, other), answers(want, X)):
            assert_array_equal(a, b)
    assert_array_equal(X, IRIS[:, :3])
    w = 1.0 + np.arange(150) % 2
    for params in ({"batch_size": 1000}, {"early_stopping": True, "batch_size": 64}):
        assert_same_state(*(state(small(which, **params).fit(rows, y, w)) for rows in (mapped, X)))
    assert_array_equal(*(small(which).partial_fit(rows, y).parameters_ for rows in (mapped, X)))


@both
def test_float32_rows_have_float32_models_and_answers(which):
    X, y = data(which)
    model = small(which, max_epochs=4).fit(X.astype(np.float32), y)
    assert {a.dtype for a in (model.parameters_, model.mean_, model.scale_, *model.coefs_)} == {np.dtype(np.float32)}
    assert {a.dtype for a in answers(model, X.astype(np.float32))} == {np.dtype(np.float32)}
    assert {a.dtype for a in answers(model, X)} == {np.dtype(float)}
    assert_allclose(answers(model, X)[2], answers(model, X.astype(np.float32))[2], atol=1e-5)  # (others draw)
    assert_allclose(model.lower_bound_, small(which, max_epochs=4).fit(X, y).lower_bound_, atol=0.1)


def test_a_memory_map_is_read_batch_by_batch(tmp_path):
    X = np.memmap(tmp_path / "X", np.float32, "w+", shape=(100_000, 160))  # 64 MB
    X[...] = rng().random((1, 160), np.float32)
    X[::2] *= 0.5
    X.flush()
    X, y = np.memmap(tmp_path / "X", np.float32, "r", shape=X.shape), np.arange(100_000) % 2
    model = small(batch_size=2000, max_epochs=1, callback=lambda *_: True)
    model.fit(X[:2000], y[:2000])  # compiles
    tracemalloc.start()
    try:
        model.fit(X, y)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@both
def test_data_frames_give_names(which):
    pandas = pytest.importorskip("pandas")
    X, y = data(which)
    frame = pandas.DataFrame(X, columns=list("abc"), index=np.arange(150) + 7)
    model = small(which).fit(frame, pandas.Series(y))
    assert list(model.feature_names_in_) == list("abc")
    assert_array_equal(model.predict(frame), small(which).fit(X, y).predict(X))
    assert list(model.partial_fit(frame, y).feature_names_in_) == list("abc")
    assert_array_equal(model.export().predict(frame), model.export().predict(X))


# ------------------------------------------------------------------------------------------------ hostile data
HOSTILE = {
    "a constant column": lambda X: np.column_stack([X[:, 0], np.full(len(X), 0.1)]),
    "one point": lambda X: np.full((50, 2), 0.1),
    "two rows": lambda X: X[:2],
    "one column": lambda X: X[:, :1],
    "fewer rows than columns": lambda X: rng(1).standard_normal((7, 30)),
    "far away": lambda X: X + 1e8,
    "huge": lambda X: X * 1e30,
    "tiny": lambda X: X * 1e-30,
    "next to nothing": lambda X: X * 1e-150,
    "one far row": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e9, X),
    "a rare column": lambda X: np.column_stack([X[:, 0], np.arange(len(X)) == 5]),
    "integers": lambda X: np.round(3 * X).astype(int),
    "float32, huge": lambda X: (X * 1e30).astype(np.float32),
    "float32, tiny": lambda X: (X * 1e-30).astype(np.float32),
}


@both
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_data_are_fitted(kind, which):
    X = HOSTILE[kind](rng().standard_normal((100, 2)))
    column = X[:, 0].astype(float) if np.ptp(X[:, 0]) > 0 else np.arange(len(X))
    y = column > np.median(column) if which == "classifier" else column
    if which == "regressor" and kind == "next to nothing":
        with pytest.raises(ValueError, match=r"^y varies by .*e-151 about .*, too much or too little for float64"):
            small(which).fit(X, y)
        y = y * 1e100
    model = small(which, max_epochs=4).fit(X, y)
    assert_sound(model, X, y)
    if kind in ("far away", "huge", "tiny", "float32, huge", "float32, tiny", "one column"):
        assert model.score(X, y) > 0.9
        assert_exported(model, X, 1e-3 if "float32" in kind else 1e-5)


def test_rows_that_vary_too_much_or_too_little_are_told():
    for X, T in (
        (IRIS * 1e160, "float64"),
        (IRIS * 1e-310, "float64"),
        (IRIS.astype("f4") * np.float32(1e-42), "float32"),
    ):
        with pytest.raises(ValueError, match=rf"^X varies too much, or too little, for {T}\. Try scaling X\.$"):
            small().fit(X, FLOWERS)


def test_targets_of_one_value_or_far_out_are_fitted():
    for y in (np.full(150, 7.0), WIDTH + 1e8, WIDTH * 1e30, WIDTH * 1e-30, np.full(150, 1e200)):
        model = small("regressor").fit(IRIS, y)
        assert_sound(model, IRIS, y)
        mean, std = model.predict(IRIS, return_std=True)
        assert np.all(np.abs(mean - y) < 8 * std)
    with pytest.raises(ValueError, match=r"^y varies by .*e\+199 about .*, too much or too little for float64\. Try"):
        small("regressor").fit(IRIS, WIDTH * 1e200)


def test_what_columns_are_measured_by():
    """Their standard deviation, or a fifth of what is farthest; 1 of a constant one, whose mean is exact."""
    r = rng()
    X = np.column_stack([r.standard_normal(1000), np.arange(1000) == 3, np.full(1000, 0.1), r.random(1000) + 1e8])
    model = small(max_epochs=1).fit(X, np.arange(1000) % 2)
    assert_allclose(model.mean_, X.mean(0), rtol=1e-12, atol=1e-15)
    assert_allclose(model.scale_, [X[:, 0].std(), 0.999 / 5, 1, X[:, 3].std()], rtol=1e-6)
    assert model.mean_[2] == 0.1
    w = r.integers(0, 3, 1000)
    model = small(max_epochs=1).fit(X, np.arange(1000) % 2, w)
    assert_allclose(model.mean_[0], np.average(X[:, 0], weights=w), rtol=1e-10)


def test_batches_may_be_larger_than_all_rows_and_few_rows_do():
    for N in (2, 3, 5):
        model = small(batch_size=10**9).fit(IRIS[48:][:: 100 // N][:N], FLOWERS[48:][:: 100 // N][:N])
        assert len(model.classes_) in (2, 3)
    with pytest.raises(
        ValueError, match=r"needs samples of at least 2 classes with weight in y, got 1 class\(es\): \['s"
    ):
        small().fit(IRIS[:1], FLOWERS[:1])
    with pytest.raises(
        ValueError, match=r"needs samples of at least 2 classes with weight in y, got 1 class\(es\): \['s"
    ):
        small().fit(IRIS[:50], FLOWERS[:50])


@both
def test_gaps_are_refused_by_all(which):
    X, y = data(which)
    model, bad = small(which).fit(X, y), X.copy()
    bad[3, 1] = np.nan
    said = r"^Input X contains NaN\. The first one is at row 3, column 1"
    for use in (small(which).fit, small(which).partial_fit, model.partial_fit, model.score, model.evaluate):
        with pytest.raises(ValueError, match=said):
            use(bad, y)
    for use in (model.predict, *((model.predict_proba, model.predict_log_proba) if which == "classifier" else ())):
        with pytest.raises(ValueError, match=said):
            use(bad)
    if which == "regressor":
        y = np.where(np.arange(150) == 4, np.inf, y)
        for use in (model.fit, model.partial_fit, model.score, model.evaluate):
            with pytest.raises(ValueError, match=r"^Input y contains infinity .* at index 4\."):
                use(X, y)


def test_labels_that_are_no_classes_are_told():
    X, y = data("classifier")
    model = small().fit(X, y)
    with pytest.raises(
        ValueError, match=r"^y has labels \['rose'\] that are not among the classes \['setosa', 'versicolor', 'virg"
    ):
        model.evaluate(X[:2], ["setosa", "rose"])
    assert model.score(X[:2], ["setosa", "rose"]) <= 0.5
    with pytest.raises(ValueError, match=r"^Unknown label type: continuous\. BayesianMLPClassifier is a classifier"):
        small().fit(X, WIDTH)


# ------------------------------------------------------------------------------------------------ parameters
NUMBER = "must be a finite number {} 0, got {} instead."
WRONG = [
    ("hidden_layer_sizes", 3, "must be a tuple of integers, one for each layer, got 3 instead."),
    ("hidden_layer_sizes", np.array([8]), "must be a tuple of integers, one for each layer, got array([8]) instead."),
    ("hidden_layer_sizes", (8, 0), "must be an integer of at least 1, got 0 instead."),
    ("hidden_layer_sizes", [1.5], "must be an integer of at least 1, got 1.5 instead."),
    ("activation", "sigmoid", "must be one of 'relu', 'tanh', 'softplus', 'leaky_relu', got 'sigmoid' instead."),
    ("prior", None, "must be one of 'ard', 'log_uniform', 'gaussian', got None instead."),
    ("prior_variance", 0, NUMBER.format("above", 0)),
    ("prior_variance", np.inf, NUMBER.format("above", "inf")),
    ("kl_warmup_steps", -1, "must be an integer of at least 0, got -1 instead."),
    ("kl_warmup_steps", 1.5, "must be an integer of at least 0, got 1.5 instead."),
    ("batch_size", 0, "must be an integer of at least 1, got 0 instead."),
    ("max_epochs", 0, "must be an integer of at least 1, got 0 instead."),
    ("learning_rate", np.nan, NUMBER.format("above", "nan")),
    ("learning_rate", 0, NUMBER.format("above", 0)),
    ("schedule", "linear", "must be one of 'constant', 'cosine', got 'linear' instead."),
    ("early_stopping", 1, "must be True or False, got 1 instead."),
    ("validation_fraction", 1, "must be a number above 0 and below 1, got 1 instead."),
    ("validation_fraction", 0, NUMBER.format("above", 0)),
    ("n_epochs_no_change", 0, "must be an integer of at least 1, got 0 instead."),
    ("tol", -1, NUMBER.format("of at least", -1)),
    ("clip_norm", 0, NUMBER.format("above", 0)),
    ("verbose", -1, "must be an integer of at least 0, got -1 instead."),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
@both
def test_wrong_parameters_are_refused_by_name_and_change_nothing(which, name, value, message):
    X, y = data(which)
    model = quick(which)
    before = state(model)
    model.set_params(**{name: value})
    said = f"The {name!r} parameter of {type(model).__name__} {message}"
    for use in (model.fit, model.partial_fit):
        with pytest.raises(InvalidParameterError, match=f"^{re.escape(said)}$"):
            use(X, y)
    assert_same_state(state(model), before)


@functools.cache
def _quick(which):
    return small(which, max_epochs=1).fit(*data(which))


def quick(which):
    return copy.deepcopy(_quick(which))


@both
def test_wrong_devices_seeds_and_numbers_of_draws_are_refused(which):
    X, y = data(which)
    model = quick(which)
    with pytest.raises(ValueError, match=r"^device must be one of .*, got 'gpu'"):
        small(which, device="gpu").fit(X, y)
    with pytest.raises(ValueError, match=r"^random_state must be None, an integer of at least 0, .*got 'x'\.$"):
        small(which, random_state="x").fit(X, y)
    said = f"^The 'n_samples' parameter of {type(model).__name__} must be an integer of at least 0, got "
    for n in (-1, 1.5, None, True):
        with pytest.raises(InvalidParameterError, match=said):
            model.predict(X, n_samples=n)
        with pytest.raises(InvalidParameterError, match=said):
            model.evaluate(X, y, n)


@both
def test_a_second_fit_leaves_nothing_of_the_first(which):
    pandas = pytest.importorskip("pandas")
    X, y = data(which)
    model = small(which, early_stopping=True).fit(pandas.DataFrame(X, columns=list("abc")), y).prune()
    model.set_params(hidden_layer_sizes=(), early_stopping=False).fit(X[:, :2], y)
    assert_same_state(state(model), state(small(which, hidden_layer_sizes=()).fit(X[:, :2], y)))


@model_
def test_changes_of_parameters_after_a_fit_do_not_change_answers(kind):
    model, X, y = trained(kind)
    other = copy.copy(model).set_params(
        hidden_layer_sizes=(3,), activation="relu", prior="ard", prior_variance=9.0, batch_size=3
    )
    assert_equal(answers(other, X), answers(model, X))
    assert other.evaluate(X, y) == model.evaluate(X, y)
    assert_array_equal(other.export().predict(X), model.export().predict(X))


@model_
@T_
def test_a_pickle_and_a_file_answer_the_same_bits(tmp_path, kind, T):
    """Of full and pruned models."""
    model, X, y = trained(kind, T)
    for threshold in (None, 0.5):
        model = copy.copy(model).prune(threshold)
        model.save(tmp_path / "m")
        for twin in (pickle.loads(pickle.dumps(model)), lvm.load(tmp_path / "m")):
            assert_equal(answers(twin, X), answers(model, X))
            assert_equal(twin.evaluate(X, y), model.evaluate(X, y))
            assert_array_equal(twin.export().predict(X), model.export().predict(X))
            assert (twin.threshold_, twin.n_weights_) == (model.threshold_, model.n_weights_)
