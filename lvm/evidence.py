"""Estimates of log Z, the evidence: what a density pi that is known up to its constant integrates to.

With samples x_s ~ q and log weights log w_s = log pi(x_s) - log q(x_s), E_q[w] = Z for any q that covers pi, and
    elbo = E_q[log w] = log Z - KL(q || pi/Z) <= log Z,
so the mean of w gives log Z itself, and the mean of log w a bound whose distance from it says how far q is from pi.

    importance             of log weights that are there already
    naive_monte_carlo      q is the prior: log w = log p(x|z)
    sampled                any q of lvm.distributions
    bounds                 E log 1/k sum_i w_i, between the elbo and log Z
    annealed               q is a chain on its way from the prior to the posterior, by Hamiltonian moves; and back
    report, simulated      of a fitted model of lvm

A user's model is a function: log_joint(z (M,D)) gives log p(x,z) (M,), and where a slope is needed the tuple of it and
its gradient (M,D), by NumPy or by numba.njit. lvm.gradients.check_gradient(log_joint, z) tells whether that is right.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .estimator import NumericalError, check_bool, check_int, check_random_state, check_verbose
from .objectives.vae import log_mean

BLOCK = 4096  # samples that a user's function gets at a time
PILOT = 16  # chains that the steps of annealed chains are fitted to
WANTED, GAIN = 0.8, 0.5  # part of the moves to accept; log of the step's change by what there is more or less of it
FIRST = 30  # moves at the first temperature that look for a step to begin with
MOVES = 2  # of the pilot, at each of its temperatures
STRIDE, LEAST = 0.5, 0.05  # from one to the next: standard deviation of log w, and part of beta where that is more
TINY = 1e-9  # nats, a spread that is none


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


# ------------------------------------------------------------------------------------------------- a user's own model
def naive_monte_carlo(log_likelihood, prior, n_samples=100_000, *, random_state=None) -> Evidence:
    """log p(x) = log E[p(x|z)] by samples z ~ prior, all of which weigh what their likelihood is.

    Right in the mean, and hopeless where the posterior is much narrower than the prior: in D dimensions a sample falls
    into it with a probability that shrinks as (its width/the prior's)^D, and until one does, log_z is far too low, and
    its error far too small. An ess of a few and a k_hat above 0.7 tell.

    log_likelihood : function
        log p(x|z) (M,) at z (M,D).
    prior : of lvm.distributions
    n_samples : int, default 100000

    >>> import numpy as np
    >>> from lvm.distributions import Normal
    >>> prior = Normal([0.0, 0.0], 1.0)
    >>> likelihood = lambda z: -0.5 * ((1 - z) ** 2).sum(1) - np.log(2 * np.pi)  # x = (1, 1) = z + noise
    >>> found = naive_monte_carlo(likelihood, prior, random_state=0)
    >>> bool(abs(found.log_z - (-0.5 - np.log(4 * np.pi))) < 4 * found.log_z_error)
    True
    """
    z_and_l = _draws("log_likelihood", log_likelihood, prior, n_samples, random_state, "naive_monte_carlo")
    return importance(np.concatenate([l for _, l in z_and_l]))


def sampled(log_joint, q, n_samples=100_000, *, random_state=None) -> Evidence:
    """The ELBO E_q[log p(x,z) - log q(z)], and log p(x) by importance weights, of samples from q.

    log_joint : function
        log p(x,z) (M,) at z (M,D), or a tuple that begins with it.
    q : of lvm.distributions
    n_samples : int, default 100000
    """
    return importance(_log_weights(log_joint, q, n_samples, random_state, "sampled"))


class Bounds(NamedTuple):
    """Importance-weighted bounds L_k = E log 1/k sum_i w_i, in nats: L_1, the ELBO, <= ... <= L_k <= log Z.

    k : numbers of samples that share a bound
    bound, error : arrays, L_k of each and its standard error; NaN where any sum of k weights is zero
    n_samples : of all, in groups of k
    """

    k: tuple[int, ...]
    bound: np.ndarray
    error: np.ndarray
    n_samples: int

    def __str__(self):
        rows = [f"{k:7}  {b:.7g} ± {e:.1g}" for k, b, e in zip(self.k, self.bound, self.error)]
        return "\n".join([f"      k  L_k, a lower bound on log Z in nats, by {self.n_samples} samples", *rows])


def bounds(log_joint, q, k=(1, 10, 100, 1000), n_samples=100_000, *, random_state=None) -> Bounds:
    """L_k = E log 1/k sum_i w_i of z_i ~ q, w = p(x,z)/q(z), for each k: it rises with k, from the ELBO to log p(x).

    By disjoint groups of the same samples. Burda, Grosse & Salakhutdinov 2016, theorem 1. Arguments as of `sampled`;
    k : sequence of int, of which n_samples has at least two groups each.
    """
    n = check_int("n_samples", n_samples, 2, who="bounds")
    ks = tuple(check_int("k", one, 1, who="bounds") for one in np.atleast_1d(k).tolist())
    if not ks or max(ks) > n // 2:
        raise ValueError(
            f"k must be numbers of which n_samples={n} has two groups each or more, got {ks}. Try n_samples="
            f"{2 * max(ks, default=1)} or more."
        )
    log_w, bound, error = _log_weights(log_joint, q, n, random_state, "bounds"), np.empty(len(ks)), np.empty(len(ks))
    _checked(log_w)
    for i, one in enumerate(ks):
        groups = log_mean(log_w[: n // one * one].reshape(-1, one))
        bound[i] = groups.mean()
        error[i] = _standard_error(groups, bound[i]) if bound[i] > -np.inf else np.nan
    return Bounds(ks, bound, error, n)


def _log_weights(log_joint, q, n_samples, random_state, who):
    """log p(x,z) - log q(z) (S,) of samples z ~ q."""
    z_and_l = _draws("log_joint", log_joint, q, n_samples, random_state, who)
    return np.concatenate([l - q.log_prob(z) for z, l in z_and_l])


def _draws(name, f, q, n_samples, random_state, who):
    """Samples z (B,D) from q, some at a time, and the log-density f (B,) there."""
    n, rng, done = check_int("n_samples", n_samples, 2, who=who), check_random_state(random_state), 0
    if not callable(f):
        raise TypeError(f"{name} must be callable, log_p = {name}(z), got {type(f).__name__}.")
    _check_distribution("prior" if name == "log_likelihood" else "q", q)
    while done < n:
        z = q.sample(min(BLOCK, n - done), random_state=rng)
        got = f(z)
        l = np.asarray(got[0] if isinstance(got, tuple) else got, dtype=float)
        if l.shape != z.shape[:1]:
            raise ValueError(
                f"{name} must give log p of the shape {z.shape[:1]} for z of the shape {z.shape}, got {l.shape}."
            )
        bad = ~(l < np.inf)
        if bad.any():
            s = int(bad.argmax())
            raise NumericalError(
                f"{name} must give finite numbers, or -inf where the density is zero, got {l[s]} at sample {done + s}, "
                f"z = {_shown(z[s])}."
            )
        yield z, l
        done += len(z)


# ----------------------------------------------------------------------------------- annealed importance sampling
class Annealed(NamedTuple):
    """What annealed chains say of log Z, in nats: numbers, or of N problems arrays (N,).

    log_z, log_z_error : log of the mean of w over the chains, a lower bound in the mean; its standard error by the
        delta method, which knows only the weights that were seen: see `Evidence`
    lower, lower_error : the mean of log w, a lower bound in the mean that is never above log_z; its standard error
    upper, upper_error : -log of the mean of 1/w over chains that went backwards from a sample of the posterior, an
        upper bound in the mean; its standard error by the delta method, as far as it is given this one sample. NaN
        without `posterior`.
    ess, k_hat : of the weights of the chains, from 1 to n_chains, and as of `Evidence` (25 chains or more, or NaN)
    acceptance : (n_temperatures - 1,) or (N, n_temperatures - 1), part of the moves that were accepted at each
        temperature between the ends, by their probabilities
    n_chains, n_temperatures
    """

    log_z: Any
    log_z_error: Any
    lower: Any
    lower_error: Any
    upper: Any
    upper_error: Any
    ess: Any
    k_hat: Any
    acceptance: np.ndarray
    n_chains: int
    n_temperatures: int

    @property
    def gap(self) -> Any:
        """upper - log_z: how far log Z is known, in the mean. NaN without `posterior`."""
        return self.upper - self.log_z

    def __str__(self):
        N, rows = np.size(self.log_z), np.ndim(self.log_z) > 0
        total = lambda x: float(np.sum(x))
        error = lambda x: math.sqrt(total(np.square(x)))
        each = lambda x: f" in all, {total(x) / N:.7g} a row" if rows else ""
        chains = f"{self.n_chains} chains{' a row' if rows else ''}"
        lines = [
            f"log Z  {total(self.log_z):.7g} ± {error(self.log_z_error):.1g} nats{each(self.log_z)}, by {chains}",
            f"lower  {total(self.lower):.7g} ± {error(self.lower_error):.1g} nats{each(self.lower)}, the mean of log w",
        ]
        if np.isfinite(self.upper).all():
            lines.append(
                f"upper  {total(self.upper):.7g} ± {error(self.upper_error):.1g} nats{each(self.upper)}, backwards "
                f"from one sample: log Z is enclosed within {np.max(self.gap):.3g}"
                f"{' or less in each row' if rows else ''}"
            )
        worst = " in the worst row" if rows else ""
        lines.append(f"ESS    {np.min(self.ess):.1f} ({np.min(self.ess) / self.n_chains:.1%} of the chains){worst}")
        if not np.isnan(self.k_hat).all():
            lines.append(f"k-hat  {np.nanmax(self.k_hat):.3g}{worst}")
        if self.acceptance.size:
            lines.append(
                f"moves  {self.acceptance.mean():.0%} accepted, at each of {self.n_temperatures - 1} temperatures "
                f"{self.acceptance.min():.0%} or more"
            )
        if np.nanmax(self.k_hat, initial=-np.inf) > 0.7 or np.min(self.ess) < 2:
            lines.append(
                "Warning: a few chains decide, and log Z is likely too low. Try more temperatures, or a start that is "
                "nearer to the posterior."
            )
        return "\n".join(lines)


def annealed(
    log_joint,
    start,
    n_chains=64,
    n_temperatures=3000,
    n_leapfrog=3,
    *,
    n_rows=None,
    posterior=None,
    random_state=None,
    verbose=0,
) -> Annealed:
    """log Z = log p(x) by annealed importance sampling, with Hamiltonian moves of step sizes fitted beforehand.

    A chain begins with z_0 ~ start and goes along log p_t = (1 - beta_t) log start(z) + beta_t log p(x,z), by a move to
    z_t that leaves p_t as it is, for t = 1 .. T-1, while beta_t rises from 0 to beta_T = 1. Its weight
        log w = sum_t (beta_t - beta_t-1) [log p(x, z_t-1) - log start(z_t-1)],   E[w] = Z
    (Neal 2001) varies the less the more temperatures there are. From a sample of the posterior a chain can go
    backwards; of those E[1/w] = 1/Z, so that -log mean 1/w is an upper bound in the mean as log mean w is a lower one
    (Grosse, Ghahramani & Adams 2015). Such a sample one has of data that were simulated from the model.

    A move is some leapfrog steps, in units of start's quartiles, and their acceptance (Neal 2011). Other chains, 16 a
    row, go first: to their acceptance, 0.8, the steps are fitted, and to what their log p(x,z) - log start(z) spreads
    by, s(beta), the temperatures, each of which has an equal part of the integral of s: where the chains keep up, log w
    then varies least (Gelman & Meng 1998). All of that is frozen before the chains that count begin, or E[w] would not
    be Z. (One schedule for all models, as the sigmoidal one of Wu, Burda, Salakhutdinov & Grosse 2017, is too coarse
    near 0 where the likelihood is sharp: of 100 columns and 10 latent ones, noise 0.3, its mean log w at 300
    temperatures was 10.6 nats low, and this 2.0.)

    Parameters
    ----------
    log_joint : function
        A tuple of log p(x,z) (M,) and its gradient (M,D) at z (M,D), by NumPy or numba.njit; -inf is a density of zero.
        With n_rows it is called log_joint(z, rows), rows (M,) int64 telling which row of data a point belongs to. A
        gradient that is wrong makes no error: moves are rejected, steps become tiny, and w varies more than it had to.
        lvm.gradients.check_gradient(log_joint, z) tells.
    start : of lvm.distributions, or any that has n_features, sample(n, random_state=), log_prob, log_prob_gradients
        The prior, or a q that was fitted. Where it is zero the posterior must be.
    n_chains : int, default 64
        For each row.
    n_temperatures : int, default 3000
        T: 1 is plain importance sampling. They count for more than long moves do.
    n_leapfrog : int, default 3
        Gradients that a move takes, at most: as many as a draw from 1 to n_leapfrog says, or moves through a normal
        density would come back to where they began.
    n_rows : int or None, default None
        N problems at once, which share log_joint and start; steps are fitted to each. M = N n_chains points at a time.
    posterior : None or array (D,) or (N,D), default None
        A sample of the posterior, exact, of each problem: n_chains go backwards from it.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
    verbose : int, default 0
        1 shows bars.

    Raises
    ------
    NumericalError
        log_joint or start is not finite, or NaN in the gradient, where chains begin. (A move that comes upon such a
        point is rejected.) It is a ValueError.

    Examples
    --------
    >>> import numpy as np
    >>> from lvm.distributions import Normal
    >>> prior, noise = Normal([0.0, 0.0], 1.0), Normal([3.0, 3.0], 0.1)  # x = (3, 3) = z + noise
    >>> log_joint = lambda z: (prior.log_prob(z) + noise.log_prob(z), -z + 100 * (3 - z))
    >>> found = annealed(log_joint, prior, random_state=0)
    >>> bool(abs(found.log_z - (-9 / 1.01 - np.log(2 * np.pi * 1.01))) < 0.1)
    True
    """
    n = check_int("n_chains", n_chains, 2, who="annealed")
    T = check_int("n_temperatures", n_temperatures, 1, who="annealed")
    N = 1 if n_rows is None else check_int("n_rows", n_rows, 1, who="annealed")
    _check_distribution("start", start)
    if not callable(log_joint):
        raise TypeError(f"log_joint must be callable, log_p, gradient = log_joint(z), got {type(log_joint).__name__}.")
    verbose, rng = check_verbose(verbose, who="annealed"), check_random_state(random_state)
    path = _Path(log_joint, start, n_rows, check_int("n_leapfrog", n_leapfrog, 1, who="annealed"), rng)
    end = None if posterior is None else _posterior(posterior, n_rows, start.n_features)
    betas, steps = path.pilot(N, T, verbose)
    log_w, acceptance = path.run(start.sample(N * n, random_state=rng), N, betas, steps, False, verbose)
    forward = [importance(some) for some in log_w]
    upper, upper_error = np.full(N, np.nan), np.full(N, np.nan)
    if end is not None:
        log_w, _ = path.run(np.repeat(end, n, axis=0), N, betas, steps, True, verbose)
        backward = [importance(-some) for some in log_w]
        upper, upper_error = (np.array(a) for a in zip(*((-b.log_z, b.log_z_error) for b in backward)))
    names = {"log_z": "log_z", "lower": "elbo", "ess": "ess", "k_hat": "k_hat"}
    names |= {"log_z_error": "log_z_error", "lower_error": "elbo_error"}
    found: dict[str, Any] = {name: np.array([getattr(one, of) for one in forward]) for name, of in names.items()}
    found |= {"upper": upper, "upper_error": upper_error}
    if n_rows is None:
        found, acceptance = {name: float(a[0]) for name, a in found.items()}, acceptance[0]
    return Annealed(**found, acceptance=acceptance, n_chains=n, n_temperatures=T)


class _Points(NamedTuple):
    """z (M,D), and there the log-densities l (2,M) of start and joint, and their slopes g (2,M,D)."""

    z: np.ndarray
    l: np.ndarray
    g: np.ndarray


class _Path:
    """log p_beta = (1 - beta) log start + beta log p(x,z) for N rows of data, the points of a row side by side."""

    def __init__(self, log_joint, start, n_rows, n_leapfrog, rng):
        self.log_joint, self.start, self.n_rows, self.n_leapfrog, self.rng = log_joint, start, n_rows, n_leapfrog, rng
        self.scale = np.ones(start.n_features)

    def at(self, z, rows):
        """The _Points z."""
        got = self.log_joint(z) if self.n_rows is None else self.log_joint(z, rows)
        if not isinstance(got, tuple) or len(got) != 2:
            raise ValueError(
                "log_joint must give a tuple (log p(x,z), gradient) for z (M,D), got "
                f"{type(got).__name__}. Return log p of the shape (M,) and its gradient of the shape (M,D)."
            )
        l, g = (np.asarray(a, dtype=float) for a in got)
        if l.shape != z.shape[:1] or g.shape != z.shape:
            raise ValueError(
                f"log_joint must give log p of the shape {z.shape[:1]} and its gradient of the shape {z.shape} for z "
                f"of the shape {z.shape}, got {l.shape} and {g.shape}."
            )
        return _Points(z, np.stack([self.start.log_prob(z), l]), np.stack([self.start.log_prob_gradients(z)[0], g]))

    def begin(self, z, rows, which):
        """The _Points z, chains' first ones. NumericalError where they are no numbers."""
        points = self.at(z, rows)
        l, g = points.l, points.g
        bad = ~(l < np.inf) | (np.isfinite(l) & ~np.isfinite(g).all(axis=2))
        some = 1 if which == "start" else 2  # a weight may be zero, but no posterior has such a sample
        bad[:some] |= l[:some] == -np.inf
        if bad.any():
            m = int(bad.any(axis=0).argmax())
            i = int(bad[:, m].argmax())
            row = "" if self.n_rows is None else f" of row {rows[m]}"
            raise NumericalError(
                f"{('start', 'log_joint')[i]} must be finite where chains begin, got log p = {l[i, m]:g} with the "
                f"gradient {_shown(g[i, m])} at z = {_shown(z[m])}, a sample from {which}{row}. Look at it there, or "
                "try another start."
            )
        return points

    def move(self, points, rows, beta, step):
        """The _Points after a move at beta (M,) with steps (M,), and the probabilities (M,) that it had to be accepted.

        Leapfrog in u = z/scale with the momentum p ~ N(0, I): p += e/2 g, u += e p, p += e/2 g; accepted with
        min(1, exp(H(u, p) - H(u', p'))), H = |p|²/2 - log p_beta."""
        w, e = np.stack([1 - beta, beta]), self.scale * step[:, None]
        p = self.rng.standard_normal(points.z.shape)
        slope = lambda g: w[0, :, None] * g[0] + w[1, :, None] * g[1]
        energy = (w * points.l).sum(axis=0) - 0.5 * (p * p).sum(axis=1)
        new, ok, n = points, np.ones(len(rows), bool), self.rng.integers(1, self.n_leapfrog + 1)
        with np.errstate(all="ignore"):  # of points that are far out
            p = p + 0.5 * e * slope(points.g)
            for i in range(n):
                z = new.z + e * p
                ok &= np.isfinite(z).all(axis=1)
                new = self.at(np.where(ok[:, None], z, points.z), rows)
                p = p + (0.5 if i == n - 1 else 1.0) * e * slope(new.g)
            gain = (w * new.l).sum(axis=0) - 0.5 * (p * p).sum(axis=1) - energy
            ok &= (new.l < np.inf).all(axis=0) & (gain > -np.inf)  # neither is NaN, nor then any slope on the way
            a = np.where(ok, np.exp(np.minimum(gain, 0)), 0)
        taken = self.rng.random(len(a)) < a
        z, g = (np.where(taken[:, None], there, here) for there, here in ((new.z, points.z), (new.g, points.g)))
        return _Points(z, np.where(taken, new.l, points.l), g), a

    def pilot(self, N, T, verbose):
        """Temperatures (N,T+1), steps (N,T-1) for the moves between the ends, and the scale, by chains of their own.

        They go on to the beta where the logs of their weights would spread by STRIDE, and of what they spread by, the
        length of the way from 0 to beta, each temperature then has a T-th."""
        if T == 1:
            return np.tile([0.0, 1.0], (N, 1)), np.empty((N, 0))
        rows, z = np.repeat(np.arange(N), PILOT), self.start.sample(N * PILOT, random_state=self.rng)
        low, high = np.quantile(z, (0.25, 0.75), axis=0)
        self.scale = np.where(high > low, (high - low) / 1.349, 1.0)  # of a normal, its standard deviation
        points = self.begin(z, rows, "start")
        beta, log_step, way = np.zeros(N), np.full(N, -0.25 * math.log(z.shape[1])), []
        with _bar(None, "Pilot", verbose) as bar:
            while True:
                living = (points.l[1] > -np.inf).reshape(N, PILOT)
                count = np.maximum(living.sum(axis=1, keepdims=True), 1)
                gain = np.where(living, (points.l[1] - points.l[0]).reshape(N, PILOT), 0)
                away = np.where(living, gain - gain.sum(axis=1, keepdims=True) / count, 0)
                spread = np.sqrt((away**2).sum(axis=1) / count[:, 0])
                if not np.isfinite(spread).all():
                    raise NumericalError(
                        "log_joint varies over samples of start by more than float64 can square. Try a start that is "
                        "nearer to the posterior, or scaling."
                    )
                way.append((beta, spread, log_step))
                if (beta == 1).all():
                    break
                beta = np.minimum(1, beta + np.maximum(STRIDE / (spread + TINY), LEAST * beta))
                for _ in range(MOVES if len(way) > 1 else FIRST):
                    points, a = self.move(points, rows, np.repeat(beta, PILOT), np.exp(np.repeat(log_step, PILOT)))
                    rate = (a.reshape(N, PILOT) * living).sum(axis=1) / count[:, 0]
                    log_step = log_step + GAIN * (rate - WANTED)
                    bar.update()
        betas, spreads, log_steps = (np.stack(a, axis=1) for a in zip(*way))
        lengths = (0.5 * (spreads[:, 1:] + spreads[:, :-1]) + TINY) * np.diff(betas, axis=1)
        at = np.concatenate([np.zeros((N, 1)), np.cumsum(lengths, axis=1)], axis=1)
        grid = at[:, -1:] * np.linspace(0, 1, T + 1)
        log_steps[:, 0] = log_steps[:, 1]  # at 0 there was no move
        betas, log_steps = (np.array([np.interp(*some) for some in zip(grid, at, a)]) for a in (betas, log_steps))
        betas[:, -1] = 1
        return betas, np.exp(log_steps[:, 1:-1])

    def run(self, z, N, betas, steps, back, verbose):
        """log w (N,n) of chains that begin at z (N n,D), and their acceptance (N,T-1)."""
        n, T = len(z) // N, betas.shape[1] - 1
        rows, log_w, acceptance = np.repeat(np.arange(N), n), np.zeros(len(z)), np.empty((N, T - 1))
        betas, points = np.repeat(betas.T, n, axis=1), self.begin(z, rows, "posterior" if back else "start")
        with _bar(T - 1, "Backwards" if back else "Forwards", verbose) as bar:
            for t in range(T, 0, -1) if back else range(1, T + 1):
                move = t if back else t - 1
                if 0 < move < T:
                    points, a = self.move(points, rows, betas[move], np.repeat(steps[:, move - 1], n))
                    acceptance[:, move - 1] = a.reshape(N, n).mean(axis=1)
                    bar.update()
                log_w += (betas[t] - betas[t - 1]) * (points.l[1] - points.l[0])
        return log_w.reshape(N, n), acceptance


def _bar(total, title, verbose):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, unit=" moves", disable=not verbose)


