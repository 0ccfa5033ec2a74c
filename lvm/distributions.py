"""Distributions made from base noise: samples, log-densities, and their gradients by hand in sample and parameters.

    Normal, MultivariateNormal        z = mean + scale eps, z = mean + L eps, eps standard normal
    Uniform, Exponential, Laplace, Logistic, Gumbel, Weibull, Cauchy
                                      z = F^-1(u), u uniform: the inverse distribution function
    NormalMixture                     a component is picked by u, then as Normal

All are over D columns, and of all but MultivariateNormal (and a mixture as a whole) the columns are independent. `q.
parameters` are the coordinates in which gradients are taken: unconstrained, logarithms of what is positive.
kernels/shared/distributions.py and kernels/cpu/distributions.py have the formulas.

>>> import numpy as np
>>> q = Normal([0.0, 1.0], [1.0, 2.0])
>>> q.log_prob(np.zeros((1, 2))).round(4)
array([-2.656])
>>> in_z, in_parameters = q.log_prob_gradients(np.zeros((1, 2)))
>>> in_z, in_parameters["log_scale"]
(array([[-0.  ,  0.25]]), array([[-1.  , -0.75]]))
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.linalg
import scipy.special

from . import kernels
from .estimator import NumericalError, check_choice, check_int, check_random_state

BLOCK = 1 << 16  # samples that a user's function gets at a time
__all__ = [
    "Cauchy",
    "Distribution",
    "Expectation",
    "Exponential",
    "Gumbel",
    "Laplace",
    "Logistic",
    "MultivariateNormal",
    "Normal",
    "NormalMixture",
    "Uniform",
    "Weibull",
    "estimation_error_bound",
    "expectation",
]
TINY = np.finfo(float).tiny  # of smaller numbers the reciprocal may be infinite
BY_NORMAL = ("normal", "full")  # kinds whose base noise is standard normal; of others it is uniform


class Distribution:
    """What all distributions here have in common. All answers are float64.

    Attributes
    ----------
    n_features : int
        D.
    parameters : dict of arrays
        The unconstrained coordinates, in their order: copies.
    mean, variance : arrays (D,)
        NaN where there is none.
    covariance : array (D,D)
    support_moves : bool
        Where the density is above 0 depends on the parameters: there the score function is wrong, not noisy.
    """

    support_moves: ClassVar[bool] = False
    n_features: int
    _kind: ClassVar[str]
    _table: np.ndarray
    _shapes: dict[str, tuple[int, ...]]

    def __repr__(self):
        words = ", ".join(f"{name}={np.array2string(self._words()[name], threshold=6)}" for name in self._words())
        return f"{type(self).__name__}({words})"

    def _words(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The unconstrained coordinates by name: copies."""
        raise NotImplementedError

    @classmethod
    def _tabled(cls, parameters: dict[str, np.ndarray]) -> np.ndarray:
        """The kernels' table of unconstrained coordinates."""
        raise NotImplementedError

    @classmethod
    def _of(cls, table: np.ndarray) -> "Distribution":
        raise NotImplementedError

    def replaced(self, parameters: dict[str, Any]) -> "Distribution":
        """The same family at other coordinates; those that are not named stay. ValueError for others or other shapes.

        >>> Normal(0.0, 2.0).replaced({"log_scale": [0.0]})
        Normal(mean=[0.], scale=[1.])
        """
        new = self.parameters
        for name, value in parameters.items():
            if name not in new:
                raise ValueError(f"{type(self).__name__} has the parameters {', '.join(new)}, got {name!r}.")
            a = np.array(value, float)
            if a.shape != new[name].shape or not np.isfinite(a).all():
                raise ValueError(f"{name} must be finite numbers of the shape {new[name].shape}, got {value!r}.")
            new[name] = a
        with np.errstate(over="ignore", under="ignore"):
            table = self._tabled(new)
        return self._of(table)

    # -- what the kernels do

    @property
    def _which(self) -> int:
        return kernels.load("cpu").distributions.KINDS.index(self._kind)

    def _split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """(..., P) by name."""
        parts, at = {}, 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            parts[name] = flat[..., at : at + size].reshape(*flat.shape[:-1], *shape)
            at += size
        return parts

    @property
    def _size(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes.values())

    @property
    def _n_noises(self) -> int:
        return self.n_features

    def _noise(self, n: int, seed: int) -> np.ndarray:
        """Base noise (n,R)."""
        noise, random = np.empty((n, self.n_features)), kernels.load("cpu").random
        (random.normal if self._kind in BY_NORMAL else random.uniform)(seed, 0, 0, noise)
        return noise

    def transform(self, noise) -> np.ndarray:
        """z (n,D) from base noise: standard normal (n,D) of Normal and MultivariateNormal; uniform in (0, 1) of what
        goes by the inverse distribution function; of NormalMixture (n,D+1), the first column uniform, others normal."""
        noise = self._rows("noise", noise, self._n_noises)
        uniform = noise[:, : {"normal": 0, "full": 0, "mixture": 1}.get(self._kind, self.n_features)]
        if not ((uniform > 0) & (uniform < 1)).all():
            bad = uniform[~((uniform > 0) & (uniform < 1))][0]
            raise ValueError(f"noise must be uniform, above 0 and below 1, for {type(self).__name__}, got {bad:g}.")
        Z = np.empty((len(noise), self.n_features))
        kernels.load("cpu").distributions.place(self._which, self._table, noise, Z)
        return Z

    def sample(self, n_samples=1, random_state=None) -> np.ndarray:
        """Draw z (n,D). The first rows are the same for any n."""
        n = check_int("n_samples", n_samples, 1, who="sample")
        return self.transform(self._noise(n, int(check_random_state(random_state).integers(2**63))))

    def log_prob(self, z) -> np.ndarray:
        """log q(z) of each row, in nats: (n,); -inf outside the support."""
        return self._slopes(z, np.empty((0, self.n_features)), False)[0]

    def __call__(self, z) -> tuple[np.ndarray, np.ndarray]:
        """log q(z) (n,) and its gradient in z (n,D): a prior, or a target, as functions of lvm take it."""
        log_q, gz, _, _ = self._slopes(z, np.empty((0, self.n_features)), True)
        return log_q, gz

    def log_prob_gradients(self, z) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The gradient of log q(z) in z (n,D), and at fixed z in the parameters, {name: (n, *shape)}. Outside the
        support, where the density is 0, they mean nothing."""
        _, gz, gp, _ = self._slopes(z, np.empty((0, self.n_features)), True)
        return gz, self._split(gp)

    def pull(self, z, g) -> dict[str, np.ndarray]:
        """Slopes g (n,D) in z, taken to the parameters at fixed noise: sum_d g_d dz_d/dparameter, {name: (n, *shape)}.

        Of NormalMixture by implicit reparameterisation (Graves 2016), for z where its density is above 0 in float64,
        within some 38 scales of a component."""
        g = self._rows("g", g, self.n_features)
        z = self._rows("z", z, self.n_features)
        if len(g) != len(z):
            raise ValueError(f"g must have the shape of z, {z.shape}, got {g.shape}.")
        return self._split(self._slopes(z, g, False)[3])

    def _slopes(self, z, G, gradients):
        z, D, P = self._rows("z", z, self.n_features), self.n_features, self._size
        n = 0 if len(G) else len(z)
        m = n if gradients else 0
        log_q, gz, gp = np.empty(n), np.empty((m, D)), np.empty((m, P))
        pulled = np.empty((len(G), P))
        kernels.load("cpu").distributions.slopes(self._which, self._table, z, G, log_q, gz, gp, pulled)
        return log_q, gz, gp, pulled

    def _rows(self, name, z, columns):
        z = np.ascontiguousarray(z, float)
        if z.ndim == 1 and columns == 1:
            z = z.reshape(-1, 1)
        if z.ndim != 2 or z.shape[1] != columns:
            raise ValueError(
                f"{name} must have the shape (n, {columns}) for this {type(self).__name__}, got {z.shape}."
            )
        bad = ~np.isfinite(z).all(axis=1)
        if bad.any():
            raise ValueError(f"{name} must be finite, got {z[bad][0]} in row {int(bad.argmax())}.")
        return z

    # -- in closed form

    def entropy(self) -> float:
        """E[-log q(z)], in nats. ValueError where there is no closed form."""
        raise ValueError(
            f"The entropy of {type(self).__name__} has no closed form. Try expectation(lambda z: -q.log_prob(z), q)."
        )

    def kl(self, other: "Distribution") -> float:
        """KL(q || other) = E_q[log q(z) - log other(z)], in nats: of two of one family, or of any two that are normal.
        ValueError where there is no closed form."""
        mine, theirs = type(self).__name__, type(other).__name__
        if not isinstance(other, Distribution):
            raise TypeError(f"kl wants another distribution of lvm.distributions, got {theirs}.")
        if other.n_features != self.n_features:
            raise ValueError(f"kl wants as many columns, {self.n_features}, got {other.n_features}.")
        found = self._kl(other)
        if found is None:
            raise ValueError(
                f"KL({mine} || {theirs}) has no closed form here. Try expectation(lambda z: q.log_prob(z) - "
                "other.log_prob(z), q)."
            )
        return float(found)

    def _kl(self, other) -> Any:
        return None

    @property
    def mean(self) -> np.ndarray:
        """E[z], (D,)."""
        raise NotImplementedError

    @property
    def variance(self) -> np.ndarray:
        """Of each column, (D,)."""
        return np.diag(self.covariance).copy()

    @property
    def covariance(self) -> np.ndarray:
        """(D,D)."""
        return np.diag(self.variance)


class _Product(Distribution):
    """Independent columns, each with a place, a scale, and perhaps a shape: a row (loc, scale, log scale, shape)."""

    _names: ClassVar[tuple[str, ...]] = ("loc", "log_scale")  # coordinates

    def _begin(self, **words):
        """Set up of numbers or arrays (D,), those but the first of two positive."""
        arrays = {name: np.atleast_1d(_numbers(name, value, type(self).__name__)) for name, value in words.items()}
        together: Any = ()
        with contextlib.suppress(ValueError):
            together = np.broadcast_arrays(*arrays.values())
        if not together or together[0].ndim != 1 or not len(together[0]):
            shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
            raise ValueError(f"{type(self).__name__} wants numbers, or arrays of one length (D,), got {shapes}.")
        found = dict(zip(arrays, together))
        for name in ("scale", "shape"):
            if name in found:
                _positive(name, found[name], type(self).__name__)
        self._set(*(np.array(found[name]) for name in words))

    def _set(self, *arrays):
        """From arrays (D,) as the constructor has them."""
        loc, scale = arrays if len(arrays) == 2 else (np.zeros(len(arrays[0])), arrays[0])
        self._finish(loc, scale, np.log(scale), np.ones(len(scale)))

    def _finish(self, loc, scale, log_scale, shape):
        table = np.column_stack([loc, scale, log_scale, shape])
        positive = [1, 3] if self._kind == "weibull" else [1]
        if not (np.isfinite(table).all() and (table[:, positive] >= TINY).all()):
            raise ValueError(f"{type(self).__name__}: a scale or shape is beyond what float64 has.")
        table.flags.writeable = False
        self._table, self.n_features = table, len(table)
        self._shapes = dict.fromkeys(self._names, (len(table),))

    @classmethod
    def _of(cls, table):
        self = cls.__new__(cls)
        self._finish(*table.T)
        return self

    @classmethod
    def _tabled(cls, parameters):
        first, *rest = (parameters[name] for name in cls._names)
        loc, log_scale = (first, rest[0]) if rest else (np.zeros(len(first)), first)
        return np.column_stack([loc, np.exp(log_scale), log_scale, np.ones(len(loc))])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The unconstrained coordinates by name, each (D,): copies."""
        loc, _, log_scale, _ = self._table.T.copy()
        return dict(zip(self._names, (loc, log_scale) if len(self._names) == 2 else (log_scale,)))

    def _words(self):
        return {"loc": self.loc, "scale": self.scale}

    @property
    def loc(self) -> np.ndarray:
        """(D,)"""
        return self._table[:, 0].copy()

    @property
    def scale(self) -> np.ndarray:
        """(D,)"""
        return self._table[:, 1].copy()

    def entropy(self) -> float:
        """E[-log q(z)], in nats."""
        return float(self._table[:, 2].sum() + self.n_features * self._standard_entropy)

    _standard_entropy: ClassVar[float]

    def _kl(self, other):
        if type(other) is not type(self):
            return None
        with np.errstate(over="ignore"):
            return self._kl_columns(other._table[:, 2] - self._table[:, 2], other).sum()

    def _kl_columns(self, log_ratio, other) -> Any:
        """Of each column; log_ratio is that of the scales, other's by own."""
        raise NotImplementedError


