"""conv and conv_backward compared with the float64 reference, over shapes and types."""

import fftconv
import numpy as np
import pytest
from fftconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ACTIVATIONS,
    DTYPES,
    TOLERANCE,
    Case,
    big,
    check_forward,
    check_gradients,
    check_rows,
    k_dtypes,
    norm,
    normal,
    same_bits,
    slow,
)

ALL = ("in_gate", "out_gate", "skip", "mask")

# (B, H, L, Lk): L even, odd and prime; the kernel shorter than the row, as long, and longer.
CAUSAL = [
    (1, 1, 1, 1),
    (2, 3, 1, 5),
    (1, 2, 2, 2),
    (2, 2, 3, 7),
    (1, 1, 4, 3),
    (3, 2, 17, 4),
    (2, 3, 64, 64),
    (2, 3, 67, 67),
    (1, 4, 100, 1),
    (2, 2, 127, 300),
    (2, 5, 256, 256),
    (1, 2, 499, 250),
    (2, 2, 1000, 1000),
    (1, 3, 1024, 1500),
    (3, 1, 2048, 2048),
    (1, 2, 4099, 4099),
    (1, 1, 10007, 10007),
    (1, 2, 16384, 16384),
    (1, 1, 40000, 77),
    (1, 1, 65536, 65536),
]
# (B, H, L, Lk, N): N prime, 7-smooth (odd and even), 2 L, and L (None).
CIRCULAR = [
    (2, 3, 1, 1, None),
    (2, 2, 2, 1, None),
    (2, 2, 5, 5, None),
    (1, 1, 1, 1, 7),
    (2, 3, 64, 64, None),
    (1, 2, 97, 97, None),
    (2, 2, 105, 105, None),
    (2, 3, 210, 50, None),
    (1, 2, 1000, 1000, None),
    (2, 2, 1009, 1009, None),
    (1, 3, 1024, 1024, None),
    (1, 1, 2310, 2310, None),
    (1, 1, 6561, 6561, None),
    (2, 1, 4096, 4096, None),
    (1, 1, 16384, 16384, None),
    (1, 1, 20011, 20011, None),
    (1, 1, 65536, 65536, None),
    (2, 2, 50, 30, 97),
    (2, 2, 50, 97, 97),
    (2, 3, 64, 64, 128),
    (1, 2, 100, 200, 200),
    (1, 2, 333, 1000, 1024),
    (1, 1, 1000, 999, 2047),
    (2, 1, 130, 200, 315),
    (1, 2, 3, 4, 5),
]
SHAPES = [s + ("causal", None) for s in CAUSAL] + [s[:4] + ("circular", s[4]) for s in CIRCULAR]


def ids(shape):
    return "-".join(str(x) for x in shape if x is not None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=ids)
def test_forward(shape, dtype):
    *sizes, mode, fft_size = shape
    for options, activation in (((), None), (ALL, "gelu")):
        case = Case(
            *sizes, dtype, options=options, activation=activation, mode=mode, fft_size=fft_size
        )
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=ids)
def test_backward(shape, dtype):
    *sizes, mode, fft_size = shape
    for options, activation in (((), None), (ALL, "gelu")):
        case = Case(
            *sizes, dtype, options=options, activation=activation, mode=mode, fft_size=fft_size
        )
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if min(s[2:4]) >= 64], ids=ids)
def test_tolerance(shape, dtype):
    """Errors are within the promised tolerance for rows of 64 samples or more, and within twice of
    it for gradients."""
    *sizes, mode, fft_size = shape
    case = Case(*sizes, dtype, mode=mode, fft_size=fft_size)
    scale = norm(case.k) * norm(case.u)
    want = reference.conv(case.u, case.k, **case.mode)
    y = fftconv.conv(case.u, case.k, **case.mode).astype(np.float64)
    size = np.maximum(norm(want), scale)
    assert np.all(norm(y - want) <= TOLERANCE[dtype] * size)
    g = fftconv.conv_backward(case.dy, case.u, case.k, **case.mode)
    want = reference.conv_backward(case.dy, case.u, case.k, **case.mode)
    size = np.maximum(norm(want.du), norm(case.k) * norm(case.dy))
    assert np.all(norm(g.du.astype(np.float64) - want.du) <= 2 * TOLERANCE[dtype] * size)
    size = np.maximum(norm(want.dk), (norm(case.dy) * norm(case.u)).sum(0))
    assert np.all(norm(g.dk.astype(np.float64) - want.dk) <= 2 * TOLERANCE[dtype] * size)


