"""The CUDA kernel set without its kernels: arrays, launches, errors, what it says where CUDA cannot be used; and the
simulator that the kernels' tests trust."""

import os
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import GPU

import lvm
from lvm import kernels
from lvm.kernels.cuda import api
from lvm.kernels.cuda.api import cuda, device_function, kernel

ROOT = Path(lvm.__file__).parents[1]
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
simulated = pytest.mark.skipif(GPU, reason="what the simulator does is tested without LVM_TEST_GPU=1")
TILE = 64


@kernel("T1 T d1 i T1w", double=True)
def scaled(x, a, weight, n, out):
    i = cuda.grid(1)
    if i < n:
        out[i] = a * x[i] * x.dtype.type(weight[0])


# -------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint64, np.bool_])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0,), (0, 3)])
def test_arrays_come_back_as_they_went(cuda_set, shape, dtype):
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    on_device = cuda_set.put(x)
    assert (tuple(on_device.shape), on_device.dtype) == (shape, dtype)
    back = cuda_set.get(on_device)
    assert type(back) is np.ndarray
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, x)


def test_put_copies_and_takes_any_layout_but_leaves_what_is_there(cuda_set):
    x = np.arange(12.0).reshape(3, 4)
    for given in (x, x.T, x[:, 1:3], np.asfortranarray(x)):
        on_device = cuda_set.put(given)
        assert on_device.is_c_contiguous()
        np.testing.assert_array_equal(cuda_set.get(on_device), given)
        assert cuda_set.put(on_device) is on_device
    on_device = cuda_set.put(x)
    x[:] = 0
    assert cuda_set.get(on_device).any()
    x.flags.writeable = False
    np.testing.assert_array_equal(cuda_set.get(cuda_set.put(x)), x)


def test_empty_has_the_shape_and_dtype(cuda_set):
    for shape in (3, (3,), (2, 0), (2, 3)):
        x = cuda_set.empty(shape, np.float32)
        assert (tuple(x.shape), x.dtype) == (np.empty(shape).shape, np.float32)


def test_cast_rounds_as_numpy_does(cuda_set):
    x = np.random.default_rng(0).normal(size=(31, 17))
    wide = cuda_set.put(x)
    narrow = cuda_set.cast(wide, np.float32)
    np.testing.assert_array_equal(cuda_set.get(narrow), x.astype(np.float32), strict=True)
    np.testing.assert_array_equal(
        cuda_set.get(cuda_set.cast(narrow, np.float64)), x.astype(np.float32).astype(np.float64), strict=True
    )
    assert cuda_set.cast(wide, np.float64) is wide
    assert cuda_set.cast(cuda_set.put(np.empty((0, 3))), np.float32).shape == (0, 3)


def refuse(*args, **kwargs):
    """What numba-cuda raises for want of memory."""
    raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")


def test_want_of_memory_is_one_error_with_sizes_and_the_next_array_fits(cuda_set, monkeypatch):
    with monkeypatch.context() as patch:
        if not GPU:
            patch.setattr(cuda, "device_array", refuse)
        with pytest.raises(
            MemoryError, match=r"no room for an array \(1048576, 268435456\) of float32: wanted 1,073,741,"
        ):
            cuda_set.empty((2**20, 2**28), np.float32)  # 2^50 bytes
    assert cuda_set.empty(3, np.float32).shape == (3,)


