"""Distributions against scipy.stats, quadrature, mpmath and the reference's complex steps."""

import itertools
import re

import mpmath
import numpy as np
import pytest
from gradcheck import complex_step, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    distribution_conditionals,
    distribution_log_prob,
    distribution_transform,
    log_softmax,
)
from scipy import integrate, stats

from lvm import distributions as D
from lvm.distributions import estimation_error_bound, expectation

mp = mpmath.mp.clone()
mp.dps = 40

log = np.log
MEAN = np.array([0.3, -1.2, 0.1])
FACTOR = np.array([[1.5, 0, 0], [-0.7, 0.8, 0], [0.2, 0.5, 0.4]])
WEIGHTS, MEANS = np.array([0.5, 0.2, 0.3]), np.array([[-1.0, 0.5], [2.0, 1.0], [0.3, -1.5]])
SCALES = np.array([[0.6, 1.2], [1.0, 0.4], [0.8, 0.9]])
PAIR = np.array([0.3, -1.2]), np.array([0.5, 2.0])

# arguments of each family, its coordinates without bounds by hand, and scipy's of the same (of products)
TABLE = {
    "Normal": (PAIR, lambda m, s: {"mean": m, "log_scale": log(s)}, stats.norm),
    "MultivariateNormal": (
        (MEAN, FACTOR),
        lambda m, L: {"mean": m, "factor": np.array([log(1.5), -0.7, log(0.8), 0.2, 0.5, log(0.4)])},
        lambda m, L: stats.multivariate_normal(m, L @ L.T),
    ),
    "NormalMixture": (
        (WEIGHTS, MEANS, SCALES),
        lambda w, m, s: {"logits": log(w), "means": m, "log_scales": log(s)},
        None,
    ),
    "Uniform": (
        (np.array([-1.0, 2.0]), np.array([0.5, 7.0])),
        lambda a, b: {"low": a, "log_width": log(b - a)},
        lambda a, b: stats.uniform(a, b - a),
    ),
    "Exponential": ((PAIR[1],), lambda s: {"log_scale": log(s)}, lambda s: stats.expon(0, s)),
    "Laplace": (PAIR, lambda m, s: {"loc": m, "log_scale": log(s)}, stats.laplace),
    "Logistic": (PAIR, lambda m, s: {"loc": m, "log_scale": log(s)}, stats.logistic),
    "Gumbel": (PAIR, lambda m, s: {"loc": m, "log_scale": log(s)}, stats.gumbel_r),
    "Weibull": (
        (PAIR[1], np.array([0.7, 3.0])),
        lambda s, k: {"log_scale": log(s), "log_shape": log(k)},
        lambda s, k: stats.weibull_min(k, 0, s),
    ),
    "Cauchy": (PAIR, lambda m, s: {"loc": m, "log_scale": log(s)}, stats.cauchy),
}
JOINT = ["MultivariateNormal", "NormalMixture"]
PRODUCTS = [name for name in TABLE if name not in JOINT]
INVERSE = PRODUCTS[1:]  # z = F^-1(u)
families = pytest.mark.parametrize("family", TABLE)
products = pytest.mark.parametrize("family", PRODUCTS)


def coordinates(family):
    return TABLE[family][1](*TABLE[family][0])


def scipys(family):
    return TABLE[family][2](*TABLE[family][0])


def make(family):
    return getattr(D, family)(*TABLE[family][0])


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(family, n=5):
    """Base noise: of a mixture its first column is uniform."""
    if family in INVERSE:
        return rng().uniform(0.05, 0.95, (n, 2))
    if family == "NormalMixture":
        return np.column_stack([rng(1).random(n), rng().standard_normal((n, 2))])
    return rng().standard_normal((n, len(TABLE[family][0][0])))


def sample(family, n=5):
    """Rows within the support, of the reference."""
    theta, eps = coordinates(family), noise(family, n)
    return eps[:, 1:] if family == "NormalMixture" else distribution_transform(family, theta, eps)


def per_row(f, z):
    """Gradient (n,D) of f (n,), each entry from its own row, by complex steps."""
    return np.array([complex_step(lambda y: f(y[None])[0], y) for y in z])


def slopes_in_theta(family, theta, name, z):
    """Of the reference's log q in the parameter of this name, row by row, by complex steps: (n, *shape)."""
    f = lambda p, y: distribution_log_prob(family, {**theta, name: p}, y[None])[0]
    return np.array([complex_step(lambda p, y=y: f(p, y), theta[name]) for y in z])


