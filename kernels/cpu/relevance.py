"""Logistic regression with q(w) = N(mu, Sigma), and the relevance vector machine, on the CPU.

y = ±1, p(y|x) = sigmoid(y f), f = w'phi. All a row needs of q is the mean m = mu'phi and variance v = phi'Sigma phi of
f; with F, g, lambda the expectations of shared/logistic.py at (y m, v), near (m, v) the expected log-likelihood is
    F + y g dm - lambda (dm² + dv)/2,
that of a Gaussian site: its part of a row in H = sum lambda phi phi' and h = sum (lambda m + y g) phi gives the
posterior Sigma^-1 = H + diag(1/alpha), mu = Sigma h that is a natural-gradient step of length 1 (Khan & Lin 2017; at
v = 0 Newton's, or Laplace's). The products are linear.gemm; see lvm.objectives.relevance.

Letters: N samples, D features, M columns of phi, B rows of a block, C (M,D) centres. What a solver by matrices needs is
float64 throughout; minibatches (`local`, `finish`) have the dtype of X.
"""

import math

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared.logistic import expectation, log_odds, tables
from ..shared.relevance import LARGEST, noisy
from ..shared.scalar import exp, tanh

ROOM = 1 << 22  # bytes of a block of phi: products of less do not pay for the threads of BLAS
PIECE = 1 << 14  # numbers a thread takes at a time
RUN = 128  # rows of a minibatch whose gradients one thread adds up


