"""lvm needs neither scikit-learn nor pandas nor Matplotlib, and importing it costs next to nothing."""

import os
import subprocess
import sys

import lvm

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(lvm.__file__)))


def run(code, *args):
    """Run `code` in a fresh interpreter that finds this lvm; -> what it printed."""
    env = {**os.environ, "PYTHONPATH": ROOT + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-W", "error", "-c", code, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


LIFE_OF_A_MODEL = """
import sys
from importlib.machinery import PathFinder

class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("sklearn", "pandas", "polars", "joblib", "matplotlib"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked)
try:
    import sklearn
except ImportError:
    pass
else:
    raise AssertionError("the block does not hold")

import copy, pickle
import numpy as np
import lvm
from lvm.estimator import interop

rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(size=(60, 2)), rng.normal(6, 1, size=(60, 2))])
model = lvm.GaussianMixture(n_components=2, random_state=0)

for unfitted in model.predict, model.score_samples, model.predict_proba, model.score:
    try:
        unfitted(X)
    except lvm.NotFittedError as e:
        assert type(e) is lvm.NotFittedError and "is not fitted yet" in str(e)
        assert isinstance(pickle.loads(pickle.dumps(e)), lvm.NotFittedError)
    else:
        raise AssertionError("an unfitted model predicts")

assert model.fit(X, sample_weight=np.ones(len(X))) is model
labels = model.predict(X)
assert len(set(labels[:60])) == len(set(labels[60:])) == 1 and labels[0] != labels[-1]
assert model.predict_proba(X).shape == (120, 2) and np.isfinite(model.score(X))
assert model.sample(5)[0].shape == (5, 2)

path = sys.argv[1]
model.save(path)
for twin in lvm.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model):
    assert np.array_equal(twin.score_samples(X), model.score_samples(X))
    assert twin.get_params() == model.get_params()

assert repr(model) == "GaussianMixture(n_components=2, random_state=0)", repr(model)
assert model._repr_html_() == "<pre>GaussianMixture(n_components=2, random_state=0)</pre>", model._repr_html_()
assert interop(lvm.ConvergenceWarning) is lvm.ConvergenceWarning
print(*sorted({m.partition(".")[0] for m in sys.modules}))
"""


def test_a_model_lives_its_life_without_scikit_learn(tmp_path):
    loaded = run(LIFE_OF_A_MODEL, str(tmp_path / "model.safetensors")).split()
    assert "numpy" in loaded
    assert not {"sklearn", "pandas", "polars", "joblib", "matplotlib"} & set(loaded)


def test_import_lvm_loads_nothing_heavy():
    code = """
import sys, time
start = time.perf_counter()
import lvm
print(1e3 * (time.perf_counter() - start))
print(*sorted({m.partition(".")[0] for m in sys.modules}))
"""
    milliseconds, loaded = run(code).splitlines()
    print(f"import lvm took {float(milliseconds):.1f} ms; under 20 ms is what we want")
    heavy = {"numpy", "scipy", "numba", "llvmlite", "sklearn", "pandas", "matplotlib", "safetensors", "tqdm"}
    assert not heavy & set(loaded.split())
