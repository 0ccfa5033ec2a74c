"""One flat vector of parameters with named views: what Adam steps, and what a checkpoint holds."""

import math
from typing import Any

import numpy as np

ALIGN = 16  # elements: each view begins at a multiple, where vector loads and cuBLAS are at their fastest


class Parameters:
    """The parameters of a model on the kernel set k, and what training keeps with them.

    shapes: {name: shape}, in the order in which they lie in the flat vectors; dtype: float32 or float64.

    theta, g (P,)       all parameters and the gradient to go down; both are 0 at first
    views, gradients    {name: array}: parts of theta and g in the shapes given. Memory stays where it is for good.
    m, v (P,)           Adam's means of g and g²
    counter (1,)        int64, the number of the step: it keys the noise of a step, and each step counts it up
    counters, control   see `descend` of the kernels

    Between the parts of theta there may be elements that belong to none; they are and stay 0.

    >>> import lvm, numpy as np
    >>> p = Parameters(lvm.kernels.load("cpu"), {"W": (2, 3), "b": (2,)}, np.float64)
    >>> p.assign({"W": np.ones((2, 3)), "b": [4.0, 5.0]})
    >>> p.views["b"] *= 2
    >>> p.get()["b"].tolist(), p.where(1)
    ([8.0, 10.0], 'W')
    """

    def __init__(self, k: Any, shapes: dict[str, tuple[int, ...]], dtype: Any) -> None:
        self.k, self.shapes, self.dtype = k, {name: tuple(shape) for name, shape in shapes.items()}, np.dtype(dtype)
        self._parts: dict[str, slice] = {}
        end = 0
        for name, shape in self.shapes.items():
            start = -(-end // ALIGN) * ALIGN
            end = start + math.prod(shape)
            self._parts[name] = slice(start, end)
        P = -(-end // ALIGN) * ALIGN
        self._memory = k.put(np.zeros(3 * P, self.dtype))  # side by side: one copy brings all to the host
        self.theta, self.m, self.v = (self._memory[i * P : (i + 1) * P] for i in range(3))
        self.g = k.put(np.zeros(P, self.dtype))
        self.counters, self.control = k.adam.memory(self.dtype)
        self.counter = self.counters[:1]
        self.views = {name: self.theta[part].reshape(self.shapes[name]) for name, part in self._parts.items()}
        self.gradients = {name: self.g[part].reshape(self.shapes[name]) for name, part in self._parts.items()}

    def descend(self, rate, period, clip, beta1, beta2, epsilon) -> None:
        """One guarded step of Adam down g: `descend` of the kernels. Nothing is read back."""
        memory = self.theta, self.g, self.m, self.v, self.counters, self.control
        self.k.adam.descend(*memory, rate, period, clip, beta1, beta2, epsilon)

    def assign(self, values: dict[str, Any]) -> None:
        """Set some parameters, or all, by name. ValueError for a shape that is not theirs."""
        theta = np.array(self.k.get(self.theta))
        for name, value in values.items():
            x = np.asarray(value, self.dtype)
            if x.shape != self.shapes[name]:
                raise ValueError(f"{name} must have the shape {self.shapes[name]}, got {x.shape}.")
            theta[self._parts[name]] = x.reshape(-1)
        self.k.adam.assign(self.theta, theta)

    def get(self) -> dict[str, np.ndarray]:
        """The parameters by name: copies, in NumPy."""
        theta = np.array(self.k.get(self.theta))
        return {name: theta[part].reshape(self.shapes[name]) for name, part in self._parts.items()}

    def where(self, i: int) -> str:
        """The name of the parameter that element i of theta belongs to, for messages."""
        return next(name for name, part in self._parts.items() if i < part.stop)

    def state(self) -> dict[str, np.ndarray]:
        """All that the next steps depend on: copies, in NumPy."""
        theta, m, v = np.split(np.array(self.k.get(self._memory)), 3)
        return {"theta": theta, "m": m, "v": v} | {
            name: np.array(self.k.get(a)) for name, a in (("counters", self.counters), ("control", self.control))
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go back to what `state` gave, also where that was another kernel set."""
        assign = self.k.adam.assign
        assign(self._memory, np.concatenate([state["theta"], state["m"], state["v"]]))
        assign(self.counters, state["counters"])
        assign(self.control, state["control"])
