"""The host side of the CUDA kernel set on a driver without a GPU (fake_cuda.c): prints what went wrong, as JSON.

Launches do nothing there, so after each function of the kernel set its CPU twin computes on the same memory. What comes
out is then what the CPU gives, to the bit, if every array, cast, slice and copy on the way is right. Of a recorded step
the twins are recorded, too, with the memory that they had: what replays it has them compute there again.
Run by test_cuda_launch.py, in a process of its own: the simulator and the real numba.cuda cannot share one.
"""

import ctypes
import gc
import json
import sys
import traceback
import types
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from lvm import (  # noqa: E402
    VAE,
    BayesianMLPClassifier,
    BayesianMLPRegressor,
    GaussianMixture,
    PlanarFlow,
    ProbabilisticPCA,
    RelevanceVectorClassifier,
    RelevanceVectorRegressor,
    VariationalLogisticRegression,
    distributions,
    flow,
    kernels,
    network,
    targets,
    vae,
)
from lvm.kernels.cuda import api  # noqa: E402
from lvm.kernels.cuda.api import cuda  # noqa: E402
from lvm.objectives import relevance  # noqa: E402
from lvm.objectives.gradients import Sums  # noqa: E402

DRIVER = ctypes.CDLL("libcuda.so.1")
FAMILIES = "adam", "distributions", "flow", "gradients", "linear", "logistic", "mixture", "network", "ppca", "random"
FAMILIES += "relevance", "vae"
ALONE = "coordinates", "each", "fused", "gaps", "memory", "pieces", "room"  # which leave nothing in arrays
host, device = kernels.load("cpu"), kernels.load("cuda")
_depth = 0
_tape = None  # the twins of a step that is recorded


def number(name):
    """A counter of the driver: launches, nodes, replays, live, room."""
    return ctypes.c_long.in_dll(DRIVER, name)


def view(a):
    """An array of the device as the NumPy array that it is here; what the twin takes for the device's Gaps."""
    if type(a).__name__ == "Gaps":
        return True
    if not hasattr(a, "copy_to_host"):
        return a
    if a.size == 0:
        return np.empty(a.shape, a.dtype)
    at = {"data": (a.device_ctypes_pointer.value, False), "shape": a.shape, "typestr": a.dtype.str, "version": 3}
    return np.asarray(types.SimpleNamespace(__array_interface__=at))


def both(on_device, on_host):
    """The function of the device, then its twin."""

    def call(*args, **more):
        global _depth
        _depth += 1
        try:
            on_device(*args, **more)
        finally:
            _depth -= 1
        if _depth:
            return None
        there, named = list(map(view, args)), {name: view(a) for name, a in more.items()}
        if _tape is None or on_host.__name__ == "parts":
            return on_host(*there, **named)
        _tape.append(lambda: on_host(*there, **named))

    return call


class Replayed(api._Graph):
    """A graph whose replays compute."""

    def __call__(self):
        super().__call__()
        if self.graph is not None:
            for twin in self.tape:
                twin()

    def _record(self):
        global _tape
        _tape = self.tape = []
        try:
            super()._record()
        finally:
            _tape = None


