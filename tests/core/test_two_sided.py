"""Two-sided convolutions: k acts on the past, k_rev on the future, and both at lag 0."""

import fftconv
import numpy as np
import pytest
from fftconv import reference
from support import DTYPES, TOLERANCE, Case, big, check_forward, check_gradients, norm, same_bits

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")

# (B, H, L, Lk, length of k_rev): either kernel is the longer one, longer than the row, or of one
# tap.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 4, 3),
    (1, 2, 2, 1, 2),
    (2, 2, 7, 7, 7),
    (2, 3, 33, 50, 40),
    (3, 2, 64, 64, 64),
    (2, 2, 67, 1, 67),
    (2, 2, 100, 100, 1),
    (1, 3, 256, 256, 256),
    (2, 2, 499, 20, 300),
    (1, 2, 1000, 700, 33),
    (2, 1, 1024, 1024, 1024),
    (1, 2, 4099, 4099, 4099),
    (1, 1, 20000, 30, 17),
    (1, 1, 16384, 16384, 16384),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
def test_conv(shape, dtype):
    for options, activation in (((), None), (ALL, "gelu")):
        case = Case(
            *shape[:4],
            dtype,
            reverse=shape[4],
            mode="two_sided",
            options=options,
            activation=activation,
        )
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_path(isa, dtype, dense):
    for length, reverse in ((2, 2), (96, 30), (360, 360), (1024, 1000)):
        case = Case(
            2,
            3,
            length,
            length,
            dtype,
            reverse=reverse,
            mode="two_sided",
            options=ALL,
            activation="silu",
        )
        plan = case.plan(isa=isa, dense=dense)
        assert plan.isa == isa and plan.form == "right_angle"
        spectrum = plan.spectrum(case.k, case.k_rev)
        y = plan(case.u, spectrum, **case.plan_arguments)
        g = plan.backward(case.dy, case.u, spectrum, **case.plan_arguments)
        check_forward(case, y)
        check_gradients(case, g)
        assert same_bits(plan(case.u, case.k, **case.kernel_arguments), y)
        for a, b in zip(plan.backward(case.dy, case.u, case.k, **case.kernel_arguments), g):
            assert same_bits(a, b)


@pytest.mark.parametrize(
    "radices", [(8, 16, 16), (16, 9, 15), (2,) * 11, (32, 64), (128, 16)], ids=str
)
def test_radices(radices):
    case = Case(2, 2, 1000, 600, reverse=400, mode="two_sided", options=ALL)
    plan = case.plan(radices=radices)
    assert plan.radices == radices
    check_forward(case, plan(case.u, case.k, **case.kernel_arguments))
    check_gradients(case, plan.backward(case.dy, case.u, case.k, **case.kernel_arguments))


def test_lag_zero_counts_in_both():
    u = np.arange(1, 9, dtype=np.float64)
    y = fftconv.conv(u, [1.0], k_rev=[1.0], mode="two_sided")
    assert np.allclose(y, 2 * u, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 5, 64, 300])
