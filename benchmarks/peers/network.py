"""Bayesian nets, ARD in every layer: lvm, JAX and PyTorch.

A step takes a batch of rows by their shuffled numbers, draws noise for each layer, and goes there, back and through
Adam at 0.001, in float32: ReLU, softmax, pre-activations drawn from their means and variances (Kingma, Salimans &
Welling 2015), and the KL of all weights and biases, 1/2 log(1 + mu²/S), in full from the first step on. Rows are much
like MNIST's, zeros and numbers up to 1, and they and their labels come from one random network; they are as many as
make 20 batches. A fit is of the 8x8 digits, and the rate falls along a cosine. The bound is the mean log p(y|u) less
the KL for each row of the training; NLL is that of 10 draws' mean probability. Both are of rows that no fit has seen,
with the same noise for all, in float64.

JAX is jitted, gather, noise and Adam and all, its state donated: a step a call, as most write it, or a hundred in
lax.scan. PyTorch is eager and compiled, a module a layer, its Adam fused. These hold log S itself, as most would, where
lvm has 20 tanh(rho/20), which would make them slower. They start from the same weights and get standardised columns;
lvm draws a start of the same kind, which alone can move a fit's bound by 0.03, and standardises as it goes. All compile
in the first run, which is not timed.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

TIME, QUALITY = "ms", ("bound on fresh rows, nats", "NLL, nats")
RATE, LARGEST, DRAWS = 1e-3, 20.0, 10
LOG_VARIANCE = -8.0  # of all weights, at the start


class Size(NamedTuple):
    """Sizes of x, of the hidden layers and of the output; batches of B. A step is timed, from n1 to n2 = steps, or the
    fit of the digits that takes all of so many. They are counted in hundreds: five passes, which are an epoch of
    lvm's."""

    layers: tuple[int, ...]
    B: int
    steps: tuple[int, int] | int


SIZES = {
    "a step, 784-300-100-10, B=100": Size((784, 300, 100, 10), 100, (100, 700)),
    "a step, 784-300-10, B=100": Size((784, 300, 10), 100, (100, 700)),
    "a step, 784-300-100-10, B=1000": Size((784, 300, 100, 10), 1000, (100, 200)),
    "a step, 64-50-10, B=100": Size((64, 50, 10), 100, (100, 2100)),
    "a fit, digits, 64-50-10": Size((64, 50, 10), 75, 6000),
    "a step, 64-20-10, B=20": Size((64, 20, 10), 20, (100, 500)),
    "a step, 64-20-10-10, B=20": Size((64, 20, 10, 10), 20, (100, 500)),
    "a fit, digits, 64-20-10": Size((64, 20, 10), 75, 600),
}
QUICK = list(SIZES)[-3:]


class Problem(NamedTuple):
    """X (N,D) and y (N,) to fit; standard: the columns' means and what they are divided by; Z: X by these; start: mu
    (I,O), its biases (O,), log S (I,O), its biases (O,) of each layer; fresh: rows, float64, their labels, and noise
    (DRAWS,n,O) for each layer."""

    size: Size
    X: np.ndarray
    y: np.ndarray
    standard: tuple[np.ndarray, np.ndarray]
    Z: np.ndarray
    start: list[tuple[np.ndarray, ...]]
    fresh: tuple[np.ndarray, np.ndarray, list[np.ndarray]]


def problem(size):
    """The Problem of a Size."""
    rng = np.random.default_rng(0)
    N, (D, *_, K), start = 20 * size.B, size.layers, []
    if steps(size):
        X, y = _rows(N + 1000, D, K, rng)
    else:
        from lvm.datasets import load_digits

        X, y = load_digits(return_y=True)
        order = rng.permutation(len(X))
        X, y = X[order] / 16, y[order]
    for I, O in itertools.pairwise(size.layers):
        mu = rng.uniform(-1, 1, (I, O)) * math.sqrt(6 / (I + O))
        layer = mu, np.zeros(O), np.full((I, O), LOG_VARIANCE), np.full(O, LOG_VARIANCE)
        start.append(tuple(p.astype("float32") for p in layer))
    mean, scale = X[:N].mean(axis=0), X[:N].std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    X, Z, fresh = X[:N].astype("float32"), ((X[:N] - mean) / scale).astype("float32"), X[N:]
    noise = [rng.normal(size=(DRAWS, len(fresh), O)) for O in size.layers[1:]]
    return Problem(size, X, y[:N], (mean, scale), Z, start, (fresh, y[N:], noise))


