"""Adam: the CPU's step against a slow one, CUDA's against the CPU's."""

import mpmath
import numpy as np
import pytest
from conftest import GPU

import lvm
from lvm import kernels
from lvm.kernels.cpu import adam as cpu_adam
from lvm.kernels.cuda import adam as cuda_adam
from lvm.kernels.shared.adam import one_less_power

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
SETTINGS = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def start(T, n, seed=0):
    """theta, g, m, v"""
    rng = np.random.default_rng(seed)
    return [x.astype(T) for x in (rng.normal(size=n), rng.normal(size=n), rng.normal(size=n), rng.random(n))]


def slow(theta, g, m, v, t, rate, beta1, beta2, epsilon):
    """Algorithm 1 of Kingma & Ba as it is printed, in float64."""
    theta, g, m, v = (x.astype(np.float64) for x in (theta, g, m, v))
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return theta - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon), m, v


def on_device(cuda_set, arrays, steps_taken, rate, settings):
    """theta, m, v after a step."""
    theta, g, m, v = map(cuda_set.put, arrays)
    rate = cuda_set.put(rate) if isinstance(rate, np.ndarray) else rate
    cuda_set.adam.adam(theta, g, m, v, cuda_set.put(np.array([steps_taken])), rate, **settings)
    np.testing.assert_array_equal(cuda_set.get(g), arrays[1])
    return [cuda_set.get(x) for x in (theta, m, v)]


@T_
@pytest.mark.parametrize("steps_taken", [0, 1, 50, 10**6 - 1, 2**40])
def test_a_step_is_that_of_the_paper(T, steps_taken):
    theta, g, m, v = start(T, 1000)
    want = slow(theta, g, m, v, steps_taken + 1, 0.1, **SETTINGS)
    cpu_adam.adam(theta, g, m, v, np.array([steps_taken]), 0.1, **SETTINGS)
    eps = np.finfo(T).eps
    for got, exact in zip((theta, m, v), want):
        assert got.dtype == T
        np.testing.assert_allclose(got, exact, rtol=16 * eps, atol=16 * eps * abs(exact).max())


@T_
def test_the_correction_of_the_bias_is_exact_for_any_number_of_steps(T):
    """1 - beta^t for the beta that is meant: its logarithm is rounded, and nothing else that matters."""
    mp = mpmath.mp.clone()
    mp.dps = 40
    for beta in (0.5, 0.9, 0.999, 0.99999):
        for t in (1, 2, 10, 1000, 10**6):
            want = -mp.expm1(t * mp.log(mp.mpf(beta)))
            got = one_less_power(T(t), T(np.log(beta)))
            assert type(got) is T
            assert abs(float(got) - want) < 3 * np.finfo(T).eps * want, (beta, t)
    assert one_less_power(T(3), T(-np.inf)) == 1
    assert one_less_power(T(0), T(-1)) == 0


@T_
def test_many_steps_stay_with_the_paper_and_find_the_minimum(T):
    target = np.array([1.0, -2, 3], T)
    theta, m, v = (np.zeros(3, T) for _ in range(3))
    exact, step = [np.zeros(3) for _ in range(3)], np.zeros(1, np.int64)
    for t in range(1, 301):
        g = theta - target
        exact = slow(exact[0], g, *exact[1:], t, 0.1, **SETTINGS)
        cpu_adam.adam(theta, g, m, v, step, 0.1, **SETTINGS)
        cpu_adam.tick(step)
        np.testing.assert_allclose(theta, exact[0], rtol=0, atol=100 * t * np.finfo(T).eps)
    assert step == 300
    np.testing.assert_allclose(theta, target, atol=1e-2)


def test_threads_do_not_change_a_bit():
    results = []
    try:
        for threads in (1, 3):
            lvm.set_num_threads(threads)
            theta, g, m, v = start(np.float32, 2 * cpu_adam.BLOCK + 77)
            cpu_adam.adam(theta, g, m, v, np.array([4]), 0.1, **SETTINGS)
            results.append([theta, m, v])
    finally:
        lvm.set_num_threads(None)
    np.testing.assert_array_equal(*results)


@T_
@pytest.mark.parametrize("steps_taken", [0, 10**6 - 1])
def test_the_twins_agree_to_rounding(cuda_set, T, steps_taken):
    eps = np.finfo(T).eps
    for n in (0, 1, 255, 600):
        theta, g, m, v = start(T, n)
        for rate in (0.1, np.array([0.1], T)):
            got = on_device(cuda_set, (theta, g, m, v), steps_taken, rate, SETTINGS)
            want = theta.copy(), m.copy(), v.copy()
            cpu_adam.adam(want[0], g, *want[1:], np.array([steps_taken]), rate, **SETTINGS)
            for x, y in zip(got, want):
                assert x.dtype == T
                np.testing.assert_allclose(x, y, rtol=8 * eps, atol=8 * eps)


