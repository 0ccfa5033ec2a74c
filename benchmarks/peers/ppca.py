"""Probabilistic PCA and factor analysis, float64: lvm, scikit-learn, pyppca, and EM as NumPy's users would write it.

A fit by EM goes on until its likelihood is CLOSE to the maximum, or, of lvm and scikit-learn, until its default tol is
met. pyppca, whose posterior is a factorising one, ends by its own rule, short of the maximum. NumPy's EM is the plain
one and takes more steps; it begins where lvm does, at loadings drawn at random.

Of complete data lvm and NumPy read the rows once, for their covariance; scikit-learn's FactorAnalysis finds the best
loadings for given noise in each step, by an SVD of all rows. Its PCA of more columns than rows takes for the noise what
is left over N - d directions, not D - d, and its likelihood is the lower for it.
"""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.linalg

from benchmarks import problems
from benchmarks.scaling import Memory

CLOSE = 1e-6  # nats per row
TIME, QUALITY = "ms", "log-likelihood, nats per row"


class Size(NamedTuple):
    """What is to be done; steps as in run.py."""

    N: int
    D: int
    d: int
    missing: float = 0.0
    method: str = "em"
    noise: str = "isotropic"
    steps: tuple | dict | None = None


def _steps(n1, n2):
    """FactorAnalysis, of which a step takes as long as hundreds of the others, ends by rounding after some ten."""
    return {"lvm": (n1, n2), "NumPy": (n1, n2), "scikit-learn": (3, 9)}


SIZES = {
    "a step, factor analysis, 100000x100 d=10": Size(100_000, 100, 10, noise="diagonal", steps=_steps(200, 2200)),
    "a fit, factor analysis, 100000x100 d=10": Size(100_000, 100, 10, noise="diagonal"),
    "a step, 100000x100 d=10": Size(100_000, 100, 10, steps=(200, 2200)),
    "a fit, exact, 20000x500 d=10": Size(20_000, 500, 10, method="exact"),
    "a fit, exact, 20000x500 d=200": Size(20_000, 500, 200, method="exact"),
    "a step, 20 % gaps, 10000x50 d=5": Size(10_000, 50, 5, 0.2, steps=(10, 20)),
    "a fit, 20 % gaps, 10000x50 d=5": Size(10_000, 50, 5, 0.2),
    "a fit, exact, 500x20000 d=20": Size(500, 20_000, 20, method="exact"),
    "a step, factor analysis, 2000x20 d=3": Size(2000, 20, 3, noise="diagonal", steps=_steps(200, 700)),
    "a fit, exact, 2000x100 d=3": Size(2000, 100, 3, method="exact"),
    "a step, 20 % gaps, 1000x20 d=3": Size(1000, 20, 3, 0.2, steps=(10, 15)),
    "a fit, 20 % gaps, 1000x20 d=3": Size(1000, 20, 3, 0.2),
    "a fit, exact, 100x2000 d=5": Size(100, 2000, 5, method="exact"),
}
QUICK = list(SIZES)[-5:]


class Problem(NamedTuple):
    """X (N,D), and the log-likelihood per row at which a fit by EM is done."""

    X: np.ndarray
    size: Size
    target: float


def problem(size):
    """The Problem of a Size."""
    X, target = problems.linear(*size[:4]), np.inf
    if size.method == "em" and size.steps is None:
        from lvm import ProbabilisticPCA

        target = ProbabilisticPCA(size.d, noise=size.noise, tol=1e-12, random_state=1).fit(X).lower_bound_ - CLOSE
    return Problem(X, size, target)


def steps(size):
    """n1, n2: a step is timed between them; None: a whole fit is."""
    return size.steps