# ------------------------------------------------------------------------------------------ the reference by itself
@families
def test_the_reference_is_scipys(family):
    theta = coordinates(family)
    if family == "NormalMixture":
        z = rng().normal(size=(7, 2))
        each = [stats.multivariate_normal(m, np.diag(s**2)).pdf(z) for m, s in zip(MEANS, SCALES)]
        want = log(WEIGHTS @ each)
        F = distribution_conditionals(theta, z)
        assert_allclose(F[:, 0], stats.norm.cdf(z[:, :1], MEANS[:, 0], SCALES[:, 0]) @ WEIGHTS)
        p = WEIGHTS * stats.norm.pdf(z[:, :1], MEANS[:, 0], SCALES[:, 0])
        assert_allclose(F[:, 1], (p * stats.norm.cdf(z[:, 1:], MEANS[:, 1], SCALES[:, 1])).sum(1) / p.sum(1))
    else:
        z = distribution_transform(family, theta, noise(family, 7))
        want = scipys(family).logpdf(z)
        want = want if family == "MultivariateNormal" else want.sum(1)
        u = noise(family, 7) if family in INVERSE else stats.norm.cdf(noise(family, 7))
        assert_allclose(rosenblatt(family, z), u, rtol=1e-12)
    assert_allclose(distribution_log_prob(family, theta, z), want, rtol=1e-12)


def rosenblatt(family, z):
    """F_d(z_d | z_<d) (n,D), independent uniforms if z is a sample of the family."""
    if family == "NormalMixture":
        return distribution_conditionals(coordinates(family), z)
    if family == "MultivariateNormal":
        return stats.norm.cdf(np.linalg.solve(FACTOR, (z - MEAN).T).T)
    return scipys(family).cdf(z)


# ------------------------------------------------------------------------------------------ densities and coordinates
@families
def test_parameters_are_coordinates_without_bounds(family):
    q, want = make(family), coordinates(family)
    assert list(q.parameters) == list(want)
    assert q.n_features == noise("Uniform" if family == "NormalMixture" else family).shape[1]
    for name, value in q.parameters.items():
        assert value.shape == want[name].shape
        assert_allclose(value, want[name], rtol=1e-14, atol=1e-15)
    assert q.support_moves == (family == "Uniform")


@families
def test_replaced_is_the_family_at_other_coordinates(family):
    q, z = make(family), sample(family)
    theta = {name: value + 0.01 * rng().standard_normal(value.shape) for name, value in q.parameters.items()}
    other = q.replaced(theta)
    assert type(other) is type(q)
    assert_allclose(other.log_prob(z), distribution_log_prob(family, theta, z), rtol=1e-12)
    assert_allclose(q.replaced(q.parameters).log_prob(z), q.log_prob(z), rtol=1e-14)
    back = make(family).replaced(other.parameters).parameters
    for name, value in other.parameters.items():
        assert_allclose(back[name], value, rtol=1e-14, atol=1e-15)


@families
def test_log_prob_is_the_references(family):
    q, z = make(family), sample(family, 50)
    assert_allclose(q.log_prob(z), distribution_log_prob(family, coordinates(family), z), rtol=1e-12)


@families
def test_gradients_of_log_prob_are_those_of_the_references_complex_steps(family):
    q, theta, z = make(family), coordinates(family), sample(family)
    of_z, of_theta = q.log_prob_gradients(z)
    assert list(of_theta) == list(theta)
    want = per_row(lambda y: distribution_log_prob(family, theta, y), z)
    assert_allclose(of_z, want, rtol=1e-10, atol=1e-12)
    for name in theta:
        want = slopes_in_theta(family, theta, name, z)
        assert_allclose(of_theta[name], want, rtol=1e-10, atol=1e-12, err_msg=name)


@families
def test_gradients_of_log_prob_are_its_differences(family):
    """Along one direction for z and one for each parameter."""
    q, z = make(family), sample(family)
    of_z, of_theta = q.log_prob_gradients(z)
    v = rng(2).standard_normal(z.shape)
    want = richardson(lambda t: q.log_prob(z + t * v))
    assert_allclose((of_z * v).sum(1), want, rtol=1e-9, atol=1e-9)
    for name, value in q.parameters.items():
        v = rng(2).standard_normal(value.shape)
        want = richardson(lambda t, n=name, p=value, v=v: q.replaced({**q.parameters, n: p + t * v}).log_prob(z))
        got = (of_theta[name] * v).reshape(len(z), -1).sum(1)
        assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=name)


# --------------------------------------------------------------------------------------------------- noise and samples
@pytest.mark.parametrize("family", [name for name in TABLE if name != "NormalMixture"])
def test_transform_and_pull_are_those_of_the_reference(family):
    q, theta, eps = make(family), coordinates(family), noise(family)
    z, g = q.transform(eps), rng(3).standard_normal(eps.shape)
    assert_allclose(z, distribution_transform(family, theta, eps), rtol=1e-12)
    pulled = q.pull(z, g)
    assert list(pulled) == list(theta)
    for name in theta:
        along = lambda p, e, b, n=name: b @ distribution_transform(family, {**theta, n: p}, e[None])[0]
        want = [complex_step(lambda p, e=e, b=b, f=along: f(p, e, b), theta[name]) for e, b in zip(eps, g)]
        assert_allclose(pulled[name], want, rtol=1e-10, atol=1e-12, err_msg=name)


