"""Reading the caller's arrays as Views, allocating results, and promoting dtypes.

NumPy arrays and CPU torch tensors (bfloat16 included) are read directly.  Any other
object with ``__array_interface__``, DLPack or ``__array__`` is read through NumPy,
without a copy if the object allows that.  Results are returned in the array library
of the input.  torch is never imported here: when a torch tensor is passed in, torch
is already in sys.modules.  Arrays on a CUDA device are read by the module `cuda`,
which registers itself here.

Types promote as they do in NumPy and PyTorch (`result_dtype`).  An operand of another
dtype than the computation's is converted if no precision is lost (`converted`).
"""

import math
import mmap
import operator
import sys
from ctypes import CDLL, addressof, c_char, c_int, c_size_t, c_void_p
from numbers import Number

import numpy as np

from ._gradients import sum_to_shape
from ._view import ITEM_BYTES, LISTED, View, numpy_dtype

DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64")
COMPLEX = ("complex128", "complex64")
ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# For each dtype of u, the dtypes that a kernel, skip or mask may have.  The last one is
# the widest; an operand of any other dtype is converted to it.
KERNEL_DTYPES = {
    "float64": ("float64",),
    "float32": ("float32",),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "complex128": ("complex128",),
    "complex64": ("complex64",),
}

# For each dtype, those whose numbers it represents exactly; the first is the dtype itself.
HOLDS = {
    "float64": ("float64", "float32", "float16", "bfloat16"),
    "float32": ("float32", "float16", "bfloat16"),
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "complex128": ("complex128", "complex64", "float64", "float32", "float16", "bfloat16"),
    "complex64": ("complex64", "float32", "float16", "bfloat16"),
}

# WIDE: the real dtype in which arrays of each dtype are computed.  COMPLEX_OF: the complex
# dtype of that precision.
WIDE = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float32",
    "bfloat16": "float32",
    "complex128": "float64",
    "complex64": "float32",
}
COMPLEX_OF = {
    name: "complex128" if wide == "float64" else "complex64" for name, wide in WIDE.items()
}

# Only dtypes in native byte order are keys; looking up a byte-swapped one finds nothing.
_NAMES = {numpy_dtype(name): name for name in DTYPE_NAMES if name != "bfloat16"}

# Python's numbers and the containers of them.  They carry no dtype of their own.
_PYTHON = (int, float, complex, list, tuple)

# The system's madvise(address, bytes, advice), where it has huge pages.
_madvise = getattr(CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
if _madvise is not None:
    _madvise.argtypes = c_void_p, c_size_t, c_int

# The module `cuda`, which reads arrays on CUDA devices; None until it registers itself.
_devices = None


def register_devices(module):
    """Register the module that reads arrays on CUDA devices.

    It must provide on_device, device_view, torch_view, output_view and as_dtype.
    """
    global _devices
    _devices = module


# For each layout and number of axes, the positions of B, H and L among the array's axes.
# None marks an axis that the array lacks and that counts as length 1.
AXES = {
    "BHL": {3: (0, 1, 2), 2: (None, 0, 1), 1: (None, None, 0)},
    "BLH": {3: (0, 2, 1), 2: (None, 1, 0), 1: (None, None, 0)},
}


def size(value, name, low=1, high=2**40):
    """`value` as an int from `low` to `high`; otherwise, and for a bool, ValueError."""
    to = "2**40" if high == 2**40 else high
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {to}")
    if not low <= number <= high:
        raise ValueError(f"{name} is {number}; it must be from {low} to {to}")
    return number


def choice(value, name, allowed):
    """allowed[value]; for an unknown value ValueError, which lists the allowed ones."""
    try:
        return allowed[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}") from None


def name_of(dtype):
    """The name of a NumPy dtype that is supported and in native byte order, else None."""
    name = _NAMES.get(dtype)
    if name is None and dtype.name == "bfloat16" and dtype.isnative:
        name = _NAMES[dtype] = "bfloat16"
    return name


def dtype_name(dtype, name="dtype", allowed=DTYPE_NAMES):
    """The dtype's name, from a torch dtype or from anything that np.dtype takes.

    The byte order does not count.  Raises ValueError if the name is not one of `allowed`.
    """
    found = str(dtype).removeprefix("torch.")
    if found not in DTYPE_NAMES and dtype is not None:  # np.dtype(None) is float64
        try:
            found = np.dtype(dtype).name
        except (TypeError, ValueError):
            found = None
    if found not in allowed:
        raise ValueError(f"{name} is {dtype!r}; allowed: {', '.join(allowed)}")
    return found


def _is_aligned(a, dtype):
    """Whether a's address is a multiple of what its dtype needs, and its strides are
    multiples of an element.

    To NumPy a complex number is aligned like its halves: a complex128 field beside a
    float64 field has strides of 24 bytes, which are not whole elements.
    """
    if not a.flags.aligned:
        return False
    return dtype not in COMPLEX or not any(s % ITEM_BYTES[dtype] for s in a.strides)


def _numpy_view(a, dtype, kind=None, original=None):
    try:  # Takes a fifth of the time of __array_interface__, but fails on some arrays.
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
    return View(pointer, dtype, a.shape, strides, a, kind, original)


def _torch(x):
    """The torch module if x is a torch tensor, else None."""
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
            f"record one: take the call in fftconv.torch, which does, pass "
            f"{name}.detach(), or call under torch.no_grad()"
        )
    found = original = str(x.dtype)[6:]
    if found not in DTYPE_NAMES:
        if found != "bool" and not found.removeprefix("u").startswith("int"):
            raise wrong_dtype(name, found)
        found, x = "float64", x.to(torch.float64)
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_conj():
        x = x.resolve_conj()
    if device == "cuda":
        return _devices.torch_view(x, found, torch, original)
    return View(x.data_ptr(), found, tuple(x.shape), x.stride(), x, torch, original)


