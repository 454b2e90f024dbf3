"""Arrays on CUDA devices: counting the devices, reading arrays, returning results.

`conv`, `conv_backward`, `Plan`, `FFTConv` and the calls composed only of these accept a
torch tensor on a CUDA device, a CuPy array, or any object there with DLPack or
``__cuda_array_interface__``.  The result is an array of the same library on the same
device.

Work is queued on the current stream of torch or CuPy, or on the stream that the
array names, and calls do not wait for it.  Arrays that offer only DLPack, such as
JAX's, are taken on the legacy default stream; a call with such an array waits until
its work is done, since the owner does not know of our stream.  If an operand's dtype
must be converted, torch or CuPy makes the copy; such operands of other libraries are
refused with an error that names the operand.

Without any of these libraries, `asarray` copies a NumPy array to a device as an
`Array`, which the calls also accept, and `Array.numpy` copies it back.
"""

import sys
import weakref
from ctypes import (
    CFUNCTYPE,
    POINTER,
    PYFUNCTYPE,
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint64,
    c_void_p,
    cast,
    py_object,
    pythonapi,
)
from math import prod

import numpy as np

from . import _array, _lib
from ._array import (
    DTYPE_NAMES,
    ITEM_BYTES,
    aligned_empty,
    masked,
    name_of,
    numpy_dtype,
    size,
    view,
    wrong_dtype,
)
from ._view import DeviceView

__all__ = ["Array", "asarray", "available", "devices"]

_LEGACY = 1  # cudaStreamLegacy, the explicit handle of the legacy default stream


def available():
    """Whether this build has CUDA support, and a driver and a device are present.

    Example:
        >>> available() == (devices() > 0)
        True
    """
    return devices() > 0


def devices():
    """The number of CUDA devices; 0 without a driver or in a build without CUDA.

    Example:
        >>> devices() >= 0
        True
    """
    return _lib.lib.fftconv_cuda_devices()


