"""Variational autoencoders: the bound, and a step of training as a fixed list of kernel calls.

p(x,z) = p(x|z) N(z | 0, I), p(x|z) by the decoder; q(z|x) by the encoder: N(mu, diag S), and where there are planar
layers what they make of it (Rezende & Mohamed 2015). The bound on log p(x) is E_q[log p(x|z)] - KL(q || p), or
E[log 1/k sum_i p(x,z_i)/q(z_i|x)] (Burda, Grosse & Salakhutdinov 2016), its expectations by samples z = mu + sqrt(S)
eps (Kingma & Welling 2014). Forward, top down, and back, bottom up, f the activation, * by elements:

    H_i = f(H_i-1 W_i + b_i),   H_0 = X or Z        dW_i = H_i-1' delta_i,   db_i = 1' delta_i
                                                    delta_i-1 = (delta_i W_i') * f'(H_i-1)
    head = H W + b                                  `sample_back` of kernels/cpu/vae.py, from dZ = delta_1 W_1'
    Z, extra: `sample`
    A = H W + b, log p(x|z): `likelihood`           delta of A, in its place: `likelihood`

Letters: B rows of a batch, D columns, d latent ones, K planar layers, S = L k samples of each row, M = B S; k samples
make one importance-weighted bound.
"""

import math
from typing import Any, NamedTuple

import numpy as np

NOISE, PIXELS, HELD_NOISE, HELD_PIXELS = range(4)  # streams of random numbers


