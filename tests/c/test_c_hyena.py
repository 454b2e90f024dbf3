"""Real DFTs, heads and short convolutions of the C interface refuse bad arguments with a status and
a message, and write nothing."""

import ctypes
from ctypes import byref, c_void_p

import fftconv
import numpy as np
import pytest
from c_calls import CIRCULAR, TWO_SIDED, call, new_plan, refused, tensor
from fftconv import _lib, reference
from fftconv._lib import DepthwiseDesc, HeadsDesc, RdftDesc

B, H, HEAD, L, LK, LREV = 2, 6, 3, 32, 20, 10


# ---- Heads ----------------------------------------------------------------------


@pytest.fixture
def plan():
    p = new_plan(
        batch=1, channels=HEAD, kernels=1, length=L, k_length=LK, mode=TWO_SIDED, k_rev_length=LREV
    )
    yield p
    _lib.lib.fftconv_plan_destroy(p)


class Arrays:
    """A right call's arrays, and its structure made from them."""

    def __init__(self, kind, shapes, **fields):
        self.kind, self.fields = kind, fields
        self.arrays = {
            name: np.full(
                shape,
                7 if name in ("y", "next_state") or name.startswith("d") and name != "dy" else 1,
                np.float32,
            )
            for name, shape in shapes.items()
        }

    def made(self, **changes):
        o = self.kind(size=ctypes.sizeof(self.kind), **self.fields)
        for name, x in self.arrays.items():
            setattr(o, name, tensor(x))
        for name, value in changes.items():
            setattr(o, name, value)
        return o

    def untouched(self):
        return all((x == x.flat[0]).all() for x in self.arrays.values())


@pytest.fixture
def heads():
    rows, groups = (B, H, L), H // HEAD
    taps = {"k": (1, groups, LK), "k_rev": (1, groups, LREV)}
    numbers = {"skip": (1, groups, 1), "mask": (B, groups, 1)}
    gradients = {
        "du": rows,
        "dv": rows,
        "dq": rows,
        "dk": taps["k"],
        "dk_rev": taps["k_rev"],
        "dskip": numbers["skip"],
    }
    return Arrays(
        HeadsDesc,
        {**dict.fromkeys(("u", "v", "q", "y", "dy"), rows), **taps, **numbers, **gradients},
    )


def none():
    return _lib.Tensor()


def test_heads(plan, heads):
    functions = "fftconv_heads_forward", "fftconv_heads_backward"
    for name in functions:
        refused(name, None, byref(heads.made()), words="plan is NULL")
        refused(name, plan, None, words="desc is NULL")
        u = heads.arrays["u"]
        for change, words in [
            (dict(size=3), "desc->size is 3"),
            (dict(activation=9), "activation is 9"),
            (dict(threads=-1), "threads is -1"),
            (dict(u=none()), "u is NULL"),
            (dict(v=none()), "v is NULL, must be given where head_dim"),
            (dict(q=none()), "q is NULL"),
            (dict(k=none()), "k is NULL"),
            (dict(k_rev=none()), "k_rev is NULL"),
            (dict(u=tensor(u, (B, 5, L))), ("u has shape (2, 5, 32)", "multiple of the plan's 3")),
            (dict(u=tensor(u, (0, H, L))), "batch at least 1"),
            (dict(u=tensor(u, (B, H, L - 1))), "u has shape (2, 6, 31)"),
            (dict(v=tensor(u, (1, H, L))), "v has shape (1, 6, 32)"),
            (dict(u=tensor(u, dtype="float64")), "u has dtype float64"),
            (dict(u=tensor(u, dtype="complex64")), "u has dtype complex"),
            (dict(k=tensor(heads.arrays["k"], dtype="float16")), "k has dtype float16"),
            (dict(mask=tensor(heads.arrays["mask"], (B, H, 1))), "mask has shape (2, 6, 1)"),
        ]:
            refused(name, plan, byref(heads.made(**change)), words=words)
    y = heads.arrays["y"]
    for change, words in [
        (dict(y=none()), "y is NULL"),
        (dict(y=tensor(heads.arrays["u"])), "y overlaps u"),
        (dict(y=tensor(y, strides=(0, L, 1))), "a place of its own"),
        (dict(y=tensor(y, dtype="float64")), "y has dtype float64"),
    ]:
        refused(functions[0], plan, byref(heads.made(**change)), words=words)
    for change, words in [
        (dict(dy=none()), "dy is NULL"),
        (dict(du=tensor(heads.arrays["dv"])), "dv overlaps du"),
        (dict(skip=none()), "dskip is given, must be NULL where skip"),
        (dict(dk=tensor(heads.arrays["k"])), "dk overlaps k"),
    ]:
        refused(functions[1], plan, byref(heads.made(**change)), words=words)
    assert heads.untouched()
    for name in functions:
        assert call(name, plan, byref(heads.made()))[0] == _lib.OK


