"""Calls of conv with the shapes and modes of NumPy and SciPy: full, same and valid, an axis, more
leading axes, kernels that broadcast with u; and that a call without them takes none of it."""

import itertools
import tracemalloc

import fftconv
import numpy as np
import pytest
from fftconv import conv, conv_backward, convolution, reference
from hypothesis import given
from hypothesis import strategies as st
from support import COMPLEX, DTYPES, TOLERANCE, normal, same_bits, wide

WINDOWS = ("full", "same", "valid")


def close(got, want, dtype="float64"):
    """Whether the difference is within a gradient's tolerance of short rows."""
    assert got.shape == want.shape
    scale = np.linalg.norm(want) + 1
    return np.linalg.norm(wide(got) - want) <= 4 * TOLERANCE[dtype] * scale


def window(u, k, mode):
    """One row by np.convolve, in 64 bits."""
    full = np.convolve(wide(u), wide(k))
    if mode == "causal":
        return full[: len(u)]
    if mode == "same":
        start = (len(k) - 1) // 2
        return full[start : start + len(u)]
    return np.convolve(wide(u), wide(k), mode)


def grouped(u_rows, k):
    """k with the axes of length 1 that u lacks dropped, and its groups repeated."""
    lead = k.shape[:-1]
    while len(lead) > len(u_rows) and lead[0] == 1:
        lead = lead[1:]
    k = k.reshape(lead + k.shape[-1:])
    if u_rows and lead and u_rows[-1] % lead[-1] == 0:
        k = np.repeat(k, u_rows[-1] // lead[-1], -2)
    return k


def rows_by_numpy(u, k, mode="causal", axis=-1):
    """y, row by row."""
    u = np.moveaxis(u, axis, -1)
    k = grouped(u.shape[:-1], k)
    lead = np.broadcast_shapes(u.shape[:-1], k.shape[:-1])
    u, k = (np.broadcast_to(x, lead + x.shape[-1:]) for x in (u, k))
    rows = np.array([window(u[i], k[i], mode) for i in np.ndindex(*lead)])
    return np.moveaxis(rows.reshape(lead + rows.shape[-1:]), -1, axis)


# ---- The modes -----------------------------------------------------------------


@pytest.mark.parametrize("mode", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
def test_windows(dtype, mode):
    """Each length beside shorter, equal and longer kernels, and a circle that must not be one
    smaller; and the gradients, by y being linear in u and in k."""
    rng = np.random.default_rng(1)
    sizes = itertools.product((1, 2, 5, 16, 100), (1, 2, 3, 4, 7, 100, 130))
    for length, taps in (*sizes, (61, 40)):
        u, k = normal(rng, (length,), dtype), normal(rng, (taps,), dtype, taps**-0.5)
        y = conv(u, k, mode=mode)
        assert y.dtype == u.dtype and close(y, window(u, k, mode), dtype), (length, taps)
        dy = normal(rng, y.shape, dtype)
        g = conv_backward(dy, u, k, mode=mode)
        assert g.du.dtype == g.dk.dtype == u.dtype
        i, s = np.arange(length), np.arange(taps)
        du = [np.vdot(window(i == n, k, mode), wide(dy)) for n in i]
        dk = [np.vdot(window(u, s == n, mode), wide(dy)) for n in s]
        assert close(g.du, np.array(du), dtype) and close(g.dk, np.array(dk), dtype)


# u, k, and y in full and in same; scipy.signal's own tests know the same numbers.
KNOWN = [
    ([1, 2, 3], [1, 2, 3], "full", [1, 4, 10, 12, 9]),
    ([1, 2, 3], [3, 3, 5, 6, 8, 7, 9, 0, 1], "same", [35, 41, 47]),
    ([3, 3, 5, 6, 8, 7, 9, 0, 1], [1, 2, 3], "same", [9, 20, 25, 35, 41, 47, 39, 28, 2]),
    ([3, 2, 1], [3, 3, 5, 6, 8, 7, 9, 0, 1], "valid", [24, 31, 41, 43, 49, 25, 12]),
    ([3, 3, 5, 6, 8, 7, 9, 0, 1], [3, 2, 1], "valid", [24, 31, 41, 43, 49, 25, 12]),
    ([1 + 1j, 2 + 2j, 3 + 3j], [1 + 1j, 2 + 2j, 3 + 3j], "full", [2j, 8j, 20j, 24j, 18j]),
    ([3 - 1j, 2 + 7j, 1], [3 + 2j, 3 - 3j, 5, 6 - 1j, 8], "valid", [45 + 12j, 30 + 23j, 48 + 32j]),
]


@pytest.mark.parametrize("u,k,mode,want", KNOWN)
def test_known(u, k, mode, want):
    assert np.allclose(conv(u, k, mode=mode), want, atol=1e-13)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(WINDOWS), st.booleans())
def test_scipy(length, taps, mode, is_complex):
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng([length, taps])
    dtype = "complex128" if is_complex else "float64"
    u, k = normal(rng, (3, length), dtype), normal(rng, (1, taps), dtype)
    assert close(conv(u, k, mode=mode), signal.fftconvolve(u, k, mode, axes=1))
    u, k = u.T, k.T
    assert close(conv(u, k[:, 0], mode=mode, axis=0), signal.fftconvolve(u, k, mode, axes=0))


def test_a_long_row():
    """Many taps, few taps, and one: a circle, a causal call, blocks."""
    rng = np.random.default_rng(2)
    u = normal(rng, (2, 5000), "float32")
    for taps in (1, 3, 600, 640, 3000, 5000, 9000):
        k = normal(rng, (2, taps), "float32", taps**-0.5)
        for mode in WINDOWS:
            want = rows_by_numpy(u, k, mode)
            assert close(conv(u, k, mode=mode), want, "float32"), (taps, mode)


# ---- Axes and broadcasting ---------------------------------------------------------

SHAPES = [
    ((5,), (7, 3)),
    ((5,), (2, 7, 3)),
    ((5,), (1, 1, 3)),
    ((5,), (3,)),
    ((1, 1, 5), (2, 3)),
    ((4, 5), (7, 1, 3)),
    ((4, 5), (7, 4, 3)),
    ((4, 5), (7, 2, 3)),
    ((4, 5), (1, 2, 3)),
    ((4, 5), (1, 1, 4, 3)),
    ((3, 1, 5), (7, 3)),
    ((2, 4, 5), (3, 1, 2, 3)),
    ((2, 3, 4, 5), (3,)),
    ((2, 3, 4, 5), (2, 3)),
    ((2, 3, 4, 5), (3, 4, 3)),
    ((2, 1, 4, 5), (3, 2, 3)),
    ((2, 1, 4, 5), (1, 3, 4, 3)),
    ((2, 1, 3, 1, 5), (1, 6, 1, 2, 9)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("mode", ("causal", *WINDOWS))
def test_shapes(mode, shapes):
    """Every pair of shapes, with the samples in each axis; y is contiguous."""
    rng = np.random.default_rng(3)
    k, dk = normal(rng, shapes[1], "float64"), normal(rng, shapes[1], "float64")
    for axis in range(-len(shapes[0]), 0):
        u, du = (
            np.ascontiguousarray(np.moveaxis(normal(rng, shapes[0], "float64"), -1, axis))
            for _ in range(2)
        )
        want = rows_by_numpy(u, k, mode, axis)
        for said in {axis, axis + u.ndim}:
            y = conv(u, k, mode=mode, axis=said)
            assert y.flags.c_contiguous and close(y, want)
        dy = normal(rng, y.shape, "float64")
        g = conv_backward(dy, u, k, mode=mode, axis=axis)
        assert g.du.shape == u.shape and g.dk.shape == k.shape and g.din_gate is None
        # y is linear in u and in k.
        assert np.isclose((g.du * du).sum(), (dy * rows_by_numpy(du, k, mode, axis)).sum())
        assert np.isclose((g.dk * dk).sum(), (dy * rows_by_numpy(u, dk, mode, axis)).sum())


def test_what_rows_mean_stays():
    """Calls on rows take k's axes as ever: groups, one set for each of the batch, none added."""
    rng = np.random.default_rng(4)
    u, k = normal(rng, (2, 6, 30), "float32"), normal(rng, (2, 3, 7), "float32")
    y = conv(u, k)
    for b, h in np.ndindex(2, 6):
        assert same_bits(y[b, h], conv(u[b, h], k[b, h // 2]))
        assert same_bits(y[b, h], conv(u[b, h], k[b, None, h // 2]))
    assert conv(u[0], k[:1]).shape == (6, 30)
    assert same_bits(conv(u, k[0]), conv(u, np.stack([k[0], k[0]])))
    # One row more has other bits only if it is another row.
    assert same_bits(conv(u[None], k), y[None])
    assert same_bits(conv(u.swapaxes(1, 2), k, axis=1), conv(u.swapaxes(1, 2), k, layout="BLH"))


@pytest.mark.parametrize("layout", ["BHL", "BLH"])
def test_layout(layout):
    rng = np.random.default_rng(5)
    u, k = normal(rng, (2, 3, 6, 6), "float32"), normal(rng, (2, 7), "float32")
    axis = -1 if layout == "BHL" else -2
    y = conv(u, k, layout=layout)
    assert close(y, rows_by_numpy(u, k, axis=axis), "float32")
    assert same_bits(conv(u, k, layout=layout, axis=axis), y)
    assert same_bits(conv(u[0, 0, 0], k[0], layout=layout, axis=0), conv(u[0, 0, 0], k[0]))
    dy = normal(rng, y.shape, "float32")
    for a, b in zip(conv_backward(dy, u, k, layout=layout), conv_backward(dy, u, k, axis=axis)):
        assert a is b is None or same_bits(a, b)


MODES = ("causal", "circular", "two_sided", *WINDOWS)


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("mode", MODES)
def test_all_operands(mode, axis, broadcast):
    """Gates, skip, mask, activation, k_rev and a pattern, against the oracle on rows: a window is
    the causal convolution of rows that are longer by zeros."""
    rng = np.random.default_rng(6)
    length, taps, lead = 40, 9, (2, 3, 4)
    samples = {"full": 48, "same": 44}.get(mode, length)
    start = {"same": 4, "valid": 8}.get(mode, 0)
    u, k = normal(rng, (*lead, length), "float64"), normal(rng, (2, taps), "float64")
    some = (3, 1) if broadcast else lead
    at = {
        "in_gate": normal(rng, (*some, length), "float64"),
        "out_gate": normal(rng, (*some, 1 if broadcast else samples - start), "float64"),
        "mask": normal(rng, (1, 4) if broadcast else lead, "float64"),
        "activation": "gelu",
    }
    if mode not in WINDOWS:
        at["skip"] = normal(rng, (4,), "float64")
    more = {}
    if mode == "two_sided":
        more["k_rev"] = normal(rng, (2, 5), "float64")
    if mode == "circular":
        more.update(fft_size=48, pattern=fftconv.Pattern.lowpass(30))
    dy = normal(rng, (*lead, samples - start), "float64")

    def rows(x, before=0, after=0):
        x = np.broadcast_to(x, lead + x.shape[-1:])
        x = np.pad(x, ((0, 0),) * 3 + ((before, after),))
        return x.reshape(6, 4, -1)

    end = samples - length
    want_at = {
        **at,
        **more,
        "mode": "causal" if mode in WINDOWS else mode,
        "in_gate": rows(at["in_gate"], 0, end),
        "out_gate": np.broadcast_to(rows(at["out_gate"]), (6, 4, samples - start)),
        "mask": np.broadcast_to(at["mask"], lead).reshape(6, 4),
    }
    want_at["out_gate"] = np.pad(want_at["out_gate"], ((0, 0), (0, 0), (start, 0)))
    want = reference.conv(rows(u, 0, end), k, **want_at)[..., start:].reshape(dy.shape)
    want_g = reference.conv_backward(rows(dy, start), rows(u, 0, end), k, **want_at)

    def moved(x):
        return np.ascontiguousarray(np.moveaxis(x, -1, axis))

    gates = {name: at[name] for name in ("in_gate", "out_gate")}
    if axis == 1:
        shapes = {name: (1,) * (4 - x.ndim) + x.shape for name, x in gates.items()}
        gates = {name: moved(x.reshape(shapes[name])) for name, x in gates.items()}
    call = {**at, **more, **gates, "mode": mode, "axis": axis}
    y = conv(moved(u), k, **call)
    assert close(y, np.moveaxis(want, -1, axis))
    g = conv_backward(moved(dy), moved(u), k, **call)

    def summed(x, like, cut):
        x = np.moveaxis(x[..., cut].reshape((*lead, -1)), -1, axis)
        like = like.shape
        more = x.ndim - len(like)
        axes = [i for i in range(x.ndim) if i < more or like[i - more] < x.shape[i]]
        return x.sum(tuple(axes)).reshape(like)

    head, tail = slice(0, length), slice(start, None)
    assert close(g.du, np.moveaxis(want_g.du[..., head].reshape(u.shape), -1, axis))
    assert close(g.din_gate, summed(want_g.din_gate, gates["in_gate"], head))
    assert close(g.dout_gate, summed(want_g.dout_gate, gates["out_gate"], tail))
    for name in ("dk", "dskip", "dk_rev"):
        a, b = getattr(g, name), getattr(want_g, name)
        assert a is b is None or close(a, b), name
    only = conv_backward(moved(dy), moved(u), k, **call, needs="k")
    assert same_bits(only.dk, g.dk) and only.du is None


def test_two_sided_kernels_broadcast():
    """k_rev goes with k, and each filter meets the row as it does alone."""
    rng = np.random.default_rng(7)
    u, k, r = (normal(rng, shape, "float32") for shape in ((50,), (4, 3, 9), (4, 3, 6)))
    dy = normal(rng, (4, 3, 50), "float32")
    y = conv(u, k, mode="two_sided", k_rev=r)
    g = conv_backward(dy, u, k, mode="two_sided", k_rev=r)
    for i in np.ndindex(4, 3):
        assert same_bits(y[i], conv(u, k[i], mode="two_sided", k_rev=r[i]))
        one = conv_backward(dy[i], u, k[i], mode="two_sided", k_rev=r[i])
        assert close(g.dk[i], wide(one.dk), "float32")
        assert close(g.dk_rev[i], wide(one.dk_rev), "float32")


def test_skip_of_many_channels():
    """skip is of the channels, also where other axes are channels of the call on rows."""
    rng = np.random.default_rng(8)
    u, k = normal(rng, (2, 3, 4, 30), "float64"), normal(rng, (3, 4, 9), "float64")
    skip, dy = normal(rng, (4,), "float64"), normal(rng, u.shape, "float64")
    want = rows_by_numpy(u, k) + skip[:, None] * u
    assert close(conv(u, k, skip=skip), want)
    g = conv_backward(dy, u, k, skip=skip)
    assert close(g.dskip, (dy * u).sum((0, 1, 3)))


# ---- Arrays and types ------------------------------------------------------------


def test_out():
    """out is written where it lies, also if it is u; one of another shape is not."""
    rng = np.random.default_rng(9)
    u, k = normal(rng, (2, 3, 4, 30), "float32"), normal(rng, (4, 9), "float32")
    want = conv(u, k)
    base = np.full((2, 3, 4, 60), np.nan, "float32")
    assert conv(u, k, out=base[..., ::2]).base is base
    assert same_bits(base[..., ::2].copy(), want) and np.isnan(base[..., 1::2]).all()
    assert conv(u, k, out=u) is u and same_bits(u, want)
    full = np.full((2, 3, 4, 38), np.nan)
    with pytest.raises(ValueError, match="out has dtype float64; it must be float32"):
        conv(u, k, mode="full", out=full)
    assert np.isnan(full).all()


def test_types():
    """They promote as in a call on rows; a gradient has its operand's type."""
    rng = np.random.default_rng(10)
    u, k = normal(rng, (5, 30), "float32"), normal(rng, (4, 1, 9), "float32")
    for a, b, dtype in (
        (u, k.tolist(), "float32"),
        (u.tolist(), k, "float32"),
        (u.tolist(), k.tolist(), "float64"),
        (u.astype(int), k, "float64"),
        (u.astype("float16"), k, "float16"),
        (u.astype("bfloat16"), k.astype("bfloat16"), "bfloat16"),
        (u, k + 1j * k, "complex64"),
        (u.astype(">f8"), k, "float64"),
    ):
        y = conv(a, b, mode="same")
        assert y.dtype == dtype
        a, b = (np.asarray(x, None if hasattr(x, "dtype") else dtype) for x in (a, b))
        assert close(y, rows_by_numpy(a, b, "same"), dtype)
        g = conv_backward(y, a, b, mode="same")
        for x, d in ((a, g.du), (b, g.dk)):
            assert d.dtype == ("float64" if x.dtype.kind == "i" else x.dtype.newbyteorder("="))
    mask = np.array([True, False, True, True, True])
    y = conv(u, k, mask=mask)
    assert y.dtype == "float32" and not y[:, 1].any() and y[:, 0].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_torch(dtype):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, dtype)
    u, k = (torch.randn(s, generator=generator, dtype=dtype) for s in ((2, 1, 3, 40), (5, 3, 9)))

    def numbers(x):
        return x.to(torch.complex128 if x.is_complex() else torch.float64).numpy()

    tolerance = str(dtype)[6:]
    for axis in (-1, 2, 0):
        x = u.moveaxis(-1, axis)
        y = conv(x, k, mode="full", axis=axis)
        assert type(y) is torch.Tensor and y.dtype == dtype and y.is_contiguous()
        want = rows_by_numpy(numbers(x), numbers(k), "full", axis)
        assert close(numbers(y), want, tolerance)
        g = conv_backward(y, x, k.conj(), mode="full", axis=axis)
        assert g.du.shape == x.shape and g.dk.shape == k.shape and g.du.dtype == g.dk.dtype == dtype
        want = conv_backward(numbers(y), numbers(x), numbers(k.conj()), mode="full", axis=axis)
        assert close(numbers(g.du), want.du, tolerance)
        assert close(numbers(g.dk), want.dk, tolerance)
        out = torch.full_like(y, torch.nan)
        assert conv(x, k, mode="full", axis=axis, out=out) is out and torch.equal(out, y)


def test_no_copies():
    """One signal meets many filters without a copy of itself, whichever axes they have."""
    u, k = np.ones((3, 1 << 16), "float32"), np.ones((8, 1, 100), "float32")
    conv(u, k, threads=1)
    tracemalloc.start()
    y = conv(u, k, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < y.nbytes + u.nbytes / 2


def test_a_call_on_rows_is_none_of_it(monkeypatch):
    """Calls on rows never come there, nor do those of this package's modules."""
    monkeypatch.setattr(convolution, "Call", None)
    u, k = np.ones((2, 6, 30), "float32"), np.ones((6, 9), "float32")
    for shapes in ((u, k), (u[0], k), (u[0, 0], k[0]), (u, k[:2]), (u, np.stack([k, k]))):
        conv_backward(conv(*shapes), *shapes)
    for call in (
        lambda: fftconv.flash.FlashFFTConv(64, "float32")(u[:, :1], k),
        lambda: fftconv.flash.PartialFFTConv(8)(u[:, :1], k),
        lambda: fftconv.flash.FlashFFTConv(64, "float32")(u[None], k),
    ):
        with pytest.raises(ValueError, match="has shape|has 4 axes"):
            call()
