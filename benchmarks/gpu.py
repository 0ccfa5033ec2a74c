"""What the CUDA kernels do on the GPU that is here: are they right, and how fast beside the CPU, PyTorch and CuPy?

    python benchmarks/gpu.py [--out DIR] [--quick]

Needs lvm with numba-cuda, and takes under eight minutes. Prints as it goes; with --out, writes gpu.md and gpu.json
there. PyTorch and CuPy are compared with where they are installed. The exit status is not 0 when a kernel gives another
answer than its CPU twin. In Numba's simulator (NUMBA_ENABLE_CUDASIM=1) it checks tiny sizes and times nothing.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks import problems  # noqa: E402
from lvm import (  # noqa: E402
    GaussianMixture,
    ProbabilisticPCA,
    RelevanceVectorClassifier,
    VariationalLogisticRegression,
    get_num_threads,
    kernels,
)
from lvm.objectives import network, ppca, vae  # noqa: E402
from lvm.objectives.flow import Bound  # noqa: E402
from lvm.objectives.mixture import Mixture  # noqa: E402
from lvm.parameters import Parameters  # noqa: E402

SECONDS = 440  # after which no section begins; the longest takes some twenty
PACKAGES = ["lvm", "numpy", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "nvidia-cublas", "torch"]
PACKAGES += ["cupy-cuda13x", "cupy-cuda12x"]
KINDS = "full", "tied", "diag", "spherical"
NOT_HERE = "not here"


class Report:
    """Rows as they come, on the screen and, at the end, in files."""

    def __init__(self, quick):
        self.began, self.quick, self.about, self.rows, self.failed = time.perf_counter(), quick, {}, [], []

    def say(self, text):
        print(f"[{time.perf_counter() - self.began:5.0f} s] {text}", flush=True)

    def row(self, section, what, value, unit="", goal="", met=None, note=""):
        """One figure. met: is the goal reached? None: there is none."""
        value = value if isinstance(value, str) else float(f"{value:.4g}")
        self.rows.append({"section": section, "what": what, "value": value, "unit": unit, "goal": goal, "met": met})
        self.rows[-1]["note"] = note
        verdict = "" if met is None else f"  goal {goal}: {'met' if met else 'MISSED'}"
        self.say(f"{section:8} {what:52} {value!s:>10} {unit:5}{verdict}  {note}")

    def check(self, what, error, limit):
        """An error that must not be above its limit."""
        if not error <= limit:
            self.failed.append(what)
        self.say(f"check    {what:52} {error:10.1e} {'pass' if error <= limit else f'FAIL, limit {limit:.0e}'}")

    def section(self, f, *args):
        """f(self, *args), if there is time; what goes wrong there is a line."""
        name = f.__name__
        if time.perf_counter() - self.began > SECONDS:
            return self.say(f"{name}: left out, no time")
        try:
            f(self, *args)
        except Exception as e:
            self.say(f"{name} stopped: {type(e).__name__}: {' '.join(str(e).split())[:300]}")
            self.say("  " + traceback.format_exc().strip().splitlines()[-3].strip())
            self.rows.append({"section": name, "what": "stopped", "value": f"{type(e).__name__}: {e}"[:300]})
            if name == "checks":
                self.failed.append(f"{name}: {e}")

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(
            json.dumps({"about": self.about, "failed": self.failed, "rows": self.rows}, indent=1) + "\n"
        )
        lines = ["# lvm on a GPU", "", *(f"- {name}: {value}" for name, value in self.about.items()), ""]
        lines += [f"Checks that failed: {', '.join(self.failed) or 'none'}.", ""]
        lines += ["| | what | measured | goal | met | |", "| --- | --- | ---: | --- | --- | --- |"]
        for r in self.rows:
            met = {None: "", True: "yes", False: "**no**"}[r.get("met")]
            cells = (
                r["section"],
                r["what"],
                f"{r['value']} {r.get('unit', '')}",
                r.get("goal", ""),
                met,
                r.get("note", ""),
            )
            lines.append("| " + " | ".join(c.strip().replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        (folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def about(report):
    """Device, driver, versions."""
    from lvm.kernels.cuda import api

    said = report.about
    said["date"] = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    said["device"] = api.device_name()
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        said["driver, clock, power"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    said["CPU"] = f"{os.cpu_count()} processors, {get_num_threads()} threads"
    said["Python"] = sys.version.split()[0]
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            said[package] = importlib.metadata.version(package)
    for name, value in said.items():
        report.say(f"{name}: {value}")


# -------------------------------------------------------------------------------------------------------------- checks


def apart(a, b):
    """The largest difference, relative to the largest entry of b; infinite where one is no number and the other is."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    finite = np.isfinite(b)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], b[~finite]):
        return np.inf
    a, b = a[finite], b[finite]
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def checks(report, cpu, gpu, tiny):
    """Every kernel beside its CPU twin, in both dtypes, at sizes that no tile divides."""
    sizes = [(70, 5, 3)] if tiny else [(70, 5, 3), (1003, 17, 4), (517, 33, 19), (2051, 70, 5)]
    for T in np.float32, np.float64:
        name, eps = np.dtype(T).name, np.finfo(T).eps
        for N, D, K in sizes:
            for kind in KINDS:
                for missing in 0, 0.2:
                    what = f"{kind} {N}x{D} K={K} {name}" + (", gaps" if missing else "")
                    check_mixture(report, what, cpu, gpu, kind, (N, D, K), T, missing)
            for missing in 0, 0.2:
                what = f"linear {N}x{D} d={min(K, D)} {name}" + (", gaps" if missing else "")
                check_linear(report, what, cpu, gpu, (N, D, min(K, D)), T, missing)
        for N, D in [(37, 3)] if tiny else [(37, 3), (3001, 33)]:
            check_relevance(report, f"{N}x{D} {name}", cpu, gpu, T, N, D)
        for B, D in [(37, 2), (9, 5)] if tiny else [(2051, 2), (517, 5), (100, 40)]:
            check_flow(report, f"{B}x{D} {name}", cpu, gpu, T, B, D)
        for B, D in [(5, 9)] if tiny else [(5, 9), (129, 83), (300, 784)]:
            check_vae(report, f"{B}x{D} {name}", cpu, gpu, T, B, D)
            check_network(report, f"{B}x{D} {name}", cpu, gpu, T, B, D)
        for N in [37] if tiny else [37, 2051, 70_001]:
            check_gradients(report, f"of {N} {name}", cpu, gpu, T, N)
        check_others(report, name, cpu, gpu, T, 300 * eps, tiny)


