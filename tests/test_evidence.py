"""Importance weights against closed forms and an obvious fit of the generalized Pareto distribution; annealed chains
against models whose evidence is known; reports on every family against SciPy."""

import functools
import math
import re
import tracemalloc
from types import SimpleNamespace

import mpmath
import numba
import numpy as np
import pytest
from gradcheck import richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import relevance_evidence, vae_decode, vae_log_px
from scipy import stats
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, norm

import lvm
from lvm import evidence
from lvm.distributions import Normal
from lvm.estimator import NotFittedError, NumericalError
from lvm.evidence import (
    Annealed,
    Bounds,
    Evidence,
    annealed,
    bound_report,
    bounds,
    importance,
    naive_monte_carlo,
    pareto_k,
    report,
    sampled,
    simulated,
)
from lvm.objectives.decoder import Joint
from lvm.objectives.vae import Architecture

S = 100_000
mp = mpmath.mp.clone()
mp.dps = 30


def rng(seed=0):
    return np.random.default_rng(seed)


def gaussian_weights(mu, sigma, log_c, n, seed=0):
    """log w (n) of samples from q = N(0, 1), for the target exp(log_c) N(mu, sigma²)."""
    x = rng(seed).standard_normal(n)
    return log_c + norm.logpdf(x, mu, sigma) - norm.logpdf(x)


