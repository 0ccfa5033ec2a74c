"""Mixtures of rows with gaps (NaN): kernels and estimator against tests/reference.py, which goes row by row."""

import numpy as np
import pytest
from gradcheck import gradient
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    dense,
    mixture_bound,
    mixture_conditional,
    mixture_e_step,
    mixture_filled,
    mixture_gaps_em_step,
    mixture_gaps_expected_bound,
    mixture_impute,
    mixture_marginal,
)
from test_kernels_mixture import T_, Holed, Problem, holed, kind_, packed, rng, unpacked
from test_mixture import (
    TYPES,
    assert_fits_or_says_why,
    assert_same_fit,
    assert_same_state,
    assert_whole,
    clouds,
    covariances,
    fit,
    property_,
    start_,
    state,
    type_,
    unsettled,
)

import lvm
from lvm import ConvergenceWarning, GaussianMixture, NumericalError, select_mixture
from lvm.datasets import load_faithful, load_iris

SIZES = (1, 2, 127, 128, 129)
LANES = (1, 2, 7, 8, 9, 10)  # components around the eight that lie in one register
TOL = {np.float32: 5e-5, np.float64: 1e-12}


# ------------------------------------------------------------------------------------------------ E step
@kind_
@T_
@pytest.mark.parametrize("D", [1, 2, 3, 4, 5, 9, 17])
def test_statistics_and_answers_match_the_reference(k, kind, T, D):
    for i, N in enumerate(SIZES):
        K = LANES[(i + D) % len(LANES)]
        p = Holed(kind, K, D, N, T)
        w = (None, p.w)[(i + D) % 2]
        want, size = p.reference(w)
        assert_allclose(p.statistics(k, w=w) / size, want / size, rtol=0, atol=TOL[T], err_msg=f"{N=} {K=}")
        want, want_r = mixture_e_step(p.X.astype(float), p.pi, p.mu, p.dense)
        log_px, labels, r = p.posterior(k)
        assert_allclose(log_px, want, rtol=10 * TOL[T], atol=50 * TOL[T])
        assert_allclose(r, want_r, rtol=0, atol=50 * TOL[T])
        assert_allclose(r.sum(1), 1, rtol=K * np.finfo(T).eps)
        assert_array_equal(labels, r.argmax(1))
        assert_array_equal(p.impute(k)[~np.isnan(p.X)], p.X[~np.isnan(p.X)])
        assert_allclose(p.impute(k), mixture_impute(p.X.astype(float), p.pi, p.mu, p.dense), atol=100 * TOL[T])


def assert_is_the_reference(k, p, w, tol):
    """Statistics and answers, `tol` times what they are sums of."""
    want, size = p.reference(w)
    assert_allclose(p.statistics(k, w=w) / size, want / size, rtol=0, atol=tol)
    want, want_r = mixture_e_step(p.X.astype(float), p.pi, p.mu, p.dense)
    log_px, _, r = p.posterior(k)
    assert_allclose(log_px, want, rtol=10 * tol, atol=50 * tol)
    assert_allclose(r, want_r, atol=50 * tol)


@kind_
@T_
@pytest.mark.parametrize("K", LANES)
def test_any_number_of_components(k, kind, T, K):
    p = Holed(kind, K, 3, 150, T)
    assert_is_the_reference(k, p, p.w, TOL[T])


@kind_
@T_
@pytest.mark.parametrize("D", [33, 70])
def test_many_columns_and_many_gaps(k, kind, T, D):
    """From no gap to all of them in a row: products of pivots are taken 16 at a time, patterns come in words of 64."""
    p = Holed(kind, 2, D, D + 1, T)
    p.X = np.where(rng(1).permuted(np.tri(D + 1, D, -1), axis=1) > 0, np.nan, p.X).astype(T)
    assert set(np.isnan(p.X).sum(1)) >= {0, D}
    assert_is_the_reference(k, p, None, 4 * TOL[T])


@kind_
@T_
def test_many_rows_are_the_sum_of_few(k, kind, T):
    """Several blocks, and the rows with gaps of one block several times what is worked out at once (12 tiles)."""
    p = Holed(kind, 3, 3, 3 * 8192 + 77, T)
    pieces = [p.statistics(k, X=p.X[a : a + 100], w=p.w[a : a + 100]) for a in range(0, len(p.X), 100)]
    want, size = np.sum(pieces, axis=0), p.w.sum() * 50
    assert_allclose(p.statistics(k, w=p.w) / size, want / size, rtol=0, atol=TOL[T])
    for N in (1535, 1536, 1537, 2 * 1536 + 1):
        X = p.X[np.isnan(p.X).any(1)][:N]
        pieces = [p.statistics(k, X=X[a : a + 100]) for a in range(0, len(X), 100)]
        assert_allclose(p.statistics(k, X=X) / size, np.sum(pieces, axis=0) / size, rtol=0, atol=TOL[T])


@kind_
@T_
def test_rows_that_share_their_gaps_count_as_any_others(k, kind, T):
    p = Holed(kind, 9, 5, 300, T)
    p.X = np.repeat(p.X[1:4], 100, axis=0) + rng().standard_normal((300, 5)).astype(T)
    want, size = p.reference(p.w)
    assert_allclose(p.statistics(k, w=p.w) / size, want / size, rtol=0, atol=TOL[T])


@kind_
@T_
def test_a_row_of_gaps_alone_scores_0_and_belongs_by_weight_and_is_no_row(k, kind, T):
    p = Holed(kind, 3, 4, 300, T)
    lost = np.isnan(p.X).all(1)
    log_px, _, r = p.posterior(k)
    assert lost.sum() > 10
    assert_array_equal(log_px[lost], 0)
    assert_allclose(r[lost], [p.pi] * lost.sum(), rtol=1e-6 if T is np.float32 else 1e-14)
    assert_allclose(p.statistics(k), p.statistics(k, X=p.X[~lost]), rtol=1e-5 if T is np.float32 else 1e-12, atol=1e-9)
    some = np.where(lost, 1e9, p.w)  # whatever its weight
    assert_allclose(
        p.statistics(k, w=some), p.statistics(k, w=np.where(lost, 0, p.w)), rtol=1e-5 if T is np.float32 else 1e-12
    )
    nothing = np.full((130, 4), np.nan, T)
    assert_array_equal(p.statistics(k, X=nothing), 0)
    assert_array_equal(p.posterior(k, X=nothing)[0], 0)


