"""How many kinds of eruption does Old Faithful have? Mixtures of every kind ranked by BIC, the best one drawn."""

import pathlib

import lvm


def main(out="lvm-demo"):
    X = lvm.datasets.load_faithful()
    selection = lvm.select_mixture(X, n_components=range(1, 7), n_init=10, random_state=0)
    print(selection)
    best = selection.best
    for k, (weight, mean) in enumerate(zip(best.weights_, best.means_)):
        print(f"  component {k}: {weight:.0%} of eruptions, {mean[0]:.1f} min long, then a wait of {mean[1]:.0f} min")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lvm.plotting.plot_selection(selection, ax=left)
    lvm.plotting.plot_mixture(best, X, ax=right).set(xlabel="eruption (min)", ylabel="wait (min)")
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-mixture.png"))
    print(f"A picture is in {out}/example-mixture.png")


if __name__ == "__main__":
    main()
