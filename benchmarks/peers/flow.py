"""Planar flows: lvm, JAX, PyTorch and normflows.

A step is fresh noise z (B,D), K planar layers and their log-determinants, the gradient of the bound
E[log pi(f(z)) + l - log p(z)] on the log Z of pi, and Adam at 0.005, in float32; pi is the ring, which has any D. A fit
takes a given number of steps, and the rate falls along a cosine. That of the energy U1 (Rezende & Mohamed 2015) raises
the weight of log pi from 0.01 to 1 over the first half; minus its bound is their E_q[ln q + U], which cannot be below
-1.8775. That of two moons is maximum likelihood, with f from x to z: so all can be trained, but of the layers only
lvm's can be inverted, and so sampled from. normflows' cannot, so it has eight affine couplings there (RealNVP), another
model. The base is fixed. Each bound, or test log-likelihood, is of 100000 fresh rows.

JAX is jitted, noise and Adam and all, its state donated: a hundred steps a call, in lax.scan, or, as most write it, a
step a call. PyTorch is eager and compiled, its Adam fused, with û and the log-determinants of all layers at once, and
on one thread but for the largest batch, since two make the small ones slower. These hold z as (D,B), the quicker layout
for them, and start from layers drawn as lvm draws its own. "By the paper" is either as the paper has it and as most
would write it, a layer after the other, z (B,D), a step a call; of it steps alone are timed. normflows is as its
documentation has it, a module a layer, with a start and a constraint of its own. All compile in the first run, which is
not timed. PyTorch and normflows take minutes over U1: there --repeat 1 will do.
"""

import math
from typing import NamedTuple

import numpy as np

from benchmarks import problems

TIME, QUALITY = "ms", ("bound or log p(x), nats", "standard error")
RATE, FRESH = 5e-3, 100_000
TINY = 1e-12  # least |w|² to divide by: where training takes a layer's w to 0, JAX has a gradient of NaN without it


class Size(NamedTuple):
    """target: "ring" or "U1", for the reverse KL, or "moons", for maximum likelihood; K layers, batches of B. A step
    is timed, from n1 to n2 = steps, or the fit that takes all of so many steps. lvm counts them in hundreds."""

    target: str
    D: int
    K: int
    B: int
    steps: tuple[int, int] | int


SIZES = {
    "a step, D=2 K=8 B=1000": Size("ring", 2, 8, 1000, (100, 2100)),
    "a step, D=2 K=32 B=1000": Size("ring", 2, 32, 1000, (100, 1100)),
    "a step, D=40 K=10 B=100": Size("ring", 40, 10, 100, (100, 2100)),
    "a step, D=40 K=80 B=100": Size("ring", 40, 80, 100, (100, 600)),
    "a step, D=2 K=32 B=100000": Size("ring", 2, 32, 100_000, (100, 200)),
    "a fit, U1, K=32": Size("U1", 2, 32, 256, 20_000),
    "a fit, two moons, K=32": Size("moons", 2, 32, 256, 10_000),
    "a step, D=2 K=4 B=100": Size("ring", 2, 4, 100, (100, 1100)),
    "a fit, U1, K=4": Size("U1", 2, 4, 256, 1000),
    "a fit, two moons, K=4": Size("moons", 2, 4, 256, 1000),
}
QUICK = list(SIZES)[-3:]


class Problem(NamedTuple):
    """start: u (K,D), w (K,D), b (K,) of the peers that share a parametrisation. X (D,N): rows to fit, if any. fresh
    (D,M): rows that no fit has seen, or noise."""

    size: Size
    start: tuple[np.ndarray, ...]
    X: np.ndarray | None
    fresh: np.ndarray


def problem(size):
    """The Problem of a Size."""
    rng, shape = np.random.default_rng(0), (size.K, size.D)
    start = 0.1 * rng.normal(size=shape), rng.normal(size=shape) / math.sqrt(size.D), rng.normal(size=size.K)
    moons = size.target == "moons"
    X = _moons(25_600, rng).astype("float32") if moons else None
    fresh = _moons(FRESH, rng) if moons else rng.normal(size=(size.D, FRESH))
    return Problem(size, tuple(p.astype("float32") for p in start), X, fresh)


def _moons(N, rng):
    """(2,N): two crescents, one in the mouth of the other, standardised."""
    return (problems.moons(N, rng).T - [[0.5], [0.25]]) / [[0.87], [0.51]]


def steps(size):
    """Those of a Size, or None where the fit is timed."""
    return None if isinstance(size.steps, int) else size.steps


def schedule(size, n):
    """(n,2): the rate and the weight of log pi in each of n steps."""
    t = np.arange(n) / n
    rate = np.full(n, RATE) if steps(size) else RATE * (1 + np.cos(np.pi * t)) / 2
    return np.column_stack([rate, np.minimum(1, 0.01 + 2 * t) if size.target == "U1" else np.ones(n)]).astype("float32")


