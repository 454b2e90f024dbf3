"""The calls of hyena-dna's fftconv, with a test for each fault of the original."""

import re
import subprocess
import sys

import fftconv
import numpy as np
import pytest
from fftconv import natural, reference  # natural: no call shows its DFTs alone
from fftconv._array import empty, view
from support import normal, same_bits, slow, wide

KERNEL = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}
BINS = {"float64": "complex128", "float32": "complex64"}
# Limits of the error of a whole result relative to the reference, by its own dtype.
LIMIT = {
    "float64": 2e-14,
    "float32": 1.5e-6,
    "float16": 6e-4,
    "bfloat16": 4e-3,
    "complex64": 1.5e-6,
    "complex128": 2e-14,
}


def close(got, want, name="", scale=None):
    assert got.shape == want.shape, name
    assert np.isfinite(wide(got)).all(), f"{name}: not finite"
    norm = np.linalg.norm
    size = max(norm(want), norm(wide(want)) if scale is None else scale)
    error = norm(wide(got) - want) / (size or 1)
    assert error <= LIMIT[got.dtype.name], f"{name}: error {error:.3g}"


class Heads:
    """Random operands of one call.  k and k_rev are the taps of its filter that act."""

    def __init__(
        self,
        batch=2,
        channels=8,
        length=64,
        head_dim=8,
        n=None,
        dtype="float32",
        gates=True,
        seed=0,
    ):
        rng = np.random.default_rng([seed, batch, channels, length, head_dim])
        n = n or 2 * length
        rows, groups = (batch, channels, length), channels // head_dim
        self.kernel = kernel = KERNEL[dtype]
        self.u, self.v, self.q, self.dout = (normal(rng, rows, dtype) for _ in range(4))
        if not gates:
            self.v = self.q = None
        taps = rng.standard_normal((groups, n)) / np.sqrt(n)
        self.filter = np.fft.rfft(taps).astype(BINS[kernel])
        self.D = normal(rng, (groups,), kernel)
        self.mask = normal(rng, (batch, channels), kernel)
        self.h, self.n = head_dim, n

    @property
    def taps(self):
        """(k, k_rev) in float64: lags 0 ... L - 1, and lags -1 ... after a zero at lag 0."""
        taps = np.fft.irfft(self.filter.astype(complex), self.n)
        length = self.u.shape[-1]
        rev = np.zeros((len(taps), length))
        if length > 1:
            rev[:, 1:] = taps[:, :-length:-1]
        return taps[:, :length], rev

    def oracle(self, gelu=True, gelu_inp=False, gelu_q=False, dy=None):
        k, k_rev = self.taps
        return reference.conv_heads(
            self.u,
            self.v,
            self.q,
            k,
            self.h,
            k_rev=k_rev,
            skip=self.D,
            activation="gelu" if gelu else None,
            mask=self.mask[:, : len(k)],
            gelu_u=gelu_inp,
            gelu_q=gelu_q,
            dy=dy,
        )

    def fwd(
        self,
        gelu=True,
        gelu_inp=False,
        gelu_q=False,
        fp16=False,
        hbl=False,
        fftfp16=False,
        **options,
    ):
        """Calls fftconv_fwd by position, as hyena-dna does."""
        return fftconv.hyena.fftconv_fwd(
            self.u,
            self.filter,
            self.D,
            self.v,
            self.h,
            self.q,
            self.mask,
            gelu,
            gelu_inp,
            gelu_q,
            self.n,
            fp16,
            hbl,
            fftfp16,
            **options,
        )

    def bwd(self, gelu=True, gelu_inp=False, gelu_q=False, hbl=False, **options):
        return fftconv.hyena.fftconv_bwd(
            self.dout,
            self.u,
            self.filter,
            self.D,
            self.v,
            self.h,
            self.q,
            self.mask,
            gelu,
            gelu_inp,
            gelu_q,
            self.n,
            hbl,
            False,
            **options,
        )

    def check(self, *flags):
        close(self.fwd(*flags), self.oracle(*flags), "out")
        got, want = self.bwd(*flags), self.oracle(*flags, dy=self.dout)
        dk = np.fft.irfft(got.dfilter.astype(complex), self.n, norm="forward")
        length = self.u.shape[-1]
        scale = np.linalg.norm(wide(self.dout))  # for sums that may cancel
        limit = LIMIT[self.kernel] * max(scale, np.linalg.norm(want["k"]))
        assert np.linalg.norm(dk[:, :length] - want["k"]) <= limit
        assert (
            np.linalg.norm(dk[:, :-length:-1] - want["k_rev"][:, 1:] if length > 1 else 0) <= limit
        )
        # No other lag has a gradient.
        assert np.linalg.norm(dk[:, length : self.n - length + 1]) <= limit
        assert got.dfilter.shape == self.filter.shape
        close(got.du, want["u"], "du")
        close(got.dD, want["skip"], "dD", scale)
        if self.v is None:
            assert got.dv is None and got.dq is None
        else:
            close(got.dv, want["v"], "dv")
            close(got.dq, want["q"], "dq")
            assert got.dv.dtype == got.dq.dtype == self.u.dtype
        assert got.du.dtype == self.u.dtype


