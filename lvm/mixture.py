"""Gaussian mixtures by EM: the estimator."""

from typing import Any

import numpy as np

from . import evidence, kernels, starts
from .estimator import (
    ConvergenceWarning,
    Estimator,
    NumericalError,
    check_bool,
    check_choice,
    check_int,
    check_random_state,
    check_real,
    check_rows_again,
    check_sample_weight,
    check_verbose,
    from_device,
    has_gaps,
    moderate,
    warn,
)
from .fit import Climb, em, progress
from .objectives.mixture import Chart, Collapsed, Mixture, Streamed, conditional, constants, shape

TYPES = ("full", "tied", "diag", "spherical")
STARTS = ("k-means++", "kmeans", "random_from_data", "random")
REPAIRS = 3  # of collapsed components, a start
TRIES, SHORT, FEW = 5, 10, 2**12  # sets of seeds, and the EM steps on so many rows after which the best is chosen
FORGETTING = 0.7  # partial_fit: eta is this power of a block's part of the weight seen so far
LEAST = 1e-20  # of the columns' variance: less is a collapse, which gaps make gradual
HARD = 0.01  # standard deviation, in units of the columns' own, at which responsibilities are as good as 0 or 1


class GaussianMixture(Estimator):
    """Mixture of Gaussians, fitted by expectation maximisation. A drop-in for scikit-learn's class of this name.

    p(x) = sum_k weights_[k] N(x | means_[k], covariances_[k]).

    Parameters
    ----------
    n_components : int, default 1
        K, the number of components.
    covariance_type : {"full", "tied", "diag", "spherical"}, default "full"
        A covariance matrix for each component; one for all; variances for each component; one variance each.
    tol : float, default 1e-6
        Stop when the last gain, and the gain still to come as estimated from the last two, are below this (nats per
        row); 0 takes all steps. scikit-learn's 1e-3 on the last gain alone often stops far from the maximum.
    reg_covar : float, default 1e-6
        Added to the covariances' diagonals, in units of each column's variance within groups (`reg_covar_` has the
        amounts), so that data in other units give the same fit. scikit-learn's is an absolute number.
    max_iter : int, default 1000
        Most EM steps a start (scikit-learn: 100). 0 leaves the start as it is.
    n_init : int, default 1
        Starts, of which the one with the highest bound is kept. A degenerate one (see `degenerate_`) never wins against
        one that is not.
    init_params : {"k-means++", "kmeans", "random_from_data", "random"}, default "k-means++"
        Where the means begin: greedily spread rows, the best of 5 sets of them after 10 EM steps (on at most 2^12 rows;
        Biernacki, Celeux & Govaert 2003); the k-means centres of one such set; rows drawn by weight; draws from the
        Gaussian with the data's mean and variances. All count columns in units of their own spread, and begin with
        equal weights and one covariance, the variances within the groups around these means.
        (scikit-learn's default is "kmeans", in the columns' own units.)
    weights_init, means_init, precisions_init : array, optional
        A start given by hand: (K,), (K,D), and what `precisions_` looks like for the covariance type.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For the starts, and for `sample`.
    warm_start : bool, default False
        Begin the next fit where the last one ended, with its `reg_covar_` (`n_init` then counts as 1).
    verbose : int, default 0
        1 or more shows a bar with the bound.
    verbose_interval : int, default 10
        EM steps between two looks at the bar.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        Where the work is done: "cuda" is an NVIDIA GPU (pip install 'lvm[cuda13]'), and "auto" takes it where there is
        one and X is large enough to gain. Arrays that are on a GPU (CuPy, PyTorch, Numba) are taken from there, and
        answers are of their kind; they are also copied to the host, where checks and the start look at them. Fitted
        attributes are NumPy arrays always.

    Attributes
    ----------
    weights_ (K,), means_ (K,D), covariances_, precisions_, precisions_cholesky_ : the mixture, in the dtype of X.
        The last three are (K,D,D) full, (D,D) tied, (K,D) diag, (K,) spherical.
    lower_bound_ : float
        The bound at these parameters, mean nats per row: `score(X)`, less what `reg_covar` costs.
    lower_bounds_ : list of float
        After each EM step. It never falls, but by rounding; with a repaired component it begins again at the repair.
    n_iter_ : int
        EM steps of the start that was kept.
    converged_ : bool
    degenerate_ : bool
        Was a component repaired, or do regularisation or rounding alone keep one from collapsing on too few rows? That
        is a spike of the likelihood, and no cluster.
    reg_covar_ : array (D,)
    n_samples_seen_ : float
        Weight of the rows that `fit` and `partial_fit` have seen.
    n_features_in_ : int, and feature_names_in_ : array (D,), when X was a data frame.

    Raises
    ------
    ValueError or TypeError
        Bad data or parameters: before anything is changed.
    NumericalError
        A component collapsed again after three repairs, or a column is constant and reg_covar=0. It is a ValueError.
    RuntimeError, MemoryError
        The device cannot be used here; it has no room.
    After any of them the model is as it was before the fit.

    Notes
    -----
    Gaps: NaN in X is a value that was not observed, in `fit` and in every answer. It is summed out exactly, so that
    log p(x) is that of what was observed; `impute` fills it in. This is right where what is missing does not depend on
    the values that are missing (Rubin 1976). A row of gaps alone scores 0 and belongs to the components by their
    weights; `fit` leaves it out. A column of gaps alone is an error.
    float32 data are fitted in float32, with sums in float64. `sample_weight` is exact: weight 2 is that row twice (the
    start, too, up to 2^18 rows; of more it looks at a sample).
    A density can be above 1, so `score` can be positive. Ctrl-C keeps the last complete step and raises.
    Dempster, Laird & Rubin (1977); Ghahramani & Jordan (1994), for gaps; Bishop (2006), section 9.2.
    lvm.objectives.mixture has the equations.

    Examples
    --------
    >>> import lvm
    >>> X = lvm.datasets.load_faithful()
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
    >>> model.weights_.round(3)
    array([0.644, 0.356])
    >>> model.predict(X[:3])
    array([0, 1, 0])
    """

    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray
    precisions_: np.ndarray
    precisions_cholesky_: np.ndarray
    reg_covar_: np.ndarray
    lower_bound_: float
    lower_bounds_: list[float]
    n_iter_: int
    converged_: bool
    degenerate_: bool
    n_samples_seen_: float

    _kind = "density_estimator"
    _allow_nan = True
    _schema = 1

    @staticmethod
    def _state(params):
        sizes = {"full": ("K", "D", "D"), "tied": ("D", "D"), "diag": ("K", "D"), "spherical": ("K",)}
        of_covariances = sizes[params["covariance_type"]]
        matrix = params["covariance_type"] in ("full", "tied")
        return {
            "weights_": ("f", ("K",), "prob"),
            "means_": ("f", ("K", "D"), "finite"),
            "covariances_": ("f", of_covariances, "finite" if matrix else "positive"),
            "precisions_": ("f", of_covariances, "finite" if matrix else "positive"),
            "precisions_cholesky_": ("f", of_covariances, "upper" if matrix else "positive"),
            "reg_covar_": ("f", ("D",), "nonnegative"),
            "lower_bound_?": (float, (), "finite"),  # a marginal and a conditional mixture come from no fit
            "lower_bounds_?": (float, ("*",), "finite"),
            "n_iter_?": (int, (), "nonnegative"),
            "converged_?": (bool, (), None),
            "degenerate_?": (bool, (), None),
            "n_samples_seen_?": (float, (), "positive"),
        }

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        tol=1e-6,
        reg_covar=1e-6,
        max_iter=1000,
        n_init=1,
        init_params="k-means++",
        weights_init=None,
        means_init=None,
        precisions_init=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        device="cpu",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.device = device

    # ------------------------------------------------------------------------------------------------ fit
    def fit(self, X, y=None, sample_weight=None) -> "GaussianMixture":
        """Fit to X (N,D), its rows weighted by sample_weight (N,). `y` is ignored. Returns self.

        X may be a memory map, and is then read in blocks, some twenty times over. It may also be a function, for data
        that do not fit into memory: X() gives anew, for each pass, an iterable of blocks (n,D), or of pairs (block,
        sample_weight). The fit is that of all rows together (above 2^18 rows the start looks at a sample).

        >>> import lvm, numpy as np
        >>> X = lvm.datasets.load_faithful()
        >>> def blocks():
        ...     for rows in range(0, len(X), 100):  # reading files, say
        ...         yield X[rows : rows + 100]
        >>> lvm.GaussianMixture(2, random_state=0).fit(blocks).means_.round(1)
        array([[ 4.3, 80. ],
               [ 2. , 54.5]])
        """
        self._check_params()
        if callable(X) or hasattr(X, "__next__"):
            blocks, X, names = self._check_blocks(X, sample_weight)
            climb, R, sound, seen = self._best_of_starts(blocks, None, check_random_state(self.random_state))
        else:
            if isinstance(X, (list, tuple)) and len(X) and np.ndim(X[0]) == 2:
                raise ValueError(
                    f"Expected 2D array, got a {type(X).__name__} of {len(X)} arrays (N,D). Give blocks as a function: "
                    "fit(lambda: blocks)."
                )
            X, names = self._check_fit_X(X, min_samples=2)
            w = check_sample_weight(sample_weight, len(X))
            climb, R, sound, seen = self._fit_rows(X, w)
        more = {"n_samples_seen_": seen, "degenerate_": not sound}
        self._remember(X, names, self._named(climb, R, X.dtype) | more)
        if climb.interrupted:
            raise KeyboardInterrupt(f"fit was stopped; the model is that of EM step {self.n_iter_}")
        if not climb.converged and self.max_iter > 0:
            warn(
                "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
                f"tol, or check for degenerate data. (The bound still rose at step {self.n_iter_}.)",
                ConvergenceWarning,
            )
        return self

    def _fit_rows(self, X, w):
        """-> the Climb to keep, R (D,), is it sound? and the weight of the rows that count."""
        w, factor = moderate(w)
        if not w.all():
            X, w = X[w > 0], w[w > 0]
        rng = check_random_state(self.random_state)
        climb, R, sound, W = self._best_of_starts(lambda: [(X, w)], has_gaps(X), rng)
        return climb, R, sound, W * factor

    def partial_fit(self, X, y=None, sample_weight=None) -> "GaussianMixture":
        """Learn from one block of rows more: stepwise EM, for data that arrive in time. Returns self.

        The first block is fitted as `fit` does (give it more rows than a few per component). Then, with W the weight of
        the block and `n_samples_seen_` the weight of all blocks including this one,
            s <- (1 - eta) s + eta s_block,    eta = (W / n_samples_seen_)^0.7,
        where s are the sufficient statistics per row, which the mixture itself stands for, and an M step follows. With
        blocks of equal size eta is t^-0.7: later blocks count more than earlier ones, whose statistics come from older
        parameters, and eta falls fast enough for convergence (Cappé & Moulines 2009; Liang & Klein 2009). Works on
        after `fit`, too, and after `save` and `lvm.load`. Where components overlap much it takes many more rows to come
        as close to the maximum as `fit`.

        lower_bound_ is the mean bound of this block under the mixture that had not yet seen it: an honest measure of
        how well rows to come are predicted. lower_bounds_ has this one number, and n_iter_ goes up by one.

        >>> import lvm
        >>> model = lvm.GaussianMixture(2, random_state=0)
        >>> for block in np.array_split(lvm.datasets.load_faithful(), 4):
        ...     model = model.partial_fit(block)
        >>> model.n_samples_seen_
        272.0
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, sample_weight=sample_weight)
        self._check_params()
        X = self._check_X(X)
        self._check_continues("partial_fit")
        w, factor = moderate(check_sample_weight(sample_weight, len(X)))
        k, R = self._set_for(X), self._regularisation()
        objective = Mixture(k, self.covariance_type, k.put(X), k.put(w), R, has_gaps(X))
        p = self._params(objective)
        block = objective.statistics(p)
        if not block.weight > 0:
            raise ValueError("X has nothing observed in it: its rows are all NaN, or have no weight.")
        W = _weight(X, w) * factor
        seen = getattr(self, "n_samples_seen_", 0.0) + W
        eta = (W / seen) ** FORGETTING
        try:
            p = objective.maximise(block.scaled(eta / block.weight) + objective.expected(p, 1 - eta))
            p = objective.host(objective.sound(p))
        except Collapsed as e:
            raise self._collapsed(e, "collapsed") from None
        climb = Climb(p, block.bound, [block.bound], False, False)
        steps = getattr(self, "n_iter_", 0) + 1
        self.__dict__ = (
            self.__dict__ | self._named(climb, R, self.means_.dtype) | {"n_iter_": steps, "n_samples_seen_": seen}
        )
        return self

    def _check_blocks(self, source, sample_weight):
        """-> blocks() that yields X (n,D), w (n,) or (0,), checked; a row of X; and its column names or None."""
        if not callable(source):
            raise TypeError(
                f"fit reads data that come in blocks once for each EM step, got {type(source).__name__}, which can be "
                "read only once. Give the function that makes it, as in fit(lambda: read()), or call partial_fit for "
                "each block."
            )
        if sample_weight is not None:
            raise ValueError("With blocks, weights come with them: yield pairs (block, sample_weight).")
        first: list = []
        counts: list[int] = []

        def blocks():
            N = 0
            made = source()
            if not hasattr(made, "__iter__") or hasattr(made, "shape") or hasattr(made, "columns"):
                raise TypeError(
                    f"The function must give an iterable of blocks (n,D), a list say, got {type(made).__name__}."
                )
            for block in made:
                x, w = block if isinstance(block, tuple) and len(block) == 2 else (block, None)
                if np.shape(x)[:1] == (0,):
                    continue
                X = self._check_block(x, first)
                w = from_device(w)
                w = check_sample_weight(w, len(X)) if w is None or np.any(w) else np.zeros(len(X))
                yield X, np.empty(0) if w is None else w
                N += len(X)
            counts.append(N)
            check_rows_again(counts[0], N)

        for _ in blocks():
            return blocks, *first
        raise ValueError("The function of blocks gave none. It must give them anew each time it is called.")

    def fit_predict(self, X, y=None, sample_weight=None) -> np.ndarray:
        """`fit(X)`, then `predict(X)`."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def _check_params(self):
        who = type(self).__name__
        check_int("n_components", self.n_components, 1, who=who)
        check_choice("covariance_type", self.covariance_type, TYPES, who=who)
        check_real("tol", self.tol, 0, who=who)
        check_real("reg_covar", self.reg_covar, 0, who=who)
        check_int("max_iter", self.max_iter, 0, who=who)
        check_int("n_init", self.n_init, 1, who=who)
        check_choice("init_params", self.init_params, STARTS, who=who)
        check_bool("warm_start", self.warm_start, who=who)
        check_verbose(self.verbose, who=who)
        check_int("verbose_interval", self.verbose_interval, 1, who=who)
        kernels.load(self.device)  # or an error, before anything else

    def _best_of_starts(self, blocks, gaps, rng):
        """-> the Climb to keep, R (D,), is it sound? and the weight of the rows. Starts that are not sound come last.
        gaps: is there NaN in the one block? None: there are many, to be looked at each time."""
        kind = self.covariance_type
        rows, N, W = starts.rows(blocks, rng)
        k = self._set_for(rows.X if gaps is None else blocks()[0][0], N, passes=min(self.max_iter, 50))
        if self.n_components > N:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {N} "
                "(rows of positive weight that are not all NaN). Try fewer components."
            )
        D = rows.X.shape[1]
        warm = self.warm_start and self.__sklearn_is_fitted__()
        given = self._last(D) if warm else self._given(D)
        if self.reg_covar == 0 and kind != "spherical" and (rows.var == 0).any():
            raise NumericalError(
                f"Column {int((rows.var == 0).argmax())} of X is constant, so that with reg_covar=0 every covariance "
                "is singular. Try reg_covar=1e-6, or leave that column out."
            )
        best: Any = None  # (sound, climb)
        objective: Any = None
        n_init = 1 if given[1] is not None else self.n_init  # from given means all starts are the same
        for i in range(n_init):
            try:
                mu, v = self._means_and_spread(k, rows, rng, given[1])
                if objective is None:  # one R for all starts, so that their bounds compare
                    kept = warm and hasattr(self, "reg_covar_")  # a mixture set by hand has none
                    R = self.reg_covar_.astype(float) if kept else self.reg_covar * v
                    least = LEAST * v if rows.gaps else None
                    if gaps is None:
                        each = lambda: ((k.put(X), k.put(w), has_gaps(X)) for X, w in blocks())
                        objective = Streamed(k, kind, each, rows.X.dtype, R, least)
                    else:
                        X, w = blocks()[0]
                        objective = Mixture(k, kind, k.put(X), k.put(w), R, gaps, least)
                begin = [
                    np.full(len(mu), 1 / len(mu)) if given[0] is None else given[0],
                    mu,
                    objective.diagonal(v + R, len(mu)) if given[2] is None else given[2],
                ]
                climb, repairs = self._climb(objective, begin, rows, v, rng, f"EM, start {i + 1} of {n_init}")
            except NumericalError:
                if best is None and i == n_init - 1:
                    raise
                continue
            except KeyboardInterrupt:
                if best is None:
                    raise
                return best[1]._replace(interrupted=True), R, best[0], W
            sound = repairs == 0 and not self._thin(climb.params, R, v, rows.gaps)
            if best is None or (sound, _surely(climb.bound, rows.X.dtype)) > (best[0], best[1].bound):
                best = sound, climb  # the first of those that are equal but for rounding
            if climb.interrupted:
                return best[1]._replace(interrupted=True), R, best[0], W
        return best[1], R, best[0], W

    def _climb(self, objective, begin, rows, v, rng, title):
        """EM from `begin` (weights, means, covariances), with collapsed components repaired: -> Climb, repairs."""
        eps = float(np.finfo(objective.dtype).eps)
        for repairs in range(REPAIRS + 1):
            try:
                with progress(title, self.verbose, self.verbose_interval) as tick:
                    start = objective.params(*begin)
                    climb = em(objective, start, max_iter=self.max_iter, tol=self.tol, eps=eps, tick=tick)
                    return climb._replace(params=objective.host(climb.params)), repairs
            except Collapsed as e:
                if repairs == REPAIRS:
                    raise self._collapsed(e, f"collapsed again after {REPAIRS} repairs") from None
                warn(f"{_which(e)} collapsed on too few rows, and began again elsewhere.", RuntimeWarning)
                begin = self._repaired(e, objective, rows, v, rng)

    def _collapsed(self, e, what):
        return NumericalError(
            f"{_which(e)} {what}: the covariance is not positive definite. Try fewer than {len(e.params.pi)} "
            "components, a larger reg_covar, or scaling X."
        )

    def _repaired(self, e, objective, rows, v, rng):
        """Weights, means and covariances with the collapsed components begun again where the others are not."""
        pi, mu, Sigma = e.params.pi.copy(), e.params.mu.copy(), e.params.Sigma.copy()
        K, bad = len(pi), e.components
        good = np.setdiff1d(np.arange(K), bad)
        mu[bad] = starts.seeds(objective.k, rows, len(bad), rng, given=mu)  # away from where it collapsed, too
        fresh = objective.diagonal(v + objective.R, K)
        if self.covariance_type == "tied":
            Sigma = fresh
        else:
            Sigma[bad] = fresh[bad]
        pi[bad] = 1 / K
        if len(good):
            pi[good] *= len(good) / K / pi[good].sum()
        return pi, mu, Sigma

    def _thin(self, p, R, v, gaps):
        """Is some component so thin in a direction that regularisation or rounding alone keeps it up?

        Without gaps its variance there is R; where a part s of its weight was observed R/s, as what was not is expected
        to scatter as the component does."""
        least = np.maximum(1.01 * R, np.minimum(10 * R, 1e-3 * v) if gaps else 0) + 1e-10 * v
        if self.covariance_type in ("full", "tied"):
            unit = np.sqrt(least)
            return bool(np.linalg.eigvalsh(p.Sigma / unit / unit[:, None]).min() <= 1)
        return bool((p.Sigma <= least).any())

    def _means_and_spread(self, k, rows, rng, given):
        """Means to begin at (K,D), and the columns' variance within the groups around them (D,), above zero."""
        if given is not None or self.init_params != "k-means++" or self.n_components == 1:
            return self._seeds_and_spread(k, rows, rng, given)
        few, R = starts.thinned(rows, FEW, rng), None
        best: Any = None
        for _ in range(TRIES):
            mu, v = self._seeds_and_spread(k, rows, rng, None)
            R = self.reg_covar * v if R is None else R
            trial = Mixture(k, self.covariance_type, k.put(few.X), k.put(few.w), R, rows.gaps)
            try:
                start = trial.params(np.full(len(mu), 1 / len(mu)), mu, trial.diagonal(v + R, len(mu)))
                climb = em(trial, start, max_iter=SHORT, tol=0, eps=1.0)
                if climb.interrupted:
                    raise KeyboardInterrupt
                bound = climb.bound
            except Collapsed:
                bound = -np.inf
            if best is None or _surely(bound, rows.X.dtype) > best[0]:
                best = bound, mu, v
        return best[1:]

    def _seeds_and_spread(self, k, rows, rng, given):
        """As _means_and_spread, by one draw."""
        K, D = self.n_components, len(rows.mean)
        if given is not None:
            mu = given
        elif self.init_params == "random":
            mu = rows.mean + np.sqrt(rows.var) * rng.standard_normal((K, D))
        else:
            mu = starts.seeds(k, rows, K, rng, spread=self.init_params != "random_from_data")
        # groups: under covariances so small a row belongs to the nearest mean, and in equal parts to equally near ones
        kind = "diag" if self.covariance_type == "spherical" else self.covariance_type
        hard = Mixture(k, kind, k.put(rows.X), k.put(rows.w), np.zeros(D), rows.gaps)
        tiny, equal = hard.diagonal((HARD * rows.scale) ** 2, K), np.full(K, 1 / K)
        statistics = hard.statistics(hard.params(equal, mu, tiny))
        if given is None and self.init_params == "kmeans":
            for _ in range(100):
                old, mu = mu, statistics.means()
                statistics = hard.statistics(hard.params(equal, mu, tiny))
                if (np.abs(mu - old) <= 1e-4 * rows.scale).all():
                    break
        v = np.maximum(statistics.within() / rows.seen, 1e-8 * rows.var)  # a gap adds next to nothing to the variance
        varied = rows.var > 0
        v[~varied] = v[varied].mean() if varied.any() else 1.0
        return mu, v

    def _given(self, D):
        """weights_init, means_init and the inverse of precisions_init, each checked, or None."""
        K, kind = self.n_components, self.covariance_type
        pi = _array("weights", self.weights_init, (K,))
        if pi is not None and (pi.min() < 0 or pi.max() > 1):
            raise ValueError(
                f"The parameter 'weights' should be in the range [0, 1], but got max value {pi.max():.5f}, "
                f"min value {pi.min():.5f}. Try weights / weights.sum()."
            )
        if pi is not None and abs(pi.sum() - 1) > 1e-6:
            raise ValueError(
                f"The parameter 'weights' should be normalized, but got sum(weights) = {pi.sum():.5f}. "
                "Try weights / weights.sum()."
            )
        mu = _array("means", self.means_init, (K, D))
        wanted = (K,) if kind == "spherical" else shape(kind, K, D)
        Q = _array(f"{kind} precision", self.precisions_init, wanted)
        if Q is None:
            return pi, mu, None
        if kind in ("diag", "spherical"):
            if not Q.min() > 0:
                raise ValueError(f"'{kind} precision' should be positive, but got {Q.min():g} as its least.")
            return pi, mu, np.repeat(1 / Q[:, None], D, axis=1) if kind == "spherical" else 1 / Q
        asymmetry = np.abs(Q - np.swapaxes(Q, -1, -2)).max()
        if asymmetry > 1e-8 * np.abs(Q).max() or np.linalg.eigvalsh(Q).min() <= 0:
            raise ValueError(
                f"'{kind} precision' should be symmetric, positive-definite, but entries differ from those across the "
                f"diagonal by up to {asymmetry:g} and the least eigenvalue is {np.linalg.eigvalsh(Q).min():g}."
            )
        Sigma = np.linalg.inv(Q)
        return pi, mu, (Sigma + np.swapaxes(Sigma, -1, -2)) / 2

    def _last(self, D):
        """Weights, means and covariances of the last fit, to go on from."""
        self._check_type()
        self._check_continues("warm_start", D)
        pi = self.weights_.astype(float)
        return pi / pi.sum(), self.means_.astype(float), self._dense()

    def _check_continues(self, who, D=None):
        """Have parameters and data still the sizes of the last fit?"""
        K, D_then = self.means_.shape
        if (K, D_then) != (self.n_components, D_then if D is None else D):
            also = "" if D is None else f" and X with {D} columns"
            raise ValueError(
                f"{who} goes on from {K} components in {D_then} columns, got n_components = {self.n_components}{also}. "
                "Try a new model" + (", or warm_start=False." if who == "warm_start" else ".")
            )

    def _named(self, climb, R, dtype):
        """The fitted attributes, by name, from float64 parameters."""
        pi, mu, Sigma, P, _ = climb.params
        return self._arrays(pi, mu, Sigma, P, R, dtype) | {
            "lower_bound_": climb.bound,
            "lower_bounds_": climb.bounds,
            "n_iter_": len(climb.bounds),
            "converged_": climb.converged,
        }

    def _arrays(self, pi, mu, Sigma, P, R, dtype):
        kind = self.covariance_type
        if kind in ("full", "tied"):
            upper = np.swapaxes(P, -1, -2)
            precisions, factors = upper @ P, upper
        else:
            if kind == "spherical":
                Sigma, P = Sigma[:, 0], P[:, 0]
            precisions, factors = P**2, P
        arrays = {
            "weights_": pi,
            "means_": mu,
            "covariances_": Sigma,
            "precisions_": precisions,
            "precisions_cholesky_": factors,
            "reg_covar_": R,
        }
        return {name: np.array(a, dtype, order="C") for name, a in arrays.items()}

    # ------------------------------------------------------------------------------------------------ use
    def predict(self, X) -> np.ndarray:
        """The most probable component of each row: (N,) int64."""
        X = self._check_X(X)
        return self._posterior(X, "labels", X)

    def predict_proba(self, X) -> np.ndarray:
        """Responsibilities, the probability of each component given the row: (N,K)."""
        X = self._check_X(X)
        return self._posterior(X, "r", X)

    def score_samples(self, X) -> np.ndarray:
        """log p(x) of each row, in nats: (N,). A density: it may be above 0."""
        X = self._check_X(X)
        return self._posterior(X, "log_px", X)

    def score(self, X, y=None, sample_weight=None) -> float:
        """Mean of log p(x) over the rows, weighted by sample_weight (N,), in nats per row: higher is better.

        Rows of gaps alone do not count, as in `fit`. X may be a function of blocks here as there, and in `bic`, `aic`
        and `icl`."""
        l, W, _ = self._totals(X, sample_weight)
        return float(l / W)

    def bic(self, X, sample_weight=None) -> float:
        """Bayesian information criterion on X: -2 sum log p(x) + (number of parameters) log N. Lower is better.

        With sample_weight (N,), N counts as its sum."""
        l, W, _ = self._totals(X, sample_weight)
        return float(-2 * l + self._n_parameters() * np.log(W))

    def aic(self, X, sample_weight=None) -> float:
        """Akaike information criterion on X: -2 sum log p(x) + 2 (number of parameters). Lower is better."""
        return float(-2 * self._totals(X, sample_weight)[0] + 2 * self._n_parameters())

    def icl(self, X, sample_weight=None) -> float:
        """Integrated completed likelihood on X: BIC of the rows together with their most probable components, that is
        bic(X) - 2 sum log max_k p(k|x). It prefers components that lie apart. Lower is better.

        Biernacki, Celeux & Govaert (2000)."""
        l, W, labels = self._totals(X, sample_weight, labels=True)
        return float(-2 * (l + labels) + self._n_parameters() * np.log(W))

    def _totals(self, X, sample_weight, labels=False):
        """Sums over rows with anything observed of log p(x), of weights, and where asked for of log max_k p(k|x)."""
        blocks = self._check_blocks(X, sample_weight)[0]() if callable(X) else [(X, sample_weight)]
        l = W = certainty = 0.0
        for x, w in blocks:
            x = self._check_X(x)
            w = check_sample_weight(None if np.size(w) == 0 else w, len(x))
            if not (seen := _seen(x)).all():
                x, w = x[seen], None if w is None else w[seen]
            total = lambda a: a.sum(dtype=float) if w is None else np.dot(a.astype(float), w)  # noqa: B023
            l, W = l + total(self._posterior(x, "log_px")), W + (len(x) if w is None else w.sum())
            if labels:
                certainty += total(np.log(self._posterior(x, "r").max(axis=1)))
        if W == 0:
            raise ValueError("X has nothing observed in it: its rows are all NaN.")
        return l, W, certainty

    def _evidence(self, X, y, **_):
        """See lvm.evidence.report: the responsibilities are the posterior."""
        X = self._check_X(X)
        X = X if (seen := _seen(X)).all() else X[seen]
        log_p = self._posterior(X, "log_px") if len(X) else np.empty(0)
        return evidence.exact_report(self, log_p, "exact, a sum over components")

    def sample(self, n_samples=1) -> tuple[np.ndarray, np.ndarray]:
        """Draw from the mixture: (X (n,D), component labels (n,) int64), grouped by component, as scikit-learn does.

        With an integer `random_state` every call draws the same; pass a Generator for fresh ones."""
        self._check_fitted()
        if not isinstance(n_samples, (int, np.integer)) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(f"Invalid value for 'n_samples': it must be an integer of at least 1, got {n_samples!r}.")
        self._check_type()
        rng, (K, D) = check_random_state(self.random_state), self.means_.shape
        k, Sigma = self._kernels(n_samples * D * D), self._dense()
        pi = self.weights_.astype(float)
        labels = np.repeat(np.arange(K), rng.multinomial(n_samples, pi / pi.sum()))
        eps, X = k.empty((n_samples, D), np.float64), k.empty((n_samples, D), np.float64)
        k.random.normal(int(rng.integers(2**63)), 0, 0, eps)
        if self.covariance_type in ("full", "tied"):  # Sigma = V lambda V', and V lambda^1/2 takes eps to x - mu
            scale, V = np.linalg.eigh(Sigma.reshape(-1, D, D))
            V = V * np.sqrt(scale.clip(0))[:, None, :]
        else:
            V = np.sqrt(Sigma)[:, None, :]
        k.mixture.sample(k.put(self.means_.astype(float)), k.put(V), k.put(labels), eps, X)
        return k.get(X).astype(self.means_.dtype, copy=False), labels

    # ------------------------------------------------------------------------------------------------ gaps and parts
    def impute(self, X, *, n_draws=None) -> np.ndarray:
        """X (N,D) with its gaps (NaN) filled by their means given what was observed, E[x_m | x_o]: (N,D).

        With n_draws, that many independent draws from p(x_m | x_o) instead, (n_draws,N,D), for multiple imputation:
        what is computed from each of them differs as much as the gaps leave it open (Rubin 1987). They depend on
        `random_state`.

        >>> import lvm, numpy as np
        >>> X = lvm.datasets.load_faithful()
        >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
        >>> model.impute([[4.0, np.nan], [np.nan, 50.0]]).round(1)
        array([[ 4. , 78.4],
               [ 2. , 50. ]])
        """
        X = self._check_X(X)
        self._check_type()
        k = self._set_for(X)
        mu, P, c = self._factors(k, X.dtype)
        fill = getattr(
            k.mixture, "impute_diag" if self.covariance_type == "spherical" else f"impute_{self.covariance_type}"
        )
        x = k.put(X)
        if n_draws is None:
            out = k.empty(X.shape, X.dtype)
            fill(x, mu, P, c, k.empty(0, np.float64), k.empty((0, X.shape[1]), np.float64), out)
            return k.get(out, X)
        check_int("n_draws", n_draws, 1, who="impute")
        seed = int(check_random_state(self.random_state).integers(2**63))
        draws = k.empty((n_draws, *X.shape), X.dtype)
        u, eps = k.empty(len(X), np.float64), k.empty(X.shape, np.float64)
        for i in range(n_draws):
            k.random.uniform(seed, 0, i, u)
            k.random.normal(seed, 1, i, eps)
            fill(x, mu, P, c, u, eps, draws[i])
        return k.get(draws, X)

    def marginal(self, columns) -> "GaussianMixture":
        """The mixture of some columns alone, in the order given: numbers, or names after a fit on a data frame.

        >>> import lvm
        >>> model = lvm.GaussianMixture(2, random_state=0).fit(lvm.datasets.load_faithful())
        >>> model.marginal([1]).means_.round(1)
        array([[80. ],
               [54.5]])
        """
        self._check_fitted()
        self._check_type()
        D, names = self.means_.shape[1], self.__dict__.get("feature_names_in_")
        columns = [columns] if np.ndim(columns) == 0 else list(columns)
        known = {} if names is None else {name: i for i, name in enumerate(names)}
        chosen = [known.get(c, c) if isinstance(c, str) else c for c in columns]
        whole = all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) and 0 <= c < D for c in chosen)
        if not whole or not chosen or len(set(chosen)) < len(chosen):
            also = "" if names is None else f" or of {list(names)}"
            raise ValueError(f"columns must be different numbers from 0 to {D - 1}{also}, got {columns!r}.")
        m = np.array(chosen, dtype=np.int64)
        Sigma = self._dense()
        Sigma = Sigma[..., m[:, None], m] if self.covariance_type in ("full", "tied") else Sigma[:, m]
        return self._part(self.weights_.astype(float), self.means_[:, m].astype(float), Sigma, m)

    def condition(self, x) -> "GaussianMixture":
        """p(x_m | x_o): the mixture of the columns m where x (D,) is NaN, given its other numbers.

        After a fit on a data frame x may also be a dict or a Series of the known columns, by name. The mixture's means_
        weighted by its weights_ are the regression of x_m on x_o.

        >>> import lvm, numpy as np
        >>> model = lvm.GaussianMixture(2, random_state=0).fit(lvm.datasets.load_faithful())
        >>> waiting = model.condition([2.9, np.nan])     # after an eruption of 2.9 minutes
        >>> waiting.weights_.round(2), waiting.means_.ravel().round(1)
        (array([0.46, 0.54]), array([72.3, 59.9]))
        """
        self._check_fitted()
        self._check_type()
        if hasattr(x, "keys") and hasattr(x, "__getitem__"):
            names = list(self.__dict__.get("feature_names_in_", range(self.means_.shape[1])))
            if unknown := [c for c in x.keys() if c not in names]:  # noqa: SIM118  (of a Series, the values are iterated)
                raise ValueError(f"x names columns {unknown}, and there are {names}.")
            x = [x[c] if c in x.keys() else np.nan for c in names]  # noqa: SIM118
        x = _array("x", x, self.means_.shape[1:], gaps=True)
        m = np.flatnonzero(np.isnan(x))
        if len(m) == 0:
            raise ValueError("x must have NaN at the columns that stay free, got none. Try score_samples for p(x).")
        if len(m) == len(x):
            return self.marginal(range(len(x)))
        pi, mu, Sigma = conditional(x, self.weights_, self.means_, self._dense(), self.covariance_type)
        return self._part(pi, mu, Sigma, m)

    def _dense(self):
        """Covariances as Params has them: (K,D) of a spherical mixture."""
        Sigma = self.covariances_.astype(float)
        return np.repeat(Sigma[:, None], self.means_.shape[1], axis=1) if self.covariance_type == "spherical" else Sigma

    def _part(self, pi, mu, Sigma, columns):
        """A mixture of some columns, from its parameters."""
        k, R, names = kernels.load("cpu"), self._regularisation()[columns], self.__dict__.get("feature_names_in_")
        objective = Mixture(k, self.covariance_type, np.empty((0, len(columns))), np.empty(0), R)
        P = objective.factors(Sigma)
        if np.isnan(P).any():
            raise NumericalError(
                "A covariance of these columns is not positive definite. Try a fit with larger reg_covar."
            )
        part = type(self)(**self.get_params())
        part.set_params(n_components=len(pi), weights_init=None, means_init=None, precisions_init=None)
        part.__dict__ |= self._arrays(pi, mu, Sigma, P, R, self.means_.dtype)
        part.__dict__ |= {"n_features_in_": len(columns)} | (
            {} if names is None else {"feature_names_in_": names[columns]}
        )
        return part

    # ------------------------------------------------------------------------------------------------ slopes
    def score_gradient(self, X, sample_weight=None) -> dict[str, np.ndarray]:
        """Gradient of the sum over rows of log p(x), weighted by sample_weight (N,), in the parameters.

        A dict of float64 arrays, shaped as the attributes: "weights_" (K,), the derivative where weights count divided
        by their sum; "means_" (K,D); "covariances_", G with dl = sum_ij G_ij dSigma_ij for symmetric changes. At the
        maximum of the likelihood (a converged fit with reg_covar=0) it is zero. By Fisher's identity, from one E step:
        lvm.objectives.mixture has the equations. Gaps count as in `score_samples`.

        >>> import lvm
        >>> X = lvm.datasets.load_faithful()
        >>> model = lvm.GaussianMixture(2, reg_covar=0, tol=1e-12, random_state=0).fit(X)
        >>> bool(abs(model.score_gradient(X)["means_"]).max() < 1e-3)
        True
        """
        X = self._check_X(X)
        objective, p = self._likelihood(X, check_sample_weight(sample_weight, len(X)))
        g_pi, g_mu, g_Sigma = objective.gradient(objective.statistics(p), p)
        g_Sigma = g_Sigma.sum(axis=1) if self.covariance_type == "spherical" else g_Sigma
        return {"weights_": g_pi, "means_": g_mu, "covariances_": g_Sigma}

    def standard_errors(self, X, sample_weight=None, *, robust=True) -> dict[str, np.ndarray]:
        """Standard errors of the estimates from the rows X (N,D) they were fitted to, shaped as score_gradient's.

        With H the observed information, minus the second derivative of sum log p(x), and J the sum of the outer
        products of the rows' gradients, the covariance of the estimates is H^-1 J H^-1, which is right also where the
        data are no mixture of Gaussians (Huber 1967; White 1982), or H^-1 with robust=False, which is not.
        sample_weight (N,) counts rows. Takes two E steps a parameter, in float64, since H comes by differences of
        `score_gradient`. Labels are taken as known: errors mean little where components overlap so much that another
        sample would swap them.

        Raises NumericalError where the likelihood is not at a maximum: fit with reg_covar=0 and a small tol, or with
        fewer components.

        >>> import lvm
        >>> X = lvm.datasets.load_faithful()
        >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
        >>> model.standard_errors(X)["weights_"].round(3)
        array([0.029, 0.029])
        """
        X = np.asarray(self._check_X(X), float)
        w = check_sample_weight(sample_weight, len(X))
        objective, p = self._likelihood(X, w)
        chart, h = Chart(objective.host(p), self.covariance_type), 1e-4
        H = np.empty((chart.size, chart.size))

        def slope(t):
            moved = objective.params(*chart.at(t))
            return chart.pulled(*objective.gradient(objective.statistics(moved), moved))

        for i, t in enumerate(h * np.eye(chart.size)):
            H[i] = (slope(-t) - slope(t)) / (2 * h)
        H = (H + H.T) / 2
        if np.linalg.eigvalsh(H).min() <= 0:
            raise NumericalError(
                "The likelihood of X is not at a maximum here: its second derivative is not negative definite. Try "
                "standard_errors on the rows of the fit, a fit with smaller tol and reg_covar, or fewer components."
            )
        C = np.linalg.inv(H)
        if robust:
            J = sum((s * v[:, None]).T @ s for s, v in self._row_scores(chart, X, w))
            C = C @ J @ C
        return dict(zip(("weights_", "means_", "covariances_"), chart.deviations(C)))

    def _row_scores(self, chart, X, w):
        """Gradients of some rows (n,size) on the chart and their weights (n,), until all rows were there."""
        r, w = self.predict_proba(X), np.ones(len(X)) if w is None else w
        gaps = np.packbits(np.isnan(X), axis=1)
        order = np.lexsort(gaps.T)
        ends = 1 + np.flatnonzero((gaps[order[1:]] != gaps[order[:-1]]).any(axis=1))
        n = max(1, 2**20 // chart.size)
        for alike in np.split(order, ends):
            for some in np.split(alike, range(n, len(alike), n)):
                yield chart.scores(X[some], r[some]), w[some]

    def _likelihood(self, X, w):
        """The log-likelihood of X as an objective, without regularisation, and the mixture as its Params."""
        k = self._set_for(X)
        w = k.put(np.empty(0) if w is None else w)
        objective = Mixture(k, self.covariance_type, k.put(X), w, np.zeros(X.shape[1]), has_gaps(X))
        return objective, self._params(objective)

    def _params(self, objective):
        """The mixture as Params of an objective; a weight of 0 as one that is next to it, since slopes divide by it."""
        self._check_type()
        pi = self.weights_.astype(float)
        try:
            return objective.params(np.maximum(pi / pi.sum(), 1e-300), self.means_.astype(float), self._dense())
        except Collapsed as e:
            raise self._collapsed(e, "is singular") from None

    def _regularisation(self):
        """R (D,); zero for a mixture set by hand."""
        return self.__dict__.get("reg_covar_", np.zeros(self.means_.shape[1])).astype(float)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "weights_") and hasattr(self, "means_")  # by fit, or set by hand

    def _check_type(self):
        """`covariance_type` must be that of the fit. (Upper triangular factors have zeros, diagonal ones have none.)"""
        Q, kind = self.precisions_cholesky_, self.covariance_type
        if Q.shape != shape(kind, *self.means_.shape)[: 1 if kind == "spherical" else None] or (
            not (Q > 0).all() if kind == "diag" else kind == "tied" and np.tril(Q, -1).any()
        ):
            raise ValueError(
                f"covariance_type was changed to {kind!r} after fit, with factors of shape {Q.shape}. Call fit again."
            )

    def _n_parameters(self):
        K, D = self.means_.shape
        of_covariances = {"full": K * D * (D + 1) // 2, "tied": D * (D + 1) // 2, "diag": K * D, "spherical": K}
        return of_covariances[self.covariance_type] + K * D + K - 1

    def _set_for(self, X, N=None, passes=1):
        """The kernel set for so many passes over rows X, or N of their kind."""
        K, D = self.n_components, X.shape[1]
        each = D if self.covariance_type in ("full", "tied") else 1
        return self._kernels(passes * (len(X) if N is None else N) * K * D * each, X)

    def _posterior(self, X, wanted, like=None):
        """log_px (N,), labels (N,) or r (N,K) of rows X, in NumPy or of the kind of `like`."""
        self._check_type()
        k, kind, K = self._set_for(X), self.covariance_type, len(self.means_)
        mu, P, c = self._factors(k, X.dtype)
        out = {"log_px": k.empty(0, X.dtype), "labels": k.empty(0, np.int64), "r": k.empty((0, K), X.dtype)}
        out[wanted] = k.empty((len(X), K) if wanted == "r" else len(X), out[wanted].dtype)
        posterior = getattr(k.mixture, "posterior_diag" if kind == "spherical" else f"posterior_{kind}")
        x = k.put(X)
        posterior(x, mu, P, c, *out.values(), k.mixture.gaps(x) if has_gaps(X) else None)
        return k.get(out[wanted], like)

    def _factors(self, k, dtype):
        """What the kernels of a set read: mu (K,D), P, c (K,)."""
        kind, P = self.covariance_type, self.precisions_cholesky_.astype(float)
        if kind in ("full", "tied"):
            P = np.swapaxes(P, -1, -2)
        elif kind == "spherical":
            P = np.broadcast_to(P[:, None], self.means_.shape)
        with np.errstate(divide="ignore"):  # a weight of 0
            c = constants(self.weights_.astype(float), P, kind)
        return tuple(k.put(np.array(a, dtype, order="C")) for a in (self.means_, P, c))


def _surely(bound, dtype):
    """The least that a bound may be worth which was computed in this dtype: less rounding."""
    return bound - max(1e-9, 32 * float(np.finfo(dtype).eps)) * abs(bound)


def _which(e):
    """The components that collapsed, in words."""
    return ("Component " if len(e.components) == 1 else "Components ") + ", ".join(map(str, e.components))


def _weight(X, w):
    """Sum of the weights w (N,) or (0,) of the rows with anything observed in them."""
    return float(w[_seen(X)].sum() if w.size else np.count_nonzero(_seen(X)))


def _seen(X):
    """Which rows have anything observed in them (N,), found without an array as large as X."""
    return np.concatenate([~np.isnan(X[a : a + 2**14]).all(axis=1) for a in range(0, len(X), 2**14)])


def _array(name, value, shape, gaps=False):
    """An array in float64 (a copy), or None; ValueError unless it has that shape and is finite (or NaN, with gaps)."""
    if value is None:
        return None
    try:
        a = np.array(value, dtype=float, order="C")
    except (TypeError, ValueError):
        raise ValueError(
            f"The parameter '{name}' should be an array of numbers of shape {shape}, got {value!r}."
        ) from None
    if a.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {a.shape}.")
    if not (np.isfinite(a) | (gaps & np.isnan(a))).all():
        raise ValueError(f"The parameter '{name}' should be finite, but has {'' if gaps else 'NaN or '}infinity in it.")
    return a
