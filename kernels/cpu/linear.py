"""Matrix products with what a layer does next: the product by BLAS, then bias and activation in one pass over C."""

import numpy as np

from .. import pool
from ..jit import kernel
from ..shared import checks
from ..shared.activations import ACTIVATIONS

BLOCK = 1 << 15  # elements a thread finishes at a time


def _epilogue(f):
    @kernel("T2w T1")
    def epilogue(C, bias):
        """C <- f(C + bias).   C (B,N), bias (N,)"""
        for n in range(C.shape[0]):
            for j in range(C.shape[1]):
                C[n, j] = f(C[n, j] + bias[j])

    return epilogue


_epilogues = {name: _epilogue(f) for name, f in ACTIVATIONS.items()}


def gemm(A, B, C, bias, transpose="nn", activation="identity"):
    """C = f(op(A) op(B) + bias).   op(A) (M,K), op(B) (K,N), C (M,N), bias (N,), or (0,) for none; f on each element.

    A, B, C, bias: C-contiguous, all float32 or all float64; C may be none of the others.
    transpose: op of A, then of B; "n" takes it as it is, "t" its transpose, so that A is (K,M) or B (N,K). A layer
    X W is "nn", and its gradients, for adjoints delta of the sums: delta W' "nt" and X' delta "tn".
    activation: "identity", "relu", "leaky_relu" (0.01 x below 0), "tanh", "sigmoid" or "softplus".
    Raises ValueError for another word, shapes that do not fit or arrays that are not contiguous, TypeError for dtypes
    that differ or are neither of the two.

    >>> import numpy as np, lvm
    >>> C = np.empty((2, 1))
    >>> lvm.kernels.load("cpu").linear.gemm(np.eye(2), np.array([[3.0, -4]]), C, np.ones(1), "nt", "relu")
    >>> C.tolist()
    [[4.0], [0.0]]
    """
    M, N, _ = checks.product(A, B, C, bias, transpose, activation)
    np.matmul(A if transpose[0] == "n" else A.T, B if transpose[1] == "n" else B.T, out=C)
    if activation == "identity" and bias.size == 0:
        return
    bias = bias if bias.size else np.zeros(N, C.dtype)
    rows = max(1, BLOCK // max(N, 1))
    epilogue = _epilogues[activation]
    pool.run(lambda b: epilogue(C[b * rows : (b + 1) * rows], bias), -(-M // rows))