@kind_
@T_
def test_without_gaps_the_bits_are_those_of_the_plain_kernels(k, kind, T):
    for N in (*SIZES, 8192 + 5):
        p = Holed(kind, 3, 4, N, T)
        X = np.where(np.isnan(p.X), p.T(0.5), p.X)
        for a, b in zip(
            (p.statistics(k, X=X), p.statistics(k, X=X, w=p.w), *p.posterior(k, X=X)),
            (
                p.statistics(k, X=X, gaps=False),
                p.statistics(k, X=X, w=p.w, gaps=False),
                *p.posterior(k, X=X, gaps=False),
            ),
        ):
            assert_array_equal(a, b)
        assert_array_equal(p.impute(k, X=X), X)


@kind_
@T_
def test_complete_rows_get_the_same_bits_among_rows_with_gaps(k, kind, T):
    p = Holed(kind, 3, 5, 700, T)
    whole = ~np.isnan(p.X).any(1)
    for a, b in zip(p.posterior(k, X=p.X[whole], gaps=False), p.posterior(k)):
        assert_array_equal(b[whole], a)


@kind_
@T_
@pytest.mark.parametrize("K", [3, 9])
def test_an_answer_depends_on_its_own_row_alone(k, kind, T, K):
    p = Holed(kind, K, 5, 2000, T)
    u, eps = rng(1).random(2000), rng(2).standard_normal((2000, 5))
    whole = *p.posterior(k), p.impute(k), p.impute(k, u=u, eps=eps)
    gapped = np.flatnonzero(np.isnan(p.X).any(1))
    for some in (*np.arange(40)[:, None], slice(3, 140), slice(1, None, 4), gapped[:129], rng().permutation(2000)):
        X = np.ascontiguousarray(p.X[some])
        for a, b in zip((*p.posterior(k, X=X), p.impute(k, X=X), p.impute(k, X, u[some], eps[some])), whole):
            assert_array_equal(a, b[some])


@kind_
@T_
def test_bits_do_not_depend_on_threads_or_on_waves(k, kind, T, monkeypatch):
    p = Holed(kind, 3, 4, 20 * 128 + 5, T)
    u, eps = rng(1).random(len(p.X)), rng(2).standard_normal(p.X.shape)
    answers = lambda: (p.statistics(k, w=p.w), *p.posterior(k), p.impute(k), p.impute(k, u=u, eps=eps))
    monkeypatch.setattr(k.mixture, "_rows", lambda *_: 128)  # 21 blocks
    lvm.set_num_threads(1)
    want = answers()
    for threads in (1, 2, 8):
        for wave in (1, 7, 64):
            lvm.set_num_threads(threads)
            monkeypatch.setattr(k.mixture, "WAVE", wave)
            for a, b in zip(answers(), want):
                assert_array_equal(a, b, err_msg=f"{threads=} {wave=}")
    lvm.set_num_threads(None)


