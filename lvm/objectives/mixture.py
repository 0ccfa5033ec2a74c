"""Gaussian mixtures: the bound of EM and its maximum, over a kernel set.

p(x) = sum_k pi_k N(x | mu_k, Sigma_k). With responsibilities r_nk = q(z_n = k), any r gives a bound
    sum_n w_n sum_k r_nk [log pi_k + log N(x_n | mu_k, Sigma_k) - tr(R Sigma_k^-1)/2 - log r_nk].
E step: r_nk = softmax_k(a_nk) is the best, where the bound touches l = sum_n w_n logsumexp_k a_nk (kernels, docstring).
M step: the gradient of the bound in pi (with a multiplier for sum pi = 1), mu_k and Sigma_k^-1 is zero at
    pi_k = S0_k / W,    mu_k += S1_k / S0_k,    Sigma_k = E_k[(x - mu_k)(x - mu_k)'] + R,
so with R > 0 it is l, with its trace term, that never falls: the bound of data smeared by N(0, diag R). R = 0 leaves
the log-likelihood. Dempster, Laird & Rubin 1977; Bishop 2006, section 9.2.

Rows with gaps: what was not observed is latent too, its posterior is in the statistics (kernels, docstring), and all of
the above holds with E over it. The trace term is that of all columns, observed or not.

Fisher's identity: the gradient of log p(x) is the mean, under the posterior, of that of log p(x, z), since the bound
touches there. So the statistics of an E step hold the gradient, too: see `Mixture.gradient`.
"""

from typing import NamedTuple

import numpy as np


class Params(NamedTuple):
    """A mixture in float64: pi (K,), mu (K,D), Sigma, and what the kernels read: P, c (K,). During a fit they are
    arrays of the kernel set."""

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
    """Sufficient statistics S (kernels, module docstring) about the means `mu` at which they were taken, arrays of the
    kernel set k. They add.

    kind is the covariance type; the statistics of a spherical mixture are those of a diagonal one. bound: mean bound
    per row, in nats, of those that an E step gave."""

    def __init__(self, k, S, mu, kind, bound=np.nan):
        self.k, self.S, self.mu, self.kind, self.bound = k, S, mu, kind, bound

    def parts(self):
        """S0 (K,1), S1 (K,D), S2 in NumPy; on the CPU, views."""
        K, D = self.mu.shape
        S0, S1, S2 = np.split(self.k.get(self.S)[:-1], [K, K + K * D])
        return S0[:, None], S1.reshape(K, D), S2.reshape(shape(self.kind, K, D))

    @property
    def weight(self):
        """Sum of the rows' weights, W."""
        return float(self.parts()[0].sum())

    def __add__(self, other):
        if (other.kind, other.mu.shape) != (self.kind, self.mu.shape):
            raise ValueError(
                f"Statistics of different mixtures do not add: {self.kind} {self.mu.shape} and {other.kind} "
                f"{other.mu.shape}."
            )
        S, more = self.k.get(self.S), self.k.get(other.about(self.mu).S)
        return Statistics(self.k, self.k.put(S + more), self.mu, self.kind)

    def scaled(self, factor):
        """The same statistics of `factor` times the weight."""
        return Statistics(self.k, self.k.put(factor * self.k.get(self.S)), self.mu, self.kind)

    def about(self, mu):
        """The same statistics about other means. With e_k = mu_k(old) - mu_k(new):
        S1' = S1 + S0 e,   S2' = S2 + e S1' + S1 e'   (S1 e' + e S1' + S0 e e', as S1' = S1 + S0 e)."""
        if mu is self.mu:
            return self
        k = self.k
        new = Statistics(k, k.get(self.S).copy(), mu, self.kind)
        S0, S1, S2 = new.parts()
        e, old = k.get(self.mu) - k.get(mu), S1.copy()
        S1 += S0 * e
        if self.kind in ("full", "tied"):
            change = S1[:, :, None] * e[:, None, :] + e[:, :, None] * old[:, None, :]
            S2 += np.tril(change if self.kind == "full" else change.sum(0))
        else:
            S2 += e * (old + S1)
        new.S = k.put(new.S)
        return new

    def means(self):
        """(K,D) mu_k + S1_k / S0_k; a component without weight keeps its mean."""
        S0, S1, _ = self.parts()
        return self.k.get(self.mu) + S1 / np.where(S0 > 0, S0, 1)

    def within(self):
        """(D,) variance of the columns about their components' means, pooled over components."""
        S0, S1, S2 = self.parts()
        S2 = S2.sum(0) if self.kind != "tied" else S2
        square = np.diagonal(S2) if self.kind in ("full", "tied") else S2
        between = (S1 * (S1 / np.where(S0 > 0, S0, 1))).sum(0)
        return np.maximum(square - between, 0) / self.weight


