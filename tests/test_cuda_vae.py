"""CUDA kernels of variational autoencoders against their CPU twins, and VAE with device="cuda" against "cpu".

The twins add the same numbers in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum.
"""

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_cuda_relevance import T_, F, G, assert_twins, called, new, rng

from lvm import VAE, kernels
from lvm import vae as estimators
from lvm.kernels.cuda import flow as cuda_flow
from lvm.kernels.cuda import linear as cuda_linear
from lvm.kernels.cuda import vae as cuda_vae
from lvm.kernels.shared.activations import ACTIVATIONS
from lvm.kernels.shared.vae import BINARIZE, ISOTROPIC, KLS, LIKELIHOODS, NETWORK

TOL = {F: 1e-5, G: 3e-14}
cpu = kernels.load("cpu")
which_ = pytest.mark.parametrize("which", range(len(LIKELIHOODS)), ids=LIKELIHOODS)


@pytest.fixture
def k():
    """The CUDA kernel set, simulated in one order only, where another would test nothing more (`cuda_set` has both)."""
    if not GPU:
        import simulator

        simulator.install("forward")
    return kernels.load("cuda")


@pytest.fixture(autouse=True)
def unwritten():
    """Kernels meet memory to work with that nobody wrote to."""
    cuda_flow._memory.cache_clear()
    cuda_linear._memory.cache_clear()


