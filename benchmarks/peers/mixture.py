"""EM for a Gaussian mixture, float64, full and diagonal covariances: lvm, scikit-learn, and EM written as a user of
PyTorch or JAX would write it: all components at once, Cholesky factors, log-sum-exp, no Python loop over rows or
components.

Every peer begins at the same parameters and takes the same steps, without regularisation.
"""

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from benchmarks import problems

SIZES = {name: (*size, "full") for name, size in problems.MIXTURES.items()}
SIZES["100000x16 K=10, diagonal"] = (100_000, 16, 10, 2, 22, "diag")
QUICK = ["1000x2 K=3"]
QUALITY = "log-likelihood, nats per row"


def problem(size):
    """X (N,D), a start in scikit-learn's words, and the covariance type."""
    return *problems.mixture(*size[:3], covariance_type=size[5]), size[5]


def steps(size):
    """n1, n2: a step is timed between them."""
    return size[3:5]


def quality(problem, result):
    """Mean log-likelihood per row of (weights, means, covariances), by NumPy alone."""
    X, D = problem[0], problem[0].shape[1]
    log_p = []
    for pi, mu, Sigma in zip(*result):
        L = np.linalg.cholesky(Sigma if Sigma.ndim == 2 else np.diag(Sigma))
        y = solve_triangular(L, (X - mu).T, lower=True)
        log_p.append(np.log(pi) - np.log(np.diag(L)).sum() - 0.5 * (y**2).sum(axis=0) - 0.5 * D * np.log(2 * np.pi))
    return logsumexp(log_p, axis=0).mean()


def _estimator(GaussianMixture, X, start, kind):
    fixed = {"covariance_type": kind, "tol": 0, "reg_covar": 0}

    def run(steps):
        model = GaussianMixture(len(start["weights_init"]), max_iter=steps, **fixed, **start).fit(X)
        return model.weights_, model.means_, model.covariances_

    return run


def lvm_(problem):
    """This library."""
    from lvm import GaussianMixture

    return _estimator(GaussianMixture, *problem)


def sklearn(problem):
    """scikit-learn's GaussianMixture."""
    from sklearn.mixture import GaussianMixture

    return _estimator(GaussianMixture, *problem)


def torch(problem):
    """PyTorch on the CPU, eager."""
    import torch as t

    X, start, kind = problem
    x = t.from_numpy(X)
    first = [t.from_numpy(a) for a in (start["weights_init"], start["means_init"])]
    Q = t.from_numpy(start["precisions_init"])
    first.append(t.linalg.inv(Q) if kind == "full" else 1 / Q)
    D = X.shape[1]

    def diag(pi, mu, v):
        d2 = (x - mu[:, None]) ** 2  # (K,N,D)
        log_p = (
            (pi.log() - 0.5 * v.log().sum(1))[:, None] - 0.5 * (d2 / v[:, None]).sum(2) - 0.5 * D * np.log(2 * np.pi)
        )
        r = (log_p - t.logsumexp(log_p, 0)).exp()  # (K,N)
        n = r.sum(1)
        mu = r @ x / n[:, None]
        return n / len(x), mu, (r[:, :, None] * (x - mu[:, None]) ** 2).sum(1) / n[:, None]

    def full(pi, mu, Sigma):
        L = t.linalg.cholesky(Sigma)  # (K,D,D)
        y = t.linalg.solve_triangular(L, (x - mu[:, None]).mT, upper=False)  # (K,D,N)
        log_det = L.diagonal(dim1=1, dim2=2).log().sum(1)
        log_p = (pi.log() - log_det)[:, None] - 0.5 * (y * y).sum(1) - 0.5 * D * np.log(2 * np.pi)
        r = (log_p - t.logsumexp(log_p, 0)).exp()  # (K,N)
        n = r.sum(1)
        mu = r @ x / n[:, None]
        d = x - mu[:, None]  # (K,N,D)
        return n / len(x), mu, (r[:, :, None] * d).mT @ d / n[:, None, None]

    @t.no_grad()
    def run(steps):
        p, step = first, full if kind == "full" else diag
        for _ in range(steps):
            p = step(*p)
        return [a.numpy() for a in p]

    return run


def jax(problem):
    """JAX on the CPU, all steps inside one jitted loop."""
    import jax as j

    j.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular as solve

    X, start, kind = problem
    x, D, Q = jnp.asarray(X), X.shape[1], start["precisions_init"]
    first = (start["weights_init"], start["means_init"], np.linalg.inv(Q) if kind == "full" else 1 / Q)

    def diag(_, p):
        pi, mu, v = p
        d2 = (x - mu[:, None]) ** 2
        log_p = (jnp.log(pi) - 0.5 * jnp.log(v).sum(1))[:, None] - 0.5 * (d2 / v[:, None]).sum(2)
        log_p = log_p - 0.5 * D * np.log(2 * np.pi)
        r = jnp.exp(log_p - j.scipy.special.logsumexp(log_p, 0))
        n = r.sum(1)
        mu = r @ x / n[:, None]
        return n / len(x), mu, (r[:, :, None] * (x - mu[:, None]) ** 2).sum(1) / n[:, None]

    def full(_, p):
        pi, mu, Sigma = p
        L = jnp.linalg.cholesky(Sigma)
        y = solve(L, (x - mu[:, None]).mT, lower=True)
        log_det = jnp.log(jnp.diagonal(L, axis1=1, axis2=2)).sum(1)
        log_p = (jnp.log(pi) - log_det)[:, None] - 0.5 * (y * y).sum(1) - 0.5 * D * np.log(2 * np.pi)
        r = jnp.exp(log_p - j.scipy.special.logsumexp(log_p, 0))
        n = r.sum(1)
        mu = r @ x / n[:, None]
        d = x - mu[:, None]
        return n / len(x), mu, (r[:, :, None] * d).mT @ d / n[:, None, None]

    step = full if kind == "full" else diag
    climb = j.jit(lambda steps, p: j.lax.fori_loop(0, steps, step, p))

    def run(steps):
        return [np.asarray(a) for a in climb(steps, tuple(map(jnp.asarray, first)))]

    return run


PEERS = {"lvm": lvm_, "scikit-learn": sklearn, "PyTorch": torch, "JAX": jax}
