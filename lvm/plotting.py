"""Pictures of fitted models, drawn with matplotlib (`pip install "lvm[plot]"`), which loads at the first picture.

Every function draws into `ax`, or into a new figure where none is given, and returns the Axes. None calls `plt.show`
or changes matplotlib's settings.
"""

import copy

import numpy as np

from .estimator import NotFittedError, check_array, interop

__all__ = [
    "COLOURS",
    "ellipse",
    "plot_bound",
    "plot_held_out",
    "plot_images",
    "plot_imputed",
    "plot_mixture",
    "plot_scores",
    "plot_scree",
    "plot_selection",
]

# Okabe & Ito 2008: told apart with any common colour blindness; black left out, yellow last since it is faint on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GAP = "#B3DDF5"  # of a pixel that is missing: no grey
MARKERS = {"full": "o", "tied": "s", "diag": "^", "spherical": "D"}
RING = {
    "marker": "o",
    "markersize": 14,
    "markerfacecolor": "none",
    "color": "black",
    "linestyle": "none",
}  # around the best
CRITERIA = {  # what it is called, which way is better, and a difference that is not much
    "bic": ("BIC", "lower", 10),
    "icl": ("ICL", "lower", 10),
    "held_out": ("held-out nats per row", "higher", 0.01),
}
BARS, DRAWS = 60, 400  # plot_imputed: rows a column that have a bar, and draws that each bar is measured from
ELLIPSES = 200  # plot_scores: rows that have an ellipse, and plot_held_out: values that have a bar
RADIUS = np.sqrt(-2 * np.log(1 - 0.68))  # the ellipse at this Mahalanobis distance holds 68 % of a Gaussian


def _axes(ax):
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise ImportError('lvm.plotting needs matplotlib. Install it with: pip install "lvm[plot]"') from e
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(layout="constrained")[1]
    return ax


def ellipse(mean, covariance, radius: float = 1.0, n_points: int = 100) -> np.ndarray:
    """Points (n_points,2) of the closed curve at Mahalanobis distance `radius` from `mean` (2,), `covariance` (2,2).

    >>> from lvm.plotting import ellipse
    >>> abs(ellipse([0, 0], [[4, 0], [0, 1]], radius=2, n_points=5)).max(axis=0).tolist()
    [4.0, 2.0]
    """
    lengths, axes = np.linalg.eigh(covariance)  # unlike a Cholesky factor, also right where one length is zero
    angle = np.linspace(0, 2 * np.pi, n_points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(mean) + radius * (circle * np.sqrt(lengths.clip(0))) @ axes.T


def _marginal(model, k: int, columns: list) -> tuple:
    """Mean (2,) and covariance (2,2) of component `k` in two columns."""
    kind, Sigma = model.covariance_type, np.asarray(model.covariances_)
    if kind == "full":
        block = Sigma[k][np.ix_(columns, columns)]
    elif kind == "tied":
        block = Sigma[np.ix_(columns, columns)]
    elif kind == "diag":
        block = np.diag(Sigma[k, columns])
    else:
        block = Sigma[k] * np.eye(2)
    return np.asarray(model.means_)[k, columns], block


def _columns(columns, names, D: int, what="columns") -> list:
    """Two different column numbers, from numbers or from names."""
    if D < 2:
        raise ValueError(
            "The picture shows two columns, and X has one. Try a histogram of X beside exp(score_samples)."
        )
    known = {name: i for i, name in enumerate(names or [])} | {i: i for i in range(D)}
    try:
        i, j = (known[c] for c in columns)
    except (KeyError, TypeError, ValueError):
        i = j = 0
    if i == j:
        also = f" or two of the names {list(names)}" if names else ""
        raise ValueError(f"{what} must be two different numbers from 0 to {D - 1}{also}, got {columns!r}.")
    return [i, j]


def _rows(X, max_points: int):
    """At most `max_points` rows of X, the same ones each time, as X is (array, frame or list)."""
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    if len(X) <= max_points:
        return X
    return _take(X, np.sort(np.random.default_rng(0).choice(len(X), max_points, replace=False)))


def _take(X, rows):
    """Rows of an array or a frame, by their numbers."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _names(model):
    """The columns' names as a list, or None."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else list(names)


def _name_axes(ax, columns, names):
    labels = [str(names[i]) if names else f"column {i}" for i in columns]
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    return labels


def _ellipses(ax, model, columns, colours):
    """Each component's ellipses at 1 and 2 standard deviations, its lines the wider the larger its weight."""
    for k, colour in enumerate(colours):
        mean, covariance = _marginal(model, k, columns)
        width = 0.7 + 1.8 * model.weights_[k] / max(model.weights_)
        for radius, style in (1, "-"), (2, "--"):
            ax.plot(*ellipse(mean, covariance, radius).T, style, color=colour, linewidth=width)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": width}
        ax.text(*mean, str(k), ha="center", va="center", fontsize="small", bbox=box, clip_on=True)


def plot_mixture(model, X, *, columns=(0, 1), ax=None, max_points: int = 5000):
    """Rows of X, coloured by responsibility, with each component's ellipses at 1 and 2 standard deviations.

    model: a fitted Gaussian mixture of any `covariance_type`, with `means_`, `covariances_`, `weights_` and
    `predict_proba`; scikit-learn's serves too. X (N,D), array or frame.
    columns: the two columns to draw, numbers or (after a fit on a frame) names. The ellipses are those of a component's
    marginal in them, solid at 1 and dashed at 2 standard deviations: they hold 39 % and 86 % of it. Its number stands
    at its mean; its lines are the wider the larger its weight. A row's colour mixes the components' colours by its
    responsibilities, which see all D columns; a row with a gap (NaN) in the two columns is not drawn.
    max_points: of more rows, a fixed random choice is drawn.

    Raises ImportError without matplotlib, ValueError for `columns` that are not two different columns, NotFittedError
    (from the model) before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_faithful()
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_mixture(model, X)               # doctest: +SKIP
    >>> ax.set_xlabel("eruption, minutes")                     # doctest: +SKIP
    """
    X = _rows(X, max_points)
    R = np.asarray(model.predict_proba(X))
    columns = _columns(columns, _names(model), X.shape[1])
    ax = _axes(ax)
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(COLOURS[k % len(COLOURS)]) for k in range(len(model.weights_))])
    points = check_array(X, "plot_mixture", 1, True)[:, columns]
    ax.scatter(*points.T, c=(R @ colours).clip(0, 1), s=12, alpha=0.6, linewidths=0)
    _ellipses(ax, model, columns, colours)
    _name_axes(ax, columns, _names(model))
    return ax


