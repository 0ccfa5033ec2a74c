"""cuBLAS, where it is found: products of large matrices. Has no twin: on the CPU NumPy brings its own BLAS."""

import ctypes
import ctypes.util
import threading
import weakref

import numpy as np

from .api import SIMULATED, cuda, stream

WORKSPACE = 32 << 20  # bytes, as NVIDIA advises for Hopper. Given by us, since cuBLAS may not allocate during a capture
OPERATIONS = {"n": 0, "t": 1}
_lock = threading.RLock()
_library = _handle = None
_tried = False
_workspaces: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()  # by stream: kernels of two may run at once
_default_workspace = None


def found() -> bool:
    """Is there a cuBLAS that works here? The first call looks for it."""
    global _library, _handle, _tried
    with _lock:
        if not _tried:
            _tried = True
            _library = _load()
            handle = ctypes.c_void_p()
            if _library is not None:
                cuda.current_context()
                if _library.cublasCreate_v2(ctypes.byref(handle)) == 0:  # else it is not one for this driver
                    _handle = handle
                    _call("cublasSetMathMode", 0)  # CUBLAS_DEFAULT_MATH: float32 stays float32, no TF32
        return _handle is not None


def _load():
    """The library, or None."""
    if SIMULATED:
        return None
    try:
        from cuda import pathfinder

        name = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
    except Exception:  # the package is not there, or does not find it
        name = ctypes.util.find_library("cublas")
    try:
        return ctypes.CDLL(name) if name else None
    except OSError:
        return None


def _call(name, *args):
    """Call a function of cuBLAS with our handle; RuntimeError unless it succeeds."""
    status = getattr(_library, name)(_handle, *args)
    if status != 0:
        raise RuntimeError(f"cuBLAS: {name} failed with status {status}.")


def column_major(transpose, M, N, K):
    """How a BLAS of column-major matrices is asked for C = op(A) op(B) of row-major ones, B its first factor and A its
    second: op of the first, op of the second, m, n, k, lda, ldb, ldc.

    A row-major matrix is, read by columns, its transpose with the same leading dimension, its row length. So C' (N,M)
    is asked for, and C' = op(B)' op(A)', where op(X)' is what is stored, transposed if and only if X is to be."""
    return transpose[1], transpose[0], N, M, K, N if transpose[1] == "n" else K, K if transpose[0] == "n" else M, N


def gemm(A, B, C, transpose):
    """Queue C = op(A) op(B).   op(A) (M,K), op(B) (K,N), C (M,N): device arrays as linear.gemm has checked them."""
    M, N = C.shape
    K = A.shape[1] if transpose[0] == "n" else A.shape[0]
    op_b, op_a, m, n, k, ldb, lda, ldc = column_major(transpose, M, N, K)
    number, name = (ctypes.c_float, "cublasSgemm_v2") if C.dtype == np.float32 else (ctypes.c_double, "cublasDgemm_v2")
    one, zero = number(1), number(0)
    sizes = [ctypes.c_int(i) for i in (m, n, k)]
    with _lock:  # the handle has one stream at a time
        _to_stream()
        _call(
            name, OPERATIONS[op_b], OPERATIONS[op_a], *sizes, ctypes.byref(one), _pointer(B), ctypes.c_int(ldb),
            _pointer(A), ctypes.c_int(lda), ctypes.byref(zero), _pointer(C), ctypes.c_int(ldc),
        )  # fmt: skip


def _to_stream():
    """Have cuBLAS queue in this thread's stream, with a workspace of that stream's own."""
    global _default_workspace
    here = stream()
    if here == 0:
        if _default_workspace is None:
            _default_workspace = _new_workspace()
        workspace = _default_workspace
    else:
        if here not in _workspaces:
            _workspaces[here] = _new_workspace()
        workspace = _workspaces[here]
    _call("cublasSetStream_v2", ctypes.c_void_p(int(here)))  # forgets the workspace
    _call("cublasSetWorkspace_v2", _pointer(workspace), ctypes.c_size_t(WORKSPACE))


def _new_workspace():
    """Memory on the device. It may be needed first while a graph is recorded, when memory may be had only if asked for
    in relaxed mode: what is allocated is no part of the graph."""
    from cuda.bindings import driver

    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    _, before = driver.cuThreadExchangeStreamCaptureMode(relaxed)
    try:
        return cuda.device_array(WORKSPACE, np.uint8)
    finally:
        driver.cuThreadExchangeStreamCaptureMode(before)


def _pointer(x):
    return ctypes.c_void_p(x.device_ctypes_pointer.value)
