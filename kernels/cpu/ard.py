"""Automatic relevance determination: prior variances moved one at a time to their best, given Gaussian sites.

Where log p(y|w) is h'w - w'Hw/2 and w ~ N(0, diag alpha), the evidence as a function of one alpha_i alone is
    (q² alpha/(1 + alpha s) - log(1 + alpha s))/2,
    s = H_ii - H_ia P^-1 H_ai,   q = h_i - H_ia P^-1 h_a,   P = H_aa + diag(1/alpha_a) = U'U,
a being the other weights with alpha > 0. Its maximum is at alpha = (q² - s)/s², or at 0 where q² <= s: then weight i is
gone. Of a weight that is in P, Sigma = P^-1 and mu = Sigma h tell them: s = 1/Sigma_ii - 1/alpha_i, q = mu_i/Sigma_ii.
Tipping & Faul 2003 (their alpha is the inverse of ours). The factor U is moved along, not Sigma: errors of Sigma, or of
rows of Sigma H, grow from one weight to the next.

With q(w) = N(mu, diag S) for a posterior, s = H_ii and q = h_i - sum_(j not i) H_ij mu_j, mu_i = alpha q/(1 + alpha s).

The work is small, and each step needs the last: the CPU does it for all kernel sets. All arrays are float64 or int64.
Letters: D weights, n of them candidates, whose rows of H there are; R of these have alpha > 0. The others stay at 0.
"""

import math

import numpy as np

from ..jit import FAST, kernel
from ..shared.scalar import shared

DEPENDENT = 1e-8
ALIKE = 1 - 1e-8  # columns whose squared cosine is at least this are one: a second one would share the first's alpha
TINY = 1e-280  # H_ii below is 0


@shared
def gain(s, q, alpha):
    """The evidence at alpha, less that at 0, in nats."""
    return 0.5 * (q * alpha / (1 + alpha * s) * q - math.log1p(alpha * s))


@shared
def best(s, q, whole):
    """The alpha of the most evidence; 0 for a column of which the others leave but rounding: whole is its H_ii.

    And 0 where q² is above s by a rounding: 1/alpha would be too large for the factor to lose it again."""
    return (q * q / s - 1) / s if s > DEPENDENT * whole and s > TINY and q * q > (1 + 1e-6) * s else 0.0


@shared
def turn(U, first, R, x, sign):
    """U'U <- U'U + sign x x', where x (R,) is 0 before `first`, and scratch.   Golub & Van Loan 2013, section 6.5.4"""
    for k in range(first, R):
        old, f = U[k, k], x[k]
        if f != 0:
            new = math.sqrt((old - f) * (old + f) if sign < 0 else old * old + f * f)
            c, s = new / old, f / old
            U[k, k] = new
            for j in range(k + 1, R):
                u = (U[k, j] + sign * s * x[j]) / c
                x[j] = c * x[j] - s * u
                U[k, j] = u


@shared
def lower(U, first, R, x):
    """x <- U'^-1 x, where x (R,) is 0 before `first`."""
    for k in range(first, R):
        x[k] /= U[k, k]
        f = x[k]
        for j in range(k + 1, R):
            x[j] -= f * U[k, j]


