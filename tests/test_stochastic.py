"""The trainer of stochastic models, on models small enough to know their optimum."""

import io
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from interrupt import interrupted_at
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import expit, log_expit

import lvm
import lvm.ppca  # interrupt.py looks for a family
from lvm import checkpoint, datasets, fit, kernels, modelfile
from lvm.estimator import ConvergenceWarning, NumericalError
from lvm.modelfile import ModelFileError
from lvm.parameters import Parameters

cpu = kernels.load("cpu")
DIGITS, LABELS = datasets.load_digits(return_y=True)


class Logistic:
    """log sigmoid(y (w'x + b)), prior N(0, 1/precision) of w and b. At the steps in `bad` the gradient is NaN."""

    def __init__(self, rows, held_out=None, precision=1.0, bad=(), T=float):
        self.X, self.y = (DIGITS / 16).astype(T), np.where(LABELS < 5, -1, 1).astype(T)
        self.rows, self.held_out, self.precision, self.bad = rows, held_out, precision, bad
        self.parameters = Parameters(cpu, {"w": (64,), "b": (1,)}, T)
        self.seen, self.total = 0, 0.0

    def log_p(self, rows):
        p = self.parameters.views
        return log_expit(self.y[rows] * (self.X[rows] @ p["w"] + p["b"]))

    def prior(self):
        return 0.5 * self.precision * float(self.parameters.theta @ self.parameters.theta) / len(self.rows)

    def step(self, batch, counter):
        rows, p, g = self.rows[batch], self.parameters.views, self.parameters.gradients
        l = self.log_p(rows)
        self.total += float(l.sum()) - len(rows) * self.prior()
        self.seen += len(rows)
        r = -self.y[rows] * expit(-self.y[rows] * (self.X[rows] @ p["w"] + p["b"])) / len(rows)
        g["w"][...] = r @ self.X[rows] + self.precision * p["w"] / len(self.rows)
        g["b"][...] = r.sum() + self.precision * p["b"] / len(self.rows)
        if counter[0] in self.bad:
            g["b"][...] = np.nan

    def values(self):
        mean, self.seen, self.total = self.total / self.seen, 0, 0.0
        return {"lower_bound": mean, "prior": -self.prior()}

    def validate(self):
        return float(self.log_p(self.held_out).mean())

    def bound(self):
        return float(self.log_p(self.rows).mean()) - self.prior()

    def best(self):
        """The bound at its maximum, by another route."""
        p = Parameters(cpu, self.parameters.shapes, float)
        kept, self.parameters = self.parameters, p

        def loss(theta):
            p.theta[:] = theta
            self.step(np.arange(len(self.rows)), [-1])
            return -self.bound(), p.g.copy()

        found = minimize(
            loss, np.zeros(p.theta.size), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
        )
        self.parameters, self.seen, self.total = kept, 0, 0.0
        return -found.fun


class Mean:
    """log N(x | mu, 1), mu with noise in its gradient, on any kernel set."""

    def __init__(self, k, noise=0.0, T=np.float64):
        self.k, self.X = k, datasets.load_iris().astype(T)
        self.x, self.none, self.scale = k.put(self.X), k.put(np.empty(0, T)), k.put(np.eye(4, dtype=T) * T(noise))
        self.eps, self.noise = k.empty((1, 4), T), k.empty((1, 4), T)
        self.parameters = Parameters(k, {"mu": (4,)}, T)
        self.sizes = {}  # arrays for batches of that size

    def step(self, batch, counter):
        k, B, T = self.k, len(batch), self.X.dtype
        mu, g = self.parameters.views["mu"], self.parameters.gradients["mu"]
        if B not in self.sizes:
            self.sizes[B] = k.empty((B, 4), T), k.put(np.full((1, B), -1 / B, T))
        Y, mean = self.sizes[B]
        k.random.normal(3, 0, counter, self.eps)
        k.linear.gemm(self.eps, self.scale, self.noise, self.none)
        k.ppca.center(*self.rows(batch), mu, Y)
        k.linear.gemm(mean, Y, g.reshape(1, 4), self.noise.reshape(4))

    def rows(self, batch):
        return self.x, batch

    def values(self):
        return {"lower_bound": self.validate()}

    def validate(self):
        return -0.5 * float(((self.X - self.k.get(self.parameters.views["mu"])) ** 2).sum(1).mean())


