"""lvm inside somebody else's jitted code, without any estimator: an alarm for a stream of sensor readings.

A kernel on plain arrays gives log p(x) under a mixture whose parameters came from elsewhere, a shared scalar function
turns it into an alarm between 0 and 1, and both run inside one @njit function of ours.
"""

import numba
import numpy as np

from lvm import kernels
from lvm.kernels.shared.scalar import sigmoid

k = kernels.load("cpu")
log_density = k.mixture.posterior_full.block.compiled(np.float64)  # the kernel of one block of rows, as jitted code takes it


@numba.njit(nogil=True)
def alarms(X, mu, P, c, threshold, out):
    """out[n] = sigmoid(threshold - log p(x_n)), 64 rows at a time, as a stream would bring them."""
    log_px, no_labels, no_r = np.empty(64), np.empty(0, np.int64), np.empty((0, len(mu)))
    for start in range(0, len(X), 64):
        rows = X[start : start + 64]
        log_density(rows, mu, P, c, 0, len(rows), log_px, no_labels, no_r)
        for n in range(len(rows)):
            out[start + n] = sigmoid(threshold - log_px[n])


def main():
    pi, mu = np.array([0.5, 0.5]), np.array([[0.0, 0.0], [4.0, 4.0]])
    Sigma = np.array([[[1.0, 0.8], [0.8, 1.0]], [[1.0, -0.8], [-0.8, 1.0]]])
    P, c = np.empty_like(Sigma), np.empty(2)
    k.mixture.factor_full(pi, Sigma, np.zeros(2), P, c)  # inverse Cholesky factors and the constants of log p

    rng = np.random.default_rng(0)
    X = np.concatenate([rng.multivariate_normal(mu[0], Sigma[0], 1000), [[2.0, -2.0], [4.0, 0.0]]])
    out = np.empty(len(X))
    alarms(X, mu, P, c, -9.0, out)
    print(f"{len(X) - 2} ordinary readings: {np.mean(out[:-2] > 0.5):.2%} raise the alarm")
    print(f"two odd ones, each coordinate of which is ordinary: {out[-2:].round(3)}")


if __name__ == "__main__":
    main()
