"""A mixture fitted to a file of 10 million rows (160 MB, in a temporary folder) that never stands in memory whole.

`python mixture_stream.py 1000000` takes fewer rows.
"""

import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

import lvm

MEANS = np.array([[0, 0, 0, 0], [4, 0, 0, 2], [0, 4, 0, -2], [2, 2, 5, 0]], np.float32)
BLOCK = 2**17  # rows at a time


def write(path, n_rows):
    """Rows of four Gaussians with one covariance, mix' mix, and weights 0.1, 0.2, 0.3, 0.4."""
    rng, mix = np.random.default_rng(0), np.eye(4, dtype=np.float32) + 0.5 * np.eye(4, k=1, dtype=np.float32)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, 4))
    for start in range(0, n_rows, BLOCK):
        n = min(BLOCK, n_rows - start)
        labels = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4])
        rows[start : start + n] = MEANS[labels] + rng.standard_normal((n, 4), np.float32) @ mix


def blocks(path):
    rows = np.load(path, mmap_mode="r")
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]  # of as many files, or answers of a data base, as there are


def memory_map(model, path):
    return model.fit(np.load(path, mmap_mode="r"))


def function_of_blocks(model, path):
    return model.fit(lambda: blocks(path))


def one_pass(model, path):
    for block in blocks(path):
        model.partial_fit(block)
    return model


def main(n_rows=10_000_000):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.npy")
        start = time.perf_counter()
        write(path, n_rows)
        print(f"{n_rows} rows, {path.stat().st_size / 1e6:.0f} MB, written in {time.perf_counter() - start:.1f} s\n")
        lvm.GaussianMixture(4, random_state=0).fit(next(blocks(path)))  # compiles, or loads from the cache
        print("way                 steps  seconds  peak memory  largest error of the means")
        tracemalloc.start()
        for way in memory_map, function_of_blocks, one_pass:
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
            model = way(lvm.GaussianMixture(4, random_state=0), path)
            seconds, peak = time.perf_counter() - start, (tracemalloc.get_traced_memory()[1] - before) / 1e6
            error = abs(model.means_[:, None] - MEANS).max(axis=2).min(axis=0).max()
            print(f"{way.__name__:20}{model.n_iter_:5}{seconds:9.1f}{peak:10.1f} MB{error:13.4f}")
    print("\nsteps: of EM, each over the whole file; of one_pass, over the first block until that converges, then over")
    print("every other block once. peak memory: what the fit took beyond the start, without the file's pages.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
