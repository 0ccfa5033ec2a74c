"""Flows as an estimator: densities that integrate to 1, both ways to train and both directions, and its manners."""

import copy
import functools
import pickle
import re

import numba
import numpy as np
import pytest
from gradcheck import richardson
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal
from reference import flow as reference_flow
from reference import flow_end
from scipy import stats

import lvm
import lvm.flow
from lvm import fit, targets
from lvm.estimator import ConvergenceWarning, NumericalError

MIXED = ("planar", "affine", "radial")
EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
direction_ = pytest.mark.parametrize("direction", ["normalising", "generative"])
U = pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4"])


def rng(seed=0):
    return np.random.default_rng(seed)


def clouds(N=300, D=2, seed=0):
    """Two clouds, in columns of other places and scales."""
    r = rng([5, seed])
    X = r.standard_normal((N, D)) * 0.5 + np.where(r.random((N, 1)) < 0.4, 1.0, -1.0)
    return X * np.resize([100.0, 0.01, 1.0], D) + np.resize([1000.0, -0.05, 3.0], D)


def moons(N, seed=0):
    t, noise = rng([6, seed]).uniform(0, np.pi, N), rng([7, seed]).normal(0, 0.1, (N, 2))
    upper = np.arange(N) % 2 == 0
    return (
        np.where(upper[:, None], [0, 0], [1, 0.5])
        + np.c_[np.cos(t), np.sin(t)] * np.where(upper, 1, -1)[:, None]
        + noise
    )


def small(n_layers=4, **params):
    """A flow that is quickly trained, of layers that are far from the identity."""
    return lvm.PlanarFlow(n_layers, **{"max_epochs": 4, "learning_rate": 0.05, "random_state": 0, **params})


@functools.cache
def trained(direction="normalising", T=np.float64, layers=MIXED, D=2):
    """A model, and its rows."""
    X = clouds(D=D).astype(T)
    return small(6, layers=layers, direction=direction).fit(X), X


def state(model):
    return copy.deepcopy({name: a for name, a in vars(model).items() if name.endswith("_")})


def assert_same_state(a, b, but=()):
    assert a.keys() == b.keys()
    for name in a:
        if name not in but:
            assert_array_equal(a[name], b[name], err_msg=name)


def assert_sound(model, X):
    for name in ("u_", "w_", "b_", "lower_bound_", "lower_bounds_"):
        assert np.isfinite(getattr(model, name)).all(), name
    for a in (model.score_samples(X), model.transform(X), model.sample(50)):
        assert np.isfinite(a).all()


def quadratic(z):
    """log N(z | 1, 1/4), without its constant."""
    return -2 * ((z - 1) ** 2).sum(1), -4 * (z - 1)


# ------------------------------------------------------------------------------------------------ the density
@direction_
@T_
def test_the_density_integrates_to_one(direction, T):
    model, X = trained(direction, T)
    mean, scale = X.mean(0, dtype=float), X.std(0, dtype=float)
    n, far = 500, 10.0
    t = (np.arange(n) + 0.5) * (2 * far / n) - far
    grid = np.stack(np.meshgrid(t, t, indexing="ij"), -1).reshape(-1, 2)
    total = np.exp(model.score_samples((grid * scale + mean).astype(T)), dtype=float).sum()
    assert abs(total * scale.prod() * (2 * far / n) ** 2 - 1) < 1e-3


@direction_
@pytest.mark.parametrize("layers", ["planar", "radial", "affine", MIXED], ids=str)
def test_answers_are_those_of_the_formulas(direction, layers):
    model, X = trained(direction, layers=layers, D=3)
    Z, l = reference_flow(
        model.layers_, model.u_, model.w_, model.b_, int(direction == "generative"), (X - model.mean_) / model.scale_
    )
    assert_allclose(model.transform(X), Z, rtol=1e-9, atol=1e-9)
    want = stats.multivariate_normal(np.zeros(3)).logpdf(Z) + l - np.log(X.std(0)).sum()
    assert_allclose(model.score_samples(X), want, rtol=1e-9)
    assert_allclose(model.score(X), want.mean(), rtol=1e-9)


@direction_
def test_the_density_is_the_normal_one_times_the_jacobian_by_differences(direction):
    model, X = trained(direction, D=3)
    scale, normal = X.std(0), stats.multivariate_normal(np.zeros(3))
    for x in X[:10]:
        J = np.stack(
            [richardson(lambda t, y=x, e=e: model.transform((y + t * e * scale)[None])[0]) for e in np.eye(3)], 1
        )
        want = normal.logpdf(model.transform(x[None])[0]) + np.linalg.slogdet(J / scale)[1]
        assert_allclose(model.score_samples(x[None])[0], want, rtol=1e-7)


@direction_
@T_
@pytest.mark.parametrize("layers", ["planar", "radial", "affine", MIXED], ids=str)
def test_transform_and_its_inverse_cancel_to_rounding(direction, T, layers):
    model, X = trained(direction, T, layers)
    again = model.inverse_transform(model.transform(X))
    assert again.dtype == T
    assert (np.abs(again - X) / model.scale_).max() < 300 * EPS[T] * np.abs(X / model.scale_).max()
    Z = rng().standard_normal((200, 2)).astype(T)
    assert_allclose(model.transform(model.inverse_transform(Z)), Z, atol=300 * EPS[T] * np.abs(X / model.scale_).max())


def test_a_unit_of_x_changes_the_score_by_its_log_and_no_bit_of_z():
    X = clouds()
    a = small(layers=MIXED).fit(X)
    for unit in (2.0**-20, 2.0**30):
        b = small(layers=MIXED).fit(X * unit)
        assert_array_equal(b.transform(X * unit), a.transform(X))
        assert_allclose(b.score_samples(X * unit), a.score_samples(X) - 2 * np.log(unit), rtol=1e-13)
        assert_allclose(b.lower_bound_, a.lower_bound_ - 2 * np.log(unit), rtol=1e-13)
        assert_array_equal(b.history_["log_prior"], a.history_["log_prior"])
    unit, place = np.array([3.0, -0.7]), np.array([10.0, 2.0])
    b = small(layers=MIXED).fit(X * np.abs(unit) + place)
    assert_allclose(b.transform(X * np.abs(unit) + place), a.transform(X), atol=1e-6)
    assert_allclose(b.score_samples(X * np.abs(unit) + place), a.score_samples(X) - np.log(2.1), atol=1e-6)


