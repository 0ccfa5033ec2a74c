"""exp, log, tanh, sigmoid, softplus: maths of one number, one source for float32 and float64, njit and CUDA.

    from lvm.kernels.shared.scalar import softplus       # works in your own @numba.njit code, and as plain Python

Arguments are float32 or float64 and so is the result; nothing on the way is wider. No function branches (each
`a if c else b` compiles to a select), calls libm or looks up a table, so a loop over an array runs in vector registers.
NaN stays NaN. Largest relative error against mpmath: 5e-16 in float64, 3e-7 in float32 (below the smallest normal
number: the smallest denormal). Integers are refused, njit by a TypingError: write softplus(float(x)).

Arguments are reduced as in Cody & Waite (Software Manual for the Elementary Functions, 1980). The polynomials are
Taylor series, cut where the next term is below rounding: float64 goes further than float32.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

# own flags: without them a function inlined into a fast-math kernel inherits reassociation, and exp falls to 2e-14;
# inlined always: a call that the optimiser leaves in a loop would keep it from vectorising
shared = register_jitable(fastmath={"contract"}, forceinline=True)

LN2_HIGH = 355 / 512  # 9 bits, so that k LN2_HIGH is exact for every exponent k
LN2_LOW = -2.1219444005469058e-4  # log(2) - LN2_HIGH


def bits(x):
    """The bits of a float as an unsigned integer of its width. Raises TypeError for anything but float32 or float64."""
    x = np.asarray(x)[()]
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}. Try float(x).")
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


def from_bits(i, x):
    """The float of x's type with the bits of the integer i."""
    if isinstance(x, np.float32):
        return np.uint32(i).view(np.float32)
    return np.uint64(i).view(np.float64)


@overload(bits)
def _bits(x):
    return {
        types.float32: lambda x: np.float32(x).view(np.uint32),
        types.float64: lambda x: np.float64(x).view(np.uint64),
    }.get(x)


@overload(from_bits)
def _from_bits(i, x):
    return {
        types.float32: lambda i, x: np.uint32(i).view(np.float32),
        types.float64: lambda i, x: np.uint64(i).view(np.float64),
    }.get(x)


@register_jitable(fastmath=False, forceinline=True)
def ratio(a, b):
    """a / b, correctly rounded. numba-cuda divides float32 approximately in functions with any fastmath flag."""
    return a / b


@shared
def is_float32(x):
    """True for float32. The compiler knows the answer, so that nothing of the test is left at run time."""
    T = type(x)
    return T(1) + T(1e-10) == T(1)


@shared
def power2(k):
    """2^k for a float k that is a whole number and a normal number's exponent (-1022..1023; float32: -126..127).

    Adding 1.5 2^52 + 1023 leaves the biased exponent in the lowest bits of the sum; they move to where it belongs."""
    T = type(k)
    if is_float32(k):
        return from_bits(bits(k + T(1.5 * 2**23 + 127)) << np.uint32(23), k)
    return from_bits(bits(k + T(1.5 * 2**52 + 1023)) << np.uint64(52), k)


@shared
def nearest(x):
    """x rounded to the nearest whole number, ties to even, for |x| < 2^51 (float32: 2^22)."""
    T = type(x)
    magic = T(1.5 * 2**23) if is_float32(x) else T(1.5 * 2**52)  # here a unit in the last place is 1
    return (x + magic) - magic


@shared
def exp_terms(x):
    """k, r, t with e^x = 2^k (1 + r + t): k whole, r = x - k log 2, |r| <= log(2)/2, t = e^r - 1 - r.  Needs |x| < 1e4.

    t = r² (1/2 + r/6 + r²/24 + ...) has its full relative accuracy, however small r is."""
    T = type(x)
    k = nearest(x * T(1.4426950408889634))
    r = (x - k * T(LN2_HIGH)) - k * T(LN2_LOW)
    p = T(1 / 40320)
    if not is_float32(x):
        p = T(1 / 39916800) + r * (T(1 / 479001600) + r * T(1 / 6227020800))
        p = T(1 / 40320) + r * (T(1 / 362880) + r * (T(1 / 3628800) + r * p))
    p = T(1 / 6) + r * (T(1 / 24) + r * (T(1 / 120) + r * (T(1 / 720) + r * (T(1 / 5040) + r * p))))
    return k, r, r * r * (T(1 / 2) + r * p)


