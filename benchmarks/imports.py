"""What the first seconds cost: importing lvm, and the first fit of a process with and without compiled kernels."""

FIRST_FIT = """
import lvm
lvm.GaussianMixture(2, random_state=0).fit(lvm.datasets.load_faithful())
"""
EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


def timeraw_import():
    return "import lvm"


def timeraw_first_fit_warm_cache():
    return FIRST_FIT


def timeraw_first_fit_cold_cache():
    return FIRST_FIT, EMPTY_CACHE


def _setup_warm():
    exec(FIRST_FIT, {})


timeraw_first_fit_warm_cache.setup = _setup_warm
for _benchmark in (timeraw_import, timeraw_first_fit_warm_cache, timeraw_first_fit_cold_cache):
    _benchmark.number, _benchmark.repeat, _benchmark.rounds = 1, 5, 1
