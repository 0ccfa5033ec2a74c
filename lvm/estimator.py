"""The scikit-learn protocol without scikit-learn: parameters, tags, input checks, errors.

An estimator here passes scikit-learn's own checks and works in its pipelines and searches, yet imports only NumPy:

* what scikit-learn alone asks for (tags, metadata requests) is built in methods that only scikit-learn calls;
* errors and warnings become scikit-learn's own at the moment they are raised (`interop`): nobody can be catching its
  `NotFittedError` unless scikit-learn is loaded already.
"""

import copy
import html
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import __version__, kernels

# ------------------------------------------------------------------------------------------------ errors and warnings


class NotFittedError(ValueError, AttributeError):
    """The model was used before `fit`. Where scikit-learn is loaded it is scikit-learn's class of that name too."""


class NumericalError(ValueError):
    """A fit cannot go on, for instance because a component collapsed. The message says what to try."""


class InvalidParameterError(ValueError, TypeError):
    """A constructor's parameter has a value that `fit` cannot use. Also scikit-learn's, where that is loaded."""


class ConvergenceWarning(UserWarning):
    """A fit stopped before it converged. Also scikit-learn's, where that is loaded."""


class DataConversionWarning(UserWarning):
    """Data was given in another shape than wanted, and converted. Also scikit-learn's, where that is loaded."""


_joined: dict[type, type] = {}


def interop(cls: type) -> Any:
    """`cls`, joined with scikit-learn's class of the same name when scikit-learn is loaded; to be asked when raising.

    >>> issubclass(interop(NotFittedError), NotFittedError)
    True
    """
    for module in ("sklearn.exceptions", "sklearn.utils._param_validation"):
        twin = getattr(sys.modules.get(module), cls.__name__, None)
        if twin is not None:
            if cls not in _joined:
                body = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__reduce__": _reduce}
                _joined[cls] = type(cls.__name__, (cls, twin), body)
            return _joined[cls]
    return cls


def _reduce(error):
    return _raised_elsewhere, (type(error).__bases__[0], error.args)


def _raised_elsewhere(cls, args):
    """A joined error pickles as its lvm class: the process that reads it joins with its own scikit-learn, or none."""
    return interop(cls)(*args)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as `interop(category)`, at the line outside lvm that called."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "lvm":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, interop(category), stacklevel=level)


# --------------------------------------------------------------------------------------- parameters of the constructor


def refuse(name, who, wanted, value):
    """Raise InvalidParameterError for a parameter of the constructor of `who`."""
    raise interop(InvalidParameterError)(
        f"The {name!r} parameter of {who} must be {wanted}, got {repr(value)[:100]} instead."
    )


def check_int(name: str, value: Any, low: int, *, who: str) -> int:
    """`value` as an int of at least `low`, or InvalidParameterError. NumPy's integers are ints, booleans are not.

    >>> check_int("n_components", 0, 1, who="GaussianMixture")
    Traceback (most recent call last):
    ...
    lvm.estimator.InvalidParameterError: The 'n_components' parameter of GaussianMixture must be an integer of at \
least 1, got 0 instead.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        refuse(name, who, f"an integer of at least {low}", value)
    return int(value)


def check_real(name: str, value: Any, low: float, inclusive: bool = True, *, who: str) -> float:
    """`value` as a finite float of at least `low` (above `low` unless `inclusive`), or InvalidParameterError."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not (low <= value < np.inf) or (value == low and not inclusive):
        refuse(name, who, f"a finite number {'of at least' if inclusive else 'above'} {low}", value)
    return float(value)


def check_choice(name: str, value: Any, options: Sequence[str], *, who: str) -> str:
    """`value`, which must be one of the strings in `options`, or InvalidParameterError."""
    if not isinstance(value, str) or value not in options:
        refuse(name, who, "one of " + ", ".join(map(repr, options)), value)
    return str(value)


