"""The convolution in one call, and its gradients; plans are kept behind it."""

from functools import lru_cache

from ._array import KERNEL_DTYPES, dtype_name, size, view
from .plan import Plan, kernel_axes, rows_axes


@lru_cache(maxsize=32, typed=True)      # typed: 64.0 is no size, 64 is
def _plan(rows, kernel_length, dtype, mode, fft_size, threads):
    return Plan(rows, (rows[1], kernel_length), dtype=dtype, mode=mode,
                fft_size=fft_size, threads=threads)


def _call(u, k, mode, fft_size, layout, threads):
    """(plan, View of u, axes of u, k as a View)."""
    v = view(u, "u")
    axes = rows_axes(len(v.shape), layout)
    shape = v.shape
    if axes != (0, 1, 2):
        shape = tuple(1 if a is None else shape[a] for a in axes)
    if 0 in shape:
        raise ValueError(f"u has shape {v.shape}; every axis must be at "
                         "least 1 long")
    k = view(k, "k", KERNEL_DTYPES[v.dtype][-1])
    _, taps = kernel_axes(k.shape, shape[1])
    arguments = shape, taps, v.dtype, mode, fft_size, threads
    try:
        plan = _plan(*arguments)
    except TypeError:                           # not hashable: Plan says what
        plan = _plan.__wrapped__(*arguments)
    return plan, v, axes, k


def conv(u, k, in_gate=None, out_gate=None, *, mode="causal", fft_size=None,
         skip=None, activation=None, mask=None, layout="BHL", threads=None,
         out=None):
    """Gated long convolution: one kernel per channel, any length.

        z = in_gate . u                   pre-gate
        p = z * k + skip . z              convolution and skip
        y = out_gate . mask . act(p)      activation, mask, post-gate

    Args:
        u: (B, H, L), (H, L) or (L,); float64, float32, float16 or bfloat16.
            A NumPy array, a CPU torch tensor, or what speaks
            ``__array_interface__``, DLPack or ``__array__``.
        k: (H, Lk), (1, H, Lk), or (Lk,) if H is 1; u's dtype, or float32
            beside 16 bits.
        in_gate, out_gate: u's dtype; u's shape, or broadcast to it.
        mode: "causal", y[t] = sum_{s<=t} k[s] z[t-s], or "circular", the same
            with t - s modulo fft_size.
        fft_size: circular only: at least L and Lk; None means L.
        skip: (H,). activation: None, "gelu" (x Phi(x), by erf) or "silu".
        mask: (B, H). skip and mask have k's choice of dtypes.
        layout: "BHL", or "BLH": u, gates and y (B, L, H) or (L, H); k, skip
            and mask as before.
        threads: None means all processors. The result does not depend on it.
        out: where to put y: u's shape and dtype; may be u itself, and must
            not overlap any other operand.

    Returns y, of u's shape, dtype and kind. Arithmetic is in float32 (float64
    for float64). A row's result depends on no other row, to the bit.

    Raises ValueError naming the argument, before anything is written;
    MemoryError.

    FlashFFTConv, arXiv 2311.05908, section 3.
    """
    plan, v, axes, k = _call(u, k, mode, fft_size, layout, threads)
    return plan._forward(v, axes, k, in_gate, out_gate, skip, activation,
                         mask, out)


def conv_backward(dy, u, k, in_gate=None, out_gate=None, *, mode="causal",
                  fft_size=None, skip=None, activation=None, mask=None,
                  layout="BHL", threads=None, needs=None):
    """`Gradients` (du, dk, din_gate, dout_gate, dskip) of sum(dy . y).

    dy has u's shape and dtype; the other arguments are those of `conv`, whose
    result is computed again.  needs: which gradients, out of "u", "k",
    "in_gate", "out_gate", "skip"; None means all whose operand is given.  The
    others are None.  dk and dskip are summed over the batch in float32 or
    better and in a fixed order: two runs agree to the bit.

    Raises ValueError naming the argument; MemoryError.
    """
    plan, v, axes, k = _call(u, k, mode, fft_size, layout, threads)
    return plan._backward(dy, v, axes, k, in_gate, out_gate, skip, activation,
                          mask, needs)


class FlashFFTConv:
    """The call of flash-fft-conv: a circular convolution modulo seqlen.

        y = out_gate . ((in_gate . u) * k),   `*` circular modulo seqlen

    seqlen is the FFT size, any whole number.  The result is causal (linear)
    where L + Lk - 1 <= seqlen; a tap k[seqlen - s] acts s samples ahead.

    dtype: of u, gates and y: "float16", "bfloat16", "float32" or "float64",
        by string, NumPy or torch dtype.
    """

    def __init__(self, seqlen, dtype="float16"):
        self.seqlen = size(seqlen, "seqlen")
        self.dtype = dtype_name(dtype)

    def __repr__(self):
        return f"FlashFFTConv(seqlen={self.seqlen}, dtype={self.dtype!r})"

    def __call__(self, u, k, in_gate=None, out_gate=None):
        """y, of u's shape (B, H, L) with L <= seqlen, and of its kind.

        u and gates: the module's dtype; each gate alone or both.  k: (H, Lk)
        with Lk <= seqlen, float32 or the module's dtype (float64 if the
        module's is).  Raises ValueError.
        """
        v = view(u, "u", self.dtype)
        if v.dtype != self.dtype:
            raise ValueError(f"u has dtype {v.dtype}; this FlashFFTConv is for "
                             f"{self.dtype}")
        return conv(v, k, in_gate, out_gate, mode="circular",
                    fft_size=self.seqlen)
