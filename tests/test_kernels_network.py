"""Kernels and objective of Bayesian nets against slow NumPy, complex steps, Richardson differences and closed forms."""

import numpy as np
import pytest
from gradcheck import complex_step, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    log_variance,
    network_gradients,
    network_kl,
    network_log_p,
    network_log_ratio,
    network_output,
    network_parts,
    network_predict,
)
from scipy.special import expit, log_softmax, softmax
from threads import assert_same_on_threads

from lvm.objectives.network import Architecture, Bound, Net, divergence, log_ratio
from lvm.parameters import Parameters

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
ROWS = np.array([5, 0, 3])  # a last batch, shorter than the others
ONCE, LATER = np.array([1]), np.array([5])  # counters
ALL = np.empty(0, np.int64)  # in place of row numbers
PRIORS = ("ard", "log_uniform", "gaussian")


def rng(*seed):
    return np.random.default_rng([9, *seed])


class Model:
    """The objective `bound` of an architecture, with parameters of some size, and rows X with targets and weights Y."""

    def __init__(
        self, k, T=np.float64, sizes=(4, 3, 3), activation="tanh", likelihood="softmax", prior="ard", tau2=0.5, warm=0,
        N=7, shift=0.0, factor=1.0, held=(), weighted=False, W=None, seed=0,
    ):  # fmt: skip
        self.a, r = Architecture(sizes, activation, likelihood), rng(seed, *sizes)
        self.k, self.prior, self.tau2, self.warm, self.N = k, prior, tau2, warm, N
        self.parameters = p = Parameters(k, self.a.shapes(), T)
        p.assign({name: r.standard_normal(s) / np.sqrt(s[0]) for name, s in self.a.shapes().items()})
        self.X = r.standard_normal((N, sizes[0])).astype(T)
        y = r.standard_normal(N) if likelihood == "gaussian" else np.arange(N) % max(sizes[-1], 2)
        self.Y = np.column_stack([y, r.gamma(1.0, size=N) if weighted else np.ones(N)]).astype(T)
        self.W = float(self.Y[:, 1].sum(dtype=float)) if W is None else W
        self.shift, self.factor = (np.full(sizes[0], v, T) for v in (shift, factor))
        self.bound = Bound(
            k, self.a, p, self.X, self.Y, self.shift, self.factor, lambda: held, prior=prior, tau2=tau2, warm=warm,
            batch_size=4, seed=3, weight=self.W, share=self.W / N,
        )  # fmt: skip

    def step(self, rows=ROWS, counter=ONCE):
        """The gradient of the bound, by name."""
        self.bound.step(rows, counter)
        return {name: -g for name, g in self.parameters.gradients.items()}

    def beta(self, counter):
        return min(1.0, counter[0] / self.warm) if self.warm else 1.0

    def eps(self, n):
        """The noise of the last step, of each layer (n,O)."""
        ends = n * np.cumsum(self.a.sizes[1:])
        return [e.reshape(n, -1).astype(float) for e in np.split(self.bound.eps[: ends[-1]], ends[:-1])]

    def given(self, rows=ROWS):
        """What the reference takes, of the last step."""
        theta = {name: np.asarray(v, float) for name, v in self.parameters.get().items()}
        x = (self.X[rows].astype(float) - self.shift) * self.factor
        y = self.Y[rows, 0].astype(float)
        return theta, x, y if self.a.likelihood == "gaussian" else y.astype(int), self.eps(len(rows))

    def options(self, rows=ROWS):
        how = {"likelihood": self.a.likelihood, "activation": self.a.activation, "prior": self.prior}
        weights = {"w": self.Y[rows, 1].astype(float), "N": self.N, "W": self.W}
        return {**how, **weights, "prior_variance": self.tau2}

    def reference(self, counter=ONCE):
        return network_gradients(*self.given(), **self.options(), beta=self.beta(counter))

    def value(self, counter):
        """The mean bound of the last step, with its beta, of what the kernels made."""
        kl = self.bound.divergence(self.parameters.get())
        return self.bound.l[: len(ROWS), 0].mean() * self.N / self.W - self.beta(counter) * kl / self.W


