"""`FFTConv`: a sequence-mixing layer, which is a long convolution with its parameters."""

import torch
from torch import nn

from .. import _lib
from .._array import choice, size
from ._conv import conv


class FFTConv(nn.Module):
    """A long convolution along the sequence, with its kernel as a parameter.

        z = in_gate . u,   p = z * k + skip . z,   y = out_gate . act(p)

    channels: H.
    length: the longest sequence, and the number of taps of the kernel.
    fft_size: None makes `*` the linear convolution, computed with the cheapest FFT size.
        Otherwise `*` is circular modulo fft_size >= length, which equals the linear one if
        fft_size >= 2 length - 1.
    activation: None, "gelu" (by erf) or "silu".
    gated: whether calls take in_gate and out_gate.
    two_sided: adds a second kernel k_rev for future samples; lag 0 counts in both kernels.
        fft_size must then be None or at least 2 length - 1.
    layout: "BHL" or "BLH", the order of the axes of u, the gates and y.
    device, dtype: those of the parameters.

    The parameters are ``k`` (H, length), ``skip`` (H,) and, if two-sided, ``k_rev``
    (H, length).  Initially, each channel's k and k_rev are normal random numbers times
    exp(-2 t / length), scaled to norm 1; skip is normal.  Raises ValueError.

    Example:
        >>> import torch
        >>> module = FFTConv(2, 8, activation="gelu")
        >>> module(torch.ones(1, 2, 8)).sum().backward()
        >>> module.k.grad.shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        channels,
        length,
        *,
        fft_size=None,
        activation=None,
        gated=False,
        two_sided=False,
        layout="BHL",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.channels = size(channels, "channels")
        self.length = size(length, "length")
        choice(activation, "activation", _lib.ACTIVATIONS)
        choice(layout, "layout", dict.fromkeys(("BHL", "BLH")))
        self.activation, self.layout = activation, layout
        self.gated, self.two_sided = bool(gated), bool(two_sided)
        self.fft_size = None
        if fft_size is not None:
            low = 2 * self.length - 1 if two_sided else self.length
            self.fft_size = size(fft_size, "fft_size", low)
        shape, like = (self.channels, self.length), {"device": device, "dtype": dtype}
        self.k = nn.Parameter(torch.empty(shape, **like))
        self.register_parameter(
            "k_rev", nn.Parameter(torch.empty(shape, **like)) if two_sided else None
        )
        self.skip = nn.Parameter(torch.empty(shape[:1], **like))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Set the parameters to new random initial values."""
        for k in (self.k, self.k_rev):
            if k is not None:
                t = torch.arange(self.length, device=k.device)
                x = torch.randn(k.shape, device=k.device) * torch.exp(-2 * t / self.length)
                k.copy_(x / x.norm(dim=1, keepdim=True))
        self.skip.normal_()

    def extra_repr(self):
        return (
            f"{self.channels}, {self.length}, fft_size={self.fft_size}, "
            f"activation={self.activation!r}, gated={self.gated}, "
            f"two_sided={self.two_sided}, layout={self.layout!r}"
        )

    def forward(self, u, in_gate=None, out_gate=None, *, threads=None):
        """Return y, of u's shape.

        u: (B, H, L) or (H, L), L <= length, with H last if the layout is "BLH".
        in_gate, out_gate: of u's shape, or of one that broadcasts to it; both are required if
            the module is gated, and not allowed otherwise.

        dtypes promote as in `fftconv.torch.conv`: y is in 16 bits if u and the gates are, and
        the parameters may then be in float32.  Raises TypeError for an operand that is not a
        tensor, ValueError for a wrong value.
        """
        last = u.shape[-2:] if self.layout == "BHL" else u.shape[:-3:-1]
        if len(u.shape) not in (2, 3) or last[0] != self.channels or last[1] > self.length:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; in the layout {self.layout!r} its axis H must be "
                f"{self.channels} and its axis L from 1 to {self.length}"
            )
        for name, gate in (("in_gate", in_gate), ("out_gate", out_gate)):
            if (gate is not None) != self.gated:
                raise ValueError(
                    f"{name} is {'None' if gate is None else 'given'}; with gated={self.gated} "
                    f"it must {'be given' if self.gated else 'be None'}"
                )
        options = {"skip": self.skip, "activation": self.activation}
        if self.two_sided:
            options.update(mode="two_sided", k_rev=self.k_rev)
        elif self.fft_size is not None and self.fft_size < 2 * self.length - 1:
            options.update(mode="circular", fft_size=self.fft_size)
        return conv(u, self.k, in_gate, out_gate, layout=self.layout, threads=threads, **options)
