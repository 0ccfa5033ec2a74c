"""Linear Gaussian models: maths of one row, one source for njit and CUDA. Symmetric matrices are packed: a vector of
the rows of the lower triangle, element (i,j), j <= i, at i(i+1)/2 + j."""

import math

import numpy as np

from .philox import normals64, uniforms64
from .scalar import log, shared


@shared
def factor(A, d):
    """A packed (d,d), positive definite <- its Cholesky factor with one over its diagonal; returns log|A|."""
    log_det = 0.0
    for i in range(d):
        r = i * (i + 1) // 2
        for j in range(i + 1):
            s, v = j * (j + 1) // 2, A[r + j]
            for p in range(j):
                v -= A[r + p] * A[s + p]
            if j < i:
                A[r + j] = v * A[s + j]
            else:
                A[r + j] = 1 / math.sqrt(v)
                log_det += log(v)
    return log_det


@shared
def invert(A, d):
    """What `factor` made of a matrix <- the inverse X = L^-1 of its factor, packed: that of the matrix is X'X."""
    for j in range(d):
        for i in range(j + 1, d):
            r, v = i * (i + 1) // 2, 0.0
            for p in range(j, i):
                v -= A[r + p] * A[p * (p + 1) // 2 + j]
            A[r + j] = v * A[r + i]


@shared
def draw_latent(x, mu, W, psi, seed, step, b, A, z):
    """z (d,) <- a draw from p(z | x_o) = N(M^-1 W_o' Psi_o^-1 (x_o - mu_o), M^-1),  M = 1 + W_o' Psi_o^-1 W_o.

    x (D,) with NaN where nothing was observed, mu, psi (D,), W (D,d); A packed (d,d) is scratch. M = LL', and
    L' z = L^-1 W'Psi^-1 y + eps. The noise eps is that of draw b of (seed, stream 1, step).   Bishop 2006, eq. 12.42"""
    d, first = z.size, b * ((z.size + 1) // 2)
    for i in range(d):
        r = i * (i + 1) // 2
        for j in range(i):
            A[r + j] = 0.0
        A[r + i] = 1.0
        z[i] = 0.0
    for k in range(x.size):
        y = np.float64(x[k]) - mu[k]
        if y == y:
            for i in range(d):
                r, v = i * (i + 1) // 2, W[k, i] / psi[k]
                z[i] += v * y
                for j in range(i + 1):
                    A[r + j] += v * W[k, j]
    factor(A, d)
    for i in range(d):
        r, v = i * (i + 1) // 2, z[i]
        for j in range(i):
            v -= A[r + j] * z[j]
        z[i] = v * A[r + i]
    for i in range(0, d, 2):
        e0, e1 = normals64(seed, 1, step, first + i // 2)
        z[i] += e0
        if i + 1 < d:
            z[i + 1] += e1
    for i in range(d - 1, -1, -1):
        v = z[i]
        for j in range(i + 1, d):
            v -= A[j * (j + 1) // 2 + i] * z[j]
        z[i] = v * A[i * (i + 1) // 2 + i]


@shared
def draw_row(cumulated, N, seed, step, b):
    """The number of a row, draw b of (seed, stream 0, step): each with the same chance where `cumulated` has size 0,
    else by the weights whose cumulated sum, up to 1, it is."""
    u, v = uniforms64(seed, 0, step, b // 2)
    u = u if b % 2 == 0 else v
    if cumulated.size == 0:
        return min(int(u * N), N - 1)
    low, high = 0, N - 1
    while low < high:
        middle = (low + high) // 2
        if cumulated[middle] <= u:
            low = middle + 1
        else:
            high = middle
    return low


@shared
def move_column(X, rows, i, kappa, W, mu, psi, Z, R):
    """A step of stochastic EM in column i (kernels/cpu/ppca.py has its derivation): W_i (d,) and mu_i are moved, with
    r = x_i - mu_i - W_i z of the rows that observed it, W z alone of the others.

        W_i += kappa mean (r z' + (W_i z z' - W_i)/2),   mu_i += kappa mean (r + W_i z)

    X (N,D), rows (B,), Z (B,d) their z; column i of R (B,D) is scratch. Returns sum r²/psi_i and of how many rows."""
    B, d = Z.shape
    square, n, moved = 0.0, 0, 0.0
    for b in range(B):
        f, r = 0.0, np.float64(X[rows[b], i]) - mu[i]
        for j in range(d):
            f += W[i, j] * Z[b, j]
        if r == r:
            r -= f
            square += r * r / psi[i]
            n += 1
        else:
            r = 0.0
        R[b, i] = r + f / 2
        moved += r + f
    mu[i] += kappa / B * moved
    for j in range(d):
        v = 0.0
        for b in range(B):
            v += R[b, i] * Z[b, j]
        W[i, j] += kappa * (v / B - W[i, j] / 2)
    return square, n
