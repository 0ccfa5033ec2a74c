"""Model files: a fitted estimator in one safetensors file. Nothing in a file is ever run, unpickled or unzipped.

The arrays are ordinary tensors, which any safetensors tool reads. The header's `__metadata__` has one key, "lvm", whose
value is a JSON object:

    format   "lvm-1", this layout                      params   the constructor's parameters
    class    a name from `_CLASSES`, nothing else      fitted   the fitted attributes that are no tensors
    schema   the class's `_schema`                     sha256   of all the above and the names, dtypes, shapes and
    lvm      the version that wrote it                          bytes of the arrays

Numbers are as JSON has them (Python writes floats so that they read back to the bit). A JSON object in params or fitted
is always a tag with one key: {"tuple": [...]}, {"dict": {...}}, {"items": [[key, value], ...]} for a dict of keys that
are not all strings, {"float": "nan" | "inf" | "-inf"}, {"array": "name of a tensor"}; NumPy scalars become Python's,
arrays come back C-contiguous. The same model gives the same bytes.

What an estimator has, to be saved and loaded (and its class a line in `_CLASSES`):

    _schema          an int, 1 at first; raised when `_state` changes, and then this module reads the older files too
    _state           the table {attribute: (kind, shape, rule)}, or a static method that makes it of the dict of
                     parameters. A name that ends in "?" may be missing (or None), and is then not set.
        kind         of an array: "f" (float32 or float64, the same for all "f" of a model) or a dtype: "f8", "i8", "?";
                     or "labels" (integers, booleans, floats, strings); of Python's: float, int, bool, str, and with one
                     size a list of them (of str: an object array); or dict, of shape (), for `_check_state` to check
        shape        a tuple of sizes: a number, or a letter that means the same size, at least 1, all over the table;
                     "D" is n_features_in_; "*" is any size, also 0
        rule         None or a name in `_RULES`, which the values obey
    _check_params()  raises ValueError or TypeError when a parameter is not what `fit` wants
    _check_fitted()  raises NotFittedError
    _check_unchanged()  may be missing; raises ValueError where a parameter that answers read was changed since fit
    _check_state()   may be missing; raises ValueError where fitted attributes do not agree
    get_params()     and a constructor that takes what it gives

`n_features_in_` and, where present, `feature_names_in_` are kept without being named in the table.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
import time
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from . import __version__
from .estimator import warn

_FORMAT = "lvm-1"
# the only classes a file can name, and where they are
_CLASSES = {
    "BayesianMLPClassifier": "lvm.network",
    "BayesianMLPRegressor": "lvm.network",
    "GaussianMixture": "lvm.mixture",
    "PlanarFlow": "lvm.flow",
    "ProbabilisticPCA": "lvm.ppca",
    "RelevanceVectorClassifier": "lvm.relevance",
    "RelevanceVectorRegressor": "lvm.relevance",
    "VariationalLogisticRegression": "lvm.relevance",
    "VAE": "lvm.vae",
}
_ONLY_FOR_FIT = ("random_state", "callback", "checkpoint")  # saved as None where a file cannot hold them

_COMMON = {"n_features_in_": (int, (), "positive"), "feature_names_in_?": (str, ("D",), None)}
_INFO = {"format": str, "class": str, "schema": int, "lvm": str, "params": dict, "fitted": dict, "sha256": str}
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
_PYTHON = {float: np.float64, int: np.int64, bool: np.bool_, str: np.object_}
_MAX_HEADER = 1 << 20  # bytes
_MAX_DIMENSIONS = 8
_TEMPORARY = re.compile(r"\.lvm-[0-9a-f]{16}\.tmp")
_DAY = 86400  # seconds


class ModelFileError(ValueError):
    """A file cannot be loaded, or a model cannot be saved as it is. The message says which, why and what to try."""


class _Wrong(Exception):
    """What is wrong, and what to try unless the usual advice will do; `load` and `save` make a ModelFileError of it."""

    def __init__(self, what: str, advice: str = ""):
        super().__init__(what)
        self.advice = advice


# ------------------------------------------------------------------------------------------------------ save and load


def save(estimator, path) -> None:
    """Write a fitted estimator to `path`, which `lvm.load` reads. Also the method `save` of each estimator.

    The file is replaced as a whole: after a crash or a full disk there is the old one or the new one. It keeps its
    permissions; where `path` is a symbolic link, what it points to is replaced. A `random_state` that is a generator
    cannot be kept: the file gets None, with a warning.

    Raises NotFittedError, OSError where the file cannot be written, and ModelFileError where the model cannot be kept:
    a parameter is a function, say, or was changed since `fit` so that the fitted attributes do not agree with it.
    """
    name = type(estimator).__name__
    if name not in _CLASSES or _class(name) is not type(estimator):
        raise TypeError(f"Only lvm's own estimators can be saved: {', '.join(_CLASSES)}. Got {name}. Try pickle.")
    estimator._check_fitted()
    estimator._check_params()
    getattr(estimator, "_check_unchanged", lambda: None)()
    try:
        data = _encode(estimator)
        _decode(io.BytesIO(data), len(data))  # what is written can be read: the checks of load are those of save
    except _Wrong as e:
        raise ModelFileError(f"Cannot save this {name}: {e}. {e.advice or 'Fit it again.'}") from e.__cause__
    _replace(os.path.realpath(os.fsdecode(path)), data)


def load(path) -> Any:
    """The fitted estimator that `save` wrote to `path`; it predicts the same bits. Safe on files of unknown origin.

    Raises OSError where there is no file or it cannot be read, and ModelFileError for all that is not a whole and sound
    model file of this or an earlier version of lvm.

    >>> import lvm, os, tempfile
    >>> X = lvm.datasets.load_faithful()
    >>> model = lvm.GaussianMixture(2, random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "eruptions.safetensors")
    ...     model.save(path)
    ...     again = lvm.load(path)
    >>> bool((again.score_samples(X) == model.score_samples(X)).all())
    True
    """
    path = os.fspath(path)
    try:
        with open(path, "rb", opener=_open_regular) as f:
            return _decode(f, os.fstat(f.fileno()).st_size)
    except _Wrong as e:
        advice = e.advice or "The file is damaged or was not written by lvm: fetch it again, or save the model again."
        raise ModelFileError(f"Cannot load {path!r}: {e}. {advice}") from e.__cause__
    except RecursionError:
        raise ModelFileError(f"Cannot load {path!r}: its header is nested too deep. lvm did not write it.") from None


def _class(name):
    return getattr(import_module(_CLASSES[name]), name)


def _table(estimator):
    state = estimator._state
    return {**_COMMON, **(state(estimator.get_params(deep=False)) if callable(state) else state)}


# ------------------------------------------------------------------------------------------------- estimator <-> bytes


def _encode(estimator) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    params, fitted = {}, {}
    for name, value in estimator.get_params(deep=False).items():
        try:
            params[name] = _pack(value, name, arrays)
        except _Wrong:
            if name not in _ONLY_FOR_FIT:
                raise
            params[name] = None
            warn(f"A model file cannot keep the {type(value).__name__} in {name}: the loaded model has {name}=None.")
    for name, (kind, _, _) in _table(estimator).items():
        name = name.removesuffix("?")
        value = getattr(estimator, name, None)
        if isinstance(value, np.ndarray) and value.dtype.kind == "U":
            fitted[name] = value.tolist()
        elif isinstance(value, np.ndarray) and isinstance(kind, str):
            arrays[name] = a = _plain(value)
            if kind == "labels" and a.dtype.name not in _DTYPES.values():
                if a.dtype.kind == "u" and a.max() > np.iinfo(np.int64).max:
                    raise _Wrong(f"{name} holds a label beyond int64", "Try strings.")
                arrays[name] = a.astype(np.float64 if a.dtype.kind == "f" else np.int64)
        elif value is not None:
            fitted[name] = _pack(value.tolist() if kind is str and isinstance(value, np.ndarray) else value, name, {})
    info = {
        "format": _FORMAT,
        "class": type(estimator).__name__,
        "schema": estimator._schema,
        "lvm": __version__,
        "params": params,
        "fitted": fitted,
    }
    info["sha256"] = _digest(arrays, info)
    return safetensors.numpy.save(arrays, {"lvm": json.dumps(info)})


def _decode(f: BinaryIO, size: int) -> Any:
    info, arrays = _read(f, size)
    if info["class"] not in _CLASSES:
        raise _Wrong(f"its class {info['class']!r} is none that lvm {__version__} has", _upgrade(info))
    cls = _class(info["class"])
    if info["schema"] > cls._schema:
        raise _Wrong(f"its schema {info['schema']} is newer than the {cls._schema} known here", _upgrade(info))
    if info["schema"] != cls._schema:
        raise _Wrong(f"there is no schema {info['schema']} of {cls.__name__}")
    params = {name: _unpack(value, arrays) for name, value in info["params"].items()}
    try:
        estimator = cls(**params)
        estimator._check_params()
        table = _table(estimator)
    except Exception as e:
        raise _Wrong(f"{cls.__name__} refuses its parameters ({e})") from e
    fitted = {name: _unpack(value, {}) for name, value in info["fitted"].items()}
    if twice := arrays.keys() & fitted.keys():
        raise _Wrong(f"it holds {_names(twice)} twice")
    for name, value in _check({**arrays, **fitted}, table).items():
        setattr(estimator, name, value)
    try:
        getattr(estimator, "_check_state", lambda: None)()
    except ValueError as e:
        raise _Wrong(str(e)) from None
    return estimator


def _upgrade(info):
    return f"It was written by lvm {info['lvm'][:20]}, and this is lvm {__version__}: try upgrading lvm."


def _names(names):
    return ", ".join(repr(name[:100]) for name in sorted(names)[:5])


def _digest(arrays, info):
    sha = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(f" {name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        sha.update(arrays[name])
    return sha.hexdigest()


# ------------------------------------------------------------------------------------------------------ values <-> JSON


def _plain(value):
    """An array in C order and native byte order."""
    a = np.asarray(value)
    return np.asarray(a, a.dtype.newbyteorder("="), order="C")


def _pack(value, name, arrays):
    """`value` as JSON has it; arrays in it go to `arrays`. _Wrong for what a file cannot hold."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return value if value is None else bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.float32, np.float16)):
        return float(value) if np.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, list):
        return [_pack(v, name, arrays) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, name, arrays) for v in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _pack(v, name, arrays) for key, v in value.items()}}
    if isinstance(value, dict) and all(isinstance(key, (str, int, float, np.bool_, np.number)) for key in value):
        return {"items": [[_pack(key, name, arrays), _pack(v, name, arrays)] for key, v in value.items()]}
    what = f"a {type(value).__name__}"
    if hasattr(value, "__array__"):  # also a data frame
        a = _plain(value)
        if a.dtype.name in _DTYPES.values():
            key = f"param{len(arrays)}_{name}"
            arrays[key] = a
            return {"array": key}
        what = f"an array of {a.dtype}"
    raise _Wrong(f"{name} holds {what}, which a model file cannot keep", f"Try another {name}, or pickle the model.")


