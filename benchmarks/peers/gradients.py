"""Gradients of E_q[log p(z) - log q(z)] by samples: lvm, JAX, PyTorch, Pyro and NumPyro.

p is a 10-d Gaussian with a full precision P = U U', known by log p(z) = log c - |U'(z - m)|²/2 and its slope; q is
normal too, diagonal (mean, log scale) or full (mean, and L of covariance L L', its diagonal in logs), and neither where
p is nor as wide. So value and gradient are known; they are asked of so many samples, in blocks that bound the memory.
Estimators are those of lvm.gradients: two by z = mean + L eps, of which the path derivative holds q's parameters fixed
in log q, and those by the score, the slope of log q: f = log p - log q times the score, f - 1 times it, f less its mean
over the others of the block, and f less one number for each parameter, fitted on 10000 other samples. "All" are all six
of the same samples. "With variance" asks for the variance per sample of each coordinate too. That, and standard errors,
lvm tells always, in float64; the others then take the gradient of each sample by itself.

Errors are those of value and gradient, the worst of all, in standard errors: 1 to 4 where all is right. These come from
100000 samples by NumPy, and so does the variance that the others are compared with, as a ratio less 1: it is right to
0.1 or so. Sums over blocks are in float64.

JAX is jitted, noise and all, its blocks in lax.map, each estimator by grad, and vmap of it where variances are asked
for. PyTorch is eager, by torch.distributions, with one graph for all estimators and, for variances, a copy of the
parameters for each sample (which vmap does not beat), and compiled, as JAX's. Pyro and NumPyro have Trace_ELBO and,
Pyro's score, TraceGraph_ELBO, with a block of vectorised particles, in float32, as their documentation has them. Blocks
are of the best size found for each. All compile in the first run, which is not timed.
"""

import functools
import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

TIME, QUALITY = "ms", ("worst error, standard errors", "worst variance, relative")
D, PILOT, REFERENCE = 10, 10_000, 100_000
BLOCKS = {"JAX": 4000, "PyTorch": 10_000, "PyTorch, compiled": 10_000, "Pyro": 100_000, "NumPyro": 10_000}
PATHWISE = ("reparameterisation", "path")
ALL = "score", "score_minus_one", "leave_one_out", "control_variate", *PATHWISE


class Size(NamedTuple):
    """S samples, q "diag" or "full"; variance: whether that of a sample is asked for."""

    S: int
    q: str
    estimators: tuple[str, ...]
    variance: bool = False


SIZES = {
    "1e7 samples, 10-d, diag, reparameterisation": Size(10_000_000, "diag", ("reparameterisation",)),
    "1e7 samples, 10-d, diag, path": Size(10_000_000, "diag", ("path",)),
    "1e7 samples, 10-d, diag, score": Size(10_000_000, "diag", ("score",)),
    "1e7 samples, 10-d, diag, leave-one-out": Size(10_000_000, "diag", ("leave_one_out",)),
    "1e7 samples, 10-d, diag, control variate": Size(10_000_000, "diag", ("control_variate",)),
    "1e7 samples, 10-d, diag, all estimators": Size(10_000_000, "diag", ALL),
    "1e7 samples, 10-d, diag, reparameterisation with variance": Size(
        10_000_000, "diag", ("reparameterisation",), True
    ),
    "1e7 samples, 10-d, diag, score with variance": Size(10_000_000, "diag", ("score",), True),
    "1e6 samples, 10-d, full, reparameterisation": Size(1_000_000, "full", ("reparameterisation",)),
    "1e6 samples, 10-d, full, score": Size(1_000_000, "full", ("score",)),
    "1e6 samples, 10-d, full, reparameterisation with variance": Size(1_000_000, "full", ("reparameterisation",), True),
    "1e5 samples, 10-d, diag, reparameterisation": Size(100_000, "diag", ("reparameterisation",)),
    "1e5 samples, 10-d, diag, score with variance": Size(100_000, "diag", ("score",), True),
    "1e5 samples, 10-d, diag, all estimators": Size(100_000, "diag", ALL),
    "1e5 samples, 10-d, full, reparameterisation": Size(100_000, "full", ("reparameterisation",)),
}
QUICK = list(SIZES)[-4:]


