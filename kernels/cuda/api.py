"""The one module that imports numba.cuda: how CUDA kernels are compiled and launched, and where their arrays live.

    @kernel("T2 d1 T2w i")                 # words as in lvm.kernels.jit; scalars are converted to them at each launch
    def _f(X, w, out, n): ...              # `cuda`, from here, is numba.cuda

    _f(blocks, threads, X, w, out, n)      # queued, and not waited for

Everything runs in one stream, so that what was queued first is done first. In Numba's simulator
(NUMBA_ENABLE_CUDASIM=1) the same calls work on the host, one at a time. Other modules say `from .api import cuda`.
"""

import functools
import gc
import math
import os
import sys
import threading
import warnings
import weakref

import numba
import numpy as np

from ..jit import signature

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def _load():
    """numba.cuda, able to compile. numba-cuda 0.30 registers an overload of np.row_stack, which NumPy 2.5 has not, and
    compiles nothing without it (its issue 907): NumPy has the name while that module is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy 2.5, about numba-cuda: an error under -W error
        from numba import cuda

        if not SIMULATED and not hasattr(np, "row_stack"):
            np.row_stack = lambda tup: np.vstack(tup)  # noqa: NPY201  (ruff --fix would set np.vstack)
            try:
                import numba.cuda.np.arrayobj  # noqa: F401
            except ImportError:  # another layout of the package
                pass
            finally:
                del np.row_stack  # noqa: NPY201
    return cuda


def missing() -> str:
    """What the driver lacks, in a sentence or two, or ""."""
    if SIMULATED:
        return ""
    from numba.cuda.cudadrv.driver import driver

    if not driver.is_available:
        why = " ".join(str(driver.initialization_error).split())
        return f"The NVIDIA driver cannot be used: {why} Try `nvidia-smi`, which must list a GPU."
    if driver.get_device_count() == 0:
        return "The NVIDIA driver finds no GPU. Try `nvidia-smi`, and look at CUDA_VISIBLE_DEVICES."
    if numba.config.CUDA_PER_THREAD_DEFAULT_STREAM:
        return "NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM is set, and lvm queues all in the one common stream. Unset it."
    return _trial()


@functools.cache
def _trial() -> str:
    """What goes wrong when a kernel is compiled and run, or "". Tried once."""
    try:
        cast(put(np.ones(1, np.float32)), np.float64).copy_to_host()
    except Exception as e:
        said = f"{type(e).__name__}: {e}".splitlines()[0]
        return (
            f"No kernel can be compiled and run ({said}). Driver, compiler and GPU must fit together: "
            "pip install 'lvm[cuda13]' (driver 580 or later), or pip install 'lvm[cuda12]'."
        )
    return ""


def room() -> int:
    """Bytes of device memory that are free."""
    return cuda.current_context().get_memory_info()[0] + sum(size * len(pieces) for size, pieces in list(_free.items()))


def device_name() -> str:
    """The GPU in use and its memory.   For example "NVIDIA H200, 139.8 GiB"."""
    if SIMULATED:
        return "Numba's simulator (NUMBA_ENABLE_CUDASIM)"
    _, total = cuda.current_context().get_memory_info()
    name = cuda.get_current_device().name
    return f"{name.decode() if isinstance(name, bytes) else name}, {total / 2**30:.1f} GiB"


cuda = _load()
KERNELS: "list[Kernel]" = []  # all there are, for whoever wants to compile them
_here = threading.local()  # _here.stream: where this thread queues its kernels, while it records a graph
_lock = threading.RLock()


def stream():
    """The stream that this thread queues kernels in."""
    return getattr(_here, "stream", 0)


class Kernel:
    """A CUDA kernel, compiled for float32 or float64 at the first launch with arrays of that type."""

    def __init__(self, py, spec, double, options):
        self.py, self.words, self.double, self.options = py, spec.split(), double, options
        self.first = next(i for i, s in enumerate(self.words) if s[0] == "T" and len(s) > 1)
        self.ndims = [int(s[1]) if len(s) > 1 else 0 for s in self.words]
        self.variants: dict = {}  # by dtype
        self.configured: dict = {}  # by dtype, blocks, threads; in the common stream
        self.__name__, self.__doc__, self.__module__ = py.__name__, py.__doc__, py.__module__
        KERNELS.append(self)

    def signature(self, dtype):
        """Numba types of the arguments, for float32 or float64."""
        return signature(self.words, numba.from_dtype(np.dtype(dtype)), readonly=False)

    def compiled(self, dtype):
        """numba.cuda's dispatcher for float32 or float64, compiled now if it was not."""
        dtype = np.dtype(dtype)
        with _lock:
            if dtype not in self.variants:
                if dtype not in (np.float32, np.float64):
                    raise TypeError(f"{self.__name__} takes float32 or float64 arrays, got {dtype}. Convert them.")
                if SIMULATED:  # its jit takes no other options
                    self.variants[dtype] = cuda.jit(self.py)
                else:
                    self.variants[dtype] = cuda.jit(self.signature(dtype), **self.options)(self.py)
        return self.variants[dtype]

    def __call__(self, blocks, threads, *args):
        """Queue it on `blocks` blocks (an integer, or a tuple) of `threads` threads."""
        dtype = args[self.first].dtype
        recorded = stream() != 0
        configured = None if recorded else self.configured.get((dtype, blocks, threads))
        if configured is None:
            configured = self._configure(dtype, blocks, threads)
        if min(blocks) == 0 if isinstance(blocks, tuple) else blocks == 0:
            return
        numbers = _numbers(dtype)
        given = []
        for i, (word, a) in enumerate(zip(self.words, args, strict=True)):
            if len(word) == 1:
                given.append(numbers[word].type(a))
            elif isinstance(a, np.ndarray):
                raise TypeError(f"{self.__name__} takes arrays of the device, got a NumPy array. Try k.put.")
            elif a.dtype != numbers[word[0]] or a.ndim != self.ndims[i] or not a.is_c_contiguous():
                self._refuse(dtype, i, a)
            else:
                given.append(a)
        if SIMULATED:
            with _lock, np.errstate(all="ignore"):  # a device warns of nothing
                self.compiled(dtype)[blocks, threads](*given)
        else:
            configured(*given)

    def _configure(self, dtype, blocks, threads):
        compiled = self.compiled(dtype)
        if isinstance(blocks, tuple) and max(blocks[1:]) > 65535:
            raise ValueError(
                f"{self.__name__} would take {blocks} blocks, and a GPU takes at most 65535 along the second and third "
                "axis. Try fewer components or columns, or device='cpu'."
            )
        with _lock, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Grid size")  # small problems have small grids
            configured = compiled[blocks, threads, stream()]
        if stream() == 0:
            self.configured[dtype, blocks, threads] = configured
        return configured

    def _refuse(self, dtype, i, a):
        """TypeError for an array of another kind: numba.cuda launches a kernel of one signature with what it is given,
        and its memory would be taken for what the kernel wants."""
        got = "" if a.is_c_contiguous() else "non-contiguous "
        wanted = self.signature(dtype)[i]
        raise TypeError(f"{self.__name__}, argument {i}: wanted {wanted}, got {got}{a.dtype}, {a.ndim}d.")


