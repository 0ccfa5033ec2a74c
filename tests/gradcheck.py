"""Derivatives by differences, to hold hand-written gradients against: Richardson, complex step, and `check_rev`."""

import inspect
import itertools

import numpy as np


def richardson(f, eps=1e-3):
    """df/dt at t = 0 from central differences at eps, eps/2, eps/4: error O(eps^6), some 1e-11 relative in float64.

    Richardson 1911: with d(h) = (f(h) - f(-h)) / 2h,  (4 d(h/2) - d(h)) / 3 has no h² term, and so on."""
    d = [(f(h) - f(-h)) / (2 * h) for h in (eps, eps / 2, eps / 4)]
    for power in (4, 16):
        d = [(power * fine - coarse) / (power - 1) for coarse, fine in itertools.pairwise(d)]
    return d[0]


def gradient(f, x, eps=1e-3):
    """Gradient of the number f(x) in every entry of x, by `richardson`."""
    x = np.asarray(x, dtype=float)
    return _each(x, lambda e: richardson(lambda t: f(x + t * e), eps))


def complex_step(f, x, h=1e-30):
    """Gradient of f at x as Im f(x + ih) / h, exact to rounding (Squire & Trapp 1998).

    Only for analytic code: abs, max, comparisons and conjugates make it wrong."""
    x = np.asarray(x, dtype=float)
    return _each(x, lambda e: np.imag(f(x + 1j * h * e)) / h)


def _each(x, slope):
    g = np.empty(x.shape)
    for i in np.ndindex(*x.shape):
        e = np.zeros(x.shape)
        e[i] = 1
        g[i] = slope(e)
    return g


def check_rev(fwd, rev, args, rng, eps=1e-3, rtol=1e-9):
    """<bar, J v> by Richardson differences equals <rev(*args, *bars), v>, one argument at a time.

    `fwd` gives one array or a tuple of them; `rev` an adjoint for each argument, None for one that has no derivative.
    Raises AssertionError naming the argument whose adjoint is wrong."""
    outputs = lambda *a: out if isinstance(out := fwd(*a), tuple) else (out,)
    bars = [rng.standard_normal(np.shape(o)) for o in outputs(*args)]
    adjoints = rev(*args, *bars)
    adjoints = adjoints if isinstance(adjoints, tuple) else (adjoints,)
    assert len(adjoints) == len(args), f"{rev.__name__} gives {len(adjoints)} adjoints for {len(args)} arguments"
    for i, (name, g) in enumerate(zip(inspect.signature(fwd).parameters, adjoints)):
        if g is None:
            continue
        assert np.shape(g) == np.shape(args[i]), f"{rev.__name__}, d/d{name}: {np.shape(g)} for {np.shape(args[i])}"
        v = rng.standard_normal(np.shape(args[i]))
        along = lambda t, i=i, v=v: sum(
            np.vdot(b, o) for b, o in zip(bars, outputs(*args[:i], args[i] + t * v, *args[i + 1 :]))
        )
        want, got = richardson(along, eps), np.vdot(g, v)
        assert abs(got - want) <= rtol * max(1, abs(want)), f"{rev.__name__}, d/d{name}: {got:.9g} by hand, {want:.9g}"
