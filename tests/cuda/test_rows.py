"""Rows on a device, forward and backward, compared with the reference: lengths, forms, types,
strides, scales, shared kernels, and every choice of gradients."""

import numpy as np
import pytest
from engine_calls import (
    CIRCLE,
    ENGINES,
    LENGTHS,
    LONGEST,
    MODES,
    NEEDS,
    ON_GPU,
    OPTIONS,
    TOLERANCE,
    backward,
    call,
    check,
    check_backward,
    check_forward,
    forward,
    needs_library,
    pairwise,
    poisoned,
    rows_of,
)
from fftconv import reference
from support import Case, big, norm, wide

pytestmark = needs_library


def make(m, dtype, fill, mode, options, activation, *, k_float32=True, seed=0):
    """A case whose rows need M = m, of which they fill the fraction `fill`."""
    batch, channels = (3, 2) if m < 16384 else (2, 1)
    name, taps, reverse, circle = mode
    length = max(m // 2 + 1, int(m * fill)) if m > 256 else int(m * fill)
    comes_round = False
    if circle is not None:
        comes_round = length + max(1, int(taps * length)) - 1 > int(circle * length)
        if comes_round and circle > 1:
            length = max(1, int(length / circle))
    taps = max(1, int(taps * length))
    size = None if circle is None else int(circle * length)
    return Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode=name,
        fft_size=size,
        reverse=None if reverse is None else max(1, int(reverse * length)),
        k_dtype="float32" if k_float32 else dtype,
        seed=seed,
    )


CASES = [
    (min(case[0], LONGEST[case[1]]), *case[1:])
    for case in pairwise(
        LENGTHS,
        ("float32", "float16", "bfloat16"),
        (1, 0.77, 0.501),
        MODES,
        OPTIONS,
        (None, "gelu", "silu"),
        (False, True),
        (True, False),
    )
]


@pytest.mark.parametrize("m, dtype, fill, mode, options, activation, wide_k, prepared", CASES)
def test_forward(m, dtype, fill, mode, options, activation, wide_k, prepared):
    case = make(m, dtype, fill, mode, options, activation, k_float32=wide_k)
    y, _ = forward(case, prepared=prepared, ask="right_angle")
    check_forward(case, y)


# Rows in even/odd form with a circle of N = 2 M: (u's length as a fraction of N, the number of taps
# as a fraction of u's length).  make_circle also names a circle other than 2 M where the row does
# not wrap around in 2 M points.
CIRCLES = ((1, 1), (1, 0.3), (0.77, 0.5), (0.501, 1), (0.92, 0.08))


def make_circle(m, dtype, circle, options, activation, *, k_float32=True, seed=0):
    """A case that is done in even/odd form with M = m."""
    batch, channels = (3, 2) if m < 8192 else (2, 1)
    length, taps = circle
    length = max(m + 1, int(length * 2 * m))
    taps = max(1, int(taps * length))
    size = 2 * m if length + taps - 1 > 2 * m else 2 * m + 7
    return Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode="circular",
        fft_size=size,
        k_dtype="float32" if k_float32 else dtype,
        seed=seed,
    )


EVEN_ODD = [
    (min(case[0], LONGEST[case[1]]), *case[1:])
    for case in pairwise(
        LENGTHS,
        ("float32", "float16", "bfloat16"),
        CIRCLES,
        OPTIONS,
        (None, "gelu", "silu"),
        (False, True),
        (True, False),
    )
]