# NumPy's long doubles, and what holds the most of their precision here.
_TOO_WIDE = {np.dtype("longdouble"): "float64", np.dtype("clongdouble"): "complex128"}
_ALLOWED = f"{', '.join(DTYPE_NAMES)}, and integers and booleans, which become float64"


def wrong_dtype(name, found, where=""):
    """The TypeError for an array whose dtype is not supported.

    where: "on a device" if the array is on one, since integers are not converted there.
    """
    if where:
        return TypeError(f"{name} has dtype {found}; allowed {where}: {', '.join(DTYPE_NAMES)}")
    more = ""
    if found in _TOO_WIDE:
        more = f": pass {name}.astype({_TOO_WIDE[found]!r})"
    return TypeError(f"{name} has dtype {found}; allowed: {_ALLOWED}{more}")


def wrong_kind(name, x):
    """The TypeError for an object that is not an array of numbers."""
    what = "None" if x is None else f"a {type(x).__name__}"
    return TypeError(
        f"{name} is {what}; it must be an array or a list of numbers; allowed: {_ALLOWED}"
    )


def masked(name):
    """The TypeError for a NumPy masked array."""
    return TypeError(
        f"{name} is a masked array, whose mask would be lost; pass {name}.filled(0), or what suits"
    )


def _to_numpy(x, name):
    """(NumPy array, kind) of an object that is neither a plain ndarray nor a torch tensor.

    kind: the array-API namespace that a result is to be returned in, or None for NumPy.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise masked(name)
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
            pass  # A dtype that DLPack or NumPy does not support, such as bfloat16.
    a = np.asarray(x)
    if a.dtype.kind in "OSU" and not hasattr(x, "dtype"):
        raise wrong_kind(name, x)
    return a, kind


def _listed_view(x, name, listed):
    """View of Python numbers, complex if one of them is.

    listed: the real dtype whose precision they get.  None: they are held in float64 or
    complex128 and marked as `LISTED`, until the dtypes of the other operands decide.
    """
    try:
        a = np.asarray(x)
    except ValueError as error:  # nested lists of unequal lengths
        raise ValueError(f"{name} cannot be made an array of numbers: {error}") from None
    if a.dtype.kind == "O" and all(isinstance(n, Number) for n in a.flat):
        a = a.astype(np.float64)  # integers that do not fit in 64 bits
    if a.dtype.kind not in "biufc":
        raise TypeError(f"{name} cannot be made an array of numbers: it holds {a.dtype}")
    dtype = listed or "float64"
    if a.dtype.kind == "c":
        dtype = COMPLEX_OF[dtype]
    else:
        a = a.astype(np.float64)
    return _numpy_view(a.astype(numpy_dtype(dtype)), dtype, None, None if listed else LISTED)


def view(x, name, listed=None, devices=False):
    """View of an input array.

    The data are copied only if they are misaligned, byte-swapped, or integers or
    booleans, which are converted to float64.  A View is returned unchanged.

    listed: the dtype of the array made from Python numbers or nested lists; None: the
        View is marked as having no dtype of its own (`LISTED`).
    devices: whether arrays on a CUDA device are accepted.

    Raises TypeError for an object that is not an array of numbers, ValueError for an
    array that cannot be read as it is: one on a device that is not accepted, or a torch
    tensor that requires grad or is sparse.
    """
    kind = None
    if type(x) is not np.ndarray:
        if isinstance(x, View):
            return x
        if isinstance(x, _PYTHON):
            return _listed_view(x, name, listed)
        if (torch := _torch(x)) is not None:
            return _torch_view(x, name, torch, devices)
        if _on_device(x):
            if not devices:
                raise _only_cpu(name, "a CUDA device")
            return _devices.device_view(x, name)
        x, kind = _to_numpy(x, name)
    dtype = _NAMES.get(x.dtype) or name_of(x.dtype)
    if dtype is None:
        native = x.dtype.newbyteorder("=")
        dtype = name_of(native)
        if dtype is None:
            if x.dtype.kind not in "biu":
                raise wrong_dtype(name, x.dtype)
            return _numpy_view(x.astype(np.float64), "float64", kind, x.dtype.name)
        x = x.astype(native)
    elif not _is_aligned(x, dtype):
        x = x.copy()
    return _numpy_view(x, dtype, kind)


def _on_device(x):
    return (
        hasattr(x, "__dlpack_device__") or hasattr(x, "__cuda_array_interface__")
    ) and _devices.on_device(x)


def output_view(x, name, shape, dtype, devices=False):
    """View of an array that the result is written to.

    Raises ValueError if the array has another shape or dtype or cannot be written in
    place, TypeError if it is not an array.
    """
    torch = _torch(x)
    if torch is not None:
        found = _torch_view(x, name, torch, devices)
    elif isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise masked(name)
        if not x.flags.writeable:
            raise ValueError(f"{name} is read-only; it must be writeable")
        known = name_of(x.dtype)
        if known is None:
            swapped = not x.dtype.isnative
            raise ValueError(
                f"{name} has dtype {x.dtype.str if swapped else x.dtype}; it must be {dtype}, "
                + ("in native byte order" if swapped else "as the result")
            )
        if not _is_aligned(x, known):
            raise ValueError(f"{name} is misaligned; it must be aligned to its element")
        found = _numpy_view(x, known)
    elif devices and _on_device(x):
        found = _devices.output_view(x, name)
    else:
        what = "None" if x is None else f"a {type(x).__name__}"
        raise TypeError(f"{name} is {what}; it must be a NumPy array or a torch tensor")
    if found.original_dtype != dtype:
        raise ValueError(
            f"{name} has dtype {found.original_dtype}; it must be {dtype}, as the result"
        )
    if torch is not None and found.keep is not x:
        raise ValueError(f"{name} is a lazily negated or conjugated view; pass a plain tensor")
    if found.shape != shape:
        raise ValueError(f"{name} has shape {found.shape}; it must be {shape}, as the result")
    return found


def empty(shape, dtype, kind):
    """(new uninitialised array, its View).

    It is a torch tensor if kind is torch, else a NumPy array, which `finish` turns into
    an array of another library.
    """
    if kind is not None and kind is sys.modules.get("torch"):
        x = fresh_tensor(kind, shape, dtype)
        return x, View(x.data_ptr(), dtype, shape, x.stride(), x, kind)
    x = aligned_empty(shape, numpy_dtype(dtype))
    return x, _numpy_view(x, dtype)


def aligned_bytes(n):
    """(uint8 array of n bytes whose address is a multiple of ALIGNMENT, the address)."""
    buffer = aligned_empty((n,), np.uint8)
    return buffer, buffer.ctypes.data


def aligned_empty(shape, dtype):
    """np.empty, but with data that begin at a multiple of ALIGNMENT bytes.

    NumPy does not align its arrays to cache lines, and storing a vector across two
    cache lines costs twice as much.
    """
    dtype = np.dtype(dtype)
    buffer = fresh_bytes(math.prod(shape) * dtype.itemsize + ALIGNMENT - 1)
    start = -buffer.__array_interface__["data"][0] % ALIGNMENT
    return np.ndarray(shape, dtype, buffer, start)


def fresh_bytes(n):
    """n uninitialised bytes.

    All uninitialised NumPy memory of results and workspaces comes from this function.
    The tests replace it by one that fills the memory with NaN.
    """
    return np.empty(n, np.uint8)


def fresh_tensor(torch, shape, dtype):
    """An uninitialised CPU tensor; the tests replace this function, too.

    A large one asks for huge pages, as NumPy's arrays do: otherwise the page faults of two fresh
    results of 32 MiB are a quarter of the time of a forward and a backward call.
    """
    x = torch.empty(shape, dtype=getattr(torch, dtype))
    if _madvise is not None and x.nbytes >= 2**22:
        begin = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        _madvise(begin, x.data_ptr() + x.nbytes - begin, mmap.MADV_HUGEPAGE)  # may be refused
    return x


def finish(x, kind):
    """x as an array of `kind`; unchanged if kind is NumPy or x is no NumPy array."""
    if kind is None or type(x) is not np.ndarray or kind is np:
        return x
    if x.dtype != numpy_dtype("bfloat16"):
        return kind.from_dlpack(x)
    if kind is sys.modules.get("torch"):  # torch does not know ml_dtypes' bfloat16.
        return kind.from_dlpack(x.view(np.int16)).view(kind.bfloat16)
    return kind.asarray(x)


def reduce_to(x, full, shape):
    """x, of shape `full`, summed to `shape` along the axes that broadcasting repeated."""
    if full == shape:
        return x
    if _torch(x) is None:
        return sum_to_shape(x, shape)
    wide = x.float() if x.element_size() == 2 else x
    return wide.sum_to_size(shape).to(x.dtype)


# ---- Promotion of types ----------------------------------------------------------


def result_dtype(rows, kernels=(), mask=None):
    """The dtype of a result from the Views of its operands; entries that are None are
    ignored.

    The result is complex if one of the Views is, and has float64's precision if one of
    them has.  If all rows have the same 16-bit type, and kernels have 16 bits or
    float32, it has that 16-bit type.  Otherwise it has float32's precision.  If
    all rows are Python numbers, the dtypes of the kernels take the place of theirs.

    Python numbers count only in that they can make the result complex; if there is
    nothing else, the precision is float64's.  A boolean mask does not count.
    """
    rows = [v for v in rows if v is not None]
    views = [*rows, *(v for v in kernels if v is not None)]
    if mask is not None and mask.original_dtype != "bool":
        views.append(mask)
    typed = [v for v in views if v.original_dtype != LISTED]
    if not typed or has_float64(typed):
        dtype = "float64"
    else:
        dtype, *more = {v.dtype for v in typed if v in rows} or {v.dtype for v in typed}
        if more or dtype in COMPLEX:
            dtype = "float32"
    return COMPLEX_OF[dtype] if any(v.dtype in COMPLEX for v in views) else dtype


def has_float64(views):
    """Whether one of these Views has float64's precision; entries may be None."""
    return any(
        v is not None and v.original_dtype != LISTED and WIDE[v.dtype] == "float64" for v in views
    )


