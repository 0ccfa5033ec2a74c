"""Distributions that base noise is made into, on the CPU: samples, log-densities, and slopes in their parameters.

    product     z_d = loc_d + scale_d t_d, columns independent (shared/distributions.py)
    full        z = mu + L eps, L lower triangular. With e = L^-1 (z - mu), y = L^-T e:  dlog q/dz = -y,
                dlog q/dmu = y, dlog q/dL = y e' - diag 1/L_ii;   at fixed eps dz/dmu = I, dz_i/dL_ij = e_j
    mixture     sum_k w_k prod_d N(z_d | m_kd, s_kd²), w = softmax(logits), t_kd = (z_d - m_kd)/s_kd. With r_k = p(k|z)
                dlog q/dlogit_k = r_k - w_k, dlog q/dm_kd = r_k t_kd/s_kd, dlog q/dlog s_kd = r_k (t_kd² - 1)

The coordinates are unconstrained, P in all, in this order: loc, log scale, or log scale, log shape (P = 2D; exponential
log scale alone, P = D); mu, L row by row up to its diagonal, of which the log is taken (D + D(D+1)/2); logits, m, log s
(K + 2KD). Of a mixture z moves with them as its distribution functions have it (implicit reparameterisation, Graves
2016): F_d(z_d | z_<d) = sum_k w_kd Phi(t_kd), w_kd ~ w_k prod_{j<d} N(z_j | k), is uniform noise, and stays. So
slopes h in z become -y' dF, J' y = h, J = dF/dz lower triangular. With n_kd = N(z_d | m_kd, s_kd²), c_kd = w_kd
(Phi(t_kd) - F_d) and A_kd = sum_{e>d} y_e c_ke, d from the last column to the first,
    y_d = (h_d + sum_k A_kd t_kd/s_kd) / sum_k w_kd n_kd
    in logits: -A_k before the first column             in m_kd: y_d w_kd n_kd - A_kd t_kd/s_kd
    in log s_kd: y_d w_kd n_kd (z_d - m_kd) - A_kd (t_kd² - 1)

Letters: n samples, D columns, K components; kind, a place in KINDS, and its table: (D,4), loc, scale, log scale, and
shape, or end of the uniform; (D+1,D), mu and L; (K,2D+2), log w, sum of log s, m, s. All arrays of a call have one
dtype.
"""

import functools
import math

import numpy as np
from numba.extending import register_jitable

from .. import pool
from ..jit import FAST, kernel
from ..shared.distributions import EXPONENTIAL, FULL, KINDS, MIXTURE, WEIBULL, sample, standard, upper, weibull
from ..shared.distributions import log_density as density
from ..shared.scalar import exp, log, ratio

__all__ = ["KINDS", "coordinates", "place", "slopes"]

TILE = 128  # samples side by side: what is kept of them fits a cache
WORK = 1 << 16  # numbers that a thread takes at a time

# inlined always: else code from the cache and code compiled here would differ in what they inline, and in last bits
piece = register_jitable(fastmath=FAST, forceinline=True)


def coordinates(kind, table):
    """P, how many coordinates there are, of a kind with this table."""
    rows, width = table.shape
    if kind == FULL:
        return width + width * (width + 1) // 2
    return rows * (width - 1 if kind == MIXTURE else 1 if kind == EXPONENTIAL else 2)


def room(kind, table):
    """Rows of scratch (.,TILE) that a tile takes."""
    rows, width = table.shape
    return width if kind == FULL else rows * (width - 1) if kind == MIXTURE else 1


