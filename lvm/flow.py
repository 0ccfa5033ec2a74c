"""Normalising flows: the estimator."""

import hashlib
from typing import Any

import numpy as np

from . import evidence as importance_weights
from . import kernels, starts, targets
from .estimator import (
    Transformer,
    check_array,
    check_bool,
    check_choice,
    check_int,
    check_random_state,
    check_real,
    check_training,
    check_verbose,
    refuse,
    warn,
)
from .fit import SCHEDULES, Batches, Steps, held_out, stochastic
from .objectives.flow import Bound, Likelihood, at
from .parameters import Parameters

KINDS = ("planar", "radial", "affine")
DIRECTIONS = ("auto", "normalising", "generative")
STEPS = 100  # at least, of an epoch
PIECE = 1 << 16  # samples that are weighed at a time


class PlanarFlow(Transformer):
    """A normalising flow of planar layers, z + u tanh(w'z + b), trained on samples or towards an unnormalised density.

    x and z, z standard normal, are tied one to one by the layers, so that the density of x is known:
    log q(x) = log N(z | 0, I) + log|det dz/dx|. `fit(X)` maximises the likelihood (forward KL), `fit_target(target)`
    the bound E_q[log pi(x) - log q(x)] on log Z (reverse KL). Each layer can be inverted, for any parameters, so that
    either can be done in either direction.

    Parameters
    ----------
    n_layers : int, default 8
        K.
    layers : {"planar", "radial", "affine"} or a sequence of these, default "planar"
        What each layer is; a sequence is repeated until there are n_layers of them. Planar: f(z) = z + û tanh(w'z + b),
        û being u moved along w as far as it takes for f to be invertible. Radial: z + beta (z - w)/(alpha + |z - w|).
        Affine: e^w z + u, by elements.
    base : {"learned", "fixed"}, default "learned"
        "learned" has one more affine layer next to z: the base is N(mu, diag sigma²), mu and sigma learned, in place of
        N(0, I).
    standardise : bool, default True
        `fit` takes the columns of X to mean 0 and standard deviation 1 first: an affine layer that is not trained,
        whose log-determinant counts as any other's. (Means and deviations are those of 65536 rows, where X has more.)
    direction : {"auto", "normalising", "generative"}, default "auto"
        Do the layers' formulas go from x to z, or from z to x? The other way takes their inverses, by Newton's method,
        at 2 to 3 times the cost. "auto": what training needs is direct, "normalising" in `fit`, "generative" in
        `fit_target`.
    batch_size : int, default 256
        Rows, or samples, for a step.
    max_epochs : int, default 300
        An epoch is 100 steps, or the whole passes over X that make at least as many.
    learning_rate : float, default 0.01
        Of Adam.
    schedule : {"cosine", "constant"}, default "cosine"
        "cosine" takes the rate to 0 over max_epochs.
    early_stopping : bool, default False
        `fit` holds rows out, and keeps the parameters under which they are the most likely.
    validation_fraction : float, default 0.1
        Part of the rows to hold out.
    n_epochs_no_change : int or None, default None
        Training ends before max_epochs when the bound's mean over so many epochs is not more than `tol` above the mean
        of as many before; with early_stopping, when that of the rows held out has not risen for so many epochs. None:
        always all epochs, for the end of the cosine is where most of the last hundredths of a nat are won.
    tol : float, default 1e-4
        Nats per row.
    clip_norm : float or None, default None
        Longest gradient for a step.
    annealing_steps : int or None, default None
        `fit_target` gives log pi a weight that rises from 0.01 to 1 over so many steps. None: half of the training.
    callback : callable or None, default None
        callback(epoch, values) after each epoch; training ends when it returns True.
    checkpoint : path or None, default None
        A file to go on from: see the notes.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the start, the batches and the noise, for `sample`, `elbo` and `evidence`.
    verbose : int, default 0
        1 shows a bar.

    Attributes
    ----------
    layers_ : list of str
        The layers, as f has them: from x to z if direction_ is "normalising", from z to x if "generative".
    u_, w_, b_ : arrays (K,D), (K,D), (K,)
        Their parameters, K with the base's. (Of radial ones alpha = softplus(b), beta = softplus(b + u[0]) - alpha.)
    direction_ : str
    mean_, scale_ : arrays (D,)
        What X was standardised with; 0 and 1 after `fit_target`.
    lower_bound_ : float
        Nats per row: the mean log-likelihood in the last epoch, or of the rows held out; after `fit_target` the mean of
        log pi(x) - log q(x) over draws, of which the expectation is log Z at most.
    lower_bounds_ : list of float
        Of each epoch, as the parameters were while it went on.
    history_ : dict of lists
        A value for each epoch: "lower_bound", "log_det", the mean log|det| of all layers, "log_prior", the mean log
        N(z), and "log_target", the mean log pi(x); with early_stopping "validation_lower_bound". Not kept in files.
    n_iter_ : int, and converged_ : bool
        Epochs; was it n_epochs_no_change that ended training, or, with None, max_epochs?
    n_features_in_ : int, and feature_names_in_ : array (D,), when X was a data frame.

    Raises
    ------
    ValueError or TypeError
        Bad data or parameters: before anything is changed.
    NumericalError
        The gradient is not finite again and again. It is a ValueError.
    RuntimeError, MemoryError
        The device cannot be used here; it has no room.
    After any of them the model is as it was before the fit.

    Notes
    -----
    A likelihood has no maximum where rows repeat or columns are constant: training then goes where the bounds of the
    affine layers (scales of e^20) leave it. float32 data are fitted in float32. Ctrl-C ends training after the last
    whole epoch and raises; the model is that of this epoch, or with early_stopping of the best one. A step that is not
    finite is undone and the rate halved. A checkpoint is written every 30 seconds and at the end, and a fit with the
    same parameters and data (as far as the means and deviations of 65536 rows tell) that finds one goes on from it,
    with the same bits as if it had never stopped. It needs an integer random_state.
    Rezende & Mohamed (2015); Papamakarios, Nalisnick, Rezende, Mohamed & Lakshminarayanan (2021). lvm.objectives.flow
    has what each KL needs, kernels/shared/flow.py why the layers can be inverted.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_faithful()
    >>> flow = lvm.PlanarFlow(8, max_epochs=20, random_state=0).fit(X)
    >>> Z = flow.transform(X)
    >>> bool(abs(flow.inverse_transform(Z) - X).max() < 1e-6)
    True
    >>> flow.score(X) > lvm.GaussianMixture(1).fit(X).score(X)
    True
    """

    layers_: list[str]
    u_: np.ndarray
    w_: np.ndarray
    b_: np.ndarray
    direction_: str
    mean_: np.ndarray
    scale_: np.ndarray
    lower_bound_: float
    lower_bounds_: list[float]
    history_: dict[str, list[float]]
    n_iter_: int
    converged_: bool

    _kind = "density_estimator"
    _schema = 1
    _state = {
        "layers_": (str, ("K",), None),
        "u_": ("f", ("K", "D"), "finite"),
        "w_": ("f", ("K", "D"), "finite"),
        "b_": ("f", ("K",), "finite"),
        "direction_": (str, (), None),
        "mean_": ("f", ("D",), "finite"),
        "scale_": ("f", ("D",), "positive"),
        "lower_bound_": (float, (), None),  # -inf, where a target is 0 somewhere
        "lower_bounds_": (float, ("*",), None),
        "n_iter_": (int, (), "nonnegative"),
        "converged_": (bool, (), None),
    }

    def __init__(
        self,
        n_layers=8,
        *,
        layers="planar",
        base="learned",
        standardise=True,
        direction="auto",
        batch_size=256,
        max_epochs=300,
        learning_rate=0.01,
        schedule="cosine",
        early_stopping=False,
        validation_fraction=0.1,
        n_epochs_no_change=None,
        tol=1e-4,
        clip_norm=None,
        annealing_steps=None,
        callback=None,
        checkpoint=None,
        device="cpu",
        random_state=None,
        verbose=0,
    ) -> None:
        self.n_layers = n_layers
        self.layers = layers
        self.base = base
        self.standardise = standardise
        self.direction = direction
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_epochs_no_change = n_epochs_no_change
        self.tol = tol
        self.clip_norm = clip_norm
        self.annealing_steps = annealing_steps
        self.callback = callback
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        who = type(self).__name__
        check_int("n_layers", self.n_layers, 0 if self.base == "learned" else 1, who=who)
        kinds = [self.layers] if isinstance(self.layers, str) else self.layers
        if not isinstance(kinds, (list, tuple)) or not kinds:
            refuse("layers", who, f"one of {', '.join(map(repr, KINDS))} or a list of them", self.layers)
        for kind in kinds:
            check_choice("layers", kind, KINDS, who=who)
        if not isinstance(self.layers, str) and len(kinds) > self.n_layers:
            raise ValueError(
                f"layers names {len(kinds)} kinds, and n_layers is {self.n_layers}. Try n_layers={len(kinds)}."
            )
        check_choice("base", self.base, ("learned", "fixed"), who=who)
        check_bool("standardise", self.standardise, who=who)
        check_choice("direction", self.direction, DIRECTIONS, who=who)
        check_training(self)
        check_choice("schedule", self.schedule, SCHEDULES, who=who)
        check_real("tol", self.tol, 0, who=who)
        if self.annealing_steps is not None:
            check_int("annealing_steps", self.annealing_steps, 0, who=who)
        check_verbose(self.verbose, who=who)
        kernels.load(self.device)

    @property
    def _n_features_out(self):
        return self.u_.shape[1]

    # -- training

    def fit(self, X, y=None) -> "PlanarFlow":
        """Maximise the likelihood of X (N,D), forward KL. y is ignored. Returns self."""
        self._check_params()
        X, names = self._check_fit_X(X, min_samples=2)
        (N, D), T = X.shape, X.dtype
        rng = self._rng()
        rows = np.arange(N)
        rows, held = held_out(rows, self.validation_fraction, rng) if self.early_stopping else (rows, rows[:0])
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            spread = starts.column_spread(X, np.empty(0))
            mean, scale = (a.astype(T) for a in (spread if self.standardise else (np.zeros(D), np.ones(D))))
            factor = 1 / scale
        if not (np.isfinite(mean).all() and np.isfinite(factor).all() and np.isfinite(scale).all()):
            raise ValueError(f"X varies too much, or too little, for {T}. Try scaling X.")
        kinds, direction = self._kinds("normalising")
        size = min(self.batch_size, len(rows))
        passes = -(-STEPS // -(-len(rows) // size))
        k = self._kernels(12 * N * D * len(kinds) * passes * self.max_epochs, X)
        p = self._start(k, kinds, D, T, rng)
        batches = Batches(k, len(rows), size, int(rng.integers(2**63)), rows if len(held) else None, passes)
        inverse = int(direction == "generative")
        o = Likelihood(k, places(kinds), inverse, p, size, len(rows) * passes, k.put(X), mean, factor, held)
        data = hashlib.sha256(b"".join(a.tobytes() for a in spread)).hexdigest()
        self._train(X, names, o, batches, p, kinds, direction, mean, scale, 0, self.early_stopping, {"data": data})
        return self

    def fit_target(self, target, n_features=2, *, dtype=np.float64) -> "PlanarFlow":
        """Maximise E_q[log pi(x) - log q(x)], pi a density that is known but for a constant: reverse KL. Returns self.

        target: log_pi (M,), gradient (M,D) = target(z) for z (M,D): of lvm.targets, or any callable. One that
        `numba.njit` made is compiled into the training loop of the CPU, which takes some seconds once; others are
        called on each batch. n_features: D. dtype: np.float32 or np.float64, of training and of what target gets."""
        self._check_params()
        who, T = "fit_target", np.dtype(dtype)
        D = check_int("n_features", n_features, 1, who=who)
        if T not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {T}.")
        if not callable(target):
            raise TypeError(f"target must be callable, log_pi, gradient = target(z), got {type(target).__name__}.")
        if self.early_stopping:
            raise ValueError("early_stopping is for `fit`: a target has no rows to hold out. Try early_stopping=False.")
        rng = self._rng()
        log_pi, g = at(target, rng.standard_normal((16, D)).astype(T))
        if not (log_pi < np.inf).all():
            raise ValueError(
                "The target gave a log_pi of NaN or infinity at a draw of the standard normal, where training begins. "
                "It must be a number, or -inf where the density is 0."
            )
        if not (np.isfinite(log_pi).any() and np.isfinite(g).all()):
            raise ValueError(
                "The target is 0, or its gradient not finite, at draws of the standard normal, where training begins. "
                "Try to move and scale it."
            )
        kinds, direction = self._kinds("generative")
        B = self.batch_size
        k = self._kernels(12 * B * D * len(kinds) * STEPS * self.max_epochs)
        p = self._start(k, kinds, D, T, rng)
        total = STEPS * self.max_epochs
        annealing = total // 2 if self.annealing_steps is None else min(self.annealing_steps, total)
        which = k.flow.ENDS.index(target.name) if isinstance(target, targets.Energy) else None
        inverse = int(direction == "normalising")
        seed = int(rng.integers(2**63))
        o = Bound(k, places(kinds), inverse, p, B, B * STEPS, which, target, seed, annealing)
        zeros, ones = np.zeros(D, T), np.ones(D, T)
        batches = Steps(STEPS, same=o.backward is not None)
        told = b"".join(np.round(a, 6).tobytes() for a in (log_pi, g))  # rounded, for what adds up in any order
        settings = {"target": hashlib.sha256(told).hexdigest(), "seed": seed, "batch_size": B}
        self._train(np.empty((0, D)), None, o, batches, p, kinds, direction, zeros, ones, annealing, False, settings)
        return self

    def _rng(self):
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError("A checkpoint needs the same noise again. Try an integer random_state.")
        return check_random_state(self.random_state)

    def _kinds(self, direct):
        """The layers in the order of f, and the direction, which is `direct` unless another is wanted."""
        direction = direct if self.direction == "auto" else self.direction
        some = [self.layers] if isinstance(self.layers, str) else list(self.layers)
        kinds = [some[i % len(some)] for i in range(self.n_layers)]
        base = ["affine"] * (self.base == "learned")
        return (kinds + base if direction == "normalising" else base + kinds), direction

    def _start(self, k, kinds, D, T, rng):
        """Layers near the identity, that bend space in different places."""
        K = len(kinds)
        p = Parameters(k, {"u": (K, D), "w": (K, D), "b": (K,)}, T)
        u, w, b = 0.1 * rng.standard_normal((K, D)), rng.standard_normal((K, D)), rng.standard_normal(K)
        for i, kind in enumerate(kinds):
            if kind == "planar":
                w[i] /= np.sqrt(D)
            elif kind == "radial":
                u[i, 1:], b[i] = 0, np.log(np.e - 1)  # alpha = 1
            else:
                u[i], w[i], b[i] = 0, 0, 0
        p.assign({"u": u, "w": w, "b": b})
        return p

    def _train(self, X, names, o, batches, p, kinds, direction, mean, scale, warmup, early_stopping, settings):
        names_of = ("standardise", "validation_fraction")
        training = stochastic(
            o,
            batches,
            p,
            max_epochs=self.max_epochs,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            schedule=self.schedule,
            warmup_steps=warmup,
            early_stopping=early_stopping,
            n_epochs_no_change=self.n_epochs_no_change,
            tol=self.tol,
            callback=self.callback,
            checkpoint=self.checkpoint,
            settings={
                "kinds": kinds,
                "direction": direction,
                **settings,
                **{name: getattr(self, name) for name in names_of},
            },
            verbose=self.verbose,
        )
        theta, unasked = p.get(), self.n_epochs_no_change is None
        fitted = {
            "layers_": kinds,
            **{f"{name}_": theta[name] for name in "uwb"},
            "direction_": direction,
            "mean_": mean,
            "scale_": scale,
            "lower_bound_": float(training.bound),
            "lower_bounds_": training.history["lower_bound"],
            "history_": training.history,
            "n_iter_": training.n_epochs,
            "converged_": training.converged or (unasked and training.n_epochs == self.max_epochs),
        }
        self._remember(X, names, fitted)
        if training.interrupted:
            best = "the best epoch up to" if early_stopping else "epoch"
            raise KeyboardInterrupt(f"fit was stopped; the model is that of {best} {self.n_iter_}")
        if np.isnan(training.bound):
            warn(
                "The bound of the last epoch is not a number: the target gave a log_pi of NaN, or a step was not "
                "finite. See history_, and `elbo` for the bound as it is now."
            )

    # -- answers

    def _check_state(self):
        self.layers_ = list(self.layers_)  # a file gives an array
        if not set(self.layers_) <= set(KINDS):
            raise ValueError(f"layers_ must be of {KINDS}, got {sorted(set(self.layers_))}")
        if self.direction_ not in DIRECTIONS[1:]:
            raise ValueError(f"direction_ must be one of {DIRECTIONS[1:]}, got {self.direction_!r}")

    def _through(self, X, shift, factor, inverse, layers=slice(None)):
        """The layers' formulas for (x - shift) factor, or their inverses, in X's dtype: Z, l as NumPy arrays."""
        T = X.dtype
        k = self._kernels(12 * X.size * len(self.b_), X)
        kinds = places(self.layers_[layers])
        table = k.empty((len(kinds), 2 * X.shape[1] + 3), T)
        x, on_device = k.put(X), k.put(kinds)
        k.flow.prepare(on_device, *(k.put(a[layers].astype(T)) for a in (self.u_, self.w_, self.b_)), table)
        Z, l = k.empty(X.shape, T), k.empty(len(X), T)
        shift, factor = k.put(shift.astype(T)), k.put(factor.astype(T))
        k.flow.forward(on_device, table, inverse, x, k.put(np.empty(0, np.int64)), shift, factor, Z, l)
        return k.get(Z), k.get(l)

    def _to_z(self, X):
        """z (N,D) and log|det dz/dx| (N,)."""
        Z, l = self._through(X, self.mean_, 1 / self.scale_, int(self.direction_ == "generative"))
        return Z, l - float(np.log(self.scale_).sum())

    def _to_x(self, Z):
        """x (N,D) and log|det dx/dz| (N,)."""
        zero, one = np.zeros(Z.shape[1]), np.ones(Z.shape[1])
        X, l = self._through(Z, zero, one, int(self.direction_ == "normalising"))
        return X * self.scale_.astype(X.dtype) + self.mean_.astype(X.dtype), l + float(np.log(self.scale_).sum())

    def transform(self, X) -> Any:
        """z of each row x: (N,D). Under the model z is standard normal."""
        given = X
        X = self._check_X(X)
        return self._wrap(self._as(self._to_z(X)[0], X), given)

    def inverse_transform(self, Z) -> np.ndarray:
        """x of each row z: (N,D)."""
        self._check_fitted()
        Z = check_array(Z, type(self).__name__, 1, False, self._device)
        if Z.shape[1] != self.u_.shape[1]:
            raise ValueError(f"Z must have {self.u_.shape[1]} columns, as X has, got {Z.shape[1]}.")
        return self._as(self._to_x(Z)[0], Z)

    def score_samples(self, X) -> np.ndarray:
        """log q(x) of each row, in nats: (N,)."""
        X = self._check_X(X)
        return self._as(self._log_density(X), X)

    def score(self, X, y=None) -> float:
        """The mean of `score_samples(X)`, in nats. y is ignored."""
        return float(self._log_density(self._check_X(X)).mean(dtype=float))

    def _log_density(self, X):
        """log q(x) (N,), by pieces: of z no more is ever there."""
        log_q = np.empty(len(X), X.dtype)
        for a in range(0, len(X), PIECE):
            Z, l = self._to_z(X[a : a + PIECE] if len(X) > PIECE else X)
            log_q[a : a + PIECE] = _log_normal(Z) + l
        return log_q

    def _noise(self, n, stream, T):
        k, Z = kernels.load("cpu"), np.empty((n, self.u_.shape[1]), T)
        k.random.normal(int(check_random_state(self.random_state).integers(2**63)), stream, 0, Z)
        return Z

    def sample(self, n_samples=1) -> np.ndarray:
        """Draw rows from the model: (n,D).

        With an integer `random_state` every call draws the same; pass a Generator for fresh ones."""
        self._check_fitted()
        n = check_int("n_samples", n_samples, 1, who="sample")
        return self._to_x(self._noise(n, 0, self.u_.dtype))[0]

    def warp(self, Z) -> np.ndarray:
        """The way of the points z (N,D) to x, in the units of X: (K+1,N,D), z itself first, then after each layer."""
        self._check_fitted()
        Z = np.asarray(check_array(Z, type(self).__name__, 1, False, self._device))
        if Z.shape[1] != self.u_.shape[1]:
            raise ValueError(f"Z must have {self.u_.shape[1]} columns, as X has, got {Z.shape[1]}.")
        K, inverse = len(self.b_), int(self.direction_ == "normalising")
        zero, one, way = np.zeros(Z.shape[1]), np.ones(Z.shape[1]), [Z]
        for i in range(K):
            j = K - 1 - i if inverse else i
            way.append(self._through(way[-1], zero, one, inverse, slice(j, j + 1))[0])
        return np.stack(way) * self.scale_.astype(Z.dtype) + self.mean_.astype(Z.dtype)

    def _evidence(self, X, y, **_):
        """See lvm.evidence.report: x tells z, and no posterior is left."""
        how = "exact, by the flow's log-determinant"
        return importance_weights.exact_report(self, self._log_density(self._check_X(X)), how)

    def evidence(self, target, n_samples=100_000) -> importance_weights.Evidence:
        """How close q is to pi/Z: the bound E_q[log pi(x) - log q(x)] on log Z, and log Z itself by importance weights
        pi(x)/q(x) of draws from q, both with standard errors, the effective sample size and Pareto's k.

        target as in `fit_target`. In float64. With an integer `random_state` every call takes the same draws."""
        return importance_weights.importance(self._log_weights(target, n_samples, "evidence"))

    def elbo(self, target, n_samples=10_000, *, return_std=False) -> Any:
        """The bound E_q[log pi(x) - log q(x)] on log Z, in nats, from draws; with return_std its standard error too."""
        found = importance_weights.importance(self._log_weights(target, n_samples, "elbo"))
        return (found.elbo, found.elbo_error) if return_std else found.elbo

    def _log_weights(self, target, n_samples, who):
        self._check_fitted()
        n = check_int("n_samples", n_samples, 2, who=who)
        if not callable(target):
            raise TypeError(f"target must be callable, log_pi, gradient = target(z), got {type(target).__name__}.")
        Z, log_w = self._noise(n, 1, float), np.empty(n)
        for a in range(0, n, PIECE):
            i = slice(a, min(a + PIECE, n))
            X, l = self._to_x(Z[i])
            log_w[i] = at(target, X)[0] - (_log_normal(Z[i]) - l)
        return log_w


def places(kinds):
    """The kinds of layers as the kernels number them: (K,) int64."""
    return np.array([KINDS.index(kind) for kind in kinds], np.int64)


def _log_normal(Z):
    """log N(z | 0, I): (N,) of Z's dtype."""
    with np.errstate(over="ignore"):  # -inf, far out
        return (-0.5 * (Z * Z).sum(axis=1) - 0.5 * Z.shape[1] * np.log(2 * np.pi)).astype(Z.dtype)