CASES = {
    "relu": {"activation": "relu", "sizes": (4, 5, 3), "prior": "log_uniform"},
    "softplus": {"activation": "softplus", "sizes": (3, 4, 1), "likelihood": "gaussian", "prior": "gaussian"},
    "leaky-relu": {"activation": "leaky_relu", "sizes": (3, 4, 3, 1), "likelihood": "logistic", "weighted": True},
    "tanh": {"sizes": (3, 3, 2, 4), "warm": 10, "weighted": True, "prior": "log_uniform"},
    "linear": {"sizes": (4, 1), "likelihood": "logistic", "warm": 10},
    "linear-softmax": {"sizes": (2, 5), "prior": "gaussian", "weighted": True, "W": 20.0},
    "one-by-one": {"sizes": (1, 1, 1, 1), "likelihood": "gaussian", "weighted": True, "warm": 10},
}
case_ = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_gradients_close(got, want, rtol):
    """Each array to rtol of its largest number."""
    assert list(got) == list(want)
    for name, b in want.items():
        assert_allclose(got[name], b, rtol=0, atol=rtol * np.abs(b).max(), err_msg=name)


# ------------------------------------------------------------------------------------------------ a step
@case_
def test_gradients_are_those_of_the_reference_by_complex_step(k, case):
    """Of a short last batch, with what the whole one before has left in the buffers."""
    model = Model(k, **case)
    model.step(np.arange(4))
    assert_gradients_close(model.step(ROWS, LATER), model.reference(LATER), 1e-12)


@case_
def test_gradients_are_differences_of_what_the_kernels_sum(k, case):
    model = Model(k, **case)
    for name, g in model.step(ROWS, LATER).items():
        view, v = model.parameters.views[name], rng(1).standard_normal(g.shape)
        before = view.copy()

        def along(t, view=view, before=before, v=v):
            view[:] = before + t * v
            model.step(ROWS, LATER)
            return model.value(LATER)

        want = richardson(along, 1e-3)
        view[:] = before
        assert abs((v * g).sum() - want) <= 1e-9 * max(np.abs(g).max(), 1), name


@pytest.mark.parametrize("likelihood", ["softmax", "logistic", "gaussian"])
def test_float32_gradients_are_near_those_in_float64(k, likelihood):
    sizes = (4, 5, 3 if likelihood == "softmax" else 1)
    model = Model(k, np.float32, sizes, "relu", likelihood, "log_uniform", weighted=True, warm=10)
    got = model.step(ROWS, LATER)
    assert all(g.dtype == np.float32 for g in got.values())
    assert_gradients_close(got, model.reference(LATER), 1e-5)


@pytest.mark.parametrize("warm", [0, 1])
def test_the_first_step_has_all_of_the_kl_unless_it_is_to_rise(k, warm):
    """Training counts its steps from 0."""
    first = np.zeros(1, np.int64)
    model = Model(k, warm=warm)
    assert_gradients_close(model.step(ROWS, first), model.reference(first), 1e-12)


def test_the_weight_of_the_kl_stays_at_one_after_it_rose(k):
    risen, late = Model(k, warm=5), Model(k, warm=5)
    for model, counter in (risen, LATER), (late, np.array([10**6])):
        got = model.step(ROWS, counter)
        assert_gradients_close(got, network_gradients(*model.given(), **model.options(), beta=1.0), 1e-12)


@pytest.mark.parametrize("likelihood", ["softmax", "gaussian"])
def test_gradients_at_far_out_parameters_are_those_of_the_reference(k, likelihood):
    """Sums of 1e4, weights of 0 and next to it, log-variances of ±20, where they are bounded."""
    for prior in PRIORS:
        model = Model(k, np.float64, (4, 4, 3 if likelihood == "softmax" else 1), likelihood=likelihood, prior=prior)
        v = model.parameters.views
        v["mu_0"][0], v["mu_0"][1], v["mu_1"][-1, 0] = 0, 1e-20, 1e4
        v["rho_0"][2], v["rho_0"][3, 0], v["rho_0"][3, 1:] = -60, 3, -300
        assert_gradients_close(model.step(), model.reference(), 1e-10)
        v["rho_0"][3] = 60
        v["rho_1"][0] = 60
        assert_gradients_close(model.step(), model.reference(), 1e-10)


def test_rows_are_standardised_first(k):
    model = Model(k, shift=-0.5, factor=4.0)
    assert_gradients_close(model.step(), model.reference(), 1e-12)