def reference_pareto_k(log_w):
    """By the definitions in 30 digits, with the weights themselves and the density that is fitted to them."""
    w = sorted(mp.exp(mp.mpf(float(l)) - max(log_w)) for l in log_w)
    size = math.floor(min(0.2 * len(w), 3 * math.sqrt(len(w))))
    x = [v - w[-size - 1] for v in w[-size:]]
    m = 30 + math.floor(math.sqrt(size))
    quartile = x[math.floor(size / 4 + 0.5) - 1]
    shape = lambda theta: sum(mp.log1p(-theta * v) for v in x) / size

    def log_likelihood(k, sigma):
        return sum(-mp.log(sigma) - (1 + 1 / k) * mp.log1p(k * v / sigma) for v in x)

    thetas = [1 / x[-1] + (1 - mp.sqrt(m / mp.mpf(j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    l = [log_likelihood(shape(t), -shape(t) / t) for t in thetas]
    p = [mp.exp(a - max(l)) for a in l]
    k = shape(sum(a * t for a, t in zip(p, thetas)) / sum(p))
    return float((size * k + 10 * 0.5) / (size + 10))


def pareto_weights(k, n):
    """The n quantiles of log w for which the excess over any weight has exactly the shape k."""
    log_u = np.log((np.arange(n) + 0.5) / n)
    return -k * log_u if k >= 0 else np.log(-np.expm1(-k * log_u) + 1e-3)


# ------------------------------------------------------------------------------------------------------ log Z and elbo
@pytest.mark.parametrize(("mu", "sigma"), [(0.7, 1.0), (0.0, 1.2), (-0.3, 0.6)])
def test_two_gaussians_give_what_is_known_of_them(mu, sigma):
    log_c = 3.0
    found = importance(gaussian_weights(mu, sigma, log_c, S))
    kl = math.log(sigma) + (1 + mu**2) / (2 * sigma**2) - 0.5
    slope, curve = mu / sigma**2, (1 - 1 / sigma**2) / 2  # log w = const + slope x + curve x²
    assert_allclose(found.elbo_error, math.sqrt((slope**2 + 2 * curve**2) / S), rtol=0.02)
    assert abs(found.elbo - (log_c - kl)) < 4 * found.elbo_error
    assert abs(found.log_z - log_c) < 4 * found.log_z_error
    second = math.exp(mu**2 / (2 - sigma**2)) / (sigma * math.sqrt(2 - sigma**2))  # E_q[(w / Z)²]
    assert_allclose(found.ess / S, 1 / second, rtol=0.02)
    assert_allclose(found.log_z_error, math.sqrt((second - 1) / S), rtol=0.03)
    assert found.n_samples == S


def test_the_standard_errors_are_those_of_many_repetitions():
    founds = [importance(gaussian_weights(0.6, 1.1, 0.0, 400, seed)) for seed in range(1000)]
    for value, error in ("elbo", "elbo_error"), ("log_z", "log_z_error"):
        spread = np.std([getattr(f, value) for f in founds])
        assert_allclose(np.mean([getattr(f, error) for f in founds]), spread, rtol=0.1)


def test_a_few_weights_by_hand():
    found = importance([math.log(1), math.log(2), math.log(6)])
    assert_allclose(found.elbo, math.log(12) / 3)
    assert_allclose(found.log_z, math.log(3))
    assert_allclose(found.log_z_error, math.sqrt((4 + 1 + 9) / 2 / 3) / 3)  # sd(w) / sqrt(S) / mean(w)
    assert_allclose(found.ess, 81 / 41)
    logs = np.log([1, 2, 6])
    assert_allclose(found.elbo_error, np.sqrt(((logs - logs.mean()) ** 2).sum() / 2 / 3))
    assert np.isnan(found.k_hat)
    assert found.n_samples == 3


def test_q_equal_to_the_target_leaves_no_error():
    found = importance(np.full(1000, -4.25))
    assert_allclose([found.elbo, found.log_z, found.ess], [-4.25, -4.25, 1000])
    assert max(found.elbo_error, found.log_z_error) < 1e-15
    assert found.k_hat < 0
    assert "Warning" not in str(found)


def test_small_errors_do_not_drown_in_rounding():
    """sd(w) / mean(w) of nearly equal weights is the standard deviation of their logs."""
    log_w = 5 + 1e-11 * rng().standard_normal(S)
    found = importance(log_w)
    assert_allclose(found.log_z_error, found.elbo_error, rtol=1e-3)
    assert_allclose(found.log_z_error, 1e-11 / math.sqrt(S), rtol=0.02)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_bound_is_never_above_log_z(scale):
    for seed in range(20):
        found = importance(scale * rng(seed).standard_t(3, size=50))
        assert found.elbo <= found.log_z
        assert 1 <= found.ess <= 50


# ----------------------------------------------------------------------------------------------------------- pareto_k
@pytest.mark.parametrize("n", [25, 40, 225, 226, 1000])
def test_pareto_k_is_that_of_the_reference(n):
    draws = rng(n).standard_normal(n)
    for log_w in (draws, -(draws**2), 3 * draws, np.abs(draws), 1e-9 * draws, pareto_weights(0.8, n)):
        assert_allclose(pareto_k(log_w), reference_pareto_k(log_w), rtol=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "wanted"),
    [
        (-0.5, 30, 0.1651845508961557),
        (-0.5, 1000, -0.37701184581234987),
        (-0.5, 20_000, -0.47024471922516675),
        (0.3, 30, 0.3854659140026859),
        (0.3, 1000, 0.32341961351109616),
        (0.3, 20_000, 0.30567041761457747),
        (0.9, 30, 0.5490171155351373),
        (0.9, 1000, 0.8432186317355614),
        (0.9, 20_000, 0.88634224176106),
    ],
)
def test_pareto_k_is_that_of_arviz(k, n, wanted):
    """The k-hat of psislw of arviz-stats 0.8.0. On 400 random sets of 28 to 100 000 weights, from bounded ones to such
    whose tail has no mean, the two agree to 1e-10, save where its weights underflow."""
    assert_allclose(pareto_k(pareto_weights(k, n)), wanted, rtol=1e-10)


@pytest.mark.parametrize("k", [0.05, 0.2, 0.5, 0.7, 1.0, 1.5])
def test_the_k_of_pareto_weights_is_found(k):
    """The excesses of U^-k over any cutoff have the shape k; the estimate's error is about (1 + k) / sqrt(n) of n."""
    founds = np.array([pareto_k(-k * np.log(rng(seed).random(10_000))) for seed in range(100)])
    n = 300
    free = ((n + 10) * founds - 5) / n  # without the ten weights that draw to 1/2
    error = (1 + k) / math.sqrt(n)
    assert abs(free.mean() - k) < 0.2 * error
    assert_allclose(free.std(), error, rtol=0.25)


def test_a_q_too_narrow_has_a_heavy_tail():
    x = rng().standard_normal(S)
    for log_pi in (-np.log1p(x**2), norm.logpdf(x, scale=5)):  # k = 1 and 0.96
        found = importance(log_pi - norm.logpdf(x))
        assert found.k_hat > 0.7
        assert "k-hat is above 0.7" in str(found)


def test_a_q_with_wider_tails_has_bounded_weights():
    x = rng().standard_cauchy(S)
    found = importance(norm.logpdf(x) + np.log1p(x**2) + math.log(math.pi))
    assert abs(found.log_z) < 4 * found.log_z_error
    assert found.k_hat < 0.2
    assert pareto_k(gaussian_weights(0, 0.8, 0, S)) < 0.2
    assert "Warning" not in str(found)


def test_the_heaviest_tails_do_not_underflow():
    for log_w in np.append(rng().standard_normal(999), 2000.0), 1000 * rng().standard_normal(500):
        assert_allclose(pareto_k(log_w), reference_pareto_k(log_w), rtol=1e-10)


@pytest.mark.parametrize("levels", [(0.0, 2.0), (0.0, 1.0, 3.0), (-np.inf, 0.0)])
def test_weights_of_a_few_levels_have_no_tail(levels):
    log_w = rng().choice(levels, size=2000)
    assert pareto_k(log_w) < 0
    assert importance(log_w).ess > 500


def test_excesses_that_meet_the_exponential_distribution_exactly():
    """The grid's ninth theta is 0 when the largest of 16 excesses is three times their first quartile."""
    log_w = lambda top: np.log(np.repeat([1.0, 2.0, top], [64, 8, 8]))
    wanted = reference_pareto_k(log_w(4 + 1e-9))
    for shift in np.log(np.arange(1, 51)):  # which of them are exactly 0 is a matter of rounding
        assert_allclose(pareto_k(log_w(4.0) + shift), wanted, rtol=1e-8)


def test_k_hat_needs_five_weights_above_zero_in_the_tail():
    draws = rng().standard_normal(25)
    assert np.isnan(pareto_k(draws[:24]))
    assert np.isfinite(pareto_k(draws))
    few = np.append(draws[:5], np.full(75, -np.inf))
    assert np.isfinite(pareto_k(few))
    few[0] = -np.inf
    assert np.isnan(pareto_k(few))


# ------------------------------------------------------------------------------------------------- zeros and extremes
@pytest.mark.parametrize("shift", [-1e5, -700.0, 3.5, 1e5])
def test_a_constant_in_log_pi_moves_elbo_and_log_z_alone(shift):
    log_w = rng().standard_normal(2000)
    one, two = importance(log_w), importance(log_w + shift)
    assert_allclose([two.elbo - shift, two.log_z - shift], [one.elbo, one.log_z], atol=1e-9)
    for name in ("elbo_error", "log_z_error", "ess", "k_hat"):
        assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-8)


def test_the_order_of_the_samples_does_not_matter():
    log_w = 2 * rng().standard_normal(2000)
    one, two = importance(log_w), importance(rng(1).permutation(log_w))
    assert_allclose(one, two, rtol=1e-12)
    assert one.k_hat == two.k_hat


@pytest.mark.parametrize("n", [1000, 4000])
def test_samples_outside_the_target_count_as_zeros(n):
    """With the same weights among three times as many zeros log Z falls by log 4, and the effective size stays."""
    log_w = 0.5 * rng().standard_normal(n)
    one, found = importance(log_w), importance(np.append(log_w, np.full(3 * n, -np.inf)))
    assert found.elbo == -np.inf
    assert np.isnan(found.elbo_error)
    assert_allclose(found.log_z, one.log_z - math.log(4))
    assert_allclose(found.ess, one.ess)
    w = np.append(np.exp(log_w), np.zeros(3 * n))
    assert_allclose(found.log_z_error, w.std(ddof=1) / w.mean() / math.sqrt(4 * n))
    assert abs(found.k_hat) < 0.5


def test_zeros_are_no_part_of_the_tail():
    """Of the 300 largest of 10 000 weights 200 are above zero: those of a uniform distribution, whose k is -1."""
    log_w = np.append(np.log(rng().random(200)), np.full(9800, -np.inf))
    assert pareto_k(log_w) == pytest.approx((200 * -1 + 5) / 210, abs=0.2)


def test_all_weights_zero():
    found = importance([-np.inf] * 50)
    assert (found.elbo, found.log_z, found.ess, found.n_samples) == (-np.inf, -np.inf, 0, 50)
    assert np.isnan([found.elbo_error, found.log_z_error, found.k_hat]).all()
    assert str(found).endswith("Every weight is zero: no sample of q fell where the target is above zero.")


def test_one_weight_above_zero():
    found = importance([-np.inf] * 99 + [2.0])
    assert_allclose([found.log_z, found.ess, found.log_z_error], [2 - math.log(100), 1, 1])
    assert np.isnan(found.k_hat)


def test_nothing_overflows():
    log_w = rng().choice([-1.7e308, -1e300, -1e3, 0.0, 1e3, 1e300, 1.7e308], size=500)
    for given in (
        log_w,
        log_w[log_w < 1e300],
        np.append(log_w, -np.inf),
        np.repeat([-1.7e308, 1.7e308], [99, 1]),
        1e300 * rng().standard_normal(500),
    ):
        found = importance(given)
        assert_allclose(found.log_z, given.max() + math.log(np.mean(given == given.max())))
        assert 1 <= found.ess <= len(given)
        assert np.isfinite(found.k_hat)
        assert found.elbo <= given.max()
        assert str(found)


def test_float32_and_lists_count_as_float64():
    log_w = rng().standard_normal(1000).astype(np.float32)
    assert importance(log_w) == importance(log_w.astype(float)) == importance(log_w.tolist())
    assert all(type(v) is float for v in importance(log_w)[:-1])


def test_the_weights_are_left_as_they_were():
    log_w = rng().standard_normal(1000)
    before = log_w.copy()
    importance(log_w)
    assert_array_equal(log_w, before)
    log_w.flags.writeable = False
    assert importance(log_w) == importance(before)


def test_memory_is_that_of_a_few_copies_of_the_weights():
    log_w = rng().standard_normal(1_000_000)
    importance(log_w[:100])
    tracemalloc.start()
    importance(log_w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * log_w.nbytes


# -------------------------------------------------------------------------------------------------- errors and words
@pytest.mark.parametrize("function", [importance, pareto_k])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(function, bad):
    log_w = np.zeros(100)
    log_w[[7, 30]] = bad
    text = f"finite, or -inf where the target is zero, got {bad} at sample 7 and 2 such of 100 in all. Look at the log-"
    with pytest.raises(ValueError, match=re.escape(text)):
        function(log_w)


@pytest.mark.parametrize(("log_w", "shape"), [(1.0, "()"), ([], "(0,)"), ([1.0], "(1,)"), (np.zeros((9, 2)), "(9, 2)")])
def test_other_shapes_are_refused(log_w, shape):
    for function in (importance, pareto_k):
        text = f"log_w must be the log weights (S,) of two samples or more, got shape {shape}."
        with pytest.raises(ValueError, match=re.escape(text)):
            function(log_w)


GOOD = Evidence(-1.25, 0.003, -1.125, 0.002, 812.0, 0.31, 1000)


def test_evidence_prints_what_it_is():
    assert str(GOOD) == (
        "log Z  -1.125 ± 0.002 nats, by importance weights of 1000 samples\n"
        "ELBO   -1.25 ± 0.003 nats, a lower bound\n"
        "ESS    812.0 (81.2% of the samples)\n"
        "k-hat  0.31"
    )


@pytest.mark.parametrize(
    ("k_hat", "n", "words"),
    [
        (0.71, 10**6, "k-hat is above 0.7. A few large weights decide,"),
        (0.69, 10**6, None),
        (0.68, 1000, "k-hat is above 0.67, the most for so few samples."),
        (0.6, 100, "Try 317 samples or more."),  # 1 - 1/log10(317) is the first above 0.6
        (0.66, 1000, None),
        (np.nan, 1000, "too few weights for k-hat"),
        (np.nan, 2, "too few weights for k-hat"),
        (-np.inf, 1000, None),
    ],
)
def test_evidence_warns_of_heavy_tails(k_hat, n, words):
    text = str(GOOD._replace(k_hat=k_hat, n_samples=n))
    if words is None:
        assert "Warning" not in text
    else:
        assert words in text.splitlines()[-1]
        assert "Warning" in text


# ------------------------------------------------------------------------------------------------- a user's own model
class Gaussian:
    """z ~ N(0, I) and x ~ N(z, noise²) by columns: log p(x) and the posterior are known."""

    def __init__(self, x, noise):
        self.x, self.noise, self.prior = np.asarray(x, float), noise, Normal(np.zeros(len(x)), 1.0)
        self.log_z = float(norm.logpdf(x, 0, math.sqrt(1 + noise**2)).sum())
        shrink = 1 / (1 + noise**2)
        self.posterior = Normal(shrink * self.x, noise * math.sqrt(shrink))

    def likelihood(self, z):
        return norm.logpdf(self.x, z, self.noise).sum(axis=1)

    def joint(self, z):
        return self.prior.log_prob(z) + self.likelihood(z), (self.x - z) / self.noise**2 - z


def test_samples_of_the_prior_and_of_q_give_the_evidence():
    model = Gaussian([0.5, -1.0], 0.7)
    naive = naive_monte_carlo(model.likelihood, model.prior, 20_000, random_state=0)
    assert abs(naive.log_z - model.log_z) < 4 * naive.log_z_error < 0.1
    q = Normal([0.3, -0.5], [0.8, 0.6])
    found = sampled(model.joint, q, 20_000, random_state=0)
    assert abs(found.log_z - model.log_z) < 4 * found.log_z_error < 0.1
    assert abs(found.elbo - (model.log_z - q.kl(model.posterior))) < 4 * found.elbo_error < 0.1


def test_q_equal_to_the_posterior_gives_the_evidence_to_rounding():
    model = Gaussian([0.5, -1.0, 3.0], 0.2)
    found = sampled(lambda z: model.joint(z)[0], model.posterior, 5000, random_state=1)
    assert_allclose([found.elbo, found.log_z], model.log_z, rtol=1e-12)
    assert found.elbo_error < 1e-12


def test_naive_monte_carlo_fails_in_many_dimensions_and_says_so():
    model = Gaussian(np.full(30, 0.7), 0.2)
    found = naive_monte_carlo(model.likelihood, model.prior, 20_000, random_state=0)
    assert model.log_z - found.log_z > 20 * max(1, found.log_z_error)
    assert found.ess < 3
    assert found.k_hat > 0.7
    assert "Warning" in str(found)


def test_bounds_rise_from_the_elbo_to_the_evidence():
    model, q, n = Gaussian([0.5, -1.0], 0.5), Normal([0.0, 0.0], 1.0), 10_500
    drawn = []
    found = bounds(lambda z: drawn.append(z) or model.joint(z), q, (1, 10, 100, 1000), n, random_state=3)
    z = np.concatenate(drawn)
    log_w = model.joint(z)[0] - q.log_prob(z)
    assert len(z) == n
    for k, bound, error in zip(*found[:3]):
        groups = logsumexp(log_w[: n // k * k].reshape(-1, k), axis=1) - math.log(k)
        assert_allclose(bound, groups.mean(), rtol=1e-12)
        assert_allclose(error, stats.sem(groups), rtol=1e-9)
    assert (np.diff(found.bound) > -0.003).all()  # but for the 500 that are in no group of 1000, surely
    assert (found.bound <= model.log_z + 4 * found.error).all()
    assert abs(found.bound[-1] - model.log_z) < 0.1
    exact = sampled(model.joint, q, n, random_state=3)
    assert_allclose([found.bound[0], found.error[0]], [exact.elbo, exact.elbo_error], rtol=1e-12)


def test_bounds_print_a_table():
    found = Bounds((1, 1000), np.array([-2.5, -2.25]), np.array([0.011, 0.002]), 5000)
    assert str(found) == (
        "      k  L_k, a lower bound on log Z in nats, by 5000 samples\n      1  -2.5 ± 0.01\n   1000  -2.25 ± 0.002"
    )


def test_zeros_of_the_target_are_zero_weights():
    half = lambda z: np.where(z[:, 0] > 0, 0.0, -np.inf)
    found = naive_monte_carlo(half, Normal([0.0], 1.0), 10_000, random_state=0)
    assert abs(found.log_z + math.log(2)) < 4 * found.log_z_error
    some = bounds(lambda z: half(z) + norm.logpdf(z[:, 0]), Normal([0.0], 1.0), (1, 50), 10_000, random_state=0)
    assert some.bound[0] == -np.inf
    assert np.isnan(some.error[0])
    assert -0.72 < some.bound[1] < -0.69


def test_a_users_function_gets_some_samples_at_a_time_and_may_be_jitted():
    sizes = []

    @numba.njit
    def jitted(z):
        l, g = np.zeros(len(z)), np.empty(z.shape)
        for i in range(len(z)):
            for j in range(z.shape[1]):
                l[i] -= 0.5 * z[i, j] ** 2
                g[i, j] = -z[i, j]
        return l, g

    sampled(lambda z: sizes.append(len(z)) or jitted(z), Normal([0.0, 0.0], 1.5), 10_000, random_state=0)
    assert max(sizes) <= 4096
    assert sum(sizes) == 10_000
    found = annealed(jitted, Normal([0.0, 0.0], 1.5), 50, 10, random_state=0)
    assert abs(found.log_z - math.log(2 * math.pi)) < 4 * found.log_z_error < 0.3


def test_what_a_users_function_may_not_give():
    q = Normal([0.0, 0.0], 1.0)
    with pytest.raises(
        ValueError, match=re.escape("log_joint must give log p of the shape (100,) for z of the shape (1")
    ):
        sampled(lambda z: z, q, 100)
    bad = lambda z: np.where(np.arange(len(z)) == 7, np.nan, 0.0)
    with pytest.raises(
        ValueError, match=r"log_likelihood must give .* zero, got nan at sample 7, z = \[ *\S+ +\S+\]\."
    ):
        naive_monte_carlo(bad, q, 100, random_state=0)
    late = lambda z: np.full(len(z), 0.0 if len(z) == 4096 else np.inf)
    with pytest.raises(ValueError, match="got inf at sample 4096, z"):
        sampled(late, q, 5000)
    with pytest.raises(
        ValueError, match=re.escape("of which n_samples=100 has two groups each or more, got (1, 60). Try")
    ):
        bounds(lambda z: z[:, 0], q, (1, 60), 100)
    with pytest.raises(ValueError, match="'k' parameter of bounds must be an integer of at least 1, got 0"):
        bounds(lambda z: z[:, 0], q, 0, 100)
    for function in (sampled, naive_monte_carlo):
        with pytest.raises(ValueError, match=r"'n_samples' parameter of .* at least 2, got 1"):
            function(lambda z: z[:, 0], q, 1)


# ----------------------------------------------------------------------------------- annealed importance sampling
def two_hills(z):
    """6 times the mean of N((2, 0), 0.5²) and N((-2, 1), 0.3²), and its gradient."""
    hills = [Normal([2.0, 0.0], 0.5), Normal([-2.0, 1.0], 0.3)]
    l = np.stack([h.log_prob(z) for h in hills]) + math.log(3)
    r = np.exp(l - np.logaddexp(*l))[:, :, None]
    return np.logaddexp(*l), sum(s * h.log_prob_gradients(z)[0] for s, h in zip(r, hills))


def test_the_weights_of_annealed_chains_are_unbiased():
    """Few temperatures, so that they vary: by 4 standard errors of E[w] = Z, and backwards of E[1/w] = 1/Z."""
    start, N = Normal([0.0, 0.0], 1.5), 1500
    draws = rng().standard_normal((N, 2)) * np.repeat([[0.5], [0.3]], N // 2, 0) + np.repeat(
        [[2, 0], [-2, 1]], N // 2, 0
    )
    found = annealed(lambda z, rows: two_hills(z), start, 4, 4, n_rows=N, posterior=draws, random_state=0)
    assert found.lower.std() > 0.5
    for one_over, mean in (1, np.exp(found.log_z) / 6), (-1, 6 * np.exp(-found.upper)):
        assert abs(mean.mean() - 1) < 4 * stats.sem(mean), f"w^{one_over}"
        assert stats.sem(mean) < 0.1
    assert found.lower.mean() < math.log(6) < found.upper.mean()


def test_annealing_finds_the_evidence_of_ppca_with_ten_dimensions():
    """log p(x) of each row within 0.1 nats, where naive Monte Carlo has an ESS of 1."""
    draw, D, d, N = rng(0), 20, 10, 4
    X = draw.standard_normal((300, d)) @ draw.standard_normal((d, D)) + draw.standard_normal((300, D)) + 1
    model = lvm.ProbabilisticPCA(d).fit(X)
    W, mu, s2 = model.loadings_, model.mean_, model.noise_variance_
    x, prior = X[:N] - mu, Normal(np.zeros(d), 1.0)

    def joint(z, rows):
        e = x[rows] - z @ W.T
        l = -0.5 * ((e * e).sum(axis=1) / s2 + D * math.log(2 * math.pi * s2) + (z * z).sum(axis=1))
        return l - 0.5 * d * math.log(2 * math.pi), e @ W / s2 - z

    means, C = (np.asarray(a) for a in model.posterior(X[:N]))
    truth = means + draw.standard_normal((N, d)) @ np.linalg.cholesky(C.reshape(-1, d, d)[0]).T
    found = annealed(joint, prior, 150, n_rows=N, posterior=truth, random_state=0)
    wanted = multivariate_normal(mu, W @ W.T + s2 * np.eye(D)).logpdf(X[:N])
    assert_allclose(found.log_z, wanted, atol=0.1)
    assert (found.log_z_error < 0.1).all()
    assert (found.lower < wanted).all()
    assert (found.upper > wanted - 4 * found.upper_error).all()
    assert found.gap.max() < 0.3
    assert (abs(found.acceptance.mean(axis=1) - 0.8) < 0.1).all()
    likelihood = lambda z: joint(z, np.zeros(len(z), int))[0] - prior.log_prob(z)
    naive = naive_monte_carlo(likelihood, prior, 20_000, random_state=0)
    assert naive.ess < 3


def test_one_temperature_is_importance_sampling():
    start = Normal([0.0, 0.0], 2.0)
    found = annealed(two_hills, start, 500, 1, random_state=5)
    one = sampled(two_hills, start, 500, random_state=5)
    assert (found.log_z, found.log_z_error, found.lower, found.ess) == (one.log_z, one.log_z_error, one.elbo, one.ess)
    assert found.k_hat == one.k_hat
    assert found.acceptance.shape == (0,)


def test_each_row_has_its_own_steps_and_temperatures():
    """Two problems whose posteriors are 30 times as wide one as the other."""
    width, start = np.array([0.03, 0.9]), Normal(np.zeros(3), 1.0)

    def joint(z, rows):
        s = width[rows, None]
        return 2 + norm.logpdf(z, 0.5, s).sum(axis=1), (0.5 - z) / s**2

    seen = []
    found = annealed(lambda z, rows: seen.append(rows) or joint(z, rows), start, 30, 300, n_rows=2, random_state=0)
    assert seen[-1].dtype == np.int64
    assert_array_equal(seen[-1], np.repeat([0, 1], 30))
    assert found.acceptance.shape == (2, 299)
    assert (abs(found.acceptance.mean(axis=1) - 0.8) < 0.1).all()
    assert (abs(found.log_z - 2) < 4 * found.log_z_error).all()
    assert found.log_z_error.max() < 0.2


def test_the_units_of_z_do_not_matter():
    unit = np.array([1e-6, 1e5])
    at = lambda unit: annealed(
        lambda z: (l := two_hills(z / unit))[0:1] + (l[1] / unit,),
        Normal([0.0, 0.0], 1.5 * unit),
        20,
        50,
        random_state=0,
    )
    assert_allclose(at(unit).log_z - math.log(unit.prod()), at(np.ones(2)).log_z, rtol=1e-6)


def test_a_gradient_that_lies_costs_acceptance_and_not_truth():
    start = Normal([0.0], 1.0)
    honest = lambda z: (norm.logpdf(z[:, 0], 1, 0.3), -(z - 1) / 0.09)
    found = annealed(lambda z: (honest(z)[0], -honest(z)[1]), start, 400, 100, random_state=0)
    assert abs(found.log_z) < 4 * found.log_z_error < 0.3
    assert annealed(honest, start, 400, 100, random_state=0).ess > 1.2 * found.ess


def test_a_zero_of_the_target_ends_a_chain_and_not_the_estimate():
    half = lambda z: (np.where(z[:, 0] > 0, norm.logpdf(z[:, 0]), -np.inf), np.where(z > 0, -z, np.nan))
    found = annealed(half, Normal([0.0], 1.0), 400, 20, random_state=0)
    assert found.lower == -np.inf
    assert abs(found.log_z + math.log(2)) < 4 * found.log_z_error < 0.3
    assert 0.3 < found.acceptance.mean() < 0.45  # of the half that goes on: the steps are fitted to these


@pytest.mark.parametrize(("value", "slope"), [(np.nan, np.nan), (np.inf, 0), (np.inf, np.inf), (-np.inf, np.nan)])
def test_moves_into_what_is_no_number_are_rejected(value, slope):
    def fenced(z):
        out = np.abs(z) > 0.75
        return np.where(out[:, 0], value, norm.logpdf(z[:, 0], 0, 0.3)), np.where(out, slope, -z / 0.09)

    found = annealed(fenced, Normal([0.0], 0.15), 200, 100, random_state=0)
    assert abs(found.log_z - math.log(norm.cdf(2.5) - norm.cdf(-2.5))) < 4 * found.log_z_error < 0.4


def test_the_first_value_that_is_no_number_is_named():
    start, good = Normal([0.0, 0.0], 1.0), lambda z: (z.sum(axis=1), np.ones_like(z))
    with pytest.raises(
        NumericalError, match=r"log_joint must .* got log p = nan .* z = \[.*\], a sample from start. Look"
    ):
        annealed(lambda z: (np.where(z[:, 0] > 0, 0.0, np.nan), z), start, random_state=0)
    with pytest.raises(NumericalError, match=r"with the gradient \[\S+ +nan\] at z = "):
        annealed(lambda z: (z[:, 0], z * [1, np.nan]), start)
    with pytest.raises(NumericalError, match="a sample from start of row 2"):
        annealed(lambda z, rows: (np.where(rows == 2, np.inf, 0.0), z), start, n_rows=3)
    with pytest.raises(NumericalError, match=r"log p = -inf .*\[7. 7.\], a sample from posterior. Look"):
        annealed(lambda z: (np.where(z[:, 0] == 7, -np.inf, 0.0), 0 * z), start, 5, 5, posterior=[7, 7], random_state=0)
    for posterior, rows, shape in ([0.0], None, "(2,), got (1,)"), ([0.0, 1.0], 3, "(3, 2), got (2,)"):
        with pytest.raises(
            ValueError, match=re.escape(f"posterior must be a sample of the posterior, of the shape {shape}")
        ):
            annealed(good, start, posterior=posterior, n_rows=rows)


def test_what_annealed_may_not_get():
    start = Normal([0.0, 0.0], 1.0)
    with pytest.raises(
        ValueError, match=re.escape("must give a tuple (log p(x,z), gradient) for z (M,D), got ndarray.")
    ):
        annealed(lambda z: z[:, 0], start)
    with pytest.raises(ValueError, match=re.escape("shape (16, 2) for z of the shape (16, 2), got (16,) and (16,).")):
        annealed(lambda z: (z[:, 0], z[:, 1]), start)
    for name, value in {"n_chains": 1, "n_temperatures": 0, "n_leapfrog": 0, "n_rows": 0}.items():
        with pytest.raises(ValueError, match=f"The '{name}' parameter of annealed must be an integer of at least"):
            annealed(two_hills, start, **{name: value})


def test_annealing_repeats_with_an_integer_and_shows_bars_when_asked(capsys):
    run = lambda seed, **more: annealed(two_hills, Normal([0.0, 0.0], 2.0), 10, 10, random_state=seed, **more)
    assert run(1).log_z == run(1).log_z != run(2).log_z
    generator = rng(1)
    assert run(generator).log_z == run(1).log_z != run(generator).log_z
    assert capsys.readouterr().err == ""
    run(1, verbose=True, posterior=[2.0, 0.0])
    shown = capsys.readouterr().err
    assert all(title in shown for title in ("Pilot", "Forwards", "Backwards"))


def test_annealed_prints_what_it_is():
    one = Annealed(-2.5, 0.011, -2.625, 0.03, -2.375, 0.02, 40.0, 0.3, np.array([0.8, 0.6]), 64, 3)
    assert str(one) == (
        "log Z  -2.5 ± 0.01 nats, by 64 chains\n"
        "lower  -2.625 ± 0.03 nats, the mean of log w\n"
        "upper  -2.375 ± 0.02 nats, backwards from one sample: log Z is enclosed within 0.125\n"
        "ESS    40.0 (62.5% of the chains)\n"
        "k-hat  0.3\n"
        "moves  70% accepted, at each of 2 temperatures 60% or more"
    )
    assert str(one._replace(k_hat=0.8)).endswith("or a start that is nearer to the posterior.")
    two = Annealed(*(np.array([a, a]) for a in one[:8]), np.full((2, 2), 0.75), 16, 3)
    nan = np.full(2, np.nan)
    assert str(two._replace(upper=nan, k_hat=nan)) == (
        "log Z  -5 ± 0.02 nats in all, -2.5 a row, by 16 chains a row\n"
        "lower  -5.25 ± 0.04 nats in all, -2.625 a row, the mean of log w\n"
        "ESS    40.0 (250.0% of the chains) in the worst row\n"
        "moves  75% accepted, at each of 2 temperatures 75% or more"
    )
    assert "enclosed within 0.125 or less in each row" in str(two)


# --------------------------------------------------------------------------------------------------------- decoders
DECODERS = {
    "bernoulli": ("bernoulli", False, "tanh"),
    "isotropic": ("isotropic", False, "softplus"),
    "diagonal": ("diagonal", True, "relu"),
    "network": ("network", False, "leaky_relu"),
    "squashed network": ("network", True, "tanh"),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_the_decoder_and_its_slopes_in_z(kind):
    """Forward against tests/reference.py, back against Richardson."""
    likelihood, squashed, activation = DECODERS[kind]
    a, draw = Architecture(5, 3, (2,), (7, 4), activation, likelihood, squashed, 0, True), rng(2)
    theta = {name: draw.standard_normal(shape) for name, shape in a.shapes().items()}
    x, z, v = draw.random((4, 5)), draw.standard_normal((6, 3)), draw.standard_normal((6, 3))
    rows, joint = np.array([0, 0, 1, 3, 2, 1]), Joint(a, theta, 20.0, x, 0.75)
    log_p, slope = joint(z, rows)
    words = {"likelihood": likelihood if likelihood == "bernoulli" else "gaussian", "noise": likelihood}
    words["mean"] = "sigmoid" if squashed else "linear"
    of_x = vae_log_px(theta, vae_decode(theta, z, activation), x[rows], **words)
    assert_allclose(log_p, of_x + norm.logpdf(z).sum(axis=1) + 0.75, rtol=1e-12)
    eps = 1e-4 if "relu" in activation else 1e-2  # short of the kinks
    for m in range(6):
        along = richardson(lambda t, m=m: joint(z + t * v, rows)[0][m], eps)
        assert_allclose(slope[m] @ v[m], along, rtol=1e-9, atol=1e-9)


def test_rows_are_drawn_as_the_decoder_has_them():
    for likelihood, squashed in ("bernoulli", False), ("network", True):
        a, draw = Architecture(2, 1, (2,), (3,), "tanh", likelihood, squashed, 0, True), rng(3)
        theta = {name: draw.standard_normal(shape) for name, shape in a.shapes().items()}
        z = np.repeat(draw.standard_normal((1, 1)), 40_000, axis=0)
        x, A = Joint(a, theta, 20.0, np.empty((0, 2)), 0.0).draw(z, draw), vae_decode(theta, z[:1], "tanh")[0]
        assert_allclose(x.mean(axis=0), expit(A[:2]), atol=0.03)
        var = expit(A[:2]) * expit(-A[:2]) if likelihood == "bernoulli" else np.exp(20 * np.tanh(A[2:] / 20))
        assert_allclose(x.var(axis=0), var, rtol=0.05)


# ---------------------------------------------------------------------------------------------------------- reports
IRIS = lvm.datasets.load_iris()
SPECIES = np.repeat(["setosa", "versicolor", "virginica"], 50)
PIXELS = (lvm.datasets.load_digits()[:300] / 16).astype(np.float32)


@functools.cache
def digits_vae():
    options = {"likelihood": "bernoulli", "binarize": "dynamic", "hidden_layer_sizes": (100,), "random_state": 0}
    return lvm.VAE(20, max_epochs=20, batch_size=50, **options).fit(PIXELS)


@functools.cache
def linear_vae():
    return lvm.VAE(2, hidden_layer_sizes=(), noise="diagonal", max_epochs=2, random_state=0).fit(IRIS)


def of_linear_vae(X):
    """log p(x) of rows under `linear_vae`, by SciPy."""
    vae = linear_vae()
    W, b = vae.weights_["output"] * vae.scale_, vae.mean_ + vae.weights_["output_bias"] * vae.scale_
    return multivariate_normal(b, W.T @ W + np.diag(vae.noise_variance_)).logpdf(X)


def test_rows_drawn_from_a_vae_of_twenty_dimensions_are_enclosed_within_a_nat():
    found = simulated(digits_vae(), 4, n_temperatures=300, random_state=0)
    assert found.log_z.shape == (4,)
    assert found.gap.max() < 1
    assert (found.gap > -4 * (found.log_z_error + found.upper_error)).all()
    assert (found.acceptance.mean(axis=1) > 0.6).all()


def test_the_evidence_of_rows_drawn_from_a_linear_vae_lies_between_the_bounds():
    vae = linear_vae()
    found = simulated(vae, 5, n_temperatures=200, random_state=1)
    joint, _ = vae._simulated(5, rng(1))
    wanted = of_linear_vae(joint.x * vae.scale_ + vae.mean_)
    assert (found.lower - 4 * found.lower_error < wanted).all()
    assert (found.upper + 4 * found.upper_error > wanted).all()
    assert_allclose(found.log_z, wanted, atol=0.3)


def test_a_report_on_a_vae_has_the_numbers_of_its_own_answers():
    vae, X = digits_vae(), PIXELS[:40]
    found = report(vae, X, n_samples=50, annealed=True, n_temperatures=100, n_leapfrog=2, random_state=0)
    assert_allclose(found.elbo, vae.elbo(X, 50).sum(), rtol=1e-6)
    assert_allclose(found.weighted, vae.score_samples(X, 50).sum(), rtol=1e-6)
    assert_allclose(found.weighted_error, 40 * vae.evaluate(X, 50).nll_error, rtol=1e-9)
    assert found.elbo < found.weighted < found.log_evidence + 4 * (found.weighted_error + found.log_evidence_error)
    assert_allclose([found.log_evidence, found.mean], [found.each.sum(), found.each.mean()])
    assert not found.exact
    assert_allclose(found.gap, found.log_evidence - found.elbo)
    few, each = report(vae, X, n_samples=26), [report(vae, X[i : i + 1], n_samples=26) for i in range(40)]
    ks = np.array([one.k_hat for one in each])
    assert_allclose([few.k_hat, few.ess], [max(ks), min(one.ess for one in each)], rtol=1e-3)
    assert few.k_hat_above == np.mean(ks > 0.7) > np.mean(ks > 0.9)
    plain = report(vae, X, n_samples=50)
    assert (plain.log_evidence, plain.elbo) == (found.weighted, found.elbo)
    assert_allclose(
        found.each, vae.score_samples(X, 5000), atol=1.5
    )  # of the same pixels, made black or white by noise


def test_a_report_on_a_linear_vae_is_exact():
    found, wanted = report(linear_vae(), IRIS, n_samples=10), of_linear_vae(IRIS)
    assert found.exact
    assert_allclose(found.each, wanted, rtol=1e-9)
    assert_allclose(found.elbo, linear_vae().elbo(IRIS).sum(), rtol=1e-9)
    assert found.elbo_error == 0
    assert_allclose(found.gap, wanted.sum() - found.elbo)


def test_reports_of_exact_densities_are_those_of_scipy():
    gaps = IRIS.copy()
    gaps[3], gaps[5, 1] = np.nan, np.nan
    mixture = lvm.GaussianMixture(2, random_state=0).fit(IRIS)
    parts = [multivariate_normal(m, C).logpdf(IRIS) for m, C in zip(mixture.means_, mixture.covariances_)]
    found = report(mixture, IRIS)
    assert_allclose(found.each, logsumexp(parts, axis=0, b=mixture.weights_[:, None]), rtol=1e-9)
    assert (found.gap, found.exact, found.n) == (0, True, 150)
    ppca = lvm.ProbabilisticPCA(2).fit(IRIS)
    whole = multivariate_normal(ppca.mean_, ppca.get_covariance())
    assert_allclose(report(ppca, IRIS).each, whole.logpdf(IRIS), rtol=1e-9)
    for model in mixture, ppca:
        some = report(model, gaps)
        assert_allclose(some.log_evidence, model.score(gaps) * 149)
        assert (some.n, len(some.each)) == (149, 149)
        with pytest.raises(ValueError, match="nothing observed"):
            report(model, gaps[3:4])
    X = IRIS[:, :2]
    flow = lvm.PlanarFlow(2, max_epochs=1, random_state=0).fit(X)
    steps = [richardson(lambda t, e=e: flow.transform(X[:5] + t * e)) for e in np.eye(2)]
    log_det = np.linalg.slogdet(np.stack(steps, axis=2))[1]
    assert_allclose(report(flow, X[:5]).each, norm.logpdf(flow.transform(X[:5])).sum(axis=1) + log_det, rtol=1e-7)


def test_a_report_on_logistic_regression_is_that_of_a_grid():
    """One column and an intercept: two weights, integrated by the trapezoid rule."""
    X, y = IRIS[50:, 3:], SPECIES[50:]
    model = lvm.VariationalLogisticRegression(random_state=0).fit(X, y)
    found = report(model, X, y, n_samples=4000, random_state=0)
    Phi, signs = np.column_stack([X - model.mean_, np.ones(100)]), np.where(y == "virginica", 1, -1)
    alpha, mu = np.append(model.alpha_, model.intercept_alpha_), np.append(model.coef_, model.centred_intercept_)
    wanted = relevance_evidence(Phi, signs, np.ones(100), alpha, mu, np.linalg.cholesky(model.covariance_[0]))
    assert abs(found.log_evidence - wanted) < 4 * found.log_evidence_error < 0.1
    assert_allclose(found.elbo, 100 * model.lower_bound_, rtol=1e-9)
    assert 0 < found.gap < 0.2
    assert found.ess > 2000
    assert report(model, X, y, n_samples=4000, random_state=0)[:-5] == found[:-5]
    diagonal = lvm.VariationalLogisticRegression(covariance="diag").fit(X, y)
    loose = report(diagonal, X, y, n_samples=4000, random_state=0)
    assert_allclose(loose.elbo, 100 * diagonal.lower_bound_, rtol=1e-9)
    assert loose.elbo < loose.log_evidence


def test_a_report_on_many_classes_is_a_sum_over_problems():
    model = lvm.RelevanceVectorClassifier(gamma=0.2, random_state=0).fit(IRIS[::3], SPECIES[::3])
    found = report(model, IRIS[::3], SPECIES[::3], n_samples=300, random_state=0)
    assert found.each.shape == (3,)
    assert_allclose(found.log_evidence, found.each.sum())
    assert_allclose(found.elbo, 50 * model.lower_bound_, rtol=1e-9)
    assert "of 3 problems, one against the rest" in str(found)
    with pytest.raises(ValueError, match=r"labels \['rose'\] that are not among the classes"):
        report(model, IRIS[:2], ["rose", "setosa"])


def test_a_report_on_the_relevance_vector_regressor_is_exact():
    X, y = IRIS[:, :3], 100 + IRIS[:, 3]
    model = lvm.RelevanceVectorRegressor(gamma=0.5, random_state=0).fit(X, y)
    found = report(model, X, y)
    square = ((X[:, None] - model.relevance_vectors_) ** 2).sum(axis=2)
    Phi = np.column_stack([np.exp(-0.5 * square), np.ones(150)])
    C = (Phi * np.append(model.alpha_, model.intercept_alpha_)) @ Phi.T + model.noise_variance_ * np.eye(150)
    assert_allclose(found.log_evidence, multivariate_normal(np.full(150, y.mean()), C).logpdf(y), rtol=1e-9)
    assert abs(found.gap) < 1e-6
    less = report(model, X[:75], y[:75])
    assert less.exact
    assert less.gap > 0.1  # q is the posterior of other rows


def test_a_report_on_a_net_is_its_bound():
    """Without hidden layers: y = w'x + b + noise, of which E_q log p is known."""
    X, y = IRIS[:, :3], IRIS[:, 3]
    net = lvm.BayesianMLPRegressor(hidden_layer_sizes=(), prior="gaussian", max_epochs=2, random_state=0).fit(X, y)
    found, w = report(net, X, y, n_samples=1001), net.weights_
    S = np.exp(20 * np.tanh(w["rho_0"] / 20))
    x, t = np.column_stack([(X - net.mean_) / net.scale_, np.ones(150)]), (y - net.y_mean_) / net.y_scale_
    m, v, s2 = x @ w["mu_0"][:, 0], x**2 @ S[:, 0], net.noise_variance_ / net.y_scale_**2
    px = -0.5 * (np.log(2 * np.pi * net.noise_variance_) + ((t - m) ** 2 + v) / s2).sum()
    kl = 0.5 * (S + w["mu_0"] ** 2 - 1 - np.log(S)).sum()
    assert abs(found.elbo - (px - kl)) < 4 * found.elbo_error < 30
    assert found.log_evidence == found.elbo
    assert np.isnan([found.weighted, found.gap, found.k_hat]).all()
    deep = lvm.BayesianMLPClassifier(hidden_layer_sizes=(4,), prior="log_uniform", max_epochs=1, random_state=0)
    deep.fit(IRIS, SPECIES)
    of_deep = report(deep, IRIS, SPECIES, n_samples=40)
    assert_allclose(of_deep.elbo, 150 * deep.evaluate(IRIS, SPECIES, 40).bound, rtol=1e-9)
    assert "the prior is improper" in of_deep.how
    with pytest.raises(ValueError, match=re.escape("some are pruned. Try prune(None) before it.")):
        report(deep.prune(), IRIS, SPECIES)


def test_the_noise_of_a_nets_bound_is_that_of_pairs_of_draws():
    """Draws with eps and -eps, whose errors are each other's."""
    pairs = rng().standard_normal(50)
    found = bound_report(None, 3, np.column_stack([7 + pairs, 7 - pairs]).ravel(), 2.0, "")
    assert_allclose(found.elbo, 5)
    assert found.elbo_error < 1e-15
    assert_allclose(bound_report(None, 3, np.repeat(pairs, 2), 2.0, "").elbo_error, stats.sem(pairs))


def test_what_has_no_report():
    with pytest.raises(TypeError, match="report is for the models of lvm, got dict"):
        report({}, IRIS)
    with pytest.raises(TypeError, match=r"simulated is for a fitted VAE, .* got ProbabilisticPCA"):
        simulated(lvm.ProbabilisticPCA(2).fit(IRIS))
    with pytest.raises(NotFittedError):
        report(lvm.GaussianMixture(2), IRIS)
    with pytest.raises(NotFittedError):
        simulated(lvm.VAE(2))
    with pytest.raises(ValueError, match="requires y to be passed"):
        report(lvm.VariationalLogisticRegression().fit(IRIS[50:, 3:], SPECIES[50:]), IRIS[50:, 3:])
    with pytest.raises(ValueError, match="'n_samples' parameter of report must be an integer of at least 2"):
        report(linear_vae(), IRIS, n_samples=1)
    with pytest.raises(ValueError, match="'annealed' parameter of report must be True or False"):
        report(linear_vae(), IRIS, annealed="yes")
    plain = lvm.VAE(2, likelihood="autoencoder", hidden_layer_sizes=(3,), max_epochs=1, random_state=0).fit(IRIS)
    for ask in (lambda: report(plain, IRIS)), (lambda: simulated(plain)):
        with pytest.raises(ValueError, match="needs a density"):
            ask()


def test_a_report_prints_what_it_is():
    exact = report(lvm.ProbabilisticPCA(2).fit(IRIS), IRIS)
    assert str(exact) == (
        "ProbabilisticPCA, 150 rows, nats\n"
        "log p(x)   -404.96278 in all, -2.69975 a row: exact, a normal density\n"
        "ELBO       -404.96278 in all, -2.69975 a row: a lower bound\n"
        "gap        0 in all, 0 a row: KL(q || posterior)"
    )
    found = exact._replace(
        model="VAE", exact=False, how="at least", log_evidence_error=0.25, elbo=-450.0, elbo_error=1.5
    )
    found = found._replace(weighted=-420.0, weighted_error=0.5, ess=3.25, k_hat=0.75, k_hat_above=0.125, n_samples=50)
    assert str(found) == (
        "VAE, 150 rows, nats\n"
        "log p(x)   -404.96278 in all, -2.69975 a row, ± 0.2 in all: at least\n"
        "L_50       -420 in all, -2.8 a row, ± 0.5 in all: a lower bound\n"
        "ELBO       -450 in all, -3 a row, ± 2 in all: a lower bound\n"
        "gap        45.03722 in all, 0.300248 a row: KL(q || posterior), as far as that is known\n"
        "ESS        3.2 of 50 at worst\n"
        "k-hat      0.75 at worst, above 0.7 in 12.5%"
    )


def test_what_is_no_distribution_is_told():
    fit = SimpleNamespace(q=Normal(0.0, 1.0))
    log_p = lambda z: (-0.5 * z[:, 0] ** 2, -z)
    with pytest.raises(TypeError, match=r"q must be a distribution of lvm\.distributions, got SimpleNamespace"):
        evidence.sampled(log_p, fit)
    with pytest.raises(TypeError, match="prior must be a distribution"):
        evidence.naive_monte_carlo(log_p, 3)
    with pytest.raises(TypeError, match="start must be a distribution"):
        evidence.annealed(log_p, lvm.PlanarFlow(2))
    with pytest.raises(TypeError, match=r"log_joint must be callable, .* got int"):
        evidence.annealed(3, fit.q)


def test_a_density_that_float64_cannot_square_ends_the_pilot():
    with (
        np.errstate(over="ignore"),
        pytest.raises(NumericalError, match="log_joint varies over samples of start by more"),
    ):
        evidence.annealed(lambda z: (-1e200 * z[:, 0] ** 2, -2e200 * z), Normal(0.0, 1.0), random_state=0)
