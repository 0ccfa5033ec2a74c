"""Linear Gaussian models: the bound of EM and its maximum, over a kernel set.

x = mu + W z + noise,  z ~ N(0, 1) in d dimensions,  noise ~ N(0, Psi), Psi = diag psi: probabilistic PCA where all psi
are one sigma², factor analysis where they differ. For each row EM sees z alone as latent, and of x what was observed,
x_o: rows with gaps need nothing more. Any q(z_n) gives a bound
    sum_n w_n E_q[log p(x_o, z) - log q(z)].
E step: the exact posterior N(z_n, C_n) of the kernels' docstring, where the bound touches l = sum_n w_n log p(x_o).
M step: with u = (z, 1) and residuals r = y - W z_n at the parameters of the E step, the bound's gradient in row i of
(W, mu) is zero at a regression on u over the rows n that observed column i:
    (W, mu)_i += g_i A_i^-1,   A_i = sum_n w E[u u'],   g_i = sum_n w E[(y - W z)_i u'] = sum_n w (r_i u_n' - W_i C),
    psi_i = (E_i - g_i A_i^-1 g_i') / sum_n w,   E_i = sum_n w E[(y - W z)_i²] = sum_n w (r_i² + W_i C W_i'),
(W_i C with a 0 for the 1 in u), or one sigma² as the mean over all that was observed. All is about the last parameters,
so that no digits are lost. Rubin & Thayer 1982; Tipping & Bishop 1999, appendix B.

Then z ~ N(m, V) with any m and V is the same model with mu + W m for mu and W V^1/2 for W; the M step in them is the
mean and covariance of E[z] and E[z z'] over all rows. This parameter expansion saves most of the steps (Liu, Rubin &
Wu 1998, PX-EM). W is turned so that W'Psi^-1 W is diagonal, which keeps C well scaled in float32.

Complete data with N > D are exchanged for D + 1 rows with the same mean and covariance, of which EM sees nothing else.

No SciPy here: its BLAS is another library than NumPy's, with threads of its own, and those of both wait for work in a
loop. Where both are in use a product of 0.3 ms takes 3 to 20 ms (two cores).
"""

import itertools
from typing import NamedTuple

import numpy as np

RUN = 128  # rows that share a posterior covariance at most: a thread of a GPU has one run
PRECISE = 1e-6  # of the largest eigenvalue: a noise variance below needs singular values of the rows, not of X'X


class Params(NamedTuple):
    """W (D,d), mu (D,), psi (D,): NumPy, float64."""

    W: np.ndarray
    mu: np.ndarray
    psi: np.ndarray


class Degenerate(Exception):
    """The noise variance is zero but for rounding."""


