"""Gradients of the bound: kernels against slow NumPy, estimators against closed forms, fits, and what errors say."""

import math
import threading
import tracemalloc
import warnings

import numba
import numpy as np
import pytest
from gradcheck import complex_step, richardson
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal
from reference import distribution_factor, distribution_log_prob
from scipy import optimize, special, stats
from threads import assert_same_on_threads

import lvm
from lvm.distributions import (
    Exponential,
    Laplace,
    MultivariateNormal,
    Normal,
    NormalMixture,
    Uniform,
    Weibull,
)
from lvm.estimator import ConvergenceWarning, NumericalError
from lvm.gradients import ESTIMATORS, _settled, _threaded, check_gradient, compare, estimate, fit_q
from lvm.objectives.gradients import Bound
from lvm.parameters import Parameters

MEAN = np.array([0.3, -0.8, 0.5])
ROOT = np.array([[1.2, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.3, 0.5, 1.1]])
PRECISION = ROOT @ ROOT.T
LOG_Z = 1.5 * math.log(2 * math.pi) - np.log(np.diag(ROOT)).sum()
HALF_LOG_2PI_E = 0.5 * math.log(2 * math.pi * math.e)
WITHOUT_SLOPES = ESTIMATORS[:4]
NOISELESS = ("leave_one_out", "control_variate", "path")  # at the posterior, where f is a constant
MIXTURE = NormalMixture([0.5, 0.2, 0.3], [[-1.0, 0.5], [2.0, 1.0], [0.3, -1.5]], [[0.6, 1.2], [1.0, 0.4], [0.8, 0.9]])
DIAGONAL = Normal([0.1, -0.5, 0.9], [0.6, 0.9, 0.5])
FULL = MultivariateNormal([0.1, -0.5, 0.9], [[0.9, 0, 0], [-0.4, 0.8, 0], [0.2, 0.3, 0.6]])
WEIBULL = Weibull([0.5, 2.0], [0.9, 3.0])


