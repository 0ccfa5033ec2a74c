"""CUDA kernels of Bayesian nets against their CPU twins, and training steps on both sets.

The twins add the same numbers in another order and with fused multiply-adds: they agree to some roundings of the
largest number in a sum.
"""

import numpy as np
import pytest
from conftest import GPU
from numpy.testing import assert_allclose, assert_array_equal
from test_cuda_relevance import T_, F, G, assert_twins, called, new, rng

from lvm import kernels
from lvm.kernels.cuda import linear as cuda_linear
from lvm.kernels.cuda import network as cuda_network
from lvm.kernels.shared.network import LIKELIHOODS, NORMAL, PRIORS, SOFTMAX
from lvm.objectives.network import Architecture, Bound, Net
from lvm.parameters import Parameters

TOL = {F: 1e-5, G: 1e-12}
ACTIVATIONS = {F: ("identity", "relu"), G: ("identity", "relu", "tanh", "softplus", "leaky_relu")}  # each is compiled
cpu = kernels.load("cpu")


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
    cuda_linear._memory.cache_clear()


def assert_same(got, want, tol):
    """Arrays that agree to roundings of the largest number in the second."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert np.isfinite(b).all(), f"array {i}"
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert_allclose(a, b, rtol=tol, atol=tol * np.abs(b).max(initial=0), err_msg=f"array {i}")


# -------------------------------------------------------------------------------------------------------------- data
@T_
def test_rows_and_targets_are_gathered_as_on_the_cpu(cuda_set, T):
    r, numbers = rng(), np.empty(0, np.int64)
    for B, D in (1, 1), (9, 3), (7, 70):
        X, Y, t = (r.standard_normal((B, n)).astype(T) for n in (D + 2, 2, 2))
        (shift, factor), out = r.random((2, D)).astype(T), (new((B, D), T), new((B, D), T), t)
        beside, some = np.ascontiguousarray(X[:, :D]), np.tile(X[:, :D], (2, 1))
        for given in (
            (some, np.tile(Y[::-1], (2, 1)), r.permutation(2 * B)[:B]),
            (beside, Y, numbers),
            (X, Y[:0], numbers),
            (beside, Y[:0], numbers),  # t stays
        ):
            assert_twins(cuda_set, "gather", *given, shift, factor, *out, tol=np.finfo(T).eps, family="network")


# ----------------------------------------------------------------------------------------------------------- weights
def weights(T):
    """mu, rho, S (35,9): more than a block; weights of 0, tiny and huge ones, variances at their bounds."""
    r = rng()
    mu, rho = r.standard_normal((35, 9)) ** 3, 4 * r.standard_normal((35, 9))
    mu[0], mu[1, :4], mu[1, 4:], rho[2], rho[3] = 0, 1e-9, 1e9, 300, -300
    mu, rho = mu.astype(T), rho.astype(T)
    return mu, rho, called(cpu, "network", "spread", rho, new(rho.shape, T))[1]


@T_
def test_variances_are_those_of_the_cpu(cuda_set, T):
    _, rho, S = weights(T)
    assert_allclose(called(cuda_set, "network", "spread", rho, new(S.shape, T))[1], S, rtol=TOL[T])


@T_
def test_slopes_of_every_prior_are_those_of_the_cpu(cuda_set, T):
    mu, rho, S = weights(T)
    dmu, dS = rng(1).standard_normal((2, 35, 9)).astype(T)
    for prior in range(len(PRIORS)):
        for counter, warm in (3, 7), (0, 7), (9, 7), (0, 0):
            given = mu, rho, S, prior, 0.5, 0.01, np.array([counter]), warm, dmu, dS
            got, want = (called(k, "network", "regularise", *given)[-2:] for k in (cuda_set, cpu))
            for a, b in zip(got, want):
                assert_allclose(a, b, rtol=TOL[T], atol=TOL[T], err_msg=f"{PRIORS[prior]}, step {counter} of {warm}")


# ------------------------------------------------------------------------------------------------------------ layers
def sums(M, O, T):
    """Means and variances of a layer's sums, and noise."""
    r = rng(100 * M + O)
    m, v, eps = 2 * r.standard_normal((M, O)), r.standard_normal((M, O)) ** 2, r.standard_normal((M, O))
    return m.astype(T), v.astype(T), eps.astype(T)


