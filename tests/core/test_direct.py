"""The direct form: few taps are summed as they are, and what is not finite stays where it is."""

import fftconv
import numpy as np
import pytest
from fftconv.plan import DIRECT_TAPS
from support import Case, check_forward, check_gradients, check_rows, norm, normal, same_bits, wide

DTYPES = ("float64", "float32", "float16", "bfloat16")
ALL = ("in_gate", "out_gate", "skip", "mask")
MODES = {
    "causal": dict(mode="causal"),
    "two-sided": dict(mode="two_sided", reverse=3),
    "circular": dict(mode="circular"),
    "wide circle": dict(mode="circular", fft_size=6000),
}


def run(case, plan):
    """Check all that the plan computes of the case."""
    assert plan.form == "direct"
    spectrum = plan.spectrum(case.k, case.k_rev)
    y, over_u = plan(case.u, spectrum, **case.plan_arguments), case.u.copy()
    check_forward(case, y)
    assert same_bits(y, plan(case.u, case.k, **case.kernel_arguments))
    assert same_bits(y, plan(over_u, case.k, out=over_u, **case.kernel_arguments))
    check_gradients(case, plan.backward(case.dy, case.u, spectrum, **case.plan_arguments))


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", (1, 5, 64, 333, 2048, 5001))
def test_every_length_and_mode(length, mode, isa):
    for taps in (1, 2, 7, 16, 300):
        if mode == "circular" and taps > length:
            continue
        case = Case(1, 2, length, taps, **MODES[mode])
        run(case, case.plan(form="direct", isa=isa, threads=1))


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ((1,), (2,), (4,), (3, 4), (3, 2)))
def test_every_type_and_operand(kernels, dtype, threads):
    for length in (70, 2500):
        case = Case(3, 4, length, 5, dtype, options=ALL, activation="silu", kernels=kernels)
        run(case, case.plan(form="direct", threads=threads))
        rows = {"in_gate", "out_gate"} & case.operands.keys()
        turned = {n: case.operands[n].swapaxes(1, 2).copy() for n in rows}
        options = {**case.arguments, **turned, "layout": "BLH", "threads": threads}
        u, dy = (x.swapaxes(1, 2).copy() for x in (case.u, case.dy))
        check_forward(case, fftconv.conv(u, case.k, **options).swapaxes(1, 2))
        g = fftconv.conv_backward(dy, u, case.k, **options)._asdict()
        for name in ("du", "din_gate", "dout_gate"):
            g[name] = g[name].swapaxes(1, 2)
        check_gradients(case, fftconv.reference.Gradients(**g))


def test_what_the_form_leaves_out():
    for words, arguments in {
        "dtype is complex": dict(dtype="complex64"),
        "weights": dict(mode="circular", pattern=np.arange(51) < 9),
        "radices or order": dict(order=2),
        "dense": dict(dense=True),
        "single_block": dict(single_block=True),
    }.items():
        with pytest.raises(ValueError, match="form is direct.*" + words):
            fftconv.Plan((1, 1, 100), (1, 5), form="direct", **arguments)
    plan = fftconv.Plan((1, 1, 100), (1, 5), form="direct", threads=1)
    assert "direct" in repr(plan) and "M=" not in repr(plan)
    with pytest.raises(ValueError, match="plan has form direct"):
        plan.rows_to_spectra(np.zeros((1, 1, 100), "f4"))
    other = fftconv.Plan((1, 1, 100), (1, 5), threads=1)
    with pytest.raises(ValueError, match="spectrum was made for another plan"):
        plan(np.zeros((1, 1, 100), "f4"), other.spectrum(np.zeros((1, 5), "f4")))


@pytest.mark.parametrize("mode", ("causal", "circular", "two_sided", "same"))
def test_conv_sums_few_taps_directly(mode):
    """A NaN in u tells which taps are summed: those of one more spoil the row."""
    reverse = 2 if mode == "two_sided" else 0
    for taps, local in ((DIRECT_TAPS - reverse, True), (DIRECT_TAPS - reverse + 1, False)):
        u, k = np.zeros((1, 2, 100), "f4"), np.ones((2, taps), "f4")
        u[0, 1, 60] = np.nan
        k_rev = np.ones((2, reverse), "f4") if reverse else None
        y = fftconv.conv(u, k, mode=mode, k_rev=k_rev)
        before = (taps - 1) // 2 if mode == "same" else max(0, reverse - 1)
        spoilt = np.zeros((1, 2, 100), bool)
        spoilt[0, 1, 60 - before : 60 - before + taps + max(0, reverse - 1)] = True
        if not local:
            spoilt[0, 1] = True
        assert np.array_equal(np.isnan(y), spoilt)


# ---- Numbers that are not finite -----------------------------------------------------------------


def summed(z, k):
    """The causal convolution of float64 rows, (..., L), each sum of its own terms only."""
    y = np.zeros(np.broadcast_shapes(z.shape[:-1], k.shape[:-1]) + z.shape[-1:])
    for s in range(min(k.shape[-1], z.shape[-1])):
        y[..., s:] += k[..., s, None] * z[..., : z.shape[-1] - s]
    return y


