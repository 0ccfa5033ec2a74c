"""Noise for whole arrays: each element is a function of (seed, stream, step, its flat index) and of nothing else.

Filling the first half alone, with one thread or many, today or after a restart, gives the same numbers. See
shared/philox.py for what seed, stream and step are for.
"""

from .. import pool
from ..jit import kernel
from ..shared import checks, philox
from ..shared.scalar import is_float32

BLOCK = 1 << 16  # elements a thread fills at a time: 0.1 ms; smaller arrays stay in the calling thread


def _filler(four, two):
    """The kernel that fills an array with four float32 or two float64 elements of each Philox block at a time."""

    @kernel("u u u i T1w")
    def fill(seed, stream, step, block, out):
        """out (n,): the elements from the given Philox block on."""
        if is_float32(out.dtype.type(1)):
            n = out.size // 4
            for b in range(n):
                out[4 * b], out[4 * b + 1], out[4 * b + 2], out[4 * b + 3] = four(seed, stream, step, block + b)
            rest = four(seed, stream, step, block + n)
            for j in range(out.size - 4 * n):
                out[4 * n + j] = rest[j]
        else:
            n = out.size // 2
            for b in range(n):
                out[2 * b], out[2 * b + 1] = two(seed, stream, step, block + b)
            if out.size > 2 * n:
                out[2 * n] = two(seed, stream, step, block + n)[0]

    return fill


_fill_uniform = _filler(philox.uniforms32, philox.uniforms64)
_fill_normal = _filler(philox.normals32, philox.normals64)


def _fill(fill, seed, stream, step, out):
    checks.noise(seed, stream, step, out)
    step = int(step[0]) % 2**32 if getattr(step, "shape", ()) else step
    flat = out.reshape(-1)
    width = 4 if flat.itemsize == 4 else 2  # elements of a Philox block

    def block(b):
        fill(seed, stream, step, b * BLOCK // width, flat[b * BLOCK : (b + 1) * BLOCK])

    pool.run(block, -(-flat.size // BLOCK))


def uniform(seed, stream, step, out):
    """Fill `out` with uniform numbers from the open interval (0, 1): (j + 1/2)/2^23 (float32) or /2^52 (float64).

    out: C-contiguous float32 or float64 array of any shape; out.flat[i] depends on (seed, stream, step, i) alone.
    seed: integer below 2^64. stream (what the numbers are for), step (iteration): integers below 2^32. step may also be
    an int64 array (1,) of the set that holds it, modulo 2^32: a counter that lives on the device and is read there.
    Raises ValueError for a number out of range or an array that cannot be filled in place, TypeError for another dtype.
    Source: Philox4x32-10, Salmon et al. 2011.

    >>> import numpy as np, lvm
    >>> out = np.empty((2, 2))
    >>> lvm.kernels.load("cpu").random.uniform(seed=0, stream=0, step=0, out=out)
    >>> out.round(3)
    array([[0.399, 0.736],
           [0.972, 0.694]])
    """
    _fill(_fill_uniform, seed, stream, step, out)


def normal(seed, stream, step, out):
    """Fill `out` with standard normal numbers:   sqrt(-2 log u) cos 2 pi v  and  sqrt(-2 log u) sin 2 pi v,  by turns.

    out: C-contiguous float32 or float64 array of any shape; out.flat[i] depends on (seed, stream, step, i) alone.
    seed: integer below 2^64. stream (what the numbers are for), step (iteration): integers below 2^32. step may also be
    an int64 array (1,) of the set that holds it, modulo 2^32: a counter that lives on the device and is read there.
    Raises ValueError for a number out of range or an array that cannot be filled in place, TypeError for another dtype.
    Sources: Philox4x32-10, Salmon et al. 2011; Box & Muller 1958.

    >>> import numpy as np, lvm
    >>> out = np.empty((2, 2))
    >>> lvm.kernels.load("cpu").random.normal(seed=0, stream=0, step=0, out=out)
    >>> out.round(3)
    array([[-0.122, -1.35 ],
           [-0.082, -0.223]])
    """
    _fill(_fill_normal, seed, stream, step, out)