class Problem(NamedTuple):
    """log_c, m (D,), U (D,D) of log p. start: q's mean (D,), and log scale (D,) or L (D,D) with its diagonal in logs.
    exact: the value and the gradient in these, of L the lower triangle row by row. sd: theirs a sample, by estimator;
    of the leave-one-out, as if there were no end of others."""

    size: Size
    log_c: float
    m: np.ndarray
    U: np.ndarray
    start: tuple[np.ndarray, np.ndarray]
    exact: np.ndarray
    sd: dict[str, np.ndarray]


def problem(size):
    """The Problem of a Size."""
    rng, eye = np.random.default_rng(0), np.eye(D)
    A, m = eye + 0.3 * rng.normal(size=(D, D)), rng.normal(size=D)
    P = np.linalg.inv(A @ A.T)
    U = np.linalg.cholesky(P)
    log_c = float(np.log(U.diagonal()).sum()) - D / 2 * math.log(2 * math.pi)
    mean = m + 0.3 * rng.normal(size=D)
    if size.q == "diag":
        L = np.diag(0.8 / np.sqrt(P.diagonal()))
    else:
        L = np.linalg.cholesky(A @ A.T) @ (0.8 * eye + 0.1 * np.tril(rng.normal(size=(D, D))))
    log_diagonal = np.log(L.diagonal())
    start = mean, log_diagonal if size.q == "diag" else np.tril(L, -1) + np.diag(log_diagonal)

    # z_i = mean_i + sum_j L_ij eps_j, so a slope g in z is g_i eps_j in L_ij, and times L_ii in its log
    i, j = _places(size.q)
    inner, own = np.where(i == j, L[i, j], 1), np.concatenate([np.zeros(D), i == j])  # own: the slope of log|L|
    slope, product = P @ (m - mean), P @ L
    constant = log_c + log_diagonal.sum() + D / 2 * math.log(2 * math.pi)
    value = constant + 0.5 * (D + (mean - m) @ slope - (L * product).sum())
    exact = np.concatenate([[value], slope, -inner * product[i, j]]) + np.concatenate([[0], own])

    eps = rng.normal(size=(REFERENCE, D))
    z, v = mean + eps @ L.T, np.linalg.solve(L.T, eps.T).T  # v: minus the slope of log q in z
    g = (m - z) @ P
    f = constant + 0.5 * ((z - m) * g + eps * eps).sum(1)[:, None]
    to_parameters = lambda g: np.column_stack([g, inner * g[:, i] * eps[:, j]])
    score = to_parameters(v) - own
    best = (f * score**2).mean(0) / (score**2).mean(0)
    samples = {
        "reparameterisation": lambda: to_parameters(g) + own,
        "path": lambda: to_parameters(g + v),
        "score": lambda: f * score,
        "score_minus_one": lambda: (f - 1) * score,
        "leave_one_out": lambda: (f - f.mean()) * score,
        "control_variate": lambda: (f - best) * score,
    }
    sd = {e: np.concatenate([[f.std()], samples[e]().std(0)]) for e in size.estimators}
    return Problem(size, log_c, m, U, start, exact, sd)


def _places(q):
    """Rows and columns of L that q's parameters stand for."""
    return (np.arange(D),) * 2 if q == "diag" else np.tril_indices(D)


def steps(size):
    """None: all samples are timed."""
    return None


def quality(problem, result):
    """The worst of all estimators' errors, and of their variances, NaN where these were not asked for."""
    error, variance = 0.0, math.nan
    for name, (mean, found) in result.items():
        sd = problem.sd[name]
        error = max(error, float((np.abs(mean - problem.exact) / sd).max()) * math.sqrt(problem.size.S))
        if problem.size.variance:
            variance = float(np.abs(found / sd[1:] ** 2 - 1).max())
    return error, variance


