"""The command line: `python -m lvm demo` fits every model to small data, `python -m lvm info` says what runs here."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial

from . import __version__

# ---------------------------------------------------------------------------------------------------------------- demo


EXACT = {"reg_covar": 0, "tol": 1e-12, "max_iter": 5000, "n_init": 10, "random_state": 0}


def _mixture(n_components: int, covariance_type: str, **options):
    def fit(X):
        import lvm

        return lvm.GaussianMixture(n_components, covariance_type=covariance_type, **(EXACT | options)).fit(X)

    return fit


def _select(X):
    import lvm

    return lvm.select_mixture(X, range(1, 7), **(EXACT | {"n_init": 3}))


def _ppca(n_components, method: str):
    def fit(X):
        import lvm

        return lvm.ProbabilisticPCA(n_components, method=method, tol=1e-12, random_state=0).fit(X)

    return fit


def _logistic(X, y):
    import lvm

    return lvm.VariationalLogisticRegression().fit(X, y)


def _classifier(X, y):
    import lvm

    return lvm.RelevanceVectorClassifier(random_state=0).fit(X, y)


def _regressor(X, y):
    import lvm

    return lvm.RelevanceVectorRegressor(random_state=0).fit(X, y)


def _flow(X):
    import lvm

    return lvm.PlanarFlow(32, max_epochs=200, random_state=0).fit(X)


def _flow_target(target):
    import lvm

    return lvm.PlanarFlow(32, max_epochs=200, random_state=0).fit_target(target)


def _vae(X):
    import lvm

    return lvm.VAE(2, hidden_layer_sizes=(100,), n_flow_layers=10, max_epochs=40, random_state=0).fit(X)


def _net(X, y):
    import lvm

    options = {"hidden_layer_sizes": (50,), "max_epochs": 20, "random_state": 0}
    return lvm.BayesianMLPClassifier(**options).fit(X, y).prune()


def _net_regressor(X, y):
    import lvm

    options = {"activation": "tanh", "max_epochs": 50, "random_state": 0}
    return lvm.BayesianMLPRegressor(hidden_layer_sizes=(50,), **options).fit(X, y).prune()


NOISE = 0.2  # variance of the wait about the line, in units of that of all waits


def _line(X):
    """log p(y,w) (M,), its gradient in w (M,2), and p(w|y): of the wait, y = w_0 + w_1 x + noise, w ~ N(0, I), given
    the eruption x, both standardised."""
    import numpy as np

    from .distributions import MultivariateNormal

    x, y = ((X - X.mean(axis=0)) / X.std(axis=0)).T
    A = np.stack([np.ones(len(x)), x], axis=1)

    def log_joint(w):
        away = y - w @ A.T
        log_p = (away**2 / NOISE + np.log(2 * np.pi * NOISE)).sum(axis=1) + (w**2 + np.log(2 * np.pi)).sum(axis=1)
        return -0.5 * log_p, away @ A / NOISE - w

    S = np.linalg.inv(A.T @ A / NOISE + np.eye(2))
    return log_joint, MultivariateNormal.from_covariance(S @ A.T @ y / NOISE, S)


def _compare(X):
    """The estimators of gradients at the posterior, where the bound is log p(y) itself, and at narrower and wider q."""
    from types import SimpleNamespace

    from .distributions import MultivariateNormal
    from .gradients import compare

    log_joint, posterior = _line(X)
    q = {scale: MultivariateNormal(posterior.mean, scale * posterior.factor) for scale in (0.5, 0.7, 1.0, 1.4, 2.0)}
    found = {scale: compare(log_joint, q[scale], 10_000, random_state=0) for scale in q}
    bound = found[1.0].gradients["path"].value
    return SimpleNamespace(found=found, score=lambda X: bound / len(X))


def _fit_q(X):
    from types import SimpleNamespace

    from .distributions import MultivariateNormal
    from .gradients import fit_q

    q = MultivariateNormal([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    fit = fit_q(_line(X)[0], q, estimator="path", n_samples=20, random_state=0)
    return SimpleNamespace(fit=fit, score=lambda X: fit.lower_bound / len(X))


def _annealed(X):
    from types import SimpleNamespace

    from . import evidence
    from .distributions import Normal

    log_joint, prior = _line(X)[0], Normal([0.0, 0.0], 1.0)
    found = evidence.annealed(log_joint, prior, 32, 300, random_state=0)
    bounds = evidence.bounds(log_joint, prior, (1, 10, 100), 1000, random_state=0)
    return SimpleNamespace(found=found, bounds=bounds, score=lambda X: found.log_z / len(X))


def _ripley(n, rng):
    """Two classes, each from two Gaussians (Ripley 1996)."""
    import numpy as np

    y = np.arange(n) % 2
    means = np.array([[[-0.7, 0.3], [0.3, 0.3]], [[-0.3, 0.7], [0.4, 0.7]]])
    return means[y, rng.integers(2, size=n)] + np.sqrt(0.03) * rng.standard_normal((n, 2)), y


def _sinc(n, rng):
    """sin(x)/x with noise of standard deviation 0.1 (Tipping 2001)."""
    import numpy as np

    x = rng.uniform(-10, 10, n)
    return x[:, None], np.sinc(x / np.pi) + 0.1 * rng.standard_normal(n)


def _moons(n, rng):
    """Two half circles, one in the mouth of the other, with noise of standard deviation 0.1."""
    import numpy as np

    turn, second = rng.uniform(0, np.pi, n), np.arange(n)[:, None] % 2
    first = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return (np.where(second, [1, 0.5] - first, first) + 0.1 * rng.standard_normal((n, 2)),)


def _data(name: str) -> tuple:
    """What to fit to and what to score: (X,), (X, y) or (target,) each. Of drawn data and of half of the digits these
    are other rows, else the same."""
    import numpy as np

    from . import datasets, targets

    if name in targets.__all__:
        return ((getattr(targets, name),),) * 2
    if name in DRAWN:
        n, draw = DRAWN[name]
        rng = np.random.default_rng(0)
        return draw(n, rng), draw(1000, rng)
    if name == "iris 2 species":
        X, y = datasets.load_iris(return_y=True)
        both = X[y > 0], np.array(datasets.IRIS_SPECIES)[y[y > 0]]
        return both, both
    if name == "half of digits":
        X, y = datasets.load_digits(return_y=True)
        return (X[::2], y[::2]), (X[1::2], y[1::2])
    X = getattr(datasets, f"load_{name.split()[0]}")()
    if name.endswith("with gaps"):
        X.flat[::5] = np.nan
    return (X,), (X,)


def _ellipses(i: int, j: int, xlabel: str, ylabel: str):
    """Two panels: the mixture in columns i and j of the data, and the bound after each iteration."""

    def draw(figure, model, X):
        from . import plotting

        left, right = figure.subplots(1, 2)
        plotting.plot_mixture(model, X, columns=(i, j), ax=left)
        left.set(xlabel=xlabel, ylabel=ylabel)
        plotting.plot_bound(model, ax=right)

    return draw


def _imputed(figure, model, X):
    """Two panels: gaps of faithful filled, and the wait given the eruption."""
    import numpy as np

    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_imputed(model, X, ax=left)
    left.set(xlabel="column 0: eruption, minutes", ylabel="column 1: wait for the next, minutes")
    wait = np.linspace(35, 100, 200)[:, None]
    for minutes, colour in zip((2, 2.8, 4), plotting.COLOURS):
        density = np.exp(model.condition([minutes, np.nan]).score_samples(wait))
        right.plot(wait, density, color=colour, label=f"{minutes} min")
    right.set(xlabel="wait for the next, minutes", ylabel="density, per minute", ylim=(0, 0.09))
    right.legend(title="after an eruption of", loc="upper center", ncols=3)


def _selection(figure, selection, X):
    """Two panels: the race, and its winner."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_selection(selection, ax=left)
    plotting.plot_mixture(selection.best, X, ax=right)
    right.set(xlabel="eruption, minutes", ylabel="wait for the next, minutes")