class Normal(_Product):
    """N(mean, diag scale²): z = mean + scale eps. Coordinates mean, log_scale (D,).

    >>> float(round(Normal(0.0, 1.0).kl(Normal(1.0, 1.0)), 3))
    0.5
    """

    _kind = "normal"
    _names = ("mean", "log_scale")
    _standard_entropy = 0.5 * math.log(2 * math.pi * math.e)

    def __init__(self, mean, scale) -> None:
        self._begin(mean=mean, scale=scale)

    def _words(self):
        return {"mean": self.loc, "scale": self.scale}

    @property
    def mean(self) -> np.ndarray:
        """E[z], (D,)."""
        return self.loc

    @property
    def variance(self) -> np.ndarray:
        """scale²"""
        return self.scale**2

    def _kl(self, other):
        return _kl_normal(self, other)


class MultivariateNormal(Distribution):
    """N(mean, L L'): z = mean + L eps, L = factor (D,D), lower triangular, its diagonal positive.

    Coordinates mean (D,) and factor (D(D+1)/2,): L's rows up to the diagonal, one after the other, the logarithm on it.

    >>> q = MultivariateNormal.from_covariance([0.0, 0.0], [[4.0, 2.0], [2.0, 2.0]])
    >>> q.factor
    array([[2., 0.],
           [1., 1.]])
    """

    _kind = "full"

    def __init__(self, mean, factor) -> None:
        who = type(self).__name__
        m, L = np.atleast_1d(_numbers("mean", mean, who)), _numbers("factor", factor, who)
        if m.ndim != 1 or not len(m) or L.shape != (len(m), len(m)):
            raise ValueError(f"{who} wants a mean (D,) and a matrix (D,D), got the shapes {m.shape} and {L.shape}.")
        if np.triu(L, 1).any():
            raise ValueError(
                f"The factor of {who} must be lower triangular, got numbers above its diagonal. Try "
                "MultivariateNormal.from_covariance(mean, covariance)."
            )
        _positive("the factor's diagonal", np.diag(L), type(self).__name__)
        self._finish(np.vstack([m, L]))

    @classmethod
    def from_covariance(cls, mean, covariance) -> "MultivariateNormal":
        """With the Cholesky factor of a covariance (D,D). ValueError where it is not symmetric positive definite."""
        S = _numbers("covariance", covariance, "MultivariateNormal")
        if S.ndim != 2 or S.shape[0] != S.shape[1]:
            raise ValueError(f"covariance must be a symmetric matrix (D,D), got the shape {S.shape}.")
        apart = np.abs(S - S.T)
        if (apart > 1e-8 * np.sqrt(np.abs(np.outer(np.diag(S), np.diag(S))))).any():
            i, j = np.unravel_index(apart.argmax(), S.shape)
            raise ValueError(
                f"covariance must be a symmetric matrix (D,D), got {S[i, j]} at [{i}, {j}] and {S[j, i]} at [{j}, {i}]."
                " Try (S + S.T) / 2."
            )
        try:
            return cls(mean, scipy.linalg.cholesky(S, lower=True))
        except np.linalg.LinAlgError:
            raise ValueError(
                "covariance is not positive definite. Try a larger diagonal, or Normal(mean, scale)."
            ) from None

    def _finish(self, table):
        table = np.ascontiguousarray(table)
        if not (np.isfinite(table).all() and (np.diag(table[1:]) >= TINY).all()):
            raise ValueError("MultivariateNormal: a factor's diagonal is beyond what float64 has.")
        table.flags.writeable = False
        D = table.shape[1]
        self._table, self.n_features = table, D
        self._shapes = {"mean": (D,), "factor": (D * (D + 1) // 2,)}

    @classmethod
    def _of(cls, table):
        self = cls.__new__(cls)
        self._finish(table)
        return self

    @classmethod
    def _tabled(cls, parameters):
        m = parameters["mean"]
        L = np.zeros((len(m), len(m)))
        L[np.tril_indices(len(m))] = parameters["factor"]
        np.fill_diagonal(L, np.exp(np.diag(L)))
        return np.vstack([m, L])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """mean (D,), factor (D(D+1)/2,): copies."""
        L = self.factor
        np.fill_diagonal(L, np.log(np.diag(L)))
        return {"mean": self.mean, "factor": L[np.tril_indices(len(L))]}

    def _words(self):
        return {"mean": self.mean, "factor": self.factor}

    @property
    def factor(self) -> np.ndarray:
        """L (D,D)."""
        return self._table[1:].copy()

    @property
    def mean(self) -> np.ndarray:
        """E[z], (D,)."""
        return self._table[0].copy()

    @property
    def covariance(self) -> np.ndarray:
        """L L'"""
        return self._table[1:] @ self._table[1:].T

    def entropy(self) -> float:
        """sum log L_ii + D/2 log(2 pi e), in nats."""
        return float(np.log(np.diag(self._table[1:])).sum() + self.n_features * Normal._standard_entropy)

    def _kl(self, other):
        return _kl_normal(self, other)


class NormalMixture(Distribution):
    """sum_k weights_k N(means_k, diag scales_k²): weights (K,), means and scales (K,D).

    Coordinates logits (K,), of which the weights are the softmax, means and log_scales (K,D). How a sample moves with
    them follows from its distribution functions, one column given those before it (implicit reparameterisation, Graves
    2016): for components with full covariances they have no such form, so that these are not here."""

    _kind = "mixture"

    def __init__(self, weights, means, scales) -> None:
        who = type(self).__name__
        w, m, s = (_numbers(n, x, who) for n, x in (("weights", weights), ("means", means), ("scales", scales)))
        m, shapes = m.reshape(-1, 1) if m.ndim == 1 else m, (w.shape, m.shape, s.shape)
        s = s.reshape(-1, 1) if s.ndim == 1 else s
        with contextlib.suppress(ValueError):
            s = np.broadcast_to(s, m.shape)
        if w.ndim != 1 or m.ndim != 2 or not m.size or m.shape[0] != len(w) or s.shape != m.shape:
            raise ValueError(
                f"{who} wants weights (K,), means (K,D) and scales (K,D), got {shapes[0]}, {shapes[1]} and {shapes[2]}."
            )
        _positive("weights", w, who)
        _positive("scales", s, who)
        if abs(w.sum() - 1) > 1e-8:
            raise ValueError(f"weights must sum to 1, got {w.sum():.9g}. Try weights / weights.sum().")
        self._finish(np.log(w / w.sum()), m, np.log(s), s)

    def _finish(self, log_w, m, log_s, s):
        table = np.ascontiguousarray(np.column_stack([log_w, log_s.sum(axis=1), m, s]))
        if not (np.isfinite(table).all() and (s >= TINY).all()):
            raise ValueError("NormalMixture: a weight or scale is beyond what float64 has.")
        table.flags.writeable = False
        (K, D) = m.shape
        self._table, self.n_features = table, D
        self._shapes = {"logits": (K,), "means": (K, D), "log_scales": (K, D)}

    @classmethod
    def _of(cls, table):
        self = cls.__new__(cls)
        D = (table.shape[1] - 2) // 2
        self._finish(table[:, 0], table[:, 2 : 2 + D], np.log(table[:, 2 + D :]), table[:, 2 + D :])
        return self

    @classmethod
    def _tabled(cls, parameters):
        logits, log_s = parameters["logits"], parameters["log_scales"]
        log_w = logits - scipy.special.logsumexp(logits)
        return np.column_stack([log_w, log_s.sum(axis=1), parameters["means"], np.exp(log_s)])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """logits (K,), means (K,D), log_scales (K,D): copies. The logits are log weights."""
        return {"logits": self._table[:, 0].copy(), "means": self.means, "log_scales": np.log(self.scales)}

    def _words(self):
        return {"weights": self.weights, "means": self.means, "scales": self.scales}

    @property
    def _n_noises(self):
        return self.n_features + 1

    def _noise(self, n, seed):
        u, eps, random = np.empty(n), np.empty((n, self.n_features)), kernels.load("cpu").random
        random.uniform(seed, 0, 0, u)
        random.normal(seed, 1, 0, eps)
        return np.column_stack([u, eps])

    @property
    def weights(self) -> np.ndarray:
        """(K,)"""
        return np.exp(self._table[:, 0])

    @property
    def means(self) -> np.ndarray:
        """(K,D)"""
        return self._table[:, 2 : 2 + self.n_features].copy()

    @property
    def scales(self) -> np.ndarray:
        """(K,D)"""
        return self._table[:, 2 + self.n_features :].copy()

    @property
    def mean(self) -> np.ndarray:
        """E[z], (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """(D,D): within the components, and between them."""
        away = self.means - self.mean
        return np.diag(self.weights @ self.scales**2) + (away * self.weights[:, None]).T @ away


class Uniform(_Product):
    """Uniform from low to high: z = low + (high - low) u. Coordinates low, log_width (D,).

    >>> import math
    >>> Uniform(1.0, 3.0).entropy() == math.log(3.0 - 1.0)
    True
    """

    _kind = "uniform"
    _names = ("low", "log_width")
    _standard_entropy = 0.0
    support_moves = True

    def __init__(self, low, high) -> None:
        self._begin(low=low, high=high)

    def _set(self, low, high):
        if not (high > low).all():
            raise ValueError(
                f"Uniform wants high above low, got low={low[~(high > low)][0]}, high={high[~(high > low)][0]}."
            )
        with np.errstate(over="ignore"):
            width = high - low
        if not np.isfinite(width).all():
            raise ValueError("Uniform: high - low is beyond what float64 has.")
        self._finish(low, width, np.log(width), high)

    @classmethod
    def _tabled(cls, parameters):
        low, log_width = parameters["low"], parameters["log_width"]
        width = np.exp(log_width)
        return np.column_stack([low, width, log_width, low + width])

    def _words(self):
        return {"low": self.low, "high": self.high}

    @property
    def low(self) -> np.ndarray:
        """(D,)"""
        return self.loc

    @property
    def high(self) -> np.ndarray:
        """(D,)"""
        return self._table[:, 3].copy()

    @property
    def mean(self) -> np.ndarray:
        """E[z], (D,)."""
        return self._table[:, 0] + 0.5 * self._table[:, 1]

    @property
    def variance(self) -> np.ndarray:
        """(high - low)²/12"""
        return self.scale**2 / 12

    def _kl_columns(self, log_ratio, other):
        inside = (other.low <= self.low) & (self.high <= other.high)
        return np.where(inside, log_ratio, np.inf)


class Exponential(_Product):
    """Exponential with mean `scale`: z = -scale log(1 - u). Coordinate log_scale (D,)."""

    _kind = "exponential"
    _names = ("log_scale",)
    _standard_entropy = 1.0

    def __init__(self, scale) -> None:
        self._begin(scale=scale)

    def _words(self):
        return {"scale": self.scale}

    @property
    def mean(self) -> np.ndarray:
        """scale"""
        return self.scale

    @property
    def variance(self) -> np.ndarray:
        """scale²"""
        return self.scale**2

    def _kl_columns(self, log_ratio, other):
        return log_ratio + np.expm1(-log_ratio)


class Laplace(_Product):
    """Laplace, e^(-|z - loc|/scale)/(2 scale). Coordinates loc, log_scale (D,)."""

    _kind = "laplace"
    _standard_entropy = 1 + math.log(2)

    def __init__(self, loc, scale) -> None:
        self._begin(loc=loc, scale=scale)

    @property
    def mean(self) -> np.ndarray:
        """loc"""
        return self.loc

    @property
    def variance(self) -> np.ndarray:
        """2 scale²"""
        return 2 * self.scale**2

    def _kl_columns(self, log_ratio, other):
        away = np.abs(self.loc - other.loc)
        return log_ratio + (self.scale * np.exp(-away / self.scale) + away) / other.scale - 1


class Logistic(_Product):
    """Logistic, with the distribution function sigmoid((z - loc)/scale). Coordinates loc, log_scale (D,)."""

    _kind = "logistic"
    _standard_entropy = 2.0

    def __init__(self, loc, scale) -> None:
        self._begin(loc=loc, scale=scale)

    @property
    def mean(self) -> np.ndarray:
        """loc"""
        return self.loc

    @property
    def variance(self) -> np.ndarray:
        """(pi scale)²/3"""
        return (math.pi * self.scale) ** 2 / 3

    def _kl(self, other):
        return None


class Gumbel(_Product):
    """Gumbel (of largest values), with the distribution function exp(-e^-t), t = (z - loc)/scale. Coordinates loc,
    log_scale (D,)."""

    _kind = "gumbel"
    _standard_entropy = 1 + np.euler_gamma

    def __init__(self, loc, scale) -> None:
        self._begin(loc=loc, scale=scale)

    @property
    def mean(self) -> np.ndarray:
        """loc + 0.5772 scale"""
        return self._table[:, 0] + np.euler_gamma * self._table[:, 1]

    @property
    def variance(self) -> np.ndarray:
        """(pi scale)²/6"""
        return (math.pi * self.scale) ** 2 / 6

    def _kl_columns(self, log_ratio, other):
        # -log q has the mean log scale + 1 + euler_gamma; E e^-t' = e^-(loc - loc')/scale' Gamma(1 + scale/scale')
        away, ratio = (self.mean - other.loc) / other.scale, self.scale / other.scale
        power = np.exp((other.loc - self.loc) / other.scale + scipy.special.gammaln(1 + ratio))
        return log_ratio - 1 - np.euler_gamma + away + power


class Weibull(_Product):
    """Weibull, with the distribution function 1 - exp(-(z/scale)^shape). Coordinates log_scale, log_shape (D,)."""

    _kind = "weibull"
    _names = ("log_scale", "log_shape")

    def __init__(self, scale, shape) -> None:
        self._begin(scale=scale, shape=shape)

    def _set(self, scale, shape):
        self._finish(np.zeros(len(scale)), scale, np.log(scale), shape)

    @classmethod
    def _tabled(cls, parameters):
        log_scale, log_shape = parameters["log_scale"], parameters["log_shape"]
        return np.column_stack([np.zeros(len(log_scale)), np.exp(log_scale), log_scale, np.exp(log_shape)])

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The unconstrained coordinates by name, each (D,): copies."""
        return {"log_scale": self._table[:, 2].copy(), "log_shape": np.log(self._table[:, 3])}

    def _words(self):
        return {"scale": self.scale, "shape": self.shape}

    @property
    def shape(self) -> np.ndarray:
        """(D,)"""
        return self._table[:, 3].copy()

    @property
    def mean(self) -> np.ndarray:
        """scale Gamma(1 + 1/shape)"""
        return self.scale * scipy.special.gamma(1 + 1 / self.shape)

    @property
    def variance(self) -> np.ndarray:
        """scale² (Gamma(1 + 2/shape) - Gamma(1 + 1/shape)²)"""
        one, two = (scipy.special.gammaln(1 + n / self.shape) for n in (1, 2))
        return self.scale**2 * np.exp(2 * one) * np.expm1(two - 2 * one)

    def entropy(self) -> float:
        """euler_gamma (1 - 1/shape) + log(scale/shape) + 1, in nats."""
        k = self.shape
        return float((np.euler_gamma * (1 - 1 / k) + self._table[:, 2] - np.log(k) + 1).sum())

    def _kl_columns(self, log_ratio, other):
        k, K = self.shape, other.shape
        power = np.exp(-K * log_ratio + scipy.special.gammaln(1 + K / k))
        return np.log(k / K) + K * log_ratio - (k - K) * np.euler_gamma / k + power - 1


class Cauchy(_Product):
    """Cauchy, 1/(pi scale (1 + t²)), t = (z - loc)/scale; it has no mean. Coordinates loc, log_scale (D,)."""

    _kind = "cauchy"
    _standard_entropy = math.log(4 * math.pi)

    def __init__(self, loc, scale) -> None:
        self._begin(loc=loc, scale=scale)

    @property
    def mean(self) -> np.ndarray:
        """NaN: there is none."""
        return np.full(self.n_features, np.nan)

    @property
    def variance(self) -> np.ndarray:
        """NaN: there is none."""
        return np.full(self.n_features, np.nan)

    def _kl_columns(self, log_ratio, other):
        # Chyzak & Nielsen 2019, eq. 1: log of ((s + s')² + (m - m')²)/(4 s s')
        s, S = self.scale, other.scale
        away = self.loc - other.loc
        return np.log1p(0.25 * (np.expm1(-log_ratio) * -np.expm1(log_ratio) + (away / s) * (away / S)))


def _kl_normal(q, p):
    """Of any two that are normal: (|L'^-1 L|² + |L'^-1 (mu - mu')|² - D)/2 + sum log L'_ii/L_ii. None for others."""
    if not isinstance(p, (Normal, MultivariateNormal)):
        return None
    if isinstance(q, Normal) and isinstance(p, Normal):
        log_ratio = p._table[:, 2] - q._table[:, 2]
        with np.errstate(over="ignore"):
            away = (q.loc - p.loc) / p.scale
            return (log_ratio + 0.5 * (np.expm1(-2 * log_ratio) + away**2)).sum()
    L, P = (x.factor if isinstance(x, MultivariateNormal) else np.diag(x.scale) for x in (q, p))
    A, away = (scipy.linalg.solve_triangular(P, x, lower=True) for x in (L, q.mean - p.mean))
    logs = np.log(np.diag(P)) - np.log(np.diag(L))
    return 0.5 * ((A**2).sum() + (away**2).sum() - len(L)) + logs.sum()


def _numbers(name, value, who):
    """`value` as a float array. ValueError unless all numbers are finite."""
    try:
        a = np.array(value, float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers, got {value!r}.") from None
    if not np.isfinite(a).all():
        raise ValueError(f"{name} of {who} must be finite, got {a[~np.isfinite(a)][0]}.")
    return a


def _positive(name, a, who):
    if not (a > 0).all():
        raise ValueError(f"{name} of {who} must be above 0, got {a[~(a > 0)].flat[0]:g}.")


# -------------------------------------------------------------------------------------------------------- expectations
class Expectation(NamedTuple):
    """E_q[f(z)]. value: of the shape that f has for a row; error: the standard error of Monte Carlo, NaN of "taylor",
    which knows none; variance: of f(z)."""

    value: Any
    error: Any
    variance: Any

    def __str__(self):
        return f"{self.value} ± {self.error}, variance {self.variance}"


def expectation(
    f: Callable, q: Distribution, method: str = "monte_carlo", n_samples: int = 100_000, *, random_state: Any = None
) -> Expectation:
    """E_q[f(z)] for f(z (n,D)) -> (n,) or (n,...), by samples or by the delta method.

    "monte_carlo": the mean over n_samples draws, in blocks, so that no more than 65536 of them are there at a time.
    "taylor": about the mean m of q, with its covariance S = A A' and the Hessian H of f,
        E f = f(m) + tr(H S)/2,   Var f = |A' grad f|²,
    exact for the mean of a quadratic f (Var is 0 where grad f is); the derivatives along the columns a of A by
    differences between f(m + h a), at h = 1/50 and 1/100, of which the error in h² cancels (Richardson): f has to
    be smooth there.
    ValueError for f that gives another number of rows, or a value that is not finite, and for "taylor" where q has no
    mean or variance.

    >>> q = Normal([1.0, 2.0], [0.1, 0.2])
    >>> float(round(expectation(lambda z: (z**2).sum(axis=1), q, method="taylor").value, 6))
    5.05
    """
    check_choice("method", method, ("monte_carlo", "taylor"), who="expectation")
    if not isinstance(q, Distribution):
        raise TypeError(f"q must be a distribution of lvm.distributions, got {type(q).__name__}.")
    if method == "taylor":
        return _taylor(f, q)
    n = check_int("n_samples", n_samples, 2, who="expectation")
    rng = check_random_state(random_state)
    count, mean, square = 0, 0.0, 0.0
    for a in range(0, n, BLOCK):
        y = _values(f, q.sample(min(BLOCK, n - a), rng))
        here = y.mean(axis=0)
        away = here - mean  # the mean of all from that of the parts: Chan et al. 1983
        square = square + ((y - here) ** 2).sum(axis=0) + away * away * (count * len(y) / (count + len(y)))
        mean = mean + away * (len(y) / (count + len(y)))
        count += len(y)
    variance = square / (n - 1)
    return Expectation(mean, np.sqrt(variance / n), variance)


def _taylor(f, q):
    m, S = q.mean, q.covariance
    if not (np.isfinite(m).all() and np.isfinite(S).all()):
        raise ValueError(f"{type(q).__name__} has no mean or variance to expand about. Try method='monte_carlo'.")
    if isinstance(q, MultivariateNormal):
        A = q.factor
    else:
        A = np.diag(np.sqrt(q.variance)) if isinstance(q, _Product) else np.linalg.cholesky(S)
    D, h = len(m), 1 / 50
    moves = [h * A.T, -h * A.T, 0.5 * h * A.T, -0.5 * h * A.T]
    y = _values(f, np.concatenate([m[None], *(m + move for move in moves)]))
    centre, (up, down, up2, down2) = y[0], y[1:].reshape(4, D, *y.shape[1:])
    second = (4 * (up2 - 2 * centre + down2) / (0.5 * h) ** 2 - (up - 2 * centre + down) / h**2) / 3
    slope = (4 * (up2 - down2) / h - (up - down) / (2 * h)) / 3
    return Expectation(centre + 0.5 * second.sum(axis=0), np.full(np.shape(centre), np.nan), (slope**2).sum(axis=0))


def _values(f, z):
    y = np.asarray(f(z), float)
    if y.ndim == 0 or len(y) != len(z):
        raise ValueError(f"f must give a value for each row of z {z.shape}, got the shape {y.shape}.")
    if not np.isfinite(y).all():
        row = int((~np.isfinite(y)).reshape(len(y), -1).any(axis=1).argmax())
        raise NumericalError(f"f gave {y[row]} at z = {z[row]}: it must be finite where q is above 0.")
    return y


def estimation_error_bound(entropy: float) -> float:
    """exp(2h)/(2 pi e), below which no estimate of a scalar x brings its mean square error; h its entropy, in nats.

    With h(x|y), averaged over y, it holds for estimates made when y was seen. Equality for a normal x. Cover & Thomas
    2006, theorem 8.6.6.

    >>> round(estimation_error_bound(Normal(0.0, 3.0).entropy()), 9)
    9.0
    """
    return math.exp(2 * entropy) / (2 * math.pi * math.e)
