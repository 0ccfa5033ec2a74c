"""E_q[log p(z) - log q(z)] and its gradient in q's parameters: means over samples, a block of them at a time.

A block's noise is a function of (seed, block, step), and blocks are added up in their order: the results have the same
bits for any number of threads. kernels/cpu/gradients.py has the estimators and where they come from.

Letters: n samples of a block, D columns, P parameters of q, E estimators.
"""

from typing import Any, NamedTuple

import numpy as np

SAMPLES, NUMBERS = 4096, 1 << 18  # of a block: samples, and numbers (n,P)
WAVE = 64  # blocks whose sums are kept side by side
FIT = ("square_f", "square")  # what the best control variate is a quotient of


class Moments(NamedTuple):
    """Of n samples: the mean of f = log p - log q, the sum of squares about it; the same for the estimators (E,P)."""

    n: int
    value: float
    value_M2: float
    mean: np.ndarray
    M2: np.ndarray

    def merged(self, other: "Moments") -> "Moments":
        """Of both together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        share, both = other.n / n, self.n * (other.n / n)
        value, mean = other.value - self.value, other.mean - self.mean
        return Moments(
            n,
            self.value + share * value,
            self.value_M2 + other.value_M2 + both * value * value,
            self.mean + share * mean,
            self.M2 + other.M2 + both * mean * mean,
        )


class Sums:
    """The `estimators` of the kernels for one kind of q, with D columns and P parameters.

    log_p(z (n,D)) gives log p (n,) and its slopes (n,D), or (0,D) where no estimator needs them. threaded: may it be
    called from several threads at once?"""

    def __init__(self, k: Any, kind: str, D: int, P: int, estimators: Any, log_p: Any, T: Any, threaded: bool) -> None:
        self.k, self.D, self.P, self.log_p, self.T, self.threaded = k, D, P, log_p, np.dtype(T), threaded
        self.kind = k.distributions.KINDS.index(kind)
        self.which = k.put(np.array([k.gradients.ESTIMATORS.index(name) for name in estimators], np.int64))
        self.E, self.mixture, self.normal = len(estimators), kind == "mixture", kind in ("normal", "full")
        self.size = max(64, min(SAMPLES, NUMBERS // P // 64 * 64))

    def block(self, table: Any, c: Any, n: int, seed: int, stream: int, step: Any) -> Moments:
        """Of n samples with the noise of (seed, stream, step)."""
        k, T, D, random = self.k, self.T, self.D, self.k.random
        noise, X, Z = k.empty((D + self.mixture, n), T), k.empty((D, n), T), k.empty((n, D), T)
        if self.mixture:
            random.uniform(seed, stream, step, noise[0])
            random.normal(seed, stream + (1 << 31), step, noise[1:])
        else:
            (random.normal if self.normal else random.uniform)(seed, stream, step, noise)
        k.gradients.draw(self.kind, table, noise, X, Z)
        log_p, G = self.log_p(k.get(Z))
        value, mean, M2 = k.empty(2, float), k.empty((self.E, self.P), float), k.empty((self.E, self.P), float)
        k.gradients.moments(self.kind, table, X, k.put(log_p), k.put(G), self.which, c, value, mean, M2)
        value = k.get(value)
        return Moments(n, float(value[0]), float(value[1]), k.get(mean), k.get(M2))

    def all(self, table: np.ndarray, c: np.ndarray, n: int, seed: int, step: int = 0) -> Moments:
        """Of n samples, block by block; the last one takes what is left, so that it is never the shortest."""
        on_device, variates = self.k.put(table.astype(self.T)), self.k.put(c.astype(self.T))
        blocks, total = max(n // self.size, 1), None
        for wave in range(0, blocks, WAVE):
            found: list[Any] = [None] * min(WAVE, blocks - wave)

            def one(i, wave=wave, found=found):
                b = wave + i
                size = self.size if b < blocks - 1 else n - b * self.size
                found[i] = self.block(on_device, variates, size, seed, b, step)

            if self.threaded:
                self.k.gradients.each(one, len(found))
            else:
                for i in range(len(found)):
                    one(i)
            for moments in found:
                total = moments if total is None else total.merged(moments)
        assert total is not None
        return total


class Bound:
    """The bound for `fit.stochastic`: q's parameters, by their names, and perhaps the model's own, "theta".

    tabled: {name: array} -> the kernels' table. log_joint(z, theta) gives log p (n,), its slopes in z as for `Sums`,
    and in theta (n, *shape) or None. check: called with the Moments of each step. n_samples of a step, `steps` of an
    epoch."""

    def __init__(self, k, kind, D, P, tabled, log_joint, check, estimator, n_samples, steps, seed, parameters):
        fitted = FIT if estimator == "control_variate" else ()
        self.sums = Sums(k, kind, D, P, (estimator, *fitted), self._log_p, float, False)
        self.tabled, self.log_joint, self.check = tabled, log_joint, check
        self.n, self.steps, self.seed = n_samples, steps, seed
        self.parameters, self.fitted, self.c = parameters, bool(fitted), np.zeros(P)
        self.fit = np.zeros((2, P))
        self.slopes: list[np.ndarray] = []
        self._begin()

    def _begin(self):
        self.value, self.variance, self.path = 0.0, 0.0, np.zeros_like(self.parameters.theta)

    def _log_p(self, z):
        log_p, G, slope = self.log_joint(z, self.parameters.views.get("theta"))
        if slope is not None:
            self.slopes.append(slope.sum(axis=0))
        return log_p, G

    def step(self, batch, counter):
        """The gradient of minus the bound, at the parameters as they are."""
        p, self.slopes = self.parameters, []
        m = self.sums.all(self.tabled(p.views), self.c, self.n, self.seed, int(counter[0]) % 2**32)
        self.check(m)
        at = 0
        for name, g in p.gradients.items():
            if name == "theta":
                g[...] = -sum(self.slopes) / self.n
            else:
                g[...] = -m.mean[0, at : at + g.size].reshape(g.shape)
                at += g.size
        if self.fitted:  # for the next step, whose samples are others: this one's would make it biased
            self.fit = 0.9 * self.fit + m.mean[1:]
            self.c = np.divide(self.fit[0], self.fit[1], out=np.zeros_like(self.c), where=self.fit[1] > 0)
        self.value += m.value / self.steps
        self.variance += m.value_M2 / (self.n - 1) / self.n / self.steps**2
        self.path += p.theta / self.steps

    def values(self):
        """The epoch's mean bound, as the parameters were at each step, and its standard error."""
        found = {"lower_bound": self.value, "lower_bound_error": float(np.sqrt(self.variance))}
        self.mean_theta = self.path
        self._begin()
        return found