def _scree(figure, model, X):
    """The variance of each axis above the noise; beside it the flowers along the first."""
    from . import datasets, plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_scree(model, ax=left)
    y, z = datasets.load_iris(return_y=True)[1], model.transform(X)[:, 0]
    colours = plotting.COLOURS[: len(datasets.IRIS_SPECIES)]
    right.hist([z[y == k] for k in range(3)], 30, stacked=True, color=colours, label=datasets.IRIS_SPECIES)
    right.set(xlabel="dimension 0, posterior mean", ylabel="flowers")
    right.legend()


def _scores(figure, model, X):
    """Two panels: the flowers in two latent dimensions, and the variance of each axis, or what was deleted."""
    import numpy as np

    from . import datasets, plotting

    left, right = figure.subplots(1, 2)
    iris, y = datasets.load_iris(return_y=True)
    plotting.plot_scores(model, X, labels=np.array(datasets.IRIS_SPECIES)[y], ax=left)
    if np.isnan(X).any():
        plotting.plot_held_out(model, iris, X, ax=right)
    else:
        plotting.plot_scree(model, ax=right)


def _weights(figure, model, X, y):
    """Two panels: the weights of the columns, and how often the probabilities come true."""
    from . import datasets, plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_relevance(model, X, names=datasets.IRIS_COLUMNS, ax=left)
    plotting.plot_reliability(model.predict_proba(X), y, ax=right)