def rng(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------------ log-densities
def gaussian(z):
    """-(z - MEAN)' PRECISION (z - MEAN)/2, whose integral is e^LOG_Z."""
    slope = (MEAN - z) @ PRECISION
    return 0.5 * (slope * (z - MEAN)).sum(1), slope


@numba.njit
def gaussian_by_numba(z):
    log_p, slope = np.zeros(len(z)), np.zeros(z.shape)
    for n in range(len(z)):
        for i in range(3):
            for j in range(3):
                slope[n, i] -= PRECISION[i, j] * (z[n, j] - MEAN[j])
            log_p[n] += 0.5 * slope[n, i] * (z[n, i] - MEAN[i])
    return log_p, slope


def bump(z):
    """Smooth, and not a sum over the columns."""
    square = 1 + (z * z).sum(1)
    return -np.log(square), -2 * z / square[:, None]


def decay(z):
    """-z/s, s = 0.7 and 2."""
    return -(z / [0.7, 2.0]).sum(1), np.broadcast_to([-1 / 0.7, -1 / 2.0], z.shape)


# ------------------------------------------------------------------------------------------- kernels and what is slow
def per_sample(q, z, log_p, G, c):
    """f = log p - log q (n,), and what each sample gives to each estimator, {name: (n,P)}."""
    flat = lambda parts: np.column_stack([a.reshape(len(z), -1) for a in parts.values()])
    of_z, of_theta = q.log_prob_gradients(z)
    s, p, f = flat(of_theta), flat(q.pull(z, G - of_z)), (log_p - q.log_prob(z))[:, None]
    others = np.array([np.delete(f, i).mean() for i in range(len(f))])[:, None]
    return f[:, 0], {
        "score": s * f,
        "score_minus_one": s * (f - 1),
        "leave_one_out": s * (f - others),
        "control_variate": s * (f - c),
        "reparameterisation": p - s,
        "path": p,
        "square": s * s,
        "square_f": s * s * f,
    }


@pytest.mark.parametrize("q", [DIAGONAL, FULL, MIXTURE, WEIBULL], ids=["diagonal", "full", "mixture", "weibull"])
def test_moments_are_those_of_slow_numpy(k, q):
    """300 samples are two tiles and a part of one."""
    n, D, P = 300, q.n_features, sum(a.size for a in q.parameters.values())
    z = q.sample(n, random_state=1)
    log_p, G, c = 3 * rng().standard_normal(n), rng(1).standard_normal((n, D)), rng(2).standard_normal(P)
    f, want = per_sample(q, z, log_p, G, c)
    E = len(k.gradients.ESTIMATORS)
    args = k.distributions.KINDS.index(q._kind), q._table, np.ascontiguousarray(z.T), log_p
    value, mean, M2 = np.full(2, np.nan), np.full((E, P), np.nan), np.full((E, P), np.nan)
    k.gradients.moments(*args, G, np.arange(E), c, value, mean, M2)
    assert_allclose(value, [f.mean(), ((f - f.mean()) ** 2).sum()], rtol=1e-12)
    for e, name in enumerate(k.gradients.ESTIMATORS):
        size = np.abs(want[name]).max()
        assert_allclose(mean[e], want[name].mean(0), rtol=1e-12, atol=1e-12 * size, err_msg=name)
        assert_allclose(M2[e], ((want[name] - want[name].mean(0)) ** 2).sum(0), rtol=1e-12, err_msg=name)
    some = np.array([k.gradients.ESTIMATORS.index(name) for name in ("square_f", "score")])  # and these without slopes
    mean, M2 = mean[:2], M2[:2]
    k.gradients.moments(*args, np.empty((0, D)), some, c, value, mean, M2)
    assert_allclose(mean, [want["square_f"].mean(0), want["score"].mean(0)], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("q", [DIAGONAL, MIXTURE], ids=["diagonal", "mixture"])
def test_draws_are_the_distributions(k, q):
    noise = q._noise(300, 5)
    X, Z = np.full((q.n_features, 300), np.nan), np.full((300, q.n_features), np.nan)
    k.gradients.draw(k.distributions.KINDS.index(q._kind), q._table, np.ascontiguousarray(noise.T), X, Z)
    assert_array_equal(X.T, Z)
    assert_allclose(Z, q.transform(noise), rtol=1e-14)


@pytest.mark.parametrize(
    ("n", "T", "tol"),
    [(n, np.float64, 1e-11) for n in (2, 4095, 4097, 8191, 8193, 12_500)] + [(5000, np.float32, 1e-4)],
)
def test_an_estimate_is_the_mean_over_the_samples_that_log_p_saw(n, T, tol):
    seen = []

    def log_p(z):
        seen.append(z.copy())
        return gaussian(z)

    found = compare(log_p, DIAGONAL, n, dtype=T, random_state=0).gradients
    _, pilot, *blocks = seen  # the first call only asks whether there are slopes
    assert {z.dtype for z in blocks} == {np.dtype(T)}
    assert [len(z) for z in blocks] == [4096] * (n // 4096 - 1) + [n if n < 8192 else 4096 + n % 4096]
    _, parts = per_sample(DIAGONAL, pilot, *gaussian(pilot), 0.0)
    c = parts["square_f"].mean(0) / parts["square"].mean(0)
    each = [per_sample(DIAGONAL, z, *gaussian(z), c) for z in blocks]
    f = np.concatenate([f for f, _ in each])
    for name, g in found.items():
        samples = np.concatenate([parts[name] for _, parts in each])
        flat = lambda parts: np.concatenate([parts["mean"], parts["log_scale"]])
        variance = samples.var(0, ddof=1)
        assert_allclose(
            flat(g.gradient), samples.mean(0), rtol=tol, atol=0.1 * tol * np.abs(samples).max(), err_msg=name
        )
        assert_allclose(flat(g.variance), variance, rtol=tol, err_msg=name)
        assert_allclose(flat(g.error), np.sqrt(variance / n), rtol=tol, err_msg=name)
        assert_allclose(g.total_variance, variance.sum(), rtol=tol)
        assert_allclose([g.value, g.value_error], [f.mean(), f.std(ddof=1) / math.sqrt(n)], rtol=tol)
        assert (g.estimator, g.n_samples) == (name, n)


def test_means_of_float32_samples_are_not_rounded_to_float32():
    """At 1e6 the numbers of float32 are 1/16 apart."""
    seen = []

    def log_p(z):
        value, slope = gaussian(z)
        seen.append((value + 1e6).astype(z.dtype) - DIAGONAL.log_prob(z).astype(z.dtype))
        return value + 1e6, slope

    found = estimate(log_p, DIAGONAL, "path", 5000, dtype=np.float32, random_state=0)
    f = seen[0].astype(float)
    assert_allclose(found.value, f.mean(), rtol=0, atol=1e-4)
    assert_allclose(found.value_error, f.std(ddof=1) / math.sqrt(5000), rtol=1e-5)


def test_blocks_of_many_parameters_are_small():
    q, sizes = MultivariateNormal(np.zeros(100), np.eye(100)), []

    def log_p(z):
        sizes.append(len(z))
        return -0.5 * (z**2).sum(1), -z

    found = estimate(log_p, q, "path", 200, random_state=0)
    assert sizes == [64, 64, 72]
    assert found.gradient["factor"].shape == (5050,)
    assert found.total_variance < 1e-20


SMOOTH = {  # others are compiled of the same lines, and test_distributions.py has their slopes
    "normal": DIAGONAL,
    "full": FULL,
    "uniform": Uniform([-1.0, 0.2], [0.5, 3.0]),
    "exponential": Exponential([0.5, 2.0]),
    "laplace": Laplace([0.3, -1.2], [0.5, 2.0]),
    "weibull": WEIBULL,
}


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_reparameterised_gradient_is_that_of_the_value_at_the_same_noise(kind):
    q = SMOOTH[kind]
    found = estimate(bump, q, "reparameterisation", 200, random_state=0)
    for name, theta in q.parameters.items():
        v = rng(3).standard_normal(theta.shape)
        value = lambda t, n=name, x=theta, v=v: estimate(
            bump, q.replaced({n: x + t * v}), random_state=0, n_samples=200
        )
        want = richardson(lambda t, f=value: f(t).value)
        assert_allclose((found.gradient[name] * v).sum(), want, rtol=1e-9, atol=1e-9, err_msg=name)


# ------------------------------------------------------------------------------------------------------- closed forms
def diagonal_bound(t):
    away, variance = t["mean"] - MEAN, np.exp(2 * t["log_scale"])
    quadratic = away @ PRECISION @ away + np.diag(PRECISION) @ variance
    return -0.5 * quadratic + t["log_scale"].sum() + 3 * HALF_LOG_2PI_E


def full_bound(t):
    away, L = t["mean"] - MEAN, distribution_factor(t)
    quadratic = away @ PRECISION @ away + ((PRECISION @ L) * L).sum()
    return -0.5 * quadratic + np.log(np.diag(L)).sum() + 3 * HALF_LOG_2PI_E


def exponential_bound(t):
    return -(np.exp(t["log_scale"]) / [0.7, 2.0]).sum() + (1 + t["log_scale"]).sum()


def weibull_mean(t):
    return np.exp(t["log_scale"] + special.loggamma(1 + np.exp(-t["log_shape"])))


def weibull_entropy(t):
    return (np.euler_gamma * (1 - np.exp(-t["log_shape"])) + t["log_scale"] - t["log_shape"] + 1).sum()


def uniform_bound(t):
    low, high = t["low"], t["low"] + np.exp(t["log_width"])
    return -((low**2 + low * high + high**2) / 6).sum() + t["log_width"].sum()


def mixture_bound(t):
    """By a sum on a fine grid."""
    z = np.linspace(-15, 15, 3001)[:, None]
    log_q = distribution_log_prob("NormalMixture", t, z)
    return 0.01 * (np.exp(log_q) * (bump(z)[0] - log_q)).sum()


BOUNDS = {  # q, log p, and E_q[log p - log q] by q's parameters
    "diagonal": (DIAGONAL, gaussian_by_numba, diagonal_bound),
    "full": (FULL, gaussian_by_numba, full_bound),
    "exponential": (Exponential([1.0, 0.5]), decay, exponential_bound),
    "weibull": (WEIBULL, decay, lambda t: -(weibull_mean(t) / [0.7, 2.0]).sum() + weibull_entropy(t)),
    "uniform": (
        Uniform([-1.0, 0.2], [0.5, 3.0]),
        lambda z: (-0.5 * (z * z).sum(1), -z),
        uniform_bound,
    ),
    "mixture": (NormalMixture([0.3, 0.7], [[-1.0], [1.5]], [[0.6], [1.0]]), bump, mixture_bound),
}


def exact_gradient(bound, q):
    theta = q.parameters
    return {name: complex_step(lambda a, n=name: bound({**theta, n: a}), theta[name]) for name in theta}


@pytest.mark.parametrize("case", BOUNDS)
def test_every_estimator_is_unbiased(case):
    q, log_p, bound = BOUNDS[case]
    found, want = compare(log_p, q, 1_000_000, random_state=0), exact_gradient(bound, q)
    assert list(found.gradients) == (["reparameterisation"] if case == "uniform" else list(ESTIMATORS))
    for name, g in found.gradients.items():
        assert abs(g.value - bound(q.parameters)) < 4 * g.value_error < 0.02
        assert list(g.gradient) == list(g.error) == list(g.variance) == list(want)
        for key, exact in want.items():
            assert g.gradient[key].shape == exact.shape
            assert (np.abs(g.gradient[key] - exact) <= 4 * g.error[key] + 1e-12).all(), (name, key)
            assert (g.error[key] < 0.05).all(), (name, key)


def test_variances_are_those_of_closed_forms():
    """f = log p - log q = F + a s t at z = m + s t; the slopes of log q are t/s and t² - 1.

    E[t² f²]/s² - a² = F²/s² + 2 a²,  E[(t² - 1)² f²] = 2 F² + 10 a² s²; the best constants c take F off."""
    a, F, m, s = 1.3, 1.7, 0.8, 0.6
    q = Normal(m, s)
    log_p = lambda z: (q.log_prob(z) + F + a * (z[:, 0] - m), q.log_prob_gradients(z)[0] + a)
    score = lambda F: [F**2 / s**2 + 2 * a**2, 2 * F**2 + 10 * a**2 * s**2]
    want = {
        "score": score(F),
        "score_minus_one": score(F - 1),
        "leave_one_out": score(0),
        "control_variate": score(0),
        "reparameterisation": [1 / s**2, a**2 * s**2 + 2],
        "path": [0, a**2 * s**2],
    }
    for name, g in compare(log_p, q, 1_000_000, random_state=0).gradients.items():
        got = [g.variance["mean"][0], g.variance["log_scale"][0]]
        assert_allclose(got, want[name], rtol=0.03, atol=1e-20, err_msg=name)


def test_standard_errors_are_those_of_repetitions():
    """The squares of 200 standardised errors sum to a chi-square of 200 degrees."""
    want, generator = exact_gradient(diagonal_bound, DIAGONAL), rng(4)
    founds = [compare(gaussian, DIAGONAL, 5000, random_state=generator).gradients for _ in range(200)]
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], 200)
    for name in ESTIMATORS:
        for key in want:
            t = np.array([(f[name].gradient[key] - want[key]) / f[name].error[key] for f in founds])
            assert ((low < (t**2).sum(0)) & ((t**2).sum(0) < high)).all(), (name, key)
    value = diagonal_bound(DIAGONAL.parameters)
    t = np.array([(f["path"].value - value) / f["path"].value_error for f in founds])
    assert low < (t**2).sum() < high


POSTERIORS = {
    "diagonal": (Normal(MEAN, [0.5, 1.0, 2.0]), lambda z: 0.5 * ((z - MEAN) * (MEAN - z) / [0.25, 1, 4]).sum(1)),
    "full": (MultivariateNormal.from_covariance(MEAN, np.linalg.inv(PRECISION)), lambda z: gaussian(z)[0]),
    "laplace": (Laplace(MEAN, [0.5, 1.0, 2.0]), lambda z: -np.abs((z - MEAN) / [0.5, 1, 2]).sum(1)),
    "weibull": (WEIBULL, lambda z: WEIBULL(z)[0]),
    "mixture": (MIXTURE, lambda z: MIXTURE(z)[0]),
}
SLOPES = {
    "diagonal": lambda z: (MEAN - z) / [0.25, 1, 4],
    "full": lambda z: gaussian(z)[1],
    "laplace": lambda z: np.sign(MEAN - z) / [0.5, 1, 2],
    "weibull": lambda z: WEIBULL(z)[1],
    "mixture": lambda z: MIXTURE(z)[1],
}
NORMALISERS = {"diagonal": 1.5 * math.log(2 * math.pi), "full": LOG_Z, "laplace": math.log(8)}
NORMALISERS |= {"weibull": 0.0, "mixture": 0.0}


@pytest.mark.parametrize("case", POSTERIORS)
def test_the_path_derivative_is_0_for_each_sample_at_the_posterior(case):
    q, log_p = POSTERIORS[case]
    found = estimate(lambda z: (log_p(z), SLOPES[case](z)), q, "path", 10_000, random_state=0)
    assert found.total_variance < 1e-20
    for g in found.gradient.values():
        assert np.abs(g).max() < 1e-12
    assert_allclose(found.value, NORMALISERS[case], rtol=1e-12, atol=1e-14)
    assert found.value_error < 1e-14


@pytest.mark.parametrize(("estimator", "n"), [("control_variate", 4), ("leave_one_out", 2), ("score", 2)])
def test_few_samples_make_no_bias(estimator, n):
    """f = z, of gradient 1 in the mean: with c of the same 4 samples it would be about 1 - 3/4."""
    log_p, q, generator = lambda z: -0.5 * z[:, 0] ** 2 + z[:, 0], Normal(0.0, 1.0), rng(5)
    means = [estimate(log_p, q, estimator, n, random_state=generator).gradient["mean"][0] for _ in range(4000)]
    error = np.std(means) / math.sqrt(len(means))
    assert abs(np.mean(means) - 1) < 4 * error < 0.2


# ----------------------------------------------------------------------------------------- the same, whatever the way
def test_compare_is_estimate_for_each_by_the_same_samples():
    found = compare(gaussian, DIAGONAL, 5000, random_state=3)
    assert found.refused == {}
    for name, g in found.gradients.items():
        alone = estimate(gaussian, DIAGONAL, name, 5000, random_state=3)
        assert alone.value == g.value
        for key in g.gradient:
            assert_allclose(alone.gradient[key], g.gradient[key], rtol=1e-12, atol=1e-14)
            assert_allclose(alone.error[key], g.error[key], rtol=1e-12, atol=1e-14)


def flat(found):
    return [np.concatenate([a.ravel() for a in (*g.gradient.values(), *g.error.values())]) for g in found.values()]


def test_bits_do_not_depend_on_threads():
    assert_same_on_threads(lambda: flat(compare(gaussian_by_numba, FULL, 40_000, random_state=0).gradients))


def test_only_what_numba_compiled_is_called_on_several_threads():
    """parallel=True is a user's choice: two threads that call such a function would end the process."""
    seen = set()

    def log_p(z):
        seen.add(threading.get_ident())
        return gaussian(z)

    lvm.set_num_threads(4)
    try:
        compare(log_p, FULL, 40_000, random_state=0)
    finally:
        lvm.set_num_threads(None)
    assert seen == {threading.get_ident()}
    assert _threaded(gaussian_by_numba)
    assert not _threaded(numba.njit(parallel=True)(lambda z: z[:, 0]))


def test_numba_and_numpy_functions_give_the_same():
    by_numpy, by_numba = (compare(f, FULL, 20_000, random_state=0).gradients for f in (gaussian, gaussian_by_numba))
    for a, b in zip(flat(by_numpy), flat(by_numba)):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_memory_does_not_grow_with_the_samples():
    compare(gaussian, FULL, 10_000, random_state=0)
    tracemalloc.start()
    try:
        compare(gaussian, FULL, 1_000_000, random_state=0)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_samples_where_q_has_no_density_in_float64_are_told():
    """A sample of Weibull(1, 0.01) is e^(100 log w), often beyond the smallest number: log q is -inf at 0."""
    with pytest.raises(
        NumericalError, match=r"log p - log q.* is not finite.*Weibull\(scale=\[1\.\], shape=\[0\.01\]\)"
    ):
        estimate(lambda z: (-z[:, 0], -np.ones_like(z)), Weibull(1.0, 0.01), random_state=0)


@pytest.mark.parametrize(
    "q",
    [
        MultivariateNormal(MEAN, np.asfortranarray(ROOT)),
        NormalMixture([0.5, 0.5], np.zeros((3, 2)).T, np.ones((3, 2)).T),
    ],
)
def test_the_memory_order_of_arrays_does_not_matter(q):
    assert estimate(gaussian, q, random_state=0).value == estimate(gaussian, q.replaced({}), random_state=0).value


def test_a_function_may_overwrite_the_samples_that_it_gets():
    def overwriting(z):
        log_p, slope = gaussian(z)
        z[:] = np.nan
        return log_p, slope

    got, want = (compare(f, FULL, 5000, random_state=0).gradients for f in (overwriting, gaussian))
    for a, b in zip(flat(got), flat(want)):
        assert_array_equal(a, b)


def test_the_first_random_state_is_fresh_and_an_integer_is_not():
    run = lambda seed: estimate(gaussian, DIAGONAL, n_samples=10, random_state=seed).value
    assert run(1) == run(1)
    assert len({run(None), run(None), run(1), run(2)}) == 4


# --------------------------------------------------------------------------------------------------------- extremes
def test_a_large_constant_in_log_p_spoils_no_gradient_but_the_plain_scores():
    far = lambda z: (gaussian(z)[0] + 1e9, gaussian(z)[1])
    near, there = (compare(f, DIAGONAL, 10_000, random_state=0).gradients for f in (gaussian, far))
    for name, size in ("reparameterisation", 0), ("path", 0), ("leave_one_out", 1e-5), ("control_variate", 0.1):
        for a, b in zip(flat({0: near[name]}), flat({0: there[name]})):
            assert_allclose(a, b, rtol=0, atol=size, err_msg=name)
    assert_allclose(there["path"].value - 1e9, near["path"].value, atol=1e-5)
    assert_allclose(there["path"].value_error, near["path"].value_error, rtol=1e-5)


@pytest.mark.parametrize("s", [1e-6, 1e6])
def test_units_change_nothing(s):
    """Of z times s: slopes in the mean are divided by s, those in log scales stay."""
    far = lambda z: (gaussian(z / s)[0], gaussian(z / s)[1] / s)
    scaled = Normal(s * DIAGONAL.mean, s * DIAGONAL.scale)
    near, there = compare(gaussian, DIAGONAL, 5000, random_state=0), compare(far, scaled, 5000, random_state=0)
    for name in ("leave_one_out", "reparameterisation", "path"):
        a, b = near.gradients[name], there.gradients[name]
        assert_allclose(b.value, a.value + 3 * math.log(s), rtol=1e-9)
        for part in "gradient", "error":
            for key, unit in ("mean", s), ("log_scale", 1):
                got, want = getattr(b, part)[key] * unit, getattr(a, part)[key]
                assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=f"{name} {key}")


