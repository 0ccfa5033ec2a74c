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


def load(device: str = "cpu"):
    """The kernel set for `device`: a module.

    Raises ValueError for a name that is no device, RuntimeError for a device that cannot be used here.

    >>> from lvm import kernels
    >>> kernels.load("cpu").__name__
    'lvm.kernels.cpu'
    """
    import importlib

    if device not in SETS:
        raise ValueError(f"device must be one of {SETS}, got {device!r}.")
    if not available(device):
        raise RuntimeError("device='cuda' has no kernels in this version of lvm. Use device='cpu'.")
    return importlib.import_module(f"{__name__}.{device}")


def available(device: str) -> bool:
    """Can `device` be used here and now?

    >>> from lvm import kernels
    >>> kernels.available("cpu")
    True
    """
    return device == "cpu"
