"""Climbers: loops that know no model and no device. They drive an objective and watch its bound."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .estimator import ConvergenceWarning, warn


class Climb(NamedTuple):
    """Where a climb ended: the last good parameters, their bound, and the bound after each step (mean nats per row)."""

    params: Any
    bound: float
    bounds: list[float]
    converged: bool
    interrupted: bool


def em(
    objective, params, *, max_iter: int, tol: float, eps: float, tick: Callable[[float], None] | None = None
) -> Climb:
    """Expectation maximisation: `objective.statistics(params)` and `objective.maximise(statistics)` in turn.

    The bound that statistics carry (`.bound`) belongs to the parameters they were taken at, so the bound returned is
    that of the parameters returned. It never falls but by rounding (`eps` is the dtype's); where it does, the step is
    undone, the climb ends and a ConvergenceWarning says so. Ctrl-C ends the climb after the last complete step; before
    the first E step is done it is raised. `tick(bound)` is called after each step.

    Converged: the last gain g and the gain still to come, g r / (1 - r) if gains go on shrinking by their last ratio r
    (Aitken; Böhning et al. 1994), are both below `tol` nats per row. tol=0 takes all `max_iter` steps.
    Dempster, Laird & Rubin 1977.
    """
    statistics = objective.statistics(params)
    last = params, [statistics.bound]  # replaced as a whole, so that Ctrl-C finds parameters with their own bound
    converged = interrupted = False
    try:
        while len(last[1]) <= max_iter and not converged:
            trace = last[1]
            new = objective.maximise(statistics)
            statistics = objective.statistics(new)
            size = 1 + abs(trace[-1])
            if not statistics.bound >= trace[-1] - eps**0.6 * size:
                warn(
                    f"EM step {len(trace)} lowered the bound from {trace[-1]:.9g} to {statistics.bound:.9g} nats per "
                    "row: the data are too ill-conditioned for this precision. The step was undone and the fit ends "
                    "here. Try float64, fewer components, more regularisation, or scaling X.",
                    ConvergenceWarning,
                )
                break
            last = new, [*trace, statistics.bound]
            converged = _settled(last[1], tol, 8 * eps * size)
            if tick is not None:
                tick(statistics.bound)
    except KeyboardInterrupt:
        interrupted = True
    params, trace = last
    return Climb(params, trace[-1], trace[1:], converged, interrupted)


def _settled(trace: list[float], tol: float, rounding: float) -> bool:
    """Has the bound come to rest? With one gain so far, the next is taken to be half of it."""
    gain = trace[-1] - trace[-2]
    if tol == 0 or not gain < tol:
        return False
    before = trace[-2] - trace[-3] if len(trace) > 2 else 2 * gain
    return gain <= rounding or (gain < before and gain * gain / (before - gain) < tol)


@contextlib.contextmanager
def progress(title: str, verbose: Any, interval: int = 10):
    """A progress bar with the bound when verbose; gives the function to call after each step, or None."""
    if not verbose:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit=" steps") as bar:
        bounds = []

        def tick(bound):
            bounds.append(bound)
            if len(bounds) % interval == 0:
                bar.set_postfix_str(f"bound {bound:.6f} nats per row", refresh=False)
                bar.update(interval)

        yield tick
        if bounds:
            bar.set_postfix_str(f"bound {bounds[-1]:.6f} nats per row", refresh=False)
        bar.update(len(bounds) - bar.n)
