"""Layers of normalising flows, and energies in two dimensions: maths of one number or one sample, for both targets.

Planar, f(z) = z + û h(a), h = tanh, a = w'z + b (Rezende & Mohamed 2015, eq. 10-12). Along û nothing but a counts, and
there f is  c = a + m h(a)  with c = w'f + b and m = w'û: so f is invertible if and only if this rises everywhere, that
is if its slope d = 1 + m h' is above 0. As 0 < h' <= 1, and 1 at a = 0, that is m > -1. d is also the determinant of
the Jacobian 1 + û w' h' (matrix determinant lemma). û is u, moved along w until m is the `constrain` of w'u.

Radial, f(z) = z0 + rho (z - z0), rho = (r + s)/(r + alpha), r = |z - z0|, s and alpha > 0: with beta = s - alpha that
is z + beta (z - z0)/(alpha + r) (ibid., eq. 14), whose condition beta > -alpha is s > 0.

Affine, f(z) = e^w z + u, by elements; |w| is bounded smoothly.
"""

import math

from .scalar import (
    cos_sin,
    exp,
    exp_terms,
    is_float32,
    log,
    log1p_unit,
    nearest,
    power2,
    ratio,
    shared,
    sigmoid,
    softplus,
    tanh,
)

PLANAR, RADIAL, AFFINE = range(3)
KINDS = ("planar", "radial", "affine")
TINY = 1e-30  # added to alpha and s of radial layers, which softplus rounds to 0
LARGEST = 20.0  # |log scale| of an affine layer is bounded by it, smoothly
NEWTON = 64  # steps to an inverse at most; most take 5 to 8, the worst known (m = 1e15) 36
ANNEAL = 0.01  # the weight that the target begins with
NORMAL, U1, U2, U3, U4, RING, GIVEN = range(7)  # what is at the end of a flow
ENDS = ("normal", "U1", "U2", "U3", "U4", "ring", "given")


# ----------------------------------------------------------------------------------------------------------- planar
@shared
def tanh_slope(a):
    """h = tanh a and s = tanh'(a) = 1 - h², each to full relative accuracy: with e = e^-2|a|,

    |h| = (1 - e)/(1 + e),   s = 4 e/(1 + e)².   Above |a| = 350 (float32: 43) s stays what it is there, not yet 0."""
    T = type(a)
    most = T(43) if is_float32(a) else T(350)
    y = abs(a)
    k, r, t = exp_terms(T(-2) * (most if y > most else y))
    p = power2(k)
    e1 = p * (r + t) + (p - T(1))  # e - 1
    q = ratio(T(1), T(2) + e1)
    h = -e1 * q
    return h if a >= T(0) else -h, T(4) * (p + p * (r + t)) * q * q


@shared
def constrain(x):
    """m, 1 + m, m - x and dm/dx of m > -1, for x = w'u:   m = x where x >= 0, else e^x - 1.

    Slope and value are continuous, and where u makes a good layer already, û is u. m - x = x²/2 + ... for x < 0: so
    û - u = (m - x) w/|w|² is at most |w||u|²/2 and goes to 0 with w. (With the paper's softplus(x) - 1 for m it goes to
    0.31/|w|; with any m of another slope at 0, û depends on the direction of w however small w is.)
    1 + m = e^x is never rounded to 0: below x = -700 (float32: -86) it stays what it is there."""
    T = type(x)
    low = T(-86) if is_float32(x) else T(-700)
    y = x if x < T(0) else T(0)
    k, r, t = exp_terms(low if y < low else y)
    p = power2(k)
    e, m = p + p * (r + t), p * (r + t) + (p - T(1))
    if x < T(0):
        return m, e, t if k == T(0) else m - x, e
    return x, T(1) + x, T(0), T(1)


@shared
def one_over_square(ww):
    """1/|w|², for û = u + (m - x) w/|w|²; 0 where |w| < 1e-140 (float32: 1e-15), so that nothing overflows: û is u.

    (That is right to rounding but for |u| > 1e15, where w'u can be below -1 all the same.)"""
    T = type(ww)
    return ratio(T(1), ww) if ww > (T(1e-30) if is_float32(ww) else T(1e-280)) else T(0)


