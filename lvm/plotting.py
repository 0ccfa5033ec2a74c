"""Pictures of fitted models, drawn with matplotlib (`pip install "lvm[plot]"`), which loads at the first picture.

Every function draws into `ax`, or into a new figure where none is given, and returns the Axes. None calls `plt.show`
or changes matplotlib's settings.
"""

import copy
import numbers

import numpy as np

from .calibration import Calibration, calibration, codes_of
from .estimator import NotFittedError, check_array, check_int, check_targets, interop

__all__ = [
    "COLOURS",
    "Calibration",
    "calibration",
    "ellipse",
    "plot_active",
    "plot_bands",
    "plot_bound",
    "plot_decision",
    "plot_decoded",
    "plot_flow",
    "plot_gradient_variance",
    "plot_held_out",
    "plot_images",
    "plot_imputed",
    "plot_latent",
    "plot_manifold",
    "plot_mixture",
    "plot_pruning",
    "plot_reconstructions",
    "plot_relevance",
    "plot_reliability",
    "plot_samples",
    "plot_scores",
    "plot_scree",
    "plot_selection",
    "plot_sparsity",
    "plot_warp",
    "plot_weights",
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
GRID = 200  # plot_decision, plot_flow: points along each side at which the model is asked
ACTIVE = 0.01  # plot_active: variance of a posterior mean above which a unit is active (Burda et al. 2016)
DROP = 0.1  # plot_pruning: how far down the picture goes
ROUNDING = 1e-20  # plot_gradient_variance: of the largest variance, what is no more than rounding squared
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


def _look(c):
    """The colour and the marker of class number c."""
    return COLOURS[c % len(COLOURS)], "os^Dv"[c // len(COLOURS) % 5]


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
        colour, marker = _look(c)
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


def _room(ax, down, across, **given):
    """Places, `down` times `across`, in the room of `ax`."""
    from matplotlib.gridspec import GridSpec

    place = ax.get_subplotspec()
    if place is None:  # (of figure.add_axes)
        left, bottom, right, top = ax.get_position().extents
        place = GridSpec(1, 1, ax.figure, left=left, bottom=bottom, right=right, top=top)[0]
    return place.subgridspec(down, across, **given)


def _below(ax, ratio=(4, 3)):
    """New Axes in the lower part of the room of `ax`, with its horizontal scale; `ratio` of the heights."""
    above, below = _room(ax, 2, 1, height_ratios=ratio)
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


def _like(X, rows):
    """rows (N,D) as X is: a frame of the same columns, or an array."""
    return type(X)(dict(zip(X.columns, rows.T))) if hasattr(X, "columns") else rows


def plot_decision(model, X, y, *, ax=None, max_points: int = 5000):
    """What a classifier of two columns says everywhere, and the rows of X (N,2) in the colours of their classes y (N,).

    model: a fitted classifier with `classes_` and `predict_proba`, `lvm.RelevanceVectorClassifier` for instance, or one
    of scikit-learn's, or a pipeline. X may be an array or a frame, other rows than those of the fit, too.
    The ground has the colour of the most probable class, the paler the less sure: white where all are as probable.
    Solid lines are borders between the classes; a class has probability 0.75 on its dashed lines, so that of two
    classes the lines are those of 0.25, 0.5 and 0.75. Rings are the model's `relevance_vectors_`, where it has them.
    Of more than 7 classes each has its name where it is surest, since colours come twice.
    max_points: of more rows, a fixed random choice is drawn; the legend counts all.

    Raises ImportError without matplotlib, ValueError where X has not two columns or y not a known class for each row,
    NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_iris(return_y=True)
    >>> model = lvm.RelevanceVectorClassifier(random_state=0).fit(X[:, 2:], y)
    >>> ax = lvm.plotting.plot_decision(model, X[:, 2:], y)    # doctest: +SKIP
    """
    points = check_array(X, "plot_decision", 1, False)
    if points.shape[1] != 2:
        raise ValueError(f"The picture shows two columns, and X has {points.shape[1]}. Try a model of two of them.")
    model.predict_proba(_rows(X, 1))  # fails before a fit
    codes = codes_of(y, model.classes_, len(points))
    vectors = np.asarray(getattr(model, "relevance_vectors_", np.empty((0, 2))))
    ax = _axes(ax)
    from matplotlib.colors import to_rgb

    seen = np.concatenate([points, vectors])
    low, high = seen.min(axis=0), seen.max(axis=0)
    room = np.where(high > low, 0.08 * (high - low), 1.0)
    sides = np.linspace(low - room, high + room, GRID).T
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    names = _names(model)
    P = np.asarray(model.predict_proba(_like(X, grid.reshape(-1, 2)))).reshape(GRID, GRID, -1)
    K = P.shape[2]
    top, sure = P.argmax(axis=2), (P.max(axis=2, keepdims=True) - 1 / K) / (1 - 1 / K)
    colours = np.array([to_rgb(_look(k)[0]) for k in range(K)])
    extent = sides[:, [0, -1]].ravel()
    ax.imshow(1 - 0.45 * sure * (1 - colours[top]), origin="lower", extent=extent, aspect="auto", zorder=0)
    lines = {"colors": "#444444", "linewidths": 0.9, "zorder": 1}
    for k in range(K):
        lead = P[:, :, k] - np.delete(P, k, axis=2).max(axis=2)
        if k < K - 1 and lead.min() < 0 < lead.max():  # the last class's borders are those of the others
            ax.contour(*sides, lead, [0], linestyles="-", **lines)
        if P[:, :, k].min() < 0.75 < P[:, :, k].max():
            ax.contour(*sides, P[:, :, k], [0.75], linestyles="--", **lines)
        if len(COLOURS) < K and (top == k).any():  # colours come twice
            middle = slice(GRID // 20, -GRID // 20)  # no text at the edge
            at = grid[middle, middle].reshape(-1, 2)[P[middle, middle, k].argmax()]
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colours[k]}
            style = {"ha": "center", "va": "center", "fontsize": "small", "bbox": box, "zorder": 4, "clip_on": True}
            ax.text(*at, str(model.classes_[k]), **style)

    drawn = _rows(np.arange(len(points)), max_points)
    for k, name in enumerate(model.classes_):
        colour, marker = _look(k)
        dot = {"c": colour, "marker": marker, "s": 14, "edgecolors": "white", "linewidths": 0.4, "zorder": 2}
        ax.scatter(*points[drawn[codes[drawn] == k]].T, label=f"{name} ({(codes == k).sum()})", **dot)
    if len(vectors):
        ring = {**RING, "markersize": 9, "zorder": 3}
        ax.plot(*vectors.T, label=f"relevance vectors ({len(vectors)})", **ring)
    if P.max() > 0.75:
        ax.plot([], [], "--", color="#444444", linewidth=0.9, label="probability 0.75")
    _name_axes(ax, [0, 1], names)
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return ax


def plot_relevance(model, X=None, *, names=None, ax=None, max_bars: int = 30):
    """Mean of each weight of a sparse model with a bar of one posterior standard deviation, the largest weights on top.

    model: a fitted `VariationalLogisticRegression`, of which the weights are those of the columns of X, or a relevance
    vector machine: those of the rows of X that are its relevance vectors. Weights of the logit, per unit of the column.
    X (N,D), array or frame: with it the weights of a `VariationalLogisticRegression` are those per standard deviation
    of each column, which compare whatever the units.
    names: of the D columns, by default those of the frame that the model was fitted to; of a machine, of its vectors.
    A pruned weight, whose best prior variance is 0, is a grey cross at 0, and its name is grey. Of more than two
    classes each has its colour. Of more than `max_bars` columns the rest is counted below.

    Raises ImportError without matplotlib, ValueError for names or X that do not fit, NotFittedError before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_iris(return_y=True)
    >>> model = lvm.VariationalLogisticRegression().fit(X, y)
    >>> ax = lvm.plotting.plot_relevance(model, X, names=lvm.datasets.IRIS_COLUMNS)     # doctest: +SKIP
    """
    if getattr(model, "relevance_", None) is None:
        raise interop(NotFittedError)(
            f"plot_relevance needs a fitted model that has relevance_, got {type(model).__name__}. "
            "Call fit(X, y) first."
        )
    mean, which = np.atleast_2d(model.coef_).astype(float), np.asarray(model.relevance_)
    C, of_columns = len(mean), hasattr(model, "mean_")
    S = np.reshape(model.covariance_, (C, len(which) + 1, -1)).astype(float)
    variance = (S[:, :, 0] if S.shape[2] == 1 else np.diagonal(S, axis1=1, axis2=2))[:, :-1]
    if of_columns:
        sd, known = np.zeros(mean.shape), _names(model) or [f"column {i}" for i in range(mean.shape[1])]
        sd[:, which] = np.sqrt(variance)
    else:
        sd, known = np.sqrt(variance), [f"row {i}" for i in which]
    kept = (mean != 0) | (sd > 0)
    relevant = kept.any(axis=0)
    names = known if names is None else list(names)
    if len(names) != len(known):
        raise ValueError(f"names must be {len(known)}, one for each weight, got {len(names)}.")
    if X is not None:
        if not of_columns:
            raise ValueError(f"X is for models of its columns: the weights of {type(model).__name__} have no unit.")
        spread = check_array(X, "plot_relevance", 1, False).std(axis=0)
        if len(spread) != len(known):
            raise ValueError(f"X must have the {len(known)} columns of the fit, got {len(spread)}.")
        mean, sd = mean * spread, sd * spread
    ax = _axes(ax)

    order = np.lexsort([-abs(mean).max(axis=0), ~relevant])
    shown, rest = order[:max_bars], order[max_bars:]
    place, height = np.arange(len(shown)), 0.8 / C
    classes = getattr(model, "classes_", np.empty(0))
    for c in range(C):
        at, colour = place + (c - (C - 1) / 2) * height, COLOURS[c % len(COLOURS)]
        k = kept[c, shown]
        bar = {"height": 0.9 * height, "color": colour, "alpha": 0.7, "label": str(classes[c]) if C > 1 else None}
        line = {"elinewidth": 1, "ecolor": "black", "capsize": min(3, 8 / C)}
        ax.barh(at[k], mean[c, shown][k], xerr=sd[c, shown][k], error_kw=line, **bar)
        ax.plot(np.zeros((~k).sum()), at[~k], "x", color="#999999", markersize=min(5, 12 / C))
    ax.axvline(0, color="#444444", linewidth=0.8)
    ax.set_yticks(place, [str(names[i]) for i in shown])
    for label, i in zip(ax.get_yticklabels(), shown):
        label.set_color("black" if relevant[i] else "#999999")
    ax.set_ylim(len(shown) - 0.4, -0.6)
    unit = " per standard deviation of the column" if X is not None else " per unit of the column" if of_columns else ""
    ax.set_xlabel(f"weight{unit}\n(bar: one posterior standard deviation)")
    told = f"{relevant.sum()} relevant, {(~relevant).sum()} pruned" if of_columns else f"{len(which)} relevance vectors"
    ax.set_title(told + (f" ({len(rest)} not shown)" if len(rest) else ""), fontsize="medium")
    if C > 1:
        ax.legend(title="class, against the rest", fontsize="small", title_fontsize="small")
    return ax


def plot_reliability(probabilities, y, *, classes=None, n_bins: int = 10, ax=None):
    """How often what was predicted with a probability came true, bin by bin, and below how many rows each bin has.

    probabilities (N,K), of `predict_proba` for instance, y (N,) and the others: see `calibration`, which also says how
    the title's ECE and Brier score are computed. Dots on the dashed line are right; below it the model was too sure of
    the class, above it not sure enough. Grey bars on the line have two thirds of the dots of probabilities that are
    right: one standard deviation of the frequency to each side (Bröcker & Smith 2007). The histogram is in new Axes
    below, which take room from `ax`.

    Raises ImportError without matplotlib, and as `calibration`.

    >>> import lvm
    >>> X, y = lvm.datasets.load_iris(return_y=True)
    >>> model = lvm.VariationalLogisticRegression().fit(X[::2], y[::2])
    >>> ax = lvm.plotting.plot_reliability(model.predict_proba(X[1::2]), y[1::2])       # doctest: +SKIP
    """
    found = calibration(probabilities, y, classes=classes, n_bins=n_bins)
    ax = _axes(ax)
    classes = np.unique(np.asarray(y)) if classes is None else np.asarray(classes)
    seen = found.counts > 0
    p, n = found.confidences[seen], found.counts[seen]
    deviation = np.sqrt(p * (1 - p) / n)
    ax.plot([0, 1], [0, 1], "--", color="#444444", linewidth=0.8, label="equal")
    ends = (p - deviation).clip(0), (p + deviation).clip(max=1)
    ax.vlines(p, *ends, colors="#bbbbbb", linewidth=6, label="one standard deviation")
    ax.plot(p, found.frequencies[seen], "o-", color=COLOURS[0], markersize=5, linewidth=1)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.05, 1.05))
    ax.set_title(f"ECE {found.ece:.3f}, Brier score {found.brier:.3f}, {found.counts.sum()} rows", fontsize="medium")
    below = _below(ax, (3, 1))
    edges = np.linspace(0, 1, n_bins + 1)
    below.bar(edges[:-1], found.counts, 1 / n_bins, align="edge", color=COLOURS[0], edgecolor="white", alpha=0.7)
    if len(classes) == 2:
        ax.set_ylabel(f"frequency of {classes[1]}")
        below.set_xlabel(f"probability of {classes[1]}")
    else:
        ax.set_ylabel("part of them that is right")
        below.set_xlabel("probability of the most probable class")
    below.set_ylabel("rows")
    ax.tick_params(labelbottom=False)
    ax.legend(fontsize="small", frameon=False)
    return ax


