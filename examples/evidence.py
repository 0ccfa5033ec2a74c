"""log p(x) of handwritten digits under a variational autoencoder: naive Monte Carlo, importance weights, annealing.

Of 20 dimensions of z the posterior of a digit fills next to nothing of the prior, so that samples of the prior never
meet it: naive Monte Carlo is tens of nats too low. Its standard error does not know, but its effective sample size and
k-hat do. Samples of the encoder's q(z|x) do far better, the more of them share a bound, and annealed chains, which need
no encoder, better still. Of digits that the model itself drew, chains that go backwards give a bound from above, too.
"""

import pathlib

import numpy as np

import lvm
from lvm.distributions import Normal
from lvm.evidence import naive_monte_carlo, report, simulated

ROWS, DRAWS = 6, 50_000
COUNTS = (10, 100, 1000, 10_000)


def naive(vae, x):
    """Evidence of the pixels x (D,) by samples of the prior: `decode` gives the mean of x."""

    def log_likelihood(z):
        square = ((x - vae.decode(z)) ** 2).sum(axis=1)
        return -0.5 * (square / vae.noise_variance_ + len(x) * np.log(2 * np.pi * vae.noise_variance_))

    return naive_monte_carlo(log_likelihood, Normal(np.zeros(vae.n_components), 1.0), DRAWS, random_state=0)


def main(out="lvm-demo"):
    X = np.random.default_rng(0).permutation(lvm.datasets.load_digits())
    fit, test = X[:1500], X[-ROWS:]
    options = {"hidden_layer_sizes": (100,), "learning_rate": 0.003, "batch_size": 100, "random_state": 0}
    vae = lvm.VAE(20, max_epochs=30, **options).fit(fit)

    prior = [naive(vae, x) for x in test]
    found = report(vae, test, annealed=True, n_temperatures=500, random_state=0)
    print(f"{ROWS} digits that the model was not fitted to, 64 pixels from 0 to 16: nats a digit\n")
    print("                                log p(x)  std. error  ESS of the worst  k-hat of the worst")
    error = np.sqrt(np.sum([one.log_z_error**2 for one in prior])) / ROWS
    ess, k_hat = min(one.ess for one in prior), max(one.k_hat for one in prior)
    naive_log_p = np.mean([one.log_z for one in prior])
    print(f"naive, {DRAWS} of the prior      {naive_log_p:8.2f}  {error:10.2f}  {ess:16.1f}  {k_hat:18.2f}")
    print(f"ELBO, q(z|x)                    {found.elbo / ROWS:8.2f}  {found.elbo_error / ROWS:10.2f}")
    bounds = []
    for k in COUNTS:
        some = report(vae, test, n_samples=k)
        bounds.append(some.weighted / ROWS)
        error, share = some.weighted_error / ROWS, f"{some.ess:.1f} of {k}"
        khat = "" if np.isnan(some.k_hat) else f"{some.k_hat:.2f}"
        print(f"L_k, k = {k:<6} of q(z|x)       {bounds[-1]:8.2f}  {error:10.2f}  {share:>16}  {khat:>18}")
    print(f"annealed, 16 chains             {found.mean:8.2f}  {found.log_evidence_error / ROWS:10.2f}")

    drawn = simulated(vae, ROWS, n_temperatures=500, random_state=0)
    print(f"\n{ROWS} digits that the model drew: annealed chains from both ends")
    print(drawn)
    print(f"what lies between, by digit: {', '.join(f'{gap:.2f}' for gap in drawn.gap)} nats")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('No picture, for want of matplotlib: pip install "lvm[plot]"')
        return
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogx((1, *COUNTS), (found.elbo / ROWS, *bounds), "o-", label="L_k, by q(z|x)")
    left.axhline(found.mean, color="C1", label="annealed")
    left.axhline(naive_log_p, color="C2", linestyle="--", label=f"naive, {DRAWS} samples")
    left.set(xlabel="samples k that share a bound", ylabel="nats a digit", title="digits not seen")
    left.legend()
    digits = np.arange(1, ROWS + 1)
    right.errorbar(digits - 0.1, 0 * digits, drawn.log_z_error, fmt="o", capsize=4, label="forwards, a lower bound")
    right.errorbar(digits + 0.1, drawn.gap, drawn.upper_error, fmt="o", capsize=4, label="backwards, an upper bound")
    right.set(xlabel="digit", ylabel="log p(x) less its lower bound, nats", title="digits that the model drew")
    right.legend()
    pathlib.Path(out).mkdir(exist_ok=True)
    figure.savefig(pathlib.Path(out, "example-evidence.png"))
    print(f"A picture is in {out}/example-evidence.png")


if __name__ == "__main__":
    main()
