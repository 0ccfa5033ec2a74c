"""Kernels of flows against slow NumPy, complex steps, Richardson differences and mpmath, and what their words say."""

import mpmath
import numba
import numpy as np
import pytest
from gradcheck import complex_step, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import LAYERS, flow, flow_end, flow_gradients
from threads import assert_same_on_threads

mp = mpmath.mp.clone()
mp.dps = 50
EPS = float(np.finfo(float).eps)
WHOLE = np.empty(0, np.int64)  # all rows
MIXED = ("planar", "affine", "radial", "planar", "affine")
TOL = {np.float32: 1e-4, np.float64: 1e-12}
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
kind_ = pytest.mark.parametrize("kind", LAYERS)
kinds_ = pytest.mark.parametrize("kinds", [("planar",) * 3, ("radial",) * 2, ("affine",), MIXED], ids="-".join)
inverse_ = pytest.mark.parametrize("inverse", [0, 1], ids=["forward", "inverse"])


def rng(seed=0):
    return np.random.default_rng(seed)


class Flow:
    """Layers `kinds` with parameters p = [u, w, b], rows X, and what the kernels make of them."""

    def __init__(self, k, kinds, D=3, N=20, T=np.float64, inverse=0, scale=1.0, seed=0):
        r, K, scale = rng([11, seed, D, N]), len(kinds), scale / np.sqrt(D)
        self.k, self.kinds, self.T, self.inverse = k.flow, kinds, T, inverse
        self.p = [scale * r.standard_normal((K, D)), scale * r.standard_normal((K, D)), scale * r.standard_normal(K)]
        self.X, self.rows = r.standard_normal((N, D)), WHOLE
        self.shift, self.factor = np.zeros(D), np.ones(D)

    def reference(self):
        return [*self.p, self.inverse, (self.X - self.shift) * self.factor]

    def layers(self):
        """The first arguments of `forward` and `backward`."""
        p = [np.asarray(a, self.T) for a in self.p]
        K, D = p[0].shape
        numbers = np.array([self.k.KINDS.index(kind) for kind in self.kinds])
        table = np.full((K, 2 * D + 3), np.nan, self.T)
        self.k.prepare(numbers, *p, table)
        data = [np.ascontiguousarray(a, self.T) for a in (self.X, self.shift, self.factor)]
        return numbers, table, self.inverse, data[0], self.rows, *data[1:]

    def forward(self):
        a = self.layers()
        B = len(self.rows) or len(self.X)
        Z, l = np.full((B, self.X.shape[1]), np.nan, self.T), np.full(B, np.nan, self.T)
        self.k.forward(*a, Z, l)
        return Z, l

    def sums(self, end="normal", given=None, counter=0, annealing=0.0, backward=None):
        a = self.layers()
        K, D = self.p[0].shape
        given = np.empty((0, D)) if given is None else given
        out = np.full((self.k.parts(len(self.rows) or len(self.X), D, K), K + 1, 2 * D + 2), np.nan, self.T)
        which = self.k.ENDS.index(end)
        (backward or self.k.backward)(*a, which, given.astype(self.T), np.array([counter]), annealing, out)
        return out

    def gradients(self, end="normal", **how):
        """gu, gw, gb, and the sums of log p and of l."""
        sums, p = self.sums(end, **how), [np.asarray(a, self.T) for a in self.p]
        out, totals = [np.full_like(a, np.nan) for a in p], np.zeros(2, self.T)
        self.k.finish(self.layers()[0], *p, sums, 1.0, *out, totals)
        return *out, totals

    def objective(self, end, n, a):
        """sum log p + l with parameter n at a, by the kernels' own way forward."""
        before, self.p[n] = self.p[n], a
        Z, l = self.forward()
        self.p[n] = before
        if end == "normal":
            return flow_end(end, Z).sum() + l.sum()
        log_p = np.empty(len(Z))
        self.k.energies(self.k.ENDS.index(end), Z, log_p, np.empty_like(Z))
        return log_p.sum() + l.sum()


