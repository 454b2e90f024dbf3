"""hyena-dna's FFT convolution functions: `fftconv_fwd`, `fftconv_bwd`, `fftconv_func`.

The H channels form groups of head_dim = h.  Each group g has one kernel k_g and one skip
weight D_g.  For channel i of the group in u and q, and channel j in v and the output,

    z_ij = u_i . v_j                    (without v and q: h = 1 and z = u)
    p_ij = z_ij * k_g + D_g z_ij        `*` is causal; with k_rev it is two-sided
    out_j = sum_i q_i . mask[b, g] . act(p_ij),   act is GELU (by erf) or the identity

With gelu_inp, GELU(u) replaces u; with gelu_q, GELU(q) replaces q.  The h^2 rows of a group
are never all in memory: besides operands and results, each thread needs the memory of one
group, whatever the batch size.  Sources: H3, arXiv 2212.14052; Hyena, arXiv 2302.10866.
"""

import ctypes
from ctypes import byref
from typing import Any, NamedTuple

from . import _lib
from ._array import (
    KERNEL_DTYPES,
    WIDE,
    converted,
    demoted,
    empty,
    finish,
    has_float64,
    real,
    result_dtype,
    size,
    view,
)
from ._backends import check_place
from ._gradients import shapes
from ._handles import pack, pack_tensor, tensor_offsets, thread_count
from .convolution import conv, conv_backward
from .natural import backwards, first, irfft, rfft
from .plan import cached_plan

__all__ = [
    "FilterGradients",
    "FuncGradients",
    "fftconv_bwd",
    "fftconv_func",
    "fftconv_func_backward",
    "fftconv_fwd",
]

_COMPLEX = {"float32": "complex64", "float64": "complex128"}
_OFFSET = tensor_offsets(_lib.HeadsDesc)

# dtype of the arithmetic -> the dtypes that C reads dout in.  A dout of any other dtype is
# converted to the last of them.
_DOUT = {"float32": ("float16", "bfloat16", "float32"), "float64": ("float64",)}


def __dir__():
    return __all__


class FilterGradients(NamedTuple):
    """The gradients that `fftconv_bwd` returns; dv and dq are None without v and q.

    dfilter is the rfft of the gradient of the taps, divided by fft_size, so that
    irfft(dfilter, fft_size, norm="forward")[:L] is dk.  It differs from torch's gradient of a
    half spectrum, in which the inner bins are doubled.

    Example:
        >>> u, D = np.ones((1, 2, 8)), np.ones(2)
        >>> fftconv_bwd(u, u, np.fft.rfft(np.ones((2, 8)), 16), D)
        FilterGradients(du: (1, 2, 8) float64, dfilter: (2, 9) complex128, dD: (2,) float64)
    """

    du: Any
    dfilter: Any
    dD: Any
    dv: Any = None
    dq: Any = None

    __repr__ = shapes


class FuncGradients(NamedTuple):
    """The gradients that `fftconv_func_backward` returns; None for an operand not given.

    Example:
        >>> u, k = np.ones((1, 2, 8)), np.ones((2, 8))
        >>> fftconv_func_backward(u, u, k, np.ones(2))
        FuncGradients(du: (1, 2, 8) float64, dk: (2, 8) float64, dD: (2,) float64)
    """

    du: Any
    dk: Any
    dD: Any = None
    dv: Any = None
    dq: Any = None
    dk_rev: Any = None

    __repr__ = shapes


