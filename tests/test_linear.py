"""Matrix products with bias and activation: both twins against NumPy, the call of cuBLAS against a real BLAS."""

import ctypes
import itertools
import os

import numpy as np
import pytest
import scipy.linalg.blas
import scipy.special

import lvm
from lvm import kernels
from lvm.kernels.shared.activations import ACTIVATIONS, activate

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
transpose_ = pytest.mark.parametrize("transpose", ["nn", "nt", "tn", "tt"])
F = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
}

F_SLOPES = {  # of a sum, not of what f makes of it
    "identity": lambda x: np.ones_like(x),
    "relu": lambda x: np.where(x > 0, 1.0, 0),
    "leaky_relu": lambda x: np.where(x < 0, 0.01, 1),
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "sigmoid": lambda x: scipy.special.expit(x) * scipy.special.expit(-x),
    "softplus": scipy.special.expit,
}


def problem(T, transpose, M, N, K, biased=True):
    """A, B, bias and C, yet NaN."""
    rng = np.random.default_rng(M + 10 * N + 100 * K)
    A = rng.normal(size=(M, K) if transpose[0] == "n" else (K, M)).astype(T)
    B = rng.normal(size=(K, N) if transpose[1] == "n" else (N, K)).astype(T)
    return A, B, rng.normal(size=N if biased else 0).astype(T), np.full((M, N), np.nan, T)


def sums(A, B, bias, transpose):
    """op(A) op(B) + bias in float64, and what a rounded sum may be off by: so many roundings of its terms' sizes."""
    op = lambda X, t: np.asarray(X, np.float64).T if t == "t" else np.asarray(X, np.float64)
    A, B, bias = op(A, transpose[0]), op(B, transpose[1]), bias.astype(np.float64) if bias.size else 0
    return A @ B + bias, 8 * (abs(A) @ abs(B) + abs(bias))


def on_device(cuda_set, A, B, bias, C, *words):
    out = cuda_set.put(C)
    cuda_set.linear.gemm(cuda_set.put(A), cuda_set.put(B), out, cuda_set.put(bias), *words)
    return cuda_set.get(out)


@T_
@transpose_
def test_products_are_those_of_numpy(T, transpose):
    gemm = kernels.load("cpu").linear.gemm
    for M, N, K, biased in ((1, 1, 1, True), (7, 5, 3, False), (40, 30, 70, True), (3, 4, 0, True), (0, 4, 2, True)):
        A, B, bias, C = problem(T, transpose, M, N, K, biased)
        want, allowed = sums(A, B, bias, transpose)
        gemm(A, B, C, bias, transpose)
        assert (abs(C - want) <= np.finfo(T).eps * allowed).all()


@T_
@pytest.mark.parametrize("activation", F)
def test_activations_are_their_formulas(T, activation):
    A, B, bias, C = problem(T, "nn", 300, 200, 4)
    gemm = kernels.load("cpu").linear.gemm
    gemm(A, B, C, bias)
    want = F[activation](C.astype(np.float64))
    gemm(A, B, C, bias, activation=activation)
    np.testing.assert_allclose(C, want, rtol=4 * np.finfo(T).eps, atol=4 * np.finfo(T).eps)


def test_activations_keep_nan_and_their_number():
    assert list(ACTIVATIONS) == list(F)
    for T, (i, f) in itertools.product((np.float32, np.float64), enumerate(ACTIVATIONS.values())):
        for x in (T(-3), T(0.5)):
            assert activate(i, x) == f(x)
            assert type(f(x)) is T
        assert np.isnan(f(T(np.nan)))


