"""Sparse Bayesian linear models: bounds and evidence of logistic regression and of regression, over a kernel set.

f = w'phi(x), w ~ N(0, diag alpha), alpha a variance (Tipping's alpha is 1/alpha). A weight whose alpha is 0 is gone.

Logistic regression, y = ±1, p(y|x) = sigmoid(y f): with q(w) = N(mu, Sigma) the bound on log p(y|X) is
    L = sum_n F_n - KL,   F_n = E_q[log sigmoid(y_n f_n)],   f_n ~ N(mu'phi_n, phi_n'Sigma phi_n),
    KL = (sum_i log alpha_i - log|Sigma| - D + sum_i (mu_i² + Sigma_ii)/alpha_i)/2,
sum_n with weights of rows. In q it is concave in mu and the root of Sigma (Challis & Barber 2013). A step:
  sites    H = sum lambda phi phi', h = sum (lambda m + y g) phi at q (kernels/cpu/relevance.py): to first order in the
           natural parameters of q, L is the bound of a linear model with the log-likelihood h'w - w'Hw/2;
  alpha    that of the most evidence of this model, one after the other (kernels/cpu/ard.py);
  q        its posterior, Sigma = (H + diag(1/alpha))^-1, mu = Sigma h: of length 1 on L a natural-gradient step.
Where L falls, the step is shortened: natural parameters between those of q and these, alpha as it was. That is a step
uphill for L, if short enough; then alpha_i = mu_i² + Sigma_ii, the maximum of L given q, where both steps rest. It
starts at q = 0, where lambda = 1/4 is the most there is, so that the first step cannot fail (Böhning 1992).

Regression, y = f + noise of variance sigma²: H = Phi'Phi/sigma², h = Phi'y/sigma², and the evidence is exact,
    -(N log 2pi sigma² + y'y/sigma² + log|1 + A^1/2 H A^1/2| - h'Sigma h)/2,  A = diag alpha,
    sigma² = |y - Phi mu|²/(N - gamma), gamma = sum_i (1 - Sigma_ii/alpha_i) (MacKay 1992), or where that is a step
    down, (|y - Phi mu|² + sigma² gamma)/N, which is EM's and cannot be.

All factorisations are of B = 1 + A^1/2 H A^1/2, whose eigenvalues are 1 or more. Tipping 2001; Bishop 2006, section
7.2. Letters: D columns of phi, the last one of ones if there is an intercept; R of them active (alpha > 0).
"""

from typing import Any, NamedTuple

import numpy as np

MANY = 512  # columns up to which all of H is formed; of more, the active ones and CANDIDATES others
CANDIDATES = 128
KEPT = 1 << 25  # bytes of phi that are kept, not made anew for each pass
BEGIN = 10
SWEEPS = 200
QUIET = 1e-12  # noise variance, as a part of that of y, below which it is rounding


