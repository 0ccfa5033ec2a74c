"""Two environment variables that are read once, at import: set here before anything imports SciPy or Numba."""

import os
import sys

import pytest

# scikit-learn skips its array API check without this, and then the number of checks passed says less than it seems to.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# CUDA kernels run in Numba's simulator, so they are tested on any machine. It concerns numba.cuda alone: CPU kernels
# are compiled as ever and give the same bits (test_estimators.py holds that). LVM_TEST_GPU=1 tests on a real device.
if os.environ.get("LVM_TEST_GPU") != "1":
    assert "numba" not in sys.modules, "numba was imported before tests/conftest.py, too early for its simulator"
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"


@pytest.fixture(params=["cpu"])
def k(request):
    """Each kernel set in turn."""
    from lvm import kernels

    return kernels.load(request.param)