class Array:
    """A C-contiguous array on a CUDA device, with DLPack and ``__cuda_array_interface__``.

    It is made by `asarray`, or is the result of a call whose operands belong to no
    library that could allocate the result.

    shape: a tuple.  dtype: a name.  device: the number of the device.

    Example:
        >>> if available():
        ...     assert asarray([[1.0, 2.0]]).shape == (1, 2)
    """

    __slots__ = ("shape", "dtype", "device", "_pointer", "_stream", "__weakref__")

    def __init__(self, shape, dtype, device, stream=None):
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self._stream = stream
        memory = c_void_p()
        _lib.lib.fftconv_cuda_allocate(byref(memory), max(1, self.nbytes), device)
        self._pointer = memory.value
        weakref.finalize(self, _lib.lib.fftconv_cuda_release, memory.value, device).atexit = False

    def __repr__(self):
        return f"fftconv.cuda.Array({self.shape}, {self.dtype}, cuda:{self.device})"

    @property
    def nbytes(self):
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def numpy(self):
        """A NumPy copy.  Waits until the work that writes the array is done."""
        x = aligned_empty(self.shape, numpy_dtype(self.dtype))
        _lib.lib.fftconv_cuda_copy(
            x.ctypes.data, self._pointer, self.nbytes, self.device, self._stream
        )
        return x

    def _strides(self):
        return tuple(prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    def _view(self):
        return DeviceView(
            self._pointer,
            self.dtype,
            self.shape,
            self._strides(),
            self,
            None,
            self.device,
            self._stream,
        )

    @property
    def __cuda_array_interface__(self):
        if self.dtype == "bfloat16":
            raise AttributeError("__cuda_array_interface__ has no bfloat16; DLPack has")
        return {
            "version": 3,
            "shape": self.shape,
            "strides": None,
            "typestr": numpy_dtype(self.dtype).str,
            "data": (self._pointer, False),
            "stream": self._stream or _LEGACY,
        }

    def __dlpack_device__(self):
        return (_CUDA, self.device)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("an Array is handed over where it is, uncopied")
        if stream != -1:
            _wait(self.device, stream, self._stream)
        return _capsule(self)


def asarray(x, device=0):
    """An `Array` on a CUDA device with the numbers of x.

    x: an array or list in the CPU's memory, as `conv` takes it.  device: the device's
    number.  Raises TypeError for an x that is not an array of numbers, ValueError,
    `Unsupported`, MemoryError.

    Example:
        >>> if available():
        ...     assert asarray([1.0, 2.0]).numpy().tolist() == [1.0, 2.0]
    """
    v = view(x, "x")
    x = np.ascontiguousarray(v.numpy())
    a = Array(x.shape, v.dtype, size(device, "device", 0))
    _upload(a, x)
    return a


def _upload(a, x):
    if x.size:
        _lib.lib.fftconv_cuda_copy(a._pointer, x.ctypes.data, x.nbytes, a.device, a._stream)


def copy_beside(x, v):
    """The DeviceView of a copy of NumPy array x on v's device and stream.

    Its kind is that of v, so that gradients of it are returned in v's library.
    """
    x = np.ascontiguousarray(x)
    a = Array(x.shape, name_of(x.dtype), v.device, v.stream)
    _upload(a, x)
    found = a._view()
    found.kind = v.kind
    return found


# ---- Reading arrays ---------------------------------------------------------


def torch_view(x, dtype, torch, original_dtype=None):
    """DeviceView of a CUDA tensor that `_array` has checked and, if needed, converted."""
    index = x.device.index
    stream = torch.cuda.current_stream(index).cuda_stream or _LEGACY
    return DeviceView(
        x.data_ptr(),
        dtype,
        tuple(x.shape),
        x.stride(),
        x,
        torch,
        index,
        stream,
        original_dtype=original_dtype,
    )


def on_device(x):
    """Whether x is an object whose memory is on a CUDA device."""
    if isinstance(x, Array):
        return True
    if hasattr(x, "__dlpack_device__"):
        return x.__dlpack_device__()[0] in (_CUDA, _CUDA_MANAGED)
    return not hasattr(x, "__array_interface__") and hasattr(x, "__cuda_array_interface__")


def device_view(x, name):
    """DeviceView of an object for which `on_device` is true."""
    if isinstance(x, Array):
        return x._view()
    cupy = _cupy(x)
    if cupy is not None:
        return _cupy_view(x, name, cupy)
    if hasattr(x, "__dlpack_device__"):
        return _dlpack_view(x, name)
    return _interface_view(x, name)


def _cupy_view(x, name, cupy):
    dtype, original = name_of(x.dtype), None
    if dtype is None:
        if x.dtype.kind not in "biu":
            raise wrong_dtype(name, x.dtype)
        dtype, original, x = "float64", x.dtype.name, x.astype(np.float64)
    index = x.device.id
    stream = cupy.cuda.get_current_stream(index).ptr or _LEGACY
    strides = _in_elements(x.strides, dtype, name)
    return DeviceView(
        x.data.ptr, dtype, x.shape, strides, x, cupy, index, stream, original_dtype=original
    )


def _cupy(x):
    cupy = sys.modules.get("cupy")
    array = getattr(cupy, "ndarray", None)
    return cupy if array is not None and isinstance(x, array) else None


def _in_elements(strides, dtype, name):
    item = ITEM_BYTES[dtype]
    if any(s % item for s in strides):
        raise ValueError(
            f"{name} has strides of {tuple(strides)} bytes; they "
            f"must be multiples of {item}, its element's"
        )
    return tuple(s // item for s in strides)


def _interface_view(x, name):
    """DeviceView of an object with the CUDA Array Interface, version 3."""
    described = x.__cuda_array_interface__
    dtype = name_of(np.dtype(described["typestr"]))
    if dtype is None:
        raise wrong_dtype(name, described["typestr"], "on a device")
    if described.get("mask") is not None:
        raise masked(name)
    shape, strides = tuple(described["shape"]), described.get("strides")
    if strides is None:
        strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    else:
        strides = _in_elements(strides, dtype, name)
    pointer = described["data"][0]
    device = c_int()
    if prod(shape):
        try:
            _lib.lib.fftconv_cuda_device_of(pointer, byref(device))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return DeviceView(
        pointer, dtype, shape, strides, x, None, device.value, described.get("stream")
    )


# ---- Allocating and returning results ---------------------------------------


def _library(kind):
    """ "torch" or "cupy" if `kind` is that module, which can allocate memory; else None."""
    return next(
        (name for name in ("torch", "cupy") if kind is not None and kind is sys.modules.get(name)),
        None,
    )


def empty(shape, dtype, like):
    """(new uninitialised array, its DeviceView), of like's kind and on its device.

    It is an `Array` if like's library is neither torch nor CuPy.
    """
    kind, device = like.kind, like.device
    library = _library(kind)
    if library == "torch":
        x = kind.empty(shape, dtype=getattr(kind, dtype), device=f"cuda:{device}")
        return x, torch_view(x, dtype, kind)
    if library == "cupy":
        with kind.cuda.Device(device):
            x = kind.empty(shape, numpy_dtype(dtype))
        return x, device_view(x, "out")
    x = Array(shape, dtype, device, like.stream)
    return x, x._view()


def finish(x, kind, stream):
    """The result x, written on `stream`, as an array of `kind`.

    Only an `Array` has to be turned into one; others are returned unchanged.
    """
    if not isinstance(x, Array):
        return x
    x._stream = stream
    return x if kind is None else kind.from_dlpack(x)


def as_dtype(v, name, dtype):
    """A copy of DeviceView v in another dtype, made by v's library, torch or CuPy.

    Raises ValueError for another library, or for a View of a part of an array.
    """
    library = _library(v.kind)
    x = v.keep
    if library is None or tuple(x.shape) != tuple(v.shape):
        raise ValueError(
            f"{name} has dtype {v.original_dtype} on cuda:{v.device}, where only torch and CuPy "
            f"convert whole arrays; pass it as {dtype}"
        )
    if library == "torch":
        found = torch_view(x.to(getattr(v.kind, dtype)), dtype, v.kind)
    else:
        found = _cupy_view(x.astype(numpy_dtype(dtype)), name, v.kind)
    found.original_dtype = v.original_dtype
    return found


def check_summed(v, name, shape):
    """Raise `Unsupported` if the gradient of v must be summed from `shape` to v's shape
    and v's library is not known: the sum is left to that library."""
    if v.shape != shape and v.kind is None:
        raise _lib.Unsupported(
            f"{name} has shape {v.shape}, and its gradient is to be summed from "
            f"{shape} by the library it is from, which is not known: pass it of "
            "u's shape, or as an array of torch, CuPy or JAX"
        )


def workspace(bytes_, like):
    """(owner, address) of a workspace from torch or CuPy, whichever `like` is from.

    Their allocators reuse the memory in stream order, so it may be released while the
    work is still queued.  (None, None) for other libraries, where the C library
    allocates the workspace, and if none is needed.
    """
    if bytes_ == 0 or _library(like.kind) is None:
        return None, None
    x, v = empty((bytes_ // 4 + 1,), "float32", like)
    return x, v.pointer


def output_view(x, name):
    """DeviceView of an array that is to be written; ValueError if it is read-only."""
    readonly = (
        isinstance(x, Array) is False
        and _cupy(x) is None
        and (getattr(x, "__cuda_array_interface__", None) or {"data": (0, True)})["data"][1]
    )
    if readonly:
        raise ValueError(
            f"{name} is a {type(x).__name__} that cannot be "
            "written; it must be a torch tensor, a CuPy array or "
            "what has a writeable __cuda_array_interface__"
        )
    return device_view(x, name)


# ---- Streams ----------------------------------------------------------------


def stream_of(v):
    return v.stream or _LEGACY


def _wait(device, stream, other):
    stream, other = stream or _LEGACY, other or _LEGACY
    if stream != other:
        _lib.lib.fftconv_cuda_wait(device, stream, other)


def wait_for(views, stream):
    """Make work queued on `stream` from now on wait until the views' data are ready."""
    for other in {v.stream for v in views} - {None, stream}:
        _wait(views[0].device, stream, other)


def notify(views, stream):
    """Make the views' owners wait for the work on `stream`.

    Their streams wait for it; if an owner only lent its memory, this call itself waits.
    """
    if any(v.borrowed for v in views):
        _lib.lib.fftconv_cuda_synchronize(views[0].device, stream)
        return
    for other in {v.stream for v in views} - {None, stream}:
        _wait(views[0].device, other, stream)


def finish_borrowed(v, stream):
    """Wait for what was made of v on `stream`, unless v is from torch or CuPy.

    A `Spectrum` has no array that names the stream it was made on.  Users of torch and
    CuPy order their streams themselves; for others this function waits.
    """
    if _library(v.kind) is None:
        _lib.lib.fftconv_cuda_synchronize(v.device, stream)


# ---- DLPack (dlpack.h, version 0.8: the unversioned capsule) -----------------

_CUDA, _CUDA_MANAGED = 2, 13
_CODES = {"complex128": 5, "complex64": 5, "bfloat16": 4}  # all others: 2, float
_DLPACK_NAMES = {(_CODES.get(name, 2), 8 * ITEM_BYTES[name]): name for name in DTYPE_NAMES}
_NAME = b"dltensor"


class _Managed(Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
    ]


# The functions of PyCapsule.  A destructor must not create a reference to its capsule, so
# it uses those that take the capsule's address (_at) instead of the object (_in).
_pointer_in = PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", pythonapi))
_pointer_at = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", pythonapi))
_is_valid_at = PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", pythonapi))
_new_capsule = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", pythonapi))
_handed_out = {}  # address of a _Managed: the objects that its capsule must keep alive


@CFUNCTYPE(None, c_void_p)
def _deleter(address):
    _handed_out.pop(address, None)


@PYFUNCTYPE(None, c_void_p)
def _destructor(capsule):
    """Release the memory of a capsule that no consumer took.

    A consumer renames the capsule, and calls the deleter itself.
    """
    if _is_valid_at(capsule, _NAME):
        _handed_out.pop(_pointer_at(capsule, _NAME), None)


def _capsule(a):
    n = len(a.shape)
    managed = _Managed(
        data=a._pointer,
        device_type=_CUDA,
        device_id=a.device,
        ndim=n,
        code=_CODES.get(a.dtype, 2),
        bits=8 * ITEM_BYTES[a.dtype],
        lanes=1,
        shape=(c_int64 * n)(*a.shape),
        strides=(c_int64 * n)(*a._strides()),
        deleter=cast(_deleter, c_void_p),
    )
    _handed_out[addressof(managed)] = managed, a
    return _new_capsule(addressof(managed), _NAME, cast(_destructor, c_void_p))


def _dlpack_view(x, name):
    # The capsule is not renamed, so it still owns the memory; its destructor releases
    # that when the View, which keeps the capsule, is deleted.
    capsule = x.__dlpack__(stream=_LEGACY)
    t = _Managed.from_address(_pointer_in(capsule, _NAME))
    dtype = _DLPACK_NAMES.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        raise wrong_dtype(name, f"of DLPack's code {t.code} and {t.bits} bits", "on a device")
    shape = tuple(t.shape[: t.ndim])
    strides = (
        tuple(t.strides[: t.ndim])
        if t.strides
        else tuple(prod(shape[i + 1 :]) for i in range(t.ndim))
    )
    namespace = getattr(x, "__array_namespace__", None)
    return DeviceView(
        (t.data or 0) + t.byte_offset,
        dtype,
        shape,
        strides,
        (x, capsule),
        namespace and namespace(),
        t.device_id,
        _LEGACY,
        borrowed=True,
    )


_array.register_devices(sys.modules[__name__])
