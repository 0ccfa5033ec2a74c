"""Time and memory of a fit over the number of rows, which lie on disk: a straight line, and a constant.

    python benchmarks/scaling.py [--largest 10000000] [--columns 16] [--components 10]

For N = 10 000, doubled up to the largest: the time of one EM step, of a whole fit of ten steps with its start, and the
most memory that the fit held at once beside the file's pages (RssAnon of /proc each millisecond, so Linux only). Full
covariances, float64, numpy.memmap.
"""

import argparse
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks import problems  # noqa: E402
from lvm import GaussianMixture, show_versions  # noqa: E402


class Memory:
    """The most MiB of this process's own memory while the block runs, beyond what it had before."""

    def __enter__(self):
        self.before, self.most, self.done = self.now(), 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def now(self):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def watch(self):
        while not self.done.wait(0.001):
            self.most = max(self.most, self.now() - self.before)


def rows(path, N, D, K):
    """N rows on disk, written a million at a time, and a start."""
    X, start = problems.mixture(min(N, 1_000_000), D, K)
    mapped = np.memmap(path, X.dtype, "w+", shape=(N, D))
    for first in range(0, N, len(X)):
        mapped[first : first + len(X)] = X[: N - first]
    mapped.flush()
    return np.memmap(path, X.dtype, "r", shape=(N, D)), start


def seconds(f):
    """That f() takes."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main():
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--largest", type=int, default=10_000_000, help="most rows (default: 10000000)")
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--components", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # nothing converges here, on purpose
    show_versions()
    D, K = options.columns, options.components
    sizes = [10_000]
    while sizes[-1] < options.largest:
        sizes.append(min(2 * sizes[-1], options.largest))
    print(f"\n{'rows':>9}  {'ms a step':>10}  {'a row, ns':>9}  {'fit, s':>8}  {'MiB':>6}")
    with tempfile.TemporaryDirectory() as folder:
        X, start = rows(f"{folder}/X", sizes[-1], D, K)
        given = lambda steps: GaussianMixture(K, tol=0, reg_covar=0, max_iter=steps, **start)
        given(1).fit(X[:1000])  # compiles
        for N in sizes:
            some = X[:N]
            few, more = 2, 2 + max(4, 4_000_000 // N)
            step = [seconds(lambda: given(more).fit(some)) - seconds(lambda: given(few).fit(some)) for _ in range(3)]  # noqa: B023
            step = sorted(step)[1] / (more - few)
            with Memory() as memory:
                fit = seconds(lambda: GaussianMixture(K, tol=0, max_iter=10, random_state=0).fit(some))  # noqa: B023
            print(f"{N:9d}  {1e3 * step:10.2f}  {1e9 * step / N:9.1f}  {fit:8.2f}  {memory.most:6.1f}", flush=True)


if __name__ == "__main__":
    main()
