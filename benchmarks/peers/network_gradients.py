"""lvm's gradients of the bound of a Bayesian net, by hand, held against PyTorch's, by autograd.

    python benchmarks/peers/network_gradients.py

All likelihoods and priors, with row weights and without, each with all activations, numbers of hidden layers and
weights of the KL, on one small batch with given weights and noise. A difference is the largest within an array of
weights, relative to the largest number there, and each line has the largest of them, and where it is. PyTorch's in
float64 are taken for right; the numbers given are such as float32 has. The last column is PyTorch's own in float32.
"""

import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[2])]  # the checkout's lvm, and benchmarks

from benchmarks.peers.run import table  # noqa: E402
from lvm import kernels  # noqa: E402
from lvm.objectives.network import Architecture, Bound  # noqa: E402
from lvm.parameters import Parameters  # noqa: E402

N, B, D = 10, 7, 5  # rows of the data, of the batch: the first ones; columns
LARGEST, LOG_2PI = 20.0, math.log(2 * math.pi)
K1, K2, K3 = 0.63576, 1.87320, 1.48695
OUTPUTS = {"softmax": 4, "logistic": 1, "gaussian": 1}
ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "leaky_relu": torch.nn.functional.leaky_relu,
}
WANTED = {"float64": 1e-9, "float32": 1e-5}


class Config(NamedTuple):
    """What the models take by these names, but for likelihood; weighted: have rows weights? beta, of the KL."""

    likelihood: str
    prior: str
    weighted: bool
    hidden: tuple[int, ...]
    activation: str
    beta: float
    prior_variance: float = 0.5


def configs():
    """Each line of the table: what it is of, and its Configs."""
    layers = [((), "relu"), *itertools.product([(6,), (6, 5)], ACTIVATIONS)]
    for given in itertools.product(OUTPUTS, ("ard", "log_uniform", "gaussian"), (False, True)):
        likelihood, prior, weighted = given
        label = f"{likelihood}; {prior}" + "; row weights" * weighted
        yield label, [Config(*given, *layer, beta) for layer in layers for beta in (1.0, 0.3)]


def problem(config):
    """theta, x (N,D), y (N,), w (N,), eps (B,O) of each layer, float64 with digits that float32 has."""
    rng, O = np.random.default_rng(0), OUTPUTS[config.likelihood]
    rounded = lambda a: a.astype("float32").astype("float64")
    shapes = [(I + 1, O) for I, O in itertools.pairwise((D, *config.hidden, O))]
    theta = {f"mu_{l}": 0.5 * rng.normal(size=shape) for l, shape in enumerate(shapes)}
    theta |= {f"rho_{l}": -3 + rng.normal(size=shape) for l, shape in enumerate(shapes)}
    if config.likelihood == "gaussian":
        theta["noise"] = -1 + 0.3 * rng.normal(size=1)
    y = rng.normal(size=N) if config.likelihood == "gaussian" else rng.integers(max(O, 2), size=N)
    w = rng.uniform(0.5, 2, size=N) if config.weighted else np.ones(N)
    eps = [rounded(rng.normal(size=(B, O))) for _, O in shapes]
    return {name: rounded(a) for name, a in theta.items()}, rounded(rng.normal(size=(N, D))), y * 1.0, rounded(w), eps


# -------------------------------------------------------------------------------------------------- by PyTorch
def bounded(r):
    """The log-variance that r stands for."""
    return LARGEST * torch.tanh(r / LARGEST)


def log_likelihood(theta, u, y, config):
    """log p(y|u) of rows u (B,O), y (B,): (B,)."""
    if config.likelihood == "softmax":
        return torch.log_softmax(u, 1)[torch.arange(len(y)), y.long()]
    u = u[:, 0]
    if config.likelihood == "logistic":
        return -torch.nn.functional.binary_cross_entropy_with_logits(u, y, reduction="none")
    t = bounded(theta["noise"])
    return -0.5 * (LOG_2PI + t + (y - u).square() * torch.exp(-t))


def kl(mu, t, config):
    """KL(N(mu, exp(t)) || p), up to a constant for the log-uniform prior (Molchanov et al. 2017, eq. 14), summed."""
    if config.prior == "ard":
        return 0.5 * torch.log(1 + mu.square() / torch.exp(t)).sum()
    if config.prior == "log_uniform":
        r = t - torch.log(mu.square())
        return (K1 - K1 * torch.sigmoid(K2 + K3 * r) + 0.5 * torch.log(1 + torch.exp(-r))).sum()
    v = config.prior_variance
    return 0.5 * (math.log(v) - t + (torch.exp(t) + mu.square()) / v - 1).sum()


