"""Gaussian mixtures: the bound of EM and its maximum, over a kernel set.

p(x) = sum_k pi_k N(x | mu_k, Sigma_k). With responsibilities r_nk = q(z_n = k), any r gives a bound
    sum_n w_n sum_k r_nk [log pi_k + log N(x_n | mu_k, Sigma_k) - tr(R Sigma_k^-1)/2 - log r_nk].
E step: r_nk = softmax_k(a_nk) is the best, where the bound touches l = sum_n w_n logsumexp_k a_nk (kernels, docstring).
M step: the gradient of the bound in pi (with a multiplier for sum pi = 1), mu_k and Sigma_k^-1 is zero at
    pi_k = S0_k / W,    mu_k += S1_k / S0_k,    Sigma_k = E_k[(x - mu_k)(x - mu_k)'] + R,
so with R > 0 it is l, with its trace term, that never falls: the bound of data smeared by N(0, diag R). R = 0 leaves
the log-likelihood. Dempster, Laird & Rubin 1977; Bishop 2006, section 9.2.
"""

from typing import NamedTuple

import numpy as np


class Params(NamedTuple):
    """A mixture in float64 on the host: pi (K,), mu (K,D), Sigma, and what the kernels read: P, c (K,)."""

    pi: np.ndarray
    mu: np.ndarray
    Sigma: np.ndarray
    P: np.ndarray
    c: np.ndarray


class Collapsed(Exception):
    """Components without positive definite covariance or without any weight, and the parameters as they were."""

    def __init__(self, components, params):
        super().__init__(components)
        self.components, self.params = components, params


class Statistics:
    """Sufficient statistics S (kernels, module docstring) about the means `mu` at which they were taken. They add.

    kind is the covariance type; the statistics of a spherical mixture are those of a diagonal one."""

    def __init__(self, S, mu, kind):
        self.S, self.mu, self.kind = S, mu, kind

    def _parts(self):
        """S0 (K,1), S1 (K,D), S2: views."""
        K, D = self.mu.shape
        S0, S1, S2 = np.split(self.S[:-1], [K, K + K * D])
        return S0[:, None], S1.reshape(K, D), S2.reshape(shape(self.kind, K, D))

    @property
    def weight(self):
        """Sum of the rows' weights, W."""
        return float(self.S[: len(self.mu)].sum())

    @property
    def bound(self):
        """Mean bound per row, in nats."""
        return float(self.S[-1]) / self.weight

    def __add__(self, other):
        if (other.kind, other.mu.shape) != (self.kind, self.mu.shape):
            raise ValueError(
                f"Statistics of different mixtures do not add: {self.kind} {self.mu.shape} and {other.kind} "
                f"{other.mu.shape}."
            )
        return Statistics(self.S + other.about(self.mu).S, self.mu, self.kind)

    def about(self, mu):
        """The same statistics about other means. With e_k = mu_k(old) - mu_k(new):
        S1' = S1 + S0 e,   S2' = S2 + e S1' + S1 e'   (S1 e' + e S1' + S0 e e', as S1' = S1 + S0 e)."""
        new = Statistics(self.S.copy(), mu, self.kind)
        S0, S1, S2 = new._parts()
        e, old = self.mu - mu, S1.copy()
        S1 += S0 * e
        if self.kind in ("full", "tied"):
            change = S1[:, :, None] * e[:, None, :] + e[:, :, None] * old[:, None, :]
            S2 += np.tril(change if self.kind == "full" else change.sum(0))
        else:
            S2 += e * (old + S1)
        return new

    def means(self):
        """(K,D) mu_k + S1_k / S0_k; a component without weight keeps its mean."""
        S0, S1, _ = self._parts()
        return self.mu + S1 / np.where(S0 > 0, S0, 1)

    def within(self):
        """(D,) variance of the columns about their components' means, pooled over components."""
        S0, S1, S2 = self._parts()
        S2 = S2.sum(0) if self.kind != "tied" else S2
        square = np.diagonal(S2) if self.kind in ("full", "tied") else S2
        between = (S1 * (S1 / np.where(S0 > 0, S0, 1))).sum(0)
        return np.maximum(square - between, 0) / self.weight