def _posterior(posterior, n_rows, D):
    """A sample of the posterior, checked: (N,D)."""
    z = np.asarray(posterior, dtype=float)
    wanted = (D,) if n_rows is None else (n_rows, D)
    if z.shape != wanted:
        raise ValueError(f"posterior must be a sample of the posterior, of the shape {wanted}, got {z.shape}.")
    return z.reshape(-1, D)


def simulated(
    model, n_rows=10, *, n_chains=16, n_temperatures=1000, n_leapfrog=3, random_state=None, verbose=0
) -> Annealed:
    """log p(x) of rows drawn from a fitted VAE, enclosed from both sides: how far can annealing be trusted on it?

    Of a row that was drawn with its z, that z is a sample of the posterior, from which chains go backwards (Grosse,
    Ancha & Roy 2016). What `gap` says holds for rows as the model has them; data that it fits badly take longer.

    Arguments as of `annealed`, whose start is the prior; TypeError for models without a decoder.
    """
    n, rng = check_int("n_rows", n_rows, 1, who="simulated"), check_random_state(random_state)
    if not hasattr(model, "_simulated"):
        raise TypeError(
            f"simulated is for a fitted VAE, whose log p(x) is not known, got {type(model).__name__}. Try "
            "report(model, X) for others, or annealed for a model of your own."
        )
    joint, z = model._simulated(n, rng)
    return from_prior(joint, z.shape[1], n_chains, n_temperatures, n_leapfrog, verbose, posterior=z, rng=rng)


