"""`Stream`: a causal convolution of rows that arrive in pieces."""

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
from .plan import Plan, direct_form, kernel_axes, rows_axes

_OFFSET = tensor_offsets(_lib.Operands)

# The default for the longest piece that is convolved at once.  It is long enough that the
# overhead of a call is small, and that the plan can choose its own block length.
LONGEST_PIECE = 8192


class _StreamPlan(Plan):
    """A plan whose calls are given the Lk - 1 samples of z before the piece."""

    _history = 1


class Stream:
    """A causal convolution whose input arrives in pieces of any length.

        stream = Stream(k)                       # k (H, Lk)
        y = [stream.push(u) for u in pieces]     # (B, H, n), n >= 1

    The concatenated results equal `conv` of the concatenated pieces, up to rounding.
    Between the pieces the stream keeps only the last Lk - 1 samples of z = in_gate . u.

    k: (Lk,), (G, Lk), (1, G, Lk) or (B, G, Lk), as for `conv`.
    channels: H; None means G.
    batch: B.
    dtype: the dtype of u, the gates and y; None means that of k (float64 for a list or
        integers).
    skip: (H,).  activation: None, "gelu" or "silu".  Both are as for `conv`.
    block: the longest piece that is convolved at once; longer pieces are cut.  None
        means 8192 or Lk, whichever is more.
    threads: the number of threads of every push; None means all processors.

    A NaN or an infinity never reaches another row.  If k has at most 8 taps and dtype is
    real, outputs are summed directly, and it reaches those that it is a term of; else it
    spoils the piece it is in, before that sample too, and the pieces that see it through
    the kernel.

    A stream must not be used by several threads at once.  It is copied and pickled with its
    past; on the same kind of machine, the copy continues with the same bits.  Raises
    TypeError for an operand that is not an array of numbers, ValueError.

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
        form = direct_form(taps, dtype)
        plan = _StreamPlan(
            (batch, channels, block), v.shape, dtype=dtype, threads=threads, form=form
        )
        self._plan, self._spectrum = plan, plan.spectrum(v)
        self._block = block
        self._activation = choice(activation, "activation", _lib.ACTIVATIONS)
        self._skip = None
        if skip is not None:  # copied, since the caller may change the array
            skip = plan._pack_channels(_lib.Operands(), "skip", view(skip, "skip"), 1)
            self._skip = skip.numpy().copy()
        # _past[..., _end - (Lk - 1) : _end] holds the last Lk - 1 samples of z, in float32
        # if u has 16 bits.  The buffer has room for twice as many, so that they have to
        # be moved to its beginning only now and then.
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
        """An independent stream with the same kernels and the same past."""
        other = object.__new__(Stream)
        other.__dict__.update(self.__dict__)
        other._past = self._past.copy()
        return other

    __copy__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def reset(self):
        """Forget all input: the past is zero again."""
        self._history()[...] = 0

    def _why(self):
        return f"this stream is for {self._plan.dtype}"

    def _history(self):
        """The last Lk - 1 samples of z, as a view of the buffer."""
        return self._past[..., self._end - self._taps + 1 : self._end]

    @property
    def history(self):
        """The last Lk - 1 samples of z = in_gate . u, (B, H, Lk - 1), the latest one last.

        They are zero before the first piece.  Their dtype is the stream's, or float32 for
        16-bit streams.  Reading makes a copy; assigning an array replaces the past.
        """
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
        """The next n >= 1 samples of y, from the next n samples of u.

        u: (B, H, n); also (H, n) if B is 1, and (n,) if H is 1 as well; in the stream's
            dtype, or in one that converts to it without loss.
        in_gate, out_gate: of u's shape, or of one that broadcasts to it.
        mask: (B, H), real or boolean.

        Returns y, of u's shape and array library, in the stream's dtype.  Raises
        TypeError for an operand that is not an array of numbers and ValueError for a
        wrong value; the stream's past is then unchanged.
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
        """Append z = in_gate . u to the past, of which the last Lk - 1 samples are kept."""
        past, end = self._past, self._end
        new = min(self._taps - 1, u.shape[-1])
        if new == 0:
            return
        if end + new > past.shape[-1]:  # move the samples that are kept to the beginning
            kept = self._taps - 1 - new
            past[..., :kept] = past[..., end - kept : end]
            end = kept
        z = u[..., u.shape[-1] - new :]
        if gate is not None:
            z = z.astype(past.dtype) * gate.numpy()[..., -new:].astype(past.dtype)
        past[..., end : end + new] = z
        self._end = end + new