def install():
    for family in FAMILIES:
        ours, theirs = getattr(device, family), getattr(host, family)
        for name, f in vars(theirs).items():
            g = getattr(ours, name, None)
            if (
                isinstance(g, types.FunctionType)
                and g.__module__ == ours.__name__
                and name[0] != "_"
                and name not in ALONE
            ):
                setattr(ours, name, both(g, f))
    launch = api.Kernel.__call__

    def call(self, blocks, threads, *args):
        launch(self, blocks, threads, *args)
        if self in (api._widen, api._narrow):
            x, out = args if self is api._widen else args[::-1]
            view(out)[:] = view(x)

    api.Kernel.__call__ = call
    api._Graph = Replayed


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def fits(kind, T, gaps, room):
    """A fit, its answers, stepwise and streamed fits, on data of the host and of the device."""
    rng, whole = np.random.default_rng(0), device.mixture.ROOM
    X = np.concatenate([rng.normal(size=(150, 4)), rng.normal(size=(150, 4)) @ rng.normal(size=(4, 4)) + 3]).astype(T)
    if gaps:
        X[rng.random(X.shape) < 0.2] = np.nan
        X[7] = np.nan
    new = lambda d: GaussianMixture(3, covariance_type=kind, max_iter=6, tol=0, random_state=0, device=d)
    a, b = new("cpu").fit(X, sample_weight=np.arange(300.0)), new("cuda")
    device.mixture.ROOM = room
    try:
        b.fit(X, sample_weight=np.arange(300.0))
        for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
            same(getattr(a, name), getattr(b, name))
        for name in ("predict", "predict_proba", "score_samples", "impute"):
            same(getattr(a, name)(X), getattr(b, name)(X))
        same(a.sample(5)[0].shape, b.sample(5)[0].shape)
        for name, g in a.score_gradient(X).items():
            same(g, b.score_gradient(X)[name])
        blocks = lambda: np.array_split(X, 3)
        same(new("cpu").fit(blocks).means_, new("cuda").fit(blocks).means_)
        same(*(new(d).partial_fit(X[:200]).partial_fit(X[200:]).means_ for d in ("cpu", "cuda")))
        if not gaps:
            there, b = cuda.to_device(X), new("cuda")
            same(new("cpu").fit(X).predict_proba(X), b.fit(there).predict_proba(there).copy_to_host())
            X = np.tile(X, (2, 1))
            same(*(new(d).fit(X).standard_errors(X)["means_"] for d in ("cpu", "cuda")) if kind == "full" else (0, 0))
    finally:
        device.mixture.ROOM = whole


def linear_gaussian(T):
    """Fits by every method, and their answers, on data of the host and of the device."""
    rng, rooms = np.random.default_rng(0), (host.ppca.ROOM, device.ppca.ROOM)
    X = (rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(300, 6))).astype(T)
    gaps, w = np.where(rng.random(X.shape) < 0.2, T(np.nan), X), np.arange(300.0)
    gaps[7] = np.nan
    new = lambda d, **more: ProbabilisticPCA(2, max_iter=5, tol=0, n_draws=300, random_state=0, device=d, **more)
    host.ppca.ROOM = device.ppca.ROOM = 20_000  # some blocks, and the same
    try:
        for A, more in (
            (X, {}),
            (X[:5], {"method": "em"}),
            (X[:5], {}),
            (gaps, {}),
            (gaps, {"noise": "diagonal"}),
            (gaps, {"method": "stochastic_em", "batch_size": 7}),
        ):
            a, b = (new(d, **more).fit(A, sample_weight=w[: len(A)]) for d in ("cpu", "cuda"))
            for name in "loadings_", "mean_", "noise_variance_", "lower_bounds_":
                same(getattr(a, name), getattr(b, name))
            for name in "transform", "score_samples", "impute":
                same(getattr(a, name)(gaps), getattr(b, name)(gaps))
            same(a.posterior(gaps)[1], b.posterior(gaps)[1])
            same(a.sample(5).shape, b.sample(5).shape)
            same(*(m.partial_fit(A, sample_weight=w[: len(A)]).loadings_ for m in (a, b)))
        there = cuda.to_device(X)
        same(new("cpu").fit_transform(X), new("cuda").fit_transform(there).copy_to_host())
    finally:
        host.ppca.ROOM, device.ppca.ROOM = rooms


