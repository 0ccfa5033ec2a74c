"""Slow, obvious NumPy and SciPy for what the kernels do fast. Nothing here looks at lvm, which is held against it.

Shapes and letters as in lvm.kernels: N rows, D columns, K components, X (N,D), w (N,) or None for weights of one.
"""

from math import factorial

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, ndtr


# ------------------------------------------------------------------------------------------------ Gaussian mixtures
def dense(kind, Sigma, K, D):
    """Covariances of any kind, (K,D,D) | (D,D) | (K,D) | (K,), as matrices (K,D,D)."""
    Sigma = np.asarray(Sigma, dtype=float)
    if kind == "full":
        return Sigma
    if kind == "tied":
        return np.array([Sigma] * K)
    if kind == "diag":
        return np.array([np.diag(v) for v in Sigma])
    return np.array([v * np.eye(D) for v in Sigma])


def gaussian_log_density(X, mu, Sigma):
    """log N(x_n | mu, Sigma): (N,). Of a row with gaps (NaN) that of its observed part, 0 where that is nothing."""
    gaps = np.isnan(X)
    if gaps.any():
        out = np.empty(len(X))
        for gap in np.unique(gaps, axis=0):
            same = (gaps == gap).all(1)
            out[same] = gaussian_log_density(X[same][:, ~gap], mu[~gap], Sigma[~gap][:, ~gap])
        return out
    L = np.linalg.cholesky(Sigma)
    z = np.array((X - mu).T)
    for i in range(len(mu)):  # L z = x - mu
        z[i] = (z[i] - L[i, :i] @ z[:i]) / L[i, i]
    return -0.5 * (z**2).sum(0) - np.log(np.diag(L)).sum() - 0.5 * len(mu) * np.log(2 * np.pi)


def mixture_log_joint(X, pi, mu, Sigma, R=None):
    """log pi_k + log N(x_n | mu_k, Sigma_k) - tr(diag(R) Sigma_k^-1)/2: (N,K). Sigma (K,D,D), R (D,) or None for zero.

    R is there in fit alone: the rows count as smeared by N(0, diag R)."""
    smear = 0 if R is None else np.array([0.5 * np.trace(np.linalg.solve(S, np.diag(R))) for S in Sigma])
    with np.errstate(divide="ignore"):
        log_pi = np.log(pi)
    return log_pi - smear + np.array([gaussian_log_density(X, m, S) for m, S in zip(mu, Sigma)]).T


def mixture_factors(kind, pi, Sigma, R):
    """What the kernels read of a mixture: P, inverse Cholesky factors (one over roots of variances), and c (K,).

    c_k = log pi_k + log|P_k| - D/2 log 2pi - tr(diag(R) Sigma_k^-1)/2. Sigma (K,D,D), (D,D), or (K,D) for diag."""
    K, D = len(pi), len(R)
    S = dense(kind, Sigma, K, D)
    P = np.array([np.tril(np.linalg.inv(np.linalg.cholesky(A))) for A in S])
    c = np.log(pi) - 0.5 * np.array([np.linalg.slogdet(2 * np.pi * A)[1] + np.trace(Q.T @ Q * R) for A, Q in zip(S, P)])
    return {"full": P, "tied": P[0]}.get(kind, np.diagonal(P, axis1=1, axis2=2).copy()), c


def mixture_e_step(X, pi, mu, Sigma, R=None):
    """log p(x_n) (N,) and responsibilities (N,K)."""
    a = mixture_log_joint(X, pi, mu, Sigma, R)
    log_px = logsumexp(a, axis=1)
    return log_px, np.exp(a - log_px[:, None])


def mixture_bound(X, w, pi, mu, Sigma, R=None):
    """Weighted mean of log p(x), less what R costs: what EM climbs, after the E step."""
    return np.average(mixture_e_step(X, pi, mu, Sigma, R)[0], weights=observed(X, w))


def observed(X, w=None):
    """Weights (N,), zero for a row of which nothing was observed."""
    return np.where(np.isnan(X).all(1), 0, 1.0 if w is None else w)


def mixture_log_likelihood(X, w, pi, mu, Sigma):
    """Weighted sum of log p(x), pi divided by its sum: to be differentiated. Sigma (K,D,D)."""
    log_px, _ = mixture_e_step(X, pi / np.sum(pi), mu, Sigma)
    return log_px @ observed(X, w)


def mixture_expected_bound(X, w, r, pi, mu, Sigma, R=None):
    """Weighted mean of sum_k r_nk (log of the joint - log r_nk): a lower bound for any responsibilities r."""
    a = mixture_log_joint(X, pi, mu, Sigma, R)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(r > 0, r * (a - np.log(r)), 0)
    return np.average(terms.sum(1), weights=w)


def mixture_statistics(kind, X, w, r, about, l):
    """The flat vector S0, S1, S2, l of the kernels: sums of w r, w r y, w r y y' (lower triangle), y = x - about_k."""
    w = np.ones(len(X)) if w is None else w
    K, D = about.shape
    S0, S1, S2 = np.zeros(K), np.zeros((K, D)), np.zeros((K, D, D))
    for k in range(K):
        y, v = X - about[k], w * r[:, k]
        S0[k], S1[k], S2[k] = v.sum(), v @ y, (v[:, None] * y).T @ y
    if kind in ("diag", "spherical"):
        S2 = np.array([np.diag(S) for S in S2])
    else:
        S2 = np.tril(S2 if kind == "full" else S2.sum(0))
    return np.concatenate([S0, S1.ravel(), S2.ravel(), [(w * l).sum()]])


def mixture_m_step(kind, X, w, r, R):
    """pi (K,), mu (K,D) and Sigma of its kind, straight from the rows: weighted means, then variances about them."""
    v = (np.ones(len(X)) if w is None else w)[:, None] * r
    S0 = v.sum(0)
    pi = S0 / S0.sum()
    mu = np.array([np.average(X, axis=0, weights=v[:, k]) for k in range(len(S0))])
    each = [(v[:, k, None] * (X - mu[k])).T @ (X - mu[k]) / S0[k] + np.diag(R) for k in range(len(S0))]
    return pi, mu, _of_kind(kind, pi, np.array(each))


def mixture_em_step(kind, X, w, pi, mu, Sigma, R):
    """One EM step: the next pi, mu, Sigma (Sigma of its kind, in and out)."""
    r = mixture_e_step(X, pi, mu, dense(kind, Sigma, *mu.shape), R)[1]
    return mixture_m_step(kind, X, w, r, R)


