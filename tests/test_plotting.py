"""Pictures show what the model says (ellipses at their Mahalanobis distance, rows, bound) and touch nothing else."""

import copy
import functools
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib import pyplot as plt
from matplotlib import rcParams
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import lvm
from lvm import plotting
from lvm.datasets import IRIS_SPECIES, load_digits, load_faithful, load_iris

plt.switch_backend("Agg")  # no window
KINDS = ["full", "tied", "diag", "spherical"]


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def mixture(X, kind="full", n_components=3):
    return lvm.GaussianMixture(n_components, covariance_type=kind, random_state=0, tol=1e-6, max_iter=500).fit(X)


def whole_covariance(model, k, D):
    """Sigma_k (D,D) whatever the covariance_type."""
    Sigma = {
        "full": lambda c: c[k],
        "tied": lambda c: c,
        "diag": lambda c: np.diag(c[k]),
        "spherical": lambda c: c[k] * np.eye(D),
    }
    return Sigma[model.covariance_type](model.covariances_)


# -------------------------------------------------------------------------------------------------------- plot_mixture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [(0, 1), (3, 1)])
def test_ellipses_lie_one_and_two_standard_deviations_out(kind, columns, ax):
    X = load_iris()
    model = mixture(X, kind)
    lines = plotting.plot_mixture(model, X, columns=columns, ax=ax).lines
    assert len(lines) == 2 * 3
    for i, line in enumerate(lines):
        k, radius = i // 2, 1 + i % 2
        Sigma = whole_covariance(model, k, 4)[np.ix_(columns, columns)]
        out = line.get_xydata() - model.means_[k, list(columns)]
        distance = np.sqrt(np.einsum("ni,ij,nj->n", out, np.linalg.inv(Sigma), out))
        assert_allclose(distance, radius, rtol=1e-9)


def test_an_ellipse_is_closed_and_goes_all_the_way_round():
    points = plotting.ellipse([5, -3], [[2, 1.2], [1.2, 1]], radius=2)
    assert_allclose(points[0], points[-1])
    assert_allclose(points[:-1].mean(axis=0), [5, -3])
    assert_allclose(points.max(axis=0) - [5, -3], 2 * np.sqrt([2, 1]), rtol=2e-3)  # its box: two standard deviations


def test_an_ellipse_of_no_width_is_a_line():
    points = plotting.ellipse([0, 0], np.outer([1, 1.1], [1, 1.1]))  # the smaller eigenvalue is rounded to -1e-16
    assert_allclose(points[:, 1], 1.1 * points[:, 0], atol=1e-7)