def digits(n=1500, **more):
    """An objective for the first n digits, with the rest held out."""
    return Logistic(np.arange(n), np.arange(n, 1797), **more)


def train(objective, batch_size=100, seed=7, **options):
    rows = len(objective.rows) if isinstance(objective, Logistic) else len(objective.X)
    options = {"max_epochs": 5, "learning_rate": 0.01} | options
    batches = fit.Batches(objective.parameters.k, rows, batch_size, seed)
    return fit.stochastic(objective, batches, objective.parameters, **options)


def assert_same_state(a, b):
    a, b = a.parameters.state(), b.parameters.state()
    for name in a:
        assert_array_equal(a[name], b[name], err_msg=name)


# ---------------------------------------------------------------------------------------------------- batches
def test_an_epoch_has_each_row_once_in_an_order_of_its_own():
    batches = fit.Batches(cpu, 103, 25, seed=2**64 - 1)
    first, second = ([b.tolist() for b in batches.epoch(e)] for e in (0, 1))
    assert [len(b) for b in first] == [25, 25, 25, 25, 3]
    assert len(batches) == 5
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(103))
    assert first != second != [list(range(a, min(a + 25, 103))) for a in range(0, 103, 25)]
    assert [b.tolist() for b in fit.Batches(cpu, 103, 25, 2**64 - 1).epoch(1)] == second
    assert [b.tolist() for b in fit.Batches(cpu, 103, 25, 5).epoch(1)] != second


def test_one_batch_has_all_rows_in_their_order():
    for size in (7, 8):
        batches = fit.Batches(cpu, 7, size, seed=0)
        assert [[b.tolist() for b in batches.epoch(e)] for e in (0, 3)] == [[list(range(7))]] * 2
        assert batches.same


def test_an_epoch_of_more_passes_is_as_many_epochs_of_one():
    many, one = fit.Batches(cpu, 103, 25, 3, passes=3), fit.Batches(cpu, 103, 25, 3)
    assert len(many) == 15
    for e in range(3):
        want = [b.tolist() for i in range(3 * e, 3 * e + 3) for b in one.epoch(i)]
        assert [b.tolist() for b in many.epoch(e)] == want
    some = np.arange(5, 60, 5)
    passes = [b.tolist() for b in fit.Batches(cpu, 11, 4, 3, some, passes=2).epoch(0)]
    assert [len(b) for b in passes] == [4, 4, 3, 4, 4, 3]
    assert [sorted(np.concatenate(p)) for p in (passes[:3], passes[3:])] == [some.tolist()] * 2
    assert passes[:3] != passes[3:]


def test_one_batch_is_given_as_often_as_there_are_passes():
    batches = fit.Batches(cpu, 7, 7, seed=0, passes=4)
    given = list(batches.epoch(2))
    assert len(given) == len(batches) == 4
    assert batches.same
    assert all(b is given[0] for b in given)
    assert given[0].tolist() == list(range(7))
    some = fit.Batches(cpu, 3, 9, 0, np.array([2, 5, 8]), passes=2)
    assert [b.tolist() for b in some.epoch(0)] == [[2, 5, 8]] * 2


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_a_training_of_more_passes_is_one_of_more_epochs(batch_size):
    a, b = Mean(cpu, noise=0.1), Mean(cpu, noise=0.1)
    options = {"learning_rate": 0.01, "schedule": "cosine", "n_epochs_no_change": None}
    fit.stochastic(a, fit.Batches(cpu, 150, batch_size, 7, passes=3), a.parameters, max_epochs=2, **options)
    fit.stochastic(b, fit.Batches(cpu, 150, batch_size, 7), b.parameters, max_epochs=6, **options)
    assert_same_state(a, b)


# ---------------------------------------------------------------------------------------------------- training
def test_a_full_batch_converges_to_the_maximum():
    objective = digits(200)
    found = train(objective, 200, max_epochs=3000, learning_rate=0.02, tol=1e-7)
    assert found.converged
    assert 0 <= objective.best() - objective.bound() < 1e-5
    assert found.n_epochs == len(found.history["lower_bound"]) == len(found.history["prior"]) < 3000
    assert found.bound == found.history["lower_bound"][-1]
    assert (found.interrupted, found.n_undone) == (False, 0)