@shared
def root_start(c, m, sigma):
    """Where Newton's method for c = a + m tanh(a), c >= 0, may begin: on the side of the root where it cannot fail.

    m >= 0: the sum is concave in a > 0, so that from below each step ends below; c - m and c/(1+m) are below.
    m < 0: it is convex, so that from above each step ends above; c - m and c/(1+m) are above, and (4.2 c)^1/3 if below
    1, as a - tanh a >= a³/(3 + 1.2 a²) there (a continued fraction of tanh). sigma = 1 + m."""
    T = type(c)
    a, b = c - m, ratio(c, sigma)
    if m >= T(0):
        return a if a > b else b
    x = T(4.2) * c
    a = a if a < b else b
    y = exp(log(x) * T(1 / 3)) * T(1.00001)
    return y if y < a and x < T(1) else a


@shared
def root_step(a, c, m, sigma):
    """a after a step of Newton's method, and not beyond c, on the other side of the root; rounding cannot turn it back.

    The bracket, from a to c, thus shrinks from one side until the sum is c to rounding."""
    T = type(a)
    h, s = tanh_slope(a)
    new = a - ratio(a + m * h - c, h * h + sigma * s)
    if m >= T(0):
        new = new if new > a else a
        return c if new > c else new
    new = new if new < a else a
    return c if new < c else new


@shared
def root(c, m, sigma):
    """a with a + m tanh(a) = c, sigma = 1 + m > 0: of one number. Exact to rounding, times da/dc = 1/d."""
    T = type(c)
    y = abs(c)
    a = root_start(y, m, sigma)
    for _ in range(NEWTON):
        new = root_step(a, y, m, sigma)
        if new == a:
            break
        a = new
    return a if c >= T(0) else -a


@shared
def constrain_back(x, ww, dot, bm):
    """kappa, e and bx of `finish` (kernels/cpu/flow.py), from x = w'u, ww = |w|², dot = w.bû and bm."""
    T = type(x)
    m, _, g, slope = constrain(x)
    q = one_over_square(ww)
    e = q * dot
    return q * g, e, bm * slope + e * (slope - T(1) if x >= T(0) else m)


@shared
def planar_back(h, s, m, sigma, slope, bl, inverse):
    """ba, and what a sample adds to bm, from slope = û.bo and bl (kernels/cpu/flow.py); h, s of its a, sigma = 1 + m"""
    T = type(h)
    q = ratio(T(1), h * h + sigma * s)
    if inverse:
        ba = (T(2) * h * m * bl * q - slope) * s * q
        return ba, -(bl * s * q + h * ba)
    return (slope - T(2) * h * m * bl * q) * s, bl * s * q


# ----------------------------------------------------------------------------------------------------------- radial
@shared
def positive(x):
    """softplus(x), and never 0: alpha is that of b, s that of b + u_0."""
    return softplus(x) + type(x)(TINY)


@shared
def radius(square):
    """The root of |z - z0|², which is held where its square has room; the layer is the identity there, to rounding."""
    T = type(square)
    most = T(1e36) if is_float32(square) else T(1e300)
    return T(math.sqrt(most if square > most else square))


@shared
def radial_root(R, alpha, s):
    """r >= 0 with r (r + s)/(r + alpha) = R: of r² + (s - R) r - R alpha = 0 the root that is not negative."""
    T = type(R)
    p = R - s
    q = T(math.sqrt(p * p + T(4) * R * alpha))
    near = ratio(T(2) * R * alpha, q - p) if q > p else T(0)
    return T(0.5) * (p + q) if p >= T(0) else near


@shared
def radial_terms(r, alpha, s, n):
    """rho, l and the slope Q of r rho, for n = D - 1:   l = n log rho + log Q, with A = r + alpha, p = alpha/A, t = r/A

    rho = (r + s)/A,   Q = t (t + 2p) + p s/A: sums of what is not negative."""
    T = type(r)
    A = ratio(T(1), r + alpha)
    p, t = alpha * A, r * A
    rho, Q = (r + s) * A, t * (t + T(2) * p) + p * (s * A)
    return rho, n * log(rho) + log(Q), Q


@shared
def radial_slopes(r, alpha, s, n):
    """Slopes of rho in r, alpha, s, and of l in r, alpha, s; and 1/Q; n = D - 1.

    rho: (alpha - s)/A², -(r + s)/A², 1/A
    l:   n (alpha - s)/((r + s) A) + 2 (1/Q - 1)/A,   ((2t + s/A)/Q - 2 - n)/A,   n/(r + s) + p/(A Q)"""
    T = type(r)
    A, S = ratio(T(1), r + alpha), ratio(T(1), r + s)
    p, t = alpha * A, r * A
    q = ratio(T(1), t * (t + T(2) * p) + p * (s * A))
    lr = n * (alpha - s) * S * A + T(2) * A * (q - T(1))
    return (
        (alpha - s) * A * A,
        -(r + s) * A * A,
        A,
        lr,
        A * ((T(2) * t + s * A) * q - T(2) - n),
        n * S + p * A * q,
        q,
    )


