"""Matrix products with bias and activation: an own kernel for those of a small layer, cuBLAS where there is much to do.

Own kernel: a block makes a BM x BN tile of C. It goes along K in slabs of BK, which lie in shared memory as they lie in
global memory, transposed or not, so that all copies run along rows. The threads of a block form SLICES groups. Each
group takes its own part of every slab and sums a tile of its own, of which a thread has TM x TN numbers in registers:

              op(B)  BK x BN          thread (group, ty, tx) reads four of its group's k at a time,
                   +---------+            op(A)[rows of ty, k .. k+3]   TM reads of 16 bytes, or 4
    op(A)  BM x BK | BM x BN |            op(B)[k .. k+3, columns of tx]    TN of them, or 4
                   +---------+        for 4 TM TN multiply-adds; the next slab is under way to its registers meanwhile

At the end the groups' tiles are added in order, so results repeat to the bit. A product of a small layer has few tiles,
so they are small: 128 x 784 x 512 makes 128, one for each multiprocessor of an H200. Its eight warps are the groups:
each reuses its registers as the one warp of a plain kernel would, and eight of them hide each other's waiting.

`back`: a block has 32 columns and up to RUN rows, one in BACK/32 of these for each warp. Sums of several runs are added
up by the same kernel, in order.
"""

import functools
import threading

import numpy as np

from ..shared import checks
from ..shared.activations import ACTIVATIONS, activate, slope
from . import cublas
from .api import cuda, empty, kernel

# Both are estimates until measured.
MANY_TILES = 132  # large tiles are for products with as many of them: one for each multiprocessor of an H100 or H200
MANY_PRODUCTS = 1 << 27  # multiply-adds from which cuBLAS is faster, a pass for bias and activation included

THREADS = 256
SMALL = 32, 16, 64, 8  # BM, BN, BK, SLICES
LARGE = 64, 64, 16, 1
TM, TN = 4, 4
BACK = 512  # threads of a block of `back`
RUN = 128  # rows that it has, more where there are more than RUN² in all
uint32 = np.uint32  # of an index: numba need not see to its being negative
WHICH = {name: i for i, name in enumerate(ACTIVATIONS)}


def _log2(n):
    assert n & (n - 1) == 0
    return n.bit_length() - 1