@kind_
@T_
def test_read_only_and_mapped_rows_give_the_same_bits_and_are_not_written_to(k, kind, T, tmp_path):
    p = Holed(kind, 3, 4, 700, T)
    before, want = p.X.copy(), (p.statistics(k, w=p.w), *p.posterior(k), p.impute(k))
    assert_array_equal(p.X.view(np.uint8), before.view(np.uint8))  # bits, since NaN is in it
    np.save(tmp_path / "X.npy", p.X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    p.X.setflags(write=False)
    p.w.setflags(write=False)
    for X in (p.X, mapped):
        for a, b in zip((p.statistics(k, X=X, w=p.w), *p.posterior(k, X=X), p.impute(k, X=X)), want):
            assert_array_equal(a, b)


@kind_
@T_
def test_all_nan_are_gaps_whatever_their_bits(k, kind, T):
    p = Holed(kind, 3, 4, 200, T)
    X = p.X.copy()
    X[::2] = np.where(np.isnan(X[::2]), -np.abs(X[::2]), X[::2])  # NaN with its sign bit set
    for a, b in zip((p.statistics(k, X=X), *p.posterior(k, X=X)), (p.statistics(k), *p.posterior(k))):
        assert_array_equal(a, b)


def equicorrelated(X, mu, a):
    """log N of what was observed under covariance a 1 + (1 - a) 11', in closed form (Sherman & Morrison)."""
    o = (~np.isnan(X)).sum(1)
    y = X - mu
    middle = np.nansum(y, axis=1) / np.maximum(o, 1)
    square = np.nansum((y - middle[:, None]) ** 2, axis=1) / a + o * middle**2 / (a + o * (1 - a))
    log_det = np.where(o > 0, (o - 1) * np.log(a) + np.log(a + o * (1 - a)), 0)
    return -0.5 * (square + log_det + o * np.log(2 * np.pi))


@pytest.mark.parametrize("kind", ["full", "tied"])
@T_
@pytest.mark.parametrize("correlation_less_than_1_by", [1e-4, 1e-8, 1e-12])
def test_nearly_singular_covariances_give_finite_answers_as_good_as_their_condition(
    k, kind, T, correlation_less_than_1_by
):
    a = correlation_less_than_1_by
    p = Holed(kind, 2, 4, 300, T, reg=0.0)
    one = a * np.eye(4) + (1 - a)
    p.Sigma = np.array([one, one]) if kind == "full" else one
    t = rng(1).standard_normal((300, 1)) + np.sqrt(a) * rng(2).standard_normal((300, 4))
    p.mu = np.array([[0.0] * 4, [3.0] * 4])
    p.X = np.where(np.isnan(p.X), np.nan, t).astype(T)
    assert np.isfinite(p.statistics(k, w=p.w)).all()
    log_px, _, r = p.posterior(k)
    assert np.isfinite(log_px).all()
    assert_allclose(r.sum(1), 1, rtol=1e-6)
    filled = p.impute(k)
    assert np.isfinite(filled).all()
    draws = p.impute(k, u=rng(3).random(300), eps=rng(4).standard_normal((300, 4)))
    assert np.isfinite(draws).all()
    if a >= 1e-8:
        X, tol = p.X.astype(float), 1e-14 / a if T is np.float64 else 1e-6 / np.sqrt(a)
        want = np.logaddexp(*(np.log(pi) + equicorrelated(X, mu, a) for pi, mu in zip(p.pi, p.mu)))
        assert_allclose(log_px, want, atol=tol, rtol=tol)
        seen = ~np.isnan(X).all(1)
        near = np.where(np.isnan(X), np.nanmean(X[seen], axis=1)[np.cumsum(seen) - 1, None], X)
        assert_allclose(filled[seen], near[seen], atol=10 * a + 1e-6)


@pytest.mark.parametrize("kind", ["full", "tied"])
@T_
def test_seventy_gaps_that_all_but_determine_each_other_are_in_range(k, kind, T):
    """Precisions a 1 + (1 - a) 11': pivots but the first are some a, the product of their roots is 1e-370."""
    a, D = (1e-11, 70) if T is np.float64 else (1e-6, 70)
    p = Holed(kind, 2, D, D + 1, T, reg=0.0)
    P = np.linalg.cholesky(a * np.eye(D) + (1 - a))[::-1, ::-1].T  # P'P is that matrix, whichever way it is turned
    c = np.log(p.pi) + np.log(np.diag(P)).sum() - 0.5 * D * np.log(2 * np.pi)
    p.mu[:] = 0
    p.factors = lambda R=None: ((np.array([P, P]) if kind == "full" else P).astype(T), c.astype(T))
    y = rng(1).standard_normal((D + 1, D)) / np.sqrt(a)
    y -= y.mean(1, keepdims=True)
    p.X = np.where(np.tri(D + 1, D, -1) > 0, np.nan, y).astype(T)
    log_px, _, r = p.posterior(k)
    o, b = (~np.isnan(p.X)).sum(1), (1 - a) / (a + D * (1 - a))
    square, total, rest = np.nansum(p.X.astype(float) ** 2, 1), np.nansum(p.X.astype(float), 1), 1 - o * b
    want = -0.5 * (o * np.log(2 * np.pi / a) + np.log(rest) + a * (square + b * total**2 / rest))
    assert_allclose(log_px[1:], want[1:], rtol=1e-3, atol=1e-3)  # (in the complete row it is rounding that decides)
    assert_allclose(r, [p.pi] * (D + 1), rtol=1e-4)
    assert np.isfinite(p.statistics(k)).all()
    assert np.isfinite(p.impute(k)).all()


@pytest.mark.parametrize("kind", ["full", "tied"])
@T_
def test_gaps_that_determine_each_other_but_for_rounding_give_finite_answers(k, kind, T):
    p = Holed(kind, 2, 3, 300, T)
    for tiny in (1e-7, 1e-9, 1e-15):
        P = np.array([[tiny, 0, 0], [1, 1, 0], [0.5, 0.5, 2]])
        p.factors = lambda R=None, P=P: ((np.array([P, P]) if kind == "full" else P).astype(T), np.zeros(2, T))
        draws = p.impute(k, u=np.full(300, 0.5), eps=np.ones((300, 3)))
        for answer in (p.statistics(k), *p.posterior(k), p.impute(k), draws):
            assert np.isfinite(answer).all()


@kind_
def test_far_from_the_origin_float32_loses_nothing(k, kind):
    p = Holed(kind, 3, 4, 600, np.float32)
    p.mu, p.X = np.round(p.mu * 64) / 64, np.round(p.X * 64) / 64  # so that the offset adds without rounding
    want, filled = (p.statistics(k), *p.posterior(k)), p.impute(k)
    p.mu, p.X = p.mu + 2.0**15, p.X + np.float32(2**15)
    for a, b in zip((p.statistics(k), *p.posterior(k)), want):
        assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert_allclose(p.impute(k), filled + 2.0**15, atol=2.0**-7, rtol=0)  # two units in the last place


@kind_
@T_
def test_rows_beyond_the_range_of_squares_are_improbable_never_nan(k, kind, T):
    p = Holed(kind, 3, 4, 200, T)
    before, X = p.posterior(k), p.X.copy()
    X[7], X[9], X[13], X[14] = 1e19, [np.nan, -1e30, 1e30, np.nan], [np.finfo(T).max, *[np.nan] * 3], np.finfo(T).min
    X[14, 2] = np.nan
    log_px, labels, r = p.posterior(k, X=X)
    assert np.isfinite(log_px).all()
    assert (log_px[[7, 9, 13, 14]] < -1e35).all()
    assert ((labels >= 0) & (labels < 3)).all()
    assert_allclose(r.sum(1), 1, rtol=1e-6)
    near = np.delete(np.arange(200), [7, 9, 13, 14])
    for a, b in zip((log_px, labels, r), before):
        assert_array_equal(a[near], b[near])


@kind_
@T_
def test_a_draw_begins_at_the_mean_of_the_component_that_u_chooses(k, kind, T):
    p = Holed(kind, 3, 4, 400, T)
    X = p.X.astype(float)
    r, E = mixture_e_step(X, p.pi, p.mu, p.dense)[1], mixture_filled(X, p.mu, p.dense)[0]
    u = rng(1).random(400)
    chosen = (r.cumsum(1) < u[:, None]).sum(1)
    sure = np.abs(r.cumsum(1) - u[:, None]).min(1) > 1e-3
    got = p.impute(k, u=u, eps=np.zeros((400, 4)))
    assert_allclose(got[sure], E[np.arange(400), chosen][sure], atol=100 * TOL[T])
    assert_array_equal(got[~np.isnan(X)], p.X[~np.isnan(X)])


@kind_
@T_
def test_draws_are_linear_in_eps_and_have_the_conditional_covariance(k, kind, T):
    """With eps one unit vector after the other: the steps A from the mean make A'A = C."""
    D = 5
    p = Holed(kind, 1, D, 40, T)
    C = mixture_filled(p.X.astype(float), p.mu, p.dense)[1][:, 0]
    for x, want in zip(p.X, C):
        X = np.repeat(x[None], D, axis=0)
        steps = p.impute(k, X=X, u=np.full(D, 0.5), eps=np.eye(D)) - p.impute(k, X=X).astype(float)
        assert_allclose(steps.T @ steps, want, atol=TOL[T] * 10)
    u, eps = np.full(40, 0.5), rng(1).standard_normal((40, D))
    near, far = (p.impute(k, u=u, eps=f * eps).astype(float) - p.impute(k) for f in (1, 3))
    assert_allclose(far, 3 * near, atol=TOL[T] * 10)


@T_
def test_squared_distances_of_rows_with_gaps_are_means_over_what_was_observed(k, T):
    X, Z, s = holed(rng(1).standard_normal((300, 5)).astype(T)), rng(2).standard_normal((4, 5)).astype(T), np.ones(5, T)
    d2 = np.full((4, 300), np.nan, T)
    k.mixture.squared_distances(X, Z, s, d2)
    square, o = (X[None].astype(float) - Z[:, None]) ** 2, (~np.isnan(X)).sum(1)
    want = np.where(o > 0, np.nansum(square, axis=2) * 5 / np.maximum(o, 1), 0)
    assert_allclose(d2, want, rtol=20 * np.finfo(T).eps)


# ------------------------------------------------------------------------------------------------ EM step and bound
@type_
@pytest.mark.parametrize("weighted", [False, True])
def test_one_em_step_is_that_of_the_reference(k, kind, weighted):
    p = Holed(kind, 4, 5, 300)
    w = p.w if weighted else None
    objective = p.objective(k, w)
    start = objective.params(p.pi, p.mu, p.Sigma)
    s = objective.statistics(start)
    got, of_kind = objective.maximise(s), p.Sigma[:, 0] if kind == "spherical" else p.Sigma
    pi, mu, Sigma = mixture_gaps_em_step(kind, p.X, w, p.pi, p.mu, of_kind, p.R)
    assert_allclose(got.pi, pi, rtol=1e-11)
    assert_allclose(got.mu, mu, rtol=1e-10, atol=1e-11)
    assert_allclose(got.Sigma[:, 0] if kind == "spherical" else got.Sigma, Sigma, rtol=1e-10, atol=1e-12)
    assert_allclose(s.bound, mixture_bound(p.X, w, p.pi, p.mu, p.dense, p.R), rtol=1e-12)


@type_
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_the_m_step_ends_where_the_gradient_of_the_bound_is_zero(k, kind, reg):
    p = Holed(kind, 2, 3, 40, reg=reg)
    objective = p.objective(k, p.w)
    new = objective.maximise(objective.statistics(objective.params(p.pi, p.mu, p.Sigma)))
    q = mixture_e_step(p.X, p.pi, p.mu, p.dense, p.R)[1], *mixture_filled(p.X, p.mu, p.dense)
    bound = lambda v: mixture_gaps_expected_bound(p.X, p.w, q, *unpacked(kind, v, 2, 3), p.R)
    at = packed(kind, new.pi, new.mu, new.Sigma)
    assert_allclose(gradient(bound, at), 0, atol=1e-8)
    assert_allclose(bound(packed(kind, p.pi, p.mu, p.Sigma)), mixture_bound(p.X, p.w, p.pi, p.mu, p.dense, p.R))
    for _ in range(5):  # and it is a maximum, not a saddle
        assert bound(at + 0.01 * rng(1).standard_normal(at.size)) < bound(at)


# ------------------------------------------------------------------------------------------------ fit
def by_hand(kind, K, D, seed=3):
    """weights, means and covariances to begin at, and the arguments that say so."""
    p = Problem(kind, K, D, 1, seed=seed)
    Sigma = p.Sigma[:, 0] if kind == "spherical" else p.Sigma
    Q = np.linalg.inv(Sigma) if kind in ("full", "tied") else 1 / Sigma
    return (p.pi, p.mu, Sigma), {"weights_init": p.pi, "means_init": p.mu, "precisions_init": Q}


def of_model(model):
    """weights, means and matrices, as the reference wants them."""
    return model.weights_, model.means_, covariances(model)


@type_
@pytest.mark.parametrize("reg", [0, 1e-3, 0.1])
def test_the_bound_never_falls(kind, reg):
    sets = [holed(load_faithful()), holed(load_iris(), part=0.2), holed(clouds(200, 2, 4, apart=1.5), part=0.6)]
    for X in sets:
        for seed in range(2):
            try:
                model = fit(X, 3, kind, seed=seed, reg_covar=reg, max_iter=60, tol=0)
            except NumericalError:
                assert reg == 0
                continue
            b = np.array(model.lower_bounds_)
            assert len(b) >= 50 or reg == 0
            assert (np.diff(b) >= -1e-12 * (1 + np.abs(b[1:]))).all(), np.diff(b).min()


@type_
@pytest.mark.parametrize("reg", [0, 1e-3, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_step_and_its_bound_are_those_of_the_reference(kind, reg, weighted):
    X = holed(clouds(150, apart=1.5))
    w = np.where(rng(1).random(150) < 0.2, 0, rng(2).gamma(1.0, size=150)) if weighted else None
    (pi, mu, Sigma), start = by_hand(kind, 3, 3)
    model = fit(X, 3, kind, weight=w, reg_covar=reg, max_iter=6, tol=0, **start)
    R = model.reg_covar_
    assert (R > 0).all() == (reg > 0)
    for i in range(6):
        pi, mu, Sigma = mixture_gaps_em_step(kind, X, w, pi, mu, Sigma, R)
        bound = mixture_bound(X, w, pi, mu, dense(kind, Sigma, 3, 3), R)
        assert_allclose(model.lower_bounds_[i], bound, rtol=1e-11)
    assert_allclose(model.weights_, pi, rtol=1e-9)
    assert_allclose(model.means_, mu, rtol=1e-9, atol=1e-10)
    assert_allclose(model.covariances_, Sigma, rtol=1e-8, atol=1e-11)
    assert model.lower_bound_ == model.lower_bounds_[-1]


def test_one_gaussian_with_a_column_that_stops_is_two_regressions():
    """Anderson 1957: where x1 is always there and x2 not, the maximum of the likelihood has a closed form."""
    r = rng(4)
    x1 = r.normal(3, 2, size=400)
    x2 = 1 - 0.8 * x1 + r.normal(size=400)
    seen = r.random(400) < 1 / (1 + np.exp(3 - x1))  # by what was observed: x2 alone would mislead
    model = fit(np.c_[x1, np.where(seen, x2, np.nan)], 1, reg_covar=0, tol=1e-14, max_iter=10_000)
    b = np.cov(x1[seen], x2[seen], bias=True)
    slope = b[0, 1] / b[0, 0]
    mean = x2[seen].mean() + slope * (x1.mean() - x1[seen].mean())
    v = np.var(x1)
    Sigma = [[v, slope * v], [slope * v, b[1, 1] - slope * b[0, 1] + slope**2 * v]]
    assert_allclose(model.means_[0], [x1.mean(), mean], rtol=1e-6)
    assert_allclose(model.covariances_[0], Sigma, rtol=1e-6)
    assert abs(np.mean(x2[seen]) - mean) > 0.5


@type_
def test_a_mixture_is_recovered_from_rows_of_which_a_third_was_lost(kind):
    r, labels = rng(1), np.arange(20_000) % 4 == 0
    noise = r.standard_normal((20_000, 3)) @ (np.linalg.cholesky([[1, 0.7, 0], [0.7, 1, 0], [0, 0, 1]]).T)
    noise = noise if kind in ("full", "tied") else r.standard_normal((20_000, 3))
    X = np.where(labels[:, None], 2.5, -1.0) + noise
    X[r.random(X.shape) < 1 / 3] = np.nan
    model = fit(X, 2, kind)
    assert model.converged_
    order = model.means_[:, 0].argsort()
    assert_allclose(model.weights_[order], [0.75, 0.25], atol=0.01)
    assert_allclose(model.means_[order], [[-1] * 3, [2.5] * 3], atol=0.06)
    assert_allclose(covariances(model)[order], [np.cov(noise.T)] * 2, atol=0.08)


@type_
@start_
def test_rows_of_gaps_alone_do_not_count(kind, start):
    X = holed(clouds(150), part=0.3)
    some = ~np.isnan(X).all(1)
    w = rng(1).gamma(1.0, size=150)
    for weight in (None, w):
        options = {"init_params": start, "max_iter": 15, "tol": 0}
        with_them = fit(X, 3, kind, weight=weight, **options)
        without = fit(X[some], 3, kind, weight=None if weight is None else w[some], **options)
        assert_same_fit(with_them, without)
        assert_allclose(with_them.n_samples_seen_, some.sum() if weight is None else w[some].sum())
    with pytest.raises(ValueError, match=r"n_components = 4, n_samples = 3 .*all NaN"):
        fit(np.r_[clouds(3), np.full((5, 3), np.nan)], 4, kind)


def test_a_column_that_was_never_observed_is_refused_and_the_model_stays_as_it_was():
    X = clouds()
    model = GaussianMixture(2, random_state=0).fit(X)
    before = state(model)
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"[Cc]olumn 1 .*(observed|NaN)"):
        model.fit(X)
    X[0, 1] = 1.0
    with pytest.raises(ValueError, match=r"[Cc]olumn 1 .*(observed|NaN)"):  # but for a row that does not count
        model.fit(X, sample_weight=np.arange(300) > 0)
    with pytest.raises(ValueError, match=r"(observed|NaN)"):
        model.fit(np.full((30, 3), np.nan))
    X[3, 2] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        model.fit(X)
    assert_same_state(state(model), before)


@type_
def test_a_gap_that_weighs_nothing_changes_nothing(kind):
    """The way for rows with gaps and the plain one lead to the same fit, up to rounding."""
    X, w = clouds(200, apart=1.5), np.ones(201)
    w[-1] = 1e-15
    with_gap = np.r_[X, [[np.nan, 0.0, np.nan]]]
    assert_same_fit(fit(X, 3, kind, max_iter=30, tol=0), fit(with_gap, 3, kind, weight=w, max_iter=30, tol=0))
    w[-1] = 0
    a, b = fit(X, 3, kind, max_iter=30, tol=0), fit(with_gap, 3, kind, weight=w, max_iter=30, tol=0)
    assert_same_fit(a, b)


@type_
@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, (1e-6, 1.0, 1e5)])
def test_other_units_give_the_same_fit(kind, scale):
    if kind == "spherical" and np.ndim(scale):
        pytest.skip("one variance for columns in different units is another model")
    X = holed(clouds(apart=1.5), part=0.3)
    want, got = fit(X, 3, kind), fit(X * scale, 3, kind)
    assert_array_equal(got.predict(X * scale), want.predict(X))
    logs = (np.log(np.broadcast_to(scale, 3)) * ~np.isnan(X)).sum(1)
    assert_allclose(got.score_samples(X * scale) + logs, want.score_samples(X), atol=1e-6)
    assert_allclose(got.impute(X * scale) / scale, want.impute(X), rtol=1e-5, atol=1e-5)
    assert got.n_iter_ == want.n_iter_