def plot_imputed(model, X, *, columns=(0, 1), ax=None, max_points: int = 5000):
    """Rows of X with gaps (NaN) in one of two columns where `model.impute` puts them, among the rows without.

    model: a fitted `GaussianMixture`. X (N,D), array or frame. columns and max_points as in `plot_mixture`, as are the
    ellipses.
    A row whose gap is filled stands at its conditional mean, E[x_m | x_o], given all its D columns that were observed.
    Its bar is the central 68 % of the missing value given these (16th to 84th percentile of 400 draws of
    `model.impute`): about one standard deviation to each side where that distribution is Gaussian, and where it has two
    humps the dot may stand between them, at a value that hardly occurs. At most 60 rows of each column, a fixed random
    choice, have bars. The legend counts the rows; those with gaps in both columns are not drawn.

    Raises ImportError without matplotlib, ValueError for `columns` that are not two different columns, NotFittedError
    before a fit.

    >>> import lvm, numpy as np
    >>> X = lvm.datasets.load_faithful()
    >>> X[::5, 0] = X[2::5, 1] = np.nan
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_imputed(model, X)               # doctest: +SKIP
    """
    X = _rows(X, max_points)
    filled = model.impute(X)
    columns = _columns(columns, _names(model), X.shape[1])
    gaps = np.isnan(check_array(X, "plot_imputed", 1, True)[:, columns])
    filled, whole, nothing = filled[:, columns], ~gaps.any(axis=1), gaps.all(axis=1)
    ax = _axes(ax)

    labels = _name_axes(ax, columns, _names(model))
    ax.scatter(*filled[whole].T, c="#999999", s=12, alpha=0.5, linewidths=0, label=f"both observed ({whole.sum()})")
    drawing = copy.copy(model).set_params(random_state=0)  # the same picture each time; a generator of model's rests
    for j, colour in (0, COLOURS[0]), (1, COLOURS[5]):
        rows = np.flatnonzero(gaps[:, j] & ~nothing)
        if len(rows):
            label = f"{labels[j]} filled ({len(rows)})"
            ax.scatter(*filled[rows].T, c=colour, s=14, linewidths=0, zorder=2.5, label=label)
            rows = _rows(rows, BARS)
            draws = drawing.impute(_take(X, rows), n_draws=DRAWS)[:, :, columns[j]]
            bars = ax.vlines if j else ax.hlines
            ends = np.quantile(draws, [0.16, 0.84], axis=0)
            bars(filled[rows, 1 - j], *ends, colors=colour, linewidth=0.8, alpha=0.5)
    if nothing.any():
        ax.plot([], [], linestyle="none", label=f"both missing, not drawn ({nothing.sum()})")
    _ellipses(ax, model, columns, ["#444444"] * len(model.weights_))
    ax.legend(title="dot: mean, bar: central 68 %", fontsize="small", title_fontsize="small")
    return ax