def _draws(model, n: int):
    """Rows (n,D) that a model draws, the same each time."""
    drawn = copy.copy(model).set_params(random_state=0).sample(n)  # a generator of model's rests
    return np.asarray(drawn[0] if isinstance(drawn, tuple) else drawn)  # of a mixture: with components


def _plane(model, what):
    """A copy of a fitted model of two columns that takes arrays, if it knew a frame too."""
    if getattr(model, "n_features_in_", None) is None:
        raise interop(NotFittedError)(f"{what} needs a fitted model, got {type(model).__name__}. Call fit(X) first.")
    if model.n_features_in_ != 2:
        raise ValueError(f"The picture shows two columns, and the model has {model.n_features_in_}. Try plot_samples.")
    nameless = copy.copy(model)
    vars(nameless).pop("feature_names_in_", None)
    return nameless


def plot_flow(model, target=None, X=None, *, limits=None, ax=None, max_points: int = 5000):
    """The density of a model of two columns; beside it that of its target, or over it the rows of X (N,2).

    model: a fitted `PlanarFlow`; a `GaussianMixture` serves too. target: of `lvm.targets`, or any callable that gives
    log pi (M,) and its gradient for z (M,2); its density, divided by its integral (`target.log_z` where it has that,
    else the sum over the picture), is in new Axes to the right, which take room from `ax` and have the same colours.
    X: an array or a frame, other rows than those of the fit, too; the title has their mean log-likelihood.
    limits: ((low, high), (low, high)) of the two columns. By default the picture holds X, or else 99.8 % of draws of
    the model in each column: parts of a target that it does not know may lie outside.
    max_points: of more rows, a fixed random choice is drawn.

    Raises ImportError without matplotlib, ValueError for a model or X of other than two columns, NotFittedError before
    a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_faithful()
    >>> model = lvm.PlanarFlow(max_epochs=20, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_flow(model, X=X)                # doctest: +SKIP
    """
    nameless = _plane(model, "plot_flow")
    points = None if X is None else check_array(X, "plot_flow", 1, False)
    if points is not None and points.shape[1] != 2:
        raise ValueError(f"X must have the model's two columns, got {points.shape[1]}.")
    if limits is None:
        seen = np.quantile(_draws(model, 5000), [0.001, 0.999], axis=0) if points is None else points
        low, high = seen.min(axis=0), seen.max(axis=0)
        room = np.where(high > low, 0.08 * (high - low), 1.0)
        limits = np.transpose([low - room, high + room])
    x, y = (np.linspace(low, high, GRID) for low, high in limits)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = {"model": np.exp(nameless.score_samples(grid))}
    if target is not None:
        log_pi, log_z = target(grid)[0], getattr(target, "log_z", None)
        if log_z is None:
            log_z = np.logaddexp.reduce(log_pi) + np.log((x[1] - x[0]) * (y[1] - y[0]))
        density["target"] = np.exp(log_pi - log_z)
    ax = _axes(ax)

    panels = [ax]
    if target is not None:
        left, right = _room(ax, 1, 2)
        ax.set_subplotspec(left)
        panels.append(ax.figure.add_subplot(right, sharex=ax, sharey=ax))
    names, top = _names(model), max(p.max() for p in density.values())
    style = {"origin": "lower", "extent": [x[0], x[-1], y[0], y[-1]], "cmap": "Blues", "vmin": 0, "vmax": top}
    for panel, (name, p) in zip(panels, density.items()):
        panel.imshow(p.reshape(GRID, GRID), aspect="auto", **style)
        panel.set_title(name, fontsize="medium")
        _name_axes(panel, [0, 1], names)
    if target is not None:
        panels[1].set_ylabel(None)
        panels[1].tick_params(labelleft=False)
    if points is not None:
        drawn = _rows(points, max_points)
        ax.scatter(*drawn.T, c=COLOURS[5], s=6, alpha=0.5, linewidths=0)
        ax.set_title(f"model, and {len(points)} rows: {nameless.score(points):.4g} nats per row", fontsize="medium")
    return ax


