"""Long convolutions as matrix products: libfftconv from Python.

    y = fftconv.conv(u, k)                        # causal, any length
    plan = fftconv.Plan(u.shape, k.shape)         # or made once,
    y = plan(u, plan.spectrum(k))                 # and run often

`conv`, `conv_backward` and `Plan` compute and differentiate one operation on
(B, H, L) rows; `Stream` takes them in pieces; a `Pattern` names the
frequencies kept; `conv_matrix` mixes channels; `depthwise_conv1d` is a short
convolution of each; `FFTConv` holds its kernel.

`flash`, `hyena` and `lrnnx` have the calls of flash-fft-conv, of hyena-dna's
fftconv and of lrnnx, each under its own name.  `ssm` has the kernels of state-space
models, `hippo` their initialisations; `cuda` tells of arrays on GPUs; `cost` is the
paper's cost model, `monarch` the transform by itself, `reference` the oracle in plain
NumPy.
"""

from . import cost, cuda, flash, hippo, hyena, lrnnx, monarch, reference, ssm
from ._gradients import Gradients
from ._lib import Unsupported
from ._lib import lib as _c
from .convolution import conv, conv_backward
from .depthwise import depthwise_conv1d, depthwise_conv1d_backward
from .matrix import conv_matrix, conv_matrix_backward
from .mixer import FFTConv
from .pattern import Pattern
from .plan import Counters, Plan, Spectrum
from .stream import Stream

__version__ = _c.fftconv_version().decode()
__all__ = [
    "Counters",
    "FFTConv",
    "Gradients",
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
    "flash",
    "hippo",
    "hyena",
    "isas",
    "lrnnx",
    "monarch",
    "reference",
    "ssm",
]


def __dir__():
    return __all__


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