def bound(theta, x, y, w, eps, config):
    """1/B sum_{n in batch} w_n N/W log p(y_n|u_n) - beta KL/W, for each unit of weight, W that of all rows.

    m = h mu + mu_b, v = h² S + S_b, h <- f(m + sqrt(v) eps)   Kingma, Salimans & Welling 2015, section 2.3"""
    h, total = x[:B], 0
    for l, noise in enumerate(eps):
        h = ACTIVATIONS[config.activation](h) if l else h
        mu, t = theta[f"mu_{l}"], bounded(theta[f"rho_{l}"])
        total = total + kl(mu, t, config)
        S = torch.exp(t)
        h = h @ mu[:-1] + mu[-1] + torch.sqrt(h.square() @ S[:-1] + S[-1]) * noise
    of_rows = w[:B] * N / w.sum() * log_likelihood(theta, h, y[:B], config)
    return of_rows.mean() - config.beta * total / w.sum()


def torch_gradients(theta, x, y, w, eps, config):
    """{name: gradient of the bound}, by PyTorch, in the dtype of x."""
    theta = {name: torch.tensor(a, requires_grad=True) for name, a in theta.items()}
    bound(theta, *(torch.tensor(a) for a in (x, y, w)), [torch.tensor(e) for e in eps], config).backward()
    return {name: p.grad.numpy() for name, p in theta.items()}


# ------------------------------------------------------------------------------------------------------ by lvm
class Given:
    """The kernel set k, but for its noise, which is eps."""

    def __init__(self, k, eps):
        self.k = k
        self.random = SimpleNamespace(normal=lambda seed, stream, counter, out: np.copyto(out, eps))

    def __getattr__(self, name):
        return getattr(self.k, name)


def lvm_gradients(theta, x, y, w, eps, config):
    """{name: gradient of the bound}, by a step of lvm's objective with this noise, in the dtype of x."""
    k, T = kernels.load("cpu"), x.dtype
    architecture = Architecture((D, *config.hidden, OUTPUTS[config.likelihood]), config.activation, config.likelihood)
    parameters = Parameters(k, architecture.shapes(), T)
    parameters.assign(theta)
    objective = Bound(
        Given(k, np.concatenate([e.reshape(-1) for e in eps])),
        architecture,
        parameters,
        x,
        np.column_stack([y, w]),
        np.zeros(D, T),
        np.ones(D, T),
        held=None,
        prior=config.prior,
        tau2=config.prior_variance,
        warm=10,
        batch_size=B,
        seed=0,
        weight=float(w.sum()),
        share=float(w.mean()),
    )
    objective.step(np.arange(B), np.array([round(10 * config.beta)]))
    return {name: -g for name, g in parameters.gradients.items()}


# -------------------------------------------------------------------------------------------------- comparison
def difference(got, right):
    """The largest relative difference, and the name of the weights that have it."""
    assert got.keys() == right.keys(), (list(got), list(right))
    return max((abs(got[name] - g).max() / (abs(g).max() or 1), name) for name, g in right.items())


def single(given):
    """theta, x, y, w and eps in float32."""
    theta, x, y, w, eps = given
    to = lambda a: a.astype("float32")
    return {name: to(a) for name, a in theta.items()}, to(x), to(y), to(w), [to(e) for e in eps]


def main():
    """Compare, print, and say whether it is as it has to be."""
    rows, most = [("bound of", "lvm, float64", "lvm, float32", "PyTorch, float32")], dict.fromkeys(WANTED, 0.0)
    for label, some in configs():
        worst = [(0.0, "")] * 3
        for config in some:
            given = problem(config)
            right, less = torch_gradients(*given, config), single(given)
            found = lvm_gradients(*given, config), lvm_gradients(*less, config), torch_gradients(*less, config)
            where = f"{config.activation} {config.hidden}" if config.hidden else "no hidden layers"
            for i, g in enumerate(found):
                value, name = difference(g, right)
                worst[i] = max(worst[i], (value, f"{name}, {where}, beta={config.beta:g}"))
        rows.append((label, *(f"{value:.1e} {where}" for value, where in worst)))
        for dtype, (value, _) in zip(WANTED, worst):
            most[dtype] = max(most[dtype], value)
    print("\n".join(table(rows)))
    print("\nlargest", *(f"{value:.1e} in {dtype}" for dtype, value in most.items()))
    if any(not most[dtype] <= WANTED[dtype] for dtype in WANTED):
        sys.exit(f"wanted {WANTED}")


if __name__ == "__main__":
    main()