@simulated
def test_memory_that_the_garbage_collector_holds_is_used(cuda_set, monkeypatch):
    """A second try after a collection; other errors pass as they are."""
    given, tried = cuda.device_array, []
    monkeypatch.setattr(cuda, "device_array", lambda *a: tried.append(a) or (refuse if len(tried) == 1 else given)(*a))
    assert cuda_set.empty(3, np.float32).shape == (3,)
    assert len(tried) == 2
    monkeypatch.setattr(cuda, "to_device", refuse)
    with pytest.raises(MemoryError, match=r"an array \(3,\) of float64: wanted 0 MiB"):
        cuda_set.put(np.ones(3))
    monkeypatch.setattr(cuda, "to_device", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cuda_set.put(np.ones(3))


# ------------------------------------------------------------------------------------------------------------ launches


def launch(cuda_set, T, n=300, blocks=3, **changed):
    """The arguments of `scaled`, some of them changed; its answer."""
    given = {"x": cuda_set.put(np.arange(n, dtype=T)), "a": 0.1, "weight": cuda_set.put(np.full(1, 3.0)), "n": n}
    given = given | {"out": cuda_set.empty(n, T)} | changed
    scaled(blocks, 128, *given.values())
    cuda_set.sync()
    return cuda_set.get(given["out"])


@T_
def test_scalars_take_the_type_that_the_kernel_names(cuda_set, T):
    want = T(0.1) * np.arange(300, dtype=T) * T(3)
    np.testing.assert_array_equal(launch(cuda_set, T), want, strict=True)
    np.testing.assert_array_equal(launch(cuda_set, T, a=np.float64(0.1), n=np.uint8(200))[:200], want[:200])
    np.testing.assert_array_equal(launch(cuda_set, T, blocks=(3, 1)), want)


def test_no_blocks_is_no_launch(cuda_set):
    out = cuda_set.put(np.full(300, 7.0))
    for blocks in (0, (0, 1), (1, 0)):
        launch(cuda_set, np.float64, blocks=blocks, out=out)
    assert set(cuda_set.get(out)) == {7.0}


def test_numpy_arrays_and_other_types_are_refused(cuda_set):
    with pytest.raises(TypeError, match=r"scaled takes arrays of the device, got a NumPy array\. Try k\.put\."):
        launch(cuda_set, np.float32, weight=np.ones(1))
    with pytest.raises(TypeError, match=r"scaled takes float32 or float64 arrays, got int64\. Convert them\."):
        launch(cuda_set, np.int64)
    with pytest.raises(ValueError, match="shorter"):
        scaled(1, 32, cuda_set.put(np.ones(3)))


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("weight", np.ones(1, np.float32), "argument 2: .* got float32, 1d"),
        ("out", np.ones(300), "argument 4: .* got float64, 1d"),
        ("out", np.ones((300, 1), np.float32), "argument 4: .* got float32, 2d"),
        ("out", slice(None, None, 2), "argument 4: .* got non-contiguous float32, 1d"),
    ],
)
def test_arrays_that_a_device_would_refuse_are_refused(cuda_set, name, wrong, said):
    if isinstance(wrong, slice):
        array = cuda_set.put(np.ones(600, np.float32))[wrong]
    else:
        array = cuda_set.put(wrong)
    with pytest.raises(TypeError, match=said):
        launch(cuda_set, np.float32, **{name: array})


def test_a_captured_step_does_the_same_each_time(cuda_set):
    x, y, one = (cuda_set.put(np.full(40, v)) for v in (1.0, 0.0, 1.0))

    def step():
        scaled(1, 64, x, 2.0, one, 40, y)
        scaled(1, 64, y, 1.0, one, 40, x)

    again = cuda_set.capture(step)
    for n in range(1, 6):
        again()
        cuda_set.sync()
        assert set(cuda_set.get(x)) == {2.0**n}


def test_launches_from_several_threads_give_what_one_gives(cuda_set):
    want, got, errors = launch(cuda_set, np.float64, n=50), [], []

    def work():
        try:
            got.extend(launch(cuda_set, np.float64, n=50) for _ in range(20))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert len(got) == 80
    assert all((g == want).all() for g in got)


def test_kernels_are_known_with_their_words_and_types():
    assert scaled in api.KERNELS
    assert scaled.double
    assert [str(t) for t in scaled.signature(np.float32)] == [
        "array(float32, 1d, C)",
        "float32",
        "array(float64, 1d, C)",
        "int64",
        "array(float32, 1d, C)",
    ]


# --------------------------------------------------------------------------------------- what is said where CUDA is not


def outside(code):
    """Run `code` in a new process as users have it, without the simulator."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRY = """
import lvm, sys
from lvm import kernels
assert kernels.available("cpu")
try:
    kernels.load("cuda")
    assert kernels.available("cuda")
except RuntimeError as e:
    assert not kernels.available("cuda")
    print(e)
"""


def test_without_numba_cuda_its_name_is_said_and_nothing_is_loaded():
    hide = (
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n: None if n == 'numba_cuda' else find(n)"
    )
    said, loaded = outside(f"{hide}\n{TRY}\nprint([m for m in sys.modules if m.startswith('numba')])").splitlines()
    assert said == (
        "device='cuda' cannot be used here. The package numba-cuda is not installed: pip install 'lvm[cuda13]' (NVIDIA "
        "driver 580 or later), or pip install 'lvm[cuda12]'. Or use device='cpu'; of a model, set_params(device='cpu')."
    )
    assert loaded == "[]"


def test_without_a_driver_or_a_gpu_that_is_said():
    if find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (python -m pip install -e '.[cuda13]')")
    said = outside(TRY)
    assert said == "" or re.fullmatch(
        r"device='cuda' cannot be used here\. The NVIDIA driver (cannot be used: .*|finds no GPU\.) Try `nvidia-smi`.* "
        r"Or use device='cpu'; of a model, set_params\(device='cpu'\)\.",
        said,
    )
    if GPU:
        assert said == ""


@pytest.mark.parametrize(
    ("gpus", "said"),
    [(0, "The NVIDIA driver finds no GPU. Try `nvidia-smi`"), (1, "No kernel can be compiled and run (")],
    ids=["none", "one that nothing runs on"],
)
def test_a_driver_alone_is_not_taken_for_a_gpu(gpus, said):
    if find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (python -m pip install -e '.[cuda13]')")
    code = f"""
