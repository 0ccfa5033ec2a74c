"""A mixture fitted to iris with cells deleted, beside leaving out incomplete rows and filling in column means."""

import pathlib

import numpy as np

import lvm

SPLITS = 10  # of the 150 flowers into 100 to fit and 50 to score


def moments(model):
    """Mean (D,) and covariance (D,D) of the whole mixture."""
    mean = model.weights_ @ model.means_
    away = model.means_ - mean
    return mean, np.einsum("k,kij->ij", model.weights_, model.covariances_ + away[:, :, None] * away[:, None, :])


def main(out="lvm-demo"):
    iris, rng, table, last = lvm.datasets.load_iris(), np.random.default_rng(0), {}, {}
    sd = iris.std(axis=0)
    for _ in range(SPLITS):
        X, unseen = np.split(rng.permutation(iris), [100])
        long = X[:, :1] > 5.8  # what is missing may depend on what is observed
        for deleted, gone in {
            "a fifth of all cells": rng.random(X.shape) < 0.2,
            "petals of 3/4 of the long sepals": long & (rng.random((100, 1)) < 0.75) & [False, False, True, True],
        }.items():
            gaps = np.where(gone, np.nan, X)
            for way, rows in {
                "nothing deleted": X,
                "rows left out": gaps[~gone.any(axis=1)],
                "column means": np.where(gone, np.nanmean(gaps, axis=0), X),
                "gaps": gaps,
            }.items():
                model = lvm.GaussianMixture(2, n_init=5, random_state=0).fit(rows)
                mean, cov = moments(model)
                if way == "nothing deleted":
                    true_mean, true_cov = mean, cov
                mean, cov = abs(mean - true_mean) / sd, abs(cov - true_cov) / np.outer(sd, sd)
                filled = ((model.impute(gaps) - X) / sd)[gone]
                draws = model.impute(gaps, n_draws=100)
                low, high = np.quantile(draws, [0.05, 0.95], axis=0, method="weibull")  # 90 % of few draws, too
                within = ((low <= X) & (high >= X))[gone]
                row = model.score(unseen), mean.max(), cov.max(), np.sqrt(np.mean(filled**2)), within.mean()
                table.setdefault((deleted, way), []).append(row)
            last[deleted] = model, gaps

    print(f"{'deleted':34}{'fitted to':17}held out    mean     cov  filled  in 90 %")
    for (deleted, way), rows in table.items():
        score, mean, cov, filled, within = np.mean(rows, axis=0)
        print(f"{deleted:34}{way:17}{score:8.2f}{mean:8.2f}{cov:8.2f}{filled:8.2f}{within:9.0%}")
    print(f"""
Means over {SPLITS} splits. held out: log density of 50 flowers not seen, nats a row. mean, cov: largest distance of the
mixture's mean and covariance from those of the fit with nothing deleted, in standard deviations. filled: root mean
square distance of impute(X) from what was deleted, likewise. in 90 %: how much of it lies in the central 90 % of 100
draws of impute; below 90 % since the draws count a fit to 100 rows as certain.""")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for ax, (deleted, (model, gaps)) in zip(figure.subplots(1, 2, sharex=True, sharey=True), last.items()):
        lvm.plotting.plot_imputed(model, gaps, columns=(0, 2), ax=ax)
        ax.set(title=f"deleted: {deleted}", xlabel="column 0: sepal length (cm)", ylabel="column 2: petal length (cm)")
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-mixture-gaps.png"))
    print(f"A picture is in {out}/example-mixture-gaps.png")


if __name__ == "__main__":
    main()