def _decision(figure, model, X, y):
    """Two panels: the classes in the plane, and the weights of the relevance vectors."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_decision(model, X, y, ax=left)
    plotting.plot_relevance(model, ax=right)


def _curve(figure, model, X, y):
    """Two panels: mean and 95 % of the noisy function, and the weights of the relevance vectors."""
    import numpy as np

    from . import plotting

    left, right = figure.subplots(1, 2)
    x = np.linspace(-10, 10, 500)
    mean, std = model.predict(x[:, None], return_std=True)
    left.scatter(X, y, c="#999999", s=12)
    left.plot(x, np.sinc(x / np.pi), "--", color="#444444", label="sin(x)/x")
    left.plot(x, mean, color=plotting.COLOURS[0], label="mean, and 95 % of y")
    left.fill_between(x, mean - 1.96 * std, mean + 1.96 * std, color=plotting.COLOURS[0], alpha=0.15, linewidth=0)
    left.plot(model.relevance_vectors_, y[model.relevance_], label="relevance vectors", **plotting.RING)
    left.legend(fontsize="small", frameon=False)
    plotting.plot_relevance(model, ax=right)


def _density(figure, model, X):
    """Two panels: the density with the rows, and what the layers do to a grid."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_flow(model, X=X, ax=left)
    plotting.plot_warp(model, max_panels=6, ax=right)


def _energy(figure, model, target):
    """Three panels: the density, that of the target, and the bound after each epoch, with its parts."""
    from . import plotting

    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    plotting.plot_flow(model, target, limits=[(-4, 4)] * 2, ax=left)
    plotting.plot_bound(model, ax=right)


def _manifold(figure, model, X):
    """Two panels: what the model draws all over its two dimensions, and where the digits lie in them."""
    from . import datasets, plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_manifold(model, n=13, ax=left)
    plotting.plot_latent(model, X, datasets.load_digits(return_y=True)[1], ax=right)


def _sparsity(figure, model, X, y):
    """Two panels: what is left of the first layer's weights, and when the others went."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_weights(model, units=5, ax=left)
    plotting.plot_sparsity(model, ax=right)


def _bands(figure, model, X, y):
    """Two panels: the function with its bands, and the bound with its parts."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_bands(model, X, y, ax=left)
    plotting.plot_bound(model, ax=right)


def _variances(figure, model, X):
    """Two panels: the noise of gradients at the posterior, and at normals that are narrower and wider."""
    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_gradient_variance(model.found[1.0], ax=left)
    plotting.plot_gradient_variance(model.found, ax=right)
    right.set_xlabel("scale of q, times that of the posterior")


