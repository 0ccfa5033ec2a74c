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
from reference import energy as energy_of_the_paper

from lvm.kernels.jit import FAST
from lvm.kernels.shared import activations, flow, philox, scalar, vae

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
@pytest.mark.parametrize("name", [*EXACT, "several", "layers", "outputs"])
def test_float32_code_holds_no_double(name):
    """On a GPU a stray float64 literal costs a factor of 2 to 64."""
    code = optimised(
        {"several": several, "layers": layers, "outputs": outputs}.get(name) or loop(name, False), np.float32
    )
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


# ------------------------------------------------------------------------------------------------ flows
def both_signs(T, largest):
    """Numbers of all sizes up to `largest`, both signs, and 0."""
    x = np.append(np.geomspace(float(np.finfo(T).tiny), largest, 150), np.random.default_rng(2).uniform(0, 5, 150))
    return np.r_[x, -x, 0].astype(T)


def exactly(x):
    return mp.mpf(float(x))


def expm1_less(x):
    """e^x - 1 - x = x² 1F1(1; 3; x)/2, which cancels nothing."""
    return x * x / 2 * mp.hyp1f1(1, 3, x)


def assert_near(got, want, factor=1.0, size=None):
    """Within `factor` roundings of `want`, or of `size`, of what was added up to it; or the smallest normal number."""
    T = np.asarray(got)[()].dtype.type
    error = abs(exactly(got) - want)
    assert error <= factor * RTOL[T] * (abs(want) if size is None else size) + float(np.finfo(T).tiny), (got, want)


@T_
def test_the_terms_of_exp_keep_their_digits(T):
    for x in both_signs(T, 80 if T is np.float32 else 700):
        k, r, t = scalar.exp_terms(x)
        assert k == np.rint(k)
        assert abs(r) < 0.3466
        assert_near(r, exactly(x) - exactly(k) * mp.log(2), 0.5, abs(exactly(x)) * 2.0**-8 + abs(exactly(r)))
        assert_near(t, expm1_less(exactly(r)))
        if k == 0:
            assert r == x


@T_
def test_split_is_exact(T):
    info = np.finfo(T)
    x = np.r_[np.abs(both_signs(T, 1e30)[:-1]), info.max, info.tiny, 1, 2, np.nextafter(T(2), T(0))].astype(T)
    for v in x:
        m, k = scalar.split(v)
        assert type(m) is type(k) is T
        assert 1 <= m < 2
        assert math.ldexp(float(m), int(k)) == v


@T_
def test_tanh_and_its_slope_match_mpmath_and_the_slope_is_never_0(T):
    most = 43 if T is np.float32 else 350
    for a in both_signs(T, most):
        h, s = flow.tanh_slope(a)
        assert_near(h, mp.tanh(exactly(a)), 1.5)
        assert_near(s, mp.sech(exactly(a)) ** 2, 2 + 0.5 * abs(float(a)) * 2.0**-6)
    for a in (most, 1e3, 1e30, math.inf):
        assert flow.tanh_slope(T(a)) == flow.tanh_slope(T(most))
        assert flow.tanh_slope(T(-a)) == (-1, flow.tanh_slope(T(most))[1])
    assert flow.tanh_slope(T(most))[1] > np.finfo(T).tiny
    assert np.isnan(flow.tanh_slope(T(math.nan))[0])


@T_
def test_the_constraint_matches_mpmath(T):
    """m > -1, 1 + m and m - x of x = w'u have their digits each, also where others of them are rounded to -1 or 0."""
    low = -86 if T is np.float32 else -700
    for x in np.append(both_signs(T, -low), T(-1e9)):
        m, sigma, more, slope = flow.constrain(x)
        y = max(exactly(x), mp.mpf(low))
        assert m >= -1
        assert_near(m, mp.expm1(y) if x < 0 else y)
        assert sigma > np.finfo(T).tiny
        assert_near(sigma, mp.exp(y) if x < 0 else 1 + y)
        assert_near(more, expm1_less(y) + (y - exactly(x)) if x < 0 else 0, 3)
        assert_near(slope, mp.exp(y) if x < 0 else 1)


@T_
def test_the_constraint_and_its_slope_are_continuous(T):
    x = np.nextafter(T(0), T(-1))
    for a, b in zip(flow.constrain(x), flow.constrain(T(0))):
        assert abs(a - b) <= abs(x)
    turns = np.arange(-6, 0) * np.log(2) / 2
    for x in turns.astype(T):
        for a, b in zip(flow.constrain(x), flow.constrain(np.nextafter(x, T(1)))):
            assert abs(a - b) <= 8 * RTOL[T]