@T_
@pytest.mark.parametrize("activation", F_SLOPES)
def test_slopes_go_back_through_an_activation_and_add_up_to_those_of_the_bias(T, activation, monkeypatch):
    """Also where columns come in several blocks, the last not full."""
    back, eps = kernels.load("cpu").linear.back, np.finfo(T).eps
    monkeypatch.setattr(kernels.load("cpu").linear, "BLOCK", 3000)
    for B, N in ((1, 1), (7, 5), (300, 40)):
        rng = np.random.default_rng(B)
        A, delta, db = 2 * rng.normal(size=(B, N)), rng.normal(size=(B, N)).astype(T), np.full(N, np.nan, T)
        want = delta * F_SLOPES[activation](A)
        H = F[activation](A).astype(T)
        back(H, delta, db, activation)
        np.testing.assert_allclose(delta, want, rtol=4 * eps, atol=20 * eps)
        allowed = eps * np.sqrt(B) * (np.abs(want).sum(0) + 20)
        assert (np.abs(db - want.sum(0)) <= allowed).all()
        if activation == "identity":
            before, again = delta.copy(), np.full(N, np.nan, T)
            back(np.empty((0, N), T), delta, again)
            np.testing.assert_array_equal(delta, before)
            np.testing.assert_array_equal(again, db)


def test_what_goes_back_is_not_a_number_where_anything_is_not():
    back = kernels.load("cpu").linear.back
    for activation in ("tanh", "softplus", "sigmoid"):
        H, delta, db = np.full((3, 2), 0.5), np.ones((3, 2)), np.empty(2)
        H[1, 0] = np.nan
        back(H, delta, db, activation)
        assert np.isnan(db[0])
        assert np.isfinite(db[1])
    for activation in F:
        H, delta, db = np.full((3, 2), 0.5), np.ones((3, 2)), np.empty(2)
        delta[1, 0] = np.nan
        back(H, delta, db, activation)
        assert np.isnan(db[0])
        assert np.isfinite(db[1])


def test_slopes_that_do_not_fit_are_refused():
    back, x = kernels.load("cpu").linear.back, np.ones((3, 2))
    for args, error, said in (
        ((x, x, np.ones(3), "relu"), ValueError, r"db must have the shape \(2,\), got \(3,\)"),
        ((x[:2], x, np.ones(2), "relu"), ValueError, r"H must have the shape of delta, \(3, 2\), got \(2, 2\)"),
        ((x[:0], x, np.ones(2), "relu"), ValueError, r"H must have the shape of delta, \(3, 2\), got \(0, 2\)"),
        ((x, x, np.ones(2), "sine"), ValueError, "activation must be one of .*, got 'sine'"),
        (
            (x.astype(np.float32), x, np.ones(2), "relu"),
            TypeError,
            "H must have the dtype of delta, float64, got float32",
        ),
        ((np.ones((2, 3)).T, x, np.ones(2), "relu"), ValueError, "H must be C-contiguous"),
    ):
        with pytest.raises(error, match=f"^{said}"):
            back(*args)


def test_threads_do_not_change_a_bit(monkeypatch):
    results, linear = [], kernels.load("cpu").linear
    monkeypatch.setattr(linear, "BLOCK", 5000)
    try:
        for threads in (1, 3):
            lvm.set_num_threads(threads)
            A, B, bias, C = problem(np.float32, "nn", 500, 300, 5)
            linear.gemm(A, B, C, bias, activation="tanh")
            H, delta, db = C.copy(), 2 * C, np.full(300, np.nan, np.float32)
            linear.back(H, delta, db, "tanh")
            results.append(np.concatenate([C, delta, db[None]]))
    finally:
        lvm.set_num_threads(None)
    np.testing.assert_array_equal(*results)


@T_
@transpose_
@pytest.mark.parametrize(
    ("many_tiles", "M", "N", "K"),
    [(1000, 35, 19, 70), (1000, 5, 33, 129), (0, 67, 70, 18)],
    ids=["small", "long", "large"],
)
def test_the_twins_agree_to_rounding(cuda_set, T, transpose, many_tiles, M, N, K, monkeypatch):
    """Both tiles, sizes that no tile divides, K of one slab and of several."""
    monkeypatch.setattr(cuda_set.linear, "MANY_TILES", many_tiles)
    A, B, bias, C = problem(T, transpose, M, N, K)
    want, allowed = sums(A, B, bias, transpose)
    got = on_device(cuda_set, A, B, bias, C, transpose)
    assert got.dtype == T
    assert (abs(got - want) <= np.finfo(T).eps * allowed).all()


