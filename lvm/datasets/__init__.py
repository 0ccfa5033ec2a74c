"""Small real data, shipped with the package: Old Faithful, iris, handwritten digits.

Each call gives fresh arrays that you may write to: X (N,D) float64 and, with `return_y=True`, the classes y (N,) int64.
README.md in this folder has the source and the licence of each set.
"""

from importlib.resources import files

import numpy as np

__all__ = ["FAITHFUL_COLUMNS", "IRIS_COLUMNS", "IRIS_SPECIES", "load_digits", "load_faithful", "load_iris"]

FAITHFUL_COLUMNS = ("eruptions", "waiting")  # both in minutes
IRIS_COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")  # all in cm
IRIS_SPECIES = ("setosa", "versicolor", "virginica")  # what 0, 1, 2 in y stand for


def load_faithful() -> np.ndarray:
    """272 eruptions of the Old Faithful geyser: X (272,2), their lengths and the waits for the next, in minutes.

    Azzalini & Bowman 1990; Härdle 1991.

    >>> from lvm.datasets import load_faithful
    >>> load_faithful()[0].tolist()
    [3.6, 79.0]
    """
    return _csv("faithful.csv")


def load_iris(*, return_y: bool = False):
    """150 iris flowers: X (150,4), four lengths in cm (`IRIS_COLUMNS`); y the species, 50 of each (`IRIS_SPECIES`).

    Fisher 1936, the values of the paper.

    >>> from lvm.datasets import IRIS_SPECIES, load_iris
    >>> X, y = load_iris(return_y=True)
    >>> X[0].tolist(), IRIS_SPECIES[y[0]]
    ([5.1, 3.5, 1.4, 0.2], 'setosa')
    """
    table = _csv("iris.csv")
    X, y = table[:, :4].copy(), table[:, 4].astype(np.int64)
    return (X, y) if return_y else X


def load_digits(*, return_y: bool = False):
    """1797 handwritten digits of 8×8 pixels: X (1797,64), row by row, 0 (paper) to 16 (ink); y the digit.

    Alpaydin & Kaynak 1998.

    >>> from lvm.datasets import load_digits
    >>> X, y = load_digits(return_y=True)
    >>> X.shape, int(y[0])
    ((1797, 64), 0)
    >>> X[0].reshape(8, 8)[0].tolist()
    [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0]
    """
    with files(__name__).joinpath("digits.npz").open("rb") as f, np.load(f, allow_pickle=False) as arrays:
        X, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.int64)
    return (X, y) if return_y else X


def _csv(name: str) -> np.ndarray:
    with files(__name__).joinpath(name).open(encoding="ascii") as f:
        return np.loadtxt(f, delimiter=",", skiprows=1)
