"""Gradients of E_q[log p - log q]: time of each estimator and of fits, peak memory, and how far they are off."""

import os

import numba
import numpy as np

from lvm.distributions import MultivariateNormal, Normal, NormalMixture
from lvm.gradients import ESTIMATORS, compare, estimate, fit_q

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
SAMPLES = 10_000 if SMALL else 1_000_000
D, EPOCHS = (3, 2) if SMALL else (10, 20)


@numba.njit(nogil=True)
def log_p(z):
    """Log of the standard normal density, but for a constant, and its gradient."""
    found, slopes = np.empty(len(z), z.dtype), np.empty_like(z)
    for n in range(len(z)):
        total = 0.0
        for d in range(z.shape[1]):
            total += z[n, d] ** 2
            slopes[n, d] = -z[n, d]
        found[n] = -0.5 * total
    return found, slopes


def distribution(kind):
    """q, not far from the target."""
    mean, rng = np.full(D, 0.3), np.random.default_rng(0)
    if kind == "normal":
        return Normal(mean, 0.8)
    if kind == "full":
        return MultivariateNormal(mean, np.tril(0.2 * rng.standard_normal((D, D)), -1) + 0.8 * np.eye(D))
    return NormalMixture([0.5, 0.3, 0.2], rng.standard_normal((3, D)), np.full((3, D), 0.8))


class Estimate:
    """Each estimator alone, for a normal q with all covariances."""

    params, param_names = ["control_variate", "path"] if SMALL else [*ESTIMATORS], ("estimator",)

    def setup(self, estimator):
        self.q = distribution("full")
        estimate(log_p, self.q, estimator, 1000, random_state=0)  # compiles

    def time_estimate(self, estimator):
        estimate(log_p, self.q, estimator, SAMPLES, random_state=0)

    def track_error(self, estimator):
        """The worst, in standard errors, beside the gradient of -KL(q || p) = sum log L_ii - (|L|² + |m|²)/2 + ..."""
        found, L = estimate(log_p, self.q, estimator, SAMPLES, random_state=0), self.q.factor
        exact = {"mean": -self.q.mean, "factor": (np.eye(D) - L * np.where(np.eye(D), L, 1))[np.tril_indices(D)]}
        return max(float((abs(found.gradient[name] - exact[name]) / found.error[name]).max()) for name in exact)

    track_error.unit = "standard errors"


class Compare:
    """All estimators by the same samples."""

    params, param_names = ["normal", "full", "mixture"], ("q",)

    def setup(self, kind):
        self.q = distribution(kind)
        compare(log_p, self.q, 1000, random_state=0)  # compiles

    def time_compare(self, kind):
        compare(log_p, self.q, SAMPLES, random_state=0)

    def peakmem_compare(self, kind):
        compare(log_p, self.q, SAMPLES, random_state=0)


class Fit:
    """`fit_q` from far off, for a fixed number of epochs of 100 steps."""

    params, param_names = ["leave_one_out", "reparameterisation"], ("estimator",)

    def setup(self, estimator):
        self.fit(estimator, 1)  # compiles

    def fit(self, estimator, epochs=EPOCHS):
        options = {"n_samples": 100, "max_epochs": epochs, "n_epochs_no_change": None, "random_state": 0}
        return fit_q(log_p, MultivariateNormal(np.full(D, 2.0), np.eye(D)), estimator=estimator, **options)

    def time_fit(self, estimator):
        self.fit(estimator)

    def track_distance(self, estimator):
        """KL(q || p)"""
        return self.fit(estimator).q.kl(Normal(np.zeros(D), 1.0))

    track_distance.unit = "nats"
