"""Short depthwise convolutions: `depthwise_conv1d` and its gradients.

    y[b, d, l] = act(bias[d] + sum_k weight[d, k] x[b, d, l - left + k])

This is a cross-correlation, like torch.nn.Conv1d with groups = channels; x counts as zero
outside its samples.  It is the short convolution of FlashFFTConv (the README of its
repository), for any kernel size and padding.
"""

import ctypes
from ctypes import byref
from typing import Any, NamedTuple

from . import _lib
from ._array import choice, empty, finish, output_view, real, size, view
from ._gradients import shapes
from ._handles import pack_tensor, tensor_offsets, thread_count
from .plan import rows_axes

NEEDS = ("x", "weight", "bias", "state")
_OFFSET = tensor_offsets(_lib.DepthwiseDesc)


class DepthwiseGradients(NamedTuple):
    """Gradients of sum(dy . y), each of its operand's shape, dtype and array library.

    The gradient of an operand that is absent, or that was not asked for, is None.
    """

    dx: Any = None
    dweight: Any = None
    dbias: Any = None
    dstate: Any = None

    __repr__ = shapes


def real_view(x, name, listed="float32"):
    """Return a View of the real array x; a Python list becomes an array of dtype `listed`."""
    return real(view(x, name, listed), name)


def check_padding(padding, taps, state):
    """Return the numbers of zeros (before, after) that a padding means; ValueError if wrong.

    taps: K.  state: whether the call has a state, which allows only causal padding.
    """
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
        if len(padding) == 1:  # torch's Conv1d stores a padding n as (n,)
            padding = (*padding, *padding)
        if len(padding) != 2:
            raise ValueError(
                f"padding is {padding!r}; it must be a number, "
                "(before, after), 'causal', 'same' or 'valid'"
            )
        return tuple(size(p, "padding", 0) for p in padding)
    return (size(padding, "padding", 0),) * 2


class _DepthwiseCall:
    """The checked operands of one call, and the C structure that describes them."""

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
        if len(shape) == 3 and shape[1] == 1:  # (D, 1, K), the shape that torch uses
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
        """Return x's shape with its length replaced."""
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
    """Convolve each channel of x with its own short kernel.

    Returns y, in the dtype and array library of x, with the length L + before + after - K + 1.
    With return_state it returns (y, the state to pass to the next call).

    Args:
        x: (B, D, L) or (D, L), in float64, float32, float16 or bfloat16; integers and booleans
            become float64, Python lists float32.
        weight: (D, K) or (D, 1, K), with any K and any real dtype.  Sums are computed in
            float64 if an operand is float64, else in float32.
        bias: (D,), of any real dtype, or None.
        padding: the number of zeros on both sides, or a pair (before, after), or a name:
            "causal" is (K - 1, 0); "same" makes y as long as x, with the extra zero of an even
            K after x; "valid" is (0, 0).
        activation: None, "silu" or "gelu".
        layout: "BHL", or "BLH" for x and y of shape (B, L, D) or (L, D).  Both are equally
            fast.
        state: the K - 1 samples that precede x, in x's shape but for the length; None means
            zeros.  A call with a state is causal.
        return_state: also return the state for the next call, in x's dtype.  Such a call is
            causal.
        threads: None means all processors.  The result does not depend on it.
        isa: one of `fftconv.isas()`; None means the best of this machine.
        out: an array to write y to; it must not overlap an operand.

    The result of a row does not depend on any other row.  Denormal numbers count as zeros,
    and so does a product that would be one.  Raises TypeError for an argument that is not
    an array of numbers, and ValueError, naming the argument, for wrong values; then nothing
    has been written.  Raises MemoryError.

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
    """Return the `DepthwiseGradients` (dx, dweight, dbias, dstate) of sum(dy . y).

    dy: an array of y's shape and any real dtype.
    needs: which gradients to compute, out of "x", "weight", "bias", "state"; None means those
        of all operands given.

    The other arguments are those of `depthwise_conv1d`.  For dweight and dbias, rows are cut
    into parts that depend on the shapes alone.  Each part is summed in the dtype in which y is
    summed, and the parts are added in float64, so two runs agree to the bit for any number of
    threads.  Raises TypeError for an argument that is not an array of numbers, ValueError for
    wrong values, and MemoryError.

    Example:
        >>> x, w = np.ones((1, 1, 8), "float32"), np.ones((1, 3), "float32")
        >>> depthwise_conv1d_backward(np.ones_like(x), x, w, padding="causal").dweight.tolist()
        [[6.0, 7.0, 8.0]]
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
