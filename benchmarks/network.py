"""Bayesian nets: time of training steps, fits and answers, of the small nets that they export, peak memory, and the
accuracy and the weights that are left."""

import os
import statistics
import time

import numpy as np

from lvm import BayesianMLPClassifier, datasets

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
D, HIDDEN, K = (30, (20, 10), 3) if SMALL else (784, (300, 100), 10)
# name: batches of B, and n1, n2, the epochs of 100 steps between which a step is timed
SIZES = {"B=100": (100, 1, 2)} if SMALL else {"B=100": (100, 1, 6), "B=1000": (1000, 1, 4)}
EPOCHS = 2 if SMALL else 30
LEFT = 0.011, 0.028, 0.38  # of the weights of each layer


def rows(n):
    """X (n,D) float32, a fifth of it 1, the rest 0, and labels y (n,): for the time of a step any will do."""
    rng = np.random.default_rng(0)
    return (rng.random((n, D), np.float32) < 0.2).astype(np.float32), rng.permutation(np.arange(n) % K)


class Step:
    """A step of D-HIDDEN-K ReLU units with noise, KL and Adam in float32: (t(n2) - t(n1)) / (n2 - n1), the median of 5,
    of epochs of 100 steps; and the memory of a fit."""

    params, param_names = list(SIZES), ("size",)

    def setup(self, size):
        self.B, self.n1, self.n2 = SIZES[size]
        self.X, self.y = rows(100 * self.B)
        self.seconds(1)  # compiles

    def fit(self, epochs):
        options = {"hidden_layer_sizes": HIDDEN, "batch_size": self.B, "random_state": 0}
        return BayesianMLPClassifier(max_epochs=epochs, **options).fit(self.X, self.y)

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
    """What a user waits for: a fit to digits and the answers of a fitted net, with what it is worth pruned."""

    params, param_names = ["ard", "log_uniform"], ("prior",)

    def setup(self, prior):
        X, y = datasets.load_digits(return_y=True)
        order = np.random.default_rng(0).permutation(len(X))
        X, y = X[order].astype(np.float32), y[order]
        self.X, self.y, self.test, self.truth = X[:1200], y[:1200], X[1200:], y[1200:]
        self.net = self.fit(prior).prune()  # compiles
        self.net.predict_proba(self.test)

    def fit(self, prior):
        options = {"prior": prior, "learning_rate": 0.01, "max_epochs": EPOCHS, "random_state": 0}
        return BayesianMLPClassifier(hidden_layer_sizes=(100,), **options).fit(self.X, self.y)

    def time_fit(self, prior):
        self.fit(prior)

    def time_predict_proba(self, prior):
        self.net.predict_proba(self.test)

    def time_predict_proba_of_the_mean(self, prior):
        self.net.predict_proba(self.test, n_samples=0)

    def track_accuracy(self, prior):
        return self.net.score(self.test, self.truth)

    def track_weights_left(self, prior):
        return self.net.n_weights_

    track_weights_left.unit = "weights"


class Export:
    """A net of D-HIDDEN-K units exported whole, and with as few weights of each layer, here at random, as Molchanov,
    Ashukha & Vetrov (2017) have left of MNIST; one row at a time, and 1000."""

    params, param_names = (["whole", "pruned"], [1, 1000]), ("net", "rows")

    def setup(self, which, n):
        X, y = rows(1000)
        start = {"learning_rate": 1e-9, "max_epochs": 1, "random_state": 0}  # weights as they begin
        net = BayesianMLPClassifier(hidden_layer_sizes=HIDDEN, **start).fit(X, y)
        if which == "pruned":
            rng = np.random.default_rng(0)
            for l, part in enumerate(LEFT):
                rho = net.weights_[f"rho_{l}"]
                rho[:-1][rng.random(rho[:-1].shape) > part] = 100.0  # log S = 20: pruned
            net.prune()
        self.net, self.X, self.small = net, X[:n], net.export()

    def time_predict(self, which, n):
        self.small.predict(self.X)

    def track_weights(self, which, n):
        return self.small.n_weights

    track_weights.unit = "weights"

    def track_error(self, which, n):
        """The largest difference from the probabilities of the net's own mean weights."""
        own = self.net.predict_proba(self.X, n_samples=0)
        return float(abs(self.small.predict_proba(self.X) - own).max())