def test_plans_for_heads(heads):
    """A plan for heads must have one group and one kernel, in float32 or float64."""
    for change in (
        dict(batch=2),
        dict(kernels=3),
        dict(dtype=_lib.DTYPES["float16"]),
        dict(dtype=_lib.DTYPES["complex64"]),
    ):
        p = new_plan(**{**dict(batch=1, channels=HEAD, kernels=1, length=L, k_length=LK), **change})
        refused(
            "fftconv_heads_forward", p, byref(heads.made()), words="must have batch 1, 1 kernel"
        )
        _lib.lib.fftconv_plan_destroy(p)
    p = new_plan(batch=1, channels=HEAD, kernels=1, length=L, k_length=LK, mode=CIRCULAR)
    refused(
        "fftconv_heads_forward", p, byref(heads.made()), words="k_rev is given, must be NULL unless"
    )
    assert call("fftconv_heads_forward", p, byref(heads.made(k_rev=none())))[0] == _lib.OK
    _lib.lib.fftconv_plan_destroy(p)
    assert np.isfinite(heads.arrays["y"]).all()


# ---- Real DFTs ------------------------------------------------------------------


def rdft_desc(n=8, dtype="float32", **fields):
    return RdftDesc(
        **{"size": ctypes.sizeof(RdftDesc), "n": n, "dtype": _lib.DTYPES[dtype], **fields}
    )


def new_rdft(*arguments, **fields):
    t = c_void_p()
    status, message = call("fftconv_rdft_create", byref(t), byref(rdft_desc(*arguments, **fields)))
    assert status == _lib.OK, message
    return t


def test_rdft():
    t = c_void_p()
    for changes, words in [
        (dict(size=0), "desc->size is 0"),
        (dict(size=ctypes.sizeof(RdftDesc) + 8), "desc->size is"),
        (dict(n=0), "n is 0"),
        (dict(n=-2), "n is -2"),
        (dict(n=2**41), "n is 21"),
        (dict(dtype="float16"), "dtype is 3"),
        (dict(dtype="complex64"), "dtype is 6"),
        (dict(threads=-1), "threads is -1"),
        (dict(threads=256), "threads is 256"),
        (dict(isa=b"sse9"), "isa"),
        (dict(n=7, isa=b"sse9"), "isa"),
    ]:
        t.value = 123
        refused("fftconv_rdft_create", byref(t), byref(rdft_desc(**changes)), words=words)
        assert not t.value
    refused("fftconv_rdft_create", None, byref(rdft_desc()), words="rdft is NULL")
    t.value = 123
    refused("fftconv_rdft_create", byref(t), None, words="desc is NULL")
    assert not t.value
    call("fftconv_rdft_destroy", None)
    for n in (8, 7):
        check_calls_of_rdft(n)


def check_calls_of_rdft(n):
    """Real DFTs refuse bad arguments, and a right call succeeds."""
    t, points = new_rdft(n), n // 2 + 1
    rows = np.full((2, 3, n), 7, np.float32)
    bins = np.full((2, 3, points), 7, np.complex64)
    a, b = tensor(rows), tensor(bins, dtype="complex64")
    for name, first, second in (("fftconv_rdft_forward", a, b), ("fftconv_rdft_inverse", b, a)):

        def bad(x, y, words):
            refused(name, t, x and byref(x), y and byref(y), 1.0, words=words)

        refused(name, None, byref(first), byref(second), 1.0, words="rdft is NULL")
        bad(None, second, "is NULL, must be given")
        bad(first, None, "is NULL, must be given")
        bad(none(), second, "is NULL, must be given")
        bad(first, none(), "is NULL, must be given")
        swap = {id(a): tensor(rows, dtype="float64"), id(b): tensor(bins, dtype="float32")}
        bad(swap[id(first)], second, "has dtype")
        bad(first, swap[id(second)], "has dtype")
        short = {
            id(a): tensor(rows, (2, 3, n - 1)),
            id(b): tensor(bins, (2, 3, points - 1), dtype="complex64"),
        }
        bad(short[id(first)], second, "has shape")
        bad(first, short[id(second)], "has shape")
        other = {
            id(a): tensor(rows, (2, 2, n)),
            id(b): tensor(bins, (1, 3, points), dtype="complex64"),
        }
        bad(first, other[id(second)], "has shape")
        far = {
            id(a): tensor(rows, strides=(0, n, 1)),
            id(b): tensor(bins, strides=(0, points, 1), dtype="complex64"),
        }
        bad(first, far[id(second)], "a place of its own")
    both = np.full(64, 7, np.float32)
    refused(
        "fftconv_rdft_forward",
        t,
        byref(tensor(both, (1, 2, n))),
        byref(tensor(both[4:], (1, 2, points), dtype="complex64")),
        1.0,
        words="bins overlaps rows",
    )
    assert (rows == 7).all() and (bins == 7).all() and (both == 7).all()
    assert call("fftconv_rdft_forward", t, byref(a), byref(b), 1.0)[0] == _lib.OK
    if n == 8:
        assert (bins[..., 0] == 56).all() and not bins[..., 1:].any()
    else:
        assert np.allclose(bins[..., 0], 7 * n, rtol=1e-6) and np.abs(bins[..., 1:]).max() < 1e-4
    call("fftconv_rdft_destroy", t)


