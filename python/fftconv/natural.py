"""Real DFTs with bins in natural order: filters given as half spectra.

The rows of numpy.fft.rfft and irfft, of any length, through the library's own
stages; arrays here are `View`s.
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
def _rdft(n, dtype, threads):
    return _Rdft(n, dtype, threads)


def rfft(rows, bins, scale=1.0, threads=None):
    """bins (G, n // 2 + 1) = scale times the DFT of rows (G, n): Views of a real dtype
    and of the complex one of its precision."""
    rdft = _rdft(rows.shape[-1], rows.dtype, thread_count(threads))
    _lib.lib.fftconv_rdft_forward(rdft._handle, tensor(rows), tensor(bins), scale)


def irfft(bins, rows, threads=None):
    """rows (G, n) from bins (G, n // 2 + 1); the imaginary parts of bin 0 and, n being
    even, of bin n / 2 do not act."""
    n = rows.shape[-1]
    rdft = _rdft(n, rows.dtype, thread_count(threads))
    _lib.lib.fftconv_rdft_inverse(rdft._handle, tensor(bins), tensor(rows), 1 / n)


def first(rows, n):
    """Samples 0 ... n - 1 of rows, a View."""
    return rows.part(0, n)


def backwards(rows, n):
    """Samples -1, -2 ... -n of rows, a View of the same memory."""
    last = rows.part(rows.shape[-1] - 1, rows.shape[-1])
    return View(
        last.pointer,
        rows.dtype,
        (*rows.shape[:-1], n),
        (*rows.strides[:-1], -rows.strides[-1]),
        rows.keep,
        rows.kind,
    )
