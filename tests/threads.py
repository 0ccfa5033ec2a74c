"""Bits that may not depend on the number of threads: for the tests of every family's kernels."""

from numpy.testing import assert_array_equal

import lvm


def assert_same_on_threads(f):
    """f(), which gives a list of arrays, has the same bits on 1, 2 and 8 threads."""
    try:
        lvm.set_num_threads(1)
        want = f()
        for threads in (2, 8):
            lvm.set_num_threads(threads)
            for a, b in zip(f(), want):
                assert_array_equal(a, b)
    finally:
        lvm.set_num_threads(None)