@type_
@pytest.mark.parametrize("offset", [1e4, -1e8])
def test_an_offset_gives_the_same_fit(kind, offset):
    X = np.round(holed(clouds(apart=1.5), part=0.3) * 2**16) / 2**16
    want, got = fit(X, 3, kind), fit(X + offset, 3, kind)
    assert_array_equal(got.predict(X + offset), want.predict(X))
    assert_allclose(got.score_samples(X + offset), want.score_samples(X), atol=1e-5)
    assert_allclose(got.covariances_, want.covariances_, rtol=1e-5, atol=1e-6)
    assert_allclose(got.impute(X + offset) - offset, want.impute(X), atol=1e-5)


@type_
def test_float32_is_fitted_in_float32_and_close(kind):
    X = holed(clouds(apart=2.0), part=0.3).astype(np.float32)
    _, start = by_hand(kind, 3, 3)
    model, exact = (fit(x, 3, kind, max_iter=10, tol=0, **start) for x in (X, X.astype(float)))
    assert model.means_.dtype == model.predict_proba(X).dtype == model.impute(X).dtype == np.float32
    assert_allclose(model.lower_bounds_, exact.lower_bounds_, atol=1e-4)
    assert_allclose(model.means_, exact.means_, atol=1e-2)
    assert_allclose(model.impute(X), exact.impute(X.astype(float)), atol=2e-2)


