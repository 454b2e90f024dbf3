"""Where a plan computes: the CPU, or one of the CUDA devices.

A backend is all that differs between them: which fields of a descriptor it fills,
where outputs and workspace come from, what waits for what, and how a result becomes
an array of its operand's kind.
"""

import ctypes
import threading
from ctypes import byref, c_int64, c_void_p
from functools import cache, partial

from . import _array, _lib, cuda
from ._array import aligned_bytes, demoted, reduce_to
from ._handles import tensor

_forward = _lib.lib.fftconv_forward
_backward = _lib.lib.fftconv_backward
_workspace_bytes = _lib.lib.fftconv_workspace_bytes


class Workspace(threading.local):
    """One buffer for each thread, aligned to 64 bytes; it only grows."""

    size = 0
    pointer = None

    def at_least(self, size):
        if size > self.size:
            # Freed before allocating; a failure leaves none.
            self.size, self.pointer, self._buffer = 0, None, None
            self._buffer, self.pointer = aligned_bytes(size)
            self.size = size
        return self.pointer


_workspace = Workspace()


class Cpu:
    """The CPU. number: None; device: its name."""

    number, device, place = None, "cpu", "the CPU"

    def describe(self, desc, isa, engine):
        """Fills what a plan's descriptor says of the place."""
        if engine is not None:
            raise ValueError(
                f"engine is {engine!r}; on the CPU, where isa names an instruction set, "
                "it must be None"
            )
        desc.isa = _name(isa, "isa")

    def create_spectrum(self, plan, kernels):
        """(handle, the function that destroys it), of Views k and k_rev or None."""
        return self._spectrum(plan, _kernel_operands(kernels))

    def _spectrum(self, plan, ops):
        handle = c_void_p()
        _lib.lib.fftconv_spectrum_create(byref(handle), plan._handle, byref(ops))
        return handle, _lib.lib.fftconv_spectrum_destroy

    def empty(self, shape, dtype, like):
        """(array of like's kind to be written, its View)."""
        return _array.empty(shape, dtype, like.kind)

    def execute(self, plan, direction, spectrum, ops, views, outputs, plain):
        """Runs the call that `ops` describes.  spectrum: its handle, or None; views:
        the operands by name; outputs: what is written, and dy.  plain: rows are
        contiguous, and no output is an input."""
        if plain:
            need = plan._workspace_bytes[direction]
        else:
            need = self._need(plan, direction, spectrum, ops)
        ops.workspace = _workspace.at_least(need)
        ops.workspace_bytes = need
        (_backward if direction else _forward)(plan._handle, spectrum, ops)

    def repeatable(self, plan, direction, spectrum, ops, views, outputs):
        """A function of no arguments that runs the call again, with a workspace of its
        own; `ops` keeps all that it needs."""
        ops.workspace_bytes = self._need(plan, direction, spectrum, ops)
        ops.buffer, ops.workspace = aligned_bytes(ops.workspace_bytes)
        call, handle = (_backward if direction else _forward), plan._handle

        def run():
            call(handle, spectrum, ops)

        return run

    def _need(self, plan, direction, spectrum, ops):
        need = c_int64()
        _workspace_bytes(plan._handle, spectrum, ops, direction, need)
        return need.value

    def finish(self, x, like):
        """A result beside u, a View, as an array of u's kind."""
        return _array.finish(x, like.kind)

    def finish_gradient(self, x, shape, of, like):
        """x, of this shape, as the gradient of operand `of`: of its shape, dtype and
        kind."""
        return _array.finish(demoted(reduce_to(x, shape, of.shape), of), of.kind)

    def check_summed(self, v, name, shape):
        """A repeated operand's gradient can be summed to its own shape."""


