"""The decoder of a VAE in NumPy, float64, with slopes in z: for chains that move z while the weights rest.

Apart from objectives/vae.py, whose kernels write slopes over what a second one would need, in weights above all.
Forward, top down, and back, bottom up, f the activation, * by elements:

    H_i = f(H_i-1 W_i + b_i),   H_0 = Z        delta_i-1 = (delta_i * f'(H_i)) W_i'
    A = H W + b, log p(x|z): `log_px`          delta = dA W', dA = dlog p(x|z)/dA

Letters: M points z, D columns of x, d of z, Q of the output A.
"""

import math
from collections.abc import Callable

import numpy as np

LOG_2PI = math.log(2 * math.pi)

# f of A, and its slope by h = f(A)
FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (lambda A: np.maximum(A, 0), lambda h: (h > 0).astype(float)),
    "leaky_relu": (lambda A: np.maximum(A, 0.01 * A), lambda h: np.where(h < 0, 0.01, 1.0)),
    "tanh": (np.tanh, lambda h: (1 - h) * (1 + h)),
    "softplus": (lambda A: np.logaddexp(0, A), lambda h: -np.expm1(-h)),
}


def decode(a, theta, Z):
    """Layers [H_1, ...] and the output A (M,Q) for Z (M,d); a: an Architecture, theta {name: array}."""
    f, layers, H = FUNCTIONS[a.activation][0], [], Z
    for i in range(len(a.decoder)):
        H = f(H @ theta[f"decoder_{i}"] + theta[f"decoder_bias_{i}"])
        layers.append(H)
    return layers, H @ theta["output"] + theta["output_bias"]


def decode_back(a, theta, layers, dA):
    """dZ (M,d) of dA (M,Q)."""
    slope, delta = FUNCTIONS[a.activation][1], dA @ theta["output"].T
    for i in range(len(a.decoder) - 1, -1, -1):
        delta = (delta * slope(layers[i])) @ theta[f"decoder_{i}"].T
    return delta


def moments(a, theta, c, A):
    """m and t (M,D), p(x|z) = N(m, e^t) by columns, of outputs A (M,Q); c bounds log-variances. Of Bernoulli m alone.

    m = a, or where it is squashed, and of Bernoulli, sigmoid(a); t = c tanh(r/c), r the parameter rho, or of a
    "network" the columns of A from D on."""
    m, D = A[:, : a.n_features], a.n_features
    if a.likelihood == "bernoulli" or a.squashed:
        m = 0.5 + 0.5 * np.tanh(0.5 * m)
    if a.likelihood == "bernoulli":
        return m, None
    return m, c * np.tanh((A[:, D:] if a.likelihood == "network" else theta["rho"]) / c)


def log_px(a, theta, c, A, x):
    """log p(x|z) (M,), and its slope dA (M,Q), for outputs A (M,Q) of the rows x (M,D).

    Bernoulli:  sum x a - log(1 + e^a),                              slope x - m
    Gaussian:   -sum (log 2 pi + t + e² e^-t)/2,  e = x - m,         slopes e e^-t in m, (e² e^-t - 1)/2 in t;
                and where it is so, dm/da = m (1 - m), dt/dr = 1 - (t/c)²"""
    m, t = moments(a, theta, c, A)
    if t is None:
        return (x * A - np.maximum(A, 0) - np.log1p(np.exp(-np.abs(A)))).sum(axis=1), x - m
    p, e = np.exp(-t), x - m
    dm, y = e * p, e * e * p
    log_p = -0.5 * (LOG_2PI + t + y).sum(axis=1)
    if a.squashed:
        dm *= m * (1 - m)
    if a.likelihood == "network":
        return log_p, np.concatenate([dm, 0.5 * (y - 1) * (1 - (t / c) ** 2)], axis=1)
    return log_p, dm


class Joint:
    """log p(x_n, z) = log p(x_n|z) + log N(z | 0, I) + constant, of rows x (N,D) as the encoder wants them.

    joint(z (M,d), rows (M,)) gives it (M,), n = rows[m], and its slope in z (M,d). c: see `moments`."""

    def __init__(self, a, theta, c, x, constant):
        self.a, self.theta, self.c, self.x, self.constant = a, theta, c, x, constant

    def __call__(self, z, rows):
        layers, A = decode(self.a, self.theta, z)
        log_p, dA = log_px(self.a, self.theta, self.c, A, self.x[rows])
        log_p += self.constant - 0.5 * ((z * z).sum(axis=1) + z.shape[1] * LOG_2PI)
        return log_p, decode_back(self.a, self.theta, layers, dA) - z

    def draw(self, z, rng):
        """x (M,D) ~ p(x|z)."""
        m, t = moments(self.a, self.theta, self.c, decode(self.a, self.theta, z)[1])
        if t is None:
            return (rng.random(m.shape) < m).astype(float)
        return m + np.exp(0.5 * t) * rng.standard_normal(m.shape)

    def linear(self):
        """log p(x) (N,), exact, of a linear decoder with Gaussian noise: N(x | b, W'W + Psi), Psi = diag e^t, W (d,D).

        With LL' = I + W Psi^-1 W', e = x - b (Woodbury, and Sylvester's determinant) less the constant:
        -(D log 2 pi + sum t + 2 sum log L_ii + e'Psi^-1 e - |L^-1 W Psi^-1 e|²)/2.   Tipping & Bishop 1999"""
        W, e = self.theta["output"], self.x - self.theta["output_bias"]
        t = np.broadcast_to(self.c * np.tanh(self.theta["rho"] / self.c), e.shape[1:])
        scaled = W * np.exp(-t)
        L = np.linalg.cholesky(np.eye(len(W)) + scaled @ W.T)
        u = np.linalg.solve(L, scaled @ e.T)
        log_det = t.sum() + 2 * np.log(np.diag(L)).sum()
        square = (e * e * np.exp(-t)).sum(axis=1) - (u * u).sum(axis=0)
        return self.constant - 0.5 * (len(t) * LOG_2PI + log_det + square)
