"""Streaming: a causal convolution of rows that arrive in pieces."""

import ctypes

import numpy as np

from . import _lib
from ._array import (
    KERNEL_DTYPES,
    broadcast_strides,
    choice,
    dtype_name,
    empty,
    finish,
    fixed,
    numpy_dtype,
    size,
    view,
)
from ._handles import pack, tensor_offsets
from .plan import Plan, kernel_axes, rows_axes

_OFFSET = tensor_offsets(_lib.Operands)

# A plan's rows, where the caller names no longest piece: long enough that a
# call's overhead is small, and that the plan may choose its blocks.
LONGEST_PIECE = 8192


class _StreamPlan(Plan):
    """A plan that is given the Lk - 1 samples before each piece."""

    _history = 1


class Stream:
    """A causal convolution that takes its input in pieces of any length.

        stream = Stream(k)                       # k (H, Lk)
        y = [stream.push(u) for u in pieces]     # (B, H, n), n >= 1

    The pieces' results, put together, are `conv` of the pieces put together,
    to rounding.  It remembers the last Lk - 1 samples of z, nothing else.

    k: (Lk,), (G, Lk), (1, G, Lk) or (B, G, Lk), as for `conv`.
    channels: H; None means G.  batch: B.
    dtype: of u, gates and y; None means k's (float64 for a list or integers).
    skip: (H,); activation: None, "gelu" or "silu"; both as for `conv`.
    block: the longest piece that is convolved at once; a longer one goes in
        several.  None means a length that suits k.
    threads: of every push; None means all processors.

    A stream is not shared between threads.  Raises TypeError for what is no array of
    numbers, ValueError.

    Example:
        >>> stream = Stream([1, 1])
        >>> stream.push([1, 2]).round(6).tolist(), stream.push([3]).round(6).tolist()
        ([1.0, 3.0], [5.0])
    """

    def __init__(
        self,
        k,
        *,
        channels=None,
        batch=1,
        dtype=None,
        skip=None,
        activation=None,
        block=None,
        threads=None,
    ):
        if dtype is not None:
            dtype = dtype_name(dtype)
        v = view(k, "k", KERNEL_DTYPES[dtype or "float64"][-1])
        dtype = dtype or v.dtype
        batch = size(batch, "batch")
        if channels is None:
            channels = v.shape[-2] if len(v.shape) > 1 else 1
        else:
            channels = size(channels, "channels")
        taps = kernel_axes(v.shape, batch, channels)[2]
        if block is None:
            block = max(taps, LONGEST_PIECE)
        else:
            block = size(block, "block")
        plan = _StreamPlan((batch, channels, block), v.shape, dtype=dtype, threads=threads)
        self._plan, self._spectrum = plan, plan.spectrum(v)
        self._block = block
        self._activation = choice(activation, "activation", _lib.ACTIVATIONS)
        self._skip = None
        if skip is not None:  # a copy: the caller may change his
            skip = plan._pack_channels(_lib.Operands(), "skip", view(skip, "skip"), 1)
            self._skip = view(skip.numpy().copy(), "skip")
        # z, not rounded to 16 bits: before the next piece are the Lk - 1
        # samples up to _end.  Twice that many fit, so that they seldom move.
        self._taps, self._end = taps, taps - 1
        self._past = np.zeros(
            (batch, channels, 2 * (taps - 1)), numpy_dtype(plan._kernel_dtypes[-1])
        )

    def __repr__(self):
        batch, channels, _ = self._past.shape
        return (
            f"Stream(k=(..., {self._taps}), channels={channels}, "
            f"batch={batch}, dtype={self._plan.dtype!r}, "
            f"block={self._block})"
        )

    def copy(self):
        """A stream of the same kernels and past, that goes its own way."""
        other = object.__new__(Stream)
        other.__dict__.update(self.__dict__)
        other._past = self._past.copy()
        return other

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def reset(self):
        """Forget all input."""
        self._history()[...] = 0

    def _why(self):
        return f"this stream is for {self._plan.dtype}"

    def _history(self):
        """The last Lk - 1 samples, where they lie."""
        return self._past[..., self._end - self._taps + 1 : self._end]

    @property
    def history(self):
        """(B, H, Lk - 1), in the stream's dtype, float32 for 16 bits:
        z = in_gate . u before the next piece, the latest last, zero before the
        first.  A copy; what is assigned to it is the stream's new past."""
        return self._history().copy()

    @history.setter
    def history(self, z):
        v = fixed(z, "history", self._plan._kernel_dtypes, self._why())
        past = self._history()
        if v.shape != past.shape:
            raise ValueError(
                f"history has shape {v.shape}; it must be {past.shape}, (B, H, Lk - 1)"
            )
        past[...] = v.numpy()

    def push(self, u, in_gate=None, out_gate=None, *, mask=None):
        """The next n >= 1 samples of y from the next n of u.

        u: (B, H, n); (H, n) if B is 1, (n,) if H is too; the stream's dtype, or one
        that is narrower and loses nothing.  in_gate, out_gate: u's shape, or broadcast
        to it.  mask: (B, H), real or boolean.  Returns y, of u's shape and kind, in the
        stream's dtype.  Raises TypeError for what is no array of numbers, ValueError,
        and then has taken nothing in.
        """
        plan, dtype = self._plan, self._plan.dtype
        v = fixed(u, "u", (dtype,), self._why())
        rows_axes(len(v.shape), "BHL")
        rows = (1,) * (3 - len(v.shape)) + tuple(v.shape)
        if rows[:2] != self._past.shape[:2] or rows[2] < 1:
            batch, channels, _ = self._past.shape
            raise ValueError(
                f"u has shape {v.shape}; this stream is for ({batch}, {channels}, n), n at least 1"
            )
        result, y = empty(v.shape, dtype, v.kind)
        arrays = {"u": v, "y": y}
        for name, gate in (("in_gate", in_gate), ("out_gate", out_gate)):
            if gate is not None:
                arrays[name] = fixed(gate, name, (dtype,), self._why())
        for name, x in arrays.items():
            strides = broadcast_strides(x, name, v.shape)
            arrays[name] = x.reshaped(rows, (0,) * (3 - len(v.shape)) + tuple(strides))
        ops = _lib.Operands(size=ctypes.sizeof(_lib.Operands), activation=self._activation)
        ops.keep = [
            plan._pack_channels(ops, name, x, n)
            for name, x, n in (("skip", self._skip, 1), ("mask", mask, rows[0]))
            if x is not None
        ]
        for start in range(0, rows[2], self._block):
            stop = min(start + self._block, rows[2])
            piece = {name: x.part(start, stop) for name, x in arrays.items()}
            for name, x in piece.items():
                pack(ops, _OFFSET[name], x)
            if self._past.size:
                pack(ops, _OFFSET["history"], view(self._history(), "history"))
            plan._backend.execute(plan, _lib.FORWARD, self._spectrum._handle, ops, piece, (), False)
            self._remember(piece["u"].numpy(), piece.get("in_gate"))
        return finish(result, v.kind)

    def _remember(self, u, gate):
        """Append in_gate . u, or the last Lk - 1 samples of it."""
        past, end = self._past, self._end
        new = min(self._taps - 1, u.shape[-1])
        if new == 0:
            return
        if end + new > past.shape[-1]:  # to the front, what is still seen
            kept = self._taps - 1 - new
            past[..., :kept] = past[..., end - kept : end]
            end = kept
        z = u[..., u.shape[-1] - new :]
        if gate is not None:
            z = z.astype(past.dtype) * gate.numpy()[..., -new:].astype(past.dtype)
        past[..., end : end + new] = z
        self._end = end + new
