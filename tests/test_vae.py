"""Variational autoencoders as an estimator: PPCA where they are linear, bounds that hold, all kinds of training and
data, and manners."""

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
from reference import log_variance, vae_decode, vae_linear_bound, vae_log_weights, vae_posterior, vae_sample
from scipy import linalg, stats
from scipy.special import expit, logsumexp

import lvm
import lvm.vae
from lvm import fit, kernels
from lvm.estimator import ConvergenceWarning, NumericalError

IRIS = lvm.datasets.load_iris()
BEST = -404.96278016  # of PPCA with two components: see test_ppca.py
PIXELS = lvm.datasets.load_digits()[:300] / 16
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])


def rng(seed=0):
    return np.random.default_rng(seed)


def small(**params):
    """A model that is quickly trained."""
    return lvm.VAE(**{"hidden_layer_sizes": (8,), "max_epochs": 2, "learning_rate": 0.01, "random_state": 0, **params})


MODELS = {
    "isotropic": {},
    "diagonal": {"noise": "diagonal", "decoder_layer_sizes": (5, 3)},
    "network": {"noise": "network"},
    "sigmoid": {"mean": "sigmoid"},
    "bernoulli": {"likelihood": "bernoulli"},
    "amortised flow": {"n_flow_layers": 3},
    "shared flow": {"n_flow_layers": 3, "amortised": False, "likelihood": "bernoulli"},
    "linear": {"hidden_layer_sizes": (), "noise": "diagonal"},
}
model_ = pytest.mark.parametrize("kind", MODELS)


@functools.cache
def trained(kind, T=np.float64):
    """A model, and its rows, which are not all those it was trained on: between 0 and 1, in 6 columns."""
    X = PIXELS[:, 18:24].astype(T)
    return small(**MODELS[kind]).fit(X[:200]), X


def options(kind):
    """The same for reference.py."""
    p = {"likelihood": "gaussian", "noise": "isotropic", "mean": "linear", "n_flow_layers": 0, "amortised": True}
    p |= {name: value for name, value in MODELS[kind].items() if name in p}
    return {"d": 2, "posterior": "planar" if p["n_flow_layers"] else "gaussian", **p}


def noise(n, d=2, seed=None, T=np.float64):
    """The normal numbers that answers of a model with random_state=0 take."""
    eps, seed = np.empty((n, d), T), int(rng().integers(2**63)) if seed is None else seed
    kernels.load("cpu").random.normal(seed, lvm.vae.ANSWER, 0, eps)
    return eps


def state(model):
    return copy.deepcopy({name: a for name, a in vars(model).items() if name.endswith("_")})


def assert_same_state(a, b, but=()):
    assert a.keys() - set(but) == b.keys() - set(but)
    for name in a.keys() - set(but):
        assert_equal(a[name], b[name], err_msg=name)


def assert_sound(model, X):
    for name in ("parameters_", "lower_bound_", "lower_bounds_", "mean_", "scale_"):
        assert np.isfinite(getattr(model, name)).all(), name
    answers = model.transform(X), model.reconstruct(X), model.elbo(X), model.score_samples(X), model.sample(50)
    for a in answers:
        assert np.isfinite(a).all()


# ---------------------------------------------------------------------------------------------- a linear model is PPCA
@functools.cache
def linear():
    """Of many samples, for a gradient with little noise: all of its error is in the last digits."""
    return small(hidden_layer_sizes=(), learning_rate=0.05, max_epochs=40, n_samples=48, batch_size=150).fit(IRIS)


def test_a_linear_model_reaches_the_likelihood_of_ppca_and_does_not_exceed_it():
    assert BEST - 1e-3 < linear().elbo(IRIS).sum() < BEST
    assert BEST - 1e-3 < lvm.ProbabilisticPCA(2).fit(IRIS).score(IRIS) * 150 < BEST + 1e-6


def test_a_linear_model_has_the_noise_the_subspace_and_the_density_of_ppca():
    model, ppca = linear(), lvm.ProbabilisticPCA(2).fit(IRIS)
    assert_allclose(model.noise_variance_, ppca.noise_variance_, rtol=2e-3)
    assert linalg.subspace_angles(model.weights_["output"].T, ppca.components_.T).max() < 0.01
    assert_allclose(model.inverse_transform(np.zeros((1, 2)))[0], ppca.mean_, atol=2e-3)
    assert_allclose(model.reconstruct(IRIS), ppca.inverse_transform(ppca.transform(IRIS)), atol=0.01)
    assert_allclose(model.elbo(IRIS), ppca.score_samples(IRIS), atol=0.02)
    assert_allclose(model.score_samples(IRIS), ppca.score_samples(IRIS), atol=0.05)
    loadings = model.weights_["output"] * model.scale_[:, None][:2]  # (one scale for all columns)
    assert_allclose(np.linalg.svd(loadings)[1], np.linalg.svd(ppca.loadings_)[1], rtol=0.01)


@pytest.mark.parametrize(
    "how",
    [
        {"kl": "analytic"},
        {"kl": "monte_carlo"},
        {"kl": "entropy"},
        {"gradient": "path"},
        {"gradient": "doubly"},
        {"gradient": "doubly", "n_importance": 3},
        {"n_samples": 3},
        {"kl_warmup_steps": 500},
    ],
    ids=str,
)
def test_every_way_to_estimate_the_bound_has_the_same_optimum(how):
    model = small(hidden_layer_sizes=(), learning_rate=0.05, max_epochs=20, **how).fit(IRIS)
    assert BEST - 0.5 < model.elbo(IRIS).sum() < BEST


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_the_bound_of_a_linear_model_is_exact_and_below_its_own_likelihood(noise):
    """x ~ N(b, W'W + diag e^t), at any weights."""
    X = IRIS * [1, 100, 0.01, 1]
    for epochs in (1, 20):
        model = small(hidden_layer_sizes=(), noise=noise, max_epochs=epochs, learning_rate=0.02).fit(X)
        theta, W = model.weights_, model.weights_["output"] * model.scale_
        x = (X - model.mean_) / model.scale_
        bound, error = model.elbo(X, return_std=True)
        assert_allclose(bound, vae_linear_bound(theta, x, d=2) - np.log(model.scale_).sum(), rtol=1e-10)
        assert_array_equal(error, 0)
        covariance = W.T @ W + np.diag(np.broadcast_to(model.noise_variance_, 4))
        exact = stats.multivariate_normal(model.inverse_transform(np.zeros((1, 2)))[0], covariance).logpdf(X)
        assert (bound < exact).all()
    found, error = model.score_samples(X, 4000, return_std=True)  # (where q is near, its error can be told)
    assert (np.abs(found - exact) < 6 * error + 1e-3).all()
    assert abs((found - exact).mean()) < 0.01


def test_the_closed_bound_is_the_mean_over_samples():
    model, X = trained("linear")
    x, n = (X[:8] - model.mean_) / model.scale_, 20_000
    log_w = vae_log_weights(model.weights_, x, rng().standard_normal((8 * n, 2)), n_samples=n, **options("linear"))
    log_w = log_w[:, :, 0] - np.log(model.scale_).sum()
    assert (np.abs(model.elbo(X[:8]) - log_w.mean(1)) < 5 * log_w.std(1) / np.sqrt(n)).all()


# ------------------------------------------------------------------------------------------------ answers
@model_
def test_bounds_and_likelihoods_are_those_of_the_formulas(kind):
    (model, X), n = trained(kind), 7
    x = (X[:30] - model.mean_) / model.scale_
    make = functools.partial(vae_log_weights, model.weights_, x, np.tile(noise(n), (30, 1)), **options(kind))
    constant = -np.log(model.scale_).sum()
    log_w = make(n_importance=n)[:, 0] + constant
    found, error = model.score_samples(X[:30], n, return_std=True)
    assert_allclose(found, logsumexp(log_w, axis=1) - np.log(n), rtol=1e-9)
    shares = np.exp(log_w - found[:, None])
    assert_allclose(error, shares.std(1, ddof=1) / np.sqrt(n), rtol=1e-7)
    assert_allclose(model.score(X[:30], n_importance=n), found.mean(), rtol=1e-12)
    terms = make(n_samples=n, kl="monte_carlo" if "flow" in kind else "analytic")[:, :, 0] + constant
    bound, error = model.elbo(X[:30], n, return_std=True)
    if kind != "linear":
        assert_allclose(bound, terms.mean(1), rtol=1e-9)
        assert_allclose(error, terms.std(1, ddof=1) / np.sqrt(n), rtol=1e-7)