# ----------------------------------------------------------------------------------------------- what does not hold
@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "reparameterisation"])
def test_estimators_that_are_wrong_for_a_moving_support_are_refused(estimator):
    q, log_p = BOUNDS["uniform"][:2]
    match = rf"'{estimator}' takes .* the support of Uniform moves .* Try estimator='reparameterisation'\."
    for run in (estimate, lambda *a: fit_q(*a[:2], estimator=estimator)):
        with pytest.raises(ValueError, match=match):
            run(log_p, q, estimator)


@pytest.mark.parametrize("log_p", [lambda z: gaussian(z)[0], lambda z: (gaussian(z)[0], None)], ids=["alone", "None"])
def test_without_a_gradient_the_score_function_is_left(log_p):
    for name in ESTIMATORS[4:]:
        with pytest.raises(ValueError, match=r"needs the gradient of log p\. Return .* try estimator='leave_one_out'"):
            estimate(log_p, DIAGONAL, name)
    found, want = compare(log_p, DIAGONAL, 1000, random_state=0), compare(gaussian, DIAGONAL, 1000, random_state=0)
    assert found.refused == dict.fromkeys(ESTIMATORS[4:], "log_p gives no gradient.")
    assert tuple(found.gradients) == WITHOUT_SLOPES
    for name in WITHOUT_SLOPES:
        assert_allclose(*flat({0: found.gradients[name], 1: want.gradients[name]}), rtol=1e-12, atol=1e-12)


