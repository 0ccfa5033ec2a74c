"""Where a climb begins: rows that stand for all, and seeds among them. Apart from lvm.mixture, for families to come.

Everything here sees only the weighted distribution of the rows, whose weights are above 0: a row of weight 2 counts as
that row twice, and the order of the rows does not matter (up to LARGEST rows; of more, a sample is looked at). Rows are
put in order along a random direction, t = ((x - mean) / scale) . v, and a draw is a point of the cumulated weights in
that order. Columns count in units of their own spread. A gap (NaN) counts as the mean in that order and in a seed, and
distances are those in what was observed.
"""

from typing import NamedTuple

import numpy as np

LARGEST = 2**18  # rows that a start looks at
_CHUNK = 2**14


class Rows(NamedTuple):
    """X (n,D) with weights w (n,), and of all rows the columns' mean, standard deviation (1 for a constant one) and
    variance (0 for a constant one), and the part of the weight where they were observed, each (D,); gaps: has X NaN?"""

    X: np.ndarray
    w: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    var: np.ndarray
    seen: np.ndarray
    gaps: bool


def rows(blocks, rng) -> tuple[Rows, int, float]:
    """What a start looks at of all rows: blocks() yields X (n,D), w (n,) or (0,), twice. Rows of weight 0 or with
    nothing observed do not count; of more than LARGEST others there is a stratified sample by weight. Also their number
    and their weight.

    Raises ValueError when a column was never observed, or the squares of one would leave the range of X's dtype."""
    N, W, mean, constant, seen, dtype = _means(blocks)
    D = len(mean)
    n = min(LARGEST, max(2**21 // D, 2**12)) if N > LARGEST else None
    # one draw in each of n equal parts of the weight
    at = None if n is None else (np.arange(n) + rng.random(n)) / n * W
    var, cumulated, taken, kept, weights = np.zeros(D), 0.0, 0, [], []
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for X, w in _chunks_of(blocks):
            square = (X - mean) ** 2
            var += np.where(np.isnan(square), 0, w[:, None] / seen * square).sum(0)
            if at is None:
                kept.append(X)
                weights.append(w)
            else:
                sums = cumulated + np.cumsum(w)
                cumulated = sums[-1]
                new = taken + np.searchsorted(at[taken:], cumulated)
                kept.append(X[np.minimum(np.searchsorted(sums, at[taken:new], side="right"), len(X) - 1)])
                taken = new
        sd = np.sqrt(var)
    least, most = (1e-11, 1e15) if dtype == np.float32 else (1e-140, 1e140)
    wrong = ~constant & ~((sd >= least) & (sd <= most))
    if wrong.any():
        j = int(wrong.argmax())
        raise ValueError(
            f"Column {j} of X has a standard deviation of {sd[j]:.3g}, which must be between {least:g} and {most:g} "
            f"for {dtype} so that squares can be held. Try scaling X."
        )
    var[constant] = 0
    sample = np.concatenate(kept)
    w = np.ones(len(sample)) if at is not None else np.concatenate(weights)
    scale, gaps = np.where(var > 0, np.sqrt(var), 1.0), any(np.isnan(sample[c]).any() for c in _chunks(len(sample)))
    return Rows(sample, w, mean, scale, var, seen / W, gaps), N, float(W)


def _means(blocks):
    """Of the rows that count: their number, weight, the columns' weighted means, which are constant, and the weight
    where they were observed; the dtype."""
    N, W = 0, 0.0
    mean, seen, first, constant = np.zeros(1), np.zeros(1), np.full(1, np.nan), np.ones(1, bool)
    with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
        for X, w in _chunks_of(blocks):
            dtype, N, W = X.dtype, N + len(X), W + w.sum()
            gap = np.isnan(X)
            first = np.where(np.isnan(first), X[np.argmin(gap, axis=0), np.arange(X.shape[1])], first)
            constant = constant & (gap | (first == X)).all(0)
            weight = np.where(gap, 0, w[:, None])
            here = weight.sum(0)
            seen = seen + here
            part = np.where(here > 0, here / seen, 0)  # the mean of all is that of the parts: Chan et al. 1983
            away = np.where(gap, 0, weight / np.where(here > 0, here, 1) * (X - first)).sum(0)
            mean = mean + part * np.where(here > 0, away + first - mean, 0)
    if N == 0:
        raise ValueError("X has nothing observed in it: its rows are all NaN, or have no weight.")
    if not np.all(seen > 0):
        raise ValueError(f"Column {int(np.argmin(seen > 0))} of X has nothing observed, it is all NaN. Leave it out.")
    return N, W, mean, constant, seen, dtype


def _chunks_of(blocks):
    """The rows that count, some at a time, and their weights."""
    for X, w in blocks():
        for c in _chunks(len(X)):
            x, v = X[c], w[c] if w.size else np.ones(c.stop - c.start)
            some = (v > 0) & ~np.isnan(x).all(1)
            if some.all():
                yield x, v
            elif some.any():
                yield x[some], v[some]


def _chunks(n):
    return [slice(a, min(a + _CHUNK, n)) for a in range(0, n, _CHUNK)]


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
    t = np.concatenate([np.nansum((r.X[c] - r.mean) * v, axis=1) for c in _chunks(len(r.X))])
    return np.argsort(t, kind="stable")


def seeds(k, r: Rows, K, rng, *, spread=True, given=None):
    """K rows to begin at, besides the points `given` (G,D): -> (K,D) float64.

    spread: greedy k-means++ (Arthur & Vassilvitskii 2007): among 2 + log K rows drawn with probability w d², d the
    distance to the nearest seed so far, the one that leaves the least sum of w d². Else rows drawn by weight alone,
    none equal to an earlier one while others are left."""
    order = in_order(r, rng)
    w, inverse, middle = r.w[order], (1 / r.scale).astype(r.X.dtype), r.mean.astype(r.X.dtype)
    tries = 2 + int(np.log(K)) if spread else 1
    X, found, d2 = k.put(r.X), [], np.full(len(r.X), np.inf, r.X.dtype)
    if given is not None:
        for z in np.asarray(given, r.X.dtype):
            d2 = np.minimum(d2, _distances(k, X, z[None], inverse)[0])
    for _ in range(K):
        left = w if not np.isfinite(d2[0]) else w * (d2[order] if spread else d2[order] > 0)
        cumulated = np.cumsum(left)
        if not cumulated[-1] > 0:  # fewer different rows than seeds
            cumulated = np.cumsum(w)
        draws = np.searchsorted(cumulated, rng.random(tries) * cumulated[-1], side="right")
        Z = r.X[order[np.minimum(draws, len(order) - 1)]]
        Z = np.where(np.isnan(Z), middle, Z)
        nearest = np.minimum(d2, _distances(k, X, Z, inverse))
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
    d2 = k.empty((len(Z), len(X)), X.dtype)
    k.mixture.squared_distances(X, k.put(np.ascontiguousarray(Z)), k.put(inverse), d2)
    return k.get(d2)


def column_spread(X, w):
    """Means and standard deviations (D,) of the columns, of at most 65536 rows spread over X; 1 for constant ones."""
    run = min(max(1, 65536 * 1024 // len(X)), 1024)  # of each 1024 rows: in a row, for X may be on a disk
    at = [slice(a, min(a + run, len(X))) for a in range(0, len(X), 1024)]
    weights, first = [w[i] if w.size else np.ones(i.stop - i.start) for i in at], X[0].astype(float)
    total = max(sum(v.sum() for v in weights), 1e-300)
    mean = first + sum(v @ (X[i] - first) for v, i in zip(weights, at)) / total
    spread = np.sqrt(sum(v @ (X[i] - mean) ** 2 for v, i in zip(weights, at)) / total)
    return mean, np.where(spread > 0, spread, 1.0)
