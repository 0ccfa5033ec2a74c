"""What every estimator with `transform` has from `Transformer`: its container, its names, its place in pipelines."""

import copy
import os
import pickle
import re
import subprocess
import sys
import unittest

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_estimators import CHECKED, estimator_checks, needs_sklearn, sklearn

import lvm
from lvm import estimator
from lvm.estimator import Transformer

NOT_IN_CHECK_ESTIMATOR = (  # scikit-learn runs these on its own transformers, but check_estimator leaves them out
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
)


class Axes(Transformer):
    """The first principal axes of weighted rows; gaps are filled with means."""

    _allow_nan = True

    def __init__(self, n_components=1):
        self.n_components = n_components

    def fit(self, X, y=None, sample_weight=None):
        d = estimator.check_int("n_components", self.n_components, 1, who="Axes")
        X, names = self._check_fit_X(X)
        w = estimator.check_sample_weight(1 if sample_weight is None else sample_weight, len(X))
        seen = ~np.isnan(X)
        mean = w @ np.where(seen, X, 0.0) / (w @ seen)
        rows = np.sqrt(w)[:, None] * np.where(seen, X - mean, 0)
        axes = np.linalg.svd(rows, full_matrices=False)[2][:d]
        axes *= np.sign(axes[np.arange(len(axes)), abs(axes).argmax(axis=1)])[:, None]
        self._remember(X, names, {"mean_": mean, "components_": axes})
        return self

    @property
    def _n_features_out(self):
        return len(self.components_)

    def _project(self, X):
        X = self._check_X(X)
        Z = np.where(np.isnan(X), 0, X - self.mean_) @ self.components_.T
        return Z.astype(X.dtype)

    def transform(self, X):
        return self._wrap(self._project(X), X)

    def score(self, X, y=None, sample_weight=None):
        return float(np.average(np.square(self._project(X)).sum(axis=1), weights=sample_weight))


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(5, [3, 2, 1], size=(20, 3))


def frame(X):
    return pytest.importorskip("pandas").DataFrame(
        X, columns=["a", "b", "c"], index=[f"row {i}" for i in range(len(X))]
    )


# ------------------------------------------------------------------------------------------------ scikit-learn's checks


def all_checks():
    for model, check in estimator_checks.estimator_checks_generator(Axes()) if sklearn else ():
        yield pytest.param(model, check, id=check.func.__name__)
    for name in NOT_IN_CHECK_ESTIMATOR if sklearn else ():
        check = lambda model, name=name: getattr(estimator_checks, name)("Axes", model)
        yield pytest.param(Axes(2), check, id=name)


@needs_sklearn
@pytest.mark.parametrize(("model", "check"), list(all_checks()))
@pytest.mark.filterwarnings(
    "ignore:X .* feature names, but Axes was fitted with:UserWarning"
)  # in their set_output checks
def test_scikit_learn_checks(model, check):
    try:
        check(model)
    except unittest.SkipTest as skipped:
        if CHECKED == "1.9":
            pytest.fail(f"a check that was skipped shows nothing: {skipped}")
        raise


def test_number_of_scikit_learn_checks():
    """A tag that is wrong would pass, too: with fewer checks."""
    if CHECKED != "1.9":
        pytest.skip(f"the number is that of scikit-learn 1.9, here is {CHECKED or 'none'}")
    assert os.environ["SCIPY_ARRAY_API"] == "1"
    assert len(list(estimator_checks.estimator_checks_generator(Axes()))) == 53


@needs_sklearn
def test_tags():
    tags = sklearn.utils.get_tags(Axes())
    assert tags.estimator_type == "transformer"
    assert tags.transformer_tags.preserves_dtype == ["float64", "float32"]
    assert tags.input_tags.allow_nan


# ---------------------------------------------------------------------------------------------------------- containers


def test_fit_transform_hands_its_arguments_to_fit(X):
    w = np.arange(20.0)
    assert_array_equal(Axes(2).fit_transform(X, None, sample_weight=w), Axes(2).fit(X, None, w).transform(X))
    assert not np.allclose(Axes(2).fit_transform(X, sample_weight=w), Axes(2).fit_transform(X))
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        Axes().fit_transform(X, weights=w)


