"""Estimates of log Z, the evidence: what a density pi that is known up to its constant integrates to.

With samples x_s ~ q and log weights log w_s = log pi(x_s) - log q(x_s), E_q[w] = Z for any q that covers pi, and
    elbo = E_q[log w] = log Z - KL(q || pi/Z) <= log Z,
so the mean of w gives log Z itself, and the mean of log w a bound whose distance from it says how far q is from pi.
"""

import math
from typing import NamedTuple

import numpy as np


class Evidence(NamedTuple):
    """What importance weights say of log Z, in nats. `print` shows it in words, with a warning where it is not to be
    trusted.

    elbo : mean of log w, a lower bound on log Z in the mean; -inf when any weight is zero.
    elbo_error : its standard error; NaN when any weight is zero.
    log_z : log of the mean of w, never below elbo. The mean is unbiased, so its log is low by about log_z_error²/2.
    log_z_error : its standard error by the delta method, sd(w) / (mean(w) sqrt(S)), as log(Z + e) = log Z + e/Z + ...
        Where the weights have no variance (a tail of k >= 1/2) a sample still has one, by far too small: k_hat tells.
    ess : effective sample size (sum w)² / sum w² (Kong 1992), from 1 to n_samples; 0 when all weights are zero. It
        knows only the weights that were seen, and has the same blind spot.
    k_hat : shape of the generalized Pareto distribution of the largest weights (`pareto_k`): w has moments below 1/k.
        Above min(1 - 1/log10(S), 0.7) nothing here is to be trusted but the elbo (Vehtari et al. 2024, eq. 13). NaN
        where the tail has fewer than five weights above zero, as that of fewer than 25 samples.
    n_samples : S
    """

    elbo: float
    elbo_error: float
    log_z: float
    log_z_error: float
    ess: float
    k_hat: float
    n_samples: int

    def __str__(self):
        lines = [
            f"log Z  {self.log_z:.7g} ± {self.log_z_error:.1g} nats, by importance weights of {self.n_samples} samples",
            f"ELBO   {self.elbo:.7g} ± {self.elbo_error:.1g} nats, a lower bound",
            f"ESS    {self.ess:.1f} ({self.ess / self.n_samples:.1%} of the samples)",
            f"k-hat  {self.k_hat:.3g}",
        ]
        enough = 1 - 1 / math.log10(self.n_samples)
        if self.ess == 0:
            lines.append("Every weight is zero: no sample of q fell where the target is above zero.")
        elif math.isnan(self.k_hat):
            lines.append(
                "Warning: too few weights for k-hat, so nothing tells whether log Z and its error can be trusted. Try "
                "more samples."
            )
        elif self.k_hat > 0.7:
            lines.append(
                "Warning: k-hat is above 0.7. A few large weights decide, log Z is likely too low and its error too "
                "small, and more samples hardly help. Try a q that is closer to the target and has wider tails."
            )
        elif self.k_hat > enough:
            lines.append(
                f"Warning: k-hat is above {enough:.2f}, the most for so few samples. Log Z is likely too low and its "
                f"error too small. Try {math.ceil(10 ** (1 / (1 - self.k_hat)))} samples or more."
            )
        return "\n".join(lines)


def importance(log_w) -> Evidence:
    """Evidence from the log weights log_w (S,) = log pi(x_s) - log q(x_s) of samples x_s ~ q.

    -inf is a weight of zero: the target is zero there. ValueError for NaN, for inf, and below two samples.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal(10_000)  # q = N(0, 1), pi = exp(-(x - 1)²/2): Z = sqrt(2 pi)
    >>> found = importance(-((x - 1) ** 2) / 2 + x**2 / 2 + np.log(2 * np.pi) / 2)
    >>> bool(abs(found.log_z - np.log(2 * np.pi) / 2) < 4 * found.log_z_error)
    True
    """
    log_w = _checked(log_w)
    S, top = len(log_w), float(log_w.max())
    if top == -np.inf:
        return Evidence(-np.inf, np.nan, -np.inf, np.nan, 0.0, np.nan, S)
    with np.errstate(over="ignore"):  # of differences: a weight may lie further below the top one than any float
        w = np.exp(log_w - top)
        elbo = float((log_w / S).sum())
        elbo_error = _standard_error(log_w, elbo) if elbo > -np.inf else np.nan
    mean = float(w.mean())
    log_z, ess = top + math.log(mean), S * mean**2 / float((w**2).mean())
    return Evidence(elbo, elbo_error, log_z, _standard_error(w, mean) / mean, ess, pareto_k(log_w), S)


