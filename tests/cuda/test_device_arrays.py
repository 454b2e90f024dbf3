"""Arrays on CUDA devices, through every call that takes them: a call returns the same kind of
array as its input, on the same device.

These tests run where the library has a device.  `make check` runs them on the emulated device
of emulated.cpp (see test_on_emulated_device.py), where stand-ins replace torch and CuPy, whose
arrays need a GPU.
"""

import gc
import pickle
import sys
import types
from ctypes import byref, c_int, c_void_p
from functools import partial

import fftconv
import numpy as np
import pytest
from engine_calls import TOLERANCE, check_backward, check_forward
from fftconv import _lib, cuda
from fftconv._array import view  # no public call shows how an array is read
from fftconv._view import ITEM_BYTES, DeviceView
from support import Case, same_bits

pytestmark = pytest.mark.on_device
EMULATED = hasattr(_lib.lib, "cuda_emulated_waits")
DEVICES = cuda.devices()
ALL = ("in_gate", "out_gate", "skip", "mask")
emulated_only = pytest.mark.skipif(not EMULATED, reason="a GPU's streams are its own")
two_devices = pytest.mark.skipif(DEVICES < 2, reason="one device")


# ---- Kinds of array: to(NumPy array, device) and back --------------------------


class Interface:
    """An array with __cuda_array_interface__ alone; `fields` replace some of its entries."""

    def __init__(self, x, device=0, **fields):
        self.memory = cuda.asarray(x, device)
        self.fields = {**self.memory.__cuda_array_interface__, **fields}

    @property
    def __cuda_array_interface__(self):
        return self.fields


class Dlpack:
    """An array with DLPack and the array API; its namespace is the class below."""

    def __init__(self, memory):
        self.memory, self.streams = memory, []

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.memory.__dlpack__(stream=stream)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()

    def __array_namespace__(self, api_version=None):
        return Namespace


class Namespace:
    @staticmethod
    def from_dlpack(x):
        assert x.__dlpack_device__()[0] == 2
        taken = Dlpack(x)
        taken.seen = view(taken, "x", devices=True)
        return taken


class Tensor:
    """Stands in for torch.Tensor on a device."""

    requires_grad = False
    layout = "strided"

    def __init__(self, memory, strides=None, shape=None):
        self.memory = memory
        self.shape = tuple(shape or memory.shape)
        self.strides = strides or memory._strides()
        self.dtype = f"torch.{memory.dtype}"
        self.device = types.SimpleNamespace(type="cuda", index=memory.device)

    def data_ptr(self):
        return self.memory._pointer

    def stride(self):
        return self.strides

    def is_neg(self):
        return False

    is_conj = is_neg

    def element_size(self):
        return ITEM_BYTES[self.memory.dtype]

    def float(self):
        return self.to("float32")

    def to(self, dtype):
        dtype = str(dtype).removeprefix("torch.")
        return Tensor(cuda.asarray(self.memory.numpy().astype(np.dtype(dtype)), self.memory.device))

    def sum_to_size(self, shape):
        axes = tuple(i for i, n in enumerate(shape) if n == 1)
        return Tensor(
            cuda.asarray(self.memory.numpy().sum(axes, keepdims=True), self.memory.device)
        )


class WholeTensor(Tensor):
    """Stands in for a torch.Tensor of integers or booleans, of which only `to` is used."""

    def __init__(self, x, device):
        self.x, self.shape, self.dtype = x, x.shape, f"torch.{x.dtype}"
        self.device = types.SimpleNamespace(type="cuda", index=device)

    def to(self, dtype):
        return Tensor(cuda.asarray(self.x.astype(dtype.removeprefix("torch.")), self.device.index))


def stand_in_torch():
    stream = types.SimpleNamespace(cuda_stream=7)
    torch = types.SimpleNamespace(
        Tensor=Tensor,
        strided="strided",
        is_grad_enabled=lambda: True,
        cuda=types.SimpleNamespace(current_stream=lambda index: stream),
        **{name: f"torch.{name}" for name in ITEM_BYTES},
    )
    torch.empty = lambda shape, dtype, device: Tensor(cuda.Array(shape, dtype[6:], int(device[5:])))
    return torch


class Ndarray:
    """Stands in for cupy.ndarray."""

    def __init__(self, memory):
        self.memory = memory
        self.shape, self.dtype = memory.shape, np.dtype(memory.dtype)
        self.strides = tuple(s * self.dtype.itemsize for s in memory._strides())
        self.data = types.SimpleNamespace(ptr=memory._pointer)
        self.device = types.SimpleNamespace(id=memory.device)
        self.ndim = len(self.shape)
        self.__dlpack__ = memory.__dlpack__

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()

    def _on(self, x):
        return Ndarray(cuda.asarray(x, self.memory.device))

    def sum(self, axis, dtype):
        return self._on(self.memory.numpy().sum(axis, dtype=dtype))

    def astype(self, dtype):
        return self._on(self.memory.numpy().astype(dtype))

    def reshape(self, shape):
        return self._on(self.memory.numpy().reshape(shape))

    def __getitem__(self, index):
        return self._on(self.memory.numpy()[index])

    def __setitem__(self, index, x):
        assert index is ... and x.shape == self.shape
        self.memory = x.memory


