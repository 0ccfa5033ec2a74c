"""Handwritten digits with a third of their pixels removed, and what probabilistic PCA puts in their place.

How many dimensions? More pixels are hidden, and the model that fills these best is taken. (BIC would take far more:
the pixels of the border hardly vary, which is not the noise of one variance that the model has.)
"""

import pathlib

import numpy as np

import lvm


def rmse(filled, true, at):
    return np.sqrt(np.mean((filled - true)[at] ** 2))


def hidden(X, part, rng):
    """X with this part of its pixels removed, and which."""
    at = rng.random(X.shape) < part
    return np.where(at, np.nan, X), at


def fit(n_components, X):
    return lvm.ProbabilisticPCA(n_components, tol=1e-3, random_state=0).fit(X)


def main(out="lvm-demo"):
    digits, rng = lvm.datasets.load_digits(), np.random.default_rng(0)
    gaps, gone = hidden(digits, 1 / 3, rng)

    practice, held = hidden(gaps, 0.1, rng)
    held &= ~gone
    errors = {d: rmse(fit(d, practice).impute(practice), digits, held) for d in (5, 10, 15, 20, 25)}
    best = min(errors, key=errors.get)
    print("dimensions", *(f"{d:6}" for d in errors))
    print("RMSE      ", *(f"{e:6.2f}" for e in errors.values()), "  of a tenth of the pixels left, hidden from the fit")

    model = fit(best, gaps)
    after, means = model.impute(gaps), np.where(gone, np.nanmean(gaps, axis=0), digits)
    print(f"\n{best} dimensions, fitted to all that is left; noise variance {model.noise_variance_:.2f}")
    print(f"log-likelihood of what is left: {model.score(gaps):.2f} nats per image")
    print(f"RMSE of the {gone.sum()} pixels removed, of 0 to 16: {rmse(after, digits, gone):.2f}")
    print(f"with the mean of each pixel in their place: {rmse(means, digits, gone):.2f}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(11, 6), layout="constrained")
    *grids, values = figure.subplots(2, 2).flat
    shown = after.clip(0, 16)  # there is no ink below none
    pictures = {"as they were": digits, "a third removed": gaps, f"filled, from {best} dimensions": shown}
    for ax, (title, images) in zip(grids, pictures.items()):
        lvm.plotting.plot_images(images[:21], ax=ax).set_title(title, fontsize="medium")
    lvm.plotting.plot_held_out(model, digits, gaps, ax=values)
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-ppca.png"))
    print(f"A picture is in {out}/example-ppca.png")


if __name__ == "__main__":
    main()