def test_without_standardisation_x_goes_into_the_layers_as_it_is():
    model = small(standardise=False).fit(moons(100))
    assert_array_equal([model.mean_, model.scale_], [[0, 0], [1, 1]])
    model = small().fit(clouds())
    assert_allclose([model.mean_, model.scale_], [clouds().mean(0), clouds().std(0)], rtol=1e-12)


@direction_
def test_a_row_alone_has_the_answer_it_has_in_company(direction):
    model, X = trained(direction)
    order = rng().permutation(len(X))[:70]
    for method in (model.transform, model.score_samples, model.inverse_transform):
        whole = method(X)
        assert_array_equal(method(X[order]), whole[order])
        assert_array_equal(np.concatenate([method(x[None]) for x in X[:5]]), whole[:5])


@direction_
@T_
def test_samples_are_of_the_density(direction, T):
    model, X = trained(direction, T)
    rows = model.sample(20_000)
    assert rows.shape == (20_000, 2)
    assert rows.dtype == T
    Z = model.transform(rows).astype(float)
    for z in (*Z.T, Z @ [0.6, 0.8]):
        assert stats.kstest(z, "norm").pvalue > 1e-3
    z = model.score_samples(rows).astype(
        float
    )  # its mean is minus the entropy, which importance weights of a wide q give
    wide = stats.multivariate_t(X.mean(0, dtype=float), 4 * np.cov(X.T.astype(float)), 5)
    x = wide.rvs(50_000, random_state=0)
    log_p = model.score_samples(x.astype(T)).astype(float)
    terms = np.exp(log_p - wide.logpdf(x)) * log_p
    error = np.hypot(terms.std() / np.sqrt(len(terms)), z.std() / np.sqrt(len(z)))
    assert abs(z.mean() - terms.mean()) < 4 * error


def test_samples_repeat_with_an_integer_and_go_on_with_a_generator():
    model, _ = trained()
    assert_array_equal(model.sample(7), model.sample(7))
    assert_array_equal(model.sample(7)[:3], model.sample(3))
    assert model.sample().shape == (1, 2)
    for seed in (None, rng(3)):
        other = copy.deepcopy(model).set_params(random_state=seed)
        assert np.all(other.sample(3) != other.sample(3))


@direction_
def test_warp_goes_from_z_to_x_a_layer_at_a_time(direction):
    model, _ = trained(direction)
    Z = rng().standard_normal((40, 2))
    way = model.warp(Z)
    K = len(model.layers_)
    assert way.shape == (K + 1, 40, 2)
    assert_array_equal(way[0], Z * model.scale_ + model.mean_)
    assert_allclose(way[-1], model.inverse_transform(Z), rtol=1e-13)
    order = range(K) if direction == "generative" else reversed(range(K))
    for before, after, j in zip(way, way[1:], order):
        p = [a[j : j + 1] for a in (model.u_, model.w_, model.b_)]
        want, _ = reference_flow(
            model.layers_[j : j + 1], *p, int(direction == "normalising"), (before - model.mean_) / model.scale_
        )
        assert_allclose((after - model.mean_) / model.scale_, want, atol=1e-9)


# ------------------------------------------------------------------------------------------------ layers
def test_layers_are_repeated_and_the_base_is_next_to_z():
    X = moons(60)
    five = ["planar", "radial", "planar", "radial", "planar"]
    for direction, layers in (("normalising", [*five, "affine"]), ("generative", ["affine", *five])):
        model = small(5, layers=("planar", "radial"), direction=direction, max_epochs=1).fit(X)
        assert model.layers_ == layers
        assert model.direction_ == direction
        assert (model.u_.shape, model.w_.shape, model.b_.shape) == ((6, 2), (6, 2), (6,))
    model = small(5, layers=["planar", "radial"], base="fixed", max_epochs=1).fit(X)
    assert model.layers_ == five
    with pytest.raises(ValueError, match=r"^layers names 3 kinds, and n_layers is 2\. Try n_layers=3\.$"):
        small(2, layers=["planar", "affine", "radial"]).fit(X)


def test_the_direction_is_that_which_training_needs_unless_told():
    assert small(max_epochs=1).fit(moons(60)).direction_ == "normalising"
    assert small(max_epochs=1).fit_target(quadratic).direction_ == "generative"
    assert small(max_epochs=1, direction="normalising").fit_target(quadratic).direction_ == "normalising"


@direction_
@T_
def test_a_base_alone_is_the_gaussian_of_the_highest_likelihood(direction, T):
    X = (rng(1).standard_normal((200, 2)) * [0.5, 2.0] + [3.0, -1.0]).astype(T)
    model = lvm.PlanarFlow(0, direction=direction, standardise=False, max_epochs=60, random_state=0).fit(X)
    best = stats.norm(X.mean(0, dtype=float), X.std(0, dtype=float)).logpdf(X).sum(1)
    assert model.layers_ == ["affine"]
    assert abs(model.score(X) - best.mean()) < 1e-5
    assert_allclose(model.inverse_transform(np.zeros((1, 2), T))[0], X.mean(0), atol=1e-3)
    assert_allclose(np.diff(model.inverse_transform(np.array([[0, 0], [1, 1]], T)), axis=0)[0], X.std(0), atol=2e-3)
    assert_allclose(model.score_samples(X), best, atol=0.02)


def test_a_base_alone_finds_a_gaussian_target_and_its_constant():
    model = lvm.PlanarFlow(0, max_epochs=30, random_state=0).fit_target(quadratic, 3)
    log_z = 1.5 * np.log(2 * np.pi / 4)
    assert_allclose(model.inverse_transform(np.array([[0.0] * 3, [1.0] * 3])), [[1] * 3, [1.5] * 3], atol=0.01)
    assert_allclose(model.elbo(quadratic), log_z, atol=1e-3)
    assert_allclose(model.evidence(quadratic).log_z, log_z, atol=1e-3)
    assert_allclose(model.lower_bound_, log_z, atol=0.01)


# ------------------------------------------------------------------------------------------------ forward KL
@direction_
def test_faithful_is_as_likely_as_under_a_mixture_of_two(direction):
    X = lvm.datasets.load_faithful()
    model = lvm.PlanarFlow(max_epochs=80, direction=direction, random_state=0).fit(X)
    assert model.score(X) * 272 > -1130.26  # the best mixture of two; one Gaussian has -1289.80
    assert_allclose(model.lower_bound_, model.score(X), atol=0.02)


