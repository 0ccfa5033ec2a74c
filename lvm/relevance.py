"""Sparse Bayesian logistic regression, and the relevance vector machine: the estimators."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import evidence, kernels, starts
from .calibration import codes_of
from .estimator import (
    ConvergenceWarning,
    Estimator,
    check_bool,
    check_choice,
    check_class_weight,
    check_classes,
    check_int,
    check_labels,
    check_random_state,
    check_real,
    check_targets,
    check_training,
    check_verbose,
    check_weight,
    warn,
)
from .fit import Batches, held_out, newton, progress, stochastic
from .objectives.relevance import Design, Logistic, Minibatch, Posterior, Regression, divergence, posterior
from .parameters import Parameters

OCTAVES = np.arange(-4, 7)  # gammas tried: 2^octave/(sum of the columns' variances, rounded to a power of 2)
PATIENCE = 4  # gammas without a better one, after which narrower ones are not tried; 2 where it is clear
FOLDS = 5
WEIGHED = 1 << 22  # numbers of w'phi at a time, of rows times draws of w
LOOKED_AT = 4096  # rows that choose gamma, at most


# ------------------------------------------------------------------------------------------------- what they share
class _Sparse(Estimator):
    """Weights (C,R+1) of R columns and an intercept: coef, intercept, covariance of C problems with a design matrix.

    A subclass has `_inputs(k, X)`, the Design (N,R+1) of rows X."""

    _requires_y = True
    _inputs: Callable[..., Any]

    fit_intercept: Any
    tol: Any
    max_iter: Any
    verbose: Any
    device: Any

    coef_: np.ndarray
    intercept_: Any
    alpha_: np.ndarray
    intercept_alpha_: Any
    covariance_: np.ndarray
    relevance_: np.ndarray
    n_relevant_: int
    lower_bound_: float
    lower_bounds_: list[float]
    n_iter_: int
    converged_: bool

    def _check_state(self):
        """What fitted attributes that come from a file must obey, too. Raises ValueError."""
        C = self.covariance_
        if ((np.diagonal(C, axis1=-2, axis2=-1) if C.ndim > np.ndim(self.intercept_) + 1 else C) < 0).any():
            raise ValueError("covariance_ has a negative variance")

    def _moments(self, X):
        """Mean and variance of w'phi for each of the C problems: two arrays (N,C), float64."""
        posteriors = self._posteriors()
        k = self._kernels(len(X) * (self.n_relevant_ + 1) ** 2 * len(posteriors), X)
        design = self._inputs(k, X)
        M, V = np.empty((len(X), len(posteriors))), np.empty((len(X), len(posteriors)))
        with np.errstate(over="ignore", invalid="ignore"):
            for a, b, Phi in design.blocks():
                for c, q in enumerate(posteriors):
                    m, v = design.moments(Phi, q)
                    M[a:b, c], V[a:b, c] = k.get(m), k.get(v)
        far = ~(np.isfinite(M) & np.isfinite(V)).all(axis=1)
        if far.any():
            raise ValueError(f"Row {int(far.argmax())} of X is so far from the data that w'x overflows. Try scaling X.")
        return M, V

    def _weights(self):
        """The weights (C,R+1) of the columns of `_inputs`."""
        return np.column_stack([self.coef_, self.intercept_])

    def _alphas(self):
        """Their prior variances (C,R+1)."""
        return np.column_stack([self.alpha_, self.intercept_alpha_])

    def _posteriors(self):
        """Each problem's Posterior, of the weights that it has not pruned."""
        return [_posterior(mu, C) for mu, C in zip(self._weights(), self.covariance_)]

    def _named(self, points, relevance):
        """Attributes, float64, for Points whose columns are `relevance` of all, and after them the intercept."""
        R = len(relevance)
        at = np.append(relevance, len(points[0].alpha) - 1)
        full = points[0].q.root.ndim == 2
        mu, alpha = np.zeros((len(points), R + 1)), np.stack([p.alpha[at] for p in points])
        C = np.zeros((len(points), R + 1, R + 1) if full else (len(points), R + 1))
        for c, p in enumerate(points):
            i = np.searchsorted(at, p.q.active)
            mu[c, i] = p.q.mu
            if full:
                C[c][np.ix_(i, i)] = p.q.covariance
            else:
                C[c, i] = p.q.variances
        return {
            "coef_": mu[:, :-1],
            "intercept_": mu[:, -1],
            "alpha_": alpha[:, :-1],
            "intercept_alpha_": alpha[:, -1],
            "covariance_": C,
            "relevance_": relevance,
            "n_relevant_": R,
        }

    def _solved(self, objectives, starts, title):
        """The Climb of each objective from its start, and the attributes that tell how it went."""
        climbs = []
        for objective, start in zip(objectives, starts):
            with progress(title, self.verbose, interval=1) as tick:
                climb = newton(objective, start, max_iter=self.max_iter, tol=self.tol, tick=tick)
            climbs.append(climb)
            if climb.interrupted and (len(starts) > 1 or not climb.bounds):
                raise KeyboardInterrupt("fit was stopped; the model is as it was before")
        traces = [climb.bounds or [climb.bound] for climb in climbs]
        n = max(map(len, traces))
        bounds = [float(b) for b in np.sum([t + [t[-1]] * (n - len(t)) for t in traces], axis=0)]
        told = {
            "lower_bound_": bounds[-1],
            "lower_bounds_": bounds,
            "n_iter_": max(len(climb.bounds) for climb in climbs),
            "converged_": all(climb.converged for climb in climbs),
        }
        return climbs, told

    def _finish(self, climbs, limit):
        """Say what there is to say after a fit."""
        if any(climb.interrupted for climb in climbs):
            raise KeyboardInterrupt(f"fit was stopped; the model is that of step {self.n_iter_}")
        if not self.converged_ and self.n_iter_ >= limit and self.tol > 0:
            warn(
                f"The fit did not converge: the bound still rose in step {self.n_iter_} of at most {limit}. Try to "
                "allow more of them, or a larger tol.",
                ConvergenceWarning,
            )

    def _check_climb(self):
        who = type(self).__name__
        check_bool("fit_intercept", self.fit_intercept, who=who)
        check_real("tol", self.tol, 0, who=who)
        check_int("max_iter", self.max_iter, 1, who=who)
        check_verbose(self.verbose, who=who)
        kernels.load(self.device)


def _with_log_det(q):
    """The Posterior q with log|Sigma|, which answers do not need."""
    root = q.root
    return q._replace(log_det=2 * float(np.log(root).sum() if root.ndim == 1 else np.linalg.slogdet(root)[1]))


