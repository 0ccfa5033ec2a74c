"""Kernels compile at first use, one dtype at a time, and the cache can only help."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lvm
from lvm.kernels.jit import kernel

ROOT = Path(lvm.__path__[0]).parent
PATIENCE = 120  # seconds until a hang is called a hang
NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"

TOY = '''
from lvm.kernels.jit import FAST, kernel

@kernel("T1 T T1w", fastmath=FAST)
def scale(x, a, out):
    """out = a x"""
    for i in range(x.shape[0]):
        out[i] = a * x[i]

@kernel("T1 T1w")
def inverse(x, out):
    """out = 1 / x"""
    for i in range(x.shape[0]):
        out[i] = 1 / x[i]
'''

HEAD = """
import glob, importlib, os, sys, warnings
import numpy as np
from lvm.kernels import jit
warnings.simplefilter("error")

def fresh():
    "The toys as a new process sees them."
    sys.modules.pop("toys", None)
    jit._warned = False
    return importlib.import_module("toys")

def scaled(toys, dtype=np.float64):
    out = np.zeros(5, dtype)
    toys.scale(np.arange(5, dtype=dtype), dtype(3), out)
    return out.tolist() == [0, 3, 6, 9, 12]

def cache(k, dtype=np.float64):
    "(hits, misses) of a kernel"
    stats = k.compiled(dtype).stats
    return sum(stats.cache_hits.values()), sum(stats.cache_misses.values())

def files(kind):
    return glob.glob(os.path.join(os.environ["NUMBA_CACHE_DIR"], "**", "*." + kind), recursive=True)

"""


@pytest.fixture
def folder(tmp_path):
    """A folder with toys.py in it, and room for a cache."""
    (tmp_path / "toys.py").write_text(TOY)
    return tmp_path


def start(folder, code, root=ROOT, **environment):
    """A new process that runs HEAD and `code` beside toys.py, with an own cache."""
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")}
    env |= {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}
    command = [sys.executable, "-c", HEAD + code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env | environment, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out.strip()


def python(folder, code, **options):
    return finish(start(folder, code, **options))


USE = "toys = fresh(); print(scaled(toys), *cache(toys.scale))"


def test_a_second_process_loads_what_the_first_compiled(folder):
    # two hash seeds, because the order in which a set of flags prints differs between them
    assert python(folder, USE, PYTHONHASHSEED="1") == "True 0 1"
    assert python(folder, USE, PYTHONHASHSEED="2") == "True 1 0"


def test_importing_compiles_nothing_and_each_dtype_compiles_when_used(folder):
    code = """
from numba.core import event
with event.install_recorder("numba:compile") as record:
    toys = fresh()
    importlib.import_module("lvm.kernels.cpu.mixture")
    print(len(record.buffer), len(files("nbc")))
scaled(toys)
print(len(files("nbc")))
scaled(toys)
print(len(files("nbc")))
scaled(toys, np.float32)
print(len(files("nbc")), toys.scale.compiled("float32").signatures[0][1])
"""
    assert python(folder, code).split() == ["0", "0", "1", "1", "2", "float32"]


def test_an_edit_in_another_kernel_file_misses_the_cache(folder):
    copy = folder / "copy"
    for name in ("lvm/__init__.py", "kernels/__init__.py", "kernels/jit.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / name if (ROOT / name).exists() else ROOT / "lvm" / name  # a checkout, or an installed copy
        shutil.copy(source, copy / name)
    (copy / "kernels" / "_lvm_kernels_here").touch()
    (copy / "kernels" / "toy.py").write_text(
        "from .jit import kernel\nfrom .inner import f\n\n"
        "@kernel('T1 T1w')\ndef g(x, out):\n    for i in range(x.shape[0]):\n        out[i] = f(x[i])\n"
    )
    inner = "from numba.extending import register_jitable\n\n@register_jitable\ndef f(x):\n    return x + {}\n"
    use = "from lvm.kernels import toy; out = np.zeros(1); toy.g(np.ones(1), out); print(*out, *cache(toy.g))"
    seen = []
    for number in (1, 1, 5):
        (copy / "kernels" / "inner.py").write_text(inner.format(number))
        seen.append(python(folder, use, root=copy, PYTHONDONTWRITEBYTECODE="1"))
    assert seen == ["2.0 0 1", "2.0 1 0", "6.0 0 1"]


@pytest.mark.parametrize(
    ("change", "environment"),
    [
        ("error_model='python'", {}),
        ("fastmath=jit.FAST", {}),
        ("boundscheck=True", {}),
        ("", {"NUMBA_BOUNDSCHECK": "1"}),
    ],
)
def test_flags_are_part_of_the_key(folder, change, environment):
    use = "toys = fresh(); k = jit.kernel('T1 T1w', {})(toys.inverse.py); print(*cache(k))"
    assert python(folder, use.format("")) == "0 1"
    assert python(folder, use.format(change), **environment) == "0 1"
    assert python(folder, use.format(change), **environment) == "1 0"


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["emptied", "cut short", "garbage", "one bit flipped", "removed", "a folder"])
def test_a_damaged_cache_file_is_repaired(folder, kind, damage):
    code = f"""