def _product(transpose, tile):
    """The kernel for a transpose and a tile. What is computed here is a constant to the compiler."""
    BM, BN, BK, SLICES = tile
    TA, TB = transpose[0] == "t", transpose[1] == "t"
    NY, NX = BM // TM, BN // TN  # threads of a group, ty by tx
    assert THREADS == SLICES * NY * NX
    # a slab of op(A) is BM x BK, or BK x BM if it is a transpose; AC, BC are the slabs' columns, AP, BP with a padding
    # that spreads what is read at once, one column of several rows, over the banks of shared memory
    AC, BC = (BM if TA else BK), (BK if TB else BN)
    AP, BP = (AC if TA else AC + 4), (BC + 4 if TB else BC)
    SA, SB = max((BK if TA else BM) * AP, SLICES * BM * BN), (BN if TB else BK) * BP
    AL, BL, YL, XL, NL = _log2(AC), _log2(BC), _log2(NY), _log2(NX), _log2(BN)
    UA, UB, UC = BM * BK // THREADS, BK * BN // THREADS, BM * BN // THREADS
    # row i of thread ty is ty YT + i YI: neighbours where that makes one 16-byte read, else apart, for the banks' sake
    YT, YI = (TM, 1) if TA else (1, NY)
    XT, XI = (1, NX) if TB else (TN, 1)
    # strides of op(A)[r, k] and op(B)[k, c] in shared memory
    AR, AK = (1, AP) if TA else (AP, 1)
    BKS, BCS = (1, BP) if TB else (BP, 1)

    def product(A, B, bias, activation, C):
        """C (M,N) = f(op(A) op(B) + bias), f by its place among ACTIVATIONS."""
        T = C.dtype.type
        sa = cuda.shared.array(SA, C.dtype)
        sb = cuda.shared.array(SB, C.dtype)  # two arrays, or reads of B are not seen to be aligned
        acc = cuda.local.array((TM, TN), C.dtype)
        a = cuda.local.array((TM, 4), C.dtype)
        b = cuda.local.array((4, TN), C.dtype)
        next_a = cuda.local.array(UA, C.dtype)
        next_b = cuda.local.array(UB, C.dtype)
        t = cuda.threadIdx.x & (THREADS - 1)  # the mask tells the compiler that no index is negative
        group = t >> (YL + XL)
        ty, tx = (t >> XL) & (NY - 1), t & (NX - 1)
        read_a = ty * YT * AR + group * (BK // SLICES) * AK
        read_b = tx * XT * BCS + group * (BK // SLICES) * BKS
        m0, n0 = cuda.blockIdx.x * BM, cuda.blockIdx.y * BN
        K = A.shape[0] if TA else A.shape[1]
        for i in range(TM):
            for j in range(TN):
                acc[i, j] = T(0)
        for k0 in range(0, K + BK, BK):
            for u in range(UA):
                e = t + u * THREADS
                i, j = (e >> AL) + (k0 if TA else m0), (e & (AC - 1)) + (m0 if TA else k0)
                next_a[u] = A[uint32(i), uint32(j)] if i < A.shape[0] and j < A.shape[1] else T(0)
            for u in range(UB):
                e = t + u * THREADS
                i, j = (e >> BL) + (n0 if TB else k0), (e & (BC - 1)) + (k0 if TB else n0)
                next_b[u] = B[uint32(i), uint32(j)] if i < B.shape[0] and j < B.shape[1] else T(0)
            if k0 > 0:
                for first in range(0, BK // SLICES, 4):
                    k = first & (BK // SLICES - 4)  # is `first`, and seen not to be negative
                    ak, bk = read_a + k * AK, read_b + k * BKS
                    for h in range(4):
                        for i in range(TM):
                            a[i, h] = sa[ak + h * AK + i * YI * AR]
                        for j in range(TN):
                            b[h, j] = sb[bk + h * BKS + j * XI * BCS]
                    for h in range(4):
                        for i in range(TM):
                            for j in range(TN):
                                acc[i, j] += a[i, h] * b[h, j]
            cuda.syncthreads()
            for u in range(UA):
                e = t + u * THREADS
                sa[(e >> AL) * AP + (e & (AC - 1))] = next_a[u]
            for u in range(UB):
                e = t + u * THREADS
                sb[(e >> BL) * BP + (e & (BC - 1))] = next_b[u]
            cuda.syncthreads()
        # the slab stored last is beyond K and not needed: the groups' tiles take its place
        for i in range(TM):
            for j in range(TN):
                sa[group * (BM * BN) + (ty * YT + i * YI) * BN + tx * XT + j * XI] = acc[i, j]
        cuda.syncthreads()
        for u in range(UC):
            e = t + u * THREADS
            i, j = m0 + (e >> NL), n0 + (e & (BN - 1))
            if i < C.shape[0] and j < C.shape[1]:
                x = sa[e]
                for g in range(1, SLICES):
                    x += sa[g * (BM * BN) + e]
                C[uint32(i), uint32(j)] = activate(activation, x + bias[uint32(j)] if bias.size else x)

    product.__name__ = f"product_{transpose}_{BM}x{BN}"
    return kernel("T2 T2 T1 i T2w")(product)


_products = {(transpose, tile): _product(transpose, tile) for transpose in checks.TRANSPOSES for tile in (SMALL, LARGE)}


@kernel("T1 i T2w")
def _epilogue(bias, activation, C):
    """C <- f(C + bias).   A block has a row of C (M,N); bias (N,) or (0,)."""
    i = cuda.blockIdx.x
    for j in range(cuda.threadIdx.x, C.shape[1], cuda.blockDim.x):
        x = C[i, j]
        C[i, j] = activate(activation, x + bias[j] if bias.size else x)


def gemm(A, B, C, bias, transpose="nn", activation="identity"):
    """C = f(op(A) op(B) + bias).   op(A) (M,K), op(B) (K,N), C (M,N), bias (N,), or (0,) for none; f on each element.

    A, B, C, bias: C-contiguous, all float32 or all float64; C may be none of the others.
    transpose: op of A, then of B; "n" takes it as it is, "t" its transpose, so that A is (K,M) or B (N,K). A layer
    X W is "nn", and its gradients, for adjoints delta of the sums: delta W' "nt" and X' delta "tn".
    activation: "identity", "relu", "leaky_relu" (0.01 x below 0), "tanh", "sigmoid" or "softplus".
    Raises ValueError for another word, shapes that do not fit or arrays that are not contiguous, TypeError for dtypes
    that differ or are neither of the two. float32 is float32: no TF32.
    """
    M, N, K = checks.product(A, B, C, bias, transpose, activation)
    if M * N * K >= MANY_PRODUCTS and cublas.found():
        cublas.gemm(A, B, C, transpose)
        if activation != "identity" or bias.size:
            _epilogue(M, THREADS, bias, WHICH[activation], C)
        return
    tile = LARGE if -(-M // LARGE[0]) * -(-N // LARGE[1]) >= MANY_TILES else SMALL
    blocks = -(-M // tile[0]), -(-N // tile[1])
    _products[transpose, tile](blocks, THREADS, A, B, bias, WHICH[activation], C)


@kernel("T2 i i T2w T2w")
def _back(H, activation, rows, delta, sums):
    """A block has 32 columns of `rows` rows, a warp some of these, a thread a column of them.   sums (P,N)"""
    shared = cuda.shared.array(BACK, delta.dtype)
    t, T, j = cuda.threadIdx.x, delta.dtype.type, cuda.blockIdx.x * 32 + (cuda.threadIdx.x & 31)
    first, total = cuda.blockIdx.y * rows, T(0)
    if j < delta.shape[1]:
        for n in range(first + (t >> 5), min(first + rows, delta.shape[0]), BACK >> 5):
            x = delta[uint32(n), uint32(j)]
            if activation:
                x *= slope(activation, H[uint32(n), uint32(j)])
                delta[uint32(n), uint32(j)] = x
            total += x
    shared[t] = total
    cuda.syncthreads()
    if t < 32 and j < delta.shape[1]:
        for i in range(t + 32, BACK, 32):
            total += shared[i]
        sums[cuda.blockIdx.y, uint32(j)] = total


@functools.cache
def _memory(log_size, dtype):
    """2^log_size numbers for sums of runs of rows. Kept for good: a recorded graph goes on using them."""
    return empty(1 << log_size, dtype)


_one_at_a_time = threading.Lock()  # of those who have queued sums in _memory, and not yet what adds them up


def back(H, delta, db, activation="identity"):
    """delta <- delta f'(A) and db = sum of its rows, for H = f(A): the slopes in A and in the bias, of those in H.

    H, delta (B,N), db (N,): C-contiguous, all float32 or all float64. With activation="identity" H may be (0,N).
    activation: as in `gemm`. f' is made of H; where f saturates it is as exact as 1 - H is. What is raised: as there.
    """
    checks.slopes(H, delta, db, activation)
    B, N = delta.shape
    rows, strips, db = max(RUN, -(-B // RUN)), -(-N // 32), db.reshape(1, N)
    P = -(-B // rows)
    if P <= 1:
        _back((strips, 1), BACK, H, WHICH[activation], rows, delta, db)
        return
    with _one_at_a_time:
        sums = _memory((P * N - 1).bit_length(), delta.dtype)[: P * N].reshape(P, N)
        _back((strips, P), BACK, H, WHICH[activation], rows, delta, sums)
        _back((strips, 1), BACK, sums, 0, P, sums, db)
