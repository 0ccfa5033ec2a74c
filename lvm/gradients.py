"""Gradients of the bound E_q[log p(x,z) - log q(z)] in q's parameters: six estimators, their noise, and fits by them.

Of an objective that is an expectation under the distribution that is to be learned, the gradient can be had in several
ways that agree in the mean and differ, by orders of magnitude, in variance. `estimate` gives one of them with its
standard errors, `compare` all of them side by side, `fit_q` climbs, and `check_gradient` tells whether a gradient that
was written by hand is right. kernels/cpu/gradients.py has the formulas.

log p is a function of z (M,D) that gives (log_p (M,), gradient (M,D)), or log_p (M,) alone, which is enough for the
score function; by NumPy, or by numba.njit, which is called on several threads (with nogil=True, at the same time). It
may lack a constant.

>>> import numpy as np
>>> from lvm import distributions, gradients
>>> log_p = lambda z: (-0.5 * (z**2).sum(axis=1), -z)
>>> q = distributions.Normal([1.0, 0.0], [1.0, 2.0])
>>> found = gradients.estimate(log_p, q, n_samples=10_000, random_state=0)
>>> found.gradient["mean"].round(1) + 0.0  # of -KL, which is -mean
array([-1.,  0.])
"""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import kernels
from .distributions import Distribution
from .estimator import ConvergenceWarning, NumericalError, check_choice, check_int, check_random_state, check_real, warn
from .fit import Steps, stochastic
from .objectives.gradients import FIT, Bound, Sums
from .parameters import Parameters

__all__ = [
    "ESTIMATORS",
    "Comparison",
    "Fit",
    "Gradient",
    "GradientCheck",
    "check_gradient",
    "compare",
    "estimate",
    "fit_q",
]
ESTIMATORS = kernels.load("cpu").gradients.ESTIMATORS[:6]
SLOPES = ("reparameterisation", "path")  # which need the gradient of log p
STEPS = 100  # of an epoch of fit_q
NOT_FINITE = (
    "log p - log q, or a gradient, is not finite at a sample of {0!r}, or its square is not. Try a q of which samples "
    "and densities are neither 0 nor beyond what the dtype has."
)
ROUNDING = 1e-20  # of the largest variance: what is no more than rounding, squared
CALLABLE = "{0} must be callable, log_p, gradient = {0}(z), got {1}."


class Gradient(NamedTuple):
    """An estimate of E_q[log p - log q] and of its gradient, in nats.

    value, value_error : floats
        The bound, and its standard error.
    gradient, error, variance : dicts of arrays
        By q's parameters, in the shapes that they have: the mean over the samples, its standard error, and the variance
        of what one sample gives.
    estimator : str
    n_samples : int
    """

    value: float
    value_error: float
    gradient: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    variance: dict[str, np.ndarray]
    estimator: str
    n_samples: int

    @property
    def total_variance(self) -> float:
        """The variance of one sample, summed over all parameters: the mean square error of its gradient."""
        return float(sum(v.sum() for v in self.variance.values()))

    def __str__(self):
        lines = [
            f"{self.estimator}, {self.n_samples} samples",
            f"bound      {self.value:.6g} ± {self.value_error:.1g} nats",
            f"variance   {self.total_variance:.3g} a sample, of all parameters together",
        ]
        for name, g in self.gradient.items():
            for i, (x, e) in zip(np.ndindex(g.shape), zip(g.flat[:8], self.error[name].flat)):
                lines.append(f"{f'{name}{list(i)}':<12} {x:+.5g} ± {e:.1g}")
            if g.size > 8:
                lines.append(f"... {g.size - 8} more of {name}")
        return "\n".join(lines)


class Comparison(NamedTuple):
    """The estimators that could be used, by the same samples, and why others could not. `print` shows the table;
    lvm.plotting.plot_gradient_variance the variances."""

    gradients: dict[str, Gradient]
    refused: dict[str, str]

    def __str__(self):
        total = [g.total_variance for g in self.gradients.values()]
        best = min(v if v > ROUNDING * max(total) else 0.0 for v in total)
        rows = [("estimator", "variance a sample", "times the least", "largest std. error")]
        for (name, g), v in zip(self.gradients.items(), total):
            times = f"{v / best:.3g}" if best > 0 else "1" if v <= ROUNDING * max(total) else "inf"
            largest = max(float(e.max()) for e in g.error.values())
            rows.append((name, f"{v:.4g}", times, f"{largest:.2g}"))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(r, widths))) for r in rows
        ]
        g = next(iter(self.gradients.values()))
        lines.append(f"bound {g.value:.6g} ± {g.value_error:.1g} nats, {g.n_samples} samples")
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in self.refused.items())])


