"""The convolution in one call, and its gradients; plans are kept behind it."""

from ._array import KERNEL_DTYPES, real, result_dtype, view
from ._backends import check_device
from .pattern import as_pattern
from .plan import cached_plan, check_reverse, kernel_axes, reverse_axes, rows_axes


def _collapse_repeats(kernel, k, k_rev):
    """Kernels that repeat along an axis (stride 0), as one: their axes, then
    k and k_rev as Views of these axes."""
    views = [v for v in (k, k_rev) if v is not None]
    strides = [(0,) * (3 - len(v.shape)) + tuple(v.strides) for v in views]
    axes = [1 if all(s[i] == 0 for s in strides) else kernel[i] for i in range(2)]
    views = [v.reshaped((*axes, v.shape[-1]), s) for v, s in zip(views, strides)]
    return (*axes, kernel[2]), views[0], views[1] if k_rev is not None else None


def _prepared(
    u,
    k,
    in_gate,
    out_gate,
    mode,
    fft_size,
    k_rev,
    pattern,
    skip,
    mask,
    layout,
    threads,
    device,
    dy=None,
):
    """The plan, and what its _forward and _backward take first: (View of u,
    its axes, Views of k, k_rev, in_gate, out_gate, skip and mask).  dy: a View, of a
    backward call."""
    v = view(u, "u", None, True)
    if device is not None:
        check_device(device, v)
    axes = rows_axes(len(v.shape), layout)
    shape = v.shape
    if axes != (0, 1, 2):
        shape = tuple(1 if a is None else shape[a] for a in axes)
    if 0 in shape:
        raise ValueError(f"u has shape {v.shape}; every axis must be at least 1 long")
    # Alike: nothing needs to be converted, and u's type is the result's.
    dtype, numbers = v.dtype, KERNEL_DTYPES[v.dtype]
    k = view(k, "k", None, True)
    kernel = kernel_axes(k.shape, shape[0], shape[1])
    alike = k.dtype in numbers and (dy is None or dy.dtype == dtype)
    if in_gate is not None:
        in_gate = view(in_gate, "in_gate", None, True)
        alike = alike and in_gate.dtype == dtype
    if out_gate is not None:
        out_gate = view(out_gate, "out_gate", None, True)
        alike = alike and out_gate.dtype == dtype
    if skip is not None:
        skip = view(skip, "skip", None, True)
        alike = alike and skip.dtype in numbers
    if mask is not None:
        mask = real(view(mask, "mask", None, True), "mask")
        alike = alike and mask.dtype in numbers
    reverse = None
    if k_rev is not None or mode == "two_sided":
        check_reverse(k_rev, mode)
        k_rev = view(k_rev, "k_rev", None, True)
        reverse = reverse_axes(k_rev.shape, kernel)
        alike = alike and k_rev.dtype in numbers
    if not alike:
        dtype = result_dtype((v, in_gate, out_gate, dy), (k, k_rev, skip), mask)
    if dy is None and 0 in k.strides:
        kernel, k, k_rev = _collapse_repeats(kernel, k, k_rev)
    if pattern is not None:
        pattern = as_pattern(pattern)
    arguments = (shape, kernel, reverse, dtype, mode, fft_size, pattern, threads, v.device)
    try:
        plan = cached_plan(*arguments)
    except TypeError:  # not hashable: Plan says what
        plan = cached_plan.__wrapped__(*arguments)
    return plan, v, axes, k, k_rev, in_gate, out_gate, skip, mask


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
    device=None,
    out=None,
):
    """Gated long convolution of any length, with kernels of any length.

        z = in_gate . u                   pre-gate
        p = z * k + skip . z              convolution and skip
        y = out_gate . mask . act(p)      activation, mask, post-gate

    Args:
        u: (B, H, L), (H, L) or (L,); float64, float32, float16, bfloat16,
            complex128 or complex64; integers and booleans become float64. A NumPy
            array, a torch tensor, or what speaks ``__array_interface__``, DLPack or
            ``__array__``; or on a CUDA device, see `cuda`, all arrays then on the
            same one. A list of numbers, too.
        k: (Lk,), one kernel for all channels; (G, Lk) or (1, G, Lk), G a
            divisor of H: channel h has kernel h // (H // G); or (B, G, Lk).
            What repeats by a stride of 0 is transformed once.
        in_gate, out_gate: u's shape, or broadcast to it.
        mode: "causal", y[t] = sum_{s<=t} k[s] z[t-s]; "circular", the same
            with t - s modulo fft_size; "two_sided", causal and
            sum_{s>=0} k_rev[s] z[t+s], so that lag 0 counts in both.
        fft_size: circular only: at least L and Lk; None means L.
        k_rev: two-sided only, and needed there: k's leading axes, its own length.
        pattern: circular and real only: a `Pattern`, or a boolean mask of the
            fft_size // 2 + 1 rfft bins. z * k is then
            Re IDFT(DFT(z) . mask . DFT(k)); blocks of stages that hold only
            removed bins are skipped, where fft_size has no prime factor above
            7 (else k is filtered beforehand).
        skip: (H,). activation: None, "gelu" (x Phi(x), by erf) or "silu".
        mask: (B, H), real or boolean.
        layout: "BHL", or "BLH": u, gates and y (B, L, H) or (L, H); k, skip
            and mask as before.
        threads: None means all processors. The result does not depend on it.
        device: None, where u is; "cpu", "cuda" or "cuda:1" refuse a u that is not
            there, "cuda" being any CUDA device.
        out: where to put y: u's shape, the result's dtype; may be u itself,
            and must not overlap any other operand.

    Types promote as they do in NumPy and torch: y is complex if u, k, k_rev, a gate or
    skip is (activation must then be None), and float64 or complex128 if one operand
    has that precision; else float32, or 16 bits where u and the gates all have the
    same 16-bit type, beside which k, k_rev, skip and mask may have 16 bits or
    float32. Python numbers and lists take the type of the arrays that they stand
    beside, a boolean mask that of any. What needs no conversion is not copied.

    Returns y, of u's shape and kind. Arithmetic is in float32 (float64 for float64
    and complex128). A row's result depends on no other row, to the bit.

    On a CUDA device pattern is None, and 16 bits are float16 inside with float32
    sums and an exponent for each row; the call does not wait for the device.

    Raises TypeError for what is no array of numbers and ValueError for wrong values,
    naming the argument, before anything is written; `Unsupported` for what a device
    does not do, or where there is none; MemoryError.

    FlashFFTConv, arXiv 2311.05908, section 3; patterns, appendix A.4.

    Example:
        >>> conv([1, 2, 3], [1, 1]).round(6).tolist()
        [1.0, 3.0, 5.0]
        >>> conv([1, 2, 3], [1, 1], mode="circular").round(6).tolist()
        [4.0, 3.0, 5.0]
    """
    plan, v, axes, k, k_rev, in_gate, out_gate, skip, mask = _prepared(
        u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, mask, layout, threads, device
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
    device=None,
    needs=None,
):
    """`Gradients` (du, dk, din_gate, dout_gate, dskip, dk_rev) of sum(dy . y).

    dy has u's shape, and takes part in the promotion of types as a gate does; the
    other arguments are those of `conv`, whose result is computed again.  needs: which
    gradients, out of "u", "k", "in_gate", "out_gate", "skip", "k_rev"; None means all
    whose operand is given.  The others are None.  Each has its operand's own shape and
    dtype, float64 where that is of integers; dk, dk_rev and dskip are summed over the
    rows that share them in float32 or better and in a fixed order: two runs agree to
    the bit.  The gradient of a complex operand x is dL/dRe x + i dL/dIm x, that of a
    real one real.

    Raises TypeError for what is no array of numbers and ValueError for wrong values,
    naming the argument; `Unsupported` for what a device does not do, or where there
    is none; MemoryError.

    Example:
        >>> g = conv_backward([1, 1, 1], [1, 2, 3], [1, 1])
        >>> g.du.round(6).tolist(), g.dk.round(6).tolist()
        ([2.0, 2.0, 1.0], [6.0, 3.0])
    """
    dy = view(dy, "dy", None, True)
    plan, v, axes, k, k_rev, in_gate, out_gate, skip, mask = _prepared(
        u,
        k,
        in_gate,
        out_gate,
        mode,
        fft_size,
        k_rev,
        pattern,
        skip,
        mask,
        layout,
        threads,
        device,
        dy,
    )
    return plan._backward(dy, v, axes, k, k_rev, in_gate, out_gate, skip, activation, mask, needs)