@model_
def test_codes_and_means_are_those_of_the_formulas(kind):
    model, X = trained(kind)
    theta, p = model.weights_, options(kind)
    x = (X - model.mean_) / model.scale_
    mu, s = vae_posterior(theta, x, 2, "relu")
    mean, variance = model.posterior(X)
    if p["n_flow_layers"] == 0:
        assert_allclose(mean, mu, rtol=1e-9, atol=1e-12)
        assert_allclose(variance, np.exp(s), rtol=1e-9)
    else:
        hidden = np.maximum(x @ theta["encoder_0"] + theta["encoder_bias_0"], 0) @ theta["head"] + theta["head_bias"]
        eps = rng(1).standard_normal((20_000, 2))
        for n in range(3):
            layers = hidden[n, 4:] if p["amortised"] else theta["flow"][0]
            z = vae_sample(mu[n], s[n], layers.reshape(3, 5), eps)[0]
            assert_allclose(mean[n], z.mean(0), atol=0.02)  # (of 256 draws and their mirror images)
            assert_allclose(variance[n], z.var(0), rtol=0.3)
    assert_array_equal(model.transform(X), mean)
    A = vae_decode(theta, mean, "relu")[:, :6]
    want = expit(A) if "bernoulli" in p.values() or "sigmoid" in p.values() else A
    assert_allclose(model.inverse_transform(mean), want * model.scale_ + model.mean_, rtol=1e-9)
    assert_array_equal(model.decode(mean), model.inverse_transform(mean))
    assert_array_equal(model.reconstruct(X), model.inverse_transform(mean))


@pytest.mark.parametrize("kind", ["isotropic", "network", "amortised flow"])
def test_the_bound_is_below_the_likelihood_which_rises_with_the_samples(kind):
    (model, X), X = trained(kind), trained(kind)[1][:40]
    seeds = lambda n: (copy.copy(model).set_params(random_state=s) for s in range(n))  # (all rows have one noise)
    bound = np.mean([m.elbo(X, 300).mean() for m in seeds(20)])
    single, few, more, many = (
        np.mean([m.score_samples(X, k).mean() for m in seeds(n)])
        for k, n in ((1, 3000), (4, 1000), (30, 200), (3000, 3))
    )
    assert_allclose(single, bound, atol=0.1 * (many - bound))
    assert bound < few < more < many


@pytest.mark.parametrize("kind", ["bernoulli", "shared flow"])  # (of weights with no heavy tails)
def test_standard_errors_are_the_spread_over_seeds(kind):
    model_of, X = lambda s: copy.copy(trained(kind)[0]).set_params(random_state=s), trained(kind)[1]
    rms = lambda errors: np.sqrt(np.mean(np.square(errors), axis=0))
    for method in ("elbo", "score_samples"):
        values, errors = zip(*(getattr(model_of(s), method)(X[:5], 300, return_std=True) for s in range(200)))
        assert_allclose(np.std(values, axis=0), rms(errors), rtol=0.3)
    found = [model_of(s).evaluate(X[:40], 100) for s in range(200)]
    assert_allclose(np.std([e.nll for e in found]), rms([e.nll_error for e in found]), rtol=0.3)


@model_
def test_an_evaluation_is_of_the_other_answers(kind):
    (model, X), n = trained(kind), 50
    e = model.evaluate(X, n)
    assert_allclose(e.bound, model.elbo(X, n).mean(), rtol=1e-12)
    assert_allclose(e.nll, -model.score_samples(X, n).mean(), rtol=1e-12)
    assert_allclose(e.bound, e.reconstruction - e.kl, rtol=1e-12)
    if "flow" not in kind:
        mu, v = model.posterior(X)
        assert_allclose(e.kl, 0.5 * (mu**2 + v - 1 - np.log(v)).sum(1).mean(), rtol=1e-9)
    assert (e.rate, e.distortion, e.n_importance) == (e.kl, -e.reconstruction, n)
    assert_array_equal(e.active, model.transform(X).var(0) > 0.01)
    assert e.n_active + len(e.collapsed) == 2


def test_a_unit_that_does_nothing_is_collapsed_and_printed():
    """Noise in two columns about a line in two more: one unit is of use."""
    t = rng().standard_normal((300, 1))
    X = np.hstack([t, -t, 0 * t, 0 * t]) + 0.1 * rng(1).standard_normal((300, 4))
    model = small(n_components=3, max_epochs=15).fit(X)
    e = model.evaluate(X)
    assert e.n_active == 1
    assert e.collapsed == [i for i in range(3) if not e.active[i]]
    lines = str(e).splitlines()
    assert lines[0].startswith(f"NLL             {e.nll:.4f} ± ")
    assert lines[1:4] == [
        f"bound           {e.bound:.4f} nats a row, {-e.nll - e.bound:.4f} below",
        f"distortion      {e.distortion:.4f}  (minus reconstruction)",
        f"rate            {e.rate:.4f}  (KL)",
    ]
    assert lines[4] == f"active units    1 of 3, collapsed: {e.collapsed[0]}, {e.collapsed[1]}"


@model_
@T_
def test_a_row_alone_has_the_answer_it_has_in_company(kind, T):
    model, X = trained(kind, T)
    order, tol = rng().permutation(300)[:40], 1e-4 if T is np.float32 else 1e-10
    for method in (model.transform, model.reconstruct, model.elbo, model.score_samples):
        whole = method(X)
        assert whole.dtype == T
        assert_allclose(method(X[order]), whole[order], rtol=tol, atol=tol)  # (BLAS rounds by the shape)
        assert_allclose(np.concatenate([method(x[None]) for x in X[:3]]), whole[:3], rtol=tol, atol=tol)


def test_answers_are_the_same_by_pieces(monkeypatch):
    for kind in ("bernoulli", "amortised flow", "linear"):
        model, X = trained(kind)
        ask = lambda m=model, x=X: [m.transform(x), m.reconstruct(x), m.elbo(x, 50), m.score_samples(x, 50)]
        whole = ask()
        with monkeypatch.context() as patch:
            patch.setattr(lvm.vae, "ROOM", (60, 1 << 22))  # less than the samples of two rows, fewer than those of one
            for a, b in zip(ask(), whole):
                assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "network", "sigmoid", "bernoulli"])
def test_samples_are_of_the_density(kind):
    model, _ = trained(kind)
    rows, z = model.sample(40_000), rng(1).standard_normal((40_000, 2))
    A, p = vae_decode(model.weights_, z, "relu"), options(kind)
    mean = model.decode(z)
    if p["likelihood"] == "bernoulli":
        assert set(np.unique(rows)) == {0, 1}
        noise = mean * (1 - mean)
    else:
        r = A[:, 6:] if kind == "network" else model.weights_["rho"]
        noise = np.exp(log_variance(r)) * model.scale_**2
    assert_allclose(rows.mean(0), mean.mean(0), atol=0.02)
    assert_allclose(np.cov(rows.T), np.cov(mean.T) + np.diag(np.mean(noise * np.ones((40_000, 6)), 0)), atol=0.02)


def test_samples_have_the_moments_of_the_data():
    rows = linear().sample(40_000)
    assert_allclose(rows.mean(0), IRIS.mean(0), atol=0.02)
    assert_allclose(np.cov(rows.T), np.cov(IRIS.T), atol=0.08)  # (which PPCA keeps but for the noise's)


