"""Plans and spectra: a convolution of given shapes, made once and run often."""

import ctypes
import struct
import threading
import weakref
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np

from . import _lib, cuda
from ._array import (
    AXES,
    KERNEL_DTYPES,
    PROMOTED,
    aligned_empty,
    broadcast_strides,
    check_dtype,
    choice,
    demoted,
    dtype_name,
    empty,
    finish,
    numpy_dtype,
    output_view,
    promoted,
    reduce_to,
    size,
    view,
)
from ._gradients import Gradients
from .pattern import as_pattern

_lib_forward = _lib.lib.fftconv_forward
_lib_backward = _lib.lib.fftconv_backward
_lib_workspace = _lib.lib.fftconv_operands_workspace_bytes
_OPERANDS_BYTES = ctypes.sizeof(_lib.Operands)
_OFFSET = {
    name: getattr(_lib.Operands, name).offset
    for name, kind in _lib.Operands._fields_
    if kind is _lib.Tensor
}
_pack_tensor = struct.Struct("@Pii3q3q").pack_into

NEEDS = ("u", "k", "in_gate", "out_gate", "skip", "k_rev")


@dataclass(frozen=True)
class Counters:
    """What a plan costs: one forward call, all rows, without the kernel's own
    transform.  Counted, not measured."""

    stage_flops: tuple  #: real flops of each step run, both directions
    product_flops: float  #: real flops of spectra times spectrum
    fold_flops: float  #: form "folded": sums and differences, both ways
    io_bytes: float  #: u in, y out: the caller's arrays
    l1_bytes: float  #: moved by stages whose data sit in L1
    l2_bytes: float  #: ... in L2
    memory_bytes: float  #: ... beyond L2
    spectrum_bytes: int  #: a spectrum of all channels
    spectra_row_bytes: int  #: one row of `Plan.rows_to_spectra`
    forward_workspace_bytes: int
    backward_workspace_bytes: int
    predicted_seconds: float  #: the planner's estimate, on one thread

    @property
    def flops(self):
        """All real flops of a forward call."""
        return sum(self.stage_flops) + self.product_flops + self.fold_flops


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
    buffer = aligned_empty((n,), np.uint8)
    return buffer, buffer.ctypes.data


def rows_axes(ndim, layout, name="u"):
    """AXES of an array of rows, or ValueError."""
    axes = choice(layout, "layout", AXES).get(ndim)
    if axes is None:
        raise ValueError(
            f"{name} has {ndim} axes; allowed: 3 (B, H, L), "
            "2 (H, L) and 1 (L,), in the order of the layout"
        )
    return axes


def kernel_axes(shape, batch, channels, name="k"):
    """(1 or B, G, Lk) of a kernel's shape, or ValueError."""
    if len(shape) == 2 and shape[0] == channels and shape[1] > 0:
        return (1, *shape)  # the usual case, at once
    axes = (1,) * (3 - len(shape)) + tuple(shape)
    if (
        not 1 <= len(shape) <= 3
        or axes[0] not in (1, batch)
        or axes[1] < 1
        or channels % axes[1]
        or axes[2] < 1
    ):
        raise ValueError(
            f"{name} has shape {tuple(shape)}; it must be (Lk,), (G, Lk), "
            f"(1, G, Lk) or (B, G, Lk) with B = {batch} and H = {channels}, "
            "as u, G a divisor of H, and Lk at least 1"
        )
    return axes


def reverse_axes(shape, kernel, name="k_rev"):
    """The length of k_rev, whose leading axes must be k's; or ValueError."""
    axes = (1,) * (3 - len(shape)) + tuple(shape)
    if not 1 <= len(shape) <= 3 or axes[:2] != kernel[:2] or axes[2] < 1:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; it must be k's, "
            f"{kernel}, but for the length, at least 1"
        )
    return axes[2]


def check_reverse(k_rev, mode, name="k_rev"):
    """k_rev, or its length, is there if and only if the mode is two-sided."""
    if (k_rev is None) == (mode == "two_sided"):
        what = "None" if k_rev is None else "given"
        must = "be given" if k_rev is None else "be None"
        raise ValueError(f"{name} is {what}; with mode={mode!r} it must {must}")


def _is_smooth(n):
    """n has no prime factor above 7: what the library has stages for."""
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def _pack(struct_, offset, v):
    """A tensor of a View, missing axes in front being 1."""
    n = len(v.shape)
    _pack_tensor(
        struct_,
        offset,
        v.pointer,
        _lib.DTYPES[v.dtype],
        0,
        *(1, 1, 1)[n:],
        *v.shape,
        *(0, 0, 0)[n:],
        *v.strides,
    )


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
        raise TypeError(
            f"a {type(self).__name__} lives in its process's "
            "memory and cannot be pickled: make one there"
        )