# ------------------------------------------------------------------------- Gaussian mixtures, what was not observed
def mixture_filled(X, mu, Sigma):
    """Of x_n given component k and what was observed of it: mean (N,K,D) and covariance (N,K,D,D), row by row.

    E[x_m] = mu_m + Sigma_mo Sigma_oo^-1 (x_o - mu_o),  Cov[x_m] = Sigma_mm - Sigma_mo Sigma_oo^-1 Sigma_om;
    of what was observed, itself and zero. Sigma (K,D,D)."""
    (N, D), K = X.shape, len(mu)
    E, C = np.empty((N, K, D)), np.zeros((N, K, D, D))
    for n, x in enumerate(X):
        m, o = np.flatnonzero(np.isnan(x)), np.flatnonzero(~np.isnan(x))
        oo, om, mo, mm = (np.ix_(range(K), i, j) for i, j in ((o, o), (o, m), (m, o), (m, m)))
        slope = Sigma[mo] @ np.linalg.inv(Sigma[oo])
        E[n] = x
        E[n][:, m] = mu[:, m] + (slope @ (x[o] - mu[:, o])[:, :, None])[:, :, 0]
        C[n][mm] = Sigma[mm] - slope @ Sigma[om]
    return E, C


def mixture_gaps_statistics(kind, X, w, pi, mu, Sigma, R=None):
    """As mixture_statistics about mu, of an E step: S2 is an expectation, nothing observed is no row. Sigma (K,D,D)."""
    w = observed(X, w)
    l, r = mixture_e_step(X, pi, mu, Sigma, R)
    E, C = mixture_filled(X, mu, Sigma)
    v, Y = w[:, None] * r, E - mu
    S2 = np.array([(v[:, k, None] * Y[:, k]).T @ Y[:, k] + np.tensordot(v[:, k], C[:, k], 1) for k in range(len(mu))])
    if kind in ("diag", "spherical"):
        S2 = np.array([np.diag(S) for S in S2])
    else:
        S2 = np.tril(S2 if kind == "full" else S2.sum(0))
    return np.concatenate([v.sum(0), np.einsum("nk,nkd->kd", v, Y).ravel(), S2.ravel(), [w @ l]])


def mixture_gaps_expected_bound(X, w, q, pi, mu, Sigma, R=None):
    """Weighted mean of E_q[log p(x, z) - log q]: a lower bound for any q(z, x_m) = r_k N(E_k, C_k), q = (r, E, C).

    Sigma (K,D,D). With q of the E step at these parameters it is mixture_bound."""
    r, E, C = q
    K, w = len(mu), observed(X, w)
    total = 0.0
    for k in range(K):
        Q = np.linalg.inv(Sigma[k])
        smear = 0 if R is None else np.trace(Q * R)
        log_joint = np.log(pi[k]) - 0.5 * np.linalg.slogdet(2 * np.pi * Sigma[k])[1] - 0.5 * smear
        for n in range(len(X)):
            m, y = np.isnan(X[n]), E[n, k] - mu[k]
            entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * C[n, k][m][:, m])[1]
            each = log_joint - 0.5 * y @ Q @ y - 0.5 * np.sum(Q * C[n, k]) + entropy
            total += w[n] * r[n, k] * (each - np.log(r[n, k])) if r[n, k] > 0 else 0
    return total / w.sum()


def mixture_gaps_em_step(kind, X, w, pi, mu, Sigma, R):
    """One EM step on rows with gaps: the next pi, mu, Sigma (Sigma of its kind, in and out)."""
    S = dense(kind, Sigma, *mu.shape)
    v = observed(X, w)[:, None] * mixture_e_step(X, pi, mu, S, R)[1]
    E, C = mixture_filled(X, mu, S)
    S0, K = v.sum(0), len(mu)
    new = np.array([np.average(E[:, k], axis=0, weights=v[:, k]) for k in range(K)])
    each = []
    for k in range(K):
        Y = E[:, k] - new[k]
        each.append(np.diag(R) + ((v[:, k, None] * Y).T @ Y + np.tensordot(v[:, k], C[:, k], 1)) / S0[k])
    pi = S0 / S0.sum()
    return pi, new, _of_kind(kind, pi, np.array(each))


def _of_kind(kind, pi, each):
    """Covariances of the kind from what each component would have by itself (K,D,D)."""
    if kind == "tied":
        return np.einsum("k,kij->ij", pi, each)
    if kind == "diag":
        return np.array([np.diag(S) for S in each])
    return np.array([np.trace(S) / len(S) for S in each]) if kind == "spherical" else each


def mixture_stepwise(kind, X, w, pi, mu, Sigma, R, eta):
    """Stepwise EM: statistics per row of (pi, mu, Sigma), 1 - eta of them, and eta of the block's; then an M step.

    Raw moments of what a row of the mixture is, R taken off, as the mixture is that of the statistics and R."""
    K, D = mu.shape
    S = dense(kind, Sigma, K, D)
    v = observed(X, w)[:, None] * mixture_e_step(X, pi, mu, S, R)[1]
    v = v / v.sum()
    E, C = mixture_filled(X, mu, S)
    smear = np.diag(R if kind != "spherical" else np.full(D, R.mean()))
    s0, s1, s2 = np.empty(K), np.empty((K, D)), np.empty((K, D, D))
    for k in range(K):
        s0[k] = (1 - eta) * pi[k] + eta * v[:, k].sum()
        s1[k] = (1 - eta) * pi[k] * mu[k] + eta * v[:, k] @ E[:, k]
        of_block = (v[:, k, None] * E[:, k]).T @ E[:, k] + np.tensordot(v[:, k], C[:, k], 1)
        s2[k] = (1 - eta) * pi[k] * (S[k] - smear + np.outer(mu[k], mu[k])) + eta * of_block
    new = s1 / s0[:, None]
    each = np.array([s2[k] / s0[k] - np.outer(new[k], new[k]) + smear for k in range(K)])
    return s0, new, _of_kind(kind, s0, each)


def mixture_impute(X, pi, mu, Sigma):
    """E[x | what was observed of x]: (N,D). Sigma (K,D,D)."""
    r = mixture_e_step(X, pi, mu, Sigma)[1]
    return np.where(np.isnan(X), np.einsum("nk,nkd->nd", r, mixture_filled(X, mu, Sigma)[0]), X)


def mixture_conditional(x, pi, mu, Sigma):
    """pi, mu, Sigma (K,m,m) of p(x_m | x_o), m the columns where x (D,) is NaN."""
    m = np.isnan(x)
    E, C = mixture_filled(x[None], mu, Sigma)
    return mixture_e_step(x[None], pi, mu, Sigma)[1][0], E[0][:, m], C[0][:, m][:, :, m]