def estimate(
    log_p: Callable,
    q: Distribution,
    estimator: str = "reparameterisation",
    n_samples: int = 10_000,
    *,
    dtype: Any = np.float64,
    random_state: Any = None,
    device: str = "cpu",
) -> Gradient:
    """The bound E_q[log p(z) - log q(z)] and its gradient in q's parameters, by n_samples draws.

    "score": s (log p - log q), s the slopes of log q in the parameters at fixed z (log-derivative trick). It needs
        log p alone, and has the most noise.
    "score_minus_one": with the slope of -log q itself, whose mean is 0.
    "leave_one_out": less the mean of log p - log q over the other samples of a block, of 64 to 4096.
    "control_variate": less, for each parameter, the constant that leaves the least variance, fitted on other samples.
    "reparameterisation": slopes through z = z(noise, parameters). It needs the gradient of log p.
    "path": the same without the part whose mean is 0; where q is the posterior no noise is left.

    Standard errors hold where there is a variance: samples do not show that it is infinite, as for a Cauchy q and a
    log p that falls as -z². Slopes through z are biased where log p jumps.

    Memory is that of a block, for any n_samples. With an integer random_state every call takes the same draws.
    dtype: of the samples that log p gets, np.float64 or np.float32, which takes some two thirds of the time and rounds
    z by 1e-7 |z|: for scales that are not much smaller than |z|. device: where all but log p is computed.

    Raises ValueError where the estimator does not hold: the score function and the path derivative for a q whose
    support moves with its parameters, where they are wrong, not noisy; and where log p gives no gradient and one is
    needed. NumericalError, a ValueError, for log p or a gradient that is not finite: it names the first z.
    """
    check_choice("estimator", estimator, ESTIMATORS, who="estimate")
    _check_holds(q, estimator)
    return _estimates(log_p, q, (estimator,), n_samples, dtype, random_state, device, "estimate")[estimator]


def compare(
    log_p: Callable,
    q: Distribution,
    n_samples: int = 100_000,
    estimators: Sequence[str] = ESTIMATORS,
    *,
    dtype: Any = np.float64,
    random_state: Any = None,
    device: str = "cpu",
) -> Comparison:
    """All estimators that hold for this q and log p, by the same samples: see `estimate`.

    >>> from lvm import distributions
    >>> log_p = lambda z: (-0.5 * (z**2).sum(axis=1), -z)
    >>> found = compare(log_p, distributions.Normal([0.5] * 10, [1.0] * 10), 20_000, random_state=0)
    >>> found.gradients["score"].total_variance > 10 * found.gradients["reparameterisation"].total_variance
    True
    """
    estimators = (estimators,) if isinstance(estimators, str) else tuple(estimators)
    if not estimators:
        raise ValueError(f"estimators must be some of {ESTIMATORS}, got none.")
    for name in estimators:
        check_choice("estimators", name, ESTIMATORS, who="compare")
    _check_q(q)
    refused = {}
    for name in estimators:
        try:
            _check_holds(q, name)
        except ValueError as e:
            refused[name] = str(e)
    if not callable(log_p):
        raise TypeError(CALLABLE.format("log_p", type(log_p).__name__))
    if any(name in SLOPES for name in estimators) and _slopes_of(log_p(q.sample(2, 0).astype(dtype))) is None:
        refused |= {name: "log_p gives no gradient." for name in estimators if name in SLOPES}
    left = tuple(name for name in estimators if name not in refused)
    if not left:
        raise ValueError("None of the estimators holds here. " + " ".join(refused.values()))
    return Comparison(_estimates(log_p, q, left, n_samples, dtype, random_state, device, "compare"), refused)


