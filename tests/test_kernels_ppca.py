"""Kernels of linear Gaussian models against slow NumPy, and the promises of their docstrings."""

import itertools
import math

import numpy as np
import pytest
from gradcheck import gradient
from numpy.testing import assert_allclose, assert_array_equal
from reference import gaussian_log_density, ppca_posterior
from scipy import stats
from test_kernels_mixture import holed

import lvm
from lvm.kernels.shared.philox import normals64, uniforms64
from lvm.kernels.shared.ppca import draw_latent, draw_row, factor, invert
from lvm.objectives.ppca import RUN, runs, unpack

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
TOL = {np.float32: 3e-5, np.float64: 1e-12}
SHAPES = [(1, 1, 1), (1, 2, 3), (2, 1, 5), (7, 3, 5), (129, 5, 2), (400, 4, 4), (3000, 9, 3)]  # N, D, d
shape_ = pytest.mark.parametrize(("N", "D", "d"), SHAPES)
gaps_ = pytest.mark.parametrize("gaps", [False, True])


def rng(seed=0):
    return np.random.default_rng(seed)


def lower(A):
    """(...,d,d) symmetric -> packed, row by row of the lower triangle."""
    return np.stack([A[..., i, j] for i in range(A.shape[-1]) for j in range(i + 1)], axis=-1)


class Problem:
    """A model with noise that differs between columns, rows X (N,D) of it, runs of rows with the same gaps, weights."""

    def __init__(self, N, D, d, T=np.float64, gaps=False, seed=0):
        r = rng([seed, N, D, d])
        self.T, self.d, self.gaps = T, d, gaps
        self.W, self.mu, self.psi = r.standard_normal((D, d)), r.standard_normal(D), r.gamma(3.0, 0.1, D)
        self.mu = self.mu.astype(T).astype(float)
        X = r.standard_normal((N, d)) @ self.W.T + self.mu + np.sqrt(self.psi) * r.standard_normal((N, D))
        X = X.astype(T)
        self.X = holed(X, seed) if gaps else X
        self.order, self.first, self.O = runs(self.X, gaps)
        self.order = self.order if gaps else np.arange(N)
        self.w = np.where(r.random(N) < 1 / 3, 0, r.gamma(2.0, size=N)).astype(T)

    @property
    def rows(self):
        """X in the order of the runs, in float64."""
        return self.X[self.order].astype(float)

    def packed_posterior(self):
        """C (U,q+1) as the kernels keep it: C packed and the constant of log p(x), of the first row of each run."""
        some = self.rows[self.first[:-1]]
        C = ppca_posterior(some, self.W, self.mu, self.psi)[1]
        seen = ~np.isnan(some)
        c = -0.5 * (seen @ np.log(2 * np.pi * self.psi) - np.linalg.slogdet(C)[1])
        return np.column_stack([lower(C), c]).astype(self.T)


# ------------------------------------------------------------------------------------------------ matrices of one row
@pytest.mark.parametrize("d", [1, 2, 3, 7, 20])
def test_factor_and_invert_are_those_of_a_packed_matrix(d):
    A = rng(d).standard_normal((d, d + 2))
    A = A @ A.T + 0.1 * np.eye(d)
    p = lower(A)
    assert_allclose(factor(p, d), np.linalg.slogdet(A)[1], rtol=1e-12, atol=1e-13)
    L = np.linalg.cholesky(A)
    L[np.diag_indices(d)] = 1 / np.diag(L)
    assert_allclose(p, lower(L), rtol=1e-11, atol=1e-13)
    invert(p, d)
    X = np.tril(unpack(p, d))
    assert_allclose(X @ np.linalg.cholesky(A), np.eye(d), atol=1e-11)
    assert_allclose(X.T @ X, np.linalg.inv(A), rtol=1e-10, atol=1e-11)


