"""Parts shared by all calls of the C library: tensors, handles and thread counts."""

import struct
import weakref

from . import _lib
from ._array import size

#: pack_tensor(structure, offset, address, dtype code, 0, *shape, *strides) writes an
#: fftconv_tensor into the structure: three axes, strides in elements, and 0 for `reserved`.
pack_tensor = struct.Struct("@Pii3q3q").pack_into


def pack(structure, offset, v):
    """Write View v as the fftconv_tensor at `offset` of a structure.

    A View of fewer than three axes gets leading axes of length 1.
    """
    n = len(v.shape)
    pack_tensor(
        structure,
        offset,
        v.pointer,
        _lib.DTYPES[v.dtype],
        0,
        *(1, 1, 1)[n:],
        *v.shape,
        *(0, 0, 0)[n:],
        *v.strides,
    )


def tensor(v):
    """View v as a `_lib.Tensor`."""
    found = _lib.Tensor()
    pack(found, 0, v)
    return found


def tensor_offsets(structure):
    """{name: offset in bytes} of the tensors in a structure."""
    return {
        name: getattr(structure, name).offset
        for name, kind in structure._fields_
        if kind is _lib.Tensor
    }


def thread_count(threads):
    """A thread count as C takes it: 0, all processors, for None; else 1 ... MAX_THREADS."""
    if threads is None:
        return 0
    return size(threads, "threads", 1, _lib.MAX_THREADS)


class Handle:
    """Base class of objects that own an object of the C library.

    Such an object is immutable, so that copying it returns the object itself.
    """

    __slots__ = ()

    def _own(self, handle, destroy):
        # No clean-up when the interpreter exits: other threads may still be using the
        # object, and the operating system frees the memory.
        weakref.finalize(self, destroy, handle.value).atexit = False
        self._handle = handle.value

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError(
            f"a {type(self).__name__} lives in its process's "
            "memory and cannot be pickled: make one there"
        )