@direction_
@T_
def test_new_rows_of_two_moons_are_more_likely_than_under_mixtures(direction, T):
    X, new = moons(1000).astype(T), moons(1000, seed=1).astype(T)
    model = lvm.PlanarFlow(16, max_epochs=60, direction=direction, random_state=0).fit(X)
    mixtures = {K: lvm.GaussianMixture(K, random_state=0).fit(X).score(new) for K in (1, 2, 8)}
    assert model.score(new) > mixtures[2] + 0.5 > mixtures[1] + 0.5
    assert model.score(new) > mixtures[8] - 0.1


def test_the_bound_rises():
    bounds = lvm.PlanarFlow(max_epochs=30, random_state=0).fit(moons(500)).lower_bounds_
    assert bounds[-1] > bounds[0] + 0.3
    assert np.mean(bounds[-10:]) > np.mean(bounds[10:20]) > np.mean(bounds[:10])


@direction_
@T_
@pytest.mark.parametrize("N", [300, 70], ids=["batches", "one batch"])
def test_the_history_is_of_means_over_all_rows_of_an_epoch(direction, T, N):
    """As steps of 1e-12 change nothing, they are those of the model itself."""
    X = clouds(N).astype(T)
    model = small(layers=MIXED, direction=direction, batch_size=128, learning_rate=1e-12, max_epochs=3).fit(X)
    history, tol = model.history_, 1e-5 if T is np.float32 else 1e-9
    assert set(history) == {"lower_bound", "log_prior", "log_det"}
    assert_allclose(history["lower_bound"], [model.score(X)] * 3, rtol=tol)
    assert_allclose(history["log_prior"], [flow_end("normal", model.transform(X).astype(float)).mean()] * 3, rtol=tol)
    assert_allclose(np.add(history["log_prior"], history["log_det"]), history["lower_bound"], rtol=1e-12)
    assert model.lower_bounds_ == history["lower_bound"]
    assert model.lower_bound_ == model.lower_bounds_[-1]


@direction_
def test_the_history_of_a_target_is_of_means_over_draws(direction):
    model = small(direction=direction, learning_rate=1e-12, max_epochs=3, batch_size=1000).fit_target(quadratic, 3)
    history = model.history_
    assert set(history) == {"lower_bound", "log_target", "log_prior", "log_det"}
    X = model.inverse_transform(rng(4).standard_normal((100_000, 3)))
    entropy = -model.score_samples(X)
    for name, want in (("log_target", quadratic(X)[0]), ("lower_bound", quadratic(X)[0] + entropy)):
        error = want.std() * np.sqrt(1 / 100_000 + 1 / 100_000)
        assert_allclose(history[name], [want.mean()] * 3, atol=4 * error, err_msg=name)
    assert_allclose(history["log_prior"], [-1.5 * np.log(2 * np.pi * np.e)] * 3, atol=4 * np.sqrt(1.5 / 100_000))
    parts = np.add(history["log_target"], history["log_det"]) - history["log_prior"]
    assert_allclose(parts, history["lower_bound"], rtol=1e-12)


def test_the_bound_of_an_epoch_has_little_noise_where_the_flow_is_the_target():
    """Of log pi(x) - log q(x) nothing is left there, whatever z was drawn."""
    normal = lambda z: (-0.5 * (z * z).sum(1), -z)
    model = small(0, learning_rate=1e-12, max_epochs=3).fit_target(normal, 3)
    assert_allclose(model.lower_bounds_, [1.5 * np.log(2 * np.pi)] * 3, rtol=1e-9)


def test_a_target_of_another_checkpoint_is_refused(tmp_path):
    path, model = tmp_path / "a", small(1, max_epochs=2, checkpoint=tmp_path / "a", random_state=0)
    model.fit_target(lambda z: (-0.5 * ((z - 3) ** 2).sum(1), 3 - z))
    with pytest.raises(ValueError, match="target"):
        model.fit_target(lambda z: (-0.5 * ((z + 3) ** 2).sum(1), -3 - z))
    assert path.exists()


def test_a_parallel_target_is_called_outside_of_the_loop():
    """parallel=True is a user's choice here, not ours: two threads that call such a function would end the process."""
    parallel = numba.njit(parallel=True)(lambda z: (-0.5 * (z * z).sum(1), -z))
    assert lvm.kernels.load("cpu").flow.fused(parallel) is None


def test_a_model_of_a_target_that_is_0_somewhere_can_be_saved(tmp_path):
    def box(z):
        return np.where((np.abs(z) < 1).all(1), 0.0, -np.inf), np.zeros_like(z)

    model = small(2, max_epochs=2, annealing_steps=0).fit_target(box)
    assert model.lower_bound_ == -np.inf
    model.save(tmp_path / "m")
    assert lvm.load(tmp_path / "m").lower_bounds_ == model.lower_bounds_


def test_scores_are_of_the_dtype_of_rows_and_the_same_by_pieces(monkeypatch):
    model, X = small(2, max_epochs=1).fit(moons(60)), moons(100)
    whole = model.score_samples(X)
    assert model.score_samples(X.astype("float32")).dtype == np.float32
    monkeypatch.setattr(lvm.flow, "PIECE", 32)
    assert_allclose(model.score_samples(X), whole, rtol=1e-14)


@pytest.mark.parametrize(
    ("N", "batch_size", "steps"), [(50, 256, 100), (700, 256, 102), (30, 20, 100), (1100, 10, 110)]
)
def test_an_epoch_has_a_hundred_steps_or_the_passes_that_make_more(N, batch_size, steps, capsys):
    small(1, batch_size=batch_size, max_epochs=1, verbose=1).fit(moons(N))
    assert f"{steps}/{steps}" in capsys.readouterr().err
    small(1, max_epochs=1).fit(moons(50))
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------ reverse KL
@functools.cache
def energy_flow(name):
    model = lvm.PlanarFlow(32, random_state=0)
    return model.fit_target(getattr(targets, name), dtype=np.float32)