def _rows(step, B, width):
    """step(rows) for pieces of B rows of so many numbers, on threads."""
    rows = max(1, PIECE // max(width, 1))
    pool.run(lambda b: step(slice(b * rows, min((b + 1) * rows, B))), -(-B // rows))


@kernel("T2 d2 d i d i d2w", fastmath=FAST)
def _basis(X, C, gamma, gaussian, shift, degree, Phi):
    M = C.shape[1]
    for n in range(len(X)):
        out = Phi[n, :M]
        for j in range(M):
            out[j] = 0.0
        for i in range(X.shape[1]):
            x, c = np.float64(X[n, i]), C[i]
            if gaussian:
                for j in range(M):
                    out[j] += (x - c[j]) * (x - c[j])
            else:
                for j in range(M):
                    out[j] += x * c[j]
        if gaussian:
            for j in range(M):
                out[j] = exp(-gamma * out[j])
        else:
            for j in range(M):
                f = gamma * out[j] + shift
                v = 1.0
                for _ in range(degree):
                    v *= f
                out[j] = v
        for j in range(M, Phi.shape[1]):
            Phi[n, j] = 1.0


def basis(X, C, gamma, gaussian, shift, degree, Phi):
    """Phi = exp(-gamma |x - c|²), or (gamma x'c + shift)^degree unless gaussian; and 1 after it where Phi has room.

    X (B,D), C (D,M) the centres' columns, float64, Phi (B,M) or (B,M+1) float64"""
    step = lambda rows: _basis(X[rows], C, gamma, gaussian, shift, degree, Phi[rows])
    _rows(step, len(X), C.size)


@kernel("T2 T1w T1w", fastmath=FAST)
def _collect(U, m, v):
    for n in range(len(U)):
        u, total = U[n, 1:], 0.0
        for j in range(u.size):
            total += u[j] * u[j]
        m[n], v[n] = U[n, 0], total


def collect(U, m, v):
    """m = U_:0, v = sum of the squares of the rest: of U = Phi (mu, L), Sigma = LL'.   U (B,R+1), m, v (B,)"""
    _rows(lambda rows: _collect(U[rows], m[rows], v[rows]), len(U), U.shape[1])


@kernel("T1 T1 T1 T1 T2 T2 T2 T1w T1w T1w")
def _sites(m, v, y, w, narrow, wide, poles, t, r, F):
    for n in range(len(m)):
        f, g, l = expectation(y[n] * m[n], v[n], narrow, wide, poles)
        c = w[n] if w.size else 1.0
        t[n], r[n], F[n] = c * (l * m[n] + y[n] * g), math.sqrt(c * l), c * f


def sites(m, v, y, w, t, r, F):
    """The rows' parts of h (times phi) and the root of those of H, and w F.

    m, v, y (B,) (y ±1), w (B,) weights or (0,)  ->  t = w (lambda m + y g), r = sqrt(w lambda), F (B,), all float64"""
    _rows(lambda i: _sites(m[i], v[i], y[i], w[i], *tables(m.dtype), t[i], r[i], F[i]), len(m), 64)


@kernel("T2 T1 T2w")
def _scale(Phi, r, out):
    for n in range(len(Phi)):
        x, y, f = Phi[n], out[n], r[n]
        for j in range(x.size):
            y[j] = f * x[j]


def scale(Phi, r, out):
    """out = diag(r) Phi.   Phi, out (B,M), r (B,)"""
    _rows(lambda rows: _scale(Phi[rows], r[rows], out[rows]), len(Phi), Phi.shape[1])


@kernel("T2 i1 T2w")
def _columns(Phi, which, out):
    for n in range(len(Phi)):
        for j in range(which.size):
            out[n, j] = Phi[n, which[j]]


def columns(Phi, which, out):
    """out = Phi[:, which].   Phi (B,M), which (n,) int64, out (B,n)"""
    _rows(lambda rows: _columns(Phi[rows], which, out[rows]), len(Phi), which.size)


@kernel("T2 T1w", fastmath=FAST)
def _squares(Phi, out):
    for j in range(out.size):
        out[j] = 0.0
    for n in range(len(Phi)):
        row = Phi[n]
        for j in range(out.size):
            out[j] += row[j] * row[j]


def squares(Phi, out):
    """out_j = sum_n Phi_nj².   Phi (B,M), out (M,)"""
    _squares(Phi, out)


@kernel("T1 T1 T2 T2 T2 T1w")
def _odds(m, v, narrow, wide, poles, out):
    for n in range(len(m)):
        out[n] = log_odds(m[n], v[n], narrow, wide, poles)


def odds(m, v, out):
    """log E[sigmoid(f)] - log E[sigmoid(-f)], f ~ N(m, v).   m, v, out (B,)"""
    _rows(lambda i: _odds(m[i], v[i], *tables(m.dtype), out[i]), len(m), 64)


# ----------------------------------------------------------------------------- diagonal Sigma, and minibatches
@kernel("T2 T1 T1 T1 T1 T1w T1w", fastmath=FAST)
def _moments(X, shift, factor, mu, S, m, v):
    T, D = X.dtype.type, X.shape[1]
    for n in range(len(X)):
        x, a, b = X[n], T(0), T(0)
        for i in range(D):
            z = (x[i] - shift[i]) * factor[i]
            a += z * mu[i]
            b += z * z * S[i]
        for i in range(D, mu.size):
            a += mu[i]
            b += S[i]
        m[n], v[n] = a, b


def moments(X, shift, factor, mu, S, m, v):
    """m = mu'z, v = sum_i z_i² S_i, z = factor (x - shift), and 1 after it where mu has room.

    X (B,D), shift, factor (D,), mu, S (D,) or (D+1,), m, v (B,): all of one dtype"""
    _rows(lambda rows: _moments(X[rows], shift, factor, mu, S, m[rows], v[rows]), len(X), X.shape[1])


@kernel("T1 T1 i T1w T1w", fastmath=FAST)
def _spread(mu, rho, shared, S, alpha):
    T, total = mu.dtype.type, mu.dtype.type(0)
    for i in range(mu.size):
        S[i] = exp(T(LARGEST) * tanh(rho[i] / T(LARGEST)))
        alpha[i] = mu[i] * mu[i] + S[i]
    for i in range(shared):
        total += alpha[i]
    for i in range(shared):
        alpha[i] = total / T(shared)


def spread(mu, rho, shared, S, alpha):
    """S = exp(b tanh(rho/b)), b = LARGEST, and the best alpha = mu² + S; of the first `shared` weights their mean.

    mu, rho, S, alpha (P,)"""
    _spread(mu, rho, shared, S, alpha)


@kernel("T2 i1 T1 T1 T1 T1 T1 T1 T1 T2 T2 T2 T1w", fastmath=FAST)
def _local(X, rows, shift, factor, y, w, mu, S, eps, narrow, wide, poles, out):
    """Four rows at a time: they share the loads of mu, S, gm and gv, and memory is asked for four streams at once."""
    T, D, P = X.dtype.type, X.shape[1], mu.size
    gm, gv, m, v = out[:P], out[P : 2 * P], np.empty(4, X.dtype), np.empty(4, X.dtype)
    for i in range(2 * P + 2):
        out[i] = T(0)
    for b in range(0, rows.size, 4):
        n = rows.size - b
        x0, x1 = X[rows[b]], X[rows[b + 1] if n > 1 else rows[b]]
        x2, x3 = X[rows[b + 2] if n > 2 else rows[b]], X[rows[b + 3] if n > 3 else rows[b]]
        m0, m1, m2, m3, v0, v1, v2, v3 = T(0), T(0), T(0), T(0), T(0), T(0), T(0), T(0)
        for i in range(D):
            z0, z1 = (x0[i] - shift[i]) * factor[i], (x1[i] - shift[i]) * factor[i]
            z2, z3 = (x2[i] - shift[i]) * factor[i], (x3[i] - shift[i]) * factor[i]
            m0 += z0 * mu[i]
            m1 += z1 * mu[i]
            m2 += z2 * mu[i]
            m3 += z3 * mu[i]
            v0 += z0 * z0 * S[i]
            v1 += z1 * z1 * S[i]
            v2 += z2 * z2 * S[i]
            v3 += z3 * z3 * S[i]
        m[0], m[1], m[2], m[3], v[0], v[1], v[2], v[3] = m0, m1, m2, m3, v0, v1, v2, v3
        for j in range(min(n, 4)):
            r = rows[b + j]
            for i in range(D, P):
                m[j] += mu[i]
                v[j] += S[i]
            if eps.size:
                F, g, half = noisy(y[r] * m[j], v[j], eps[b + j])
            else:
                F, g, l = expectation(y[r] * m[j], v[j], narrow, wide, poles)
                half = T(-0.5) * l
            c = w[r] if w.size else T(1)
            out[2 * P] += c * F
            out[2 * P + 1] += c
            m[j], v[j] = c * y[r] * g, c * half
            for i in range(D, P):
                gm[i] += m[j]
                gv[i] += v[j]
        for j in range(n, 4):
            m[j] = T(0)
            v[j] = T(0)
        m0, m1, m2, m3, v0, v1, v2, v3 = m[0], m[1], m[2], m[3], v[0], v[1], v[2], v[3]
        for i in range(D):
            z0, z1 = (x0[i] - shift[i]) * factor[i], (x1[i] - shift[i]) * factor[i]
            z2, z3 = (x2[i] - shift[i]) * factor[i], (x3[i] - shift[i]) * factor[i]
            gm[i] += m0 * z0 + m1 * z1 + m2 * z2 + m3 * z3
            gv[i] += v0 * z0 * z0 + v1 * z1 * z1 + v2 * z2 * z2 + v3 * z3 * z3


def local(X, rows, shift, factor, y, w, mu, S, eps, out):
    """Sums over the rows of a minibatch, RUN at a time: of w dF/dm z, of w dF/dv z², of w F and of w.

    X (N,D), rows (B,) int64, shift, factor (D,) (z as in `moments`), y, w (N,) or w (0,), mu, S (P,), P = D or D + 1;
    eps (B,) standard normal noise, F = log sigmoid(y m + sqrt(v) eps), the local reparameterisation (Kingma, Salimans &
    Welling 2015), or (0,) for the expectation itself  ->  out (ceil(B/RUN), 2P+2)"""

    def block(b):
        i = slice(b * RUN, (b + 1) * RUN)
        _local(X, rows[i], shift, factor, y, w, mu, S, eps[i], *tables(X.dtype), out[b])

    pool.run(block, -(-len(rows) // RUN))


@kernel("T1 T1 T2 T1 T1 i1 T T T T1w T1w T1w")
def _finish(mu, rho, sums, S, alpha, counter, warm, kl, scale, gm, gr, totals):
    T, P = mu.dtype.type, mu.size
    for i in range(P):
        gm[i] = T(0)
        gr[i] = T(0)
    for b in range(len(sums)):
        for i in range(P):
            gm[i] += sums[b, i]
            gr[i] += sums[b, P + i]
        totals[0] += sums[b, 2 * P]
        totals[1] += sums[b, 2 * P + 1]
    beta = kl * min(T(1), T(counter[0] + 1) / warm)
    for i in range(P):
        r = tanh(rho[i] / T(LARGEST))
        gm[i] = beta * mu[i] / alpha[i] - scale * gm[i]
        gr[i] = (T(1) - r * r) * (beta * T(0.5) * (S[i] / alpha[i] - T(1)) - scale * S[i] * gr[i])


def finish(mu, rho, sums, S, alpha, counter, warm, kl, scale, gm, gr, totals):
    """The gradient of -(scale sum_n w_n F_n - beta KL), sum_n over a minibatch, from the sums of `local`.

    dKL/dmu_i = mu_i/alpha_i, dKL/dS_i = (1/alpha_i - 1/S_i)/2 at the best alpha, dS_i/drho_i = S_i (1 -
    tanh²(rho_i/b)). beta = kl min(1, (counter + 1)/warm). mu, rho, S, alpha (P,) as of `spread`, sums (b,2P+2), counter
    (1,) int64, warm, kl and scale numbers  ->  gm, gr (P,), totals (2,), to which the sums of w F and of w are added"""
    T = mu.dtype.type
    _finish(mu, rho, sums, S, alpha, counter, T(warm), T(kl), T(scale), gm, gr, totals)
