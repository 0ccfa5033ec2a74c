"""A scheduler for Numba's CUDA simulator, whose own takes 25 ms a barrier, knows no warps and misses wrong barriers.

    simulator.install("forward")        # or "reverse"; after NUMBA_ENABLE_CUDASIM=1, before kernels run

One simulated thread runs at a time, until it ends or waits at a barrier. So runs repeat to the bit, and the order of
threads and blocks is ours to choose: a missing barrier, or a block that counts on another's, shows as a result that
depends on it. What was never written is NaN (integers: all bits 1), and a barrier that not all reach is an error.

Works on the simulators of numba and numba-cuda. Not simulated: types (math.exp of a float32 is a float64), grid.sync()
of several blocks, dynamic shared memory.
"""

import sys
from contextvars import copy_context

import numpy as np
from greenlet import getcurrent, greenlet
from numba.cuda.simulator import kernel, kernelapi

from lvm.kernels.cuda.api import cuda  # which knows how to import numba.cuda

WARP = 32
ALL = 0xFFFFFFFF
_order = "forward"
_running = None  # what the name `cuda` means in the kernel that runs now
_swapped: "list[dict]" = []  # the globals in which it does


def install(order):
    """Run kernels from now on with threads and blocks in this order."""
    global _order
    if order not in ("forward", "reverse"):
        raise ValueError(f"order must be 'forward' or 'reverse', got {order!r}.")
    _order = order
    kernel.FakeCUDAKernel.__call__ = _call
    cuda.device_array = lambda shape, dtype=np.float64, *_, **__: kernel.FakeCUDAArray(_unwritten(shape, dtype))


def _unwritten(shape, dtype):
    """A new array of NaN, or of integers with all bits 1."""
    if isinstance(dtype, kernelapi.types.Type):
        dtype = kernelapi.numpy_support.as_dtype(dtype)
    a = np.empty(shape, dtype)
    a.reshape(-1).view(np.uint8).fill(255)
    return a


# -------------------------------------------------------------------------------------------------------- the schedule


def _call(self, *args):
    """A launch, or a call of a device function within one: in place of FakeCUDAKernel.__call__."""
    global _running
    if self._device:
        _swap(self.fn)
        return self.fn(*args)
    blocks, threads = kernel.normalize_kernel_dimensions(self.grid_dim, self.block_dim)
    if np.prod(threads) > 1024:
        raise ValueError(f"{self.fn.__name__}: a block has at most 1024 threads, got {threads}.")
    args = [getattr(a, "_ary", a) for a in args]  # plain arrays: many times faster inside
    _running = _Inside(blocks, threads, 0)
    _swap(self.fn)
    try:
        for block in _points(blocks):
            _running._shared = _Shared()
            _run_block(self.fn, args, block, _points(threads))
    finally:
        for names in _swapped:
            names["cuda"] = cuda
        _swapped.clear()
        _running = None


def _swap(fn):
    """Have `cuda` mean _running in the module of `fn` until the launch ends: threads may be inside until then."""
    if fn.__globals__.get("cuda") is cuda:
        fn.__globals__["cuda"] = _running
        _swapped.append(fn.__globals__)


def _points(shape):
    """Every (x, y, z) below `shape`, x the fastest, in order."""
    points = [p[::-1] for p in np.ndindex(*shape[::-1])]
    return points if _order == "forward" else points[::-1]


class _Thread(greenlet):
    """A simulated thread: switch() runs it until it ends or waits at a barrier."""

    def __init__(self, run, block, point):
        super().__init__(run)
        self.gr_context = copy_context()  # np.errstate of the caller
        (x, y, z), (X, Y, _) = point, _running.blockDim
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block), kernelapi.Dim3(x, y, z)
        self.number = x + X * (y + Y * z)
        self.lane = self.number % WARP


