"""Sizes that no machine has: each is refused, by a message that names the argument, before anything
is written, whatever its products are modulo 2^64."""

import ctypes
import time
from ctypes import byref, c_int64, c_void_p

import numpy as np
import pytest
from c_calls import TWO_SIDED, Call, call, desc, info_of, new_plan, refused, spectra_desc, tensor
from fftconv import _lib
from fftconv._lib import DepthwiseDesc, HeadsDesc, Operands, RdftDesc, SsmDesc

NUMBERS = np.ones(64)


def repeated(*shape, dtype="float32"):
    """A tensor of any shape, each of whose elements is the same one."""
    return tensor(NUMBERS, shape=shape, strides=(0, 0, 0), dtype=dtype)


def depthwise(**fields):
    return DepthwiseDesc(size=ctypes.sizeof(DepthwiseDesc), **fields)


def test_depthwise():
    y = np.full((1, 1, 4), 7, "float32")
    one = dict(x=repeated(1, 1, 4), y=tensor(y))
    for left in (-(2**63), 2**63 - 1, -(2**41) - 1):
        d = depthwise(weight=repeated(1, 1, 2), left=left, **one)
        refused("fftconv_depthwise_forward", byref(d), words=("left", "2^41"))
    d = depthwise(weight=repeated(1, 1, 2**40 + 1), **one)
    refused("fftconv_depthwise_forward", byref(d), words=("weight", "2^40"))
    # the tables of taps: 2^62 numbers in all, but 0 modulo 2^64 bytes
    wide = dict(x=repeated(1, 2**21, 1), y=tensor(y, shape=(1, 2**21, 1)))
    d = depthwise(weight=repeated(1, 2**21, 2**40), **wide)
    refused("fftconv_depthwise_forward", byref(d), words=("weight has shape", "2^58"))
    # within 2^58 elements, of which the tables still are too large
    d = depthwise(weight=repeated(1, 2**18, 2**40, dtype="float64"), **wide)
    d.x, d.y = repeated(1, 2**18, 1), tensor(y, shape=(1, 2**18, 1))
    refused("fftconv_depthwise_forward", byref(d), words=("weight has shape", "2^62 bytes"))
    assert np.all(y == 7)


def test_heads():
    """Sums of gradients for each of 2^31 groups."""
    for taps, words in ((2**30 - 16, ("k has shape", "2^58")), (2**27, ("u has shape", "2^62"))):
        plan = new_plan(
            batch=1,
            channels=1,
            kernels=1,
            length=4,
            k_length=taps,
            k_rev_length=taps,
            mode=TWO_SIDED,
            dtype=_lib.DTYPES["float64"],
        )
        u, k = repeated(1, 2**31, 4, dtype="float64"), repeated(1, 2**31, taps, dtype="float64")
        d = HeadsDesc(size=ctypes.sizeof(HeadsDesc), u=u, dy=u, k=k, k_rev=k)
        refused("fftconv_heads_backward", plan, byref(d), words=words)
        _lib.lib.fftconv_plan_destroy(plan)


@pytest.mark.parametrize("batch, channels", [(1, 2**57), (2**57, 1), (2**28, 2**29), (2, 2**57)])
def test_plans_of_many_rows(batch, channels):
    """Such a plan is refused, or knows what its calls need, and those are refused."""
    plan = c_void_p()
    d = desc(batch=batch, channels=channels, length=1, k_length=1, kernel_batch=min(batch, 2))
    if batch > 2:
        d.kernel_batch = 1
    status, message = call("fftconv_plan_create", byref(plan), byref(d))
    if status:
        assert status == _lib.INVALID and "channels" in message and "2^62 bytes" in message
        return
    info, need = info_of(plan), c_int64()
    for size in (info.spectrum_bytes, info.forward_workspace_bytes, info.backward_workspace_bytes):
        assert 0 < size <= 2**62
    row = repeated(batch, channels, 1)
    o = Operands(size=ctypes.sizeof(Operands), u=row, k=repeated(1, channels, 1))
    for direction in (_lib.FORWARD, _lib.BACKWARD):
        status, message = call(
            "fftconv_workspace_bytes", plan, None, byref(o), direction, byref(need)
        )
        assert status == _lib.OK and 0 < need.value <= 2**62, message
    # all the rows' spectra, whose end is where they begin modulo 2^64
    handle, o = c_void_p(), Operands(size=ctypes.sizeof(Operands), k=repeated(1, channels, 1))
    if channels == 1:
        assert call("fftconv_spectrum_create", byref(handle), plan, byref(o))[0] == _lib.OK
        at = NUMBERS.ctypes.data // 64 * 64
        d = spectra_desc(in_=at, spectra=at + 64)
        refused("fftconv_multiply", plan, handle, byref(d), words=("batch", "2^62 bytes"))
        _lib.lib.fftconv_spectrum_destroy(handle)
    _lib.lib.fftconv_plan_destroy(plan)


