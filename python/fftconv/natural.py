"""Real DFTs with bins in natural order: filters given as half spectra.

The rows of numpy.fft.rfft and irfft, of any even length, through the library's own
stages; arrays here are `View`s.
"""

from ctypes import c_void_p
from functools import lru_cache

from . import _lib
from ._handles import Handle, tensor, thread_count
from ._view import View


class _Rdft(Handle):
    __slots__ = ("_handle", "__weakref__")

    def __init__(self, n, dtype):
        handle = c_void_p()
        _lib.lib.fftconv_rdft_create(handle, n, _lib.DTYPES[dtype], None)
        self._own(handle, _lib.lib.fftconv_rdft_destroy)


@lru_cache(maxsize=8)
def _rdft(n, dtype):
    return _Rdft(n, dtype)


def rfft(rows, bins, scale=1.0, threads=None):
    """bins (G, n // 2 + 1) = scale times the DFT of rows (G, n), n even; Views
    of a real type and the complex one of its precision."""
    _lib.lib.fftconv_rdft_forward(
        _rdft(rows.shape[-1], rows.dtype)._handle,
        tensor(rows),
        tensor(bins),
        scale,
        thread_count(threads),
    )


def irfft(bins, rows, threads=None):
    """rows (G, n) from bins (G, n // 2 + 1), the imaginary parts of the first
    and the last of which do not act."""
    n = rows.shape[-1]
    _lib.lib.fftconv_rdft_inverse(
        _rdft(n, rows.dtype)._handle, tensor(bins), tensor(rows), 1 / n, thread_count(threads)
    )


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