@U
def test_a_flow_comes_near_the_evidence_of_an_energy_and_never_above(name):
    target, gap = getattr(targets, name), {"U1": 0.02, "U2": 0.02, "U3": 0.05, "U4": 0.05}[name]
    model = energy_flow(name)
    assert model.u_.dtype == np.float32
    elbo, error = model.elbo(target, 100_000, return_std=True)
    assert target.log_z - gap < elbo < target.log_z + 4 * error
    assert_allclose(model.lower_bound_, elbo, atol=0.02)
    found = model.evidence(target)
    assert abs(found.log_z - target.log_z) < 4 * found.log_z_error < 0.02
    assert found.k_hat < 0.7
    assert (found.elbo, found.elbo_error) == (elbo, error)


@direction_
def test_the_bound_has_one_value_whether_from_x_or_from_z(direction):
    """E[log pi - log q] over x with the Jacobian of x -> z is E[log pi + log|det|] over z with that of z -> x."""
    model, seen = small(8, layers=MIXED, direction=direction).fit_target(targets.U3), []

    def target(x):
        seen.append(x)
        return targets.U3(x)

    elbo, error = model.elbo(target, 5000, return_std=True)
    x = np.concatenate(seen)
    per_row = targets.U3(x)[0] - model.score_samples(x)
    assert_allclose(elbo, per_row.mean(), rtol=1e-10)
    assert_allclose(error, per_row.std() / np.sqrt(5000), rtol=1e-3)
    z = model.transform(x)
    scale = [richardson(lambda t, e=e: model.inverse_transform(z[:5] + t * e), 1e-3) for e in np.eye(2)]
    log_det = np.linalg.slogdet(np.stack(scale, 2))[1]
    assert_allclose(targets.U3(x[:5])[0] + log_det - flow_end("normal", z[:5]), per_row[:5], rtol=1e-6)


def ring_by_numpy(z):
    r = np.sqrt((z**2).sum(1))
    return -(((r - 2) / 0.4) ** 2) / 2, -((r - 2) / (0.16 * r))[:, None] * z


@numba.njit
def ring_by_numba(z):
    log_pi, gradient = np.empty(len(z), z.dtype), np.empty_like(z)
    for n in range(len(z)):
        r = np.sqrt((z[n] ** 2).sum())
        log_pi[n] = -(((r - 2) / 0.4) ** 2) / 2
        gradient[n] = -(r - 2) / (0.16 * r) * z[n]
    return log_pi, gradient


@direction_
def test_a_target_of_numpy_or_numba_is_fitted_as_the_one_that_is_shipped(direction):
    make = lambda: small(3, layers=MIXED, direction=direction, max_epochs=2, batch_size=300, annealing_steps=150)
    want = make().fit_target(targets.ring, 3)
    for target in (ring_by_numpy, ring_by_numba):
        got = make().fit_target(target, 3)
        for name in ("u_", "w_", "b_", "lower_bounds_"):
            assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-7, atol=1e-9, err_msg=name)
        for name in ("log_target", "log_det"):
            assert_allclose(got.history_[name], want.history_[name], rtol=1e-7, err_msg=name)
        assert_allclose(got.elbo(target), want.elbo(targets.ring), rtol=1e-7)
    assert not np.allclose(make().set_params(annealing_steps=0).fit_target(targets.ring, 3).u_, want.u_, rtol=0.01)


def test_a_target_may_give_other_floats_in_any_memory():
    kept = np.empty((2, 256))

    def odd(z):
        log_pi, gradient = quadratic(z.astype(float))
        z[:] = np.nan  # its own to use
        kept[:, : len(z)] = gradient.T
        return log_pi.tolist(), kept[:, : len(z)].T

    plain = small(2, max_epochs=2).fit_target(quadratic, dtype=np.float32)
    model = small(2, max_epochs=2).fit_target(odd, dtype=np.float32)
    assert model.u_.dtype == np.float32
    assert_allclose(model.u_, plain.u_, atol=1e-4)


def test_annealing_gives_the_target_its_weight_little_by_little():
    """Of N(0, 1/4) with the weight beta the best sd is 1/(2 sqrt beta), so log|det| follows it down. Adam lags."""
    narrow = lambda z: (-2 * (z**2).sum(1), -4 * z)
    train = lambda **p: lvm.PlanarFlow(
        0, random_state=0, learning_rate=0.02, schedule="constant", n_epochs_no_change=None, max_epochs=20, **p
    ).fit_target(narrow, 1).history_["log_det"]  # fmt: skip
    at_once, annealed, by_default = train(annealing_steps=0), train(annealing_steps=1500), train()
    assert_allclose(at_once[5:], np.log(0.5), atol=0.05)
    beta = 0.01 + 0.99 * (100 * np.arange(20) + 50) / 1500
    assert_allclose(annealed[5:15], np.log(0.5 / np.sqrt(beta[5:15])), atol=0.05)
    assert_allclose(annealed[16:], np.log(0.5), atol=0.05)
    assert by_default[8] > np.log(0.5) + 0.01 > by_default[12]
    assert train(annealing_steps=10**9) == train(annealing_steps=2000)


def test_a_training_does_not_end_before_its_annealing():
    model = lvm.PlanarFlow(1, max_epochs=30, tol=100.0, n_epochs_no_change=2, annealing_steps=700, random_state=0)
    model.fit_target(quadratic)
    assert (model.n_iter_, model.converged_) == (7 + 4, True)


def test_elbo_and_evidence_repeat_with_an_integer_and_go_on_with_a_generator():
    model = small(base="fixed").fit_target(quadratic)
    assert model.elbo(quadratic) == model.elbo(quadratic)
    assert model.evidence(quadratic, 1000) == model.evidence(quadratic, 1000)
    assert model.evidence(quadratic, 1000).n_samples == 1000
    model.set_params(random_state=rng())
    values = [model.elbo(quadratic, 1000, return_std=True) for _ in range(200)]
    assert_allclose(np.std([v for v, _ in values]), np.mean([e for _, e in values]), rtol=0.2)


def test_more_draws_than_a_piece_are_weighed_a_piece_at_a_time():
    model, sizes = small(1, max_epochs=1).fit_target(quadratic), []

    def target(x):
        sizes.append(len(x))
        return quadratic(x)

    model.elbo(target, 140_000)
    assert sum(sizes) == 140_000
    assert max(sizes) <= 2**16


def test_the_bound_on_data_may_be_had_of_a_flow_that_was_fitted_to_them():
    """A mixture is a target as well: its log Z is 0, and the flow that was fitted to its samples is below."""
    X = clouds(2000)
    mixture = lvm.GaussianMixture(2, random_state=0).fit(X)
    model = lvm.PlanarFlow(max_epochs=60, random_state=0).fit(X)
    found = model.evidence(lambda x: (mixture.score_samples(x), np.zeros_like(x)), 20_000)
    assert -0.02 < found.elbo < 4 * found.elbo_error
    assert abs(found.log_z) < 0.005