def converted(v, name, allowed, why):
    """v in one of the allowed dtypes: v itself, or a copy in the last of them.

    Raises ValueError, with `why` in its message, if the copy would lose precision or an
    imaginary part.  A mask's booleans and Python's real numbers are converted to any
    dtype.
    """
    if v.dtype in allowed:
        return v
    dtype, original = allowed[-1], v.original_dtype
    free = original == LISTED or original == "bool" and name.endswith("mask")
    if v.dtype in HOLDS[dtype] or free and (dtype in COMPLEX or v.dtype not in COMPLEX):
        return as_dtype(v, name, dtype)
    was = v.dtype if original in (v.dtype, LISTED) else f"{original}, that is {v.dtype}"
    allowed = dict.fromkeys((*allowed, *HOLDS[dtype]))
    raise ValueError(f"{name} has dtype {was}; {why}; allowed: {', '.join(allowed)}")


def fixed(x, name, allowed, why, devices=False):
    """View of an operand whose allowed dtypes do not depend on the other operands.

    It is converted as by `converted`; Python numbers get the last of the allowed dtypes.
    """
    return converted(view(x, name, allowed[-1], devices), name, allowed, why)


def as_dtype(v, name, dtype):
    """A copy of View v in another dtype.

    The copy keeps v's original_dtype.  Python numbers had none; theirs becomes `dtype`.
    """
    if v.device is not None:
        return _devices.as_dtype(v, name, dtype)
    original = None if v.original_dtype == LISTED else v.original_dtype
    return _numpy_view(v.numpy().astype(numpy_dtype(dtype)), dtype, v.kind, original)