class WholeNdarray(Ndarray):
    """Stands in for a cupy.ndarray of integers or booleans, of which only `astype` is used."""

    def __init__(self, x, device):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype
        self.device = types.SimpleNamespace(id=device)

    def __dlpack_device__(self):
        return (2, self.device.id)

    def astype(self, dtype):
        return Ndarray(cuda.asarray(self.x.astype(dtype), self.device.id))


def stand_in_cupy():
    now = types.SimpleNamespace(device=0)

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            now.device = self.device

        def __exit__(self, *_):
            now.device = 0

    stream = types.SimpleNamespace(ptr=9)
    return types.SimpleNamespace(
        ndarray=Ndarray,
        cuda=types.SimpleNamespace(Device=Device, get_current_stream=lambda device: stream),
        empty=lambda shape, dtype: Ndarray(cuda.Array(shape, np.dtype(dtype).name, now.device)),
        pad=lambda x, widths: x._on(np.pad(x.memory.numpy(), widths)),
        concatenate=lambda xs, axis: xs[0]._on(
            np.concatenate([x[...].memory.numpy() for x in xs], axis)
        ),
        **{
            name: by_numpy(getattr(np, name))
            for name in ("moveaxis", "broadcast_to", "zeros_like", "ascontiguousarray")
        },
    )


def by_numpy(function):
    return lambda x, *arguments: x._on(function(x.memory.numpy(), *arguments))


def real_torch(torch):
    def to(x, device=0):
        if x.dtype.name == "bfloat16":
            return (
                torch.from_numpy(x.view(np.int16).copy()).to(f"cuda:{device}").view(torch.bfloat16)
            )
        return torch.from_numpy(x.copy()).to(f"cuda:{device}")

    def back(y):
        if y.dtype == torch.bfloat16:
            return y.view(torch.int16).cpu().numpy().view(np.dtype("bfloat16"))
        return y.cpu().numpy()

    return torch.Tensor, to, back


def of_memory(y):
    return y.memory.numpy()


@pytest.fixture(
    params=["Array", "interface", "dlpack", "torch", "cupy", *([] if EMULATED else ["jax"])]
)
def kind(request, monkeypatch):
    """(type of array, to(x, device=0), back(y)) of each kind of array."""
    name = request.param
    if name in ("Array", "interface"):
        to = cuda.asarray if name == "Array" else Interface
        return cuda.Array, to, cuda.Array.numpy
    if name == "dlpack":
        return (Dlpack, lambda x, device=0: Dlpack(cuda.asarray(x, device)), of_memory)
    if EMULATED:
        module = stand_in_torch() if name == "torch" else stand_in_cupy()
        array, whole = (Tensor, WholeTensor) if name == "torch" else (Ndarray, WholeNdarray)
        monkeypatch.setitem(sys.modules, name, module)

        def to(x, device=0):
            if x.dtype.kind in "biu":
                return whole(x, device)
            return array(cuda.asarray(x, device))

        return array, to, of_memory
    # By default JAX would take most of the GPU's memory, and keep it.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module = pytest.importorskip(name)
    if name == "torch":
        return real_torch(module)
    if name == "cupy":
        return module.ndarray, lambda x, device=0: module.asarray(x), module.asnumpy
    gpus = [d for d in module.devices() if d.platform == "gpu"]
    if not gpus:
        pytest.skip("this JAX has no GPU")
    return (module.Array, lambda x, device=0: module.device_put(x, gpus[device]), np.asarray)


def of(kind, dtype):
    """The kind, unless it has no such dtype: then the test is skipped."""
    array, to, back = kind
    if dtype == "bfloat16" and to is Interface:
        pytest.skip("__cuda_array_interface__ has no bfloat16")
    if dtype == "bfloat16" and array.__module__.startswith("cupy"):
        pytest.skip("CuPy's bfloat16 is new")
    return array, to, back