def _lines(figure, model, X):
    """Two panels: the bound by epochs, and the line with what q leaves open of it."""
    import numpy as np

    from . import plotting

    left, right = figure.subplots(1, 2)
    plotting.plot_bound(model.fit, ax=left)
    x = np.linspace(-1.7, 1.5, 50)
    y = model.fit.q.sample(1000, random_state=0) @ [np.ones(50), x]  # lines drawn from q
    (a, b), (c, d) = X.mean(axis=0), X.std(axis=0)
    right.scatter(*X.T, c="#999999", s=12)
    ends = b + d * np.quantile(y, (0.025, 0.5, 0.975), axis=0)
    right.fill_between(a + c * x, ends[0], ends[2], color=plotting.COLOURS[0], alpha=0.3, linewidth=0)
    right.plot(a + c * x, ends[1], color=plotting.COLOURS[0], label="line, and 95 % of it")
    right.set(xlabel="eruption, minutes", ylabel="wait for the next, minutes")
    right.legend(fontsize="small", frameon=False)


def _levels(figure, model, X):
    """How near samples of the prior come to log p(y), so many together, and annealed chains that begin with them."""
    from . import plotting

    ax = figure.subplots()
    ax.errorbar(model.bounds.k, model.bounds.bound, model.bounds.error, fmt="o-", label="samples of the prior")
    label = f"{model.found.n_chains} annealed chains"
    ax.axhline(model.found.log_z, color=plotting.COLOURS[1], label=label)
    ax.set(xscale="log", xlabel="samples that share a bound", ylabel="log p(y), nats")
    ax.legend(fontsize="small", frameon=False)


def _images(figure, model, X):
    from . import plotting

    plotting.plot_images(model.means_, titles=[f"{w:.1%}" for w in model.weights_], ax=figure.subplots())


_faithful = _ellipses(0, 1, "eruption, minutes", "wait for the next, minutes")
_petals = _ellipses(2, 3, "petal length, cm", "petal width, cm")

DRAWN = {"ripley": (250, _ripley), "sinc": (100, _sinc), "moons": (2000, _moons)}  # rows to fit to, and draw(n, rng)


class _Least(float):
    """A score that any higher one meets, too."""


# name, data (lvm.datasets.load_* or lvm.targets.*; "with gaps": every fifth number deleted), fit(X), fit(X, y) or
# fit(target) -> model or selection, draw(figure, model or selection, the same), and the score to reach (or None): the
# best known total log-likelihood over the number of rows; or at least so much
DEMO = [
    ("GaussianMixture 2 full", "faithful", _mixture(2, "full"), _faithful, -1130.26396018 / 272),
    ("GaussianMixture 3 tied", "faithful", _mixture(3, "tied"), _faithful, -1126.31592782 / 272),
    ("GaussianMixture 2 full", "iris", _mixture(2, "full"), _petals, -214.35470437 / 150),
    ("GaussianMixture 3 full", "iris", _mixture(3, "full"), _petals, -180.18547713 / 150),
    ("GaussianMixture 2 full", "faithful with gaps", _mixture(2, "full"), _imputed, -934.14505243 / 272),
    ("select_mixture", "faithful", _select, _selection, -1126.31592782 / 272),
    ("GaussianMixture 10 spherical", "digits", _mixture(10, "spherical", reg_covar=1e-6, tol=1e-6), _images, None),
    ("ProbabilisticPCA 1 exact", "iris", _ppca(1, "exact"), _scree, -470.66945832 / 150),
    ("ProbabilisticPCA 2 EM", "iris", _ppca(2, "em"), _scores, -404.96278016 / 150),
    ("ProbabilisticPCA bic", "iris", _ppca("bic", "exact"), _scores, -379.91463012 / 150),
    ("ProbabilisticPCA 2 EM", "iris with gaps", _ppca(2, "em"), _scores, -376.74880161 / 150),
    # Fisher's linear discriminant has 0.97; by Ripley's densities at best 0.911; the function itself has R² = 0.93
    ("VariationalLogisticRegression", "iris 2 species", _logistic, _weights, _Least(0.97)),
    ("RelevanceVectorClassifier", "ripley", _classifier, _decision, _Least(0.89)),
    ("RelevanceVectorRegressor", "sinc", _regressor, _curve, _Least(0.88)),
    # what drew the moons has -1.00, one Gaussian -1.91; log Z of U1 is 1.8775
    ("PlanarFlow 32", "moons", _flow, _density, _Least(-1.1)),
    ("PlanarFlow 32", "U1", _flow_target, _energy, _Least(1.86)),
    # probabilistic PCA of two dimensions has -177.4
    ("VAE 2 planar 10", "digits", _vae, _manifold, _Least(-170)),
    # logistic regression, a class against the rest, has 0.935; of sinc see above
    ("BayesianMLPClassifier 50", "half of digits", _net, _sparsity, _Least(0.94)),
    ("BayesianMLPRegressor 50", "sinc", _net_regressor, _bands, _Least(0.85)),
    # a line for the wait given the eruption, log p(y) in closed form
    ("gradients.compare", "faithful", _compare, _variances, -166.89581475 / 272),
    ("gradients.fit_q", "faithful", _fit_q, _lines, _Least(-0.62)),
    ("evidence.annealed", "faithful", _annealed, _levels, _Least(-0.615)),
]
NEAR = 1e-8  # a score this near to its reference meets it; the references are given to about 1e-10 a row


