"""Blocks on threads: each once, the same bits, safe under nesting, fork, exceptions and Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import lvm
from lvm.kernels import pool

PATIENCE = 60  # seconds until a hang is called a hang; nothing here takes a tenth of it


@pytest.fixture(autouse=True)
def default_threads():
    yield
    pool.set_num_threads(None)


def python(code, **environment):
    """Run `code` in a new process from the folder above lvm/; its standard output."""
    root = os.path.dirname(lvm.__path__[0])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def sums(n_blocks=37):
    """Partial sums of a fixed array, one a block, added in block order: what a kernel launcher does."""
    X = np.random.default_rng(0).standard_normal((n_blocks, 101)) * 1e3
    parts = np.zeros(n_blocks)

    def block(b):
        parts[b] = X[b].sum()

    pool.run(block, n_blocks)
    return sum(parts.tolist())


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("n_blocks", [0, 1, 2, 7, 2000])
def test_each_block_runs_exactly_once(threads, n_blocks):
    pool.set_num_threads(threads)
    seen = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places as often as they can
    try:
        pool.run(seen.append, n_blocks)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(seen) == list(range(n_blocks))


def test_blocks_run_side_by_side():
    pool.set_num_threads(3)
    meet = threading.Barrier(3, timeout=PATIENCE)
    pool.run(lambda b: meet.wait(), 3)  # a serial run would wait, and raise
    assert not meet.broken


def test_one_thread_stays_in_the_calling_thread():
    pool.set_num_threads(1)
    where = set()
    pool.run(lambda b: where.add(threading.get_ident()), 5)
    assert where == {threading.get_ident()}


def test_sums_have_the_same_bits_for_any_number_of_threads():
    results = set()
    for threads in (1, 2, 8):
        pool.set_num_threads(threads)
        results |= {sums() for _ in range(5)}
    assert len(results) == 1


def test_several_python_threads_may_run_at_once():
    pool.set_num_threads(1)
    want = sums()
    pool.set_num_threads(None)
    wrong = []

    def user(i):
        for j in range(20):
            pool.set_num_threads(1 + (i + j) % 5)  # the pool is also replaced by larger ones meanwhile
            if sums() != want:
                wrong.append((i, j))

    users = [threading.Thread(target=user, args=(i,)) for i in range(6)]
    for u in users:
        u.start()
    for u in users:
        u.join(PATIENCE)
    assert not any(u.is_alive() for u in users)
    assert wrong == []


def test_a_run_inside_a_block_is_serial():
    pool.set_num_threads(2)
    seen = []

    def outer(b):
        def inner(i):
            time.sleep(0.001)  # long enough for a second thread to join in, were it let
            seen.append((b, i, threading.get_ident()))

        pool.run(inner, 4)

    pool.run(outer, 6)
    assert sorted((b, i) for b, i, _ in seen) == [(b, i) for b in range(6) for i in range(4)]
    assert all(len({t for b, _, t in seen if b == outer_block}) == 1 for outer_block in range(6))
    test_blocks_run_side_by_side()  # and the next run is parallel again


@pytest.mark.parametrize("culprit", ["caller", "helper"])
def test_an_exception_is_raised_here_and_stops_the_rest(culprit):
    pool.set_num_threads(2)
    meet = threading.Barrier(2, timeout=PATIENCE)
    caller = threading.get_ident()
    started, ended = [], []

    def block(b):
        started.append(b)
        if b < 2:
            meet.wait()  # both threads have one of the first two blocks
            if (threading.get_ident() == caller) == (culprit == "caller"):
                raise ZeroDivisionError("block by the " + culprit)
        time.sleep(0.02)
        ended.append(b)

    with pytest.raises(ZeroDivisionError, match=f"block by the {culprit}"):
        pool.run(block, 1000)
    assert len(started) == len(ended) + 1  # only the culprit is unfinished
    assert len(started) < 500
    time.sleep(0.1)
    assert len(started) == len(ended) + 1  # and nothing has run since
    assert sums() == sums()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True, [2]])
def test_set_num_threads_wants_a_positive_integer(bad):
    with pytest.raises(ValueError, match=r"number of threads must be None or an integer of at least 1, got "):
        pool.set_num_threads(bad)


def test_set_num_threads_is_obeyed_and_none_undoes_it():
    before = lvm.get_num_threads()
    lvm.set_num_threads(np.int64(3))
    assert lvm.get_num_threads() == 3
    lvm.set_num_threads(None)
    assert lvm.get_num_threads() == before


def test_environment_variables_have_an_order(monkeypatch):
    names = ("LVM_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert pool.get_num_threads() == cores
    for i, name in enumerate(reversed(names)):  # each next one goes before those already set
        monkeypatch.setenv(name, str(11 + i))
        assert pool.get_num_threads() == 11 + i
    for useless in ("", "0", "-3", "many"):
        monkeypatch.setenv("LVM_NUM_THREADS", useless)
        assert pool.get_num_threads() == 12
    monkeypatch.setenv("LVM_NUM_THREADS", "7,2")  # OpenMP's list: one number a nesting level
    assert pool.get_num_threads() == 7
    pool.set_num_threads(5)
    assert pool.get_num_threads() == 5


def test_without_threads_to_be_had_the_caller_does_it_all(monkeypatch):
    pool.set_num_threads(2)
    want = sums()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_executor", None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert sums() == want


def test_works_while_the_interpreter_closes():
    code = """
import atexit
from lvm.kernels import pool
pool.set_num_threads(2)
atexit.register(lambda: (pool.run(seen.append, 9), print(sorted(seen))))
seen = []
pool.run(seen.append, 2)
seen.clear()
"""
    assert python(code) == str(list(range(9)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_works_even_if_the_parent_was_in_a_run():
    code = """
import os, threading, warnings
from lvm.kernels import pool
warnings.simplefilter("ignore", DeprecationWarning)     # Python 3.12 warns of fork beside threads: that is the test
pool.set_num_threads(2)

def child_works():
    pid = os.fork()
    if pid == 0:
        meet = threading.Barrier(2, timeout=20)
        pool.run(lambda b: meet.wait(), 2)              # in parallel again
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0

pool.run(lambda b: None, 50)
quiet = [child_works() for _ in range(3)]
done = threading.Event()

def hammer():
    while not done.is_set():
        pool.run(lambda b: sum(range(50)), 50)

users = [threading.Thread(target=hammer) for _ in range(3)]
for u in users:
    u.start()
busy = [child_works() for _ in range(10)]
done.set()
for u in users:
    u.join()
print(all(quiet), all(busy))
"""
    assert python(code) == "True True"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one child")
@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_stops_at_the_next_block_and_leaves_none_running(presses):
    code = """
import threading, time
from lvm.kernels import pool
pool.set_num_threads(2)
started, ended = [], []

def block(b):                       # the helper's block is long, and cannot be interrupted: as a compiled kernel
    started.append(b)
    if len(started) == 2:
        print("ready", flush=True)
    time.sleep(0.05 if threading.current_thread() is threading.main_thread() else 1)
    ended.append(b)

try:
    pool.run(block, 2000)           # 100 seconds
    print("not interrupted")
except KeyboardInterrupt:
    unfinished = len(started) - len(ended)
    count = len(started)
    time.sleep(0.2)
    print(unfinished <= 1, count == len(started) < 200)    # the interrupted block of the main thread is the one
"""
    root = os.path.dirname(lvm.__path__[0])
    child = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        for _ in range(presses):
            time.sleep(0.2)
            child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
        child.wait()
    assert out == "True True\n"
