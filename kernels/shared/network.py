"""Bayesian nets: maths of one weight, for both targets."""

from .scalar import log, ratio, shared, sigmoid
from .vae import log_variance

ARD, LOG_UNIFORM, GAUSSIAN = range(3)
PRIORS = ("ard", "log_uniform", "gaussian")
SOFTMAX, LOGISTIC, NORMAL = range(3)
LIKELIHOODS = ("softmax", "logistic", "gaussian")
FIT = K1, K2, K3 = 0.63576, 1.87320, 1.48695  # to the log-uniform prior's KL
TINY = 1e-30  # added to mu² in a logarithm; float32 has it


@shared
def divergence_slopes(mu, rho, S, prior, tau2):
    """Slopes of KL(N(mu, S) || prior) in mu and in t = log S, and that of t in rho; prior a place in PRIORS.

    "ard", N(0, alpha) at the best alpha = mu² + S: KL = log(1 + mu²/S)/2, slopes mu/alpha and -mu²/(2 alpha).
    "log_uniform", p(w) ~ 1/|w|, with r = t - log mu²: KL = k1 - k1 s + log(1 + e^-r)/2, s = sigmoid(k2 + k3 r), the fit
    of Molchanov, Ashukha & Vetrov (2017), eq. 14: beside those of "ard", 2 k1 k3 s (1 - s)/mu and -k1 k3 s (1 - s).
    "gaussian", N(0, tau2): KL = (log tau2 - t + (S + mu²)/tau2 - 1)/2, slopes mu/tau2 and (S/tau2 - 1)/2."""
    T = type(mu)
    t, more = log_variance(rho)
    if prior == GAUSSIAN:
        p = ratio(T(1), tau2)
        return mu * p, T(0.5) * (S * p - T(1)), more
    square = mu * mu
    g = ratio(mu, square + S)
    h = T(-0.5) * mu * g
    if prior == LOG_UNIFORM:
        z = T(K2) + T(K3) * (t - log(square + T(TINY)))
        fall = T(K1 * K3) * sigmoid(z) * sigmoid(-z)
        h -= fall
        g += ratio(T(2) * fall * mu, square + T(TINY))
    return g, h, more