def _posterior(mu, C):
    """The Posterior N(mu, C), C (R,R), or (R,) a diagonal, of the weights that are not pruned."""
    S = C if C.ndim == 1 else np.diag(C)
    active = np.flatnonzero((S > 0) | (mu != 0))
    s = np.sqrt(S[active])
    if C.ndim == 1:
        return Posterior(active, mu[active], s, 0.0)
    unit = C[np.ix_(active, active)] / np.outer(s + (s == 0), s + (s == 0)) + np.diag(s == 0)
    try:
        root = np.linalg.cholesky(unit)
    except np.linalg.LinAlgError:  # by rounding, or from elsewhere
        v, U = np.linalg.eigh(unit)
        root = U * np.sqrt(np.maximum(v, 0))
    return Posterior(active, mu[active], s[:, None] * root, 0.0)


class _End(NamedTuple):
    """Where Adam ended."""

    q: Posterior
    alpha: np.ndarray


def _odds(m, v):
    """log E[p] - log E[1 - p] for means and variances, of any one shape, of w'phi."""
    out = np.empty(m.size)
    kernels.load("cpu").relevance.odds(np.ascontiguousarray(m).reshape(-1), np.ascontiguousarray(v).reshape(-1), out)
    return out.reshape(m.shape)


def _log_proba(odds):
    """Log-probabilities (N,K) from the odds (N,C) of each problem."""
    if odds.shape[1] == 1:
        return -np.logaddexp(0, odds * [1, -1])
    log_p = -np.logaddexp(0, -odds)
    return log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)


def _check_scale(X):
    """Squares of what columns vary by must be numbers."""
    with np.errstate(over="ignore"):
        spread = float((X.max(axis=0).astype(float) - X.min(axis=0)).max())
    if not (spread == 0 or 1e-140 < spread < 1e140):
        raise ValueError(f"X varies by {spread:g}, of which the square is no number. Try scaling X.")


