"""What every call into the library is made of: tensors, handles, thread counts."""

import struct
import weakref

from . import _lib
from ._array import size

#: pack_tensor(structure, offset, address, dtype code, 0, *shape, *strides): an
#: fftconv_tensor of three axes, strides in elements.
pack_tensor = struct.Struct("@Pii3q3q").pack_into


def pack(structure, offset, v):
    """The fftconv_tensor of a View at `offset`, missing axes in front being 1."""
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
    """A Tensor of a View."""
    found = _lib.Tensor()
    pack(found, 0, v)
    return found


def tensor_offsets(structure):
    """{name: where it begins} of a structure's tensors."""
    return {
        name: getattr(structure, name).offset
        for name, kind in structure._fields_
        if kind is _lib.Tensor
    }


def thread_count(threads):
    """0, "all", for None; else a whole number from 1."""
    if threads is None:
        return 0
    threads = size(threads, "threads")
    if threads > 2**31 - 1:
        raise ValueError(f"threads is {threads}; it is far too large")
    return threads


class Handle:
    """What owns an object of the library; its copies are itself."""

    __slots__ = ()

    def _own(self, handle, destroy):
        # Not at exit: threads may still run, and the system frees it all.
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
