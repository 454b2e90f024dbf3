"""Bad input, from Python: a ValueError that names the argument, its value and
what is allowed, before anything is written."""

import numpy as np
import pytest

import fftconv

U = np.ones((2, 3, 40), np.float32)
K = np.ones((3, 40), np.float32)

# (changed arguments of conv, what the message must say)
BAD = [
    (dict(u=U.astype(np.int64)), r"u has dtype int64; allowed: float64.*Cast"),
    (dict(u=U.astype(bool)), r"u has dtype bool"),
    (dict(u=U.astype(np.complex64)), r"u has dtype complex64"),
    (dict(u=np.array(["a"])), r"u has dtype"),
    (dict(u="text"), r"u has dtype"),
    (dict(u=None), r"u has dtype object"),
    (dict(in_gate=np.ma.masked_less(U, 0)), r"in_gate is a masked array"),
    (dict(u=["a", "b"]), r"u cannot be made an array"),
    (dict(u=[[1, 2], [3]]), r"u cannot be made an array"),
    (dict(u=np.ones((1, 2, 3, 4), np.float32)), r"u has 4 axes"),
    (dict(u=np.float32(1)), r"u has 0 axes"),
    (dict(u=U[:0]), r"u has shape \(0, 3, 40\)"),
    (dict(u=U[..., :0]), r"u has shape \(2, 3, 0\)"),
    (dict(k=K[:2]), r"k has shape \(2, 40\).*H = 3"),
    (dict(k=K[0]), r"k has shape \(40,\).*H = 3"),
    (dict(k=K[:, :0]), r"k has shape \(3, 0\).*Lk at least 1"),
    (dict(k=np.ones((2, 3, 40), np.float32)), r"k has shape \(2, 3, 40\)"),
    (dict(k=K.astype(np.float64)), r"k has dtype float64, and u has float32; "
                                   r"allowed: float32"),
    (dict(k=K.astype(np.float16)), r"k has dtype float16"),
    (dict(k=K.astype(np.int32)), r"k has dtype int32"),
    (dict(u=U.astype(np.float16), k=K.astype(np.float64)),
     r"k has dtype float64.*allowed: float16, float32"),
    (dict(u=U.astype(np.float64), k=K), r"k has dtype float32.*float64"),
    (dict(in_gate=U[:, :2]), r"in_gate has shape \(2, 2, 40\).*\(2, 3, 40\)"),
    (dict(out_gate=U[..., :39]), r"out_gate has shape \(2, 3, 39\)"),
    (dict(in_gate=U[None]), r"in_gate has shape"),
    (dict(in_gate=U.astype(np.float16)), r"in_gate has dtype float16.*float32"),
    (dict(out_gate=U.astype(int)), r"out_gate has dtype"),
    (dict(skip=np.ones(2, np.float32)), r"skip has shape \(2,\).*\(3,\)"),
    (dict(skip=np.ones((3, 1), np.float32)), r"skip has shape \(3, 1\)"),
    (dict(skip=np.ones(3)), r"skip has dtype float64"),
    (dict(mask=np.ones((3, 2), np.float32)), r"mask has shape \(3, 2\)"),
    (dict(mask=np.ones((2, 3), bool)), r"mask has dtype bool"),
    (dict(mode="valid"), r"mode is 'valid'; allowed: 'causal', 'circular'"),
    (dict(mode=None), r"mode is None"),
    (dict(mode=["causal"]), r"mode is \['causal'\]"),
    (dict(activation="relu"), r"activation is 'relu'; allowed:.*'gelu'"),
    (dict(layout="HBL"), r"layout is 'HBL'; allowed: 'BHL', 'BLH'"),
    (dict(threads=0), r"threads is 0"),
    (dict(threads=-1), r"threads is -1"),
    (dict(threads=1.5), r"threads is 1.5"),
    (dict(threads=2 ** 32 + 1), r"threads is 4294967297"),
    (dict(threads=100000), r"threads is 100000"),
    (dict(fft_size=64), r"fft_size is 64.*causal"),
    (dict(mode="circular", fft_size=39), r"fft_size.*39"),
    (dict(mode="circular", fft_size=0), r"fft_size is 0"),
    (dict(mode="circular", fft_size=-64), r"fft_size is -64"),
    (dict(mode="circular", fft_size=64.0), r"fft_size is 64.0"),
    (dict(mode="circular", fft_size=2 ** 64 + 64), r"fft_size is 18446744"),
    (dict(mode="circular", k=np.ones((3, 41), np.float32)),
     r"kernel_length is 41.*fft_size.*40"),
]


@pytest.mark.parametrize("arguments,message", BAD,
                         ids=[m[:40] for _, m in BAD])
def test_conv(arguments, message):
    out = np.full_like(U, 7)
    arguments = {"u": U, "k": K, **arguments}
    with pytest.raises(ValueError, match=message):
        fftconv.conv(**arguments, out=out)
    assert np.all(out == 7), "written to"
    with pytest.raises(ValueError, match=message):
        fftconv.conv_backward(U, **arguments)


@pytest.mark.parametrize("dy,message", [
    (U[:1], r"dy has shape \(1, 3, 40\)"), (U.astype(int), "dy has dtype"),
    (U.astype(np.float64), "dy has dtype float64"), (None, "dy has dtype")])
def test_dy(dy, message):
    with pytest.raises(ValueError, match=message):
        fftconv.conv_backward(dy, U, K)


@pytest.mark.parametrize("needs", ["in_gate", ("u", "skip"), ("du",), "mask",
                                   (1,)])