def extreme(kind, k, t, N=20, D=3):
    """As the 400 sets with which this family was planned: sizes of u, w, b and of the rows, each from 1e-8 to 300."""
    r, f = rng(t), Flow(k, (kind,), D, N)
    u, w, z = 10.0 ** r.uniform([-8, -8, -2], [2.5, 2.5, 2])
    f.p = [u * r.standard_normal((1, D)), w * r.standard_normal((1, D)), r.standard_normal(1)]
    if kind == "radial":
        f.p[2] *= 10.0 ** r.uniform(-8, 2.5)
    f.X = z * r.standard_normal((N, D))
    return f


def saturated(k, kind, a, **how):
    """One layer whose tanh sees numbers of some |a|, with w'u large or, for -a, very negative; or of extreme scales."""
    f = Flow(k, (kind,), **how)
    f.p[0] *= 3
    f.p[1] *= a
    f.p[2] *= 10
    return f


def regimes(k, kinds, **how):
    """Flows of ordinary, tiny and saturated parameters."""
    for scale in (1.0, 1e-8, 1e-20, 1e-100):
        yield scale, Flow(k, kinds, scale=scale, **how)
    for a in (20.0, -20.0, 100.0, -100.0):
        yield 1.0, saturated(k, kinds[0], a, **how)


def assert_gradients_close(got, want, rtol):
    """Each array to rtol of its largest number, or of 1: an identity's gradient is 0, and what is there is rounding."""
    for a, b, name in zip(got, want, "uwb"):
        assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(), 1), err_msg=name)


def slopes_of(end):
    """Slopes of log p by complex step."""
    return lambda Z: np.stack([flow_end(end, Z + 1e-30j * e).imag / 1e-30 for e in np.eye(Z.shape[1])], 1)


# ------------------------------------------------------------------------------------------------ the way there
@T_
@kinds_
@inverse_
@pytest.mark.parametrize("D", [1, 2, 5, 40])
def test_rows_go_where_the_formulas_say(k, kinds, inverse, D, T):
    f = Flow(k, kinds, D, 300, T, inverse)
    f.shift, f.factor = rng(1).standard_normal(D), 0.5 + rng(2).random(D)
    Z, l = flow(kinds, *f.reference())
    tol = TOL[T]
    got, got_l = f.forward()
    assert got.dtype == got_l.dtype == T
    assert_allclose(got, Z, rtol=tol, atol=tol * np.abs(Z).max())
    assert_allclose(got_l, l, rtol=tol, atol=tol * (1 + np.abs(l).max()))


@kinds_
@inverse_
@pytest.mark.parametrize("D", [1, 2, 5])
def test_log_det_is_that_of_the_jacobian_by_complex_step(k, kinds, inverse, D):
    f = Flow(k, kinds, D, 10, inverse=inverse)
    J = [flow(kinds, *f.p, inverse, f.X + 1e-30j * e)[0].imag / 1e-30 for e in np.eye(D)]
    sign, log_det = np.linalg.slogdet(np.stack(J, 2))
    assert_array_equal(sign, 1)
    assert_allclose(f.forward()[1], log_det, rtol=1e-12, atol=1e-12)


@kinds_
@inverse_
@pytest.mark.parametrize("D", [2, 40])
def test_a_flow_and_its_inverse_cancel(k, kinds, inverse, D):
    f = Flow(k, kinds, D, 300, inverse=inverse)
    Z, l = f.forward()
    g = Flow(k, kinds, D, 300, inverse=1 - inverse)
    g.X = Z
    back, minus_l = g.forward()
    assert_allclose(back, f.X, rtol=1e-11, atol=1e-11)
    assert_allclose(minus_l, -l, rtol=1e-11, atol=1e-11)


