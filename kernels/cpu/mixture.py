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

Rows with gaps (NaN) count by what was observed of them, x_o. With Q_k = P_k' P_k the inverse of Sigma_k, cut into
observed and missing columns, and y_o = x_o - mu_o, the rest has under component k a normal posterior about mu_m + f,
    f = -Q_mm^-1 Q_mo y_o,    covariance C = Q_mm^-1,    log p(x_o, k) = c_k - |P_k (y_o, f)|²/2 + h,
    h = (|m| log 2pi - log|Q_mm|)/2
(|P (y_o, .)|² is least at f, where it is y_o' Sigma_oo^-1 y_o). So the E step is that of complete rows (y_o, f), filled
for each component, with h added to c_k; and S2, an expectation, has sum_n w r C besides. Rows of which nothing was
observed count as of weight 0. Ghahramani & Jordan 1994; Little & Rubin 2019, section 11.2. The relative error is that
of a linear system, 1e-16 times the condition number of Q_mm.

Loops run over tiles of 128 rows, transposed so that the innermost loop goes along the rows and vectorises. Each E step
is one function, though its parts repeat: a function inlined into another is compiled twice, and this one is what a user
waits for at the first fit.
"""

import functools
import math

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared.scalar import exp, is_float32, log, shared
from .lanes import LANES, get, inverse_root, less, more, put, splat, times

TILE = 128  # rows of a tile: long enough to pay for its sums, short enough for the nearest caches
WAVE = 64  # blocks whose partial sums are held at once
MANY = 12 * TILE  # rows whose gaps are worked out at once


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


@kernel("T2 d1 T2 T3 T1 i1 i1 d2 d1w d2w d3w d1w T1w T2w", fastmath=FAST)
def _e_step_full(X, w, mu, P, c, first, at, f, S0, S1, S2, l, log_px, r):
    """r_k = softmax_k(c_k - |P_k (x - mu_k)|²/2): adds to S0, S1, S2, l of the module docstring, fills log_px, r.

    X (N,D), w (N,) or (0,), mu (K,D), P (K,Q,Q) padded with zeros to a multiple of 4, so that loops by fours need no
    remainder, c (K,)  ->  S0 (K,), S1 (K,D), S2 (K,D,D), l (1,), log_px (N,), r (N,K); of size 0 what is not wanted.
    first, at, f: the gaps as `_fill` leaves them, of size 0 when there are none; X has any number in them."""
    T = X.dtype.type
    (K, D), Q = mu.shape, P.shape[1]
    XT, Y, V = np.empty((D, TILE), X.dtype), np.empty((Q + 1, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    q, A, G = np.empty((K, TILE), X.dtype), np.empty((4, TILE), X.dtype), np.empty((4, 4), X.dtype)
    top, total, lp, wt = A[0], A[1], A[2], A[3]
    cells, lo, hi = Y.reshape(Y.size), 0, 0
    for d in range(D, Q + 1):
        for s in range(TILE):
            Y[d, s] = T(0)
    for n0 in range(0, len(X), TILE):
        m = len(X) - n0 if len(X) - n0 < TILE else TILE
        if first.size:
            lo, hi = first[n0], first[n0 + m]
        for s in range(TILE):  # rows past the last repeat it
            n = n0 + (s if s < m else m - 1)
            for d in range(D):
                XT[d, s] = X[n, d]
        for k in range(K):
            for d in range(D):
                v = mu[k, d]
                for s in range(TILE):
                    Y[d, s] = XT[d, s] - v
            for e in range(lo, hi):
                cells[at[e]] = T(f[e, k])
            for s in range(TILE):
                q[k, s] = Y[Q, s]  # 0, or -2 h
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
            for e in range(lo, hi):
                cells[at[e]] = T(f[e, k])
            for i in range(0, D, 4):
                for e in range(4):
                    v = T(0)
                    for s in range(TILE):
                        u = q[k, s] * Y[i + e, s]
                        V[e, s] = u
                        v += u
                    if i + e < D:
                        S1[k, i + e] += v
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


@kernel("T2 d1 T2 T2 T1 i1 i1 d2 d1w d2w d2w d1w T1w T2w", fastmath=FAST)
def _e_step_diag(X, w, mu, P, c, first, at, f, S0, S1, S2, l, log_px, r):
    """As _e_step_full, with P (K,D) one over standard deviations and S2 (K,D). f has the mean where there is a gap."""
    T = X.dtype.type
    K, D = mu.shape
    XT, q, A = np.empty((D + 1, TILE), X.dtype), np.empty((K, TILE), X.dtype), np.empty((4, TILE), X.dtype)
    top, total, lp, wt = A[0], A[1], A[2], A[3]
    cells, lo, hi = XT.reshape(XT.size), 0, 0
    for s in range(TILE):
        XT[D, s] = T(0)
    for n0 in range(0, len(X), TILE):
        m = len(X) - n0 if len(X) - n0 < TILE else TILE
        if first.size:
            lo, hi = first[n0], first[n0 + m]
        for s in range(TILE):
            n = n0 + (s if s < m else m - 1)
            for d in range(D):
                XT[d, s] = X[n, d]
        for k in range(K):
            for e in range(lo, hi):
                cells[at[e]] = T(f[e, k])
            for s in range(TILE):
                q[k, s] = XT[D, s]  # 0, or -2 h
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
            for e in range(lo, hi):
                cells[at[e]] = T(f[e, k])
            for d in range(D):
                v, s1, s2 = mu[k, d], T(0), T(0)
                for s in range(TILE):
                    y = XT[d, s] - v
                    u = q[k, s] * y
                    s1 += u
                    s2 += u * y
                S1[k, d] += s1
                S2[k, d] += s2


# ---------------------------------------------------------------------------------------- rows with gaps
@kernel("T2 u1 i1w")
def _patterns(X, mark, key):
    """key (N,): 0 for a complete row, else a number up to 2^15 that rows with the same gaps share. mark (D,) random."""
    for n in range(len(X)):
        x, v, some = X[n], np.uint64(0), False
        for d in range(x.size):
            v += mark[d] if x[d] != x[d] else np.uint64(0)
            some |= x[d] != x[d]
        key[n] = 1 + np.int64(v >> np.uint64(49)) if some else 0


@shared
def _factor(Q, cols, m, L):
    """L L' = Q_mm for the m columns `cols`; the diagonal of L is inverted. Lanes: Q (D D,LANES), of unit diagonal, and
    L (D D,LANES), of which entry ij is row i D + j.

    A pivot that is rounding alone is raised: its column is all but determined by the others."""
    D = cols.size
    for i in range(m):
        row = cols[i] * D
        for j in range(i):
            v = get(Q, row + cols[j])
            for p in range(j):
                v = less(v, get(L, i * D + p), get(L, j * D + p))
            put(L, i * D + j, times(v, get(L, j * D + j)))
        v = splat(1.0)
        for p in range(i):
            a = get(L, i * D + p)
            v = less(v, a, a)
        put(L, i * D + i, inverse_root(v, 4e-16))


@kernel("T2w d3 d3 d3 d3 d3 i1w i1w d3w", fastmath={"contract"})
def _fill(X, mu, root, scale, h, Q, first, at, f):
    """f and -2 h of the module docstring for rows X (N,D) that have gaps, rows with the same ones next to each other.

    Of K components, LANES at a time, G LANES >= K: mu (G,D,LANES); root, of the diagonal of Q; scale = 1 / root;
    h = 2 log root - log 2pi; Q (G,D D,LANES) divided by root root', so that its diagonal is 1.

    The gaps of row n are the numbers first[n] .. first[n+1] - 2 (first: (N+1,)): of such a gap e, at[e] is the cell,
    column TILE + n % TILE, and f (.,G,LANES) are its fillings less the means. The row's last number is that of a cell
    behind its last column, rounded up to a multiple of 4: there f is -2 h. What stood in X at a gap becomes 0."""
    (N, D), T, G = X.shape, X.dtype.type, Q.shape[0]
    cols, L, y = np.empty(D, np.int64), np.empty((D * D, LANES)), np.empty((D, LANES))
    products, fills, n, e = np.empty((N * G, LANES)), f.reshape(f.shape[0] * G, LANES), 0, 0
    behind = (D + 3) // 4 * 4 * TILE
    while n < N:
        m, last, same = 0, n + 1, True
        for d in range(D):  # the gaps of row n to the front of cols, the other columns behind them, last ones first
            gap = X[n, d] != X[n, d]
            cols[m if gap else D - 1 - d + m] = d
            m += gap
        while last < N and same:
            for d in range(D):
                same &= (X[n, d] != X[n, d]) == (X[last, d] != X[last, d])
            last += same
        for g in range(G):
            Qg, mug, rootg, scaleg = Q[g], mu[g], root[g], scale[g]
            _factor(Qg, cols, m, L)
            logs, pivots, one = splat(0.0), splat(1.0), splat(1.0)
            for i in range(m):
                logs = more(logs, get(h[g], cols[i]), one)
                pivots = times(pivots, get(L, i * D + i))
                if i % 16 == 15:  # a product of 16 pivots is in range, one of more may not be
                    put(y, 0, pivots)
                    for l in range(LANES):
                        y[0, l] = -2 * log(y[0, l])
                    logs = more(logs, get(y, 0), one)
                    pivots = one
            for row in range(n, last):
                start = e + (row - n) * (m + 1)
                put(fills, (start + m) * G + g, logs)
                put(products, row * G + g, pivots)
                for j in range(m, D):
                    d = cols[j]
                    put(y, j, times(less(splat(np.float64(X[row, d])), get(mug, d), one), get(rootg, d)))
                for i in range(m):  # L z = -Q_mo y_o
                    v, at_i = splat(0.0), cols[i] * D
                    for j in range(m, D):
                        v = less(v, get(Qg, at_i + cols[j]), get(y, j))
                    for p in range(i):
                        v = less(v, get(L, i * D + p), get(y, p))
                    put(y, i, times(v, get(L, i * D + i)))
                for i in range(m - 1, -1, -1):  # L' f = z
                    v = get(y, i)
                    for p in range(i + 1, m):
                        v = less(v, get(L, p * D + i), get(y, p))
                    put(y, i, times(v, get(L, i * D + i)))
                    put(fills, (start + i) * G + g, times(get(y, i), get(scaleg, cols[i])))
        for row in range(n, last):
            first[row] = e
            for i in range(m):
                at[e] = cols[i] * TILE + row % TILE
                X[row, cols[i]] = T(0)
                e += 1
            at[e] = behind + row % TILE
            e += 1
        n = last
    first[N] = e
    product = products.reshape(products.size)
    for i in range(product.size):
        product[i] = -2 * log(product[i])
    for row in range(N):
        for g in range(G):
            i = (first[row + 1] - 1) * G + g
            put(fills, i, more(get(fills, i), get(products, row * G + g), splat(1.0)))


@kernel("T2 d1 i1 i1 d3 d3w", fastmath={"contract"})
def _spread(r, w, first, at, Q, S2):
    """S2 (G,D D,LANES) += sum_n w r C, C = Q_mm^-1 in the columns of each row's gaps, lower triangle: with M = L^-1,
    C_ij = sum_p M_pi M_pj.   r (N,K), w (N,) or (0,); Q as for `_fill`, which leaves first and at."""
    (N, K), D = r.shape, round(math.sqrt(Q.shape[1]))
    cols, L, R, n = np.empty(D, np.int64), np.empty((D * D, LANES)), np.empty((1, LANES)), 0
    while n < N:
        e, m, last, same = first[n], first[n + 1] - first[n] - 1, n + 1, True
        for i in range(m):
            cols[i] = at[e + i] // TILE
        while last < N and same:
            same = first[last + 1] - first[last] == m + 1
            for i in range(m if same else 0):
                same &= at[first[last] + i] // TILE == cols[i]
            last += same
        for g in range(Q.shape[0]):
            R[:] = 0
            for row in range(n, last):
                weight = w[row] if w.size else 1.0
                for l in range(min(K - g * LANES, LANES)):
                    R[0, l] += weight * r[row, g * LANES + l]
            total, S = get(R, 0), S2[g]
            _factor(Q[g], cols, m, L)
            for j in range(m):  # M in place of L, column by column: M_ij = -M_ii sum_{j<=p<i} L_ip M_pj
                for i in range(j + 1, m):
                    v = splat(0.0)
                    for p in range(j, i):
                        v = less(v, get(L, i * D + p), get(L, p * D + j))
                    put(L, i * D + j, times(v, get(L, i * D + i)))
            for i in range(m):
                for j in range(i + 1):
                    v = splat(0.0)
                    for p in range(i, m):
                        v = more(v, get(L, p * D + i), get(L, p * D + j))
                    at_ij = cols[i] * D + cols[j]
                    put(S, at_ij, more(get(S, at_ij), total, v))
        n = last


@kernel("T2w d2 d2 i1w i1w d2w")
def _fill_diag(X, mu, h, first, at, f):
    """As _fill, of diagonal covariances, but f (.,K) are the means mu (D,K) themselves, and -2 h, the sum of h (D,K) =
    2 log P - log 2pi over the gaps, stands right behind the last column."""
    (N, D), K, T, e = X.shape, f.shape[1], X.dtype.type, 0
    for n in range(N):
        first[n], last = e, e
        for d in range(D):
            last += X[n, d] != X[n, d]
        for k in range(K):
            f[last, k] = 0
        for d in range(D):
            if X[n, d] != X[n, d]:
                X[n, d] = T(0)
                at[e] = d * TILE + n % TILE
                for k in range(K):
                    f[e, k] = mu[d, k]
                    f[last, k] += h[d, k]
                e += 1
        at[e] = D * TILE + n % TILE
        e += 1
    first[N] = e


@kernel("T2 d1 i1 i1 d2w")
def _spread_diag(r, w, first, at, R):
    """R (D,K) += sum_n w r over the rows with a gap in that column.   r (N,K), w (N,) or (0,)"""
    for n in range(len(r)):
        weight = w[n] if w.size else 1.0
        for e in range(first[n], first[n + 1] - 1):
            d = at[e] // TILE
            for k in range(r.shape[1]):
                R[d, k] += weight * r[n, k]


@kernel("d3 d2 i1 i1 i1 d2 T2w")
def _scatter(Q, scale, first, at, z, eps, X):
    """x += L^-T eps in the gaps of each row, L L' = Q_mm of its component z: a filling becomes a draw of covariance C.
    Q (K,D,D) of unit diagonal, scale (K,D) as for `_fill`, which leaves first and at; z (N,), eps and X (N,D)."""
    D, T = X.shape[1], X.dtype.type
    L, u = np.empty((D, D)), np.empty(D)
    for n in range(len(X)):
        k, e, m = z[n], first[n], first[n + 1] - first[n] - 1
        for i in range(m):
            for j in range(i + 1):
                v = Q[k, at[e + i] // TILE, at[e + j] // TILE]
                for p in range(j):
                    v -= L[i, p] * L[j, p]
                L[i, j] = v / L[j, j] if j < i else math.sqrt(max(v, 4e-16))
        for i in range(m - 1, -1, -1):  # L' u = eps
            v = eps[n, i]
            for p in range(i + 1, m):
                v -= L[p, i] * u[p]
            u[i] = v / L[i, i]
            d = at[e + i] // TILE
            X[n, d] += T(u[i] * scale[k, d])


# ---------------------------------------------------------------------------------------- E step of a block of rows
def _padded(P):
    """P (...,D,D) with zeros up to a multiple of 4."""
    D = P.shape[-1]
    Q = (D + 3) // 4 * 4
    out = np.zeros((*P.shape[:-2], Q, Q), P.dtype)
    out[..., :D, :D] = P
    return out


def _lanes(A):
    """A (K,...) as (G,size of ...,LANES) in float64, the last component repeated to fill the lanes."""
    some = np.minimum(np.arange(-(-len(A) // LANES) * LANES), len(A) - 1)
    return np.ascontiguousarray(np.swapaxes(A[some].reshape(len(some) // LANES, LANES, -1), 1, 2), float)


def _parts(S, K, D, shape):
    """S0 (K,), S1 (K,D), S2 and l (1,), views of the flat S; all empty where it is."""
    if S.size == 0:
        return np.empty(0), np.empty((0, 0)), np.empty((0,) * len(shape)), S
    return S[:K], S[K : K + K * D].reshape(K, D), S[K + K * D : -1].reshape(shape), S[-1:]


NO_GAPS = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 0))


def _room(X):
    """first and at for the gaps of X."""
    return np.empty(len(X) + 1, np.int64), np.empty(np.count_nonzero(np.isnan(X)) + len(X), np.int64)


def _full(mu, P, c, gaps):
    """step(X, w, S, log_px, r) adds what some rows give to S and fills in answers; of size 0 what is not wanted."""
    (K, D), padded = mu.shape, _padded(P)

    def step(X, w, S, log_px, r, gaps=NO_GAPS):
        _e_step_full(X, w, mu, padded, c, *gaps, *_parts(S, K, D, (K, D, D)), log_px, r)

    if not gaps:
        return step
    Q, scale = _unit(P)
    lanes = [_lanes(a) for a in (mu, 1 / scale, scale, -2 * np.log(scale) - np.log(2 * np.pi), Q)]
    G = len(lanes[0])

    def fill(X):
        first, at = _room(X)
        f = np.empty((len(at), G, LANES))
        _fill(X, *lanes, first, at, f)
        return first, at, f.reshape(-1, G * LANES)

    def spread(r, w, first, at, S2):
        C = np.zeros(lanes[-1].shape)
        _spread(r, w, first, at, lanes[-1], C)
        S2 += np.swapaxes(C, 1, 2).reshape(-1, D, D)[:K] * scale[:, :, None] * scale[:, None, :]

    return _ByPattern(step, fill, spread, K, D)


def _unit(P):
    """Q = P'P scaled to unit diagonal, (K,D,D), and the scale (K,D), one over the roots of the diagonal."""
    P = P.astype(float)
    Q = np.swapaxes(P, 1, 2) @ P
    scale = 1 / np.sqrt(np.diagonal(Q, axis1=1, axis2=2))
    return Q * scale[:, :, None] * scale[:, None, :], scale


def _tied(mu, P, c, gaps):
    """As _full with one P (D,D), and in S after l the matrix `both` (K,K) of _e_step_tied."""
    (K, D), padded, v = mu.shape, _padded(P), _whitened(mu, P)

    def step(X, w, S, log_px, r):
        both = S[S.size - K * K :].reshape(K, K) if S.size else np.empty((0, 0))
        _e_step_tied(X, w, mu, padded, v, c, *_parts(S[: S.size - both.size], K, D, (D, D)), both, log_px, r)

    if not gaps:
        return step
    full = _full(mu, np.repeat(P[None], K, axis=0), c, True)

    def rest(X, w, S, log_px, r):
        more = np.zeros(K + K * D + K * D * D + 1 if S.size else 0)
        full.rest(X, w, more, log_px, r)
        for part, other in zip(_parts(S[: S.size - K * K], K, D, (D, D)), _parts(more, K, D, (K, D, D))):
            part += other.sum(axis=0) if other.ndim == 3 else other

    step = _ByPattern(step, full.fill, full.spread, K, D)
    step.rest = rest
    return step


def _whitened(mu, P):
    """v_k = P (mu_k - mu_0): (K,D)."""
    return np.einsum("ij,kj->ki", P, mu - mu[0])


def _diag(mu, P, c, gaps):
    """As _full with P (K,D)."""
    K, D = mu.shape

    def step(X, w, S, log_px, r, gaps=NO_GAPS):
        _e_step_diag(X, w, mu, P, c, *gaps, *_parts(S, K, D, (K, D)), log_px, r)

    if not gaps:
        return step
    means, h = (np.ascontiguousarray(a.T, float) for a in (mu, 2 * np.log(P.astype(float)) - np.log(2 * np.pi)))

    def fill(X):
        (first, at) = _room(X)
        f = np.empty((len(at), K))
        _fill_diag(X, means, h, first, at, f)
        return first, at, f

    def spread(r, w, first, at, S2):
        R = np.zeros((D, K))
        _spread_diag(r, w, first, at, R)
        S2[:, :, 0] += R.T / P.astype(float) ** 2

    return _ByPattern(step, fill, spread, K, D)


class _ByPattern:
    """A step for rows of which some have gaps: complete ones take `step`, the others `rest`, sorted by their gaps.

    fill(X) gives first, at and f of rows with gaps; spread(r, w, first, at, S2) adds sum_n w r C to S2."""

    def __init__(self, step, fill, spread, K, D):
        self.step, self.fill, self.spread, self.K, self.D = step, fill, spread, K, D
        self.mark = np.random.default_rng(0).integers(2**63, size=D, dtype=np.uint64)

    def split(self, X):
        """Row numbers: the complete rows, then lists of the others, alike ones together."""
        key = np.empty(len(X), np.int64)
        _patterns(X, self.mark, key)
        n = len(X) - np.count_nonzero(key)
        order = np.argsort(key.astype(np.uint16), kind="stable")
        return order[:n], [order[i : i + MANY] for i in range(n, len(X), MANY)]

    def __call__(self, X, w, S, log_px, r):
        complete, others = self.split(X)
        if not others:
            return self.step(X, w, S, log_px, r)
        for way, some in (self.step, complete), *((self.rest, some) for some in others):
            part = [np.empty((len(some), *a.shape[1:]) if a.size else a.shape, a.dtype) for a in (log_px, r)]
            way(X.take(some, axis=0), w.take(some) if w.size else w, S, *part)
            for whole, answer in zip((log_px, r), part):
                if whole.size:
                    whole[some] = answer

    def rest(self, X, w, S, log_px, r):
        K, D = self.K, self.D
        first, at, _ = gaps = self.fill(X)
        nothing = np.diff(first) == D + 1
        if S.size:
            w = np.where(nothing, 0.0, w if w.size else 1.0) if nothing.any() else w
            r = np.empty((len(X), K), X.dtype)
        self.step(X, w, S, log_px, r, gaps)
        if S.size:
            self.spread(r, w, first, at, S[K + K * D : -1].reshape(K, D, -1))
        log_px[nothing[: log_px.size]] = 0


# ---------------------------------------------------------------------------------------- E step of all, on threads
def gaps(X):
    """What an E step has to know of the gaps in X (N,D), to be made once for all steps: here, that there are some."""
    return True


def bound(S, c):
    """Mean bound per row, l / sum S0, or NaN where a component has collapsed, that is some c_k = -inf.

    S: statistics, flat; c (K,)."""
    W = float(S[: len(c)].sum())
    return float(S[-1]) / W if W > 0 and (c > -np.inf).all() else math.nan


def _rows(cost, least=TILE):
    """Rows of a block, a multiple of TILE: about half a millisecond of work at `cost` multiplications a row."""
    return min(max(16_000_000 // cost, least), 8192) // TILE * TILE


def _accumulate(step, X, w, rows, S):
    """S = sum of what step(X, w, S) adds to zeros for blocks of rows, in order: the same bits for any threads."""
    n_blocks, no_answer = -(-len(X) // rows), (np.empty(0, X.dtype), np.empty((0, 0), X.dtype))
    S[:] = 0
    if n_blocks == 1:
        step(X, w, S, *no_answer)
        return
    wave = min(n_blocks, WAVE, max(4, 2**23 // S.size))
    parts = np.empty((wave, S.size))
    for first in range(0, n_blocks, wave):
        n = min(wave, n_blocks - first)
        parts[:n] = 0

        def run(b):
            at = slice((first + b) * rows, (first + b + 1) * rows)  # noqa: B023
            step(X[at], w[at], parts[b], *no_answer)

        pool.run(run, n)
        for part in parts[:n]:
            S += part


def statistics_full(X, w, mu, P, c, S, gaps=None):
    """S of the module docstring for full covariances.   X (N,D), w (N,) or (0,), mu (K,D), P (K,D,D), c (K,); gaps:
    what `gaps` makes of X when it has NaN. Without it nobody looks for them."""
    K, D = mu.shape
    least = (4 if S.size < 2**18 else 2) * TILE  # more rows pay for the sums, fewer let Ctrl-C through in time
    _accumulate(_full(mu, P, c, gaps), X, w, _rows(K * D * (D + 8), least), S)


def statistics_tied(X, w, mu, P, c, S, gaps=None):
    """As statistics_full, with one P (D,D)."""
    K, D = mu.shape
    more = np.empty(S.size + K * K)
    _accumulate(_tied(mu, P, c, gaps), X, w, _rows(D * (D + 8) + K * (4 * D + K + 8), 2 * TILE), more)
    S[:] = more[: S.size]
    S2, both, means = _parts(S, K, D, (D, D))[2], more[S.size :].reshape(K, K), mu.astype(np.float64)
    for k in range(1, K):
        apart = means[k] - means[:k]
        S2 += np.tril(np.einsum("l,li,lj->ij", both[k, :k], apart, apart))


def statistics_diag(X, w, mu, P, c, S, gaps=None):
    """As statistics_full, with P (K,D), one over the standard deviations."""
    K, D = mu.shape
    _accumulate(_diag(mu, P, c, gaps), X, w, _rows(K * (4 * D + 8)), S)


def _answer(step, X, rows, log_px, labels, r):
    """Answers of blocks of rows; labels (N,) are where r is largest, which is made a block at a time."""

    def run(b):
        at = slice(b * rows, (b + 1) * rows)
        x = X[at]
        part = np.empty((len(x), r.shape[1]), X.dtype) if labels.size else r[at]
        step(x, np.empty(0), np.empty(0), log_px[at], part)
        if labels.size:
            labels[at] = part.argmax(axis=1)
            if r.size:
                r[at] = part

    pool.run(run, -(-len(X) // rows))


def posterior_full(X, mu, P, c, log_px, labels, r, gaps=None):
    """log p(x) to log_px (N,), argmax_k r to labels (N,) int64, responsibilities to r (N,K); (0,), (0,), (0,K) skip.

    With gaps, log p of what was observed: 0 and the weights where that is nothing."""
    K, D = mu.shape
    _answer(_full(mu, P, c, gaps), X, _rows(K * D * (D + 8), 2 * TILE), log_px, labels, r)


def posterior_tied(X, mu, P, c, log_px, labels, r, gaps=None):
    """As posterior_full, with one P (D,D) for all components."""
    K, D = mu.shape
    _answer(_tied(mu, P, c, gaps), X, _rows(D * (D + 8) + K * (2 * D + 8)), log_px, labels, r)


def posterior_diag(X, mu, P, c, log_px, labels, r, gaps=None):
    """As posterior_full, with P (K,D), one over the standard deviations."""
    K, D = mu.shape
    _answer(_diag(mu, P, c, gaps), X, _rows(K * (2 * D + 8)), log_px, labels, r)


# ---------------------------------------------------------------------------------------- gaps filled in
def _impute(step, scatter, mu, base, X, u, eps, out):
    """Blocks of rows: means over components, or a component drawn by u and then what `scatter` adds to its filling.
    base (K,D): what f is to be added to."""
    K, D = mu.shape

    def run(b):
        at = slice(b * MANY, (b + 1) * MANY)
        X_b, u_b, eps_b, out_b = X[at], u[at], eps[at], out[at]
        out_b[:] = X_b
        for some in step.split(X_b)[1]:
            x, r = X_b.take(some, axis=0), np.empty((len(some), K), X.dtype)
            first, cells, f = gaps = step.fill(x)
            step.step(x, np.empty(0), np.empty(0), np.empty(0, X.dtype), r, gaps)
            e = np.flatnonzero(cells < D * TILE)  # without the numbers of h
            n, d = np.repeat(np.arange(len(x)), np.diff(first))[e], cells[e] // TILE
            if eps.size == 0:
                x[n, d] = (r[n] * (base.T[d] + f[e, :K])).sum(axis=1)
            else:
                z = np.minimum((r.cumsum(axis=1) < u_b[some, None]).sum(axis=1), K - 1)
                x[n, d] = base[z[n], d] + f[e, z[n]]
                scatter(first, cells, z, eps_b[some], x)
            out_b[some] = x

    pool.run(run, -(-len(X) // MANY))


def impute_full(X, mu, P, c, u, eps, out):
    """out (N,D): X with its gaps filled, by E[x_m|x_o] = sum_k r_k (mu_k + f_k) where u and eps have size 0, else by a
    draw from p(x_m|x_o) that uniform u (N,) and normal eps (N,D), float64, decide.   mu (K,D), P (K,D,D), c (K,)."""
    Q, scale = _unit(P)
    _impute(_full(mu, P, c, True), functools.partial(_scatter, Q, scale), mu, mu, X, u, eps, out)


def impute_tied(X, mu, P, c, u, eps, out):
    """As impute_full, with one P (D,D)."""
    impute_full(X, mu, np.repeat(P[None], len(mu), axis=0), c, u, eps, out)


def impute_diag(X, mu, P, c, u, eps, out):
    """As impute_full, with P (K,D)."""

    def scatter(first, cells, z, eps, x):
        e = np.flatnonzero(cells < mu.shape[1] * TILE)
        n, d = np.repeat(np.arange(len(x)), np.diff(first))[e], cells[e] // TILE
        x[n, d] += eps[n, d] / P[z[n], d]

    _impute(_diag(mu, P, c, True), scatter, mu, np.zeros_like(mu), X, u, eps, out)


# ---------------------------------------------------------------------------------------- M step, always float64
EMPTY = 2.3e-16  # of the whole weight: a component with less has none


@kernel("T1 T2 T1 T1 i i T1w T2w T3w T3w T3w T1w")
def _maximise_matrices(S, mu, R, least, lo, hi, pi, new, Sigma, L, P, c):
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
            sound &= a * a * least[i] <= 1
            for j in range(i + 1):
                P[g, i, j] *= a
                v -= 0.5 * R[j] * P[g, i, j] * P[g, i, j]
        for k in range(first, last):
            c[k] = math.log(pi[k]) + v if sound and S[k] > EMPTY * W else -math.inf


def maximise_full(S, mu, R, least, pi, new, Sigma, P, c):
    """M step from S (module docstring) about mu (K,D), R (D,), least (D,), all float64. With delta_k = S1_k / S0_k,

        pi_k = S0_k / W,   new_k = mu_k + delta_k,   Sigma_k = S2_k / S0_k - delta_k delta_k' + R,
        P_k inverse Cholesky factor of Sigma_k,      c_k of the module docstring.

    -> pi (K,), new (K,D), Sigma (K,D,D), P (K,D,D), c (K,). c_k = -inf says that component k has no weight, or no
    positive definite covariance, or in some column, given those before it, a variance below `least`.
    Bishop 2006, eq. 9.24-9.26."""
    K, L = len(Sigma), np.empty_like(Sigma)
    n = K if mu.shape[1] >= 32 else 1  # blocks of one component when there is work for it

    def block(b):
        _maximise_matrices(S, mu, R, least, b * K // n, (b + 1) * K // n, pi, new, Sigma, L, P, c)

    pool.run(block, n)


def maximise_tied(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_full, with one P (D,D) and one Sigma (D,D) = (S2 - sum_k S0_k delta_k delta_k') / W + R."""
    _maximise_matrices(S, mu, R, least, 0, 1, pi, new, Sigma[None], np.empty_like(Sigma)[None], P[None], c)


@kernel("T1 T2 T1 T1 i T1w T2w T2w T2w T1w")
def _maximise_variances(S, mu, R, least, average, pi, new, Sigma, P, c):
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
            if v > 0 and v >= least[d] and S[k] > EMPTY * W:
                P[k, d] = 1 / math.sqrt(v)
                c[k] += math.log(P[k, d]) - 0.5 * R[d] / v
            else:
                P[k, d] = 0.0
                c[k] = -math.inf


def maximise_diag(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_full, with variances Sigma (K,D) = S2_kd / S0_k - delta_kd² + R_d, and P (K,D) one over roots."""
    _maximise_variances(S, mu, R, least, 0, pi, new, Sigma, P, c)


def maximise_spherical(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_diag, each component's variances replaced by their mean."""
    _maximise_variances(S, mu, R, least, 1, pi, new, Sigma, P, c)


# ---------------------------------------------------------------------------------------- starts, samples
@kernel("T2 T2 T1 i i T2w", fastmath=FAST)
def _squared_distances(X, Z, s, lo, hi, d2):
    for n in range(lo, hi):
        x, T = X[n], X.dtype.type
        for l in range(Z.shape[0]):
            z, v, seen = Z[l], T(0), T(0)
            for d in range(x.size):
                u = (x[d] - z[d]) * s[d]
                v += u * u if u == u else T(0)
                seen += T(1) if u == u else T(0)
            d2[l, n] = v * (T(x.size) / seen) if seen > 0 else T(0)


def squared_distances(X, Z, s, d2):
    """d2[l,n] = sum_d ((x_nd - z_ld) s_d)².   X (N,D), Z (L,D), s (D,)  ->  d2 (L,N).

    Of a row with gaps (NaN), D times the mean over what was observed; 0 where that is nothing."""
    rows = _rows(len(s) * len(Z) * 4)
    pool.run(lambda b: _squared_distances(X, Z, s, b * rows, min(len(X), (b + 1) * rows), d2), -(-len(X) // rows))


squared_distances.block = _squared_distances  # the serial kernel of rows lo .. hi, for use in other jitted code


def sample(mu, V, z, eps, X):
    """x_n = mu_z + V_z eps_n, V V' = Sigma.   mu (K,D), V (K,D,D), (1,D,D), or the diagonals (K,1,D), z (N,) int64,
    eps (N,D) -> X (N,D); all float64."""
    for k in range(len(mu)):
        rows, A = np.flatnonzero(z == k), V[min(k, len(V) - 1)]
        X[rows] = mu[k] + (eps[rows] @ A.T if len(A) > 1 else eps[rows] * A)
