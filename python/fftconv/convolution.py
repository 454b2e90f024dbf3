"""The convolution in one call, and its gradients; plans are kept behind it."""

from functools import lru_cache

from . import _lib, cuda
from ._array import COMPLEX_OF, KERNEL_DTYPES, choice, view
from .pattern import as_pattern
from .plan import Plan, check_reverse, kernel_axes, reverse_axes, rows_axes


@lru_cache(maxsize=32, typed=True)  # typed: 64.0 is no size, 64 is
def _plan(rows, kernel, reverse, dtype, mode, fft_size, pattern, threads, device=None):
    return Plan(
        rows,
        kernel,
        dtype=dtype,
        mode=mode,
        fft_size=fft_size,
        k_rev_length=reverse,
        pattern=pattern,
        threads=threads,
        device=device,
    )


def _once(kernel, k, k_rev):
    """Kernels that repeat along an axis (stride 0), as one: their axes, then
    k and k_rev as Views of these axes."""
    views = [v for v in (k, k_rev) if v is not None]
    strides = [(0,) * (3 - len(v.shape)) + tuple(v.strides) for v in views]
    axes = [1 if all(s[i] == 0 for s in strides) else kernel[i] for i in range(2)]
    views = [v.reshaped((*axes, v.shape[-1]), s) for v, s in zip(views, strides)]
    return (*axes, kernel[2]), views[0], views[1] if k_rev is not None else None


BACKENDS = dict.fromkeys(("auto", "cpu", "cuda"))


def check_backend(backend, v=None):
    """The backend can be had, and is where View v of u is, if that is given."""
    choice(backend, "backend", BACKENDS)
    if backend == "cuda" and not cuda.available():
        raise _lib.Unsupported(
            "backend is 'cuda', and there is no CUDA device, "
            "no driver, or no CUDA in this build; it must be "
            "'auto' or 'cpu'"
        )
    if v is not None and backend != "auto" and ((v.device is None) != (backend == "cpu")):
        there = "the CPU" if v.device is None else f"cuda:{v.device}"
        raise ValueError(
            f"u is on {there}, and backend is {backend!r}; it must be where the backend computes"
        )


def _call(
    u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, layout, threads, forward, backend
):
    """The plan, and what its _forward and _backward take first: (View of u,
    its axes, Views of k, k_rev, in_gate, out_gate and skip)."""
    v = view(u, "u", devices=True)
    if backend != "auto":
        check_backend(backend, v)
    axes = rows_axes(len(v.shape), layout)
    shape = v.shape
    if axes != (0, 1, 2):
        shape = tuple(1 if a is None else shape[a] for a in axes)
    if 0 in shape:
        raise ValueError(f"u has shape {v.shape}; every axis must be at least 1 long")
    dtype = v.dtype
    k = view(k, "k", KERNEL_DTYPES[dtype][-1], True)
    kernel = kernel_axes(k.shape, shape[0], shape[1])
    dtypes = [dtype, k.dtype]
    if in_gate is not None:
        in_gate = view(in_gate, "in_gate", dtype, True)
        dtypes.append(in_gate.dtype)
    if out_gate is not None:
        out_gate = view(out_gate, "out_gate", dtype, True)
        dtypes.append(out_gate.dtype)
    if skip is not None:
        skip = view(skip, "skip", KERNEL_DTYPES[dtype][-1], True)
        dtypes.append(skip.dtype)
    reverse = None
    if k_rev is not None or mode == "two_sided":
        check_reverse(k_rev, mode)
        k_rev = view(k_rev, "k_rev", KERNEL_DTYPES[dtype][-1], True)
        reverse = reverse_axes(k_rev.shape, kernel)
        dtypes.append(k_rev.dtype)
    if "complex64" in dtypes or "complex128" in dtypes:
        widest = {COMPLEX_OF[name] for name in dtypes}
        dtype = "complex128" if "complex128" in widest else "complex64"
    if forward and 0 in k.strides:
        kernel, k, k_rev = _once(kernel, k, k_rev)
    if pattern is not None:
        pattern = as_pattern(pattern)
    arguments = (shape, kernel, reverse, dtype, mode, fft_size, pattern, threads, v.device)
    try:
        plan = _plan(*arguments)
    except TypeError:  # not hashable: Plan says what
        plan = _plan.__wrapped__(*arguments)
    return plan, (v, axes, k, k_rev, in_gate, out_gate, skip)


