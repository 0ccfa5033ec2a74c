"""Probabilistic PCA and factor analysis: the estimator."""

import itertools
from typing import Any

import numpy as np

from . import evidence, kernels, starts
from .estimator import (
    ConvergenceWarning,
    NumericalError,
    Transformer,
    check_array,
    check_choice,
    check_int,
    check_random_state,
    check_real,
    check_sample_weight,
    check_verbose,
    has_gaps,
    moderate,
    refuse,
    warn,
)
from .fit import Climb, em, progress
from .objectives import ppca as model
from .objectives.ppca import Degenerate, FactorAnalysis, Likelihood, Params, Rows

METHODS = ("auto", "exact", "em", "stochastic_em")
NOISES = ("isotropic", "diagonal")
GAPS = (
    "X contains NaN, and method='exact' needs complete data: with gaps the likelihood has no closed form. Try "
    "method='em' or 'auto'."
)
FORGETTING = 0.7  # partial_fit: eta is this power of a block's part of the weight seen so far
LARGEST = 512  # columns up to which a fit keeps the data's covariance, for partial_fit to go on from
SNAPSHOTS = 1000  # of stochastic EM, of which the second half is averaged


class ProbabilisticPCA(Transformer):
    """Probabilistic PCA, x = mean + W z + noise with z standard normal in n_components dimensions; factor analysis.

    p(x) = N(x | mean_, W W' + Psi), W = loadings_; Psi = noise_variance_ times 1, or diag(noise_variance_).

    Parameters
    ----------
    n_components : int, "bic" or None, default None
        d, the dimensions of z. "bic" takes what the Bayesian information criterion finds best; None as many as leave
        one direction for the noise: one less than the rank of the data, of which gaps leave less. (Of many columns with
        gaps None is slow and takes memory: give a number.)
    method : {"auto", "exact", "em", "stochastic_em"}, default "auto"
        The maximum of the likelihood from the eigenvalues of the covariance (Tipping & Bishop 1999); by expectation
        maximisation (of complete data in factor analysis ECME, Liu & Rubin 1994); or by stochastic EM, which draws
        rows, and z for each, and follows the gradient. "auto" is "exact" where it can be: isotropic noise and no gaps,
        and else "em". All end at the same likelihood.
    noise : {"isotropic", "diagonal"}, default "isotropic"
        One variance for all columns (PPCA), or one each (factor analysis), of which none is less than 1e-8 (float32:
        3e-4) of its column's variance: the likelihood often has its maximum at 0 (Heywood 1931).
    tol : float, default 1e-9
        EM stops when the last gain, and the gain still to come as estimated from the last two, are below this (nats per
        row); 0 takes all steps.
    max_iter : int, default 10000
        Most EM steps.
    n_draws : int, default 1000000
        Rows that stochastic EM draws. It ends some (number of parameters) / n_draws nats per row below the maximum.
    batch_size : int, default 1
        Rows drawn for one step of stochastic EM. On a GPU a step pays from some hundred on.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the start of EM, for stochastic EM and for `sample`.
    verbose : int, default 0
        1 shows a bar.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: see GaussianMixture.

    Attributes
    ----------
    components_ : array (d,D)
        Unit axes, the largest element of each positive.
    loadings_ : array (D,d)
        W, along these axes by falling length.
    mean_ : array (D,)
    noise_variance_ : float, or array (D,) with noise="diagonal"
    explained_variance_, explained_variance_ratio_ : array (d,)
        Variance of the model along each axis, noise and all, and as a part of that of all columns.
    n_components_ : int
    lower_bound_ : float
        Mean log-likelihood of the rows, in nats.
    lower_bounds_ : list of float
        After each EM step; it never falls but by rounding. Of "exact" and stochastic EM, the last one alone.
    n_iter_ : int, and converged_ : bool
        EM steps. 1 and True of "exact" and of stochastic EM.
    bics_ : array (n,)
        With n_components="bic": the criterion for 1 to n components. Lower is better.
    n_samples_seen_ : float
        Weight of the rows that `fit` and `partial_fit` have seen.
    sample_mean_, sample_covariance_ : array (D,) and (D,D), float64
        Of these rows, where there were no gaps and D is at most 512.
    n_features_in_ : int, and feature_names_in_ : array (D,), when X was a data frame.

    Raises
    ------
    ValueError or TypeError
        Bad data or parameters: before anything is changed.
    NumericalError
        The noise variance is zero: the data lie in n_components dimensions. Or a column is constant, which leaves
        noise="diagonal" without a maximum. It is a ValueError.
    RuntimeError, MemoryError
        The device cannot be used here; it has no room.
    After any of them the model is as it was before the fit.

    Notes
    -----
    Gaps: NaN in X is a value that was not observed, in `fit` and in every answer. The posterior of z and the likelihood
    are the exact ones of what was observed. This is right where what is missing does not depend on the values that are
    missing (Rubin 1976). A row of gaps alone scores 0 and transforms to 0; `fit` leaves it out. A column of gaps alone
    is an error.
    Everything is divided by N (scikit-learn's PCA divides by N-1), and `transform` gives posterior means, which are
    closer to 0 than scores in units of their standard deviation. With n_components = D nothing is left to tell the
    noise from: the likelihood is the same for any small one, and the least eigenvalue is taken.
    float32 data are fitted in float32, the covariance of complete data in float64. `sample_weight` is exact: weight 2
    is that row twice. Ctrl-C ends EM after the last complete step and raises.
    Tipping & Bishop (1999); Rubin & Thayer (1982); Bishop (2006), section 12.2. lvm.objectives.ppca has the equations.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> model = lvm.ProbabilisticPCA(2).fit(X)
    >>> model.transform(X[:1]).round(2)
    array([[-1.3 ,  0.58]])
    >>> round(model.noise_variance_, 4)
    0.0507
    """

    components_: np.ndarray
    loadings_: np.ndarray
    mean_: np.ndarray
    noise_variance_: Any
    explained_variance_: np.ndarray
    explained_variance_ratio_: np.ndarray
    n_components_: int
    lower_bound_: float
    lower_bounds_: list[float]
    n_iter_: int
    converged_: bool
    n_samples_seen_: float
    sample_covariance_: np.ndarray
    sample_mean_: np.ndarray

    _allow_nan = True
    _schema = 1

    @staticmethod
    def _state(params):
        noise = (float, (), "positive") if params["noise"] == "isotropic" else ("f", ("D",), "positive")
        return {
            "components_": ("f", ("d", "D"), "finite"),
            "loadings_": ("f", ("D", "d"), "finite"),
            "mean_": ("f", ("D",), "finite"),
            "noise_variance_": noise,
            "explained_variance_": ("f", ("d",), "nonnegative"),
            "explained_variance_ratio_": ("f", ("d",), "nonnegative"),
            "n_components_": (int, (), "positive"),
            "lower_bound_": (float, (), "finite"),
            "lower_bounds_": (float, ("*",), "finite"),
            "n_iter_": (int, (), "nonnegative"),
            "converged_": (bool, (), None),
            "bics_?": ("f8", ("n",), "finite"),
            "n_samples_seen_": (float, (), "positive"),
            "sample_mean_?": ("f8", ("D",), "finite"),
            "sample_covariance_?": ("f8", ("D", "D"), "finite"),
        }

    def __init__(
        self,
        n_components=None,
        *,
        method="auto",
        noise="isotropic",
        tol=1e-9,
        max_iter=10_000,
        n_draws=1_000_000,
        batch_size=1,
        random_state=None,
        verbose=0,
        device="cpu",
    ) -> None:
        self.n_components = n_components
        self.method = method
        self.noise = noise
        self.tol = tol
        self.max_iter = max_iter
        self.n_draws = n_draws
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    @property
    def _n_features_out(self):
        return self.loadings_.shape[1]

    # ------------------------------------------------------------------------------------------------ fit
    def fit(self, X, y=None, sample_weight=None) -> "ProbabilisticPCA":
        """Fit to X (N,D), its rows weighted by sample_weight (N,). `y` is ignored. Returns self."""
        self._check_params()
        X, names = self._check_fit_X(X, min_samples=2)
        w, factor = moderate(check_sample_weight(sample_weight, len(X)))
        mean, gaps = _mean(X)
        if gaps or not w.all():
            kept = ~np.isnan(X).all(axis=1) & (w > 0 if w.size else True)
            if kept.sum() < 2:
                raise ValueError(
                    "fit needs at least 2 rows that have weight and anything observed in them, got "
                    f"{kept.sum()} of n_samples = {len(X)}."
                )
            if not kept.all():
                X, w = X[kept], w[kept] if w.size else w
                mean, gaps = _mean(X)
        fitted, interrupted = self._fit(X, w, factor, mean, gaps)
        self._remember(X, names, fitted)
        if interrupted:
            raise KeyboardInterrupt(f"fit was stopped; the model is that of step {self.n_iter_}")
        if not self.converged_ and 0 < self.max_iter <= self.n_iter_:
            warn(
                f"EM did not converge: the bound still rose at step {self.n_iter_}. Try a larger max_iter or tol.",
                ConvergenceWarning,
            )
        return self

    def partial_fit(self, X, y=None, sample_weight=None) -> "ProbabilisticPCA":
        """Learn from one block of rows more, for data that arrive in time. Returns self.

        The first block is fitted as `fit` does; it needs more rows than n_components + 1. As long as no block has gaps
        and D is at most 512, the running mean and covariance of all rows are kept, and the fit is that of all of them.
        Else it is stepwise EM, as in GaussianMixture.partial_fit: with W the weight of the block and `n_samples_seen_`
        that of all blocks including this one,
            s <- (1 - eta) s + eta s_block,    eta = (W / n_samples_seen_)^0.7,
        where s are the sufficient statistics per row, which the model itself stands for, and an M step follows (Cappé &
        Moulines 2009). n_components stays that of the first block.

        lower_bound_ is the mean log-likelihood of this block under the model that had not yet seen it. lower_bounds_
        has this one number, and n_iter_ goes up by one.

        >>> import lvm
        >>> X, model = lvm.datasets.load_iris(), lvm.ProbabilisticPCA(2)
        >>> for block in np.array_split(X, 5):
        ...     model = model.partial_fit(block)
        >>> round(model.score(X), 6) == round(lvm.ProbabilisticPCA(2).fit(X).score(X), 6)
        True
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, sample_weight=sample_weight)
        self._check_params()
        X = self._check_X(X)
        w, factor = moderate(check_sample_weight(sample_weight, len(X)))
        if isinstance(self.n_components, (int, np.integer)) and self.n_components != self.n_components_:
            raise ValueError(
                f"partial_fit goes on from {self.n_components_} components, got n_components={self.n_components}. Try "
                "a new model."
            )
        seen = ~np.isnan(X).all(axis=1) & (w > 0 if w.size else True)
        if not seen.all():
            X, w = X[seen], w[seen] if w.size else w
        rows = self._rows(X, w)
        if rows.gaps and self.method == "exact":
            raise ValueError(GAPS)
        if rows.weight == 0:
            raise ValueError("X has nothing observed in it: its rows are all NaN, or have no weight.")
        d, p, T = self.n_components_, self._params(), self.mean_.dtype
        seen = self.n_samples_seen_ + rows.weight * factor
        a = rows.weight * factor / seen
        likelihood = Likelihood(rows, self.noise == "isotropic", _least((p.W**2).sum(1) + p.psi, self.noise, T))
        block, kept = likelihood.statistics(p), {}
        try:
            if "sample_covariance_" in self.__dict__ and not rows.gaps:
                _, m, S = model.covariance(rows.k, rows.X, X, np.sqrt(w), _mean(X)[0])
                m = m - self.sample_mean_
                S = (1 - a) * self.sample_covariance_ + a * S + a * (1 - a) * np.outer(m, m)
                mean = self.sample_mean_ + a * m
                climb = _Fit.of_covariance(self, rows.k, seen, mean, S, T).solve(d, p)
                if climb.interrupted:
                    raise KeyboardInterrupt("partial_fit was stopped; the model is as it was before")
                p, kept = climb.params, {"sample_covariance_": S, "sample_mean_": mean}
            else:
                eta = a**FORGETTING
                p = likelihood.maximise(block.scaled(eta / block.weight) + likelihood.expected(block.at, 1 - eta))
        except Degenerate:
            raise self._degenerate(d) from None
        steps = self.n_iter_ + 1
        fitted = self._named(Climb(p, block.bound, [block.bound], False, False), T)
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("sample_covariance_", "sample_mean_", "bics_")
        }
        self.__dict__ = {**state, **fitted, **kept, "n_iter_": steps, "n_samples_seen_": seen}
        return self

    def _check_params(self):
        who = type(self).__name__
        d = self.n_components
        whole = isinstance(d, (int, np.integer)) and not isinstance(d, bool) and d >= 1
        if not (d is None or whole or (isinstance(d, str) and d == "bic")):
            refuse("n_components", who, "an integer of at least 1, 'bic' or None", d)
        check_choice("method", self.method, METHODS, who=who)
        check_choice("noise", self.noise, NOISES, who=who)
        check_real("tol", self.tol, 0, who=who)
        check_int("max_iter", self.max_iter, 0, who=who)
        check_int("n_draws", self.n_draws, 1, who=who)
        check_int("batch_size", self.batch_size, 1, who=who)
        check_verbose(self.verbose, who=who)
        kernels.load(self.device)
        if self.method == "exact" and self.noise == "diagonal":
            raise ValueError(
                "method='exact' is for noise='isotropic', since factor analysis has no closed form. Try method='em' or "
                "'auto'."
            )

    def _fit(self, X, w, factor, mean, gaps):
        """-> the fitted attributes by name, and was it interrupted?"""
        if gaps and self.method == "exact":
            raise ValueError(GAPS)
        D, d = X.shape[1], self.n_components
        if not isinstance(d, str) and (d or 1) > D:
            raise ValueError(f"n_components={d} must be at most the number of columns of X, {D}.")
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large has its own message
            fit = _Fit.of_rows(self, X, w, mean, gaps)
        more: dict[str, Any] = {"n_samples_seen_": float(fit.weight * factor)}
        if isinstance(d, str):
            climb, more["bics_"] = self._by_bic(fit, fit.weight * factor)
        else:
            climb = self._solved(fit, max(1, fit.rank - 1) if d is None else d)
        if not gaps and D <= LARGEST:
            S = (
                fit.covariance
                if fit.covariance is not None
                else model.covariance(fit.k, fit.rows[0], X, np.sqrt(w), mean)[2]
            )
            more |= {"sample_covariance_": S, "sample_mean_": fit.mean}
        return self._named(climb, X.dtype) | more, climb.interrupted

    def _solved(self, fit, d):
        try:
            return fit.solve(d)
        except Degenerate:
            raise self._degenerate(d) from None

    def _by_bic(self, fit, W):
        """The fit with the least BIC, and the criterion for 1, 2, ... components, until it rose twice."""
        D, bics = len(fit.mean), []
        best: Any = None
        climb: Any = None
        most = max(1, fit.rank - 1)
        if self.noise == "diagonal":  # more would have as many parameters as the covariance (Ledermann 1937)
            most = max([1, *(d for d in range(1, most + 1) if (D - d) ** 2 >= D + d)])
        if fit.exact:
            bics = [-2 * W * fit.bound(d) + self._penalty(W, D, d) for d in range(1, most + 1)]
            return self._solved(fit, 1 + int(np.argmin(bics))), np.array(bics)
        for d in range(1, most + 1):
            try:
                climb = fit.solve(d, None if climb is None else fit.grown(climb.params))
            except Degenerate:
                break
            bics.append(-2 * W * climb.bound + self._penalty(W, D, d))
            best = climb if bics[-1] == min(bics) else best
            if climb.interrupted or d - int(np.argmin(bics)) > 2:
                break
        if best is None:
            raise self._degenerate(1)
        return best._replace(interrupted=climb.interrupted), np.array(bics)

    def _penalty(self, W, D, d):
        of_noise = 1 if self.noise == "isotropic" else D
        return (D + D * d - d * (d - 1) // 2 + of_noise) * np.log(W)

    def _degenerate(self, d):
        fewer = f"fewer components than {d}" if d > 1 else "more rows"
        return NumericalError(
            f"The noise variance is zero: X lies in {d} dimensions or fewer, and the likelihood has no maximum. Try "
            f"{fewer}, or leave out columns that others determine."
        )

    def _named(self, climb, dtype):
        """The fitted attributes, by name, from float64 parameters."""
        components, W = model.principal(climb.params.W)
        psi = climb.params.psi
        variance = (W**2).sum(0) + components**2 @ psi
        arrays = {
            "components_": components,
            "loadings_": W,
            "mean_": climb.params.mu,
            "explained_variance_": variance,
            "explained_variance_ratio_": variance / ((W**2).sum() + psi.sum()),
        }
        noise = float(psi[0]) if self.noise == "isotropic" else np.array(psi, dtype)
        return {name: np.array(a, dtype, order="C") for name, a in arrays.items()} | {
            "noise_variance_": noise,
            "n_components_": W.shape[1],
            "lower_bound_": climb.bound,
            "lower_bounds_": climb.bounds,
            "n_iter_": len(climb.bounds),
            "converged_": climb.converged,
        }

    # ------------------------------------------------------------------------------------------------ use
    def transform(self, X):
        """The posterior means E[z | x] of the rows: (N,d)."""
        rows = self._rows(self._check_X(X))
        return self._wrap(self._as(self._means(rows), rows.host), X)

    def posterior(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Means (N,d) and covariances (N,d,d) of z given each row.

        Without gaps all rows have the same covariance, and the second array is a read-only view of it.

        >>> import lvm, numpy as np
        >>> model = lvm.ProbabilisticPCA(1).fit(lvm.datasets.load_faithful())
        >>> means, covariances = model.posterior([[4.0, 80.0], [4.0, np.nan]])
        >>> covariances.ravel().round(4)
        array([0.0013, 0.1875])
        """
        rows, d = self._rows(self._check_X(X)), self.n_components_
        q = d * (d + 1) // 2

        def covariances(b):
            return rows.k.get(b.C)[:, :q].repeat(np.diff(rows.k.get(b.first)), axis=0)

        Z = self._means(rows)
        if rows.gaps:
            C = model.unpack(rows.answer((q,), covariances, self._params()), d)
        else:
            C = np.linalg.inv(model.inner(self._params()) + np.eye(d)).astype(rows.T)
            C = np.broadcast_to(C, (len(Z), d, d))
        return self._as(Z, rows.host), self._as(C, rows.host)

    def inverse_transform(self, Z) -> np.ndarray:
        """W z + mean, where z (N,d) lies: (N,D)."""
        self._check_fitted()
        Z = check_array(Z, type(self).__name__, 1, False, self.device)
        if Z.shape[1] != self.n_components_:
            raise ValueError(f"Z has {Z.shape[1]} columns, and there are n_components_ = {self.n_components_}.")
        X = np.asarray(Z) @ self.loadings_.astype(Z.dtype).T + self.mean_.astype(Z.dtype)
        return self._as(X, Z)

    def impute(self, X, *, return_variance=False):
        """X (N,D) with its gaps (NaN) filled by their means given what was observed: (N,D).

        With return_variance also the variance of what was filled in, 0 where X was observed: (N,D).

        >>> import lvm, numpy as np
        >>> model = lvm.ProbabilisticPCA(1).fit(lvm.datasets.load_faithful())
        >>> filled, variance = model.impute([[4.0, np.nan]], return_variance=True)
        >>> filled.round(1), variance.round(1)
        (array([[ 4. , 76.4]]), array([[ 0. , 34.7]]))
        """
        X = self._check_X(X)
        rows, p, missing, out = self._rows(X), self._params(), np.isnan(np.asarray(X)), np.array(X)
        Z, (n, i) = self._means(rows), np.nonzero(missing)
        for a in range(0, len(n), 2**18):
            at = n[a : a + 2**18], i[a : a + 2**18]
            out[at] = p.mu[at[1]] + (Z[at[0]] * p.W[at[1]]).sum(1)
        if not return_variance:
            return self._as(out, X)
        V = np.where(missing, rows.answer((X.shape[1],), lambda b: rows.variances(b, p), p), 0)
        return self._as(out, X), self._as(V, X)

    def score_samples(self, X) -> np.ndarray:
        """log p(x) of each row, in nats: (N,). A density: it may be above 0. Of what was observed: 0 if nothing was."""
        rows = self._rows(self._check_X(X))
        return self._as(self._log_p(rows), rows.host)

    def score(self, X, y=None, sample_weight=None) -> float:
        """Mean of log p(x) over the rows, weighted by sample_weight (N,), in nats per row: higher is better.

        Rows of gaps alone do not count, as in `fit`."""
        l, W = self._total(X, sample_weight)
        return l / W

    def bic(self, X, sample_weight=None) -> float:
        """Bayesian information criterion on X: -2 sum log p(x) + (number of parameters) log N. Lower is better.

        With sample_weight (N,), N counts as its sum."""
        l, W = self._total(X, sample_weight)
        D, d = self.loadings_.shape
        return float(-2 * l + self._penalty(W, D, d))

    def _evidence(self, X, y, **_):
        """See lvm.evidence.report."""
        X = self._check_X(X)
        log_p = self._log_p(self._rows(X))[~np.isnan(X).all(axis=1)]
        return evidence.exact_report(self, log_p, "exact, a normal density")

    def sample(self, n_samples=1) -> np.ndarray:
        """Draw rows from the model: (n,D).

        With an integer `random_state` every call draws the same; pass a Generator for fresh ones."""
        self._check_fitted()
        n = check_int("n_samples", n_samples, 1, who="sample")
        p, seed = self._params(), int(check_random_state(self.random_state).integers(2**63))
        D, d = p.W.shape
        k = self._kernels(n * D * d)
        z, X, eps = k.empty((n, d), float), k.empty((n, D), float), k.empty((n, D), float)
        k.random.normal(seed, 0, 0, z)
        k.random.normal(seed, 1, 0, eps)
        k.linear.gemm(z, k.put(p.W), X, k.put(p.mu), "nt")
        return (k.get(X) + np.sqrt(p.psi) * k.get(eps)).astype(self.mean_.dtype)

    def get_covariance(self) -> np.ndarray:
        """W W' + Psi, the covariance of x: (D,D)."""
        p = self._params()
        return (p.W @ p.W.T + np.diag(p.psi)).astype(self.mean_.dtype)

    def get_precision(self) -> np.ndarray:
        """The inverse of `get_covariance()`, (D,D): Psi^-1 - Psi^-1 W (1 + W'Psi^-1 W)^-1 W'Psi^-1 (Woodbury)."""
        p = self._params()
        B = p.W / p.psi[:, None]
        M = np.eye(p.W.shape[1]) + model.inner(p)
        return (np.diag(1 / p.psi) - B @ np.linalg.solve(M, B.T)).astype(self.mean_.dtype)

    def _check_noise(self):
        """`noise` must be that of the fit."""
        if (np.ndim(self.noise_variance_) == 0) != (self.noise == "isotropic"):
            raise ValueError(f"noise was changed to {self.noise!r} after fit. Call fit again.")

    def _params(self):
        self._check_fitted()
        self._check_noise()
        W = self.loadings_.astype(float)
        return Params(W, self.mean_.astype(float), np.broadcast_to(self.noise_variance_, len(W)).astype(float))

    def _rows(self, X, w=None):
        D, d = self.loadings_.shape
        k = self._kernels(len(X) * D * d, X)
        return Rows(k, k.put(X), X, np.empty(0) if w is None else w, has_gaps(X))

    def _means(self, rows):
        Z = rows.answer((self.n_components_,), lambda b: rows.k.get(b.Z)[:, :-1], self._params())
        if not np.isfinite(Z).all():
            n = int((~np.isfinite(Z)).any(axis=1).argmax())
            raise ValueError(f"Row {n} of X is so far from the data that its z overflows {rows.T}. Try scaling X.")
        return Z

    def _log_p(self, rows):
        return rows.answer((), lambda b: rows.k.get(b.log_px), self._params(), density=True)

    def _total(self, X, sample_weight):
        """Sums over rows with anything observed of log p(x) and of weights."""
        X = self._check_X(X)
        w = check_sample_weight(sample_weight, len(X))
        seen = ~np.isnan(X).all(axis=1)
        w = seen.astype(float) if w is None else w * seen
        if w.sum() == 0:
            raise ValueError("X has nothing observed in it: its rows are all NaN, or have no weight.")
        return float(w @ self._log_p(self._rows(X)).astype(float)), float(w.sum())