@T_
@pytest.mark.parametrize("activation", F)
def test_the_twins_agree_on_bias_and_activation(cuda_set, T, activation):
    for biased in (True, False):
        A, B, bias, C = problem(T, "nn", 3, 18, 2, biased)
        got = on_device(cuda_set, A, B, bias, C, "nn", activation)
        kernels.load("cpu").linear.gemm(A, B, C, bias, "nn", activation)
        np.testing.assert_allclose(got, C, rtol=16 * np.finfo(T).eps, atol=16 * np.finfo(T).eps)


def test_the_twins_agree_on_next_to_nothing(cuda_set):
    for M, N, K in ((1, 1, 1), (2, 3, 0), (0, 3, 2), (2, 0, 2), (33, 17, 64)):
        A, B, bias, C = problem(np.float32, "nn", M, N, K)
        want, allowed = sums(A, B, bias, "nn")
        assert (abs(on_device(cuda_set, A, B, bias, C) - want) <= np.finfo(np.float32).eps * allowed).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_does_not_fit_is_refused(device, order):
    k = kernels.load(device)
    gemm, empty = k.linear.gemm, k.empty
    x = {s: empty(s, np.float32) for s in ((2, 3), (3, 4), (2, 4), (4, 2))}
    bias = empty(4, np.float32)
    gemm(x[2, 3], x[3, 4], x[2, 4], bias)
    with pytest.raises(ValueError, match=r"transpose must be one of \('nn', 'nt', 'tn', 'tt'\), got 'n'\."):
        gemm(x[2, 3], x[3, 4], x[2, 4], bias, "n")
    with pytest.raises(ValueError, match=r"activation must be one of \('identity', .*'softplus'\), got 'gelu'\."):
        gemm(x[2, 3], x[3, 4], x[2, 4], bias, activation="gelu")
    message = r"as op\(B\) has rows, got \(2, 3\) and \(2, 4\) from A \(2, 3\), B \(4, 2\) and transpose='nt'\."
    with pytest.raises(ValueError, match=message):
        gemm(x[2, 3], x[4, 2], x[2, 4], bias, "nt")
    with pytest.raises(ValueError, match=r"C must have the shape \(2, 4\), got \(4, 2\)\."):
        gemm(x[2, 3], x[3, 4], x[4, 2], bias)
    with pytest.raises(ValueError, match=r"bias must have the shape \(4,\), or \(0,\) for none, got \(3,\)\."):
        gemm(x[2, 3], x[3, 4], x[2, 4], empty(3, np.float32))
    with pytest.raises(TypeError, match=r"bias must have the dtype of C, float32, got float64\."):
        gemm(x[2, 3], x[3, 4], x[2, 4], empty(4, np.float64))
    with pytest.raises(ValueError, match="A must be C-contiguous"):
        gemm(empty((2, 6), np.float32)[:, ::2], x[3, 4], x[2, 4], bias)
    half = [empty(s, np.float16) for s in ((2, 3), (3, 4), (2, 4), 4)]
    with pytest.raises(TypeError, match="takes float32 or float64 arrays, got float16"):
        gemm(*half, activation="relu")


# ------------------------------------------------------------------------------------------------------------- cuBLAS


def by_columns(buffer, rows, columns, leading):
    """The column-major matrix in a row-major one's memory."""
    return buffer.reshape(-1)[: leading * columns].reshape(leading, columns, order="F")[:rows]


