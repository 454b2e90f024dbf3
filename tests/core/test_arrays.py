"""Arrays in and out: strides, kinds of array, alignment, byte order and overlap."""

import itertools
import sys

import fftconv
import numpy as np
import pytest
from fftconv import _array  # for how arrays are read and results aligned
from support import DTYPES, Case, check_forward, check_gradients, same_bits

ALL = ("in_gate", "out_gate", "skip", "mask")


def embed(x, how):
    """A view with x's values and other strides."""
    if how == "every second":
        big = np.zeros(x.shape[:-1] + (2 * x.shape[-1],), x.dtype)
        big[..., ::2] = x
        return big[..., ::2]
    if how == "reversed":
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    if how == "all reversed":
        return np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    if how == "sliced":
        big = np.full(tuple(n + 3 for n in x.shape), 9, x.dtype)
        big[1:-2, 2:-1, 1:-2] = x
        return big[1:-2, 2:-1, 1:-2]
    if how == "fortran":
        return np.asfortranarray(x)
    if how == "hbl":
        return np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    raise KeyError(how)


HOW = ["every second", "reversed", "all reversed", "sliced", "fortran", "hbl"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_strides(how, dtype, mode):
    """Any strides, of every operand and of out, give the bits that dense arrays give."""
    for length in (33, 300):
        case = Case(3, 5, length, length, dtype, options=ALL, activation="gelu", mode=mode)
        want = fftconv.conv(case.u, case.k, **case.arguments)
        gradients = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
        arguments = case.arguments
        for name in ("in_gate", "out_gate"):
            arguments[name] = embed(arguments[name], how)
        arguments["skip"] = embed(arguments["skip"][None, None], how)[0, 0]
        arguments["mask"] = embed(arguments["mask"][None], how)[0]
        u, dy = embed(case.u, how), embed(case.dy, how)
        k = embed(case.k[None], how)
        assert not u.flags.c_contiguous
        before = u.copy()
        out = embed(np.full_like(case.u, np.nan), how)
        y = fftconv.conv(u, k, **arguments, out=out)
        assert y is out and same_bits(np.ascontiguousarray(y), want)
        assert same_bits(fftconv.conv(u, k, **arguments), want)
        got = fftconv.conv_backward(dy, u, k, **arguments)
        for name, a, b in zip(got._fields, got, gradients):
            assert b is None or np.array_equal(a.reshape(b.shape), b), name
        assert np.array_equal(u, before), "an input was written to"
        fftconv.conv(u, k, **arguments, out=u)  # in place
        assert same_bits(np.ascontiguousarray(u), want)


def test_strided_out_touches_nothing_else():
    case = Case(2, 3, 50, 50)
    base = np.full((5, 6, 120), 7, np.float32)
    fftconv.conv(case.u, case.k, out=base[1:3, 2:5, 10:110:2])
    touched = np.zeros(base.shape, bool)
    touched[1:3, 2:5, 10:110:2] = True
    assert np.all(base[~touched] == 7) and not np.any(base[touched] == 7)


def test_no_copy_in(monkeypatch):
    """Strided inputs of the right dtype are passed by pointer, without a copy."""
    case = Case(2, 3, 40, 40)
    u = case.u[:, ::-1, ::2]
    v = _array.view(u, "u")
    assert v.pointer == u.__array_interface__["data"][0]
    assert v.strides == tuple(s // 4 for s in u.strides)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_swapped_and_misaligned(dtype):
    """Operands in another byte order or misaligned are copied; as out they are refused."""
    case = Case(2, 3, 100, 100, dtype, options=ALL)
    want = fftconv.conv(case.u, case.k, **case.arguments)

    def swapped(x):
        return x.astype(x.dtype.newbyteorder())

    def misaligned(x):
        raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype)
        raw = raw.reshape(x.shape)
        raw[...] = x
        assert not raw.flags.aligned
        return raw

    for change, word in ((swapped, "byte order"), (misaligned, "aligned")):
        at = {"u": case.u, "k": case.k, **case.arguments}
        at = {name: change(x) if isinstance(x, np.ndarray) else x for name, x in at.items()}
        assert same_bits(fftconv.conv(**at), want)
        g = fftconv.conv_backward(change(case.dy), **at)
        assert g.du.dtype.isnative
        check_gradients(case, g)
        with pytest.raises(ValueError, match=f"out .*{word}"):
            fftconv.conv(case.u, case.k, out=change(np.zeros_like(case.u)))


@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_fields_of_structured_arrays(dtype):
    """A complex field beside a real one has strides that are not whole elements, though
    NumPy calls it aligned.  Such inputs are copied, and such an output is refused."""
    case = Case(2, 3, 100, 100, dtype)

    def field(x):
        table = np.zeros(x.shape, [("x", x.dtype), ("y", x.real.dtype)])
        table["x"] = x
        assert table["x"].flags.aligned
        return table["x"]

    want = fftconv.conv(case.u, case.k)
    assert same_bits(fftconv.conv(field(case.u), field(case.k)), want)
    with pytest.raises(ValueError, match="out is misaligned"):
        fftconv.conv(case.u, case.k, out=field(np.zeros_like(case.u)))


def test_out_is_checked():
    case = Case(2, 3, 40, 40)
    good = np.zeros_like(case.u)
    frozen = good.copy()
    frozen.flags.writeable = False
    for out, word in [
        (good[:1], "shape"),
        (good[..., :39], "shape"),
        (good.astype("float64"), "dtype"),
        (good.astype("int32"), "dtype"),
        (frozen, "read-only"),
        (np.broadcast_to(good[:, :, :1], good.shape).copy()[:, :, :1], "shape"),
    ]:
        with pytest.raises(ValueError, match=f"out .*{word}"):
            fftconv.conv(case.u, case.k, out=out)
    assert not good.any()
    for out in ([[0.0]], "y", {"y": good}):
        with pytest.raises(TypeError, match="out is a .*NumPy array"):
            fftconv.conv(case.u, case.k, out=out)


def test_out_that_repeats_itself():
    """out may not have a stride of 0, which would write one element twice."""
    case = Case(2, 3, 40, 40)
    out = np.lib.stride_tricks.as_strided(np.full(40, 7, np.float32), (2, 3, 40), (0, 0, 4))
    with pytest.raises(ValueError, match="y"):
        fftconv.conv(case.u, case.k, out=out)
    assert np.all(out == 7)


def test_overlap():
    """out may be u itself; any other overlap is refused, and nothing is written."""
    base = np.arange(2 * 3 * 41 + 8, dtype=np.float32)
    u = base[:240].reshape(2, 3, 40)
    k = np.ones((3, 40), np.float32)
    before = base.copy()
    for out in (
        base[1:241].reshape(2, 3, 40),
        base[6:246].reshape(2, 3, 40),
        u[::-1],
        u[..., ::-1],
    ):
        with pytest.raises(ValueError, match="overlap"):
            fftconv.conv(u, k, out=out)
        assert np.array_equal(base, before)
    case = Case(2, 3, 40, 40, options=ALL)
    for name in ("in_gate", "out_gate"):
        x = case.operands[name]
        kept = x.copy()
        with pytest.raises(ValueError, match="overlap"):
            fftconv.conv(case.u, case.k, **case.arguments, out=x)
        assert same_bits(x, kept)
    big = np.ones(3 * 40 + 240, np.float32)
    with pytest.raises(ValueError, match="overlap"):
        fftconv.conv(case.u, big[:120].reshape(3, 40), out=big[100:340].reshape(2, 3, 40))
    assert np.all(big == 1)


def test_interleaved_is_no_overlap():
    """The even and odd samples of one buffer share no element: a call on them is right, or refused
    because of overlap."""
    case = Case(2, 3, 40, 40)
    both = np.zeros((2, 3, 80), np.float32)
    both[..., ::2] = case.u
    try:
        y = fftconv.conv(both[..., ::2], case.k, out=both[..., 1::2])
    except ValueError as error:
        assert "overlap" in str(error)
    else:
        check_forward(case, np.ascontiguousarray(y))


def test_inputs_may_be_one_array():
    """u, both gates and dy may all be the same memory, or repeat it by strides of 0."""
    case = Case(2, 3, 64, 64)
    y = fftconv.conv(case.u, case.k, case.u, case.u)
    assert same_bits(y, fftconv.conv(case.u, case.k, case.u.copy(), case.u.copy()))
    ones = np.broadcast_to(np.float32(1), case.u.shape)  # strides 0
    assert ones.strides == (0, 0, 0)
    assert same_bits(fftconv.conv(case.u, case.k, ones, ones), fftconv.conv(case.u, case.k))
    assert same_bits(
        fftconv.conv_backward(ones, case.u, case.k).dk,
        fftconv.conv_backward(ones.copy(), case.u, case.k).dk,
    )
    same = np.broadcast_to(case.k[:1], case.k.shape)
    assert same_bits(fftconv.conv(case.u, same), None or fftconv.conv(case.u, same.copy()))


class Interface:
    """An array with __array_interface__ alone."""

    def __init__(self, x):
        self._x = x
        self.__array_interface__ = x.__array_interface__


class Array:
    """An array with __array__ alone."""

    def __init__(self, x):
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return self._x


class DLPack:
    """An array with DLPack and the array API; its namespace is the class Namespace."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **keywords):
        return self.x.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()

    def __array_namespace__(self, api_version=None):
        return Namespace


class Namespace:
    @staticmethod
    def from_dlpack(x):
        return DLPack(np.from_dlpack(x))


class OnDevice(DLPack):
    def __init__(self, x, device):
        super().__init__(x)
        self.device = device

    def __dlpack_device__(self):
        return self.device


class CudaArray:
    __cuda_array_interface__ = {
        "shape": (4,),
        "typestr": "<f4",
        "data": (4096, False),
        "version": 3,
    }


def test_other_kinds():
    """An array of any supported protocol is taken; DLPack arrays get results of their own kind."""
    case = Case(2, 3, 50, 50, options=("in_gate", "skip"))
    want = fftconv.conv(case.u, case.k, **case.arguments)
    for wrap, axis in itertools.product((Interface, Array, DLPack), (None, -1)):
        at = {
            name: wrap(x) if isinstance(x, np.ndarray) else x for name, x in case.arguments.items()
        }
        y = fftconv.conv(wrap(case.u), wrap(case.k), **at, axis=axis)
        g = fftconv.conv_backward(wrap(case.dy), wrap(case.u), wrap(case.k), **at, axis=axis)
        if wrap is DLPack:
            assert all(type(x) is DLPack for x in (y, g.du, g.dk, g.din_gate))
            y, g = y.x, type(g)(*(x and x.x for x in g))
        assert type(y) is np.ndarray and same_bits(y, want)
        check_gradients(case, g)


def test_arrays_of_devices():
    """Arrays on devices are refused by calls that only the CPU has, and where there is no
    device."""
    k = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match=r"u is on DLPack device \(10, 0\)"):
        fftconv.conv(OnDevice(k, (10, 0)), k)  # kDLROCM
    for x in OnDevice(k, (2, 0)), CudaArray():  # kDLCUDA
        with pytest.raises(ValueError, match="x is on a CUDA device; this call"):
            fftconv.depthwise_conv1d(x, k)
    if fftconv.cuda.available():
        return  # test_device_arrays.py tests the rest
    assert fftconv.cuda.devices() == 0
    for call in (
        lambda: fftconv.conv(k, CudaArray()),
        lambda: fftconv.cuda.asarray(k),
        lambda: fftconv.Plan((1, 1, 4), (1, 4), device="cuda"),
        lambda: fftconv.conv(k, k, device="cuda"),
        lambda: fftconv.conv_backward(k, k, k, device="cuda"),
        lambda: fftconv.FFTConv(1, 4, device="cuda"),
    ):
        with pytest.raises(fftconv.Unsupported, match="CUDA"):
            call()
    for device in (None, "cpu"):
        assert np.allclose(fftconv.conv(k, k, device=device), [[1, 2, 3, 4]])


def test_subclass():
    class Mine(np.ndarray):
        pass

    case = Case(2, 3, 20, 20)
    y = fftconv.conv(case.u.view(Mine), case.k)
    assert same_bits(np.asarray(y), fftconv.conv(case.u, case.k))


def test_torch_is_never_imported():
    assert "torch" not in sys.modules or _array._torch(np.ones(1)) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch(dtype):
    """CPU tensors give CPU tensors, bfloat16 included, and their strides are used as they are."""
    torch = pytest.importorskip("torch")
    case = Case(
        2,
        3,
        100,
        100,
        dtype,
        k_dtype="float64" if dtype == "float64" else "float32",
        options=ALL,
        activation="gelu",
    )

    def tensor(x):
        if not isinstance(x, np.ndarray):
            return x
        if x.dtype.name == "bfloat16":
            return (
                torch.from_numpy(x.view(np.uint16).astype(np.int32))
                .to(torch.int16)
                .view(torch.bfloat16)
            )
        return torch.from_numpy(x)

    def bits(x):
        if x.dtype == torch.bfloat16:
            return x.contiguous().view(torch.int16).numpy().tobytes()
        return x.contiguous().numpy().tobytes()

    want = fftconv.conv(case.u, case.k, **case.arguments)
    gradients = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    at = {name: tensor(x) for name, x in case.arguments.items()}
    u = tensor(case.u).transpose(1, 2).contiguous().transpose(1, 2)
    y = fftconv.conv(u, tensor(case.k), **at)
    assert isinstance(y, torch.Tensor) and y.dtype == u.dtype
    assert bits(y) == want.tobytes()
    got = fftconv.conv_backward(tensor(case.dy), u, tensor(case.k), **at)
    for a, b in zip(got, gradients):
        assert a is b is None or (bits(a) == b.tobytes() and tuple(a.shape) == b.shape)
    out = torch.empty_like(u)
    assert fftconv.conv(u, tensor(case.k), **at, out=out) is out
    assert bits(out) == want.tobytes()
    plan = fftconv.Plan(u.shape, case.k.shape, dtype=u.dtype)
    assert plan.dtype == dtype
    gate = tensor(case.operands["in_gate"])[:1, :, :1]
    g = fftconv.conv_backward(tensor(case.dy), u, tensor(case.k), gate)
    assert g.din_gate.shape == gate.shape
    with pytest.raises(ValueError, match="requires grad"):
        fftconv.conv(torch.ones(4, requires_grad=True), torch.ones(4))
    y = fftconv.conv(torch.ones(4, dtype=torch.int64), torch.ones(4))
    assert y.dtype == torch.float64 and torch.allclose(y, torch.arange(1.0, 5.0).double())
    with pytest.raises(TypeError, match="complex32"):
        fftconv.conv(torch.ones(4, dtype=torch.complex32), torch.ones(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_begin_at_a_cache_line(dtype):
    for length in (1, 3, 100, 5000):
        case = Case(1, 1, length, length, dtype=dtype)
        for _ in range(3):
            y = fftconv.conv(case.u, case.k)
            assert y.ctypes.data % _array.ALIGNMENT == 0
            assert y.flags.c_contiguous and y.flags.writeable
