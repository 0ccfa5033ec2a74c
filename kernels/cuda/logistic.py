"""The logistic likelihood under a normal, on CUDA."""

import functools

from ..shared.logistic import expectation as expect
from ..shared.logistic import tables
from .api import cuda, kernel, put

THREADS = 128


@functools.cache
def _tables(dtype):
    """The tables of shared/logistic.py on the device. Kept for good: a recorded graph goes on reading them."""
    return tuple(map(put, tables(dtype)))


@kernel("T1 T1 T2 T2 T2 T1w T1w T1w")
def _expectation(m, v, narrow, wide, poles, F, g, lam):
    n = cuda.grid(1)
    if n < m.size:
        F[n], g[n], lam[n] = expect(m[n], v[n], narrow, wide, poles)


def expectation(m, v, F, g, lam):
    """F = E log sigmoid(u), g = E sigmoid(-u) = dF/dm, lam = E sigmoid(u) sigmoid(-u) = -2 dF/dv over u ~ N(m, v).

    m, v >= 0 in, F, g, lam out: all (B,).   Equations: shared/logistic.py"""
    _expectation(-(-m.size // THREADS), THREADS, m, v, *_tables(m.dtype), F, g, lam)