def check_bool(name: str, value: Any, *, who: str) -> bool:
    """`value` as a bool (NumPy's too, but no integer), or InvalidParameterError."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, who, "True or False", value)
    return bool(value)


def check_verbose(value: Any, *, who: str) -> int:
    """`value` as an int of at least 0, where True is 1; or InvalidParameterError."""
    return check_int("verbose", int(value) if isinstance(value, (bool, np.bool_)) else value, 0, who=who)


def check_random_state(seed: Any) -> np.random.Generator:
    """A generator from None (fresh entropy), an integer from 0 up, a SeedSequence, a Generator or a RandomState.

    A Generator is used as it is, so a second fit goes on where the first one stopped. A RandomState, which
    scikit-learn's meta-estimators pass, gives the seed. NumPy's global state is never touched.

    >>> a, b = check_random_state(0), check_random_state(0)
    >>> bool(a.random() == b.random())
    True
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, np.random.RandomState):
        return np.random.default_rng(seed.randint(0, 2**32, size=4, dtype=np.uint32))
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0:
        return np.random.default_rng(int(seed))
    if seed is None or isinstance(seed, np.random.SeedSequence):
        return np.random.default_rng(seed)
    raise ValueError(
        "random_state must be None, an integer of at least 0, a numpy SeedSequence, Generator or RandomState, "
        f"got {repr(seed)[:100]}."
    )


def check_training(estimator: Any) -> None:
    """What all that train by `fit.stochastic` have in their constructor: InvalidParameterError where it cannot be."""
    e, who = estimator, type(estimator).__name__
    check_int("batch_size", e.batch_size, 1, who=who)
    check_int("max_epochs", e.max_epochs, 1, who=who)
    check_real("learning_rate", e.learning_rate, 0, inclusive=False, who=who)
    if e.n_epochs_no_change is not None:
        check_int("n_epochs_no_change", e.n_epochs_no_change, 1, who=who)
    check_bool("early_stopping", e.early_stopping, who=who)
    if check_real("validation_fraction", e.validation_fraction, 0, inclusive=False, who=who) >= 1:
        refuse("validation_fraction", who, "a number above 0 and below 1", e.validation_fraction)
    if e.clip_norm is not None:
        check_real("clip_norm", e.clip_norm, 0, inclusive=False, who=who)


# ---------------------------------------------------------------------------------------------------------------- data

_HEAVIEST = 1e12  # of weights that count rows
_BLOCK = 1 << 18  # numbers looked at together: the checks below never need more memory than this


def _check_finite(a, name, allow_nan=False):
    """Complain about the first NaN or infinity of a C-contiguous float array, and say where it is."""
    flat = a.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(block.sum()):  # then so is every term; the sum of finite ones may overflow
                continue
        bad = np.isinf(block) if allow_nan else ~np.isfinite(block)
        if bad.any():
            i = start + int(bad.argmax())
            where = f"row {i // a.shape[1]}, column {i % a.shape[1]}" if a.ndim == 2 else f"index {i}"
            if np.isnan(flat[i]):
                what, cure = "NaN", "Drop or fill in what is missing."
            else:
                what, cure = f"infinity or a value too large for {a.dtype!r}", "Drop it, or scale the data down."
            raise ValueError(f"Input {name} contains {what}. The first one is at {where}. {cure}")