def from_prior(joint, d, n_chains, n_temperatures, n_leapfrog, verbose, *, posterior=None, rng) -> Annealed:
    """Chains from z ~ N(0, I) (d,) for each of the rows joint.x (N,D)."""
    from .distributions import Normal

    rest = {"n_rows": len(joint.x), "posterior": posterior, "random_state": rng, "verbose": verbose}
    return annealed(joint, Normal(np.zeros(d), 1.0), n_chains, n_temperatures, n_leapfrog, **rest)


# ------------------------------------------------------------------------------------------------- models of lvm
class Report(NamedTuple):
    """What is known of a model's evidence, log p(x) summed over rows or log p(y|X) with the weights integrated out, in
    nats.

    model : name of its class
    what : "log p(x)" or "log p(y|X)"
    n : rows of X, without those that are gaps alone
    log_evidence, log_evidence_error : exact, or the best estimate there is, and its standard error. Estimates are
        lower bounds in the mean.
    elbo, elbo_error : E_q[log p - log q], q the model's own posterior, and its standard error
    weighted, weighted_error : the bound by n_samples importance weights of draws from q; NaN where there are none
    exact : bool, is log_evidence?
    how : how it was got
    each : (N,) log_evidence of each row, or (C,) of each of C problems that are one against the rest
    ess, k_hat : of the importance weights, of the worst row or problem; see `Evidence`. NaN where there are none.
    k_hat_above : part of the rows or problems whose k_hat is above 0.7
    n_samples : importance weights of a row or problem
    """

    model: str
    what: str
    n: int
    log_evidence: float
    log_evidence_error: float
    elbo: float
    elbo_error: float
    weighted: float
    weighted_error: float
    exact: bool
    how: str
    each: np.ndarray
    ess: float
    k_hat: float
    k_hat_above: float
    n_samples: int

    @property
    def mean(self) -> float:
        """log_evidence in nats per row."""
        return self.log_evidence / self.n

    @property
    def gap(self) -> float:
        """log_evidence - elbo = KL(q || posterior), summed over rows: as good as log_evidence is. NaN where that is the
        elbo itself."""
        return self.log_evidence - self.elbo if self.exact or not math.isnan(self.weighted) else math.nan

    def exactly(self, log_p, elbo=None) -> "Report":
        """With log p(x) (N,) by a formula, and maybe the ELBO."""
        how, elbo = "exact, of a linear decoder", (self.elbo, self.elbo_error) if elbo is None else (elbo.sum(), 0.0)
        new = {"log_evidence": float(log_p.sum()), "log_evidence_error": 0.0, "exact": True, "how": how, "each": log_p}
        return self._replace(elbo=float(elbo[0]), elbo_error=elbo[1], **new)

    def annealed(self, found) -> "Report":
        """With log p(x) of all rows by annealing: [Annealed, ...] of some rows each."""
        each, errors, ess = (np.concatenate([getattr(a, x) for a in found]) for x in ("log_z", "log_z_error", "ess"))
        n, T = found[0].n_chains, found[0].n_temperatures
        if each.sum() < self.log_evidence:
            return self._replace(how=f"{self.how}; {n} annealed chains a row gave less, {each.sum():.8g}")
        how = f"at least, by {n} annealed chains a row, {T} temperatures, ESS {ess.min():.1f} at worst"
        error = math.sqrt(float((errors**2).sum()))
        return self._replace(log_evidence=float(each.sum()), log_evidence_error=error, how=how, each=each)

    def __str__(self):
        each = lambda x: f"{x:.8g} in all, {x / self.n:.6g} a row"
        noisy = lambda x, error: each(x) if error == 0 else f"{each(x)}, ± {error:.1g} in all"
        lines = [
            f"{self.model}, {self.n} rows, nats",
            f"{self.what:<11}{noisy(self.log_evidence, self.log_evidence_error)}: {self.how}",
        ]
        if not math.isnan(self.weighted) and self.weighted != self.log_evidence:
            lines.append(f"{f'L_{self.n_samples}':<11}{noisy(self.weighted, self.weighted_error)}: a lower bound")
        if self.exact or not math.isnan(self.weighted):
            lines.append(f"ELBO       {noisy(self.elbo, self.elbo_error)}: a lower bound")
        if not math.isnan(self.gap):
            least = "" if self.exact else ", as far as that is known"
            lines.append(f"gap        {each(self.gap)}: KL(q || posterior){least}")
        if not math.isnan(self.ess):
            lines.append(f"ESS        {self.ess:.1f} of {self.n_samples} at worst")
        if not math.isnan(self.k_hat):
            lines.append(f"k-hat      {self.k_hat:.3g} at worst, above 0.7 in {self.k_hat_above:.1%}")
        return "\n".join(lines)