class Cuda(Cpu):
    """CUDA device `number`: work is put on u's stream and not waited for."""

    def __init__(self, number):
        self.number = number
        self.device = self.place = f"cuda:{number}"

    def describe(self, desc, isa, engine):
        if isa is not None:
            raise ValueError(
                f"isa is {isa!r}; on {self.device}, where engine names what runs, it must be None"
            )
        desc.device, desc.device_index = _lib.DEVICES["cuda"], self.number
        desc.engine = _name(engine, "engine")

    def create_spectrum(self, plan, kernels):
        there = [v for v in kernels if v is not None]
        ops = _kernel_operands(kernels)
        ops.stream = stream = cuda.stream_of(there[0])
        cuda.wait_for(there, stream)
        made = self._spectrum(plan, ops)
        cuda.notify(there, stream)
        cuda.finish_borrowed(there[0], stream)
        return made

    def empty(self, shape, dtype, like):
        return cuda.empty(shape, dtype, like)

    def execute(self, plan, direction, spectrum, ops, views, outputs, plain=False):
        u = views["u"]
        stream = cuda.stream_of(u)
        need = plan._workspace_bytes[direction]
        if spectrum is not None and direction == _lib.FORWARD and plan.engine != "cufft":
            need = 0  # all of it was for k's spectrum
        workspace, ops.workspace = cuda.workspace(need, u)
        ops.workspace_bytes = need if workspace is not None else 0
        # A spectrum's k has no memory, and nothing waits for it.
        arrays = [u] + [v for v in (*views.values(), *outputs) if v.pointer is not None]
        cuda.wait_for(arrays, stream)
        ops.stream = stream
        (_backward if direction else _forward)(plan._handle, spectrum, ops)
        cuda.notify(arrays, stream)

    def repeatable(self, plan, direction, spectrum, ops, views, outputs):
        return partial(self.execute, plan, direction, spectrum, ops, views, outputs)

    def finish(self, x, like):
        return cuda.finish(x, like.kind, cuda.stream_of(like))

    def finish_gradient(self, x, shape, of, like):
        x = cuda.finish(x, of.kind, cuda.stream_of(like))
        return demoted(reduce_to(x, shape, of.shape), of)

    def check_summed(self, v, name, shape):
        cuda.check_summed(v, name, shape)


def _kernel_operands(kernels):
    """Operands of Views k and k_rev, or None in the place of the latter."""
    ops = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
    for name, v in zip(("k", "k_rev"), kernels):
        if v is not None:
            setattr(ops, name, tensor(v))
    return ops


def _name(value, of):
    """A name as bytes, None as it is."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{of} is {value!r}; it must be a name or None")
    return value.encode()


CPU = Cpu()


def check_place(v, name, number):
    """View v is where device `number` is, None being the CPU's, as u is."""
    if v.device != number:
        raise ValueError(
            f"{name} is on {backend_of(v.device).place}; "
            f"it must be on {backend_of(number).place}, as u"
        )


@cache
def backend_of(number):
    """The backend of a View's or a plan's device number, None being the CPU's."""
    return CPU if number is None else Cuda(number)


def device_number(device):
    """None for "cpu", else the number of the CUDA device that is named, or
    ValueError."""
    name = str(device)
    if name == "cpu":
        return None
    prefix, _, digits = ("cuda:0" if name == "cuda" else name).partition(":")
    if prefix != "cuda" or not digits.isdecimal() or int(digits) > 2**31 - 1:
        raise ValueError(
            f"device is {device!r}; allowed: 'cpu', 'cuda' and 'cuda:0', 'cuda:1', ..."
        )
    return int(digits)


def check_device(device, v=None):
    """There is such a device, and View v of u is on it, if that is given.

    "cuda" is any CUDA device.  Raises ValueError, or `Unsupported` where there is none.
    """
    number, there = device_number(device), cuda.devices()
    if number is not None and number >= there:
        raise _lib.Unsupported(
            f"device is {str(device)!r}, and there are {there} CUDA devices: without a device, "
            "a driver, or CUDA in this build it must be None or 'cpu'"
        )
    if v is None or v.device == number or str(device) == "cuda" and v.device is not None:
        return
    raise ValueError(
        f"u is on {backend_of(v.device).place}, and device is {str(device)!r}; "
        "it must be where u is, or None"
    )
