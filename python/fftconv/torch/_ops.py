"""The operators that torch sees, `torch.ops.fftconv.*`: kernels, shapes and batching rules.

Each operation has an operator NAME, which computes it, and NAME_gradients, which computes those
of its first gradients that `needs` asks for.  They know nothing of autograd (see `_autograd`).
"""

import ast
from functools import cache, lru_cache, partial
from typing import Callable, NamedTuple

import torch
from torch._C._functorch import unwrap_if_dead

from .. import convolution
from ..pattern import Pattern, as_pattern
from ..plan import kernel_axes, reverse_axes

_library = torch.library.Library("fftconv", "DEF")
_NEEDS = ("u", "k", "k_rev", "in_gate", "out_gate", "skip")


def thread_count(threads):
    """The threads of a call: torch's own number, unless the caller named one."""
    return torch.get_num_threads() if threads is None else threads


def define(name, operands, options, forward, backward, fake, fake_gradients, batched):
    """Define the operator `name` and its gradients; returns an `Operator` for each.

    operands, options: their parts of the schema.
    forward(*operands, *options), backward(g, *operands, *options, needs): the computation.
    fake, fake_gradients: the same, but they only make empty results, and check.
    batched(run, operands, dims, size, gradients): the batching rule, see `fold_batch`.
    """
    count = len(operands.split(","))
    for suffix, schema, kernel, shapes in (
        ("", f"({operands}, {options}) -> Tensor", forward, fake),
        (
            "_gradients",
            f"(Tensor g, {operands}, {options}, bool[] needs) -> Tensor[]",
            backward,
            fake_gradients,
        ),
    ):
        _library.define(f"{name}{suffix}{schema}")
        for device in ("CPU", "CUDA"):
            # A program that torch.export made may call it with parameters.
            _library.impl(f"{name}{suffix}", torch.no_grad()(kernel), device)
        full = f"fftconv::{name}{suffix}"
        torch.library.register_fake(full, shapes, lib=_library)
        rule = partial(_batching_rule, name + suffix, count + bool(suffix), batched)
        torch.library.register_vmap(full, rule, lib=_library)
    return (
        Operator(getattr(torch.ops.fftconv, name).default, forward),
        Operator(getattr(torch.ops.fftconv, name + "_gradients").default, backward),
    )