# --------------------------------------------------------------- n samples side by side: z[d, first:first + n], rows d
def _product(kind):
    """Of columns of their own; a set of loops for each kind, so that they vectorise."""

    @piece
    def place(table, noise, first, n, X):
        for d in range(len(table)):
            loc, scale, shape = table[d, 0], table[d, 1], table[d, 3]
            u, z = noise[d, first : first + n], X[d, first : first + n]
            for i in range(n):
                z[i] = sample(kind, u[i], loc, scale, shape)

    @piece
    def log_density(table, X, first, n, lq, a):
        for i in range(n):
            lq[i] = type(lq[0])(0)
        for d in range(len(table)):
            loc, scale, log_scale, shape, z = (
                table[d, 0],
                table[d, 1],
                table[d, 2],
                table[d, 3],
                X[d, first : first + n],
            )
            for i in range(n):
                lq[i] += density(kind, z[i], loc, scale, log_scale, shape)

    @piece
    def slopes(table, X, first, n, lq, a, dz, s):
        D = len(table)
        for d in range(D):
            loc, scale, z, g = table[d, 0], table[d, 1], X[d, first : first + n], dz[d]
            s0, s1 = s[d], s[d if kind == EXPONENTIAL else D + d]
            T = type(loc)
            f = T(1) / scale
            for i in range(n):
                if kind == WEIBULL:
                    _, g[i], s0[i], s1[i], _ = weibull(z[i], scale, table[d, 2], table[d, 3])
                else:
                    t = (z[i] - loc) * f
                    psi = standard(kind, t)[1]
                    g[i] = psi * f
                    s0[i] = -psi * f
                    s1[i] = -psi * t - T(1)  # of the exponential, in place of the line before

    @piece
    def pull(table, X, first, n, a, h, p):
        D = len(table)
        for d in range(D):
            loc, scale, z, g = table[d, 0], table[d, 1], X[d, first : first + n], h[d]
            p0, p1 = p[d], p[d if kind == EXPONENTIAL else D + d]
            for i in range(n):
                if kind == WEIBULL:
                    p0[i] = g[i] * z[i]
                    p1[i] = -g[i] * z[i] * weibull(z[i], scale, table[d, 2], table[d, 3])[4]
                else:
                    p0[i] = g[i]
                    p1[i] = g[i] * (z[i] - loc)

    return place, log_density, slopes, pull


def _full():
    """Of a full covariance."""

    @piece
    def place(table, noise, first, n, X):
        D = table.shape[1]
        for d in range(D):
            z, L = X[d, first : first + n], table[1 + d]
            for i in range(n):
                z[i] = table[0, d]
            for j in range(d + 1):
                u = noise[j, first : first + n]
                for i in range(n):
                    z[i] += L[j] * u[i]

    @piece
    def _whiten(table, X, first, n, a):  # e into a (D,n)
        D = table.shape[1]
        for d in range(D):
            z, e, L = X[d, first : first + n], a[d], table[1 + d]
            for i in range(n):
                e[i] = z[i] - table[0, d]
            for j in range(d):
                v = a[j]
                for i in range(n):
                    e[i] -= L[j] * v[i]
            f = type(L[d])(1) / L[d]
            for i in range(n):
                e[i] *= f

    @piece
    def log_density(table, X, first, n, lq, a):
        D = table.shape[1]
        _whiten(table, X, first, n, a)
        T = type(lq[0])
        for i in range(n):
            lq[i] = T(0)
        for d in range(D):
            e, constant = a[d], log(table[1 + d, d]) + T(0.5 * math.log(2 * math.pi))
            for i in range(n):
                lq[i] -= T(0.5) * e[i] * e[i] + constant

    @piece
    def slopes(table, X, first, n, lq, a, dz, s):
        D = table.shape[1]
        T = type(lq[0])
        for r in range(D):
            d = D - 1 - r
            y, e = s[d], a[d]
            for i in range(n):
                y[i] = e[i]
            for j in range(d + 1, D):
                v, l = s[j], table[1 + j, d]
                for i in range(n):
                    y[i] -= l * v[i]
            f = T(1) / table[1 + d, d]
            g = dz[d]
            for i in range(n):
                y[i] *= f
                g[i] = -y[i]
        at = D
        for d in range(D):
            y = s[d]
            for j in range(d + 1):
                e, out, l = a[j], s[at], table[1 + d, d]
                at += 1
                if j < d:
                    for i in range(n):
                        out[i] = y[i] * e[i]
                else:
                    for i in range(n):
                        out[i] = y[i] * e[i] * l - T(1)

    @piece
    def pull(table, X, first, n, a, h, p):
        D = table.shape[1]
        _whiten(table, X, first, n, a)
        at = D
        for d in range(D):
            g, mean = h[d], p[d]
            for i in range(n):
                mean[i] = g[i]
            for j in range(d + 1):
                e, out, l = a[j], p[at], table[1 + d, d] if j == d else type(table[0, 0])(1)
                at += 1
                for i in range(n):
                    out[i] = g[i] * e[i] * l

    return place, log_density, slopes, pull


