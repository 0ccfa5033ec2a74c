"""Bayesian nets, on the CPU: what lies between the matrix products of a step (lvm/objectives/network.py).

A layer with inputs h and weights of N(mu, S) has sums of N(m, v), m = h mu + mu_b, v = h² S + S_b, of which one is
drawn for each row, u = m + sqrt(v) eps (local reparameterisation: Kingma, Salimans & Welling 2015); biases are weights
of a 1. A step goes down: slopes are those of minus the bound.
Letters: B rows of a batch, I inputs and O outputs of a layer, R draws of a row; all arrays of a call have one dtype.
"""

import math

from .. import pool
from ..jit import FAST, kernel
from ..shared.activations import ACTIVATIONS, SLOPES
from ..shared.network import FIT, LIKELIHOODS, LOGISTIC, PRIORS, SOFTMAX, TINY, divergence_slopes
from ..shared.scalar import bernoulli_nll, exp, log
from ..shared.vae import LARGEST, gaussian, log_variance, warmed

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

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
WORK = 1 << 18  # numbers that a thread takes at a time: some 0.2 ms


def _rows(step, B, width):
    """step(first, last) for pieces of B rows of so many numbers, on threads."""
    size = max(1, WORK // max(width, 1))
    pool.run(lambda b: step(b * size, min((b + 1) * size, B)), -(-B // size))


# -------------------------------------------------------------------------------------------------------------- data
@kernel("T2 T2 i1 T1 T1 i i T2w T2w T2w", fastmath=FAST)
def _gather(X, Y, rows, shift, factor, first, last, x, squares, t):
    D = shift.size
    for n in range(first, last):
        i = rows[n] if rows.size else n
        row, y, y2 = X[i], x[n], squares[n]
        for j in range(D):
            z = (row[j] - shift[j]) * factor[j]
            y[j] = z
            y2[j] = z * z
        some = Y[i] if len(Y) else row[D:]
        for j in range(some.size):
            t[n, j] = some[j]


def gather(X, Y, rows, shift, factor, x, squares, t):
    """x = (X - shift) factor and its squares, and t, for the rows of X with the numbers `rows`.

    X (N,D), Y (N,2), a target and a weight, or (0,2), when X (N,D+2) has them as its last columns; rows (B,) int64, or
    (0,) for all N = B in their order, shift, factor (D,)  ->  x, squares (B,D), t (B,2); of X (N,D) without targets, t
    stays as it is"""
    step = lambda a, b: _gather(X, Y, rows, shift, factor, a, b, x, squares, t)
    _rows(step, len(x), 2 * x.shape[1])


# ----------------------------------------------------------------------------------------------------------- weights
@kernel("T1 T1w", fastmath=FAST)
def _spread(rho, S):
    """Two loops: in one, tanh and exp together have too few registers (0.8 ns a number; so 0.5)."""
    for a in range(0, rho.size, 4096):
        r, s = rho[a : a + 4096], S[a : a + 4096]
        for i in range(s.size):
            s[i], _ = log_variance(r[i])
        for i in range(s.size):
            s[i] = exp(s[i])


def spread(rho, S):
    """S = e^t, t = c tanh(rho/c), c = LARGEST.   rho, S (I+1,O)"""
    rho, S = rho.reshape(-1), S.reshape(-1)
    _rows(lambda a, b: _spread(rho[a:b], S[a:b]), rho.size, 1)


def _regulariser(prior):
    @kernel("T1 T1 T1 T T i1 T T1w T1w", fastmath=FAST)
    def regularise(mu, rho, S, tau2, share, counter, warm, dmu, drho):
        T = mu.dtype.type
        beta = share * warmed(T(counter[0]), warm)
        for i in range(mu.size):
            g, h, slope = divergence_slopes(mu[i], rho[i], S[i], prior, tau2)
            dmu[i] += beta * g
            drho[i] = (S[i] * drho[i] + beta * h) * slope

    return regularise


_regularisers = [_regulariser(prior) for prior in range(len(PRIORS))]  # one a prior: 1.9 ns a number if it asks which


def regularise(mu, rho, S, prior, tau2, share, counter, warm, dmu, drho):
    """Adds beta share times the slopes of the KL (`divergence_slopes`), and makes of slopes in S those in rho: by
    t = log S, dS = S dt, so that drho = (S dS + beta share dKL/dt) dt/drho.

    mu, rho, S (I+1,O), prior: a place in PRIORS, tau2: variance of "gaussian", counter (1,) int64, beta = min(1,
    counter/warm)  ->  dmu (I+1,O), added to; drho (I+1,O), which comes with the slopes in S"""
    T = mu.dtype.type
    mu, rho, S, dmu, drho = (x.reshape(-1) for x in (mu, rho, S, dmu, drho))
    f, rest = _regularisers[prior], (T(tau2), T(share), counter, T(warm))
    _rows(lambda a, b: f(mu[a:b], rho[a:b], S[a:b], *rest, dmu[a:b], drho[a:b]), mu.size, 1)


# ------------------------------------------------------------------------------------------------------------ layers
def _perturber(f):
    @kernel("T2 T2 T2 i i i T2w T2w T2w", fastmath=FAST)
    def perturb(M, V, eps, R, first, last, H, squares, G):
        T = M.dtype.type
        for n in range(first, last):
            m, v = M[n], V[n]
            for i in range(n * R, (n + 1) * R):
                e, h = eps[i % len(eps)], H[i]
                for j in range(h.size):
                    h[j] = f(m[j] + T(math.sqrt(v[j])) * e[j])
                if len(squares):
                    h2 = squares[i]
                    for j in range(h.size):
                        h2[j] = h[j] * h[j]
                if len(G):
                    g = G[i]
                    for j in range(h.size):
                        g[j] = T(0.5) * e[j] / T(math.sqrt(v[j]))

    return perturb


_perturbers = {name: _perturber(f) for name, f in ACTIVATIONS.items()}


def perturb(M, V, eps, R, activation, H, squares, G):
    """H = f(u), u = m + sqrt(v) eps, for R draws of each row, its squares, and G = du/dv = eps/(2 sqrt v).

    M, V (B,O), eps (B R,O), or fewer rows, in turn: (R,O) for the same noise in all rows; activation: as of
    linear.gemm  ->  H, squares, G (B R,O); squares and G may be (0,O), for none"""
    p = _perturbers[activation]
    _rows(lambda a, b: p(M, V, eps, R, a, b, H, squares, G), len(M), 4 * R * M.shape[1])


def _backer(slope):
    @kernel("T2w T2 T2 T2 i i T2w T1w T1w", fastmath=FAST)
    def back(dM, dV, H, G, first, last, gamma, db, ds):
        T, b, s = dM.dtype.type, db[first:last], ds[first:last]
        for j in range(b.size):
            b[j] = T(0)
            s[j] = T(0)
        for n in range(len(dM)):
            d, g, c = dM[n, first:last], G[n, first:last], gamma[n, first:last]
            if len(dV):
                v, h = dV[n, first:last], H[n, first:last]
                for j in range(b.size):
                    d[j] = (d[j] + T(2) * h[j] * v[j]) * slope(h[j])
            for j in range(b.size):
                c[j] = d[j] * g[j]
                b[j] += d[j]
                s[j] += c[j]

    return back


_backers = {name: _backer(f) for name, f in SLOPES.items()}


def back(dM, dV, H, G, activation, gamma, db, ds):
    """Slopes in the sums' means and variances, of those in a layer's output h through its place in the next layer's m,
    dM = delta mu', and in the next layer's v, dV = gamma S'.

        delta = (dM + 2 h dV) f'(u), in the place of dM,   gamma = delta G,   db = sum_n delta_n,   ds = sum_n gamma_n

    dM, dV, H, G (B,O); with dV and H (0,O) delta is dM: of the last layer. activation: as of linear.back  ->  gamma
    (B,O), db, ds (O,)"""
    B, O = dM.shape
    columns = min(max(16, WORK // max(2 * B, 1) // 16 * 16), max(O, 1))
    p = _backers[activation]
    pool.run(lambda i: p(dM, dV, H, G, i * columns, min((i + 1) * columns, O), gamma, db, ds), -(-O // columns))


# -------------------------------------------------------------------------------------------------------- likelihood
@kernel("T2w T2 T1 i T i i T2w", fastmath=FAST)
def _likelihood(A, t, noise, which, share, first, last, l):
    T = A.dtype.type
    for n in range(first, last):
        a, y, w = A[n], t[n, 0], t[n, 1]
        c = share * w
        if which == SOFTMAX:
            right, top, total = int(y), a[0], T(0)
            for j in range(1, a.size):
                top = max(top, a[j])
            mine = a[right] - top
            for j in range(a.size):
                a[j] = exp(a[j] - top)
                total += a[j]
            l[n, 0], l[n, 1] = w * (mine - log(total)), T(0)
            for j in range(a.size):
                a[j] *= c / total
            others = T(0)  # of the right one the slope is minus the others', without what cancels in p - 1
            for j in range(a.size):
                others += a[j] if j != right else T(0)
            a[right] = -others
        elif which == LOGISTIC:
            f, slope = bernoulli_nll(a[0], y)
            l[n, 0], l[n, 1] = -w * f, T(0)
            a[0] = c * slope
        else:
            s, more = log_variance(noise[0])
            f, gm, gt = gaussian(y, a[0], s, exp(-s))
            l[n, 0], l[n, 1] = w * (f - T(HALF_LOG_2PI)), -c * gt * more
            a[0] = -c * gm


def likelihood(A, t, noise, which, share, l):
    """log p(y|a) of each row, and the slopes of minus the bound in the net's output a, in its place.

    A (B,K) output, t (B,2), the target y and the weight w of each row, noise (1,), the log-variance as `log_variance`
    takes it, or (0,); which, a place in LIKELIHOODS: "softmax", log p = a_y - log sum e^a, y the number of a class;
    "logistic", one logit, y 0 or 1; "gaussian", log N(y | a, e^t); share: of a row of weight 1 in the mean bound  ->
    l (B,2): w log p, and the slope in noise. With p = e^a / sum e^a, or sigmoid(a), minus the slopes of log p are p_j -
    [j = y] (Bishop 4.109), p - y (4.91), and (a - y) e^-t, (1 - (a - y)² e^-t)/2 in t"""
    step = lambda a, b: _likelihood(A, t, noise, which, A.dtype.type(share), a, b, l)
    _rows(step, len(A), 8 * A.shape[1])


@kernel("T2 T2 T1w d1w")
def _finish(l, t, dnoise, totals):
    T, slope = l.dtype.type, 0.0
    for n in range(len(l)):
        totals[0] += l[n, 0]
        totals[1] += t[n, 1]
        slope += l[n, 1]
    for i in range(dnoise.size):
        dnoise[i] = T(slope)


def finish(l, t, dnoise, totals):
    """The slope in the noise, and what an epoch adds up.

    l, t (B,2), of `likelihood`  ->  dnoise (1,), or (0,); totals (2,) float64: sums of w log p and of w are added"""
    _finish(l, t, dnoise, totals)
