"""The modules of the flash-fft-conv package, under the names that it gives them.

`FlashFFTConv`, `PartialFFTConv` and `FrequencySparseFFTConv` are long convolutions of a kernel
that the caller passes; they have no parameters.  `FlashDepthWiseConv1d`, also spelled
`FlashDepthwiseConv1d`, is a short convolution that holds its weights.
Source: FlashFFTConv, arXiv 2311.05908.
"""

import re

import torch
from torch import nn

from .. import _lib
from .._array import choice, size
from ..depthwise import check_padding
from ..pattern import Pattern
from ._calls import depthwise_conv1d
from ._conv import conv

__all__ = [
    "FlashDepthWiseConv1d",
    "FlashDepthwiseConv1d",
    "FlashFFTConv",
    "FrequencySparseFFTConv",
    "PartialFFTConv",
]

# The names of the DFT matrices and twiddle factors in flash-fft-conv's checkpoints.
_CONSTANT = re.compile(r"f_|twid")


def __dir__():
    return __all__


class FlashFFTConv(nn.Module):
    """flash-fft-conv's FlashFFTConv: a gated convolution, circular modulo seqlen.

        y = postgate . ((pregate . u) * k),   `*` circular modulo seqlen

    seqlen is the FFT size; any positive integer is allowed.  If L + Lk - 1 <= seqlen, the
    result equals the causal (linear) convolution.  A tap k[seqlen - s] multiplies the input s
    samples ahead of the output.

    dtype: the dtype that u is expected in, a real one.  It is kept as an attribute; the dtypes
        of the tensors decide how a call is computed, so that ``module.half()`` needs no care.
    use_32_butterfly: accepted for compatibility and ignored; the planner chooses the radices.

    The module has no parameters or buffers, and may be shared between layers.  Constants that
    flash-fft-conv's own module has put into a checkpoint are ignored when it is loaded.
    Raises ValueError for a wrong seqlen or dtype.

    Example:
        >>> import torch
        >>> flashfftconv = FlashFFTConv(8, dtype=torch.bfloat16)
        >>> u, k = torch.ones(1, 1, 4, dtype=torch.bfloat16), torch.ones(1, 4)
        >>> flashfftconv(u, k).tolist()
        [[[1.0, 2.0, 3.0, 4.0]]]
    """

    def __init__(self, seqlen, dtype=torch.float16, use_32_butterfly=True):
        super().__init__()
        self.seqlen = size(seqlen, "seqlen")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype!r}; it must be a real floating-point torch.dtype")
        self.dtype = dtype
        self.use_32_butterfly = use_32_butterfly

    def extra_repr(self):
        return f"{self.seqlen}, dtype={self.dtype}"

    def forward(self, u, k, pregate=None, postgate=None):
        """Return y, of u's shape (B, H, L), L <= seqlen.

        k: (H, Lk) or (1, H, Lk), Lk <= seqlen.  If u has 16 bits, k may have them or float32.
        pregate, postgate: of u's shape.  Either may be given without the other.

        dtypes promote as in `fftconv.torch.conv`: y has u's dtype if the gates have it too.
        Raises TypeError for an operand that is not a tensor, ValueError for a wrong value.
        """
        return conv(u, k, pregate, postgate, mode="circular", fft_size=self.seqlen)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if _CONSTANT.match(key, len(prefix)):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


class _OfLength(nn.Module):
    """The base of the convolutions with an FFT size of 2 L, L being the length of x."""

    def __init__(self, N_partial):
        super().__init__()
        self.N_partial = size(N_partial, "N_partial")

    def extra_repr(self):
        return str(self.N_partial)


class PartialFFTConv(_OfLength):
    """flash-fft-conv's partial convolution: only the first N_partial taps of k are used.

    The convolution is circular modulo 2 L, so that a tap k[2 L - s] multiplies the input s
    samples ahead; with at most L taps it is causal.
    Source: FlashFFTConv, arXiv 2311.05908, section 3.3.

    Example:
        >>> import torch
        >>> PartialFFTConv(2)(torch.ones(1, 1, 4), torch.ones(1, 4)).tolist()
        [[[1.0, 2.0, 2.0, 2.0]]]
    """

    def forward(self, x, k):
        """Return y, of x's shape (B, H, L), for k (H, Lk) or (1, H, Lk).

        dtypes promote, and errors are raised, as in `fftconv.torch.conv`.
        """
        length = x.shape[-1]
        k = k[..., : min(self.N_partial, 2 * length)]
        if k.shape[-1] <= length:
            return conv(x, k)
        return conv(x, k, mode="circular", fft_size=2 * length)