class Statistics(NamedTuple):
    """Sums over rows, at the parameters `at`: A (1 or D+1,e+q+1), for each column and for all rows the kernels'
    moments; g (D,d+1) of w r (z,1)'; E (D,) of w r². They add where `at` is the same."""

    at: Params
    A: np.ndarray
    g: np.ndarray
    E: np.ndarray

    @property
    def weight(self):
        """Sum of the rows' weights."""
        d = self.at.W.shape[1]
        return float(self.A[-1, (d + 1) * (d + 2) // 2 - 1])

    @property
    def bound(self):
        """Mean log p(x_o) per row."""
        return float(self.A[-1, -1]) / self.weight

    def __add__(self, other):
        if any(a is not b for a, b in zip(self.at, other.at)):
            raise ValueError("Statistics at different parameters do not add.")
        return Statistics(self.at, self.A + other.A, self.g + other.g, self.E + other.E)

    def scaled(self, factor):
        """The same statistics of `factor` times the weight."""
        return Statistics(self.at, factor * self.A, factor * self.g, factor * self.E)


class Runs(NamedTuple):
    """Rows sorted by their gaps: order (N,) or (0,) as they are; runs of rows with the same gaps begin at first (U+1,);
    observed (U,D+1) float32 is 1 where they were observed, and in the last column. Complete data: (U,1)."""

    order: np.ndarray
    first: np.ndarray
    observed: np.ndarray


def runs(X, gaps):
    """The Runs of X (N,D); gaps: is there NaN in it?"""
    N = len(X)
    if not gaps:
        first = np.append(np.arange(0, N, RUN), N)
        return Runs(np.empty(0, np.int64), first, np.ones((len(first) - 1, 1), np.float32))
    seen = np.concatenate([np.packbits(~np.isnan(X[a : a + 2**14]), axis=1) for a in range(0, N, 2**14)])
    order = np.lexsort(seen.T)
    new = np.flatnonzero((seen[order[1:]] != seen[order[:-1]]).any(axis=1)) + 1
    ends = np.append(new, N)
    starts = np.append(0, new)
    first = np.append(np.concatenate([np.arange(a, b, RUN) for a, b in zip(starts, ends)]), N)
    observed = np.ones((len(first) - 1, X.shape[1] + 1), np.float32)
    observed[:, :-1] = np.unpackbits(seen[order[first[:-1]]], axis=1, count=X.shape[1])
    return Runs(order, first, observed)


def packed(d):
    """Row and column of the elements of a packed symmetric matrix (d,d)."""
    return np.tril_indices(d)


def unpack(A, d):
    """(...,q) packed -> (...,d,d)."""
    i, j = packed(d)
    out = np.empty((*A.shape[:-1], d, d), A.dtype)
    out[..., i, j] = out[..., j, i] = A
    return out


class Model:
    """What E steps and answers read of the parameters p, on the kernel set k in dtype T.

    of_gaps: are there any? B (D,d) = W/psi, gives h; F (D,d+1) = (W, 0), gives W z; M (D+1,q+1) or (1,q+1) float64:
    the sum over observed columns of its rows is W'Psi^-1 W, packed, and sum log 2 pi psi."""

    def __init__(self, k, p, T, of_gaps):
        i, j = packed(p.W.shape[1])
        if of_gaps:
            M = np.zeros((len(p.W) + 1, len(i) + 1))
            M[:-1, :-1] = p.W[:, i] * (p.W[:, j] / p.psi[:, None])
            M[:-1, -1] = np.log(2 * np.pi * p.psi)
        else:
            M = np.append(inner(p)[i, j], np.log(2 * np.pi * p.psi).sum())[None]
        self.M = k.put(M)
        put = lambda a: k.put(np.ascontiguousarray(a, T))
        self.mu, self.B, self.precision = put(p.mu), put(p.W / p.psi[:, None]), put(1 / p.psi)
        self.F = put(np.column_stack([p.W, np.zeros(len(p.W))]))


class Block(NamedTuple):
    """What is known of the rows a to b (in the order of Runs), arrays of the kernel set: see the kernels."""

    a: int
    b: int
    first: object
    observed: object
    C: object
    Z: object
    Y: object
    F: object
    log_px: object


class Rows:
    """The rows X (N,D) of the kernel set k, ready for E steps. host: X in NumPy; w (N,) or (0,) float64, NumPy; gaps:
    has X NaN in it? Rows of which nothing was observed count as of weight 0."""

    def __init__(self, k, X, host, w, gaps):
        self.k, self.X, self.shape, self.T, self.gaps, self.host = k, X, host.shape, host.dtype, gaps, host
        order, first, observed = runs(host, gaps)
        w = np.ones(len(host)) if w.size == 0 else w
        if gaps:
            w = w[order] * observed[:, :-1].any(axis=1).repeat(np.diff(first))
        self.weight, self.ends = float(w.sum()), first
        self.w, self.order, self.first = k.put(w.astype(self.T)), k.put(order), k.put(first)
        self.observed = k.put(observed.astype(self.T))
        self.none = k.put(np.empty(0, self.T))

    def answer(self, shape, of_block, p, density=False):
        """of_block(b) for all Blocks, as one NumPy array (N,*shape) in the order of X."""
        out = np.empty((self.shape[0], *shape), self.T)
        order = self.k.get(self.order)
        with np.errstate(over="ignore", invalid="ignore"):  # of rows far away
            for b in self.blocks(p, density):
                out[order[b.a : b.b] if self.gaps else slice(b.a, b.b)] = of_block(b)
        return out

    def variances(self, b, p):
        """Var(x_i | x_o) = psi_i + W_i C W_i' for all columns of the rows of a Block, NumPy: (B,D)."""
        i, j = packed(p.W.shape[1])
        V = self.k.get(b.C)[:, : len(i)] @ (np.where(i == j, 1, 2) * p.W[:, i] * p.W[:, j]).T + p.psi
        return V.repeat(np.diff(self.k.get(b.first)), axis=0)

    def blocks(self, p, density, w=None):
        """Blocks at the parameters p; with density, F, r and log_px are there, too, and r is weighted by w (N,)."""
        k, T, model = self.k, self.T, Model(self.k, p, self.T, self.gaps)
        (D, d), w = p.W.shape, self.none if w is None else w
        q = d * (d + 1) // 2
        for u, v, a, b in self._pieces((2 * D + 2 * d + 1) * T.itemsize, (q + 1) * (8 + T.itemsize)):
            first, observed, C = self.first[u : v + 1], self.observed[u:v], k.empty((v - u, q + 1), T)
            M = k.empty((v - u, q + 1), np.float64)
            k.linear.gemm(k.cast(observed, np.float64), model.M, M, k.put(np.empty(0)))
            k.ppca.posterior(M, d, C)
            Y, H, Z = (k.empty((b - a, n), T) for n in (D, d, d + 1))
            some = (self.X, self.order[a:b]) if self.gaps else (self.X[a:b], self.order)
            k.ppca.center(*some, model.mu, Y)
            k.linear.gemm(Y, model.B, H, self.none)
            k.ppca.means(H, M, first, Z)
            F = log_px = self.none
            if density:
                F, log_px = k.empty((b - a, D), T), k.empty(b - a, T)
                k.linear.gemm(Z, model.F, F, self.none, "nt")
                some = w[a:b] if w.size else w
                k.ppca.residuals(Y, F, observed, model.precision, first, C, Z, some, log_px)
            yield Block(a, b, first, observed, C, Z, Y, F, log_px)

    def _pieces(self, of_row, of_run):
        """Runs u to v, rows a to b, again and again: as many as the kernels' ROOM holds, at so many bytes each."""
        size = np.diff(self.ends) * float(of_row) + of_run
        block = (np.cumsum(size) - size) // self.k.ppca.ROOM
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(block)) + 1, [len(size)]])
        for u, v in itertools.pairwise(cuts):
            yield int(u), int(v), int(self.ends[u]), int(self.ends[v])