class Architecture(NamedTuple):
    """What the layout of the parameters follows from. encoder, decoder: sizes of the hidden layers; likelihood: of
    LIKELIHOODS of the kernels; squashed: is the mean a sigmoid? flow: number of planar layers; amortised: does the
    encoder put out their parameters? binarize: of BINARIZE."""

    n_features: int
    n_components: int
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    activation: str
    likelihood: str
    squashed: bool
    flow: int
    amortised: bool
    binarize: str | None = None

    @property
    def head(self) -> int:
        """Columns that the encoder puts out."""
        d = self.n_components
        if self.likelihood == "squared":
            return d
        return 2 * d + (self.flow * (2 * d + 1) if self.amortised else 0)

    @property
    def shared(self) -> int:
        """Parameters of the layers that all rows share."""
        return 0 if self.amortised else self.flow * (2 * self.n_components + 1)

    @property
    def output(self) -> int:
        """Columns that the decoder puts out."""
        return self.n_features * (2 if self.likelihood == "network" else 1)

    @property
    def noises(self) -> int:
        """Log-variances that are parameters."""
        return {"isotropic": 1, "diagonal": self.n_features}.get(self.likelihood, 0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters, in their order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, last, inputs, hidden, outputs in (
            ("encoder", "head", self.n_features, self.encoder, self.head),
            ("decoder", "output", self.n_components, self.decoder, self.output),
        ):
            for i, size in enumerate(hidden):
                shapes[f"{name}_{i}"], shapes[f"{name}_bias_{i}"] = (inputs, size), (size,)
                inputs = size
            shapes[last], shapes[f"{last}_bias"] = (inputs, outputs), (outputs,)
            if name == "encoder" and self.shared:
                shapes["flow"] = (1, self.shared)
        if self.noises:
            shapes["rho"] = (self.noises,)
        return shapes


class Net:
    """Encoder and decoder, and the room they take for B rows with S samples of each. views: {name: array} of k."""

    def __init__(self, k: Any, a: Architecture, views: dict[str, Any], T: Any, B: int, S: int) -> None:
        self.k, self.a, self.views, self.S = k, a, views, S
        M, d = B * S, a.n_components
        self.x, self.head = k.empty((B, a.n_features), T), k.empty((B, a.head), T)
        self.encoder, self.decoder = (
            [k.empty((n, H), T) for H in some] for n, some in ((B, a.encoder), (M, a.decoder))
        )
        self.A, self.px = k.empty((M, a.output), T), k.empty(M, T)
        self.extra, self.none = k.put(np.zeros(M, T)), k.put(np.empty(0, T))
        self.Z = self.head if a.likelihood == "squared" else k.empty((M, d), T)
        self.hs, self.no_flow = k.empty((M, 2 * a.flow), T), k.put(np.empty((0, 0), T))
        self.flow, self.rho = views.get("flow", self.no_flow), views.get("rho", self.none)
        self.which = k.vae.LIKELIHOODS.index(a.likelihood)
        self.sums = k.empty((k.vae.parts(M, a.n_features, 1), a.noises), T)
        self.counter = k.put(np.ones(1, np.int64))

    def _forward(self, name, last, x, hidden, out):
        gemm, p = self.k.linear.gemm, self.views
        for i, H in enumerate(hidden):
            gemm(x, p[f"{name}_{i}"], H[: len(x)], p[f"{name}_bias_{i}"], "nn", self.a.activation)
            x = H[: len(x)]
        gemm(x, p[last], out, p[f"{last}_bias"])
        return out

    def encode(self, x):
        """The head (B,P) of rows x (B,D)."""
        return self._forward("encoder", "head", x, self.encoder, self.head[: len(x)])

    def decode(self, Z):
        """The output (M,Q) for Z (M,d)."""
        return self._forward("decoder", "output", Z, self.decoder, self.A[: len(Z)])

    def sample(self, head, eps, S, kl):
        """Z (M,d), extra (M,), hs of S samples of each row: see the kernel."""
        M = len(head) * S
        Z, extra, hs = self.Z[:M], self.extra[:M], self.hs[:M]
        if self.a.likelihood != "squared":
            self.k.vae.sample(head, eps, self.flow, S, self.k.vae.KLS.index(kl), Z, extra, hs)
        return Z, extra, hs

    def log_px(self, A, x, extra):
        """log p(x|z) (M,) for outputs A (M,Q) of the rows x (B,D)."""
        px, a = self.px[: len(A)], self.a
        rest = 1, 1, self.counter, 0, px, self.none
        self.k.vae.likelihood(A, x, self.rho, extra, self.which, int(a.squashed), *rest, self.sums)
        return px


class Bound:
    """The objective of fit.stochastic: the mean bound of the rows of X (N,D) of k; where X is None, of batches that are
    rows themselves. Rows enter as (x - shift) factor. held(): batches of rows held out.

    kl of KLS; path=1: the gradients of Roeder et al. and Tucker et al. (see `sample_back`); warm: steps in which the
    weight of the KL rises from 0; n: rows of an epoch."""

    def __init__(
        self, k, a, parameters, X, shift, factor, held, *, kl, path, n_samples, n_importance, warm, batch_size, seed, n
    ):
        T, v = parameters.dtype, k.vae
        self.k, self.a, self.parameters, self.X, self.held = k, a, parameters, X, held
        self.kl, self.n_importance, self.warm, self.seed, self.n = kl, n_importance, warm, seed, n
        self.shift, self.factor, self.binarize = k.put(shift), k.put(factor), v.BINARIZE.index(a.binarize)
        self.which_kl, self.path, self.S = v.KLS.index(kl), path, n_samples * n_importance
        self.constant, self.unit = 0.0, 1.0
        if a.likelihood == "squared":
            self.unit = float(factor[0]) ** -2.0
        elif a.likelihood != "bernoulli":
            self.constant = float(np.log(np.abs(factor.astype(float))).sum())
        B, M, d = batch_size, batch_size * self.S, a.n_components
        self.net = Net(k, a, parameters.views, T, B, self.S)
        self.eps, self.c = k.empty((M, d), T), k.empty(M, T)
        self.dhead, self.dflow = k.empty((B, a.head), T), k.empty((B, a.shared), T)
        self.dZ = self.dhead if a.likelihood == "squared" else k.empty((M, d), T)
        self.encoder, self.decoder = (
            [k.empty((n, H), T) for H in some] for n, some in ((B, a.encoder), (M, a.decoder))
        )
        self.sums = k.empty((v.parts(M, a.n_features, n_importance), a.noises), T)
        self.drho = parameters.gradients.get("rho", k.empty(0, T))
        self.rows, self.totals = k.put(np.empty(0, np.int64)), k.put(np.zeros(3))

    def _load(self, batch, stream, counter):
        """The rows of a batch, as the encoder wants them."""
        k = self.k
        X, rows = (batch, self.rows) if self.X is None else (self.X, batch)
        x = self.net.x[: len(batch)]
        if self.a.binarize == "dynamic":
            k.random.uniform(self.seed, stream, counter, x)
        k.vae.gather(X, rows, self.shift, self.factor, self.binarize, x)
        return x

    def _back(self, name, last, x, hidden, deltas, delta, dx):
        """Slopes of the weights, from `delta`, those of the layers' output; and those of the input x, unless dx is
        None."""
        linear, p, g, n = self.k.linear, self.parameters.views, self.parameters.gradients, len(delta)
        none, H = self.net.none, self.net.no_flow
        activation = "identity"
        for i in range(len(hidden), -1, -1):
            W, b = (last, f"{last}_bias") if i == len(hidden) else (f"{name}_{i}", f"{name}_bias_{i}")
            linear.back(H, delta, g[b], activation)
            H = hidden[i - 1][:n] if i else x
            linear.gemm(H, delta, g[W], none, "tn")
            below = deltas[i - 1][:n] if i else dx
            if below is not None:
                linear.gemm(delta, p[W], below, none, "nt")
            delta, activation = below, self.a.activation

    def step(self, batch, counter):
        """The gradient of minus the mean bound."""
        k, net, S = self.k, self.net, self.S
        B = len(batch)
        M, rho, squared = B * S, net.rho, self.a.likelihood == "squared"
        x = self._load(batch, PIXELS, counter)
        head = net.encode(x)
        eps, c, sums = self.eps[:M], self.c[:M], self.sums[: k.vae.parts(M, self.a.n_features, self.n_importance)]
        if not squared:
            k.random.normal(self.seed, NOISE, counter, eps)
        Z, extra, hs = net.sample(head, eps, S, self.kl)
        A, px = net.decode(Z), net.px[:M]
        whole = self.n_importance / M
        rest = int(self.a.squashed), self.n_importance, whole, counter, self.warm
        k.vae.likelihood(A, x, rho, extra, net.which, *rest, px, c, sums)
        k.vae.finish(px, extra, rho, S, self.n_importance, sums, self.drho, self.totals)
        dZ, dhead, dflow = self.dZ[:M], self.dhead[:B], self.dflow[:B]
        self._back("decoder", "output", Z, net.decoder, self.decoder, A, dZ)
        if not squared:
            flow, rule = dflow if self.a.shared else net.no_flow, (self.which_kl, self.path, counter, self.warm)
            k.vae.sample_back(head, eps, net.flow, hs, Z, dZ, c, whole, *rule, dhead, flow)
            if self.a.shared:
                k.linear.back(net.no_flow, dflow, self.parameters.gradients["flow"].reshape(self.a.shared))
        self._back("encoder", "head", x, net.encoder, self.encoder, dhead, None)

    def values(self):
        """Means over the epoch, as the parameters were at each step, the bound with all of its KL."""
        totals = self.k.get(self.totals) / self.n
        self.k.adam.assign(self.totals, np.zeros(3))
        return self._named(totals)

    def _named(self, totals):
        bound, px, extra = (float(t) for t in totals)
        if self.a.likelihood == "squared":
            return {"lower_bound": bound * self.unit}
        return {"lower_bound": bound + self.constant, "reconstruction": px + self.constant, "kl": -extra}

    def validate(self, batches=None):
        """The same of the rows held out, or of other batches, with noise of its own that is the same in each epoch."""
        k, net, S, totals, n = self.k, self.net, self.S, np.zeros(3), 0
        for i, batch in enumerate(self.held() if batches is None else batches):
            M = len(batch) * S
            x = self._load(batch, HELD_PIXELS, i)
            if self.a.likelihood != "squared":
                k.random.normal(self.seed, HELD_NOISE, i, self.eps[:M])
            Z, extra, _ = net.sample(net.encode(x), self.eps[:M], S, self.kl)
            px = k.get(net.log_px(net.decode(Z), x, extra)).astype(float).reshape(-1, self.n_importance)
            more = k.get(extra).astype(float).reshape(-1, self.n_importance)
            totals += log_mean(px + more).sum() * self.n_importance / S, px.sum() / S, more.sum() / S
            n += len(batch)
        return self._named(totals / n)


def log_mean(log_w):
    """log 1/k sum_i e^log_w of the last axis (.., k)."""
    top = log_w.max(axis=-1)
    with np.errstate(all="ignore"):  # of -inf and NaN
        return top + np.log(np.exp(log_w - np.where(np.isfinite(top), top, 0)[..., None]).mean(axis=-1))


def log_variance(k, r):
    """The log-variances that r stands for, in NumPy."""
    return k.vae.LARGEST * np.tanh(r / k.vae.LARGEST)


def linear_bound(k, a: Architecture, theta, x, head):
    """E_q[log p(x|z)] and KL of each row, exactly, for a linear Gaussian decoder: two arrays (B,).

    E log N(x | Wz + b, e^t) = -[log 2 pi + t + ((x - W mu - b)² + sum_i S_i W_i²) e^-t]/2, summed over columns.
    x (B,D) standardised, head (B,2d), theta {name: array}: float64. W (d,D)"""
    d = a.n_components
    mu, s = head[:, :d], log_variance(k, head[:, d : 2 * d])
    W, t = theta["output"], log_variance(k, theta["rho"])
    error = (x - mu @ W - theta["output_bias"]) ** 2 + np.exp(s) @ W**2
    px = -0.5 * (math.log(2 * math.pi) + t + error * np.exp(-t)).sum(axis=1)
    return px, 0.5 * (mu**2 + np.exp(s) - 1 - s).sum(axis=1)