def quality(problem, result):
    """Mean log-likelihood per row of (W, mu, psi), by NumPy alone; of rows with gaps by the dense covariance."""
    X, (W, mu, psi) = problem.X, result
    if problem.size.missing:
        total, Sigma = 0.0, W @ W.T + np.diag(psi)
        for x in X:
            o = ~np.isnan(x)
            L = np.linalg.cholesky(Sigma[np.ix_(o, o)])
            y = scipy.linalg.solve_triangular(L, x[o] - mu[o], lower=True)
            total -= 0.5 * o.sum() * np.log(2 * np.pi) + np.log(np.diag(L)).sum() + 0.5 * y @ y
        return total / len(X)
    y, B = X - mu, W / psi[:, None]
    L = np.linalg.cholesky(np.eye(W.shape[1]) + W.T @ B)
    h = scipy.linalg.solve_triangular(L, B.T @ y.T, lower=True)
    squares = np.einsum("nd,nd,d->", y, y, 1 / psi) - (h**2).sum()
    return -0.5 * (np.log(2 * np.pi * psi).sum() + squares / len(X)) - np.log(np.diag(L)).sum()


def memory(size, peer):
    """The most memory that a fit holds at once, X counted, in times of X; None where that is not asked for.

    To be called in a process of its own. A fit of some numbers alone comes first, which loads and compiles."""
    size = SIZES[size]
    if size.method != "exact":
        return None
    whole = problem(size)
    few = whole.X[: 4 * size.d, : 2 * size.d] if size.N > size.D else whole.X[: 2 * size.d, : 4 * size.d]
    PEERS[peer](whole._replace(X=few.copy()))(None)
    with Memory() as held:
        PEERS[peer](whole)(None)
    return 1 + held.most * 2**20 / whole.X.nbytes


def lvm_(problem):
    """This library."""
    from lvm import ProbabilisticPCA

    X, (_, D, d, _, method, noise, _), _ = problem

    def run(steps):
        given = {} if steps is None else {"tol": 0, "max_iter": steps}
        model = ProbabilisticPCA(d, method=method, noise=noise, random_state=0, **given).fit(X)
        return model.loadings_, model.mean_, np.full(D, model.noise_variance_)

    return run


def sklearn(problem):
    """scikit-learn's FactorAnalysis, and its PCA, which has neither EM nor gaps."""
    from sklearn.decomposition import PCA, FactorAnalysis

    X, size, _ = problem

    def factor_analysis(steps):
        given = {} if steps is None else {"tol": 0, "max_iter": steps}
        model = FactorAnalysis(size.d, random_state=0, **given).fit(X)
        if steps not in (None, model.n_iter_):
            raise RuntimeError(f"FactorAnalysis ended after {model.n_iter_} of {steps} steps")
        return model.components_.T, model.mean_, model.noise_variance_

    def pca(_):
        model = PCA(size.d, svd_solver="covariance_eigh" if size.N > size.D else "full").fit(X)
        lengths = np.sqrt(model.explained_variance_ - model.noise_variance_)
        return model.components_.T * lengths, model.mean_, np.full(X.shape[1], model.noise_variance_)

    return {"diagonal": factor_analysis}.get(size.noise, pca if size.method == "exact" else None)


def _start(problem):
    """W (D,d) drawn at random, for half of the variance, mu (D,) and psi (D,)."""
    var, d = np.nanvar(problem.X, axis=0), problem.size.d
    W = np.random.default_rng(0).standard_normal((len(var), d)) * np.sqrt(var / (2 * d))[:, None]
    psi = np.full(len(var), var.mean()) if problem.size.noise == "isotropic" else var
    return W, np.nanmean(problem.X, axis=0), psi / 2


def numpy_(problem):
    """EM on the covariance of complete rows.   Rubin & Thayer 1982"""
    X, size, target = problem
    if size.missing or size.method == "exact":
        return None

    def run(steps):
        S, (W, mu, psi) = np.cov(X, rowvar=False, bias=True), _start(problem)
        for step in itertools.count():
            B = W / psi[:, None]
            M = np.eye(size.d) + W.T @ B
            C = np.linalg.inv(M)
            SB = S @ B @ C  # mean of x z'
            fixed = np.log(2 * np.pi * psi).sum() + np.linalg.slogdet(M)[1]
            bound = -0.5 * (fixed + (np.diag(S) / psi).sum() - (B * SB).sum())
            if step == steps or bound > target:
                return W, mu, psi
            W = SB @ np.linalg.inv(C + C @ B.T @ SB)
            psi = np.diag(S) - (W * SB).sum(axis=1)
            psi = np.full(len(psi), psi.mean()) if size.noise == "isotropic" else psi

    return run


