"""How many components, and of which kind? Mixtures over a grid, ranked by a criterion."""

import time
import warnings
from typing import NamedTuple

import numpy as np

from .estimator import check_choice, check_int, check_random_state, check_sample_weight
from .kernels import pool
from .mixture import TYPES, GaussianMixture, _seen

CRITERIA = ("bic", "icl", "held_out")
_FIELDS = [
    ("covariance_type", "U9"),
    ("n_components", np.int64),
    ("log_likelihood", float),
    ("n_parameters", np.int64),
    ("bic", float),
    ("icl", float),
    ("held_out", float),
    ("converged", bool),
    ("degenerate", bool),
    ("seconds", float),
]


class Selection(NamedTuple):
    """What `select_mixture` found. `print` shows the table; pandas.DataFrame(selection.table) is one to work with.

    best : GaussianMixture, fitted to all rows.
    table : structured array, the best first: covariance_type, n_components, log_likelihood (total, nats),
        n_parameters, bic, icl (lower is better), held_out (mean nats a held-out row, higher is better), converged,
        degenerate (see GaussianMixture: such mixtures come after all others), seconds. NaN where a fit failed, and in
        held_out unless that is the criterion.
    criterion : str
    """

    best: GaussianMixture
    table: np.ndarray
    criterion: str

    def __str__(self):
        names = [name for name, *_ in _FIELDS if name != "held_out" or self.criterion == name]
        decimals = {"log_likelihood": 2, "bic": 2, "icl": 2, "held_out": 4, "seconds": 2}
        text = lambda row, name: f"{row[name]:.{decimals[name]}f}" if name in decimals else str(row[name])
        lines = [names, *([text(row, name) for name in names] for row in self.table)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        rows = ["  ".join([c[0].ljust(widths[0]), *map(str.rjust, c[1:], widths[1:])]) for c in lines]
        return "\n".join([*rows, f"Ranked by {self.criterion}: {self.best!r}"])


def select_mixture(
    X,
    n_components=range(1, 10),
    covariance_types=TYPES,
    *,
    criterion="bic",
    n_init=3,
    n_folds=5,
    sample_weight=None,
    random_state=None,
    verbose=0,
    **parameters,
) -> Selection:
    """Fit a Gaussian mixture for every number of components and covariance type, and rank them.

    X (N,D), gaps (NaN) welcome. n_components: an integer or several; covariance_types: one or several of "full",
    "tied", "diag", "spherical". `parameters` go to `GaussianMixture`.

    criterion : {"bic", "icl", "held_out"}, default "bic"
        The Bayesian information criterion (Schwarz 1978), which finds the density; the integrated completed likelihood
        (Biernacki, Celeux & Govaert 2000), which wants the components apart; or the mean log p(x) of rows that the fit
        did not see, over `n_folds` parts of the rows, which takes `n_folds` fits more of each.
    n_init : int, default 3
        Starts of each fit, the best of which counts. Fits run in parallel on the threads of `lvm.set_num_threads`; the
        outcome does not depend on their number.
    sample_weight : (N,), default None
    random_state : as in GaussianMixture, default None
    verbose : 1 shows a bar, default 0.

    Returns Selection(best, table, criterion). Degenerate mixtures, whose likelihood is a spike on few rows, come after
    all others, and fits that fail (components that collapse, more components than rows) last, with NaN. Warnings of
    single fits are not shown, the table has `converged` and `degenerate`. Raises what GaussianMixture raises for wrong
    data or parameters, and for every fit when all of them fail.

    >>> import lvm
    >>> X = lvm.datasets.load_faithful()
    >>> found = lvm.select_mixture(X, range(1, 5), ["full", "tied"], random_state=0)
    >>> found.best.covariance_type, found.best.n_components, round(float(found.table["bic"][0]), 1)
    ('tied', 3, 2314.3)
    """
    who = "select_mixture"
    from tqdm.auto import tqdm

    check_choice("criterion", criterion, CRITERIA, who=who)
    check_int("n_folds", n_folds, 2, who=who)
    for one, several in ("covariance_type", "covariance_types"), ("n_component", "n_components"):
        if one in parameters:
            raise TypeError(f"select_mixture tries {several}, got {one}. Try {several}=[{parameters[one]!r}].")
    Ks = [n_components] if isinstance(n_components, (int, np.integer)) else list(n_components)
    Ks = [int(K) if isinstance(K, np.integer) else K for K in Ks]
    types = [covariance_types] if isinstance(covariance_types, str) else list(covariance_types)
    if not Ks or not types:
        raise ValueError("select_mixture needs at least one number of components and one covariance type, got none.")
    cells = [(kind, K) for kind in types for K in Ks]
    make = lambda cell, seed=None: GaussianMixture(
        cells[cell][1], covariance_type=cells[cell][0], n_init=n_init, random_state=seed, **parameters
    )
    for cell in range(len(cells)):
        make(cell)._check_params()
    rows, _ = make(0)._check_fit_X(X, min_samples=2)
    w = check_sample_weight(sample_weight, len(rows))
    w = np.where(_seen(rows), 1.0 if w is None else w, 0.0)  # rows of gaps alone count nowhere
    rng = check_random_state(random_state)
    fold, parts = None, []
    if criterion == "held_out":
        count = np.flatnonzero(w)  # the others have no say, and go with the first
        if len(count) < n_folds:
            raise ValueError(f"n_folds = {n_folds} parts need as many rows with weight, got {len(count)}. Try fewer.")
        fold, parts = np.zeros(len(rows), int), list(range(n_folds))
        fold[count] = rng.permutation(np.arange(len(count)) % n_folds)
    jobs = [(cell, part, int(rng.integers(2**32))) for cell in range(len(cells)) for part in (None, *parts)]
    jobs.sort(key=lambda job: -cells[job[0]][1])  # long ones first, so that no thread is left alone at the end
    found: dict = {}
    errors: list[ValueError] = []

    def run(j):
        cell, part, seed = jobs[j]
        start, model = time.perf_counter(), make(cell, seed)
        try:
            if part is None:
                model.fit(X, sample_weight=w)
            else:
                model.fit(rows[fold != part], sample_weight=w[fold != part])
            found[cell, part] = model, time.perf_counter() - start
        except ValueError as e:
            errors.append(e)
        bar.update()

    with tqdm(total=len(jobs), desc="mixtures", unit=" fits", disable=not verbose) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool.run(run, len(jobs))

    table = np.array([(*cell, np.nan, 0, np.nan, np.nan, np.nan, False, False, np.nan) for cell in cells], _FIELDS)
    for cell, row in enumerate(table):
        if (cell, None) in found:
            model, row["seconds"] = found[cell, None]
            row["converged"], row["degenerate"] = model.converged_, model.degenerate_
            row["n_parameters"] = model._n_parameters()
            row["log_likelihood"] = model.score(X, sample_weight=w) * w.sum()
            row["bic"], row["icl"] = model.bic(X, w), model.icl(X, w)
        if parts and all((cell, part) in found for part in (None, *parts)):
            unseen = ((found[cell, part][0], fold == part) for part in parts)
            row["held_out"] = (
                sum(m.score(rows[out], sample_weight=w[out]) * w[out].sum() for m, out in unseen) / w.sum()
            )
    value = -table["held_out"] if parts else table[criterion]
    order = np.lexsort([value.round(6), table["degenerate"], np.isnan(value)])  # the last key counts first
    if np.isnan(value[order[0]]):
        raise type(errors[0])(f"Every fit failed, the first with: {errors[0]}") from errors[0]
    return Selection(found[order[0], None][0], table[order], criterion)