def has_gaps(X) -> bool:
    """Is there NaN in X (N,D), an array without infinities?

    >>> import numpy as np
    >>> has_gaps(np.array([[1.0, np.nan]]))
    True
    """
    flat = X.reshape(-1)
    blocks = (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        return any(np.isnan(b.sum()) and bool(np.isnan(b).any()) for b in blocks)


def _to_float(a, name):
    """A native, aligned, C-contiguous array of float32 if that came in, else of float64; a copy only where needed."""
    if a.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {a.dtype}. Try its real part or its modulus.")
    text = a.dtype.kind == "O" and any(isinstance(v, (str, bytes)) for v in a.flat)
    if text or a.dtype.kind not in "biufO":
        held = "strings" if text else f"dtype {a.dtype}"
        raise ValueError(f"{name} must hold numbers, got {held}. Try numpy.asarray({name}, dtype=float).")
    dtype = np.float32 if a.dtype.kind == "f" and a.dtype.itemsize == 4 else np.float64
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes an infinity, which has its own message
        return np.require(a, dtype, ["C", "A"])


class OnDevice(np.ndarray):
    """A copy on the host, to be looked at, of an array that a user has on the GPU: `given`, and without a copy of it
    `on_device`, an array of the CUDA kernel set. What is made of it by NumPy is on the host alone."""

    given: Any = None
    on_device: Any = None


def _is_on_device(x):
    return hasattr(x, "__cuda_array_interface__") or hasattr(x, "copy_to_host")  # (Numba's in its simulator)


def from_device(x):
    """Anything with __cuda_array_interface__ as OnDevice; all else as it is."""
    if not _is_on_device(x):
        return x
    k = kernels.load("cuda")
    on_device = k.put(x)
    try:
        a = k.get(on_device).view(OnDevice)
    except NotImplementedError:
        raise ValueError("An array on the GPU runs backwards in memory. Try a contiguous copy of it.") from None
    a.given, a.on_device = x, on_device
    return a


def on_disk(X) -> bool:
    """Is the array X a memory map, or a view of one?"""
    while X is not None:
        if isinstance(X, np.memmap):
            return True
        X = getattr(X, "base", None)
    return False


def check_array(X, who, min_samples, allow_nan, device="cpu"):
    """X (N,D) as `Estimator` wants it. Nothing is written to it."""
    if device == "cpu" and _is_on_device(X):
        raise TypeError(
            f"X is on the GPU, and {who} has device='cpu'. Try device='cuda', or a copy of X on the host (X.get() of "
            "CuPy, X.cpu() of PyTorch)."
        )
    X = from_device(X)
    given, on_device = getattr(X, "given", None), getattr(X, "on_device", None)
    if hasattr(X, "toarray"):
        raise TypeError(f"Sparse data was passed to {who}, which needs dense data. Try X.toarray().")
    if isinstance(X, np.ma.MaskedArray):  # numpy.asarray would uncover what the mask hides
        X = np.ma.filled(X.astype(np.result_type(X.dtype, np.float32)), np.nan)
    a = np.asarray(X)
    if a.dtype.kind == "O" and hasattr(X, "isna"):
        a = X.to_numpy(object, na_value=np.nan)  # a pandas frame with nullable columns, whose gaps are no floats
    if a.ndim == 0:
        raise ValueError(
            f"Expected 2D array, got {type(X).__name__} instead. Give {who} an array or a data frame (N,D)."
        )
    if a.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {a.ndim}D array instead: X has shape {a.shape}. Reshape your data to (samples, "
            "features): X.reshape(-1, 1) if it has a single feature, X.reshape(1, -1) if it is a single sample."
        )
    for axis, unit, least in (0, "sample", min_samples), (1, "feature", 1):
        if a.shape[axis] < least:
            raise ValueError(
                f"Found array with {a.shape[axis]} {unit}(s) (shape={a.shape}) while a minimum of {least} is required "
                f"by {who}."
            )
    same = a.dtype in (np.float32, np.float64) and a.flags.c_contiguous
    a = _to_float(a, "X")
    _check_finite(a, "X", allow_nan)
    if given is not None:
        a = a.view(OnDevice)
        a.given, a.on_device = given, on_device if same else None
    return a


def check_rows_again(then: int, now: int) -> None:
    """Raise ValueError where a function of blocks gave another number of rows than before."""
    if then != now:
        raise ValueError(
            f"The function of blocks gave {then} rows at first and {now} later. It must give all of them anew each "
            "time it is called: fit(lambda: read()), not fit(lambda: what_was_read)."
        )


def check_sample_weight(w: Any, n: int) -> np.ndarray | None:
    """Weights of `n` rows as a C-contiguous float64 array (n,), or None when `w` is None; a number counts for each row.

    Raises ValueError for another shape, for strings and complex numbers, NaN, infinities and negative weights, and
    when no weight is above zero.

    >>> check_sample_weight(2, 3)
    array([2., 2., 2.])
    """
    if w is None:
        return None
    a = _to_float(np.asarray(from_device(w)), "sample_weight").astype(np.float64, copy=False)
    if a.ndim == 0:
        a = np.full(n, a)
    if a.shape != (n,):
        raise ValueError(f"sample_weight.shape == {a.shape}, expected ({n},)!")
    _check_finite(a, "sample_weight")
    if a.min() < 0:
        raise ValueError(
            f"Negative values in sample_weight: a weight counts how often its row was seen. The first one is at index "
            f"{int((a < 0).argmax())}."
        )
    if a.max() == 0:
        raise ValueError("Sample weights must contain at least one non-zero number, all are zero.")
    return a


def _check_y(y, n, who):
    """y as an array (n,) of any dtype."""
    if y is None:
        raise ValueError(f"{who} requires y to be passed, but the target y is None.")
    y = from_device(y)
    a = np.asarray(y)
    if a.ndim == 2 and a.shape[1] == 1:
        warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), "
            "for example using ravel().",
            DataConversionWarning,
        )
        a = a[:, 0]
    if a.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {a.shape} instead.")
    if len(a) != n:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: X has {n} rows, y has {len(a)}.")
    if a.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: y has dtype {a.dtype}.")
    return a


