"""Bad input from Python raises a ValueError, or a TypeError where an argument is not an array of
numbers, before anything is written.  The message names the argument, its value and what is allowed.
test_types.py tests the types that are allowed."""

import ctypes

import fftconv
import numpy as np
import pytest
from fftconv import Pattern, _lib

U = np.ones((2, 3, 40), np.float32)
K = np.ones((3, 40), np.float32)

# (changed arguments of conv, what the message must say)
BAD = [
    (dict(u=[[1, 2], [3]]), r"u cannot be made an array"),
    (dict(u=np.float32(1)), r"u has 0 axes; it must have at least 1"),
    (dict(u=U[:0]), r"u has shape \(0, 3, 40\)"),
    (dict(u=U[..., :0]), r"u has shape \(2, 3, 0\)"),
    (dict(k=K[:2]), r"k has shape \(2, 40\).*H = 3"),
    (dict(k=K[0, 0]), r"k has shape \(\); it must be \(Lk,\), \(G, Lk\)"),
    (dict(k=K[:, :0]), r"k has shape \(3, 0\).*Lk at least 1"),
    (dict(k=np.ones((3, 3, 40), np.float32)), r"k has shape \(3, 3, 40\).*u's, \(2,\)"),
    (dict(k=np.ones((2, 2, 40), np.float32)), r"k has shape \(2, 2, 40\).*G a divisor of H"),
    (dict(k=np.ones((6, 40), np.float32)), r"k has shape \(6, 40\).*divisor"),
    (dict(in_gate=U[:, :2]), r"in_gate has shape \(2, 2, 40\).*\(2, 3, 40\)"),
    (dict(out_gate=U[..., :39]), r"out_gate has shape \(2, 3, 39\)"),
    (dict(in_gate=U[None]), r"in_gate has shape"),
    (dict(skip=np.ones(2, np.float32)), r"skip has shape \(2,\).*\(3,\)"),
    (dict(skip=np.ones((3, 1), np.float32)), r"skip has shape \(3, 1\)"),
    (dict(mask=np.ones((3, 2), np.float32)), r"mask has shape \(3, 2\)"),
    (
        dict(mode="linear"),
        r"mode is 'linear'; allowed: 'causal', 'circular', 'two_sided', 'full', 'same', 'valid'",
    ),
    (dict(mode="full", k_rev=K), r"k_rev is given; with mode='full' it must be None"),
    (dict(mode="same", fft_size=80), r"fft_size is 80; with mode='same' it must be None"),
    (dict(mode="valid", skip=K[:, 0]), r"skip is given; with mode='valid' it must be None"),
    (
        dict(mode="full", pattern=Pattern.lowpass(8)),
        r"pattern is .*; with mode='full' it must be None",
    ),
    (dict(mode="full", in_gate=np.ones(79)), r"in_gate has shape \(79,\); .*\(2, 3, 40\)"),
    (dict(mode="full", out_gate=np.ones(40)), r"out_gate has shape \(40,\); .*\(2, 3, 79\)"),
    (dict(mode="full", mask=np.ones((3, 2))), r"mask has shape \(3, 2\); .*\(2, 3\)"),
    (dict(mode="full"), r"(out|dy) has shape \(2, 3, 40\); it must be \(2, 3, 79\)"),
    (dict(axis=3), r"axis is 3; u has shape \(2, 3, 40\): it must be from -3 to 2"),
    (dict(axis=-4), r"axis is -4"),
    (dict(axis=1.0), r"axis is 1.0; it must be a whole number or None"),
    (dict(axis=0, k=K[:, :1]), r"k has shape \(3, 1\).*H = 40"),
    (dict(axis=0, layout="BLH"), r"axis is 0; layout 'BLH' says -2: leave one of them out"),
    (dict(axis=2, skip=np.ones((3, 1))), r"skip has shape \(3, 1\); it must be \(3,\)"),
    (
        dict(u=np.ones((2, 2, 3, 40)), mode="two_sided", k_rev=K[:1]),
        r"k_rev has shape \(1, 40\); it must be k's, \(3, 40\), but for the length",
    ),
    (
        dict(mode="two_sided"),
        r"k_rev is None; with mode='two_sided' it must be "
        r"given",
    ),
    (dict(k_rev=K), r"k_rev is given; with mode='causal' it must be None"),
    (dict(mode="circular", k_rev=K), r"k_rev is given; with mode='circular'"),
    (
        dict(mode="two_sided", k_rev=K[:1]),
        r"k_rev has shape \(1, 40\); it must be k's, \(1, 3, 40\), but for",
    ),
    (dict(mode="two_sided", k_rev=K[:, :0]), r"k_rev has shape \(3, 0\)"),
    (dict(mode="two_sided", k_rev=K, fft_size=80), r"fft_size is 80.*two_sided"),
    (
        dict(pattern=Pattern.lowpass(8)),
        r"pattern is Pattern.lowpass\(8\); with mode='causal' it must be None",
    ),
    (
        dict(mode="two_sided", k_rev=K, pattern=Pattern.lowpass(8)),
        r"pattern is .*; with mode='two_sided' it must be None",
    ),
    (
        dict(mode="circular", pattern=Pattern((6, 7), (1, 1))),
        r"pattern has shape \(6, 7\), whose product is 42; it must be fft_size = "
        r"40",
    ),
    (
        dict(mode="circular", pattern=np.ones(40, bool)),
        r"pattern has 40 bins; for fft_size = 40 there must be 21",
    ),
    (dict(mode="circular", pattern=np.ones(21)), r"mask has dtype float64"),
    (
        dict(mode="circular", pattern="lowpass"),
        r"pattern is a str; it must be a "
        r"Pattern",
    ),
    (dict(mode="circular", pattern=8), r"pattern is a int"),
    (dict(mode=None), r"mode is None"),
    (dict(mode=["causal"]), r"mode is \['causal'\]"),
    (dict(activation="relu"), r"activation is 'relu'; allowed:.*'gelu'"),
    (dict(layout="HBL"), r"layout is 'HBL'; allowed: 'BHL', 'BLH'"),
    (dict(device="tpu"), r"device is 'tpu'; allowed: 'cpu', 'cuda' and 'cuda:0'"),
    (dict(device=0), r"device is 0; allowed: 'cpu', 'cuda' and 'cuda:0'"),
    (dict(threads=0), r"threads is 0"),
    (dict(threads=-1), r"threads is -1"),
    (dict(threads=1.5), r"threads is 1.5"),
    (dict(threads=2**32 + 1), r"threads is 4294967297"),
    (dict(threads=256), r"threads is 256; it must be from 1 to 255"),
    (dict(threads=True), r"threads is True; it must be a whole number from 1 to 255"),
    (dict(fft_size=64), r"fft_size is 64.*causal"),
    (dict(mode="circular", fft_size=39), r"fft_size.*39"),
    (dict(mode="circular", fft_size=0), r"fft_size is 0"),
    (dict(mode="circular", fft_size=-64), r"fft_size is -64"),
    (dict(mode="circular", fft_size=64.0), r"fft_size is 64.0"),
    (dict(mode="circular", fft_size=2**64 + 64), r"fft_size is 18446744"),
    (dict(mode="circular", k=np.ones((3, 41), np.float32)), r"k_length is 41.*fft_size.*40"),
]