class Design:
    """The rows phi_n of N samples, D columns, in blocks. fill(a, b, Phi) writes those from a to b into Phi (b-a,D)."""

    def __init__(self, k, N, D, fill):
        self.k, self.N, self.D, self.fill, self.kept = k, N, D, fill, None

    def blocks(self):
        """(a, b, Phi), Phi float64 of the kernel set: not to be written to."""
        if self.kept is None:
            whole = self.N * self.D * 8 <= KEPT
            size = self.N if whole else max(self.k.relevance.ROOM // (8 * self.D), 512)
            for a in range(0, self.N, size):
                b = min(a + size, self.N)
                Phi = self.k.empty((b - a, self.D), np.dtype(float))
                self.fill(a, b, Phi)
                if whole:
                    self.kept = Phi
                yield a, b, Phi
        else:
            yield 0, self.N, self.kept

    def moments(self, Phi, q):
        """m, v (B,) of f for the rows Phi (B,D)."""
        k, T = self.k, np.dtype(float)
        m, v = k.empty(len(Phi), T), k.empty(len(Phi), T)
        if q.root.ndim == 1:
            mu, S = np.zeros(self.D), np.zeros(self.D)
            mu[q.active], S[q.active] = q.mu, q.root**2
            k.relevance.moments(Phi, k.put(np.zeros(self.D)), k.put(np.ones(self.D)), k.put(mu), k.put(S), m, v)
        else:
            R = len(q.active)
            some, U = Phi, k.empty((len(Phi), R + 1), T)
            if R < self.D:
                some = k.empty((len(Phi), R), T)
                k.relevance.columns(Phi, k.put(q.active), some)
            k.linear.gemm(some, k.put(np.column_stack([q.mu, q.root])), U, k.put(np.empty(0)))
            k.relevance.collect(U, m, v)
        return m, v


class Posterior(NamedTuple):
    """q(w) = N(mu, Sigma) of the weights `active` (R,): mu (R,), Sigma = root root', root (R,R); or (R,), a diagonal.
    All other weights are 0. log_det: log|Sigma|."""

    active: np.ndarray
    mu: np.ndarray
    root: np.ndarray
    log_det: float

    @property
    def variances(self):
        """Sigma_ii (R,)."""
        return self.root**2 if self.root.ndim == 1 else (self.root**2).sum(1)

    @property
    def covariance(self):
        """Sigma (R,R)."""
        return np.diag(self.root**2) if self.root.ndim == 1 else self.root @ self.root.T


def factor(H, r):
    """L, lower triangular, of LL' = 1 + diag(r) H diag(r), H (R,R) not negative but by rounding, r (R,).

    Where rounding is more than the 1, eigenvalues below 1 are taken as 1. Raises LinAlgError for what is not finite."""
    B = np.eye(len(r)) + r[:, None] * H * r
    try:
        return np.linalg.cholesky(B)
    except np.linalg.LinAlgError:
        v, U = np.linalg.eigh(B)
        R = np.linalg.qr((U * np.sqrt(np.maximum(v, 1))).T, mode="r")
        return (R * np.sign(np.diag(R))[:, None]).T


def posterior(active, H, h, alpha, full):
    """The Posterior where log p(y|w) is h'w - w'Hw/2 of these weights: H (R,R), h, alpha (R,)."""
    r = np.sqrt(alpha)
    L = factor(H, r)
    root = r[:, None] * np.linalg.solve(L.T, np.eye(len(r)))
    mu = root @ (root.T @ h)
    if full:
        return Posterior(active, mu, root, float(2 * (np.log(r).sum() - np.log(np.diag(L)).sum())))
    S = alpha / (1 + alpha * np.diag(H))
    return Posterior(active, mu, np.sqrt(S), float(np.log(S).sum()))


class Sites(NamedTuple):
    """log p(y|w) near some q: h (D,), the diagonal (D,) of H, and of H the rows `which` (n,): H (n,D)."""

    which: np.ndarray
    H: np.ndarray
    diagonal: np.ndarray
    h: np.ndarray

    def of(self, active):
        """H (R,R) and h (R,) of these weights alone."""
        at = np.searchsorted(self.which, active)
        return self.H[np.ix_(at, active)], self.h[active]


def begin(sites, alike, tiny):
    """alpha (D,) to begin the sweeps at: a few of MacKay's steps for all candidates at once, from 1/H_ii on.

    alpha_i = mu_i²/(1 - Sigma_ii/alpha_i) (MacKay 1992). Sweeps that begin at 0 end at a lower maximum more often. Of
    columns that are alike (`ard`), the last one."""
    alpha = np.zeros(len(sites.h))
    active = sites.which[sites.diagonal[sites.which] > tiny]
    H, h = sites.of(active)
    S = np.diag(H)
    same = alike * S * S[:, None] <= H**2
    kept = np.flatnonzero(~np.triu(same, 1).any(axis=1))
    A = 1 / S[kept]
    for _ in range(BEGIN):
        r = np.sqrt(A)
        X = np.linalg.inv(factor(H[np.ix_(kept, kept)], r))
        A = (r * (X.T @ (X @ (r * h[kept])))) ** 2 / np.maximum(1 - (X**2).sum(0), 1e-12)
        some = A * S[kept] > 1e-3
        kept, A = kept[some], A[some]
    alpha[active[kept]] = A
    return alpha


class Relevance:
    """What the models share: prior variances by evidence, on the CPU kernel set `host`.

    prior: "ard", an alpha for each weight, or "gaussian", one for all but the intercept's (the last of the weights).
    full: is Sigma? Alphas rest when a sweep over all of them gains less than `rest` nats per row."""

    rest = 1e-9

    def __init__(self, k, host, design, w, intercept, prior, full):
        self.k, self.host, self.design, self.w, self.intercept = k, host, design, w, intercept
        self.prior, self.full = prior, full
        self.weight = float(w.sum()) if w.size else float(design.N)
        self.on_device = k.put(w)

    def improved(self, sites, alpha, bound):
        """alpha (D,) of more evidence for these Sites, and which rows of H to form next."""
        D, alpha = self.design.D, alpha.copy()
        if self.prior == "gaussian":
            return self._shared(sites, alpha), sites.which
        tol = self.rest * (1 + abs(bound)) * self.weight
        alpha = alpha if alpha.any() else begin(sites, self.host.ard.ALIKE, self.host.ard.TINY)
        active = np.flatnonzero(alpha)
        H = sites.H[np.searchsorted(sites.which, active)]
        R, n, h = len(active), len(sites.which), sites.h
        if self.full:
            r, U, order = np.sqrt(alpha[active]), np.empty((n, n)), np.full(n, -1)
            U[:R, :R], order[:R] = factor(H[:, active], r).T / r, active
            self.host.ard.full(sites.H, h, sites.which, order, U, alpha, tol, SWEEPS)
        else:
            mu = np.zeros(D)
            mu[active] = posterior(active, H[:, active], h[active], alpha[active], False).mu
            self.host.ard.diagonal(sites.H, sites.which, h - mu[active] @ H, mu, alpha, tol, SWEEPS)
        return alpha, self.candidates(sites, alpha)

    def products(self, which, of_block):
        """Sites: h = Phi't, H = Phi'diag(r²)Phi, for t, r (B,) as of_block(a, b, Phi) gives them."""
        k, D, n, T = self.k, self.design.D, len(which), np.dtype(float)
        H, diagonal, h = np.zeros((n, D)), np.zeros(D), np.zeros(D)
        columns, none = k.put(which), k.put(np.empty(0))
        for a, b, Phi in self.design.blocks():
            t, r = of_block(a, b, Phi)
            sums, scaled = k.empty((D, 1), T), k.empty((b - a, D), T)
            k.linear.gemm(Phi, t.reshape(b - a, 1), sums, none, "tn")
            h += k.get(sums)[:, 0]
            k.relevance.scale(Phi, r, scaled)
            if n < D:
                k.relevance.squares(scaled, sums.reshape(D))
                diagonal += k.get(sums)[:, 0]
            some = scaled
            if 0 < n < D:
                some = k.empty((b - a, n), T)
                k.relevance.columns(scaled, columns, some)
            if n:
                square = k.empty((n, D), T)
                k.linear.gemm(some, scaled, square, none, "tn")
                H += k.get(square)
        return Sites(which, H, np.diag(H).copy() if n == D else diagonal, h)

    def candidates(self, sites, alpha):
        """The columns to form rows of H for next: all, or the active ones and those others that promise most."""
        if len(alpha) <= MANY or self.prior == "gaussian":
            return np.arange(len(alpha))
        active = np.flatnonzero(alpha)
        H, (P, h) = sites.H[np.searchsorted(sites.which, active)], sites.of(active)
        q = posterior(active, P, h, alpha[active], self.full)
        S, Q = sites.diagonal.copy(), sites.h - q.mu @ H
        if self.full:
            S -= ((q.root.T @ H) ** 2).sum(0)
        new = (alpha == 0) & (Q**2 > S) & (sites.diagonal * self.host.ard.DEPENDENT < S)
        promise = np.where(new, Q**2 / np.where(new, S, 1), 0)
        others = np.argsort(-promise, kind="stable")[:CANDIDATES]
        return np.union1d(active, others[promise[others] > 0])

    def _shared(self, sites, alpha):
        """MacKay's updates of one alpha for all weights, and one for the intercept, while they gain."""
        D = len(alpha)
        groups = [np.arange(D - self.intercept), np.arange(D - self.intercept, D)]
        for group in filter(len, groups if not alpha.any() else []):
            alpha[group] = len(group) / max(sites.diagonal[group].sum(), 1e-280)
        last, kept, H, h = -np.inf, alpha, sites.H, sites.h
        for _ in range(SWEEPS):
            q = posterior(np.arange(D), H, h, alpha, self.full)
            now = self._evidence(q, H, h, alpha)
            if not now > last + self.rest * self.weight:
                return alpha if now > last else kept
            last, kept, alpha = now, alpha, alpha.copy()
            for group in filter(len, groups):
                spent = (1 - q.variances[group] / alpha[group]).sum()
                square = (q.mu[group] ** 2).sum()
                far = square > 0 and spent > 1e-12
                new = square / spent if far else (square + q.variances[group].sum()) / len(group)
                alpha[group] = max(new, 1e-280)
        return kept

    def _evidence(self, q, H, h, alpha):
        """The bound of the linear model, but for what does not depend on q and alpha."""
        likelihood = h @ q.mu - 0.5 * (q.mu @ H @ q.mu + (H * q.covariance).sum())
        return likelihood - divergence(q, alpha)


def divergence(q, alpha):
    """KL(q || N(0, diag alpha)) in nats, alpha (R,) of the active weights."""
    return 0.5 * float(np.log(alpha).sum() - q.log_det - len(alpha) + ((q.mu**2 + q.variances) / alpha).sum())


# --------------------------------------------------------------------------------------------- logistic regression
class Point(NamedTuple):
    """A posterior q with alpha (D,), its bound in nats per row and the Sites there; made (H, h, alpha) of active
    weights, from which q came."""

    q: Posterior
    alpha: np.ndarray
    bound: float
    sites: Sites
    made: tuple


class Logistic(Relevance):
    """The bound of labels y (N,) = ±1, NumPy float64, rows weighted by w (N,) or (0,)."""

    def __init__(self, k, host, design, y, w, intercept, prior, full):
        super().__init__(k, host, design, w, intercept, prior, full)
        self.y = k.put(y)

    def start(self, alpha=None):
        """The Point with all weights 0, or near alpha (D,) of another fit."""
        D, none = self.design.D, np.empty(0, int)
        q = Posterior(none, np.empty(0), np.empty((0, 0) if self.full else 0), 0.0)
        which = np.arange(D) if D <= MANY or self.prior == "gaussian" else none
        F, sites = self._sites(q, which)
        if len(which) < D:
            F, sites = self._sites(q, self.candidates(sites, np.zeros(D)))
        start = Point(q, np.zeros(D), F / self.weight, sites, (np.empty((0, 0)), np.empty(0), np.empty(0)))
        return start if alpha is None else start._replace(alpha=np.where(np.isin(np.arange(D), sites.which), alpha, 0))

    def step(self, point, rho):
        """The Point after a step of length rho, 0 < rho <= 1."""
        if rho == 1:
            alpha, which = self.improved(point.sites, point.alpha, point.bound)
            active = np.flatnonzero(alpha)
            H, h = point.sites.of(active)
            made = H, h, alpha[active]
            q = posterior(active, *made, self.full)
        else:
            active, alpha, which = point.q.active, np.zeros(len(point.alpha)), point.sites.which
            H, h = point.sites.of(active)
            before, now = (1 - rho) / point.made[2], rho / point.alpha[active]
            made = (1 - rho) * point.made[0] + rho * H, (1 - rho) * point.made[1] + rho * h, 1 / (before + now)
            q = posterior(active, *made, self.full)
            square = q.mu**2 + q.variances
            group = slice(len(active) - self.intercept) if self.prior == "gaussian" else slice(0)
            square[group] = square[group].mean() if len(square[group]) else 0
            alpha[active] = square
        F, sites = self._sites(q, which)
        return Point(q, alpha, (F - divergence(q, alpha[active])) / self.weight, sites, made)

    def _sites(self, q, which):
        """sum w F at q, and the Sites with these rows of H."""
        k, T, total = self.k, np.dtype(float), [0.0]

        def of_block(a, b, Phi):
            t, r, F = k.empty(b - a, T), k.empty(b - a, T), k.empty(b - a, T)
            w = self.on_device[a:b] if self.w.size else self.on_device
            k.relevance.sites(*self.design.moments(Phi, q), self.y[a:b], w, t, r, F)
            total[0] += float(k.get(F).sum())
            return t, r

        sites = self.products(which, of_block)
        return total[0], sites


# ------------------------------------------------------------------------------------------------------ regression
class Fitted(NamedTuple):
    """A posterior q with alpha (D,) and the noise variance sigma2, and the evidence in nats per row."""

    q: Posterior
    alpha: np.ndarray
    sigma2: float
    bound: float
    which: np.ndarray
    moments: Any


class Regression(Relevance):
    """The evidence of targets y (N,), NumPy float64, of mean 0, rows weighted by w (N,) or (0,)."""

    def __init__(self, k, host, design, y, w, intercept, prior):
        super().__init__(k, host, design, w, intercept, prior, True)
        some = w if w.size else np.ones(len(y))
        self.t, self.root, self.square = k.put(some * y), k.put(np.sqrt(some)), float((some * y * y).sum())
        self.spread = self.square / self.weight or 1.0

    def start(self, alpha=None):
        """All weights 0, the noise a tenth of what y varies by; or near alpha (D,) of another fit."""
        D, none = self.design.D, np.empty(0, int)
        sigma2 = 0.1 * self.spread
        which = np.arange(D) if D <= MANY or self.prior == "gaussian" else none
        moments = self._moments(which)
        if len(which) < D:
            which = self.candidates(self._sites(moments, sigma2), np.zeros(D))
            moments = self._moments(which)
        q = Posterior(none, np.empty(0), np.empty((0, 0)), 0.0)
        alpha = np.zeros(D) if alpha is None else np.where(np.isin(np.arange(D), which), alpha, 0)
        return Fitted(q, alpha, sigma2, self._bound(q, q.root, q.mu, q.mu, sigma2), which, moments)

    def step(self, point, rho):
        """The model after a step: with rho = 1 MacKay's for the noise, else EM's, which cannot fail."""
        M = point.moments
        if not np.array_equal(point.which, M.which):
            M = self._moments(point.which)
        alpha, which = self.improved(self._sites(M, point.sigma2), point.alpha, point.bound)
        active = np.flatnonzero(alpha)
        A, b = M.of(active)
        q = posterior(active, A / point.sigma2, b / point.sigma2, alpha[active], True)
        error = max(self.square - 2 * b @ q.mu + q.mu @ A @ q.mu, 0.0)
        spent = (1 - q.variances / alpha[active]).sum()
        if rho == 1 and spent < self.weight:
            sigma2 = error / (self.weight - spent)
        else:
            sigma2 = (error + point.sigma2 * spent) / self.weight
        sigma2 = max(sigma2, QUIET * self.spread)
        q = posterior(active, A / sigma2, b / sigma2, alpha[active], True)
        return Fitted(q, alpha, sigma2, self._bound(q, A, b, alpha[active], sigma2), which, M)

    def _bound(self, q, A, b, alpha, sigma2):
        error = self.square - 2 * b @ q.mu + q.mu @ A @ q.mu + ((q.root.T @ A) * q.root.T).sum()
        return (
            float(-0.5 * (np.log(2 * np.pi * sigma2) + error / sigma2 / self.weight))
            - divergence(q, alpha) / self.weight
        )

    def _sites(self, M, sigma2):
        return Sites(M.which, M.H / sigma2, M.diagonal / sigma2, M.h / sigma2)

    def _moments(self, which):
        """Phi'Phi and Phi'y, the Sites of noise variance 1."""
        return self.products(which, lambda a, b, Phi: (self.t[a:b], self.root[a:b]))


# ---------------------------------------------------------------------------------------------------- minibatches
class Minibatch:
    """The bound of logistic regression with diagonal Sigma, S_i = exp(b tanh(rho_i/b)), estimated from batches of rows:
    the objective of fit.stochastic. alpha is always at its best, alpha_i = mu_i² + S_i, so that with prior="ard"
        KL = sum_i log(1 + mu_i²/S_i)/2;
    with "gaussian" the weights but the intercept share alpha, the mean of mu_i² + S_i. Weights are those of z =
    factor (x - shift). Where `seed` is None F_n is exact, else that of one draw of f_n for each row of a batch (local
    reparameterisation: Kingma, Salimans & Welling 2015).

    X (N,D), y (N,), w (N,) or (0,) of the kernel set k, all of one dtype; `rows`, of summed weight `weight`, are those
    to fit, `held` those held out: numbers, NumPy."""

    def __init__(self, k, X, y, w, weight, rows, held, shift, factor, prior, seed, batch_size, warm, parameters):
        self.k, self.X, self.y, self.w, self.parameters = k, X, y, w, parameters
        self.weight, self.rows, self.held, self.shift, self.factor = weight, rows, held, shift, factor
        self.seed, self.warm = seed, max(warm, 1)
        P, T = parameters.shapes["mu"][0], parameters.dtype
        self.shared = X.shape[1] if prior == "gaussian" else 0
        self.S, self.alpha, self.totals = k.empty(P, T), k.empty(P, T), k.put(np.zeros(2, T))
        self.sums = k.empty((-(-batch_size // k.relevance.RUN), 2 * P + 2), T)
        self.eps = k.empty(0 if seed is None else batch_size, T)

    def step(self, batch, counter):
        """The gradient of minus the bound per unit of weight."""
        k, p, B = self.k, self.parameters, len(batch)
        mu, rho = p.views["mu"], p.views["rho"]
        eps, sums = self.eps[:B], self.sums[: -(-B // k.relevance.RUN)]
        k.relevance.spread(mu, rho, self.shared, self.S, self.alpha)
        if self.seed is not None:
            k.random.normal(self.seed, 0, counter, eps)
        k.relevance.local(self.X, batch, self.shift, self.factor, self.y, self.w, mu, self.S, eps, sums)
        scale, g = len(self.rows) / (B * self.weight), p.gradients
        k.relevance.finish(
            mu,
            rho,
            sums,
            self.S,
            self.alpha,
            counter,
            self.warm,
            1 / self.weight,
            scale,
            g["mu"],
            g["rho"],
            self.totals,
        )

    def values(self):
        """Means per unit of weight since the last call, the KL as it is now."""
        F, w = self.k.get(self.totals).astype(float)
        self.k.adam.assign(self.totals, np.zeros(2, self.parameters.dtype))
        q, alpha = self.posterior()
        kl = divergence(q, alpha) / self.weight
        return {"lower_bound": F / w - kl, "log_likelihood": F / w, "kl": kl}

    def validate(self):
        """The exact expected log-likelihood of the held-out rows, in place of that of the others, less the KL."""
        k, T = self.k, self.parameters.dtype
        mu, rho, total, weight = self.parameters.views["mu"], self.parameters.views["rho"], 0.0, 0.0
        k.relevance.spread(mu, rho, self.shared, self.S, self.alpha)
        rows, none = k.put(self.held), k.put(np.empty(0, T))
        for some, sums in self._pieces(rows):
            k.relevance.local(self.X, some, self.shift, self.factor, self.y, self.w, mu, self.S, none, sums)
            F, w = k.get(sums).astype(float).sum(0)[-2:]
            total, weight = total + F, weight + w
        return total / weight - divergence(*self.posterior()) / self.weight

    def _pieces(self, rows):
        """Parts of rows, as many at a time as a batch has, and room for their sums."""
        size, run = len(self.sums) * self.k.relevance.RUN, self.k.relevance.RUN
        for a in range(0, len(rows), size):
            some = rows[a : min(a + size, len(rows))]
            yield some, self.sums[: -(-len(some) // run)]

    def relevant(self):
        """Of each weight, is its best alpha above 0, given all others? (P,), from a pass over the rows.

        As in `ard.diagonal`: q² > s with s = sum w lambda z² = -2 dF/dS, q = dF/dmu + s mu."""
        k, P = self.k, len(self.S)
        mu, total = self.parameters.views["mu"], np.zeros(2 * P)
        k.relevance.spread(mu, self.parameters.views["rho"], self.shared, self.S, self.alpha)
        rows, none = k.put(self.rows), k.put(np.empty(0, self.parameters.dtype))
        for some, sums in self._pieces(rows):
            k.relevance.local(self.X, some, self.shift, self.factor, self.y, self.w, mu, self.S, none, sums)
            total += k.get(sums).astype(float).sum(0)[: 2 * P]
        s = -2 * total[P:]
        return (total[:P] + s * k.get(mu)) ** 2 > s

    def posterior(self):
        """The Posterior of all weights, in units of z, and their alpha: float64."""
        got = self.parameters.get()
        mu, rho = got["mu"].astype(float), got["rho"].astype(float)
        b = self.k.relevance.LARGEST
        S = np.exp(b * np.tanh(rho / b))
        alpha = mu**2 + S
        alpha[: self.shared] = alpha[: self.shared].mean() if self.shared else 0
        return Posterior(np.arange(len(mu)), mu, np.sqrt(S), float(np.log(S).sum())), alpha
