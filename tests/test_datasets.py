"""The shipped data is the published data, and every caller gets arrays of their own."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lvm import datasets

LOADERS = {"faithful": datasets.load_faithful, "iris": datasets.load_iris, "digits": datasets.load_digits}
with_classes = pytest.mark.parametrize("name", ["iris", "digits"])


def one_gaussian(X):
    """Total log-likelihood of X (N,D) under the one Gaussian that fits it best, the covariance divided by N."""
    N, D = X.shape
    return -N / 2 * (D * np.log(2 * np.pi) + np.linalg.slogdet(np.cov(X.T, bias=True))[1] + D)


@pytest.mark.parametrize(("name", "shape"), [("faithful", (272, 2)), ("iris", (150, 4)), ("digits", (1797, 64))])
def test_shape_and_dtype(name, shape):
    X = LOADERS[name]()
    assert (X.shape, X.dtype, X.flags["C_CONTIGUOUS"]) == (shape, np.float64, True)


@pytest.mark.parametrize(("name", "value"), [("faithful", -1289.79674505), ("iris", -379.91463012)])
def test_one_gaussian_has_the_published_log_likelihood(name, value):
    assert_allclose(one_gaussian(LOADERS[name]()), value, rtol=0, atol=1e-8)


def test_classes_have_their_published_sizes():
    _, species = datasets.load_iris(return_y=True)
    _, digit = datasets.load_digits(return_y=True)
    assert np.bincount(species).tolist() == [50, 50, 50]
    assert np.bincount(digit).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's, of the test set
    assert len(datasets.IRIS_SPECIES) == 3


def test_iris_has_the_values_of_the_paper_where_uci_differs():
    assert datasets.load_iris()[[34, 37]].tolist() == [[4.9, 3.1, 1.5, 0.2], [4.9, 3.6, 1.4, 0.1]]


@with_classes
def test_same_as_in_scikit_learn(name):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    X, y = LOADERS[name](return_y=True)
    theirs, their_y = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
    assert_array_equal(X, theirs)
    assert_array_equal(y, their_y)


def test_digits_are_counts_of_ink():
    X = datasets.load_digits()
    assert (X.min(), X.max()) == (0, 16)
    assert_array_equal(X, X.round())


@with_classes
def test_classes_come_when_asked_for(name):
    X, y = LOADERS[name](return_y=True)
    assert_array_equal(X, LOADERS[name]())
    assert (y.dtype, y.shape) == (np.int64, X.shape[:1])


def test_columns_have_names():
    assert len(datasets.FAITHFUL_COLUMNS) == 2
    assert len(datasets.IRIS_COLUMNS) == 4


@pytest.mark.parametrize("name", LOADERS)
def test_each_call_gives_a_fresh_array_that_can_be_written(name):
    X = LOADERS[name]()
    X[:] = -1
    assert X.base is None  # owns its memory: no view of a larger table is kept alive
    assert LOADERS[name]().min() >= 0
