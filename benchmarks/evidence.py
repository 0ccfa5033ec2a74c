"""Evidence: time of importance weights, of annealed chains and of reports, and how far their log p(x) is off."""

import os

import numpy as np

from lvm import VAE, ProbabilisticPCA, datasets
from lvm.distributions import Normal
from lvm.evidence import annealed, importance, report, sampled, simulated

SMALL = os.environ.get("LVM_BENCH_SMALL") == "1"
SAMPLES = 2000 if SMALL else 1_000_000
CHAINS, TEMPERATURES = (8, 20) if SMALL else (64, 1000)


class Weights:
    """`importance` of log weights that are there, and all of `sampled` for a normal target in 10 dimensions."""

    def setup(self):
        self.log_w = np.random.default_rng(0).standard_normal(SAMPLES)
        self.q, self.p = Normal(np.zeros(10), 1.2), Normal(np.zeros(10), 1.0)
        self.time_sampled()  # compiles

    def time_importance(self):
        importance(self.log_w)

    def time_sampled(self):
        sampled(self.p.log_prob, self.q, SAMPLES, random_state=0)

    def peakmem_sampled(self):
        self.time_sampled()


class Annealing:
    """Chains on PPCA with 10 dimensions, whose log p(x) is known, for 4 rows at once."""

    def setup(self):
        rng, D, d = np.random.default_rng(0), 20, 10
        X = rng.standard_normal((300, d)) @ rng.standard_normal((d, D)) + rng.standard_normal((300, D))
        self.model = ProbabilisticPCA(d).fit(X)
        self.x, self.W, self.s2 = X[:4] - self.model.mean_, self.model.loadings_, self.model.noise_variance_
        self.wanted = self.model.score_samples(X[:4])
        self.prior = Normal(np.zeros(d), 1.0)
        self.run(2, 2)  # compiles

    def joint(self, z, rows):
        e = self.x[rows] - z @ self.W.T
        log_px = -0.5 * ((e * e).sum(axis=1) / self.s2 + e.shape[1] * np.log(2 * np.pi * self.s2))
        return log_px + self.prior.log_prob(z), e @ self.W / self.s2 - z

    def run(self, n_chains, n_temperatures):
        return annealed(self.joint, self.prior, n_chains, n_temperatures, n_rows=4, random_state=0)

    def time_annealed(self):
        self.run(CHAINS, TEMPERATURES)

    def track_error(self):
        return float(abs(self.run(CHAINS, TEMPERATURES).log_z - self.wanted).max())

    track_error.unit = "nats"


class Digits:
    """A VAE of 20 dimensions: a report on 100 rows, and 4 rows of its own enclosed from both sides."""

    def setup(self):
        X = np.random.default_rng(0).permutation(datasets.load_digits()).astype(np.float32) / 16
        options = {"likelihood": "bernoulli", "hidden_layer_sizes": (100,), "max_epochs": 1 if SMALL else 30}
        self.vae, self.X = VAE(20, random_state=0, **options).fit(X[:1200]), X[1200:1300]
        report(self.vae, self.X[:1], n_samples=2)  # compiles
        simulated(self.vae, 1, n_chains=2, n_temperatures=2)

    def enclosed(self):
        return simulated(self.vae, 4, n_temperatures=TEMPERATURES // 2, random_state=0)

    def time_report(self):
        report(self.vae, self.X)

    def time_simulated(self):
        self.enclosed()

    def track_gap(self):
        return float(self.enclosed().gap.max())

    track_gap.unit = "nats"
