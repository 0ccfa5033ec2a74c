"""Every public estimator keeps scikit-learn's protocol: its checks, its company, its errors; and the caller's data."""

import copy
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import unittest

import numpy as np
import pytest
from numpy.testing import assert_array_equal, assert_equal

import lvm
from lvm import estimator
from lvm.estimator import Estimator

try:
    import sklearn
    from sklearn.utils import estimator_checks
except ImportError:
    sklearn, estimator_checks, CHECKED = None, None, ""
else:
    CHECKED = ".".join(sklearn.__version__.split(".")[:2])

needs_sklearn = pytest.mark.skipif(sklearn is None, reason="scikit-learn is not installed")

ESTIMATORS = {
    "BayesianMLPClassifier": lvm.BayesianMLPClassifier,
    "BayesianMLPRegressor": lvm.BayesianMLPRegressor,
    "GaussianMixture": lvm.GaussianMixture,
    "PlanarFlow": lvm.PlanarFlow,
    "ProbabilisticPCA": lvm.ProbabilisticPCA,
    "RelevanceVectorClassifier": lvm.RelevanceVectorClassifier,
    "RelevanceVectorRegressor": lvm.RelevanceVectorRegressor,
    "VAE": lvm.VAE,
    "VariationalLogisticRegression": lvm.VariationalLogisticRegression,
}
SUPERVISED = (
    "BayesianMLPClassifier",
    "BayesianMLPRegressor",
    "RelevanceVectorClassifier",
    "RelevanceVectorRegressor",
    "VariationalLogisticRegression",
)
UNWEIGHTED = ("PlanarFlow", "VAE")  # without sample_weight
CHECKED_WITH = {  # what scikit-learn's checks get in place of defaults
    "BayesianMLPClassifier": {"hidden_layer_sizes": (8,), "max_epochs": 3, "learning_rate": 0.02},
    "BayesianMLPRegressor": {"hidden_layer_sizes": (8,), "max_epochs": 3, "learning_rate": 0.02},
    "PlanarFlow": {"max_epochs": 3},
    "VAE": {"hidden_layer_sizes": (8,), "max_epochs": 1},
}
QUICK = {
    **CHECKED_WITH,
    "RelevanceVectorClassifier": {"gamma": 0.01},  # no search
    "RelevanceVectorRegressor": {"gamma": 0.01},
}
CHECKS_IN_1_9 = {
    "BayesianMLPClassifier": 63,
    "BayesianMLPRegressor": 59,
    "GaussianMixture": 47,
    "PlanarFlow": 47,
    "ProbabilisticPCA": 53,
    "RelevanceVectorClassifier": 63,
    "RelevanceVectorRegressor": 59,
    "VAE": 47,
    "VariationalLogisticRegression": 63,
}
NOT_IN_CHECK_ESTIMATOR = (  # scikit-learn runs these on its own estimators, but check_estimator leaves them out
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_inplace_ensure_writeable",
)
OF_TRANSFORMERS = (
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
)
OF_ITS_KIND = {
    "BayesianMLPClassifier": (),
    "BayesianMLPRegressor": (),
    "GaussianMixture": ("check_non_transformer_estimators_n_iter",),
    "PlanarFlow": OF_TRANSFORMERS,
    "ProbabilisticPCA": (*OF_TRANSFORMERS, "check_transformer_n_iter"),
    "RelevanceVectorClassifier": ("check_nonsquare_error",),
    "RelevanceVectorRegressor": ("check_nonsquare_error",),
    "VAE": (*OF_TRANSFORMERS, "check_transformer_n_iter"),
    "VariationalLogisticRegression": ("check_class_weight_balanced_linear_classifier",),
}
CANNOT_HOLD = {  # of minibatches: check and reason
    "check_sample_weight_equivalence_on_dense_data": "batches of rows that are repeated have other noise than batches "
    "of rows that weigh more; test_network.py holds that the bounds agree",
}
WITH_NOISE = ("BayesianMLPClassifier", "BayesianMLPRegressor")
ANSWERS = {
    "BayesianMLPClassifier": ("predict", "predict_proba", "predict_log_proba"),
    "BayesianMLPRegressor": ("predict",),
    "GaussianMixture": ("predict", "predict_proba", "score_samples", "score"),
    "PlanarFlow": ("transform", "inverse_transform", "warp", "score_samples", "score"),
    "ProbabilisticPCA": ("transform", "posterior", "impute", "score_samples", "score", "bic"),
    "RelevanceVectorClassifier": ("predict", "decision_function", "predict_proba", "predict_log_proba"),
    "RelevanceVectorRegressor": ("predict",),
    "VAE": ("transform", "posterior", "reconstruct", "elbo", "score_samples", "score", "evaluate"),
    "VariationalLogisticRegression": ("predict", "decision_function", "predict_proba", "predict_log_proba"),
}

