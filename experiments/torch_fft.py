"""Convolutions written with PyTorch alone, as models write them with `torch.fft`, for comparison.

conv(u, k, ...)              fftconv.torch.conv, as far as the modules of fftconv.torch need it
depthwise_conv1d(x, w, ...)  fftconv.torch.depthwise_conv1d, likewise
in_modules()                 a context in which these modules use both

It needs PyTorch (pip install 'fftconv[torch]').
"""

import contextlib
import sys

import fftconv.torch
import torch
import torch.nn.functional as F
from fftconv.depthwise import check_padding

ACTIVATIONS = {None: lambda y: y, "gelu": F.gelu, "silu": F.silu}


def conv(
    u,
    k,
    in_gate=None,
    out_gate=None,
    *,
    mode="causal",
    fft_size=None,
    k_rev=None,
    skip=None,
    activation=None,
    mask=None,
    layout="BHL",
    threads=None,
):
    """y = out_gate . mask . act((in_gate . u) * k + skip . in_gate . u), by transforms of 2 L.

    In the mode "circular" they have fft_size points.  The transform of the kernel is part of
    each call.  The arguments are those of `fftconv.torch.conv`; threads is ignored.
    """
    if layout == "BLH":
        u, in_gate, out_gate = (x if x is None else x.mT for x in (u, in_gate, out_gate))
    z = u if in_gate is None else in_gate * u
    length = u.shape[-1]
    n = fft_size if mode == "circular" else 2 * length
    spectrum = torch.fft.rfft(k, n=n)
    if k_rev is not None:
        spectrum = spectrum + torch.fft.rfft(k_rev, n=n).conj()
    y = torch.fft.irfft(torch.fft.rfft(z, n=n) * spectrum, n=n)[..., :length]
    if skip is not None:
        y = y + skip[:, None] * z
    y = ACTIVATIONS[activation](y)
    y = y if mask is None else y * mask[:, :, None]
    y = y if out_gate is None else out_gate * y
    return y.mT if layout == "BLH" else y


def depthwise_conv1d(
    x, weight, bias=None, *, padding=0, activation=None, layout="BHL", threads=None
):
    """`torch.nn.functional.conv1d` with one group for each channel, padded, then cropped.

    The arguments are those of `fftconv.torch.depthwise_conv1d`; threads is ignored.
    """
    x = x.mT if layout == "BLH" else x
    weight = weight.reshape(len(weight), 1, -1)
    left, right = check_padding(padding, weight.shape[-1], False)
    both = max(left, right)
    y = F.conv1d(x, weight, bias, padding=both, groups=len(weight))
    y = ACTIVATIONS[activation](y[..., both - left : y.shape[-1] - (both - right)])
    return y.mT if layout == "BLH" else y


# Where the modules of fftconv.torch have the functions that those of this file replace.
PLACES = [
    (module, function, getattr(fftconv.torch, function.__name__))
    for name, module in sys.modules.items()
    for function in (conv, depthwise_conv1d)
    if name.startswith("fftconv.torch.")
    and getattr(module, function.__name__, None) is getattr(fftconv.torch, function.__name__)
]


@contextlib.contextmanager
def in_modules():
    """A context in which the modules of fftconv.torch call the functions of this file."""
    for module, function, _ in PLACES:
        setattr(module, function.__name__, function)
    try:
        yield
    finally:
        for module, function, ours in PLACES:
            setattr(module, function.__name__, ours)
