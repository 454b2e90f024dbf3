"""The calls of lrnnx, under their own names, over arrays.

`opt_ssm_forward`, `opt_ssm_backward` and `fft_conv` are convolutions of state-space
layers, in the order of steps that costs least: `strategy_costs` predicts it for a
`Machine`, `upstream_strategy` is lrnnx's own rule.  `FFTConvS4` is a layer over
`S4Kernel` or `S4DKernel`; `Centaurus` is one with structured projections.
Centaurus, arXiv 2409.03377; S4, 2111.00396; S4D, 2206.11893.
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
