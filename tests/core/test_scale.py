"""Rows and kernels of any magnitude: large, small, denormal, not finite.

A call whose operands are multiplied by powers of two must give the results of the call without
them, multiplied likewise.  So results are divided by those powers, which is exact, and compared
with the oracle's for operands of size one.
"""

import fftconv
import ml_dtypes
import numpy as np
import pytest
from fftconv import reference
from support import COMPLEX, Case, check_forward, check_gradients, norm, same_bits, tolerance, wide

# Powers of two of u, k and dy for float32, with which all results have normal float32 exponents.
POWERS = (
    (-100, 0, 80),
    (0, -100, 50),
    (100, -90, 0),
    (-110, 100, 10),
    (60, 50, -30),
    (-60, -40, 50),
    (-45, -45, -10),
)
SHAPES = {
    "causal": dict(batch=2, channels=3, length=300, taps=300),
    "shared": dict(batch=3, channels=4, length=200, taps=150, kernels=(2,)),
    "blocks": dict(batch=1, channels=2, length=6000, taps=20),
    "few taps": dict(batch=2, channels=3, length=300, taps=5),
    "few in blocks": dict(batch=2, channels=3, length=2100, taps=5),
    "few both ways": dict(batch=2, channels=3, length=90, taps=5, mode="two_sided", reverse=3),
    "long": dict(batch=1, channels=2, length=100_000, taps=100_000),
    "two-sided": dict(batch=2, channels=2, length=257, taps=100, mode="two_sided"),
    "folded": dict(batch=2, channels=2, length=1024, taps=1024, mode="circular", fft_size=1024),
    "wrapped": dict(batch=1, channels=2, length=331, taps=331, mode="circular", fft_size=331),
}
GATES = ("in_gate", "out_gate", "skip")


def scaled(x, exponent):
    """x times a power of two, in its own dtype."""
    if x.dtype.kind == "c":
        return (scaled(x.real, exponent) + 1j * scaled(x.imag, exponent)).astype(x.dtype)
    return np.ldexp(x.astype(np.float64), exponent).astype(x.dtype)


def check_at_scale(case, u, k, dy, in_gate=0, out_gate=0, skip=None, mask=0):
    """Check a case whose operands are multiplied by these powers of two; skip's is k's."""
    powers = {"in_gate": in_gate, "out_gate": out_gate, "skip": k, "mask": mask}
    for name, x in case.operands.items():  # what becomes denormal loses digits
        case.operands[name] = scaled(scaled(x, powers[name]), -powers[name])
    case.u, case.k = scaled(scaled(case.u, u), -u), scaled(scaled(case.k, k), -k)
    case.dy = scaled(scaled(case.dy, dy), -dy)
    arguments = dict(case.arguments)
    for name in case.operands:
        arguments[name] = scaled(arguments[name], powers[name])
    if case.k_rev is not None:
        arguments["k_rev"] = scaled(case.k_rev, k)
    U, K, G = scaled(case.u, u), scaled(case.k, k), scaled(case.dy, dy)
    z, g = u + in_gate, dy + out_gate + mask
    y = fftconv.conv(U, K, **arguments)
    check_forward(case, scaled(y, -(z + k + out_gate + mask)))
    got = fftconv.conv_backward(G, U, K, **arguments)
    of = {
        "du": g + k + in_gate,
        "dk": g + z,
        "dk_rev": g + z,
        "dskip": g + z,
        "din_gate": g + k + u,
        "dout_gate": dy + mask + z + k,
    }
    check_gradients(
        case,
        got._replace(**{n: scaled(x, -of[n]) for n, x in got._asdict().items() if x is not None}),
    )