@pytest.mark.pairwise
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options",
    [(), ("in_gate",), ("out_gate",), ("in_gate", "out_gate"), ("skip",), ("mask",), ALL],
    ids="+".join,
)
@pytest.mark.parametrize("dtypes", k_dtypes(), ids="-".join)
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_every_operand(dtypes, options, activation, mode):
    case = Case(
        3,
        4,
        130,
        130,
        dtypes[0],
        k_dtype=dtypes[1],
        options=options,
        activation=activation,
        mode=mode,
    )
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options, kernels", [((), None), (ALL, None), (ALL, (1,))])
def test_rows_beyond_a_cache(options, kernels, threads):
    """Rows beyond a cache are right: the next row is prefetched while one is computed, also at the
    last row of a kernel and at the very last row."""
    case = Case(3, 300, 1024, 1024, options=options, kernels=kernels)
    check_forward(case, fftconv.conv(case.u, case.k, threads=threads, **case.arguments))
    check_gradients(
        case, fftconv.conv_backward(case.dy, case.u, case.k, threads=threads, **case.arguments)
    )


@pytest.mark.pairwise
@pytest.mark.parametrize("taps", [300001, 700])
@pytest.mark.parametrize(
    "dtype, activation", [("float32", None), ("float64", "silu"), ("bfloat16", "gelu")]
)
@pytest.mark.parametrize("isa", fftconv.isas())
def test_rows_no_cache_holds(isa, dtype, activation, taps):
    """Rows larger than every cache are right: they are prefetched, and read and written through
    scratch memory, in one transform whose last tiles lie partly beyond the row, and in blocks."""
    case = Case(
        1,
        2,
        300001,
        taps,
        dtype,
        k_dtype="float32" if dtype == "bfloat16" else None,
        options=ALL,
        activation=activation,
    )
    one, two = (case.plan(isa=isa, threads=threads) for threads in (1, 2))
    assert (one.blocks > 1) == (taps == 700)
    y = np.full_like(case.u, np.nan)
    one(case.u, case.k, out=y, **case.kernel_arguments)
    check_forward(case, y)
    assert same_bits(two(case.u, case.k, **case.kernel_arguments), y)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activation_everywhere(activation, dtype):
    """act(p) and act'(p) are right at every p, far out in the tails too: with k = 0 and skip = 1, p
    is u."""
    x = np.array(
        [0, 1e-6, 0.3, 1, 3, 5, 9, 12.7, 13, 37, 60, 87, 88, 89, 708, 709, 1e3, 1e10, 1e30]
    )
    u = np.concatenate([x, -x])[None, :, None].astype(dtype)
    k = np.zeros((u.shape[1], 1), dtype)
    options = dict(skip=np.ones(u.shape[1], dtype), activation=activation)
    y = fftconv.conv(u, k, **options)
    g = fftconv.conv_backward(np.ones_like(u), u, k, needs=["u"], **options)
    expected = reference.conv(u, k, **options)
    slope = reference.conv_backward(np.ones_like(u), u, k, **options).du
    tolerance = 3e-7 if dtype == "float32" else 1e-15
    assert np.all(abs(y - expected) <= tolerance * np.maximum(1, abs(expected)))
    assert np.all(abs(g.du - slope) <= 4 * tolerance)


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activation_of_nan(activation, dtype, isa):
    """A NaN stays one whatever its bits are, which exp shifts into an exponent: no signed integer
    may overflow there, which sanitizers see."""
    infinity = np.array(np.inf, dtype).view("u4" if dtype == "float32" else "u8")
    payloads = np.array([1, 0x40, 0x80, 0xC0, 0xFF, 0x400, 0x600, 0x7FF, 1 << 22], infinity.dtype)
    u = (infinity + payloads).view(dtype)[None, :, None]
    u = np.concatenate([u, -u], axis=1)
    k, skip = np.zeros((u.shape[1], 1), dtype), np.ones(u.shape[1], dtype)
    plan = fftconv.Plan(u.shape, k.shape, dtype=dtype, isa=isa)
    options = dict(skip=skip, activation=activation)
    assert np.isnan(plan(u, k, **options)).all()
    assert np.isnan(plan.backward(u, u, k, needs=["u"], **options).du).all()


