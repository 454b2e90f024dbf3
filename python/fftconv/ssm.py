"""Convolution kernels of state-space models, and their gradients.

    k[i, c, h, l] = 2 Re sum_n C[c, h, n] (Abar^l Bbar)[i, h, n]

A = diag(A) - sum_j P_j Q_j* is in units of one time step: pass Delta A, Delta B and
sqrt(Delta) P.  The 2N states of a head form conjugate pairs; the arrays hold N of them, one of
each pair.

Without P this is S4D (arXiv 2206.11893), computed as a matrix product of two tables of powers
of Abar.  With P it is S4 (arXiv 2111.00396), computed by Cauchy sums at the points z with
z^M = i, in a form that has no pole at z = -1:

    khat = e^(it) (R00 - c R10 (I + c R11)^-1 R01),    z = e^(-2it), c = cos t,
    R[v] = sum_n v / (2i sin t - c A) + the same sum with conj(v) and conj(A),
    R00: v = Ct B,   R10: v = Ct P,   R01: v = conj(Q) B,   R11: v = conj(Q) P,
    Ct = C (I + Abar^2M).
"""

import ctypes
from typing import Any, NamedTuple

import numpy as np

from . import _lib
from ._array import choice, dtype_name, empty, size, view
from ._gradients import shapes
from ._handles import thread_count

__all__ = ["KernelGradients", "MAX_RANK", "ssm_kernel", "ssm_kernel_backward"]

MAX_RANK = 8


class KernelGradients(NamedTuple):
    """Gradients of sum(dk . k), as d/dRe + i d/dIm; None for one that was not asked for.

    Example:
        >>> dk = np.ones((1, 1, 1, 3))
        >>> ssm_kernel_backward(dk, [[-1]], [[[1]]], [[[1]]], needs=["A"])
        KernelGradients(dA: (1, 1) complex128)
    """

    dA: Any = None
    dB: Any = None
    dC: Any = None
    dP: Any = None
    dQ: Any = None

    __repr__ = shapes


class _SsmCall:
    """The checked operands of one call, and the C structure that describes them."""

    def __init__(self, A, B, C, P, Q, length, discretization, state, dtype, threads, isa):
        self.dtype = dtype_name(dtype)
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype!r}; allowed: float32, float64")
        A = _parameters(A, "A", 2)
        heads, states = A.shape
        arrays = {"A": A, "B": _parameters(B, "B", 3), "C": _parameters(C, "C", 3)}
        if P is not None:
            arrays["P"] = _parameters(P, "P", 3)
            arrays["Q"] = arrays["P"] if Q is None else _parameters(Q, "Q", 3)
            if arrays["P"].shape != arrays["Q"].shape:
                raise ValueError(
                    f"Q has shape {arrays['Q'].shape}; it must be P's, {arrays['P'].shape}"
                )
            if len(arrays["P"]) > MAX_RANK:
                raise ValueError(
                    f"P has shape {arrays['P'].shape}; its rank must be at most {MAX_RANK}"
                )
        elif Q is not None:
            raise ValueError("Q is given, and P is None; give both or P alone")
        for name, x in arrays.items():
            if x.shape[-2:] != A.shape:
                raise ValueError(
                    f"{name} has shape {x.shape}; its last axes must be A's, {A.shape}"
                )
        self.arrays = arrays
        self.shape = (len(arrays["B"]), len(arrays["C"]), heads, size(length, "length"))
        if isa is not None and not isinstance(isa, str):
            raise ValueError(f"isa is {isa!r}; it must be a name or None")
        self.ssm = _lib.SsmDesc(
            size=ctypes.sizeof(_lib.SsmDesc),
            inputs=self.shape[0],
            channels=self.shape[1],
            heads=heads,
            states=states,
            length=self.shape[3],
            rank=0 if P is None else len(arrays["P"]),
            dtype=_lib.DTYPES[self.dtype],
            discretization=choice(discretization, "discretization", _lib.DISCRETIZATIONS),
            state=bool(state),
            threads=thread_count(threads),
            isa=isa and isa.encode(),
            **{name: x.ctypes.data for name, x in arrays.items()},
        )


def _parameters(x, name, axes):
    """Return x as a C-contiguous complex128 array: (H, N) for axes = 2, (any, H, N) for 3.

    Raises ValueError for another shape and, except in A, for entries that are not finite.
    """
    x = np.ascontiguousarray(view(x, name).numpy(), np.complex128)
    if x.ndim != axes or 0 in x.shape:
        shape = "(H, N)" if axes == 2 else "(any, H, N)"
        raise ValueError(f"{name} has shape {x.shape}; it must be {shape}, each at least 1")
    if name != "A" and not np.isfinite(x).all():
        raise ValueError(f"{name} has entries that are not finite")
    return x