def report(
    model,
    X,
    y=None,
    *,
    n_samples=1000,
    annealed=False,
    n_chains=16,
    n_temperatures=1000,
    n_leapfrog=3,
    random_state=None,
    verbose=0,
) -> Report:
    """The evidence of a fitted model of lvm: exact where there is a formula, else bounds, and KL(q || posterior).

    GaussianMixture, ProbabilisticPCA, PlanarFlow, a VAE with a linear decoder and Gaussian noise: log p(x), exact.
    VAE: log p(x) by importance weights; with annealed=True by annealing from the prior, which needs no good encoder.
    RelevanceVectorRegressor: log p(y|X) of the weights, their prior variances and that of the noise held; exact.
    VariationalLogisticRegression, RelevanceVectorClassifier: the same by importance weights; the sum over problems that
        are one against the rest. Rows count once, whatever their weights in fit.
    BayesianMLPClassifier, BayesianMLPRegressor: the bound. So many weights at once leave no importance weights that
        could be used.

    Parameters
    ----------
    model : fitted
    X : array (N,D)
    y : array (N,), for models that have one
    n_samples : int, default 1000
        Draws from the model's own posterior, for each row of a VAE; all rows share their noise.
    annealed : bool, default False
        Of a VAE; n_chains, n_temperatures, n_leapfrog and verbose as of the function `annealed`.
    random_state : None, int, SeedSequence, Generator or RandomState, default None
        For chains, and for draws of weights. A VAE's own draws are those of its score_samples.

    >>> import lvm
    >>> X = lvm.datasets.load_iris()
    >>> found = report(lvm.ProbabilisticPCA(2).fit(X), X)
    >>> found.exact, found.gap
    (True, 0.0)
    """
    n_samples = check_int("n_samples", n_samples, 2, who="report")
    if not hasattr(model, "_evidence"):
        raise TypeError(
            f"report is for the models of lvm, got {type(model).__name__}. Try sampled, bounds or annealed for a model "
            "of your own."
        )
    n_chains = check_int("n_chains", n_chains, 2, who="report")
    sizes = (n_chains, n_temperatures, n_leapfrog, verbose) if check_bool("annealed", annealed, who="report") else None
    rng = check_random_state(random_state)
    return model._evidence(X, y, n_samples=n_samples, annealing=sizes, rng=rng)