def check_targets(y: Any, n: int, who: str) -> np.ndarray:
    """Targets of a regression as a float64 array (n,). Raises ValueError for another shape, text, NaN, infinity.

    >>> check_targets([1, 2], 2, "This")
    array([1., 2.])
    """
    a = _to_float(_check_y(y, n, who), "y").astype(np.float64, copy=False)
    _check_finite(a, "y")
    return a


def check_labels(y: Any, n: int, who: str) -> tuple[np.ndarray, np.ndarray]:
    """The classes in y, sorted, and for each of the n rows the number of its class: arrays (K,), (n,).

    Labels are integers, booleans, strings or whole floats. Raises ValueError or TypeError for others.

    >>> check_labels(["b", "a", "b"], 3, "This")
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]))
    """
    a = _check_y(y, n, who)
    if a.dtype.kind == "O":
        kinds = {str if isinstance(v, str) else float for v in a.flat}
        if len(kinds) > 1:
            raise TypeError("The labels in y must be all numbers or all strings, got both. Try y.astype(str).")
        try:
            a = np.asarray(a.tolist())
        except ValueError:
            a = a[:, None]
        if a.ndim != 1:
            raise ValueError("y should be a 1d array of labels, got sequences in it.")
    if a.dtype.kind == "f":
        _check_finite(np.ascontiguousarray(a), "y")
        if (a != np.floor(a)).any():
            raise ValueError(
                f"Unknown label type: continuous. {who} is a classifier, and y has fractions. Try a regressor, or bins."
            )
    elif a.dtype.kind not in "biuU":
        raise ValueError(f"Unknown label type: {who} takes labels that are numbers or strings, got dtype {a.dtype}.")
    classes, codes = np.unique(a, return_inverse=True)
    return classes, codes.reshape(-1)


def check_weight(sample_weight: Any, n: int) -> np.ndarray:
    """Weights of `n` rows that can be counts of them, (n,) float64: ones where there are none. Errors: as
    `check_sample_weight`."""
    w = check_sample_weight(sample_weight, n)
    return np.ones(n) if w is None else check_counts(w)


def check_counts(w: np.ndarray) -> np.ndarray:
    """`w`, weights that can be counts of rows, or ValueError."""
    if not w.max() < _HEAVIEST:
        raise ValueError(
            f"Weights count rows, and with sample_weight and class_weight they go up to {w.max():g}. Try weights of a "
            "mean near 1."
        )
    return w


def check_class_weight(value: Any, *, who: str) -> None:
    """InvalidParameterError for a class_weight that can be none."""
    if not (value is None or isinstance(value, dict) or (isinstance(value, str) and value == "balanced")):
        refuse("class_weight", who, "'balanced', a dict or None", value)


def class_factors(class_weight: dict, classes: np.ndarray, who: str) -> np.ndarray:
    """What class_weight multiplies the weights of each of the classes (K,) with. Errors for labels that are a typo, and
    for what is no weight."""
    unknown = [label for label in class_weight if label not in classes.tolist()]
    if unknown and any(label not in class_weight for label in classes.tolist()):
        raise ValueError(f"The classes {unknown} of class_weight are not among those of y, {classes.tolist()[:20]}.")
    return np.array([check_real("class_weight", class_weight.get(c, 1), 0, who=who) for c in classes.tolist()])