@T_
def test_drawn_sums_are_those_of_the_cpu(cuda_set, T):
    for B, R, O, same_noise in (3, 1, 5, False), (2, 3, 35, False), (4, 2, 9, True), (150, 2, 1, True):
        m, v, eps = sums(B * R, O, T)
        eps, out = eps[:R] if same_noise else eps, new((B * R, O), T)
        for activation in ACTIVATIONS[T]:
            given = m[:B], v[:B], eps, R, activation
            for squares, slopes in (out, out), (out[:0], out), (out, out[:0]), (out[:0, :0], out[:0, :0]):
                assert_twins(cuda_set, "perturb", *given, out, squares, slopes, tol=TOL[T], family="network")
    m, v, eps = sums(4, 3, T)  # noise of two draws, in a layer that has a row for each
    out = new((4, 3), T)
    given = m, v, eps[:2], 1, "relu", out, out[:0], out[:0]
    assert_twins(cuda_set, "perturb", *given, tol=TOL[T], family="network")


def test_a_sum_without_variance_is_its_mean(k):
    m, _, eps = sums(4, 3, G)
    H = called(k, "network", "perturb", m, 0 * m, eps, 1, "identity", new((4, 3)), new((0, 3)), new((0, 3)))[3]
    assert_array_equal(H, m)


def through_back(k, B, O, activation, T=G, last=False):
    """delta, gamma, db, ds."""
    r, O_ = rng(100 * B + O), (0, 0) if last else (B, O)
    m, v, eps = sums(B, O, T)
    out = (new((B, O), T) for _ in range(3))
    *_, H, _, slopes = called(cpu, "network", "perturb", m, v, eps, 1, activation, *out)
    dM, dV = r.standard_normal((2, B, O)).astype(T)
    given = dM, dV[: O_[0], : O_[1]], H[: O_[0], : O_[1]], slopes, activation
    found = called(k, "network", "back", *given, new((B, O), T), new(O, T), new(O, T))
    return [found[0], *found[-3:]]


@T_
def test_slopes_of_a_layer_are_those_of_the_cpu(cuda_set, T):
    for activation in ACTIVATIONS[T]:
        assert_same(*(through_back(k, 19, 33, activation, T) for k in (cuda_set, cpu)), TOL[T])
    for last in True, False:  # in two runs
        assert_same(*(through_back(k, 130, 2, "identity", T, last) for k in (cuda_set, cpu)), TOL[T])


def test_many_rows_are_added_up_in_runs(cuda_set, monkeypatch):
    monkeypatch.setattr(cuda_network, "RUN", 4)
    for B in 4, 5, 37:  # one run; two, one of them short; four of 10 rows
        assert_same(*(through_back(k, B, 3, "tanh") for k in (cuda_set, cpu)), TOL[G])


# -------------------------------------------------------------------------------------------------------- likelihood
OUTPUTS = [(SOFTMAX, K) for K in (1, 2, 10, 33, 130)] + [(which, 1) for which in range(SOFTMAX + 1, len(LIKELIHOODS))]


def through_likelihood(k, which, K, B=5, T=G, scale=2.0):
    """A, dnoise, l, totals."""
    r, gaussian = rng(K), int(which == NORMAL)
    A, noise = (scale * r.standard_normal((B, K))).astype(T), r.standard_normal(gaussian).astype(T)
    y = r.standard_normal(B) if gaussian else r.integers(K if which == SOFTMAX else 2, size=B)
    t = np.stack([y, r.integers(3, size=B)], 1).astype(T)
    A, t, _, l = called(k, "network", "likelihood", A, t, noise, which, 0.3, new((B, 2), T))
    return A, *called(k, "network", "finish", l, t, new(gaussian, T), np.array([3.0, -7]))


