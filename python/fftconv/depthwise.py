"""Short depthwise convolutions: `depthwise_conv1d` and its gradients.

    y[b, d, l] = act(bias[d] + sum_k weight[d, k] x[b, d, l - left + k])

A cross-correlation, as torch.nn.Conv1d with groups = channels: x is zero outside
its samples.  FlashFFTConv's fast short convolution (its repository's README), of
any kernel size and padding.
"""

import ctypes
from ctypes import byref
from typing import Any, NamedTuple

from . import _lib
from ._array import choice, empty, finish, output_view, real, size, view
from ._handles import pack_tensor, tensor_offsets, thread_count
from .plan import rows_axes

NEEDS = ("x", "weight", "bias", "state")
_OFFSET = tensor_offsets(_lib.DepthwiseDesc)


class DepthwiseGradients(NamedTuple):
    """Gradients of sum(dy . y), each of its operand's shape, dtype and kind;
    None where absent or not asked for."""

    dx: Any = None
    dweight: Any = None
    dbias: Any = None
    dstate: Any = None


def real_view(x, name, listed="float32"):
    """View of a real array; of dtype `listed`, if it is a list."""
    return real(view(x, name, listed), name)


def check_padding(padding, taps, state):
    """(samples before, samples after) of zeros, or ValueError."""
    if state:
        if padding not in (0, "causal"):
            raise ValueError(f"padding is {padding!r}; with a state it must be 'causal'")
        padding = "causal"
    if isinstance(padding, str):
        return choice(
            padding,
            "padding",
            {"causal": (taps - 1, 0), "same": ((taps - 1) // 2, taps // 2), "valid": (0, 0)},
        )
    if isinstance(padding, (tuple, list)):
        if len(padding) == 1:  # as torch's Conv1d spells it
            padding = (*padding, *padding)
        if len(padding) != 2:
            raise ValueError(
                f"padding is {padding!r}; it must be a number, "
                "(before, after), 'causal', 'same' or 'valid'"
            )
        return tuple(size(p, "padding", 0) for p in padding)
    return (size(padding, "padding", 0),) * 2


class _DepthwiseCall:
    """The checked operands of one call, and its Depthwise."""

    def __init__(self, x, weight, bias, padding, activation, layout, state, threads, isa):
        self.x = x = real_view(x, "x")
        self.axes = rows_axes(len(x.shape), layout, "x")
        if len(x.shape) == 1:
            raise ValueError(
                "x has 1 axis; allowed: 3 (B, D, L) and 2 (D, L), in the order of the layout"
            )
        if 0 in x.shape:
            raise ValueError(f"x has shape {x.shape}; every axis must be at least 1 long")
        self.rows = tuple(1 if a is None else x.shape[a] for a in self.axes)
        channels = self.rows[1]
        self.weight = w = real_view(weight, "weight")
        shape = tuple(w.shape)
        if len(shape) == 3 and shape[1] == 1:  # torch's (D, 1, K)
            self.weight = w = w.reshaped((shape[0], shape[2]), (w.strides[0], w.strides[2]))
        if len(w.shape) != 2 or w.shape[0] != channels or w.shape[1] < 1:
            raise ValueError(
                f"weight has shape {shape}; it must be (D, K) or "
                f"(D, 1, K) with D = {channels}, as x, and K at "
                "least 1"
            )
        self.weight_shape = shape
        self.taps = w.shape[1]
        self.bias = None
        if bias is not None:
            self.bias = real_view(bias, "bias")
            if tuple(self.bias.shape) != (channels,):
                raise ValueError(
                    f"bias has shape {tuple(self.bias.shape)}; it must be ({channels},)"
                )
        self.state_shape = self._shape(self.taps - 1)
        self.state = None
        if state is not None and state is not True:
            self.state = real_view(state, "state", x.dtype)
            if tuple(self.state.shape) != self.state_shape:
                raise ValueError(
                    f"state has shape {tuple(self.state.shape)}; it must be "
                    f"{self.state_shape}: x's, with K - 1 samples"
                )
        before, after = check_padding(padding, self.taps, state is not None)
        self.length = self.rows[2] + before + after - self.taps + 1
        if self.length < 1:
            raise ValueError(
                f"x has length {self.rows[2]}; with padding {padding!r} it must "
                f"be at least {self.taps - before - after}, for {self.taps} "
                "taps"
            )
        self.shape = self._shape(self.length)
        if isa is not None and not isinstance(isa, str):
            raise ValueError(f"isa is {isa!r}; it must be a name or None")
        self.o = _lib.DepthwiseDesc(
            size=ctypes.sizeof(_lib.DepthwiseDesc),
            left=before,
            activation=choice(activation, "activation", _lib.ACTIVATIONS),
            threads=thread_count(threads),
            isa=None if isa is None else isa.encode(),
        )
        self.put(x=x, state=self.state)
        self.put_numbers(weight=self.weight, bias=self.bias)

    def _shape(self, length):
        """x's shape with another length."""
        shape = list(self.x.shape)
        shape[self.axes[2]] = length
        return tuple(shape)

    def put(self, **views):
        for name, v in views.items():
            if v is not None:
                pick = [a for a in self.axes if a is not None]
                shape = [v.shape[a] for a in pick]
                strides = [v.strides[a] for a in pick]
                self._pack(name, v, [1] * (3 - len(pick)) + shape, [0] * (3 - len(pick)) + strides)

    def put_numbers(self, **views):
        for name, v in views.items():
            if v is not None:
                more = 2 - len(v.shape)
                self._pack(name, v, [1, *v.shape] + [1] * more, [0, *v.strides] + [1] * more)

    def _pack(self, name, v, shape, strides):
        pack_tensor(self.o, _OFFSET[name], v.pointer, _lib.DTYPES[v.dtype], 0, *shape, *strides)


def depthwise_conv1d(
    x,
    weight,
    bias=None,
    *,
    padding=0,
    activation=None,
    layout="BHL",
    state=None,
    return_state=False,
    threads=None,
    isa=None,
    out=None,
):
    """A short convolution of each channel by itself; y of x's dtype and kind.

    Args:
        x: (B, D, L) or (D, L); float64, float32, float16 or bfloat16; integers and
            booleans become float64, a list float32.
        weight: (D, K) or (D, 1, K), K any; bias: (D,). Each of any real dtype:
            sums run in float32, or in float64 where an operand is float64.
        padding: zeros on both sides, or (before, after); "causal", K - 1 before;
            "same", as long as x, the odd one after; "valid", none. Output length
            L + before + after - K + 1.
        activation: None, "silu" or "gelu".
        layout: "BHL", or "BLH": x and y (B, L, D) or (L, D). Both are equally
            fast.
        state: x's last K - 1 samples before this call, x's shape but for the
            length; the call is then causal. Zeros where it is None.
        return_state: (y, the state of the next call), of x's dtype; causal.
        threads: None means all processors. The result does not depend on it.
        isa: one of `fftconv.isas()`; None means the best of this machine.
        out: where to put y; must not overlap an operand.

    A row's result depends on no other row. Raises TypeError for what is no array of
    numbers and ValueError for wrong values, naming the argument, before anything is
    written; MemoryError.

    Example:
        >>> depthwise_conv1d([[1, 2, 4]], [[-1, 1]], padding="causal").tolist()
        [[1.0, 1.0, 2.0]]
    """
    streams = True if state is None and return_state else state
    call = _DepthwiseCall(x, weight, bias, padding, activation, layout, streams, threads, isa)
    kind = call.x.kind
    if out is None:
        result, y = empty(call.shape, call.x.dtype, kind)
    else:
        result, y = out, output_view(out, "out", call.shape, call.x.dtype)
    call.put(y=y)
    if return_state:
        after, v = empty(call.state_shape, call.x.dtype, kind)
        call.put(next_state=v)
    _lib.lib.fftconv_depthwise_forward(byref(call.o))
    result = result if out is not None else finish(result, kind)
    return (result, finish(after, kind)) if return_state else result


def depthwise_conv1d_backward(
    dy,
    x,
    weight,
    bias=None,
    *,
    padding=0,
    activation=None,
    layout="BHL",
    state=None,
    threads=None,
    isa=None,
    needs=None,
):
    """`DepthwiseGradients` (dx, dweight, dbias, dstate) of sum(dy . y).

    dy: y's shape, any real dtype; the other arguments are those of
    `depthwise_conv1d`.  needs: which, out of "x", "weight", "bias", "state"; None
    means all that are given.  dweight and dbias are summed by parts of rows that the
    shapes fix, each in the type that y's sums have, and over them in float64: two
    runs agree to the bit, whatever the threads.  Raises TypeError for what is no array of
    numbers, ValueError; MemoryError.
    """
    call = _DepthwiseCall(x, weight, bias, padding, activation, layout, state, threads, isa)
    d = real_view(dy, "dy", call.x.dtype)
    if tuple(d.shape) != call.shape:
        raise ValueError(f"dy has shape {tuple(d.shape)}; it must be {call.shape}, as y")
    call.put(dy=d)
    operands = {"x": call.x, "weight": call.weight, "bias": call.bias, "state": call.state}
    there = [name for name in NEEDS if operands[name] is not None]
    wanted = there if needs is None else [needs] if isinstance(needs, str) else list(needs)
    for name in wanted:
        choice(name, "needs", dict.fromkeys(there))
    results = {}
    for name in wanted:
        of = operands[name]
        shape = call.weight_shape if name == "weight" else tuple(of.shape)
        results[name], g = empty(shape, of.dtype, of.kind)
        if name == "weight":
            g = g.reshaped(of.shape, (of.shape[1], 1))
        (call.put_numbers if name in ("weight", "bias") else call.put)(**{"d" + name: g})
    if results:
        _lib.lib.fftconv_depthwise_backward(byref(call.o))
    return DepthwiseGradients(
        **{"d" + name: finish(x, operands[name].kind) for name, x in results.items()}
    )