def conv(
    u,
    k,
    in_gate=None,
    out_gate=None,
    *,
    mode="causal",
    fft_size=None,
    k_rev=None,
    pattern=None,
    skip=None,
    activation=None,
    mask=None,
    layout="BHL",
    threads=None,
    backend="auto",
    out=None,
):
    """Gated long convolution of any length, with kernels of any length.

        z = in_gate . u                   pre-gate
        p = z * k + skip . z              convolution and skip
        y = out_gate . mask . act(p)      activation, mask, post-gate

    Args:
        u: (B, H, L), (H, L) or (L,); float64, float32, float16, bfloat16,
            complex128 or complex64. A NumPy array, a torch tensor, or what
            speaks ``__array_interface__``, DLPack or ``__array__``; or on a
            CUDA device, see `cuda`, all arrays then on the same one.
        k: (Lk,), one kernel for all channels; (G, Lk) or (1, G, Lk), G a
            divisor of H: channel h has kernel h // (H // G); or (B, G, Lk).
            u's dtype, or float32 beside 16 bits. What repeats by a stride of 0
            is transformed once.
        in_gate, out_gate: u's dtype; u's shape, or broadcast to it.
        mode: "causal", y[t] = sum_{s<=t} k[s] z[t-s]; "circular", the same
            with t - s modulo fft_size; "two_sided", causal and
            sum_{s>=0} k_rev[s] z[t+s], so that lag 0 counts in both.
        fft_size: circular only: at least L and Lk; None means L.
        k_rev: two-sided only, and needed there: k's leading axes and dtypes,
            its own length.
        pattern: circular and real only: a `Pattern`, or a boolean mask of the
            fft_size // 2 + 1 rfft bins. z * k is then
            Re IDFT(DFT(z) . mask . DFT(k)); blocks of stages that hold only
            removed bins are skipped, where fft_size has no prime factor above
            7 (else k is filtered beforehand).
        skip: (H,). activation: None, "gelu" (x Phi(x), by erf) or "silu".
        mask: (B, H). skip and mask have k's choice of dtypes.
        layout: "BHL", or "BLH": u, gates and y (B, L, H) or (L, H); k, skip
            and mask as before.
        threads: None means all processors. The result does not depend on it.
        backend: "auto", where u is; "cpu" and "cuda" refuse a u that is not
            there.
        out: where to put y: u's shape, the result's dtype; may be u itself,
            and must not overlap any other operand.

    Where u, k, k_rev, a gate or skip is complex, so is y, in the complex type
    of the widest of them (complex128 if one is float64 or complex128, else
    complex64); activation must then be None, and mask is real.

    Returns y, of u's shape, dtype and kind. Arithmetic is in float32 (float64
    for float64 and complex128). A row's result depends on no other row, to the
    bit.

    On a CUDA device u has float32, or 16 bits (float16 inside, float32 sums; an
    exponent for each row), and pattern is None; the call does not wait for the
    device.

    Raises ValueError naming the argument, before anything is written;
    `Unsupported` for what a device does not do; MemoryError.

    FlashFFTConv, arXiv 2311.05908, section 3; patterns, appendix A.4.
    """
    plan, (v, axes, k, k_rev, in_gate, out_gate, skip) = _call(
        u,
        k,
        in_gate,
        out_gate,
        mode,
        fft_size,
        k_rev,
        pattern,
        skip,
        layout,
        threads,
        True,
        backend,
    )
    return plan._forward(v, axes, k, k_rev, in_gate, out_gate, skip, activation, mask, out)


def conv_backward(
    dy,
    u,
    k,
    in_gate=None,
    out_gate=None,
    *,
    mode="causal",
    fft_size=None,
    k_rev=None,
    pattern=None,
    skip=None,
    activation=None,
    mask=None,
    layout="BHL",
    threads=None,
    backend="auto",
    needs=None,
):
    """`Gradients` (du, dk, din_gate, dout_gate, dskip, dk_rev) of sum(dy . y).

    dy has u's shape, and y's dtype; the other arguments are those of `conv`,
    whose result is computed again.  needs: which gradients, out of "u", "k",
    "in_gate", "out_gate", "skip", "k_rev"; None means all whose operand is
    given.  The others are None.  Each has its operand's own shape and dtype;
    dk, dk_rev and dskip are summed over the rows that share them in float32 or
    better and in a fixed order: two runs agree to the bit.  The gradient of a
    complex operand x is dL/dRe x + i dL/dIm x, that of a real one real.

    Raises ValueError naming the argument; MemoryError.
    """
    plan, (v, axes, k, k_rev, in_gate, out_gate, skip) = _call(
        u,
        k,
        in_gate,
        out_gate,
        mode,
        fft_size,
        k_rev,
        pattern,
        skip,
        layout,
        threads,
        False,
        backend,
    )
    return plan._backward(dy, v, axes, k, k_rev, in_gate, out_gate, skip, activation, mask, needs)
