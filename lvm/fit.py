"""Climbers: loops that know no model and no device. They drive an objective and watch its bound."""

import concurrent.futures
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .estimator import ConvergenceWarning, NumericalError, warn
from .parameters import Parameters


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


def newton(objective, point, *, max_iter: int, tol: float, tick: Callable[[float], None] | None = None) -> Climb:
    """Damped steps: `objective.step(point, rho)` gives the point, with its `.bound`, after a step of length rho.

    Each begins at rho = 1, and where the bound falls rho is halved, down to 1e-3: so the bound never falls but by
    rounding, and where no step helps, the climb is at its end. NumericalError where there is no finite bound. Ctrl-C
    ends the climb after the last complete step.
    Converged: as in `em`, with `tol` times the bound's size, 1 at least. tol=0 takes all steps.
    """
    bounds: list[float] = []
    converged = interrupted = False
    try:
        while len(bounds) < max_iter and not converged:
            size = max(1.0, abs(point.bound))
            rho, new, bound = 2.0, None, math.nan
            while new is None and rho > 1e-3:
                rho /= 2
                with contextlib.suppress(np.linalg.LinAlgError):  # a matrix with NaN, for instance
                    tried = objective.step(point, rho)
                    bound = tried.bound
                    new = tried if bound >= point.bound - 1e-12 * size else None
            if new is None:
                if not math.isfinite(bound):
                    raise NumericalError(
                        f"Step {len(bounds) + 1} has no finite bound, however short it is: numbers overflow. Try "
                        "scaling X, or weights of a mean near 1."
                    )
                converged = True
                break
            point, bounds = new, [*bounds, new.bound]
            converged = len(bounds) > 1 and _settled(bounds, tol * size, 1e-14 * size)
            if tick is not None:
                tick(new.bound)
    except KeyboardInterrupt:
        interrupted = True
    return Climb(point, point.bound, bounds, converged, interrupted)


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


# ------------------------------------------------------------------------------------------- stochastic training
PATIENCE = 10, 20  # bad steps in a row, and in all: the learning rate has been halved as often
EVERY = 30.0  # seconds between two checkpoints
SCHEDULES = ("constant", "cosine")


