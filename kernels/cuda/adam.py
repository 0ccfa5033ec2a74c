"""Adam over one flat vector of parameters (Kingma & Ba 2015)."""

import functools

import numpy as np

from ..shared import checks
from ..shared.adam import adam as one_step
from ..shared.adam import one_less_power
from .api import cuda, kernel, put

THREADS = 256


@kernel("T1w T1 T1w T1w i1 T1 T T T T T T")
def _adam(theta, g, m, v, step, factor, rate, w1, w2, log1, log2, epsilon):
    """One thread an element.   theta, g, m, v (P,), step (1,), the rate is rate factor[0], factor (1,);
    w = 1 - beta and log = log(beta) of beta1 and beta2."""
    i = cuda.grid(1)
    if i < theta.size:
        t = type(w1)(step[0] + 1)
        c1, c2 = one_less_power(t, log1), one_less_power(t, log2)
        theta[i], m[i], v[i] = one_step(theta[i], g[i], m[i], v[i], rate * factor[0], w1, w2, c1, c2, epsilon)


@kernel("i1w T1")
def _tick(step, _):
    if cuda.grid(1) == 0:
        step[0] += 1


@functools.cache
def _one(dtype):
    """The factor for a rate that is a number. Kept for good: a recorded graph goes on reading it."""
    return put(np.ones(1, dtype))


def adam(theta, g, m, v, step, rate, beta1, beta2, epsilon):
    """One step of Adam down the gradient g, in place.   With t = step[0] + 1:

        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g²
        theta <- theta - rate m̂ / (sqrt(v̂) + epsilon),    m̂ = m / (1 - beta1^t),    v̂ = v / (1 - beta2^t)

    theta, g, m, v: flat vectors of one length, float32 or float64; m and v are 0 at first. step: int64 array (1,), the
    steps taken so far, which `tick` counts. rate: a number, or an array (1,) of theta's dtype that is read on the
    device, so that a recorded step sees it change.
    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ. Source: Kingma & Ba 2015,
    algorithm 1.
    """
    checks.step(theta, g, m, v, step)
    rate, factor = (1, rate) if checks.is_one_element("rate", rate, theta.dtype) else (rate, _one(theta.dtype))
    numbers = (rate, *checks.decays(beta1, beta2), epsilon)
    _adam(-(-theta.size // THREADS), THREADS, theta, g, m, v, step, factor, *numbers)


def tick(step):
    """step[0] += 1.   Apart from `adam`, of which every thread reads it."""
    _tick(1, 1, step, _one(np.dtype(np.float32)))
