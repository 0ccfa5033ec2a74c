"""The CUDA kernel set: twins of lvm.kernels.cpu on an NVIDIA GPU. Its arrays are numba.cuda's device arrays, and its
functions queue work and do not wait for it."""

import importlib as _importlib

from . import api as _api

_families = (
    "adam",
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
    """A NumPy array as an array of this set: a copy on the device. What is there already is not copied."""
    return _api.put(x)


def get(x, like=None):
    """An array of this set as a NumPy array, or of the kind of `like`: what a user gave, a CuPy array, say."""
    return _api.get(x, like)


def empty(shape, dtype):
    """An uninitialised array of this set. Raises MemoryError, with the sizes, where there is no room."""
    return _api.empty(shape, dtype)


def cast(x, dtype):
    """An array of this set in another dtype; itself if it has it."""
    return _api.cast(x, dtype)


def sync():
    """Wait until every kernel called so far is done."""
    _api.sync()


def capture(step):
    """`step`, a function without arguments that only queues kernels on arrays which stay where they are, made cheap to
    repeat: its first call runs it, the second records it as a CUDA graph, and from then on one launch replays it."""
    return _api.capture(step)


def __getattr__(name):
    if name in _families:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