def test_what_was_refused_is_listed_in_the_table():
    q, log_p = BOUNDS["uniform"][:2]
    found = compare(log_p, q, 1000, random_state=0)
    assert set(found.refused) == set(ESTIMATORS) - {"reparameterisation"}
    lines = str(found).splitlines()
    assert lines[1].split()[0] == "reparameterisation"
    assert lines[2].startswith("bound ")
    assert [line.partition(":")[0] for line in lines[3:]] == list(found.refused)
    with pytest.raises(ValueError, match=r"None of the estimators holds here.*Uniform.*log_p gives no gradient"):
        compare(lambda z: log_p(z)[0], q)


def test_tables_show_the_numbers():
    found = compare(gaussian, DIAGONAL, 1000, random_state=0)
    head, *rows, bound = str(found).splitlines()
    assert [row.split()[0] for row in rows] == list(ESTIMATORS)
    assert head.split()[:4] == ["estimator", "variance", "a", "sample"]
    least = min(g.total_variance for g in found.gradients.values())
    for row, g in zip(rows, found.gradients.values()):
        variance, times, error = (float(x) for x in row.split()[1:])
        assert_allclose([variance, times], [g.total_variance, g.total_variance / least], rtol=0.01)
        assert_allclose(error, max(e.max() for e in g.error.values()), rtol=0.1)
    g = found.gradients["path"]
    assert f"{g.value:.6g}" in bound
    assert f"mean[1]      {g.gradient['mean'][1]:+.5g} ± {g.error['mean'][1]:.1g}" in str(g)
    assert "... 47 more of factor" in str(estimate(*posterior_of(10), n_samples=100))