def demo(out: str = "lvm-demo", rows: "list | None" = None) -> int:
    """Fit `rows` (by default DEMO), print one table and write the pictures into the folder `out`.

    Returns how many references were missed. Raises OSError where `out` cannot be written.
    """
    from tqdm import tqdm

    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no window

        pictures = True
        os.makedirs(out, exist_ok=True)
    except ImportError:
        pictures = False

    table = [("model", "data", "N x D", "seconds", "score", "reference", "met")]
    missed = 0
    for name, data, fit, draw, reference in tqdm(DEMO if rows is None else rows, "lvm demo", unit="model", leave=False):
        seen, unseen = _data(data)
        start = time.perf_counter()
        model = fit(*seen)
        seconds, of_target = time.perf_counter() - start, callable(unseen[0])
        score = model.elbo(*unseen) if of_target else getattr(model, "best", model).score(*unseen)
        if reference is None:
            known, met = "none known", ""
        elif isinstance(reference, _Least):
            known, met = f"at least {reference:.2f}", "yes" if score >= reference else "no"
        else:
            known, met = f"{reference:.8f}", "yes" if abs(score - reference) <= NEAR else "no"
        missed += met == "no"
        size = f"- x {seen[0].D}" if of_target else " x ".join(map(str, seen[0].shape))
        table.append((name, data, size, f"{seconds:.2f}", f"{score:.8f}", known, met))
        if pictures:
            figure = Figure(figsize=(9, 4), layout="constrained")
            draw(figure, model, *seen)
            figure.suptitle(f"{name}, {data}")
            figure.savefig(os.path.join(out, f"{name} {data}.png".replace(" ", "-").lower()), dpi=120)

    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        cells = [f"{cell:>{w}}" if 2 <= i <= 5 else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(line, widths))]
        print("  ".join(cells).rstrip())
    print("\nscore: mean log-likelihood, nats per row; of supervised models accuracy or R², of drawn data and of")
    print("half of digits on other rows. Of U1, a density that is known but for its constant Z, the bound on log Z; of")
    print("gradients that on log p(wait | eruption) of a line.")
    print("reference: the best known log-likelihood, met within 1e-8, or what a model must at least have.")
    print("seconds: the fit alone; the first of a kind also compiles its kernels, or loads them from the cache.")
    if pictures:
        print(f"Pictures: {os.path.join(out, '')}")
    else:
        print('No pictures, for want of matplotlib: pip install "lvm[plot]"')
    if missed:
        print(f"{missed} of the references missed. Please report it, with what `python -m lvm info` prints.")
    return missed