def test_where_a_target_is_nought_the_bound_is_minus_infinity_and_log_z_is_not():
    model = small(1, max_epochs=1).fit_target(quadratic)
    half = lambda x: (np.where(x[:, 0] > 1, quadratic(x)[0], -np.inf), quadratic(x)[1])
    elbo, error = model.elbo(half, return_std=True)
    assert elbo == -np.inf
    assert np.isnan(error)
    found = model.evidence(half)
    assert abs(found.log_z - np.log(2 * np.pi / 4 / 2)) < 4 * found.log_z_error


# ------------------------------------------------------------------------------------------------ wrong targets
WRONG_TARGETS = {
    "not callable": (
        3,
        TypeError,
        "target must be callable, log_pi, gradient = target(z), got int.",
    ),
    "log pi alone": (
        lambda z: quadratic(z)[0],
        ValueError,
        "A target must give a tuple (log_pi, gradient) for z (M,D), got ndarray. Return log_pi of the shape (M,) and",
    ),
    "three": (lambda z: (*quadratic(z), 0), ValueError, "A target must give a tuple (log_pi, gradient) for z (M,D)"),
    "a column": (
        lambda z: (quadratic(z)[0][:, None], quadratic(z)[1]),
        ValueError,
        "its gradient of the shape ({M}, 2) for z of the shape ({M}, 2), got ({M}, 1) and ({M}, 2).",
    ),
    "a sum": (lambda z: (quadratic(z)[0].sum(), quadratic(z)[1]), ValueError, "got () and ({M}, 2)."),
    "turned": (lambda z: (quadratic(z)[0], quadratic(z)[1].T), ValueError, "got ({M},) and (2, {M})."),
    "its own error": (lambda z: {}["key"], KeyError, "key"),
    "another D": (
        lambda z: targets.U1(np.c_[z, z]),
        ValueError,
        "lvm.targets.U1 wants z of the shape (M,2), got ({M}, 4).",
    ),
}


@pytest.mark.parametrize("kind", WRONG_TARGETS)
def test_a_target_that_is_wrong_is_told_and_changes_nothing(kind):
    target, error, message = WRONG_TARGETS[kind]
    model = small(1, max_epochs=1).fit_target(quadratic)
    before = state(model)
    uses = {16: model.fit_target, 10_000: model.elbo, 2**16: model.evidence}
    for M, use in uses.items():
        with pytest.raises(error, match=re.escape(message.format(M=M))):
            use(target)
    assert_same_state(state(model), before)


def test_a_target_that_is_nought_or_steep_where_training_begins_is_told():
    message = (
        "The target is 0, or its gradient not finite, at draws of the standard normal, where training begins. Try to "
        "move and scale it."
    )
    for log_pi, slope in ((-np.inf, 0.0), (0.0, np.nan), (0.0, np.inf)):
        target = lambda z, f=log_pi, g=slope: (np.full(len(z), f), np.full(z.shape, g))
        model = small(1)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.fit_target(target)
        assert not state(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_target_that_is_no_number_where_training_begins_is_told(bad):
    with pytest.raises(
        ValueError, match=r"^The target gave a log_pi of NaN or infinity at a draw of the standard normal"
    ):
        small(1).fit_target(lambda z: (np.where(np.arange(len(z)) == 3, bad, 0.0), -z))


def test_log_weights_that_are_no_numbers_are_told():
    model = small(1, max_epochs=1).fit_target(quadratic)
    for use in (model.elbo, model.evidence):
        with pytest.raises(
            ValueError, match=r"^A log weight must be finite, or -inf where the target is zero, got nan"
        ):
            use(lambda z: (np.full(len(z), np.nan), z))


class Failing:
    """A target whose slopes are NaN in some of the calls."""

    def __init__(self, bad):
        self.bad, self.calls = bad, 0

    def __call__(self, z):
        self.calls += 1
        log_pi, g = quadratic(z)
        return log_pi, g * (np.nan if self.calls in self.bad else 1)


def test_a_few_slopes_that_are_not_finite_are_undone_and_told():
    model = lvm.PlanarFlow(1, max_epochs=10, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"^2 training steps had a gradient that was not finite"):
        model.fit_target(Failing((30, 500)))
    assert_allclose(model.elbo(quadratic), np.log(2 * np.pi / 4), atol=0.05)


def test_slopes_that_are_never_finite_end_the_training_and_leave_the_model_as_it_was():
    model = small(1, max_epochs=1).fit_target(quadratic)
    before = state(model)
    with pytest.raises(
        NumericalError, match=r"^Training cannot go on: of 100 steps 81 had a gradient that is not fini"
    ):
        model.fit_target(Failing(range(20 + 1, 1000)))
    assert_same_state(state(model), before)


@pytest.mark.parametrize(
    ("params", "given", "error", "message"),
    [
        (
            {},
            {"n_features": 0},
            ValueError,
            "The 'n_features' parameter of fit_target must be an integer of at least 1",
        ),
        ({}, {"n_features": 3}, ValueError, "lvm.targets.U1 wants z of the shape (M,2), got (16, 3)."),
        ({}, {"dtype": np.float16}, ValueError, "dtype must be float32 or float64, got float16."),
        ({}, {"dtype": int}, ValueError, "dtype must be float32 or float64, got int64."),
        (
            {"early_stopping": True},
            {},
            ValueError,
            "early_stopping is for `fit`: a target has no rows to hold out. Try early_stopping=False.",
        ),
    ],
)
def test_what_fit_target_cannot_use_is_told(params, given, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        small(**params).fit_target(targets.U1, **given)


def test_numbers_of_draws_that_are_refused():
    model = small(1, max_epochs=1).fit_target(quadratic)
    for use, name, low in ((model.elbo, "elbo", 2), (model.evidence, "evidence", 2)):
        for n in (1, 0, 2.0, None):
            with pytest.raises(
                ValueError, match=f"^The 'n_samples' parameter of {name} must be an integer of at least"
            ):
                use(quadratic, n)
        assert np.isfinite(use(quadratic, low) if name == "elbo" else use(quadratic, low).log_z)
    for n in (0, 1.5, None):
        with pytest.raises(ValueError, match=r"^The 'n_samples' parameter of sample must be an integer of at least 1"):
            model.sample(n)


# ------------------------------------------------------------------------------------------------ when training ends
def overfitted(**params):
    return lvm.PlanarFlow(
        16, **{"max_epochs": 40, "learning_rate": 0.02, "early_stopping": True, "random_state": 0, **params}
    )


def test_early_stopping_keeps_what_was_best_on_the_rows_held_out():
    X = moons(60)
    model = overfitted(n_epochs_no_change=5, validation_fraction=0.25).fit(X)
    bounds = model.history_["validation_lower_bound"]
    assert model.converged_
    assert model.lower_bound_ == max(bounds) > bounds[-1]
    assert model.n_iter_ == len(bounds) < 40
    held = rng(0).permutation(60)[:15]  # the first draws of the seed
    assert_allclose(model.score(X[held]), max(bounds), rtol=1e-12)
    assert model.score(X) > model.score(X[held]) + 0.1


def test_rows_held_out_are_not_seen_by_training():
    X, held = moons(60), rng(0).permutation(60)[:6]
    far = X.copy()
    far[held[0]] = [3.0, 3.0]
    a, b = (overfitted(standardise=False, max_epochs=3).fit(rows) for rows in (X, far))
    assert a.lower_bounds_ == b.lower_bounds_
    assert a.lower_bound_ > b.lower_bound_


@pytest.mark.parametrize("batch_size", [16, 256])
def test_the_held_out_bound_is_the_mean_over_all_rows_held_out(batch_size):
    X = moons(200)
    model = overfitted(learning_rate=1e-12, max_epochs=2, batch_size=batch_size, validation_fraction=0.3).fit(X)
    held = rng(0).permutation(200)[:60]
    assert_allclose(model.history_["validation_lower_bound"], [model.score(X[held])] * 2, rtol=1e-9)


def test_a_fit_with_all_rows_held_out_is_refused():
    message = r"^validation_fraction=0\.9 leaves no rows to fit of 2\.$"
    with pytest.raises(ValueError, match=message):
        overfitted(validation_fraction=0.9).fit(moons(2))


def test_training_ends_when_the_bound_has_stopped_rising_or_after_all_epochs():
    model = small(1, max_epochs=50, n_epochs_no_change=2, tol=100.0).fit(moons(60))
    assert (model.n_iter_, model.converged_) == (4, True)
    model = small(1, max_epochs=5, n_epochs_no_change=3, tol=100.0).fit(moons(60))
    assert (model.n_iter_, model.converged_) == (5, False)
    model = small(1, max_epochs=5, n_epochs_no_change=None, tol=100.0).fit(moons(60))
    assert (model.n_iter_, model.converged_) == (5, True)


@pytest.mark.parametrize("direction", ["normalising", "generative"])
@pytest.mark.parametrize("layers", ["planar", "radial", "affine"])
@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e30), ("float64", 1e200)])
def test_rows_far_out_are_not_nan(layers, direction, dtype, far):
    """Their squares overflow: log q is -inf, and z and back are still right."""
    model = small(3, layers=layers, direction=direction, max_epochs=1).fit(moons(60).astype(dtype))
    X = np.array([[far, 1], [1, -far], [far, far]], dtype)
    assert (model.score_samples(X) == -np.inf).all()
    assert_allclose(model.inverse_transform(model.transform(X)), X, rtol=1e-5, atol=1e-5 * far)


