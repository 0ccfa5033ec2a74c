"""Variational autoencoders: the estimator."""

import contextlib
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from . import evidence, kernels
from .estimator import (
    ConvergenceWarning,
    Transformer,
    check_array,
    check_bool,
    check_choice,
    check_int,
    check_random_state,
    check_real,
    check_rows_again,
    check_training,
    check_verbose,
    on_disk,
    refuse,
    warn,
)
from .fit import SCHEDULES, Ahead, Batches, held_out, stochastic
from .objectives import decoder
from .objectives.vae import Architecture, Bound, Net, linear_bound, log_mean, log_variance
from .parameters import Parameters

ACTIVATIONS = ("relu", "tanh", "softplus", "leaky_relu")
LIKELIHOODS = ("gaussian", "bernoulli", "autoencoder")
NOISES = ("isotropic", "diagonal", "network")
MEANS = ("linear", "sigmoid")
KLS = ("auto", "analytic", "monte_carlo", "entropy")
GRADIENTS = ("total", "path", "doubly")
STEPS = 100  # at least, of an epoch
ROOM = 4096, 1 << 22  # samples that answers decode at a time, and numbers of a layer: at most
DRAWS = 256  # for moments of a posterior with planar layers
BLOCK = 1 << 20  # numbers of X that are looked at together
ACTIVE = 0.01  # variance of a posterior mean over the rows above which a unit is active (Burda et al. 2016)
SAMPLE, ANSWER = 8, 9  # streams of random numbers: others than training has


class Posterior(NamedTuple):
    """Moments of q(z|x) for each row: mean, variance (N,d)."""

    mean: np.ndarray
    variance: np.ndarray


class Evaluation(NamedTuple):
    """How a model describes some rows: means per row, in nats.

    bound : E_q[log p(x|z)] - KL(q || p), at most log p(x)
    reconstruction : E_q[log p(x|z)]
    kl : KL(q || p)
    nll, nll_error : minus the importance-weighted estimate of log p(x), a bound from above in expectation, and its
        standard error
    active : (d,) bool, has the mean of z_i a variance over the rows above 0.01? (Burda, Grosse & Salakhutdinov 2016)
    n_importance : samples of a row that nll took
    """

    bound: float
    reconstruction: float
    kl: float
    nll: float
    nll_error: float
    active: np.ndarray
    n_importance: int

    @property
    def rate(self) -> float:
        """KL(q || p): what z tells of x, at most, on average (Alemi et al. 2018)."""
        return self.kl

    @property
    def distortion(self) -> float:
        """-E_q[log p(x|z)]."""
        return -self.reconstruction

    @property
    def n_active(self) -> int:
        """Number of active units."""
        return int(self.active.sum())

    @property
    def collapsed(self) -> list[int]:
        """Units that are not active: their posterior is the prior, about, for all rows."""
        return np.flatnonzero(~self.active).tolist()

    def __str__(self):
        return "\n".join(
            [
                f"NLL             {self.nll:.4f} ± {self.nll_error:.1g} nats a row ({self.n_importance} samples each)",
                f"bound           {self.bound:.4f} nats a row, {-self.nll - self.bound:.4f} below",
                f"distortion      {self.distortion:.4f}  (minus reconstruction)",
                f"rate            {self.rate:.4f}  (KL)",
                f"active units    {self.n_active} of {len(self.active)}"
                + (f", collapsed: {', '.join(map(str, self.collapsed))}" if 0 < len(self.collapsed) < 10 else ""),
            ]
        )