def assert_same(got, want, tol):
    """Arrays that agree to roundings of the largest number in the second, or of 1."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert np.isfinite(b).all(), f"array {i}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert_allclose(a, b, rtol=tol, atol=tol * max(np.abs(b).max(initial=0), 1), err_msg=f"array {i}")


# ---------------------------------------------------------------------------------------------------- data and layers
@T_
@pytest.mark.parametrize("binarize", range(len(BINARIZE)), ids=map(str, BINARIZE))
def test_rows_are_gathered_as_on_the_cpu(cuda_set, binarize, T):
    r = rng()
    for B, D in (1, 1), (9, 3), (7, 70):
        X, u = r.random((B + 3, D)).astype(T), r.random((B + 3, D)).astype(T)
        X[0], X[1], X[2] = 0, 1, 0.5
        shift, factor = r.random((2, D)).astype(T)
        rows = r.permutation(B + 3)
        for numbers, out in (rows[:B], u[:B].copy()), (rows[:0], u):
            given = X, numbers, shift, factor, binarize, out
            assert_twins(cuda_set, "gather", *given, tol=np.finfo(T).eps, family="vae")


@T_
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_of_a_layer_are_those_of_the_cpu(k, activation, T):
    r, f = rng(), np.vectorize(ACTIVATIONS[activation], otypes=[T])
    for B, N in (5, 33), (130, 2):  # the last one in two runs
        H, delta = f(3 * r.standard_normal((B, N)).astype(T)), r.standard_normal((B, N)).astype(T)
        assert_twins(k, "back", H, delta, new(N, T), activation, tol=TOL[T], family="linear")
    assert_twins(k, "back", H[:0], delta, new(N, T), tol=TOL[T], family="linear")


def test_many_rows_are_added_up_in_runs(cuda_set, monkeypatch):
    monkeypatch.setattr(cuda_linear, "RUN", 4)
    for B in 4, 5, 37:  # one run; two, one of them short; four of 10 rows
        delta = rng().standard_normal((B, 3))
        want = called(cpu, "linear", "back", delta + 1, delta.copy(), new(3), "tanh")
        got = called(cuda_set, "linear", "back", delta + 1, delta.copy(), new(3), "tanh")
        assert_same(got, want, TOL[G])


# --------------------------------------------------------------------------------------------------------- posterior
class Posterior:
    """A head, noise, and slopes from a decoder. path implies the terms by samples, and no layers."""

    def __init__(self, d, K, amortised, S, kl, B=5, T=G, path=0, same_noise=False):
        r, P, M = rng(100 * d + S), K * (2 * d + 1), B * S
        self.T, self.S, self.kl, self.path, self.K, self.shape = T, S, KLS.index(kl), path, K, (M, d)
        self.head = r.standard_normal((B, 2 * d + amortised * P)).astype(T)
        self.head[:, :d] *= 3
        self.flow = r.standard_normal((1, P)).astype(T) if P and not amortised else np.empty((0, 0), T)
        self.eps, self.dZ = (r.standard_normal((n, d)).astype(T) for n in (S if same_noise else M, M))
        self.c, self.whole = r.dirichlet(np.ones(S), B).reshape(M).astype(T) * T(0.1), 0.1

    def sample(self, k):
        """Z, extra, hs."""
        out = new(self.shape, self.T), new(self.shape[0], self.T), new((self.shape[0], 2 * self.K), self.T)
        return called(k, "vae", "sample", self.head, self.eps, self.flow, self.S, self.kl, *out)[3:]

    def back(self, k, counter=3, warm=4):
        """dhead, dflow, where the CPU went down."""
        Z, _, hs = self.sample(cpu)
        given = self.head, self.eps, self.flow, hs, Z, self.dZ, self.c, self.whole, self.kl, self.path
        out = new(self.head.shape, self.T), new((len(self.head) if self.flow.size else 0, self.flow.shape[1]), self.T)
        return called(k, "vae", "sample_back", *given, np.array([counter]), warm, *out)[-2:]


POSTERIORS = [  # d, K, amortised, S, kl, more
    (1, 0, True, 1, "analytic", {"B": 150}),  # more than a block
    (33, 0, True, 3, "analytic", {"B": 2}),
    (5, 0, True, 2, "entropy", {"same_noise": True}),
    (3, 0, True, 3, "monte_carlo", {"path": 1}),
    (2, 2, True, 3, "monte_carlo", {"B": 9}),
    (5, 3, False, 2, "entropy", {}),
    (40, 2, False, 1, "monte_carlo", {"B": 2, "same_noise": True}),
]


@T_
@pytest.mark.parametrize(("d", "K", "amortised", "S", "kl", "more"), POSTERIORS)
def test_samples_and_their_slopes_are_those_of_the_cpu(cuda_set, d, K, amortised, S, kl, more, T):
    p = Posterior(d, K, amortised, S, kl, T=T, **more)
    assert_same(p.sample(cuda_set), p.sample(cpu), 3 * TOL[T])
    assert_same(p.back(cuda_set), p.back(cpu), 10 * TOL[T])


def test_the_weight_of_the_kl_rises_as_on_the_cpu(k):
    for p in Posterior(3, 0, True, 2, "analytic"), Posterior(3, 1, True, 2, "monte_carlo"):
        for counter, warm in (0, 7), (9, 7), (0, 0), (1, 0):
            assert_same(p.back(k, counter, warm), p.back(cpu, counter, warm), 10 * TOL[G])


@T_
def test_saturated_layers_and_extreme_variances_are_those_of_the_cpu(k, T):
    p = Posterior(2, 2, True, 2, "monte_carlo", T=T)
    p.head[0, 2:4], p.head[1, 2:4] = 50, -50
    p.head[2, 6:8] *= 60
    p.head[3, 4:6] = -20 * p.head[3, 6:8]
    for a, b in zip((*p.sample(k), p.back(k)[0]), (*p.sample(cpu), p.back(cpu)[0]), strict=True):
        assert np.isfinite(b).all()
        for x, y in zip(a, b):  # rows, each of a size of its own
            assert_allclose(x, y, rtol=0, atol=1e3 * np.finfo(T).eps * np.abs(y).max())


# -------------------------------------------------------------------------------------------------------- likelihood
class Outputs:
    """What a decoder put out for B rows with S samples of each, of which k share a bound."""

    def __init__(self, which, D, S=1, k=1, B=3, T=G, squashed=0, scale=2.0):
        r, M = rng(D + S), B * S
        self.which, self.squashed, self.S, self.k, self.T, self.D = which, squashed, S, k, T, D
        self.A = (scale * r.standard_normal((M, D * (2 if which == NETWORK else 1)))).astype(T)
        self.X = r.random((B, D)).astype(T)
        self.rho = r.standard_normal({"isotropic": 1, "diagonal": D}.get(LIKELIHOODS[which], 0)).astype(T)
        self.extra = r.standard_normal(M).astype(T)

    def through(self, k, slopes=True, counter=2, warm=5):
        """A and px, and with slopes c, drho and totals."""
        M, R, T = len(self.A), self.rho.size, self.T
        sums, px, c = new((k.vae.parts(M, self.D, self.k), R), T), new(M, T), new(M if slopes else 0, T)
        rest = self.which, self.squashed, self.k, self.k / M, np.array([counter]), warm
        A, *_, px, c, sums = called(k, "vae", "likelihood", self.A, self.X, self.rho, self.extra, *rest, px, c, sums)
        if not slopes:
            return A, px
        out = new(R, T), np.array([3.0, -7, 1])
        *_, drho, totals = called(k, "vae", "finish", px, self.extra, self.rho, self.S, self.k, sums, *out)
        return A, px, c, drho, totals


@T_
@which_
def test_likelihoods_and_their_slopes_are_those_of_the_cpu(cuda_set, which, T):
    for D, S, k_, squashed in (1, 1, 1, 0), (5, 6, 3, 1), (70, 2, 1, 1), (33, 3, 3, 0):
        o = Outputs(which, D, S, k_, T=T, squashed=squashed)
        assert_same(o.through(cuda_set), o.through(cpu), 3 * TOL[T])
        assert_same(o.through(cuda_set, slopes=False), o.through(cpu, slopes=False), 3 * TOL[T])


def test_a_block_takes_sample_after_sample(cuda_set, monkeypatch):
    monkeypatch.setattr(cuda_vae, "PARTS", 3)
    for which in range(len(LIKELIHOODS)):
        for k_ in 1, 4:
            o = Outputs(which, 5, 4, k_, B=4)
            assert cuda_set.vae.parts(16, 5, k_) == 3
            assert_same(o.through(cuda_set), o.through(cpu), 3 * TOL[G])


def test_many_columns_and_samples_are_those_of_the_cpu(k, monkeypatch):
    monkeypatch.setattr(cuda_vae, "FACTORS", 2)  # of a thread, of which there are up to 256
    for o in Outputs(0, 600, T=F, B=2), Outputs(ISOTROPIC, 300), Outputs(0, 3, 70, 70, B=2):
        assert_same(o.through(k), o.through(cpu), 10 * TOL[o.T])


@T_
def test_saturated_outputs_are_those_of_the_cpu(k, T):
    for which in range(len(LIKELIHOODS)):
        o = Outputs(which, 5, 2, 2, T=T, squashed=1, scale=300.0)
        o.extra *= 100
        for a, b in zip(o.through(k), o.through(cpu), strict=True):
            assert_allclose(a, b, rtol=1e3 * np.finfo(T).eps, atol=1e-30)


def test_a_row_that_is_no_number_shows(k):
    for which in range(len(LIKELIHOODS)):
        o = Outputs(which, 5, 2, 2)
        o.A[3, 1] = np.nan
        A, px, c, drho, totals = o.through(k)
        assert_array_equal(np.isnan(px), np.arange(6) == 3)
        assert_array_equal(np.isnan(c), np.arange(6) // 2 == 1)
        assert np.isnan(A[3, 1])
        assert np.isnan(drho).any() == (drho.size > 0)
        assert np.isnan(totals[:2]).all()
    p = Posterior(3, 1, True, 2, "monte_carlo")
    p.eps[3, 1] = np.nan
    assert_array_equal(np.isnan(p.sample(k)[1]), np.arange(10) == 3)


def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k):
    found = []
    for order in ("forward", "reverse", "again"):  # the last one with memory that others wrote to
        if not GPU and order != "again":
            import simulator

            simulator.install(order)
        some = [Posterior(d, K, a, S, kl, T=F, **more) for d, K, a, S, kl, more in POSTERIORS[3:]]
        outputs = [Outputs(which, 33, 3, 3, T=F, B=1) for which in (0, 1, 2)]
        found.append([a for p in some for a in (*p.sample(k), *p.back(k))] + [a for o in outputs for a in o.through(k)])
    for x, y, z in zip(*found, strict=True):
        assert_array_equal(x, y)
        assert_array_equal(x, z)


# ----------------------------------------------------------------------------------------------------- the estimator
FITS = [  # params, T, tol
    ({"hidden_layer_sizes": (5,), "noise": "diagonal", "batch_size": 4, "early_stopping": True}, G, 1e-9),
    ({"hidden_layer_sizes": (), "n_flow_layers": 2, "n_importance": 2, "n_samples": 2, "kl_warmup_steps": 4}, G, 1e-9),
    ({"likelihood": "bernoulli", "hidden_layer_sizes": (4, 3), "binarize": "dynamic", "mean": "sigmoid"}, F, 1e-4),
    ({"n_flow_layers": 1, "amortised": False, "noise": "network", "mean": "sigmoid", "activation": "tanh"}, G, 1e-9),
    ({"likelihood": "autoencoder", "hidden_layer_sizes": (3,), "activation": "leaky_relu", "clip_norm": 0.1}, G, 1e-9),
]


@pytest.fixture
def few(k, monkeypatch):
    """Epochs of few steps, few draws, and products by the host: test_linear.py has those of a device."""
    monkeypatch.setattr(estimators, "STEPS", 2)
    monkeypatch.setattr(estimators, "DRAWS", 3)
    if not GPU:
        host = lambda *args: cpu.linear.gemm(*(getattr(a, "_ary", a) for a in args))
        monkeypatch.setattr(k.linear, "gemm", host)


def data(T=G, N=9):
    return rng(5).random((N, 3)).astype(T)


def model(device, **params):
    return VAE(2, max_epochs=2, random_state=0, device=device, **{"hidden_layer_sizes": (4,), **params})


def assert_same_model(got, want, tol):
    assert_allclose(got.parameters_, want.parameters_, rtol=tol, atol=tol)
    assert got.parameters_.dtype == want.parameters_.dtype
    assert got.history_.keys() == want.history_.keys()
    for name, values in want.history_.items():
        assert_allclose(got.history_[name], values, rtol=tol, atol=tol, err_msg=name)


@pytest.mark.parametrize(("params", "T", "tol"), FITS)
def test_a_fit_is_that_on_the_cpu(k, few, params, T, tol):
    X = data(T)
    got, want = (model(d, **params).fit(X) for d in ("cuda", "cpu"))
    assert_same_model(got, want, tol)
    density = params.get("likelihood") != "autoencoder"
    for name in ("transform", "reconstruct", *(("elbo", "score_samples") if density else ())):
        more = (3,) if name in ("elbo", "score_samples") else ()
        a, b = (getattr(m, name)(X, *more) for m in (got, want))
        assert (type(a), a.dtype) == (type(b), b.dtype)
        assert_allclose(a, b, rtol=10 * tol, atol=10 * tol, err_msg=name)


def test_a_fit_of_blocks_is_that_on_the_cpu(k, few):
    X = data()
    got, want = (model(d, batch_size=4).fit(lambda: iter((X[:5], X[5:]))) for d in ("cuda", "cpu"))
    assert_same_model(got, want, 1e-9)