def shape(kind, K, D):
    """Of Sigma, P and S2."""
    return {"full": (K, D, D), "tied": (D, D)}.get(kind, (K, D))


class Mixture:
    """The bound of one data set. X (N,D) and w (N,) or (0,) of the kernel set k; R (D,) float64; gaps: has X NaN in it?
    least (D,): variances below this, given the columns before, are taken for a collapse by the M step.

    kind is a covariance type; "spherical" is "diag" with each component's variances averaged, which is its M step.
    """

    def __init__(self, k, kind, X, w, R, gaps=False, least=None):
        self.k, self.X, self.w, self.R, self.kind = k, X, w, np.ascontiguousarray(R, dtype=float), kind
        self.gaps, self.dtype = k.mixture.gaps(X) if gaps else None, X.dtype
        self.limits = k.put(self.R), k.put(np.zeros(len(R)) if least is None else np.ascontiguousarray(least, float))
        self._statistics = getattr(k.mixture, "statistics_" + ("diag" if kind == "spherical" else kind))
        self._maximise = getattr(k.mixture, f"maximise_{kind}")

    def diagonal(self, v, K):
        """Sigma (of this kind) with variances v (D,) for each of K components."""
        v = v if self.kind != "spherical" else np.full_like(v, v.mean())
        matrix = np.diag(v) if self.kind in ("full", "tied") else v
        return np.broadcast_to(matrix, shape(self.kind, K, len(v))).copy()

    def params(self, pi, mu, Sigma):
        """Params to begin at, from NumPy arrays. Raises Collapsed, with all components, when a covariance is not
        positive definite."""
        P = self.factors(Sigma)
        square = (P**2).sum(axis=-2) if self.kind in ("full", "tied") else P**2
        with np.errstate(divide="ignore"):  # a weight of 0
            c = constants(pi, P, self.kind) - 0.5 * (square * self.R).sum(-1)
        return self.sound(Params(*(self.k.put(np.ascontiguousarray(a)) for a in (pi, mu, Sigma, P, c))))

    def host(self, p):
        """Params in NumPy."""
        return Params(*map(self.k.get, p))

    def sound(self, p):
        """p, or Collapsed."""
        c = self.k.get(p.c)
        if not c.min() > -np.inf:
            raise Collapsed(np.flatnonzero(~(c > -np.inf)), self.host(p))
        return p

    def factors(self, Sigma):
        """P, inverse Cholesky factors of covariances (one over roots of variances); nan where there are none.

        They are what the M step makes of statistics S0 = 1, S1 = 0, S2 = Sigma without regularisation."""
        if self.kind not in ("full", "tied"):
            with np.errstate(divide="ignore", invalid="ignore"):
                P = 1 / np.sqrt(Sigma)
            return np.where(np.isfinite(P), P, np.nan)
        A = np.ascontiguousarray(Sigma.reshape(-1, *Sigma.shape[-2:]))
        K, D = A.shape[:2]
        S = np.concatenate([np.ones(K), np.zeros(K * D), A.ravel(), [0]])
        given = [self.k.put(a) for a in (S, np.zeros((K, D)), np.zeros(D), np.zeros(D))]
        out = [self.k.empty(shape, float) for shape in ((K,), (K, D), A.shape, A.shape, (K,))]
        self.k.mixture.maximise_full(*given, *out)
        P, c = (self.k.get(a) for a in out[3:])
        P[~(c > -np.inf)] = np.nan
        return P.reshape(Sigma.shape)

    def statistics(self, p):
        """E step: Statistics at p. Raises Collapsed when p, which may come from `maximise`, cannot be used.

        The bound, read back for it, is the one number that leaves the device in an EM step."""
        s = self._sum(p)
        s.bound = self.k.mixture.bound(s.S, p.c)
        if np.isnan(s.bound):
            self.sound(p)
        return s

    def _sum(self, p):
        return self._of(self.X, self.w, self.gaps, p)

    def _of(self, X, w, gaps, p):
        k, mu = self.k, self.k.cast(p.mu, self.dtype)
        S = k.empty(p.mu.size + p.c.size + p.Sigma.size + 1, float)
        self._statistics(X, w, mu, k.cast(p.P, self.dtype), k.cast(p.c, self.dtype), S, gaps)
        return Statistics(k, S, k.cast(mu, np.float64), self.kind)

    def maximise(self, s):
        """M step: Params; whether they can be used is seen in the next E step, or by `sound`."""
        K, D = s.mu.shape
        of_Sigma = shape(self.kind, K, D)
        p = Params(*(self.k.empty(size, np.float64) for size in ((K,), (K, D), of_Sigma, of_Sigma, (K,))))
        self._maximise(s.S, s.mu, *self.limits, *p)
        return p

    def gradient(self, s, p):
        """Of l in pi (K,), mu (K,D) and Sigma (of this kind), from the Statistics s of an E step at p.

        For one row and component, with y = x - mu, E over what is latent and Q = Sigma^-1 = P'P:
            d/dpi = r/pi - 1 (pi counts divided by its sum),    d/dmu = r Q E[y],
            d/dSigma = r Q (E[y y'] + R - Sigma) Q / 2 = r P' (P (E[y y'] + R) P' - 1) P / 2
        and the sum over rows is S0/pi - W, Q S1, P' (P (S2 + S0 R) P' - S0) P / 2. A derivative in Sigma is symmetric,
        G with dl = sum_ij G_ij dSigma_ij. R = 0 gives the gradient of log p(X). Fisher 1925; Louis 1982."""
        p = self.host(p)
        S0, S1, S2 = s.about(p.mu).parts()
        g_pi = S0[:, 0] / p.pi - S0.sum()
        if self.kind in ("full", "tied"):
            P, W = (p.P, S0[:, :, None]) if self.kind == "full" else (p.P[None], S0.sum())
            S2 = np.tril(S2) + np.swapaxes(np.tril(S2, -1), -1, -2) + W * np.diag(self.R)
            inner = P @ S2 @ np.swapaxes(P, 1, 2) - W * np.eye(P.shape[-1])
            g_Sigma = 0.5 * np.swapaxes(P, 1, 2) @ inner @ P
            return g_pi, (np.swapaxes(P, 1, 2) @ (P @ S1[:, :, None]))[:, :, 0], g_Sigma.reshape(p.Sigma.shape)
        g_Sigma = 0.5 * p.P**2 * (p.P**2 * (S2 + S0 * self.R) - S0)
        return g_pi, p.P**2 * S1, g_Sigma

    def expected(self, p, weight):
        """Statistics of that weight that `maximise` turns into p: those to expect of rows from p, without a bound."""
        p = self.host(p)
        S0 = weight * p.pi
        if self.kind == "full":
            S2 = S0[:, None, None] * (p.Sigma - np.diag(self.R))
        elif self.kind == "tied":
            S2 = weight * (p.Sigma - np.diag(self.R))
        else:
            S2 = S0[:, None] * (p.Sigma - (self.R if self.kind == "diag" else self.R.mean()))
        S = np.concatenate([S0, np.zeros(p.mu.size), S2.ravel(), [0.0]])
        return Statistics(self.k, self.k.put(S), self.k.put(p.mu), self.kind)