def check_classes(
    y: Any, n: int, class_weight: Any, sample_weight: Any, who: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of labels y (n,): the classes with any weight, sorted, the number of each row's class (of a row without weight
    any), and the rows' weights times those of their classes: (K,), (n,), (n,). ValueError for fewer than two classes.

    >>> check_classes(["b", "a", "b"], 3, "balanced", None, "This")
    (array(['a', 'b'], dtype='<U1'), array([1, 0, 1]), array([0.75, 1.5 , 0.75]))
    """
    classes, codes = check_labels(y, n, who)
    w = check_weight(sample_weight, n)
    totals = np.bincount(codes, w, len(classes))
    factor: Any = np.ones(len(classes))
    if isinstance(class_weight, dict):
        factor = class_factors(class_weight, classes, who)
    elif class_weight == "balanced":
        factor = totals.sum() / (np.count_nonzero(totals) * np.where(totals > 0, totals, 1))
    w = check_counts(w * np.asarray(factor)[codes])
    kept = np.flatnonzero(np.bincount(codes, w, len(classes)))
    if len(kept) < 2:
        raise ValueError(
            f"{who} needs samples of at least 2 classes with weight in y, got {len(kept)} class(es): "
            f"{classes[kept].tolist()}."
        )
    return classes[kept], np.searchsorted(kept, codes), w


def moderate(w):
    """Weights (N,), or (0,) for none, divided by a power of two if they are so large or small that float32 or products
    fail; and that power."""
    if w is None or 2**-20 <= w.max() <= 2**20:
        return np.empty(0) if w is None else w, 1.0
    factor = 2.0 ** (np.frexp(w.max())[1] - 1)
    return w / factor, float(factor)


def _feature_names(X):
    """The column names of a data frame when all are strings, else None."""
    columns = None if isinstance(X, np.ndarray) else getattr(X, "columns", None)
    if columns is None or not len(columns):
        return None
    kinds = sorted({"str" if isinstance(c, str) else type(c).__name__ for c in columns})
    if len(kinds) > 1 and "str" in kinds:
        raise TypeError(
            "Feature names are only supported if all input features have string names, but your input has "
            f"{kinds} as feature name / column name types. Try X.columns = X.columns.astype(str)."
        )
    return np.array(list(columns), dtype=object) if kinds == ["str"] else None


def _listed(names):
    return "".join(f"- {name}\n" for name in sorted(names)[:5]) + "- ...\n" * (len(names) > 5)


# ------------------------------------------------------------------------------------------------------- the base class


class Estimator:
    """What every estimator of lvm shares. A constructor only stores its parameters; `fit` checks them.

    A subclass sets `_kind` ("density_estimator", "classifier", ...), `_requires_y`, `_allow_nan` and `_pairwise`, which
    says that X (N,N) is a matrix of kernels. Its `fit` reads

        X, names = self._check_fit_X(X)       # touches nothing of self: a failed fit leaves the last state whole
        ...
        self._remember(X, names, {"weights_": ...})   # the last line that can fail is above this one

    and what predicts starts with `X = self._check_X(X)`. Both give (N,D) C-contiguous, aligned, native arrays: float32
    if that came in, float64 from all else, without a copy when X is such an array already (memory maps stay on disk).
    """

    n_features_in_: int

    _kind: str | None = None
    _requires_y = False
    _allow_nan = False
    _pairwise: Any = False

    # -- parameters

    @classmethod
    def _defaults(cls):
        return {p.name: p.default for p in inspect.signature(cls).parameters.values()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters and their values. `deep` is scikit-learn's; no estimator here holds another."""
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> "Estimator":
        """Set parameters of the constructor; they are checked by the next `fit`. Unknown ones raise ValueError."""
        valid = list(self._defaults())
        for name in params:
            if name not in valid:
                raise ValueError(f"Invalid parameter {name!r} for estimator {self}. Valid parameters are: {valid}.")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self):
        changed = []
        for name, default in self._defaults().items():
            value = getattr(self, name)
            if repr(value) != repr(default):
                changed.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(changed)})"

    def _repr_html_(self):
        if "sklearn" in sys.modules:
            from sklearn.utils import estimator_html_repr

            return estimator_html_repr(self)
        return f"<pre>{html.escape(repr(self))}</pre>"

    # -- state

    def __sklearn_is_fitted__(self):
        return "n_features_in_" in self.__dict__

    def _check_fitted(self):
        if not self.__sklearn_is_fitted__():
            raise interop(NotFittedError)(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments "
                "before using this estimator."
            )

    def save(self, path) -> None:
        """Write the fitted model to a file that `lvm.load(path)` reads: safe to share, stable across versions."""
        from . import modelfile

        modelfile.save(self, path)

    def __getstate__(self):
        return {**self.__dict__, "_lvm_version": __version__}

    def __setstate__(self, state):
        self.__dict__.update(state)
        version = self.__dict__.pop("_lvm_version", "of unknown version")
        if version != __version__:
            warn(
                f"This {type(self).__name__} was pickled by lvm {version}, and this is lvm {__version__}: results may "
                "differ. Files written by save() are made to last."
            )

    # -- data

    def _check_fit_X(self, X, min_samples=1):
        """-> X (N,D) as an array, and its column names or None."""
        X, names = check_array(X, type(self).__name__, min_samples, self._allow_nan, self._device), _feature_names(X)
        return X, names

    def _check_block(self, block, first):
        """X (n,D) of a block of rows, held against the first one, of which `first` gets a row and the column names."""
        X, names = self._check_fit_X(block)
        if not first:
            first.extend([X[:1].copy(), names])
        if (X.shape[1], X.dtype) != (first[0].shape[1], first[0].dtype):
            raise ValueError(
                f"All blocks must have the same columns and dtype, the first has {first[0].shape[1]} of "
                f"{first[0].dtype}, got {X.shape[1]} of {X.dtype}. Try block.astype."
            )
        if not np.array_equal(names, first[1]):
            raise ValueError(f"All blocks must have the same columns, the first has {first[1]}, got {names}.")
        return X

    @property
    def _device(self):
        return getattr(self, "device", "cpu")

    def _kernels(self, work, X=None):
        """The kernel set for so many multiplications: with device="auto" CUDA's when X is on the GPU, or it pays.
        (A memory map is read in blocks on the CPU, and would have to fit on the GPU.)"""
        if isinstance(X, OnDevice):
            return kernels.load(self._device, np.inf)
        size = 0 if X is None else np.inf if on_disk(X) else X.nbytes
        return kernels.load(self._device, work, size)

    def _as(self, a, X):
        """An answer, as an array of X's kind."""
        if getattr(X, "given", None) is None:
            return a
        k = self._kernels(0, X)
        return k.get(k.put(a), X)

    def _remember(self, X, names, fitted):
        """Take on the attributes `fitted` and what X was: in one step, so that Ctrl-C finds all or none."""
        kept = {name: value for name, value in self.__dict__.items() if not name.endswith("_")}
        named = {} if names is None else {"feature_names_in_": names}
        self.__dict__ = {**kept, **fitted, **named, "n_features_in_": X.shape[1]}

    def _check_X(self, X):
        """-> X (N,D) as an array, after it was held against what `fit` saw."""
        self._check_fitted()
        who, now, then = type(self).__name__, _feature_names(X), self.__dict__.get("feature_names_in_")
        if now is not None and then is None:
            warn(f"X has feature names, but {who} was fitted without feature names")
        elif now is None and then is not None:
            warn(f"X does not have valid feature names, but {who} was fitted with feature names")
        elif now is not None and then is not None and list(now) != list(then):
            message = "The feature names should match those that were passed during fit.\n"
            if unseen := set(now) - set(then):
                message += "Feature names unseen at fit time:\n" + _listed(unseen)
            if missing := set(then) - set(now):
                message += "Feature names seen at fit time, yet now missing:\n" + _listed(missing)
            if not unseen and not missing:
                message += "Feature names must be in the same order as they were in fit.\n"
            raise ValueError(message)
        X = check_array(X, who, 1, self._allow_nan, self._device)
        if X.shape[1] != getattr(self, "n_features_in_", X.shape[1]):  # (absent in a model set by hand)
            raise ValueError(
                f"X has {X.shape[1]} features, but {who} is expecting {self.n_features_in_} features as input."
            )
        return X

    # -- what only scikit-learn calls

    def __sklearn_tags__(self):
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type=self._kind,
            target_tags=TargetTags(required=self._requires_y),
            input_tags=InputTags(allow_nan=self._allow_nan, pairwise=self._pairwise),
            classifier_tags=ClassifierTags() if self._kind == "classifier" else None,
            regressor_tags=RegressorTags() if self._kind == "regressor" else None,
        )

    def _get_doc_link(self):  # for estimator_html_repr; an empty link shows no icon
        return ""

    def get_metadata_routing(self):
        """scikit-learn's MetadataRequest: which of `sample_weight` and the like each method takes and wants."""
        if hasattr(self, "_metadata_request"):  # a name that sklearn.base.clone copies
            return copy.deepcopy(self._metadata_request)
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=self)
        for method in "fit", "partial_fit", "score":
            if hasattr(self, method):
                for name in inspect.signature(getattr(self, method)).parameters:
                    if name not in ("X", "y"):
                        getattr(request, method).add_request(param=name, alias=None)
        return request

    def _set_request(self, method, wanted):
        request = self.get_metadata_routing()
        accepted = list(getattr(request, method).requests)
        for name, alias in wanted.items():
            if name not in accepted:
                raise TypeError(f"{method} of {type(self).__name__} accepts {accepted}, got {name!r}.")
            getattr(request, method).add_request(param=name, alias=alias)
        self._metadata_request = request
        return self

    def set_fit_request(self, **wanted: bool | str | None) -> "Estimator":
        """Ask scikit-learn's metadata routing for arguments of `fit`, as in `set_fit_request(sample_weight=True)`."""
        return self._set_request("fit", wanted)

    def set_partial_fit_request(self, **wanted: bool | str | None) -> "Estimator":
        """Ask scikit-learn's metadata routing for arguments of `partial_fit`."""
        return self._set_request("partial_fit", wanted)

    def set_score_request(self, **wanted: bool | str | None) -> "Estimator":
        """Ask scikit-learn's metadata routing for arguments of `score`."""
        return self._set_request("score", wanted)