def moved(arguments, to):
    return {name: to(x) if isinstance(x, np.ndarray) else x for name, x in arguments.items()}


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", ("causal", "circular", "two_sided"))
def test_conv(kind, dtype, mode):
    """conv and its gradients are right with every operand given."""
    array, to, back = of(kind, dtype)
    case = Case(
        2,
        4,
        300,
        200,
        dtype,
        options=ALL,
        activation="silu",
        mode=mode,
        k_dtype="float32",
        kernels=(2,),
    )
    at = moved(case.arguments, to)
    y = fftconv.conv(to(case.u), to(case.k), **at)
    assert isinstance(y, array)
    check_forward(case, back(y))
    g = fftconv.conv_backward(to(case.dy), to(case.u), to(case.k), **at)._asdict()
    assert all(isinstance(x, array) for x in g.values() if x is not None)
    check_backward(case, {name: back(x) for name, x in g.items() if x is not None})
    g = fftconv.conv_backward(to(case.dy), to(case.u), to(case.k), **at, needs="k")
    assert g.du is None and isinstance(g.dk, array)


@pytest.mark.parametrize("layout", ("BHL", "BLH"))
def test_plan(kind, layout):
    """A plan takes a spectrum, twice, and then the kernel itself."""
    array, to, back = kind
    case = Case(3, 2, 500, 400, "float16", options=("skip", "out_gate"))
    turn = (
        np.ascontiguousarray
        if layout == "BHL"
        else lambda x: np.ascontiguousarray(x.swapaxes(-1, -2))
    )
    plan = fftconv.Plan(
        turn(case.u).shape, case.k.shape, dtype="float16", layout=layout, device="cuda"
    )
    assert plan.device == "cuda:0" and "fused, cuda:0" in repr(plan)
    assert plan.engine == "fused" and plan.isa is None
    at = {"skip": to(case.operands["skip"]), "out_gate": to(turn(case.operands["out_gate"]))}
    spectrum = plan.spectrum(to(case.k))
    for kernel in (spectrum, spectrum, to(case.k)):
        y = plan(to(turn(case.u)), kernel, **at)
        assert isinstance(y, array)
        check_forward(case, turn(back(y)))
        g = plan.backward(to(turn(case.dy)), to(turn(case.u)), kernel, **at)
        got = {n: back(x) for n, x in g._asdict().items() if x is not None}
        check_backward(case, {n: turn(x) if x.ndim == 3 else x for n, x in got.items()})


def test_prepared(kind):
    """A prepared call that is run again uses what the operands hold by then."""
    array, to, back = kind
    case = Case(2, 3, 100, 60)
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")
    u, k, dy = to(case.u), to(case.k), to(case.dy)
    y, forward = plan.prepare(u, plan.spectrum(k))
    g, backward = plan.prepare(u, k, dy=dy)
    assert isinstance(y, array)
    for run in (forward, backward):
        run()
    check_forward(case, back(y))
    check_backward(case, {"du": back(g.du), "dk": back(g.dk)})
    if array is cuda.Array and to is cuda.asarray:
        plan(u, plan.spectrum(k), out=u)  # u now holds y
        forward()
        case.u = back(u)
        check_forward(case, back(y))


def test_in_place(kind):
    """out is written in place, and may be u itself."""
    array, to, back = kind
    case = Case(2, 3, 100, 60)
    u, k = to(case.u), to(case.k)
    if array is Dlpack or array.__module__.startswith("jax"):
        with pytest.raises(ValueError, match="out is a .* cannot be written"):
            fftconv.conv(u, k, out=u)
        return
    assert fftconv.conv(u, k, out=u) is u
    check_forward(case, of_memory(u) if to is Interface else back(u))


def test_strides():
    """Arrays are not copied where their strides can be used; a stride of 0 repeats an element."""
    case = Case(2, 3, 128, 60, options=("in_gate",))
    case.operands["in_gate"] = case.operands["in_gate"][:1, :, :1]
    turned = np.ascontiguousarray(case.u.transpose(2, 0, 1))
    u = Interface(turned, shape=case.u.shape, strides=(12, 4, 24))
    y = fftconv.conv(u, Interface(case.k), Interface(case.operands["in_gate"]))
    check_forward(case, y.numpy())
    odd = Interface(case.u, strides=(1536, 511, 4))
    with pytest.raises(ValueError, match=r"u has strides of \(1536, 511, 4\)"):
        fftconv.conv(odd, Interface(case.k))


def test_repeated_gate(kind):
    """The gradient of a repeated gate is summed, by the library that the array is from."""
    array, to, back = kind
    case = Case(2, 3, 64, 64, "float32", options=("in_gate",))
    case.operands["in_gate"] = case.operands["in_gate"][:1, :, :1]
    at = moved(case.arguments, to)
    if array in (cuda.Array, Dlpack):
        if array is Dlpack:
            return  # this stand-in's namespace has no sum
        with pytest.raises(fftconv.Unsupported, match="in_gate has shape"):
            fftconv.conv_backward(to(case.dy), to(case.u), to(case.k), **at)
        return
    g = fftconv.conv_backward(to(case.dy), to(case.u), to(case.k), **at)
    want = fftconv.reference.conv_backward(case.dy, case.u, case.k, **case.arguments)
    got = back(g.din_gate)
    assert got.shape == (1, 3, 1)
    assert np.abs(got - want.din_gate).max() < 1e-4


