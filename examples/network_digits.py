"""Handwritten digits told apart by a Bayesian net that finds out which of its weights it needs.

The net is fitted with 50 200 weights, each with a prior variance of its own, judged on digits that it has not seen,
pruned, judged again, and exported: what is left is a plain net of few units, whose time is measured beside that of the
whole one.
"""

import pathlib
import statistics
import time

import numpy as np

import lvm


def seconds(nets, X, repeats=300):
    """Median time of predict(X) of each net, in turn, so that what else the machine does hits all of them."""
    taken = [[] for _ in nets]
    for _ in range(repeats):
        for net, times in zip(nets, taken):
            start = time.perf_counter()
            net.predict(X)
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def pruned(net):
    """Part of the weights of each layer that is pruned."""
    return ", ".join(f"{part:.1%}" for part in net.sparsity_)


def main(out="lvm-demo"):
    X, y = lvm.datasets.load_digits(return_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order].astype(np.float32), y[order]
    fit, labels, test, truth = X[:1200], y[:1200], X[1200:], y[1200:]
    net = lvm.BayesianMLPClassifier(hidden_layer_sizes=(300, 100), max_epochs=30, random_state=0)
    net.fit(fit, labels)
    print(f"{len(fit)} digits to fit, {len(test)} others to test; all {net.n_weights_} weights:")
    print(net.evaluate(test, truth))
    whole = net.export()
    net.prune()
    small = net.export()
    print(f"\nthe {net.n_weights_} weights whose log S/mu² is below 3; {pruned(net)} of the layers are pruned:")
    print(net.evaluate(test, truth))

    print("\nexported: mean weights alone, and units that these leave something to do")
    for exported in whole, small:
        print(f"{exported}: accuracy {np.mean(exported.predict(test) == truth):.4f}")
    for rows in 1, 1000:
        slow, fast = seconds((whole, small), X[:rows])
        print(f"{rows:4} at a time: {slow * 1e6:6.1f} us and {fast * 1e6:6.1f} us, {slow / fast:.2f} times as fast")

    print("\nthreshold  weights  accuracy")
    for threshold in -4, -3, -2, -1, 0, 1, 2, 3, 5, 10, None:
        net.prune(threshold)
        print(f"{'all' if threshold is None else threshold:>9}  {net.n_weights_:7}  {net.score(test, truth):.4f}")
    net.prune()
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
    figure.savefig(pathlib.Path(out, "example-network-digits.png"))
    print(f"A picture is in {out}/example-network-digits.png")


if __name__ == "__main__":
    main()