def test_a_callback_sees_each_epoch_and_may_end_the_training():
    seen = []
    model = small(1, max_epochs=50, callback=lambda *a: seen.append(a) or len(seen) == 3).fit(moons(60))
    assert [e for e, _ in seen] == [1, 2, 3]
    assert (model.n_iter_, model.converged_) == (3, False)
    assert {name: [v[name] for _, v in seen] for name in seen[0][1]} == model.history_


def test_a_rate_that_blows_up_is_an_error_and_a_clipped_gradient_is_none():
    X = moons(100).astype(np.float32)
    with np.errstate(all="ignore"), pytest.raises(NumericalError, match=r"from 1e\+30\. Try a smaller learning_rate"):
        small(learning_rate=1e30).fit(X)
    a, b = (small(1, max_epochs=1, clip_norm=c).fit(X) for c in (1e9, 1e-9))
    assert_array_equal(a.u_, small(1, max_epochs=1).fit(X).u_)
    assert np.any(a.u_ != b.u_)


# ------------------------------------------------------------------------------------------------ checkpoints
TRAININGS = {
    "fit": lambda m: m.fit(moons(300)),
    "early stopping": lambda m: m.set_params(early_stopping=True).fit(moons(300)),
    "energy": lambda m: m.fit_target(targets.U2, dtype=np.float32),
    "target": lambda m: m.fit_target(quadratic),
}


@pytest.mark.parametrize("how", TRAININGS)
def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped(how, tmp_path):
    make = lambda epochs=99, **p: small(**{"max_epochs": 8, "callback": lambda n, _: n >= epochs, **p})
    want = TRAININGS[how](make())
    assert TRAININGS[how](make(3, checkpoint=tmp_path / "c")).n_iter_ == 3
    got = TRAININGS[how](make(checkpoint=tmp_path / "c"))
    assert got.n_iter_ == 8
    assert_same_state(state(got), state(want))
    again = TRAININGS[how](make(checkpoint=tmp_path / "c", callback=lambda *_: 1 / 0))
    assert_same_state(state(again), state(want))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path, X = tmp_path / "c", moons(100)
    make = lambda **p: small(**{"n_layers": 1, "standardise": False, "max_epochs": 2, "checkpoint": path, **p})
    make().fit(X)
    said = "^The checkpoint '.*c' is of another training: "
    for name, value in (
        ("learning_rate", 0.1),
        ("n_layers", 2),
        ("layers", "radial"),
        ("base", "fixed"),
        ("standardise", True),
        ("direction", "generative"),
        ("batch_size", 50),
        ("max_epochs", 3),
        ("schedule", "constant"),
        ("early_stopping", True),
        ("random_state", 1),
        ("clip_norm", 1.0),
    ):
        with pytest.raises(ValueError, match=said):
            make(**{name: value}).fit(X)
    for other in (X + 1, X * 2, X[:99], X.astype(np.float32), X[:, :1]):
        with pytest.raises(ValueError, match=said):
            make().fit(other)
    with pytest.raises(ValueError, match=said):
        make().fit_target(quadratic)
    make(direction="normalising").fit(X)  # as it was
    path.unlink()
    make(base="fixed").fit(X)
    with pytest.raises(ValueError, match=said + "direction is 'normalising' there and 'generative' here"):
        make(base="fixed", direction="generative").fit(X)
    path.unlink()
    make().fit_target(targets.U1)
    for use in (
        lambda: make().fit_target(targets.U2),
        lambda: make().fit_target(quadratic),
        lambda: make(annealing_steps=7).fit_target(targets.U1),
        lambda: make(batch_size=50).fit_target(targets.U1),
        lambda: make(random_state=1).fit_target(targets.U1),
        lambda: make().fit_target(targets.U1, dtype=np.float32),
    ):
        with pytest.raises(ValueError, match=said):
            use()
    with pytest.raises(ValueError, match=r"^A checkpoint needs the same noise again\. Try an integer random_state\.$"):
        make(random_state=None).fit(X)


