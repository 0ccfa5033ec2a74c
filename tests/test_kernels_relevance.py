"""Kernels of logistic regression and of relevance determination against slow NumPy, and what their docstrings say."""

import math

import numpy as np
import pytest
from gradcheck import complex_step, gradient, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    ard_diagonal_bound,
    ard_evidence,
    basis,
    logistic_mean,
    logistic_slopes,
    relevance_bound,
    relevance_gradients,
)
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit
from threads import assert_same_on_threads

from lvm.kernels.shared.relevance import LARGEST, noisy

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
TOL = {np.float32: 2e-5, np.float64: 1e-12}
rows_ = pytest.mark.parametrize("N", [1, 2, 63, 1000])
weighted_ = pytest.mark.parametrize("weighted", [False, True])
bias_ = pytest.mark.parametrize("bias", [0, 1])


def rng(seed=0):
    return np.random.default_rng(seed)


def signs(N, seed=0):
    return np.where(rng([7, seed, N]).random(N) < 0.5, 1.0, -1.0)


# ------------------------------------------------------------------------------------------------ phi
KINDS = {"gaussian": (0.3, True, 0.0, 1), "linear": (1.0, False, 0.0, 1), "cubic": (0.5, False, 1.5, 3)}


@T_
@bias_
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("N", "M", "D"), [(1, 1, 1), (7, 5, 3), (40, 33, 2), (3, 700, 65)])
def test_basis_functions_are_their_formula_and_one_after_them(k, N, M, D, kind, bias, T):
    X, C = rng().standard_normal((N, D)).astype(T), rng(1).standard_normal((M, D))
    Phi = np.full((N, M + bias), np.nan)
    k.relevance.basis(k.put(X), k.put(C.T.copy()), *KINDS[kind], Phi)
    assert_allclose(Phi[:, :M], basis(X.astype(float), C, *KINDS[kind]), rtol=1e-12, atol=1e-13)
    assert_array_equal(Phi[:, M:], 1)


def test_a_gaussian_at_its_own_centre_is_one_and_far_away_nothing(k):
    """Differences are squared, so that a common offset of 1e8 costs no digits."""
    X, Phi = np.array([[1e8], [1e8 + 0.5], [-1e200]]), np.empty((3, 3))
    k.relevance.basis(X, X.T.copy(), 2.0, True, 0.0, 1, Phi)
    assert_array_equal(np.diag(Phi), 1)
    assert_allclose(Phi[0], [1, np.exp(-0.5), 0], rtol=1e-15)


# ------------------------------------------------------------------------------------------------ sums
@T_
@rows_
@bias_
@pytest.mark.parametrize("D", [1, 3, 40])
def test_moments_of_a_diagonal_posterior_are_sums_over_the_columns(k, N, D, bias, T):
    r = rng([N, D])
    X, shift, factor = r.standard_normal((N, D)).astype(T), r.standard_normal(D).astype(T), r.random(D).astype(T) + 1
    mu, S = r.standard_normal(D + bias).astype(T), r.random(D + bias).astype(T)
    m, v = np.full((2, N), np.nan, T)
    k.relevance.moments(*map(k.put, (X, shift, factor, mu, S)), m, v)
    Z = (X.astype(float) - shift) * factor
    assert_allclose(m, Z @ mu[:D] + mu[D:].sum(), rtol=TOL[T], atol=30 * TOL[T])
    assert_allclose(v, Z**2 @ S[:D] + S[D:].sum(), rtol=TOL[T])


@rows_
@pytest.mark.parametrize("R", [0, 1, 5, 32])
def test_collected_moments_are_the_first_column_and_the_squares_of_the_others(k, N, R):
    U, (m, v) = rng().standard_normal((N, R + 1)), np.full((2, N), np.nan)
    k.relevance.collect(k.put(U), m, v)
    assert_array_equal(m, U[:, 0])
    assert_allclose(v, (U[:, 1:] ** 2).sum(1), rtol=1e-14)


