"""scikit-learn's own tests of GaussianMixture, run on lvm's: who replaces the import keeps what those tests promise."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

sklearn = pytest.importorskip("sklearn", reason="scikit-learn is what is compared with")

HERE = pathlib.Path(__file__).parent
# what fails with the import swapped, and why that is as it should be
REASONS = {
    "test_check_weights": "its pattern has the largest and the smallest weight swapped; ours names them as they are",
    "test_regularisation": "raises as expected; the message names the component and says what was tried",
    "test_gaussian_mixture_precisions_init": "reads back through the private _set_parameters",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts calls of a private function",
}


def test_scikit_learns_tests_pass_with_the_import_swapped(tmp_path):
    if not sklearn.__version__.startswith("1.9."):
        pytest.skip(f"the list of reasons was made for scikit-learn 1.9, this is {sklearn.__version__}")
    env = {k: v for k, v in os.environ.items() if k not in ("SCIPY_ARRAY_API", "NUMBA_ENABLE_CUDASIM")}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    env["SKLEARN_RUN_FLOAT32_TESTS"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "run_sklearn_tests", "-p", "no:cacheprovider", "-q", "-rA"]
    command += ["--tb=no", "--pyargs", "sklearn.mixture.tests.test_gaussian_mixture"]
    p = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\w+)", p.stdout, flags=re.M)
    passed = {name for outcome, name in outcomes if outcome == "PASSED"}
    failed = {name for outcome, name in outcomes if outcome != "PASSED"}
    assert failed == set(REASONS), p.stdout[-3000:]
    assert len(passed) >= 29, p.stdout[-3000:]  # array-API tests, skipped there, are not counted