def posterior_of(D):
    q = MultivariateNormal(np.zeros(D), np.eye(D))
    return lambda z: (q.log_prob(z), q.log_prob_gradients(z)[0]), q


@pytest.mark.parametrize("case", ["laplace", "full"])  # 0, and rounding
def test_a_table_where_no_noise_is_left_has_no_quotients_of_it(case):
    q, log_p = POSTERIORS[case]
    found = compare(lambda z: (log_p(z), SLOPES[case](z)), q, 1000, random_state=0)
    assert found.gradients["path"].total_variance < 1e-20
    times = {line.split()[0]: line.split()[2] for line in str(found).splitlines()[1:-1]}
    assert times["path"] == "1"
    assert times["reparameterisation"] == "inf"


# -------------------------------------------------------------------------------------------------------- bad answers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["log p", "the gradient of log p in z"])
def test_what_is_not_finite_is_named_with_its_z(bad, what):
    seen = []

    def log_p(z):
        seen.append(z.copy())
        value, slope = gaussian(z)
        value[z[:, 0] > 1.5] = bad if what == "log p" else 0
        slope[z[:, 0] > 1.5, 1] = bad if what != "log p" else 0
        return value, slope

    with pytest.raises(NumericalError) as error:
        estimate(log_p, DIAGONAL, n_samples=5000, random_state=0)
    z = seen[-1][(seen[-1][:, 0] > 1.5).argmax()]
    assert str(error.value).startswith(f"{what} is not finite at a sample of q: ")
    assert f"{bad}" in str(error.value)
    assert f"at z = {z}. Where q has mass log p must be finite" in str(error.value)


def test_a_thread_that_meets_what_is_not_finite_says_so():
    with pytest.raises(NumericalError, match=r"log p is not finite .* at z = \[-"):
        estimate(log_by_numba, Normal(0.0, 1.0), "score", 50_000, random_state=0)


@numba.njit
def log_by_numba(z):
    return np.log(z[:, 0])


@pytest.mark.parametrize(
    ("log_p", "match"),
    [
        (lambda z: (z, z), r"log p must have the shape \(100,\) for z of the shape \(100, 3\), got \(100, 3\)"),
        (lambda z: 0.0, r"log p must have the shape \(100,\) for z of the shape \(100, 3\), got \(\)"),
        (lambda z: (z[:, 0], z[:, 0]), r"The gradient of log p must have the shape of z, \(100, 3\), got \(100,\)"),
        (lambda z: (z[:, 0], z.T), r"The gradient of log p must have the shape of z, \(100, 3\), got \(3, 100\)"),
    ],
)
def test_wrong_shapes_are_told(log_p, match):
    with pytest.raises(ValueError, match=match):
        estimate(log_p, DIAGONAL, n_samples=100)
    with pytest.raises(ValueError, match=match):
        fit_q(log_p, DIAGONAL)


def test_bad_arguments_are_told():
    for run in (estimate, compare):
        with pytest.raises(TypeError, match=r"log_p must be callable, log_p, gradient = log_p\(z\), got int"):
            run(3, DIAGONAL)
        with pytest.raises(TypeError, match=r"q must be a distribution of lvm\.distributions, got str"):
            run(gaussian, "normal")
        with pytest.raises(ValueError, match=r"'n_samples' parameter of \w+ must be an integer of at least 2, got 1"):
            run(gaussian, DIAGONAL, n_samples=1)
        with pytest.raises(ValueError, match="device"):
            run(gaussian, DIAGONAL, device="gpu")
        with pytest.raises(ValueError, match=r"dtype must be float32 or float64, got int64"):
            run(gaussian, DIAGONAL, dtype=int)
    with pytest.raises(ValueError, match=r"'estimator'.*'leave_one_out'.*'REINFORCE'"):
        estimate(gaussian, DIAGONAL, "REINFORCE")
    with pytest.raises(ValueError, match=r"'estimators'.*'leave_one_out'.*'REINFORCE'"):
        compare(gaussian, DIAGONAL, estimators=("score", "REINFORCE"))


# ------------------------------------------------------------------------------------------------------ check_gradient
def product(z):
    return np.sin(z).prod(1), np.cos(z) * (np.sin(z).prod(1)[:, None] / np.sin(z))


def softplus(s, factor=1.0):
    """-sum log 2 cosh z/s, the gradient times a factor."""
    return lambda z: (-np.logaddexp(z / s, -z / s).sum(1), -factor * np.tanh(z / s) / s)


@numba.njit
def square_by_numba(z):
    return -0.5 * (z * z).sum(axis=1), -z


@pytest.mark.parametrize("f", [gaussian, gaussian_by_numba, bump, product], ids=lambda f: f.__name__)
def test_a_right_gradient_is_found_right(f):
    found = check_gradient(f, rng().standard_normal((20, 3)))
    assert bool(found) is found.ok is True
    assert found.error < 1e-9
    assert found.uncertainty < 1e-9
    assert str(found).startswith("The gradient is right: worst in column ")