def ssm_kernel(
    A,
    B,
    C,
    length,
    P=None,
    Q=None,
    *,
    discretization="zoh",
    state=False,
    dtype="float64",
    threads=None,
    isa=None,
):
    """Return k (I, C, H, L), the response over L samples of each output C to each input B.

    All parameters are in units of one time step; parts of A, P and Q are at most 1e60:

    A: (H, N), complex, with negative real parts, and |A| at least 1e-100 with "dss".
    B: (I, H, N).  C: (C, H, N).
    length: L.
    P, Q: (rank, H, N) with a rank of 1 ... 8.  Q None means Q = P; both None: A is diagonal.
    discretization: "zoh", "bilinear" or "dss"; with P only "bilinear".  "dss" is DSS_softmax
        of arXiv 2203.14343: Bbar is that of "zoh" divided by e^(A L) - 1, and k has no
        factor 2.
    state: True means that B holds states s before the first sample, and that
        k[l] = 2 Re C Abar^(l+1) s.
    dtype: the dtype of k, "float32" or "float64"; parameters and tables are float64 in both.
    threads: None means all processors.  The result does not depend on it.
    isa: one of `fftconv.isas()`; None means the best of this machine.

    Each thread needs memory for a few rows of length L and, with P, for a (2N, 2N) matrix.
    Raises TypeError for an argument that is not an array of numbers, ValueError for wrong
    values, `Unsupported` for an isa that this machine lacks, and MemoryError.

    Example:
        >>> ssm_kernel([[-1]], [[[1]]], [[[1]]], 3, state=True).round(4).tolist()
        [[[[0.7358, 0.2707, 0.0996]]]]
    """
    call = _SsmCall(A, B, C, P, Q, length, discretization, state, dtype, threads, isa)
    k, _ = empty(call.shape, call.dtype, None)
    call.ssm.k = k.ctypes.data
    _lib.lib.fftconv_ssm_kernel(call.ssm)
    return k


def ssm_kernel_backward(
    dk,
    A,
    B,
    C,
    P=None,
    Q=None,
    *,
    discretization="zoh",
    state=False,
    needs=None,
    threads=None,
    isa=None,
):
    """Return the `KernelGradients` of sum(dk . k), where k = ssm_kernel(...).

    dk: (I, C, H, L), float32 or float64.
    needs: which gradients to compute, out of "A", "B", "C", "P", "Q"; None means those of all
        parameters given.

    The other arguments are those of `ssm_kernel`.  With P, the gradients are computed by
    running the recurrence forwards and backwards in float64.  If Q is None, dP is the sum of
    the gradients of both.  Raises TypeError for an argument that is not an array of numbers,
    ValueError for wrong values, `Unsupported` for an isa that this machine lacks, and
    MemoryError.

    Example:
        >>> g = ssm_kernel_backward(np.ones((1, 1, 1, 3)), [[-1]], [[[1]]], [[[1]]], state=True)
        >>> g.dC.real.round(4).tolist()  # the sum of k
        [[[1.106]]]
    """
    dk = np.ascontiguousarray(view(dk, "dk").numpy())
    if dk.dtype not in (np.float32, np.float64) or dk.ndim != 4:
        raise ValueError(
            f"dk has shape {dk.shape} and dtype {dk.dtype}; it "
            "must be (I, C, H, L), float32 or float64"
        )
    call = _SsmCall(A, B, C, P, Q, dk.shape[3], discretization, state, dk.dtype, threads, isa)
    if dk.shape != call.shape:
        raise ValueError(f"dk has shape {dk.shape}; it must be {call.shape}, as k")
    there = [n for n in call.arrays if n != "Q" or Q is not None]
    needs = there if needs is None else list(needs)
    for name in needs:
        if name not in there:
            raise ValueError(f"needs names {name!r}; allowed here: {', '.join(there)}")
    wanted = set(needs) | ({"Q"} if "P" in needs else set())
    if P is not None and wanted - {"C"}:  # the recurrence computes these gradients together
        wanted = set(call.arrays)
    results = {
        name: empty(x.shape, "complex128", None)[0]
        for name, x in call.arrays.items()
        if name in wanted
    }
    for name, x in results.items():
        setattr(call.ssm, "d" + name, x.ctypes.data)
    call.ssm.dk = dk.ctypes.data
    _lib.lib.fftconv_ssm_kernel_backward(call.ssm)
    if P is not None and Q is None and "P" in results:
        results["P"] += results["Q"]
    return KernelGradients(**{"d" + name: results[name] for name in needs})