def sparse(T):
    """Fits by Newton in blocks of rows, with all columns as candidates and with some, and by Adam, in batches and by a
    recorded step; all kinds of basis functions; and their answers, on data of the host and of the device."""
    rng, changed = np.random.default_rng(0), pytest.MonkeyPatch()
    X = rng.normal(size=(800, 70)).astype(T)
    y, w = (X[:, 0] + rng.normal(size=800) > 0).astype(int), np.arange(800.0) % 4
    few = {"max_iter": 3, "tol": 0, "random_state": 0}
    adam = {"covariance": "diag", "solver": "adam", "max_epochs": 2}
    changed.setattr(host.relevance, "RUN", device.relevance.RUN)
    for module, name, value in (
        (host.relevance, "ROOM", 0),  # 512 rows at a time, of 600 with weight
        (device.relevance, "ROOM", 0),
        (relevance, "KEPT", 0),
        (relevance, "MANY", 64),
    ):
        changed.setattr(module, name, value)

    def check(kind, A, targets, **more):
        a, b = (kind(device=d, **few, **more).fit(A, targets, sample_weight=w[: len(A)]) for d in ("cpu", "cuda"))
        there = cuda.to_device(A)
        c = kind(device="cuda", **few, **more).fit(there, targets, sample_weight=w[: len(A)])
        for name in "coef_", "intercept_", "alpha_", "covariance_", "relevance_", "lower_bounds_":
            same(getattr(a, name), getattr(b, name))
            same(getattr(a, name), getattr(c, name))
        answer = lambda m, rows: (
            m.predict(rows, return_std=True)[1] if kind is RelevanceVectorRegressor else m.predict_proba(rows)
        )
        same(answer(a, A), answer(b, A))
        same(answer(a, A), answer(c, there).copy_to_host())

    try:
        for more in {}, {"covariance": "diag"}, {"prior": "gaussian", "fit_intercept": False}:
            check(VariationalLogisticRegression, X, y, **more)
        for more in {"batch_size": 256}, {"early_stopping": True}, {"expectation": "monte_carlo", "prior": "gaussian"}:
            before, steps = number("replays").value, 2 * 2 if "batch_size" in more else 2  # whole batches of two epochs
            check(VariationalLogisticRegression, X, y, **adam, **more)
            assert number("replays").value == before + 2 * (steps - 1)
        kernel = lambda A, B: (A @ B.T).astype(float)
        for more in {"gamma": 0.1}, {"kernel": "poly", "gamma": 0.1, "n_centres": 9}, {"kernel": kernel}:
            check(RelevanceVectorClassifier, X[:130], np.arange(130) % 3, **more)
            check(RelevanceVectorRegressor, X[:130], X[:130, 0].astype(float), **more)
        check(RelevanceVectorClassifier, kernel(X[:99], X[:99]).astype(T), y[:99], kernel="precomputed")
    finally:
        changed.undo()


def flows(T):
    """Fits of flows in both directions to rows and to targets, of ours and of a user, and their answers; and a recorded
    step."""
    X, mixed = np.random.default_rng(0).normal(3, 2, (300, 5)).astype(T), {"layers": ("planar", "radial")}
    well = lambda z: (-0.25 * (z * z).sum(1) ** 2, -(z * z).sum(1)[:, None] * z)
    new = lambda d, **more: PlanarFlow(3, max_epochs=2, random_state=0, device=d, **more)
    before, changed = number("replays").value, pytest.MonkeyPatch()
    changed.setattr(flow, "STEPS", 5)
    try:
        new("cuda", batch_size=300).fit(X)  # the same rows in each step, which is recorded
        new("cuda").fit_target(targets.ring, 5, dtype=T)
        assert number("replays").value == before + 2 * (2 * 5 - 1)
        for more in mixed, {"direction": "generative", "early_stopping": True}, {"batch_size": 300}:
            a, b = (new(d, **more).fit(X) for d in ("cpu", "cuda"))
            there = cuda.to_device(X)
            c = new("cuda", **more).fit(there)
            for name in "u_", "w_", "b_", "lower_bounds_":
                same(getattr(a, name), getattr(b, name))
                same(getattr(a, name), getattr(c, name))
            for name in "transform", "inverse_transform", "score_samples", "warp":
                same(getattr(a, name)(X), getattr(b, name)(X))
            same(a.transform(X), c.transform(there).copy_to_host())
        for target, D, more in (targets.U2, 2, {}), (targets.ring, 3, {"direction": "normalising"}), (well, 2, mixed):
            a, b = (new(d, batch_size=33, **more).fit_target(target, D, dtype=T) for d in ("cpu", "cuda"))
            for name in "u_", "w_", "b_", "lower_bounds_":
                same(getattr(a, name), getattr(b, name))
            same(a.elbo(target, 99), b.elbo(target, 99))
    finally:
        changed.undo()
    Z = X[:, :2].copy()
    for k, to in (host, np.asarray), (device, view):
        log_pi, g = k.put(np.zeros(len(Z), T)), k.put(np.zeros_like(Z))
        k.flow.energies(k.flow.ENDS.index("U4"), k.put(Z), log_pi, g)
        same(to(log_pi), targets.U4(Z)[0])
        same(to(g), targets.U4(Z)[1])


