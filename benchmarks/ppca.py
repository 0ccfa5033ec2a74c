"""Probabilistic PCA and factor analysis: time of fits, EM steps and answers, peak memory, and the error beside them."""

import os
import statistics
import time
import warnings

import lvm
from lvm import ProbabilisticPCA

from . import problems

SIZES = problems.SMALL_LINEAR if os.environ.get("LVM_BENCH_SMALL") == "1" else problems.LINEAR
NOISES = ["isotropic", "diagonal"]


def problem(size, dtype="float64"):
    """X (N,D) and d."""
    N, D, d, missing = SIZES[size][:4]
    return problems.linear(N, D, d, missing, dtype), d


def fit(X, d, **given):
    """A fitted model, always from the same start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is the point
        return ProbabilisticPCA(d, random_state=0, **given).fit(X)


class Iteration:
    """One EM step: (t(n2) - t(n1)) / (n2 - n1), the median of 5. Complete data are read once, for their covariance."""

    params = (NOISES, list(SIZES), ["float64", "float32"])
    param_names = ("noise", "size", "dtype")

    def setup(self, noise, size, dtype):
        self.X, self.d = problem(size, dtype)
        self.n1, self.n2 = SIZES[size][4:]
        self.timed(noise, 1)  # compiles

    def timed(self, noise, steps):
        """Seconds, and the steps that were taken: float32 may come to rest before."""
        start = time.perf_counter()
        model = fit(self.X, self.d, method="em", noise=noise, max_iter=steps, tol=0)
        return time.perf_counter() - start, model.n_iter_

    def track_em_iteration(self, noise, size, dtype):
        pairs = [(self.timed(noise, self.n1), self.timed(noise, self.n2)) for _ in range(5)]
        return statistics.median((t2 - t1) / max(n2 - n1, 1) for (t1, n1), (t2, n2) in pairs)

    track_em_iteration.unit = "s"


class Model:
    """What a user waits for: a fit, exact where there are no gaps, and the answers of a fitted model."""

    params = (list(SIZES), ["float64", "float32"])
    param_names = ("size", "dtype")

    def setup(self, size, dtype):
        self.X, self.d = problem(size, dtype)
        self.model = fit(self.X, self.d, max_iter=2)  # compiles
        self.model.impute(self.X[:100])
        self.model.score_samples(self.X[:100])

    def time_fit(self, size, dtype):
        fit(self.X, self.d)

    def peakmem_fit(self, size, dtype):
        fit(self.X, self.d)

    def time_partial_fit(self, size, dtype):
        ProbabilisticPCA(self.d).partial_fit(self.X[::2]).partial_fit(self.X[1::2])

    def time_transform(self, size, dtype):
        self.model.transform(self.X)

    def time_score_samples(self, size, dtype):
        self.model.score_samples(self.X)

    def time_impute(self, size, dtype):
        self.model.impute(self.X)


class StochasticEM:
    """Draws a second, of a row and of z for it."""

    params = (list(SIZES)[:2], [1, 32])
    param_names = ("size", "batch_size")

    def setup(self, size, batch_size):
        self.X, self.d = problem(size)
        self.n1 = 1000 * batch_size  # as many steps as a fit takes averages of, which are not counted
        self.n2 = self.n1 + 100_000
        self.timed(batch_size, batch_size)  # compiles

    def timed(self, batch_size, draws):
        start = time.perf_counter()
        fit(self.X, self.d, method="stochastic_em", n_draws=draws, batch_size=batch_size)
        return time.perf_counter() - start

    def track_draws(self, size, batch_size):
        taken = [self.timed(batch_size, self.n2) - self.timed(batch_size, self.n1) for _ in range(5)]
        return (self.n2 - self.n1) / statistics.median(taken)

    track_draws.unit = "draws/s"


def track_iris_error(method):
    """|total log-likelihood / its exact maximum - 1|, iris, two components."""
    X = lvm.datasets.load_iris()
    model = ProbabilisticPCA(2, method=method, tol=1e-12, random_state=0).fit(X)
    return abs(model.score_samples(X).sum() / -404.96278016 - 1)


track_iris_error.params = ["exact", "em", "stochastic_em"]
track_iris_error.param_names = ["method"]
track_iris_error.unit = "relative"


def track_em_error(size):
    """Nats per row from EM's likelihood to that of the closed form."""
    X, d = problem(size)
    return abs(fit(X, d, method="em").lower_bound_ - fit(X, d, method="exact").lower_bound_)


track_em_error.params = [name for name, size in SIZES.items() if not size[3]]
track_em_error.param_names = ["size"]
track_em_error.unit = "nats per row"