def test_other_calls(kind):
    """The calls modelled on other libraries' compute this convolution on the device too."""
    array, to, back = kind
    case = Case(
        2,
        4,
        128,
        128,
        "float16",
        k_dtype="float32",
        options=("in_gate", "out_gate"),
        mode="circular",
        fft_size=256,
    )
    flash = fftconv.flash.FlashFFTConv(256, dtype="float16")
    at = moved(case.operands, to)
    y = flash(to(case.u), to(case.k), **at)
    assert isinstance(y, array)
    check_forward(case, back(y))
    g = flash.backward(to(case.dy), to(case.u), to(case.k), **at)
    check_backward(case, {n: back(x) for n, x in g._asdict().items() if x is not None})

    short = Case(2, 4, 128, 40)
    partial_conv = fftconv.flash.PartialFFTConv(40)
    check_forward(short, back(partial_conv(to(short.u), to(short.k))))

    case = Case(2, 4, 128, 128, options=("skip",), activation="gelu")
    skip = case.operands["skip"]
    y = fftconv.hyena.fftconv_func(to(case.u), to(case.k), to(skip))
    check_forward(case, back(y))
    g = fftconv.hyena.fftconv_func_backward(to(case.dy), to(case.u), to(case.k), to(skip))
    check_backward(case, {"du": back(g.du), "dk": back(g.dk), "dskip": back(g.dD)})

    module = fftconv.FFTConv(4, 128, activation="gelu", device="cuda")
    module.k, module.skip = case.k, skip
    y = module(to(case.u))
    assert isinstance(y, array)
    check_forward(case, back(y))
    g = module.backward(to(case.dy), to(case.u))
    assert isinstance(g.dk, array)
    check_backward(case, {"du": back(g.du), "dk": back(g.dk), "dskip": back(g.dskip)})


def test_partial_of_a_longer_kernel(kind):
    """Taps that never act have gradients of zero, which the array's own library appends."""
    array, to, back = kind
    case = Case(2, 3, 64, 64)
    short = fftconv.flash.PartialFFTConv(20)
    if array in (cuda.Array, Dlpack) or EMULATED and array is Tensor:
        return
    g = short.backward(to(case.dy), to(case.u), to(case.k))
    dk = back(g.dk)
    assert dk.shape == case.k.shape and not dk[:, 20:].any() and dk[:, :20].any()


# ---- Devices, streams, lifetimes -----------------------------------------------


@two_devices
def test_second_device(kind):
    array, to, back = kind
    case = Case(2, 3, 100, 60)
    y = fftconv.conv(to(case.u, device=1), to(case.k, device=1))
    check_forward(case, back(y))
    for at in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"k is on cuda:{at[1]}; it must be on cuda:{at[0]}"):
            fftconv.conv(to(case.u, device=at[0]), to(case.k, device=at[1]))
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda:1")
    with pytest.raises(ValueError, match="u is on cuda:0; it must be on cuda:1"):
        plan(to(case.u), to(case.k, device=1))
    spectrum = fftconv.Plan(case.u.shape, case.k.shape, device="cuda:0").spectrum(to(case.k))
    with pytest.raises(ValueError, match="spectrum is .* on cuda:0"):
        plan(to(case.u, device=1), spectrum)


def test_mixed_with_the_cpu(kind):
    _, to, _ = kind
    case = Case(2, 3, 100, 60, options=ALL)
    u, k, at = to(case.u), to(case.k), moved(case.operands, to)
    with pytest.raises(ValueError, match="k is on the CPU; it must be on cuda:0"):
        fftconv.conv(u, case.k)
    with pytest.raises(ValueError, match="k is on cuda:0; it must be on the CPU"):
        fftconv.conv(case.u, k)
    for name, x in case.operands.items():
        with pytest.raises(ValueError, match=f"{name} is on the CPU; it must be on"):
            fftconv.conv(u, k, **{**at, name: x})
    with pytest.raises(ValueError, match="out is on the CPU; it must be on cuda:0"):
        fftconv.conv(u, k, out=case.u.copy())
    with pytest.raises(ValueError, match="dy is on the CPU; it must be on cuda:0"):
        fftconv.conv_backward(case.dy, u, k)
    with pytest.raises(ValueError, match="skip is on the CPU; it must be on cuda:0"):
        fftconv.conv(u, k, skip=[1, 2, 3])