def check_mixture(report, what, cpu, gpu, kind, size, T, missing):
    """E step with weights, M step, answers and imputation from the same parameters."""
    (N, D, K), rng = size, np.random.default_rng(1)
    X, start = problems.mixture(N, D, K, T)
    w = rng.random(N)
    if missing:
        X[rng.random(X.shape) < missing] = np.nan
        X[N // 2] = np.nan  # a row of gaps alone
    got = []
    for k in cpu, gpu:
        objective = Mixture(k, kind, k.put(X), k.put(w), np.full(D, 1e-3), bool(missing))
        p = objective.params(
            start["weights_init"], start["means_init"].astype(float), objective.diagonal(np.ones(D), K)
        )
        s = objective.statistics(p)
        p = objective.host(objective.maximise(s))
        of, mu, P, c = "diag" if kind == "spherical" else kind, *(k.put(a.astype(T)) for a in (p.mu, p.P, p.c))
        log_px, labels, r = k.empty(N, T), k.empty(N, np.int64), k.empty((N, K), T)
        seen = objective.gaps
        getattr(k.mixture, f"posterior_{of}")(objective.X, mu, P, c, log_px, labels, r, seen)
        filled, none, none_2 = k.empty((N, D), T), k.empty(0, np.float64), k.empty((0, D), np.float64)
        getattr(k.mixture, f"impute_{of}")(objective.X, mu, P, c, none, none_2, filled)
        S = [np.tril(a) if i == 2 and kind in ("full", "tied") else a for i, a in enumerate(s.parts())]
        got.append([s.bound, *S, *p, *map(k.get, (log_px, r, filled))])
    names = ["bound", "S0", "S1", "S2", *p._fields, "log p", "r", "imputed"]
    limit = 100 * D * np.finfo(T).eps * (10 if missing else 1)
    errors = {name: apart(b, a) for name, a, b in zip(names, *got)}
    worst = max(errors, key=errors.get)
    report.check(f"{what}: {worst}", errors[worst], limit)


def check_linear(report, what, cpu, gpu, size, T, missing):
    """E step with weights, M step, answers, steps of stochastic EM, and the covariance of complete rows."""
    (N, D, d), rng = size, np.random.default_rng(1)
    X, w = problems.linear(N, D, d, missing, T), rng.random(N)
    if missing:
        X[N // 2] = np.nan  # a row of gaps alone
    at = linear_start(X, d)
    got = []
    for k in cpu, gpu:
        rows = ppca.Rows(k, k.put(X), X, w, bool(missing))
        likelihood = ppca.Likelihood(rows, False, 0.0)
        s = likelihood.statistics(at)
        p = likelihood.maximise(s)
        answers = [lambda b: k.get(b.Z), lambda b: rows.variances(b, at), lambda b: k.get(b.log_px)]  # noqa: B023
        answers = [rows.answer(n, f, at, True) for n, f in zip(((d + 1,), (D,), ()), answers)]
        drawn, floor = [k.put(np.array(a, order="C")) for a in at], k.put(np.zeros(len(at[1])))
        rate, cumulated = np.array([0.1, 100.0, 0.7, 5]), k.put(np.cumsum(w) / w.sum())
        k.ppca.stochastic(rows.X, cumulated, 7, 3, 20, rate, False, *drawn, floor)
        k.ppca.stochastic(rows.X, k.put(np.empty(0)), 7, 23, 5, rate, True, *drawn, floor)
        complete = [] if missing else [ppca.covariance(k, rows.X, X, np.sqrt(w), X.mean(0, float))[2]]
        moved = [p.W @ p.W.T, p.mu, p.psi]  # W itself is turned, to either sign
        got.append([s.bound, s.A, s.g, s.E, *moved, *answers, *map(k.get, drawn), *complete])
    names = ["bound", "A", "g", "E", "WW'", "mu", "psi", "z", "variances", "log p"]
    names += ["W drawn", "mu drawn", "psi drawn", "covariance"]
    limit = 100 * D * np.finfo(T).eps * (10 if missing else 1)
    errors = {name: apart(b, a) for name, a, b in zip(names, *got)}
    worst = max(errors, key=errors.get)
    report.check(f"{what}: {worst}", errors[worst], limit)


def check_relevance(report, what, cpu, gpu, T, N, D):
    """What Newton's matrices are made of, in float64, and a step of a minibatch in both expectations."""
    rng, G, none = np.random.default_rng(3), np.float64, np.empty(0)
    X, C, y = rng.normal(size=(N, D)), rng.normal(size=(D, 2 * D)), np.where(rng.random(N) < 0.5, 1.0, -1.0)
    m, v, w, which = rng.normal(0, 3, N), rng.lognormal(0, 2, N), rng.random(N), rng.permutation(D)[: D // 2 + 1]
    mu, rho, rows, eps = rng.normal(size=D + 1), rng.normal(-3, 2, D + 1), rng.permutation(N), rng.normal(size=N)
    got = []
    for k in cpu, gpu:
        put = lambda *arrays: [k.put(np.asarray(a)) for a in arrays]  # noqa: B023
        new = lambda *shape, T=G: k.empty(shape, T)  # noqa: B023
        Phi, scaled, some, squares = new(N, 2 * D + 1), new(N, D), new(N, len(which)), new(D)
        sites, odds, moments = [new(N) for _ in range(3)], new(N), [new(N) for _ in range(2)]
        k.relevance.basis(*put(X.astype(T), C), 0.3, True, 0.0, 1, Phi)
        k.relevance.sites(*put(m, v, y, w), *sites)
        k.relevance.odds(*put(m, v), odds)
        k.relevance.collect(*put(X), *moments)
        k.relevance.scale(*put(X, w), scaled)
        k.relevance.columns(*put(X, which), some)
        k.relevance.squares(*put(X), squares)
        expectations, steps = [new(N, T=T) for _ in range(3)], []
        k.logistic.expectation(*put(m.astype(T), v.astype(T)), *expectations)
        one = lambda *arrays: put(*(a.astype(T) for a in arrays))  # noqa: B023
        x, y1, w1, mu1, rho1, zero, ones = one(X, y, w, mu, rho, np.zeros(D), np.ones(D))
        S, alpha, diagonal = new(D + 1, T=T), new(D + 1, T=T), [new(N, T=T) for _ in range(2)]
        k.relevance.spread(mu1, rho1, D, S, alpha)
        k.relevance.moments(x, zero, ones, mu1, S, *diagonal)
        for noise in eps, none:
            sums = new(-(-N // k.relevance.RUN), 2 * D + 4, T=T)
            (totals,), steps = one(np.zeros(2)), [*steps, new(D + 1, T=T), new(D + 1, T=T)]
            k.relevance.local(x, *put(rows), zero, ones, y1, w1, mu1, S, *one(noise), sums)
            counter = k.put(np.full(1, 3))
            k.relevance.finish(mu1, rho1, sums, S, alpha, counter, 10, 0.1, 2.0, *steps[-2:], totals)
            steps.append(totals)
        arrays = [Phi, scaled, some, squares, *sites, odds, *moments], [*expectations, S, alpha, *diagonal, *steps]
        got.append([[k.get(a) for a in of] for of in arrays])
    for kind, a, b, eps in zip(("matrices", "minibatch"), *got, (np.finfo(G).eps, np.finfo(T).eps)):
        report.check(f"relevance {what}: {kind}", max(apart(*pair) for pair in zip(b, a)), 300 * D**0.5 * eps)


def check_flow(report, what, cpu, gpu, T, B, D):
    """Rows through layers of all kinds, in both directions, and the gradients, from every end that there is for D."""
    rng, K, got = np.random.default_rng(4), 5, []
    X, given = rng.normal(2, 3, (B, D)), rng.normal(size=(B, D))
    (u, w), b = 0.7 * rng.normal(size=(2, K, D)) / D**0.5, rng.normal(size=K)
    rows, ends = rng.permutation(B), cpu.flow.ENDS if D == 2 else ("normal", "ring", "given")
    for k in cpu, gpu:
        one = lambda *arrays: [k.put(np.asarray(a, T)) for a in arrays]  # noqa: B023
        new = lambda *shape: k.empty(shape, T)  # noqa: B023
        kinds, numbers, counter = k.put(np.arange(K) % 3), k.put(rows), k.put(np.full(1, 3))
        x, shift, factor, slopes, *layers, none = one(X, np.full(D, 2), np.full(D, 0.3), given, u, w, b, given[:0])
        table, found = new(K, 2 * D + 3), []
        k.flow.prepare(kinds, *layers, table)
        for inverse in 0, 1:
            given_to = kinds, table, inverse, x, numbers, shift, factor
            Z, l = new(B, D), new(B)
            k.flow.forward(*given_to, Z, l)
            found += [Z, l]
            for which, end in enumerate(cpu.flow.ENDS):
                if end in ends:
                    sums, (totals,) = new(k.flow.parts(B, D, K), K + 1, 2 * D + 2), one(np.zeros(2))
                    gu, gw, gb = new(K, D), new(K, D), new(K)
                    k.flow.backward(*given_to, which, slopes if end == "given" else none, counter, 7, sums)
                    k.flow.finish(kinds, *layers, sums, -1 / B, gu, gw, gb, totals)
                    found += [gu, gw, gb, totals]
        if D == 2:
            for which, end in enumerate(cpu.flow.ENDS):
                if end not in ("normal", "given"):
                    found += [new(B), new(B, D)]
                    k.flow.energies(which, x, *found[-2:])
        got.append([k.get(a) for a in (table, *found)])
    report.check(f"flow {what}", max(apart(b, a) for a, b in zip(*got)), 1000 * np.finfo(T).eps)


AUTOENCODERS = {  # likelihood: hidden layers, activation, planar layers, amortised, kl, path, samples, of a bound
    "bernoulli": ((7, 5), "relu", 0, True, "analytic", 0, 1, 1),
    "isotropic": ((6,), "tanh", 2, True, "monte_carlo", 0, 2, 3),
    "diagonal": ((6,), "softplus", 2, False, "entropy", 0, 2, 1),
    "network": ((6,), "leaky_relu", 0, True, "monte_carlo", 1, 1, 3),
    "squared": ((), "relu", 0, True, "monte_carlo", 0, 1, 1),
}


def autoencoder(k, T, B, D, d, likelihood, hidden, activation, flow, amortised, kl, path, n_samples, n_importance):
    """The objective of a net with random weights, for B rows of D columns, in their order."""
    rng, binarize = np.random.default_rng(0), "dynamic" if likelihood == "bernoulli" else None
    a = vae.Architecture(
        D, d, hidden, hidden[::-1], activation, likelihood, likelihood == "network", flow, amortised, binarize
    )
    p = Parameters(k, a.shapes(), T)
    p.assign({name: rng.normal(size=s) / max(s[0], 4) ** 0.5 for name, s in p.shapes.items()})
    X, more = k.put(rng.random((B, D)).astype(T)), {"n_samples": n_samples, "n_importance": n_importance}
    more |= {"kl": kl, "path": path, "warm": 4, "batch_size": B, "seed": 1, "n": B}
    return vae.Bound(k, a, p, X, np.full(D, 0.5, T), np.full(D, 2, T), None, **more)


def check_vae(report, what, cpu, gpu, T, B, D):
    """A step of each kind of net: the gradient, and what an epoch says of it."""
    error = 0.0
    for likelihood, rest in AUTOENCODERS.items():
        got = []
        for k in cpu, gpu:
            o = autoencoder(k, T, B, D, 3, likelihood, *rest)
            k.adam.tick(o.parameters.counter)
            o.step(k.put(np.random.default_rng(1).permutation(B)), o.parameters.counter)
            got.append([k.get(o.parameters.g), list(o.values().values())])
        error = max(error, *(apart(b, a) for a, b in zip(*got)))
    report.check(f"vae {what}", error, 3000 * np.finfo(T).eps)


NETS = {  # likelihood: sizes after D, activation, prior
    "softmax": ((40, 6, 3), "relu", "ard"),
    "logistic": ((6, 1), "tanh", "log_uniform"),
    "gaussian": ((1,), "relu", "gaussian"),
}


def net(k, T, B, D, likelihood, sizes, activation, prior):
    """The objective of a Bayesian net with random weights, for B rows of D columns, in their order."""
    rng, a = np.random.default_rng(0), network.Architecture((D, *sizes), activation, likelihood)
    p = Parameters(k, a.shapes(), T)
    p.assign({name: rng.normal(-6 * (name[:3] == "rho"), 1 / max(s[0], 4) ** 0.5, s) for name, s in p.shapes.items()})
    X, w = rng.random((B, D)).astype(T), 1.0 + rng.integers(2, size=B)
    y = rng.integers(max(sizes[-1], 2), size=B)
    rest = k.put(X), k.put(np.column_stack([y, w]).astype(T)), np.full(D, 0.5, T), np.full(D, 2, T), None
    more = {"prior": prior, "tau2": 0.5, "warm": 4, "batch_size": B, "seed": 1}
    return network.Bound(k, a, p, *rest, weight=w.sum(), share=w.mean(), **more)


def check_network(report, what, cpu, gpu, T, B, D):
    """A step of each kind of net: the gradient, and what an epoch says of it; and two draws with noise that is the same
    for all rows."""
    error, rng = 0.0, np.random.default_rng(1)
    for likelihood, rest in NETS.items():
        rows, got, x = rng.permutation(B), [], rng.random((B, D)).astype(T)
        eps = [rng.normal(size=(2, O)).astype(T) for O in rest[0]]
        for k in cpu, gpu:
            o = net(k, T, B, D, likelihood, *rest)
            k.adam.tick(o.parameters.counter)
            o.step(k.put(rows), o.parameters.counter)
            drawn = network.Net(k, o.a, o.mu, o.S, T, B, 2).draw(k.put(x), k.put(x * x), [k.put(e) for e in eps], 2)
            got.append([k.get(o.parameters.g), list(o.values().values()), k.get(drawn)])
        error = max(error, *(apart(b, a) for a, b in zip(*got)))
    report.check(f"network {what}", error, 3000 * np.finfo(T).eps)


def distribution(kind, T, D=3):
    """The kernels' table of a distribution of D columns, a place in KINDS, and how many columns of noise it takes."""
    rng, name, loc = np.random.default_rng(5), kernels.load("cpu").distributions.KINDS[kind], np.zeros(D)
    if name == "full":
        table = np.vstack([rng.normal(size=D), np.tril(rng.normal(0, 0.3, (D, D)), -1) + np.eye(D)])
    elif name == "mixture":
        m, s = rng.normal(size=(2, D)), rng.uniform(0.5, 1.5, (2, D))
        table = np.column_stack([np.log([0.3, 0.7]), np.log(s).sum(1), m, s])
    else:
        loc = loc if name in ("exponential", "weibull") else rng.normal(size=D)
        scale, shape = rng.uniform(0.5, 2, D), rng.uniform(1, 3, D)
        shape = loc + scale if name == "uniform" else shape  # its end
        table = np.column_stack([loc, scale, np.log(scale), shape])
    return table.astype(T), D + (name == "mixture")


def check_gradients(report, what, cpu, gpu, T, N):
    """Samples of each kind of distribution, their slopes, and what all estimators of the gradient add up; the CPU's in
    float64, for ten kinds are long to compile."""
    errors, rng, which, D = {}, np.random.default_rng(6), np.arange(len(cpu.gradients.ESTIMATORS)), 3
    for kind, name in enumerate(cpu.distributions.KINDS):
        table, R = distribution(kind, T, D)
        P, got = cpu.distributions.coordinates(kind, table), []
        noise, log_p = rng.uniform(0.02, 0.98, (N, R)).astype(T), rng.normal(size=N).astype(T)
        G, z = rng.normal(size=(N, D)).astype(T), np.empty((N, D))
        cpu.distributions.place(kind, table.astype(float), noise.astype(float), z)
        for k, dtype in (cpu, float), (gpu, T):
            put = lambda *arrays: [k.put(np.array(a, dtype, order="C")) for a in arrays]  # noqa: B023
            new = lambda *shapes: [k.empty(shape, dtype) for shape in shapes]  # noqa: B023
            (at,), samples, slopes = put(table), new((D, N), (N, D), (N, D)), new(N, (N, D), (N, P), (N, P))
            sums = [k.empty(shape, np.float64) for shape in (2, (len(which), P), (len(which), P))]
            X, l, g, c = put(z.T.astype(T), log_p, G, np.ones(P))
            k.gradients.draw(kind, at, *put(noise.T), *samples[:2])
            k.distributions.place(kind, at, *put(noise), samples[2])
            k.distributions.slopes(kind, at, *put(z.astype(T), G), *slopes)
            k.gradients.moments(kind, at, X, l, g, k.put(which), c, *sums)
            got.append([k.get(a) for a in (*samples, *slopes, *sums)])
        errors[name] = max(apart(b, a) for a, b in zip(*got))
    worst = max(errors, key=errors.get)
    report.check(f"gradients {what}: {worst}", errors[worst], 1000 * np.finfo(T).eps)


def check_others(report, name, cpu, gpu, T, limit, tiny):
    """Distances, samples, casts, noise, matrix products, Adam."""
    rng = np.random.default_rng(2)
    N, D, L = (37, 3, 5) if tiny else (3001, 13, 21)
    Z, eps = rng.normal(size=(L, D)), rng.normal(size=(N, D))
    X = (Z[rng.integers(L, size=N)] + eps).astype(T)
    z, V = rng.integers(L, size=N), rng.normal(size=(L, D, D))

    def both(what, f, limit=limit):
        report.check(f"{what} {name}", apart(gpu.get(f(gpu)), cpu.get(f(cpu))), limit)

    def filled(f, shape, dtype=T):
        def call(k):
            out = k.empty(shape, dtype)
            f(k, out)
            return out

        return call

    given = lambda k, *arrays: [k.put(np.ascontiguousarray(a)) for a in arrays]
    distances = lambda k, d2: k.mixture.squared_distances(*given(k, X, Z.astype(T), np.ones(D, T)), d2)
    both("squared_distances", filled(distances, (L, N)))
    both("sample", filled(lambda k, x: k.mixture.sample(*given(k, Z, V, z, eps), x), (N, D), np.float64), 1e-12)
    both("cast", lambda k: k.cast(*given(k, X), np.float64), 0)
    both("uniform", filled(lambda k, x: k.random.uniform(7, 1, 5, x), (N, D)), 0)
    both("normal", filled(lambda k, x: k.random.normal(7, 1, 5, x), (N, D)))
    for M, N, K in [(33, 17, 65)] if tiny else [(33, 17, 65), (128, 512, 784), (1023, 511, 301)]:
        for transpose in "nn", "nt", "tn", "tt":
            A = rng.normal(size=(M, K) if transpose[0] == "n" else (K, M)).astype(T)
            B = rng.normal(size=(K, N) if transpose[1] == "n" else (N, K)).astype(T)
            f = "tanh" if transpose == "nn" else "identity"
            product = lambda k, C: k.linear.gemm(*given(k, A, B), C, *given(k, np.ones(N, T)), transpose, f)  # noqa: B023
            both(f"gemm {M}x{N}x{K} {transpose} {f}", filled(product, (M, N)))

    def adam(k):
        theta, g, m, v = given(k, *rng_vectors.astype(T))
        step, factor = given(k, np.full(1, 3), np.full(1, 0.5, T))
        for rate in 0.1, factor:
            k.adam.adam(theta, g, m, v, step, rate, 0.9, 0.999, 1e-8)
            k.adam.tick(step)
        return theta

    rng_vectors = rng.random((4, 1001))
    both("adam, tick", adam)


# -------------------------------------------------------------------------------------------------------------- clocks


def seconds(f, sync, n):
    """Median seconds of n calls, each waited for."""
    taken = []
    for _ in range(n):
        sync()
        start = time.perf_counter()
        f()
        sync()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def stream_of(f, sync, n):
    """Seconds a call of n calls queued one after the other: until they are queued, and until they are done."""
    f()
    sync()
    start = time.perf_counter()
    for _ in range(n):
        f()
    queued = time.perf_counter() - start
    sync()
    return queued / n, (time.perf_counter() - start) / n


def replayed(gpu, f, n=20):
    """Microseconds on the device of one f(), as one of n in a recorded graph."""
    again = gpu.capture(lambda: [f() for _ in range(n)])
    for _ in range(3):
        again()
    return 1e6 * min(stream_of(again, gpu.sync, 20)[1] for _ in range(3)) / n


# ---------------------------------------------------------------------------------------------------------- EM, fitted


def problem(N, D, K, dtype, kind, missing=0.0):
    X, _ = problems.mixture(N, D, K, dtype)
    means = X[:K].astype(float)
    if missing:
        X[np.random.default_rng(1).random(X.shape) < missing] = np.nan
    return X, means


def climber(k, kind, X, means):
    """step() -> bound, an EM step from where the last one ended, and its phases queue on k."""
    K, D = means.shape
    objective = Mixture(k, kind, k.put(X), k.put(np.empty(0)), np.zeros(D), bool(np.isnan(X[:1000]).any()))
    p = objective.params(np.full(K, 1 / K), means, objective.diagonal(np.nanvar(X[:10000], axis=0).astype(float), K))
    state = [objective.statistics(p)]

    def step():
        state[0] = objective.statistics(objective.maximise(state[0]))
        return state[0].bound

    return step


def linear_start(X, d):
    """ppca.Params: loadings drawn at random, for half of the variance."""
    mean, var = np.nanmean(X[:10000], axis=0, dtype=float), np.nanvar(X[:10000], axis=0, dtype=float)
    W = np.random.default_rng(0).standard_normal((len(var), d)) * np.sqrt(var / (2 * d))[:, None]
    return ppca.Params(W, mean, np.full(len(var), var.mean() / 2))


def linear_climber(k, X, start):
    """step() -> bound, an EM step of probabilistic PCA from where the last one ended, and the bound at the start."""
    rows = ppca.Rows(k, k.put(X), X, np.empty(0), bool(np.isnan(X).any()))
    likelihood = ppca.Likelihood(rows, True, 0.0)
    state = [likelihood.statistics(start)]

    def step():
        state[0] = likelihood.statistics(likelihood.maximise(state[0]))
        return state[0].bound

    return step, state[0].bound


def iterations(report, cpu, gpu):
    """One EM step, its bound read back, beside the CPU, PyTorch and CuPy. And is the log-likelihood the same?"""
    big = (100_000, 64, 64) if report.quick else (1_000_000, 64, 64)
    middle = (20_000, 32, 16) if report.quick else (100_000, 32, 16)
    cases = [("full", *middle, "float32", 0), ("diag", *big, "float32", 0), ("tied", *middle, "float32", 0)]
    cases += [("full", *middle, "float64", 0), ("full", *middle, "float32", 0.2), ("diag", *middle, "float32", 0.2)]
    for number, (kind, N, D, K, dtype, missing) in enumerate(cases):
        if time.perf_counter() - report.began > SECONDS:
            return
        what = f"{kind} {N}x{D} K={K} {dtype}" + (f", {missing:.0%} gaps" if missing else "")
        X, means = problem(N, D, K, dtype, kind, missing)
        step = climber(gpu, kind, X, means)
        bounds = [step() for _ in range(3)]
        ours = 1e3 * seconds(step, gpu.sync, 5 if missing else 30)
        goal, met = (
            ("under 1 ms", ours < 1) if number == 0 else ("under 10 ms", ours < 10) if number == 1 else ("", None)
        )
        report.row("EM step", what, ours, "ms", goal, None if report.quick else met)

        step = climber(cpu, kind, X, means)
        step()
        taken = 1e3 * seconds(step, cpu.sync, 2)
        report.row("EM step", f"{what}, CPU kernels", taken, "ms", note=f"{taken / ours:.1f} times ours")
        if number not in (1, 5):  # in float64 where there is room and time
            step = climber(cpu, kind, X.astype(float), means)
            want = [step() for _ in range(3)][-1]
            error, limit = abs(bounds[-1] - want) / abs(want), 1e-5 if dtype == "float32" else 1e-10
            report.row("EM step", f"{what}, error of log-likelihood", error, "", f"at most {limit:.0e}", error <= limit)
        if not missing:
            for peer in (torch_em, cupy_em):
                compare(report, what, peer, ours, bounds[-1], (kind, X, means), number == 0)


def compare(report, what, peer, ours, bound, args, has_goal=False):
    """Milliseconds of the same step by another library, and whether it climbs to the same bound."""
    try:
        for name, taken, reached in peer(*args):
            times, off = taken / ours, abs(reached - bound) / abs(bound)
            goal = "5 times ours" if has_goal and "PyTorch" in name else ""
            met = None if not goal or report.quick else times >= 5
            note = f"{times:.1f} times ours; bounds {off:.0e} apart"
            report.row("EM step", f"{what}, {name}", taken, "ms", goal, met, note)
    except ImportError:
        report.say(f"{peer.__name__}: {NOT_HERE}")
    except Exception as e:
        report.say(f"{what}, {peer.__name__}: {type(e).__name__}: {' '.join(str(e).split())[:200]}")


def torch_em(kind, X, means):
    """EM in PyTorch, all components at once, as a careful user writes it: a factor, one batched product or solve with
    all rows, log-sum-exp. Eager, and recorded as a CUDA graph. float32 without TF32, PyTorch's own default."""
    import torch as t

    x, mu = t.as_tensor(X, device="cuda"), t.as_tensor(means.astype(X.dtype), device="cuda")
    (N, D), K, one = x.shape, len(mu), t.eye(X.shape[1], dtype=x.dtype, device="cuda")
    v = t.as_tensor(np.nanvar(X[:10000], axis=0), device="cuda")
    start = {"full": t.diag(v).expand(K, D, D), "tied": t.diag(v), "diag": v.expand(K, D)}[kind].contiguous()
    p = [t.full((K,), 1 / K, dtype=x.dtype, device="cuda"), mu, start]
    constant = 0.5 * D * np.log(2 * np.pi)

    def weigh(log_p):  # (K,N)
        total = t.logsumexp(log_p, 0)
        return (log_p - total).exp_(), total.mean()

    def full(solve):
        def step(pi, mu, Sigma):
            L = t.linalg.cholesky_ex(Sigma)[0]
            d = x - mu[:, None]
            if solve:
                y = t.linalg.solve_triangular(L, d.mT, upper=False)
                square = (y * y).sum(1)
            else:
                P = t.linalg.solve_triangular(L, one.expand(K, D, D), upper=False)
                square = (d @ P.mT).square_().sum(2)
            log_det = L.diagonal(dim1=1, dim2=2).log().sum(1)
            r, bound = weigh((pi.log() - log_det - constant)[:, None] - 0.5 * square)
            n = r.sum(1)
            mu = r @ x / n[:, None]
            d = x - mu[:, None]
            return bound, n / N, mu, (r[:, :, None] * d).mT @ d / n[:, None, None]

        return step

    def tied(pi, mu, Sigma):
        L = t.linalg.cholesky_ex(Sigma)[0]
        P = t.linalg.solve_triangular(L, one, upper=False)
        square = (x @ P.mT - (mu @ P.mT)[:, None]).square_().sum(2)
        r, bound = weigh((pi.log() - L.diagonal().log().sum() - constant)[:, None] - 0.5 * square)
        n = r.sum(1)
        mu = r @ x / n[:, None]
        return bound, n / N, mu, (total - (mu.mT * n) @ mu) / N

    def diag(pi, mu, v):
        q = 1 / v
        square = q @ squares.mT - 2 * (mu * q) @ x.mT + (mu * mu * q).sum(1)[:, None]
        r, bound = weigh((pi.log() - 0.5 * v.log().sum(1) - constant)[:, None] - 0.5 * square)
        n = r.sum(1)
        mu = r @ x / n[:, None]
        return bound, n / N, mu, r @ squares / n[:, None] - mu * mu

    total, squares = x.mT @ x, x * x
    variants = {"full": {"solve": full(True), "inverse factor": full(False)}, "tied": {"": tied}, "diag": {"": diag}}
    steps = {f"PyTorch ({name})" if name else "PyTorch": step for name, step in variants[kind].items()}
    for name, step in steps.items():
        state = [p]

        def eager():
            with t.no_grad():
                bound, *state[0] = step(*state[0])  # noqa: B023
            return float(bound)

        reached = [eager() for _ in range(4)][-1]
        yield name, 1e3 * seconds(eager, t.cuda.synchronize, 20), reached
    for name, step in steps.items():  # last, for a recording that fails may leave the device unusable
        held, side, graph = [a.clone() for a in p], t.cuda.Stream(), t.cuda.CUDAGraph()
        with t.no_grad():
            with t.cuda.stream(side):
                step(*held)
            side.synchronize()
            with t.cuda.graph(graph):
                bound, *new = step(*held)
                for a, b in zip(held, new):
                    a.copy_(b)

        def replay():
            graph.replay()  # noqa: B023
            return float(bound)  # noqa: B023

        reached = [replay() for _ in range(4)][-1]
        yield f"{name}, CUDA graph", 1e3 * seconds(replay, t.cuda.synchronize, 20), reached


def cupy_em(kind, X, means):
    """The full covariances of torch_em, with an inverse factor, in CuPy."""
    import cupy as cp

    if kind != "full":
        return
    x, mu = cp.asarray(X), cp.asarray(means.astype(X.dtype))
    (N, D), K = x.shape, len(mu)
    Sigma = cp.broadcast_to(cp.diag(cp.asarray(X[:10000].var(axis=0))), (K, D, D)).copy()
    state = [(cp.full(K, 1 / K, x.dtype), mu, Sigma)]

    def step():
        pi, mu, Sigma = state[0]
        L = cp.linalg.cholesky(Sigma)
        P = cp.linalg.inv(L)
        y = cp.matmul(x - mu[:, None], P.swapaxes(1, 2))
        log_det = cp.log(cp.diagonal(L, axis1=1, axis2=2)).sum(1)
        log_p = (cp.log(pi) - log_det - x.dtype.type(0.5 * D * np.log(2 * np.pi)))[:, None] - 0.5 * (y * y).sum(2)
        top = log_p.max(0)
        r = cp.exp(log_p - top)
        s = r.sum(0)
        bound, r = (top + cp.log(s)).mean(), r / s
        n = r.sum(1)
        mu = r @ x / n[:, None]
        d = x - mu[:, None]
        state[0] = n / N, mu, cp.matmul((r[:, :, None] * d).swapaxes(1, 2), d) / n[:, None, None]
        return float(bound)

    reached = [step() for _ in range(4)][-1]
    yield "CuPy", 1e3 * seconds(step, cp.cuda.Device().synchronize, 10), reached


def linear_steps(report, cpu, gpu):
    """One EM step of probabilistic PCA with gaps, beside the CPU and PyTorch."""
    for N, D, d in [(10_000, 50, 5)] if report.quick else [(10_000, 50, 5), (500_000, 64, 8)]:
        what, X = f"PPCA {N}x{D} d={d} float32, 20% gaps", problems.linear(N, D, d, 0.2, "float32")
        start = linear_start(X, d)
        step, first = linear_climber(gpu, X, start)
        bound = [step() for _ in range(3)][-1]
        ours = 1e3 * seconds(step, gpu.sync, 20)
        report.row("EM step", what, ours, "ms")
        step, _ = linear_climber(cpu, X, start)
        error = abs(bound / [step() for _ in range(3)][-1] - 1)
        taken = 1e3 * seconds(step, cpu.sync, 2)
        report.row("EM step", f"{what}, CPU kernels", taken, "ms", note=f"{taken / ours:.1f} times ours")
        report.row("EM step", f"{what}, bounds apart, relative", error, "", "at most 1e-05", error <= 1e-5)
        compare(report, what, torch_gaps, ours, first, (X, start))


def linear_covariances(report, cpu, gpu):
    """The covariance of complete rows, which is all that an exact fit reads of them, beside the CPU and PyTorch."""
    N, D = (100_000, 100) if report.quick else (1_000_000, 100)
    for dtype in "float32", "float64":
        what, X = f"covariance {N}x{D} {dtype}", problems.linear(N, D, 10, dtype=dtype)
        want, none = np.cov(X, rowvar=False, bias=True), np.empty(0)
        for name, k, n in ("", gpu, 10), (", CPU kernels", cpu, 2):
            x = k.put(X)
            S = ppca.covariance(k, x, X, none, X.mean(0, float))[2]
            taken = 1e3 * seconds(lambda: ppca.covariance(k, x, X, none, X.mean(0, float)), k.sync, n)  # noqa: B023
            report.row("moments", what + name, taken, "ms", note=f"error {apart(S, want):.0e}")
        try:
            report.row("moments", f"{what}, PyTorch", torch_covariance(X), "ms", note="cov, in float64")
        except ImportError:
            report.say(f"PyTorch: {NOT_HERE}")


def linear_draws(report, cpu, gpu):
    """Rows that stochastic EM draws in a second."""
    X = problems.linear(100_000, 100, 10)
    for name, k in ("", gpu), (", CPU kernels", cpu):
        x, none, floor = k.put(X), k.put(np.empty(0)), k.put(np.zeros(100))
        for batch in 1, 64:
            theta, rate = (
                [k.put(np.array(a, order="C")) for a in linear_start(X, 10)],
                np.array([0.04, 1200, 0.7, batch]),
            )
            draw = lambda: k.ppca.stochastic(x, none, 7, 0, 1000, rate, True, *theta, floor)  # noqa: B023
            draw()
            taken = seconds(draw, k.sync, 3)
            report.row("draws", f"stochastic EM, batch of {batch}{name}", 1e-3 * batch / taken, "M/s")


def linear_fits(report, cpu, gpu):
    """What a user waits for: a fit of rows with gaps, and answers."""
    N = 10_000 if report.quick else 100_000
    X = problems.linear(N, 50, 5, 0.2, "float32")
    for device in "cpu", "cuda":
        new = lambda: ProbabilisticPCA(5, random_state=0, device=device)  # noqa: B023
        new().fit(X[:2000]).score_samples(X[:2000])  # compiles
        start = time.perf_counter()
        model = new().fit(X)
        taken, note = time.perf_counter() - start, f"{model.n_iter_} steps, to {model.lower_bound_:.6f}"
        report.row("fits", f"PPCA {N}x50 d=5 float32, 20% gaps, {device}", taken, "s", note=note)
        start = time.perf_counter()
        model.score_samples(X)
        report.row("fits", f"score_samples of the same, {device}", 1e3 * (time.perf_counter() - start), "ms")


def relevance_kernels(report, cpu, gpu):
    """The integral that logistic regression is made of, and one step of a minibatch without Adam."""
    N, (B, D), rng = 1_000_000, (1024, 1000), np.random.default_rng(0)
    for dtype in "float32", "float64":
        for v in 0.3, 3.0:
            for name, k, n in ("", gpu, 20), (", CPU kernels", cpu, 3):
                args = k.put(rng.normal(scale=3, size=N).astype(dtype)), k.put(np.full(N, v, dtype))
                out = [k.empty(N, np.dtype(dtype)) for _ in range(3)]
                f = lambda: k.logistic.expectation(*args, *out)  # noqa: B023
                f()
                report.row(
                    "relevance", f"E log sigmoid, variance {v}, {dtype}{name}", 1e9 * seconds(f, k.sync, n) / N, "ns"
                )
    X, y = problems.logistic(20_000, D, "float32")
    for name, k, n in ("", gpu, 50), (", CPU kernels", cpu, 10):
        x, mu, S, zero, ones = (k.put(a.astype("float32")) for a in (X, X[0] / 30, X[1] ** 2, np.zeros(D), np.ones(D)))
        signs, none, rows = (
            k.put((2 * y - 1).astype("float32")),
            k.put(np.empty(0, "float32")),
            k.put(rng.permutation(B)),
        )
        for noise, eps in ("quadrature", none), ("one draw", k.put(rng.normal(size=B).astype("float32"))):
            sums = k.empty((-(-B // k.relevance.RUN), 2 * D + 2), np.float32)
            f = lambda: k.relevance.local(x, rows, zero, ones, signs, none, mu, S, eps, sums)  # noqa: B023
            f()
            report.row("relevance", f"minibatch {B}x{D} float32, {noise}{name}", 1e6 * seconds(f, k.sync, n), "us")


def relevance_fits(report, cpu, gpu):
    """What a user waits for: Newton, the machine of 1000 centres, an epoch of minibatches; and is it the same?"""
    N = 20_000 if report.quick else 250_000
    X, y = problems.logistic(N, 100)
    linear = X, y, lambda device: VariationalLogisticRegression(device=device)
    machine = *problems.banana(N), lambda device: RelevanceVectorClassifier(gamma=1.0, random_state=0, device=device)
    for what, (X, y, new) in {"Newton, linear": linear, "machine of 1000 centres": machine}.items():
        bounds = {}
        for device in "cpu", "cuda":
            new(device).fit(X[:2000], y[:2000])  # compiles
            start = time.perf_counter()
            model = new(device).fit(X, y)
            taken, bounds[device] = time.perf_counter() - start, model.lower_bound_
            note = f"{model.n_iter_} steps, {model.n_relevant_} kept"
            report.row("fits", f"{what} {N}x{X.shape[1]}, {device}", taken, "s", note=note)
        report.row("fits", f"{what}, lower_bound_ apart", abs(bounds["cuda"] - bounds["cpu"]), "nats")
    X, y = problems.logistic(N, 500, "float32")
    for device in "cpu", "cuda":
        ends = []
        model = VariationalLogisticRegression(
            covariance="diag",
            solver="adam",
            n_epochs_no_change=None,
            max_epochs=3,
            callback=lambda epoch, values: ends.append(time.perf_counter()),  # noqa: B023
            random_state=0,
            device=device,
        ).fit(X, y)
        note = f"bound {model.lower_bound_:.6f}"
        report.row("fits", f"an epoch of minibatches {N}x500 float32, {device}", ends[-1] - ends[-2], "s", note=note)


def flow_steps(report, cpu, gpu):
    """A training step of planar layers by reverse KL: noise, through the layers and back, Adam. And these alone."""
    large = 10_000 if report.quick else 100_000
    for D, K, B in (2, 8, 1000), (2, 32, 1000), (40, 10, 100), (40, 80, 100), (2, 32, large):
        what, ours = f"step D={D} K={K} B={B} float32", 0.0
        for name, k, n in ("", gpu, 200), (", CPU kernels", cpu, 20):
            step, back = flow_step(k, D, K, B)
            again = k.capture(step)
            for _ in range(3):
                again()
            taken = 1e6 * min(stream_of(again, k.sync, n)[1] for _ in range(3))
            ours = ours or taken
            report.row("flow", what + name, taken, "us", note="" if k is gpu else f"{taken / ours:.1f} times ours")
            if k is gpu:
                report.row("flow", f"{what}, of it layers and back", replayed(gpu, back), "us")


def flow_step(k, D, K, B):
    """step(), and what of it goes through the layers and back, of planar layers and the target `ring`."""
    rng, T, which = np.random.default_rng(0), np.float32, k.flow.ENDS.index("ring")
    p = Parameters(k, {"u": (K, D), "w": (K, D), "b": (K,)}, T)
    p.assign({name: 0.5 * rng.normal(size=shape) / D**0.5 for name, shape in p.shapes.items()})
    o = Bound(k, np.zeros(K, np.int64), 0, p, B, B, which, None, 1, 0)

    def step():
        o.step(None, p.counter)
        p.descend(1e-3, 0, np.inf, 0.9, 0.999, 1e-8)

    given = o.kinds, o.table, 0, o.eps, o.rows, o.shift, o.factor, which, o.none, p.counter, 0, o.sums
    return step, lambda: k.flow.backward(*given)


def vae_steps(report, cpu, gpu):
    """A training step of nets for images: noise, gather, through both nets and back, Adam."""
    for what, B, d, *more in (
        ("784-400-20", 128, 20, (400,), "relu", 0, True, "analytic", 0, 1, 1),
        ("784-400-20", 1000, 20, (400,), "relu", 0, True, "analytic", 0, 1, 1),
        ("784-400-40, 10 planar layers", 100, 40, (400,), "relu", 10, True, "monte_carlo", 0, 1, 1),
        ("784-200-200-50, k=50", 100, 50, (200, 200), "tanh", 0, True, "monte_carlo", 0, 1, 50),
    ):
        objective = lambda k: autoencoder(k, np.float32, B, 784, d, "bernoulli", *more)  # noqa: B023
        timed_steps(report, "vae", f"step {what}, B={B} float32", objective, cpu, gpu, B)


def network_steps(report, cpu, gpu):
    """A training step of Bayesian nets for images: noise, gather, through the layers and back, Adam."""
    for B in 100, 1000:
        objective = lambda k: net(k, np.float32, B, 784, "softmax", (300, 100, 10), "relu", "ard")  # noqa: B023
        timed_steps(report, "network", f"step 784-300-100-10, B={B} float32", objective, cpu, gpu, B)


def gradient_kernels(report, cpu, gpu):
    """Estimators of the gradient under a normal distribution of ten columns: samples, and the sums of all of them."""
    N, D = 100_000 if report.quick else 1_000_000, 10
    kind, which = cpu.distributions.KINDS.index("normal"), np.arange(cpu.gradients.ESTIMATORS.index("path") + 1)
    for T in np.float32, np.float64:
        table, ours = distribution(kind, T, D)[0], {}
        for name, k, n in ("", gpu, 20), (", CPU kernels, one thread", cpu, 3):
            at, noise, X, Z = k.put(table), k.empty((D, N), T), k.empty((D, N), T), k.empty((N, D), T)
            log_p, G, c, numbers = k.empty(N, T), k.empty((N, D), T), k.put(np.ones(2 * D, T)), k.put(which)
            sums = [k.empty(shape, np.float64) for shape in (2, (len(which), 2 * D), (len(which), 2 * D))]
            for filled in noise, log_p, G:
                k.random.normal(1, 2, 3, filled)
            draw = lambda: k.gradients.draw(kind, at, noise, X, Z)  # noqa: B023
            moments = lambda: k.gradients.moments(kind, at, X, log_p, G, numbers, c, *sums)  # noqa: B023
            for what, f in ("draw", draw), (f"moments of {len(which)} estimators", moments):
                f()
                taken = 1e9 * seconds(f, k.sync, n) / N
                ours.setdefault(what, taken)
                note = "" if k is gpu else f"{taken / ours[what]:.1f} times ours"
                report.row("gradient", f"{what}, normal, D={D} {np.dtype(T).name}{name}", taken, "ns", note=note)


def timed_steps(report, section, what, objective, cpu, gpu, B):
    """Rows for a step of objective(k) with Adam's, recorded as `fit` does; and for that of the CPU kernels."""
    ours = 0.0
    for name, k, n in ("", gpu, 200), (", CPU kernels", cpu, 10):
        o = objective(k)
        p, rows = o.parameters, k.put(np.arange(B))

        def step(o=o, p=p, rows=rows):
            o.step(rows, p.counter)
            p.descend(1e-3, 0, np.inf, 0.9, 0.999, 1e-8)

        again = k.capture(step)
        for _ in range(3):
            again()
        taken = 1e6 * min(stream_of(again, k.sync, n)[1] for _ in range(3))
        ours = ours or taken
        note = "" if k is gpu else f"{taken / ours:.1f} times ours"
        report.row(section, f"{what}{name}", taken, "us", note=note)


def torch_gaps(X, start):
    """Plain EM in PyTorch, all rows at once: a batch of small factors for the rows, one of solves for the columns."""
    import torch as t

    (N, D), d, T = X.shape, start.W.shape[1], t.from_numpy(X).dtype
    put = lambda a: t.as_tensor(np.asarray(a), dtype=T, device="cuda")
    O = put(~np.isnan(X))
    filled, one, total = put(np.nan_to_num(X)), t.eye(d, dtype=T, device="cuda"), O.sum()

    def step(W, mu, sigma2):
        y = (filled - mu) * O
        M = one + (O @ (W[:, :, None] * W[:, None]).reshape(D, -1)).reshape(N, d, d) / sigma2
        L, h = t.linalg.cholesky_ex(M)[0], y @ W / sigma2
        C = t.cholesky_inverse(L)
        Z = (C @ h[:, :, None])[:, :, 0]
        log_det = total * (2 * np.pi * sigma2).log() + 2 * L.diagonal(dim1=1, dim2=2).log().sum()
        bound = -0.5 * (log_det + (y * y).sum() / sigma2 - (h * Z).sum()) / N
        U = t.cat([Z, t.ones_like(Z[:, :1])], 1)
        UU = U[:, :, None] * U[:, None]
        UU[:, :d, :d] += C
        A, g = (O.mT @ UU.reshape(N, -1)).reshape(D, d + 1, d + 1), filled.mT @ U
        V = t.linalg.solve(A, g[:, :, None])[:, :, 0]
        return bound, V[:, :d], V[:, d], ((filled * filled).sum() - (V * g).sum()) / total

    state = [tuple(map(put, (start.W, start.mu, start.psi[0])))]

    def eager():
        with t.no_grad():
            bound, *state[0] = step(*state[0])
        return float(bound)

    first = eager()
    yield "PyTorch", 1e3 * seconds(eager, t.cuda.synchronize, 10), first


def torch_covariance(X):
    """Milliseconds of PyTorch's covariance, in float64."""
    import torch as t

    x = t.as_tensor(X, device="cuda")
    return 1e3 * seconds(lambda: t.cov(x.mT.double(), correction=0), t.cuda.synchronize, 10)


def phases(report, cpu, gpu):
    """Each kernel of an EM step by CUDA events, behind a kernel that keeps the device busy until all are queued."""
    from lvm.kernels.cuda import api

    N, D, K = (20_000, 32, 16) if report.quick else (100_000, 32, 16)
    of = {"full": ("float32", "float64"), "diag": ("float32",)}
    wait, launch, seen = spinner(gpu), api.Kernel.__call__, []

    def timed(self, *args):
        before, after = api.cuda.event(), api.cuda.event()
        before.record()
        launch(self, *args)
        after.record()
        seen.append((self.__name__, before, after))

    for kind, dtype in ((kind, dtype) for kind, dtypes in of.items() for dtype in dtypes):
        step = climber(gpu, kind, *problem(N, D, K, dtype, kind))
        step()
        taken: dict = {}
        for _ in range(8):
            seen.clear()
            wait()
            api.Kernel.__call__ = timed
            try:
                with api.cuda.defer_cleanup():  # to give back memory is to wait
                    step()
            finally:
                api.Kernel.__call__ = launch
            gpu.sync()
            for name in {name for name, *_ in seen}:
                ms = sum(api.cuda.event_elapsed_time(a, b) for n, a, b in seen if n == name)
                taken.setdefault(name.strip("_"), []).append(ms)
        for name, ms in taken.items():
            report.row("phases", f"{kind} {N}x{D} K={K} {dtype}: {name}", 1e3 * statistics.median(ms), "us")


def spinner(gpu):
    """wait(), which queues some milliseconds of nothing."""
    from lvm.kernels.cuda.api import kernel

    @kernel("T1w i")
    def spin(x, n):
        v = x[0]
        for _ in range(n):
            v = v * x[1] + x[2]
        x[0] = v

    x = gpu.put(np.zeros(3, np.float32))
    return lambda: spin(1, 1, x, 2_000_000)


def fits(report, cpu, gpu):
    """What a user waits for: a fit with its start, and answers."""
    N, D, K = (20_000, 32, 16) if report.quick else (100_000, 32, 16)
    X, _ = problem(N, D, K, "float32", "full")
    bounds, taken = {}, {}
    for device in "cpu", "cuda":
        new = lambda n: GaussianMixture(K, max_iter=n, tol=0, random_state=0, device=device)  # noqa: B023
        new(1).fit(X[:2000])  # compiles
        start = time.perf_counter()
        model = new(50).fit(X)
        taken[device], bounds[device] = time.perf_counter() - start, model.lower_bound_
        report.row("fits", f"full {N}x{D} K={K} float32, 50 steps, {device}", taken[device], "s")
        start = time.perf_counter()
        model.predict_proba(X)
        report.row("fits", f"predict_proba of the same, {device}", 1e3 * (time.perf_counter() - start), "ms")
    report.row("fits", "times faster on the GPU", taken["cpu"] / taken["cuda"])
    error = abs(bounds["cuda"] - bounds["cpu"]) / abs(bounds["cpu"])
    report.row("fits", "lower_bound_ apart, relative", error, "", "", None, "of two climbs in float32")


# ------------------------------------------------------------------------------------ products, launches, graphs, noise


def products(report, cpu, gpu):
    """tanh(A B + bias): our kernel, cuBLAS with our pass for bias and tanh, and PyTorch; times on the device."""
    from lvm.kernels.cuda import cublas, linear

    rng, dispatch = np.random.default_rng(0), linear.MANY_PRODUCTS
    for M, K, N in (128, 784, 512), (1024, 784, 512):
        what = f"tanh({M}x{K} times {K}x{N} + bias), float32"
        A, B, bias = (rng.normal(size=s).astype(np.float32) for s in ((M, K), (K, N), (N,)))
        a, b, c, C = *map(gpu.put, (A, B, bias)), gpu.empty((M, N), np.float32)
        want, taken = np.tanh(A.astype(float) @ B + bias), {}
        for name, many in ("own kernel", 1 << 62), ("cuBLAS + pass", 0), ("as chosen", dispatch):
            if "cuBLAS" in name and not cublas.found():
                report.say(f"cuBLAS: {NOT_HERE}")
                continue
            linear.MANY_PRODUCTS = many
            try:
                taken[name] = replayed(gpu, lambda: gpu.linear.gemm(a, b, C, c, "nn", "tanh"))  # noqa: B023
            finally:
                linear.MANY_PRODUCTS = dispatch
            note = f"{2e-6 * M * N * K / taken[name]:.1f} TFLOP/s, error {apart(gpu.get(C), want):.0e}"
            best = taken.get("cuBLAS + pass") if name == "as chosen" else None
            goal = "no slower than cuBLAS + pass" if best else ""
            report.row(
                "product",
                f"{what}: {name}",
                taken[name],
                "us",
                goal,
                taken[name] <= 1.05 * best if best else None,
                note,
            )
        try:
            report.row("product", f"{what}: PyTorch addmm, tanh", torch_product(A, B, bias), "us", note="CUDA graph")
        except ImportError:
            report.say(f"PyTorch: {NOT_HERE}")


def torch_product(A, B, bias, n=20):
    """Microseconds of torch.addmm and tanh_, as one of n in a CUDA graph."""
    import torch as t

    a, b, c = (t.as_tensor(x, device="cuda") for x in (A, B, bias))
    out = t.empty((len(A), B.shape[1]), device="cuda")
    once = lambda: t.addmm(c, a, b, out=out).tanh_()
    side = t.cuda.Stream()
    with t.no_grad(), t.cuda.stream(side):
        once()
        side.synchronize()
    graph = t.cuda.CUDAGraph()
    with t.no_grad(), t.cuda.graph(graph):
        for _ in range(n):
            once()
    graph.replay()
    return 1e6 * min(stream_of(graph.replay, t.cuda.synchronize, 20)[1] for _ in range(3)) / n


def launches(report, cpu, gpu):
    """What it costs the host to queue a kernel, an allocation, a number read back."""
    from lvm.kernels.cuda.api import kernel

    @kernel("T1w")
    def one(a):
        pass

    @kernel("T1w T1w T1w T1w T1w")
    def five(a, b, c, d, e):
        pass

    x = gpu.empty(1000, np.float32)
    for name, f in ("1 array", lambda: one(132, 128, x)), ("5 arrays", lambda: five(132, 128, x, x, x, x, x)):
        queued, done = stream_of(f, gpu.sync, 2000)
        report.row("launch", f"a launch with {name}", 1e6 * queued, "us", note=f"{1e6 * done:.1f} us until it is done")
    taken, _ = stream_of(lambda: gpu.empty(1000, np.float32), gpu.sync, 500)
    report.row("launch", "a small array allocated and given back", 1e6 * taken, "us")
    report.row("launch", "one number read back", 1e6 * seconds(lambda: gpu.get(x[:1]), gpu.sync, 200), "us")


def training(report, cpu, gpu):
    """A training step of six kernels, which reads all that changes from the device: queued anew, and replayed."""
    from lvm.kernels.cuda.api import cuda, kernel

    @kernel("T1 T1 T1w")
    def slope(y, target, delta):
        """(y - target) (1 - y²) / 128, of half the squared error and tanh."""
        i = cuda.grid(1)
        T = y.dtype.type
        if i < y.size:
            delta[i] = (y[i] - target[i]) * (T(1) - y[i] * y[i]) * T(1 / 128)

    rng, T = np.random.default_rng(0), np.float32
    target = gpu.put(np.tanh(rng.normal(size=(128, 512))).astype(T).reshape(-1))

    def fresh():
        flat = [gpu.put(np.zeros(784 * 512, T)) for _ in range(4)]
        more = [gpu.empty(s, T) for s in ((128, 784), (128, 512), (128, 512), 0)]
        (theta, g, m, v), (x, y, delta, none), step = flat, more, gpu.put(np.zeros(1, np.int64))

        def train():
            gpu.random.normal(1, 2, step, x)
            gpu.linear.gemm(x, theta.reshape((784, 512)), y, none, "nn", "tanh")
            slope(256, 256, y.reshape(y.size), target, delta.reshape(y.size))
            gpu.linear.gemm(x, delta, g.reshape((784, 512)), none, "tn")
            gpu.adam.adam(theta, g, m, v, step, 1e-3, 0.9, 0.999, 1e-8)
            gpu.adam.tick(step)

        return train, theta, step

    n = 100 if report.quick else 500
    eager, theta, step = fresh()
    queued, done = stream_of(eager, gpu.sync, n - 1)
    want = gpu.get(theta)
    report.row("step", "six kernels queued anew", 1e6 * done, "us", note=f"{1e6 * queued:.1f} us of the host")
    train, theta, step = fresh()
    again = gpu.capture(train)
    again()
    again()
    gpu.sync()
    start = time.perf_counter()
    for _ in range(n - 2):
        again()
    queued = (time.perf_counter() - start) / (n - 2)
    gpu.sync()
    done = (time.perf_counter() - start) / (n - 2)
    same = bool(np.array_equal(gpu.get(theta), want)) and int(gpu.get(step)[0]) == n
    report.row("step", "replayed: until it is done", 1e6 * done, "us", "under 30 us", done < 30e-6)
    report.row("step", "replayed: of the host", 1e6 * queued, "us", "under 30 us", queued < 30e-6)
    report.row("step", f"the same bits after {n} steps, replayed or not", "yes" if same else "no", "", "yes", same)
    if not same:
        report.failed.append("a replayed step gives other numbers")


def noise(report, cpu, gpu):
    """Normal numbers a second."""
    for T, n in (np.float32, 2**26), (np.float64, 2**25):
        out = gpu.empty(n, T)
        taken = seconds(lambda: gpu.random.normal(1, 2, 3, out), gpu.sync, 10)  # noqa: B023
        report.row("noise", f"normal numbers, {np.dtype(T).name}", 1e-9 * n / taken, "G/s")


def main(arguments=None):
    """Parse the command line, check, measure, print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="write gpu.md and gpu.json there")
    parser.add_argument("--quick", action="store_true", help="small sizes, without goals for EM")
    options = parser.parse_args(arguments)
    why = kernels.missing()
    if why:
        print(why)
        return 2
    from lvm.kernels.cuda.api import SIMULATED

    warnings.simplefilter("ignore")  # nothing converges here, on purpose
    report = Report(options.quick)
    cpu, gpu = kernels.load("cpu"), kernels.load("cuda")
    report.section(about)
    report.section(checks, cpu, gpu, SIMULATED)
    if SIMULATED:
        report.say("no timings from a simulator")
    else:
        linear = linear_steps, linear_covariances, linear_draws, linear_fits
        relevance, steps = (relevance_kernels, relevance_fits), (flow_steps, vae_steps, network_steps, gradient_kernels)
        for f in iterations, training, products, *linear, *relevance, *steps, phases, launches, noise, fits:
            report.section(f, cpu, gpu)
    missed = [f"{r['section']}: {r['what']}" for r in report.rows if r.get("met") is False]
    report.say(f"checks that failed: {', '.join(report.failed) or 'none'}; goals missed: {'; '.join(missed) or 'none'}")
    if options.out:
        report.write(options.out)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
