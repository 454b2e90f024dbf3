"""The CUDA engine's calls as C makes them: what is refused, workspaces, streams, devices,
failures, threads, and a library without cuFFT."""

import ctypes
import itertools
import mmap
import sys
import threading
from ctypes import byref, c_void_p

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
    nothing_is_left,
    poisoned,
    tensor,
)
from fftconv import _lib
from fftconv._array import KERNEL_DTYPES
from fftconv.plan import aligned_bytes
from support import Case

pytestmark = needs_library


@emulated_only
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": KB
# of shared memory a block may have; and the longest rows that fit them.
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
        with pytest.raises(RuntimeError, match="more than this device's"):
            forward(longer, shared=shared)
        assert forward(longer, shared=shared, isa=None)[1] > m + 1


@ENGINES
def test_workspace_of_the_caller(isa):
    """Then nothing is allocated, and nothing waited for: call() counts."""
    case = Case(3, 2, 300, 300, "float16", options=("out_gate", "skip"), activation="silu")
    for prepared in (True, False):
        options = {"prepared": prepared, "workspace": True, "isa": isa}
        y, _ = forward(case, **options)
        check_forward(case, y)
        check_backward(case, backward(case, **options))


def test_refusals():
    """Before anything is written, naming the argument."""
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
    lib, plan = library(), c_void_p()
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc), batch=1, channels=1, length=300, k_length=3, dtype=2
    )

    def create(device=0, **fields):
        for name, value in fields.items():
            setattr(desc, name, value)
        try:
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), device))
            return plan.value
        finally:
            for name in fields:
                setattr(desc, name, 0)

    for device in (-1, DEVICES):
        with pytest.raises(
            RuntimeError, match=(f"device is {device}, must be 0 ... {DEVICES - 1}")
        ):
            create(device)
    for fields in ({"dense": 1}, {"order": 2}, {"history": 1}):
        (name,) = fields
        with pytest.raises(RuntimeError, match=f"{name} is given"):
            create(**fields)
    desc.isa = b"avx2"
    with pytest.raises(RuntimeError, match='isa is "avx2", must be NULL, "fused"'):
        create()
    desc.isa = b"fused"  # whose rows are counted in 32 bits
    for batch, channels, says in (
        ((1 << 30) + 1, 1, "batch is 1073741825, must be at most 1073741824"),
        (1, (1 << 30) + 1, "channels is 1073741825, must be at most 1073741824"),
    ):
        with pytest.raises(RuntimeError, match=says):
            create(batch=batch, channels=channels, length=300, k_length=3)
    # Kernels of each (b, h): a launch's tasks are the channels times the batch, here
    # eight rows at a time; one more of those than it takes.
    for batch, channels in ((1 << 23, (1 << 10) + 1), ((1 << 23) + 1, 1 << 10)):
        with pytest.raises(
            RuntimeError,
            match=(rf"batch \* channels is {batch} \* {channels}, more than one launch"),
        ):
            create(batch=batch, channels=channels, kernel_batch=batch, length=300, k_length=3)
    desc.batch = desc.channels = 1
    desc.isa = b"cufft"
    for fields in ({"length": 1 << 30}, {"k_length": 1 << 31}):
        with pytest.raises(RuntimeError, match="may have 1073741824 points"):
            create(**{"length": 300, "k_length": 3, **fields})
    desc.isa, desc.length, desc.k_length = None, 300, 3
    assert create()
    first, k, memory = plan.value, np.zeros((1, 1, 3), "float32"), Memory()
    spectrum = c_void_p()
    must(
        lib.fftconv_cuda_spectrum_create(
            byref(spectrum), first, byref(tensor(k, "rows", memory)), None, None
        )
    )
    second = create(length=600)
    o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
    u = np.zeros((1, 1, 600), "float32")
    o.u, o.y = tensor(u, "rows", memory), tensor(poisoned(u), "rows", memory)
    with pytest.raises(RuntimeError, match="spectrum was made for another plan"):
        must(lib.fftconv_cuda_forward(second, spectrum, byref(o), None))
    with pytest.raises(RuntimeError, match="k is NULL"):
        must(lib.fftconv_cuda_forward(second, None, byref(o), None))
    o.k = tensor(k, "rows", memory)
    for name in ("u", "k", "y"):
        t = getattr(o, name)
        t.data += 2
        with pytest.raises(
            RuntimeError, match=(f"{name} is at 0x.*, must be aligned to its 4-byte numbers")
        ):
            must(lib.fftconv_cuda_forward(second, None, byref(o), None))
        if name == "k":
            with pytest.raises(RuntimeError, match="k is at 0x.*, must be aligned"):
                must(
                    lib.fftconv_cuda_spectrum_create(
                        byref(c_void_p()), second, byref(t), None, None
                    )
                )
        t.data -= 2
    scratch, o.workspace = aligned_bytes(64)
    o.workspace_bytes = 64
    with pytest.raises(RuntimeError, match="workspace_bytes is 64"):
        must(lib.fftconv_cuda_forward(second, None, byref(o), None))
    memory.__exit__()
    lib.fftconv_cuda_spectrum_destroy(spectrum)
    lib.fftconv_cuda_plan_destroy(first)
    lib.fftconv_cuda_plan_destroy(second)
    nothing_is_left()