def test_samples_repeat_with_an_integer_and_go_on_with_a_generator():
    model, X = trained("bernoulli", np.float32)
    assert_array_equal(model.sample(7), model.sample(7))
    assert model.sample().shape == (1, 6)
    assert model.sample().dtype == np.float32
    for seed in (None, rng(3)):
        other = copy.copy(model).set_params(random_state=seed)
        assert np.any(other.sample(9) != other.sample(9))
        assert np.all(other.score_samples(X) != other.score_samples(X))


def test_posterior_means_do_not_draw():
    model, X = trained("amortised flow")
    for seed in (None, 5, rng(3)):
        assert_array_equal(copy.copy(model).set_params(random_state=seed).transform(X), model.transform(X))


def test_weights_are_views_with_names_and_shapes():
    model, _ = trained("shared flow")
    assert {name: w.shape for name, w in model.weights_.items()} == {
        "encoder_0": (6, 8),
        "encoder_bias_0": (8,),
        "head": (8, 4),
        "head_bias": (4,),
        "flow": (1, 15),
        "decoder_0": (2, 8),
        "decoder_bias_0": (8,),
        "output": (8, 6),
        "output_bias": (6,),
    }
    assert all(np.shares_memory(w, model.parameters_) for w in model.weights_.values())
    assert_array_equal(np.concatenate([w.ravel() for w in model.weights_.values()]), model.parameters_)
    assert trained("amortised flow")[0].weights_["head"].shape == (8, 4 + 15)
    assert trained("network")[0].weights_["output"].shape == (8, 12)
    deep = trained("diagonal")[0].weights_
    assert [deep[name].shape for name in ("decoder_0", "decoder_1", "output", "rho")] == [(2, 5), (5, 3), (3, 6), (6,)]


def test_the_noise_is_in_the_units_of_x():
    for kind, shape in (("isotropic", ()), ("diagonal", (6,))):
        model, _ = trained(kind)
        assert np.shape(model.noise_variance_) == shape
        rho = log_variance(model.weights_["rho"])
        assert_allclose(model.noise_variance_, np.exp(rho) * model.scale_[: max(shape, default=1)] ** 2, rtol=1e-12)
    for kind in ("bernoulli", "network"):
        with pytest.raises(AttributeError, match=r'^Only noise="isotropic" and noise="diagonal" have a n'):
            trained(kind)[0].noise_variance_  # noqa: B018


# ------------------------------------------------------------------------------------------------ what training reaches
def test_every_likelihood_learns_more_than_columns_of_their_own():
    """One Gaussian, or Bernoulli, for each column, without a word on the others."""
    X = PIXELS[:, PIXELS.var(0) > 0.02].astype(np.float32)
    v, p, D = X.var(0, dtype=float), X.mean(0, dtype=float), X.shape[1]
    alone = {
        "isotropic": -0.5 * D * np.log(2 * np.pi * np.e * v.mean()),
        "diagonal": -0.5 * np.log(2 * np.pi * np.e * v).sum(),
        "bernoulli": (p * np.log(p) + (1 - p) * np.log(1 - p)).sum(),
        "autoencoder": -0.5 * v.sum(),
    }
    for params, least in (
        ({}, "isotropic"),
        ({"noise": "diagonal"}, "diagonal"),
        ({"noise": "network"}, "diagonal"),
        ({"mean": "sigmoid"}, "isotropic"),
        ({"mean": "sigmoid", "noise": "diagonal"}, "diagonal"),
        ({"likelihood": "bernoulli"}, "bernoulli"),
        ({"likelihood": "bernoulli", "binarize": "dynamic"}, "bernoulli"),
        ({"likelihood": "autoencoder"}, "autoencoder"),
        ({"likelihood": "autoencoder", "mean": "sigmoid"}, "autoencoder"),
    ):
        model = small(n_components=4, hidden_layer_sizes=(30,), max_epochs=6, learning_rate=5e-3, **params).fit(X)
        bounds = model.lower_bounds_
        assert bounds[0] < bounds[2] < bounds[-1], params
        assert bounds[-1] > alone[least], params
        assert_allclose(model.score(X), bounds[-1], **({"rtol": 0.1} if least == "autoencoder" else {"atol": 4}))
        assert model.parameters_.dtype == np.float32


def test_bernoulli_outputs_start_at_the_log_odds_of_the_columns():
    X = np.c_[PIXELS[:, 18:22], np.zeros(300), np.ones(300)]
    model = small(likelihood="bernoulli", max_epochs=1, learning_rate=1e-12).fit(X)
    want = (X.mean(0) * 300 + 0.5) / 301
    assert_allclose(expit(model.weights_["output_bias"]), want, rtol=1e-6)
    assert_allclose(small(learning_rate=1e-12, max_epochs=1).fit(IRIS).weights_["output_bias"], 0, atol=1e-9)


def test_planar_layers_make_the_bound_higher_and_its_gap_smaller():
    """Points on a ring: of those that decode to one point, a Gaussian covers few."""
    t = rng().uniform(0, 2 * np.pi, 400)
    X = (2 * np.c_[np.cos(t), np.sin(t)] + 0.1 * rng(1).standard_normal((400, 2))).astype(np.float32)
    found = [
        lvm.VAE(
            2, hidden_layer_sizes=(30,), activation="tanh", max_epochs=15, learning_rate=0.01, batch_size=100,
            kl_warmup_steps=500, random_state=0, **flow,
        ).fit(X).evaluate(X, 500)
        for flow in ({}, {"n_flow_layers": 4, "amortised": False}, {"n_flow_layers": 4})
    ]  # fmt: skip
    bounds, nll, gaps = np.transpose([(e.bound, e.nll, -e.nll - e.bound) for e in found])
    assert bounds[0] + 0.1 < bounds[1]
    assert bounds[1] + 0.05 < bounds[2]
    assert nll[0] > nll[2] + 0.1
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("batch_size", [64, 200])
def test_the_history_is_of_means_over_all_rows_of_an_epoch(batch_size):
    """As steps of 1e-12 change nothing, they are those of the model itself."""
    X, tiny = PIXELS[:150, 18:24], {"learning_rate": 1e-12, "max_epochs": 3, "batch_size": batch_size}
    model = small(likelihood="autoencoder", **tiny).fit(X)
    assert_allclose(model.history_["lower_bound"], [model.score(X)] * 3, rtol=1e-9)
    assert set(model.history_) == {"lower_bound"}
    for params in ({}, {"kl": "monte_carlo"}, {"kl": "entropy"}):
        model = small(hidden_layer_sizes=(), n_samples=20, **params, **tiny).fit(X)
        e, h = model.evaluate(X), model.history_  # exact
        assert set(h) == {"lower_bound", "reconstruction", "kl"}
        assert_allclose(h["kl"], [e.kl] * 3, rtol=0.02 if "kl" in params else 1e-9)
        assert_allclose(h["reconstruction"], [e.reconstruction] * 3, rtol=0.01)
        assert_allclose(h["lower_bound"], [e.bound] * 3, rtol=0.01)
    assert model.lower_bounds_ == model.history_["lower_bound"]
    assert model.lower_bound_ == model.lower_bounds_[-1]


@pytest.mark.parametrize(
    "params", [{}, {"kl": "monte_carlo"}, {"kl": "entropy"}, {"n_flow_layers": 2}, {"kl_warmup_steps": 150}], ids=str
)
def test_the_bound_in_the_history_is_its_parts(params):
    h = small(early_stopping=True, max_epochs=3, **params).fit(IRIS).history_
    assert set(h) == {
        f"{set_}{name}" for set_ in ("", "validation_") for name in ("lower_bound", "reconstruction", "kl")
    }
    assert {len(values) for values in h.values()} == {3}
    for set_ in ("", "validation_"):
        want = np.subtract(h[f"{set_}reconstruction"], h[f"{set_}kl"])
        assert_allclose(h[f"{set_}lower_bound"], want, rtol=1e-9)


