"""Gaussian mixtures: time of an EM step, of fits and of answers, peak memory, and the error that goes with them."""

import copy
import os
import statistics
import time
import warnings

import numpy as np

import lvm
from lvm import GaussianMixture

from . import problems

SIZES = problems.SMALL if os.environ.get("LVM_BENCH_SMALL") == "1" else problems.MIXTURES
TYPES = ["full", "tied", "diag", "spherical"]


def fit(X, start, covariance_type, steps):
    """A fit of so many EM steps from a given start."""
    K = len(start["weights_init"])
    model = GaussianMixture(K, covariance_type=covariance_type, tol=0, reg_covar=0, max_iter=steps, **start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is the point
        return model.fit(X)


def timed(f, *args):
    """Seconds that f(*args) takes."""
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


class Iteration:
    """One EM step: (t(n2) - t(n1)) / (n2 - n1), the median of 5."""

    params = (TYPES, list(SIZES), ["float64", "float32"])
    param_names = ("covariance_type", "size", "dtype")

    def setup(self, covariance_type, size, dtype):
        N, D, K, self.n1, self.n2 = SIZES[size]
        self.X, self.start = problems.mixture(N, D, K, dtype, covariance_type)
        fit(self.X, self.start, covariance_type, 1)  # compiles

    def timed(self, covariance_type, steps):
        """Seconds, and the steps that were taken: float32 on little data may come to rest before."""
        start = time.perf_counter()
        model = fit(self.X, self.start, covariance_type, steps)
        return time.perf_counter() - start, model.n_iter_

    def track_em_iteration(self, covariance_type, size, dtype):
        pairs = [(self.timed(covariance_type, self.n1), self.timed(covariance_type, self.n2)) for _ in range(5)]
        return statistics.median((t2 - t1) / (n2 - n1) for (t1, n1), (t2, n2) in pairs)

    track_em_iteration.unit = "s"


class Gaps:
    """One EM step with a part of the cells missing, and how many times that of complete data it takes."""

    params = (TYPES, list(SIZES)[2:3] or list(SIZES), [0.02, 0.2])
    param_names = ("covariance_type", "size", "missing")

    def setup(self, covariance_type, size, missing):
        N, D, K, self.n1, self.n2 = SIZES[size]
        self.X, self.start = problems.mixture(N, D, K, covariance_type=covariance_type)
        self.gappy = np.where(np.random.default_rng(1).random(self.X.shape) < missing, np.nan, self.X)
        for X in self.X, self.gappy:
            fit(X, self.start, covariance_type, 1)  # compiles

    def seconds(self, X, covariance_type):
        n1, n2 = (timed(fit, X, self.start, covariance_type, n) for n in (self.n1, self.n2))
        return (n2 - n1) / (self.n2 - self.n1)

    def track_em_iteration(self, covariance_type, size, missing):
        return statistics.median(self.seconds(self.gappy, covariance_type) for _ in range(5))

    def track_times_complete(self, covariance_type, size, missing):
        pairs = [(self.seconds(self.gappy, covariance_type), self.seconds(self.X, covariance_type)) for _ in range(5)]
        return statistics.median(gappy for gappy, _ in pairs) / statistics.median(whole for _, whole in pairs)

    def time_impute(self, covariance_type, size, missing):
        fit(self.X[:1000], self.start, covariance_type, 1).impute(self.gappy)

    track_em_iteration.unit = "s"
    track_times_complete.unit = "times complete data"


class Model:
    """What a user waits for: a fit of 10 steps with its start, and the answers of a fitted model."""

    params = (["full", "diag"], list(SIZES))
    param_names = ("covariance_type", "size")

    def setup(self, covariance_type, size):
        N, D, K = SIZES[size][:3]
        self.X, start = problems.mixture(N, D, K, covariance_type=covariance_type)
        self.new = GaussianMixture(K, covariance_type=covariance_type, max_iter=10, tol=0, random_state=0)
        self.model = fit(self.X, start, covariance_type, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            GaussianMixture(2, covariance_type=covariance_type, max_iter=1, random_state=0).fit(
                self.X[:100]
            )  # compiles
        self.model.predict_proba(self.X[:100])
        self.model.score_samples(self.X[:100])

    def time_fit(self, covariance_type, size):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.new.fit(self.X)

    def peakmem_fit(self, covariance_type, size):
        self.time_fit(covariance_type, size)

    def time_partial_fit(self, covariance_type, size):
        copy.copy(self.model).partial_fit(self.X[: len(self.X) // 10])

    def time_score_gradient(self, covariance_type, size):
        self.model.score_gradient(self.X)

    def time_predict_proba(self, covariance_type, size):
        self.model.predict_proba(self.X)

    def time_score_samples(self, covariance_type, size):
        self.model.score_samples(self.X)


def track_faithful_error():
    """|total log-likelihood - the exact maximum|, Old Faithful, two full components."""
    X = lvm.datasets.load_faithful()
    model = GaussianMixture(2, reg_covar=0, tol=1e-12, max_iter=5000, random_state=0).fit(X)
    return abs(model.score_samples(X).sum() + 1130.26396018)


track_faithful_error.unit = "nats"
