"""Variational logistic regression and relevance vector machines: time of kernels, fits and answers, peak memory, and
the bound, the sparsity and the error beside them."""

import os
import statistics
import time
import warnings

import numpy as np
import scipy.integrate
import scipy.special

from lvm import RelevanceVectorClassifier, RelevanceVectorRegressor, VariationalLogisticRegression, kernels

from . import problems

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
SIZES = problems.SMALL_LOGISTIC if SMALL else problems.LOGISTIC
MACHINES = problems.SMALL_BANANA if SMALL else problems.BANANA
ROWS = 1000 if SMALL else 1_000_000


class Expectation:
    """The integral of each row, over narrow and wide normals: another rule for each."""

    params = (["float32", "float64"], [0.3, 3.0])
    param_names = ("dtype", "variance")

    def setup(self, dtype, variance):
        self.k, rng = kernels.load("cpu"), np.random.default_rng(0)
        self.m, self.v = rng.normal(scale=3, size=ROWS).astype(dtype), np.full(ROWS, variance, dtype)
        self.out = [np.empty(ROWS, dtype) for _ in range(3)]
        self.time_expectation(dtype, variance)  # compiles
        self.time_odds(dtype, variance)

    def time_expectation(self, dtype, variance):
        self.k.logistic.expectation(self.m, self.v, *self.out)

    def track_error(self, dtype, variance):
        """The largest of some rows' E log sigmoid(u), beside SciPy's adaptive rule."""
        self.time_expectation(dtype, variance)
        s, worst = float(self.v[0]) ** 0.5, 0.0
        for m, F in zip(self.m[:50].astype(float), self.out[0]):
            f = lambda e: scipy.special.log_expit(m + s * e) * np.exp(-e * e / 2) / np.sqrt(2 * np.pi)  # noqa: B023
            worst = max(worst, abs(F - scipy.integrate.quad(f, -12, 12, epsabs=1e-13, limit=200)[0]))
        return float(worst)

    track_error.unit = "nats"

    def time_odds(self, dtype, variance):
        self.k.relevance.odds(self.m, self.v, self.out[0])


class Sites:
    """What a step of Newton asks of each row."""

    params, param_names = [0.3, 3.0], ("variance",)

    def setup(self, variance):
        self.k, rng = kernels.load("cpu"), np.random.default_rng(0)
        self.m, self.v, self.w = rng.normal(scale=3, size=ROWS), np.full(ROWS, variance), np.empty(0)
        self.y, self.out = np.where(rng.random(ROWS) < 0.5, 1.0, -1.0), [np.empty(ROWS) for _ in range(3)]
        self.time_sites(variance)  # compiles

    def time_sites(self, variance):
        self.k.relevance.sites(self.m, self.v, self.y, self.w, *self.out)


class Linear:
    """Newton of columns of which one in five matters."""

    params = (["ard", "gaussian"], ["full", "diag"], list(SIZES))
    param_names = ("prior", "covariance", "size")

    def setup(self, prior, covariance, size):
        self.X, self.y = problems.logistic(*SIZES[size])
        self.new = lambda: VariationalLogisticRegression(prior=prior, covariance=covariance)
        self.model = self.new().fit(self.X[:1000], self.y[:1000])  # compiles
        self.model.predict_proba(self.X[:1000])

    def time_fit(self, *_):
        self.new().fit(self.X, self.y)

    def peakmem_fit(self, *_):
        self.new().fit(self.X, self.y)

    def time_predict_proba(self, *_):
        self.model.predict_proba(self.X)

    def track_bound(self, *_):
        return self.new().fit(self.X, self.y).lower_bound_

    track_bound.unit = "nats per row"


class Classifier:
    """The relevance vector machine on two crescents, of a width that is given or chosen."""

    params = ([1.0, "cv"], MACHINES)
    param_names = ("gamma", "N")

    def setup(self, gamma, N):
        if gamma == "cv" and N > 1000:
            raise NotImplementedError  # takes long
        (self.X, self.y), self.test = problems.banana(N), problems.banana(5000, 1)
        self.new = lambda: RelevanceVectorClassifier(gamma=gamma, random_state=0)
        self.model = self.new().fit(self.X, self.y)  # compiles

    def time_fit(self, *_):
        self.new().fit(self.X, self.y)

    def time_predict_proba(self, *_):
        self.model.predict_proba(self.test[0])

    def track_bound(self, *_):
        return self.model.lower_bound_

    track_bound.unit = "nats per row"

    def track_error(self, *_):
        return 1 - self.model.score(*self.test)

    track_error.unit = "part of rows"


class Regressor:
    """sin(x)/x with noise."""

    params = ([1.0, "cv"], [60] if SMALL else [500])
    param_names = ("gamma", "N")

    def setup(self, gamma, N):
        self.x, self.y = problems.sinc(N)
        self.new = lambda: RelevanceVectorRegressor(gamma=gamma, random_state=0)
        self.model = self.new().fit(self.x, self.y)  # compiles

    def time_fit(self, *_):
        self.new().fit(self.x, self.y)

    def track_bound(self, *_):
        return self.model.lower_bound_

    track_bound.unit = "nats per row"

    def track_error(self, *_):
        return float(np.sqrt(np.mean((self.model.predict(self.x) - np.sinc(self.x[:, 0] / np.pi)) ** 2)))

    track_error.unit = "root mean square"


class Minibatches:
    """One epoch of Adam, diagonal covariance: (t(n2) - t(n1)) / (n2 - n1), the median of 5; and what 20 lead to."""

    params = (["quadrature", "monte_carlo"], list(SIZES))
    param_names = ("expectation", "size")

    def setup(self, expectation, size):
        self.X, self.y = problems.logistic(*SIZES[size], np.float32)
        self.fit(expectation, 1)  # compiles

    def fit(self, expectation, epochs):
        given = {"covariance": "diag", "solver": "adam", "n_epochs_no_change": None, "random_state": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged is the point
            model = VariationalLogisticRegression(**given, expectation=expectation, max_epochs=epochs)
            return model.fit(self.X, self.y)

    def seconds(self, expectation, epochs):
        start = time.perf_counter()
        self.fit(expectation, epochs)
        return time.perf_counter() - start

    def track_epoch(self, expectation, size):
        taken = [(self.seconds(expectation, 4) - self.seconds(expectation, 1)) / 3 for _ in range(5)]
        return statistics.median(taken)

    track_epoch.unit = "s"

    def track_bound(self, expectation, size):
        return self.fit(expectation, 20).lower_bound_

    track_bound.unit = "nats per row"