def _rows(N, D, K, rng):
    """X (N,D), most of it 0, some between 0 and 1, and y (N,), of K classes, by a random network of 10 latent columns,
    both with noise."""
    h = np.tanh(rng.normal(size=(N, 10)) @ rng.normal(size=(10, 50)))
    a = 0.7 * h @ rng.normal(size=(50, D)) + rng.normal(-3, 1.5, size=D)
    y = (h @ rng.normal(size=(50, K)) + rng.gumbel(size=(N, K))).argmax(axis=1)
    return np.clip(0.5 * (a + rng.normal(size=(N, D))), 0, 1), y


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
def network(xp, relu, layers, x, eps):
    """u (...,B,K) of rows x (B,D), by noise (...,B,O) for each layer, and the KL, by NumPy or JAX."""
    h, kl = x, 0
    for i, ((mu, mu_b, t, t_b), noise) in enumerate(zip(layers, eps)):
        h = relu(h) if i else h
        S, S_b = xp.exp(t), xp.exp(t_b)
        kl = kl + 0.5 * (xp.log1p(mu * mu / S).sum() + xp.log1p(mu_b * mu_b / S_b).sum())
        h = h @ mu + mu_b + xp.sqrt(h * h @ S + S_b) * noise
    return h, kl


def quality(problem, result):
    """The bound and the NLL of fresh rows, means, by layers and what their columns are standardised with."""
    (layers, (mean, scale)), (x, y, noise) = result, problem.fresh
    layers = [[np.asarray(p, float) for p in layer] for layer in layers]
    u, kl = network(np, lambda h: np.maximum(h, 0), layers, (x - mean) / scale, noise)
    log_p = u[:, np.arange(len(y)), y] - np.logaddexp.reduce(u, axis=2)
    nll = math.log(DRAWS) - np.logaddexp.reduce(log_p, axis=0).mean()
    return float(log_p.mean() - kl / len(problem.X)), float(nll)


# ---------------------------------------------------------------------------------------------------------- the peers
def lvm_(problem):
    """This library."""
    from lvm import BayesianMLPClassifier

    size = problem.size

    def run(steps):
        model = BayesianMLPClassifier(
            hidden_layer_sizes=size.layers[1:-1],
            kl_warmup_steps=0,
            batch_size=size.B,
            max_epochs=(steps or size.steps) // 100,
            learning_rate=RATE,
            schedule="constant" if steps else "cosine",
            random_state=0,
        )
        model.fit(problem.X, problem.y)
        weights, layers = model.weights_, []
        for l in range(len(size.layers) - 1):
            mu, t = weights[f"mu_{l}"], LARGEST * np.tanh(weights[f"rho_{l}"] / LARGEST)
            layers.append((mu[:-1], mu[-1], t[:-1], t[-1]))
        return layers, (model.mean_, model.scale_)

    return run