def test_a_spectrum_is_of_its_form():
    """Of M = 256 both, and kernels of 9 taps."""
    lib, k, plans = library(), np.ones((1, 1, 9), "float32"), {}
    with Memory() as memory:
        for length, form in ((500, "even_odd"), (200, "right_angle")):
            desc = _lib.PlanDesc(
                size=ctypes.sizeof(_lib.PlanDesc),
                batch=1,
                channels=1,
                length=length,
                k_length=9,
                dtype=2,
                mode=_lib.MODES["circular"],
                fft_size=length + 8,
            )
            plan, spectrum = c_void_p(), c_void_p()
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
            info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
            must(lib.fftconv_cuda_plan_get_info(plan, byref(info)))
            assert (info.form, info.transform_length) == (_lib.FORMS[form], 256)
            must(
                lib.fftconv_cuda_spectrum_create(
                    byref(spectrum), plan, byref(tensor(k, "rows", memory)), None, None
                )
            )
            u = np.ones((1, 1, length), "float32")
            y = poisoned(u)
            o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
            o.u, o.y = tensor(u, "rows", memory), tensor(y, "rows", memory)
            plans[form] = plan, spectrum, o, (u, y)
        for form, other in itertools.permutations(plans):
            plan, spectrum, o, _ = plans[form]
            must(lib.fftconv_cuda_forward(plan, spectrum, byref(o), None))
            with pytest.raises(RuntimeError, match="was made for another plan"):
                must(lib.fftconv_cuda_forward(plan, plans[other][1], byref(o), None))
        for plan, spectrum, _, _ in plans.values():
            lib.fftconv_cuda_spectrum_destroy(spectrum)
            lib.fftconv_cuda_plan_destroy(plan)
    nothing_is_left()


@emulated_only
def test_a_spectrum_is_of_its_engine():
    """However it was chosen: here because no circle of 2^15 fits a block."""
    lib, case = library(), Case(1, 1, 1 << 15, 2, "float32", mode="circular")
    lib.cuda_emulated_set(1024, 3, 0)
    plans, y = [], poisoned(case.u)
    with Memory() as memory:
        o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
        o.u, o.y = tensor(case.u, "rows", memory), tensor(y, "rows", memory)
        for isa in (b"cufft", None):
            plan, spectrum = c_void_p(), c_void_p()
            desc = _lib.PlanDesc(
                size=ctypes.sizeof(_lib.PlanDesc),
                batch=1,
                channels=1,
                length=1 << 15,
                k_length=2,
                dtype=2,
                isa=isa,
                mode=_lib.MODES["circular"],
                fft_size=1 << 15,
            )
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
            must(
                lib.fftconv_cuda_spectrum_create(
                    byref(spectrum), plan, byref(tensor(case.k, "rows", memory)), None, None
                )
            )
            plans.append((plan, spectrum))
        for (plan, _), (_, spectrum) in itertools.permutations(plans):
            must(lib.fftconv_cuda_forward(plan, spectrum, byref(o), None))
            check_forward(case, y)
        for plan, spectrum in plans:
            lib.fftconv_cuda_spectrum_destroy(spectrum)
            lib.fftconv_cuda_plan_destroy(plan)
    nothing_is_left()


def test_without_a_device():
    """The library of this build loads, and says that there is none."""
    if _lib.lib.fftconv_cuda_devices():
        pytest.skip("there is one")
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc), batch=1, channels=1, length=300, k_length=3, dtype=2
    )
    with pytest.raises(_lib.Unsupported, match="CUDA"):
        _lib.lib.fftconv_cuda_plan_create(byref(c_void_p()), byref(desc), 0)


