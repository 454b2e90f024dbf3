"""Mixed types in every call: the results' and gradients' types, and what is refused.

A converted operand holds the same numbers in another type.  So a call must give the same bits
as the call on operands converted beforehand, and that must agree with the reference.
"""

import tracemalloc

import fftconv
import numpy as np
import pytest
from fftconv import reference
from support import KERNEL_DTYPES, check_rows, norm, same_bits, wide

REALS = ("float64", "float32", "float16", "bfloat16")
SIXTEEN = ("float16", "bfloat16")
INTEGERS = ("int64", "int32", "int8", "uint8", "uint64", "bool")
BATCH, CHANNELS, LENGTH, TAPS = 2, 4, 60, 20

# (rows' dtypes, kernels' dtypes, the result's dtype)
RESULTS = [
    *((("float64",), (k,), "float64") for k in REALS),
    *((("float32",), (k,), "float32") for k in ("float32", *SIXTEEN)),
    (("float32",), ("float64",), "float64"),
    *(((u,), (k,), u) for u in SIXTEEN for k in ("float32", *SIXTEEN)),
    *(((u,), ("float64",), "float64") for u in SIXTEEN),
    *(((i,), (k,), "float64") for i in INTEGERS for k in ("float32", "float16", "int16")),
    *(((u,), (i,), "float64") for i in INTEGERS for u in ("float32", "float16")),
    (("float16", "float32"), ("float16",), "float32"),
    (("float32", "bfloat16"), ("float32",), "float32"),
    (("float16", "bfloat16"), ("float16",), "float32"),
    (("float16", "float16"), ("float32",), "float16"),
    (("float16", "float64"), ("float16",), "float64"),
    (("float16", "int32"), ("float16",), "float64"),
    (("bfloat16",), ("float32", "bfloat16"), "bfloat16"),
    (("bfloat16",), ("float16", "float32"), "bfloat16"),
    (("bfloat16",), ("float32", "float64"), "float64"),
    (("complex64",), ("float64",), "complex128"),
    (("complex64",), ("int8",), "complex128"),
    (("complex64",), ("float16", "float32"), "complex64"),
    (("bool", "complex64"), ("float32",), "complex128"),
    (("float16",), ("complex64",), "complex64"),
]


def numbers(rng, shape, dtype):
    """Random numbers that the dtype holds: small whole ones for integers."""
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    if dtype in INTEGERS or "int" in dtype:
        x = np.round(np.abs(x) if dtype.startswith("u") else x)
    return x.astype(dtype)


def operands(rows, kernels, seed=0):
    """Arguments of conv: u and in_gate of the rows' dtypes, k and skip of the kernels' dtypes."""
    rng = np.random.default_rng(seed)
    shapes = {
        "u": (BATCH, CHANNELS, LENGTH),
        "in_gate": (BATCH, CHANNELS, LENGTH),
        "k": (CHANNELS, TAPS),
        "skip": (CHANNELS,),
    }
    names = [*zip(("u", "in_gate"), rows), *zip(("k", "skip"), kernels)]
    return {name: numbers(rng, shapes[name], dtype) for name, dtype in names}


def converted(arguments, result):
    """The operands in the types that the result is computed with."""
    kernel = KERNEL_DTYPES.get(result, (result,))[-1]
    return {
        name: x.astype(result if name in ("u", "in_gate", "out_gate", "dy") else kernel)
        for name, x in arguments.items()
    }


def own_dtype(x):
    """The dtype of x's gradient."""
    return np.dtype("float64") if x.dtype.kind in "biu" else x.dtype


def check_gradients(got, want, arguments):
    """Each gradient is that of the converted operands, in its operand's own dtype."""
    for name, x in arguments.items():
        if name in ("dy", "mask"):
            continue
        a, b = getattr(got, "d" + name), getattr(want, "d" + name)
        assert a.dtype == own_dtype(x), name
        assert same_bits(a, (b if a.dtype.kind == "c" else b.real).astype(a.dtype)), name


def scale_of(arguments):
    taps = norm(arguments["k"]) + np.abs(wide(arguments.get("skip", np.zeros(1))))
    return taps * norm(wide(arguments["u"]) * wide(arguments.get("in_gate", np.ones(1))))