@T_
def test_the_root_matches_mpmath_and_is_one_to_rounding(T):
    """The sum is c to rounding, so that a is the exact one to rounding times da/dc."""
    small = np.array([1e-30, 1e-8, 1e-3, 0.1] if T is np.float32 else [1e-300, 1e-30, 1e-16, 1e-8, 1e-3, 0.1])
    numbers = np.r_[small, 0.5, 0.9, 1, 1.1, 2, 5, 30, 1e3, 1e8, 1e15].astype(T)
    rng = np.random.default_rng(3)
    for sigma in numbers:
        m = sigma - T(1)
        for c in np.r_[numbers, numbers * rng.uniform(0.3, 3, numbers.size)].astype(T):
            with np.errstate(over="ignore"):  # of a start that is not taken
                a = flow.root(c, m, sigma)
                assert flow.root(-c, m, sigma) == -a
            exact, s, y = exactly(a), exactly(sigma), exactly(c)
            f = lambda a, s=s, y=y: a + (s - 1) * mp.tanh(a) - y
            size = exact + abs((s - 1) * mp.tanh(exact)) + y
            assert abs(f(exact)) <= 3 * RTOL[T] * size + s * float(np.finfo(T).tiny), (c, sigma, a)
            slope = mp.tanh(exact) ** 2 + s * mp.sech(exact) ** 2
            if a > np.finfo(T).tiny and RTOL[T] * size < 1e-3 * slope * exact:  # else rounding may take a anywhere
                root = mp.findroot(f, (exact * 0.99, exact * 1.01), solver="anderson", tol=1e-60)
                assert abs(exact - root) <= 4 * RTOL[T] * size / slope, (c, sigma, a, root)
        assert flow.root(T(0), m, sigma) == 0


def radial_numbers(T):
    return [T(v) for v in ([1e-8, 1e-3, 0.1, 0.7, 1, 3, 30] if T is np.float32 else [1e-30, 1e-8, 0.1, 0.7, 1, 3, 1e4])]


@T_
def test_the_radius_before_a_radial_layer_matches_mpmath(T):
    for alpha in radial_numbers(T):
        for s in radial_numbers(T):
            assert flow.radial_root(T(0), alpha, s) == 0
            for R in radial_numbers(T):
                p, q = exactly(R) - exactly(s), 4 * exactly(R) * exactly(alpha)
                with mp.workdps(120):
                    want = (p + mp.sqrt(p * p + q)) / 2
                assert_near(flow.radial_root(R, alpha, s), want, 3)


@T_
@pytest.mark.parametrize("n", [0, 1, 39])
def test_radial_terms_and_slopes_match_mpmath(n, T):
    """Of rho = (r + s)/(r + alpha) and l = n log rho + log Q, Q = d(r rho)/dr."""
    rho = lambda r, alpha, s: (r + s) / (r + alpha)
    Q = lambda r, alpha, s: (r * r + 2 * r * alpha + s * alpha) / (r + alpha) ** 2
    l = lambda *at: n * mp.log(rho(*at)) + mp.log(Q(*at))
    along = lambda f, x, i: mp.diff(f, x, tuple(int(i == j) for j in range(3)))
    numbers = radial_numbers(T)
    for at in [(r, alpha, s) for r in [T(0), *numbers] for alpha in numbers for s in numbers]:
        x = [exactly(v) for v in at]
        r, alpha, s = x
        A, q, v = r + alpha, Q(*x), rho(*x)
        got, got_l, got_Q = flow.radial_terms(*at, T(n))
        assert_near(got, v, 2)
        assert_near(got_Q, q, 4)
        assert_near(got_l, l(*x), 4, n + 1 + abs(n * mp.log(v)) + abs(mp.log(q)))
        with mp.workdps(100):  # steps must be small beside the smallest radius
            assert_near(got_Q, along(lambda r, alpha, s: r * rho(r, alpha, s), x, 0), 4)
            wants = [along(f, x, i) for f in (rho, l) for i in range(3)]
        parts = n * abs(alpha - s) / ((r + s) * A) + 2 * (1 + 1 / q) / A, ((2 * r + s) / (A * q) + 2 + n) / A, 0
        for slope, want, part in zip(flow.radial_slopes(*at, T(n)), wants, (0, 0, 0, *parts)):
            assert_near(slope, want, 6, max(abs(want), part))


