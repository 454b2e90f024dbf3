"""Short depthwise convolutions, with a test for each fault of flash-fft-conv's."""

import itertools

import fftconv
import numpy as np
import pytest
from fftconv import depthwise_conv1d, depthwise_conv1d_backward, reference
from fftconv.flash import FlashDepthWiseConv1d, FlashDepthwiseConv1d
from support import ACTIVATIONS, DTYPES, normal, same_bits, wide

# Limits of the error of a whole array relative to the reference, by its dtype.
LIMIT = {"float64": 5e-14, "float32": 2e-6, "float16": 7e-4, "bfloat16": 5e-3}
LAYOUTS = ("BHL", "BLH")


def turned(x, layout):
    """(B, D, L) as an array in the memory order of a layout, or that array back as (B, D, L)."""
    return x if layout == "BHL" else np.ascontiguousarray(x.swapaxes(1, 2))


def close(got, want, name="", scale=0):
    assert got.shape == want.shape, f"{name}: {got.shape}, not {want.shape}"
    assert np.isfinite(wide(got)).all(), f"{name}: not finite"
    size = max(np.linalg.norm(want), scale) or 1
    error = np.linalg.norm(wide(got) - want) / size
    assert error <= LIMIT[got.dtype.name], f"{name}: error {error:.3g}"


def check(
    batch=2,
    channels=5,
    length=40,
    taps=3,
    padding=(1, 1),
    x="float32",
    w=None,
    bias=True,
    activation=None,
    layout="BHL",
    state=False,
    gradients=True,
    **options,
):
    """One call, forward and backward, equals the reference."""
    rng = np.random.default_rng([batch, channels, length, taps])
    w = w or x
    rows = normal(rng, (batch, channels, length), x)
    weight = normal(rng, (channels, taps), w)
    number = normal(rng, (channels,), w) if bias else None
    before = normal(rng, (batch, channels, taps - 1), x) if state else None
    call = dict(
        padding="causal" if state else padding,
        activation=activation,
        layout=layout,
        state=None if before is None else turned(before, layout),
        **options,
    )
    of = dict(padding=(0, 0) if state else padding, activation=activation, state=before)
    y = depthwise_conv1d(turned(rows, layout), weight, number, **call)
    assert y.dtype == rows.dtype
    want = reference.depthwise_conv1d(rows, weight, number, **of)
    close(turned(y, layout), want, "y")
    if not gradients:
        return
    dy = normal(rng, want.shape, x)
    got = depthwise_conv1d_backward(
        turned(dy, layout), turned(rows, layout), weight, number, **call
    )
    want = reference.depthwise_conv1d(rows, weight, number, dy=dy, **of)
    scale = np.linalg.norm(wide(dy))
    for name, operand in (("x", rows), ("weight", weight), ("bias", number), ("state", before)):
        g = getattr(got, "d" + name)
        if operand is None:
            assert g is None
            continue
        assert g.dtype == operand.dtype
        close(
            turned(g, layout) if name in ("x", "state") else g,
            want[name],
            "d" + name,
            scale if name in ("weight", "bias") else 0,
        )


# ---- The operation --------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("x, w", [*itertools.product(DTYPES, DTYPES)])
def test_types(x, w, activation, layout):
    """Every mixture of types is right, forward and backward."""
    check(x=x, w=w, activation=activation, layout=layout)