def _mixture():
    """Of normal components."""

    @piece
    def place(table, noise, first, n, X):
        K, D = len(table), (table.shape[1] - 2) // 2
        for i in range(first, first + n):
            k, below = 0, exp(table[0, 0])
            while k < K - 1 and noise[0, i] > below:
                k += 1
                below += exp(table[k, 0])
            for d in range(D):
                X[d, i] = table[k, 2 + d] + table[k, 2 + D + d] * noise[1 + d, i]

    @piece
    def log_density(table, X, first, n, lq, a):  # log w_k N(z | k) into a (K,n)
        K, D = len(table), (table.shape[1] - 2) // 2
        T = type(lq[0])
        for k in range(K):
            b, constant = a[k], table[k, 0] - table[k, 1] - T(0.5 * math.log(2 * math.pi)) * T(D)
            for i in range(n):
                b[i] = constant
            for d in range(D):
                z, m, f = X[d, first : first + n], table[k, 2 + d], T(1) / table[k, 2 + D + d]
                for i in range(n):
                    t = (z[i] - m) * f
                    b[i] -= T(0.5) * t * t
        _sum_of_exp(a, 0, K, n, lq)

    @piece
    def _sum_of_exp(a, at, K, n, out):  # log sum_k e^a[at + k]
        T = type(out[0])
        for i in range(n):
            top = a[at, i]
            for k in range(1, K):
                top = max(top, a[at + k, i])
            total = T(0)
            for k in range(K):
                total += exp(a[at + k, i] - top)
            out[i] = top + log(total) if top > T(-math.inf) else top

    @piece
    def slopes(table, X, first, n, lq, a, dz, s):
        K, D = len(table), (table.shape[1] - 2) // 2
        T = type(lq[0])
        for d in range(D):
            g = dz[d]
            for i in range(n):
                g[i] = T(0)
        for k in range(K):
            r, w, out = a[k], exp(table[k, 0]), s[k]
            for i in range(n):
                r[i] = exp(r[i] - lq[i]) if lq[i] > T(-math.inf) else T(0)
                out[i] = r[i] - w
            for d in range(D):
                z, m, f, g = X[d, first : first + n], table[k, 2 + d], T(1) / table[k, 2 + D + d], dz[d]
                s0, s1 = s[K + k * D + d], s[K + K * D + k * D + d]
                for i in range(n):
                    t = (z[i] - m) * f
                    v = r[i] * t if r[i] > T(0) else T(0)
                    s0[i] = v * f
                    s1[i] = (v * t if r[i] > T(0) else T(0)) - r[i]
                    g[i] -= v * f

    @piece
    def pull(table, X, first, n, a, h, p):
        # a: log weights (K,n), then for each d, k: w_kd n_kd, then c_kd; t from z again
        K, D = len(table), (table.shape[1] - 2) // 2
        T = type(table[0, 0])
        for i in range(n):
            for k in range(K):
                a[k, i] = table[k, 0]
            for d in range(D):
                z = X[d, first + i]
                top = a[0, i]
                for k in range(1, K):
                    top = max(top, a[k, i])
                total = T(0)
                for k in range(K):
                    total += exp(a[k, i] - top)
                below, above = T(0), T(0)
                for k in range(K):
                    t = (z - table[k, 2 + d]) / table[k, 2 + D + d]
                    w = exp(a[k, i] - top) / total
                    below += w * upper(-t)
                    above += w * upper(t)
                for k in range(K):
                    scale = table[k, 2 + D + d]
                    t = (z - table[k, 2 + d]) / scale
                    w = exp(a[k, i] - top) / total
                    l = T(-0.5) * t * t - T(0.5 * math.log(2 * math.pi)) - log(scale)
                    a[K + 2 * (d * K + k), i] = w * exp(l)
                    # of the smaller tail, where nothing cancels
                    a[K + 2 * (d * K + k) + 1, i] = w * (upper(-t) - below if below < above else above - upper(t))
                    a[k, i] += l
            for k in range(K):
                p[k, i] = T(0)  # A_k, until it is minus the slope
            for r in range(D):
                d = D - 1 - r
                z, y, density = X[d, first + i], h[d, i], T(0)
                for k in range(K):
                    scale = table[k, 2 + D + d]
                    y += ratio(ratio(p[k, i] * (z - table[k, 2 + d]), scale), scale)
                    density += a[K + 2 * (d * K + k), i]
                y /= density
                for k in range(K):
                    scale = table[k, 2 + D + d]
                    t = ratio(z - table[k, 2 + d], scale)
                    n_k = a[K + 2 * (d * K + k), i]
                    p[K + k * D + d, i] = y * n_k - ratio(ratio(p[k, i] * (z - table[k, 2 + d]), scale), scale)
                    far = p[k, i] * (t * t - T(1)) if abs(p[k, i]) > T(0) else T(0)  # t² may be infinite
                    p[K + K * D + k * D + d, i] = (y * n_k * (z - table[k, 2 + d]) if n_k > T(0) else T(0)) - far
                    p[k, i] += y * a[K + 2 * (d * K + k) + 1, i]
            for k in range(K):
                p[k, i] = -p[k, i]

    return place, log_density, slopes, pull