def mixture_marginal(columns, pi, mu, Sigma):
    """pi, mu, Sigma of some columns, in that order."""
    return pi, mu[:, columns], Sigma[:, columns][:, :, columns]


# ------------------------------------------------------------------------------------------- linear Gaussian models
def ppca_posterior(X, W, mu, psi):
    """Of z given what was observed of each row: means (N,d), covariances (N,d,d). W (D,d), psi (D,).

    By the rule for any normal pair, with Cov(z, x) = W' and S = W W' + Psi:
    z = W_o' S_oo^-1 (x_o - mu_o),  C = 1 - W_o' S_oo^-1 W_o."""
    d, S = W.shape[1], W @ W.T + np.diag(psi)
    z, C = np.zeros((len(X), d)), np.array([np.eye(d)] * len(X))
    for n, x in enumerate(X):
        o = np.flatnonzero(~np.isnan(x))
        slope = W[o].T @ np.linalg.inv(S[np.ix_(o, o)])
        z[n], C[n] = slope @ (x[o] - mu[o]), C[n] - slope @ W[o]
    return z, C


def ppca_log_likelihood(X, w, W, mu, psi):
    """Weighted sum of log p(x_o): the number that a fit climbs."""
    return gaussian_log_density(X, mu, W @ W.T + np.diag(psi)) @ observed(X, w)


def ppca_expected_bound(X, w, q, W, mu, psi):
    """Weighted sum of E_q[log p(x_o, z) - log q(z)] for q(z_n) = N(z_n, C_n), q = (z, C): at most the likelihood."""
    (z, C), w, d, total = q, observed(X, w), W.shape[1], 0.0
    for n, x in enumerate(X):
        for i in np.flatnonzero(~np.isnan(x)):
            square = (x[i] - mu[i] - W[i] @ z[n]) ** 2 + W[i] @ C[n] @ W[i]
            total -= 0.5 * w[n] * (np.log(2 * np.pi * psi[i]) + square / psi[i])
        total -= 0.5 * w[n] * (z[n] @ z[n] + np.trace(C[n]) - d - np.linalg.slogdet(C[n])[1])
    return total


def ppca_moments(X, w, W, mu, psi):
    """Sums over the rows of an E step, each its own loop: for each column i, over rows that have it, A_i = w E[u u']
    (D,d+1,d+1), b_i = w x_i E[u] (D,d+1), c_i = w x_i² (D,), u = (z, 1); and w E[u u'] over all (d+1,d+1)."""
    (z, C), w, (D, d) = ppca_posterior(X, W, mu, psi), observed(X, w), W.shape
    A, b, c, whole = np.zeros((D, d + 1, d + 1)), np.zeros((D, d + 1)), np.zeros(D), np.zeros((d + 1, d + 1))
    for n, x in enumerate(X):
        u = np.append(z[n], 1)
        U = np.outer(u, u)
        U[:d, :d] += C[n]
        whole += w[n] * U
        for i in np.flatnonzero(~np.isnan(x)):
            A[i] += w[n] * U
            b[i] += w[n] * x[i] * u
            c[i] += w[n] * x[i] ** 2
    return A, b, c, whole


def ppca_m_step(A, b, c, whole, isotropic):
    """Regressions of each column on u, what they leave as noise, and then the parameter expansion: z ~ N(m, V)."""
    D, d = len(b), len(whole) - 1
    beta = np.array([np.linalg.solve(A[i], b[i]) for i in range(D)])
    rest = np.array([c[i] - 2 * beta[i] @ b[i] + beta[i] @ A[i] @ beta[i] for i in range(D)])
    weight = A[:, d, d]
    psi = np.full(D, rest.sum() / weight.sum()) if isotropic else rest / weight
    m = whole[d, :d] / whole[d, d]
    V = whole[:d, :d] / whole[d, d] - np.outer(m, m)
    return beta[:, :d] @ np.linalg.cholesky(V), beta[:, d] + beta[:, :d] @ m, psi


def ppca_em_step(X, w, W, mu, psi, isotropic):
    """One step of EM with parameter expansion: the next W (up to a rotation), mu, psi."""
    return ppca_m_step(*ppca_moments(X, w, W, mu, psi), isotropic)


def ppca_stepwise(X, w, W, mu, psi, isotropic, eta):
    """Stepwise EM: 1 - eta of what complete rows of the model are expected to give, and eta of the block; an M step."""
    A, share = np.eye(W.shape[1] + 1), eta / observed(X, w).sum()
    model = np.array([A] * len(W)), np.column_stack([W, mu]), (W**2).sum(1) + psi + mu**2, A
    return ppca_m_step(*((1 - eta) * a + share * b for a, b in zip(model, ppca_moments(X, w, W, mu, psi))), isotropic)


def ppca_exact(X, w, d):
    """W, mu, psi of the highest likelihood, from eigenvalues of the covariance.   Tipping & Bishop 1999, eq. 7, 8"""
    mu, S = np.average(X, axis=0, weights=w), np.cov(X.T, aweights=w, bias=True).reshape(X.shape[1], -1)
    v, U = np.linalg.eigh(S)
    sigma2 = v[: len(v) - d].mean()
    return (U * np.sqrt(np.maximum(v - sigma2, 0)))[:, len(v) - d :], mu, np.full(len(mu), sigma2)


# --------------------------------------------------------------------------------------------- sparse Bayesian models
def logistic_mean(m, v):
    """E log sigmoid(u) over u ~ N(m, v), on a fine grid: (B,). It takes complex m and v, for derivatives."""
    e = np.linspace(-12, 12, 1601)
    p = np.exp(-0.5 * e**2)
    u = m[:, None] + np.sqrt(v)[:, None] * e
    up = u.real > 0
    return (np.where(up, 0, u) - np.log1p(np.exp(np.where(up, -u, u)))) @ (p / p.sum())


def logistic_slopes(m, v):
    """g = E sigmoid(-u) and lambda = E sigmoid(u) sigmoid(-u) over u ~ N(m, v), on the same grid."""
    e = np.linspace(-12, 12, 1601)
    p = np.exp(-0.5 * e**2)
    s = expit(-(m[:, None] + np.sqrt(v)[:, None] * e))
    return s @ (p / p.sum()), (s * (1 - s)) @ (p / p.sum())


def relevance_bound(Phi, y, w, mu, C, alpha):
    """sum w E_q log sigmoid(y w'phi) - KL(q || N(0, diag alpha)), q = N(mu, CC'), C (D,D) lower triangular."""
    F = logistic_mean(y * (Phi @ mu), ((Phi @ C) ** 2).sum(1))
    log_det = 2 * np.log(np.diag(C)).sum()
    KL = 0.5 * (np.log(alpha).sum() - log_det - len(mu) + ((mu**2 + (C**2).sum(1)) / alpha).sum())
    return w @ F - KL


