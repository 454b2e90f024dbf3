"""Long convolutions as matrix products: libfftconv from Python.

    y = fftconv.conv(u, k)                        # causal, any length
    plan = fftconv.Plan(u.shape, k.shape)         # or made once,
    y = plan(u, plan.spectrum(k))                 # and run often

`conv`, `conv_backward` and `Plan` compute and differentiate one operation on
(B, H, L) rows; `Stream` takes them in pieces; a `Pattern` names the
frequencies kept; `conv_matrix` mixes channels; `depthwise_conv1d` is a short
convolution of each.  `FFTConv` holds its kernel.  `FlashFFTConv`, `PartialFFTConv`,
`FrequencySparseFFTConv` and `FlashDepthWiseConv1d` are the calls of
flash-fft-conv, `fftconv_fwd`, `fftconv_bwd` and `fftconv_func` those of hyena-dna;
`opt_ssm_forward`, `fft_conv`, `FFTConvS4` and `Centaurus` are lrnnx's; `ssm`
has the kernels of state-space models, `hippo` their initialisations;
`cuda` tells of arrays on GPUs; `cost` is the paper's cost model, `monarch` the
transform by itself, `reference` the oracle in plain NumPy.
"""

from . import cost, cuda, hippo, monarch, reference, ssm
from ._gradients import Gradients
from ._lib import Unsupported
from ._lib import lib as _c
from .centaurus import Centaurus
from .convolution import conv, conv_backward
from .depthwise import (
    FlashDepthWiseConv1d,
    FlashDepthwiseConv1d,
    depthwise_conv1d,
    depthwise_conv1d_backward,
)
from .flash import FlashFFTConv, FrequencySparseFFTConv, PartialFFTConv
from .hyena import fftconv_bwd, fftconv_func, fftconv_func_backward, fftconv_fwd
from .matrix import conv_matrix, conv_matrix_backward
from .mixer import FFTConv
from .pattern import Pattern
from .plan import Counters, Plan, Spectrum
from .s4 import FFTConvS4
from .strategies import (
    fft_conv,
    opt_ssm_backward,
    opt_ssm_forward,
    strategy_costs,
    upstream_strategy,
)
from .stream import Stream

__version__ = _c.fftconv_version().decode()
__all__ = [
    "Centaurus",
    "Counters",
    "FFTConv",
    "FFTConvS4",
    "FlashDepthWiseConv1d",
    "FlashDepthwiseConv1d",
    "FlashFFTConv",
    "FrequencySparseFFTConv",
    "Gradients",
    "PartialFFTConv",
    "Pattern",
    "Plan",
    "Spectrum",
    "Stream",
    "Unsupported",
    "conv",
    "conv_backward",
    "conv_matrix",
    "conv_matrix_backward",
    "cost",
    "cuda",
    "default_threads",
    "depthwise_conv1d",
    "depthwise_conv1d_backward",
    "fft_conv",
    "fftconv_bwd",
    "fftconv_func",
    "fftconv_func_backward",
    "fftconv_fwd",
    "hippo",
    "isas",
    "monarch",
    "opt_ssm_backward",
    "opt_ssm_forward",
    "reference",
    "ssm",
    "strategy_costs",
    "upstream_strategy",
]


def isas():
    """The instruction sets of this build that this machine can run."""
    found, index = [], 0
    while (name := _c.fftconv_isa_name(index)) is not None:
        if _c.fftconv_isa_available(name):
            found.append(name.decode())
        index += 1
    return tuple(found)


def default_threads():
    """The processors that ``threads=None`` means."""
    return _c.fftconv_default_threads()
