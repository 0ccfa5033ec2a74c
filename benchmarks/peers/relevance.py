"""Sparse Bayesian classification: lvm, sklearn-rvm, scikit-learn, and minibatches in PyTorch.

A fit is that of each library's defaults, until its own rule says that it has converged. What they maximise differs:
lvm a variational bound over all prior variances, sklearn-rvm's EMRVC the Laplace approximation of the evidence over the
same (relative changes of all of them below 1e-3), LogisticRegression the likelihood with one given penalty,
GaussianProcessClassifier its Laplace evidence over the width and height of one kernel, or nothing where they are given.
So look at the loss and the error on rows that no fit has seen, of probabilities as each library gives them.

An epoch is the same work twice: shuffled rows in batches of 1024, float32, standardised columns, diagonal covariance,
one draw of w'x a row (local reparameterisation), ARD with each prior variance at its best, Adam at 0.01 falling along
a cosine. PyTorch is eager, its Adam fused, and its rows were standardised before the clock started.

LVM_BANANA=FILE takes rows of numbers, the label last, in place of the crescents: the first N to fit, others to test.
"""

import math
import os
from typing import NamedTuple

import numpy as np

from benchmarks import problems
from benchmarks.scaling import Memory

TIME, QUALITY = "ms", ("test loss, nats", "test error", "weights kept")
TESTED = 5000


class Size(NamedTuple):
    """kind: a fit of the "kernel" machine (gamma 0: to be chosen), or of the "linear" one, or an "epoch" of it."""

    kind: str
    N: int
    D: int = 2
    gamma: float = 0.0


SIZES = {
    "a fit, banana N=400 gamma=1": Size("kernel", 400, gamma=1.0),
    "a fit, banana N=400, width chosen": Size("kernel", 400),
    "a fit, linear 100000x100": Size("linear", 100_000, 100),
    "an epoch, 100000x100": Size("epoch", 100_000, 100),
    "an epoch, 100000x1000": Size("epoch", 100_000, 1000),
    "a fit, banana N=100 gamma=1": Size("kernel", 100, gamma=1.0),
    "a fit, banana N=100, width chosen": Size("kernel", 100),
    "a fit, linear 5000x20": Size("linear", 5000, 20),
    "an epoch, 5000x50": Size("epoch", 5000, 50),
}
QUICK = list(SIZES)[-4:]


class Problem(NamedTuple):
    """X (N,D), y (N,) of 0 and 1, and rows to test on."""

    size: Size
    X: np.ndarray
    y: np.ndarray
    test_X: np.ndarray
    test_y: np.ndarray


def problem(size):
    """The Problem of a Size."""
    _, N, D, _ = size
    if size.kind != "kernel":
        X, y = problems.logistic(N + TESTED, D, "float32" if size.kind == "epoch" else "float64")
    elif "LVM_BANANA" in os.environ:
        rows = np.loadtxt(os.environ["LVM_BANANA"])
        X, y = rows[:, :-1], (rows[:, -1] == rows[:, -1].max()).astype(int)
    else:
        X, y = problems.banana(N + TESTED)
    return Problem(size, X[:N], y[:N], X[N:], y[N:])


