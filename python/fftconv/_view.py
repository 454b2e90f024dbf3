"""Views: what the C library needs to know of an array, on the CPU or a CUDA device.

`_array` makes Views of arrays in the CPU's memory, `cuda` of those on devices.
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

# Stands for the original dtype of Python numbers and lists, which have no dtype.
LISTED = "list"

_DTYPES = {name: np.dtype(name) for name in ITEM_BYTES if name != "bfloat16"}


def numpy_dtype(name):
    """The NumPy dtype of that name; for "bfloat16" the one of ml_dtypes."""
    if name not in _DTYPES:
        import ml_dtypes  # imported on first use, so that `import fftconv` stays fast

        _DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return _DTYPES[name]


class View:
    """An array in the CPU's memory.

    pointer: the address of element (0, ..., 0).
    dtype: a name, one of ITEM_BYTES.
    shape: a tuple.
    strides: in elements.
    keep: the object that owns the memory.
    kind: None for NumPy, the torch module, or an array-API namespace.
    original_dtype: the name of the dtype before any conversion, which may be one that
        is not computed in, such as "int64"; `LISTED` for a Python number or list, which
        takes the dtype of the arrays it is used with.
    """

    __slots__ = ("pointer", "dtype", "shape", "strides", "keep", "kind", "original_dtype")
    device = None  # None is the CPU; a DeviceView has the number of its CUDA device.

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
        """The dtype of this operand's gradient: the operand's dtype before conversion.

        For integers and booleans it is float64, for a list the dtype it was converted to.
        """
        if self.original_dtype in ITEM_BYTES:
            return self.original_dtype
        return self.dtype if self.original_dtype == LISTED else "float64"

    def reshaped(self, shape, strides):
        """A View of the same memory with another shape and other strides."""
        return self._replace(self.pointer, shape, strides)

    def part(self, start, stop):
        """A View of samples start ... stop - 1 of the last axis."""
        return self._replace(
            self.pointer + start * self.strides[-1] * ITEM_BYTES[self.dtype],
            (*self.shape[:-1], stop - start),
            self.strides,
        )

    def without_memory(self):
        """A View of shape, dtypes and kind alone, which does not keep the memory alive."""
        v = self._replace(None, self.shape, None)
        v.keep = None
        return v

    def _replace(self, pointer, shape, strides):
        return View(pointer, self.dtype, shape, strides, self.keep, self.kind, self.original_dtype)

    def numpy(self):
        """A NumPy array that shares the memory."""
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

    device: the number of the device.
    stream: the stream on which the data become ready, or None if they are ready.
    borrowed: true if the owner does not order its work after ours, and may use the
        memory again as soon as the call returns, so that the call must wait.
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
