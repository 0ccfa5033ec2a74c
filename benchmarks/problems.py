"""The data and starts that benchmarks share: the asv files here and peers/."""

import numpy as np

# name: N, D, K, and n1, n2, the steps between which an EM iteration is timed
MIXTURES = {
    "1000x2 K=3": (1000, 2, 3, 10, 210),
    "100000x2 K=5": (100_000, 2, 5, 2, 22),
    "100000x16 K=10": (100_000, 16, 10, 2, 12),
    "100000x32 K=16": (100_000, 32, 16, 1, 5),
    "20000x64 K=10": (20_000, 64, 10, 1, 7),
}
SMALL = {"300x3 K=2": (300, 3, 2, 2, 6)}


def mixture(N, D, K, dtype="float64", covariance_type="full"):
    """X (N,D) from K overlapping Gaussians, so that EM is far from done after some hundred steps, and a start:
    weights (K,), means (K,D) that are rows of X, and precisions as scikit-learn has them for this covariance type."""
    rng = np.random.default_rng(0)
    centres, spread = rng.normal(scale=0.3, size=(K, D)), rng.normal(scale=0.3, size=(K, D, D)) / D**0.5
    X = np.concatenate(
        [
            c + rng.normal(size=(N * (k + 1) // K - N * k // K, D)) @ (np.eye(D) + S) / 2**0.5
            for k, (c, S) in enumerate(zip(centres, spread))
        ]
    )
    rng.shuffle(X)
    Q = 1 / X.var(axis=0)
    precisions = {
        "full": np.repeat(np.diag(Q)[None], K, axis=0),
        "tied": np.diag(Q),
        "diag": np.repeat(Q[None], K, axis=0),
        "spherical": np.full(K, Q.mean()),
    }[covariance_type]
    return X.astype(dtype), {"weights_init": np.full(K, 1 / K), "means_init": X[:K], "precisions_init": precisions}


# name: N, D, d, the part of the cells that is missing, and n1, n2 as above
LINEAR = {
    "100000x100 d=10": (100_000, 100, 10, 0.0, 10, 1010),
    "10000x50 d=5, 20 % gaps": (10_000, 50, 5, 0.2, 2, 22),
    "20000x500 d=10": (20_000, 500, 10, 0.0, 2, 42),
    "500x20000 d=20": (500, 20_000, 20, 0.0, 2, 12),
}
SMALL_LINEAR = {"300x6 d=2": (300, 6, 2, 0.0, 2, 22), "300x6 d=2, 20 % gaps": (300, 6, 2, 0.2, 2, 6)}


def linear(N, D, d, missing=0.0, dtype="float64"):
    """X (N,D) = mean + W z + noise, with d axes that stand out of the noise, which differs between columns, and NaN in
    that part of the cells."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(D, d)) * np.linspace(1, 0.5, d)
    X = rng.normal(size=(N, D)) * rng.uniform(0.7, 1.3, size=D)
    X += rng.normal(size=D)
    X += rng.normal(size=(N, d)) @ W.T
    if missing:
        X[rng.random(X.shape) < missing] = np.nan
    return X.astype(dtype, copy=False)


# N, D of logistic regression, and of kernel machines N
LOGISTIC = {"100000x100": (100_000, 100)}
SMALL_LOGISTIC = {"2000x20": (2000, 20)}
BANANA, SMALL_BANANA = [400, 2000], [100]


def logistic(N, D, dtype="float64"):
    """X (N,D), y (N,) of 0 and 1: one column in five has a weight, and one label in six is not the likelier."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, D), dtype="float32").astype(dtype, copy=False)
    w = np.zeros(D)
    w[::5] = rng.normal(size=len(w[::5]))
    f = 3 * (X @ (w / np.linalg.norm(w)).astype(dtype)) + 0.5
    return X, (rng.random(N) < 1 / (1 + np.exp(-f))).astype(int)


def banana(N, seed=0):
    """X (N,2) of about unit variance, y (N,) of 0 and 1: two crescents, one in the mouth of the other. The best
    classifier is wrong in some ten percent."""
    rng = np.random.default_rng(seed)
    y, turn = rng.integers(2, size=N), rng.uniform(0, np.pi, size=N)
    X = np.column_stack([np.cos(turn), np.sin(turn)])
    X = np.where(y[:, None] == 0, X, [1, 0.5] - X) + 0.33 * rng.normal(size=(N, 2))
    return (X - [0.5, 0.25]) / [0.93, 0.59], y


def sinc(N):
    """x (N,1), y (N,) = sin(x)/x + noise of standard deviation 0.1 (Tipping 2001)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-10, 10, size=(N, 1))
    return x, np.sinc(x[:, 0] / np.pi) + 0.1 * rng.normal(size=N)


def moons(N, rng):
    """X (N,2): two half circles, one in the mouth of the other, with noise of standard deviation 0.1."""
    turn, second = rng.uniform(0, np.pi, N), rng.integers(2, size=(N, 1))
    first = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.where(second, [1, 0.5] - first, first) + 0.1 * rng.normal(size=(N, 2))
