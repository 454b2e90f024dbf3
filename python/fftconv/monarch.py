"""The order-p Monarch transform by itself, for teaching and for testing.

It is a DFT of N = N_1 N_2 ... N_p points by decimation in frequency.  The time index n
is written in digits n_1 n_2 ... n_p, the most significant one first, where n_i has N_i
values.  Stage i replaces digit n_i by the frequency digit k_i, in the same place:

    every block of N_i R points, R = N_{i+1} ... N_p, is a matrix x[n_i, r] of N_i rows
    and R columns, and becomes

        y[k_i, r] = W_{N_i R}^(k_i r)  sum_{n_i}  W_{N_i}^(k_i n_i)  x[n_i, r]
                    twiddle                       DFT matrix

with W_m = exp(-2 pi i / m).  After the last stage, the place with the digits
k_1 k_2 ... k_p, the most significant one first, holds the frequency with the reversed
digits, k = k_1 + N_1 (k_2 + N_2 (k_3 + ...)).  FlashFFTConv, arXiv 2311.05908,
section 3.1.

`dft`, `idft`, `stage` and `stages` run the C library's stages; `dft_matrix`, `twiddles`
and `digit_reversal` are plain NumPy.
"""

import ctypes
import math

import numpy as np

from . import _lib
from ._array import aligned_empty, size

__all__ = ["dft", "dft_matrix", "digit_reversal", "idft", "stage", "stages", "twiddles"]

_COMPLEX = {np.dtype("complex64"): "float32", np.dtype("complex128"): "float64"}


def _radices(radices):
    radices = tuple(size(r, "radices") for r in radices)
    if not radices:
        raise ValueError("radices is empty; name at least one")
    return radices


def _complex(x):
    """x as complex64 (from float32 or complex64) or complex128, in native byte order."""
    x = np.asarray(x, dtype=np.complex128) if isinstance(x, (list, tuple)) else np.asarray(x)
    wide = {
        "float32": "complex64",
        "complex64": "complex64",
        "float64": "complex128",
        "complex128": "complex128",
    }
    if x.dtype.name not in wide:
        raise ValueError(f"x has dtype {x.dtype}; allowed: {', '.join(wide)}")
    return x.astype(wide[x.dtype.name], copy=False)


def _run(x, radices, *, inverse=False, dense=False, stages=-1, isa=None):
    """The first `stages` stages (-1: all) of the DFT along the last axis of complex x."""
    n = math.prod(radices)
    if isa is not None and not isinstance(isa, str):
        raise ValueError(f"isa is {isa!r}; it must be a name or None")
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(
            f"x has {x.shape[-1] if x.ndim else 'no'} points, and "
            f"radices {radices} multiply to {n}: they must agree"
        )
    x = np.ascontiguousarray(x)
    out = aligned_empty(x.shape, x.dtype)
    if x.size == 0:
        return out
    desc = _lib.DftDesc(
        size=ctypes.sizeof(_lib.DftDesc),
        n=n,
        count=x.size // n,
        dtype=_lib.DTYPES[_COMPLEX[x.dtype]],
        inverse=inverse,
        dense=dense,
        stages=stages,
        order=len(radices),
        radices=_lib.int64s(radices),
        isa=isa.encode() if isa is not None else None,
        in_=x.ctypes.data,
        out=out.ctypes.data,
    )
    _lib.lib.fftconv_dft(desc)
    return out


def dft(x, radices, *, dense=False, axis=-1, isa=None):
    """The DFT along one axis, X[k] = sum_n x[n] exp(-2 pi i n k / N).

    x: float32, float64, complex64 or complex128, with prod(radices) points along `axis`.
    radices: N_1 (outermost) ... N_p, each 1 ... 128.
    dense: true runs every stage as a dense complex matrix product, not as a codelet.
    isa: one of `fftconv.isas()`; None means the best that this machine has.

    Returns complex64 or complex128 in natural order.  Raises ValueError, or
    `Unsupported` for an instruction set that this machine lacks.

    Example:
        >>> x = np.arange(8.0)
        >>> np.allclose(dft(x, (2, 4)), np.fft.fft(x))
        True
    """
    x = np.moveaxis(_complex(x), axis, -1)
    return np.moveaxis(_run(x, _radices(radices), dense=dense, isa=isa), -1, axis)


