"""Kernels of every shape: one for all channels, for groups of channels, for each batch entry, and
repeated by strides of 0."""

import fftconv
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ACTIVATIONS, DTYPES, Case, check_forward, check_gradients, k_dtypes, same_bits

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")
# Shapes of k before its last axis, for B = 3 and H = 6.
KERNELS = [(), (1,), (2,), (3,), (6,), (1, 1), (1, 3), (1, 6), (3, 1), (3, 2), (3, 3), (3, 6)]
# (mode, L, Lk, fft_size): one block, several blocks, and circular rows.
LENGTHS = [
    ("causal", 1, 3, None),
    ("causal", 65, 50, None),
    ("causal", 5000, 20, None),
    ("circular", 64, 64, None),
    ("circular", 97, 30, None),
    ("circular", 50, 80, 100),
    ("circular", 4500, 25, None),
]


@pytest.mark.pairwise
@pytest.mark.parametrize("mode, length, taps, fft_size", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", KERNELS, ids=str)
def test_shapes(kernels, dtype, mode, length, taps, fft_size):
    case = Case(
        3,
        6,
        length,
        taps,
        dtype,
        mode=mode,
        fft_size=fft_size,
        kernels=kernels,
        options=ALL,
        activation="gelu",
    )
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernels", [(), (2,), (3, 1), (3, 3), (3, 6)], ids=str)
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_plan(mode, kernels, isa):
    """A spectrum and its kernel give the same bits, on any number of threads."""
    case = Case(3, 6, 300, 300, kernels=kernels, mode=mode, options=ALL)
    want = gradients = None
    for threads in (1, 3, 7):
        plan = case.plan(isa=isa, threads=threads)
        spectrum = plan.spectrum(case.k)
        assert spectrum.nbytes == plan.counters.spectrum_bytes
        for kernel in (spectrum, case.k):
            y = plan(case.u, kernel, **case.plan_arguments)
            g = plan.backward(case.dy, case.u, kernel, **case.plan_arguments)
            want, gradients = (y, g) if want is None else (want, gradients)
            assert same_bits(y, want)
            assert all(map(same_bits, g, gradients))
    check_forward(case, want)
    check_gradients(case, gradients)


def test_spectra_are_as_many_as_kernels():
    one, two, six, each = (
        Case(3, 6, 256, 256, kernels=kernels).plan().counters.spectrum_bytes
        for kernels in ((), (2,), (6,), (3, 6))
    )
    assert one * 2 == two and two * 3 == six and six * 3 == each


def test_a_kernel_for_each_row_is_that_row_alone():
    """A kernel for each row gives the bits of a call for that batch entry and group alone."""
    case = Case(3, 6, 200, 200, kernels=(3, 2))
    y = fftconv.conv(case.u, case.k)
    for b in range(3):
        for group in range(2):
            rows = slice(3 * group, 3 * group + 3)
            assert same_bits(y[b, rows], fftconv.conv(case.u[b, rows], case.k[b, group]))


@pytest.mark.parametrize("mode", ["causal", "circular", "two_sided"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=str)
def test_repeated_by_strides(axes, mode):
    """Kernels repeated by np.broadcast_to give the bits of their copies, and their gradients have
    the full shape."""
    case = Case(3, 6, 130, 130, kernels=(3, 6), mode=mode, options=ALL)

    def once(x):
        return (
            None
            if x is None
            else x[tuple(slice(1) if axis in axes else slice(None) for axis in range(3))]
        )

    def repeated(x):
        return None if x is None else np.broadcast_to(once(x), x.shape)

    arguments = {**case.arguments, "k_rev": repeated(case.k_rev)}
    k = repeated(case.k)
    assert all(k.strides[axis] == 0 for axis in axes)
    y = fftconv.conv(case.u, k, **arguments)
    fewer = {**case.arguments, "k_rev": once(case.k_rev)}
    assert same_bits(y, fftconv.conv(case.u, once(case.k), **fewer))
    got = fftconv.conv_backward(case.dy, case.u, k, **arguments)
    case.k, case.k_rev = k, repeated(case.k_rev)
    check_forward(case, y)
    check_gradients(case, got)
    assert got.dk.shape == (3, 6, 130)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_kernel_of_two_is_repeated(axis):
    """Beside a k that repeats, a k_rev that does not keeps its own kernels; and the other way."""
    for name in ("k", "k_rev"):
        case = Case(3, 6, 130, 130, kernels=(3, 6), mode="two_sided")
        once = getattr(case, name).take([0], axis)
        setattr(case, name, np.broadcast_to(once, getattr(case, name).shape))
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))


def test_repeated_kernel_makes_one_spectrum(monkeypatch):
    """For a repeated kernel, `conv` makes a plan for the one kernel.  The test replaces the
    function that `conv` gets its plans from."""
    made = []
    plan = fftconv.convolution.cached_plan

    def spy(*arguments):
        made.append(arguments[1])
        return plan(*arguments)

    monkeypatch.setattr(fftconv.convolution, "cached_plan", spy)
    case = Case(3, 6, 40, 40, kernels=(3, 6))
    k = np.broadcast_to(case.k[:1, :1], case.k.shape)
    fftconv.conv(case.u, k)
    fftconv.conv(case.u, np.broadcast_to(case.k[0, 0], (6, 40)))
    fftconv.conv(case.u, np.broadcast_to(case.k[:1], case.k.shape))
    assert made == [(1, 1, 40), (1, 1, 40), (1, 6, 40)]


@st.composite
def cases(draw):
    dtype, k_dtype = draw(st.sampled_from(k_dtypes()))
    mode = draw(st.sampled_from(["causal", "circular", "two_sided"]))
    length, taps = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    batch = draw(st.integers(1, 4))
    members, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    fft_size = reverse = None
    if mode == "circular":
        fft_size = length + draw(st.integers(0, 300))
        taps = min(taps, fft_size)
    if mode == "two_sided":
        reverse = draw(st.integers(1, 400))
    return Case(
        batch,
        groups * members,
        length,
        taps,
        dtype,
        k_dtype=k_dtype,
        mode=mode,
        fft_size=fft_size,
        reverse=reverse,
        kernels=draw(st.sampled_from([(groups,), (1, groups), (batch, groups), ()])),
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