def test_the_rows_are_drawn_in_the_chosen_columns(ax):
    X = load_iris()
    plotting.plot_mixture(mixture(X), X, columns=(2, 0), ax=ax)
    assert_array_equal(ax.collections[0].get_offsets(), X[:, [2, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 2", "column 0")


def test_a_sure_row_has_its_components_colour_and_an_unsure_one_a_mixture(ax):
    X = load_faithful()
    model = mixture(X, n_components=2)
    R = model.predict_proba(X)
    plotting.plot_mixture(model, X, ax=ax)
    colours = ax.collections[0].get_facecolors()[:, :3]
    ends = np.array([ax.lines[0].get_color(), ax.lines[2].get_color()])
    assert_allclose(colours, R @ ends, atol=1e-12)


def test_heavier_components_have_wider_lines(ax):
    X = load_faithful()
    model = mixture(X, n_components=2)
    widths = [line.get_linewidth() for line in plotting.plot_mixture(model, X, ax=ax).lines[::2]]
    assert np.argmax(widths) == np.argmax(model.weights_)
    assert min(widths) > 0.5


def test_many_rows_are_thinned_to_the_same_choice_each_time():
    X = np.tile(load_faithful(), (5, 1))
    model = mixture(X, n_components=2)
    first, second = (
        plotting.plot_mixture(model, X, ax=Figure().subplots(), max_points=100).collections[0].get_offsets()
        for _ in range(2)
    )
    assert len(first) == 100
    assert_array_equal(first, second)


def test_a_row_with_a_gap_is_left_out(ax):
    X = load_faithful()
    X[3, 0] = np.nan
    plotting.plot_mixture(mixture(X, n_components=2), X, ax=ax)
    drawn = np.ma.filled(ax.collections[0].get_offsets(), np.nan)
    assert np.flatnonzero(np.isnan(drawn).any(axis=1)).tolist() == [3]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_frame_keep_their_names(library, ax):
    frame = pytest.importorskip(library).DataFrame(dict(zip(["sl", "sw", "pl", "pw"], load_iris().T)))
    model = mixture(frame)
    plotting.plot_mixture(model, frame, columns=("pl", 0), ax=ax, max_points=50)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("pl", "sl")
    with pytest.raises(ValueError, match=r"or two of the names \['sl', 'sw', 'pl', 'pw'\], got \('pl', 'x'\)"):
        plotting.plot_mixture(model, frame, columns=("pl", "x"), ax=ax)


@pytest.mark.parametrize("columns", [(0, 4), (1, 1), (0, 1, 2), (0,), 0, "ab", ([], 1)])
def test_columns_that_are_not_two_columns_are_refused(columns, ax):
    X = load_iris()
    with pytest.raises(ValueError, match=re.escape(f"two different numbers from 0 to 3, got {columns!r}.")):
        plotting.plot_mixture(mixture(X, "diag"), X, columns=columns, ax=ax)


def test_a_list_of_rows_is_taken_too(ax):
    X = load_faithful()
    plotting.plot_mixture(mixture(X), X.tolist(), ax=ax)
    assert_array_equal(ax.collections[0].get_offsets(), X)


# -------------------------------------------------------------------------------------------------------- plot_imputed


def with_gaps(X, part=0.2):
    X[np.random.default_rng(0).random(X.shape) < part] = np.nan
    return X


def dots(ax):
    """The dots of each entry of the legend, by its first words."""
    groups = [c for c in ax.collections if not c.get_label().startswith("_")]
    return {re.sub(r" \(.*", "", c.get_label()): np.ma.getdata(c.get_offsets()) for c in groups}


def bars(ax):
    """Both ends (n,2,2) of the bars along each column."""
    lines = [np.array(c.get_segments()) for c in ax.collections if hasattr(c, "get_segments")]
    return {int((ends[:, 0, 0] == ends[:, 1, 0]).all()): ends for ends in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_filled_rows_stand_where_the_model_imputes_them_and_the_others_where_they_were(kind, ax):
    X = with_gaps(load_iris())
    model = mixture(X, kind)
    i, j = columns = [2, 0]
    drawn = dots(plotting.plot_imputed(model, X, columns=columns, ax=ax))
    filled, gap = model.impute(X)[:, columns], np.isnan(X)
    assert_array_equal(drawn["both observed"], X[~gap[:, i] & ~gap[:, j]][:, columns])
    assert_array_equal(drawn["column 2 filled"], filled[gap[:, i] & ~gap[:, j]])
    assert_array_equal(drawn["column 0 filled"], filled[gap[:, j] & ~gap[:, i]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column 2", "column 0")


def test_the_legend_counts_every_row_those_not_drawn_too(ax):
    X = with_gaps(load_faithful())
    legend = plotting.plot_imputed(mixture(X), X, ax=ax).get_legend()
    x, y = np.isnan(X).T
    assert [t.get_text() for t in legend.get_texts()] == [
        f"both observed ({(~x & ~y).sum()})",
        f"column 0 filled ({(x & ~y).sum()})",
        f"column 1 filled ({(~x & y).sum()})",
        f"both missing, not drawn ({(x & y).sum()})",
    ]


def test_a_bar_is_one_standard_deviation_to_each_side_of_a_gaussian_along_the_gap(ax):
    X = with_gaps(load_faithful())
    model = mixture(X, n_components=1)
    (a, c), (_, b) = model.covariances_[0]
    plotting.plot_imputed(model, X, ax=ax)
    for missing, deviation in (0, np.sqrt(a - c**2 / b)), (1, np.sqrt(b - c**2 / a)):
        ends, mean = bars(ax)[missing], dots(ax)[f"column {missing} filled"]
        assert_array_equal(ends[:, :, 1 - missing], np.repeat(mean[:, [1 - missing]], 2, axis=1))
        out = (ends[:, :, missing] - mean[:, [missing]]) / deviation
        assert_allclose(out, np.broadcast_to([-0.994, 0.994], out.shape), atol=0.3)  # of 400 draws: 4 errors
        assert_allclose(out.mean(axis=0), [-0.994, 0.994], atol=0.05)


def test_a_bar_sees_what_else_was_observed_in_the_row(ax):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300))
    X = np.stack([a, b, a + 0.01 * rng.standard_normal(300)], axis=1)  # column 2 nearly gives column 0 away
    model = mixture(X, n_components=1)
    X[:20, 0] = np.nan
    ends = bars(plotting.plot_imputed(model, X, columns=(1, 0), ax=ax))[1]
    assert np.ptp(ends[:, :, 1], axis=1).max() < 0.04
    assert_allclose(ends[:, :, 1].mean(axis=1), a[:20], atol=0.05)


def test_of_many_rows_some_have_bars_the_same_ones_each_time():
    X = with_gaps(np.tile(load_faithful(), (8, 1)))
    model = mixture(X, n_components=2)
    first, second = (bars(plotting.plot_imputed(model, X, ax=Figure().subplots(), max_points=1500)) for _ in range(2))
    for j in range(2):
        assert len(first[j]) == plotting.BARS
        assert_array_equal(first[j], second[j])


def test_the_bars_leave_the_generator_of_the_model_alone(ax):
    X = with_gaps(load_faithful())
    model = mixture(X).set_params(random_state=np.random.default_rng(0))
    plotting.plot_imputed(model, X, ax=ax)
    assert model.random_state.random() == np.random.default_rng(0).random()


def test_imputed_rows_have_the_ellipses_of_plot_mixture_around_them(ax):
    X = with_gaps(load_iris())
    model = mixture(X)
    expected, got = (
        [line.get_xydata().tolist() for line in draw(model, X, columns=(0, 2), ax=ax).lines if len(line.get_xydata())]
        for draw, ax in ((plotting.plot_mixture, Figure().subplots()), (plotting.plot_imputed, ax))
    )
    assert got == expected


def test_rows_without_gaps_are_drawn_without_bars(ax):
    X = load_faithful()
    plotting.plot_imputed(mixture(X), X, ax=ax)
    assert (list(dots(ax)), bars(ax)) == (["both observed"], {})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_with_missing_values_may_say_so_its_own_way(library, ax):
    X = with_gaps(load_faithful())
    rows = [[None if np.isnan(x) else x for x in row] for row in X.tolist()]
    frame = pytest.importorskip(library).DataFrame(dict(zip(["eruptions", "waiting"], zip(*rows))))
    frame = frame.convert_dtypes() if library == "pandas" else frame
    model = mixture(frame)
    plotting.plot_imputed(model, frame, columns=("waiting", "eruptions"), ax=ax)
    assert list(dots(ax)) == ["both observed", "waiting filled", "eruptions filled"]
    drawn = plotting.plot_mixture(model, frame, ax=Figure().subplots()).collections[0].get_offsets()
    assert np.isfinite(np.ma.filled(drawn, np.nan)).all(axis=1).sum() == len(dots(ax)["both observed"])


@pytest.mark.parametrize("draw", [plotting.plot_mixture, plotting.plot_imputed])
def test_one_column_is_no_picture(draw, ax):
    X = load_faithful()[:, :1]
    with pytest.raises(ValueError, match=r"two columns, and X has one\. Try a histogram"):
        draw(mixture(X), X, ax=ax)


# ------------------------------------------------------------------------------------------------------ plot_selection

Found = namedtuple("Found", "best table criterion")


def found(criterion="bic", Ks=(1, 2, 3, 4), kinds=KINDS):
    """What select_mixture returns, with made-up numbers: each cell's differs."""
    fields = [("covariance_type", "U9"), ("n_components", int), (criterion, float), ("degenerate", bool)]
    values = 100 + 7.0 * np.random.default_rng(0).permutation(len(Ks) * len(kinds))
    cells = [(kind, K) for kind in kinds for K in Ks]
    table = np.array([(*cell, value, False) for cell, value in zip(cells, values)], fields)
    order = np.argsort(values)
    return Found(None, table[order[::-1] if criterion == "held_out" else order], criterion)


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


@pytest.mark.parametrize("criterion", ["bic", "icl", "held_out"])
def test_each_covariance_type_is_a_line_over_the_components(criterion, ax):
    selection = found(criterion)
    lines = lines_of(plotting.plot_selection(selection, ax=ax))
    for kind in KINDS:
        K, height = lines[kind].get_data()
        value = {row["n_components"]: row[criterion] for row in selection.table if row["covariance_type"] == kind}
        assert K.tolist() == [1, 2, 3, 4]
        assert_allclose(height + selection.table[criterion][0], [value[k] for k in K])
    assert len({lines[kind].get_color() for kind in KINDS}) == len({lines[kind].get_marker() for kind in KINDS}) == 4


@pytest.mark.parametrize(
    ("criterion", "label"),
    [
        ("bic", "BIC, less the best's (lower is better)"),
        ("icl", "ICL, less the best's (lower is better)"),
        ("held_out", "held-out nats per row, less the best's (higher is better)"),
    ],
)
def test_the_label_says_which_way_is_better(criterion, label, ax):
    plotting.plot_selection(found(criterion), ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("number of components", label)


def test_the_best_is_ringed_and_named(ax):
    selection = found()
    kind, K, value, _ = selection.table[0]
    lines = lines_of(plotting.plot_selection(selection, ax=ax))
    ring = lines.pop(f"best: {kind}, {K} ({value:g})")
    assert ring.get_xydata().tolist() == [[K, 0]]
    assert [K, 0] in lines[kind].get_xydata().tolist()
    assert ring.get_label() in [t.get_text() for t in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("field", "value"), [("bic", np.nan), ("degenerate", True)])
def test_a_failed_or_degenerate_fit_leaves_a_gap_in_its_line_alone(ax, field, value):
    table = found().table
    table[field][-3:] = value
    lines = lines_of(plotting.plot_selection(Found(None, table, "bic"), ax=ax))
    gaps = {(kind, K) for kind in KINDS for K, y in lines[kind].get_xydata() if np.isnan(y)}
    assert gaps == {(row["covariance_type"], row["n_components"]) for row in table[-3:]}


def test_a_type_looks_the_same_whatever_others_are_drawn(ax):
    every, one = (
        lines_of(plotting.plot_selection(found(kinds=kinds), ax=Figure().subplots()))["diag"]
        for kinds in (KINDS, ["diag"])
    )
    assert (every.get_color(), every.get_marker()) == (one.get_color(), one.get_marker())
    assert set(lines_of(plotting.plot_selection(found(kinds=["diag"]), ax=ax))) & set(KINDS) == {"diag"}


@pytest.mark.parametrize(("Ks", "ticks"), [((3,), [3]), ((2, 4, 16), [2, 4, 16]), (range(1, 61), None)])
def test_the_ticks_are_numbers_that_were_tried(Ks, ticks, ax):
    plotting.plot_selection(found(Ks=Ks), ax=ax)
    got = ax.get_xticks().tolist()
    assert got == ticks if ticks else len(got) <= 13 and set(got) <= set(Ks)
    assert all(line.get_marker() != "None" for line in ax.lines)  # one number of components has no line to show
    ax.figure.canvas.draw()


def test_what_select_mixture_returns_is_drawn(ax):
    selection = lvm.select_mixture(load_faithful(), [1, 2, 3], ["tied", "diag"], random_state=0)
    lines = lines_of(plotting.plot_selection(selection, ax=ax))
    assert list(lines) == ["tied", "diag", "best: tied, 3 (2314.3)"]
    assert lines["tied"].get_ydata()[2] == 0 < min(lines["diag"].get_ydata())


# --------------------------------------------------------------------------------------------------------- plot_scores


def ppca(X, n_components=2, **options):
    return lvm.ProbabilisticPCA(n_components, random_state=0, **options).fit(X)


def curves(ax):
    """The ellipses (n,points,2) of the rows, in the order of the classes, of each those without gaps first."""
    every = [path.vertices for c in ax.collections if isinstance(c, PolyCollection) for path in c.get_paths()]
    return np.array(every).reshape(-1, *every[0].shape)


def means(ax):
    """The dots (n,2), in the same order."""
    found = [c.get_offsets() for c in ax.collections if not isinstance(c, PolyCollection)]
    return np.concatenate([dots for dots in found if len(dots)])


@pytest.mark.parametrize("dimensions", [(0, 1), (2, 0)])
def test_an_ellipse_holds_68_percent_of_the_posterior_and_a_dot_is_its_mean(dimensions, ax):
    X = with_gaps(load_iris())
    model = ppca(X, 3)
    plotting.plot_scores(model, X, dimensions=dimensions, ax=ax)
    order = np.argsort(np.isnan(X).any(axis=1), kind="stable")
    z, C = (a[order] for a in model.posterior(X))
    assert_allclose(means(ax), z[:, dimensions])
    assert len(curves(ax)) == 150
    for points, mean, Sigma in zip(curves(ax), z[:, dimensions], C):
        out = points - mean
        distance2 = np.einsum("ni,ij,nj->n", out, np.linalg.inv(Sigma[np.ix_(dimensions, dimensions)]), out)
        assert_allclose(scipy.stats.chi2(2).cdf(distance2), 0.68, rtol=1e-9)


def test_rows_with_gaps_have_hollow_dots_and_a_row_of_gaps_alone_the_priors_ellipse(ax):
    X = load_iris()
    X[3, 2], X[5] = np.nan, np.nan
    plotting.plot_scores(ppca(X), X, ax=ax)
    filled, hollow, legend = [c for c in ax.collections if not isinstance(c, PolyCollection)]
    assert len(filled.get_offsets()) == 148
    assert (len(hollow.get_offsets()), hollow.get_facecolors()[0].tolist()) == (2, [1, 1, 1, 1])
    assert legend.get_label() == "hollow: gaps (2)"
    size = np.ptp(curves(ax), axis=1)
    assert_allclose(size[:148], size[:1].repeat(148, axis=0))
    assert (size[148] > 1.001 * size[0]).all()  # row 3
    assert_allclose(curves(ax)[149][[0, 12]], ax.lines[0].get_xydata()[[0, 25]], atol=0.1)
    assert_allclose(np.hypot(*curves(ax)[149].T), np.hypot(*ax.lines[0].get_xydata()[0]))


@pytest.mark.parametrize("kind", [list, np.array, pytest.param("Series", id="pandas")])
def test_classes_have_their_colours_and_counts(kind, ax):
    kind = pytest.importorskip("pandas").Series if kind == "Series" else kind
    X, y = load_iris(return_y=True)
    labels = kind([IRIS_SPECIES[k] for k in y])
    plotting.plot_scores(ppca(X), X, labels=labels, ax=ax)
    Z, shown = ppca(X).transform(X), dots(ax)
    colours = [
        c.get_facecolors()[0, :3] for c in ax.collections if c.get_label() in {f"{s} (50)" for s in IRIS_SPECIES}
    ]
    assert_allclose(colours, [to_rgb(c) for c in plotting.COLOURS[:3]])
    for k, name in enumerate(IRIS_SPECIES):
        assert_array_equal(shown[name], Z[y == k])
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == ["setosa (50)", "versicolor (50)", "virginica (50)", "prior, 68 %"]


def test_rows_without_a_label_are_a_class_of_their_own(ax):
    X, y = load_iris(return_y=True)
    plotting.plot_scores(ppca(X), X, labels=np.where(y == 1, np.nan, y), ax=ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "0.0 (50)",
        "2.0 (50)",
        "nan (50)",
        "prior, 68 %",
    ]
    assert len(means(ax)) == 150


def test_ten_classes_can_be_told_apart(ax):
    X, y = load_digits(return_y=True)
    plotting.plot_scores(ppca(X), X, labels=y, ax=ax)
    looks = [(*c.get_facecolors()[0], len(c.get_paths()[0])) for c in ax.collections if c.get_label()[0].isdigit()]
    assert len(set(looks)) == len(looks) == 10


def test_of_many_rows_the_same_ones_are_drawn_with_their_own_labels():
    X, y = load_digits(return_y=True)
    model = ppca(X)
    Z = model.transform(X)
    first, second = (plotting.plot_scores(model, X, labels=y, ax=Figure().subplots(), max_points=300) for _ in range(2))
    assert len(means(first)) == 300
    assert len(curves(first)) == plotting.ELLIPSES
    assert_array_equal(means(first), means(second))
    for k in range(10):
        assert {tuple(z) for z in dots(first)[str(k)]} <= {tuple(z) for z in Z[y == k]}


def test_axes_are_as_long_as_each_other_and_tell_their_part_of_the_variance(ax):
    X = load_iris()
    v = np.linalg.eigvalsh(np.cov(X.T))[::-1] / np.cov(X.T).trace()
    plotting.plot_scores(ppca(X, 3), X, dimensions=(1, 0), ax=ax)
    wanted = [f"dimension {i} ({100 * v[i]:.1f} % of the variance)" for i in (1, 0)]
    assert [ax.get_xlabel(), ax.get_ylabel()] == wanted
    assert ax.get_aspect() == 1


def test_scores_that_cannot_be_drawn_are_refused(ax):
    X = load_iris()
    with pytest.raises(
        ValueError, match=r"two latent dimensions, and the model has one\. Try a histogram of transform"
    ):
        plotting.plot_scores(ppca(X, 1), X, ax=ax)
    with pytest.raises(ValueError, match=r"dimensions must be two different numbers from 0 to 1, got \(0, 2\)\."):
        plotting.plot_scores(ppca(X), X, dimensions=(0, 2), ax=ax)
    with pytest.raises(ValueError, match=r"labels must be one for each of the 150 rows of X, got shape \(149,\)\."):
        plotting.plot_scores(ppca(X), X, labels=np.zeros(149), ax=ax)


# ---------------------------------------------------------------------------------------------------------- plot_scree


def test_variances_stand_on_the_eigenvalues_and_the_noise_is_the_mean_of_the_others(ax):
    X = load_iris()
    v = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    rings, variance, noise = plotting.plot_scree(ppca(X), ax=ax).lines
    assert_allclose(rings.get_xydata(), np.column_stack([[1, 2, 3, 4], v]))
    assert_allclose(variance.get_xydata(), rings.get_xydata()[:2])
    assert_allclose(noise.get_ydata(), v[2:].mean())
    assert noise.get_label() == "noise variance (0.0507)"
    assert ax.figure.axes == [ax]


def test_eigenvalues_that_are_zero_are_no_dots_at_rounding(ax):
    rings = plotting.plot_scree(ppca(load_digits(), 10), ax=ax).lines[0]  # 3 pixels are always blank
    assert len(rings.get_xdata()) == 61


def test_noise_of_each_column_is_shown_along_each_axis(ax):
    X = load_iris()
    model = ppca(X, noise="diagonal", tol=1e-3)
    _, variance, noise = plotting.plot_scree(model, ax=ax).lines
    u = model.components_
    assert_allclose(noise.get_ydata(), np.diag(u @ np.diag(model.noise_variance_) @ u.T))
    assert_allclose(variance.get_ydata() - noise.get_ydata(), (model.loadings_**2).sum(axis=0))


@pytest.mark.parametrize("place", ["subplots", "add_axes"])
def test_bic_is_drawn_below_in_the_room_of_the_axes_given(place):
    figure = Figure()
    ax = figure.subplots(1, 2)[1] if place == "subplots" else figure.add_axes([0.3, 0.2, 0.5, 0.6])
    room = ax.get_position()
    model = ppca(load_iris(), "bic")
    assert plotting.plot_scree(model, ax=ax) is ax
    below = figure.axes[-1]
    curve, ring = below.lines
    assert_allclose(curve.get_xydata(), np.column_stack([[1, 2, 3], model.bics_ - model.bics_.min()]))
    assert ring.get_xydata().tolist() == [[model.n_components_, 0]]
    assert ring.get_label() == f"best: 3 ({model.bic(load_iris()):.6g})"
    assert below.get_xlim() == ax.get_xlim()
    assert_allclose([ax.get_position().max, below.get_position().min], [room.max, room.min])
    assert below.get_position().y1 < ax.get_position().y0
    figure.canvas.draw()


def test_the_pca_of_scikit_learn_has_a_scree_too(ax):
    model = pytest.importorskip("sklearn.decomposition").PCA(2).fit(load_iris())
    variance, noise = plotting.plot_scree(model, ax=ax).lines
    assert_allclose(variance.get_ydata(), model.explained_variance_)
    assert_allclose(noise.get_ydata(), model.noise_variance_)


# ------------------------------------------------------------------------------------------------------- plot_held_out


def held_out():
    X = load_iris()
    gaps = with_gaps(X.copy())
    X[7:9] = np.nan  # of which nothing is known
    return X, gaps, np.isnan(gaps) & ~np.isnan(X)


def test_each_value_held_out_is_drawn_against_its_imputed_mean_and_deviation(ax):
    X, gaps, out = held_out()
    model = ppca(gaps)
    Sigma = model.get_covariance()
    plotting.plot_held_out(model, X, gaps, ax=ax)
    ends = [np.array(c.get_segments()) for c in ax.collections if hasattr(c, "get_segments")]
    for i in range(4):
        mean, sd = [], []
        for x in gaps[out[:, i]]:
            o = ~np.isnan(x)
            slope = np.linalg.solve(Sigma[np.ix_(o, o)], Sigma[o, i])
            mean.append(model.mean_[i] + slope @ (x - model.mean_)[o])
            sd.append(np.sqrt(Sigma[i, i] - slope @ Sigma[o, i]))
        mean, sd, true = np.array(mean), np.array(sd), X[out[:, i], i]
        assert_allclose(dots(ax)[f"column {i}"], np.column_stack([true, mean]), rtol=1e-9)
        bars = [np.column_stack([true, y]) for y in (mean - sd, mean + sd)]
        assert_allclose(ends[i], np.stack(bars, axis=1), rtol=1e-9)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts == [*(f"column {i} ({n})" for i, n in enumerate(out.sum(axis=0))), "equal"]


def test_the_title_has_the_errors_and_the_coverage(ax):
    X, gaps, out = held_out()
    model = ppca(gaps)
    mean, variance = model.impute(gaps, return_variance=True)
    error = (mean - X)[out] / np.sqrt(variance[out])
    rmse = [np.sqrt(np.mean((guess - X)[out] ** 2)) for guess in (mean, np.broadcast_to(model.mean_, X.shape))]
    assert rmse[0] < 0.5 * rmse[1]
    inside = [100 * np.mean(abs(error) < n) for n in (1, 2)]
    assert inside[0] < inside[1] < 100
    assert plotting.plot_held_out(model, X, gaps, ax=ax).get_title() == (
        f"RMSE {rmse[0]:#.3g}, of the columns' means {rmse[1]:#.3g}\n"
        f"{inside[0]:.0f} % within one standard deviation, {inside[1]:.0f} % within two"
    )


def test_two_thirds_of_the_values_lie_within_their_bars_where_the_model_is_right(ax):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000, 2)) @ rng.standard_normal((2, 6)) + 0.5 * rng.standard_normal((4000, 6))
    gaps = with_gaps(X.copy())
    title = plotting.plot_held_out(ppca(gaps), X, gaps, ax=ax).get_title()
    one, two = map(int, re.findall(r"(\d+) % within", title))
    assert abs(one - 68.3) < 3  # of 4800 values: 4 errors
    assert abs(two - 95.4) < 2


def test_many_columns_are_one_colour_and_of_many_values_some_are_drawn_and_some_have_bars():
    X = load_digits()[:300]
    gaps = with_gaps(X.copy())
    model = ppca(gaps, tol=1e-3)
    first, second = (
        plotting.plot_held_out(model, X, gaps, ax=Figure().subplots(), max_points=1000).collections for _ in range(2)
    )
    assert first[0].get_label() == f"64 columns ({np.isnan(gaps).sum()})"
    assert (len(first[0].get_offsets()), len(first[1].get_segments())) == (1000, plotting.ELLIPSES)
    assert_array_equal(first[0].get_offsets(), second[0].get_offsets())


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_values_held_out_of_a_frame_have_the_names_of_their_columns(library, ax):
    frames = pytest.importorskip(library)
    X, gaps, _ = held_out()
    X, gaps = (frames.DataFrame(dict(zip(["sl", "sw", "pl", "pw"], a.T))) for a in (X, gaps))
    plotting.plot_held_out(ppca(gaps), X, gaps, ax=ax)
    assert list(dots(ax)) == ["sl", "sw", "pl", "pw"]


def test_what_is_not_held_out_is_refused(ax):
    X, gaps = load_iris(), with_gaps(load_iris())
    model = ppca(gaps)
    for one, other in (gaps, X), (X, X):
        with pytest.raises(ValueError, match=r"Nothing is held out: gaps must have NaN where X has values\."):
            plotting.plot_held_out(model, one, other, ax=ax)
    with pytest.raises(ValueError, match=r"must be the same rows, got shapes \(149, 4\) and \(150, 4\)\."):
        plotting.plot_held_out(model, X[1:], gaps, ax=ax)


# ------------------------------------------------------------------------------------------------------- plot_decision


def machine(X, y, **options):
    return lvm.RelevanceVectorClassifier(gamma=0.5, random_state=0, **options).fit(X, y)


def petals(classes=(0, 1, 2)):
    X, y = load_iris(return_y=True)
    rows = np.isin(y, classes)
    return X[rows][:, 2:], np.array(IRIS_SPECIES)[y[rows]]


@functools.cache
def told(*classes):
    """X, y and a machine fitted to them, of these species."""
    X, y = petals(classes or (0, 1, 2))
    return X, y, machine(X, y)


def ground(ax):
    """The colours (n,n,3) and the points (n,n,2) of the picture's ground."""
    (image,) = ax.images
    assert image.origin == "lower"
    left, right, bottom, top = image.get_extent()
    rgb = np.asarray(image.get_array())
    return rgb, np.stack(np.meshgrid(np.linspace(left, right, len(rgb)), np.linspace(bottom, top, len(rgb))), axis=-1)


@pytest.mark.parametrize("classes", [(1, 2), (0, 1, 2)])
def test_the_ground_has_the_colour_of_the_class_predicted_there_and_is_paler_the_less_sure(classes, ax):
    X, y, model = told(*classes)
    rgb, at = ground(plotting.plot_decision(model, X, y, ax=ax))
    P = model.predict_proba(at.reshape(-1, 2)).reshape(*at.shape[:2], -1)
    colours = np.array([to_rgb(plotting.COLOURS[k]) for k in range(len(classes))])
    ink, full = 1 - rgb, 1 - colours[P.argmax(axis=2)]
    strength = (ink * full).sum(axis=2) / (full * full).sum(axis=2)
    assert_allclose(ink, strength[:, :, None] * full, atol=1e-9)  # of this colour, and no other
    by_surety = strength.ravel()[np.argsort(P.max(axis=2), axis=None)]
    assert (np.diff(by_surety) > -1e-9).all()
    assert by_surety[0] < 0.1 < 0.3 < by_surety[-1]


def test_lines_of_two_classes_are_where_the_second_has_probability_a_quarter_a_half_and_three_quarters(ax):
    X, y, model = told(1, 2)
    plotting.plot_decision(model, X, y, ax=ax)
    drawn = [c for c in ax.collections if type(c).__name__ == "QuadContourSet"]
    assert [c.get_linestyles()[0][1] is None for c in drawn] == [True, False, False]  # the border is solid
    for c, p in zip(drawn, (0.5, 0.25, 0.75)):
        along = model.predict_proba(np.concatenate([path.vertices for path in c.get_paths()]))[:, 1]
        assert_allclose(along, p, atol=0.01)


def test_borders_of_three_classes_are_where_two_are_equally_probable(ax):
    X, y, model = told()
    plotting.plot_decision(model, X, y, ax=ax)
    borders = [c for c in ax.collections if type(c).__name__ == "QuadContourSet" and c.get_linestyles()[0][1] is None]
    P = np.sort(model.predict_proba(np.concatenate([p.vertices for c in borders for p in c.get_paths()])), axis=1)
    assert_allclose(P[:, 2], P[:, 1], atol=0.02)


def test_rows_are_drawn_by_class_and_relevance_vectors_are_ringed(ax):
    X, y, model = told()
    legend = plotting.plot_decision(model, X, y, ax=ax).get_legend()
    for name, points in dots(ax).items():
        assert_array_equal(points, X[y == name])
    rings = lines_of(ax)[f"relevance vectors ({model.n_relevant_})"]
    assert_array_equal(rings.get_xydata(), model.relevance_vectors_)
    assert [t.get_text() for t in legend.get_texts()][:3] == [f"{name} (50)" for name in IRIS_SPECIES]


def test_other_rows_than_those_of_the_fit_do_not_hide_a_relevance_vector(ax):
    X, y, model = told(1, 2)
    _, at = ground(plotting.plot_decision(model, X[:3], y[:3], ax=ax))
    assert (at[0, 0] < model.relevance_vectors_).all()
    assert (at[-1, -1] > model.relevance_vectors_).all()


def test_any_classifier_of_two_columns_has_a_picture_without_rings(ax):
    X, y = petals()
    linear = lvm.VariationalLogisticRegression().fit(X, y)
    plotting.plot_decision(linear, X, y, ax=ax)
    assert not [label for label in lines_of(ax) if "vectors" in label]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_classifier_of_a_frame_is_asked_with_its_names(library, ax, recwarn):
    X, y = petals()
    frame = pytest.importorskip(library).DataFrame(dict(zip(["length", "width"], X.T)))
    model = machine(frame, y)
    plotting.plot_decision(model, frame, y, ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")
    assert not [w for w in recwarn if "feature names" in str(w.message)]


def test_more_classes_than_colours_have_their_names_in_the_picture(ax):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 20)
    X = 3 * np.stack([y % 3, y // 3], axis=1) + 0.5 * rng.standard_normal((160, 2))
    model = machine(X, y)
    plotting.plot_decision(model, X, y, ax=ax)
    assert [t.get_text() for t in ax.texts] == [str(k) for k in range(8)]
    assert_array_equal(model.predict(np.array([t.get_position() for t in ax.texts])), np.arange(8))


def test_many_rows_of_a_decision_are_thinned_and_all_are_counted(ax):
    X, y, model = told(1, 2)
    plotting.plot_decision(model, X, y, ax=ax, max_points=30)
    assert sum(map(len, dots(ax).values())) == 30
    assert ax.get_legend().get_texts()[0].get_text() == "versicolor (50)"


def test_decisions_that_cannot_be_drawn_are_refused(ax):
    X, y, model = told()
    with pytest.raises(ValueError, match=r"shows two columns, and X has 4\. Try a model of two of them\."):
        plotting.plot_decision(model, load_iris(), y, ax=ax)
    with pytest.raises(ValueError, match=r"one label for each of the 150 rows, got shape \(149,\)"):
        plotting.plot_decision(model, X, y[1:], ax=ax)
    with pytest.raises(ValueError, match=r"labels \['rose'\] that are not among the classes \['setosa', 'versicolor'"):
        plotting.plot_decision(model, X, np.where(y == "setosa", "rose", y), ax=ax)
    assert not ax.has_data()


# ------------------------------------------------------------------------------------------------------ plot_relevance


def weights_shown(ax):
    """Mean, and ends of the bar, of each weight that is drawn, by its column's name: one a class."""
    names = {round(place): label.get_text() for place, label in zip(ax.get_yticks(), ax.get_yticklabels())}
    found = {name: [] for name in names.values()}
    for bars in ax.containers:
        if type(bars).__name__ == "BarContainer" and len(bars):
            ends = bars.errorbar.lines[2][0].get_segments()
            for patch, end in zip(bars, ends):
                place = patch.get_y() + patch.get_height() / 2
                found[names[round(place)]].append((patch.get_width(), *end[:, 0]))
    return found


def noisy(n=300):
    """Two columns that matter, in different units, and four that do not."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 6)) * [1, 100, 1, 1, 1, 1] + 5
    return X, (X[:, 0] - 5 - (X[:, 1] - 5) / 50 + 0.5 * rng.logistic(size=n) > 0).astype(int)


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("per_deviation", [False, True])
def test_weights_have_bars_of_a_posterior_deviation_and_the_largest_is_on_top(covariance, per_deviation, ax):
    X, y = noisy()
    model = lvm.VariationalLogisticRegression(covariance=covariance).fit(X, y)
    plotting.plot_relevance(model, X if per_deviation else None, ax=ax)
    shown = weights_shown(ax)
    C = model.covariance_[0]
    variance = np.zeros(6)
    variance[model.relevance_] = (C if C.ndim == 1 else np.diag(C))[:-1]
    unit = X.std(axis=0) if per_deviation else np.ones(6)
    mean, sd = model.coef_[0] * unit, np.sqrt(variance) * unit
    for i in model.relevance_:
        assert_allclose(shown[f"column {i}"], [(mean[i], mean[i] - sd[i], mean[i] + sd[i])], rtol=1e-9)
    order = [int(label.get_text().split()[1]) for label in ax.get_yticklabels()]
    assert (np.diff(abs(mean[order])) <= 0).all()
    assert order[0] == int(per_deviation)  # column 1 has the larger weight in units that compare
    assert ax.yaxis_inverted()
    assert ("per standard deviation of the column" in ax.get_xlabel()) == per_deviation


def test_pruned_columns_are_grey_crosses_at_zero_and_counted(ax):
    X, y = noisy()
    model = lvm.VariationalLogisticRegression().fit(X, y)
    pruned = set(range(6)) - set(model.relevance_)
    assert pruned
    plotting.plot_relevance(model, ax=ax)
    grey = {label.get_text() for label in ax.get_yticklabels() if label.get_color() == "#999999"}
    assert grey == {f"column {i}" for i in pruned} == {name for name, w in weights_shown(ax).items() if not w}
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert crosses.get_xdata().tolist() == [0] * len(pruned)
    assert ax.get_title() == f"{6 - len(pruned)} relevant, {len(pruned)} pruned"


def test_more_than_two_classes_have_a_colour_each_and_prune_for_themselves(ax):
    X, y = load_iris(return_y=True)
    model = lvm.VariationalLogisticRegression().fit(X, np.array(IRIS_SPECIES)[y])
    plotting.plot_relevance(model, names=lvm.datasets.IRIS_COLUMNS, ax=ax)
    shown = weights_shown(ax)
    for i, name in enumerate(lvm.datasets.IRIS_COLUMNS):
        assert_allclose([w[0] for w in shown[name]], model.coef_[model.coef_[:, i] != 0, i])
    crosses = sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == "x")
    assert crosses == (model.coef_ == 0).sum() > 0
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(IRIS_SPECIES)
    assert ax.get_title() == f"{model.n_relevant_} relevant, {4 - model.n_relevant_} pruned"  # of a column all classes


def test_of_many_columns_the_largest_are_shown_and_the_rest_counted(ax):
    X, y = noisy()
    model = lvm.VariationalLogisticRegression().fit(X, y)
    plotting.plot_relevance(model, max_bars=2, ax=ax)
    largest = np.argsort(-abs(model.coef_[0]))[:2]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"column {i}" for i in largest]
    assert ax.get_title().endswith("pruned (4 not shown)")


def test_weights_of_a_machine_stand_beside_the_rows_of_its_vectors(ax):
    x = np.linspace(-10, 10, 50)[:, None]
    model = lvm.RelevanceVectorRegressor(gamma=0.1).fit(x, np.sinc(x[:, 0] / np.pi))
    plotting.plot_relevance(model, ax=ax)
    sd = np.sqrt(np.diag(model.covariance_))[:-1]
    shown = weights_shown(ax)
    assert len(shown) == model.n_relevant_
    for i, w, s in zip(model.relevance_, model.coef_, sd):
        assert_allclose(shown[f"row {i}"], [(w, w - s, w + s)], rtol=1e-9)
    assert ax.get_title() == f"{model.n_relevant_} relevance vectors"


def test_a_frame_names_the_columns_of_the_weights(ax):
    X, y = noisy()
    frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abcdef"))
    plotting.plot_relevance(lvm.VariationalLogisticRegression().fit(frame, y), frame, ax=ax)
    assert {label.get_text() for label in ax.get_yticklabels()} == set("abcdef")


def test_weights_that_cannot_be_drawn_are_refused(ax):
    X, y = noisy()
    model = lvm.VariationalLogisticRegression().fit(X, y)
    with pytest.raises(lvm.NotFittedError, match=r"has relevance_, got VariationalLogisticRegression\. Call fit"):
        plotting.plot_relevance(lvm.VariationalLogisticRegression(), ax=ax)
    with pytest.raises(ValueError, match=r"names must be 6, one for each weight, got 2\."):
        plotting.plot_relevance(model, names=["a", "b"], ax=ax)
    with pytest.raises(ValueError, match=r"X must have the 6 columns of the fit, got 5\."):
        plotting.plot_relevance(model, X[:, 1:], ax=ax)
    with pytest.raises(ValueError, match=r"the weights of RelevanceVectorClassifier have no unit"):
        plotting.plot_relevance(machine(X[:40, :2], y[:40]), X[:40, :2], ax=ax)


# ---------------------------------------------------------------------------------------------------- plot_reliability


def test_two_classes_are_binned_by_the_probability_of_the_second_as_scikit_learn_has_it():
    metrics, curve = pytest.importorskip("sklearn.metrics"), pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.7, 500)
    y = rng.random(500) < p**2  # too sure
    found = plotting.calibration(np.column_stack([1 - p, p]), y, n_bins=8)
    frequencies, confidences = curve.calibration_curve(y, p, n_bins=8)
    assert_allclose(found.frequencies, frequencies)
    assert_allclose(found.confidences, confidences)
    assert_array_equal(found.counts, np.histogram(p, 8, (0, 1))[0])
    assert_allclose(found.ece, found.counts @ abs(frequencies - confidences) / 500)
    assert_allclose(found.brier, metrics.brier_score_loss(y, p))


def test_more_classes_are_binned_by_the_probability_of_the_most_probable():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    P = rng.dirichlet([0.5, 0.5, 0.5], 400)
    y = np.array(["a", "b", "c"])[(rng.random(400)[:, None] > P.cumsum(axis=1)).sum(axis=1)]
    found = plotting.calibration(P, y, n_bins=5)
    top, right, ece = P.max(axis=1), np.array(list("abc"))[P.argmax(axis=1)] == y, 0
    for b in range(5):
        rows = (top >= b / 5) & (top < (b + 1) / 5)
        assert found.counts[b] == rows.sum()
        if rows.any():
            assert_allclose((found.confidences[b], found.frequencies[b]), (top[rows].mean(), right[rows].mean()))
            ece += rows.sum() / 400 * abs(right[rows].mean() - top[rows].mean())
        else:
            assert np.isnan(found.confidences[b])
            assert np.isnan(found.frequencies[b])
    assert_allclose(found.ece, ece)
    assert_allclose(found.brier, metrics.brier_score_loss(y, P, labels=list("abc")))


def test_sure_and_right_is_perfect_and_sure_and_wrong_the_worst():
    P = np.eye(2)[[0, 1, 1, 0]]
    right, wrong = plotting.calibration(P, [0, 1, 1, 0]), plotting.calibration(P, [1, 0, 0, 1])
    assert (right.ece, right.brier, wrong.ece, wrong.brier) == (0, 0, 1, 1)
    assert right.counts[[0, -1]].tolist() == [2, 2]  # 1 belongs to the last bin


def test_a_class_that_y_lacks_is_known_from_classes():
    P = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    with pytest.raises(ValueError, match=r"of 3 classes, got 2\. Try classes=model\.classes_\."):
        plotting.calibration(P, ["c", "a"])
    assert_allclose(plotting.calibration(P, ["c", "a"], classes=["a", "b", "c"]).frequencies[[5, 6]], 1)


@pytest.mark.parametrize("P", [[[0.5, 0.6]], [[-0.1, 1.1]], [[1.0]]])
def test_what_are_no_probabilities_is_refused(P):
    with pytest.raises(ValueError, match=r"with rows that sum to 1\. Try model\.predict_proba\(X\)"):
        plotting.calibration(P, [0], classes=[0, 1])


def test_dots_stand_at_frequencies_and_below_them_the_numbers_of_rows(ax):
    X, y = petals((1, 2))
    P = lvm.VariationalLogisticRegression().fit(X, y).predict_proba(X)
    found = plotting.calibration(P, y, n_bins=5)
    seen = found.counts > 0
    assert plotting.plot_reliability(P, y, n_bins=5, ax=ax) is ax
    below = ax.figure.axes[-1]
    assert_allclose(ax.lines[1].get_xydata(), np.column_stack([found.confidences, found.frequencies])[seen])
    assert [bar.get_height() for bar in below.patches] == found.counts.tolist()
    assert_allclose([(bar.get_x(), bar.get_width()) for bar in below.patches], [(b / 5, 0.2) for b in range(5)])
    assert below.get_xlim() == ax.get_xlim()
    assert ax.get_title() == f"ECE {found.ece:.3f}, Brier score {found.brier:.3f}, 100 rows"
    assert (ax.get_ylabel(), below.get_xlabel()) == ("frequency of virginica", "probability of virginica")


def test_two_thirds_of_the_dots_of_right_probabilities_lie_in_their_grey_bars():
    rng, inside = np.random.default_rng(0), []
    for _ in range(40):
        ax, p = Figure().subplots(), rng.random(1000)
        plotting.plot_reliability(np.column_stack([1 - p, p]), rng.random(1000) < p, ax=ax)
        (bars,) = [np.array(c.get_segments()) for c in ax.collections]
        dot = ax.lines[1].get_ydata()
        inside.append((bars[:, 0, 1] <= dot) & (dot <= bars[:, 1, 1]))
    assert abs(np.mean(inside) - 0.683) < 0.07  # of 400: 3 errors


# --------------------------------------------------------------------------------------------------------------- flows


@functools.cache
def flow(*layers, direction="normalising"):
    """A little trained flow of faithful: (layers and an affine one at the base)."""
    layers = layers or ("planar",) * 3
    options = {"layers": list(layers), "direction": direction, "max_epochs": 2, "random_state": 0}
    return lvm.PlanarFlow(len(layers), **options).fit(load_faithful())


@functools.cache
def energetic():
    return lvm.PlanarFlow(3, max_epochs=2, random_state=0).fit_target(lvm.targets.U1)


def picture(ax):
    """The numbers of an image, and its area."""
    (image,) = ax.images
    x0, x1, y0, y1 = image.get_extent()
    return image.get_array(), (x1 - x0) * (y1 - y0)


def test_the_picture_has_the_models_density_and_a_row_at_its_place(ax):
    X = load_faithful()
    p, area = picture(plotting.plot_flow(flow(), X=X, limits=[(-3, 11), (0, 140)], ax=ax))
    assert p.mean() * area == pytest.approx(1, abs=0.02)
    x, y = np.linspace(-3, 11, len(p)), np.linspace(0, 140, len(p))
    for i, j in (100, 90), (30, 77):
        assert p[j, i] == pytest.approx(np.exp(flow().score_samples([[x[i], y[j]]])[0]))
    assert_array_equal(ax.collections[0].get_offsets(), X)
    assert ax.get_title() == f"model, and 272 rows: {flow().score(X):.4g} nats per row"


def test_the_picture_holds_all_rows_or_else_nearly_all_draws():
    X = np.concatenate([load_faithful(), [[60.0, -500.0]]])
    x0, x1, y0, y1 = plotting.plot_flow(flow(), X=X).images[0].get_extent()
    assert x0 < X[:, 0].min() < X[:, 0].max() < x1
    assert y0 < X[:, 1].min() < X[:, 1].max() < y1
    x0, x1, y0, y1 = plotting.plot_flow(flow()).images[0].get_extent()
    x, y = flow().sample(2000).T
    assert 0.98 < np.mean((x0 < x) & (x < x1) & (y0 < y) & (y < y1)) <= 1
    assert np.mean((x0 + 0.2 * (x1 - x0) < x) & (x < x1 - 0.2 * (x1 - x0))) < 0.98


def test_the_target_is_beside_the_model_divided_by_its_integral_in_the_same_colours(ax):
    room = ax.get_position().width
    plotting.plot_flow(energetic(), lvm.targets.U1, limits=[(-4, 4)] * 2, ax=ax)
    left, right = ax.figure.axes
    assert left is ax
    assert left.get_position().x1 < right.get_position().x0
    assert left.get_position().width < room / 2
    (_, area), (p, _) = picture(left), picture(right)
    assert p.mean() * area == pytest.approx(1, abs=0.01)
    assert p.max() == pytest.approx(np.exp(lvm.targets.U1(np.array([[2.0, 0.0]]))[0][0] - 1.87750163), rel=0.01)
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, max(picture(left)[0].max(), p.max()))
    assert [a.get_title() for a in (left, right)] == ["model", "target"]


def test_a_target_without_log_z_is_divided_by_its_sum_over_the_picture(ax):
    far = lambda z: (1000 - 0.5 * (z**2).sum(axis=1), -z)  # 2 pi e^1000 would overflow
    plotting.plot_flow(energetic(), far, limits=[(-5, 5)] * 2, ax=ax)
    p, area = picture(ax.figure.axes[1])
    assert p.mean() * area == pytest.approx(1, abs=0.02)
    assert p.max() == pytest.approx(1 / (2 * np.pi), rel=0.02)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_flow_of_a_frame_has_its_names_and_is_asked_without_a_warning(library, ax):
    frame = pytest.importorskip(library).DataFrame(dict(zip(["eruptions", "waiting"], load_faithful().T)))
    model = lvm.PlanarFlow(1, max_epochs=1, random_state=0).fit(frame)
    plotting.plot_flow(model, X=frame, ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruptions", "waiting")
    assert model.feature_names_in_.tolist() == ["eruptions", "waiting"]
    plotting.plot_samples(model, frame, columns=("waiting", 0), ax=(ax := Figure().subplots()))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("waiting", "eruptions")
    assert plotting.plot_warp(model, ax=Figure().subplots())


def test_a_mixture_has_a_density_to_look_at_too(ax):
    X = load_faithful()
    p, area = picture(plotting.plot_flow(mixture(X), ax=ax))
    assert p.mean() * area == pytest.approx(1, abs=0.03)


def test_draws_are_those_of_the_model_over_the_rows(ax):
    X = load_iris()
    model = lvm.PlanarFlow(2, max_epochs=1, random_state=0).fit(X)
    rows, draws = plotting.plot_samples(model, X, columns=(2, 0), n_samples=50, ax=ax, max_points=99).collections
    assert_array_equal(draws.get_offsets(), model.sample(50)[:, [2, 0]])
    assert len(rows.get_offsets()) == 99
    assert {tuple(row) for row in np.ma.getdata(rows.get_offsets())} <= {tuple(row) for row in X[:, [2, 0]]}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["rows (150)", "draws (50)"]
    assert len(plotting.plot_samples(model, ax=Figure().subplots()).collections) == 1


@pytest.mark.parametrize("model", [mixture, lambda X: ppca(X)])
def test_other_models_can_draw_too(model, ax):
    X = load_iris()
    (draws,) = plotting.plot_samples(model(X), n_samples=4000, ax=ax).collections
    assert_allclose(np.ma.getdata(draws.get_offsets()).mean(axis=0), X[:, :2].mean(axis=0), atol=0.06)


def test_drawing_leaves_the_generator_of_the_model_alone(ax):
    model = copy.copy(flow()).set_params(random_state=np.random.default_rng(0))
    plotting.plot_flow(model, ax=ax)
    plotting.plot_samples(model, ax=ax)
    assert model.random_state.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("direction", ["normalising", "generative"])
def test_a_warp_goes_from_the_grid_of_z_through_all_layers_to_x(direction, ax):
    model = flow("planar", "radial", "affine", direction=direction)
    assert plotting.plot_warp(model, ax=ax) is ax
    kinds = ["affine", "planar", "radial", "affine"] if direction == "generative" else model.layers_[::-1]
    assert [a.get_title() for a in ax.figure.axes] == [
        "z",
        *(f"{i}: {kind}" for i, kind in enumerate(kinds[:3], 1)),
        f"4: {kinds[3]}, x",
    ]
    first, *_, last = (np.array(a.collections[0].get_segments()) for a in ax.figure.axes)
    z = (first - model.mean_) / model.scale_
    assert_allclose(model.transform(last.reshape(-1, 2)), z.reshape(-1, 2), atol=1e-9)
    one, two = np.linalg.norm(z[-2:], axis=2)
    assert_allclose(one, 1)
    assert_allclose(two, 2)
    assert np.linalg.norm(z, axis=2).max() == pytest.approx(3)
    assert {tuple(np.ptp(line, axis=0) > 1e-9) for line in z[:-2]} == {(True, False), (False, True)}


def test_of_many_layers_some_are_passed_over_and_neither_end(ax):
    plotting.plot_warp(flow(*["planar"] * 9), max_panels=4, ax=ax)
    assert [a.get_title() for a in ax.figure.axes] == ["z", "3: planar", "7: planar", "10: planar, x"]


def test_panels_of_a_warp_keep_to_the_room_of_the_axes():
    left, right = Figure().subplots(1, 2)
    edge = left.get_position().x1
    plotting.plot_warp(flow(), ax=left)
    assert max(a.get_position().x1 for a in left.figure.axes if a is not right) <= edge + 1e-9


@pytest.mark.parametrize("draw", [plotting.plot_flow, plotting.plot_warp])
def test_flows_that_are_no_picture_are_refused(draw, ax):
    with pytest.raises(lvm.NotFittedError, match=rf"{draw.__name__} needs a fitted model, got PlanarFlow\. Call fit"):
        draw(lvm.PlanarFlow(), ax=ax)
    model = lvm.PlanarFlow(1, max_epochs=1, random_state=0).fit(load_iris())
    with pytest.raises(ValueError, match=r"two columns, and the model has 4\. Try plot_samples"):
        draw(model, ax=ax)


def test_a_picture_of_rows_of_other_columns_is_refused(ax):
    with pytest.raises(ValueError, match=r"X must have the model's two columns, got 4\."):
        plotting.plot_flow(flow(), X=load_iris(), ax=ax)


# ------------------------------------------------------------------------------------------------ pictures of a VAE


@functools.cache
def vae(n_components=2, likelihood="bernoulli"):
    """After a few epochs on digits, between 0 and 1."""
    options = {"hidden_layer_sizes": (10,), "max_epochs": 3, "early_stopping": True, "random_state": 0}
    return lvm.VAE(n_components, likelihood=likelihood, **options).fit(load_digits() / 16)


@functools.cache
def uneven():
    """Of three units, of which the first varies least."""
    model = copy.deepcopy(vae(3))
    model.weights_["head"][:, :3] *= [0.1, 10, 20]
    return model


def sheet(ax, across, height=8, width=8, top=1):
    """The pictures (K,height,width) of the only image of `ax`, from left to right and then down."""
    (image,) = ax.images
    canvas = np.ma.filled(image.get_array(), np.nan)
    rows = [canvas[y + top : y + top + height] for y in range(0, len(canvas), height + top)]
    return np.array([row[:, x * (width + 1) :][:, :width] for row in rows for x in range(across)])


@pytest.mark.parametrize("model", [vae, lambda: vae(likelihood="autoencoder"), lambda: ppca(load_digits() / 16)])
def test_reconstructions_stand_below_their_rows(model, ax):
    X = load_digits()[:30] / 16
    plotting.plot_reconstructions(model(), X.tolist(), ax=ax, max_images=7)
    assert ax.images[0].get_array().shape == (2 * 9, 7 * 9 - 1)
    drawn = sheet(ax, 7).reshape(14, 64)
    assert_array_equal(drawn[:7], X[:7])
    assert_allclose(drawn[7:], model().inverse_transform(model().transform(X[:7])))
    data, from_model = ax.texts
    assert (data.get_text(), from_model.get_text()) == ("data", "model")
    assert (data.get_position()[1], from_model.get_position()[1]) == (4.5, 13.5)  # the middles of the two rows


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_reconstructions_are_taken_of_frames_and_of_any_shape(library, ax):
    frame = pytest.importorskip(library).DataFrame(dict(zip(map(str, range(64)), load_digits()[:3].T / 16)))
    model = lvm.VAE(2, hidden_layer_sizes=(10,), max_epochs=1, random_state=0).fit(frame)
    plotting.plot_reconstructions(model, frame, shape=(4, 16), ax=ax)
    assert_array_equal(sheet(ax, 3, 4, 16)[:3].reshape(3, 64), load_digits()[:3] / 16)
    with pytest.raises(ValueError, match=r"shape must be \(height, width\) of 64 pixels, got \(4, 4\)"):
        plotting.plot_reconstructions(model, frame, shape=(4, 4), ax=ax)


@pytest.mark.parametrize("model", [lambda: vae(3), lambda: ppca(load_digits(), 3)])
def test_decoded_pictures_are_means_given_draws_of_the_prior(model, ax):
    plotting.plot_decoded(model(), n_samples=6, ax=ax)
    Z = np.random.default_rng(0).standard_normal((6, 3))
    across = (ax.images[0].get_array().shape[1] + 1) // 9
    assert_allclose(sheet(ax, across)[:6].reshape(6, 64), model().inverse_transform(Z))


def test_the_manifold_has_the_normal_quantiles_to_the_right_and_upwards(ax):
    plotting.plot_manifold(vae(), n=5, ax=ax)
    canvas = np.ma.filled(ax.images[0].get_array(), np.nan)
    cells = canvas.reshape(5, 9, 5, 9).swapaxes(1, 2)
    z = scipy.stats.norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])
    for row in range(5):
        for column in range(5):
            expected = vae().decode([[z[column], z[4 - row]]])
            assert_allclose(cells[row, column, :8, :8].reshape(1, 64), expected, rtol=1e-6)
    assert np.isnan(cells[:, :, 8]).all()
    assert np.isnan(cells[:, :, :, 8]).all()
    for ticks, names in (ax.get_xticks(), ax.get_xticklabels()), (ax.get_yticks(), ax.get_yticklabels()):
        assert ticks.tolist() == [4.5, 13.5, 22.5, 31.5, 40.5]
        assert_allclose([float(t.get_text()) for t in names], z, atol=0.01)
    even = Figure().subplots()
    plotting.plot_manifold(vae(), n=12, ax=even)
    assert (even.get_xticks() / 9 - 0.5).tolist() == [0, 4, 7, 11]
    assert (ax.get_ylim(), ax.images[0].get_extent()) == ((0, 45), [0, 45, 0, 45])


@pytest.mark.parametrize(("options", "chosen"), [({}, [1, 2]), ({"dimensions": (2, 0)}, [2, 0])])
def test_the_latent_dots_are_posterior_means_of_the_two_dimensions_that_vary_most(options, chosen, ax):
    X, y = load_digits(return_y=True)
    X, y = X[y < 3] / 16, y[y < 3]
    plotting.plot_latent(uneven(), X, y, ax=ax, **options)
    Z = uneven().transform(X)
    i, j = chosen
    for k, group in enumerate(ax.collections):
        assert_array_equal(group.get_offsets(), Z[y == k][:, [i, j]])
    assert ax.get_xlabel() == f"dimension {i} (variance of the means {Z[:, i].var():.2g})"
    assert ax.get_ylabel() == f"dimension {j} (variance of the means {Z[:, j].var():.2g})"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0 (178)", "1 (182)", "2 (177)", "prior, 68 %"]
    assert_allclose(scipy.stats.chi2(2).cdf((ax.lines[0].get_xydata() ** 2).sum(axis=1)), 0.68)
    assert not ax.texts


def test_ten_classes_have_their_names_at_their_medians_and_some_of_many_rows_are_drawn(ax):
    X, y = load_digits(return_y=True)
    plotting.plot_latent(vae(), X / 16, y, ax=ax, max_points=500)
    assert sum(len(group.get_offsets()) for group in ax.collections) == 500
    assert "0 (178)" in [t.get_text() for t in ax.get_legend().get_texts()]
    Z = vae().transform(X / 16)
    assert [t.get_text() for t in ax.texts] == list("0123456789")
    assert_allclose([t.get_position() for t in ax.texts], [np.median(Z[y == k], axis=0) for k in range(10)])


def test_codes_of_an_autoencoder_have_no_prior_around_them(ax):
    X = load_digits() / 16
    plotting.plot_latent(vae(likelihood="autoencoder"), X, ax=ax)
    assert not ax.lines
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["rows (1797)"]
    for draw in plotting.plot_decoded, plotting.plot_manifold:
        with pytest.raises(ValueError, match=rf"{draw.__name__} needs a prior of z.*has none\. Try plot_reconstr"):
            draw(vae(likelihood="autoencoder"), ax=ax)


def test_units_stand_by_the_variance_of_their_means_beside_the_threshold(ax):
    X, model = load_digits() / 16, copy.deepcopy(vae(3))
    model.weights_["head"][:, :3] *= [10, 1e-2, 0]
    plotting.plot_active(model, X, ax=ax)
    active, collapsed, line = ax.lines
    variance = model.transform(X).var(axis=0)
    assert variance[2] < 1e-20 < 1e-8 < variance[1] < 0.01 < variance[0]
    assert_allclose(active.get_xydata(), [[0, variance[0]]])
    assert_allclose(collapsed.get_xydata(), [[1, variance[1]], [2, 1e-8]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["active (1)", "not active (2)", "0.01"]
    assert line.get_ydata()[0] == 0.01


def test_units_have_their_numbers_the_one_that_varies_most_first(ax):
    X = load_digits() / 16
    variance = uneven().transform(X).var(axis=0)
    plotting.plot_active(uneven(), X, ax=ax)
    assert [int(t.get_text()) for t in ax.get_xticklabels()] == [2, 1, 0] == np.argsort(-variance).tolist()
    assert_allclose(np.concatenate([line.get_ydata() for line in ax.lines[:-1]]), np.sort(variance)[::-1])


def test_latent_pictures_that_cannot_be_are_refused(ax):
    X = load_digits() / 16
    with pytest.raises(ValueError, match=r"two latent dimensions, and the model has 3\. Try plot_decoded"):
        plotting.plot_manifold(vae(3), ax=ax)
    with pytest.raises(ValueError, match=r"two latent dimensions, and the model has one\. Try a histogram"):
        plotting.plot_latent(vae(1), X, ax=ax)
    with pytest.raises(ValueError, match=r"y must be one label for each of the 1797 rows of X, got shape \(3,\)"):
        plotting.plot_latent(vae(), X, [1, 2, 3], ax=ax)
    with pytest.raises(ValueError, match=r"dimensions must be two different numbers from 0 to 1, got \(0, 2\)"):
        plotting.plot_latent(vae(), X, dimensions=(0, 2), ax=ax)


@pytest.mark.parametrize("draw", ["reconstructions", "latent", "active", "decoded", "manifold"])
def test_an_unfitted_vae_is_refused(draw, ax):
    data = () if draw in ("decoded", "manifold") else (load_digits(),)
    with pytest.raises(lvm.NotFittedError, match="fit"):
        getattr(plotting, f"plot_{draw}")(lvm.VAE(), *data, ax=ax)


# ------------------------------------------------------------------------------------------------ plot_bound and images


def test_the_bound_is_drawn_against_the_iteration(ax):
    model = mixture(load_faithful())
    line = plotting.plot_bound(model, ax=ax).lines[0]
    assert_array_equal(line.get_ydata(), model.lower_bounds_)
    assert_array_equal(line.get_xdata(), np.arange(1, model.n_iter_ + 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "lower bound, mean nats per row")


def test_the_bound_of_training_is_drawn_by_epochs_with_its_parts_below(ax):
    model = lvm.PlanarFlow(2, max_epochs=30, early_stopping=True, random_state=0).fit(load_faithful())
    assert plotting.plot_bound(model, ax=ax) is ax
    above, *below = ax.figure.axes
    assert above.get_position().y0 > below[0].get_position().y1 > below[1].get_position().y1
    training, held_out = above.lines
    assert_array_equal(training.get_ydata(), model.lower_bounds_)
    assert_array_equal(held_out.get_ydata(), model.history_["validation_lower_bound"])
    assert [t.get_text() for t in above.get_legend().get_texts()] == ["of training", "of rows held out"]
    assert [a.get_title("left") for a in below] == ["log prior", "log det"]
    assert_allclose(sum(a.lines[0].get_ydata() for a in below), model.lower_bounds_)
    assert [a.get_xlabel() for a in (above, *below)] == ["", "", "epoch"]


def test_a_vae_has_its_reconstruction_and_its_kl_those_of_rows_held_out_too(ax):
    plotting.plot_bound(vae(), ax=ax)
    bound, reconstruction, kl = ax.figure.axes
    assert [a.get_title("left") for a in (reconstruction, kl)] == ["reconstruction", "KL"]
    for i in 0, 1:  # of training, of rows held out
        parts = np.subtract(reconstruction.lines[i].get_ydata(), kl.lines[i].get_ydata())
        assert_allclose(parts, bound.lines[i].get_ydata())
        assert_array_equal(kl.lines[i].get_xdata(), [1, 2, 3])
    assert list(kl.lines[1].get_ydata()) == vae().history_["validation_kl"]


def test_an_autoencoder_has_its_error_alone(ax):
    plotting.plot_bound(vae(likelihood="autoencoder"), ax=ax)
    assert ax.figure.axes == [ax]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "lower bound, mean nats per row")


def test_parts_of_epochs_before_a_model_was_saved_are_left_out(tmp_path, ax):
    vae().save(tmp_path / "vae.safetensors")
    model = lvm.load(tmp_path / "vae.safetensors").set_params(early_stopping=False).partial_fit(load_digits() / 16)
    plotting.plot_bound(model, ax=ax)
    bound, reconstruction, kl = ax.figure.axes
    assert len(bound.lines[0].get_ydata()) == 4
    assert kl.lines[0].get_xdata().tolist() == reconstruction.lines[0].get_xdata().tolist() == [4]


def test_where_training_began_far_off_does_not_set_the_scale(ax):
    model = lvm.PlanarFlow(2, max_epochs=30, random_state=0).fit(load_faithful())
    model.lower_bounds_ = [-1e6, -1e5, -1e4, *model.lower_bounds_[3:]]
    low, high = plotting.plot_bound(model, ax=ax).get_ylim()
    late = model.lower_bounds_[3:]
    assert low < min(late) < max(late) < high
    assert high - low < 1.2 * np.ptp(late)


def test_a_model_from_a_file_has_its_bound_alone(tmp_path, ax):
    flow().save(tmp_path / "flow.safetensors")
    plotting.plot_bound(lvm.load(tmp_path / "flow.safetensors"), ax=ax)
    (line,) = ax.lines
    assert_array_equal(line.get_ydata(), flow().lower_bounds_)
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize(
    ("draw", "data"),
    [(plotting.plot_bound, ()), (plotting.plot_mixture, ([[1, 2]],)), (plotting.plot_imputed, ([[1, 2]],))],
)
def test_an_unfitted_model_is_refused(draw, data):
    with pytest.raises(lvm.NotFittedError, match="fit"):
        draw(lvm.GaussianMixture(), *data)


def test_an_unfitted_machine_is_refused():
    with pytest.raises(lvm.NotFittedError, match="fit"):
        plotting.plot_decision(lvm.RelevanceVectorClassifier(), *petals())
    with pytest.raises(lvm.NotFittedError, match="fit"):
        plotting.plot_relevance(lvm.RelevanceVectorRegressor())


@pytest.mark.parametrize(
    ("draw", "data"),
    [(plotting.plot_scree, ()), (plotting.plot_scores, ([[1, 2]],)), (plotting.plot_held_out, ([[1, 2]], [[1, 2]]))],
)
def test_an_unfitted_ppca_is_refused(draw, data):
    with pytest.raises(lvm.NotFittedError, match="fit"):
        draw(lvm.ProbabilisticPCA(), *data)


def test_a_missing_pixel_is_blue_and_not_paper(ax):
    X = load_digits()[:2]
    X[1, 20] = np.nan
    _, gaps = plotting.plot_images(X, ax=ax).images
    assert np.argwhere(~gaps.get_array().mask).tolist() == [[1 + 2, 8 + 1 + 4]]  # below one row, right of one picture
    assert_allclose(gaps.cmap(0)[:3], to_rgb(plotting.GAP))
    assert len(plotting.plot_images(X[:1], ax=Figure().subplots()).images) == 1


def test_images_stand_in_rows_with_nothing_lost_and_room_for_titles(ax):
    X = load_digits()[:7]
    canvas = plotting.plot_images(X, titles=list("abcdefg"), ax=ax).images[0].get_array().filled(np.nan)
    down, across = (np.isfinite(canvas).any(axis=a) for a in (1, 0))
    cells = canvas[np.ix_(down, across)].reshape(2, 8, 4, 8).swapaxes(1, 2).reshape(8, 64)
    assert_array_equal(cells[:7], X)
    assert np.isnan(cells[7]).all()
    assert (~down).nonzero()[0].tolist() == [0, 1, 10, 11]
    assert [t.get_text() for t in ax.texts] == list("abcdefg")


def test_images_may_stand_so_many_in_a_row(ax):
    X = load_digits()[:6]
    assert_array_equal(sheet(plotting.plot_images(X, across=2, ax=ax), 2).reshape(6, 64), X)
    with pytest.raises(ValueError, match="'across' parameter of plot_images must be an integer of at least 1"):
        plotting.plot_images(X, across=0, ax=ax)


def test_images_take_any_shape_and_say_when_it_does_not_fit(ax):
    assert plotting.plot_images(np.zeros((2, 3, 5)), ax=ax)
    assert plotting.plot_images(np.zeros((2, 15)), shape=(3, 5), ax=ax)
    with pytest.raises(ValueError, match=r"shape must be \(height, width\) of 15 pixels, got \(4, 4\)"):
        plotting.plot_images(np.zeros((2, 15)), ax=ax)


# ------------------------------------------------------------------------------------------------------- Bayesian nets


@functools.cache
def net():
    X, y = load_digits(return_y=True)
    options = {"hidden_layer_sizes": (12, 8), "learning_rate": 0.02, "early_stopping": True, "random_state": 0}
    return lvm.BayesianMLPClassifier(max_epochs=6, **options).fit(X[:900], y[:900].astype(str))


def unseen_digits(n=200):
    X, y = load_digits(return_y=True)
    return X[-n:], y[-n:].astype(str)


def wave(n=60):
    x = np.linspace(-3, 3, n)[:, None]
    return x, np.sin(2 * x[:, 0]) + 0.1 * np.random.default_rng(0).normal(size=n)


@functools.cache
def curve():
    options = {"activation": "tanh", "learning_rate": 0.02, "max_epochs": 8, "random_state": 0}
    return lvm.BayesianMLPRegressor(hidden_layer_sizes=(10,), **options).fit(*wave())


def test_weights_are_those_of_the_units_with_most_left_and_below_them_what_is_left(ax):
    plotting.plot_weights(net(), units=4, threshold=-1.0, ax=ax)
    mu, ratio = net().coefs_[0], net().log_ratio_[0][:-1]
    left = (ratio < -1.0).sum(axis=0)
    assert 0 < left.sum() < ratio.size
    texts = [t.get_text() for t in ax.texts]
    units = [int(t.removeprefix("unit ")) for t in texts[:4]]
    assert left[units].tolist() == sorted(left, reverse=True)[:4]
    assert texts[4:] == [f"{left[i]} left" for i in units]
    pictures = sheet(ax, 4, top=2).reshape(8, 64)
    assert_array_equal(pictures[:4], mu.T[units])
    assert_array_equal(pictures[4:], np.where(ratio < -1.0, mu, 0).T[units])
    largest = abs(mu[:, units]).max()
    assert ax.images[0].get_clim() == (-largest, largest)  # so that 0 is white
    assert ax.get_title() == (
        f"{left.sum()} of 768 weights of the first layer left at -1\n"
        f"red: up to {largest:.2g}, blue: down to {-largest:.2g}"
    )


def test_weights_of_a_pruned_net_are_all_there_in_the_upper_row(ax):
    pruned = copy.copy(net()).prune(-1.0)
    plotting.plot_weights(pruned, units=[3, 0], ax=ax)
    pictures = sheet(ax, 2, top=2).reshape(4, 64)
    assert_array_equal(pictures[:2], net().coefs_[0].T[[3, 0]])
    assert_array_equal(pictures[2:], copy.copy(net()).prune().coefs_[0].T[[3, 0]])


@pytest.mark.parametrize("units", [[12], [-1], [0.5], np.empty(0, int)])
def test_units_that_there_are_not_are_refused(units, ax):
    with pytest.raises(ValueError, match=r"units must be numbers from 0 to 11, got \["):
        plotting.plot_weights(net(), units=units, ax=ax)
    with pytest.raises(ValueError, match="'units' parameter of plot_weights must be an integer of at least 1"):
        plotting.plot_weights(net(), units=0, ax=ax)


def test_sparsity_is_drawn_as_what_is_left_of_each_layer_and_the_bound_below(ax):
    plotting.plot_sparsity(net(), ax=ax)
    bound = ax.figure.axes[1]
    names = ["sparsity_0", "sparsity_1", "sparsity_2", "sparsity"]
    for line, name in zip(ax.lines, names, strict=True):
        assert_allclose(line.get_ydata(), 100 * (1 - np.array(net().history_[name])))
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[0] == f"layer 0: {100 * (1 - net().history_['sparsity_0'][-1]):.3g} %"
    assert labels[3].startswith("all: ")
    training, held_out = bound.lines
    assert_array_equal(training.get_ydata(), net().lower_bounds_)
    assert_array_equal(held_out.get_ydata(), net().history_["validation_lower_bound"])
    assert bound.get_position().y1 < ax.get_position().y0


def test_epochs_before_a_net_was_saved_are_left_out_and_counted(tmp_path, ax):
    net().save(tmp_path / "net.safetensors")
    loaded = lvm.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="plot_sparsity needs history_, which model files do not keep"):
        plotting.plot_sparsity(loaded, ax=ax)
    X, y = unseen_digits()
    plotting.plot_sparsity(loaded.partial_fit(X, y), ax=ax)
    assert {tuple(line.get_xdata()) for a in ax.figure.axes for line in a.lines} == {(7,)}


def test_the_bound_of_a_net_has_its_likelihood_and_its_kl_and_no_sparsity(ax):
    plotting.plot_bound(net(), ax=ax)
    assert [a.get_title("left") for a in ax.figure.axes[1:]] == ["log likelihood", "KL"]


@pytest.mark.parametrize(("model", "rows", "name"), [(net, unseen_digits, "accuracy"), (curve, wave, "R²")])
def test_pruning_is_drawn_as_prune_and_score_have_it(model, rows, name, ax):
    thresholds = [-1.0, 0.5, 8.0]
    plotting.plot_pruning(model(), *rows(), thresholds=thresholds, ax=ax)
    pruned = [copy.copy(model()).prune(t) for t in (-1.0, 0.5, 3.0, 8.0)]  # 3, too, as nothing else was said
    scores = [p.score(*rows()) for p in pruned]
    whole, line, chosen = ax.lines
    assert set(whole.get_ydata()) == {model().score(*rows())}
    assert line.get_xdata().tolist() == [-1.0, 0.5, 3.0, 8.0]
    assert_array_equal(line.get_ydata(), scores)
    assert set(chosen.get_xdata()) == {3.0}
    left = [p.n_weights_ for p in pruned]
    assert left[0] < left[-1]
    below = ax.figure.axes[1]
    assert_array_equal(below.lines[0].get_ydata(), left)
    title = f"{name} {scores[2]:.3f} with {left[2]} of {model().n_weights_} weights, at 3"
    assert (ax.get_ylabel(), ax.get_title()) == (name, title)


def test_pruning_marks_the_threshold_that_the_net_is_pruned_at_and_keeps_it(ax):
    pruned = copy.copy(net()).prune(1.5)
    plotting.plot_pruning(pruned, *unseen_digits(), thresholds=[0], ax=ax)
    assert set(ax.lines[2].get_xdata()) == {1.5}
    assert ax.get_title().endswith(f"of {net().n_weights_} weights, at 1.5")
    assert pruned.threshold_ == 1.5


def test_thresholds_that_leave_no_weight_have_no_place_on_the_logarithmic_scale(ax):
    plotting.plot_pruning(curve(), *wave(), thresholds=[-50, 50], ax=ax)
    assert ax.figure.axes[1].lines[0].get_xdata().tolist() == [3, 50]
    low, high = ax.get_ylim()
    assert high - low < 1.2 * plotting.DROP  # R² of nothing is far below, and would squeeze the rest


def test_bands_are_two_deviations_of_the_mean_and_of_y(ax):
    x, y = wave()
    plotting.plot_bands(curve(), x, y, limits=(-4, 5), ax=ax)
    rows, wide, narrow = ax.collections
    assert_array_equal(rows.get_offsets(), np.column_stack([x, y]))
    (line,) = ax.lines
    at = line.get_xdata()
    assert (at[0], at[-1]) == (-4, 5)
    mean, sd = curve().predict(at[:, None], return_std=True)
    assert_array_equal(line.get_ydata(), mean)
    for band, deviation in (wide, sd), (narrow, np.sqrt(sd**2 - curve().noise_variance_)):
        ends = band.get_paths()[0].vertices
        lower, upper = ends[1 : len(at) + 1], ends[len(at) + 2 : -1][::-1]
        for curve_, sign in (lower, -1), (upper, 1):
            assert_allclose(curve_, np.column_stack([at, mean + 2 * sign * deviation]), atol=1e-12)
    mean, sd = curve().predict(x, return_std=True)
    part = np.mean(abs(y - mean) <= 2 * sd)
    assert 0.8 < part <= 1
    assert ax.get_title() == f"{100 * part:.0f} % of 60 rows within two standard deviations"


def test_bands_go_a_fifth_beyond_the_rows_and_are_those_of_any_regressor_with_noise(ax):
    x, y = wave()
    frame = pytest.importorskip("pandas").DataFrame({"time": x[:, 0]})
    model = lvm.RelevanceVectorRegressor(gamma=1.0).fit(frame, y)
    plotting.plot_bands(model, frame, y, ax=ax)
    assert_allclose(ax.lines[0].get_xdata()[[0, -1]], [-4.2, 4.2])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "y")


def test_bands_want_one_column(ax):
    with pytest.raises(ValueError, match="The picture shows one column, and X has 4"):
        plotting.plot_bands(curve(), load_iris(), np.zeros(150), ax=ax)


@pytest.mark.parametrize(
    ("draw", "data"),
    [
        (plotting.plot_weights, ()),
        (plotting.plot_sparsity, ()),
        (plotting.plot_pruning, ([[1, 2]], [1])),
        (plotting.plot_bands, ([[1], [2]], [1, 2])),
    ],
)
def test_an_unfitted_net_is_refused(draw, data, ax):
    with pytest.raises(lvm.NotFittedError, match="fit"):
        draw(lvm.BayesianMLPRegressor(), *data, ax=ax)


# ----------------------------------------------------------------------------------------------------------- gradients


def bowl(z):
    return -0.5 * (z**2).sum(axis=1), -z


@functools.cache
def compared(scale=0.5, estimators=lvm.gradients.ESTIMATORS):
    q = lvm.distributions.Normal([0.0, 0.0], scale)
    return lvm.gradients.compare(bowl, q, 2000, estimators, random_state=0)


@functools.cache
def fitted():
    q = lvm.distributions.Normal([3.0, 3.0], 0.2)
    options = {"max_epochs": 12, "n_epochs_no_change": None, "random_state": 0}
    return lvm.gradients.fit_q(bowl, q, n_samples=10, **options)


def test_each_estimator_has_a_dot_at_its_variance_which_stands_beside_its_name(ax):
    plotting.plot_gradient_variance(compared(), ax=ax)
    found = {name: g.total_variance for name, g in compared().gradients.items()}
    assert len(ax.lines) == len(found) == 6
    assert [line.get_xdata()[0] for line in ax.lines] == list(found.values())
    assert [line.get_ydata()[0] for line in ax.lines] == ax.get_yticks().tolist()
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == [f"{name.replace('_', ' ')}, {variance:.3g}" for name, variance in found.items()]
    assert ax.get_xscale() == "log"
    assert ax.yaxis_inverted()  # the first one above


def test_what_is_rounding_alone_has_no_dot_and_is_called_0(ax):
    gradients = dict(compared(1.0).gradients)  # q is the posterior
    assert gradients["path"].total_variance < 1e-25
    gradients["path"] = gradients["path"]._replace(variance={"mean": np.array([1e-28, 0])})
    plotting.plot_gradient_variance(compared(1.0)._replace(gradients=gradients), ax=ax)
    assert np.isnan(ax.lines[-1].get_xdata()).all()
    assert ax.get_yticklabels()[-1].get_text() == "path, 0"
    bottom, top = sorted(ax.get_ylim())
    assert bottom < ax.get_yticks().min() < ax.get_yticks().max() < top  # it keeps its place


def test_variances_of_several_comparisons_are_lines_over_numbers_with_gaps(ax):
    some = compared(2.0, ("reparameterisation",))
    several = {0.5: compared(0.5), 1: compared(1.0), np.float32(2): some}
    plotting.plot_gradient_variance(several, ax=ax)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "1", "2.0"]
    lines = {line.get_label(): line for line in ax.lines}
    through, path = lines["reparameterisation"], lines["path, 0 where not drawn"]
    assert through.get_xdata().tolist() == [0.5, 1, 2]
    assert through.get_ydata().tolist() == [c.gradients["reparameterisation"].total_variance for c in several.values()]
    assert path.get_ydata()[0] == compared(0.5).gradients["path"].total_variance
    assert np.isnan(path.get_ydata()[1:]).all()  # at 1 it is 0, at 2 nobody asked
    assert np.isnan(lines["score"].get_ydata()).tolist() == [False, False, True]  # and that is not called 0
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 6


def test_words_stand_side_by_side(ax):
    plotting.plot_gradient_variance({"narrow": compared(0.5), "wide": compared(2.0)}, ax=ax)
    assert ax.lines[0].get_xdata().tolist() == ax.get_xticks().tolist() == [0, 1]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["narrow", "wide"]
    assert ax.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("given", "name"),
    [({}, "an empty dict"), (lambda: compared().gradients["path"], "Gradient"), (lambda: [compared()], "list")],
)
def test_what_is_no_comparison_makes_no_picture(given, name, ax):
    match = f"wants what lvm.gradients.compare returned, or a dict of these, got {name}\\."
    with pytest.raises(TypeError, match=match):
        plotting.plot_gradient_variance(given() if callable(given) else given, ax=ax)


def test_the_bound_of_fit_q_has_a_band_of_two_standard_errors_that_is_in_sight(ax):
    plotting.plot_bound(fitted(), ax=ax)
    (line,), (band,) = ax.lines, ax.collections
    bound, error = (np.array(fitted().history[name]) for name in ("lower_bound", "lower_bound_error"))
    assert_array_equal(line.get_ydata(), bound)
    assert line.get_xdata().tolist() == list(range(1, 13))
    ends = band.get_paths()[0].vertices
    assert_allclose(ends[1:13, 1], bound - 2 * error)
    assert_allclose(ends[14:-1, 1][::-1], bound + 2 * error)
    low, high = ax.get_ylim()
    assert low < min((bound - 2 * error)[1:])
    assert max((bound + 2 * error)[1:]) < high
    assert low > bound[0]  # where it began sets no scale
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["of training", "two standard errors"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "lower bound, nats")


# ------------------------------------------------------------------------------------------------------------ manners

DRAWINGS = {
    "mixture": lambda ax: plotting.plot_mixture(mixture(load_faithful()), load_faithful(), ax=ax),
    "imputed": lambda ax: plotting.plot_imputed(mixture(load_faithful()), with_gaps(load_faithful()), ax=ax),
    "selection": lambda ax: plotting.plot_selection(found(), ax=ax),
    "scores": lambda ax: plotting.plot_scores(ppca(load_iris()), load_iris(), ax=ax),
    "scree": lambda ax: plotting.plot_scree(ppca(load_iris(), "bic"), ax=ax),
    "held out": lambda ax: plotting.plot_held_out(ppca(load_iris()), load_iris(), with_gaps(load_iris()), ax=ax),
    "decision": lambda ax: plotting.plot_decision(told()[2], *petals(), ax=ax),
    "relevance": lambda ax: plotting.plot_relevance(told()[2], ax=ax),
    "reliability": lambda ax: plotting.plot_reliability(np.eye(2)[[0, 1, 1]], [0, 1, 0], ax=ax),
    "flow": lambda ax: plotting.plot_flow(flow(), X=load_faithful(), ax=ax),
    "flow and target": lambda ax: plotting.plot_flow(energetic(), lvm.targets.U1, ax=ax),
    "samples": lambda ax: plotting.plot_samples(flow(), load_faithful(), ax=ax),
    "warp": lambda ax: plotting.plot_warp(flow(), ax=ax),
    "bound": lambda ax: plotting.plot_bound(mixture(load_faithful()), ax=ax),
    "bound and parts": lambda ax: plotting.plot_bound(flow(), ax=ax),
    "bound of fit_q": lambda ax: plotting.plot_bound(fitted(), ax=ax),
    "images": lambda ax: plotting.plot_images(load_digits()[:3], ax=ax),
    "reconstructions": lambda ax: plotting.plot_reconstructions(vae(), load_digits() / 16, ax=ax),
    "decoded": lambda ax: plotting.plot_decoded(vae(), ax=ax),
    "manifold": lambda ax: plotting.plot_manifold(vae(), n=3, ax=ax),
    "latent": lambda ax: plotting.plot_latent(vae(), load_digits() / 16, ax=ax),
    "active": lambda ax: plotting.plot_active(vae(), load_digits() / 16, ax=ax),
    "weights": lambda ax: plotting.plot_weights(net(), ax=ax),
    "sparsity": lambda ax: plotting.plot_sparsity(net(), ax=ax),
    "pruning": lambda ax: plotting.plot_pruning(net(), *unseen_digits(20), thresholds=[-50], ax=ax),
    "bands": lambda ax: plotting.plot_bands(curve(), *wave(), ax=ax),
    "gradient": lambda ax: plotting.plot_gradient_variance(compared(), ax=ax),
    "gradients": lambda ax: plotting.plot_gradient_variance({1: compared(), 2: compared(1.0)}, ax=ax),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_the_axes_given_are_used_and_pyplot_is_left_alone(draw, ax):
    before = dict(rcParams)
    assert draw(ax) is ax
    assert plt.get_fignums() == []
    assert dict(rcParams) == before
    ax.figure.canvas.draw()


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_without_axes_there_is_one_new_figure(draw):
    assert draw(None).figure is plt.gcf()
    assert len(plt.get_fignums()) == 1


def test_the_model_and_the_data_are_not_changed(ax):
    X = load_faithful()
    model = mixture(X)
    means = model.means_.copy()
    X.flags.writeable = False
    plotting.plot_mixture(model, X, ax=ax)
    plotting.plot_imputed(model, X, ax=ax)
    assert_array_equal(model.means_, means)


def test_a_ppca_and_its_data_are_not_changed():
    X, gaps, _ = held_out()
    X.flags.writeable = gaps.flags.writeable = False
    model = ppca(gaps)
    before = copy.deepcopy(vars(model))
    plotting.plot_scores(model, gaps, ax=Figure().subplots())
    plotting.plot_held_out(model, X, gaps, ax=Figure().subplots())
    plotting.plot_scree(model, ax=Figure().subplots())
    for name, value in vars(model).items():
        assert_array_equal(value, before[name])


def test_a_classifier_and_its_data_are_not_changed():
    X, y = petals()
    X.flags.writeable = y.flags.writeable = False
    model = machine(X, y)
    before = copy.deepcopy(vars(model))
    plotting.plot_decision(model, X, y, ax=Figure().subplots())
    plotting.plot_relevance(model, ax=Figure().subplots())
    plotting.plot_reliability(model.predict_proba(X), y, ax=Figure().subplots())
    for name, value in vars(model).items():
        assert_array_equal(value, before[name])


def test_a_flow_and_its_data_are_not_changed():
    X, model = load_faithful(), copy.deepcopy(flow())
    X.flags.writeable = False
    before = copy.deepcopy(vars(model))
    plotting.plot_flow(model, X=X, ax=Figure().subplots())
    plotting.plot_samples(model, X, ax=Figure().subplots())
    plotting.plot_warp(model, ax=Figure().subplots())
    plotting.plot_bound(model, ax=Figure().subplots())
    for name, value in vars(model).items():
        assert_array_equal(value, before[name])


def test_a_vae_and_its_data_are_not_changed():
    X, model = load_digits() / 16, copy.deepcopy(vae())
    X.flags.writeable = False
    before = copy.deepcopy(vars(model))
    for draw in plotting.plot_reconstructions, plotting.plot_latent, plotting.plot_active:
        draw(model, X, ax=Figure().subplots())
    for draw in plotting.plot_decoded, plotting.plot_manifold, plotting.plot_bound:
        draw(model, ax=Figure().subplots())
    np.testing.assert_equal(vars(model), before)


def test_a_net_and_its_data_are_not_changed():
    (X, y), model = unseen_digits(20), copy.deepcopy(net())
    X.flags.writeable = y.flags.writeable = False
    before = copy.deepcopy(vars(model))
    for draw in plotting.plot_weights, plotting.plot_sparsity, plotting.plot_bound:
        draw(model, ax=Figure().subplots())
    plotting.plot_pruning(model, X, y, thresholds=[0], ax=Figure().subplots())
    np.testing.assert_equal(vars(model), before)


def test_matplotlib_loads_at_the_first_picture_only():
    code = "import sys, lvm.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(lvm.__file__).parents[1]).returncode == 0


def test_a_missing_matplotlib_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'Install it with: pip install "lvm\[plot\]"'):
        plotting.plot_images(np.zeros((1, 4)))