@T_
def test_likelihoods_and_their_slopes_are_those_of_the_cpu(cuda_set, T):
    for which, K in OUTPUTS:
        assert_same(*(through_likelihood(k, which, K, T=T) for k in (cuda_set, cpu)), TOL[T])


def test_many_rows_are_those_of_the_cpu(k):
    for which, K in (SOFTMAX, 3), (NORMAL, 1):  # more than a block, and more than threads to add them up
        assert_same(*(through_likelihood(k_, which, K, B=300) for k_ in (k, cpu)), TOL[G])


@T_
def test_saturated_outputs_are_those_of_the_cpu(k, T):
    """Each slope by its own size: what is all but certain keeps its tiny one."""
    eps, tiny = np.finfo(T).eps, np.finfo(T).tiny
    for which, K in (SOFTMAX, 2), (SOFTMAX, 5), (SOFTMAX + 1, 1), (NORMAL, 1):
        for scale in 30.0, 3000.0:
            (A, *rest), (B, *wanted) = (through_likelihood(k_, which, K, T=T, scale=scale) for k_ in (k, cpu))
            assert_allclose(A, B, rtol=1e3 * eps, atol=tiny)
            assert_same(rest, wanted, 1e2 * eps)


def test_a_row_that_is_no_number_shows(k):
    t, none = np.tile([1.0, 1], (5, 1)), np.empty(0)
    for which, K in (SOFTMAX, 3), (SOFTMAX + 1, 1), (NORMAL, 1):
        A = rng().standard_normal((5, K))
        A[3, 0] = np.nan
        noise = np.zeros(1) if which == NORMAL else none
        A, _, _, l = called(k, "network", "likelihood", A, t, noise, which, 0.3, new((5, 2)))
        assert_array_equal(np.isnan(l[:, 0]), np.arange(5) == 3)
        assert_array_equal(np.isnan(A).all(1), np.arange(5) == 3)
        *_, dnoise, totals = called(k, "network", "finish", l, t, noise, np.zeros(2))
        assert_array_equal(np.isnan(totals), [True, False])
        assert np.isnan(dnoise).all()


# ------------------------------------------------------------------------------------------------------ all together
def test_the_same_call_gives_the_same_bits_in_any_order_of_threads(k, monkeypatch):
    monkeypatch.setattr(cuda_network, "RUN", 4)
    found = []
    for order in ("forward", "reverse", "again"):  # the last one with memory that others wrote to
        if not GPU and order != "again":
            import simulator

            simulator.install(order)
        layers = [through_back(k, B, 35, "relu", F) for B in (3, 37)]
        outputs = [through_likelihood(k, which, K, T=F) for which, K in OUTPUTS]
        found.append([a for arrays in (*layers, *outputs) for a in arrays])
    for x, y, z in zip(*found, strict=True):
        assert_array_equal(x, y)
        assert_array_equal(x, z)


STEPS = [  # likelihood, activation, prior, sizes, T, do batches bring their targets?, tol
    ("softmax", "relu", "ard", (3, 5, 4, 3), G, False, 1e-9),
    ("logistic", "tanh", "log_uniform", (3, 4, 1), G, True, 1e-9),
    ("gaussian", "softplus", "gaussian", (3, 1), G, False, 1e-9),
    ("softmax", "relu", "log_uniform", (2, 3, 2), F, True, 1e-4),
]


@pytest.fixture
def few(k, monkeypatch):
    """Many runs of rows, and products by the host: test_linear.py has those of a device."""
    monkeypatch.setattr(cuda_network, "RUN", 4)
    if not GPU:
        host = lambda *args: cpu.linear.gemm(*(getattr(a, "_ary", a) for a in args))
        monkeypatch.setattr(k.linear, "gemm", host)


