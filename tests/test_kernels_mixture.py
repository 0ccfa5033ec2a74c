"""Mixture kernels against tests/reference.py, and the promises of their docstrings; the checker of gradients itself."""

import numpy as np
import pytest
from gradcheck import check_rev, complex_step, gradient, richardson
from numpy.testing import assert_allclose, assert_array_equal
from reference import (
    dense,
    mixture_bound,
    mixture_e_step,
    mixture_em_step,
    mixture_expected_bound,
    mixture_factors,
    mixture_gaps_statistics,
    mixture_m_step,
    mixture_statistics,
)
from scipy.special import softmax

import lvm
from lvm.objectives.mixture import Collapsed, Mixture, Statistics

KINDS = ("full", "tied", "diag")  # to the kernels a spherical mixture is a diagonal one
TYPES = (*KINDS, "spherical")
SIZES = (1, 2, 127, 128, 129, 255, 256, 257, 600)  # around a tile, and around the least block
kind_ = pytest.mark.parametrize("kind", KINDS)
type_ = pytest.mark.parametrize("kind", TYPES)
T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
D_ = pytest.mark.parametrize("D", [*range(1, 10), 17])
KD_ = pytest.mark.parametrize(("K", "D"), [(3, 5), (4, 4), (1, 1)])  # K = D: tied and diag arrays look alike
TOL = {np.float32: 2e-5, np.float64: 1e-13}


def rng(seed=0):
    return np.random.default_rng(seed)


class Problem:
    """A mixture of well-shaped components, rows X from it, weights w with a third of them zero."""

    gaps = False

    def __init__(self, kind, K, D, N, T=np.float64, seed=0, reg=0.1):
        r = rng([seed, K, D, N])
        A = r.standard_normal((K, D, D))
        matrices = A @ np.swapaxes(A, 1, 2) / D + 0.5 * np.eye(D)
        self.kind, self.K, self.D, self.T = kind, K, D, T
        self.pi, self.mu = r.dirichlet(np.full(K, 5.0)), 2 * r.standard_normal((K, D)).astype(T).astype(float)
        self.Sigma = {
            "full": matrices,
            "tied": matrices[0],
            "diag": np.diagonal(matrices, axis1=1, axis2=2).copy(),
            "spherical": np.repeat(matrices[:, 0, :1], D, axis=1),
        }[kind]
        self.R = reg * r.random(D)
        labels = r.integers(K, size=N)
        self.X = (self.mu[labels] + 1.5 * r.standard_normal((N, D))).astype(T)
        self.w = np.where(r.random(N) < 1 / 3, 0, r.gamma(2.0, size=N)) if N > 2 else np.array([0.5, 2.0])[:N]

    @property
    def dense(self):
        return dense("diag" if self.kind == "spherical" else self.kind, self.Sigma, self.K, self.D)

    def factors(self, R=None):
        """P and c in T."""
        kind = "diag" if self.kind == "spherical" else self.kind
        P, c = mixture_factors(kind, self.pi, self.Sigma, self.R if R is None else R)
        return P.astype(self.T), c.astype(self.T)

    def objective(self, k, w=None):
        return Mixture(k, self.kind, k.put(self.X), k.put(np.empty(0) if w is None else w), self.R, self.gaps)

    def params(self, k):
        return self.objective(k).params(self.pi, self.mu, self.Sigma)

    def statistics(self, k, X=None, w=None, gaps=None):
        P, c = self.factors()
        S = np.full(self.K + self.K * self.D + self.Sigma.size + 1, np.nan)
        X, w, gaps = self.X if X is None else X, np.empty(0) if w is None else w, self.gaps if gaps is None else gaps
        X, w, mu, P, c, S = map(k.put, (X, w, self.mu.astype(self.T), P, c, S))
        kernel(k, "statistics", self.kind)(X, w, mu, P, c, S, k.mixture.gaps(X) if gaps else None)
        return k.get(S)

    def posterior(self, k, X=None, log_px=True, labels=True, r=True, gaps=None):
        X = self.X if X is None else X
        P, c = self.factors(R=np.zeros(self.D))
        out = (
            np.full(len(X) if log_px else 0, np.nan, self.T),
            np.full(len(X) if labels else 0, -1),
            np.full((len(X), self.K) if r else (0, self.K), np.nan, self.T),
        )
        gaps = self.gaps if gaps is None else gaps
        X, mu, P, c, *out = map(k.put, (X, self.mu.astype(self.T), P, c, *out))
        kernel(k, "posterior", self.kind)(X, mu, P, c, *out, k.mixture.gaps(X) if gaps else None)
        return [k.get(a) for a in out]

    def reference(self, w=None, about=None):
        """The flat statistics by the reference, and the size of what was summed in each."""
        X = self.X.astype(float)
        l, r = mixture_e_step(X, self.pi, self.mu, self.dense, self.R)
        about = self.mu if about is None else about
        S = mixture_statistics(self.kind, X, w, r, about, l)
        K, D = self.mu.shape
        spread = np.abs(X[:, None] - about).max() + 1
        weight = len(X) if w is None else w.sum()
        size = np.concatenate([np.ones(K), np.full(K * D, spread), np.full(S.size - K - K * D - 1, spread**2)])
        return S, weight * np.append(size, 1 + np.abs(l).max())


