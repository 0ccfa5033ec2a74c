"""Kernel sets: the inner loops, once for the CPU and once for CUDA, with one face.

    k = lvm.kernels.load("cpu")          # a module: k.mixture, k.random, k.put, k.get, k.empty, k.sync, k.capture

A kernel takes arrays of its own set and writes into output arguments that the caller allocated. Letters, as in
the papers: N samples, D features, K components, B rows of a block; X (N,D) data; w (N,) weights of rows; pi (K,),
mu (K,D), Sigma mixture; P inverse Cholesky factor of a covariance; r responsibilities; S flat sufficient statistics.
"""

if __name__ != "lvm.kernels":
    raise ImportError(
        f"This folder is lvm.kernels, got imported as {__name__!r}; the name `kernels` belongs to another "
        "package. Write `from lvm import kernels`."
    )

SETS = ("cpu", "cuda")
# Multiplications from which "auto" takes the GPU: some ten seconds of two CPU cores. CUDA kernels are compiled in each
# process anew, which alone takes a good part of that. Not yet measured on a GPU.
PAYS = 2**38


def load(device: str = "cpu", work: float = 0, size: float = 0):
    """The kernel set for `device`: a module.

    "auto" is "cuda" where `work`, the number of multiplications, is at least 2^38, and there is a GPU to be used with
    room for twice `size` bytes, and else "cpu"; it never is Numba's simulator.
    Raises ValueError for a name that is no device, RuntimeError for a device that cannot be used here.

    >>> from lvm import kernels
    >>> kernels.load("cpu").__name__
    'lvm.kernels.cpu'
    """
    import importlib

    if device not in (*SETS, "auto"):
        raise ValueError(f"device must be one of {(*SETS, 'auto')}, got {device!r}.")
    if device == "auto":
        pays = work >= PAYS and not _simulated() and available("cuda")
        device = "cuda" if pays and importlib.import_module(f"{__name__}.cuda.api").room() >= 2 * size else "cpu"
    why = "" if device == "cpu" else missing()
    if why:
        raise RuntimeError(
            f"device='cuda' cannot be used here. {why} Or use device='cpu'; of a model, set_params(device='cpu')."
        )
    return importlib.import_module(f"{__name__}.{device}")


def available(device: str) -> bool:
    """Can `device` be used here and now?

    >>> from lvm import kernels
    >>> kernels.available("cpu")
    True
    """
    return device == "cpu" or (device == "cuda" and not missing())


def missing() -> str:
    """What keeps CUDA from being used here, a package, a driver or a GPU, and what to do; "" if nothing does.

    Asks the driver, which takes some tenths of a second the first time. With NUMBA_ENABLE_CUDASIM=1 in the environment,
    Numba's simulator runs the kernels, very slowly, and nothing is missing."""
    import importlib.util

    if not _simulated() and importlib.util.find_spec("numba_cuda") is None:
        return (
            "The package numba-cuda is not installed: pip install 'lvm[cuda13]' (NVIDIA driver 580 or later), or "
            "pip install 'lvm[cuda12]'."
        )
    from .cuda import api

    return api.missing()


def _simulated() -> bool:
    import os

    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
