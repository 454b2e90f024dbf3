"""Arrays in and out: what the caller has, as pointer, type, shape, strides.

NumPy arrays and CPU torch tensors (bfloat16 too) go straight in; anything else
that speaks ``__array_interface__``, DLPack or ``__array__`` goes through NumPy,
without a copy where it allows that.  The same kind comes out.  torch is never
imported here: where a torch tensor arrives, it is in sys.modules already.  Arrays
on a CUDA device are `cuda`'s, for the calls that know what to do with them.
"""

import math
import operator
import sys
from ctypes import addressof, c_char
from types import SimpleNamespace

import numpy as np

from ._gradients import sum_to_shape

DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64")
ALIGNMENT = 64  # bytes: a cache line, and the widest vector
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "complex128": 16,
    "complex64": 8,
}

# The types a kernel, skip or mask may have, by the type of u; the last is the
# widest, and what a Python list becomes.
KERNEL_DTYPES = {
    "float64": ("float64",),
    "float32": ("float32",),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "complex128": ("complex128",),
    "complex64": ("complex64",),
}

# What becomes of each type beside a complex one; by the result, what may.
COMPLEX_OF = {
    "float64": "complex128",
    "complex128": "complex128",
    "float32": "complex64",
    "float16": "complex64",
    "bfloat16": "complex64",
    "complex64": "complex64",
}
PROMOTED = {
    "complex128": DTYPE_NAMES,
    "complex64": tuple(name for name, to in COMPLEX_OF.items() if to == "complex64"),
}

# The real type that each computes in.
WIDE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}

_DTYPES = {name: np.dtype(name) for name in DTYPE_NAMES if name != "bfloat16"}
# Native NumPy dtypes only: a byte-swapped one is not found here.
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# For each layout and number of axes: which of the array's axes are B, H, L;
# None stands for an axis of 1.
AXES = {
    "BHL": {3: (0, 1, 2), 2: (None, 0, 1), 1: (None, None, 0)},
    "BLH": {3: (0, 2, 1), 2: (None, 1, 0), 1: (None, None, 0)},
}


def size(value, name, low=1):
    """A whole number from `low` to 2^63 - 1, or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low}") from None
    if not low <= number < 2**63:
        raise ValueError(f"{name} is {number}; it must be from {low} to 2**63 - 1")
    return number


def choice(value, name, allowed):
    """allowed[value], or ValueError naming what is allowed."""
    try:
        return allowed[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}") from None


def numpy_dtype(name):
    """The NumPy dtype of a name; bfloat16 is ml_dtypes'."""
    if name not in _DTYPES:
        import ml_dtypes  # here, so that `import fftconv` stays fast

        _DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return _DTYPES[name]


def name_of(dtype):
    """The name of a native NumPy dtype we compute on, else None."""
    name = _NAMES.get(dtype)
    if name is None and dtype.name == "bfloat16" and dtype.isnative:
        name = _NAMES[dtype] = "bfloat16"
    return name


def dtype_name(dtype, name="dtype", allowed=DTYPE_NAMES):
    """One of `allowed`, from a string, a NumPy or ml_dtypes dtype, or a torch
    dtype."""
    if isinstance(dtype, str) or type(dtype).__module__ == "torch":
        found = str(dtype)
        found = found[6:] if found.startswith("torch.") else found
    else:
        try:
            found = np.dtype(dtype).name if dtype is not None else None
        except TypeError:
            found = None
    if found not in allowed:
        raise ValueError(f"{name} is {dtype!r}; allowed: {', '.join(allowed)}")
    return found


class View:
    """An array as the library sees it.

    pointer: address of element 0 ...; dtype: a name; shape; strides in
    elements; keep: the object that owns the memory; kind: None for NumPy, the
    torch module, or an array-API namespace; was: the dtype before `promoted`.
    """

    __slots__ = ("pointer", "dtype", "shape", "strides", "keep", "kind", "was")
    device = None  # the CPU

    def __init__(self, pointer, dtype, shape, strides, keep, kind, was=None):
        self.pointer = pointer
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        self.keep = keep
        self.kind = kind
        self.was = was or dtype

    def reshaped(self, shape, strides):
        """The same memory in other axes."""
        return self._other(self.pointer, shape, strides)

    def part(self, start, stop):
        """Samples start ... stop - 1 of the last axis."""
        return self._other(
            self.pointer + start * self.strides[-1] * ITEM_BYTES[self.dtype],
            (*self.shape[:-1], stop - start),
            self.strides,
        )

    def bare(self):
        """What it was, without the memory."""
        v = self._other(None, self.shape, None)
        v.keep = None
        return v

    def _other(self, pointer, shape, strides):
        return View(pointer, self.dtype, shape, strides, self.keep, self.kind, self.was)

    def numpy(self):
        """A NumPy array on the same memory."""
        dtype = numpy_dtype(self.dtype)
        raw = np.dtype("uint16") if self.dtype == "bfloat16" else dtype
        return np.asarray(
            SimpleNamespace(
                keep=self.keep,
                __array_interface__={
                    "version": 3,
                    "data": (self.pointer, False),
                    "typestr": raw.str,
                    "shape": tuple(self.shape),
                    "strides": tuple(s * raw.itemsize for s in self.strides),
                },
            )
        ).view(dtype)


