"""Logistic regression with q(w) = N(mu, Sigma) on CUDA: twins of lvm.kernels.cpu.relevance, whose docstring has the
equations and the letters.

    basis, scale, columns   a thread for each number
    collect, moments        a group of 2^bits threads for each row, neighbours in memory for neighbours
    sites, odds             a thread for each row
    squares, finish         a thread for each column; of `squares` for each part of the rows, too
    local                   a block for RUN rows, which are one warp's where each has a thread
"""

import math

import numpy as np

from ..shared.logistic import expectation, log_odds
from ..shared.relevance import LARGEST, noisy
from ..shared.scalar import exp, tanh
from .api import block_sum, cuda, device_function, empty, kernel
from .logistic import _tables
from .ppca import THREADS, _by_number, _shift

ROOM = 1 << 27  # bytes of a block of phi, of which a pass takes some four: what api.py keeps is as much
RUN = 32  # rows of a minibatch whose gradients one block adds up: those of a warp
ALL = 0xFFFFFFFF  # threads of a warp
FEW = 128  # threads of a block that has one for each row, with much to do
PARTS = 512  # of the rows in `squares`, at most
uint32 = np.uint32  # of an index: numba need not see to its being negative


@device_function
def _across(x, bits):
    """The sum of x over groups of 2^bits threads of a warp: the same for all of them."""
    half = (1 << bits) >> 1
    while half > 0:
        x += cuda.shfl_xor_sync(ALL, x, half)
        half >>= 1
    return x


def _by_row(B, width):
    """Blocks for B rows of so many numbers, and the bits of the threads along a row."""
    bits = _shift(width, 32)
    return -(-B // (THREADS >> bits)), bits


@kernel("T2 d2 d i d i i d2w", double=True)
def _basis(X, C, gamma, gaussian, shift, degree, bits, Phi):
    t = cuda.threadIdx.x
    n = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if n < Phi.shape[0] and j < Phi.shape[1]:
        v, f = 1.0, 0.0
        if j < C.shape[1]:
            for i in range(X.shape[1]):
                x, c = np.float64(X[uint32(n), uint32(i)]), C[uint32(i), uint32(j)]
                f += (x - c) * (x - c) if gaussian else x * c
            if gaussian:
                v = exp(-gamma * f)
            else:
                f = gamma * f + shift
                for _ in range(degree):
                    v *= f
        Phi[uint32(n), uint32(j)] = v


def basis(X, C, gamma, gaussian, shift, degree, Phi):
    """Phi = exp(-gamma |x - c|²), or (gamma x'c + shift)^degree unless gaussian; and 1 after it where Phi has room.

    X (B,D), C (D,M) the centres' columns, float64, Phi (B,M) or (B,M+1) float64"""
    blocks, bits = _by_number(Phi)
    _basis(blocks, THREADS, X, C, gamma, gaussian, shift, degree, bits, Phi)


@kernel("T2 i T1w T1w")
def _collect(U, bits, m, v):
    t, total = cuda.threadIdx.x, U.dtype.type(0)
    n, lane = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits), t & ((1 << bits) - 1)
    if n < U.shape[0]:
        for j in range(1 + lane, U.shape[1], 1 << bits):
            u = U[uint32(n), uint32(j)]
            total += u * u
    total = _across(total, bits)
    if n < U.shape[0] and lane == 0:
        m[n], v[n] = U[n, 0], total


def collect(U, m, v):
    """m = U_:0, v = sum of the squares of the rest: of U = Phi (mu, L), Sigma = LL'.   U (B,R+1), m, v (B,)"""
    blocks, bits = _by_row(*U.shape)
    _collect(blocks, THREADS, U, bits, m, v)


@kernel("T1 T1 T1 T1 T2 T2 T2 T1w T1w T1w")
def _sites(m, v, y, w, narrow, wide, poles, t, r, F):
    n, T = cuda.grid(1), m.dtype.type
    if n < m.size:
        f, g, l = expectation(y[n] * m[n], v[n], narrow, wide, poles)
        c = w[n] if w.size else T(1)
        t[n], r[n], F[n] = c * (l * m[n] + y[n] * g), math.sqrt(c * l), c * f


