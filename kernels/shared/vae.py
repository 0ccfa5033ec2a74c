"""Variational autoencoders: maths of one number, for both targets."""

from .scalar import exp, ratio, shared, sigmoid, tanh

LARGEST = 20.0  # |log variance| is bounded by it, smoothly
ANALYTIC, MONTE_CARLO, ENTROPY = range(3)  # how the bound has its KL
KLS = ("analytic", "monte_carlo", "entropy")
BERNOULLI, ISOTROPIC, DIAGONAL, NETWORK, SQUARED = range(5)  # what the decoder's output is for
LIKELIHOODS = ("bernoulli", "isotropic", "diagonal", "network", "squared")
BINARIZE = (None, "dynamic", "threshold")
DYNAMIC, THRESHOLD = 1, 2  # places in it


@shared
def log_variance(r):
    """t = c tanh(r/c), the log-variance that r stands for, and its slope; c = LARGEST."""
    T = type(r)
    y = tanh(r * T(1 / LARGEST))
    return T(LARGEST) * y, (T(1) - y) * (T(1) + y)


@shared
def warmed(step, warm):
    """The weight of the KL, min(1, step/warm); 1 with warm = 0."""
    return type(step)(1) if step >= warm else ratio(step, warm)


@shared
def shares(c, whole, kl, path, beta):
    """What the decoder's slopes in z count, what log p(z) and log q do in those of z, and in those of t (`sample_back`
    of kernels/cpu/vae.py; of the analytic KL, what that does)."""
    T = type(c)
    share = T(1) - beta * (T(1) - ratio(c, whole)) if path else T(1)
    weight = T(0) if kl == ANALYTIC else beta * c * share
    return share, weight, beta * c if kl == ANALYTIC else T(0) if path else weight


@shared
def bernoulli(a, x):
    """g = 1 + e^-|a|; l with -log Bern(x | sigmoid(a)) = l + log g; and its slope in a, sigmoid(a) - x.

    As `bernoulli_nll`, for those who take one log of a product of many g."""
    T = type(a)
    e = exp(-abs(a))
    g = T(1) + e
    c = e * ratio(T(1), g)
    b = (T(1) if a >= T(0) else T(0)) - x
    return g, a * b, b - c if a >= T(0) else b + c


@shared
def gaussian(x, m, t, p):
    """-(t + (x - m)² p)/2, log N(x | m, e^t) but for its constant, and its slopes (x - m) p in m, ((x - m)² p - 1)/2 in
    t; p = e^-t."""
    T = type(x)
    e = (x - m) * p
    y = e * (x - m)
    return T(-0.5) * (t + y), e, T(0.5) * (y - T(1))


@shared
def mean_of(a, squashed):
    """m of the decoder's output a, and its slope: a and 1, or s = sigmoid(a) and s sigmoid(-a), exact at either end."""
    T = type(a)
    m = sigmoid(a)
    return (m, m * sigmoid(-a)) if squashed else (a, T(1))