def plot_selection(selection, *, ax=None):
    """What each mixture that `lvm.select_mixture` tried lacks to the best, against its number of components.

    selection: what `select_mixture` returned, or anything with its `table` (best first) and `criterion`. One line a
    covariance type; where a fit failed or is degenerate the line has a gap. A ring marks the best, which the legend
    names. The height is the criterion less the best's, so that a close race can be seen beside mixtures far off: linear
    up to 10 of BIC or ICL (more is "very strong" evidence, Kass & Raftery 1995) or 0.01 nats a held-out row, and
    logarithmic from there.

    Raises ImportError without matplotlib.

    >>> import lvm
    >>> selection = lvm.select_mixture(lvm.datasets.load_faithful(), range(1, 4), random_state=0)   # doctest: +SKIP
    >>> ax = lvm.plotting.plot_selection(selection)            # doctest: +SKIP
    """
    ax = _axes(ax)
    from matplotlib.ticker import FixedLocator, NullLocator

    table, criterion = selection.table, selection.criterion
    name, better, little = CRITERIA[criterion]
    best = table[0]
    for colour, (kind, marker) in zip(COLOURS, MARKERS.items()):
        rows = np.sort(table[table["covariance_type"] == kind], order="n_components")
        if len(rows):
            style = {"color": colour, "marker": marker, "fillstyle": "none"}
            less = np.where(rows["degenerate"], np.nan, rows[criterion] - best[criterion])
            ax.plot(rows["n_components"], less, label=kind, **style)
    label = f"best: {best['covariance_type']}, {best['n_components']} ({best[criterion]:.6g})"
    ax.plot(best["n_components"], 0, label=label, **RING)
    ax.set_yscale("symlog", linthresh=little)
    ticks = little * np.array([0.2, 0.5, *np.outer(10.0 ** np.arange(9), [1, 3]).ravel()])
    ax.yaxis.set_major_locator(FixedLocator([*-ticks, 0, *ticks]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:+g}" if y else "0")
    ax.xaxis.set_major_locator(FixedLocator(np.unique(table["n_components"]).tolist(), nbins=12))
    ax.set_xlabel("number of components")
    ax.set_ylabel(f"{name}, less the best's ({better} is better)")
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return ax


def plot_scores(model, X, *, labels=None, dimensions=(0, 1), ax=None, max_points: int = 5000):
    """What is known of two latent dimensions of each row of X: a dot at the posterior mean, an ellipse with 68 % of it.

    model: a fitted `ProbabilisticPCA` of two components or more. X (N,D), array or frame. labels (N,): classes of the
    rows, for colours and the legend. dimensions: the two to draw.
    Without gaps (NaN) all ellipses are alike. The more of a row is missing, and the more it would have told, the larger
    its ellipse; its dot is hollow. A row of gaps alone has the prior's, the dashed circle. At most 200 rows, a fixed
    random choice, have ellipses.
    max_points: of more rows, a fixed random choice is drawn.

    Raises ImportError without matplotlib, ValueError for a model of one component, `dimensions` that are not two
    different ones of the model's and labels that do not fit, NotFittedError before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_iris(return_y=True)
    >>> model = lvm.ProbabilisticPCA(2).fit(X)
    >>> ax = lvm.plotting.plot_scores(model, X, labels=y)      # doctest: +SKIP
    """
    labels = np.full(len(X), "rows") if labels is None else np.asarray(labels)
    if labels.shape != (len(X),):
        raise ValueError(f"labels must be one for each of the {len(X)} rows of X, got shape {labels.shape}.")
    X, labels = _rows(X, max_points), _rows(labels, max_points)  # the same choice of both
    Z, C = map(np.asarray, model.posterior(X))
    if Z.shape[1] < 2:
        raise ValueError(
            "The picture shows two latent dimensions, and the model has one. Try a histogram of transform(X)."
        )
    i, j = _columns(dimensions, None, Z.shape[1], "dimensions")
    Z, C = Z[:, [i, j]], C[:, [[i], [j]], [i, j]]
    gaps = np.isnan(check_array(X, "plot_scores", 1, True)).any(axis=1)
    ax = _axes(ax)
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    with_ellipse = np.isin(np.arange(len(Z)), _rows(np.arange(len(Z)), ELLIPSES))
    names, classes = np.unique(labels, return_inverse=True)  # (NaN is a class, too)
    for c, name in enumerate(names):
        colour, marker = COLOURS[c % len(COLOURS)], "os^Dv"[c // len(COLOURS) % 5]
        of_class = classes == c
        for kind, face, edge in (~gaps, 0.08, 0), (gaps, 0.04, 0.6):
            curves = [ellipse(Z[n], C[n], RADIUS, 50) for n in np.flatnonzero(of_class & kind & with_ellipse)]
            inner, outer = to_rgba(colour, face), to_rgba(colour, edge)
            ax.add_collection(PolyCollection(curves, facecolors=inner, edgecolors=outer, linewidths=0.8))
        style = {"marker": marker, "s": 14, "edgecolors": colour, "linewidths": 0.8, "zorder": 2}
        ax.scatter(*Z[of_class & ~gaps].T, c=colour, label=f"{name} ({of_class.sum()})", **style)
        ax.scatter(*Z[of_class & gaps].T, c="white", **style)
    if gaps.any():
        ax.scatter([], [], c="white", edgecolors="#444444", s=14, linewidths=0.8, label=f"hollow: gaps ({gaps.sum()})")
    ax.plot(*ellipse([0, 0], np.eye(2), RADIUS).T, "--", color="#444444", linewidth=0.8, label="prior, 68 %")
    ax.set_aspect("equal", adjustable="datalim")
    shares = 100 * np.asarray(model.explained_variance_ratio_)
    ax.set_xlabel(f"dimension {i} ({shares[i]:.1f} % of the variance)")
    ax.set_ylabel(f"dimension {j} ({shares[j]:.1f} % of the variance)")
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return ax


def _below(ax):
    """New Axes in the lower part of the room of `ax`, with its horizontal scale."""
    from matplotlib.gridspec import GridSpec

    place = ax.get_subplotspec()
    if place is None:  # (of figure.add_axes)
        left, bottom, right, top = ax.get_position().extents
        place = GridSpec(1, 1, ax.figure, left=left, bottom=bottom, right=right, top=top)[0]
    above, below = place.subgridspec(2, 1, height_ratios=[4, 3])
    ax.set_subplotspec(above)
    return ax.figure.add_subplot(below, sharex=ax)


def plot_scree(model, *, ax=None):
    """The variance along each axis of a linear Gaussian model above its noise, and the BIC of each number of axes.

    model: a fitted `ProbabilisticPCA`; scikit-learn's PCA serves too. Axes count from 1. The filled dots are
    `explained_variance_`, noise and all; what an axis has above the dashed noise level is signal. With noise="diagonal"
    the level is that of the noise along each axis. Small rings are the eigenvalues of the data's covariance, where the
    model keeps that: the isotropic noise is the mean of those that the axes leave over.
    After a fit with n_components="bic" new Axes below, which take room from `ax`, have the criterion of each number of
    axes less the best's (lower is better), with a ring around the best.

    Raises ImportError without matplotlib, NotFittedError for a model without `explained_variance_`.

    >>> import lvm
    >>> model = lvm.ProbabilisticPCA("bic").fit(lvm.datasets.load_iris())
    >>> ax = lvm.plotting.plot_scree(model)                    # doctest: +SKIP
    """
    variance = getattr(model, "explained_variance_", None)
    if variance is None:
        raise interop(NotFittedError)(
            f"plot_scree needs a fitted model that has explained_variance_, got {type(model).__name__}. "
            "Call fit(X) first."
        )
    ax = _axes(ax)
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    d, D = model.components_.shape
    axes, noise, covariance = np.arange(1, d + 1), model.noise_variance_, getattr(model, "sample_covariance_", None)
    if covariance is not None:
        eigenvalues = np.linalg.eigvalsh(covariance)[::-1]
        style = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "linestyle": "none", "color": "#999999"}
        seen = eigenvalues > 1e-9 * eigenvalues[0]  # the others are zero but for rounding
        ax.plot(np.arange(1, D + 1)[seen], eigenvalues[seen], label="eigenvalues of the data", **style)
    ax.plot(axes, variance, "o-", markersize=4, color=COLOURS[0], label="variance along the axis")
    if np.ndim(noise) == 0:
        ax.axhline(noise, linestyle="--", color=COLOURS[0], label=f"noise variance ({noise:.3g})")
    else:
        ax.plot(axes, model.components_**2 @ noise, "_", markersize=16, color=COLOURS[0], label="noise along the axis")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=20))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set_xlabel("axis")
    ax.set_ylabel("variance")
    ax.legend(fontsize="small", frameon=False)
    bics = getattr(model, "bics_", None)
    if bics is not None:
        below, best = _below(ax), int(np.argmin(bics))
        below.plot(np.arange(1, len(bics) + 1), bics - bics[best], "s-", markersize=4, color=COLOURS[5])
        below.plot(best + 1, 0, label=f"best: {best + 1} ({bics[best]:.6g})", **RING)
        ax.set_xlabel(None)
        ax.tick_params(labelbottom=False)
        below.margins(y=0.15)  # room for the ring
        below.set_xlabel("axis; number of axes")
        below.set_ylabel("BIC, less the best's")
        below.legend(fontsize="small", frameon=False)
    return ax


