"""MNIST by a Bayesian net that prunes itself: 784-300-10 ReLU units, as Molchanov, Ashukha & Vetrov (2017) have it.

    python network_mnist.py FOLDER [--epochs 100] [--hidden 300 [100 ...]]

FOLDER has the four files of MNIST, train-images-idx3-ubyte, train-labels-idx1-ubyte and those of t10k, gzipped or not.
"""

import argparse
import gzip
import pathlib
import statistics
import time

import numpy as np

import lvm


def read(folder, name):
    """The array of bytes in an idx file."""
    for path in folder / name, folder / f"{name}.gz":
        if path.exists():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4)  # raw[3]: how many axes there are
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)
    raise SystemExit(f"There is no {name} in {folder}, nor {name}.gz.")


def seconds(nets, X, repeats=100):
    """Median time of predict(X) of each net, in turn, so that what else the machine does hits all of them."""
    taken = [[] for _ in nets]
    for _ in range(repeats):
        for net, times in zip(nets, taken):
            start = time.perf_counter()
            net.predict(X)
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def main(out="lvm-demo"):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--hidden", type=int, nargs="+", default=[300])
    asked = parser.parse_args()
    (X, y), (test, truth) = (
        (
            read(asked.folder, f"{part}-images-idx3-ubyte").reshape(-1, 784).astype(np.float32) / 255,
            read(asked.folder, f"{part}-labels-idx1-ubyte"),
        )
        for part in ("train", "t10k")
    )
    net = lvm.BayesianMLPClassifier(
        hidden_layer_sizes=asked.hidden, learning_rate=1e-3, max_epochs=asked.epochs, random_state=0, verbose=1
    )
    net.fit(X, y)
    print(f"{len(test)} digits that it has not seen, all {net.n_weights_} weights:")
    print(net.evaluate(test, truth))
    whole, weights = net.export(), net.n_weights_
    small = net.prune().export()
    pruned = ", ".join(f"{part:.1%}" for part in net.sparsity_)
    print(f"\n{net.n_weights_} weights, {weights / net.n_weights_:.1f} times fewer; {pruned} of the layers are pruned:")
    print(net.evaluate(test, truth))

    print("\nexported: mean weights alone, and units that these leave something to do")
    for exported in whole, small:
        print(f"{exported}: accuracy {np.mean(exported.predict(test) == truth):.4f}")
    for rows in 1, 1000:
        slow, fast = seconds((whole, small), test[:rows])
        print(f"{rows:4} at a time: {slow * 1e6:7.1f} us and {fast * 1e6:7.1f} us, {slow / fast:.2f} times as fast")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(15, 9), layout="constrained")
    rows = figure.add_gridspec(2, 6, height_ratios=(2, 3))
    across, left, middle, right = (
        figure.add_subplot(rows[at]) for at in (np.s_[0, :], np.s_[1, :2], np.s_[1, 2:4], np.s_[1, 4:])
    )
    lvm.plotting.plot_weights(net, ax=across)
    lvm.plotting.plot_sparsity(net, ax=left)
    lvm.plotting.plot_pruning(net, test, truth, ax=middle)
    lvm.plotting.plot_reliability(net.predict_proba(test), truth, classes=net.classes_, ax=right)
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-network-mnist.png"))
    print(f"A picture is in {out}/example-network-mnist.png")


if __name__ == "__main__":
    main()
