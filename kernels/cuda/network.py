"""Bayesian nets on CUDA: twins of lvm.kernels.cpu.network, whose docstring has the equations and the letters.

    gather, spread, regularise, perturb    a thread for each number
    back                                   a block has 32 columns and up to RUN rows, as that of linear.py
    likelihood                             a group for each row: 2^bits threads of a warp, 32 at most
    finish                                 one block

No atomics: results repeat.

What bounds them, not yet measured on a GPU: the launches, some ten for each layer and step, products among
them; of large batches memory, for `perturb` and `back` do little to what they read and write.
"""

import math

import numpy as np

from ..shared.activations import activate, slope
from ..shared.network import FIT, LIKELIHOODS, LOGISTIC, PRIORS, SOFTMAX, TINY, divergence_slopes
from ..shared.scalar import bernoulli_nll, exp, log
from ..shared.vae import LARGEST, gaussian, log_variance, warmed
from .api import cuda, kernel
from .flow import HALF_LOG_2PI
from .linear import BACK, RUN, WHICH, _memory, _one_at_a_time, uint32
from .ppca import THREADS, _by_number
from .relevance import ALL, _across
from .vae import GROUPS, WARPS, _groups, _in_all

__all__ = [
    "FIT",
    "LARGEST",
    "LIKELIHOODS",
    "PRIORS",
    "TINY",
    "back",
    "finish",
    "gather",
    "likelihood",
    "perturb",
    "regularise",
    "spread",
]


# -------------------------------------------------------------------------------------------------------------- data
@kernel("T2 T2 i1 T1 T1 i T2w T2w T2w")
def _gather(X, Y, rows, shift, factor, bits, x, squares, t):
    i, D = cuda.threadIdx.x, x.shape[1]
    n = cuda.blockIdx.x * (THREADS >> bits) + (i >> bits)
    j = (cuda.blockIdx.y << bits) + (i & ((1 << bits) - 1))
    if n < x.shape[0] and j < D:
        n, j, row = uint32(n), uint32(j), uint32(rows[uint32(n)] if rows.size else n)
        z = (X[row, j] - shift[j]) * factor[j]
        x[n, j], squares[n, j] = z, z * z
        if j == 0 and Y.shape[0] > 0:
            t[n, 0], t[n, 1] = Y[row, 0], Y[row, 1]
        elif j == 0 and X.shape[1] > D:
            t[n, 0], t[n, 1] = X[row, uint32(D)], X[row, uint32(D + 1)]


def gather(X, Y, rows, shift, factor, x, squares, t):
    """x = (X - shift) factor and its squares, and t, for the rows of X with the numbers `rows`.

    X (N,D), Y (N,2), a target and a weight, or (0,2), when X (N,D+2) has them as its last columns; rows (B,) int64, or
    (0,) for all N = B in their order, shift, factor (D,)  ->  x, squares (B,D), t (B,2); of X (N,D) without targets, t
    stays as it is"""
    blocks, bits = _by_number(x)
    _gather(blocks, THREADS, X, Y, rows, shift, factor, bits, x, squares, t)


# ----------------------------------------------------------------------------------------------------------- weights
@kernel("T1 T1w")
def _spread(rho, S):
    i = cuda.grid(1)
    if i < rho.size:
        t, _ = log_variance(rho[i])
        S[i] = exp(t)


