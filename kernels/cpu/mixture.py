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

Loops run over tiles of 128 rows, transposed so that the innermost loop goes along the rows and vectorises.
"""

import math

import numpy as np
from numba.extending import register_jitable

from .. import pool
from ..jit import FAST, kernel
from ..shared.scalar import exp, log, shared

TILE = 128  # rows of a tile: long enough to pay for its sums, short enough for the nearest caches
WAVE = 64  # blocks whose partial sums are held at once


# a piece left out of line has its own copy in every compiled kernel, of which the linker picks one: other bits from one
# process to the next
inlined = register_jitable(forceinline=True)


# ---------------------------------------------------------------------------------------- pieces of a tile
@inlined
def _load(X, w, n0, m, XT, wt):
    """Rows n0 .. n0+m of X (N,D) to XT (D,TILE), weights to wt (TILE,). Rows past m repeat the last, with weight 0."""
    for s in range(m):
        for d in range(X.shape[1]):
            XT[d, s] = X[n0 + s, d]
        wt[s] = w[n0 + s] if w.size else 1.0
    for s in range(m, TILE):
        for d in range(X.shape[1]):
            XT[d, s] = X[n0 + m - 1, d]
        wt[s] = 0.0


@inlined
def _centre(XT, mu, Y):
    """Y[d] = XT[d] - mu[d]."""
    for d in range(mu.size):
        x, y, m = XT[d], Y[d], mu[d]
        for s in range(TILE):
            y[s] = x[s] - m


@inlined
def _padded(A, P):
    """The lower triangle of A (D,D) into P (>=D, >=D), zeros elsewhere: loops by fours then need no remainder."""
    P[:] = A.dtype.type(0)
    for i in range(A.shape[0]):
        for j in range(i + 1):
            P[i, j] = A[i, j]


@inlined
def _project(P, i, Y, t):
    """Rows i and i+1 of P Y, P lower triangular, but for the last four columns: t (2,TILE), and where those begin.

    t = sum_{j<last} P[i:i+2, j] Y[j]. Two rows by four columns: six loads and two stores for eight products."""
    T = P.dtype.type
    t0, t1, last = t[0], t[1], i // 4 * 4
    for s in range(TILE):
        t0[s] = T(0)
        t1[s] = T(0)
    for j in range(0, last, 4):
        a0, a1, a2, a3 = P[i, j], P[i, j + 1], P[i, j + 2], P[i, j + 3]
        b0, b1, b2, b3 = P[i + 1, j], P[i + 1, j + 1], P[i + 1, j + 2], P[i + 1, j + 3]
        y0, y1, y2, y3 = Y[j], Y[j + 1], Y[j + 2], Y[j + 3]
        for s in range(TILE):
            t0[s] += a0 * y0[s] + a1 * y1[s] + a2 * y2[s] + a3 * y3[s]
            t1[s] += b0 * y0[s] + b1 * y1[s] + b2 * y2[s] + b3 * y3[s]
    return last


@inlined
def _scatter(r, Y, V, D, S1, S2):
    """S1 += sum_s r y, S2 += sum_s r y y' (lower triangle).   r (TILE,), Y (>=D, TILE) with zero rows up to a multiple
    of 4, V (4, TILE) scratch. Four rows of r y against four of Y: sixteen sums live in registers."""
    T = r.dtype.type
    for i in range(0, D, 4):
        for e in range(4):
            v, y, b = V[e], Y[i + e], T(0)
            for s in range(TILE):
                u = r[s] * y[s]
                v[s] = u
                b += u
            if i + e < D:
                S1[i + e] += b
        v0, v1, v2, v3 = V[0], V[1], V[2], V[3]
        for j in range(0, i + 1, 4):
            y0, y1, y2, y3 = Y[j], Y[j + 1], Y[j + 2], Y[j + 3]
            a00 = a01 = a02 = a03 = a10 = a11 = a12 = a13 = T(0)
            a20 = a21 = a22 = a23 = a30 = a31 = a32 = a33 = T(0)
            for s in range(TILE):
                b0, b1, b2, b3 = y0[s], y1[s], y2[s], y3[s]
                a00 += v0[s] * b0
                a01 += v0[s] * b1
                a02 += v0[s] * b2
                a03 += v0[s] * b3
                a10 += v1[s] * b0
                a11 += v1[s] * b1
                a12 += v1[s] * b2
                a13 += v1[s] * b3
                a20 += v2[s] * b0
                a21 += v2[s] * b1
                a22 += v2[s] * b2
                a23 += v2[s] * b3
                a30 += v3[s] * b0
                a31 += v3[s] * b1
                a32 += v3[s] * b2
                a33 += v3[s] * b3
            _add4(S2, i, j, D, a00, a01, a02, a03)
            _add4(S2, i + 1, j, D, a10, a11, a12, a13)
            _add4(S2, i + 2, j, D, a20, a21, a22, a23)
            _add4(S2, i + 3, j, D, a30, a31, a32, a33)


@inlined
def _add4(S2, i, j, D, a, b, c, d):
    """S2[i, j:j+4] += (a, b, c, d), as far as the lower triangle of (D,D) goes."""
    if i < D:
        S2[i, j] += a
        if j + 1 <= i:
            S2[i, j + 1] += b
        if j + 2 <= i:
            S2[i, j + 2] += c
        if j + 3 <= i:
            S2[i, j + 3] += d


@shared
def _normalise(q, c, a, top, total):
    """a_k = c_k - q_k/2,  top = max_k a_k,  r_k = exp(a_k - top),  total = sum_k r_k:  log p = top + log(total).

    q (K,TILE) squared distances in, r out; a (TILE,) scratch. Distances that overflow (inf, or nan from inf - inf)
    count as the largest number: such a row is improbable, never NaN. Bishop 2006, eq. 9.13, in logs."""
    T = c.dtype.type
    K = c.size
    huge = T(1e38) if T(1) + T(1e-10) == T(1) else T(1e307)
    half = T(0.5)
    for k in range(K):
        x, ck = q[k], c[k]
        for s in range(TILE):
            x[s] = ck - half * (x[s] if x[s] < huge else huge)
    x = q[0]
    for s in range(TILE):
        top[s] = x[s]
        total[s] = T(0)
    for k in range(1, K):
        x = q[k]
        for s in range(TILE):
            top[s] = x[s] if x[s] > top[s] else top[s]
    for k in range(K):
        x = q[k]
        for s in range(TILE):
            a[s] = exp(x[s] - top[s])
        for s in range(TILE):
            x[s] = a[s]
            total[s] += a[s]


@shared
def _log_density(top, total, out):
    """out = top + log(total)."""
    for s in range(TILE):
        out[s] = top[s] + log(total[s])


@inlined
def _weigh(r, total, wt, out):
    """out[s] = w r / total, the weighted responsibility; returns its sum."""
    T = r.dtype.type
    b = T(0)
    for s in range(TILE):
        v = T(wt[s]) * r[s] / total[s]
        out[s] = v
        b += v
    return b


@inlined
def _weighted_sum(wt, v):
    """sum_s w v in float64."""
    b = 0.0
    for s in range(TILE):
        b += wt[s] * np.float64(v[s])
    return b


@inlined
def _distances_full(XT, mu, P, Y, t, q):
    """q[k] = |P_k (x - mu_k)|².   XT (D,TILE), P (K,Q,Q) padded, Y (Q,TILE), t (2,TILE) scratch  ->  q (K,TILE)."""
    T = XT.dtype.type
    K, D = mu.shape
    for k in range(K):
        _centre(XT, mu[k], Y)
        x, A = q[k], P[k]
        for s in range(TILE):
            x[s] = T(0)
        for i in range(0, D, 2):
            j = _project(A, i, Y, t)
            t0, t1 = t[0], t[1]
            a0, a1, a2, a3 = A[i, j], A[i, j + 1], A[i, j + 2], A[i, j + 3]
            b0, b1, b2, b3 = A[i + 1, j], A[i + 1, j + 1], A[i + 1, j + 2], A[i + 1, j + 3]
            y0, y1, y2, y3 = Y[j], Y[j + 1], Y[j + 2], Y[j + 3]
            for s in range(TILE):
                u = t0[s] + (a0 * y0[s] + a1 * y1[s] + a2 * y2[s] + a3 * y3[s])
                v = t1[s] + (b0 * y0[s] + b1 * y1[s] + b2 * y2[s] + b3 * y3[s])
                x[s] += u * u + v * v


@inlined
def _distances_tied(XT, mu, P, Y, t, v, q):
    """q[k] = |P (x - mu_0) - v_k|², v_k = P (mu_k - mu_0): one product with P a row instead of K."""
    T = XT.dtype.type
    K, D = mu.shape
    _centre(XT, mu[0], Y)
    for k in range(K):
        x = q[k]
        for s in range(TILE):
            x[s] = T(0)
    for i in range(0, D, 2):
        j = _project(P, i, Y, t)
        for e in range(min(2, D - i)):
            te = t[e]
            a0, a1, a2, a3 = P[i + e, j], P[i + e, j + 1], P[i + e, j + 2], P[i + e, j + 3]
            y0, y1, y2, y3 = Y[j], Y[j + 1], Y[j + 2], Y[j + 3]
            for s in range(TILE):
                te[s] += a0 * y0[s] + a1 * y1[s] + a2 * y2[s] + a3 * y3[s]
            for k in range(K):
                x, vk = q[k], v[k, i + e]
                for s in range(TILE):
                    u = te[s] - vk
                    x[s] += u * u


@inlined
def _distances_diag(XT, mu, P, q):
    """q[k] = sum_d (P_kd (x_d - mu_kd))²."""
    T = XT.dtype.type
    K, D = mu.shape
    for k in range(K):
        x = q[k]
        for s in range(TILE):
            x[s] = T(0)
        for d in range(D):
            y, m, p = XT[d], mu[k, d], P[k, d]
            for s in range(TILE):
                u = (y[s] - m) * p
                x[s] += u * u


@inlined
def _whitened_means(mu, P):
    """v_k = P (mu_k - mu_0).   mu (K,D), P (>=D,>=D)  ->  v (K,D)."""
    K, D = mu.shape
    v = np.zeros((K, D), mu.dtype)
    for k in range(K):
        for i in range(D):
            for j in range(i + 1):
                v[k, i] += P[i, j] * (mu[k, j] - mu[0, j])
    return v


# ---------------------------------------------------------------------------------------- E step and statistics
@kernel("T2 d1 T2 T3 T1 i i d1w", fastmath=FAST)
def _statistics_full(X, w, mu, P, c, lo, hi, S):
    K, D = mu.shape
    Q = (D + 3) // 4 * 4
    S[:] = 0
    S0 = S[:K]
    S1 = S[K : K + K * D].reshape(K, D)
    S2 = S[K + K * D : K + K * D + K * D * D].reshape(K, D, D)
    Pq = np.empty((K, Q, Q), X.dtype)
    for k in range(K):
        _padded(P[k], Pq[k])
    XT, Y, V = np.empty((D, TILE), X.dtype), np.zeros((Q, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    q, wt = np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    for n0 in range(lo, hi, TILE):
        _load(X, w, n0, min(TILE, hi - n0), XT, wt)
        _distances_full(XT, mu, Pq, Y, V, q)
        _normalise(q, c, t, top, total)
        _log_density(top, total, t)
        S[-1] += _weighted_sum(wt, t)
        for k in range(K):
            b = _weigh(q[k], total, wt, t)
            if b > 0:
                S0[k] += b
                _centre(XT, mu[k], Y)
                _scatter(t, Y, V, D, S1[k], S2[k])


@kernel("T2 d1 T2 T2 T1 i i d1w", fastmath=FAST)
def _statistics_tied(X, w, mu, P, c, lo, hi, S):
    """With xm = sum_k r_k mu_k, S2 splits into non-negative parts, of which only one needs D² numbers a row:
    sum_k r_k (x - mu_k)(x - mu_k)' = (x - xm)(x - xm)' + sum_{k<l} r_k r_l (mu_k - mu_l)(mu_k - mu_l)'."""
    T = X.dtype.type
    K, D = mu.shape
    Q = (D + 3) // 4 * 4
    S[:] = 0
    S0 = S[:K]
    S1 = S[K : K + K * D].reshape(K, D)
    S2 = S[K + K * D : K + K * D + D * D].reshape(D, D)
    Pq = np.empty((Q, Q), X.dtype)
    _padded(P, Pq)
    v = _whitened_means(mu, Pq)
    XT, Y, V = np.empty((D, TILE), X.dtype), np.zeros((Q, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    q, wt = np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    both, unused = np.zeros((K, K)), np.zeros(D)
    for n0 in range(lo, hi, TILE):
        _load(X, w, n0, min(TILE, hi - n0), XT, wt)
        _distances_tied(XT, mu, Pq, Y, V, v, q)
        _normalise(q, c, t, top, total)
        _log_density(top, total, t)
        S[-1] += _weighted_sum(wt, t)
        for d in range(D):
            y, x, m = Y[d], XT[d], mu[0, d]
            for s in range(TILE):
                y[s] = x[s] - m
        for k in range(K):
            r = q[k]
            for s in range(TILE):
                r[s] /= total[s]
            for d in range(D):
                y, m = Y[d], mu[k, d] - mu[0, d]
                for s in range(TILE):
                    y[s] -= m * r[s]
        for k in range(K):
            r = q[k]
            b = T(0)
            for s in range(TILE):
                t[s] = T(wt[s]) * r[s]
                b += t[s]
            S0[k] += b
            for d in range(D):
                x, m, g = XT[d], mu[k, d], T(0)
                for s in range(TILE):
                    g += t[s] * (x[s] - m)
                S1[k, d] += g
            for l in range(k):
                r, g = q[l], T(0)
                for s in range(TILE):
                    g += t[s] * r[s]
                both[k, l] += g
        for s in range(TILE):
            t[s] = T(wt[s])
        _scatter(t, Y, V, D, unused, S2)
    for k in range(K):
        for l in range(k):
            for i in range(D):
                for j in range(i + 1):
                    S2[i, j] += both[k, l] * np.float64(mu[k, i] - mu[l, i]) * np.float64(mu[k, j] - mu[l, j])


@kernel("T2 d1 T2 T2 T1 i i d1w", fastmath=FAST)
def _statistics_diag(X, w, mu, P, c, lo, hi, S):
    T = X.dtype.type
    K, D = mu.shape
    S[:] = 0
    S0 = S[:K]
    S1 = S[K : K + K * D].reshape(K, D)
    S2 = S[K + K * D : K + 2 * K * D].reshape(K, D)
    XT, q, wt = np.empty((D, TILE), X.dtype), np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    for n0 in range(lo, hi, TILE):
        _load(X, w, n0, min(TILE, hi - n0), XT, wt)
        _distances_diag(XT, mu, P, q)
        _normalise(q, c, t, top, total)
        _log_density(top, total, t)
        S[-1] += _weighted_sum(wt, t)
        for k in range(K):
            b = _weigh(q[k], total, wt, t)
            if b > 0:
                S0[k] += b
                for d in range(D):
                    x, m, f, g = XT[d], mu[k, d], T(0), T(0)
                    for s in range(TILE):
                        y = x[s] - m
                        u = t[s] * y
                        f += u
                        g += u * y
                    S1[k, d] += f
                    S2[k, d] += g


def _rows(cost, least=TILE):
    """Rows of a block, a multiple of TILE: about half a millisecond of work at `cost` multiplications a row."""
    return min(max(16_000_000 // cost, least), 8192) // TILE * TILE


def _accumulate(block, N, rows, S):
    """S = sum of what block(lo, hi, out) leaves in out, added in block order: the same bits for any threads."""
    n_blocks = -(-N // rows)
    if n_blocks == 1:
        block(0, N, S)
        return
    S[:] = 0
    wave = min(n_blocks, WAVE, max(4, 2**23 // S.size))
    parts = np.empty((wave, S.size))
    for first in range(0, n_blocks, wave):
        n = min(wave, n_blocks - first)
        pool.run(lambda b: block((first + b) * rows, min(N, (first + b + 1) * rows), parts[b]), n)  # noqa: B023
        for part in parts[:n]:
            S += part


def statistics_full(X, w, mu, P, c, S):
    """S of the module docstring for full covariances.   X (N,D), w (N,) or (0,), mu (K,D), P (K,D,D), c (K,)."""
    K, D = mu.shape
    rows = _rows(K * D * (D + 8), 2 * TILE)
    _accumulate(lambda lo, hi, out: _statistics_full(X, w, mu, P, c, lo, hi, out), len(X), rows, S)


def statistics_tied(X, w, mu, P, c, S):
    """S of the module docstring for one covariance.   X (N,D), w (N,) or (0,), mu (K,D), P (D,D), c (K,)."""
    K, D = mu.shape
    rows = _rows(D * (D + 8) + K * (4 * D + K + 8), 2 * TILE)
    _accumulate(lambda lo, hi, out: _statistics_tied(X, w, mu, P, c, lo, hi, out), len(X), rows, S)


def statistics_diag(X, w, mu, P, c, S):
    """S of the module docstring for diagonal covariances.   X (N,D), w (N,) or (0,), mu (K,D), P (K,D), c (K,)."""
    K, D = mu.shape
    _accumulate(lambda lo, hi, out: _statistics_diag(X, w, mu, P, c, lo, hi, out), len(X), _rows(K * (4 * D + 8)), S)


# ---------------------------------------------------------------------------------------- scoring
@inlined
def _answer(q, c, n0, m, t, top, total, log_px, labels, r):
    """log p(x), the most probable component and the responsibilities of rows n0 .. n0+m, each where it is asked for."""
    K = c.size
    _normalise(q, c, t, top, total)
    _log_density(top, total, t)
    for s in range(m if log_px.size else 0):
        log_px[n0 + s] = t[s]
    for s in range(m if labels.size else 0):
        best = 0
        for k in range(1, K):
            if q[k, s] > q[best, s]:
                best = k
        labels[n0 + s] = best
    for s in range(m if r.size else 0):
        for k in range(K):
            r[n0 + s, k] = q[k, s] / total[s]


@kernel("T2 T2 T3 T1 i i T1w i1w T2w", fastmath=FAST)
def _posterior_full(X, mu, P, c, lo, hi, log_px, labels, r):
    K, D = mu.shape
    Q = (D + 3) // 4 * 4
    Pq = np.empty((K, Q, Q), X.dtype)
    for k in range(K):
        _padded(P[k], Pq[k])
    XT, Y, V = np.empty((D, TILE), X.dtype), np.zeros((Q, TILE), X.dtype), np.empty((2, TILE), X.dtype)
    q, wt = np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    for n0 in range(lo, hi, TILE):
        m = min(TILE, hi - n0)
        _load(X, wt[:0], n0, m, XT, wt)
        _distances_full(XT, mu, Pq, Y, V, q)
        _answer(q, c, n0, m, t, top, total, log_px, labels, r)


@kernel("T2 T2 T2 T1 i i T1w i1w T2w", fastmath=FAST)
def _posterior_tied(X, mu, P, c, lo, hi, log_px, labels, r):
    K, D = mu.shape
    Q = (D + 3) // 4 * 4
    Pq = np.empty((Q, Q), X.dtype)
    _padded(P, Pq)
    v = _whitened_means(mu, Pq)
    XT, Y, V = np.empty((D, TILE), X.dtype), np.zeros((Q, TILE), X.dtype), np.empty((2, TILE), X.dtype)
    q, wt = np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    for n0 in range(lo, hi, TILE):
        m = min(TILE, hi - n0)
        _load(X, wt[:0], n0, m, XT, wt)
        _distances_tied(XT, mu, Pq, Y, V, v, q)
        _answer(q, c, n0, m, t, top, total, log_px, labels, r)


@kernel("T2 T2 T2 T1 i i T1w i1w T2w", fastmath=FAST)
def _posterior_diag(X, mu, P, c, lo, hi, log_px, labels, r):
    K, D = mu.shape
    XT, q, wt = np.empty((D, TILE), X.dtype), np.empty((K, TILE), X.dtype), np.empty(TILE)
    t, top, total = np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
    for n0 in range(lo, hi, TILE):
        m = min(TILE, hi - n0)
        _load(X, wt[:0], n0, m, XT, wt)
        _distances_diag(XT, mu, P, q)
        _answer(q, c, n0, m, t, top, total, log_px, labels, r)


def _in_blocks(f, N, rows, *args):
    pool.run(lambda b: f(*args[:4], b * rows, min(N, (b + 1) * rows), *args[4:]), -(-N // rows))


def posterior_full(X, mu, P, c, log_px, labels, r):
    """log p(x) to log_px (N,), argmax_k r to labels (N,) int64, responsibilities to r (N,K); a size of 0 skips one."""
    K, D = mu.shape
    _in_blocks(_posterior_full, len(X), _rows(K * D * (D + 8), 2 * TILE), X, mu, P, c, log_px, labels, r)


def posterior_tied(X, mu, P, c, log_px, labels, r):
    """As posterior_full, with one P (D,D) for all components."""
    K, D = mu.shape
    _in_blocks(_posterior_tied, len(X), _rows(D * (D + 8) + K * (2 * D + 8)), X, mu, P, c, log_px, labels, r)


def posterior_diag(X, mu, P, c, log_px, labels, r):
    """As posterior_full, with P (K,D), one over the standard deviations."""
    K, D = mu.shape
    _in_blocks(_posterior_diag, len(X), _rows(K * (2 * D + 8)), X, mu, P, c, log_px, labels, r)


# the serial kernel of one block of rows lo .. hi, for use in other jitted code: posterior_full.block.compiled("f8")
statistics_full.block, statistics_tied.block, statistics_diag.block = (
    _statistics_full,
    _statistics_tied,
    _statistics_diag,
)
posterior_full.block, posterior_tied.block, posterior_diag.block = _posterior_full, _posterior_tied, _posterior_diag


# ---------------------------------------------------------------------------------------- M step, always float64
@inlined
def _means(S, mu, pi, new):
    """pi_k = S0_k / sum S0,  mu_k + S1_k / S0_k.  A component without weight keeps its mean, and pi_k = 0."""
    K, D = mu.shape
    W = 0.0
    for k in range(K):
        W += S[k]
    for k in range(K):
        empty = not S[k] > 2.3e-16 * W
        pi[k] = 0.0 if empty else S[k] / W
        for d in range(D):
            new[k, d] = mu[k, d] + (0.0 if empty else S[K + k * D + d] / S[k])
    return W


@kernel("T1 T2 T1 T1w T2w T3w")
def maximise_full(S, mu, R, pi, new, Sigma):
    """pi_k = S0_k / W,  mu_k + delta_k,  Sigma_k = S2_k / S0_k - delta_k delta_k' + R,  delta_k = S1_k / S0_k.

    S of the module docstring about mu (K,D), R (D,)  ->  pi (K,), new (K,D), Sigma (K,D,D). Bishop 2006, eq. 9.24-9.26.
    A component without weight gets pi_k = 0 and Sigma_k = 0."""
    K, D = mu.shape
    _means(S, mu, pi, new)
    S2 = S[K + K * D : K + K * D + K * D * D].reshape(K, D, D)
    for k in range(K):
        for i in range(D):
            for j in range(i + 1):
                v = 0.0
                if pi[k] > 0:
                    di, dj = S[K + k * D + i] / S[k], S[K + k * D + j] / S[k]
                    v = S2[k, i, j] / S[k] - di * dj + (R[i] if i == j else 0.0)
                Sigma[k, i, j] = v
                Sigma[k, j, i] = v


@kernel("T1 T2 T1 T1w T2w T2w")
def maximise_tied(S, mu, R, pi, new, Sigma):
    """As maximise_full, with Sigma (D,D) = (S2 - sum_k S0_k delta_k delta_k') / W + R."""
    K, D = mu.shape
    W = _means(S, mu, pi, new)
    S2 = S[K + K * D : K + K * D + D * D].reshape(D, D)
    for i in range(D):
        for j in range(i + 1):
            v = S2[i, j]
            for k in range(K):
                if pi[k] > 0:
                    v -= S[K + k * D + i] * (S[K + k * D + j] / S[k])
            v = v / W + (R[i] if i == j else 0.0)
            Sigma[i, j] = v
            Sigma[j, i] = v


@kernel("T1 T2 T1 T1w T2w T2w")
def maximise_diag(S, mu, R, pi, new, Sigma):
    """As maximise_full, with variances Sigma (K,D) = S2_kd / S0_k - delta_kd² + R_d."""
    K, D = mu.shape
    _means(S, mu, pi, new)
    for k in range(K):
        for d in range(D):
            v = 0.0
            if pi[k] > 0:
                e, square = S[K + k * D + d] / S[k], S[K + K * D + k * D + d] / S[k]
                v = square - e * e
                v = (v if v > 4e-15 * square else 0.0) + R[d]  # rounding alone is no variance
            Sigma[k, d] = v


@inlined
def _invert_cholesky(A, P):
    """P = L^-1, lower triangular, A = L L'; False, with P = 0, when A is not positive definite to rounding.

    Row by row: L_ij = (A_ij - sum_{m<j} L_im L_jm) / L_jj, then P_i = (e_i - sum_{m<i} L_im P_m) / L_ii."""
    D = A.shape[0]
    L = np.zeros((D, D))
    P[:] = 0
    for i in range(D):
        Li = L[i]
        for j in range(i + 1):
            Lj = L[j]
            v = 0.0
            for m in range(j):
                v += Li[m] * Lj[m]
            v = A[i, j] - v
            if i == j:
                if not v > 4e-15 * D * A[i, i]:
                    P[:] = 0
                    return False
                Li[i] = math.sqrt(v)
            else:
                Li[j] = v / Lj[j]
    for i in range(D):
        Pi = P[i]
        Pi[i] = 1.0
        for m in range(i):
            f, Pm = L[i, m], P[m]
            for j in range(m + 1):
                Pi[j] -= f * Pm[j]
        f = 1.0 / L[i, i]
        for j in range(i + 1):
            Pi[j] *= f
    return True


@kernel("T1 T3 T1 T3w T1w i i", fastmath=FAST)
def _factor_full(pi, Sigma, R, P, c, lo, hi):
    D = Sigma.shape[1]
    for k in range(lo, hi):
        c[k] = -math.inf
        if pi[k] > 0 and _invert_cholesky(Sigma[k], P[k]):
            v = math.log(pi[k]) - 0.5 * D * math.log(2 * math.pi)
            for i in range(D):
                v += math.log(P[k, i, i])
                for j in range(i + 1):
                    v -= 0.5 * R[j] * P[k, i, j] ** 2
            c[k] = v


def factor_full(pi, Sigma, R, P, c):
    """P_k inverse Cholesky factor of Sigma_k, c_k = log pi_k - D/2 log 2pi + log|P_k| - tr(R Sigma_k^-1)/2.

    pi (K,), Sigma (K,D,D), R (D,)  ->  P (K,D,D), c (K,). c_k = -inf tells that component k has no weight or that its
    Sigma_k is not positive definite."""
    K, D = Sigma.shape[:2]
    n = K if D >= 32 else 1  # blocks of one component when there is work for it
    pool.run(lambda b: _factor_full(pi, Sigma, R, P, c, b * K // n, (b + 1) * K // n), n)


@kernel("T1 T2 T1 T2w T1w", fastmath=FAST)
def factor_tied(pi, Sigma, R, P, c):
    """As factor_full, with one Sigma (D,D) and P (D,D)."""
    D = Sigma.shape[0]
    c[:] = -math.inf
    if _invert_cholesky(Sigma, P):
        v = -0.5 * D * math.log(2 * math.pi)
        for i in range(D):
            v += math.log(P[i, i])
            for j in range(i + 1):
                v -= 0.5 * R[j] * P[i, j] ** 2
        for k in range(pi.size):
            c[k] = math.log(pi[k]) + v


@kernel("T1 T2 T1 T2w T1w")
def factor_diag(pi, Sigma, R, P, c):
    """As factor_full, with variances Sigma (K,D) and P (K,D) one over their roots."""
    K, D = Sigma.shape
    for k in range(K):
        v = math.log(pi[k]) - 0.5 * D * math.log(2 * math.pi)
        for d in range(D):
            if Sigma[k, d] > 0:
                P[k, d] = 1 / math.sqrt(Sigma[k, d])
                v += math.log(P[k, d]) - 0.5 * R[d] / Sigma[k, d]
            else:
                P[k, d] = 0
                v = -math.inf
        c[k] = v


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