def exact_report(model, log_p, how, n=None, elbo=None) -> Report:
    """Of log p(x) (N,) of the rows where anything was observed, q the posterior itself; or of log p(y|X) (1,) of n
    rows, and its ELBO."""
    each, nan = np.asarray(log_p, dtype=float), math.nan
    if not len(each):
        raise ValueError("X has nothing observed in it: its rows are all NaN.")
    total, what = float(each.sum()), "log p(x)" if n is None else "log p(y|X)"
    bound = total if elbo is None else float(elbo)
    start = type(model).__name__, what, n or len(each), total, 0.0, bound, 0.0
    return Report(*start, nan, nan, True, how, each, nan, nan, nan, 0)


def weights_report(model, n, elbo, weighed) -> Report:
    """Of log p(y|X) of n rows: the ELBO, exact, and the Evidence of each problem."""
    each, errors, ess, k_hat = (
        np.array([getattr(w, x) for w in weighed]) for x in ("log_z", "log_z_error", "ess", "k_hat")
    )
    total, S = (float(each.sum()), math.sqrt(float((errors**2).sum()))), weighed[0].n_samples
    problems = f", of {len(each)} problems, one against the rest" if len(each) > 1 else ""
    how, worst = f"at least, by {S} importance weights{problems}", (float(ess.min()), float(np.max(k_hat)))
    start = type(model).__name__, "log p(y|X)", n, *total, elbo, 0.0, *total
    return Report(*start, False, how, each, *worst, _above(k_hat), S)


