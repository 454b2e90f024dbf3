"""`conv`: the long convolution of tensors, with its gates, skip and activation."""

import torch

from .. import _lib
from .._array import broadcasts
from .._shapes import Call
from .._view import View
from ..plan import check_reverse, fitting_axes
from . import _ops
from ._autograd import OPERATIONS, Operation, apply
from ._parts import activated

_16_BITS = (torch.float16, torch.bfloat16)


def _compose(options, u, k, k_rev, in_gate, out_gate, skip, mask):
    """conv from its bilinear part and torch's own operations; 16 bits become float32."""
    mode, fft_size, activation, pattern, layout, threads = options
    dtype, wide = u.dtype, wide_dtype(u.dtype)
    u, k, k_rev, in_gate, out_gate, skip = (
        x if x is None else x.to(wide) for x in (u, k, k_rev, in_gate, out_gate, skip)
    )
    last = -1 if layout == "BLH" else -2  # the axis of the channels in rows
    z = u if in_gate is None else in_gate * u
    p = apply("conv", (mode, fft_size, None, pattern, layout, threads), z, k, k_rev, *(None,) * 4)
    if skip is not None:
        p = p + (skip if last == -1 else skip[:, None]) * z
    y = activated(p, activation)
    if mask is not None:
        mask = mask if wide.is_complex else mask.to(wide)
        y = y * (mask[:, None, :] if last == -1 else mask[:, :, None])
    return (y if out_gate is None else out_gate * y).to(dtype)


def _is_bilinear(x, options):
    return options[2] is None and all(v is None for v in x[3:])


OPERATIONS["conv"] = Operation(
    _ops.conv, _ops.conv_gradients, _is_bilinear, _compose, _ops.batched_conv
)


def wide_dtype(dtype):
    """The dtype itself, or float32 if it has 16 bits."""
    return torch.float32 if dtype in _16_BITS else dtype


def kernel_dtype(dtype, own):
    """The dtype in which a kernel of dtype `own` meets rows of dtype `dtype`."""
    return own if own == dtype else wide_dtype(dtype)


def result_dtype(rows, kernels, mask=None):
    """The dtype of a result, by the rules of `fftconv.conv`; operands may be None."""
    rows = [x.dtype for x in rows if x is not None]
    every = rows + [x.dtype for x in kernels if x is not None]
    is_complex = any(d.is_complex for d in every)
    if mask is not None and mask.dtype != torch.bool:
        every.append(mask.dtype)
    if any(
        d in (torch.float64, torch.complex128) or not (d.is_floating_point or d.is_complex)
        for d in every
    ):
        real = torch.float64
    elif rows[0] in _16_BITS and all(d == rows[0] for d in rows):
        real = rows[0]
    else:
        real = torch.float32
    if not is_complex:
        return real
    return torch.complex128 if real == torch.float64 else torch.complex64


def tensors(**operands):
    """Raise TypeError for an operand that is neither a tensor nor None."""
    for name, x in operands.items():
        if x is not None and not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}; it must be a torch.Tensor")


def _expanded(x, name, shape):
    """x broadcast to `shape`, or ValueError."""
    if x is None or x.shape == shape:
        return x
    if not broadcasts(x.shape, shape):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it must be {tuple(shape)}, or broadcast to it"
        )
    return x.expand(shape)


class _TensorCall(Call):
    """A call of other axes and modes as one on rows, by torch's own differentiable steps."""

    def _passed(self, operand):
        return operand.x