@T_
def test_no_memory_at_all_is_the_sign_of_the_gradient(cuda_set, T):
    """beta1 = beta2 = 0: theta - rate g / |g|."""
    settings = {"beta1": 0, "beta2": 0, "epsilon": 0}
    theta, g, _, _ = start(T, 9)
    got, m, v = on_device(cuda_set, (theta, g, np.zeros(9, T), np.zeros(9, T)), 3, 0.5, settings)
    np.testing.assert_allclose(got, theta - T(0.5) * np.sign(g), rtol=1e-6)
    np.testing.assert_allclose(m, g, rtol=1e-6)
    np.testing.assert_allclose(v, g * g, rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_counter_counts(device, order):
    k = kernels.load(device)
    step = k.put(np.array([41]))
    k.adam.tick(step)
    assert k.get(step).tolist() == [42]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_does_not_fit_is_refused(device, order):
    k = kernels.load(device)
    x = k.put(np.ones(4))
    step = k.put(np.zeros(1, np.int64))
    adam = lambda theta=x, g=x, step=step, rate=0.1, beta1=0.9: k.adam.adam(theta, g, x, x, step, rate, beta1, 0.99, 0)
    with pytest.raises(ValueError, match=r"g must be a flat vector as long as theta, 4, got \(3,\)\."):
        adam(g=k.put(np.ones(3)))
    with pytest.raises(ValueError, match=r"theta must be a flat vector as long as theta, 4, got \(2, 2\)\."):
        adam(theta=k.put(np.ones((2, 2))))
    with pytest.raises(TypeError, match=r"g must have the dtype of theta, float64, got float32\."):
        adam(g=k.put(np.ones(4, np.float32)))
    with pytest.raises(ValueError, match=r"step must be an int64 array \(1,\)"):
        adam(step=3)
    with pytest.raises(TypeError, match=r"rate must be a number or an array \(1,\) of float64, got float32\."):
        adam(rate=k.put(np.ones(1, np.float32)))
    with pytest.raises(ValueError, match=r"beta1 must be at least 0 and less than 1, got 1\."):
        adam(beta1=1)
    whole = k.put(np.ones(4, np.int64))
    with pytest.raises(TypeError, match="takes float32 or float64 arrays, got int64"):
        k.adam.adam(whole, whole, whole, whole, step, 1, 0.9, 0.99, 0)


# ------------------------------------------------------------------------------------------------ the guarded step
RATE = {"rate": 0.1, "period": 0, "clip": np.inf} | SETTINGS
BOTH = pytest.mark.parametrize("device", ["cpu", "cuda"])


class Guarded:
    """theta, g, m, v and what a guarded step keeps, on a kernel set; the numbers in NumPy."""

    def __init__(self, device, T, n, seed=0):
        self.k = kernels.load(device)
        theta, g, m, v = start(T, n, seed)
        self.vectors = [self.k.put(x.copy()) for x in (theta, g, 0 * m, 0 * v)]
        self.memory = self.k.adam.memory(T)

    def step(self, g=None, **changed):
        """theta, m, v after one more step."""
        if g is not None:
            self.k.adam.assign(self.vectors[1], g)
        self.k.adam.descend(*self.vectors, *self.memory, **(RATE | changed))
        return [np.array(self.k.get(self.vectors[i])) for i in (0, 2, 3)]

    def counters(self):
        return self.k.get(self.memory[0]).tolist()

    def shrunk(self):
        return self.k.get(self.memory[1])[0]


@T_
def test_a_guarded_step_of_a_good_gradient_is_adams_to_the_bit(T):
    n = cpu_adam.BLOCK + 9
    guarded, (theta, g, _, _) = Guarded("cpu", T, n), start(T, n)
    m, v, step = np.zeros(n, T), np.zeros(n, T), np.zeros(1, np.int64)
    for t in range(1, 4):
        found = guarded.step()
        cpu_adam.adam(theta, g, m, v, step, 0.1, **SETTINGS)
        cpu_adam.tick(step)
        for got, want in zip(found, (theta, m, v)):
            np.testing.assert_array_equal(got, want)
        assert guarded.counters() == [t, t, 0, 0]


@T_
def test_guarded_twins_agree_to_rounding(order, T):
    eps = np.finfo(T).eps
    for n in (0, 1, 255, 600):
        runs = [Guarded(device, T, n) for device in ("cuda", "cpu")]
        norm = np.sqrt(np.sum(start(T, n)[1] ** 2))
        for changed in ({}, {"clip": 0.5 * norm}, {"period": 7}):
            for got, want in zip(*(run.step(**changed) for run in runs)):
                assert got.dtype == T
                np.testing.assert_allclose(got, want, rtol=16 * eps, atol=16 * eps)
        assert runs[0].counters() == runs[1].counters()


@BOTH
@T_
def test_a_long_gradient_is_shortened_and_a_short_one_is_not(device, T, order):
    _, g, _, _ = start(T, 300)
    norm = np.linalg.norm(g.astype(float))
    for clip, scale in ((norm / 4, 0.25), (norm * 1.01, 1), (np.inf, 1)):
        _, m, v = Guarded(device, T, 300).step(clip=clip)
        np.testing.assert_allclose(m, 0.1 * scale * g, rtol=1e-5)
        np.testing.assert_allclose(v, 0.001 * (scale * g) ** 2, rtol=1e-4)


def test_all_of_a_gradient_counts_where_it_has_more_elements_than_the_grid(order, monkeypatch):
    """With two blocks for the norm; on a device their number is compiled in."""
    n = 5 * cuda_adam.THREADS + 3
    if GPU:
        n = (cuda_adam.N_PARTS + 1) * cuda_adam.THREADS
    else:
        monkeypatch.setattr(cuda_adam, "N_PARTS", 2)
    g = start(np.float64, n)[1]
    for i in (0, n // 2, n - 1):  # one element has nearly all of the norm
        long = g.copy()
        long[i] = 1e6
        _, m, _ = Guarded("cuda", np.float64, n).step(long, clip=1.0)
        np.testing.assert_allclose(m, 0.1 * long / np.linalg.norm(long), rtol=1e-12)


def test_threads_do_not_change_a_bit_of_a_clipped_step():
    results, n = [], 2 * cpu_adam.BLOCK + 77
    try:
        for threads in (1, 3):
            lvm.set_num_threads(threads)
            results.append(Guarded("cpu", np.float32, n).step(clip=1.0))
    finally:
        lvm.set_num_threads(None)
    np.testing.assert_array_equal(*results)
    g = start(np.float32, n)[1].astype(float)
    np.testing.assert_allclose(results[0][1], 0.1 * g / np.linalg.norm(g), rtol=2e-5)


@BOTH
@pytest.mark.parametrize(("T", "bad"), [(np.float32, 1e20), (np.float32, np.nan), (np.float64, -np.inf)])
def test_a_bad_step_goes_back_half_of_the_way_and_halves_the_rate(device, T, bad, order):
    """And the next goes back half of the rest. 1e20 is finite, and its square is not."""
    run = Guarded(device, T, 300)
    good = start(T, 300)[1]
    poisoned = good.copy()
    poisoned[211] = bad
    a, _, _ = run.step()
    b, m, v = run.step(start(T, 300, 1)[1])
    for n in (1, 2, 3):
        now, *moments = run.step(poisoned)
        np.testing.assert_allclose(now, a + (b - a) / 2**n, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(moments, [m, v])
        assert run.counters() == [2 + n, 2, n, n]
        assert run.shrunk() == 0.5**n
    after, *moments = run.step(good)
    want = slow(now, good, m, v, 3, 0.1 / 8, **SETTINGS)
    for got, exact in zip((after, *moments), want):
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
    assert run.counters() == [6, 3, 0, 3]


@BOTH
def test_a_first_step_that_is_bad_moves_nothing(device, order):
    run = Guarded(device, np.float64, 5)
    theta, m, v = run.step(np.full(5, np.nan), epsilon=0.1)
    np.testing.assert_array_equal(theta, start(np.float64, 5)[0])
    assert not m.any()
    assert not v.any()
    assert run.counters() == [1, 0, 1, 1]


@BOTH
@T_
def test_the_rate_falls_along_a_cosine_and_stays_at_zero(device, T, order):
    """beta1 = beta2 = 0: a step is rate times the sign of g."""
    run, period = Guarded(device, T, 3), 4
    before = run.k.get(run.vectors[0]).copy()
    for t in range(6):
        after, _, _ = run.step(np.ones(3, T), period=period, beta1=0, beta2=0)
        rate = 0.1 * (1 + np.cos(np.pi * min(t / period, 1))) / 2
        np.testing.assert_allclose(before - after, rate, rtol=1e-5, atol=4 * np.finfo(T).eps)
        before = after


@BOTH
def test_what_does_not_fit_a_guarded_step_is_refused(device, order):
    run = Guarded(device, np.float32, 4)
    counters, control = run.memory
    run.memory = counters[:1], control
    with pytest.raises(ValueError, match=r"counters must be an int64 array \(4,\), got int64 \(1,\)\."):
        run.step()
    run.memory = counters, run.k.put(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"control must be an array \(134,\) of float32, got float32 \(3,\)\."):
        run.step()
    run.memory, run.vectors[1] = (counters, control), run.k.put(np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"g must be a flat vector as long as theta, 4, got \(3,\)\."):
        run.step()


@BOTH
def test_assigned_values_are_seen_through_views(device, order):
    k = kernels.load(device)
    x = k.put(np.zeros(6, np.float32))
    view = x[2:4]
    k.adam.assign(x, np.arange(6))
    assert k.get(view).tolist() == [2, 3]
    k.adam.assign(view, np.array([7, 8]))
    assert k.get(x).tolist() == [0, 1, 7, 8, 4, 5]
