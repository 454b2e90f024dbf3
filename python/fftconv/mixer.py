"""`FFTConv`: a sequence-mixing layer, which is a long convolution with its parameters."""

import numpy as np

from . import _lib, cuda
from ._array import KERNEL_DTYPES, choice, dtype_name, fixed, numpy_dtype, real, size, view
from ._backends import check_device
from .convolution import conv, conv_backward

_PRECISIONS = ("float32", "float16", "bfloat16", "float64")


class FFTConv:
    """A long convolution along the sequence, with its kernel as a parameter.

        z = in_gate . u,   p = z * k + skip . z,   y = out_gate . act(p)

    channels: H.
    length: the longest sequence, and the number of taps of the kernel.
    fft_size: None makes `*` the linear convolution, computed with the cheapest FFT
        size.  Otherwise `*` is circular modulo fft_size >= length, which equals the
        linear one if fft_size >= 2 length - 1.
    precision: the dtype of u, the gates and y: "float32", "float16", "bfloat16" or
        "float64".  Arithmetic is in float32 or better on the CPU; see `conv` for CUDA
        devices.
    activation: None, "gelu" (by erf) or "silu".
    gated: whether calls take in_gate and out_gate.
    two_sided: adds a second kernel k_rev for future samples; lag 0 counts in both
        kernels.  fft_size must then be None or at least 2 length - 1.
    device: None means where u is.  "cpu", "cuda:1" or "cuda", which stands for any CUDA
        device, raise ValueError if u is elsewhere, and `Unsupported` if there is no such
        device or driver, or no CUDA in this build.  If u is on a CUDA device, each call
        copies the parameters there.
    seed: for the parameters' initial values, as np.random.default_rng takes it.

    The parameters are NumPy arrays, which may be assigned or changed in place: ``k``
    (H, length), ``skip`` (H,) and, if two-sided, ``k_rev`` (H, length), in float32
    (float64 if that is the precision).  Initially, each channel's k and k_rev are normal
    random numbers times exp(-2 t / length), scaled to norm 1; skip is normal.  Raises
    ValueError.

    Example:
        >>> module = FFTConv(2, 8, activation="gelu")
        >>> u = np.ones((1, 2, 8), "float32")
        >>> module(u).shape, module.backward(np.ones_like(u), u).dk.shape
        ((1, 2, 8), (2, 8))
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
        two_sided=False,
        device=None,
        seed=None,
    ):
        self.channels = size(channels, "channels")
        self.length = size(length, "length")
        self.precision = dtype_name(precision, "precision", _PRECISIONS)
        choice(activation, "activation", _lib.ACTIVATIONS)
        self.activation = activation
        self.gated, self.two_sided = bool(gated), bool(two_sided)
        self.fft_size = None
        if fft_size is not None:
            low = 2 * self.length - 1 if two_sided else self.length
            self.fft_size = size(fft_size, "fft_size", low)
        if device is not None:
            check_device(device)
        self.device = device
        rng = np.random.default_rng(seed)
        self._parameters = {}
        decay = np.exp(-2 * np.arange(self.length) / self.length)
        for name in ["k", "k_rev"] if two_sided else ["k"]:
            k = rng.standard_normal((self.channels, self.length)) * decay
            setattr(self, name, k / np.linalg.norm(k, axis=1, keepdims=True))
        self.skip = rng.standard_normal(self.channels)

    def __repr__(self):
        return (
            f"FFTConv({self.channels}, {self.length}, fft_size="
            f"{self.fft_size}, precision={self.precision!r}, activation="
            f"{self.activation!r}, gated={self.gated}, two_sided="
            f"{self.two_sided}, device={self.device!r})"
        )

    def parameters(self):
        """A dict of the parameters by name: the arrays themselves, not copies."""
        return dict(self._parameters)

    def __call__(self, u, in_gate=None, out_gate=None, *, threads=None):
        """y, of u's shape and array library, in the module's precision.

        u: (B, H, L) or (H, L), L <= length, in the module's precision or in a dtype that
            converts to it without loss.
        in_gate, out_gate: of u's shape, or of one that broadcasts to it; both are
            required if the module is gated, and not allowed otherwise.

        Raises TypeError for an operand that is not an array of numbers, ValueError.
        """
        v, *gates = self._rows(u, in_gate, out_gate)
        return conv(v, _copied_to(self.k, v), *gates, threads=threads, **self._options(v))

    def backward(self, dy, u, in_gate=None, out_gate=None, *, threads=None, needs=None):
        """`Gradients` of sum(dy . y), where y is the result of the call with u and the gates.

        They are du, din_gate, dout_gate, and dk, dk_rev and dskip for the parameters.
        dy: of u's shape.  needs: as in `conv_backward`.  Raises TypeError for an operand
        that is not an array of numbers, ValueError.
        """
        v, *gates = self._rows(u, in_gate, out_gate)
        return conv_backward(
            self._fixed(dy, "dy"),
            v,
            _copied_to(self.k, v),
            *gates,
            threads=threads,
            needs=needs,
            **self._options(v),
        )

    def _fixed(self, x, name):
        why = f"this FFTConv's precision is {self.precision}"
        return fixed(x, name, (self.precision,), why, True)

    def _rows(self, u, in_gate, out_gate):
        v = self._fixed(u, "u")
        if (
            len(v.shape) not in (2, 3)
            or v.shape[-2] != self.channels
            or not 1 <= v.shape[-1] <= self.length
        ):
            raise ValueError(
                f"u has shape {v.shape}; it must be (B, H, L) or (H, L) with H "
                f"= {self.channels} and L from 1 to {self.length}"
            )
        gates = {"in_gate": in_gate, "out_gate": out_gate}
        for name, gate in gates.items():
            if (gate is not None) != self.gated:
                raise ValueError(
                    f"{name} is {'None' if gate is None else 'given'}; with "
                    f"gated={self.gated} it must "
                    f"{'be given' if self.gated else 'be None'}"
                )
        return v, *(g if g is None else self._fixed(g, name) for name, g in gates.items())

    def _options(self, v):
        options = {
            "skip": _copied_to(self.skip, v),
            "device": self.device,
            "activation": self.activation,
        }
        if self.two_sided:
            return {**options, "mode": "two_sided", "k_rev": _copied_to(self.k_rev, v)}
        if self.fft_size is None or self.fft_size >= 2 * self.length - 1:
            return options
        return {**options, "mode": "circular", "fft_size": self.fft_size}


def _copied_to(parameter, v):
    """The parameter, copied to the device of View v if that is not on the CPU."""
    return parameter if v.device is None else cuda.copy_beside(parameter, v)


def _parameter(name, axes):
    def get(self):
        try:
            return self._parameters[name]
        except KeyError:
            raise AttributeError(f"this FFTConv has no {name}: it is not two-sided") from None

    def put(self, value):
        if name == "k_rev" and not self.two_sided:
            raise AttributeError("this FFTConv has no k_rev: it is not two-sided")
        x = np.array(
            real(view(value, name), name).numpy(), numpy_dtype(KERNEL_DTYPES[self.precision][-1])
        )
        shape = (self.channels, self.length)[:axes]
        if x.shape != shape:
            raise ValueError(f"{name} has shape {x.shape}; it must be {shape}")
        self._parameters[name] = x

    return property(get, put)


FFTConv.k = _parameter("k", 2)
FFTConv.k_rev = _parameter("k_rev", 2)
FFTConv.skip = _parameter("skip", 1)