def demoted(x, v):
    """The gradient x of v in the dtype that v had before conversion.

    If v was real and was converted to a complex dtype, this is the real part of x.
    """
    if v.original_dtype == v.dtype:
        return x
    dtype = v.gradient_dtype
    if dtype == v.dtype:
        return x
    if dtype not in COMPLEX and v.dtype in COMPLEX:
        x = x.real
    if type(x) is np.ndarray:
        return x.astype(numpy_dtype(dtype))
    return x.to(getattr(v.kind, dtype)) if hasattr(x, "to") else x.astype(numpy_dtype(dtype))


def real(v, name):
    """View v; ValueError if it is complex."""
    if v.dtype in COMPLEX:
        raise ValueError(f"{name} has dtype {v.dtype}; it must be real")
    return v


def broadcasts(given, shape):
    """Whether an array of shape `given` broadcasts to `shape` by NumPy's rules."""
    lead = len(shape) - len(given)
    return lead >= 0 and all(n in (1, m) for n, m in zip(given, shape[lead:]))


def broadcast_strides(v, name, shape):
    """v's strides after broadcasting to `shape` by NumPy's rules: 0 along repeated axes.

    Raises ValueError if v does not broadcast to `shape`.
    """
    if not broadcasts(v.shape, shape):
        raise ValueError(f"{name} has shape {v.shape}; it must be {shape}, or broadcast to it")
    lead = len(shape) - len(v.shape)
    return (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(v.shape, v.strides))