@emulated_only
@pytest.mark.skipif(sys.platform != "linux", reason="much memory, of which little is used")
@ENGINES
def test_far_apart(isa):
    """Rows more than 2^31 elements from each other."""
    base = Case(2, 2, 300, 40, "float16", options=("in_gate", "out_gate"), activation="silu")
    want, gradients = forward(base, isa=isa)[0], backward(base, isa=isa)
    steps = (5 << 30, 3 << 30)

    def far(x):
        bytes_ = (steps[0] + steps[1] + 300) * x.itemsize
        memory = mmap.mmap(
            -1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        )  # Linux's MAP_NORESERVE: pages when touched
        out = np.lib.stride_tricks.as_strided(
            np.frombuffer(memory, x.dtype),
            x.shape,
            (steps[0] * x.itemsize, steps[1] * x.itemsize, x.itemsize),
        )
        out[...] = x
        return out

    case = Case(2, 2, 300, 40, "float16", options=("in_gate", "out_gate"), activation="silu")
    case.u = far(case.u)
    case.operands = {name: far(x) for name, x in case.operands.items()}
    y = far(poisoned(want))
    call(case, 0, {"y": y}, isa=isa)
    assert y.tobytes() == want.tobytes()
    du = far(poisoned(want))
    call(case, 1, {"du": du}, dy=far(case.dy), isa=isa)
    assert du.tobytes() == gradients["du"].tobytes()


@emulated_only
@ENGINES
def test_stream_and_device(isa):
    """Every launch and allocation is on the caller's stream and the plan's device."""
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
            direction(case, prepared=prepared, isa=isa, stream=stream)
            lib.cuda_emulated_expect(None, 0)
            assert (lib.cuda_emulated_strays() > before) == strays


@emulated_only
@ENGINES
def test_every_failure(isa):
    """Of an allocation, a launch or a call of cuFFT, one after another: a status,
    a message, and nothing left behind."""
    lib, says = library(), set()
    case = Case(3, 2, 300, 300, "float32", options=("skip", "out_gate"))
    for prepared in (True, False):
        for direction in (forward, backward):
            for operations in itertools.count():
                assert operations < 100
                lib.cuda_emulated_fail(operations)
                try:
                    direction(case, prepared=prepared, isa=isa)
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
        *(["cuFFT says"] if isa == "cufft" else []),
    ):
        assert any(message in s for s in says), message


def test_threads_share_a_plan():
    """One cuFFT handle, many threads, each with its workspace."""
    lib = library()
    case = Case(4, 2, 700, 700, "float32")
    want, _ = forward(case, isa="cufft")
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc),
        batch=4,
        channels=2,
        length=700,
        k_length=700,
        dtype=2,
        isa=b"cufft",
    )
    plan, wrong = c_void_p(), []
    if not ON_GPU:
        lib.cuda_emulated_set_tile(1 << 14)
    must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
    results = [poisoned(want) for _ in range(6)]

    def work(o):
        if lib.fftconv_cuda_forward(plan, None, byref(o), None):
            wrong.append(lib.fftconv_last_error())

    with Memory() as memory:
        threads = []
        for y in results:
            o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
            o.u, o.k, o.y = (tensor(x, "rows", memory) for x in (case.u, case.k, y))
            threads.append(threading.Thread(target=work, args=(o,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        memory.fetch()
    lib.fftconv_cuda_plan_destroy(plan)
    assert not wrong
    assert all(y.tobytes() == want.tobytes() for y in results)


@emulated_only
def test_without_cufft(monkeypatch, tmp_path):
    """It says so, naming what it looked for; and finds it later."""
    fresh = tmp_path / "libcuda_emulated.so"  # not loaded yet: no cuFFT known
    fresh.write_bytes(LIBRARY.read_bytes())
    lib = ctypes.CDLL(str(fresh))
    lib.fftconv_last_error.restype = ctypes.c_char_p
    plan = c_void_p()

    def create(length, isa=None):
        desc = _lib.PlanDesc(
            size=ctypes.sizeof(_lib.PlanDesc),
            batch=1,
            channels=1,
            length=length,
            k_length=3,
            dtype=2,
            isa=isa,
        )
        return (
            lib.fftconv_cuda_plan_create(byref(plan), byref(desc), 0),
            lib.fftconv_last_error().decode(),
        )

    monkeypatch.setenv("FFTCONV_CUFFT", str(tmp_path / "none.so"))
    for length, isa in ((300, b"cufft"), (40000, None)):
        status, says = create(length, isa)
        assert status == _lib.UNSUPPORTED and not plan.value
        assert "cuFFT was not found" in says and "none.so" in says
        assert ("length is 40000" in says) == (isa is None)
    monkeypatch.setenv("FFTCONV_CUFFT", str(_lib.path))  # a library without it
    assert "cuFFT has no cufftCreate" in create(300, b"cufft")[1]
    monkeypatch.setenv("FFTCONV_CUFFT", str(fresh))  # found: asked again
    assert create(300, b"cufft")[0] == 0
    lib.fftconv_cuda_plan_destroy(plan)


def test_kernel_dtypes_are_known():
    """What the engine reads is what the package lets in."""
    assert set(KERNEL_DTYPES["float16"]) == {"float16", "float32"}
