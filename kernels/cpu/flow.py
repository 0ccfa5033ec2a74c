"""Flows of planar, radial and affine layers, on the CPU: blocks of samples go through all layers, and back.

A layer f (shared/flow.py) has u (D,), w (D,), b (). Rows go through f_0, ..., f_K-1 in turn, or with inverse=1 through
f_K-1^-1, ..., f_0^-1; l is the sum of the log|det| of what they went through. tau = -1 for the inverse, else 1.

Back through a planar layer: with bo and bl the slopes in its output o = z + tau û h and in its l = tau log d,
    forward   ba = (û.bo - 2 h m bl/d) s       bm = sum bl s/d
    inverse   a solves c = a + m h(a), so da/dc = 1/d and da/dm = -h/d (implicit functions):
              ba = -(û.bo - 2 h m bl/d) s/d    bm = -sum (bl s/d + h ba)
    both      bz = bo + ba w   bw = sum ba z   bb = sum ba   bû = tau sum h bo,   s = 1 - h², d = h² + (1 + m) s
z, the input, is made from the output again, z = o - tau û h: so of each layer h and s alone are kept, and a block needs
memory for D + 2K numbers a sample. bu and bw through û and m: `finish`.

Back through a radial one, v = z - z0 on the side of f's input, Q the slope of r rho:
    forward   bz = rho bo + br v/r,  br = (v.bo) rho' + bl l'
    inverse   of f's input the slope is e = bo - bl l' v/r, and of its output J^-1 e, J = rho + (r rho'/r²) v v':
              bz = e/rho - (rho'/(rho Q r)) (v.e) v;  all else is that of f for -bz there, and of l for -bl
    both      bz0 = sum (bo - bz)

Letters: N rows of X, B of a batch, D features, K layers; table (K,2D+3), a row of each layer for the loops: û, w, b, m,
1 + m of planar ones; alpha and s in place of the last two of radial ones; u, e^w, sum w of affine ones. All arrays of a
call have one dtype.
"""

import functools
import math

import numpy as np
from numba.core.dispatcher import Dispatcher
from numba.extending import register_jitable

from .. import pool
from ..jit import FAST, kernel
from ..shared.flow import (
    ANNEAL,
    ENDS,
    GIVEN,
    KINDS,
    LARGEST,
    NEWTON,
    NORMAL,
    PLANAR,
    RADIAL,
    RING,
    constrain,
    constrain_back,
    energy,
    one_over_square,
    planar_back,
    positive,
    radial_back,
    radial_root,
    radial_terms,
    radius,
    ring,
    root_start,
    root_step,
    tanh_slope,
)
from ..shared.scalar import exp, log, sigmoid, split, tanh

__all__ = ["ENDS", "GIVEN", "KINDS", "NORMAL", "backward", "energies", "finish", "forward", "fused", "parts", "prepare"]

BLOCK = 256  # samples that go through the layers side by side: what is kept of them fits a cache
WORK = 1 << 20  # numbers, rows times layers times features, that a thread takes at a time: some 0.5 ms

# inlined always: else code from the cache and code compiled here would differ in what they inline, and in last bits
piece = register_jitable(fastmath=FAST, forceinline=True)