@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_batches_come_near_the_maximum_and_a_falling_rate_nearer(T):
    best, gaps = digits().best(), {}
    for schedule in ("constant", "cosine"):
        objective = digits(T=T)
        train(objective, 50, max_epochs=30, learning_rate=0.2, schedule=schedule, n_epochs_no_change=None)
        gaps[schedule] = best - objective.bound()
    assert gaps["cosine"] < 5e-4
    assert 10 * gaps["cosine"] < gaps["constant"] < 0.3


def test_training_has_converged_when_the_mean_bound_has_stopped_rising():
    found, n = train(digits(), max_epochs=60, n_epochs_no_change=3, tol=0.01), 3
    bounds = found.history["lower_bound"]
    means = [np.mean(bounds[e - n : e]) for e in range(n, len(bounds) + 1)]
    rises = np.subtract(means[n:], means[:-n])
    assert found.converged
    assert rises[-1] <= 0.01 < min(rises[:-1])
    assert train(digits(), max_epochs=60, n_epochs_no_change=None, tol=0.01).n_epochs == 60


def test_early_stopping_keeps_what_was_best_on_held_out_rows():
    objective = digits(60, precision=0.0)
    found = train(objective, 20, max_epochs=400, early_stopping=True, n_epochs_no_change=7, tol=0.0, learning_rate=0.03)
    bounds = found.history["validation_lower_bound"]
    assert found.converged
    assert found.bound == max(bounds) == objective.validate() > bounds[-1]
    assert found.n_epochs == len(bounds) == np.argmax(bounds) + 1 + 7 < 400


def test_a_rise_below_tol_does_not_count_and_is_kept():
    objective = digits()
    found = train(objective, early_stopping=True, n_epochs_no_change=2, tol=100.0, max_epochs=50)
    assert (found.n_epochs, found.converged) == (3, True)
    assert found.bound == max(found.history["validation_lower_bound"]) > found.history["validation_lower_bound"][0]


def test_nothing_counts_before_the_warm_up_ends():
    options = {"n_epochs_no_change": 2, "tol": 100.0, "max_epochs": 50}
    assert train(digits(), **options).n_epochs == 4
    assert train(digits(), warmup_steps=5 * 15 - 3, **options).n_epochs == 5 + 4
    objective = digits(60, precision=0.0)
    options = {"early_stopping": True, "learning_rate": 0.03, "n_epochs_no_change": 2, "max_epochs": 90}
    found = train(objective, 20, warmup_steps=80 * 3, **options)
    bounds = found.history["validation_lower_bound"]
    assert found.n_epochs == 82
    assert found.bound == max(bounds[79:]) == objective.validate() < max(bounds)
    with pytest.raises(ValueError, match=r"warmup_steps must be at most the steps of the training, 75, got 76\."):
        train(digits(), warmup_steps=76)


def test_bounds_that_are_not_finite_are_neither_best_nor_the_end():
    objective = digits()
    true = objective.validate
    objective.validate = lambda: np.nan if objective.parameters.counter[0] != 2 * 15 else true()
    found = train(objective, early_stopping=True, max_epochs=4)
    assert found.bound == found.history["validation_lower_bound"][1] == true()
    objective = digits()
    objective.values = lambda: {"lower_bound": np.nan}
    assert not train(objective, n_epochs_no_change=1, max_epochs=4).converged


def test_a_callback_sees_each_epoch_and_may_end_the_training():
    seen = []
    found = train(digits(), early_stopping=True, callback=lambda *a: seen.append(a) or len(seen) == 3)
    assert (found.n_epochs, found.converged, found.interrupted) == (3, False, False)
    assert [e for e, _ in seen] == [1, 2, 3]
    assert {name: [values[name] for _, values in seen] for name in seen[0][1]} == found.history
    assert set(found.history) == {"lower_bound", "prior", "validation_lower_bound"}


def test_a_verbose_training_shows_steps_epoch_and_bound(capsys):
    found = train(digits(), max_epochs=2, verbose=1, title="Logistic")
    shown = capsys.readouterr().err
    assert "Logistic: 100%" in shown
    assert "30/30" in shown
    assert f"epoch 2, bound {found.history['lower_bound'][-1]:.6f} nats per row" in shown
    train(digits(), max_epochs=2)
    assert capsys.readouterr() == ("", "")


