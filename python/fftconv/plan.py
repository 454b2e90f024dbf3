"""Plans and spectra: a convolution of given shapes, made once and run often."""

import ctypes
import struct
import threading
import weakref
from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np

from . import _lib
from ._array import (AXES, KERNEL_DTYPES, View, broadcast_strides, check_dtype,
                     choice, dtype_name, empty, finish, output_view,
                     reduce_to, size, view)
from ._gradients import Gradients

_lib_forward = _lib.lib.fftconv_forward
_lib_backward = _lib.lib.fftconv_backward
_OPERANDS_BYTES = ctypes.sizeof(_lib.Operands)
_OFFSET = {name: getattr(_lib.Operands, name).offset
           for name, kind in _lib.Operands._fields_ if kind is _lib.Tensor}
_pack_tensor = struct.Struct("@Pii3q3q").pack_into

NEEDS = ("u", "k", "in_gate", "out_gate", "skip")


@dataclass(frozen=True)
class Counters:
    """What a plan costs: one forward call, all rows, without the kernel's own
    transform.  Counted, not measured."""
    stage_flops: tuple      #: real flops of each step run, both directions
    product_flops: float    #: real flops of spectra times spectrum
    io_bytes: float         #: u in, y out: the caller's arrays
    l1_bytes: float         #: moved by stages whose data sit in L1
    l2_bytes: float         #: ... in L2
    memory_bytes: float     #: ... beyond L2
    spectrum_bytes: int     #: a spectrum of all channels
    spectra_row_bytes: int  #: one row of `Plan.rows_to_spectra`
    forward_workspace_bytes: int
    backward_workspace_bytes: int
    predicted_seconds: float    #: the planner's estimate, on one thread

    @property
    def flops(self):
        """All real flops of a forward call."""
        return sum(self.stage_flops) + self.product_flops


class _Workspace(threading.local):
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


_workspace = _Workspace()


def aligned_bytes(n):
    """(uint8 array of n bytes that starts at a multiple of 64, its address)."""
    buffer = np.empty(n + 63, np.uint8)
    address = buffer.ctypes.data
    start = -address % 64
    return buffer[start:start + n], address + start


def rows_axes(ndim, layout, name="u"):
    """AXES of an array of rows, or ValueError."""
    axes = choice(layout, "layout", AXES).get(ndim)
    if axes is None:
        raise ValueError(f"{name} has {ndim} axes; allowed: 3 (B, H, L), "
                         "2 (H, L) and 1 (L,), in the order of the layout")
    return axes


def kernel_axes(shape, channels, name="k"):
    """(H, Lk) of a kernel's shape: (H, Lk), (1, H, Lk), or (Lk,) if H is 1."""
    if len(shape) == 2 and shape[0] == channels and shape[1] > 0:
        return shape
    full = (1,) * (2 - len(shape)) + tuple(shape)
    if len(full) == 3 and full[0] == 1:
        full = full[1:]
    if len(full) != 2 or full[0] != channels or full[1] < 1:
        raise ValueError(f"{name} has shape {tuple(shape)}; it must be (H, Lk) "
                         f"or (1, H, Lk) with H = {channels}, as u, or (Lk,) "
                         "if H is 1; Lk at least 1")
    return full


class _Handle:
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
        raise TypeError(f"a {type(self).__name__} lives in its process's "
                        "memory and cannot be pickled: make one there")


class Spectrum(_Handle):
    """A kernel made ready for a plan; made by `Plan.spectrum`.

    Immutable, and shared freely between threads.  It keeps its plan alive.
    """
    __slots__ = ("plan", "nbytes", "k", "_handle", "__weakref__")

    def __init__(self, plan, k):
        v = view(k, "k", KERNEL_DTYPES[plan.dtype][-1])
        tensor = _lib.Tensor()
        plan._pack_kernel(tensor, 0, v)
        handle = c_void_p()
        _lib.lib.fftconv_spectrum_create(byref(handle), plan._handle,
                                         byref(tensor), 0)
        self._own(handle, _lib.lib.fftconv_spectrum_destroy)
        self.plan = plan
        self.nbytes = plan.counters.spectrum_bytes
        # What k was, for its gradient; the taps themselves are not kept.
        self.k = View(None, v.dtype, v.shape, None, None, v.kind)

    def __repr__(self):
        return (f"Spectrum(k={self.k.shape}, {self.k.dtype}, "
                f"{self.nbytes} bytes)")


