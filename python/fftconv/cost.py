"""The paper's cost model: Equation 2 of FlashFFTConv, arXiv 2311.05908.

Seconds of one row (B = H = 1) of N = N_1 ... N_p points on given hardware:

    C = sum_i 16 N N_i / gamma(N_i) + 4 N / omega(i)

gamma(N_i) is tau_m where N_i >= mu, else tau_g.  omega(i) is sigma_h while the
length still to be transformed, N / (N_1 ... N_{i-1}), exceeds fast_points, else
sigma_s; the paper gives no formula for omega, this rule is ours.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from . import _lib
from ._array import size

__all__ = ["HARDWARE", "Hardware", "balanced_radices", "best_order", "best_radices", "monarch_cost"]


@dataclass(frozen=True)
class Hardware:
    """A machine in the paper's four numbers (Table 19) and two limits."""

    name: str
    sigma_h: float  #: bytes/s of main memory (HBM)
    sigma_s: float  #: bytes/s of the fast memory (SRAM; a CPU's L2)
    tau_m: float  #: flop/s of matrix products
    tau_g: float  #: flop/s of everything else
    mu: int  #: smallest radix that runs at tau_m
    fast_points: int  #: longest sub-transform kept in the fast memory
    measured: bool = False  #: False: from a datasheet


class _HardwareTable(Mapping):
    """name -> Hardware, fetched from the library (or measured) once."""

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


#: "A100" (the paper's Table 19), "H100" (datasheet), "host" (this machine,
#: measured on first access, about half a second).
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
    """Seconds of Equation 2 for one row of n = prod(radices) points.

    ``hardware`` is a name of HARDWARE or a Hardware.  Raises ValueError where
    the radices do not multiply to n.
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
    """The most equal powers of two, largest outermost (Figure 4's choice)."""
    radices = (ctypes.c_int64 * _order(order))()
    _lib.lib.fftconv_balanced_radices(size(n, "n"), len(radices), radices)
    return tuple(radices)


def best_radices(n, order, hardware="A100"):
    """The cheapest powers of two of this order by Equation 2."""
    radices = (ctypes.c_int64 * _order(order))()
    _lib.lib.fftconv_best_radices(size(n, "n"), len(radices), _c_hardware(hardware), radices)
    return tuple(radices)


def best_order(n, hardware="A100"):
    """The cheapest order of 2, 3, 4 (the paper's range), each with its
    cheapest radices.  n is a power of two, at least 4."""
    n = size(n, "n")
    if n < 4 or n & (n - 1):
        raise ValueError(f"n is {n}; it must be a power of two, at least 4")
    return min(
        (p for p in (2, 3, 4) if n >= 2**p),
        key=lambda p: monarch_cost(n, best_radices(n, p, hardware), hardware),
    )