def test_the_bound_of_training_rises_with_importance_samples_and_steadies_with_more_of_them():
    tiny = {"learning_rate": 1e-12, "max_epochs": 8, "kl": "monte_carlo"}
    one, more, many = (small(n_importance=k, **tiny).fit(IRIS) for k in (1, 5, 50))
    assert one.lower_bound_ + 1 < more.lower_bound_ < many.lower_bound_ < many.score_samples(IRIS, 5000).mean() + 0.05
    averaged = small(n_samples=25, **tiny).fit(IRIS)
    assert np.std(averaged.lower_bounds_) < 0.5 * np.std(one.lower_bounds_)
    assert_allclose(np.mean(averaged.lower_bounds_), np.mean(one.lower_bounds_), atol=0.3)


# ------------------------------------------------------------------------------------------------ binary pixels
def test_pixels_are_drawn_by_their_row_alone_or_cut_at_one_half():
    X = PIXELS[:60]
    for binarize in ("dynamic", "threshold"):
        model = small(likelihood="bernoulli", binarize=binarize).fit(X)
        score, order = model.score_samples(X), rng().permutation(60)[:20]
        assert_allclose(model.score_samples(X[order]), score[order], rtol=1e-10)
        assert_allclose(model.transform(X[order]), model.transform(X)[order], rtol=1e-9, atol=1e-12)
        binary = (X > 0.5).astype(float)
        if binarize == "threshold":
            assert_array_equal(model.score_samples(binary), score)
        else:
            assert np.mean(model.score_samples(binary) != score) > 0.9
            assert_array_equal(model.elbo(X), model.elbo(X))


def test_binary_pixels_stay_as_they_are_drawn_or_not():
    X = (PIXELS[:80] > 0.5).astype(np.float32)
    want = small(likelihood="bernoulli").fit(X)
    for binarize in ("dynamic", "threshold"):
        got = small(likelihood="bernoulli", binarize=binarize).fit(X)
        assert_array_equal(got.parameters_, want.parameters_)
        assert_array_equal(got.score_samples(X), want.score_samples(X))


def test_pixels_are_drawn_afresh_in_each_step():
    """As steps of 1e-12 change nothing, what changes from epoch to epoch is pixels: z is one, with no way to it."""
    grey, tiny = np.full((40, 3), 0.5), {"learning_rate": 1e-12, "n_samples": 20, "max_epochs": 20, "batch_size": 40}
    make = lambda **p: small(hidden_layer_sizes=(), likelihood="bernoulli", **tiny, **p).fit(grey)
    assert np.std(make(binarize="dynamic").lower_bounds_) > 3 * np.std(make().lower_bounds_)


def test_pixels_beyond_0_and_1_are_refused():
    for params in ({"likelihood": "bernoulli"}, {"mean": "sigmoid"}, {"mean": "sigmoid", "binarize": "dynamic"}):
        model = small(**params).fit(PIXELS)
        before = state(model)
        for bad, value, advice in ((3, "3", "X / 3"), (-0.5, "-0.5", "(X - X.min()) / (X.max() - X.min())")):
            X = PIXELS.copy()
            X[257, 5] = bad
            message = (
                'likelihood="bernoulli", mean="sigmoid" and binarize want X between 0 and 1, got '
                f'{value} at row 257, column 5. Try {advice}, or likelihood="gaussian" with mean="linear".'
            )
            for use in (model.fit, model.partial_fit, lambda X, m=model: m.fit(lambda: np.array_split(X, 4))):
                with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                    use(X)
            if params != {"mean": "sigmoid"}:  # a density of any x
                with pytest.raises(ValueError, match="want X between 0 and 1"):
                    model.elbo(X)
        assert_same_state(state(model), before)


# ------------------------------------------------------------------------------------------------ autoencoders
def test_the_score_of_an_autoencoder_is_of_what_it_was_trained_on():
    X, params = PIXELS[:, 18:24], {"likelihood": "autoencoder", "mean": "sigmoid", "max_epochs": 3}
    grey = small(binarize="threshold", **params).fit(X)
    black = small(**params).fit((X > 0.5).astype(float))
    assert_array_equal(grey.parameters_, black.parameters_)
    assert_allclose(grey.score(X), black.score((X > 0.5).astype(float)), rtol=1e-12)


def test_an_autoencoder_has_codes_and_no_density():
    model = small(likelihood="autoencoder", n_components=3, max_epochs=20).fit(IRIS)
    Z = model.transform(IRIS)
    assert Z.shape == (150, 3)
    assert_array_equal(model.reconstruct(IRIS), model.inverse_transform(Z))
    error = 0.5 * ((IRIS - model.reconstruct(IRIS)) ** 2).sum(1).mean()
    assert_allclose(model.score(IRIS), -error, rtol=1e-12)
    assert error < 0.1 * 0.5 * IRIS.var(0).sum()
    assert_allclose(model.lower_bound_, -error, rtol=0.1)
    for name in ("posterior", "elbo", "score_samples", "evaluate", "sample"):
        message = f'{name} needs a density, and likelihood="autoencoder" has none. Try likelihood="gaussian".'
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            getattr(model, name)(*(() if name == "sample" else (IRIS,)))


def test_a_linear_autoencoder_is_pca():
    model = small(likelihood="autoencoder", hidden_layer_sizes=(), max_epochs=40, learning_rate=0.02).fit(IRIS)
    least = 0.5 * np.linalg.eigvalsh(np.cov(IRIS.T, bias=True))[:2].sum()
    assert least < -model.score(IRIS) < 1.001 * least


# ------------------------------------------------------------------------------------------------ when training ends
def test_early_stopping_keeps_what_was_best_on_the_rows_held_out():
    X = IRIS[:60]
    make = lambda **p: small(
        hidden_layer_sizes=(64, 64),
        max_epochs=40,
        early_stopping=True,
        n_epochs_no_change=3,
        validation_fraction=0.3,
        **p,
    )
    model = make().fit(X)
    bounds = model.history_["validation_lower_bound"]
    assert model.converged_
    assert model.lower_bound_ == max(bounds) > bounds[-1]
    assert model.n_iter_ == len(bounds) < 40
    best = int(np.argmax(bounds)) + 1
    assert_array_equal(make(callback=lambda n, _: n == best).fit(X).parameters_, model.parameters_)


def test_a_part_of_the_rows_is_held_out():
    """As steps of 1e-12 change nothing, the KL of the two parts is that of their rows."""
    X = IRIS[::2]
    model = small(early_stopping=True, validation_fraction=1 / 75, learning_rate=1e-12, max_epochs=1).fit(X)
    kl = np.array([model.evaluate(x[None], 2).kl for x in X])
    held, seen = model.history_["validation_kl"][0], model.history_["kl"][0]
    assert np.abs(kl - held).min() < 1e-9
    assert_allclose((74 * seen + held) / 75, kl.mean(), rtol=1e-9)


def test_a_rise_of_the_kl_does_not_count_and_is_cut_to_the_training():
    model = small(max_epochs=9, n_epochs_no_change=2, tol=100.0, kl_warmup_steps=250).fit(IRIS)
    assert (model.n_iter_, model.converged_) == (3 + 4, True)
    model = small(max_epochs=9, n_epochs_no_change=2, tol=100.0, kl_warmup_steps=250, early_stopping=True).fit(IRIS)
    assert (model.n_iter_, model.converged_) == (2 + 1 + 2, True)
    whole, more = (small(kl_warmup_steps=n, early_stopping=True).fit(IRIS) for n in (400, 10**9))
    assert_same_state(state(whole), state(more))
    assert len(whole.lower_bounds_) == 2
    assert whole.history_["kl"][0] > 1.5 * small(max_epochs=1).fit(IRIS).history_["kl"][0]


def test_a_fit_with_all_rows_held_out_is_refused():
    with pytest.raises(ValueError, match=r"^validation_fraction=0\.9 leaves no rows to fit of 2\.$"):
        small(early_stopping=True, validation_fraction=0.9).fit(IRIS[:2])


def test_training_ends_when_the_bound_has_stopped_rising_or_after_all_epochs():
    for params, want in (
        ({"max_epochs": 50, "n_epochs_no_change": 2}, (4, True)),
        ({"max_epochs": 5, "n_epochs_no_change": 3}, (5, False)),
        ({"max_epochs": 5}, (5, True)),
    ):
        model = small(tol=100.0, **params).fit(IRIS)
        assert (model.n_iter_, model.converged_) == want


