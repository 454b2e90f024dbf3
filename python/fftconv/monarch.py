"""The order-p Monarch transform by itself, for teaching and for checks.

A DFT of n = N_1 N_2 ... N_p points by decimation in frequency.  Write the time
index with the most significant digit first, n_1 n_2 ... n_p, where n_i runs
over N_i values.  Stage i replaces digit n_i by the frequency digit k_i in the
same place:

    for every block of n_i = N_i R points, R = N_{i+1} ... N_p, as a matrix
    x[n_i, r] (N_i rows, R columns):

        y[k_i, r] = W_{N_i R}^(k_i r)  sum_{n_i}  W_{N_i}^(k_i n_i)  x[n_i, r]
                    twiddle                       DFT matrix

with W_n = exp(-2 pi i / n).  After the last stage place k_1 k_2 ... k_p (most
significant first) holds frequency k = k_1 + N_1 (k_2 + N_2 (k_3 + ...)): the
digits reversed.  FlashFFTConv, arXiv 2311.05908, section 3.1.

`dft`, `idft`, `stage` and `stages` run the library's own stage code; the small
functions `dft_matrix`, `twiddles` and `digit_reversal` are plain NumPy.
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
    """x as native complex64 (from 32 bits) or complex128."""
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
    """DFTs of the last axis of a complex array."""
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

    x: real or complex, 32 or 64 bits per real number, with prod(radices)
    points along `axis`.  radices: N_1 (outermost) ... N_p, each 1 ... 128.
    dense: every stage as a dense complex matrix product, not a codelet.
    Returns complex64 or complex128 in natural order.  Raises ValueError.
    """
    x = np.moveaxis(_complex(x), axis, -1)
    return np.moveaxis(_run(x, _radices(radices), dense=dense, isa=isa), -1, axis)


def idft(x, radices, *, dense=False, axis=-1, isa=None):
    """The inverse of `dft`, its factor 1/N included."""
    x = np.moveaxis(_complex(x), axis, -1)
    return np.moveaxis(_run(x, _radices(radices), inverse=True, dense=dense, isa=isa), -1, axis)


def stage(x, i, radices, *, dense=False, isa=None):
    """Stage i (from 1) by itself, along the last axis, twiddle included.

    x holds digits k_1 ... k_{i-1} n_i ... n_p; so does the result, with k_i
    for n_i.  It is stage 1 of the transform of N_i ... N_p points, done to
    every block of that length, and runs as that.
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
    """The result after each of stages 1 ... p, from the library's own run.

    The last one is the DFT in digit-reversed order:
    ``last[..., j] == X[..., digit_reversal(radices)[j]]``.
    """
    radices = _radices(radices)
    x = _complex(x)
    for i in range(1, len(radices) + 1):
        yield _run(x, radices, dense=dense, stages=i, isa=isa)


def dft_matrix(n):
    """(n, n) complex128: F[k, j] = exp(-2 pi i k j / n)."""
    k = np.arange(size(n, "n"))
    return np.exp(-2j * np.pi * (np.outer(k, k) % n) / n)


def twiddles(radices, i):
    """(N_i, R) complex128: stage i's factors W_{N_i R}^(k r), R = N_{i+1} ...
    N_p; all ones for the last stage."""
    radices = _radices(radices)
    i = size(i, "i")
    if i > len(radices):
        raise ValueError(f"i is {i}; allowed: 1 to {len(radices)}")
    rows, columns = radices[i - 1], math.prod(radices[i:])
    n = rows * columns
    return np.exp(-2j * np.pi / n * (np.outer(np.arange(rows), np.arange(columns)) % n))


def digit_reversal(radices):
    """(N,) int64: the frequency that stands at each place after all stages."""
    radices = _radices(radices)
    # Entry [k_1, ..., k_p] is k_1 + N_1 (k_2 + ...), places run in C order.
    return np.arange(math.prod(radices)).reshape(radices, order="F").reshape(-1)