class Training:
    """A net with random weights, 9 rows, of which it is trained on 6 at a time, and 3 more to hold out."""

    def __init__(self, k, likelihood, activation, prior, sizes, T, streamed):
        r, N, D = rng(7), 12, sizes[0]
        classes = {"softmax": sizes[-1], "logistic": 2}.get(likelihood)
        y = r.standard_normal(N) if classes is None else r.integers(classes, size=N)
        self.X, self.Y = r.standard_normal((N, D)).astype(T), np.stack([y, 1 + r.integers(2, size=N)], 1).astype(T)
        self.k, self.T, self.a, self.streamed = k, T, Architecture(sizes, activation, likelihood), streamed
        self.parameters = p = Parameters(k, self.a.shapes(), T)
        p.assign({name: r.normal(-2 * (name[0] == "r"), 0.5, s) for name, s in p.shapes.items()})
        X, Y = (None, None) if streamed else map(k.put, (self.X, self.Y))
        w, held = self.Y[:9, 1], lambda: [self.batch([9, 10, 11])]
        more = {"prior": prior, "tau2": 0.5, "warm": 3, "batch_size": 6, "seed": 1}
        more |= {"weight": w.sum(), "share": w.mean()}
        self.bound = Bound(k, self.a, p, X, Y, np.full(D, 0.5, T), np.full(D, 2, T), held, **more)

    def batch(self, rows):
        rows = np.array(rows)
        return self.k.put(np.hstack([self.X, self.Y])[rows] if self.streamed else rows)

    def steps(self, n):
        """n steps, recorded where the set records, and one with a short batch: what they leave."""
        p, batch = self.parameters, self.batch([5, 0, 8, 3, 1, 2])

        def step(batch=batch):
            self.bound.step(batch, p.counter)
            p.descend(1e-2, 0, np.inf, 0.9, 0.999, 1e-8)

        again = self.k.capture(step)
        for _ in range(n):
            again()
        step(self.batch([4, 6]))
        state, values = p.state(), [*self.bound.values().values(), *self.bound.validate().values()]
        return [*(state[name] for name in ("theta", "m", "v", "counters")), np.array(values)]

    def answers(self, R):
        """Outputs of three rows: of R draws, the same for all rows, and of the mean weights."""
        k, T, put = self.k, self.T, lambda a: self.k.put(a.astype(T))
        x, sizes = self.X[:3], self.a.sizes
        net = Net(k, self.a, self.bound.mu, self.bound.S, T, 3, R)
        noise = [put(e) for e in (rng(O).standard_normal((R, O)) for O in sizes[1:])]
        drawn = k.get(net.draw(put(x), put(x * x), noise, R)).copy()
        return drawn, k.get(net.mean(put(x)))


@pytest.mark.parametrize(("likelihood", "activation", "prior", "sizes", "T", "streamed", "tol"), STEPS)
def test_steps_of_training_are_those_on_the_cpu(k, few, likelihood, activation, prior, sizes, T, streamed, tol):
    got, want = (Training(k_, likelihood, activation, prior, sizes, T, streamed) for k_ in (k, cpu))
    assert_same(got.steps(4), want.steps(4), tol)
    assert_same(got.answers(2), want.answers(2), 10 * tol)


def test_a_second_step_makes_no_arrays_and_reads_nothing_back(k, few, monkeypatch):
    """As a recorded step must not."""
    t = Training(k, *STEPS[0][:-1])
    t.steps(1)
    batch = t.batch(range(6))

    def refused(*_):
        raise AssertionError("an array, or a copy to the host")

    for module, name in (cuda_linear, "empty"), (k, "empty"), (k, "get"), (k, "put"):
        monkeypatch.setattr(module, name, refused)
    t.bound.step(batch, t.parameters.counter)