@pytest.mark.parametrize("arguments,message", BAD, ids=[m[:40] for _, m in BAD])
def test_conv(arguments, message):
    out = np.full_like(U, 7)
    arguments = {"u": U, "k": K, **arguments}
    with pytest.raises(ValueError, match=message):
        fftconv.conv(**arguments, out=out)
    assert np.all(out == 7), "written to"
    with pytest.raises(ValueError, match=message):
        fftconv.conv_backward(U, **arguments)


@pytest.mark.parametrize("name, good", [("fft_size", 64), ("threads", 1)])
def test_a_plan_that_is_kept_takes_no_float(name, good):
    """64.0 is refused after a call with 64, too: the two are not one key."""
    arguments = {"mode": "circular", name: good}
    fftconv.conv(U, K, **arguments)
    with pytest.raises(ValueError, match=f"{name} is {good}.0"):
        fftconv.conv(U, K, **{**arguments, name: float(good)})


class Record:
    """Neither an array nor something that NumPy can make one of."""


LIST = r"it must be an array or a list of numbers; allowed: float64, .* integers and booleans"
# What no call can take, and the message that says so; {} is the argument's name.
NO_NUMBERS = [
    (None, "{} is None; " + LIST),
    ("text", "{} is a str; " + LIST),
    ({"u": 1}, "{} is a dict; " + LIST),
    (Record(), "{} is a Record; " + LIST),
    (["a", "b"], "{} cannot be made an array of numbers"),
    ([1.0, None], "{} cannot be made an array of numbers"),
    (np.array(["a"]), "{} has dtype <U1; allowed: float64"),
    (np.array([1, None], object), "{} has dtype object; allowed: float64"),
    (np.ones(3, np.longdouble), r"{} has dtype float\d+; allowed: .*pass {}.astype\('float64'\)"),
    (np.ones(3, np.clongdouble), r"{} has dtype complex\d+; .*pass {}.astype\('complex128'\)"),
    (np.ones(3, "f4,f4"), "{} has dtype .*; allowed: float64"),
    (np.ones(3, "M8[s]"), r"{} has dtype datetime64\[s\]; allowed: float64"),
    (np.ma.masked_less(np.ones(3), 0), r"{} is a masked array.*pass {}.filled"),
]
NAMES = ("u", "k", "in_gate", "out_gate", "skip", "mask", "k_rev", "dy")


