"""The house keeps its shape: who imports whom, what is shipped, what `import lvm` costs, one face for twins."""

import ast
import doctest
import importlib
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import lvm

ROOT = Path(__file__).parents[1]
FOLDERS = {"lvm": ROOT / "lvm", "lvm.kernels": ROOT / "kernels"}


def dotted(path):
    """kernels/cpu/mixture.py -> lvm.kernels.cpu.mixture"""
    name, folder = next((n, f) for n, f in FOLDERS.items() if f in path.parents)
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join([name, *(p for p in parts if p != "__init__")])


MODULES = {dotted(p): p for folder in FOLDERS.values() for p in sorted(folder.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
OPTIONAL = {"sklearn", "pandas", "polars", "matplotlib", "tqdm", "cuda"}  # not needed to import any module of ours

# Who may import whom: for the modules on the left, what they may import of lvm and of other packages. The first
# pattern that fits counts.
ARROWS = {
    "lvm.kernels": ("lvm.kernels.cuda.api", ""),
    "lvm.kernels.pool": ("", ""),
    "lvm.kernels.jit": ("", "numpy numba"),
    "lvm.kernels.shared*": ("lvm.kernels.shared", "numpy numba"),
    "lvm.kernels.cpu.lanes": ("", "numpy numba llvmlite"),
    "lvm.kernels.cpu*": ("lvm.kernels.cpu lvm.kernels.shared lvm.kernels.jit lvm.kernels.pool", "numpy scipy numba"),
    "lvm.kernels.cuda.api": ("lvm.kernels.jit", "numpy numba cuda"),
    "lvm.kernels.cuda.cublas": ("lvm.kernels.cuda.api", "numpy cuda"),
    "lvm.kernels.cuda*": ("lvm.kernels.cuda lvm.kernels.shared lvm.kernels.jit lvm.kernels.pool", "numpy scipy numba"),
    "lvm.objectives.vae": ("lvm.parameters lvm.objectives.flow", "numpy scipy"),
    "lvm.objectives.network": ("lvm.parameters lvm.objectives.vae", "numpy scipy"),
    "lvm.objectives*": ("lvm.parameters", "numpy scipy"),
    "lvm": ("", ""),
    "lvm.__main__": ("lvm", "numpy scipy tqdm matplotlib llvmlite"),
    "lvm.calibration": ("lvm.estimator", "numpy"),
    "lvm.datasets": ("", "numpy"),
    "lvm.estimator": ("lvm.__version__ lvm.kernels lvm.modelfile", "numpy sklearn pandas polars"),
    "lvm.checkpoint": ("lvm.__version__ lvm.modelfile", "numpy safetensors"),
    "lvm.fit": ("lvm.estimator lvm.parameters lvm.checkpoint", "numpy tqdm"),
    "lvm.gradients": (
        "lvm.fit lvm.objectives lvm.estimator lvm.kernels lvm.parameters lvm.distributions",
        "numpy numba",
    ),
    "lvm.modelfile": ("lvm.__version__ lvm.estimator", "numpy safetensors"),
    "lvm.parameters": ("", "numpy"),
    "lvm.plotting": ("lvm.calibration lvm.estimator", "numpy scipy matplotlib"),
    "lvm.selection": ("lvm.mixture lvm.estimator lvm.kernels.pool", "numpy tqdm"),
    "lvm.starts": ("", "numpy"),
    "lvm.*": (  # a family
        (
            "lvm.fit lvm.starts lvm.objectives lvm.estimator lvm.kernels lvm.modelfile lvm.parameters "
            "lvm.calibration lvm.distributions lvm.evidence lvm.targets"
        ),
        "numpy scipy tqdm",
    ),
}


def imports(name):
    """Every import in a module, wherever it stands: (dotted name, is it at the top level)."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    tree = TREES[name]
    skip = {n for part in tree.body if type_checking(part) for n in ast.walk(part)}
    for node in ast.walk(tree):
        if node in skip:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES or alias.name == "__version__" else base), node in tree.body


def type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def within(name, prefixes):
    return any(name == p or name.startswith(p + ".") for p in prefixes.split())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    ours, others = next(allowed for pattern, allowed in ARROWS.items() if fnmatch(name, pattern))
    for target, at_the_top in imports(name):
        root = target.partition(".")[0]
        if root == "lvm":
            assert within(target, ours), f"{name} may not import {target}, only: {ours or 'nothing of lvm'}"
        elif root not in sys.stdlib_module_names:
            assert root in others.split(), f"{name} may not import {target}, only: {others or 'the standard library'}"
            assert not (at_the_top and root in OPTIONAL), (
                f"{name} must import {target} where it uses it, not at the top"
            )


def test_objectives_take_from_scipy_its_linear_algebra_alone():
    for name in MODULES:
        if name.startswith("lvm.objectives"):
            assert not [t for t, _ in imports(name) if t.startswith("scipy") and not within(t, "scipy.linalg")]


def test_the_reference_knows_numpy_and_scipy_only():
    path = ROOT / "tests" / "reference.py"
    if not path.exists():
        pytest.skip("there is no tests/reference.py yet")
    names = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names - sys.stdlib_module_names <= {"numpy", "scipy"}


def test_pyproject_lists_every_package():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(setup["packages"]) == sorted(found)
    folders_with_code = {dotted(p.parent / "__init__.py") for p in MODULES.values()}
    assert folders_with_code == found, "a folder with code has no __init__.py"


def python(code, cwd=ROOT, **environment):
    """Run `code` in a new process as users have it: no simulator, no warnings."""
    env = {k: v for k, v in os.environ.items() if k not in ("NUMBA_ENABLE_CUDASIM", "PYTHONPATH")} | environment
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_is_no_name_of_its_own():
    code = "try:\n    import kernels\nexcept ImportError as e:\n    print(e)"
    assert "Write `from lvm import kernels`." in python(code)
    assert python("from lvm import kernels; print(kernels.__name__)") == "lvm.kernels"


@pytest.mark.parametrize("where", ["the repo root", "elsewhere"])
def test_import_lvm_loads_nothing_else(where, tmp_path):
    code = """
import sys
before = set(sys.modules)
import lvm
dir(lvm)
new = {m.partition(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(new), *(m for m in sys.modules if m.startswith("lvm.")))
"""
    if where == "the repo root":
        assert python(code) == "lvm"
    else:
        assert python(code, cwd=tmp_path, PYTHONPATH=str(ROOT)) == "lvm"


def test_every_public_name_resolves():
    code = """
import lvm
assert set(lvm.__all__) <= set(dir(lvm)) and len(set(lvm.__all__)) == len(lvm.__all__)
for name in lvm.__all__:
    assert getattr(lvm, name) is not None
    assert getattr(lvm, name) is getattr(lvm, name)
names = {}
exec("from lvm import *", names)
print(set(lvm.__all__) - set(names) or "all")
"""
    assert python(code) == "all"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lvm' has no attribute 'GausianMixture'"):
        lvm.GausianMixture  # noqa: B018
    assert not hasattr(lvm, "kernels_")


def test_type_checkers_see_what_there_is():
    seen, modules = {}, set()
    for node in next(n for n in TREES["lvm"].body if type_checking(n)).body:
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` a type checker takes the name for private"
            if node.module is None:
                modules.add(alias.name)
            else:
                seen[alias.name] = node.module
    assert seen == lvm._where
    assert modules == set(lvm._modules)


def test_a_fit_on_the_cpu_touches_no_cuda():
    code = """
import sys, lvm, numpy as np
lvm.GaussianMixture(2, random_state=0).fit(np.random.default_rng(0).normal(size=(50, 2)))
print([m for m in sys.modules if m.startswith(("numba.cuda", "numba_cuda", "cuda"))])
"""
    assert python(code) == "[]"


def face(tree):
    """{public function: its argument names} of a module."""
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    return {f.name: [a.arg for a in ast.walk(f.args) if isinstance(a, ast.arg)] for f in functions}


ALONE = {"cpu": {"ard", "lanes"}, "cuda": {"api", "cublas"}}  # what serves one kernel set; all else comes in twins


def test_twins_have_one_face():
    twins = {}
    for device, alone in ALONE.items():
        names = {n.removeprefix(f"lvm.kernels.{device}.") for n in MODULES if n.startswith(f"lvm.kernels.{device}.")}
        twins[device] = names - alone
    assert twins["cuda"] == twins["cpu"]
    assert face(TREES["lvm.kernels.cuda"]) == face(TREES["lvm.kernels.cpu"])
    for name in twins["cpu"]:
        assert face(TREES[f"lvm.kernels.cuda.{name}"]) == face(TREES[f"lvm.kernels.cpu.{name}"]), name
        assert name in lvm.kernels.load("cpu")._families


@pytest.mark.parametrize("name", [n for n in MODULES if n != "lvm.kernels.cuda.api"])
def test_only_one_module_imports_numba_cuda(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names if not node.level]
        else:
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [f for f in found if within(f, "numba.cuda numba_cuda")], f"{name}: from .api import cuda"


def test_a_face_is_names_and_arguments():
    assert face(ast.parse("def f(a, b, *, c=1): ...\ndef _g(x): ...")) == {"f": ["a", "b", "c"]}


FORBIDDEN = {
    "fastmath": "makes isfinite(nan) true; use jit.FAST",
    "parallel": "is not safe from threads or after fork; use pool.run",
    "cache": "raises where nothing is writable; use jit.kernel",
}


@pytest.mark.parametrize("name", MODULES)
def test_no_forbidden_compiler_options(name):
    for node in ast.walk(TREES[name]):
        options = []
        if isinstance(node, ast.keyword):
            options = [(node.arg, node.value)]
        elif isinstance(node, ast.Dict):
            options = [(getattr(k, "value", None), v) for k, v in zip(node.keys, node.values)]
        for option, value in options:
            if option in FORBIDDEN:
                assert getattr(value, "value", None) is not True, f"{option}=True {FORBIDDEN[option]}"
        if name != "lvm.kernels.jit":
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("njit", "jit", "numba.njit", "numba.jit"), "only jit.kernel compiles"


@pytest.mark.parametrize("name", MODULES)
def test_public_things_have_docstrings(name):
    kinds = (ast.FunctionDef, ast.ClassDef)
    silent = [] if ast.get_docstring(TREES[name]) else [name]
    todo = [(name, node) for node in TREES[name].body]
    while todo:
        owner, node = todo.pop()
        if isinstance(node, kinds) and not node.name.startswith("_"):
            silent += [] if ast.get_docstring(node) else [f"{owner}.{node.name}"]
            if isinstance(node, ast.ClassDef):
                todo += [(f"{owner}.{node.name}", inner) for inner in node.body]
    assert silent == []


@pytest.mark.parametrize("name", [n for n in MODULES if within(n, "lvm.kernels")])
def test_examples_in_kernels_run(name):  # pytest itself would import them as `kernels`, which refuses
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
