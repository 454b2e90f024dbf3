"""The functions and layers of the lrnnx package, under its names, for arrays.

`opt_ssm_forward`, `opt_ssm_backward` and `fft_conv` compute the convolutions of state-space
layers.  `opt_ssm_forward` takes the cheapest order of its steps: `strategy_costs` predicts
the cost of each order on a `Machine`; `upstream_strategy` is the rule that lrnnx itself uses.
`FFTConvS4` is a layer whose kernel is an `S4Kernel` or an `S4DKernel`; `Centaurus` is a layer
with structured projections.
Sources: Centaurus, arXiv 2409.03377; S4, arXiv 2111.00396; S4D, arXiv 2206.11893.
"""

from .centaurus import Centaurus
from .s4 import FFTConvS4, S4DKernel, S4Kernel
from .strategies import (
    Cost,
    Machine,
    SsmGradients,
    fft_conv,
    machine,
    opt_ssm_backward,
    opt_ssm_forward,
    strategy_costs,
    upstream_strategy,
)

__all__ = [
    "Centaurus",
    "Cost",
    "FFTConvS4",
    "Machine",
    "S4DKernel",
    "S4Kernel",
    "SsmGradients",
    "fft_conv",
    "machine",
    "opt_ssm_backward",
    "opt_ssm_forward",
    "strategy_costs",
    "upstream_strategy",
]


def __dir__():
    return __all__
