"""The host side of the CUDA kernel set, by the real numba-cuda on a driver without a GPU: see launch_cuda.py."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPILER = shutil.which("cc") or shutil.which("gcc")


@pytest.mark.skipif(sys.platform != "linux", reason="the driver without a GPU is for Linux")
@pytest.mark.skipif(COMPILER is None, reason="no CUDA kernel was launched: there is no C compiler (cc)")
@pytest.mark.skipif(
    find_spec("numba_cuda") is None,
    reason="no CUDA kernel was launched: numba-cuda is not installed (python -m pip install -e '.[cuda13]')",
)
def test_launchers_hand_over_what_kernels_and_driver_take(tmp_path):
    library = tmp_path / "libcuda.so.1"
    command = [COMPILER, "-shared", "-fPIC", "-w", "-o", str(library), str(HERE / "fake_cuda.c"), "-ldl"]
    subprocess.run(command, check=True)
    (tmp_path / "libcuda.so").symlink_to(library)
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    env["LD_LIBRARY_PATH"] = os.pathsep.join([str(tmp_path), *filter(None, [env.get("LD_LIBRARY_PATH")])])
    command = [sys.executable, "-X", "faulthandler", str(HERE / "launch_cuda.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = json.loads(done.stdout)
    assert len(wrong) == 22
    assert not any(wrong.values()), "\n".join(f"{name}:\n{text}" for name, text in wrong.items() if text)
