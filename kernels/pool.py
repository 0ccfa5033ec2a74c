"""How blocks run on threads.

Kernels are serial and nogil; `run` hands them fixed blocks. What a block computes does not depend on the thread that
runs it, so results have the same bits for any number of threads. Safe from several Python threads at once, after fork,
nested (an inner call runs serially), and under Ctrl-C (seen between two blocks). No numba threading layer takes part.
"""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

_executor: "ThreadPoolExecutor | None" = None
_lock = threading.Lock()
_here = threading.local()  # _here.busy: this thread is already working on a block
_chosen: "int | None" = None


def set_num_threads(n: "int | None") -> None:
    """Use `n` threads in every kernel from now on; None returns to the default.

    The default is the first of the environment variables LVM_NUM_THREADS, NUMBA_NUM_THREADS, OMP_NUM_THREADS that is
    set, else the number of cores this process may use. Results do not depend on it, to the last bit.
    Raises ValueError for anything but None or an integer of at least 1.

    >>> import lvm
    >>> lvm.set_num_threads(1)
    >>> lvm.get_num_threads()
    1
    >>> lvm.set_num_threads(None)
    """
    global _chosen
    if n is not None and (isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 1):
        raise ValueError(f"The number of threads must be None or an integer of at least 1, got {n!r}.")
    _chosen = None if n is None else n.__index__()


def get_num_threads() -> int:
    """How many threads the kernels use now (see `set_num_threads`)."""
    if _chosen is not None:
        return _chosen
    for name in ("LVM_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):  # joblib sets the last two in its workers
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) >= 1:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forget() -> None:
    """In a forked child: the parent's threads are gone, and its lock may have been held."""
    global _executor, _lock, _here
    _executor, _lock, _here = None, threading.Lock(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _submit(work, times: int, started: list) -> None:
    """Start `work` on `times` threads. Under the lock, so that no other thread can swap the executor in between."""
    global _executor
    try:
        with _lock:
            if _executor is None or _executor._max_workers < times:
                _executor = ThreadPoolExecutor(times, thread_name_prefix="lvm")
            for _ in range(times):
                started.append(_executor.submit(work))
    except RuntimeError:  # no more threads to be had, or the interpreter is closing: the caller's thread does it all
        pass


def run(block, n_blocks: int) -> None:
    """Call `block(b)` for every b in range(n_blocks), each once, in any order and on any thread.

    Blocks write to disjoint places. The first exception stops the others after their current block and is raised here,
    when no thread writes any more.
    """
    threads = min(get_num_threads(), n_blocks) if n_blocks > 1 else 1
    if threads <= 1 or getattr(_here, "busy", False):
        for b in range(n_blocks):
            block(b)
        return
    todo = itertools.count()
    todo_lock = threading.Lock()
    stop = threading.Event()

    def work():
        try:
            _here.busy = True
            while not stop.is_set():
                with todo_lock:
                    b = next(todo)
                if b >= n_blocks:
                    return
                block(b)
        except BaseException:
            stop.set()
            raise
        finally:
            _here.busy = False

    helpers: list = []
    try:
        _submit(work, threads - 1, helpers)
        work()
    finally:
        stop.set()  # every block is taken, or one has failed
        _wait(helpers)
    for f in helpers:
        if not f.cancelled():
            f.result()


def _wait(futures: list) -> None:
    """Return when none of `futures` runs any more, whatever Ctrl-C does meanwhile: their blocks write to our arrays."""
    pending = None
    while True:
        try:
            for f in futures:
                f.cancel() or f.exception()
            break
        except KeyboardInterrupt as e:
            pending = e
    if pending is not None:
        raise pending
