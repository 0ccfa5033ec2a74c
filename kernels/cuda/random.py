"""Noise for whole arrays: each element is a function of (seed, stream, step, its flat index) and of nothing else.

The words and uniforms are those of the CPU to the bit, the normals to rounding. See shared/philox.py for what seed,
stream and step are for.
"""

import functools

import numpy as np

from ..shared import checks, philox
from ..shared.scalar import is_float32
from .api import cuda, kernel, put

THREADS = 128


def _filler(four, two):
    """The kernel in which each thread makes one Philox block: four float32 or two float64 elements."""

    def fill(seed, stream, first, counter, out):
        """out (n,): the elements of step first + counter[0], modulo 2^32."""
        step = (first + np.uint64(counter[0])) & philox.MASK
        block = cuda.grid(1)
        n = out.size
        if is_float32(out.dtype.type(1)):
            i = 4 * block
            if i < n:
                a, b, c, d = four(seed, stream, step, block)
                out[i] = a
                if i + 1 < n:
                    out[i + 1] = b
                if i + 2 < n:
                    out[i + 2] = c
                if i + 3 < n:
                    out[i + 3] = d
        else:
            i = 2 * block
            if i < n:
                a, b = two(seed, stream, step, block)
                out[i] = a
                if i + 1 < n:
                    out[i + 1] = b

    fill.__name__ = f"fill_{four.__name__}"
    return kernel("u u u i1 T1w")(fill)


_fill_uniform = _filler(philox.uniforms32, philox.uniforms64)
_fill_normal = _filler(philox.normals32, philox.normals64)


@functools.cache
def _zero():
    """The counter for a step that is a number. Kept for good: a recorded graph goes on reading it."""
    return put(np.zeros(1, np.int64))


def _fill(fill, seed, stream, step, out):
    checks.noise(seed, stream, step, out)
    first, counter = (0, step) if getattr(step, "shape", ()) else (step, _zero())
    width = 4 if out.dtype.itemsize == 4 else 2
    blocks = -(-out.size // (width * THREADS))
    fill(blocks, THREADS, seed, stream, first, counter, out.reshape(out.size))


def uniform(seed, stream, step, out):
    """Fill `out` with uniform numbers from the open interval (0, 1): (j + 1/2)/2^23 (float32) or /2^52 (float64).

    out: C-contiguous float32 or float64 array of any shape; out.flat[i] depends on (seed, stream, step, i) alone.
    seed: integer below 2^64. stream (what the numbers are for), step (iteration): integers below 2^32. step may also be
    an int64 array (1,) of the set that holds it, modulo 2^32: a counter that lives on the device and is read there.
    Raises ValueError for a number out of range or an array that cannot be filled in place, TypeError for another dtype.
    Source: Philox4x32-10, Salmon et al. 2011.
    """
    _fill(_fill_uniform, seed, stream, step, out)


def normal(seed, stream, step, out):
    """Fill `out` with standard normal numbers:   sqrt(-2 log u) cos 2 pi v  and  sqrt(-2 log u) sin 2 pi v,  by turns.

    out: C-contiguous float32 or float64 array of any shape; out.flat[i] depends on (seed, stream, step, i) alone.
    seed: integer below 2^64. stream (what the numbers are for), step (iteration): integers below 2^32. step may also be
    an int64 array (1,) of the set that holds it, modulo 2^32: a counter that lives on the device and is read there.
    Raises ValueError for a number out of range or an array that cannot be filled in place, TypeError for another dtype.
    Sources: Philox4x32-10, Salmon et al. 2011; Box & Muller 1958.
    """
    _fill(_fill_normal, seed, stream, step, out)
