"""Compile every CUDA kernel as a launch would, without a GPU or a driver, and judge the machine code.

    python tests/compile_cuda.py        # prints JSON; needs numba-cuda (not numba's own) and no NUMBA_ENABLE_CUDASIM

numba-cuda asks a device for its compute capability alone, so one that knows no more will do. nvJitLink, which comes
with numba-cuda, has ptxas in it, and `ptxas -v` says how much of what a kernel takes. Private names of numba-cuda 0.30
are used, which is in maintenance: they will stay.
"""

import contextlib
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

ROOT = Path(__file__).parents[1]
TARGETS = {"sm_80": (8, 0, ""), "sm_90a": (9, 0, "a")}  # A100, and H100 and H200
SHARED = 48 * 1024  # bytes of static shared memory that any device has for a block


def complaints(name, variant):
    """What is wrong with one variant of a kernel, as main() prints it: a list of sentences."""
    where = f"{name}, {variant['dtype']}, {variant['target']}: "
    if "error" in variant:
        return [where + f"does not compile: {variant['error']}"]
    wrong = []
    if variant["spills"]:
        wrong.append(f"spills {variant['spills']} bytes of registers. Keep fewer values alive, or a smaller tile.")
    if variant["stack"]:
        wrong.append(f"has a stack frame of {variant['stack']} bytes. Index local arrays by constants.")
    if variant["shared"] > SHARED:
        wrong.append(f"takes {variant['shared']} bytes of shared memory, more than {SHARED}.")
    if variant["float64"] and variant["dtype"] == "float32" and not variant["double"]:
        wrong.append(f"computes in float64: {', '.join(variant['float64'])}. Write T(0.5) for 0.5, T(n) * x for n * x.")
    if variant["approximate"]:
        wrong.append(f"approximates: {', '.join(variant['approximate'])}. Divide by shared.scalar.ratio.")
    return [where + text for text in wrong]


@contextlib.contextmanager
def without_gpu():
    """numba-cuda compiles for sm_90 where nothing else is said, and has ptxas report."""
    from numba.cuda import compiler, dispatcher
    from numba.cuda.codegen import CUDACodeLibrary
    from numba.cuda.cudadrv import driver

    options = driver._Linker._get_linker_options

    def verbose(self, ptx):
        given = options(self, ptx)
        given.ptxas_options = ["-v"]
        return given

    device = SimpleNamespace(compute_capability=(9, 0), id=0)
    with (
        mock.patch.object(dispatcher, "get_current_device", return_value=device),
        mock.patch.object(compiler, "get_current_device", return_value=device),
        mock.patch.object(CUDACodeLibrary, "_ensure_cc", lambda self, cc: cc or TARGETS["sm_90a"]),
        mock.patch.object(driver._Linker, "_get_linker_options", verbose),
    ):
        yield


def variants(kernel):
    """A dictionary for each dtype and target of a lvm.kernels.cuda.api.Kernel: type inference runs once a dtype."""
    from numba.cuda.dispatcher import _Kernel

    from lvm.kernels.cuda.api import cuda

    for dtype in ("float32", "float64"):
        compiled = None
        for target, cc in TARGETS.items():
            variant = {"dtype": dtype, "target": target, "double": kernel.double}
            try:
                if compiled is None:
                    options = cuda.jit(**kernel.options)(kernel.py).targetoptions
                    options = {name: value for name, value in options.items() if name != "device"}
                    compiled = _Kernel(kernel.py, kernel.signature(dtype), **options)
                library = compiled._codelibrary
                library.get_cubin(cc)
                said = library.get_linkerinfo(cc).split(f"entry function '{compiled.entry_name}'")[-1]
                ptx = library.get_asm_str()
            except Exception as e:
                yield variant | {"error": f"{type(e).__name__}: {e}"}
                continue
            taken = {
                "registers": r"Used (\d+) registers",
                "stack": r"(\d+) bytes stack frame",
                "spills": r"(\d+) bytes spill stores",
                "shared": r"(\d+) bytes smem",
            }
            found = {name: re.search(pattern, said) for name, pattern in taken.items()}
            double = re.findall(r"^\s+(?!\.)(?:@!?%p\d+\s+)?([a-z0-9.]+\.f64\b\S*)", ptx, re.MULTILINE)
            numbers = {name: int(m[1]) if m else 0 for name, m in found.items()}
            near = re.findall(r"^\s+(?!\.)(?:@!?%p\d+\s+)?((?:div|sqrt|rcp)\.(?:approx|full)\S*f32)", ptx, re.MULTILINE)
            yield variant | numbers | {"float64": sorted(set(double)), "approximate": sorted(set(near))}


def toys():
    """Kernels with one fault each, and one with none, to see the checker at work."""
    import numpy as np

    from lvm.kernels.cuda.api import cuda, kernel

    @kernel("T1 T1w")
    def clean(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = x.dtype.type(0.5) * x[i]

    @kernel("T1 T1w")
    def double(x, out):
        out[cuda.grid(1)] = 0.1 * x[cuda.grid(1)]

    @kernel("T1 T1w", double=True)
    def double_on_purpose(x, out):
        out[cuda.grid(1)] = 0.1 * x[cuda.grid(1)]

    @kernel("T1 T1w i")
    def stack(x, out, n):
        a = cuda.local.array(64, np.float32)
        for i in range(n):
            a[(i * i) % 64] = x[i]
        for i in range(n):
            out[i] = a[(i * n) % 64]

    @kernel("T1 T1w", max_registers=16)
    def spills(x, out):
        i = cuda.grid(1)
        a, b, c, d, e, f, g, h = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        p, q, r, s, t, u, v, w = x[i + 8], x[i + 9], x[i + 10], x[i + 11], x[i + 12], x[i + 13], x[i + 14], x[i + 15]
        cuda.syncthreads()
        for _ in range(x.size):
            a, b, c, d, e, f, g, h = b * p, c * q, d * r, e * s, f * t, g * u, h * v, a * w
            p, q, r, s, t, u, v, w = q + a, r + b, s + c, t + d, u + e, v + f, w + g, p + h
        out[i] = a + b + c + d + e + f + g + h + p + q + r + s + t + u + v + w

    @kernel("T1 T1w")
    def shared(x, out):
        a = cuda.shared.array(16384, np.float32)
        a[cuda.threadIdx.x] = x[cuda.threadIdx.x]
        cuda.syncthreads()
        out[cuda.threadIdx.x] = a[16383 - cuda.threadIdx.x]

    @kernel("T1 T1w")
    def unknown(x, out):
        out[0] = x.no_such_thing

    return [clean, double, double_on_purpose, stack, spills, shared, unknown]


def main():
    sys.path.insert(0, str(ROOT))
    from lvm.kernels.cuda import api

    for path in sorted((ROOT / "kernels" / "cuda").glob("*.py")):
        importlib.import_module(f"lvm.kernels.cuda.{path.stem}" if path.stem != "__init__" else "lvm.kernels.cuda")
    ours = list(api.KERNELS)
    report = {}
    with without_gpu():
        for kind, kernels in (("kernels", ours), ("toys", toys())):
            names = [f"{k.__module__.rpartition('.')[2]}.{k.py.__qualname__.replace('<locals>.', '')}" for k in kernels]
            report[kind] = [[name, list(variants(k))] for name, k in zip(names, kernels)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