class Likelihood:
    """The bound of some Rows. isotropic: is there one psi? least (D,) or (): a psi below is zero but for rounding."""

    def __init__(self, rows, isotropic, least):
        self.rows, self.isotropic, self.least = rows, isotropic, least

    def statistics(self, p):
        """E step: Statistics at p, with mu as the kernels have it."""
        rows, k, T = self.rows, self.rows.k, self.rows.T
        (D, d), p = p.W.shape, p._replace(mu=p.mu.astype(T).astype(float))
        e = (d + 1) * (d + 2) // 2
        size, total = e + d * (d + 1) // 2 + 1, None
        for b in rows.blocks(p, True, rows.w):
            S, A = k.empty((len(b.C), size), T), k.empty((b.observed.shape[1], size), T)
            g, E, w = k.empty((D, d + 1), T), k.empty((1, D), T), rows.w[b.a : b.b]
            k.ppca.moments(b.Z, b.C, b.first, w, b.log_px, S)
            k.linear.gemm(b.observed, S, A, rows.none, "tn")
            k.linear.gemm(b.Y, b.Z, g, rows.none, "tn")
            k.linear.gemm(w.reshape(1, b.b - b.a), b.F, E, rows.none)
            part = Statistics(p, *(k.get(a).astype(float) for a in (A, g, E.reshape(D))))
            total = part if total is None else total + part
        return total

    def maximise(self, s):
        """M step: Params. Raises Degenerate where one sigma² is zero but for rounding."""
        W, mu, psi = s.at
        d = W.shape[1]
        q, e = d * (d + 1) // 2, (d + 1) * (d + 2) // 2
        A = s.A[:-1] if len(s.A) > 1 else s.A
        n, S, C = A[:, e - 1], unpack(A[:, :e], d + 1), unpack(A[:, e : e + q], d)
        WC = W @ C[0] if len(C) == 1 else np.matmul(W[:, None], C)[:, 0]
        g = s.g - np.column_stack([WC, np.zeros(len(W))])
        empty = n <= 0  # columns whose weights are as good as 0
        S[empty] = np.eye(d + 1)
        step = np.linalg.solve(S[0], g.T).T if len(S) == 1 else np.linalg.solve(S, g[:, :, None])[:, :, 0]
        rest = s.E + (WC * W).sum(1) - (step * g).sum(1)
        if self.isotropic:
            psi = np.full(len(W), rest.sum() / (n * np.ones(len(W))).sum())
            if not psi[0] > self.least:
                raise Degenerate
        else:
            psi = np.where(empty, psi, rest / np.where(empty, 1, n))
        psi = np.maximum(psi, self.least)
        W, mu = W + step[:, :d], mu + step[:, d]
        moments = unpack(s.A[-1, :e], d + 1) / s.weight
        m = moments[d, :d]
        W, mu = W @ np.linalg.cholesky(moments[:d, :d] - np.outer(m, m)), mu + W @ m
        return Params(W @ np.linalg.eigh(W.T @ (W / psi[:, None]))[1], mu, psi)

    def expected(self, p, weight):
        """Statistics of that weight that `maximise` turns into p: those to expect of complete rows from p."""
        (D, d), (i, j) = p.W.shape, packed(p.W.shape[1] + 1)
        row = np.concatenate([i == j, np.zeros(d * (d + 1) // 2 + 1)])  # as if z were known, C = 0: r is noise alone
        A = np.tile(weight * row, (self.rows.observed.shape[1], 1))
        return Statistics(p, A, np.zeros((D, d + 1)), weight * p.psi)


class FactorAnalysis:
    """The likelihood of complete data with covariance S = root' root, root (n,D), for diagonal noise, by ECME: both
    steps are maxima of the likelihood itself, and do not get stuck where some psi goes to 0, as those of EM do.

    W given Psi: with the singular values t and right vectors V of root Psi^-1/2, for the d largest,
        W = Psi^1/2 V diag(max(t² - 1, 0))^1/2,
        log p = -(D log 2pi + log|Psi| + sum_(j in W) (log t_j² + 1) + sum_others t_j²)/2.
    psi_i given all else, for i = 1..D in turn: with P = Sigma^-1, q = P_ii, s = (P S P)_ii, a change by e makes log p
    less by (log(1 + e q) - e s/(1 + e q))/2, so that the best is e = (s - q)/q², or psi_i = least if that is more.
    Lawley & Maxwell 1971, chapter 4; Liu & Rubin 1994. mu is the mean. Columns are to be in units of their spread."""

    def __init__(self, root, least):
        self.root, self.S, self.least = root, root.T @ root, least

    def statistics(self, p):
        """W at its best for p.psi, and the bound there."""
        D, d = p.W.shape
        _, t, Vt = np.linalg.svd(self.root / np.sqrt(p.psi))
        square = np.concatenate([t**2, np.zeros(D - len(t))])
        top, rest = np.maximum(square[:d], 1), square[d:].sum() + np.minimum(square[:d] - 1, 0).sum()
        W = np.sqrt(p.psi)[:, None] * Vt[:d].T * np.sqrt(top - 1)
        log_p = -0.5 * (D * np.log(2 * np.pi) + np.log(p.psi).sum() + np.log(top).sum() + d + rest)
        return Profile(p._replace(W=W), float(log_p))

    def maximise(self, s):
        """Params with psi moved, each to its best given W and the others."""
        psi, B = s.at.psi.copy(), s.at.W / s.at.psi[:, None]
        P = np.diag(1 / psi) - B @ np.linalg.solve(np.eye(B.shape[1]) + inner(s.at), B.T)
        G = P @ self.S @ P
        for i in range(len(psi)):
            p, g = P[i].copy(), G[i].copy()
            q, square = p[i], g[i]
            e = max((square - q) / q**2, self.least[i] - psi[i])
            c = e / (1 + e * q)  # P - c p p' (Sherman & Morrison 1950), and so G - c (g p' + p g') + c² square p p'
            P -= np.outer(c * p, p)
            change = np.outer(c * (g - 0.5 * c * square * p), p)
            G -= change
            G -= change.T
            psi[i] += e
        return s.at._replace(psi=np.maximum(psi, self.least))


class Profile(NamedTuple):
    """Params with the best W for their psi, and the mean log-likelihood per row there."""

    at: Params
    bound: float


# ---------------------------------------------------------------------------------------- complete data
def covariance(k, X, host, s, about, gaps=False):
    """Sum of weights, mean (D,) and covariance (D,D), with 1/N, in float64. X (N,D) of the kernel set, `host` in NumPy;
    s (N,) or (0,) roots of weights; about (D,) near the mean. A gap counts as `about`, which should be the mean then.

    Squares are taken about `about`; again, about the mean, where that turns out to be far from it. Where all columns
    have means within two standard deviations of 0, about 0: it costs less than a digit, and no copy."""
    (N, D), some, none = host.shape, host[:: max(len(host) // 1024, 1)], k.put(np.empty(0))
    if not gaps and host.dtype == float and s.size == 0 and (about**2 <= 4 * some.var(axis=0)).all():
        S = k.empty((D, D), float)
        k.linear.gemm(X, X, S, none, "tn")
        S = k.get(S) / N - np.outer(about, about)
        if (about**2 <= 4 * np.diag(S)).all():
            return float(N), about, S
    step = max(int(4 * k.ppca.ROOM // (8 * (D + 1))), 256)
    for _ in range(2):
        total, mu = np.zeros((D + 1, D + 1)), k.put(about)
        for a in range(0, N, step):
            x = X[a : a + step]
            Y, S = k.empty((len(x), D + 1), float), k.empty((D + 1, D + 1), float)
            k.ppca.weigh(x, k.put(s[a : a + step]), mu, Y)
            k.linear.gemm(Y, Y, S, none, "tn")
            total += k.get(S)
        W, m = total[D, D], total[:D, D] / total[D, D]
        S, about = total[:D, :D] / W - np.outer(m, m), about + m
        if gaps or not (m**2 > np.diag(S)).any():
            break
    return W, about, S


def axes_of(S):
    """The eigenvalues v of S (D,D), falling, not below 0, and unit axes U (D,D)."""
    v, U = np.linalg.eigh(S)
    return np.maximum(v[::-1], 0), U[:, ::-1]


def mean_and_variance(X, s, mean=None):
    """Sum of weights, mean and variance (D,), with 1/N, of rows in NumPy; else as `covariance`."""
    w = s**2 if s.size else np.ones(len(X))
    W = w.sum()
    mean = X[0] + (w @ (X - X[0])) / W if mean is None else mean
    square = np.zeros(X.shape[1])
    for a in range(0, len(X), 64):
        y = X[a : a + 64] - mean
        square += w[a : a + 64] @ np.where(np.isnan(y), 0, y) ** 2
    return W, mean, square / W


def axes_of_rows(k, X, s, mean, weight, d=None):
    """All eigenvalues v (N,) of the covariance of N <= D rows X of the kernel set, and the d first, or all, axes U
    (D,d), from the products of the rows with each other; else as `covariance`."""
    (N, D), none = X.shape, k.put(np.empty(0))
    d = min(d or N, N)
    Y, K, U = k.empty((N, D), float), k.empty((N, N), float), k.empty((D, d), float)
    k.ppca.weigh(X, k.put(s), k.put(np.ascontiguousarray(mean, float)), Y)
    k.linear.gemm(Y, Y, K, none, "nt")
    v, V = axes_of(k.get(K))
    V = V[:, :d] / np.sqrt(np.maximum(v[:d], 1e-300))
    k.linear.gemm(Y, k.put(np.ascontiguousarray(V)), U, none, "tn")
    return v / weight, k.get(U)


def precise_axes(host, s, mean, unit, weight):
    """As axes_of, of rows (N,D) in NumPy in these units, from their singular values: small ones are not lost beside the
    squares of large ones. More rows than columns are reduced to a triangle block by block."""
    (N, D), R = host.shape, np.empty((0, host.shape[1]))
    step = max(2 * D, 512)
    for a in range(0, N, step):
        Y = (host[a : a + step].astype(float) - mean) / unit * (s[a : a + step, None] if s.size else 1)
        R = np.concatenate([R, Y])
        R = R if len(R) <= D else np.asarray(np.linalg.qr(R, mode="r"))
    _, v, Vt = np.linalg.svd(R, full_matrices=False)
    return v**2 / weight, Vt.T


def few_rows(v, U):
    """D + 1 rows with mean 0 and covariance U diag(v) U', U (D,n)."""
    D = len(U)
    Q = np.linalg.qr(np.column_stack([np.ones(D + 1), np.eye(D + 1, len(v))]))[0][:, 1:]
    return np.sqrt(D + 1) * (Q * np.sqrt(v)) @ U.T


def inner(p):
    """W'Psi^-1 W: (d,d)."""
    return p.W.T @ (p.W / p.psi[:, None])


def principal(W):
    """W (D,d) turned to principal axes: unit axes (d,D), by falling length, with their largest element positive, and
    W (D,d) along them."""
    length = np.sqrt((W**2).sum(0))
    if (
        length.min() > 0
        and (np.diff(length) <= 0).all()
        and np.abs((U := W / length).T @ U - np.eye(len(length))).max() < 1e-13
    ):
        Vt = np.eye(len(length))  # they are there already
    else:
        U, _, Vt = np.linalg.svd(W, full_matrices=False)
    sign = np.where(U[np.abs(U).argmax(axis=0), np.arange(U.shape[1])] < 0, -1, 1)
    return (U * sign).T.copy(), W @ (Vt.T * sign)  # not U s, in which short rows of W would lose digits
