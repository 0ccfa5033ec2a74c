"""Normalising flows: what is maximised to train them, over a kernel set.

x and z are tied one to one, z ~ N(0, I), by layers whose log|det| add up (shared/flow.py). Where they go from x to z,
z = f(x), that is the normalising direction; where x = g(z), the generative one. Two ways to train, and what each needs:

                 maximises, a mean over                   needs of the flow        and of the data
    forward KL   log p(z) + log|det J_f|,  z = f(x),      f, log|det J_f|,         samples of pi
                 x of the data                            log p(z)
    reverse KL   log pi(x) + log|det J_g| - log p(z),     g, log|det J_g|,         pi and its gradient,
                 x = g(z), z of N(0, I)                   samples of p(z)          up to a constant

The first is the log-likelihood, -KL(pi || q) - H(pi), Papamakarios et al. 2021, section 2.3.1; the second a lower bound
on log Z, Z the integral of pi, log Z - KL(q || pi/Z), ibid. section 2.3.2. In both, a sample goes through all layers to
an end with a log-density, and its slopes come back: one kernel. The layers may stand for f or for g in both, since each
can be inverted: `inverse` is 1 where samples go through their inverses.

The first value can be had in either space: log q(x) by f at x, or as log p(z) - log|det J_g| by g at z = f(x).
Letters: B rows of a batch, D features, K layers.
"""

import numpy as np


class _Climb:
    """What both share: parameters u, w (K,D), b (K,), and mean values of an epoch of n samples.

    kinds (K,) int64; inverse 0 or 1; batch_size: the largest batch."""

    def __init__(self, k, kinds, inverse, parameters, batch_size, n):
        K, D = parameters.shapes["u"]
        T = parameters.dtype
        self.k, self.inverse, self.parameters, self.n, self.D = k, inverse, parameters, n, D
        self.batch_size = batch_size
        self.kinds, self.table = k.put(kinds), k.empty((K, 2 * D + 3), T)
        self.sums = k.empty((k.flow.parts(batch_size, D, K), K + 1, 2 * D + 2), T)
        self.totals, self.none = k.put(np.zeros(3, T)), k.put(np.empty((0, D), T))

    def _prepare(self):
        p = self.parameters.views
        self.k.flow.prepare(self.kinds, p["u"], p["w"], p["b"], self.table)

    def _sums(self, backward, X, rows, shift, factor, which, given, counter, annealing):
        B = len(rows) if len(rows) else len(X)
        sums = self.sums[: self.k.flow.parts(B, self.D, len(self.kinds))]
        backward(self.kinds, self.table, self.inverse, X, rows, shift, factor, which, given, counter, annealing, sums)
        return sums, B

    def _finish(self, sums, B):
        """The gradient of minus the mean."""
        p, g = self.parameters.views, self.parameters.gradients
        self.k.flow.finish(self.kinds, p["u"], p["w"], p["b"], sums, -1 / B, g["u"], g["w"], g["b"], self.totals)

    def _means(self):
        """Means of log p at the end, of the log|det| and of |z|²/2 at the beginning, since the last call."""
        means = self.k.get(self.totals).astype(float) / self.n
        self.k.adam.assign(self.totals, np.zeros(3, self.parameters.dtype))
        return means.tolist()


