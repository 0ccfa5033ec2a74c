"""A few numbers side by side in one vector register: for work on many small matrices of one size at once.

    v = get(A, i)                                  # row i of A (n, LANES): LANES numbers
    put(A, i, less(v, get(B, j), get(C, k)))       # v - b c, number by number; more(v, b, c) is v + b c

They are functions, since overloads of `+` would slow the typing of everybody's jitted code down. A loop over so short a
length would be unrolled to one number after the other before LLVM's loop vectoriser sees it, and Numba leaves LLVM's
other vectoriser off. Uncompiled, lanes are NumPy arrays.
"""

import numpy as np
from llvmlite import ir
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, models, overload, register_model
from numba.types import Type, float64, intp, void

LANES = 8

_vector = ir.VectorType(ir.DoubleType(), LANES)


class _Lanes(Type):
    def __init__(self):
        super().__init__(f"Lanes({LANES})")


_lanes = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _vector)


def _overloaded(f):
    """Decorator: what compiled code takes for `f`, inlined."""
    return overload(f, jit_options={"forceinline": True, "fastmath": {"contract"}})


def _row(context, builder, array_type, array, i):
    """Pointer to row i of an array (n,LANES)."""
    data = context.make_array(array_type)(context, builder, array).data
    first = builder.gep(data, [builder.mul(i, ir.Constant(i.type, LANES))])
    return builder.bitcast(first, _vector.as_pointer())


@intrinsic
def _get(typing, A, i):
    def code(context, builder, signature, args):
        return builder.load(_row(context, builder, signature.args[0], *args), align=8)

    return _lanes(A, intp), code


@intrinsic
def _put(typing, A, i, v):
    def code(context, builder, signature, args):
        builder.store(args[2], _row(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return void(A, intp, v), code


def _splatted(builder, x):
    zero = ir.Constant(ir.IntType(32), 0)
    v = builder.insert_element(ir.Constant(_vector, ir.Undefined), x, zero)
    return builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


@intrinsic
def _splat(typing, x):
    return _lanes(float64), lambda context, builder, signature, args: _splatted(builder, args[0])


def _multiply_add(name):
    @intrinsic
    def op(typing, v, a, b):
        def code(context, builder, signature, args):
            v, a, b = args
            product = builder.fmul(a, b, flags=("contract",))  # a fused multiply-add where the processor has one
            return getattr(builder, name)(v, product, flags=("contract",))

        return _lanes(_lanes, _lanes, _lanes), code

    return op


_more, _less = _multiply_add("fadd"), _multiply_add("fsub")


@intrinsic
def _times(typing, a, b):
    return _lanes(_lanes, _lanes), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def _inverse_root(typing, v, least):
    def code(context, builder, signature, args):
        v, least = args[0], _splatted(builder, args[1])
        v = builder.select(builder.fcmp_ordered(">", v, least), v, least)
        of = ir.FunctionType(_vector, [_vector])
        root = get_or_insert_function(builder.module, of, f"llvm.sqrt.v{LANES}f64")
        return builder.fdiv(ir.Constant(_vector, [1.0] * LANES), builder.call(root, [v]))

    return _lanes(_lanes, float64), code


# ---------------------------------------------------------------------------------------- what kernels use
def get(A, i):
    """Row i of A (n,LANES), float64 and C-contiguous. i is not checked."""
    return A[i].copy()


def put(A, i, v):
    """A[i] = v, of A (n,LANES)."""
    A[i] = v


def splat(x):
    """LANES times the number x."""
    return np.full(LANES, x)


def more(v, a, b):
    """v + a b"""
    return v + a * b


def less(v, a, b):
    """v - a b"""
    return v - a * b


def times(a, b):
    """a b"""
    return a * b


def inverse_root(v, least):
    """1 / sqrt(max(v, least)); NaN counts as `least`."""
    return 1 / np.sqrt(np.where(v > least, v, least))


@_overloaded(get)
def _(A, i):
    return lambda A, i: _get(A, i)


@_overloaded(put)
def _(A, i, v):
    return lambda A, i, v: _put(A, i, v)


@_overloaded(splat)
def _(x):
    return lambda x: _splat(x)


@_overloaded(more)
def _(v, a, b):
    return lambda v, a, b: _more(v, a, b)


@_overloaded(less)
def _(v, a, b):
    return lambda v, a, b: _less(v, a, b)


@_overloaded(times)
def _(a, b):
    return lambda a, b: _times(a, b)


@_overloaded(inverse_root)
def _(v, least):
    return lambda v, least: _inverse_root(v, least)