@emulated_only
def test_default_streams(monkeypatch):
    """The default streams of torch and CuPy are waited for like any other stream."""
    case = Case(1, 2, 64, 64)
    torch = stand_in_torch()
    torch.cuda.current_stream = lambda index: types.SimpleNamespace(cuda_stream=0)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "cupy", stand_in_cupy())
    waits = _lib.lib.cuda_emulated_waits
    for u, k, want in [
        (Tensor(cuda.asarray(case.u)), Ndarray(cuda.asarray(case.k)), 2),
        (Ndarray(cuda.asarray(case.u)), Tensor(cuda.asarray(case.k)), 2),
        (Tensor(cuda.asarray(case.u)), Interface(case.k), 0),
    ]:
        start = waits()
        y = fftconv.conv(u, k)
        assert isinstance(y, type(u)) and waits() - start == want
        check_forward(case, y.memory.numpy())


@emulated_only
def test_streams():
    """A call runs on u's stream, which waits for the other operands' streams, and they for it."""
    case = Case(1, 2, 64, 64)
    waits = _lib.lib.cuda_emulated_waits

    def count(call):
        start = waits()
        return call(), waits() - start

    k = Interface(case.k, stream=5)
    y, n = count(partial(fftconv.conv, Interface(case.u, stream=7), k))
    assert n == 2 and y.__cuda_array_interface__["stream"] == 7
    assert count(partial(fftconv.conv, Interface(case.u, stream=5), k))[1] == 0
    assert count(partial(fftconv.conv, Interface(case.u, stream=None), k))[1] == 2
    u = Dlpack(cuda.asarray(case.u))
    y, n = count(partial(fftconv.conv, u, Dlpack(cuda.asarray(case.k))))
    assert u.streams == [1] and y.streams == [1] and n == 0
    y = fftconv.conv(Interface(case.u, stream=7), k)
    assert count(partial(y.__dlpack__, stream=8))[1] == 1
    assert count(partial(y.__dlpack__, stream=7))[1] == 0
    assert count(partial(y.__dlpack__, stream=-1))[1] == 0
    assert count(y.__dlpack__)[1] == 1  # None means the default stream


@emulated_only
def test_a_spectrum_knows_no_stream(monkeypatch):
    """A spectrum made on a stream that its kernel named is finished when it is returned, so that
    calls on any stream may use it."""
    case, stops = Case(1, 2, 64, 64), _lib.lib.cuda_emulated_stops
    monkeypatch.setitem(sys.modules, "torch", stand_in_torch())
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")

    def of(k):
        start = stops()
        plan.spectrum(k)
        return stops() - start

    assert of(Interface(case.k, stream=5)) == of(Tensor(cuda.asarray(case.k))) + 1


def test_dlpack_lives_as_long_as_it_is_used():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    a = cuda.asarray(x)
    v = view(Dlpack(a), "x", devices=True)
    assert v.shape == (2, 3) and v.strides == (3, 1) and v.pointer == a._pointer
    del a
    gc.collect()
    assert len(cuda._handed_out) == 1
    assert (DeviceView, "float32", 0) == (type(v), v.dtype, v.device)
    del v
    gc.collect()
    assert not cuda._handed_out
    with pytest.raises(BufferError, match="where it is"):
        cuda.asarray(x).__dlpack__(copy=True)


@emulated_only
def test_memory_is_given_back():
    gc.collect()
    before = _lib.lib.cuda_emulated_allocations()
    case = Case(2, 2, 100, 100)
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")
    u, k = cuda.asarray(case.u), cuda.asarray(case.k)
    y = plan(u, plan.spectrum(k))
    g = plan.backward(u, u, k)
    assert _lib.lib.cuda_emulated_allocations() == before + 6
    del u, k, y, g, plan
    gc.collect()
    assert _lib.lib.cuda_emulated_allocations() == before


@pytest.fixture
def torch(monkeypatch):
    monkeypatch.setattr(cuda, "empty", cuda.empty.__wrapped__)
    module = pytest.importorskip("torch")
    if EMULATED or not module.cuda.is_available():
        pytest.skip("of a GPU")
    return module


def test_torch_stream(torch):
    """A call runs on torch's current stream, after the work that is already queued there."""
    case = Case(2, 3, 500, 500)
    _, to, back = real_torch(torch)
    u, k, late = torch.zeros(case.u.shape, device="cuda"), to(case.k), to(case.u)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        u.copy_(late)
        y = fftconv.conv(u, k)
        check_forward(case, back(y))


def test_torch_graph(torch):
    """Forward and backward may be captured in a CUDA graph and replayed on other numbers."""
    _, to, back = real_torch(torch)
    case, other = (Case(2, 3, 500, 500, seed=s) for s in (0, 1))
    u, k, dy = to(case.u), to(case.k), to(case.dy)
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")

    def both():
        return plan(u, k), plan.backward(dy, u, k)

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, g = both()
    for x, new in (u, other.u), (k, other.k), (dy, other.dy):
        x.copy_(to(new))
    graph.replay()
    check_forward(other, back(y))
    check_backward(other, {"du": back(g.du), "dk": back(g.dk)})