def summed_gradients(g, z, k):
    """(dz, dk) of the causal convolution, likewise."""
    length, taps = z.shape[-1], min(k.shape[-1], z.shape[-1])
    dk = np.zeros(g.shape[:-1] + k.shape[-1:])
    for s in range(taps):
        dk[..., s] = np.sum(g[..., s:] * z[..., : length - s], -1)
    return summed(g[..., ::-1], k)[..., ::-1], dk


def check_where_finite(name, got, want, scale, factor=1):
    """The same entries are not finite, and what they are is the same; others are near."""
    finite = np.isfinite(want)
    assert np.array_equal(wide(got)[~finite], want[~finite], equal_nan=True), name
    got, want = np.where(finite, got, np.zeros_like(got)), np.where(finite, want, 0)
    check_rows(name, got, want, scale, want.shape[-1], factor)


def places(length):
    """Places at the ends of a row, in it, and around the end of a block."""
    near = (0, 1, 5, length // 2, 2046, 2048, 2050, length - 3, length - 1)
    return sorted({n for n in near if 0 <= n < length})


def spoilt_rows(dtype, length, taps, of):
    """(u, k, dy), each row of which has one number in operand `of` that is not finite."""
    at = places(taps if of == "k" else length)
    rows, rng = 3 * len(at), np.random.default_rng(length + taps)
    shapes = {"u": (rows, 1, length), "k": (rows, 1, taps), "dy": (rows, 1, length)}
    x = {name: normal(rng, shape, dtype) for name, shape in shapes.items()}
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        for j, n in enumerate(at):
            x[of][i * len(at) + j, 0, n] = value
    return x["u"], x["k"], x["dy"]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("of", ("u", "k", "dy"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length,taps", ((3, 5), (37, 1), (64, 4), (100, DIRECT_TAPS), (2500, 7)))
def test_nothing_spreads(length, taps, dtype, of):
    u, k, dy = spoilt_rows(dtype, length, taps, of)
    y, g = fftconv.conv(u, k), fftconv.conv_backward(dy, u, k)
    U, K, G = map(wide, (u, k, dy))
    size = {n: norm(np.where(np.isfinite(x), x, 0)) for n, x in zip("ukg", (U, K, G))}
    dz, dk = summed_gradients(G, U, K)
    check_where_finite("y", y, summed(U, K), size["u"] * size["k"])
    check_where_finite("du", g.du, dz, size["g"] * size["k"], 2)
    check_where_finite("dk", g.dk, dk, size["g"] * size["u"], 2)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nothing_spreads_beside_gates():
    u, k, dy = spoilt_rows("float32", 300, 6, "u")
    gates = [normal(np.random.default_rng(i), u.shape, "float32") for i in range(2)]
    U, K, G, A, B = map(wide, (u, k, dy, *gates))
    p, scale = summed(U * A, K), norm(K) * norm(np.nan_to_num(U * A, posinf=0, neginf=0))
    check_where_finite("y", fftconv.conv(u, k, *gates), B * p, 4 * scale)
    g = fftconv.conv_backward(dy, u, k, *gates)
    dz, dk = summed_gradients(G * B, U * A, K)
    for name, want in {"du": dz * A, "din_gate": dz * U, "dout_gate": G * p, "dk": dk}.items():
        found = getattr(g, name)
        assert np.array_equal(np.isfinite(found), np.isfinite(want)), name
        finite = np.isfinite(want)
        assert np.allclose(found[finite], want[finite], rtol=1e-4, atol=1e-4), name


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("mode", ("full", "same", "valid"))
@pytest.mark.parametrize("length,taps", ((20, 5), (4, 7), (200, 8)))
def test_windows_are_summed_directly(length, taps, mode):
    """The zeros around u count as samples."""
    rng = np.random.default_rng(1)
    u, k = rng.standard_normal((3, length)), rng.standard_normal((3, taps))
    u[0, 2] = np.nan
    k[1, 3] = np.inf
    y = fftconv.conv(u, k, mode=mode)
    full = summed(np.pad(u, ((0, 0), (0, taps - 1))), k)
    first, last = {
        "full": (0, length + taps - 1),
        "same": ((taps - 1) // 2, (taps - 1) // 2 + length),
        "valid": (min(length, taps) - 1, max(length, taps)),
    }[mode]
    bad = np.zeros(full.shape, bool)
    bad[0, 2 : 2 + taps] = True
    bad[1, 3:] = True
    assert np.array_equal(~np.isfinite(y[[0, 2]]), bad[[0, 2], first:last])
    good = ~bad[:, first:last]
    assert np.allclose(y[good], full[:, first:last][good], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("taps", (1, 4, DIRECT_TAPS))
def test_nothing_spreads_in_a_stream(taps, dtype):
    u, k, _ = spoilt_rows(dtype, 3000, taps, "u")
    stream = fftconv.Stream(k[:, 0], channels=len(u), dtype=dtype)
    cuts = (1, 2, 3, 64, 1100, 2049)
    got = np.concatenate([stream.push(x) for x in np.split(u[:, 0], cuts, axis=-1)], -1)
    U, K = wide(u[:, 0]), wide(k[:, 0])
    scale = norm(K) * norm(np.where(np.isfinite(U), U, 0))
    check_where_finite("y", got, summed(U, K), scale)
