"""Variational autoencoders on MNIST, as Burda, Grosse & Salakhutdinov (2016) have them: the NLL of the test set.

    python benchmarks/vae_mnist.py --data FOLDER [--rows "k=1, 400k steps" ...] [--out benchmarks/results] [--time]

FOLDER has the four files of MNIST, idx3-ubyte and idx1-ubyte, gzipped or not. Pixels are drawn afresh in each step, and
once for the test set; 784-200-200-d tanh units, batches of 100, Adam at 0.001 along a cosine, float32. NLL is minus the
mean importance-weighted log p(x) of the 10000 test rows, 5000 samples each. Rows that are done are kept in --out, and
the table is made of all that there are. --time trains for a few epochs only, and writes what a step of the fastest one
took to rows that are there: for a machine that had other things to do while it trained.
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

ROWS = {  # d, epochs of 600 steps, and what else VAE is given
    "k=1, 60 epochs": (50, 60, {}),
    "k=5, 60 epochs": (50, 60, {"n_importance": 5}),
    "k=50, 60 epochs": (50, 60, {"n_importance": 50}),
    "k=1, 400k steps": (50, 667, {}),
    "k=5, 400k steps": (50, 667, {"n_importance": 5}),
    "planar K=0, 100 epochs": (40, 100, {}),
    "planar K=10, 100 epochs": (40, 100, {"n_flow_layers": 10}),
}


def images(folder, name):
    """The images (N,784) of a file of MNIST as float32 from 0 to 1."""
    for path in (folder / name, folder / f"{name}.gz", folder / f"{name.replace('-idx', '.idx')}"):
        if path.exists():
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
            return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255
    raise SystemExit(f"There is no {name} or {name}.gz in {folder}. MNIST is four files; this one is needed.")


def fitted(name, X, max_epochs=None):
    """The model of a row, and milliseconds of a step in the fastest epoch."""
    d, epochs, given = ROWS[name]
    ends = [time.perf_counter()]
    model = lvm.VAE(
        d,
        hidden_layer_sizes=(200, 200),
        activation="tanh",
        likelihood="bernoulli",
        binarize="dynamic",
        batch_size=100,
        max_epochs=max_epochs or epochs,
        random_state=0,
        verbose=1,
        callback=lambda *_: ends.append(time.perf_counter()),
        **given,
    ).fit(X)
    seconds = np.diff(ends)[-max(1, len(ends) - 2) :]  # not of the first, which compiles, if there are others
    return model, round(float(seconds.min()) * 1e3 / -(-len(X) // 100), 3)


def measured(name, X, test, n_importance, max_epochs=None):
    """A row of the table."""
    start = time.perf_counter()
    model, ms = fitted(name, X, max_epochs)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    found = model.evaluate(test, n_importance=n_importance)
    return {
        "steps": model.n_iter_ * -(-len(X) // 100),
        "ms a step": ms,
        "NLL": round(found.nll, 3),
        "standard error": round(found.nll_error, 3),
        "bound": round(found.bound, 3),
        "gap": round(-found.nll - found.bound, 3),
        "active units": f"{found.n_active} of {ROWS[name][0]}",
        "training bound": round(model.lower_bound_, 2),
        "seconds": round(seconds, 1),
        "seconds for NLL": round(time.perf_counter() - start, 1),
    }


def table(rows):
    """As Markdown."""
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    lines = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(str(rows[name].get(c, "")) for c in columns) + " |" for name in ROWS if name in rows
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, help="in place of each row's own")
    parser.add_argument("--n-importance", type=int, default=5000)
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    X, test = (images(options.data, f"{name}-images-idx3-ubyte") for name in ("train", "t10k"))
    kept = options.out / "vae.json" if options.out else None
    rows = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name in options.rows:
        if options.time and name not in rows:
            continue
        if options.time:
            rows[name] = rows[name] | {"ms a step": fitted(name, X, 4)[1]}
        else:
            rows[name] = measured(name, X, test, options.n_importance, options.epochs)
        print(table(rows), flush=True)
        if kept:
            options.out.mkdir(parents=True, exist_ok=True)
            if kept.exists():
                rows = json.loads(kept.read_text()) | {name: rows[name]}
            kept.write_text(json.dumps(rows, indent=1) + "\n")
            about = f"{os.cpu_count()} CPUs, {platform.machine()}, NumPy {np.__version__}, lvm {lvm.__version__}"
            text = f"# Variational autoencoders on MNIST\n\n{about}. `benchmarks/vae_mnist.py` says what was done.\n\n"
            (options.out / "vae.md").write_text(text + table(rows) + "\n")


if __name__ == "__main__":
    main()