def plot_samples(model, X=None, *, columns=(0, 1), n_samples: int = 1000, ax=None, max_points: int = 5000):
    """Draws from a model in two columns, over rows of X (N,D), which they should look like.

    model: any fitted model with `sample`. columns: the two to draw, numbers or (after a fit on a frame) names.
    max_points: of more rows, a fixed random choice is drawn.

    Raises ImportError without matplotlib, ValueError for `columns` that are not two different columns, NotFittedError
    (from the model) before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> model = lvm.PlanarFlow(max_epochs=20, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_samples(model, X)               # doctest: +SKIP
    """
    samples = _draws(model, n_samples)
    columns = _columns(columns, _names(model), samples.shape[1])
    ax = _axes(ax)
    dot = {"s": 10, "linewidths": 0}
    if X is not None:
        points = check_array(X, "plot_samples", 1, True)[:, columns]
        label = f"rows ({len(points)})"
        ax.scatter(*_rows(points, max_points).T, c="#999999", alpha=0.5, label=label, **dot)
    ax.scatter(*samples[:, columns].T, c=COLOURS[0], alpha=0.6, label=f"draws ({n_samples})", **dot)
    _name_axes(ax, columns, _names(model))
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return ax


def plot_warp(model, *, max_panels: int = 8, ax=None):
    """What the layers of a flow of two columns do to a grid, panel by panel: from the base, z, to the data, x.

    model: a fitted `PlanarFlow`. The grid is that of the disk |z| < 3, which holds 99 % of the base, with a line each
    half; its two circles, |z| = 1 and 2, hold 39 % and 86 %. Scales are of X throughout, those of each panel its own.
    Of more layers than `max_panels` some are passed over. The panels are new Axes, which take the room of `ax`; `ax` is
    the first of them.

    Raises ImportError without matplotlib, ValueError for a model of other than two columns, NotFittedError before a
    fit.

    >>> import lvm
    >>> model = lvm.PlanarFlow(4, max_epochs=20, random_state=0).fit(lvm.datasets.load_faithful())
    >>> ax = lvm.plotting.plot_warp(model)                     # doctest: +SKIP
    """
    nameless = _plane(model, "plot_warp")
    check_int("max_panels", max_panels, 2, who="plot_warp")
    across, along = np.arange(-2.5, 3, 0.5)[:, None], np.linspace(-1, 1, 300)
    line = np.stack(np.broadcast_arrays(across, along * np.sqrt(9 - across**2)), axis=-1)
    circles = np.stack([ellipse([0, 0], np.eye(2), r, 300) for r in (1, 2)])
    lines = np.concatenate([line, line[:, :, ::-1], circles])  # (lines,points,2)
    colours = [COLOURS[0]] * len(line) + [COLOURS[1]] * len(line) + ["black"] * 2
    stages = nameless.warp(lines.reshape(-1, 2)).reshape(-1, *lines.shape)
    K = len(stages) - 1
    kinds = model.layers_ if model.direction_ == "generative" else model.layers_[::-1]
    shown = np.unique(np.linspace(0, K, min(K + 1, max_panels)).round().astype(int))
    ax = _axes(ax)
    from matplotlib.collections import LineCollection

    wide = min(len(shown), max(1, round((len(shown) * 2) ** 0.5)))
    places = _room(ax, -(-len(shown) // wide), wide)
    ax.set_subplotspec(places[0])
    for n, i in enumerate(shown):
        panel = ax.figure.add_subplot(places[n]) if n else ax
        panel.add_collection(LineCollection(list(stages[i]), colors=colours, linewidths=0.8))
        panel.autoscale_view()
        panel.set_title(f"{i}: {kinds[i - 1]}" if i else "z", fontsize="medium")
    panel.set_title(f"{K}: {kinds[-1]}, x", fontsize="medium")
    return ax


def _scale(ax, skip, *band):
    """Fit the heights to the lines, and the ends of a band, without their first `skip` values."""
    late = np.concatenate([values[skip:] for values in (*(line.get_ydata() for line in ax.lines), *band)])
    late = late[np.isfinite(late)]
    if len(late):
        room = 0.05 * np.ptp(late) + 1e-9
        ax.set_ylim(late.min() - room, late.max() + room)


def plot_bound(model, *, ax=None):
    """The lower bound, `model.lower_bounds_`, after each iteration of `fit`: mean nats per row. It never falls, unless
    it is an estimate, as Adam's is.

    Where training kept a `history_` by epochs, also the bound of rows held out, and in new Axes below, which take room
    from `ax`, each part of the bound: of a VAE the reconstruction and the KL, of a net the log-likelihood and the KL.
    The scales are then those of the last nine tenths. What `lvm.gradients.fit_q` returned will do, too: its bound by
    epochs, in nats, with a band of two standard errors to each side.

    Raises ImportError without matplotlib, NotFittedError for a model without `lower_bounds_`.

    >>> import lvm
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(lvm.datasets.load_faithful())
    >>> ax = lvm.plotting.plot_bound(model)                    # doctest: +SKIP
    """
    history = getattr(model, "history_", getattr(model, "history", {}))  # of a model, or of fit_q
    bounds = getattr(model, "lower_bounds_", history.get("lower_bound"))
    if bounds is None:
        raise interop(NotFittedError)(
            f"plot_bound needs a fitted model that keeps lower_bounds_, got {type(model).__name__}. Call fit(X) first."
        )
    error = np.array(history.get("lower_bound_error", []))
    band = [bounds - 2 * error, bounds + 2 * error] if len(error) else []
    ax = _axes(ax)
    from matplotlib.ticker import MaxNLocator

    n = np.arange(1, len(bounds) + 1)
    ax.plot(n, bounds, color=COLOURS[0], marker="." if len(bounds) <= 50 else None, label="of training")
    if band:
        ax.fill_between(n, *band, color=COLOURS[0], alpha=0.2, linewidth=0, label="two standard errors")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set_ylabel("lower bound, mean nats per row" if not band else "lower bound, nats")
    parts = [name for name in history if not name.startswith(("lower_bound", "validation", "sparsity"))]
    panels = {"lower_bound": ax}
    if parts:
        first, *places = _room(ax, 1 + len(parts), 1, height_ratios=[3] + [2] * len(parts))
        ax.set_subplotspec(first)
        ax.tick_params(labelbottom=False)
        ax.set_ylabel(None)  # too long for a part of the height
        ax.set_title("lower bound, mean nats per row", loc="left", fontsize="small")
    for name, place in zip(parts, places if parts else ()):
        panels[name] = below = ax.figure.add_subplot(place, sharex=ax)
        values = history[name]  # of the epochs since the model was read from a file
        below.plot(n[-len(values) :], values, color=COLOURS[0])
        below.set_title("KL" if name == "kl" else name.replace("_", " "), loc="left", fontsize="small")
        below.tick_params(labelbottom=name == parts[-1])
    for name, panel in panels.items() if history else ():
        held = history.get(f"validation_{name}", [])
        if held:  # by fit; partial_fit may have gone on
            first = len(n) - len(history["lower_bound"])
            panel.plot(n[first : first + len(held)], held, color=COLOURS[5], label="of rows held out")
        _scale(panel, len(n) // 10, *(band if panel is ax else ()))  # it may begin far off
    if len(ax.lines) > 1 or band:
        ax.legend(fontsize="small", frameon=False)
    for panel in panels.values():
        panel.ticklabel_format(axis="y", useOffset=False)
    panel.set_xlabel("epoch" if history else "iteration")
    return ax


def _pictures(images, shape):
    """images (K,D) or (K,height,width) as the latter; shape (height, width), by default of a square."""
    images = np.asarray(images, dtype=float)
    if images.ndim == 2:
        side = round(images.shape[1] ** 0.5)
        shape = (side, side) if shape is None else tuple(shape)
        if np.prod(shape) != images.shape[1]:
            raise ValueError(f"shape must be (height, width) of {images.shape[1]} pixels, got {shape}.")
        images = images.reshape(-1, *shape)
    return images


def plot_images(images, *, shape=None, titles=None, across=None, ax=None):
    """A grid of small grey pictures, dark where the value is high, blue where it is a gap (NaN); all share one scale.

    images (K,D) or (K,height,width); shape (height, width) of a row of length D, by default a square.
    titles: K short texts to stand above them. across: how many stand side by side, by default as fits the figure.

    Raises ImportError without matplotlib, ValueError where rows do not have the shape.

    >>> import lvm
    >>> ax = lvm.plotting.plot_images(lvm.datasets.load_digits()[:10])      # doctest: +SKIP
    """
    images = _pictures(images, shape)
    if across is not None:
        check_int("across", across, 1, who="plot_images")
    ax = _axes(ax)
    K, height, width = images.shape
    across = min(K, max(1, round((K * 2.5) ** 0.5))) if across is None else across
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


def plot_reconstructions(model, X, *, shape=None, ax=None, max_images: int = 10):
    """Rows of X (N,D) that are pictures, and below each what the model makes of its place in the latent space.

    model: a fitted `VAE`, or anything with `transform` and `inverse_transform`, `ProbabilisticPCA` for instance. The
    pictures below are `inverse_transform(transform(X))`, for a VAE the mean of x given the posterior mean of z.
    shape (height, width), by default a square. Of more than max_images rows the first are drawn.

    Raises ImportError without matplotlib, ValueError where rows do not have the shape, NotFittedError (from the model)
    before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_digits() / 16
    >>> model = lvm.VAE(likelihood="bernoulli", max_epochs=1, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_reconstructions(model, X)       # doctest: +SKIP
    """
    check_int("max_images", max_images, 1, who="plot_reconstructions")
    some = _take(_rows(X, len(X)), slice(max_images))
    pictures = [_pictures(check_array(some, "plot_reconstructions", 1, True), shape)]
    pictures.append(_pictures(model.inverse_transform(model.transform(some)), shape))
    n, height, width = pictures[0].shape
    ax = plot_images(np.concatenate(pictures), across=n, ax=ax)
    for row, name in enumerate(("data", "model")):
        y = row * (height + 1) + 1 + (height - 1) / 2
        ax.text(-0.1 * width - 0.5, y, name, ha="right", va="center", rotation="vertical")
    return ax


def _prior(model, what):
    """How many independent standard normal numbers the model makes a row of."""
    if getattr(model, "architecture_", {}).get("likelihood") == "squared":
        raise ValueError(f'{what} needs a prior of z, and likelihood="autoencoder" has none. Try plot_reconstructions.')
    return len(model.get_feature_names_out())


def plot_decoded(model, *, n_samples: int = 40, shape=None, ax=None):
    """Pictures from nowhere: the means of x given draws of z ~ N(0, I), the same each time.

    model: a fitted `VAE`, or a `ProbabilisticPCA`. These are means, without the noise of p(x|z), which `model.sample`
    has. shape (height, width), by default a square.

    Raises ImportError without matplotlib, ValueError for an autoencoder, which has no prior, and where rows do not have
    the shape, NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_digits() / 16
    >>> model = lvm.VAE(likelihood="bernoulli", max_epochs=1, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_decoded(model)                  # doctest: +SKIP
    """
    check_int("n_samples", n_samples, 1, who="plot_decoded")
    d = _prior(model, "plot_decoded")
    Z = np.random.default_rng(0).standard_normal((n_samples, d))
    return plot_images(model.inverse_transform(Z), shape=shape, ax=ax)


def plot_manifold(model, *, n: int = 15, shape=None, ax=None):
    """All that a model of two latent dimensions can draw: the means of x for z on a grid, a picture at each place.

    model: a fitted `VAE` of two components, or a `ProbabilisticPCA`. The grid is n times n, of the quantiles
    (i + 1/2)/n of the standard normal, so that each picture stands for as much of the prior (Kingma & Welling 2014,
    figure 4). shape (height, width), by default a square.

    Raises ImportError without matplotlib, ValueError for a model of other than two components, an autoencoder, which
    has no prior, and where rows do not have the shape, NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_digits() / 16
    >>> model = lvm.VAE(likelihood="bernoulli", max_epochs=1, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_manifold(model)                 # doctest: +SKIP
    """
    check_int("n", n, 1, who="plot_manifold")
    d = _prior(model, "plot_manifold")
    if d != 2:
        raise ValueError(f"The picture is of two latent dimensions, and the model has {d}. Try plot_decoded.")
    from scipy.special import ndtri

    z = ndtri((np.arange(n) + 0.5) / n)
    right, up = np.meshgrid(z, z[::-1])
    pictures = _pictures(model.inverse_transform(np.stack([right, up], axis=-1).reshape(-1, 2)), shape)
    pictures = np.pad(pictures, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)  # a line between them
    height, width = pictures.shape[1:]
    ax = _axes(ax)
    sheet = pictures.reshape(n, n, height, width).swapaxes(1, 2).reshape(n * height, n * width)
    ax.imshow(sheet, cmap="gray_r", interpolation="nearest", extent=(0, n * width, 0, n * height))
    some = np.unique(np.linspace(0, n - 1, min(n, 4 + n % 2)).round().astype(int))  # as many on either side
    names = [f"{value:g}" for value in z[some].round(2) + 0.0]
    ax.set_xticks((some + 0.5) * width, names)
    ax.set_yticks((some + 0.5) * height, names)
    ax.set(xlabel="dimension 0", ylabel="dimension 1")
    return ax


def plot_latent(model, X, y=None, *, dimensions=None, ax=None, max_points: int = 5000):
    """The posterior means of two latent dimensions, a dot for each row of X (N,D), in the colours of its class.

    model: a fitted `VAE`, or anything with `transform`. y (N,): classes, for colours and the legend. dimensions: the
    two to draw, by default those whose posterior means vary most; the labels of the axes tell how much. The dashed
    circle holds 68 % of the prior of a `VAE`. Of more than 7 classes each has its name at its median, since colours
    come twice.
    max_points: of more rows, a fixed random choice is drawn; the legend counts all.

    Raises ImportError without matplotlib, ValueError for a model of one component, `dimensions` that are not two
    different ones of the model's and y that does not fit, NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_iris(return_y=True)
    >>> model = lvm.VAE(2, max_epochs=1, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_latent(model, X, y)             # doctest: +SKIP
    """
    Z = np.asarray(model.transform(X), dtype=float)
    labels = np.full(len(Z), "rows") if y is None else np.asarray(y)
    if labels.shape != (len(Z),):
        raise ValueError(f"y must be one label for each of the {len(Z)} rows of X, got shape {labels.shape}.")
    if Z.shape[1] < 2:
        raise ValueError(
            "The picture shows two latent dimensions, and the model has one. Try a histogram of transform(X)."
        )
    variances = Z.var(axis=0)
    if dimensions is None:
        dimensions = np.sort(np.argsort(-variances, kind="stable")[:2])
    i, j = _columns(dimensions, None, Z.shape[1], "dimensions")
    ax = _axes(ax)
    drawn = _rows(np.arange(len(Z)), max_points)
    names, classes = np.unique(labels, return_inverse=True)
    for c, name in enumerate(names):
        (colour, marker), of_class = _look(c), classes == c
        dot = {"c": colour, "marker": marker, "s": 12, "alpha": 0.6, "linewidths": 0}
        ax.scatter(*Z[drawn[of_class[drawn]]][:, [i, j]].T, label=f"{name} ({of_class.sum()})", **dot)
        if len(COLOURS) < len(names):  # colours come twice
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour}
            style = {"ha": "center", "va": "center", "fontsize": "small", "bbox": box, "zorder": 4, "clip_on": True}
            ax.text(*np.median(Z[of_class][:, [i, j]], axis=0), str(name), **style)
    if getattr(model, "architecture_", {}).get("likelihood", "squared") != "squared":
        ax.plot(*ellipse([0, 0], np.eye(2), RADIUS).T, "--", color="#444444", linewidth=0.8, label="prior, 68 %")
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(f"dimension {i} (variance of the means {variances[i]:.2g})")
    ax.set_ylabel(f"dimension {j} (variance of the means {variances[j]:.2g})")
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def plot_active(model, X, *, ax=None):
    """Which latent units of a VAE are in use: the variance over rows of X (N,D) of each one's posterior mean, the
    largest first.

    model: a fitted `VAE`. A unit above the dashed line, 0.01, is active (Burda, Grosse & Salakhutdinov 2016); the
    posterior of one far below it is the prior, whatever the row: it has collapsed. Variances below 1e-8 are drawn
    there. Units have their numbers below.

    Raises ImportError without matplotlib, NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X = lvm.datasets.load_digits() / 16
    >>> model = lvm.VAE(5, likelihood="bernoulli", max_epochs=1, random_state=0).fit(X)
    >>> ax = lvm.plotting.plot_active(model, X)                # doctest: +SKIP
    """
    variances = np.asarray(model.transform(X), dtype=float).var(axis=0)
    order = np.argsort(-variances, kind="stable")
    ax = _axes(ax)
    place, sorted_, many = np.arange(len(order)), variances[order], len(order) > 20
    for which, colour, name in (sorted_ > ACTIVE, COLOURS[0], "active"), (sorted_ <= ACTIVE, "#999999", "not active"):
        if which.any():
            label = f"{name} ({which.sum()})"
            ax.plot(place[which], sorted_[which].clip(1e-8), "o", color=colour, markersize=5, label=label)
    ax.axhline(ACTIVE, linestyle="--", color="#444444", linewidth=0.8, label=f"{ACTIVE:g}")
    ax.set_yscale("log")
    ax.set_xticks(place, order, fontsize="x-small" if many else "small", rotation=90 if many else 0)
    ax.set(xlabel="latent unit", ylabel="variance of the posterior mean")
    ax.legend(fontsize="small", frameon=False)
    return ax


def plot_weights(model, *, units=10, threshold=3.0, shape=None, ax=None):
    """Mean weights of first-layer units as pictures of the columns of X, and below each what `prune` leaves of it.

    model: a fitted `BayesianMLPClassifier` or `BayesianMLPRegressor` of rows that are pictures; it stays as it is.
    units: how many, of those with most weights left, or a list of their numbers. threshold: as of `model.prune`.
    shape (height, width), by default a square. Weights are those of the standardised columns; red is positive, blue is
    negative, white is 0, and all share one scale, whose ends the title tells.

    Raises ImportError without matplotlib, ValueError for units that there are not and where rows do not have the shape,
    NotFittedError (from the model) before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_digits(return_y=True)
    >>> model = lvm.BayesianMLPClassifier(hidden_layer_sizes=(20,), max_epochs=1, random_state=0).fit(X, y)
    >>> ax = lvm.plotting.plot_weights(model)                  # doctest: +SKIP
    """
    ratio = model.log_ratio_[0][:-1]
    whole, pruned = (copy.copy(model).prune(t).coefs_[0].T.astype(float) for t in (None, threshold))
    left = (ratio < threshold).sum(axis=0)
    if np.ndim(units) == 0:
        units = np.argsort(-left, kind="stable")[: check_int("units", units, 1, who="plot_weights")]
    units = np.asarray(units)
    if units.dtype.kind not in "iu" or not len(units) or units.min() < 0 or units.max() >= len(whole):
        raise ValueError(f"units must be numbers from 0 to {len(whole) - 1}, got {units.tolist()}.")
    n, largest = len(units), abs(whole[units]).max()
    titles = [f"unit {i}" for i in units] + [f"{left[i]} left" for i in units]
    ax = plot_images(np.concatenate([whole[units], pruned[units]]), shape=shape, titles=titles, across=n, ax=ax)
    ax.images[0].set(cmap="RdBu_r", clim=(-largest, largest))
    ax.set_title(
        f"{left.sum()} of {ratio.size} weights of the first layer left at {threshold:g}\n"
        f"red: up to {largest:.2g}, blue: down to {-largest:.2g}",
        fontsize="medium",
    )
    return ax


def plot_sparsity(model, *, ax=None):
    """Which part of its weights `prune` would leave of a Bayesian net after each epoch, layer by layer, and the bound.

    model: a fitted `BayesianMLPClassifier` or `BayesianMLPRegressor`. A weight is left where its `log_ratio_` is below
    3; biases do not count. The legend has the parts after the last epoch. The bound, with all of its KL from the first
    epoch on, is in new Axes below, which take room from `ax`; its scale is that of the last nine tenths.

    Raises ImportError without matplotlib, ValueError where `history_` is not there, as after `lvm.load`, NotFittedError
    before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_digits(return_y=True)
    >>> model = lvm.BayesianMLPClassifier(hidden_layer_sizes=(20,), max_epochs=5, random_state=0).fit(X, y)
    >>> ax = lvm.plotting.plot_sparsity(model)                 # doctest: +SKIP
    """
    last, history = model.sparsity_, getattr(model, "history_", {})  # fails before a fit
    if "sparsity" not in history:
        raise ValueError("plot_sparsity needs history_, which model files do not keep. Try it before save.")
    ax = _axes(ax)
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    layers = {f"sparsity_{l}": f"layer {l}" for l in range(len(last))}
    lines = {name: label for name, label in layers.items() if name in history} | {"sparsity": "all"}
    n = np.arange(1, len(history["sparsity"]) + 1) + model.n_iter_ - len(history["sparsity"])
    marker, colours = "." if len(n) <= 50 else None, [*(_look(l)[0] for l in range(len(lines) - 1)), "black"]
    for colour, (name, label) in zip(colours, lines.items()):
        left = 100 * (1 - np.asarray(history[name]))
        ax.plot(n, np.where(left > 0, left, np.nan), color=colour, marker=marker, label=f"{label}: {left[-1]:.3g} %")
    ax.set(ylabel="weights left, %", yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=20))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.tick_params(labelbottom=False)
    ax.legend(fontsize="small", frameon=False)
    below = _below(ax)
    below.plot(n, history["lower_bound"], color=COLOURS[0], marker=marker, label="of training")
    held = history.get("validation_lower_bound", [])
    if held:
        below.plot(n[: len(held)], held, color=COLOURS[5], label="of rows held out")
        below.legend(fontsize="small", frameon=False)
    _scale(below, len(n) // 10)
    below.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    below.set(xlabel="epoch", ylabel="bound, nats per row")
    return ax


def plot_pruning(model, X, y, *, thresholds=None, ax=None):
    """What a Bayesian net is worth on rows X (N,D) with targets y (N,) against the threshold of `prune`: its accuracy,
    or R², and below how many weights are left.

    model: a fitted `BayesianMLPClassifier` or `BayesianMLPRegressor`; it stays as it is. thresholds: by default from -6
    to 12; the lower, the fewer weights. The dashed lines are the score of all weights and the threshold that the model
    is pruned at, or else 3; the title tells what is left there. Scores lower by more than 0.1 are below the picture.
    Weights without biases, in new Axes below, which take room from `ax`.

    Raises ImportError without matplotlib, ValueError for X and y that do not fit, NotFittedError (from the model)
    before a fit.

    >>> import lvm
    >>> X, y = lvm.datasets.load_digits(return_y=True)
    >>> model = lvm.BayesianMLPClassifier(hidden_layer_sizes=(20,), max_epochs=5, random_state=0).fit(X[::2], y[::2])
    >>> ax = lvm.plotting.plot_pruning(model, X[1::2], y[1::2])             # doctest: +SKIP
    """
    net = copy.copy(model)
    worth = lambda t: (net.prune(t).score(X, y), net.n_weights_)
    whole, weights = worth(None)
    chosen = 3.0 if model.threshold_ is None else model.threshold_
    thresholds = np.arange(-6, 13) if thresholds is None else thresholds
    thresholds = np.unique(np.asarray([*thresholds, chosen], float))
    scores, left = map(np.array, zip(*map(worth, thresholds)))
    at = int(np.flatnonzero(thresholds == chosen)[0])
    name = "accuracy" if hasattr(model, "classes_") else "R²"
    ax = _axes(ax)
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ax.axhline(whole, linestyle="--", color="#444444", linewidth=0.8, label=f"all weights: {whole:.3f}")
    ax.plot(thresholds, scores, "o-", color=COLOURS[0], markersize=4, label="pruned")
    ax.set_ylim(max(scores.min(), whole - DROP) - 0.05 * DROP, max(scores.max(), whole) + 0.05 * DROP)
    ax.set_ylabel(name)
    ax.set_title(f"{name} {scores[at]:.3f} with {left[at]} of {weights} weights, at {chosen:g}", fontsize="medium")
    ax.tick_params(labelbottom=False)
    ax.legend(fontsize="small", frameon=False)
    below = _below(ax)
    below.plot(thresholds[left > 0], left[left > 0], "o-", color=COLOURS[1], markersize=4)
    below.set_yscale("log")
    below.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=20))
    below.yaxis.set_minor_locator(NullLocator())
    below.yaxis.set_major_formatter("{x:g}")
    below.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    below.set(xlabel="threshold of log_ratio_", ylabel="weights left")
    for panel in ax, below:
        panel.axvline(chosen, linestyle="--", color="#444444", linewidth=0.8)
    return ax


