"""The Monarch transform by itself, compared with np.fft and with its definition."""

import math

import fftconv
import numpy as np
import pytest
from fftconv import monarch
from hypothesis import given
from hypothesis import strategies as st
from support import TOLERANCE, norm

RADICES = [
    (1,),
    (2,),
    (3,),
    (128,),
    (97,),
    (127,),
    (16, 16),
    (32, 8),
    (8, 32),
    (4, 4, 4),
    (3, 5, 7),
    (7, 5, 3),
    (2, 3, 4, 5),
    (1, 6, 1),
    (64, 64),
    (32, 32, 16),
    (16, 16, 16),
    (11, 13),
    (100, 9),
    (2,) * 12,
    (128, 128),
    (16, 8, 4, 2),
]
NAMES = {"complex64": "float32", "complex128": "float64"}


def random(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


def close(got, want, dtype):
    limit = 2 * TOLERANCE[NAMES[dtype]]
    error = norm(np.abs(got - want)) / np.maximum(norm(np.abs(want)), 1e-300)
    assert got.shape == want.shape and got.dtype == np.dtype(dtype)
    assert np.max(error) <= limit, np.max(error)


@pytest.mark.pairwise
@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("radices", RADICES, ids=lambda r: "x".join(map(str, r)))
def test_dft(radices, dtype, dense, isa):
    x = random((3, math.prod(radices)), dtype)
    want = np.fft.fft(x.astype(complex))
    close(monarch.dft(x, radices, dense=dense, isa=isa), want, dtype)
    want = np.fft.ifft(x.astype(complex))
    close(monarch.idft(x, radices, dense=dense, isa=isa), want, dtype)


@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("radices", RADICES, ids=lambda r: "x".join(map(str, r)))
def test_stages(radices, dtype, dense):
    """Each stage equals its definition, both in a run from the start and by itself."""
    n = math.prod(radices)
    x = random((2, n), dtype)
    have = x.astype(complex)  # what the definition is computed from
    results = list(monarch.stages(x, radices, dense=dense))
    assert len(results) == len(radices)
    before = x
    for i, result in enumerate(results, 1):
        columns = math.prod(radices[i:])
        block = have.reshape(-1, radices[i - 1], columns)
        dft = np.tensordot(block, monarch.dft_matrix(radices[i - 1]), (1, 1))
        have = (monarch.twiddles(radices, i) * dft.transpose(0, 2, 1)).reshape(x.shape)
        close(result, have, dtype)
        close(monarch.stage(before, i, radices, dense=dense), have, dtype)
        before = result
    order = monarch.digit_reversal(radices)
    close(results[-1], np.fft.fft(x.astype(complex))[..., order], dtype)


def test_digit_reversal():
    assert monarch.digit_reversal((2, 2, 2)).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert monarch.digit_reversal((2, 3)).tolist() == [0, 2, 4, 1, 3, 5]
    assert monarch.digit_reversal((5,)).tolist() == [0, 1, 2, 3, 4]
    # The digit reversal of the reversed radices is the inverse permutation.
    a, b = monarch.digit_reversal((2, 3, 4)), monarch.digit_reversal((4, 3, 2))
    assert a[b].tolist() == list(range(24))


def test_matrices():
    f = monarch.dft_matrix(6)
    assert np.allclose(f, np.fft.fft(np.eye(6)), atol=1e-14)
    t = monarch.twiddles((3, 4), 1)
    assert t.shape == (3, 4)
    assert np.allclose(t[2, 3], np.exp(-2j * np.pi * 6 / 12), atol=1e-15)
    assert np.array_equal(monarch.twiddles((3, 4), 2), np.ones((4, 1)))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(sorted(NAMES)),
    st.integers(0, 1000),
)
def test_any(radices, rows, dense, dtype, seed):
    x = random((rows, math.prod(radices)), dtype, seed)
    close(monarch.dft(x, radices, dense=dense), np.fft.fft(x.astype(complex)), dtype)
    close(monarch.idft(monarch.dft(x, radices), radices, dense=dense), x, dtype)


def test_axis_and_types():
    x = np.random.default_rng(0).standard_normal((3, 12, 2))
    for dtype, out in [("float64", "complex128"), ("float32", "complex64")]:
        y = x.astype(dtype)
        kept = y.copy()
        for radices in [(3, 4), (12,)]:
            got = monarch.dft(y, radices, axis=1)
            assert got.dtype == out
            assert np.allclose(got, np.fft.fft(x, axis=1), atol=1e-4)
            assert np.allclose(monarch.idft(got, radices, axis=1), x, atol=1e-5)
        assert np.array_equal(y, kept)
    assert np.allclose(monarch.dft([1, 2, 3, 4], (2, 2)), np.fft.fft([1, 2, 3, 4]))
    assert monarch.dft(np.zeros((0, 4)), (4,)).shape == (0, 4)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda x: monarch.dft(x, (3, 4)), "x has 16 points.*12"),
        (lambda x: monarch.dft(x, ()), "radices is empty"),
        (lambda x: monarch.dft(x, (0, 16)), "radices is 0"),
        (lambda x: monarch.dft(np.zeros(129), (129,)), "radices"),
        (lambda x: monarch.dft(np.zeros(16, int), (16,)), "x has dtype int64"),
        (lambda x: monarch.dft(np.zeros(16, "float16"), (16,)), "x has dtype"),
        (lambda x: monarch.dft(x, (16,), isa=1), "isa is 1"),
        (lambda x: monarch.stage(x, 0, (4, 4)), "i is 0"),
        (lambda x: monarch.stage(x, 3, (4, 4)), "i is 3"),
        (lambda x: monarch.stage(x, 1, (4, 5)), r"x has shape \(16,\)"),
        (lambda x: monarch.twiddles((4, 4), 3), "i is 3"),
        (lambda x: monarch.dft_matrix(0), "n is 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones(16, complex))
