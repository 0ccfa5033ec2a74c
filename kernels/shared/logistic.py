"""Means of log sigmoid(u) and of its derivatives over a normal u ~ N(m, v): the one integral of logistic regression.

    F(m,v) = E log sigmoid(u),    g = dF/dm = E sigmoid(-u),    lambda = -d²F/dm² = -2 dF/dv = E sigmoid(u) sigmoid(-u)

m may be any number, since F(-m) = F(m) - m, g(-m) = 1 - g(m) and lambda(-m) = lambda(m). For m >= 0, s = sqrt(v):

Narrow normals, v <= WIDE. The trapezoid rule, u = m + s eps at steps h of eps, gains digits without end on functions
that are smooth along the whole line. Its error is exp(-2 pi²/h²) from the normal, and exp(pi²/2v - 2 pi²/(hs)) from
the poles of the sigmoid at +-i pi; the wider the normal, the nearer they are.

Wide normals, v > WIDE. The logistic density sigmoid' has the Fourier transform pi t / sinh pi t, so
    lambda = 1/2pi int H(t) exp(imt - vt²/2) dt,                              H = pi t / sinh pi t,
and integrals of it over m from m to infinity are g, with i H/t for H, and -F, with -H/t². The path of t may be moved to
the saddle, t = (x + i x0)/s, x0 = m/s: the exponential becomes exp(-x0²/2) exp(-x²/2), nothing oscillates, and a tail
keeps its relative accuracy. Here the trapezoid rule has poles at t = in, n whole: in x at i y, y = ns - x0. What the
rule lacks for a pole, and the residue of one that the path has crossed, are both in
    exp(y²/2 - x0²/2) / (1 + exp(2 pi y/h)),   with |y| for y where n <= 0, times the pole's coefficient,
which is (-1)^(n+1) times n for lambda, 1 for g, 1/n for -F. Only poles near the path count, and n = 1, 2, ... crossed.
Theirs are the terms of the power series of sigmoid(-u) in exp(-u): exp(y²/2 - x0²/2) = exp(-nm + n²v/2) = E exp(-nu).

Results are exp(L) times a moderate number: L = -m, or -x0²/2, or v/2 - m where m > v. Largest relative errors, against
mpmath: 1e-13 and |L| 2e-16; in float32 4e-6 and |L| 2e-7.
The rule and its poles: Chiarella & Reichel 1968; Hunter & Regan 1972; Trefethen & Weideman 2014.
"""

import functools
import math

import numpy as np
from numba.extending import register_jitable

from .scalar import cos_sin, exp, exp_parts, log, nearest, power2, ratio, shared

WIDE = 0.64  # the v from which a normal counts as wide
# numbers of nodes and poles: multiples of 16, what a loop in vector registers takes at a time
NARROW_STEP, NARROW_NODES = 0.52, 32
STEP, NODES, CROSSED, OTHERS = 0.5, 16, 12, 4
SLOPE = 2 * math.pi / STEP
REACH = SLOPE - math.sqrt(SLOPE**2 - 2 * 34)  # where exp(y²/2 - SLOPE y) = exp(-34): poles beyond count for nothing

# sums may be split, for vector registers; what counts on its rounding is in functions of its own
summed = register_jitable(fastmath={"contract", "reassoc", "nsz"}, forceinline=True)


@functools.cache
def tables(dtype):
    """narrow (2,·): nodes eps, weights of sum 1;  wide (2,·): nodes x, weights;  poles (3,·): |n|, n/|n|, (-1)^(n+1).

    The narrow nodes reach as far beyond -sqrt(WIDE), where exp(-u) has its mass, as beyond 0."""
    first = -round(((NARROW_NODES - 1) * NARROW_STEP + math.sqrt(WIDE)) / 2 / NARROW_STEP)
    eps = NARROW_STEP * np.arange(first, first + NARROW_NODES)
    w = np.exp(-eps * eps / 2)
    x = STEP * (np.arange(NODES) + 0.5)
    n = np.r_[1 : CROSSED + 1, -OTHERS:0]
    made = (
        np.stack([eps, w / w.sum()]),
        np.stack([x, STEP / np.pi * np.exp(-x * x / 2)]),
        np.stack([abs(n), np.sign(n), 2 * (n % 2) - 1]),
    )
    made = tuple(a.astype(dtype) for a in made)
    for a in made:
        a.flags.writeable = False
    return made


@shared
def log1p_and_inverse(t):
    """log(1 + t), 1/(1 + t) for t >= 0: log y, y the rounded 1 + t, and what the rounding took."""
    T = type(t)
    y = T(1) + t
    c = ratio(T(1), y)
    return log(y) + (t - (y - T(1))) * c, c


@shared
def sinh_cosh(z):
    """sinh z, cosh z for 0 <= z < 40, both with relative accuracy:  E (E + 2) d, 1 + E² d,  E = e^z - 1, d = e^-z/2."""
    T = type(z)
    k, q = exp_parts(z)
    scale = power2(k)
    E = scale * q + (scale - T(1))
    d = ratio(T(0.5), E + T(1))
    return E * (E + T(2)) * d, T(1) + E * E * d