def exact_log_det(kind, u, w, b, z):
    """l of one layer at one row in 50 digits, and how far off rounded inner products alone may take it, over eps."""
    u, w, z, b = [mp.mpf(float(v)) for v in u], [mp.mpf(float(v)) for v in w], [mp.mpf(float(v)) for v in z], mp.mpf(b)
    if kind == "planar":
        wu, wz = [p * q for p, q in zip(w, u)], [p * q for p, q in zip(w, z)]
        x, a = mp.fsum(wu), mp.fsum([*wz, b])
        m = x if x >= 0 else mp.expm1(x)
        h, s = mp.tanh(a), mp.sech(a) ** 2
        d = 1 + m * s
        in_x, in_a = s * (1 if x >= 0 else mp.exp(x)) / d, 2 * abs(m * h) * s / d
        return mp.log(d), 1 + in_x * mp.fsum(map(abs, wu)) + in_a * (mp.fsum(map(abs, wz)) + abs(b))
    if kind == "radial":  # 1e-30: TINY of the kernels
        alpha, s = mp.log1p(mp.exp(b)) + mp.mpf(1e-30), mp.log1p(mp.exp(b + u[0])) + mp.mpf(1e-30)
        r = mp.sqrt(mp.fsum((p - q) ** 2 for p, q in zip(z, w)))
        rho = (r + s) / (r + alpha)
        l = (len(z) - 1) * mp.log(rho) + mp.log(rho + r * (alpha - s) / (r + alpha) ** 2)
        return l, len(z) * (1 + abs(b) + abs(u[0]))
    t = [20 * mp.tanh(v / 20) for v in w]
    return mp.fsum(t), 1 + mp.fsum(map(abs, t))


@kind_
def test_log_dets_of_extreme_layers_match_50_digits(k, kind):
    for t in range(400):
        f = extreme(kind, k, t, N=2)
        for z, l in zip(f.X, f.forward()[1]):
            want, condition = exact_log_det(kind, f.p[0][0], f.p[1][0], f.p[2][0], z)
            assert abs(l - want) <= 1e-14 * condition, (t, l, want)


@inverse_
def test_where_a_layer_nearly_folds_its_log_det_keeps_its_digits(k, inverse):
    """At a = 0 the determinant is 1 + w'û = e^x itself, x = w'u < 0: 1 + w'û h' would be 0 from x = -37 on."""
    for x in (-1.0, -30.0, -40.0, -300.0, -700.0):
        f = Flow(k, ("planar",), 2, inverse=inverse)
        f.p = [np.array([[x, 1.0]]), np.array([[1.0, 0.0]]), np.zeros(1)]
        f.X = np.array([[0.0, 3.0]]) if inverse else np.array([[0.0, 3.0], [1e-10, 3.0], [1e-5, 3.0], [0.1, 3.0]])
        for z, l in zip(f.X, f.forward()[1]):
            with mp.workdps(400):
                want, condition = exact_log_det("planar", *(a[0] for a in f.p), z)
            assert abs(l - (-want if inverse else want)) <= 1e-14 * condition, (x, z)


@kind_
def test_extreme_layers_are_finite_and_come_back_to_rounding(k, kind):
    """The bound is that of rounding the image alone, carried back by the inverse's largest slope."""
    for t in range(400):
        f = extreme(kind, k, t)
        y, l = f.forward()
        g = extreme(kind, k, t)
        g.X, g.inverse = y, 1
        z, minus_l = g.forward()
        assert all(np.isfinite(a).all() for a in (y, l, z, minus_l)), t
        table, (u, w, _) = f.layers()[1][0], f.p
        if kind == "planar":
            size, slope = np.linalg.norm(table[:3]), (1 + np.linalg.norm(table[:3]) * np.linalg.norm(w)) * np.exp(-l)
        elif kind == "radial":
            r, (alpha, s) = np.linalg.norm(f.X - w, axis=1), table[-2:]
            rho = (r + s) / (r + alpha)
            size, slope = np.linalg.norm(w), 1 / np.minimum(rho, rho * alpha / (r + alpha) + (r / (r + alpha)) ** 2)
        else:
            size, slope = np.linalg.norm(u), np.exp(-20 * np.tanh(w.min() / 20))
        size += np.abs(f.X).max(1) + np.abs(y).max(1)
        assert np.all(np.abs(z - f.X).max(1) <= 16 * EPS * size * np.maximum(slope, 1)), t