# ---------------------------------------------------------------------------------------------------------- the peers
# A run's result: estimator -> value and gradient (1+n,), and the gradient's variance a sample (n,), or None.
def _lvm(compiled, dtype="float64"):
    """build(problem) of this library, log p compiled or of NumPy."""

    def build(problem):
        from lvm import distributions, gradients

        size, log_c, m, U, (mean, spread), *_ = problem
        P, centre, zero = (U @ U.T).astype(dtype), m.astype(dtype), np.dtype(dtype).type(0)
        if size.q == "diag":
            q = distributions.Normal(mean, np.exp(spread))
        else:
            q = distributions.MultivariateNormal(mean, np.tril(spread, -1) + np.diag(np.exp(spread.diagonal())))

        def log_p(z):
            g = (m - z) @ P
            return log_c + 0.5 * np.einsum("nd,nd->n", z - m, g), g

        if compiled:
            import numba

            @numba.njit(nogil=True)
            def log_p(z):
                value, g = np.empty(len(z), z.dtype), np.empty_like(z)
                for n in range(len(z)):
                    total = zero
                    for i in range(D):
                        slope = zero
                        for j in range(D):
                            slope += P[i, j] * (centre[j] - z[n, j])
                        g[n, i] = slope
                        total += slope * (z[n, i] - centre[i])
                    value[n] = log_c + 0.5 * total
                return value, g

        def run(_):
            given = {"n_samples": size.S, "dtype": dtype, "random_state": 0}
            if len(size.estimators) > 1:
                found = gradients.compare(log_p, q, estimators=size.estimators, **given).gradients.values()
            else:
                found = [gradients.estimate(log_p, q, *size.estimators, **given)]
            flat = lambda parts: np.concatenate([np.ravel(parts[name]) for name in q.parameters])
            return {g.estimator: (np.append(g.value, flat(g.gradient)), flat(g.variance)) for g in found}

        return run

    return build


def surrogates(nn, estimators, p, eps):
    """{estimator: what has each sample's estimate for its gradient in p}, f, for eps (D,) or (B,D), by a framework's
    `nn`. The control variate's needs that of "one", too."""
    z, found = nn.transform(p, eps), {}
    pathwise = [e for e in estimators if e in PATHWISE]
    if pathwise:
        log_p = nn.log_p(z)
        for e in pathwise:
            f = found[e] = log_p - nn.log_q(p if e == "reparameterisation" else [nn.stop(x) for x in p], z)
    if len(estimators) > len(pathwise):
        z = nn.stop(z)
        log_q = nn.log_q(p, z)
        f = nn.stop(nn.log_p(z) - log_q)
        weights = {
            "score": lambda: f,
            "score_minus_one": lambda: f - 1,
            "leave_one_out": lambda: (f - f.mean()) * (len(f) / (len(f) - 1)),
            "control_variate": lambda: f,
            "one": lambda: f * 0 + 1,
        }
        found |= {e: log_q * weights[e]() for e in estimators if e not in PATHWISE}
    return found, nn.stop(f)


def passes(size):
    """The surrogates of which a Size needs the gradient."""
    return (*size.estimators, *["one"] * ("control_variate" in size.estimators))


def per_sample(framework, nn, estimator, p, eps):
    """The estimates of each eps (B,D), as p, and f (B,), by the transforms of a framework."""

    def of_one(p, eps):
        found, f = surrogates(nn, (estimator,), p, eps)
        return found[estimator], f

    return framework.vmap(framework.grad(of_one, has_aux=True), (None, 0))(p, eps)


def sums(framework, nn, size, p, eps):
    """Over eps (B,D), for each of passes(size): of f, the estimate and, where the variance is asked for, its square;
    (passes, 1+n or 1+2n)."""

    def of_block(p, eps, estimator):
        found, f = surrogates(nn, (estimator,), p, eps)
        return found[estimator].sum(), f

    rows = []
    for e in passes(size):
        if size.variance:
            g, f = per_sample(framework, nn, e, p, eps)
            g = nn.flat(*g)
            parts = [g.sum(0), (g * g).sum(0)]
        else:
            g, f = framework.grad(of_block, has_aux=True)(p, eps, e)
            parts = [nn.flat(*g)]
        rows.append(nn.join([f.sum()[None], *parts]))
    return nn.stack(rows)


def fitted(framework, nn, p, eps):
    """The number for each parameter that f is best lessened by, from other samples: E[f s²] / E[s²], s the score."""
    g, f = per_sample(framework, nn, "one", p, eps)
    squares = nn.flat(*g) ** 2
    return (f[:, None] * squares).mean(0) / squares.mean(0)


def result(size, totals, numbers):
    """A run's result, by `sums` over all blocks, and `fitted` numbers."""
    n = (totals.shape[1] - 1) // (1 + size.variance)
    means, found = dict(zip(passes(size), totals / size.S)), {}
    for e in size.estimators:
        mean = means[e][: 1 + n]
        if e == "control_variate":
            mean = mean - np.append(0, numbers * means["one"][1:])
        found[e] = mean, means[e][1 + n :] - mean[1:] ** 2 if size.variance else None
    return found