def blas(op_a, op_b, m, n, k, A, lda, B, ldb, C, ldc):
    """C = op(A) op(B) by a real BLAS of column-major matrices, in the place of C."""
    f = scipy.linalg.blas.sgemm if C.dtype == np.float32 else scipy.linalg.blas.dgemm
    a = by_columns(A, *((m, k) if op_a == "n" else (k, m)), lda)
    b = by_columns(B, *((k, n) if op_b == "n" else (n, k)), ldb)
    c = by_columns(C, m, n, ldc)
    assert np.shares_memory(c, C)
    c[...] = f(1, a, b, trans_a=op_a == "t", trans_b=op_b == "t")


@T_
@transpose_
def test_row_major_products_are_column_major_ones_the_other_way_round(T, transpose, cuda_set):
    M, N, K = 5, 3, 4
    A, B, bias, C = problem(T, transpose, M, N, K, biased=False)
    op_b, op_a, m, n, k, ldb, lda, ldc = cuda_set.linear.cublas.column_major(transpose, M, N, K)
    blas(op_b, op_a, m, n, k, B, ldb, A, lda, C, ldc)
    want, allowed = sums(A, B, bias, transpose)
    assert (abs(C - want) <= np.finfo(T).eps * allowed).all()


class Library:
    """Stands in for libcublas: the same functions and order of arguments, on the host."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda handle, *args: self.calls.append((name, *args)) or 0

    def cublasSgemm_v2(self, handle, op_a, op_b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        assert type(alpha._obj) is (ctypes.c_float if C.dtype == np.float32 else ctypes.c_double)
        assert (alpha._obj.value, beta._obj.value) == (1, 0)
        self.calls.append("gemm")
        m, n, k, lda, ldb, ldc = (x.value for x in (m, n, k, lda, ldb, ldc))
        blas("nt"[op_a], "nt"[op_b], m, n, k, A, lda, B, ldb, C, ldc)
        return 0

    cublasDgemm_v2 = cublasSgemm_v2


@T_
@transpose_
@pytest.mark.skipif(os.environ.get("LVM_TEST_GPU") == "1", reason="stands in for cuBLAS on the host")
def test_large_products_go_to_cublas(T, transpose, cuda_set, monkeypatch):
    """Its arguments, the stream and workspace set first, and the pass for bias and activation."""
    cublas, library = cuda_set.linear.cublas, Library()
    stand_ins = {"_library": library, "_handle": 7, "_tried": True, "_default_workspace": None}
    stand_ins |= {"_new_workspace": lambda: cuda_set.empty(1, np.uint8), "_pointer": lambda x: x._ary}
    for name, value in stand_ins.items():
        monkeypatch.setattr(cublas, name, value)
    monkeypatch.setattr(cuda_set.linear, "MANY_PRODUCTS", 5 * 300 * 4)
    A, B, bias, C = problem(T, transpose, 5, 300, 4)
    got = on_device(cuda_set, A, B, bias, C, transpose, "tanh")
    assert [c if c == "gemm" else c[0] for c in library.calls] == [
        "cublasSetStream_v2",
        "cublasSetWorkspace_v2",
        "gemm",
    ]
    want, allowed = sums(A, B, bias, transpose)
    assert (abs(got - np.tanh(want)) <= np.finfo(T).eps * (allowed + 4)).all()


@T_
@transpose_
def test_cublas_agrees(T, transpose, cuda_set, monkeypatch):
    if not cuda_set.linear.cublas.found():
        pytest.skip("there is no cuBLAS here")
    monkeypatch.setattr(cuda_set.linear, "MANY_PRODUCTS", 0)
    A, B, bias, C = problem(T, transpose, 200, 300, 400)
    want, allowed = sums(A, B, bias, transpose)
    assert (abs(on_device(cuda_set, A, B, bias, C, transpose) - want) <= np.finfo(T).eps * allowed).all()


def test_there_is_no_cublas_in_the_simulator(cuda_set, order):
    if order == "real":
        pytest.skip("a real device")
    assert not cuda_set.linear.cublas.found()