@kernel("T2 T1 i1 i1w T2w T1w d i", fastmath=FAST)
def _full(H, h, candidates, active, U, alpha, tol, sweeps):
    n, place, row = len(H), np.full(alpha.size, -1), np.full(alpha.size, -1)
    for m in range(n):
        row[candidates[m]] = m
    x, z, mu = np.empty(n), np.empty(n), np.empty(n)
    R = 0
    while n > R and active[R] >= 0:
        place[active[R]] = R
        R += 1
    total, stale = 0.0, True
    for _ in range(sweeps):
        gained = 0.0
        for m in range(n):
            i = candidates[m]
            if stale:
                for p in range(R):
                    z[p] = h[active[p]]
                lower(U, 0, R, z)
                for p in range(R - 1, -1, -1):
                    v = z[p]
                    for j in range(p + 1, R):
                        v -= U[p, j] * mu[j]
                    mu[p] = v / U[p, p]
                stale = False
            at, old, v = place[i], alpha[i], 0.0
            if at >= 0:
                for p in range(R):
                    x[p] = 0.0
                x[at] = 1.0
                lower(U, at, R, x)
                for p in range(at, R):
                    v += x[p] * x[p]
                s, q = (1 - v / old) / v, mu[at] / v
            else:
                q = h[i]
                for p in range(R):
                    x[p] = H[m, active[p]]
                    q -= x[p] * mu[p]
                lower(U, 0, R, x)
                for p in range(R):
                    v += x[p] * x[p]
                s = H[m, i] - v
            new = best(s, q, H[m, i])
            for p in range(R if at < 0 and new > 0 else 0):
                j = active[p]
                if H[m, j] * H[m, j] >= ALIKE * H[m, i] * H[row[j], j]:
                    new = 0.0
            if abs(new - old) <= 1e-9 * old:
                continue
            gained += gain(s, q, new) - gain(s, q, old)
            alpha[i], stale = new, True
            if at < 0:
                for p in range(R):
                    U[p, R] = x[p]
                U[R, R] = math.sqrt(s + 1 / new)
                active[R], place[i] = i, R
                R += 1
            elif new > 0:
                for p in range(R):
                    x[p] = 0.0
                x[at] = math.sqrt(abs(1 / new - 1 / old))
                turn(U, at, R, x, 1.0 if new < old else -1.0)
            else:
                R -= 1
                for p in range(at, R):
                    x[p] = U[at, p + 1]
                for p in range(at, R):
                    for j in range(p, R):
                        U[p, j] = U[p + 1, j + 1]
                    active[p] = active[p + 1]
                    place[active[p]] = p
                for p in range(at):
                    for j in range(at, R):
                        U[p, j] = U[p, j + 1]
                place[i] = -1
                turn(U, at, R, x, 1.0)
        total += gained
        if gained < tol:
            break
    for p in range(R, n):
        active[p] = -1
    return total


def full(H, h, candidates, active, U, alpha, tol, sweeps):
    """Sweeps over the candidates, until one gains less than tol nats. Returns the nats gained; changed in place:

    alpha (D,); active (n,), the R numbers of weights with alpha > 0, then -1; U (n,n), in its first R rows and columns,
    upper triangle, the factor of P, in that order. Read: h (D,), H (n,D), the rows `candidates` (n,) of H."""
    return _full(H, h, candidates, active, U, alpha, tol, sweeps)


@kernel("T2 i1 T1w T1w T1w d i")
def _diagonal(H, candidates, Q, mu, alpha, tol, sweeps):
    total = 0.0
    for _ in range(sweeps):
        gained = 0.0
        for m in range(len(H)):
            i = candidates[m]
            s = H[m, i]
            q, old = Q[i] + s * mu[i], alpha[i]
            new = best(s, q, s)
            move = new * q / (1 + new * s) - mu[i]
            if abs(new - old) <= 1e-9 * old and abs(move) <= 1e-9 * abs(mu[i]):
                continue
            before = (
                gain(s, q, old) - 0.5 * (s + (1 / old if old > 0 else 0.0)) * (mu[i] - old * q / (1 + old * s)) ** 2
            )
            gained += gain(s, q, new) - before
            for l in range(len(Q)):
                Q[l] -= move * H[m, l]
            mu[i] += move
            alpha[i] = new
        total += gained
        if gained < tol:
            break
    return total


def diagonal(H, candidates, Q, mu, alpha, tol, sweeps):
    """`full` for q(w) = N(mu, diag S): moves mu and alpha (D,), which are 0 together, and Q (D,) = h - H mu, in place.

    Read: H (n,D), rows `candidates` (n,) of H. Returns the nats gained."""
    return _diagonal(H, candidates, Q, mu, alpha, tol, sweeps)
