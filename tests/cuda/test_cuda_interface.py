"""The CUDA engine's calls as C makes them: refusals, workspaces, streams, devices, failures,
threads, and a library without cuFFT."""

import ctypes
import itertools
import mmap
import sys
import threading
from ctypes import byref, c_void_p
from functools import partial

import numpy as np
import pytest
from engine_calls import (
    DEVICE,
    DEVICES,
    ENGINES,
    LIBRARY,
    ON_GPU,
    Memory,
    backward,
    call,
    check_backward,
    check_forward,
    emulated_only,
    forward,
    library,
    must,
    needs_library,
    new_plan,
    new_spectrum,
    nothing_is_left,
    operands,
    plan_desc,
    poisoned,
    tensor,
    workspace_bytes,
)
from fftconv import _lib
from fftconv._array import KERNEL_DTYPES
from fftconv.plan import aligned_bytes
from support import Case, wide

pytestmark = needs_library


class Host:
    """Takes the place of Memory for arrays that stay in host memory."""

    @staticmethod
    def address(x):
        return x.ctypes.data


@emulated_only
# The KB of shared memory that a block may have (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability"), and the longest rows that fit them.
@pytest.mark.parametrize(
    "sm, kilobytes, half, single",
    [
        (80, 163, 32768, 16384),
        (86, 99, 16384, 8192),
        (89, 99, 16384, 8192),
        (90, 227, 32768, 16384),
        (100, 227, 32768, 16384),
        (120, 99, 16384, 8192),
    ],
)
def test_shared_memory(sm, kilobytes, half, single):
    shared = kilobytes * 1024
    for dtype, m in (("float16", half), ("float32", single)):
        assert forward(Case(1, 1, m, 3, dtype), shared=shared)[1] == m
        longer = Case(1, 1, m + 1, 3, dtype)
        with pytest.raises(
            RuntimeError, match=f"length is {m + 1}, too long in .* for the {shared} bytes"
        ):
            forward(longer, shared=shared)
        assert forward(longer, shared=shared, engine=None)[1] > m + 1


@ENGINES
@pytest.mark.parametrize("batch, tile", [(3, 1 << 27), (40, 20000)])
def test_workspace_of_the_caller(engine, batch, tile):
    """With the caller's workspace nothing is allocated, nothing behind it is written, and the host
    never waits: call() checks that."""
    case = Case(batch, 2, 300, 300, "float16", options=("out_gate", "skip"), activation="silu")
    for prepared in (True, False):
        options = {"prepared": prepared, "workspace": True, "engine": engine, "tile": tile}
        y, _ = forward(case, **options)
        check_forward(case, y)
        check_backward(case, backward(case, **options))