def autoencoders(T):
    """Fits with steps that are recorded, on all rows, on batches with a short last one and on blocks, and unrecorded
    ones with rows held out; all kinds of nets; and their answers."""
    X, changed = np.random.default_rng(0).random((50, 9)).astype(T), pytest.MonkeyPatch()
    sizes = {"hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
    changed.setattr(vae, "STEPS", 5)
    changed.setattr(vae, "DRAWS", 6)
    try:
        for more, steps in (  # whole batches
            ({"n_importance": 3, "n_samples": 2, "kl_warmup_steps": 3}, 10),
            ({"noise": "diagonal", "early_stopping": True, "batch_size": 20}, 8),
            ({"likelihood": "bernoulli", "binarize": "dynamic", "n_flow_layers": 2, "batch_size": 20}, 8),
            ({"noise": "network", "n_flow_layers": 2, "amortised": False, "mean": "sigmoid", "batch_size": 20}, 8),
            ({"likelihood": "autoencoder", "hidden_layer_sizes": (), "batch_size": 20}, 8),
        ):
            before = number("replays").value
            a, b = (VAE(2, device=d, **{**sizes, **more}).fit(X) for d in ("cpu", "cuda"))
            assert number("replays").value == before + steps - 1
            same(a.parameters_, b.parameters_)
            for name, values in a.history_.items():
                same(values, b.history_[name])
            for name in "transform", "reconstruct":
                same(getattr(a, name)(X), getattr(b, name)(X))
            same(*(m.partial_fit(X).parameters_ for m in (a, b)))
            if "likelihood" not in more:
                same(a.elbo(X, 7), b.elbo(X, 7))
                same(a.score_samples(X, 7), b.score_samples(X, 7))
                same(a.sample(3), b.sample(3))
        before, blocks = number("replays").value, lambda: iter((X[:17], X[17:]))
        same(*(VAE(2, device=d, batch_size=20, **sizes).fit(blocks).parameters_ for d in ("cpu", "cuda")))
        assert number("replays").value == before + 3
    finally:
        changed.undo()


def nets(T):
    """Fits with steps that are recorded: on all rows, which are several runs, on batches with a short last one, with
    rows held out, and on rows of a disk; and their answers, some rows and draws at a time."""
    rng, changed = np.random.default_rng(0), pytest.MonkeyPatch()
    X, w = rng.normal(size=(300, 7)).astype(T), np.arange(300.0) % 4  # 225 rows with weight
    sizes = {"hidden_layer_sizes": (9, 8), "max_epochs": 2, "random_state": 0}
    changed.setattr(network, "STEPS", 5)
    changed.setattr(network, "ROOM", (50, 1 << 22))
    try:
        for kind, rows, y, more, steps in (  # whole batches
            (BayesianMLPClassifier, X, np.arange(300) % 3, {"batch_size": 300}, 10),
            (BayesianMLPClassifier, X, np.arange(300) % 2, {"batch_size": 80, "early_stopping": True}, 8),
            (BayesianMLPRegressor, X, X[:, 0] + 1, {"prior": "gaussian", "activation": "tanh"}, 8),
            (BayesianMLPRegressor, X.view(np.memmap), X[:, 0], {"hidden_layer_sizes": (), "prior": "log_uniform"}, 8),
        ):
            before = number("replays").value
            a, b = (kind(device=d, **{**sizes, **more}).fit(rows, y, sample_weight=w) for d in ("cpu", "cuda"))
            assert number("replays").value == before + steps - 1
            same(a.parameters_, b.parameters_)
            for name, values in a.history_.items():
                same(values, b.history_[name])
            answer = "predict_proba" if kind is BayesianMLPClassifier else "predict"
            for n in 0, 7, 60:
                same(*(getattr(m, answer)(X[:20], n_samples=n) for m in (a, b)))
            same(a.evaluate(X[:20], y[:20], 7), b.evaluate(X[:20], y[:20], 7))
            same(*(getattr(m.prune(0), answer)(X[:20], n_samples=7) for m in (a, b)))
            same(*(m.partial_fit(X, y, sample_weight=w).parameters_ for m in (a, b)))
    finally:
        changed.undo()


def estimates(T, q):
    """Samples, densities and slopes of a distribution, whole and in parts; and all estimators, in blocks."""
    rng, log_p = np.random.default_rng(0), lambda z: (-0.5 * (z * z).sum(1), -z)
    kind, P, table = host.distributions.KINDS.index(q._kind), q._size, q._table.astype(T)
    u, Z, G = rng.random((130, 2 + (q._kind == "mixture"))).astype(T), np.zeros((130, 2), T), np.ones((130, 2), T)
    whole = Z, G, np.zeros(130, T), Z, *np.zeros((2, 130, P), T)
    for name, given in (
        ("place", (u, Z)),
        ("slopes", whole),
        ("slopes", (Z, *(a[: 0 if i in (0, 4) else 130] for i, a in enumerate(whole[1:])))),  # log q, its slopes
        ("slopes", (Z, *(a[: 130 if i in (0, 4) else 0] for i, a in enumerate(whole[1:])))),  # pulled
    ):
        a, b = [x.copy() for x in (table, *given)], list(map(device.put, (table, *given)))
        for k, arrays in (host, a), (device, b):
            getattr(k.distributions, name)(kind, *arrays)
        for x, y in zip(a, b):
            same(x, view(y))
    found = []
    for k in host, device:
        sums = Sums(k, q._kind, 2, P, k.gradients.ESTIMATORS, log_p, T, True)
        sums.size = 130
        found.append(sums.all(table, np.ones(P), 300, 7))
    for x, y in zip(*found):
        same(x, y)


def small_families(T):
    """Noise, products and Adam, with arrays of size 0 and counters on the device."""
    rng = np.random.default_rng(0)
    for shape in (130,), (3, 5, 7), (0, 3):
        for step in 5, np.array([5]):
            a, b = np.empty(shape, T), device.empty(shape, T)
            for f in "normal", "uniform":
                getattr(host.random, f)(1, 2, step, a)
                getattr(device.random, f)(1, 2, device.put(step) if np.ndim(step) else step, b)
                same(a, view(b))
    for M, N, K in (33, 17, 65), (0, 3, 4), (3, 4, 0), (140, 4, 3):
        for transpose in "nn", "nt", "tn", "tt":
            A = rng.normal(size=(M, K) if transpose[0] == "n" else (K, M)).astype(T)
            B = rng.normal(size=(K, N) if transpose[1] == "n" else (N, K)).astype(T)
            for bias in np.zeros(0, T), np.ones(N, T):
                C, D = np.empty((M, N), T), device.empty((M, N), T)
                host.linear.gemm(A, B, C, bias, transpose, "tanh")
                device.linear.gemm(*map(device.put, (A, B)), D, device.put(bias), transpose, "tanh")
                same(C, view(D))
    vectors = [device.put(np.ones(300, T)) for _ in range(4)]
    step = device.put(np.zeros(1, np.int64))
    for rate in 0.1, T(0.1), device.put(np.ones(1, T)):
        device.adam.adam(*vectors, step, rate, 0.9, 0.999, 1e-8)
        device.adam.tick(step)
    assert view(step)[0] == 3


def recorded_step():
    """A step is recorded once, and replayed; what may not be recorded says so, and leaves no trace."""
    A, B, b, C, noise = (device.put(np.ones(s, np.float32)) for s in ((128, 784), (784, 512), 512, (128, 512), (64, 9)))
    g, none, step = device.empty((784, 512), np.float32), device.empty(0, np.float32), device.put(np.zeros(1, np.int64))
    theta, m, v = (device.put(np.zeros(g.size, np.float32)) for _ in range(3))

    def train():
        device.random.normal(1, 2, step, noise)
        device.linear.gemm(A, B, C, b, "nn", "tanh")
        device.linear.gemm(A, C, g, none, "tn")
        device.adam.adam(theta, g.reshape(g.size), m, v, step, 0.01, 0.9, 0.999, 1e-8)
        device.adam.tick(step)

    again, before, replays = device.capture(train), number("launches").value, number("replays").value
    again()
    assert number("launches").value == before + 5
    for n in range(1, 4):
        again()
        found = number("launches").value, number("nodes").value, number("replays").value
        assert found == (before + 5, 5, replays + n)
    for wrong, said in (
        (lambda: device.empty(5, np.float32), "may not make arrays"),
        (lambda: device.get(step), "cuMemcpyDtoH"),
    ):
        again = device.capture(wrong)
        again()
        with pytest.raises(Exception, match=said):
            again()
        assert api.stream() == 0
    device.sync()


def memory_again():
    """What an array had goes to a later one when the last view on it is gone, and not before; up to a limit."""
    at = lambda a: a.device_ctypes_pointer.value
    api._free.clear()
    a = device.empty((100, 3), np.float64)
    place, part = at(a), a[10:20]
    b = device.empty((100, 3), np.float64)
    assert at(b) != place
    del a
    assert at(device.empty((100, 3), np.float64)) not in (place, at(b))
    del part
    assert at(device.empty((299,), np.float64)) == place
    cycle, pending = [device.empty(200, np.float64)], cuda.current_context().memory_manager.deallocations
    cycle.append(cycle)
    gc.collect()
    pending.clear()
    live = number("live").value
    del cycle
    gc.collect()
    pending.clear()
    assert number("live").value == live  # the collector gave nothing back to the driver
    kept, api.KEPT = api.KEPT, 2000
    try:
        del b  # more than may be kept: all of it goes back to the driver
        assert sum(size * len(pieces) for size, pieces in api._free.items()) <= 2000
    finally:
        api.KEPT = kept


def no_room():
    room, whole = number("room"), number("room").value
    room.value = 0
    try:
        for f in lambda: device.empty((1000, 1000), np.float32), lambda: device.put(np.zeros((1000, 500))):
            with pytest.raises(MemoryError, match=r"The GPU has no room for an array \(1000, "):
                f()
    finally:
        room.value = whole


CHECKS = {
    "full, gaps": lambda: fits("full", np.float32, True, 2**28),
    "full": lambda: fits("full", np.float64, False, 2**28),
    "tied, gaps, little room": lambda: fits("tied", np.float64, True, 3000),
    "diag, little room": lambda: fits("diag", np.float32, False, 3000),
    "spherical, gaps": lambda: fits("spherical", np.float64, True, 2**28),
    "linear Gaussian, float32": lambda: linear_gaussian(np.float32),
    "linear Gaussian, float64": lambda: linear_gaussian(np.float64),
    "sparse Bayes, float32": lambda: sparse(np.float32),
    "sparse Bayes, float64": lambda: sparse(np.float64),
    "flows, float32": lambda: flows(np.float32),
    "flows, float64": lambda: flows(np.float64),
    "autoencoders, float32": lambda: autoencoders(np.float32),
    "autoencoders, float64": lambda: autoencoders(np.float64),
    "nets, float32": lambda: nets(np.float32),
    "nets, float64": lambda: nets(np.float64),
    "estimates, float32": lambda: estimates(
        np.float32, distributions.MultivariateNormal([0.3, -1], [[1.5, 0], [0.4, 0.7]])
    ),
    "estimates, float64": lambda: estimates(
        np.float64, distributions.NormalMixture([0.3, 0.7], [[-1, 0], [1, 2]], [[1, 0.5], [0.6, 1]])
    ),
    "small families, float32": lambda: small_families(np.float32),
    "small families, float64": lambda: small_families(np.float64),
    "a recorded step": recorded_step,
    "memory again": memory_again,
    "no room": no_room,
}


if __name__ == "__main__":
    install()
    warnings.simplefilter("ignore")  # nothing converges
    wrong = {}
    for name, check in CHECKS.items():
        try:
            check()
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc()
    print(json.dumps(wrong))