def test_steps_without_data_have_their_own_epochs():
    class Bowl:
        parameters = Parameters(cpu, {"x": (2,)}, float)

        def step(self, batch, counter):
            assert batch is None
            self.parameters.gradients["x"][:] = self.parameters.views["x"] - 3

        def values(self):
            return {"lower_bound": -0.5 * float(((self.parameters.views["x"] - 3) ** 2).sum())}

    found = fit.stochastic(Bowl(), fit.Steps(50), Bowl.parameters, max_epochs=20, learning_rate=0.1)
    assert Bowl.parameters.counter[0] == 50 * found.n_epochs
    assert_allclose(Bowl.parameters.views["x"], 3, atol=0.01)


class Recording:
    """The CPU's kernels, with a `capture` that says how often it was asked to record."""

    def __init__(self):
        self.recorded = 0

    def __getattr__(self, name):
        return getattr(cpu, name)

    def capture(self, step):
        self.recorded += 1
        return step


@pytest.mark.parametrize("same", [True, False])
def test_steps_are_recorded_unless_they_do_something_on_the_host(same):
    class Bowl:
        parameters = Parameters(Recording(), {"x": (2,)}, float)

        def step(self, batch, counter):
            self.parameters.gradients["x"][:] = self.parameters.views["x"] - 3

        def values(self):
            return {"lower_bound": 0.0}

    fit.stochastic(Bowl(), fit.Steps(50, same=same), Bowl.parameters, max_epochs=2, learning_rate=0.1)
    assert Bowl.parameters.k.recorded == same
    assert Bowl.parameters.counter[0] == 100


class Rows(Mean):
    """The same where batches are rows themselves; `seen` are those that steps were given."""

    def __init__(self, k, **options):
        super().__init__(k, **options)
        self.seen, self.all = [], k.put(np.empty(0, np.int64))

    def rows(self, batch):
        self.seen.append(batch)
        return batch, self.all


def read_ahead(objective):
    """Batches of 40 rows of the 150, and a last one of 30; twice. Those of somebody's arrays are left as they are."""
    X, k = objective.X, objective.parameters.k
    parts = [X[i : i + 40] for i in range(0, 150, 40)]
    there = [k.put(x) for x in parts]
    batches = fit.Ahead(k, lambda: iter(there), 4, {})
    fit.stochastic(objective, batches, objective.parameters, max_epochs=2, learning_rate=0.01)
    for x, a in zip(parts, there):
        assert_array_equal(k.get(a), x)


@pytest.mark.parametrize("ahead", [False, True])
def test_whole_batches_are_stepped_from_one_place_where_steps_are_recorded(ahead, cuda_set, monkeypatch):
    replays = []

    def capture(step):  # as that of a device: its first call runs the step, others replay it
        replays.append(0)

        def again():
            replays[-1] += 1
            step()

        return again

    run = read_ahead if ahead else lambda objective: train(objective, 40, max_epochs=2)
    plain, recorded = ((Rows if ahead else Mean)(cuda_set, noise=0.3) for _ in range(2))
    run(plain)
    monkeypatch.setattr(cuda_set, "capture", capture)
    run(recorded)
    assert replays == [6]
    assert_same_state(recorded, plain)
    if ahead:
        assert [len(batch) for batch in recorded.seen] == 2 * [40, 40, 40, 30]
        assert len({id(batch) for batch in recorded.seen if len(batch) == 40}) == 1


def test_where_nothing_is_recorded_batches_are_stepped_as_they_come():
    objective = Rows(cpu)
    read_ahead(objective)
    assert all(np.shares_memory(batch, objective.X) for batch in objective.seen)


def test_another_training_goes_on_where_the_last_one_ended():
    objective, whole = Mean(cpu, noise=0.1), Mean(cpu, noise=0.1)
    for _ in range(2):
        train(objective, 1000, max_epochs=3)
    train(whole, 1000, max_epochs=6)
    assert_same_state(objective, whole)


def test_a_long_gradient_is_clipped():
    objective = digits(200)
    train(objective, 200, max_epochs=1, clip_norm=0.01)
    assert_allclose(np.linalg.norm(objective.parameters.m), 0.1 * 0.01)


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"schedule must be one of \('constant', 'cosine'\), got 'linear'\."):
        train(digits(), schedule="linear")