def test_pull_of_a_mixture_is_the_implicit_derivative():
    """F(z) = u at fixed u: dF/dz dz/dtheta = -dF/dtheta, dF/dz lower triangular.   Graves 2016"""
    q, theta, z = make("NormalMixture"), coordinates("NormalMixture"), sample("NormalMixture", 20)
    g = rng(3).standard_normal(z.shape)
    pulled = q.pull(z, g)
    F = lambda theta, y, d: distribution_conditionals(theta, y[None])[0, d]
    for n, y in enumerate(z):
        A = np.array([complex_step(lambda y, d=d: F(theta, y, d), y) for d in range(2)])
        assert A[0, 1] == 0
        weights = np.linalg.solve(A.T, g[n])
        for name in theta:
            B = [complex_step(lambda p, d=d, k=name, y=y: F({**theta, k: p}, y, d), theta[name]) for d in range(2)]
            want = -np.tensordot(weights, np.array(B), 1)
            assert_allclose(pulled[name][n], want, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("columns", [1, 2])
def test_pull_of_a_mixture_has_the_mean_of_the_gradient(columns):
    """E[sin z_1] by a sum on a fine grid; E[z_1² z_2] = sum_k w_k (mu_k1² + s_k1²) mu_k2."""
    q = D.NormalMixture(WEIGHTS, MEANS[:, :columns], SCALES[:, :columns])
    theta, z = q.parameters, q.sample(100_000, random_state=0)
    if columns == 1:
        grid, slopes = np.linspace(-20, 20, 4001)[:, None], np.cos(z)
        value = lambda theta: 0.01 * np.sin(grid[:, 0]) @ np.exp(distribution_log_prob("NormalMixture", theta, grid))
    else:
        slopes = np.column_stack([2 * z[:, 0] * z[:, 1], z[:, 0] ** 2])
        value = lambda theta: (
            np.exp(log_softmax(theta["logits"]))
            @ ((theta["means"][:, 0] ** 2 + np.exp(2 * theta["log_scales"][:, 0])) * theta["means"][:, 1])
        )
    for name, each in q.pull(z, slopes).items():
        want = complex_step(lambda p, n=name: value({**theta, n: p}), theta[name])
        error = each.std(0) / np.sqrt(len(z))
        assert (np.abs(each.mean(0) - want) < 4 * error).all(), name


# distribution functions of the standard members, for mpmath; the Weibull one has the shape 3
CUMULATIVE = {
    "Uniform": lambda t: t,
    "Exponential": lambda t: -mp.expm1(-t),
    "Laplace": lambda t: mp.exp(t) / 2 if t < 0 else 1 - mp.exp(-t) / 2,
    "Logistic": lambda t: 1 / (1 + mp.exp(-t)),
    "Gumbel": lambda t: mp.exp(-mp.exp(-t)),
    "Weibull": lambda t: -mp.expm1(-(t**3)),
    "Cauchy": lambda t: mp.atan2(1, -t) / mp.pi,
}


@pytest.mark.parametrize("family", INVERSE)
def test_transform_inverts_the_distribution_function_far_into_both_tails(family):
    args = {"Exponential": (1.0,), "Weibull": (1.0, 3.0)}.get(family, (0.0, 1.0))
    q = getattr(D, family)(*args)
    u = np.array([1e-300, 1e-15, 1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 2.0**-40, 1 - 2.0**-52, 1 - 2.0**-53])
    F = [CUMULATIVE[family](mp.mpf(z)) for z in q.transform(u)[:, 0].tolist()]
    assert_allclose([float(f) for f in F], u, rtol=1e-12)
    assert_allclose([float(1 - f) for f in F], 1 - u, rtol=1e-12)


def test_transform_of_a_mixture_takes_the_component_of_its_first_column():
    u, eps = np.array([1e-300, 0.49, 0.51, 0.69, 0.71, 1 - 2.0**-53]), rng().standard_normal((6, 2))
    k = [0, 0, 1, 1, 2, 2]
    assert_allclose(make("NormalMixture").transform(np.column_stack([u, eps])), MEANS[k] + SCALES[k] * eps, rtol=1e-14)


@families
def test_samples_have_the_distribution(family):
    n = 5000
    u = rosenblatt(family, make(family).sample(n, random_state=0))
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.T) - np.eye(u.shape[1])).max() < 4 / np.sqrt(n)


@families
def test_samples_are_those_of_the_random_state(family):
    q = make(family)
    z = q.sample(9, random_state=3)
    assert z.shape == (9, q.n_features)
    assert z.dtype == float
    assert_array_equal(q.sample(9, random_state=3), z)
    assert_allclose(q.sample(500, random_state=3)[:9], z, rtol=1e-14)  # the first rows are the same for any n
    assert (q.sample(9, random_state=4) != z).all()
    generator = rng(3)
    first, second = q.sample(4, generator), q.sample(4, generator)
    assert (first != second).all()
    assert q.sample().shape == (1, q.n_features)


@families
def test_answers_of_a_row_are_its_own(family):
    """40 000 rows are many tiles in two blocks."""
    q = make(family)
    z = q.sample(40_000, random_state=0)
    g, some = rng().standard_normal(z.shape), [0, 127, 128, 20_000, 39_999]
    (of_z, of_theta), pulled = q.log_prob_gradients(z), q.pull(z, g)
    (few_of_z, few_of_theta), few_pulled = q.log_prob_gradients(z[some]), q.pull(z[some], g[some])
    assert_allclose(q.log_prob(z)[some], q.log_prob(z[some]), rtol=1e-14)
    assert_allclose(of_z[some], few_of_z, rtol=1e-13, atol=1e-14)
    for name in q.parameters:
        assert_allclose(of_theta[name][some], few_of_theta[name], rtol=1e-13, atol=1e-14)
        assert_allclose(pulled[name][some], few_pulled[name], rtol=1e-13, atol=1e-14)