@pytest.mark.parametrize(
    "n", [1, 2, 3, 7, 8, 9, 14, 15, 60, 97, 105, 331, 1000, 1009, 1024, 1025, 2 * 331, 4 * 331]
)
@pytest.mark.parametrize("isa", fftconv.isas())
def test_rdft_of_every_instruction_set(isa, n, rng):
    """Smooth, odd and prime lengths, down to one sample, are right."""
    for dtype, complex_dtype, limit in (
        ("float32", "complex64", 1e-6),
        ("float64", "complex128", 1e-14),
    ):
        rows = rng.standard_normal((2, 3, n)).astype(dtype)
        bins = np.full((2, 3, n // 2 + 1), np.nan, complex_dtype)
        back = np.full_like(rows, np.nan)
        tensors = (
            tensor(rows, dtype=dtype),
            tensor(bins, dtype=complex_dtype),
            tensor(back, dtype=dtype),
        )
        for threads in (1, 2, 9):
            t = new_rdft(n, dtype, threads=threads, isa=isa.encode())
            bins[...] = back[...] = np.nan
            _lib.lib.fftconv_rdft_forward(t, byref(tensors[0]), byref(tensors[1]), 0.5)
            want = 0.5 * np.fft.rfft(rows.astype(np.float64))
            assert np.abs(bins - want).max() <= limit * np.abs(want).max()
            _lib.lib.fftconv_rdft_inverse(t, byref(tensors[1]), byref(tensors[2]), 2 / n)
            assert np.abs(back - rows).max() <= 10 * limit
            call("fftconv_rdft_destroy", t)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 97, 2 * 97])
