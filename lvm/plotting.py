"""Pictures of fitted models, drawn with matplotlib (`pip install "lvm[plot]"`), which loads at the first picture.

Every function draws into `ax`, or into a new figure where none is given, and returns the Axes. None calls `plt.show`
or changes matplotlib's settings.
"""

import copy

import numpy as np

from .estimator import NotFittedError, _check_array, interop

__all__ = ["COLOURS", "ellipse", "plot_bound", "plot_images", "plot_imputed", "plot_mixture", "plot_selection"]

# Okabe & Ito 2008: told apart with any common colour blindness; black left out, yellow last since it is faint on white
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = {"full": "o", "tied": "s", "diag": "^", "spherical": "D"}
CRITERIA = {  # what it is called, which way is better, and a difference that is not much
    "bic": ("BIC", "lower", 10),
    "icl": ("ICL", "lower", 10),
    "held_out": ("held-out nats per row", "higher", 0.01),
}
BARS, DRAWS = 60, 400  # plot_imputed: rows a column that have a bar, and draws that each bar is measured from


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


def _columns(columns, names, D: int) -> list:
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
        raise ValueError(f"columns must be two different numbers from 0 to {D - 1}{also}, got {columns!r}.")
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
    points = _check_array(X, "plot_mixture", 1, True)[:, columns]
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
    gaps = np.isnan(_check_array(X, "plot_imputed", 1, True)[:, columns])
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
    ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "color": "black", "linestyle": "none"}
    label = f"best: {best['covariance_type']}, {best['n_components']} ({best[criterion]:.6g})"
    ax.plot(best["n_components"], 0, label=label, **ring)
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
    """A grid of small grey pictures, dark where the value is high; all share one scale.

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
    for k, image in enumerate(images):
        y, x = k // across * (height + top) + top, k % across * (width + 1)
        canvas[y : y + height, x : x + width] = image
        if titles is not None:
            ax.text(x + (width - 1) / 2, y - 0.8, titles[k], ha="center", va="bottom", fontsize="small")
    ax.imshow(canvas, cmap="gray_r", interpolation="nearest")
    ax.set_axis_off()
    return ax