scaled(fresh())
(name,) = files({kind!r})
data = open(name, "rb").read()
middle = len(data) // 2
new = {{
    "emptied": b"",
    "cut short": data[:middle],
    "garbage": bytes(range(256)) * 8,
    "one bit flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:],
}}.get({damage!r})
os.unlink(name)
if new is not None:
    open(name, "wb").write(new)
elif {damage!r} == "a folder":
    os.mkdir(name)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    toys = fresh()
    print(scaled(toys), scaled(toys, np.float32), len(caught) <= 1)
toys = fresh()
"""
    if damage == "a folder":  # cannot be replaced; what matters is that the kernel runs
        assert python(folder, code) == "True True True"
    else:
        again = "print(scaled(toys), *cache(toys.scale), scaled(toys, np.float32), *cache(toys.scale, np.float32))"
        assert python(folder, code + again).split("\n") == ["True True True", "True 1 0 True 1 0"]


def test_files_that_two_processes_mixed_up_do_no_harm(folder):
    # both save for the first time: the index of one may name the file of the other
    code = """
toys = fresh()
scaled(toys), scaled(toys, np.float32)
a, b = files("nbc")
os.rename(a, a + "x"), os.rename(b, a), os.rename(a + "x", b)
toys = fresh()
print(scaled(toys), scaled(toys, np.float32))
"""
    assert python(folder, code) == "True True"


def test_with_nowhere_to_write_kernels_compile_in_memory_after_one_warning(folder):
    (folder / "file").touch()
    (folder / "__pycache__").touch()  # where the last resort, the source's own folder, would keep it
    nowhere = str(folder / "file" / "below")
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    toys = fresh()
    out = np.empty(2)
    toys.inverse(np.array([2.0, 0.0]), out)
    print(scaled(toys), out.tolist())
print([w.category.__name__ for w in caught], str(caught[0].message))
"""
    environment = {"NUMBA_CACHE_DIR": nowhere, "HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    result, warned = python(folder, code, **environment).split("\n")
    assert result == "True [0.5, inf]"
    assert warned.startswith("['RuntimeWarning'] lvm: the cache of compiled kernels cannot be found (")
    assert warned.endswith("Set NUMBA_CACHE_DIR to a writable folder to keep compiled kernels.")


@pytest.mark.skipif(sys.platform == "win32", reason="LOCALAPPDATA is not so easily moved")
def test_the_cache_is_the_users_not_the_packages(folder):  # where `pip uninstall` would leave it behind
    home = {"NUMBA_CACHE_DIR": "", "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "home")}
    assert python(folder, "print(jit.cache_folder(fresh().scale))", **home).startswith(str(folder))


@pytest.mark.parametrize("limit", [10, 4096])  # bytes: too few for the index; enough for the index, not for the code
def test_a_full_disk_costs_one_warning(folder, limit):
    pytest.importorskip("resource", reason="file size limits are a Unix matter")
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    toys = fresh()
    out = np.empty(2)
    toys.inverse(np.array([2.0, 0.0]), out)
    print(scaled(toys), out.tolist(), len(caught), str(caught[0].message)[:54])
"""
    full = python(folder, code, PYTHONDONTWRITEBYTECODE="1")
    assert full == "True [0.5, inf] 1 lvm: the cache of compiled kernels cannot be written ("
    assert python(folder, USE) == "True 0 1"  # and with room again the cache is made
    assert python(folder, USE) == "True 1 0"


def test_processes_may_race_for_an_empty_cache(folder):
    code = """
import time
time.sleep(max(0, float(os.environ["START"]) - time.time()))
dtypes = [np.float32, np.float64][::int(os.environ["ORDER"])]
print(all(scaled(fresh(), t) for t in dtypes))
"""
    import time

    together = str(time.time() + 1.5)
    racers = [start(folder, code, START=together, ORDER=order) for order in ("1", "-1", "1", "-1")]
    assert [finish(r) for r in racers] == ["True"] * 4
    assert python(folder, "print(scaled(fresh()), scaled(fresh(), np.float32))") == "True True"


def test_threads_that_race_compile_once(folder):
    code = """
import threading
toys, start, right = fresh(), threading.Barrier(8), []
def use():
    start.wait()
    right.append(scaled(toys))
users = [threading.Thread(target=use) for _ in range(8)]
for u in users: u.start()
for u in users: u.join()
print(all(right), len(right), *cache(toys.scale))
"""
    assert python(folder, code) == "True 8 0 1"


def test_without_the_compiler_kernels_are_plain_functions(folder):
    code = "toys = fresh(); print(scaled(toys), toys.scale.compiled(np.float64) is toys.scale.py, files('nbi'))"
    assert python(folder, code, NUMBA_DISABLE_JIT="1") == "True True []"


@kernel("T2 d1 i T2w")
def weigh(X, w, n, out):
    """out[i] = w[i] X[i] for the first n rows.   X, out (N,D), w (N,) float64"""
    for i in range(n):
        for d in range(X.shape[1]):
            out[i, d] = w[i] * X[i, d]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_may_be_read_only_or_memory_maps(tmp_path, dtype):
    X, w = np.arange(6, dtype=dtype).reshape(3, 2), np.array([1.0, 2.0, 3.0])
    X.tofile(tmp_path / "X")
    X.flags.writeable = w.flags.writeable = False
    for given in (X, np.memmap(tmp_path / "X", dtype, "r", shape=X.shape), X.copy()):
        out = np.zeros_like(X)
        weigh(given, w, 2, out)
        assert out.tolist() == [[0, 1], [4, 6], [0, 0]]


@pytest.mark.parametrize("dtype", ["int64", "float16", "bool", ">f8", "complex128"])
def test_other_dtypes_are_refused_by_name(dtype):
    X = np.zeros((3, 2), dtype)
    with pytest.raises(TypeError, match=r"weigh takes float32 or float64 arrays, got .+\. Convert with \.astype\."):
        weigh(X, np.ones(3), 3, X)


@pytest.mark.skipif(NO_JIT, reason="plain functions have no types")
def test_arguments_that_do_not_fit_are_refused():
    X, w = np.zeros((4, 2)), np.ones(4)
    read_only = np.zeros_like(X)
    read_only.flags.writeable = False
    for bad in [
        (X, w, 4, read_only),
        (X, w, 4, X.astype("f4")),
        (X[::2], w, 2, X),
        (X, w.astype("f4"), 4, X),
        (X, w, 4),
    ]:
        with pytest.raises(TypeError):
            weigh(*bad)


@pytest.mark.skipif(NO_JIT, reason="about compiled code")
def test_a_kernel_can_be_called_from_compiled_code():
    from numba import njit

    inner = weigh.compiled(np.float64)

    @njit
    def outer(X, w, out):
        inner(X, w, X.shape[0], out)

    X, out = np.ones((3, 2)), np.zeros((3, 2))
    outer(X, np.array([1.0, 2.0, 3.0]), out)
    assert out.tolist() == [[1, 1], [2, 2], [3, 3]]
    assert weigh.py.__name__ == weigh.__name__ == "weigh"
    assert weigh.__doc__.startswith("out[i] = ")
