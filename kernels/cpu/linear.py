"""Matrix products with what a layer does next: the product by BLAS, then bias and activation in one pass over C."""

import numpy as np

from .. import pool
from ..jit import FAST, kernel
from ..shared import checks
from ..shared.activations import ACTIVATIONS, SLOPES

BLOCK = 1 << 18  # elements a thread finishes at a time: up to 0.1 ms; less does not pay for waking one


def _epilogue(f):
    @kernel("T2w T1")
    def epilogue(C, bias):
        """C <- f(C + bias).   C (B,N), bias (N,)"""
        for n in range(C.shape[0]):
            for j in range(C.shape[1]):
                C[n, j] = f(C[n, j] + bias[j])

    return epilogue


def _prologue(slope):
    @kernel("T2 i i T2w T1w", fastmath=FAST)
    def prologue(H, first, last, delta, db):
        """delta <- delta f'(H) and db = sum_n delta_n, in columns first to last.   H, delta (B,N), db (N,)"""
        d = db[first:last]
        for j in range(d.size):
            d[j] = 0
        for n in range(len(delta)):
            v, h = delta[n, first:last], H[n, first:last] if len(H) else delta[n, first:last]
            for j in range(d.size):
                v[j] *= slope(h[j])
                d[j] += v[j]

    return prologue


_epilogues = {name: _epilogue(f) for name, f in ACTIVATIONS.items()}
_prologues = {name: _prologue(f) for name, f in SLOPES.items()}


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


def back(H, delta, db, activation="identity"):
    """delta <- delta f'(A) and db = sum of its rows, for H = f(A): the slopes in A and in the bias, of those in H.

    H, delta (B,N), db (N,): C-contiguous, all float32 or all float64. With activation="identity" H may be (0,N).
    activation: as in `gemm`. f' is made of H; where f saturates it is as exact as 1 - H is. What is raised: as there.

    >>> import numpy as np, lvm
    >>> H, delta, db = np.array([[0.0, 2], [3, 0]]), np.ones((2, 2)), np.empty(2)
    >>> lvm.kernels.load("cpu").linear.back(H, delta, db, "relu")
    >>> delta.tolist(), db.tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [1.0, 1.0])
    """
    checks.slopes(H, delta, db, activation)
    B, N = delta.shape
    columns = min(max(16, BLOCK // max(B, 1) // 16 * 16), max(N, 1))
    prologue = _prologues[activation]
    pool.run(lambda b: prologue(H, b * columns, min((b + 1) * columns, N), delta, db), -(-N // columns))