def test_batches_may_be_rows_and_targets_themselves(k):
    """As they come from a file: the same bits as by their numbers."""
    by_number, rows = (Model(k, shift=0.25, factor=2.0, weighted=True) for _ in range(2))
    rows.bound.X = None
    want, got = by_number.step(), rows.step(np.concatenate([rows.X, rows.Y], axis=1)[ROWS])
    for name in want:
        assert_array_equal(got[name], want[name])


def test_a_row_of_weight_2_counts_twice(k):
    """With the noise that it has: by the slope of each row."""
    model = Model(k, weighted=True)
    model.Y[ROWS, 1] = 1, 0, 2
    got, (theta, x, y, eps) = model.step(), model.given()
    some = np.array([0, 2, 2])
    options = model.options() | {"w": np.ones(3)}
    want = network_gradients(theta, x[some], y[some], [e[some] for e in eps], **options)
    assert_gradients_close(got, want, 1e-12)


# ------------------------------------------------------------------------------------------------ what is reported
@pytest.mark.parametrize("name", ["softplus", "leaky-relu", "tanh", "linear-softmax"])
def test_values_are_means_over_the_epoch_with_all_of_the_kl(k, name):
    model = Model(k, **CASES[name])
    log_p = weight = 0.0
    for rows in (np.arange(4), ROWS):
        model.step(rows, LATER)
        part, kl = network_parts(*model.given(rows), **model.options(rows))
        log_p += part * len(rows) * model.W / model.N
        weight += model.Y[rows, 1].sum()
    theta, got = model.given()[0], model.bound.values()
    pruned = [ratio[:-1] >= 3 for ratio in network_log_ratio(theta)]
    want = {"lower_bound": log_p / weight - kl, "log_likelihood": log_p / weight, "kl": kl}
    want["sparsity"] = sum(p.sum() for p in pruned) / sum(p.size for p in pruned)
    want |= {f"sparsity_{l}": p.mean() for l, p in enumerate(pruned)} if len(pruned) > 1 else {}
    assert got == pytest.approx(want, rel=1e-12)
    assert_array_equal(model.bound.totals, 0)


def test_held_out_rows_have_noise_of_their_own_that_is_always_the_same(k):
    held, log_p = [np.arange(4), np.array([6, 2])], 0.0
    model = Model(k, **CASES["tanh"], held=held)
    got, drawn = model.bound.validate(), []
    for i, rows in enumerate(held):
        k.random.normal(3, 1, i, model.bound.eps[: len(rows) * 9])
        part, kl = network_parts(*model.given(rows), **model.options(rows))
        log_p += part * len(rows) * model.W / model.N
        drawn.append(model.bound.eps.copy())
    log_p /= model.Y[[0, 1, 2, 3, 6, 2], 1].sum()
    assert got == pytest.approx({"lower_bound": log_p - kl, "log_likelihood": log_p, "kl": kl}, rel=1e-12)
    model.step(np.arange(4), np.zeros(1, np.int64))
    assert np.all(model.bound.eps[:36] != drawn[0][:36])
    totals = model.bound.totals.copy()
    assert model.bound.validate() == got
    assert_array_equal(model.bound.totals, totals)


# ------------------------------------------------------------------------------------------------ weights
MU = np.r_[0, 1e-100, 1e-20, 1e-15, 1e-8, 1e-3, 1, 30, 1e9]
RHO = np.r_[-60.0, -30, -10, -3, 0, 3, 10, 30, 60]


def grid(T=np.float64):
    """mu, either sign, and rho (18,9): all pairs, as a layer."""
    mu, rho = np.meshgrid(np.r_[MU, -MU], RHO, indexing="ij")
    return mu.astype(T), rho.astype(T)


@T_
def test_variances_are_bounded(k, T):
    rho = np.r_[-1e9, -300, RHO, 300, 1e9].astype(T)[:, None]
    S = np.full_like(rho, np.nan)
    k.network.spread(rho, S)
    assert_allclose(S, np.exp(log_variance(rho.astype(float))), rtol=1e-5 if T is np.float32 else 1e-14)