def test_refusals():
    """Wrong arguments are refused before anything is written, with a message that names the
    argument."""
    for case, says in (
        (Case(1, 1, 300, 3, "float64"), "dtype is float64"),
        (Case(1, 1, 300, 3, "complex64"), "dtype is complex64"),
    ):
        with pytest.raises(RuntimeError, match=says):
            forward(case)
    case = Case(2, 1, 300, 3, "float32")
    case.operands = {"in_gate": case.u[:1]}
    with pytest.raises(RuntimeError, match="in_gate has shape"):
        forward(case)
    lib = library()
    desc = plan_desc(1, 1, 300, 3)

    def create(**fields):
        """A plan of desc with these fields changed for this call."""
        changed = _lib.PlanDesc.from_buffer_copy(desc)
        for name, value in fields.items():
            setattr(changed, name, value)
        plan = c_void_p(123)
        try:
            must(lib.fftconv_plan_create(byref(plan), byref(changed)))
        except RuntimeError:
            assert plan.value is None
            raise
        return plan

    for index in (-1, DEVICES):
        with pytest.raises(
            RuntimeError, match=(f"device_index is {index}, must be 0 ... {DEVICES - 1}")
        ):
            create(device_index=index)
    with pytest.raises(RuntimeError, match=r"channels is \d+ and batch is 2, must be.*2\^62 bytes"):
        create(engine=b"cufft", batch=2, channels=2**57, length=1, k_length=1)
    ones = (ctypes.c_double * 151)(*[1.0] * 151)
    for fields in (
        {"dense": 1},
        {"order": 2},
        {"radices": _lib.int64s((16, 20)), "order": 2},
        {"history": 1},
        {"weights": ones, "mode": _lib.MODES["circular"]},
        {"form": _lib.FORMS["folded"], "mode": _lib.MODES["circular"]},
        {"form": _lib.FORMS["complex"], "mode": _lib.MODES["circular"]},
    ):
        name = "order" if "radices" in fields else next(iter(fields))
        with pytest.raises(RuntimeError, match=f"{name} is given"):
            create(**fields)
    with pytest.raises(RuntimeError, match='isa is "avx2", must be NULL where device is cuda'):
        create(isa=b"avx2")
    with pytest.raises(RuntimeError, match='engine is "avx2", must be NULL, "fused" or "cufft"'):
        create(engine=b"avx2")
    desc.engine = b"fused"  # the fused engine counts rows in 32 bits
    for batch, channels, says in (
        ((1 << 30) + 1, 1, "batch is 1073741825, must be at most 1073741824"),
        (1, (1 << 30) + 1, "channels is 1073741825, must be at most 1073741824"),
    ):
        with pytest.raises(RuntimeError, match=says):
            create(batch=batch, channels=channels)
    # With kernels of each (b, h), a launch has channels * batch tasks, of eight rows at a time
    # here.  Each of these has one channel or one batch entry more than a launch may have.
    for batch, channels in ((1 << 23, (1 << 10) + 1), ((1 << 23) + 1, 1 << 10)):
        with pytest.raises(
            RuntimeError,
            match=(rf"batch \* channels is {batch} \* {channels}, more than one launch"),
        ):
            create(batch=batch, channels=channels, kernel_batch=batch)
    desc.engine = b"cufft"
    for fields in ({"length": 1 << 30}, {"k_length": 1 << 31}):
        with pytest.raises(RuntimeError, match="may have at most 1073741824 points"):
            create(**fields)
    desc.engine = None
    plan = create(length=600)
    k, u, memory = np.zeros((1, 1, 3), "float32"), np.zeros((1, 1, 600), "float32"), Memory()
    o = operands()
    o.u, o.y = tensor(u, "rows", memory), tensor(poisoned(u), "rows", memory)
    with pytest.raises(RuntimeError, match="k is NULL"):
        must(lib.fftconv_forward(plan, None, byref(o)))
    o.k = tensor(k, "rows", memory)
    for name in ("u", "k", "y"):
        t = getattr(o, name)
        t.data += 2
        with pytest.raises(
            RuntimeError, match=(f"{name} is at 0x.*, must be aligned to its 4-byte numbers")
        ):
            must(lib.fftconv_forward(plan, None, byref(o)))
        if name == "k":
            with pytest.raises(RuntimeError, match="k is at 0x.*, must be aligned"):
                new_spectrum(plan, t)
        t.data -= 2
    for threads in (-1, 256):
        o.threads = threads
        for call_of in (
            partial(lib.fftconv_forward, plan, None, byref(o)),
            partial(lib.fftconv_spectrum_create, byref(c_void_p()), plan, byref(o)),
            partial(workspace_bytes, plan, None, o, _lib.FORWARD),
        ):
            with pytest.raises(RuntimeError, match=f"threads is {threads}"):
                must(call_of())
    o.threads = 0
    scratch, o.workspace = aligned_bytes(64)
    o.workspace_bytes = 64
    with pytest.raises(RuntimeError, match="workspace_bytes is 64"):
        must(lib.fftconv_forward(plan, None, byref(o)))
    memory.__exit__()
    lib.fftconv_plan_destroy(plan)
    nothing_is_left()