# ------------------------------------------------------------------------------------------------- tiny, huge, far away
@families
@pytest.mark.parametrize("s", [1e-150, 1e150])
def test_units_change_nothing(family, s):
    """z and all that has its unit times s: log q falls by D log s, slopes in what has the unit are divided by s."""
    args = [a if i == {"NormalMixture": 0, "Weibull": 1}.get(family) else a * s for i, a in enumerate(TABLE[family][0])]
    q, scaled, z = make(family), getattr(D, family)(*args), sample(family)
    g, units = rng().standard_normal(z.shape), {"factor": np.array([1, s, 1, s, s, 1])}
    assert_allclose(scaled.transform(noise(family)), s * q.transform(noise(family)), rtol=1e-12)
    assert_allclose(scaled.log_prob(s * z) + q.n_features * log(s), q.log_prob(z), rtol=1e-11, atol=1e-11)
    (of_z, of_theta), pulled = q.log_prob_gradients(z), q.pull(z, g)
    (scaled_of_z, scaled_of_theta), scaled_pulled = scaled.log_prob_gradients(s * z), scaled.pull(s * z, g / s)
    assert_allclose(scaled_of_z * s, of_z, rtol=1e-12)
    for name in q.parameters:
        unit = units.get(name, s if name in ("mean", "loc", "low", "means") else 1)
        assert_allclose(scaled_of_theta[name] * unit, of_theta[name], rtol=1e-11, atol=1e-12, err_msg=name)
        assert_allclose(scaled_pulled[name] * unit, pulled[name], rtol=1e-11, atol=1e-12, err_msg=name)
    assert_allclose(scaled.mean, q.mean * s, rtol=1e-12, atol=1e-15 * s)
    assert_allclose(scaled.variance, q.variance * s * s, rtol=1e-12)
    if family != "NormalMixture":
        assert_allclose(scaled.entropy(), q.entropy() + q.n_features * log(s), rtol=1e-12)
    if family not in ("NormalMixture", "Logistic"):
        assert_allclose(scaled.kl(scaled), 0, atol=1e-12)


