"""Linear Gaussian models, probabilistic PCA and factor analysis, on the CPU.

x = mu + W z + noise,  z ~ N(0, 1),  noise ~ N(0, Psi), Psi = diag psi. With x_o the observed part of a row, y_o = x_o -
mu_o and the rows W_o of W, the posterior is normal with
    M = 1 + W_o' Psi_o^-1 W_o = L L',    X = L^-1,    C = M^-1 = X'X,    z = X' X h,  h = W_o' Psi_o^-1 y_o,
    log p(x_o) = -(|o| log 2pi + log|Psi_o| + log|M| + |Psi_o^-1/2 (y_o - W_o z)|² + |z|²)/2
(Bishop 2006, eq. 12.41, 12.42. Woodbury: no D x D matrix, and the quadratic form as a sum of squares at its minimum.)
Where fewer than d columns are observed, the 1 in M has the rounding of the largest of W'Psi^-1 W, and so has log p.

Rows with the same gaps have the same C. They are in runs: run u is rows first[u] to first[u+1] of a block, and O[u]
has 1 where they were observed. For complete data O has one column alone. Matrix products (linear.gemm) do the rest; see
lvm.objectives.ppca. Letters: B rows and U runs of a block, D features, d latent dimensions, q = d(d+1)/2 and e =
(d+1)(d+2)/2, the sizes of packed matrices (shared/ppca.py).
"""

import math

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared.ppca import draw_latent, draw_row, factor, invert, move_column
from ..shared.scalar import is_float32

ROOM = 1 << 22  # bytes of a block: what one core has near
PIECES = 16  # of a block, for threads


def _pieces(step, first, size):
    """step(rows, runs, first) for pieces of the runs, on threads where there is more to do than `size` numbers."""
    U = len(first) - 1
    n = PIECES if size > 1 << 15 else 1
    ends = np.linspace(0, U, min(n, U) + 1).astype(np.int64)

    def run(i):
        a, b = ends[i], ends[i + 1]
        step(slice(first[a] - first[0], first[b] - first[0]), slice(a, b), first[a : b + 1])

    pool.run(run, len(ends) - 1)


@kernel("T2 i1 T1 T2w")
def _center(X, rows, mu, Y):
    T = X.dtype.type
    for m in range(len(Y)):
        n = rows[m] if rows.size else m
        for i in range(Y.shape[1]):
            y = X[n, i] - mu[i]
            Y[m, i] = y if y == y else T(0)