class Batches:
    """The rows of N in an order drawn anew for each epoch, by (seed, epoch) alone, and cut into batches.

    A batch is an int64 array of row numbers of the kernel set k. The last one of an epoch may be short; the objective
    gives each of its rows the weight that all rows have. With N <= batch_size the one batch is all rows in their order.
    seed: an integer below 2^64. rows (N,): their numbers, where they are not all of 0 to N-1. passes: how often an
    epoch goes over them."""

    def __init__(self, k, n_rows: int, batch_size: int, seed: int, rows: Any = None, passes: int = 1) -> None:
        self.k, self.n_rows, self.batch_size, self.seed, self.rows = k, n_rows, batch_size, seed, rows
        self.passes = passes
        self.settings = {"n_rows": n_rows, "batch_size": batch_size, "seed": seed, "passes": passes}
        self.same = n_rows <= batch_size  # is every batch the same array?
        self._all = k.put(np.arange(n_rows) if rows is None else rows) if self.same else None

    def __len__(self) -> int:
        return self.passes * -(-self.n_rows // self.batch_size)

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch."""
        if self.same:
            yield from itertools.repeat(self._all, self.passes)
            return
        some = self.n_rows if self.rows is None else self.rows
        for i in range(number * self.passes, (number + 1) * self.passes):
            key = np.array([self.seed, i], np.uint64)
            order = self.k.put(np.random.Generator(np.random.Philox(key=key)).permutation(some))
            for a in range(0, self.n_rows, self.batch_size):
                yield order[a : a + self.batch_size]


class Ahead:
    """Batches that are arrays of the kernel set k, read by a thread of their own while the one before is worked on:
    of `batches` by read(batch), or by `read` alone, an iterator of arrays for each epoch, n of them. Where X is on a
    disk, or a user's function makes it. settings: as in `Batches`."""

    same = False

    def __init__(self, k, read: Callable[..., Any], n: int, settings: dict[str, Any], batches: Any = None) -> None:
        self.k, self.read, self.n, self.settings, self.batches = k, read, n, settings, batches

    def __len__(self) -> int:
        return self.n

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch."""
        end = object()
        items = self.read() if self.batches is None else map(self.read, self.batches.epoch(number))
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="lvm-read") as reader:
            coming = reader.submit(next, items, end)
            while (item := coming.result()) is not end:
                coming = reader.submit(next, items, end)
                yield self.k.put(item)


def held_out(rows, fraction: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows (N,) to fit, and of those to hold out, drawn by rng. ValueError where none are left."""
    order, n = rng.permutation(rows), int(np.ceil(len(rows) * fraction))
    if n == len(rows):
        raise ValueError(f"validation_fraction={fraction} leaves no rows to fit of {n}.")
    return np.sort(order[n:]), np.sort(order[:n])


class Steps:
    """Epochs of n steps, in place of `Batches`, for an objective without data: its batch is None. same=False for one
    whose steps do something on the host, and cannot be recorded."""

    def __init__(self, n: int, same: bool = True) -> None:
        self.n, self.same, self.settings = n, same, {"steps_per_epoch": n}

    def __len__(self) -> int:
        return self.n

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch."""
        return itertools.repeat(None, self.n)


class Training(NamedTuple):
    """How a training went. history: a value for each epoch; bound: the best held-out one, or the last of training, in
    mean nats per row; n_undone: the steps that were not finite."""

    history: dict[str, list[float]]
    n_epochs: int
    bound: float
    converged: bool
    interrupted: bool
    n_undone: int


class _Kept(NamedTuple):
    """A training after a whole number of epochs: replaced as a whole, so that Ctrl-C finds what belongs together."""

    state: dict[str, np.ndarray]
    history: dict[str, list[float]] = {}
    epochs: int = 0
    best: np.ndarray | None = None  # theta
    bound: float = -math.inf  # of best
    waited: int = 0  # epochs since the held-out bound rose
    converged: bool = False


def stochastic(
    objective,
    batches,
    parameters: Parameters,
    *,
    max_epochs: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    clip_norm: float | None = None,
    schedule: str = "constant",
    warmup_steps: int = 0,
    early_stopping: bool = False,
    n_epochs_no_change: int | None = 10,
    tol: float = 1e-4,
    callback: Callable[[int, dict[str, float]], Any] | None = None,
    checkpoint=None,
    settings: dict[str, Any] | None = None,
    verbose: Any = 0,
    title: str = "Training",
) -> Training:
    """Train `parameters` by Adam (Kingma & Ba 2015) with the gradients of `objective`, over `batches` of rows.

    The objective has
        step(batch, counter)    fills parameters.g with the gradient of minus the bound: of its mean per row, estimated
                                from the batch. counter (1,) int64 keys the noise. Reads nothing back and allocates
                                nothing, so that it may be recorded: then its Python code runs twice for batches of one
                                shape, and the kernels that it queued are replayed.
        values()                {name: float}, means per row since the last call, with "lower_bound" among them. Once an
                                epoch.
        validate()              with early_stopping: the bound of held-out rows, or {name: float} with "lower_bound"
                                among them; its noise must not depend on the steps so far. Once an epoch.
    batches: Batches or Steps, or what has `len()`, `epoch(number)`, `same` and `settings` as these.

    clip_norm: g is shortened to this norm where it is longer. schedule: "cosine" takes the rate to 0 over the steps of
    max_epochs, counted from when the parameters were made. A step with a gradient that is not finite is not taken:
    half of the one before is undone and the rate halved, for good (see `descend` of the kernels), and a warning says so
    at the end. After 10 in a row, or 20 in all, by the end of an epoch, NumericalError is raised.

    With early_stopping the training has converged when the held-out bound has not risen by more than `tol` over its
    best for n_epochs_no_change epochs, and parameters hold what was best. Without, when the mean of the training bound
    over the last n_epochs_no_change epochs is not more than `tol` above the mean over as many before: bounds of single
    epochs are noisy. Neither counts what is before step warmup_steps, in which the objective may raise the weight
    of its KL: min(the steps wanted, max_epochs * len(batches)), so that it ends within the training.
    n_epochs_no_change=None: always max_epochs.

    callback(epoch, values) is called after each epoch, with the values of the history; training ends if it returns
    True. Ctrl-C, too, ends it, after the last whole epoch; within the first one it is raised. On any error parameters
    go back to where the last epoch ended.

    checkpoint: a file that is written at the end, and after an epoch if the last time was 30 seconds ago. Where there
    is one, training goes on from it, with the same bits as if it had not stopped; ValueError if it comes from other
    `settings`, arguments or shapes (max_epochs may differ, unless the schedule depends on it).

    verbose: show a progress bar, which begins with `title`.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}.")
    total = max_epochs * len(batches)
    if warmup_steps > total:
        raise ValueError(f"warmup_steps must be at most the steps of the training, {total}, got {warmup_steps}.")
    rule = {
        "rate": learning_rate,
        "period": total if schedule == "cosine" else 0,
        "clip": math.inf if clip_norm is None else clip_norm,
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": epsilon,
    }
    stop = _Stop(early_stopping, -(-warmup_steps // len(batches)), n_epochs_no_change, tol)
    options = {
        "shapes": {name: list(shape) for name, shape in parameters.shapes.items()},
        "dtype": str(parameters.dtype),
        "learning_rate": learning_rate,
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": epsilon,
        "clip_norm": clip_norm,
        "schedule": schedule,
        "max_epochs": max_epochs if schedule == "cosine" else None,
        "warmup_steps": warmup_steps,
        "early_stopping": early_stopping,
        "n_epochs_no_change": n_epochs_no_change,
        "tol": tol,
    }
    file = _File(checkpoint, {**options, **batches.settings, **(settings or {})})
    kept = _Kept(parameters.state())
    undone = -int(kept.state["counters"][3])
    kept = file.resumed(kept)
    if kept.epochs > 0:
        parameters.restore(kept.state)

    def step(batch):
        objective.step(batch, parameters.counter)
        parameters.descend(**rule)

    run = _Recorded(parameters.k, step, batches.same)
    interrupted = ended = False
    try:
        quiet = np.errstate(over="ignore", invalid="ignore")  # a step that is not finite is undone
        with quiet, _steps(title, verbose, total, kept.epochs * len(batches)) as tick:
            while kept.epochs < max_epochs and not kept.converged and not ended:
                for batch in batches.epoch(kept.epochs):
                    run(batch)
                    if tick is not None:
                        tick()
                state = parameters.state()
                _check(parameters, state, learning_rate)
                values = _values(objective, early_stopping)
                history = {name: [*kept.history.get(name, []), value] for name, value in values.items()}
                kept = stop.judged(kept._replace(state=state, history=history, epochs=kept.epochs + 1))
                file.save(kept, EVERY)
                if tick is not None:
                    tick(kept.epochs, values["lower_bound"])
                ended = callback is not None and bool(callback(kept.epochs, values))
    except BaseException as e:
        parameters.restore(kept.state)
        if not isinstance(e, KeyboardInterrupt) or kept.epochs == 0:
            raise
        interrupted = True
    file.save(kept)
    if kept.best is not None:
        parameters.restore(kept.state | {"theta": kept.best})
    undone += int(kept.state["counters"][3])
    if undone:
        warn(
            f"{undone} training steps had a gradient that was not finite and were undone, and the learning rate was "
            f"halved as often, to {learning_rate * kept.state['control'][0]:.3g}. Try a smaller learning_rate, a "
            "clip_norm, or scaling X.",
            ConvergenceWarning,
        )
    return Training(kept.history, kept.epochs, stop.bound(kept), kept.converged, interrupted, undone)


class _Recorded:
    """step(batch), recorded where the kernel set k records: for batches that are all the `same` array, or for those of
    the first one's shape, each copied to one place. Others, a short last one, are stepped as they come; so is None,
    unless `same`."""

    def __init__(self, k, step, same):
        self.k, self.step, self.same = k, step, same
        self.again: Any = None
        self.place: Any = None

    def __call__(self, batch):
        if self.again is None and (self.same or batch is not None):
            self._begin(batch)
        if self.same:
            self.again()
        elif self.place is not None and self.place.shape == batch.shape:
            self.place.copy_to_device(batch)  # queued: arrays of a set that records are on a device
            self.again()
        else:
            self.step(batch)

    def _begin(self, batch):
        place = batch if self.same else self.k.empty(batch.shape, batch.dtype)
        step = self.step  # (a function that knew of self would keep all alive)
        once = lambda: step(place)
        self.again = self.k.capture(once)
        if self.again is not once:  # else nothing is recorded, and a copy not worth its time
            self.place = place


def _values(objective, early_stopping):
    """The epoch's values, for the history."""
    values = dict(objective.values())
    if early_stopping:
        held_out = objective.validate()
        held_out = held_out if isinstance(held_out, dict) else {"lower_bound": held_out}
        values |= {f"validation_{name}": value for name, value in held_out.items()}
    return {name: float(value) for name, value in values.items()}


def _check(parameters, state, learning_rate):
    """Raise NumericalError where steps are bad again and again."""
    tried, _, run, bad = map(int, state["counters"])
    if run < PATIENCE[0] and bad < PATIENCE[1]:
        return
    g = np.array(parameters.k.get(parameters.g))
    size = np.where(np.isfinite(g), np.abs(g), np.inf)
    raise NumericalError(
        f"Training cannot go on: of {tried} steps {bad} had a gradient that is not finite, the last {run} in a row, "
        f"worst in {parameters.where(int(size.argmax()))}, though the learning rate was halved each time, from "
        f"{learning_rate:g}. Try a smaller learning_rate, a clip_norm, or scaling X."
    )


class _Stop(NamedTuple):
    """When a training has converged, and what was best: see `stochastic`. warm: the epochs before that do not count."""

    early_stopping: bool
    warm: int
    n_epochs_no_change: int | None
    tol: float

    def judged(self, kept):
        """`kept`, with its last epoch taken into account."""
        n = self.n_epochs_no_change
        if not self.early_stopping:
            bounds = kept.history["lower_bound"][self.warm :]
            if n is None or len(bounds) < 2 * n:
                return kept
            with np.errstate(invalid="ignore"):  # -inf, of a target that is 0 somewhere
                return kept._replace(converged=bool(np.mean(bounds[-n:]) - np.mean(bounds[-2 * n : -n]) <= self.tol))
        if kept.epochs < self.warm:
            return kept
        bound = kept.history["validation_lower_bound"][-1]
        waited = 0 if bound > kept.bound + self.tol else kept.waited + 1
        if bound > kept.bound:
            kept = kept._replace(best=kept.state["theta"], bound=bound)
        return kept._replace(waited=waited, converged=n is not None and waited >= n)

    def bound(self, kept):
        """The bound of what parameters are left with."""
        name = "validation_lower_bound" if self.early_stopping else "lower_bound"
        return kept.bound if kept.best is not None else kept.history.get(name, [math.nan])[-1]


class _File:
    """The checkpoint of a training, if there is to be one."""

    def __init__(self, path, settings):
        self.path, self.settings, self.saved, self.last = path, settings, None, time.monotonic()

    def resumed(self, kept):
        """Where the file says the training stands, or else `kept`."""
        if self.path is not None:
            from . import checkpoint

            there = checkpoint.read(self.path, self.settings, kept.state)
            if there is not None:
                state, best, history, numbers = there
                self.saved = kept = _Kept(state, history, best=best, **numbers)
        return kept

    def save(self, kept, every=0.0):
        """Write it if that is due and there is anything new."""
        if self.path is None or kept.epochs == 0 or kept is self.saved or time.monotonic() - self.last < every:
            return
        from . import checkpoint

        numbers = {name: getattr(kept, name) for name in ("epochs", "bound", "waited", "converged")}
        checkpoint.write(self.path, self.settings, kept.state, kept.best, kept.history, numbers)
        self.saved, self.last = kept, time.monotonic()


@contextlib.contextmanager
def _steps(title, verbose, total, done):
    """A progress bar over steps when verbose; gives the function to call after each step, and with the number of the
    epoch and its bound after that, or None."""
    if not verbose:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit=" steps", total=total, initial=done) as bar:

        def tick(epoch=None, bound=None):
            if epoch is None:
                bar.update()
            else:
                bar.set_postfix_str(f"epoch {epoch}, bound {bound:.6f} nats per row", refresh=False)

        yield tick
