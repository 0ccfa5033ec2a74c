"""Flows of planar, radial and affine layers on CUDA: twins of lvm.kernels.cpu.flow, whose docstring has the equations
and the letters.

    forward, backward   warps on their own: each takes rows through all layers, and back, then others
    prepare             a warp for each layer
    finish              a block for each layer
    energies            a thread for each row

In a warp each row has a group of 2^bits threads, one where D <= FEW; they have features lane, lane + 2^bits, ... of it,
J at most. A thread keeps in `work` a column of its own, which no other reads: J numbers z, J slopes, and of each layer
h and s, the same for all of a group. Neighbours in a warp have neighbours in memory. What samples add to the slopes of
a layer is summed by shuffles over the groups of a warp, and goes to its part of `sums`: no barriers, no atomics.

What bounds it, not yet measured on a GPU: small batches the latency of a chain of K layers and back, each a sum over a
group, a tanh and an update; large ones the instructions issued, an estimated 500 for 32 rows and a planar layer, there
and back, with D = 2 (from the machine code), a fifth of them for the sums over the rows. Columns are to stay in caches.
"""

import functools
import math

import numpy as np

from ..shared.flow import (
    ANNEAL,
    ENDS,
    GIVEN,
    KINDS,
    LARGEST,
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
    root,
    tanh_slope,
)
from ..shared.scalar import exp, log, sigmoid, split, tanh
from .api import cuda, device_function, empty, kernel
from .ppca import _shift
from .relevance import ALL, _across

__all__ = ["ENDS", "GIVEN", "KINDS", "NORMAL", "backward", "energies", "finish", "forward", "fused", "parts", "prepare"]

WARP = 32
THREADS = 128
FEW = 4  # features that a thread has of a row before it shares the row with others
PARTS = 2048  # warps at most: some 16 for each multiprocessor of a large GPU
LOG2, HALF_LOG_2PI = math.log(2), 0.5 * math.log(2 * math.pi)
int32, uint32 = np.int32, np.uint32  # of indices: less to compute, and numba need not see to their being negative


