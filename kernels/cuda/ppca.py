"""Linear Gaussian models on CUDA: twins of lvm.kernels.cpu.ppca, whose docstring has the equations and the letters.

Where a row has columns to share, a group of 2^shift threads has it, neighbours in memory for neighbours:

    center, weigh        a thread for each number
    posterior, moments   a block for each run: what its threads share are matrices
    means, residuals     blocks (U, .): a run, or a part of a long one, each of its rows in a group of threads
    stochastic           one block, for what a step needs is what the step before has left
"""

import math

import numpy as np

from ..shared.ppca import draw_latent, draw_row, move_column
from ..shared.scalar import is_float32, log
from .api import block_sum, cuda, empty, kernel

ROOM = 1 << 24  # bytes of a block of rows, whose float32 sums (linear.gemm) are good to 2e-6; of 2^28 bytes to 1e-4
THREADS = 256
uint32 = np.uint32  # of an index: numba need not see to its being negative


def _shift(n, most=THREADS):
    """The least s with 2^s >= n, of those with 2^s <= most."""
    return min(n - 1, most - 1).bit_length()


def _by_number(Y):
    """Blocks for a thread for each number of Y (B,n), and the shift of the threads along a row."""
    shift = _shift(Y.shape[1], 32)
    return (-(-len(Y) // (THREADS >> shift)), -(-Y.shape[1] // (1 << shift))), shift


def _by_row(B, U, shift):
    """Blocks for B rows in U runs, a row for each 2^shift threads; the threads go on until they have all rows."""
    return U, min(-(-B // max(U, 1) // (THREADS >> shift)), 1024)


@kernel("T2 i1 T1 i T2w")
def _center(X, rows, mu, shift, Y):
    t, T = cuda.threadIdx.x, Y.dtype.type
    m = cuda.blockIdx.x * (THREADS >> shift) + (t >> shift)
    i = (cuda.blockIdx.y << shift) + (t & ((1 << shift) - 1))
    if m < Y.shape[0] and i < Y.shape[1]:
        y = X[uint32(rows[uint32(m)] if rows.size else m), uint32(i)] - mu[uint32(i)]
        Y[uint32(m), uint32(i)] = y if y == y else T(0)


def center(X, rows, mu, Y):
    """Y = x - mu for rows of X, 0 in their gaps.   X (N,D), rows (B,) int64 or (0,) for all, mu (D,), Y (B,D)"""
    blocks, shift = _by_number(Y)
    _center(blocks, THREADS, X, rows, mu, shift, Y)


@kernel("T2 d1 d1 i d2w", double=True)
def _weigh(X, s, mu, shift, Y):
    t, D = cuda.threadIdx.x, X.shape[1]
    n = cuda.blockIdx.x * (THREADS >> shift) + (t >> shift)
    i = (cuda.blockIdx.y << shift) + (t & ((1 << shift) - 1))
    if n < Y.shape[0] and i < Y.shape[1]:
        v = s[uint32(n)] if s.size else 1.0
        if i < D:
            y = np.float64(X[uint32(n), uint32(i)]) - mu[uint32(i)]
            v = v * y if y == y else 0.0
        Y[uint32(n), uint32(i)] = v


def weigh(X, s, mu, Y):
    """Y = s_n (x_n - mu), 0 in gaps, in float64, and s_n after it where Y has room.   X (N,D), s (N,) or (0,) for 1,
    mu (D,), Y (N,D) or (N,D+1): Y'Y has the sums of weights s², of the rows and of their squares."""
    blocks, shift = _by_number(Y)
    _weigh(blocks, THREADS, X, s, mu, shift, Y)


@kernel("d2w i T2w", double=True)
def _posterior(M, d, C):
    """As `factor` and `invert` of shared/ppca.py, for which one thread would take long. The columns of the factor, a
    thread for each row; then the rows of its inverse X, and those of X'X, a thread for each column."""
    t, threads, T = cuda.threadIdx.x, cuda.blockDim.x, C.dtype.type
    A, c, q, log_det = M[cuda.blockIdx.x], C[cuda.blockIdx.x], M.shape[1] - 1, 0.0
    for j in range(d):
        s = j * (j + 1) // 2
        v = 1.0 + A[s + j]  # each thread makes the diagonal for itself
        for p in range(j):
            v -= A[s + p] * A[s + p]
        a = 1 / math.sqrt(v)
        log_det += log(v)
        for i in range(j + 1 + t, d, threads):
            r = i * (i + 1) // 2
            v = A[r + j]
            for p in range(j):
                v -= A[r + p] * A[s + p]
            A[r + j] = v * a
        cuda.syncthreads()
        if t == 0:
            A[s + j] = a  # which the other columns do not need, and other threads after the next barrier
    for i in range(1, d):
        r = i * (i + 1) // 2
        for first in range(0, i, threads):
            j, v = first + t, 0.0
            for p in range(j, i):
                v -= A[r + p] * A[p * (p + 1) // 2 + j]
            cuda.syncthreads()
            if j < i:
                A[r + j] = v * A[r + i]  # in the place of a number that columns up to j alone need
        cuda.syncthreads()
    for i in range(d):
        for j in range(t, i + 1, threads):
            v = 0.0
            for p in range(i, d):
                r = p * (p + 1) // 2
                v += A[r + i] * A[r + j]
            c[i * (i + 1) // 2 + j] = T(v)
    if t == 0:
        A[q] = -0.5 * (A[q] + log_det)
        c[q] = T(A[q])


def posterior(M, d, C):
    """C = (1 + M)^-1 = X'X of each run, packed, and after it c, log p(x) but for its squares.

    M (U,q+1) float64: W_o' Psi_o^-1 W_o packed, and sum_o log 2pi psi; then X, lower triangular, and c.   C (U,q+1): C,
    and c = -(sum_o log 2pi psi + log|1 + M|)/2"""
    _posterior(len(M), 32 if d <= 32 else 128, M, d, C)


@kernel("d2 T2 d2 i1 i i T2w d2w", double=True)
def _means(Y, H, X, first, shift, last, Z, out):
    """out = X h, or with `last` Z = X' y and 1 after it."""
    t, u, d, T = cuda.threadIdx.x, cuda.blockIdx.x, H.shape[1], H.dtype.type
    rows, lanes = THREADS >> shift, 1 << shift
    begin, end = first[u] - first[0], first[u + 1] - first[0]
    for n in range(begin + cuda.blockIdx.y * rows + (t >> shift), end, cuda.gridDim.y * rows):
        for i in range(t & (lanes - 1), d + 1, lanes):
            v = 0.0
            if i < d and last:
                for j in range(i, d):
                    v += X[u, uint32(j * (j + 1) // 2 + i)] * Y[uint32(n), uint32(j)]
            elif i < d:
                r = i * (i + 1) // 2
                for j in range(i + 1):
                    v += X[u, uint32(r + j)] * H[uint32(n), uint32(j)]
            if last:
                Z[uint32(n), uint32(i)] = T(v) if i < d else T(1)
            elif i < d:
                out[uint32(n), uint32(i)] = v


def means(H, X, first, Z):
    """z = X'(X h), and 1 after it.   H (B,d), X (U,q+1) as `posterior` leaves it in M, first (U+1,) int64, Z (B,d+1)"""
    shift = _shift(Z.shape[1])
    Y, blocks = empty(H.shape, np.float64), _by_row(len(Z), len(X), shift)
    for last in 0, 1:
        _means(blocks, THREADS, Y, H, X, first, shift, last, Z, Y)


@kernel("T2w T2w T2 T1 i1 i T2 T2 T1 T1w")
def _residuals(Y, F, O, precision, first, shift, C, Z, w, log_px):
    sums = cuda.shared.array(THREADS, Y.dtype)
    t, u, T = cuda.threadIdx.x, cuda.blockIdx.x, Y.dtype.type
    (D, d), q, masked = (Y.shape[1], Z.shape[1] - 1), C.shape[1] - 1, O.shape[1] > 1
    huge = T(1e38) if is_float32(T(1)) else T(1e300)
    rows, lanes = THREADS >> shift, 1 << shift
    lane, begin, end = t & (lanes - 1), first[u] - first[0], first[u + 1] - first[0]
    for n0 in range(begin + cuda.blockIdx.y * rows, end, cuda.gridDim.y * rows):
        n, v = n0 + (t >> shift), T(0)
        if n < end:
            weight = w[n] if w.size else T(1)
            for i in range(lane, D, lanes):
                r = Y[uint32(n), uint32(i)] - F[uint32(n), uint32(i)]
                if masked:
                    r *= O[u, uint32(i)]
                square = r * r
                v += square * precision[uint32(i)]
                F[uint32(n), uint32(i)] = square
                Y[uint32(n), uint32(i)] = weight * r
            for i in range(lane, d, lanes):
                v += Z[n, i] * Z[n, i]
        sums[t] = v
        half = lanes >> 1
        while half > 0:
            cuda.syncthreads()
            if lane < half:
                sums[t] += sums[t + half]
            half >>= 1
        if lane == 0 and n < end:
            v = sums[t]
            log_px[n] = C[u, q] - T(0.5) * (v if v < huge else huge)
        cuda.syncthreads()  # before sums are written to again


def residuals(Y, F, O, precision, first, C, Z, w, log_px):
    """The residuals r = y - W z of what was observed, and log p(x).

    Y (B,D): y, then w r (r where w has size 0); F (B,D): W z, then r²; O (U,D+1) or (U,1); precision (D,) 1/psi;
    first (U+1,), C (U,q+1), Z (B,d+1); w (B,) weights or (0,)  ->  log_px (B,) = c - (sum_i r_i²/psi_i + |z|²)/2"""
    shift = _shift(Y.shape[1])
    blocks = _by_row(len(Y), len(C), shift)
    _residuals(blocks, THREADS, Y, F, O, precision, first, shift, C, Z, w, log_px)


@kernel("T2 T2 i1 T1 T1 i T2w")
def _moments(Z, C, first, w, log_px, shift, S):
    """Threads of a group have columns j of a row i of the packed matrices, groups its rows."""
    t, u, T, d, q = cuda.threadIdx.x, cuda.blockIdx.x, Z.dtype.type, Z.shape[1] - 1, C.shape[1] - 1
    e, lanes = q + d + 1, 1 << shift
    begin, end = first[u] - first[0], first[u + 1] - first[0]
    for i in range(t >> shift, d + 1, THREADS >> shift):
        for j in range(t & (lanes - 1), i + 1, lanes):
            v, W, p = T(0), T(0), i * (i + 1) // 2 + j
            for n in range(begin, end):
                v += w[uint32(n)] * Z[uint32(n), uint32(i)] * Z[uint32(n), uint32(j)]
                W += w[uint32(n)]
            if i < d:
                S[u, e + p] = W * C[u, p]
                v += W * C[u, p]
            S[u, p] = v
    if t == 0:
        l = T(0)
        for n in range(begin, end):
            l += w[n] * log_px[n]
        S[u, e + q] = l


def moments(Z, C, first, w, log_px, S):
    """S (U,e+q+1) sums over the rows of each run: of w E[(z,1)(z,1)'], packed; of w C, packed; of w log p(x).

    Z (B,d+1), C (U,q+1), first (U+1,), w (B,), log_px (B,)"""
    _moments(len(C), THREADS, Z, C, first, w, log_px, _shift(Z.shape[1], 32), S)


@kernel("T2 d1 u i i d d d i d2w d1w d1w d1 d2w d2w d2w i1w", double=True)
def _stochastic(X, cumulated, seed, step, steps, rate, scale, power, isotropic, W, mu, psi, least, A, Z, R, rows):
    """A thread has rows b of the batch, then columns i: these W_i, mu_i, psi_i are its own in M'."""
    sums, counts = cuda.shared.array(THREADS, np.float64), cuda.shared.array(THREADS, np.float64)
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    N, D, B = X.shape[0], W.shape[0], Z.shape[0]
    for k in range(step, step + steps):
        kappa = rate * (1 + k / scale) ** -power
        for b in range(t, B, threads):
            rows[b] = draw_row(cumulated, N, seed, k, b)
            draw_latent(X[rows[b]], mu, W, psi, seed, k, b, A[b], Z[b])
        cuda.syncthreads()
        total, count = 0.0, 0
        for i in range(t, D, threads):
            square, n = move_column(X, rows, i, kappa, W, mu, psi, Z, R)
            if isotropic:
                total += square
                count += n
            elif n > 0:
                psi[i] = max(psi[i] * math.exp(min(kappa * (square / n - 1), 1.0)), least[i])
        if isotropic:
            sums[t], counts[t] = total, count
            total, seen = block_sum(sums), block_sum(counts)
            if seen > 0:
                change = math.exp(min(kappa * (total / seen - 1), 1.0))
                for i in range(t, D, threads):
                    psi[i] = max(psi[i] * change, least[i])
        cuda.syncthreads()


def stochastic(X, cumulated, seed, step, steps, rate, isotropic, W, mu, psi, least):
    """`steps` steps of stochastic EM from number `step` on: W (D,d), mu (D,), psi (D,), float64, are moved in place.

    E': B rows j drawn with the same chance ((0,) as cumulated) or by the cumulated weights (N,), and z from its exact
    posterior for each. M': along the gradient of log p(x_j, z). X (N,D), NaN where nothing was observed; rate (4,)
    float64 on the host: kappa's three numbers, and B. The CPU's docstring has the equations."""
    B, (D, d) = int(rate[3]), W.shape
    A, Z, R = (empty((B, n), np.float64) for n in (d * (d + 1) // 2, d, D))
    threads = 1 << max(_shift(max(B, D)), 5)
    given = (X, cumulated, seed, step, steps, *rate[:3], isotropic, W, mu, psi, least, A, Z, R, empty(B, np.int64))
    _stochastic(1, threads, *given)
