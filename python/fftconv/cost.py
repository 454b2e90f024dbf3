"""The cost model of the FlashFFTConv paper: Equation 2 of arXiv 2311.05908.

It predicts the seconds that one row (B = H = 1) of N = N_1 N_2 ... N_p points takes:

    C = sum_i 16 N N_i / gamma(N_i) + 4 N / omega(i)

gamma(N_i) is tau_m if N_i >= mu, else tau_g.  omega(i) is sigma_h if the length still to be
transformed, N / (N_1 ... N_{i-1}), exceeds fast_points, else sigma_s.  The paper gives no
formula for omega; this rule is that of libfftconv.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from . import _lib, _notebook
from ._array import size

__all__ = ["HARDWARE", "Hardware", "balanced_radices", "best_order", "best_radices", "monarch_cost"]


@dataclass(frozen=True)
class Hardware:
    """A machine, described by the paper's four rates (Table 19) and two limits.

    Example:
        >>> HARDWARE["A100"].mu, HARDWARE["A100"].fast_points
        (16, 32768)
    """

    name: str
    sigma_h: float  #: bandwidth of main memory (HBM) in bytes/s
    sigma_s: float  #: bandwidth of the fast memory (SRAM; a CPU's L2 cache) in bytes/s
    tau_m: float  #: flop/s of matrix products
    tau_g: float  #: flop/s of all other arithmetic
    mu: int  #: the smallest radix that runs at tau_m
    fast_points: int  #: the longest sub-transform, in points, that fits in the fast memory
    measured: bool = False  #: True if the rates were measured, False if from a datasheet

    def _repr_html_(self):
        return _notebook.hardware(self)


class _HardwareTable(Mapping):
    """A mapping from a name to its Hardware, fetched from C (or measured) on first access."""

    def __init__(self):
        self._known = {}

    def _names(self):
        index = 0
        while (name := _lib.lib.fftconv_hardware_name(index)) is not None:
            yield name.decode()
            index += 1

    def __getitem__(self, name):
        if name not in self._known:
            if name not in self:
                raise KeyError(name)
            c = _lib.Hardware(size=ctypes.sizeof(_lib.Hardware))
            _lib.lib.fftconv_hardware_get(name.encode(), c)
            self._known[name] = Hardware(
                name, c.sigma_h, c.sigma_s, c.tau_m, c.tau_g, c.mu, c.fast_points, bool(c.measured)
            )
        return self._known[name]

    def __contains__(self, name):
        return name in self._names()

    def __iter__(self):
        return self._names()

    def __len__(self):
        return sum(1 for _ in self._names())

    def __repr__(self):
        return f"HARDWARE({', '.join(self)})"


#: The machines known by name: "A100" (the paper's Table 19), "H100" (from its datasheet) and
#: "host" (this machine, measured on first access, which takes about half a second).
HARDWARE = _HardwareTable()


def _c_hardware(hardware):
    if isinstance(hardware, str):
        try:
            hardware = HARDWARE[hardware]
        except KeyError:
            raise ValueError(
                f"hardware is {hardware!r}; allowed: {', '.join(HARDWARE)}, or a Hardware"
            ) from None
    if not isinstance(hardware, Hardware):
        raise ValueError(f"hardware is {hardware!r}; it must be a name or a Hardware")
    return _lib.Hardware(
        size=ctypes.sizeof(_lib.Hardware),
        **{
            **asdict(hardware),
            "name": hardware.name.encode()[:31],
            "measured": int(hardware.measured),
        },
    )


def _order(order):
    order = size(order, "order")
    if order > _lib.MAX_ORDER:
        raise ValueError(f"order is {order}; allowed: 1 to {_lib.MAX_ORDER}")
    return order


def monarch_cost(n, radices, hardware="A100"):
    """Return the seconds of Equation 2 for one row of n = prod(radices) points.

    hardware: a name in `HARDWARE`, or a `Hardware`.  Raises ValueError, also if n is not the
    product of the radices.

    Example:
        >>> f"{monarch_cost(4096, (64, 64)):.2e} s, {monarch_cost(4096, (16, 16, 16)):.2e} s"
        '3.93e-08 s, 1.86e-08 s'
    """
    n = size(n, "n")
    radices = [size(r, "radices") for r in radices]
    product = 1
    for r in radices:
        product *= r
    if product != n:
        raise ValueError(f"radices is {radices}, whose product is {product}; it must be n = {n}")
    seconds = ctypes.c_double()
    _lib.lib.fftconv_monarch_cost(
        _lib.int64s(radices), _order(len(radices)), _c_hardware(hardware), seconds
    )
    return seconds.value


def balanced_radices(n, order):
    """Return `order` radices of n, powers of two as equal as possible, the largest first.

    These are the radices of the paper's Figure 4.  Raises ValueError.

    Example:
        >>> balanced_radices(2**13, 3)
        (32, 16, 16)
    """
    radices = (ctypes.c_int64 * _order(order))()
    _lib.lib.fftconv_balanced_radices(size(n, "n"), len(radices), radices)
    return tuple(radices)


def best_radices(n, order, hardware="A100"):
    """Return the `order` radices of n, powers of two, that are cheapest by Equation 2.

    hardware: a name in `HARDWARE`, or a `Hardware`.  Raises ValueError.

    Example:
        >>> best_radices(2**12, 2)
        (64, 64)
    """
    radices = (ctypes.c_int64 * _order(order))()
    _lib.lib.fftconv_best_radices(size(n, "n"), len(radices), _c_hardware(hardware), radices)
    return tuple(radices)


def best_order(n, hardware="A100"):
    """Return the order out of 2, 3 and 4 (the paper's range) that is cheapest for n.

    Each order is taken with its cheapest radices.  n: a power of two, at least 4.
    hardware: a name in `HARDWARE`, or a `Hardware`.  Raises ValueError.

    Example:
        >>> best_order(2**10), best_order(2**20)
        (2, 4)
    """
    n = size(n, "n")
    if n < 4 or n & (n - 1):
        raise ValueError(f"n is {n}; it must be a power of two, at least 4")
    return min(
        (p for p in (2, 3, 4) if n >= 2**p),
        key=lambda p: monarch_cost(n, best_radices(n, p, hardware), hardware),
    )
