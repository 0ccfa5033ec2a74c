"""Bayesian nets: the bound, and a step of training as a fixed list of kernel calls.

p(y|x,w) by a net whose every weight, biases among them, has q(w) = N(mu, S) and a prior of its own; the bound on
log p(y|X) is sum_n w_n E_q[log p(y_n|x_n,w)] - KL(q || p). With prior="ard" the prior is N(0, alpha) at the alpha of
the highest bound, mu² + S, and KL = sum log(1 + mu²/S)/2: the rule of the relevance vector machine (Tipping 2001), in
each layer. Not weights are drawn but the sums of a layer, whose means and variances are products as well (Kingma,
Salimans & Welling 2015). Forward, top down, and back, bottom up, * by elements:

    M = H_i-1 mu_i,  V = H_i-1² S_i                     dmu_i = H_i-1' delta_i,  dS_i = H_i-1²' gamma_i
    H_i, G: `perturb` of kernels/cpu/network.py         delta_i, gamma_i: `back`, from delta_i+1 mu', gamma_i+1 S'
    log p(y|H_L): `likelihood`                          delta_L, in its place

Letters: B rows of a batch, D columns, I inputs and O outputs of a layer.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .vae import log_variance

NOISE, HELD_NOISE = range(2)  # streams of random numbers
THRESHOLD = 3.0  # log S/mu² of a weight that says nothing (Molchanov, Ashukha & Vetrov 2017)


class Architecture(NamedTuple):
    """What the layout of the parameters follows from: sizes (D, ..., outputs), likelihood of LIKELIHOODS."""

    sizes: tuple[int, ...]
    activation: str
    likelihood: str

    @property
    def layers(self) -> int:
        """Their number."""
        return len(self.sizes) - 1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters, in their order. The last row of a layer is its biases."""
        layers = [(I + 1, O) for I, O in zip(self.sizes, self.sizes[1:])]
        shapes: dict[str, tuple[int, ...]] = {f"{name}_{l}": s for name in ("mu", "rho") for l, s in enumerate(layers)}
        return shapes | ({"noise": (1,)} if self.likelihood == "gaussian" else {})


class Net:
    """The layers, and the room they take for B rows with R draws of each. mu, S: a list of arrays (I+1,O) of k."""

    def __init__(self, k: Any, a: Architecture, mu: list[Any], S: list[Any], T: Any, B: int, R: int = 1) -> None:
        self.k, self.a, self.mu, self.S, self.T = k, a, mu, S, T
        sizes, rows = a.sizes[1:], [B] + [B * R] * (a.layers - 1)
        self.M, self.V = ([k.empty((n, O), T) for n, O in zip(rows, sizes)] for _ in range(2))
        self.H, self.squares = ([k.empty((B * R, O), T) for O in sizes] for _ in range(2))
        self.none = k.empty((0, 0), T)

    def _sums(self, l, x, squares):
        M, V = self.M[l][: len(x)], self.V[l][: len(x)]
        for h, W, out in (x, self.mu[l], M), (squares, self.S[l], V):
            weights, biases = parts(W)
            self.k.linear.gemm(h, weights, out, biases)
        return M, V

    def draw(self, x, squares, noise, R=1, G=None):
        """The output (B R,K) for rows x (B,D), by noise, a list of eps (B R,O) or (R,O). G gets du/dv of each."""
        a, n = self.a, len(x) * R
        for l in range(a.layers):
            M, V = self._sums(l, x, squares)
            last = l == a.layers - 1
            x, squares = self.H[l][:n], self.none if last else self.squares[l][:n]
            g = self.none if G is None else G[l][:n]
            self.k.network.perturb(M, V, noise[l], R, "identity" if last else a.activation, x, squares, g)
            R = 1
        return x

    def mean(self, x):
        """The output (B,K) of the mean weights for rows x (B,D)."""
        for l, mu in enumerate(self.mu):
            last = l == self.a.layers - 1
            H, (weights, biases) = self.H[l][: len(x)], parts(mu)
            self.k.linear.gemm(x, weights, H, biases, "nn", "identity" if last else self.a.activation)
            x = H
        return x


