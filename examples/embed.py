"""lvm inside somebody else's jitted code, without any estimator: an alarm for a stream of sensor readings.

A kernel on plain arrays measures how far each reading is from known good ones, shared scalar functions make a density
and an alarm of it, and all of it runs inside one @njit function of ours.
"""

import numba
import numpy as np

from lvm import kernels
from lvm.kernels.shared.scalar import exp, log, sigmoid

k = kernels.load("cpu")
squared_distances = k.mixture.squared_distances.block.compiled(np.float64)  # the serial kernel, as jitted code takes it


@numba.njit(nogil=True)
def alarms(X, good, width, threshold, out):
    """out[n] = sigmoid(threshold - log p(x_n)), p a kernel density of `good` (Parzen 1962); 64 rows at a time."""
    inverse, d2 = np.full(X.shape[1], 1 / width), np.empty((len(good), 64))
    for start in range(0, len(X), 64):
        rows = X[start : start + 64]
        squared_distances(rows, good, inverse, 0, len(rows), d2)
        for n in range(len(rows)):
            nearest, total = d2[:, n].min(), 0.0
            for g in range(len(good)):
                total += exp((nearest - d2[g, n]) / 2)
            log_p = log(total / len(good)) - nearest / 2 - X.shape[1] * log(width * np.sqrt(2 * np.pi))
            out[start + n] = sigmoid(threshold - log_p)


def main():
    rng = np.random.default_rng(0)
    readings = rng.multivariate_normal([20.0, 1.0], [[1.0, 0.9], [0.9, 1.0]], size=1500)
    good, X = readings[:500], np.concatenate([readings[500:], [[22.0, -1.0], [18.0, 3.0]]])
    out = np.empty(len(X))
    alarms(X, good, 0.3, -7.5, out)
    print(f"{len(X) - 2} ordinary readings: {np.mean(out[:-2] > 0.5):.1%} raise the alarm")
    print(f"two odd ones, ordinary in each coordinate: {out[-2:].round(3)}")


if __name__ == "__main__":
    main()