@pytest.mark.parametrize("value,message", NO_NUMBERS, ids=[m[:40] for _, m in NO_NUMBERS])
@pytest.mark.parametrize("name", NAMES)
def test_no_array_of_numbers(name, value, message):
    """An argument that is no array of numbers raises a TypeError, whichever argument it is."""
    if value is None and name not in ("u", "k", "dy"):
        return  # None is allowed there
    out = np.full_like(U, 7)
    arguments = {"u": U, "k": K, name: value}
    if name == "k_rev":
        arguments["mode"] = "two_sided"
    dy = arguments.pop("dy", U)
    message = message.replace("{}", name)
    with pytest.raises(TypeError, match=f"^{message}"):
        fftconv.conv_backward(dy, **arguments)
    if name != "dy":
        with pytest.raises(TypeError, match=f"^{message}"):
            fftconv.conv(**arguments, out=out)
    assert np.all(out == 7), "written to"


X, W, S = U, K[:, :3], np.ones((1, 3, 4))
CALLS = [
    ("k", lambda x: fftconv.Plan(U.shape, K.shape).spectrum(x)),
    ("k", lambda x: fftconv.Plan(U.shape, K.shape)(U, x)),
    ("u", lambda x: fftconv.Plan(U.shape, K.shape)(x, K)),
    ("u", lambda x: fftconv.conv_matrix(x, K)),
    ("k", lambda x: fftconv.conv_matrix(U, x)),
    ("dy", lambda x: fftconv.conv_matrix_backward(x, U, K[None])),
    ("x", lambda x: fftconv.depthwise_conv1d(x, W)),
    ("weight", lambda x: fftconv.depthwise_conv1d(X, x)),
    ("dy", lambda x: fftconv.depthwise_conv1d_backward(x, X, W)),
    ("k", lambda x: fftconv.Stream(x)),
    ("u", lambda x: fftconv.Stream(K).push(x)),
    ("u", lambda x: fftconv.FFTConv(3, 40)(x)),
    ("k", lambda x: setattr(fftconv.FFTConv(3, 40), "k", x)),
    ("u", lambda x: fftconv.flash.FlashFFTConv(64, "float32")(x, K)),
    ("k", lambda x: fftconv.flash.FlashFFTConv(64, "float32")(U, x)),
    ("x", lambda x: fftconv.flash.PartialFFTConv(8)(x, K)),
    ("u", lambda x: fftconv.hyena.fftconv_func(x, K, None)),
    ("k", lambda x: fftconv.hyena.fftconv_func(U, x, None)),
    ("filter", lambda x: fftconv.hyena.fftconv_fwd(U, x, None)),
    ("dout", lambda x: fftconv.hyena.fftconv_func_backward(x, U, K, None)),
    ("x", lambda x: fftconv.lrnnx.opt_ssm_forward(x, K, K[:, :3].T, K[:, :3])),
    ("B_", lambda x: fftconv.lrnnx.opt_ssm_forward(S, S[0], x, S[0])),
    ("kernel", lambda x: fftconv.lrnnx.fft_conv("bln,l->bln", S, x)),
    ("x", lambda x: fftconv.lrnnx.FFTConvS4(3, kernel="s4d")(x)),
    ("x", lambda x: fftconv.lrnnx.Centaurus(3, 4, 2)(x)),
    ("A", lambda x: fftconv.ssm.ssm_kernel(x, S, S, 5)),
    ("B", lambda x: fftconv.ssm.ssm_kernel(-S[0], x, S, 5)),
]