# ---------------------------------------------------------------------------------------------------------------- info


def _package(name: str) -> str:
    """The version of an installed package; one that lvm cannot do without is imported, to see that it can be."""
    from importlib import import_module, metadata, util

    if util.find_spec(name) is None:
        return "not installed" + ('; pictures need it: pip install "lvm[plot]"' if name == "matplotlib" else "")
    if name != "matplotlib":
        import_module(name)
    return metadata.version(name)


def _cpu():
    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as f:
            name = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), name)
    elif sys.platform == "darwin":
        name = _output("sysctl", "-n", "machdep.cpu.brand_string")
    from llvmlite import binding

    return f"{name or platform.machine()}; kernels are compiled for {binding.get_host_cpu_name()}"


def _threads():
    from .kernels import pool

    n = pool.get_num_threads()
    names = ("LVM_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")  # in this order, as in pool.get_num_threads
    decided = (v for v in names if os.environ.get(v, "").split(",")[0].strip() == str(n))
    why = "set_num_threads" if pool._chosen is not None else next(decided, "the cores this process may use")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{n}, from {why}; {usable} of {os.cpu_count()} cores usable"


def _blas():
    """One text a BLAS library: OpenBLAS is asked itself, of others there is only what NumPy was built with."""
    import numpy as np
    import scipy.linalg  # noqa: F401  (so that SciPy's own copy is loaded)

    found = list(filter(None, map(_openblas, _blas_files())))
    if not found:
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found = [f"{built.get('name')} {built.get('version')} (what NumPy was built with)"]
    return "\n".join(found)


def _blas_files() -> list:
    """The OpenBLAS libraries of this process (Linux), or those shipped with NumPy and SciPy."""
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as f:
            mapped = {line.split(maxsplit=5)[5].strip() for line in f if "/" in line}
        return sorted(path for path in mapped if "openblas" in os.path.basename(path).lower())
    import glob

    import numpy as np
    import scipy

    folders = [f"{m.__path__[0]}{tail}" for m in (np, scipy) for tail in (".libs", "/.dylibs")]
    return sorted(path for folder in folders for path in glob.glob(f"{glob.escape(folder)}/*openblas*"))


def _openblas(path: str) -> "str | None":
    """Version, kernels and threads of the OpenBLAS library at `path`. Builds differ in the names of its functions."""
    import ctypes

    library = ctypes.CDLL(path)
    for prefix in ("scipy_openblas_", "openblas_"):
        for suffix in ("64_", "", "_64"):
            try:
                config, core, threads = (
                    getattr(library, f"{prefix}get_{word}{suffix}") for word in ("config", "corename", "num_threads")
                )
            except AttributeError:
                continue
            config.restype = core.restype = ctypes.c_char_p
            version = " ".join(config().decode().split()[:2])
            return f"{version}, {core().decode()} kernels, threads: {threads()} ({os.path.basename(path)})"
    return None


def _cache():
    from .kernels import jit, load

    folder = jit.cache_folder(load("cpu").mixture.squared_distances)
    if not folder:
        return "none: no folder can be written, so each process compiles anew. Set NUMBA_CACHE_DIR to a writable one"
    files = [entry for entry in os.scandir(folder) if entry.is_file()] if os.path.isdir(folder) else []
    size = sum(entry.stat().st_size for entry in files) / 1e6
    text = f"{folder} ({'' if os.access(folder, os.W_OK) else 'not '}writable, {len(files)} files, {size:.1f} MB)"
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    if wanted and not folder.startswith(os.path.abspath(wanted)):
        text += f"\nNUMBA_CACHE_DIR={wanted} is set but cannot be written"
    return text


def _cuda():
    """The GPU that lvm would use, or what keeps it from using one."""
    from importlib import metadata, util

    from . import kernels

    said = kernels.missing()
    if not said:
        from .kernels.cuda import api

        said = api.device_name()
    return (
        said
        if util.find_spec("numba_cuda") is None
        else f"{said.rstrip('.')}; numba-cuda {metadata.version('numba-cuda')}"
    )


