"""Variational autoencoders: lvm, JAX and PyTorch.

A step takes a batch of rows by their shuffled numbers, draws noise, and goes there, back and through Adam at 0.001, in
float32: a Bernoulli decoder from logits, log-variances 20 tanh(r/20), one draw of z a row and the KL in closed form; or
k draws and the importance-weighted bound (Burda et al. 2016); or K planar layers that the encoder puts out for each row
(Rezende & Mohamed 2015). Rows are binary, 784 columns from a random network, as many as make 20 batches. A fit is of
the 8x8 digits, inked or not, and the rate falls along a cosine. The bound is that of each size, of rows that no fit has
seen, with the same noise for all, in float64.

JAX is jitted, gather, noise and Adam and all, its state donated: a step a call, as most write it, or a hundred in
lax.scan. PyTorch is eager and compiled, of nn.Sequential, its Adam fused, and on one thread for 64 columns, where a
second gains nothing and spins in the way of others. These start from the same weights, drawn as lvm draws its own. All
compile in the first run, which is not timed.
"""

import itertools
import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

TIME, QUALITY = "ms", "bound on fresh rows, nats"
RATE, LARGEST = 1e-3, 20.0
TINY = 1e-12  # least |w|² to divide by, in planar layers: else a gradient of NaN, where one has w = 0


class Size(NamedTuple):
    """D columns, hidden layers of the encoder, and of the decoder reversed; d latent columns, batches of B; k draws a
    row, K planar layers. A step is timed, from n1 to n2 = steps, or the fit of the digits that takes all of so many.
    They are counted in hundreds: five passes, which are an epoch of lvm's."""

    D: int
    hidden: tuple[int, ...]
    d: int
    B: int
    steps: tuple[int, int] | int
    activation: str = "relu"
    k: int = 1
    K: int = 0


SIZES = {
    "a step, 784-400-20, B=100": Size(784, (400,), 20, 100, (100, 700)),
    "a step, 784-400-20, B=128": Size(784, (400,), 20, 128, (100, 700)),
    "a step, 784-400-20, B=1000": Size(784, (400,), 20, 1000, (100, 200)),
    "a step, 784-200-200-50 tanh, B=100, k=5": Size(784, (200, 200), 50, 100, (100, 400), "tanh", k=5),
    "a step, 64-100-8, B=100": Size(64, (100,), 8, 100, (100, 2100)),
    "a step, 784-200-40 planar K=10, B=100": Size(784, (200,), 40, 100, (100, 800), K=10),
    "a fit, digits, 64-200-8": Size(64, (200,), 8, 75, 6000),
    "a step, 64-20-3, B=20": Size(64, (20,), 3, 20, (100, 500)),
    "a step, 64-20-3 planar K=2, B=20, k=2": Size(64, (20,), 3, 20, (100, 500), k=2, K=2),
    "a fit, digits, 64-20-3": Size(64, (20,), 3, 75, 600),
}
QUICK = list(SIZES)[-3:]


class Problem(NamedTuple):
    """X (N,D) to fit; start: weights and biases in turn, those of the encoder first; fresh: rows and noise to test on,
    float64."""

    size: Size
    X: np.ndarray
    start: list[np.ndarray]
    fresh: tuple[np.ndarray, np.ndarray]


def problem(size):
    """The Problem of a Size."""
    rng = np.random.default_rng(0)
    N = 20 * size.B
    if steps(size):
        X = _rows(N + 1000, size.D, rng)
    else:
        from lvm.datasets import load_digits

        X = rng.permutation(load_digits() > 7)
    (d, K), start = (size.d, size.K), []
    encoder, decoder = (size.D, *size.hidden, 2 * d + K * (2 * d + 1)), (d, *size.hidden[::-1], size.D)
    for a, b in (*itertools.pairwise(encoder), *itertools.pairwise(decoder)):
        start += [rng.uniform(-1, 1, (a, b)) * math.sqrt(6 / (a + b)), np.zeros(b)]
    W, b = start[2 * len(size.hidden) :][:2]  # the encoder's last: planar layers near the identity
    W[:, 2 * d :] *= 0.1
    layers = rng.normal(size=(K, 2 * d + 1)) * ([0.1] * d + [d**-0.5] * d + [1])
    b[2 * d :] = layers.reshape(-1)
    mean = (X[:N].sum(axis=0) + 0.5) / (N + 1)
    start[-1] = np.log(mean / (1 - mean))
    fresh = X[N:].astype(float)
    noise = rng.normal(size=(size.k, len(fresh), d))
    return Problem(size, X[:N].astype("float32"), [p.astype("float32") for p in start], (fresh, noise))


