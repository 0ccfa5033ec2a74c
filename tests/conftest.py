"""Two environment variables that are read once, at import: set here before anything imports SciPy or Numba."""

import os
import sys

import pytest

collect_ignore = ["launch_cuda.py"]  # it wants a driver; test_cuda_launch.py runs it with one
# scikit-learn skips its array API check without this, and then the number of checks passed says less than it seems to.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# CUDA kernels run in Numba's simulator, so they are tested on any machine. It concerns numba.cuda alone: CPU kernels
# are compiled as ever and give the same bits (test_estimators.py holds that). LVM_TEST_GPU=1 tests on a real device.
GPU = os.environ.get("LVM_TEST_GPU") == "1"
if not GPU:
    assert "numba" not in sys.modules, "numba was imported before tests/conftest.py, too early for its simulator"
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"


@pytest.fixture(params=["cpu"])
def k(request):
    """Each kernel set in turn."""
    from lvm import kernels

    return kernels.load(request.param)


@pytest.fixture(params=["real"] if GPU else ["forward", "reverse"])
def order(request):
    """In which order simulated threads and blocks run (see simulator.py), or "real" on a device."""
    if not GPU:
        import simulator

        simulator.install(request.param)
    return request.param


@pytest.fixture
def cuda_set(order):
    """The CUDA kernel set, in each order of threads."""
    from lvm import kernels

    return kernels.load("cuda")
