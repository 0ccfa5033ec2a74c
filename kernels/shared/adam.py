"""One number's step of Adam (Kingma & Ba 2015, algorithm 1)."""

import math

from .scalar import exp_parts, power2, ratio, shared


@shared
def one_less_power(t, log_beta):
    """1 - beta^t = -expm1(t log beta) for t >= 0, log beta <= 0 (or -inf): as accurate as t log beta, however small.

    With e^x = 2^k (1 + q) as in `exp_parts`:   1 - e^x = (1 - 2^k) - 2^k q.   Below -80, 1 - e^x rounds to 1."""
    T = type(log_beta)
    x = t * log_beta
    k, q = exp_parts(x if x > T(-80) else T(-80))
    scale = power2(k)
    return (T(1) - scale) - scale * q


@shared
def adam(theta, g, m, v, rate, w1, w2, c1, c2, epsilon):
    """theta, m, v after a step along the gradient g, with w = 1 - beta and c = 1 - beta^t.

    m += w1 (g - m)    v += w2 (g² - v)    theta -= rate (m/c1) / (sqrt(v/c2) + epsilon)

    So written, w alone is rounded: rounded beta and 1 - beta would not add up to 1, an error of 3e-5 in v."""
    T = type(theta)
    m += w1 * (g - m)
    v += w2 * (g * g - v)
    return theta - ratio(rate * ratio(m, c1), T(math.sqrt(ratio(v, c2))) + epsilon), m, v