@functools.cache
def _numbers(dtype):
    """What the letters of a specification mean."""
    return {"T": dtype, "d": np.dtype(np.float64), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}


def kernel(spec, *, double=False, **options):
    """Decorator: a CUDA kernel of the argument types `spec`. double: is it meant to compute in float64 when T is
    float32? `options` go to numba.cuda.jit (fastmath, max_registers, ...)."""

    def wrap(py):
        return Kernel(py, spec, double, options)

    return wrap


def device_function(py):
    """Decorator: a function for kernels that uses `cuda` itself; others are `shared` (lvm.kernels.shared.scalar)."""
    return cuda.jit(device=True)(py)


@device_function
def block_sum(parts):
    """The sum of `parts`, a shared array of an entry for each thread of the block, a power of two: the same for all."""
    t, half = cuda.threadIdx.x, cuda.blockDim.x >> 1
    cuda.syncthreads()
    while half > 0:
        if t < half:
            parts[t] += parts[t + half]
        cuda.syncthreads()
        half >>= 1
    return parts[0]


def put(x):
    """A NumPy array as an array on the device. One that is there already is itself."""
    there = getattr(x, "on_device", None)  # see lvm.estimator
    x = x if there is None else there
    if not isinstance(x, np.ndarray):
        return x if SIMULATED else _taken(x)
    flat = np.ascontiguousarray(x).reshape(-1)  # numba.cuda would keep the stride 0 of an axis made by x[None]
    return _allocated(lambda: cuda.to_device(flat, stream=stream()), x.shape, x.dtype).reshape(x.shape)