@shared
def pole(y, base):
    """exp((y² - base²)/2) / (1 + exp(2 pi y/h)); 0 for a pole out of reach."""
    T = type(y)
    near = y < T(REACH)
    y = y if near else T(REACH)
    p = ratio(exp(T(0.5) * (y - base) * (y + base)), T(1) + exp(T(SLOPE) * y))
    return p if near else T(0)


@summed
def narrow_sums(m, s, eps, w):
    """-F, and g and lambda without their factor exp(-m).   m >= 0, 0 <= s <= sqrt(WIDE)"""
    T = type(m)
    f, g, l, scale = T(0), T(0), T(0), exp(-m)
    for j in range(eps.size):
        e = exp(-s * eps[j])
        t = scale * e
        y, c = log1p_and_inverse(t)
        p = w[j] * e * c
        f += w[j] * y
        g += p
        l += p * c
    return f, g, l


@summed
def wide_sums(s, x0, x, w):
    """-F/s, g, s lambda by the trapezoid rule alone, without their factor exp(-x0²/2).

    With S = s/pi sinh(pi x/s), C = cosh(pi x/s), the same of the angle pi x0/s as n, c, and D = S² + n²:
        lambda s = sum w (x S c + x0 C n)/D,    g = sum w C n/D,    -F/s = sum w (x0 C n - x S c)/((x² + x0²) D)"""
    T = type(s)
    f, g, l = T(0), T(0), T(0)
    turns = ratio(T(0.5) * x0, s)
    c, n = cos_sin(turns - nearest(turns))
    a, b = ratio(T(math.pi), s), s * T(1 / math.pi)
    n *= b
    for j in range(x.size):
        sinh, cosh = sinh_cosh(a * x[j])
        S, q = b * sinh, x[j] * x[j] + x0 * x0
        D = S * S + n * n
        p, r = cosh * n, w[j] * ratio(T(1), D * q)
        xS, xn = x[j] * S * c, x0 * p
        l += (xn + xS) * (q * r)
        g += p * (q * r)
        f += (xn - xS) * r
    return f, g, l


@summed
def pole_sums(s, y1, base, n, side, sign):
    """What all poles but n = 0 add to -F, g, lambda, of which the factor exp(base²/2 - x0²/2) is left out.

    y is taken from that of n = 1, so that it is exactly this one there: where y1 = base, its square may be large."""
    T = type(s)
    f, g, l = T(0), T(0), T(0)
    for j in range(n.size):
        p = sign[j] * pole((n[j] - side[j]) * s + side[j] * y1, base)
        f += ratio(p, n[j])
        g += side[j] * p
        l += n[j] * p
    return f, g, l


@shared
def scaled(m, v, narrow, wide, poles):
    """-F, g e^-L, lambda e^-L, L for m >= 0."""
    T = type(m)
    s = T(math.sqrt(v))
    if v <= T(WIDE):
        f, g, l = narrow_sums(m, s, narrow[0], narrow[1])
        return f, g, l, -m
    x0 = ratio(m, s)
    L = T(0.5) * v - m if m > v else T(-0.5) * m * ratio(m, v)
    # beyond, the factor is 0 or the sums do not change: nothing overflows
    most = s + T(40) if s < T(1e4) else T(1e4)
    x0 = most if x0 > most else x0
    y1 = s - x0
    base = y1 if y1 < T(0) else T(0)
    f, g, l = wide_sums(s, x0, wide[0], wide[1])
    factor = exp(T(-0.5) * base * base)
    f, g, l = f * factor * s, g * factor, ratio(l * factor, s)
    if y1 < T(REACH):
        df, dg, dl = pole_sums(s, y1, base, poles[0], poles[1], poles[2])
        f, g, l = f + df, g + dg, l + dl
    if x0 < T(REACH):  # n = 0, for -F a double pole
        p = pole(x0, base)
        g += p
        f += p * s * (ratio(T(SLOPE), T(1) + exp(T(-SLOPE) * x0)) - x0)
    return f * exp(L), g, l, L


@shared
def expectation(m, v, narrow, wide, poles):
    """F = E log sigmoid(u), g = E sigmoid(-u), lambda = E sigmoid(u) sigmoid(-u) over u ~ N(m, v).

    m, v >= 0 of one type, and `tables` of it."""
    T = type(m)
    f, g, l, L = scaled(abs(m), v, narrow, wide, poles)
    scale = exp(L)
    g, l = g * scale, l * scale
    return (-f if m >= T(0) else m - f), (g if m >= T(0) else T(1) - g), l


@shared
def log_odds(m, v, narrow, wide, poles):
    """log E sigmoid(u) - log E sigmoid(-u) over u ~ N(m, v): finite however sure, odd in m, and of its sign or 0.

    An error of 1e-14 near 0, relative to the result where it is large. Arguments as of `expectation`."""
    T = type(m)
    _, g, _, L = scaled(abs(m), v, narrow, wide, poles)
    y = log(T(1) - g * exp(L)) - log(g) - L
    y = T(0) if y < T(0) else y
    return y if m > T(0) else -y if m < T(0) else m * y
