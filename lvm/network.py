"""Bayesian nets with relevance determination in every layer: the estimators, and the small nets that are left."""

import hashlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import evidence, kernels
from .calibration import calibration, codes_of
from .estimator import (
    ConvergenceWarning,
    Estimator,
    check_choice,
    check_class_weight,
    check_classes,
    check_counts,
    check_int,
    check_labels,
    check_random_state,
    check_real,
    check_targets,
    check_training,
    check_verbose,
    check_weight,
    class_factors,
    on_disk,
    refuse,
    warn,
)
from .fit import SCHEDULES, Ahead, Batches, held_out, stochastic
from .objectives.network import THRESHOLD, Architecture, Bound, Net, log_ratio
from .objectives.vae import log_variance
from .parameters import Parameters

ACTIVATIONS = ("relu", "tanh", "softplus", "leaky_relu")
PRIORS = ("ard", "log_uniform", "gaussian")
STEPS = 100  # at least, of an epoch
LIGHTEST = 1e-6  # weight of all rows together
SPARSE = 1 << 16, 64  # numbers in a layer, and of them to each that is not 0, from which on CSR is faster: measured
START = -8.0  # log S of all weights at the start
QUIET = -4.0  # log-variance of y, standardised, at the start: with more noise the KL prunes before y has said much
FAR = 5.0  # a column's farthest entry is so many of what the column is divided by from its mean, at most
FOLDED = 100.0  # standard deviations from 0 that a column may be for its centring to go into the biases
GAUSSIAN = 1, "gaussian"  # outputs of a regressor, and its likelihood
ROOM = 4096, 1 << 22  # rows times draws that answers take at a time, and numbers of a layer: at most
BLOCK = 1 << 20  # numbers of X that are looked at together
ANSWER = 9  # stream of random numbers: another than training has
INTERVAL = 0.9, 1.6448536269514722  # probability and half width, in standard deviations, of a central interval


class Classification(NamedTuple):
    """How a classifier does on some rows: means over them.

    bound : log_likelihood less kl, in nats per row: a bound on log p(y|X) where the rows are those of fit and nothing
        is pruned
    log_likelihood : E_q[log p(y|x,w)]
    kl : KL(q || p)/W, W the weight of the rows of fit
    accuracy : part of the rows that are told right
    nll : -log p(y|x), p averaged over q, in nats
    brier, ece : Brier score and expected calibration error, as lvm.plotting.calibration has them
    """

    bound: float
    log_likelihood: float
    kl: float
    accuracy: float
    nll: float
    brier: float
    ece: float

    def __str__(self):
        return "\n".join(
            [
                f"accuracy        {self.accuracy:.4f}",
                f"NLL             {self.nll:.4f} nats a row",
                f"Brier score     {self.brier:.4f}",
                f"calibration     {self.ece:.4f}  (expected error of the probabilities)",
                f"bound           {self.bound:.4f} nats a row: {self.log_likelihood:.4f} less KL {self.kl:.4f}",
            ]
        )


class Regression(NamedTuple):
    """How a regressor does on some rows: means over them.

    bound, log_likelihood, kl : as of Classification, in the units of y
    r2 : part of the variance of y that the mean tells
    rmse : root of the mean squared error
    nll : -log p(y|x), p averaged over q, in nats
    coverage : part of the rows in the central 90 % interval of the predicted mean and standard deviation
    """

    bound: float
    log_likelihood: float
    kl: float
    r2: float
    rmse: float
    nll: float
    coverage: float

    def __str__(self):
        return "\n".join(
            [
                f"R²              {self.r2:.4f}",
                f"RMSE            {self.rmse:.6g}",
                f"NLL             {self.nll:.4f} nats a row",
                f"coverage        {self.coverage:.4f} of the rows in intervals of {INTERVAL[0]:.0%}",
                f"bound           {self.bound:.4f} nats a row: {self.log_likelihood:.4f} less KL {self.kl:.4f}",
            ]
        )