# ------------------------------------------------------------------------------------------ steps that are not finite
def test_a_few_bad_steps_are_undone_and_told():
    objective = digits(bad=(0, 17, 40, 41))
    with pytest.warns(ConvergenceWarning, match=r"4 training steps .* halved as often, to 0\.0125\. Try"):
        found = train(objective, max_epochs=60, learning_rate=0.2)
    assert found.n_undone == 4
    assert objective.best() - objective.bound() < 0.03
    assert np.isfinite(objective.parameters.theta).all()


def test_bad_steps_of_an_earlier_training_are_not_told_again():
    objective = digits(bad=(3,))
    with pytest.warns(ConvergenceWarning, match="1 training steps"):
        train(objective)
    assert train(objective).n_undone == 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (range(18, 900), "of 30 steps 12 had .* 12 in a row, worst in b,"),
        (range(0, 900, 2), "of 45 steps 23 had .* 1 in a row"),
    ],
)
def test_a_training_of_bad_steps_ends_with_the_last_good_epoch(bad, said):
    objective, good = digits(bad=bad), digits(bad=bad)
    message = rf"{said}.* from 0\.01\. Try a smaller learning_rate, a clip_norm, or scaling X\."
    with pytest.raises(NumericalError, match=message):
        train(objective)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(good, max_epochs=1 if bad[0] else 2)
    assert_same_state(objective, good)


def test_a_rate_that_blows_up_is_an_error_not_a_model():
    objective = digits(T=np.float32)
    with np.errstate(all="ignore"), pytest.raises(NumericalError, match=r"from 1e\+30\. Try a smaller learning_rate"):
        train(objective, learning_rate=1e30)
    assert not objective.parameters.theta.any()


# ---------------------------------------------------------------------------------------------------- checkpoints
CASES = {
    "plain": {},
    "early stopping": {"early_stopping": True, "n_epochs_no_change": 3, "tol": 0.01},
    "cosine, clip": {"schedule": "cosine", "clip_norm": 0.2},
}


class Stopped(Exception):
    pass


@pytest.mark.filterwarnings("ignore::lvm.estimator.ConvergenceWarning")
@pytest.mark.parametrize("how", ["callback", "max_epochs", "killed", "ctrl-c"])
@pytest.mark.parametrize("case", CASES)
def test_a_training_that_goes_on_has_the_bits_of_one_that_never_stopped(case, how, tmp_path, monkeypatch):
    options, bad = {"max_epochs": 12} | CASES[case], (20, 70)
    straight = digits(bad=bad, T=np.float32)
    want = train(straight, **options)
    options["checkpoint"] = tmp_path / "training"
    monkeypatch.setattr(fit, "EVERY", -1.0 if how == "killed" else 1e9)
    first = digits(bad=bad, T=np.float32)
    if how == "callback":
        assert train(first, callback=lambda e, _: e == 4, **options).n_epochs == 4
    elif how == "max_epochs" and case != "cosine, clip":
        assert train(first, **options | {"max_epochs": 4}).n_epochs == 4
    else:
        error, true = Stopped if how == "killed" else KeyboardInterrupt, first.step

        def step(batch, counter):
            if counter[0] == 4 * 15 + 3:
                raise error
            true(batch, counter)

        first.step = step
        if error is Stopped:
            with pytest.raises(Stopped):
                train(first, **options)
        else:
            found = train(first, **options)
            assert (found.interrupted, found.n_epochs) == (True, 4)
    second = digits(bad=bad, T=np.float32)
    found = train(second, **options)
    assert found == want
    assert found.n_epochs > 4
    assert_same_state(second, straight)
    third, written = digits(bad=bad, T=np.float32), options["checkpoint"].stat().st_mtime_ns
    third.step = None  # not called any more
    assert train(third, **options) == want
    assert_same_state(third, straight)
    assert options["checkpoint"].stat().st_mtime_ns == written