def test_a_callback_sees_each_epoch_and_may_end_the_training():
    seen = []
    model = small(max_epochs=50, callback=lambda *a: seen.append(a) or len(seen) == 3).fit(IRIS)
    assert [e for e, _ in seen] == [1, 2, 3]
    assert (model.n_iter_, model.converged_) == (3, False)
    assert {name: [v[name] for _, v in seen] for name in seen[0][1]} == model.history_


@pytest.mark.parametrize(
    ("N", "batch_size", "steps"), [(50, 128, 100), (700, 128, 102), (30, 20, 100), (1100, 10, 110)]
)
def test_an_epoch_has_a_hundred_steps_or_the_passes_that_make_more(N, batch_size, steps, capsys):
    X = rng().standard_normal((N, 3))
    small(batch_size=batch_size, max_epochs=1, verbose=1).fit(X)
    assert f"{steps}/{steps}" in capsys.readouterr().err
    small(max_epochs=1).fit(X[:20])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("params", [{}, {"likelihood": "autoencoder"}, {"n_flow_layers": 2}], ids=str)
def test_a_rate_that_is_much_too_high_is_told(params):
    for unit in (1e-6, 1.0, 1e6):
        with pytest.warns(
            ConvergenceWarning, match=r"^Training ended at a bound of .*Try a smaller learning_rate, or "
        ):
            model = small(learning_rate=10.0, **params).fit(IRIS * unit)
        assert np.isfinite(model.parameters_).all()
        assert np.isfinite(model.score(IRIS * unit))


def test_a_rate_that_blows_up_is_an_error_and_a_clipped_gradient_is_none():
    model = small().fit(IRIS)
    before = state(model)
    with np.errstate(all="ignore"), pytest.raises(NumericalError, match=r"from 1e\+30\. Try a smaller learning_rate"):
        model.set_params(learning_rate=1e30).fit(IRIS.astype(np.float32))
    assert_same_state(state(model), before)
    a, b = (small(max_epochs=1, clip_norm=c).fit(IRIS) for c in (1e9, 1e-9))
    assert_array_equal(a.parameters_, small(max_epochs=1).fit(IRIS).parameters_)
    assert np.any(a.parameters_ != b.parameters_)


# ------------------------------------------------------------------------------------------------ partial_fit
def test_many_calls_on_blocks_come_near_one_fit():
    model = small(hidden_layer_sizes=(), learning_rate=0.03, batch_size=10)
    for i in range(300):
        model.partial_fit(IRIS[i % 3 :: 3])
    assert BEST - 20 < model.elbo(IRIS).sum() < BEST  # of some -1500 at the start; the rate does not fall
    assert (model.n_iter_, len(model.lower_bounds_), len(model.history_["kl"])) == (300, 300, 300)
    assert not model.converged_


def test_partial_fit_goes_on_from_a_fit_and_from_a_file(tmp_path):
    model = small(max_epochs=3).fit(IRIS)
    model.save(tmp_path / "m")
    loaded, before = lvm.load(tmp_path / "m"), state(model)
    model.partial_fit(IRIS)
    assert (model.n_iter_, len(model.lower_bounds_), len(model.history_["kl"])) == (4, 4, 4)
    assert model.lower_bounds_[:3] == before["lower_bounds_"]
    assert_array_equal(model.mean_, before["mean_"])
    step = np.abs(model.parameters_ - before["parameters_"]).max()
    assert 0 < step < 0.1
    loaded.partial_fit(IRIS)
    assert (loaded.n_iter_, len(loaded.lower_bounds_), len(loaded.history_["kl"])) == (4, 4, 1)
    assert 0 < np.abs(loaded.parameters_ - before["parameters_"]).max() < 0.1
    first, all_ = small().partial_fit(IRIS), small(max_epochs=1).fit(IRIS)
    assert_array_equal(first.mean_, all_.mean_)
    assert_array_equal(first.scale_, all_.scale_)
    first.fit(IRIS)
    assert_same_state(state(first), state(small().fit(IRIS)))


def test_the_kl_rises_once(tmp_path):
    """After a fit, or from a file, it counts whole; in a model begun by partial_fit it rises over its first steps."""
    make = lambda steps: small(kl_warmup_steps=steps, batch_size=50)
    fitted, plain = make(10**6).fit(IRIS), make(0).fit(IRIS)
    fitted.save(tmp_path / "m")
    for model in (fitted, lvm.load(tmp_path / "m")):
        state_ = getattr(model, "optimizer_state_", {})
        model.optimizer_state_, want = state_, copy.deepcopy(plain)
        want.parameters_, want.optimizer_state_ = model.parameters_.copy(), copy.deepcopy(state_)
        if not state_:
            del model.optimizer_state_, want.optimizer_state_
        assert_array_equal(model.partial_fit(IRIS).parameters_, want.partial_fit(IRIS).parameters_)
    begun = [make(steps).partial_fit(IRIS).partial_fit(IRIS).parameters_ for steps in (0, 3, 6)]
    assert np.any(begun[0] != begun[1])
    assert np.any(begun[1] != begun[2])  # the second call is in the rise, too


def test_partial_fit_begins_at_weights_as_they_are():
    model = small().fit(IRIS)
    model.weights_["output_bias"][:] = 99
    model.partial_fit(IRIS)
    assert_allclose(model.weights_["output_bias"], 99, atol=0.5)


def test_partial_fit_takes_rows_alone():
    with pytest.raises(TypeError, match=r"^partial_fit takes rows X \(N,D\)\. Call it for each block"):
        small().partial_fit(lambda: [IRIS])


def test_calls_on_one_batch_are_the_steps_of_a_fit():
    """Adam's memory and all: an autoencoder has no noise."""
    model = small(likelihood="autoencoder", batch_size=150, schedule="constant", max_epochs=1)
    want = copy.copy(model).fit(IRIS)
    for _ in range(100):
        model.partial_fit(IRIS)
    assert_array_equal(model.parameters_, want.parameters_)


def test_partial_fit_has_other_batches_and_noise_in_each_call():
    X = np.tile(IRIS, (2, 1))
    model = small(learning_rate=1e-12).partial_fit(X)
    for _ in range(3):
        model.partial_fit(X)
    assert len(set(model.lower_bounds_)) == 4


def test_partial_fit_takes_what_fits_the_model_alone():
    model = small().fit(IRIS)
    before = state(model)
    with pytest.raises(ValueError, match=r"^X has 2 features, but VAE is expecting 4 features as input"):
        model.partial_fit(IRIS[:, :2])
    for name, value in (
        ("n_components", 3),
        ("hidden_layer_sizes", (9,)),
        ("decoder_layer_sizes", (9,)),
        ("activation", "tanh"),
        ("likelihood", "autoencoder"),
        ("noise", "network"),
        ("mean", "sigmoid"),
        ("n_flow_layers", 1),
    ):
        was = getattr(model, name)
        with pytest.raises(ValueError, match=r"^partial_fit goes on with the nets as they are, and a parameter that"):
            model.set_params(**{name: value}).partial_fit(IRIS)
        model.set_params(**{name: was})
    assert_same_state(state(model), before)
    model.set_params(gradient="path", n_samples=2, batch_size=7, learning_rate=1e-4).partial_fit(
        IRIS[:1]
    )  # of training
    assert model.n_iter_ == 3
    with pytest.raises(ValueError, match="minimum of 2 is required by VAE"):
        small().partial_fit(IRIS[:1])


