"""The calls of hyena-dna's fftconv: `fftconv_fwd`, `fftconv_bwd`, `fftconv_func`.

Channels come in groups of head_dim = h, one kernel and one number of D each.  For
lanes i (of u and q) and j (of v and the output) of group g,

    z_ij = u_i . v_j                    (z = u without v and q, h = 1)
    p_ij = z_ij * k_g + D_g z_ij        causal; with k_rev two-sided
    out_j = sum_i q_i . mask[b, g] . act(p_ij),   act = GELU by erf, or nothing

with gelu_inp, GELU(u) in u's place, with gelu_q, GELU(q) in q's.  The h h rows of
a group are never there together: memory beside operands and results is that of
one group for each thread, whatever the batch.  H3, arXiv 2212.14052; Hyena,
arXiv 2302.10866.
"""

import ctypes
from ctypes import byref
from typing import Any, NamedTuple

from . import _lib
from ._array import KERNEL_DTYPES, PROMOTED, check_dtype, empty, finish, numpy_dtype, size, view
from .convolution import _plan, conv, conv_backward
from .natural import backwards, first, irfft, rfft
from .plan import _pack, _pack_tensor, thread_count

_COMPLEX = {"float32": "complex64", "float64": "complex128"}


class FilterGradients(NamedTuple):
    """What `fftconv_bwd` returns.  dfilter is the DFT of the taps' gradient
    divided by fft_size, so that irfft(dfilter, fft_size, norm="forward")[:L] is
    dk; not torch's gradient of a half spectrum, whose inner bins are doubled."""

    du: Any
    dfilter: Any
    dD: Any
    dv: Any = None
    dq: Any = None


class KernelGradients(NamedTuple):
    """What `fftconv_func_backward` returns; None where absent."""

    du: Any
    dk: Any
    dD: Any = None
    dv: Any = None
    dq: Any = None
    dk_rev: Any = None