from unittest import mock
from lvm.kernels.cuda import api
from numba.cuda.cudadrv import driver
with mock.patch.object(driver, "driver", mock.Mock(is_available=True, get_device_count=lambda: {gpus})):
    print(api.missing())
"""
    assert GPU or outside(code).startswith(said)


def test_one_stream_for_all_threads_or_an_error():
    if find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (python -m pip install -e '.[cuda13]')")
    code = """
from unittest import mock
import numba
from lvm.kernels.cuda import api
from numba.cuda.cudadrv import driver
numba.config.CUDA_PER_THREAD_DEFAULT_STREAM = 1
with mock.patch.object(driver, "driver", mock.Mock(is_available=True, get_device_count=lambda: 1)):
    print(api.missing())
"""
    assert outside(code).startswith("NUMBA_CUDA_PER_THREAD_DEFAULT_STREAM is set")


@simulated
def test_auto_weighs_work_and_room(cuda_set, monkeypatch):
    monkeypatch.setattr(kernels, "_simulated", lambda: False)
    monkeypatch.setattr(kernels, "missing", lambda: "")
    monkeypatch.setattr(api, "room", lambda: 1000)
    much = 2**38
    assert kernels.load("auto", much, 500) is cuda_set
    for work, size in (much - 1, 0), (much, 501), (much, np.inf), (0, 0):
        assert kernels.load("auto", work, size).__name__ == "lvm.kernels.cpu"
    monkeypatch.setattr(kernels, "available", lambda device: False)
    assert kernels.load("auto", much).__name__ == "lvm.kernels.cpu"


@simulated
def test_the_simulator_serves_where_it_is_asked_for(cuda_set):
    assert kernels.available("cuda")
    assert kernels.missing() == ""
    assert cuda_set.__name__ == "lvm.kernels.cuda"


# ------------------------------------------------------------------------------------------------------- the simulator


@kernel("T1 i T1w")
def mirrored(x, barrier, out):
    """out = x backwards through shared memory, with the barrier that it needs or without."""
    i = cuda.threadIdx.x
    a = cuda.shared.array(TILE, x.dtype)
    a[i] = x[i]
    if barrier:
        cuda.syncthreads()
    out[i] = a[TILE - 1 - i]


@kernel("T1w i")
def half_waits(out, where):
    i = cuda.threadIdx.x
    if i < TILE // 2:
        cuda.syncthreads()
        out[i] = 1
    elif where:
        cuda.syncthreads()
        out[i] = 2


@simulated
def test_a_missing_barrier_shows_in_either_order(cuda_set):
    x, out = cuda_set.put(np.arange(TILE, dtype=np.float32)), cuda_set.empty(TILE, np.float32)
    mirrored(1, TILE, x, True, out)
    np.testing.assert_array_equal(cuda_set.get(out), np.arange(TILE)[::-1])
    mirrored(1, TILE, x, False, out)
    assert np.isnan(cuda_set.get(out)).sum() == TILE // 2


@simulated
@pytest.mark.parametrize(("where", "said"), [(0, "32 of 64 wait at .*; the others have ended"), (1, "64 of 64 .*, .*")])
def test_a_barrier_that_not_all_reach_is_an_error_that_names_it(cuda_set, where, said):
    out = cuda_set.empty(TILE, np.float32)
    line = half_waits.py.__code__.co_firstlineno + 4
    with pytest.raises(RuntimeError, match=rf"half_waits, block \(0, 0, 0\).*{said}") as e:
        half_waits(1, TILE, out, where)
    assert f"test_cuda.py:{line} (block)" in str(e.value)


@kernel("T1w T2w")
def numbered(blocks, threads):
    """The order in which blocks and threads come."""
    b = cuda.blockIdx.x + cuda.gridDim.x * cuda.blockIdx.y
    t = cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z)
    threads[b, t] = cuda.atomic.add(blocks, 0, 1)


@simulated
def test_threads_and_blocks_run_in_the_order_asked_for(cuda_set, order):
    count, seen = cuda_set.put(np.zeros(1)), cuda_set.empty((6, 24), np.float64)
    numbered((3, 2), (2, 3, 4), count, seen)
    got = cuda_set.get(seen).reshape(-1)
    np.testing.assert_array_equal(got, np.arange(144) if order == "forward" else np.arange(144)[::-1])


@device_function
def warp_sum(v):
    for d in (16, 8, 4, 2, 1):
        v += cuda.shfl_down_sync(0xFFFFFFFF, v, d)
    return v


@kernel("T1 T1w")
def block_sum(x, out):
    a = cuda.shared.array(32, x.dtype)
    v = warp_sum(x[cuda.grid(1)])
    if cuda.laneid == 0:
        a[cuda.threadIdx.x // 32] = v
    cuda.syncthreads()
    if cuda.threadIdx.x < 32:
        v = a[cuda.threadIdx.x] if cuda.threadIdx.x < cuda.blockDim.x // 32 else x.dtype.type(0)
        v = warp_sum(v)
        if cuda.threadIdx.x == 0:
            out[cuda.blockIdx.x] = v


def test_warps_sum_by_shuffles(cuda_set):
    x, out = np.arange(512, dtype=np.float32), cuda_set.empty(2, np.float32)
    block_sum(2, 256, cuda_set.put(x), out)
    np.testing.assert_array_equal(cuda_set.get(out), x.reshape(2, 256).sum(1))


@kernel("T1 T2w")
def shuffled(x, out):
    i = cuda.threadIdx.x
    out[0, i] = cuda.shfl_sync(0xFFFFFFFF, x[i], 5)
    out[1, i] = cuda.shfl_up_sync(0xFFFFFFFF, x[i], 3)
    out[2, i] = cuda.shfl_down_sync(0xFFFFFFFF, x[i], 3)
    out[3, i] = cuda.shfl_xor_sync(0xFFFFFFFF, x[i], 1)
    out[4, i] = cuda.ballot_sync(0xFFFFFFFF, i % 32 < 3)
    out[5, i] = cuda.any_sync(0xFFFFFFFF, i == 40)
    out[6, i] = cuda.all_sync(0xFFFFFFFF, i < 40)
    cuda.syncwarp()
    out[7, i] = cuda.syncthreads_count(1 if i < 40 else 0)
    out[8, i] = cuda.syncthreads_and(1 if i < 40 else 0)
    out[9, i] = cuda.syncthreads_or(1 if i == 40 else 0)


def test_warp_operations_are_those_of_the_cuda_manual(cuda_set):
    x, out = np.arange(64.0), cuda_set.empty((10, 64), np.float64)
    shuffled(1, 64, cuda_set.put(x), out)
    lane, warp = x % 32, x // 32
    want = [
        32 * warp + 5,
        np.where(lane < 3, x, x - 3),
        np.where(lane > 28, x, x + 3),
        x + 1 - 2 * (x % 2),
        7 + 0 * x,
        warp,
        1 - warp,
        40 + 0 * x,
        0 * x,
        1 + 0 * x,
    ]
    np.testing.assert_array_equal(cuda_set.get(out), want)


@kernel("T1 T1w")
def partial_warp(x, out):
    out[cuda.threadIdx.x] = cuda.shfl_down_sync(0xFFFFFFFF, x[cuda.threadIdx.x], 1)


@simulated
def test_a_lane_that_is_not_there_gives_nan(cuda_set):
    out = cuda_set.empty(20, np.float64)
    partial_warp(1, 20, cuda_set.put(np.arange(20.0)), out)
    np.testing.assert_array_equal(cuda_set.get(out), [*range(1, 20), np.nan])


@kernel("T1w i")
def unwritten(out, n):
    out[0] = cuda.shared.array(4, out.dtype)[3]
    out[1] = cuda.shared.array(4, np.int64)[3]
    out[2] = cuda.local.array(4, np.float32)[3]
    if n > 5:
        out[n] = 0


@simulated
def test_what_was_never_written_is_no_number(cuda_set):
    out = cuda_set.empty(5, np.float64)
    unwritten(1, 1, out, 0)
    np.testing.assert_array_equal(cuda_set.get(out), [np.nan, -1, np.nan, np.nan, np.nan])


@simulated
def test_an_error_names_the_thread(cuda_set):
    with pytest.raises(
        RuntimeError, match=r"unwritten, block \(0, 0, 0\), thread \(0, 0, 0\): IndexError: index 6 is out"
    ):
        unwritten(1, 1, cuda_set.empty(5, np.float64), 6)
    with pytest.raises(ValueError, match="at most 1024 threads"):
        unwritten(1, (32, 33), cuda_set.empty(5, np.float64), 0)
    unwritten(1, 1, cuda_set.empty(5, np.float64), 0)  # an error leaves the simulator usable


@simulated
def test_an_order_has_a_name(order):
    import simulator

    with pytest.raises(ValueError, match="order must be 'forward' or 'reverse', got 'random'"):
        simulator.install("random")