# ---- What is refused -------------------------------------------------------------


def test_device_named():
    """`device` must be where u is, or the call is refused; "cuda" stands for any CUDA device."""
    case = Case(1, 2, 64, 64)
    u, k = cuda.asarray(case.u), cuda.asarray(case.k)
    for device in (None, "cuda", "cuda:0"):
        check_forward(case, fftconv.conv(u, k, device=device).numpy())
        fftconv.conv_backward(u, u, k, device=device)
        fftconv.FFTConv(2, 64, device=device)(u)
    last = f"cuda:{DEVICES - 1}"
    there = cuda.asarray(case.u, DEVICES - 1)
    fftconv.FFTConv(2, 64, device="cuda")(there)
    fftconv.FFTConv(2, 64, device=last)(there)
    refused = [(u, k, "cpu"), (case.u, case.k, "cuda"), (case.u, case.k, last)]
    if DEVICES > 1:
        refused += [(u, k, last), (there, k, "cuda:0")]
    for rows, kernel, device in refused:
        at = "the CPU" if rows is case.u else last if rows is there else "cuda:0"
        with pytest.raises(ValueError, match=f"u is on {at}, and device is '{device}'"):
            fftconv.conv(rows, kernel, device=device)
        with pytest.raises(ValueError, match=f"u is on {at}, and device is '{device}'"):
            fftconv.FFTConv(2, 64, device=device)(rows)
    with pytest.raises(ValueError, match="device is 'gpu'; allowed: 'cpu'"):
        fftconv.conv(u, k, device="gpu")
    beyond = f"cuda:{DEVICES}"
    for call in (
        lambda: fftconv.conv(u, k, device=beyond),
        lambda: fftconv.FFTConv(2, 64, device=beyond),
    ):
        with pytest.raises(fftconv.Unsupported, match=f"'{beyond}', and there are {DEVICES} CUDA"):
            call()


# ---- Mixed types: converted by torch and CuPy, else refused ---------------------


def test_conversions(kind):
    """A kernel in the other 16-bit type, a gate in float32, a mask of booleans and integers are
    converted, and each gradient has its operand's own dtype."""
    array, to, back = kind
    case = Case(2, 4, 64, 64, "float16", options=ALL)
    rng = np.random.default_rng(0)
    mask = rng.random((2, 4)) < 0.5
    whole = rng.integers(-3, 4, case.k.shape)
    changes = [
        ({"in_gate": case.operands["in_gate"].astype("float32")}, "float32"),
        ({"mask": mask}, "float16"),
        ({"k": whole.astype("int32")}, "float64"),
        ({"u": case.u.astype("float64")}, "float64"),
    ]
    if array in (cuda.Array, Dlpack) or array.__module__.startswith("jax"):
        u, k = to(case.u), to(case.k)
        gate = case.operands["in_gate"].astype("float32")
        with pytest.raises(ValueError, match="u has dtype float16 on cuda:0.*pass it as float32"):
            fftconv.conv(u, k, to(gate))
        with pytest.raises(ValueError, match="k has dtype float16 on cuda:0.*pass it as float32"):
            fftconv.conv(to(gate), k)
        return
    base = {"u": case.u, "k": case.k, **case.operands}
    for change, result in changes:
        given = {**base, **change}
        kernel = "float32" if result == "float16" else result
        alike = {
            name: x.astype(result if name in ("u", "in_gate", "out_gate") else kernel)
            if x.dtype != np.float16 or result != "float16"
            else x
            for name, x in given.items()
        }
        y = fftconv.conv(**moved(given, to))
        assert isinstance(y, array) and back(y).dtype == result
        assert same_bits(back(y), back(fftconv.conv(**moved(alike, to))))
        dy = case.dy.astype(result)
        got = fftconv.conv_backward(to(dy), **moved(given, to))
        want = fftconv.conv_backward(to(dy), **moved(alike, to))
        for name, x in given.items():
            if name != "mask":
                a, b = (back(getattr(g, "d" + name)) for g in (got, want))
                own = np.float64 if x.dtype.kind in "biu" else x.dtype
                assert same_bits(a, b.astype(own)), name


def test_conversions_of_plans_and_modules(kind):
    array, to, back = kind
    case = Case(2, 4, 64, 64, "float16")
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")
    module = fftconv.FFTConv(4, 64, device="cuda")
    wide = case.u.astype("float64")
    for call in (lambda u: plan(u, to(np.float32(case.k))), module):
        with pytest.raises(
            ValueError, match="u has dtype float64; this .* float32; allowed: float32"
        ):
            call(to(wide))
        if array in (cuda.Array, Dlpack) or array.__module__.startswith("jax"):
            with pytest.raises(ValueError, match="u has dtype float16 on cuda:0"):
                call(to(case.u))
            continue
        y = call(to(case.u))
        assert isinstance(y, array) and same_bits(back(y), back(call(to(np.float32(case.u)))))


