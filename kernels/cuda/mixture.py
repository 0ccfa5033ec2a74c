"""Gaussian mixtures on CUDA: twins of lvm.kernels.cpu.mixture, whose docstring has the equations and the layout of S.

An E step of some rows is four kernels, which meet in a (K,M), one column a row:
    joint      a_kn = log p(x_n, k)                         tiles of rows by rows of P_k, as in a matrix product
    normalise  a_kn = w_n r_kn, log p(x_n) and the answers  a thread for each row
    moments    partial sums of S over chunks of rows        tiles of columns by columns, a component at a time
    reduce     S, in float64                                chunk by chunk, always in the same order: the same bits
Sums of float32 over the rows of a chunk are compensated (Kahan 1965), so that a chunk may be long.

Rows with gaps: a thread for each row and component factors Q_mm in float64 (`_fill`), and leaves (y_o, f) to be taken
for y. Their C = M'M, M the inverse of the factor of Q_mm, comes into S2 as m more rows y = M_p of the same weight.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from ..shared.scalar import exp, is_float32, log, shared
from .api import block_sum, cast, cuda, empty, get, kernel, put

ROWS = 64  # of a tile in `joint`
DEEP = 32  # columns that a tile of `joint` takes at a time, and rows that one of `moments` does
DEEP_1, DEEP_4, ROWS_4, TILE_4 = DEEP + 1, DEEP + 4, ROWS + 4, 16 + 4
FOUR = DEEP - 4  # a mask: loops along a tile go by fours, so that their bodies are unrolled
uint32 = np.uint32  # of an index: numba need not see to its being negative
ROOM = 2**28  # bytes that an E step of some rows may take besides the data


# ---------------------------------------------------------------------------------------- joint
def _joint(BI):
    """The kernel `joint` of matrices, BI rows of P_k at a time: 16 row groups by BI/4 threads, each 4 by 4 sums."""
    BI_4, LANES, ACROSS = BI + 4, BI // 4, BI // 4 - 1
    SHIFT, THREADS = LANES.bit_length() - 1, 16 * LANES

    @kernel("T2 i1 i T2 T3 T1 i T2w")
    def joint(X, rows, stride, mu, P, c, add, a):
        """a_kn (+)= c_k - |P_k (x_n - mu_k)|²/2.   X (N,D), mu (K,D), P (K,D,D) or (1,D,D), c (K,) -> a (K,M).

        Column n of a is row rows[n] of X, or with rows of size 0 row n + k stride. add: to what is in a, or instead?"""
        T = X.dtype.type
        Y = cuda.shared.array((DEEP, ROWS_4), X.dtype)
        B = cuda.shared.array((DEEP, BI_4), X.dtype)
        Q = cuda.shared.array((LANES, ROWS), X.dtype)
        s, q = cuda.local.array((4, 4), X.dtype), cuda.local.array(4, X.dtype)
        y, p = cuda.local.array((4, 4), X.dtype), cuda.local.array((4, 4), X.dtype)
        t, k, n0 = cuda.threadIdx.x & (THREADS - 1), cuda.blockIdx.y, cuda.blockIdx.x * ROWS
        lane, group = t & ACROSS, t >> SHIFT
        M, D = a.shape[1], X.shape[1]
        g = k if P.shape[0] > 1 else 0
        for e in range(4):
            q[e] = T(0)
        for i0 in range(0, D, BI):
            for e in range(4):
                for f in range(4):
                    s[e, f] = T(0)
            for j0 in range(0, min(i0 + BI, D), DEEP):
                for u in range(t, ROWS * DEEP, THREADS):
                    m, j = n0 + (u >> 5), j0 + (u & 31)
                    v = T(0)
                    if m < M and j < D:
                        n = rows[uint32(m)] if rows.size else m + k * stride
                        v = X[uint32(n), uint32(j)] - mu[k, uint32(j)]
                    Y[u & 31, u >> 5] = v
                for u in range(t, BI * DEEP, THREADS):
                    i, j = i0 + (u >> 5), j0 + (u & 31)
                    B[u & 31, u >> 5] = P[g, uint32(i), uint32(j)] if i < D and j < D else T(0)
                cuda.syncthreads()
                for j in range(0, DEEP, 4):
                    for h in range(4):
                        for e in range(4):
                            y[h, e] = Y[(j & FOUR) + h, group * 4 + e]
                            p[h, e] = B[(j & FOUR) + h, lane * 4 + e]
                    for h in range(4):
                        for e in range(4):
                            for f in range(4):
                                s[e, f] += y[h, e] * p[h, f]
                cuda.syncthreads()
            for e in range(4):
                for f in range(4):
                    q[e] += s[e, f] * s[e, f]
        for e in range(4):
            Q[lane, group * 4 + e] = q[e]
        cuda.syncthreads()
        for u in range(t, ROWS, THREADS):
            if n0 + u < M:
                v = T(0)
                for e in range(LANES):
                    v += Q[e, u]
                v = c[k] + _half(v)
                a[k, n0 + u] = a[k, n0 + u] + v if add else v

    return joint, THREADS


@shared
def _half(q):
    """-q/2; a q that overflowed counts as the largest number: such a row is improbable, never NaN."""
    T = type(q)
    huge = T(1e38) if is_float32(q) else T(1e307)
    return T(-0.5) * (q if q < huge else huge)


_joint_full = {BI: _joint(BI) for BI in (16, 32)}


@kernel("T2 i1 T2 T2 T2 T1 T2w")
def _joint_diag(X, rows, mu, P, h, c, a):
    """As _joint_full, with P (K,D). A gap gives h (K,D) = 2 log P - log 2pi in place of a square; h (0,0): X has none.

    Tiles of 64 rows by 16 components, each thread 4 by 4."""
    T = X.dtype.type
    Y = cuda.shared.array((DEEP, ROWS_4), X.dtype)
    B = cuda.shared.array((DEEP, TILE_4), X.dtype)
    C = cuda.shared.array((DEEP, TILE_4), X.dtype)
    H = cuda.shared.array((DEEP, TILE_4), X.dtype)
    s, y = cuda.local.array((4, 4), X.dtype), cuda.local.array((4, 4), X.dtype)
    m_k, p = cuda.local.array((4, 4), X.dtype), cuda.local.array((4, 4), X.dtype)
    t, n0, k0 = cuda.threadIdx.x & 63, cuda.blockIdx.x * ROWS, cuda.blockIdx.y * 16
    lane, group = t & 3, t >> 2
    M, D, K = a.shape[1], X.shape[1], a.shape[0]
    for e in range(4):
        for f in range(4):
            s[e, f] = T(0)
    for j0 in range(0, D, DEEP):
        for u in range(t, ROWS * DEEP, 64):
            m, j = n0 + (u >> 5), j0 + (u & 31)
            v = T(0)
            if m < M and j < D:
                v = X[uint32(rows[uint32(m)] if rows.size else m), uint32(j)]
            Y[u & 31, u >> 5] = v
        for u in range(t, 16 * DEEP, 64):
            k, j = k0 + (u >> 5), j0 + (u & 31)
            here = k < K and j < D
            B[u & 31, u >> 5] = mu[uint32(k), uint32(j)] if here else T(0)
            C[u & 31, u >> 5] = P[uint32(k), uint32(j)] if here else T(0)
            H[u & 31, u >> 5] = h[uint32(k), uint32(j)] if here and h.size else T(0)
        cuda.syncthreads()
        if h.size:
            for j in range(DEEP):
                for e in range(4):
                    for f in range(4):
                        v = (Y[j, group * 4 + e] - B[j, lane * 4 + f]) * C[j, lane * 4 + f]
                        s[e, f] += v * v if v == v else H[j, lane * 4 + f]
        else:
            for j in range(0, DEEP, 4):
                for g in range(4):
                    for e in range(4):
                        y[g, e] = Y[(j & FOUR) + g, group * 4 + e]
                        m_k[g, e] = B[(j & FOUR) + g, lane * 4 + e]
                        p[g, e] = C[(j & FOUR) + g, lane * 4 + e]
                for g in range(4):
                    for e in range(4):
                        for f in range(4):
                            v = (y[g, e] - m_k[g, f]) * p[g, f]
                            s[e, f] += v * v
        cuda.syncthreads()
    for e in range(4):
        for f in range(4):
            if n0 + group * 4 + e < M and k0 + lane * 4 + f < K:
                a[k0 + lane * 4 + f, n0 + group * 4 + e] = c[k0 + lane * 4 + f] + _half(s[e, f])


# ---------------------------------------------------------------------------------------- normalise
@kernel("T2w T1 i1 i i T1w i1w T2w T2w")
def _normalise(a, w, rows, chunk, blank, log_px, labels, r, part):
    """a_kn -> w_n r_kn with r_kn = softmax_k(a_kn). Fills of log_px (N,), labels (N,), r (N,K) and the last column of
    part (chunks,.), for the sum of w log p(x) over `chunk` rows, a block's, what is not of size 0.

    blank: have these rows nothing observed? Then log p = 0. Bishop 2006, eq. 9.13, in logs."""
    T = a.dtype.type
    sums = cuda.shared.array(256, a.dtype)
    t, (K, M) = cuda.threadIdx.x, a.shape
    total, lost = T(0), T(0)
    for m in range(cuda.blockIdx.x * chunk + t, min((cuda.blockIdx.x + 1) * chunk, M), 256):
        n = rows[m] if rows.size else m
        top = a[0, m]
        for k in range(1, K):
            top = max(top, a[k, m])
        s = T(0)
        for k in range(K):
            v = exp(a[k, m] - top)
            a[k, m] = v
            s += v
        l = T(0) if blank else top + log(s)
        weight = w[n] if w.size else T(1)
        if log_px.size:
            log_px[n] = l
        if labels.size:
            best, v = 0, T(-1)
            for k in range(K):
                if a[k, m] / s > v:  # of r, as the CPU's: of those that are equal the first
                    best, v = k, a[k, m] / s
            labels[n] = best
        if r.size:
            for k in range(K):
                r[n, k] = a[k, m] / s
        s = weight / s
        for k in range(K):
            a[k, m] *= s
        y = weight * l - lost
        v = total + y
        lost = (v - total) - y
        total = v
    if part.size:
        sums[t] = total
        total = block_sum(sums)
        if t == 0:
            part[cuda.blockIdx.x, part.shape[1] - 1] = total


# ---------------------------------------------------------------------------------------- moments
def _moments(BT):
    """The kernel `moments` of matrices, tiles of BT by BT columns: 128 threads, each 4 by 4 sums, in groups that share
    the rows."""
    BT_4, LANES, ACROSS = BT + 4, BT // 4, BT // 4 - 1
    SHIFT = LANES.bit_length() - 1
    GROUPS = 128 // LANES**2
    COLUMN = BT.bit_length() - 1

    @kernel("T2 i1 i i T2 T2 i i T2w")
    def moments(X, rows, stride, times, mu, r, chunk, more, part):
        """Row b of part: sums over rows b chunk .. of r (S0), r y (S1) and r y y' (S2, tiles on or below its diagonal),
        y = x - mu_k.   X (N,D), mu (K,D), r (K,M) -> part (chunks, K + K D + K D D + 1).

        rows and stride as in `joint`; `times` rows of X in turn have the weight of one column of r. more: add S2 to
        what is in part, and nothing else."""
        T = X.dtype.type
        Yi = cuda.shared.array((DEEP, BT_4), X.dtype)
        Yj = cuda.shared.array((DEEP, BT_4), X.dtype)
        R = cuda.shared.array(DEEP, X.dtype)
        G = cuda.shared.array((BT, BT_4), X.dtype)
        G1 = cuda.shared.array(BT_4, X.dtype)
        s = cuda.local.array((5, 4), X.dtype)  # S2 by 4, then S1
        total = cuda.local.array((5, 4), X.dtype)
        lost = cuda.local.array((5, 4), X.dtype)
        yi, yj = cuda.local.array((4, 4), X.dtype), cuda.local.array((4, 4), X.dtype)
        t, b, k = cuda.threadIdx.x & 127, cuda.blockIdx.x, cuda.blockIdx.y
        bi = 0
        bj = cuda.blockIdx.z  # tiles of the lower triangle, row by row
        while bj > bi:
            bi += 1
            bj -= bi
        i0, j0 = bi * BT, bj * BT
        lane, across, group = (t >> SHIFT) & ACROSS, t & ACROSS, t >> (2 * SHIFT)
        (K, M), D = r.shape, X.shape[1]
        n, n_lost = T(0), T(0)
        for e in range(5):
            for f in range(4):
                total[e, f] = T(0)
                lost[e, f] = T(0)
        last = min((b + 1) * chunk, M) * times
        for m0 in range(b * chunk * times, last, DEEP):
            for u in range(t, DEEP << COLUMN, 128):
                m, i = m0 + (u >> COLUMN), u & (BT - 1)
                x, z = T(0), T(0)
                if m < last:
                    row = uint32(rows[uint32(m)] if rows.size else m + k * stride)
                    if i0 + i < D:
                        x = X[row, uint32(i0 + i)] - mu[k, uint32(i0 + i)]
                    if j0 + i < D:
                        z = X[row, uint32(j0 + i)] - mu[k, uint32(j0 + i)]
                Yi[u >> COLUMN, i] = x
                Yj[u >> COLUMN, i] = z
            if t < DEEP:
                R[t] = r[k, uint32((m0 + t) // times)] if m0 + t < last else T(0)
            cuda.syncthreads()
            for e in range(5):
                for f in range(4):
                    s[e, f] = T(0)
            v = T(0)
            for first in range(0, DEEP // GROUPS, 4):
                m = group * (DEEP // GROUPS) + (first & FOUR)
                for h in range(4):
                    v += R[m + h]
                    for e in range(4):
                        yi[h, e] = R[m + h] * Yi[m + h, lane * 4 + e]
                        yj[h, e] = Yj[m + h, across * 4 + e]
                for h in range(4):
                    for e in range(4):
                        s[4, e] += yi[h, e]
                        for f in range(4):
                            s[e, f] += yi[h, e] * yj[h, f]
            for e in range(5):
                for f in range(4):
                    y = s[e, f] - lost[e, f]
                    z = total[e, f] + y
                    lost[e, f] = (z - total[e, f]) - y
                    total[e, f] = z
            y = v - n_lost
            z = n + y
            n_lost = (z - n) - y
            n = z
            cuda.syncthreads()
        for g in range(GROUPS):
            if group == g:
                for e in range(4):
                    for f in range(4):
                        i, j = lane * 4 + e, across * 4 + f
                        G[i, j] = G[i, j] + total[e, f] if g else total[e, f]
                    if across == 0:
                        i = lane * 4 + e
                        G1[i] = G1[i] + total[4, e] if g else total[4, e]
                if lane + across == 0:
                    G1[BT] = G1[BT] + n if g else n
            cuda.syncthreads()
        for u in range(t, BT * BT, 128):
            i, j = i0 + (u >> COLUMN), j0 + (u & (BT - 1))
            if i < D and j <= i:
                at = K + K * D + (k * D + i) * D + j
                v = G[u >> COLUMN, u & (BT - 1)]
                part[b, at] = part[b, at] + v if more else v
        if bj == 0 and not more:
            for i in range(t, BT, 128):
                if i0 + i < D:
                    part[b, K + k * D + i0 + i] = G1[i]
            if t == 0 and bi == 0:
                part[b, k] = G1[BT]

    return moments


_moments_full = {BT: _moments(BT) for BT in (16, 32)}


@kernel("T2 i1 T2 T2 T2 i i T2w")
def _moments_diag(X, rows, mu, P, r, chunk, gaps, part):
    """As `moments`, with S2 (K,D) = sum r y².   P (K,D); gaps: has X NaN? There r / P² counts for r y², and r y is 0.

    Tiles of 16 components by 32 columns, each of 128 threads 2 by 2."""
    T = X.dtype.type
    Y = cuda.shared.array((DEEP, DEEP_1), X.dtype)
    R = cuda.shared.array((16, DEEP_4), X.dtype)
    s1 = cuda.local.array((2, 2), X.dtype)
    s2 = cuda.local.array((2, 2), X.dtype)
    sums = cuda.local.array((3, 2, 2), X.dtype)
    lost = cuda.local.array((3, 2, 2), X.dtype)
    m_k = cuda.local.array((2, 2), X.dtype)
    v_k = cuda.local.array((2, 2), X.dtype)
    y_m, r_m = cuda.local.array((4, 2), X.dtype), cuda.local.array((4, 2), X.dtype)
    t, b = cuda.threadIdx.x & 127, cuda.blockIdx.x
    k0, i0 = cuda.blockIdx.y * 16, cuda.blockIdx.z * 32
    lane, across = t >> 4, t & 15
    (K, M), D = r.shape, X.shape[1]
    for e in range(2):
        for f in range(2):
            k, i = k0 + lane * 2 + e, i0 + across + 16 * f
            here = k < K and i < D
            m_k[e, f] = mu[k, i] if here else T(0)
            p = P[k, i] if here and gaps else T(1)
            v_k[e, f] = T(1) / (p * p)
            for g in range(3):
                sums[g, e, f] = T(0)
                lost[g, e, f] = T(0)
    last = min((b + 1) * chunk, M)
    for m0 in range(b * chunk, last, DEEP):
        for u in range(t, DEEP * DEEP, 128):
            m, i = m0 + (u >> 5), i0 + (u & 31)
            v = T(0)
            if m < last and i < D:
                v = X[uint32(rows[uint32(m)] if rows.size else m), uint32(i)]
            Y[u >> 5, u & 31] = v
        for u in range(t, 16 * DEEP, 128):
            k, m = k0 + (u >> 5), m0 + (u & 31)
            R[u >> 5, u & 31] = r[uint32(k), uint32(m)] if k < K and m < last else T(0)
        cuda.syncthreads()
        n0, n1 = T(0), T(0)
        for e in range(2):
            for f in range(2):
                s1[e, f] = T(0)
                s2[e, f] = T(0)
        if gaps:
            for m in range(DEEP):
                for e in range(2):
                    for f in range(2):
                        weight = R[lane * 2 + e, m]
                        y = Y[m, across + 16 * f] - m_k[e, f]
                        s1[e, f] += weight * y if y == y else T(0)
                        s2[e, f] += weight * (y * y if y == y else v_k[e, f])
        else:
            for first in range(0, DEEP, 4):
                m = first & FOUR
                for e in range(2):
                    for h in range(4):
                        y_m[h, e] = Y[m + h, across + 16 * e]
                        r_m[h, e] = R[lane * 2 + e, m + h]
                for h in range(4):
                    for e in range(2):
                        for f in range(2):
                            y = y_m[h, f] - m_k[e, f]
                            v = r_m[h, e] * y
                            s1[e, f] += v
                            s2[e, f] += v * y
        for m in range(DEEP):
            n0 += R[lane * 2, m]
            n1 += R[lane * 2 + 1, m]
        for g in range(3):
            for e in range(2):
                for f in range(2):
                    y = (s1[e, f] if g == 0 else s2[e, f] if g == 1 else n1 if e else n0) - lost[g, e, f]
                    z = sums[g, e, f] + y
                    lost[g, e, f] = (z - sums[g, e, f]) - y
                    sums[g, e, f] = z
        cuda.syncthreads()
    for e in range(2):
        for f in range(2):
            k, i = k0 + lane * 2 + e, i0 + across + 16 * f
            if k < K and i < D:
                part[b, K + k * D + i] = sums[0, e, f]
                part[b, K + K * D + k * D + i] = sums[1, e, f]
                if i == 0:
                    part[b, k] = sums[2, e, f]


# ---------------------------------------------------------------------------------------- reduce
@kernel("T2 i i i d1w", double=True)
def _reduce(part, D, tied, add, S):
    """S (+)= sum over chunks of part (chunks, K + K D + S2 + 1); tied: S2 is summed over components, too. D = 0: S2 is
    (K,D), and otherwise (K,D,D) of which the upper triangles are not there.   Blocks of 32 entries by 8 threads."""
    sums = cuda.shared.array((8, 32), np.float64)
    x, y, chunks = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5, part.shape[0]
    e = cuda.blockIdx.x * 32 + x
    K = (part.shape[1] - 1) // (1 + D + D * D) if D else 1
    first = K + K * D  # of S2
    copies = K if tied else 1
    total, at = 0.0, e
    there = e < S.size
    if there and tied and e == S.size - 1:
        copies, at = 1, part.shape[1] - 1
    elif D and first <= e < S.size - 1:
        there = (e - first) % D <= (e - first) // D % D
    else:
        copies = 1
    if there:
        for k in range(copies):
            for b in range(y, chunks, 8):
                total += part[b, at + k * D * D]
    sums[y, x] = total
    cuda.syncthreads()
    if y == 0 and e < S.size:
        total = S[e] if add else 0.0
        for i in range(8):
            total += sums[i, x]
        S[e] = total


@kernel("T1 T1 T1w", double=True)
def _bound(S, c, out):
    """One block of 256 threads: out = l / sum S0, NaN where a c_k is not a number above -inf."""
    sums = cuda.shared.array(256, np.float64)
    t, K, total = cuda.threadIdx.x, c.size, 0.0
    for k in range(t, K, 256):
        total += S[k] if c[k] > -math.inf else math.nan
    sums[t] = total
    total = block_sum(sums)
    if t == 0:
        out[0] = S[S.size - 1] / total


def bound(S, c):
    """Mean bound per row, l / sum S0, read back; NaN where a component has collapsed, that is some c_k = -inf.

    S: statistics, flat; c (K,) float64."""
    out = empty(1, np.float64)
    _bound(1, 256, S, c, out)
    return float(get(out)[0])


# ---------------------------------------------------------------------------------------- rows with gaps
class Gaps(NamedTuple):
    """Row numbers, on the device: of complete rows, of others, and of those of which nothing was observed; the most
    gaps of one of the others."""

    complete: object
    others: object
    blank: object
    most: int


def gaps(X):
    """What an E step has to know of the gaps in X (N,D): to be made once for all steps."""
    missing, D = np.isnan(get(X)).sum(axis=1), X.shape[1]
    some = (missing > 0) & (missing < D)
    rows = [np.flatnonzero(a) for a in (missing == 0, some, missing == D)]
    return Gaps(*map(put, rows), int(missing[some].max(initial=0)))


@kernel("T3 d3w d2w", double=True)
def _unit(P, Q, scale):
    """Q (K,D,D) = P'P divided by root root', root that of its diagonal; scale (K,D) = 1 / root. A thread an entry."""
    e, D = cuda.grid(1), P.shape[1]
    if e < Q.size:
        k, i, j = e // (D * D), e // D % D, e % D
        ij, ii, jj = 0.0, 0.0, 0.0
        for m in range(min(i, j), D):
            u, v = np.float64(P[k, m, i]), np.float64(P[k, m, j])
            ij += u * v
            ii += u * u
            jj += v * v
        Q[k, i, j] = ij / math.sqrt(ii * jj) if i != j else 1.0
        if i == j:
            scale[k, i] = 1 / math.sqrt(ii)


@shared
def _factor(Q, g, cols, m, most, L, t):
    """L L' = Q_mm for the m columns cols[:m,t]: entry ij of L is L[i most + j, t], of the diagonal its inverse. Returns
    log|Q_mm|. A pivot that is rounding alone is raised: its column is all but determined by the others."""
    log_det = 0.0
    for i in range(m):
        for j in range(i + 1):
            v = Q[g, cols[i, t], cols[j, t]]
            for p in range(j):
                v -= L[i * most + p, t] * L[j * most + p, t]
            if j < i:
                L[i * most + j, t] = v * L[j * most + j, t]
            else:
                v = max(v, 4e-16)
                log_det += math.log(v)
                L[i * most + i, t] = 1 / math.sqrt(v)
    return log_det


@kernel("T2 i1 T2 d3 d2 i T2w T2w i2w d2w d2w", double=True)
def _fill(X, rows, mu, Q, scale, most, Y, a, cols, L, y):
    """For rows X[rows] with gaps: (y_o, f) of component k and row m to Y[k M + m], h to a[k,m].

    A thread for each row and component, t = k M + m, with columns t of the others to itself: cols (D+1,.), the gaps,
    from the other end the columns observed, and the number of gaps; L (most most,.), the factor of Q_mm; y (D,.)."""
    t, (K, M), D = cuda.grid(1), a.shape, X.shape[1]
    if t >= K * M:
        return
    k, n, m = t // M, rows[t % M], 0
    g = k if Q.shape[0] > 1 else 0
    for d in range(D):
        if X[n, d] != X[n, d]:
            cols[m, t] = d
            m += 1
        else:
            cols[D - 1 - d + m, t] = d
    cols[D, t] = m
    h = 0.5 * m * math.log(2 * math.pi) - 0.5 * _factor(Q, g, cols, m, most, L, t)
    for i in range(m):
        h += math.log(scale[g, cols[i, t]])
    a[k, t % M] = h
    for j in range(m, D):
        d = cols[j, t]
        v = X[n, d] - mu[k, d]
        Y[t, d] = v
        y[j, t] = v / scale[g, d]
    for i in range(m):  # L z = -Q_mo y_o
        v = 0.0
        for j in range(m, D):
            v -= Q[g, cols[i, t], cols[j, t]] * y[j, t]
        for p in range(i):
            v -= L[i * most + p, t] * y[p, t]
        y[i, t] = v * L[i * most + i, t]
    for i in range(m - 1, -1, -1):  # L' f = z
        v = y[i, t]
        for p in range(i + 1, m):
            v -= L[p * most + i, t] * y[p, t]
        v *= L[i * most + i, t]
        y[i, t] = v
        Y[t, cols[i, t]] = v * scale[g, cols[i, t]]


@kernel("d2 i2 d2w i T2w", double=True)
def _spread(scale, cols, L, most, E):
    """C = M'M, M the inverse of the factor in column t of L, as rows t most + p of E: M_p, in the gaps' columns."""
    t, D = cuda.grid(1), E.shape[1]
    if t >= L.shape[1]:
        return
    T, m = E.dtype.type, cols[D, t]
    g = t // (L.shape[1] // scale.shape[0])  # of one scale for all components, 0
    for j in range(m):  # M in place of L, column by column: M_ij = -M_ii sum_{j<=p<i} L_ip M_pj
        for i in range(j + 1, m):
            v = 0.0
            for p in range(j, i):
                v -= L[i * most + p, t] * L[p * most + j, t]
            L[i * most + j, t] = v * L[i * most + i, t]
    for p in range(most):
        for d in range(D):
            E[t * most + p, d] = T(0)
        if p < m:
            for i in range(p + 1):
                E[t * most + p, cols[i, t]] = T(L[p * most + i, t] * scale[g, cols[i, t]])


# ---------------------------------------------------------------------------------------- E step of all rows
@functools.lru_cache(64)
def _zeros(shape, dtype):
    """An array of zeros, or of size 0, of which there is one."""
    return put(np.zeros(shape, dtype))


def _passes(X, gaps):
    """The rows as lists of numbers, of size 0 for all of them: (list, how many, most gaps in one of them, blank?)."""
    if gaps is None:
        return [(_zeros((0,), np.int64), len(X), 0, False)]
    lists = (gaps.complete, 0, False), (gaps.others, gaps.most, False), (gaps.blank, X.shape[1], True)
    return [(rows, rows.size, *more) for rows, *more in lists if rows.size]


def _unit_of(P, most):
    """Q and scale of `_fill` (K,D,D), (K,D), when P are matrices and there are gaps."""
    if P.ndim == 2 or most == 0:
        return None
    Q, scale = empty(P.shape, np.float64), empty(P.shape[:2], np.float64)
    _unit(-(-P.size // 128), 128, P, Q, scale)
    return Q, scale


def _at_once(T, K, D, most):
    """How many rows, with gaps, there is room for."""
    return max(
        ROOM // (K * T.itemsize + (K * (D * (T.itemsize * (1 + most) + 16) + 8 * most**2 + 16) if most else 0)), 1
    )


class _Rows(NamedTuple):
    """Rows as `joint` and `moments` take them, and what `_fill` knows of their gaps."""

    X: object
    rows: object
    stride: int
    mu: object
    cols: object
    L: object


def _log_joint(X, rows, M, mu, P, c, unit, most):
    """a_kn = log p(x_n, k) (K,M) of M rows with at most `most` gaps, and their _Rows."""
    (K, D), T = mu.shape, X.dtype
    a, found = empty((K, M), T), _Rows(X, rows, 0, mu, _zeros((0, 0), np.int64), _zeros((0, 0), np.float64))
    if P.ndim == 2:
        h = _zeros((0, 0), T)
        if most:
            h = empty(P.shape, T)
            _of_gap(-(-P.size // 128), 128, P, h)
        _joint_diag((-(-M // ROWS), -(-K // 16)), 64, X, rows, mu, P, h, c, a)
        return a, found
    if most:
        Y, cols = empty((K * M, D), T), empty((D + 1, K * M), np.int64)
        L, y = empty((most**2, K * M), np.float64), empty((D, K * M), np.float64)
        _fill(-(-K * M // 64), 64, X, rows, mu, *unit, most, Y, a, cols, L, y)
        found = _Rows(Y, _zeros((0,), np.int64), M, _zeros((K, D), T), cols, L)
    joint, threads = _joint_full[16 if D <= 16 else 32]
    joint((-(-M // ROWS), K), threads, *found[:4], P, c, most > 0, a)
    return a, found


def _e_step(X, w, mu, P, c, gaps, S, log_px, labels, r, tied=False):
    """S, when not of size 0, and the answers of all rows, a part of them at a time where they are many."""
    (K, D), T, full, add = mu.shape, X.dtype, P.ndim == 3, False
    size = K + K * D * (D + 1 if full else 2) + 1 if S.size else 0
    if len(X) >= 2**32:
        raise ValueError(
            f"The GPU takes fewer than 2^32 rows at a time, got {len(X)}. Try fit with a function of blocks."
        )
    w = cast(w, T)
    for rows, N, most, blank in _passes(X, gaps):
        if blank and size:
            continue
        unit, at_once = _unit_of(P, most), _at_once(T, K, D, most if full else 0)
        for lo in range(0, N, at_once):
            M = min(at_once, N - lo)
            cut = lambda v: v[lo : lo + M] if 0 < v.shape[0] == N > M else v  # noqa: B023
            some, x, given = cut(rows), X, (w, log_px, labels, r)
            if rows.size == 0:
                x, *given = map(cut, (X, *given))
            a, found = _log_joint(x, some, M, mu, P, c, unit, most)
            chunk = _chunk(M, size)
            parts = empty((-(-M // chunk) if size else 0, size), T)
            _normalise(-(-M // chunk), 256, a, given[0], some, chunk, blank, *given[1:], parts)
            if size:
                _sum(found, a, P, chunk, unit, most, parts)
                _reduce(-(-S.size // 32), 256, parts, D if full else 0, tied, add, S)
                add = True
    if size and not add:  # no rows
        _reduce(-(-S.size // 32), 256, empty((0, size), T), D if full else 0, tied, add, S)


def _sum(at, r, P, chunk, unit, most, parts):
    """S0, S1 and S2 of rows with weighted responsibilities r (K,M), a row of parts for each chunk of them."""
    (K, M), D = r.shape, P.shape[1]
    if P.ndim == 2:
        _moments_diag((len(parts), -(-K // 16), -(-D // 32)), 128, at.X, at.rows, at.mu, P, r, chunk, most > 0, parts)
        return
    BT = 16 if D <= 16 else 32
    tiles = -(-D // BT)
    blocks = len(parts), K, tiles * (tiles + 1) // 2
    _moments_full[BT](blocks, 128, at.X, at.rows, at.stride, 1, at.mu, r, chunk, 0, parts)
    if most:
        E = empty((K * M * most, D), at.X.dtype)
        _spread(-(-K * M // 64), 64, unit[1], at.cols, at.L, most, E)
        _moments_full[BT](blocks, 128, E, at.rows, M * most, most, at.mu, r, chunk, 1, parts)


def _chunk(M, size):
    """Rows of a chunk: so many chunks that all processors have some, but no more than have room for their sums."""
    chunks = min(512, max(2**26 // max(size, 1), 8))
    return max(-(-M // chunks) + DEEP - 1, 256) // DEEP * DEEP


@kernel("T2 T2w")
def _of_gap(P, h):
    """h = 2 log P - log 2pi."""
    e, T, K = cuda.grid(1), P.dtype.type, P.shape[0]
    if e < P.size:
        d = e // K
        h[e - d * K, d] = T(2) * log(P[e - d * K, d]) - T(1.8378770664093453)


def statistics_full(X, w, mu, P, c, S, gaps=None):
    """S of the CPU's module docstring for full covariances.   X (N,D), w (N,) float64 or (0,), mu (K,D), P (K,D,D),
    c (K,); gaps: what `gaps` makes of X when it has NaN."""
    T = X.dtype
    _e_step(X, w, mu, P, c, gaps, S, _zeros((0,), T), _zeros((0,), np.int64), _zeros((0, 0), T))


def statistics_tied(X, w, mu, P, c, S, gaps=None):
    """As statistics_full, with one P (D,D)."""
    T, P = X.dtype, P.reshape((1, *P.shape))
    _e_step(X, w, mu, P, c, gaps, S, _zeros((0,), T), _zeros((0,), np.int64), _zeros((0, 0), T), True)


def statistics_diag(X, w, mu, P, c, S, gaps=None):
    """As statistics_full, with P (K,D), one over the standard deviations."""
    statistics_full(X, w, mu, P, c, S, gaps)


def posterior_full(X, mu, P, c, log_px, labels, r, gaps=None):
    """log p(x) to log_px (N,), argmax_k r to labels (N,) int64, responsibilities to r (N,K); (0,), (0,), (0,K) skip.

    With gaps, log p of what was observed: 0 and the weights where that is nothing."""
    _e_step(X, _zeros((0,), X.dtype), mu, P, c, gaps, _zeros((0,), np.float64), log_px, labels, r)


def posterior_tied(X, mu, P, c, log_px, labels, r, gaps=None):
    """As posterior_full, with one P (D,D) for all components."""
    posterior_full(X, mu, P.reshape((1, *P.shape)), c, log_px, labels, r, gaps)


def posterior_diag(X, mu, P, c, log_px, labels, r, gaps=None):
    """As posterior_full, with P (K,D), one over the standard deviations."""
    posterior_full(X, mu, P, c, log_px, labels, r, gaps)


# ---------------------------------------------------------------------------------------- gaps filled in
@kernel("T2 i1 T2 T2 i T2 d2 i d1 d2 i2 d2w T2w", double=True)
def _imputed(X, rows, mu, r, stride, Y, scale, most, u, eps, cols, L, out):
    """out (N,D), its gaps in these rows: means over components of mu_k + f_k, or with u and eps draws. A thread a row.

    Y holds f_k of row m in row m + k stride; of diagonal covariances Y, cols and L have size 0, f is 0, and scale (K,D)
    are the standard deviations. r (K,M)."""
    m, T, (K, M), D = cuda.grid(1), X.dtype.type, r.shape, X.shape[1]
    if m >= M:
        return
    n, z, sum_r = rows[m], 0, 0.0
    if u.size:
        for k in range(K - 1):
            sum_r += r[k, m]
            if sum_r < u[n]:
                z = k + 1
    for d in range(D):
        if X[n, d] != X[n, d]:
            v = 0.0
            if u.size == 0:
                for k in range(K):
                    v += np.float64(r[k, m]) * (mu[k, d] + (Y[m + k * stride, d] if Y.size else T(0)))
            elif Y.size:
                v = np.float64(mu[z, d] + Y[m + z * stride, d])
            else:
                v = mu[z, d] + eps[n, d] * scale[z, d]
            out[n, d] = T(v)
    if u.size and Y.size:  # += L^-T eps
        t, g = m + z * stride, z if scale.shape[0] > 1 else 0
        for i in range(cols[D, t] - 1, -1, -1):
            v = eps[n, i]
            for p in range(i + 1, cols[D, t]):
                v -= L[p * most + i, t] * L[p * most + p, t]
            v *= L[i * most + i, t]
            L[i * most + i, t] = v  # the solution, in place of the diagonal
            out[n, cols[i, t]] += T(v * scale[g, cols[i, t]])


def _impute(X, mu, P, c, u, eps, out):
    (K, D), T = mu.shape, X.dtype
    none, no_rows, none_2 = _zeros((0,), T), _zeros((0,), np.int64), _zeros((0, 0), T)
    out.copy_to_device(X)
    for rows, N, most, blank in _passes(X, gaps(X)):
        if most == 0:
            continue
        unit, at_once = _unit_of(P, most), _at_once(T, K, D, most if P.ndim == 3 else 0)
        if P.ndim == 2:
            scale = empty(P.shape, np.float64)
            _deviations(-(-P.size // 128), 128, P, scale)
        for lo in range(0, N, at_once):
            some = rows[lo : lo + at_once]
            r, at = _log_joint(X, some, some.size, mu, P, c, unit, most)
            _normalise(-(-some.size // 256), 256, r, none, some, 256, blank, none, no_rows, none_2, none_2)
            Y, scale = (none_2, scale) if P.ndim == 2 else (at.X, unit[1])
            given = (X, some, mu, r, at.stride, Y, scale, most, u, eps, at.cols, at.L, out)
            _imputed(-(-some.size // 64), 64, *given)


@kernel("T2 d2w", double=True)
def _deviations(P, scale):
    e, K = cuda.grid(1), P.shape[0]
    if e < P.size:
        d = e // K
        scale[e - d * K, d] = 1 / np.float64(P[e - d * K, d])


def impute_full(X, mu, P, c, u, eps, out):
    """out (N,D): X with its gaps filled, by E[x_m|x_o] = sum_k r_k (mu_k + f_k) where u and eps have size 0, else by a
    draw from p(x_m|x_o) that uniform u (N,) and normal eps (N,D), float64, decide.   mu (K,D), P (K,D,D), c (K,)."""
    _impute(X, mu, P, c, u, eps, out)


def impute_tied(X, mu, P, c, u, eps, out):
    """As impute_full, with one P (D,D)."""
    _impute(X, mu, P.reshape((1, *P.shape)), c, u, eps, out)


def impute_diag(X, mu, P, c, u, eps, out):
    """As impute_full, with P (K,D)."""
    _impute(X, mu, P, c, u, eps, out)


# ---------------------------------------------------------------------------------------- M step, always float64
EMPTY = 2.3e-16  # of the whole weight: a component with less has none


@kernel("T1 T2 T1 T1 T1w T2w T3w T3w T3w T1w", double=True)
def _maximise_matrices(S, mu, R, least, pi, new, Sigma, L, P, c):
    """As the CPU's, a block of 128 threads for each covariance: Cholesky column by column, a thread a row; then the
    columns of its inverse, each on its own."""
    sums = cuda.shared.array(128, S.dtype)
    t, g, (K, D) = cuda.threadIdx.x, cuda.blockIdx.x, mu.shape
    first, last = (g, g + 1) if Sigma.shape[0] == K else (0, K)
    W, n = 0.0, 0.0
    for k in range(K):
        W += S[k]
    for k in range(first, last):
        n += S[k]
        if t == 0:
            pi[k] = S[k] / W
        for d in range(t, D, 128):
            new[k, d] = mu[k, d] + S[K + k * D + d] / S[k] if S[k] > EMPTY * W else mu[k, d]
    for e in range(t, D * D, 128):
        i, j = e // D, e % D
        if j <= i:
            a = S[K + K * D + (g * D + i) * D + j]
            for k in range(first, last):
                if S[k] > 0:
                    a -= S[K + k * D + i] * (S[K + k * D + j] / S[k])
            a = a / n + R[i] if i == j else a / n
            Sigma[g, i, j] = a
            Sigma[g, j, i] = a
        else:
            P[g, i, j] = 0.0
    cuda.syncthreads()
    sound = True
    for j in range(D):
        for i in range(t, D, 128):
            if i >= j:
                a, b, v = 0.0, 0.0, Sigma[g, j, j]
                for m in range(j):
                    a += L[g, i, m] * L[g, j, m]
                    b += L[g, j, m] * L[g, j, m]
                b = v - b
                ok = b > 4e-15 * D * v  # positive definite, but for rounding
                b = math.sqrt(b) if ok else 1.0
                L[g, i, j] = b if i == j else (Sigma[g, i, j] - a) / b
                if i == j and (not ok or least[i] > b * b):
                    sound = False
        cuda.syncthreads()
    v = 0.0
    for j in range(t, D, 128):  # P L = 1
        for i in range(j, D):
            a = 1.0 if i == j else 0.0
            for m in range(j, i):
                a -= L[g, i, m] * P[g, m, j]
            a /= L[g, i, i]
            P[g, i, j] = a
            v -= 0.5 * R[j] * a * a
        v -= math.log(L[g, j, j])
    sums[t] = v if sound else math.nan
    v = block_sum(sums) - 0.5 * D * math.log(2 * math.pi)
    if t == 0:
        for k in range(first, last):
            c[k] = math.log(pi[k]) + v if v == v and S[k] > EMPTY * W else -math.inf


def maximise_full(S, mu, R, least, pi, new, Sigma, P, c):
    """M step from S about mu (K,D), R (D,), all float64: as the CPU's."""
    _maximise_matrices(len(Sigma), 128, S, mu, R, least, pi, new, Sigma, empty(Sigma.shape, np.float64), P, c)