# --------------------------------------------------------------------------------------------------------- transformers

_CONTAINERS = ("default", "pandas", "polars")


class Transformer(Estimator):
    """An estimator with `transform`, whose answer comes in the container the user wants (`set_output`).

    A subclass has `fit`, the property `_n_features_out`, and a `transform` that ends in

        return self._wrap(Z, X)       # X as the caller gave it, for its index; Z (N, _n_features_out) has X's dtype

    All that calls `transform` (as `fit_transform` does) has its answer wrapped already.
    """

    _kind = "transformer"

    fit: Callable[..., Any]
    transform: Callable[..., Any]

    @property
    def _n_features_out(self) -> int:
        """How many columns `transform` gives. From what `fit` found, so that a model read from a file knows it, too."""
        raise NotImplementedError

    def fit_transform(self, X, y=None, **fit_params: Any):
        """`fit(X, y, **fit_params)`, then `transform(X)`."""
        return self.fit(X, y, **fit_params).transform(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """The names of the columns that `transform` gives: the class in lower case and a number. An object array.

        `input_features` is scikit-learn's: the names of the columns of X, which must be those that `fit` saw."""
        self._check_fitted()
        if input_features is not None:
            if not np.array_equal(input_features, getattr(self, "feature_names_in_", input_features)):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(input_features) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features ({self.n_features_in_}), got "
                    f"{len(input_features)}"
                )
        stem = type(self).__name__.lower()
        return np.array([f"{stem}{i}" for i in range(self._n_features_out)], dtype=object)

    def set_output(self, *, transform: str | None = None) -> "Transformer":
        """What `transform` and `fit_transform` give: "default" (arrays), "pandas" or "polars" data frames.

        None changes nothing. Where it was never set, scikit-learn's `set_config(transform_output=...)` counts."""
        if transform is not None:
            check_choice("transform", transform, _CONTAINERS, who="set_output")
            self._sklearn_output_config = {"transform": transform}  # a name that sklearn.base.clone copies
        return self

    def _wrap(self, Z, X):
        """Z, made by `transform` of X as the caller gave it, in the container that is wanted."""
        container, sklearn = getattr(self, "_sklearn_output_config", {}).get("transform"), sys.modules.get("sklearn")
        if container is None and sklearn is not None:
            container = sklearn.get_config()["transform_output"]
            check_choice("transform_output", container, _CONTAINERS, who="sklearn.set_config")
        if container in (None, "default"):
            return Z
        Z, names = np.asarray(from_device(Z)), self.get_feature_names_out()  # (data frames are on the host)
        if container == "polars":
            import polars

            return polars.DataFrame(Z, schema=list(names), orient="row")
        import pandas

        index = X.index if isinstance(X, pandas.DataFrame) else None  # a list has an `index` of another kind
        return pandas.DataFrame(Z, index, names, copy=False)

    def __sklearn_tags__(self):
        from sklearn.utils import TransformerTags

        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float64", "float32"])
        return tags