def kernel(k, name, kind):
    return getattr(k.mixture, f"{name}_{'diag' if kind == 'spherical' else kind}")


def holed(X, seed=0, part=0.4):
    """X with gaps: of four rows one complete, one with a pattern that others share, two at random; one of 17 is NaN."""
    r, (N, D) = rng([seed, *X.shape]), X.shape
    gaps = r.random((N, D)) < part
    gaps[::4] = False
    gaps[1::4] = (r.random((3, D)) < part)[r.integers(3, size=len(gaps[1::4]))]
    gaps[5::17] = True
    return np.where(gaps, np.nan, X).astype(X.dtype)


class Holed(Problem):
    """A Problem whose rows have gaps."""

    gaps = True

    def __init__(self, kind, K, D, N, T=np.float64, seed=0, reg=0.1, part=0.4):
        super().__init__(kind, K, D, N, T, seed, reg)
        self.X = holed(self.X, seed, part)

    def impute(self, k, X=None, u=None, eps=None):
        X = self.X if X is None else X
        P, c = self.factors(R=np.zeros(self.D))
        out = np.full_like(X, np.nan)
        u, eps = (np.empty(0), np.empty((0, self.D))) if u is None else (u, eps)
        given = [k.put(a) for a in (X, self.mu.astype(self.T), P, c, u, eps, out)]
        kernel(k, "impute", self.kind)(*given)
        return k.get(given[-1])

    def reference(self, w=None):
        X = self.X.astype(float)
        S = mixture_gaps_statistics(self.kind, X, w, self.pi, self.mu, self.dense, self.R)
        K, D = self.mu.shape
        spread = np.nanmax(np.abs(X[:, None] - self.mu), initial=0) + 1
        weight = max(len(X) if w is None else w.sum(), 1)
        size = np.concatenate([np.ones(K), np.full(K * D, spread), np.full(S.size - K - K * D - 1, spread**2)])
        return S, weight * np.append(size, 10 * D)


with_or_without_gaps_ = pytest.mark.parametrize("of", [Problem, Holed])


# ------------------------------------------------------------------------------------------------ E step
@kind_
@T_
@D_
def test_statistics_match_the_reference(k, kind, T, D):
    for i, N in enumerate(SIZES):
        for K in {1, 2, 1 + (i + D) % 6}:
            p = Problem(kind, K, D, N, T)
            for w in (None, p.w):
                want, size = p.reference(w)
                assert_allclose(p.statistics(k, w=w) / size, want / size, rtol=0, atol=TOL[T], err_msg=f"{N=} {K=}")


@kind_
@T_
def test_statistics_of_several_blocks_match_the_reference(k, kind, T):
    p = Problem(kind, 3, 5, 3 * 8192 + 77, T)
    for w in (None, p.w):
        want, size = p.reference(w)
        assert_allclose(p.statistics(k, w=w) / size, want / size, rtol=0, atol=TOL[T])


@kind_
@T_
@D_
def test_posteriors_match_the_reference(k, kind, T, D):
    for i, N in enumerate(SIZES):
        for K in {1, 2, 1 + (i + D) % 6}:
            p = Problem(kind, K, D, N, T)
            want, want_r = mixture_e_step(p.X.astype(float), p.pi, p.mu, p.dense)
            log_px, labels, r = p.posterior(k)
            assert_allclose(log_px, want, rtol=10 * TOL[T], atol=50 * TOL[T])
            assert_allclose(r, want_r, rtol=0, atol=50 * TOL[T])
            assert_allclose(r.sum(1), 1, rtol=K * np.finfo(T).eps)
            assert_array_equal(labels, r.argmax(1))