class _HeadsCall:
    """The operands of one call, checked and converted to the dtypes that C computes with.

    Attributes:
        u, v, q, skip, mask: Views, or None where absent; mask is (B, G), the part of
            dropout_mask that is read.
        dtype: the dtype of u, v, q and the result.
        wide: the dtype of the arithmetic, and on the CPU of the kernels.

    Args (besides those of `fftconv_fwd`):
        kernels: Views of k and k_rev, which take part in the promotion of dtypes.
        others: Views of a filter and dout; they affect the result's dtype only by making it
            float64 if one of them has that precision.
    """

    def __init__(
        self, u, D, v, head_dim, q, mask, gelu, gelu_inp, gelu_q, threads, kernels=(), others=()
    ):
        self.u = real(view(u, "u", devices=True), "u")
        if len(self.u.shape) != 3 or 0 in self.u.shape:
            raise ValueError(f"u has shape {self.u.shape}; it must be (B, H, L), each at least 1")
        batch, channels, self.length = self.u.shape
        self.h = size(head_dim, "head_dim")
        if channels % self.h:
            raise ValueError(f"head_dim is {self.h}; it must divide H = {channels}")
        self.groups = channels // self.h
        if (v is None) != (q is None):
            here, there = ("q", "v") if v is None else ("v", "q")
            raise ValueError(f"{here} is given and {there} is None; v and q come together")
        if v is None and self.h > 1:
            raise ValueError(f"v and q are None; with head_dim = {self.h} they must be given")
        v, q = self._rows(v, "v"), self._rows(q, "q")
        D = self._of_shape(D, "D", (self.groups,))
        mask = self._of_shape(mask, "dropout_mask", (batch, channels))
        for name, k in zip(("k", "k_rev"), kernels):
            if k is not None:
                real(k, name)
        self.dtype = result_dtype((self.u, v, q), (*kernels, D), mask)
        if has_float64(others):
            self.dtype = "float64"
        self.wide = WIDE[self.dtype]
        numbers = KERNEL_DTYPES[self.dtype]
        self.u = self.typed(self.u, "u", (self.dtype,))
        self.v, self.q = self.typed(v, "v", (self.dtype,)), self.typed(q, "q", (self.dtype,))
        self.skip = self.typed(D, "D", numbers)
        self.mask = self.typed(mask, "dropout_mask", numbers)
        if mask is not None:
            self.mask = self.mask.part(0, self.groups)
        self.activation = "gelu" if gelu else None
        self.gelu_u, self.gelu_q = bool(gelu_inp), bool(gelu_q)
        if self.gelu_q and q is None:
            raise ValueError("gelu_q is True and q is None; q must be given")
        self.threads = threads

    def _rows(self, x, name):
        return self._of_shape(x, name, self.u.shape, ", as u")

    def _of_shape(self, x, name, shape, more=""):
        """Return a View of x, a real array of the given shape; None if x is None."""
        if x is None:
            return None
        v = real(view(x, name, devices=True), name)
        if v.shape != shape:
            raise ValueError(f"{name} has shape {v.shape}; it must be {shape}{more}")
        return v

    def typed(self, v, name, allowed):
        """Return the View v converted to one of the allowed dtypes; None if v is None.

        v must be on the same device as u.
        """
        if v is None:
            return None
        check_place(v, name, self.u.device)
        return converted(v, name, allowed, f"the result is {self.dtype}")

    def kernel(self, v, name):
        """Return the kernel View v (G, Lk) in a dtype that the call takes; None if v is None.

        On the CPU that is the dtype of the arithmetic.
        """
        if v is None:
            return None
        if len(v.shape) != 2 or v.shape[0] != self.groups or v.shape[1] < 1:
            raise ValueError(
                f"{name} has shape {v.shape}; it must be "
                f"(H / head_dim, Lk) = ({self.groups}, Lk), Lk at "
                "least 1"
            )
        numbers = KERNEL_DTYPES[self.dtype]
        return self.typed(v, name, (self.wide,) if v.device is None else numbers)

    def filter(self, v, fft_size):
        """Return (the filter's View (G, n // 2 + 1), complex; n, the FFT size)."""
        self.needs_cpu("a filter")
        if fft_size is None:
            least = self.length + 1
            if len(v.shape) != 2 or v.shape[1] < least:
                raise ValueError(
                    f"filter has shape {v.shape}; it must be (H / head_dim, "
                    f"fft_size / 2 + 1) = ({self.groups}, {least} or more)"
                )
            fft_size = 2 * (v.shape[1] - 1)
        n = size(fft_size, "fft_size")
        if n % 2 or n < 2 * self.length:
            raise ValueError(
                f"fft_size is {n}; it must be even and at least 2 L = {2 * self.length}"
            )
        shape = (self.groups, n // 2 + 1)
        if v.shape != shape:
            raise ValueError(
                f"filter has shape {v.shape}; it must be (H / head_dim, fft_size / 2 + 1) = {shape}"
            )
        return self.typed(v, "filter", (_COMPLEX[self.wide],)), n

    def taps(self, bins, n):
        """Return Views k and k_rev (G, L) of the irfft of the filter, on the same memory.

        The tap of lag -s is at n - s.  k_rev starts at a zero that follows the n taps, because
        both k[0] and k_rev[0] act at lag 0, which must count once.
        """
        array, rows = empty((self.groups, n + 1), self.wide, None)
        array[:, n] = 0
        irfft(bins, first(rows, n), self.threads)
        return first(rows, self.length), backwards(rows, self.length)

    def needs_cpu(self, what):
        if self.u.device is not None:
            raise _lib.Unsupported(
                f"u is on cuda:{self.u.device}, and {what} is the CPU's so far; a "
                "device takes k, head_dim 1, and neither gelu_inp, gelu_q, "
                "force_fp16_output nor output_hbl_layout"
            )

    def is_direct(self, dtypes):
        """Say whether `conv` can compute this call.

        It can with head_dim 1, no GELU of u or q, and every dtype in `dtypes` equal to the
        result's.
        """
        return (
            self.h == 1
            and not self.gelu_u
            and not self.gelu_q
            and all(d == self.dtype for d in dtypes)
        )

    def conv_arguments(self, k_rev):
        return dict(
            mode="causal" if k_rev is None else "two_sided",
            k_rev=k_rev,
            skip=self.skip,
            activation=self.activation,
            mask=self.mask,
            threads=self.threads,
        )

    def result(self, fp16, hbl):
        """Return (an array (B, H, L) for the output, not yet written; its View)."""
        dtype = self.dtype
        if fp16 and dtype == "float64":
            raise ValueError(
                "force_fp16_output is True and the result is float64; it is for float32"
            )
        if fp16 and dtype == "float32":
            dtype = "float16"
        batch, channels, length = self.u.shape
        if not hbl:
            return empty(self.u.shape, dtype, self.u.kind)
        x, v = empty((channels, batch, length), dtype, self.u.kind)
        return x.swapaxes(0, 1), v.reshaped(
            self.u.shape, (v.strides[1], v.strides[0], v.strides[2])
        )

    def heads(self, k, k_rev):
        """Return (the Plan of one group, a `HeadsDesc` that holds the inputs)."""
        reverse = None if k_rev is None else k_rev.shape[-1]
        plan = cached_plan(
            (1, self.h, self.length),
            (1, 1, k.shape[-1]),
            reverse,
            self.wide,
            "causal" if k_rev is None else "two_sided",
            None,
            None,
            self.threads,
        )
        heads = _lib.HeadsDesc(
            size=ctypes.sizeof(_lib.HeadsDesc),
            gelu_u=self.gelu_u,
            gelu_q=self.gelu_q,
            activation=_lib.ACTIVATIONS[self.activation],
            threads=thread_count(self.threads),
        )
        _put(heads, u=self.u, v=self.v, q=self.q, k=k, k_rev=k_rev)
        _put_numbers(heads, skip=self.skip, mask=self.mask)
        return plan, heads

    def forward(self, k, k_rev, fp16, hbl):
        if self.u.device is not None:
            fp16 = fp16 and self.u.dtype == "float32"
            if hbl or fp16 or not self.is_direct([]):
                self.needs_cpu("this")
            return conv(self.u, k, self.v, self.q, **self.conv_arguments(k_rev))
        result, y = self.result(fp16, hbl)
        if self.is_direct([y.dtype]):
            conv(self.u, k, self.v, self.q, out=result, **self.conv_arguments(k_rev))
        else:
            plan, heads = self.heads(k, k_rev)
            _put(heads, y=y)
            _lib.lib.fftconv_heads_forward(plan._handle, byref(heads))
        return finish(result, self.u.kind)

    def backward(self, d, k, k_rev):
        """Return {name: gradient}, each in its operand's dtype and array library.

        d: a View of dout.
        """
        d = self.typed(self._rows(d, "dout"), "dout", _DOUT[self.wide])
        if self.is_direct([d.dtype]):
            g = conv_backward(d, self.u, k, self.v, self.q, **self.conv_arguments(k_rev))
            return {
                "u": g.du,
                "k": g.dk,
                "k_rev": g.dk_rev,
                "D": g.dskip,
                "v": g.din_gate,
                "q": g.dout_gate,
            }
        self.needs_cpu("this")
        plan, heads = self.heads(k, k_rev)
        _put(heads, dy=d)
        operands = dict(u=self.u, v=self.v, q=self.q, k=k, k_rev=k_rev, D=self.skip)
        operands = {name: of for name, of in operands.items() if of is not None}
        results = {}
        for name, of in operands.items():
            results[name], g = empty(of.shape, of.dtype, of.kind)
            if name == "D":
                _put_numbers(heads, dskip=g)
            else:
                _put(heads, **{"d" + name: g})
        _lib.lib.fftconv_heads_backward(plan._handle, byref(heads))
        return {
            name: finish(demoted(x, operands[name]), operands[name].kind)
            for name, x in results.items()
        }


def _put(heads, **views):
    for name, v in views.items():
        if v is not None:
            pack(heads, _OFFSET[name], v)


def _put_numbers(heads, **views):
    """Pass skip (G,) to C as a tensor (1, G, 1), and mask (B, G) as (B, G, 1)."""
    for name, v in views.items():
        if v is not None:
            batch = v.shape[0] if len(v.shape) == 2 else 1
            pack_tensor(
                heads,
                _OFFSET[name],
                v.pointer,
                _lib.DTYPES[v.dtype],
                0,
                batch,
                v.shape[-1],
                1,
                *((0,) + tuple(v.strides))[-2:],
                1,
            )


def fftconv_fwd(
    u,
    filter,
    D,
    v=None,
    head_dim=1,
    q=None,
    dropout_mask=None,
    gelu=True,
    gelu_inp=False,
    gelu_q=False,
    fft_size=None,
    force_fp16_output=False,
    output_hbl_layout=False,
    fftfp16=False,
    *,
    threads=None,
):
    """hyena-dna's fftconv_fwd: compute out (B, H, L) by the equations of this module.

    Args:
        u: (B, H, L), real.
        filter: (H / head_dim, fft_size / 2 + 1), complex: the rfft of kernels of fft_size
            taps, with the bins in natural order.  A tap at fft_size - s multiplies the input
            s samples ahead.  The imaginary parts of the first and last bin are ignored.
        D: (H / head_dim,), the skip weights; None means no skip.
        v, q: arrays of u's shape.  Give both or neither; without them head_dim must be 1.
        head_dim: any divisor of H.
        dropout_mask: (B, H), real or boolean, already scaled.  Group g of batch entry b uses
            dropout_mask[b, g], so only its first H / head_dim columns are read.
        gelu: True makes act the GELU, False the identity.
        gelu_inp: apply GELU to u, before the product with v.
        gelu_q: apply GELU to q.
        fft_size: even and at least 2 L; None takes it from the shape of filter.
        force_fp16_output: return out in float16 if it would be float32.
        output_hbl_layout: out lies in memory as a contiguous (H, B, L); its shape remains
            (B, H, L).
        fftfp16: accepted for compatibility and ignored; the arithmetic is in float32, and in
            float64 if out is float64.
        threads: None means all processors.  The result does not depend on it.

    dtypes promote as in `fftconv.conv`: out is float64 if one operand is, or if filter is
    complex128.  It has 16 bits if u, v and q share one 16-bit dtype and D, filter and
    dropout_mask have 16 bits, float32 or complex64.  Otherwise it is float32.

    Returns out, an array from the same library as u.  Raises TypeError for an argument that
    is not an array of numbers, and ValueError for wrong values; the message names the argument,
    and nothing has been written.  Raises `Unsupported` on a GPU, and MemoryError.

    Example:
        >>> taps = np.array([[1.0, 1.0]])
        >>> fftconv_fwd([[[1, 2, 3]]], np.fft.rfft(taps, 6), None, gelu=False).round(6).tolist()
        [[[1.0, 3.0, 5.0]]]
    """
    bins = view(filter, "filter", devices=True)
    call = _HeadsCall(
        u, D, v, head_dim, q, dropout_mask, gelu, gelu_inp, gelu_q, threads, others=[bins]
    )
    bins, n = call.filter(bins, fft_size)
    return call.forward(*call.taps(bins, n), force_fp16_output, output_hbl_layout)


def fftconv_bwd(
    dout,
    u,
    filter,
    D,
    v=None,
    head_dim=1,
    q=None,
    dropout_mask=None,
    gelu=True,
    gelu_inp=False,
    gelu_q=False,
    fft_size=None,
    output_hbl_layout=False,
    fftfp16=False,
    *,
    threads=None,
):
    """Return the `FilterGradients` (du, dfilter, dD, dv, dq) of sum(dout . out).

    dout: (B, H, L), real, with any strides.  If it is float64, all is computed in float64.
    output_hbl_layout: accepted for compatibility and ignored; the strides of dout say the same.

    The other arguments are those of `fftconv_fwd`, and the forward pass is computed again.
    du, dv, dq and dD have the dtypes of their operands, dfilter has that of filter.  dv and dq
    are None if v and q are.  Sums run in a fixed order, so two runs agree to the bit.
    Raises TypeError for an argument that is not an array of numbers, ValueError for wrong
    values, `Unsupported` on a GPU, and MemoryError.

    Example:
        >>> bins = np.fft.rfft([[1.0, 1.0]], 6)
        >>> g = fftconv_bwd([[[1, 1, 1]]], [[[1, 2, 3]]], bins, None, gelu=False)
        >>> g.du.round(6).tolist()
        [[[2.0, 2.0, 1.0]]]
    """
    bins, d = view(filter, "filter", devices=True), view(dout, "dout", devices=True)
    call = _HeadsCall(
        u, D, v, head_dim, q, dropout_mask, gelu, gelu_inp, gelu_q, threads, others=[bins, d]
    )
    bins, n = call.filter(bins, fft_size)
    k, k_rev = call.taps(bins, n)
    g = call.backward(d, k, k_rev)
    # Lay out the gradient of the taps with lag -s at n - s; lags of L and more never act.
    array, rows = empty((call.groups, n), call.wide, None)
    array[...] = 0
    array[:, : call.length] = g["k"]
    if call.length > 1:
        array[:, : -call.length : -1] = g["k_rev"][:, 1:]
    dfilter, out = empty(bins.shape, bins.dtype, bins.kind)
    rfft(rows, out, 1 / n, threads)
    dfilter = finish(demoted(dfilter, bins), bins.kind)
    return FilterGradients(g["u"], dfilter, g.get("D"), g.get("v"), g.get("q"))


def fftconv_func(
    u,
    k,
    D,
    dropout_mask=None,
    gelu=True,
    force_fp16_output=False,
    output_hbl_layout=False,
    v=None,
    head_dim=1,
    q=None,
    fftfp16=False,
    k_rev=None,
    *,
    threads=None,
):
    """hyena-dna's fftconv_func: `fftconv_fwd` with kernels given by their taps.

    k: (H / head_dim, Lk), with any Lk.  The convolution is causal.
    k_rev: (H / head_dim, any length) adds sum_{s>=0} k_rev[s] z[t + s], so that lag 0 counts
        in both k and k_rev.

    The other arguments, the promotion of dtypes and the errors are those of `fftconv_fwd`.
    On a GPU head_dim must be 1, and force_fp16_output and output_hbl_layout are not supported.

    Example:
        >>> import numpy as np
        >>> u = np.array([[[1, 2, 3]]], "float32")
        >>> fftconv_func(u, [[1, 1]], D=None, gelu=False).round(4).tolist()
        [[[1.0, 3.0, 5.0]]]
    """
    call, k, k_rev = _of_kernels(u, k, D, dropout_mask, gelu, v, head_dim, q, k_rev, threads)
    return call.forward(k, k_rev, force_fp16_output, output_hbl_layout)


def _of_kernels(u, k, D, dropout_mask, gelu, v, head_dim, q, k_rev, threads, others=()):
    """Return (the checked call, the View of k, the View of k_rev or None)."""
    k = view(k, "k", devices=True)
    k_rev = None if k_rev is None else view(k_rev, "k_rev", devices=True)
    call = _HeadsCall(
        u, D, v, head_dim, q, dropout_mask, gelu, False, False, threads, (k, k_rev), others
    )
    return call, call.kernel(k, "k"), call.kernel(k_rev, "k_rev")


def fftconv_func_backward(
    dout,
    u,
    k,
    D,
    dropout_mask=None,
    gelu=True,
    output_hbl_layout=False,
    v=None,
    head_dim=1,
    q=None,
    fftfp16=False,
    k_rev=None,
    *,
    threads=None,
):
    """Return the `FuncGradients` (du, dk, dD, dv, dq, dk_rev) of sum(dout . out).

    Each gradient has the shape and dtype of its operand.  The arguments are those of
    `fftconv_func`; dout is as in `fftconv_bwd`.  Raises TypeError for an argument that is not
    an array of numbers, ValueError for wrong values, `Unsupported` for an option that a GPU
    lacks, and MemoryError.

    Example:
        >>> g = fftconv_func_backward([[[1, 1, 1]]], [[[1, 2, 3]]], [[1, 1]], None, gelu=False)
        >>> g.du.round(6).tolist(), g.dk.round(6).tolist()
        ([[[2.0, 2.0, 1.0]]], [[6.0, 3.0]])
    """
    d = view(dout, "dout", devices=True)
    call, k, k_rev = _of_kernels(u, k, D, dropout_mask, gelu, v, head_dim, q, k_rev, threads, [d])
    g = call.backward(d, k, k_rev)
    return FuncGradients(*map(g.get, ("u", "k", "D", "v", "q", "k_rev")))
