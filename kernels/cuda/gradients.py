"""Estimators of the gradient of E_q[log p(z) - log q(z)] in q's coordinates, on CUDA: twins of
lvm.kernels.cpu.gradients, whose docstring has the equations.

    draw        a thread for each sample
    moments     a thread for each sample, which writes its f, s and p to global memory: distributions.py. Then a block
                for all f, and one for each estimator and coordinate: in float64, about the first sample, so that of
                numbers that are alike nothing cancels. No atomics: results repeat
"""

import numpy as np

from ..shared.gradients import CONTROL, ESTIMATORS, LEAVE_ONE_OUT, MINUS_ONE, PATH, REPARAMETERISATION, SQUARE, SQUARE_F
from .api import cuda, device_function, empty, kernel
from .distributions import _draw, _evaluate, coordinates
from .ppca import _shift
from .vae import _in_all

__all__ = ["ESTIMATORS", "draw", "each", "moments"]

WARPS = 16  # of a block that adds up samples, at most
FEW = 4  # samples that a thread of it has before there are more threads


def each(block, n_blocks):
    """Call block(b) for every b below n_blocks, in their order: what they queue goes into one stream."""
    for b in range(n_blocks):
        block(b)


def draw(kind, table, noise, X, Z):
    """Samples, as X (D,N) and as Z (N,D), of noise (R,N): `place` of distributions.py, in one block."""
    _draw(kind, table, noise, X, Z)


@device_function
def _spread(s1, s2, n, sums):
    """Of the sums of n differences and of their squares, a part in each thread: the first by n, and the sum of squares
    about that."""
    s1 = _in_all(s1, sums)
    s2 = _in_all(s2, sums)
    return s1 / n, max(s2 - s1 * (s1 / n), 0.0)


@kernel("T1 d1w", double=True)
def _value(f, value):
    sums = cuda.shared.array(WARPS, np.float64)
    n, origin, s1, s2 = f.size, np.float64(f[0]), 0.0, 0.0
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        d = np.float64(f[i]) - origin
        s1 += d
        s2 += d * d
    here, M2 = _spread(s1, s2, n, sums)
    if cuda.threadIdx.x == 0:
        value[0], value[1] = origin + here, M2


@device_function
def _summand(e, s, p, f, j, i, less, more):
    """What sample i adds to coordinate j of estimator e; of those with f: s (f - less) more."""
    if e == REPARAMETERISATION:
        return p[j, i] - s[j, i]
    if e == PATH:
        return p[j, i]
    if e == SQUARE:
        return s[j, i] * s[j, i]
    if e == SQUARE_F:
        return s[j, i] * s[j, i] * f[i]
    return s[j, i] * ((f[i] - less) * more)


@kernel("T2 T2 T1 T1 d1 i1 d2w d2w", double=True)
def _moments(s, p, f, c, value, which, mean, M2):
    sums = cuda.shared.array(WARPS, np.float64)
    j, e, n, T = cuda.blockIdx.x, which[cuda.blockIdx.y], f.size, f.dtype.type
    less, more = T(0), T(1)
    if e == MINUS_ONE:
        less = T(1)
    elif e == LEAVE_ONE_OUT:
        less, more = T(value[0]), T(n) / T(n - 1)
    elif e == CONTROL:
        less = c[j]
    origin, s1, s2 = np.float64(_summand(e, s, p, f, j, 0, less, more)), 0.0, 0.0
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        d = np.float64(_summand(e, s, p, f, j, i, less, more)) - origin
        s1 += d
        s2 += d * d
    here, square = _spread(s1, s2, n, sums)
    if cuda.threadIdx.x == 0:
        mean[cuda.blockIdx.y, j], M2[cuda.blockIdx.y, j] = origin + here, square


def moments(kind, table, X, log_p, G, which, c, value, mean, M2):
    """Means over the samples X (D,N), and sums of squares about them: of f, in value (2,), and of what the estimators
    `which` (E,), places in ESTIMATORS, add up, in mean and M2 (E,P); these three are float64.

    log_p (N,) and its slopes in z, G (N,D), or (0,D) where none of `which` needs them; c (P,), of "control_variate".
    N >= 2 for "leave_one_out". In one block."""
    (D, N), P = X.shape, coordinates(kind, table)
    f, dz, s, p = (empty(shape, X.dtype) for shape in (N, (D, N), (P, N), (P if len(G) else 0, N)))
    _evaluate(kind, table, X, log_p, G, dz, f, s, p)
    threads = 32 << _shift(-(-N // (32 * FEW)), WARPS)
    _value(1, threads, f, value)
    _moments((P, len(which)), threads, s, p, f, c, value, which, mean, M2)