@type_
@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_the_callers_data_are_not_written_to(kind, T):
    X = holed(clouds(), part=0.3).astype(T)
    before = X.tobytes()
    model = fit(X, 2, kind, max_iter=3)
    for answer in (model.predict, model.predict_proba, model.score_samples, model.score, model.bic, model.aic):
        answer(X)
    for answer in (model.icl, model.impute, model.score_gradient, model.partial_fit):
        answer(X)
    model.impute(X, n_draws=2)
    model.condition(X[1])
    assert X.tobytes() == before
    X.setflags(write=False)
    fit(X, 2, kind, max_iter=3).impute(X)


@type_
def test_the_same_bits_for_any_number_of_threads(kind):
    X, found = holed(clouds(9000), part=0.3), []
    for threads in (1, 2, 8):
        lvm.set_num_threads(threads)
        model = fit(X, 3, kind, max_iter=5)
        found.append((state(model), model.predict_proba(X), model.impute(X), model.impute(X, n_draws=1)))
    lvm.set_num_threads(None)
    for other in found[1:]:
        assert_same_state(other[0], found[0][0])
        for a, b in zip(other[1:], found[0][1:]):
            assert_array_equal(a, b)


@property_
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.lists(st.integers(0, 7), min_size=12, max_size=40), st.sampled_from(TYPES), st.integers(1, 3))
def test_any_pattern_of_gaps(patterns, kind, K):
    gaps = (np.array(patterns)[:, None] >> np.arange(3) & 1).astype(bool)
    X = np.where(gaps, np.nan, clouds(len(gaps)))
    if gaps.all(0).any():
        with pytest.raises(ValueError, match="observed"):
            fit(X, K, kind)
    else:
        assert_fits_or_says_why(X, K, kind)


