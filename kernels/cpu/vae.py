"""Variational autoencoders, on the CPU: what lies between the matrix products of a step (lvm/objectives/vae.py).

Row n of a batch has S samples, i = n S + s. Of its `head` the first d columns are mu, the next d are r, the
log-variances t = c tanh(r/c); then, where each row has planar layers of its own, u (d), w (d), b of each. z0 = mu +
e^(t/2) eps goes through the K layers (shared/flow.py). With l the sum of their log|det|, but for constants that cancel:

    log p(z_K) - log q(z_K|x) = -|z_K|²/2 + sum (eps² + t)/2 + l,   KL of Gaussians = sum (mu² + e^t - 1 - t)/2

(Kingma & Welling 2014; Rezende & Mohamed 2015, eq. 15). A step goes down: slopes are those of minus the bound.
Letters: B rows of a batch, D columns, d latent ones, S samples of a row, M = B S; all arrays of a call have one dtype.
"""

import math

import numpy as np
from numba.extending import register_jitable

from .. import pool
from ..jit import FAST, kernel
from ..shared.flow import constrain, constrain_back, one_over_square, planar_back, tanh_slope
from ..shared.scalar import exp, log
from ..shared.vae import (
    ANALYTIC,
    BERNOULLI,
    BINARIZE,
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

WORK = 1 << 18  # numbers that a thread takes at a time: some 0.2 ms
FACTORS = 64  # numbers between 1 and 2 of which one log is taken

# inlined always: else code from the cache and code compiled here would differ in what they inline, and in last bits
piece = register_jitable(fastmath=FAST, forceinline=True)


# -------------------------------------------------------------------------------------------------------------- data
@kernel("T2 i1 T1 T1 i i i T2w", fastmath=FAST)
def _gather(X, rows, shift, factor, binarize, first, last, out):
    T = X.dtype.type
    for n in range(first, last):
        x, y = X[rows[n] if rows.size else n], out[n]
        if binarize == DYNAMIC:
            for j in range(y.size):
                y[j] = T(1) if y[j] < x[j] else T(0)
        elif binarize == THRESHOLD:
            for j in range(y.size):
                y[j] = T(1) if x[j] > T(0.5) else T(0)
        else:
            for j in range(y.size):
                y[j] = (x[j] - shift[j]) * factor[j]


def gather(X, rows, shift, factor, binarize, out):
    """out = the rows of X with the numbers `rows`, as (x - shift) factor, or as 0 and 1.

    X (N,D), rows (B,) int64 or (0,) for all N = B in their order, shift, factor (D,)  ->  out (B,D)
    binarize: a place in BINARIZE. "dynamic": 1 with probability x, by the uniform numbers that `out` holds when it
    comes; "threshold": 1 where x > 1/2."""
    size = max(1, WORK // max(out.shape[1], 1))

    def block(b):
        _gather(X, rows, shift, factor, binarize, b * size, min((b + 1) * size, len(out)), out)

    pool.run(block, -(-len(out) // size))


# --------------------------------------------------------------------------------------------------------- posterior
@piece
def _table(row, d, table):
    """Of each planar layer û (d), m, 1 + m, x = w'u and |w|²: table (K,d+4), of its row of u, w, b."""
    T = row.dtype.type
    for k in range(len(table)):
        layer, out = row[k * (2 * d + 1) : (k + 1) * (2 * d + 1)], table[k]
        x, ww = T(0), T(0)
        for j in range(d):
            x += layer[d + j] * layer[j]
            ww += layer[d + j] * layer[d + j]
        m, sigma, g, _ = constrain(x)
        g *= one_over_square(ww)
        for j in range(d):
            out[j] = layer[j] + g * layer[d + j]
        out[d], out[d + 1], out[d + 2], out[d + 3] = m, sigma, x, ww


@kernel("T2 T2 T2 i i i i T2w T1w T2w", fastmath=FAST)
def _sample(head, eps, flow, S, kl, first, last, Z, extra, hs):
    T, d, K = head.dtype.type, Z.shape[1], hs.shape[1] // 2
    table, sd = np.empty((K, d + 4), head.dtype), np.empty(d, head.dtype)
    if len(flow):
        _table(flow[0], d, table)
    for n in range(first, last):
        mu, r = head[n, :d], head[n, d : 2 * d]
        layers = flow[0] if len(flow) else head[n, 2 * d :]
        if len(flow) == 0:
            _table(layers, d, table)
        half = T(0)
        for j in range(d):
            t, _ = log_variance(r[j])
            sd[j] = exp(T(0.5) * t)
            half += T(0.5) * (t if kl != ANALYTIC else t + T(1) - sd[j] * sd[j] - mu[j] * mu[j])
        if kl == ENTROPY:
            half += T(0.5) * T(d)
        for s in range(S):
            i = n * S + s
            z, e, l = Z[i], eps[i % len(eps)], half
            for j in range(d):
                z[j] = mu[j] + sd[j] * e[j]
            for k in range(K):
                w, row = layers[k * (2 * d + 1) + d : (k + 1) * (2 * d + 1)], table[k]
                a = w[d]
                for j in range(d):
                    a += w[j] * z[j]
                h, slope = tanh_slope(a)
                hs[i, 2 * k], hs[i, 2 * k + 1] = h, slope
                l += log(h * h + row[d + 1] * slope)
                for j in range(d):
                    z[j] += h * row[j]
            if kl != ANALYTIC:
                for j in range(d):
                    l += T(0.5) * ((e[j] * e[j] if kl != ENTROPY else T(0)) - z[j] * z[j])
            extra[i] = l


def _rows(width):
    return max(1, WORK // (8 * max(width, 1)))


def sample(head, eps, flow, S, kl, Z, extra, hs):
    """z_K of S samples of each row, and what is beside log p(x|z) in the bound.

    head (B,P), eps (M,d), or (S,d) for the same noise in all rows, flow (1,K(2d+1)), planar layers that all rows share,
    or (0,0)  ->  Z (M,d); extra (M,): with kl, a place in KLS, "analytic" -KL (K = 0), "monte_carlo" log p(z_K) -
    log q(z_K|x), "entropy" the same with the mean of -log q(z0|x), its entropy; hs (M,2K): tanh and its slope in each
    layer, for `sample_back`"""
    B, size = len(head), _rows(S * Z.shape[1] * (1 + hs.shape[1]))
    pool.run(lambda b: _sample(head, eps, flow, S, kl, b * size, min((b + 1) * size, B), Z, extra, hs), -(-B // size))


@kernel("T2 T2 T2 T2 T2 T2 T1 T i i i1 T i i T2w T2w", fastmath=FAST)
def _sample_back(head, eps, flow, hs, Z, dZ, c, whole, kl, path, counter, warm, first, last, dhead, dflow):
    T, M, d, K = head.dtype.type, len(Z), Z.shape[1], hs.shape[1] // 2
    S = M // len(head)
    beta = warmed(T(counter[0]), warm)
    table, sd, z, bz = np.empty((K, d + 4), Z.dtype), np.empty(d, Z.dtype), np.empty(d, Z.dtype), np.empty(d, Z.dtype)
    bu, bm = np.empty((K, d), Z.dtype), np.empty(K, Z.dtype)
    if len(flow):
        _table(flow[0], d, table)
    for n in range(first, last):
        mu, r, dmu, dr = head[n, :d], head[n, d : 2 * d], dhead[n, :d], dhead[n, d : 2 * d]
        layers = flow[0] if len(flow) else head[n, 2 * d :]
        back = dflow[n] if len(flow) else dhead[n, 2 * d :]
        if len(flow) == 0:
            _table(layers, d, table)
        for j in range(d):
            t, _ = log_variance(r[j])
            sd[j] = exp(T(0.5) * t)
            dmu[j], dr[j] = T(0), T(0)
        for i in range(back.size):
            back[i] = T(0)
        for k in range(K):
            bm[k] = T(0)
            for j in range(d):
                bu[k, j] = T(0)
        total = T(0)
        for i in range(n * S, (n + 1) * S):
            e, (share, weight, more) = eps[i % len(eps)], shares(c[i], whole, kl, path, beta)
            total += more
            for j in range(d):
                z[j] = Z[i, j]
                bz[j] = share * dZ[i, j] + weight * z[j]
            if path:
                for j in range(d):
                    bz[j] -= weight * e[j] / sd[j]
            for k in range(K - 1, -1, -1):
                h, s, row = hs[i, 2 * k], hs[i, 2 * k + 1], table[k]
                at = k * (2 * d + 1) + d
                w, bw, g = layers[at : at + d], back[at : at + d], bu[k]
                slope = T(0)
                for j in range(d):
                    z[j] -= h * row[j]
                    slope += row[j] * bz[j]
                    g[j] += h * bz[j]
                ba, m = planar_back(h, s, row[d], row[d + 1], slope, -weight, 0)
                bm[k] += m
                back[at + d] += ba
                for j in range(d):
                    bw[j] += ba * z[j]
                    bz[j] += ba * w[j]
            for j in range(d):
                dmu[j] += bz[j]
                dr[j] += T(0.5) * sd[j] * e[j] * bz[j]
        for j in range(d):
            _, slope = log_variance(r[j])
            if kl == ANALYTIC:
                dmu[j] += total * mu[j]
                dr[j] += T(0.5) * total * (sd[j] * sd[j] - T(1))
            else:
                dr[j] -= T(0.5) * total
            dr[j] *= slope
        for k in range(K):  # of û and m, to u and w: `finish` of lvm.kernels.cpu.flow
            at, dot = k * (2 * d + 1), T(0)
            u, w, gu, gw, g = layers[at : at + d], layers[at + d :], back[at : at + d], back[at + d :], bu[k]
            for j in range(d):
                dot += w[j] * g[j]
            kappa, e, bx = constrain_back(table[k, d + 2], table[k, d + 3], dot, bm[k])
            for j in range(d):
                gu[j] = g[j] + bx * w[j]
                gw[j] += kappa * g[j] - T(2) * kappa * e * w[j] + bx * u[j]


def sample_back(head, eps, flow, hs, Z, dZ, c, whole, kl, path, counter, warm, dhead, dflow):
    """Slopes of minus the bound in the head and the shared layers, from those in z_K.

    As in `sample`, and dZ (M,d), slopes that the decoder gives, c (M,), weights of the samples in minus the bound,
    whole: of all samples of one importance-weighted bound, counter (1,) int64; warm: the KL counts
    beta = min(1, counter/warm). With e the eps of a sample, and v = beta c,
        path=0  bz0 = dz0 + v z0,                      bt = sum e sd bz0/2 - v/2,    bmu = sum bz0
        path=1  bz0 = f (dz0 + v (z0 - e/sd)),         bt = sum e sd bz0/2,          f = 1 - beta (1 - c/whole)
    where the slope of -log q in mu and S at a fixed z is left out: its mean is 0 for one sample (Roeder, Wu & Duvenaud
    2017), and for k of them that of what f makes of the others (Tucker, Lawson, Gu & Maddison 2019, eq. 8, where beta
    is 1; only beta log q has such a slope). path=1 is for K = 0. With K layers bz0 is what comes back through them, of
    bz_K as above with z_K for z0 and -v for the slope in l (lvm.kernels.cpu.flow, "forward"). Of the analytic KL v is
    0, and beta c mu and beta c (S - 1)/2 are added to bmu and bt.
    ->  dhead (B,P); dflow (B,K(2d+1)), or (0,0), to be summed over rows"""
    B, T, size = len(head), head.dtype.type, _rows(len(Z) // len(head) * Z.shape[1] * (1 + hs.shape[1]))
    given = head, eps, flow, hs, Z, dZ, c, T(whole), kl, path, counter, T(warm)
    pool.run(lambda b: _sample_back(*given, b * size, min((b + 1) * size, B), dhead, dflow), -(-B // size))


# -------------------------------------------------------------------------------------------------------- likelihood
@piece
def _one(a, x, noise, which, squashed, c, gradient, sums):
    """log p(x|z) of a sample; with gradient a <- -c times its slope, and sums += that in the log-variances."""
    T, D = x.dtype.type, x.size
    total = T(0)
    if which == BERNOULLI:
        for first in range(0, D, FACTORS):
            some, pixels, product = a[first : first + FACTORS], x[first : first + FACTORS], T(1)
            if gradient:
                for j in range(some.size):
                    g, l, slope = bernoulli(some[j], pixels[j])
                    product *= g
                    total -= l
                    some[j] = c * slope
            else:
                for j in range(some.size):
                    g, l, _ = bernoulli(some[j], pixels[j])
                    product *= g
                    total -= l
            total -= log(product)
        return total
    if which == SQUARED:
        for j in range(D):
            m, slope = mean_of(a[j], squashed)
            total -= T(0.5) * (x[j] - m) * (x[j] - m)
            if gradient:
                a[j] = -c * (x[j] - m) * slope
        return total
    if which == NETWORK:
        b = a[D:]
        for j in range(D):
            m, slope = mean_of(a[j], squashed)
            t, more = log_variance(b[j])
            l, gm, gt = gaussian(x[j], m, t, exp(-t))
            total += l
            if gradient:
                a[j], b[j] = -c * gm * slope, -c * gt * more
    elif which == ISOTROPIC:
        t, p, more = noise[0, 0], noise[1, 0], T(0)
        for j in range(D):
            m, slope = mean_of(a[j], squashed)
            l, gm, gt = gaussian(x[j], m, t, p)
            total += l
            more += gt
            if gradient:
                a[j] = -c * gm * slope
        if gradient:
            sums[0] -= c * more
    else:
        t, p = noise[0], noise[1]
        for j in range(D):
            m, slope = mean_of(a[j], squashed)
            l, gm, gt = gaussian(x[j], m, t[j], p[j])
            total += l
            if gradient:
                a[j] = -c * gm * slope
                sums[j] -= c * gt
    return total - T(0.5 * math.log(2 * math.pi)) * T(D)


@kernel("T2w T2 T1 T1 i i i T i1 T i i T1w T1w T1w", fastmath=FAST)
def _likelihood(A, X, rho, extra, which, squashed, k, whole, counter, warm, first, last, px, c, sums):
    """Groups of k samples, from `first` to `last`; c (0,): no slopes."""
    T = X.dtype.type
    beta = warmed(T(counter[0]), warm)
    noise = np.empty((2, rho.size), A.dtype)
    for j in range(rho.size):
        noise[0, j], _ = log_variance(rho[j])
        noise[1, j] = exp(-noise[0, j])
        sums[j] = T(0)
    S, gradient = len(A) // len(X), c.size > 0
    for g in range(first, last):
        some, x = slice(g * k, (g + 1) * k), X[g * k // S]
        a, l, more = A[some], px[some], extra[some]
        for i in range(k):
            l[i] = _one(a[i], x, noise, which, squashed, whole, gradient and k == 1, sums)
        if gradient and k == 1:
            c[g] = whole
        elif gradient:
            share, top, total = c[some], T(-math.inf), T(0)
            for i in range(k):
                share[i] = l[i] + beta * more[i]
                top = max(top, share[i])
            for i in range(k):
                share[i] = exp(share[i] - top)
                total += share[i]
            for i in range(k):
                share[i] *= whole / total
                _one(a[i], x, noise, which, squashed, share[i], True, sums)


def _groups(D, k):
    return max(1, WORK // (D * k))


def parts(M, D, k):
    """How many sums `likelihood` makes for M samples of D columns, in groups of k."""
    return -(-(M // k) // _groups(D, k))


def likelihood(A, X, rho, extra, which, squashed, k, whole, counter, warm, px, c, sums):
    """log p(x|z) of all samples, and the slopes of minus the bound in the decoder's output, in its place.

    A (M,Q) output for the samples of X (B,D); rho, log-variances as `log_variance` takes them: (1,) or (D,), or (0,);
    which, a place in LIKELIHOODS: "bernoulli" of logits A, log p = sum x a - log(1 + e^a); "isotropic", "diagonal",
    Gaussian with the mean A, or sigmoid(A) if squashed; "network", with log-variances in columns D and on; "squared",
    minus half of the squared error. extra (M,) of `sample`. k samples in a row share a bound log 1/k sum w, log w =
    log p + beta extra (Burda, Grosse & Salakhutdinov 2016), whose weight is `whole`; beta as in `sample_back`.
    ->  px (M,); c (M,), whole times w / sum w, or (0,) for no slopes, A as it was; sums (P,R), P = parts(M, D, k), R
    the size of rho: slopes in the log-variances, for `finish`"""
    T, groups, size = A.dtype.type, len(A) // k, _groups(X.shape[1], k)
    given = A, X, rho, extra, which, squashed, k, T(whole), counter, T(warm)

    def block(b):
        _likelihood(*given, b * size, min((b + 1) * size, groups), px, c, sums[b])

    pool.run(block, -(-groups // size))


@kernel("T1 T1 T1 i i T2 T1w d1w")
def _finish(px, extra, rho, S, k, sums, drho, totals):
    T = rho.dtype.type
    for j in range(drho.size):
        total = 0.0
        for p in range(len(sums)):
            total += sums[p, j]
        _, slope = log_variance(rho[j])
        drho[j] = T(total) * slope
    share = 1.0 / S
    for g in range(len(px) // k):
        top, total = -math.inf, 0.0
        for i in range(g * k, (g + 1) * k):
            l, more = float(px[i]), float(extra[i])
            totals[1] += share * l
            totals[2] += share * more
            top = max(top, l + more)
        for i in range(g * k, (g + 1) * k):
            total += math.exp(float(px[i]) + float(extra[i]) - top)
        totals[0] += share * k * (top + math.log(total / k))


def finish(px, extra, rho, S, k, sums, drho, totals):
    """The slopes in rho, from `sums`; and what an epoch adds up.

    px, extra (M,), rho (R,), sums (P,R)  ->  drho (R,); totals (3,) float64: added are the rows' bounds, their mean
    log p(x|z), and their mean extra, each a sum over rows"""
    _finish(px, extra, rho, S, k, sums, drho, totals)