def maximise_tied(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_full, with one P (D,D) and one Sigma (D,D)."""
    shape = (1, *Sigma.shape)
    maximise_full(S, mu, R, least, pi, new, Sigma.reshape(shape), P.reshape(shape), c)


@kernel("T1 T2 T1 T1 i T1w T2w T2w T2w T1w", double=True)
def _maximise_variances(S, mu, R, least, average, pi, new, Sigma, P, c):
    """As the CPU's, a block of 64 threads for each component."""
    sums = cuda.shared.array(64, S.dtype)
    t, k, (K, D) = cuda.threadIdx.x, cuda.blockIdx.x, mu.shape
    W, mean = 0.0, 0.0
    for l in range(K):
        W += S[l]
    for d in range(t, D, 64):
        e, square = S[K + k * D + d] / S[k], S[K + K * D + k * D + d] / S[k]
        v = square - e * e
        v = (v if v > 4e-15 * square else 0.0) + R[d]  # rounding alone is no variance
        Sigma[k, d] = v
        mean += v / D
        new[k, d] = mu[k, d] + e if S[k] > EMPTY * W else mu[k, d]
    sums[t] = mean
    mean, total = block_sum(sums), 0.0
    cuda.syncthreads()  # before sums are written to again
    for d in range(t, D, 64):
        v = mean if average else Sigma[k, d]
        Sigma[k, d] = v
        sound = v > 0 and v >= least[d] and S[k] > EMPTY * W
        p = 1 / math.sqrt(v) if sound else 0.0
        P[k, d] = p
        total += math.log(p) - 0.5 * R[d] / v if sound else math.nan
    sums[t] = total
    total = block_sum(sums) - 0.5 * D * math.log(2 * math.pi)
    if t == 0:
        pi[k] = S[k] / W
        c[k] = math.log(S[k] / W) + total if total == total else -math.inf


def maximise_diag(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_full, with variances Sigma (K,D), and P (K,D) one over roots."""
    _maximise_variances(len(Sigma), 64, S, mu, R, least, 0, pi, new, Sigma, P, c)


def maximise_spherical(S, mu, R, least, pi, new, Sigma, P, c):
    """As maximise_diag, each component's variances replaced by their mean."""
    _maximise_variances(len(Sigma), 64, S, mu, R, least, 1, pi, new, Sigma, P, c)


# ---------------------------------------------------------------------------------------- starts, samples
@kernel("T2 T2 T1 T2w")
def _squared_distances(X, Z, s, d2):
    n, l, T, D = cuda.grid(1), cuda.blockIdx.y, X.dtype.type, X.shape[1]
    if n < X.shape[0]:
        v, seen = T(0), T(0)
        for d in range(D):
            u = (X[n, d] - Z[l, d]) * s[d]
            if u == u:
                v += u * u
                seen += T(1)
        d2[l, n] = v * (T(D) / seen) if seen > T(0) else T(0)


def squared_distances(X, Z, s, d2):
    """d2[l,n] = sum_d ((x_nd - z_ld) s_d)².   X (N,D), Z (L,D), s (D,)  ->  d2 (L,N).

    Of a row with gaps (NaN), D times the mean over what was observed; 0 where that is nothing."""
    _squared_distances((-(-len(X) // 128), len(Z)), 128, X, Z, s, d2)


@kernel("T2 T3 i1 T2 T2w", double=True)
def _sample(mu, V, z, eps, X):
    e, D = cuda.grid(1), X.shape[1]
    if e < X.size:
        n, d = e // D, e % D
        v, k = mu[z[n], d], z[n] if V.shape[0] > 1 else 0
        if V.shape[1] == 1:
            v += V[k, 0, d] * eps[n, d]
        else:
            for i in range(D):
                v += V[k, d, i] * eps[n, i]
        X[n, d] = v


def sample(mu, V, z, eps, X):
    """x_n = mu_z + V_z eps_n, V V' = Sigma.   mu (K,D), V (K,D,D), (1,D,D), or the diagonals (K,1,D), z (N,) int64,
    eps (N,D) -> X (N,D); all float64."""
    _sample(-(-X.size // 128), 128, mu, V, z, eps, X)
