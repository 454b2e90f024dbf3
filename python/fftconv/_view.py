"""Views: an array as the library sees it, in a CPU's memory or in a GPU's.

`_array` reads the arrays of the CPU into them, `cuda` those of devices.
"""

from types import SimpleNamespace

import numpy as np

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "complex128": 16,
    "complex64": 8,
}

# The original dtype of Python numbers and lists, which have none.
LISTED = "list"

_DTYPES = {name: np.dtype(name) for name in ITEM_BYTES if name != "bfloat16"}


def numpy_dtype(name):
    """The NumPy dtype of a name; bfloat16 is ml_dtypes'."""
    if name not in _DTYPES:
        import ml_dtypes  # here, so that `import fftconv` stays fast

        _DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return _DTYPES[name]


class View:
    """An array in the CPU's memory.

    pointer: address of element 0 ...; dtype: a name; shape; strides in
    elements; keep: the object that owns the memory; kind: None for NumPy, the
    torch module, or an array-API namespace.

    original_dtype: the dtype before any conversion, which may be one that is not
    computed in, "int64" for example; `LISTED` for what came as a Python number or
    list, and takes the type of what it stands beside.
    """

    __slots__ = ("pointer", "dtype", "shape", "strides", "keep", "kind", "original_dtype")
    device = None  # the number of a device; the CPU has none

    def __init__(self, pointer, dtype, shape, strides, keep, kind, original_dtype=None):
        self.pointer = pointer
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        self.keep = keep
        self.kind = kind
        self.original_dtype = original_dtype or dtype

    @property
    def gradient_dtype(self):
        """The dtype of this operand's gradient: its own before it was converted.
        Integers count as float64, a list as what it was converted to."""
        if self.original_dtype in ITEM_BYTES:
            return self.original_dtype
        return self.dtype if self.original_dtype == LISTED else "float64"

    def reshaped(self, shape, strides):
        """The same memory in other axes."""
        return self._replace(self.pointer, shape, strides)

    def part(self, start, stop):
        """Samples start ... stop - 1 of the last axis."""
        return self._replace(
            self.pointer + start * self.strides[-1] * ITEM_BYTES[self.dtype],
            (*self.shape[:-1], stop - start),
            self.strides,
        )

    def without_memory(self):
        """Shape, dtypes and kind alone; the memory may be freed."""
        v = self._replace(None, self.shape, None)
        v.keep = None
        return v

    def _replace(self, pointer, shape, strides):
        return View(pointer, self.dtype, shape, strides, self.keep, self.kind, self.original_dtype)

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


class DeviceView(View):
    """An array in a CUDA device's memory.

    device: its number; stream: the one that the memory is ready on, or None where
    nothing has to be waited for; borrowed: the owner knows nothing of our stream,
    and may use the memory again as soon as it is given back.
    """

    __slots__ = ("device", "stream", "borrowed")

    def __init__(
        self,
        pointer,
        dtype,
        shape,
        strides,
        keep,
        kind,
        device,
        stream=None,
        borrowed=False,
        original_dtype=None,
    ):
        super().__init__(pointer, dtype, shape, strides, keep, kind, original_dtype)
        self.device = device
        self.stream = stream or None
        self.borrowed = borrowed

    def _replace(self, pointer, shape, strides):
        return DeviceView(
            pointer,
            self.dtype,
            shape,
            strides,
            self.keep,
            self.kind,
            self.device,
            self.stream,
            self.borrowed,
            self.original_dtype,
        )