def relevance_gradients(Phi, y, w, mu, C, alpha):
    """Of that bound in mu (D,), in C (D,D, lower triangle) and in alpha (D,)."""
    g, l = logistic_slopes(y * (Phi @ mu), ((Phi @ C) ** 2).sum(1))
    H = (Phi * (w * l)[:, None]).T @ Phi
    in_root = np.tril(np.diag(1 / np.diag(C)) - (H + np.diag(1 / alpha)) @ C)
    square = mu**2 + (C**2).sum(1)
    return Phi.T @ (w * y * g) - mu / alpha, in_root, 0.5 * (square / alpha - 1) / alpha


def relevance_evidence(Phi, y, w, alpha, mu, C):
    """log of the integral of prod sigmoid(y w'phi)^w N(w | 0, diag alpha) over w (2,): the trapezoid rule on a grid
    about N(mu, CC')."""
    t = np.linspace(-16, 16, 401)
    at = mu + np.stack(np.meshgrid(t, t), -1).reshape(-1, 2) @ C.T
    log_p = -np.logaddexp(0, -(at @ Phi.T) * y) @ w - 0.5 * (at**2 / alpha).sum(1) - 0.5 * np.log(alpha).sum()
    return logsumexp(log_p) + np.log((t[1] - t[0]) ** 2 * np.linalg.det(C) / (2 * np.pi))


def ard_evidence(H, h, alpha):
    """log of the integral of exp(h'w - w'Hw/2) N(w | 0, diag alpha): weights whose alpha is 0 are left out."""
    a = alpha > 0
    P = H[np.ix_(a, a)] + np.diag(1 / alpha[a])
    return 0.5 * (h[a] @ np.linalg.solve(P, h[a]) - np.linalg.slogdet(P)[1] - np.log(alpha[a]).sum())


def ard_diagonal_bound(H, h, mu, alpha):
    """E_q[h'w - w'Hw/2] - KL for the best q = N(mu, diag S) of this mean: S = 1/(H_ii + 1/alpha)."""
    a = alpha > 0
    S = 1 / (np.diag(H)[a] + 1 / alpha[a])
    KL = 0.5 * (np.log(alpha[a] / S).sum() - a.sum() + ((mu[a] ** 2 + S) / alpha[a]).sum())
    return h @ mu - 0.5 * mu @ H @ mu - 0.5 * np.diag(H)[a] @ S - KL


def basis(X, C, gamma, gaussian, shift, degree):
    """exp(-gamma |x - c|²) or (gamma x'c + shift)^degree for rows x of X and c of C: (N,M)."""
    if gaussian:
        return np.exp(-gamma * ((X[:, None] - C) ** 2).sum(2))
    return (gamma * X @ C.T + shift) ** degree


# ------------------------------------------------------------------------------------------------ flows
# All is analytic in its arguments, so that a complex step goes through: comparisons look at real parts.
LARGEST = 20.0  # bounds |log scale| of an affine layer


def softplus(x):
    """log(1 + e^x): log1p of a complex number would lose a tiny e^x."""
    up = x.real > 0
    e = np.exp(np.where(up, -x, x))
    return np.where(up, x, 0) + 2 * np.arctanh(e / (2 + e))


def planar_constraint(u, w):
    """m, 1 + m, dm/dx and kappa = (m - x)/|w|² of x = w'u: m = x if x >= 0, else e^x - 1;  û = u + kappa w."""
    x, ww = w @ u, w @ w
    if x.real >= 0 or ww == 0:
        return x, 1 + x, 1.0, 0.0
    more = sum(x**n / factorial(n) for n in range(2, 20)) if x.real > -1 else np.expm1(x) - x
    return np.expm1(x), np.exp(x), np.exp(x), more / ww


def planar(z, u, w, b):
    """f = z + û tanh(a), l = log(1 + m tanh'(a)), a = w'z + b.   z (N,D), u, w (D,), b ()  ->  f (N,D), l (N,)"""
    _, sigma, _, kappa = planar_constraint(u, w)
    a = z @ w + b
    return z + np.multiply.outer(np.tanh(a), u + kappa * w), np.log(np.tanh(a) ** 2 + sigma / np.cosh(a) ** 2)


def planar_inverse(y, u, w, b):
    """f^-1 and its l: the root of a + m tanh(a) = c in real numbers, then Newton's method in complex ones."""
    m, sigma, _, kappa = planar_constraint(u, w)
    c = y @ w + b
    at, far = lambda a, c: a + m.real * np.tanh(a) - c, abs(m.real) + 1
    a = np.array([brentq(at, v - far, v + far, args=(v,), xtol=1e-15) for v in c.real])
    for _ in range(3):
        a = a - (a + m * np.tanh(a) - c) / (np.tanh(a) ** 2 + sigma / np.cosh(a) ** 2)
    z = y - np.multiply.outer(np.tanh(a), u + kappa * w)
    return z, -np.log(np.tanh(a) ** 2 + sigma / np.cosh(a) ** 2)


def planar_rev(z, u, w, b, bf, bl):
    """The slopes bf (N,D) in f and bl (N,) in l, back to z, u, w, b."""
    m, sigma, slope, kappa = planar_constraint(u, w)
    a, ww = z @ w + b, w @ w
    h, s = np.tanh(a), 1 / np.cosh(a) ** 2
    d = h**2 + sigma * s
    ba = (bf @ (u + kappa * w) - 2 * h * m * bl / d) * s
    bhat = h @ bf
    bkappa = w @ bhat / ww if ww > 0 else 0.0  # over |w|²
    bx = (bl * s / d).sum() * slope + bkappa * np.expm1(min(w @ u, 0))
    bw = ba @ z + kappa * bhat + bx * u - 2 * bkappa * kappa * w
    return bf + np.multiply.outer(ba, w), bhat + bx * w, bw, ba.sum()


def radial(z, u, w, b):
    """f = z + beta (z - z0)/(alpha + r), r = |z - z0|, z0 = w, alpha = softplus(b), alpha + beta = softplus(b + u0)."""
    alpha, s = softplus(b), softplus(b + u[0])
    r = np.sqrt(((z - w) ** 2).sum(1))
    rho, slope = (r + s) / (r + alpha), (alpha - s) / (r + alpha) ** 2
    return w + rho[:, None] * (z - w), (len(w) - 1) * np.log(rho) + np.log(rho + r * slope)