class VAE(Transformer):
    """A variational autoencoder: p(x|z) by a neural net, the decoder, z ~ N(0, I), and q(z|x) by another, the encoder.

    Both are trained at once, to maximise a lower bound on log p(x): E_q[log p(x|z)] - KL(q(z|x) || N(0, I)), or one of
    several importance-weighted samples. q is N(mu(x), diag S(x)), or what planar layers make of it. Without hidden
    layers, likelihood="gaussian" is probabilistic PCA.

    Parameters
    ----------
    n_components : int, default 2
        d, the size of z.
    hidden_layer_sizes : tuple of int, default (200,)
        Of the encoder.
    decoder_layer_sizes : tuple of int or None, default None
        None: hidden_layer_sizes, backwards.
    activation : {"relu", "tanh", "softplus", "leaky_relu"}, default "relu"
    likelihood : {"gaussian", "bernoulli", "autoencoder"}, default "gaussian"
        p(x|z). "bernoulli": for X between 0 and 1; "autoencoder": no density at all but a plain autoencoder, whose code
        z is mu(x) and which is trained on half of the squared error.
    noise : {"isotropic", "diagonal", "network"}, default "isotropic"
        The variance of "gaussian": one for all features, one for each, or what the decoder puts out.
    mean : {"linear", "sigmoid"}, default "linear"
        The mean of "gaussian" and "autoencoder". "sigmoid" is for X between 0 and 1. With "linear" the columns are
        centred and divided by their standard deviation, with one noise and for "autoencoder" by one number, which is
        undone in all answers.
    binarize : {None, "dynamic", "threshold"}, default None
        Of X between 0 and 1: "dynamic" takes each entry for the probability of a 1, drawn afresh in each step,
        "threshold" makes 1 of what is above 1/2. Answers do the same first; what they draw depends on the row alone.
    n_flow_layers : int, default 0
        K, planar layers that z goes through after N(mu, S): with them q need not be Gaussian. Where they lead to a KL
        of 0, kl_warmup_steps helps.
    amortised : bool, default True
        Does the encoder put out the planar layers' parameters for each x, or do all x share them?
    kl : {"auto", "analytic", "monte_carlo", "entropy"}, default "auto"
        The KL in the bound: as a formula, by the samples of z, or by the samples but for the entropy of N(mu, S).
        "auto": the formula where there is one, else by the samples.
    n_samples : int, default 1
        Samples of z for a row, over which bounds are averaged.
    n_importance : int, default 1
        k, samples in each bound, E log 1/k sum p(x,z)/q(z|x): with more it is nearer to log p(x).
    gradient : {"total", "path", "doubly"}, default "total"
        "path" (Roeder et al. 2017) and with n_importance "doubly" (Tucker et al. 2019) leave terms of mean 0 out of the
        encoder's gradient: with less noise where q is near the posterior. For n_flow_layers=0.
    kl_warmup_steps : int, default 0
        Steps in which the weight of the KL rises from 0 to 1; never more than the training has. Early stopping waits
        for the end of it.
    batch_size : int, default 128
    max_epochs : int, default 100
        An epoch is a pass over the rows, or of few rows as many passes as make 100 steps.
    learning_rate : float, default 0.001
        Of Adam.
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
    callback : callable or None, default None
        callback(epoch, values) after each epoch; training ends when it returns True.
    checkpoint : path or None, default None
        A file to go on from: see the notes.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the start, the batches and the noise, and for answers that draw.
    verbose : int, default 0
        1 shows a bar.

    Attributes
    ----------
    parameters_ : array (P,)
        All weights and biases; `weights_` has them by name and in shape.
    architecture_ : dict
        What their layout follows from.
    mean_, scale_ : arrays (D,)
        What X was standardised with; 0 and 1 but for mean="linear".
    lower_bound_ : float
        Nats per row: the mean bound in the last epoch, or of the rows held out. Of "autoencoder", minus half of the
        mean squared error of a row.
    lower_bounds_ : list of float
        Of each epoch, as the parameters were while it went on.
    history_ : dict of lists
        A value for each epoch: "lower_bound", "reconstruction", the mean log p(x|z), and "kl"; with early_stopping the
        same of the rows held out, "validation_...". Not kept in files.
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
    A Gaussian likelihood has no maximum where columns are constant, or z can hold each row: training then goes where
    the bounds of the log-variances (20 either way, of standardised columns) leave it. float32 data are fitted in
    float32, all else in float64. Memory maps of float32 or float64 rows are read batch by batch, ahead of the work;
    others, as of uint8, are converted as a whole. Ctrl-C ends training after the
    last whole epoch and raises; the model is that of this epoch, or with early_stopping of the best one. A step that is
    not finite is undone and the rate halved. A checkpoint is written every 30 seconds and at the end, and a fit with
    the same parameters and data that finds one goes on from it, with the same bits as if it had never stopped. It needs
    an integer random_state.
    Kingma & Welling (2014); Rezende, Mohamed & Wierstra (2014); Rezende & Mohamed (2015); Burda, Grosse & Salakhutdinov
    (2016). lvm.objectives.vae has the equations.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> vae = lvm.VAE(2, hidden_layer_sizes=(20,), max_epochs=30, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.inverse_transform(vae.transform(X)).shape
    ((150, 2), (150, 4))
    >>> bool((vae.elbo(X) < vae.score_samples(X, n_importance=1000) + 0.5).all())
    True
    """

    parameters_: np.ndarray
    architecture_: dict[str, Any]
    mean_: np.ndarray
    scale_: np.ndarray
    lower_bound_: float
    lower_bounds_: list[float]
    history_: dict[str, list[float]]
    optimizer_state_: dict[str, np.ndarray]
    n_iter_: int
    converged_: bool

    _schema = 1
    _state = {
        "parameters_": ("f", ("P",), "finite"),
        "architecture_": (dict, (), None),
        "mean_": ("f", ("D",), "finite"),
        "scale_": ("f", ("D",), "positive"),
        "lower_bound_": (float, (), "finite"),
        "lower_bounds_": (float, ("*",), None),
        "n_iter_": (int, (), "nonnegative"),
        "converged_": (bool, (), None),
    }

    def __init__(
        self,
        n_components=2,
        *,
        hidden_layer_sizes=(200,),
        decoder_layer_sizes=None,
        activation="relu",
        likelihood="gaussian",
        noise="isotropic",
        mean="linear",
        binarize=None,
        n_flow_layers=0,
        amortised=True,
        kl="auto",
        n_samples=1,
        n_importance=1,
        gradient="total",
        kl_warmup_steps=0,
        batch_size=128,
        max_epochs=100,
        learning_rate=1e-3,
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
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.decoder_layer_sizes = decoder_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.noise = noise
        self.mean = mean
        self.binarize = binarize
        self.n_flow_layers = n_flow_layers
        self.amortised = amortised
        self.kl = kl
        self.n_samples = n_samples
        self.n_importance = n_importance
        self.gradient = gradient
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
        check_int("n_components", self.n_components, 1, who=who)
        for name in ("hidden_layer_sizes", "decoder_layer_sizes"):
            sizes = getattr(self, name)
            if sizes is None and name == "decoder_layer_sizes":
                continue
            if not isinstance(sizes, (tuple, list)):
                refuse(name, who, "a tuple of integers, one for each layer", sizes)
            for size in sizes:
                check_int(name, size, 1, who=who)
        check_choice("activation", self.activation, ACTIVATIONS, who=who)
        check_choice("likelihood", self.likelihood, LIKELIHOODS, who=who)
        check_choice("noise", self.noise, NOISES, who=who)
        check_choice("mean", self.mean, MEANS, who=who)
        if self.binarize is not None:
            check_choice("binarize", self.binarize, ("dynamic", "threshold"), who=who)
        check_int("n_flow_layers", self.n_flow_layers, 0, who=who)
        check_bool("amortised", self.amortised, who=who)
        check_choice("kl", self.kl, KLS, who=who)
        check_int("n_samples", self.n_samples, 1, who=who)
        check_int("n_importance", self.n_importance, 1, who=who)
        check_choice("gradient", self.gradient, GRADIENTS, who=who)
        check_int("kl_warmup_steps", self.kl_warmup_steps, 0, who=who)
        check_training(self)
        check_choice("schedule", self.schedule, SCHEDULES, who=who)
        check_real("tol", self.tol, 0, who=who)
        check_verbose(self.verbose, who=who)
        self._check_together()
        kernels.load(self.device)

    def _check_together(self):
        """Raise ValueError for what cannot be had together."""
        if self.likelihood == "autoencoder" and (self.n_flow_layers > 0 or self.n_samples * self.n_importance > 1):
            raise ValueError(
                'likelihood="autoencoder" has no distribution of z: n_flow_layers must be 0, n_samples and '
                f"n_importance 1, got {self.n_flow_layers}, {self.n_samples} and {self.n_importance}."
            )
        if self.binarize is not None and self.likelihood != "bernoulli" and self.mean != "sigmoid":
            raise ValueError(
                f'binarize={self.binarize!r} is for pixels: for likelihood="bernoulli", or mean="sigmoid". Got '
                f"likelihood={self.likelihood!r}, mean={self.mean!r}."
            )
        if self.kl in ("analytic", "entropy") and self.n_importance > 1:
            raise ValueError(
                f'kl must be "monte_carlo" with n_importance={self.n_importance}: each sample needs a weight of its '
                f'own. Got {self.kl!r}. Try kl="auto".'
            )
        if self.kl == "analytic" and self.n_flow_layers > 0:
            raise ValueError(
                'kl must be "monte_carlo" or "entropy" with planar layers: their KL has no formula. Got "analytic". '
                'Try kl="auto".'
            )
        if self.gradient == "total":
            return
        if self.n_flow_layers > 0:
            raise ValueError(
                'gradient must be "total" with planar layers: the slope of log q in z is not followed through them. '
                f"Got {self.gradient!r}."
            )
        if self.likelihood == "autoencoder" or self.kl in ("analytic", "entropy"):
            raise ValueError(
                f"gradient={self.gradient!r} takes the slope of log q by the samples, which need "
                f'kl="monte_carlo" and a density. Got kl={self.kl!r}, likelihood={self.likelihood!r}. Try kl="auto".'
            )
        if self.gradient == "path" and self.n_importance > 1:
            raise ValueError(f'gradient="path" is biased for n_importance={self.n_importance}. Try gradient="doubly".')

    # -- training

    def fit(self, X, y=None) -> "VAE":
        """Train on X (N,D); y is ignored. Returns self.

        X may be larger than memory: a memory map, or a function without arguments that gives an iterable of blocks
        (n,D), all rows anew each time it is called (some times before training, and once for each epoch, in a thread of
        its own, for which Ctrl-C waits; the rows are taken in the order in which they come)."""
        self._check_params()
        rng = self._rng()
        rows, names = self._source(X)
        look = _Look(rows, self)
        a = self._architecture(look.D)
        mean, scale = self._standard(look)
        values = self._start(a, look, mean, scale, rng)
        self._train(rows, names, look, a, values, mean, scale, rng)
        return self

    def partial_fit(self, X, y=None) -> "VAE":
        """Go on training by one pass over X (N,D), at the learning rate as it is. Returns self.

        The first call makes the start and what X is standardised with, as `fit` does; a call after `fit` goes on with
        its weights, in the same architecture. Adam's memory is kept from call to call, but not in files. The weight of
        the KL rises over the first kl_warmup_steps of a model that was begun here, and is 1 for one from fit or a file.
        The checkpoint is for fit."""
        self._check_params()
        if callable(X):
            raise TypeError("partial_fit takes rows X (N,D). Call it for each block, or fit(function of blocks).")
        rng = check_random_state(self.random_state)
        if not self.__sklearn_is_fitted__():
            rows, names = self._check_fit_X(X, min_samples=2)
            look = _Look(rows, self)
            a = self._architecture(look.D)
            mean, scale = self._standard(look)
            values, state = self._start(a, look, mean, scale, rng), {"warm": np.array(self.kl_warmup_steps)}
        else:
            names, state = self.__dict__.get("feature_names_in_"), getattr(self, "optimizer_state_", {"warm": 0})
            a, mean, scale = self._a, self.mean_, self.scale_
            if self._architecture(a.n_features) != a:
                raise ValueError(
                    "partial_fit goes on with the nets as they are, and a parameter that makes them was changed since: "
                    f"architecture_ is {self.architecture_}. Set it back, or call fit."
                )
            T = self.parameters_.dtype
            rows = self._check_X(X).astype(T, copy=False)
            look, values = _Look(rows, self), self.weights_
        self._train(rows, names, look, a, values, mean, scale, rng, state)
        return self

    def _rng(self):
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError("A checkpoint needs the same noise again. Try an integer random_state.")
        return check_random_state(self.random_state)

    def _source(self, X):
        """X (N,D) as an array, or a function that gives checked blocks; and the column names."""
        if not callable(X):
            return self._check_fit_X(X, min_samples=2)
        if self.early_stopping:
            raise ValueError("early_stopping needs rows to hold out, and X comes in blocks. Try early_stopping=False.")
        source = X
        first: list[Any] = []

        def blocks():
            for block in source():
                if np.shape(block)[:1] == (0,):
                    continue
                yield self._check_block(block, first)

        for _ in blocks():
            return blocks, first[1]
        raise ValueError("The function of blocks gave none. It must give them anew each time it is called.")

    def _architecture(self, D):
        """Of the constructor's parameters, for D columns."""
        hidden = tuple(map(int, self.hidden_layer_sizes))
        decoder = hidden[::-1] if self.decoder_layer_sizes is None else tuple(map(int, self.decoder_layer_sizes))
        likelihood = {"gaussian": self.noise, "autoencoder": "squared"}.get(self.likelihood, self.likelihood)
        squashed = self.mean == "sigmoid" and likelihood != "bernoulli"
        flow = int(self.n_flow_layers)
        amortised = bool(self.amortised) or flow == 0
        d = int(self.n_components)
        return Architecture(
            D, d, hidden, decoder, self.activation, likelihood, squashed, flow, amortised, self.binarize
        )

    def _standard(self, look):
        """What X is centred at and divided by: (D,), (D,)."""
        D, T = look.D, look.T
        if look.N < 2:
            raise ValueError(f"Found array with {look.N} sample(s) while a minimum of 2 is required by VAE.")
        if self.likelihood == "bernoulli" or self.mean == "sigmoid":
            return np.zeros(D, T), np.ones(D, T)
        var, varies = look.var, look.high > look.low
        if self.likelihood != "gaussian" or self.noise == "isotropic":
            var, varies = np.full(D, var.mean()), np.full(D, varies.any())
        with np.errstate(over="ignore", divide="ignore", under="ignore"):
            mean, scale = look.mean.astype(T), np.where(varies, np.sqrt(var), 1).astype(T)
            if not np.isfinite([mean, scale, 1 / scale]).all():
                raise ValueError(f"X varies too much, or too little, for {T}. Try scaling X.")
        return mean, scale

    def _start(self, a, look, mean, scale, rng):
        """Weights by Glorot & Bengio 2010, an output that gives the mean of X, and planar layers near the identity."""
        values, d = {}, a.n_components
        for name, shape in a.shapes().items():
            if len(shape) == 2 and name != "flow":
                values[name] = rng.uniform(-1, 1, shape) * math.sqrt(6 / sum(shape))
            else:
                values[name] = np.zeros(shape)
        if a.flow:
            layers = np.zeros((a.flow, 2 * d + 1))
            layers[:, :d] = 0.1 * rng.standard_normal((a.flow, d))
            layers[:, d : 2 * d] = rng.standard_normal((a.flow, d)) / np.sqrt(d)
            layers[:, 2 * d] = rng.standard_normal(a.flow)
            if a.amortised:
                values["head"][:, 2 * d :] *= 0.1
                values["head_bias"][2 * d :] = layers.reshape(-1)
            else:
                values["flow"] = layers.reshape(1, -1)
        pixels = np.clip(look.mean, 0, 1)
        pixels = (pixels * look.N + 0.5) / (look.N + 1)  # never 0 or 1
        if a.likelihood == "bernoulli" or a.squashed:
            values["output_bias"][: a.n_features] = np.log(pixels) - np.log1p(-pixels)
        c = kernels.load("cpu").vae.LARGEST
        least = 1e-3  # of the variance of a whole column
        var = look.var / scale.astype(float) ** 2
        var = np.maximum(var, least * (float(var.mean()) or 1.0))
        r = c * np.arctanh(np.clip(np.log(var), -0.9 * c, 0.9 * c) / c)
        if a.noises:
            values["rho"][:] = r if a.noises > 1 else r.mean()
        elif a.likelihood == "network":
            values["output_bias"][a.n_features :] = r
        return values

    def _train(self, rows, names, look, a, values, mean, scale, rng, state=None):
        """Train from the weights `values`: all epochs, or where there is a `state` to go on from, one."""
        T, blocks, whole = look.T, callable(rows), state is None
        seeds = rng.integers(2**63, size=2)
        before = 0 if whole else self.__dict__.get("n_iter_", 0)
        seed, order = int(seeds[0]), (int(seeds[1]) + before) % 2**63
        numbers, held = None, np.arange(0)
        if self.early_stopping and whole:
            numbers, held = held_out(np.arange(look.N), self.validation_fraction, rng)
        n = look.N - len(held)
        size = min(self.batch_size, n)
        passes = -(-STEPS // -(-n // size)) if whole and not blocks else 1
        epochs = self.max_epochs if whole else 1
        S = self.n_samples * self.n_importance
        weights = sum(math.prod(s) for s in a.shapes().values())
        k = self._kernels(6 * n * S * weights * passes * epochs, None if blocks else rows)
        p = Parameters(k, a.shapes(), T)
        p.assign(values)
        if state is not None and "m" in state:
            p.restore(state | {"theta": p.state()["theta"]})
        # rows in memory are gathered by the step itself, some 2 % of it; what is on a disk, or made, is read ahead
        resident = not blocks and not on_disk(rows)
        read = lambda some: some if resident else np.take(rows, some, axis=0)
        if blocks:
            settings = {"n_rows": n, "batch_size": size}
            batches: Any = Ahead(k, lambda: _cut(rows, size, look.N), -(-n // size), settings)
        else:
            batches = Batches(k if resident else kernels.load("cpu"), n, size, order, numbers, passes)
            if not resident:
                batches = Ahead(k, read, len(batches), batches.settings, batches)
        held_batches = lambda: (k.put(read(held[i : i + size])) for i in range(0, len(held), size))
        kl = self.kl
        if kl == "auto":
            formula = a.flow == 0 and self.n_importance == 1 and self.gradient == "total"
            kl = "analytic" if formula else "monte_carlo"
        warm = min(self.kl_warmup_steps, epochs * len(batches)) if state is None else int(state["warm"])
        objective = Bound(
            k,
            a,
            p,
            k.put(rows) if resident else None,
            mean,
            1 / scale,
            held_batches,
            kl=kl,
            path=int(self.gradient != "total"),
            n_samples=self.n_samples,
            n_importance=self.n_importance,
            warm=warm,
            batch_size=size,
            seed=seed,
            n=n * passes,
        )
        data = hashlib.sha256(np.concatenate([look.mean, look.var]).tobytes()).hexdigest()
        first = -math.inf
        if whole:
            with contextlib.closing(batches.epoch(0)) as some:
                first = objective.validate([next(some)])["lower_bound"]
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
                "kl": kl,
                "gradient": self.gradient,
                "n_samples": self.n_samples,
                "n_importance": self.n_importance,
                "seed": seed,
                "data": data,
            },
            verbose=self.verbose,
        )
        found, history = p.get(), training.history
        if before:
            old = self.__dict__.get("history_", {})
            history = old | {name: [*old.get(name, []), *values] for name, values in history.items()}
        bounds = training.history["lower_bound"]
        fitted = {
            "parameters_": np.concatenate([found[name].reshape(-1) for name in a.shapes()]),
            "architecture_": _plain(a),
            "mean_": mean,
            "scale_": scale,
            "lower_bound_": float(training.bound),
            "lower_bounds_": [*(self.lower_bounds_ if before else []), *bounds],
            "history_": history,
            "optimizer_state_": {name: x for name, x in p.state().items() if name != "theta"}
            | {"warm": np.array(0 if whole else warm)},
            "n_iter_": before + training.n_epochs,
            "converged_": whole
            and (training.converged or (self.n_epochs_no_change is None and training.n_epochs == self.max_epochs)),
        }
        self._remember(np.empty((0, look.D)), names, fitted)
        if training.interrupted:
            best = "the best epoch up to" if self.early_stopping else "epoch"
            raise KeyboardInterrupt(f"fit was stopped; the model is that of {best} {self.n_iter_}")
        if not np.isfinite(training.bound):
            warn("The bound of the last epoch is not finite: a step was not. See history_, and `elbo` for it as it is.")
        elif training.bound < first - abs(first - objective.constant):  # (first is of one batch, and has noise)
            warn(
                f"Training ended at a bound of {training.bound:.6g} nats per row, below the {first:.6g} that it began "
                "with. Try a smaller learning_rate, or a clip_norm.",
                ConvergenceWarning,
            )

    # -- answers

    @property
    def _a(self):
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.architecture_.items()
        }
        return Architecture(**fields)

    @property
    def _n_features_out(self):
        return self.architecture_["n_components"]

    @property
    def weights_(self) -> dict[str, np.ndarray]:
        """The parameters by name, in their shapes: views of parameters_.

        "encoder_0", "encoder_bias_0", ... of hidden layers, (inputs, outputs); "head", which puts out the means and the
        log-variances r (20 tanh(r/20)) of z, and parameters of planar layers, "flow" where all rows share them;
        "decoder_0", ..., "output"; "rho", log-variances of the noise as r."""
        self._check_fitted()
        views, start = {}, 0
        for name, shape in self._a.shapes().items():
            views[name] = self.parameters_[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        return views

    @property
    def noise_variance_(self) -> Any:
        """The variance of x given z: a number, or (D,) with noise="diagonal"; in the units of X."""
        rho = self.weights_.get("rho")
        if rho is None:
            raise AttributeError('Only noise="isotropic" and noise="diagonal" have a noise_variance_.')
        var = np.exp(log_variance(kernels.load("cpu"), rho.astype(float))) * self.scale_.astype(float)[: len(rho)] ** 2
        return float(var[0]) if self.architecture_["likelihood"] == "isotropic" else var

    def _check_state(self):
        fields = {
            "n_features": int, "n_components": int, "encoder": list, "decoder": list, "activation": str,
            "likelihood": str, "squashed": bool, "flow": int, "amortised": bool,
        }  # fmt: skip
        got, k = self.architecture_, kernels.load("cpu").vae
        fits = set(got) == {*fields, "binarize"} and all(type(got[name]) is kind for name, kind in fields.items())
        sizes = [*got["encoder"], *got["decoder"], got["n_components"]] if fits else []
        fits = fits and all(type(size) is int and 0 < size < 2**31 for size in sizes) and 0 <= got["flow"] < 2**31
        if not fits or got["n_features"] != self.n_features_in_ or got["binarize"] not in k.BINARIZE:
            raise ValueError("architecture_ is not that of a VAE")
        if (got["likelihood"] == "squared" and got["flow"] > 0) or (got["flow"] == 0 and not got["amortised"]):
            raise ValueError("architecture_ has planar layers where there can be none")
        if got["activation"] not in ACTIVATIONS or got["likelihood"] not in k.LIKELIHOODS:
            raise ValueError("architecture_ has an activation or likelihood that is not known")
        size = sum(math.prod(shape) for shape in self._a.shapes().values())
        if size != len(self.parameters_):
            raise ValueError(f"parameters_ must have {size} elements, got {len(self.parameters_)}")

    def _needs_density(self, what):
        self._check_fitted()
        if self.architecture_["likelihood"] == "squared":
            raise ValueError(
                f'{what} needs a density, and likelihood="autoencoder" has none. Try likelihood="gaussian".'
            )

    @property
    def _room(self):
        """Samples that answers take at a time."""
        a = self._a
        return max(1, min(ROOM[0], ROOM[1] // max(a.n_features, a.head, a.output, *a.encoder, *a.decoder)))

    def _net(self, T, B, S):
        """The kernel set, and the nets on it with room for B rows with S samples of each."""
        a = self._a
        work = 2 * B * S * len(self.parameters_)
        k = self._kernels(work)
        views = {name: k.put(np.ascontiguousarray(w, T)) for name, w in self.weights_.items()}
        return k, Net(k, a, views, T, B, S)

    def _inputs(self, X):
        """X as the encoder wants it."""
        binarize, T = self.architecture_["binarize"], X.dtype
        if self.architecture_["likelihood"] == "bernoulli" or binarize is not None:
            _check_pixels(X, 0)
        if binarize == "threshold":
            return (X > 0.5).astype(T)
        if binarize == "dynamic":
            k, u = kernels.load("cpu"), np.empty(X.shape, T)
            for x, noise in zip(X, u):
                k.random.uniform(0, ANSWER, zlib.crc32(x.tobytes()), noise)
            return (u < X).astype(T)
        return (X - self.mean_.astype(T)) * (1 / self.scale_).astype(T)

    def _heads(self, X):
        """What the encoder puts out for each row of X, (N,P), in X's dtype."""
        size = min(len(X), self._room)
        k, net = self._net(X.dtype, size, 1)
        out = np.empty((len(X), self._a.head), X.dtype)
        for i in range(0, len(X), size):
            x = self._inputs(X[i : i + size])
            out[i : i + size] = k.get(net.encode(k.put(x)))
        return out

    def _moments(self, X):
        """Mean and variance of q(z|x), each (N,d)."""
        a, d = self._a, self.architecture_["n_components"]
        head = self._heads(X)
        if a.flow == 0:
            return head[:, :d], np.exp(log_variance(kernels.load("cpu"), head[:, d : 2 * d]))
        eps = np.empty((DRAWS // 2, d), X.dtype)
        kernels.load("cpu").random.normal(0, ANSWER, 0, eps)  # whatever random_state is: a mean is no draw
        eps = np.concatenate([eps, -eps])
        size = max(1, self._room // DRAWS)
        k, net = self._net(X.dtype, size, DRAWS)
        mean, var, noise = np.empty((len(X), d), X.dtype), np.empty((len(X), d), X.dtype), k.put(eps)
        for i in range(0, len(X), size):
            some = np.ascontiguousarray(head[i : i + size])
            Z = k.get(net.sample(k.put(some), noise, DRAWS, "monte_carlo")[0]).reshape(len(some), DRAWS, d)
            mean[i : i + size], var[i : i + size] = Z.mean(axis=1), Z.var(axis=1)
        return mean, var

    def transform(self, X) -> Any:
        """The posterior mean of z for each row: (N,d). With planar layers by 256 draws, the same for all rows."""
        given = X
        X = self._check_X(X)
        mean = self._heads(X) if self.architecture_["likelihood"] == "squared" else self._moments(X)[0]
        return self._wrap(self._as(np.ascontiguousarray(mean), X), given)

    def posterior(self, X) -> Posterior:
        """Mean and variance of q(z|x) for each row. With planar layers by 256 draws, the same for all rows."""
        self._needs_density("posterior")
        X = self._check_X(X)
        return Posterior(*(self._as(np.ascontiguousarray(a), X) for a in self._moments(X)))

    def inverse_transform(self, Z) -> np.ndarray:
        """The mean of x given z, for each row of Z (N,d): (N,D)."""
        self._check_fitted()
        Z = check_array(Z, type(self).__name__, 1, False, self._device)
        return self._as(self._decoded(Z)[0], Z)

    def decode(self, Z) -> np.ndarray:
        """As inverse_transform."""
        return self.inverse_transform(Z)

    def _decoded(self, Z):
        """Mean and standard deviation of x given z, in the units of X: (N,D); None where no normal noise is added."""
        a, T = self._a, Z.dtype
        if Z.shape[1] != a.n_components:
            raise ValueError(f"Z must have {a.n_components} columns, got {Z.shape[1]}.")
        size, D = min(len(Z), self._room), a.n_features
        k, net = self._net(T, size, 1)
        out = np.empty((len(Z), a.output), T)
        for i in range(0, len(Z), size):
            out[i : i + size] = k.get(net.decode(k.put(np.ascontiguousarray(Z[i : i + size]))))
        m = out[:, :D]
        if a.likelihood == "bernoulli" or a.squashed:
            m = np.exp(-np.logaddexp(0, -m))
        scale, sd = self.scale_.astype(T), None
        if a.likelihood not in ("bernoulli", "squared"):
            r = out[:, D:] if a.likelihood == "network" else self.weights_["rho"].astype(T)
            sd = np.exp(0.5 * log_variance(k, r)) * scale
        return m * scale + self.mean_.astype(T), sd

    def reconstruct(self, X) -> np.ndarray:
        """The mean of x given the posterior mean of z, for each row: (N,D)."""
        X = self._check_X(X)
        Z = self._heads(X) if self.architecture_["likelihood"] == "squared" else self._moments(X)[0]
        return self._as(self._decoded(np.ascontiguousarray(Z))[0], X)

    def sample(self, n_samples=1) -> np.ndarray:
        """Draw rows from the model: (n,D). For pictures without noise, `decode` draws of a standard normal.

        With an integer `random_state` every call draws the same; pass a Generator for fresh ones."""
        self._needs_density("sample")
        n = check_int("n_samples", n_samples, 1, who="sample")
        T, k = self.parameters_.dtype, kernels.load("cpu")
        seed, a = int(check_random_state(self.random_state).integers(2**63)), self._a
        Z, noise = np.empty((n, a.n_components), T), np.empty((n, a.n_features), T)
        k.random.normal(seed, SAMPLE, 0, Z)
        m, sd = self._decoded(Z)
        if a.likelihood == "bernoulli":
            k.random.uniform(seed, SAMPLE, 1, noise)
            return (noise < m).astype(T)
        k.random.normal(seed, SAMPLE, 1, noise)
        return m + sd * noise

    def _weighed(self, X, n) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """For some rows of X at a time, by n samples with noise that all rows share: log p(x|z), log p(z) - log q(z|x),
        each (B,n), and its mean, minus the KL, by the formula where there is one: (B,). All float64."""
        a, T = self._a, X.dtype
        noise = np.empty((n, a.n_components), T)
        seed = int(check_random_state(self.random_state).integers(2**63))
        kernels.load("cpu").random.normal(seed, ANSWER, 0, noise)
        S = min(n, max(1, self._room // 2))
        size = max(1, min(len(X), self._room // S))
        k, net = self._net(T, size, S)
        constant = 0.0
        if a.likelihood != "bernoulli":
            constant = -float(np.log(self.scale_.astype(float)).sum())
        eps = k.put(noise)
        for i in range(0, len(X), size):
            x = k.put(np.ascontiguousarray(self._inputs(X[i : i + size])))
            head, B = net.encode(x), len(x)
            px, ratio = np.empty((B, n)), np.empty((B, n))
            mean = k.get(net.sample(head, eps[:1], 1, "analytic")[1]).astype(float) if a.flow == 0 else None
            for s in range(0, n, S):
                some = eps[s : s + S]
                Z, extra, _ = net.sample(head, some, len(some), "monte_carlo")
                px[:, s : s + S] = k.get(net.log_px(net.decode(Z), x, extra)).reshape(B, -1)
                ratio[:, s : s + S] = k.get(extra).reshape(B, -1)
            yield slice(i, i + B), px + constant, ratio, ratio.mean(axis=1) if mean is None else mean

    def _formula(self, X):
        """E log p(x|z) and -KL of each row, each (N,) float64, by formulas; None where there are none."""
        a = self._a
        if not a.noises or a.decoder or a.squashed or a.flow:
            return None
        theta = {name: w.astype(float) for name, w in self.weights_.items()}
        k, constant = kernels.load("cpu"), float(np.log(self.scale_.astype(float)).sum())
        px, extra = np.empty(len(X)), np.empty(len(X))
        for i in range(0, len(X), self._room):
            some = slice(i, i + self._room)
            x = self._inputs(X[some].astype(float))
            l, kl = linear_bound(k, a, theta, x, self._heads(X[some].astype(float)))
            px[some], extra[some] = l - constant, -kl
        return px, extra

    def elbo(self, X, n_samples=100, *, return_std=False) -> Any:
        """The bound E_q[log p(x|z)] - KL(q || p) of each row, in nats: (N,); with return_std its standard error too.

        By n_samples draws of z, the same for all rows, the KL by a formula where there is one. Exact for a Gaussian
        posterior and a linear decoder: decoder_layer_sizes=(), noise "isotropic" or "diagonal", mean="linear"."""
        self._needs_density("elbo")
        n = check_int("n_samples", n_samples, 2 if return_std else 1, who="elbo")
        X = self._check_X(X)
        bound, error, exact = np.empty(len(X)), np.zeros(len(X)), self._formula(X)
        if exact is not None:
            bound = exact[0] + exact[1]
        else:
            for some, px, ratio, minus_kl in self._weighed(X, n):
                bound[some] = px.mean(axis=1) + minus_kl
                noisy = px + ratio if self.architecture_["flow"] else px
                error[some] = noisy.std(axis=1) / math.sqrt(max(n - 1, 1))
        bound = self._as(bound.astype(X.dtype), X)
        return (bound, self._as(error.astype(X.dtype), X)) if return_std else bound

    def score_samples(self, X, n_importance=100, *, return_std=False) -> Any:
        """log 1/k sum p(x,z)/q(z|x) of each row, z ~ q, k = n_importance: (N,) nats; with return_std its error, too.

        A lower bound on log p(x) in expectation, which more samples bring nearer (Burda, Grosse & Salakhutdinov 2016).
        The draws are the same for all rows."""
        self._needs_density("score_samples")
        n = check_int("n_importance", n_importance, 2 if return_std else 1, who="score_samples")
        X = self._check_X(X)
        log_p, error = np.empty(len(X)), np.empty(len(X))
        for some, px, ratio, _ in self._weighed(X, n):
            log_p[some] = log_mean(px + ratio)
            error[some] = np.exp(px + ratio - log_p[some, None]).std(axis=1) / math.sqrt(max(n - 1, 1))
        found = self._as(log_p.astype(X.dtype), X)
        return (found, self._as(error.astype(X.dtype), X)) if return_std else found

    def score(self, X, y=None, n_importance=100) -> float:
        """The mean of `score_samples`, in nats per row. Of "autoencoder" minus half of the mean squared error."""
        if self.__sklearn_is_fitted__() and self.architecture_["likelihood"] == "squared":
            X, total = self._check_X(X), 0.0
            for x in _slices(X):
                x = x if self.architecture_["binarize"] is None else self._inputs(x)
                total += float(((x - self._decoded(self._heads(x))[0]).astype(float) ** 2).sum())
            return -0.5 * total / len(X)
        return float(np.mean(np.asarray(self.score_samples(X, n_importance), float)))

    def evaluate(self, X, n_importance=100) -> Evaluation:
        """The bound and its parts, the NLL by n_importance samples for each row, and which units of z are in use."""
        self._needs_density("evaluate")
        n = check_int("n_importance", n_importance, 2, who="evaluate")
        X = self._check_X(X)
        px, extra, log_p, shares = np.empty(len(X)), np.empty(len(X)), np.empty(len(X)), np.zeros(n)
        for some, l, ratio, minus_kl in self._weighed(X, n):
            px[some], extra[some], log_p[some] = l.mean(axis=1), minus_kl, log_mean(l + ratio)
            shares += np.exp(l + ratio - log_p[some, None]).sum(axis=0)  # the rows have their draws in common
        px, extra = self._formula(X) or (px, extra)
        return Evaluation(
            bound=float((px + extra).mean()),
            reconstruction=float(px.mean()),
            kl=float(-extra.mean()),
            nll=float(-log_p.mean()),
            nll_error=float((shares / len(X)).std() / math.sqrt(n - 1)),
            active=self._moments(X)[0].astype(float).var(axis=0) > ACTIVE,
            n_importance=n,
        )

    # -- for lvm.evidence

    def _evidence(self, X, y, *, n_samples, annealing, rng):
        """See `report`."""
        self._needs_density("report")
        X, a = self._check_X(X), self._a
        pieces = (
            (some, px + ratio, px + ratio if a.flow else px, px.mean(axis=1) + minus_kl)
            for some, px, ratio, minus_kl in self._weighed(X, n_samples)
        )
        found = evidence.of_rows(type(self).__name__, pieces, len(X), n_samples)
        if a.noises and not a.decoder and not a.squashed:
            joint, formula = self._joint(self._inputs(X.astype(float))), self._formula(X)
            found = found.exactly(joint.linear(), None if formula is None else sum(formula))
        elif annealing is not None:
            x, size = self._inputs(X).astype(float), max(1, self._room // annealing[0])
            some = (self._joint(x[i : i + size]) for i in range(0, len(x), size))
            found = found.annealed([evidence.from_prior(joint, a.n_components, *annealing, rng=rng) for joint in some])
        return found

    def _joint(self, x):
        """log p(x,z) of rows x (N,D) as the encoder wants them, in the units of X, with slopes in z."""
        theta, constant = {name: w.astype(float) for name, w in self.weights_.items()}, 0.0
        if self.architecture_["likelihood"] != "bernoulli":
            constant = -float(np.log(self.scale_.astype(float)).sum())
        return decoder.Joint(self._a, theta, kernels.load("cpu").vae.LARGEST, x, constant)

    def _simulated(self, n, rng):
        """`_joint` of n rows drawn from the model, and their z (n,d)."""
        self._needs_density("simulated")
        joint = self._joint(np.empty((0, self.n_features_in_)))
        Z = rng.standard_normal((n, self._a.n_components))
        joint.x = joint.draw(Z, rng)
        return joint, Z


class _Look:
    """What training has to know of X: its rows N, columns D, dtype T; mean, variance, lowest, highest of each (D,)."""

    def __init__(self, rows, model) -> None:
        pixels = model.likelihood == "bernoulli" or model.binarize is not None or model.mean == "sigmoid"
        self.N, self.mean, square = 0, np.zeros(1), np.zeros(1)
        self.low, self.high = np.full(1, np.inf), np.full(1, -np.inf)
        for x in rows() if callable(rows) else _slices(rows):
            if pixels:
                _check_pixels(x, self.N)
            if model.binarize == "threshold":
                x = (x > 0.5).astype(x.dtype)
            n, self.T, self.D = len(x), x.dtype, x.shape[1]
            with np.errstate(over="ignore", invalid="ignore"):
                mean = x.mean(axis=0, dtype=float)  # the mean of all is that of the parts: Chan et al. 1983
                away = mean - self.mean
                square = square + ((x - mean) ** 2).sum(axis=0, dtype=float)
                square = square + away * (away * (self.N * n / (self.N + n)))
                self.mean = self.mean + away * (n / (self.N + n))
            self.low, self.high = np.minimum(self.low, x.min(axis=0)), np.maximum(self.high, x.max(axis=0))
            self.N += n
        constant = self.low == self.high  # as sums of many would hardly tell
        self.mean, self.var = np.where(constant, self.low, self.mean), np.where(constant, 0, square / self.N)


def _slices(X) -> Iterator[np.ndarray]:
    rows = max(1, BLOCK // X.shape[1])
    return (X[i : i + rows] for i in range(0, len(X), rows))


def _check_pixels(X, first):
    """Raise ValueError unless all of X is from 0 to 1."""
    low, high = X.min(), X.max()
    if low < 0 or high > 1:
        n, j = np.argwhere((X < 0) | (X > 1))[0]
        scaled = f"X / {high:g}" if low >= 0 else "(X - X.min()) / (X.max() - X.min())"
        raise ValueError(
            f'likelihood="bernoulli", mean="sigmoid" and binarize want X between 0 and 1, got {X[n, j]:g} at row '
            f'{first + n}, column {j}. Try {scaled}, or likelihood="gaussian" with mean="linear".'
        )


def _cut(blocks: Callable[[], Iterator[np.ndarray]], size: int, N: int) -> Iterator[np.ndarray]:
    """The rows of all blocks, so many at a time. ValueError where they are not N in all."""
    left, n = None, 0
    for block in blocks():
        n += len(block)
        x = block if left is None or not len(left) else np.concatenate([left, block])
        whole = len(x) // size * size
        yield from (np.array(x[i : i + size]) for i in range(0, whole, size))  # the block may be filled anew meanwhile
        left = x[whole:].copy()
    check_rows_again(N, n)
    if left is not None and len(left):
        yield left


def _plain(a: Architecture) -> dict[str, Any]:
    """As a dict of what JSON has."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in a._asdict().items()}