# ---- The operation -------------------------------------------------------------

SHAPES = [  # batch, channels, length, head_dim, fft_size
    (2, 8, 64, 8, 128),
    (1, 16, 33, 8, 66),
    (3, 6, 37, 3, 96),
    (2, 6, 20, 6, 1000),
    (2, 4, 100, 1, 200),
    (1, 4, 51, 2, 2 * 131),
    (2, 3, 1, 1, 2),
    (1, 2, 1, 2, 6),
    (1, 2, 3, 2, 6),
    (5, 20, 9, 4, 18),
]


@pytest.mark.parametrize("dtype", KERNEL)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    """Any divisor of H and any even fft_size from 2 L on are right: no power of two, even L or
    multiple of 16 channels is needed."""
    Heads(*shape, dtype=dtype).check()


@pytest.mark.parametrize("head_dim", [1, 4])
@pytest.mark.parametrize(
    "flags",
    [(False, False, False), (True, True, False), (False, False, True), (True, True, True)],
    ids=str,
)
def test_gelu_variants(head_dim, flags):
    """gelu, gelu_inp and gelu_q act, which do nothing in the original."""
    Heads(2, 8, 40, head_dim).check(*flags)


def test_without_gates():
    case = Heads(2, 5, 48, 1, gates=False)
    case.check()
    case.check(False, True)


def test_a_long_row():
    """A row of L = 10001 is right, where the original ends at 8192."""
    Heads(1, 2, 10001, 2, 20010).check()


def test_large_fft_size():
    """fft_size may be above 16384, the largest of the original, for few samples."""
    Heads(1, 2, 50, 1, 65536).check()


def test_no_D():
    case = Heads(2, 4, 20, 2)
    with_zeros = Heads(2, 4, 20, 2)
    with_zeros.D = np.zeros_like(case.D)
    case.D = None
    close(case.fwd(), with_zeros.oracle())
    assert case.bwd().dD is None


@pytest.mark.parametrize("head_dim", [2, 8])
def test_mask_is_read_at_b_g(head_dim):
    """The mask's first H / head_dim columns alone are read, with any strides."""
    case = Heads(2, 16, 30, head_dim)
    want = case.fwd()
    groups = 16 // head_dim
    case.mask[:, groups:] = np.nan
    assert same_bits(case.fwd(), want)
    case.mask = np.asfortranarray(case.mask)
    assert same_bits(case.fwd(), want)