def plot_held_out(model, X, gaps, *, ax=None, max_points: int = 5000):
    """Values that the model did not see against what it puts in their place, with bars of one standard deviation.

    model: a fitted `ProbabilisticPCA`. X (N,D): the rows with the values; gaps (N,D): the same rows, with NaN in place
    of the values held out, as the model was fitted to them, or other rows. Arrays or frames. A value counts where gaps
    has NaN and X has none.
    A dot stands at the value and its mean given the rest of its row, `model.impute(gaps)`; its bar is the standard
    deviation to each side, parameters taken as certain. Up to 7 columns have a colour each. At most 200 values, a fixed
    random choice, have bars.
    The title tells the root mean square error, that of the columns' means, and how many of the values lie within one
    and two standard deviations: 68 % and 95 % where the model is right.
    max_points: of more values, a fixed random choice is drawn; the title counts all.

    Raises ImportError without matplotlib, ValueError where nothing is held out, NotFittedError before a fit.

    >>> import lvm, numpy as np
    >>> X = lvm.datasets.load_iris()
    >>> gaps = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    >>> model = lvm.ProbabilisticPCA(2).fit(gaps)
    >>> ax = lvm.plotting.plot_held_out(model, X, gaps)        # doctest: +SKIP
    """
    mean, variance = map(np.asarray, model.impute(gaps, return_variance=True))
    X, gaps = (check_array(a, "plot_held_out", 1, True) for a in (X, gaps))
    if X.shape != gaps.shape:
        raise ValueError(f"X and gaps must be the same rows, got shapes {X.shape} and {gaps.shape}.")
    n, i = np.nonzero(np.isnan(gaps) & ~np.isnan(X))
    if not len(n):
        raise ValueError("Nothing is held out: gaps must have NaN where X has values.")
    true, mean, sd = X[n, i], mean[n, i], np.sqrt(variance[n, i])
    error, of_means = abs(mean - true), abs(np.asarray(model.mean_)[i] - true)
    rmse = lambda e: f"{np.sqrt(np.mean(e**2)):#.3g}"
    within = lambda bars: f"{100 * np.mean(error <= bars * sd):.0f} %"
    ax = _axes(ax)

    columns, names = np.unique(i), _names(model)
    if len(columns) <= len(COLOURS):
        groups = {f"{names[c] if names else f'column {c}'} ({(i == c).sum()})": i == c for c in columns}
    else:
        groups = {f"{len(columns)} columns ({len(n)})": i >= 0}
    drawn = _rows(np.arange(len(n)), max_points)
    for colour, (label, of_group) in zip(COLOURS, groups.items()):
        at, barred = (rows[of_group[rows]] for rows in (drawn, _rows(drawn, ELLIPSES)))
        alpha = 0.6 if len(drawn) <= 500 else 0.15
        ax.scatter(true[at], mean[at], c=colour, s=12, alpha=alpha, linewidths=0, label=label)
        ax.vlines(true[barred], (mean - sd)[barred], (mean + sd)[barred], colors=colour, linewidth=0.8, alpha=0.6)
    ax.axline((true[0], true[0]), slope=1, color="#444444", linewidth=0.8, linestyle="--", label="equal")
    ax.set_title(
        f"RMSE {rmse(error)}, of the columns' means {rmse(of_means)}\n"
        f"{within(1)} within one standard deviation, {within(2)} within two",
        fontsize="medium",
    )
    ax.set_xlabel("value held out")
    ax.set_ylabel("imputed value")
    legend = ax.legend(title="bar: one standard deviation", fontsize="small", title_fontsize="small")
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    return ax