class Spectrum(_Handle):
    """A kernel made ready for a plan; made by `Plan.spectrum`.

    Immutable, and shared freely between threads.  It keeps its plan alive.
    """

    __slots__ = ("plan", "nbytes", "k", "k_rev", "_handle", "__weakref__")

    def __init__(self, plan, k, k_rev):
        views = plan._kernels(k, k_rev)
        tensors = {name: _lib.Tensor() for name in views}
        sent = views
        if plan._filter is not None:
            sent = {"k": plan._filtered_kernel(views["k"])}
        for name, v in sent.items():
            _pack(tensors[name], 0, v)
        handle = c_void_p()
        kernels = [byref(tensors[name]) if name in tensors else None for name in ("k", "k_rev")]
        if plan._device is None:
            _lib.lib.fftconv_spectrum_create(byref(handle), plan._handle, *kernels, 0)
            self._own(handle, _lib.lib.fftconv_spectrum_destroy)
        else:
            stream = cuda.stream_of(views["k"])
            cuda.before(list(views.values()), stream)
            _lib.lib.fftconv_cuda_spectrum_create(byref(handle), plan._handle, *kernels, stream)
            self._own(handle, _lib.lib.fftconv_cuda_spectrum_destroy)
            cuda.after(list(views.values()), stream)
            cuda.settle(views["k"], stream)
        self.plan = plan
        self.nbytes = plan.counters.spectrum_bytes
        # What they were, for their gradients; the taps are not kept.
        self.k, self.k_rev = (v and v.bare() for v in map(views.get, ("k", "k_rev")))

    def __repr__(self):
        more = "" if self.k_rev is None else f"k_rev={self.k_rev.shape}, "
        if self.plan.pattern is not None:
            more += f"{self.plan.pattern!r}, "
        return f"Spectrum(k={self.k.shape}, {more}{self.k.dtype}, {self.nbytes} bytes)"