@functools.cache
def pieces(kind):
    """place, log_density, slopes, pull of a kind: functions for other jitted code, on samples side by side.

    place(table, noise (R,.), first, n, X (D,.))               X from noise
    log_density(table, X, first, n, lq, a)                     log q into lq (n,); a (room,n) is scratch
    slopes(table, X, first, n, lq, a, dz, s)                   after it, with its lq and a: dz (D,n), s (P,n)
    pull(table, X, first, n, a, h, p)                          h (D,n), slopes in z, become p (P,n); a is scratch"""
    return _full() if kind == FULL else _mixture() if kind == MIXTURE else _product(kind)


# ------------------------------------------------------------------------------------------------- rows of samples
@functools.cache
def _placer(kind):
    place, _, _, _ = pieces(kind)

    @kernel("T2 T2 T2w", fastmath=FAST)
    def run(table, noise, Z):
        (N, R), D = noise.shape, Z.shape[1]
        u, z = np.zeros((R, TILE), Z.dtype), np.empty((D, TILE), Z.dtype)
        for first in range(0, N, TILE):
            n = min(TILE, N - first)
            for j in range(n):
                for d in range(R):
                    u[d, j] = noise[first + j, d]
            place(table, u, 0, TILE, z)  # of all, so that a sample does not depend on how many there are
            for j in range(n):
                for d in range(D):
                    Z[first + j, d] = z[d, j]

    return run


def place(kind, table, noise, Z):
    """Z (N,D), samples, from noise (N,R): uniform, or standard normal for "normal" and "full", R = D; a mixture's first
    column is uniform and picks a component, its others are normal, R = D + 1."""
    size = max(WORK // Z.shape[1], 1)

    def block(b):
        i = slice(b * size, (b + 1) * size)
        _placer(kind)(table, noise[i], Z[i])

    pool.run(block, -(-len(Z) // size))


@functools.cache
def _sloper(kind):
    _, log_density, inner, pull = pieces(kind)

    @kernel("T2 i i T2 T2 T1w T2w T2w T2w", fastmath=FAST)
    def run(table, P, R, Z, G, log_q, gz, gp, pulled):
        N, D = Z.shape
        z, dz, lq = np.empty((D, TILE), Z.dtype), np.empty((D, TILE), Z.dtype), np.empty(TILE, Z.dtype)
        s, a = np.empty((P, TILE), Z.dtype), np.empty((R, TILE), Z.dtype)
        for first in range(0, N, TILE):
            n = min(TILE, N - first)
            for j in range(n):
                for d in range(D):
                    z[d, j] = Z[first + j, d]
            if len(log_q):
                log_density(table, z, 0, n, lq, a)
                for j in range(n):
                    log_q[first + j] = lq[j]
            if len(gz):
                inner(table, z, 0, n, lq, a, dz, s)
                for j in range(n):
                    for d in range(D):
                        gz[first + j, d] = dz[d, j]
                    for d in range(P):
                        gp[first + j, d] = s[d, j]
            if len(G):
                for j in range(n):
                    for d in range(D):
                        dz[d, j] = G[first + j, d]
                pull(table, z, 0, n, a, dz, s)
                for j in range(n):
                    for d in range(P):
                        pulled[first + j, d] = s[d, j]

    return run


def slopes(kind, table, Z, G, log_q, gz, gp, pulled):
    """At Z (N,D): log q (N,), its slopes in z, gz (N,D), and in the coordinates at fixed z, gp (N,P); and pulled (N,P),
    what slopes G (N,D) in z are in the coordinates at fixed noise.

    Arrays with no rows leave that part out: log_q (and then gz, gp too), gz and gp, G and pulled."""
    P, R, size = coordinates(kind, table), room(kind, table), max(WORK // Z.shape[1], 1)
    run = _sloper(kind)

    def block(b):
        i = slice(b * size, (b + 1) * size)
        run(table, P, R, Z[i], G[i], log_q[i], gz[i], gp[i], pulled[i])

    pool.run(block, -(-len(Z) // size))
