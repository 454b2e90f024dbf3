"""The classes of the flash-fft-conv package, under the names that it gives them.

`FlashFFTConv`, `PartialFFTConv` and `FrequencySparseFFTConv` compute long convolutions with
`fftconv.conv`. `FlashDepthWiseConv1d`, also spelled `FlashDepthwiseConv1d`, computes a short
convolution with `fftconv.depthwise_conv1d`.  Source: FlashFFTConv, arXiv 2311.05908.
"""

import numpy as np

from . import _lib
from ._array import KERNEL_DTYPES, choice, dtype_name, finish, fixed, numpy_dtype, size, view
from .convolution import conv, conv_backward
from .depthwise import check_padding, depthwise_conv1d, depthwise_conv1d_backward, real_view
from .pattern import Pattern
from .plan import kernel_axes

__all__ = [
    "FlashDepthWiseConv1d",
    "FlashDepthwiseConv1d",
    "FlashFFTConv",
    "FrequencySparseFFTConv",
    "PartialFFTConv",
]

_REALS = ("float64", "float32", "float16", "bfloat16")


def __dir__():
    return __all__


class FlashFFTConv:
    """flash-fft-conv's FlashFFTConv: a gated convolution, circular modulo seqlen.

        y = out_gate . ((in_gate . u) * k),   `*` circular modulo seqlen

    seqlen is the FFT size; any positive integer is allowed.  If L + Lk - 1 <= seqlen,
    the result equals the causal (linear) convolution.  A tap k[seqlen - s] multiplies the
    input s samples ahead of the output.

    dtype: the dtype of u, the gates and y: "float16", "bfloat16", "float32" or "float64",
        or what np.dtype takes for these, or a torch dtype.
    use_32_butterfly: accepted for compatibility and ignored; the planner chooses the radices.

    Raises ValueError for a wrong seqlen or dtype.

    Example:
        >>> flashfftconv = FlashFFTConv(8, dtype="float32")
        >>> u, k = np.ones((1, 1, 4), "float32"), np.ones((1, 4), "float32")
        >>> flashfftconv(u, k).round(4).tolist()
        [[[1.0, 2.0, 3.0, 4.0]]]
    """

    def __init__(self, seqlen, dtype="float16", use_32_butterfly=True):
        self.seqlen = size(seqlen, "seqlen")
        self.dtype = dtype_name(dtype)

    def __repr__(self):
        return f"FlashFFTConv(seqlen={self.seqlen}, dtype={self.dtype!r})"

    def __call__(self, u, k, in_gate=None, out_gate=None, *, pregate=None, postgate=None):
        """Return y, an array of u's shape (B, H, L), L <= seqlen, in the module's dtype.

        y comes from the same library (NumPy, torch, ...) as u.

        u, in_gate, out_gate: arrays of shape (B, H, L) in the module's dtype, or in a narrower
            one that converts to it without loss.  Either gate may be given without the other.
        pregate, postgate: flash-fft-conv's names for in_gate and out_gate.
        k: (H, Lk) or (1, H, Lk) with Lk <= seqlen, in the module's dtype; a module with a
            16-bit dtype also takes float32.

        Raises TypeError for an argument that is not an array of numbers, and ValueError for a
        wrong shape or dtype.
        """
        return conv(*self._operands(u, k, in_gate, out_gate, pregate, postgate), **self._mode())

    def backward(
        self, dy, u, k, in_gate=None, out_gate=None, *, pregate=None, postgate=None, needs=None
    ):
        """Return the `fftconv.Gradients` of sum(dy . y), as `fftconv.conv_backward` does.

        dk has k's shape. It is summed over the batch in a fixed order, in float32 or float64.
        """
        operands = self._operands(u, k, in_gate, out_gate, pregate, postgate)
        return conv_backward(self._rows(dy, "dy"), *operands, **self._mode(), needs=needs)

    def _mode(self):
        return {"mode": "circular", "fft_size": self.seqlen}

    def _operands(self, u, k, in_gate, out_gate, pregate, postgate):
        return (
            self._rows(u, "u"),
            self._fixed(k, "k", KERNEL_DTYPES[self.dtype]),
            self._rows(_one_of("in_gate", in_gate, "pregate", pregate), "in_gate"),
            self._rows(_one_of("out_gate", out_gate, "postgate", postgate), "out_gate"),
        )

    def _rows(self, x, name):
        return self._fixed(x, name, (self.dtype,))

    def _fixed(self, x, name, allowed):
        if x is None and name.endswith("gate"):
            return None
        return fixed(x, name, allowed, f"this FlashFFTConv is for {self.dtype}", True)