def _as_view(x):
    """A View that tells `Call` what it needs of a tensor; None for None."""
    if x is None:
        return None
    return View(None, str(x.dtype).removeprefix("torch."), tuple(x.shape), None, x, torch)


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
):
    """`fftconv.conv` for tensors: differentiable to any order, and traced by torch.compile.

    The operands are tensors on one device.  The arguments, shapes and dtypes are those of
    `fftconv.conv`; there are no out and device, and threads=None means
    `torch.get_num_threads()`.  Gradients flow to all operands but mask, which must not require
    grad.  The first backward pass is one call of `fftconv.conv_backward`; of an operand only
    what is needed is kept for it.

    Autocast changes nothing here: u may be in 16 bits beside k and skip in float32.

    torch.func's grad, vjp, jvp, vmap, jacrev and jacfwd work, and so does torch.compile; but
    as everywhere in torch, second derivatives through a compiled function raise RuntimeError.

    Returns y, as `fftconv.conv` does.  Raises TypeError for an operand that is not a tensor of
    numbers and ValueError for a wrong value.

    Example:
        >>> import torch
        >>> u, k = torch.randn(2, 3, 100), torch.randn(3, 100, requires_grad=True)
        >>> conv(u, k).square().mean().backward()
        >>> k.grad.shape
        torch.Size([3, 100])
    """
    tensors(u=u, k=k, k_rev=k_rev, in_gate=in_gate, out_gate=out_gate, skip=skip, mask=mask)
    shape = u.shape
    axes = len(shape)
    if layout not in ("BHL", "BLH"):
        raise ValueError(f"layout is {layout!r}; allowed: 'BHL', 'BLH'")
    if 0 in shape:
        raise ValueError(f"u has shape {tuple(shape)}; every axis must be at least 1 long")
    batch = shape[0] if axes == 3 else 1
    channels = 1 if axes < 2 else shape[-1] if layout == "BLH" else shape[-2]
    if (
        axis is not None
        or mode not in _lib.MODES
        or not 1 <= axes <= 3
        or fitting_axes(k.shape, batch, channels) is None
    ):
        call = _TensorCall(
            *map(_as_view, (u, k, in_gate, out_gate)),
            mode,
            fft_size,
            *map(_as_view, (k_rev,)),
            pattern,
            *map(_as_view, (skip, mask)),
            layout,
            axis,
        )
        return call.y(conv(**call.arguments, activation=activation, threads=threads), None)
    check_reverse(k_rev, mode)
    if mask is not None and mask.requires_grad:
        raise ValueError("mask requires grad, and none flows to it; pass mask.detach()")
    dtype = u.dtype
    kernels = (dtype, wide_dtype(dtype))
    more = not (in_gate is out_gate is k_rev is skip is mask is None)
    if (
        k.dtype not in kernels
        or not (dtype.is_floating_point or dtype.is_complex)
        or more
        and (
            any(x is not None and x.dtype != dtype for x in (in_gate, out_gate))
            or any(x is not None and x.dtype not in kernels for x in (k_rev, skip, mask))
        )
    ):
        dtype = result_dtype((u, in_gate, out_gate), (k, k_rev, skip), mask)
        u, in_gate, out_gate = (x if x is None else x.to(dtype) for x in (u, in_gate, out_gate))
        k, k_rev, skip = (
            x if x is None else x.to(kernel_dtype(dtype, x.dtype)) for x in (k, k_rev, skip)
        )
    if more:
        in_gate, out_gate = (
            _expanded(in_gate, "in_gate", shape),
            _expanded(out_gate, "out_gate", shape),
        )
        skip = _expanded(skip, "skip", (channels,))
        mask = _expanded(mask, "mask", (batch, channels))
    if axes < 3:
        to = (1, *shape) if axes == 2 else (1, 1, *shape) if layout == "BHL" else (1, *shape, 1)
        u, in_gate, out_gate = (x if x is None else x.reshape(to) for x in (u, in_gate, out_gate))
    if k.dim() == 1:
        k = k[None]
    if k_rev is not None and k_rev.dim() == 1:
        k_rev = k_rev[None]
    options = (mode, fft_size, activation, _ops.pattern_name(pattern), layout, threads)
    y = apply("conv", options, u, k, k_rev, in_gate, out_gate, skip, mask)
    return y if axes == 3 else y.reshape(shape)
