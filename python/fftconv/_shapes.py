"""Calls with the shapes and modes of NumPy and SciPy, as calls on rows (B, H, L).

`conv` and `conv_backward` compute rows (B, H, L), (H, L) or (L,) themselves.  A call with
an `axis`, with mode "full", "same" or "valid", with more leading axes, or with kernels
that broadcast with u becomes such a call here (`Call`).  Each operand goes through linear
steps: moved, padded with zeros, repeated, reshaped.  Its gradient goes back through their
adjoints, in reverse order.
"""

import operator
from functools import lru_cache
from math import prod

import numpy as np

from . import _lib, cuda
from ._array import AXES, broadcasts, choice, finish, output_view, reduce_to, view
from ._backends import check_place
from .plan import DIRECT_TAPS, NEEDS, check_reverse

# The outputs of each mode, (first, behind the last), among the L + Lk - 1 of the full
# convolution of L samples with Lk taps.
WINDOWS = {
    "full": lambda length, taps: (0, length + taps - 1),
    "same": lambda length, taps: ((taps - 1) // 2, (taps - 1) // 2 + length),
    "valid": lambda length, taps: (min(length, taps) - 1, max(length, taps)),
}
MODES = (*_lib.MODES, *WINDOWS)


class _Operand:
    """An operand on its way to the shape in which a call on rows takes it.

    of: the View of the operand.
    x: the array so far, of `library`: torch or CuPy, if the operand is theirs, or NumPy.
    """

    def __init__(self, v, name):
        self.of = v
        if cuda._library(v.kind):
            self.library, self.x = v.kind, v.keep
        elif v.device is None:
            self.library, self.x = np, v.numpy()
        else:
            raise _lib.Unsupported(
                f"{name} is on cuda:{v.device} and of no library that can reshape it; it must be "
                "an array of torch or CuPy, or the call one on rows (B, H, L) as they stand"
            )
        self._adjoints = []

    def reshape(self, shape):
        old = tuple(self.x.shape)
        if shape != old:
            self.x = self.x.reshape(shape)
            self._adjoints.append(lambda g: g.reshape(old))

    def to_last(self, axis):
        """Make this axis, counted from the last, the last one."""
        moveaxis = self.library.moveaxis
        if axis != -1:
            self.x = moveaxis(self.x, axis, -1)
            self._adjoints.append(lambda g: moveaxis(g, -1, axis))

    def pad(self, before, after):
        """Add zeros before and after the samples, which are the last axis."""
        lib, samples = self.library, self.x.shape[-1]
        if before or after:
            zero = lib.zeros_like(self.x[..., :1])
            start, end = (lib.broadcast_to(zero, (*zero.shape[:-1], n)) for n in (before, after))
            self.x = lib.concatenate([start, self.x, end], -1)
            self._adjoints.append(lambda g: g[..., before : before + samples])

    def repeat(self, shape):
        """Broadcast to a shape of the same number of axes."""
        old = tuple(self.x.shape)
        if shape != old:
            self.x = self.library.broadcast_to(self.x, shape)
            self._adjoints.append(lambda g: reduce_to(g, tuple(g.shape), old))

    def view(self):
        """View of the array, with the dtype that the operand had at first."""
        if not self._adjoints and self.of.kind in (None, self.library):
            return self.of
        v = view(self.x, "", None, True)
        v.original_dtype = self.of.original_dtype
        return v

    def gradient(self, g):
        """The operand's gradient, from that of the array."""
        for adjoint in reversed(self._adjoints):
            g = adjoint(g)
        return finish(_contiguous(g, self.library), self.of.kind)


def _contiguous(x, library):
    return x.contiguous() if hasattr(x, "contiguous") else library.ascontiguousarray(x)


class Call:
    """A call of `conv` or `conv_backward`, whose arguments these are, as one on rows.

    arguments: those of the call on rows (B, H, n), but for activation, threads, device,
    dy, needs and out.  The n samples are what u and y cover together in the full
    convolution: y's are the last ones, and u is followed by zeros.
    """

    def __init__(
        self, u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, mask, layout, axis
    ):
        choice(mode, "mode", dict.fromkeys(MODES))
        given = {"u": u, "k": k, "in_gate": in_gate, "out_gate": out_gate}
        given.update(k_rev=k_rev, skip=skip, mask=mask)
        views = {
            name: view(x, name, None, True)
            for name, x in given.items()
            if x is not None or name in ("u", "k")
        }
        u, k = views["u"], views["k"]
        self._axis = _axis(axis, layout, u.shape)
        if 0 in u.shape:
            raise ValueError(f"u has shape {u.shape}; every axis must be at least 1 long")
        rows = list(u.shape)
        self._length, taps = rows.pop(self._axis), (k.shape or (0,))[-1]
        self._join(rows, k.shape)
        if mode == "two_sided" or k_rev is not None:
            check_reverse(k_rev, mode)
        self._start, self._samples = 0, self._length
        if mode in WINDOWS:
            given = None if skip is None else "given"
            for name, x in {"fft_size": fft_size, "pattern": pattern, "skip": given}.items():
                if x is not None:
                    raise ValueError(f"{name} is {x}; with mode={mode!r} it must be None")
            self._start, self._samples = WINDOWS[mode](self._length, taps)
            mode, fft_size = self._cheapest(taps)
        self._split(taps)

        self._operands = {name: _Operand(v, name) for name, v in views.items()}
        for name, operand in self._operands.items():
            getattr(self, _STEPS[name])(operand, name)
        self.arguments = {name: self._passed(x) for name, x in self._operands.items()}
        self.arguments.update(mode=mode, fft_size=fft_size, pattern=pattern)

    def _passed(self, operand):
        """What the call on rows is given for an operand."""
        return operand.view()

    def _join(self, rows, k_shape):
        """Broadcast the axes of u and k before their samples and taps.

        _rows, _kernels, _full: these axes of u, of k and of both together, in equal
        number, at least 1; the last one is H or G.  _lead: those of y.
        """
        kernels = _without_ones(k_shape[:-1], len(rows))
        axes = max(len(rows), len(kernels))
        self._rows, self._kernels = (
            (1,) * (max(axes, 1) - len(x)) + tuple(x) for x in (rows, kernels)
        )
        (*above_h, h), (*above_g, g) = self._rows, self._kernels
        try:
            if not k_shape or 0 in k_shape or h != 1 and h % g:
                raise ValueError
            above = np.broadcast_shapes(tuple(above_h), tuple(above_g))
        except ValueError:
            raise ValueError(
                f"k has shape {tuple(k_shape)}; it must be (Lk,), (G, Lk) or (..., G, Lk), G a "
                f"divisor of H = {h}, or any number if H is 1, with other axes that broadcast "
                f"with u's, {tuple(above_h)}, and Lk at least 1"
            ) from None
        self._full = (*above, h if h % g == 0 else g)
        self._lead = self._full if axes else ()

    def _cheapest(self, taps):
        """The mode and fft_size of the call on rows for a window of the full convolution.

        The circle holds the samples, and all outputs from the window's first one on: what
        wraps round it comes before the window.  It takes 0.82 of a causal call's time for
        100,000 samples and as many taps, but 1.09 for a tenth of the taps.  Few taps are
        summed directly, and no circle is needed.
        """
        if taps <= DIRECT_TAPS or 8 * taps <= self._samples:
            return "causal", None
        return "circular", _smooth(max(self._samples, self._length + taps - 1 - self._start, taps))

    def _split(self, taps):
        """Choose how many of the axes are the batch; the others are channels.

        Kernels that differ along an axis of the batch are repeated along all other axes,
        and rows are copied if an axis along which u repeats is merged with one along which
        it does not.

        _spread: the axes of the kernels, where those of the batch may all be 1.
        """

        def spread(batch):
            repeats = any(n > 1 for n in self._kernels[:batch])
            above = self._full[:batch] if repeats else (1,) * batch
            return (*above, *self._full[batch:-1], self._kernels[-1])

        def cost(batch):
            copied = any(
                len({n == m for n, m in zip(self._rows[part], self._full[part]) if m > 1}) > 1
                for part in (slice(batch), slice(batch, None))
            )
            return copied * prod(self._full) * self._samples + prod(spread(batch)) * taps

        costs = [cost(batch) for batch in range(len(self._full))] if len(self._full) > 1 else [0]
        self._batch = costs.index(min(costs))
        self._spread = spread(self._batch)

    def _merged(self, shape):
        """The batch and the channels of a shape like _full or _spread."""
        return prod(shape[: self._batch]), prod(shape[self._batch :])

    # ---- The way of each operand ------------------------------------------------

    def _rows_of_u(self, u, name):
        u.to_last(self._axis)
        u.reshape((*self._rows, self._length))
        self._merge_rows(u, 0, self._samples - self._length)

    def _rows_like_u(self, x, name):
        """in_gate, which broadcasts to y's axes with u's samples; out_gate or dy, to y's."""
        shape, given = self._shape(name == "in_gate"), tuple(x.x.shape)
        lead = len(shape) - len(given)
        if name == "dy" and given != shape:
            raise ValueError(f"dy has shape {given}; it must be {shape}, as y")
        if not broadcasts(given, shape):
            raise ValueError(f"{name} has shape {given}; it must be {shape}, or broadcast to it")
        x.reshape((1,) * lead + given)
        x.to_last(self._axis)
        if not self._lead:
            x.reshape((1, *x.x.shape))
        if name != "dy" and x.x.shape[-1] == 1:
            self._merge_rows(x, 0, 0)
        elif name == "in_gate":
            self._merge_rows(x, 0, self._samples - self._length)
        else:
            self._merge_rows(x, self._start, 0)

    def _merge_rows(self, x, before, after):
        x.pad(before, after)
        x.repeat((*self._full, self._samples))
        x.reshape((*self._merged(self._full), self._samples))

    def _taps(self, k, name):
        *lead, taps = k.x.shape or (0,)
        lead = _without_ones(lead, len(self._kernels))
        lead = (1,) * (len(self._kernels) - len(lead)) + tuple(lead)
        if lead != self._kernels or taps < 1:
            raise ValueError(
                f"{name} has shape {tuple(k.x.shape)}; it must be k's, "
                f"{tuple(self._operands['k'].of.shape)}, but for the length, at least 1"
            )
        k.reshape((*lead, taps))
        k.repeat((*self._spread, taps))
        k.reshape((*self._merged(self._spread), taps))

    def _channels(self, x, name):
        """skip (H,), or a mask, which broadcasts to the shape of y without its samples."""
        shape = self._full[-1:] if name == "skip" else self._full
        given = tuple(x.x.shape)
        lead = _without_ones(given, len(shape)) if name == "mask" else given
        if not broadcasts(lead, shape):
            raise ValueError(f"{name} has shape {given}; it must be {shape}, or broadcast to it")
        to = self._full[self._batch :] if name == "skip" else self._full
        x.reshape((1,) * (len(to) - len(lead)) + tuple(lead))
        x.repeat(to)
        x.reshape((prod(to),) if name == "skip" else self._merged(to))

    # ---- Results ------------------------------------------------------------------

    def _shape(self, of_u=False):
        """The shape of y; of_u: with u's samples instead."""
        samples = self._length if of_u else self._samples - self._start
        shape = list(self._lead)
        shape.insert(len(shape) + 1 + self._axis, samples)
        return tuple(shape)

    def dy(self, dy):
        """dy as the call on rows takes it."""
        operand = _Operand(view(dy, "dy", None, True), "dy")
        self._rows_like_u(operand, "dy")
        return operand.view()

    def y(self, y, out):
        """The result, or `out`, to which it is copied, from that of the call on rows."""
        u = self._operands["u"]
        y = y.reshape((*self._full, self._samples))[..., self._start :]
        y = u.library.moveaxis(y.reshape((*self._lead, y.shape[-1])), -1, self._axis)
        if out is None:
            return finish(_contiguous(y, u.library), u.of.kind)
        v = view(y, "y", None, True)
        to = output_view(out, "out", v.shape, v.dtype, True)
        check_place(to, "out", v.device)
        if v.device is None:
            to.numpy()[...] = v.numpy()
        else:
            to.keep[...] = y
        return out

    def gradients(self, g):
        """The `Gradients` of the operands, from those of the call on rows."""
        return g._replace(
            **{
                "d" + name: self._operands[name].gradient(x)
                for name, x in zip(NEEDS, g)
                if x is not None
            }
        )


# How each operand comes to the shape that the call on rows takes: a method of `Call`.
_STEPS = {
    "u": "_rows_of_u",
    "k": "_taps",
    "k_rev": "_taps",
    "in_gate": "_rows_like_u",
    "out_gate": "_rows_like_u",
    "skip": "_channels",
    "mask": "_channels",
}


def _without_ones(shape, axes):
    """A shape without the axes of length 1 in front that are more than `axes`."""
    shape = tuple(shape)
    while len(shape) > axes and shape[0] == 1:
        shape = shape[1:]
    return shape


def _axis(axis, layout, shape):
    """The axis of the samples, counted from the last, -1; ValueError if it is none of u's."""
    axes = len(shape)
    if axes == 0:
        raise ValueError("u has 0 axes; it must have at least 1, which is L")
    choice(layout, "layout", AXES)
    said = -2 if layout == "BLH" and axes > 1 else -1
    if axis is None:
        return said
    try:
        found = operator.index(axis)
    except TypeError:
        raise ValueError(f"axis is {axis!r}; it must be a whole number or None") from None
    if not -axes <= found < axes:
        raise ValueError(
            f"axis is {axis}; u has shape {shape}: it must be from {-axes} to {axes - 1}"
        )
    found -= axes if found >= 0 else 0
    if layout == "BLH" and found != said:
        raise ValueError(f"axis is {axis}; layout 'BLH' says {said}: leave one of them out")
    return found


@lru_cache(maxsize=64)
def _smooth(n):
    """The smallest multiple of 4 from n up that has no prime factor above 7."""
    odd = [1]
    for p in (3, 5, 7):
        for x in odd:
            if x * p < n:
                odd.append(x * p)  # the loop goes on to this one
    return min(x << max(2, (-(-n // x) - 1).bit_length()) for x in odd)
