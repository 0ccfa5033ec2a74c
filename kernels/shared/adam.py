"""One number's step of Adam (Kingma & Ba 2015, algorithm 1), and what a guarded step decides for all of them."""

import math

import numpy as np

from .scalar import cos_sin, exp_parts, power2, ratio, shared

# what `counters` and `control` of a guarded step hold, see `decide`
STEPS, TAKEN, RUN, BAD = range(4)
SHRINK, LAST, RATE, SCALE, C1, C2, PARTS = range(7)
N_PARTS = 128  # of the sum of squares, on CUDA: a block for each multiprocessor, or nearly


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


@shared
def decide(square, counters, control, rate, period, clip, log1, log2):
    """Take the step, or undo half of the last one? From square = |g|², before the elements are moved by `guarded`.

    counters (4,) int64:   STEPS tried so far; TAKEN, the t of Adam; a RUN of bad ones, up to now; all that were BAD.
    control, of g's dtype: SHRINK, 2^-bad; LAST, the rate of the last step that was taken, and of what is left of it.
        For this step: RATE; SCALE, what g is multiplied by, or -1 to undo; C1, C2 = 1 - beta^t. PARTS and on: scratch.
    The rate is rate SHRINK, times (1 + cos(pi STEPS/period))/2 where period > 0 (Loshchilov & Hutter 2017, eq. 5).
    log = log(beta) of beta1 and beta2."""
    T = type(rate)
    if math.isfinite(square):
        rate *= control[SHRINK]
        if period > T(0):
            done = ratio(T(counters[STEPS]), period)
            rate *= T(0.5) + T(0.5) * cos_sin(T(0.5) * done if done < T(1) else T(0.5))[0]
        norm = T(math.sqrt(square))
        control[SCALE] = ratio(clip, norm) if norm > clip else T(1)
        control[RATE] = rate
        control[LAST] = rate
        counters[TAKEN] += 1
        counters[RUN] = 0
    else:
        control[SHRINK] *= T(0.5)
        control[LAST] *= T(0.5)
        control[SCALE] = T(-1)
        control[RATE] = control[LAST]
        counters[RUN] += 1
        counters[BAD] += 1
    counters[STEPS] += 1
    t = T(counters[TAKEN])  # 0 while nothing can be undone: 0/1 is no step
    control[C1] = one_less_power(t, log1) if t > T(0) else T(1)
    control[C2] = one_less_power(t, log2) if t > T(0) else T(1)


@shared
def guarded(theta, g, m, v, rate, scale, w1, w2, c1, c2, epsilon):
    """theta, m, v after the step that `decide` chose: `adam`'s along scale g, or, for scale < 0, part of one back."""
    T = type(theta)
    if scale < T(0):
        return theta + ratio(rate * ratio(m, c1), T(math.sqrt(ratio(v, c2))) + epsilon), m, v
    return adam(theta, scale * g, m, v, rate, w1, w2, c1, c2, epsilon)


def new_memory(dtype):
    """counters and control before the first step, in NumPy."""
    control = np.zeros(PARTS + N_PARTS, dtype)
    control[SHRINK] = 1
    return np.zeros(4, np.int64), control
