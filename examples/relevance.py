"""Ripley's two classes in the plane told apart by a few relevance vectors; and which pixels tell a 3 from a 5.

Ripley (1996) drew each class from two Gaussians, so that the best possible error is 8.9 %, and Tipping (2001) has
pictures of these data, too.
"""

import pathlib

import numpy as np

import lvm

MEANS = np.array([[[-0.7, 0.3], [0.3, 0.3]], [[-0.3, 0.7], [0.4, 0.7]]])  # of each class: two Gaussians, variance 0.03


def ripley(n, rng):
    """X (n,2) and classes (n,), half of the rows each."""
    y = np.arange(n) % 2
    return MEANS[y, rng.integers(2, size=n)] + np.sqrt(0.03) * rng.standard_normal((n, 2)), y


def main(out="lvm-demo"):
    rng = np.random.default_rng(0)
    X, y = ripley(250, rng)
    unseen, truth = ripley(1000, rng)
    machine = lvm.RelevanceVectorClassifier(random_state=0).fit(X, y)
    P = machine.predict_proba(unseen)
    found = lvm.plotting.calibration(P, truth)
    print(f"Ripley's data: {machine.n_relevant_} relevance vectors of {len(X)} rows; gamma {machine.gamma_:g}, by cv")
    print(f"error on {len(unseen)} rows not seen: {1 - machine.score(unseen, truth):.1%}; at best 8.9 %")
    print(
        f"their probabilities: ECE {found.ece:.3f}, Brier score {found.brier:.3f}, "
        f"log-loss {-np.log(P[np.arange(len(P)), truth]).mean():.3f} nats"
    )

    digits, labels = lvm.datasets.load_digits(return_y=True)
    some = np.isin(labels, [3, 5])
    digits, labels = digits[some], labels[some]
    fit, test = slice(0, None, 2), slice(1, None, 2)
    print(f"\n3 or 5, {len(labels[fit])} handwritten digits of 64 pixels to fit, {len(labels[test])} others to test:")
    for prior in "ard", "gaussian":
        model = lvm.VariationalLogisticRegression(prior=prior).fit(digits[fit], labels[fit])
        error = 1 - model.score(digits[test], labels[test])
        print(
            f"{prior:>10}: {model.n_relevant_:2} pixels, error {error:.1%}, bound {model.lower_bound_:.3f} nats per row"
        )
        if prior == "ard":
            sparse = model
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    lvm.plotting.plot_decision(machine, X, y, ax=left)
    lvm.plotting.plot_reliability(P, truth, ax=middle)
    pixels = [f"row {i // 8}, column {i % 8}" for i in range(64)]
    lvm.plotting.plot_relevance(sparse, names=pixels, max_bars=12, ax=right)
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-relevance.png"))
    print(f"A picture is in {out}/example-relevance.png")


if __name__ == "__main__":
    main()
