"""Short depthwise convolutions: `depthwise_conv1d`, and `FlashDepthWiseConv1d`.

    y[b, d, l] = act(bias[d] + sum_k weight[d, k] x[b, d, l - left + k])

A cross-correlation, as torch.nn.Conv1d with groups = channels: x is zero outside
its samples.  FlashFFTConv's fast short convolution (its repository's README), of
any kernel size and padding.
"""

import ctypes
from ctypes import byref
from typing import Any, NamedTuple

from . import _lib
from ._array import (
    PROMOTED,
    choice,
    dtype_name,
    empty,
    finish,
    numpy_dtype,
    output_view,
    size,
    view,
)
from .plan import _pack_tensor, rows_axes, thread_count

NEEDS = ("x", "weight", "bias", "state")
_REALS = ("float64", "float32", "float16", "bfloat16")


class DepthwiseGradients(NamedTuple):
    """Gradients of sum(dy . y), each of its operand's shape, dtype and kind;
    None where absent or not asked for."""

    dx: Any = None
    dweight: Any = None
    dbias: Any = None
    dstate: Any = None


def _real(x, name, listed="float32"):
    v = view(x, name, listed)
    if v.dtype in PROMOTED:
        raise ValueError(f"{name} has dtype {v.dtype}; it must be real")
    return v


def _padding(padding, taps, state):
    """(samples before, samples after) of zeros."""
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


class _Call:
    """The checked operands of one call, and its Depthwise."""

    def __init__(self, x, weight, bias, padding, activation, layout, state, threads, isa):
        self.x = x = _real(x, "x")
        self.axes = rows_axes(len(x.shape), layout, "x")
        if len(x.shape) == 1:
            raise ValueError(
                "x has 1 axis; allowed: 3 (B, D, L) and 2 (D, L), in the order of the layout"
            )
        if 0 in x.shape:
            raise ValueError(f"x has shape {x.shape}; every axis must be at least 1 long")
        self.rows = tuple(1 if a is None else x.shape[a] for a in self.axes)
        channels = self.rows[1]
        self.weight = w = _real(weight, "weight")
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
            self.bias = _real(bias, "bias")
            if tuple(self.bias.shape) != (channels,):
                raise ValueError(
                    f"bias has shape {tuple(self.bias.shape)}; it must be ({channels},)"
                )
        self.state_shape = self._shape(self.taps - 1)
        self.state = None
        if state is not None and state is not True:
            self.state = _real(state, "state", x.dtype)
            if tuple(self.state.shape) != self.state_shape:
                raise ValueError(
                    f"state has shape {tuple(self.state.shape)}; it must be "
                    f"{self.state_shape}: x's, with K - 1 samples"
                )
        before, after = _padding(padding, self.taps, state is not None)
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
        _pack_tensor(
            self.o,
            getattr(_lib.DepthwiseDesc, name).offset,
            v.pointer,
            _lib.DTYPES[v.dtype],
            0,
            *shape,
            *strides,
        )


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
        x: (B, D, L) or (D, L); float64, float32, float16 or bfloat16.
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

    A row's result depends on no other row. Raises ValueError naming the
    argument, before anything is written; MemoryError.
    """
    streams = True if state is None and return_state else state
    call = _Call(x, weight, bias, padding, activation, layout, streams, threads, isa)
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
    runs agree to the bit, whatever the threads.  Raises ValueError; MemoryError.
    """
    call = _Call(x, weight, bias, padding, activation, layout, state, threads, isa)
    d = _real(dy, "dy", call.x.dtype)
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


class FlashDepthWiseConv1d:
    """The call of flash-fft-conv's short convolution, of any size.

    channels: D. kernel_size: K, odd or even. padding: as in `depthwise_conv1d`;
    a number is zeros on both sides. weights: (D, 1, K) or (D, K), torch.nn.Conv1d's
    included; not copied, so that what an optimizer does to them is seen. bias:
    (D,) or None. is_bhl: x is (B, D, L), else (B, L, D). device: None or "cpu".
    dtype: of weights and bias, which are converted where they have another; None
    leaves them. activation: None, "silu" or "gelu".

    Raises ValueError.
    """

    def __init__(
        self,
        channels,
        kernel_size,
        padding,
        weights,
        bias=None,
        is_bhl=True,
        device=None,
        dtype=None,
        activation=None,
    ):
        self.channels = size(channels, "channels")
        self.kernel_size = size(kernel_size, "kernel_size")
        if device is not None and str(device) != "cpu":
            raise ValueError(
                f"device is {device!r}; this build computes on the CPU: it must be None or 'cpu'"
            )
        self.padding, self.activation = padding, activation
        self.is_bhl = bool(is_bhl)
        self.dtype = None if dtype is None else dtype_name(dtype, allowed=_REALS)
        self.weights, self.bias = _detached(weights), _detached(bias)
        shape = tuple(_real(self.weights, "weights").shape)
        if shape not in ((self.channels, 1, self.kernel_size), (self.channels, self.kernel_size)):
            raise ValueError(
                f"weights has shape {shape}; it must be (channels, 1, "
                f"kernel_size) = {(self.channels, 1, self.kernel_size)}, or "
                "without the 1"
            )
        if bias is not None:
            shape = tuple(_real(self.bias, "bias").shape)
            if shape != (self.channels,):
                raise ValueError(
                    f"bias has shape {shape}; it must be (channels,) = {(self.channels,)}"
                )
        _padding(padding, self.kernel_size, False)
        choice(activation, "activation", _lib.ACTIVATIONS)
        if self.dtype is not None:
            self.weights = _cast(self.weights, "weights", self.dtype)
            self.bias = _cast(self.bias, "bias", self.dtype)

    def __repr__(self):
        return (
            f"FlashDepthWiseConv1d({self.channels}, {self.kernel_size}, "
            f"padding={self.padding!r}, is_bhl={self.is_bhl}, "
            f"activation={self.activation!r})"
        )

    def _options(self):
        return {"activation": self.activation, "layout": "BHL" if self.is_bhl else "BLH"}

    def __call__(self, x, state=None, return_state=False, threads=None):
        """y, of x's dtype, which need not be the weights'; and with
        return_state (y, state of the next call), as `depthwise_conv1d`."""
        streams = state is not None or return_state
        return depthwise_conv1d(
            x,
            self.weights,
            self.bias,
            state=state,
            return_state=return_state,
            padding="causal" if streams else self.padding,
            threads=threads,
            **self._options(),
        )

    def backward(self, dy, x, state=None, threads=None, needs=None):
        """`DepthwiseGradients` of sum(dy . y)."""
        return depthwise_conv1d_backward(
            dy,
            x,
            self.weights,
            self.bias,
            state=state,
            needs=needs,
            padding="causal" if state is not None else self.padding,
            threads=threads,
            **self._options(),
        )


FlashDepthwiseConv1d = FlashDepthWiseConv1d


def _detached(x):
    """A torch parameter without its graph, on the same memory."""
    return x.detach() if getattr(x, "requires_grad", False) else x


def _cast(x, name, dtype):
    """x in a dtype, itself where it has it; None stays None."""
    if x is None:
        return None
    v = view(x, name, dtype)
    if v.dtype == dtype:
        return x
    if v.kind is not None and hasattr(x, "to"):
        return x.to(getattr(v.kind, dtype))
    return finish(v.numpy().astype(numpy_dtype(dtype)), v.kind)