@pytest.mark.parametrize("rows,kernels,result", RESULTS, ids=str)
def test_conv(rows, kernels, result):
    arguments = operands(rows, kernels)
    y = fftconv.conv(**arguments)
    assert y.dtype == result
    check_rows("y", y, reference.conv(**arguments), scale_of(arguments), LENGTH)
    alike = converted(arguments, result)
    assert same_bits(y, fftconv.conv(**alike))
    out = np.full_like(y, np.nan)
    assert fftconv.conv(**arguments, out=out) is out and same_bits(out, y)
    dy = numbers(np.random.default_rng(1), y.shape, result)
    got = fftconv.conv_backward(dy, **arguments)
    check_gradients(got, fftconv.conv_backward(dy, **alike), arguments)


@pytest.mark.parametrize(
    "u,dy,result",
    [
        ("float32", "float64", "float64"),
        ("float16", "float32", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float32", "float16", "float32"),
        ("float32", "int64", "float64"),
        ("float64", "float32", "float64"),
        ("float32", "complex64", "complex64"),
        ("complex64", "float32", "complex64"),
    ],
)
def test_dy_takes_part(u, dy, result):
    arguments = operands((u,), ("float32",))
    dy = numbers(np.random.default_rng(1), arguments["u"].shape, dy)
    alike = converted({**arguments, "dy": dy}, result)
    got = fftconv.conv_backward(dy, **arguments)
    check_gradients(got, fftconv.conv_backward(**alike), arguments)


@pytest.mark.parametrize("name", ["mask", "skip"])
@pytest.mark.parametrize("u", [*REALS, "complex64"])
def test_booleans(name, u):
    """Booleans as a mask do not widen the result; as any other operand they are float64."""
    arguments = operands((u,), (u,))
    shape = (BATCH, CHANNELS) if name == "mask" else (CHANNELS,)
    arguments[name] = np.arange(np.prod(shape)).reshape(shape) % 3 > 0
    y = fftconv.conv(**arguments)
    usual = np.dtype(u) if name == "mask" else np.result_type(wide(arguments["u"]))
    assert y.dtype == usual
    kernel = {"float16": "float32", "bfloat16": "float32", "complex64": "float32"}.get(u, u)
    alike = {**arguments, name: arguments[name].astype(kernel if name == "mask" else "float64")}
    assert same_bits(y, fftconv.conv(**alike))
    dy = numbers(np.random.default_rng(1), y.shape, y.dtype.name)
    got, want = fftconv.conv_backward(dy, **arguments), fftconv.conv_backward(dy, **alike)
    assert all(same_bits(a, b) for a, b in zip(got, want))


def test_lists_take_the_type_beside_them():
    """A list as any one operand, u too, takes the type of the others; lists alone are float64."""
    u, k, gate = [[1, 2, 3]], [[1, -1]], [[0.5, 1, 2]]
    for dtype in (*REALS, "complex64"):
        arrays = {"u": np.array(u), "k": np.array(k), "in_gate": np.array(gate)}
        arrays = {name: x.astype(dtype) for name, x in arrays.items()}
        want = fftconv.conv(**arrays)
        for name, x in {"u": u, "k": k, "in_gate": gate}.items():
            y = fftconv.conv(**{**arrays, name: x})
            assert y.dtype == dtype and np.allclose(wide(y), wide(want), atol=1e-2)
            g = fftconv.conv_backward(want, **{**arrays, name: x})
            assert {a.dtype for a in (g.du, g.din_gate)} == {np.dtype(dtype)}
        y = fftconv.conv(**arrays, skip=2, mask=[[True]])
        assert y.dtype == dtype
    assert fftconv.conv(u, k).dtype == np.float64
    assert fftconv.conv(u, [[1j, 1]]).dtype == np.complex128
    assert fftconv.conv(np.float32(u), [[1j, 1]]).dtype == np.complex64
    assert fftconv.conv(u, np.float32(k)).dtype == np.float32
    assert fftconv.conv(u, [[2**70, 1]])[0, 0] == pytest.approx(2.0**70)
    g = fftconv.conv_backward([[1, 1, 1]], u, np.float32(k))
    assert g.du.dtype == g.dk.dtype == np.float32


@pytest.mark.parametrize("rows,kernels,result", RESULTS, ids=str)
def test_conv_matrix(rows, kernels, result):
    if len(rows) + len(kernels) > 2:
        return  # conv_matrix has no gates
    rng = np.random.default_rng(0)
    u, k = numbers(rng, (2, 3, LENGTH), rows[0]), numbers(rng, (4, 3, TAPS), kernels[0])
    alike = converted({"u": u, "k": k}, result)
    y = fftconv.conv_matrix(u, k)
    assert y.dtype == result and same_bits(y, fftconv.conv_matrix(**alike))
    pairs = [(np.repeat(wide(u[:, i : i + 1]), 4, axis=1), wide(k[:, i])) for i in range(3)]
    want = sum(reference.conv(*pair) for pair in pairs)
    check_rows("y", y, want, sum(norm(k) * norm(u) for u, k in pairs), LENGTH)
    dy = numbers(rng, y.shape, result)
    got = fftconv.conv_matrix_backward(dy, u, k)
    check_gradients(got, fftconv.conv_matrix_backward(dy, **alike), {"u": u, "k": k})
    if np.dtype(result).itemsize < 8:
        dy = dy.astype(np.float64)
        got = fftconv.conv_matrix_backward(dy, u, k)
        alike = {name: x.astype(np.float64) for name, x in alike.items()}
        check_gradients(got, fftconv.conv_matrix_backward(dy, **alike), {"u": u, "k": k})


@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize(
    "rows,kernels,result",
    [case for case in RESULTS if "complex" not in str(case) and len(case[0] + case[1]) == 2],
    ids=str,
)
def test_fftconv_func(rows, kernels, result, head_dim):
    """fftconv_func, its backward with dout of several types, and k of each dtype are right."""
    rng = np.random.default_rng(0)
    shape, groups = (2, 4, LENGTH), 4 // head_dim
    u, v = numbers(rng, shape, rows[0]), numbers(rng, shape, rows[0])
    q, k = numbers(rng, shape, result), numbers(rng, (groups, TAPS), kernels[0])
    D = numbers(rng, (groups,), "float16")
    mask = rng.random((2, 4)) < 0.5
    options = dict(gelu=False, head_dim=head_dim)

    def call(u, k, D, v, q):
        return fftconv.hyena.fftconv_func(u, k, D, mask, v=v, q=q, **options)

    # The types of u and k decide the result's: q has that type already.
    alike = converted({"u": u, "v": v, "q": q}, result) | {"k": k, "D": D}
    alike = {
        n: x.astype(result if n in "uvq" else own_dtype_of_kernel(result)) for n, x in alike.items()
    }
    y = call(u, k, D, v, q)
    assert y.dtype == result and same_bits(y, call(**alike))
    want = reference.conv_heads(
        wide(u), wide(v), wide(q), wide(k), head_dim, skip=wide(D), mask=mask[:, :groups] * 1.0
    )
    error = np.linalg.norm(wide(y) - want) / np.linalg.norm(want)
    assert error < {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[result]

    def backward(dout, u, k, D, v, q):
        return fftconv.hyena.fftconv_func_backward(dout, u, k, D, mask, v=v, q=q, **options)

    for dtype in {result, "float16", "float32"}:
        dout = numbers(rng, shape, dtype)
        got = backward(dout, u, k, D, v, q)
        given = {"u": u, "k": k, "D": D, "v": v, "q": q}
        # With arithmetic in float32, dout is read without a conversion.
        d = dout.astype(result) if result == "float64" else dout
        check_gradients(got, backward(d, **alike), given)


def own_dtype_of_kernel(result):
    return KERNEL_DTYPES[result][-1]


@pytest.mark.parametrize("dout", ["float32", "float64"])
@pytest.mark.parametrize("filter", ["complex64", "complex128", "float32"])
@pytest.mark.parametrize("u", REALS)
def test_fftconv_fwd(u, filter, dout):
    """A filter in complex128, or dout in float64, makes the whole call float64; real bins are those
    of an even kernel."""
    rng = np.random.default_rng(0)
    shape = (2, 2, LENGTH)
    rows = numbers(rng, shape, u)
    bins = np.fft.rfft(rng.standard_normal((2, 2 * LENGTH)))
    bins = (bins.real if filter == "float32" else bins).astype(filter)
    result = "float64" if filter == "complex128" else u
    y = fftconv.hyena.fftconv_fwd(rows, bins, None, gelu=False)
    full = np.complex128 if result == "float64" else np.complex64
    assert y.dtype == result
    alike = rows.astype(result), bins.astype(full)
    assert same_bits(y, fftconv.hyena.fftconv_fwd(*alike, None, gelu=False))
    want = np.fft.irfft(np.fft.rfft(wide(rows), 2 * LENGTH) * bins)[..., :LENGTH]
    error = np.linalg.norm(wide(y) - want) / np.linalg.norm(want)
    assert error < {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[result]
    d = numbers(rng, shape, dout)
    g = fftconv.hyena.fftconv_bwd(d, rows, bins, None, gelu=False)
    assert g.du.dtype == rows.dtype and g.dfilter.dtype == bins.dtype
    if dout == "float64":
        alike = rows.astype(dout), bins.astype(complex)
    want = fftconv.hyena.fftconv_bwd(d, *alike, None, gelu=False)
    assert same_bits(g.du, want.du.astype(rows.dtype))
    dfilter = want.dfilter.real if filter == "float32" else want.dfilter
    assert same_bits(g.dfilter, dfilter.astype(bins.dtype))


@pytest.mark.parametrize("rows,kernels,result", RESULTS, ids=str)
def test_fft_conv(rows, kernels, result):
    """fft_conv computes in the widest precision (in 16 bits only where both operands have the same
    type) and returns the real part or the complex result."""
    rng = np.random.default_rng(0)
    x, k = numbers(rng, (2, LENGTH, 3), rows[0]), numbers(rng, (TAPS, 3), kernels[0])
    single = result in SIXTEEN and rows[0] != kernels[0]
    result = (
        "float32"
        if single
        else {"complex64": "float32", "complex128": "float64"}.get(result, result)
    )
    if len(rows) + len(kernels) > 2:
        return
    y = fftconv.lrnnx.fft_conv("bln,ln->bln", x, k)
    assert y.dtype == result
    want = reference.conv(wide(x).swapaxes(1, 2), wide(k).T).swapaxes(1, 2).real
    error = np.linalg.norm(wide(y) - want) / np.linalg.norm(want)
    assert error < {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[result]
    whole = fftconv.lrnnx.fft_conv("bln,ln->bln", x, k, real=False)
    assert whole.dtype == np.result_type(np.complex64, "f8" if result == "float64" else "f4")


def test_state_spaces_and_short_convolutions():
    """Calls whose operands need not agree in type take integers as float64 too."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 12, 3))
    K, B, C = (rng.integers(-3, 4, shape) for shape in ((12, 5), (5, 3), (4, 5)))
    y = fftconv.lrnnx.opt_ssm_forward(x, K, B, C)
    exact = [a.astype(float) for a in (x, K, B, C)]
    assert y.dtype == np.float64 and same_bits(y, fftconv.lrnnx.opt_ssm_forward(*exact))
    g = fftconv.lrnnx.opt_ssm_backward(y, x, K, B, C)
    want = fftconv.lrnnx.opt_ssm_backward(y, *exact)
    assert all(same_bits(a, b) for a, b in zip(g, want))
    half = [a.astype("float32") for a in (x, K, B)]
    y = fftconv.lrnnx.opt_ssm_forward(*half, C.tolist())
    assert y.dtype == np.float32

    weight = rng.integers(-3, 4, (12, 3)) > 0
    y = fftconv.depthwise_conv1d(x, weight, padding="causal")
    assert y.dtype == np.float64
    assert same_bits(y, fftconv.depthwise_conv1d(exact[0], weight * 1.0, padding="causal"))
    g = fftconv.depthwise_conv1d_backward(x, x, weight, padding="causal")
    assert g.dx.dtype == g.dweight.dtype == np.float64

    layer = fftconv.lrnnx.FFTConvS4(12, kernel="s4d", seed=0)
    assert same_bits(layer(x)[0], layer(exact[0])[0])
    A, b = np.array([[-1, -2]]), np.ones((1, 1, 2), int)
    k = fftconv.ssm.ssm_kernel(A, b, b, 6)
    assert same_bits(k, fftconv.ssm.ssm_kernel(A * 1.0, b * 1.0, b * 1.0, 6))
    ones = np.ones(k.shape, int)
    g = fftconv.ssm.ssm_kernel_backward(ones, A, b, b)
    assert same_bits(g.dA, fftconv.ssm.ssm_kernel_backward(ones * 1.0, A, b, b).dA)


# ---- Where the type is fixed ----------------------------------------------------

# The dtypes that a plan of each dtype takes for rows; for kernels of 16-bit plans, those of
# float32.
FIXED = {
    "float64": (*REALS, *INTEGERS),
    "float32": ("float32", *SIXTEEN),
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "complex128": (*REALS, *INTEGERS, "complex64", "complex128"),
    "complex64": ("complex64", "float32", *SIXTEEN),
}
EVERY = (*REALS, *INTEGERS, "complex64", "complex128")


@pytest.mark.parametrize("dtype", FIXED)
@pytest.mark.parametrize("name", ["u", "k", "in_gate", "skip", "mask", "dy"])
def test_plans(dtype, name):
    """A narrower type that loses no digits is converted; a wider one is refused, and nothing is
    written."""
    real = {"complex128": "float64", "complex64": "float32"}.get(dtype, dtype)
    base = operands((dtype, dtype), (real, real))
    base["dy"] = numbers(np.random.default_rng(1), base["u"].shape, dtype)
    base["mask"] = numbers(np.random.default_rng(2), (BATCH, CHANNELS), real)
    plan = fftconv.Plan(base["u"].shape, base["k"].shape, dtype=dtype)
    is_row = name in ("u", "in_gate", "dy")
    allowed = FIXED[dtype] if is_row or dtype not in SIXTEEN else FIXED["float32"]
    for other in EVERY:
        arguments = {**base, name: numbers(np.random.default_rng(3), base[name].shape, other)}
        dy = arguments.pop("dy")
        takes = other in allowed or name == "mask" and other == "bool"
        if name == "mask" and other.startswith("complex"):
            takes = False
        out = np.full(base["u"].shape, 7, base["u"].dtype)

        options = dict(skip=arguments["skip"], mask=arguments["mask"])
        u, k, gate = arguments["u"], arguments["k"], arguments["in_gate"]
        if not takes:
            with pytest.raises(ValueError, match=f"^{name} has dtype "):
                plan.backward(dy, u, k, gate, **options)
            if name != "dy":
                with pytest.raises(ValueError, match=f"^{name} has dtype "):
                    plan(u, k, gate, out=out, **options)
            assert np.all(out == 7)
            continue
        kernel = KERNEL_DTYPES.get(dtype, (dtype,))
        to = dtype if is_row else kernel[-1]
        if name == "mask" and dtype not in REALS:
            to = real
        given = arguments[name] if name != "dy" else dy
        if is_row or given.dtype.name not in kernel:
            given = given.astype(to)
        a = {"dy": dy, "u": u, "k": k, "in_gate": gate, **options, name: given}
        rows, numbers_of = (a["u"], a["k"], a["in_gate"]), dict(skip=a["skip"], mask=a["mask"])
        y = plan(u, k, gate, **options)
        assert y.dtype == dtype and same_bits(y, plan(*rows, **numbers_of))
        if name == "k":
            assert same_bits(y, plan(u, plan.spectrum(k), gate, **options))
        got = plan.backward(dy, u, k, gate, **options)
        want = plan.backward(a["dy"], *rows, **numbers_of)
        check_gradients(got, want, {"u": u, "k": k, "in_gate": gate, "skip": options["skip"]})


def test_what_a_refusal_says():
    plan = fftconv.Plan((2, 3, 8), (3, 8))
    u, k = np.ones((2, 3, 8), np.float32), np.ones((3, 8), np.float32)
    with pytest.raises(
        ValueError,
        match="^u has dtype int64, that is float64; this plan is for float32; "
        "allowed: float32, float16, bfloat16$",
    ):
        plan(u.astype(int), k)
    half = fftconv.Plan((2, 3, 8), (3, 8), dtype="float16")
    with pytest.raises(
        ValueError,
        match="^k has dtype float64; this plan is for float16; "
        "allowed: float16, float32, bfloat16$",
    ):
        half.spectrum(k.astype(float))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_streams(dtype):
    rng = np.random.default_rng(0)
    k = numbers(rng, (3, 5), "float16")
    stream = fftconv.Stream(k, dtype=dtype, skip=[1, 2, 3])
    for other in EVERY:
        u = numbers(rng, (1, 3, 7), other)
        stream.reset()
        if other in FIXED[dtype]:
            y = stream.push(u, mask=[[True, False, True]])
            stream.reset()
            assert y.dtype == dtype
            assert same_bits(y, stream.push(u.astype(dtype), mask=[[1, 0, 1]]))
        else:
            with pytest.raises(ValueError, match=f"^u has dtype .*this stream is for {dtype}"):
                stream.push(u)
            assert not stream.history.any()
    with pytest.raises(ValueError, match="k has dtype complex64; this plan is for"):
        fftconv.Stream(k.astype("complex64"), dtype=dtype)
    assert fftconv.Stream(np.ones((3, 5), int)).push(np.ones((3, 2), int)).dtype == np.float64


def modules(dtype):
    """(module called on u, its backward) for modules of a fixed dtype."""
    mixer = fftconv.FFTConv(3, 8, precision=dtype)
    flash = fftconv.flash.FlashFFTConv(16, dtype)
    k = np.linspace(-1, 1, 24).reshape(3, 8).astype("float16")
    return [
        (mixer, lambda d, u: mixer.backward(d, u)),
        (lambda u: flash(u, k), lambda d, u: flash.backward(d, u, k)),
        (lambda u: flash(u, k, u, pregate=None), lambda d, u: flash.backward(d, u, k, u)),
    ]


@pytest.mark.parametrize("dtype", REALS)
def test_modules(dtype):
    rng = np.random.default_rng(0)
    for forward, backward in modules(dtype):
        for other in EVERY:
            u = numbers(rng, (2, 3, 8), other)
            if other in FIXED[dtype]:
                y = forward(u)
                assert y.dtype == dtype and same_bits(y, forward(u.astype(dtype)))
                g, want = backward(u, u), backward(u.astype(dtype), u.astype(dtype))
                assert g.du.dtype == own_dtype(u)
                assert same_bits(g.du, want.du.astype(g.du.dtype)) and same_bits(g.dk, want.dk)
            else:
                with pytest.raises(ValueError, match="u has dtype .* this F"):
                    forward(u)
                with pytest.raises(ValueError, match="dy has dtype .* this F"):
                    backward(u, np.ones((2, 3, 8), dtype))
    flash = fftconv.flash.FlashFFTConv(16, "float16")
    u, k = np.ones((2, 3, 8), "float16"), np.ones((3, 8))
    with pytest.raises(ValueError, match="k has dtype float64; this FlashFFTConv is for float16"):
        flash(u, k)
    y = flash(u.tolist(), np.float32(k), u.tolist())
    assert y.dtype == np.float16


def test_nothing_is_copied_in_vain():
    """A call of operands of the same type takes no memory beyond y and a workspace of one row."""
    u = np.ones((64, 8, 4096), np.float32)
    k, gate = np.ones((8, 4096), np.float32), np.ones((64, 8, 4096), np.float32)
    half, mask = u.astype(np.float16), np.ones((64, 8), bool)
    for call in (
        lambda: fftconv.conv(u, k, gate, threads=1),
        lambda: fftconv.conv(half, k, half, mask=mask, threads=1),
        lambda: fftconv.conv_matrix(u[:1], k[:, None, :16] + np.zeros((8, 8, 1), "f4")),
    ):
        call()
        tracemalloc.start()
        y = call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < y.nbytes + (2 << 20), peak
