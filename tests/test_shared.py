"""The scalar maths against mpmath: as plain Python, in njit code, in fast-math njit code, in CUDA's simulator."""

import math
import os
import re
import subprocess
import sys

import mpmath
import numba
import numpy as np
import pytest

from lvm.kernels.jit import FAST
from lvm.kernels.shared import philox, scalar

mp = mpmath.mp.clone()
mp.dps = 40
EXACT = {
    "exp": mp.exp,
    "log": mp.log,
    "tanh": mp.tanh,
    "sigmoid": lambda x: mp.exp(x) / (1 + mp.exp(x)),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
}
RTOL = {np.float32: 3e-7, np.float64: 5e-16}
FLAGS = {"njit": False, "fast": FAST}
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
name_ = pytest.mark.parametrize("name", EXACT)
how_ = pytest.mark.parametrize("how", ["plain", "njit", "fast"])
optimised_ = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK), reason="reads the optimised code of the loops"
)
_loops = {}


def loop(name, flags):
    """out[i] = f(x[i]), as a user would write it."""
    key = name, repr(flags)
    if key not in _loops:
        f = getattr(scalar, name)

        @numba.njit(fastmath=flags, error_model="numpy")
        def run(x, out):
            for i in range(x.size):
                out[i] = f(x[i])

        _loops[key] = run
    return _loops[key]


def values(name, x, how):
    if how == "plain":
        return np.array([getattr(scalar, name)(v) for v in x])
    out = np.empty_like(x)
    loop(name, FLAGS[how])(x, out)
    return out


def grid(name, T):
    """Near 0, ordinary, saturated, huge, and around every number at which a reduction or a branch-free select turns."""
    rng, info = np.random.default_rng(0), np.finfo(T)
    powers = 2.0 ** rng.uniform(np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)) - 1e-3, 120)
    if name == "log":
        turns = np.sqrt(0.5) * 2.0 ** np.arange(-3, 4)
        x = np.r_[powers, rng.uniform(0.5, 2, 200), 1 + powers[powers < 0.1], info.smallest_subnormal, info.max]
    else:
        end, low = np.log(float(info.max)), np.log(float(info.tiny))
        turns = np.r_[np.arange(-4, 5) * np.log(2) / 2, np.log(0.4142), 22, 44, end, low, -104, -745.2]
        x = rng.uniform(-1, 1, 600) * np.repeat([1, 50, 1.1 * end], 200)
        x = np.r_[powers, -powers, x]
    turns = turns.astype(T)
    return np.r_[x.astype(T), turns, np.nextafter(turns, T(-1e9)), np.nextafter(turns, T(1e9))]


def assert_close(got, want, x):
    """Relative error within RTOL; among the denormals, within the smallest of them; inf where too large."""
    T, info = got.dtype.type, np.finfo(got.dtype)
    for a, w, v in zip(got, want, x):
        if abs(w) > float(info.max):
            assert a == np.copysign(np.inf, float(mp.sign(w))), (v, a, w)
        else:
            error = abs(mp.mpf(float(a)) - w)
            assert error <= RTOL[T] * abs(w) + (info.smallest_subnormal if abs(w) < info.tiny else 0), (v, a, w)


@how_
@T_
@name_
def test_values_match_mpmath(name, T, how):
    x = grid(name, T)
    got = values(name, x, how)
    assert got.dtype == T
    assert_close(got, [EXACT[name](mp.mpf(float(v))) for v in x], x)


@name_
def test_python_floats_are_float64(name):
    got = getattr(scalar, name)(0.3)
    assert got.dtype == np.float64
    assert got == getattr(scalar, name)(np.float64(0.3))


@name_
def test_integers_are_refused(name):
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got int64. Try float\(x\)"):
        getattr(scalar, name)(1)
    with pytest.raises((numba.TypingError, TypeError)):
        loop(name, False)(np.ones(2, np.int64), np.ones(2))


INF, NAN = math.inf, math.nan
EDGES = {  # arguments, values
    "exp": ((-INF, -1e30, 0, 1e30, INF), (0, 0, 1, INF, INF)),
    "log": ((-INF, -1e30, -1e-40, -0.0, 0, 1, INF), (NAN, NAN, NAN, -INF, -INF, 0, INF)),
    "tanh": ((-INF, -1e30, 0, 1e30, INF), (-1, -1, 0, 1, 1)),
    "sigmoid": ((-INF, -1e30, 0, 1e30, INF), (0, 0, 0.5, 1, 1)),
    "softplus": ((-INF, -1e30, 1e30, INF), (0, 0, 1e30, INF)),
}


@how_
@T_
@name_
def test_edges_are_exact_and_nan_stays_nan(name, T, how):
    x, want = (np.array([*values, NAN, -NAN], T) for values in EDGES[name])
    np.testing.assert_array_equal(values(name, x, how), want)


@T_
def test_saturated_tails_keep_relative_accuracy(T):
    """What a plain 1 - 1/(1+e^x) or log(1+e^x) would lose."""
    x = T(-80 if T is np.float32 else -700)
    for name in ("sigmoid", "softplus"):
        assert abs(float(getattr(scalar, name)(x) / np.exp(np.float64(x))) - 1) < RTOL[T]
    tiny = T(1e-30)
    assert scalar.tanh(tiny) == tiny