def test_the_table_keeps_planar_layers_invertible(k):
    """û is exact, w'û > -1, and 1 + w'û, which keeps its digits where w'û is -1, is above 0."""
    for t in range(400):
        f = extreme("planar", k, t)
        (u, w), row = (a[0] for a in f.p[:2]), f.layers()[1][0]
        U, W = [[mp.mpf(float(v)) for v in a] for a in (u, w)]
        x, ww = mp.fsum(p * q for p, q in zip(W, U)), mp.fsum(q * q for q in W)
        m = x if x >= 0 else mp.expm1(x)
        size = np.abs(w * u).sum()
        for got, p, q in zip(row[:3], U, W):
            want = p + (m - x) * q / ww
            assert abs(got - want) <= 4 * EPS * (abs(p) + abs(want) + size * abs(q) / ww), t
        assert_array_equal(row[3:6], w)
        assert row[6] == f.p[2][0]
        assert_allclose(row[7], float(m), rtol=1e-15, atol=4 * EPS * size)
        assert row[8] > 0
        assert_allclose(row[8], float(1 + x if x >= 0 else mp.exp(max(x, -700))), rtol=1e-15 + 4 * EPS * size)
        assert row[7] >= -1
        if x > -30:
            assert mp.fsum(mp.mpf(float(p)) * q for p, q in zip(row[:3], W)) > -1


def test_where_w_or_u_is_nothing_a_layer_is_simple(k):
    """w = 0: a shift by u tanh(b). u = 0, and for radial layers u_0 = 0: the identity. And û goes to u with w."""
    f = Flow(k, ("planar",))
    f.p[1][:] = 0
    Z, l = f.forward()
    assert_allclose(Z, f.X + f.p[0][0] * np.tanh(f.p[2][0]), rtol=1e-15)
    assert_allclose(l, 0, atol=4 * EPS)
    gu, gw, gb, _ = f.gradients()
    h, s = np.tanh(f.p[2][0]), 1 - np.tanh(f.p[2][0]) ** 2
    assert_allclose(gu[0], -h * Z.sum(0), rtol=1e-14)
    ba = -s * (Z @ f.p[0][0])
    assert_allclose(gb[0], ba.sum(), rtol=1e-14)
    assert_allclose(gw[0], ba @ f.X + len(f.X) * s * f.p[0][0], rtol=1e-13)
    for kinds in (("planar",) * 2, ("radial",) * 2, ("affine",) * 2):
        for inverse in (0, 1):
            f = Flow(k, kinds, inverse=inverse)
            f.p[0][:] = 0
            f.p[1] *= kinds[0] != "affine"
            Z, l = f.forward()
            assert_allclose(Z, f.X, rtol=1e-14, atol=1e-15)
            assert_allclose(l, 0, atol=8 * EPS)
    for size in 10.0 ** np.arange(-300, 1, 5):
        f = Flow(k, ("planar",) * 8)
        f.p[1] *= size
        u, w = f.p[:2]
        more = np.linalg.norm(f.layers()[1][:, :3] - u, axis=1)
        assert np.all(more <= 0.5 * (u**2).sum(1) * np.linalg.norm(w, axis=1) + 4 * EPS * np.linalg.norm(u, axis=1))


# ------------------------------------------------------------------------------------------------ and back
@kinds_
@inverse_
def test_gradients_of_the_reference_are_those_by_complex_step(k, kinds, inverse):
    for scale, f in regimes(k, kinds, N=6, inverse=inverse):
        want = []
        for n in range(3):

            def total(a, f=f, n=n):
                Z, l = flow(f.kinds, *f.p[:n], a, *f.p[n + 1 :], inverse, f.X)
                return (flow_end("normal", Z) + l).sum()

            want.append(complex_step(total, f.p[n], 1e-30 * scale))
        assert_gradients_close(flow_gradients(f.kinds, *f.reference(), slopes_of("normal")), want, 1e-12)


ENDS = ("normal", "ring", "U1", "U2", "U3", "U4")
ends_ = pytest.mark.parametrize(
    ("D", "end"), [(1, "normal"), *((2, end) for end in ENDS), (5, "normal"), (5, "ring"), (40, "normal"), (40, "ring")]
)


@kinds_
@inverse_
@ends_
def test_gradients_are_those_of_the_reference(k, kinds, inverse, D, end):
    for _, f in regimes(k, kinds, D=D, N=300, inverse=inverse):
        if end[0] == "U" and np.abs(f.forward()[0]).max() > 100:
            continue  # so far out a sine of the reference and of the kernel have little in common
        want = flow_gradients(f.kinds, *f.reference(), slopes_of(end))
        assert_gradients_close(f.gradients(end), want, 1e-10)


