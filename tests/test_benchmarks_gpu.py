"""benchmarks/gpu.py, which runs on GPUs alone, finds the kernels right in the simulator, and wrong ones wrong."""

import json

import pytest
from conftest import GPU

gpu = pytest.importorskip("benchmarks.gpu", reason="benchmarks/ is in the repository alone")
pytestmark = pytest.mark.skipif(GPU, reason="on a GPU, run benchmarks/gpu.py itself")


def test_it_checks_every_kernel_and_times_nothing_in_the_simulator(order, tmp_path, capsys):
    if order == "reverse":
        pytest.skip("once is enough")
    assert gpu.main(["--quick", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no timings from a simulator" in said
    assert "FAIL" not in said
    assert said.count(" pass\n") == 2 * (8 + 2 + 2 + 2 + 1 + 1 + 1 + 10)
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"] == []
    assert "Numba's simulator" in (tmp_path / "gpu.md").read_text()


def test_a_wrong_answer_is_a_failure(capsys):
    report = gpu.Report(True)
    report.check("right", 1e-9, 1e-8)
    for error in 1e-7, float("inf"), float("nan"):
        report.check(f"wrong by {error}", error, 1e-8)
    report.section(lambda report: 1 / 0)
    assert report.failed == ["wrong by 1e-07", "wrong by inf", "wrong by nan"]
    assert "ZeroDivisionError" in capsys.readouterr().out
