"""A pytest plugin for test_drop_in.py: scikit-learn's own mixture tests, its GaussianMixture replaced by lvm's."""

import sklearn.mixture
from sklearn.mixture import _gaussian_mixture

import lvm

sklearn.mixture.GaussianMixture = _gaussian_mixture.GaussianMixture = lvm.GaussianMixture