def test_functions_of_the_cpu():
    """Functions that only the CPU has refuse a CUDA plan, and write nothing."""
    lib, plan = library(), new_plan(1, 1, 300, 3, single_block=1)
    raw = np.full(1 << 16, 7, np.uint8)
    at = raw.ctypes.data + -raw.ctypes.data % 64
    k = np.zeros((1, 1, 3), "float32")

    def desc_of(kind, **fields):
        return byref(kind(size=ctypes.sizeof(kind), **fields))

    def at_raw(*shape):
        return _lib.Tensor(at, 2, 0, shape, (shape[1] * shape[2], shape[2], 1))

    spectra = desc_of(
        _lib.SpectraDesc, rows=at_raw(1, 1, 300), k=at_raw(1, 1, 3), in_=at, spectra=at + 8192
    )
    heads = desc_of(
        _lib.HeadsDesc,
        **dict.fromkeys(("u", "v", "q", "y", "dy", "du"), at_raw(1, 1, 300)),
        k=at_raw(1, 1, 3),
    )
    contraction = desc_of(
        _lib.ContractionDesc, rows=1, columns=1, depth=1, a=at, b=at, out=at + 8192, scale=1
    )
    projection = desc_of(
        _lib.ProjectionDesc,
        **dict.fromkeys(("batch", "inputs", "states", "outputs"), 1),
        **dict.fromkeys(("in_", "kernels", "B", "C"), at),
        out=at + 8192,
    )
    with Memory() as memory:
        spectrum = new_spectrum(plan, tensor(k, "rows", memory))
    for name, *arguments in [
        ("rows_to_spectra", spectra),
        ("spectra_to_rows", spectra),
        ("kernels_to_spectra", spectra),
        ("spectra_to_kernels", spectra),
        ("multiply", spectrum, spectra),
        ("spectra_offsets", (ctypes.c_int64 * 1024)()),
        ("contract", contraction),
        ("project", projection),
        ("heads_forward", heads),
        ("heads_backward", heads),
    ]:
        status = getattr(lib, "fftconv_" + name)(plan, *arguments)
        assert status == _lib.UNSUPPORTED, name
        assert b"plan is of a CUDA device" in lib.fftconv_last_error(), name
    assert (raw == 7).all()
    lib.fftconv_spectrum_destroy(spectrum)
    lib.fftconv_plan_destroy(plan)
    nothing_is_left()


def test_spectrum_of_the_other_device():
    """A CUDA plan refuses a spectrum of the CPU, and a CPU plan refuses one of a CUDA device."""
    lib, k, u = library(), np.ones((1, 1, 9), "float32"), np.ones((1, 1, 300), "float32")
    cpu = new_plan(1, 1, 300, 9, device=_lib.DEVICES["cpu"], device_index=0, single_block=1)
    of_cpu, y = new_spectrum(cpu, tensor(k, "rows", Host)), poisoned(u)
    there = "a CUDA device", "the CPU"
    with Memory() as memory:
        for engine in (None, b"cufft"):
            plan = new_plan(1, 1, 300, 9, engine=engine)
            spectrum = new_spectrum(plan, tensor(k, "rows", memory))
            for p, s, where, (is_of, must_be) in (
                (plan, of_cpu, memory, there[::-1]),
                (cpu, spectrum, Host, there),
            ):
                o = operands(u=tensor(u, "rows", where), y=tensor(y, "rows", where))
                o.dy, o.du = o.u, o.y
                for call_of in (lib.fftconv_forward, lib.fftconv_backward):
                    assert call_of(p, s, byref(o)) == _lib.INVALID
                    message = lib.fftconv_last_error().decode()
                    assert f"spectrum is of {is_of}, must be of {must_be}" in message
            d = _lib.SpectraDesc(size=ctypes.sizeof(_lib.SpectraDesc))
            assert lib.fftconv_multiply(cpu, spectrum, byref(d)) == _lib.INVALID
            assert b"spectrum is of a CUDA device" in lib.fftconv_last_error()
            lib.fftconv_spectrum_destroy(spectrum)
            lib.fftconv_plan_destroy(plan)
        memory.fetch()
    assert np.isnan(y).all()
    # The CPU plan still works with its own spectrum, after a CUDA plan of the same shape was made.
    o = operands(u=tensor(u, "rows", Host), y=tensor(y, "rows", Host))
    must(lib.fftconv_forward(cpu, of_cpu, byref(o)))
    assert np.allclose(y[0, 0], np.minimum(np.arange(1, 301), 9), rtol=1e-5)
    lib.fftconv_spectrum_destroy(of_cpu)
    lib.fftconv_plan_destroy(cpu)
    nothing_is_left()


CIRCLE, TWO_SIDED = {"mode": "circular"}, {"mode": "two_sided"}
BOTH = (b"fused", b"cufft")
FUSED, CUFFT = BOTH[:1], BOTH[1:]


