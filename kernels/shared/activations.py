"""What a layer does to each of its sums. One number in, one out; float32 or float64; NaN stays NaN."""

from .scalar import exp_terms, is_float32, power2, shared, sigmoid, softplus, tanh


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


@shared
def identity_slope(h):
    """1"""
    return type(h)(1)


@shared
def relu_slope(h):
    """1 where h > 0, else 0"""
    T = type(h)
    return T(1) if h > T(0) else T(0)


@shared
def leaky_relu_slope(h):
    """1 where h >= 0, else 0.01"""
    T = type(h)
    return T(0.01) if h < T(0) else T(1)


@shared
def tanh_slope(h):
    """1 - h², as (1 - h)(1 + h), which is as exact as h"""
    T = type(h)
    return (T(1) - h) * (T(1) + h)


@shared
def sigmoid_slope(h):
    """h (1 - h)"""
    return h * (type(h)(1) - h)


@shared
def softplus_slope(h):
    """1 - e^-h: the sigmoid of what h was made of, to full relative accuracy where h is small"""
    T = type(h)
    most = T(80) if is_float32(h) else T(700)
    k, r, t = exp_terms(-(most if h > most else h))
    p = power2(k)
    return (T(1) - p) - p * (r + t)


ACTIVATIONS = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
}
SLOPES = {  # of h = f(a), as functions of h
    "identity": identity_slope,
    "relu": relu_slope,
    "leaky_relu": leaky_relu_slope,
    "tanh": tanh_slope,
    "sigmoid": sigmoid_slope,
    "softplus": softplus_slope,
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


@shared
def slope(which, h):
    """f'(a) as a function of h = f(a), f the activation at place `which` of ACTIVATIONS."""
    if which == 1:
        return relu_slope(h)
    if which == 2:
        return leaky_relu_slope(h)
    if which == 3:
        return tanh_slope(h)
    if which == 4:
        return sigmoid_slope(h)
    if which == 5:
        return softplus_slope(h)
    return identity_slope(h)