def _with_gaps(posterior):
    """build(problem) of EM for rows with gaps. posterior(Y, O, W, psi) gives z (N,d), C (N,d,d) and sum log p(x) of the
    rows Y (N,D) = x - mu, O (N,D) what was observed; the M step is products of matrices over all rows.
    Tipping & Bishop 1999, appendix B, on the observed part of each row."""

    def build(problem):
        (X, size, target), d = problem, problem.size.d
        if not size.missing:
            return None

        def run(steps):
            (W, mu, psi), O = _start(problem), ~np.isnan(X)
            filled, seen = np.where(O, X, 0), O.astype(float)
            for step in itertools.count():
                Z, C, log_p = posterior(filled - mu, O, W, psi)
                if step == steps or log_p / len(X) > target:
                    return W, mu, psi
                U = np.column_stack([Z, np.ones(len(X))])
                UU = U[:, :, None] * U[:, None, :]
                UU[:, :d, :d] += C
                A = (seen.T @ UU.reshape(len(X), -1)).reshape(-1, d + 1, d + 1)
                g = filled.T @ U
                V = np.linalg.solve(A, g[:, :, None])[:, :, 0]
                W, mu = V[:, :d], V[:, d]
                psi = np.full(len(mu), ((filled**2).sum() - (V * g).sum()) / seen.sum())

        return run

    return build


def _row_by_row(Y, O, W, psi):
    (N, d), sigma2, eye, total = (len(Y), W.shape[1]), psi[0], np.eye(W.shape[1]), 0.0
    Z, C = np.empty((N, d)), np.empty((N, d, d))
    for n in range(N):
        y, V = Y[n, O[n]], W[O[n]]
        M = eye + V.T @ V / sigma2
        C[n] = np.linalg.inv(M)
        h = y @ V / sigma2
        Z[n] = C[n] @ h
        total -= 0.5 * (len(y) * np.log(2 * np.pi * sigma2) + np.linalg.slogdet(M)[1] + y @ y / sigma2 - h @ Z[n])
    return Z, C, total


def _all_at_once(Y, O, W, psi):
    (D, d), seen, Y = W.shape, O.astype(float), np.where(O, Y, 0)
    B = W / psi[:, None]
    M = np.eye(d) + (seen @ (W[:, :, None] * B[:, None, :]).reshape(D, -1)).reshape(-1, d, d)
    C, h = np.linalg.inv(M), Y @ B
    Z = (C @ h[:, :, None])[:, :, 0]
    squares = (Y**2 @ (1 / psi)).sum() - (h * Z).sum()
    return Z, C, -0.5 * ((seen @ np.log(2 * np.pi * psi)).sum() + np.linalg.slogdet(M)[1].sum() + squares)


def pyppca(problem):
    """pyppca's ppca. It returns axes and the rows' places along them; loadings follow from their variance."""
    if not problem.size.missing or problem.size.steps:
        return None
    from pyppca import ppca

    def run(_):
        np.random.seed(0)  # noqa: NPY002 - it takes its start from there
        axes, sigma2, mu, Z, _ = ppca(problem.X, problem.size.d, False)
        return axes * np.sqrt(np.maximum(Z.var(axis=0) - sigma2, 0)), mu, np.full(len(mu), sigma2)

    return run


PEERS = {
    "lvm": lvm_,
    "scikit-learn": sklearn,
    "NumPy": numpy_,
    "NumPy, row by row": _with_gaps(_row_by_row),
    "NumPy, all rows at once": _with_gaps(_all_at_once),
    "pyppca": pyppca,
}