def radial_inverse(y, u, w, b):
    """|y - z0| = r + beta r/(alpha + r) is quadratic in r."""
    alpha, s = softplus(b), softplus(b + u[0])
    R = np.sqrt(((y - w) ** 2).sum(1))
    r = ((R - s) + np.sqrt((R - s) ** 2 + 4 * R * alpha)) / 2
    z = w + (r / R)[:, None] * (y - w)
    return z, -radial(z, u, w, b)[1]


def radial_rev(z, u, w, b, bf, bl):
    """By the chain rule: rho = (r + s)/A, A = r + alpha, q = (alpha - s)/A² is its slope in r, Q = rho + r q."""
    alpha, s, v = softplus(b), softplus(b + u[0]), z - w
    r = np.sqrt((v**2).sum(1))
    A = alpha + r
    rho, q = (r + s) / A, (alpha - s) / A**2
    Q = rho + r * q
    brho = (v * bf).sum(1) + bl * ((len(w) - 1) / rho + 1 / Q)
    bq = bl * r / Q
    br = bl * q / Q + brho * q - 2 * bq * q / A
    balpha = (-brho * rho / A + bq * (1 / A**2 - 2 * q / A)).sum()
    bs = (brho / A - bq / A**2).sum() * expit(b + u[0])
    bz = rho[:, None] * bf + (br / r)[:, None] * v
    return bz, np.append(bs, np.zeros(len(u) - 1)), (bf - bz).sum(0), balpha * expit(b) + bs


def affine(z, u, w, b):
    """f = e^t z + u, t = 20 tanh(w/20), by elements."""
    t = LARGEST * np.tanh(w / LARGEST)
    return np.exp(t) * z + u, np.full(len(z), t.sum())


def affine_inverse(y, u, w, b):
    t = LARGEST * np.tanh(w / LARGEST)
    return (y - u) * np.exp(-t), np.full(len(y), -t.sum())


def affine_rev(z, u, w, b, bf, bl):
    t, slope = LARGEST * np.tanh(w / LARGEST), 1 / np.cosh(w / LARGEST) ** 2
    return bf * np.exp(t), bf.sum(0), ((bf * z).sum(0) * np.exp(t) + bl.sum()) * slope, 0.0


LAYERS = {
    "planar": (planar, planar_inverse, planar_rev),
    "radial": (radial, radial_inverse, radial_rev),
    "affine": (affine, affine_inverse, affine_rev),
}


def inverse_rev(rev, z, u, w, b, bz, bl):
    """Back through z = f^-1(y), l = -log|det J(z)|, by the implicit function theorem: by = J^-T (bz - bl grad log det),
    and the slopes in u, w, b are those of f for -by and -bl. J and the gradient are made by `rev`."""
    nothing = np.zeros_like(z)
    JT = np.stack([rev(z, u, w, b, nothing + e, np.zeros(len(z)))[0] for e in np.eye(z.shape[1])], 2)
    grad = rev(z, u, w, b, nothing, np.ones(len(z)))[0]
    by = np.linalg.solve(JT, (bz - bl[:, None] * grad)[:, :, None])[:, :, 0]
    return by, *rev(z, u, w, b, -by, -bl)[1:]


def flow(kinds, u, w, b, inverse, X):
    """X (N,D) through f_0, ..., f_K-1, or through f_K-1^-1, ..., f_0^-1: Z (N,D) and the sum l (N,) of log|det|."""
    l = 0.0
    for j in reversed(range(len(kinds))) if inverse else range(len(kinds)):
        X, more = LAYERS[kinds[j]][inverse](X, u[j], w[j], b[j])
        l = l + more
    return X, l


def flow_gradients(kinds, u, w, b, inverse, X, slopes, beta=1.0):
    """Of sum_n beta log p(z_n) + l_n in u, w (K,D), b (K,), by hand; `slopes` gives those of log p at Z."""
    gu, gw, gb, before = np.zeros_like(u), np.zeros_like(w), np.zeros_like(b), []
    order = list(reversed(range(len(kinds))) if inverse else range(len(kinds)))
    for j in order:
        f, back, _ = LAYERS[kinds[j]]
        before.append(X)
        X = (back if inverse else f)(X, u[j], w[j], b[j])[0]
    bz, bl = beta * slopes(X), np.ones(len(X))
    for j in reversed(order):
        rev, Y = LAYERS[kinds[j]][2], before.pop()
        if inverse:
            bz, gu[j], gw[j], gb[j] = inverse_rev(rev, X, u[j], w[j], b[j], bz, bl)
        else:
            bz, gu[j], gw[j], gb[j] = rev(Y, u[j], w[j], b[j], bz, bl)
        X = Y
    return gu, gw, gb


def energy(name, x, y, m=np):
    """log pi of U1 to U4 (Rezende & Mohamed 2015, table 1), U2 to U4 within walls at 4; m: numpy, or mpmath's mp."""
    hill = lambda v, width: -((v / width) ** 2) / 2
    either = lambda a, b: (a + b) / 2 + m.log(2 * m.cosh((a - b) / 2))  # log(e^a + e^b)
    if name == "U1":
        return either(hill(x - 2, 0.6), hill(x + 2, 0.6)) + hill(m.sqrt(x**2 + y**2) - 2, 0.4)
    w1, w2, w3 = m.sin(2 * m.pi * x / 4), 3 * m.exp(-(((x - 1) / 0.6) ** 2) / 2), 3 / (1 + m.exp(-(x - 1) / 0.3))
    if name == "U2":
        log_pi = hill(y - w1, 0.4)
    elif name == "U3":
        log_pi = either(hill(y - w1, 0.35), hill(y - w1 + w2, 0.35))
    else:
        log_pi = either(hill(y - w1, 0.4), hill(y - w1 + w3, 0.35))
    walls = [(abs(v.real) > 4) * hill(m.sqrt(v**2) - 4, 0.4) for v in (x, y)]
    return log_pi + walls[0] + walls[1]


def flow_end(name, Z):
    """log p at the end of a flow, Z (N,D): the standard normal, a ring of radius 2, or an energy."""
    if name == "normal":
        return -0.5 * (Z**2).sum(1) - 0.5 * Z.shape[1] * np.log(2 * np.pi)
    if name == "ring":
        return -(((np.sqrt((Z**2).sum(1)) - 2) / 0.4) ** 2) / 2
    return energy(name, Z[:, 0], Z[:, 1])


# ------------------------------------------------------------------------------------------ variational autoencoders
# theta: {name: array}, real or complex, weights (inputs, outputs). B rows X (B,D), d latent; S = L k samples for each
# row, eps (B S,d), that of row n, draw l and importance sample i at n S + l k + i. All is analytic, as above.
ACTIVATIONS = {
    "relu": lambda a: np.where(a.real > 0, a, 0),
    "leaky_relu": lambda a: np.where(a.real > 0, a, 0.01 * a),
    "tanh": np.tanh,
    "softplus": softplus,
}