@type_
def test_a_constant_column_and_one_seen_once(kind):
    X = holed(clouds(), part=0.3)
    X[:, 1] = np.where(np.isnan(X[:, 1]), np.nan, 7.0)
    model = fit(X, 2, kind)
    assert_whole(model, X)
    if kind != "spherical":
        assert_allclose(model.means_[:, 1], 7, rtol=1e-12)
        with pytest.raises(NumericalError, match="Column 1 of X is constant"):
            fit(X, 2, kind, reg_covar=0)
    X[:, 1] = np.nan
    X[2, 1] = -3.0
    assert_whole(fit(X, 2, kind), X)


def test_a_fit_goes_on_from_the_last_one():
    X = holed(clouds(apart=1.5), part=0.3)
    whole, model = (
        fit(X, 3, max_iter=20, tol=0),
        GaussianMixture(3, max_iter=10, tol=0, warm_start=True, random_state=0),
    )
    with unsettled():
        model.fit(X).fit(X)
    assert_allclose(model.lower_bound_, whole.lower_bound_, rtol=1e-12)
    assert_allclose(model.means_, whole.means_, rtol=1e-9)


# ------------------------------------------------------------------------------------------------ answers
@type_
def test_answers_are_those_of_the_reference(kind):
    X = holed(clouds(), part=0.3)
    model = fit(X, 3, kind, max_iter=20)
    w = rng(1).gamma(1.0, size=300)
    log_px, r = mixture_e_step(X, *of_model(model))
    assert_allclose(model.score_samples(X), log_px, rtol=1e-11, atol=1e-11)
    assert_allclose(model.predict_proba(X), r, atol=1e-11)
    assert_array_equal(model.predict(X), model.predict_proba(X).argmax(1))
    lost = np.isnan(X).all(1)  # what says nothing counts in no mean
    assert_allclose(model.score(X), log_px[~lost].mean(), rtol=1e-12)
    assert_allclose(model.score(X, sample_weight=w), np.average(log_px[~lost], weights=w[~lost]), rtol=1e-12)
    assert_array_equal(model.score_samples(X)[lost], 0)
    assert_allclose(model.predict_proba(X)[lost], [model.weights_] * lost.sum(), rtol=1e-13)
    assert_allclose(model.impute(X), mixture_impute(X, *of_model(model)), rtol=1e-10, atol=1e-11)


@type_
def test_log_p_of_a_row_with_a_gap_is_the_integral_over_it(kind):
    model = fit(clouds(D=2, apart=1.0), 3, kind)
    grid = np.linspace(-40, 40, 20_001)
    for x in (-1.0, 0.0, 2.5):
        for columns in ([0, 1], [1, 0]):
            p = np.exp(model.score_samples(np.c_[np.full(grid.size, x), grid][:, columns]))
            row = np.array([[x, np.nan]])[:, columns]
            assert_allclose(model.score_samples(row)[0], np.log(p.sum() * (grid[1] - grid[0])), rtol=1e-9)
            mean = (p @ grid) / p.sum()
            assert_allclose(model.impute(row)[0][np.isnan(row[0])], mean, rtol=1e-9, atol=1e-9)


