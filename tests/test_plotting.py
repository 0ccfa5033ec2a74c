"""Pictures show what the model says (ellipses at their Mahalanobis distance, rows, bound) and touch nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib import rcParams
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal

import lvm
from lvm import plotting
from lvm.datasets import load_digits, load_faithful, load_iris

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
    model = mixture(X, n_components=2)
    sure = model.predict_proba
    model.predict_proba = lambda X: sure(np.nan_to_num(X))  # stands for a model that takes gaps
    X[3, 0] = np.nan
    plotting.plot_mixture(model, X, ax=ax)
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


# ------------------------------------------------------------------------------------------------ plot_bound and images


def test_the_bound_is_drawn_against_the_iteration(ax):
    model = mixture(load_faithful())
    line = plotting.plot_bound(model, ax=ax).lines[0]
    assert_array_equal(line.get_ydata(), model.lower_bounds_)
    assert_array_equal(line.get_xdata(), np.arange(1, model.n_iter_ + 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "lower bound, mean nats per row")


@pytest.mark.parametrize("draw", [plotting.plot_bound, lambda m: plotting.plot_mixture(m, load_faithful())])
def test_an_unfitted_model_is_refused(draw):
    with pytest.raises(lvm.NotFittedError, match="fit"):
        draw(lvm.GaussianMixture())


def test_images_stand_in_rows_with_nothing_lost_and_room_for_titles(ax):
    X = load_digits()[:7]
    canvas = plotting.plot_images(X, titles=list("abcdefg"), ax=ax).images[0].get_array().filled(np.nan)
    down, across = (np.isfinite(canvas).any(axis=a) for a in (1, 0))
    cells = canvas[np.ix_(down, across)].reshape(2, 8, 4, 8).swapaxes(1, 2).reshape(8, 64)
    assert_array_equal(cells[:7], X)
    assert np.isnan(cells[7]).all()
    assert (~down).nonzero()[0].tolist() == [0, 1, 10, 11]
    assert [t.get_text() for t in ax.texts] == list("abcdefg")


def test_images_take_any_shape_and_say_when_it_does_not_fit(ax):
    assert plotting.plot_images(np.zeros((2, 3, 5)), ax=ax)
    assert plotting.plot_images(np.zeros((2, 15)), shape=(3, 5), ax=ax)
    with pytest.raises(ValueError, match=r"shape must be \(height, width\) of 15 pixels, got \(4, 4\)"):
        plotting.plot_images(np.zeros((2, 15)), ax=ax)


# ------------------------------------------------------------------------------------------------------------ manners

DRAWINGS = {
    "mixture": lambda ax: plotting.plot_mixture(mixture(load_faithful()), load_faithful(), ax=ax),
    "bound": lambda ax: plotting.plot_bound(mixture(load_faithful()), ax=ax),
    "images": lambda ax: plotting.plot_images(load_digits()[:3], ax=ax),
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
    assert_array_equal(model.means_, means)


def test_matplotlib_loads_at_the_first_picture_only():
    code = "import sys, lvm.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(lvm.__file__).parents[1]).returncode == 0


def test_a_missing_matplotlib_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'Install it with: pip install "lvm\[plot\]"'):
        plotting.plot_images(np.zeros((1, 4)))
