"""Adam over one flat vector of parameters (Kingma & Ba 2015)."""

import functools

import numpy as np
from numba.extending import register_jitable

from .. import pool
from ..jit import FAST, kernel
from ..shared import checks
from ..shared.adam import C1, C2, RATE, SCALE, decide, guarded, new_memory, one_less_power
from ..shared.adam import adam as one_step

# Elements a thread steps, or squares, at a time. Memory bounds it: of 0.65 million elements two threads took as long as
# one, and up to twice as long while a thread of BLAS still waited for work
BLOCK = 1 << 20
SINGLE = 1 << 15  # elements at most that are stepped in one call, whose cost is that of calls


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


@register_jitable(fastmath=FAST, forceinline=True)
def _squared(g):
    """|g|², by sums of 4096 elements in g's dtype: what overflows there would overflow in v."""
    T, total = g.dtype.type, 0.0
    for a in range(0, g.size, 4096):
        s, x = T(0), g[a : a + 4096]
        for i in range(x.size):
            s += x[i] * x[i]
        total += s
    return total


@kernel("T1 d1w")
def _square(g, out):
    """out (1,) = |g|²"""
    out[0] = _squared(g)


@kernel("d1 i1w T1w T T T T T")
def _decide(parts, counters, control, rate, period, clip, log1, log2):
    """Blocks in their order: the same sum for any number of threads."""
    square = 0.0
    for part in parts:
        square += part
    decide(control.dtype.type(square), counters, control, rate, period, clip, log1, log2)


@register_jitable(forceinline=True)
def _move(theta, g, m, v, control, w1, w2, epsilon):
    rate, scale, c1, c2 = control[RATE], control[SCALE], control[C1], control[C2]
    for i in range(theta.size):
        theta[i], m[i], v[i] = guarded(theta[i], g[i], m[i], v[i], rate, scale, w1, w2, c1, c2, epsilon)


@kernel("T1w T1 T1w T1w T1 T T T")
def _guarded(theta, g, m, v, control, w1, w2, epsilon):
    """theta, g, m, v (P,), control as `decide` left it; w = 1 - beta of beta1 and beta2."""
    _move(theta, g, m, v, control, w1, w2, epsilon)


@kernel("T1w T1 T1w T1w i1w T1w T T T T T T T T")
def _whole(theta, g, m, v, counters, control, rate, period, clip, w1, w2, log1, log2, epsilon):
    """All of `descend` for few parameters, whose cost is that of calls."""
    decide(control.dtype.type(_squared(g)), counters, control, rate, period, clip, log1, log2)
    _move(theta, g, m, v, control, w1, w2, epsilon)


@functools.lru_cache(32)
def _numbers(T, rate, period, clip, beta1, beta2, epsilon):
    """Arguments of the kernels, in dtype T."""
    w1, w2, log1, log2 = checks.decays(beta1, beta2)
    return [T(x) for x in (rate, period, clip, w1, w2, log1, log2, epsilon)]


def descend(theta, g, m, v, counters, control, rate, period, clip, beta1, beta2, epsilon):
    """A step of `adam` that may be clipped, and is not taken where it would do harm. Nothing is read back.

    With |g| the Euclidean norm of the gradient and t = counters[1], the steps taken so far:
        |g| > clip:         g is taken times clip/|g| (Pascanu, Mikolov & Bengio 2013; clip = inf for never)
        |g| not finite:     m, v and t stay. The rate is halved for good, and half of the last step is undone: theta +=
                            rate' m̂ / (sqrt(v̂) + epsilon), rate' half of the rate it had. A second bad step in a row
                            undoes half of what is left, and so on, so that theta goes back to where its gradient was
                            finite. The gradients themselves never reach theta, m and v.
    counters (4,) int64 count the steps tried, taken, bad in a row up to now, and bad in all; control, of theta's dtype,
    has as its first element what the rate was multiplied by so far. Both are begun by `memory` and kept from step to
    step. rate: a number; with period > 0 it is rate (1 + cos(pi counters[0]/period))/2.
    The norm is taken in theta's dtype: in float32 one above 1.8e19 counts as not finite, as g² would in v.
    Else, and what is raised, as `adam`."""
    checks.guarded_step(theta, g, m, v, counters, control)
    numbers = _numbers(theta.dtype.type, rate, period, clip, beta1, beta2, epsilon)
    if theta.size <= SINGLE:
        _whole(theta, g, m, v, counters, control, *numbers)
        return
    rate, period, clip, w1, w2, log1, log2, epsilon = numbers
    parts = np.empty(-(-theta.size // BLOCK))
    pool.run(lambda b: _square(g[b * BLOCK : (b + 1) * BLOCK], parts[b : b + 1]), len(parts))
    _decide(parts, counters, control, rate, period, clip, log1, log2)

    def block(b):
        i = slice(b * BLOCK, (b + 1) * BLOCK)
        _guarded(theta[i], g[i], m[i], v[i], control, w1, w2, epsilon)

    pool.run(block, -(-theta.size // BLOCK))


def memory(dtype):
    """counters (4,) int64 and control of that dtype, for `descend`, before its first step."""
    return new_memory(dtype)


def assign(x, values):
    """x <- values, an array of NumPy, where x lies: what has x or a view of it sees them."""
    x[...] = values


def tick(step):
    """step[0] += 1.   Apart from `adam`, of which every thread reads it."""
    step[0] += 1
