"""Real DFTs with bins in natural order, used for filters given as half spectra.

`rfft` and `irfft` compute the same as those of numpy.fft, for any length, with the C
library's stages.  All arrays in this module are `View`s.
"""

import ctypes
from ctypes import byref, c_void_p
from functools import lru_cache

from . import _lib
from ._handles import Handle, tensor, thread_count
from ._view import View


class _Rdft(Handle):
    __slots__ = ("_handle", "__weakref__")

    def __init__(self, n, dtype, threads):
        desc = _lib.RdftDesc(
            size=ctypes.sizeof(_lib.RdftDesc), n=n, dtype=_lib.DTYPES[dtype], threads=threads
        )
        handle = c_void_p()
        _lib.lib.fftconv_rdft_create(byref(handle), byref(desc))
        self._own(handle, _lib.lib.fftconv_rdft_destroy)


@lru_cache(maxsize=8)
def kept_rdft(n, dtype, threads):
    return _Rdft(n, dtype, threads)


def rfft(rows, bins, scale=1.0, threads=None):
    """Write scale times the DFT of rows to bins.

    rows: (G, n), a real dtype.  bins: (G, n // 2 + 1), the complex dtype of the same
    precision.
    """
    rdft = kept_rdft(rows.shape[-1], rows.dtype, thread_count(threads))
    _lib.lib.fftconv_rdft_forward(rdft._handle, tensor(rows), tensor(bins), scale)


def irfft(bins, rows, threads=None):
    """Write the inverse DFT of bins to rows, including the factor 1/n.

    bins: (G, n // 2 + 1); rows: (G, n).  The imaginary parts of bin 0 and, if n is even,
    of bin n / 2 are ignored.
    """
    n = rows.shape[-1]
    rdft = kept_rdft(n, rows.dtype, thread_count(threads))
    _lib.lib.fftconv_rdft_inverse(rdft._handle, tensor(bins), tensor(rows), 1 / n)


def first(rows, n):
    """A View of samples 0 ... n - 1 of the View `rows`."""
    return rows.part(0, n)


def backwards(rows, n):
    """A View of samples -1, -2 ... -n of the View `rows`, in this order."""
    last = rows.part(rows.shape[-1] - 1, rows.shape[-1])
    return View(
        last.pointer,
        rows.dtype,
        (*rows.shape[:-1], n),
        (*rows.strides[:-1], -rows.strides[-1]),
        rows.keep,
        rows.kind,
    )
