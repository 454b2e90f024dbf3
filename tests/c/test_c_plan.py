"""Plans and spectra in C refuse bad arguments with a status and a message, and write nothing."""

import ctypes
from ctypes import byref, c_int64, c_void_p

import fftconv
import numpy as np
import pytest
from c_calls import (
    BACKWARD,
    BOTH,
    CAUSAL,
    CIRCULAR,
    COMPLEX,
    CUDA,
    FOLDED,
    ISA,
    LK,
    LREV,
    RIGHT_ANGLE,
    TWO_SIDED,
    B,
    Call,
    H,
    L,
    call,
    desc,
    info_of,
    kernels,
    new_plan,
    new_spectrum,
    refused,
    tensor,
    weights,
)
from fftconv import _lib
from fftconv._lib import Operands, PlanDesc, PlanInfo, Tensor

PLANS = [
    ("size", 0),
    ("size", 8),
    ("size", ctypes.sizeof(PlanDesc) + 8),
    ("batch", 0),
    ("batch", -1),
    ("channels", 0),
    ("length", 0),
    ("length", -(2**63)),
    ("k_length", 0),
    ("k_length", -5),
    ("batch", 2**62),
    ("channels", 2**62),
    ("length", 2**62),
    ("k_length", 2**62),
    ("length", 2**63 - 1),
    ("fft_size", -1),
    ("fft_size", 64),
    ("mode", 3),
    ("mode", -1),
    ("dtype", 0),
    ("dtype", 7),
    ("dtype", -1),
    ("form", 4),
    ("form", -1),
    ("form", FOLDED),
    ("form", COMPLEX),
    ("dense", 2),
    ("dense", -1),
    ("threads", -1),
    ("threads", 2**31 - 1),
    ("order", -1),
    ("order", 17),
    ("single_block", 2),
    ("single_block", -1),
    ("history", 2),
    ("history", -1),
    ("kernels", -1),
    ("kernels", 2),
    ("kernels", 2 * H),
    ("kernels", -(2**63)),
    ("kernel_batch", -1),
    ("kernel_batch", 3),
    ("kernel_batch", -(2**63)),
    ("k_rev_length", 1),
    ("k_rev_length", -1),
    ("k_rev_length", -(2**63)),
    ("device", 2),
    ("device", -1),
    ("device", 2**31 - 1),
    ("device_index", 1),
    ("device_index", -1),
    ("engine", b"fused"),
    ("engine", b"none"),
]


@pytest.mark.parametrize("field,value", PLANS)
def test_plan_desc(field, value):
    handle = c_void_p(123)
    refused("fftconv_plan_create", byref(handle), byref(desc(**{field: value})), words=field)
    assert handle.value is None, "a failure leaves NULL behind"


@pytest.mark.parametrize(
    "changes,word",
    [
        (dict(mode=TWO_SIDED), "k_rev_length"),
        (dict(mode=TWO_SIDED, k_rev_length=-1), "k_rev_length"),
        (dict(mode=TWO_SIDED, k_rev_length=2**62), "k_rev_length"),
        (dict(mode=TWO_SIDED, k_rev_length=LREV, fft_size=256), "fft_size"),
        (dict(mode=TWO_SIDED, k_rev_length=LREV, form=FOLDED), "form"),
        (dict(mode=TWO_SIDED, k_rev_length=LREV, history=1), "history"),
        (dict(mode=CIRCULAR, k_rev_length=LREV), "k_rev_length"),
        (dict(mode=CIRCULAR, history=1), "history"),
        (dict(mode=CIRCULAR, fft_size=127, form=FOLDED), "form"),
        (dict(history=1, single_block=1), "single_block"),
        (dict(dtype=6, form=RIGHT_ANGLE), "form"),
        (dict(dtype=5, mode=CIRCULAR, form=FOLDED), "form"),
    ],
)
def test_plan_fields_that_do_not_go_together(changes, word):
    handle = c_void_p(123)
    refused("fftconv_plan_create", byref(handle), byref(desc(**changes)), words=word)
    assert handle.value is None


