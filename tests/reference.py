"""Slow, obvious NumPy and SciPy for what the kernels do fast. Nothing here looks at lvm, which is held against it.

Shapes and letters as in lvm.kernels: N rows, D columns, K components, X (N,D), w (N,) or None for weights of one.
"""

import numpy as np
from scipy.special import logsumexp


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
    """log N(x_n | mu, Sigma): (N,)."""
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
    return np.average(mixture_e_step(X, pi, mu, Sigma, R)[0], weights=w)


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
    S0, D = v.sum(0), X.shape[1]
    pi = S0 / S0.sum()
    mu = np.array([np.average(X, axis=0, weights=v[:, k]) for k in range(len(S0))])
    each = [(v[:, k, None] * (X - mu[k])).T @ (X - mu[k]) / S0[k] + np.diag(R) for k in range(len(S0))]
    if kind == "full":
        return pi, mu, np.array(each)
    if kind == "tied":
        return pi, mu, np.einsum("k,kij->ij", pi, each)
    if kind == "diag":
        return pi, mu, np.array([np.diag(S) for S in each])
    return pi, mu, np.array([np.trace(S) / D for S in each])


def mixture_em_step(kind, X, w, pi, mu, Sigma, R):
    """One EM step: the next pi, mu, Sigma (Sigma of its kind, in and out)."""
    r = mixture_e_step(X, pi, mu, dense(kind, Sigma, *mu.shape), R)[1]
    return mixture_m_step(kind, X, w, r, R)