class Streamed(Mixture):
    """The bound of data that are read anew for each E step: blocks() yields X (n,D), w (n,) or (0,), gaps."""

    def __init__(self, k, kind, blocks, dtype, R, least=None):
        super().__init__(k, kind, np.empty((0, len(R)), dtype), np.empty(0), R, least=least)
        self.blocks = blocks

    def _sum(self, p):
        total = None
        for X, w, gaps in self.blocks():
            some = self._of(X, w, self.k.mixture.gaps(X) if gaps else None, p)
            total = some if total is None else total + some
        return total


def constants(pi, P, kind):
    """c_k = log pi_k - D/2 log 2pi + log|P_k|: (K,)."""
    diagonal = np.diagonal(P, axis1=-2, axis2=-1) if kind in ("full", "tied") else P
    return np.log(pi) - 0.5 * P.shape[-1] * np.log(2 * np.pi) + np.log(diagonal).sum(-1)


def conditional(x, pi, mu, Sigma, kind):
    """p(x_m | x_o) of a mixture: weights (K,), means and covariances of the columns m where x (D,) is NaN.

    r_k = softmax_k(log pi_k + log N(x_o | mu_ok, Sigma_oo)),   mu_m + B (x_o - mu_o),   Sigma_mm - B Sigma_om,
    B = Sigma_mo Sigma_oo^-1. Bishop 2006, eq. 2.81-2.82. In units of the columns' standard deviations."""
    m, o = np.flatnonzero(np.isnan(x)), np.flatnonzero(~np.isnan(x))
    y = x[o] - mu[:, o]
    if kind in ("full", "tied"):
        Sigma = Sigma.reshape(-1, len(x), len(x))
        scale = np.sqrt(np.diagonal(Sigma, axis1=1, axis2=2))
        unit = Sigma / scale[:, :, None] / scale[:, None, :]
        L = np.linalg.cholesky(unit[:, o[:, None], o])
        A = np.linalg.solve(L, unit[:, o[:, None], m])  # (K,o,m), B = A' L^-1
        z = np.linalg.solve(L, (y / scale[:, o])[:, :, None])[:, :, 0]
        log_det = np.log(np.diagonal(L, axis1=1, axis2=2)).sum(-1) + np.log(scale[:, o]).sum(-1)
        mean = mu[:, m] + scale[:, m] * (np.swapaxes(A, 1, 2) @ z[:, :, None])[:, :, 0]
        C = unit[:, m[:, None], m] - np.swapaxes(A, 1, 2) @ A
        C = (C + np.swapaxes(C, 1, 2)) / 2 * scale[:, m, None] * scale[:, None, m]
        C = C if kind == "full" else C[0]
    else:
        z, log_det = y / np.sqrt(Sigma[:, o]), 0.5 * np.log(Sigma[:, o]).sum(-1)
        mean, C = mu[:, m], Sigma[:, m]
    with np.errstate(divide="ignore"):
        a = np.log(pi) - log_det - 0.5 * (z**2).sum(-1)
    r = np.exp(a - a.max())
    return r / r.sum(), mean, C