def test_rdft_of_bins_that_are_no_spectrum(n, rng):
    """The imaginary parts of bin 0 and, for even n, of bin n/2 do not act; any strides are
    right."""
    t = new_rdft(n, "float64")
    bins = rng.standard_normal((1, 2, n // 2 + 1, 2)).view(complex)[..., 0]
    real = bins.copy()
    real[..., 0] = bins[..., 0].real
    if n % 2 == 0:
        real[..., n // 2] = bins[..., n // 2].real
    wide = np.full((1, 2, 3 * n), np.nan)
    spread = np.full((1, 2, 2 * (n // 2) + 2), np.nan, complex)
    spread[..., ::2] = bins
    status, message = call(
        "fftconv_rdft_inverse",
        t,
        byref(
            tensor(spread, shape=bins.shape, strides=(0, spread.shape[2], 2), dtype="complex128")
        ),
        byref(tensor(wide, shape=(1, 2, n), strides=(0, 3 * n, 3), dtype="float64")),
        1 / n,
    )
    assert status == _lib.OK, message
    want = np.fft.irfft(real, n)
    assert np.abs(wide[..., ::3] - want).max() <= 1e-14 * np.abs(bins).max()
    assert np.isnan(wide[..., 1::3]).all() and np.isnan(wide[..., 2::3]).all()
    call("fftconv_rdft_destroy", t)


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("length, taps", [(40, 40), (700, 20)])
def test_heads_of_every_instruction_set(isa, length, taps, rng):
    """Heads are right on every instruction set, and in blocks, where the kernel is short."""
    p = new_plan(
        batch=1, channels=HEAD, kernels=1, length=length, k_length=taps, mode=0, isa=isa.encode()
    )
    arrays = {
        name: rng.standard_normal((B, H, length)).astype("float32")
        for name in ("u", "v", "q", "dy")
    }
    arrays["k"] = rng.standard_normal((1, H // HEAD, taps)).astype("float32")
    for name in ("y", "du", "dv", "dq"):
        arrays[name] = np.full((B, H, length), np.nan, "float32")
    arrays["dk"] = np.full_like(arrays["k"], np.nan)
    o = HeadsDesc(size=ctypes.sizeof(HeadsDesc), activation=1)
    for name, x in arrays.items():
        setattr(o, name, tensor(x))
    _lib.lib.fftconv_heads_forward(p, byref(o))
    _lib.lib.fftconv_heads_backward(p, byref(o))
    _lib.lib.fftconv_plan_destroy(p)
    call_of = (arrays["u"], arrays["v"], arrays["q"], arrays["k"][0], HEAD)
    found = {"y": reference.conv_heads(*call_of, activation="gelu")}
    found.update(
        {
            "d" + name: x
            for name, x in reference.conv_heads(
                *call_of, activation="gelu", dy=arrays["dy"]
            ).items()
        }
    )
    for name, want in found.items():
        got = arrays[name].reshape(want.shape)
        assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want), name


# ---- Short convolutions -----------------------------------------------------------

K = 4


@pytest.fixture
def short():
    rows, states = (B, H, L), (B, H, K - 1)
    return Arrays(
        DepthwiseDesc,
        {
            "x": rows,
            "weight": (1, H, K),
            "bias": (1, H, 1),
            "state": states,
            "y": rows,
            "next_state": states,
            "dy": rows,
            "dx": rows,
            "dweight": (1, H, K),
            "dbias": (1, H, 1),
            "dstate": states,
        },
        left=K - 1,
    )


def test_depthwise(short):
    functions = "fftconv_depthwise_forward", "fftconv_depthwise_backward"
    x, states = short.arrays["x"], short.arrays["state"]
    for name in functions:
        refused(name, None, words="desc is NULL")
        for change, words in [
            (dict(size=8), "desc->size is 8"),
            (dict(activation=-1), "activation is -1"),
            (dict(threads=256), "threads is 256"),
            (dict(isa=b"none"), "isa"),
            (dict(x=none()), "x is NULL"),
            (dict(weight=none()), "weight is NULL"),
            (dict(left=2), "left is 2, must be 3"),
            (dict(x=tensor(x, (B, 0, L))), "x has shape (2, 0, 32)"),
            (dict(weight=tensor(x, (1, H, 0))), "weight has 0 taps"),
            (dict(weight=tensor(x, (1, 5, K))), "weight has shape"),
            (dict(bias=tensor(x, (1, H, 2))), "bias has shape"),
            (dict(state=tensor(states, (B, H, 2))), "state has shape"),
            (dict(x=tensor(x, dtype="complex64")), "x has dtype"),
            (dict(x=tensor(x, strides=(2**62, L, 1))), "x has stride"),
        ]:
            refused(name, byref(short.made(**change)), words=words)
    refused(
        functions[0],
        byref(short.made(left=2**50, state=none(), next_state=none(), dstate=none())),
        words="left is 11258999",
    )
    for change, words in [
        (dict(y=none()), "y is NULL"),
        (dict(y=tensor(x)), "y overlaps x"),
        (dict(y=tensor(short.arrays["y"], (B, H, 0))), "y has length 0"),
        (dict(y=tensor(short.arrays["y"], strides=(0, L, 1))), "a place of its own"),
        (
            dict(next_state=tensor(states, strides=(18, 3, -1))),
            "next_state overlaps state, must not unless",
        ),
    ]:
        refused(functions[0], byref(short.made(**change)), words=words)
    for change, words in [
        (dict(dy=none()), "dy is NULL"),
        (dict(dx=tensor(short.arrays["dy"])), "dx overlaps dy"),
        (dict(bias=none()), "dbias is given, must be NULL where bias"),
        (dict(state=none()), "dstate is given, must be NULL where state"),
        (dict(dweight=tensor(short.arrays["weight"])), "dweight overlaps weight"),
    ]:
        refused(functions[1], byref(short.made(**change)), words=words)
    assert short.untouched()
    for name in functions:
        assert call(name, byref(short.made()))[0] == _lib.OK


def test_a_state_in_its_own_memory(short):
    """next_state may be the state's own memory, also in a call that is shorter than the state."""
    for length in (L, 2, 1):
        x = np.arange(B * H * length, dtype=np.float32).reshape(B, H, length)
        state = -1 - np.arange(B * H * 3, dtype=np.float32).reshape(B, H, 3)
        want = np.concatenate([state, x], 2)[..., length:]
        y = np.zeros_like(x)
        o = short.made(x=tensor(x), y=tensor(y), state=tensor(state), next_state=tensor(state))
        assert call("fftconv_depthwise_forward", byref(o))[0] == _lib.OK
        assert (state == want).all()