@pytest.mark.parametrize(
    "changes,word",
    [
        (dict(mode=CAUSAL), "weights"),
        (dict(mode=TWO_SIDED, k_rev_length=LREV), "weights"),
        (dict(dtype=5), "weights"),
        (dict(dtype=6), "weights"),
        (dict(form=RIGHT_ANGLE), "form"),
        # For lengths that have no stages right_angle is the only form.
        *(
            (dict(fft_size=size, form=form), ("form", f"fft_size {size}"))
            for size in (88, 2 * 67)
            for form in (FOLDED, COMPLEX)
        ),
        *(
            (dict(weights=weights([1.0] * at + [bad] + [1.0] * (32 - at))), f"weights[{at}]")
            for bad in (np.nan, np.inf, -np.inf)
            for at in (0, 17, 32)
        ),
    ],
)
def test_plan_weights(changes, word):
    handle = c_void_p(123)
    right = dict(mode=CIRCULAR, weights=weights([1.0] * 100))
    refused("fftconv_plan_create", byref(handle), byref(desc(**{**right, **changes})), words=word)
    assert handle.value is None


def test_plan_device():
    """A field that belongs to the other device is refused, with its name and value."""
    handle = c_void_p(123)
    for changes, words in [
        (dict(device=2), "device is 2, must be cpu (0) or cuda (1)"),
        (dict(device_index=1), ("device_index is 1, must be", "device is cpu (0)")),
        (dict(engine=b"fused"), ('engine is "fused", must be', "device is cpu (0)")),
        (dict(device=CUDA, isa=ISA.encode()), (f'isa is "{ISA}", must be', "device is cuda (1)")),
    ]:
        refused("fftconv_plan_create", byref(handle), byref(desc(**changes)), words=words)
        assert handle.value is None


@pytest.mark.skipif(_lib.lib.fftconv_cuda_devices() > 0, reason="there is a device")
def test_plan_of_a_device_that_is_not_there():
    handle = c_void_p(123)
    for changes in ({}, dict(device_index=1), dict(engine=b"cufft"), dict(engine=b"fused")):
        status, message = call(
            "fftconv_plan_create", byref(handle), byref(desc(device=CUDA, **changes))
        )
        assert status == _lib.UNSUPPORTED and "CUDA" in message
        assert handle.value is None
    # Arguments that are wrong on any device are still refused.
    refused("fftconv_plan_create", byref(handle), byref(desc(device=CUDA, batch=0)), words="batch")


def test_plan_null():
    handle = c_void_p()
    refused("fftconv_plan_create", None, byref(desc()), words="plan")
    refused("fftconv_plan_create", byref(handle), None, words="desc")
    _lib.lib.fftconv_plan_destroy(None)
    _lib.lib.fftconv_spectrum_destroy(None)


@pytest.mark.parametrize(
    "radices,order",
    [
        ((0,), 1),
        ((-8,), 1),
        ((129,), 1),
        ((2**62,), 1),
        ((64, 2**62), 2),
        ((64,), 0),
        ((64,), -1),
        ((64,) * 17, 17),
        ((128,) * 16, 16),
    ],
)
def test_plan_radices(radices, order):
    handle = c_void_p()
    refused(
        "fftconv_plan_create",
        byref(handle),
        byref(desc(radices=_lib.int64s(radices), order=order)),
        words=() if order > 16 or order < 1 else "radices",
    )


def test_plan_circular():
    handle = c_void_p()
    for changes, word in [
        (dict(fft_size=L - 1), "fft_size"),
        (dict(k_length=L + 1), "k_length"),
        (dict(fft_size=2**62), "fft_size"),
        (dict(fft_size=-(2**63)), "fft_size"),
    ]:
        refused("fftconv_plan_create", byref(handle), byref(desc(mode=1, **changes)), words=word)