class Likelihood(_Climb):
    """Forward KL: rows of X (N,D), as (x - shift) factor, shift, factor (D,); `held`, numbers of rows held out."""

    def __init__(self, k, kinds, inverse, parameters, batch_size, n, X, shift, factor, held):
        super().__init__(k, kinds, inverse, parameters, batch_size, n)
        self.X, self.shift, self.factor, self.held = X, k.put(shift), k.put(factor), held
        self.constant = float(np.log(np.abs(factor.astype(float))).sum())

    def _batch(self, rows, counter):
        return self._sums(
            self.k.flow.backward,
            self.X,
            rows,
            self.shift,
            self.factor,
            self.k.flow.NORMAL,
            self.none,
            counter,
            0,
        )

    def step(self, batch, counter):
        """The gradient of minus the mean log-likelihood."""
        self._prepare()
        self._finish(*self._batch(batch, counter))

    def values(self):
        """Means over the epoch, as the parameters were at each step."""
        log_p, l, _ = self._means()
        l += self.constant
        return {"lower_bound": log_p + l, "log_prior": log_p, "log_det": l}

    def validate(self):
        """The mean log-likelihood of the rows held out."""
        self._prepare()
        rows, total, size = self.k.put(self.held), 0.0, self.batch_size
        for a in range(0, len(rows), size):
            sums, _ = self._batch(rows[a : min(a + size, len(rows))], self.parameters.counter)
            total += float(self.k.get(sums)[:, -1, :2].astype(float).sum())
        return total / len(rows) + self.constant


class Bound(_Climb):
    """Reverse KL: `which` of the targets of the kernels, or else `target` for z (B,D) of NumPy, or jitted.

    beta log pi counts in the gradient, where beta rises from 0.01 to 1 over the first `annealing` steps."""

    def __init__(self, k, kinds, inverse, parameters, batch_size, n, which, target, seed, annealing):
        super().__init__(k, kinds, inverse, parameters, batch_size, n)
        T, D = parameters.dtype, self.D
        self.which, self.target, self.seed, self.annealing = which, target, seed, annealing
        self.eps, self.rows = k.empty((batch_size, D), T), k.put(np.empty(0, np.int64))
        self.shift, self.factor = k.put(np.zeros(D, T)), k.put(np.ones(D, T))
        self.backward = k.flow.backward if which is not None else k.flow.fused(target)
        self.log_pi = 0.0
        if self.backward is None:
            self.Z, self.l = k.empty((batch_size, D), T), k.empty(batch_size, T)

    def step(self, batch, counter):
        """The gradient of minus the mean of beta log pi + log|det|, for fresh noise."""
        k, given, backward = self.k, self.none, self.backward
        k.random.normal(self.seed, 0, counter, self.eps)
        self._prepare()
        if backward is None:
            k.flow.forward(
                self.kinds, self.table, self.inverse, self.eps, self.rows, self.shift, self.factor, self.Z, self.l
            )
            log_pi, g = at(self.target, k.get(self.Z))
            self.log_pi += float(log_pi.sum())
            given, backward = k.put(g), k.flow.backward
        which = k.flow.GIVEN if self.which is None else self.which
        self._finish(
            *self._sums(
                backward,
                self.eps,
                self.rows,
                self.shift,
                self.factor,
                which,
                given,
                counter,
                self.annealing,
            )
        )

    def values(self):
        """Means over the epoch, as the parameters were at each step; of the bound as it is with beta = 1."""
        log_p, l, half = self._means()
        log_p, self.log_pi = log_p + self.log_pi / self.n, 0.0
        prior = -half - 0.5 * self.D * np.log(2 * np.pi)  # of the same draws: where q is pi/Z no noise is left
        return {"lower_bound": log_p + l - prior, "log_target": log_p, "log_prior": prior, "log_det": l}


def at(target, z):
    """log pi (M,) and gradient (M,D) of a target, which a user wrote, at z (M,D), in z's dtype.

    ValueError for another shape."""
    got = target(z)
    if not isinstance(got, tuple) or len(got) != 2:
        raise ValueError(
            "A target must give a tuple (log_pi, gradient) for z (M,D), got "
            f"{type(got).__name__}. Return log_pi of the shape (M,) and its gradient of the shape (M,D)."
        )
    log_pi, g = (np.asarray(a, z.dtype, order="C") for a in got)
    if log_pi.shape != z.shape[:1] or g.shape != z.shape:
        raise ValueError(
            f"A target must give log_pi of the shape {z.shape[:1]} and its gradient of the shape {z.shape} for z of "
            f"the shape {z.shape}, got {log_pi.shape} and {g.shape}."
        )
    return log_pi, g