def _estimates(log_p, q, estimators, n_samples, dtype, random_state, device, who):
    n = check_int("n_samples", n_samples, 2, who=who)
    if not callable(log_p):
        raise TypeError(CALLABLE.format("log_p", type(log_p).__name__))
    T = np.dtype(dtype)
    if T not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {T}.")
    rng, k = check_random_state(random_state), kernels.load(device)
    slopes, threaded = any(name in SLOPES for name in estimators), _threaded(log_p)
    evaluate = lambda z: _evaluate(log_p, z, slopes)[:2]
    of = lambda names: Sums(k, q._kind, q.n_features, q._size, names, evaluate, T, threaded)
    seed, c = int(rng.integers(2**63)), np.zeros(q._size)
    if "control_variate" in estimators:
        pilot = of(FIT)
        top, bottom = pilot.all(q._table, c, min(n, pilot.size), int(rng.integers(2**63))).mean
        c = np.divide(top, bottom, out=c, where=bottom > 0)
    m = of(estimators).all(q._table, c, n, seed)
    if not _finite(m):
        raise NumericalError(NOT_FINITE.format(q))
    found = {}
    for e, name in enumerate(estimators):
        variance = m.M2[e] / (n - 1)
        mean, error, spread = (q._split(a) for a in (m.mean[e], np.sqrt(variance / n), variance))
        found[name] = Gradient(m.value, math.sqrt(m.value_M2 / (n - 1) / n), mean, error, spread, name, n)
    return found


def _finite(m):
    """Are these Moments numbers?"""
    return math.isfinite(m.value_M2) and bool(np.isfinite(m.M2).all())


def _check_q(q):
    if not isinstance(q, Distribution):
        raise TypeError(f"q must be a distribution of lvm.distributions, got {type(q).__name__}.")


def _check_holds(q, estimator):
    """ValueError where the estimator is wrong for q."""
    _check_q(q)
    if q.support_moves and estimator != "reparameterisation":
        raise ValueError(
            f"{estimator!r} takes the slopes of log q to have the mean 0, and the support of {type(q).__name__} moves "
            "with its parameters: it would be wrong, not noisy. Try estimator='reparameterisation'."
        )


def _threaded(log_p):
    """May it be called from several threads at once? What numba compiled may, unless it runs threads of its own."""
    from numba.core.dispatcher import Dispatcher

    return isinstance(log_p, Dispatcher) and not log_p.targetoptions.get("parallel")


def _slopes_of(got):
    """The gradient in z, of what a user's log p gave, or None."""
    return got[1] if isinstance(got, tuple) and len(got) > 1 else None


def _evaluate(function, z, slopes, *theta):
    """What a user's log p gives for z (n,D) and perhaps theta: log p (n,), its gradient (n,D), or (0,D) where there is
    none or it is not asked for, the gradient in theta or None. ValueError for other shapes, NumericalError for what is
    not finite."""
    shape = z.shape
    got = function(z, *theta)
    log_p, *rest = got if isinstance(got, tuple) else (got,)
    log_p = np.asarray(log_p, z.dtype, order="C")
    if log_p.shape != shape[:1]:
        raise ValueError(f"log p must have the shape {shape[:1]} for z of the shape {shape}, got {log_p.shape}.")
    g = _slopes_of(got)
    if slopes and g is None:
        raise ValueError(
            "This estimator needs the gradient of log p. Return (log_p (M,), gradient (M,D)), or try estimator="
            "'leave_one_out'."
        )
    G = np.ascontiguousarray(g, z.dtype) if slopes else np.empty((0, z.shape[1]), z.dtype)
    if slopes and G.shape != z.shape:
        raise ValueError(f"The gradient of log p must have the shape of z, {z.shape}, got {G.shape}.")
    slope = None
    if theta and theta[0] is not None:
        if len(rest) < 2:
            raise ValueError(
                "With theta, log_joint(z, theta) must give (log_p (M,), gradient in z (M,D) or None, gradient in theta "
                f"(M, *theta.shape)), got {len(rest) + 1} of them."
            )
        slope = np.asarray(rest[1], float)
        if slope.shape != (len(z), *theta[0].shape):
            raise ValueError(
                f"The gradient in theta must have the shape {(len(z), *theta[0].shape)}, a row for each of z, got "
                f"{slope.shape}."
            )
    for what, a in (("log p", log_p), ("the gradient of log p in z", G), ("the gradient of log p in theta", slope)):
        if a is not None and a.size and not math.isfinite(a.sum()) and not np.isfinite(a).all():
            row = int((~np.isfinite(a)).reshape(len(a), -1).any(axis=1).argmax())
            raise NumericalError(
                f"{what} is not finite at a sample of q: {a[row]} at z = {z[row]}. Where q has mass log p must be "
                "finite, or the bound is -inf. Try a q with the support of p, or look at the function there."
            )
    return log_p, G, slope