def _taken(x):
    """Somebody's array on the device as one of numba.cuda's, without a copy, when what is queued for it is done."""
    if _package(x) == "torch":  # whose arrays do not name their stream
        sys.modules["torch"].cuda.current_stream(x.device).synchronize()
    a = x if hasattr(x, "copy_to_host") else cuda.as_cuda_array(x)
    if a.size:
        from cuda.bindings import driver

        which = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        (gpu,) = _checked(driver.cuPointerGetAttribute(which, a.device_ctypes_pointer.value))
        if gpu != _first_gpu():
            raise ValueError(
                f"lvm works on one GPU in a process, number {_first_gpu()}, and got an array on number {gpu}. Copy it "
                "there, or set CUDA_VISIBLE_DEVICES."
            )
    return a


@functools.cache
def _first_gpu():
    """The number of the GPU that this process began on."""
    return cuda.get_current_device().id


def _package(x):
    """The name of the first package known here that the class of x comes from, or ""."""
    roots = [base.__module__.partition(".")[0] for base in type(x).__mro__]
    return next((root for root in roots if root in ("cupy", "torch")), "")


def get(x, like=None):
    """An array on the device as a NumPy array, or of the kind of `like`: CuPy, PyTorch (never imported here), numba.

    CuPy and PyTorch get a copy of their own, complete in whatever stream they go on with it."""
    given = getattr(like, "given", None)  # see lvm.estimator
    if given is None:
        return x.copy_to_host() if hasattr(x, "copy_to_host") else x
    sync()
    if _package(given) == "cupy":
        x = sys.modules["cupy"].array(x)
    elif _package(given) == "torch":
        x = sys.modules["torch"].as_tensor(x, device=given.device).clone()
    sync()
    return x


KEPT = 2**30  # bytes of device memory that wait to be used again
_free: "dict[int, list]" = {}  # pieces of it, by size
_used: dict = {}  # pieces in use, by address


class _Lent:
    """A piece of device memory in use: it is free again when the last array and view on it is gone.

    The piece is held in _used, not here: what the garbage collector finds in a cycle has its weak references called
    before any __del__, and numba gives memory back to the driver by one. _free would get a piece that is no more."""

    def __init__(self, memory):
        self.at = memory.device_ctypes_pointer.value
        _used[self.at] = memory

    def __del__(self):
        if _free is not None:  # at the end of the process
            memory = _used.pop(self.at)
            if sum(size * len(pieces) for size, pieces in list(_free.items())) + memory.size > KEPT:
                _free.clear()
            if memory.size <= KEPT:
                _free.setdefault(memory.size, []).append(memory)