def _rows(B, D, K):
    """Rows that a thread takes at a time, of B: in 64 parts at most, since each has sums of its own."""
    rows = min(max(WORK // (max(K, 1) * D) // 64 * 64, 64), 4096)
    return max(rows, -(-B // 4096) * 64)


def parts(B, D, K):
    """How many sums `backward` makes of B rows, D features, K layers: the same for any number of threads."""
    return -(-B // _rows(B, D, K))


# ------------------------------------------------------------------------------------------------- tables of layers
@kernel("T2 i1 T2 T1 T2w")
def _prepare(u, kinds, w, b, table):
    K, D = u.shape
    T = u.dtype.type
    for k in range(K):
        row = table[k]
        if kinds[k] == PLANAR:
            x, ww = T(0), T(0)
            for i in range(D):
                x += w[k, i] * u[k, i]
                ww += w[k, i] * w[k, i]
            m, sigma, g, _ = constrain(x)
            g *= one_over_square(ww)
            for i in range(D):
                row[i], row[D + i] = u[k, i] + g * w[k, i], w[k, i]
            row[2 * D], row[2 * D + 1], row[2 * D + 2] = b[k], m, sigma
        elif kinds[k] == RADIAL:
            for i in range(D):
                row[i], row[D + i] = T(0), w[k, i]
            row[2 * D] = T(0)
            row[2 * D + 1], row[2 * D + 2] = positive(b[k]), positive(b[k] + u[k, 0])
        else:
            total = T(0)
            for i in range(D):
                x = T(LARGEST) * tanh(w[k, i] / T(LARGEST))
                total += x
                row[i], row[D + i] = u[k, i], exp(x)
            row[2 * D], row[2 * D + 1], row[2 * D + 2] = total, T(0), T(0)


def prepare(kinds, u, w, b, table):
    """table (K,2D+3) for the other functions, of layers `kinds` (K,) int64, places in KINDS, u, w (K,D), b (K,)."""
    _prepare(u, kinds, w, b, table)


@kernel("T2 i1 T2 T1 T3w T T2w T2w T1w T1w")
def _finish(u, kinds, w, b, sums, scale, gu, gw, gb, totals):
    K, D = u.shape
    T = u.dtype.type
    for k in range(K + 1):
        for i in range(2 * D + 2):
            total = 0.0
            for p in range(len(sums)):
                total += sums[p, k, i]
            sums[0, k, i] = T(total)
    for i in range(totals.size):
        totals[i] += sums[0, K, i]
    for k in range(K):
        bu, bw = sums[0, k, :D], sums[0, k, D : 2 * D]
        b1, b2 = sums[0, k, 2 * D], sums[0, k, 2 * D + 1]
        if kinds[k] == PLANAR:
            x, ww, dot = T(0), T(0), T(0)
            for i in range(D):
                x += w[k, i] * u[k, i]
                ww += w[k, i] * w[k, i]
                dot += w[k, i] * bu[i]
            kappa, e, bx = constrain_back(x, ww, dot, b2)
            for i in range(D):
                gu[k, i] = scale * (bu[i] + bx * w[k, i])
                gw[k, i] = scale * (bw[i] + kappa * bu[i] - T(2) * kappa * e * w[k, i] + bx * u[k, i])
            gb[k] = scale * b1
        elif kinds[k] == RADIAL:
            bs = b2 * sigmoid(b[k] + u[k, 0])
            for i in range(D):
                gu[k, i], gw[k, i] = T(0), scale * bw[i]
            gu[k, 0], gb[k] = scale * bs, scale * (b1 * sigmoid(b[k]) + bs)
        else:
            for i in range(D):
                _, slope = tanh_slope(w[k, i] / T(LARGEST))
                gu[k, i], gw[k, i] = scale * bu[i], scale * bw[i] * slope
            gb[k] = T(0)


def finish(kinds, u, w, b, sums, scale, gu, gw, gb, totals):
    """scale times the gradient in u, w, b, from the sums of `backward`.

    Planar: û = u + kappa w, kappa = (m - x)/|w|², x = w'u, m = m(x). With e = w.bû/|w|²
        bx = bm m' + e (m' - 1)      bu = bû + bx w      bw = bw + kappa bû - 2 kappa e w + bx u
    Radial: alpha = softplus(b), s = softplus(b + u_0). Affine: the log scale is c tanh(w/c), c = LARGEST.

    kinds (K,), u, w (K,D), b (K,), sums (P,K+1,2D+2), which are added up in sums[0]  ->  gu, gw (K,D), gb (K,); totals
    (2,) or (3,), to which the sums of log p, of l and of |z|²/2, as loaded, over the batch are added"""
    _finish(u, kinds, w, b, sums, u.dtype.type(scale), gu, gw, gb, totals)


# ------------------------------------------------------------------------------------------------ through the layers
@piece
def _load(X, rows, first, shift, factor, z):
    """z (D,n) = the rows `first` and on, standardised; after the last one, zeros."""
    T = z.dtype.type
    D, n = len(shift), z.shape[1]
    count = min(n, (rows.size if rows.size else len(X)) - first)
    for d in range(D):
        x, v, f = z[d], shift[d], factor[d]
        if rows.size:
            for j in range(count):
                x[j] = (X[rows[first + j], d] - v) * f
        else:
            some = X[first : first + count, d]
            for j in range(some.size):
                x[j] = (some[j] - v) * f
        for j in range(count, n):
            x[j] = T(0)
    return count


@piece
def _solve(a, m, sigma, c):
    """a <- the roots of a + m tanh(a) = what a holds now, all at once; c is scratch."""
    T = a.dtype.type
    for i in range(a.size):
        c[i] = a[i]
        a[i] = root_start(abs(c[i]), m, sigma)
    for _ in range(NEWTON):
        moved = T(0)
        for i in range(a.size):
            new = root_step(a[i], abs(c[i]), m, sigma)
            moved += T(1) if new != a[i] else T(0)
            a[i] = new
        if not moved > T(0):
            break
    for i in range(a.size):
        a[i] = a[i] if c[i] >= T(0) else -a[i]


@piece
def _push(kinds, table, inverse, z, h, s, l, a, c, p, e):
    """z (D,n) through all layers, in place; l (n,) becomes their sum, h and s (K,n) are kept for the way back.

    The d of planar layers are multiplied, as 2^e p, for the sake of one log in the end."""
    T = z.dtype.type
    D, K = (table.shape[1] - 3) // 2, len(kinds)
    tau = T(-1) if inverse else T(1)
    for i in range(a.size):
        l[i], p[i], e[i] = T(0), T(1), T(0)
    for j in range(K):
        k = K - 1 - j if inverse else j
        row, hk, sk = table[k], h[k], s[k]
        if kinds[k] == PLANAR:
            m, sigma = row[2 * D + 1], row[2 * D + 2]
            for d in range(0, D, 2):
                x, y, v, w = z[d], z[d + 1], row[D + d], row[D + d + 1] if d + 1 < D else T(0)
                for i in range(a.size):
                    a[i] = (a[i] if d > 0 else row[2 * D]) + v * x[i] + w * y[i]
            if inverse:
                _solve(a, m, sigma, c)
            for i in range(a.size):
                hk[i], sk[i] = tanh_slope(a[i])
            for i in range(a.size):
                p[i], k2 = split(p[i] * (hk[i] * hk[i] + sigma * sk[i]))
                e[i] += k2
            for d in range(0, D, 2):
                x, y, v, w = z[d], z[d + 1], tau * row[d], tau * row[d + 1] if d + 1 < D else T(0)
                for i in range(a.size):
                    x[i] += v * hk[i]
                    y[i] += w * hk[i]
        elif kinds[k] == RADIAL:
            alpha, scale = row[2 * D + 1], row[2 * D + 2]
            for i in range(a.size):
                a[i] = T(0)
            for d in range(D):
                x, v = z[d], row[D + d]
                for i in range(a.size):
                    a[i] += (x[i] - v) * (x[i] - v)
            for i in range(a.size):
                r = radius(a[i])
                if inverse:
                    r = radial_root(r, alpha, scale)
                rho, f, _ = radial_terms(r, alpha, scale, T(D - 1))
                hk[i] = r
                sk[i] = rho
                l[i] += tau * f
                a[i] = (T(1) / rho if inverse else rho) - T(1)
            for d in range(D):
                x, v = z[d], row[D + d]
                for i in range(a.size):
                    x[i] += a[i] * (x[i] - v)
        else:
            for d in range(D):
                x, u, v = z[d], row[d], row[D + d]
                if inverse:
                    v = T(1) / v
                    u *= -v
                for i in range(a.size):
                    x[i] = x[i] * v + u
            for i in range(a.size):
                l[i] += tau * row[2 * D]
    for i in range(a.size):
        l[i] += tau * (e[i] * T(math.log(2)) + log(p[i]))


@piece
def _pull(kinds, table, inverse, z, h, s, bz, bl, a, c, sums):
    """The slopes bz (D,n) in the output, and bl (n,) in l, back to the input; z (D,n), the output, goes back with them.
    To sums (K+1,2D+2) are added, for each layer, bû, bw, bb, bm; of radial ones 0, bz0, balpha, bs; of affine ones bu,
    the slopes in the log scale, 0, 0."""
    T = z.dtype.type
    D, K = (table.shape[1] - 3) // 2, len(kinds)
    tau = T(-1) if inverse else T(1)
    for j in range(K):
        k = j if inverse else K - 1 - j
        row, hk, sk, out = table[k], h[k], s[k], sums[k]
        b1, b2 = T(0), T(0)
        if kinds[k] == PLANAR:
            m, sigma = row[2 * D + 1], row[2 * D + 2]
            for d in range(0, D, 2):
                x, y, b, g, t0, t1 = z[d], z[d + 1], bz[d], bz[d + 1], T(0), T(0)
                v, w = row[d], row[d + 1] if d + 1 < D else T(0)
                for i in range(a.size):
                    a[i] = (a[i] if d > 0 else T(0)) + v * b[i] + w * g[i]
                    t0 += b[i] * hk[i]
                    t1 += g[i] * hk[i]
                    x[i] -= tau * v * hk[i]
                    y[i] -= tau * w * hk[i]
                out[d] += tau * t0
                if d + 1 < D:
                    out[d + 1] += tau * t1
            for i in range(a.size):
                a[i], bm = planar_back(hk[i], sk[i], m, sigma, a[i], bl[i], inverse)
                b1 += a[i]
                b2 += bm
            for d in range(0, D, 2):
                x, y, b, g, t0, t1 = z[d], z[d + 1], bz[d], bz[d + 1], T(0), T(0)
                v, w = row[D + d], row[D + d + 1] if d + 1 < D else T(0)
                for i in range(a.size):
                    t0 += a[i] * x[i]
                    t1 += a[i] * y[i]
                    b[i] += v * a[i]
                    g[i] += w * a[i]
                out[D + d] += t0
                if d + 1 < D:
                    out[D + d + 1] += t1
        elif kinds[k] == RADIAL:
            alpha, scale, n = row[2 * D + 1], row[2 * D + 2], T(D - 1)
            for i in range(a.size):
                a[i] = T(0)
                c[i] = T(1) if inverse else T(1) / sk[i] - T(1)
            for d in range(D):  # a = v.bo, v on the side of f's input
                x, b, v = z[d], bz[d], row[D + d]
                for i in range(a.size):
                    if not inverse:
                        x[i] += c[i] * (x[i] - v)
                    a[i] += (x[i] - v) * b[i]
            for i in range(a.size):
                e, c[i], balpha, bs = radial_back(hk[i], sk[i], alpha, scale, n, a[i], bl[i], inverse)
                a[i] = e - T(1)
                b1 += balpha
                b2 += bs
            for d in range(D):
                x, b, v, total = z[d], bz[d], row[D + d], T(0)
                for i in range(a.size):
                    change = a[i] * b[i] + c[i] * (x[i] - v)
                    total -= change
                    b[i] += change
                    if inverse:
                        x[i] += (sk[i] - T(1)) * (x[i] - v)
                out[D + d] += total
        else:
            for d in range(D):
                x, b, u, v, by, bxy, n = z[d], bz[d], row[d], row[D + d], T(0), T(0), T(0)
                centre = T(0) if inverse else u
                if inverse:
                    v = T(1) / v
                    u *= -v
                f = T(1) / v
                for i in range(a.size):
                    by += b[i]
                    bxy += b[i] * (x[i] - centre)
                    n += bl[i]
                    x[i] = (x[i] - u) * f
                    b[i] *= v
                if inverse:  # o = (z - u) e^-w: slopes -e^-w in u, -o in w
                    out[d] -= v * by
                    out[D + d] -= bxy + n
                else:
                    out[d] += by
                    out[D + d] += bxy + n
        out[2 * D] += b1
        out[2 * D + 1] += b2


# ------------------------------------------------------------------------------------------- to the end, and back
@piece
def _end(which, D, z, bz, lp, a):
    """log p (n,) at z (D,n), and its slopes bz (D,n). (For GIVEN, bz is there, and log p is 0.)"""
    T = z.dtype.type
    for i in range(a.size):
        a[i] = T(0)
    if which in (NORMAL, RING):
        for d in range(D):
            x = z[d]
            for i in range(a.size):
                a[i] += x[i] * x[i]
        if which == NORMAL:
            for i in range(a.size):
                lp[i] = T(-0.5) * a[i] - T(0.5 * math.log(2 * math.pi)) * T(D)
                a[i] = T(-1)
        else:
            for i in range(a.size):
                r = T(math.sqrt(a[i]))
                lp[i], a[i] = ring(r)
                a[i] = a[i] / r if r > T(0) else T(0)
        for d in range(D):
            x, b = z[d], bz[d]
            for i in range(a.size):
                b[i] = a[i] * x[i]
    elif which == GIVEN:
        for i in range(a.size):
            lp[i] = T(0)
    else:
        x, y, b, d = z[0], z[1], bz[0], bz[1]
        for i in range(a.size):
            lp[i], b[i], d[i] = energy(which, x[i], y[i])


def _through_with(target):
    """The kernel of `forward`, to Z and l where sums are (0,2D+2), and else of `backward`; with `target` at the end:
    jitted, z (n,D) -> log p (n,), slopes (n,D); or None. (Two kernels would take twice as long to compile.)"""
    own = target is not None

    def _through(kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, sums, Z, l_of_Z):
        T = X.dtype.type
        D, K = len(shift), len(kinds)
        B = rows.size if rows.size else len(X)
        n = min(BLOCK, (B + 15) // 16 * 16)
        z, h, s = np.zeros((D + D % 2, n), X.dtype), np.empty((K, n), X.dtype), np.empty((K, n), X.dtype)
        bz, flat = np.zeros((D + D % 2, n), X.dtype), np.empty((8, n), X.dtype)
        bl, lp, l, a, c, half = flat[0], flat[1], flat[2], flat[3], flat[4], flat[7]
        beta = T(1)
        if annealing > 0:
            beta = min(T(1), T(ANNEAL) + T(1 - ANNEAL) * T(counter[0]) / T(annealing))
        for k in range(len(sums)):
            for i in range(2 * D + 2):
                sums[k, i] = T(0)
        for first in range(0, B, n):
            count = _load(X, rows, first, shift, factor, z)
            for i in range(n):
                bl[i] = T(1) if i < count else T(0)
                half[i] = T(0)
            for d in range(D):
                x = z[d]
                for i in range(n):
                    half[i] += T(0.5) * x[i] * x[i]
            _push(kinds, table, inverse, z, h, s, l, a, c, flat[5], flat[6])
            if len(sums) == 0:
                for i in range(count):
                    l_of_Z[first + i] = l[i]
                    for d in range(D):
                        Z[first + i, d] = z[d, i]
                continue
            if own:
                f, g = target(np.ascontiguousarray(z[:D, :count].T))
                for i in range(count):
                    lp[i] = f[i]
                    for d in range(D):
                        bz[d, i] = g[i, d]
            elif which == GIVEN:
                for i in range(count):
                    for d in range(D):
                        bz[d, i] = given[first + i, d]
            if not own:
                _end(which, D, z, bz, lp, a)
            for i in range(count):
                sums[K, 0] += lp[i]
                sums[K, 1] += l[i]
                sums[K, 2] += half[i]
            for d in range(D):
                b = bz[d]
                for i in range(n):
                    b[i] = beta * b[i] if i < count else T(0)
            _pull(kinds, table, inverse, z, h, s, bz, bl, a, c, sums)

    return _through


SPEC = "i1 T2 i T2 i1 T1 T1 i T2 i1 T T2w T2w T1w"
_through = kernel(SPEC, fastmath=FAST)(_through_with(None))


def forward(kinds, table, inverse, X, rows, shift, factor, Z, l):
    """Z = the flow of (x - shift) factor, for the rows of X with the numbers `rows`, and its l.

    kinds (K,), table of `prepare`, inverse 0 or 1, X (N,D), rows (B,) int64 or (0,) for all N, shift, factor (D,)  ->
    Z (B,D), l (B,)"""
    size, (D, T) = _rows(*Z.shape, len(kinds)), (X.shape[1], X.dtype)
    layers, none = (kinds, table, inverse), np.empty((0, D), T)
    rest = NORMAL, none, np.zeros(1, np.int64), T.type(0), np.empty((0, 2 * D + 2), T)

    def block(b):
        i = slice(b * size, min((b + 1) * size, len(Z)))
        some = (X, rows[i]) if rows.size else (X[i], rows)
        _through(*layers, *some, shift, factor, *rest, Z[i], l[i])

    pool.run(block, -(-len(Z) // size))


def _back(run, kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, sums):
    layers, annealing = (kinds, table, inverse), X.dtype.type(annealing)
    none = np.empty((0, len(shift)), X.dtype), np.empty(0, X.dtype)
    if len(sums) == 1:
        run(*layers, X, rows, shift, factor, which, given, counter, annealing, sums[0], *none)
        return
    B = rows.size or len(X)
    size = _rows(B, len(shift), len(kinds))

    def block(b):
        i = slice(b * size, min((b + 1) * size, B))
        some = (X, rows[i]) if rows.size else (X[i], rows)
        run(*layers, *some, shift, factor, which, given[i], counter, annealing, sums[b], *none)

    pool.run(block, len(sums))


def backward(kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, sums):
    """Sums over rows of the slopes of  beta log p(z) + l  in what is in the table, z as in `forward`.

    which: log p, a number of shared/flow.py: NORMAL, the standard normal; U1 to U4 and RING; or GIVEN, some log p whose
    slopes are given (B,D) (of the others (0,D)). beta = min(1, 0.01 + 0.99 counter/annealing), counter (1,) int64; 1
    with annealing = 0.
    Else as in `forward`  ->  sums (P,K+1,2D+2), P = parts(B, D, K), of which `finish` makes the gradient; of the last
    row the first three are the sums of log p, of l, and of |z|²/2 of what was loaded"""
    _back(_through, kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, sums)


@functools.lru_cache(8)
def fused(target):
    """A function as `backward` for a function by numba.njit, target(z (n,D)) -> log p (n,), slopes (n,D): it is called
    on blocks within the loop, and `which` is ignored. None for other functions, for those that numba runs on threads of
    its own (two callers at once would end the process), and where a kernel set cannot."""
    if not isinstance(target, Dispatcher) or target.targetoptions.get("parallel"):
        return None
    return functools.partial(_back, kernel(SPEC, cached=False, fastmath=FAST)(_through_with(target)))


@kernel("T2 i T1w T2w")
def _energies(Z, which, log_pi, g):
    T = Z.dtype.type
    for n in range(len(Z)):
        if which == RING:
            r = T(0)
            for x in Z[n]:
                r += x * x
            r = T(math.sqrt(r))
            log_pi[n], slope = ring(r)
            for d in range(Z.shape[1]):
                g[n, d] = slope * Z[n, d] / r if r > T(0) else T(0)
        else:
            log_pi[n], g[n, 0], g[n, 1] = energy(which, Z[n, 0], Z[n, 1])


def energies(which, Z, log_pi, g):
    """log pi (M,) and its slopes g (M,D) at Z (M,D), of U1 to U4 (D = 2) or RING: numbers of shared/flow.py."""
    _energies(Z, which, log_pi, g)