def spread(rho, S):
    """S = e^t, t = c tanh(rho/c), c = LARGEST.   rho, S (I+1,O)"""
    n = rho.size
    _spread(-(-n // THREADS), THREADS, rho.reshape(n), S.reshape(n))


@kernel("T1 T1 T1 i T T i1 T T1w T1w")
def _regularise(mu, rho, S, prior, tau2, share, counter, warm, dmu, drho):
    i, T = cuda.grid(1), mu.dtype.type
    if i < mu.size:
        beta = share * warmed(T(counter[0]), warm)
        g, h, more = divergence_slopes(mu[i], rho[i], S[i], prior, tau2)
        dmu[i] += beta * g
        drho[i] = (S[i] * drho[i] + beta * h) * more


def regularise(mu, rho, S, prior, tau2, share, counter, warm, dmu, drho):
    """Adds beta share times the slopes of the KL (`divergence_slopes`), and makes of slopes in S those in rho: by
    t = log S, dS = S dt, so that drho = (S dS + beta share dKL/dt) dt/drho.

    mu, rho, S (I+1,O), prior: a place in PRIORS, tau2: variance of "gaussian", counter (1,) int64, beta = min(1,
    counter/warm)  ->  dmu (I+1,O), added to; drho (I+1,O), which comes with the slopes in S"""
    n = mu.size
    mu, rho, S, dmu, drho = (x.reshape(n) for x in (mu, rho, S, dmu, drho))
    _regularise(-(-n // THREADS), THREADS, mu, rho, S, prior, tau2, share, counter, warm, dmu, drho)


# ------------------------------------------------------------------------------------------------------------ layers
@kernel("T2 T2 T2 i i i T2w T2w T2w")
def _perturb(M, V, eps, R, activation, bits, H, squares, G):
    t, T = cuda.threadIdx.x, H.dtype.type
    i = cuda.blockIdx.x * (THREADS >> bits) + (t >> bits)
    j = (cuda.blockIdx.y << bits) + (t & ((1 << bits) - 1))
    if i < H.shape[0] and j < H.shape[1]:
        i, j = uint32(i), uint32(j)
        n = uint32(i // uint32(R))
        e, sd = eps[uint32(i % uint32(eps.shape[0])), j], T(math.sqrt(V[n, j]))
        h = activate(activation, M[n, j] + sd * e)
        H[i, j] = h
        if squares.shape[0] > 0:
            squares[i, j] = h * h
        if G.shape[0] > 0:
            G[i, j] = T(0.5) * e / sd


def perturb(M, V, eps, R, activation, H, squares, G):
    """H = f(u), u = m + sqrt(v) eps, for R draws of each row, its squares, and G = du/dv = eps/(2 sqrt v).

    M, V (B,O), eps (B R,O), or fewer rows, in turn: (R,O) for the same noise in all rows; activation: as of
    linear.gemm  ->  H, squares, G (B R,O); squares and G may be (0,O), for none"""
    blocks, bits = _by_number(H)
    _perturb(blocks, THREADS, M, V, eps, R, WHICH[activation], bits, H, squares, G)


@kernel("T2w T2 T2 T2 i i T2w T2w T2w")
def _back(dM, dV, H, G, activation, rows, gamma, b, s):
    """A block has 32 columns of `rows` rows, a warp some of these, a thread a column of them.   b, s (P,O)"""
    deltas, gammas = cuda.shared.array(BACK, dM.dtype), cuda.shared.array(BACK, dM.dtype)
    t, T, j = cuda.threadIdx.x, dM.dtype.type, cuda.blockIdx.x * 32 + (cuda.threadIdx.x & 31)
    first, one, two = cuda.blockIdx.y * rows, T(0), T(0)
    if j < dM.shape[1]:
        for n in range(first + (t >> 5), min(first + rows, dM.shape[0]), BACK >> 5):
            d = dM[uint32(n), uint32(j)]
            if dV.shape[0] > 0:
                h = H[uint32(n), uint32(j)]
                d = (d + T(2) * h * dV[uint32(n), uint32(j)]) * slope(activation, h)
                dM[uint32(n), uint32(j)] = d
            c = d * G[uint32(n), uint32(j)]
            gamma[uint32(n), uint32(j)] = c
            one += d
            two += c
    deltas[t], gammas[t] = one, two
    cuda.syncthreads()
    if t < 32 and j < dM.shape[1]:
        for i in range(t + 32, BACK, 32):
            one += deltas[i]
            two += gammas[i]
        b[cuda.blockIdx.y, uint32(j)], s[cuda.blockIdx.y, uint32(j)] = one, two


@kernel("T2 T2 T1w T1w")
def _add_up(b, s, db, ds):
    """A thread for each column of b, s (P,O)."""
    j, T = cuda.grid(1), b.dtype.type
    if j < b.shape[1]:
        one, two = T(0), T(0)
        for p in range(b.shape[0]):
            one += b[uint32(p), uint32(j)]
            two += s[uint32(p), uint32(j)]
        db[j], ds[j] = one, two


def back(dM, dV, H, G, activation, gamma, db, ds):
    """Slopes in the sums' means and variances, of those in a layer's output h through its place in the next layer's m,
    dM = delta mu', and in the next layer's v, dV = gamma S'.

        delta = (dM + 2 h dV) f'(u), in the place of dM,   gamma = delta G,   db = sum_n delta_n,   ds = sum_n gamma_n

    dM, dV, H, G (B,O); with dV and H (0,O) delta is dM: of the last layer. activation: as of linear.back  ->  gamma
    (B,O), db, ds (O,)"""
    B, O = dM.shape
    rows, strips = max(RUN, -(-B // RUN)), -(-O // 32)
    P, given = -(-B // rows), (dM, dV, H, G, WHICH[activation], rows, gamma)
    if P <= 1:
        _back((strips, 1), BACK, *given, db.reshape(1, O), ds.reshape(1, O))
        return
    with _one_at_a_time:
        sums = _memory((2 * P * O - 1).bit_length(), dM.dtype)
        b, s = (sums[i * P * O : (i + 1) * P * O].reshape(P, O) for i in (0, 1))
        _back((strips, P), BACK, *given, b, s)
        _add_up(-(-O // THREADS), THREADS, b, s, db, ds)


# -------------------------------------------------------------------------------------------------------- likelihood
@kernel("T2w T2 T1 i T i T2w")
def _likelihood(A, t, noise, which, share, bits, l):
    """Groups after the last do its work again and write nothing: all threads of a warp add up together."""
    i, T, K, size = cuda.threadIdx.x, A.dtype.type, A.shape[1], 1 << bits
    n, lane = cuda.blockIdx.x * (GROUPS >> bits) + (i >> bits), i & (size - 1)
    there, n = n < A.shape[0], uint32(min(n, A.shape[0] - 1))
    y, w = t[n, 0], t[n, 1]
    c = share * w
    if which == SOFTMAX:
        right, top, total, others = int(y), T(-math.inf), T(0), T(0)
        for j in range(lane, K, size):
            top = max(top, A[n, uint32(j)])
        half = size >> 1
        while half > 0:
            top = max(top, cuda.shfl_xor_sync(ALL, top, half))
            half >>= 1
        for j in range(lane, K, size):
            total += exp(A[n, uint32(j)] - top)
        total = _across(total, bits)
        scale = c / total
        for j in range(lane, K, size):  # of the right one the slope is minus the others', without what cancels in p - 1
            a = A[n, uint32(j)] - top
            if j != right:
                p = exp(a) * scale
                others += p
                if there:
                    A[n, uint32(j)] = p
            elif there:
                l[n, 0], l[n, 1] = w * (a - log(total)), T(0)
        others = _across(others, bits)
        if there and lane == right & (size - 1):
            A[n, uint32(right)] = -others
    elif there:
        if which == LOGISTIC:
            f, g = bernoulli_nll(A[n, 0], y)
            l[n, 0], l[n, 1], A[n, 0] = -w * f, T(0), c * g
        else:
            v, more = log_variance(noise[0])
            f, g, gv = gaussian(y, A[n, 0], v, exp(-v))
            l[n, 0], l[n, 1], A[n, 0] = w * (f - T(HALF_LOG_2PI)), -c * gv * more, -c * g


def likelihood(A, t, noise, which, share, l):
    """log p(y|a) of each row, and the slopes of minus the bound in the net's output a, in its place.

    A (B,K) output, t (B,2), the target y and the weight w of each row, noise (1,), the log-variance as `log_variance`
    takes it, or (0,); which, a place in LIKELIHOODS: "softmax", log p = a_y - log sum e^a, y the number of a class;
    "logistic", one logit, y 0 or 1; "gaussian", log N(y | a, e^t); share: of a row of weight 1 in the mean bound  ->
    l (B,2): w log p, and the slope in noise. With p = e^a / sum e^a, or sigmoid(a), minus the slopes of log p are p_j -
    [j = y] (Bishop 4.109), p - y (4.91), and (a - y) e^-t, (1 - (a - y)² e^-t)/2 in t"""
    blocks, bits = _groups(*A.shape)
    _likelihood(blocks, GROUPS, A, t, noise, which, share, bits, l)


@kernel("T2 T2 T1w d1w", double=True)
def _finish(l, t, dnoise, totals):
    shared, i, T = cuda.shared.array(WARPS, np.float64), cuda.threadIdx.x, l.dtype.type
    px, weight, change = 0.0, 0.0, 0.0
    for n in range(i, l.shape[0], THREADS):
        px += l[uint32(n), 0]
        weight += t[uint32(n), 1]
        change += l[uint32(n), 1]
    px, weight, change = _in_all(px, shared), _in_all(weight, shared), _in_all(change, shared)
    if i == 0:
        totals[0] += px
        totals[1] += weight
        if dnoise.size:
            dnoise[0] = T(change)


def finish(l, t, dnoise, totals):
    """The slope in the noise, and what an epoch adds up.

    l, t (B,2), of `likelihood`  ->  dnoise (1,), or (0,); totals (2,) float64: sums of w log p and of w are added"""
    _finish(1, THREADS, l, t, dnoise, totals)