class FrequencySparseFFTConv(_OfLength):
    """flash-fft-conv's frequency-sparse convolution: a low-pass filter on the kernel.

    Of the rfft of k over 2 L points, only bins 0 ... N_partial // 2 - 1 are used; the others
    count as zero.  Source: FlashFFTConv, arXiv 2311.05908, section 3.3.

    Example:
        >>> import torch
        >>> y = FrequencySparseFFTConv(2)(torch.ones(1, 1, 4), torch.ones(1, 4))
        >>> y.tolist()  # only the mean over the 8 points is left: 4 x 4 / 8
        [[[2.0, 2.0, 2.0, 2.0]]]
    """

    def __init__(self, N_partial):
        super().__init__(N_partial)
        self.pattern = Pattern.lowpass(self.N_partial)

    def forward(self, x, k):
        """Return y, of x's shape (B, H, L), for k (H, Lk) or (1, H, Lk).

        dtypes promote, and errors are raised, as in `fftconv.torch.conv`.
        """
        n = 2 * x.shape[-1]
        return conv(x, k[..., :n], mode="circular", fft_size=n, pattern=self.pattern)


class FlashDepthWiseConv1d(nn.Module):
    """flash-fft-conv's short depthwise convolution, for any kernel size.

        y[b, d, l] = act(bias[d] + sum_k weights[d, k] x[b, d, l - padding + k])

    flash-fft-conv's documentation spells the name both FlashDepthWiseConv1d and
    FlashDepthwiseConv1d; both names are this class.

    channels: D, the number of channels.
    kernel_size: K, odd or even.
    padding: as in `fftconv.depthwise_conv1d`; a number n means n zeros on both sides.
    weights: (D, 1, K) or (D, K), for example the weight of a torch.nn.Conv1d.
    bias: (D,) or None.
    is_bhl: True if x is (B, D, L), False if x is (B, L, D).
    device, dtype: those of the parameters; None means those of weights and bias.
    activation: None, "silu" or "gelu".

    The parameters are copies: ``weights``, (D, K) if is_bhl and else (K, D), and ``bias`` (D,).
    A checkpoint of a torch.nn.Conv1d, with the keys weight and bias, can be loaded too.
    Raises ValueError for a wrong value or shape.

    Example:
        >>> import torch
        >>> difference = FlashDepthWiseConv1d(1, 2, (1, 0), torch.tensor([[-1.0, 1.0]]))
        >>> difference(torch.tensor([[[1.0, 2.0, 4.0]]])).tolist()
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
        super().__init__()
        self.channels = size(channels, "channels")
        self.kernel_size = size(kernel_size, "kernel_size")
        check_padding(padding, self.kernel_size, False)
        choice(activation, "activation", _lib.ACTIVATIONS)
        self.padding, self.activation = padding, activation
        self.is_bhl = bool(is_bhl)
        full = (self.channels, 1, self.kernel_size)
        if tuple(weights.shape) not in (full, full[::2]):
            raise ValueError(
                f"weights has shape {tuple(weights.shape)}; it must be (channels, 1, "
                f"kernel_size) = {full}, or without the 1"
            )
        if bias is not None and tuple(bias.shape) != full[:1]:
            raise ValueError(
                f"bias has shape {tuple(bias.shape)}; it must be (channels,) = {full[:1]}"
            )

        def parameter(x):
            return nn.Parameter(x.detach().to(device, dtype, copy=True))

        self.weights = parameter(self._stored(weights))
        self.register_parameter("bias", None if bias is None else parameter(bias))

    def _stored(self, weights):
        """Return weights (D, 1, K) or (D, K) in the shape of the parameter."""
        weights = weights.reshape(self.channels, self.kernel_size)
        return weights if self.is_bhl else weights.t().contiguous()

    def extra_repr(self):
        return (
            f"{self.channels}, {self.kernel_size}, padding={self.padding!r}, "
            f"is_bhl={self.is_bhl}, activation={self.activation!r}"
        )

    def forward(self, x):
        """Return y in x's dtype, which may differ from that of the parameters."""
        return depthwise_conv1d(
            x,
            self.weights if self.is_bhl else self.weights.t(),
            self.bias,
            padding=self.padding,
            activation=self.activation,
            layout="BHL" if self.is_bhl else "BLH",
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        weight = state_dict.get(prefix + "weight")
        if weight is not None and weight.numel() == self.weights.numel():
            state_dict[prefix + "weights"] = self._stored(state_dict.pop(prefix + "weight"))
        super()._load_from_state_dict(state_dict, prefix, *args)


FlashDepthwiseConv1d = FlashDepthWiseConv1d