@pytest.mark.parametrize("name,call", CALLS, ids=[f"{i}-{n}" for i, (n, _) in enumerate(CALLS)])
def test_no_array_of_numbers_in_other_calls(name, call):
    for value, message in NO_NUMBERS:
        with pytest.raises(TypeError, match="^" + message.replace("{}", name)):
            call(value)


Z = U.astype(np.complex64)
COMPLEX = [
    (dict(u=Z, activation="gelu"), r"activation is .*identity.*complex64"),
    (dict(k=K.astype(np.complex64), activation="silu"), r"activation"),
    (dict(u=Z, mask=np.ones((2, 3), np.complex64)), r"mask has dtype complex64; it must be real"),
    (dict(mask=np.ones((2, 3), np.complex64)), r"mask has dtype complex64"),
    (
        dict(u=Z, mode="circular", pattern=np.ones(21, bool)),
        r"pattern is .*; with dtype complex64 it must be None",
    ),
    (dict(u=Z, mask=[[1j] * 3] * 2), r"mask has dtype complex128; it must be real"),
]


@pytest.mark.parametrize("arguments,message", COMPLEX, ids=[m[:40] for _, m in COMPLEX])
def test_complex(arguments, message):
    out = np.full_like(Z, 7)
    arguments = {"u": U, "k": K, **arguments}
    with pytest.raises(ValueError, match=message):
        fftconv.conv(**arguments, out=out)
    assert np.all(out == 7), "written to"
    with pytest.raises(ValueError, match=message):
        fftconv.conv_backward(Z, **arguments)


def test_out_of_a_complex_result():
    for out in (np.zeros_like(U), np.zeros(U.shape, np.complex128)):
        with pytest.raises(
            ValueError, match="out has dtype .*; it must be complex64, as the result"
        ):
            fftconv.conv(Z, K, out=out)
        assert not out.any()


@pytest.mark.parametrize(
    "dy,message",
    [(U[:1], r"dy has shape \(1, 3, 40\)"), (U[..., :39], "dy has shape"), ([1], "dy has shape")],
)
def test_dy(dy, message):
    with pytest.raises(ValueError, match=message):
        fftconv.conv_backward(dy, U, K)


@pytest.mark.parametrize("needs", ["in_gate", ("u", "skip"), ("du",), "mask", (1,), "k_rev"])
def test_needs(needs):
    with pytest.raises(ValueError, match="needs names .*allowed here: 'u', 'k'"):
        fftconv.conv_backward(U, U, K, needs=needs)