@kinds_
@inverse_
@ends_
def test_gradients_are_differences_of_what_the_kernels_sum(k, kinds, inverse, D, end):
    flows = [Flow(k, kinds, D, 40, inverse=inverse)]
    if kinds[0] == "planar" and end[0] != "U":
        flows += [saturated(k, "planar", a, D=D, N=40, inverse=inverse) for a in (20.0, -20.0, 100.0, -100.0)]
    for f in flows:
        *g, totals = f.gradients(end)
        value = f.objective(end, 0, f.p[0])
        assert totals.sum() == pytest.approx(value, rel=1e-12)
        for n in range(3):
            v = rng(n).standard_normal(g[n].shape)
            want = richardson(lambda t, f=f, n=n, v=v: f.objective(end, n, f.p[n] + t * v), 1e-3)
            rounding = EPS * abs(value) / 1e-3
            assert abs((v * g[n]).sum() - want) <= 1e-9 * max(np.abs(g[n]).max(), 1) + 10 * rounding, "uwb"[n]


@kinds_
@inverse_
@pytest.mark.parametrize(("D", "end"), [(2, "normal"), (2, "U1"), (2, "U4"), (40, "ring")])
def test_float32_gradients_are_near_those_in_float64(k, kinds, inverse, D, end):
    for (_, f), (_, g) in zip(*(regimes(k, kinds, D=D, N=300, T=T, inverse=inverse) for T in (np.float32, np.float64))):
        g.p, g.X = [a.astype(np.float32).astype(float) for a in f.p], f.X.astype(np.float32).astype(float)
        if end[0] == "U" and np.abs(g.forward()[0]).max() > 100:
            continue
        got = f.gradients(end)
        assert all(a.dtype == np.float32 for a in got)
        assert_gradients_close(got, g.gradients(end), 3e-3)


@T_
@pytest.mark.parametrize("size", [1e-19, 1e-20, 1e-22, 1e-40, 1e-153, 1e-156, 1e-160, 1e-170])
def test_gradients_are_finite_however_small_w_is(k, size, T):
    """Where |w|² is denormal, 1/|w|² is infinite."""
    f = Flow(k, ("planar",) * 4, T=T)
    f.p[1] *= size
    assert all(np.isfinite(a).all() for a in f.gradients())


# ------------------------------------------------------------------------------------------------ sums
def test_finish_scales_the_gradient_and_adds_to_the_totals(k):
    f = Flow(k, MIXED, N=1000)
    Z, l = f.forward()
    *g, totals = f.gradients()
    assert_allclose(totals, [flow_end("normal", Z).sum(), l.sum()], rtol=1e-13)
    sums, again, more = f.sums(), [np.empty_like(a) for a in f.p], np.array([3.0, 5.0])
    f.k.finish(f.layers()[0], *f.p, sums, -0.25, *again, more)
    assert_array_equal(more, totals + [3, 5])
    for a, b in zip(again, g):
        assert_allclose(a, -0.25 * b, rtol=1e-15, atol=0)


def test_a_parameter_that_a_layer_has_no_use_for_has_no_gradient(k):
    gu, _, gb, _ = Flow(k, MIXED).gradients()
    assert_array_equal(gu[2, 1:], 0)
    assert_array_equal(gb[[1, 4]], 0)


def many(k, **how):
    """So many rows that there are several sums, and that the last block of each is not full."""
    f = Flow(k, MIXED, 7, 15000, **how)
    assert len(f.sums()) == f.k.parts(15000, 7, 5) > 2
    return f


@inverse_
def test_bits_do_not_depend_on_threads(k, inverse):
    f = many(k, inverse=inverse)
    g = rng(1).standard_normal(f.X.shape)
    assert_same_on_threads(lambda: [*f.forward(), f.sums(), f.sums("ring"), f.sums("given", given=g)])
    f.rows = rng(2).permutation(15000)[:9001]
    assert_same_on_threads(lambda: [*f.forward(), f.sums(), f.sums("given", given=g[:9001])])