def pareto_k(log_w) -> float:
    """k_hat of the weights' tail: the min(S/5, 3 sqrt(S)) largest, over the largest weight below them.

    The excesses x_1 <= ... <= x_n have about a generalized Pareto density, (1 + k x/sigma)^(-1/k - 1) / sigma. With
    theta = -k/sigma the likelihood is highest at k(theta) = mean log(1 - theta x_i), where it is
        l(theta) = n [log(-theta/k) - k - 1].
    theta is its mean under exp(l) over m = 30 + floor(sqrt n) quantiles of a prior (x* is the first quartile of x),
        theta_j = 1/x_n + (1 - sqrt(m / (j - 1/2))) / (3 x*),
    and k(theta) is drawn to 1/2 as by ten more weights. Zhang & Stephens 2009 (their k is -k), section 4; Vehtari,
    Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling. log_w (S,) as in `importance`.

    >>> import numpy as np
    >>> u = (np.arange(100_000) + 0.5) / 100_000
    >>> round(pareto_k(-0.3 * np.log(u)), 1)  # P(w > t) = t^(-1/0.3)
    0.3
    """
    log_w = _checked(log_w)
    S = len(log_w)
    size = min(S // 5, int(3 * math.sqrt(S)))
    tail = np.sort(np.partition(log_w, S - size - 1)[S - size :])
    tail = tail[tail > -np.inf]
    n = len(tail)
    if n < 5:
        return math.nan
    cutoff = np.max(log_w, initial=-np.inf, where=log_w < tail[0])
    middle = int(n / 4 + 0.5) - 1
    with np.errstate(over="ignore"):  # as in `importance`
        y = np.log(-np.expm1(cutoff - tail)) + (tail - tail[middle])
    y -= y[middle]  # log(x / x*): the heaviest tails have no room among floats

    m = 30 + math.isqrt(n)
    theta = np.exp(-y[-1]) + (1 - np.sqrt(m / (np.arange(m) + 0.5))) / 3  # in units of 1/x*
    theta[theta == 0] = 1e-100  # the exponential distribution, of which the formulas know the limit only
    x, far = np.exp(np.minimum(y, 600)), np.clip(y - 600, 0, 1e300).mean()  # beyond e^600, log1p is as good as log
    k = lambda theta: np.log1p(-np.multiply.outer(theta, x)).mean(-1) + far
    k_theta = k(theta)
    l = n * (np.log(-theta / k_theta) - k_theta - 1)
    p = np.exp(l - l.max())
    return float(n * k(p @ theta / p.sum()) + 10 * 0.5) / (n + 10)


def _standard_error(x, mean):
    """Of the mean of x (S,)."""
    return math.sqrt(float(((x - mean) ** 2).mean()) / (len(x) - 1))


def _checked(log_w):
    """log_w as an array (S,) of float64 with S >= 2, without NaN and inf."""
    log_w = np.asarray(log_w, dtype=float)
    if log_w.ndim != 1 or len(log_w) < 2:
        raise ValueError(f"log_w must be the log weights (S,) of two samples or more, got shape {log_w.shape}.")
    bad = ~(log_w < np.inf)
    if bad.any():
        s = int(bad.argmax())
        raise ValueError(
            f"A log weight must be finite, or -inf where the target is zero, got {log_w[s]} at sample {s} and "
            f"{bad.sum()} such of {len(log_w)} in all. Look at the log-densities of the target and of q there."
        )
    return log_w