# ------------------------------------------------------------------------------------------------ Ctrl-C
@pytest.mark.parametrize("how", ["fit", "target"])
def test_ctrl_c_at_any_line_leaves_the_last_whole_epoch_or_nothing(how, monkeypatch):
    monkeypatch.setattr(lvm.flow, "STEPS", 4)  # of an epoch
    X = moons(60)
    use = lambda m: m.fit(X) if how == "fit" else m.fit_target(quadratic)
    make = lambda epochs=3: small(1, max_epochs=3, callback=lambda n, _: n >= epochs)
    ends = [state(use(make(n))) for n in (1, 2, 3)]
    other = make().fit(moons(60, seed=9))
    before, kept, line, raised = state(other), 0, 0, True
    while raised is not False:
        line += 3 if line > 60 else 1
        model = copy.copy(other)
        raised = interrupted_at("flow", line, lambda m=model: use(m))
        assert raised is not None, f"swallowed at {line}"
        now = state(model)
        if now["lower_bounds_"] == before["lower_bounds_"]:
            assert_same_state(now, before)
            continue
        kept += raised
        assert_same_state(now, ends[now["n_iter_"] - 1])
    assert kept > 20


def test_ctrl_c_says_where_it_stopped():
    calls = []

    def target(z):
        calls.append(len(z))
        if len(calls) == 1 + 250:
            raise KeyboardInterrupt
        return quadratic(z)

    model = small(1)
    with pytest.raises(KeyboardInterrupt, match=r"^fit was stopped; the model is that of epoch 2$"):
        model.fit_target(target)
    assert (model.n_iter_, len(model.lower_bounds_)) == (2, 2)


# ------------------------------------------------------------------------------------------------ seeds and arrays
@pytest.mark.parametrize("how", TRAININGS)
def test_a_seed_repeats_and_another_does_not(how):
    a, b, c = (state(TRAININGS[how](small(1, max_epochs=2, random_state=seed))) for seed in (4, rng(4), 5))
    assert_same_state(a, b)
    assert np.all(a["u_"] != c["u_"])


@direction_
def test_any_number_of_threads_gives_the_same_bits(direction):
    X, found = clouds(5000, 20), []
    try:
        for threads in (1, 2, 7):
            lvm.set_num_threads(threads)
            model = small(8, layers=MIXED, direction=direction, batch_size=5000, max_epochs=1).fit(X)
            bound = small(8, direction=direction, batch_size=3000, max_epochs=1).fit_target(targets.ring, 20)
            found.append({**state(model), "score": model.score_samples(X), "u_of_ring": bound.u_})
    finally:
        lvm.set_num_threads(None)
    assert_same_state(found[0], found[1])
    assert_same_state(found[0], found[2])


def test_rows_may_lie_anywhere_in_memory_and_are_left_alone(tmp_path):
    X = clouds()
    want = small(batch_size=100).fit(X)
    frozen = X.copy()
    frozen.setflags(write=False)
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    mapped = np.memmap(tmp_path / "X", X.dtype, "r", shape=X.shape)
    for other in (frozen, mapped, np.asfortranarray(X), X.astype(">f8"), X.tolist(), X.astype(object)):
        got = small(batch_size=100).fit(other)
        assert_same_state(state(got), state(want))
        assert_array_equal(got.score_samples(other), want.score_samples(X))
        assert_array_equal(got.inverse_transform(got.transform(other)), want.inverse_transform(want.transform(X)))
    assert_array_equal(frozen, clouds())
    whole = small().fit(X)  # all in one batch
    assert_same_state(state(small().fit(frozen)), state(whole))
    rows = X.astype(np.float32)
    low = small(batch_size=100).fit(rows)
    assert_array_equal(rows, X.astype(np.float32))
    for a in (
        low.u_,
        low.w_,
        low.b_,
        low.mean_,
        low.scale_,
        low.transform(rows),
        low.score_samples(rows),
        low.sample(3),
    ):
        assert a.dtype == np.float32
    assert_allclose(low.score(X), want.score(X), atol=0.05)
    assert low.score_samples(X).dtype == low.inverse_transform(X).dtype == np.float64


def test_data_frames_give_and_get_names():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(clouds(), columns=["a", "b"], index=np.arange(300) + 7)
    model = small(1).set_output(transform="pandas").fit(X)
    Z = model.transform(X)
    assert list(model.feature_names_in_) == ["a", "b"]
    assert list(Z.columns) == list(model.get_feature_names_out()) == ["planarflow0", "planarflow1"]
    assert list(Z.index) == list(X.index)
    assert_array_equal(Z.to_numpy(), small(1).fit(clouds()).transform(clouds()))
    assert_array_equal(model.inverse_transform(Z.to_numpy()), small(1).fit(clouds()).inverse_transform(Z.to_numpy()))


def test_z_of_another_width_is_refused():
    model = small(1).fit(clouds())
    for use in (model.inverse_transform, model.warp):
        with pytest.raises(ValueError, match=r"^Z must have 2 columns, as X has, got 3\.$"):
            use(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"^X has 3 features, but PlanarFlow is expecting 2 features as input"):
        model.score_samples(np.zeros((4, 3)))