def test_plan_too_large_for_memory():
    """Sizes whose product overflows, and sizes that merely do not fit in memory, are refused."""
    handle = c_void_p()
    for changes in (
        dict(batch=2**31, channels=2**31, length=2**31),
        dict(batch=2**58, channels=2**58),
        dict(length=2**57, k_length=2**57),
    ):
        status, message = call("fftconv_plan_create", byref(handle), byref(desc(**changes)))
        assert status in (_lib.INVALID, _lib.NO_MEMORY), message
        assert message and handle.value is None


@pytest.mark.parametrize("isa", [b"", b"none", b"\xff\xfe", b"x" * 10000])
def test_plan_isa(isa):
    handle = c_void_p()
    status, message = call("fftconv_plan_create", byref(handle), byref(desc(isa=isa)))
    assert status in (_lib.INVALID, _lib.UNSUPPORTED) and "isa" in message


def test_plan_info(plan):
    info = PlanInfo(size=ctypes.sizeof(PlanInfo))
    refused("fftconv_plan_get_info", None, byref(info), words="plan")
    refused("fftconv_plan_get_info", plan, None, words="info")
    info.size = 4
    refused("fftconv_plan_get_info", plan, byref(info), words="size")
    need, ops = c_int64(-5), Operands(size=ctypes.sizeof(Operands))
    name, right = "fftconv_workspace_bytes", byref(ops)
    refused(name, None, None, right, 0, byref(need), words="plan")
    refused(name, plan, None, None, 0, byref(need), words="operands")
    refused(name, plan, None, right, 0, None, words="bytes")
    refused(name, plan, None, right, 2, byref(need), words="direction")
    refused(name, plan, None, right, -1, byref(need), words="direction")
    ops.threads = -1
    refused(name, plan, None, right, 0, byref(need), words="threads")
    ops.threads, ops.size = 0, 8
    refused(name, plan, None, right, 0, byref(need), words="size")
    assert need.value == -5


@pytest.mark.parametrize(
    "changes, fft_size, padded",
    [
        (dict(), 0, lambda i: 2 * i.transform_length),
        (dict(mode=TWO_SIDED, k_rev_length=LREV), 0, lambda i: 2 * i.transform_length),
        (dict(length=4096, k_length=5), 0, lambda i: 2 * i.transform_length),  # several blocks
        (dict(dtype=_lib.DTYPES["complex64"]), 0, lambda i: i.transform_length),
        (dict(mode=CIRCULAR), L, None),
        (dict(mode=CIRCULAR, fft_size=100), 100, None),
        (dict(mode=CIRCULAR, form=RIGHT_ANGLE), L, lambda i: 2 * i.transform_length),
        (dict(mode=CIRCULAR, form=FOLDED), L, lambda i: 4 * i.transform_length),
        (dict(mode=CIRCULAR, form=COMPLEX), L, lambda i: i.transform_length),
        (dict(mode=CIRCULAR, dtype=_lib.DTYPES["complex64"]), L, None),
        (dict(mode=CIRCULAR, fft_size=97), 97, lambda i: 2 * i.transform_length),
        (dict(mode=CIRCULAR, fft_size=97, weights=weights([1.0] * 49)), 97, None),
    ],
)
def test_info_of_lengths(changes, fft_size, padded):
    """fft_size is that of a circular plan, and 0 elsewhere; padded_length is what a transform
    holds, with the zeros behind a row."""
    plan = new_plan(**changes)
    info = info_of(plan)
    assert info.fft_size == fft_size
    assert info.padded_length >= info.transform_length >= 1
    if padded:
        assert info.padded_length == padded(info)
    if info.blocks == 1:
        assert info.padded_length >= desc(**changes).length
    if info.form in (FOLDED, COMPLEX) and fft_size:
        assert info.padded_length == fft_size or changes.get("dtype")
    assert (info.device, info.device_index, info.engine) == (_lib.DEVICES["cpu"], 0, None)
    assert info.isa.decode() in fftconv.isas()
    _lib.lib.fftconv_plan_destroy(plan)