def test_arrays_by_default(X):
    for model in Axes(2), Axes(2).set_output(), Axes(2).set_output(transform="default"):
        assert type(model.fit_transform(X)) is np.ndarray
        assert type(model.fit_transform(frame(X))) is np.ndarray


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pandas(X, dtype):
    pandas = pytest.importorskip("pandas")
    X, names = X.astype(dtype), ["axes0", "axes1"]
    model = Axes(2)
    assert model.set_output(transform="pandas") is model
    want = Axes(2).fit_transform(X)
    assert want.dtype == dtype
    for Z in model.fit_transform(X), model.transform(X):
        pandas.testing.assert_frame_equal(Z, pandas.DataFrame(want, columns=names))
    named = frame(X)[::-1]
    for Z in model.fit_transform(named), model.transform(named):
        pandas.testing.assert_frame_equal(
            Z, pandas.DataFrame(Axes(2).fit_transform(X[::-1]), index=named.index, columns=names)
        )


def test_the_index_of_other_containers_is_not_taken(X):
    """A list has an `index`, too, and a frame of polars has none."""
    polars = pytest.importorskip("polars")
    pandas = pytest.importorskip("pandas")
    for given in X.tolist(), polars.DataFrame(X, schema=["a", "b", "c"]):
        Z = Axes(2).set_output(transform="pandas").fit_transform(given)
        assert list(Z.index) == list(range(20))
        assert isinstance(Z, pandas.DataFrame)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_polars(X, dtype):
    polars = pytest.importorskip("polars")
    X = X.astype(dtype)
    model, want = Axes(2).set_output(transform="polars"), Axes(2).fit_transform(X)
    for given in X, frame(X), polars.DataFrame(X, schema=["a", "b", "c"]):
        for Z in model.fit_transform(given), model.transform(given):
            assert isinstance(Z, polars.DataFrame)
            assert Z.columns == ["axes0", "axes1"]
            assert Z.dtypes == [polars.Float32 if dtype == np.float32 else polars.Float64] * 2
            assert_array_equal(Z.to_numpy(), want)


def test_as_many_rows_as_columns_stay_rows_in_any_memory():
    X = np.array([[1.0, 0], [5, 1]])
    model = Axes(2).fit(X)
    for container in "pandas", "polars":
        pytest.importorskip(container)
        model.set_output(transform=container)
        for Z in X, np.asfortranarray(X):
            assert_array_equal(model._wrap(Z, X).to_numpy(), X)


def test_none_leaves_the_container_as_it_was(X):
    pandas = pytest.importorskip("pandas")
    model = Axes().set_output(transform="pandas")
    assert model.set_output() is model
    assert isinstance(model.fit_transform(X), pandas.DataFrame)
    assert type(model.set_output(transform="default").transform(X)) is np.ndarray


def test_a_container_that_does_not_exist_is_refused_at_once(X):
    model = Axes().set_output(transform="polars")
    message = (
        "The 'transform' parameter of set_output must be one of 'default', 'pandas', 'polars', got 'numpy' instead."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.set_output(transform="numpy")
    assert type(model.fit(X).transform(X)).__module__.startswith("polars")


@needs_sklearn
def test_scikit_learns_configuration_counts_where_none_was_set(X):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    model = Axes(2).fit(X)
    for container, kind in ("pandas", pandas.DataFrame), ("polars", polars.DataFrame), ("default", np.ndarray):
        with sklearn.config_context(transform_output=container):
            assert type(model.transform(X)) is kind
            assert type(model.fit_transform(X)) is kind
            assert type(Axes().set_output(transform="default").fit_transform(X)) is np.ndarray
            assert type(Axes().set_output(transform="polars").fit_transform(X)) is polars.DataFrame
    assert type(model.transform(X)) is np.ndarray
    message = "The 'transform_output' parameter of sklearn.set_config must be one of 'default', 'pandas', 'polars', got"
    with sklearn.config_context(transform_output="numpy"), pytest.raises(ValueError, match=re.escape(message)):
        model.transform(X)


def test_data_frames_of_what_is_on_the_gpu(cuda_set):
    Z = np.arange(6.0).reshape(3, 2)
    model, on_device = Axes(2).fit(Z), cuda_set.put(Z)
    assert model._wrap(on_device, Z) is on_device
    for container in "pandas", "polars":
        pytest.importorskip(container)
        assert_array_equal(model.set_output(transform=container)._wrap(on_device, Z).to_numpy(), Z)


def test_copies_have_the_container_of_the_original_and_then_their_own(X):
    pytest.importorskip("pandas")
    model = Axes(2).set_output(transform="pandas").fit(X)
    twins = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)]
    if sklearn:
        twins.append(sklearn.base.clone(model).fit(X))
    for twin in twins:
        assert list(twin.transform(X).columns) == ["axes0", "axes1"]
        twin.set_output(transform="default")
        assert type(twin.transform(X)) is np.ndarray
    assert type(model.transform(X)) is not np.ndarray


