"""`FFTConv`: sequence mixing by a long convolution that holds its kernel."""

import numpy as np

from . import _lib, cuda
from ._array import KERNEL_DTYPES, choice, dtype_name, numpy_dtype, size, view
from .convolution import check_backend, conv, conv_backward

_PRECISIONS = ("float32", "float16", "bfloat16", "float64")


class FFTConv:
    """A long convolution over the sequence, with its kernel as a parameter.

        z = in_gate . u,   p = z * kernel + skip . z,   y = out_gate . act(p)

    channels: H. length: the longest sequence, and the kernel's taps.
    fft_size: None: `*` is linear, through the cheapest FFT size. Else `*` is
        modulo fft_size >= length, which is the same from 2 length - 1 on.
    precision: of u, gates and y: "float32", "float16", "bfloat16" or "float64".
        Arithmetic is never less than float32.
    activation: None, "gelu" (by erf) or "silu".
    gated: calls take in_gate and out_gate.
    bidirectional: a second kernel for the future, kernel_rev; lag 0 counts in
        both.  fft_size must then be None or at least 2 length - 1.
    backend: "auto": where u is. "cpu" and "cuda" refuse a u that is not there;
        "cuda" raises `Unsupported` where there is no device, driver or build for
        it. Beside a u on a device, each call copies the parameters there.

    Parameters, plain arrays that may be assigned or changed in place: ``kernel``
    (H, length), ``skip`` (H,) and, bidirectional, ``kernel_rev`` (H, length), in
    float32 (float64 for float64): normal numbers of norm 1, decaying to 1/e^2 over
    the length; skip normal.  Raises ValueError.
    """

    def __init__(
        self,
        channels,
        length,
        *,
        fft_size=None,
        precision="float32",
        activation=None,
        gated=False,
        bidirectional=False,
        backend="auto",
    ):
        self.channels = size(channels, "channels")
        self.length = size(length, "length")
        self.precision = dtype_name(precision, "precision", _PRECISIONS)
        choice(activation, "activation", _lib.ACTIVATIONS)
        self.activation = activation
        self.gated, self.bidirectional = bool(gated), bool(bidirectional)
        self.fft_size = None
        if fft_size is not None:
            low = 2 * self.length - 1 if bidirectional else self.length
            self.fft_size = size(fft_size, "fft_size", low)
        check_backend(backend)
        self.backend = backend
        rng = np.random.default_rng()
        names = ["kernel", "kernel_rev"] if bidirectional else ["kernel"]
        self._parameters = {}
        decay = np.exp(-2 * np.arange(self.length) / self.length)
        for name in names:
            k = rng.standard_normal((self.channels, self.length)) * decay
            setattr(self, name, k / np.linalg.norm(k, axis=1, keepdims=True))
        self.skip = rng.standard_normal(self.channels)

    def __repr__(self):
        return (
            f"FFTConv({self.channels}, {self.length}, fft_size="
            f"{self.fft_size}, precision={self.precision!r}, activation="
            f"{self.activation!r}, gated={self.gated}, bidirectional="
            f"{self.bidirectional}, backend={self.backend!r})"
        )

    def parameters(self):
        """The parameters by name; the arrays themselves."""
        return dict(self._parameters)

    def __call__(self, u, in_gate=None, out_gate=None, *, threads=None):
        """y, of u's shape (B, H, L), L <= length, or (H, L), and of its kind.

        Gates: u's shape, or broadcast to it; both where the module is gated,
        else neither.  Raises ValueError.
        """
        v, k, *gates = self._operands(u, in_gate, out_gate)
        return conv(v, k, *gates, threads=threads, **self._options(v))

    def backward(self, dy, u, in_gate=None, out_gate=None, *, threads=None, needs=None):
        """`Gradients` of sum(dy . y), y being computed again: du, din_gate,
        dout_gate; dk of kernel, dk_rev of kernel_rev, dskip of skip.  needs: as
        in `conv_backward`."""
        v, k, *gates = self._operands(u, in_gate, out_gate)
        return conv_backward(dy, v, k, *gates, threads=threads, needs=needs, **self._options(v))

    def _operands(self, u, in_gate, out_gate):
        v = view(u, "u", self.precision, True)
        if v.dtype != self.precision:
            raise ValueError(f"u has dtype {v.dtype}; this FFTConv's precision is {self.precision}")
        if (
            len(v.shape) not in (2, 3)
            or v.shape[-2] != self.channels
            or not 1 <= v.shape[-1] <= self.length
        ):
            raise ValueError(
                f"u has shape {v.shape}; it must be (B, H, L) or (H, L) with H "
                f"= {self.channels} and L from 1 to {self.length}"
            )
        for name, gate in ("in_gate", in_gate), ("out_gate", out_gate):
            if (gate is not None) != self.gated:
                raise ValueError(
                    f"{name} is {'None' if gate is None else 'given'}; with "
                    f"gated={self.gated} it must "
                    f"{'be given' if self.gated else 'be None'}"
                )
        return v, _beside(self.kernel, v), in_gate, out_gate

    def _options(self, v):
        options = {
            "skip": _beside(self.skip, v),
            "backend": self.backend,
            "activation": self.activation,
        }
        if self.bidirectional:
            return {**options, "mode": "two_sided", "k_rev": _beside(self.kernel_rev, v)}
        if self.fft_size is None or self.fft_size >= 2 * self.length - 1:
            return options
        return {**options, "mode": "circular", "fft_size": self.fft_size}


def _beside(parameter, v):
    """A parameter where v is."""
    return parameter if v.device is None else cuda.beside(parameter, v)


def _parameter(name, axes):
    def get(self):
        try:
            return self._parameters[name]
        except KeyError:
            raise AttributeError(f"this FFTConv has no {name}: it is not bidirectional") from None

    def put(self, value):
        if name == "kernel_rev" and not self.bidirectional:
            raise AttributeError("this FFTConv has no kernel_rev: it is not bidirectional")
        x = np.array(
            view(value, name, KERNEL_DTYPES[self.precision][-1]).numpy(),
            numpy_dtype(KERNEL_DTYPES[self.precision][-1]),
        )
        shape = (self.channels, self.length)[:axes]
        if x.shape != shape:
            raise ValueError(f"{name} has shape {x.shape}; it must be {shape}")
        self._parameters[name] = x

    return property(get, put)


FFTConv.kernel = _parameter("kernel", 2)
FFTConv.kernel_rev = _parameter("kernel_rev", 2)
FFTConv.skip = _parameter("skip", 1)
