"""Estimators of the gradient of E_q[log p(z) - log q(z)] in q's coordinates, on the CPU: sums over samples.

With f = log p(z) - log q(z), s the slopes of log q in the coordinates at fixed z, and p those of f, through z alone, at
fixed noise, the gradient is the mean of each of (kernels/cpu/distributions.py has s and p for each kind of q)

    score               s f                 log-derivative trick (Glynn 1990; Williams 1992)
    score_minus_one     s (f - 1)           with the slope of -log q itself, whose mean is 0
    leave_one_out       s (f - f'), f' the mean of f over the other samples (Salimans & Knowles 2014; Kool et al. 2019)
    control_variate     s_j (f - c_j), c_j = E[s_j² f] / E[s_j²] from other samples (Ranganath, Gerrish & Blei 2014)
    reparameterisation  p - s               (Kingma & Welling 2014)
    path                p, as E[s] = 0      0 for each sample where q is the posterior (Roeder, Wu & Duvenaud 2017)
    square, square_f    s², s² f            what c is made of
"""

import functools

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared.gradients import CONTROL, ESTIMATORS, LEAVE_ONE_OUT, MINUS_ONE, PATH, REPARAMETERISATION, SQUARE, SQUARE_F
from .distributions import TILE, coordinates, pieces, room

__all__ = ["ESTIMATORS", "draw", "each", "moments"]


def each(block, n_blocks):
    """Call block(b) for every b below n_blocks, on threads."""
    pool.run(block, n_blocks)


@functools.cache
def _drawer(kind):
    place = pieces(kind)[0]

    @kernel("T2 T2 T2w T2w", fastmath=FAST)
    def run(table, noise, X, Z):
        D, N = X.shape
        for first in range(0, N, TILE):
            n = min(TILE, N - first)
            place(table, noise, first, n, X)
            for j in range(first, first + n):
                for d in range(D):
                    Z[j, d] = X[d, j]

    return run


def draw(kind, table, noise, X, Z):
    """Samples, as X (D,N) and as Z (N,D), of noise (R,N): `place` of distributions.py, in one block."""
    _drawer(kind)(table, noise, X, Z)


@functools.cache
def _summer(kind):
    _, log_density, slopes, pull = pieces(kind)

    @kernel("T2 i i T2 T1 T2 i1 T1 d1w d2w d2w", fastmath=FAST)
    def run(table, P, R, X, log_p, G, which, c, value, mean, M2):
        D, N = X.shape
        T = X.dtype.type
        f, lq, v, w = np.empty(N, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype), np.empty(TILE, X.dtype)
        dz, h, a = np.empty((D, TILE), X.dtype), np.empty((D, TILE), X.dtype), np.empty((R, TILE), X.dtype)
        s, p = np.empty((P, TILE), X.dtype), np.empty((P, TILE), X.dtype)
        total = 0.0
        for first in range(0, N, TILE):
            n = min(TILE, N - first)
            log_density(table, X, first, n, lq, a)
            for i in range(n):
                f[first + i] = log_p[first + i] - lq[i]
        for i in range(N):  # a loop that also writes has two versions, of which memory decides which one runs
            total += f[i]
        centre = T(total / N)
        square, total = 0.0, 0.0
        for i in range(N):
            d = f[i] - centre
            total += d
            square += d * d
        value[0], value[1] = centre + total / N, max(square - total * total / N, 0.0)
        for e in range(len(which)):
            for j in range(P):
                mean[e, j], M2[e, j] = 0.0, 0.0

        for first in range(0, N, TILE):
            n = min(TILE, N - first)
            some = f[first : first + n]
            log_density(table, X, first, n, lq, a)
            slopes(table, X, first, n, lq, a, dz, s)
            if len(G):
                for i in range(n):
                    for d in range(D):
                        h[d, i] = G[first + i, d]
                for d in range(D):
                    hd, dzd = h[d], dz[d]
                    for i in range(n):
                        hd[i] -= dzd[i]
                pull(table, X, first, n, a, h, p)
            for e in range(len(which)):
                kind_e = which[e]
                for i in range(n):
                    w[i] = some[i]
                if kind_e == MINUS_ONE:
                    for i in range(n):
                        w[i] -= T(1)
                elif kind_e == LEAVE_ONE_OUT:
                    for i in range(n):
                        w[i] = (w[i] - T(value[0])) * (T(N) / T(N - 1))
                for j in range(P):
                    sj, pj = s[j], p[j]
                    if kind_e == REPARAMETERISATION:
                        for i in range(n):
                            v[i] = pj[i] - sj[i]
                    elif kind_e == PATH:
                        for i in range(n):
                            v[i] = pj[i]
                    elif kind_e == SQUARE:
                        for i in range(n):
                            v[i] = sj[i] * sj[i]
                    elif kind_e == SQUARE_F:
                        for i in range(n):
                            v[i] = sj[i] * sj[i] * w[i]
                    else:
                        cj = c[j] if kind_e == CONTROL else T(0)
                        for i in range(n):
                            v[i] = sj[i] * (w[i] - cj)
                    origin, s1, s2 = v[0], T(0), T(0)  # about a sample: of numbers that are alike nothing cancels
                    for i in range(n):
                        d = v[i] - origin
                        s1 += d
                        s2 += d * d
                    here = float(s1) / n
                    away = origin + here - mean[e, j]  # the mean of all from that of the parts: Chan et al. 1983
                    mean[e, j] += away * (n / (first + n))
                    M2[e, j] += max(float(s2) - s1 * here, 0.0) + away * away * (first * (n / (first + n)))

    return run


def moments(kind, table, X, log_p, G, which, c, value, mean, M2):
    """Means over the samples X (D,N), and sums of squares about them: of f, in value (2,), and of what the estimators
    `which` (E,), places in ESTIMATORS, add up, in mean and M2 (E,P); these three are float64.

    log_p (N,) and its slopes in z, G (N,D), or (0,D) where none of `which` needs them; c (P,), of "control_variate".
    N >= 2 for "leave_one_out". In one block."""
    _summer(kind)(table, coordinates(kind, table), room(kind, table), X, log_p, G, which, c, value, mean, M2)
