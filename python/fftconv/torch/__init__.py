"""Long convolutions for PyTorch, differentiable to any order, under `torch.compile` and alone.

    y = fftconv.torch.conv(u, k)        # tensors; gradients flow to u and k

The functions have the names, arguments and dtypes of those in `fftconv`, and take tensors.
`torch.get_num_threads()` is the default of ``threads``.
"""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError(
        "fftconv.torch needs PyTorch, 2.6 or later: pip install 'fftconv[torch]'"
    ) from error

if not hasattr(_torch, "library") or tuple(map(int, _torch.__version__.split(".")[:2])) < (2, 6):
    raise ImportError(f"fftconv.torch needs PyTorch 2.6 or later; this is {_torch.__version__}")

from ._calls import (
    conv_matrix,
    depthwise_conv1d,
    fft_conv,
    fftconv_func,
    opt_ssm_forward,
    ssm_kernel,
)
from ._conv import conv

__all__ = [
    "conv",
    "conv_matrix",
    "depthwise_conv1d",
    "fft_conv",
    "fftconv_func",
    "opt_ssm_forward",
    "ssm_kernel",
]


def __dir__():
    return __all__