@pytest.mark.parametrize("m, dtype, circle, options, activation, wide_k, prepared", EVEN_ODD)
def test_even_odd(m, dtype, circle, options, activation, wide_k, prepared):
    case = make_circle(m, dtype, circle, options, activation, k_float32=wide_k)
    y, chosen = forward(case, prepared=prepared, form="even_odd")
    assert chosen == m
    check_forward(case, y)


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("circle", CIRCLES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_even_odd_all(m, dtype, circle, activation):
    m = min(m, LONGEST[dtype])
    for options in OPTIONS:
        case = make_circle(m, dtype, circle, options, activation)
        check_forward(case, forward(case, form="even_odd")[0])
        check_backward(case, backward(case, form="even_odd"))


@pytest.mark.parametrize("m", (256, 512, 2048))
def test_which_form(m):
    """Even/odd is taken where it needs a shorter transform than right angle: for circles of 2 M,
    where 2 M is a transform's size, and for rows that do not wrap around in one.  Right angle is
    taken elsewhere, or where it is asked for."""
    for length, taps, size, form, want in (
        (2 * m, 2 * m, 2 * m, "even_odd", m),
        (2 * m, 2, 2 * m, "even_odd", m),
        (m + 1, m + 1, 2 * m, "even_odd", m),
        (m + 1, m, 2 * m, "even_odd", m),  # fills 2 M places: no wrap
        (2 * m - 9, 10, 2 * m + 1, "even_odd", m),
        (2 * m - 9, 10, 2 * m - 1, "right_angle", 2 * m),
        (2 * m - 9, 11, 2 * m + 3, "right_angle", 2 * m),
        (m, m, 2 * m, "right_angle", m),  # no wrap: right angle takes M too
        (2 * m - 1, 2 * m - 1, 2 * m - 1, "right_angle", 2 * m),
        (2 * m - 2, 2 * m - 2, 2 * m - 2, "right_angle", 2 * m),
        (m, m, m, "right_angle" if m == 256 else "even_odd", max(256, m // 2)),
    ):
        case = Case(2, 1, length, taps, "float32", mode="circular", fft_size=size)
        y, chosen = forward(case, form=form)
        assert chosen == want, (length, taps, size)
        check_forward(case, y)
        if form == "even_odd":
            again, chosen = forward(case, ask="right_angle")
            assert chosen == 2 * want
            check_forward(case, again)
    for mode in ("causal", "two_sided"):
        case = Case(1, 1, m + 1, 2, "float32", mode=mode)
        assert forward(case, form="right_angle")[1] == 2 * m


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_forward_all(m, dtype, mode, activation):
    for i, options in enumerate(OPTIONS):
        m = min(m, LONGEST[dtype])
        case = make(m, dtype, (1, 0.77, 0.501)[i % 3], mode, options, activation)
        check_forward(case, forward(case)[0])


@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_each_length_is_chosen(m, dtype):
    """The shortest transform that holds the row is chosen; a row of M + 1 samples takes the
    next."""
    for length, want in ((m, m), (m // 2 + 1, m), (m + 1, 2 * m)):
        case = Case(1, 1, length, 5, dtype)
        if want > LONGEST[dtype]:
            with pytest.raises(RuntimeError, match=rf"length is {length}"):
                forward(case)
        elif length <= 4097 or length == m:
            y, chosen = forward(case)
            assert chosen == max(want, LENGTHS[0])
            check_forward(case, y)


@pytest.mark.pairwise
@pytest.mark.parametrize("length", (1, 2, 3, 7, 31, 63, 64, 65, 100, 255))
@pytest.mark.parametrize("dtype", TOLERANCE)
@ENGINES
def test_short_rows(length, dtype, engine):
    """Rows shorter than the shortest transform, down to one sample, are right, and so are many of
    them."""
    case = Case(19, 3, length, length, dtype, options=("skip", "in_gate"))
    check_forward(case, forward(case, engine=engine)[0])


@pytest.mark.pairwise
@pytest.mark.parametrize(
    "batch, channels, blocks", [(1, 1, 1), (1, 5, 2), (17, 1, 4), (33, 3, 100), (2, 150, 7)]
)
@pytest.mark.parametrize("m", (256, 8192))
@CIRCLE
def test_rows_and_blocks(batch, channels, blocks, m, circle):
    """Any number of rows over any number of blocks gives the same bits."""
    if m > 1024:
        batch, channels = min(batch, 5), min(channels, 3)
    length, mode = rows_of(m, circle)
    case = Case(batch, channels, length - 5, 40, "float16", options=("out_gate",), **mode)
    y, _ = forward(case, blocks=blocks)
    check_forward(case, y)
    again, _ = forward(case, blocks=blocks + 3, seed=5)
    assert y.tobytes() == again.tobytes()


def test_many_kernels():
    """A block may have to pack the spectra of several kernels, where they are more than 512."""
    case = Case(1, 520, 20, 20, "float16")
    check_forward(case, forward(case)[0])


@pytest.mark.parametrize(
    "engine",
    (
        "cufft",
        pytest.param(
            "fused", marks=pytest.mark.skipif(not ON_GPU, reason="an hour of the emulated machine")
        ),
    ),
)
@pytest.mark.parametrize("batch, channels", [(65537, 1), (2, 32769)])
def test_many_rows(batch, channels, engine):
    """There may be more rows than the 65,535 that the y and z sizes of a CUDA grid hold."""
    case = Case(batch, channels, 2, 2, "float32", options=("skip",), kernels=(1,))
    check_forward(case, forward(case, engine=engine)[0])
    check_backward(case, backward(case, engine=engine))


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (512, 4096))
@CIRCLE
@ENGINES
def test_strides(dtype, m, circle, engine):
    """Rows may be misaligned, transposed, reversed, spread or repeated."""
    m, mode = rows_of(m, circle)
    base = Case(2, 3, m - 3, 33, dtype, options=("in_gate", "out_gate", "skip"), **mode)
    want, _ = forward(base, engine=engine)

    def spread(x):
        out = np.full((*x.shape[:-1], 3 * x.shape[-1] + 1), np.nan, x.dtype)
        out[..., 1::3] = x
        return out[..., 1::3]

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    def backwards(x):
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]

    def shifted(x):
        out = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
        out[..., 1:] = x
        return out[..., 1:]

    for lay in (spread, turned, backwards, shifted):
        case = Case(2, 3, m - 3, 33, dtype, options=("in_gate", "out_gate", "skip"), **mode)
        case.u = lay(case.u)
        case.operands = {
            **case.operands,
            "in_gate": lay(case.operands["in_gate"]),
            "out_gate": lay(case.operands["out_gate"]),
        }
        case.k = lay(case.k)
        y = lay(poisoned(base.u))
        call(case, 0, {"y": y}, engine=engine)
        assert np.array_equal(y.view(y.dtype), want), lay.__name__
    case = Case(2, 3, m, 33, dtype, **mode)
    case.u = np.broadcast_to(case.u[:1, :1], case.u.shape)
    check_forward(case, forward(case, engine=engine)[0])


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (256, 16384))
@CIRCLE
@ENGINES
def test_in_place(dtype, m, circle, engine):
    m, mode = rows_of(m, circle)
    case = Case(3, 1, m, m, dtype, options=("skip", "in_gate"), **mode)
    want, _ = forward(case, engine=engine)
    call(case, 0, {"y": case.u}, engine=engine)
    assert case.u.tobytes() == want.tobytes()


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", LENGTHS)
@CIRCLE
def test_scales(dtype, m, circle):
    """The relative error is the same for u and k of any size, and for u with a large mean."""
    m, mode = rows_of(min(m, LONGEST[dtype]), circle)
    for factor, k_factor, mean in (
        (1e-3, 1, 0),
        (1e3, 1, 0),
        (1, 1, 100),
        (1, 1e4, 0),
        (1, 1e-6, 0),
    ):
        case = Case(1, 1, m, m, dtype, k_dtype="float32", seed=3, **mode)
        case.u = ((wide(case.u) + mean) * factor).astype(case.u.dtype)
        case.k = (wide(case.k) * k_factor).astype("float32")
        if dtype == "float16" and k_factor == 1e-6:
            case.u = (wide(case.u) * 1e4).astype(case.u.dtype)
        check_forward(case, forward(case)[0])


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@CIRCLE
@ENGINES
def test_far_exponents(dtype, circle, engine):
    """Rows near both ends of float32's range are right, with gates that scale them back."""
    for up in (1e30, 1e-30):
        case = Case(
            2,
            1,
            600,
            600,
            dtype,
            options=("out_gate",),
            k_dtype="float32",
            **rows_of(512, circle)[1],
        )
        case.u = (wide(case.u) * up).astype(case.u.dtype)
        case.operands["out_gate"] = (case.wide("out_gate") / up).astype(case.u.dtype)
        y, _ = forward(case, engine=engine)
        want = reference.conv(case.u, case.k, **case.arguments)
        check("y", y, want, norm(want), 600)
    case = Case(2, 1, 600, 600, dtype, k_dtype="float32", **rows_of(512, circle)[1])
    case.u, case.dy = ((wide(x) * 1e-18).astype(x.dtype) for x in (case.u, case.dy))
    check_backward(case, backward(case, engine=engine))


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("loud", (2.0**15, 2.0**40))
@CIRCLE
@ENGINES
def test_silence(dtype, loud, circle, engine):
    """A row may be silent but for one loud sample."""
    length, mode = rows_of(2048, circle)
    case = Case(2, 1, length, length, dtype, k_dtype="float32", **mode)
    case.u[...] = 0
    case.u[:, 0, length // 3] = loud if dtype != "float16" else 2.0**15
    check_forward(case, forward(case, engine=engine)[0])


@pytest.mark.pairwise
@pytest.mark.parametrize("m", (256, 1024, 4096, 8192))
@pytest.mark.parametrize("dtype", TOLERANCE)
@CIRCLE
@ENGINES
def test_rows_are_independent(m, dtype, circle, engine):
    """A row's result does not change in any bit with a NaN, an Inf or a large value in another
    row."""
    m, mode = rows_of(m, circle)
    case = Case(9, 1, m, m, dtype, **mode)
    want, _ = forward(case, engine=engine)
    loud = case.u.copy()
    loud[1] = np.nan
    loud[3, 0, 5] = np.inf
    loud[5] = (wide(loud[5]) * 1e4).astype(loud.dtype)
    loud[7] = 0
    case.u = loud
    y = poisoned(loud)
    call(case, 0, {"y": y}, engine=engine)
    for row in (0, 2, 4, 6, 8):
        assert y[row].tobytes() == want[row].tobytes()
    assert not np.isfinite(wide(y[1])).any()
    assert not np.isfinite(wide(y[3])).all()
    assert not wide(y[7]).any()


@pytest.mark.pairwise
@pytest.mark.parametrize("m", (256, 2048, 4096))
@pytest.mark.parametrize("groups, per_batch", [(2, False), (1, False), (4, True), (2, True)])
@CIRCLE
@ENGINES
def test_shared_kernels(m, groups, per_batch, circle, engine):
    """Kernels may be shared by groups of channels, and may differ for each batch entry."""
    batch = 5
    kernels = (batch, groups) if per_batch else (groups,)
    m, mode = rows_of(m, circle)
    case = Case(batch, 4, m, m // 2, "float16", kernels=kernels, **mode)
    for prepared in (True, False):
        check_forward(case, forward(case, prepared=prepared, engine=engine)[0])


@CIRCLE
@pytest.mark.parametrize("m", (256, 512))
def test_impulses(m, circle):
    """Impulses at each place, with a tap at each lag, are convolved exactly enough to test every
    constant."""
    m, mode = rows_of(m, circle)
    case = Case(m, 1, m, m, "float32", **mode)
    case.u[...] = 0
    case.u[np.arange(m), 0, np.arange(m)] = 1
    case.k[...] = np.random.default_rng(2).standard_normal(m)
    y, _ = forward(case)
    t, s = np.mgrid[:m, :m]
    want = np.where((s >= t) | circle, wide(case.k)[0][s - t], 0)
    assert np.abs(wide(y)[:, 0] - want).max() < 1e-5


@pytest.mark.parametrize("m, dtype, fill, mode, options, activation, wide_k, prepared", CASES)
def test_backward(m, dtype, fill, mode, options, activation, wide_k, prepared):
    case = make(m, dtype, fill, mode, options, activation, k_float32=wide_k, seed=1)
    check_backward(case, backward(case, prepared=prepared, ask="right_angle"))


@pytest.mark.parametrize("m, dtype, circle, options, activation, wide_k, prepared", EVEN_ODD)
def test_backward_even_odd(m, dtype, circle, options, activation, wide_k, prepared):
    case = make_circle(m, dtype, circle, options, activation, k_float32=wide_k, seed=1)
    check_backward(case, backward(case, prepared=prepared, form="even_odd"))


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_backward_all(m, dtype, mode, activation):
    for i, options in enumerate(OPTIONS):
        m = min(m, LONGEST[dtype])
        case = make(m, dtype, (1, 0.77, 0.501)[i % 3], mode, options, activation)
        check_backward(case, backward(case))


@pytest.mark.pairwise
@pytest.mark.parametrize("activation", (None, "silu"))
@pytest.mark.parametrize(
    "needs",
    [
        tuple(n for i, n in enumerate(NEEDS) if bits >> i & 1)
        for bits in range(1, 64)
        if not bits & 4
    ],
)
@pytest.mark.parametrize("engine, circle", [("fused", False), ("fused", True), ("cufft", False)])
def test_needs(needs, activation, engine, circle):
    """Any choice of gradients gives the same bits as all of them together."""
    case = Case(
        3,
        2,
        500 if circle else 200,
        150,
        "float16",
        activation=activation,
        options=("in_gate", "out_gate", "skip", "mask"),
        **rows_of(256, circle)[1],
    )
    every = backward(case, engine=engine)
    for name, x in backward(case, needs, engine=engine).items():
        if activation is None and name in ("du", "din_gate", "dskip", "dk"):
            # Without dout_gate, g is not stored (and rounded) on its way, so the bits may differ.
            check_backward(case, {name: x})
        else:
            assert x.tobytes() == every[name].tobytes(), name


@pytest.mark.pairwise
@pytest.mark.parametrize(
    "batch, channels, blocks", [(1, 1, 1), (17, 1, 4), (33, 3, 100), (40, 2, 7)]
)
@pytest.mark.parametrize("m", (256, 1024, 4096))
@CIRCLE
def test_backward_rows_and_blocks(batch, channels, blocks, m, circle):
    """Sums over the batch give the same bits for any number of blocks."""
    batch = min(batch, 40960 // m)
    m, mode = rows_of(m, circle)
    case = Case(batch, channels, m - 5, 40, "float16", options=("out_gate", "skip"), **mode)
    got = backward(case, blocks=blocks)
    check_backward(case, got)
    again = backward(case, blocks=blocks + 3, seed=5)
    for name, x in got.items():
        assert x.tobytes() == again[name].tobytes(), name


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", ("causal", "two_sided", "circular"))
@pytest.mark.parametrize("m", (256, 2048))
@pytest.mark.parametrize("groups, per_batch", [(2, False), (1, False), (4, True), (2, True)])
def test_backward_shared_kernels(m, groups, per_batch, mode):
    batch = 5
    kernels = (batch, groups) if per_batch else (groups,)
    length, circle = rows_of(m, mode == "circular")
    case = Case(batch, 4, length, m // 2, "float32", kernels=kernels, **{"mode": mode, **circle})
    got = backward(case)
    for options in ({"prepared": False}, {"blocks": 5, "seed": 7}):
        again = backward(case, **options)
        for name, x in got.items():
            assert x.tobytes() == again[name].tobytes(), name
    check_backward(case, got)


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (256, 4096, 16384))
@CIRCLE
def test_backward_scales(dtype, m, circle):
    m, mode = rows_of(m, circle)
    for factor, dy_factor in ((1e-3, 1), (1e3, 1), (1, 1e-3), (1, 1e3)):
        case = Case(2, 1, m, m, dtype, k_dtype="float32", **mode)
        case.u = (wide(case.u) * factor).astype(case.u.dtype)
        case.dy = (wide(case.dy) * dy_factor).astype(case.dy.dtype)
        check_backward(case, backward(case))


@ENGINES
def test_backward_strides(engine):
    base = Case(
        2, 3, 509, 33, "float16", options=("in_gate", "out_gate", "skip"), activation="gelu"
    )
    want = backward(base, engine=engine)
    case = Case(
        2, 3, 509, 33, "float16", options=("in_gate", "out_gate", "skip"), activation="gelu"
    )

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    operands = {"u": case.u, "k": case.k, **case.operands}
    outputs = {
        "d" + n: turned(poisoned(x)) if x.ndim == 3 else poisoned(x) for n, x in operands.items()
    }
    case.u = turned(case.u)
    call(case, 1, outputs, dy=turned(case.dy), engine=engine)
    for name, x in outputs.items():
        assert np.array_equal(x, want[name]), name


@CIRCLE
def test_backward_rows_are_independent(circle):
    length, mode = rows_of(256, circle)
    case = Case(9, 1, length, length, "float16", options=("skip",), **mode)
    want = backward(case)
    case.u = case.u.copy()
    case.u[1] = np.nan
    case.dy[3, 0, 7] = np.inf
    operands = {"du": poisoned(case.u)}
    call(case, 1, operands, dy=case.dy)
    for row in (0, 2, 4, 5, 6, 7, 8):
        assert operands["du"][row].tobytes() == want["du"][row].tobytes()


@ENGINES
def test_taps_that_never_act(engine):
    """Taps beyond the row's length never act: their gradient is zero, and is written."""
    case = Case(2, 2, 300, 700, "float32", mode="two_sided", reverse=900)
    got = backward(case, engine=engine)
    assert not got["dk"][:, 300:].any() and not got["dk_rev"][:, 300:].any()
    check_backward(case, got)