def steps(size):
    """Of epochs there are more where they are short."""
    return (1, 1 + max(5, 50_000_000 // (size.N * size.D))) if size.kind == "epoch" else None


def quality(problem, result):
    """Of (p, kept): minus the mean log-probability of the test rows' labels, p (N,) that of 1, the error, and kept."""
    p, kept = result
    y, p = problem.test_y, np.clip(p, 1e-15, 1 - 1e-15)
    return float(-np.log(np.where(y, p, 1 - p)).mean()), float(((p > 0.5) != y).mean()), int(kept)


def memory(size, peer):
    """The most memory that a linear fit holds at once, X counted, in times of X. To be called in a process of its own;
    a small fit comes first, which loads and compiles."""
    whole = problem(SIZES[size])
    if whole.size.kind != "linear":
        return None
    PEERS[peer](whole._replace(X=whole.X[:1000].copy(), y=whole.y[:1000]))(None)
    run = PEERS[peer](whole)
    with Memory() as held:
        run(None)
    return 1 + held.most * 2**20 / whole.X.nbytes


def lvm_(problem):
    """This library."""
    from lvm import RelevanceVectorClassifier, VariationalLogisticRegression

    size, X, y, test_X, _ = problem
    adam = {"covariance": "diag", "solver": "adam", "expectation": "monte_carlo", "n_epochs_no_change": None}

    def run(steps):
        if size.kind == "kernel":
            model = RelevanceVectorClassifier(gamma=size.gamma or "cv", random_state=0)
        else:
            given = {} if steps is None else {**adam, "max_epochs": steps, "random_state": 0}
            model = VariationalLogisticRegression(**given)
        return model.fit(X, y).predict_proba(test_X)[:, 1], model.n_relevant_

    return run


def sklearn_rvm(problem):
    """EMRVC, whose width is not chosen by itself."""
    from sklearn_rvm import EMRVC

    size, X, y, test_X, _ = problem
    if not size.gamma:
        return None

    def run(_):
        model = EMRVC(kernel="rbf", gamma=size.gamma).fit(X, y)
        return model.predict_proba(test_X)[:, 1], len(model.relevance_)

    return run


def _sklearn(solver):
    """build(problem) of LogisticRegression with a solver."""

    def build(problem):
        from sklearn.linear_model import LogisticRegression

        size, X, y, test_X, _ = problem
        if size.kind != "linear":
            return None
        return lambda _: (LogisticRegression(solver=solver).fit(X, y).predict_proba(test_X)[:, 1], size.D)

    return build


def gaussian_process(problem):
    """GaussianProcessClassifier: all N rows are kept."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    size, X, y, test_X, _ = problem
    if size.kind != "kernel":
        return None
    kernel = ConstantKernel(10.0) * RBF(1 / math.sqrt(2 * (size.gamma or 1.0)))
    chosen = None if size.gamma else "fmin_l_bfgs_b"

    def run(_):
        model = GaussianProcessClassifier(kernel, optimizer=chosen, random_state=0).fit(X, y)
        return model.predict_proba(test_X)[:, 1], size.N

    return run


def torch(problem):
    """Minibatches in PyTorch, as a careful user writes them."""
    import torch as t

    size, X, y, test_X, _ = problem
    if size.kind != "epoch":
        return None
    (N, D), mean, spread = X.shape, X.mean(0), X.std(0)
    Z = t.from_numpy(np.column_stack([(X - mean) / spread, np.ones(N)]).astype("float32"))
    signs = t.from_numpy(np.where(y, 1, -1).astype("float32"))

    def run(epochs):
        t.manual_seed(0)
        mu, rho = t.zeros(D + 1, requires_grad=True), t.full((D + 1,), math.log(1e-2), requires_grad=True)
        adam = t.optim.Adam([mu, rho], lr=0.01, fused=True)
        schedule = t.optim.lr_scheduler.CosineAnnealingLR(adam, epochs * -(-N // 1024))
        for _ in range(epochs):
            for rows in t.randperm(N).split(1024):
                z, S = Z[rows], rho.exp()
                f = z @ mu + (z.square() @ S).sqrt() * t.randn(len(rows))
                F = t.nn.functional.logsigmoid(signs[rows] * f).mean()
                loss = 0.5 * t.log1p(mu.square() / S).sum() / N - F
                adam.zero_grad()
                loss.backward()
                adam.step()
                schedule.step()
        m, S = mu.detach().numpy(), rho.detach().exp().numpy()
        z = np.column_stack([(test_X - mean) / spread, np.ones(len(test_X))])
        f = z @ m / np.sqrt(1 + np.pi / 8 * (z**2 @ S))  # MacKay's approximation of the integral
        return 1 / (1 + np.exp(-f)), np.count_nonzero(np.log(S[:D] / m[:D] ** 2) <= 3)

    return run


PEERS = {
    "lvm": lvm_,
    "sklearn-rvm": sklearn_rvm,
    "scikit-learn, lbfgs": _sklearn("lbfgs"),
    "scikit-learn, newton-cholesky": _sklearn("newton-cholesky"),
    "scikit-learn, Gaussian process": gaussian_process,
    "PyTorch": torch,
}