@T_
@pytest.mark.parametrize("name", ["U1", "U2", "U3", "U4"])
def test_energies_and_their_slopes_match_mpmath(name, T):
    rng, tol = np.random.default_rng(4), 1e-5 if T is np.float32 else 1e-14
    points = [*rng.uniform(-6, 6, (40, 2)), *rng.uniform(-30, 30, (10, 2)), (1e-3, -1e-9), (3.99, -4.01), (-300, 200)]
    f = lambda x, y: energy_of_the_paper(name, x, y, mp)
    for x, y in np.array(points).astype(T):
        at = exactly(x), exactly(y)
        got = flow.energy(flow.ENDS.index(name), x, y)
        want = f(*at), mp.diff(f, at, (1, 0)), mp.diff(f, at, (0, 1))
        size = 1 + abs(at[0]) + abs(at[1])  # a sine of x has lost eps |x|, and all slopes are at most some 40 |z|
        for a, b, power in zip(got, want, (2, 1, 1)):
            assert abs(exactly(a) - b) <= 40 * tol * size**power, (x, y, a, b)


@T_
def test_walls_and_rings_are_parabolas(T):
    tol = 4 * RTOL[T]
    for x in (-7.0, -4.5, -4.0, -3.0, 0.0, 4.0, 4.25, 100.0):
        over = max(abs(x) - 4, 0) / 0.4
        assert flow.wall(T(x)) == pytest.approx((over**2 / 2, np.sign(x) * over / 0.4), rel=tol)
    for r in (0.0, 1.0, 2.0, 3.5):
        assert flow.ring(T(r)) == pytest.approx((-(((r - 2) / 0.4) ** 2) / 2, -(r - 2) / 0.16), rel=tol)


@numba.njit
def layers(x, out):
    """All that flows are made of."""
    for i in range(x.size):
        h, s = flow.tanh_slope(x[i])
        m, sigma, more, slope = flow.constrain(x[i])
        k, r, t = scalar.exp_terms(x[i])
        y, e = scalar.split(x[i])
        out[i] = h + s + m + sigma + more + slope + k + r + t + y + e + flow.root(x[i], m, sigma)
        R = flow.radial_root(x[i], x[0], x[1])
        rho, l, Q = flow.radial_terms(R, x[0], x[1], x[2])
        a, b, c, d, f, g, _ = flow.radial_slopes(R, x[0], x[1], x[2])
        out[i] += rho + l + Q + a + b + c + d + f + g
        for which in range(1, 5):
            log_pi, gx, gy = flow.energy(which, x[i], x[0])
            out[i] += log_pi + gx + gy
        log_pi, slope = flow.ring(x[i])
        out[i] += log_pi + slope


# ------------------------------------------------------------------------------------------------ layers of nets
SLOPES = {  # of h, as it came out, rounded
    "identity": lambda h: mp.mpf(1),
    "relu": lambda h: mp.mpf(h > 0),
    "leaky_relu": lambda h: mp.mpf("0.01") if h < 0 else mp.mpf(1),
    "tanh": lambda h: 1 - h * h,
    "sigmoid": lambda h: h * (1 - h),
    "softplus": lambda h: -mp.expm1(-h),
}


@T_
@pytest.mark.parametrize("name", SLOPES)
def test_slopes_of_activations_match_mpmath_as_functions_of_their_value(name, T):
    """As exact as h is: those of tanh and of sigmoid are 0 where h is rounded to 1, never negative."""
    assert list(activations.SLOPES) == list(activations.ACTIVATIONS) == list(SLOPES)
    which = list(SLOPES).index(name)
    for x in both_signs(T, 1e30):
        h = activations.activate(which, x)
        got = activations.SLOPES[name](h)
        assert type(got) is T
        assert got == activations.slope(which, h)
        assert 0 <= got <= 1
        assert_near(got, SLOPES[name](exactly(h)), 1 + (name == "tanh"))
        if name in EXACT and abs(x) < 5:
            exact = mp.diff(EXACT[name], exactly(x))
            assert float(got) == pytest.approx(float(exact), rel=1e4 * RTOL[T], abs=2 * RTOL[T])


@T_
def test_a_slope_of_nothing_is_that_of_zero(T):
    """Where x is 0, or so far below that h is rounded to it."""
    slopes = {"identity": 1, "relu": 0, "leaky_relu": 1, "tanh": 1, "sigmoid": 0, "softplus": 0}
    assert {name: f(T(0)) for name, f in activations.SLOPES.items()} == slopes
    for name in ("tanh", "sigmoid", "softplus"):
        assert np.isnan(activations.SLOPES[name](T(math.nan))), name
    assert activations.softplus_slope(T(math.inf)) == 1


