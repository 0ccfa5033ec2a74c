"""What a layer does to each of its sums. One number in, one out; float32 or float64; NaN stays NaN."""

from .scalar import shared, sigmoid, softplus, tanh


@shared
def identity(x):
    """x"""
    return x


@shared
def relu(x):
    """max(x, 0).   Nair & Hinton 2010"""
    T = type(x)
    return T(0) if x < T(0) else x


@shared
def leaky_relu(x):
    """x, and 0.01 x where x < 0.   Maas, Hannun & Ng 2013"""
    T = type(x)
    return T(0.01) * x if x < T(0) else x


ACTIVATIONS = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
}


@shared
def activate(which, x):
    """f(x), f the activation at place `which` of ACTIVATIONS."""
    if which == 1:
        return relu(x)
    if which == 2:
        return leaky_relu(x)
    if which == 3:
        return tanh(x)
    if which == 4:
        return sigmoid(x)
    if which == 5:
        return softplus(x)
    return x