def plot_bands(model, X, y, *, limits=None, ax=None, max_points: int = 5000):
    """What a regressor of one column says of y, with bands of two standard deviations: of the mean, which the posterior
    of the weights leaves open, and of y, noise and all; and the rows of X (N,1) with y (N,).

    model: a fitted `BayesianMLPRegressor` or `RelevanceVectorRegressor`, or anything with `predict(X, return_std=True)`
    and `noise_variance_`. X may be an array or a frame, other rows than those of the fit, too. limits (low, high): of
    the column, by default a fifth beyond X on either side. The title tells how many of the y are in the wider band: 95
    % where the model is right.
    max_points: of more rows, a fixed random choice is drawn; the title counts all.

    Raises ImportError without matplotlib, ValueError where X has not one column or y does not fit, NotFittedError (from
    the model) before a fit.

    >>> import lvm, numpy as np
    >>> x = np.linspace(-3, 3, 200)[:, None]
    >>> y = np.sin(2 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=200)
    >>> model = lvm.BayesianMLPRegressor(activation="tanh", max_epochs=5, random_state=0).fit(x, y)
    >>> ax = lvm.plotting.plot_bands(model, x, y)              # doctest: +SKIP
    """
    points = check_array(X, "plot_bands", 1, False)
    if points.shape[1] != 1:
        raise ValueError(f"The picture shows one column, and X has {points.shape[1]}. Try plot_decision, or a slice.")
    y = check_targets(y, len(points), "plot_bands")
    of_rows, spread = map(np.asarray, model.predict(X, return_std=True))
    within = np.mean(abs(y - of_rows) <= 2 * spread)
    if limits is None:
        low, high = float(points.min()), float(points.max())
        room = 0.2 * (high - low) or 1.0
        limits = low - room, high + room
    low, high = limits
    x = np.linspace(low, high, 2 * GRID)
    mean, total = map(np.asarray, model.predict(_like(X, x[:, None]), return_std=True))
    weights = np.sqrt((total**2 - model.noise_variance_).clip(0))  # rounding may leave less than 0
    ax = _axes(ax)

    drawn = _rows(np.arange(len(y)), max_points)
    ax.scatter(points[drawn, 0], y[drawn], c="#999999", s=12, linewidths=0, label=f"rows ({len(y)})", zorder=2)
    for sd, alpha, label in (total, 0.18, "± 2 sd of y"), (weights, 0.45, "± 2 sd of the mean"):
        ax.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=COLOURS[0], alpha=alpha, linewidth=0, label=label)
    ax.plot(x, mean, color=COLOURS[0], label="mean", zorder=3)
    names = _names(model)
    ax.set(xlabel=str(names[0]) if names else "column 0", ylabel="y")
    ax.set_title(f"{100 * within:.0f} % of {len(y)} rows within two standard deviations", fontsize="medium")
    ax.legend(fontsize="small", frameon=False)
    return ax


