"""Planar flows: time of training steps, fits and answers, peak memory, and how far from the target they end."""

import os
import statistics
import time

import numpy as np

from lvm import PlanarFlow, targets

from . import problems

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
# name: D, K layers, batches of B, and n1, n2, the epochs of 100 steps between which a step is timed
SIZES = {
    "D=2 K=8 B=1000": (2, 8, 1000, 1, 11),
    "D=2 K=32 B=1000": (2, 32, 1000, 1, 6),
    "D=40 K=10 B=100": (40, 10, 100, 1, 11),
    "D=40 K=80 B=100": (40, 80, 100, 1, 4),
    "D=2 K=32 B=100000": (2, 32, 100_000, 1, 2),
}
SIZES = {"D=3 K=2 B=50": (3, 2, 50, 1, 2)} if SMALL else SIZES
EPOCHS = 2 if SMALL else 200


def towards(target, n_layers, n_features, epochs, **given):
    options = {"max_epochs": epochs, "random_state": 0}
    return PlanarFlow(n_layers, **options, **given).fit_target(target, n_features, dtype=np.float32)


class Step:
    """A step towards the ring in float32, with noise and Adam: (t(n2) - t(n1)) / (n2 - n1), the median of 5, of epochs
    of 100 steps; and the memory of a fit."""

    params, param_names = list(SIZES), ("size",)

    def setup(self, size):
        self.D, self.K, self.B, self.n1, self.n2 = SIZES[size]
        self.seconds(1)  # compiles

    def fit(self, epochs):
        towards(targets.ring, self.K, self.D, epochs, base="fixed", batch_size=self.B)

    def seconds(self, epochs):
        start = time.perf_counter()
        self.fit(epochs)
        return time.perf_counter() - start

    def track_step(self, size):
        taken = [self.seconds(self.n2) - self.seconds(self.n1) for _ in range(5)]
        return statistics.median(taken) / (100 * (self.n2 - self.n1))

    track_step.unit = "s"

    def peakmem_fit(self, size):
        self.fit(1)


class Model:
    """What a user waits for: a fit to two moons, either way, and the answers of a fitted model."""

    params, param_names = ["normalising", "generative"], ("direction",)

    def setup(self, direction):
        rng = np.random.default_rng(0)
        self.X, self.test = problems.moons(5000, rng), problems.moons(100_000, rng)
        self.direction, self.Z = direction, rng.standard_normal((100_000, 2))
        self.model = self.fit()  # compiles
        self.model.inverse_transform(self.model.transform(self.X))

    def fit(self):
        options = {"max_epochs": EPOCHS, "random_state": 0}
        return PlanarFlow(16, direction=self.direction, **options).fit(self.X)

    def time_fit(self, direction):
        self.fit()

    def time_score_samples(self, direction):
        self.model.score_samples(self.test)

    def time_inverse_transform(self, direction):
        self.model.inverse_transform(self.Z)

    def track_score(self, direction):
        return self.model.score(self.test)

    track_score.unit = "nats per row"


def track_gap(target):
    """What the bound of 32 layers lacks to log Z: KL(q || pi/Z)."""
    target = getattr(targets, target)
    return target.log_z - towards(target, 32, 2, EPOCHS).elbo(target, 100_000)


track_gap.params = ["U1", "U2", "U3", "U4"]
track_gap.param_names = ["target"]
track_gap.unit = "nats"
