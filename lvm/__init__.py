"""Latent-variable models without a deep-learning framework.

Importing costs a few milliseconds: NumPy, SciPy and Numba load when the first name that needs them is used.

>>> import lvm
>>> X = lvm.datasets.load_faithful()
>>> model = lvm.GaussianMixture(n_components=2, random_state=0).fit(X)
>>> model.means_.shape
(2, 2)
"""

import importlib as _importlib
import os as _os

TYPE_CHECKING = False  # type checkers take a name like this for true; typing would cost more than all the rest
__version__ = "0.1.0"

_root = _os.path.dirname(__path__[0])
if not _os.path.isdir(_os.path.join(__path__[0], "kernels")) and _os.path.isfile(
    _os.path.join(_root, "kernels", "_lvm_kernels_here")
):
    __path__.append(_root)  # a checkout keeps lvm.kernels in ../kernels; an installed copy has it inside

# public name -> the module that defines it
_where = {
    "BayesianMLPClassifier": "network",
    "BayesianMLPRegressor": "network",
    "GaussianMixture": "mixture",
    "ConvergenceWarning": "estimator",
    "ModelFileError": "modelfile",
    "NotFittedError": "estimator",
    "NumericalError": "estimator",
    "PlanarFlow": "flow",
    "ProbabilisticPCA": "ppca",
    "RelevanceVectorClassifier": "relevance",
    "RelevanceVectorRegressor": "relevance",
    "VAE": "vae",
    "VariationalLogisticRegression": "relevance",
    "get_num_threads": "kernels.pool",
    "set_num_threads": "kernels.pool",
    "load": "modelfile",
    "select_mixture": "selection",
    "show_versions": "__main__",
}
_modules = ("datasets", "distributions", "evidence", "gradients", "kernels", "plotting", "targets")
__all__ = ["__version__", *_where, *_modules]


def __dir__():
    return sorted(__all__)


if TYPE_CHECKING:  # what a type checker and an editor read in place of the lazy names
    from . import datasets as datasets
    from . import distributions as distributions
    from . import evidence as evidence
    from . import gradients as gradients
    from . import kernels as kernels
    from . import plotting as plotting
    from . import targets as targets
    from .__main__ import show_versions as show_versions
    from .estimator import ConvergenceWarning as ConvergenceWarning
    from .estimator import NotFittedError as NotFittedError
    from .estimator import NumericalError as NumericalError
    from .flow import PlanarFlow as PlanarFlow
    from .kernels.pool import get_num_threads as get_num_threads
    from .kernels.pool import set_num_threads as set_num_threads
    from .mixture import GaussianMixture as GaussianMixture
    from .modelfile import ModelFileError as ModelFileError
    from .modelfile import load as load
    from .network import BayesianMLPClassifier as BayesianMLPClassifier
    from .network import BayesianMLPRegressor as BayesianMLPRegressor
    from .ppca import ProbabilisticPCA as ProbabilisticPCA
    from .relevance import RelevanceVectorClassifier as RelevanceVectorClassifier
    from .relevance import RelevanceVectorRegressor as RelevanceVectorRegressor
    from .relevance import VariationalLogisticRegression as VariationalLogisticRegression
    from .selection import select_mixture as select_mixture
    from .vae import VAE as VAE
else:

    def __getattr__(name):
        if name in _where:
            value = getattr(_importlib.import_module(f"{__name__}.{_where[name]}"), name)
            globals()[name] = value
            return value
        if name in _modules:
            return _importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
