"""Long convolutions as matrix products: libfftconv from Python.

    y = fftconv.conv(u, k)                        # causal, any length
    plan = fftconv.Plan(u.shape, k.shape)         # or made once,
    y = plan(u, plan.spectrum(k))                 # and run often

`conv`, `conv_backward` and `Plan` compute and differentiate one operation on
(B, H, L) rows; `Stream` takes them in pieces; a `Pattern` names the
frequencies kept; `conv_matrix` mixes channels; `FlashFFTConv` is the call of
flash-fft-conv; `cost` is the paper's cost model, `monarch` the transform by
itself, `reference` the oracle in plain NumPy.
"""

from . import cost, monarch, reference
from ._gradients import Gradients
from ._lib import Unsupported, lib as _c
from .convolution import FlashFFTConv, conv, conv_backward
from .matrix import conv_matrix, conv_matrix_backward
from .pattern import Pattern
from .plan import Counters, Plan, Spectrum
from .stream import Stream

__version__ = _c.fftconv_version().decode()
__all__ = ["Counters", "FlashFFTConv", "Gradients", "Pattern", "Plan",
           "Spectrum", "Stream", "Unsupported", "conv", "conv_backward",
           "conv_matrix", "conv_matrix_backward", "cost", "default_threads",
           "isas", "monarch", "reference"]


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