# ------------------------------------------------------------------------------------------------ checkpoints, Ctrl-C
TRAININGS = {
    "rows": lambda m, X: m.fit(X),
    "early stopping": lambda m, X: m.set_params(early_stopping=True).fit(X),
    "flow": lambda m, X: m.set_params(n_flow_layers=2, n_importance=2).fit(X.astype(np.float32)),
    "binary": lambda m, X: m.set_params(likelihood="bernoulli", binarize="dynamic").fit(X - X // 1),
    "blocks": lambda m, X: m.fit(lambda: [X[:70], X[70:]]),
}


@pytest.mark.parametrize("how", TRAININGS)
def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped(how, tmp_path):
    make = lambda epochs=99, **p: small(**{"max_epochs": 6, "callback": lambda n, _: n >= epochs, **p})
    want = TRAININGS[how](make(), IRIS)
    assert TRAININGS[how](make(3, checkpoint=tmp_path / "c"), IRIS).n_iter_ == 3
    got = TRAININGS[how](make(checkpoint=tmp_path / "c"), IRIS)
    assert got.n_iter_ == 6
    assert_same_state(state(got), state(want))
    again = TRAININGS[how](make(checkpoint=tmp_path / "c", callback=lambda *_: 1 / 0), IRIS)
    assert_same_state(state(again), state(want))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, X = tmp_path / "c", PIXELS[:, 18:24]
    make = lambda: small(checkpoint=path, batch_size=100, kl="monte_carlo", mean="sigmoid")
    make().fit(X)
    said = "^The checkpoint '.*c' is of another training: "
    for name, value in (
        ("n_components", 3),
        ("hidden_layer_sizes", (9,)),
        ("decoder_layer_sizes", (9,)),
        ("activation", "leaky_relu"),
        ("likelihood", "bernoulli"),
        ("likelihood", "autoencoder"),
        ("noise", "diagonal"),
        ("noise", "network"),
        ("mean", "linear"),
        ("binarize", "dynamic"),
        ("n_flow_layers", 1),
        ("kl", "entropy"),
        ("n_samples", 2),
        ("n_importance", 2),
        ("gradient", "path"),
        ("kl_warmup_steps", 5),
        ("batch_size", 50),
        ("max_epochs", 3),
        ("learning_rate", 0.1),
        ("schedule", "constant"),
        ("early_stopping", True),
        ("clip_norm", 1.0),
        ("random_state", 1),
    ):
        with pytest.raises(ValueError, match=said):
            make().set_params(**{name: value}).fit(X)
    for other in (X / 2, X[:299], X.astype(np.float32), X[:, :5], X[::-1] ** 2):
        with pytest.raises(ValueError, match=said):
            make().fit(other)
    make().fit(X)  # as it was
    with pytest.raises(ValueError, match=r"^A checkpoint needs the same noise again\. Try an integer random_state\.$"):
        make().set_params(random_state=None).fit(X)


@pytest.mark.parametrize("how", ["fit", "blocks", "partial_fit"])
def test_ctrl_c_at_any_line_leaves_the_last_whole_epoch_or_nothing(how, monkeypatch):
    monkeypatch.setattr(lvm.vae, "STEPS", 2)  # of an epoch
    X = IRIS[:60]
    use = {
        "fit": lambda m: m.fit(X),
        "blocks": lambda m: m.fit(lambda: [X]),
        "partial_fit": lambda m: m.partial_fit(X),
    }[how]
    make = lambda epochs=2: small(max_epochs=2, callback=lambda n, _: n >= epochs)
    other = make().fit(IRIS[60:120])
    before = state(other)
    ends = [state(use(copy.copy(other).set_params(callback=lambda n, _, e=e: n >= e))) for e in (1, 2)]
    kept, line, raised = 0, 0, True
    while raised is not False:
        line += 2
        model = copy.copy(other)
        raised = interrupted_at("vae", line, lambda m=model: use(m))
        assert raised is not None, f"swallowed at {line}"
        now = state(model)
        if now["lower_bounds_"] == before["lower_bounds_"]:
            assert_same_state(now, before)
            continue
        kept += raised
        assert_same_state(now, ends[now["n_iter_"] - 1] if how != "partial_fit" else ends[0])
    assert kept > (0 if how == "partial_fit" else 5)


def test_ctrl_c_says_where_it_stopped():
    def stop(epoch, values):
        if epoch == 3:
            raise KeyboardInterrupt

    for early, said in ((False, "that of epoch 3"), (True, "that of the best epoch up to 3")):
        model = small(max_epochs=9, callback=stop, early_stopping=early)
        with pytest.raises(KeyboardInterrupt, match=f"^fit was stopped; the model is {said}$"):
            model.fit(IRIS)
        assert (model.n_iter_, len(model.lower_bounds_), model.converged_) == (3, 3, False)


# ------------------------------------------------------------------------------------------------ seeds and arrays
@pytest.mark.parametrize("how", TRAININGS)
def test_a_seed_repeats_and_another_does_not(how):
    a, b, c = (state(TRAININGS[how](small(random_state=seed), IRIS)) for seed in (4, rng(4), 5))
    assert_same_state(a, b)
    assert np.mean(a["parameters_"] == c["parameters_"]) < 0.1


def test_any_number_of_threads_gives_the_same_bits():
    X, found = rng().random((3000, 20)).astype(np.float32), []
    try:
        for threads in (1, 2, 7):
            lvm.set_num_threads(threads)
            model = small(hidden_layer_sizes=(30,), max_epochs=1, batch_size=1000, n_flow_layers=2, n_samples=2).fit(X)
            found.append({**state(model), "score": model.score_samples(X[:300])})
    finally:
        lvm.set_num_threads(None)
    assert_same_state(found[0], found[1])
    assert_same_state(found[0], found[2])


def test_a_fit_in_another_thread_at_the_same_time_gives_the_same_bits():
    want, found = [state(small(random_state=s).fit(IRIS)) for s in range(3)], [{}] * 3

    def work(s):
        found[s] = state(small(random_state=s).fit(IRIS))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(want, found):
        assert_same_state(a, b)


def test_rows_may_lie_anywhere_in_memory_and_are_left_alone(tmp_path):
    X = IRIS.copy()
    want = small(batch_size=64).fit(X)
    frozen = X.copy()
    frozen.setflags(write=False)
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    mapped = np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape)
    for other in (frozen, mapped, np.asfortranarray(X), X.astype(">f8"), X.tolist(), X.astype(object)):
        got = small(batch_size=64).fit(other)
        assert_same_state(state(got), state(want))
        assert_array_equal(got.score_samples(other), want.score_samples(X))
        assert_array_equal(got.reconstruct(other), want.reconstruct(X))
    assert_array_equal(X, IRIS)
    for params in ({"batch_size": 1000}, {"early_stopping": True}):
        assert_same_state(state(small(**params).fit(mapped)), state(small(**params).fit(X)))
    assert_array_equal(small().partial_fit(mapped).parameters_, small().partial_fit(X).parameters_)
    low = small(noise="network", n_flow_layers=2).fit(X.astype(np.float32))
    rows = X.astype(np.float32)
    for a in (low.parameters_, low.mean_, low.scale_, *low.posterior(rows), low.reconstruct(rows), low.elbo(rows),
              low.score_samples(rows), low.sample(3)):  # fmt: skip
        assert a.dtype == np.float32
    assert low.elbo(X).dtype == low.reconstruct(X).dtype == low.posterior(X).variance.dtype == np.float64
    assert_allclose(low.transform(rows), low.transform(X), atol=0.05)  # (by other draws)
    assert_allclose(low.score(rows, n_importance=2000), low.score(X, n_importance=2000), atol=0.05)


