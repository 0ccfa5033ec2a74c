"""Do predicted probabilities come true? Apart from lvm.plotting, which draws it, for families that evaluate."""

from typing import NamedTuple

import numpy as np

from .estimator import check_array, check_int


class Calibration(NamedTuple):
    """What `calibration` gives: three arrays (n_bins,), of which two are NaN where a bin is empty, and two numbers."""

    counts: np.ndarray
    confidences: np.ndarray
    frequencies: np.ndarray
    ece: float
    brier: float


def calibration(probabilities, y, *, classes=None, n_bins: int = 10) -> Calibration:
    """How well probabilities (N,K), the columns in the order of `classes`, fit the labels y (N,) that came true.

    Of two classes p_n is the probability of the second, and o_n whether y_n is that; of more p_n is that of the most
    probable class, and o_n whether y_n is that. In bins B_b of equal width of p, from 0 to 1, with n_b rows:
        counts n_b;  confidences: mean of p_n, n in B_b;  frequencies: mean of o_n, n in B_b;
        ece = sum_b n_b/N |frequencies_b - confidences_b|, expected calibration error (Naeini et al. 2015 for two
        classes, Guo et al. 2017 for more);
        brier = mean_n sum_k (P_nk - [y_n = k])² (Brier 1950), halved for two classes: then it is mean_n (p_n - o_n)².
    Lower is better for both; use rows that the model was not fitted to. The ece of few rows is too high even for the
    right probabilities.
    classes: K labels, by default the sorted ones in y.

    Raises ValueError for what are no probabilities, and labels that do not fit.

    >>> from lvm.calibration import calibration
    >>> found = calibration([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], ["no", "no", "yes"], n_bins=2)
    >>> found.counts.tolist(), round(found.ece, 12), round(found.brier, 12)
    ([2, 1], 0.233333333333, 0.07)
    """
    check_int("n_bins", n_bins, 1, who="calibration")
    P = check_array(probabilities, "calibration", 1, False).astype(float)
    N, K = P.shape
    if K < 2 or P.min() < 0 or abs(P.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("probabilities must be (N,K), 0 or more, with rows that sum to 1. Try model.predict_proba(X).")
    classes = np.unique(np.asarray(y)) if classes is None else np.asarray(classes)
    if len(classes) != K:
        raise ValueError(f"probabilities are of {K} classes, got {len(classes)}. Try classes=model.classes_.")
    codes = codes_of(y, classes, N)
    best = P.argmax(axis=1) if K > 2 else np.ones(N, int)
    p, came_true = P[np.arange(N), best], codes == best
    b = np.minimum((p * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(b, minlength=n_bins)
    sums = [np.bincount(b, a, n_bins) for a in (p, came_true)]
    confidences, frequencies = (np.where(counts > 0, s / np.maximum(counts, 1), np.nan) for s in sums)
    ece = abs(sums[0] - sums[1]).sum() / N
    brier = ((P - np.eye(K)[codes]) ** 2).sum(axis=1).mean() / (2 if K == 2 else 1)
    return Calibration(counts, confidences, frequencies, float(ece), float(brier))


def codes_of(y, classes, n):
    """The number of each row's class among `classes`, for labels y (n,)."""
    y, classes = np.asarray(y), np.asarray(classes)
    if y.shape != (n,):
        raise ValueError(f"y must be one label for each of the {n} rows, got shape {y.shape}.")
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"y has labels {unknown.tolist()[:5]} that are not among the classes {classes.tolist()[:20]}.")
    return (y[:, None] == classes).argmax(axis=1)