@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize("n", [128, 2 * 67])
def test_imaginary_parts_that_do_not_act(head_dim, n):
    """The imaginary parts of the filter at DC and at the Nyquist frequency do not act."""
    case = Heads(1, 4, 60, head_dim, n)
    want = case.fwd()
    case.filter[:, 0] += 3j
    case.filter[:, -1] -= 5j
    assert same_bits(case.fwd(), want)
    dfilter = case.bwd().dfilter
    assert not dfilter[:, 0].imag.any() and not dfilter[:, -1].imag.any()


def test_fft_size_from_the_filter():
    case = Heads(2, 4, 20, 2, 66)
    assert same_bits(
        fftconv.hyena.fftconv_fwd(case.u, case.filter, case.D, case.v, 2, case.q, case.mask),
        case.fwd(),
    )


def test_fftfp16_is_accepted():
    """fftfp16 is accepted, and computed in float32: the original launches no kernel for it."""
    case = Heads(2, 8, 32, 8)
    assert same_bits(case.fwd(fftfp16=True), case.fwd())


@pytest.mark.parametrize("head_dim", [1, 2])
def test_forced_float16(head_dim):
    for dtype, out in (("float32", "float16"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        case = Heads(2, 4, 64, head_dim, dtype=dtype)
        y = case.fwd(fp16=True)
        assert y.dtype == np.dtype(out)
        close(y, case.oracle())
        # dout may come in the result's type.
        case.dout = case.dout.astype(np.float16)
        close(case.bwd().du, case.oracle(dy=case.dout)["u"], "du")


@pytest.mark.parametrize("head_dim", [1, 2])
def test_hbl_layout(head_dim):
    case = Heads(3, 4, 50, head_dim)
    y = case.fwd(hbl=True)
    assert y.shape == (3, 4, 50) and y.transpose(1, 0, 2).flags.c_contiguous
    assert same_bits(np.ascontiguousarray(y), case.fwd())
    want = case.bwd()
    case.dout = np.ascontiguousarray(case.dout.transpose(1, 0, 2)).transpose(1, 0, 2)
    for a, b in zip(case.bwd(hbl=True), want):
        assert same_bits(a, b)


@pytest.mark.parametrize("head_dim", [1, 2])
def test_parts_of_one_projection(head_dim):
    """u, v and q may be parts of one (B, 3 H, L) array, where the original writes out of bounds."""
    case = Heads(2, 4, 31, head_dim)
    whole = np.concatenate([case.u, case.v, case.q], 1)
    want, gradients = case.fwd(), case.bwd()
    case.u, case.v, case.q = whole[:, :4], whole[:, 4:8], whole[:, 8:]
    before = whole.copy()
    assert same_bits(case.fwd(), want)
    for a, b in zip(case.bwd(), gradients):
        assert same_bits(a, b)
    assert same_bits(whole, before)


@pytest.mark.parametrize("head_dim", [1, 2, 4])
def test_any_strides(head_dim):
    case = Heads(2, 4, 31, head_dim)
    want, gradients = case.fwd(), case.bwd()
    case.u = np.ascontiguousarray(case.u.transpose(2, 0, 1)).transpose(1, 2, 0)
    case.v = np.repeat(case.v, 2, axis=2)[..., ::2]
    case.q = case.q[..., ::-1].copy()[..., ::-1]
    case.dout = np.asfortranarray(case.dout)
    case.filter = np.repeat(case.filter, 3, axis=1)[:, ::3]
    case.D = np.repeat(case.D, 2)[::2]
    assert same_bits(case.fwd(), want)
    for a, b in zip(case.bwd(), gradients):
        assert same_bits(a, b)


@pytest.mark.parametrize(
    "shape", [(9, 8, 40, 8), (20, 4, 40, 2), (3, 40, 16, 2), (2, 2, 3000, 2)], ids=str
)
def test_threads_and_runs_agree(shape):
    """Any number of threads and any repetition give the same bits, sums over the batch included:
    the original's dv differs from run to run."""
    case = Heads(*shape)
    first = (case.fwd(threads=1), *case.bwd(threads=1))
    for threads in (1, 2, 5):
        for a, b in zip((case.fwd(threads=threads), *case.bwd(threads=threads)), first):
            assert same_bits(a, b)


def test_a_row_knows_no_other():
    """A NaN in one row stays in its batch entry and group."""
    case = Heads(3, 4, 40, 2)
    want = case.fwd()
    case.u[1, 2] = np.nan
    y = case.fwd()
    assert np.isnan(y[1, 2:]).all()
    y[1, 2:] = want[1, 2:]
    assert same_bits(y, want)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@slow
def test_memory_does_not_grow_with_the_batch():
    """64 rows of 64 pairs of channels would take 64 MiB, and three times that backward."""
    program = """
import re, numpy as np, fftconv
def peak():
    text = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s*(\\d+)", text).group(1)) / 1024
u = np.ones((64, 8, 4096), np.float32)
k, D = np.ones((1, 4096), np.float32), np.ones(1, np.float32)
fftconv.hyena.fftconv_func(u[:1], k, D, v=u[:1], q=u[:1], head_dim=8)
fftconv.hyena.fftconv_func_backward(u[:1], u[:1], k, D, v=u[:1], q=u[:1], head_dim=8)
before = peak()
fftconv.hyena.fftconv_func(u, k, D, v=u, q=u, head_dim=8)
middle = peak()
fftconv.hyena.fftconv_func_backward(u, u, k, D, v=u, q=u, head_dim=8)
print(middle - before, peak() - middle)
"""
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    forward, backward = map(float, output.split())
    # The results themselves are 8 MiB each.
    assert forward < 8 + 6 and backward < 3 * 8 + 8, output


# ---- fftconv_func ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", KERNEL)
@pytest.mark.parametrize("head_dim", [1, 2])
@pytest.mark.parametrize(
    "taps, reverse", [(40, None), (17, None), (90, None), (1, None), (40, 40), (13, 7), (90, 100)]
)
def test_func(dtype, head_dim, taps, reverse):
    """fftconv_func takes kernels of any length and a k_rev of its own, and gives dk and dk_rev of
    their lengths."""
    case = Heads(2, 4, 40, head_dim, dtype=dtype)
    rng = np.random.default_rng(taps)
    groups = 4 // head_dim
    k = normal(rng, (groups, taps), case.kernel, taps**-0.5)
    k_rev = None if reverse is None else normal(rng, (groups, reverse), case.kernel, reverse**-0.5)
    y = fftconv.hyena.fftconv_func(
        case.u, k, case.D, case.mask, True, False, False, case.v, head_dim, case.q, False, k_rev
    )
    arguments = (case.u, case.v, case.q, k, head_dim)
    options = dict(k_rev=k_rev, skip=case.D, activation="gelu", mask=case.mask[:, :groups])
    close(y, reference.conv_heads(*arguments, **options), "out")
    got = fftconv.hyena.fftconv_func_backward(
        case.dout, case.u, k, case.D, case.mask, True, False, case.v, head_dim, case.q, False, k_rev
    )
    want = reference.conv_heads(*arguments, dy=case.dout, **options)
    scale = np.linalg.norm(wide(case.dout))  # for sums that may cancel
    for name, of in (("u", case.u), ("k", k), ("v", case.v), ("q", case.q), ("k_rev", k_rev)):
        x = getattr(got, "d" + name)
        if of is None:
            assert x is None
            continue
        assert x.dtype == of.dtype
        close(x, want[name], "d" + name, scale if name[0] == "k" else None)
    close(got.dD, want["skip"], "dD", scale)


def test_func_is_fwd_of_the_kernels_transform():
    case = Heads(2, 8, 32, 8)
    k, _ = case.taps
    k = k.astype(np.float32)
    case.filter = np.fft.rfft(k, 64).astype(np.complex64)
    close(
        fftconv.hyena.fftconv_func(case.u, k, case.D, case.mask, v=case.v, q=case.q, head_dim=8),
        case.oracle(),
    )
    k_rev = k[:, ::-1].copy()
    case.filter = (np.fft.rfft(k, 64) + np.conj(np.fft.rfft(k_rev, 64))).astype(np.complex64)
    y = fftconv.hyena.fftconv_func(
        case.u, k, case.D, case.mask, v=case.v, q=case.q, head_dim=8, k_rev=k_rev
    )
    taps = np.fft.irfft(case.filter.astype(complex), 64)
    assert np.allclose(taps[:, 0], k[:, 0] + k_rev[:, 0], atol=1e-6)
    close(y, case.oracle())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [1, 2])
def test_func_of_16_bit_kernels(dtype, head_dim):
    case = Heads(1, 4, 40, head_dim, dtype=dtype)
    k = case.taps[0].astype(case.u.dtype)
    arguments = (case.u, k, case.D, case.mask)
    options = dict(v=case.v, q=case.q, head_dim=head_dim)
    want = fftconv.hyena.fftconv_func(case.u, k.astype(np.float32), case.D, case.mask, **options)
    assert same_bits(fftconv.hyena.fftconv_func(*arguments, **options), want)
    g = fftconv.hyena.fftconv_func_backward(case.dout, *arguments, **options)
    assert g.dk.dtype == k.dtype
    close(
        g.dk,
        reference.conv_heads(
            case.u,
            case.v,
            case.q,
            k,
            head_dim,
            skip=case.D,
            activation="gelu",
            mask=case.mask[:, : len(k)],
            dy=case.dout,
        )["k"],
    )


# ---- Gradients ------------------------------------------------------------------


def test_finite_differences():
    """The gradients of sum(dout . out) equal finite differences in float64, for every operand."""
    case = Heads(2, 6, 9, 3, 20, dtype="float64")
    g = case.bwd(True, True, True)
    step = 1e-6
    rng = np.random.default_rng(1)
    for name, gradient in (("u", g.du), ("v", g.dv), ("q", g.dq), ("D", g.dD)):
        x = getattr(case, name)
        for _ in range(4):
            at = tuple(rng.integers(n) for n in x.shape)
            old, sums = x[at], []
            for x[at] in (old + step, old - step):
                sums.append(np.sum(case.fwd(True, True, True) * case.dout))
            x[at] = old
            slope = (sums[0] - sums[1]) / (2 * step)
            assert abs(slope - gradient[at]) < 1e-6 * max(1, abs(slope)), name
    # dfilter is defined as in hyena-dna: the inner bins act twice on a real row.
    for at, factor in (((0, 3), 2), ((1, 7), 2), ((0, 0), 1), ((1, 10), 1)):
        for way in (1, 1j) if factor == 2 else (1,):
            old, sums = case.filter[at], []
            for case.filter[at] in (old + way * step, old - way * step):
                sums.append(np.sum(case.fwd(True, True, True) * case.dout))
            case.filter[at] = old
            slope = (sums[0] - sums[1]) / (2 * step)
            found = g.dfilter[at]
            found = factor * (found.real if way == 1 else found.imag)
            assert abs(slope - found) < 1e-6 * max(1, abs(slope)), at


@pytest.mark.parametrize("head_dim", [1, 2])
def test_adjoint_identity(head_dim):
    """Without GELU, out is linear in u, in v, in q and in (filter, D) together: <dout, out> = <du,
    u>, and so on."""
    case = Heads(2, 4, 50, head_dim, dtype="float64")
    out, g = case.fwd(False), case.bwd(False)
    total = np.sum(out * case.dout)
    weight = np.full(case.filter.shape[1], 2.0)
    weight[[0, -1]] = 1
    by_filter = np.sum(weight * (g.dfilter * np.conj(case.filter)).real)
    for found in (
        np.sum(g.du * case.u),
        np.sum(g.dv * case.v),
        np.sum(g.dq * case.q),
        by_filter + np.sum(g.dD * case.D),
    ):
        assert abs(found - total) < 1e-11 * np.linalg.norm(out) ** 2


# ---- Real DFTs ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", BINS)
@pytest.mark.parametrize(
    "n", [2, 4, 6, 8, 10, 96, 100, 254, 262, 1000, 1024, 2018, 4096, 6054, 65536, 2 * 10007]
)
def test_rfft(dtype, n, rng):
    """DFTs of every even length are right: of smooth ones and of those with large primes."""
    x = rng.standard_normal((2, n)).astype(dtype)
    want = np.fft.rfft(x.astype(np.float64))
    bins, out = empty(want.shape, BINS[dtype], None)
    bins[...] = np.nan
    natural.rfft(view(x, "x"), out)
    close(bins, want)
    assert not bins[:, 0].imag.any() and not bins[:, -1].imag.any()
    back, out = empty(x.shape, dtype, None)
    back[...] = np.nan
    natural.irfft(view(want.astype(BINS[dtype]), "bins"), out)
    close(back, x.astype(np.float64))


@pytest.mark.parametrize("n", [96, 2 * 101])
def test_rfft_of_any_strides(n, rng):
    x = rng.standard_normal((n, 3)).astype(np.float32).T
    want = np.fft.rfft(x.astype(np.float64))
    bins = np.full((n // 2 + 1, 3), np.nan, np.complex64).T
    natural.rfft(view(x, "x"), view(bins, "bins"), threads=2)
    close(bins, want)
    back = np.full((n, 3), np.nan, np.float32).T
    natural.irfft(view(bins, "bins"), view(back, "back"), threads=3)
    close(back, x.astype(np.float64))


# ---- Bad input ------------------------------------------------------------------


def _bad():
    case = Heads(2, 8, 32, 4)
    good = dict(
        u=case.u,
        filter=case.filter,
        D=case.D,
        v=case.v,
        head_dim=4,
        q=case.q,
        dropout_mask=case.mask,
        fft_size=64,
    )
    z = case.u.astype(np.complex64)
    return good, [
        (dict(v=None), r"q is given and v is None; v and q come together"),
        (dict(q=None), r"v is given and q is None"),
        (dict(v=None, q=None), r"v and q are None; with head_dim = 4"),
        (dict(u=case.u[0]), r"u has shape \(8, 32\); it must be \(B, H, L\)"),
        (dict(u=case.u[..., :0]), r"u has shape \(2, 8, 0\)"),
        (dict(u=z), r"u has dtype complex64; it must be real"),
        (dict(v=case.v[:, :4]), r"v has shape \(2, 4, 32\).*\(2, 8, 32\)"),
        (dict(q=z), r"q has dtype complex64; it must be real"),
        (dict(head_dim=3), r"head_dim is 3; it must divide H = 8"),
        (dict(head_dim=0), r"head_dim is 0"),
        (dict(head_dim=2.0), r"head_dim is 2.0"),
        (dict(fft_size=62), r"fft_size is 62; .*at least 2 L = 64"),
        (dict(fft_size=65), r"fft_size is 65; it must be even"),
        (dict(fft_size=66), r"filter has shape \(2, 33\).*\(2, 34\)"),
        (dict(filter=case.filter[:, :32]), r"filter has shape \(2, 32\)"),
        (dict(filter=case.filter[:1]), r"filter has shape \(1, 33\)"),
        (dict(D=np.ones(8, np.float32)), r"D has shape \(8,\).*\(2,\)"),
        (dict(D=np.ones(2, np.complex64)), r"D has dtype complex64; it must be real"),
        (
            dict(dropout_mask=case.mask[:, :2]),
            r"dropout_mask has shape \(2, 2\); it must be \(2, 8\)",
        ),
        (dict(dropout_mask=case.mask + 0j), r"dropout_mask has dtype complex\d+; it must be real"),
        (dict(threads=0), r"threads is 0"),
    ]


GOOD, BAD = _bad()


@pytest.mark.parametrize("arguments, message", BAD, ids=[m[:40] for _, m in BAD])
def test_errors(arguments, message):
    call = {**GOOD, **arguments}
    with pytest.raises(ValueError, match=message):
        fftconv.hyena.fftconv_fwd(**call)
    with pytest.raises(ValueError, match=message):
        fftconv.hyena.fftconv_bwd(GOOD["u"], **call)


def test_other_errors():
    u = GOOD["u"]
    with pytest.raises(ValueError, match="dout has shape"):
        fftconv.hyena.fftconv_bwd(u[:1], **GOOD)
    with pytest.raises(ValueError, match="dout has dtype complex64; it must be real"):
        fftconv.hyena.fftconv_bwd(u.astype(np.complex64), **GOOD)
    with pytest.raises(ValueError, match="gelu_q is True and q is None"):
        fftconv.hyena.fftconv_fwd(
            **{
                **GOOD,
                "v": None,
                "q": None,
                "head_dim": 1,
                "filter": np.repeat(GOOD["filter"], 4, 0),
                "D": None,
                "gelu_q": True,
            }
        )
    for filter in (GOOD["filter"][:, :-1], 3.0):
        with pytest.raises(ValueError, match=r"filter has shape"):
            fftconv.hyena.fftconv_fwd(**{**GOOD, "filter": filter, "fft_size": None})
    wide_u = u.astype(np.float64)
    with pytest.raises(ValueError, match="force_fp16_output.*float64"):
        fftconv.hyena.fftconv_fwd(
            wide_u, GOOD["filter"].astype(complex), None, wide_u, 4, wide_u, force_fp16_output=True
        )
    k = np.ones((2, 32), np.float32)
    for bad, message in [
        (k[:1], r"k has shape \(1, 32\); it must be \(H / head_dim, Lk\)"),
        (k[:, :0], r"k has shape \(2, 0\)"),
        (k[0], r"k has shape \(32,\)"),
        (k.astype(np.complex64), "k has dtype complex64; it must be real"),
    ]:
        with pytest.raises(ValueError, match=message):
            fftconv.hyena.fftconv_func(u, bad, None, v=u, q=u, head_dim=4)
        with pytest.raises(ValueError, match=re.sub("^k", "k_rev", message)):
            fftconv.hyena.fftconv_func_backward(u, u, k, None, v=u, q=u, head_dim=4, k_rev=bad)


def test_calls_by_position():
    """The signatures equal hyena-dna's, argument by argument."""
    import inspect

    names = {
        f: list(inspect.signature(getattr(fftconv.hyena, f)).parameters)
        for f in ("fftconv_fwd", "fftconv_bwd", "fftconv_func")
    }
    assert names["fftconv_fwd"][:14] == [
        "u",
        "filter",
        "D",
        "v",
        "head_dim",
        "q",
        "dropout_mask",
        "gelu",
        "gelu_inp",
        "gelu_q",
        "fft_size",
        "force_fp16_output",
        "output_hbl_layout",
        "fftfp16",
    ]
    assert names["fftconv_bwd"][:14] == [
        "dout",
        "u",
        "filter",
        "D",
        "v",
        "head_dim",
        "q",
        "dropout_mask",
        "gelu",
        "gelu_inp",
        "gelu_q",
        "fft_size",
        "output_hbl_layout",
        "fftfp16",
    ]
    assert names["fftconv_func"][:12] == [
        "u",
        "k",
        "D",
        "dropout_mask",
        "gelu",
        "force_fp16_output",
        "output_hbl_layout",
        "v",
        "head_dim",
        "q",
        "fftfp16",
        "k_rev",
    ]
