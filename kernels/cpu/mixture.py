"""Gaussian mixtures on the CPU: E step, sufficient statistics, M step.

a[n,k] = c_k - |P_k (x_n - mu_k)|² / 2 is the log of the joint p(x_n, k): P_k, lower triangular, is the inverse Cholesky
factor of Sigma_k, and c_k = log pi_k - D/2 log 2pi + log|P_k| - tr(R Sigma_k^-1)/2. The last term is there in fit only:
R (D,) is the regularisation, and Sigma_k = S_k + R is the M step of data smeared by N(0, diag R), whose bound is
that of the data with this term (take E over the smear of the complete-data log-likelihood).

Statistics are about each component's current mean, y = x - mu_k, so that data far from the origin lose no digits. They
are one flat float64 vector S, which adds:
    full  S0 (K,)  S1 (K,D)  S2 (K,D,D)  l          tied  S0 (K,)  S1 (K,D)  S2 (D,D)  l
    diag  S0 (K,)  S1 (K,D)  S2 (K,D)  l            (a spherical mixture is a diagonal one with its variances averaged)
S0 = sum_n w r, S1 = sum_n w r y, S2 = sum_n w r y y' (lower triangle; tied: summed over k), l = sum_n w log p(x_n).
w (N,) float64 weights of the rows, or (0,) for all one. Dempster, Laird & Rubin 1977; Bishop 2006, eq. 9.23-9.28.

Loops run over tiles of 128 rows, transposed so that the innermost loop goes along the rows and vectorises. Each E step
is one function, though its parts repeat: a function inlined into another is compiled twice, and this one is what a user
waits for at the first fit.
"""

import math

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared.scalar import exp, is_float32, log, shared

TILE = 128  # rows of a tile: long enough to pay for its sums, short enough for the nearest caches
WAVE = 64  # blocks whose partial sums are held at once


# ---------------------------------------------------------------------------------------- E step
@shared
def _normalise(q, c, top, total, log_px):
    """a_k = c_k - q_k/2,  top = max_k a_k,  r_k = exp(a_k - top),  total = sum_k r_k,  log p = top + log(total).

    q (K,TILE) squared distances in, r out; c (K,); top, total, log_px (TILE,) out. Distances that overflow (inf, or nan
    from inf - inf) count as the largest number: such a row is improbable, never NaN. Bishop 2006, eq. 9.13, in logs."""
    T = c.dtype.type
    huge, half = T(1e38) if is_float32(c[0]) else T(1e307), T(0.5)
    for s in range(TILE):
        top[s] = T(-math.inf)
        total[s] = T(0)
    for k in range(c.size):
        for s in range(TILE):
            a = c[k] - half * (q[k, s] if q[k, s] < huge else huge)
            q[k, s] = a
            top[s] = a if a > top[s] else top[s]
    for k in range(c.size):
        for s in range(TILE):
            r = exp(q[k, s] - top[s])
            q[k, s] = r
            total[s] += r
    for s in range(TILE):
        log_px[s] = top[s] + log(total[s])


