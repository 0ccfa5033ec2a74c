"""Distributions that base noise is made into, on CUDA: twins of lvm.kernels.cpu.distributions, whose docstring has the
equations and the letters.

    place, slopes     a thread for each sample, which keeps what it works with in a column of its own in global memory:
                      neighbours in a warp have neighbours there. Rows of samples are turned into columns, and back

The products share their kernels, which are told the kind at each launch: all threads take the same branch, and three
families have to be compiled in place of ten.
"""

import math

import numpy as np
from numba.extending import register_jitable

from ..shared.distributions import EXPONENTIAL, FULL, KINDS, MIXTURE, WEIBULL, sample, standard, upper, weibull
from ..shared.distributions import log_density as density
from ..shared.scalar import exp, log
from .api import cuda, empty, kernel
from .flow import HALF_LOG_2PI
from .ppca import THREADS, _by_number

__all__ = ["KINDS", "coordinates", "place", "slopes"]

SAMPLES = 128  # threads of a block that has one for each sample, with much to do
uint32 = np.uint32  # of an index: numba need not see to its being negative

piece = register_jitable(forceinline=True)  # no flags: with any, numba-cuda divides float32 approximately


def coordinates(kind, table):
    """P, how many coordinates there are, of a kind with this table."""
    rows, width = table.shape
    if kind == FULL:
        return width + width * (width + 1) // 2
    return rows * (width - 1 if kind == MIXTURE else 1 if kind == EXPONENTIAL else 2)


def room(kind, table):
    """Rows of scratch (.,n) that n samples take."""
    rows, width = table.shape
    return width if kind == FULL else rows * (width - 1) if kind == MIXTURE else 0


# ---------------------------------------------------------------------------------------- one sample: column i of each
def _product():
    """Of columns of their own."""

    @piece
    def place(kind, table, noise, i, X):
        for d in range(table.shape[0]):
            X[d, i] = sample(kind, noise[d, i], table[d, 0], table[d, 1], table[d, 3])

    @piece
    def log_density(kind, table, X, i, a):
        lq = type(table[0, 0])(0)
        for d in range(table.shape[0]):
            lq += density(kind, X[d, i], table[d, 0], table[d, 1], table[d, 2], table[d, 3])
        return lq

    @piece
    def slopes(kind, table, X, i, lq, a, dz, s):
        D = table.shape[0]
        for d in range(D):
            z, loc, scale, log_scale = X[d, i], table[d, 0], table[d, 1], table[d, 2]
            T = type(z)
            if kind == WEIBULL:
                _, dz[d, i], s[d, i], s[D + d, i], _ = weibull(z, scale, log_scale, table[d, 3])
            else:
                f = T(1) / scale
                t = (z - loc) * f
                psi = standard(kind, t)[1]
                dz[d, i] = psi * f
                if kind != EXPONENTIAL:
                    s[d, i] = -psi * f
                s[d if kind == EXPONENTIAL else D + d, i] = -psi * t - T(1)

    @piece
    def pull(kind, table, X, i, a, G, dz, p):
        D = table.shape[0]
        for d in range(D):
            z, h = X[d, i], G[i, d] - dz[d, i] if dz.shape[0] > 0 else G[i, d]
            if kind == WEIBULL:
                p[d, i] = h * z
                p[D + d, i] = -h * z * weibull(z, table[d, 1], table[d, 2], table[d, 3])[4]
            else:
                if kind != EXPONENTIAL:
                    p[d, i] = h
                p[d if kind == EXPONENTIAL else D + d, i] = h * (z - table[d, 0])

    return place, log_density, slopes, pull


def _full():
    """Of a full covariance."""

    @piece
    def place(kind, table, noise, i, X):
        for d in range(table.shape[1]):
            z = table[0, d]
            for j in range(d + 1):
                z += table[1 + d, j] * noise[j, i]
            X[d, i] = z

    @piece
    def log_density(kind, table, X, i, a):  # e into a (D,n)
        T, D = type(table[0, 0]), table.shape[1]
        lq = T(0)
        for d in range(D):
            e = X[d, i] - table[0, d]
            for j in range(d):
                e -= table[1 + d, j] * a[j, i]
            e *= T(1) / table[1 + d, d]
            a[d, i] = e
            lq -= T(0.5) * e * e + (log(table[1 + d, d]) + T(HALF_LOG_2PI))
        return lq

    @piece
    def slopes(kind, table, X, i, lq, a, dz, s):
        T, D = type(lq), table.shape[1]
        for r in range(D):
            d = D - 1 - r
            y = a[d, i]
            for j in range(d + 1, D):
                y -= table[1 + j, d] * s[j, i]
            y *= T(1) / table[1 + d, d]
            s[d, i], dz[d, i] = y, -y
        at = D
        for d in range(D):
            y = s[d, i]
            for j in range(d):
                s[at + j, i] = y * a[j, i]
            s[at + d, i] = y * a[d, i] * table[1 + d, d] - T(1)
            at += d + 1

    @piece
    def pull(kind, table, X, i, a, G, dz, p):
        D = table.shape[1]
        log_density(kind, table, X, i, a)
        at = D
        for d in range(D):
            h = G[i, d] - dz[d, i] if dz.shape[0] > 0 else G[i, d]
            p[d, i] = h
            for j in range(d):
                p[at + j, i] = h * a[j, i]
            p[at + d, i] = h * a[d, i] * table[1 + d, d]
            at += d + 1

    return place, log_density, slopes, pull