class SmallNet:
    """What is left of a net: its mean weights without those that are pruned, and without units that say nothing.

    Rows are taken as they are: where they are not finite, answers mean nothing.

    layers : list of (weights, biases), weights (inputs, outputs) dense, or scipy.sparse CSR of (outputs, inputs) where
        that is faster; of X as it is, for standardisation is in the first and the last.
    columns : the columns of X that the first layer takes: a slice, or numbers where there are few of them.
    shift : what they are centred at, or None where the biases have it: columns far from 0 have no digits for that.
    classes : array (K,) of labels, or None of a regressor.
    n_weights : weights that are left, without biases.
    """

    def __init__(self, layers, columns, shift, activation, classes, n_features_in) -> None:
        self.layers, self.columns, self.shift = layers, columns, shift
        self.activation, self.classes, self.n_features_in = activation, classes, n_features_in

    @property
    def n_weights(self) -> int:
        """Weights that are left, without biases."""
        return sum(int(np.count_nonzero(W if isinstance(W, np.ndarray) else W.data)) for W, _ in self.layers)

    def __repr__(self):
        sizes = [self.layers[0][0].shape[0 if isinstance(self.layers[0][0], np.ndarray) else 1]]
        sizes += [len(b) for _, b in self.layers]
        kinds = ["dense" if isinstance(W, np.ndarray) else "sparse" for W, _ in self.layers]
        return f"<SmallNet {'-'.join(map(str, sizes))}: {self.n_weights} weights, {', '.join(kinds)}>"

    def output(self, X) -> np.ndarray:
        """What the last layer puts out for the rows of X (N,D): (N,K) logits, (N,1) for two classes or a mean."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_features_in:
            raise ValueError(
                f"X must have the shape (N, {self.n_features_in}), got {X.shape}. Try X.reshape(1, -1) for one row."
            )
        H = X[:, self.columns] if self.shift is None else X[:, self.columns] - self.shift
        H = H.astype(self.layers[0][1].dtype, copy=False)
        for l, (W, b) in enumerate(self.layers):
            H = (H @ W if isinstance(W, np.ndarray) else (W @ H.T).T) + b
            if l < len(self.layers) - 1:
                H = FUNCTIONS[self.activation](H)
        return H

    def predict(self, X) -> np.ndarray:
        """The most probable class of each row, or the mean of y: (N,)."""
        out = self.output(X)
        if self.classes is None:
            return out[:, 0]
        return self.classes[out.argmax(axis=1) if out.shape[1] > 1 else (out[:, 0] > 0).astype(int)]

    def predict_proba(self, X) -> np.ndarray:
        """Probability of each class: (N,K)."""
        if self.classes is None:
            raise ValueError("A net for regression has no classes. Try predict.")
        return np.exp(_log_softmax(self.output(X)))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
}


class _Network(Estimator):
    """Training and answers, whatever y is.

    A subclass has `_state`, `_check_state` and `fit`, which ends in `_fit`."""

    _requires_y = True

    parameters_: np.ndarray
    architecture_: dict[str, Any]
    mean_: np.ndarray
    scale_: np.ndarray
    weight_: float
    kl_: float
    threshold_: float | None
    lower_bound_: float
    lower_bounds_: list[float]
    history_: dict[str, list[float]]
    optimizer_state_: dict[str, np.ndarray]
    n_iter_: int
    converged_: bool

    _schema = 1
    _common: dict[str, Any] = {
        "parameters_": ("f", ("P",), "finite"),
        "architecture_": (dict, (), None),
        "mean_": ("f", ("D",), "finite"),
        "scale_": ("f", ("D",), "positive"),
        "weight_": (float, (), "positive"),
        "kl_": (float, (), "finite"),
        "threshold_?": (float, (), None),
        "lower_bound_": (float, (), "finite"),
        "lower_bounds_": (float, ("*",), None),
        "n_iter_": (int, (), "nonnegative"),
        "converged_": (bool, (), None),
    }

    def __init__(
        self,
        *,
        hidden_layer_sizes=(100,),
        activation="relu",
        prior="ard",
        prior_variance=1.0,
        kl_warmup_steps=None,
        batch_size=100,
        max_epochs=100,
        learning_rate=0.01,
        schedule="cosine",
        early_stopping=False,
        validation_fraction=0.1,
        n_epochs_no_change=None,
        tol=1e-4,
        clip_norm=None,
        callback=None,
        checkpoint=None,
        device="cpu",
        random_state=None,
        verbose=0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.prior = prior
        self.prior_variance = prior_variance
        self.kl_warmup_steps = kl_warmup_steps
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_epochs_no_change = n_epochs_no_change
        self.tol = tol
        self.clip_norm = clip_norm
        self.callback = callback
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        who = type(self).__name__
        if not isinstance(self.hidden_layer_sizes, (tuple, list)):
            refuse("hidden_layer_sizes", who, "a tuple of integers, one for each layer", self.hidden_layer_sizes)
        for size in self.hidden_layer_sizes:
            check_int("hidden_layer_sizes", size, 1, who=who)
        check_choice("activation", self.activation, ACTIVATIONS, who=who)
        check_choice("prior", self.prior, PRIORS, who=who)
        check_real("prior_variance", self.prior_variance, 0, inclusive=False, who=who)
        if self.kl_warmup_steps is not None:
            check_int("kl_warmup_steps", self.kl_warmup_steps, 0, who=who)
        check_training(self)
        check_choice("schedule", self.schedule, SCHEDULES, who=who)
        check_real("tol", self.tol, 0, who=who)
        check_verbose(self.verbose, who=who)
        kernels.load(self.device)

    # -- training

    def _fit(self, X, names, t, w, ends, more):
        """Train on X (N,D) and targets t (N,), weighted by w (N,), and take on what was found, and `more`."""
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError("A checkpoint needs the same noise again. Try an integer random_state.")
        rng = check_random_state(self.random_state)
        a = self._architecture(X.shape[1], *ends)
        mean, scale = _standard(X, w)
        self._train(X, names, t, w, a, _start(a, rng), mean, scale, more, rng)

    def _partial_fit(self, X, t, w, more, n_total):
        """One pass more over rows like those that the model was fitted to."""
        a = self._a
        if self._architecture(a.sizes[0], a.sizes[-1], a.likelihood) != a:
            raise ValueError(
                "partial_fit goes on with the net as it is, and a parameter that makes it was changed since: "
                f"architecture_ is {self.architecture_}. Set it back, or call fit."
            )
        rng, state = check_random_state(self.random_state), getattr(self, "optimizer_state_", {"warm": 0})
        X, names = X.astype(self.parameters_.dtype, copy=False), self.__dict__.get("feature_names_in_")
        weight = max(self.weight_, float(w.sum())) if n_total is None else n_total
        self._train(X, names, t, w, a, self.weights_, self.mean_, self.scale_, more, rng, state, weight)

    def _begin(self, X, names, t, w, ends, more, n_total):
        """The first call of partial_fit."""
        rng = check_random_state(self.random_state)
        a = self._architecture(X.shape[1], *ends)
        mean, scale = _standard(X, w)
        state = {"warm": np.array(self.kl_warmup_steps or 0)}
        self._train(X, names, t, w, a, _start(a, rng), mean, scale, more, rng, state, n_total)

    def _architecture(self, D, outputs, likelihood):
        return Architecture((D, *map(int, self.hidden_layer_sizes), outputs), self.activation, likelihood)

    def _train(self, X, names, t, w, a, values, mean, scale, more, rng, state=None, weight=None):
        """Train from the weights `values`: all epochs, or where there is a `state` to go on from, one."""
        T, whole = X.dtype, state is None
        rows = np.flatnonzero(w)
        seeds = rng.integers(2**63, size=2)
        before = 0 if whole else self.__dict__.get("n_iter_", 0)
        seed, order = int(seeds[0]), (int(seeds[1]) + before) % 2**63
        held = rows[:0]
        if self.early_stopping and whole:
            rows, held = held_out(rows, self.validation_fraction, rng)
        n, total = len(rows), float(w[rows].sum())
        weight = total if weight is None else weight
        if not total > LIGHTEST:
            raise ValueError(f"Weights count rows, and add up to {total:g}. Try weights of a mean near 1.")
        size = min(self.batch_size, n)
        passes = -(-STEPS // -(-n // size)) if whole else 1
        epochs = self.max_epochs if whole else 1
        k = self._kernels(12 * n * sum(math.prod(s) for s in a.shapes().values()) // 2 * passes * epochs, X)
        p = Parameters(k, a.shapes(), T)
        p.assign(values)
        if state is not None and "m" in state:
            p.restore(state | {"theta": p.state()["theta"]})
        Y = np.column_stack([np.where(w > 0, t, 0), w]).astype(T)
        # rows in memory are gathered by the step itself; what is on a disk is read ahead
        resident = not on_disk(X)
        read = lambda some: np.concatenate([np.take(X, some, axis=0), Y[some]], axis=1)
        batches: Any = Batches(k if resident else kernels.load("cpu"), n, size, order, rows, passes)
        if not resident:
            batches = Ahead(k, read, len(batches), batches.settings, batches)
        parts = [held[i : i + size] for i in range(0, len(held), size)]
        held_batches = lambda: (k.put(some if resident else read(some)) for some in parts)
        warm = epochs * len(batches) // 2 if self.kl_warmup_steps is None else self.kl_warmup_steps
        warm = min(warm, epochs * len(batches)) if state is None else int(state["warm"])
        objective = Bound(
            k,
            a,
            p,
            k.put(X) if resident else None,
            k.put(Y) if resident else None,
            mean.astype(T),
            (1 / scale).astype(T),
            held_batches,
            prior=self.prior,
            tau2=self.prior_variance,
            warm=warm,
            batch_size=size,
            seed=seed,
            weight=weight,
            share=total / n,
            constant=-math.log(more.get("y_scale_", 1.0)),
        )
        training = stochastic(
            objective,
            batches,
            p,
            max_epochs=epochs,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            schedule=self.schedule if whole else "constant",
            warmup_steps=warm if whole else 0,
            early_stopping=self.early_stopping and whole,
            n_epochs_no_change=self.n_epochs_no_change if whole else None,
            tol=self.tol,
            callback=self.callback,
            checkpoint=self.checkpoint if whole else None,
            settings={
                "architecture": a._asdict(),
                "prior": self.prior,
                "prior_variance": self.prior_variance,
                "seed": seed,
                "data": _digest(mean, scale, Y),
            },
            verbose=self.verbose,
        )
        found, history = p.get(), training.history
        if before:
            old = self.__dict__.get("history_", {})
            history = old | {name: [*old.get(name, []), *values] for name, values in history.items()}
        fitted = {
            "parameters_": np.concatenate([found[name].reshape(-1) for name in a.shapes()]),
            "architecture_": {**a._asdict(), "sizes": list(a.sizes)},
            "mean_": mean.astype(T),
            "scale_": scale.astype(T),
            "weight_": weight,
            "kl_": objective.divergence(found),
            "threshold_": None,
            "lower_bound_": float(training.bound),
            "lower_bounds_": [*(self.lower_bounds_ if before else []), *training.history["lower_bound"]],
            "history_": history,
            "optimizer_state_": {name: x for name, x in p.state().items() if name != "theta"}
            | {"warm": np.array(0 if whole else warm)},
            "n_iter_": before + training.n_epochs,
            "converged_": whole
            and (training.converged or (self.n_epochs_no_change is None and training.n_epochs == self.max_epochs)),
            **more,
        }
        self._remember(np.empty((0, a.sizes[0])), names, fitted)
        if training.interrupted:
            best = "the best epoch up to" if self.early_stopping else "epoch"
            raise KeyboardInterrupt(f"fit was stopped; the model is that of {best} {self.n_iter_}")
        if not np.isfinite(training.bound):
            warn("The bound of the last epoch is not finite: a step was not. See history_, and `evaluate`.")
        elif whole and self.sparsity_[-1] == 1 and self.prior != "gaussian":
            warn(
                "All weights of the last layer are pruned: all rows get the same answer. If that is not what the data "
                "say, try more max_epochs or kl_warmup_steps, a larger learning_rate, or prior='gaussian'.",
                ConvergenceWarning,
            )

    # -- what was found

    @property
    def _a(self):
        return Architecture(**{**self.architecture_, "sizes": tuple(self.architecture_["sizes"])})

    @property
    def weights_(self) -> dict[str, np.ndarray]:
        """The parameters by name, in their shapes: views of parameters_.

        "mu_0", ... of each layer, means of the weights (inputs + 1, outputs), in the last row those of the biases;
        "rho_0", ... their log-variances as 20 tanh(rho/20); "noise", of a regressor, that of y likewise."""
        self._check_fitted()
        views, start = {}, 0
        for name, shape in self._a.shapes().items():
            views[name] = self.parameters_[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return views

    @property
    def log_ratio_(self) -> list[np.ndarray]:
        """log(S/mu²) of each layer's weights, a list of arrays (inputs + 1, outputs): high where they say nothing."""
        k, weights = kernels.load("cpu"), self.weights_
        return [log_ratio(k, weights[f"mu_{l}"], weights[f"rho_{l}"]) for l in range(self._a.layers)]

    def _kept(self):
        """Mean and variance of the weights of each layer (inputs + 1, outputs), 0 where they are pruned."""
        k, weights, threshold = kernels.load("cpu"), self.weights_, getattr(self, "threshold_", None)
        means, variances = [], []
        for l, ratio in enumerate(self.log_ratio_):
            mu, S = weights[f"mu_{l}"], np.exp(log_variance(k, weights[f"rho_{l}"]))
            kept = np.ones(mu.shape, bool) if threshold is None else ratio < threshold
            means.append(np.where(kept, mu, mu.dtype.type(0)))
            variances.append(np.where(kept, S, mu.dtype.type(0)))
        return means, variances

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Mean weights of each layer, (inputs, outputs), of standardised columns; 0 where they are pruned."""
        return [mu[:-1] for mu in self._kept()[0]]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Mean biases of each layer, (outputs,)."""
        return [mu[-1] for mu in self._kept()[0]]

    @property
    def sparsity_(self) -> np.ndarray:
        """Part of the weights of each layer, without biases, that are pruned; before `prune`, that it would by 3.0."""
        threshold = getattr(self, "threshold_", None)
        threshold = THRESHOLD if threshold is None else threshold
        return np.array([float((ratio[:-1] >= threshold).mean()) for ratio in self.log_ratio_])

    @property
    def n_weights_(self) -> int:
        """Weights without biases, and without those that `prune` has taken."""
        return sum(int(np.count_nonzero(S[:-1])) for S in self._kept()[1])

    def prune(self, threshold=THRESHOLD) -> "_Network":
        """Leave weights whose log_ratio_ is at least so much out of all answers; None takes them back. Returns self.

        Molchanov, Ashukha & Vetrov (2017) cut at 3, where a weight's noise is some 20 times its square. Training goes
        on with all weights."""
        self._check_fitted()
        if threshold is not None:
            threshold = check_real("threshold", threshold, -math.inf, inclusive=False, who="prune")
        self.threshold_ = threshold
        return self

    def export(self) -> SmallNet:
        """The net of the mean weights, as small as it can be: after `prune` without what that took, and without units
        that have no inputs or no outputs left. It takes X as it is, and needs NumPy alone, and SciPy where it is
        sparse."""
        means = [mu.astype(float) for mu in self._kept()[0]]
        weights, biases = [mu[:-1].copy() for mu in means], [mu[-1].copy() for mu in means]
        scale, mean = self.scale_.astype(float), self.mean_.astype(float)
        weights[0] /= scale[:, None]
        far = (np.abs(mean) > FOLDED * scale).any()
        if not far:
            biases[0] -= mean @ weights[0]
        y_mean, y_scale = getattr(self, "y_mean_", 0.0), getattr(self, "y_scale_", 1.0)
        weights[-1] *= y_scale
        biases[-1] = biases[-1] * y_scale + y_mean
        f = FUNCTIONS[self._a.activation]
        for l in range(len(weights) - 1):  # units without inputs are constants
            dead = ~weights[l].any(axis=0)
            biases[l + 1] += f(biases[l][dead]) @ weights[l + 1][dead]
            weights[l], biases[l], weights[l + 1] = weights[l][:, ~dead], biases[l][~dead], weights[l + 1][~dead]
        for l in range(len(weights) - 1, 0, -1):  # units that nothing takes
            used = weights[l].any(axis=1)
            weights[l - 1], biases[l - 1], weights[l] = weights[l - 1][:, used], biases[l - 1][used], weights[l][used]
        used = np.flatnonzero(weights[0].any(axis=1))
        columns: Any = slice(used[0], used[-1] + 1) if len(used) else slice(0)  # a view: taking others is a copy of X
        if len(used) < 0.5 * len(weights[0][columns]):
            columns = used
        weights[0] = weights[0][columns]
        T = self.parameters_.dtype
        layers = [(_as_fast(W.astype(T)), b.astype(T)) for W, b in zip(weights, biases)]
        a = self._a
        shift = mean[columns] if far else None
        return SmallNet(layers, columns, shift, a.activation, getattr(self, "classes_", None), a.sizes[0])

    def _check_state(self):
        self.threshold_ = getattr(self, "threshold_", None)  # a file has no None
        if self.threshold_ is not None and not math.isfinite(self.threshold_):
            raise ValueError(f"threshold_ must be finite, got {self.threshold_}")
        got = self.architecture_
        fits = set(got) == {"sizes", "activation", "likelihood"} and isinstance(got["sizes"], list)
        fits = fits and 1 < len(got["sizes"]) < 1000
        fits = fits and all(type(size) is int and 0 < size < 2**31 for size in got["sizes"])
        if not fits or got["activation"] not in ACTIVATIONS or got["sizes"][0] != self.n_features_in_:
            raise ValueError("architecture_ is not that of a net")
        size = sum(math.prod(shape) for shape in self._a.shapes().values())
        if size != len(self.parameters_):
            raise ValueError(f"parameters_ must have {size} elements, got {len(self.parameters_)}")

    def _bound(self, X, log_likelihood):
        """For lvm.evidence.report: of log_likelihood (n,), that of all rows X by each draw."""
        if getattr(self, "threshold_", None) is not None:
            raise ValueError("report needs the bound of all weights, and some are pruned. Try prune(None) before it.")
        improper = ", up to a constant, as the prior is improper" if self.prior == "log_uniform" else ""
        how = f"the ELBO (no importance weights could be used with so many weights){improper}"
        return evidence.bound_report(self, len(X), log_likelihood, self.kl_, how)

    # -- answers

    def _outputs(self, X, n):
        """For some rows at a time, what n draws put out, (B,n,K) float64; n = 0: the mean weights, (B,1,K)."""
        a, T = self._a, X.dtype
        means, variances = self._kept()
        room = max(1, min(ROOM[0], ROOM[1] // max(a.sizes)))
        R = min(max(n, 1), room)
        B = max(1, min(len(X), room // R))
        k = self._kernels(4 * len(X) * max(n, 1) * sum(mu.size for mu in means), X)
        mu, S = ([k.put(np.ascontiguousarray(W, T)) for W in some] for some in (means, variances))
        net = Net(k, a, mu, S, T, B, R)
        noise = []
        for l, O in enumerate(a.sizes[1:] if n else ()):
            eps = np.empty((-(-n // 2), O), T)
            kernels.load("cpu").random.normal(0, ANSWER, l, eps)  # whatever random_state is: a mean is no draw
            noise.append(k.put(np.ascontiguousarray(np.stack([eps, -eps], 1).reshape(-1, O)[:n])))
        shift, factor = self.mean_.astype(T), (1 / self.scale_).astype(T)
        for i in range(0, len(X), B):
            with np.errstate(over="ignore", invalid="ignore"):
                x = (X[i : i + B] - shift) * factor
                out = np.empty((len(x), max(n, 1), a.sizes[-1]))
                squares = k.put(x * x)
                x = k.put(x)
                if n == 0:
                    out[:, 0] = k.get(net.mean(x))
                for s in range(0, n, R):
                    some = [eps[s : s + R] for eps in noise]
                    A = net.draw(x, squares, some, len(some[0]))
                    out[:, s : s + R] = k.get(A).reshape(len(x), -1, a.sizes[-1])
            far = ~np.isfinite(out).all(axis=(1, 2))
            if far.any():
                raise ValueError(f"Row {i + int(far.argmax())} of X is so far from the data that the net overflows.")
            yield slice(i, i + len(x)), out


class BayesianMLPClassifier(_Network):
    """A neural net for classes with a posterior over its weights, most of which it finds it can do without.

    Each weight has q(w) = N(mu, S) and a prior of its own; the bound E_q[log p(y|x,w)] - KL(q || p) is maximised by
    stochastic gradients. With prior="ard" the prior is N(0, alpha), alpha = mu² + S at its best: the rule of the
    relevance vector machine, in every layer. `prune` leaves out the weights that are noise alone, and `export` gives
    the small net that is left. Answers average the posterior.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default (100,)
        () is logistic regression.
    activation : {"relu", "tanh", "softplus", "leaky_relu"}, default "relu"
    prior : {"ard", "log_uniform", "gaussian"}, default "ard"
        N(0, alpha) with an alpha for each weight, at its best; 1/|w| (variational dropout: Molchanov, Ashukha & Vetrov
        2017, whose fit of its KL is taken), which prunes more; or N(0, prior_variance), which hardly prunes.
    prior_variance : float, default 1.0
        For prior="gaussian".
    kl_warmup_steps : int or None, default None
        Steps in which the weight of the KL rises from 0 to 1. Too early it prunes what the data had no time to speak
        for; where there are many rows a short one, or none, prunes more. None: half of the steps of the training, and
        in partial_fit 0. Early stopping waits for the end of it.
    batch_size : int, default 100
    max_epochs : int, default 100
        An epoch is a pass over the rows, or of few rows as many passes as make 100 steps.
    learning_rate : float, default 0.01
        Of Adam. Where there are tens of thousands of steps, as on MNIST, 0.001 prunes more.
    schedule : {"cosine", "constant"}, default "cosine"
        "cosine" takes the rate to 0 over max_epochs.
    early_stopping : bool, default False
        Hold rows out, and keep the parameters under which their bound is the highest.
    validation_fraction : float, default 0.1
        Part of the rows to hold out.
    n_epochs_no_change : int or None, default None
        Training ends before max_epochs when the bound's mean over so many epochs is not more than `tol` above the mean
        of as many before; with early_stopping, when that of the rows held out has not risen for so many epochs.
    tol : float, default 1e-4
        Nats per row.
    clip_norm : float or None, default None
        Longest gradient for a step.
    class_weight : None, "balanced" or dict {label: weight}, default None
        Multiplies the weights of rows; "balanced" gives all classes the same sum.
    callback : callable or None, default None
        callback(epoch, values) after each epoch; training ends when it returns True.
    checkpoint : path or None, default None
        A file to go on from: see the notes.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the start, the batches and the noise. Answers do not depend on it.
    verbose : int, default 0
        1 shows a bar.

    Attributes
    ----------
    classes_ : array (K,)
    parameters_ : array (P,)
        All means and log-variances; `weights_` has them by name and in shape.
    coefs_, intercepts_ : lists of arrays (inputs, outputs), (outputs,)
        Mean weights and biases of the layers, of standardised columns; 0 where they are pruned.
    log_ratio_ : list of arrays (inputs + 1, outputs)
        log(S/mu²), the biases in the last row.
    sparsity_ : array (layers,), and n_weights_ : int
        Part of the weights that are pruned, or that `prune` would take; weights that it has left.
    threshold_ : float or None
        What `prune` was last told.
    architecture_ : dict
        What the layout of parameters_ follows from.
    mean_, scale_ : arrays (D,)
        What the columns of X are centred at and divided by: their standard deviation, or a fifth of what is farthest
        from the mean where that is more, so that columns that hardly ever vary keep their measure.
    lower_bound_ : float
        On log p(y|X), nats per row, or per unit of weight: the mean in the last epoch, or of the rows held out.
    lower_bounds_ : list of float
        Of each epoch: the log-likelihood as the parameters were while it went on, less the KL at its end.
    history_ : dict of lists
        A value for each epoch: "lower_bound", "log_likelihood", "kl", "sparsity", what prune() would take of all
        weights, and "sparsity_0", ... of the layers; with early_stopping "validation_..." of the rows held out. Not
        kept in files.
    kl_, weight_ : float
        KL(q || p) in nats, and the weight of all rows.
    optimizer_state_ : dict of arrays
        What partial_fit goes on from. Not kept in files.
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
    `sample_weight` counts rows: weight 2 is that row twice, but for the noise of training. The last layer is a softmax,
    or for two classes one logit. float32 data are fitted in float32, all else in float64; memory maps are read batch by
    batch, ahead of the work. Ctrl-C ends training after the last whole epoch and raises; the model is that of this
    epoch, or with early_stopping of the best one. A step that is not finite is undone and the rate halved. A checkpoint
    is written every 30 seconds and at the end, and a fit with the same parameters and data that finds one goes on from
    it, with the same bits as if it had never stopped. It needs an integer random_state.
    Tipping (2001); Kingma, Salimans & Welling (2015); Molchanov, Ashukha & Vetrov (2017); Kharitonov, Molchanov &
    Vetrov (2018). lvm.objectives.network has the equations.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> y = ["setosa"] * 50 + ["versicolor"] * 50 + ["virginica"] * 50
    >>> net = lvm.BayesianMLPClassifier(hidden_layer_sizes=(10,), max_epochs=30, random_state=0).fit(X, y)
    >>> net.score(X, y) > 0.9
    True
    >>> small = net.prune().export()
    >>> bool(small.n_weights < 70 and (small.predict(X) == net.predict(X, n_samples=0)).all())
    True
    """

    _kind = "classifier"

    classes_: np.ndarray

    _state = {"classes_": ("labels", ("K",), None), **_Network._common}

    def __init__(
        self,
        *,
        hidden_layer_sizes=(100,),
        activation="relu",
        prior="ard",
        prior_variance=1.0,
        kl_warmup_steps=None,
        batch_size=100,
        max_epochs=100,
        learning_rate=0.01,
        schedule="cosine",
        early_stopping=False,
        validation_fraction=0.1,
        n_epochs_no_change=None,
        tol=1e-4,
        clip_norm=None,
        class_weight=None,
        callback=None,
        checkpoint=None,
        device="cpu",
        random_state=None,
        verbose=0,
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            prior=prior,
            prior_variance=prior_variance,
            kl_warmup_steps=kl_warmup_steps,
            batch_size=batch_size,
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            schedule=schedule,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_epochs_no_change=n_epochs_no_change,
            tol=tol,
            clip_norm=clip_norm,
            callback=callback,
            checkpoint=checkpoint,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def _check_params(self):
        super()._check_params()
        check_class_weight(self.class_weight, who=type(self).__name__)

    @staticmethod
    def _ends(K):
        """Outputs for K classes, and the likelihood."""
        return (1, "logistic") if K == 2 else (K, "softmax")

    def fit(self, X, y, sample_weight=None) -> "BayesianMLPClassifier":
        """Train on X (N,D) and labels y (N,), rows weighted by sample_weight (N,). Returns self."""
        self._check_params()
        X, names = self._check_fit_X(X)
        classes, codes, w = check_classes(y, len(X), self.class_weight, sample_weight, type(self).__name__)
        self._fit(X, names, codes, w, self._ends(len(classes)), {"classes_": classes})
        return self

    def partial_fit(self, X, y, classes=None, sample_weight=None, n_total=None) -> "BayesianMLPClassifier":
        """Go on training by one pass over X (N,D) and y (N,), at the learning rate as it is. Returns self.

        The first call standardises by these rows, and learns what classes there are from `classes`, or from y. A call
        after `fit` goes on with its weights. n_total : the weight of all rows there are, of which these are some; the
        KL counts for so many. None: that of `fit` or of the largest call so far. Adam's memory is kept from call to
        call, but not in files. The weight of the KL rises over the first kl_warmup_steps of a model that was begun
        here, and is 1 for one from fit or a file. The checkpoint and early stopping are for fit."""
        self._check_params()
        who = type(self).__name__
        n_total = None if n_total is None else check_real("n_total", n_total, 0, inclusive=False, who="partial_fit")
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight='balanced' needs all rows. Try a dict of the classes' weights.")
        if self.__sklearn_is_fitted__():
            X = self._check_X(X)
            known = self.classes_
            if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), known):
                raise ValueError(f"classes must be those of the first call, {known.tolist()[:20]}, got {classes}.")
        else:
            X, names = self._check_fit_X(X)
            known = check_labels(y if classes is None else classes, len(X if classes is None else classes), who)[0]
            if len(known) < 2:
                raise ValueError(f"{who} needs at least 2 classes, got {known.tolist()}. Say them all by `classes`.")
        found, codes = check_labels(y, len(X), who)
        t, w = codes_of(found, known, len(found))[codes], check_weight(sample_weight, len(X))
        if self.class_weight is not None:
            w = check_counts(w * class_factors(self.class_weight, known, who)[t])
        if not w.any():
            raise ValueError("All rows have the weight 0, by sample_weight and class_weight.")
        more = {"classes_": known}
        if self.__sklearn_is_fitted__():
            self._partial_fit(X, t, w, more, n_total)
        else:
            self._begin(X, names, t, w, self._ends(len(known)), more, n_total)
        return self

    def _check_state(self):
        super()._check_state()
        a = self._a
        if (a.sizes[-1], a.likelihood) != self._ends(len(self.classes_)) or len(self.classes_) < 2:
            raise ValueError(f"classes_ are {len(self.classes_)}, which does not fit architecture_")
        if not (self.classes_[:-1] < self.classes_[1:]).all():
            raise ValueError("classes_ must rise")

    def _log_p(self, X, n):
        """log p of each class by n draws, averaged: (N,K), and E log p: (N,K). float64."""
        n = check_int("n_samples", n, 0, who=type(self).__name__)
        log_p, mean = np.empty((len(X), len(self.classes_))), np.empty((len(X), len(self.classes_)))
        for some, out in self._outputs(X, n):
            l = _log_softmax(out)
            log_p[some], mean[some] = np.logaddexp.reduce(l, axis=1) - math.log(l.shape[1]), l.mean(axis=1)
        return log_p, mean

    def predict_log_proba(self, X, n_samples=100) -> np.ndarray:
        """The logarithm of `predict_proba`: (N,K), in nats."""
        X = self._check_X(X)
        return self._as(self._log_p(X, n_samples)[0].astype(X.dtype), X)

    def predict_proba(self, X, n_samples=100) -> np.ndarray:
        """Probability of each class, in the order of `classes_`: (N,K), averaged over so many draws of the posterior.

        All rows have the same noise, which is always the same. n_samples=0: of the mean weights."""
        X = self._check_X(X)
        return self._as(np.exp(self._log_p(X, n_samples)[0]).astype(X.dtype), X)

    def predict(self, X, n_samples=100) -> np.ndarray:
        """The most probable class of each row by `predict_proba`: (N,), of the labels' dtype."""
        X = self._check_X(X)
        return self.classes_[self._log_p(X, n_samples)[0].argmax(axis=1)]

    def score(self, X, y, sample_weight=None) -> float:
        """Part of the rows, weighted by sample_weight (N,), whose class `predict` tells: from 0 to 1."""
        predicted = self.predict(X)
        classes, codes = check_labels(y, len(predicted), type(self).__name__)
        w = check_weight(sample_weight, len(predicted))
        return float(w @ (classes[codes] == predicted) / w.sum())

    def _evidence(self, X, y, *, n_samples, **_):
        """See lvm.evidence.report."""
        X = self._check_X(X)
        found, codes = check_labels(y, len(X), type(self).__name__)
        t, total = codes_of(found, self.classes_, len(found))[codes], np.zeros(n_samples)
        for some, out in self._outputs(X, n_samples):
            l = _log_softmax(out)
            total += np.take_along_axis(l, t[some][:, None, None], axis=2)[:, :, 0].sum(axis=0)
        return self._bound(X, total)

    def evaluate(self, X, y, n_samples=100) -> Classification:
        """Accuracy, calibration, and the bound and its parts, of rows X (N,D) with labels y (N,).

        n_samples=0: of the mean weights, whose log-likelihood is above E_q[log p(y|x,w)]."""
        X = self._check_X(X)
        found, codes = check_labels(y, len(X), type(self).__name__)
        t, rows = codes_of(found, self.classes_, len(found))[codes], np.arange(len(X))
        log_p, mean = self._log_p(X, n_samples)
        p, kl = np.exp(log_p), self.kl_ / self.weight_
        checked = calibration(p, t, classes=np.arange(p.shape[1]))
        px = float(mean[rows, t].mean())
        return Classification(
            bound=px - kl,
            log_likelihood=px,
            kl=kl,
            accuracy=float((p.argmax(axis=1) == t).mean()),
            nll=float(-log_p[rows, t].mean()),
            brier=checked.brier,
            ece=checked.ece,
        )


class BayesianMLPRegressor(_Network):
    """A neural net for a number with a posterior over its weights, most of which it finds it can do without.

    As BayesianMLPClassifier, with y = f(x,w) + noise of variance noise_variance_, which is learned.

    Parameters
    ----------
    hidden_layer_sizes, activation, prior, prior_variance, kl_warmup_steps, batch_size, max_epochs, learning_rate,
    schedule, early_stopping, validation_fraction, n_epochs_no_change, tol, clip_norm, callback, checkpoint, device,
    random_state, verbose
        As of BayesianMLPClassifier.

    Attributes
    ----------
    parameters_, coefs_, intercepts_, log_ratio_, sparsity_, n_weights_, threshold_, architecture_, mean_, scale_,
    lower_bound_, lower_bounds_, history_, kl_, weight_, optimizer_state_, n_iter_, converged_, n_features_in_
        As of BayesianMLPClassifier; coefs_ and intercepts_ are of standardised y, bounds in the units of y.
    y_mean_, y_scale_ : float
        What y is centred at and divided by.
    noise_variance_ : float
        Variance of y given x and the weights.

    Raises
    ------
    As BayesianMLPClassifier.

    Examples
    --------
    >>> import lvm, numpy as np
    >>> x = np.linspace(-3, 3, 200)[:, None]
    >>> y = np.sin(2 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=200)
    >>> net = lvm.BayesianMLPRegressor(activation="tanh", random_state=0).fit(x, y)
    >>> mean, std = net.predict([[0.0], [9.0]], return_std=True)
    >>> net.score(x, y) > 0.85
    True
    """

    _kind = "regressor"

    y_mean_: float
    y_scale_: float

    _state = {"y_mean_": (float, (), "finite"), "y_scale_": (float, (), "positive"), **_Network._common}

    def fit(self, X, y, sample_weight=None) -> "BayesianMLPRegressor":
        """Train on X (N,D) and targets y (N,), rows weighted by sample_weight (N,). Returns self."""
        self._check_params()
        X, names = self._check_fit_X(X, min_samples=2)
        y = check_targets(y, len(X), type(self).__name__)
        w = check_weight(sample_weight, len(X))
        mean, scale = _standard_y(y, w, X.dtype)
        self._fit(X, names, (y - mean) / scale, w, GAUSSIAN, {"y_mean_": mean, "y_scale_": scale})
        return self

    def partial_fit(self, X, y, sample_weight=None, n_total=None) -> "BayesianMLPRegressor":
        """Go on training by one pass over X (N,D) and y (N,): see BayesianMLPClassifier. y is standardised as it was in
        the first call."""
        self._check_params()
        n_total = None if n_total is None else check_real("n_total", n_total, 0, inclusive=False, who="partial_fit")
        first = not self.__sklearn_is_fitted__()
        X, names = self._check_fit_X(X, min_samples=2) if first else (self._check_X(X), None)
        y = check_targets(y, len(X), type(self).__name__)
        w = check_weight(sample_weight, len(X))
        mean, scale = _standard_y(y, w, X.dtype) if first else (self.y_mean_, self.y_scale_)
        more, t = {"y_mean_": mean, "y_scale_": scale}, (y - mean) / scale
        if first:
            self._begin(X, names, t, w, GAUSSIAN, more, n_total)
        else:
            self._partial_fit(X, t, w, more, n_total)
        return self

    def _check_state(self):
        super()._check_state()
        a = self._a
        if (a.sizes[-1], a.likelihood) != GAUSSIAN:
            raise ValueError("architecture_ is not that of a regressor")
        if not 1e-140 < self.y_scale_ < 1e140:
            raise ValueError(f"y_scale_ must be between 1e-140 and 1e140, got {self.y_scale_}")

    @property
    def noise_variance_(self) -> float:
        """Variance of y given x and the weights."""
        return self._noise * self.y_scale_ * self.y_scale_

    @property
    def _noise(self):
        return float(np.exp(log_variance(kernels.load("cpu"), self.weights_["noise"].astype(float))[0]))

    def _draws(self, X, n):
        """For some rows at a time, standardised means of y by each draw: (B,n)."""
        n = check_int("n_samples", n, 0, who=type(self).__name__)
        return ((some, out[:, :, 0]) for some, out in self._outputs(X, n))

    def predict(self, X, return_std=False, *, n_samples=100):
        """Mean (N,) of y at the rows of X; with return_std also its standard deviation (N,), of the weights' posterior
        and of the noise.

        By so many draws of the posterior, with noise that is the same for all rows, always. n_samples=0: of the mean
        weights, and the standard deviation of the noise alone."""
        X = self._check_X(X)
        mean, var = np.empty(len(X)), np.empty(len(X))
        for some, out in self._draws(X, n_samples):
            mean[some], var[some] = out.mean(axis=1), out.var(axis=1)
        mean = self._as((self.y_mean_ + self.y_scale_ * mean).astype(X.dtype), X)
        if not return_std:
            return mean
        return mean, self._as((self.y_scale_ * np.sqrt(var + self._noise)).astype(X.dtype), X)

    def score(self, X, y, sample_weight=None) -> float:
        """R², the part of the variance of y that `predict` tells, rows weighted by sample_weight (N,): 1 is perfect."""
        X = self._check_X(X)
        y = check_targets(y, len(X), type(self).__name__)
        w = check_weight(sample_weight, len(X))
        mean = np.empty(len(X))
        for some, out in self._draws(X, 100):
            mean[some] = self.y_mean_ + self.y_scale_ * out.mean(axis=1)
        return _r2(y, mean, w)

    def _evidence(self, X, y, *, n_samples, **_):
        """See lvm.evidence.report."""
        X = self._check_X(X)
        t, v = (check_targets(y, len(X), type(self).__name__) - self.y_mean_) / self.y_scale_, self._noise
        total = np.full(n_samples, -len(X) * (0.5 * math.log(2 * math.pi * v) + math.log(self.y_scale_)))
        for some, out in self._draws(X, n_samples):
            total -= 0.5 * ((t[some, None] - out) ** 2).sum(axis=0) / v
        return self._bound(X, total)

    def evaluate(self, X, y, n_samples=100) -> Regression:
        """R², error, calibration, and the bound and its parts, of rows X (N,D) with targets y (N,)."""
        X = self._check_X(X)
        y = check_targets(y, len(X), type(self).__name__)
        t, v = (y - self.y_mean_) / self.y_scale_, self._noise
        mean, var, log_p, expected = (np.empty(len(X)) for _ in range(4))
        for some, out in self._draws(X, n_samples):
            l = -0.5 * (math.log(2 * math.pi * v) + (t[some, None] - out) ** 2 / v)
            mean[some], var[some] = out.mean(axis=1), out.var(axis=1)
            log_p[some], expected[some] = np.logaddexp.reduce(l, axis=1) - math.log(l.shape[1]), l.mean(axis=1)
        unit, kl = math.log(self.y_scale_), self.kl_ / self.weight_
        px = float(expected.mean()) - unit
        return Regression(
            bound=px - kl,
            log_likelihood=px,
            kl=kl,
            r2=_r2(t, mean, np.ones(len(t))),
            rmse=self.y_scale_ * float(np.sqrt(((t - mean) ** 2).mean())),
            nll=unit - float(log_p.mean()),
            coverage=float((np.abs(t - mean) <= INTERVAL[1] * np.sqrt(var + v)).mean()),
        )


def _r2(y, mean, w):
    rest, away = y - mean, y - (y[0] if y.min() == y.max() else w @ y / w.sum())
    unit = max(np.abs(rest).max(), np.abs(away).max()) or 1.0  # their squares may be no numbers
    rest, total = w @ (rest / unit) ** 2, w @ (away / unit) ** 2
    return float(1 - rest / total) if total > 0 else float(rest == 0)


def _standard(X, w):
    """What the columns are centred at and divided by: (D,), (D,) float64; rows weighted by w (N,)."""
    D, T = X.shape[1], X.dtype
    W, mean, square, low, high = 0.0, np.zeros(D), np.zeros(D), np.full(D, np.inf), np.full(D, -np.inf)
    size = max(1, BLOCK // D)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        for i in range(0, len(X), size):
            c = w[i : i + size]
            x, c = X[i : i + size][c > 0].astype(float), c[c > 0]
            if not len(c):
                continue
            m = c @ x / c.sum()  # the mean of all is that of the parts: Chan et al. 1983
            more, away = c.sum(), m - mean
            square += c @ (x - m) ** 2 + away * (away * (W * more / (W + more)))
            W += more
            mean += away * (more / W)
            low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
        constant = low == high  # as sums of many would hardly tell
        mean = np.where(constant, low, mean)
        scale = np.maximum(np.sqrt(square / W), np.maximum(high - mean, mean - low) / FAR)
        scale = np.where(constant, 1, scale)
        if not np.isfinite(np.array([mean, scale, 1 / scale]).astype(T)).all():
            raise ValueError(f"X varies too much, or too little, for {T}. Try scaling X.")
    return mean, scale


def _standard_y(y, w, T):
    """What y is centred at and divided by; weighted by w (N,). T must hold both."""
    y, w = y[w > 0], w[w > 0]
    if y.min() == y.max():
        mean, scale = float(y[0]), 1.0
    else:
        unit = np.abs(y).max()
        mean = unit * float(w @ (y / unit) / w.sum())
        unit = np.abs(y - mean).max()
        scale = unit * float(np.sqrt(w @ ((y - mean) / unit) ** 2 / w.sum()))
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        fits = np.isfinite(np.array([mean, scale, 1 / scale]).astype(T)).all()
    if not (fits and 1e-140 < scale < 1e140):
        raise ValueError(f"y varies by {scale:g} about {mean:g}, too much or too little for {T}. Try scaling y.")
    return float(mean), float(scale)


def _start(a, rng):
    """Weights by Glorot & Bengio 2010, of little variance, and little noise."""
    c, values = kernels.load("cpu").network.LARGEST, {}
    r = {name: c * math.atanh(t / c) for name, t in (("rho", START), ("noise", QUIET))}
    for name, shape in a.shapes().items():
        if name.startswith("mu"):
            values[name] = rng.uniform(-1, 1, shape) * math.sqrt(6 / (shape[0] - 1 + shape[1]))
            values[name][-1] = 0
        else:
            values[name] = np.full(shape, r[name.partition("_")[0]])
    return values


def _log_softmax(out):
    """log p of each class, from logits (..,K), or (..,1) of the second of two."""
    if out.shape[-1] == 1:
        return -np.logaddexp(0, out * np.array([1, -1], out.dtype))
    out = out - out.max(axis=-1, keepdims=True)
    return out - np.log(np.exp(out).sum(axis=-1, keepdims=True))


def _as_fast(W):
    """W (I,O) as it is, or CSR (O,I) where it has few enough weights for that to be faster."""
    if W.size < SPARSE[0] or np.count_nonzero(W) * SPARSE[1] > W.size:
        return np.ascontiguousarray(W)
    from scipy.sparse import csr_array

    return csr_array(W.T)


def _digest(*arrays):
    digest = hashlib.sha256()
    for x in arrays:
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
