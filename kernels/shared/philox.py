"""Random numbers without state: Philox4x32-10, and what is made of its words. njit and CUDA, same numbers on both.

Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds turn a counter of four
32-bit words and a key of two into four random words. Here

    key     (seed low, seed high)                     seed    0 .. 2^64 - 1
    counter (block low, block high, stream, step)     stream  0 .. 2^32 - 1: what the numbers are for, one for each use
                                                      step    0 .. 2^32 - 1: the iteration
                                                      block   0 .. 2^64 - 1

which is one to one: different arguments never share a counter. A block has four float32 or two float64 elements, so
element i is in block i // 4 or i // 2, and any element may have any index below 2^64. Uniforms and normals of the same
(seed, stream, step) come from the same words: give each its own stream.

All integers are uint64 that hold 32 bits, so that nothing overflows, not even in plain Python. Results agree between
targets to the rounding of log and sqrt; the words and uniforms are equal to the bit.
"""

import math

import numpy as np

from .scalar import cos_sin, log, shared

MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLY_0, MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio, sqrt(3) - 1


@shared
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four random words for the counter c0..c3 under the key k0, k1; all uint64 below 2^32 (Salmon et al. 2011)."""
    for _ in range(10):
        p0, p1 = MULTIPLY_0 * c0, MULTIPLY_1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL_0) & MASK, (k1 + WEYL_1) & MASK
    return c0, c1, c2, c3


@shared
def words(seed, stream, step, block):
    """The four random words of a block (uint64 below 2^32). All arguments are integers in the ranges above."""
    s, b = np.uint64(seed), np.uint64(block)
    return philox4x32(b & MASK, b >> HALF, np.uint64(stream), np.uint64(step), s & MASK, s >> HALF)


@shared
def uniform32(w):
    """A float32 in the open interval (0, 1) from a word: (j + 1/2)/2^23, j the 23 upper bits. Exact."""
    return (np.float32(w >> np.uint64(9)) + np.float32(0.5)) * np.float32(2.0**-23)


@shared
def uniform64(v, w):
    """A float64 in the open interval (0, 1) from two words: (j + 1/2)/2^52, j the 52 upper bits. Exact."""
    return (np.float64((v << np.uint64(20)) | (w >> np.uint64(12))) + np.float64(0.5)) * np.float64(2.0**-52)


@shared
def box_muller(u, v):
    """Two independent standard normals from two uniforms in (0, 1].   sqrt(-2 log u) (cos 2 pi v, sin 2 pi v)

    Box & Muller 1958."""
    T = type(u)
    r = T(math.sqrt(T(-2) * log(u)))
    c, s = cos_sin(v)
    return r * c, r * s


@shared
def normal32(v, w):
    """Two float32 normals from two words, |z| < 6.8: the radius takes all 32 bits of v, for the sake of the tails."""
    u = np.float32(v) * np.float32(2.0**-32) + np.float32(2.0**-33)
    return box_muller(u, uniform32(w))


@shared
def uniforms32(seed, stream, step, block):
    """Elements 4 block .. 4 block + 3 of the float32 uniforms of (seed, stream, step)."""
    a, b, c, d = words(seed, stream, step, block)
    return uniform32(a), uniform32(b), uniform32(c), uniform32(d)


@shared
def uniforms64(seed, stream, step, block):
    """Elements 2 block, 2 block + 1 of the float64 uniforms of (seed, stream, step)."""
    a, b, c, d = words(seed, stream, step, block)
    return uniform64(a, b), uniform64(c, d)


@shared
def normals32(seed, stream, step, block):
    """Elements 4 block .. 4 block + 3 of the float32 standard normals of (seed, stream, step); |z| < 6.8."""
    a, b, c, d = words(seed, stream, step, block)
    x0, x1 = normal32(a, b)
    x2, x3 = normal32(c, d)
    return x0, x1, x2, x3


@shared
def normals64(seed, stream, step, block):
    """Elements 2 block, 2 block + 1 of the float64 standard normals of (seed, stream, step); |z| < 8.6."""
    return box_muller(*uniforms64(seed, stream, step, block))