@pytest.mark.parametrize("powers", POWERS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_at_every_scale(shape, powers):
    check_at_scale(Case(**SHAPES[shape]), *powers)


@pytest.mark.parametrize("powers", ((-122, 0, 0), (0, -122, 0)), ids=str)
@pytest.mark.parametrize("shape", ("causal", "shared", "folded", "few taps"))
def test_numbers_that_are_denormal_in_part(shape, powers):
    check_at_scale(Case(**SHAPES[shape]), *powers)


@pytest.mark.parametrize("powers", POWERS[::2], ids=str)
@pytest.mark.parametrize("dtype", ("float64", "bfloat16", *COMPLEX))
def test_types_at_every_scale(dtype, powers):
    factor = 8 if dtype in ("float64", "complex128") else 1
    check_at_scale(Case(2, 2, 200, 200, dtype), *(factor * p for p in powers))


@pytest.mark.parametrize("shape", ("causal", "blocks", "folded", "few taps"))
@pytest.mark.parametrize("powers", ((0, 0, 0, 60, -60), (-80, 0, 30, 90, -20), (90, 0, 0, -100, 0)))
def test_gates_at_every_scale(shape, powers):
    check_at_scale(Case(**SHAPES[shape], options=GATES), *powers)


# Powers of u, k, dy, in_gate, out_gate and mask with which all results have normal exponents, while
# z, p, g or dz are beyond those of float32, or a gate is denormal.
INSIDE = {
    "p is huge": dict(u=0, k=125, dy=-5, out_gate=-115),
    "p is tiny": dict(u=20, in_gate=-40, k=-120, dy=20, out_gate=110),
    "g is huge": dict(u=-100, in_gate=20, k=-100, dy=100, out_gate=60),
    "g is tiny": dict(u=50, in_gate=40, k=100, dy=-80, out_gate=-70),
    "z is huge": dict(u=100, in_gate=100, k=-120, dy=-100),
    "z is tiny": dict(u=-110, in_gate=-90, k=110, dy=100),
    "in_gate is denormal": dict(u=100, in_gate=-132, k=-20, dy=40),
    "out_gate is denormal": dict(u=30, k=20, dy=40, out_gate=-132),
    "the mask is tiny": dict(u=0, k=20, dy=20, out_gate=110, mask=-120),
    "the mask is huge": dict(u=0, k=-20, dy=-20, out_gate=-110, mask=120),
}


@pytest.mark.parametrize(
    "shape, options",
    (
        *((shape, GATES) for shape in ("causal", "blocks", "folded", "wrapped", "two-sided")),
        *((shape, GATES[:2]) for shape in ("causal", "blocks", "wrapped")),
        *((shape, (*GATES, "mask")) for shape in ("shared", "folded")),
    ),
    ids=str,
)
@pytest.mark.parametrize("powers", INSIDE)
def test_no_product_inside_leaves_the_range(shape, options, powers):
    powers = INSIDE[powers]
    if "mask" in powers and "mask" not in options:
        options = (*options, "mask")
    check_at_scale(Case(**SHAPES[shape], options=options), **powers)


@pytest.mark.parametrize("dtype", ("float64", "bfloat16", *COMPLEX))
@pytest.mark.parametrize("powers", list(INSIDE)[:6])
def test_types_inside(dtype, powers):
    factor = 8 if dtype in ("float64", "complex128") else 1
    powers = {name: factor * p for name, p in INSIDE[powers].items()}
    check_at_scale(Case(2, 2, 200, 200, dtype, options=GATES), **powers)


@pytest.mark.parametrize("activation", ("gelu", "silu"))
@pytest.mark.parametrize("powers", ((120, 9, -115), (-100, -40, 60)), ids=str)
def test_an_activation_of_any_magnitude(activation, powers):
    """act(p) is p or 0 where p is huge, and p / 2 where it is tiny."""
    case = Case(1, 2, 300, 300, options=GATES, activation=activation)
    u, k, out_gate = powers
    case.u, case.k = scaled(case.u, u), scaled(case.k, k)
    for name, power in (("skip", k), ("out_gate", out_gate)):
        case.operands[name] = scaled(case.operands[name], power)
    y = fftconv.conv(case.u, case.k, **case.arguments)
    want = reference.conv(case.u, case.k, **case.arguments)
    size = case.kernel_norms() * norm(wide(case.u) * case.wide("in_gate")) * 2.0**out_gate
    assert np.isfinite(y).all()
    assert (norm(y - want) <= tolerance("float32", 300) * np.maximum(size, norm(want))).all()
    case.dy = scaled(case.dy, -max(0, out_gate + u - 100))
    got = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    want = reference.conv_backward(case.dy, case.u, case.k, **case.arguments)
    for name in ("du", "din_gate", "dskip", "dk"):
        x, y = wide(getattr(got, name)), getattr(want, name)
        normal = np.abs(y).max() < 2.0**127 and np.abs(y).max() > 2.0**-120
        assert not normal or norm(x.ravel() - y.ravel()) <= 1e-5 * norm(y.ravel()), name


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("activation", ("gelu", "silu"))
def test_an_activation_sees_the_true_size(isa, activation):
    """u is tiny and k is huge, and p is of size one."""
    case = Case(1, 2, 300, 300, options=("skip",), activation=activation)
    plan = case.plan(isa=isa, threads=1)
    skip = scaled(case.operands["skip"], 90)
    y = plan(scaled(case.u, -90), scaled(case.k, 90), skip=skip, activation=activation)
    check_forward(case, y)


@pytest.mark.parametrize("order", ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)))
@pytest.mark.parametrize("batch", (4, 40))
def test_rows_of_all_sizes_are_summed(order, batch):
    """dk is a sum over rows of zeros, of tiny and of ordinary numbers, in any order."""
    case = Case(batch, 1, 100, 100)
    sizes = np.array([0, 2.0**-90, 2.0**-45, 1], "f4")[list(order)]
    case.u *= np.resize(sizes, batch)[:, None, None]
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k))
    tiny = np.float32(2.0**-45)
    case.u[np.resize(sizes, batch) == 1] = 0
    case.u[np.resize(sizes, batch) == tiny] = 0
    got = fftconv.conv_backward(scaled(case.dy, -20), case.u, case.k)
    case.u = scaled(case.u, 90)
    check_gradients(case, got._replace(du=scaled(got.du, 20), dk=scaled(got.dk, 110)))


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_large_numbers_stay_finite(dtype):
    """1,000 samples of 1e36 through one tap, and one sample of -finfo.max."""
    u = np.full((1, 1, 1000), 1e36).astype(dtype)
    y = fftconv.conv(u, np.ones((1, 1), dtype))
    assert norm(wide(y) / 1e36 - wide(u) / 1e36) <= tolerance(dtype, 1000) * norm(wide(u) / 1e36)
    u = np.zeros((1, 1, 1000), dtype)
    u[0, 0, 500] = -float(ml_dtypes.finfo(dtype).max)
    y = wide(fftconv.conv(u, np.array([[0.5, 0.25]], dtype)))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[0, 0, 500:502] / wide(u[0, 0, 500]), [0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("v", (1e-36, 1.2e-38, 1e-40))
def test_a_small_kernel_as_long_as_a_long_row(v):
    L = 2**20
    k = np.zeros((1, L), "f4")
    k[0, 3] = v
    u = np.random.default_rng(1).standard_normal((1, 1, L)).astype("f4") * 1000
    y, want = wide(fftconv.conv(u, k))[0, 0, 3:], wide(u)[0, 0, :-3] * float(k[0, 3])
    normal = np.abs(want) >= np.finfo("f4").tiny
    y, want = y[normal] / v, want[normal] / v
    assert norm(y - want) <= tolerance("float32", L) * norm(want)


@pytest.mark.parametrize("n", (1, 64, 1000))
@pytest.mark.parametrize("powers", ((-100, 0), (0, -100), (90, -90), (60, 50)))
def test_streams_at_every_scale(n, powers):
    case = Case(1, 2, 1000, 50)
    stream = fftconv.Stream(scaled(case.k, powers[1]))
    u = scaled(case.u, powers[0])
    pieces = [stream.push(u[..., i : i + n]) for i in range(0, 1000, n)]
    check_forward(case, scaled(np.concatenate(pieces, axis=-1), -sum(powers)))


@pytest.mark.parametrize("isa", fftconv.isas())
def test_subnormal_float16(isa):
    """They are ordinary numbers in float32, where the arithmetic is done."""
    bits = np.arange(1024, dtype="u2").view("f2").reshape(1, 1, -1)
    plan = fftconv.Plan(bits.shape, (1, 1), dtype="float16", isa=isa)
    y = plan(bits, np.ones((1, 1), "f4"))
    assert norm(wide(y) - wide(bits)) <= 3e-4 * norm(bits)


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_finite_spoils_its_own_row(shape, value):
    """It is never hidden, and never reaches another row, in results or in du."""
    case = Case(**SHAPES[shape])
    clean = fftconv.conv(case.u, case.k, **case.arguments)
    du = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments).du
    at = case.u.shape[-1] // 2
    row, others = (0, 1), (slice(None), slice(2, None))
    case.u[row + (at,)] = case.dy[row + (at,)] = value
    y = fftconv.conv(case.u, case.k, **case.arguments)
    got = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    reach = min(case.k.shape[-1], case.u.shape[-1] - at)
    assert not np.isfinite(y[row][at : at + reach]).any()
    assert not np.isfinite(got.du[row][at - min(at, reach - 1) : at + 1]).any()
    assert not np.isfinite(got.dk[1 * len(got.dk) // case.u.shape[1]]).all()
    for old, new in ((clean, y), (du, got.du)):
        assert same_bits(old[others], new[others]) and same_bits(old[1:], new[1:])
        assert same_bits(old[0, 0], new[0, 0])