def log_pi(target, xp, z):
    """log pi (M,) at z (D,M), by NumPy or what has its functions; of moons, that of the base."""
    if target == "moons":
        return -0.5 * (z * z).sum(0) - len(z) / 2 * math.log(2 * math.pi)
    ring = -0.5 * ((xp.sqrt((z * z).sum(0)) - 2) / 0.4) ** 2
    if target == "ring":
        return ring
    return ring + xp.logaddexp(-0.5 * ((z[0] - 2) / 0.6) ** 2, -0.5 * ((z[0] + 2) / 0.6) ** 2)


def quality(problem, flow):
    """Of flow(z (D,M)) -> (f(z) (D,M), l (M,)): the mean bound, or log-likelihood, and its standard error."""
    size, _, _, z = problem
    x, l = flow(z)
    value = log_pi(size.target, np, x) + l - (0 if size.target == "moons" else log_pi("moons", np, z))
    return float(value.mean()), float(value.std() / math.sqrt(len(value)))


def planar(u, w, b, constrained=lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0)))):
    """A flow for `quality`, in float64, with m = constrained(w'u)."""
    u, w, b = (np.asarray(p, "float64") for p in (u, w, b))
    x = (w * u).sum(1)
    m = constrained(x)
    u_hat = u + ((m - x) / np.maximum((w * w).sum(1), TINY))[:, None] * w

    def flow(z):
        l = np.zeros(z.shape[1])
        for k in range(len(b)):
            h = np.tanh(w[k] @ z + b[k])
            z = z + np.outer(u_hat[k], h)
            l += np.log(h * h + (1 + m[k]) * (1 - h * h))
        return z, l

    return flow


def by_the_paper(xp, softplus, parameters, z):
    """f(z) and l, z (B,D): Rezende & Mohamed 2015, equations 10 and 12, by JAX or PyTorch."""
    l = 0
    for u, w, b in zip(*parameters):
        x = (w * u).sum()
        u_hat = u + (softplus(x) - 1 - x) * w / (w * w).sum()
        h = xp.tanh(z @ w + b)
        z, l = z + u_hat * h[:, None], l + xp.log(xp.abs(1 + (1 - h * h) * (w * u_hat).sum()))
    return z, l


SOFTPLUS = lambda x: np.logaddexp(0, x) - 1  # m of the paper


def lvm_(problem):
    """This library."""
    from lvm import PlanarFlow, targets

    size, _, X, _ = problem
    given = {"n_layers": size.K, "base": "fixed", "batch_size": size.B, "learning_rate": RATE, "random_state": 0}

    def run(steps):
        epochs = (steps or size.steps) // 100
        model = PlanarFlow(
            **given,
            standardise=False,
            max_epochs=epochs,
            n_epochs_no_change=None,
            schedule="constant" if steps else "cosine",
            annealing_steps=50 * epochs if size.target == "U1" else 0,
        )
        if X is not None:
            model.fit(X.T)
        else:
            model.fit_target(getattr(targets, size.target), size.D, dtype="float32")
        return planar(model.u_, model.w_, model.b_)

    return run


def _jax(scanned, paper=False):
    """build(problem) of JAX, with a hundred steps in one call or with one."""

    def build(problem):
        import jax
        import jax.numpy as jnp

        size, start, X, _ = problem
        if paper and isinstance(size.steps, int):
            return None
        X = None if X is None else jnp.asarray(X)

        def draw(key):
            if X is None:
                return jax.random.normal(key, (size.D, size.B))
            return X[:, jax.random.randint(key, (size.B,), 0, X.shape[1])]

        def loss(parameters, z, weight):
            if paper:
                z, l = by_the_paper(jnp, jax.nn.softplus, parameters, z.T)
                return -(weight * log_pi(size.target, jnp, z.T) + l).mean()
            u, w, b = parameters
            x = (w * u).sum(1)
            m = jax.nn.elu(x)
            u_hat = u + ((m - x) / jnp.maximum((w * w).sum(1), TINY))[:, None] * w
            hs = []
            for k in range(size.K):
                h = jnp.tanh(w[k] @ z + b[k])
                z = z + u_hat[k][:, None] * h
                hs.append(h)
            h2 = jnp.stack(hs) ** 2
            l = jnp.log(h2 + (1 + m)[:, None] * (1 - h2)).sum(0)
            return -(weight * log_pi(size.target, jnp, z) + l).mean()

        def step(state, now):
            parameters, mean, square, t, key = state
            t, (key, drawn) = t + 1, jax.random.split(key)
            g = jax.grad(loss)(parameters, draw(drawn), now[1])
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, g)
            square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, g)
            rate, correction = now[0] / (1 - 0.9**t), 1 - 0.999**t
            adam = lambda p, m, v: p - rate * m / (jnp.sqrt(v / correction) + 1e-8)
            return (jax.tree.map(adam, parameters, mean, square), mean, square, t, key), None

        call = jax.jit(
            lambda s, some: jax.lax.scan(step, s, some)[0] if scanned else step(s, some)[0], donate_argnums=0
        )

        def run(steps):
            plan = schedule(size, steps or size.steps)
            zeros = lambda: tuple(map(jnp.zeros_like, start))
            state = tuple(map(jnp.array, start)), zeros(), zeros(), jnp.float32(0), jax.random.key(0)
            for some in plan.reshape(-1, 100, 2) if scanned else plan:
                state = call(state, some)
            return planar(*jax.block_until_ready(state[0]), **({"constrained": SOFTPLUS} if paper else {}))

        return run

    return build