def _mixture():
    """Of normal components."""

    @piece
    def place(kind, table, noise, i, X):
        K, D = table.shape[0], (table.shape[1] - 2) >> 1
        k, below = 0, exp(table[0, 0])
        while k < K - 1 and noise[0, i] > below:
            k += 1
            below += exp(table[k, 0])
        for d in range(D):
            X[d, i] = table[k, 2 + d] + table[k, 2 + D + d] * noise[1 + d, i]

    @piece
    def _largest(a, K, i):
        top = a[0, i]
        for k in range(1, K):
            top = max(top, a[k, i])
        return top

    @piece
    def _sum_of_exp(a, K, i, top):
        total = type(top)(0)
        for k in range(K):
            total += exp(a[k, i] - top)
        return total

    @piece
    def log_density(kind, table, X, i, a):  # log w_k N(z | k) into a (K,n)
        T, K, D = type(table[0, 0]), table.shape[0], (table.shape[1] - 2) >> 1
        for k in range(K):
            b = table[k, 0] - table[k, 1] - T(HALF_LOG_2PI) * T(D)
            for d in range(D):
                t = (X[d, i] - table[k, 2 + d]) * (T(1) / table[k, 2 + D + d])
                b -= T(0.5) * t * t
            a[k, i] = b
        top = _largest(a, K, i)
        return top + log(_sum_of_exp(a, K, i, top)) if top > T(-math.inf) else top

    @piece
    def slopes(kind, table, X, i, lq, a, dz, s):
        T, K, D = type(lq), table.shape[0], (table.shape[1] - 2) >> 1
        for d in range(D):
            dz[d, i] = T(0)
        for k in range(K):
            r = exp(a[k, i] - lq) if lq > T(-math.inf) else T(0)
            s[k, i] = r - exp(table[k, 0])
            for d in range(D):
                f = T(1) / table[k, 2 + D + d]
                t = (X[d, i] - table[k, 2 + d]) * f
                v = r * t if r > T(0) else T(0)
                s[K + k * D + d, i] = v * f
                s[K + K * D + k * D + d, i] = (v * t if r > T(0) else T(0)) - r
                dz[d, i] -= v * f

    @piece
    def pull(kind, table, X, i, a, G, dz, p):
        # a: log weights (K,n), then for each d, k: w_kd n_kd, then c_kd; t from z again
        T, K, D = type(table[0, 0]), table.shape[0], (table.shape[1] - 2) >> 1
        for k in range(K):
            a[k, i] = table[k, 0]
        for d in range(D):
            z = X[d, i]
            top = _largest(a, K, i)
            total = _sum_of_exp(a, K, i, top)
            below, above = T(0), T(0)
            for k in range(K):
                t, at = (z - table[k, 2 + d]) / table[k, 2 + D + d], K + 2 * (d * K + k)
                w = exp(a[k, i] - top) / total
                # in float64: the float32 erfc of CUDA divides approximately
                a[at, i], a[at + 1, i] = T(upper(np.float64(-t))), T(upper(np.float64(t)))
                below += w * a[at, i]
                above += w * a[at + 1, i]
            for k in range(K):
                scale, at = table[k, 2 + D + d], K + 2 * (d * K + k)
                t = (z - table[k, 2 + d]) / scale
                w = exp(a[k, i] - top) / total
                l = T(-0.5) * t * t - T(HALF_LOG_2PI) - log(scale)
                # of the smaller tail, where nothing cancels
                a[at + 1, i] = w * (a[at, i] - below if below < above else above - a[at + 1, i])
                a[at, i] = w * exp(l)
                a[k, i] += l
        for k in range(K):
            p[k, i] = T(0)  # A_k, until it is minus the slope
        for r in range(D):
            d = D - 1 - r
            z, y, density = X[d, i], G[i, d] - dz[d, i] if dz.shape[0] > 0 else G[i, d], T(0)
            for k in range(K):
                scale = table[k, 2 + D + d]
                y += p[k, i] * (z - table[k, 2 + d]) / scale / scale
                density += a[K + 2 * (d * K + k), i]
            y /= density
            for k in range(K):
                scale, at = table[k, 2 + D + d], K + 2 * (d * K + k)
                t = (z - table[k, 2 + d]) / scale
                n_k = a[at, i]
                p[K + k * D + d, i] = y * n_k - p[k, i] * t / scale
                far = p[k, i] * (t * t - T(1)) if abs(p[k, i]) > T(0) else T(0)  # t² may be infinite
                p[K + K * D + k * D + d, i] = (y * n_k * (z - table[k, 2 + d]) if n_k > T(0) else T(0)) - far
                p[k, i] += y * a[at + 1, i]
        for k in range(K):
            p[k, i] = -p[k, i]

    return place, log_density, slopes, pull