def _one_of(name, gate, alias, other):
    if gate is not None and other is not None:
        raise ValueError(
            f"{alias} is given beside {name}, which it is another name of; one of them must be None"
        )
    return other if gate is None else gate


class _OfLength:
    """The base of the convolutions with an FFT size of 2 L, L being the length of x.

    A subclass says how many taps act (`_most`); the other taps are ignored.
    """

    def __init__(self, N_partial):
        self.N_partial = size(N_partial, "N_partial", high=2**63 - 1)

    def __repr__(self):
        return f"{type(self).__name__}({self.N_partial})"

    def __call__(self, x, k):
        """Return y, an array of x's shape (B, H, L) from the same library as x.

        k: (H, Lk) or (1, H, Lk).  The dtypes of x and k promote as in `fftconv.conv`.
        Raises TypeError for an argument that is not an array of numbers, and ValueError for a
        wrong shape or dtype.
        """
        x, k, taps = self._operands(x, k)
        return conv(x, k.part(0, taps), **self._mode(x, taps))

    def backward(self, dy, x, k, needs=None):
        """Return the `fftconv.Gradients` (du, dk) of sum(dy . y).

        dy has y's shape.  The gradient of a tap that is ignored is zero.
        """
        x, k, taps = self._operands(x, k)
        g = conv_backward(dy, x, k.part(0, taps), needs=needs, **self._mode(x, taps))
        if g.dk is None or taps == k.shape[-1]:
            return g
        return g._replace(dk=_padded(g.dk, k.shape[-1] - taps))

    def _operands(self, x, k):
        x = view(x, "x", devices=True)
        if len(x.shape) != 3 or 0 in x.shape:
            raise ValueError(f"x has shape {x.shape}; it must be (B, H, L), each at least 1")
        k = view(k, "k", None, True)
        if len(k.shape) not in (2, 3) or k.shape[-1] < 1:
            raise ValueError(
                f"k has shape {k.shape}; it must be (H, Lk) or (1, H, Lk), Lk at least 1"
            )
        kernel_axes(k.shape, *x.shape[:2])
        return x, k, min(self._most(x.shape[-1]), k.shape[-1])


def _padded(x, n):
    """Return x with n zeros appended along its last axis."""
    if type(x) is np.ndarray:
        return np.concatenate([x, np.zeros((*x.shape[:-1], n), x.dtype)], -1)
    kind = view(x, "dk", devices=True).kind
    if kind is None:
        raise _lib.Unsupported(
            "dk has taps that do not act, and k is from no library "
            "that could put zeros there: pass k without them, or as "
            "an array of torch, CuPy or JAX"
        )
    if hasattr(kind, "nn"):  # kind is the torch module
        return kind.nn.functional.pad(x, (0, n))
    return kind.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n)])