@shared
def exp_parts(x):
    """k, q with e^x = 2^k (1 + q): k whole, q in [-0.30, 0.42] and as accurate as x (q = x + x²/2 near 0).

    q = r + t of `exp_terms`.   Needs |x| < 1e4."""
    k, r, t = exp_terms(x)
    return k, r + t


@shared
def exp(x):
    """e^x; inf above 709.78 (float32: 88.72), denormal below -708.4 (-87.3), 0 below -745.1 (-104.0).   exp' = exp"""
    T = type(x)
    low, high = (T(-105), T(88.72283)) if is_float32(x) else (T(-746), T(709.782712893384))
    k, q = exp_parts(low if x < low else high if x > high else x)
    half = nearest(k * T(0.5))  # 2^k itself may be out of range
    y = (T(1) + q) * power2(half) * power2(k - half)
    return T(math.inf) if x > high else y


@shared
def log1p_small(f):
    """log(1 + f) = 2 artanh s = 2 (s + s³/3 + s⁵/5 + ...),   s = f/(2+f),   f in [-0.293, 0.415]; accurate near 0 too.

    Summed as f - f²/2 + s (f²/2 + 2s²/3 + 2s⁴/5 + ...), in which the rounding of s hardly counts (FDLIBM, Sun 1993)."""
    T = type(f)
    s = ratio(f, T(2) + f)
    z = s * s
    p = T(2 / 9)
    if not is_float32(f):
        p += z * (T(2 / 11) + z * (T(2 / 13) + z * (T(2 / 15) + z * (T(2 / 17) + z * T(2 / 19)))))
    p = z * (T(2 / 3) + z * (T(2 / 5) + z * (T(2 / 7) + z * p)))
    h = T(0.5) * f * f
    return f - (h - s * (h + p))


@shared
def log(x):
    """Natural logarithm; -inf at 0, NaN below, inf at inf.   log' = 1/x

    x = 2^k m, m in [sqrt(1/2), sqrt(2)):   log x = k log 2 + log(1 + (m-1)).   Denormals are scaled up first."""
    T = type(x)
    tiny, up, steps = (T(2.0**-126), T(2.0**24), T(24)) if is_float32(x) else (T(2.0**-1022), T(2.0**54), T(54))
    y = abs(x)  # what is negative, 0, inf or NaN is seen to at the end
    steps = steps if y < tiny else T(0)
    y = y * up if y < tiny else y
    root = bits(T(math.sqrt(0.5)))
    i = bits(y) + (bits(T(1)) - root)  # the exponent of i steps up where m reaches sqrt(2), not 2
    if is_float32(x):
        whole, m = T(2.0**23), from_bits((i & np.uint32(2**23 - 1)) + root, x)
        k = from_bits((i >> np.uint32(23)) | bits(whole), x) - (whole + T(127))
    else:
        whole, m = T(2.0**52), from_bits((i & np.uint64(2**52 - 1)) + root, x)
        k = from_bits((i >> np.uint64(52)) | bits(whole), x) - (whole + T(1023))
    k -= steps
    y = k * T(LN2_HIGH) + (log1p_small(m - T(1)) + k * T(LN2_LOW))
    y = y if x < T(math.inf) else x  # inf, NaN
    return y if not x <= T(0) else T(-math.inf) if x == T(0) else T(math.nan)


