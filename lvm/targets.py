"""Unnormalised densities to fit a flow to, with their gradients by hand.

A target is any callable that gives (log pi (M,), gradient (M,D)) for z (M,D); log pi may lack a constant. These are

    U1, U2, U3, U4    the energies of Rezende & Mohamed 2015, table 1, in two dimensions: log pi = -U
    ring              log pi = -((|z| - 2)/0.4)²/2, in any number of dimensions

U2 to U4 have no normaliser on the plane (a fit drifts away along z_1), so that they come with a soft wall,
-((|z_i| - 4)/0.4)²/2 where |z_i| > 4. kernels/shared/flow.py has the formulas.

>>> import numpy as np
>>> from lvm import targets
>>> log_pi, gradient = targets.U2(np.array([[0.5, 0.5]]))
>>> log_pi.round(4), gradient.round(4)
(array([-0.134]), array([[-1.4377,  1.2944]]))
"""

import numpy as np

from . import kernels

__all__ = ["U1", "U2", "U3", "U4", "Energy", "ring"]


class Energy:
    """One of the targets of this module: `target(z)` gives log pi (M,) and its gradient (M,D) for z (M,D).

    float32 stays float32, all else is float64. log_z is log of the integral of pi, in nats, or None where that depends
    on D. D is the number of dimensions, or None for any. Raises ValueError for z of another shape."""

    def __init__(self, name: str, D: int | None, log_z: float | None) -> None:
        self.name, self.D, self.log_z = name, D, log_z

    def __call__(self, z) -> tuple[np.ndarray, np.ndarray]:
        z = np.asarray(z)
        z = np.asarray(z, np.float32 if z.dtype == np.float32 else np.float64, order="C")
        if z.ndim != 2 or z.shape[1] != (self.D or z.shape[1]):
            raise ValueError(f"{self!r} wants z of the shape (M,{self.D or 'D'}), got {z.shape}.")
        log_pi, gradient = np.empty(len(z), z.dtype), np.empty_like(z)
        flow = kernels.load("cpu").flow
        flow.energies(flow.ENDS.index(self.name), z, log_pi, gradient)
        return log_pi, gradient

    def __repr__(self):
        return f"lvm.targets.{self.name}"

    def __reduce__(self):
        return self.name


# log Z by quadrature on a fine grid, which a test repeats
U1 = Energy("U1", 2, 1.87750163)
U2 = Energy("U2", 2, 2.20016693)
U3 = Energy("U3", 2, 2.75978271)
U4 = Energy("U4", 2, 2.82408550)
ring = Energy("ring", None, None)
