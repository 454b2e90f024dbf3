"""Frequency patterns: which bins of a kernel's DFT a convolution keeps.

FlashFFTConv, arXiv 2311.05908, appendix A.4: of the frequency index m, written
in p digits, some values of each digit are removed.  The meaning, on rows z of
real samples, is

    y = Re IDFT(DFT(z) . mask . DFT(k)),    circular modulo fft_size N

On real rows only the Hermitian part of mask . DFT(k) acts: bin m counts with

    weight[m] = (mask[m] + mask[-m]) / 2

so a bin is without effect only where mask and its mirror image both lack it.
"""

import math

import numpy as np

from ._array import choice, size

# The order in which NumPy runs through the digits (i_1 ... i_p).
_ORDERS = {"natural": "C", "stage": "F"}


class Pattern:
    """Digits i_j >= N_j - drop_j of the frequency index m are removed.

    shape: (N_1 ... N_p), p >= 1, whose product is fft_size; a pattern's own,
        whatever radices a plan runs.
    drop: as many; 0 <= drop_j < N_j.
    order: how the digits make m, for p = 4
        "natural":  m = ((i_1 N_2 + i_2) N_3 + i_3) N_4 + i_4
        "stage":    m = i_1 + N_1 (i_2 + N_2 (i_3 + N_3 i_4))

    Immutable and hashable.  `Pattern.lowpass` and `Pattern.from_mask` make the
    other kinds.  Raises ValueError.
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
        """Keeps rfft bins 0 ... n_partial // 2 - 1, of any fft_size: what
        FlashFFTConv's K[..., n_partial // 2:] = 0 does.  n_partial >= 1."""
        self = cls.__new__(cls)
        self._set("lowpass", size(n_partial, "n_partial"))
        return self

    @classmethod
    def from_mask(cls, mask):
        """Keeps the rfft bins where `mask`, boolean (fft_size // 2 + 1,), is
        true.  Raises ValueError."""
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

    def _bins(self):
        """from_mask's argument."""
        count, packed = self._arguments
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(bool)

    # ---- For one fft_size -----------------------------------------------

    def mask(self, fft_size):
        """(fft_size,) boolean: the bins that were asked for.

        A low pass and a mask of rfft bins are mirrored.  Raises ValueError
        where the pattern is of another fft_size.
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
        """(n // 2 + 1,) boolean of a pattern that is its own mirror image."""
        if self._kind == "lowpass":
            return np.arange(n // 2 + 1) < self._arguments[0] // 2
        if self._arguments[0] != n // 2 + 1:
            raise ValueError(
                f"pattern has {self._arguments[0]} bins; for fft_size = {n} "
                f"there must be {n // 2 + 1}"
            )
        return self._bins()

    def weights(self, fft_size):
        """(fft_size // 2 + 1,) float64: (mask[m] + mask[-m]) / 2."""
        n = size(fft_size, "fft_size")
        if self._kind != "box":
            return self._half(n).astype(np.float64)
        mask = self.mask(n)
        m = np.arange(n // 2 + 1)
        return 0.5 * mask[m] + 0.5 * mask[-m]

    def asked(self, fft_size):
        """The fraction of the fft_size bins that the mask removes."""
        return 1.0 - float(np.mean(self.mask(fft_size)))

    def kept(self, fft_size):
        """The fraction of the fft_size bins that have a weight other than 0,
        which is what a convolution of real rows has to compute."""
        return float(np.mean(_mirrored(self.weights(fft_size) != 0, fft_size)))


def as_pattern(pattern):
    """A Pattern from a Pattern, a boolean mask of rfft bins, or None."""
    if pattern is None or isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, (list, tuple)) or hasattr(pattern, "__array__"):
        return Pattern.from_mask(pattern)
    raise ValueError(
        f"pattern is a {type(pattern).__name__}; it must be a "
        "Pattern, or boolean (fft_size // 2 + 1,)"
    )


def _mirrored(half, n):
    """(n,) from (n // 2 + 1,): entry m is that of min(m, n - m)."""
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