# -------------------------------------------------------------------------------------------------------------- names


def test_names_of_what_comes_out(X):
    for given, inputs in (X, ["x", "y", "z"]), (frame(X), ["a", "b", "c"]):
        model = Axes(2).fit(given)
        for names in None, inputs, np.array(inputs, dtype=object):
            out = model.get_feature_names_out(names)
            assert out.dtype == object
            assert list(out) == ["axes0", "axes1"]


def test_names_of_what_never_went_in_are_refused(X):
    wrong = "^input_features is not equal to feature_names_in_$"
    named = Axes().fit(frame(X))
    for names in ["a", "c", "b"], ["a", "b"], ["a", "b", "d"]:
        with pytest.raises(ValueError, match=wrong):
            named.get_feature_names_out(names)
    number = r"^input_features should have length equal to number of features \(3\), got 2$"
    with pytest.raises(ValueError, match=number):
        Axes().fit(X).get_feature_names_out(["a", "b"])


def test_no_names_before_a_fit(X):
    assert not hasattr(Axes(), "feature_names_in_")
    with pytest.raises(lvm.NotFittedError, match="This Axes instance is not fitted yet"):
        Axes().get_feature_names_out()
    with pytest.raises(lvm.NotFittedError, match="This Axes instance is not fitted yet"):
        Axes().set_output(transform="pandas").transform(X)


# ----------------------------------------------------------------------------------------------------------- company


@needs_sklearn
def test_pipeline(X):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipe = make_pipeline(StandardScaler(), Axes(2))
    want = Axes(2).fit_transform(StandardScaler().fit_transform(X))
    assert_array_equal(pipe.fit_transform(X), want)
    assert list(pipe.get_feature_names_out()) == ["axes0", "axes1"]
    assert "Axes" in pipe._repr_html_()
    named = frame(X)
    Z = pipe.set_output(transform="pandas").fit_transform(named)
    assert_allclose(Z, want)
    assert list(Z.index) == list(named.index)
    Z = make_pipeline(Axes(2), StandardScaler()).set_output(transform="pandas").fit_transform(named)
    assert list(Z.columns) == ["axes0", "axes1"]  # the scaler saw our names


@needs_sklearn
def test_column_transformer(X):
    from sklearn.compose import make_column_transformer

    rows = frame(X)
    model = make_column_transformer((Axes(), ["a", "c"]), remainder="passthrough").set_output(transform="pandas")
    Z = model.fit_transform(rows)
    assert list(Z.columns) == list(model.get_feature_names_out()) == ["axes__axes0", "remainder__b"]
    assert list(Z.index) == list(rows.index)
    assert_array_equal(Z["axes__axes0"], Axes().fit_transform(rows[["a", "c"]])[:, 0])
    assert_array_equal(Z["remainder__b"], rows["b"])


@needs_sklearn
def test_metadata_routing_takes_weights_through_fit_transform(X):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    w = np.arange(20.0)
    with sklearn.config_context(enable_metadata_routing=True):
        last = StandardScaler().set_fit_request(sample_weight=False)
        pipe = make_pipeline(Axes(2).set_fit_request(sample_weight=True), last).fit(X, sample_weight=w)
    assert_array_equal(pipe[0].components_, Axes(2).fit(X, sample_weight=w).components_)


WITHOUT_SKLEARN = """
import sys
from importlib.machinery import PathFinder

class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "sklearn":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked)
sys.path.insert(0, sys.argv[1])
import copy, pickle
import numpy as np
from test_transformer import Axes

X = np.random.default_rng(0).normal(size=(20, 3))
model = Axes(2)
Z = model.fit_transform(X)
assert type(Z) is np.ndarray and Z.shape == (20, 2)
assert list(model.get_feature_names_out()) == ["axes0", "axes1"]
assert not {"sklearn", "pandas", "polars"} & set(sys.modules)
for container in "pandas", "polars":
    try:
        __import__(container)
    except ImportError:
        continue
    model.set_output(transform=container)
    for twin in model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        frame = twin.transform(X)
        assert type(frame).__module__.startswith(container) and list(frame.columns) == ["axes0", "axes1"]
        assert np.array_equal(frame.to_numpy(), Z)
assert "sklearn" not in sys.modules
print("done")
"""


def test_without_scikit_learn():
    """Neither it nor pandas nor polars is imported before it is asked for."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(os.path.abspath(lvm.__file__)))
    env = {**os.environ, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-c", WITHOUT_SKLEARN, here]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