@kernel("T2 d1 T2 T3 T1 d1w d2w d3w d1w T1w T2w", fastmath=FAST)
def _e_step_full(X, w, mu, P, c, S0, S1, S2, l, log_px, r):
    """r_k = softmax_k(c_k - |P_k (x - mu_k)|²/2): adds to S0, S1, S2, l of the module docstring, fills log_px, r.

    X (N,D), w (N,) or (0,), mu (K,D), P (K,Q,Q) padded with zeros to a multiple of 4, so that loops by fours need no
    remainder, c (K,)  ->  S0 (K,), S1 (K,D), S2 (K,D,D), l (1,), log_px (N,), r (N,K); of size 0 what is not wanted."""
    T = X.dtype.type
    (K, D), Q = mu.shape, P.shape[1]
    XT, Y, V = np.empty((D, TILE), X.dtype), np.empty((Q, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    q, A, G = np.empty((K, TILE), X.dtype), np.empty((4, TILE), X.dtype), np.empty((4, 4), X.dtype)
    top, total, lp, wt = A[0], A[1], A[2], A[3]
    for d in range(D, Q):
        for s in range(TILE):
            Y[d, s] = T(0)
    for n0 in range(0, len(X), TILE):
        m = len(X) - n0 if len(X) - n0 < TILE else TILE
        for s in range(TILE):  # rows past the last repeat it
            n = n0 + (s if s < m else m - 1)
            for d in range(D):
                XT[d, s] = X[n, d]
        for k in range(K):
            for d in range(D):
                v = mu[k, d]
                for s in range(TILE):
                    Y[d, s] = XT[d, s] - v
            for s in range(TILE):
                q[k, s] = T(0)
            for i in range(0, D, 2):  # P Y, two rows by four columns at a time: six loads, two stores, eight products
                for s in range(TILE):
                    V[0, s] = T(0)
                    V[1, s] = T(0)
                for j in range(0, i + 2, 4):
                    a0 = P[k, i, j]
                    a1 = P[k, i, j + 1]
                    a2 = P[k, i, j + 2]
                    a3 = P[k, i, j + 3]
                    b0 = P[k, i + 1, j]
                    b1 = P[k, i + 1, j + 1]
                    b2 = P[k, i + 1, j + 2]
                    b3 = P[k, i + 1, j + 3]
                    for s in range(TILE):
                        y0 = Y[j, s]
                        y1 = Y[j + 1, s]
                        y2 = Y[j + 2, s]
                        y3 = Y[j + 3, s]
                        V[0, s] += a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3
                        V[1, s] += b0 * y0 + b1 * y1 + b2 * y2 + b3 * y3
                for s in range(TILE):
                    q[k, s] += V[0, s] * V[0, s] + V[1, s] * V[1, s]
        _normalise(q, c, top, total, lp)
        for s in range(m if log_px.size else 0):
            log_px[n0 + s] = lp[s]
        for s in range(m if r.size else 0):
            for k in range(K):
                r[n0 + s, k] = q[k, s] / total[s]
        if l.size == 0:
            continue
        for s in range(TILE):  # apart from the sum: what reads beyond w's end may not choose how a sum is taken
            wt[s] = T(0) if s >= m else T(w[n0 + s]) if w.size else T(1)
        g = 0.0
        for s in range(TILE):
            g += np.float64(wt[s]) * np.float64(lp[s])
            total[s] = wt[s] / total[s]  # times exp(a_k - top) it is the weighted responsibility
        l[0] += g
        for k in range(K):
            g = 0.0
            for s in range(TILE):
                u = total[s] * q[k, s]
                q[k, s] = u
                g += np.float64(u)
            S0[k] += g
            if g == 0:
                continue
            for d in range(D):
                v = mu[k, d]
                for s in range(TILE):
                    Y[d, s] = XT[d, s] - v
            for i in range(0, D, 4):
                for e in range(4):
                    f = T(0)
                    for s in range(TILE):
                        u = q[k, s] * Y[i + e, s]
                        V[e, s] = u
                        f += u
                    if i + e < D:
                        S1[k, i + e] += f
                for j in range(0, i + 1, 4):  # four rows of r y against four of y: sixteen sums live in registers
                    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = T(0)
                    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = T(0)
                    for s in range(TILE):
                        v0 = V[0, s]
                        v1 = V[1, s]
                        v2 = V[2, s]
                        v3 = V[3, s]
                        y0 = Y[j, s]
                        y1 = Y[j + 1, s]
                        y2 = Y[j + 2, s]
                        y3 = Y[j + 3, s]
                        a0 += v0 * y0
                        a1 += v0 * y1
                        a2 += v0 * y2
                        a3 += v0 * y3
                        b0 += v1 * y0
                        b1 += v1 * y1
                        b2 += v1 * y2
                        b3 += v1 * y3
                        c0 += v2 * y0
                        c1 += v2 * y1
                        c2 += v2 * y2
                        c3 += v2 * y3
                        d0 += v3 * y0
                        d1 += v3 * y1
                        d2 += v3 * y2
                        d3 += v3 * y3
                    G[0, 0] = a0
                    G[0, 1] = a1
                    G[0, 2] = a2
                    G[0, 3] = a3
                    G[1, 0] = b0
                    G[1, 1] = b1
                    G[1, 2] = b2
                    G[1, 3] = b3
                    G[2, 0] = c0
                    G[2, 1] = c1
                    G[2, 2] = c2
                    G[2, 3] = c3
                    G[3, 0] = d0
                    G[3, 1] = d1
                    G[3, 2] = d2
                    G[3, 3] = d3
                    for e in range(4 if i + 4 < D else D - i):
                        for h in range(4 if j < i else e + 1):
                            S2[k, i + e, j + h] += G[e, h]


@kernel("T2 d1 T2 T2 T2 T1 d1w d2w d2w d1w d2w T1w T2w", fastmath=FAST)
def _e_step_tied(X, w, mu, P, v, c, S0, S1, S2, l, both, log_px, r):
    """As _e_step_full, with one P (Q,Q) and S2 (D,D).
    q_k = |P (x - mu_0) - v_k|², v_k = P (mu_k - mu_0): one product with P a row instead of K.

    With xm = sum_k r_k mu_k, S2 splits into non-negative parts, of which only one needs D² numbers a row:
    sum_k r_k (x - mu_k)(x - mu_k)' = (x - xm)(x - xm)' + sum_{k<l} r_k r_l (mu_k - mu_l)(mu_k - mu_l)'.
    For the second, sum_n w r_k r_l goes to both (K,K), l < k. With more than D² components: the sum as it is."""
    T = X.dtype.type
    (K, D), Q, many = mu.shape, P.shape[1], len(mu) > mu.shape[1] ** 2
    XT, Y, q = np.empty((D, TILE), X.dtype), np.empty((Q, TILE), X.dtype), np.empty((K, TILE), X.dtype)
    A = np.empty((5, TILE), X.dtype)
    top, total, lp, t, wt = A[0], A[1], A[2], A[3], A[4]
    for d in range(D, Q):
        for s in range(TILE):
            Y[d, s] = T(0)
    for n0 in range(0, len(X), TILE):
        m = len(X) - n0 if len(X) - n0 < TILE else TILE
        for s in range(TILE):
            n = n0 + (s if s < m else m - 1)
            for d in range(D):
                XT[d, s] = X[n, d]
                Y[d, s] = X[n, d] - mu[0, d]
            for k in range(K):
                q[k, s] = T(0)
        for i in range(D):
            for s in range(TILE):
                t[s] = T(0)
            for j in range(0, i + 1, 4):
                a0 = P[i, j]
                a1 = P[i, j + 1]
                a2 = P[i, j + 2]
                a3 = P[i, j + 3]
                for s in range(TILE):
                    t[s] += a0 * Y[j, s] + a1 * Y[j + 1, s] + a2 * Y[j + 2, s] + a3 * Y[j + 3, s]
            for k in range(K):
                a0 = v[k, i]
                for s in range(TILE):
                    u = t[s] - a0
                    q[k, s] += u * u
        _normalise(q, c, top, total, lp)
        for s in range(m if log_px.size else 0):
            log_px[n0 + s] = lp[s]
        for s in range(m if r.size else 0):
            for k in range(K):
                r[n0 + s, k] = q[k, s] / total[s]
        if l.size == 0:
            continue
        for s in range(TILE):
            wt[s] = T(0) if s >= m else T(w[n0 + s]) if w.size else T(1)
        g = 0.0
        for s in range(TILE):
            g += np.float64(wt[s]) * np.float64(lp[s])
        l[0] += g
        for k in range(K):  # Y = x - xm
            for s in range(TILE):
                q[k, s] /= total[s]
            for d in range(D):
                u = mu[k, d] - mu[0, d]
                for s in range(TILE):
                    Y[d, s] -= u * q[k, s]
        for k in range(K):
            g = 0.0
            for s in range(TILE):
                t[s] = wt[s] * q[k, s]
                g += np.float64(t[s])
            S0[k] += g
            for d in range(D):
                u, f = mu[k, d], T(0)
                for s in range(TILE):
                    f += t[s] * (XT[d, s] - u)
                S1[k, d] += f
                if many:
                    for s in range(TILE):
                        lp[s] = t[s] * (XT[d, s] - u)
                    for j in range(d + 1):
                        u, f = mu[k, j], T(0)
                        for s in range(TILE):
                            f += lp[s] * (XT[j, s] - u)
                        S2[d, j] += f
            for j in range(0 if many else k):
                f = T(0)
                for s in range(TILE):
                    f += t[s] * q[j, s]
                both[k, j] += f
        for i in range(0 if many else D):
            for s in range(TILE):
                t[s] = wt[s] * Y[i, s]
            for j in range(i + 1):
                f = T(0)
                for s in range(TILE):
                    f += t[s] * Y[j, s]
                S2[i, j] += f


@kernel("T2 d1 T2 T2 T1 d1w d2w d2w d1w T1w T2w", fastmath=FAST)
def _e_step_diag(X, w, mu, P, c, S0, S1, S2, l, log_px, r):
    """As _e_step_full, with P (K,D) one over standard deviations and S2 (K,D)."""
    T = X.dtype.type
    K, D = mu.shape
    XT, q, A = np.empty((D, TILE), X.dtype), np.empty((K, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    top, total, lp, wt = A[0], A[1], A[2], A[3]
    for n0 in range(0, len(X), TILE):
        m = len(X) - n0 if len(X) - n0 < TILE else TILE
        for s in range(TILE):
            n = n0 + (s if s < m else m - 1)
            for d in range(D):
                XT[d, s] = X[n, d]
        for k in range(K):
            for s in range(TILE):
                q[k, s] = T(0)
            for d in range(D):
                v, p = mu[k, d], P[k, d]
                for s in range(TILE):
                    u = (XT[d, s] - v) * p
                    q[k, s] += u * u
        _normalise(q, c, top, total, lp)
        for s in range(m if log_px.size else 0):
            log_px[n0 + s] = lp[s]
        for s in range(m if r.size else 0):
            for k in range(K):
                r[n0 + s, k] = q[k, s] / total[s]
        if l.size == 0:
            continue
        for s in range(TILE):  # apart from the sum: what reads beyond w's end may not choose how a sum is taken
            wt[s] = T(0) if s >= m else T(w[n0 + s]) if w.size else T(1)
        g = 0.0
        for s in range(TILE):
            g += np.float64(wt[s]) * np.float64(lp[s])
            total[s] = wt[s] / total[s]
        l[0] += g
        for k in range(K):
            g = 0.0
            for s in range(TILE):
                u = total[s] * q[k, s]
                q[k, s] = u
                g += np.float64(u)
            S0[k] += g
            if g == 0:
                continue
            for d in range(D):
                v, f, h = mu[k, d], T(0), T(0)
                for s in range(TILE):
                    y = XT[d, s] - v
                    u = q[k, s] * y
                    f += u
                    h += u * y
                S1[k, d] += f
                S2[k, d] += h


# ---------------------------------------------------------------------------------------- E step, in blocks on threads
def _rows(cost, least=TILE):
    """Rows of a block, a multiple of TILE: about half a millisecond of work at `cost` multiplications a row."""
    return min(max(16_000_000 // cost, least), 8192) // TILE * TILE


def _padded(P):
    """P (...,D,D) with zeros up to a multiple of 4."""
    D = P.shape[-1]
    Q = (D + 3) // 4 * 4
    out = np.zeros((*P.shape[:-2], Q, Q), P.dtype)
    out[..., :D, :D] = P
    return out


def _whitened(mu, P):
    """v_k = P (mu_k - mu_0): (K,D)."""
    return np.einsum("ij,kj->ki", P, mu - mu[0])


def _parts(S, K, D, shape):
    """S0 (K,), S1 (K,D), S2 and l (1,), views of the flat S."""
    return S[:K], S[K : K + K * D].reshape(K, D), S[K + K * D : -1].reshape(shape), S[-1:]


def _accumulate(block, X, w, rows, S):
    """S = sum of what block(X, w, out) adds to zeros for blocks of rows, in order: the same bits for any threads."""
    n_blocks = -(-len(X) // rows)
    S[:] = 0
    if n_blocks == 1:
        block(X, w, S)
        return
    wave = min(n_blocks, WAVE, max(4, 2**23 // S.size))
    parts = np.empty((wave, S.size))
    for first in range(0, n_blocks, wave):
        n = min(wave, n_blocks - first)
        parts[:n] = 0

        def run(b):
            at = slice((first + b) * rows, (first + b + 1) * rows)  # noqa: B023
            block(X[at], w[at], parts[b])

        pool.run(run, n)
        for part in parts[:n]:
            S += part


def statistics_full(X, w, mu, P, c, S):
    """S of the module docstring for full covariances.   X (N,D), w (N,) or (0,), mu (K,D), P (K,D,D), c (K,)."""
    (K, D), P, no_answer = mu.shape, _padded(P), (np.empty(0, X.dtype), np.empty((0, 0), X.dtype))

    def block(X, w, out):
        _e_step_full(X, w, mu, P, c, *_parts(out, K, D, (K, D, D)), *no_answer)

    least = (4 if S.size < 2**18 else 2) * TILE  # more rows pay for the sums, fewer let Ctrl-C through in time
    _accumulate(block, X, w, _rows(K * D * (D + 8), least), S)


def statistics_tied(X, w, mu, P, c, S):
    """S of the module docstring for one covariance.   X (N,D), w (N,) or (0,), mu (K,D), P (D,D), c (K,)."""
    (K, D), v, P = mu.shape, _whitened(mu, P), _padded(P)
    no_answer, more = (np.empty(0, X.dtype), np.empty((0, 0), X.dtype)), np.empty(S.size + K * K)

    def block(X, w, out):
        both = out[S.size :].reshape(K, K)
        _e_step_tied(X, w, mu, P, v, c, *_parts(out[: S.size], K, D, (D, D)), both, *no_answer)

    _accumulate(block, X, w, _rows(D * (D + 8) + K * (4 * D + K + 8), 2 * TILE), more)
    S[:] = more[: S.size]
    S2, both, means = _parts(S, K, D, (D, D))[2], more[S.size :].reshape(K, K), mu.astype(np.float64)
    for k in range(1, K):
        apart = means[k] - means[:k]
        S2 += np.tril(np.einsum("l,li,lj->ij", both[k, :k], apart, apart))


def statistics_diag(X, w, mu, P, c, S):
    """S of the module docstring for diagonal covariances.   X (N,D), w (N,) or (0,), mu (K,D), P (K,D), c (K,)."""
    (K, D), no_answer = mu.shape, (np.empty(0, X.dtype), np.empty((0, 0), X.dtype))

    def block(X, w, out):
        _e_step_diag(X, w, mu, P, c, *_parts(out, K, D, (K, D)), *no_answer)

    _accumulate(block, X, w, _rows(K * (4 * D + 8)), S)


def _in_blocks(block, X, rows, log_px, labels, r):
    """block(X, log_px, r) for blocks of rows; labels (N,) are where r is largest, which is made a block at a time."""

    def run(b):
        at = slice(b * rows, (b + 1) * rows)
        x = X[at]
        part = np.empty((len(x), r.shape[1]), X.dtype) if labels.size else r[at]
        block(x, log_px[at], part)
        if labels.size:
            labels[at] = part.argmax(axis=1)
            if r.size:
                r[at] = part

    pool.run(run, -(-len(X) // rows))


def posterior_full(X, mu, P, c, log_px, labels, r):
    """log p(x) to log_px (N,), argmax_k r to labels (N,) int64, responsibilities to r (N,K); (0,), (0,), (0,K) skip."""
    (K, D), P, none = mu.shape, _padded(P), (np.empty(0), np.empty((0, 0)), np.empty((0, 0, 0)), np.empty(0))

    def block(X, log_px, r):
        _e_step_full(X, none[0], mu, P, c, *none, log_px, r)

    _in_blocks(block, X, _rows(K * D * (D + 8), 2 * TILE), log_px, labels, r)


def posterior_tied(X, mu, P, c, log_px, labels, r):
    """As posterior_full, with one P (D,D) for all components."""
    (K, D), v, P = mu.shape, _whitened(mu, P), _padded(P)
    none = np.empty(0), np.empty((0, 0)), np.empty((0, 0)), np.empty(0), np.empty((0, 0))

    def block(X, log_px, r):
        _e_step_tied(X, none[0], mu, P, v, c, *none, log_px, r)

    _in_blocks(block, X, _rows(D * (D + 8) + K * (2 * D + 8)), log_px, labels, r)


def posterior_diag(X, mu, P, c, log_px, labels, r):
    """As posterior_full, with P (K,D), one over the standard deviations."""
    (K, D), none = mu.shape, (np.empty(0), np.empty((0, 0)), np.empty((0, 0)), np.empty(0))

    def block(X, log_px, r):
        _e_step_diag(X, none[0], mu, P, c, *none, log_px, r)

    _in_blocks(block, X, _rows(K * (2 * D + 8)), log_px, labels, r)


# ---------------------------------------------------------------------------------------- M step, always float64
EMPTY = 2.3e-16  # of the whole weight: a component with less has none


@kernel("T1 T2 T1 i i T1w T2w T3w T3w T3w T1w")
def _maximise_matrices(S, mu, R, lo, hi, pi, new, Sigma, L, P, c):
    """Covariances lo .. hi, of one component each, or the one of all: Sigma, L and P (K,D,D) or (1,D,D).

    Cholesky and its inverse row by row: L_ij = (Sigma_ij - sum_{m<j} L_im L_jm) / L_jj,
    P_i = (e_i - sum_{m<i} L_im P_m) / L_ii, so that the innermost loops run along rows."""
    K, D = mu.shape
    W = 0.0
    for k in range(K):
        W += S[k]
    for g in range(lo, hi):
        first, last = (g, g + 1) if Sigma.shape[0] == K else (0, K)
        n, sound = 0.0, True
        for k in range(first, last):
            n += S[k]
            pi[k] = S[k] / W
            for d in range(D):
                new[k, d] = mu[k, d] + S[K + k * D + d] / S[k] if S[k] > EMPTY * W else mu[k, d]
        v = -0.5 * D * math.log(2 * math.pi)
        for i in range(D):
            for j in range(i + 1):
                a = S[K + K * D + (g * D + i) * D + j]
                for k in range(first, last):
                    if S[k] > 0:
                        a -= S[K + k * D + i] * (S[K + k * D + j] / S[k])
                a = a / n + R[i] if i == j else a / n
                Sigma[g, i, j] = a
                Sigma[g, j, i] = a
                P[g, i, j] = 0.0
                P[g, j, i] = 0.0
                b = 0.0
                for m in range(j):
                    b += L[g, i, m] * L[g, j, m]
                if j < i:
                    L[g, i, j] = (a - b) / L[g, j, j]
                elif a - b > 4e-15 * D * a:
                    L[g, i, i] = math.sqrt(a - b)
                else:  # not positive definite, but for rounding
                    sound = False
                    L[g, i, i] = 1.0
        for i in range(D):
            P[g, i, i] = 1.0
            for m in range(i):
                a = L[g, i, m]
                for j in range(m + 1):
                    P[g, i, j] -= a * P[g, m, j]
            a = 1.0 / L[g, i, i]
            v += math.log(a)
            for j in range(i + 1):
                P[g, i, j] *= a
                v -= 0.5 * R[j] * P[g, i, j] * P[g, i, j]
        for k in range(first, last):
            c[k] = math.log(pi[k]) + v if sound and S[k] > EMPTY * W else -math.inf


def maximise_full(S, mu, R, pi, new, Sigma, P, c):
    """M step from S (module docstring) about mu (K,D), R (D,), all float64. With delta_k = S1_k / S0_k,

        pi_k = S0_k / W,   new_k = mu_k + delta_k,   Sigma_k = S2_k / S0_k - delta_k delta_k' + R,
        P_k inverse Cholesky factor of Sigma_k,      c_k of the module docstring.

    -> pi (K,), new (K,D), Sigma (K,D,D), P (K,D,D), c (K,). c_k = -inf says that component k has no weight, or no
    positive definite covariance. Bishop 2006, eq. 9.24-9.26."""
    K, L = len(Sigma), np.empty_like(Sigma)
    n = K if mu.shape[1] >= 32 else 1  # blocks of one component when there is work for it

    def block(b):
        _maximise_matrices(S, mu, R, b * K // n, (b + 1) * K // n, pi, new, Sigma, L, P, c)

    pool.run(block, n)


def maximise_tied(S, mu, R, pi, new, Sigma, P, c):
    """As maximise_full, with one P (D,D) and one Sigma (D,D) = (S2 - sum_k S0_k delta_k delta_k') / W + R."""
    _maximise_matrices(S, mu, R, 0, 1, pi, new, Sigma[None], np.empty_like(Sigma)[None], P[None], c)


@kernel("T1 T2 T1 i T1w T2w T2w T2w T1w")
def _maximise_variances(S, mu, R, average, pi, new, Sigma, P, c):
    K, D = mu.shape
    W = 0.0
    for k in range(K):
        W += S[k]
    for k in range(K):
        pi[k] = S[k] / W
        mean = 0.0
        for d in range(D):
            e, square = S[K + k * D + d] / S[k], S[K + K * D + k * D + d] / S[k]
            v = square - e * e
            Sigma[k, d] = (v if v > 4e-15 * square else 0.0) + R[d]  # rounding alone is no variance
            mean += Sigma[k, d] / D
            new[k, d] = mu[k, d] + e if S[k] > EMPTY * W else mu[k, d]
        c[k] = math.log(pi[k]) - 0.5 * D * math.log(2 * math.pi)
        for d in range(D):
            if average:
                Sigma[k, d] = mean
            v = Sigma[k, d]
            if v > 0 and S[k] > EMPTY * W:
                P[k, d] = 1 / math.sqrt(v)
                c[k] += math.log(P[k, d]) - 0.5 * R[d] / v
            else:
                P[k, d] = 0.0
                c[k] = -math.inf


def maximise_diag(S, mu, R, pi, new, Sigma, P, c):
    """As maximise_full, with variances Sigma (K,D) = S2_kd / S0_k - delta_kd² + R_d, and P (K,D) one over roots."""
    _maximise_variances(S, mu, R, 0, pi, new, Sigma, P, c)


def maximise_spherical(S, mu, R, pi, new, Sigma, P, c):
    """As maximise_diag, each component's variances replaced by their mean."""
    _maximise_variances(S, mu, R, 1, pi, new, Sigma, P, c)


# ---------------------------------------------------------------------------------------- starts
@kernel("T2 T2 T1 i i T2w", fastmath=FAST)
def _squared_distances(X, Z, s, lo, hi, d2):
    for n in range(lo, hi):
        x = X[n]
        for l in range(Z.shape[0]):
            z, v = Z[l], X.dtype.type(0)
            for d in range(x.size):
                u = (x[d] - z[d]) * s[d]
                v += u * u
            d2[l, n] = v


def squared_distances(X, Z, s, d2):
    """d2[l,n] = sum_d ((x_nd - z_ld) s_d)².   X (N,D), Z (L,D), s (D,)  ->  d2 (L,N)."""
    rows = _rows(len(s) * len(Z) * 4)
    pool.run(lambda b: _squared_distances(X, Z, s, b * rows, min(len(X), (b + 1) * rows), d2), -(-len(X) // rows))


squared_distances.block = _squared_distances  # the serial kernel of rows lo .. hi, for use in other jitted code