class _Call:
    """The checked rows of one call; kernels are Views of the arithmetic's type.

    u, v, q, skip, mask: Views or None; mask (B, G), the columns that are read.
    """

    def __init__(self, u, D, v, head_dim, q, mask, gelu, gelu_inp, gelu_q, threads):
        self.u = u = view(u, "u", devices=True)
        if len(u.shape) != 3 or 0 in u.shape:
            raise ValueError(f"u has shape {u.shape}; it must be (B, H, L), each at least 1")
        if u.dtype in PROMOTED:
            raise ValueError(f"u has dtype {u.dtype}; it must be real")
        batch, channels, self.length = u.shape
        self.h = size(head_dim, "head_dim")
        if channels % self.h:
            raise ValueError(f"head_dim is {self.h}; it must divide H = {channels}")
        self.groups = channels // self.h
        self.dtype = "float64" if u.dtype == "float64" else "float32"
        self.v, self.q = self._rows(v, "v"), self._rows(q, "q")
        if (v is None) != (q is None):
            here, there = ("q", "v") if v is None else ("v", "q")
            raise ValueError(f"{here} is given and {there} is None; v and q come together")
        if v is None and self.h > 1:
            raise ValueError(f"v and q are None; with head_dim = {self.h} they must be given")
        self.skip = self._numbers(D, "D", (self.groups,))
        self.mask = self._numbers(mask, "dropout_mask", (batch, channels))
        if mask is not None:
            self.mask = self.mask.part(0, self.groups)
        self.activation = "gelu" if gelu else None
        self.gelu_u, self.gelu_q = bool(gelu_inp), bool(gelu_q)
        if self.gelu_q and q is None:
            raise ValueError("gelu_q is True and q is None; q must be given")
        self.threads = threads

    def _rows(self, x, name):
        if x is None:
            return None
        v = view(x, name, self.u.dtype, True)
        if v.shape != self.u.shape:
            raise ValueError(f"{name} has shape {v.shape}; it must be {self.u.shape}, as u")
        check_dtype(v, name, (self.u.dtype,), self.u.dtype)
        return v

    def _numbers(self, x, name, shape):
        if x is None:
            return None
        allowed = KERNEL_DTYPES[self.u.dtype]
        v = view(x, name, allowed[-1], True)
        if v.shape != shape:
            raise ValueError(f"{name} has shape {v.shape}; it must be {shape}")
        check_dtype(v, name, allowed, self.u.dtype)
        return v

    def kernel(self, k, name):
        """(G, Lk) in the arithmetic's type."""
        v = view(k, name, self.dtype, True)
        if len(v.shape) != 2 or v.shape[0] != self.groups or v.shape[1] < 1:
            raise ValueError(
                f"{name} has shape {v.shape}; it must be "
                f"(H / head_dim, Lk) = ({self.groups}, Lk), Lk at "
                "least 1"
            )
        check_dtype(v, name, KERNEL_DTYPES[self.u.dtype], self.u.dtype)
        if v.dtype == self.dtype or v.device is not None:
            return v
        wide = view(v.numpy().astype(numpy_dtype(self.dtype)), name)
        wide.was, wide.kind = v.dtype, v.kind
        return wide

    def filter(self, x, fft_size):
        """(G, n // 2 + 1) complex, and n."""
        self.needs_cpu("a filter")
        v = view(x, "filter", self.dtype)
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
        check_dtype(v, "filter", (_COMPLEX[self.dtype],), self.u.dtype)
        return v, n

    def taps(self, bins, n):
        """k and k_rev (G, L), Views of irfft(filter) and a zero behind it: lag
        -s is at n - s, and lag 0 counts once."""
        array, rows = empty((self.groups, n + 1), self.dtype, None)
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
        """One lane, and no type or GELU that `conv` does not have."""
        return (
            self.h == 1
            and not self.gelu_u
            and not self.gelu_q
            and all(d == self.u.dtype for d in dtypes)
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
        """(array (B, H, L), its View): the output, still to be written."""
        dtype = self.u.dtype
        if fp16 and dtype == "float64":
            raise ValueError("force_fp16_output is True and u has dtype float64; it is for float32")
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
        """(Plan of a group, Heads with the inputs)."""
        reverse = None if k_rev is None else k_rev.shape[-1]
        plan = _plan(
            (1, self.h, self.length),
            (1, 1, k.shape[-1]),
            reverse,
            self.dtype,
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

    def backward(self, dout, k, k_rev):
        """Gradients by name, each of its operand's dtype and kind."""
        d = view(dout, "dout", self.u.dtype, True)
        if d.shape != self.u.shape:
            raise ValueError(f"dout has shape {d.shape}; it must be {self.u.shape}, as u")
        check_dtype(
            d,
            "dout",
            [
                name
                for name in KERNEL_DTYPES
                if (name not in PROMOTED and (name == "float64") == (self.dtype == "float64"))
            ],
            self.u.dtype,
        )
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
        results = {}
        for name, of in dict(u=self.u, v=self.v, q=self.q, k=k, k_rev=k_rev).items():
            if of is not None:
                results[name], g = empty(of.shape, of.dtype, of.kind)
                _put(heads, **{"d" + name: g})
        if self.skip is not None:
            results["D"], g = empty((self.groups,), self.skip.dtype, self.skip.kind)
            _put_numbers(heads, dskip=g)
        _lib.lib.fftconv_heads_backward(plan._handle, byref(heads))
        return {name: finish(x, self.u.kind) for name, x in results.items()}


def _put(heads, **views):
    for name, v in views.items():
        if v is not None:
            _pack(heads, getattr(_lib.HeadsDesc, name).offset, v)


def _put_numbers(heads, **views):
    """skip (G,) as (1, G, 1) and mask (B, G) as (B, G, 1)."""
    for name, v in views.items():
        if v is not None:
            batch = v.shape[0] if len(v.shape) == 2 else 1
            _pack_tensor(
                heads,
                getattr(_lib.HeadsDesc, name).offset,
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
    """hyena-dna's fftconv_fwd: out (B, H, L), as the module's docstring says.

    Args:
        u: (B, H, L); float32, float16, bfloat16 or float64.
        filter: (H / head_dim, fft_size / 2 + 1) complex64 (complex128 beside
            float64), the rfft of kernels of fft_size taps, in natural order; a
            tap at fft_size - s acts s samples ahead. The imaginary parts of its
            first and last bins do not act.
        D: (H / head_dim,), float32 or u's dtype; None means none.
        v, q: u's shape and dtype; together, or neither, which head_dim = 1
            alone allows.
        head_dim: any divisor of H.
        dropout_mask: (B, H), D's choice of dtypes, already scaled; read at
            [b, g]: its first H / head_dim columns.
        gelu: act is GELU. gelu_inp: GELU on u, before v. gelu_q: GELU on q.
        fft_size: even, at least 2 L; None means what filter's shape says.
        force_fp16_output: out is float16 where u is float32.
        output_hbl_layout: out's memory is (H, B, L), contiguous; its shape is
            (B, H, L).
        fftfp16: accepted; arithmetic is in float32 (float64 for float64).
        threads: None means all processors. The result does not depend on it.

    Returns out, of u's kind. Raises ValueError naming the argument, before
    anything is written; MemoryError.
    """
    call = _Call(u, D, v, head_dim, q, dropout_mask, gelu, gelu_inp, gelu_q, threads)
    bins, n = call.filter(filter, fft_size)
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
    """`FilterGradients` (du, dfilter, dD, dv, dq) of sum(dout . out).

    dout: (B, H, L) of any strides, float32 or 16 bits (float64 beside float64);
    output_hbl_layout says nothing that its strides do not. The other arguments
    are those of `fftconv_fwd`, which is computed again. du, dv, dq and dD have
    their operands' dtypes; dfilter is complex as filter. dv and dq are None
    where v and q are. Sums run in a fixed order: two runs agree to the bit.
    Raises ValueError; MemoryError.
    """
    call = _Call(u, D, v, head_dim, q, dropout_mask, gelu, gelu_inp, gelu_q, threads)
    bins, n = call.filter(filter, fft_size)
    k, k_rev = call.taps(bins, n)
    g = call.backward(dout, k, k_rev)
    # The taps' gradient, lag -s at n - s; none but lags below L ever act.
    array, rows = empty((call.groups, n), call.dtype, None)
    array[...] = 0
    array[:, : call.length] = g["k"]
    if call.length > 1:
        array[:, : -call.length : -1] = g["k_rev"][:, 1:]
    dfilter, out = empty(bins.shape, bins.dtype, bins.kind)
    rfft(rows, out, 1 / n, threads)
    return FilterGradients(g["u"], finish(dfilter, bins.kind), g.get("D"), g.get("v"), g.get("q"))


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
    """hyena-dna's fftconv_func: `fftconv_fwd` of a kernel k (H / head_dim, Lk).

    k: any Lk, float32 or u's dtype. Causal; with k_rev, of its own length, also
    sum_{s>=0} k_rev[s] z[t + s], so that lag 0 counts in both. The other
    arguments are those of `fftconv_fwd`.
    """
    call = _Call(u, D, v, head_dim, q, dropout_mask, gelu, False, False, threads)
    k = call.kernel(k, "k")
    k_rev = None if k_rev is None else call.kernel(k_rev, "k_rev")
    return call.forward(k, k_rev, force_fp16_output, output_hbl_layout)


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
    """`KernelGradients` (du, dk, dD, dv, dq, dk_rev) of sum(dout . out), each of
    its operand's shape and dtype; arguments as in `fftconv_func`."""
    call = _Call(u, D, v, head_dim, q, dropout_mask, gelu, False, False, threads)
    k = call.kernel(k, "k")
    k_rev = None if k_rev is None else call.kernel(k_rev, "k_rev")
    g = call.backward(dout, k, k_rev)
    for name, of in ("k", k), ("k_rev", k_rev):
        if of is not None and of.was != of.dtype:
            g[name] = finish(view(g[name], name).numpy().astype(numpy_dtype(of.was)), of.kind)
    return KernelGradients(*map(g.get, ("u", "k", "D", "v", "q", "k_rev")))