class Plan(_Handle):
    """A convolution of given shapes: immutable, shared freely by threads.

    u_shape: (B, H, L), (H, L) or (L,); in layout "BLH" (B, L, H), (L, H) or
    (L,).  k_shape: (H, Lk), (1, H, Lk), or (Lk,) if H is 1; in every layout.

    dtype: of u, gates and y: "float64", "float32", "float16" or "bfloat16",
        by string, NumPy or torch dtype.  k, skip and mask have it too, or
        float32 beside 16 bits.
    mode: "causal", the linear convolution cut to L, or "circular", modulo
        fft_size.
    fft_size: circular only: N >= L, Lk; None means L.
    radices: N_1 (outermost) ... N_p of the Monarch transform, each 1 ... 128,
        or None: the cheapest; order: p alone.
    threads: of every call; None means all processors.  Results do not depend
        on it.
    isa: one of `fftconv.isas()`; None means the best of this machine.
    form: how a real row becomes a complex one: "right_angle", "even_odd",
        "complex", or None: the plan's choice.
    dense: every stage as a dense complex matrix product, not a codelet.

    Raises ValueError for what is wrong, `Unsupported` for an instruction set
    this machine lacks, MemoryError.
    """

    def __init__(self, u_shape, k_shape, *, dtype="float32", mode="causal",
                 fft_size=None, radices=None, order=None, layout="BHL",
                 threads=None, isa=None, form=None, dense=False):
        u_shape = _shape(u_shape, "u_shape")
        k_shape = _shape(k_shape, "k_shape")
        self.layout = layout
        self._axes = rows_axes(len(u_shape), layout, "u_shape")
        self._rows = tuple(1 if a is None else u_shape[a] for a in self._axes)
        batch, channels, length = self._rows
        self._kernel = kernel_axes(k_shape, channels, "k_shape")
        self.u_shape, self.k_shape = u_shape, k_shape
        self.dtype = dtype_name(dtype)
        self.mode = mode

        desc = _lib.PlanDesc(
            size=ctypes.sizeof(_lib.PlanDesc), batch=batch, channels=channels,
            length=length, kernel_length=self._kernel[1],
            mode=choice(mode, "mode", _lib.MODES),
            dtype=_lib.DTYPES[self.dtype],
            form=choice(form if form is not None else "auto", "form",
                        _lib.FORMS),
            dense=1 if dense else 0, threads=thread_count(threads))
        if fft_size is not None:
            if mode != "circular":
                raise ValueError(f"fft_size is {fft_size!r}; with "
                                 f"mode={mode!r} it must be None")
            desc.fft_size = size(fft_size, "fft_size")
        if radices is not None:
            radices = [size(r, "radices") for r in radices]
            if not radices:
                raise ValueError("radices is empty; name at least one, or "
                                 "pass None")
            if order is not None and order != len(radices):
                raise ValueError(f"order is {order!r}, and radices names "
                                 f"{len(radices)}; leave one out")
            desc.radices = _lib.int64s(radices)
            desc.order = len(radices)
        elif order is not None:
            desc.order = min(size(order, "order"), 2 ** 31 - 1)
        if isa is not None:
            if not isinstance(isa, str):
                raise ValueError(f"isa is {isa!r}; it must be a name or None")
            desc.isa = isa.encode()

        handle = c_void_p()
        _lib.lib.fftconv_plan_create(byref(handle), byref(desc))
        self._own(handle, _lib.lib.fftconv_plan_destroy)

        info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
        _lib.lib.fftconv_plan_get_info(self._handle, byref(info))
        self.threads = info.threads
        self.isa = info.isa.decode()
        self.lanes = info.lanes
        self.form = next(n for n, c in _lib.FORMS.items() if c == info.form)
        self.dense = bool(info.dense)
        self.fft_size = info.fft_size
        self.transform_length = info.transform_length
        self.radices = tuple(info.radices[:info.order])
        self.stage_radices = tuple(info.stage_radices[:info.stages])
        self.counters = Counters(
            stage_flops=tuple(info.stage_flops[:info.stages]),
            **{name: getattr(info, name) for name in Counters.__annotations__
               if name != "stage_flops"})
        self._code = _lib.DTYPES[self.dtype]
        self._kernel_dtypes = KERNEL_DTYPES[self.dtype]
        self._gate_dtypes = (self.dtype,)
        self._workspace_bytes = (self.counters.forward_workspace_bytes,
                                 self.counters.backward_workspace_bytes)

    def __repr__(self):
        def dots(numbers):
            return "·".join(map(str, numbers))

        where = f", fft_size={self.fft_size}" if self.mode == "circular" else ""
        kind = "dense" if self.dense else "stages " + dots(self.stage_radices)
        return (f"Plan(u={self.u_shape}, k={self.k_shape}, {self.dtype}, "
                f"{self.mode}{where}: {self.form}, M={self.transform_length} "
                f"= {dots(self.radices)}, {kind}, {self.isa}, "
                f"lanes={self.lanes}, threads={self.threads})")

    # ---- Calls ----------------------------------------------------------

    def spectrum(self, k):
        """The `Spectrum` of kernels k (H, Lk), ready for any number of calls.

        k: the plan's dtype, or float32 beside 16 bits.  Raises ValueError.
        """
        return Spectrum(self, k)

    def __call__(self, u, spectrum, in_gate=None, out_gate=None, *, skip=None,
                 activation=None, mask=None, out=None):
        """y = out_gate . mask . act((in_gate . u) * k + skip . in_gate . u).

        u: the plan's shape and dtype.  spectrum: from `spectrum`, or the
        kernels k themselves.  in_gate, out_gate: u's shape, or broadcast to
        it.  skip: (H,); mask: (B, H); activation: None, "gelu" (by erf) or
        "silu".  out: where to put y; may be u itself.  Returns y, of u's
        shape and kind.  Raises ValueError, before anything is written.
        """
        v = self._rows_view(u, "u")
        return self._forward(v, self._axes, spectrum, in_gate, out_gate, skip,
                             activation, mask, out)

    def backward(self, dy, u, spectrum, in_gate=None, out_gate=None, *,
                 skip=None, activation=None, mask=None, needs=None):
        """`Gradients` of sum(dy . y), y the forward result of the same
        arguments, which is computed again.

        needs: which, out of "u", "k", "in_gate", "out_gate", "skip"; None
        means all that are there.  dk and dskip are summed over the batch in a
        fixed order.  Raises ValueError.
        """
        v = self._rows_view(u, "u")
        return self._backward(dy, v, self._axes, spectrum, in_gate, out_gate,
                              skip, activation, mask, needs)

    # ---- The three primitives -------------------------------------------

    def rows_to_spectra(self, u):
        """The spectra of u's rows, in the order the stages leave them.

        Returns (B, H, reals) float32 (float64 for a float64 plan), 64-byte
        aligned; `natural` reads it.
        """
        v = self._rows_view(u, "u")
        s = self._new_spectra()
        tensor = _lib.Tensor()
        self._pack_rows(tensor, 0, v.pointer, v.strides, self._axes)
        _lib.lib.fftconv_rows_to_spectra(self._handle, byref(tensor),
                                         s.ctypes.data, 0)
        return s

    def multiply(self, spectrum, s, out=None):
        """spectrum . s for every frequency; out may be s itself."""
        self._check_spectrum(spectrum)
        self._check_spectra(s, "s")
        if out is None:
            out = self._new_spectra()
        else:
            self._check_spectra(out, "out")
        _lib.lib.fftconv_multiply(self._handle, spectrum._handle,
                                  s.ctypes.data, out.ctypes.data, 0)
        return out

    def spectra_to_rows(self, s, overwrite=False):
        """Rows from spectra; rows_to_spectra's inverse times M, the factor
        1/M being carried by a Spectrum.  overwrite: s may be destroyed."""
        self._check_spectra(s, "s")
        if not overwrite:
            source, s = s, self._new_spectra()
            s[...] = source
        y, v = empty(self.u_shape, self.dtype, None)
        tensor = _lib.Tensor()
        self._pack_rows(tensor, 0, v.pointer, v.strides, self._axes)
        _lib.lib.fftconv_spectra_to_rows(self._handle, s.ctypes.data,
                                         byref(tensor), 0)
        return y

    def natural(self, s):
        """Spectra in natural order: (B, H, M) complex, a copy.

        Entry m is frequency m / M of the row made complex; in the right-angle
        form it is frequency (m - 1/4) / M.
        """
        self._check_spectra(s, "s")
        offset = np.empty(self.transform_length, np.int64)
        _lib.lib.fftconv_spectra_offsets(
            self._handle, offset.ctypes.data_as(ctypes.POINTER(c_int64)))
        out = np.empty(s.shape[:2] + offset.shape,
                       np.result_type(s.dtype, np.complex64))
        out.real, out.imag = s[..., offset], s[..., offset + self.lanes]
        return out

    # ---- Inside ---------------------------------------------------------

    def _real_dtype(self):
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def _new_spectra(self):
        batch, channels, _ = self._rows
        row = self.counters.spectra_row_bytes
        data, _ = aligned_bytes(batch * channels * row)
        return data.view(self._real_dtype()).reshape(batch, channels, -1)

    def _check_spectra(self, s, name):
        row = self.counters.spectra_row_bytes // self._real_dtype().itemsize
        shape = self._rows[:2] + (row,)
        if (not isinstance(s, np.ndarray) or s.shape != shape
                or s.dtype != self._real_dtype() or not s.flags.c_contiguous
                or s.ctypes.data % 64):
            raise ValueError(
                f"{name} must be spectra of this plan, from rows_to_spectra: "
                f"{shape} {self._real_dtype()}, C-contiguous, aligned to 64 "
                f"bytes; got {type(s).__name__} "
                f"{getattr(s, 'shape', '')} {getattr(s, 'dtype', '')}")

    def _check_spectrum(self, spectrum):
        if not isinstance(spectrum, Spectrum):
            raise ValueError(f"spectrum is a {type(spectrum).__name__}; it "
                             "must be a Spectrum, from Plan.spectrum")

    def _rows_view(self, x, name):
        v = view(x, name, self.dtype)
        if v.shape != self.u_shape:
            raise ValueError(f"{name} has shape {v.shape}; this plan is for "
                             f"{self.u_shape}")
        if v.dtype != self.dtype:
            raise ValueError(f"{name} has dtype {v.dtype}; this plan is for "
                             f"{self.dtype}")
        return v

    def _pack_rows(self, struct_, offset, pointer, strides, axes):
        """A tensor of this plan's rows; strides in the caller's axes."""
        if axes != (0, 1, 2):
            strides = [1 if a is None else strides[a] for a in axes]
        _pack_tensor(struct_, offset, pointer, self._code, 0, *self._rows,
                     *strides)

    def _pack_kernel(self, struct_, offset, v):
        channels, length = kernel_axes(v.shape, self._rows[1])
        if length != self._kernel[1]:
            raise ValueError(f"k has length {length}; this plan is for "
                             f"{self._kernel[1]}")
        if v.dtype not in self._kernel_dtypes:
            check_dtype(v, "k", self._kernel_dtypes, self.dtype)
        strides = v.strides[-2:] if len(v.shape) > 1 else (length,) + v.strides
        _pack_tensor(struct_, offset, v.pointer, _lib.DTYPES[v.dtype], 0,
                     1, channels, length, 0, *strides)

    def _pack_gate(self, ops, name, gate, v, axes):
        g = view(gate, name, self.dtype)
        if g.dtype != self.dtype:
            check_dtype(g, name, (self.dtype,), self.dtype)
        strides = (g.strides if g.shape == v.shape
                   else broadcast_strides(g, name, v.shape))
        self._pack_rows(ops, _OFFSET[name], g.pointer, strides, axes)
        return g

    def _pack_channels(self, ops, name, x, batch):
        """skip (H,) as (1, H, 1), or mask (B, H) as (B, H, 1)."""
        v = view(x, name, self._kernel_dtypes[-1])
        if v.dtype not in self._kernel_dtypes:
            check_dtype(v, name, self._kernel_dtypes, self.dtype)
        channels = self._rows[1]
        shape = (channels,) if name == "skip" else (batch, channels)
        strides = broadcast_strides(v, name, shape)
        _pack_tensor(ops, _OFFSET[name], v.pointer, _lib.DTYPES[v.dtype], 0,
                     batch, channels, 1, *((0,) + strides)[-2:], 1)
        return v

    def _operands(self, v, axes, kernel, in_gate, out_gate, skip, activation,
                  mask):
        """The inputs: (Operands, the spectrum's handle, name: View).

        The views keep copies alive; the caller holds them during the call.
        """
        ops = _lib.Operands()
        ops.size = _OPERANDS_BYTES
        if activation is not None:
            ops.activation = choice(activation, "activation",
                                    _lib.ACTIVATIONS)
        views = {"u": v}
        self._pack_rows(ops, _OFFSET["u"], v.pointer, v.strides, axes)
        handle = None
        if isinstance(kernel, Spectrum):
            handle = kernel._handle
            if (kernel.plan._kernel != self._kernel
                    or kernel.k.dtype not in self._kernel_dtypes):
                raise ValueError(f"spectrum is {kernel!r}; this plan is for k="
                                 f"{self.k_shape}, "
                                 f"{' or '.join(self._kernel_dtypes)}")
        else:
            views["k"] = k = view(kernel, "k", self._kernel_dtypes[-1])
            self._pack_kernel(ops, _OFFSET["k"], k)
        if in_gate is not None:
            views["in_gate"] = self._pack_gate(ops, "in_gate", in_gate, v,
                                               axes)
        if out_gate is not None:
            views["out_gate"] = self._pack_gate(ops, "out_gate", out_gate, v,
                                                axes)
        if skip is not None:
            views["skip"] = self._pack_channels(ops, "skip", skip, 1)
        if mask is not None:
            views["mask"] = self._pack_channels(ops, "mask", mask,
                                                self._rows[0])
        return ops, handle, views

    def _execute(self, execute, direction, handle, ops):
        need = self._workspace_bytes[direction]
        if need:
            ops.workspace = _workspace.at_least(need)
            ops.workspace_bytes = need
        execute(self._handle, handle, ops)

    def _forward(self, v, axes, kernel, in_gate, out_gate, skip, activation,
                 mask, out):
        ops, handle, views = self._operands(
            v, axes, kernel, in_gate, out_gate, skip, activation, mask)
        if out is None:
            result, y = empty(v.shape, self.dtype, v.kind)
        else:
            result, y = out, output_view(out, "out", v.shape, self.dtype)
        self._pack_rows(ops, _OFFSET["y"], y.pointer, y.strides, axes)
        self._execute(_lib_forward, _lib.FORWARD, handle, ops)
        return result if out is not None else finish(result, v.kind)

    def _backward(self, dy, v, axes, kernel, in_gate, out_gate, skip,
                  activation, mask, needs):
        ops, handle, views = self._operands(
            v, axes, kernel, in_gate, out_gate, skip, activation, mask)
        if handle is not None:
            views["k"] = kernel.k       # shape, dtype and kind; not the taps
        d = view(dy, "dy", self.dtype)
        if d.shape != v.shape:
            raise ValueError(f"dy has shape {d.shape}; it must be {v.shape}, "
                             "as u")
        if d.dtype != self.dtype:
            check_dtype(d, "dy", (self.dtype,), self.dtype)
        self._pack_rows(ops, _OFFSET["dy"], d.pointer, d.strides, axes)

        results = {}
        for name in _needs(needs, views):
            # Of the full shape; summed to a repeated operand's afterwards.
            of = views[name]
            shape = {"k": of.shape, "skip": (self._rows[1],)}.get(name,
                                                                  v.shape)
            results[name], g = empty(shape, of.dtype, of.kind)
            field = _OFFSET["d" + name]
            if name == "k":
                self._pack_kernel(ops, field, g)
            elif name == "skip":
                _pack_tensor(ops, field, g.pointer, _lib.DTYPES[g.dtype], 0,
                             1, shape[0], 1, shape[0], 1, 1)
            else:
                self._pack_rows(ops, field, g.pointer, g.strides, axes)
        if results:
            self._execute(_lib_backward, _lib.BACKWARD, handle, ops)
        return Gradients(**{
            "d" + name: finish(reduce_to(x, views[name].shape),
                               views[name].kind)
            for name, x in results.items()})


def _needs(needs, views):
    """The operands whose gradients are wanted, in Gradients' order."""
    there = [name for name in NEEDS if name in views]
    if needs is None:
        return there
    needs = {needs} if isinstance(needs, str) else set(needs)
    unknown = needs.difference(there)
    if unknown:
        raise ValueError(
            f"needs names {', '.join(map(repr, sorted(map(str, unknown))))}; "
            f"allowed here: {', '.join(map(repr, there))}")
    return [name for name in there if name in needs]


def _shape(shape, name):
    try:
        return tuple(size(n, name) for n in shape)
    except TypeError:
        raise ValueError(f"{name} is {shape!r}; it must be a tuple of sizes") \
            from None


def thread_count(threads):
    """0, "all", for None; else a whole number from 1."""
    if threads is None:
        return 0
    threads = size(threads, "threads")
    if threads > 2 ** 31 - 1:
        raise ValueError(f"threads is {threads}; it is far too large")
    return threads
