"""What the modules share: parameters with the attribute ``_optim``, dropout, lengths."""

import torch
from torch import nn

from .. import _lib
from .._array import choice

#: Name of an activation: its class.
ACTIVATIONS = {
    None: nn.Identity,
    "id": nn.Identity,
    "identity": nn.Identity,
    "linear": nn.Identity,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


def activated(x, name):
    """The activation of a convolution, one of those of the library, of x."""
    choice(name, "activation", _lib.ACTIVATIONS)
    return ACTIVATIONS[name]()(x)


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


class TiedDropout(nn.Dropout):
    """Dropout of (B, ..., H) with one mask for all samples of a channel."""

    def forward(self, x):
        return x * super().forward(x.new_ones((x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])))


def cut(x, lengths):
    """x (B, L, H) with zeros after `lengths` samples: None, an int, or integers (B,) or (1,)."""
    if lengths is None:
        return x
    lengths = torch.as_tensor(lengths, device=x.device).reshape(-1, 1)
    if len(lengths) not in (1, x.shape[0]):
        raise ValueError(
            f"lengths has {len(lengths)} entries; it must have 1 or x's batch, {x.shape[0]}"
        )
    return x * (torch.arange(x.shape[1], device=x.device) < lengths)[..., None]
