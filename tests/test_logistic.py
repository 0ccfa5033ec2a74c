"""Means of log sigmoid over a normal against mpmath; as plain Python, in njit code, in CUDA's simulator."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import mpmath
import numba
import numpy as np
import pytest
from gradcheck import richardson
from numpy.testing import assert_allclose, assert_array_equal

import lvm
from lvm.kernels import jit
from lvm.kernels.cpu import logistic as cpu
from lvm.kernels.shared import logistic

mp = mpmath.mp.clone()
mp.dps = 20
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
MEANS = [0, 1e-8, 0.3, 1, 5, 30, 300, 700]
EDGE = np.sqrt(logistic.WIDE)
DEVIATIONS = [0, 1e-8, 0.1, 0.5, EDGE - 1e-9, EDGE + 1e-9, 1.6, 3, 10, 37, 1e3, 1e8]


@functools.cache
def exact(m, v):
    """-F, g, lambda for m >= 0 in 20 digits. Of moderate normals by the trapezoid rule along the line, where u has its
    poles at +-i pi: an error of exp(-2 pi²/step). Of wide ones with |u| taken apart:
    sigmoid(-u) = [u < 0] + sign(u) sigmoid(-|u|),  log(1 + e^-u) = max(-u, 0) + log(1 + e^-|u|)."""
    m, v = mp.mpf(m), mp.mpf(v)
    s = mp.sqrt(v)
    three = lambda u: (mp.log1p(mp.exp(-u)), 1 / (1 + mp.exp(u)), mp.exp(-u) / (1 + mp.exp(-u)) ** 2)
    if v == 0:
        return three(m)
    if s < 50:
        step = min(mp.mpf("0.3"), s / 4)
        total = [mp.mpf(0)] * 3
        for j in range(-int((12 * s + min(v, m)) / step), int(12 * s / step)):
            w = mp.exp(-((j * step) ** 2) / (2 * v))
            total = [a + w * b for a, b in zip(total, three(m + j * step))]
        return tuple(a * step / mp.sqrt(2 * mp.pi * v) for a in total)
    p, points = lambda u: mp.npdf(u, m, s), [0, 4, 15, 60]
    f = mp.quad(lambda u: three(u)[0] * (p(u) + p(-u)), points)
    g = mp.quad(lambda u: three(u)[1] * (p(u) - p(-u)), points)
    l = mp.quad(lambda u: three(u)[2] * (p(u) + p(-u)), points)
    tail = mp.ncdf(-m / s)
    return f + s * mp.npdf(m / s) - m * tail, g + tail, l


def want(m, v):
    """F, g, lambda at any m, rounded last."""
    f, g, l = exact(abs(m), v)
    return float(-f if m >= 0 else mp.mpf(m) - f), float(g if m >= 0 else 1 - g), float(l)


def kernel(m, v):
    """F, g, lambda by the CPU kernel, (3,B)."""
    out = np.empty((3, len(m)), m.dtype)
    cpu.expectation(m, v, *out)
    return out


def grid(means=MEANS, deviations=DEVIATIONS):
    m, s = np.meshgrid(np.r_[np.negative(means), means], deviations)
    return m.ravel(), s.ravel() ** 2


def some(B, T=np.float64, seed=0):
    """Rows of every kind: narrow and wide, at the middle and far out."""
    rng = np.random.default_rng(seed)
    s = np.exp(rng.uniform(np.log(0.05), np.log(60), B))
    m = np.where(rng.random(B) < 0.5, rng.normal(scale=3, size=B), s * rng.uniform(-9, 9, B))
    return m.astype(T), (s * s).astype(T)


def plain(f, T=np.float64):
    """f of shared/logistic.py as plain Python, over rows."""
    return lambda m, v: np.array([f(a, b, *logistic.tables(np.dtype(T))) for a, b in zip(m, v)]).T


@jit.kernel("T1 T1 T2 T2 T2 T1w")
def log_odds(m, v, narrow, wide, poles, out):
    for i in range(m.size):
        out[i] = logistic.log_odds(m[i], v[i], narrow, wide, poles)


def odds(m, v):
    out = np.empty_like(m)
    log_odds(m, v, *logistic.tables(m.dtype), out)
    return out


# ------------------------------------------------------------------------------------------------ values
def test_values_match_mpmath_absolutely_and_in_the_tails_relatively():
    m, v = grid()
    exact_values = np.array([want(*row) for row in zip(m, v)]).T
    got = kernel(m, v)
    assert_allclose(got, exact_values, rtol=2e-13, atol=1e-290)
    near = np.abs(exact_values) > 1e-15
    assert_allclose(got[near], exact_values[near], rtol=5e-14)


@T_
def test_python_and_compiled_code_agree(T):
    m, v = some(40, T)
    eps, tiny = np.finfo(T).eps, np.finfo(T).tiny
    got = plain(logistic.expectation, T)(m, v)
    assert got.dtype == T
    assert_allclose(kernel(m, v), got, rtol=100 * eps, atol=tiny)
    assert_allclose(odds(m, v), plain(logistic.log_odds, T)(m, v), rtol=100 * eps, atol=10 * eps)


def test_float32_keeps_its_digits():
    m, v = some(20_000, np.float32)
    got, right = kernel(m, v), kernel(m.astype(float), v.astype(float))
    seen = np.abs(right) > 1e-37
    error = np.abs(got / np.where(seen, right, 1) - 1)
    assert np.all((error < 4e-6 - 2e-7 * np.log(np.minimum(np.abs(right), 1)))[seen])


def test_a_normal_without_variance_is_its_mean():
    m = np.r_[np.linspace(-40, 40, 81), -700, 700]
    F, g, lam = kernel(m, np.zeros_like(m))
    assert_allclose(F, -np.logaddexp(0, -m), rtol=1e-14)
    assert_allclose(g, 1 / (1 + np.exp(m)), rtol=1e-14)
    assert_allclose(lam, np.exp(-abs(m)) / (1 + np.exp(-abs(m))) ** 2, rtol=1e-14)


def test_a_mean_with_its_sign_changed_gives_what_is_missing():
    m, v = some(1000)
    m = abs(m)
    (F, g, lam), (F_, g_, lam_) = kernel(m, v), kernel(-m, v)
    assert_allclose(F_, F - m, rtol=1e-14)
    assert_allclose(g_ + g, 1, rtol=1e-15)
    assert_array_equal(lam_, lam)


def test_narrow_and_wide_rules_meet():
    m = np.linspace(-40, 40, 201)
    v = np.full_like(m, logistic.WIDE)
    assert_allclose(kernel(m, v), kernel(m, np.nextafter(v, 1)), rtol=5e-14)


def test_g_and_lambda_are_derivatives_of_F():
    m, v = some(300, seed=1)
    scale = np.maximum(1, np.sqrt(v))
    _, g, lam = kernel(m, v)
    in_m = richardson(lambda t: kernel(m + t * scale, v), 0.02) / scale
    in_v = richardson(lambda t: kernel(m, v * (1 + t)), 0.02) / v
    assert_allclose(in_m[0], g, rtol=1e-8, atol=1e-10)
    assert_allclose(in_m[1], -lam, rtol=1e-8, atol=1e-10)
    assert np.all(abs(in_v[0] + lam / 2) < 1e-7 * lam + 1e-10 * scale / v)


# ------------------------------------------------------------------------------------------------ far out
@T_
def test_nothing_overflows(T):
    big, most = (1e300, np.finfo(T).max) if T is np.float64 else (1e37, np.finfo(T).max)
    sizes = [0, 1e-30, 1, 1e3, 1e8, 1e15, np.sqrt(most), big / 100, big, most]
    m, v = (a.ravel().astype(T) for a in np.meshgrid(np.r_[np.negative(sizes), sizes], sizes))
    F, g, lam = kernel(m, v)
    assert np.all(F <= 0)
    assert np.all((g >= 0) & (g <= 1) & (lam >= 0) & (lam < 0.25 * (1 + 3 * np.finfo(T).eps)))
    assert not np.isnan(odds(m, v)).any()
    sure = np.abs(m) > 1e3 + 200 * np.sqrt(v) + v
    assert sure.any()
    assert_array_equal(F[sure], np.minimum(m, 0)[sure])
    assert_array_equal(g[sure], (m < 0)[sure])
    assert_array_equal(lam[sure], 0)
    wide = (np.abs(m) < 1e-4 * np.sqrt(v)) & (v > 1e14)
    assert wide.any()
    assert_allclose(F[wide], -np.sqrt(v[wide].astype(float) / (2 * np.pi)), rtol=2e-4)
    assert_allclose(lam[wide], 1 / np.sqrt(2 * np.pi) / np.sqrt(v[wide].astype(float)), rtol=2e-4)


@T_
def test_nan_stays_nan(T):
    m, v = np.array([np.nan, np.nan, np.nan, 0, -1, 700], T), np.array([0.1, 4, np.nan, np.nan, np.nan, np.nan], T)
    assert np.isnan(kernel(m, v)).all()
    assert np.isnan(odds(m, v)).all()


# ------------------------------------------------------------------------------------------------ decisions
def test_log_odds_match_mpmath():
    m, v = grid([0.3, 1, 5, 30, 300, 700], [0, 0.1, EDGE + 1e-9, 3, 37])
    g = [exact(abs(a), b)[1] for a, b in zip(m, v)]
    right = [float(mp.sign(a) * (mp.log1p(-p) - mp.log(p))) for a, p in zip(m, g)]
    assert_allclose(odds(m, v), right, rtol=1e-13)


def test_log_odds_tell_sure_rows_apart_and_have_the_sign_of_the_mean():
    for T in (np.float32, np.float64):
        v = np.r_[0, np.logspace(-3, 4, 500)].astype(T)
        assert_array_equal(odds(np.zeros_like(v), v), 0)
    m = np.logspace(-17, 12, 400)
    for v in (0, 0.3, 2, 400):
        y = odds(m, np.full_like(m, v))
        assert np.all(y >= 0)
        assert np.all(np.diff(y[m > 1e-3]) > 0)
        assert_array_equal(odds(-m, np.full_like(m, v)), -y)
        assert y[-1] == pytest.approx(1e12 - v / 2, rel=1e-15)


# ------------------------------------------------------------------------------------------------ how it is computed
@T_
def test_any_number_of_threads_gives_the_same_bits(T):
    m, v = some(3 * cpu.BLOCK + 7, T)
    results = []
    try:
        for threads in (1, 2, 5):
            lvm.set_num_threads(threads)
            results.append(kernel(m, v))
    finally:
        lvm.set_num_threads(None)
    assert_array_equal(results[0], results[1])
    assert_array_equal(results[0], results[2])


def test_a_row_does_not_depend_on_the_others():
    m, v = some(300)
    alone = np.hstack([kernel(m[i : i + 1], v[i : i + 1]) for i in range(m.size)])
    assert_array_equal(kernel(m, v), alone)


def test_log1p_and_sinh_keep_relative_accuracy():
    for t in np.r_[0, np.logspace(-300, 4, 300)]:
        value, inverse = logistic.log1p_and_inverse(t)
        assert float(value) == pytest.approx(float(mp.log1p(t)), rel=1e-15, abs=0)
        assert float(inverse) == pytest.approx(1 / (1 + t), rel=1e-15)
    for z in np.r_[0, np.logspace(-150, np.log10(39), 300)]:
        assert_allclose(logistic.sinh_cosh(z), [float(mp.sinh(z)), float(mp.cosh(z))], rtol=1e-15)


def test_tables_are_shared_and_cannot_be_written_to():
    for T in (np.dtype(np.float32), np.dtype(np.float64)):
        assert logistic.tables(T) is logistic.tables(T)
        for a in logistic.tables(T):
            assert a.dtype == T
            with pytest.raises(ValueError, match="read-only"):
                a[0] = 0


@pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK), reason="reads the optimised code of the loops"
)
@T_
def test_loops_run_in_vector_registers_and_in_one_precision(T):
    """On a GPU a stray float64 literal costs a factor of 2 to 64."""
    f = numba.njit(error_model="numpy")(cpu._expectation.py)
    m, v = some(3, T)
    f(m, v, *logistic.tables(m.dtype), *np.empty((3, 3), T))
    (code,) = f.inspect_llvm().values()
    word, other = ("float", "double") if T is np.float32 else ("double", "float")
    assert len(re.findall(rf"\bfmul\b.*<\d+ x {word}>", code)) > 50
    assert not re.search(rf"\b{other}\b", code)
    assert not re.search(r"\bcall\b.*shared(6scalar|8logistic)", code)


SIMULATED = """
import numpy as np
from numba import cuda
from lvm.kernels.shared import logistic

@cuda.jit
def kernel(m, v, narrow, wide, poles, out):
    i = cuda.grid(1)
    if i < m.size:
        out[0, i], out[1, i], out[2, i] = logistic.expectation(m[i], v[i], narrow, wide, poles)
        out[3, i] = logistic.log_odds(m[i], v[i], narrow, wide, poles)

for T in (np.float32, np.float64):
    m, v = np.array([0, 0.5, -3, 20, -60], T), np.array([0.3, 4, 1, 9, 2000], T)
    out, given = np.zeros((4, 5), T), logistic.tables(np.dtype(T))
    kernel[1, 8](m, v, *map(cuda.to_device, given), out)
    assert (out[:3].T == [logistic.expectation(*row, *given) for row in zip(m, v)]).all()
    assert (out[3] == [logistic.log_odds(*row, *given) for row in zip(m, v)]).all()
"""


def test_cuda_simulator_takes_the_same_source():
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