def _torch(compiled, paper=False):
    """build(problem) of PyTorch, eager or compiled."""

    def build(problem):
        import torch as t

        size, start, *_ = problem
        if paper and isinstance(size.steps, int):
            return None

        def loss(u, w, b, z, weight):
            if paper:
                z, l = by_the_paper(t, t.nn.functional.softplus, (u, w, b), z.T)
                return -(weight * log_pi(size.target, t, z.T) + l).mean()
            x = (w * u).sum(1)
            m = t.nn.functional.elu(x)
            u_hat = u + ((m - x) / w.square().sum(1).clamp(min=TINY))[:, None] * w
            hs = []
            for u_k, w_k, b_k in zip(u_hat.unbind(), w.unbind(), b.unbind()):
                h = t.addmv(b_k, z.T, w_k).tanh()
                z = t.addr(z, u_k, h)
                hs.append(h)
            h2 = t.stack(hs).square()
            l = t.log(h2 + (1 + m)[:, None] * (1 - h2)).sum(0)
            return -(weight * log_pi(size.target, t, z) + l).mean()

        if compiled:
            t.compiler.reset()  # or the size before this one would make the shapes variables
            try:
                t.compile(lambda x: x.tanh())(t.zeros(2))
            except Exception as e:
                raise ImportError(f"torch.compile does not work here: {str(e).strip().splitlines()[0]}") from e
            loss = t.compile(loss, fullgraph=True, dynamic=False)

        def run(steps):
            p = [t.tensor(s, requires_grad=True) for s in start]
            draw = _draws(problem)
            _descend(size, steps, p, lambda weight: loss(*p, draw(), weight))
            return planar(*(s.detach() for s in p), **({"constrained": SOFTPLUS} if paper else {}))

        return run

    return build


def _draws(problem):
    """draw() -> z (D,B) of PyTorch: noise, or rows to fit."""
    import torch as t

    size, _, X, _ = problem
    if X is None:
        return lambda: t.randn(size.D, size.B)
    X = t.from_numpy(X)
    return lambda: X[:, t.randint(X.shape[1], (size.B,))]


def _descend(size, steps, parameters, loss):
    """Train `parameters` of PyTorch by loss(weight of log pi)."""
    import torch as t

    t.manual_seed(0)
    threads = t.get_num_threads()
    t.set_num_threads(1 if size.B <= 1000 else threads)
    adam = t.optim.Adam(parameters, fused=True)
    rates, weights = schedule(size, steps or size.steps).T
    for rate, weight in zip(rates.tolist(), t.tensor(weights)):
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        loss(weight).backward()
        adam.step()
    t.set_num_threads(threads)


def normflows(problem):
    """Its planar layers, or couplings where these would have to be inverted."""
    import normflows as nf
    import torch as t

    size, _, X, _ = problem

    class Target:
        log_prob = staticmethod(lambda z: log_pi(size.target, t, z.T))

    def couplings():
        for _ in range(8):
            yield nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 64, 64, 2], init_zeros=True))
            yield nf.flows.Permute(2, mode="swap")

    def run(steps):
        t.manual_seed(0)
        layers = list(couplings()) if X is not None else [nf.flows.Planar((size.D,)) for _ in range(size.K)]
        model = nf.NormalizingFlow(nf.distributions.DiagGaussian(size.D, trainable=False), layers, Target())
        p = list(model.parameters())
        if X is None:
            _descend(size, steps, p, lambda weight: model.reverse_kld(size.B, weight))
            u, w, b = (t.cat([getattr(f, name).detach() for f in layers]) for name in "uwb")
            return planar(u, w, b, SOFTPLUS)
        draw = _draws(problem)
        _descend(size, steps, p, lambda _: model.forward_kld(draw().T))

        def flow(x):
            with t.no_grad():
                z, l = model.double().inverse_and_log_det(t.from_numpy(x.T))
            return z.numpy().T, l.numpy()

        return flow

    return run


PEERS = {
    "lvm": lvm_,
    "JAX, a hundred steps a call": _jax(True),
    "JAX, a step a call": _jax(False),
    "JAX, by the paper": _jax(False, paper=True),
    "PyTorch, compiled": _torch(True),
    "PyTorch": _torch(False),
    "PyTorch, by the paper": _torch(False, paper=True),
    "normflows": normflows,
}