class Bound:
    """The objective of fit.stochastic: the mean bound per unit of weight, of the rows of X (N,D) of k and Y (N,2), the
    targets and weights; where X is None, of batches (B,D+2) that are both. Columns enter as (x - shift) factor.
    held(): batches of rows held out.

    share: the mean weight of the rows to fit; weight: of all rows, to which the KL belongs; prior of PRIORS, tau2: the
    variance of "gaussian"; warm: steps in which the weight of the KL rises from 0; constant: added to log p(y|x)."""

    def __init__(
        self,
        k,
        a,
        parameters,
        X,
        Y,
        shift,
        factor,
        held,
        *,
        prior,
        tau2,
        warm,
        batch_size,
        seed,
        weight,
        share,
        constant=0.0,
    ):
        T, B, v = parameters.dtype, batch_size, parameters.views
        self.k, self.a, self.parameters, self.X, self.Y, self.held = k, a, parameters, X, Y, held
        self.prior, self.tau2, self.warm, self.seed, self.weight, self.share = prior, tau2, warm, seed, weight, share
        self.constant = constant
        self.shift, self.factor = k.put(shift), k.put(factor)
        self.which = k.network.LIKELIHOODS.index(a.likelihood), k.network.PRIORS.index(prior)
        self.mu, self.rho = ([v[f"{name}_{l}"] for l in range(a.layers)] for name in ("mu", "rho"))
        self.S = [k.empty(w.shape, T) for w in self.rho]
        self.net = Net(k, a, self.mu, self.S, T, B)
        self.dM, self.dV, self.gamma, self.G = ([k.empty((B, O), T) for O in a.sizes[1:]] for _ in range(4))
        self.x, self.squares = (k.empty((B, a.sizes[0]), T) for _ in range(2))
        self.eps, self.t, self.l = k.empty(B * sum(a.sizes[1:]), T), k.empty((B, 2), T), k.empty((B, 2), T)
        none = k.empty(0, T)
        self.none, self.noise, self.dnoise = none, v.get("noise", none), parameters.gradients.get("noise", none)
        self.rows, self.no_Y = k.put(np.empty(0, np.int64)), k.put(np.empty((0, 2), T))
        self.totals = k.put(np.zeros(2))

    def _load(self, batch):
        """x, its squares and t of the rows of a batch."""
        n = len(batch)
        x, squares, t = self.x[:n], self.squares[:n], self.t[:n]
        X, Y, rows = (batch, self.no_Y, self.rows) if self.X is None else (self.X, self.Y, batch)
        self.k.network.gather(X, Y, rows, self.shift, self.factor, x, squares, t)
        return x, squares, t

    def _draw(self, n, stream, counter):
        """Noise for n rows: a list of arrays (n,O)."""
        total, noise = 0, []
        for O in self.a.sizes[1:]:
            noise.append(self.eps[total : total + n * O].reshape(n, O))
            total += n * O
        self.k.random.normal(self.seed, stream, counter, self.eps[:total])
        return noise

    def step(self, batch, counter):
        """The gradient of minus the mean bound."""
        k, n, g, gemm = self.k, len(batch), self.parameters.gradients, self.k.linear.gemm
        x, squares, t = self._load(batch)
        for rho, S in zip(self.rho, self.S):
            k.network.spread(rho, S)
        A = self.net.draw(x, squares, self._draw(n, NOISE, counter), 1, self.G)
        k.network.likelihood(A, t, self.noise, self.which[0], 1 / (n * self.share), self.l[:n])
        k.network.finish(self.l[:n], t, self.dnoise, self.totals)
        dM, dV, H, activation = A, self.net.none, self.net.none, "identity"
        for l in range(self.a.layers - 1, -1, -1):
            gamma, dmu, drho = self.gamma[l][:n], g[f"mu_{l}"], g[f"rho_{l}"]
            (dW, db), (dS, ds) = parts(dmu), parts(drho)
            k.network.back(dM, dV, H, self.G[l][:n], activation, gamma, db, ds)
            delta, activation = dM, self.a.activation
            H, H2 = (self.net.H[l - 1][:n], self.net.squares[l - 1][:n]) if l else (x, squares)
            gemm(H, delta, dW, self.none, "tn")
            gemm(H2, gamma, dS, self.none, "tn")
            if l:
                dM, dV = self.dM[l - 1][:n], self.dV[l - 1][:n]
                gemm(delta, parts(self.mu[l])[0], dM, self.none, "nt")
                gemm(gamma, parts(self.S[l])[0], dV, self.none, "nt")
            weights = self.mu[l], self.rho[l], self.S[l]
            k.network.regularise(*weights, self.which[1], self.tau2, 1 / self.weight, counter, self.warm, dmu, drho)

    def values(self):
        """Means per unit of weight over the epoch, as the parameters were at each step; the KL, all of it, as it is."""
        px, weight = (float(t) for t in self.k.get(self.totals))
        self.k.adam.assign(self.totals, np.zeros(2))
        theta = self.parameters.get()
        layers = ((theta[f"mu_{l}"][:-1], theta[f"rho_{l}"][:-1]) for l in range(self.a.layers))
        pruned = [log_ratio(self.k, mu, rho) >= THRESHOLD for mu, rho in layers]
        more = {f"sparsity_{l}": float(p.mean()) for l, p in enumerate(pruned)} if self.a.layers > 1 else {}
        sparsity = sum(int(p.sum()) for p in pruned) / sum(p.size for p in pruned)
        return {**self._named(px / weight, theta), "sparsity": sparsity, **more}

    def _named(self, px, theta):
        px, kl = px + self.constant, self.divergence(theta) / self.weight
        return {"lower_bound": px - kl, "log_likelihood": px, "kl": kl}

    def divergence(self, theta):
        """KL(q || p) in nats, of parameters by name."""
        some = (
            divergence(self.k, theta[f"mu_{l}"], theta[f"rho_{l}"], self.prior, self.tau2) for l in range(self.a.layers)
        )
        return float(sum(some))

    def validate(self):
        """The same of the rows held out, with noise of its own that is the same in each epoch."""
        k, px, weight = self.k, 0.0, 0.0
        for rho, S in zip(self.rho, self.S):
            k.network.spread(rho, S)
        for i, batch in enumerate(self.held()):
            n = len(batch)
            x, squares, t = self._load(batch)
            A = self.net.draw(x, squares, self._draw(n, HELD_NOISE, i))
            k.network.likelihood(A, t, self.noise, self.which[0], 1.0, self.l[:n])
            px += float(k.get(self.l[:n]).astype(float)[:, 0].sum())
            weight += float(k.get(t).astype(float)[:, 1].sum())
        return self._named(px / weight, self.parameters.get())


def parts(W):
    """The weights (I,O) and the biases (O,) of a layer (I+1,O)."""
    I = len(W) - 1
    return W[:I], W[I]


def log_ratio(k, mu, rho):
    """log S/mu², float64: where it is large a weight says nothing. At most 89: mu² of 0 counts as 1e-30."""
    return log_variance(k, rho.astype(float)) - np.log(mu.astype(float) ** 2 + k.network.TINY)


def divergence(k, mu, rho, prior, tau2):
    """KL(q || p) in nats, summed over weights: mu, rho (I+1,O). See `divergence_slopes` of the kernels."""
    mu, t = mu.astype(float), log_variance(k, rho.astype(float))
    if prior == "gaussian":
        return 0.5 * (math.log(tau2) - t + (np.exp(t) + mu**2) / tau2 - 1).sum()
    kl = 0.5 * np.log1p(mu**2 * np.exp(-t))
    if prior == "log_uniform":
        k1, k2, k3 = k.network.FIT
        z = k2 + k3 * log_ratio(k, mu, rho)
        kl += k1 * np.exp(-np.logaddexp(0, z))  # 1 - sigmoid(z)
    return kl.sum()