# ------------------------------------------------------------------------------------------------------------- checks
class GradientCheck(NamedTuple):
    """Whether a gradient by hand agrees with differences. True and False in conditions.

    ok : is every relative error below rtol, or below what differences can tell?
    error : |by_hand - by_differences| over the larger of the two, where it is worst
    row, column : where that is
    by_hand, by_differences : the slopes there
    uncertainty : of the differences there, by rounding and by how far two step sizes disagree: what error is below that
        is none
    """

    ok: bool
    error: float
    row: int
    column: int
    by_hand: float
    by_differences: float
    uncertainty: float

    def __bool__(self):
        return self.ok

    def __str__(self):
        unsure = self.uncertainty > 0.01 * max(abs(self.by_hand), abs(self.by_differences))
        right = "Differences are too coarse to tell" if unsure else "The gradient is right"
        return (
            f"{right if self.ok else 'The gradient is WRONG'}: worst in column {self.column} of row {self.row}, "
            f"{self.by_hand:.9g} by hand and {self.by_differences:.9g} ± {self.uncertainty:.1g} by differences "
            f"(relative error {self.error:.2g})."
        )


def check_gradient(f: Callable, x, *, rtol: float = 1e-6) -> GradientCheck:
    """Is the gradient that f gives the gradient of what f gives?

    f(x (M,D)) -> (value (M,), gradient (M,D)), as log p of this module; x (M,D), or (D,) for one point. Each coordinate
    is held against central differences, extrapolated (Richardson 1911), at steps from the size of x down to a millionth
    of it. ValueError where f is not finite at x or about it. Where f has a kink differences show what lies between.

    >>> import numpy as np
    >>> found = check_gradient(lambda z: (np.sin(z).prod(axis=1), np.cos(z)), [[1.0, 2.0]])  # a factor forgotten
    >>> found.ok, found.column, round(found.by_hand, 4), round(found.by_differences, 4)
    (False, 1, -0.4161, -0.3502)
    """
    x = np.array(x, float)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"x must be finite numbers (M,D) or (D,), got the shape {x.shape}.")
    check_real("rtol", rtol, 0, inclusive=False, who="check_gradient")
    if not callable(f):
        raise TypeError(f"f must be callable, value, gradient = f(x), got {type(f).__name__}.")
    got = f(x.copy())
    if not isinstance(got, tuple) or len(got) < 2:
        raise ValueError(f"f must give a tuple (value (M,), gradient (M,D)), got {type(got).__name__}.")
    value, by_hand = (np.array(a, float) for a in got[:2])
    if value.shape != x.shape[:1] or by_hand.shape != x.shape:
        raise ValueError(
            f"f must give values of the shape {x.shape[:1]} and a gradient of the shape {x.shape} for x of the shape "
            f"{x.shape}, got {value.shape} and {by_hand.shape}."
        )
    bad = ~(np.isfinite(value) & np.isfinite(by_hand).all(axis=1))
    if bad.any():
        row = int(bad.argmax())
        raise NumericalError(f"f is not finite in row {row}: {value[row]} with the gradient {by_hand[row]}.")
    worst = None
    for d in range(x.shape[1]):
        true, doubt = _slope(f, x, d, rtol)
        if np.isnan(true).any():
            row = int(np.isnan(true).argmax())
            raise ValueError(
                f"f is not finite on both sides of x in column {d} of row {row}, however near: try others."
            )
        apart, size = np.abs(by_hand[:, d] - true), np.maximum(np.abs(by_hand[:, d]), np.abs(true))
        error, excess = (a / np.where(size > 0, size, 1) for a in (apart, apart - doubt))
        i = int(excess.argmax())
        if worst is None or excess[i] > worst[0]:
            worst = excess[i], (float(error[i]), i, d, float(by_hand[i, d]), float(true[i]), float(doubt[i]))
    assert worst is not None
    return GradientCheck(bool(worst[0] <= rtol), *worst[1])