def test_what_was_best_before_a_stop_is_best_after_it(tmp_path):
    options = {"max_epochs": 400, "early_stopping": True, "n_epochs_no_change": 7, "tol": 0.0, "learning_rate": 0.03}
    straight, first, second = (digits(60, precision=0.0) for _ in range(3))
    want = train(straight, 20, **options)
    options["checkpoint"] = tmp_path / "training"
    train(first, 20, callback=lambda e, _: e == want.n_epochs - 2, **options)
    assert train(second, 20, **options) == want
    assert_same_state(second, straight)
    assert second.validate() == want.bound


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "training"
    train(digits(), checkpoint=path, settings={"activation": "tanh"})
    said = r"The checkpoint '.*training' is of another training: "
    for message, batch_size, options in (
        (r"learning_rate is 0\.01 there and 0\.1 here", 100, {"learning_rate": 0.1}),
        (r"batch_size is 100 there and 50 here", 50, {}),
        (r"clip_norm is None there and 1\.0 here", 100, {"clip_norm": 1.0}),
        (
            r"activation is 'tanh' there and 'relu' here\. Fit with the same, or name",
            100,
            {"settings": {"activation": "relu"}},
        ),
    ):
        with pytest.raises(ValueError, match=said + message):
            train(digits(), batch_size, checkpoint=path, **{"settings": {"activation": "tanh"}} | options)
    again, options = digits(), {"max_epochs": 5, "learning_rate": 0.01, "settings": {"activation": "tanh"}}
    passes = fit.Batches(cpu, 1500, 100, 7, passes=2)
    with pytest.raises(ValueError, match=said + "passes is 1 there and 2 here"):
        fit.stochastic(again, passes, again.parameters, checkpoint=path, **options)
    train(digits(), schedule="cosine", checkpoint=tmp_path / "falling")
    with pytest.raises(ValueError, match="max_epochs is 5 there and 6 here"):
        train(digits(), schedule="cosine", max_epochs=6, checkpoint=tmp_path / "falling")
    with pytest.raises(ValueError, match=r"shapes is \{'w': \[64\], 'b': \[1\]\} there"):
        train(Mean(cpu), checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_refused_and_stays(tmp_path):
    path = tmp_path / "training"
    train(digits(), checkpoint=path)
    data = path.read_bytes()
    model = Path(__file__).parent / "golden" / "GaussianMixture-schema1.safetensors"
    for content, said in (
        (data[:-1], "bytes, and its header says"),
        (data[:-1] + bytes([data[-1] ^ 1]), "its checksum does not match"),
        (b"", "it is cut off"),
        (model.read_bytes(), "it holds a GaussianMixture of schema 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=f"Cannot go on from '.*training': .*{said}"):
            train(digits(), checkpoint=path)
        assert path.read_bytes() == content
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="its class 'Checkpoint' is none"):
        lvm.load(path)


def test_a_whole_file_with_other_arrays_is_refused(tmp_path):
    path, objective = tmp_path / "training", digits()
    train(objective, checkpoint=path)
    info, arrays = modelfile._read(io.BytesIO(path.read_bytes()), path.stat().st_size)
    numbers = {"epochs": 5, "bound": -np.inf, "waited": 0, "converged": False}
    state = {name: arrays[f"state_{name}"] for name in objective.parameters.state()}
    history = {"lower_bound": arrays["history_lower_bound"]}
    settings = {name: modelfile._unpack(value, {}) for name, value in info["params"].items()}
    for said, change in (
        ("its theta does not fit", {"state": state | {"theta": np.zeros(3)}}),
        ("its m does not fit", {"state": {name: a for name, a in state.items() if name != "m"}}),
        ("its theta does not fit", {"best": np.zeros(80, np.float32)}),
        ("its history_kl is none of a checkpoint", {"history": history | {"kl": np.zeros(4)}}),
        ("its numbers are not those", {"numbers": numbers | {"epochs": True}}),
    ):
        parts = {"state": state, "best": None, "history": history, "numbers": numbers}
        checkpoint.write(path, settings, **parts)
        train(digits(), checkpoint=path)
        checkpoint.write(path, settings, **parts | change)
        with pytest.raises(ModelFileError, match=said):
            train(digits(), checkpoint=path)


def test_checkpoints_are_written_at_the_end_and_when_they_are_due(tmp_path, monkeypatch):
    path, there = tmp_path / "training", []
    for every, want in ((1e9, [False, False]), (-1.0, [True, True])):
        monkeypatch.setattr(fit, "EVERY", every)
        train(digits(), max_epochs=2, checkpoint=path, callback=lambda *_: there.append(path.exists()))
        assert there == want
        assert [p.name for p in tmp_path.iterdir()] == ["training"]
        path.unlink()
        there.clear()


# ---------------------------------------------------------------------------------------------------- Ctrl-C
@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_at_any_line_leaves_whole_epochs(early_stopping):
    whole, kept, raised, line = [digits(40).parameters.theta.copy()], 0, True, 0
    options = {"max_epochs": 3, "early_stopping": early_stopping, "learning_rate": 0.3}
    watched = digits(40)
    train(watched, 20, callback=lambda *_: whole.append(watched.parameters.theta.copy()), **options)
    while raised is not False and line < 1000:
        line += 1
        objective, found = digits(40), []

        def estimator(objective=objective, found=found):
            found.append(train(objective, 20, **options))
            if found[0].interrupted:
                raise KeyboardInterrupt

        raised = interrupted_at("ppca", line, estimator)
        at = [e for e, theta in enumerate(whole) if np.array_equal(theta, objective.parameters.theta)]
        assert at, f"line event {line}: half an epoch"
        assert raised is not None, f"line event {line}: swallowed"
        if found and found[0].interrupted:
            kept += 1
            assert at[0] == (
                np.argmax(found[0].history["validation_lower_bound"]) + 1 if early_stopping else found[0].n_epochs
            )
    assert raised is False
    assert kept > 20


# ---------------------------------------------------------------------------------------------------- the device
def test_a_training_on_the_device_is_that_on_the_cpu(cuda_set):
    for batch_size in (60, 1000):
        runs = [Mean(k, noise=0.3, T=np.float32) for k in (cuda_set, cpu)]
        found = [
            train(r, batch_size, max_epochs=2, learning_rate=0.5, early_stopping=True, clip_norm=2.0) for r in runs
        ]
        assert_allclose(found[0].history["lower_bound"], found[1].history["lower_bound"], rtol=1e-5)
        states = [r.parameters.state() for r in runs]
        for name in ("theta", "m", "v", "counters"):
            assert_allclose(states[0][name], states[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


# ---------------------------------------------------------------------------------------------------- reading ahead
def test_batches_that_are_read_ahead_are_those_of_the_numbers():
    X = np.arange(103.0)[:, None]
    numbers = fit.Batches(cpu, 103, 25, seed=3)
    ahead = fit.Ahead(cpu, lambda some: X[some], len(numbers), numbers.settings, numbers)
    assert (len(ahead), ahead.settings, ahead.same) == (5, numbers.settings, False)
    for epoch in (1, 0):
        for batch, some in zip(ahead.epoch(epoch), numbers.epoch(epoch), strict=True):
            assert_array_equal(batch, X[some])
    own = fit.Ahead(cpu, lambda: iter(np.array_split(X, 4)), 4, {})
    assert_array_equal(np.concatenate(list(own.epoch(7))), X)


def test_one_batch_is_read_while_the_last_is_worked_on_in_a_thread_of_its_own():
    read, threads = [], set()

    def items():
        for i in range(5):
            threads.add(threading.current_thread())
            read.append(i)
            yield i

    for i in fit.Ahead(cpu, items, 5, {}).epoch(0):
        late = time.monotonic() + 60
        while len(read) < min(i + 2, 5):  # the next one comes without being asked for
            assert time.monotonic() < late
            time.sleep(0.001)
        assert len(read) <= i + 2  # and no more
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_an_error_while_reading_ahead_is_that_of_the_epoch_and_no_thread_stays():
    before = threading.active_count()

    def items():
        yield from range(3)
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(fit.Ahead(cpu, items, 4, {}).epoch(0))
    assert threading.active_count() == before
    epoch = fit.Ahead(cpu, items, 4, {}).epoch(0)
    assert next(epoch) == 0
    epoch.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("how", ["rows", "blocks"])
def test_a_training_that_reads_ahead_goes_on_with_the_same_bits(how, tmp_path):
    def run(epochs, **options):
        objective = digits(500)
        batches = fit.Batches(cpu, 500, 64, 3)
        if how == "rows":
            ahead = fit.Ahead(cpu, lambda some: some.copy(), len(batches), batches.settings, batches)
        else:
            ahead = fit.Ahead(cpu, lambda: iter(np.array_split(np.arange(500), 8)), 8, {"blocks": 8})
        stop = lambda epoch, values: epoch >= epochs
        p = objective.parameters
        fit.stochastic(objective, ahead, p, max_epochs=4, learning_rate=0.01, callback=stop, **options)
        return objective

    want = run(4)
    run(2, checkpoint=tmp_path / "c")
    assert_same_state(run(4, checkpoint=tmp_path / "c"), want)
    if how == "rows":
        plain = digits(500)
        train(plain, batch_size=64, seed=3, max_epochs=4)
        assert_same_state(plain, want)