@type_
@pytest.mark.parametrize("T", [np.float32, np.float64])
def test_impute_keeps_every_bit_of_what_was_observed(kind, T):
    X = holed(clouds(), part=0.3).astype(T)
    model = fit(X, 3, kind, max_iter=10)
    seen = ~np.isnan(X)
    for filled in (model.impute(X), *model.impute(X, n_draws=3)):
        assert filled.dtype == T
        assert filled.shape == X.shape
        assert_array_equal(filled[seen], X[seen])
        assert np.isfinite(filled).all()
    assert model.impute(X, n_draws=3).shape == (3, *X.shape)
    whole = np.where(seen, X, T(1))
    assert_array_equal(model.impute(whole), whole)
    assert not np.shares_memory(model.impute(whole), whole)
    assert_array_equal(model.impute(whole, n_draws=2), [whole] * 2)
    assert_allclose(model.impute(np.full((2, 3), np.nan, T)), [model.weights_ @ model.means_] * 2, rtol=1e-5)


@type_
def test_draws_have_the_mean_and_covariance_of_what_was_lost(kind):
    model = fit(clouds(apart=1.0), 3, kind, max_iter=10)
    X = np.array([[0.5, np.nan, np.nan], [np.nan, -1.0, np.nan], [np.nan, np.nan, 0.1], [np.nan] * 3])
    draws = model.impute(np.tile(X, (250, 1)), n_draws=80).reshape(20_000, 4, 3)
    for n, x in enumerate(X):
        pi, mu, Sigma = mixture_conditional(x, *of_model(model))
        mean, got = pi @ mu, draws[:, n][:, np.isnan(x)]
        cov = np.einsum("k,kij->ij", pi, Sigma + (mu - mean)[:, :, None] * (mu - mean)[:, None, :])
        z = (got - mean) @ np.linalg.inv(np.linalg.cholesky(cov)).T
        assert_allclose(z.mean(0), 0, atol=5 / np.sqrt(20_000))
        assert_allclose(z.T @ z / 20_000, np.eye(len(mean)), atol=10 / np.sqrt(20_000))
        third = pi @ ((mu - mean) ** 3 + 3 * (mu - mean) * np.diagonal(Sigma, axis1=1, axis2=2))
        noise = 5 * np.sqrt(15 / 20_000) * np.diag(cov) ** 1.5  # third moments tell a mixture from one Gaussian
        assert (np.abs(((got - mean) ** 3).mean(0) - third) < noise).all()


@type_
def test_draws_differ_between_rows_and_draws_and_repeat_with_their_seed(kind):
    X = np.full((50, 3), np.nan)
    X[:, 0] = 0.5
    model = fit(clouds(apart=1.0), 3, kind, max_iter=10)
    draws = model.impute(X, n_draws=4)
    assert len(np.unique(draws[:, :, 1])) == 200
    assert_array_equal(model.impute(X, n_draws=4), draws)
    assert (model.set_params(random_state=1).impute(X, n_draws=4)[..., 1] != draws[..., 1]).all()
    fresh = model.set_params(random_state=np.random.default_rng(7))
    assert (fresh.impute(X, n_draws=4)[..., 1] != fresh.impute(X, n_draws=4)[..., 1]).all()
    flat = draws[..., 1:].reshape(-1, 2)
    halves = np.corrcoef(draws[0, :, 1], draws[1, :, 1])[0, 1]
    assert abs(halves) < 0.5
    assert len(np.unique(flat)) == flat.size


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True, "2"])
def test_a_number_of_draws_that_is_none_is_refused(n_draws):
    model = fit(clouds(), 2, max_iter=3)
    with pytest.raises((ValueError, TypeError), match="n_draws"):
        model.impute(clouds(), n_draws=n_draws)


# ------------------------------------------------------------------------------------------------ parts
@type_
def test_condition_is_the_conditional_of_the_dense_formulas(kind):
    D = 5
    model = fit(clouds(400, D, apart=1.0), 3, kind, max_iter=10)
    for seed in range(12):
        x = rng(seed).standard_normal(D)
        m = rng(seed).permutation(D)[: 1 + seed % (D - 1)]
        x[m] = np.nan
        part, (pi, mu, Sigma) = model.condition(x), mixture_conditional(x, *of_model(model))
        assert isinstance(part, GaussianMixture)
        assert (part.covariance_type, len(part.weights_), part.n_features_in_) == (kind, 3, len(m))
        assert_allclose(part.weights_, pi, rtol=1e-10, atol=1e-12)
        assert_allclose(part.means_, mu, rtol=1e-10, atol=1e-11)
        assert_allclose(covariances(part), Sigma, rtol=1e-10, atol=1e-12)
        assert_allclose(part.weights_ @ part.means_, model.impute(x[None])[0, np.isnan(x)], rtol=1e-10, atol=1e-11)
        assert_whole_part(part)


def assert_whole_part(part):
    """Its attributes agree with each other, and it answers."""
    K, D = part.means_.shape
    S, Q = covariances(part), dense(part.covariance_type, part.precisions_, K, D)
    assert_allclose(S @ Q, [np.eye(D)] * K, atol=1e-9)
    Z = part.sample(50)[0]
    assert Z.shape == (50, D)
    assert np.isfinite(part.score_samples(Z)).all()
    assert_allclose(part.score_samples(Z), mixture_e_step(Z, *of_model(part))[0], rtol=1e-10)
    assert part.n_components == K


@type_
def test_condition_of_nothing_known_is_the_mixture_and_of_everything_known_is_refused(kind):
    model = fit(clouds(), 3, kind, max_iter=10)
    same = model.condition(np.full(3, np.nan))
    assert same is not model
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        assert_allclose(getattr(same, name), getattr(model, name), rtol=1e-12)
        assert not np.shares_memory(getattr(same, name), getattr(model, name))
    with pytest.raises(ValueError, match="NaN at the"):
        model.condition(np.zeros(3))
    for wrong in (np.zeros((1, 3)), [np.nan, 1.0], [np.nan, 1, 2, 3], [np.nan, np.inf, 0]):
        with pytest.raises(ValueError, match=r"shape|features|infinity"):
            model.condition(wrong)


@type_
def test_conditions_far_from_everything_and_between_scales_are_finite(kind):
    X = clouds(300, apart=1.0) * ([1e-6, 1, 1e6] if kind != "spherical" else 1)
    model = fit(X, 3, kind, max_iter=10)
    for far in (1e3, 1e10, 1e100):
        part = model.condition([np.nan, far, np.nan])
        assert np.isfinite(part.means_).all()
        assert_allclose(part.weights_.sum(), 1)
        assert np.isfinite(model.impute([[np.nan, far, np.nan]])).all()