def _rows(N, D, rng):
    """(N,D) of True and False, drawn by the probabilities that a random network makes of 10 latent columns."""
    h = np.tanh(rng.normal(size=(N, 10)) @ rng.normal(size=(10, 50)))
    a = 0.7 * h @ rng.normal(size=(50, D)) + rng.normal(-3, 1.5, size=D)
    return rng.random((N, D)) < 1 / (1 + np.exp(-a))


def steps(size):
    """Those of a Size, or None where the fit is timed."""
    return None if isinstance(size.steps, int) else size.steps


def plan(problem, n):
    """Numbers of the rows of n batches, (n,B), shuffled anew for each epoch, and the rates, (n,)."""
    (N, B), rng = (len(problem.X), problem.size.B), np.random.default_rng(1)
    order = np.concatenate([rng.permutation(N) for _ in range(-(-n * B // N))])[: n * B].reshape(n, B)
    falling = 1 if steps(problem.size) else (1 + np.cos(np.pi * np.arange(n) / n)) / 2
    return order, (RATE * falling * np.ones(n)).astype("float32")


# ---------------------------------------------------------------------------------------------------------- the model
def bound(xp, nn, encoder, decoder, x, eps, size):
    """The mean bound of rows x (B,D), by draws eps (B,d) or (k,B,d), by NumPy or what has its functions.

    nn has elu, logsumexp(a, 0), and log_bernoulli(a, x), the sum over columns."""
    d, out = size.d, encoder(x)
    mu, r = out[:, :d], out[:, d : 2 * d]
    t = LARGEST * xp.tanh(r / LARGEST)
    z = mu + xp.exp(0.5 * t) * eps
    if size.k == 1 and not size.K:
        kl = 0.5 * (mu * mu + xp.exp(t) - 1 - t).sum(-1)
        return (nn.log_bernoulli(decoder(z), x) - kl).mean()
    log_q = -0.5 * (eps * eps + t).sum(-1)  # its constant is that of the prior
    if size.K:
        z, l = planar(xp, nn, z, out[:, 2 * d :].reshape(len(x), size.K, 2 * d + 1))
        log_q = log_q - l
    log_w = nn.log_bernoulli(decoder(z), x) - 0.5 * (z * z).sum(-1) - log_q
    return log_w.mean() if size.k == 1 else (nn.logsumexp(log_w, 0) - math.log(size.k)).mean()


def planar(xp, nn, z, p):
    """f(z) and log|det| by layers p (B,K,2d+1) of each row: u, w, b (lvm's, where m > -1 is elu(w'u))."""
    d = z.shape[-1]
    u, w, b = p[..., :d], p[..., d : 2 * d], p[..., 2 * d]
    x = (w * u).sum(-1)
    m = nn.elu(x)
    u_hat = u + ((m - x) / xp.maximum((w * w).sum(-1), 0 * x + TINY))[..., None] * w
    l = 0
    for k in range(p.shape[1]):
        h = xp.tanh((z * w[:, k]).sum(-1) + b[:, k])
        z, h2 = z + u_hat[:, k] * h[..., None], h * h
        l = l + xp.log(h2 + (1 + m[:, k]) * (1 - h2))
    return z, l


def networks(parameters, size, activation):
    """Encoder and decoder as functions of rows, by weights and biases in turn."""

    def chain(layers):
        def network(x):
            for W, b in layers[:-1]:
                x = activation(x @ W + b)
            W, b = layers[-1]
            return x @ W + b

        return network

    layers, n = list(zip(parameters[::2], parameters[1::2])), len(size.hidden) + 1
    return chain(layers[:n]), chain(layers[n:])


NUMPY = SimpleNamespace(
    relu=lambda x: np.maximum(x, 0),
    tanh=np.tanh,
    elu=lambda x: np.where(x >= 0, x, np.expm1(np.minimum(x, 0))),
    logsumexp=np.logaddexp.reduce,
    log_bernoulli=lambda a, x: (x * a - np.logaddexp(0, a)).sum(-1),
)


def quality(problem, parameters):
    """The mean bound of fresh rows."""
    size, (x, eps) = problem.size, problem.fresh
    parts = networks([np.asarray(p, float) for p in parameters], size, getattr(NUMPY, size.activation))
    return float(bound(np, NUMPY, *parts, x, eps if size.k > 1 else eps[0], size))


# ---------------------------------------------------------------------------------------------------------- the peers
def lvm_(problem):
    """This library."""
    from lvm import VAE

    size, X, *_ = problem

    def run(steps):
        model = VAE(
            size.d,
            hidden_layer_sizes=size.hidden,
            activation=size.activation,
            likelihood="bernoulli",
            n_flow_layers=size.K,
            n_importance=size.k,
            batch_size=size.B,
            max_epochs=(steps or size.steps) // 100,
            learning_rate=RATE,
            schedule="constant" if steps else "cosine",
            random_state=0,
        )
        return list(model.fit(X).weights_.values())

    return run


def _jax(scanned):
    """build(problem) of JAX, with a hundred steps in one call or with one."""

    def build(problem):
        import jax
        import jax.numpy as jnp

        size, X, start, _ = problem
        nn = SimpleNamespace(
            elu=jax.nn.elu,
            logsumexp=jax.nn.logsumexp,
            log_bernoulli=lambda a, x: (x * a - jax.nn.softplus(a)).sum(-1),
        )
        shape = (size.k, size.B, size.d)[size.k == 1 :]

        def loss(parameters, x, key):
            parts = networks(parameters, size, getattr(jax.nn, size.activation))
            return -bound(jnp, nn, *parts, x, jax.random.normal(key, shape), size)

        def step(X, state, now):
            parameters, mean, square, t, key = state
            (rows, rate), t, (key, drawn) = now, t + 1, jax.random.split(key)
            g = jax.grad(loss)(parameters, X[rows], drawn)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, g)
            square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, g)
            rate, correction = rate / (1 - 0.9**t), 1 - 0.999**t
            adam = lambda p, m, v: p - rate * m / (jnp.sqrt(v / correction) + 1e-8)
            return (jax.tree.map(adam, parameters, mean, square), mean, square, t, key), None

        def several(X, state, some):
            if scanned:
                return jax.lax.scan(lambda state, now: step(X, state, now), state, some)[0]
            return step(X, state, some)[0]

        call, X = jax.jit(several, donate_argnums=1), jnp.asarray(X)

        def run(steps):
            order, rates = plan(problem, steps or size.steps)
            if scanned:
                order, rates = order.reshape(-1, 100, size.B), rates.reshape(-1, 100)
            zeros = lambda: [jnp.zeros_like(p) for p in start]
            state = [jnp.array(p) for p in start], zeros(), zeros(), jnp.float32(0), jax.random.key(0)
            for now in zip(order.astype("int32"), rates):
                state = call(X, state, now)
            return jax.block_until_ready(state[0])

        return run

    return build


def _torch(compiled):
    """build(problem) of PyTorch, eager or compiled."""

    def build(problem):
        import torch as t

        size, X, start, _ = problem
        F, X = t.nn.functional, t.from_numpy(X)
        nn = SimpleNamespace(
            elu=F.elu,
            logsumexp=t.logsumexp,
            log_bernoulli=lambda a, x: -F.binary_cross_entropy_with_logits(a, x.expand_as(a), reduction="none").sum(-1),
        )
        shape = (size.k, size.B, size.d)[size.k == 1 :]
        if compiled:
            t.compiler.reset()  # or the size before this one would make the shapes variables
            try:
                t.compile(lambda x: x.tanh())(t.zeros(2))
            except Exception as e:
                raise ImportError(f"torch.compile does not work here: {str(e).strip().splitlines()[0]}") from e

        def sequential(layers):
            modules = []
            for W, _ in layers:
                modules += [t.nn.Linear(*W.shape), {"relu": t.nn.ReLU, "tanh": t.nn.Tanh}[size.activation]()]
            return t.nn.Sequential(*modules[:-1])

        layers, n = list(zip(start[::2], start[1::2])), len(size.hidden) + 1
        parts = sequential(layers[:n]), sequential(layers[n:])
        parameters = [p for part in parts for p in part.parameters()]
        loss = lambda x: -bound(t, nn, *parts, x, t.randn(shape), size)
        if compiled:
            loss = t.compile(loss, fullgraph=True, dynamic=False)

        def run(steps):
            t.manual_seed(0)
            threads = t.get_num_threads()
            t.set_num_threads(1 if size.D < 100 else threads)
            with t.no_grad():
                for p, begin in zip(parameters, start):
                    p.copy_(t.from_numpy(begin.T))
            adam = t.optim.Adam(parameters, lr=RATE, fused=True)
            order, rates = plan(problem, steps or size.steps)
            for rows, rate in zip(t.from_numpy(order), rates.tolist()):
                adam.param_groups[0]["lr"] = rate
                adam.zero_grad()
                loss(X[rows]).backward()
                adam.step()
            t.set_num_threads(threads)
            return [p.detach().numpy().T.copy() for p in parameters]

        return run

    return build


PEERS = {
    "lvm": lvm_,
    "JAX, a hundred steps a call": _jax(True),
    "JAX, a step a call": _jax(False),
    "PyTorch, compiled": _torch(True),
    "PyTorch": _torch(False),
}
