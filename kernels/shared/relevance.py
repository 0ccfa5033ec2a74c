"""Minibatch logistic regression: maths of one row."""

import math

from .scalar import exp, log1p_unit, ratio, shared

LARGEST = 30.0  # of |log S|, which is bounded smoothly


@shared
def noisy(m, v, eps):
    """F = log sigmoid(u), u = m + sqrt(v) eps, dF/dm = sigmoid(-u) and dF/dv = sigmoid(-u) eps/(2 sqrt(v)).

    The slope in v is that of this eps; where v = 0, 0."""
    T = type(m)
    s = T(math.sqrt(v))
    u = m + s * eps
    e = exp(-abs(u))
    g = ratio(e if u >= T(0) else T(1), T(1) + e)
    F = (u if u < T(0) else T(0)) - log1p_unit(e)
    return F, g, ratio(T(0.5) * g * eps, s) if s > T(0) else T(0)