def bound_report(model, n, log_likelihood, kl, how) -> Report:
    """Of log p(y|X) of n rows: the ELBO alone, by the log-likelihood of each draw; noise is eps, -eps by turns."""
    bound, nan = float(log_likelihood.mean()) - kl, math.nan
    pairs = log_likelihood[: len(log_likelihood) // 2 * 2].reshape(-1, 2).mean(axis=1)
    error = _standard_error(pairs, pairs.mean()) if len(pairs) > 1 else nan
    start = type(model).__name__, "log p(y|X)", n, bound, error, bound, error
    return Report(*start, nan, nan, False, how, np.array([bound]), nan, nan, nan, len(log_likelihood))


def of_rows(name, pieces, N, n) -> Report:
    """Of N rows, by n draws from each q(z|x) with noise that all rows share.

    pieces: of some rows (a slice) log w (B,n), the part (B,n) of which the mean is noisy in the ELBO, the ELBO (B,)."""
    elbo, each, ess, k_hat, of_elbo, of_each = (*np.empty((4, N)), *np.zeros((2, n)))
    for some, log_w, noisy, bound in pieces:
        elbo[some], each[some] = bound, log_mean(log_w)
        found = [importance(one) for one in log_w]
        ess[some], k_hat[some] = [one.ess for one in found], [one.k_hat for one in found]
        of_elbo += noisy.sum(axis=0)
        of_each += np.exp(log_w - each[some, None]).sum(axis=0)
    errors = [_standard_error(x, x.mean()) for x in (of_elbo, of_each)]
    total, bound = (float(each.sum()), errors[1]), (float(elbo.sum()), errors[0])
    how, worst = f"at least, by {n} importance weights a row", (float(ess.min()), float(np.max(k_hat)))
    above = _above(k_hat)
    return Report(name, "log p(x)", N, *total, *bound, *total, False, how, each, *worst, above, n)


def of_weights(log_likelihood, q, alpha, n_samples, size, rng) -> Evidence:
    """Of a prior N(0, diag alpha) over weights w (R,), by importance weights of draws from q.

    q has mu (R,), root (R,R) or (R,), log_det = log|Sigma|, Sigma = root root' or diag root². log_likelihood(w (M,R))
    -> (M,), `size` of them at a time:  log w = log p(y|w) - sum (w²/alpha + log alpha)/2 + |eps|²/2 + log|Sigma|/2."""
    log_w = np.empty(n_samples)
    for a in range(0, n_samples, size):
        eps = rng.standard_normal((min(size, n_samples - a), len(q.mu)))
        w = q.mu + (eps * q.root if q.root.ndim == 1 else eps @ q.root.T)
        rest = (eps**2 - w**2 / alpha - np.log(alpha)).sum(axis=1) + q.log_det
        log_w[a : a + size] = log_likelihood(w) + 0.5 * rest
    return importance(log_w)


def _above(k_hat):
    """The part of k_hat above 0.7; NaN where one is not known."""
    return math.nan if np.isnan(k_hat).any() else float((k_hat > 0.7).mean())


def _check_distribution(name, q):
    """TypeError for what has not the methods of lvm.distributions."""
    if not all(hasattr(q, word) for word in ("n_features", "sample", "log_prob", "log_prob_gradients")):
        raise TypeError(f"{name} must be a distribution of lvm.distributions, got {type(q).__name__}.")


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


def _shown(x):
    """A vector in a message."""
    return np.array2string(x, precision=3, threshold=6)
