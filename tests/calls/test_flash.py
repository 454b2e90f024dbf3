"""The call of flash-fft-conv, circular modulo seqlen, and the faults of the original."""

import fftconv
import numpy as np
import pytest
from fftconv import reference
from fftconv.flash import FlashFFTConv, FrequencySparseFFTConv, PartialFFTConv
from support import DTYPES, TOLERANCE, Case, big, check_forward, check_gradients, norm, same_bits

SEQLENS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]


@pytest.mark.parametrize("seqlen", SEQLENS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "gates", [(), ("in_gate",), ("out_gate",), ("in_gate", "out_gate")], ids="+".join
)
def test_sizes(seqlen, dtype, gates):
    """Every size of the original below 64K, with k in float32, is right for full and half-filled
    rows."""
    for length, taps in ((seqlen, seqlen), (seqlen // 2, seqlen // 2)):
        case = Case(
            2,
            3,
            length,
            taps,
            dtype,
            k_dtype="float32",
            mode="circular",
            fft_size=seqlen,
            options=gates,
        )
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
    """Nothing wraps where L + Lk - 1 <= seqlen."""
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
    """dout_gate is computed from dy at every size."""
    case = Case(
        2,
        3,
        seqlen,
        seqlen,
        "float16",
        mode="circular",
        fft_size=seqlen,
        options=("in_gate", "out_gate"),
    )
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


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
    """A large mean does not overflow inside, and a quiet input does not vanish."""
    case = Case(1, 2, 4096, 4096, dtype, k_dtype="float32", mode="circular", fft_size=8192)
    case.u = (level * (1 + case.u.astype(np.float64))).astype(case.u.dtype)
    check_forward(case, FlashFFTConv(8192, dtype)(case.u, case.k))


@pytest.mark.parametrize("seqlen", [16, 32, 64, 128, 65536, 131072])
@pytest.mark.parametrize("gates", [(), ("in_gate", "out_gate")], ids="+".join)
def test_sizes_beyond(seqlen, gates):
    """Sizes below 256 are right, and sizes from 64K on, where the original needs H % 16 == 0."""
    case = Case(
        1,
        3,
        seqlen,
        seqlen,
        "float16",
        k_dtype="float32",
        mode="circular",
        fft_size=seqlen,
        options=gates,
    )
    check_forward(case, FlashFFTConv(seqlen)(case.u, case.k, **case.operands))


@big
@pytest.mark.parametrize("bits", [22, 25, 27])
def test_largest_sizes(bits):
    """Sizes up to 2^27 are right: the kernel has taps at lags 0, 1 and 2^bits - 3, and y is their
    sum."""
    n = 1 << bits
    u = np.random.default_rng(bits).standard_normal((1, 1, n), dtype=np.float32)
    k = np.zeros((1, n), np.float32)
    k[0, 0], k[0, 1], k[0, n - 3] = 1, -0.5, 0.25
    y = FlashFFTConv(n, "float32")(u, k)
    y -= u
    y += 0.5 * np.roll(u, 1, -1)
    y -= 0.25 * np.roll(u, -3, -1)
    assert norm(y[0]) <= 2 * TOLERANCE["float32"] * norm(u[0])


@big
def test_more_than_2_to_31_elements():
    """Offsets are 64 bits wide, where the original's are 32."""
    rows = np.random.default_rng(0).standard_normal((1, 8, 65536)).astype(np.float16)
    k = np.zeros((8, 3), np.float32)
    k[:, 2] = 2
    y = FlashFFTConv(65536)(np.broadcast_to(rows, (4100, 8, 65536)), k)
    assert y.size > 2**31
    want = 2 * np.roll(rows.astype(np.float32), 2, -1)
    for b in (0, 2047, 4095, 4096, 4099):
        assert np.abs(y[b] - want[0]).max() < 1e-2


@pytest.mark.parametrize("length", [1, 3, 97, 1000, 1021])
def test_odd_lengths(length):
    """L may be odd, where the original reads a misaligned address (issue 20)."""
    case = Case(
        2,
        3,
        length,
        length,
        "float16",
        k_dtype="float32",
        mode="circular",
        fft_size=1024,
        options=("in_gate", "out_gate"),
    )
    check_forward(case, FlashFFTConv(1024)(case.u, case.k, **case.operands))


def test_parts_of_one_projection():
    """Gates may have any strides, where the original reads them as if contiguous."""
    case = Case(
        2, 3, 100, 100, "float16", mode="circular", fft_size=256, options=("in_gate", "out_gate")
    )
    f = FlashFFTConv(256)
    want = f(case.u, case.k, **case.operands)
    whole = np.concatenate([case.u, *case.operands.values()], 1)
    y = f(whole[:, :3], case.k, whole[:, 3:6], whole[:, 6:])
    assert same_bits(y, want)


def test_their_names():
    """pregate, postgate and use_32_butterfly, the original's names, are taken."""
    case = Case(
        2, 3, 100, 100, "float16", mode="circular", fft_size=256, options=("in_gate", "out_gate")
    )
    f, g = FlashFFTConv(256), FlashFFTConv(256, use_32_butterfly=False)
    gates = case.operands
    want = f(case.u, case.k, **gates)
    assert same_bits(want, g(case.u, case.k, pregate=gates["in_gate"], postgate=gates["out_gate"]))
    with pytest.raises(ValueError, match="pregate is given beside in_gate"):
        f(case.u, case.k, gates["in_gate"], pregate=gates["in_gate"])
    with pytest.raises(ValueError, match="postgate is given beside out_gate"):
        f.backward(case.dy, case.u, case.k, None, gates["in_gate"], postgate=gates["in_gate"])


@pytest.mark.parametrize(
    "gates", [(), ("in_gate",), ("out_gate",), ("in_gate", "out_gate")], ids="+".join
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_backward(dtype, gates):
    """Gradients are right, also with a large mean, which overflows in the original, and dk has k's
    shape."""
    case = Case(
        3, 2, 500, 400, dtype, k_dtype="float32", mode="circular", fft_size=1024, options=gates
    )
    f = FlashFFTConv(1024, dtype)
    check_gradients(case, f.backward(case.dy, case.u, case.k, **case.operands))
    g = f.backward(case.dy, case.u, case.k[None], **case.operands)
    assert g.dk.shape == (1, 2, 400)
    case.u = (case.u.astype(np.float32) + 30).astype(case.u.dtype)
    check_gradients(
        case, f.backward(case.dy, case.u, case.k, needs=("k",), **case.operands), needs=("k",)
    )
    with pytest.raises(ValueError, match="u has dtype float64"):
        f.backward(case.dy, case.u.astype(np.float64), case.k)


# ---- PartialFFTConv and FrequencySparseFFTConv -----------------------------------


def sparse_oracle(x, k, n_partial, frequency):
    """The few lines of the original, in float64: the FFT size is 2 L."""
    n = 2 * x.shape[-1]
    x, k = x.astype(np.float64), k.astype(np.float64)
    if not frequency:
        k = k[..., :n_partial]
    bins = np.fft.rfft(k, n)
    if frequency:
        bins[..., n_partial // 2 :] = 0
    return np.fft.irfft(np.fft.rfft(x, n) * bins, n)[..., : x.shape[-1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [PartialFFTConv, FrequencySparseFFTConv])
@pytest.mark.parametrize("length, taps", [(50, 50), (64, 20), (33, 90), (7, 14), (1, 1)])
def test_sparse(kind, length, taps, dtype):
    """N_partial acts as in the original, also for taps beyond L and beyond 2 L."""
    rng = np.random.default_rng(taps)
    k_dtype = "float64" if dtype == "float64" else "float32"
    case = Case(2, 3, length, taps, dtype, k_dtype=k_dtype)
    frequency = kind is FrequencySparseFFTConv
    for n_partial in (1, 2, 5, 32, length, 2 * length, 2 * length + 2, 1000):
        f = kind(n_partial)
        assert repr(f) == f"{kind.__name__}({n_partial})"
        y = f(case.u, case.k)
        assert y.dtype == case.u.dtype and y.shape == case.u.shape
        want = sparse_oracle(case.u, case.k, n_partial, frequency)
        size = norm(case.u) * norm(case.k) + 1e-30
        limit = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
        assert (norm(y - want.astype(np.float64)) <= limit * size).all()
        assert same_bits(y, f(case.u, case.k[None]))
        g = f.backward(case.dy, case.u, case.k)
        assert g.dk.shape == case.k.shape and g.dk.dtype == case.k.dtype
        # The adjoint identity, for both operands.
        other = rng.standard_normal(case.k.shape).astype(case.k.dtype)
        by_k = np.sum(
            sparse_oracle(case.u, other, n_partial, frequency) * case.dy.astype(np.float64)
        )
        by_x = np.sum(want * case.dy.astype(np.float64))
        size = (
            np.linalg.norm(case.dy.astype(np.float64))
            * np.linalg.norm(case.u.astype(np.float64))
            * (1 + np.linalg.norm(other))
        )
        assert abs(by_k - np.sum(g.dk * other.astype(np.float64))) <= limit * size
        assert (
            abs(by_x - np.sum(g.du.astype(np.float64) * case.u.astype(np.float64))) <= limit * size
        )


def test_sparse_gradients():
    """Only the gradients that are asked for are computed; taps that are cut off have zeros."""
    x, k = np.ones((2, 3, 20)), np.ones((3, 20))
    f = PartialFFTConv(5)
    g = f.backward(x, x, k)
    assert g.dk[:, :5].all() and not g.dk[:, 5:].any()
    want = reference.conv_backward(x, x, k[:, :5])
    assert np.allclose(g.dk[:, :5], want.dk) and np.allclose(g.du, want.du)
    assert f.backward(x, x, k, needs="u").dk is None
    assert f.backward(x, x, k, needs=("k",)).du is None


def test_sparse_errors():
    x, k = np.ones((1, 2, 8), np.float32), np.ones((2, 8), np.float32)
    for kind in (PartialFFTConv, FrequencySparseFFTConv):
        for n_partial in (0, -1, 2.5, None, "8"):
            with pytest.raises(ValueError, match="N_partial is"):
                kind(n_partial)
        for arguments, message in [
            ((x[0], k), r"x has shape \(2, 8\); it must be \(B, H, L\)"),
            ((x[..., :0], k), r"x has shape \(1, 2, 0\)"),
            ((x, k[0]), r"k has shape \(8,\); it must be \(H, Lk\)"),
            ((x, k[:, :0]), r"k has shape \(2, 0\)"),
            ((x, np.ones((3, 8), np.float32)), r"k has shape \(3, 8\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                kind(4)(*arguments)
        assert kind(4)(x, k.astype(np.float64)).dtype == np.float64


# ---- Bad input --------------------------------------------------------------------


def test_errors():
    f = FlashFFTConv(64, "float16")
    u, k = np.ones((1, 2, 64), np.float16), np.ones((2, 64), np.float32)
    f(u, k)
    for call, message in [
        (
            lambda: f(u.astype(np.float32), k),
            "u has dtype float32; this FlashFFTConv is for float16",
        ),
        (lambda: f(u.view(np.int16), k), "u has dtype int16, that is float64; this"),
        (lambda: f(np.ones((1, 2, 65), np.float16), k), "length is 65.*fft_size, 64"),
        (lambda: f(u, np.ones((2, 65), np.float32)), "k_length is 65.*fft_size, 64"),
        (lambda: f(u, k, u[:, :1, :3]), "in_gate has shape"),
        (lambda: f(u, k, None, u.astype(np.float32)), "out_gate has dtype float32"),
        (lambda: f(u, k.astype(np.float64)), "k has dtype float64"),
        (lambda: FlashFFTConv(0), "seqlen is 0"),
        (lambda: FlashFFTConv(64.0), "seqlen is 64.0"),
        (lambda: FlashFFTConv(64, "int8"), "dtype is 'int8'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
