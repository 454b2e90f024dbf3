"""The calls of flash-fft-conv: `FlashFFTConv`, `PartialFFTConv` and
`FrequencySparseFFTConv`; its short convolution is in `depthwise`."""

import numpy as np

from ._array import KERNEL_DTYPES, dtype_name, size, view
from ._lib import Unsupported
from .convolution import conv, conv_backward
from .pattern import Pattern
from .plan import kernel_axes


class FlashFFTConv:
    """The call of flash-fft-conv: a circular convolution modulo seqlen.

        y = out_gate . ((in_gate . u) * k),   `*` circular modulo seqlen

    seqlen is the FFT size, any whole number.  The result is causal (linear)
    where L + Lk - 1 <= seqlen; a tap k[seqlen - s] acts s samples ahead.

    dtype: of u, gates and y: "float16", "bfloat16", "float32" or "float64",
        by string, NumPy or torch dtype.
    use_32_butterfly: accepted; the radices are the planner's.
    """

    def __init__(self, seqlen, dtype="float16", use_32_butterfly=True):
        self.seqlen = size(seqlen, "seqlen")
        self.dtype = dtype_name(dtype)

    def __repr__(self):
        return f"FlashFFTConv(seqlen={self.seqlen}, dtype={self.dtype!r})"

    def __call__(self, u, k, in_gate=None, out_gate=None, *, pregate=None, postgate=None):
        """y, of u's shape (B, H, L) with L <= seqlen, and of its kind.

        u and gates: the module's dtype; each gate alone or both; pregate and
        postgate are flash-fft-conv's names for them.  k: (H, Lk) or (1, H, Lk)
        with Lk <= seqlen, float32 or the module's dtype (float64 if the
        module's is).  Raises ValueError.
        """
        return conv(
            self._rows(u),
            k,
            _one_of("in_gate", in_gate, "pregate", pregate),
            _one_of("out_gate", out_gate, "postgate", postgate),
            mode="circular",
            fft_size=self.seqlen,
        )

    def backward(
        self, dy, u, k, in_gate=None, out_gate=None, *, pregate=None, postgate=None, needs=None
    ):
        """`Gradients` of sum(dy . y), as `conv_backward`; dk of k's shape,
        summed over the batch in float32 or better and in a fixed order."""
        return conv_backward(
            dy,
            self._rows(u),
            k,
            _one_of("in_gate", in_gate, "pregate", pregate),
            _one_of("out_gate", out_gate, "postgate", postgate),
            mode="circular",
            fft_size=self.seqlen,
            needs=needs,
        )

    def _rows(self, u):
        v = view(u, "u", self.dtype, True)
        if v.dtype != self.dtype:
            raise ValueError(f"u has dtype {v.dtype}; this FlashFFTConv is for {self.dtype}")
        return v


def _one_of(name, gate, alias, other):
    if gate is not None and other is not None:
        raise ValueError(
            f"{alias} is given beside {name}, which it is another name of; one of them must be None"
        )
    return other if gate is None else gate


class _OfLength:
    """A convolution whose FFT size is twice x's length, taps beyond it cut."""

    def __init__(self, N_partial):
        self.N_partial = size(N_partial, "N_partial")

    def __repr__(self):
        return f"{type(self).__name__}({self.N_partial})"

    def __call__(self, x, k):
        """y, of x's shape (B, H, L), dtype and kind.  k: (H, Lk) or (1, H, Lk),
        x's dtype, or float32 beside 16 bits.  Raises ValueError."""
        x, k, taps = self._operands(x, k)
        return conv(x, k.part(0, taps), **self._mode(x, taps))

    def backward(self, dy, x, k, needs=None):
        """`Gradients` (du, dk) of sum(dy . y); taps that do not act have a
        gradient of zero."""
        x, k, taps = self._operands(x, k)
        g = conv_backward(dy, x, k.part(0, taps), needs=needs, **self._mode(x, taps))
        if g.dk is None or taps == k.shape[-1]:
            return g
        return g._replace(dk=_padded(g.dk, k.shape[-1] - taps))

    def _operands(self, x, k):
        x = view(x, "x", devices=True)
        if len(x.shape) != 3 or 0 in x.shape:
            raise ValueError(f"x has shape {x.shape}; it must be (B, H, L), each at least 1")
        k = view(k, "k", KERNEL_DTYPES[x.dtype][-1], True)
        if len(k.shape) not in (2, 3) or k.shape[-1] < 1:
            raise ValueError(
                f"k has shape {k.shape}; it must be (H, Lk) or (1, H, Lk), Lk at least 1"
            )
        kernel_axes(k.shape, *x.shape[:2])
        return x, k, min(self._most(x.shape[-1]), k.shape[-1])


def _padded(x, n):
    """x with n zeros behind its last axis."""
    if type(x) is np.ndarray:
        return np.concatenate([x, np.zeros((*x.shape[:-1], n), x.dtype)], -1)
    kind = view(x, "dk", devices=True).kind
    if kind is None:
        raise Unsupported(
            "dk has taps that do not act, and k is from no library "
            "that could put zeros there: pass k without them, or as "
            "an array of torch, CuPy or JAX"
        )
    if hasattr(kind, "nn"):  # torch
        return kind.nn.functional.pad(x, (0, n))
    return kind.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n)])


class PartialFFTConv(_OfLength):
    """flash-fft-conv's: a kernel cut to its first N_partial taps (FlashFFTConv,
    arXiv 2311.05908, section 3.3).  Modulo 2 L, so that a tap k[2 L - s] acts s
    samples ahead; causal for no more than L taps."""

    def _most(self, length):
        return min(self.N_partial, 2 * length)

    def _mode(self, x, taps):
        length = x.shape[-1]
        if taps <= length:
            return {"mode": "causal"}
        return {"mode": "circular", "fft_size": 2 * length}


class FrequencySparseFFTConv(_OfLength):
    """flash-fft-conv's: of the kernel's rfft of 2 L points, bins 0 ...
    N_partial // 2 - 1 alone (section 3.3)."""

    def __init__(self, N_partial):
        super().__init__(N_partial)
        self.pattern = Pattern.lowpass(self.N_partial)

    def _most(self, length):
        return 2 * length

    def _mode(self, x, taps):
        return {"mode": "circular", "fft_size": 2 * x.shape[-1], "pattern": self.pattern}