PLANS = [
    (dict(u_shape=(2, 2, 3)), r"k_shape has shape.*H = 2"),
    (dict(u_shape=(1, 2, 3, 4)), r"u_shape has 4 axes"),
    (dict(u_shape=()), r"u_shape has 0 axes"),
    (dict(u_shape=-1), r"u_shape is -1; it must be a tuple of sizes, each from 1 to 2\*\*40"),
    (dict(u_shape=None), r"u_shape is None; it must be a tuple of sizes"),
    (dict(u_shape=(2, 3, 0)), r"u_shape\[2\] is 0; it must be from 1 to 2\*\*40"),
    (dict(u_shape=(2, -1, 40)), r"u_shape\[1\] is -1"),
    (dict(u_shape=(2, 3, 1.5)), r"u_shape\[2\] is 1.5; it must be a whole number"),
    (dict(u_shape=(True, 3, 40)), r"u_shape\[0\] is True; it must be a whole number"),
    (dict(u_shape=(2, 3, 2**40 + 1)), r"u_shape\[2\] is 1099511627777"),
    (dict(u_shape=(2**40, 3, 2**40)), r"batch"),
    (dict(k_shape=(4, 40)), r"k_shape has shape \(4, 40\)"),
    (dict(k_shape=(3, 3, 40)), r"k_shape has shape \(3, 3, 40\).*B = 2"),
    (dict(k_shape=()), r"k_shape has shape \(\)"),
    (dict(mode="two_sided"), r"k_rev_length is None; with mode='two_sided'"),
    (dict(k_rev_length=4), r"k_rev_length is given; with mode='causal'"),
    (dict(mode="two_sided", k_rev_length=0), r"k_rev_length is 0"),
    (dict(mode="two_sided", k_rev_length=1.5), r"k_rev_length is 1.5"),
    (dict(mode="two_sided", k_rev_length=2**62), r"k_rev_length"),
    (dict(pattern=Pattern.lowpass(4)), r"pattern is .* with mode='causal'"),
    (
        dict(mode="circular", dtype="complex64", pattern=Pattern.lowpass(4)),
        r"pattern is .* with dtype complex64",
    ),
    (
        dict(mode="circular", fft_size=44, k_shape=(3, 45), pattern=Pattern.lowpass(4)),
        r"k_length is 45.*fft_size.*44",
    ),
    (dict(radices=(4, 8), single_block=True), r"radices.*product"),
    (dict(k_shape=(3, 2**62)), r"k_shape\[1\] is 4611686018427387904"),
    (dict(mode="full"), r"mode is 'full'; allowed: 'causal', 'circular', 'two_sided'"),
    (dict(dtype="float8"), r"dtype is 'float8'; allowed: float64"),
    (dict(dtype="longdouble"), r"dtype is 'longdouble'; allowed: float64"),
    (dict(dtype="f4,f4"), r"dtype is 'f4,f4'; allowed: float64"),
    (dict(dtype=None), r"dtype is None"),
    (dict(dtype=np.int32), r"dtype is <class 'numpy.int32'>"),
    (dict(dtype="torch.int8"), r"dtype is 'torch.int8'"),
    (dict(radices=()), r"radices is empty"),
    (dict(radices=(8, 0)), r"radices is 0"),
    (dict(radices=(8, -8)), r"radices is -8"),
    (dict(radices=(256,)), r"radices\[0\] is 256.*128"),
    (dict(radices=(2, 2**32 + 2)), r"radices\[1\] is 4294967298"),
    (dict(radices=(2, 2)), r"radices.*product.* 4"),
    (dict(radices=(2,) * 17), r"order is 17.*16"),
    (dict(radices=(128,) * 8), r"radices.*product"),
    (dict(radices=(8, 8), order=3), r"order is 3, and radices names 2"),
    (dict(order=0), r"order is 0"),
    (dict(order=17), r"order is 17"),
    (dict(isa="sse9"), r"isa"),
    (dict(isa=3), r"isa is 3"),
    (dict(engine="cufft"), r"engine is 'cufft'; on the CPU, .* it must be None"),
    (dict(device=None), r"device is None; allowed: 'cpu', 'cuda'"),
    (dict(form="left_angle"), r"form is 'left_angle'; allowed:.*'right_angle'"),
    (dict(form="folded", mode="circular", fft_size=102), r"form.*102"),
    (dict(form="complex", mode="circular", fft_size=101), r"form.*101"),
    (dict(fft_size=80), r"fft_size is 80"),
    (dict(layout="LBH"), r"layout is 'LBH'"),
    (dict(threads=0), r"threads is 0"),
    (dict(threads=256), r"threads is 256"),
]