class _Fit:
    """One data set to fit, of D columns: `solve(d)` gives a Climb.

    weight, mean, var (D,) are of its rows. v are the eigenvalues of the covariance of x / unit, falling, U (D,n) their
    axes, at least those wanted. With gaps they are guesses, to begin at. unit (D,) are the columns' standard deviations
    in factor analysis, which does not see the units of columns, else 1. covariance: of x, for complete data of more
    rows than columns. rows: (x, X, w, gaps) as `Rows` takes them. rounding: singular values below this part of the
    largest are zero."""

    covariance: Any = None
    rows: Any = None
    gaps = False
    v: Any
    U: Any
    rank: int

    def __init__(self, owner, k, weight, mean, var, T, rounding):
        self.owner, self.k, self.weight, self.mean, self.var, self.T = owner, k, weight, mean, var, T
        self.rng, self.rounding = check_random_state(owner.random_state), rounding
        self.isotropic = owner.noise == "isotropic"
        low, high = (1e-11, 1e15) if T.itemsize == 4 else (1e-140, 1e140)
        largest = np.sqrt(np.max(var))
        if not low <= largest <= high:
            raise ValueError(
                f"The columns of X must vary, with standard deviations of {low:g} to {high:g} in {T}, got "
                f"{largest:g} as the largest. Try scaling X."
            )
        if not self.isotropic and not var.all():
            raise NumericalError(
                f"Column {int((var == 0).argmax())} of X is constant, so that with noise='diagonal' the likelihood has "
                "no maximum. Leave it out, or try noise='isotropic'."
            )
        self.unit = np.ones(len(var)) if self.isotropic else np.sqrt(var)

    @classmethod
    def of_rows(cls, owner, X, w, mean, gaps):
        (N, D), s, wanted = X.shape, np.sqrt(w), owner.n_components
        wanted = int(wanted) if isinstance(wanted, (int, np.integer)) and _closed(owner, gaps) else None
        k = owner._kernels(N * D * min(N, D) if owner.method != "stochastic_em" else 0, X)
        x, part = k.put(X), np.ones(D)
        if gaps:
            seen, _, _ = starts.rows(lambda: [(X, w)], check_random_state(owner.random_state))
            mean, part = seen.mean, seen.seen
        rounding = _rounding(D, X.dtype)
        if N > D:
            weight, mean, S = model.covariance(k, x, X, s, mean, gaps)
            S = S / np.sqrt(np.outer(part, part))
            fit = cls(owner, k, weight, mean, np.diag(S), X.dtype, rounding)
            fit.covariance = None if gaps else S
            fit.v, fit.U = model.axes_of(S / np.outer(fit.unit, fit.unit))
        else:
            weight, mean, var = model.mean_and_variance(X, s, mean if gaps else None)
            fit = cls(owner, k, weight, mean, var / part, X.dtype, rounding)
            scaled = X if fit.isotropic else X / fit.unit.astype(X.dtype)
            some = x if fit.isotropic else k.put(scaled)
            fit.v, fit.U = model.axes_of_rows(k, some, s, mean / fit.unit, weight, wanted)
        fit.gaps, fit.rows = gaps, (x, X, w, gaps)
        if gaps:  # more than this and W could go through all that was observed
            fit.rank = int(max(min(N * part.min() - 1, D * part.mean()), 1))
        else:
            if (fit.v[-1] if wanted is None else fit._sigma2(wanted)) < model.PRECISE * fit.v[0]:
                fit.v, fit.U = model.precise_axes(X, s, fit.mean, fit.unit, weight)
            fit.rank = fit._rank()
        return fit

    @classmethod
    def of_covariance(cls, owner, k, weight, mean, S, T):
        fit = cls(owner, k, weight, mean, np.diag(S), T, max(_rounding(len(S), T), np.sqrt(_rounding(len(S), float))))
        fit.v, fit.U = model.axes_of(S / np.outer(fit.unit, fit.unit))
        fit.covariance, fit.rank = S, fit._rank()
        return fit

    def _rank(self):
        return max(1, np.count_nonzero(np.sqrt(self.v) > self.rounding * np.sqrt(self.v[0])))

    @property
    def exact(self):
        return _closed(self.owner, self.gaps)

    def _sigma2(self, d):
        """The mean of the D - d smallest eigenvalues; with d = D, the smallest."""
        D = len(self.mean)
        if d == D == len(self.v):
            return self.v[-1]
        return self.v[d:].sum() / (D - d) if d < D else 0.0

    def bound(self, d):
        """The maximum of the mean log-likelihood.   Tipping & Bishop 1999, eq. 5-8."""
        D = len(self.mean)
        return float(-0.5 * (D * np.log(2 * np.pi) + D + np.log(self.v[:d]).sum() + (D - d) * np.log(self._sigma2(d))))

    def solve(self, d, start=None):
        """The fit of d components. Raises Degenerate when the noise variance is zero but for rounding."""
        if self.exact:
            sigma2 = self._sigma2(d)
            if np.sqrt(sigma2) <= self.rounding * np.sqrt(self.v[0]):
                raise Degenerate
            W = self.U[:, :d] * np.sqrt(np.maximum(self.v[:d] - sigma2, 0))
            bound = self.bound(d)
            return Climb(Params(W, self.mean, np.full(len(W), sigma2)), bound, [bound], True, False)
        if self.isotropic and not self.gaps and self.rank <= d and self.rank < len(self.mean):
            raise Degenerate
        if self.rows is not None and self.owner.method == "stochastic_em":
            return self._draw(d)
        start = self._start(d) if start is None else start
        if self.covariance is None:
            return self._climb(self._likelihood(Rows(self.k, *self.rows)), start)
        u, log_u = self.unit, float(np.log(self.unit).sum())
        start = Params(start.W / u[:, None], 0 * u, start.psi / u**2)
        if self.isotropic:
            X = model.few_rows(self.v, self.U)
            few = Rows(self.k, self.k.put(X), X, np.full(len(X), self.weight / len(X)), False)
            climb = self._climb(self._likelihood(few), start)
            p = climb.params
        else:
            root = np.sqrt(self.v)[:, None] * self.U.T
            analysis = FactorAnalysis(root, _least(np.ones(len(u)), "diagonal", self.T))
            climb = self._climb(analysis, start)
            p = analysis.statistics(climb.params).at
        bounds = [bound - log_u for bound in climb.bounds]
        p = Params(p.W * u[:, None], self.mean, p.psi * u**2)
        return climb._replace(params=p, bound=climb.bound - log_u, bounds=bounds)

    def _start(self, d):
        """Params to begin at: near the d first axes, or in directions drawn at random where there are not so many."""
        v, U, D = self.v[:d], self.U[:, :d], len(self.mean)
        sigma2 = max(self._sigma2(d), 1e-6 * v[0])
        W = np.sqrt(np.maximum(v - sigma2, v / 10)) * U
        more = self.rng.standard_normal((D, d - len(v))) * np.sqrt(v[-1] / D)
        W = np.column_stack([W, more])
        psi = np.full(D, sigma2) if self.isotropic else np.maximum(1 - (W**2).sum(1), 0.1)
        return Params(W * self.unit[:, None], self.mean, psi * self.unit**2)

    def grown(self, p):
        """Params to begin at with one component more than p."""
        return p._replace(W=np.column_stack([p.W, self._start(p.W.shape[1] + 1).W[:, -1]]))

    def _likelihood(self, rows):
        return Likelihood(rows, self.isotropic, _least(self.var, self.owner.noise, rows.T, rows.gaps))

    def _climb(self, objective, start):
        owner, eps = self.owner, float(np.finfo(self.T).eps)
        with progress("EM", owner.verbose) as tick:
            return em(objective, start, max_iter=owner.max_iter, tol=owner.tol, eps=eps, tick=tick)

    def _draw(self, d):
        """Stochastic EM, from loadings drawn at random for half of the variance: the mean of the second half of
        SNAPSHOTS, each turned towards the first of them, since W drifts along its rotation."""
        W = self.rng.standard_normal((len(self.mean), d)) * np.sqrt(self.var / (2 * d))[:, None]
        p = Params(W, self.mean, np.full(len(W), self.var.mean() / 2) if self.isotropic else self.var / 2)
        k, owner, (x, _, w, _) = self.k, self.owner, self.rows
        steps = max(1, owner.n_draws // owner.batch_size)
        rate = np.array([min(0.1, 0.5 / (d + 2)), 100 * (d + 2), 0.7, owner.batch_size])
        cumulated = k.put(np.cumsum(w) / w.sum() if w.size else w)
        least = k.put(np.broadcast_to(_least(self.var, owner.noise, self.T), self.var.shape).copy())
        seed, theta = int(self.rng.integers(2**63)), [k.put(np.array(a, float, order="C")) for a in p]
        ends = np.unique(np.linspace(0, steps, SNAPSHOTS + 1).astype(int))
        first, kept = None, []
        for a, b in _shown(list(itertools.pairwise(ends)), owner.verbose):
            k.ppca.stochastic(x, cumulated, seed, int(a), int(b - a), rate, self.isotropic, *theta, least)
            if b > steps // 2:
                W, mu, psi = (np.array(k.get(a)) for a in theta)
                first = W if first is None else first
                U, _, Vt = np.linalg.svd(W.T @ first)
                kept.append((W @ (U @ Vt), mu, np.log(psi)))
        W, mu, log_psi = (sum(parts) / len(kept) for parts in zip(*kept))
        p = Params(W, mu, np.exp(log_psi))
        bound = self._likelihood(Rows(k, *self.rows)).statistics(p).bound
        return Climb(p, bound, [bound], True, False)


def _mean(X):
    """Mean (D,) of the rows of X, NaN in columns with gaps, and are there any?"""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = X.mean(axis=0, dtype=float)
    return np.asarray(mean), bool(np.isnan(mean).any()) and has_gaps(X)  # (of sums that overflow it is NaN, too)


def _rounding(D, T):
    """Singular values of D columns in T below this part of the largest are zero."""
    return 10 * np.sqrt(D) * float(np.finfo(T).eps)


def _closed(owner, gaps):
    """Is there a closed form, and is it wanted?"""
    return owner.noise == "isotropic" and not gaps and owner.method in ("auto", "exact")


def _least(var, noise, T, gaps=False):
    """The least psi, of columns with variance var (D,): one sigma² below is zero but for rounding, of which there is
    more in rows with gaps; in factor analysis the psi that a column may have, often best at 0 (Heywood 1931)."""
    eps = float(np.finfo(T).eps)
    return np.sqrt(eps) * var if noise == "diagonal" else var.max() * (eps**0.7 if gaps else 8 * eps)


def _shown(steps, verbose):
    """The steps, with a progress bar when verbose."""
    if not verbose:
        return steps
    from tqdm.auto import tqdm

    return tqdm(steps, desc="stochastic EM")