class Chart:
    """Coordinates t about a mixture p in which one row's Fisher information is of order 1:

    pi + B t (K-1; the columns of B sum to 0),   mu_k + L_k t (K,D),   Sigma = L (1 + T) L' with L L' = Sigma and T
    symmetric, t its lower triangle (of each component, or of the one matrix), or v_kd (1 + t_kd), or v_k (1 + t_k)."""

    def __init__(self, p, kind):
        self.p, self.kind, (K, D) = p, kind, p.mu.shape
        ones = np.ones((K, 1)) / np.sqrt(K)
        self.B = p.pi.min() * np.linalg.svd(np.eye(K) - ones @ ones.T)[0][:, : K - 1]
        if kind in ("full", "tied"):
            self.L = np.broadcast_to(np.linalg.cholesky(p.Sigma), (K, D, D))
            self.a, self.b = np.tril_indices(D)
            of_Sigma = ((K if kind == "full" else 1), len(self.a))
        else:
            self.L = np.sqrt(p.Sigma)
            of_Sigma = (K, D) if kind == "diag" else (K, 1)
        self.shapes = [(K - 1,), (K, D), of_Sigma]

    def parts(self, t):
        """Views of t, or of the last axis of an array of many: for pi, mu, Sigma."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [part.reshape(*t.shape[:-1], *shape) for part, shape in zip(np.split(t, ends[:-1], -1), self.shapes)]

    @property
    def size(self):
        """Of t: how many parameters are free."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def at(self, t):
        """pi, mu and Sigma at t."""
        t_pi, t_mu, t_Sigma = self.parts(t)
        pi = self.p.pi + self.B @ t_pi
        if self.kind not in ("full", "tied"):
            return pi, self.p.mu + self.L * t_mu, self.p.Sigma * (1 + t_Sigma)
        T = np.zeros((len(t_Sigma), *self.L.shape[1:]))
        T[:, self.a, self.b] = T[:, self.b, self.a] = t_Sigma
        L = self.L[: len(T)]
        Sigma = L @ (np.eye(T.shape[-1]) + T) @ np.swapaxes(L, 1, 2)
        return pi, self.p.mu + (self.L @ t_mu[:, :, None])[:, :, 0], Sigma.reshape(self.p.Sigma.shape)

    def pulled(self, g_pi, g_mu, g_Sigma):
        """Gradient in t from that in pi, mu, Sigma, anywhere on the chart: L' g, and L' G L of G."""
        if self.kind in ("full", "tied"):
            L = self.L[: self.shapes[2][0]]
            M = np.swapaxes(L, 1, 2) @ g_Sigma.reshape(L.shape) @ L
            of_Sigma = np.where(self.a == self.b, 1, 2) * M[:, self.a, self.b]
            g_mu = (np.swapaxes(self.L, 1, 2) @ g_mu[:, :, None])[:, :, 0]
        else:
            of_Sigma, g_mu = g_Sigma * self.p.Sigma, self.L * g_mu
            of_Sigma = of_Sigma if self.kind == "diag" else of_Sigma.sum(1)
        return np.concatenate([self.B.T @ g_pi, g_mu.ravel(), of_Sigma.ravel()])

    def scores(self, X, r):
        """Gradient in t of each row's log p(x_o), (n,size), of rows with the same gaps and responsibilities r (n,K).

        With A = Sigma_oo^-1 and L_o the observed rows of L: v = L_o' A y_o for mu, (v v' - L_o' A L_o)/2 for T."""
        s, o, pi = np.zeros((len(X), self.size)), ~np.isnan(X[0]), self.p.pi
        of_pi, of_mu, of_Sigma = self.parts(s)
        of_pi[:] = (r / pi - r.sum(1, keepdims=True)) @ self.B
        for k in range(len(pi)):
            y, L = X[:, o] - self.p.mu[k, o], self.L[k]
            if self.kind in ("full", "tied"):
                A_L = np.linalg.solve(L[o] @ L[o].T, L[o])
                v, H = y @ A_L, (L[o].T @ A_L)[self.a, self.b]
                square = np.where(self.a == self.b, 0.5, 1.0) * (v[:, self.a] * v[:, self.b] - H)
                of_Sigma[:, k if self.kind == "full" else 0] += r[:, k, None] * square
            else:
                v = np.zeros(X.shape)
                v[:, o] = y / L[o]
                square = 0.5 * (v**2 - o)
                square = square if self.kind == "diag" else square.sum(1, keepdims=True)
                of_Sigma[:, k] = r[:, k, None] * square
            of_mu[:, k] = r[:, k, None] * v
        return s

    def deviations(self, C):
        """Standard deviations of pi (K,), mu (K,D) and Sigma (of its kind; spherical (K,)) when t has covariance C."""
        at_pi, at_mu, at_Sigma = self.parts(np.arange(len(C)))
        block = lambda i: C[np.ix_(i, i)]
        of_pi = np.einsum("ki,ij,kj->k", self.B, block(at_pi), self.B)
        if self.kind not in ("full", "tied"):
            of_mu = self.L**2 * np.diag(C)[at_mu]
            of_Sigma = self.p.Sigma[:, : at_Sigma.shape[1]] ** 2 * np.diag(C)[at_Sigma]
            of_Sigma = of_Sigma if self.kind == "diag" else of_Sigma[:, 0]
        else:
            of_mu = np.array([np.einsum("ia,ab,ib->i", L, block(at), L) for L, at in zip(self.L, at_mu)])
            of_Sigma = np.empty((len(at_Sigma), *self.L.shape[1:]))
            for out, L, at in zip(of_Sigma, self.L, at_Sigma):  # dSigma_ij = sum_ab L_ia T_ab L_jb
                for i in range(len(L)):
                    d = L[i, self.a] * L[:, self.b]
                    d += np.where(self.a == self.b, 0, L[i, self.b] * L[:, self.a])
                    out[i] = np.einsum("ja,ab,jb->j", d, block(at), d)
            of_Sigma = of_Sigma.reshape(self.p.Sigma.shape)
        return tuple(np.sqrt(v.clip(0)) for v in (of_pi, of_mu, of_Sigma))
