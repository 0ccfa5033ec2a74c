"""Lanes: vector registers in compiled code, NumPy arrays without it, the same numbers."""

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lvm.kernels.cpu.lanes import LANES, get, inverse_root, less, more, put, splat, times


def polynomial(A, B, out):
    for i in range(len(A)):
        v = more(splat(0.5), get(A, i), get(B, i))
        v = less(v, get(B, i), splat(3.0))
        put(out, i, times(v, get(A, i)))


def roots(A, out):
    for i in range(len(A)):
        put(out, i, inverse_root(get(A, i), 4e-16))


def rows(n=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, LANES))


@pytest.mark.parametrize("f", [polynomial, numba.njit(polynomial)], ids=["NumPy", "compiled"])
def test_lanes_multiply_and_add_number_by_number(f):
    A, B, out = rows(), rows(seed=1), np.full((7, LANES), 9.0)
    before = A.copy(), B.copy()
    f(A, B, out)
    assert_allclose(out[:5], (A * B + 0.5 - 3 * B) * A, rtol=1e-14, atol=1e-14)
    assert_array_equal(out[5:], 9)  # and nothing else is written
    assert_array_equal((A, B), before)


@pytest.mark.parametrize("f", [roots, numba.njit(roots)], ids=["NumPy", "compiled"])
def test_an_inverse_root_of_next_to_nothing_or_less_is_that_of_the_least(f):
    A, out = np.abs(rows()), np.empty((5, LANES))
    A[0, :6] = 0, -1, -np.inf, np.nan, np.inf, 1e-300
    f(A, out)
    want = 1 / np.sqrt(np.where(A > 4e-16, A, 4e-16))
    assert_allclose(out, want, rtol=4e-16)
    assert (out[0, :4] == 5e7).all()


def test_lanes_compile_to_vector_instructions():
    f = numba.njit(polynomial, error_model="numpy")
    f.compile((numba.float64[:, ::1],) * 3)
    (code,) = f.inspect_llvm().values()
    assert f"fmul contract <{LANES} x double>" in code