@pytest.mark.parametrize("mode, axis", [("full", -1), ("same", 1), ("causal", 0)])
def test_shapes_and_modes(kind, mode, axis):
    """More axes and NumPy's modes, where the array's library can reshape it; else a refusal."""
    array, to, back = kind
    if EMULATED and array is Tensor:
        pytest.skip("test_shapes.py tests torch's own tensors, on the CPU")
    rng = np.random.default_rng(0)
    u = np.moveaxis(rng.standard_normal((3, 4, 60)).astype("float32"), -1, axis).copy()
    k = rng.standard_normal((2, 1, 2, 9)).astype("float32")
    want = fftconv.conv(u, k, mode=mode, axis=axis)
    options = {"mode": mode, "axis": axis}
    if array in (cuda.Array, Dlpack) or array.__module__.startswith("jax"):
        with pytest.raises(fftconv.Unsupported, match="u is on cuda:0 and of no library"):
            fftconv.conv(to(u), to(k), **options)
        return
    out = to(np.zeros_like(want))
    for y in (
        fftconv.conv(to(u), to(k), **options),
        fftconv.conv(to(u), to(k), **options, out=out),
    ):
        assert isinstance(y, array) and np.allclose(back(y), want, atol=1e-4)
    assert y is out
    want = fftconv.conv_backward(want, u, k, **options)
    got = fftconv.conv_backward(y, to(u), to(k), **options)
    for a, b in ((got.du, want.du), (got.dk, want.dk)):
        assert isinstance(a, array) and np.allclose(back(a), b, atol=1e-3 * np.abs(b).max())


def test_pickled():
    """Plans are pickled with their device; spectra there are not."""
    plan = fftconv.Plan((1, 2, 64), (2, 64), device="cuda")
    assert repr(pickle.loads(pickle.dumps(plan))) == repr(plan)
    with pytest.raises(TypeError, match="a Spectrum lives .* cannot be pickled"):
        pickle.dumps(plan.spectrum(cuda.asarray(np.ones((2, 64), "float32"))))


def test_wrong_arrays():
    case = Case(1, 2, 64, 64)
    k = cuda.asarray(case.k)
    host = {"data": (case.u.ctypes.data, False)}
    for x, says in [
        (Interface(case.u, **host), "u: memory is .* must be a device's"),
        (Interface(case.u, shape=(0, 2, 64)), r"u has shape \(0, 2, 64\)"),
    ]:
        with pytest.raises(ValueError, match=says):
            fftconv.conv(x, k)
    for x, says in [
        (Interface(case.u, typestr="<i4"), "u has dtype <i4; allowed on a device: float64"),
        (Interface(case.u, typestr=">f4"), "u has dtype >f4; allowed on a device: float64"),
        (Interface(case.u, mask=case.u), "u is a masked array"),
    ]:
        with pytest.raises(TypeError, match=says):
            fftconv.conv(x, k)
    readonly = Interface(case.u)
    readonly.fields["data"] = (readonly.fields["data"][0], True)
    check_forward(case, fftconv.conv(readonly, k).numpy())
    with pytest.raises(ValueError, match="out is a Interface that cannot be written"):
        fftconv.conv(readonly, k, out=readonly)
    u = cuda.asarray(case.u)
    with pytest.raises(ValueError, match="out has shape"):
        fftconv.conv(u, k, out=cuda.asarray(case.u[:, :1]))
    with pytest.raises(ValueError, match="out has dtype float16"):
        fftconv.conv(u, k, out=cuda.asarray(case.u.astype("float16")))
    with pytest.raises(ValueError, match=f"device_index is {DEVICES}, must be 0"):
        cuda.asarray(case.u, DEVICES)
    with pytest.raises(ValueError, match="device is -1; it must be from 0"):
        cuda.asarray(case.u, -1)
    for device in ("gpu", "cuda:x", "cuda:-1", 1.5):
        with pytest.raises(ValueError, match="device is .*; allowed: 'cpu'"):
            fftconv.Plan((1, 2, 64), (2, 64), device=device)


