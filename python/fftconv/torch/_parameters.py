"""What the modules share: parameters with the attribute ``_optim``."""

from torch import nn


def register(module, name, x, lr=None, wd=0.0):
    """Add x to the module: as a buffer if lr is 0, else as a parameter.

    Its attribute ``_optim``, a dict, tells a training script its lr, unless that is None, and
    its weight decay.
    """
    if lr == 0:
        module.register_buffer(name, x)
    else:
        x = nn.Parameter(x)
        module.register_parameter(name, x)
    x._optim = {"weight_decay": wd} if lr is None else {"lr": lr, "weight_decay": wd}