def sites(m, v, y, w, t, r, F):
    """The rows' parts of h (times phi) and the root of those of H, and w F.

    m, v, y (B,) (y ±1), w (B,) weights or (0,)  ->  t = w (lambda m + y g), r = sqrt(w lambda), F (B,), all float64"""
    _sites(-(-m.size // FEW), FEW, m, v, y, w, *_tables(m.dtype), t, r, F)


@kernel("T2 T1 i T2w")
def _scale(Phi, r, bits, out):
    t = cuda.threadIdx.x
    n = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if n < out.shape[0] and j < out.shape[1]:
        out[uint32(n), uint32(j)] = r[uint32(n)] * Phi[uint32(n), uint32(j)]


def scale(Phi, r, out):
    """out = diag(r) Phi.   Phi, out (B,M), r (B,)"""
    blocks, bits = _by_number(out)
    _scale(blocks, THREADS, Phi, r, bits, out)


@kernel("T2 i1 i T2w")
def _columns(Phi, which, bits, out):
    t = cuda.threadIdx.x
    n = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if n < out.shape[0] and j < out.shape[1]:
        out[uint32(n), uint32(j)] = Phi[uint32(n), uint32(which[uint32(j)])]


def columns(Phi, which, out):
    """out = Phi[:, which].   Phi (B,M), which (n,) int64, out (B,n)"""
    blocks, bits = _by_number(out)
    _columns(blocks, THREADS, Phi, which, bits, out)


@kernel("T2 T2w")
def _squares(Phi, parts):
    """parts (P,M): of rows p, p + P, ... to row p."""
    p, j, total = cuda.blockIdx.x, cuda.blockIdx.y * THREADS + cuda.threadIdx.x, Phi.dtype.type(0)
    if j < parts.shape[1]:
        for n in range(p, Phi.shape[0], cuda.gridDim.x):
            total += Phi[uint32(n), uint32(j)] * Phi[uint32(n), uint32(j)]
        parts[p, j] = total


@kernel("T2 T1w")
def _add(parts, out):
    j, total = cuda.grid(1), out.dtype.type(0)
    if j < out.size:
        for p in range(parts.shape[0]):
            total += parts[uint32(p), uint32(j)]
        out[j] = total


def squares(Phi, out):
    """out_j = sum_n Phi_nj².   Phi (B,M), out (M,)"""
    parts = empty((min(-(-len(Phi) // RUN), PARTS), out.size), out.dtype)
    along = -(-out.size // THREADS)
    _squares((len(parts), along), THREADS, Phi, parts)
    _add(along, THREADS, parts, out)


@kernel("T1 T1 T2 T2 T2 T1w")
def _odds(m, v, narrow, wide, poles, out):
    n = cuda.grid(1)
    if n < m.size:
        out[n] = log_odds(m[n], v[n], narrow, wide, poles)


def odds(m, v, out):
    """log E[sigmoid(f)] - log E[sigmoid(-f)], f ~ N(m, v).   m, v, out (B,)"""
    _odds(-(-m.size // FEW), FEW, m, v, *_tables(m.dtype), out)


# ----------------------------------------------------------------------------- diagonal Sigma, and minibatches
@device_function
def _moments_of(X, n, shift, factor, mu, S, lane, bits):
    """m and v of row n, for all threads of the group that has it."""
    T, D = X.dtype.type, X.shape[1]
    m, v = T(0), T(0)
    for i in range(lane, mu.size, 1 << bits):
        z = T(1)
        if i < D:
            z = (X[uint32(n), uint32(i)] - shift[uint32(i)]) * factor[uint32(i)]
        m += z * mu[uint32(i)]
        v += z * z * S[uint32(i)]
    return _across(m, bits), _across(v, bits)


@kernel("T2 T1 T1 T1 T1 i T1w T1w")
def _moments(X, shift, factor, mu, S, bits, m, v):
    t = cuda.threadIdx.x
    n, lane = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits), t & ((1 << bits) - 1)
    # groups beyond the last row take it again: all threads of a warp add up together
    a, b = _moments_of(X, min(n, X.shape[0] - 1), shift, factor, mu, S, lane, bits)
    if n < X.shape[0] and lane == 0:
        m[n], v[n] = a, b


def moments(X, shift, factor, mu, S, m, v):
    """m = mu'z, v = sum_i z_i² S_i, z = factor (x - shift), and 1 after it where mu has room.

    X (B,D), shift, factor (D,), mu, S (D,) or (D+1,), m, v (B,): all of one dtype"""
    blocks, bits = _by_row(len(X), mu.size)
    _moments(blocks, THREADS, X, shift, factor, mu, S, bits, m, v)


@kernel("T1 T1 T1w T1w")
def _spread(mu, rho, S, alpha):
    i, T = cuda.grid(1), mu.dtype.type
    if i < mu.size:
        s = exp(T(LARGEST) * tanh(rho[i] / T(LARGEST)))
        S[i], alpha[i] = s, mu[i] * mu[i] + s


@kernel("i T1w")
def _share(shared, alpha):
    """One block."""
    sums = cuda.shared.array(THREADS, alpha.dtype)
    t, T, total = cuda.threadIdx.x, alpha.dtype.type, alpha.dtype.type(0)
    for i in range(t, shared, THREADS):
        total += alpha[i]
    sums[t] = total
    mean = block_sum(sums) / T(shared)
    for i in range(t, shared, THREADS):
        alpha[i] = mean


def spread(mu, rho, shared, S, alpha):
    """S = exp(b tanh(rho/b)), b = LARGEST, and the best alpha = mu² + S; of the first `shared` weights their mean.

    mu, rho, S, alpha (P,)"""
    _spread(-(-mu.size // THREADS), THREADS, mu, rho, S, alpha)
    if shared:
        _share(1, THREADS, shared, alpha)


@kernel("T2 i1 T1 T1 T1 T1 T1 T1 T1 i T2 T2 T2 T2w")
def _local(X, rows, shift, factor, y, w, mu, S, eps, bits, narrow, wide, poles, out):
    """m and v of each row by a group of threads; then all the first warp's, its slopes; then the sums by columns."""
    m, v = cuda.shared.array(RUN, X.dtype), cuda.shared.array(RUN, X.dtype)  # then dF/dm and dF/dv
    t, run, T, D, P = cuda.threadIdx.x, cuda.blockIdx.x, X.dtype.type, X.shape[1], mu.size
    first = run * RUN
    B = min(rows.size - first, RUN)
    for b in range(t >> bits, RUN, THREADS >> bits):
        n = rows[first + min(b, B - 1)]
        m[b], v[b] = _moments_of(X, n, shift, factor, mu, S, t & ((1 << bits) - 1), bits)
    cuda.syncthreads()
    if t < RUN:
        n = rows[first + min(t, B - 1)]
        if eps.size:
            F, g, half = noisy(y[n] * m[t], v[t], eps[first + min(t, B - 1)])
        else:
            F, g, l = expectation(y[n] * m[t], v[t], narrow, wide, poles)
            half = T(-0.5) * l
        c = T(0)
        if t < B:
            c = w[n] if w.size else T(1)
        m[t], v[t] = c * y[n] * g, c * half
        total, weight = _across(c * F, 5), _across(c, 5)
        if t == 0:
            out[run, 2 * P], out[run, 2 * P + 1] = total, weight
    cuda.syncthreads()
    for i in range(t, P, THREADS):
        gm, gv, z = T(0), T(0), T(1)
        for b in range(B):
            if i < D:
                x = X[uint32(rows[uint32(first + b)]), uint32(i)]
                z = (x - shift[uint32(i)]) * factor[uint32(i)]
            gm += m[b] * z
            gv += v[b] * z * z
        out[run, i], out[run, P + i] = gm, gv


def local(X, rows, shift, factor, y, w, mu, S, eps, out):
    """Sums over the rows of a minibatch, RUN at a time: of w dF/dm z, of w dF/dv z², of w F and of w.

    X (N,D), rows (B,) int64, shift, factor (D,) (z as in `moments`), y, w (N,) or w (0,), mu, S (P,), P = D or D + 1;
    eps (B,) standard normal noise, F = log sigmoid(y m + sqrt(v) eps), the local reparameterisation (Kingma, Salimans &
    Welling 2015), or (0,) for the expectation itself  ->  out (ceil(B/RUN), 2P+2)"""
    given = X, rows, shift, factor, y, w, mu, S, eps, _shift(mu.size, 32), *_tables(X.dtype), out
    _local(-(-len(rows) // RUN), THREADS, *given)


@kernel("T1 T1 T2 T1 T1 i1 T T T T1w T1w T1w")
def _finish(mu, rho, sums, S, alpha, counter, warm, kl, scale, gm, gr, totals):
    i, P, T = cuda.grid(1), mu.size, mu.dtype.type
    a, b = T(0), T(0)
    if i < P:
        for run in range(sums.shape[0]):
            a += sums[uint32(run), uint32(i)]
            b += sums[uint32(run), uint32(P + i)]
        beta = kl * min(T(1), T(counter[0] + 1) / warm)
        r = tanh(rho[i] / T(LARGEST))
        gm[i] = beta * mu[i] / alpha[i] - scale * a
        gr[i] = (T(1) - r * r) * (beta * T(0.5) * (S[i] / alpha[i] - T(1)) - scale * S[i] * b)
    elif i < P + 2:
        for run in range(sums.shape[0]):
            a += sums[uint32(run), uint32(P + i)]
        totals[i - P] += a


def finish(mu, rho, sums, S, alpha, counter, warm, kl, scale, gm, gr, totals):
    """The gradient of -(scale sum_n w_n F_n - beta KL), sum_n over a minibatch, from the sums of `local`.

    dKL/dmu_i = mu_i/alpha_i, dKL/dS_i = (1/alpha_i - 1/S_i)/2 at the best alpha, dS_i/drho_i = S_i (1 -
    tanh²(rho_i/b)). beta = kl min(1, (counter + 1)/warm). mu, rho, S, alpha (P,) as of `spread`, sums (b,2P+2), counter
    (1,) int64, warm, kl and scale numbers  ->  gm, gr (P,), totals (2,), to which the sums of w F and of w are added"""
    given = mu, rho, sums, S, alpha, counter, warm, kl, scale, gm, gr, totals
    _finish(-(-(mu.size + 2) // THREADS), THREADS, *given)