@pytest.mark.parametrize("slip", [1e-4, 0.1, 2.0])
def test_a_wrong_coordinate_is_named(slip):
    def f(z):
        value, slope = product(z)
        slope[3, 1] *= 1 + slip
        return value, slope

    x = 0.5 + rng().random((5, 3))
    found = check_gradient(f, x)
    assert bool(found) is found.ok is False
    assert (found.row, found.column) == (3, 1)
    want = product(x)[1][3, 1]
    assert_allclose([found.by_hand, found.by_differences], [want * (1 + slip), want], rtol=1e-8)
    assert str(found).startswith("The gradient is WRONG: worst in column 1 of row 3, ")
    assert check_gradient(f, x, rtol=5.0)


def test_one_point_may_be_given_without_a_row():
    assert check_gradient(product, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"x must be finite numbers \(M,D\) or \(D,\), got the shape \(2, 0\)"):
        check_gradient(product, np.empty((2, 0)))
    with pytest.raises(ValueError, match="x must be finite"):
        check_gradient(product, [1.0, np.nan])


@pytest.mark.parametrize("s", [1e-8, 1e-4, 1.0, 1e4, 1e8])
def test_gradients_are_judged_whatever_the_units(s):
    x = s * np.array([[0.5, 1.0], [-2.0, 0.1]])
    assert check_gradient(softplus(s), x)
    assert not check_gradient(softplus(s, -1), x)
    assert not check_gradient(softplus(s, 1.001), x)


def test_points_far_from_0_are_judged_by_the_steps_that_were_made():
    """At 1e8 a step of 1e-3 is wrong by 1e-5 of it."""
    f = lambda z: (np.sin(z - 1e8).sum(1), np.cos(z - 1e8))
    found = check_gradient(f, 1e8 + rng().standard_normal((20, 3)))
    assert found
    assert found.error < 1e-8


@pytest.mark.parametrize("offset", [1e4, 1e8, 1e12])
def test_rounding_is_no_evidence(offset):
    f = lambda factor: lambda z: (offset + np.sin(z).sum(1), factor * np.cos(z))
    for seed in range(5):
        assert check_gradient(f(1), rng(seed).standard_normal((200, 3)))
    if offset < 1e12:
        assert not check_gradient(f(1.01), rng().standard_normal((200, 3)))


def test_a_kink_is_seen_where_it_is_and_not_beside_it():
    f = lambda z: (-np.abs(z).sum(1), -np.where(z >= 0, 1.0, -1.0))
    assert check_gradient(f, [[1e-2, -1.0]])
    assert check_gradient(f, [[1e-5, -1.0]])
    found = check_gradient(f, [[-1.0, 0.0]])
    assert not found
    assert (found.column, found.by_hand) == (1, -1)
    assert abs(found.by_differences) < 1e-9


def test_a_border_nearby_is_no_fault():
    assert check_gradient(lambda z: (np.log(z).sum(1), 1 / z), [[1e-3, 1.0]])


def test_a_function_under_test_may_overwrite_its_points():
    def overwriting(z):
        value, slope = product(z)
        z[:] = 0
        return value, slope

    x = np.array([[1.0, 2.0]])
    assert check_gradient(overwriting, x)
    assert_array_equal(x, [[1.0, 2.0]])


# ---------------------------------------------------------------------------------------------------------------- fits
BEST_DIAGONAL = LOG_Z + np.log(np.diag(ROOT)).sum() - 0.5 * np.log(np.diag(PRECISION)).sum()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fits_reach_the_evidence_of_a_gaussian(estimator):
    """KL(q || p) of the best diagonal q is sum log P_dd/2 - log det P/2."""
    diagonal = fit_q(gaussian, Normal(np.zeros(3), 1.0), estimator=estimator, n_samples=1000, random_state=0)
    assert diagonal.converged
    assert abs(diagonal.lower_bound - BEST_DIAGONAL) < 4 * diagonal.lower_bound_error + 2e-3
    assert_allclose(diagonal.q.mean, MEAN, atol=0.03)
    assert_allclose(diagonal.q.scale, np.diag(PRECISION) ** -0.5, rtol=0.03)
    q = MultivariateNormal(np.zeros(3), np.eye(3))
    full = fit_q(gaussian, q, estimator=estimator, n_samples=1000, random_state=0)
    assert full.converged
    assert abs(full.lower_bound - LOG_Z) < (1e-9 if estimator in NOISELESS else 1e-3)
    assert_allclose(full.q.covariance, np.linalg.inv(PRECISION), atol=0.05)
    assert full.theta is None


X, S = 2.0 * rng(7).standard_normal(8), 0.5  # data of the conjugate model, and the noise


def log_joint(z, theta):
    """x ~ N(z, S²), z ~ N(0, e^theta), independent columns."""
    a, b = (X - z) / S, z**2 * np.exp(-theta)
    log_p = -0.5 * (a**2 + b + theta).sum(1) - 8 * math.log(2 * math.pi * S)
    return log_p, a / S - z * np.exp(-theta), 0.5 * (b - 1).sum(1, keepdims=True)


def without_slopes(z, theta):
    log_p, _, slope = log_joint(z, theta)
    return log_p, None, slope


@pytest.mark.parametrize(("f", "estimator"), [(log_joint, "path"), (without_slopes, "leave_one_out")])
def test_a_models_own_parameters_are_learned_with_q(f, estimator):
    """x ~ N(0, e^theta + S²): the best e^theta is mean x² - S², and the bound the likelihood there."""
    q, theta = Normal(np.zeros(8), 1.0), np.array([0.0])
    fit = fit_q(f, q, theta=theta, estimator=estimator, random_state=0)
    prior = (X**2).mean() - S**2
    assert fit.converged
    assert_allclose(fit.theta, [math.log(prior)], atol=0.02)
    assert abs(fit.lower_bound - stats.norm.logpdf(X, 0, math.sqrt(prior + S**2)).sum()) < 5e-3
    assert_allclose(fit.q.mean, X * prior / (prior + S**2), atol=0.05)
    assert_allclose(fit.q.scale, math.sqrt(prior * S**2 / (prior + S**2)), rtol=0.05)
    assert_array_equal(theta, [0.0])
    assert_array_equal(q.mean, np.zeros(8))
    assert_array_equal(q.scale, np.ones(8))