def _output(*command: str) -> str:
    import subprocess

    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


# what a set variable does, where that can surprise
WORDS = {
    "OPENBLAS_CORETYPE": "overrules OpenBLAS's choice of kernels; an older core's can halve the speed",
    "OPENBLAS_L2_SIZE": "overrules OpenBLAS's block sizes; wrong ones are slower",
    "OPENBLAS_NUM_THREADS": "overrules OpenBLAS's number of threads",
    "MKL_ENABLE_INSTRUCTIONS": "overrules MKL's choice of kernels; an older set can halve the speed",
    "MKL_CBWR": "overrules MKL's choice of kernels for repeatable bits; may be slower",
    "MKL_NUM_THREADS": "overrules MKL's number of threads",
    "NUMBA_DISABLE_JIT": "kernels run as plain Python, hundreds of times slower",
    "NUMBA_CPU_NAME": "overrules for which processor kernels are compiled",
    "NUMBA_OPT": "overrules how far kernels are optimised",
    "NUMBA_BOUNDSCHECK": "kernels check every index, and are slower",
}


def _environment():
    prefixes = ("LVM_", "NUMBA_", "OMP_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "VECLIB_", "CUDA_VISIBLE_DEVICES")
    names = sorted(v for v in os.environ if v.startswith(prefixes))
    lines = (f"{v}={os.environ[v]}" + (f"  <- {WORDS[v]}" if v in WORDS else "") for v in names)
    return "\n".join(lines) or "nothing set"


def _lvm():
    from . import __file__, __version__

    return f"{__version__} at {os.path.dirname(__file__)}"


def _python():
    return f"{platform.python_version()} {platform.python_implementation()} at {sys.executable}"


def show_versions() -> None:
    """Print what a bug report should have: versions, processor, threads, BLAS, kernel cache, GPUs, environment.

    Never fails: what cannot be found out says so. `python -m lvm info` prints the same.

    >>> import lvm
    >>> lvm.show_versions()                                 # doctest: +ELLIPSIS
    lvm            ...
    """
    packages = ("numpy", "scipy", "numba", "llvmlite", "safetensors", "tqdm", "matplotlib")
    items: list[tuple[str, Callable[[], str]]] = [
        ("lvm", _lvm),
        ("python", _python),
        *((name, partial(_package, name)) for name in packages),
        ("system", platform.platform),
        ("processor", _cpu),
        ("threads", _threads),
        ("BLAS", _blas),
        ("kernel cache", _cache),
        ("CUDA", _cuda),
        ("environment", _environment),
    ]
    for name, find in items:
        try:
            text = find()
        except Exception as e:
            text = f"unknown ({type(e).__name__}: {e})"
        print(f"{name:<14} " + text.replace("\n", "\n" + " " * 15))


# ------------------------------------------------------------------------------------------------------------- command


def main(argv: "list | None" = None) -> int:
    """Run the command line; the exit status: 0, 1 where the demo missed a reference, 2 where the command is wrong."""
    parser = argparse.ArgumentParser("python -m lvm", description="Latent-variable models on NumPy and Numba.")
    parser.add_argument("--version", action="version", version=f"lvm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    text = "fit every model to small data and compare with the best known values"
    about = "Prints one table; writes pictures; exit status 1 if a reference is missed."
    one = commands.add_parser("demo", help=text, description=f"{text[0].upper()}{text[1:]}. {about}")
    one.add_argument("--out", default="lvm-demo", metavar="DIR", help="folder for the pictures (default: lvm-demo)")
    text = "say what runs here: versions, processor, threads, BLAS, kernel cache, GPUs"
    commands.add_parser("info", help=text, description=f"{text[0].upper()}{text[1:]}. Copy it into a bug report.")
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        try:
            return int(demo(arguments.out) > 0)
        except OSError as e:
            one.error(f"cannot write pictures: {e}. Name another folder with --out.")
    if arguments.command == "info":
        show_versions()
    else:
        parser.print_help()
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