@pytest.mark.parametrize("operand", ["weight", "bias", "state"])
def test_one_operand_of_float64(operand):
    """Sums run in float64 where any operand is float64: 1 + 2^-30, which float32 does not
    hold, less 1 is 2^-30."""
    values = dict(x=-1.0, weight=1.0, bias=0.0, state=0.0)
    if operand == "weight":
        values.update(x=1.0, bias=-1.0)
    values[operand] = 1 + 2.0**-30
    shapes = dict(x=(1, 1), weight=(1, 2), bias=(1,), state=(1, 1))
    of = {
        name: np.full(shape, values[name], "float64" if name == operand else "float32")
        for name, shape in shapes.items()
    }
    y = depthwise_conv1d(**of, padding="causal")
    assert y.dtype == np.float32 and y == np.float32(2.0**-30)


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 6, 7, 12, 33])
def test_taps(taps, layout, isa):
    """Numbers of taps, odd and even, with and without code of their own, are right for odd numbers
    of channels."""
    for channels, length in ((1, 50), (7, 31), (17, 70)):
        for state, padding in ((False, ((taps - 1) // 2, taps // 2)), (True, None)):
            check(
                1, channels, length, taps, padding, "float32", state=state, layout=layout, isa=isa
            )
    check(1, 9, 40, taps, (taps - 1, 0), "float64", layout=layout, isa=isa)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "padding", [(0, 0), (2, 0), (0, 2), (1, 1), (3, 3), (7, 0), (0, 9), (12, 12)], ids=str
)
def test_paddings(padding, activation, layout):
    """Padding may be wider than the kernel: Lout = L + 2 P - K + 1, and its gradients are right."""
    check(2, 3, 11, 3, padding, activation=activation, layout=layout)
    check(2, 3, 11, 6, padding, activation=activation, layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (2, 1, 1, 3),
        (1, 3, 2, 5),
        (3, 1, 4, 4),
        (1, 1, 300, 3),
        (2, 3, 2047, 3),
        (2, 2, 2048, 4),
        (1, 2, 2049, 5),
        (1, 2, 4101, 7),
        (1, 513, 33, 3),
        (2, 1030, 40, 4),
        (1, 5, 100, 200),
    ],
    ids=str,
)
def test_sizes(shape, layout):
    """Rows with fewer samples than taps, at the edges of tiles and of bands of channels, and of one
    channel are right."""
    batch, channels, length, taps = shape
    padding = (taps // 2, taps // 2)
    check(batch, channels, length, taps, padding, layout=layout, activation="silu")
    check(batch, channels, length, taps, padding, "bfloat16", "float32", layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_large_output(dtype, layout):
    """Outputs from 16 MiB on, which are written past the caches, are right at any alignment of
    rows."""
    check(3, 1031, 1999, 3, (1, 1), dtype, layout=layout, gradients=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_output_of_16_bits(layout):
    check(1, 2050, 4099, 4, (3, 0), "bfloat16", layout=layout, gradients=False, activation="silu")


@pytest.mark.pairwise
@pytest.mark.parametrize("first, padding", [(0, (1, 1)), (9, (2, 0))], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("isa", fftconv.isas())
def test_lines_past_the_caches(isa, dtype, first, padding, rng):
    """Wherever in a cache line y starts, every element of it is written, and none around it."""
    shape = (2, 2 ** (21 if dtype == "float32" else 22) // 1088 + 40, 1088)
    rows, count = normal(rng, shape, dtype), int(np.prod(shape))
    w, bias = normal(rng, (1088, 3), dtype), normal(rng, (1088,), dtype)
    memory = np.full(count + 128, 77, rows.dtype)
    y = memory[first : first + count].reshape(shape)
    depthwise_conv1d(rows, w, bias, padding=padding, layout="BLH", out=y, isa=isa)
    x = np.pad(wide(rows), ((0, 0), padding, (0, 0)))
    want = wide(bias) + sum(wide(w)[:, k] * x[:, k : k + shape[1]] for k in range(3))
    close(y, want)
    for edge in (want[:, :3] - wide(y)[:, :3], want[:, -3:] - wide(y)[:, -3:]):
        assert np.abs(edge).max() <= 20 * LIMIT[dtype]
    assert (wide(memory[:first]) == 77).all()
    assert (wide(memory[first + count :]) == 77).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_bias(layout):
    check(bias=False, layout=layout)


def test_two_axes():
    x, w = np.ones((3, 10), np.float32), np.ones((3, 3), np.float32)
    y = depthwise_conv1d(x, w, padding=1)
    assert y.shape == (3, 10) and y[0, 0] == 2 and y[0, 1] == 3
    z = depthwise_conv1d(x.T, w, padding=1, layout="BLH")
    assert same_bits(np.ascontiguousarray(z.T), y)


def test_named_paddings():
    x = np.random.default_rng(0).standard_normal((2, 3, 20))
    for taps in (3, 4):
        w = np.ones((3, taps))
        for name, pair, length in (
            ("causal", (taps - 1, 0), 20),
            ("same", ((taps - 1) // 2, taps // 2), 20),
            ("valid", (0, 0), 21 - taps),
        ):
            y = depthwise_conv1d(x, w, padding=name)
            assert y.shape[2] == length
            close(y, reference.depthwise_conv1d(x, w, padding=pair))
    assert same_bits(depthwise_conv1d(x, w, padding=(2,)), depthwise_conv1d(x, w, padding=2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pieces", [(40,), (1,) * 12, (5, 1, 2, 30), (64, 3)], ids=str)
@pytest.mark.parametrize("taps", [1, 2, 4, 9])
def test_streams(taps, pieces, dtype, layout, rng):
    """A row in pieces, with the state carried on, equals the whole causal row."""
    total = sum(pieces)
    x = normal(rng, (2, 5, total), dtype)
    w, b = normal(rng, (5, taps), "float32"), normal(rng, (5,), "float32")
    want = depthwise_conv1d(x, w, b, padding="causal", activation="silu")
    state, got, at = None, [], 0
    for n in pieces:
        y, state = depthwise_conv1d(
            turned(x[..., at : at + n], layout),
            w,
            b,
            activation="silu",
            layout=layout,
            state=state,
            return_state=True,
        )
        got.append(turned(y, layout))
        at += n
    got = np.concatenate(got, 2)
    assert np.abs(wide(got) - wide(want)).max() <= (2e-6 if dtype == "float32" else 4e-2)
    history = np.concatenate([np.zeros((2, 5, taps - 1), x.dtype), x], 2)
    assert same_bits(
        np.ascontiguousarray(turned(state, layout)), np.ascontiguousarray(history[..., total:])
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(7, 3, 50, 4), (3, 700, 70, 3), (40, 2, 5000, 5), (1, 1, 9000, 3)], ids=str
)
def test_threads_and_runs_agree(shape, layout, rng):
    batch, channels, length, taps = shape
    x = turned(normal(rng, (batch, channels, length), "float32"), layout)
    dy = turned(normal(rng, (batch, channels, length), "float32"), layout)
    w, b = normal(rng, (channels, taps), "float32"), np.ones(channels)
    options = dict(padding="causal", activation="silu", layout=layout)
    results = []
    for threads in (1, 1, 2, 5):
        y = depthwise_conv1d(x, w, b, threads=threads, **options)
        results.append((y, *depthwise_conv1d_backward(dy, x, w, b, threads=threads, **options)))
    for other in results[1:]:
        for a, c in zip(results[0], other):
            assert same_bits(a, c)


def test_a_channel_knows_no_other(rng):
    for layout in LAYOUTS:
        x = normal(rng, (2, 20, 30), "float32")
        w = normal(rng, (20, 3), "float32")
        want = depthwise_conv1d(turned(x, layout), w, padding=1, layout=layout)
        x[1, 7, 3] = np.nan
        y = turned(depthwise_conv1d(turned(x, layout), w, padding=1, layout=layout), layout)
        want = turned(want, layout)
        bad = np.isnan(y)
        assert bad[1, 7, 2:5].all() and bad.sum() == 3
        assert same_bits(y[~bad], want[~bad])


@pytest.mark.pairwise
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_as_they_are(dtype, taps, isa, layout):
    """Rows at odd places and with odd ends, channels that do not fill a pair of vectors, ends wider
    than a vector, and a state's ends are right."""
    for channels, length in ((1, 200), (3, 163), (70, 164), (33, 47)):
        for padding in ((0, 0), (1, 2), (taps, taps)):
            if length + sum(padding) >= taps:
                check(
                    2,
                    channels,
                    length,
                    taps,
                    padding,
                    dtype,
                    "float32",
                    layout=layout,
                    isa=isa,
                    gradients=False,
                )
        check(
            1,
            channels,
            length,
            taps,
            (40, 50),
            dtype,
            "float32",
            layout=layout,
            isa=isa,
            gradients=False,
        )
        check(
            1,
            channels,
            length,
            taps,
            None,
            dtype,
            "float32",
            state=True,
            layout=layout,
            isa=isa,
            gradients=False,
        )


def test_bfloat16_rounds_to_even():
    """bfloat16 results are rounded to even, and infinities and NaN stay, also in samples that are
    read in pairs."""
    bf16 = np.dtype("bfloat16")
    x = np.zeros((1, 1, 256), bf16)
    x[0, 0, ::3] = 1
    weights = 1 + 2.0**-8 * np.arange(-4, 5)  # ties are among them
    full = np.uint32(0x7FFFFFFF).view(np.float32)  # a NaN: rounding must not carry
    for weight in [*weights, np.inf, -np.inf, np.nan, full, -full, 3.4e38]:
        w = np.array([[weight]], np.float32)
        y = depthwise_conv1d(x, w)[0, 0]
        with np.errstate(invalid="ignore", over="ignore"):
            want = (x[0, 0].astype(np.float32) * w[0]).astype(bf16)
        assert np.array_equal(wide(y), wide(want), equal_nan=True), weight


def test_sums_that_float16_does_not_hold():
    """300 . 300 is above float16's range; the original adds up in the input's type."""
    x = np.full((1, 2, 50), 300, np.float16)
    w = np.array([[300, -300], [300, -299]], np.float16)
    y = depthwise_conv1d(x, w)
    assert (y[0, 0] == 0).all() and (y[0, 1] == 300).all()
    dy = np.full((1, 2, 49), 40, np.float16)
    g = depthwise_conv1d_backward(dy, x, w.astype(np.float32), np.zeros(2, np.float32))
    assert (g.dbias == 49 * 40).all() and (g.dweight == 49 * 40 * 300).all()


def test_any_strides(rng):
    x = normal(rng, (2, 6, 50), "float32")
    w, b = normal(rng, (6, 3), "float32"), normal(rng, (6,), "float32")
    dy = normal(rng, (2, 6, 50), "float32")
    want = depthwise_conv1d(x, w, b, padding=1, activation="silu")
    gradients = depthwise_conv1d_backward(dy, x, w, b, padding=1, activation="silu")
    whole = np.zeros((2, 18, 50), np.float32)
    whole[:, 6:12] = x
    views = [
        whole[:, 6:12],
        np.asfortranarray(x),
        x[..., ::-1].copy()[..., ::-1],
        np.repeat(x, 3, 2)[..., ::3],
        np.repeat(x, 2, 1)[:, ::2],
        np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
    ]
    for v in views:
        y = depthwise_conv1d(v, np.asfortranarray(w), b, padding=1, activation="silu")
        assert np.abs(y - want).max() < 1e-6
        g = depthwise_conv1d_backward(np.asfortranarray(dy), v, w, b, padding=1, activation="silu")
        for a, c in zip(g[:3], gradients):
            assert np.abs(a - c).max() < 1e-5
    out = np.zeros((2, 50, 6), np.float32).swapaxes(1, 2)
    assert depthwise_conv1d(x, w, b, padding=1, activation="silu", out=out) is out
    assert np.abs(out - want).max() < 1e-6
    assert not whole[:, :6].any() and not whole[:, 12:].any()


# ---- Gradients -------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finite_differences(layout):
    rng = np.random.default_rng(0)
    operands = {
        "x": rng.standard_normal((2, 3, 8)),
        "weight": rng.standard_normal((3, 4)),
        "bias": rng.standard_normal(3),
        "state": rng.standard_normal((2, 3, 3)),
    }
    operands = {name: turned(x, layout) if x.ndim == 3 else x for name, x in operands.items()}
    options = dict(activation="silu", layout=layout)
    dy = turned(rng.standard_normal((2, 3, 8)), layout)
    g = depthwise_conv1d_backward(dy, **operands, **options)
    for name, x in operands.items():
        for _ in range(5):
            at = tuple(rng.integers(n) for n in x.shape)
            old, sums = x[at], []
            for x[at] in (old + 1e-6, old - 1e-6):
                sums.append(np.sum(dy * depthwise_conv1d(**operands, **options)))
            x[at] = old
            slope = (sums[0] - sums[1]) / 2e-6
            assert abs(slope - getattr(g, "d" + name)[at]) < 1e-7 * max(1, abs(slope)), name


@pytest.mark.parametrize("padding", [(0, 0), (4, 1), (9, 7)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_adjoint_identity(padding, layout, rng):
    """y is linear in x and in the weights, so <dy, y> = <dx, x> = <dw, w>."""
    x, w = rng.standard_normal((2, 3, 30)), rng.standard_normal((3, 5))
    options = dict(padding=padding, layout=layout)
    y = depthwise_conv1d(turned(x, layout), w, **options)
    dy = rng.standard_normal(y.shape)
    g = depthwise_conv1d_backward(dy, turned(x, layout), w, **options)
    total, size = np.sum(y * dy), np.linalg.norm(y) * np.linalg.norm(dy)
    assert abs(total - np.sum(turned(g.dx, layout) * x)) < 1e-13 * size
    assert abs(total - np.sum(g.dweight * w)) < 1e-13 * size


def test_needs(rng):
    x, w, b = np.ones((1, 2, 9)), np.ones((2, 3)), np.ones(2)
    dy = np.ones((1, 2, 9))
    every = depthwise_conv1d_backward(dy, x, w, b, padding=1)
    for needs in ("x", ("weight",), ("bias", "x"), ()):
        g = depthwise_conv1d_backward(dy, x, w, b, padding=1, needs=needs)
        wanted = {needs} if isinstance(needs, str) else set(needs)
        for name in ("x", "weight", "bias"):
            got = getattr(g, "d" + name)
            assert same_bits(got, getattr(every, "d" + name)) if name in wanted else got is None
        assert g.dstate is None
    with pytest.raises(ValueError, match="needs is 'state'; allowed: 'x'"):
        depthwise_conv1d_backward(dy, x, w, b, padding=1, needs="state")


# ---- FlashDepthWiseConv1d ---------------------------------------------------------


@pytest.mark.parametrize("is_bhl", [True, False])
@pytest.mark.parametrize(
    "x, w",
    [
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
        ("float16", "float16"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float32", "float16"),
        ("float32", "bfloat16"),
    ],
)
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_their_tests(taps, x, w, is_bhl, rng):
    """The mixtures of types of flash-fft-conv's tests/test_conv1d.py, and a backward in bfloat16,
    which it lacks, are within relative limits."""
    batch, channels, length = 2, 24, 64
    rows = normal(rng, (batch, channels, length), x)
    weight, bias = normal(rng, (channels, 1, taps), w), normal(rng, (channels,), w)
    conv = FlashDepthWiseConv1d(
        channels, taps, (taps - 1) // 2, weight, bias, is_bhl=is_bhl, dtype=w
    )
    layout = "BHL" if is_bhl else "BLH"
    padding = ((taps - 1) // 2,) * 2
    y = conv(turned(rows, layout))
    assert y.dtype == rows.dtype
    close(turned(y, layout), reference.depthwise_conv1d(rows, weight[:, 0], bias, padding=padding))
    dy = normal(rng, rows.shape, x)
    got = conv.backward(turned(dy, layout), turned(rows, layout))
    want = reference.depthwise_conv1d(rows, weight[:, 0], bias, padding=padding, dy=dy)
    close(turned(got.dx, layout), want["x"], "dx")
    # dweight has the shape of the weights: the original's is scrambled in BLH.
    close(got.dweight, want["weight"][:, None], "dweight")
    close(got.dbias, want["bias"], "dbias")


def test_both_spellings():
    assert FlashDepthwiseConv1d is FlashDepthWiseConv1d
    assert fftconv.flash.FlashDepthwiseConv1d is FlashDepthwiseConv1d


def test_weights_are_seen_as_they_change():
    """Changed weights act in BLH too, where the original has a copy of them, and an alias in
    BHL."""
    x = np.ones((1, 8, 4), np.float32)
    for is_bhl in (True, False):
        w, b = np.ones((8, 1, 3), np.float32), np.zeros(8, np.float32)
        rows = x if is_bhl else np.ascontiguousarray(x.swapaxes(1, 2))
        conv = FlashDepthWiseConv1d(8, 3, 1, w, b, is_bhl=is_bhl)
        assert conv(rows).max() == 3
        w *= 2
        assert conv(rows).max() == 6
        assert "is_bhl" in repr(conv)


def test_dtype_converts_weights():
    w = np.full((2, 1, 3), 1 + 2.0**-12, np.float32)
    conv = FlashDepthWiseConv1d(2, 3, 1, w, np.ones(2, np.float32), dtype="float16")
    assert conv.weights.dtype == conv.bias.dtype == np.float16
    assert w.dtype == np.float32
    same = FlashDepthWiseConv1d(2, 3, 1, w, dtype="float32")
    assert same.weights is w and same.bias is None


def test_module_states(rng):
    x = normal(rng, (1, 2, 9), "float32")
    w = normal(rng, (2, 4), "float32")
    conv = FlashDepthWiseConv1d(2, 4, 3, w, activation="silu")
    y, state = conv(x[..., :5], return_state=True)
    z = conv(x[..., 5:], state=state)
    causal = depthwise_conv1d(x, w, padding="causal", activation="silu")
    assert np.abs(np.concatenate([y, z], 2) - causal).max() < 1e-6
    g = conv.backward(np.ones((1, 2, 4), np.float32), x[..., 5:], state=state)
    assert g.dstate.shape == state.shape


# ---- Bad input ------------------------------------------------------------------

X, W, B = np.ones((2, 3, 9)), np.ones((3, 3)), np.ones(3)
BAD = [
    (dict(x=X.astype(complex)), "x has dtype complex128; it must be real"),
    (dict(x=X[0, 0]), "x has 1 axis"),
    (dict(x=X[None]), "x has 4 axes"),
    (dict(x=X[..., :0]), r"x has shape \(2, 3, 0\)"),
    (dict(weight=W[:2]), r"weight has shape \(2, 3\).*D = 3"),
    (dict(weight=W[:, :0]), r"weight has shape \(3, 0\)"),
    (dict(weight=W[0]), r"weight has shape \(3,\)"),
    (dict(weight=np.ones((3, 2, 3))), r"weight has shape \(3, 2, 3\)"),
    (dict(bias=B[:2]), r"bias has shape \(2,\); it must be \(3,\)"),
    (dict(bias=B[:, None]), r"bias has shape \(3, 1\)"),
    (dict(padding=-1), "padding is -1"),
    (dict(padding=1.5), "padding is 1.5"),
    (dict(padding="full"), "padding is 'full'; allowed: 'causal', 'same'"),
    (dict(padding=(1, 2, 3)), r"padding is \(1, 2, 3\)"),
    (
        dict(weight=np.ones((3, 12))),
        "x has length 9; with padding 1 it must be at least 10, for 12 taps",
    ),
    (dict(activation="relu"), "activation is 'relu'; allowed: None, 'gelu'"),
    (dict(layout="HBL"), "layout is 'HBL'"),
    (dict(layout="BLH"), r"weight has shape \(3, 3\).*D = 9"),
    (dict(state=X[..., :1]), r"state has shape \(2, 3, 1\).*\(2, 3, 2\)"),
    (dict(state=X[..., :2], padding=1), "padding is 1; with a state it must"),
    (dict(threads=0), "threads is 0"),
    (dict(isa="sse9"), "isa"),
    (dict(isa=2), "isa is 2"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[m[:40] for _, m in BAD])
def test_errors(arguments, message):
    call = {"x": X, "weight": W, "bias": B, "padding": 1, **arguments}
    with pytest.raises((ValueError, fftconv.Unsupported), match=message):
        depthwise_conv1d(**call)
    with pytest.raises((ValueError, fftconv.Unsupported), match=message):
        depthwise_conv1d_backward(X, **call)


def test_other_errors():
    with pytest.raises(
        ValueError,
        match=r"dy has shape \(2, 3, 9\); it must "
        r"be \(2, 3, 7\), as y",
    ):
        depthwise_conv1d_backward(X, X, W)
    for out, message in [
        (X, "out overlaps x, must not|y overlaps x"),
        (X[..., :7].copy().astype(np.float32), "out has dtype float32"),
        (X[..., :8].copy(), "out has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            depthwise_conv1d(X, W, padding=1 if out is X else 0, out=out)
    assert (X == 1).all()
    for arguments, message in [
        ((3, 5, 1, W), r"weights has shape \(3, 3\); it must be .*\(3, 1, 5"),
        ((4, 3, 1, W), r"weights has shape \(3, 3\)"),
        ((0, 3, 1, W), "channels is 0"),
        ((3, 3.0, 1, W), "kernel_size"),
        ((3, 3, -1, W), "padding is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            FlashDepthWiseConv1d(*arguments)
    for options, message in [
        (dict(device="cuda"), "device is 'cuda'"),
        (dict(dtype="int8"), "dtype is 'int8'"),
        (dict(dtype="complex64"), "dtype is 'complex64'"),
        (dict(bias=np.ones(4)), r"bias has shape \(4,\)"),
        (dict(activation="relu"), "activation is 'relu'"),
    ]:
        with pytest.raises(ValueError, match=message):
            FlashDepthWiseConv1d(3, 3, 1, W, **options)
    FlashDepthWiseConv1d(3, 3, 1, W, device="cpu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_ml_dtypes(dtype):
    assert depthwise_conv1d(np.ones((1, 2, 3), np.dtype(dtype)), [[1.0], [2.0]]).dtype == np.dtype(
        dtype
    )
