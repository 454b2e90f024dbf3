"""Long convolutions for PyTorch, differentiable to any order, under `torch.compile` and alone.

    y = fftconv.torch.conv(u, k)        # tensors; gradients flow to u and k

The functions have the names, arguments and dtypes of those in `fftconv`, and take tensors.
`torch.get_num_threads()` is the default of ``threads``.

`FFTConv` is a layer that holds its kernel as a parameter.  `flash`, `hyena`, `hyena_dna` and
`lrnnx` offer the modules of flash-fft-conv, safari, hyena-dna and lrnnx, under their original
names and with the names of their checkpoints.

`compile_options` and `rewriting` make `torch.compile` put this library's convolution where a
model that nobody edits writes it with `torch.fft`.
"""

try:
    import torch as _torch

    _found = _torch.__version__
except (ImportError, AttributeError):  # AttributeError: a folder of that name, without a module
    _found = "0.0"
if tuple(map(int, _found.split(".")[:2])) < (2, 6):
    raise ImportError("fftconv.torch needs PyTorch 2.6 or later: pip install 'fftconv[torch]'")

from . import flash, hyena, hyena_dna, lrnnx
from ._calls import (
    conv_matrix,
    depthwise_conv1d,
    fft_conv,
    fftconv_func,
    opt_ssm_forward,
    ssm_kernel,
)
from ._conv import conv
from .mixer import FFTConv

__all__ = [
    "FFTConv",
    "compile_options",
    "conv",
    "conv_matrix",
    "depthwise_conv1d",
    "fft_conv",
    "fftconv_func",
    "flash",
    "hyena",
    "hyena_dna",
    "lrnnx",
    "opt_ssm_forward",
    "rewriting",
    "ssm_kernel",
]


def __getattr__(name):
    if name in ("compile_options", "rewriting"):  # These import torch's compiler, in seconds.
        from . import rewrite

        return getattr(rewrite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