class _Classifier(_Sparse):
    """One-versus-rest of a binary model."""

    _kind = "classifier"

    class_weight: Any
    classes_: np.ndarray

    def _check_state(self):
        super()._check_state()
        K, C = len(self.classes_), len(self.intercept_)
        if K < 2 or (1 if K == 2 else K) != C:
            raise ValueError(f"classes_ are {K}, which does not fit {C} problems")
        if not (self.classes_[:-1] < self.classes_[1:]).all():
            raise ValueError("classes_ must rise")

    def decision_function(self, X) -> np.ndarray:
        """The logit of each class's integrated probability, log E[p] - log E[1 - p] over the posterior, in nats.

        (N,) of the second class where there are two, else (N,K), of each class against the rest."""
        X = self._check_X(X)
        odds = self._odds(X)
        return self._as((odds[:, 0] if len(self.classes_) == 2 else odds).astype(X.dtype), X)

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row: (N,), of the labels' dtype."""
        odds = self._odds(self._check_X(X))
        return self.classes_[odds.argmax(1) if len(self.classes_) > 2 else (odds[:, 0] > 0).astype(int)]

    def predict_proba(self, X) -> np.ndarray:
        """Probability of each class, in the order of `classes_`: (N,K). sigmoid(w'phi) integrated over the posterior.

        Of more than two classes, those of each against the rest, divided by their sum."""
        X = self._check_X(X)
        return self._as(np.exp(_log_proba(self._odds(X))).astype(X.dtype), X)

    def predict_log_proba(self, X) -> np.ndarray:
        """The logarithm of `predict_proba`: (N,K), in nats. Finite where a probability would round to 0."""
        X = self._check_X(X)
        return self._as(_log_proba(self._odds(X)).astype(X.dtype), X)

    def _evidence(self, X, y, *, n_samples, rng, **_):
        """See lvm.evidence.report: each problem's sum log sigmoid(y f), f = w'phi."""
        X = self._check_X(X)
        found, codes = check_labels(y, len(X), type(self).__name__)
        codes = codes_of(found, self.classes_, len(found))[codes]
        k, none = self._kernels(len(X) * (self.n_relevant_ + 1) * n_samples, X), np.empty(0)
        design, size, elbo, weighed = self._inputs(k, X), max(1, WEIGHED // len(X)), 0.0, []

        def log_likelihood(w, active, s):
            """(M,) for weights w (M,R)."""
            l = np.zeros(len(w))
            for a, b, Phi in design.blocks():
                l -= np.logaddexp(0, -s[a:b, None] * (k.get(Phi)[:, active] @ w.T)).sum(axis=0)
            return l

        for s, q, alpha in zip(self._signs(len(self.classes_), codes), self._posteriors(), self._alphas()):
            q, alpha = _with_log_det(q), alpha[q.active]
            problem = Logistic(k, kernels.load("cpu"), design, s, none, True, "ard", q.root.ndim == 2)
            elbo += problem._sites(q, np.empty(0, int))[0] - divergence(q, alpha)
            of_weights = functools.partial(log_likelihood, active=q.active, s=s)
            weighed.append(evidence.of_weights(of_weights, q, alpha, n_samples, size, rng))
        return evidence.weights_report(self, len(X), elbo, weighed)

    def score(self, X, y, sample_weight=None) -> float:
        """Part of the rows, weighted by sample_weight (N,), whose class `predict` tells: from 0 to 1."""
        predicted = self.predict(X)
        classes, codes = check_labels(y, len(predicted), type(self).__name__)
        w = check_weight(sample_weight, len(predicted))
        return float(w @ (classes[codes] == predicted) / w.sum())

    def _odds(self, X):
        """(N,C) float64."""
        return _odds(*self._moments(X))

    @staticmethod
    def _signs(K, codes):
        """Labels ±1 (N,) of each problem: one where there are two classes, else one a class."""
        return [np.where(codes == c, 1.0, -1.0) for c in ([1] if K == 2 else range(K))]


# ---------------------------------------------------------------------------------------------------------- linear
class VariationalLogisticRegression(_Classifier):
    """Logistic regression with a normal posterior over its weights, and relevance determination.

    p(y|x,w) = sigmoid(y w'x) for y = ±1, w ~ N(0, diag alpha), q(w) = N(mu, Sigma): the bound E_q[log p(y|w)] -
    KL(q || p) is maximised over mu, Sigma and alpha. The expectation is exact, one-dimensional quadrature, and answers
    integrate the posterior. With prior="ard" most weights of columns that tell nothing have their best alpha at 0: they
    are pruned.

    Parameters
    ----------
    prior : {"ard", "gaussian"}, default "ard"
        A prior variance for each weight, or one for all. The intercept has its own. All are learned.
    covariance : {"full", "diag"}, default "full"
        Of the posterior. "diag" has the looser bound, and memory for D numbers only with solver="adam".
    solver : {"newton", "adam"}, default "newton"
        Newton takes whole passes over X, some ten of them, and D² memory (of more than 512 columns, with prior="ard",
        less). Adam takes minibatches, for covariance="diag": for N and D that are both large, memory maps for instance.
    expectation : {"quadrature", "monte_carlo"}, default "quadrature"
        Of log p(y|w) in a minibatch: exact, or from one draw of w'x a row (local reparameterisation). "monte_carlo"
        needs solver="adam".
    fit_intercept : bool, default True
    class_weight : None, "balanced" or dict {label: weight}, default None
        Multiplies the weights of rows; "balanced" gives all classes the same sum.
    tol : float, default 1e-6
        Newton stops when the last gain of a step, which is sweeps over all alpha until they rest and a pass over X, and
        the gain still to come as estimated from the last two, are below this times the bound (in nats per row, taken as
        1 where it is less); 0 takes all steps. Adam stops when the mean bound of n_epochs_no_change epochs is not more
        than 100 tol nats per row above that of the ones before; with early_stopping, when the held-out bound has not
        risen by more than that for as many epochs.
    max_iter : int, default 500
        Most steps of Newton.
    batch_size, max_epochs, learning_rate, n_epochs_no_change, early_stopping, validation_fraction, clip_norm,
    kl_warmup_steps, callback, checkpoint
        For solver="adam": rows of a batch, default 1024; most passes, 100; the rate, 0.01, of weights in units of their
        columns' spread, falling to 0 along a cosine; epochs without gain that end it, 5; whether a validation_fraction
        of the rows (0.1) is held out to end it, False; the longest gradient, None; steps in which the KL's weight rises
        to 1, 0; callback(epoch, values), None, called in each of the C problems; a file to go on from, None, for two
        classes. An epoch of fewer than batch_size rows is one step, and Adam needs some hundred steps or more.
        lvm.fit.stochastic has the details.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For batches and noise of Adam.
    verbose : int, default 0
        1 shows a bar.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.

    Attributes
    ----------
    classes_ : array (K,)
    coef_, alpha_ : array (C,D)
        Means of the weights and their prior variances, 0 where they are pruned. C = 1 for two classes, else K.
    intercept_, intercept_alpha_ : array (C,)
    mean_ : array (D,), and centred_intercept_ : array (C,), float64
        Means of the columns (0 without intercept), and the intercept there, which is the one with the prior.
    covariance_ : array (C,R+1,R+1), or (C,R+1) with covariance="diag"
        Of the R relevant weights and the intercept at mean_; 0 for what is pruned.
    relevance_ : array (R,)
        The columns kept, in any of the C problems.
    n_relevant_ : int, R.
    lower_bound_ : float
        On log p(y|X), in nats per row; summed over the C problems. With early_stopping, on the rows held out.
    lower_bounds_ : list of float
        After each step of Newton: it never falls. Of Adam, after each epoch, estimated along the way.
    history_ : dict of lists
        Of Adam: the bound and its parts after each epoch, summed over the C problems. Files do not keep it.
    n_iter_ : int, and converged_ : bool
    n_features_in_ : int, and feature_names_in_ : array (D,), when X was a data frame.

    Raises
    ------
    ValueError or TypeError
        Bad data or parameters: before anything is changed.
    NumericalError
        Adam's gradient is not finite again and again. It is a ValueError.
    RuntimeError, MemoryError
        The device cannot be used here; it has no room.
    After any of them the model is as it was before the fit.

    Notes
    -----
    With prior="ard" the units of columns do not matter; with "gaussian" they do. `sample_weight` is exact: weight 2 is
    that row twice. More than two classes are one-versus-rest. Ctrl-C ends the fit of two classes after the last
    complete step and raises. Adam prunes in the end the weights whose best alpha is 0.
    Jaakkola & Jordan (2000); Bishop & Tipping (2000); Challis & Barber (2013). lvm.objectives.relevance has the
    equations.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> y = [0] * 50 + [1] * 50
    >>> model = lvm.VariationalLogisticRegression().fit(X[50:], y)
    >>> model.score(X[50:], y)
    0.98
    """

    mean_: np.ndarray
    centred_intercept_: np.ndarray
    history_: dict[str, list[float]]

    _schema = 1

    @staticmethod
    def _state(params):
        full = params["covariance"] == "full"
        return {
            "classes_": ("labels", ("K",), None),
            "coef_": ("f8", ("C", "D"), "finite"),
            "intercept_": ("f8", ("C",), "finite"),
            "alpha_": ("f8", ("C", "D"), "nonnegative"),
            "intercept_alpha_": ("f8", ("C",), "nonnegative"),
            "mean_": ("f8", ("D",), "finite"),
            "centred_intercept_": ("f8", ("C",), "finite"),
            "covariance_": ("f8", ("C", "*", "*") if full else ("C", "*"), "finite"),
            "relevance_": ("i8", ("*",), "nonnegative"),
            "n_relevant_": (int, (), "nonnegative"),
            "lower_bound_": (float, (), "finite"),
            "lower_bounds_": (float, ("*",), "finite"),
            "n_iter_": (int, (), "nonnegative"),
            "converged_": (bool, (), None),
        }

    def __init__(
        self,
        *,
        prior="ard",
        covariance="full",
        solver="newton",
        expectation="quadrature",
        fit_intercept=True,
        class_weight=None,
        tol=1e-6,
        max_iter=500,
        batch_size=1024,
        max_epochs=100,
        learning_rate=0.01,
        n_epochs_no_change=5,
        early_stopping=False,
        validation_fraction=0.1,
        clip_norm=None,
        kl_warmup_steps=0,
        callback=None,
        checkpoint=None,
        random_state=None,
        verbose=0,
        device="cpu",
    ) -> None:
        self.prior = prior
        self.covariance = covariance
        self.solver = solver
        self.expectation = expectation
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.n_epochs_no_change = n_epochs_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.clip_norm = clip_norm
        self.kl_warmup_steps = kl_warmup_steps
        self.callback = callback
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def _check_params(self):
        who = type(self).__name__
        check_choice("prior", self.prior, ("ard", "gaussian"), who=who)
        check_choice("covariance", self.covariance, ("full", "diag"), who=who)
        check_choice("solver", self.solver, ("newton", "adam"), who=who)
        check_choice("expectation", self.expectation, ("quadrature", "monte_carlo"), who=who)
        check_class_weight(self.class_weight, who=type(self).__name__)
        self._check_climb()
        check_training(self)
        check_int("kl_warmup_steps", self.kl_warmup_steps, 0, who=who)
        if self.solver == "adam" and self.covariance == "full":
            raise ValueError("solver='adam' is for covariance='diag'. Try that, or solver='newton'.")
        if self.solver == "newton" and self.expectation == "monte_carlo":
            raise ValueError("expectation='monte_carlo' is for solver='adam': Newton needs the exact one.")

    def fit(self, X, y, sample_weight=None) -> "VariationalLogisticRegression":
        """Fit to X (N,D) and labels y (N,), rows weighted by sample_weight (N,). Returns self."""
        self._check_params()
        X, names = self._check_fit_X(X)
        classes, codes, w = check_classes(y, len(X), self.class_weight, sample_weight, type(self).__name__)
        if not w.all() and self.solver == "newton":
            X, codes, w = X[w > 0], codes[w > 0], w[w > 0]
        _check_scale(X)
        signs = self._signs(len(classes), codes)
        w = np.empty(0) if (w == 1).all() else w
        if self.solver == "adam":
            climbs, fitted = self._trained(X, signs, w)
        else:
            D = X.shape[1]
            mean = _weighted_mean(X, w) if self.fit_intercept else np.zeros(D)
            k, host = self._kernels(20 * len(X) * D * D, X), kernels.load("cpu")
            design = _linear(k, X, mean, self.fit_intercept)
            full = self.covariance == "full"
            problems = [Logistic(k, host, design, s, w, self.fit_intercept, self.prior, full) for s in signs]
            climbs, told = self._solved(problems, [p.start() for p in problems], "Newton")
            points = [climb.params for climb in climbs]
            if not self.fit_intercept:
                points = [p._replace(alpha=np.append(p.alpha, 0.0)) for p in points]
            fitted = {**self._linear(points, mean, np.ones(D)), **told}
        self._remember(X, names, {"classes_": classes, **fitted})
        wanted = self.n_epochs_no_change is None and self.solver == "adam"  # all epochs
        self._finish(climbs, np.inf if wanted else self.max_epochs if self.solver == "adam" else self.max_iter)
        return self

    def _linear(self, points, mean, factor):
        """Attributes for Points with weights of factor (x - mean) and an intercept."""
        D = len(mean)
        relevance = np.unique(np.concatenate([p.q.active[p.q.active < D] for p in points]).astype(int))
        named = self._named(points, relevance)
        scale = np.append(factor[relevance], 1.0)
        C = named["covariance_"]
        C = C * (scale**2 if C.ndim == 2 else np.outer(scale, scale))
        wide = {}
        for name, f in ("coef_", factor), ("alpha_", factor**2):
            wide[name] = np.zeros((len(points), D))
            wide[name][:, relevance] = named[name] * f[relevance]
        b = named["intercept_"]
        return {
            **wide,
            "intercept_": b - wide["coef_"] @ mean,
            "intercept_alpha_": named["intercept_alpha_"],
            "covariance_": C,
            "relevance_": relevance,
            "n_relevant_": len(relevance),
            "mean_": mean,
            "centred_intercept_": b,
        }

    def _trained(self, X, signs, w):
        """Adam: the trainings and the fitted attributes."""
        (N, D), T = X.shape, X.dtype
        if self.checkpoint is not None and len(signs) > 1:
            raise ValueError(f"A checkpoint is for two classes, got {len(signs)} in y.")
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError("A checkpoint needs the same batches again. Try an integer random_state.")
        rng = check_random_state(self.random_state)
        rows = np.flatnonzero(w) if w.size else np.arange(N)
        rows, held = held_out(rows, self.validation_fraction, rng) if self.early_stopping else (rows, rows[:0])
        shift, spread = starts.column_spread(X, w)
        shift = shift if self.fit_intercept else np.zeros(D)
        factor = 1 / spread if self.prior == "ard" else np.full(D, 1 / np.sqrt((spread**2).mean()))
        with np.errstate(over="ignore"):
            factor[~np.isfinite(factor.astype(T))] = 0.0  # columns that T cannot scale
        k = self._kernels(4 * N * D * self.max_epochs, X)
        P, trainings, points, size = D + self.fit_intercept, [], [], min(self.batch_size, len(rows))
        weight = float(w[rows].sum()) if w.size else float(len(rows))
        x, on_device = k.put(X), k.put(w.astype(T))
        data = hashlib.sha256(b"".join(a.tobytes() for a in (shift, factor, w, *signs))).hexdigest()
        names = ("prior", "expectation", "fit_intercept", "validation_fraction")
        settings = {"data": data, **{name: getattr(self, name) for name in names}}
        for s in signs:
            p = Parameters(k, {"mu": (P,), "rho": (P,)}, T)
            p.assign({"rho": np.full(P, np.log(1e-2))})
            seeds = [int(i) for i in rng.integers(2**63, size=2)]
            batches = Batches(k, len(rows), size, seeds[0], rows)
            warm = min(self.kl_warmup_steps, self.max_epochs * len(batches))
            o = Minibatch(
                k,
                x,
                k.put(s.astype(T)),
                on_device,
                weight,
                rows,
                held,
                k.put(shift.astype(T)),
                k.put(factor.astype(T)),
                self.prior,
                seeds[1] if self.expectation == "monte_carlo" else None,
                size,
                warm,
                p,
            )
            training = stochastic(
                o,
                batches,
                p,
                max_epochs=self.max_epochs,
                learning_rate=self.learning_rate,
                clip_norm=self.clip_norm,
                schedule="cosine",
                warmup_steps=warm,
                early_stopping=self.early_stopping,
                n_epochs_no_change=self.n_epochs_no_change,
                tol=100 * self.tol,
                callback=self.callback,
                checkpoint=self.checkpoint,
                settings=settings,
                verbose=self.verbose,
            )
            if training.interrupted and len(signs) > 1:
                raise KeyboardInterrupt("fit was stopped; the model is as it was before")
            q, alpha = o.posterior()
            kept = o.relevant()
            kept[: D if self.prior == "gaussian" else 0] = True
            q = Posterior(np.flatnonzero(kept), q.mu[kept], q.root[kept], 0.0)
            points.append(_End(q, np.where(np.arange(D + 1) < P, np.append(alpha * kept, 0.0)[: D + 1], 0)))
            trainings.append(training)
        n = max(t.n_epochs for t in trainings)
        history = {
            name: np.sum([t.history[name] + [t.history[name][-1]] * (n - t.n_epochs) for t in trainings], 0).tolist()
            for name in trainings[0].history
        }
        return trainings, {
            **self._linear(points, shift, factor),
            "lower_bound_": float(sum(t.bound for t in trainings)),
            "lower_bounds_": history["lower_bound"],
            "history_": history,
            "n_iter_": n,
            "converged_": all(t.converged for t in trainings),
        }

    def _check_state(self):
        R, D, which = self.n_relevant_, self.n_features_in_, self.relevance_
        if which.shape != (R,) or set(self.covariance_.shape[1:]) != {R + 1}:
            raise ValueError(f"n_relevant_ is {R}, which does not fit relevance_ or covariance_")
        if (np.diff(which) <= 0).any() or (which >= D).any():
            raise ValueError(f"relevance_ must be rising numbers below {D}")
        super()._check_state()

    def _inputs(self, k, X):
        x, D, R = k.put(X), X.shape[1], self.n_relevant_
        mean, which = k.put(self.mean_), k.put(np.append(self.relevance_, D))
        none = k.put(np.empty(0))

        def fill(a, b, Phi):
            every = k.empty((b - a, D + 1), np.dtype(float))
            k.ppca.weigh(x[a:b], none, mean, every)
            k.relevance.columns(every, which, Phi)

        return Design(k, len(X), R + 1, fill)

    def _weights(self):
        return np.column_stack([self.coef_[:, self.relevance_], self.centred_intercept_])

    def _alphas(self):
        return np.column_stack([self.alpha_[:, self.relevance_], self.intercept_alpha_])


def _weighted_mean(X, w):
    """Mean (D,) of the rows, float64: about the first, so that of a constant column it is the constant."""
    first, total = X[0].astype(float), np.zeros(X.shape[1])
    for a in range(0, len(X), 4096):
        some = X[a : a + 4096] - first
        total += w[a : a + 4096] @ some if w.size else some.sum(axis=0)
    return first + total / (w.sum() if w.size else len(X))


def _linear(k, X, mean, intercept):
    """The Design of rows x - mean, and 1 after them with an intercept."""
    x, none, mean = k.put(X), k.put(np.empty(0)), k.put(mean)
    fill = lambda a, b, Phi: k.ppca.weigh(x[a:b], none, mean, Phi)
    return Design(k, len(X), X.shape[1] + intercept, fill)


# ---------------------------------------------------------------------------------------------------------- kernels
KERNELS = ("rbf", "linear", "poly", "precomputed")


class _Machine(_Sparse):
    """Basis functions k(x, c) at centres c, which are rows of X; what the classifier and the regressor share."""

    gamma_: float
    mean_: np.ndarray
    relevance_vectors_: np.ndarray

    def __init__(
        self,
        *,
        kernel="rbf",
        gamma="cv",
        degree=3,
        coef0=1.0,
        n_centres=1000,
        fit_intercept=True,
        tol=1e-6,
        max_iter=500,
        random_state=None,
        verbose=0,
        device="cpu",
    ) -> None:
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.n_centres = n_centres
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def _check_params(self):
        who, gamma = type(self).__name__, self.gamma
        if not callable(self.kernel):
            check_choice("kernel", self.kernel, KERNELS, who=who)
        if isinstance(gamma, str):
            check_choice("gamma", gamma, ("cv", "bound"), who=who)
        else:
            check_real("gamma", gamma, 0, inclusive=False, who=who)
        check_int("degree", self.degree, 1, who=who)
        check_real("coef0", self.coef0, 0, who=who)
        check_int("n_centres", self.n_centres, 1, who=who)
        self._check_climb()

    @property
    def _pairwise(self):
        return isinstance(self.kernel, str) and self.kernel == "precomputed"

    def _design(self, k, X, basis, gamma, mean, ones):
        """The Design of rows X (N,D): columns k(x, c), c the rows of basis (M,D), or of "precomputed" the columns of X
        with the numbers basis (M,); and 1 after them with ones. mean (D,) is taken off x and c in products, or None."""
        M, D = len(basis), X.shape[1]
        if self._pairwise or callable(self.kernel):

            def fill(a, b, Phi):
                if self._pairwise or M == 0:
                    rows = X[a:b][:, basis].astype(float) if M else np.empty((b - a, 0))
                else:
                    rows = np.asarray(self.kernel(X[a:b], basis), dtype=float)
                if rows.shape != (b - a, M) or not (np.abs(rows) < 1e140).all():
                    raise ValueError(
                        f"kernel(X, Y) must give finite numbers in an array (rows of X, rows of Y), here {(b - a, M)}, "
                        f"got {'some that are not, or above 1e140' if rows.shape == (b - a, M) else rows.shape}."
                    )
                k.adam.assign(Phi, np.column_stack([rows, np.ones((b - a, int(ones)))]))

        else:
            x, rbf = k.put(X), self.kernel == "rbf"
            about, none = k.put(np.zeros(D) if rbf else mean), k.put(np.empty(0))
            centres = k.put(np.ascontiguousarray((basis if rbf else basis - mean).T, dtype=float))
            kind = (
                (1.0, False, 0.0, 1) if self.kernel == "linear" else (gamma, rbf, float(self.coef0), int(self.degree))
            )
            if not rbf:
                self._check_products(X, basis, gamma, mean)

            def fill(a, b, Phi):
                rows = x[a:b]
                if not rbf:
                    rows = k.empty((b - a, D), np.dtype(float))
                    k.ppca.weigh(x[a:b], none, about, rows)
                k.relevance.basis(rows, centres, *kind, Phi)

        return Design(k, len(X), M + ones, fill)

    def _check_products(self, X, basis, gamma, mean):
        """Squares of the kernel's values must be numbers."""
        ends = [
            a.astype(float) - mean for rows in (X, basis) if len(rows) for a in (rows.max(axis=0), rows.min(axis=0))
        ]
        size = float(np.abs(ends).max())
        with np.errstate(over="ignore"):
            most = np.float64(size) * size * X.shape[1]
            most = most if self.kernel == "linear" else (gamma * most + self.coef0) ** self.degree
        if not most < 1e140:
            raise ValueError(f"Values of kernel={self.kernel!r} go up to {most:g}. Try scaling X, or a smaller gamma.")

    def _fit(self, X, y, w, problems, loss, strata):
        """-> the Climbs, and the attributes that they give.

        problems(k, design, y, w): objectives for the targets y (N,); loss(moments, y, w): minus the sum of the
        log-probabilities of y, moments a pair (m, v) for each problem and its Point; strata (N,): which rows to spread
        over the folds. Equal rows with equal targets count as one of their summed weight, and all are put in order: so
        the fit depends neither on the order of rows, nor on how it is told how often they were seen."""
        rng, kept = check_random_state(self.random_state), np.flatnonzero(w)
        if self._pairwise:
            if X.shape[0] != X.shape[1]:
                raise ValueError(f"A precomputed kernel must be square, (N,N) for the rows of fit, got {X.shape}.")
            index = kept
            X, y, w, strata = X[kept], y[kept], w[kept], strata[kept]
        else:
            order = kept[np.lexsort((y[kept], *X[kept].T[::-1]))]
            X, y, w, strata = X[order], y[order], w[order], strata[order]
            first = np.flatnonzero(np.append(True, (X[1:] != X[:-1]).any(axis=1) | (y[1:] != y[:-1])))
            w, index = np.add.reduceat(w, first), np.minimum.reduceat(order, first)
            X, y, strata = X[first], y[first], strata[first]
        w = np.empty(0) if (w == 1).all() else w
        _check_scale(X)
        k = self._kernels(20 * len(X) * min(len(X), self.n_centres) * X.shape[1], X)
        gamma, mean = 1.0, _weighted_mean(X, w) if self._products else None
        if isinstance(self.kernel, str) and self.kernel in ("rbf", "poly"):
            gamma = self._chosen(k, X, y, w, mean, problems, loss, strata, rng)
        centres = self._centres(X, np.arange(len(X)), rng)
        basis = index[centres] if self._pairwise else X[centres]
        design = self._design(k, X, basis, gamma, mean, self.fit_intercept)
        some = problems(k, design, y, w)
        climbs, told = self._solved(some, [p.start() for p in some], "Newton")
        points, M = [climb.params for climb in climbs], len(centres)
        if not self.fit_intercept:
            points = [p._replace(alpha=np.append(p.alpha, 0.0)) for p in points]
        relevance = np.unique(np.concatenate([p.q.active[p.q.active < M] for p in points]).astype(int))
        fitted = {
            **self._named(points, relevance),
            **told,
            "gamma_": float(gamma),
            "_fitted_functions": self._functions,
        }
        fitted["relevance_"] = index[centres[relevance]]
        if self._products:
            fitted["mean_"] = mean
        if not self._pairwise:
            fitted["relevance_vectors_"] = np.array(X[centres[relevance]])
        return climbs, fitted

    def _centres(self, X, rows, rng):
        """Numbers, among the rows given, of those that are centres: each different row once, n_centres at most."""
        if not self._pairwise:
            rows = rows[np.append(True, (X[rows[1:]] != X[rows[:-1]]).any(axis=1))]
        if len(rows) > self.n_centres:
            rows = rows[np.sort(rng.permutation(len(rows))[: self.n_centres])]
        return rows

    def _chosen(self, k, X, y, w, mean, problems, loss, strata, rng):
        """gamma by held-out log-probability, or by the bound, from wide to narrow.

        On few rows either is noisy: a square of the octaves, in nats for all rows, keeps gamma near its usual size."""
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        spread = X.astype(float).var(axis=0).sum()
        unit = 2.0 ** -np.round(np.log2(spread)) if spread > 0 else 1.0
        if len(X) > LOOKED_AT:
            some = np.sort(rng.permutation(len(X))[:LOOKED_AT])
            X, y, w, strata = np.ascontiguousarray(X[some]), y[some], w[some] if w.size else w, strata[some]
        folds = np.empty(len(X), int)
        for stratum in np.unique(strata):
            rows = np.flatnonzero(strata == stratum)
            folds[rows] = (rng.permutation(len(rows)) + rng.integers(FOLDS)) % min(FOLDS, len(X))
        parts = []
        for f in np.unique(folds) if self.gamma == "cv" else [-1]:
            train, test = np.flatnonzero(folds != f), np.flatnonzero(folds == f)
            if len(train):
                parts.append((train, test, X[self._centres(X, train, rng)]))
        best, gamma, waited, weight = np.inf, unit, 0, w.sum() if w.size else len(X)
        before: dict[tuple[int, int], np.ndarray] = {}
        with progress("Width", self.verbose, interval=1) as tick:
            for octave in OCTAVES:
                g, total = unit * 2.0**octave, float(octave**2)
                for f, (train, test, C) in enumerate(parts):
                    weights = (lambda rows: w[rows]) if w.size else (lambda rows: w)
                    some = problems(
                        k, self._design(k, X[train], C, g, mean, self.fit_intercept), y[train], weights(train)
                    )
                    climbs = []
                    for i, p in enumerate(some):
                        p.rest = 1e-6
                        climb = newton(p, p.start(before.get((f, i))), max_iter=self.max_iter, tol=1e-4)
                        if climb.interrupted:
                            raise KeyboardInterrupt("fit was stopped; the model is as it was before")
                        climbs.append(climb)
                        before[f, i] = climb.params.alpha
                    if self.gamma == "bound":
                        total -= sum(climb.bound * p.weight for climb, p in zip(climbs, some))
                        continue
                    design, held = self._design(k, X[test], C, g, mean, self.fit_intercept), []
                    for climb in climbs:
                        got = [design.moments(Phi, climb.params.q) for _, _, Phi in design.blocks()]
                        held.append([np.concatenate([k.get(part[i]) for part in got]) for i in (0, 1)])
                    total += loss(held, climbs, y[test], weights(test))
                if tick is not None:
                    tick(-total / weight)
                waited += 1
                if total < best:
                    best, gamma, waited = total, g, 0
                if waited >= PATIENCE or (waited > 1 and total - best > np.sqrt(weight)):
                    break
        return float(gamma)

    def _check_state(self):
        R, D = self.n_relevant_, self.n_features_in_
        shapes = self.relevance_.shape, self.coef_.shape[-1:], self.alpha_.shape[-1:]
        if set(shapes) != {(R,)} or set(self.covariance_.shape[-2:]) != {R + 1}:
            raise ValueError(f"n_relevant_ is {R}, which does not fit relevance_, coef_, alpha_ or covariance_")
        if self._pairwise and (self.relevance_ >= D).any():
            raise ValueError(f"relevance_ must be numbers below {D}")
        if not self._pairwise and len(self.relevance_vectors_) != R:
            raise ValueError(f"n_relevant_ is {R}, and there are {len(self.relevance_vectors_)} relevance_vectors_")
        super()._check_state()

    @property
    def _products(self):
        return isinstance(self.kernel, str) and self.kernel in ("linear", "poly")

    @property
    def _functions(self):
        return self.kernel, self.degree, self.coef0

    def _check_unchanged(self):
        """What answers read of the parameters must be as `fit` found it."""
        if self.__dict__.get("_fitted_functions", self._functions) != self._functions:
            raise ValueError("kernel, degree or coef0 was changed after fit. Call fit again.")

    def _inputs(self, k, X):
        self._check_unchanged()
        basis = self.relevance_ if self._pairwise else self.relevance_vectors_
        return self._design(k, X, basis, self.gamma_, self.mean_ if self._products else None, 1)


class RelevanceVectorClassifier(_Machine, _Classifier):
    """Relevance vector machine: logistic regression on basis functions k(x, c) at the rows c of X, most of them pruned.

    The model, the bound and the fit are those of VariationalLogisticRegression(prior="ard") with a full covariance; the
    basis functions that are kept, at the relevance vectors, are few, and probabilities integrate the posterior.

    Parameters
    ----------
    kernel : {"rbf", "linear", "poly", "precomputed"} or function, default "rbf"
        exp(-gamma |x - c|²); x'c; (gamma x'c + coef0)^degree, both of x and c less the mean of the rows; X is the
        matrix of k(x, c) for all rows of fit; or kernel(X, C) gives an array (rows of X, rows of C).
    gamma : float, "cv" or "bound", default "cv"
        Of "rbf" (Tipping's width r is 1/sqrt(gamma)) and "poly". "cv": that of the best held-out log-probability in
        five folds, tried from wide to narrow in steps of 2; of more than 4096 rows, on so many of them. "bound": that
        of the highest bound. It is faster, but prefers narrow and dense fits: N + 1 free prior variances overfit. Both
        have a weak prior, exp(-n²) for 2^n/(sum of the columns' variances), which counts on few rows alone.
    degree : int, default 3, and coef0 : float, default 1.0
        Of "poly".
    n_centres : int, default 1000
        Most basis functions; of more rows so many are drawn at random. Memory is for blocks of rows times n_centres.
    fit_intercept : bool, default True
    class_weight : None, "balanced" or dict {label: weight}, default None
        Multiplies the weights of rows; "balanced" gives all classes the same sum.
    tol : float, default 1e-6
        The fit stops when the last gain of a step, which is sweeps over all alpha until they rest and a pass over X,
        and the gain still to come as estimated from the last two, are below this times the bound (in nats per row,
        taken as 1 where it is less); 0 takes all steps.
    max_iter : int, default 500
        Most steps.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the folds, and the centres where they are drawn.
    verbose : int, default 0
        1 shows a bar.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.

    Attributes
    ----------
    classes_ : array (K,)
    relevance_ : array (R,), and relevance_vectors_ : array (R,D)
        The numbers of the rows of X that are kept, in any of the C problems (C = 1 for two classes, else K), and the
        rows (not for kernel="precomputed").
    n_relevant_ : int, R.
    coef_, alpha_ : array (C,R)
        Means of their weights and the prior variances; 0 where pruned.
    intercept_, intercept_alpha_ : array (C,)
    covariance_ : array (C,R+1,R+1)
        Of the weights and the intercept.
    gamma_ : float
        The one used.
    mean_ : array (D,), with kernel="linear" and "poly"
        Of the rows.
    lower_bound_ : float
        On log p(y|X), in nats per row; summed over the C problems.
    lower_bounds_ : list of float
        After each step: it never falls.
    n_iter_ : int, and converged_ : bool
    n_features_in_ : int, and feature_names_in_ : array (D,), when X was a data frame.

    Raises
    ------
    ValueError or TypeError
        Bad data or parameters: before anything is changed.
    RuntimeError, MemoryError
        The device cannot be used here; it has no room.
    After any of them the model is as it was before the fit.

    Notes
    -----
    Scale the columns of X, which count alike in the distance. Equal rows are one centre, and `sample_weight` is exact:
    weight 2 is that row twice. More than two classes are one-versus-rest. Ctrl-C ends the fit of two classes after the
    last complete step and raises.
    Tipping (2001); Bishop & Tipping (2000); Tipping & Faul (2003). lvm.objectives.relevance has the equations.

    Examples
    --------
    >>> import lvm, numpy as np
    >>> X = lvm.datasets.load_iris()[50:, 2:]
    >>> y = np.repeat(["versicolor", "virginica"], 50)
    >>> model = lvm.RelevanceVectorClassifier(random_state=0).fit(X, y)
    >>> model.n_relevant_ < 10
    True
    >>> model.predict(X[:2])
    array(['versicolor', 'versicolor'], dtype='<U10')
    """

    _schema = 1

    @staticmethod
    def _state(params):
        return {
            "classes_": ("labels", ("K",), None),
            "covariance_": ("f8", ("C", "*", "*"), "finite"),
            **_of_machine(params),
        }

    def __init__(
        self,
        *,
        kernel="rbf",
        gamma="cv",
        degree=3,
        coef0=1.0,
        n_centres=1000,
        fit_intercept=True,
        class_weight=None,
        tol=1e-6,
        max_iter=500,
        random_state=None,
        verbose=0,
        device="cpu",
    ) -> None:
        super().__init__(
            kernel=kernel,
            gamma=gamma,
            degree=degree,
            coef0=coef0,
            n_centres=n_centres,
            fit_intercept=fit_intercept,
            tol=tol,
            max_iter=max_iter,
            random_state=random_state,
            verbose=verbose,
            device=device,
        )
        self.class_weight = class_weight

    def _check_params(self):
        super()._check_params()
        check_class_weight(self.class_weight, who=type(self).__name__)

    def fit(self, X, y, sample_weight=None) -> "RelevanceVectorClassifier":
        """Fit to X (N,D), of a precomputed kernel (N,N), and labels y (N,), rows weighted by sample_weight (N,)."""
        self._check_params()
        X, names = self._check_fit_X(X)
        classes, codes, w = check_classes(y, len(X), self.class_weight, sample_weight, type(self).__name__)
        host = kernels.load("cpu")

        def problems(k, design, y, w):
            signs = self._signs(len(classes), y)
            return [Logistic(k, host, design, s, w, self.fit_intercept, "ard", True) for s in signs]

        def loss(moments, climbs, y, w):
            log_p = _log_proba(np.column_stack([_odds(m, v) for m, v in moments]))[np.arange(len(y)), y]
            return -(w @ log_p if w.size else log_p.sum())

        climbs, fitted = self._fit(X, codes, w, problems, loss, codes)
        self._remember(X, names, {"classes_": classes, **fitted})
        self._finish(climbs, self.max_iter)
        return self


class RelevanceVectorRegressor(_Machine):
    """Relevance vector machine for regression: basis functions k(x, c) at the rows c of X, most of them pruned.

    y = w'phi(x) + noise of variance noise_variance_, w ~ N(0, diag alpha). The posterior of w is exact, and the
    evidence is maximised over alpha and the noise variance (Tipping 2001).

    Parameters
    ----------
    kernel, gamma, degree, coef0, n_centres, fit_intercept, tol, max_iter, random_state, verbose, device
        As of RelevanceVectorClassifier.

    Attributes
    ----------
    relevance_, relevance_vectors_, n_relevant_, gamma_, lower_bounds_, n_iter_, converged_
        As of RelevanceVectorClassifier.
    coef_, alpha_ : array (R,)
        Means of the weights and their prior variances.
    intercept_, intercept_alpha_ : float
        The intercept, and the prior variance of what it is beyond the mean of y.
    covariance_ : array (R+1,R+1)
        Of the weights and the intercept.
    noise_variance_ : float
        At least 1e-12 of the variance of y.
    lower_bound_ : float
        log p(y|X), in nats per row: here the bound is the evidence itself.

    Raises
    ------
    As RelevanceVectorClassifier.

    Examples
    --------
    >>> import lvm, numpy as np
    >>> x = np.linspace(-10, 10, 100)[:, None]
    >>> model = lvm.RelevanceVectorRegressor(random_state=0).fit(x, np.sinc(x[:, 0] / np.pi))
    >>> mean, std = model.predict([[0.0], [1.0]], return_std=True)
    >>> mean.round(2)
    array([1.  , 0.84])
    """

    _kind = "regressor"
    _schema = 1

    noise_variance_: float

    @staticmethod
    def _state(params):
        return {
            **_of_machine(params),
            "coef_": ("f8", ("*",), "finite"),
            "alpha_": ("f8", ("*",), "nonnegative"),
            "intercept_": (float, (), "finite"),
            "intercept_alpha_": (float, (), "nonnegative"),
            "covariance_": ("f8", ("*", "*"), "finite"),
            "noise_variance_": (float, (), "positive"),
        }

    def fit(self, X, y, sample_weight=None) -> "RelevanceVectorRegressor":
        """Fit to X (N,D), of a precomputed kernel (N,N), and targets y (N,), rows weighted by sample_weight (N,)."""
        self._check_params()
        X, names = self._check_fit_X(X, min_samples=2)
        y = check_targets(y, len(X), type(self).__name__)
        w = check_weight(sample_weight, len(X))
        unit = np.abs(y).max()
        shift = unit * float(w @ (y / (unit or 1.0)) / w.sum()) if self.fit_intercept else 0.0
        unit = np.abs(y - shift).max() or 1.0
        scale = unit * float(np.sqrt(w @ ((y - shift) / unit) ** 2 / w.sum())) or 1.0
        if not 1e-140 < scale < 1e140:
            raise ValueError(f"y varies by {scale:g}, of which the square is no number. Try scaling y.")
        host = kernels.load("cpu")

        def problems(k, design, y, w):
            return [Regression(k, host, design, y, w, self.fit_intercept, "ard")]

        def loss(moments, climbs, y, w):
            ((m, v),), s = moments, climbs[0].params.sigma2
            l = 0.5 * (np.log(2 * np.pi * (v + s)) + (y - m) ** 2 / (v + s))
            return w @ l if w.size else l.sum()

        climbs, fitted = self._fit(X, (y - shift) / scale, w, problems, loss, np.zeros(len(X), int))
        fitted["coef_"] = scale * fitted["coef_"][0]
        fitted["alpha_"] = scale**2 * fitted["alpha_"][0]
        fitted["intercept_"] = float(shift + scale * fitted["intercept_"][0])
        fitted["intercept_alpha_"] = float(scale**2 * fitted["intercept_alpha_"][0])
        fitted["covariance_"] = scale**2 * fitted["covariance_"][0]
        fitted["noise_variance_"] = float(scale**2 * climbs[0].params.sigma2)
        fitted["lower_bounds_"] = [b - float(np.log(scale)) for b in fitted["lower_bounds_"]]
        fitted["lower_bound_"] = fitted["lower_bounds_"][-1]
        self._remember(X, names, fitted)
        self._finish(climbs, self.max_iter)
        return self

    def _posteriors(self):
        return [_posterior(np.append(self.coef_, self.intercept_), self.covariance_)]

    def _evidence(self, X, y, **_):
        """See lvm.evidence.report. The prior of the intercept is about the mean of y, as in fit."""
        X = self._check_X(X)
        y = check_targets(y, len(X), type(self).__name__)
        k, shift = self._kernels(len(X) * (self.n_relevant_ + 1) ** 2, X), y.mean() if self.fit_intercept else 0.0
        alpha, s2 = np.append(self.alpha_, self.intercept_alpha_), self.noise_variance_
        mu, active = np.append(self.coef_, self.intercept_ - shift), np.flatnonzero(alpha)
        problem = Regression(k, kernels.load("cpu"), self._inputs(k, X), y - shift, np.empty(0), True, "ard")
        A, b = problem._moments(np.arange(len(alpha))).of(active)
        best = posterior(active, A / s2, b / s2, alpha[active], True)
        q = _with_log_det(_posterior(mu[active], self.covariance_[np.ix_(active, active)]))
        log_p, elbo = (len(X) * problem._bound(one, A, b, alpha[active], s2) for one in (best, q))
        return evidence.exact_report(self, [log_p], "exact, a normal density", len(X), elbo)

    def predict(self, X, return_std=False):
        """Mean (N,) of y at the rows of X; with return_std also its standard deviation (N,), of the weights' posterior
        and of the noise."""
        X = self._check_X(X)
        M, V = self._moments(X)
        mean = self._as(M[:, 0].astype(X.dtype), X)
        if not return_std:
            return mean
        return mean, self._as(np.sqrt(V[:, 0] + self.noise_variance_).astype(X.dtype), X)

    def score(self, X, y, sample_weight=None) -> float:
        """R², the part of the variance of y that `predict` tells, rows weighted by sample_weight (N,): 1 is perfect."""
        X = self._check_X(X)
        y = check_targets(y, len(X), type(self).__name__)
        w = check_weight(sample_weight, len(X))
        rest = w @ (y - self._moments(X)[0][:, 0]) ** 2
        total = w @ (y - w @ y / w.sum()) ** 2
        return float(1 - rest / total) if total > 0 else float(rest == 0)


def _of_machine(params):
    """What a file has of both machines."""
    kernel = params["kernel"]
    more: dict[str, Any] = {} if kernel == "precomputed" else {"relevance_vectors_": ("f", ("*", "D"), "finite")}
    if kernel in ("linear", "poly"):
        more["mean_"] = ("f8", ("D",), "finite")
    return {
        "coef_": ("f8", ("C", "*"), "finite"),
        "intercept_": ("f8", ("C",), "finite"),
        "alpha_": ("f8", ("C", "*"), "nonnegative"),
        "intercept_alpha_": ("f8", ("C",), "nonnegative"),
        "relevance_": ("i8", ("*",), "nonnegative"),
        **more,
        "n_relevant_": (int, (), "nonnegative"),
        "gamma_": (float, (), "positive"),
        "lower_bound_": (float, (), "finite"),
        "lower_bounds_": (float, ("*",), "finite"),
        "n_iter_": (int, (), "nonnegative"),
        "converged_": (bool, (), None),
    }