@pytest.mark.parametrize("prior", PRIORS)
@T_
def test_slopes_of_the_kl_are_those_of_its_formula_however_far_out(k, prior, T):
    """Each number by itself. Slopes in S that come in are turned into those in rho."""
    mu, rho = grid(T)
    if T is np.float32:
        mu = np.where(np.abs(mu) < 1e-19, T(0), mu)  # whose squares are none
    S, r = np.empty_like(rho), rng(4)
    k.network.spread(rho, S)
    dmu, dS = r.standard_normal((2, *mu.shape)).astype(T)
    got = dmu.copy(), np.zeros_like(dS)
    rest = k.network.PRIORS.index(prior), 0.3, 0.5, np.array([3]), 4
    k.network.regularise(mu, rho, S, *rest, *got)
    share, exact = 0.5 * 3 / 4, (mu.astype(float), rho.astype(float))
    kl = lambda mu, rho: network_kl({"mu_0": mu, "rho_0": rho}, prior, 0.3)[0]
    in_mu = share * np.imag(kl(exact[0] + 1e-200j, exact[1])) / 1e-200
    in_rho = share * np.imag(kl(exact[0], exact[1] + 1e-30j)) / 1e-30
    tol = 2e-5 if T is np.float32 else 1e-10
    assert_allclose(got[0], dmu + in_mu, rtol=tol, atol=tol)
    assert_allclose(got[1], in_rho, rtol=tol, atol=tol * 1e-3)
    if T is np.float64:
        more = np.zeros_like(dmu), dS.copy()
        k.network.regularise(mu, rho, S, *rest, *more)
        assert_allclose(more[0], in_mu, rtol=1e-9, atol=1e-300)
        slope = np.imag(np.exp(log_variance(rho + 1e-30j))) / 1e-30
        assert_allclose(more[1], got[1] + dS * slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_kl_in_nats_is_that_of_the_reference(k, prior):
    mu, rho = grid()
    theta = {"mu_0": mu, "rho_0": rho}
    for some in (slice(0, 9), slice(9, 18)):
        part = {name: a[some] for name, a in theta.items()}
        want = network_kl(part, prior, 0.3)[0]
        each = [
            divergence(k, m[None], r[None], prior, 0.3) for m, r in zip(part["mu_0"].ravel(), part["rho_0"].ravel())
        ]
        assert_allclose(each, want.ravel(), rtol=1e-10, atol=1e-15)
        assert_allclose(divergence(k, part["mu_0"], part["rho_0"], prior, 0.3), want.sum(), rtol=1e-12)
    assert_allclose(divergence(k, *grid(np.float32), prior, 0.3), network_kl(theta, prior, 0.3)[0].sum(), rtol=1e-5)


def test_the_log_ratio_is_bounded(k):
    mu, rho = grid()
    ratio, want = log_ratio(k, mu, rho), network_log_ratio({"mu_0": mu, "rho_0": rho})[0]
    assert_allclose(ratio, want, rtol=1e-12, atol=1e-12)
    assert np.all(ratio[mu == 0] > 49)
    assert ratio.max() <= 20 + 30 * np.log(10)
    assert ratio.dtype == log_ratio(k, *grid(np.float32)).dtype == float
    assert_allclose(log_ratio(k, np.array([[np.exp(-1.5)]]), np.zeros((1, 1))), 3, rtol=1e-15)


# ------------------------------------------------------------------------------------------------ draws
@pytest.mark.parametrize("sizes", [(3, 1), (3, 4, 3), (2, 3, 4, 1)])
@pytest.mark.parametrize("R", [1, 5])
def test_draws_are_those_of_the_reference(k, sizes, R):
    """With noise that all rows share, and with noise of each row."""
    model = Model(k, sizes=sizes, likelihood="softmax" if sizes[-1] > 1 else "gaussian", activation="softplus")
    theta, B, r = model.given()[0], len(model.X), rng(5)
    mu, rho = ([theta[f"{name}_{l}"] for l in range(model.a.layers)] for name in ("mu", "rho"))
    net = Net(k, model.a, mu, [np.exp(log_variance(s)) for s in rho], np.float64, B, R)
    shared = [r.standard_normal((R, O)) for O in sizes[1:]]
    u = net.draw(model.X, model.X**2, shared, R).reshape(B, R, -1).copy()
    for i in range(R):
        assert_allclose(u[:, i], network_output(theta, model.X, [e[i] for e in shared], "softplus"), rtol=1e-12)
    want = network_predict(theta, model.X, shared, likelihood=model.a.likelihood, activation="softplus")
    if sizes[-1] > 1:
        assert_allclose(softmax(u, axis=2).mean(1), want, rtol=1e-12)
    else:
        assert_allclose(u[:, :, 0].mean(1), want[0], rtol=1e-12)
        assert_allclose(u[:, :, 0].var(1) + np.exp(log_variance(theta["noise"])), want[1] ** 2, rtol=1e-12)
    own = [r.standard_normal((B * R, O)) for O in sizes[1:]]
    u = net.draw(model.X, model.X**2, own, R).reshape(B, R, -1)
    for i in range(R):
        assert_allclose(u[:, i], network_output(theta, model.X, [e[i::R] for e in own], "softplus"), rtol=1e-12)
    assert_allclose(net.mean(model.X), network_output(theta, model.X, None, "softplus"), rtol=1e-12)
    few = net.draw(model.X[:2], model.X[:2] ** 2, shared, R).reshape(2, R, -1)
    assert_array_equal(few, net.draw(model.X, model.X**2, shared, R).reshape(B, R, -1)[:2])


@T_
def test_what_is_not_asked_for_is_not_written(k, T):
    r = rng(6)
    M, V, eps = r.standard_normal((3, 4)).astype(T), r.random((3, 4)).astype(T), r.standard_normal((6, 4)).astype(T)
    H, squares, G = (np.full((6, 4), np.nan, T) for _ in range(3))
    k.network.perturb(M, V, eps, 2, "relu", H, squares, G)
    root = np.repeat(np.sqrt(V), 2, axis=0)
    assert_allclose(H, np.maximum(np.repeat(M, 2, axis=0) + root * eps, 0), rtol=1e-5 if T is np.float32 else 1e-14)
    assert_array_equal(squares, H * H)
    assert_allclose(G, 0.5 * eps / root, rtol=1e-6)
    for none in (np.empty((0, 4), T), np.empty((0, 0), T)):
        alone = np.full((6, 4), np.nan, T)
        k.network.perturb(M, V, eps, 2, "relu", alone, none, none)
        assert_array_equal(alone, H)
        k.network.perturb(M, V, eps, 2, "relu", alone, none, out := np.full((6, 4), np.nan, T))
        assert_array_equal(out, G)


def test_a_sum_without_variance_is_its_mean(k):
    """What is pruned has none."""
    M, eps, H, none = rng(7).standard_normal((3, 4)), rng(8).standard_normal((6, 4)), np.empty((6, 4)), np.empty((0, 0))
    k.network.perturb(M, np.zeros((3, 4)), eps, 2, "identity", H, none, none)
    assert_array_equal(H, np.repeat(M, 2, axis=0))


@T_
def test_slopes_of_the_last_layer_have_no_variance_above_them(k, T):
    """delta = dM, as it is; and of another layer delta = (dM + 2 h dV) f'(u)."""
    r, B = rng(9), 5
    dM, dV, U, G = (r.standard_normal((B, 3)).astype(T) for _ in range(4))
    H, tol = np.maximum(U, 0), 1e-5 if T is np.float32 else 1e-14
    for above in (False, True):
        delta, (gamma, db, ds) = dM.copy(), (np.full(s, np.nan, T) for s in ((B, 3), 3, 3))
        args = (dV, H, G, "relu") if above else (np.empty((0, 3), T), np.empty((0, 3), T), G, "relu")
        k.network.back(delta, *args, gamma, db, ds)
        want = (dM + 2 * H * dV) * (U > 0) if above else dM
        assert_allclose(delta, want, rtol=tol, atol=tol)
        assert_allclose(gamma, want * G, rtol=tol, atol=tol)
        assert_allclose(db, want.sum(0), rtol=tol, atol=10 * tol)
        assert_allclose(ds, (want * G).sum(0), rtol=tol, atol=10 * tol)


# ------------------------------------------------------------------------------------------------ likelihoods
def likelihood(k, A, t, noise, which, share=1.0):
    """l and the slopes in A."""
    A, l = A.copy(), np.full((len(A), 2), np.nan, A.dtype)
    k.network.likelihood(A, t, noise, k.network.LIKELIHOODS.index(which), share, l)
    return l, A


@T_
def test_logits_however_large_give_classes_their_probability(k, T):
    """Slopes to their last digits, also where a class is all but sure: of the right one minus the others'."""
    tol, r = 1e-5 if T is np.float32 else 1e-13, rng(10)
    A = (r.standard_normal((8, 5)) * np.array([0, 1e-8, 1, 30, 80, 300, 1e4, 1e30])[:, None]).astype(T)
    y, A = np.r_[np.arange(8) % 5, A.argmax(1)], np.tile(A, (2, 1))  # any class, and the likeliest
    t, none = np.column_stack([y, r.gamma(1.0, size=16)]).astype(T), np.empty(0, T)
    l, slopes = likelihood(k, A, t, none, "softmax", 0.25)
    w, rows = t[:, 1].astype(float), np.arange(16)
    log_p = log_softmax(A.astype(float), axis=1)
    assert_allclose(l[:, 0], w * log_p[rows, y], rtol=tol, atol=10 * np.finfo(T).eps)
    assert_array_equal(l[:, 1], 0)
    others = np.where(np.arange(5) == y[:, None], 0, np.exp(log_p))
    tiny = np.finfo(T).tiny
    with np.errstate(under="ignore"):
        others[rows, y] = -others.sum(1)
        assert_allclose(slopes, 0.25 * w[:, None] * others, rtol=10 * tol, atol=tiny)
    a = np.r_[0, 1e-8, 1, 30, 80, 1e4, 1e30]
    a = np.r_[a, -a].astype(T)
    for y in (0, 1):
        t = np.column_stack([np.full(14, y), np.full(14, 3.0)]).astype(T)
        l, slopes = likelihood(k, a[:, None], t, none, "logistic", 0.25)
        sign = (1 if y else -1) * a.astype(float)
        with np.errstate(under="ignore"):
            assert_allclose(l[:, 0], -3 * np.logaddexp(0, -sign), rtol=tol, atol=tiny)
            assert_allclose(slopes[:, 0], (0.75 if y == 0 else -0.75) * expit(-sign), rtol=tol, atol=tiny)


def test_gaussian_slopes_are_their_formulas_however_far_out(k):
    A = np.r_[0, 1e-8, 1, -40, 1e4, 1e8][:, None]
    t = np.column_stack([np.r_[0.5, -1, 2, 3, 0, 1], np.r_[1.0, 2, 0.5, 1, 0, 3]])
    bound = lambda A, rho: (t[:, 1] * network_log_p({"noise": rho}, A, t[:, 0], "gaussian")).sum()
    for rho in (-60.0, -3.0, 0.0, 3.0, 30.0, 60.0):
        theta = {"noise": np.array([rho])}
        l, slopes = likelihood(k, A, t, theta["noise"], "gaussian", 0.25)
        assert_allclose(l[:, 0], t[:, 1] * network_log_p(theta, A, t[:, 0], "gaussian"), rtol=1e-13)
        in_A = complex_step(lambda A, rho=theta["noise"]: bound(A, rho), A)
        assert_allclose(slopes, -0.25 * in_A, rtol=1e-12, atol=1e-300)
        dnoise, totals = np.full(1, np.nan), np.array([1.0, 2.0])
        k.network.finish(l, t, dnoise, totals)
        assert_allclose(dnoise, -0.25 * complex_step(lambda rho: bound(A, rho), theta["noise"]), rtol=1e-10, atol=1e-12)
        assert_allclose(totals - [1, 2], [l[:, 0].sum(), 7.5], rtol=1e-12)


def test_what_an_epoch_adds_up_is_in_float64(k):
    """Of float32 numbers, too, whose sum in float32 would not move; and there may be no noise."""
    n = 1000
    l, t = np.ones((n, 2), np.float32), np.ones((n, 2), np.float32)
    l[0] = 2.0**26
    totals, dnoise = np.array([2.0**40, 2.0**40]), np.zeros(1, np.float32)
    k.network.finish(l, t, dnoise, totals)
    assert totals.tolist() == [2.0**40 + 2**26 + n - 1, 2.0**40 + n]
    assert dnoise[0] == np.float32(2**26 + n - 1)
    k.network.finish(l, t, dnoise[:0], totals)
    assert totals.tolist() == [2.0**40 + 2 * (2**26 + n - 1), 2.0**40 + 2 * n]


# ------------------------------------------------------------------------------------------------ rows and blocks
@T_
def test_rows_and_their_targets_are_gathered(k, T):
    """By their numbers or all in order, targets beside X, in its last columns, or none."""
    r = rng(11)
    X, Y = r.standard_normal((6, 5)).astype(T), r.standard_normal((6, 2)).astype(T)
    shift, factor = r.standard_normal(5).astype(T), r.random(5).astype(T)
    both, some, tol = np.concatenate([X, Y], axis=1), np.array([4, 0, 4]), 4 * np.finfo(T).eps
    for rows, take in (some, some), (ALL, np.arange(6)):
        for given, beside, want in (X, Y, Y[take]), (both, Y[:0], Y[take]), (X, Y[:0], 7):
            x, squares, t = (np.full((len(take), n), T(7)) for n in (5, 5, 2))
            k.network.gather(given, beside, rows, shift, factor, x, squares, t)
            assert_allclose(x, (X[take] - shift) * factor, rtol=tol, atol=tol)
            assert_allclose(squares, x.astype(float) ** 2, rtol=tol)
            assert_array_equal(t, np.broadcast_to(want, t.shape))


@pytest.fixture
def small_blocks(k, monkeypatch):
    """So that a few rows are several blocks of every kernel, the last not full."""
    monkeypatch.setattr(k.network, "WORK", 600)
    monkeypatch.setattr(k.linear, "BLOCK", 600)


def test_a_step_has_the_same_bits_on_any_number_of_threads(k, small_blocks):
    model = Model(k, sizes=(20, 40, 30, 5), N=90, prior="log_uniform", weighted=True)
    B = model.bound = Bound(
        k, model.a, model.parameters, model.X, model.Y, model.shift, model.factor, list, prior="log_uniform", tau2=1.0,
        warm=0, batch_size=90, seed=3, weight=90.0, share=1.0,
    )  # fmt: skip

    def step():
        g = model.step(rng(12).permutation(90))
        return [*(a.copy() for a in g.values()), np.array(list(B.values().values()))]

    assert_same_on_threads(step)


def test_blocks_of_any_size_give_the_same_to_rounding(k, monkeypatch):
    for case in (CASES["relu"], CASES["softplus"], CASES["leaky-relu"]):
        want = Model(k, **case).step()
        for work in (1, 40):
            with monkeypatch.context() as patch:
                patch.setattr(k.network, "WORK", work)
                got = Model(k, **case).step()
            assert_gradients_close(got, want, 1e-14)


# ------------------------------------------------------------------------------------------------ what is not finite
@case_
def test_nan_in_rows_targets_or_weights_is_not_swallowed(k, case):
    for name in ["X", "Y", *Model(k, **case).parameters.shapes]:
        model = Model(k, **case, held=[ROWS])
        if name == "Y" and model.a.likelihood == "softmax":
            continue  # (the number of a class)
        where = {"X": model.X, "Y": model.Y}.get(name)
        where = model.parameters.views[name].reshape(-1) if where is None else where[ROWS[1]]
        where[0] = np.nan
        g = model.step()
        with np.errstate(invalid="ignore"):
            assert np.isnan(model.bound.values()["lower_bound"]), name
            assert np.isnan(model.bound.validate()["lower_bound"]), name
        assert not all(np.isfinite(a).all() for a in g.values()), name


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_row_gives_a_gradient_that_is_not_finite(k, value):
    for name, case in CASES.items():
        model = Model(k, **case)
        model.X[ROWS[1], 0] = value
        with np.errstate(invalid="ignore"):  # of inf - inf in a product
            g = model.step()
        assert not all(np.isfinite(a).all() for a in g.values()), name


def test_inputs_may_be_read_only_and_are_left_alone(k):
    r = rng(13)
    X, Y, V, eps, rho, S, noise = (r.random(s) for s in ((3, 4), (3, 2), (3, 4), (3, 4), (3, 4), (3, 4), 1))
    rows, counter = np.array([2, 0, 1]), np.array([1])
    inputs = [X, Y, V, eps, rho, S, noise, rows, counter]
    before = [a.copy() for a in inputs]
    for a in inputs:
        a.flags.writeable = False
    out = lambda *shape: np.zeros(shape)
    k.network.gather(X, Y, rows, X[0], X[1], out(3, 4), out(3, 4), out(3, 2))
    k.network.spread(rho, out(3, 4))
    k.network.regularise(X, rho, S, 1, 1.0, 1.0, counter, 2, out(3, 4), out(3, 4))
    k.network.perturb(X, V, eps, 1, "relu", out(3, 4), out(3, 4), out(3, 4))
    k.network.back(out(3, 4), V, X, eps, "relu", out(3, 4), out(4), out(4))
    k.network.likelihood(out(3, 1), Y, noise, 2, 1.0, out(3, 2))
    k.network.finish(X[:, :2].copy(), Y, out(1), out(2))
    for a, b in zip(inputs, before):
        assert_array_equal(a, b)
