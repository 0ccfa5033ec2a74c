"""Variational autoencoders: time of training steps, fits and answers, peak memory, and the bound that they reach."""

import os
import statistics
import time

import numpy as np

from lvm import VAE, datasets

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
D, HIDDEN, LATENT = (30, 20, 3) if SMALL else (784, 400, 20)
# name: batches of B, planar layers K, and n1, n2, the epochs of 100 steps between which a step is timed
SIZES = {
    "B=100": (100, 0, 1, 6),
    "B=128": (128, 0, 1, 6),
    "B=1000": (1000, 0, 1, 4),
    "B=100 planar K=10": (100, 10, 1, 4),
}
SIZES = {"B=100": (100, 0, 1, 2), "B=100 planar K=10": (100, 10, 1, 2)} if SMALL else SIZES
EPOCHS = 2 if SMALL else 60


def pixels(n):
    """X (n,D) float32, a fifth of it 1, the rest 0: for the time of a step it does not matter which."""
    return (np.random.default_rng(0).random((n, D), np.float32) < 0.2).astype(np.float32)


class Step:
    """A step of D-HIDDEN-LATENT ReLU units, Bernoulli, with noise and Adam in float32: (t(n2) - t(n1)) / (n2 - n1), the
    median of 5, of epochs of 100 steps; and the memory of a fit."""

    params, param_names = list(SIZES), ("size",)

    def setup(self, size):
        self.B, self.K, self.n1, self.n2 = SIZES[size]
        self.X = pixels(100 * self.B)
        self.seconds(1)  # compiles

    def fit(self, epochs):
        options = {"likelihood": "bernoulli", "batch_size": self.B, "random_state": 0}
        return VAE(LATENT, hidden_layer_sizes=(HIDDEN,), n_flow_layers=self.K, max_epochs=epochs, **options).fit(self.X)

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


class Digits:
    """What a user waits for: a fit to digits, with and without planar layers, and the answers of a fitted model."""

    params, param_names = [0, 10], ("n_flow_layers",)

    def setup(self, n_flow_layers):
        X = np.random.default_rng(0).permutation(datasets.load_digits()).astype(np.float32) / 16
        self.X, self.test, self.K = X[:1200], X[1200:], n_flow_layers
        self.model = self.fit()  # compiles
        self.model.evaluate(self.test, n_importance=2)

    def fit(self):
        options = {"likelihood": "bernoulli", "hidden_layer_sizes": (100,), "random_state": 0}
        return VAE(10, n_flow_layers=self.K, batch_size=100, max_epochs=EPOCHS, **options).fit(self.X)

    def time_fit(self, n_flow_layers):
        self.fit()

    def time_score_samples(self, n_flow_layers):
        self.model.score_samples(self.test)

    def time_transform(self, n_flow_layers):
        self.model.transform(self.test)

    def track_bound(self, n_flow_layers):
        return float(np.mean(self.model.elbo(self.test)))

    track_bound.unit = "nats per row"

    def track_score(self, n_flow_layers):
        return self.model.score(self.test)

    track_score.unit = "nats per row"