def _slope(f, x, d, rtol):
    """The slope of f in column d at each row of x, by differences, and how far it is to be trusted: (M,), (M,).

    The smallest step counts at which rounding does not, or that at which rounding and what the next larger step would
    change are least together, if it is smaller. NaN where no step is inside the domain of f."""
    size = np.maximum(np.abs(x[:, d]), 1e-3 * np.abs(x).max(axis=1))
    size = np.where(size > 0, size, 1.0)
    slopes, rounding = [], []
    bottom = 1e-6 * np.minimum(size, 1.0)
    for share in np.linspace(0, 1, 1 + math.ceil(math.log10((size / bottom).max()))):
        h = size ** (1 - share) * bottom**share
        values, widths = [], []
        for t in (h, -h, h / 2, -h / 2):
            moved = x.copy()
            moved[:, d] += t
            widths.append(moved[:, d] - x[:, d])
            with np.errstate(all="ignore"):
                got = f(moved)
            values.append(np.asarray(got[0] if isinstance(got, tuple) else got, float))
        (a, b, c, e), (s, t, u, v) = values, widths
        with np.errstate(all="ignore"):
            slopes.append((4 * (c - e) / (u - v) - (a - b) / (s - t)) / 3)
            rounding.append(8 * np.finfo(float).eps * np.abs(values).max(axis=0) / h)
    slope, blur = np.array(slopes), np.array(rounding)
    with np.errstate(all="ignore"):
        change = np.abs(np.diff(slope, axis=0, prepend=np.nan))  # from the next larger step
        change[0] = np.abs(slope[0] - slope[1])
    doubt = np.where(np.isfinite(slope), blur + np.where(np.isfinite(change), change, 0), np.inf)
    sharp = np.isfinite(slope) & (blur <= 1e-3 * rtol * np.abs(slope))
    best = np.maximum(doubt.argmin(axis=0), np.where(sharp, np.arange(len(slope))[:, None], 0).max(axis=0))
    rows = np.arange(len(x))
    found = slope[best, rows]
    return np.where(np.isfinite(doubt[best, rows]), found, np.nan), doubt[best, rows]


# --------------------------------------------------------------------------------------------------------------- fits
class Fit(NamedTuple):
    """What `fit_q` found.

    q : the fitted distribution, the mean of the last epochs' parameters where the fit converged
    theta : the model's own parameters, or None
    lower_bound, lower_bound_error : E_q[log p - log q] at q and theta, by fresh samples, and its standard error
    history : {"lower_bound", "lower_bound_error"}: a value for each epoch
    n_epochs : int, and converged : bool
    """

    q: Any
    theta: np.ndarray | None
    lower_bound: float
    lower_bound_error: float
    history: dict[str, list[float]]
    n_epochs: int
    converged: bool

    def __str__(self):
        how = "converged" if self.converged else "not converged"
        return (
            f"{self.q!r}\nbound {self.lower_bound:.6g} ± {self.lower_bound_error:.1g} nats, {how} after "
            f"{self.n_epochs} epochs"
        )