def log_variance(r):
    """20 tanh(r/20): about r, and never beyond 20."""
    return 20 * np.tanh(r / 20)


def vae_hidden(theta, side, h, activation):
    """h <- f(h W + b), for each layer of one side, "encoder" or "decoder"."""
    i = 0
    while f"{side}_{i}" in theta:
        h = ACTIVATIONS[activation](h @ theta[f"{side}_{i}"] + theta[f"{side}_bias_{i}"])
        i += 1
    return h


def vae_encode(theta, X, activation):
    """The head (B,P): mu (d), r (d), and for layers that depend on x K times u (d), w (d), b (1)."""
    return vae_hidden(theta, "encoder", X, activation) @ theta["head"] + theta["head_bias"]


def vae_decode(theta, Z, activation):
    """The output (B S,Q) at Z (B S,d): the mean before its sigmoid (D), and with noise="network" r (D)."""
    return vae_hidden(theta, "decoder", Z, activation) @ theta["output"] + theta["output_bias"]


def vae_posterior(theta, X, d, activation):
    """mu and the log-variances s (B,d) of q0(z0|x)."""
    head = vae_encode(theta, X, activation)
    return head[:, :d], log_variance(head[:, d : 2 * d])


def vae_sample(mu, s, layers, eps, q=None):
    """z_K (S,d), log N(z_K | 0, 1), -log q0(z0) and the sum l of log|det| (S,), for one row and its noise eps (S,d).

    mu, s (d,); layers (K,2d+1), u, w, b of each; q: mu and s as they stand in log q0, where not those of z0."""
    d, z = len(mu), mu + np.exp(s / 2) * eps
    centre, log_v = (mu, s) if q is None else q
    log_q = -0.5 * (np.log(2 * np.pi) + log_v + (z - centre) ** 2 * np.exp(-log_v)).sum(1)
    z, l = flow(["planar"] * len(layers), layers[:, :d], layers[:, d : 2 * d], layers[:, 2 * d], 0, z)
    return z, flow_end("normal", z), -log_q, l + np.zeros(len(eps))


def vae_log_px(theta, A, X, likelihood, noise="isotropic", mean="linear"):
    """log p(x|z) (B S,) from outputs A (B S,Q), each with its row of X (B S,D)."""
    if likelihood == "bernoulli":
        return (X * A - softplus(A)).sum(1)
    a, r = A[:, : X.shape[1]], A[:, X.shape[1] :]
    error = X - (np.exp(-softplus(-a)) if mean == "sigmoid" else a)  # the sigmoid of a
    if likelihood == "autoencoder":
        return -0.5 * (error**2).sum(1)
    t = log_variance(r if noise == "network" else theta["rho"])
    return -0.5 * (np.log(2 * np.pi) + t + error**2 * np.exp(-t)).sum(1)


def vae_kl(mu, s):
    """KL(N(mu, diag e^s) || N(0, 1)) of each row.   Kingma & Welling 2014, appendix B"""
    return 0.5 * (mu**2 + np.exp(s) - 1 - s).sum(1)


def vae_log_weights(
    theta,
    X,
    eps,
    *,
    d,
    activation="relu",
    likelihood="gaussian",
    noise="isotropic",
    mean="linear",
    posterior="gaussian",
    n_flow_layers=0,
    amortised=True,
    kl="monte_carlo",
    n_samples=1,
    n_importance=1,
    beta=1.0,
    q=None,
):
    """log w (B,L,k) = log p(x|z_K) + beta (log N(z_K | 0, 1) - log q0(z0) + l).   Rezende & Mohamed 2015, eq. 15

    For kl="entropy" -log q0 is its mean; for "analytic" all that beta multiplies is minus the KL, its mean.
    q: mu and s (B,d) that stand in log q0. An autoencoder: z = mu, and log p(x|z) alone."""
    B, S, per_row = len(X), n_samples * n_importance, (n_flow_layers, 2 * d + 1)
    head = vae_encode(theta, X, activation)
    if likelihood == "autoencoder":
        return vae_log_px(theta, vae_decode(theta, head, activation), X, likelihood, mean=mean).reshape(B, 1, 1)
    mu, s = head[:, :d], log_variance(head[:, d : 2 * d])
    if posterior == "gaussian":
        layers = np.empty((B, 0, 2 * d + 1))
    elif amortised:
        layers = head[:, 2 * d :].reshape(B, *per_row)
    else:
        layers = np.repeat(theta["flow"].reshape(1, *per_row), B, axis=0)
    eps = eps.reshape(B, S, d)
    each = [vae_sample(mu[n], s[n], layers[n], eps[n], None if q is None else (q[0][n], q[1][n])) for n in range(B)]
    Z, log_prior, minus_log_q, l = (np.concatenate(part) for part in zip(*each))
    log_px = vae_log_px(theta, vae_decode(theta, Z, activation), np.repeat(X, S, axis=0), likelihood, noise, mean)
    if kl == "analytic":
        rest = -np.repeat(vae_kl(mu, s), S)
    elif kl == "entropy":
        rest = log_prior + np.repeat(0.5 * (np.log(2 * np.pi) + 1 + s).sum(1), S) + l
    else:
        rest = log_prior + minus_log_q + l
    return (log_px + beta * rest).reshape(B, n_samples, n_importance)


def vae_bound(theta, X, eps, **options):
    """The mean over rows and draws of log 1/k sum_i w_i (Burda et al. 2016); options of vae_log_weights."""
    log_w = vae_log_weights(theta, X, eps, **options)
    top = log_w.real.max(2, keepdims=True)
    return (np.log(np.exp(log_w - top).mean(2)) + top[:, :, 0]).mean()