def test_not_on_a_device():
    """Calls, types and options that only the CPU has so far are refused on a device, by name."""
    case = Case(2, 4, 64, 64)
    u, k = cuda.asarray(case.u), cuda.asarray(case.k)
    plan = fftconv.Plan(case.u.shape, case.k.shape, device="cuda")
    D = cuda.asarray(np.ones(2, "float32"))
    for says, call, *arguments in [
        (
            "pattern is",
            partial(fftconv.conv, mode="circular", pattern=fftconv.Pattern.lowpass(8)),
            u,
            k,
        ),
        ("pattern is", fftconv.flash.FrequencySparseFFTConv(8), u, k),
        ("rows_to_spectra is not on", plan.rows_to_spectra, u),
        (
            "this is the CPU's",
            partial(fftconv.hyena.fftconv_func, head_dim=2, v=u, q=u),
            u,
            cuda.asarray(case.k[:2]),
            D,
        ),
        ("a filter is the CPU's", fftconv.hyena.fftconv_fwd, u, k, None),
    ]:
        with pytest.raises(fftconv.Unsupported, match=says):
            call(*arguments)
    w = cuda.asarray(case.k[:, :3])
    for says, call, *arguments in [
        (
            "u is on a CUDA device; this call",
            fftconv.conv_matrix,
            u,
            cuda.asarray(np.ones((4, 4, 8), "float32")),
        ),
        ("x is on a CUDA device; this call", fftconv.depthwise_conv1d, u, w),
        ("k is on a CUDA device; this call", fftconv.Stream, k),
        ("k is on a CUDA device", partial(setattr, fftconv.FFTConv(4, 64), "k"), k),
        (
            "isa is 'avx2'; on cuda:0, where engine names what runs",
            partial(fftconv.Plan, device="cuda", isa="avx2"),
            case.u.shape,
            case.k.shape,
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            call(*arguments)


@pytest.mark.parametrize(
    "dtype, length, engine",
    [("float64", 500, None), ("float32", 17000, None), ("bfloat16", 300, "cufft")],
)
def test_by_cufft(dtype, length, engine):
    """cuFFT, where there is one, does rows that no fused launch holds, and those for which it is
    asked for."""
    case = Case(3, 2, length, length, dtype, options=ALL, activation="gelu")
    try:
        plan = fftconv.Plan(case.u.shape, case.k.shape, dtype=dtype, engine=engine, device="cuda")
    except fftconv.Unsupported as error:
        assert "cuFFT was not found" in str(error) and not EMULATED
        pytest.skip(str(error))
    assert plan.engine == "cufft" and plan.isa is None and plan.transform_length >= 2 * length - 1
    operands = {name: cuda.asarray(x) for name, x in case.operands.items()}
    u, k, dy = (cuda.asarray(x) for x in (case.u, case.k, case.dy))
    spectrum = plan.spectrum(k)
    for kernel in (spectrum, k):
        check_forward(case, plan(u, kernel, activation="gelu", **operands).numpy())
    g = plan.backward(dy, u, k, activation="gelu", **operands)._asdict()
    check_backward(case, {name: x.numpy() for name, x in g.items() if x is not None})


def test_memory_functions_refuse():
    """Wrong arguments are refused by name, and nothing is written."""
    lib, memory, device = _lib.lib, c_void_p(), c_int(-7)
    for says, call, *arguments in [
        ("memory is NULL", lib.fftconv_cuda_allocate, None, 8, 0),
        ("bytes is 0, must be at least 1", lib.fftconv_cuda_allocate, byref(memory), 0, 0),
        ("device_index is -1, must be 0", lib.fftconv_cuda_allocate, byref(memory), 8, -1),
        ("to, from or bytes is NULL or negative", lib.fftconv_cuda_copy, None, 8, 8, 0, None),
        ("to, from or bytes is NULL or negative", lib.fftconv_cuda_copy, 8, 8, -1, 0, None),
        ("memory is NULL", lib.fftconv_cuda_device_of, None, byref(device)),
        ("device_index is NULL", lib.fftconv_cuda_device_of, 8, None),
        (f"device_index is {DEVICES}, must be", lib.fftconv_cuda_wait, DEVICES, None, None),
        ("device_index is -1, must be", lib.fftconv_cuda_synchronize, -1, None),
    ]:
        with pytest.raises(ValueError, match=says):
            call(*arguments)
    assert memory.value is None and device.value == -7
    lib.fftconv_cuda_release(None, 0)
    lib.fftconv_cuda_synchronize(0, None)


def test_asarray():
    for dtype in ("float64", "float32", "float16", "bfloat16", "complex64"):
        x = np.arange(12).reshape(3, 4).astype(np.dtype(dtype))
        a = cuda.asarray(x.T)
        assert a.shape == (4, 3) and a.dtype == dtype and f"{dtype}" in repr(a)
        assert a.numpy().tobytes() == np.ascontiguousarray(x.T).tobytes()
    assert cuda.asarray([1, 2.5]).numpy().tolist() == [1, 2.5]
    assert not hasattr(cuda.asarray(x.astype(np.dtype("bfloat16"))), "__cuda_array_interface__")