def test_a_memory_map_is_read_batch_by_batch(tmp_path):
    X = np.memmap(tmp_path / "X", np.float32, "w+", shape=(400_000, 20))  # 32 MB
    X[...] = rng().random((1, 20), np.float32)
    X[::2] *= 0.5
    X.flush()
    X = np.memmap(tmp_path / "X", np.float32, "r", shape=X.shape)
    model = small(batch_size=20_000, max_epochs=1, callback=lambda *_: True)
    model.fit(X[:2000])  # compiles
    tracemalloc.start()
    try:
        model.fit(X)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_blocks_are_their_rows_however_they_are_cut():
    whole = small(batch_size=64).fit(lambda: [IRIS])
    for cuts in ([50, 64, 65], [0, 10, 150], list(range(1, 150, 7))):
        got = small(batch_size=64).fit(lambda c=cuts: np.array_split(IRIS, c))
        assert_allclose(got.mean_, whole.mean_, rtol=1e-13)
        assert_allclose(got.parameters_, whole.parameters_, rtol=1e-6, atol=1e-9)
    assert_allclose(whole.mean_, IRIS.mean(0), rtol=1e-12)
    assert_allclose(small(max_epochs=9).fit(lambda: [IRIS]).scale_, small().fit(IRIS).scale_, rtol=1e-12)
    one = small(batch_size=1000, max_epochs=100, schedule="constant").fit(lambda: [IRIS[:99], IRIS[99:]])
    assert one.n_iter_ == 100
    want = small(batch_size=1000, max_epochs=1, schedule="constant").fit(IRIS)  # of a hundred passes
    assert_allclose(one.elbo(IRIS), want.elbo(IRIS), rtol=0.2)
    assert_allclose(np.mean(one.lower_bounds_), want.lower_bound_, rtol=0.05)


def test_a_function_of_blocks_may_fill_one_array_again_and_again():
    """The next block is read while a batch is worked on."""
    X = rng().standard_normal((600, 500)).astype(np.float32)

    def refilled():
        block = np.empty((100, 500), np.float32)
        for i in range(0, 600, 100):
            block[:] = X[i : i + 100]
            yield block

    make = lambda: small(batch_size=100, max_epochs=20)
    assert_array_equal(make().fit(refilled).parameters_, make().fit(lambda: [X]).parameters_)


def test_rows_that_come_in_blocks_have_names():
    pandas = pytest.importorskip("pandas")
    frame = lambda *names: pandas.DataFrame(IRIS[:40], columns=names)
    model = small().fit(lambda: [frame(*"abcd"), frame(*"abcd")])
    assert list(model.feature_names_in_) == list("abcd")
    for other in (frame(*"abdc"), IRIS):
        with pytest.raises(
            ValueError, match=r"^All blocks must have the same columns, the first has \['a' 'b' 'c' 'd'"
        ):
            small().fit(lambda x=other: [frame(*"abcd"), x])


class Changing:
    """A function of blocks that gives others, or fails, from some call on."""

    def __init__(self, then):
        self.then, self.calls = then, 0

    def __call__(self):
        self.calls += 1
        yield IRIS[:60]
        yield IRIS[60:]
        if self.calls > 4:
            yield from self.then()