def _bits(D):
    """Of the threads that share a row."""
    return _shift(-(-D // FEW), WARP)


def _warps(B, D):
    """For B rows of D features."""
    return min(-(-B // (WARP >> _bits(D))), PARTS)


def parts(B, D, K):
    """How many sums `backward` makes of B rows, D features, K layers."""
    return _warps(B, D)


@functools.cache
def _memory(log_size, dtype):
    """2^log_size numbers to work with, for one kernel after the other. Kept for good: a recorded graph goes on using
    them."""
    return empty(1 << log_size, dtype)


def _work(warps, D, bits, K, dtype):
    """A column for each thread: z; where there are layers to go back through, slopes, and h and s of each."""
    rows = -(-D >> bits)
    return _memory((warps * WARP * (2 * (rows + K) if K else rows) - 1).bit_length(), dtype)


# ------------------------------------------------------------------------------------------------- tables of layers
@kernel("T2 i1 T2 T1 T2w")
def _prepare(u, kinds, w, b, table):
    k, t, D, T = cuda.blockIdx.x, cuda.threadIdx.x, u.shape[1], u.dtype.type
    last = T(0), T(0), T(0)
    if kinds[k] == PLANAR:
        x, ww = T(0), T(0)
        for i in range(t, D, WARP):
            x += w[k, i] * u[k, i]
            ww += w[k, i] * w[k, i]
        m, sigma, kappa, _ = constrain(_across(x, 5))
        kappa *= one_over_square(_across(ww, 5))
        for i in range(t, D, WARP):
            table[k, i], table[k, D + i] = u[k, i] + kappa * w[k, i], w[k, i]
        last = b[k], m, sigma
    elif kinds[k] == RADIAL:
        for i in range(t, D, WARP):
            table[k, i], table[k, D + i] = T(0), w[k, i]
        last = T(0), positive(b[k]), positive(b[k] + u[k, 0])
    else:
        total = T(0)
        for i in range(t, D, WARP):
            x = T(LARGEST) * tanh(w[k, i] / T(LARGEST))
            total += x
            table[k, i], table[k, D + i] = u[k, i], exp(x)
        last = _across(total, 5), T(0), T(0)
    if t == 0:
        table[k, 2 * D], table[k, 2 * D + 1], table[k, 2 * D + 2] = last


def prepare(kinds, u, w, b, table):
    """table (K,2D+3) for the other functions, of layers `kinds` (K,) int64, places in KINDS, u, w (K,D), b (K,)."""
    _prepare(len(u), WARP, u, kinds, w, b, table)


@kernel("T2 i1 T2 T1 i T3w T T2w T2w T1w T1w")
def _finish(u, kinds, w, b, shift, sums, scale, gu, gw, gb, totals):
    """Threads have columns, 2^shift side by side, and each some of the parts. Then the first warp has the features."""
    shared = cuda.shared.array(THREADS, sums.dtype)
    t, k, T, (K, D), lanes = cuda.threadIdx.x, cuda.blockIdx.x, u.dtype.type, u.shape, 1 << shift
    for first in range(0, 2 * D + 2, lanes):
        i, total = first + (t & (lanes - 1)), T(0)
        if i < 2 * D + 2:
            for p in range(t >> shift, sums.shape[0], THREADS >> shift):
                total += sums[uint32(p), uint32(k), uint32(i)]
        shared[t] = total
        half = THREADS >> 1
        while half >= lanes:
            cuda.syncthreads()
            if t < half:
                shared[t] += shared[t + half]
            half >>= 1
        if t < lanes and i < 2 * D + 2:
            sums[0, k, i] = shared[t]
        cuda.syncthreads()
    if k == K:
        if t < totals.size:
            totals[t] += sums[0, k, t]
    elif t < WARP:
        b1, b2 = sums[0, k, 2 * D], sums[0, k, 2 * D + 1]
        if kinds[k] == PLANAR:
            x, ww, dot = T(0), T(0), T(0)
            for i in range(t, D, WARP):
                x += w[k, i] * u[k, i]
                ww += w[k, i] * w[k, i]
                dot += w[k, i] * sums[0, k, i]
            kappa, e, bx = constrain_back(_across(x, 5), _across(ww, 5), _across(dot, 5), b2)
            for i in range(t, D, WARP):
                bu, bw = sums[0, k, i], sums[0, k, D + i]
                gu[k, i] = scale * (bu + bx * w[k, i])
                gw[k, i] = scale * (bw + kappa * bu - T(2) * kappa * e * w[k, i] + bx * u[k, i])
        elif kinds[k] == RADIAL:
            bs = b2 * sigmoid(b[k] + u[k, 0])
            for i in range(t, D, WARP):
                gu[k, i], gw[k, i] = scale * bs if i == 0 else T(0), scale * sums[0, k, D + i]
            b1 = b1 * sigmoid(b[k]) + bs
        else:
            for i in range(t, D, WARP):
                _, slope = tanh_slope(w[k, i] / T(LARGEST))
                gu[k, i], gw[k, i] = scale * sums[0, k, i], scale * sums[0, k, D + i] * slope
            b1 = T(0)
        if t == 0:
            gb[k] = scale * b1


def finish(kinds, u, w, b, sums, scale, gu, gw, gb, totals):
    """scale times the gradient in u, w, b, from the sums of `backward`; the CPU's docstring has the equations.

    kinds (K,), u, w (K,D), b (K,), sums (P,K+1,2D+2), which are added up in sums[0]  ->  gu, gw (K,D), gb (K,); totals
    (2,) or (3,), to which the sums of log p, of l and of |z|²/2, as loaded, over the batch are added"""
    shift = _shift(sums.shape[2], THREADS)
    _finish(sums.shape[1], THREADS, u, kinds, w, b, shift, sums, scale, gu, gw, gb, totals)


# ------------------------------------------------------------------------------------------------ through the layers
@device_function
def _load(X, rows, n, B, shift, factor, D, J, lane, bits, work, z):
    """The column at z = row n, standardised; after the last row, and the last feature, zeros."""
    m = rows[uint32(n)] if rows.size and n < B else n
    for r in range(J):
        i, x = int32(lane + (r << bits)), work.dtype.type(0)
        if n < B and i < D:
            x = (X[uint32(m), uint32(i)] - shift[uint32(i)]) * factor[uint32(i)]
        work[uint32(z + WARP * r)] = x


@device_function
def _push(kinds, table, inverse, D, J, lane, bits, work, z, kept):
    """The column at z through all layers, in place -> l. h and s of each go to the column at `kept`, unless that is 0.

    The d of planar layers are multiplied, as 2^e p, for the sake of one log in the end."""
    T, K = work.dtype.type, int32(kinds.size)
    tau = T(-1) if inverse else T(1)
    l, p, e = T(0), T(1), T(0)
    for j in range(K):
        k = int32(K - 1 - j if inverse else j)
        row, h, s, a = int32(k * (2 * D + 3)), T(0), T(0), T(0)
        b, m, sigma = table[uint32(row + 2 * D)], table[uint32(row + 2 * D + 1)], table[uint32(row + 2 * D + 2)]
        if kinds[uint32(k)] == PLANAR:
            for r in range(J):
                i = int32(lane + (r << bits))
                if i < D:
                    a += table[uint32(row + D + i)] * work[uint32(z + WARP * r)]
            a = _across(a, bits) + b
            if inverse:
                a = root(a, m, sigma)
            h, s = tanh_slope(a)
            p, more = split(p * (h * h + sigma * s))
            e += more
            a = tau * h
            for r in range(J):
                i = int32(lane + (r << bits))
                if i < D:
                    work[uint32(z + WARP * r)] += a * table[uint32(row + i)]
        elif kinds[uint32(k)] == RADIAL:
            for r in range(J):
                i = int32(lane + (r << bits))
                if i < D:
                    v = work[uint32(z + WARP * r)] - table[uint32(row + D + i)]
                    a += v * v
            h = radius(_across(a, bits))
            if inverse:
                h = radial_root(h, m, sigma)
            s, f, _ = radial_terms(h, m, sigma, T(D - 1))
            l += tau * f
            a = (T(1) / s if inverse else s) - T(1)
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(z + WARP * r)
                if i < D:
                    work[x] += a * (work[x] - table[uint32(row + D + i)])
        else:
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(z + WARP * r)
                if i < D:
                    u, v = table[uint32(row + i)], table[uint32(row + D + i)]
                    work[x] = (work[x] - u) / v if inverse else work[x] * v + u
            l += tau * b
        if kept:
            x = int32(kept + 2 * WARP * k)
            work[uint32(x)], work[uint32(x + WARP)] = h, s
    return l + tau * (e * T(LOG2) + log(p))


@device_function
def _give(sums, place, step, there, a, b, bits, first):
    """sums[place] and sums[place + step] = the sums of a and b over the groups of a warp, or these are added to what is
    in them; unless a thread is not `there`. One half of a warp goes on with a, the other with b: half of the shuffles.
    """
    t = cuda.threadIdx.x
    if bits == 5:  # one group
        if there:
            sums[uint32(place)] = a if first else sums[uint32(place)] + a
            sums[uint32(place + step)] = b if first else sums[uint32(place + step)] + b
    else:
        upper = t >= 16
        a, b = b if upper else a, a if upper else b
        a += cuda.shfl_xor_sync(ALL, b, 16)
        for j in range(1, 5):
            if 4 - j >= bits:
                a += cuda.shfl_xor_sync(ALL, a, 16 >> j)
        if there and (t & 15) >> bits == 0:
            place += step if upper else 0
            sums[uint32(place)] = a if first else sums[uint32(place)] + a


@device_function
def _pull(kinds, table, inverse, D, J, lane, bits, work, z, bl, sums, out, first):
    """The slopes in the output, in the column after z, and bl in l, back to the input; z, the output, goes back with
    them. To the sums from place `out` on go for each layer what the CPU's `_pull` says.

    Loops with shuffles in them are for all threads: one without a feature there takes the last one's numbers in the
    table, and its sums go nowhere."""
    T, K, bz, kept = work.dtype.type, int32(kinds.size), int32(z + WARP * J), int32(z + 2 * WARP * J)
    tau = T(-1) if inverse else T(1)
    for j in range(K):
        k = int32(j if inverse else K - 1 - j)
        row, to, x = int32(k * (2 * D + 3)), out + k * (2 * D + 2), int32(kept + 2 * WARP * k)
        h, s, a, b1, b2 = work[uint32(x)], work[uint32(x + WARP)], T(0), T(0), T(0)
        m, sigma = table[uint32(row + 2 * D + 1)], table[uint32(row + 2 * D + 2)]
        if kinds[uint32(k)] == PLANAR:
            for r in range(J):
                i = int32(lane + (r << bits))
                if i < D:
                    v = table[uint32(row + i)]
                    work[uint32(z + WARP * r)] -= tau * h * v
                    a += v * work[uint32(bz + WARP * r)]
            b1, b2 = planar_back(h, s, m, sigma, _across(a, bits), bl, inverse)
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(bz + WARP * r)
                b = work[x]
                work[x] = b + b1 * table[uint32(row + D + min(i, D - 1))]
                _give(sums, to + i, D, i < D, tau * h * b, b1 * work[uint32(z + WARP * r)], bits, first)
        elif kinds[uint32(k)] == RADIAL:
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(z + WARP * r)
                if i < D:
                    v = work[x] - table[uint32(row + D + i)]
                    if not inverse:  # v on the side of f's input
                        work[x] += (T(1) / s - T(1)) * v
                        v /= s
                    a += v * work[uint32(bz + WARP * r)]
            e, c, b1, b2 = radial_back(h, s, m, sigma, T(D - 1), _across(a, bits), bl, inverse)
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(z + WARP * r)
                b, v = work[uint32(bz + WARP * r)], work[x] - table[uint32(row + D + min(i, D - 1))]
                change = (e - T(1)) * b + c * v
                work[uint32(bz + WARP * r)] = b + change
                if inverse:
                    work[x] += (s - T(1)) * v
                _give(sums, to + i, D, i < D, T(0), -change, bits, first)
        else:
            for r in range(J):
                i, x = int32(lane + (r << bits)), uint32(z + WARP * r)
                u, v = table[uint32(row + min(i, D - 1))], table[uint32(row + D + min(i, D - 1))]
                b, o = work[uint32(bz + WARP * r)], work[x]
                if inverse:  # o = (z - u) e^-w: slopes -e^-w in u, -o in w
                    bu, bw = -b / v, -(b * o + bl)
                    work[x], b = o * v + u, -bu
                else:
                    bu, bw = b, b * (o - u) + bl
                    work[x], b = (o - u) / v, b * v
                work[uint32(bz + WARP * r)] = b
                _give(sums, to + i, D, i < D, bu, bw, bits, first)
        _give(sums, to + 2 * D, 1, lane == 0, b1, b2, bits, first)


@kernel("i1 T1 i T2 i1 T1 T1 i T1w T2w T1w")
def _forward(kinds, table, inverse, X, rows, shift, factor, bits, work, Z, l):
    t, D, B, bits = cuda.threadIdx.x, int32(shift.size), Z.shape[0], int32(bits)
    lane, own, size, J = int32(t & ((1 << bits) - 1)), t >> bits, WARP >> bits, int32(-(-D >> bits))
    z = int32(cuda.blockIdx.x * WARP * J + t)
    for first in range(cuda.blockIdx.x * size, B, cuda.gridDim.x * size):
        n = first + own
        _load(X, rows, n, B, shift, factor, D, J, lane, bits, work, z)
        total = _push(kinds, table, inverse, D, J, lane, bits, work, z, 0)
        if n < B:
            for r in range(J):
                i = int32(lane + (r << bits))
                if i < D:
                    Z[uint32(n), uint32(i)] = work[uint32(z + WARP * r)]
            if lane == 0:
                l[n] = total


def forward(kinds, table, inverse, X, rows, shift, factor, Z, l):
    """Z = the flow of (x - shift) factor, for the rows of X with the numbers `rows`, and its l.

    kinds (K,), table of `prepare`, inverse 0 or 1, X (N,D), rows (B,) int64 or (0,) for all N, shift, factor (D,)  ->
    Z (B,D), l (B,)"""
    D, flat = Z.shape[1], table.reshape(table.size)
    bits, warps = _bits(D), _warps(*Z.shape)
    work = _work(warps, D, bits, 0, X.dtype)
    _forward(warps, WARP, kinds, flat, inverse, X, rows, shift, factor, bits, work, Z, l)


# ------------------------------------------------------------------------------------------- to the end, and back
@device_function
def _end(which, given, n, there, D, J, lane, bits, work, z, beta):
    """log p at the column z; beta times its slopes go to the column after it. (For GIVEN, log p is 0.)"""
    T, a, lp, bz = work.dtype.type, work.dtype.type(0), work.dtype.type(0), int32(z + WARP * J)
    if which == GIVEN:
        for r in range(J):
            i, b = int32(lane + (r << bits)), T(0)
            if there and i < D:
                b = given[uint32(n), uint32(i)]
            work[uint32(bz + WARP * r)] = beta * b
    elif which in (NORMAL, RING):
        for r in range(J):
            x = work[uint32(z + WARP * r)]
            a += x * x  # 0 after the last feature
        a = _across(a, bits)
        if which == NORMAL:
            lp, a = T(-0.5) * a - T(HALF_LOG_2PI) * T(D), T(-1)
        else:
            q = T(math.sqrt(a))
            lp, a = ring(q)
            a = a / q if q > T(0) else T(0)
        a = beta * a if there else T(0)
        for r in range(J):
            work[uint32(bz + WARP * r)] = a * work[uint32(z + WARP * r)]
    else:  # D = 2: a thread has both
        lp, a, b = energy(which, work[uint32(z)], work[uint32(z + WARP)])
        work[uint32(bz)] = beta * a if there else T(0)
        work[uint32(bz + WARP)] = beta * b if there else T(0)
    return lp


@kernel("i1 T1 i T2 i1 T1 T1 i T2 i1 T i T1w T1w")
def _backward(kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, bits, work, sums):
    t, D, K, T, bits = cuda.threadIdx.x, int32(shift.size), int32(kinds.size), X.dtype.type, int32(bits)
    B = rows.size if rows.size else X.shape[0]
    lane, own, size, J = int32(t & ((1 << bits) - 1)), t >> bits, WARP >> bits, int32(-(-D >> bits))
    z, out = int32(cuda.blockIdx.x * WARP * 2 * (J + K) + t), cuda.blockIdx.x * (K + 1) * (2 * D + 2)
    beta = T(1)
    if annealing > T(0):
        beta = min(T(1), T(ANNEAL) + T(1 - ANNEAL) * T(counter[0]) / annealing)
    begin = cuda.blockIdx.x * size
    for first in range(begin, B, cuda.gridDim.x * size):
        n, new = first + own, first == begin
        there = n < B
        one, last = T(1) if there else T(0), out + K * (2 * D + 2)
        _load(X, rows, n, B, shift, factor, D, J, lane, bits, work, z)
        half = T(0)
        for r in range(J):
            half += T(0.5) * work[uint32(z + WARP * r)] * work[uint32(z + WARP * r)]
        half = _across(half, bits)
        l = _push(kinds, table, inverse, D, J, lane, bits, work, z, int32(z + WARP * 2 * J))
        lp = _end(which, given, n, there, D, J, lane, bits, work, z, beta)
        _give(sums, last, 1, lane == 0, lp if there else T(0), l if there else T(0), bits, new)
        _give(sums, last + 2, 1, lane == 0, half, T(0), bits, new)
        _pull(kinds, table, inverse, D, J, lane, bits, work, z, one, sums, out, new)


def backward(kinds, table, inverse, X, rows, shift, factor, which, given, counter, annealing, sums):
    """Sums over rows of the slopes of  beta log p(z) + l  in what is in the table, z as in `forward`.

    which: log p, a number of shared/flow.py: NORMAL, the standard normal; U1 to U4 and RING; or GIVEN, some log p whose
    slopes are given (B,D) (of the others (0,D)). beta = min(1, 0.01 + 0.99 counter/annealing), counter (1,) int64; 1
    with annealing = 0.
    Else as in `forward`  ->  sums (P,K+1,2D+2), P = parts(B, D, K), of which `finish` makes the gradient; of the last
    row the first three are the sums of log p, of l, and of |z|²/2 of what was loaded"""
    D, K = X.shape[1], len(kinds)
    bits, flat = _bits(D), table.reshape(table.size)
    work = _work(len(sums), D, bits, K, X.dtype)
    rule = which, given, counter, annealing, bits, work
    _backward(len(sums), WARP, kinds, flat, inverse, X, rows, shift, factor, *rule, sums.reshape(sums.size))


def fused(target):
    """None: a function by numba.njit cannot be called here."""
    return None


@kernel("T2 i T1w T2w")
def _energies(Z, which, log_pi, g):
    n, T = cuda.grid(1), Z.dtype.type
    if n < Z.shape[0]:
        if which == RING:
            r = T(0)
            for d in range(Z.shape[1]):
                r += Z[n, d] * Z[n, d]
            r = T(math.sqrt(r))
            log_pi[n], slope = ring(r)
            for d in range(Z.shape[1]):
                g[n, d] = slope * Z[n, d] / r if r > T(0) else T(0)
        else:
            log_pi[n], g[n, 0], g[n, 1] = energy(which, Z[n, 0], Z[n, 1])


def energies(which, Z, log_pi, g):
    """log pi (M,) and its slopes g (M,D) at Z (M,D), of U1 to U4 (D = 2) or RING: numbers of shared/flow.py."""
    _energies(-(-len(Z) // THREADS), THREADS, Z, which, log_pi, g)