def _unpack(value, arrays):
    """The value that `_pack` turned into JSON; the arrays it names are taken out of `arrays`."""
    if isinstance(value, list):
        return [_unpack(v, arrays) for v in value]
    if isinstance(value, dict):
        tag, content = next(iter(value.items())) if len(value) == 1 else (None, None)
        if tag == "tuple" and isinstance(content, list):
            return tuple(_unpack(content, arrays))
        if tag == "dict" and isinstance(content, dict):
            return {key: _unpack(v, arrays) for key, v in content.items()}
        if tag == "items" and isinstance(content, list) and all(isinstance(v, list) and len(v) == 2 for v in content):
            pairs = [(_unpack(key, arrays), _unpack(v, arrays)) for key, v in content]
            if all(isinstance(key, (str, int, float)) for key, _ in pairs):
                return dict(pairs)
        if tag == "float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if tag == "array" and isinstance(content, str) and content in arrays:
            return arrays.pop(content)
        raise _Wrong(f"a value is wrong: {repr(value)[:100]}")
    return value


def _json(text):
    """Strict JSON: no key twice, no NaN or infinity."""

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def finite(number):
        if not np.isfinite(float(number)):
            raise ValueError(f"{number[:20]} is no finite number")
        return float(number)

    try:
        return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except ValueError as e:
        raise _Wrong(f"its header is no valid JSON ({e})") from None


