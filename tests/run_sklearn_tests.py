"""A pytest plugin: scikit-learn's own mixture tests with its GaussianMixture replaced by lvm's (see test_drop_in.py)."""

import sklearn.mixture
from sklearn.mixture import _gaussian_mixture

import lvm

sklearn.mixture.GaussianMixture = _gaussian_mixture.GaussianMixture = lvm.GaussianMixture
