"""How a kernel is compiled and cached: at first use, one dtype at a time, with a cache that can only help.

    @kernel("T2 T1 T d2w i")               # read-only 2-D and 1-D, a scalar, a writable float64 2-D, an integer
    def f(X, w, s, out, n): ...

A word is a type, its number of dimensions, and `w` where the kernel writes. T is float32 or float64, as the first T
array of the call has it; d float64, i int64, u uint64 whatever T is. Arrays are C-contiguous; read-only ones (memory
maps) are taken everywhere but at a `w`. The first call with float32 arrays compiles the float32 variant and no other.

numba's own file cache raises at import where nothing is writable, dies on a damaged file, and misses edits in other
files and in its own flags. Here any trouble with the cache falls back to compiling in memory, with one warning.
"""

import functools
import hashlib
import pathlib
import pickle
import threading
import warnings

FLAGS = {"nogil": True, "error_model": "numpy"}  # 1/0 is inf, without a branch in the loop
FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}  # for inner loops; without nnan and ninf, so isfinite stays right
_lock = threading.RLock()  # numba compiles one function at a time
_warned = False


def cache_folder(py) -> str:
    """Where compiled code of `py` and its file is kept between processes (NUMBA_CACHE_DIR overrules it), or ""."""
    cache = _cache(py, {})
    return "" if cache is None else str(cache.cache_path)


@functools.cache
def _sources() -> str:
    """Digest of every kernel source: functions are inlined, so an edit anywhere under kernels/ must miss the cache."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _cache_class():
    from numba.core import caching, serialize

    def locator(where):  # numba 0.60 has an underscore before the name
        return getattr(caching, f"{where}CacheLocator", None) or getattr(caching, f"_{where}CacheLocator")

    class Impl(caching.CompileResultCacheImpl):
        # a user-wide folder before site-packages: `pip uninstall` would leave our files behind there
        _locator_classes = [locator("UserProvided"), locator("UserWide"), locator("InTree")]
        key: tuple = ()

        def reduce(self, cres):
            payload = serialize.dumps(super().reduce(cres))
            return self._digest(payload), payload

        def rebuild(self, target_context, data):
            digest, payload = data
            if digest != self._digest(payload):  # machine code with a flipped bit would run, and so would another key's
                raise ValueError("its contents are not what was saved")
            return super().rebuild(target_context, pickle.loads(payload))

        def _digest(self, payload) -> bytes:
            return hashlib.sha256(repr(self.key).encode() + payload).digest()

    class Cache(caching.FunctionCache):
        _impl_class = Impl

        def _index_key(self, sig, codegen):
            return (*super()._index_key(sig, codegen), *self._impl.key)

        def load_overload(self, sig, target_context):
            try:
                cres = super().load_overload(sig, target_context)
                # two processes that save at once may mix up their files: numba numbers them
                return cres if cres is None or cres.signature.args == tuple(sig) else None
            except Exception as e:
                _warn("read", e)
                try:
                    self.flush()  # a damaged file is replaced by the next save
                except Exception:
                    self.disable()
                return None

        def save_overload(self, sig, data):
            try:
                super().save_overload(sig, data)
            except Exception as e:
                self.disable()
                _warn("written", e)

    return Cache


def _warn(what: str, error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"lvm: the cache of compiled kernels cannot be {what} ({type(error).__name__}: {error}); compiling in "
            "memory. Set NUMBA_CACHE_DIR to a writable folder to keep compiled kernels.",
            RuntimeWarning,
            stacklevel=2,
        )


def _cache(py, options: dict):
    """A cache for `py` compiled with `options`, or None where no folder can be written."""
    from numba import config

    try:
        cache = _cache_class()(py)
    except Exception as e:
        _warn("found", e)
        return None
    # sorted: the order of a set of strings differs from process to process, and a key that differs never hits
    flags = sorted((k, sorted(v) if isinstance(v, (set, frozenset)) else v) for k, v in options.items())
    cache._impl.key = (repr(flags), _sources(), config.BOUNDSCHECK)
    return cache


def signature(words: list, T, readonly=True) -> tuple:
    """Numba types of the arguments that `words` describe, of arrays read-only unless they are written to."""
    from numba import types

    base = {"T": T, "d": types.float64, "i": types.int64, "u": types.uint64}
    return tuple(
        types.Array(base[s[0]], int(s[1]), "C", readonly=readonly and not s.endswith("w")) if len(s) > 1 else base[s]
        for s in words
    )


def kernel(spec: str, cached: bool = True, **options):
    """Decorator: compile the function for the argument types `spec`, lazily, for float32 or float64.

    cached=False is for a closure over a user's function, which no file can keep. `options` go to numba.njit
    (fastmath=FAST in inner loops; never fastmath=True, under which isfinite(nan) is true).
    The result has `.py`, the plain function, and `.compiled(dtype)`, the numba dispatcher, for other jitted code.
    """
    words = spec.split()
    first = next(i for i, s in enumerate(words) if s[0] == "T" and len(s) > 1)

    def wrap(py):
        variants: dict = {}

        def compiled(dtype):
            """The dispatcher for float32 or float64, compiled now if it was not."""
            import numpy as np

            dtype = np.dtype(dtype)
            with _lock:
                if dtype not in variants:
                    import numba

                    if dtype not in (np.float32, np.float64):
                        raise TypeError(
                            f"{py.__name__} takes float32 or float64 arrays, got {dtype}. Convert with .astype."
                        )
                    f = numba.njit(**(FLAGS | options))(py)
                    if f is not py:  # NUMBA_DISABLE_JIT=1 leaves the plain function
                        cache = _cache(py, FLAGS | options) if cached else None
                        if cache is not None:
                            f._cache = cache
                        f.compile(signature(words, numba.from_dtype(dtype)))
                        f.disable_compile()
                    variants[dtype] = f
            return variants[dtype]

        @functools.wraps(py)
        def call(*args):
            dtype = args[first].dtype
            return (variants.get(dtype) or compiled(dtype))(*args)

        call.py = py
        call.compiled = compiled
        return call

    return wrap