@pytest.mark.parametrize(
    "needs",
    [
        (),
        ("u",),
        ("k",),
        ("in_gate",),
        ("out_gate",),
        ("skip",),
        ("k", "skip"),
        ("u", "in_gate"),
        ("u", "out_gate"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_needs(needs, activation, mode):
    """A gradient has the same bits whether it is asked for alone or with others."""
    case = Case(5, 3, 90, 70, options=ALL, activation=activation, mode=mode)
    some = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments, needs=needs)
    check_gradients(case, some, needs=needs)
    every = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    for a, b in zip(some, every):
        assert a is None or np.array_equal(a, b)


@pytest.mark.parametrize(
    "needs",
    [
        ("u",),
        ("in_gate",),
        ("out_gate",),
        ("u", "in_gate"),
        ("k", "out_gate"),
        ("u", "in_gate", "out_gate"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize(
    "length, dtype", [(90, "float32"), (1024, "float32"), (1024, "bfloat16"), (300, "float64")]
)
@pytest.mark.parametrize("isa", fftconv.isas())
def test_needs_of_gates(isa, length, dtype, needs):
    """This also holds with gates alone, where neither p nor dz is stored."""
    case = Case(
        3,
        2,
        length,
        length,
        dtype,
        k_dtype="float32" if dtype == "bfloat16" else None,
        options=("in_gate", "out_gate"),
    )
    plan = case.plan(isa=isa)
    some, every = (
        plan.backward(case.dy, case.u, case.k, needs=what, **case.kernel_arguments)
        for what in (needs, ("u", "k", "in_gate", "out_gate"))
    )
    check_gradients(case, some, needs=needs)
    check_gradients(case, every, needs=("u", "k", "in_gate", "out_gate"))
    for a, b in zip(some, every):
        assert a is None or np.array_equal(a, b)


def test_needs_as_one_string():
    case = Case(1, 1, 8, 8)
    got = fftconv.conv_backward(case.dy, case.u, case.k, needs="k")
    check_gradients(case, got, needs=("k",))


SIZES = st.one_of(
    st.integers(1, 40),
    st.integers(41, 700),
    st.sampled_from([64, 128, 256, 257, 384, 509, 512, 1024]),
)


@st.composite
def cases(draw):
    dtype, k_dtype = draw(st.sampled_from(k_dtypes()))
    mode = draw(st.sampled_from(["causal", "circular"]))
    length = draw(SIZES)
    fft_size, taps = None, draw(SIZES)
    if mode == "circular":
        fft_size = length + draw(st.one_of(st.just(0), SIZES))
        taps = min(taps, fft_size)
    return Case(
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
        length,
        taps,
        dtype,
        k_dtype=k_dtype,
        mode=mode,
        fft_size=fft_size,
        options=draw(st.sets(st.sampled_from(ALL))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        seed=draw(st.integers(0, 99)),
    )


@given(cases(), st.integers(1, 3))
def test_anything(case, threads):
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments, threads=threads))
    check_gradients(
        case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments, threads=threads)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [1e-3, 1e3])
def test_level(dtype, level):
    """Errors are relative: quiet and loud inputs have those of O(1) inputs, except for what a quiet
    y loses to float16's subnormal numbers."""
    if dtype == "float16" and level > 1:
        level = 100.0  # y must stay below 65504
    case = Case(2, 3, 1000, 1000, dtype)
    case.u = (case.u.astype(np.float64) * level).astype(case.u.dtype)
    check_forward(case, fftconv.conv(case.u, case.k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_mean(dtype):
    """Noise with a mean of 100 is convolved within the tolerance."""
    case = Case(2, 3, 1000, 1000, dtype)
    case.u = (case.u.astype(np.float64) + 100).astype(case.u.dtype)
    check_forward(case, fftconv.conv(case.u, case.k))


def test_axes():
    """u may be (L,), (H, L) or (B, H, L), and k (Lk,), (H, Lk) or (1, H, Lk)."""
    case = Case(1, 1, 50, 20)
    want = fftconv.conv(case.u, case.k)
    for u in (case.u, case.u[0], case.u[0, 0]):
        for k in (case.k[None], case.k, case.k[0]):
            y = fftconv.conv(u, k)
            assert y.shape == u.shape
            assert np.array_equal(y.reshape(-1), want.reshape(-1))
            g = fftconv.conv_backward(u, u, k)
            assert g.du.shape == u.shape and g.dk.shape == k.shape
    case = Case(1, 3, 50, 20)
    y = fftconv.conv(case.u[0], case.k, skip=case.k[:, 0], mask=case.k[None, :, 1])
    assert y.shape == (3, 50)


@pytest.mark.parametrize("mode", ["causal", "circular"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layout_blh(mode, dtype):
    """Rows in (B, L, H) give the bits of (B, H, L), with the axes exchanged."""
    case = Case(2, 5, 70, 70, dtype, options=ALL, activation="gelu", mode=mode)
    want = fftconv.conv(case.u, case.k, **case.arguments)
    gradients = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    arguments = case.arguments
    for name in ("in_gate", "out_gate"):
        arguments[name] = np.ascontiguousarray(arguments[name].transpose(0, 2, 1))
    u, dy = (np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (case.u, case.dy))
    y = fftconv.conv(u, case.k, **arguments, layout="BLH")
    assert y.shape == u.shape and y.flags.c_contiguous
    assert np.array_equal(y.transpose(0, 2, 1), want)
    got = fftconv.conv_backward(dy, u, case.k, **arguments, layout="BLH")
    for name, a, b in zip(got._fields, got, gradients):
        if name not in ("dk", "dskip", "dk_rev"):
            a = a.transpose(0, 2, 1)
        assert a is b is None or np.array_equal(a, b), name
    plan = fftconv.Plan(u.shape, case.k.shape, dtype=dtype, mode=mode, layout="BLH")
    arguments = {k: v for k, v in arguments.items() if k not in ("mode", "fft_size", "pattern")}
    assert np.array_equal(plan(u, plan.spectrum(case.k), **arguments), y)


def test_layout_blh_two_axes():
    case = Case(1, 3, 40, 40)
    y = fftconv.conv(case.u[0].T, case.k, layout="BLH")
    assert np.array_equal(y.T, fftconv.conv(case.u[0], case.k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_gates(dtype):
    """A gate that broadcasts acts like its repeated copy, and its gradient is summed."""
    case = Case(3, 4, 65, 65, dtype)
    rng = np.random.default_rng(1)
    for shape in [(4, 1), (1, 4, 65), (65,), (3, 1, 1), (1,), ()]:
        gate = np.asarray(normal(rng, shape, dtype))
        full = np.ascontiguousarray(np.broadcast_to(gate, case.u.shape))
        y = fftconv.conv(case.u, case.k, gate, gate)
        assert np.array_equal(y, fftconv.conv(case.u, case.k, full, full))
        got = fftconv.conv_backward(case.dy, case.u, case.k, gate, gate)
        each = fftconv.conv_backward(case.dy, case.u, case.k, full, full)
        want = reference.conv_backward(case.dy, case.u, case.k, gate, gate)
        for name in ("din_gate", "dout_gate"):
            x = getattr(got, name)
            assert x.shape == gate.shape and x.dtype == gate.dtype
            # Each term is rounded before the terms are summed.
            size = np.sqrt((getattr(each, name).astype(np.float64) ** 2).sum())
            assert np.all(
                np.abs(x.astype(np.float64) - getattr(want, name))
                <= 4 * TOLERANCE[dtype] * max(size, 1)
            )


def test_skip_and_mask_of_one_number():
    case = Case(2, 3, 30, 30)
    y = fftconv.conv(case.u, case.k, skip=0.5, mask=2.0)
    want = reference.conv(case.u, case.k, skip=np.full(3, 0.5), mask=np.full((2, 3), 2.0))
    check_forward(case, y, want)


def test_lists():
    """Of lists of numbers u becomes float64, and the others take the type that u needs."""
    y = fftconv.conv([1, 2, 3], [1, 1])
    assert y.dtype == np.float64 and np.allclose(y, [1, 3, 5], atol=1e-14)
    u = np.array([1, 2, 3], np.float16)
    y = fftconv.conv(u, [1, 1], in_gate=[2, 2, 2], skip=[1])
    assert y.dtype == np.float16 and np.allclose(y, [4, 10, 16], atol=0.02)


@slow
@pytest.mark.parametrize("mode", ["causal", "circular"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long(mode, dtype):
    """Gated rows of a quarter of a million samples are right, forward and backward."""
    case = Case(
        1, 2, 1 << 18, 1 << 18, dtype, k_dtype="float32", mode=mode, options=("in_gate", "out_gate")
    )
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@slow
def test_long_float64_and_prime():
    case = Case(1, 1, 1 << 20, 1 << 20, "float64")
    check_forward(case, fftconv.conv(case.u, case.k))
    case = Case(1, 1, 200003, 200003, mode="circular")
    check_forward(case, fftconv.conv(case.u, case.k, mode="circular"))


@big
@pytest.mark.parametrize("log", [20, 21, 22, 23])
@pytest.mark.parametrize("mode", ["causal", "circular"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_big(log, mode, dtype):
    n = 1 << log
    case = Case(1, 1, n, n, dtype, k_dtype="float32", mode=mode, options=("in_gate", "out_gate"))
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@big
@pytest.mark.parametrize("n", [(1 << 23) - 15, 3**14, 5 * 7**7])
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_big_odd(n, mode):
    """Rows of a prime length (2^23 - 15) and of two odd 7-smooth lengths are right."""
    case = Case(1, 1, n, n, mode=mode)
    check_forward(case, fftconv.conv(case.u, case.k, mode=mode))


@big
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_big_many_rows(dtype):
    """u may have more than 2^31 bytes, in place: addresses need 64 bits."""
    length = 1 << 20
    k = np.ones((1, 3), dtype)
    rows = (1 << 31) // (length * k.itemsize) + 1
    u = np.zeros((rows, 1, length), dtype)
    u[0, 0, 5] = u[-1, 0, 7] = 1
    fftconv.conv(u, k, out=u)
    for row, at in ((u[0], 5), (u[-1], 7)):
        want = np.zeros((1, length))
        want[0, at : at + 3] = 1
        check_rows("row", row, want, norm(k), length)
    assert not u[1:-1].any()