# (engines, fields of one plan, fields of the other); what is not named is PLAN's.
PLAN = {
    "batch": 2,
    "channels": 2,
    "length": 300,
    "k_length": 9,
    "mode": "causal",
    "dtype": "float32",
}
STRANGERS = [
    (BOTH, {"k_length": 9}, {"k_length": 10}),
    (BOTH, {"k_rev_length": 3, **TWO_SIDED}, {"k_rev_length": 4, **TWO_SIDED}),
    (BOTH, {"kernels": 1}, {"kernels": 2}),
    (BOTH, {"kernel_batch": 1}, {"kernel_batch": 2}),
    (BOTH, {"device_index": 0}, {"device_index": 1}),
    (BOTH, {"dtype": "float16"}, {"dtype": "float32"}),
    (FUSED, {"engine": b"fused"}, {"engine": b"cufft"}),
    (CUFFT, {"length": 300}, {"length": 400}),  # the padded length
    (FUSED, {"length": 200}, {"length": 300}),  # M
    # right angles of M = 512; in the first, no tap comes round
    (
        FUSED,
        {"length": 500, "k_length": 20, "fft_size": 600, **CIRCLE},
        {"length": 500, "k_length": 20, "fft_size": 510, **CIRCLE},
    ),
    (
        FUSED,
        {"fft_size": 300, "k_length": 300, **CIRCLE},
        {"fft_size": 301, "k_length": 300, **CIRCLE},
    ),
    # even/odd and right angle, both of M = 256
    (FUSED, {"length": 500, "fft_size": 508, **CIRCLE}, {"length": 200, "fft_size": 208, **CIRCLE}),
    # padded to 600, from tap 9 or 8 on at both lags
    (
        CUFFT,
        {"length": 299, "k_length": 290, "fft_size": 307, **CIRCLE},
        {"length": 300, "k_length": 290, "fft_size": 307, **CIRCLE},
    ),
]
TWINS = [
    (BOTH, {"batch": 2}, {"batch": 3}),
    (BOTH, {"fft_size": 400, **CIRCLE}, {"fft_size": 500, **CIRCLE}),
    (CUFFT, {}, {"fft_size": 400, **CIRCLE}),
    (FUSED, {"length": 300}, {"length": 500}),
    (FUSED, {"dtype": "float16"}, {"dtype": "bfloat16"}),
]


@pytest.mark.parametrize(
    "engine, one, other, taken",
    [
        (engine, one, other, taken)
        for pairs, taken in ((STRANGERS, False), (TWINS, True))
        for engines, one, other in pairs
        for engine in engines
    ],
)
def test_a_spectrum_is_of_its_plan(engine, one, other, taken):
    """A plan takes a spectrum of another plan where the two need the same one, and no other."""
    lib, made = library(), []
    if "device_index" in one and ON_GPU:
        pytest.skip("operands of one device")
    with Memory() as memory:
        for fields in (one, other):
            desc = {"engine": engine, **PLAN, **fields}
            taps = Case(desc.get("kernel_batch", 1), desc.get("kernels", 2), desc["k_length"], 1)
            u = Case(desc["batch"], 2, desc["length"], 1, desc["dtype"]).u
            y, again = poisoned(u), poisoned(u)
            desc["mode"], desc["dtype"] = _lib.MODES[desc["mode"]], _lib.DTYPES[desc["dtype"]]
            plan = new_plan(**desc)
            o = operands(k=tensor(taps.u, "rows", memory), u=tensor(u, "rows", memory))
            if "k_rev_length" in desc:
                o.k_rev = tensor(taps.dy[..., : desc["k_rev_length"]], "rows", memory)
            spectrum = c_void_p()
            must(lib.fftconv_spectrum_create(byref(spectrum), plan, byref(o)))
            o.k, o.k_rev, o.y = _lib.Tensor(), _lib.Tensor(), tensor(y, "rows", memory)
            must(lib.fftconv_forward(plan, spectrum, byref(o)))
            o.y = tensor(again, "rows", memory)
            made.append((plan, spectrum, o, y, again, u))
        for (plan, _, o, *_), (_, spectrum, *_) in (made, made[::-1]):
            if taken:
                must(lib.fftconv_forward(plan, spectrum, byref(o)))
            else:
                with pytest.raises(RuntimeError, match="was made for another plan"):
                    must(lib.fftconv_forward(plan, spectrum, byref(o)))
        memory.fetch()
        for plan, spectrum, _, y, again, _ in made:
            assert np.isnan(wide(again)).all() if not taken else again.tobytes() == y.tobytes()
            lib.fftconv_spectrum_destroy(spectrum)
            lib.fftconv_plan_destroy(plan)
    nothing_is_left()