def vae_gradients(theta, X, eps, *, gradient="total", **options):
    """Of vae_bound in each parameter, by a complex step: {name: array}.

    "path" (k = 1) and "doubly", of "monte_carlo": the gradient of sum_i c_i log w_i, c_i and q in log q0 held fixed, so
    that the encoder is felt through z_i alone. With w~_i = w_i/sum w, c_i = w~_i for the decoder. For the encoder that
    would leave out -beta sum_i w~_i dlog q0(z_i)/dphi, whose mean over eps is that of
    -beta sum_i (w~_i - w~_i²) dlog w_i/dz_i dz_i/dphi; so c_i = w~_i - beta (w~_i - w~_i²): w~_i² if beta is 1, and
    1 if k is 1.   Roeder, Wu & Duvenaud 2017; Tucker et al. 2019"""
    if gradient != "total":
        log_w = vae_log_weights(theta, X, eps, **options)
        share = np.exp(log_w - logsumexp(log_w, axis=2, keepdims=True))
        of_encoder = share - options.get("beta", 1.0) * (share - share**2)
        q = vae_posterior(theta, X, options["d"], options.get("activation", "relu"))

    def value(theta, name):
        if gradient == "total":
            return vae_bound(theta, X, eps, **options)
        c = of_encoder if name.startswith(("encoder", "head")) else share
        return (c * vae_log_weights(theta, X, eps, q=q, **options)).sum(2).mean()

    slopes = {name: np.empty(p.shape) for name, p in theta.items()}
    for name, p in theta.items():
        for i in np.ndindex(*p.shape):
            step = np.zeros(p.shape, complex)
            step[i] = 1e-30j
            slopes[name][i] = value({**theta, name: p + step}, name).imag / 1e-30
    return slopes


def vae_linear_bound(theta, X, *, d, activation="relu", beta=1.0):
    """E_q log p(x|z) - beta KL (B,), exact, for x ~ N(z W + c, diag e^t), W the output, and a gaussian q.

    E (x_j - z'W_j - c_j)² = (x_j - mu'W_j - c_j)² + sum_i W_ij² e^s_i. rho (1,) or (D,)."""
    mu, s = vae_posterior(theta, X, d, activation)
    t = log_variance(theta["rho"])
    square = (X - vae_decode(theta, mu, activation)) ** 2 + np.exp(s) @ theta["output"] ** 2
    return -0.5 * (np.log(2 * np.pi) + t + square * np.exp(-t)).sum(1) - beta * vae_kl(mu, s)


# ------------------------------------------------------------------------------------------------ Bayesian nets
# theta: {name: array}, real or complex: mu_0, ... and rho_0, ... (I+1,O) for layers of I inputs and O outputs, the last
# row of each for biases; noise (1,) of "gaussian". Rows x (B,D), standardised; y (B,): classes 0, 1, ..., or numbers.
# All is analytic, as above, but for pruning.
def network_log_ratio(theta):
    """log S - log(mu² + 1e-30) of each weight: a list of (I+1,O).   Molchanov et al. 2017, log alpha"""
    return [np.log(S) - np.log(mu**2 + 1e-30) for mu, S in network_layers(theta)]


