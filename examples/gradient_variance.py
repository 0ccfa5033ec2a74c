"""How noisy the estimators of a gradient are, over the dimension: a normal q and a normal target of 1 to 100 columns.

Neighbouring columns of the target are correlated, those of q are not, and q is too narrow and off by half a standard
deviation in each. The score function multiplies each slope by the whole of log p - log q, which grows as D, so that the
variance of one sample, over all parameters together, grows as D³. Less the mean of the other samples, or a constant
that was fitted, that is what log p - log q varies by, and D². Through the samples themselves a column meets its own
noise and its neighbours' alone: D. Three fits in 20 columns show what that is for one who climbs.
"""

import pathlib

import numpy as np

import lvm
from lvm.distributions import MultivariateNormal, Normal
from lvm.gradients import compare, fit_q

DIMENSIONS = (1, 2, 5, 10, 20, 50, 100)
FITS = ("score", "leave_one_out", "reparameterisation")


def precision(D):
    """P of the target: 1, and -0.4 between neighbours."""
    return np.eye(D) - 0.4 * (np.eye(D, k=1) + np.eye(D, k=-1))


def log_p(z):
    """-z'Pz/2, the log of the target but for a constant, and its gradient -Pz."""
    slopes = -z @ precision(z.shape[1])
    return 0.5 * (z * slopes).sum(axis=1), slopes


def begin(D):
    """The q to take gradients at, and to begin fits with."""
    return Normal(np.full(D, 0.5), 0.7)


def main(out="lvm-demo"):
    found = {D: compare(log_p, begin(D), 50_000, random_state=0) for D in DIMENSIONS}
    names = list(found[1].gradients)
    variance = {D: [found[D].gradients[name].total_variance for name in names] for D in DIMENSIONS}
    print("variance of one sample, of all parameters together")
    print("D   " + "".join(f"{name:>19}" for name in names))
    for D in DIMENSIONS:
        print(f"{D:<4}" + "".join(f"{v:19.4g}" for v in variance[D]))
    powers = np.log10(np.divide(variance[100], variance[10]))
    print("D^  " + "".join(f"{power:19.2f}" for power in powers) + "  from 10 to 100")

    D = 20
    target = MultivariateNormal.from_covariance(np.zeros(D), np.linalg.inv(precision(D)))
    least = Normal(np.zeros(D), 1.0).kl(target)  # by any q of independent columns
    options = {"n_samples": 20, "max_epochs": 30, "n_epochs_no_change": None, "random_state": 0}
    fits = {name: fit_q(log_p, begin(D), estimator=name, **options) for name in FITS}
    print(f"\n{D} columns, 3000 steps of 20 samples: nats of KL(q || target) above the least possible, {least:.2f}")
    for name, fit in fits.items():
        print(f"{name:20}{fit.q.kl(target) - least:.3f}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    lvm.plotting.plot_gradient_variance(found, ax=left)
    left.set(xlabel="D", title="noise of the gradient")
    log_z = target.entropy() - 0.5 * D  # of e^log_p: the entropy is log Z + E[z'Pz]/2
    for name, fit in fits.items():
        above = log_z - least - np.array(fit.history["lower_bound"])
        colour = lvm.plotting.COLOURS[names.index(name)]  # as on the left
        right.semilogy(np.arange(1, 31), above, color=colour, label=name.replace("_", " "))
    right.set(xlabel="epoch of 100 steps", title=f"KL(q || target) above the least, nats, D = {D}")
    right.legend(fontsize="small", frameon=False)
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-gradient-variance.png"))
    print(f"A picture is in {out}/example-gradient-variance.png")


if __name__ == "__main__":
    main()