# ---------------------------------------------------------------------------------------------------- checks of values


def _spd(a):
    """Whether matrices (..., D, D) are symmetric and positive definite, up to the rounding of their dtype."""
    if not np.isfinite(a).all() or not (_diagonal(a) > 0).all():
        return False
    D, scale = a.shape[-1], np.sqrt(_diagonal(a).astype(np.float64))
    unit = a / scale[..., :, None] / scale[..., None, :]
    try:
        np.linalg.cholesky(unit + 4 * D * np.finfo(a.dtype).eps * np.eye(D))
    except np.linalg.LinAlgError:
        return False
    return (np.abs(unit - np.swapaxes(unit, -1, -2)) <= 1e-5).all()


def _diagonal(a):
    return np.diagonal(a, axis1=-2, axis2=-1)


_RULES = {  # name: the rule as messages have it, the test
    "finite": ("finite", lambda a: np.isfinite(a).all()),
    "nonnegative": ("finite and at least 0", lambda a: np.isfinite(a).all() and (a >= 0).all()),
    "positive": ("finite and above 0", lambda a: np.isfinite(a).all() and (a > 0).all()),
    "prob": (
        "at least 0 and sum to 1 along the last axis",
        lambda a: (a >= 0).all() and (np.abs(a.sum(-1, dtype=np.float64) - 1) <= 1e-5).all(),
    ),
    "spd": ("symmetric positive definite", _spd),
    "upper": (
        "finite and upper triangular, with a diagonal above 0",
        lambda a: np.isfinite(a).all() and (np.triu(a) == a).all() and (_diagonal(a) > 0).all(),
    ),
}