@T_
@inverse_
def test_rows_by_number_are_those_rows(k, inverse, T):
    f, g = many(k, inverse=inverse, T=T), many(k, inverse=inverse, T=T)
    f.rows = np.append(rng(2).permutation(15000)[:9000], [3, 3])
    g.X = f.X[f.rows]
    slopes = rng(3).standard_normal(g.X.shape)
    for a, b in zip(
        [*f.forward(), f.sums(), f.sums("given", given=slopes)], [*g.forward(), g.sums(), g.sums("given", given=slopes)]
    ):
        assert_array_equal(a, b)


@inverse_
@pytest.mark.parametrize("B", [1, 2, 15, 16, 17, 255, 256, 257, 300])
def test_sums_are_of_the_rows_there_are_and_no_others(k, inverse, B):
    """Blocks are filled up with rows of zeros, which count for nothing."""
    f = Flow(k, MIXED, 3, 300, inverse=inverse)
    Z, l = f.forward()
    f.X = f.X[:B]
    some, some_l = f.forward()
    assert_allclose(some, Z[:B], rtol=1e-12, atol=1e-13)
    assert_allclose(some_l, l[:B], rtol=1e-12, atol=1e-13)
    *g, totals = f.gradients()
    assert_gradients_close(g, flow_gradients(MIXED, *f.reference(), slopes_of("normal")), 1e-12)
    assert_allclose(totals, [flow_end("normal", Z[:B]).sum(), l[:B].sum()], rtol=1e-12)


@T_
@inverse_
def test_rows_are_standardised_first(k, inverse, T):
    f = Flow(k, MIXED, 3, 50, T, inverse)
    f.shift, f.factor = np.array([1.0, -2.0, 0.5]), np.array([0.5, 2.0, 4.0])
    f.X = np.round(16 * f.X) / 16  # so that nothing is rounded below
    g = Flow(k, MIXED, 3, 50, T, inverse)
    g.X = (f.X - f.shift) * f.factor
    for a, b in zip([*f.forward(), f.sums()], [*g.forward(), g.sums()]):
        assert_array_equal(a, b)


@inverse_
def test_given_slopes_take_the_place_of_those_of_the_end(k, inverse):
    f = many(k, inverse=inverse)
    Z, l = f.forward()
    for end in ("normal", "ring"):
        *g, _ = f.gradients("given", given=slopes_of(end)(Z))
        assert_gradients_close(g, f.gradients(end), 1e-12)
    *_, totals = f.gradients("given", given=Z)
    assert totals[0] == 0
    assert totals[1] == pytest.approx(l.sum(), rel=1e-12)


@inverse_
def test_annealing_weighs_the_end_and_no_log_det(k, inverse):
    """beta = min(1, 0.01 + 0.99 counter/annealing), and 1 without annealing; what is reported is not weighed."""
    f = Flow(k, MIXED, 3, 300, inverse=inverse)
    for end in ("normal", "ring"):
        for counter, annealing, beta in (
            (0, 200.0, 0.01),
            (100, 200.0, 0.505),
            (200, 200.0, 1),
            (900, 200.0, 1),
            (7, 0, 1),
        ):
            *g, totals = f.gradients(end, counter=counter, annealing=annealing)
            assert_gradients_close(g, flow_gradients(MIXED, *f.reference(), slopes_of(end), beta), 1e-12)
            assert_array_equal(totals, f.gradients(end)[3])
    g = f.gradients("given", given=slopes_of("ring")(f.forward()[0]), counter=0, annealing=50.0)
    assert_gradients_close(g, flow_gradients(MIXED, *f.reference(), slopes_of("ring"), 0.01), 1e-12)


def test_a_jitted_target_is_called_within_the_loop(k):
    @numba.njit
    def target(z):
        log_pi, g = np.empty(len(z)), np.empty_like(z)
        for n in range(len(z)):
            r = np.linalg.norm(z[n])
            log_pi[n] = -(((r - 2) / 0.4) ** 2) / 2
            for d in range(z.shape[1]):
                g[n, d] = -(r - 2) / 0.16 * z[n, d] / r
        return log_pi, g

    backward = k.flow.fused(target)
    for inverse in (0, 1):
        f = Flow(k, MIXED, 3, 300, inverse=inverse)
        for how in ({}, {"counter": 3, "annealing": 10.0}):
            got, want = f.sums(backward=backward, **how), f.sums("ring", **how)
            assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())
        f.rows = rng().permutation(300)[:270]
        assert_allclose(f.sums(backward=backward)[0, -1, :2], f.sums("ring")[0, -1, :2], rtol=1e-12)
    assert k.flow.fused(target.py_func) is None


