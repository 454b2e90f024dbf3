"""Long FFT convolutions, computed as matrix products by the C library libfftconv.

    y = fftconv.conv(u, k)                        # causal, any length
    plan = fftconv.Plan(u.shape, k.shape)         # or make a plan once
    y = plan(u, plan.spectrum(k))                 # and call it many times

`conv`, `conv_backward` and `Plan` compute a gated long convolution of rows of shape
(B, H, L) and its gradients.  `Stream` computes a causal one whose input arrives in
pieces.  A `Pattern` says which frequencies of a kernel are kept.  `conv_matrix` is a
long convolution that mixes channels, `depthwise_conv1d` a short one of each channel
by itself.  `FFTConv` is a layer that holds its kernel as a parameter.

`flash`, `hyena` and `lrnnx` offer the functions and modules of flash-fft-conv,
hyena-dna's fftconv and lrnnx under their original names.  `ssm` computes the kernels
of state-space models and `hippo` their initialisations.  `cuda` deals with arrays on
GPUs, `cost` is the cost model of the FlashFFTConv paper, `monarch` is the transform
by itself, and `reference` is a plain NumPy implementation to test against.
"""

from . import cost, cuda, flash, hippo, hyena, lrnnx, monarch, natural, reference, ssm, strategies
from ._backends import release_workspace
from ._gradients import Gradients
from ._handles import thread_count
from ._lib import Unsupported
from ._lib import lib as _c
from .convolution import conv, conv_backward
from .depthwise import depthwise_conv1d, depthwise_conv1d_backward
from .matrix import conv_matrix, conv_matrix_backward, row_plan
from .mixer import FFTConv
from .pattern import Pattern
from .plan import Counters, Plan, Spectrum, cached_plan
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
    "release_workspace",
    "set_default_threads",
    "ssm",
]


def __dir__():
    return __all__


def isas():
    """The names of this build's instruction sets that this machine can run.

    Example:
        >>> "baseline" in isas()
        True
    """
    found, index = [], 0
    while (name := _c.fftconv_isa_name(index)) is not None:
        if _c.fftconv_isa_available(name):
            found.append(name.decode())
        index += 1
    return tuple(found)


def default_threads():
    """The number of threads that ``threads=None`` stands for, from 1 to 255.

    It is the first of these that is given: the number of `set_default_threads`; the
    environment variable FFTCONV_NUM_THREADS; OMP_NUM_THREADS, of which a list such as "4,2"
    counts by its first number; the processors that this process may run on, or as many as its
    container's CPU quota pays for, rounded up, if those are fewer.  The environment is read
    once, and a value that is not a number from 1 is ignored.

    Example:
        >>> 1 <= default_threads() <= 255
        True
    """
    return _c.fftconv_default_threads()


def set_default_threads(n=None):
    """Set the number of threads that ``threads=None`` stands for, for the whole process.

    n: from 1 to 255; None takes the setting back.  A `Plan`, `Stream` or layer that was made
    before keeps its number.  Raises ValueError.

    Example:
        >>> set_default_threads(1)
        >>> default_threads()
        1
        >>> set_default_threads()
    """
    _c.fftconv_set_default_threads(thread_count(n))
    for kept in (cached_plan, row_plan, natural.kept_rdft, strategies.measured):
        kept.cache_clear()