def shape(kind, K, D):
    """Of Sigma, P and S2."""
    return {"full": (K, D, D), "tied": (D, D)}.get(kind, (K, D))


class Mixture:
    """The bound of one data set. X (N,D) and w (N,) or (0,) of the kernel set k; R (D,) float64.

    kind is a covariance type; "spherical" is "diag" with each component's variances averaged, which is its M step.
    """

    def __init__(self, k, kind, X, w, R):
        self.k, self.X, self.w, self.R, self.kind = k, X, w, np.ascontiguousarray(R, dtype=float), kind
        self._statistics = getattr(k.mixture, "statistics_" + ("diag" if kind == "spherical" else kind))
        self._maximise = getattr(k.mixture, f"maximise_{kind}")

    def diagonal(self, v, K):
        """Sigma (of this kind) with variances v (D,) for each of K components."""
        v = v if self.kind != "spherical" else np.full_like(v, v.mean())
        matrix = np.diag(v) if self.kind in ("full", "tied") else v
        return np.broadcast_to(matrix, shape(self.kind, K, len(v))).copy()

    def params(self, pi, mu, Sigma):
        """Params to begin at. Raises Collapsed, with all components, when a covariance is not positive definite."""
        P = self.factors(Sigma)
        square = (P**2).sum(axis=-2) if self.kind in ("full", "tied") else P**2
        with np.errstate(divide="ignore"):  # a weight of 0
            c = constants(pi, P, self.kind) - 0.5 * (square * self.R).sum(-1)
        return _sound(Params(pi, mu, Sigma, P, c))

    def factors(self, Sigma):
        """P, inverse Cholesky factors of covariances (one over roots of variances); nan where there are none.

        They are what the M step makes of statistics S0 = 1, S1 = 0, S2 = Sigma without regularisation."""
        if self.kind not in ("full", "tied"):
            with np.errstate(divide="ignore", invalid="ignore"):
                P = 1 / np.sqrt(Sigma)
            return np.where(np.isfinite(P), P, np.nan)
        A = Sigma.reshape(-1, *Sigma.shape[-2:])
        K, D = A.shape[:2]
        S = np.concatenate([np.ones(K), np.zeros(K * D), A.ravel(), [0]])
        P, c = np.empty_like(A), np.empty(K)
        self.k.mixture.maximise_full(S, np.zeros((K, D)), np.zeros(D), np.empty(K), np.empty((K, D)), A.copy(), P, c)
        P[~(c > -np.inf)] = np.nan
        return P.reshape(Sigma.shape)

    def statistics(self, p):
        """E step: Statistics at p."""
        mu = p.mu.astype(self.X.dtype)
        S = np.empty(mu.size + len(mu) + p.Sigma.size + 1)
        self._statistics(self.X, self.w, mu, p.P.astype(mu.dtype, copy=False), p.c.astype(mu.dtype, copy=False), S)
        return Statistics(S, mu.astype(float, copy=False), self.kind)

    def maximise(self, s):
        """M step: Params. Raises Collapsed."""
        K, D = s.mu.shape
        Sigma = np.empty(shape(self.kind, K, D))
        p = Params(np.empty(K), np.empty((K, D)), Sigma, np.empty_like(Sigma), np.empty(K))
        self._maximise(s.S, s.mu, self.R, *p)
        return _sound(p)


def constants(pi, P, kind):
    """c_k = log pi_k - D/2 log 2pi + log|P_k|: (K,)."""
    diagonal = np.diagonal(P, axis1=-2, axis2=-1) if kind in ("full", "tied") else P
    return np.log(pi) - 0.5 * P.shape[-1] * np.log(2 * np.pi) + np.log(diagonal).sum(-1)


def _sound(p):
    """p, or Collapsed."""
    if not p.c.min() > -np.inf:
        raise Collapsed(np.flatnonzero(~(p.c > -np.inf)), p)
    return p