def test_needs(needs):
    with pytest.raises(ValueError, match="needs names .*allowed here: 'u', 'k'"):
        fftconv.conv_backward(U, U, K, needs=needs)


PLANS = [
    (dict(u_shape=(2, 3)), r"k_shape has shape.*H = 2"),
    (dict(u_shape=(1, 2, 3, 4)), r"u_shape has 4 axes"),
    (dict(u_shape=()), r"u_shape has 0 axes"),
    (dict(u_shape=40), r"u_shape is 40"),
    (dict(u_shape=(2, 3, 0)), r"u_shape is 0; it must be from 1"),
    (dict(u_shape=(2, 3, -1)), r"u_shape is -1"),
    (dict(u_shape=(2, 3, 1.5)), r"u_shape is 1.5"),
    (dict(u_shape=(2, 3, 2 ** 63)), r"u_shape is 9223372036854775808"),
    (dict(u_shape=(2 ** 40, 3, 2 ** 40)), r"batch"),
    (dict(u_shape=(2, 3, 2 ** 62)), r"length is 4611686018427387904"),
    (dict(k_shape=(4, 40)), r"k_shape has shape \(4, 40\)"),
    (dict(k_shape=(3, 2 ** 62)), r"kernel_length"),
    (dict(dtype="float8"), r"dtype is 'float8'; allowed: float64"),
    (dict(dtype=None), r"dtype is None"),
    (dict(dtype=np.int32), r"dtype is <class 'numpy.int32'>"),
    (dict(dtype="torch.int8"), r"dtype is 'torch.int8'"),
    (dict(radices=()), r"radices is empty"),
    (dict(radices=(8, 0)), r"radices is 0"),
    (dict(radices=(8, -8)), r"radices is -8"),
    (dict(radices=(256,)), r"radices\[0\] is 256.*128"),
    (dict(radices=(2, 2 ** 32 + 2)), r"radices\[1\] is 4294967298"),
    (dict(radices=(2, 2)), r"radices.*product.* 4.*at least 40"),
    (dict(radices=(2,) * 17), r"order is 17.*16"),
    (dict(radices=(128,) * 8), r"radices.*product"),
    (dict(radices=(8, 8), order=3), r"order is 3, and radices names 2"),
    (dict(order=0), r"order is 0"),
    (dict(order=17), r"order is 17"),
    (dict(isa="sse9"), r"isa"),
    (dict(isa=3), r"isa is 3"),
    (dict(form="left_angle"), r"form is 'left_angle'; allowed:.*'right_angle'"),
    (dict(form="even_odd", mode="circular", fft_size=101), r"form.*101"),
    (dict(form="complex", mode="circular", fft_size=101), r"form.*101"),
    (dict(fft_size=80), r"fft_size is 80"),
    (dict(layout="LBH"), r"layout is 'LBH'"),
    (dict(threads=0), r"threads is 0"),
    (dict(threads=256), r"threads is 256"),
]


@pytest.mark.parametrize("arguments,message", PLANS,
                         ids=[m[:40] for _, m in PLANS])
def test_plan(arguments, message):
    with pytest.raises((ValueError, fftconv.Unsupported), match=message):
        fftconv.Plan(**{"u_shape": U.shape, "k_shape": K.shape, **arguments})


def test_plan_called_with_another_shape():
    plan = fftconv.Plan(U.shape, K.shape)
    spectrum = plan.spectrum(K)
    for u in (U[:1], U[:, :2], U[..., :39], U[0]):
        with pytest.raises(ValueError, match=r"this plan is for \(2, 3, 40\)"):
            plan(u, spectrum)
        with pytest.raises(ValueError, match=r"this plan is for \(2, 3, 40\)"):
            plan.rows_to_spectra(u)
    with pytest.raises(ValueError, match="u has dtype float64; this plan is "
                                         "for float32"):
        plan(U.astype(np.float64), spectrum)
    with pytest.raises(ValueError, match="k has length 39; this plan is for"):
        plan.spectrum(K[:, :39])
    with pytest.raises(ValueError, match="k has dtype float16"):
        plan.spectrum(K.astype(np.float16))
    with pytest.raises(ValueError, match="k has dtype object"):
        plan(U, None)


def test_spectra_are_checked():
    plan = fftconv.Plan(U.shape, K.shape)
    spectrum = plan.spectrum(K)
    s = plan.rows_to_spectra(U)
    for bad in (s[:1], s.astype(np.float64), s[..., :-1], s[:, ::-1], None,
                s.tolist()):
        with pytest.raises(ValueError, match="s must be spectra of this plan"):
            plan.multiply(spectrum, bad)
        with pytest.raises(ValueError, match="s must be spectra of this plan"):
            plan.spectra_to_rows(bad)
        with pytest.raises(ValueError, match="s must be spectra of this plan"):
            plan.natural(bad)
    with pytest.raises(ValueError, match="out must be spectra"):
        plan.multiply(spectrum, s, out=s[:1])
    with pytest.raises(ValueError, match="spectrum is a ndarray"):
        plan.multiply(K, s)


def test_unsupported_is_said():
    """An instruction set that is none, or not of this machine."""
    for isa in ("none", "", "AVX2 "):
        with pytest.raises((ValueError, fftconv.Unsupported), match="isa"):
            fftconv.Plan(U.shape, K.shape, isa=isa)
    assert issubclass(fftconv.Unsupported, RuntimeError)


def test_an_error_leaves_the_next_call_alone():
    want = fftconv.conv(U, K)
    for _ in range(3):
        with pytest.raises(ValueError):
            fftconv.conv(U, K, activation="relu")
        assert np.array_equal(fftconv.conv(U, K), want)