class Plan(_Handle):
    """A convolution of given shapes: immutable, shared freely by threads.

    u_shape: (B, H, L), (H, L) or (L,); in layout "BLH" (B, L, H), (L, H) or
    (L,).  k_shape: (Lk,), (G, Lk), (1, G, Lk) or (B, G, Lk), G a divisor of H;
    in every layout.  Channel h has kernel h // (H // G).

    dtype: of u, gates and y: "float64", "float32", "float16", "bfloat16",
        "complex128" or "complex64", by string, NumPy or torch dtype.  k, skip
        and mask have it too, or float32 beside 16 bits; a complex plan
        promotes what is real or narrower.
    mode: "causal", the linear convolution cut to L, "circular", modulo
        fft_size, or "two_sided", causal and sum_{s>=0} k_rev[s] z[t+s].
    fft_size: circular only: N >= L, Lk; None means L.
    k_rev_length: two_sided only, and needed there: k_rev's length.
    pattern: circular and real only: a `Pattern`, or a boolean mask of the
        fft_size // 2 + 1 rfft bins; None keeps all.
    radices: N_1 (outermost) ... N_p of the Monarch transform, each 1 ... 128,
        or None: the cheapest; order: p alone.  A product of less than a row
        needs asks for blocks.
    threads: of every call; None means all processors.  Results do not depend
        on it.
    isa: one of `fftconv.isas()`; None means the best of this machine.
    form: how a real row becomes a complex one: "right_angle", "folded",
        "complex", or None: the plan's choice.
    dense: every stage as a dense complex matrix product, not a codelet.
    single_block: each row in one transform, as the three primitives need it.
        Otherwise a short kernel runs in blocks (overlap-save) where that costs
        less.
    device: "cpu", or "cuda", "cuda:1", ...: where all its arrays are. On a GPU
        isa is "fused", one launch for a row of up to 16,384 samples in float32,
        32,768 in 16 bits, on a circle of 2^n twice that, "cufft", padded rows of
        any length and real dtype, or None, the first of them that will do;
        radices, order, dense and pattern are the library's, and so is form but
        for "right_angle"; the three primitives are the CPU's.

    What was chosen: ``form``, ``radices``, ``stage_radices``, ``isa``,
    ``lanes``, ``threads``, ``transform_length`` M, ``fft_size`` N (2M, of
    complex types M, where no N is named), ``blocks`` of ``block_length``
    outputs; ``kept``, the part of N's bins whose weight is not 0, ``computed``,
    of the points visited without a pattern, the part that still is; ``counters``.

    Raises ValueError for what is wrong, `Unsupported` for an instruction set
    or device this machine lacks, or what is not done on it, MemoryError.
    """

    _history = 0  # 1 for what `Stream` runs

    def __init__(
        self,
        u_shape,
        k_shape,
        *,
        dtype="float32",
        mode="causal",
        fft_size=None,
        k_rev_length=None,
        pattern=None,
        radices=None,
        order=None,
        layout="BHL",
        threads=None,
        isa=None,
        form=None,
        dense=False,
        single_block=False,
        device="cpu",
    ):
        u_shape = _shape(u_shape, "u_shape")
        k_shape = _shape(k_shape, "k_shape")
        self.layout = layout
        self._axes = rows_axes(len(u_shape), layout, "u_shape")
        self._rows = tuple(1 if a is None else u_shape[a] for a in self._axes)
        batch, channels, length = self._rows
        self._kernel = kernel_axes(k_shape, batch, channels, "k_shape")
        self.u_shape, self.k_shape = u_shape, k_shape
        self.dtype = dtype_name(dtype)
        self._complex = self.dtype in PROMOTED
        self.mode = mode
        self.pattern = as_pattern(pattern)
        self._device = device_number(device)
        self.device = "cpu" if self._device is None else f"cuda:{self._device}"
        if self._device is not None and self.pattern is not None:
            raise _lib.Unsupported(
                f"pattern is {self.pattern!r}; device {self.device} keeps all "
                "frequencies so far: it must be None"
            )

        desc = _lib.PlanDesc(
            size=ctypes.sizeof(_lib.PlanDesc),
            batch=batch,
            channels=channels,
            length=length,
            kernel_length=self._kernel[2],
            kernels=self._kernel[1],
            kernel_batch=self._kernel[0],
            mode=choice(mode, "mode", _lib.MODES),
            dtype=_lib.DTYPES[self.dtype],
            form=choice(form if form is not None else "auto", "form", _lib.FORMS),
            dense=1 if dense else 0,
            threads=thread_count(threads),
            single_block=1 if single_block else 0,
            history=self._history,
        )
        if fft_size is not None:
            if mode != "circular":
                raise ValueError(f"fft_size is {fft_size!r}; with mode={mode!r} it must be None")
            desc.fft_size = size(fft_size, "fft_size")
        check_reverse(k_rev_length, mode, "k_rev_length")
        self._reverse = None
        if k_rev_length is not None:
            self._reverse = size(k_rev_length, "k_rev_length")
            desc.reverse_length = self._reverse
        if radices is not None:
            radices = [size(r, "radices") for r in radices]
            if not radices:
                raise ValueError("radices is empty; name at least one, or pass None")
            if order is not None and order != len(radices):
                raise ValueError(
                    f"order is {order!r}, and radices names {len(radices)}; leave one out"
                )
            desc.radices = _lib.int64s(radices)
            desc.order = len(radices)
        elif order is not None:
            desc.order = min(size(order, "order"), 2**31 - 1)
        if isa is not None:
            if not isinstance(isa, str):
                raise ValueError(f"isa is {isa!r}; it must be a name or None")
            desc.isa = isa.encode()
        # Weights of the rfft bins: the library's work, or where it has no
        # stages for fft_size, k's own before it goes there.
        self._filter = weights = None
        if self.pattern is not None:
            weights = self._weights(desc.fft_size or length)
            if _is_smooth(desc.fft_size or length):
                desc.weights = weights.ctypes.data_as(POINTER(c_double))
            else:
                self._filter = weights
                desc.kernel_length = max(desc.kernel_length, desc.fft_size or length)

        handle = c_void_p()
        info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
        if self._device is None:
            _lib.lib.fftconv_plan_create(byref(handle), byref(desc))
            self._own(handle, _lib.lib.fftconv_plan_destroy)
            _lib.lib.fftconv_plan_get_info(self._handle, byref(info))
        else:
            _lib.lib.fftconv_cuda_plan_create(byref(handle), byref(desc), self._device)
            self._own(handle, _lib.lib.fftconv_cuda_plan_destroy)
            _lib.lib.fftconv_cuda_plan_get_info(self._handle, byref(info))
        self.threads = info.threads
        self.isa = info.isa.decode()
        self.lanes = info.lanes
        self.form = next(n for n, c in _lib.FORMS.items() if c == info.form)
        self.dense = bool(info.dense)
        self.fft_size = info.fft_size
        self.transform_length = info.transform_length
        self.radices = tuple(info.radices[: info.order])
        self.stage_radices = tuple(info.stage_radices[: info.stages])
        self.blocks = info.blocks
        self.block_length = info.block_length
        self.kept = info.kept if self._filter is None else self.pattern.kept(self.fft_size)
        self.computed = info.computed
        self.counters = Counters(
            stage_flops=tuple(info.stage_flops[: info.stages]),
            **{
                name: getattr(info, name)
                for name in Counters.__annotations__
                if name != "stage_flops"
            },
        )
        self._code = _lib.DTYPES[self.dtype]
        self._kernel_dtypes = KERNEL_DTYPES[self.dtype]
        # Axes of 1 in front may be left out.
        self._kernel_shapes = [self._kernel[i:] for i in range(3) if self._kernel[:i] == (1,) * i]
        self._workspace_bytes = (
            self.counters.forward_workspace_bytes,
            self.counters.backward_workspace_bytes,
        )
        # Plans of the same arguments and another pattern, by pattern.
        self._siblings = {}
        self._arguments = dict(
            dtype=dtype,
            mode=mode,
            fft_size=fft_size,
            k_rev_length=k_rev_length,
            radices=radices,
            order=order,
            layout=layout,
            threads=threads,
            isa=isa,
            form=form,
            dense=dense,
            single_block=single_block,
            device=self._device,
        )

    def __repr__(self):
        def dots(numbers):
            return "·".join(map(str, numbers))

        where = f", fft_size={self.fft_size}" if self.mode == "circular" else ""
        if self._reverse is not None:
            where = f", k_rev_length={self._reverse}"
        if self.pattern is not None:
            where += f", {self.pattern!r}"
        kind = "dense" if self.dense else "stages " + dots(self.stage_radices)
        blocks = "" if self.blocks == 1 else f"{self.blocks} blocks of {self.block_length}, "
        return (
            f"Plan(u={self.u_shape}, k={self.k_shape}, {self.dtype}, "
            f"{self.mode}{where}: {blocks}{self.form}, "
            f"M={self.transform_length} "
            f"= {dots(self.radices)}, {kind}, {self.isa}, "
            + (
                f"lanes={self.lanes}, threads={self.threads})"
                if self._device is None
                else f"{self.device})"
            )
        )

    # ---- Calls ----------------------------------------------------------

    def spectrum(self, k, k_rev=None, pattern=None):
        """The `Spectrum` of kernels k, ready for any number of calls.

        k: of the plan's k_shape, axes of 1 in front left out or not; the
        plan's dtype, or float32 beside 16 bits.  k_rev: two-sided only, and
        needed there: k's leading axes and its own length.

        pattern: a `Pattern` or a boolean mask of the rfft bins, where it is
        not the plan's own.  The spectrum is then that of another plan, made
        with the same arguments and this pattern and kept by this one:
        ``spectrum.plan``, which is also what runs ``plan(u, spectrum)``.
        Raises ValueError.
        """
        pattern = as_pattern(pattern)
        plan = self
        if pattern is not None and pattern != self.pattern:
            plan = self._siblings.get(pattern)
            if plan is None:
                plan = self._siblings.setdefault(
                    pattern,
                    type(self)(self.u_shape, self.k_shape, pattern=pattern, **self._arguments),
                )
        return Spectrum(plan, k, k_rev)

    def __call__(
        self,
        u,
        spectrum,
        in_gate=None,
        out_gate=None,
        *,
        k_rev=None,
        skip=None,
        activation=None,
        mask=None,
        out=None,
    ):
        """y = out_gate . mask . act((in_gate . u) * k + skip . in_gate . u).

        u: the plan's shape and dtype.  spectrum: from `spectrum`, or the
        kernels k themselves, k_rev then beside them.  in_gate, out_gate: u's
        shape, or broadcast to it.  skip: (H,); mask: (B, H), real; activation:
        None, "gelu" (by erf) or "silu".  out: where to put y; may be u itself.
        Returns y, of u's shape and kind.  Raises ValueError, before anything
        is written.
        """
        plan = self._that_runs(spectrum) if self._siblings else self
        v = plan._rows_view(u, "u")
        return plan._forward(
            v, plan._axes, spectrum, k_rev, in_gate, out_gate, skip, activation, mask, out
        )

    def backward(
        self,
        dy,
        u,
        spectrum,
        in_gate=None,
        out_gate=None,
        *,
        k_rev=None,
        skip=None,
        activation=None,
        mask=None,
        needs=None,
    ):
        """`Gradients` of sum(dy . y), y the forward result of the same
        arguments, which is computed again.

        needs: which, out of "u", "k", "in_gate", "out_gate", "skip", "k_rev";
        None means all that are there.  dk, dk_rev and dskip are summed over
        what shares them in a fixed order.  Raises ValueError.
        """
        plan = self._that_runs(spectrum) if self._siblings else self
        v = plan._rows_view(u, "u")
        return plan._backward(
            dy, v, plan._axes, spectrum, k_rev, in_gate, out_gate, skip, activation, mask, needs
        )

    # ---- The three primitives -------------------------------------------

    def rows_to_spectra(self, u):
        """The spectra of u's rows, in the order the stages leave them.

        For a plan of one block.  Returns (B, H, reals) float32 (float64 for a
        float64 or complex128 plan), 64-byte aligned; `natural` reads it.
        """
        self._needs_cpu("rows_to_spectra")
        v = self._rows_view(u, "u")
        if v.dtype != self.dtype:
            v = self._converted(v, "u")
        s = self._new_spectra()
        tensor = _lib.Tensor()
        self._pack_rows(tensor, 0, v.pointer, v.strides, self._axes)
        _lib.lib.fftconv_rows_to_spectra(self._handle, _lib.INPUT, byref(tensor), s.ctypes.data, 0)
        return s

    def multiply(self, spectrum, s, out=None):
        """spectrum . s for every frequency; out may be s itself."""
        self._needs_cpu("multiply")
        self._check_spectrum(spectrum)
        self._check_spectra(s, "s")
        if out is None:
            out = self._new_spectra()
        else:
            self._check_spectra(out, "out")
        _lib.lib.fftconv_multiply(self._handle, spectrum._handle, s.ctypes.data, out.ctypes.data, 0)
        return out

    def spectra_to_rows(self, s, overwrite=False):
        """Rows from spectra; rows_to_spectra's inverse times M, the factor
        1/M being carried by a Spectrum.  overwrite: s may be destroyed."""
        self._needs_cpu("spectra_to_rows")
        self._check_spectra(s, "s")
        if not overwrite:
            source, s = s, self._new_spectra()
            s[...] = source
        y, v = empty(self.u_shape, self.dtype, None)
        tensor = _lib.Tensor()
        self._pack_rows(tensor, 0, v.pointer, v.strides, self._axes)
        _lib.lib.fftconv_spectra_to_rows(self._handle, _lib.OUTPUT, s.ctypes.data, byref(tensor), 0)
        return y

    def natural(self, s):
        """Spectra in natural order, a complex copy.

        (B, H, M): entry m is frequency m / M of the row made complex; in the
        right-angle form it is frequency (m - 1/4) / M.  In the folded form
        (B, H, N // 2 + 1): the row's rfft, N = fft_size.
        """
        self._needs_cpu("natural")
        self._check_spectra(s, "s")
        folded = self.form == "folded"
        count = self.fft_size // 2 + 1 if folded else self.transform_length
        offset = aligned_empty((count,), np.int64)
        _lib.lib.fftconv_spectra_offsets(
            self._handle, offset.ctypes.data_as(ctypes.POINTER(c_int64))
        )
        conjugate = offset < 0
        offset[conjugate] = -1 - offset[conjugate]
        bins = s[..., offset] + 1j * s[..., offset + self.lanes]
        return np.where(conjugate, np.conj(bins), bins)

    # ---- Within the package ---------------------------------------------

    def _weights(self, fft_size):
        """The pattern's weights, or ValueError where it cannot be."""
        if self.mode != "circular":
            raise ValueError(
                f"pattern is {self.pattern!r}; with mode={self.mode!r} it must be None"
            )
        if self._complex:
            raise ValueError(
                f"pattern is {self.pattern!r}; with dtype "
                f"{self.dtype} it must be None: a pattern acts on "
                "real rows"
            )
        return self.pattern.weights(fft_size)

    def _filtered(self, x, n):
        """irfft(rfft(x, N) . weights, N), the first n samples: a kernel by its
        pattern, where the library does not do it, and the adjoint."""
        bins = np.fft.rfft(x.astype(np.float64), self.fft_size) * self._filter
        return np.fft.irfft(bins, self.fft_size)[..., :n]

    def _filtered_kernel(self, v):
        """A kernel's View, filtered; in the widest of the plan's types."""
        dtype = numpy_dtype(self._kernel_dtypes[-1])
        return view(self._filtered(v.numpy(), self.fft_size).astype(dtype), "k")

    def _that_runs(self, spectrum):
        """The sibling a spectrum belongs to, else this plan."""
        if isinstance(spectrum, Spectrum):
            sibling = self._siblings.get(spectrum.plan.pattern)
            if sibling is spectrum.plan:
                return sibling
        return self

    def _real_dtype(self):
        return np.dtype("float64" if self.dtype in ("float64", "complex128") else "float32")

    def _new_spectra(self):
        batch, channels, _ = self._rows
        row = self.counters.spectra_row_bytes
        data, _ = aligned_bytes(batch * channels * row)
        return data.view(self._real_dtype()).reshape(batch, channels, -1)

    def _check_spectra(self, s, name):
        row = self.counters.spectra_row_bytes // self._real_dtype().itemsize
        shape = self._rows[:2] + (row,)
        if (
            not isinstance(s, np.ndarray)
            or s.shape != shape
            or s.dtype != self._real_dtype()
            or not s.flags.c_contiguous
            or s.ctypes.data % 64
        ):
            raise ValueError(
                f"{name} must be spectra of this plan, from rows_to_spectra: "
                f"{shape} {self._real_dtype()}, C-contiguous, aligned to 64 "
                f"bytes; got {type(s).__name__} "
                f"{getattr(s, 'shape', '')} {getattr(s, 'dtype', '')}"
            )

    def _needs_cpu(self, what):
        if self._device is not None:
            raise _lib.Unsupported(
                f"{what} is not on {self.device} so far; make the plan with device='cpu'"
            )

    def _view(self, x, name, listed):
        """View of an array that is where the plan is."""
        v = view(x, name, listed, True)
        if v.device != self._device:
            self._elsewhere(v, name)
        return v

    def _elsewhere(self, v, name):
        there = "the CPU" if v.device is None else f"cuda:{v.device}"
        here = "the CPU" if self._device is None else self.device
        raise ValueError(f"{name} is on {there}; it must be on {here}, as u")

    def _check_spectrum(self, spectrum):
        """It is one, of kernels and a pattern such as this plan's."""
        if not isinstance(spectrum, Spectrum):
            raise ValueError(
                f"spectrum is a {type(spectrum).__name__}; it "
                "must be a Spectrum, from Plan.spectrum"
            )
        made = spectrum.plan
        if made._device != self._device:
            raise ValueError(
                f"spectrum is {spectrum!r} on {made.device}; it "
                f"must be on {self.device}, as this plan"
            )
        if made is not self and (
            made._kernel != self._kernel
            or made._reverse != self._reverse
            or spectrum.k.dtype not in self._kernel_dtypes
        ):
            reverse = "" if self._reverse is None else f" and k_rev of length {self._reverse}"
            raise ValueError(
                f"spectrum is {spectrum!r}; this plan is for k="
                f"{self.k_shape}{reverse}, "
                f"{' or '.join(self._kernel_dtypes)}"
            )
        if made.pattern != self.pattern:
            raise ValueError(f"spectrum is {spectrum!r}; this plan's pattern is {self.pattern!r}")

    def _rows_view(self, x, name):
        v = self._view(x, name, self.dtype)
        if v.shape != self.u_shape:
            raise ValueError(f"{name} has shape {v.shape}; this plan is for {self.u_shape}")
        if v.dtype != self.dtype and not self._complex:
            raise ValueError(f"{name} has dtype {v.dtype}; this plan is for {self.dtype}")
        return v

    def _converted(self, v, name, allowed=()):
        """v in a complex plan's dtype; ValueError where the plan is real."""
        if not self._complex:
            check_dtype(v, name, allowed or (self.dtype,), self.dtype)
        return promoted(v, name, self.dtype)

    def _pack_rows(self, struct_, offset, pointer, strides, axes):
        """A tensor of this plan's rows; strides in the caller's axes."""
        if axes != (0, 1, 2):
            strides = [1 if a is None else strides[a] for a in axes]
        _pack_tensor(struct_, offset, pointer, self._code, 0, *self._rows, *strides)

    def _kernels(self, k, k_rev):
        """Views of k, and of k_rev where the plan is two-sided, checked."""
        v = self._view(k, "k", self._kernel_dtypes[-1])
        if v.shape not in self._kernel_shapes:
            length = kernel_axes(v.shape, *self._rows[:2])[2]
            if length != self._kernel[2]:
                raise ValueError(f"k has length {length}; this plan is for {self._kernel[2]}")
            raise ValueError(f"k has shape {tuple(v.shape)}; this plan is for {self.k_shape}")
        views = {"k": v}
        if k_rev is not None or self._reverse is not None:
            check_reverse(k_rev, self.mode)
            views["k_rev"] = v = self._view(k_rev, "k_rev", self._kernel_dtypes[-1])
            length = reverse_axes(v.shape, self._kernel)
            if length != self._reverse:
                raise ValueError(f"k_rev has length {length}; this plan is for {self._reverse}")
        for name, v in views.items():
            if v.dtype not in self._kernel_dtypes:
                views[name] = self._converted(v, name, self._kernel_dtypes)
        return views

    def _pack_gate(self, ops, name, gate, v, axes):
        g = self._view(gate, name, self.dtype)
        if g.dtype != self.dtype:
            g = self._converted(g, name)
        strides = g.strides if g.shape == v.shape else broadcast_strides(g, name, v.shape)
        self._pack_rows(ops, _OFFSET[name], g.pointer, strides, axes)
        return g

    def _pack_channels(self, ops, name, x, batch):
        """skip (H,) as (1, H, 1), or mask (B, H) as (B, H, 1)."""
        v = self._view(x, name, self._kernel_dtypes[-1])
        if self._complex and name == "mask" and v.dtype in PROMOTED:
            raise ValueError(f"mask has dtype {v.dtype}; it must be real")
        if v.dtype not in self._kernel_dtypes:
            v = self._converted(v, name, self._kernel_dtypes)
        channels = self._rows[1]
        shape = (channels,) if name == "skip" else (batch, channels)
        strides = broadcast_strides(v, name, shape)
        _pack_tensor(
            ops,
            _OFFSET[name],
            v.pointer,
            _lib.DTYPES[v.dtype],
            0,
            batch,
            channels,
            1,
            *((0,) + strides)[-2:],
            1,
        )
        return v

    def _operands(self, v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask):
        """The inputs: (Operands, the spectrum's handle, name: View).

        The views keep copies alive; the caller holds them during the call.
        """
        ops = _lib.Operands()
        ops.size = _OPERANDS_BYTES
        if activation is not None:
            ops.activation = choice(activation, "activation", _lib.ACTIVATIONS)
        if v.dtype != self.dtype:
            v = self._converted(v, "u")
        self._pack_rows(ops, _OFFSET["u"], v.pointer, v.strides, axes)
        handle = None
        if isinstance(kernel, Spectrum):
            if kernel.plan is not self:
                self._check_spectrum(kernel)
            if k_rev is not None:
                raise ValueError("k_rev is given; a Spectrum has its own: it must be None")
            handle = kernel._handle
            views = {"u": v}
        else:
            views = self._kernels(kernel, k_rev)
            for name, k in views.items():
                if self._filter is not None:
                    ops.filtered = k = self._filtered_kernel(k)
                _pack(ops, _OFFSET[name], k)
            views["u"] = v
        if in_gate is not None:
            views["in_gate"] = self._pack_gate(ops, "in_gate", in_gate, v, axes)
        if out_gate is not None:
            views["out_gate"] = self._pack_gate(ops, "out_gate", out_gate, v, axes)
        if skip is not None:
            views["skip"] = self._pack_channels(ops, "skip", skip, 1)
        if mask is not None:
            views["mask"] = self._pack_channels(ops, "mask", mask, self._rows[0])
        return ops, handle, views

    def _execute(self, execute, direction, handle, ops, plain=False):
        """plain: rows are contiguous, and no output is an input."""
        if plain:
            need = self._workspace_bytes[direction]
        else:
            bytes_ = c_int64()
            _lib_workspace(self._handle, handle, ops, direction, bytes_)
            need = bytes_.value
        ops.workspace = _workspace.at_least(need)
        ops.workspace_bytes = need
        execute(self._handle, handle, ops)

    def _launch(self, direction, handle, ops, views):
        """On u's device.  views: all arrays, u's first, on whose stream it is put,
        behind what the streams of the others hold."""
        stream = cuda.stream_of(views[0])
        need = self._workspace_bytes[direction]
        if handle is not None and direction == _lib.FORWARD and self.isa != "cufft":
            need = 0  # all of it was for k's spectrum
        workspace, ops.workspace = cuda.workspace(need, views[0])
        ops.workspace_bytes = need if workspace is not None else 0
        cuda.before(views, stream)
        (_lib.lib.fftconv_cuda_backward if direction else _lib.lib.fftconv_cuda_forward)(
            self._handle, handle, ops, stream
        )
        cuda.after(views, stream)

    def _empty(self, shape, dtype, like):
        if self._device is None:
            return empty(shape, dtype, like.kind)
        return cuda.empty(shape, dtype, like)

    def _forward(self, v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask, out):
        ops, handle, views = self._operands(
            v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask
        )
        on_cpu = self._device is None
        if out is None:
            result, y = (
                empty(v.shape, self.dtype, v.kind) if on_cpu else cuda.empty(v.shape, self.dtype, v)
            )
        else:
            result, y = out, output_view(out, "out", v.shape, self.dtype, True)
            if y.device != self._device:
                self._elsewhere(y, "out")
        self._pack_rows(ops, _OFFSET["y"], y.pointer, y.strides, axes)
        if on_cpu:
            plain = (
                axes == (0, 1, 2)
                and v.strides[-1] == y.strides[-1] == 1
                and in_gate is out_gate is None
                and (out is None or self.blocks == 1)
            )
            self._execute(_lib_forward, _lib.FORWARD, handle, ops, plain)
            return result if out is not None else finish(result, v.kind)
        self._launch(_lib.FORWARD, handle, ops, [v, *views.values(), y])
        return result if out is not None else cuda.finish(result, v.kind, cuda.stream_of(v))

    def _backward(
        self, dy, v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask, needs
    ):
        ops, handle, views = self._operands(
            v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask
        )
        if handle is not None:  # shape, dtype and kind; not the taps
            views["k"] = kernel.k
            if kernel.k_rev is not None:
                views["k_rev"] = kernel.k_rev
        d = self._view(dy, "dy", self.dtype)
        if d.shape != v.shape:
            raise ValueError(f"dy has shape {d.shape}; it must be {v.shape}, as u")
        if d.dtype != self.dtype:
            d = self._converted(d, "dy")
        self._pack_rows(ops, _OFFSET["dy"], d.pointer, d.strides, axes)

        results, arrays = {}, [views["u"], d, *views.values()]
        for name in _needs(needs, views):
            # Of the full shape; summed to a repeated operand's afterwards.
            of = views[name]
            field = _OFFSET["d" + name]
            if name in ("k", "k_rev"):
                results[name], g = self._empty(of.shape, of.dtype, of)
                if self._filter is not None:
                    filtered, g = empty(
                        of.shape[:-1] + (self.fft_size,), self._kernel_dtypes[-1], None
                    )
                _pack(ops, field, g)
            elif name == "skip":
                shape = (self._rows[1],)
                results[name], g = self._empty(shape, of.dtype, of)
                _pack_tensor(
                    ops, field, g.pointer, _lib.DTYPES[g.dtype], 0, 1, shape[0], 1, 0, *g.strides, 1
                )
            else:
                if self._device is not None:
                    cuda.check_summed(of, name, v.shape)
                results[name], g = self._empty(v.shape, of.dtype, of)
                self._pack_rows(ops, field, g.pointer, g.strides, axes)
            arrays.append(g)
        if results and self._device is not None:
            self._launch(_lib.BACKWARD, handle, ops, [a for a in arrays if a.pointer is not None])
        elif results:
            self._execute(_lib_backward, _lib.BACKWARD, handle, ops)
        if self._filter is not None and "k" in results:
            dk = results["k"]
            view(dk, "dk").numpy()[...] = self._filtered(filtered, dk.shape[-1])
        if self._device is not None:
            for name, x in results.items():
                of = views[name]
                x = results[name] = cuda.finish(x, of.kind, cuda.stream_of(v))
                if name in ("in_gate", "out_gate") and of.shape != v.shape:
                    results[name] = reduce_to(x, of.shape)
            return Gradients(**{"d" + name: x for name, x in results.items()})
        return Gradients(
            **{
                "d" + name: finish(
                    demoted(reduce_to(x, views[name].shape), views[name]), views[name].kind
                )
                for name, x in results.items()
            }
        )


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
            f"allowed here: {', '.join(map(repr, there))}"
        )
    return [name for name in there if name in needs]


def _shape(shape, name):
    try:
        return tuple(size(n, name) for n in shape)
    except TypeError:
        raise ValueError(f"{name} is {shape!r}; it must be a tuple of sizes") from None


def device_number(device):
    """None of the CPU, else the number of a CUDA device, or ValueError."""
    name = str(device)
    if name == "cpu" or device is None:
        return None
    digits = "0" if name == "cuda" else name.removeprefix("cuda:")
    if not digits.isdecimal() or int(digits) > 2**31 - 1:
        raise ValueError(
            f"device is {device!r}; allowed: 'cpu', 'cuda' and 'cuda:0', 'cuda:1', ..."
        )
    return int(digits)


def thread_count(threads):
    """0, "all", for None; else a whole number from 1."""
    if threads is None:
        return 0
    threads = size(threads, "threads")
    if threads > 2**31 - 1:
        raise ValueError(f"threads is {threads}; it is far too large")
    return threads