@rows_
def test_rows_are_scaled_columns_taken_and_squares_added(k, N):
    Phi, r, which = rng().standard_normal((N, 9)), rng(1).random(N), np.array([8, 0, 3, 3])
    scaled, some, total = np.full((N, 9), np.nan), np.full((N, 4), np.nan), np.full(9, np.nan)
    k.relevance.scale(k.put(Phi), k.put(r), scaled)
    assert_array_equal(scaled, r[:, None] * Phi)
    k.relevance.columns(k.put(Phi), k.put(which), some)
    assert_array_equal(some, Phi[:, which])
    k.relevance.squares(k.put(Phi), total)
    assert_allclose(total, (Phi**2).sum(0), rtol=1e-13)


# ------------------------------------------------------------------------------------------------ sites
@rows_
@weighted_
def test_sites_are_the_slopes_of_the_expected_log_likelihood(k, N, weighted):
    m, v, y = 3 * rng().standard_normal(N), 5 * rng(1).random(N), signs(N)
    w = rng(2).gamma(1.0, size=N) if weighted else np.ones(N)
    w[: N // 3] *= not weighted
    t, r, F = np.full((3, N), np.nan)
    k.relevance.sites(*map(k.put, (m, v, y, w if weighted else np.empty(0))), t, r, F)
    g, l = logistic_slopes(y * m, v)
    assert_allclose(F, w * logistic_mean(y * m, v), rtol=1e-12, atol=1e-14)
    assert_allclose(r**2, w * l, rtol=1e-12, atol=1e-15)
    assert_allclose(t, w * (l * m + y * g), rtol=1e-12, atol=1e-14)


def test_odds_are_those_of_the_integrated_probability(k):
    m, v, out = 4 * rng().standard_normal(500), 9 * rng(1).random(500), np.empty(500)
    k.relevance.odds(m, v, out)
    assert_allclose(out, np.log(logistic_slopes(-m, v)[0] / logistic_slopes(m, v)[0]), rtol=1e-12, atol=1e-13)


def test_bits_do_not_depend_on_threads(k):
    """So many rows that each kernel has several pieces."""
    r, N, D = rng(), 3000, 7
    X, C, Phi = r.standard_normal((N, D)), r.standard_normal((D, 50)), np.empty((N, 51))
    mu, S, y, w = r.standard_normal(D + 1), r.random(D + 1), signs(N), r.random(N)
    shift, factor, eps, rows = np.zeros(D), np.ones(D), r.standard_normal(N), r.permutation(N)
    U = r.standard_normal((N, 9))

    def answers():
        p, (m, v, t, root, F, a, b, o), out = np.empty_like(Phi), np.empty((8, N)), np.empty((-(-N // 128), 2 * D + 4))
        scaled, some = np.empty((N, 9)), np.empty((N, 2))
        k.relevance.basis(X, C, 0.2, True, 0.0, 1, p)
        k.relevance.moments(X, shift, factor, mu, S, m, v)
        k.relevance.sites(m, v, y, w, t, root, F)
        k.relevance.collect(U, a, b)
        k.relevance.odds(m, v, o)
        k.relevance.scale(U, root, scaled)
        k.relevance.columns(U, np.array([3, 1]), some)
        k.relevance.local(X, rows, shift, factor, y, w, mu, S, eps, out)
        return [p, m, v, t, root, F, a, b, o, scaled, some, out]

    assert_same_on_threads(answers)


def test_a_row_does_not_depend_on_the_others(k):
    X, y, w = rng().standard_normal((900, 5)), signs(900), rng(1).random(900)
    mu, S, one, zero = rng(2).standard_normal(5), rng(3).random(5), np.ones(5), np.zeros(5)

    def answers(rows):
        out = np.empty((6, len(rows)))
        k.relevance.moments(X[rows], zero, one, mu, S, out[0], out[1])
        k.relevance.sites(out[0], out[1], y[rows], w[rows], *out[2:5])
        k.relevance.odds(out[0], out[1], out[5])
        return out

    rows = rng().permutation(900)
    assert_array_equal(answers(rows), answers(np.arange(900))[:, rows])
    assert_array_equal(answers(np.array([17])), answers(np.arange(900))[:, 17:18])


# ------------------------------------------------------------------------------------------------ gradients
def reference_problem(N=12, D=3, seed=0):
    r = rng([3, seed])
    C = np.tril(0.4 * r.standard_normal((D, D)), -1) + np.diag(0.3 + r.random(D))
    return r.standard_normal((N, D)), signs(N), r.gamma(2.0, size=N), r.standard_normal(D), C, 0.2 + r.random(D)


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_the_reference_are_those_by_complex_step(seed):
    Phi, y, w, mu, C, alpha = reference_problem(seed=seed)
    in_mu, in_root, in_alpha = relevance_gradients(Phi, y, w, mu, C, alpha)
    low = np.tril_indices(len(mu))
    root = lambda c: np.where(np.tri(len(mu)), c, 0)
    assert_allclose(in_mu, complex_step(lambda x: relevance_bound(Phi, y, w, x, C, alpha), mu), rtol=1e-10, atol=1e-10)
    by_step = complex_step(lambda x: relevance_bound(Phi, y, w, mu, root(x), alpha), C)
    assert_allclose(in_root[low], by_step[low], rtol=1e-10, atol=1e-10)
    assert_allclose(in_alpha, complex_step(lambda x: relevance_bound(Phi, y, w, mu, C, x), alpha), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_sites_have_the_gradient_of_the_bound(k, seed):
    """In mu: h - H mu - mu/alpha. In the root C of Sigma: C^-T - (H + 1/alpha) C."""
    Phi, y, w, mu, C, alpha = reference_problem(seed=seed)
    m, v = Phi @ mu, ((Phi @ C) ** 2).sum(1)
    t, r, F = np.empty((3, len(y)))
    k.relevance.sites(m, v, y, w, t, r, F)
    H, h = (Phi * r[:, None] ** 2).T @ Phi, Phi.T @ t
    in_mu, in_root, _ = relevance_gradients(Phi, y, w, mu, C, alpha)
    assert_allclose(h - H @ mu - mu / alpha, in_mu, rtol=1e-10, atol=1e-10)
    got = np.tril(np.diag(1 / np.diag(C)) - (H + np.diag(1 / alpha)) @ C)
    assert_allclose(got, in_root, rtol=1e-10, atol=1e-10)
    differences = gradient(lambda x: relevance_bound(Phi, y, w, x, C, alpha), mu, 1e-2)
    assert_allclose(h - H @ mu - mu / alpha, differences, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ minibatches
class Batch:
    """Rows of X, weights mu and log-variances rho, and all that `spread`, `local` and `finish` make of them."""

    def __init__(self, k, T=np.float64, N=300, D=4, bias=1, shared=0, weighted=True, scale=1.0, seed=0):
        r = rng([5, seed, N, D])
        self.k, self.T, self.D, self.P, self.shared = k, T, D, D + bias, shared
        self.X, self.shift, self.factor = 2 * r.standard_normal((N, D)), r.standard_normal(D), 0.5 + r.random(D)
        self.y, self.w = signs(N), r.gamma(1.0, size=N) if weighted else np.empty(0)
        self.rows, self.eps = r.permutation(N)[: max(2 * N // 3, 1)], np.empty(0)
        self.mu, self.rho = scale * r.standard_normal(self.P), 2 * r.standard_normal(self.P)
        self.counter, self.warm, self.kl, self.scale = np.array([3]), 10, 0.25, 1.7

    def spread(self, mu, rho):
        S, alpha = np.full((2, self.P), np.nan, self.T)
        self.k.relevance.spread(mu.astype(self.T), rho.astype(self.T), self.shared, S, alpha)
        return S, alpha

    def gradients(self):
        k, T = self.k, self.T
        mu, rho = self.mu.astype(T), self.rho.astype(T)
        S, alpha = self.spread(mu, rho)
        sums = np.full((-(-len(self.rows) // k.relevance.RUN), 2 * self.P + 2), np.nan, T)
        given = (a.astype(T) for a in (self.shift, self.factor, self.y, self.w))
        k.relevance.local(self.X.astype(T), self.rows, *given, mu, S, self.eps.astype(T), sums)
        (gm, gr), totals = np.full((2, self.P), np.nan, T), np.array([0.5, 0.25], T)
        k.relevance.finish(mu, rho, sums, S, alpha, self.counter, self.warm, self.kl, self.scale, gm, gr, totals)
        return gm, gr, totals, sums

    def loss(self, mu, rho):
        """-(scale sum w F - beta KL), alpha at its best, in plain NumPy."""
        S = np.exp(LARGEST * np.tanh(rho / LARGEST))
        Z = np.column_stack([(self.X - self.shift) * self.factor, np.ones((len(self.X), self.P - self.D))])[self.rows]
        m, v, y = Z @ mu, Z**2 @ S, self.y[self.rows]
        if self.eps.size:
            F = log_expit(y * m + np.sqrt(v) * self.eps)
        else:
            F = np.empty((3, len(m)))
            self.k.logistic.expectation(y * m, v, *F)
            F = F[0]
        alpha = mu**2 + S
        alpha[: self.shared] = alpha[: self.shared].mean() if self.shared else 0
        beta = self.kl * min(1, (self.counter[0] + 1) / self.warm)
        kl = 0.5 * (np.log(alpha / S) - 1 + (mu**2 + S) / alpha).sum()
        return beta * kl - self.scale * (self.w[self.rows] @ F if self.w.size else F.sum())


@T_
@pytest.mark.parametrize("shared", [0, 1, 4])
def test_spread_gives_variances_and_the_alpha_of_the_most_bound(k, shared, T):
    p = Batch(k, T, shared=shared)
    p.rho[:3] = -500, 500, 0
    S, alpha = p.spread(p.mu, p.rho)
    want = np.exp(LARGEST * np.tanh(p.rho / LARGEST))
    assert_allclose(S, want, rtol=50 * TOL[T])
    assert np.all(S > 0)
    square = p.mu**2 + want
    assert_allclose(alpha[shared:], square[shared:], rtol=50 * TOL[T])
    if shared:
        assert_allclose(alpha[:shared], square[:shared].mean(), rtol=50 * TOL[T])
    kl = lambda a: (np.log(a) + square / a).sum()  # what depends on alpha: twice KL
    for i in range(p.P):
        for factor in (0.9, 1.1):
            moved = alpha.astype(float)
            moved[: shared or None] *= factor if i < shared else 1
            moved[i] *= 1 if i < shared else factor
            assert kl(moved) > kl(alpha.astype(float))


@bias_
@weighted_
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-6])
def test_minibatch_gradients_are_the_differences_of_the_bound(k, bias, weighted, shared, noise, scale):
    """Weights so large that most rows are saturated, and tiny ones; the KL on its way up; S near its bounds."""
    p = Batch(k, bias=bias, weighted=weighted, shared=4 * shared, scale=scale)
    p.rho[:2] = -28, 12
    if noise:
        p.eps = rng(9).standard_normal(len(p.rows))
    gm, gr, _, _ = p.gradients()
    in_mu = gradient(lambda x: p.loss(x * p.mu, p.rho), np.ones(p.P), 5e-3)  # KL has log(mu² + S), also for tiny S
    in_rho = gradient(lambda x: p.loss(p.mu, x), p.rho, 5e-3)
    rounding = 1e-13 * (1 + abs(p.loss(p.mu, p.rho))) / 5e-3
    assert_allclose(gm * p.mu, in_mu, rtol=1e-9, atol=rounding)
    assert_allclose(gr, in_rho, rtol=1e-9, atol=rounding)


def test_one_direction_through_all_parameters_agrees_to_1e_9(k):
    for seed in range(5):
        p = Batch(k, seed=seed, scale=2.0)
        gm, gr, _, _ = p.gradients()
        a, b = rng(seed).standard_normal((2, p.P))
        want = richardson(lambda t, p=p, a=a, b=b: p.loss(p.mu + t * a, p.rho + t * b), 1e-2)
        assert gm @ a + gr @ b == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("N", [1, 2, 127, 128, 129, 600])
@T_
def test_sums_of_a_minibatch_are_those_of_its_rows_whatever_their_number(k, N, T):
    p = Batch(k, T, N=N, weighted=False)
    p.rho *= 0.3
    _, _, totals, sums = p.gradients()
    S, _ = p.spread(p.mu, p.rho)
    Z = np.column_stack([(p.X - p.shift) * p.factor, np.ones(N)])[p.rows]
    y, m, v = p.y[p.rows], Z @ p.mu, Z**2 @ S.astype(float)
    g, l = logistic_slopes(y * m, v)
    F = logistic_mean(y * m, v)
    want = np.concatenate([Z.T @ (y * g), -0.5 * (Z**2).T @ l, [F.sum(), len(F)]])
    assert_allclose(sums.sum(0), want, rtol=200 * TOL[T], atol=200 * TOL[T] * len(F))
    assert_allclose(totals, [0.5 + F.sum(), 0.25 + len(F)], rtol=200 * TOL[T])  # they are added to what was there


def test_the_weight_of_the_kl_rises_to_its_all_and_stays(k):
    p = Batch(k)
    p.scale = 0.0
    p.counter[0] = 10**6
    whole = p.gradients()[0]
    for step, part in (0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0):
        p.counter[0] = step
        assert_allclose(p.gradients()[0], part * whole, rtol=1e-14)
    p.counter[0], p.warm = 0, 1
    assert_array_equal(p.gradients()[0], whole)


@T_
def test_float32_gradients_are_near_those_of_float64(k, T):
    want, got = Batch(k).gradients(), Batch(k, T).gradients()
    for a, b in zip(got[:3], want[:3]):
        assert a.dtype == T
        assert_allclose(a, b, rtol=300 * TOL[T], atol=300 * TOL[T] * np.abs(b).max())


# ------------------------------------------------------------------------------------------------ one draw
@T_
def test_a_noisy_row_is_log_sigmoid_and_its_slopes(T):
    r = rng(4)
    for m, v, eps in zip(10 * r.standard_normal(200), 5 * r.random(200), r.standard_normal(200)):
        m, v, eps = T(m), T(v), T(eps)
        F, g, half = noisy(m, v, eps)
        u = float(m) + math.sqrt(float(v)) * float(eps)
        assert_allclose([F, g], [log_expit(u), expit(-u)], rtol=50 * TOL[T])
        assert_allclose(half, 0.5 * expit(-u) * float(eps) / math.sqrt(float(v)), rtol=50 * TOL[T])
    F, g, half = noisy(T(2), T(0), T(1.5))
    assert_allclose([F, g, half], [log_expit(2.0), expit(-2.0), 0], rtol=TOL[T])


@T_
def test_a_noisy_row_is_finite_however_sure(T):
    for m in (0, 1e-30, 80, 1e4, 1e30):
        for v in (0, 1e-30, 1, 1e30):
            for eps in (-5.0, 0.0, 5.0):
                for sign in (-1, 1):
                    assert np.isfinite(noisy(T(sign * m), T(v), T(eps))).all()


def test_noisy_sums_have_those_of_the_expectation_as_their_mean(k):
    """20000 draws: within 4 standard errors in each of 2P numbers and in F."""
    r, N, D = rng(6), 3, 2
    X, y, rows = r.standard_normal((N, D)), signs(N), np.arange(N)
    mu, S, one, zero, none = r.standard_normal(D + 1), 0.2 + r.random(D + 1), np.ones(D), np.zeros(D), np.empty(0)
    want, n = np.empty((1, 2 * D + 4)), 20_000
    k.relevance.local(X, rows, zero, one, y, none, mu, S, none, want)
    draws = np.empty((n, 2 * D + 4))
    for i, eps in enumerate(r.standard_normal((n, N))):
        k.relevance.local(X, rows, zero, one, y, none, mu, S, eps, draws[i : i + 1])
    error = draws.std(0)[:-1] / np.sqrt(n)
    assert np.all(np.abs(draws.mean(0) - want[0])[:-1] < 4 * error)
    assert np.all(error < 0.02)


# ------------------------------------------------------------------------------------------------ alpha
def gaussian(D, N=50, seed=0, scale=1.0, strength=2.0):
    """H (D,D), h (D,) of a linear model with weights of which every third is not 0."""
    r = rng([8, seed, D])
    X = r.standard_normal((N, D)) * scale
    target = X[:, ::3] @ (strength * r.standard_normal(X[:, ::3].shape[1]) / np.broadcast_to(scale, D)[::3])
    return X.T @ X, X.T @ (target + r.standard_normal(N))


class Full:
    """State of `ard.full`, with all weights as candidates unless told."""

    def __init__(self, k, H, h, candidates=None):
        self.k, self.whole, self.h, D = k, H, h, len(h)
        self.candidates = np.arange(D) if candidates is None else candidates
        n = len(self.candidates)
        self.active, self.U, self.alpha = np.full(n, -1), np.zeros((n, n)), np.zeros(D)
        self.H = np.ascontiguousarray(H[self.candidates])

    def sweep(self, sweeps=1, tol=0.0):
        return self.k.ard.full(self.H, self.h, self.candidates, self.active, self.U, self.alpha, tol, sweeps)

    def evidence(self):
        return ard_evidence(self.whole, self.h, self.alpha)

    def assert_factor(self, within):
        """active are the weights with alpha > 0, then -1; U'U is P, to `within` of the roots of its diagonal."""
        R = int((self.alpha > 0).sum())
        a = self.active[:R]
        assert_array_equal(np.sort(a), np.flatnonzero(self.alpha))
        assert_array_equal(self.active[R:], -1)
        P = self.whole[np.ix_(a, a)] + np.diag(1 / self.alpha[a])
        U, s = np.triu(self.U[:R, :R]), np.sqrt(np.diag(P))
        assert_allclose((U.T @ U) / np.outer(s, s), P / np.outer(s, s), rtol=0, atol=within)


@pytest.mark.parametrize("D", [1, 2, 3, 8])
def test_a_sweep_moves_each_alpha_to_the_most_evidence_there_is(k, D):
    """Against a search along each alpha in turn, of the evidence by determinants."""
    p = Full(k, *gaussian(D))
    alpha = np.zeros(D)
    for _ in range(3):
        for i in range(D):

            def at(log_a, i=i):
                return -ard_evidence(p.whole, p.h, np.where(np.arange(D) == i, np.exp(log_a), alpha))

            best = minimize_scalar(at, bounds=(-25, 15), method="bounded", options={"xatol": 1e-11})
            alpha[i] = np.exp(best.x) if best.fun < at(-60) - 1e-9 else 0
        before, gained = p.evidence(), p.sweep()
        assert_array_equal(p.alpha > 0, alpha > 0)
        assert_allclose(p.alpha, alpha, rtol=1e-5)
        assert_allclose(gained, p.evidence() - before, rtol=1e-9, atol=1e-9)
        p.assert_factor(1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_at_the_end_no_alpha_can_be_bettered_alone_and_the_evidence_never_fell(k, seed):
    p, last = Full(k, *gaussian(15, seed=seed)), 0.0
    for _ in range(60):
        gained = p.sweep()
        assert gained >= -1e-12
        assert_allclose(p.evidence() - last, gained, atol=1e-9)
        last = p.evidence()
    for i in range(15):
        for a in np.append(np.geomspace(1e-8, 1e6, 200), 0):
            assert ard_evidence(p.whole, p.h, np.where(np.arange(15) == i, a, p.alpha)) < last + 1e-9


def test_sweeps_end_when_one_gains_less_than_tol_and_tell_all_that_was_gained(k):
    p, q = Full(k, *gaussian(12)), Full(k, *gaussian(12))
    gains = [p.sweep() for _ in range(6)]
    tol = 0.5 * (gains[2] + gains[3])
    assert q.sweep(sweeps=100, tol=tol) == pytest.approx(sum(gains[:4]), rel=1e-12)
    assert q.evidence() < p.evidence()


def test_only_candidates_move_and_the_answer_is_that_of_their_rows_alone(k):
    H, h = gaussian(12)
    some = np.array([0, 3, 4, 9, 11])
    p, q = Full(k, H, h, some), Full(k, H[np.ix_(some, some)], h[some])
    p.sweep(50)
    q.sweep(50)
    assert_allclose(p.alpha[some], q.alpha, rtol=1e-12)
    assert_array_equal(np.delete(p.alpha, some), 0)
    p.assert_factor(1e-13)


HARD = {
    "duplicate columns": lambda r, X: np.column_stack([X, X[:, ::-1], X[:, :3]]),
    "zero columns": lambda r, X: np.column_stack([X, np.zeros((len(X), 2)), X[:, :2]]),
    "nearly dependent": lambda r, X: (
        np.column_stack([X, X @ r.standard_normal((X.shape[1], 6))])
        + 1e-7 * r.standard_normal((len(X), X.shape[1] + 6))
    ),
    "scales apart": lambda r, X: X * 10.0 ** r.integers(-6, 7, X.shape[1]),
    "smooth": lambda r, X: np.exp(-0.02 * (X[:, :1] - X[:, 0]) ** 2),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_factor_stays_that_of_p_through_hundreds_of_changes(k, kind, scale):
    """H of 1e-12 to 1e12; each sweep has another h, so that weights come, change and go."""
    r = rng(11)
    X = HARD[kind](r, r.standard_normal((40, 10))) * scale
    H = X.T @ X
    p, changes = Full(k, H, np.zeros(len(H))), 0
    for t in range(60):
        size = np.linalg.norm(X, axis=0)
        p.h = X.T @ (3 * r.standard_normal(40) + X[:, t % len(H)] / max(size[t % len(H)], 1e-300) * 30)
        before, last = p.alpha > 0, p.evidence()
        gained = p.sweep()
        changes += int(((p.alpha > 0) != before).sum())
        assert np.isfinite(p.alpha).all()
        assert np.all(p.alpha >= 0)
        p.assert_factor(1e-11)
        assert gained > -1e-9
        assert p.evidence() > last - 1e-6 * (1 + abs(last))
    assert changes > 60


@pytest.mark.parametrize("kind", HARD)
def test_the_factor_can_be_handed_on_or_made_anew(k, kind):
    r = rng(12)
    X = HARD[kind](r, r.standard_normal((30, 8)))
    H, h = X.T @ X, X.T @ (X[:, 0] + r.standard_normal(30))
    p, q = Full(k, H, h), Full(k, H, h)
    p.sweep(3)
    for _ in range(3):
        a = np.flatnonzero(q.alpha)
        q.active[: len(a)], q.active[len(a) :] = a, -1
        q.U[: len(a), : len(a)] = np.linalg.cholesky(H[np.ix_(a, a)] + np.diag(1 / q.alpha[a])).T
        q.sweep()
    assert_allclose(q.evidence(), p.evidence(), rtol=1e-6)


def test_a_column_of_which_others_leave_only_rounding_stays_out(k):
    H, h = gaussian(3)
    twice = np.block([[H, H], [H, H]])
    p = Full(k, twice, np.tile(h, 2))
    p.sweep(100)
    assert (p.alpha[:3] * p.alpha[3:] == 0).all()
    q = Full(k, H, h)
    q.sweep(100)
    assert_allclose(p.evidence(), q.evidence(), rtol=1e-9)


# ------------------------------------------------------------------------------------------------ alpha, diagonal
class Diagonal:
    def __init__(self, k, H, h, candidates=None):
        self.k, self.whole, self.h = k, H, h
        self.candidates = np.arange(len(h)) if candidates is None else candidates
        self.Q, self.mu, self.alpha = h.copy(), np.zeros(len(h)), np.zeros(len(h))
        self.H = np.ascontiguousarray(H[self.candidates])

    def sweep(self, sweeps=1, tol=0.0):
        return self.k.ard.diagonal(self.H, self.candidates, self.Q, self.mu, self.alpha, tol, sweeps)

    def bound(self):
        return ard_diagonal_bound(self.whole, self.h, self.mu, self.alpha)


@pytest.mark.parametrize("seed", range(4))
def test_a_diagonal_sweep_gains_what_it_says_and_keeps_its_sums(k, seed):
    p, last = Diagonal(k, *gaussian(15, seed=seed)), 0.0
    for _ in range(100):
        gained = p.sweep()
        assert gained >= -1e-12
        assert_allclose(p.bound() - last, gained, atol=1e-9 * (1 + abs(last)))
        assert_allclose(p.Q, p.h - p.whole @ p.mu, rtol=1e-9, atol=1e-8)
        assert_array_equal(p.mu != 0, p.alpha > 0)
        last = p.bound()
    for i in range(15):  # alpha and mu together, S at its best
        for a in np.append(np.geomspace(1e-8, 1e6, 60), 0):
            alpha, mu = p.alpha.copy(), p.mu.copy()
            q = p.h[i] - p.whole[i] @ p.mu + p.whole[i, i] * p.mu[i]
            alpha[i], mu[i] = a, a * q / (1 + a * p.whole[i, i])
            assert ard_diagonal_bound(p.whole, p.h, mu, alpha) < last + 1e-7


def test_the_mean_that_goes_with_alpha_is_the_best(k):
    p = Diagonal(k, *gaussian(6))
    p.sweep(200)
    for i in np.flatnonzero(p.alpha):
        for factor in (0.999, 1.001):
            mu = p.mu.copy()
            mu[i] *= factor
            assert ard_diagonal_bound(p.whole, p.h, mu, p.alpha) < p.bound()


def test_diagonal_and_full_agree_where_columns_are_orthogonal(k):
    H = np.diag([3.0, 20.0, 1e-3, 50.0])
    h = np.array([9.0, 1.0, 0.5, -60.0])
    p, q = Full(k, H, h), Diagonal(k, H, h)
    assert p.sweep(5) == pytest.approx(q.sweep(5), rel=1e-12)
    assert_allclose(q.alpha, p.alpha, rtol=1e-12)
    assert_allclose(p.alpha, np.where(h**2 > np.diag(H), (h**2 - np.diag(H)) / np.diag(H) ** 2, 0), rtol=1e-12)


def test_only_candidates_of_a_diagonal_move_and_tol_ends_the_sweeps(k):
    H, h = gaussian(12)
    some = np.array([0, 3, 4, 9, 11])
    p, q = Diagonal(k, H, h, some), Diagonal(k, H, h, some)
    gains = [p.sweep() for _ in range(6)]
    assert_array_equal(np.delete(p.alpha, some), 0)
    assert_allclose(p.Q, h - H @ p.mu, rtol=1e-10, atol=1e-9)
    assert q.sweep(100, 0.5 * (gains[2] + gains[3])) == pytest.approx(sum(gains[:4]), rel=1e-9)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_diagonal_never_loses_on_hard_columns(k, kind, scale):
    r = rng(13)
    X = HARD[kind](r, r.standard_normal((40, 10))) * scale
    p = Diagonal(k, X.T @ X, X.T @ (X[:, 0] / scale + X[:, 1] / scale + r.standard_normal(40)))
    last = 0.0
    for _ in range(40):
        assert p.sweep() >= -1e-9
        assert np.isfinite(p.alpha).all()
        assert np.isfinite(p.mu).all()
        assert p.bound() > last - 1e-8 * (1 + abs(last))
        last = p.bound()
