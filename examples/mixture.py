"""How many kinds of eruption does Old Faithful have? Mixtures of each kind compared by BIC, the best one drawn."""

import pathlib

import lvm


def main(out="lvm-demo"):
    X = lvm.datasets.load_faithful()
    models = [
        lvm.GaussianMixture(K, covariance_type=kind, n_init=10, random_state=0).fit(X)
        for kind in ("full", "tied", "diag", "spherical")
        for K in (1, 2, 3, 4)
    ]
    print("covariances   K   log p(X)       BIC   (lower is better)")
    for model in sorted(models, key=lambda m: m.bic(X)):
        total = model.score_samples(X).sum()
        print(f"{model.covariance_type:12s} {model.n_components:2d} {total:10.2f} {model.bic(X):9.2f}")

    best = min(models, key=lambda m: m.bic(X))
    print(f"\nThe best: {best}")
    for k, (weight, mean) in enumerate(zip(best.weights_, best.means_)):
        print(f"  component {k}: {weight:.0%} of eruptions, {mean[0]:.1f} min long, then a wait of {mean[1]:.0f} min")
    try:
        ax = lvm.plotting.plot_mixture(best, X)
    except ImportError as e:
        print(e)
        return
    ax.set(xlabel="eruption (min)", ylabel="wait (min)")
    pathlib.Path(out).mkdir(exist_ok=True)
    ax.figure.savefig(pathlib.Path(out, "example-mixture.png"))
    print(f"A picture is in {out}/example-mixture.png")


if __name__ == "__main__":
    main()
