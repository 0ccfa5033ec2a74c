"""What the twins ask of their arguments, written once for every kernel set. Plain Python: no kernel calls it."""

import math
import operator

import numpy as np

from .activations import ACTIVATIONS
from .adam import N_PARTS, PARTS

TRANSPOSES = ("nn", "nt", "tn", "tt")


def is_one_element(name, value, dtype):
    """Is `value` an array (1,), rather than a number? Raises TypeError for an array of another dtype."""
    if getattr(value, "shape", None) != (1,):
        return False
    if value.dtype != dtype:
        raise TypeError(f"{name} must be a number or an array (1,) of {np.dtype(dtype)}, got {value.dtype}.")
    return True


def noise(seed, stream, step, out):
    """Raise ValueError or TypeError where random.uniform and random.normal cannot do what they are asked for."""
    numbers = [("seed", seed, 64), ("stream", stream, 32)]
    if not is_one_element("step", step, np.int64):
        numbers.append(("step", step, 32))
    for name, value, bits in numbers:
        if not 0 <= operator.index(value) < 2**bits:
            raise ValueError(f"{name} must be an integer from 0 to 2**{bits} - 1, got {value}.")
    if not (out.flags["C_CONTIGUOUS"] and getattr(out.flags, "writeable", True)):  # a device array's are a dict
        raise ValueError("out must be a writable C-contiguous array. Fill a new array and assign it: out[...] = new.")


def product(A, B, C, bias, transpose, activation):
    """The sizes M, N, K of C (M,N) = f(op(A) (M,K) op(B) (K,N) + bias). Raises ValueError or TypeError as gemm says."""
    if transpose not in TRANSPOSES:
        raise ValueError(f"transpose must be one of {TRANSPOSES}, got {transpose!r}.")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}.")
    M, K = A.shape if transpose[0] == "n" else A.shape[::-1]
    L, N = B.shape if transpose[1] == "n" else B.shape[::-1]
    if K != L:
        raise ValueError(
            f"op(A) must have as many columns as op(B) has rows, got {(M, K)} and {(L, N)} from A {tuple(A.shape)}, "
            f"B {tuple(B.shape)} and transpose={transpose!r}."
        )
    if tuple(C.shape) != (M, N):
        raise ValueError(f"C must have the shape {(M, N)}, got {tuple(C.shape)}.")
    if tuple(bias.shape) not in ((N,), (0,)):
        raise ValueError(f"bias must have the shape {(N,)}, or (0,) for none, got {tuple(bias.shape)}.")
    for name, x in (("A", A), ("B", B), ("bias", bias)):
        if x.dtype != C.dtype:
            raise TypeError(f"{name} must have the dtype of C, {C.dtype}, got {x.dtype}.")
    for name, x in (("A", A), ("B", B), ("bias", bias), ("C", C)):
        if not x.flags["C_CONTIGUOUS"]:
            raise ValueError(f"{name} must be C-contiguous. Say it with `transpose`, or copy it.")
    return M, N, K


def slopes(H, delta, db, activation):
    """Raise ValueError or TypeError where linear.back cannot do what it is asked for."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}.")
    B, N = delta.shape
    none = activation == "identity" and H.shape[0] == 0
    if not none and tuple(H.shape) != (B, N):
        raise ValueError(f"H must have the shape of delta, {(B, N)}, got {tuple(H.shape)}.")
    if tuple(db.shape) != (N,):
        raise ValueError(f"db must have the shape {(N,)}, got {tuple(db.shape)}.")
    for name, x in (("H", H), ("delta", delta), ("db", db)):
        if x.dtype != delta.dtype:
            raise TypeError(f"{name} must have the dtype of delta, {delta.dtype}, got {x.dtype}.")
        if not x.flags["C_CONTIGUOUS"]:
            raise ValueError(f"{name} must be C-contiguous.")


def step(theta, g, m, v, counter):
    """Raise ValueError or TypeError where adam.adam cannot step."""
    _vectors(theta, g, m, v)
    if not is_one_element("step", counter, np.int64):
        raise ValueError("step must be an int64 array (1,), the number of steps taken so far.")


def guarded_step(theta, g, m, v, counters, control):
    """Raise ValueError or TypeError where adam.descend cannot step."""
    _vectors(theta, g, m, v)
    size = PARTS + N_PARTS
    if counters.shape != (4,) or counters.dtype != np.int64:
        raise ValueError(f"counters must be an int64 array (4,), got {counters.dtype} {tuple(counters.shape)}.")
    if control.shape != (size,) or control.dtype != theta.dtype:
        raise ValueError(
            f"control must be an array ({size},) of {theta.dtype}, got {control.dtype} {tuple(control.shape)}. Both "
            "come from adam.memory."
        )


def _vectors(theta, g, m, v):
    for name, x in (("theta", theta), ("g", g), ("m", m), ("v", v)):
        if x.ndim != 1 or x.shape != theta.shape:
            raise ValueError(f"{name} must be a flat vector as long as theta, {theta.size}, got {tuple(x.shape)}.")
        if x.dtype != theta.dtype:
            raise TypeError(f"{name} must have the dtype of theta, {theta.dtype}, got {x.dtype}.")


def decays(beta1, beta2):
    """1 - beta1, 1 - beta2, log(beta1), log(beta2), in float64. Raises ValueError for a beta outside of [0, 1)."""
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {beta}.")
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    return 1 - beta1, 1 - beta2, *logs