@shared
def log1p_unit(e):
    """log(1 + e) for e in [0, 1], accurate near 0 too: from (1+e)/2 where e > sqrt(2) - 1."""
    T = type(e)
    near = e < T(0.4142)
    y = log1p_small(e if near else (e - T(1)) * T(0.5))
    return y if near else T(LN2_HIGH) + (y + T(LN2_LOW))


@shared
def split(x):
    """m, k with x = 2^k m, m in [1, 2): of a normal number above 0. k is a float. m of NaN and inf is NaN.

    A product of many numbers keeps its range and costs one log in the end: m, k of each part of it, the k summed."""
    T = type(x)
    if is_float32(x):
        m = from_bits((bits(x) & np.uint32(2**23 - 1)) | bits(T(1)), x) + T(0) * x
        return m, from_bits((bits(x) >> np.uint32(23)) | bits(T(2.0**23)), x) - T(2.0**23 + 127)
    m = from_bits((bits(x) & np.uint64(2**52 - 1)) | bits(T(1)), x) + T(0) * x
    return m, from_bits((bits(x) >> np.uint64(52)) | bits(T(2.0**52)), x) - T(2.0**52 + 1023)


@shared
def tanh(x):
    """tanh x = E/(E + 2),   E = e^2x - 1 = 2^k q + (2^k - 1).   With h = tanh x:   tanh' = 1 - h²"""
    T = type(x)
    k, q = exp_parts(T(2) * (T(-22) if x < T(-22) else T(22) if x > T(22) else x))  # tanh 22 rounds to 1
    scale = power2(k)
    y = scale * q + (scale - T(1))
    return ratio(y, y + T(2))


@shared
def sigmoid(x):
    """s = 1/(1 + e^-x), as e^x/(1 + e^x) for x < 0: keeps relative accuracy down to e^-745.   sigmoid' = s (1 - s)"""
    T = type(x)
    e = exp(-abs(x))
    return ratio(T(1) if x >= T(0) else e, T(1) + e)


@shared
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): keeps relative accuracy down to e^-745.   softplus' = sigmoid"""
    T = type(x)
    return (x if x > T(0) else T(0)) + log1p_unit(exp(-abs(x)))


@shared
def bernoulli_nll(a, t):
    """-log Bern(t | sigmoid(a)) and its slope.    l = softplus(a) - t a,   dl/da = sigmoid(a) - t.

    a, t of one type, t in [0, 1]. With e = e^-|a|, c = e/(1+e) and b = [a >= 0] - t:   l = log(1+e) + a b and
    dl/da = b - c if a >= 0, else b + c; no large numbers cancel: a unit that is sure and right keeps its tiny loss."""
    T = type(a)
    e = exp(-abs(a))
    c = ratio(e, T(1) + e)
    b = (T(1) if a >= T(0) else T(0)) - t
    return log1p_unit(e) + a * b, b - c if a >= T(0) else b + c


@shared
def cos_sin(t):
    """cos(2 pi t), sin(2 pi t) for |t| <= 1: the angle in whole turns, so that its reduction is exact.

    t = j/4 + u, |u| <= 1/8: the series of cos and sin at 2 pi u, swapped and signed by the quadrant j."""
    T = type(t)
    j = nearest(T(4) * t)
    a = (t - T(0.25) * j) * T(2 * math.pi)
    z = a * a
    c, s = T(1 / 40320), T(1 / 362880)
    if not is_float32(t):
        c -= z * (T(1 / 3628800) - z * (T(1 / 479001600) - z * (T(1 / 87178291200) - z * T(1 / 20922789888000))))
        s -= z * (T(1 / 39916800) - z * (T(1 / 6227020800) - z * T(1 / 1307674368000)))
    c = T(1) - z * (T(1 / 2) - z * (T(1 / 24) - z * (T(1 / 720) - z * c)))
    s = a - a * z * (T(1 / 6) - z * (T(1 / 120) - z * (T(1 / 5040) - z * s)))
    i = np.int32(j)
    x, y = (s, c) if i & 1 else (c, s)
    return -x if (i + 1) & 2 else x, -y if i & 2 else y
