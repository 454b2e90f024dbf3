"""Complex rows and kernels, forward and backward."""

import fftconv
import numpy as np
import pytest
from fftconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import COMPLEX, Case, check_forward, check_gradients, same_bits, wide

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")
MODES = ["causal", "circular", "two_sided"]
# (B, H, L, Lk)
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 1, 4),
    (1, 2, 2, 2),
    (2, 2, 7, 5),
    (2, 3, 64, 64),
    (2, 2, 67, 67),
    (1, 3, 256, 256),
    (2, 2, 499, 20),
    (1, 2, 1000, 1000),
    (2, 1, 1024, 1024),
    (1, 2, 4099, 4099),
    (1, 1, 20000, 30),
    (1, 1, 16384, 16384),
]


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
def test_conv(shape, mode, dtype):
    *rows, taps = shape
    if mode == "circular":
        taps = min(taps, rows[-1])
    for options in ((), ALL):
        case = Case(*rows, taps, dtype, mode=mode, options=options)
        y = fftconv.conv(case.u, case.k, **case.arguments)
        assert y.dtype == case.u.dtype
        check_forward(case, y)
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("fft_size", [50, 64, 97, 105, 128, 300])
@pytest.mark.parametrize("dtype", COMPLEX)
def test_circular(dtype, fft_size):
    for taps in (1, 30, fft_size):
        case = Case(2, 2, 50, taps, dtype, mode="circular", fft_size=fft_size, options=ALL)
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.pairwise
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_path(isa, mode, dtype, dense):
    for length in (2, 96, 360, 1024):
        case = Case(2, 3, length, length, dtype, mode=mode, options=ALL)
        plan = case.plan(isa=isa, dense=dense)
        assert plan.isa == isa and plan.dtype == dtype
        assert plan.form == "complex"
        spectrum = plan.spectrum(case.k, case.k_rev)
        for kernel, more in ((spectrum, case.plan_arguments), (case.k, case.kernel_arguments)):
            check_forward(case, plan(case.u, kernel, **more))
            check_gradients(case, plan.backward(case.dy, case.u, kernel, **more))


@pytest.mark.parametrize(
    "radices", [(16, 16, 8), (64, 32), (9, 15, 16), (2,) * 11, (128, 16)], ids=str
)
@pytest.mark.parametrize("mode", MODES)
def test_radices(mode, radices):
    n = int(np.prod(radices))
    length = n if mode == "circular" else n // 3
    case = Case(2, 2, length, length, "complex64", mode=mode, options=ALL)
    plan = case.plan(radices=radices)
    assert plan.radices == radices
    check_forward(case, plan(case.u, case.k, **case.kernel_arguments))
    check_gradients(case, plan.backward(case.dy, case.u, case.k, **case.kernel_arguments))


# (dtypes of u, k and the result), which has the widest type among u and k.
PROMOTION = [
    ("float16", "complex64", "complex64"),
    ("bfloat16", "complex64", "complex64"),
    ("float32", "complex64", "complex64"),
    ("float32", "complex128", "complex128"),
    ("float64", "complex64", "complex128"),
    ("float64", "complex128", "complex128"),
    ("complex64", "float16", "complex64"),
    ("complex64", "bfloat16", "complex64"),
    ("complex64", "float32", "complex64"),
    ("complex64", "float64", "complex128"),
    ("complex64", "complex128", "complex128"),
    ("complex128", "float32", "complex128"),
    ("complex128", "complex64", "complex128"),
]


@pytest.mark.parametrize("u,k,y", PROMOTION, ids=lambda t: t)
@pytest.mark.parametrize("mode", MODES)
def test_promotion(mode, u, k, y):
    """The result has the promoted type, and each gradient its operand's own: real for a real
    one."""
    case = Case(2, 4, 100, 60, u, k_dtype=k, mode=mode, kernels=(2,), options=ALL)
    got = fftconv.conv(case.u, case.k, **case.arguments)
    assert got.dtype == y
    # dy has y's type: it is complex.
    case.dy = Case(2, 4, 100, 60, y, seed=1).dy
    check_forward(case, got)
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("which", ["u", "k", "in_gate", "out_gate", "skip", "k_rev"])
def test_one_complex_operand(which):
    """One complex operand makes y complex, and the other operands keep real gradients."""
    case = Case(2, 3, 80, 70, "float32", mode="two_sided", options=ALL)
    rng = np.random.default_rng(5)
    case.dy = (case.dy + 1j * rng.standard_normal(case.dy.shape)).astype("complex64")
    x = getattr(case, which, case.operands.get(which))
    x = (x + 1j * rng.standard_normal(x.shape) * np.std(x)).astype("complex64")
    if which in case.operands:
        case.operands[which] = x
    else:
        setattr(case, which, x)
    y = fftconv.conv(case.u, case.k, **case.arguments)
    assert y.dtype == "complex64"
    check_forward(case, y)
    got = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    check_gradients(case, got)
    for name, gradient in got._asdict().items():
        assert (gradient.dtype.kind == "c") == (name == "d" + which)


def test_real_is_the_real_part():
    """Real operands give the same result in a complex plan as in a real one, with no imaginary part
    beyond rounding."""
    case = Case(2, 3, 200, 100, "float64", options=ALL)
    want = reference.conv(case.u, case.k, **case.arguments)
    y = fftconv.conv(case.u.astype(complex), case.k, **case.arguments)
    check_forward(case, np.ascontiguousarray(y.real), want)
    assert np.abs(y.imag).max() < 1e-12