def fit_q(
    log_joint: Callable,
    q: Distribution,
    *,
    theta: Any = None,
    estimator: str = "reparameterisation",
    n_samples: int = 100,
    max_epochs: int = 200,
    learning_rate: float = 0.05,
    n_epochs_no_change: int | None = 5,
    tol: float = 1e-3,
    clip_norm: float | None = None,
    callback: Callable[[int, dict[str, float]], Any] | None = None,
    random_state: Any = None,
    verbose: Any = 0,
) -> Fit:
    """Variational inference for a model of your own: maximise E_q[log p(x,z) - log q(z)], a lower bound on log p(x).

    log_joint : log p(x,z) as a function of z (M,D), or of z and theta
        (log_p (M,), gradient in z (M,D)); with theta also the gradient in theta (M, *theta.shape). The score function's
        estimators need log_p alone (with theta: log_p, None, gradient in theta).
    q : where to begin, a distribution of lvm.distributions. It is not changed.
    theta : the model's own parameters to begin with, climbed together with q's; None: there are none.
    estimator : see `estimate`; the control variate is fitted on the samples of the steps before. For a NormalMixture
        with humps far apart "leave_one_out" has far less noise.
    n_samples : of a step, 2 at least; 100 steps make an epoch.
    max_epochs, learning_rate (of Adam), clip_norm, callback, verbose : as everywhere; a callback that returns True ends
        the fit.
    n_epochs_no_change, tol : converged when the mean bound of so many epochs is no more than `tol` nats, or than the
        standard error of the difference, from that of as many before: what cannot be told from noise is no progress.
        The parameters are then the means over the last of these epochs, which takes the noise of the steps out of them
        (Polyak & Juditsky 1992). None: always max_epochs, and the last parameters.

    Raises NumericalError at the first log p or gradient that is not finite, naming the step and z; ValueError for bad
    arguments and where the estimator does not hold. A ConvergenceWarning tells of max_epochs that were not enough.
    Ctrl-C is raised.

    >>> import numpy as np
    >>> from lvm import distributions
    >>> log_joint = lambda z: (-0.5 * (((z - 3) / 0.1) ** 2).sum(axis=1), -(z - 3) / 0.01)
    >>> fit = fit_q(log_joint, distributions.Normal(0.0, 1.0), random_state=0)
    >>> bool(abs(fit.q.mean[0] - 3) < 0.01), bool(abs(fit.q.scale[0] - 0.1) < 0.01)
    (True, True)
    """
    who = "fit_q"
    check_choice("estimator", estimator, ESTIMATORS, who=who)
    _check_holds(q, estimator)
    n = check_int("n_samples", n_samples, 2, who=who)
    check_int("max_epochs", max_epochs, 1, who=who)
    check_real("learning_rate", learning_rate, 0, inclusive=False, who=who)
    check_real("tol", tol, 0, who=who)
    if n_epochs_no_change is not None:
        check_int("n_epochs_no_change", n_epochs_no_change, 1, who=who)
    if clip_norm is not None:
        check_real("clip_norm", clip_norm, 0, inclusive=False, who=who)
    if not callable(log_joint):
        raise TypeError(CALLABLE.format("log_joint", type(log_joint).__name__))
    values = q.parameters
    if theta is not None:
        values["theta"] = np.array(theta, float)
        if not values["theta"].size or not np.isfinite(values["theta"]).all():
            raise ValueError(f"theta must be finite numbers, got {theta!r}.")
    k, rng = kernels.load("cpu"), check_random_state(random_state)
    p = Parameters(k, {name: a.shape for name, a in values.items()}, float)
    p.assign(values)
    slopes = estimator in SLOPES

    def at(z, here):
        try:
            return _evaluate(log_joint, z, slopes, *(() if here is None else (here.copy(),)))
        except NumericalError as e:
            now = _named(q, p.get())
            raise NumericalError(f"In step {int(p.counter[0])}: {e} There q is {now}.") from None

    def tabled(views):
        try:
            return _named(q, views)._table
        except ValueError as e:
            raise NumericalError(
                f"In step {int(p.counter[0])}: q left what float64 has. {e} Try a smaller learning_rate, a clip_norm, "
                "or scaling z."
            ) from None

    def check(m):
        if not _finite(m):
            raise NumericalError(f"In step {int(p.counter[0])}: {NOT_FINITE.format(_named(q, p.get()))}")

    seed, final = (int(s) for s in rng.integers(2**63, size=2))
    o = Bound(k, q._kind, q.n_features, q._size, tabled, at, check, estimator, n, STEPS, seed, p)
    window = n_epochs_no_change
    paths: collections.deque = collections.deque(maxlen=window)
    trace: dict[str, list[float]] = {"lower_bound": [], "lower_bound_error": []}
    settled = False

    def after(epoch, found):
        nonlocal settled
        if window is not None:
            paths.append(o.mean_theta)
        for name, values in trace.items():
            values.append(found[name])
        ended = callback is not None and bool(callback(epoch, found))
        settled = window is not None and _settled(**trace, n=window, tol=tol)
        return ended or settled

    training = stochastic(
        o,
        Steps(STEPS, same=False),
        p,
        max_epochs=max_epochs,
        learning_rate=learning_rate,
        clip_norm=clip_norm,
        n_epochs_no_change=None,
        callback=after,
        verbose=verbose,
        title="fit_q",
    )
    if training.interrupted:
        raise KeyboardInterrupt(f"fit_q was stopped after epoch {training.n_epochs}")
    if settled:
        p.theta[:] = np.mean(paths, axis=0)
    elif window is not None and training.n_epochs == max_epochs:
        warn(
            f"fit_q did not converge in {max_epochs} epochs: the bound still changes by more than its noise. Try more "
            "max_epochs, a smaller learning_rate, or a larger tol.",
            ConvergenceWarning,
        )
    fitted = p.get()
    found = _named(q, fitted)
    theta = fitted.get("theta")
    m = o.sums.all(found._table, o.c, STEPS * n, final)
    check(m)
    error = math.sqrt(m.value_M2 / (m.n - 1) / m.n)
    converged = settled or (window is None and training.n_epochs == max_epochs)
    return Fit(found, theta, m.value, error, training.history, training.n_epochs, converged)


def _named(q, parameters):
    return q.replaced({name: a for name, a in parameters.items() if name != "theta"})


def _settled(lower_bound, lower_bound_error, n, tol):
    """Is what n epochs changed, from the n before, no more than tol, or than its standard error?"""
    if len(lower_bound) < 2 * n:
        return False
    gain = np.mean(lower_bound[-n:]) - np.mean(lower_bound[-2 * n : -n])
    return bool(abs(gain) <= max(tol, math.sqrt(np.square(lower_bound_error[-2 * n :]).sum()) / n))
