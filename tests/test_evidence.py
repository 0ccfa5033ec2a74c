"""Importance weights against closed forms and an obvious fit of the generalized Pareto distribution."""

import math
import re
import tracemalloc

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from lvm.evidence import Evidence, importance, pareto_k

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
