"""Handwritten digits by variational autoencoders, judged on digits that they were not fitted to.

First the pixels as they are, 0 to 16, with Gaussian noise: there a mixture, and probabilistic PCA, which is the same
model with a linear decoder, have densities of the same numbers. Then pixels that are black or white, drawn afresh in
each step with their grey as the probability: these have probabilities and no density, and can't be compared with the
first. Planar layers let q(z|x) be other than Gaussian: the bound comes nearer to log p(x), most of all where there are
few dimensions.
"""

import pathlib

import numpy as np

import lvm

OPTIONS = {"hidden_layer_sizes": (100,), "batch_size": 100, "random_state": 0}


def main(out="lvm-demo"):
    X, y = lvm.datasets.load_digits(return_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order].astype(np.float32), y[order]
    fit, test, labels = X[:1200], X[1200:], y[1200:]

    print(f"64 pixels from 0 to 16: {len(fit)} digits to fit, {len(test)} others to test; nats per digit")
    models = {"a mixture of 12 spheres": lvm.GaussianMixture(12, covariance_type="spherical", random_state=0)}
    for d in (2, 10):
        models[f"probabilistic PCA, {d} dimensions"] = lvm.ProbabilisticPCA(d)
        models[f"VAE, {d} dimensions"] = lvm.VAE(d, max_epochs=40, **OPTIONS)
    for name, model in models.items():
        print(f"  {name:<32} {model.fit(fit).score(test):8.2f}")

    fit, test, vae = fit / 16, test / 16, {}
    print("\nthe same in black and white\ndimensions  layers     bound  log-likelihood      gap  active units")
    for d in (2, 10):
        for K in (0, 10):
            options = {"n_flow_layers": K, "max_epochs": 60, **OPTIONS}
            vae[d, K] = lvm.VAE(d, likelihood="bernoulli", binarize="dynamic", **options).fit(fit)
            found = vae[d, K].evaluate(test, n_importance=1000)
            print(
                f"{d:10}  {K:6}  {found.bound:8.3f}  {-found.nll:6.3f} ± {found.nll_error:5.3f}  "
                f"{-found.nll - found.bound:7.3f}  {found.n_active:12}"
            )
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(15, 9), layout="constrained")
    (manifold, latent, bound), (rows, drawn, active) = figure.subplots(2, 3, height_ratios=(3, 2))
    lvm.plotting.plot_manifold(vae[2, 10], ax=manifold)
    lvm.plotting.plot_latent(vae[2, 10], test, labels, ax=latent)
    lvm.plotting.plot_bound(vae[2, 10], ax=bound)
    lvm.plotting.plot_reconstructions(vae[10, 10], test, ax=rows, max_images=8)
    lvm.plotting.plot_decoded(vae[10, 10], n_samples=36, ax=drawn)
    lvm.plotting.plot_active(vae[10, 10], test, ax=active)
    manifold.set_title("all that two dimensions can draw", fontsize="medium")
    latent.set_title(f"{len(test)} digits that it has not seen", fontsize="medium")
    rows.set_title("ten dimensions: digits not seen", fontsize="medium")
    drawn.set_title("ten dimensions: made up", fontsize="medium")
    active.set_title("ten dimensions: in use", fontsize="medium")
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-vae-digits.png"))
    print(f"A picture is in {out}/example-vae-digits.png")


if __name__ == "__main__":
    main()