@shared
def radial_back(r, rho, alpha, s, n, slope, bl, inverse):
    """e, c with bz = e bo + c v, and what a sample adds to balpha and bs, from slope = v.bo and bl; n = D - 1.

    For the inverse all is that of f, for the slopes -bz in its output and -bl in its l (kernels/cpu/flow.py)."""
    T = type(r)
    near = ratio(T(1), r) if r > T(0) else T(0)
    rr, ra, rs, lr, la, ls, slow = radial_slopes(r, alpha, s, n)
    if inverse:
        q = ratio(T(1), rho)
        c = -near * q * (bl * lr + rr * (slope - bl * lr * r) * slow)
        x = -(q * slope + c * r * r)
        return q, c, x * ra - bl * la, x * rs - bl * ls
    return rho, near * (slope * rr + bl * lr), slope * ra + bl * la, slope * rs + bl * ls


# --------------------------------------------------------------------------------------------------------- energies
@shared
def wall(x):
    """A soft wall, ((|x| - 4)/0.4)²/2 where |x| > 4, and its slope."""
    T = type(x)
    y = abs(x) - T(4)
    y = (y if y > T(0) else T(0)) * T(2.5)
    return T(0.5) * y * y, T(2.5) * (y if x > T(0) else -y)


@shared
def wave(x):
    """w1 = sin(2 pi x/4) and its slope."""
    T = type(x)
    t = x * T(0.25)
    c, s = cos_sin(t - nearest(t))
    return s, T(math.pi / 2) * c


@shared
def ring(r):
    """log pi = -((r - 2)/0.4)²/2 at radius r, and its slope."""
    T = type(r)
    y = (r - T(2)) * T(2.5)
    return T(-0.5) * y * y, T(-2.5) * y


@shared
def either(A, B):
    """log(e^A + e^B), and the weight of A in it."""
    T = type(A)
    x = A - B
    return (A if x > T(0) else B) + log1p_unit(exp(-abs(x))), sigmoid(x)


@shared
def energy(which, x, y):
    """log pi = -U and its slopes in x and y, of U1 to U4 (Rezende & Mohamed 2015, table 1), walled but for U1.

    w1 = sin(2 pi x/4), w2 = 3 exp(-((x-1)/0.6)²/2), w3 = 3 sigmoid((x-1)/0.3); with v = y - w1:
    U1 = ((|z|-2)/0.4)²/2 - log(e^-((x-2)/0.6)²/2 + e^-((x+2)/0.6)²/2)      U2 = (v/0.4)²/2
    U3 = -log(e^-(v/0.35)²/2 + e^-((v+w2)/0.35)²/2)                       U4 = -log(e^-(v/0.4)²/2 + e^-((v+w3)/0.35)²/2)
    """
    T = type(x)
    if which == U1:
        r = T(math.sqrt(x * x + y * y))
        f, g = ring(r)
        g = ratio(g, r) if r > T(0) else T(0)
        k = T(1 / 0.36)
        u = abs(x) - T(2)
        f += log1p_unit(exp(T(-4) * k * abs(x))) - T(0.5) * k * u * u
        return f, g * x - k * (x - T(2) * tanh(T(2) * k * x)), g * y
    w1, slope = wave(x)
    v = y - w1
    if which == U2:
        f, gx, gy = T(-0.5 / 0.16) * v * v, T(1 / 0.16) * v * slope, T(-1 / 0.16) * v
    else:
        if which == U3:
            k = T(1 / 0.35**2)
            e = (x - T(1)) * T(1 / 0.6)
            w = T(3) * exp(T(-0.5) * e * e)
            dw = T(-1 / 0.6) * e * w
        else:
            k = T(1 / 0.4**2)
            p = sigmoid((x - T(1)) * T(1 / 0.3))
            w = T(3) * p
            dw = T(10) * p * sigmoid((T(1) - x) * T(1 / 0.3))
        u, q = v + w, T(1 / 0.35**2)
        f, p = either(T(-0.5) * k * v * v, T(-0.5) * q * u * u)
        ga, gb = -p * k * v, (p - T(1)) * q * u
        gx, gy = gb * dw - (ga + gb) * slope, ga + gb
    fx, sx = wall(x)
    fy, sy = wall(y)
    return f - fx - fy, gx - sx, gy - sy
