"""Backends: the places where a plan computes, which are the CPU and each CUDA device.

A backend holds all that differs between these places: which fields of a plan's
descriptor are filled, where outputs and workspace are allocated, how streams are
synchronised, and how a result becomes an array of its operand's library.
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
    """One workspace for each thread, aligned to 64 bytes.  It grows until
    `release_workspace`."""

    size = 0
    held = None, None

    def at_least(self, size):
        """(the buffer, its address).

        The caller must hold the buffer until its call has returned: when the interpreter
        ends, it drops what belongs to threads that still run.  What their functions hold
        lives on.
        """
        if size > self.size:
            # The old buffer is freed before the new one is allocated.  If that fails,
            # the thread has no buffer, and the next call allocates one.
            self.size, self.held = 0, (None, None)
            self.held = aligned_bytes(size)
            self.size = size
        return self.held


_workspace = Workspace()


def release_workspace():
    """Give back the memory that the calls on the CPU keep for later ones.

    Each thread keeps one workspace, as large as its largest call so far has needed.  Those of
    all threads are given back, except where a call is running: that one's is given back when
    the call returns.  The next call of a thread allocates a new one.  What a Plan, a Spectrum
    or `Plan.prepare` holds stays.

    Example:
        >>> release_workspace()
    """
    global _workspace
    _workspace = Workspace()  # a threading.local that is gone takes every thread's part along


class Cpu:
    """The CPU.

    number: None, where a CUDA device has its number.
    device: the name by which a caller chooses the place.
    place: the name of the place in messages.
    """

    number, device, place = None, "cpu", "the CPU"

    def describe(self, desc, isa, engine):
        """Fill the fields of a plan's descriptor that choose device and isa or engine."""
        if engine is not None:
            raise ValueError(
                f"engine is {engine!r}; on the CPU, where isa names an instruction set, "
                "it must be None"
            )
        desc.isa = _name(isa, "isa")

    def create_spectrum(self, plan, kernels):
        """(handle of a new spectrum, the function that destroys it).

        kernels: the Views (k, k_rev), the latter None in one-sided modes.
        """
        return self._spectrum(plan, _kernel_operands(kernels))

    def _spectrum(self, plan, ops):
        handle = c_void_p()
        _lib.lib.fftconv_spectrum_create(byref(handle), plan._handle, byref(ops))
        return handle, _lib.lib.fftconv_spectrum_destroy

    def empty(self, shape, dtype, like):
        """(new uninitialised array, its View), of the same kind as the View `like`."""
        return _array.empty(shape, dtype, like.kind)

    def execute(self, plan, direction, spectrum, ops, views, outputs, plain):
        """Run the call that `ops` describes.

        direction: `_lib.FORWARD` or `_lib.BACKWARD`.
        spectrum: a spectrum's handle, or None if k is among the operands.
        views: the operands' Views by name; outputs: those of the results and of dy.
        plain: true if the plan's own figure of the workspace is enough, since rows are
            contiguous and no output is also an input.
        """
        if plain:
            need = plan._workspace_bytes[direction]
        else:
            need = self._need(plan, direction, spectrum, ops)
        buffer, ops.workspace = _workspace.at_least(need)  # noqa: F841, see at_least
        ops.workspace_bytes = need
        (_backward if direction else _forward)(plan._handle, spectrum, ops)

    def repeatable(self, plan, direction, spectrum, ops, views, outputs):
        """A function without arguments that runs the call again.

        It has a workspace of its own, and `ops` keeps alive all that the call needs.
        """
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
        """The result x as an array of the same kind as u, whose View `like` is."""
        return _array.finish(x, like.kind)

    def finish_gradient(self, x, shape, of, like):
        """x, of the given shape, as the gradient of operand `of`, a View.

        The gradient has the operand's shape, dtype and kind; along axes that the operand
        repeats it is summed.  like: the View of u.
        """
        return _array.finish(demoted(reduce_to(x, shape, of.shape), of), of.kind)

    def check_summed(self, v, name, shape):
        """Raise `Unsupported` if the gradient of a repeated operand, of `shape`, cannot be
        summed to the operand's own shape."""


class Cuda(Cpu):
    """CUDA device `number`.  Work is queued on u's stream, and calls do not wait for it."""

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
            need = 0  # The fused engine needs workspace only to transform k.
        workspace, ops.workspace = cuda.workspace(need, u)
        ops.workspace_bytes = need if workspace is not None else 0
        # The View of a Spectrum's k has no memory, so there is nothing to wait for.
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
    """An `_lib.Operands` with the Views (k, k_rev); k_rev may be None."""
    ops = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
    for name, v in zip(("k", "k_rev"), kernels):
        if v is not None:
            setattr(ops, name, tensor(v))
    return ops


def _name(value, of):
    """A name as bytes, or None for None; ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{of} is {value!r}; it must be a name or None")
    return value.encode()


CPU = Cpu()


def check_place(v, name, number):
    """Raise ValueError unless View v is on device `number`, as u is; None is the CPU."""
    if v.device != number:
        raise ValueError(
            f"{name} is on {backend_of(v.device).place}; "
            f"it must be on {backend_of(number).place}, as u"
        )


@cache
def backend_of(number):
    """The backend of a device number; None is the CPU."""
    return CPU if number is None else Cuda(number)


def device_number(device):
    """The number of the CUDA device that `device` names, or None for "cpu".

    "cuda" is "cuda:0".  Raises ValueError for any other name.
    """
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
    """Check that a device exists, and that u is on it.

    device: as `conv` takes it; "cuda" stands for any CUDA device.  v: the View of u, or
    None to check the device alone.  Raises `Unsupported` if there is no such device,
    ValueError if u is elsewhere or the name is unknown.
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