def _jax(scanned):
    """build(problem) of JAX, with a hundred steps in one call or with one."""

    def build(problem):
        import jax
        import jax.numpy as jnp

        size, N = problem.size, len(problem.X)
        shapes = [(size.B, O) for O in size.layers[1:]]

        def loss(layers, x, y, key):
            eps = [jax.random.normal(*some) for some in zip(jax.random.split(key, len(shapes)), shapes)]
            u, kl = network(jnp, jax.nn.relu, layers, x, eps)
            return kl / N - (jax.nn.log_softmax(u) * y).sum(1).mean()

        def step(data, state, now):
            layers, mean, square, t, key = state
            (rows, rate), t, (key, drawn) = now, t + 1, jax.random.split(key)
            g = jax.grad(loss)(layers, *(a[rows] for a in data), drawn)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, g)
            square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, g)
            rate, correction = rate / (1 - 0.9**t), 1 - 0.999**t
            adam = lambda p, m, v: p - rate * m / (jnp.sqrt(v / correction) + 1e-8)
            return (jax.tree.map(adam, layers, mean, square), mean, square, t, key), None

        def several(data, state, some):
            if scanned:
                return jax.lax.scan(lambda state, now: step(data, state, now), state, some)[0]
            return step(data, state, some)[0]

        call = jax.jit(several, donate_argnums=1)
        data = jnp.asarray(problem.Z), jax.nn.one_hot(problem.y, size.layers[-1])

        def run(steps):
            order, rates = plan(problem, steps or size.steps)
            if scanned:
                order, rates = order.reshape(-1, 100, size.B), rates.reshape(-1, 100)
            zeros = lambda: jax.tree.map(jnp.zeros_like, problem.start)
            state = jax.tree.map(jnp.array, problem.start), zeros(), zeros(), jnp.float32(0), jax.random.key(0)
            for now in zip(order.astype("int32"), rates):
                state = call(data, state, now)
            return jax.block_until_ready(state[0]), problem.standard

        return run

    return build


def _torch(compiled):
    """build(problem) of PyTorch, eager or compiled."""

    def build(problem):
        import torch as t

        size, N, F = problem.size, len(problem.X), t.nn.functional
        if compiled:
            t.compiler.reset()  # or the size before this one would make the shapes variables
            try:
                t.compile(lambda x: x.tanh())(t.zeros(2))
            except Exception as e:
                raise ImportError(f"torch.compile does not work here: {str(e).strip().splitlines()[0]}") from e

        class Layer(t.nn.Module):
            """Weights as nn.Linear has them, (O,I)."""

            def __init__(self, I, O):
                super().__init__()
                self.mu, self.mu_b = t.nn.Parameter(t.empty(O, I)), t.nn.Parameter(t.empty(O))
                self.log_S, self.log_S_b = t.nn.Parameter(t.empty(O, I)), t.nn.Parameter(t.empty(O))

            def forward(self, h):
                """Pre-activations of rows h (B,I), and the KL."""
                S, S_b = self.log_S.exp(), self.log_S_b.exp()
                kl = (self.mu.square() / S).log1p().sum() + (self.mu_b.square() / S_b).log1p().sum()
                m, v = F.linear(h, self.mu, self.mu_b), F.linear(h.square(), S, S_b)
                return m + v.sqrt() * t.randn_like(m), 0.5 * kl

        class Net(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = t.nn.ModuleList(Layer(I, O) for I, O in itertools.pairwise(size.layers))

            def forward(self, x, y):
                """Minus the bound of rows x (B,D) with labels y (B,)."""
                h, kl = self.layers[0](x)
                for layer in self.layers[1:]:
                    h, more = layer(h.relu())
                    kl = kl + more
                return F.cross_entropy(h, y) + kl / N

        net = Net()
        loss = t.compile(net, fullgraph=True, dynamic=False) if compiled else net
        data = t.from_numpy(problem.Z), t.from_numpy(problem.y)

        def run(steps):
            t.manual_seed(0)
            with t.no_grad():
                for p, begin in zip(net.parameters(), itertools.chain(*problem.start)):
                    p.copy_(t.from_numpy(begin.T))
            adam = t.optim.Adam(net.parameters(), lr=RATE, fused=True)
            order, rates = plan(problem, steps or size.steps)
            for rows, rate in zip(t.from_numpy(order), rates.tolist()):
                adam.param_groups[0]["lr"] = rate
                adam.zero_grad()
                loss(*(a[rows] for a in data)).backward()
                adam.step()
            layers = [tuple(p.detach().numpy().T.copy() for p in layer.parameters()) for layer in net.layers]
            return layers, problem.standard

        return run

    return build


PEERS = {
    "lvm": lvm_,
    "JAX, a hundred steps a call": _jax(True),
    "JAX, a step a call": _jax(False),
    "PyTorch, compiled": _torch(True),
    "PyTorch": _torch(False),
}