def center(X, rows, mu, Y):
    """Y = x - mu for some rows of X, 0 in gaps.   X (N,D), rows (B,) int64, or (0,) for all; mu (D,), Y (B,D)"""
    step = max(1, ROOM // 8 // max(X.shape[1], 1) // PIECES)
    cut = lambda b: slice(b * step, (b + 1) * step)
    if rows.size:
        pool.run(lambda b: _center(X, rows[cut(b)], mu, Y[cut(b)]), -(-len(Y) // step))
    else:
        pool.run(lambda b: _center(X[cut(b)], rows, mu, Y[cut(b)]), -(-len(Y) // step))


@kernel("T2 d1 d1 d2w")
def _weigh(X, s, mu, Y):
    D = X.shape[1]
    for n in range(len(X)):
        v = s[n] if s.size else 1.0
        for i in range(D):
            y = np.float64(X[n, i]) - mu[i]
            Y[n, i] = v * y if y == y else 0.0
        if Y.shape[1] > D:
            Y[n, D] = v


def weigh(X, s, mu, Y):
    """Y = s_n (x_n - mu), 0 in gaps, in float64, and s_n after it where Y has room.   X (N,D), s (N,), or (0,) for
    ones, mu (D,), Y (N,D) or (N,D+1): Y'Y has the sums of weights s², of the rows and of their squares."""
    step = max(1, ROOM // 8 // max(X.shape[1], 1) // PIECES)
    cut = lambda b: slice(b * step, (b + 1) * step)
    pool.run(lambda b: _weigh(X[cut(b)], s[cut(b)], mu, Y[cut(b)]), -(-len(X) // step))


@kernel("d2w i T2w")
def _posterior(M, d, C):
    T, q = C.dtype.type, M.shape[1] - 1
    for u in range(len(M)):
        A = M[u]
        for i in range(d):
            A[i * (i + 1) // 2 + i] += 1.0
        A[q] = -0.5 * (A[q] + factor(A, d))
        invert(A, d)
        C[u, q] = T(A[q])
        for i in range(d):
            for j in range(i + 1):
                v = 0.0
                for p in range(i, d):
                    r = p * (p + 1) // 2
                    v += A[r + i] * A[r + j]
                C[u, i * (i + 1) // 2 + j] = T(v)


def posterior(M, d, C):
    """C = (1 + M)^-1 = X'X of each run, packed, and after it c, log p(x) but for its squares.

    M (U,q+1) float64: W_o' Psi_o^-1 W_o packed, and sum_o log 2pi psi; then X, lower triangular, and c.   C (U,q+1): C,
    and c = -(sum_o log 2pi psi + log|1 + M|)/2"""
    first = np.arange(len(M) + 1)
    _pieces(lambda rows, runs, first: _posterior(M[runs], d, C[runs]), first, M.size * d)


@kernel("T2 d2 i1 T2w")
def _means(H, X, first, Z):
    T, d = H.dtype.type, H.shape[1]
    y = np.empty(d)
    for u in range(len(first) - 1):
        for n in range(first[u] - first[0], first[u + 1] - first[0]):
            for i in range(d):
                r, v = i * (i + 1) // 2, 0.0
                for j in range(i + 1):
                    v += X[u, r + j] * H[n, j]
                y[i] = v
            for i in range(d):
                v = 0.0
                for j in range(i, d):
                    v += X[u, j * (j + 1) // 2 + i] * y[j]
                Z[n, i] = T(v)
            Z[n, d] = T(1)


def means(H, X, first, Z):
    """z = X'(X h), and 1 after it.   H (B,d), X (U,q+1) as `posterior` leaves it in M, first (U+1,) int64, Z (B,d+1)

    Not C h: with few columns observed and little noise z would be wrong along the axes that they tell."""
    _pieces(lambda rows, runs, first: _means(H[rows], X[runs], first, Z[rows]), first, H.size * H.shape[1])


@kernel("T2w T2w T2 T1 i1 T2 T2 T1 T1w", fastmath=FAST)
def _residuals(Y, F, O, precision, first, C, Z, w, log_px):
    T, (D, d), q = Y.dtype.type, (Y.shape[1], Z.shape[1] - 1), C.shape[1] - 1
    huge, half, masked = T(1e38) if is_float32(Y[0, 0]) else T(1e300), T(0.5), O.shape[1] > 1
    for u in range(len(first) - 1):
        for n in range(first[u] - first[0], first[u + 1] - first[0]):
            y, f, v = Y[n], F[n], T(0)
            if masked:
                o = O[u]
                for i in range(D):
                    y[i] = o[i] * (y[i] - f[i])
            else:
                for i in range(D):
                    y[i] -= f[i]
            for i in range(D):
                f[i] = y[i] * y[i]
            for i in range(D):
                v += f[i] * precision[i]
            for i in range(d):
                v += Z[n, i] * Z[n, i]
            log_px[n] = C[u, q] - half * (v if v < huge else huge)
            if w.size:
                for i in range(D):
                    y[i] *= w[n]


def residuals(Y, F, O, precision, first, C, Z, w, log_px):
    """The residuals r = y - W z of what was observed, and log p(x).

    Y (B,D): y, then w r (r where w has size 0); F (B,D): W z, then r²; O (U,D+1) or (U,1); precision (D,) 1/psi;
    first (U+1,), C (U,q+1), Z (B,d+1); w (B,) weights or (0,)  ->  log_px (B,) = c - (sum_i r_i²/psi_i + |z|²)/2"""
    step = lambda rows, runs, first: _residuals(
        Y[rows], F[rows], O[runs], precision, first, C[runs], Z[rows], w[rows], log_px[rows]
    )
    _pieces(step, first, Y.size)


@kernel("T2 T2 i1 T1 T1 T2w", fastmath=FAST)
def _moments(Z, C, first, w, log_px, S):
    T, d, q = Z.dtype.type, Z.shape[1] - 1, C.shape[1] - 1
    e = q + d + 1
    for u in range(len(first) - 1):
        s, W, l = S[u], T(0), T(0)
        for p in range(e):
            s[p] = T(0)
        for n in range(first[u] - first[0], first[u + 1] - first[0]):
            for i in range(d + 1):
                v = w[n] * Z[n, i]
                t = s[i * (i + 1) // 2 : i * (i + 1) // 2 + i + 1]
                for j in range(t.size):
                    t[j] += v * Z[n, j]
            W += w[n]
            l += w[n] * log_px[n]
        for p in range(q):
            s[e + p] = W * C[u, p]
            s[p] += s[e + p]
        s[e + q] = l


def moments(Z, C, first, w, log_px, S):
    """S (U,e+q+1) sums over the rows of each run: of w E[(z,1)(z,1)'], packed; of w C, packed; of w log p(x).

    Z (B,d+1), C (U,q+1), first (U+1,), w (B,), log_px (B,)"""
    step = lambda rows, runs, first: _moments(Z[rows], C[runs], first, w[rows], log_px[rows], S[runs])
    _pieces(step, first, Z.size * Z.shape[1])


@kernel("T2 d1 u i i d1 i d2w d1w d1w d1 d2w d2w d2w i1w")
def _stochastic(X, cumulated, seed, step, steps, rate, isotropic, W, mu, psi, least, A, Z, R, rows):
    N, D, B = len(X), len(W), len(Z)
    for t in range(step, step + steps):
        kappa = rate[0] * (1 + t / rate[1]) ** -rate[2]
        for b in range(B):
            rows[b] = draw_row(cumulated, N, seed, t, b)
            draw_latent(X[rows[b]], mu, W, psi, seed, t, b, A[b], Z[b])
        total, count = 0.0, 0
        for i in range(D):
            square, n = move_column(X, rows, i, kappa, W, mu, psi, Z, R)
            if isotropic:
                total += square
                count += n
            elif n > 0:
                psi[i] = max(psi[i] * math.exp(min(kappa * (square / n - 1), 1.0)), least[i])
        if isotropic and count > 0:
            change = math.exp(min(kappa * (total / count - 1), 1.0))
            for i in range(D):
                psi[i] = max(psi[i] * change, least[i])


def stochastic(X, cumulated, seed, step, steps, rate, isotropic, W, mu, psi, least):
    """`steps` steps of stochastic EM from number `step` on: W (D,d), mu (D,), psi (D,), float64, are moved in place.

    E': B rows j drawn with the same chance ((0,) as cumulated) or by the cumulated weights (N,), and z from its exact
    posterior for each. M': along the gradient of log p(x_j, z), with r = x_j - mu - W z of what was observed,
        d/dW = r z' / psi,    d/dmu = r / psi,    d/dlog psi = (r²/psi - 1)/2
    times positive definite matrices that take away most of its curvature:
        W += kappa mean (r z' + W (z z' - 1)/2),   mu += kappa mean (r + W z),   log psi += kappa (mean r²/psi - 1),
    of log psi at most 1, with the mean over columns, too, when isotropic, and no psi below least (D,). By Fisher's
    identity the mean over z is the gradient of log p(x_j); times Psi + W W'/2 and Psi + W W', since given x_j the mean
    of W'Psi^-1 r z' is that of z z' - 1, and of W'Psi^-1 r that of z.
    At step t kappa = rate[0] (1 + t/rate[1])^-rate[2]; rate (4,) float64 on the host has B after these. X (N,D), NaN
    where nothing was observed. Robbins & Monro 1951; Delyon, Lavielle & Moulines 1999."""
    B, (D, d) = int(rate[3]), W.shape
    scratch = np.empty((B, d * (d + 1) // 2)), np.empty((B, d)), np.empty((B, D)), np.empty(B, np.int64)
    _stochastic(X, cumulated, seed, step, steps, rate, isotropic, W, mu, psi, least, *scratch)
