"""Properties that every convolution has: these checks need no second implementation."""

import fftconv
import numpy as np
import pytest
from fftconv import Pattern
from hypothesis import given
from hypothesis import strategies as st
from support import DTYPES, TOLERANCE, Case, norm, normal, same_bits, wide

MODES = ["causal", "circular"]
LENGTHS = [1, 2, 7, 64, 97, 105, 256, 1000, 1009, 4096]


def inner(a, b):
    return float(np.sum(a.astype(np.float64) * b.astype(np.float64)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_linearity(length, mode, dtype):
    """conv(a u + b v, k) = a conv(u, k) + b conv(v, k), and likewise for k."""
    rng = np.random.default_rng(length)
    u, v = (normal(rng, (2, 3, length), dtype) for _ in range(2))
    k, j = (normal(rng, (3, length), dtype, length**-0.5) for _ in range(2))
    a, b = np.array([0.7, -1.9], dtype)
    limit = 8 * TOLERANCE[dtype] * np.sqrt(length)

    def conv(x, h):
        return fftconv.conv(x, h, mode=mode)

    assert norm(conv(a * u + b * v, k) - (a * conv(u, k) + b * conv(v, k))).max() <= limit
    assert norm(conv(u, a * k + b * j) - (a * conv(u, k) + b * conv(u, j))).max() <= limit


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_impulse(length, mode, dtype):
    """An impulse at s gives the kernel from s on, cut off or wrapped at the end of the row."""
    rng = np.random.default_rng(length)
    k = normal(rng, (1, length), dtype, length**-0.5)
    for s in {0, 1, length // 2, length - 1}:
        if s >= length:
            continue
        u = np.zeros((1, 1, length), dtype=k.dtype)
        u[0, 0, s] = 1
        want = np.roll(k[0].astype(np.float64), s)
        if mode == "causal":
            want[:s] = 0
        y = fftconv.conv(u, k, mode=mode)[0, 0].astype(np.float64)
        assert norm(y - want) <= 2 * TOLERANCE[dtype] * norm(k[0])


@pytest.mark.parametrize("length", LENGTHS[1:])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_shift(length, dtype):
    """A shifted input gives a shifted output."""
    rng = np.random.default_rng(length)
    u = normal(rng, (2, 2, length), dtype)
    k = normal(rng, (2, length), dtype, length**-0.5)
    limit = 4 * TOLERANCE[dtype] * norm(k).max() * norm(u).max()
    s = length // 3 + 1
    y = fftconv.conv(u, k, mode="circular")
    shifted = fftconv.conv(np.roll(u, s, -1), k, mode="circular")
    assert norm(shifted - np.roll(y, s, -1)).max() <= limit
    delayed = np.zeros_like(u)
    delayed[..., s:] = u[..., : length - s]
    y = fftconv.conv(u, k)
    later = fftconv.conv(delayed, k)
    assert norm(later[..., s:] - y[..., : length - s]).max() <= limit
    assert norm(later[..., :s]).max() <= limit


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adjoint(length, mode, dtype):
    """<A u, dy> = <u, A' dy> for the map A: u -> conv(u, k), and likewise for k -> conv(u, k)."""
    rng = np.random.default_rng(length)
    u, dy = (normal(rng, (3, 2, length), dtype) for _ in range(2))
    k = normal(rng, (2, length), dtype, length**-0.5)
    y = fftconv.conv(u, k, mode=mode)
    g = fftconv.conv_backward(dy, u, k, mode=mode)
    scale = (
        np.sqrt(inner(y, y) * inner(dy, dy)) + np.sqrt(inner(u, u) * inner(dy, dy)) * norm(k).max()
    )
    assert abs(inner(y, dy) - inner(u, g.du)) <= 4 * TOLERANCE[dtype] * scale
    assert abs(inner(y, dy) - inner(k, g.dk)) <= 4 * TOLERANCE[dtype] * scale


@pytest.mark.parametrize(
    "mode,fft_size,pattern",
    [
        ("causal", None, None),
        ("circular", None, None),
        ("circular", 50, None),
        ("circular", 37, None),
        ("two_sided", None, None),
        ("circular", 32, Pattern((4, 8), (2, 3))),
        ("circular", 37, Pattern.lowpass(20)),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
def test_finite_differences(mode, fft_size, pattern, activation):
    """Each gradient equals (f(x + e d) - f(x - e d)) / 2 e, in float64."""
    case = Case(
        2,
        4,
        29,
        25,
        "float64",
        mode=mode,
        fft_size=fft_size,
        pattern=pattern,
        activation=activation,
        kernels=(2, 2),
        options=("in_gate", "out_gate", "skip", "mask"),
    )
    names = ("u", "k", "in_gate", "out_gate", "skip", "k_rev")
    at = {"u": case.u, "k": case.k, **case.arguments}
    gradients = fftconv.conv_backward(case.dy, **at)
    rng = np.random.default_rng(7)
    step = 1e-6
    for name, gradient in zip(names, gradients):
        assert (gradient is None) == (at[name] is None)
        for _ in range(3 if gradient is not None else 0):
            d = rng.standard_normal(at[name].shape)
            f = [
                inner(case.dy, fftconv.conv(**{**at, name: at[name] + s * d}))
                for s in (step, -step)
            ]
            slope = (f[0] - f[1]) / (2 * step)
            # The limit covers the rounding of f divided by the step, and the step's third-order
            # error.
            assert abs(slope - inner(gradient, d)) <= 1e-7 * (
                1 + norm(gradient.ravel()) * norm(d.ravel())
            ), name


def rows_case(dtype, mode, length, seed=0):
    return Case(
        5,
        3,
        length,
        length,
        dtype,
        mode=mode,
        seed=seed,
        options=("in_gate", "out_gate", "skip", "mask"),
        activation="gelu",
    )


def outputs(case, **changed):
    """y and the gradients that belong to one row, for the case with some operands changed."""
    at = {"u": case.u, "k": case.k, **case.arguments, **changed}
    dy = at.pop("dy", case.dy)
    g = fftconv.conv_backward(dy, **at, needs=("u", "in_gate", "out_gate"))
    return [fftconv.conv(**at), g.du, g.din_gate, g.dout_gate]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [3, 64, 97, 256, 1000, 2048])
def test_rows_are_independent(length, mode, dtype):
    """A row keeps its bits when other rows change, become 10^4 times louder, NaN or infinite."""
    case = rows_case(dtype, mode, length)
    want = outputs(case)
    row = (2, 1)
    others = np.ones((5, 3), bool)
    others[row] = False
    loud = {"float16": 100}.get(dtype, 1e4)
    changes = {
        "new": normal(np.random.default_rng(9), case.u.shape, dtype),
        "loud": (case.u.astype(np.float64) * loud).astype(case.u.dtype),
        "nan": np.full_like(case.u, np.nan),
        "inf": np.full_like(case.u, np.inf),
    }
    for what, new in changes.items():
        # First only u of every other row changes, then their gates and dy as well.
        for names in (("u",), ("u", "in_gate", "out_gate", "dy")):
            at = {}
            for name in names:
                x = getattr(case, name, case.operands.get(name)).copy()
                x[others] = new[others]
                at[name] = x
            with np.errstate(all="ignore"):
                got = outputs(case, **at)
            for a, b in zip(got, want):
                assert same_bits(a[row], b[row]), (what, names)
            if what in ("nan", "inf"):
                bad = ~np.isfinite(got[0][others].astype(np.float64))
                assert bad.any(axis=-1).all(), "a bad row must not look good"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_rows_do_not_depend_on_their_number(mode, dtype):
    """A row gives the same bits alone, beside one other row, and among many."""
    case = Case(6, 4, 300, 300, dtype, mode=mode)
    y = fftconv.conv(case.u, case.k, mode=mode)
    for b, h in ((0, 0), (3, 2), (5, 3)):
        alone = fftconv.conv(case.u[b, h], case.k[h], mode=mode)
        assert same_bits(alone, y[b, h])
        two = fftconv.conv(case.u[b : b + 2, h : h + 1], case.k[h : h + 1], mode=mode)
        assert same_bits(two[0, 0], y[b, h])


@pytest.mark.parametrize("mode", MODES)
def test_one_nan_in_the_kernel(mode):
    """A kernel that is not finite spoils its own channel and no other."""
    case = Case(2, 4, 200, 200, mode=mode)
    want = fftconv.conv(case.u, case.k, mode=mode)
    k = case.k.copy()
    k[1, 17] = np.nan
    y = fftconv.conv(case.u, k, mode=mode)
    assert np.isnan(y[:, 1]).any(axis=-1).all()
    for h in (0, 2, 3):
        assert same_bits(y[:, h], want[:, h])


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 1000))
def test_commutes(a, b, seed):
    """u * k = k * u over the samples that both have, in causal mode."""
    rng = np.random.default_rng(seed)
    u, k = rng.standard_normal(a), rng.standard_normal(b)
    n = min(a, b)
    left, right = fftconv.conv(u, k)[:n], fftconv.conv(k, u)[:n]
    assert norm(left - right) <= 1e-13 * (norm(u) * norm(k) + 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_is_the_same(dtype):
    """out may be u: the same bits, with every operand, in either mode."""
    for mode in MODES:
        for length in (5, 64, 1000, 4099):
            case = rows_case(dtype, mode, length)
            want = fftconv.conv(case.u, case.k, **case.arguments)
            u = case.u.copy()
            assert fftconv.conv(u, case.k, **case.arguments, out=u) is u
            assert same_bits(u, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 3])
def test_one_long_row_in_place(mode, threads):
    """When several threads share one row in place, all of it is read before any is written."""
    case = Case(1, 1, 1 << 16, 1 << 16, options=("in_gate", "skip"), mode=mode)
    want = fftconv.conv(case.u, case.k, **case.arguments, threads=threads)
    u = case.u.copy()
    fftconv.conv(u, case.k, **case.arguments, threads=threads, out=u)
    assert same_bits(u, want)


def test_two_runs_agree():
    """The same call gives the same bits twice, sums over the batch included."""
    case = Case(37, 3, 500, 500, options=("in_gate", "skip"))
    first, second = (
        fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments) for _ in range(2)
    )
    for a, b in zip(first, second):
        assert same_bits(a, b)


# ---- Every mode, kernel shape, pattern and layout, without an activation -----

ALL = ("in_gate", "out_gate", "skip", "mask")


@st.composite
def linear_cases(
    draw, options=st.sets(st.sampled_from(ALL)), modes=("causal", "circular", "two_sided")
):
    """A Case in 64 bits without an activation: y is linear in u, in each gate, and in the kernels
    and skip together."""
    mode = draw(st.sampled_from(modes))
    dtype = draw(st.sampled_from(["float64", "complex128"]))
    length, taps = draw(st.integers(1, 700)), draw(st.integers(1, 150))
    batch, members, groups = (draw(st.integers(1, 3)) for _ in range(3))
    fft_size = reverse = pattern = None
    if mode == "circular":
        fft_size = max(length, taps) + draw(st.integers(0, 40))
        bins = fft_size // 2 + 1
        if dtype == "float64":
            pattern = draw(
                st.sampled_from(
                    [None, Pattern.lowpass(max(1, fft_size // 3)), np.arange(bins) % 3 > 0]
                )
            )
    if mode == "two_sided":
        reverse = draw(st.integers(1, 150))
    kernels = draw(st.sampled_from([(), (groups,), (1, groups), (batch, groups)]))
    return Case(
        batch,
        groups * members,
        length,
        taps,
        dtype,
        mode=mode,
        fft_size=fft_size,
        reverse=reverse,
        pattern=pattern,
        kernels=kernels,
        options=draw(options),
        seed=draw(st.integers(0, 99)),
    )


def real_inner(a, b):
    return np.sum(np.conj(wide(a)) * wide(b)).real


def size_of(case):
    """A bound on the norms of the rows and of everything else that enters, which is O(1)."""
    z = wide(case.u) * case.wide("in_gate")
    return 10 + np.abs(case.wide("out_gate")).max() * np.abs(case.wide("mask")).max() * norm(
        z.ravel()
    ) * (2 + case.kernel_norms().max() + np.abs(case.wide("skip")).max())


@given(linear_cases())
def test_adjoints(case):
    """Re <dy, y> equals Re <dx, x> for x = u and for either gate, and its sum over k, k_rev and
    skip."""
    y = fftconv.conv(case.u, case.k, **case.arguments)
    g = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    want = real_inner(case.dy, y)
    limit = 1e-12 * norm(case.dy.ravel()) * size_of(case)
    assert abs(real_inner(g.du, case.u) - want) <= limit
    for name in {"in_gate", "out_gate"} & set(case.operands):
        gradient = getattr(g, "d" + name)
        assert abs(real_inner(gradient, case.operands[name]) - want) <= limit
    taps = [(g.dk, case.k), (g.dk_rev, case.k_rev), (g.dskip, case.operands.get("skip"))]
    assert abs(sum(real_inner(dx, x) for dx, x in taps if x is not None) - want) <= limit


@given(linear_cases(), st.sampled_from(["BHL", "BLH"]))
def test_linear(case, layout):
    """conv(a u + v) = a conv(u) + conv(v), in both layouts."""

    def conv(u):
        at = case.arguments
        if layout == "BHL":
            return fftconv.conv(u, case.k, **at)
        for name in {"in_gate", "out_gate"} & set(case.operands):
            at[name] = at[name].transpose(0, 2, 1)
        return fftconv.conv(
            np.ascontiguousarray(u.transpose(0, 2, 1)), case.k, **at, layout="BLH"
        ).transpose(0, 2, 1)

    a = -1.7 + (0.6j if case.u.dtype.kind == "c" else 0)
    left, right = conv(a * case.u + case.dy), a * conv(case.u) + conv(case.dy)
    size = size_of(case) + norm(case.dy.ravel()) * size_of(case)
    assert norm((left - right).ravel()) <= 1e-12 * size


@given(linear_cases(modes=("causal", "two_sided")), st.data())
def test_reach(case, data):
    """y[t] does not depend, beyond rounding, on u outside t - Lk + 1 ... t + (length of k_rev) - 1:
    without a k_rev it does not look ahead."""
    length = case.u.shape[-1]
    t = data.draw(st.integers(0, length - 1))
    ahead = 0 if case.k_rev is None else case.k_rev.shape[-1] - 1
    low, high = t - case.k.shape[-1] + 1, t + ahead
    y = fftconv.conv(case.u, case.k, **case.arguments)
    u = case.u.copy()
    u[..., : max(low, 0)] = 3
    u[..., high + 1 :] = -5
    other = fftconv.conv(u, case.k, **case.arguments)
    assert np.abs(other[..., t] - y[..., t]).max() <= 1e-12 * (size_of(case) * 10 * length**0.5)


@given(linear_cases(options=st.sets(st.sampled_from(["skip", "mask"]))), st.integers(0, 1000))
def test_shifts(case, s):
    """Shifted rows give shifted results, around the circle or with zeros behind the row."""
    arguments = case.arguments
    batch, channels, length = case.u.shape
    if case.mode["mode"] == "circular":
        n = case.mode["fft_size"]
        u = np.zeros((batch, channels, n), case.u.dtype)
        u[..., :length] = case.u
        y = np.roll(fftconv.conv(u, case.k, **arguments), s, -1)
        other = fftconv.conv(np.roll(u, s, -1), case.k, **arguments)
    else:
        ahead = 0 if case.k_rev is None else case.k_rev.shape[-1] - 1
        s %= 300
        u = np.zeros((batch, channels, length + s + ahead), case.u.dtype)
        u[..., ahead : ahead + length] = case.u
        moved = np.zeros_like(u)
        moved[..., s:] = u[..., : u.shape[-1] - s]
        y = fftconv.conv(u, case.k, **arguments)[..., : u.shape[-1] - s]
        other = fftconv.conv(moved, case.k, **arguments)[..., s:]
    assert norm((other - y).ravel()) <= 1e-12 * size_of(case)