@type_
def test_marginal_has_the_columns_in_the_order_given(kind):
    model = fit(clouds(300, 5, apart=1.0), 3, kind, max_iter=10)
    for columns in ([0], [4, 1], [2, 0, 3], range(5), np.array([1, 3]), [np.int64(4)]):
        part = model.marginal(columns)
        pi, mu, Sigma = mixture_marginal(list(columns), *of_model(model))
        assert_allclose(part.weights_, pi, rtol=1e-14)
        assert_allclose(part.means_, mu, rtol=1e-14)
        assert_allclose(covariances(part), Sigma, rtol=1e-13)
        assert part.covariance_type == kind
        assert_whole_part(part)


@type_
def test_marginal_scores_as_rows_with_gaps_in_the_other_columns(kind):
    X = clouds(300, 5, apart=1.0)
    model = fit(X, 3, kind, max_iter=10)
    for columns in ([0], [4, 1], [2, 0, 3]):
        some = np.full_like(X, np.nan)
        some[:, columns] = X[:, columns]
        part = model.marginal(columns)
        assert_allclose(part.score_samples(X[:, columns]), model.score_samples(some), rtol=1e-10, atol=1e-10)
        assert_allclose(part.predict_proba(X[:, columns]), model.predict_proba(some), atol=1e-10)


@type_
def test_the_joint_is_the_marginal_times_the_conditional(kind):
    X = clouds(40, 4, apart=1.0)
    model = fit(clouds(300, 4, apart=1.0), 3, kind, max_iter=10)
    marginal = model.marginal([2, 0])
    for x, log_px in zip(X, model.score_samples(X)):
        conditional = model.condition([x[0], np.nan, x[2], np.nan])
        parts = marginal.score_samples(x[None, [2, 0]]) + conditional.score_samples(x[None, [1, 3]])
        assert_allclose(parts, log_px, rtol=1e-10, atol=1e-10)
    twice = model.condition([0.3, np.nan, np.nan, np.nan]).condition([np.nan, -0.2, np.nan])
    once = model.condition([0.3, np.nan, -0.2, np.nan])
    assert_allclose(twice.weights_, once.weights_, rtol=1e-10)
    assert_allclose(twice.means_, once.means_, rtol=1e-10, atol=1e-11)
    assert_allclose(twice.covariances_, once.covariances_, rtol=1e-10, atol=1e-12)
    other = model.marginal([3, 1, 0]).marginal([2, 0])
    assert_allclose(other.covariances_, model.marginal([0, 3]).covariances_, rtol=1e-13)


def test_names_of_columns_are_kept():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(clouds(300, 3, apart=1.0), columns=["a", "b", "c"]).mask(holed(clouds(300, 3)) > 3)
    X.iloc[5, 1] = None
    model = fit(X, 2, max_iter=10)
    part = model.marginal(["c", "a"])
    assert list(part.feature_names_in_) == ["c", "a"]
    assert_allclose(part.means_, model.means_[:, [2, 0]])
    assert np.isfinite(part.score_samples(X[["c", "a"]])).all()
    assert_allclose(model.marginal([2, "a"]).means_, part.means_)
    given_b = model.condition([np.nan, 0.5, np.nan])
    assert list(given_b.feature_names_in_) == ["a", "c"]
    assert_allclose(model.condition(X.iloc[5]).means_.shape, (2, 1))
    with pytest.raises(ValueError, match=r"columns must be .*got \['d'\]"):
        model.marginal(["d"])


@pytest.mark.parametrize("columns", [[], [3], [-1], [0, 0], ["a"], [0.5], [True, False, True], None])
def test_columns_that_are_none_are_refused(columns):
    model = fit(clouds(), 2, max_iter=3)
    with pytest.raises((ValueError, TypeError), match="columns"):
        model.marginal(columns)


@type_
def test_parts_can_be_saved_and_do_not_depend_on_the_whole(kind, tmp_path):
    model = fit(clouds(), 3, kind, max_iter=10)
    for part in (model.marginal([2, 0]), model.condition([np.nan, 0.5, np.nan])):
        part.save(tmp_path / "part.lvm")
        again = lvm.load(tmp_path / "part.lvm")
        Z = part.sample(9)[0]
        assert_array_equal(again.score_samples(Z), part.score_samples(Z))
        before = state(part)
        model.means_ += 1
        model.means_ -= 1
        assert_same_state(state(part), before)
        with unsettled():
            part.fit(clouds(D=2))  # a part is a mixture like any other


def test_what_does_not_converge_on_gaps_says_so():
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        GaussianMixture(3, max_iter=2, random_state=0).fit(holed(clouds(apart=1.0), part=0.3))


# ------------------------------------------------------------------------------------------------ degenerate components
def test_a_component_that_gaps_and_regularisation_keep_up_is_degenerate_and_loses():
    """With a part s of it observed, a collapsed direction comes to rest at R/s, not R."""
    X = load_iris()
    X.flat[::5] = np.nan
    found = select_mixture(X, range(1, 7), ["full"], random_state=0)
    assert (found.best.n_components, found.best.degenerate_) == (2, False)
    spikes = found.table["degenerate"]
    assert found.table["bic"][spikes].min() < found.table["bic"][0]  # so their BIC means nothing
    assert not spikes[: len(spikes) - spikes.sum()].any()


def test_without_regularisation_a_gradual_collapse_is_noticed():
    r = rng(0)
    A = r.standard_normal((20, 2))
    B = np.column_stack([10 + r.standard_normal(20), np.where(np.arange(20) % 2, np.nan, 5.0)])
    with pytest.warns(RuntimeWarning, match="collapsed"), pytest.raises(NumericalError, match="collapsed again"):
        GaussianMixture(2, reg_covar=0, random_state=0, max_iter=5000).fit(np.concatenate([A, B]))
