"""The density of two moons by a flow, beside mixtures; and new handwritten digits from a flow of their components.

All are judged on rows that they were not fitted to; what drew the moons tells how far one can come. There the flow does
about as well as a dozen Gaussians; digits are ten kinds of things, for which the dozen is better.
"""

import pathlib

import numpy as np
from scipy.special import logsumexp

import lvm

NOISE = 0.1


def arcs(turn):
    """The two half circles (2,n,2), one in the mouth of the other, at angles (n,)."""
    first = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.stack([first, [1, 0.5] - first])


def moons(n, rng):
    """X (n,2): half of the rows about each arc."""
    X = arcs(rng.uniform(0, np.pi, n))[np.arange(n) % 2, np.arange(n)]
    return X + NOISE * rng.standard_normal((n, 2))


def log_density(X):
    """The log density (n,) that `moons` draws from, by a sum over the arcs."""
    centres = arcs(np.pi * (np.arange(500) + 0.5) / 500).reshape(-1, 2)
    exponents = [-((X - c) ** 2).sum(axis=1) / (2 * NOISE**2) for c in centres]
    return logsumexp(exponents, axis=0) - np.log(len(centres) * 2 * np.pi * NOISE**2)


def compare(X, unseen, mixtures, flow):
    """Fit all to X and print the mean log-likelihood of the rows not seen. Returns the Gaussian."""
    models = {f"mixture of {n}": lvm.GaussianMixture(n, tol=1e-4, random_state=0) for n in mixtures}
    models = {"one Gaussian": lvm.GaussianMixture(1), **models, f"flow of {flow.n_layers} layers": flow}
    for name, model in models.items():
        print(f"  {name:<26} {model.fit(X).score(unseen):8.3f}")
    return models["one Gaussian"]


def main(out="lvm-demo"):
    rng = np.random.default_rng(0)
    X, unseen = moons(5000, rng), moons(5000, rng)
    print(f"two moons: {len(X)} rows to fit, {len(unseen)} others to test; nats per row")
    flow = lvm.PlanarFlow(32, max_epochs=200, random_state=0)
    compare(X, unseen, (4, 12), flow)
    print(f"  {'the density that drew them':<26} {log_density(unseen).mean():8.3f}")

    digits = rng.permutation(lvm.datasets.load_digits())
    fit, test = digits[:1200], digits[1200:]
    pca = lvm.ProbabilisticPCA(6).fit(fit)
    Z = pca.transform(fit)
    print(f"\nsix components of digits: {len(fit)} rows to fit, {len(test)} others to test; nats per row")
    latent = lvm.PlanarFlow(32, max_epochs=60, early_stopping=True, random_state=0)
    gaussian = compare(Z, pca.transform(test), (4, 12), latent)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(15, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1))
    (density, samples, warp), grids = above.subplots(1, 3, width_ratios=(2, 2, 3)), below.subplots(1, 3)
    lvm.plotting.plot_flow(flow, X=unseen[:1000], ax=density)
    lvm.plotting.plot_samples(flow, unseen[:1000], ax=samples)
    lvm.plotting.plot_warp(flow, max_panels=6, ax=warp)
    drawn = {"of digits": Z[:36], "drawn from the Gaussian": gaussian.sample(36)[0], "from the flow": latent.sample(36)}
    for ax, (title, z) in zip(grids, drawn.items()):
        images = pca.inverse_transform(z).clip(0, 16)  # there is no ink below none
        lvm.plotting.plot_images(images, ax=ax).set_title(f"six components {title}", fontsize="medium")
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-flow-density.png"))
    print(f"A picture is in {out}/example-flow-density.png")


if __name__ == "__main__":
    main()