def test_impulse(length):
    """An impulse at t gives k from t on, and k_rev backwards from there."""
    rng = np.random.default_rng(0)
    k, k_rev = rng.standard_normal((2, length)) / length**0.5
    for t in {0, length // 2, length - 1}:
        u = np.zeros(length)
        u[t] = 1
        want = np.zeros(length)
        want[t:] += k[: length - t]
        want[: t + 1] += k_rev[t::-1]
        y = fftconv.conv(u, k, k_rev=k_rev, mode="two_sided")
        assert norm(y - want) <= 1e-13 * (norm(k) + norm(k_rev))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_reversal(dtype):
    """Reversing time exchanges k and k_rev."""
    case = Case(2, 3, 200, 150, dtype, reverse=80, mode="two_sided")
    y = fftconv.conv(case.u, case.k, **case.arguments)
    other = fftconv.conv(case.u[..., ::-1], case.k_rev, mode="two_sided", k_rev=case.k)[..., ::-1]
    limit = 2 * TOLERANCE[dtype] * case.kernel_norms() * norm(case.u)
    assert np.all(norm(y - other) <= limit)


def test_halves():
    """If one of k and k_rev is zero, the result is the causal convolution or its adjoint."""
    case = Case(2, 3, 300, 300, "float64", mode="two_sided")
    nothing = np.zeros_like(case.k)
    y = fftconv.conv(case.u, case.k, k_rev=nothing, mode="two_sided")
    assert np.allclose(y, fftconv.conv(case.u, case.k), rtol=0, atol=1e-11)
    y = fftconv.conv(case.u, nothing, k_rev=case.k, mode="two_sided")
    du = fftconv.conv_backward(case.u, case.u, case.k, needs="u").du
    assert np.allclose(y, du, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernels", [(), (1,), (2,), (1, 4), (3, 1), (3, 2), (3, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernel_shapes(kernels, dtype):
    for length, taps, reverse in ((70, 40, 55), (3000, 12, 9)):
        case = Case(
            3,
            4,
            length,
            taps,
            dtype,
            reverse=reverse,
            kernels=kernels,
            mode="two_sided",
            k_dtype="float32",
        )
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("needs", ["k_rev", "k", "u", ("u", "k_rev"), ("k", "k_rev")], ids=str)
def test_needs(needs):
    """A gradient has the same bits whether it is asked for alone or with others."""
    case = Case(5, 3, 90, 70, reverse=60, mode="two_sided", options=ALL, activation="silu")
    at = dict(u=case.u, k=case.k, **case.arguments)
    some = fftconv.conv_backward(case.dy, **at, needs=needs)
    check_gradients(case, some, needs={needs} if isinstance(needs, str) else needs)
    for a, b in zip(some, fftconv.conv_backward(case.dy, **at)):
        assert a is None or same_bits(a, b)


@pytest.mark.parametrize(
    "shape", [(5, 3, 300, 200), (1, 1, 1 << 16, 1 << 16), (1, 1, 1 << 16, 50)], ids=str
)
def test_threads(shape):
    case = Case(*shape, reverse=shape[3] // 2, mode="two_sided", options=ALL, activation="gelu")
    want = None
    for threads in (1, 2, 3, 7, None):
        got = [
            fftconv.conv(case.u, case.k, **case.arguments, threads=threads),
            *fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments, threads=threads),
        ]
        want = want or got
        for a, b in zip(got, want):
            assert same_bits(a, b), threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place(dtype):
    for length, taps in ((5, 5), (64, 64), (1000, 1000), (5000, 7)):
        case = Case(3, 2, length, taps, dtype, mode="two_sided", options=ALL)
        want = fftconv.conv(case.u, case.k, **case.arguments)
        u = case.u.copy()
        assert fftconv.conv(u, case.k, **case.arguments, out=u) is u
        assert same_bits(u, want)


def test_spectrum_belongs_to_both_lengths():
    """A plan with another length of k_rev, or a causal one, refuses the spectrum and writes
    nothing."""
    case = Case(1, 2, 60, 60, reverse=20, mode="two_sided")
    spectrum = case.plan().spectrum(case.k, case.k_rev)
    assert spectrum.k_rev_shape == (2, 20)
    assert "k_rev=(2, 20)" in repr(spectrum)
    assert "k_rev_length=20" in repr(spectrum.plan)
    for other in (Case(1, 2, 60, 60, reverse=21, mode="two_sided"), Case(1, 2, 60, 60)):
        out = np.full_like(case.u, 7)
        with pytest.raises(ValueError, match="spectrum"):
            other.plan()(case.u, spectrum, out=out)
        assert np.all(out == 7)


def test_primitives():
    case = Case(2, 3, 100, 80, reverse=90, mode="two_sided")
    plan = case.plan(single_block=True)
    s = plan.multiply(plan.spectrum(case.k, case.k_rev), plan.rows_to_spectra(case.u))
    check_forward(case, plan.spectra_to_rows(s))


@pytest.mark.parametrize("length", [200, 1024])
def test_as_a_circular_one(length):
    """k and k_rev laid out modulo N >= L + (both lengths) - 2 give the same result: k_rev[s] is at
    N - s, as in hyena-dna."""
    case = Case(2, 2, length, length, "float64", mode="two_sided")
    n = 3 * length
    k = np.zeros((2, n))
    k[:, :length] = case.k
    k[:, -length + 1 :] += case.k_rev[:, :0:-1]
    k[:, 0] += case.k_rev[:, 0]
    y = fftconv.conv(case.u, k, mode="circular", fft_size=n)
    check_forward(case, y)


@big
def test_big():
    n = 1 << 22
    case = Case(1, 1, n, n, mode="two_sided", options=("in_gate",))
    want = reference.conv(case.u, case.k, **case.arguments)
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments), want)
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))