# ------------------------------------------------------------------------------------------------ hostile data
HOSTILE = {
    "a constant column": lambda X: np.column_stack([X[:, 0], np.full(len(X), 0.1)]),
    "one point": lambda X: np.full((50, 2), 0.1),
    "two points": lambda X: np.tile(X[:2], (40, 1)),
    "two rows": lambda X: X[:2],
    "one column": lambda X: X[:, :1],
    "30 columns": lambda X: np.tile(X, 15) + rng(1).standard_normal((len(X), 30)),
    "fewer rows than columns": lambda X: rng(1).standard_normal((7, 30)),
    "far away": lambda X: X + 1e8,
    "tiny": lambda X: X * 1e-6,
    "next to nothing": lambda X: X * 1e-300,
    "large": lambda X: X * 1e30,
    "one far row": lambda X: np.where(np.arange(len(X))[:, None] == 3, 1e9, X),
    "integers": lambda X: np.round(X).astype(int),
}


@direction_
@pytest.mark.parametrize("layers", ["planar", MIXED], ids=str)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_data_are_fitted(kind, layers, direction):
    X = HOSTILE[kind](rng().standard_normal((200, 2)))
    model = small(layers=layers, direction=direction, max_epochs=8).fit(X)
    assert_sound(model, X)
    again = model.inverse_transform(model.transform(X))
    assert np.abs(again - X).max() < 1e-12 * max(np.abs(X).max(), 1e-3)


@T_
@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("unit", [1e-200, 1e30, 1e160, 1e200, 1e307])
def test_data_of_any_unit_are_fitted_or_refused(unit, standardise, T):
    with np.errstate(all="ignore"):
        X = (rng().standard_normal((100, 2)) * unit).astype(T)
    model = small(standardise=standardise)
    try:
        model.fit(X)
    except ValueError as e:
        assert unit > 1
        assert "scal" in str(e)  # noqa: PT017
        assert not state(model)
        return
    assert unit < 1e160
    assert_sound(model, X)


def test_rows_that_vary_too_much_are_told():
    for X, T in ((moons(50) * 1e200, "float64"), (moons(50).astype(np.float32) * np.float32(1e-42), "float32")):
        with pytest.raises(ValueError, match=rf"^X varies too much, or too little, for {T}\. Try scaling X\.$"):
            small().fit(X)


def test_few_rows_and_gaps_are_refused():
    with pytest.raises(ValueError, match="minimum of 2 is required by PlanarFlow"):
        small().fit(moons(1))
    X = moons(20)
    X[3, 1] = np.nan
    model = small(1).fit(moons(20))
    for use in (small().fit, model.score_samples, model.transform, model.inverse_transform, model.warp):
        with pytest.raises(ValueError, match=r"^Input X contains NaN\. The first one is at row 3, column 1"):
            use(X)


def test_a_point_far_out_has_next_to_no_density():
    for direction in ("normalising", "generative"):
        model, X = trained(direction, layers="planar")
        far = np.array([[1e9, 1.0], [1e100, -1e100], [1e200, 0.0]])
        score = model.score_samples(far)
        assert np.all(np.diff(np.append(model.score_samples(X).min(), score)) < 0)
        assert score[2] == -np.inf


# ------------------------------------------------------------------------------------------------ parameters
WRONG = {
    "n_layers": [-1, 1.5, None, "4", True],
    "layers": ["linear", ("planar", "linear"), (), 3, None, ["planar", 1], {"planar"}],
    "base": ["none", None, 1],
    "standardise": [1, None],
    "direction": ["x", None, 1],
    "batch_size": [0, 1.0, None],
    "max_epochs": [0, 1.0, None],
    "learning_rate": [0, -1, np.nan, np.inf, "x", None],
    "schedule": ["linear", None],
    "early_stopping": [1, None],
    "validation_fraction": [0, 1, 1.5, np.nan, None],
    "n_epochs_no_change": [0, 1.5, "x"],
    "tol": [-1, np.nan, None],
    "clip_norm": [0, -1, np.nan, "x"],
    "annealing_steps": [-1, 1.5, "x"],
    "random_state": [-1, 1.5, "x"],
    "device": ["gpu", None, 1],
    "verbose": [-1, "x", None],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parameters_are_refused_by_name_and_change_nothing(name):
    model = small(1, max_epochs=1).fit(moons(20))
    before = state(model)
    said = (
        f"^{name} must be " if name in ("random_state", "device") else f"^The '{name}' parameter of PlanarFlow must be "
    )
    for value in WRONG[name]:
        model.set_params(**{name: value})
        for use in (lambda: model.fit(moons(20)), lambda: model.fit_target(quadratic)):
            with pytest.raises((ValueError, TypeError), match=said):
                use()
    assert_same_state(state(model), before)


def test_a_flow_of_no_layers_needs_its_base():
    with pytest.raises(
        ValueError, match=r"^The 'n_layers' parameter of PlanarFlow must be an integer of at least 1, got"
    ):
        small(0, base="fixed").fit(moons(20))


def test_a_second_fit_leaves_nothing_of_the_first():
    pandas = pytest.importorskip("pandas")
    model = small(3, early_stopping=True).fit(pandas.DataFrame(moons(60), columns=["a", "b"]))
    model.set_params(n_layers=1, early_stopping=False).fit_target(quadratic, 3)
    assert_same_state(state(model), state(small(1).fit_target(quadratic, 3)))


@T_
def test_a_pickle_and_a_file_answer_the_same_bits(tmp_path, T):
    for direction in ("normalising", "generative"):
        model, X = trained(direction, T)
        model.save(tmp_path / "m")
        for twin in (pickle.loads(pickle.dumps(model)), lvm.load(tmp_path / "m")):
            for method in ("transform", "score_samples", "inverse_transform", "warp"):
                assert_array_equal(getattr(twin, method)(X), getattr(model, method)(X))
            assert_array_equal(twin.sample(5), model.sample(5))
            assert twin.elbo(targets.U1) == model.elbo(targets.U1)


def test_a_fit_in_another_thread_at_the_same_time_gives_the_same_bits():
    from concurrent.futures import ThreadPoolExecutor

    want = [state(small(random_state=seed).fit(moons(300))) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: state(small(random_state=seed).fit(moons(300))), range(3)))
    for a, b in zip(want, found):
        assert_same_state(a, b)


def test_a_checkpoint_is_written_while_training_goes_on(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(fit, "EVERY", -1.0)
    small(1, checkpoint=tmp_path / "c", callback=lambda *_: there.append((tmp_path / "c").exists())).fit(moons(50))
    assert there == [True] * 4