def test_a_step_has_the_slopes_of_its_bound_at_the_same_noise(k):
    q = Normal(rng(8).standard_normal(8), 0.7)
    start = {**q.parameters, "theta": np.array([0.3])}
    p = Parameters(k, {name: a.shape for name, a in start.items()}, float)
    o = Bound(k, q._kind, 8, 16, q._tabled, log_joint, lambda m: None, "reparameterisation", 50, 1, 5, p)

    def bound(values):
        p.assign(values)
        o.step(None, p.counter)
        return o.values()["lower_bound"]

    bound(start)
    gradients = {name: g.copy() for name, g in p.gradients.items()}
    for name, x in start.items():
        v = rng(9).standard_normal(x.shape)
        want = richardson(lambda t, n=name, x=x, v=v: bound({**start, n: x + t * v}))
        assert_allclose(-(gradients[name] * v).sum(), want, rtol=1e-9, err_msg=name)


def test_a_weibull_q_comes_as_near_to_a_gamma_target_as_it_can():
    """E log z = log scale - euler_gamma/shape; log p = 2 log z - 3 z."""
    log_p = lambda z: (2 * np.log(z[:, 0]) - 3 * z[:, 0], 2 / z - 3)

    def bound(x):
        t = {"log_scale": x[:1], "log_shape": x[1:]}
        return (2 * (t["log_scale"] - np.euler_gamma * np.exp(-t["log_shape"])) - 3 * weibull_mean(t))[
            0
        ] + weibull_entropy(t)

    best = optimize.minimize(lambda x: -bound(x), [0.0, 0.0], method="BFGS")
    fit = fit_q(log_p, Weibull(2.0, 1.0), random_state=0)
    assert fit.converged
    assert -best.fun < math.log(2 / 27)  # Gamma(3)/3³ is the evidence
    assert_allclose(fit.lower_bound, -best.fun, atol=1e-3)
    assert_allclose([*fit.q.parameters["log_scale"], *fit.q.parameters["log_shape"]], best.x, atol=0.02)


def two_modes(z):
    a = math.log(0.3) - 0.5 * math.log(2 * math.pi) - 0.5 * (z[:, 0] + 3) ** 2
    b = math.log(0.7) - 0.5 * math.log(2 * math.pi) - 0.5 * (z[:, 0] - 3) ** 2
    log_p = np.logaddexp(a, b)
    return log_p, (np.exp(a - log_p) * (-3 - z[:, 0]) + np.exp(b - log_p) * (3 - z[:, 0]))[:, None]


@pytest.mark.parametrize("estimator", ["path", "leave_one_out"])
def test_a_mixture_covers_two_modes_of_which_a_normal_takes_one(estimator):
    single = fit_q(two_modes, Normal(1.0, 1.0), estimator=estimator, random_state=0)
    q = NormalMixture([0.5, 0.5], [[-1.0], [1.0]], [[2.0], [2.0]])
    fit = fit_q(two_modes, q, estimator=estimator, random_state=0)
    assert_allclose(single.lower_bound, math.log(0.7), atol=0.02)
    assert -0.01 < fit.lower_bound < 4 * fit.lower_bound_error + 1e-9
    assert_allclose(fit.q.weights, [0.3, 0.7], atol=0.03)
    assert_allclose(fit.q.means[:, 0], [-3, 3], atol=0.1)


@pytest.mark.parametrize(("estimator", "seed"), [("leave_one_out", 0), ("leave_one_out", 3), ("reparameterisation", 2)])
def test_a_fit_ends_where_its_change_cannot_be_told_from_noise(estimator, seed):
    """tol=0: what five epochs differ from the five before, up or (seed 3) down, and the standard error of that."""
    fit = fit_q(gaussian, Normal(np.zeros(3), 1.0), estimator=estimator, n_samples=2, tol=0.0, random_state=seed)
    value, error = (np.array(fit.history[name]) for name in ("lower_bound", "lower_bound_error"))
    ends = range(10, len(value) + 1)
    change = np.array([abs(value[t - 5 : t].mean() - value[t - 10 : t - 5].mean()) for t in ends])
    noise = np.array([np.sqrt((error[t - 10 : t] ** 2).sum()) / 5 for t in ends])
    assert fit.converged
    assert fit.n_epochs == len(value)
    assert (change[:-1] > noise[:-1]).all()
    assert change[-1] < noise[-1]
    assert abs(fit.lower_bound - BEST_DIAGONAL) < 4 * fit.lower_bound_error + 0.05


def test_a_converged_fit_ends_at_the_mean_of_its_steps():
    """Which has less of their noise than the last one: by the same steps, ended by the rule or by max_epochs."""
    away = {"mean": [], "last": []}
    for seed in range(8):
        how = {"estimator": "leave_one_out", "n_samples": 2, "random_state": seed}
        mean = fit_q(gaussian, Normal(np.zeros(3), 1.0), **how)
        last = fit_q(gaussian, Normal(np.zeros(3), 1.0), **how, n_epochs_no_change=None, max_epochs=mean.n_epochs)
        assert mean.history == last.history
        assert last.converged
        for name, fit in ("mean", mean), ("last", last):
            away[name].append(np.sum((fit.q.mean - MEAN) ** 2))
    assert np.mean(away["mean"]) < np.mean(away["last"]) / 3


def test_errors_of_the_history_are_those_of_its_epochs():
    """At a rate too small to move, epochs repeat one another: 60 of them, a chi-square of 59 degrees."""
    fit = fit_q(
        gaussian, DIAGONAL, n_samples=5, learning_rate=1e-12, n_epochs_no_change=None, max_epochs=60, random_state=0
    )
    value, error = (np.array(fit.history[name]) for name in ("lower_bound", "lower_bound_error"))
    low, high = stats.chi2.ppf([1e-4, 1 - 1e-4], 59)
    assert low < (((value - value.mean()) / error) ** 2).sum() < high
    assert abs(value.mean() - diagonal_bound(DIAGONAL.parameters)) < 4 * error.mean() / math.sqrt(60)
    assert abs(fit.lower_bound - diagonal_bound(DIAGONAL.parameters)) < 4 * fit.lower_bound_error