def empty(shape, dtype):
    """An uninitialised array on the device, in memory that an earlier one had where there is some.

    The driver takes a millisecond to give and take back a large piece, and waits for all kernels (CuPy and PyTorch keep
    theirs, too). It may be given out while kernels on the earlier array still wait: those come first in the stream."""
    if stream() != 0:
        raise RuntimeError("A recorded step may not make arrays: others would get their memory. Make them before it.")
    dtype, shape = np.dtype(dtype), tuple(map(int, shape)) if np.iterable(shape) else (int(shape),)
    size = math.prod(shape) * dtype.itemsize
    if SIMULATED or size == 0:
        return _allocated(lambda: cuda.device_array(shape, dtype), shape, dtype)
    size = -(-size // 512) * 512
    try:
        memory = _free[size].pop()
    except (KeyError, IndexError):
        memory = _allocated(lambda: cuda.device_array(size, np.uint8), shape, dtype)
    lent = _Lent(memory)
    description = {"shape": shape, "typestr": dtype.str, "data": (lent.at, False), "strides": None, "version": 3}
    return cuda.from_cuda_array_interface(description, owner=lent)


@kernel("T1 d1w", double=True)
def _widen(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = x[i]


@kernel("T1w d1", double=True)
def _narrow(out, x):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = out.dtype.type(x[i])


def cast(x, dtype):
    """An array on the device in another dtype; itself if it has it. float32 and float64."""
    if x.dtype == dtype:
        return x
    out = empty(x.shape, dtype)
    args = (x.reshape(x.size), out.reshape(x.size))
    if out.dtype == np.float64:
        _widen(-(-x.size // 256), 256, *args)
    else:
        _narrow(-(-x.size // 256), 256, *args[::-1])
    return out


def _allocated(allocate, shape, dtype):
    """allocate(), or MemoryError with the sizes; what only waits for the garbage collector is collected first."""
    for attempt in range(2):
        try:
            return allocate()
        except Exception as e:
            if "OUT_OF_MEMORY" not in str(e) and "out of memory" not in str(e):
                raise
        if attempt == 0:
            gc.collect()
            _free.clear()
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    free, total = cuda.current_context().get_memory_info()
    raise MemoryError(
        f"The GPU has no room for an array {shape} of {np.dtype(dtype)}: wanted "
        f"{size / 2**20:,.0f} MiB, free {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB. Try float32, fewer rows at a "
        "time (fit takes a function of blocks), or device='cpu'."
    )


def sync():
    """Wait until all that was queued is done."""
    cuda.synchronize()


class _Graph:
    """A recorded step: see `capture`."""

    def __init__(self, step):
        self.step, self.calls, self.graph = step, 0, None

    def __call__(self):
        self.calls += 1
        if self.calls == 1:  # compiles
            self.step()
            sync()
            return
        if self.graph is None:
            self._record()
        from cuda.bindings import driver

        _checked(driver.cuGraphLaunch(self.graph, 0))

    def _record(self):
        from cuda.bindings import driver

        if not hasattr(_here, "recorder"):  # one a thread for good, that the work of other threads cannot disturb
            (made,) = _checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            _here.recorder = cuda.external_stream(int(made))
        handle = int(_here.recorder)
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _here.stream = _here.recorder
        try:
            with cuda.defer_cleanup():  # memory may not be given back while a stream is recorded
                _checked(driver.cuStreamBeginCapture(handle, mode))
                try:
                    self.step()
                except BaseException:
                    driver.cuStreamEndCapture(handle)  # fails, too; the error to see is the first
                    raise
                (graph,) = _checked(driver.cuStreamEndCapture(handle))
        finally:
            del _here.stream
        (self.graph,) = _checked(driver.cuGraphInstantiate(graph, 0))
        weakref.finalize(self, driver.cuGraphExecDestroy, self.graph).atexit = False
        _checked(driver.cuGraphDestroy(graph))


def _checked(result):
    """What a driver call gave besides its status, or RuntimeError."""
    if int(result[0]) != 0:
        raise RuntimeError(f"The CUDA driver said {result[0].name}.")
    return result[1:]


def capture(step):
    """`step`, a function without arguments that only queues kernels on arrays which stay where they are, made cheap to
    repeat: the first call runs it, the second records it as a CUDA graph, and from then on one launch replays it."""
    return step if SIMULATED else _Graph(step)
