"""The call of flash-fft-conv: circular modulo seqlen, and its old faults."""

import numpy as np
import pytest

import fftconv
from fftconv import FlashFFTConv
from support import (DTYPES, Case, check_forward, check_gradients, norm,
                     same_bits, TOLERANCE)

SEQLENS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]


@pytest.mark.parametrize("seqlen", SEQLENS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("gates", [(), ("in_gate",), ("out_gate",),
                                   ("in_gate", "out_gate")], ids="+".join)
def test_sizes(seqlen, dtype, gates):
    """Every size of theirs below 64K, k in float32, full and half filled."""
    for length, taps in ((seqlen, seqlen), (seqlen // 2, seqlen // 2)):
        case = Case(2, 3, length, taps, dtype, k_dtype="float32",
                    mode="circular", fft_size=seqlen, options=gates)
        y = FlashFFTConv(seqlen, dtype)(case.u, case.k, **case.operands)
        check_forward(case, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seqlen", [1, 2, 97, 100, 105, 1009, 4098, 14113])
def test_any_seqlen(seqlen, dtype):
    case = Case(2, 2, seqlen, seqlen, dtype, mode="circular", fft_size=seqlen)
    check_forward(case, FlashFFTConv(seqlen, dtype)(case.u, case.k))


def test_default_is_float16():
    f = FlashFFTConv(1024)
    assert f.dtype == "float16" and "1024" in repr(f)
    case = Case(1, 2, 1000, 1000, "float16", mode="circular", fft_size=1024)
    check_forward(case, f(case.u, case.k))


def test_padded_is_causal():
    """L + Lk - 1 <= seqlen: nothing wraps."""
    case = Case(2, 3, 512, 512, "float32")
    y = FlashFFTConv(1024, "float32")(case.u, case.k)
    check_forward(case, y)


def test_bidirectional():
    """A tap k[seqlen - s] acts s samples ahead."""
    n = 64
    u = np.arange(1, 33, dtype=np.float32)[None]
    k = np.zeros((1, n), np.float32)
    k[0, n - 3] = 1
    y = FlashFFTConv(n, "float32")(u, k)
    want = np.zeros(32)
    want[:29] = u[0, 3:]
    assert norm(y[0] - want) <= TOLERANCE["float32"] * norm(u[0])


@pytest.mark.parametrize("seqlen", [256, 1024])
def test_gate_gradients(seqlen):
    """dout_gate carries dy at every size."""
    case = Case(2, 3, seqlen, seqlen, "float16", mode="circular",
                fft_size=seqlen, options=("in_gate", "out_gate"))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k,
                                                **case.arguments))


@pytest.mark.parametrize("channels", [1, 7, 17, 111])
def test_any_channels(channels):
    case = Case(1, channels, 64, 64, "float16", mode="circular", fft_size=128)
    check_forward(case, FlashFFTConv(128)(case.u, case.k))


def test_kernel_with_a_leading_one():
    case = Case(2, 3, 64, 64, "float16", mode="circular", fft_size=128)
    f = FlashFFTConv(128)
    assert same_bits(f(case.u, case.k), f(case.u, case.k[None]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", [1e-2, 30.0])
def test_level(dtype, level):
    """A large mean does not overflow inside, quiet input does not vanish."""
    case = Case(1, 2, 4096, 4096, dtype, k_dtype="float32", mode="circular",
                fft_size=8192)
    case.u = (level * (1 + case.u.astype(np.float64))).astype(case.u.dtype)
    check_forward(case, FlashFFTConv(8192, dtype)(case.u, case.k))


def test_errors():
    f = FlashFFTConv(64, "float16")
    u, k = np.ones((1, 2, 64), np.float16), np.ones((2, 64), np.float32)
    f(u, k)
    for call, message in [
            (lambda: f(u.astype(np.float32), k),
             "u has dtype float32; this FlashFFTConv is for float16"),
            (lambda: f(u.view(np.int16), k), "u has dtype int16"),
            (lambda: f(np.ones((1, 2, 65), np.float16), k),
             "length is 65.*fft_size, 64"),
            (lambda: f(u, np.ones((2, 65), np.float32)),
             "kernel_length is 65.*fft_size, 64"),
            (lambda: f(u, k, u[:, :1, :3]), "in_gate has shape"),
            (lambda: f(u, k, None, u.astype(np.float32)),
             "out_gate has dtype float32"),
            (lambda: f(u, k.astype(np.float64)), "k has dtype float64"),
            (lambda: FlashFFTConv(0), "seqlen is 0"),
            (lambda: FlashFFTConv(64.0), "seqlen is 64.0"),
            (lambda: FlashFFTConv(64, "int8"), "dtype is 'int8'")]:
        with pytest.raises(ValueError, match=message):
            call()
