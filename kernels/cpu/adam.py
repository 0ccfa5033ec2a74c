"""Adam over one flat vector of parameters (Kingma & Ba 2015)."""

import numpy as np

from .. import pool
from ..jit import kernel
from ..shared import checks
from ..shared.adam import adam as one_step
from ..shared.adam import one_less_power

BLOCK = 1 << 15  # elements a thread steps at a time


@kernel("T1w T1 T1w T1w i1 T1 T T T T T")
def _adam(theta, g, m, v, step, rate, w1, w2, log1, log2, epsilon):
    """theta, g, m, v (P,), step (1,), rate (1,); w = 1 - beta and log = log(beta) of beta1 and beta2."""
    t = type(w1)(step[0] + 1)
    c1, c2 = one_less_power(t, log1), one_less_power(t, log2)
    for i in range(theta.size):
        theta[i], m[i], v[i] = one_step(theta[i], g[i], m[i], v[i], rate[0], w1, w2, c1, c2, epsilon)


def adam(theta, g, m, v, step, rate, beta1, beta2, epsilon):
    """One step of Adam down the gradient g, in place.   With t = step[0] + 1:

        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g²
        theta <- theta - rate m̂ / (sqrt(v̂) + epsilon),    m̂ = m / (1 - beta1^t),    v̂ = v / (1 - beta2^t)

    theta, g, m, v: flat vectors of one length, float32 or float64; m and v are 0 at first. step: int64 array (1,), the
    steps taken so far, which `tick` counts. rate: a number, or an array (1,) of theta's dtype that is read on the
    device, so that a recorded step sees it change.
    Raises ValueError for shapes that do not fit, TypeError for dtypes that differ. Source: Kingma & Ba 2015,
    algorithm 1.

    >>> import numpy as np, lvm
    >>> k, step = lvm.kernels.load("cpu"), np.zeros(1, np.int64)
    >>> theta, g, m, v = np.array([[1.0, 2], [0.5, -8], [0, 0], [0, 0]])
    >>> k.adam.adam(theta, g, m, v, step, rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-8)
    >>> k.adam.tick(step)
    >>> theta.round(6).tolist(), step.tolist()
    ([0.9, 2.1], [1])
    """
    checks.step(theta, g, m, v, step)
    if not checks.is_one_element("rate", rate, theta.dtype):
        rate = np.array([rate], theta.dtype)
    T = theta.dtype.type
    numbers = [T(x) for x in (*checks.decays(beta1, beta2), epsilon)]

    def block(b):
        i = slice(b * BLOCK, (b + 1) * BLOCK)
        _adam(theta[i], g[i], m[i], v[i], step, rate, *numbers)

    pool.run(block, -(-theta.size // BLOCK))


def tick(step):
    """step[0] += 1.   Apart from `adam`, of which every thread reads it."""
    step[0] += 1