def test_parts():
    """A complex convolution (a + ib) * (c + id) equals four real ones combined."""
    case = Case(2, 3, 200, 200, "complex128")
    u, k = case.u, case.k
    want = (
        fftconv.conv(u.real, k.real)
        - fftconv.conv(u.imag, k.imag)
        + 1j * (fftconv.conv(u.real, k.imag) + fftconv.conv(u.imag, k.real))
    )
    check_forward(case, fftconv.conv(u, k), want)


@pytest.mark.parametrize("kernels", [(), (2,), (1, 4), (3, 1), (3, 2), (3, 4)], ids=str)
def test_kernel_shapes(kernels):
    case = Case(3, 4, 130, 130, "complex64", kernels=kernels, options=ALL)
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("mode", MODES)
def test_in_place_and_threads(mode, dtype):
    for shape in ((3, 5, 300, 300), (1, 1, 1 << 15, 1 << 15)):
        case = Case(*shape, dtype, mode=mode, options=ALL)
        want = None
        for threads in (1, 2, 7):
            u = case.u.copy()
            got = [
                fftconv.conv(case.u, case.k, **case.arguments, threads=threads),
                fftconv.conv(u, case.k, **case.arguments, threads=threads, out=u),
                *fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments, threads=threads),
            ]
            assert got[1] is u and same_bits(u, got[0])
            want = want or got
            for a, b in zip(got, want):
                assert same_bits(a, b), threads


def test_rows_are_independent():
    case = Case(3, 2, 500, 500, "complex64")
    want = fftconv.conv(case.u, case.k)
    u = case.u.copy()
    u[0] = np.nan
    u[1, 0, 3] = np.inf * 1j
    y = fftconv.conv(u, case.k)
    assert same_bits(y[2], want[2]) and same_bits(y[1, 1], want[1, 1])
    assert not np.isfinite(y[0]).any(-1).all()


@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_primitives(mode):
    for radices in ((4,), (6, 10), (16, 16), (10, 100)):
        length = int(np.prod(radices)) // (2 if mode == "causal" else 1)
        case = Case(2, 3, length, length, "complex64", mode=mode)
        plan = case.plan(single_block=True, radices=radices)
        spectra = plan.rows_to_spectra(case.u)
        s = plan.multiply(plan.spectrum(case.k), spectra)
        check_forward(case, plan.spectra_to_rows(s))
        natural = plan.natural(spectra)
        want = np.fft.fft(wide(case.u), plan.transform_length)
        assert natural.shape == want.shape
        assert np.abs(natural - want).max() <= 1e-5 * np.abs(want).max()


def test_lists_and_numbers():
    y = fftconv.conv([1, 2j, 3], [1, 1])
    assert y.dtype == np.complex128
    assert np.allclose(y, [1, 1 + 2j, 3 + 2j], rtol=0, atol=1e-14)
    u = np.array([1, 2, 3], np.float32)
    y = fftconv.conv(u, [1j, 1], skip=2)
    assert y.dtype == np.complex64
    assert np.allclose(y, [2 + 1j, 5 + 2j, 8 + 3j], rtol=0, atol=1e-5)


def test_plans_promote_too():
    """A complex plan takes real operands that lose no digits in its type."""
    case = Case(2, 3, 60, 60, "float32", options=ALL)
    plan = case.plan(dtype="complex64")
    y = plan(case.u, plan.spectrum(case.k), **case.plan_arguments)
    assert y.dtype == np.complex64
    check_forward(case, np.ascontiguousarray(y.real))
    for kernel in (case.k, plan.spectrum(case.k)):
        check_gradients(case, plan.backward(case.dy, case.u, kernel, **case.plan_arguments))
    for name in ("u", "k"):
        at = {"u": case.u, "k": case.k}
        at[name] = at[name].astype(np.float64)
        with pytest.raises(ValueError, match=f"{name} has dtype float64.*allowed: complex64, "):
            plan(at["u"], at["k"])


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(MODES),
    st.sampled_from(COMPLEX),
    st.sets(st.sampled_from(ALL)),
    st.integers(0, 99),
)
def test_anything(length, taps, mode, dtype, options, seed):
    fft_size = max(length, taps) + seed if mode == "circular" else None
    case = Case(2, 2, length, taps, dtype, mode=mode, fft_size=fft_size, options=options, seed=seed)
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("dtype", COMPLEX)
def test_torch(dtype):
    """Tensors give tensors, also where they are views with torch's conjugate bit set."""
    torch = pytest.importorskip("torch")
    case = Case(2, 3, 60, 40, dtype, options=("in_gate",))
    u, k, w, dy = map(torch.from_numpy, (case.u, case.k, case.operands["in_gate"], case.dy))
    want = fftconv.conv(case.u, case.k, **case.arguments)
    y = fftconv.conv(u, k, w)
    assert y.dtype == u.dtype and same_bits(y.numpy(), want)
    assert same_bits(fftconv.conv(u.conj().resolve_conj().conj(), k, w).numpy(), want)
    g = fftconv.conv_backward(dy, u, k.real.contiguous(), w)
    assert not g.dk.is_complex() and g.du.is_complex()