def test_workspace(plan):
    """One that claims all memory behind it overlaps the operands there."""
    c = Call()
    c.ops.workspace = min(x.ctypes.data for x in c.arrays.values()) // 64 * 64
    c.ops.workspace_bytes = 2**63 - 1
    c.refused(plan, words="workspace overlaps")


@pytest.mark.parametrize("length, order", [(1, 5), (64, 8), (1000, 10)])
def test_radices(length, order):
    """A product far above what a row needs is refused before any table is made."""
    plan, begin = c_void_p(), time.monotonic()
    d = desc(length=length, radices=_lib.int64s([16] * 16), order=order)
    refused("fftconv_plan_create", byref(plan), byref(d), words=("radices", "... 65536"))
    assert time.monotonic() - begin < 1
    d = desc(length=length, radices=_lib.int64s([16] * 16), order=4)
    assert call("fftconv_plan_create", byref(plan), byref(d))[0] == _lib.OK
    _lib.lib.fftconv_plan_destroy(plan)


def test_rdft_and_rows(plan):
    t = c_void_p()
    d = RdftDesc(size=ctypes.sizeof(RdftDesc), n=8, dtype=_lib.DTYPES["float64"])
    assert call("fftconv_rdft_create", byref(t), byref(d))[0] == _lib.OK
    rows, bins = (
        repeated(2**32, 2**32, n, dtype=of) for n, of in ((8, "float64"), (5, "complex128"))
    )
    refused("fftconv_rdft_forward", t, byref(rows), byref(bins), 1.0, words=("rows", "2^58"))
    _lib.lib.fftconv_rdft_destroy(t)


@pytest.mark.parametrize(
    "sizes, words",
    [
        (dict(states=2**24 + 1), "2^24"),
        (dict(channels=2**40, heads=2**17), "2^56"),
        (dict(channels=2**40, length=2**17), "2^56"),
        (dict(channels=2**40, states=2**16), "2^62 bytes"),
    ],
)
def test_ssm(sizes, words):
    """Of these arrays none is read, but the eigenvalues A."""
    A = np.full(2 * min(sizes.get("states", 1), 2**16), -1.0)
    d = SsmDesc(size=ctypes.sizeof(SsmDesc), dtype=_lib.DTYPES["float64"])
    for name in ("inputs", "channels", "heads", "states", "length"):
        setattr(d, name, sizes.get(name, 1))
    d.threads, d.rank, d.discretization = 255, 1, _lib.DISCRETIZATIONS["bilinear"]
    for name in ("A", "B", "C", "P", "Q", "dk", "dC"):
        setattr(d, name, A.ctypes.data)
    refused("fftconv_ssm_kernel_backward", byref(d), words=words)


@pytest.mark.parametrize("name", ["A", "dk", "dA", "k"])
def test_ssm_alignment(name):
    d = SsmDesc(size=ctypes.sizeof(SsmDesc), dtype=_lib.DTYPES["float32"])
    for field in ("inputs", "channels", "heads", "states", "length"):
        setattr(d, field, 1)
    for field in ("A", "B", "C", "k", "dk", "dA"):
        setattr(d, field, NUMBERS.ctypes.data)
    setattr(d, name, NUMBERS.ctypes.data + 2)
    for direction in ("fftconv_ssm_kernel", "fftconv_ssm_kernel_backward"):
        refused(direction, byref(d), words=(name + " is at", "aligned"))


def test_strides_of_one_entry(plan):
    """Where an axis has one entry, its stride is not used, however large it is."""
    y = np.full((1, 1, 4), 7, "float32")
    x = np.arange(4, dtype="float32").reshape(1, 1, 4)
    far = (2**63 - 1, -(2**63) + 1, 1)
    d = depthwise(
        x=tensor(x, strides=far),
        weight=tensor(np.full((1, 1, 1), 2, "float32"), strides=(2**62, 2**62, 2**63 - 1)),
        y=tensor(y, strides=far),
    )
    assert call("fftconv_depthwise_forward", byref(d))[0] == _lib.OK
    assert np.array_equal(y, 2 * x)
