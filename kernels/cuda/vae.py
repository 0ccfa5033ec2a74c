"""Variational autoencoders on CUDA: twins of lvm.kernels.cpu.vae, whose docstring has the equations and the letters.

    gather         a thread for each number
    sample         a group for each sample of z, through all layers
    sample_back    a group for each row: its samples one after the other, as their slopes are added up
    likelihood     a block for each sample, or for some; where k share a bound, its weights in between, a group for each
    finish         blocks for the columns of rho, and one for the totals

A group is 2^bits threads of a warp, 32 at most, with columns lane, lane + 2^bits, ... of what it has. Groups after the
last one do its work again and write nothing: all threads of a warp add up together. No atomics: results repeat.

What bounds them, not yet measured on a GPU: small batches the launches, the chain of layers with three sums over a
group in each, and in `sample_back` the samples of a row, one after the other. Large ones the instructions issued: by an
estimate from the machine code 75 for each number that a decoder puts out (bernoulli) to 270 (with a variance each).
"""

import math

import numpy as np

from ..shared.flow import constrain, constrain_back, one_over_square, planar_back, tanh_slope
from ..shared.scalar import exp, log
from ..shared.vae import (
    ANALYTIC,
    BERNOULLI,
    BINARIZE,
    DIAGONAL,
    DYNAMIC,
    ENTROPY,
    ISOTROPIC,
    KLS,
    LARGEST,
    LIKELIHOODS,
    NETWORK,
    SQUARED,
    THRESHOLD,
    bernoulli,
    gaussian,
    log_variance,
    mean_of,
    shares,
    warmed,
)
from .api import cuda, device_function, kernel
from .flow import HALF_LOG_2PI, _memory
from .ppca import THREADS, _by_number, _shift
from .relevance import ALL, _across

__all__ = [
    "BINARIZE",
    "KLS",
    "LARGEST",
    "LIKELIHOODS",
    "finish",
    "gather",
    "likelihood",
    "parts",
    "sample",
    "sample_back",
]

GROUPS = 128  # threads of a block of groups
WARPS = THREADS // 32
PARTS = 1024  # blocks of `likelihood` at most: some 8 for each multiprocessor of a large GPU
FACTORS = 64  # numbers between 1 and 2 of which one log is taken
uint32 = np.uint32  # of an index: numba need not see to its being negative