class Operator(NamedTuple):
    """An operator, and the kernel that computes it.

    The kernel may be called where `plain` finds that nobody watches the operators: torch's
    dispatcher takes as long as a small convolution.
    """

    op: Callable
    kernel: Callable


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def plain(x):
    """A list of the tensors or None x as a kernel takes them; None if it must be an operator."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    ):
        return None
    found = []
    for v in x:
        if v is not None:
            if type(v) not in _PLAIN:
                return None
            # A pull of torch.func.vjp that is called later gets tensors wrapped for it.
            v = unwrap_if_dead(v)
        found.append(v)
    return found


def _batching_rule(name, count, batched, info, dims, *arguments):
    op, rest = getattr(torch.ops.fftconv, name).default, arguments[count:]
    gradients = name.endswith("_gradients")
    return batched(
        lambda *x: op(*x, *rest),
        arguments[:count],
        dims[:count],
        info.batch_size,
        rest,
        rest[-1] if gradients else None,
    )


# ---- Batching ---------------------------------------------------------------------


def loop(run, x, dims, size, options, needs):
    """The batching rule that calls `run` once for each entry of the batch."""
    results = [
        run(*(v if d is None else v.select(d, i) for v, d in zip(x, dims))) for i in range(size)
    ]
    if needs is None:
        return torch.stack(results), 0
    stacked = [torch.stack(column) for column in zip(*results)]
    return stacked, [0] * len(stacked)


def fold(x, dim, axis, size):
    """x with the batch axis `dim` (None: repeated) made part of its axis `axis`."""
    if x is None:
        return None
    if dim is None:
        x, dim = x.unsqueeze(0).expand(size, *x.shape), 0
    if axis < 0:
        axis += x.dim() - 1
    return x.movedim(dim, axis).flatten(axis, axis + 1)


def fold_rows(run, x, dims, size, options, needs, channels, layout):
    """The batching rule of operations whose channels do not meet.

    Only rows are batched: the new batch becomes part of B.  Otherwise, and in gradients,
    which sum over B, it becomes part of the channels.
    channels: the axis of the channels in each operand, for layout BHL; the first operand has
    rows, and so has each operand of three axes whose channels are at axis 1.
    """
    rows = [a == 1 for a in channels]
    swapped = layout == "BLH"
    if needs is None and not any(d is not None and not r for d, r in zip(dims, rows)):
        folded = []
        for v, d, r in zip(x, dims, rows):
            own = v is not None and (r or v.dim() == 3 and v.shape[0] > 1)
            folded.append(fold(v, d, 0, size) if own else v)
        return run(*folded).unflatten(0, (size, -1)), 0
    axes = [
        2 if swapped and v is not None and v.dim() - (d is not None) == 3 and a == 1 else a
        for v, d, a in zip(x, dims, channels)
    ]
    y = run(*(fold(v, d, a, size) for v, d, a in zip(x, dims, axes)))
    if needs is None:
        return y.unflatten(axes[0], (size, -1)), axes[0]
    out, where = [], []
    for g, a in zip(y, [a for a, need in zip(axes[1:], needs) if need]):
        a += g.dim() if a < 0 else 0
        out.append(g.unflatten(a, (size, -1)))
        where.append(a)
    return out, where


# ---- conv -------------------------------------------------------------------------


def pattern_name(pattern):
    """A Pattern, or what makes one, as a string that an operator can take; None for None."""
    pattern = as_pattern(pattern)
    return None if pattern is None else repr((pattern._kind, *pattern._arguments))


@lru_cache(maxsize=32)
def _pattern(name):
    pattern = Pattern.__new__(Pattern)
    pattern._set(*ast.literal_eval(name))
    return pattern


def _arguments(k_rev, skip, mask, mode, fft_size, activation, pattern, layout, threads):
    return dict(
        k_rev=k_rev,
        skip=skip,
        mask=mask,
        mode=mode,
        fft_size=fft_size,
        activation=activation,
        pattern=None if pattern is None else _pattern(pattern),
        layout=layout,
        threads=thread_count(threads),
    )


@cache
def _wanted(*needs):
    return [name for name, need in zip(_NEEDS, needs) if need]


def _conv(u, k, k_rev, in_gate, out_gate, skip, mask, *options):
    return convolution.conv(u, k, in_gate, out_gate, **_arguments(k_rev, skip, mask, *options))


def _conv_gradients(g, u, k, k_rev, in_gate, out_gate, skip, mask, *options):
    *options, needs = options
    names = _wanted(*needs)
    found = convolution.conv_backward(
        g, u, k, in_gate, out_gate, needs=names, **_arguments(k_rev, skip, mask, *options)
    )
    return [getattr(found, "d" + name) for name in names]


def _check_shapes(u, k, k_rev, in_gate, out_gate, skip, mask, mode, fft_size, layout):
    """Raise ValueError for shapes that the computation would refuse."""
    b, h, n = u.shape if layout == "BHL" else (u.shape[0], u.shape[2], u.shape[1])
    axes = kernel_axes(k.shape, b, h)
    if k_rev is not None:
        reverse_axes(k_rev.shape, axes)
    if fft_size is not None and (fft_size < n or fft_size < axes[2]):
        raise ValueError(f"fft_size is {fft_size}; it must be at least L = {n} and Lk = {axes[2]}")
    for name, x, shape in (
        ("in_gate", in_gate, u.shape),
        ("out_gate", out_gate, u.shape),
        ("skip", skip, (h,)),
        ("mask", mask, (b, h)),
    ):
        if x is not None and tuple(x.shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be {tuple(shape)}")


def _fake_conv(u, k, k_rev, in_gate, out_gate, skip, mask, mode, fft_size, act, pattern, layout, t):
    _check_shapes(u, k, k_rev, in_gate, out_gate, skip, mask, mode, fft_size, layout)
    return u.new_empty(u.shape)


def fake_gradients(g, *arguments):
    """Empty gradients, each like its operand; for every operation."""
    *x, needs = arguments
    return [v.new_empty(v.shape) for v, need in zip(x, needs) if need]


#: The axis of the channels in each operand of conv.
_CHANNELS = (1, -2, -2, 1, 1, 0, 1)


def batched_conv(run, x, dims, size, options, needs):
    channels = _CHANNELS if needs is None else (1, *_CHANNELS)
    return fold_rows(run, x, dims, size, options, needs, channels, options[4])


conv, conv_gradients = define(
    "conv",
    "Tensor u, Tensor k, Tensor? k_rev, Tensor? in_gate, Tensor? out_gate, Tensor? skip, "
    "Tensor? mask",
    "str mode, SymInt? fft_size, str? activation, str? pattern, str layout, int? threads",
    _conv,
    _conv_gradients,
    _fake_conv,
    fake_gradients,
    batched_conv,
)