@emulated_only
def test_a_spectrum_is_of_its_engine():
    """A plan takes a spectrum of its own engine, whether cuFFT was asked for or was chosen, as
    here, because no circle of 2^15 fits into a block's shared memory."""
    lib, case = library(), Case(1, 1, 1 << 15, 2, "float32", mode="circular")
    lib.cuda_emulated_set(1024, 3, 0)
    plans, y = [], poisoned(case.u)
    with Memory() as memory:
        o = operands(u=tensor(case.u, "rows", memory), y=tensor(y, "rows", memory))
        for engine in (b"cufft", None):
            plan = new_plan(
                1, 1, 1 << 15, 2, engine=engine, mode=_lib.MODES["circular"], fft_size=1 << 15
            )
            plans.append((plan, new_spectrum(plan, tensor(case.k, "rows", memory))))
        for (plan, _), (_, spectrum) in itertools.permutations(plans):
            must(lib.fftconv_forward(plan, spectrum, byref(o)))
            check_forward(case, y)
        for plan, spectrum in plans:
            lib.fftconv_spectrum_destroy(spectrum)
            lib.fftconv_plan_destroy(plan)
    nothing_is_left()


def test_without_a_device():
    """A library without CUDA, or without a device, loads and says that there is none."""
    if _lib.lib.fftconv_cuda_devices():
        pytest.skip("there is one")
    with pytest.raises(_lib.Unsupported, match="CUDA"):
        _lib.lib.fftconv_plan_create(
            byref(c_void_p()), byref(plan_desc(1, 1, 300, 3, device_index=0))
        )