BLOCKS = {
    "no blocks": (list, ValueError, "The function of blocks gave none. It must give them anew each time it is called."),
    "one iterator": (
        iter([IRIS[:60], IRIS[60:]]).__iter__,  # (gives itself)
        ValueError,
        "The function of blocks gave 90 rows at first and 0 later. It must give all of them anew each time it is call",
    ),
    "other columns": (
        lambda: [IRIS, IRIS[:, :2]],
        ValueError,
        "All blocks must have the same columns and dtype, the first has 4 of float64, got 2 of float64. Try block.ast",
    ),
    "another dtype": (
        lambda: [IRIS, IRIS.astype(np.float32)],
        ValueError,
        "All blocks must have the same columns and dtype, the first has 4 of float64, got 4 of float32. Try block.ast",
    ),
    "one row": (
        lambda: [IRIS[:1]],
        ValueError,
        "Found array with 1 sample(s) while a minimum of 2 is required by VAE.",
    ),
    "rows, not blocks": (lambda: IRIS, ValueError, "Expected 2D array, got 1D array instead: X has shape (4,)."),
    "a gap": (lambda: [IRIS, IRIS * np.nan], ValueError, "Input X contains NaN. The first one is at row 0, column 0."),
    "more later": (
        Changing(lambda: [IRIS[:30]]),
        ValueError,
        "The function of blocks gave 150 rows at first and 180 later. It must give all of them anew each time it is c",
    ),
    "a gap later": (Changing(lambda: [IRIS * np.nan]), ValueError, "Input X contains NaN."),
    "an error later": (Changing(lambda: 1 / 0), ZeroDivisionError, "division by zero"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_wrong_blocks_are_told_and_change_nothing(kind):
    blocks, error, message = BLOCKS[kind]
    model = small(max_epochs=20).fit(IRIS[:, :3])
    before, threads = state(model), threading.active_count()
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        model.fit(blocks)
    assert_same_state(state(model), before)
    assert threading.active_count() == threads


def test_rows_in_blocks_cannot_be_held_out():
    with pytest.raises(
        ValueError, match=r"^early_stopping needs rows to hold out, and X comes in blocks\. Try early_st"
    ):
        small(early_stopping=True).fit(lambda: [IRIS])


def test_data_frames_give_and_get_names():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(IRIS, columns=list("abcd"), index=np.arange(150) + 7)
    model = small().set_output(transform="pandas").fit(X)
    Z = model.transform(X)
    assert list(Z.columns) == list(model.get_feature_names_out()) == ["vae0", "vae1"]
    assert list(Z.index) == list(X.index)
    assert_array_equal(Z.to_numpy(), small().fit(IRIS).transform(IRIS))
    assert_allclose(model.inverse_transform(Z), model.reconstruct(X), rtol=1e-12)
    assert list(model.partial_fit(X).feature_names_in_) == list("abcd")


def test_z_of_another_width_and_wrong_numbers_of_samples_are_refused():
    model = small().fit(IRIS)
    for use in (model.inverse_transform, model.decode):
        with pytest.raises(ValueError, match=r"^Z must have 2 columns, got 3\.$"):
            use(np.zeros((4, 3)))
    for name, parameter, least in (
        ("elbo", "n_samples", 1),
        ("score_samples", "n_importance", 1),
        ("evaluate", "n_importance", 2),
    ):
        for n in (0, 1.5, None, least - 1):
            with pytest.raises(
                ValueError, match=f"^The '{parameter}' parameter of {name} must be an integer of at lea"
            ):
                getattr(model, name)(IRIS, n)
    for method in (model.elbo, model.score_samples):
        with pytest.raises(ValueError, match="must be an integer of at least 2, got 1"):
            method(IRIS, 1, return_std=True)
    with pytest.raises(ValueError, match=r"^The 'n_samples' parameter of sample must be an integer of at least 1"):
        model.sample(0)


# ------------------------------------------------------------------------------------------------ hostile data
HOSTILE = {
    "a constant column": lambda X: np.column_stack([X[:, 0], np.full(len(X), 0.1)]),
    "one point": lambda X: np.full((50, 2), 0.1),
    "two points": lambda X: np.tile(X[:2], (40, 1)),
    "two rows": lambda X: X[:2],
    "one column": lambda X: X[:, :1],
    "fewer rows than columns": lambda X: rng(1).standard_normal((7, 30)),
    "far away": lambda X: X + 1e8,
    "so far that squares overflow": lambda X: X * 1e148 + 1e155,
    "tiny": lambda X: X * 1e-6,
    "next to nothing": lambda X: X * 1e-150,
    "large": lambda X: X * 1e150,
    "one far row": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e9, X),
    "integers": lambda X: np.round(X).astype(int),
}


@pytest.mark.parametrize("noise", ["isotropic", "diagonal", "network"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_data_are_fitted(kind, noise):
    X = HOSTILE[kind](rng().standard_normal((200, 2)))
    model = small(noise=noise, n_components=3, max_epochs=4).fit(X)
    assert_sound(model, X)
    if kind not in ("one far row", "one point"):
        assert model.lower_bounds_[-1] > model.lower_bounds_[0]


@pytest.mark.parametrize("noise", ["isotropic", "diagonal", "network"])
def test_a_unit_of_x_changes_the_bound_by_its_log_and_no_bit_of_z(noise):
    X = IRIS - IRIS.mean(0)
    a = small(noise=noise).fit(X)
    for unit in (2.0**-20, 2.0**400):
        b = small(noise=noise).fit(X * unit)
        assert_array_equal(b.transform(X * unit), a.transform(X))
        assert_allclose(b.lower_bounds_, a.lower_bounds_ - 4 * np.log(unit), rtol=1e-12)
        assert_allclose(b.score_samples(X * unit), a.score_samples(X) - 4 * np.log(unit), rtol=1e-12)
        assert_array_equal(b.history_["kl"], a.history_["kl"])


def test_rows_that_vary_too_much_or_too_little_are_told():
    for X, T in (
        (IRIS * 1e160, "float64"),
        (IRIS * 1e-200, "float64"),
        (IRIS.astype(np.float32) * np.float32(1e-42), "float32"),
    ):
        for noise in ("isotropic", "diagonal"):
            with pytest.raises(ValueError, match=rf"^X varies too much, or too little, for {T}\. Try scaling X\.$"):
                small(noise=noise).fit(X)


def test_constant_columns_are_left_as_they_are():
    """Their mean, a sum of many over their number, is off by rounding, which is no deviation."""
    X = np.column_stack([IRIS, np.full(150, 0.1)])
    model = small(noise="diagonal", max_epochs=15).fit(X)
    assert (model.mean_[4], model.scale_[4]) == (0.1, 1.0)
    assert_allclose(model.reconstruct(X)[:, 4], 0.1, atol=0.05)
    assert_allclose(small().fit(X).scale_, np.sqrt(IRIS.var(0).sum() / 5), rtol=1e-12)


def test_few_rows_and_gaps_are_refused():
    with pytest.raises(ValueError, match="minimum of 2 is required by VAE"):
        small().fit(IRIS[:1])
    X, model = IRIS.copy(), small().fit(IRIS)
    X[3, 1] = np.nan
    for use in (small().fit, model.partial_fit, model.score_samples, model.elbo, model.transform, model.evaluate):
        with pytest.raises(ValueError, match=r"^Input X contains NaN\. The first one is at row 3, column 1"):
            use(X)
    with pytest.raises(ValueError, match=r"^Input X contains NaN"):
        model.inverse_transform(X[:, :2])


# ------------------------------------------------------------------------------------------------ parameters
WRONG = {
    "n_components": [0, 1.5, None, "2", True],
    "hidden_layer_sizes": [3, None, "8", (0,), (8, 1.5), [-1], np.array([8])],
    "decoder_layer_sizes": [3, "8", (0,), (8, None)],
    "activation": ["sigmoid", None, 1],
    "likelihood": ["poisson", None],
    "noise": ["full", None],
    "mean": ["tanh", None],
    "binarize": ["static", True],
    "n_flow_layers": [-1, 1.5, None],
    "amortised": [1, None],
    "kl": ["exact", None],
    "n_samples": [0, 1.5, None],
    "n_importance": [0, 1.5, None],
    "gradient": ["stl", None],
    "kl_warmup_steps": [-1, 1.5, None],
    "batch_size": [0, 1.0, None],
    "max_epochs": [0, 1.0, None],
    "learning_rate": [0, -1, np.nan, np.inf, "x", None],
    "schedule": ["linear", None],
    "early_stopping": [1, None],
    "validation_fraction": [0, 1, 1.5, np.nan, None],
    "n_epochs_no_change": [0, 1.5, "x"],
    "tol": [-1, np.nan, None],
    "clip_norm": [0, -1, np.nan, "x"],
    "random_state": [-1, 1.5, "x"],
    "device": ["gpu", None, 1],
    "verbose": [-1, "x", None],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parameters_are_refused_by_name_and_change_nothing(name):
    model = small(max_epochs=1).fit(IRIS)
    before = state(model)
    said = f"^{name} must be " if name in ("random_state", "device") else f"^The '{name}' parameter of VAE must be "
    for value in WRONG[name]:
        model.set_params(**{name: value})
        for use in (model.fit, model.partial_fit):
            with pytest.raises((ValueError, TypeError), match=said):
                use(IRIS)
    assert_same_state(state(model), before)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"likelihood": "autoencoder", "n_flow_layers": 1},
            'likelihood="autoencoder" has no distribution of z: n_flow',
        ),
        ({"likelihood": "autoencoder", "n_samples": 2}, 'likelihood="autoencoder" has no distribution of z: n_flow_la'),
        ({"likelihood": "autoencoder", "n_importance": 2}, 'likelihood="autoencoder" has no distribution of z: n_flow'),
        ({"likelihood": "autoencoder", "gradient": "path"}, "gradient='path' takes the slope of log q by the samples"),
        ({"binarize": "threshold"}, 'binarize=\'threshold\' is for pixels: for likelihood="bernoulli", or mean="sigm'),
        ({"kl": "analytic", "n_importance": 2}, 'kl must be "monte_carlo" with n_importance=2: each sample needs a w'),
        ({"kl": "entropy", "n_importance": 2}, 'kl must be "monte_carlo" with n_importance=2: each sample needs a we'),
        ({"kl": "analytic", "n_flow_layers": 1}, 'kl must be "monte_carlo" or "entropy" with planar layers: their KL'),
        ({"gradient": "path", "n_flow_layers": 1}, 'gradient must be "total" with planar layers: the slope of log q'),
        ({"gradient": "path", "kl": "analytic"}, "gradient='path' takes the slope of log q by the samples, which need"),
        ({"gradient": "doubly", "kl": "entropy"}, "gradient='doubly' takes the slope of log q by the samples, which"),
        ({"gradient": "path", "n_importance": 2}, 'gradient="path" is biased for n_importance=2. Try gradient="doubly'),
    ],
    ids=str,
)
def test_what_cannot_be_had_together_is_told(params, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        small(**params).fit(IRIS)


def test_layers_are_mirrored_in_the_decoder_unless_told():
    make = lambda **p: small(max_epochs=1, **p).fit(IRIS).architecture_
    assert make(hidden_layer_sizes=[7, 5])["decoder"] == [5, 7]
    assert make(hidden_layer_sizes=(7, 5), decoder_layer_sizes=())["decoder"] == []
    assert make(hidden_layer_sizes=())["encoder"] == make(hidden_layer_sizes=())["decoder"] == []
    many = make(n_components=9)
    assert (many["n_features"], many["n_components"]) == (4, 9)


def test_a_second_fit_leaves_nothing_of_the_first():
    pandas = pytest.importorskip("pandas")
    model = small(n_flow_layers=2, early_stopping=True).fit(pandas.DataFrame(IRIS, columns=list("abcd")))
    model.set_params(n_flow_layers=0, early_stopping=False).fit(IRIS[:, :2])
    assert_same_state(state(model), state(small().fit(IRIS[:, :2])))


@model_
def test_changes_of_parameters_after_a_fit_do_not_change_answers(kind):
    model, X = trained(kind)
    other = copy.copy(model).set_params(
        n_components=7, hidden_layer_sizes=(3,), decoder_layer_sizes=(), activation="tanh", likelihood="autoencoder",
        noise="network", mean="sigmoid", binarize="dynamic", n_flow_layers=5, amortised=True, kl="entropy", n_samples=3,
    )  # fmt: skip
    for method in ("transform", "reconstruct", "elbo", "score_samples", "score"):
        assert_array_equal(getattr(other, method)(X), getattr(model, method)(X))
    assert_array_equal(other.sample(5), model.sample(5))


@model_
@T_
def test_a_pickle_and_a_file_answer_the_same_bits(tmp_path, kind, T):
    model, X = trained(kind, T)
    model.save(tmp_path / "m")
    for twin in (pickle.loads(pickle.dumps(model)), lvm.load(tmp_path / "m")):
        for method in ("transform", "posterior", "reconstruct", "elbo", "score_samples", "evaluate"):
            assert_equal(getattr(twin, method)(X), getattr(model, method)(X))
        assert_array_equal(twin.sample(5), model.sample(5))
        assert twin.weights_.keys() == model.weights_.keys()


def test_a_checkpoint_is_written_while_training_goes_on(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(fit, "EVERY", -1.0)
    small(checkpoint=tmp_path / "c", callback=lambda *_: there.append((tmp_path / "c").exists())).fit(IRIS)
    assert there == [True] * 2
