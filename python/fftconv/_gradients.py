"""`Gradients`, the result of a backward pass, here and in `reference`."""

from typing import Any, NamedTuple

import numpy as np


def shapes(gradients):
    """A tuple of gradients by name, shape and dtype, without those that are None."""
    there = (
        f"{name}: {tuple(x.shape)} {str(x.dtype).rpartition('.')[2]}"
        for name, x in zip(gradients._fields, gradients)
        if x is not None
    )
    return f"{type(gradients).__name__}({', '.join(there)})"


class Gradients(NamedTuple):
    """Gradients of L = sum(dy * y), or of L = Re sum(conj(dy) * y) if y is complex.

    The gradient of an operand that is absent or was not asked for is None.  Each of the
    others has the shape and dtype of its operand: dk, dk_rev and dskip are summed over
    the rows that share the operand, and the gradient of a broadcast gate is summed over
    the repeated axes.  The gradient of a complex operand x is dL/dRe x + i dL/dIm x,
    that of a real one dL/dx.

    Example:
        >>> from fftconv import conv_backward
        >>> conv_backward(np.ones((2, 1, 8)), np.ones((2, 1, 8)), np.ones((1, 4)))
        Gradients(du: (2, 1, 8) float64, dk: (1, 4) float64)
    """

    du: Any = None
    dk: Any = None
    din_gate: Any = None
    dout_gate: Any = None
    dskip: Any = None
    dk_rev: Any = None

    __repr__ = shapes


def sum_to_shape(x, shape):
    """x summed to `shape` along the axes that broadcasting from `shape` repeated.

    x: an array of any library whose arrays have NumPy's methods.
    """
    lead = x.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 != x.shape[lead + i]
    )
    if not axes:
        return x.reshape(shape)
    # Sums of 16-bit numbers are accumulated in float32 and rounded once, at the end.
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    return x.sum(axis=axes, dtype=wide).astype(x.dtype).reshape(shape)