def idft(x, radices, *, dense=False, axis=-1, isa=None):
    """The inverse of `dft`, including the factor 1/N.  Arguments are those of `dft`.

    Example:
        >>> x = np.arange(8.0)
        >>> np.allclose(idft(dft(x, (2, 4)), (2, 4)), x)
        True
    """
    x = np.moveaxis(_complex(x), axis, -1)
    return np.moveaxis(_run(x, _radices(radices), inverse=True, dense=dense, isa=isa), -1, axis)


def stage(x, i, radices, *, dense=False, isa=None):
    """Stage i, counted from 1, along the last axis, with its twiddle factors.

    The places of x have the digits k_1 ... k_{i-1} n_i ... n_p, those of the result the
    same with k_i instead of n_i.  The stage is computed as stage 1 of the transform of
    N_i ... N_p points, for every block of that length.  Raises ValueError.

    Example:
        >>> x = np.arange(8.0)
        >>> y = stage(stage(x, 1, (2, 4)), 2, (2, 4))
        >>> np.allclose(y, np.fft.fft(x)[digit_reversal((2, 4))])
        True
    """
    radices = _radices(radices)
    i = size(i, "i")
    if i > len(radices):
        raise ValueError(f"i is {i}; allowed: 1 to {len(radices)}, the number of radices")
    x = _complex(x)
    if x.ndim == 0 or x.shape[-1] != math.prod(radices):
        raise ValueError(
            f"x has shape {x.shape}; its last axis must be the product of radices {radices}"
        )
    blocks = x.reshape(-1, math.prod(radices[i - 1 :]))
    return _run(blocks, radices[i - 1 :], dense=dense, stages=1, isa=isa).reshape(x.shape)


def stages(x, radices, *, dense=False, isa=None):
    """Generate the results after stages 1, 2, ... p of `dft`, along the last axis.

    The last one is the DFT X in digit-reversed order:
    ``last[..., j] == X[..., digit_reversal(radices)[j]]``.  Raises ValueError.

    Example:
        >>> x = np.arange(8.0)
        >>> first, last = stages(x, (2, 4))
        >>> np.allclose(last, np.fft.fft(x)[digit_reversal((2, 4))])
        True
    """
    radices = _radices(radices)
    x = _complex(x)
    for i in range(1, len(radices) + 1):
        yield _run(x, radices, dense=dense, stages=i, isa=isa)


def dft_matrix(n):
    """The DFT matrix of n points: (n, n) complex128, F[k, j] = exp(-2 pi i k j / n).

    Example:
        >>> x = np.arange(4.0)
        >>> np.allclose(dft_matrix(4) @ x, np.fft.fft(x))
        True
    """
    k = np.arange(size(n, "n"))
    return np.exp(-2j * np.pi * (np.outer(k, k) % n) / n)


def twiddles(radices, i):
    """The twiddle factors of stage i: (N_i, R) complex128, W_{N_i R}^(k r).

    R = N_{i+1} ... N_p.  Those of the last stage are all 1.  Raises ValueError.

    Example:
        >>> twiddles((2, 4), 1).shape
        (2, 4)
    """
    radices = _radices(radices)
    i = size(i, "i")
    if i > len(radices):
        raise ValueError(f"i is {i}; allowed: 1 to {len(radices)}")
    rows, columns = radices[i - 1], math.prod(radices[i:])
    n = rows * columns
    return np.exp(-2j * np.pi / n * (np.outer(np.arange(rows), np.arange(columns)) % n))


def digit_reversal(radices):
    """The frequency at each place after the last stage: (N,) int64.  Raises ValueError.

    Example:
        >>> digit_reversal((2, 4)).tolist()
        [0, 2, 4, 6, 1, 3, 5, 7]
    """
    radices = _radices(radices)
    # Entry [k_1, ..., k_p] is k_1 + N_1 (k_2 + ...); the places are in C order.
    return np.arange(math.prod(radices)).reshape(radices, order="F").reshape(-1)
