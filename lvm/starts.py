"""Where a climb begins: rows that stand for all, and seeds among them. Apart from lvm.mixture, for families to come.

Everything here sees only the weighted distribution of the rows, whose weights are above 0: a row of weight 2 counts as
that row twice, and the order of the rows does not matter (up to LARGEST rows; of more, a sample is looked at). Rows are
put in order along a random direction, t = ((x - mean) / scale) . v, and a draw is a point of the cumulated weights in
that order. Columns count in units of their own spread.
"""

from typing import NamedTuple

import numpy as np

LARGEST = 2**18  # rows that a start looks at
_CHUNK = 2**14


class Rows(NamedTuple):
    """X (n,D) with weights w (n,), and of all rows the columns' mean, standard deviation (1 for a constant one) and
    variance (0 for a constant one), each (D,)."""

    X: np.ndarray
    w: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    var: np.ndarray


def rows(X, w, rng) -> Rows:
    """X (N,D) and w (N,) or None, or a stratified sample of them by weight when N > LARGEST.

    Raises ValueError when the squares of some column would leave the range of X's dtype."""
    mean, var = _moments(X, w)
    scale = np.where(var > 0, np.sqrt(var), 1.0)
    if len(X) > LARGEST:
        n = min(LARGEST, max(2**21 // X.shape[1], 2**12))
        at = (np.arange(n) + rng.random(n)) / n  # one draw in each of n equal parts of the weight
        if w is None:
            index = (at * len(X)).astype(np.int64)
        else:
            cumulated = np.cumsum(w)
            index = np.minimum(np.searchsorted(cumulated, at * cumulated[-1], side="right"), len(X) - 1)
        X, w = np.ascontiguousarray(X[index]), None
    return Rows(X, np.ones(len(X)) if w is None else w, mean, scale, var)


def _moments(X, w):
    """Weighted mean (D,) and variance (D,) of the columns, exactly 0 for a constant one, in two passes."""
    W, first = len(X) if w is None else w.sum(), X[0].astype(float)
    mean, var, constant = first.copy(), np.zeros(X.shape[1]), np.ones(X.shape[1], bool)
    weight = (lambda c: 1.0) if w is None else lambda c: w[c, None]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for c in _chunks(len(X)):
            mean += (weight(c) * (X[c] - first)).sum(0) / W
            constant &= (X[c] == first).all(0)
        for c in _chunks(len(X)):
            var += (weight(c) * (X[c] - mean) ** 2).sum(0) / W
        sd = np.sqrt(var)
    least, most = (1e-11, 1e15) if X.dtype == np.float32 else (1e-140, 1e140)
    wrong = ~constant & ~((sd >= least) & (sd <= most))
    if wrong.any():
        j = int(wrong.argmax())
        raise ValueError(
            f"Column {j} of X has a standard deviation of {sd[j]:.3g}, which must be between {least:g} and {most:g} "
            f"for {X.dtype} so that squares can be held. Try scaling X."
        )
    var[constant] = 0
    return mean, var


def _chunks(n):
    return [slice(a, a + _CHUNK) for a in range(0, n, _CHUNK)]


def thinned(r: Rows, n, rng) -> Rows:
    """At most n rows that stand for all: one of each of n equal parts of the weight, along a random direction; a row
    counts as often as it was drawn. (Of fewer than n rows, too: only their weight may decide, not their number.)"""
    order = in_order(r, rng)
    cumulated = np.cumsum(r.w[order])
    at = np.searchsorted(cumulated, (np.arange(n) + rng.random(n)) / n * cumulated[-1], side="right")
    at, times = np.unique(np.minimum(at, len(order) - 1), return_counts=True)
    return r._replace(X=np.ascontiguousarray(r.X[order[at]]), w=times.astype(float))


def in_order(r: Rows, rng):
    """Row numbers along a random direction."""
    v = rng.standard_normal(len(r.mean)) / r.scale
    t = np.concatenate([((r.X[c] - r.mean) * v).sum(1) for c in _chunks(len(r.X))])
    return np.argsort(t, kind="stable")


def seeds(k, r: Rows, K, rng, *, spread=True, given=None):
    """K rows to begin at, besides the points `given` (G,D): -> (K,D) float64.

    spread: greedy k-means++ (Arthur & Vassilvitskii 2007): among 2 + log K rows drawn with probability w d², d the
    distance to the nearest seed so far, the one that leaves the least sum of w d². Else rows drawn by weight alone,
    none equal to an earlier one while others are left."""
    order = in_order(r, rng)
    w, inverse = r.w[order], (1 / r.scale).astype(r.X.dtype)
    tries = 2 + int(np.log(K)) if spread else 1
    found, d2 = [], np.full(len(r.X), np.inf, r.X.dtype)
    if given is not None:
        for z in np.asarray(given, r.X.dtype):
            d2 = np.minimum(d2, _distances(k, r.X, z[None], inverse)[0])
    for _ in range(K):
        left = w if not np.isfinite(d2[0]) else w * (d2[order] if spread else d2[order] > 0)
        cumulated = np.cumsum(left)
        if not cumulated[-1] > 0:  # fewer different rows than seeds
            cumulated = np.cumsum(w)
        draws = np.searchsorted(cumulated, rng.random(tries) * cumulated[-1], side="right")
        Z = r.X[order[np.minimum(draws, len(order) - 1)]]
        nearest = np.minimum(d2, _distances(k, r.X, Z, inverse))
        if tries == 1:
            best = 0
        else:
            left_over = np.array([(r.w * x).sum() for x in nearest])
            # the first of those that are equal but for rounding
            best = int(np.argmax(left_over <= left_over.min() * (1 + 1e-9)))
        found.append(Z[best])
        d2 = nearest[best]
    return np.array(found, dtype=float)


def _distances(k, X, Z, inverse):
    d2 = np.empty((len(Z), len(X)), X.dtype)
    k.mixture.squared_distances(X, np.ascontiguousarray(Z), inverse, d2)
    return d2