@kind_
@inverse_
@pytest.mark.parametrize("what", ["X", "u", "w", "b"])
def test_nan_is_not_swallowed(k, kind, inverse, what):
    f = Flow(k, (kind,), 3, 20, inverse=inverse)
    if what == "b" and kind == "affine":
        pytest.skip("an affine layer has no use for b")
    clean, clean_l = f.forward()
    values = f.X[7] if what == "X" else f.p["uwb".index(what)].reshape(-1)
    values[0] = np.nan
    Z, l = f.forward()
    hit = np.arange(20) == 7 if what == "X" else np.full(20, True)
    assert np.isnan(flow_end("normal", Z) + l)[hit].all()
    assert_array_equal(Z[~hit], clean[~hit])
    assert_array_equal(l[~hit], clean_l[~hit])
    *g, totals = f.gradients()
    assert np.isnan(totals.sum())
    assert not np.isfinite(np.concatenate([a.ravel() for a in g])).all()
    *g, _ = f.gradients("given", given=Z)
    assert not np.isfinite(np.concatenate([a.ravel() for a in g])).all()


@kind_
@inverse_
def test_an_infinite_row_gives_a_sum_that_is_not_finite(k, kind, inverse):
    f = Flow(k, (kind,), 3, 20, inverse=inverse)
    for value in (np.inf, -np.inf):
        f.X[7, 1] = value
        *g, totals = f.gradients()
        assert not np.isfinite(totals.sum())
        assert not np.isfinite(np.concatenate([a.ravel() for a in g])).all()


def test_inputs_may_be_read_only_and_are_left_alone(k):
    f = Flow(k, MIXED, 2, 300)
    given, counter = f.X.copy(), np.array([1])
    inputs = [*f.layers(), given, counter, *f.p]
    inputs[4] = np.arange(300)
    before = [np.copy(a) for a in inputs]
    for a in inputs:
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    kinds, table, _, X, rows, shift, factor, *_ = inputs
    Z, l, sums = np.empty_like(X), np.empty(300), np.empty((f.k.parts(300, 2, 5), 6, 6))
    f.k.prepare(kinds, *f.p, np.empty_like(table))
    f.k.forward(kinds, table, 0, X, rows, shift, factor, Z, l)
    f.k.backward(kinds, table, 0, X, rows, shift, factor, f.k.GIVEN, given, counter, 5.0, sums)
    f.k.finish(kinds, *f.p, sums, 1.0, *(np.empty_like(a) for a in f.p), np.zeros(2))
    f.k.energies(1, X, l, Z)
    for a, b in zip(inputs, before):
        assert_array_equal(a, b)


@T_
@pytest.mark.parametrize("D", [1, 2, 5, 40])
def test_energies_are_their_formulas(k, T, D):
    """test_shared.py holds them against mpmath in each number."""
    Z = (3 * rng(D).standard_normal((400, D))).astype(T)
    for end in ENDS[1:] if D == 2 else ["ring"]:
        log_pi, g = np.full(400, np.nan, T), np.full((400, D), np.nan, T)
        k.flow.energies(k.flow.ENDS.index(end), Z, log_pi, g)
        tol = TOL[T]
        want, slopes = flow_end(end, Z.astype(float)), slopes_of(end)(Z.astype(float))
        assert_allclose(log_pi, want, rtol=tol, atol=tol * np.abs(want).max())
        assert_allclose(g, slopes, rtol=tol, atol=tol * np.abs(slopes).max())


def test_energies_at_the_origin_are_finite(k):
    for end in ENDS[1:]:
        log_pi, g = np.full(1, np.nan), np.full((1, 2), np.nan)
        k.flow.energies(k.flow.ENDS.index(end), np.zeros((1, 2)), log_pi, g)
        assert np.isfinite([*log_pi, *g[0]]).all(), end