def _groups(n, width):
    """Blocks for n groups that have `width` numbers each, and the bits of a group."""
    bits = _shift(width, 32)
    return -(-n // (GROUPS >> bits)), bits


# -------------------------------------------------------------------------------------------------------------- data
@kernel("T2 i1 T1 T1 i i T2w")
def _gather(X, rows, shift, factor, binarize, bits, out):
    t, T = cuda.threadIdx.x, X.dtype.type
    n = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if n < out.shape[0] and j < out.shape[1]:
        x, y = X[uint32(rows[uint32(n)] if rows.size else n), uint32(j)], T(0)
        if binarize == DYNAMIC:
            y = T(1) if out[uint32(n), uint32(j)] < x else T(0)
        elif binarize == THRESHOLD:
            y = T(1) if x > T(0.5) else T(0)
        else:
            y = (x - shift[uint32(j)]) * factor[uint32(j)]
        out[uint32(n), uint32(j)] = y


def gather(X, rows, shift, factor, binarize, out):
    """out = the rows of X with the numbers `rows`, as (x - shift) factor, or as 0 and 1.

    X (N,D), rows (B,) int64 or (0,) for all N = B in their order, shift, factor (D,)  ->  out (B,D)
    binarize: a place in BINARIZE. "dynamic": 1 with probability x, by the uniform numbers that `out` holds when it
    comes; "threshold": 1 where x > 1/2."""
    blocks, bits = _by_number(out)
    _gather(blocks, THREADS, X, rows, shift, factor, binarize, bits, out)


# --------------------------------------------------------------------------------------------------------- posterior
@kernel("T2 T2 T2 i i i T2w T1w T2w")
def _sample(head, eps, flow, S, kl, bits, Z, extra, hs):
    """A thread keeps its columns of z where they go to, in Z."""
    t, T, d, K, size = cuda.threadIdx.x, Z.dtype.type, Z.shape[1], hs.shape[1] >> 1, 1 << bits
    i, lane = cuda.blockIdx.x * (GROUPS >> bits) + (t >> bits), t & (size - 1)
    there, i = i < Z.shape[0], min(i, Z.shape[0] - 1)
    n, e, i = uint32(i // S), uint32(i % eps.shape[0]), uint32(i)
    layers, row, at = (flow, uint32(0), 0) if flow.shape[0] else (head, n, 2 * d)
    half, logs = T(0), T(0)
    for j in range(lane, d, size):
        mu, (v, _), noise = head[n, uint32(j)], log_variance(head[n, uint32(d + j)]), eps[e, uint32(j)]
        sd = exp(T(0.5) * v)
        if kl == ANALYTIC:
            half += v + T(1) - sd * sd - mu * mu
        else:
            half += v + (T(1) if kl == ENTROPY else noise * noise)
        if there:
            Z[i, uint32(j)] = mu + sd * noise
    for k in range(K):
        u = at + k * (2 * d + 1)
        w, a, x, ww = u + d, T(0), T(0), T(0)
        for j in range(lane, d, size):
            v = layers[row, uint32(w + j)]
            a += v * Z[i, uint32(j)]
            x += v * layers[row, uint32(u + j)]
            ww += v * v
        _, sigma, g, _ = constrain(_across(x, bits))
        g *= one_over_square(_across(ww, bits))
        h, s = tanh_slope(_across(a, bits) + layers[row, uint32(w + d)])
        logs += log(h * h + sigma * s)
        if there:
            for j in range(lane, d, size):
                Z[i, uint32(j)] += h * (layers[row, uint32(u + j)] + g * layers[row, uint32(w + j)])
            if lane == 0:
                hs[i, uint32(2 * k)], hs[i, uint32(2 * k + 1)] = h, s
    if kl != ANALYTIC:
        for j in range(lane, d, size):
            half -= Z[i, uint32(j)] * Z[i, uint32(j)]
    half = T(0.5) * _across(half, bits)
    if there and lane == 0:
        extra[i] = half + logs


def sample(head, eps, flow, S, kl, Z, extra, hs):
    """z_K of S samples of each row, and what is beside log p(x|z) in the bound.

    head (B,P), eps (M,d), or (S,d) for the same noise in all rows, flow (1,K(2d+1)), planar layers that all rows share,
    or (0,0)  ->  Z (M,d); extra (M,): with kl, a place in KLS, "analytic" -KL (K = 0), "monte_carlo" log p(z_K) -
    log q(z_K|x), "entropy" the same with the mean of -log q(z0|x), its entropy; hs (M,2K): tanh and its slope in each
    layer, for `sample_back`"""
    blocks, bits = _groups(*Z.shape)
    _sample(blocks, GROUPS, head, eps, flow, S, kl, bits, Z, extra, hs)


@kernel("T2 T2 T2 T2 T2 T2 T1 T i i i1 T i T1w T2w T2w")
def _sample_back(head, eps, flow, hs, Z, dZ, c, whole, kl, path, counter, warm, bits, work, dhead, dflow):
    """Where there are layers, a thread keeps its columns of all z and of the slopes in them in `work` (2,M,d)."""
    t, T, M, d, K, size = cuda.threadIdx.x, Z.dtype.type, Z.shape[0], Z.shape[1], hs.shape[1] >> 1, 1 << bits
    n, lane, S = cuda.blockIdx.x * (GROUPS >> bits) + (t >> bits), t & (size - 1), M // head.shape[0]
    there, n = n < head.shape[0], uint32(min(n, head.shape[0] - 1))
    shared, first, slopes = flow.shape[0] > 0, n * S, M * d
    layers, row, back, at = (flow, uint32(0), dflow, 0) if shared else (head, n, dhead, 2 * d)
    beta = warmed(T(counter[0]), warm)
    if K > 0 and there:
        for i in range(first, first + S):
            share, weight, _ = shares(c[uint32(i)], whole, kl, path, beta)
            for j in range(lane, d, size):
                z = Z[uint32(i), uint32(j)]
                work[uint32(i * d + j)] = z
                work[uint32(slopes + i * d + j)] = share * dZ[uint32(i), uint32(j)] + weight * z
    for l in range(K):
        k = K - 1 - l
        u = at + k * (2 * d + 1)
        w, x, ww, dot, bm, bb = u + d, T(0), T(0), T(0), T(0), T(0)
        for j in range(lane, d, size):
            v = layers[row, uint32(w + j)]
            x += v * layers[row, uint32(u + j)]
            ww += v * v
            if there:
                back[n, uint32(u + j)] = T(0)
                back[n, uint32(w + j)] = T(0)
        x, ww = _across(x, bits), _across(ww, bits)
        m, sigma, g, _ = constrain(x)
        g *= one_over_square(ww)
        for i in range(first, first + S):
            h, s, slope = hs[uint32(i), uint32(2 * k)], hs[uint32(i), uint32(2 * k + 1)], T(0)
            for j in range(lane, d, size):
                v, b = layers[row, uint32(u + j)] + g * layers[row, uint32(w + j)], work[uint32(slopes + i * d + j)]
                slope += v * b
                if there:
                    work[uint32(i * d + j)] -= h * v
                    back[n, uint32(u + j)] += h * b
            _, weight, _ = shares(c[uint32(i)], whole, kl, path, beta)
            ba, more = planar_back(h, s, m, sigma, _across(slope, bits), -weight, 0)
            bm += more
            bb += ba
            if there:
                for j in range(lane, d, size):
                    back[n, uint32(w + j)] += ba * work[uint32(i * d + j)]
                    work[uint32(slopes + i * d + j)] += ba * layers[row, uint32(w + j)]
        for j in range(lane, d, size):
            dot += layers[row, uint32(w + j)] * back[n, uint32(u + j)]
        kappa, e, bx = constrain_back(x, ww, _across(dot, bits), bm)
        if there:
            for j in range(lane, d, size):  # of û and m, to u and w: `_finish` of flow.py
                v, b = layers[row, uint32(w + j)], back[n, uint32(u + j)]
                back[n, uint32(u + j)] = b + bx * v
                back[n, uint32(w + j)] += kappa * b - T(2) * kappa * e * v + bx * layers[row, uint32(u + j)]
            if lane == 0:
                back[n, uint32(w + d)] = bb
    if there:
        for j in range(lane, d, size):
            v, more = log_variance(head[n, uint32(d + j)])
            sd, bmu, bsd, total = exp(T(0.5) * v), T(0), T(0), T(0)
            inverse = T(1) / sd
            for i in range(first, first + S):
                e = eps[uint32(i % eps.shape[0]), uint32(j)]
                share, weight, of = shares(c[uint32(i)], whole, kl, path, beta)
                if K > 0:
                    b = work[uint32(slopes + i * d + j)]
                else:
                    b = share * dZ[uint32(i), uint32(j)] + weight * Z[uint32(i), uint32(j)]
                    if path:
                        b -= weight * e * inverse
                bmu += b
                bsd += e * b
                total += of
            bsd *= sd
            if kl == ANALYTIC:
                bmu += total * head[n, uint32(j)]
                bsd += total * (sd * sd - T(1))
            else:
                bsd -= total
            dhead[n, uint32(j)], dhead[n, uint32(d + j)] = bmu, T(0.5) * bsd * more


def sample_back(head, eps, flow, hs, Z, dZ, c, whole, kl, path, counter, warm, dhead, dflow):
    """Slopes of minus the bound in the head and the shared layers, from those in z_K; the CPU's docstring has the
    equations.

    As in `sample`, and dZ (M,d), slopes that the decoder gives, c (M,), weights of the samples in minus the bound,
    whole: of all samples of one importance-weighted bound, counter (1,) int64; warm: the KL counts
    beta = min(1, counter/warm); path=1, for K = 0: the slope of -log q goes through z alone
    ->  dhead (B,P); dflow (B,K(2d+1)), or (0,0), to be summed over rows"""
    blocks, bits = _groups(len(head), Z.shape[1])
    work = _memory((2 * Z.size if hs.size else 1).bit_length(), Z.dtype)
    given = head, eps, flow, hs, Z, dZ, c, whole, kl, path, counter, warm, bits, work, dhead, dflow
    _sample_back(blocks, GROUPS, *given)


# -------------------------------------------------------------------------------------------------------- likelihood
@device_function
def _in_all(x, sums):
    """The sum of x over a block, the same for all threads. sums: shared, with room for a number of each warp."""
    t = cuda.threadIdx.x
    x = _across(x, 5)
    cuda.syncthreads()
    if t & 31 == 0:
        sums[t >> 5] = x
    cuda.syncthreads()
    x = sums[0]
    for i in range(1, cuda.blockDim.x >> 5):
        x += sums[i]
    return x


@device_function
def _compared(px, extra, beta, first, k, lane, bits):
    """The largest of the k numbers px + beta extra from `first` on, and the sum of e^(each - largest)."""
    T = type(beta)
    top, total = T(-math.inf), T(0)
    for i in range(first + lane, first + k, 1 << bits):
        top = max(top, px[uint32(i)] + beta * extra[uint32(i)])
    half = (1 << bits) >> 1
    while half > 0:
        top = max(top, cuda.shfl_xor_sync(ALL, top, half))
        half >>= 1
    for i in range(first + lane, first + k, 1 << bits):
        total += exp(px[uint32(i)] + beta * extra[uint32(i)] - top)
    return top, _across(total, bits)


@kernel("T2w T2 T1 i i i i i T T1w T1w T2w")
def _samples(A, X, rho, which, squashed, S, values, slopes, whole, px, c, sums):
    """values: px, and with slopes c = whole for all; slopes: c times those, in the place of A, and the block's sums."""
    shared = cuda.shared.array(WARPS, A.dtype)
    t, b, threads, T, D = cuda.threadIdx.x, uint32(cuda.blockIdx.x), cuda.blockDim.x, A.dtype.type, X.shape[1]
    spread = T(0)
    if slopes and which == DIAGONAL:
        for j in range(t, D, threads):
            sums[b, uint32(j)] = T(0)
    for i in range(cuda.blockIdx.x, A.shape[0], cuda.gridDim.x):
        n, i, total, weight = uint32(i // S), uint32(i), T(0), whole
        if slopes and not values:
            weight = c[i]
        if which == BERNOULLI:
            for first in range(t, D, FACTORS * threads):
                product = T(1)
                for j in range(first, min(first + FACTORS * threads, D), threads):
                    g, l, slope = bernoulli(A[i, uint32(j)], X[n, uint32(j)])
                    product *= g
                    total -= l
                    if slopes:
                        A[i, uint32(j)] = weight * slope
                total -= log(product)
        elif which == SQUARED:
            for j in range(t, D, threads):
                m, slope = mean_of(A[i, uint32(j)], squashed)
                e = X[n, uint32(j)] - m
                total -= T(0.5) * e * e
                if slopes:
                    A[i, uint32(j)] = -weight * e * slope
        else:
            for j in range(t, D, threads):
                if which == NETWORK:
                    r = A[i, uint32(D + j)]
                else:
                    r = rho[uint32(j if which == DIAGONAL else 0)]
                v, more = log_variance(r)
                m, slope = mean_of(A[i, uint32(j)], squashed)
                l, gm, gv = gaussian(X[n, uint32(j)], m, v, exp(-v))
                total += l - T(HALF_LOG_2PI)
                if slopes:
                    A[i, uint32(j)] = -weight * gm * slope
                    if which == NETWORK:
                        A[i, uint32(D + j)] = -weight * gv * more
                    elif which == DIAGONAL:
                        sums[b, uint32(j)] -= weight * gv
                    else:
                        spread -= weight * gv
        if values:
            total = _in_all(total, shared)
            if t == 0:
                px[i] = total
                if slopes:
                    c[i] = weight
    if slopes and which == ISOTROPIC:
        spread = _in_all(spread, shared)
        if t == 0:
            sums[b, 0] = spread


@kernel("T1 T1 i i T i1 T T1w")
def _weights(px, extra, k, bits, whole, counter, warm, c):
    t, T = cuda.threadIdx.x, px.dtype.type
    g, lane, n = cuda.blockIdx.x * (GROUPS >> bits) + (t >> bits), t & ((1 << bits) - 1), px.size // k
    first, beta = min(g, n - 1) * k, warmed(T(counter[0]), warm)
    top, total = _compared(px, extra, beta, first, k, lane, bits)
    if g < n:
        for i in range(first + lane, first + k, 1 << bits):
            c[uint32(i)] = exp(px[uint32(i)] + beta * extra[uint32(i)] - top) * (whole / total)


def parts(M, D, k):
    """How many sums `likelihood` makes for M samples of D columns, in groups of k."""
    return min(M, PARTS)


def likelihood(A, X, rho, extra, which, squashed, k, whole, counter, warm, px, c, sums):
    """log p(x|z) of all samples, and the slopes of minus the bound in the decoder's output, in its place.

    A (M,Q) output for the samples of X (B,D); rho, log-variances as `log_variance` takes them: (1,) or (D,), or (0,);
    which, a place in LIKELIHOODS: "bernoulli" of logits A, log p = sum x a - log(1 + e^a); "isotropic", "diagonal",
    Gaussian with the mean A, or sigmoid(A) if squashed; "network", with log-variances in columns D and on; "squared",
    minus half of the squared error. extra (M,) of `sample`. k samples in a row share a bound log 1/k sum w, log w =
    log p + beta extra (Burda, Grosse & Salakhutdinov 2016), whose weight is `whole`; beta as in `sample_back`.
    ->  px (M,); c (M,), whole times w / sum w, or (0,) for no slopes, A as it was; sums (P,R), P = parts(M, D, k), R
    the size of rho: slopes in the log-variances, for `finish`"""
    M, D = len(A), X.shape[1]
    blocks, threads = len(sums), 32 << _shift(-(-D // 32), WARPS)
    given = A, X, rho, which, squashed, M // len(X)
    if c.size == 0 or k == 1:
        _samples(blocks, threads, *given, 1, int(c.size > 0), whole, px, c, sums)
    else:
        _samples(blocks, threads, *given, 1, 0, whole, px, c, sums)
        groups, bits = _groups(M // k, k)
        _weights(groups, GROUPS, px, extra, k, bits, whole, counter, warm, c)
        _samples(blocks, threads, *given, 0, 1, whole, px, c, sums)


@kernel("T1 T1 T1 i i i i T2 T1w d1w", double=True)
def _finish(px, extra, rho, S, k, bits, shift, sums, drho, totals):
    """Threads of a block have columns, 2^shift side by side, and each some of the parts. The last block has bounds."""
    shared = cuda.shared.array(THREADS, np.float64)
    t, T, lanes = cuda.threadIdx.x, rho.dtype.type, 1 << shift
    if cuda.blockIdx.x < cuda.gridDim.x - 1:
        j, total = (cuda.blockIdx.x << shift) + (t & (lanes - 1)), 0.0
        if j < drho.size:
            for p in range(t >> shift, sums.shape[0], THREADS >> shift):
                total += sums[uint32(p), uint32(j)]
        shared[t] = total
        half = THREADS >> 1
        while half >= lanes:
            cuda.syncthreads()
            if t < half:
                shared[t] += shared[t + half]
            half >>= 1
        if t < lanes and j < drho.size:
            _, slope = log_variance(rho[j])
            drho[j] = T(shared[t]) * slope
    else:
        n, lane, size, bound, l, more = px.size // k, t & ((1 << bits) - 1), 1 << bits, 0.0, 0.0, 0.0
        for begin in range(0, n, THREADS >> bits):
            g = begin + (t >> bits)
            first = min(g, n - 1) * k
            top, total = _compared(px, extra, 1.0, first, k, lane, bits)
            if g < n:
                for i in range(first + lane, first + k, size):
                    l += px[uint32(i)]
                    more += extra[uint32(i)]
                if lane == 0:
                    bound += k * (top + log(total / k))
        bound, l, more = _in_all(bound, shared), _in_all(l, shared), _in_all(more, shared)
        if t == 0:
            totals[0] += bound / S
            totals[1] += l / S
            totals[2] += more / S


def finish(px, extra, rho, S, k, sums, drho, totals):
    """The slopes in rho, from `sums`; and what an epoch adds up.

    px, extra (M,), rho (R,), sums (P,R)  ->  drho (R,); totals (3,) float64: added are the rows' bounds, their mean
    log p(x|z), and their mean extra, each a sum over rows"""
    shift = _shift(drho.size, 32)
    blocks = -(-drho.size >> shift) + 1
    _finish(blocks, THREADS, px, extra, rho, S, k, _shift(k, 32), shift, sums, drho, totals)