@kind_
def test_an_answer_that_is_not_asked_for_is_skipped_and_changes_no_other(k, kind):
    p = Problem(kind, 3, 4, 300)
    whole = p.posterior(k)
    for i, name in enumerate(("log_px", "labels", "r")):
        alone = p.posterior(k, **{n: n == name for n in ("log_px", "labels", "r")})
        assert_array_equal(alone[i], whole[i])
        assert [a.size > 0 for a in alone] == [j == i for j in range(3)]


@kind_
@T_
def test_an_answer_depends_on_its_own_row_alone(k, kind, T):
    p = Problem(kind, 3, 5, 1000, T)
    whole = p.posterior(k)
    for some in (slice(0, 1), slice(3, 140), rng().permutation(1000)):
        for a, b in zip(p.posterior(k, X=np.ascontiguousarray(p.X[some])), whole):
            assert_array_equal(a, b[some])


@kind_
@T_
def test_bits_do_not_depend_on_threads_or_on_waves(k, kind, T, monkeypatch):
    p = Problem(kind, 3, 4, 20 * 128 + 5, T)
    with monkeypatch.context() as m:
        m.setattr(k.mixture, "_rows", lambda *_: 128)  # 21 blocks
        lvm.set_num_threads(1)
        want = p.statistics(k, w=p.w), *p.posterior(k)
        for threads in (1, 2, 8):
            for wave in (1, 2, 7, 64):
                lvm.set_num_threads(threads)
                m.setattr(k.mixture, "WAVE", wave)
                for a, b in zip((p.statistics(k, w=p.w), *p.posterior(k)), want):
                    assert_array_equal(a, b, err_msg=f"{threads=} {wave=}")
    lvm.set_num_threads(None)
    reference, size = p.reference(p.w)
    assert_allclose(want[0] / size, reference / size, rtol=0, atol=TOL[T])


def test_more_blocks_than_a_wave_holds(k):
    p = Problem("diag", 1, 1, 66 * 8192 + 3)
    want, size = p.reference()
    assert_allclose(p.statistics(k) / size, want / size, rtol=0, atol=1e-13)