def _run_block(fn, args, block, points):
    threads = [_Thread(lambda _: fn(*args), block, p) for p in points]
    ready, waiting = dict.fromkeys(threads), {}
    try:
        while ready:
            for t, answer in ready.items():
                try:
                    at = t.switch(answer)
                except Exception as e:
                    place = f"block {block}, thread {tuple(t.threadIdx)}"
                    raise RuntimeError(f"{fn.__name__}, {place}: {type(e).__name__}: {e}") from e
                if not t.dead:
                    waiting[t] = at
            ready = _released(waiting, len(threads))
            for t in ready:
                del waiting[t]
    finally:
        for t in threads:
            if not t.dead:
                t.throw()
    if waiting:
        seen = {f"{name}:{line} ({kind})" for (kind, name, line, *_), _ in waiting.values()}
        raise RuntimeError(
            f"{fn.__name__}, block {block}: a barrier is not reached by all threads. {len(waiting)} of {len(threads)} "
            f"wait at {', '.join(sorted(seen))}; the others have ended."
        )


def _wait(kind, value=None, mask=ALL):
    """Wait at a barrier of the block or the warp. Returns the values that its threads brought, by thread or lane."""
    t, caller = getcurrent(), sys._getframe(2)
    where = kind, caller.f_code.co_filename, caller.f_lineno, int(mask), t.number // WARP if kind == "warp" else None
    return t.parent.switch((where, value))


def _released(waiting, n):
    """{thread: the values brought} of every barrier that is complete, in a block of n threads."""
    groups: dict = {}
    for t, (where, value) in waiting.items():
        groups.setdefault(where, {})[t] = value
    ready = {}
    for (kind, _, _, mask, warp), values in groups.items():
        if kind == "block":
            wanted, answer = n, {t.number: v for t, v in values.items()}
        else:
            there = (1 << min(WARP, n - WARP * warp)) - 1  # lanes; the last warp may have fewer than 32
            wanted, answer = bin(mask & there).count("1"), {t.lane: v for t, v in values.items()}
        if len(values) == wanted:
            ready |= dict.fromkeys(values, answer)
    return ready


# ------------------------------------------------------------------------------------------------- `cuda` in a kernel


class _Shared:
    """The shared arrays of a block: one for each place in the code."""

    def __init__(self):
        self.arrays = {}

    def array(self, shape, dtype):
        caller = sys._getframe(1)
        place = caller.f_code, caller.f_lasti
        if place not in self.arrays:
            self.arrays[place] = _unwritten(shape, dtype)
        return self.arrays[place]


class _Local:
    def array(self, shape, dtype):
        return _unwritten(shape, dtype)


class _Grid:
    def this_grid(self):
        return self

    def sync(self):
        if np.prod([*_running.gridDim]) > 1:
            raise NotImplementedError("grid.sync() of several blocks is not simulated. Launch two kernels.")
        _wait("block")


class _Inside(kernelapi.FakeCUDAModule):
    threadIdx = property(lambda self: getcurrent().threadIdx)
    blockIdx = property(lambda self: getcurrent().blockIdx)
    laneid = property(lambda self: getcurrent().lane)

    def __init__(self, *dims):
        super().__init__(*dims)
        self._local, self._cg = _Local(), _Grid()

    def syncthreads(self):
        _wait("block")

    def syncthreads_count(self, value):
        return sum(map(bool, _wait("block", value).values()))

    def syncthreads_and(self, value):
        return int(all(_wait("block", value).values()))

    def syncthreads_or(self, value):
        return int(any(_wait("block", value).values()))

    def syncwarp(self, mask=ALL):
        _wait("warp", None, mask)

    def shfl_sync(self, mask, value, lane):
        return _from(_wait("warp", value, mask), lane % WARP, value)

    def shfl_up_sync(self, mask, value, delta):
        lane = getcurrent().lane
        return _from(_wait("warp", value, mask), lane - delta if lane >= delta else lane, value)

    def shfl_down_sync(self, mask, value, delta):
        lane = getcurrent().lane
        return _from(_wait("warp", value, mask), lane + delta if lane + delta < WARP else lane, value)

    def shfl_xor_sync(self, mask, value, bits):
        return _from(_wait("warp", value, mask), getcurrent().lane ^ bits, value)

    def all_sync(self, mask, predicate):
        return int(all(_wait("warp", predicate, mask).values()))

    def any_sync(self, mask, predicate):
        return int(any(_wait("warp", predicate, mask).values()))

    def ballot_sync(self, mask, predicate):
        return sum(1 << lane for lane, p in _wait("warp", predicate, mask).items() if p)


def _from(values, lane, own):
    """The value of a lane; NaN of one that took no part."""
    return values[lane] if lane in values else _unwritten((), np.asarray(own).dtype)[()]