_pieces = [_product(), _full(), _mixture()]


def _family(kind):
    return 1 if kind == FULL else 2 if kind == MIXTURE else 0


def pieces(kind):
    """place, log_density, slopes, pull of a kind: functions for other device code, on sample i, a uint32.

    place(kind, table, noise (R,n), i, X (D,n))                X from noise
    log_density(kind, table, X, i, a) -> log q                 a (room,n) is scratch
    slopes(kind, table, X, i, log q, a, dz, s)                 after it, with its a: dz (D,n), s (P,n)
    pull(kind, table, X, i, a, G, dz, p)                       G (n,D) - dz', slopes in z, become p (P,n); dz may be
                                                               (0,n), for none; a is scratch"""
    return _pieces[_family(kind)]


# ----------------------------------------------------------------------------------------------------- all the samples
def _drawer(place):
    @kernel("T2 i T2 T2w T2w")
    def draw(table, kind, noise, X, Z):
        i = cuda.grid(1)
        if i < X.shape[1]:
            i = uint32(i)
            place(kind, table, noise, i, X)
            for d in range(X.shape[0]):
                Z[i, d] = X[d, i]

    return draw


def _sloper(log_density, slopes, pull, double=False):
    @kernel("T2 i T2 T1 T2 T2w T2w T1w T2w T2w", double=double)
    def evaluate(table, kind, X, log_p, G, a, dz, f, s, p):
        """f: log p - log q, or log q alone without log p; what has size 0 is left out."""
        i = cuda.grid(1)
        if i < X.shape[1]:
            i = uint32(i)
            if f.size > 0:
                lq = log_density(kind, table, X, i, a)
                f[i] = log_p[i] - lq if log_p.size > 0 else lq
                if s.shape[0] > 0:
                    slopes(kind, table, X, i, lq, a, dz, s)
            if p.shape[0] > 0:
                pull(kind, table, X, i, a, G, dz, p)

    return evaluate


_drawers = [_drawer(of[0]) for of in _pieces]
_slopers = [_sloper(*of[1:], double=of is _pieces[_family(MIXTURE)]) for of in _pieces]


def _draw(kind, table, noise, X, Z):
    """X (D,n) and Z (n,D) from noise (R,n)."""
    _drawers[_family(kind)](-(-len(Z) // SAMPLES), SAMPLES, table, kind, noise, X, Z)


def _evaluate(kind, table, X, log_p, G, dz, f, s, p):
    """At X (D,n): f (n,), log p - log q, or log q with log_p (0,); dz (D,n) and s (P,n), slopes of log q; and p (P,n),
    of G (n,D) - dz'. What has no rows is left out: f with s, dz with s, p."""
    n = X.shape[1]
    given = table, kind, X, log_p, G, empty((room(kind, table), n), X.dtype), dz, f, s, p
    _slopers[_family(kind)](-(-n // SAMPLES), SAMPLES, *given)


@kernel("T2 i T2w")
def _turn(A, bits, B):
    t = cuda.threadIdx.x
    i = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if i < B.shape[0] and j < B.shape[1]:
        B[uint32(i), uint32(j)] = A[uint32(j), uint32(i)]


def _turned(A, B):
    """B = A', and B."""
    blocks, bits = _by_number(B)
    _turn(blocks, THREADS, A, bits, B)
    return B


def place(kind, table, noise, Z):
    """Z (N,D), samples, from noise (N,R): uniform, or standard normal for "normal" and "full", R = D; a mixture's first
    column is uniform and picks a component, its others are normal, R = D + 1."""
    turned = _turned(noise, empty(noise.shape[::-1], Z.dtype))
    _draw(kind, table, turned, empty(Z.shape[::-1], Z.dtype), Z)


def slopes(kind, table, Z, G, log_q, gz, gp, pulled):
    """At Z (N,D): log q (N,), its slopes in z, gz (N,D), and in the coordinates at fixed z, gp (N,P); and pulled (N,P),
    what slopes G (N,D) in z are in the coordinates at fixed noise.

    Arrays with no rows leave that part out: log_q (and then gz, gp too), gz and gp, G and pulled."""
    (N, D), P = Z.shape, coordinates(kind, table)
    new = lambda *shape: empty(shape, Z.dtype)
    X, none = _turned(Z, new(D, N)), new(0, N)
    if len(log_q):
        dz, s = (new(D, N), new(P, N)) if len(gz) else (none, none)
        _evaluate(kind, table, X, new(0), new(0, D), dz, log_q, s, none)
        if len(gz):
            _turned(dz, gz)
            _turned(s, gp)
    if len(G):
        p = new(P, N)
        _evaluate(kind, table, X, new(0), G, none, new(0), none, p)
        _turned(p, pulled)