class PartialFFTConv(_OfLength):
    """flash-fft-conv's partial convolution: only the first N_partial taps of k are used.

    The convolution is circular modulo 2 L, so that a tap k[2 L - s] multiplies the input s
    samples ahead; with at most L taps it is causal.
    Source: FlashFFTConv, arXiv 2311.05908, section 3.3.

    Example:
        >>> u, k = np.ones((1, 2, 8), "float32"), np.ones((2, 8), "float32")
        >>> PartialFFTConv(2)(u, k)[0, 0].round(5).tolist()  # two taps
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def _most(self, length):
        return min(self.N_partial, 2 * length)

    def _mode(self, x, taps):
        length = x.shape[-1]
        if taps <= length:
            return {"mode": "causal"}
        return {"mode": "circular", "fft_size": 2 * length}


class FrequencySparseFFTConv(_OfLength):
    """flash-fft-conv's frequency-sparse convolution: a low-pass filter on the kernel.

    Of the rfft of k over 2 L points, only bins 0 ... N_partial // 2 - 1 are used; the others
    count as zero.  Source: FlashFFTConv, arXiv 2311.05908, section 3.3.

    Example:
        >>> u, k = np.ones((1, 2, 8), "float32"), np.ones((2, 8), "float32")
        >>> FrequencySparseFFTConv(2)(u, k)[0, 0].round(5).tolist()  # bin 0 alone
        [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """

    def __init__(self, N_partial):
        super().__init__(N_partial)
        self.pattern = Pattern.lowpass(self.N_partial)

    def _most(self, length):
        return 2 * length

    def _mode(self, x, taps):
        return {"mode": "circular", "fft_size": 2 * x.shape[-1], "pattern": self.pattern}


class FlashDepthWiseConv1d:
    """flash-fft-conv's short depthwise convolution, for any kernel size.

    flash-fft-conv's documentation spells the name both FlashDepthWiseConv1d and
    FlashDepthwiseConv1d; both names are this class.

    channels: D, the number of channels.
    kernel_size: K, odd or even.
    padding: as in `depthwise_conv1d`; a number n means n zeros on both sides.
    weights: (D, 1, K) or (D, K), for example the weight of a torch.nn.Conv1d.  They are not
        copied unless dtype converts them, so changes that an optimizer makes take effect.
    bias: (D,) or None.
    is_bhl: True if x is (B, D, L), False if x is (B, L, D).
    device: None or "cpu".
    dtype: weights and bias are converted to this dtype; None leaves them as they are.
    activation: None, "silu" or "gelu".

    Raises TypeError for an argument that is not an array of numbers, and ValueError for a
    wrong value or shape.

    Example:
        >>> difference = FlashDepthWiseConv1d(1, 2, padding=(1, 0), weights=[[-1, 1]])
        >>> difference([[[1, 2, 4]]]).tolist()
        [[[1.0, 1.0, 2.0]]]
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
        shape = tuple(real_view(self.weights, "weights").shape)
        if shape not in ((self.channels, 1, self.kernel_size), (self.channels, self.kernel_size)):
            raise ValueError(
                f"weights has shape {shape}; it must be (channels, 1, "
                f"kernel_size) = {(self.channels, 1, self.kernel_size)}, or "
                "without the 1"
            )
        if bias is not None:
            shape = tuple(real_view(self.bias, "bias").shape)
            if shape != (self.channels,):
                raise ValueError(
                    f"bias has shape {shape}; it must be (channels,) = {(self.channels,)}"
                )
        check_padding(padding, self.kernel_size, False)
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
        """Return y in x's dtype, which may differ from that of the weights.

        With return_state, return (y, the state to pass to the next call), as
        `depthwise_conv1d` does.
        """
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
        """Return the `DepthwiseGradients` of sum(dy . y)."""
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
    """Return a torch parameter detached from its graph, sharing its memory; others unchanged."""
    return x.detach() if getattr(x, "requires_grad", False) else x


def _cast(x, name, dtype):
    """Return x converted to dtype, or x itself if it has that dtype already or is None."""
    if x is None:
        return None
    v = view(x, name, dtype)
    if v.dtype == dtype:
        return x
    if v.kind is not None and hasattr(x, "to"):
        return x.to(getattr(v.kind, dtype))
    return finish(v.numpy().astype(numpy_dtype(dtype)), v.kind)