def plot_gradient_variance(comparison, *, ax=None):
    """How noisy each estimator of a gradient is: the variance of one sample, summed over all parameters, on a log axis.

    comparison: what `lvm.gradients.compare` returned, for a dot an estimator; or several of them, {label: comparison},
    for a line each over the labels, which are numbers above 0, on a log axis, or words.
    Where nothing is left but rounding, as of the path derivative at the posterior, no dot is drawn, and "0" is said.

    Raises ImportError without matplotlib, TypeError for anything else, or an empty dict.

    >>> import lvm
    >>> log_p = lambda z: (-0.5 * (z**2).sum(axis=1), -z)
    >>> found = lvm.gradients.compare(log_p, lvm.distributions.Normal([1.0, 2.0], 0.5), 5000, random_state=0)
    >>> ax = lvm.plotting.plot_gradient_variance(found)             # doctest: +SKIP
    """
    found = comparison if isinstance(comparison, dict) else {"": comparison}
    if not found or not all(hasattr(one, "gradients") for one in found.values()):
        got = ", ".join(type(one).__name__ for one in found.values()) or "an empty dict"
        raise TypeError(
            f"plot_gradient_variance wants what lvm.gradients.compare returned, or a dict of these, got {got}."
        )
    names = list(dict.fromkeys(name for one in found.values() for name in one.gradients))
    variance = np.full((len(names), len(found)), np.nan)
    for j, one in enumerate(found.values()):
        for name, gradient in one.gradients.items():
            variance[names.index(name), j] = gradient.total_variance
    variance[variance <= ROUNDING * np.nanmax(variance)] = 0
    drawn, words = np.where(variance > 0, variance, np.nan), [name.replace("_", " ") for name in names]
    ax = _axes(ax)

    if found is not comparison:
        for i in range(len(words)):
            ax.plot(drawn[i], [i], "o", color=COLOURS[i])
        ax.set(xscale="log", xlabel="variance of one sample", ylim=(len(words) - 0.5, -0.5))
        ax.set_yticks(range(len(words)), [f"{word}, {v:.3g}" for word, v in zip(words, variance[:, 0])])
        ax.grid(axis="x", alpha=0.3)
        return ax
    labels = list(found)
    numeric = all(isinstance(label, numbers.Real) and float(label) > 0 for label in labels)
    x = labels if numeric else np.arange(len(labels))
    for i, word in enumerate(words):
        label = f"{word}, 0 where not drawn" if (variance[i] == 0).any() else word
        ax.plot(x, drawn[i], marker="os^Dv<"[i], color=COLOURS[i], fillstyle="none", label=label)
    ax.set(xscale="log" if numeric else "linear", yscale="log", ylabel="variance of one sample")
    ax.set_xticks(x, labels)
    ax.set_xticks([], minor=True)
    ax.legend(fontsize="small", frameon=False)
    return ax