@T_
def test_slopes_are_what_the_docstrings_say(T):
    """tanh' = 1 - h², sigmoid' = s (1 - s), softplus' = sigmoid, exp' = exp, log' = 1/x, by mpmath's differences."""
    for v in (-3.0, -0.5, 0.25, 2.0):
        x = T(v)
        h, s = scalar.tanh(x), scalar.sigmoid(x)
        slopes = {"exp": scalar.exp(x), "tanh": T(1) - h * h, "sigmoid": s * (T(1) - s), "softplus": s}
        if v > 0:
            slopes["log"] = T(1) / x
        for name, slope in slopes.items():
            assert float(slope) == pytest.approx(float(mp.diff(EXACT[name], v)), rel=4 * RTOL[T], abs=RTOL[T]), name


@numba.njit(fastmath=FAST)
def nll_fast(a, t):
    return scalar.bernoulli_nll(a, t)


@pytest.mark.parametrize("f", [scalar.bernoulli_nll, nll_fast], ids=["plain", "fast"])
@T_
def test_bernoulli_nll_and_its_slope_match_mpmath(f, T):
    low = float(np.finfo(T).tiny)
    for v in (-700.0, -90.0, -20.0, -1.0, -1e-3, 0.0, 1e-5, 0.5, 3.0, 40.0, 85.0, 600.0):
        for t in (0.0, 0.25, 1.0):
            value, slope = f(T(v), T(t))
            with mp.workdps(400):  # t a - softplus(a) cancels to e^-700
                loss = lambda a, t=t: mp.log1p(mp.exp(a)) - t * a
                a = mp.mpf(float(T(v)))
                want, want_slope = float(loss(a)), float(mp.diff(loss, a))
            assert float(value) == pytest.approx(want, rel=2 * RTOL[T], abs=low)
            # a soft target may cancel against the sigmoid, a hard one may not
            assert float(slope) == pytest.approx(want_slope, rel=2 * RTOL[T], abs=RTOL[T] if t == 0.25 else low)


@how_
@T_
def test_cos_sin_match_mpmath(T, how):
    pair = scalar.cos_sin if how == "plain" else numba.njit(fastmath=FLAGS[how])(lambda t: scalar.cos_sin(t))
    rng = np.random.default_rng(1)
    for t in np.r_[np.arange(-8, 9) / 8, rng.uniform(-1, 1, 200), 1e-9, 0.25 + 1e-6, 1 - 2.0**-24].astype(T):
        c, s = pair(t)
        exact = 2 * mp.pi * mp.mpf(float(t))
        assert abs(mp.mpf(float(c)) - mp.cos(exact)) <= RTOL[T] * abs(mp.cos(exact)) + mp.mpf(10) ** -35, t
        assert abs(mp.mpf(float(s)) - mp.sin(exact)) <= RTOL[T] * abs(mp.sin(exact)) + mp.mpf(10) ** -35, t


@numba.njit
def several(x, out):
    """What returns more than one number."""
    for i in range(x.size):
        value, slope = scalar.bernoulli_nll(x[i], x[0])
        c, s = scalar.cos_sin(x[i])
        out[i] = value + slope + c + s + philox.normals32(1, 2, 3, i)[0] + philox.uniforms32(1, 2, 3, i)[0]


def optimised(f, T):
    f(np.ones(8, T), np.ones(8, T))
    return next(v for k, v in f.inspect_llvm().items() if k[0].dtype == numba.from_dtype(np.dtype(T)))


@optimised_
@pytest.mark.parametrize("name", [*EXACT, "several"])
def test_float32_code_holds_no_double(name):
    """On a GPU a stray float64 literal costs a factor of 2 to 64."""
    code = optimised(several if name == "several" else loop(name, False), np.float32)
    assert " float " in code
    assert not [line for line in code.splitlines() if re.search(r"\bdouble\b", line)]


@optimised_
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@T_
@name_
def test_loops_run_in_vector_registers(name, T, flags):
    """Packed multiplications and no calls left in the loop: four to ten times the speed of libm."""
    code = optimised(loop(name, flags), T)
    word = "float" if T is np.float32 else "double"
    assert re.search(rf"\bfmul\b.*<\d+ x {word}>", code)
    assert not re.search(r"\bcall\b.*shared6scalar", code)


SIMULATED = """
import numpy as np
from numba import cuda
from lvm.kernels.shared import philox, scalar

NAMES = ("exp", "log", "tanh", "sigmoid", "softplus")

@cuda.jit
def kernel(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = scalar.exp(x[i])
        out[1, i] = scalar.log(x[i])
        out[2, i] = scalar.tanh(x[i])
        out[3, i] = scalar.sigmoid(x[i])
        out[4, i] = scalar.softplus(x[i])
        out[5, i], out[6, i] = scalar.bernoulli_nll(x[i], x[0])
        out[7, i], out[8, i], out[9, i], out[10, i] = philox.normals32(1, 2, 3, i)

for T in (np.float32, np.float64):
    x = np.array([0.5, 3, 1e-3, 80, 1e4], T)
    out = np.zeros((11, 5), T)
    kernel[1, 8](x, out)
    for f, row in zip(NAMES, out):
        assert (row == [getattr(scalar, f)(v) for v in x]).all(), f
    assert (out[5:7].T == [scalar.bernoulli_nll(v, x[0]) for v in x]).all()
    assert (out[7:].T == [philox.normals32(1, 2, 3, i) for i in range(5)]).all()
"""


def test_cuda_simulator_takes_the_same_source():
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_powers_of_two_are_exact():
    for T, low, high in ((np.float32, -126, 127), (np.float64, -1022, 1023)):
        for k in (low, -1, 0, 1, 10, high):
            assert scalar.power2(T(k)) == T(math.ldexp(1.0, k))