every = pytest.mark.parametrize("cls", ESTIMATORS.values(), ids=ESTIMATORS)
weighted = pytest.mark.parametrize("cls", [cls for name, cls in ESTIMATORS.items() if name not in UNWEIGHTED])


@pytest.fixture
def X():
    """Two clouds in three dimensions, 80 rows."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(40, 3)), rng.normal(5, 1, size=(40, 3))])


def two(cls=lvm.GaussianMixture, **params):
    """A model that is quickly fitted, of two components if it has any."""
    components = {} if cls.__name__ in (*SUPERVISED, "PlanarFlow") else {"n_components": 2}
    return cls(**components, **QUICK.get(cls.__name__, {}), random_state=0, **params)


def one(cls, **params):
    """The same with as many components as there are by default."""
    return cls(**QUICK.get(cls.__name__, {}), **{"random_state": 0, **params})


def targets(cls):
    """What `fit` and `score` take after the 80 rows of X: which cloud they are of, or nothing."""
    return (np.repeat([0, 1], 40),) if cls.__name__ in SUPERVISED else ()


def answer(model, X):
    """The finest answer the model gives."""
    name = next(n for n in ("score_samples", "predict_proba", "predict") if hasattr(model, n))
    return getattr(model, name)(X)


def state(model):
    return copy.deepcopy(model.__dict__)


# ------------------------------------------------------------------------------------------------ scikit-learn's checks


def checks_of(model):
    return list(estimator_checks.estimator_checks_generator(model)) if sklearn else []


def all_checks():
    for name, cls in ESTIMATORS.items():
        with_ = CHECKED_WITH.get(name, {})
        for model, check in checks_of(cls(**with_)):
            reason = CANNOT_HOLD.get(check.func.__name__) if name in WITH_NOISE else None
            marks = () if reason is None else pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
            yield pytest.param(model, check, id=f"{name}-{check.func.__name__}", marks=marks)
        for extra in (*NOT_IN_CHECK_ESTIMATOR, *OF_ITS_KIND[name]) if sklearn else ():
            check = lambda model, name=name, extra=extra: getattr(estimator_checks, extra)(name, model)
            given = cls(**with_) if extra != "check_nonsquare_error" else cls(kernel="precomputed")
            yield pytest.param(given, check, id=f"{name}-{extra}")


@needs_sklearn
@pytest.mark.parametrize(("model", "check"), list(all_checks()))
@pytest.mark.filterwarnings("ignore::lvm.estimator.ConvergenceWarning")  # some of their data is noise, five rows of it
@pytest.mark.filterwarnings("ignore:X .* feature names, but .* was fitted with:UserWarning")  # of set_output
def test_scikit_learn_checks(model, check):
    try:
        check(model)
    except unittest.SkipTest as skipped:
        if CHECKED == "1.9":
            pytest.fail(f"a check that was skipped shows nothing: {skipped}")
        raise


@every
def test_number_of_scikit_learn_checks(cls):
    """A tag that is wrong would pass, too: with fewer checks."""
    if CHECKED != "1.9":
        pytest.skip(f"the numbers are those of scikit-learn 1.9, here is {CHECKED or 'none'}")
    assert len(checks_of(cls())) == CHECKS_IN_1_9[cls.__name__]
    assert os.environ["SCIPY_ARRAY_API"] == "1"


# --------------------------------------------------------------------------------------------------- in its company


@needs_sklearn
def test_clone_copies_parameters_and_requests_but_no_results(X):
    model = two().fit(X).set_fit_request(sample_weight=True)
    twin = sklearn.base.clone(model)
    assert twin.get_params() == model.get_params()
    assert twin.get_metadata_routing().fit.requests == {"sample_weight": True}
    assert not any(name.endswith("_") and not name.startswith("_") for name in vars(twin))


@needs_sklearn
def test_pipeline(X):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipe = make_pipeline(StandardScaler(), two()).fit(X)
    assert_array_equal(pipe.predict(X) == pipe.predict(X)[0], np.arange(80) < 40)
    assert np.isfinite(pipe.score(X))
    assert "GaussianMixture" in pipe._repr_html_()


@needs_sklearn
def test_grid_search_without_y_finds_the_two_clouds(X):
    from sklearn.model_selection import GridSearchCV, ShuffleSplit

    folds = ShuffleSplit(3, random_state=0)
    search = GridSearchCV(two(), {"n_components": [1, 2]}, cv=folds).fit(X)
    assert search.best_params_ == {"n_components": 2}


@needs_sklearn
def test_cross_validation_in_two_processes_gives_the_same_scores(X):
    from sklearn.model_selection import ShuffleSplit, cross_val_score

    folds = ShuffleSplit(2, random_state=0)
    assert_array_equal(cross_val_score(two(), X, cv=folds, n_jobs=2), cross_val_score(two(), X, cv=folds))


@needs_sklearn
def test_metadata_routing_hands_over_what_was_asked_for(X):
    from sklearn.exceptions import UnsetMetadataPassedError
    from sklearn.model_selection import GridSearchCV

    weights = np.r_[np.full(40, 3.0), np.ones(40)]
    grid = {"n_components": [2]}
    with sklearn.config_context(enable_metadata_routing=True):
        asks = two().set_fit_request(sample_weight=True)
        if "sample_weight" in asks.get_metadata_routing().score.requests:
            asks.set_score_request(sample_weight=False)
        got = GridSearchCV(asks, grid, cv=2).fit(X, sample_weight=weights).best_estimator_
        assert_array_equal(got.means_, two().fit(X, sample_weight=weights).means_)
        with pytest.raises(UnsetMetadataPassedError):
            GridSearchCV(two(), grid, cv=2).fit(X, sample_weight=weights)


@needs_sklearn
def test_a_request_for_what_is_no_argument_says_so():
    with pytest.raises(TypeError, match=re.escape("fit of GaussianMixture accepts ['sample_weight'], got 'weight'.")):
        two().set_fit_request(weight=True)


@needs_sklearn
def test_errors_are_scikit_learns_own_and_cross_processes(X):
    from sklearn.exceptions import NotFittedError
    from sklearn.utils._param_validation import InvalidParameterError

    with pytest.raises(NotFittedError) as unfitted:
        two().predict(X)
    twin = pickle.loads(pickle.dumps(unfitted.value))
    assert isinstance(twin, NotFittedError)
    assert isinstance(twin, lvm.NotFittedError)
    assert str(twin) == str(unfitted.value)
    with pytest.raises(InvalidParameterError):
        lvm.GaussianMixture(n_components=0).fit(X)
    for cls in estimator.ConvergenceWarning, estimator.DataConversionWarning:
        assert issubclass(estimator.interop(cls), (cls, getattr(sklearn.exceptions, cls.__name__)))
    assert estimator.interop(lvm.NumericalError) is lvm.NumericalError


@needs_sklearn
def test_results_that_joblib_maps_from_disk_predict_the_same(X, tmp_path):
    joblib = pytest.importorskip("joblib")
    model = two().fit(X)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert isinstance(mapped.means_, np.memmap)
    assert_array_equal(mapped.score_samples(X), model.score_samples(X))
    assert_array_equal(mapped.predict(X), model.predict(X))


# ------------------------------------------------------------------------------------------------------- column names


def frame(X, columns):
    return pytest.importorskip("pandas").DataFrame(X, columns=columns)


def test_column_names_are_kept_and_dropped_by_the_next_fit(X):
    model = two().fit(frame(X, ["a", "b", "c"]))
    assert_array_equal(model.feature_names_in_, ["a", "b", "c"])
    assert model.feature_names_in_.dtype == object
    assert model.n_features_in_ == 3
    model.fit(X[:, :2])
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 2


def test_other_column_names_are_refused(X):
    model = two().fit(frame(X, ["a", "b", "c"]))
    head = "The feature names should match those that were passed during fit.\n"
    order = head + "Feature names must be in the same order as they were in fit.\n"
    other = head + "Feature names unseen at fit time:\n- d\nFeature names seen at fit time, yet now missing:\n- b\n"
    for columns, message in (["a", "c", "b"], order), (["a", "d", "c"], other):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.predict(frame(X, columns))


def test_names_on_one_side_only_warn_at_the_line_that_called(X):
    named, bare = two().fit(frame(X, ["a", "b", "c"])), two().fit(X)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but GaussianMixture was fitted with"):
        named.predict(X)
    with pytest.warns(UserWarning, match="X has feature names, but GaussianMixture was fitted without") as caught:
        bare.score_samples(frame(X, ["a", "b", "c"]))
    assert caught[0].filename == __file__


def test_half_named_columns_are_refused(X):
    with pytest.raises(TypeError, match=re.escape("has ['int', 'str'] as feature name / column name types")):
        two().fit(frame(X, ["a", 1, 2]))
    assert not hasattr(two().fit(frame(X, [0, 1, 2])), "feature_names_in_")


def test_nullable_and_mixed_columns_are_numbers(X):
    pandas = pytest.importorskip("pandas")
    ints = pandas.DataFrame({"a": pandas.array([1, 2, 3], "Int64"), "b": [True, False, True], "c": [0.5, 1, 2]})
    got, names = Estimator()._check_fit_X(ints)
    assert_array_equal(got, [[1, 1, 0.5], [2, 0, 1], [3, 1, 2]])
    assert list(names) == ["a", "b", "c"]
    ints.loc[1, "a"] = pandas.NA
    with pytest.raises(ValueError, match=r"Input X contains NaN\. The first one is at row 1, column 0"):
        Estimator()._check_fit_X(ints)
    assert two()._check_fit_X(ints)[0].tolist()[2] == [3, 1, 2]
    dates = pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01"] * 3), "b": [1, 2, 3]})
    with pytest.raises(TypeError, match="not 'Timestamp'"):
        two().fit(dates)


# ------------------------------------------------------------------------------------------------- parameters and text


@every
@pytest.mark.parametrize("value", [None, -np.inf, np.nan, "x", [1], {"a": 1}, np.arange(3), np.int64(2), object, print])
def test_parameters_are_stored_as_they_are(cls, value):
    model = cls()
    for name in model.get_params():
        assert model.set_params(**{name: value}) is model
        assert getattr(model, name) is value
        assert model.get_params()[name] is value
        assert cls(**{name: value}).get_params(deep=False)[name] is value
        assert repr(model)


@every
def test_a_parameter_that_does_not_exist(cls):
    model = cls(random_state=3)
    for wrong in "ncomponents", "random_state__a", "fit":
        first = next(iter(model.get_params()))
        message = f"Invalid parameter {wrong!r} for estimator {model}. Valid parameters are: [{first!r}, "
        with pytest.raises(ValueError, match=re.escape(message)):
            model.set_params(**{"random_state": 5, wrong: 1})
    assert model.random_state == 3  # nothing is set when one of them is wrong


def test_repr_shows_what_was_changed():
    class Model(Estimator):
        def __init__(self, n_components=1, *, tol=np.nan, init=None, sizes=(1, 2)):
            self.n_components, self.tol, self.init, self.sizes = n_components, tol, init, sizes

    assert repr(Model()) == "Model()"
    assert repr(Model(1, tol=float("nan"), sizes=(1, 2))) == "Model()"
    assert repr(Model(True, tol=0.5, init=np.eye(1))) == "Model(n_components=True, tol=0.5, init=array([[1.]]))"
    assert repr(Model(2, init="<b>", sizes=None)) == "Model(n_components=2, init='<b>', sizes=None)"


@every
@needs_sklearn
def test_html(cls, X):
    for model in cls(), one(cls).fit(X, *targets(cls)):
        assert cls.__name__ in model._repr_html_()


def test_parameter_checks_say_what_they_want():
    is_int = lambda value: estimator.check_int("n", value, 1, who="Model")
    above = lambda value: estimator.check_real("tol", value, 0, inclusive=False, who="Model")
    least = lambda value: estimator.check_real("tol", value, 0, who="Model")
    choice = lambda value: estimator.check_choice("kind", value, ("full", "diag"), who="Model")
    is_bool = lambda value: estimator.check_bool("flag", value, who="Model")
    for good, check, want in [
        (np.int8(3), is_int, 3),
        (1, is_int, 1),
        (0, least, 0.0),
        (np.float32(0.5), above, 0.5),
        (2, above, 2.0),
        ("diag", choice, "diag"),
        (np.str_("full"), choice, "full"),
        (np.True_, is_bool, True),
    ]:
        assert check(good) == want
        assert type(check(good)) is type(want)
    for bad, check, message in [
        (0, is_int, "The 'n' parameter of Model must be an integer of at least 1, got 0 instead."),
        (True, is_int, "The 'n' parameter of Model must be an integer of at least 1, got True instead."),
        (2.0, is_int, "The 'n' parameter of Model must be an integer of at least 1, got 2.0 instead."),
        (
            np.arange(2),
            is_int,
            "The 'n' parameter of Model must be an integer of at least 1, got array([0, 1]) instead.",
        ),
        (-1, least, "The 'tol' parameter of Model must be a finite number of at least 0, got -1 instead."),
        (0, above, "The 'tol' parameter of Model must be a finite number above 0, got 0 instead."),
        (np.inf, least, "The 'tol' parameter of Model must be a finite number of at least 0, got inf instead."),
        (float("nan"), least, "The 'tol' parameter of Model must be a finite number of at least 0, got nan instead."),
        ("1", least, "The 'tol' parameter of Model must be a finite number of at least 0, got '1' instead."),
        (False, least, "The 'tol' parameter of Model must be a finite number of at least 0, got False instead."),
        ("x", choice, "The 'kind' parameter of Model must be one of 'full', 'diag', got 'x' instead."),
        (None, choice, "The 'kind' parameter of Model must be one of 'full', 'diag', got None instead."),
        (
            np.arange(2),
            choice,
            "The 'kind' parameter of Model must be one of 'full', 'diag', got array([0, 1]) instead.",
        ),
        (["full"], choice, "The 'kind' parameter of Model must be one of 'full', 'diag', got ['full'] instead."),
        (1, is_bool, "The 'flag' parameter of Model must be True or False, got 1 instead."),
    ]:
        with pytest.raises(estimator.InvalidParameterError, match=f"^{re.escape(message)}$") as error:
            check(bad)
        assert isinstance(error.value, TypeError)  # scikit-learn's is both, too


# ---------------------------------------------------------------------------------------------------- what data may be

SHAPE = "X.reshape(-1, 1) if it has a single feature, X.reshape(1, -1) if it is a single sample."
REFUSED = {
    "one dimension": ([1.0, 2.0], ValueError, "Expected 2D array, got 1D array instead: X has shape (2,). Reshape"),
    "three dimensions": (np.zeros((2, 2, 2)), ValueError, f"(samples, features): {SHAPE}"),
    "a number": (
        3.0,
        ValueError,
        "Expected 2D array, got float instead. Give GaussianMixture an array or a data frame (N,D).",
    ),
    "no features": (
        np.zeros((5, 0)),
        ValueError,
        "Found array with 0 feature(s) (shape=(5, 0)) while a minimum of 1 is required by GaussianMixture.",
    ),
    "no rows": (
        np.zeros((0, 3)),
        ValueError,
        "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of ",
    ),
    "complex": (np.eye(3) * 1j, ValueError, "Complex data not supported: X has dtype complex128. Try its real part"),
    "text": (np.array([["1"], ["2"]]), ValueError, "X must hold numbers, got dtype <U1. Try numpy.asarray(X, dtype=f"),
    "bytes": (np.array([[b"1"], [b"2"]]), ValueError, "X must hold numbers, got dtype |S1."),
    "text among numbers": (np.array([[1], ["2"]], object), ValueError, "X must hold numbers, got strings."),
    "dates": (np.array([["2020-01-01"]] * 2, "M8[D]"), ValueError, "X must hold numbers, got dtype datetime64[D]."),
    "records": (np.zeros((2, 2), [("a", float)]), ValueError, "X must hold numbers, got dtype [('a', '<f8')]."),
    "dicts": (np.array([[{}], [1]], object), TypeError, "argument must be a string or a real number, not 'dict'"),
    "infinity": (
        np.array([[1, 2], [-np.inf, np.nan]], np.float32),
        ValueError,
        "infinity or a value too large for dtype('float32'). The first one is at row 1, column 0. Drop it, or scale",
    ),
    "too large for a double": (
        np.full((2, 2), 10, np.longdouble) ** 4000,
        ValueError,
        "Input X contains infinity or a value too large for dtype('float64'). The first one is at row 0, column 0.",
    ),
}


@pytest.mark.parametrize(
    ("X", "place"),
    [
        ([[1, 2], [3, np.nan]], "row 1, column 1"),
        ([[1, 2], [None, 3]], "row 1, column 0"),
        (np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]]), "row 0, column 1"),
    ],
)
def test_gaps_are_refused_where_they_are_not_welcome(X, place):
    message = f"Input X contains NaN. The first one is at {place}. Drop or fill in what is missing."
    with pytest.raises(ValueError, match=re.escape(message)):
        Estimator()._check_fit_X(X)


@every
@pytest.mark.parametrize("kind", REFUSED)
def test_data_that_is_refused(cls, X, kind):
    bad, error, message = REFUSED[kind]
    message = message.replace("GaussianMixture", cls.__name__)
    if kind == "too large for a double" and not np.isfinite(bad).all():
        pytest.skip("long doubles are doubles here")
    y = targets(cls)
    fitted = two(cls).fit(X, *y)
    before = state(fitted)
    for use in two(cls).fit, fitted.fit, fitted.score:
        with pytest.raises(error, match=re.escape(message)):
            use(bad, *y)
    for use in (getattr(fitted, method) for method in ANSWERS[cls.__name__]):
        with pytest.raises(error, match=re.escape(message)):
            use(bad)
    assert_same_state(fitted, before)


def assert_same_state(model, before):
    assert vars(model).keys() == before.keys()
    for name, value in before.items():
        assert_equal(getattr(model, name), value, err_msg=name)


def test_sparse_data_is_refused(X):
    sparse = pytest.importorskip("scipy.sparse")
    for bad in sparse.csr_matrix(X), sparse.coo_array(X):
        with pytest.raises(TypeError, match=r"which needs dense data\. Try X.toarray\(\)"):
            two().fit(bad)


def test_another_number_of_features_is_refused(X):
    message = "X has 2 features, but GaussianMixture is expecting 3 features as input."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        two().fit(X).predict(X[:, :2])


def test_the_place_of_the_first_bad_number_is_found_in_large_data():
    X = np.zeros((70_001, 9), np.float32)
    for row, column in (0, 0), (29_127, 1), (70_000, 8), (40_000, 3):
        for value in np.nan, np.inf, -np.inf:
            bad = X.copy()
            bad[row, column] = value
            bad[-1, -1] = value
            with pytest.raises(ValueError, match=f"at row {row}, column {column}\\."):
                Estimator()._check_fit_X(bad)


def test_large_numbers_are_no_infinities():
    """Their sum is, in the quick look at a block."""
    for dtype in np.float32, np.float64:
        X = np.full((1000, 3), np.finfo(dtype).max, dtype)
        X[::2] *= -1
        X[700:] = np.finfo(dtype).max
        assert Estimator()._check_fit_X(X)[0] is not None


def test_gaps_pass_where_they_are_welcome():
    class Model(Estimator):
        _allow_nan = True

    X = np.array([[1, np.nan], [np.nan, 2]])
    assert Model()._check_fit_X(X)[0] is X
    masked = np.ma.array([[1, 9], [9, 2]], mask=[[0, 1], [1, 0]])
    assert_array_equal(Model()._check_fit_X(masked)[0], X)
    X[1, 1] = np.inf
    with pytest.raises(ValueError, match=r"Input X contains infinity .* at row 1, column 1"):
        Model()._check_fit_X(X)
    if sklearn:
        assert sklearn.utils.get_tags(Model()).input_tags.allow_nan
        assert not sklearn.utils.get_tags(Estimator()).input_tags.allow_nan


def shapes_of_memory(X, folder):
    odd = np.zeros(X.nbytes + 1, np.uint8)[1:].view(X.dtype).reshape(X.shape)
    odd[...] = X
    mapped = np.memmap(folder / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    mapped.flush()
    locked = X.copy()
    locked.setflags(write=False)
    return {
        "list": X.tolist(),
        "Fortran order": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=0)[::2],
        "backwards": X[::-1].copy()[::-1],
        "other byte order": X.astype(X.dtype.newbyteorder()),
        "not aligned": odd,
        "objects": X.astype(object),
        "memory map": np.memmap(folder / "X", X.dtype, "r", shape=X.shape),
        "read only": locked,
        "numpy.matrix": np.asmatrix(X),
    }


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_the_same_numbers_in_any_memory_give_the_same_model(X, tmp_path):
    want = two().fit(X)
    for kind, given in shapes_of_memory(X, tmp_path).items():
        got = two().fit(given)
        assert_array_equal(got.means_, want.means_, err_msg=kind)
        assert_array_equal(got.score_samples(given), want.score_samples(X), err_msg=kind)
    for dtype in np.int16, np.uint8, np.float16, bool:
        small = (X > 2).astype(dtype)
        got, want = Estimator()._check_fit_X(small)[0], (X > 2).astype(np.float64)
        assert got.dtype == np.float64
        assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_good_arrays_are_not_copied_and_others_come_out_good(X, dtype, tmp_path):
    X = X.astype(dtype)
    for kind, given in {"itself": X, **shapes_of_memory(X, tmp_path)}.items():
        got, _ = Estimator()._check_fit_X(given)
        assert got.dtype == (np.float64 if kind in ("list", "objects") else dtype), kind
        assert got.dtype.isnative, kind
        assert got.flags.c_contiguous, kind
        assert got.flags.aligned, kind
        if kind in ("itself", "memory map", "read only", "numpy.matrix"):
            assert np.shares_memory(got, given), kind


def test_checking_needs_hardly_any_memory():
    X = np.ones((1 << 20, 4), np.float32)  # 16 MiB
    tracemalloc.start()
    try:
        Estimator()._check_fit_X(X)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        X[-1, -1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            Estimator()._check_fit_X(X)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@every
def test_the_callers_arrays_are_not_changed(cls, X):
    for dtype, order in (np.float64, "C"), (np.float32, "C"), (np.float64, "F"), (np.int64, "C"):
        rows, w = np.array(10 * X, dtype, order=order), np.ones(len(X))
        w[3] = 0
        before = rows.copy(), w.copy()
        weights = {} if cls.__name__ in UNWEIGHTED else {"sample_weight": w}
        model = one(cls).fit(rows, *targets(cls), **weights)
        for method in ANSWERS[cls.__name__]:
            getattr(model, method)(rows)
        assert_array_equal(rows, before[0])
        assert_array_equal(w, before[1])


@every
def test_predicting_leaves_no_trace(cls, X):
    model = one(cls).fit(X, *targets(cls))
    before = state(model)
    for method in ANSWERS[cls.__name__]:
        getattr(model, method)(X)
    model.score(X, *targets(cls))
    if hasattr(model, "sample"):
        model.sample(3)
    assert_same_state(model, before)


# ----------------------------------------------------------------------------------------------------------- weights

BAD_WEIGHTS = {
    "too few": (np.ones(3), "sample_weight.shape == (3,), expected (80,)!"),
    "a column": (np.ones((80, 1)), "sample_weight.shape == (80, 1), expected (80,)!"),
    "negative": (np.r_[np.ones(79), -1], "Negative values in sample_weight: a weight counts how often its row was"),
    "a negative number": (-1, "Negative values in sample_weight"),
    "all zero": (np.zeros(80), "Sample weights must contain at least one non-zero number, all are zero."),
    "zero": (0, "Sample weights must contain at least one non-zero number, all are zero."),
    "NaN": (np.r_[1, np.nan, np.ones(78)], "Input sample_weight contains NaN. The first one is at index 1."),
    "infinite": (np.r_[np.ones(79), np.inf], "Input sample_weight contains infinity or a value too large for dtype('f"),
    "text": (["1"] * 80, "sample_weight must hold numbers, got dtype <U1."),
    "complex": (np.ones(80) * 1j, "Complex data not supported: sample_weight has dtype complex128."),
}


@weighted
@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_weights_that_are_refused(cls, X, kind):
    w, message = BAD_WEIGHTS[kind]
    model = two(cls).fit(X, *targets(cls))
    before = state(model)
    for method in "fit", "partial_fit", "score":
        if hasattr(model, method):
            with pytest.raises(ValueError, match=re.escape(message)):
                getattr(model, method)(X, *targets(cls), sample_weight=w)
    assert_same_state(model, before)


def test_weights_come_as_doubles_of_their_own_or_untouched():
    for w in 2, 2.0, np.array(2), [2, 2, 2], np.full(3, 2, ">i2"), np.full(6, 2.0)[::2], np.full(3, 2, object):
        got = estimator.check_sample_weight(w, 3)
        assert got.dtype == np.float64
        assert got.dtype.isnative
        assert got.flags.c_contiguous
        assert_array_equal(got, [2, 2, 2])
    assert estimator.check_sample_weight(None, 3) is None
    w = np.ones(3)
    w.setflags(write=False)
    assert np.shares_memory(estimator.check_sample_weight(w, 3), w)


# ------------------------------------------------------------------------------------------------------- randomness


def test_seeds_of_every_kind_repeat_and_leave_the_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for make in (
        lambda: 3,
        lambda: np.uint8(3),
        lambda: 2**100,
        lambda: np.random.SeedSequence(3),
        lambda: np.random.default_rng(3),
        lambda: np.random.RandomState(3),
    ):
        a, b = estimator.check_random_state(make()), estimator.check_random_state(make())
        assert a.random() == b.random()
    a, b = estimator.check_random_state(None), estimator.check_random_state(None)
    assert a.random() != b.random()
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_generator_is_used_as_it_is():
    rng = np.random.default_rng(0)
    assert estimator.check_random_state(rng) is rng


@pytest.mark.parametrize("bad", [-1, True, 1.5, "x", [1, 2], np.random], ids=repr)
def test_what_is_no_seed_is_refused(bad):
    message = (
        "random_state must be None, an integer of at least 0, a numpy SeedSequence, Generator or RandomState, got "
    )
    with pytest.raises(ValueError, match=re.escape(message + repr(bad)[:100])):
        estimator.check_random_state(bad)
    with pytest.raises(ValueError, match=r"^random_state must be"):
        lvm.GaussianMixture(random_state=bad).fit(np.eye(3))


@every
def test_a_fit_stores_the_seed_it_was_given_and_repeats(cls, X):
    for seed in 1, np.random.RandomState(1), np.random.default_rng(1):
        assert one(cls, random_state=seed).fit(X, *targets(cls)).random_state is seed
    a, b = (one(cls, random_state=5).fit(X, *targets(cls)) for _ in range(2))
    assert_array_equal(answer(a, X), answer(b, X))


# ------------------------------------------------------------------------------------------------------------- pickle


@every
def test_a_pickle_predicts_the_same_bits(cls, X):
    model = one(cls).fit(X, *targets(cls))
    for twin in pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model):
        assert_same_state(twin, model.__dict__)
        assert_array_equal(answer(twin, X), answer(model, X))
    assert not pickle.loads(pickle.dumps(cls())).__sklearn_is_fitted__()


def test_a_pickle_of_another_version_warns(X):
    model = two().fit(X)
    stamped = model.__reduce_ex__(4)[2]
    assert stamped.pop("_lvm_version") == lvm.__version__
    for version, text in ({"_lvm_version": "0.0.9"}, "0.0.9"), ({}, "of unknown version"):
        twin = lvm.GaussianMixture.__new__(lvm.GaussianMixture)
        message = f"This GaussianMixture was pickled by lvm {text}, and this is lvm {lvm.__version__}: results may"
        with pytest.warns(UserWarning, match=re.escape(message)):
            twin.__setstate__({**stamped, **version})
        assert_same_state(twin, model.__dict__)


@every
def test_not_fitted_says_what_to_do(cls, X):
    message = (
        f"This {cls.__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before using this "
        "estimator."
    )
    for method in ANSWERS[cls.__name__]:
        with pytest.raises(lvm.NotFittedError, match=f"^{re.escape(message)}$"):
            getattr(cls(), method)(X)
    with pytest.raises(lvm.NotFittedError):
        cls().score(X, *targets(cls))
    if hasattr(cls, "sample"):
        with pytest.raises(lvm.NotFittedError):
            cls().sample()


# ------------------------------------------------------------------------------------------------- the environment


def test_neither_the_simulator_nor_the_cache_changes_a_bit(X, tmp_path):
    """conftest.py switches on the simulator of CUDA; the other process has none, compiles all kernels anew, and then
    finds them in its cache. (A helper that LLVM does not inline is found by name, in a fresh process in other code.)"""
    code = (
        "import sys, numpy as np, lvm\n"
        "X = np.load(sys.argv[1])\n"
        "print(lvm.GaussianMixture(n_components=2, random_state=0).fit(X).score_samples(X).tobytes().hex())"
    )
    np.save(tmp_path / "X.npy", X)
    here = two().fit(X).score_samples(X).tobytes().hex()
    root = os.path.dirname(os.path.dirname(os.path.abspath(lvm.__file__)))
    env = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": root}
    for state_of_cache in "empty", "full":
        command = [sys.executable, "-c", code, tmp_path / "X.npy"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == here, f"cache {state_of_cache}"