def _jax(dtype):
    """build(problem) of JAX."""

    def build(problem):
        import jax
        import jax.numpy as jnp

        size, log_c, m, U, start, *_ = problem
        (i, j), B = _places(size.q), BLOCKS["JAX"]

        def log_q(p, z):
            mean, spread = p
            if size.q == "diag":
                return jax.scipy.stats.norm.logpdf(z, mean, jnp.exp(spread)).sum(-1)
            v = jax.scipy.linalg.solve_triangular(factor(spread), (z - mean).T, lower=True)
            return -0.5 * (v * v).sum(0) - spread.diagonal().sum() - D / 2 * math.log(2 * math.pi)

        factor = lambda spread: jnp.tril(spread, -1) + jnp.diag(jnp.exp(spread.diagonal()))
        diagonal = lambda p, eps: p[0] + jnp.exp(p[1]) * eps
        full = lambda p, eps: p[0] + eps @ factor(p[1]).T
        nn = SimpleNamespace(
            log_p=lambda z: log_c - 0.5 * (((z - m.astype(dtype)) @ U.astype(dtype)) ** 2).sum(-1),
            log_q=log_q,
            transform=diagonal if size.q == "diag" else full,
            flat=lambda g, h: jnp.concatenate([g, h if size.q == "diag" else h[..., i, j]], -1),
            stop=jax.lax.stop_gradient,
            join=jnp.concatenate,
            stack=jnp.stack,
        )
        draw = lambda key, n: jax.random.normal(key, (n, D), dtype)
        blocks = jax.jit(lambda p, keys: jax.lax.map(lambda key: sums(jax, nn, size, p, draw(key, B)), keys))
        pilot = jax.jit(lambda p, key: fitted(jax, nn, p, draw(key, PILOT)))

        def run(_):
            with jax.enable_x64(dtype == "float64"):
                p = [jnp.asarray(x, dtype) for x in start]
                numbers = np.asarray(pilot(p, jax.random.key(1)), float) if "one" in passes(size) else None
                totals = blocks(p, jax.random.split(jax.random.key(0), size.S // B))
                return result(size, np.asarray(totals, float).sum(0), numbers)

        return run

    return build


def _torch(dtype, compiled):
    """build(problem) of PyTorch, eager or compiled."""

    def build(problem):
        import torch as t

        size, log_c, m, U, start, *_ = problem
        kind, B = getattr(t, dtype), BLOCKS["PyTorch, compiled" if compiled else "PyTorch"]
        m, U, *start = (t.tensor(x, dtype=kind) for x in (m, U, *start))
        i, j = map(t.from_numpy, _places(size.q))
        D_, given = t.distributions, {"validate_args": False}

        def factor(spread):
            return spread.tril(-1) + t.diag_embed(spread.diagonal(dim1=-2, dim2=-1).exp())

        def log_q(p, z):
            mean, spread = p
            if size.q == "diag":
                return D_.Normal(mean, spread.exp(), **given).log_prob(z).sum(-1)
            return D_.MultivariateNormal(mean, scale_tril=factor(spread), **given).log_prob(z)

        diagonal = lambda p, eps: p[0] + p[1].exp() * eps
        full = lambda p, eps: p[0] + t.einsum("...ij,...j->...i", factor(p[1]), eps)
        nn = SimpleNamespace(
            log_p=lambda z: log_c - 0.5 * ((z - m) @ U).square().sum(-1),
            log_q=log_q,
            transform=diagonal if size.q == "diag" else full,
            flat=lambda g, h: t.cat([g, h if size.q == "diag" else h[..., i, j]], -1),
            stop=t.Tensor.detach,
            join=t.cat,
            stack=t.stack,
        )

        def eager(eps):
            """`sums`, by one graph for all passes; each sample has its own copy of p where its gradient is needed."""
            p = [(x.expand(B, *x.shape).clone() if size.variance else x.detach()).requires_grad_() for x in start]
            found, f = surrogates(nn, passes(size), p, eps)
            rows = []
            for e in passes(size):
                g = nn.flat(*t.autograd.grad(found[e].sum(), p, retain_graph=True))
                rows.append(t.cat([f.sum()[None], *([g.sum(0), g.square().sum(0)] if size.variance else [g])]))
            return t.stack(rows)

        block = eager
        if compiled:
            t.compiler.reset()  # or the size before this one would make the shapes variables
            try:
                t.compile(lambda x: x.tanh())(t.zeros(2))
            except Exception as e:
                raise ImportError(f"torch.compile does not work here: {str(e).strip().splitlines()[0]}") from e
            block = t.compile(functools.partial(sums, t.func, nn, size, start), fullgraph=True, dynamic=False)

        def run(_):
            t.manual_seed(0)
            numbers = None
            if "one" in passes(size):
                numbers = fitted(t.func, nn, start, t.randn(PILOT, D, dtype=kind)).double().numpy()
            totals = 0
            for _ in range(size.S // B):
                totals = totals + block(t.randn(B, D, dtype=kind)).detach().double()
            return result(size, totals.numpy(), numbers)

        return run

    return build


def pyro(problem):
    """Pyro, of one estimator without its variance."""
    import pyro
    import torch as t
    from pyro import distributions

    size, _, m, U, start, *_ = problem
    if size.variance or size.estimators not in (("reparameterisation",), ("score",)):
        return None
    if size.estimators == ("score",) and size.q == "diag":
        return None  # Pyro 1.9 cannot set has_rsample of an Independent, which PyTorch has made a property
    by_score, B = size.estimators == ("score",), BLOCKS["Pyro"]
    m, A, *start = (t.tensor(x, dtype=t.float32) for x in (m, np.linalg.cholesky(np.linalg.inv(U @ U.T)), *start))

    def model():
        pyro.sample("z", distributions.MultivariateNormal(m, scale_tril=A))

    def guide():
        mean, spread = (pyro.param(name, x) for name, x in zip(("mean", "spread"), start))
        if size.q == "diag":
            q = distributions.Normal(mean, spread.exp())
        else:
            q = distributions.MultivariateNormal(mean, scale_tril=spread.tril(-1) + spread.diagonal().exp().diag())
        q = q.has_rsample_(False) if by_score else q
        pyro.sample("z", q.to_event(1) if size.q == "diag" else q)

    elbo = (pyro.infer.TraceGraph_ELBO if by_score else pyro.infer.Trace_ELBO)(
        num_particles=B, vectorize_particles=True, max_plate_nesting=0
    )

    def run(_):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        n, total = size.S // B, 0.0
        with pyro.validation_enabled(False):
            for _ in range(n):
                total -= elbo.loss_and_grads(model, guide)  # grad adds up
        mean, spread = (pyro.param(name).grad.double().numpy() for name in ("mean", "spread"))
        slopes = np.append(mean, spread[() if size.q == "diag" else _places("full")])
        return {e: (np.append(total, -slopes) / n, None) for e in size.estimators}

    return run


def numpyro(problem):
    """NumPyro, of one estimator without its variance."""
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions

    size, _, m, U, start, *_ = problem
    if size.variance or size.estimators != ("reparameterisation",):
        return None
    A, B = np.linalg.cholesky(np.linalg.inv(U @ U.T)), BLOCKS["NumPyro"]

    def model():
        numpyro.sample("z", distributions.MultivariateNormal(m.astype("float32"), scale_tril=A.astype("float32")))

    def guide():
        mean, spread = (numpyro.param(name, x) for name, x in zip(("mean", "spread"), start))
        if size.q == "diag":
            q = distributions.Normal(mean, jnp.exp(spread)).to_event(1)
        else:
            q = distributions.MultivariateNormal(
                mean, scale_tril=jnp.tril(spread, -1) + jnp.diag(jnp.exp(spread.diagonal()))
            )
        numpyro.sample("z", q)

    elbo = numpyro.infer.Trace_ELBO(num_particles=B, vectorize_particles=True)
    loss = jax.value_and_grad(lambda p, key: elbo.loss(key, p, model, guide))
    blocks = jax.jit(lambda p, keys: jax.lax.map(lambda key: loss(p, key), keys))

    def run(_):
        p = {name: jnp.asarray(x, "float32") for name, x in zip(("mean", "spread"), start)}
        value, g = blocks(p, jax.random.split(jax.random.key(0), size.S // B))
        value, mean, spread = (-np.asarray(x, float).mean(0) for x in (value, g["mean"], g["spread"]))
        found = np.concatenate([[value], mean, spread[() if size.q == "diag" else _places("full")]])
        return dict.fromkeys(size.estimators, (found, None))

    return run


PEERS = {
    "lvm": _lvm(True),
    "lvm, float32": _lvm(True, "float32"),
    "lvm, NumPy log p": _lvm(False),
    "JAX, float32": _jax("float32"),
    "JAX, float64": _jax("float64"),
    "PyTorch, compiled, float32": _torch("float32", True),
    "PyTorch, compiled, float64": _torch("float64", True),
    "PyTorch, float32": _torch("float32", False),
    "PyTorch, float64": _torch("float64", False),
    "Pyro": pyro,
    "NumPyro": numpyro,
}