def _check(values, table):
    """Hold the values {attribute: value} against the table of the class; return them as the estimator has them."""
    if unknown := values.keys() - {name.removesuffix("?") for name in table}:
        raise _Wrong(f"it holds {_names(unknown)}, which this model does not have")
    sizes, floats, checked = {"D": values.get("n_features_in_")}, set(), {}
    for key, (kind, shape, rule) in table.items():
        name = key.removesuffix("?")
        if name not in values:
            if key == name:
                raise _Wrong(f"{name} is missing")
            continue
        checked[name], a = _typed(name, values[name], kind, shape)
        fits = len(a.shape) == len(shape)
        for size, wanted in zip(a.shape, shape):
            if isinstance(wanted, str) and wanted != "*":
                fits &= size >= 1
                wanted = sizes.setdefault(wanted, size)
            fits &= wanted in ("*", size)
        if not fits:
            raise _Wrong(f"{name} must have the shape {shape}, got {a.shape}, where {sizes}")
        if rule is not None:
            words, holds = _RULES[rule]
            with np.errstate(all="ignore"):
                if not holds(a):
                    raise _Wrong(f"{name} must be {words}, and is not")
        if kind == "f":
            floats.add(a.dtype.name)
    if len(floats) > 1:
        raise _Wrong("its arrays mix float32 and float64")
    return checked