@kind_
@T_
def test_read_only_and_mapped_rows_give_the_same_bits(k, kind, T, tmp_path):
    p = Problem(kind, 3, 4, 700, T)
    want = p.statistics(k, w=p.w), *p.posterior(k)
    np.save(tmp_path / "X.npy", p.X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    p.X.setflags(write=False)
    p.w.setflags(write=False)
    for X in (p.X, mapped):
        for a, b in zip((p.statistics(k, X=X, w=p.w), *p.posterior(k, X=X)), want):
            assert_array_equal(a, b)


@with_or_without_gaps_
@kind_
def test_a_weight_counts_rows_and_weight_zero_is_no_row(k, of, kind):
    p = of(kind, 3, 4, 400)
    counts = rng().integers(0, 4, size=400)
    one = p.statistics(k, w=counts.astype(float))
    assert_allclose(one, p.statistics(k, X=np.repeat(p.X, counts, axis=0)), rtol=1e-10, atol=1e-10)
    X = np.where(counts[:, None] > 0, p.X, 1e3)  # what stands in a row of weight zero does not matter
    assert_allclose(p.statistics(k, X=X, w=counts.astype(float)), one, rtol=1e-10, atol=1e-10)
    assert_array_equal(p.statistics(k, w=np.zeros(400)), 0)


@kind_
@T_
def test_rows_beyond_the_range_of_squares_are_improbable_never_nan(k, kind, T):
    p = Problem(kind, 3, 4, 200, T)
    before = p.posterior(k)
    X = p.X.copy()
    X[7], X[9, 2], X[11, 1], X[13] = 1e19, -1e30, np.finfo(T).max, np.finfo(T).min
    if T is np.float64:
        X[15], X[17, 0] = 1e200, -1e308
    log_px, labels, r = p.posterior(k, X=X)
    assert np.isfinite(log_px).all()
    assert (log_px[[7, 9, 11, 13]] < -1e35).all()
    assert ((labels >= 0) & (labels < 3)).all()
    assert_allclose(r.sum(1), 1, rtol=1e-6)
    near = (X == p.X).all(1)
    for a, b in zip((log_px, labels, r), before):
        assert_array_equal(a[near], b[near])


@kind_
@T_
def test_components_far_apart_lose_no_digits(k, kind, T):
    """Standard deviation 1 at a distance of 3000: raw second moments or |x|² - 2xm + |m|² would leave none."""
    p = Problem(kind, 3, 4, 600, T)
    shift = np.array([[-3000.0], [0.0], [3000.0]])
    labels = rng(1).integers(3, size=600)
    p.mu = np.round(p.mu) + shift
    p.X = (p.mu[labels] + rng(2).standard_normal((600, 4))).astype(T)
    log_px, got, _ = p.posterior(k)
    want, _ = mixture_e_step(p.X.astype(float), p.pi, p.mu, p.dense)
    tol = 5e-3 if T is np.float32 else 1e-10
    assert_allclose(log_px, want, rtol=tol)
    assert_array_equal(got, labels)
    new = p.objective(k).maximise(p.objective(k).statistics(p.params(k)))
    want = mixture_em_step(kind, p.X.astype(float), None, p.pi, p.mu, p.Sigma, p.R)
    assert_allclose(new.mu, want[1], atol=1e-3 if T is np.float32 else 1e-9)
    assert_allclose(new.Sigma, want[2], atol=2e-3 if T is np.float32 else 1e-9)


@with_or_without_gaps_
@kind_
def test_an_offset_of_1e8_changes_nothing(k, of, kind):
    p = of(kind, 3, 4, 600)
    p.mu, p.X = np.round(p.mu * 64) / 64, np.round(p.X * 64) / 64  # so that the offset adds without rounding
    want = p.statistics(k), *p.posterior(k)
    p.mu, p.X = p.mu + 2.0**27, p.X + 2.0**27
    for a, b in zip((p.statistics(k), *p.posterior(k)), want):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@with_or_without_gaps_
@kind_
@T_
def test_a_component_of_weight_zero_gets_no_row(k, of, kind, T):
    p = of(kind, 3, 4, 300, T)
    P, c = p.factors()
    c[1] = -np.inf
    p.factors = lambda R=None: (P, c)
    S = p.statistics(k, w=p.w)
    assert np.isfinite(S).all()
    assert_array_equal(S[[1, 3 + 4, 3 + 5, 3 + 6, 3 + 7]], 0)
    log_px, labels, r = p.posterior(k)
    assert_array_equal(r[:, 1], 0)
    assert not (labels == 1).any()
    assert np.isfinite(log_px).all()


# ------------------------------------------------------------------------------------------------ M step
@type_
@pytest.mark.parametrize("weighted", [False, True])
def test_the_m_step_is_weighted_means_and_variances(k, kind, weighted):
    for K, D, N in ((1, 1, 5), (2, 3, 50), (4, 9, 200), (6, 17, 600)):
        p = Problem(kind, K, D, N)
        w = p.w if weighted else None
        r = rng(1).dirichlet(np.full(K, 0.5), size=N)
        loops = "diag" if kind == "spherical" else kind
        S = Statistics(k, mixture_statistics(loops, p.X, w, r, p.mu, np.zeros(N)), p.mu, kind)
        got = Mixture(k, kind, p.X, np.empty(0), p.R).maximise(S)
        pi, mu, Sigma = mixture_m_step(kind, p.X, w, r, p.R)
        assert_allclose(got.pi, pi, rtol=1e-12)
        assert_allclose(got.mu, mu, rtol=1e-11, atol=1e-12)
        assert_allclose(got.Sigma, np.repeat(Sigma[:, None], D, 1) if kind == "spherical" else Sigma, rtol=1e-10)


@type_
def test_one_em_step_is_that_of_the_reference(k, kind):
    p = Problem(kind, 4, 5, 600)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    start = objective.params(p.pi, p.mu, p.Sigma)
    got = objective.maximise(objective.statistics(start))
    of_kind = p.Sigma[:, 0] if kind == "spherical" else p.Sigma
    pi, mu, Sigma = mixture_em_step(kind, p.X, p.w, p.pi, p.mu, of_kind, p.R)
    assert_allclose(got.pi, pi, rtol=1e-12)
    assert_allclose(got.mu, mu, rtol=1e-11, atol=1e-12)
    assert_allclose(got.Sigma[:, 0] if kind == "spherical" else got.Sigma, Sigma, rtol=1e-10, atol=1e-13)
    want = mixture_bound(p.X, p.w, p.pi, p.mu, p.dense, p.R)
    assert_allclose(objective.statistics(start).bound, want, rtol=1e-13)


@type_
@D_
def test_factors_undo_the_covariances(k, kind, D):
    """P_k Sigma_k P_k' = I and c_k as the kernels' docstring has it, from a start and from an M step."""
    for K in (1, 3, 6):
        p = Problem(kind, K, D, 100)
        objective = p.objective(k)
        start = p.params(k)
        for q in (start, objective.maximise(objective.statistics(start))):
            loops = "diag" if kind == "spherical" else kind
            P, S = dense(loops, q.P, K, D), dense(loops, q.Sigma, K, D)
            assert_array_equal(P, np.tril(P))
            assert_allclose(P @ S @ np.swapaxes(P, 1, 2), np.array([np.eye(D)] * K), atol=1e-11)
            assert_allclose(q.c, mixture_factors(loops, q.pi, q.Sigma, p.R)[1], rtol=1e-11, atol=1e-11)


@type_
def test_many_columns_give_the_same_bits_on_any_number_of_threads(k, kind):
    p = Problem(kind, 5, 40, 300)
    objective, found = p.objective(k), []
    for threads in (1, 2, 8):
        lvm.set_num_threads(threads)
        found.append(objective.maximise(objective.statistics(p.params(k))))
    lvm.set_num_threads(None)
    for other in found[1:]:
        for a, b in zip(other, found[0]):
            assert_array_equal(a, b)


@kind_
@T_
def test_bits_of_an_e_step_do_not_depend_on_where_arrays_lie_in_memory(k, kind, T):
    """A loop that reads the caller's arrays and writes is compiled twice, for arrays that may overlap and for others:
    it must not hold a sum, which the two would add up in another order."""
    p, r, held = Problem(kind, 3, 4, 700, T), rng(1), []
    P, c = p.factors()
    want = p.statistics(k, w=p.w)
    for i in range(2000):
        if i % 3 == 0:
            held.append(np.empty(r.integers(1, 3000)))  # so that other places are free next time
        if len(held) > 40:
            held.pop(r.integers(40))
        S = np.zeros(want.size)
        kernel(k, "statistics", kind)(p.X.copy(), p.w.copy(), p.mu.astype(T), P.copy(), c.copy(), S)
        assert_array_equal(S, want)


@type_
def test_bits_of_an_m_step_do_not_depend_on_where_arrays_lie_in_memory(k, kind):
    """As for the E step: no loop may take reciprocals in one of its two forms and divide in the other."""
    p = Problem(kind, 5, 40, 300)
    objective = p.objective(k)
    s = objective.statistics(p.params(k))
    want = objective.maximise(s)
    for seed in range(60):
        arrays, at = [s.S, s.mu, *objective.limits, *want], 0
        order, gap = rng(seed).permutation(len(arrays)), seed % 9
        memory, placed = np.zeros(sum(a.size + gap for a in arrays)), list(arrays)
        for i in order:
            placed[i] = memory[at : at + arrays[i].size].reshape(arrays[i].shape)
            at += arrays[i].size + gap
        for a, b in zip(placed[:4], arrays):
            a[...] = b
        getattr(k.mixture, f"maximise_{kind}")(*placed)
        for name, a, b in zip(want._fields, placed[4:], want):
            assert_array_equal(a, b, err_msg=name)


def maximised(k, kind, X, r, R):
    loops = "diag" if kind == "spherical" else kind
    about = X[: r.shape[1]].copy()
    S = mixture_statistics(loops, X, None, r, about, np.zeros(len(X)))
    objective = Mixture(k, kind, X, np.empty(0), R)
    return objective.sound(objective.maximise(Statistics(k, S, about, kind)))


@type_
@pytest.mark.parametrize("scale", [1e-120, 1e-6, 1.0, 1e6, 1e120])
def test_flat_components_have_collapsed_whatever_their_scale_and_stand_with_regularisation(k, kind, scale):
    X = scale * rng(1).standard_normal((30, 3))
    own = np.arange(30) % 3
    flat = own == 1 if kind != "tied" else own < 3
    X[flat] = {
        "full": np.outer(X[flat, 0], [1, 2, 3]),
        "diag": X[flat] * [1, 0, 1] + scale * np.array([0, 1.1, 0]),
    }.get(kind, np.outer(X[flat, 0], [1, 2, 3]) if kind == "tied" else X[flat][:1])
    with pytest.raises(Collapsed) as e:
        maximised(k, kind, X, np.eye(3)[own], np.zeros(3))
    assert_array_equal(e.value.components, [0, 1, 2] if kind == "tied" else [1])
    assert np.isfinite(e.value.params.mu).all()
    new = maximised(k, kind, X, np.eye(3)[own], np.full(3, 1e-6 * scale**2))
    assert_allclose(
        new.Sigma, maximised(k, kind, X / scale, np.eye(3)[own], np.full(3, 1e-6)).Sigma * scale**2, rtol=1e-9
    )


@type_
def test_a_component_that_no_row_wants_has_collapsed_and_keeps_its_mean(k, kind):
    X, r = rng(2).standard_normal((50, 4)), rng(1).dirichlet([1, 1, 1], size=50)
    r[:, 1] = 0
    with pytest.raises(Collapsed) as e:
        maximised(k, kind, X, r, np.ones(4))
    p = e.value.params
    assert_array_equal(e.value.components, [1])
    assert p.pi[1] == 0
    assert_array_equal(p.mu[1], X[1])
    want = mixture_m_step(kind, X, None, r[:, [0, 2]], np.ones(4))
    assert_allclose(p.mu[[0, 2]], want[1], rtol=1e-11, atol=1e-12)


@type_
def test_a_start_without_weight_for_a_component_has_collapsed(k, kind):
    p = Problem(kind, 3, 4, 9)
    p.pi = np.array([0.5, 0.0, 0.5])
    with pytest.raises(Collapsed) as e:
        p.params(k)
    assert_array_equal(e.value.components, [1])


@kind_
@T_
@KD_
def test_statistics_add_and_move_to_other_means_exactly(k, kind, T, K, D):
    p = Problem(kind, K, D, 600, T)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    params = objective.params(p.pi, p.mu, p.Sigma)
    whole = objective.statistics(params)
    parts = [
        Mixture(k, kind, p.X[a:b], p.w[a:b], p.R).statistics(params) for a, b in ((0, 100), (100, 357), (357, 600))
    ]
    other = p.mu + rng(1).standard_normal(p.mu.shape)
    want, size = p.reference(p.w, about=other)
    assert_allclose(whole.about(other).S / size, want / size, rtol=0, atol=TOL[T])
    assert_allclose(whole.about(other).about(p.mu).S, whole.S, rtol=1e-9, atol=1e-9)
    summed = parts[0] + (parts[1].about(other) + parts[2])  # each about means of its own
    assert_array_equal(summed.mu, p.mu)
    assert_allclose(summed.S / size, whole.S / size, rtol=0, atol=TOL[T])
    assert np.isnan(summed.bound)  # each was of other parameters, as far as a sum can know
    assert_allclose(k.mixture.bound(summed.S, params.c), whole.bound, rtol=10 * TOL[T])
    assert_allclose(summed.weight, p.w.sum(), rtol=TOL[T])


@type_
@KD_
def test_the_m_step_does_not_depend_on_where_statistics_were_taken(k, kind, K, D):
    p = Problem(kind, K, D, 600)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    s = objective.statistics(objective.params(p.pi, p.mu, p.Sigma))
    here, there = objective.maximise(s), objective.maximise(s.about(p.mu + 1.5))
    assert_allclose(there.pi, here.pi, rtol=1e-13)
    assert_allclose(there.mu, here.mu, rtol=1e-11, atol=1e-12)
    assert_allclose(there.Sigma, here.Sigma, rtol=1e-10, atol=1e-12)


def test_statistics_of_different_mixtures_do_not_add(k):
    def taken(kind, K):
        p = Problem(kind, K, 2, 9)
        objective = Mixture(k, kind, p.X, np.empty(0), p.R)
        return objective.statistics(objective.params(p.pi, p.mu, p.Sigma))

    with pytest.raises(
        ValueError, match=r"Statistics of different mixtures do not add: full \(3, 2\) and full \(2, 2\)"
    ):
        taken("full", 3) + taken("full", 2)


def test_two_kinds_of_statistics_of_one_shape_do_not_add(k):
    """tied and diag statistics have one shape when K = D, and yet they are not the same thing."""
    p = [Problem(kind, 2, 2, 9) for kind in ("tied", "diag")]
    objectives = [Mixture(k, q.kind, q.X, np.empty(0), q.R) for q in p]
    s = [o.statistics(o.params(q.pi, q.mu, q.Sigma)) for o, q in zip(objectives, p)]
    with pytest.raises(ValueError, match="do not add"):
        s[0] + s[1]


@type_
@KD_
def test_spread_within_groups_is_the_pooled_variance(k, kind, K, D):
    p = Problem(kind, K, D, 600)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    s = objective.statistics(objective.params(p.pi, p.mu, p.Sigma))
    r = mixture_e_step(p.X, p.pi, p.mu, p.dense, p.R)[1]
    _, mu, Sigma = mixture_m_step("tied", p.X, p.w, r, np.zeros(D))
    assert_allclose(s.means(), mu, rtol=1e-11, atol=1e-12)
    assert_allclose(s.within(), np.diag(Sigma), rtol=1e-11)


@type_
def test_a_variance_below_the_least_is_a_collapse(k, kind):
    """least (D,): of column d given the columns before it, which of diagonal covariances is the variance itself."""
    p = Problem(kind, 3, 4, 300)
    s = p.objective(k).statistics(p.params(k))
    sound = p.objective(k).maximise(s)
    P = sound.P.reshape(-1, *sound.P.shape[-2:]) if kind in ("full", "tied") else sound.P
    left = np.diagonal(P, axis1=1, axis2=2) ** -2 if kind in ("full", "tied") else P**-2  # (K,D) or (1,D)
    for d in range(4):
        least = np.zeros(4)
        for factor, collapsed in ((0.999, False), (1.001, True)):
            least[d] = factor * left[:, d].min()
            found = Mixture(k, kind, k.put(p.X), k.put(np.empty(0)), p.R, least=least).maximise(s)
            bad = left[:, d] < least[d] if kind != "tied" else np.full(3, collapsed)
            assert bad.any() == collapsed
            assert_array_equal(found.c == -np.inf, bad)
            assert_array_equal(found.c[~bad], sound.c[~bad])


def test_the_mean_bound_is_nan_where_a_component_has_collapsed(k):
    S, c = np.array([1.0, 3.0, 9.0, 9.0, -8.0]), np.zeros(2)
    assert k.mixture.bound(k.put(S), k.put(c)) == -2
    for bad in (-np.inf, np.nan):
        assert np.isnan(k.mixture.bound(k.put(S), k.put(np.array([0, bad]))))
    assert np.isnan(k.mixture.bound(k.put(np.zeros(5)), k.put(c)))  # no rows


# ------------------------------------------------------------------------------------------------ starts, samples
def test_samples_are_means_and_roots_times_noise(k):
    K, D, N = 3, 4, 100
    mu, A, d, z, eps = (rng(i).standard_normal(s) for i, s in enumerate(((K, D), (K, D, D), (K, 1, D), N, (N, D))))
    z = (z > 0).astype(int) * 2  # one component has no row
    for V, spread in ((A, np.einsum("nij,nj->ni", A[z], eps)), (A[:1], eps @ A[0].T), (d, eps * d[z, 0])):
        X = k.put(np.full((N, D), np.nan))
        k.mixture.sample(*map(k.put, (mu, V, z, eps)), X)
        assert_allclose(k.get(X), mu[z] + spread, rtol=1e-13, atol=1e-13)


@T_
def test_squared_distances(k, T):
    for N, D, L in ((1, 1, 1), (257, 3, 4), (9000, 17, 7)):
        r = rng(N)
        X, Z, s = (r.standard_normal(shape).astype(T) for shape in ((N, D), (L, D), D))
        d2 = np.full((L, N), np.nan, T)
        k.mixture.squared_distances(X, Z, s, d2)
        want = (((X[None].astype(float) - Z[:, None]) * s) ** 2).sum(2)
        assert_allclose(d2, want, rtol=20 * np.finfo(T).eps, atol=1e-30)


# ------------------------------------------------------------------------------------------------ gradients
def unpacked(kind, v, K, D):
    """pi, mu, Sigma (K,D,D) from free numbers: pi = softmax(eta), the rest as it is (a covariance made symmetric)."""
    shape = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[kind]
    eta, mu, Sigma = v[:K], v[K : K + K * D].reshape(K, D), v[K + K * D :].reshape(shape)
    if kind in ("full", "tied"):
        Sigma = (Sigma + np.swapaxes(Sigma, -1, -2)) / 2
    return softmax(eta), mu, dense(kind, Sigma, K, D)


def packed(kind, pi, mu, Sigma):
    return np.concatenate([np.log(pi), mu.ravel(), (Sigma[:, 0] if kind == "spherical" else Sigma).ravel()])


@type_
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_the_m_step_ends_where_the_gradient_of_the_bound_is_zero(k, kind, reg):
    p = Problem(kind, 3, 2, 80, reg=reg)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    start = objective.params(p.pi, p.mu, p.Sigma)
    new = objective.maximise(objective.statistics(start))
    r = mixture_e_step(p.X, p.pi, p.mu, p.dense, p.R)[1]
    bound = lambda v: mixture_expected_bound(p.X, p.w, r, *unpacked(kind, v, 3, 2), p.R)
    at = packed(kind, new.pi, new.mu, new.Sigma)
    assert_allclose(gradient(bound, at), 0, atol=1e-9)
    assert np.abs(gradient(bound, packed(kind, start.pi, start.mu, start.Sigma))).max() > 1e-2  # it had a way to go
    for _ in range(5):  # and it is a maximum, not a saddle
        assert bound(at + 0.01 * rng(1).standard_normal(at.size)) < bound(at)


@type_
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_after_an_e_step_the_bound_touches_the_likelihood(k, kind, reg):
    """Value and gradient are equal, and the kernels' statistics hold the gradient (Fisher's identity)."""
    K, D = 3, 2
    p = Problem(kind, K, D, 80, reg=reg)
    objective = Mixture(k, kind, p.X, p.w, p.R)
    s = objective.statistics(objective.params(p.pi, p.mu, p.Sigma))
    l = lambda v: mixture_bound(p.X, p.w, *unpacked(kind, v, K, D), p.R)
    r = mixture_e_step(p.X, p.pi, p.mu, p.dense, p.R)[1]
    bound = lambda v: mixture_expected_bound(p.X, p.w, r, *unpacked(kind, v, K, D), p.R)
    at = packed(kind, p.pi, p.mu, p.Sigma)
    assert_allclose(s.bound, l(at), rtol=1e-13)
    assert_allclose(bound(at), l(at), rtol=1e-13)
    slope = gradient(l, at)
    assert_allclose(gradient(bound, at), slope, atol=1e-9)
    S0, S1 = s.S[:K] / s.weight, s.S[K : K + K * D].reshape(K, D) / s.weight
    assert_allclose(slope[:K], S0 - p.pi, atol=1e-9)
    assert_allclose(slope[K : K + K * D].reshape(K, D), np.linalg.solve(p.dense, S1[..., None])[..., 0], atol=1e-9)
    if kind == "full":  # d/dSigma = Sigma^-1 (S2 + S0 R - S0 Sigma) Sigma^-1 / 2
        S2 = s.S[K + K * D : -1].reshape(K, D, D) / s.weight
        S2 = S2 + np.swapaxes(np.tril(S2, -1), 1, 2) + S0[:, None, None] * (np.diag(p.R) - p.Sigma)
        Q = np.linalg.inv(p.Sigma)
        assert_allclose(slope[K + K * D :].reshape(K, D, D), 0.5 * Q @ S2 @ Q, atol=1e-9)


# ------------------------------------------------------------------------------------------------ the checker itself
def test_differences_reach_eleven_and_sixteen_digits():
    f = lambda x: (np.exp(x[0]) * np.sin(x[1])).sum() if x.ndim == 2 else np.exp(x[0]) * np.sin(x[1])
    x = np.array([0.3, 0.8])
    want = np.exp(0.3) * np.array([np.sin(0.8), np.cos(0.8)])
    assert_allclose(gradient(f, x), want, rtol=1e-11)
    assert_allclose(complex_step(f, x), want, rtol=1e-15)
    assert_allclose(richardson(lambda t: np.exp(2 * t)), 2, rtol=1e-11)
    assert complex_step(lambda x: x**3, 2.0) == 12


def planar(z, w, b, scale):
    h = np.tanh(z @ w + b)
    return z + scale * h[:, None], 1 - h**2


def planar_rev(z, w, b, scale, bf, bl):
    h = np.tanh(z @ w + b)
    ba = (1 - h**2) * (scale * bf.sum(1) - 2 * h * bl)
    return bf + ba[:, None] * w, z.T @ ba, ba.sum(), None


def test_check_rev_passes_a_true_adjoint_and_names_a_false_one():
    r = rng()
    args = r.standard_normal((7, 3)), r.standard_normal(3), 0.4, 2
    check_rev(planar, planar_rev, args, rng(1))
    for i, name in enumerate("zwb"):

        def off(*a, i=i):
            good = list(planar_rev(*a))
            good[i] = good[i] * (1 + 1e-6)
            return tuple(good)

        with pytest.raises(AssertionError, match=f"off, d/d{name}: .* by hand"):
            check_rev(planar, off, args, rng(1))
    with pytest.raises(AssertionError, match=r"d/dw: \(1,\) for \(3,\)"):
        check_rev(planar, lambda *a: (planar_rev(*a)[0], np.zeros(1), 0.0, None), args, rng(1))
    with pytest.raises(AssertionError, match="gives 2 adjoints for 4 arguments"):
        check_rev(planar, lambda *a: planar_rev(*a)[:2], args, rng(1))
    one = r.standard_normal(5)  # one argument, one result
    check_rev(lambda x: np.sin(x), lambda x, b: b * np.cos(x), (one,), rng(2))
