"""Every CUDA kernel compiles for two generations of GPUs, in registers alone, and in float32 where it says so."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import compile_cuda
import pytest

FAULTS = {  # of compile_cuda.toys, in float32
    "clean": [],
    "double": ["computes in float64: "],
    "double_on_purpose": [],
    "stack": ["has a stack frame of 256 bytes"],
    "spills": ["bytes of registers", "has a stack frame"],
    "shared": ["shared"],  # some versions refuse to link it
    "unknown": ["does not compile: TypingError"],
}


@pytest.fixture(scope="module")
def compiled():
    """What compile_cuda.py found: its own process, for the simulator and the real numba.cuda cannot share one."""
    if find_spec("numba_cuda") is None:
        pytest.skip("no CUDA kernel was compiled: numba-cuda is not installed (python -m pip install -e '.[cuda13]')")
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, str(Path(compile_cuda.__file__))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("target", compile_cuda.TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_without_spills_stack_or_smuggled_float64(compiled, dtype, target):
    wrong, seen = [], set()
    for name, variants in compiled["kernels"]:
        for variant in variants:
            if (variant["dtype"], variant["target"]) == (dtype, target):
                seen.add(name.partition(".")[0])
                wrong += compile_cuda.complaints(name, variant)
    folder = compile_cuda.ROOT / "kernels" / "cuda"
    assert seen == {p.stem for p in folder.glob("*.py") if 'kernel("' in p.read_text(encoding="utf-8")}
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("target", compile_cuda.TARGETS)
def test_the_checker_finds_each_fault_and_names_it(compiled, target):
    found = {}
    for name, variants in compiled["toys"]:
        (variant,) = (v for v in variants if (v["dtype"], v["target"]) == ("float32", target))
        found[name.rpartition(".")[2]] = compile_cuda.complaints(name, variant)
        assert all(f", float32, {target}: " in text for text in found[name.rpartition(".")[2]])
        if "error" not in variant:
            assert variant["registers"] > 0, "ptxas did not report"
    assert found.keys() == FAULTS.keys()
    for name, parts in FAULTS.items():
        assert len(found[name]) == len(parts), found[name]
        for part, text in zip(parts, found[name]):
            assert part in text


def test_a_float64_variant_may_use_float64(compiled):
    ((_, variants),) = (item for item in compiled["toys"] if item[0].endswith(".double"))
    assert [v["float64"] != [] and not compile_cuda.complaints("", v) for v in variants if v["dtype"] == "float64"]