@pytest.mark.parametrize("arguments,message", PLANS, ids=[m[:40] for _, m in PLANS])
def test_plan(arguments, message):
    with pytest.raises((ValueError, fftconv.Unsupported), match=message):
        fftconv.Plan(**{"u_shape": U.shape, "k_shape": K.shape, **arguments})


def test_limits():
    """The number of threads that messages name as the limit is the library's own."""
    assert fftconv.Plan(U.shape, K.shape, threads=_lib.MAX_THREADS).threads >= 1
    assert _lib.MAX_THREADS == 255
    desc = _lib.PlanDesc(size=ctypes.sizeof(_lib.PlanDesc), batch=1, channels=1, length=8)
    desc.k_length, desc.dtype, desc.threads = 8, _lib.DTYPES["float32"], 256
    with pytest.raises(ValueError, match="threads is 256, must be .* 255"):
        _lib.lib.fftconv_plan_create(ctypes.byref(ctypes.c_void_p()), ctypes.byref(desc))


def test_plan_called_with_another_shape():
    plan = fftconv.Plan(U.shape, K.shape)
    spectrum = plan.spectrum(K)
    for u in (U[:1], U[:, :2], U[..., :39], U[0]):
        with pytest.raises(ValueError, match=r"this plan is for \(2, 3, 40\)"):
            plan(u, spectrum)
        with pytest.raises(ValueError, match=r"this plan is for \(2, 3, 40\)"):
            plan.rows_to_spectra(u)
    with pytest.raises(ValueError, match="u has dtype float64; this plan is for float32"):
        plan(U.astype(np.float64), spectrum)
    with pytest.raises(ValueError, match="k has length 39; this plan is for"):
        plan.spectrum(K[:, :39])
    with pytest.raises(ValueError, match="k has dtype float64; this plan is for float32; allowed"):
        plan.spectrum(K.astype(np.float64))
    with pytest.raises(
        ValueError,
        match=r"k has shape \(1, 40\); this plan is "
        r"for \(3, 40\)",
    ):
        plan.spectrum(K[:1])
    with pytest.raises(ValueError, match="k_rev is given; with mode='causal'"):
        plan.spectrum(K, K)
    with pytest.raises(ValueError, match="k_rev is given; a Spectrum has its"):
        plan(U, spectrum, k_rev=K)
    with pytest.raises(ValueError, match="pattern is .* with mode='causal'"):
        plan.replace(pattern=Pattern.lowpass(8))
    with pytest.raises(ValueError, match="pattern is a str"):
        plan.replace(pattern="all")


def test_two_sided_plan():
    plan = fftconv.Plan(U.shape, K.shape, mode="two_sided", k_rev_length=20)
    spectrum = plan.spectrum(K, K[:, :20])
    for call in (
        lambda k_rev: plan.spectrum(K, k_rev),
        lambda k_rev: plan(U, K, k_rev=k_rev),
        lambda k_rev: plan.backward(U, U, K, k_rev=k_rev),
    ):
        for k_rev, message in [
            (None, "k_rev is None; with mode='two_sided' it must be given"),
            (K[:, :19], "k_rev has length 19; this plan is for 20"),
            (K[:1, :20], r"k_rev has shape \(1, 20\)"),
            (K[:, :20].astype(np.float64), "k_rev has dtype float64"),
        ]:
            with pytest.raises(ValueError, match=message):
                call(k_rev)
    with pytest.raises(ValueError, match="k_rev is given; a Spectrum has its"):
        plan(U, spectrum, k_rev=K[:, :20])
    with pytest.raises(ValueError, match="spectrum is Spectrum.*k_rev of length 21"):
        fftconv.Plan(U.shape, K.shape, mode="two_sided", k_rev_length=21)(U, spectrum)


def test_spectra_are_checked():
    plan = fftconv.Plan(U.shape, K.shape)
    spectrum = plan.spectrum(K)
    s = plan.rows_to_spectra(U)
    for bad in (s[:1], s.astype(np.float64), s[..., :-1], s[:, ::-1], None, s.tolist()):
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
    """An instruction set of an unknown name is refused."""
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
