"""The CPU kernel set: loops over fixed blocks of rows, on threads (see lvm.kernels.pool). Its arrays are NumPy's."""

import importlib as _importlib

import numpy as np

_families = (
    "adam",
    "ard",
    "distributions",
    "flow",
    "gradients",
    "linear",
    "logistic",
    "mixture",
    "network",
    "ppca",
    "random",
    "relevance",
    "vae",
)


def put(x):
    """A NumPy array as an array of this set: itself."""
    return x


def get(x, like=None):
    """An array of this set as a NumPy array: itself."""
    return x


def empty(shape, dtype):
    """An uninitialised array of this set."""
    return np.empty(shape, dtype)


def cast(x, dtype):
    """An array of this set in another dtype; itself if it has it."""
    return x.astype(dtype, copy=False)


def sync():
    """Wait until every kernel called so far is done: they are."""


def capture(step):
    """`step`, made cheaper to repeat where a device can record it: here the function itself."""
    return step


def __getattr__(name):
    if name in _families:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