def test_spectrum(plan):
    k, k_rev = np.ones((1, H, LK), "float32"), np.ones((1, H, LREV), "float32")
    handle = c_void_p(123)
    right = kernels(k, k_rev)
    refused("fftconv_spectrum_create", None, plan, byref(right), words="spectrum")
    refused("fftconv_spectrum_create", byref(handle), None, byref(right), words="plan")
    assert handle.value is None
    handle.value = 123
    refused("fftconv_spectrum_create", byref(handle), plan, None, words="operands")
    assert handle.value is None
    for arguments, word in [
        (kernels(None, k_rev), "k"),
        (kernels(k[:, :2], k_rev), "k"),
        (kernels(tensor(k, dtype="float64"), k_rev), "k"),
        (kernels(tensor(k, dtype="float16"), k_rev), "k"),
        (kernels(k), "k_rev"),
        (kernels(k, k), "k_rev"),
        (kernels(k, tensor(k_rev, dtype="float64")), "k_rev"),
        (kernels(k, k_rev, threads=-1), "threads"),
        (kernels(k, k_rev, threads=256), "threads"),
        (kernels(k, k_rev, size=8), "size"),
        (kernels(k, k_rev, stream=k.ctypes.data), "stream"),
    ]:
        handle.value = 123
        refused("fftconv_spectrum_create", byref(handle), plan, byref(arguments), words=word)
        assert handle.value is None
    causal = new_plan()
    refused("fftconv_spectrum_create", byref(handle), causal, byref(right), words="k_rev")
    _lib.lib.fftconv_plan_destroy(causal)


def test_spectrum_reads_its_own_operands_only(plan):
    """A spectrum reads only its own operands; the others may hold anything."""
    k, k_rev = np.ones((1, H, LK), "float32"), np.ones((1, H, LREV), "float32")
    spoiled = Tensor(1, 99, 0, (c_int64 * 3)(-1, -1, -1), (c_int64 * 3)(2**62, 0, 0))
    every = {n: spoiled for n, kind in Operands._fields_ if kind is Tensor and n[:2] != "k_"}
    del every["k"]
    ops = kernels(k, k_rev, activation=99, workspace=1, workspace_bytes=-1, **every)
    handle = c_void_p()
    status, message = call("fftconv_spectrum_create", byref(handle), plan, byref(ops))
    assert status == _lib.OK and handle.value, message
    _lib.lib.fftconv_spectrum_destroy(handle)


@pytest.mark.parametrize(
    "changes",
    [
        dict(length=128, k_length=128),
        dict(k_rev_length=LREV - 1),
        dict(kernels=1),
        dict(kernel_batch=B),
        dict(dtype=1),
        dict(mode=CAUSAL),
        dict(radices=_lib.int64s((8, 4, 4)), order=3),
    ],
)
def test_spectrum_of_another_plan(plan, changes):
    changes = {"mode": TWO_SIDED, "k_rev_length": LREV, **changes}
    if changes["mode"] == CAUSAL:
        del changes["k_rev_length"]
    other = new_plan(**changes)
    shape = (changes.get("kernel_batch", 1), changes.get("kernels", H))
    dtype = "float64" if "dtype" in changes else "float32"
    k = np.ones((*shape, changes.get("k_length", LK)), dtype)
    rev = np.ones((*shape, changes.get("k_rev_length", 1)), dtype)
    handle = c_void_p()
    ops = kernels(k, rev if "k_rev_length" in changes else None)
    status, message = call("fftconv_spectrum_create", byref(handle), other, byref(ops))
    assert status == _lib.OK, message
    c = Call()
    c.ops.k = c.ops.k_rev = Tensor()
    for name in BOTH:
        refused("fftconv_" + name, plan, handle, byref(c.ops), words="spectrum")
    assert c.untouched()
    _lib.lib.fftconv_spectrum_destroy(handle)
    _lib.lib.fftconv_plan_destroy(other)


