"""Philox and the noise made of it: known answers, the right distributions, the same numbers however asked for."""

import doctest
import math

import mpmath
import numba
import numpy as np
import pytest
from scipy import stats

import lvm
from lvm import kernels
from lvm.kernels.cpu import random
from lvm.kernels.shared import philox

T_ = pytest.mark.parametrize("T", [np.float32, np.float64])
fill_ = pytest.mark.parametrize("fill", [random.uniform, random.normal], ids=["uniform", "normal"])
ALL = 0xFFFFFFFF


def filled(fill, T, shape, seed=7, stream=1, step=2):
    out = np.full(shape, np.nan, T)
    fill(seed, stream, step, out)
    return out


def by_element(fill, T, n, seed, stream, step, first=0):
    """The slow way: each element from its own block, in plain Python."""
    f = getattr(philox, fill.__name__ + ("s32" if T is np.float32 else "s64"))
    width = 4 if T is np.float32 else 2
    return np.array([f(seed, stream, step, i // width)[i % width] for i in range(first, first + n)])


@numba.njit
def philox_njit(c0, c1, c2, c3, k0, k1):
    return philox.philox4x32(c0, c1, c2, c3, k0, k1)


@pytest.mark.parametrize("f", [philox.philox4x32, philox_njit], ids=["plain", "njit"])
@pytest.mark.parametrize(
    ("counter_and_key", "want"),
    [
        ([0] * 6, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ALL] * 6, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(f, counter_and_key, want):
    assert " ".join(f"{int(w):08x}" for w in f(*map(np.uint64, counter_and_key))) == want


def test_seed_stream_step_and_block_reach_the_counter_whole():
    """Each of the six words of counter and key is set by its own part of the arguments."""
    seed, block = 0x299F31D0A4093822, 0x85A308D3243F6A88
    want = philox.philox4x32(*map(np.uint64, (block & ALL, block >> 32, 5, 6, seed & ALL, seed >> 32)))
    assert philox.words(seed, 5, 6, block) == want
    assert numba.njit(lambda s, b: philox.words(s, 5, 6, b))(np.uint64(seed), np.uint64(block)) == want


def test_different_arguments_never_share_words():
    some = (0, 1, 2, 3, 2**31, ALL)
    long = (*some, 2**32, 2**33, 2**63, 2**64 - 1)
    keys = {(s, a, b, i) for s in (0, 1, 2**32, 2**64 - 1) for a in some for b in some for i in long}
    assert len({philox.words(*key) for key in keys}) == len(keys)


def test_uniforms_are_exact_and_open():
    zero, full = np.uint64(0), np.uint64(ALL)
    assert philox.uniform32(zero) == 2.0**-24
    assert philox.uniform32(full) == 1 - 2.0**-24
    assert philox.uniform64(zero, zero) == 2.0**-53
    assert philox.uniform64(full, full) == 1 - 2.0**-53
    assert philox.uniform64(np.uint64(0x80000000), zero) == 0.5 + 2.0**-53
    assert type(philox.uniform32(zero)) is np.float32
    assert type(philox.uniform64(zero, zero)) is np.float64


@T_
def test_normals_are_box_muller_to_rounding(T):
    mp = mpmath.mp.clone()
    mp.dps = 40
    for i in range(100):
        if T is np.float32:
            v, w, *_ = philox.words(3, 1, 4, i)
            got, u, v = philox.normals32(3, 1, 4, i), np.float32(v) / T(2**32) + T(2**-33), philox.uniform32(w)
        else:
            got, (u, v) = philox.normals64(3, 1, 4, i), philox.uniforms64(3, 1, 4, i)
        radius, angle = mp.sqrt(-2 * mp.log(float(u))), 2 * mp.pi * float(v)
        assert type(got[0]) is T
        assert abs(float(got[0]) - radius * mp.cos(angle)) < 3 * np.finfo(T).eps * radius
        assert abs(float(got[1]) - radius * mp.sin(angle)) < 3 * np.finfo(T).eps * radius


def test_the_rarest_words_give_finite_normals():
    zero, full = np.uint64(0), np.uint64(ALL)
    for v in (zero, full):
        for w in (zero, full):
            assert np.isfinite(philox.normal32(v, w)).all()
            assert np.isfinite(philox.box_muller(philox.uniform64(v, v), philox.uniform64(w, w))).all()
    assert abs(philox.normal32(zero, zero)[0]) == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)


@fill_
@T_
def test_arrays_hold_what_each_element_gives_alone(fill, T):
    """Every length near a block's, any shape, and far along: the last elements of a second thread block."""
    eps = 0 if fill is random.uniform else 4 * np.finfo(T).eps  # plain Python does not fuse a multiply and an add
    for shape in (0, 1, 2, 3, 4, 5, 7, (), (3, 5), (2, 3, 4)):
        got = filled(fill, T, shape)
        want = by_element(fill, T, got.size, 7, 1, 2).astype(T).reshape(shape)
        np.testing.assert_allclose(got, want, rtol=eps, atol=eps)
    n = 2 * random.BLOCK
    got = filled(fill, T, n + 3, seed=2**64 - 1, stream=ALL, step=ALL)
    want = by_element(fill, T, 13, 2**64 - 1, ALL, ALL, first=n - 10)
    np.testing.assert_allclose(got[-13:], want, rtol=eps, atol=eps)


@fill_
@T_
def test_threads_and_length_do_not_change_a_bit(fill, T):
    n = 2 * random.BLOCK + 4321
    try:
        lvm.set_num_threads(1)
        want = filled(fill, T, n)
        for threads in (2, 5):
            lvm.set_num_threads(threads)
            np.testing.assert_array_equal(filled(fill, T, n), want)
    finally:
        lvm.set_num_threads(None)
    for part in (n // 2, n // 2 + 1, 1001):
        np.testing.assert_array_equal(filled(fill, T, part), want[:part])


@T_
@pytest.mark.parametrize(
    ("fill", "law"), [(random.uniform, stats.uniform), (random.normal, stats.norm)], ids=["uniform", "normal"]
)
def test_numbers_have_their_distribution(fill, law, T):
    """Mean, variance, skewness, kurtosis within 4 standard errors; Kolmogorov-Smirnov; the tail's share."""
    n = 400_000
    x = filled(fill, T, n, seed=20240229).astype(np.float64)
    assert stats.kstest(x, law.cdf).pvalue > 1e-3
    z = (x - law.mean()) / law.std()
    moment = lambda k: law.moment(k) if fill is random.normal else 0 if k % 2 else 3 ** (k / 2) / (k + 1)
    for k in (1, 2, 3, 4):
        error = math.sqrt((moment(2 * k) - moment(k) ** 2) / n)
        assert abs((z**k).mean() - moment(k)) < 4 * error, k
    if fill is random.normal:
        share = 2 * law.sf(3.5)
        assert abs((abs(z) > 3.5).mean() - share) < 4 * math.sqrt(share / n)


@T_
def test_seeds_streams_steps_and_neighbours_are_uncorrelated(T):
    n = 100_000
    keys = [(7, 1, 2), (8, 1, 2), (7 + 2**32, 1, 2), (7, 2, 2), (7, 2, 1), (7, 1, 3)]
    rows = [filled(random.normal, T, n, *key).astype(np.float64) for key in keys]
    rows += [np.roll(rows[0], lag) for lag in (1, 2, 4)]
    for values in (np.array(rows), np.array(rows) ** 2):
        off = np.corrcoef(values) - np.eye(len(rows))
        assert abs(off).max() < 4.5 / math.sqrt(n)


@fill_
def test_out_and_the_numbers_are_checked(fill):
    out = np.empty(4)
    for name, value, bits in (("seed", -1, 64), ("seed", 2**64, 64), ("stream", 2**32, 32), ("step", -1, 32)):
        numbers = {"seed": 0, "stream": 0, "step": 0, name: value}
        with pytest.raises(ValueError, match=rf"{name} must be an integer from 0 to 2\*\*{bits} - 1, got {value}\."):
            fill(**numbers, out=out)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        fill(0.5, 0, 0, out)
    with pytest.raises(ValueError, match="out must be a writable C-contiguous array"):
        fill(0, 0, 0, np.empty((4, 4))[:, :2])
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be a writable C-contiguous array"):
        fill(0, 0, 0, out)
    with pytest.raises(TypeError, match="takes float32 or float64 arrays, got complex128"):
        fill(0, 0, 0, np.empty(4, complex))


def test_numpy_integers_serve_as_seeds():
    np.testing.assert_array_equal(
        filled(random.normal, np.float64, 9, np.uint64(2**63), np.int64(1), np.uint32(2)),
        filled(random.normal, np.float64, 9, 2**63, 1, 2),
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@fill_
@T_
def test_a_step_may_be_read_from_an_array(device, order, fill, T):
    k = kernels.load(device)
    for held, step in ((2, 2), (2**32 + 7, 7), (ALL, ALL)):
        got, want = k.empty(9, T), k.empty(9, T)
        getattr(k.random, fill.__name__)(7, 1, k.put(np.array([held])), got)
        getattr(k.random, fill.__name__)(7, 1, step, want)
        np.testing.assert_array_equal(k.get(got), k.get(want))


@fill_
@T_
def test_the_twins_give_the_same_numbers(cuda_set, fill, T):
    """Uniforms to the bit, normals to the rounding of a product and a sum, which only some devices fuse."""
    eps = 0 if fill is random.uniform else 4 * np.finfo(T).eps
    width = (4 if T is np.float32 else 2) * cuda_set.random.THREADS
    for shape in (0, 1, 2, 3, 5, (3, 5), width, width + 3):
        for key in ((7, 1, 2), (2**64 - 1, ALL, ALL)):
            out = cuda_set.empty(shape, T)
            getattr(cuda_set.random, fill.__name__)(*key, out)
            got = cuda_set.get(out)
            assert got.dtype == T
            np.testing.assert_allclose(got, filled(fill, T, shape, *key), rtol=eps, atol=eps)


def test_the_twins_refuse_the_same(cuda_set):
    fill, out = cuda_set.random.uniform, cuda_set.empty(4, np.float32)
    with pytest.raises(ValueError, match=r"step must be an integer from 0 to 2\*\*32 - 1, got -1\."):
        fill(0, 0, -1, out)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        fill(0, 0.5, 0, out)
    with pytest.raises(TypeError, match=r"step must be a number or an array \(1,\) of int64, got float64\."):
        fill(0, 0, cuda_set.put(np.ones(1)), out)
    with pytest.raises(ValueError, match="out must be a writable C-contiguous array"):
        fill(0, 0, 0, cuda_set.empty((4, 4), np.float32)[:, :2])
    with pytest.raises(TypeError, match="takes float32 or float64 arrays, got int64"):
        fill(0, 0, 0, cuda_set.empty(4, np.int64))


def test_docstring_examples_hold():
    tried = doctest.testmod(random)
    assert tried.attempted >= 8
    assert tried.failed == 0