def plot_bound(model, *, ax=None):
    """The lower bound, `model.lower_bounds_`, after each iteration of `fit`: mean nats per row, which never falls.

    Raises ImportError without matplotlib, NotFittedError for a model without `lower_bounds_`.

    >>> import lvm
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(lvm.datasets.load_faithful())
    >>> ax = lvm.plotting.plot_bound(model)                    # doctest: +SKIP
    """
    bounds = getattr(model, "lower_bounds_", None)
    if bounds is None:
        raise interop(NotFittedError)(
            f"plot_bound needs a fitted model that keeps lower_bounds_, got {type(model).__name__}. Call fit(X) first."
        )
    ax = _axes(ax)
    from matplotlib.ticker import MaxNLocator

    ax.plot(np.arange(1, len(bounds) + 1), bounds, color=COLOURS[0], marker="." if len(bounds) <= 50 else None)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("iteration")
    ax.set_ylabel("lower bound, mean nats per row")
    ax.ticklabel_format(axis="y", useOffset=False)
    return ax


def plot_images(images, *, shape=None, titles=None, ax=None):
    """A grid of small grey pictures, dark where the value is high, blue where it is a gap (NaN); all share one scale.

    images (K,D) or (K,height,width); shape (height, width) of a row of length D, by default a square.
    titles: K short texts to stand above them.

    Raises ImportError without matplotlib, ValueError where rows do not have the shape.

    >>> import lvm
    >>> ax = lvm.plotting.plot_images(lvm.datasets.load_digits()[:10])      # doctest: +SKIP
    """
    images = np.asarray(images, dtype=float)
    if images.ndim == 2:
        side = round(images.shape[1] ** 0.5)
        shape = (side, side) if shape is None else tuple(shape)
        if np.prod(shape) != images.shape[1]:
            raise ValueError(f"shape must be (height, width) of {images.shape[1]} pixels, got {shape}.")
        images = images.reshape(-1, *shape)
    ax = _axes(ax)
    K, height, width = images.shape
    across = min(K, max(1, round((K * 2.5) ** 0.5)))
    down = -(-K // across)
    top = 1 if titles is None else max(2, height // 4)  # rows of pixels left free above each picture
    canvas = np.full((down * (height + top), across * (width + 1) - 1), np.nan)
    gaps = np.zeros(canvas.shape, bool)
    for k, image in enumerate(images):
        y, x = k // across * (height + top) + top, k % across * (width + 1)
        canvas[y : y + height, x : x + width] = image
        gaps[y : y + height, x : x + width] = np.isnan(image)
        if titles is not None:
            ax.text(x + (width - 1) / 2, y - 0.8, titles[k], ha="center", va="bottom", fontsize="small")
    ax.imshow(canvas, cmap="gray_r", interpolation="nearest")
    if gaps.any():
        from matplotlib.colors import ListedColormap

        ax.imshow(np.where(gaps, 1.0, np.nan), cmap=ListedColormap([GAP]), interpolation="nearest")
    ax.set_axis_off()
    return ax
