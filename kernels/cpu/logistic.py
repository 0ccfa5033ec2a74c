"""The logistic likelihood under a normal, on the CPU."""

from .. import pool
from ..jit import kernel
from ..shared.logistic import expectation as expect
from ..shared.logistic import tables

BLOCK = 1 << 11  # rows a thread takes at a time, some 0.2 ms of work


@kernel("T1 T1 T2 T2 T2 T1w T1w T1w")
def _expectation(m, v, narrow, wide, poles, F, g, lam):
    for n in range(m.size):
        F[n], g[n], lam[n] = expect(m[n], v[n], narrow, wide, poles)


def expectation(m, v, F, g, lam):
    """F = E log sigmoid(u), g = E sigmoid(-u) = dF/dm, lam = E sigmoid(u) sigmoid(-u) = -2 dF/dv over u ~ N(m, v).

    m, v >= 0 in, F, g, lam out: all (B,).   Equations: shared/logistic.py"""
    given = tables(m.dtype)

    def block(b):
        i = slice(b * BLOCK, (b + 1) * BLOCK)
        _expectation(m[i], v[i], *given, F[i], g[i], lam[i])

    pool.run(block, -(-m.size // BLOCK))
