"""Adam over one flat vector of parameters (Kingma & Ba 2015)."""

import functools

import numpy as np

from ..shared import checks
from ..shared.adam import C1, C2, N_PARTS, PARTS, RATE, SCALE, decide, guarded, new_memory, one_less_power
from ..shared.adam import adam as one_step
from .api import block_sum, cuda, kernel, put

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


@kernel("T1 T1w")
def _square(g, control):
    """control[PARTS + b] = the sum of g² over the elements of block b: every n-th from its first, n threads in all."""
    T, t = g.dtype.type, cuda.threadIdx.x
    parts = cuda.shared.array(THREADS, g.dtype)
    s = T(0)
    for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
        s += g[i] * g[i]
    parts[t] = s
    s = block_sum(parts)
    if t == 0:
        control[PARTS + cuda.blockIdx.x] = s


@kernel("T1w i1w T T T T T")
def _decide(control, counters, rate, period, clip, log1, log2):
    """One block of a thread for each part."""
    t = cuda.threadIdx.x
    parts = cuda.shared.array(N_PARTS, control.dtype)
    parts[t] = control[PARTS + t]
    square = block_sum(parts)
    if t == 0:
        decide(square, counters, control, rate, period, clip, log1, log2)


@kernel("T1w T1 T1w T1w T1 T T T")
def _guarded(theta, g, m, v, control, w1, w2, epsilon):
    """One thread an element.   theta, g, m, v (P,), control as `decide` left it; w = 1 - beta of beta1 and beta2."""
    i = cuda.grid(1)
    if i < theta.size:
        rate, scale, c1, c2 = control[RATE], control[SCALE], control[C1], control[C2]
        theta[i], m[i], v[i] = guarded(theta[i], g[i], m[i], v[i], rate, scale, w1, w2, c1, c2, epsilon)


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
    w1, w2, log1, log2 = checks.decays(beta1, beta2)
    blocks = -(-theta.size // THREADS)
    _square(min(blocks, N_PARTS), THREADS, g, control)
    _decide(1, N_PARTS, control, counters, rate, period, clip, log1, log2)
    _guarded(blocks, THREADS, theta, g, m, v, control, w1, w2, epsilon)


def memory(dtype):
    """counters (4,) int64 and control of that dtype, for `descend`, before its first step."""
    return tuple(map(put, new_memory(dtype)))


def assign(x, values):
    """x <- values, an array of NumPy, where x lies: what has x or a view of it sees them."""
    x.copy_to_device(np.ascontiguousarray(values, x.dtype))


def tick(step):
    """step[0] += 1.   Apart from `adam`, of which every thread reads it."""
    _tick(1, 1, step, _one(np.dtype(np.float32)))