def test_too_few_epochs_are_told():
    with pytest.warns(ConvergenceWarning, match=r"did not converge in 3 epochs.*Try more max_epochs"):
        fit = fit_q(gaussian, Normal([9.0, 9.0, 9.0], 1.0), max_epochs=3, random_state=0)
    assert not fit.converged
    assert fit.n_epochs == 3
    assert "not converged after 3 epochs" in str(fit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_q(gaussian, DIAGONAL, max_epochs=2, n_epochs_no_change=None).converged


def test_the_first_answer_that_is_not_finite_names_step_and_z_and_q():
    seen = []

    def log_p(z):
        seen.append(z.copy())
        value, slope = gaussian(z)
        if len(seen) == 131:
            value[7] = np.nan
        return value, slope

    with pytest.raises(NumericalError) as error:
        fit_q(log_p, DIAGONAL, random_state=0)
    assert len(seen) == 131
    text = str(error.value)
    assert text.startswith(f"In step 130: log p is not finite at a sample of q: nan at z = {seen[-1][7]}.")
    assert "There q is Normal(mean=[" in text


def test_a_q_that_left_what_float64_has_is_told():
    with np.errstate(invalid="ignore"), pytest.raises(NumericalError, match="In step 1: q left what float64 has"):
        fit_q(lambda z: (z[:, 0] ** 2, 2 * z), Normal(0.0, 1.0), learning_rate=1e3, random_state=0)


def test_a_callback_sees_each_epoch_and_may_end_the_fit():
    epochs = []

    def callback(epoch, values):
        epochs.append((epoch, values))
        return epoch == 4

    fit = fit_q(gaussian, DIAGONAL, callback=callback, random_state=0)
    assert [epoch for epoch, _ in epochs] == [1, 2, 3, 4]
    assert [v["lower_bound"] for _, v in epochs] == fit.history["lower_bound"]
    assert fit.n_epochs == 4
    assert not fit.converged


def test_ctrl_c_is_raised_and_changes_nothing():
    q, theta = Normal(np.zeros(8), 1.0), np.zeros(1)
    run = lambda: fit_q(log_joint, q, theta=theta, max_epochs=2, n_epochs_no_change=None, n_samples=2, random_state=0)
    ended = [interrupted_at("gradients", line, run) for line in (1, 30, 100, 1000, 6000, 12_000, 10**9)]
    assert ended == [True] * 6 + [False]
    assert_array_equal(q.mean, np.zeros(8))
    assert_array_equal(theta, [0.0])


def test_fits_of_one_random_state_have_the_same_bits():
    run = lambda seed: fit_q(
        log_joint, Normal(np.zeros(8), 1.0), theta=[0.0], max_epochs=3, n_epochs_no_change=None, random_state=seed
    )
    a, b, c = run(1), run(1), run(2)
    assert a.history == b.history != c.history
    assert a.lower_bound == b.lower_bound
    assert_array_equal(a.theta, b.theta)
    assert_array_equal(a.q.mean, b.q.mean)


def test_theta_is_handed_out_as_a_copy():
    seen = []

    def keeps_and_overwrites(z, theta):
        seen.append(theta)
        answer = log_joint(z, theta)
        theta += 1
        return answer

    how = {"theta": [0.0], "max_epochs": 1, "n_epochs_no_change": None, "random_state": 0}
    got, want = (fit_q(f, Normal(np.zeros(8), 1.0), **how) for f in (keeps_and_overwrites, log_joint))
    assert_array_equal(got.theta, want.theta)
    assert len({float(theta[0]) for theta in seen}) == 101


def test_bad_arguments_of_a_fit_are_told():
    for wrong in (
        {"estimator": "REINFORCE"},
        {"n_samples": 1},
        {"max_epochs": 0},
        {"learning_rate": 0.0},
        {"tol": -1.0},
        {"n_epochs_no_change": 0},
        {"clip_norm": 0.0},
    ):
        with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' parameter of fit_q must be"):
            fit_q(gaussian, DIAGONAL, **wrong)
    with pytest.raises(TypeError, match=r"log_joint must be callable, .*, got int"):
        fit_q(3, DIAGONAL)
    with pytest.raises(TypeError, match=r"q must be a distribution of lvm\.distributions, got str"):
        fit_q(gaussian, "normal")
    with pytest.raises(ValueError, match="theta must be finite numbers"):
        fit_q(log_joint, DIAGONAL, theta=[np.nan])


def test_theta_wants_its_gradient():
    match = r"With theta, log_joint\(z, theta\) must give .* got 2 of them"
    with pytest.raises(ValueError, match=match):
        fit_q(lambda z, theta: log_joint(z, theta)[:2], Normal(np.zeros(8), 1.0), theta=[0.0])
    with pytest.raises(ValueError, match=r"gradient in theta must have the shape \(100, 1\), .* got \(100,\)"):
        fit_q(lambda z, theta: (*log_joint(z, theta)[:2], z[:, 0]), Normal(np.zeros(8), 1.0), theta=[0.0])
    with pytest.raises(NumericalError, match=r"In step 0: the gradient of log p in theta is not finite.*inf.* at z = "):
        fit_q(
            lambda z, theta: (*log_joint(z, theta)[:2], np.full((len(z), 1), np.inf)),
            Normal(np.zeros(8), 1.0),
            theta=[0.0],
        )


def test_one_estimator_may_be_named_by_itself():
    assert list(compare(gaussian, DIAGONAL, 100, "path", random_state=0).gradients) == ["path"]
    with pytest.raises(ValueError, match=r"estimators must be some of .* got none"):
        compare(gaussian, DIAGONAL, 100, ())


def test_a_fit_that_a_callback_ended_has_not_converged():
    assert not fit_q(gaussian, DIAGONAL, n_epochs_no_change=None, callback=lambda *_: True, random_state=0).converged
    assert fit_q(gaussian, DIAGONAL, n_epochs_no_change=None, max_epochs=1, random_state=0).converged


def test_a_bound_that_falls_has_not_settled():
    for gain, settled in ((0.5, False), (-0.5, False), (0.015, True), (-0.015, True)):
        assert _settled([0.0] * 5 + [gain] * 5, [0.03] * 10, 5, 1e-3) == settled


def test_a_fit_tells_what_of_q_is_not_finite():
    """Weibull(1, 0.01): see above. Adam would undo such a step without a word."""
    with pytest.raises(NumericalError, match=r"In step \d+: log p - log q.* is not finite at a sample of Weibull"):
        fit_q(lambda z: (-z[:, 0], -np.ones_like(z)), Weibull(1.0, 0.01), random_state=0)


def test_differences_that_are_too_coarse_say_so():
    found = check_gradient(lambda z: (1e15 + z.sum(1), np.ones_like(z)), [[1.0]])
    assert found
    assert "too coarse to tell" in str(found)
