"""`conv` and `conv_backward`: the convolution and its gradients without an explicit plan.

Both fetch their `Plan` from a cache.
"""

from . import _lib
from ._array import AXES, KERNEL_DTYPES, choice, real, result_dtype, view
from ._backends import check_device
from ._shapes import Call
from .pattern import as_pattern
from .plan import cached_plan, check_reverse, fitting_axes, kernel_axes, reverse_axes, rows_axes

_MODES = tuple(_lib.MODES)


def _collapse_repeats(kernel, k, k_rev):
    """Reduce to length 1 each axis along which the kernels only repeat (stride 0).

    A kernel is then transformed once, and not once for each repetition.  Returns the new
    axes (1 or B, G, Lk), then k and k_rev (or None) as Views of these axes.
    """
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
    axis,
    threads,
    device,
    dy=None,
):
    """The cached plan of a call, and its operands as Views.

    Returns (plan, u, the axes of u, k, k_rev, in_gate, out_gate, skip, mask), where
    an operand that was not given is None.  dy: a View in a backward call, whose dtype
    then takes part in the promotion of types; else None.

    Returns None for a call that is not one on rows (B, H, L) as it stands; `Call` makes
    one of it.  Operands that are Views come from this package, which refuses such calls.
    """
    if axis is not None or mode not in _MODES:
        return None
    v = view(u, "u", None, True)
    if device is not None:
        check_device(device, v)
    axes = choice(layout, "layout", AXES).get(len(v.shape))
    if axes is None:
        return rows_axes(len(v.shape), layout) if v is u else None
    shape = v.shape
    if axes != (0, 1, 2):
        shape = tuple(1 if a is None else shape[a] for a in axes)
    if 0 in shape:
        raise ValueError(f"u has shape {v.shape}; every axis must be at least 1 long")
    # `alike` stays true while every operand already has a dtype that fits u's.  The
    # result then has u's dtype, and the promotion of types below can be left out.
    dtype, numbers = v.dtype, KERNEL_DTYPES[v.dtype]
    k = view(k, "k", None, True)
    kernel = fitting_axes(k.shape, shape[0], shape[1])
    if kernel is None:
        return kernel_axes(k.shape, shape[0], shape[1]) if v is u else None
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
    arguments = (shape, kernel, reverse, dtype, mode, fft_size, pattern, threads, v.device, True)
    try:
        plan = cached_plan(*arguments)
    except TypeError:  # An argument is not hashable; Plan itself names it in its error.
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
    axis=None,
    threads=None,
    device=None,
    out=None,
):
    """Gated long convolution of any length, with kernels of any length.

        z = in_gate . u                   pre-gate
        p = z * k + skip . z              convolution and skip
        y = out_gate . mask . act(p)      activation, mask, post-gate

    Args:
        u: shape (..., H, L) or (L,), most often (B, H, L), dtype float64, float32,
            float16, bfloat16, complex128 or complex64; integers and booleans are
            converted to float64.
            A NumPy array, a CPU torch tensor, a list of numbers, or any object with
            ``__array_interface__``, DLPack or ``__array__``. Arrays on a CUDA device
            are described in `cuda`; all operands must then be on the same device.
        k: shape (Lk,), one kernel for all channels; or (G, Lk), (B, G, Lk), (..., G, Lk),
            G a divisor of H, where channel h uses kernel h // (H // G). The axes before
            G broadcast with u's by NumPy's rules, and so does G if H is 1: u (L,) and
            k (7, Lk) give y (7, L). Where groups and broadcasting are both possible, they
            are the same; but axes of length 1 in front of k that u lacks add none to y.
            Kernels that repeat along an axis of stride 0 are transformed once.
        in_gate, out_gate: of the shape of u and of y, or of one that broadcasts to it.
        mode: "causal", y[t] = sum_{s<=t} k[s] z[t-s]; "circular", the same sum with
            t - s taken modulo fft_size; "two_sided", the causal sum plus
            sum_{s>=0} k_rev[s] z[t+s], so that lag 0 is counted in both sums.
            "full", "same" and "valid" are those of scipy.signal.fftconvolve: of the
            L + Lk - 1 outputs of the linear convolution, which takes z as zero beyond
            its ends, all; the L from (Lk - 1) // 2 on; the max(L, Lk) - min(L, Lk) + 1
            that meet no zero.  "same" keeps u's length even if k is longer, where
            np.convolve would keep k's.  These three take no skip.
        fft_size: the circular mode's period, at least L and Lk; None means L.
            Other modes take None only.
        k_rev: the two-sided mode's second kernel, required there and not allowed
            elsewhere: the leading axes of k, and a length of its own.
        pattern: circular mode and real types only: a `Pattern`, or a boolean mask of
            the fft_size // 2 + 1 rfft bins. z * k is then
            Re IDFT(DFT(z) . mask . DFT(k)). If fft_size has no prime factor above 7,
            blocks of stages that hold only removed bins are skipped; for other sizes
            the kernel is filtered beforehand, and nothing is saved.
        skip: (H,). activation: None, "gelu" (x Phi(x), by erf) or "silu".
        mask: (B, H), real or boolean; y's shape without L, or one that broadcasts to it.
        layout: "BHL", or "BLH", where u, the gates and y are (..., L, H) or (L,);
            the shapes of k, skip and mask are the same in both.
        axis: the axis of u, the gates and y that is L, in place of a layout.  Their other
            axes are (..., H), in their order; L is the last axis of k as always.
        threads: None means all processors. The result does not depend on it.
        device: None means where u is. "cpu", "cuda:1" or "cuda", which stands for any
            CUDA device, raise ValueError if u is elsewhere.
        out: the array to write y to, of y's shape and dtype. It may be u itself, and
            must not overlap any other operand.

    Types promote as they do in NumPy and PyTorch: y is complex if u, k, k_rev, a gate
    or skip is complex (activation must then be None), and float64 or complex128 if any
    operand has that precision. Otherwise y is float32; or, if u and the gates all have
    the same 16-bit type, that type, and k, k_rev, skip and mask may then have 16 bits
    or float32. Python numbers and lists take the type of the arrays they are used
    with, and a boolean mask fits any type. An operand is copied only if it must be
    converted, padded, or, with axes that rows (B, H, L) do not have, brought into their
    order.

    Returns y, of u's array library, and of u's shape unless k has more axes or the mode
    another length. Arithmetic is in float32 (float64 for float64 and complex128). Each
    row's result is independent of all other rows, to the last bit. On a CPU, operands of
    any magnitude, denormal numbers too, keep that precision, and a result is infinite
    only where the true one is. A NaN or an infinity in u, k or a gate
    never reaches another row. Of its own row, it reaches what it is a term of if the taps
    are few: real rows on the CPU whose kernel has at most 8 taps, k_rev's included, are
    summed directly, without a pattern. The zeros around the row that modes "full", "same"
    and "valid", or a longer circle, add count as samples. With more taps, it spoils
    the whole row, before that sample too.

    On a CUDA device pattern must be None and types real, and an axis, a mode or axes that
    rows (B, H, L) do not have need arrays of torch or CuPy.  16-bit types are computed in
    float16, with float32 sums and one exponent for each row, or in float32 if rows are
    too long for that (see `Plan`, engine).  The call does not wait for the device.

    Raises TypeError for an operand that is not an array of numbers and ValueError for
    a wrong value, both before anything is written and naming the argument;
    `Unsupported` for what the device cannot do, or if there is no such device;
    MemoryError.

    FlashFFTConv, arXiv 2311.05908, section 3; patterns, appendix A.4.

    Example:
        >>> conv([1, 2, 3], [1, 1]).round(6).tolist()
        [1.0, 3.0, 5.0]
        >>> conv([1, 2, 3], [1, 1], mode="circular").round(6).tolist()
        [4.0, 3.0, 5.0]
        >>> conv([1, 2, 3], [[1, 1], [2, 2]], mode="full").round(6).tolist()
        [[1.0, 3.0, 5.0, 3.0], [2.0, 6.0, 10.0, 6.0]]
    """
    arguments = (u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, mask, layout, axis)
    prepared = _prepared(*arguments, threads, device)
    if prepared is None:
        call = Call(*arguments)
        options = {"activation": activation, "threads": threads, "device": device}
        return call.y(conv(**call.arguments, **options), out)
    plan, v, axes, k, k_rev, in_gate, out_gate, skip, mask = prepared
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
    axis=None,
    threads=None,
    device=None,
    needs=None,
):
    """`Gradients` (du, dk, din_gate, dout_gate, dskip, dk_rev) of L = sum(dy . y).

    If y is complex, L = Re sum(conj(dy) . y).  dy has y's shape, and takes part in the
    promotion of types as a gate does.  The other arguments are those of `conv`, whose
    intermediate results are computed again.
    needs: the operands whose gradients are wanted, out of "u", "k", "in_gate",
    "out_gate", "skip" and "k_rev"; None means all that are given.  The other gradients
    are None.

    Each gradient has the shape and dtype of its operand (float64 for an operand of
    integers).  dk, dk_rev and dskip are summed over the rows that share them in float32
    or better and in a fixed order, so that two runs agree to the last bit.  Along axes
    that u or k was broadcast to, gradients are rounded to their dtype and then summed
    likewise.  The gradient of a complex operand x is dL/dRe x + i dL/dIm x; that of a real
    operand is real.  A NaN or an infinity, in dy too, reaches the gradients that it is a
    term of, if the taps are few enough that `conv` sums them directly; else those of all
    its row, and of the kernel and the skip that the row uses.

    Raises TypeError for an operand that is not an array of numbers and ValueError for
    a wrong value, both naming the argument; `Unsupported` for what the device cannot
    do, or if there is no such device; MemoryError.

    Example:
        >>> g = conv_backward([1, 1, 1], [1, 2, 3], [1, 1])
        >>> g.du.round(6).tolist(), g.dk.round(6).tolist()
        ([2.0, 2.0, 1.0], [6.0, 3.0])
    """
    dy = view(dy, "dy", None, True)
    arguments = (u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, mask, layout, axis)
    prepared = _prepared(*arguments, threads, device, dy)
    if prepared is None:
        call = Call(*arguments)
        options = {"activation": activation, "threads": threads, "device": device, "needs": needs}
        return call.gradients(conv_backward(call.dy(dy), **call.arguments, **options))
    plan, v, axes, k, k_rev, in_gate, out_gate, skip, mask = prepared
    return plan._backward(dy, v, axes, k, k_rev, in_gate, out_gate, skip, activation, mask, needs)
