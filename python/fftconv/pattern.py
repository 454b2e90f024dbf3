"""Frequency patterns: which bins of a kernel's DFT a convolution keeps.

FlashFFTConv, arXiv 2311.05908, appendix A.4: the frequency index m is written in p
digits, and some values of each digit are removed.  For rows z of real samples the
convolution then is

    y = Re IDFT(DFT(z) . mask . DFT(k)),    circular modulo fft_size N

Since z and k are real and only the real part is taken, only the symmetric part of the
mask acts: bin m has the weight

    weight[m] = (mask[m] + mask[-m]) / 2

so that a bin has no effect only if the mask removes both m and -m.
"""

import math

import numpy as np

from . import _notebook
from ._array import choice, size

# The NumPy memory order in which an array of axes (i_1 ... i_p) is numbered by m.
_ORDERS = {"natural": "C", "stage": "F"}


class Pattern:
    """A set of frequencies m: those whose digits i_1 ... i_p all have i_j < N_j - drop_j.

    shape: (N_1 ... N_p), p >= 1, with product fft_size.  It belongs to the pattern, and
        is independent of the radices that a plan uses.
    drop: (drop_1 ... drop_p), 0 <= drop_j < N_j: how many values of each digit are
        removed, the largest ones.
    order: how the digits form m; for p = 4
        "natural":  m = ((i_1 N_2 + i_2) N_3 + i_3) N_4 + i_4
        "stage":    m = i_1 + N_1 (i_2 + N_2 (i_3 + N_3 i_4))

    Patterns are immutable and hashable.  `Pattern.lowpass` and `Pattern.from_mask` make
    patterns that are given in other ways.  Raises ValueError.

    Example:
        >>> pattern = Pattern((4, 4), drop=(2, 0))  # without the upper half of the first digit
        >>> pattern.asked(16), pattern.kept(16)
        (0.5, 0.9375)
    """

    __slots__ = ("_kind", "_arguments", "_hash")

    def __init__(self, shape, drop, order="natural"):
        shape, drop = _digits(shape, "shape", 1), _digits(drop, "drop", 0)
        if len(shape) != len(drop):
            raise ValueError(
                f"drop has {len(drop)} digits, and shape has {len(shape)}: they must agree"
            )
        for j, (n, d) in enumerate(zip(shape, drop)):
            if d >= n:
                raise ValueError(
                    f"drop[{j}] is {d}; it must be from 0 to {n - 1}, below shape[{j}]"
                )
        choice(order, "order", _ORDERS)
        self._set("box", shape, drop, order)

    @classmethod
    def lowpass(cls, n_partial):
        """The pattern of rfft bins 0 ... n_partial // 2 - 1, for any fft_size.

        It does what K[..., n_partial // 2:] = 0 does in FlashFFTConv.  n_partial >= 1.
        Raises ValueError.
        """
        self = cls.__new__(cls)
        self._set("lowpass", size(n_partial, "n_partial", high=2**63 - 1))
        return self

    @classmethod
    def from_mask(cls, mask):
        """The pattern of the rfft bins where `mask` is true.

        mask: boolean, (fft_size // 2 + 1,).  Raises ValueError.
        """
        bins = np.asarray(mask)
        if bins.dtype != bool or bins.ndim != 1 or not bins.size:
            raise ValueError(
                f"mask has dtype {bins.dtype} and shape {bins.shape}; it must "
                "be boolean, (fft_size // 2 + 1,)"
            )
        self = cls.__new__(cls)
        self._set("mask", bins.size, np.packbits(bins).tobytes())
        return self

    def _set(self, kind, *arguments):
        for name, value in (
            ("_kind", kind),
            ("_arguments", arguments),
            ("_hash", hash((kind, arguments))),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name, value):
        raise AttributeError("a Pattern is immutable")

    def __reduce__(self):
        if self._kind == "box":
            return Pattern, self._arguments
        if self._kind == "lowpass":
            return Pattern.lowpass, self._arguments
        return Pattern.from_mask, (self._bins(),)

    def __eq__(self, other):
        if not isinstance(other, Pattern):
            return NotImplemented
        return self is other or (self._kind == other._kind and self._arguments == other._arguments)

    def __hash__(self):
        return self._hash

    def __repr__(self):
        if self._kind == "box":
            shape, drop, order = self._arguments
            return f"Pattern({shape}, {drop}, order={order!r})"
        if self._kind == "lowpass":
            return f"Pattern.lowpass({self._arguments[0]})"
        return f"Pattern.from_mask(<{np.count_nonzero(self._bins())} of {self._arguments[0]} bins>)"

    def _repr_html_(self):
        """Which values of each digit are kept, or which of the rfft bins."""
        if self._kind == "box":
            shape, drop, _ = self._arguments
            lines = [
                ([i < n - d for i in range(n)], f"digit {j}: {n - d} of {n}")
                for j, (n, d) in enumerate(zip(shape, drop), 1)
            ]
            n = math.prod(shape)
            lines.append((self.weights(n) != 0, f"bins that act: {self.kept(n):.1%}"))
        elif self._kind == "mask":
            bins = self._bins()
            lines = [(bins, f"rfft bins: {np.count_nonzero(bins)} of {bins.size}")]
        else:
            lines = []
        return _notebook.pattern(repr(self), lines)

    def _bins(self):
        """The mask that `from_mask` was given."""
        count, packed = self._arguments
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)

    # ---- For one fft_size -----------------------------------------------

    def mask(self, fft_size):
        """The mask of all bins: (fft_size,), boolean, true for the bins that are kept.

        A low pass and a mask of rfft bins are mirrored to the negative frequencies.
        Raises ValueError if the pattern belongs to another fft_size.
        """
        n = size(fft_size, "fft_size")
        if self._kind == "box":
            shape, drop, order = self._arguments
            if math.prod(shape) != n:
                raise ValueError(
                    f"pattern has shape {shape}, whose product is "
                    f"{math.prod(shape)}; it must be fft_size = {n}"
                )
            box = np.zeros(shape, bool, order=_ORDERS[order])
            box[tuple(slice(n - d) for n, d in zip(shape, drop))] = True
            return box.reshape(-1, order=_ORDERS[order])
        return _mirrored(self._half(n), n)

    def _half(self, n):
        """The rfft bins' mask, (n // 2 + 1,), of a low pass or a mask, which are symmetric."""
        if self._kind == "lowpass":
            return np.arange(n // 2 + 1) < self._arguments[0] // 2
        if self._arguments[0] != n // 2 + 1:
            raise ValueError(
                f"pattern has {self._arguments[0]} bins; for fft_size = {n} "
                f"there must be {n // 2 + 1}"
            )
        return self._bins()

    def weights(self, fft_size):
        """The weights of the rfft bins: (fft_size // 2 + 1,) float64,
        (mask[m] + mask[-m]) / 2.  Raises ValueError as `mask` does."""
        n = size(fft_size, "fft_size")
        if self._kind != "box":
            return self._half(n).astype(np.float64)
        mask = self.mask(n)
        m = np.arange(n // 2 + 1)
        return 0.5 * mask[m] + 0.5 * mask[-m]

    def asked(self, fft_size):
        """The fraction of the fft_size bins that the mask removes (see `kept`)."""
        return 1.0 - float(np.mean(self.mask(fft_size)))

    def kept(self, fft_size):
        """The fraction of the fft_size bins whose weight is not 0.

        These are the bins that a convolution of real rows has to compute.
        """
        return float(np.mean(_mirrored(self.weights(fft_size) != 0, fft_size)))


def as_pattern(pattern):
    """A `Pattern` from a Pattern or a boolean mask of rfft bins; None for None."""
    if pattern is None or isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, (list, tuple)) or hasattr(pattern, "__array__"):
        return Pattern.from_mask(pattern)
    raise ValueError(
        f"pattern is a {type(pattern).__name__}; it must be a "
        "Pattern, or boolean (fft_size // 2 + 1,)"
    )


def _mirrored(half, n):
    """An array (n,) whose entry m is half[min(m, n - m)]; half: (n // 2 + 1,)."""
    m = np.arange(n)
    return half[np.minimum(m, n - m)]


def _digits(values, name, low):
    try:
        values = tuple(values)
    except TypeError:
        raise ValueError(f"{name} is {values!r}; it must be a tuple of whole numbers") from None
    if not values:
        raise ValueError(f"{name} is empty; name at least one digit")
    return tuple(size(value, name, low) for value in values)