@pytest.mark.parametrize("family", ["Normal", "Exponential", "Laplace", "Logistic", "Gumbel", "Cauchy"])
def test_slopes_are_right_far_away(family):
    q, theta = make(family), coordinates(family)
    x = np.array([1e-8, 1.0, 40.0, 300.0] if family == "Exponential" else [-40.0, -1.0, 1e-8, 40.0, 300.0])
    z = theta.get("mean", theta.get("loc", 0)) + np.exp(theta["log_scale"]) * x[:, None]
    of_z, of_theta = q.log_prob_gradients(z)
    assert_allclose(q.log_prob(z), distribution_log_prob(family, theta, z), rtol=1e-12, atol=1e-14)
    assert_allclose(of_z, per_row(lambda y: distribution_log_prob(family, theta, y), z), rtol=1e-10)
    for name in theta:
        want = slopes_in_theta(family, theta, name, z)
        assert_allclose(of_theta[name], want, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("shape", [0.1, 1.0, 50.0])
def test_weibull_slopes_are_mpmaths(shape):
    q, z = D.Weibull(2.0, shape), np.array([1e-300, 1e-10, 0.5, 1.99, 2.0, 2.2, 80.0])
    of_z, of_theta = q.log_prob_gradients(z)
    log_q = lambda x, a, b: b - a + (mp.exp(b) - 1) * (x - a) - mp.exp(mp.exp(b) * (x - a))  # of x = log z
    at = [(mp.log(y), mp.log(2), mp.log(mp.mpf(shape))) for y in z.tolist()]
    with mp.workdps(350):  # w = 5e-301 counts beside log q where the shape is 1
        orders = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
        slopes = [np.array([float(mp.diff(log_q, p, order)) for p in at]) for order in orders]
    assert_allclose(q.log_prob(z), [float(log_q(*p)) for p in at], rtol=1e-12)
    assert_allclose(of_z[:, 0], slopes[0] / z, rtol=1e-10)
    assert_allclose(of_theta["log_scale"][:, 0], slopes[1], rtol=1e-10, atol=1e-14)
    assert_allclose(of_theta["log_shape"][:, 0], slopes[2], rtol=1e-10)


def test_rare_and_far_components_have_their_slopes():
    """Weights of 1e-300, components 1e3 scales apart, rows 40 scales from all: against the reference."""
    q = D.NormalMixture([1 - 1e-12, 1e-12, 1e-300], [[0.0], [1e3], [50.0]], [[1.0], [2.0], [1e-3]])
    theta, z = q.parameters, np.array([[0.0], [-40.0], [40.0], [50.0], [50.002], [500.0], [1e3], [2e3]])
    of_z, of_theta = q.log_prob_gradients(z)
    assert_allclose(q.log_prob(z), distribution_log_prob("NormalMixture", theta, z), rtol=1e-12)
    assert_allclose(of_z, per_row(lambda y: distribution_log_prob("NormalMixture", theta, y), z), rtol=1e-9, atol=1e-12)
    for name in theta:
        want = slopes_in_theta("NormalMixture", theta, name, z)
        assert_allclose(of_theta[name], want, rtol=1e-9, atol=1e-12, err_msg=name)


def test_pull_of_a_mixture_is_right_in_both_tails():
    """-dF/dtheta / p by mpmath: F nearly 0 or 1, where a difference of its terms would have no digits."""
    w, m, s = [mp.mpf("0.75"), mp.mpf("0.25")], [mp.mpf(0), mp.mpf(3)], [mp.mpf(1), mp.mpf(2)]
    q = D.NormalMixture([0.75, 0.25], [[0.0], [3.0]], [[1.0], [2.0]])
    z = np.array([[-12.0], [-6.0], [1.0], [9.0], [20.0]])
    pulled = q.pull(z, np.ones_like(z))

    def F(z, w, m, s):  # of the smaller tail, so that 40 digits are enough: minus the upper one
        sign = 1 if z < 1 else -1
        return sum(v / sum(w) * sign * mp.ncdf(sign * (z - c) / e) for v, c, e in zip(w, m, s))

    put = lambda a, k, v: [v if i == k else b for i, b in enumerate(a)]
    for n, y in enumerate(z[:, 0].tolist()):
        for k in range(2):
            by_theta = [
                lambda v, k=k, y=y: F(y, put(w, k, w[k] * mp.exp(v)), m, s),
                lambda v, k=k, y=y: F(y, w, put(m, k, m[k] + v), s),
                lambda v, k=k, y=y: F(y, w, m, put(s, k, s[k] * mp.exp(v))),
            ]
            with mp.workdps(150):  # the components' shares of F differ by many digits
                p = sum(v * mp.npdf(y, c, e) for v, c, e in zip(w, m, s))
                want = [float(-mp.diff(f, 0) / p) for f in by_theta]
            got = [pulled["logits"][n, k], pulled["means"][n, k, 0], pulled["log_scales"][n, k, 0]]
            assert_allclose(got, want, rtol=1e-10, atol=1e-300)


def test_nothing_overflows_far_away():
    z = np.array([-1e200, 1e200])
    assert_allclose(D.Cauchy(0.0, 1.0).log_prob(z), -log(np.pi) - 2 * log(1e200), rtol=1e-14)
    assert_allclose(D.Cauchy(0.0, 1.0).log_prob_gradients(z)[0][:, 0], [2e-200, -2e-200], rtol=1e-14)
    assert_allclose(D.Laplace(0.0, 1.0).log_prob(z), -1e200)
    assert_allclose(D.Logistic(0.0, 1.0).log_prob(z), -1e200)
    assert_array_equal(D.Gumbel(0.0, 1.0).log_prob(z), [-np.inf, -1e200])
    assert_array_equal(D.Normal(0.0, 1.0).log_prob(z), [-np.inf, -np.inf])


def test_density_is_zero_outside_the_support():
    z = np.array([[-1.001, 5.0], [0.501, 5.0], [0.0, 1.99], [0.0, 7.01], [-1.0, 7.0]])
    assert_array_equal(np.isfinite(make("Uniform").log_prob(z)), [False, False, False, False, True])
    for family in "Exponential", "Weibull":
        assert_array_equal(make(family).log_prob([[1.0, -1e-300], [-2.0, 1.0]]), [-np.inf, -np.inf])
    assert_allclose(D.Exponential(2.0).log_prob([0.0]), -log(2))


# ------------------------------------------------------------------------------------------------ entropy, kl, moments
@families
def test_entropy_is_scipys(family):
    q = make(family)
    if family == "NormalMixture":
        with pytest.raises(ValueError, match="entropy"):
            q.entropy()
    else:
        assert_allclose(q.entropy(), np.sum(scipys(family).entropy()), rtol=1e-12)


@families
def test_mean_and_variance_are_scipys(family):
    q = make(family)
    if family == "NormalMixture":
        mean = WEIGHTS @ MEANS
        variance = WEIGHTS @ (SCALES**2 + MEANS**2) - mean**2
    elif family == "MultivariateNormal":
        mean, variance = MEAN, np.diag(FACTOR @ FACTOR.T)
    else:
        mean, variance = scipys(family).stats("mv")
    assert_allclose(q.mean, mean, rtol=1e-12)
    assert_allclose(q.variance, variance, rtol=1e-12)


@pytest.mark.parametrize("family", [f for f in PRODUCTS if f != "Logistic"])
def test_kl_is_that_of_quadrature(family):
    """The integral of log q - log p over u in (0, 1), column by column, at z = F^-1(u)."""
    q, theta = make(family), coordinates(family)
    moves = (-0.5, 0.6) if family == "Uniform" else (0.3, 0.2)  # p's support has to be the wider one
    there = {name: value + move for (name, value), move in zip(theta.items(), moves)}
    want = 0
    for d in range(2):
        mine, theirs = ({name: value[d : d + 1] for name, value in t.items()} for t in (theta, there))

        def gap(u, mine=mine, theirs=theirs):
            z = distribution_transform(family, mine, np.array([[stats.norm.ppf(u) if family == "Normal" else u]]))
            return (distribution_log_prob(family, mine, z) - distribution_log_prob(family, theirs, z))[0]

        want += integrate.quad(gap, 0, 1, epsabs=1e-11, epsrel=1e-11, limit=200)[0]
    assert_allclose(q.kl(q.replaced(there)), want, rtol=1e-8)


def test_kl_of_normal_distributions_is_that_of_determinants():
    diagonal = D.Normal(MEAN + 0.5, [0.4, 1.0, 2.0])
    full = make("MultivariateNormal")
    same = D.MultivariateNormal(diagonal.mean, np.diag(diagonal.scale))
    for q, p in (full, diagonal), (diagonal, full), (full, full.replaced({"mean": [1.0, 2.0, 3.0]})), (same, diagonal):
        S, P, away = q.covariance, np.linalg.inv(p.covariance), p.mean - q.mean
        want = 0.5 * (np.trace(P @ S) + away @ P @ away - 3 - np.linalg.slogdet(P @ S)[1])
        assert_allclose(q.kl(p), want, rtol=1e-12, atol=1e-12)
    assert_allclose(diagonal.kl(diagonal.replaced({"mean": MEAN})), same.kl(same.replaced({"mean": MEAN})), rtol=1e-12)


@pytest.mark.parametrize("family", [f for f in TABLE if f not in ("Logistic", "NormalMixture", "Uniform")])
def test_kl_is_never_negative_and_zero_of_itself(family):
    q, draw = make(family), rng()
    assert_allclose(q.kl(q), 0, atol=1e-14)
    for size in (1e-4, 0.1, 2.0) * 5:
        p = q.replaced({name: v + size * draw.standard_normal(v.shape) for name, v in q.parameters.items()})
        assert q.kl(p) > 0


def test_kl_is_infinite_of_a_uniform_that_covers_less():
    q = D.Uniform([0.0, 0.0], 1.0)
    assert q.kl(D.Uniform([0.0, 0.0], [1.0, 0.9])) == np.inf
    assert q.kl(q) == 0
    assert_allclose(q.kl(D.Uniform(-1.0, [1.0, 4.0])), log(10), rtol=1e-14)


# ------------------------------------------------------------------------------------------------------- expectations
def test_monte_carlo_meets_closed_forms():
    q = D.Normal([0.5, -1.0], [0.3, 0.8])
    f = lambda z: np.column_stack([z**2, np.exp(z)])
    found = expectation(f, q, n_samples=150_000, random_state=0)  # three blocks
    m, v = q.mean, q.variance
    want = np.concatenate([m**2 + v, np.exp(m + v / 2)])
    assert (np.abs(found.value - want) < 4 * found.error).all()
    variance = np.concatenate([2 * v**2 + 4 * v * m**2, np.expm1(v) * np.exp(2 * m + v)])
    assert_allclose(found.variance, variance, rtol=0.05)
    assert_allclose(found.error, np.sqrt(found.variance / 150_000), rtol=1e-12)
    assert_array_equal(expectation(f, q, n_samples=150_000, random_state=0).value, found.value)


@families
def test_monte_carlo_finds_the_entropy(family):
    if family == "NormalMixture":
        q, want = D.NormalMixture([0.4, 0.6], [[0.0], [0.0]], [[2.0], [2.0]]), 0.5 * log(8 * np.pi * np.e)
    else:
        q = make(family)
        want = q.entropy()
    found = expectation(lambda z: -q.log_prob(z), q, n_samples=20_000, random_state=0)
    assert abs(found.value - want) <= 4 * found.error + 1e-12


def test_the_variance_is_that_of_all_samples_whatever_their_mean():
    seen = []

    def f(z):
        seen.append(z[:, 0])
        return 1e8 + z[:, 0]

    found = expectation(f, D.Normal(0.0, 1.0), n_samples=150_000, random_state=0)
    assert [len(z) for z in seen] == [65_536, 65_536, 18_928]
    assert len(np.unique(np.concatenate(seen))) == 150_000  # no block is another one again
    assert_allclose(found.variance, np.concatenate(seen).var(ddof=1), rtol=1e-6)
    assert_allclose(found.value - 1e8, np.concatenate(seen).mean(), atol=1e-7)


@pytest.mark.parametrize("family", [f for f in TABLE if f != "Cauchy"])
def test_taylor_is_exact_for_quadratics(family):
    """E f = f(m) + tr(H S)/2; its variance is that of the slope at m alone."""
    q, draw = make(family), rng()
    n, m, S = q.n_features, q.mean, q.covariance
    H, b = draw.standard_normal((n, n)), draw.standard_normal(n)
    H = H + H.T
    f = lambda z: np.column_stack([0.5 * ((z @ H) * z).sum(1) + z @ b + 3, z @ b])
    found = expectation(f, q, method="taylor")
    assert_allclose(found.value, [0.5 * (m @ H @ m + np.trace(H @ S)) + m @ b + 3, m @ b], rtol=1e-9, atol=1e-9)
    assert_allclose(found.variance, [(H @ m + b) @ S @ (H @ m + b), b @ S @ b], rtol=1e-9)
    assert np.isnan(found.error).all()


def test_taylor_is_the_delta_method():
    """E exp z = exp(m + v/2): 1 + v/2 of it, to differences of the order of their step."""
    found = expectation(lambda z: np.exp(z[:, 0]), D.Normal(0.4, 0.1), method="taylor")
    assert_allclose(found.value, np.exp(0.4) * (1 + 0.01 / 2), rtol=1e-11)
    assert_allclose(found.variance, 0.01 * np.exp(0.8), rtol=1e-9)


def test_estimation_error_bound_is_the_variance_of_a_normal_distribution_and_below_any_other():
    for scale in 1e-3, 1.0, 40.0:
        assert_allclose(estimation_error_bound(D.Normal(3.0, scale).entropy()), scale**2, rtol=1e-13)
    uniform = D.Uniform(1.0, 4.0)
    assert uniform.entropy() == log(3.0)
    assert_allclose(estimation_error_bound(log(3.0)), 9 / (2 * np.pi * np.e), rtol=1e-14)
    for family in "Uniform", "Exponential", "Laplace", "Logistic", "Gumbel", "Weibull":
        q = getattr(D, family)(*(a[0] for a in TABLE[family][0]))
        assert estimation_error_bound(q.entropy()) < q.variance[0]


# --------------------------------------------------------------------------------------------------- errors and copies
NORMAL, HALVES = D.Normal([0.0, 1.0], 1.0), [0.5, 0.5]
CENTRES = ONES = [[1.0], [1.0]]
TRY_SAMPLES = "has no closed form here. Try expectation(lambda z: q.log_prob(z) - other.log_prob(z), q)."


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: D.Normal(0.0, [1.0, -2.0]), "scale of Normal must be above 0, got -2."),
        (lambda: D.Exponential(0.0), "scale of Exponential must be above 0, got 0."),
        (lambda: D.Weibull(1.0, np.inf), "shape of Weibull must be finite, got inf."),
        (lambda: D.Laplace([0.0, np.nan], 1.0), "loc of Laplace must be finite, got nan."),
        (lambda: D.Normal([0.0, 1.0], np.ones(3)), "arrays of one length (D,), got mean (2,), scale (3,)."),
        (lambda: D.Gumbel([[0.0]], 1.0), "arrays of one length (D,), got loc (1, 1), scale (1,)."),
        (lambda: D.Uniform([0.0, 2.0], 1.0), "Uniform wants high above low, got low=2.0, high=1.0."),
        (
            lambda: D.MultivariateNormal(MEAN, FACTOR.T),
            "must be lower triangular, got numbers above its diagonal. Try ",
        ),
        (
            lambda: D.MultivariateNormal(MEAN, np.eye(2)),
            "wants a mean (D,) and a matrix (D,D), got the shapes (3,) and (2, 2).",
        ),
        (
            lambda: D.MultivariateNormal(MEAN, -FACTOR),
            "the factor's diagonal of MultivariateNormal must be above 0, got ",
        ),
        (lambda: D.MultivariateNormal.from_covariance(MEAN, FACTOR), "covariance must be a symmetric matrix (D,D)"),
        (lambda: D.MultivariateNormal.from_covariance(MEAN, 2 - np.eye(3)), "covariance is not positive definite. Try"),
        (
            lambda: D.NormalMixture([0.5, 0.6], CENTRES, ONES),
            "weights must sum to 1, got 1.1. Try weights / weights.sum()",
        ),
        (lambda: D.NormalMixture([1.5, -0.5], CENTRES, ONES), "weights of NormalMixture must be above 0, got -0.5."),
        (lambda: D.NormalMixture(HALVES, CENTRES, [[1.0], [0.0]]), "scales of NormalMixture must be above 0, got 0."),
        (lambda: D.NormalMixture(HALVES, np.ones((3, 1)), ONES), "scales (K,D), got (2,), (3, 1) and (2, 1)."),
        (lambda: NORMAL.log_prob(np.zeros(2)), "z must have the shape (n, 2) for this Normal, got (2,)."),
        (lambda: NORMAL.log_prob_gradients([[0.0, 1.0], [0.0, np.nan]]), "z must be finite, got [ 0. nan] in row 1."),
        (lambda: NORMAL.pull(np.zeros((3, 2)), np.zeros((1, 2))), "g must have the shape of z, (3, 2), got (1, 2)."),
        (
            lambda: make("NormalMixture").transform(np.zeros((1, 2))),
            "noise must have the shape (n, 3) for this NormalM",
        ),
        (lambda: NORMAL.sample(0), "The 'n_samples' parameter of sample must be an integer of at least 1, got 0"),
        (lambda: NORMAL.replaced({"scale": [1.0, 1.0]}), "Normal has the parameters mean, log_scale, got 'scale'."),
        (lambda: NORMAL.replaced({"mean": [1.0]}), "mean must be finite numbers of the shape (2,), got [1.0]."),
        (lambda: NORMAL.replaced({"log_scale": [0.0, np.nan]}), "log_scale must be finite numbers of the shape (2,)"),
        (lambda: NORMAL.replaced({"log_scale": [0.0, 800.0]}), "Normal: a scale or shape is beyond what float64 has."),
        (lambda: NORMAL.replaced({"log_scale": [0.0, -800.0]}), "Normal: a scale or shape is beyond what float64 has."),
        (lambda: make("NormalMixture").entropy(), "entropy of NormalMixture has no closed form. Try expectation("),
        (lambda: make("NormalMixture").kl(NORMAL), f"KL(NormalMixture || Normal) {TRY_SAMPLES}"),
        (lambda: make("Logistic").kl(make("Logistic")), f"KL(Logistic || Logistic) {TRY_SAMPLES}"),
        (lambda: NORMAL.kl(make("Laplace")), f"KL(Normal || Laplace) {TRY_SAMPLES}"),
        (lambda: NORMAL.kl(D.Normal(0.0, 1.0)), "kl wants as many columns, 2, got 1."),
        (lambda: expectation(np.exp, make("Cauchy"), "taylor"), "Cauchy has no mean or variance to expand about. Try "),
        (
            lambda: expectation(np.exp, NORMAL, "delta"),
            "parameter of expectation must be one of 'monte_carlo', 'taylor'",
        ),
        (
            lambda: expectation(len, NORMAL, n_samples=9),
            "f must give a value for each row of z (9, 2), got the shape ().",
        ),
        (
            lambda: expectation(lambda z: z / 0 * 0, NORMAL, "taylor"),
            "f gave [nan nan] at z = [0. 1.]: it must be finite",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        call()


def test_what_is_no_distribution_and_no_number_is_a_type_error():
    with pytest.raises(TypeError, match=r"kl wants another distribution of lvm.distributions, got str"):
        NORMAL.kl("Normal")
    with pytest.raises(TypeError, match=r"q must be a distribution of lvm.distributions, got type"):
        expectation(np.exp, D.Normal)
    with pytest.raises(TypeError, match="mean must be numbers, got 'a'"):
        D.Normal("a", 1.0)


@families
def test_distributions_cannot_be_changed_through_what_they_took_or_gave(family):
    args = [a.copy() for a in TABLE[family][0]]
    q, z, eps = getattr(D, family)(*args), sample(family), noise(family)
    g = np.ones_like(z)
    before, given = q.log_prob(z), [a.copy() for a in (*args, z, g, eps)]
    q.log_prob_gradients(z), q.pull(z, g), q.transform(eps)
    for a, b in zip((*args, z, g, eps), given):
        assert_array_equal(a, b)
    for a in (*args, *q.parameters.values(), q.mean, q.variance):
        a[:] = 7
    assert_array_equal(q.log_prob(z), before)
    z.flags.writeable = g.flags.writeable = False
    assert_array_equal(q.log_prob(z), before)
    assert q.pull(z, g)


def test_numbers_and_arrays_are_broadcast_and_rows_of_one_column_need_no_second_axis():
    assert_array_equal(D.Normal(0.5, [1.0, 2.0]).mean, [0.5, 0.5])
    assert D.Weibull([1, 2, 3], 2).n_features == 3
    q, z = D.Gumbel(0.0, 1.0), [0.1, 0.2, 0.3]
    assert_array_equal(q.log_prob(z), q.log_prob(np.reshape(z, (3, 1))))
    assert q.log_prob(np.empty((0, 1))).shape == (0,)
    assert q.log_prob_gradients([0.1])[1]["loc"].shape == (1, 1)


def test_a_covariance_has_its_factor():
    S = FACTOR @ FACTOR.T
    q = D.MultivariateNormal.from_covariance(MEAN, S)
    assert_allclose(q.factor, FACTOR, rtol=1e-13, atol=1e-15)
    assert_allclose(q.covariance, S, rtol=1e-13)


def test_ends_of_a_uniform_are_those_given():
    """0.1 - -0.3 + -0.3 is not 0.1."""
    q = D.Uniform(-0.3, 0.1)
    assert_array_equal(q.high, [0.1])
    assert_allclose(q.kl(D.Uniform(-0.5, 0.1)), np.log(1.5), rtol=1e-14)
    for low, width in itertools.product([0.0, 100.0, -1e6], [1.15, 1 / 3, 49.0]):
        q = D.Uniform(low, low + width)
        ends = np.array([[low], [low + width]])
        assert np.isfinite(q.log_prob(ends)).all()
        assert np.isneginf(q.log_prob(ends + [[-1e-9], [1e-9]])).all()
        assert np.isfinite(q.log_prob(q.transform([[2.0**-53], [1 - 2.0**-53]]))).all()


def test_a_distribution_is_a_target():
    q = D.Normal([0.0, 1.0], 2.0)
    z = q.sample(5, 0)
    log_p, slope = q(z)
    assert_array_equal(log_p, q.log_prob(z))
    assert_array_equal(slope, q.log_prob_gradients(z)[0])


def test_a_covariance_is_symmetric_to_rounding():
    assert D.MultivariateNormal.from_covariance([0.0, 0.0], [[1.0, 1e-17], [0.0, 1.0]]).n_features == 2