def test_factors_keep_their_digits_where_eigenvalues_lie_far_apart():
    """1 + M of a noise of 1e-12: inverses to the rounding of each element."""
    d, scale = 4, np.array([1e6, 1.0, 1e3, 1e5])
    R = np.eye(d) + 0.2 * rng().standard_normal((d, d))
    A = R @ R.T
    p = lower(scale[:, None] * A * scale)
    assert_allclose(factor(p, d), np.linalg.slogdet(A)[1] + 2 * np.log(scale).sum(), rtol=1e-14)
    invert(p, d)
    X = np.tril(unpack(p, d)) * scale
    assert_allclose(X.T @ X, np.linalg.inv(A), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------ runs
@pytest.mark.parametrize("D", [3, 20])
def test_rows_with_the_same_gaps_are_together_in_as_few_runs_as_can_be(D):
    gaps = (rng(1).random((6, D)) < 0.5)[rng(2).integers(6, size=1000)]
    X = np.where(gaps, np.nan, rng().standard_normal((1000, D)))
    order, first, observed = runs(X, True)
    assert_array_equal(np.sort(order), np.arange(1000))
    for u, (a, b) in enumerate(itertools.pairwise(first)):
        assert_array_equal(~gaps[order[a:b]], np.broadcast_to(observed[u, :-1], (b - a, D)))
    assert_array_equal(observed[:, -1], 1)
    counts = np.unique(gaps, axis=0, return_counts=True)[1]
    assert len(first) - 1 == np.ceil(counts / RUN).sum()
    assert np.diff(first).max() <= RUN
    order, first, observed = runs(X, False)
    assert order.size == 0
    assert_array_equal(first, [*range(0, 1000, RUN), 1000])
    assert_array_equal(observed, np.ones((8, 1)))


# ------------------------------------------------------------------------------------------------ rows
@T_
@gaps_
@shape_
def test_centered_rows_are_zero_in_gaps_and_in_the_order_asked_for(k, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    for rows in (np.empty(0, np.int64), p.order, rng().permutation(N)[: N // 2 + 1]):
        Y = np.full((len(rows) or N, D), np.nan, T)
        k.ppca.center(k.put(p.X), k.put(rows), k.put(p.mu.astype(T)), Y)
        want = (p.X[rows] if rows.size else p.X) - p.mu.astype(T)
        assert_array_equal(Y, np.where(np.isnan(want), 0, want))


@T_
@gaps_
@shape_
def test_weighed_rows_are_float64_and_have_their_weight_behind_them(k, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    for s in (np.empty(0), np.sqrt(p.w.astype(float))):
        for more in (0, 1):
            Y = np.full((N, D + more), np.nan)
            k.ppca.weigh(k.put(p.X), k.put(s), k.put(p.mu), Y)
            v = np.ones(N) if s.size == 0 else s
            want = v[:, None] * np.where(np.isnan(p.X), 0, p.X.astype(float) - p.mu)
            assert_allclose(Y[:, :D], want, rtol=3e-16)
            assert_array_equal(Y[:, D:], np.repeat(v[:, None], more, axis=1))


def test_small_numbers_beside_a_large_mean_keep_their_digits(k):
    """x - mu is exact where they are close (Sterbenz 1974), and in float64 for rows in float32."""
    X = (2.0**20 + rng().integers(-8, 8, (50, 3)) / 8).astype(np.float32)
    mu, Y = np.array([2.0**20 + 1e-9, 2.0**20, 2.0**20 - 1e-9]), np.empty((50, 4))
    k.ppca.weigh(k.put(X), k.put(np.empty(0)), k.put(mu), Y)
    assert_array_equal(Y[:, :3], X.astype(float) - mu)


# ------------------------------------------------------------------------------------------------ the posterior
@T_
@gaps_
@shape_
def test_posterior_covariances_and_constants_are_those_of_dense_formulas(k, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    seen = ~np.isnan(p.rows[p.first[:-1]])
    M = np.column_stack([
        lower(np.einsum("uo,oi,oj->uij", seen, p.W / p.psi[:, None], p.W)),
        seen @ np.log(2 * np.pi * p.psi),
    ])  # fmt: skip
    C, X = np.full((len(M), M.shape[1]), np.nan, T), k.put(M)
    k.ppca.posterior(X, d, C)
    want = p.packed_posterior()
    assert_allclose(C, want, rtol=TOL[T], atol=TOL[T])
    X = np.tril(unpack(k.get(X)[:, :-1], d))  # what M is left as
    assert_allclose(np.swapaxes(X, 1, 2) @ X, unpack(want[:, :-1], d), rtol=TOL[T], atol=TOL[T])
    nothing = ~seen.any(1)  # the prior, to the bit
    assert_array_equal(C[nothing], np.broadcast_to(np.append(lower(np.eye(d)), 0).astype(T), C[nothing].shape))


@T_
@gaps_
@shape_
def test_means_are_covariances_times_projections(k, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    C = unpack(p.packed_posterior().astype(float)[:, :-1], d)
    X = np.linalg.inv(np.linalg.cholesky(np.linalg.inv(C)))
    X = np.column_stack([lower(X), np.zeros(len(X))])
    H = (np.where(np.isnan(p.rows), 0, p.rows - p.mu) @ (p.W / p.psi[:, None])).astype(T)
    Z = np.full((N, d + 1), np.nan, T)
    k.ppca.means(k.put(H), k.put(X), k.put(p.first), Z)
    want = ppca_posterior(p.rows, p.W, p.mu, p.psi)[0]
    assert_allclose(Z[:, :d], want, rtol=TOL[T], atol=20 * TOL[T])
    assert_array_equal(Z[:, d], 1)


@T_
@gaps_
@pytest.mark.parametrize("weighted", [False, True])
@shape_
def test_residuals_and_log_densities_are_those_of_dense_formulas(k, N, D, d, gaps, weighted, T):
    p = Problem(N, D, d, T, gaps)
    z = ppca_posterior(p.rows, p.W, p.mu, p.psi)[0]
    Z = np.column_stack([z, np.ones(N)]).astype(T)
    Y = np.where(np.isnan(p.rows), 0, p.rows - p.mu).astype(T)
    F, log_px = (Z[:, :d] @ p.W.T.astype(T)).astype(T), np.full(N, np.nan, T)
    w = p.w if weighted else np.empty(0, T)
    O, precision = p.O.astype(T), (1 / p.psi).astype(T)
    k.ppca.residuals(Y, F, k.put(O), k.put(precision), k.put(p.first), k.put(p.packed_posterior()), k.put(Z), w, log_px)
    r = np.where(np.isnan(p.rows), 0, p.rows - p.mu - z @ p.W.T)
    assert_allclose(Y, r * (p.w[:, None] if weighted else 1), rtol=TOL[T], atol=20 * TOL[T])
    assert_allclose(F, r**2, rtol=TOL[T], atol=20 * TOL[T])
    want = gaussian_log_density(p.rows, p.mu, p.W @ p.W.T + np.diag(p.psi))
    assert_allclose(log_px, want, rtol=TOL[T], atol=50 * TOL[T])
    assert_array_equal(log_px[np.isnan(p.rows).all(1)], 0)
    assert_array_equal(Y[np.isnan(p.rows)], 0)


@T_
@gaps_
@shape_
def test_moments_are_sums_over_the_rows_of_each_run(k, N, D, d, gaps, T):
    p = Problem(N, D, d, T, gaps)
    r = rng(1)
    Z = np.column_stack([r.standard_normal((N, d)), np.ones(N)]).astype(T)
    C, log_px = p.packed_posterior(), r.standard_normal(N).astype(T)
    q, e = d * (d + 1) // 2, (d + 1) * (d + 2) // 2
    S = np.full((len(p.first) - 1, e + q + 1), np.nan, T)
    k.ppca.moments(k.put(Z), k.put(C), k.put(p.first), k.put(p.w), k.put(log_px), S)
    for u, (a, b) in enumerate(zip(p.first[:-1], p.first[1:])):
        w, z, covariance = p.w[a:b].astype(float), Z[a:b].astype(float), unpack(C[u, :q].astype(float), d)
        whole = np.einsum("n,ni,nj->ij", w, z, z)
        whole[:d, :d] += w.sum() * covariance
        want = np.concatenate([lower(whole), w.sum() * lower(covariance), [w @ log_px[a:b]]])
        assert_allclose(S[u], want, rtol=TOL[T], atol=100 * TOL[T])


@T_
def test_a_row_beyond_the_range_of_squares_is_improbable_never_nan(k, T):
    p = Problem(4, 3, 1, T)
    Y, F = np.zeros((4, 3), T), np.zeros((4, 3), T)
    Y[1], Y[2, 1] = np.finfo(T).max / 4, -1e30 if T is np.float32 else -1e200
    log_px, Z = np.empty(4, T), np.zeros((4, 2), T)
    more = [k.put(a) for a in (p.O.astype(T), np.ones(3, T), p.first, p.packed_posterior(), Z)]
    k.ppca.residuals(Y, F, *more, k.put(np.empty(0, T)), log_px)
    assert np.isfinite(log_px).all()
    assert (log_px[1:3] < -1e37).all()
    assert (log_px[[0, 3]] > -100).all()


def answers_of(k, p):
    """All that the kernels make of a Problem, for comparing bits."""
    N, D, d, T = *p.X.shape, p.d, p.T
    q, e = d * (d + 1) // 2, (d + 1) * (d + 2) // 2
    Y, V, M = np.empty((N, D), T), np.empty((N, D + 1)), np.empty((len(p.first) - 1, q + 1))
    k.ppca.center(p.X, p.order if p.gaps else np.empty(0, np.int64), p.mu.astype(T), Y)
    k.ppca.weigh(p.X, np.sqrt(p.w.astype(float)), p.mu, V)
    M[:] = np.append(lower(np.eye(d) + 0.5), 1) * np.arange(1, len(M) + 1)[:, None]
    C, H, Z, F = np.empty(M.shape, T), Y[:, :1] + np.arange(d, dtype=T), np.empty((N, d + 1), T), Y + T(0.5)
    k.ppca.posterior(M, d, C)
    k.ppca.means(H, M, p.first, Z)
    log_px, S = np.empty(N, T), np.empty((len(M), e + q + 1), T)
    k.ppca.residuals(Y, F, p.O.astype(T), np.ones(D, T), p.first, C, Z, p.w, log_px)
    k.ppca.moments(Z, C, p.first, p.w, log_px, S)
    return Y, V, C, Z, F, log_px, S


@T_
@gaps_
def test_bits_do_not_depend_on_threads_or_on_how_rows_are_cut(k, gaps, T, monkeypatch):
    """9000 rows: enough to go on threads in pieces. Runs that begin in the middle of an array, too."""
    p = Problem(9000, 7, 3, T, gaps)
    try:
        lvm.set_num_threads(1)
        want = answers_of(k, p)
        for threads in (2, 8):
            lvm.set_num_threads(threads)
            for pieces in (1, 3, 16):
                monkeypatch.setattr(k.ppca, "PIECES", pieces)
                for a, b in zip(answers_of(k, p), want):
                    assert_array_equal(a, b)
    finally:
        lvm.set_num_threads(None)
    Z, C, log_px, S = want[3], want[2], want[5], want[6]
    u, v = 3, len(S) - 1
    a, b = p.first[u], p.first[v]
    part = np.empty_like(S[u:v])
    k.ppca.moments(Z[a:b], C[u:v], p.first[u : v + 1], p.w[a:b], log_px[a:b], part)
    assert_array_equal(part, S[u:v])


# ------------------------------------------------------------------------------------------------ stochastic EM
@gaps_
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_drawn_latents_are_mean_and_root_of_the_covariance_times_the_noise_of_their_counter(d, gaps):
    p = Problem(30, 5, d, gaps=gaps)
    z, C = ppca_posterior(p.X, p.W, p.mu, p.psi)
    for b in (0, 1, 5, 17):
        got = np.empty(d)
        draw_latent(p.X[b], p.mu, p.W, p.psi, 11, 3, b, np.empty(d * (d + 1) // 2), got)
        pairs = (d + 1) // 2
        eps = np.concatenate([normals64(11, 1, 3, b * pairs + i) for i in range(pairs)])[:d]
        root = np.linalg.inv(np.linalg.cholesky(np.linalg.inv(C[b]))).T  # M = LL', and C = L'^-1 L^-1
        assert_allclose(got, z[b] + root @ eps, rtol=1e-10, atol=1e-11)


def test_rows_are_drawn_alike_or_by_weight_and_never_one_of_weight_zero():
    n = 20_000
    rows = np.array([draw_row(np.empty(0), 7, 5, t, b) for t in range(n // 4) for b in range(4)])
    assert stats.chisquare(np.bincount(rows, minlength=7)).pvalue > 1e-3
    w = np.array([0, 1, 0, 0, 4, 2.5, 0])
    rows = np.array([draw_row(np.cumsum(w) / w.sum(), 7, 5, t, b) for t in range(n // 4) for b in range(4)])
    counts = np.bincount(rows, minlength=7)
    assert_array_equal(counts[w == 0], 0)
    assert stats.chisquare(counts[w > 0], n * w[w > 0] / w.sum()).pvalue > 1e-3


def test_a_row_is_the_number_that_a_search_in_the_cumulated_weights_finds():
    for N in (1, 2, 3, 10, 33):
        cumulated = np.cumsum(rng(N).random(N))
        cumulated /= cumulated[-1]
        for b in range(40):
            u = uniforms64(9, 0, 4, b // 2)[b % 2]
            assert draw_row(cumulated, N, 9, 4, b) == min(np.searchsorted(cumulated, u, side="right"), N - 1)
            assert draw_row(np.empty(0), N, 9, 4, b) == int(u * N)


def slow_stochastic(X, cumulated, seed, step, steps, rate, isotropic, W, mu, psi):
    """The docstring of `stochastic`, word by word: -> W, mu, psi."""
    (N, D), d, B = X.shape, W.shape[1], int(rate[3])
    W, mu, psi = W.copy(), mu.copy(), psi.copy()
    for t in range(step, step + steps):
        kappa = rate[0] * (1 + t / rate[1]) ** -rate[2]
        R, Z = np.empty((B, D)), np.empty((B, d))
        for b in range(B):
            x = X[draw_row(cumulated, N, seed, t, b)].astype(float)
            draw_latent(x, mu, W, psi, seed, t, b, np.empty(d * (d + 1) // 2), Z[b])
            R[b] = x - mu - W @ Z[b]
        square, seen = np.nansum(R**2 / psi, axis=0), (~np.isnan(R)).sum(0)
        R = np.nan_to_num(R)
        spread = Z.T @ Z / B - np.eye(d)
        W, mu = W + kappa * (R.T @ Z / B + W @ spread / 2), mu + kappa * (R + Z @ W.T).mean(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.full(D, square.sum() / seen.sum() - 1) if isotropic else square / seen - 1
        psi = psi * np.exp(np.minimum(kappa * np.where(np.isnan(slope), 0, slope), 1))
    return W, mu, psi


@T_
@gaps_
@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("B", [1, 3, 8])
def test_stochastic_steps_are_those_of_their_docstring(k, B, weighted, isotropic, gaps, T):
    p = Problem(40, 5, 3, T, gaps)
    w = p.w.astype(float) * ~np.isnan(p.X).all(1)
    cumulated = np.cumsum(w) / w.sum() if weighted else np.empty(0)
    rate, psi = np.array([0.2, 7.0, 0.6, B]), np.full(5, 0.3) if isotropic else p.psi
    got = p.W.copy(), p.mu.copy(), psi.copy()
    k.ppca.stochastic(
        k.put(p.X), k.put(cumulated), 2**40 + 5, 4, 30, rate, isotropic, *got, k.put(np.zeros(got[1].shape))
    )
    want = slow_stochastic(p.X, cumulated, 2**40 + 5, 4, 30, rate, isotropic, p.W, p.mu, psi)
    for a, b in zip(got, want):
        assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    again = p.W.copy(), p.mu.copy(), psi.copy()
    for t in (4, 14, 24):  # in parts, the same bits
        k.ppca.stochastic(
            k.put(p.X), k.put(cumulated), 2**40 + 5, t, 10, rate, isotropic, *again, k.put(np.zeros(again[1].shape))
        )
    for a, b in zip(got, again):
        assert_array_equal(a, b)


def test_a_step_changes_no_variance_by_more_than_e(k):
    """A row far away would make the first steps leap."""
    X, psi, mu = np.full((1, 3), 1e6), np.ones(3), np.zeros(3)
    rate = np.array([0.5, 1.0, 0.5, 1])
    for isotropic in (True, False):
        theta = np.full((3, 1), 1e-3), mu.copy(), psi.copy()
        k.ppca.stochastic(
            k.put(X), k.put(np.empty(0)), 0, 0, 1, rate, isotropic, *theta, k.put(np.zeros(theta[1].shape))
        )
        assert_allclose(theta[2], math.e)


def richardson_gradient(x, theta, isotropic):
    """Of log p(x_o) in W, mu and log psi, by differences of the dense log-density."""
    W, mu, psi = theta
    log_p = lambda W, mu, psi: gaussian_log_density(x[None], mu, W @ W.T + np.diag(psi))[0]
    g_W = gradient(lambda a: log_p(a, mu, psi), W)
    g_mu = gradient(lambda a: log_p(W, a, psi), mu)
    if isotropic:
        g_psi = gradient(lambda a: log_p(W, mu, psi * np.exp(a)), np.zeros(()))
    else:
        g_psi = gradient(lambda a: log_p(W, mu, psi * np.exp(a)), np.zeros(len(psi)))
    return g_W, g_mu, g_psi


@gaps_
@pytest.mark.parametrize("isotropic", [False, True])
def test_the_mean_of_stochastic_steps_is_the_gradient_of_the_log_density(k, isotropic, gaps):
    """Fisher's identity: averaged over draws of z from p(z | x), with a small kappa so that a step is its gradient."""
    x = np.array([0.7, np.nan if gaps else -0.4, 1.5, -0.2])
    r = rng(3)
    theta = r.standard_normal((4, 2)), r.standard_normal(4), np.full(4, 0.4) if isotropic else r.gamma(4.0, 0.1, 4)
    g_W, g_mu, g_psi = richardson_gradient(x, theta, isotropic)
    kappa, B, n = 1e-6, 4096, 100
    moves = []
    for t in range(n):
        new = [a.copy() for a in theta]
        k.ppca.stochastic(
            k.put(x[None]),
            k.put(np.empty(0)),
            1,
            t,
            1,
            np.array([kappa, 1.0, 0.0, B]),
            isotropic,
            *new,
            k.put(np.zeros(new[1].shape)),
        )
        moves.append(np.concatenate([
            (np.linalg.solve(np.diag(theta[2]) + theta[0] @ theta[0].T / 2, new[0] - theta[0]) / kappa).ravel(),
            np.linalg.solve(np.diag(theta[2]) + theta[0] @ theta[0].T, new[1] - theta[1]) / kappa,
            np.log(new[2] / theta[2]) / kappa,
        ]))  # fmt: skip
    seen = ~np.isnan(x)
    slope = 2 * g_psi / seen.sum() * np.ones(4) if isotropic else 2 * g_psi
    want = np.concatenate([g_W.ravel(), g_mu, slope])
    moves = np.array(moves)
    error = moves.std(0) / np.sqrt(n) + 1e-7
    assert (np.abs(moves.mean(0) - want) < 5 * error).all()
    assert (error < 0.01).all()  # and this says something
