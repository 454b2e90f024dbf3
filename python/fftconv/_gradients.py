"""What a backward pass returns: for the library's calls and the oracle alike."""

from typing import Any, NamedTuple

import numpy as np


class Gradients(NamedTuple):
    """Gradients of sum(dy * y); None where absent or not asked for.

    Each has the shape and the type of what it is the gradient of: dk, dk_rev
    and dskip are summed over what shares them, and the gradient of a gate that
    was repeated along an axis is summed along it.  Where y is complex, the
    gradients are those of Re sum(conj(dy) * y): dL/dRe x + i dL/dIm x of a
    complex x, dL/dx of a real one.
    """

    du: Any = None
    dk: Any = None
    din_gate: Any = None
    dout_gate: Any = None
    dskip: Any = None
    dk_rev: Any = None


def sum_to_shape(x, shape):
    """x summed along the axes that broadcasting `shape` to x.shape repeated; x of
    any library that has NumPy's methods."""
    lead = x.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 != x.shape[lead + i]
    )
    if not axes:
        return x.reshape(shape)
    # A 16-bit sum is accumulated in float32 and rounded once.
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
    return x.sum(axis=axes, dtype=wide).astype(x.dtype).reshape(shape)