# ------------------------------------------------------------------------------------------------ autoencoders
@T_
def test_log_variances_are_bounded_smoothly(T):
    """t = 20 tanh(r/20), and a slope that is as exact as 1 - tanh is."""
    for r in both_signs(T, 1e30):
        t, slope = vae.log_variance(r)
        assert type(t) is type(slope) is T
        y = exactly(r) / 20
        assert_near(t, 20 * mp.tanh(y), 2)
        assert abs(t) <= 20
        assert_near(slope, mp.sech(y) ** 2, 3, 1)
        assert 0 <= slope <= 1
    assert vae.log_variance(T(math.inf)) == (20, 0)
    assert vae.log_variance(T(-math.inf)) == (-20, 0)
    assert np.isnan(vae.log_variance(T(math.nan))).all()
    assert vae.log_variance(T(1e-30))[0] == pytest.approx(1e-30, rel=2 * RTOL[T])


@numba.njit(fastmath=FAST)
def bernoulli_fast(a, x):
    return vae.bernoulli(a, x)


@pytest.mark.parametrize("f", [vae.bernoulli, bernoulli_fast], ids=["plain", "fast"])
@T_
def test_factors_of_bernoulli_and_the_slope_match_mpmath(f, T):
    """g is between 1 and 2, so that 64 of them multiply without overflow; l is exact where x is 0 or 1."""
    for a in np.r_[both_signs(T, 1e30)[::7], T(-700), T(-90), T(0), T(40), T(700)]:
        for x in (0, 0.25, 1):
            g, l, slope = map(T, f(T(a), T(x)))
            with mp.workdps(400):  # x a - softplus(a) cancels to e^-700
                e = mp.exp(-abs(exactly(a))) if abs(a) < 1e4 else mp.mpf(0)
                off, on = (1, e) if a >= 0 else (e, 1)  # sigmoid(a) and sigmoid(-a), times 1 + e
                want = ((1 - x) * off - x * on) / (1 + e)
            assert 1 <= g <= 2
            assert_near(g, 1 + e)
            assert_near(l, abs(exactly(a)) * (1 - x if a >= 0 else x))
            assert_near(slope, want, 2, 1 if x == 0.25 else None)
    assert np.isnan(f(T(math.nan), T(1))).all()
    assert np.isnan(f(T(1), T(math.nan))[2])


@T_
def test_gaussian_terms_and_slopes_match_mpmath(T):
    rng = np.random.default_rng(5)
    for t in (-20, -3, 0, 0.5, 20):
        p = scalar.exp(T(-t))
        for x, m in [*rng.standard_normal((20, 2)), (1e3, -1e3), (0, 1e-8), (1, 1), (5, 5 + 1e-3)]:
            x, m = T(x), T(m)
            e = exactly(x) - exactly(m)
            l, in_m, in_t = vae.gaussian(x, m, T(t), p)
            assert type(l) is type(in_m) is type(in_t) is T
            square = e * e * exactly(p)
            assert_near(l, -(t + square) / 2, 3, abs(t) + square)
            assert_near(in_m, e * exactly(p), 2)
            assert_near(in_t, (square - 1) / 2, 3, square + 1)


@T_
def test_means_and_their_slopes_match_mpmath(T):
    """Of a sigmoid exact at either end, where m (1 - m) would be 0."""
    for a in both_signs(T, 80 if T is np.float32 else 700):
        assert vae.mean_of(a, 0) == (a, 1)
        m, slope = vae.mean_of(a, 1)
        assert type(m) is type(slope) is T
        assert_near(m, EXACT["sigmoid"](exactly(a)), 2)
        assert_near(slope, EXACT["sigmoid"](exactly(a)) * EXACT["sigmoid"](-exactly(a)), 4)
    assert np.isnan(vae.mean_of(T(math.nan), 1)).all()


@numba.njit
def outputs(x, out):
    """All that autoencoders are made of."""
    for i in range(x.size):
        t, slope = vae.log_variance(x[i])
        g, l, more = vae.bernoulli(x[i], x[0])
        a, b, c = vae.gaussian(x[i], x[0], x[1], x[2])
        m, s = vae.mean_of(x[i], 1)
        out[i] = t + slope + g + l + more + a + b + c + m + s
        for which in range(6):
            out[i] += activations.activate(which, x[i]) + activations.slope(which, x[i])
