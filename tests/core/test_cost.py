"""The cost model: Equation 2, the numbers of Figure 4, and the cheapest choices."""

import itertools
import math

import fftconv
import pytest
from fftconv import cost

# Picoseconds per token with the A100's constants (Table 19) and balanced radices, for p = 2, 3, 4:
# the curves of Figure 4, computed by hand from Equation 2.
FIGURE_4 = {
    256: (3.03, 19.44, 16.23),
    512: (4.12, 23.08, 19.87),
    1024: (5.22, 16.90, 23.50),
    2048: (7.41, 10.72, 27.14),
    4096: (9.59, 4.55, 30.78),
    8192: (13.97, 5.64, 24.60),
    16384: (18.35, 6.73, 18.42),
    32768: (27.10, 7.83, 12.24),
    65536: (38.39, 12.56, 8.60),
    131072: (55.90, 14.75, 9.70),
    262144: (73.40, 16.93, 10.79),
    524288: (108.41, 21.31, 11.88),
    1048576: (143.42, 25.69, 12.98),
    2097152: (213.44, 30.06, 15.17),
    4194304: (283.45, 38.81, 19.90),
}
BALANCED = {
    256: ((16, 16), (8, 8, 4), (4, 4, 4, 4)),
    2048: ((64, 32), (16, 16, 8), (8, 8, 8, 4)),
    32768: ((256, 128), (32, 32, 32), (16, 16, 16, 8)),
    1048576: ((1024, 1024), (128, 128, 64), (32, 32, 32, 32)),
    4194304: ((2048, 2048), (256, 128, 128), (64, 64, 32, 32)),
}


@pytest.mark.parametrize("n", FIGURE_4)
def test_figure_4(n):
    for p, printed in zip((2, 3, 4), FIGURE_4[n]):
        radices = cost.balanced_radices(n, p)
        got = cost.monarch_cost(n, radices, "A100") / n * 1e12
        assert f"{got:.2f}" == f"{printed:.2f}", (p, radices)


@pytest.mark.parametrize("n", FIGURE_4)
def test_best_order(n):
    """The best order is that of the lowest curve: 2 up to N = 2K, 3 up to 32K, then 4."""
    curves = FIGURE_4[n]
    want = 2 + curves.index(min(curves))
    assert want == (2 if n <= 2048 else 3 if n <= 32768 else 4)
    assert cost.best_order(n, "A100") == want


@pytest.mark.parametrize("n", BALANCED)
def test_balanced(n):
    assert tuple(cost.balanced_radices(n, p) for p in (2, 3, 4)) == BALANCED[n]


def test_balanced_of_any_order():
    for bits in range(1, 31):
        for order in range(1, min(bits, 16) + 1):
            r = cost.balanced_radices(2**bits, order)
            assert math.prod(r) == 2**bits and len(r) == order
            assert list(r) == sorted(r, reverse=True) and r[0] <= 2 * r[-1]


def equation_2(radices, h):
    """The cost C of Equation 2 for B = H = 1, written out."""
    n, total, left = math.prod(radices), 0.0, math.prod(radices)
    for r in radices:
        total += 16 * n * r / (h.tau_m if r >= h.mu else h.tau_g)
        total += 4 * n / (h.sigma_h if left > h.fast_points else h.sigma_s)
        left //= r
    return total


@pytest.mark.parametrize("name", ["A100", "H100"])
def test_equation_2(name):
    h = cost.HARDWARE[name]
    for radices in [
        (16, 16),
        (2, 128),
        (128, 2),
        (64, 64, 32),
        (4, 4, 4, 4),
        (32, 32, 32, 64),
        (7, 9),
        (1, 5),
        (100,),
    ]:
        n = math.prod(radices)
        got = cost.monarch_cost(n, radices, h)
        assert math.isclose(got, equation_2(radices, h), rel_tol=1e-12)
        assert got == cost.monarch_cost(n, radices, name)


def test_mine():
    """Hardware may be described by the caller, and each of its numbers counts."""
    h = cost.Hardware("mine", 1e10, 1e11, 1e12, 1e11, 8, 1024)
    assert math.isclose(
        cost.monarch_cost(4096, (16, 4, 64), h), equation_2((16, 4, 64), h), rel_tol=1e-12
    )


@pytest.mark.parametrize("name", ["A100", "H100"])
@pytest.mark.parametrize(
    "bits,order", [(4, 2), (8, 2), (8, 3), (11, 3), (13, 4), (16, 3), (20, 4), (22, 4)]
)
def test_best_radices(name, bits, order):
    """No other powers of two are cheaper: all of them are tried."""
    best = cost.best_radices(2**bits, order, name)
    assert math.prod(best) == 2**bits and len(best) == order
    assert all(r & (r - 1) == 0 for r in best)
    least = min(
        cost.monarch_cost(2**bits, [2**e for e in exponents], name)
        for exponents in itertools.product(range(bits + 1), repeat=order)
        if sum(exponents) == bits and (min(exponents) > 0 or 1 in best)
    )
    got = cost.monarch_cost(2**bits, best, name)
    assert math.isclose(got, least, rel_tol=1e-12)


def test_table_19():
    a = cost.HARDWARE["A100"]
    assert (a.sigma_h, a.sigma_s, a.tau_m, a.tau_g) == (1.35e12, 9.5e12, 234e12, 17.6e12)
    assert (a.mu, a.fast_points) == (16, 32768)
    assert a.measured and a.name == "A100"


def test_hardware():
    assert {"A100", "H100", "host"} <= set(cost.HARDWARE)
    assert len(cost.HARDWARE) == len(list(cost.HARDWARE))
    assert not cost.HARDWARE["H100"].measured
    host = cost.HARDWARE["host"]
    assert host.measured and host is cost.HARDWARE["host"]
    assert 1e8 < host.sigma_h < 1e13 and 1e8 < host.sigma_s < 1e14
    assert host.sigma_s >= 0.8 * host.sigma_h
    assert 1e8 < host.tau_g < 1e14 and 1e8 < host.tau_m < 1e15
    assert host.mu >= 1 and host.fast_points >= 256
    assert cost.monarch_cost(4096, (16, 16, 16), "host") > 0
    with pytest.raises(KeyError):
        cost.HARDWARE["Z80"]
    assert "Z80" not in cost.HARDWARE


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: cost.monarch_cost(256, (16, 8), "A100"), "radices.*n = 256"),
        (lambda: cost.monarch_cost(256, (16, 16), "Z80"), "hardware is 'Z80'"),
        (lambda: cost.monarch_cost(256, (16, 16), 3), "hardware is 3"),
        (lambda: cost.monarch_cost(0, (16, 16)), "n is 0"),
        (lambda: cost.monarch_cost(256, (16, 0)), "radices is 0"),
        (lambda: cost.monarch_cost(256, (16.0, 16)), "radices is 16.0"),
        (lambda: cost.monarch_cost(1, ()), "order is 0"),
        (lambda: cost.balanced_radices(100, 2), "n is 100"),
        (lambda: cost.balanced_radices(256, 0), "order is 0"),
        (lambda: cost.balanced_radices(256, 17), "order is 17"),
        (lambda: cost.balanced_radices(256, 2**40), "order is"),
        (lambda: cost.best_radices(100, 2), "n is 100"),
        (lambda: cost.best_order(100), "n is 100"),
        (lambda: cost.best_order(2), "n is 2"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_model_is_exported():
    assert set(cost.__all__) <= set(dir(cost)) and fftconv.cost is cost