def _numpy_view(a, dtype, kind=None):
    try:  # a fifth of the other's time, where it can be had
        pointer = addressof(c_char.from_buffer(a))
    except (BufferError, TypeError, ValueError):
        pointer = a.__array_interface__["data"][0]
    item = ITEM_BYTES[dtype]
    strides = a.strides
    if len(strides) == 3:
        s, t, r = strides
        strides = (s // item, t // item, r // item)
    else:
        strides = tuple(s // item for s in strides)
    return View(pointer, dtype, a.shape, strides, a, kind)


def _torch(x):
    """The torch module, if x is one of its tensors, else None."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return torch if tensor is not None and isinstance(x, tensor) else None


def _only_cpu(name, where):
    return ValueError(
        f"{name} is on {where}; this call computes on the CPU: pass a copy of {name} there"
    )


def _torch_view(x, name, torch, devices=False):
    device = x.device.type
    if device != "cpu" and not (device == "cuda" and devices):
        raise _only_cpu(name, x.device)
    if x.layout != torch.strided:
        raise ValueError(f"{name} has layout {x.layout}; allowed: torch.strided")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires grad, and this call would not "
            f"record one: pass {name}.detach(), or call under "
            "torch.no_grad()"
        )
    found = str(x.dtype)[6:]
    if found not in DTYPE_NAMES:
        raise wrong_dtype(name, found)
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_conj():
        x = x.resolve_conj()
    if device == "cuda":
        from . import cuda

        return cuda.torch_view(x, found, torch)
    return View(x.data_ptr(), found, tuple(x.shape), x.stride(), x, torch)


def wrong_dtype(name, found):
    return ValueError(
        f"{name} has dtype {found}; allowed: "
        f"{', '.join(DTYPE_NAMES)}. Cast it first, for example "
        "to float32"
    )


def _to_numpy(x, name):
    """(array, kind) of whatever is neither ndarray nor torch tensor."""
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array, whose mask would be "
            f"lost; pass {name}.filled(0), or what suits"
        )
    if hasattr(x, "__array_interface__"):
        return np.asarray(x), None
    kind = None
    if hasattr(x, "__dlpack__"):
        device = x.__dlpack_device__()
        if device[0] != 1:  # kDLCPU
            raise _only_cpu(name, f"DLPack device {tuple(device)}")
        namespace = getattr(x, "__array_namespace__", None)
        kind = namespace() if namespace is not None else None
        try:
            return np.from_dlpack(x), kind
        except (BufferError, RuntimeError, TypeError):
            pass  # a type DLPack or NumPy does not know: bfloat16
    return np.asarray(x), kind


def view(x, name, listed="float64", devices=False):
    """View of an input array; copied only if misaligned or byte-swapped.

    Python numbers and (nested) lists become arrays of dtype `listed`; a View
    stays as it is.  devices: it may be on a CUDA device.
    """
    kind = None
    if type(x) is not np.ndarray:
        if isinstance(x, View):
            return x
        if isinstance(x, (int, float, complex, list, tuple)):
            try:
                x = np.asarray(x)
                if x.dtype.kind == "c":
                    listed = COMPLEX_OF[listed]
                else:
                    x = x.astype(np.float64)
                return view(x.astype(numpy_dtype(listed)), name)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} cannot be made an array of numbers: {error}") from None
        if (torch := _torch(x)) is not None:
            return _torch_view(x, name, torch, devices)
        if hasattr(x, "__dlpack_device__") or hasattr(x, "__cuda_array_interface__"):
            from . import cuda

            if cuda.on_device(x):
                if not devices:
                    raise _only_cpu(name, "a CUDA device")
                return cuda.device_view(x, name)
        x, kind = _to_numpy(x, name)
    dtype = _NAMES.get(x.dtype) or name_of(x.dtype)
    if dtype is None:
        native = x.dtype.newbyteorder("=")
        dtype = name_of(native)
        if dtype is None:
            raise wrong_dtype(name, x.dtype)
        x = x.astype(native)
    elif not x.flags.aligned:
        x = x.copy()
    return _numpy_view(x, dtype, kind)


def output_view(x, name, shape, dtype, devices=False):
    """View of an array to be written: of this shape and dtype, in place."""
    torch = _torch(x)
    if torch is not None:
        found = _torch_view(x, name, torch, devices)
        if found.keep is not x:
            raise ValueError(f"{name} is a lazily negated or conjugated view; pass a plain tensor")
    elif isinstance(x, np.ndarray):
        if not x.flags.writeable:
            raise ValueError(f"{name} is read-only; it must be writeable")
        if not x.flags.aligned:
            raise ValueError(f"{name} is misaligned; it must be aligned to its element")
        known = name_of(x.dtype)
        if known is None:
            raise ValueError(
                f"{name} has dtype {x.dtype.str}; it must be {dtype}, in native byte order"
            )
        found = _numpy_view(x, known)
    elif devices and (found := _device_output(x, name)) is not None:
        pass
    else:
        raise ValueError(
            f"{name} is a {type(x).__name__}; it must be a NumPy array or a CPU torch tensor"
        )
    if found.dtype != dtype:
        raise ValueError(f"{name} has dtype {found.dtype}; it must be {dtype}, as the result")
    if found.shape != shape:
        raise ValueError(f"{name} has shape {found.shape}; it must be {shape}, as u")
    return found


def _device_output(x, name):
    from . import cuda

    return cuda.output_view(x, name) if cuda.on_device(x) else None


def empty(shape, dtype, kind):
    """(array to hand out, its View); for other namespaces see `finish`."""
    if kind is not None and kind is sys.modules.get("torch"):
        x = fresh_tensor(kind, shape, dtype)
        return x, View(x.data_ptr(), dtype, shape, x.stride(), x, kind)
    x = aligned_empty(shape, numpy_dtype(dtype))
    return x, _numpy_view(x, dtype)


def aligned_empty(shape, dtype):
    """np.empty whose data begin at a multiple of ALIGNMENT bytes: a vector stored
    across two cache lines costs twice, and NumPy's own arrays begin anywhere."""
    dtype = np.dtype(dtype)
    buffer = fresh_bytes(math.prod(shape) * dtype.itemsize + ALIGNMENT - 1)
    start = -buffer.__array_interface__["data"][0] % ALIGNMENT
    return np.ndarray(shape, dtype, buffer, start)


def fresh_bytes(n):
    """n bytes that hold anything.  All NumPy memory that is handed out or worked in
    unwritten comes from here: the tests put NaN into it, by replacing this function."""
    return np.empty(n, np.uint8)


def fresh_tensor(torch, shape, dtype):
    """A CPU tensor that holds anything; the tests replace this function likewise."""
    return torch.empty(shape, dtype=getattr(torch, dtype))


def finish(x, kind):
    """x as an array of `kind`; NumPy arrays and torch tensors as they are."""
    if kind is None or type(x) is not np.ndarray or kind is np:
        return x
    if x.dtype != numpy_dtype("bfloat16"):
        return kind.from_dlpack(x)
    if kind is sys.modules.get("torch"):  # which knows no ml_dtypes
        return kind.from_dlpack(x.view(np.int16)).view(kind.bfloat16)
    return kind.asarray(x)


def reduce_to(x, shape):
    """x summed along the axes that broadcasting `shape` had repeated."""
    if tuple(x.shape) == tuple(shape):
        return x
    if _torch(x) is None:
        return sum_to_shape(x, shape)
    wide = x.float() if x.element_size() == 2 else x
    return wide.sum_to_size(shape).to(x.dtype)


def promoted(v, name, dtype):
    """v in the complex type `dtype`, a copy where it has another; or
    ValueError where that would lose digits."""
    if v.dtype == dtype:
        return v
    check_dtype(v, name, PROMOTED[dtype], dtype)
    wide = _numpy_view(v.numpy().astype(numpy_dtype(dtype)), dtype, v.kind)
    wide.was = v.dtype
    return wide


def demoted(x, v):
    """A gradient in the dtype that v had: the real part where it was real."""
    if v.was == v.dtype:
        return x
    if v.was not in PROMOTED:
        x = x.real
    if type(x) is np.ndarray:
        return x.astype(numpy_dtype(v.was))
    return x.to(getattr(v.kind, v.was))


def check_dtype(v, name, allowed, of):
    """v.dtype is one of `allowed`, or ValueError."""
    if v.dtype not in allowed:
        raise ValueError(
            f"{name} has dtype {v.dtype}, and u has {of}; allowed: {', '.join(allowed)}"
        )


def broadcast_strides(v, name, shape):
    """v's strides when repeated to `shape`, by NumPy's rules: 0 where it is."""
    lead = len(shape) - len(v.shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(v.shape, shape[lead:])):
        raise ValueError(f"{name} has shape {v.shape}; it must be {shape}, or broadcast to it")
    return (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(v.shape, v.strides))