def far(x, axis):
    """A copy of x whose rows, or whose samples, are 2^32 + 1024 elements apart: an index of 32 bits
    leads to other memory of the copy."""
    step = (1 << 32) + 1024
    strides = [2 * step, step][-x.ndim :] if x.ndim < 3 else [2 * step, step, 1]
    if x.ndim == 3 and axis == "samples":
        strides = [128, 64, step]
    strides = [s * x.itemsize for s in strides]
    span = sum(s * (n - 1) for s, n in zip(strides, x.shape)) + x.itemsize
    # MAP_NORESERVE of Linux: a page takes memory only once it is touched
    memory = mmap.mmap(-1, span, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    out = np.lib.stride_tricks.as_strided(np.frombuffer(memory, x.dtype), x.shape, strides)
    out[...] = x
    return out


@emulated_only
@pytest.mark.skipif(sys.platform != "linux", reason="much memory, of which little is used")
@pytest.mark.pairwise
@pytest.mark.parametrize("axis", ("rows", "samples"))
@pytest.mark.parametrize("activation", (None, "silu"))
@pytest.mark.parametrize(
    "engine, dtype",
    [("fused", "float16"), ("fused", "float32"), ("cufft", "bfloat16"), ("cufft", "float64")],
)
def test_far_apart(engine, dtype, activation, axis):
    """Rows, and samples of a row, may be more than 2^32 elements apart, in every operand."""
    length, taps = (300, 400) if axis == "rows" else (6, 7)  # the last taps never act
    options = ("in_gate", "skip", "mask", *(["out_gate"] if activation else []))
    case = Case(
        2,
        2,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode="two_sided",
        reverse=taps,
        kernels=(2, 2),
    )
    want, gradients = forward(case, engine=engine)[0], backward(case, engine=engine)
    check_forward(case, want)
    check_backward(case, gradients)
    case.u, case.k, case.k_rev, case.dy = (
        far(x, axis) for x in (case.u, case.k, case.k_rev, case.dy)
    )
    case.operands = {name: far(x, axis) for name, x in case.operands.items()}
    y = far(poisoned(want), axis)
    call(case, 0, {"y": y}, engine=engine, prepared=False)
    assert y.tobytes() == want.tobytes()
    outputs = {name: far(poisoned(x), axis) for name, x in gradients.items()}
    call(case, 1, outputs, dy=case.dy, engine=engine)
    for name, x in outputs.items():
        assert x.tobytes() == gradients[name].tobytes(), name


@emulated_only
@ENGINES
def test_stream_and_device(engine):
    """Every launch and allocation is on the caller's stream and on the plan's device."""
    lib, stream = library(), 0x5EED
    case = Case(
        3, 2, 300, 300, "float32", options=("skip", "out_gate"), mode="two_sided", activation="gelu"
    )
    for on, device, strays in (
        (stream, DEVICE, False),
        (stream + 1, DEVICE, True),
        (stream, 0, True),
    ):
        for prepared, direction in itertools.product((True, False), (forward, backward)):
            lib.cuda_emulated_expect(on, device)
            before = lib.cuda_emulated_strays()
            direction(case, prepared=prepared, engine=engine, stream=stream)
            lib.cuda_emulated_expect(None, 0)
            assert (lib.cuda_emulated_strays() > before) == strays


@emulated_only
@ENGINES
def test_every_failure(engine):
    """Allocations, launches and calls of cuFFT are made to fail one after another: each failure
    gives a status and a message, and leaves nothing allocated."""
    lib, says = library(), set()
    case = Case(3, 2, 300, 300, "float32", options=("skip", "out_gate"))
    for prepared in (True, False):
        for direction in (forward, backward):
            for operations in itertools.count():
                assert operations < 100
                lib.cuda_emulated_fail(operations)
                try:
                    direction(case, prepared=prepared, engine=engine)
                    break
                except RuntimeError as error:
                    says.add(str(error))
                finally:
                    lib.cuda_emulated_fail(-1)
                nothing_is_left()
            assert operations > 3
    for message in (
        "a launch was made to fail",
        "bytes",
        *(["cuFFT says"] if engine == "cufft" else []),
    ):
        assert any(message in s for s in says), message


def test_threads_share_a_plan():
    """Many threads may use one plan and its cuFFT handle, each with a workspace of its own."""
    lib = library()
    case = Case(4, 2, 700, 700, "float32")
    want, _ = forward(case, engine="cufft")
    wrong = []
    if not ON_GPU:
        lib.cuda_emulated_set_tile(1 << 14)
    plan = new_plan(4, 2, 700, 700, engine=b"cufft")
    results = [poisoned(want) for _ in range(6)]

    def work(o):
        if lib.fftconv_forward(plan, None, byref(o)):
            wrong.append(lib.fftconv_last_error())

    with Memory() as memory:
        threads = []
        for y in results:
            o = operands()
            o.u, o.k, o.y = (tensor(x, "rows", memory) for x in (case.u, case.k, y))
            threads.append(threading.Thread(target=work, args=(o,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        memory.fetch()
    lib.fftconv_plan_destroy(plan)
    assert not wrong
    assert all(y.tobytes() == want.tobytes() for y in results)


@emulated_only
def test_without_cufft(monkeypatch, tmp_path):
    """Without cuFFT the message names the library that was looked for; a later call finds cuFFT
    once it is there."""
    fresh = tmp_path / "libcuda_emulated.so"  # not loaded before: has not looked for cuFFT
    fresh.write_bytes(LIBRARY.read_bytes())
    lib = ctypes.CDLL(str(fresh))
    lib.fftconv_last_error.restype = ctypes.c_char_p
    plan = c_void_p()

    def create(length, engine=None):
        desc = plan_desc(1, 1, length, 3, engine=engine, device_index=0)
        return (
            lib.fftconv_plan_create(byref(plan), byref(desc)),
            lib.fftconv_last_error().decode(),
        )

    monkeypatch.setenv("FFTCONV_CUFFT", str(tmp_path / "none.so"))
    for length, engine in ((300, b"cufft"), (40000, None)):
        status, says = create(length, engine)
        assert status == _lib.UNSUPPORTED and not plan.value
        assert "cuFFT was not found" in says and "none.so" in says
        assert ("length is 40000" in says) == (engine is None)
    monkeypatch.setenv("FFTCONV_CUFFT", str(_lib.path))  # it has no cuFFT functions
    assert "cuFFT has no cufftCreate" in create(300, b"cufft")[1]
    monkeypatch.setenv("FFTCONV_CUFFT", str(fresh))  # cuFFT is looked for again
    assert create(300, b"cufft")[0] == 0
    lib.fftconv_plan_destroy(plan)


def test_kernel_dtypes_are_known():
    """The engine reads exactly those dtypes of kernels that the package accepts."""
    assert set(KERNEL_DTYPES["float16"]) == {"float16", "float32"}
