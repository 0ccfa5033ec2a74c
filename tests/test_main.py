"""The command line: the demo reaches its references and says so, and `info` never fails, however odd the place."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import lvm
from lvm import __main__ as command

ROOT = Path(lvm.__file__).parents[1]
TABLE = ["model", "data", "N x D", "seconds", "score", "reference", "met"]


def run(*arguments, cwd, prelude="", **environment):
    """`python -m lvm ...` in a new process; `prelude` runs first; a variable set to None is taken away."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    env = {name: value for name, value in env.items() if value is not None}
    code = f"import runpy, sys; sys.argv[1:] = {arguments!r}\n{prelude}\nrunpy.run_module('lvm', run_name='__main__')"
    options = {"capture_output": True, "text": True, "encoding": "utf-8"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, **options)


def info(tmp_path, **options):
    """The labels and texts that `info` prints; later lines of a text joined to its first."""
    done = run("info", cwd=tmp_path, **options)
    assert done.returncode == 0, done.stderr
    lines = re.sub(r"\n {15}", " | ", done.stdout).splitlines()
    return {line[:14].strip(): line[15:] for line in lines}


# ---------------------------------------------------------------------------------------------------------------- demo


def test_demo_reaches_every_reference_and_draws_every_model(tmp_path):
    done = run("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = (re.split(r"\s{2,}", line) for line in done.stdout.partition("\n\n")[0].splitlines())
    assert head == TABLE
    assert [row[:2] for row in rows] == [[name, data] for name, data, *_ in command.DEMO]
    assert [row[-1] for row in rows if len(row) == 7] == ["yes"] * sum(row[-1] is not None for row in command.DEMO)
    assert "nats per row" in done.stdout
    assert "lvm demo" in done.stderr  # the progress bar
    pictures = sorted((tmp_path / "lvm-demo").iterdir())
    assert len(pictures) == len(command.DEMO)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_demo_without_matplotlib_prints_the_table_and_says_how_to_install_it(tmp_path):
    done = run("demo", cwd=tmp_path, prelude="sys.modules['matplotlib'] = None")
    assert done.returncode == 0, done.stderr
    assert "faithful" in done.stdout
    assert [line for line in done.stdout.splitlines() if 'pip install "lvm[plot]"' in line]
    assert not list(tmp_path.iterdir())


def rows(reference):
    """One quick line of the demo."""
    return [("quick", "faithful", command._mixture(1, "full"), command._faithful, reference)]


@pytest.mark.parametrize(("off", "met", "status"), [(0, "yes", 0), (2e-8, "no", 1), (-2e-8, "no", 1)])
def test_a_missed_reference_is_shown_and_gives_status_1(off, met, status, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "DEMO", rows(-1289.79674505 / 272 + off))
    assert command.main(["demo", "--out", str(tmp_path / "new" / "folder")]) == status
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[-1] == met
    assert ("1 of the references missed" in printed) == bool(status)
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["quick-faithful.png"]


def test_a_model_without_a_reference_says_so(tmp_path, capsys):
    assert command.demo(str(tmp_path), rows(None)) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("none known")


@pytest.mark.parametrize(("least", "met"), [(0.97, "yes"), (0.98, "yes"), (0.99, "no")])
def test_a_supervised_model_must_have_at_least_its_reference(least, met, tmp_path, capsys):
    row = ("quick", "iris 2 species", command._logistic, command._weights, command._Least(least))
    assert command.demo(str(tmp_path), [row]) == (met == "no")
    words = capsys.readouterr().out.splitlines()[1].split()
    assert words[-5:] == ["0.98000000", "at", "least", f"{least:.2f}", met]  # 98 of 100 flowers


def test_drawn_data_are_scored_on_rows_that_the_fit_did_not_see():
    for name, n in ("ripley", 250), ("sinc", 100), ("moons", 2000):
        seen, unseen = command._data(name)
        assert {*map(len, seen)} == {n}
        assert {*map(len, unseen)} == {1000}
        assert not set(map(tuple, seen[0])) & set(map(tuple, unseen[0]))


def test_the_classes_of_ripley_lie_where_the_book_has_them():
    X, y = command._ripley(40_000, np.random.default_rng(1))
    for k, means in enumerate([[(-0.7, 0.3), (0.3, 0.3)], [(-0.3, 0.7), (0.4, 0.7)]]):
        left = X[y == k, 0] < np.mean(means, axis=0)[0]
        Z = X[y == k] - np.where(left[:, None], *means)
        assert left.mean() == pytest.approx(0.5, abs=0.02)
        np.testing.assert_allclose(Z[:, 1].mean(), 0, atol=0.01)
        np.testing.assert_allclose(Z[:, 1].var(), 0.03, rtol=0.05)
    p, q = (
        sum(multivariate_normal(m, 0.03 * np.eye(2)).pdf(X) for m in means)
        for means in ([(-0.7, 0.3), (0.3, 0.3)], [(-0.3, 0.7), (0.4, 0.7)])
    )
    assert np.mean((q > p) == y) == pytest.approx(0.911, abs=0.006)  # what the comment at DEMO says is the best


def test_moons_lie_about_two_half_circles():
    (X,) = command._moons(20_000, np.random.default_rng(1))
    for points, centre, side in (X[::2], (0, 0), 1), (X[1::2], (1, 0.5), -1):
        out = points - centre
        np.testing.assert_allclose(np.linalg.norm(out, axis=1).mean(), 1.005, atol=0.01)  # noise adds 0.1²/2
        np.testing.assert_allclose(np.linalg.norm(out, axis=1).std(), 0.1, atol=0.005)
        middle = abs(out[:, 0]) < 0.5
        assert (side * out[middle, 1] > 0.5).all()
    components = [
        multivariate_normal(c, 0.01 * np.eye(2)).pdf(X[:4000])
        for a in np.pi * (np.arange(200) + 0.5) / 200
        for c in ([np.cos(a), np.sin(a)], [1 - np.cos(a), 0.5 - np.sin(a)])
    ]
    assert np.log(np.mean(components, axis=0)).mean() == pytest.approx(-1.00, abs=0.02)  # as the comment at DEMO says


@pytest.mark.parametrize(("least", "met"), [(1.0, "yes"), (1.87750163, "no")])
def test_a_flow_towards_a_target_is_scored_by_its_bound_on_log_z(least, met, tmp_path, capsys):
    models = []
    fit = lambda target: (
        models.append(lvm.PlanarFlow(4, max_epochs=30, random_state=0).fit_target(target)) or models[-1]
    )
    command.demo(str(tmp_path), [("quick", "U1", fit, command._energy, command._Least(least))])
    words = capsys.readouterr().out.splitlines()[1].split()
    assert words[1:5] == ["U1", "-", "x", "2"]
    assert words[-5:] == [f"{models[0].elbo(lvm.targets.U1):.8f}", "at", "least", f"{least:.2f}", met]


def test_the_relevance_vectors_of_the_demo_are_few():
    for name, fit in ("ripley", command._classifier), ("sinc", command._regressor):
        assert fit(*command._data(name)[0]).n_relevant_ <= 10


def test_what_the_vae_of_the_demo_must_have_is_above_the_linear_model():
    ((data, reference),) = [(row[1], row[4]) for row in command.DEMO if row[0].startswith("VAE")]
    ((X,), _) = command._data(data)
    linear = lvm.ProbabilisticPCA(2).fit(X).score(X)
    assert linear == pytest.approx(-177.4, abs=0.05)  # as the comment at DEMO says
    assert reference > linear + 5


def test_the_net_of_the_demo_has_half_of_the_digits_and_must_beat_logistic_regression_on_the_others():
    ((data, reference),) = [(row[1], row[4]) for row in command.DEMO if row[0].startswith("BayesianMLPClassifier")]
    (X, y), (unseen, truth) = command._data(data)
    assert (len(X), len(unseen)) == (899, 898)
    assert not set(map(bytes, X)) & set(map(bytes, unseen))
    logistic = lvm.VariationalLogisticRegression().fit(X, y).score(unseen, truth)
    assert logistic == pytest.approx(0.935, abs=0.002)  # as the comment at DEMO says
    assert reference > logistic


def test_a_row_with_gaps_has_every_fifth_number_deleted(tmp_path):
    seen = []
    fit = lambda X: seen.append(X) or command._mixture(1, "full")(X)
    command.demo(str(tmp_path), [("quick", "faithful with gaps", fit, command._imputed, None)])
    kept = np.arange(544).reshape(272, 2) % 5 != 0
    np.testing.assert_array_equal(seen, [np.where(kept, lvm.datasets.load_faithful(), np.nan)])


def test_the_reference_with_gaps_is_the_density_of_what_is_left_as_scipy_has_it():
    ((fit, reference),) = [(row[2], row[4]) for row in command.DEMO if row[1] == "faithful with gaps"]
    X = lvm.datasets.load_faithful()
    X.flat[::5] = np.nan
    model = fit(X)
    components = list(zip(np.log(model.weights_), model.means_, model.covariances_))
    log_p = [
        logsumexp(
            [log_pi + multivariate_normal(mu[o], Sigma[np.ix_(o, o)]).logpdf(x[o]) for log_pi, mu, Sigma in components]
        )
        for x, o in zip(X, ~np.isnan(X))
    ]
    assert np.mean(log_p) == pytest.approx(reference, abs=1e-10)


def test_the_reference_of_ppca_with_gaps_is_the_density_of_what_is_left_as_scipy_has_it():
    ((fit, reference),) = [(row[2], row[4]) for row in command.DEMO if row[1] == "iris with gaps"]
    X = lvm.datasets.load_iris()
    X.flat[::5] = np.nan
    model = fit(X)
    Sigma = model.loadings_ @ model.loadings_.T + model.noise_variance_ * np.eye(4)
    log_p = [multivariate_normal(model.mean_[o], Sigma[np.ix_(o, o)]).logpdf(x[o]) for x, o in zip(X, ~np.isnan(X))]
    assert np.mean(log_p) == pytest.approx(reference, abs=1e-10)


def test_the_reference_of_the_line_is_its_evidence_as_scipy_has_it_and_q_comes_near_the_posterior():
    X = lvm.datasets.load_faithful()
    x, y = ((X - X.mean(axis=0)) / X.std(axis=0)).T
    covariance = command.NOISE * np.eye(272) + np.outer(x, x) + 1  # of y with both weights integrated out
    log_p = multivariate_normal(np.zeros(272), covariance).logpdf(y) / 272
    at_best, climbed = (row[4] for row in command.DEMO if row[0].startswith("gradients"))
    assert at_best == pytest.approx(log_p, abs=1e-10)
    assert climbed < log_p
    log_joint, posterior = command._line(X)
    assert lvm.gradients.check_gradient(log_joint, [[0.1, 0.9], [-1.0, 2.0]])
    assert command._fit_q(X).fit.q.kl(posterior) < 0.01


def test_a_selection_is_scored_by_its_best(tmp_path, capsys):
    fit = lambda X: lvm.select_mixture(X, [1, 2], "full", **command.EXACT)
    command.demo(str(tmp_path), [("quick", "faithful", fit, command._selection, -1130.26396018 / 272)])
    assert capsys.readouterr().out.splitlines()[1].endswith("yes")


def test_the_table_is_aligned(tmp_path, capsys):
    command.demo(str(tmp_path), rows(-1.0) + [("a longer name", *rows(-10.5)[0][1:])])
    head, *lines = capsys.readouterr().out.splitlines()[:3]
    ends = [head.index(word) + len(word) for word in ("score", "reference")]
    assert all(line[end - 1].isdigit() and line[end] == " " for line in lines for end in ends)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        command.main(["demo", "--out", str(tmp_path / "file")])
    assert re.search(r"cannot write pictures: .*file.*--out", capsys.readouterr().err)


# ---------------------------------------------------------------------------------------------------------------- info


def test_info_names_everything_that_a_bug_report_needs(tmp_path):
    said = info(tmp_path)
    packages = ["numpy", "scipy", "numba", "llvmlite", "safetensors", "tqdm", "matplotlib"]
    here = ["system", "processor", "threads", "BLAS", "kernel cache", "CUDA", "environment"]
    assert list(said) == ["lvm", "python", *packages, *here]
    assert said["lvm"].startswith(lvm.__version__)
    assert not [text for text in said.values() if text.startswith("unknown")]


@pytest.mark.parametrize(
    ("set_to", "said"),
    [
        ({"LVM_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, "3, from LVM_NUM_THREADS"),
        ({"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, "1, from NUMBA_NUM_THREADS"),
        ({"LVM_NUM_THREADS": "many", "OMP_NUM_THREADS": "5,2"}, "5, from OMP_NUM_THREADS"),
        ({}, f"{lvm.get_num_threads()}, from set_num_threads"),
    ],
)
def test_threads_say_what_decided_them(set_to, said, monkeypatch):
    for name in ("LVM_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    try:
        if not set_to:
            lvm.set_num_threads(lvm.get_num_threads())
        assert command._threads().startswith(said + ";")
    finally:
        lvm.set_num_threads(None)


def test_a_variable_that_overrules_openblas_comes_with_a_word(tmp_path):
    said = info(tmp_path, OPENBLAS_CORETYPE="Nehalem", OPENBLAS_NUM_THREADS="1")
    assert "OPENBLAS_CORETYPE=Nehalem  <- overrules OpenBLAS's choice of kernels" in said["environment"]
    if "OpenBLAS" not in said["BLAS"]:
        pytest.skip("NumPy here has another BLAS")
    assert "threads: 1" in said["BLAS"]


def test_without_a_home_info_still_answers(tmp_path):
    assert not info(tmp_path, HOME=None, XDG_CACHE_HOME=None)["kernel cache"].startswith("unknown")


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "cache")
    said = info(tmp_path, NUMBA_CACHE_DIR=place)["kernel cache"]
    assert f"NUMBA_CACHE_DIR={place} is set but cannot be written" in said


def test_the_cache_folder_is_measured(tmp_path):
    place = str(tmp_path / "cache")
    said = info(tmp_path, NUMBA_CACHE_DIR=place)["kernel cache"]
    assert said.startswith(place)
    assert "(writable, 0 files, 0.0 MB)" in said


def test_a_folder_that_the_terminal_cannot_spell_does_not_stop_info(tmp_path):
    place = str(tmp_path / "мех")
    assert "\\u043c" in info(tmp_path, NUMBA_CACHE_DIR=place, PYTHONIOENCODING="ascii")["kernel cache"]


def test_packages_that_are_missing_or_broken_do_not_stop_info(tmp_path):
    prelude = "for name in ('matplotlib', 'numba', 'scipy'): sys.modules[name] = None"
    said = info(tmp_path, prelude=prelude)
    assert said["matplotlib"] == 'not installed; pictures need it: pip install "lvm[plot]"'
    assert said["numba"] == said["scipy"] == "not installed"
    assert said["BLAS"].startswith("unknown (")
    assert said["numpy"][0].isdigit()


def test_the_gpu_is_named_or_what_is_missing(tmp_path):
    said = info(tmp_path, NUMBA_ENABLE_CUDASIM=None)["CUDA"]
    assert "|" not in said  # one line
    if find_spec("numba_cuda") is None:
        assert said.startswith("The package numba-cuda is not installed: pip install 'lvm[cuda13]'")
    else:
        assert re.search(r"^(The NVIDIA driver .* Try `nvidia-smi`.*|.*, [\d.]+ GiB); numba-cuda \d[\d.]*$", said)


def test_the_simulator_is_not_taken_for_a_gpu(tmp_path):
    assert info(tmp_path, NUMBA_ENABLE_CUDASIM="1")["CUDA"].startswith("Numba's simulator (NUMBA_ENABLE_CUDASIM)")


def test_show_versions_prints_the_same(capsys):
    lvm.show_versions()
    shown = capsys.readouterr().out
    assert command.main(["info"]) == 0
    assert capsys.readouterr().out == shown


# ------------------------------------------------------------------------------------------------------------- command


def test_without_a_command_there_is_help(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "info" in printed


def test_an_unknown_command_has_status_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["fly"])
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_the_command_line_is_cheap_to_import():
    code = "import sys, lvm.__main__; sys.exit(bool({'numpy', 'scipy', 'numba', 'tqdm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# -------------------------------------------------------------------------------------------------------------- README


def test_the_code_of_the_readme_runs_as_it_stands(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
    assert code.count("\n") > 20
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "encoding": "utf-8"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], **options)
    assert done.returncode == 0, done.stderr