def network_layers(theta, threshold=None):
    """mu and S = e^(20 tanh(rho/20)) (I+1,O) of each layer; both are 0 where log S - log mu² >= threshold."""
    layers = [(theta[f"mu_{l}"], np.exp(log_variance(theta[f"rho_{l}"]))) for l in range(len(theta) // 2)]
    if threshold is None:
        return layers
    kept = [ratio < threshold for ratio in network_log_ratio(theta)]
    return [(mu * k, S * k) for (mu, S), k in zip(layers, kept)]


def network_output(theta, x, eps=None, activation="relu", threshold=None):
    """u (B,O) of the last layer: u = m + sqrt(v) eps, m = h mu + mu_b, v = h² S + S_b; h is x, then f(u) of the last.

    eps: of each layer (B,O), or (O,), the same for all rows; None: u = m, the pass of the mean weights.
    Kingma, Salimans & Welling 2015, eq. 6"""
    h = x
    for l, (mu, S) in enumerate(network_layers(theta, threshold)):
        u = h @ mu[:-1] + mu[-1]
        if eps is not None:
            u = u + np.sqrt(h**2 @ S[:-1] + S[-1]) * eps[l]
        h = ACTIVATIONS[activation](u)
    return u


def network_log_p(theta, u, y, likelihood):
    """log p(y|u) (B,): "softmax" of u (B,K), "logistic" or "gaussian" of u (B,1)."""
    if likelihood == "softmax":
        u = u - u.real.max(1, keepdims=True)
        return u[np.arange(len(u)), y] - np.log(np.exp(u).sum(1))
    if likelihood == "logistic":
        return y * u[:, 0] - softplus(u[:, 0])
    t = log_variance(theta["noise"])
    return -0.5 * (np.log(2 * np.pi) + t + (y - u[:, 0]) ** 2 * np.exp(-t))


def network_kl(theta, prior="ard", prior_variance=1.0):
    """KL(q(w) || p(w)) of each weight: a list of (I+1,O).

    "ard": p is N(0, mu² + S), the best alpha: log(1 + mu²/S)/2. "gaussian": p is N(0, prior_variance). "log_uniform":
    k1 (1 - sigmoid(k2 + k3 log S/mu²)) + log(1 + mu²/S)/2, k1, k2, k3 = 0.63576, 1.87320, 1.48695, which stands for a
    KL up to a constant; with a = e^-k2 (mu²/S)^k3 the first is k1 a/(1 + a), which also mu = 0 has: 0, as its slope.
    Molchanov, Ashukha & Vetrov 2017, eq. 14"""
    kls = []
    for mu, S in network_layers(theta):
        if prior == "gaussian":
            kls.append(0.5 * (np.log(prior_variance / S) + (S + mu**2) / prior_variance - 1))
            continue
        kl = 0.5 * np.log1p(mu**2 / S)
        if prior == "log_uniform":
            a = np.exp(-1.87320) * (mu**2 / S) ** 1.48695
            kl = kl + 0.63576 * a / (1 + a)
        kls.append(kl)
    return kls


def network_parts(
    theta, x, y, eps, *, likelihood, activation="relu", prior="ard", prior_variance=1.0, w=None, N=None, W=None
):
    """1/B sum_n (w_n N/W) log p(y_n|u_n) and KL/W, of a batch of B of N rows, whose weights add up to W; w (B,) are
    those of the batch. Without N and W the batch is all rows."""
    w = np.ones(len(x)) if w is None else w
    N, W = len(x) if N is None else N, w.sum() if W is None else W
    log_p = network_log_p(theta, network_output(theta, x, eps, activation), y, likelihood)
    return (w * N / W * log_p).mean(), sum(kl.sum() for kl in network_kl(theta, prior, prior_variance)) / W


def network_bound(theta, x, y, eps, *, beta=1.0, **options):
    """Mean log p(y|u) - beta KL per unit of weight; options of network_parts."""
    log_p, kl = network_parts(theta, x, y, eps, **options)
    return log_p - beta * kl


def network_gradients(theta, x, y, eps, **options):
    """Of network_bound in each parameter, by a complex step: {name: array}."""
    slopes = {name: np.empty(p.shape) for name, p in theta.items()}
    for name, p in theta.items():
        for i in np.ndindex(*p.shape):
            step = np.zeros(p.shape, complex)
            step[i] = 1e-30j
            slopes[name][i] = network_bound({**theta, name: p + step}, x, y, eps, **options).imag / 1e-30
    return slopes


def network_predict(theta, x, eps, *, likelihood, activation="relu", threshold=None):
    """Means over S draws of the probabilities (B,K), (B,2) of "logistic"; or mean and standard deviation (B,) of y.

    eps (S,O) of each layer, draw s the same for all rows; None: one pass of the mean weights. Given all draws, y is a
    mixture of N(u_s, e^t): its variance is that of the S numbers u_s, and e^t."""
    draws = [None] if eps is None else zip(*eps)
    u = np.stack([network_output(theta, x, e, activation, threshold) for e in draws])
    if likelihood == "softmax":
        return np.exp(u - logsumexp(u, axis=2, keepdims=True)).mean(0)
    if likelihood == "logistic":
        return np.concatenate([expit(-u), expit(u)], axis=2).mean(0)
    u = u[:, :, 0]
    return u.mean(0), np.sqrt(u.var(0) + np.exp(log_variance(theta["noise"])))


def network_linear_log_p(theta, x, y, likelihood):
    """E log p(y|u) (B,) of a net of one layer, u ~ N(m, v), exact: (m - y)² + v for (u - y)²; "logistic" on a grid."""
    [(mu, S)] = network_layers(theta)
    m, v = x @ mu[:-1] + mu[-1], (x**2 @ S[:-1] + S[-1])[:, 0]
    if likelihood == "logistic":
        return logistic_mean((2 * y - 1) * m[:, 0], v)
    return network_log_p(theta, m, y, likelihood) - 0.5 * v * np.exp(-log_variance(theta["noise"]))


# ------------------------------------------------------------------------------------------------ distributions
# theta: {name: array}, real or complex: the coordinates without bounds that lvm.distributions has for each family. z
# and noise (n,D), real or complex too. All is analytic on either side of a kink; real parts say on which side.
STANDARD = {  # of x = (z - location)/scale: log density, support, and x of the base noise
    "Normal": (lambda x: -0.5 * (np.log(2 * np.pi) + x**2), (-np.inf, np.inf), lambda eps: eps),
    "Uniform": (lambda x: 0 * x, (0, 1), lambda u: u),
    "Exponential": (lambda x: -x, (0, np.inf), lambda u: -np.log1p(-u)),
    "Laplace": (
        lambda x: -x * np.sign(x.real) - np.log(2),
        (-np.inf, np.inf),
        lambda u: np.where(u < 0.5, np.log(2 * u), -np.log(2 * (1 - u))),
    ),
    "Logistic": (lambda x: -2 * np.log(2 * np.cosh(x / 2)), (-np.inf, np.inf), lambda u: np.log(u) - np.log1p(-u)),
    "Gumbel": (lambda x: -x - np.exp(-x), (-np.inf, np.inf), lambda u: -np.log(-np.log(u))),
    "Cauchy": (lambda x: -np.log(np.pi) - np.log(1 + x**2), (-np.inf, np.inf), lambda u: np.tan(np.pi * (u - 0.5))),
}


def distribution_log_prob(family, theta, z):
    """log q(z) (n,)."""
    if family == "NormalMixture":
        a = distribution_log_terms(theta, z).sum(1) + log_softmax(theta["logits"])
        return log_sum_exp(a)
    if family == "MultivariateNormal":
        L, x = distribution_factor(theta), (z - theta["mean"]).T
        x = x + 0 * L[0, 0]  # complex where either is
        for i in range(len(L)):  # L x = z - mean
            x[i] = (x[i] - L[i, :i] @ x[:i]) / L[i, i]
        return STANDARD["Normal"][0](x).sum(0) - np.log(np.diag(L)).sum()
    if family == "Weibull":  # (z/scale)^shape = x is exponential, dx/dz = shape x/z
        shape = np.exp(theta["log_shape"])
        l = shape * (np.log(z) - theta["log_scale"])
        return (-np.exp(l) + l + theta["log_shape"] - np.log(z)).sum(1)
    location, log_scale = distribution_location(theta)
    log_density, (low, high), _ = STANDARD[family]
    x = (z - location) * np.exp(-log_scale)
    return np.where((low <= x.real) & (x.real <= high), log_density(x) - log_scale, -np.inf).sum(1)


def distribution_transform(family, theta, noise):
    """z (n,D) of the base noise: standard normal, or uniform in (0, 1). Not of a mixture, whose components jump."""
    if family == "MultivariateNormal":
        return theta["mean"] + noise @ distribution_factor(theta).T
    if family == "Weibull":
        return np.exp(theta["log_scale"] + np.log(-np.log1p(-noise)) * np.exp(-theta["log_shape"]))
    location, log_scale = distribution_location(theta)
    return location + np.exp(log_scale) * STANDARD[family][2](noise)


def distribution_location(theta):
    """Where x = (z - location)/scale begins, and log scale: (D,) each."""
    location = next((theta[name] for name in ("mean", "loc", "low") if name in theta), 0)
    return location, theta["log_width" if "log_width" in theta else "log_scale"]


def distribution_factor(theta):
    """L (D,D) from its lower triangle row by row, whose diagonal is in logs."""
    D = len(theta["mean"])
    L = np.zeros((D, D), theta["factor"].dtype)
    L[np.tril_indices(D)] = theta["factor"]
    L[np.diag_indices(D)] = np.exp(np.diag(L))
    return L


def distribution_log_terms(theta, z):
    """log N(z_d | mu_kd, s_kd²): (n,D,K)."""
    x = (z[:, :, None] - theta["means"].T) * np.exp(-theta["log_scales"].T)
    return STANDARD["Normal"][0](x) - theta["log_scales"].T


def distribution_conditionals(theta, z):
    """F_d(z_d | z_<d) = sum_k r_kd Phi((z_d - mu_kd)/s_kd), r_kd = p(k | z_<d): (n,D).

    Of samples they are uniform in (0, 1) and independent.   Rosenblatt 1952; Graves 2016"""
    terms = distribution_log_terms(theta, z)
    before = np.cumsum(terms, axis=1) - terms + log_softmax(theta["logits"])
    r = np.exp(before - log_sum_exp(before)[:, :, None])
    return (r * ndtr((z[:, :, None] - theta["means"].T) * np.exp(-theta["log_scales"].T))).sum(2)


def log_softmax(a):
    return a - log_sum_exp(a)


def log_sum_exp(a):
    """Over the last axis; scipy's is not for complex steps."""
    top = a.real.max(-1, keepdims=True)
    return np.log(np.exp(a - top).sum(-1)) + top[..., 0]