def test_spectrum_of_another_pattern():
    """A spectrum with the same stages but other weights is refused."""
    plans = [new_plan(mode=CIRCULAR, weights=weights([w] * 33)) for w in (1.0, 0.5)] + [
        new_plan(mode=CIRCULAR)
    ]
    k = np.ones((1, H, LK), "float32")
    spectra = [new_spectrum(p, k) for p in plans]
    c = Call()
    c.ops.k = c.ops.k_rev = c.ops.dk_rev = Tensor()
    for i, plan in enumerate(plans):
        for j, spectrum in enumerate(spectra):
            if i != j:
                refused("fftconv_forward", plan, spectrum, byref(c.ops), words="spectrum")
    assert c.untouched()
    for plan, spectrum in zip(plans, spectra):
        assert call("fftconv_forward", plan, spectrum, byref(c.ops))[0] == _lib.OK
        _lib.lib.fftconv_spectrum_destroy(spectrum)
        _lib.lib.fftconv_plan_destroy(plan)


def test_kernels_of_a_group_and_of_a_batch():
    """k's shape must be (kernel_batch, kernels, Lk)."""
    for changes, right in [
        (dict(kernels=1), (1, 1)),
        (dict(kernel_batch=B), (B, H)),
        (dict(kernels=1, kernel_batch=B), (B, 1)),
    ]:
        plan = new_plan(**changes)
        taps = np.ones((B, H, LK), "float32")
        for shape in ((1, 1), (1, H), (B, 1), (B, H)):
            c = Call()
            c.ops.k_rev = c.ops.dk_rev = Tensor()
            c.ops.k = tensor(taps, shape=(*shape, LK))
            c.arrays["dk"] = np.full((B, H, LK), 7, "float32")
            c.ops.dk = tensor(c.arrays["dk"], shape=(*right, LK))
            if shape != right:
                c.refused(plan, words="k has shape")
                c.ops.k = tensor(taps, shape=(*right, LK))
                c.ops.dk = tensor(c.arrays["dk"], shape=(*shape, LK))
                c.refused(plan, words="dk has shape", names=BACKWARD)
                continue
            for name in BOTH:
                status, message = call("fftconv_" + name, plan, None, byref(c.ops))
                assert status == _lib.OK, message
            written = (c.arrays["dk"] != 7).sum()
            assert written == right[0] * right[1] * LK
        _lib.lib.fftconv_plan_destroy(plan)


def test_a_spectrum_tells_a_batch_from_a_group():
    """(1, B H) kernels are as many as (B, H), but a spectrum of the one is refused for the
    other."""
    one = new_plan(batch=1, channels=B * H, kernels=B * H)
    many = new_plan(kernel_batch=B)
    spectrum = new_spectrum(one, np.ones((1, B * H, LK), "float32"))
    c = Call()
    c.ops.k = c.ops.k_rev = c.ops.dk_rev = Tensor()
    refused("fftconv_forward", many, spectrum, byref(c.ops), words="spectrum")
    assert c.untouched()
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    for p in (one, many):
        _lib.lib.fftconv_plan_destroy(p)


def test_names_by_number():
    for name in ("fftconv_isa_name", "fftconv_hardware_name"):
        function = getattr(_lib.lib, name)
        assert function(0)
        assert function(-1) is None and function(10**6) is None
    assert _lib.lib.fftconv_isa_available(None) == 0
    assert _lib.lib.fftconv_isa_available(b"none") == 0
    assert _lib.lib.fftconv_isa_available(ISA.encode()) == 1
    assert "host" in fftconv.cost.HARDWARE


def test_message_belongs_to_the_thread():
    """A failure in another thread does not change this thread's message."""
    import threading

    refused("fftconv_plan_create", byref(c_void_p()), byref(desc(batch=0)), words="batch")
    thread = threading.Thread(
        target=refused,
        args=("fftconv_plan_create", byref(c_void_p()), byref(desc(channels=0))),
        kwargs={"words": "channels"},
    )
    thread.start()
    thread.join()
    assert "batch" in _lib.lib.fftconv_last_error().decode()