def _typed(name, value, kind, shape):
    """A value of a kind as (what the estimator has, the same as an array)."""
    if kind == "labels":
        labels = np.array(value) if isinstance(value, list) and all(type(v) is str for v in value) else value
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "biufU" and labels.ndim == 1:
            return labels, labels
        wanted = "an array of labels"
    elif isinstance(kind, str):
        allowed = ("float32", "float64") if kind == "f" else (np.dtype(kind).name,)
        if isinstance(value, np.ndarray) and value.dtype.name in allowed:
            return value, value
        wanted = f"an array of {' or '.join(allowed)}"
    elif kind is dict:
        if isinstance(value, dict):
            return value, np.empty(())
        wanted = "a dict"
    else:
        items = value if shape else [value]
        if isinstance(items, list) and all(type(v) is kind for v in items):
            with contextlib.suppress(OverflowError):  # an integer beyond int64
                a: np.ndarray = np.array(value, _PYTHON[kind])
                return (a if shape and kind is str else value), a
        wanted = f"a list of {kind.__name__}" if shape else f"of type {kind.__name__}"
    got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else repr(value)[:50]
    raise _Wrong(f"{name} must be {wanted}, got {got}")


# ------------------------------------------------------------------------------------------------------ bytes <-> file


def _open_regular(path, flags):
    """An opener that does not wait for a pipe, nor read a device."""
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _Wrong("it is no regular file", "Name a file that was written by save.")
    return fd


def _read(f: BinaryIO, size: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON object and the arrays of a file of `size` bytes, which holds what its header claims before it is read.

    safetensors checks the layout: that shapes fit offsets, and that there are neither gaps nor overlaps.
    """
    start = f.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= size - 8:
        raise _Wrong("it is cut off, or no safetensors file")
    if length > _MAX_HEADER:
        raise _Wrong(f"its header has {length} bytes, more than {_MAX_HEADER}", "Fit with fewer or shorter names.")
    header = f.read(length)
    if not header.startswith(b"{"):
        raise _Wrong("it is no safetensors file")
    try:
        tensors = _json(header.decode())
    except UnicodeDecodeError:
        raise _Wrong("its header is not UTF-8") from None

    info = _info(tensors.pop("__metadata__", None))
    ends = [_end(name, tensor) for name, tensor in tensors.items()]
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise _Wrong(f"it has {size} bytes, and its header says {whole}")
    try:
        arrays = safetensors.numpy.load(start + header + f.read(size - 8 - length))
    except safetensors.SafetensorError as e:
        raise _Wrong(f"safetensors refuses it ({e})") from None
    for name, a in arrays.items():
        if a.dtype == bool and a.size and a.view(np.uint8).max() > 1:
            raise _Wrong(f"{name} holds a byte that is neither 0 nor 1")
    if info.pop("sha256") != _digest(arrays, info):
        raise _Wrong("its checksum does not match")
    return info, arrays


def _info(metadata):
    """The JSON object in the metadata, with the right keys and types."""
    if not isinstance(metadata, dict) or set(metadata) != {"lvm"} or not isinstance(metadata["lvm"], str):
        raise _Wrong("it is no model file of lvm")
    info = _json(metadata["lvm"])
    if not isinstance(info, dict) or not isinstance(info.get("lvm"), str):
        raise _Wrong("it is no model file of lvm")
    if info.get("format") != _FORMAT:
        raise _Wrong(f"its format is {repr(info.get('format'))[:50]}, not {_FORMAT!r}", _upgrade(info))
    if {name: type(value) for name, value in info.items()} != _INFO:
        raise _Wrong("its metadata lack something, or have too much")
    return info


def _end(name, tensor):
    """Where the bytes of a tensor end, according to its entry in the header."""
    match tensor:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [_, int(end)]} if dtype in _DTYPES:
            if name.isidentifier() and len(name) <= 100 and len(shape) <= _MAX_DIMENSIONS:
                return end
    raise _Wrong(f"its entry for the array {name[:100]!r} is wrong")


def _replace(path, data):
    """Put `data` into the file `path` so that at any instant it has the old content or the new, also on the disk."""
    folder = os.path.dirname(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"Cannot save to {path!r}: it is no regular file. Name a file.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "There is no such folder to save in", folder)
    _sweep(folder)
    temporary = os.path.join(folder, f".lvm-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):  # some file systems cannot; the file itself is whole either way
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _sweep(folder):
    """Delete what saves that were killed left behind a day ago or earlier."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY:
                        os.unlink(entry.path)
