"""Distributions of one number by a place, a scale and perhaps a shape: from base noise, and their slopes. Both targets.

z = loc + scale t, where t has the standard member's density e^l(t):   log q = l(t) - log scale,  psi = l'(t). With
loc and log scale as coordinates, at fixed z
    dlog q/dz = psi/scale     dlog q/dloc = -psi/scale     dlog q/dlog scale = -psi t - 1,
and at fixed noise dz/dloc = 1, dz/dlog scale = z - loc. The Weibull distribution has w = (z/scale)^k in place of t.
"""

import math

from .scalar import cos_sin, exp, log, log1p_small, log1p_unit, ratio, shared, tanh

NORMAL, UNIFORM, EXPONENTIAL, LAPLACE, LOGISTIC, GUMBEL, WEIBULL, CAUCHY, FULL, MIXTURE = range(10)
LOG_2, LOG_PI, HALF_LOG_2PI = math.log(2), math.log(math.pi), 0.5 * math.log(2 * math.pi)
KINDS = (
    "normal",
    "uniform",
    "exponential",
    "laplace",
    "logistic",
    "gumbel",
    "weibull",
    "cauchy",
    "full",
    "mixture",
)


@shared
def log_complement(u):
    """log(1 - u) for u in [0, 1], accurate near 0 too."""
    T = type(u)
    near = u < T(0.25)
    y = log1p_small(-u if near else T(0))
    return y if near else log(T(1) - u)


@shared
def quantile(kind, u):
    """t = F^-1(u) of the standard member, u in (0, 1); w of Weibull; of the normal distribution u is t itself."""
    T = type(u)
    if kind in (EXPONENTIAL, WEIBULL):
        return -log_complement(u)
    if kind == LAPLACE:
        low = u < T(0.5)
        y = log(T(2) * (u if low else T(1) - u))
        return y if low else -y
    if kind == LOGISTIC:
        return log(u) - log_complement(u)
    if kind == GUMBEL:
        return -log(-log(u))
    if kind == CAUCHY:
        c, s = cos_sin(T(0.5) * u)
        return -ratio(c, s)
    return u


@shared
def standard(kind, t):
    """l(t), the log-density of the standard member, and psi = l'(t). Exponential: of t >= 0; uniform: where it is."""
    T = type(t)
    if kind == UNIFORM:
        return T(0), T(0)
    if kind == EXPONENTIAL:
        return -t if t >= T(0) else T(-math.inf), T(-1)
    if kind == LAPLACE:
        return -abs(t) - T(LOG_2), T(-1) if t > T(0) else T(1) if t < T(0) else T(0)
    if kind == LOGISTIC:
        return -abs(t) - T(2) * log1p_unit(exp(-abs(t))), -tanh(T(0.5) * t)
    if kind == GUMBEL:
        e = exp(-t)
        return -t - e if e < T(math.inf) else T(-math.inf), e - T(1)
    if kind == CAUCHY:
        far = abs(t) > T(1)  # t² may be beyond the largest number
        y = ratio(T(1), t) if far else t
        square = y * y
        l = -T(LOG_PI) - log1p_unit(square)
        return l + (T(2) * log(abs(y)) if far else T(0)), ratio(T(-2) * y, T(1) + square)
    return T(-0.5) * t * t - T(HALF_LOG_2PI), -t


@shared
def weibull(z, scale, log_scale, k):
    """log q, its slopes in z, log scale and log k, and log w/k = log(z/scale):   w = (z/scale)^k,

    log q = log k + log w - log z - w:   (k - 1 - k w)/z,   -k (1 - w),   1 + (1 - w) log w.   -inf where z <= 0."""
    T = type(z)
    r = ratio(z, scale)
    x = log(r) if T(0) < r < T(math.inf) else log(z) - log_scale  # the quotient may be beyond what T has
    x = x if z > T(0) else T(0)
    a = k * x
    w = exp(a)
    rest = T(1) - w
    l = log(k) + (a - x) - log_scale - w
    return l if z > T(0) else T(-math.inf), ratio((k - T(1)) - k * w, z), -k * rest, T(1) + rest * a, x


@shared
def sample(kind, u, loc, scale, shape):
    """z from base noise u; shape is k of Weibull, and where the uniform distribution ends."""
    T = type(u)
    t = quantile(kind, u)
    if kind == WEIBULL:
        return scale * exp(log(t) * ratio(T(1), shape))
    z = loc + scale * t
    return min(z, shape) if kind == UNIFORM else z


@shared
def log_density(kind, z, loc, scale, log_scale, shape):
    """log q(z); arguments as of `sample`."""
    T = type(z)
    if kind == WEIBULL:
        return weibull(z, scale, log_scale, shape)[0]
    if kind == UNIFORM:  # by z itself, which rounding does not take out of the support
        return -log_scale if loc <= z <= shape else T(-math.inf)
    return standard(kind, (z - loc) * ratio(T(1), scale))[0] - log_scale


@shared
def upper(x):
    """Phi(-x), the standard normal's probability above x."""
    T = type(x)
    return T(0.5) * T(math.erfc(x * T(math.sqrt(0.5))))
