"""`Plan` and `Spectrum`: a convolution of given shapes, prepared once and called often."""

import ctypes
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from . import _lib, _notebook
from ._array import (
    AXES,
    COMPLEX,
    KERNEL_DTYPES,
    WIDE,
    aligned_bytes,
    aligned_empty,
    broadcast_strides,
    choice,
    converted,
    demoted,
    dtype_name,
    empty,
    finish,
    numpy_dtype,
    output_view,
    real,
    size,
    view,
)
from ._backends import backend_of, check_place, device_number
from ._gradients import Gradients
from ._handles import Handle, pack, pack_tensor, tensor_offsets, thread_count
from ._view import View
from .pattern import as_pattern

_OPERANDS_BYTES = ctypes.sizeof(_lib.Operands)
_OFFSET = tensor_offsets(_lib.Operands)

NEEDS = ("u", "k", "in_gate", "out_gate", "skip", "k_rev")

# With at most so many taps, k_rev's included, `conv` and `Stream` sum real rows directly.  Sums
# over 8 taps take 0.3 to 0.6 of the time by transforms, and their gradients 0.4 to 0.9 (AVX2 and
# AVX-512, one thread, rows of 64 to 1M samples).  With 16 taps the gradients of long rows take
# up to 1.25 with AVX-512.
DIRECT_TAPS = 8


@dataclass(frozen=True)
class Counters:
    """What one forward call of a plan costs.

    The numbers are counted, not measured.  They cover all rows, and leave out the
    transform of the kernel.

    Example:
        >>> c = Plan((1, 1, 1024), (1, 1024), threads=1).counters
        >>> c.io_bytes, c.flops == sum(c.stage_flops) + c.product_flops
        (8192.0, True)
    """

    stage_flops: tuple  #: real flops of each stage, forward and inverse transform together
    product_flops: float  #: real flops of the product with the kernel's spectrum
    fold_flops: float  #: form "folded": real flops of the sums and differences, both transforms
    io_bytes: float  #: bytes of the caller's arrays: u read and y written
    l1_bytes: float  #: bytes moved by stages whose data fit in the L1 cache
    l2_bytes: float  #: bytes moved by stages whose data fit in the L2 cache
    memory_bytes: float  #: bytes moved by stages whose data exceed the L2 cache
    spectrum_bytes: int  #: bytes of a `Spectrum`, all channels together
    spectra_row_bytes: int  #: bytes of one row of the result of `Plan.rows_to_spectra`
    forward_workspace_bytes: int  #: for contiguous rows, y not written over u
    backward_workspace_bytes: int  #: for contiguous rows
    predicted_seconds: float  #: the planner's estimate of the time on one thread

    @property
    def flops(self):
        """The real flops of a forward call, all stages, products and folds together."""
        return sum(self.stage_flops) + self.product_flops + self.fold_flops

    def _repr_html_(self):
        return _notebook.counters(self)


def rows_axes(ndim, layout, name="u"):
    """The positions of B, H and L among the array's axes, as in AXES, or ValueError."""
    axes = choice(layout, "layout", AXES).get(ndim)
    if axes is None:
        raise ValueError(
            f"{name} has {ndim} axes; allowed: 3 (B, H, L), "
            "2 (H, L) and 1 (L,), in the order of the layout"
        )
    return axes


def fitting_axes(shape, batch, channels):
    """(1 or B, G, Lk) of a kernel's shape, or None if the shape is not one of a kernel."""
    if len(shape) == 2 and shape[0] == channels and shape[1] > 0:
        return (1, *shape)  # The most frequent case, checked first to save time.
    axes = (1,) * (3 - len(shape)) + tuple(shape)
    if (
        not 1 <= len(shape) <= 3
        or axes[0] not in (1, batch)
        or axes[1] < 1
        or channels % axes[1]
        or axes[2] < 1
    ):
        return None
    return axes


def kernel_axes(shape, batch, channels, name="k"):
    """(1 or B, G, Lk) of a kernel's shape, or ValueError."""
    axes = fitting_axes(shape, batch, channels)
    if axes is None:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; it must be (Lk,), (G, Lk), "
            f"(1, G, Lk) or (B, G, Lk) with B = {batch} and H = {channels}, "
            "as u, G a divisor of H, and Lk at least 1"
        )
    return axes


def reverse_axes(shape, kernel, name="k_rev"):
    """The length of k_rev.  Raises ValueError if its leading axes are not those of k."""
    axes = (1,) * (3 - len(shape)) + tuple(shape)
    if not 1 <= len(shape) <= 3 or axes[:2] != kernel[:2] or axes[2] < 1:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; it must be k's, "
            f"{kernel}, but for the length, at least 1"
        )
    return axes[2]


def check_reverse(k_rev, mode, name="k_rev"):
    """Raise ValueError unless k_rev is given if and only if the mode is two-sided.

    k_rev: the kernel or its length.
    """
    if (k_rev is None) == (mode == "two_sided"):
        what = "None" if k_rev is None else "given"
        must = "be given" if k_rev is None else "be None"
        raise ValueError(f"{name} is {what}; with mode={mode!r} it must {must}")


class Spectrum(Handle):
    """The transform of a kernel, ready to be used by a plan; made by `Plan.spectrum`.

    A spectrum is immutable and may be used by several threads at once.  It keeps its
    plan alive.  On the CPU it also keeps a copy of its kernels, by which it is pickled
    together with its plan; one on a CUDA device cannot be pickled.

    plan: the `Plan` it was made by; plans that differ from it only in the batch accept
        the spectrum, too.
    nbytes: the bytes of memory that the transform takes.
    k_shape, k_rev_shape: the shapes of the kernels as they were given; k_rev_shape is
        None if there is no k_rev.

    Example:
        >>> plan = Plan((1, 1, 3), (1, 2))
        >>> spectrum = plan.spectrum(np.ones((1, 2), "float32"))
        >>> plan(np.array([[[1, 2, 3]]], "float32"), spectrum).round(5).tolist()
        [[[1.0, 3.0, 5.0]]]
    """

    __slots__ = ("plan", "nbytes", "_k", "_k_rev", "_taps", "_handle", "__weakref__")

    def __init__(self, plan, k, k_rev, keep=True):
        """keep: whether to keep the kernels, without which it cannot be pickled."""
        views = plan._kernels(k, k_rev)
        self._k, self._k_rev = k, k_rev = views["k"], views.get("k_rev")
        self._own(*plan._backend.create_spectrum(plan, (k, k_rev)))
        self.plan = plan
        self.nbytes = plan.counters.spectrum_bytes
        kernels = self._k, self._k_rev
        self._taps = None
        if keep and plan._backend.number is None:
            self._taps = [v and demoted(v.numpy().copy(), v) for v in kernels]
        # The caller may change the arrays that were given; of these, gradients need only
        # the shapes, the dtypes and the kind.
        self._k, self._k_rev = (v and v.without_memory() for v in kernels)

    def __reduce__(self):
        if self._taps is None:
            return super().__reduce__()  # which refuses
        kinds = [v and v.kind for v in (self._k, self._k_rev)]
        return self.plan.spectrum, tuple(map(finish, self._taps, kinds))

    @property
    def k_shape(self):
        return self._k.shape

    @property
    def k_rev_shape(self):
        return self._k_rev and self._k_rev.shape

    def __repr__(self):
        more = "" if self._k_rev is None else f"k_rev={self._k_rev.shape}, "
        if self.plan.pattern is not None:
            more += f"{self.plan.pattern!r}, "
        return f"Spectrum(k={self._k.shape}, {more}{self._k.dtype}, {self.nbytes} bytes)"


class Plan(Handle):
    """A convolution of given shapes.

    A plan is immutable and may be used by several threads at once.  It is pickled by its
    arguments; what these leave open is chosen anew where it is read.

    u_shape: (B, H, L), (H, L) or (L,); in layout "BLH" (B, L, H), (L, H) or (L,).
    k_shape: (Lk,), (G, Lk), (1, G, Lk) or (B, G, Lk), G a divisor of H, in both
        layouts.  Channel h uses kernel h // (H // G).
    dtype: the dtype of u, the gates and y: "float64", "float32", "float16",
        "bfloat16", "complex128" or "complex64", or what np.dtype takes for these, such as
        "f8" or np.float64, or a torch dtype.
        k, skip and mask have this dtype, too, or float32 in a 16-bit plan.  An operand
        of another dtype is converted if that loses nothing, and refused if it does;
        integers count as float64.
    mode: "causal", the linear convolution cut to L samples; "circular", modulo
        fft_size; "two_sided", the causal one plus sum_{s>=0} k_rev[s] z[t+s].
    fft_size: circular mode only: N, at least L and Lk; None means L.
    k_rev_length: the length of k_rev, required in two-sided mode and not allowed in
        the others.
    pattern: circular mode and real dtypes only: a `Pattern`, or a boolean mask of the
        fft_size // 2 + 1 rfft bins; None keeps all bins.
    radices: N_1 (outermost) ... N_p of the Monarch transform, each 1 ... 128; None
        means the cheapest.  Radices whose product is too small for a whole row make
        the plan work in blocks.
    order: p, the number of radices, without naming them.
    threads: the number of threads of every call; None means all processors.  Results
        do not depend on it.
    isa: on the CPU, one of `fftconv.isas()`; None means the best that this machine has.
    form: how a real row is made complex: "right_angle", "folded", "complex"; or
        "direct": no transform, but each output as a sum over the taps, so that a NaN or
        an infinity reaches only the sums that it is a term of.  That is for few taps on
        the CPU, and leaves out pattern, radices, order, dense, single_block and the three
        primitives.  None leaves the choice among the first three to the plan.
    dense: true runs every stage as a dense complex matrix product, not as a codelet.
    single_block: true puts each row through one transform, which the three primitives
        need.  False lets a short kernel work in blocks (overlap-save) if that is
        cheaper.
    device: "cpu", "cuda" (which is "cuda:0"), "cuda:1", ...: where all arrays are.  On
        a GPU the library chooses the radices, and radices, order, dense, pattern and
        isa must be left out; form may be None or "right_angle"; the three primitives
        are not available.
    engine: what computes on a GPU.  "fused" takes one kernel launch for rows of up to
        16,384 samples in float32 or 32,768 in 16 bits, and twice as many in circular
        mode if fft_size is a power of 2.  "cufft" pads the rows, and takes any length
        and any real dtype.  None means the first of the two that can hold the rows.

    Attributes that tell what was chosen: ``form``; ``radices`` and ``stage_radices``,
    the stages that these run as; ``lanes``; ``threads``; ``isa`` (None on a GPU);
    ``engine`` (None on the CPU); ``fft_size``, the N of the circular mode (else None);
    ``transform_length``, M; ``padded_length``, the samples that one transform holds:
    2 M in the right-angle form, N in the folded form, M for complex dtypes, and in the
    direct form, where M is 0, those that a block reads;
    ``blocks`` of ``block_length`` outputs for each row; ``kept``, the fraction of the N
    bins whose weight is not 0; ``computed``, the fraction of the transforms' points
    that are computed in spite of the pattern; ``counters``, a `Counters`.

    Raises ValueError for a wrong argument; `Unsupported` for an instruction set or
    device that this machine lacks, or for what the device cannot do; MemoryError.

    Example:
        >>> plan = Plan((2, 3, 100), (3, 40), threads=1)
        >>> u, k = np.ones((2, 3, 100), "float32"), np.ones((3, 40), "float32")
        >>> y = plan(u, plan.spectrum(k))
        >>> y.shape
        (2, 3, 100)
    """

    _history = 0  # PlanDesc.history; 1 in the plans of `Stream`

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
        engine=None,
    ):
        self._arguments = {name: x for name, x in locals().items() if name != "self"}
        u_shape = _shape(u_shape, "u_shape")
        k_shape = _shape(k_shape, "k_shape")
        self.layout = layout
        self._axes = rows_axes(len(u_shape), layout, "u_shape")
        self._rows = tuple(1 if a is None else u_shape[a] for a in self._axes)
        batch, channels, length = self._rows
        self._kernel = kernel_axes(k_shape, batch, channels, "k_shape")
        self.u_shape, self.k_shape = u_shape, k_shape
        self.dtype = dtype_name(dtype)
        self.mode = mode
        self.pattern = as_pattern(pattern)
        self._backend = backend_of(device_number(device))
        self.device = self._backend.device
        if self._backend.number is not None and self.pattern is not None:
            raise _lib.Unsupported(
                f"pattern is {self.pattern!r}; device {self.device} keeps all "
                "frequencies so far: it must be None"
            )

        desc = _lib.PlanDesc(
            size=ctypes.sizeof(_lib.PlanDesc),
            batch=batch,
            channels=channels,
            length=length,
            k_length=self._kernel[2],
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
            desc.k_rev_length = self._reverse
        radices = _fill_radices(desc, radices, order)
        self._arguments.update(
            u_shape=u_shape, k_shape=k_shape, pattern=self.pattern, radices=radices
        )
        self._backend.describe(desc, isa, engine)
        if self.pattern is not None:
            weights = self._weights(desc.fft_size or length)
            desc.weights = weights.ctypes.data_as(POINTER(c_double))
        handle = c_void_p()
        _lib.lib.fftconv_plan_create(byref(handle), byref(desc))
        self._own(handle, _lib.lib.fftconv_plan_destroy)
        self._read_info()
        self._code = _lib.DTYPES[self.dtype]
        self._kernel_dtypes = KERNEL_DTYPES[self.dtype]
        # A kernel may be given without its leading axes of length 1.
        self._kernel_shapes = [self._kernel[i:] for i in range(3) if self._kernel[:i] == (1,) * i]

    def _read_info(self):
        """Set the attributes that tell what the library has chosen."""
        info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
        _lib.lib.fftconv_plan_get_info(self._handle, byref(info))
        self.isa = info.isa and info.isa.decode()
        self.engine = info.engine and info.engine.decode()
        self.threads = info.threads
        self.lanes = info.lanes
        self.form = next(n for n, c in _lib.FORMS.items() if c == info.form)
        self.dense = bool(info.dense)
        self.fft_size = info.fft_size or None
        self.padded_length = info.padded_length
        self.transform_length = info.transform_length
        self.radices = tuple(info.radices[: info.order])
        self.stage_radices = tuple(info.stage_radices[: info.stages])
        self.blocks = info.blocks
        self.block_length = info.block_length
        self.kept = info.kept
        self.computed = info.computed
        self.counters = Counters(
            stage_flops=tuple(info.stage_flops[: info.stages]),
            **{
                name: getattr(info, name)
                for name in Counters.__annotations__
                if name != "stage_flops"
            },
        )
        self._workspace_bytes = (
            self.counters.forward_workspace_bytes,
            self.counters.backward_workspace_bytes,
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
        how = f"M={self.transform_length} = {dots(self.radices)}, {kind}, "
        blocks = "" if self.blocks == 1 else f"{self.blocks} blocks of {self.block_length}, "
        return (
            f"Plan(u={self.u_shape}, k={self.k_shape}, {self.dtype}, "
            f"{self.mode}{where}: {blocks}{self.form}, "
            + ("" if self.form == "direct" else how)
            + (
                f"{self.isa}, lanes={self.lanes}, threads={self.threads})"
                if self.engine is None
                else f"{self.engine}, {self.device})"
            )
        )

    def _repr_html_(self):
        return _notebook.plan(self)

    def __reduce__(self):
        return partial(type(self), **self._arguments), ()

    # ---- Calls ----------------------------------------------------------

    def replace(self, **changes):
        """A new plan with the arguments of this one, except those given here.

        Raises what `Plan` raises.

        Example:
            >>> plan = Plan((1, 1, 60), (1, 60), mode="circular", threads=1)
            >>> plan.replace(fft_size=64).fft_size
            64
        """
        return type(self)(**{**self._arguments, **changes})

    def spectrum(self, k, k_rev=None):
        """The `Spectrum` of kernels k, for any number of calls.

        k: of the plan's k_shape, with or without leading axes of length 1; of the
            plan's dtype, or float32 in a 16-bit plan.
        k_rev: required in two-sided mode and not allowed in the others: the leading
            axes of k, and the plan's k_rev_length.

        The spectrum includes this plan's pattern; `replace` makes a plan with another.

        Raises TypeError for an operand that is not an array of numbers, ValueError.
        """
        return Spectrum(self, k, k_rev)

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

        u: of the plan's shape and dtype.
        spectrum: a `Spectrum` from `spectrum`, or the kernels k themselves; only in the
            latter case, and in two-sided mode, k_rev is given as well.
        in_gate, out_gate: of u's shape, or of one that broadcasts to it.
        skip: (H,).  mask: (B, H), real or boolean.
        activation: None, "gelu" (by erf) or "silu".
        out: the array to write y to; it may be u itself.

        Returns y, of u's shape and array library, in the plan's dtype.  Raises TypeError
        for an operand that is not an array of numbers and ValueError for a wrong value,
        both before anything is written.
        """
        return self._forward(
            self._rows_view(u, "u"),
            self._axes,
            spectrum,
            k_rev,
            in_gate,
            out_gate,
            skip,
            activation,
            mask,
            out,
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
        """`Gradients` of sum(dy . y), where y is the result of calling the plan.

        dy: of u's shape.  The other operands are those of the call, whose intermediate
            results are computed again.
        needs: the operands whose gradients are wanted, out of "u", "k", "in_gate",
            "out_gate", "skip" and "k_rev"; None means all that are given.

        Each gradient has its operand's shape and dtype.  dk, dk_rev and dskip are summed
        in a fixed order over the rows that share the operand.  Raises TypeError for an
        operand that is not an array of numbers, ValueError.
        """
        return self._backward(
            dy,
            self._rows_view(u, "u"),
            self._axes,
            spectrum,
            k_rev,
            in_gate,
            out_gate,
            skip,
            activation,
            mask,
            needs,
        )

    def prepare(
        self,
        u,
        spectrum,
        in_gate=None,
        out_gate=None,
        *,
        dy=None,
        k_rev=None,
        skip=None,
        activation=None,
        mask=None,
        out=None,
        needs=None,
    ):
        """Make a call and prepare its repetition: returns (result, run).

        result: y; or, if dy is given, the `Gradients`.  The arguments are those of
            calling the plan, or of `backward`; out belongs to the former alone, needs
            to the latter alone.
        run: a function without arguments.  It computes the same result arrays again,
            from the present contents of the operands, by one call of the C library and
            without any checks.

        An operand that had to be copied, because of its dtype or byte order, keeps the
        contents it has now.  An operand whose gradient is wanted must be of full shape,
        not broadcast, and need no conversion.

        ``run`` keeps the arrays alive and has one workspace, so it must not run in two
        threads at once.  Raises TypeError for an operand that is not an array of
        numbers, ValueError.

        Example:
            >>> u, k = np.zeros((1, 1, 4), "float32"), np.ones((1, 4), "float32")
            >>> plan = Plan(u.shape, k.shape, threads=1)
            >>> y, run = plan.prepare(u, plan.spectrum(k))
            >>> u[0, 0, 0] = 1
            >>> run()
            >>> y.round(3).tolist()
            [[[1.0, 1.0, 1.0, 1.0]]]
        """
        v, repeat = self._rows_view(u, "u"), []
        operands = (v, self._axes, spectrum, k_rev, in_gate, out_gate, skip, activation, mask)
        if dy is None:
            if needs is not None:
                raise ValueError(f"needs is {needs!r}, and dy is None; needs must be None")
            result = self._forward(*operands, out, repeat)
        else:
            if out is not None:
                raise ValueError("out is given beside dy; it must be None")
            result = self._backward(dy, *operands, needs, repeat)
        return result, repeat[0] if repeat else lambda: None  # no gradient was wanted

    # ---- The three primitives -------------------------------------------

    @property
    def spectra_dtype(self):
        """The NumPy dtype of the real numbers that spectra consist of.

        It is float64 for a float64 or complex128 plan, else float32.
        """
        return numpy_dtype(WIDE[self.dtype])

    def rows_to_spectra(self, u):
        """The spectra of u's rows, in stage order: the order in which the stages leave them.

        The plan must have one block.  Returns an array (B, H, reals) of `spectra_dtype`,
        aligned to 64 bytes, which `natural` converts to natural order.  Raises TypeError
        for an operand that is not an array of numbers, ValueError, `Unsupported` on a
        GPU.
        """
        self._needs_cpu("rows_to_spectra")
        v = self._rows_view(u, "u")
        s = self._new_spectra()
        self._rows_and_spectra(_lib.lib.fftconv_rows_to_spectra, _lib.INPUT, v, s)
        return s

    def multiply(self, spectrum, s, out=None):
        """The product of spectrum and s at every frequency.

        s: from `rows_to_spectra`.  out: the array to write to, which may be s itself;
        None makes a new one.  Raises ValueError, `Unsupported` on a GPU.
        """
        self._needs_cpu("multiply")
        self._check_spectrum(spectrum)
        self._check_spectra(s, "s")
        if out is None:
            out = self._new_spectra()
        else:
            self._check_spectra(out, "out")
        desc = _lib.SpectraDesc(
            size=ctypes.sizeof(_lib.SpectraDesc), in_=s.ctypes.data, spectra=out.ctypes.data
        )
        _lib.lib.fftconv_multiply(self._handle, spectrum._handle, byref(desc))
        return out

    def spectra_to_rows(self, s, overwrite=False):
        """The rows (B, H, L) whose spectra are s.

        This is M times the inverse of `rows_to_spectra`: the factor 1/M of the inverse
        DFT is part of a `Spectrum`.  overwrite: s may be used as scratch memory.  Raises
        ValueError, `Unsupported` on a GPU.
        """
        self._needs_cpu("spectra_to_rows")
        self._check_spectra(s, "s")
        if not overwrite:
            source, s = s, self._new_spectra()
            s[...] = source
        y, v = empty(self.u_shape, self.dtype, None)
        self._rows_and_spectra(_lib.lib.fftconv_spectra_to_rows, _lib.OUTPUT, v, s)
        return y

    def natural(self, s):
        """A complex copy of spectra s in natural order.

        In the complex form it is (B, H, M), and entry m is frequency m / M.  In the
        right-angle form it is (B, H, M), and entry m is frequency (m - 1/4) / M of the
        row made complex.  In the folded form it is (B, H, N // 2 + 1), the rfft of the
        row, N = fft_size.  Raises ValueError, `Unsupported` on a GPU.
        """
        self._needs_cpu("natural")
        self._check_spectra(s, "s")
        folded = self.form == "folded"
        count = self.fft_size // 2 + 1 if folded else self.transform_length
        offset = aligned_empty((count,), np.int64)
        _lib.lib.fftconv_spectra_offsets(self._handle, offset.ctypes.data_as(POINTER(c_int64)))
        conjugate = offset < 0
        offset[conjugate] = -1 - offset[conjugate]
        bins = s[..., offset] + 1j * s[..., offset + self.lanes]
        return np.where(conjugate, np.conj(bins), bins)

    def _new_spectra(self):
        batch, channels, _ = self._rows
        row = self.counters.spectra_row_bytes
        data, _ = aligned_bytes(batch * channels * row)
        return data.view(self.spectra_dtype).reshape(batch, channels, -1)

    def _check_spectra(self, s, name):
        dtype = self.spectra_dtype
        shape = self._rows[:2] + (self.counters.spectra_row_bytes // dtype.itemsize,)
        if (
            not isinstance(s, np.ndarray)
            or s.shape != shape
            or s.dtype != dtype
            or not s.flags.c_contiguous
            or s.ctypes.data % 64
        ):
            raise ValueError(
                f"{name} must be spectra of this plan, from rows_to_spectra: "
                f"{shape} {dtype}, C-contiguous, aligned to 64 "
                f"bytes; got {type(s).__name__} "
                f"{getattr(s, 'shape', '')} {getattr(s, 'dtype', '')}"
            )

    def _needs_cpu(self, what):
        if self._backend.number is not None:
            raise _lib.Unsupported(
                f"{what} is not on {self.device} so far; make the plan with device='cpu'"
            )

    # ---- Checking and packing operands -----------------------------------

    def _weights(self, fft_size):
        """The pattern's weights of the rfft bins; ValueError if the plan cannot have one."""
        if self.mode != "circular":
            raise ValueError(
                f"pattern is {self.pattern!r}; with mode={self.mode!r} it must be None"
            )
        if self.dtype in COMPLEX:
            raise ValueError(
                f"pattern is {self.pattern!r}; with dtype "
                f"{self.dtype} it must be None: a pattern acts on "
                "real rows"
            )
        return self.pattern.weights(fft_size)

    def _rows_and_spectra(self, call, side, v, s):
        """Call fftconv_rows_to_spectra or its inverse with rows v, a View, and spectra s."""
        desc = _lib.SpectraDesc(
            size=ctypes.sizeof(_lib.SpectraDesc), side=side, spectra=s.ctypes.data
        )
        offset = _lib.SpectraDesc.rows.offset
        self._pack_rows(desc, offset, v.pointer, v.strides, self._axes)
        call(self._handle, byref(desc))

    def _view(self, x, name):
        """View of an array; ValueError if it is not on the plan's device."""
        v = x if isinstance(x, View) else view(x, name, None, True)
        if v.device != self._backend.number:
            check_place(v, name, self._backend.number)
        return v

    def _check_spectrum(self, spectrum):
        """Raise ValueError unless `spectrum` is a `Spectrum` whose device, kernels and
        pattern are those of this plan."""
        if not isinstance(spectrum, Spectrum):
            raise ValueError(
                f"spectrum is a {type(spectrum).__name__}; it "
                "must be a Spectrum, from Plan.spectrum"
            )
        made = spectrum.plan
        if made._backend is not self._backend:
            raise ValueError(
                f"spectrum is {spectrum!r} on {made.device}; it "
                f"must be on {self.device}, as this plan"
            )
        if made is not self and (
            made._kernel != self._kernel
            or made._reverse != self._reverse
            or spectrum._k.dtype not in self._kernel_dtypes
        ):
            reverse = "" if self._reverse is None else f" and k_rev of length {self._reverse}"
            raise ValueError(
                f"spectrum is {spectrum!r}; this plan is for k="
                f"{self.k_shape}{reverse}, "
                f"{' or '.join(self._kernel_dtypes)}"
            )
        if made.pattern != self.pattern:
            raise ValueError(
                f"spectrum is {spectrum!r}; this plan's pattern is {self.pattern!r}: "
                "make it with this plan's own `spectrum`, or run its own `plan`"
            )

    def _rows_view(self, x, name):
        v = self._view(x, name)
        if v.shape != self.u_shape:
            raise ValueError(f"{name} has shape {v.shape}; this plan is for {self.u_shape}")
        return v if v.dtype == self.dtype else self._converted(v, name, (self.dtype,))

    def _converted(self, v, name, allowed):
        """View v converted to one of the allowed dtypes, or ValueError."""
        return converted(v, name, allowed, f"this plan is for {self.dtype}")

    def _pack_rows(self, structure, offset, pointer, strides, axes):
        """Fill in the fftconv_tensor of rows at `offset`.

        strides are in the order of the caller's axes; `axes` maps them to (B, H, L).
        """
        if axes != (0, 1, 2):
            strides = [1 if a is None else strides[a] for a in axes]
        pack_tensor(structure, offset, pointer, self._code, 0, *self._rows, *strides)

    def _kernels(self, k, k_rev):
        """{"k": View}, and "k_rev" in two-sided mode, checked and converted."""
        v = self._view(k, "k")
        if v.shape not in self._kernel_shapes:
            length = kernel_axes(v.shape, *self._rows[:2])[2]
            if length != self._kernel[2]:
                raise ValueError(f"k has length {length}; this plan is for {self._kernel[2]}")
            raise ValueError(f"k has shape {tuple(v.shape)}; this plan is for {self.k_shape}")
        if v.dtype not in self._kernel_dtypes:
            v = self._converted(v, "k", self._kernel_dtypes)
        views = {"k": v}
        if k_rev is not None or self._reverse is not None:
            check_reverse(k_rev, self.mode)
            v = self._view(k_rev, "k_rev")
            length = reverse_axes(v.shape, self._kernel)
            if length != self._reverse:
                raise ValueError(f"k_rev has length {length}; this plan is for {self._reverse}")
            views["k_rev"] = self._converted(v, "k_rev", self._kernel_dtypes)
        return views

    def _pack_gate(self, ops, name, gate, v, axes):
        g = self._converted(self._view(gate, name), name, (self.dtype,))
        strides = g.strides if g.shape == v.shape else broadcast_strides(g, name, v.shape)
        self._pack_rows(ops, _OFFSET[name], g.pointer, strides, axes)
        return g

    def _pack_channels(self, ops, name, x, batch):
        """Fill in the fftconv_tensor of skip (H,), or of mask (B, H), as (batch, H, 1)."""
        v = self._view(x, name)
        if name == "mask":
            real(v, name)
        v = self._converted(v, name, self._kernel_dtypes)
        channels = self._rows[1]
        shape = (channels,) if name == "skip" else (batch, channels)
        strides = broadcast_strides(v, name, shape)
        pack_tensor(
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
        """The checked inputs of a call: (Operands, handle of the spectrum or None, Views).

        The Views, a dict by name, keep converted copies alive: the caller must hold them
        until the call returns.
        """
        ops = _lib.Operands()
        ops.size = _OPERANDS_BYTES
        if activation is not None:
            ops.activation = choice(activation, "activation", _lib.ACTIVATIONS)
        if v.dtype != self.dtype:
            v = self._converted(v, "u", (self.dtype,))
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
                pack(ops, _OFFSET[name], k)
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

    def _forward(
        self, v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask, out, repeat=None
    ):
        """Compute y.

        v: the View of u, whose axes `axes` maps to (B, H, L).  kernel: a `Spectrum` or
        k.  repeat: None, or a list to which a function that repeats the call is appended.
        """
        ops, handle, views = self._operands(
            v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask
        )
        if out is None:
            result, y = self._backend.empty(v.shape, self.dtype, v)
        else:
            result, y = out, output_view(out, "out", v.shape, self.dtype, True)
            check_place(y, "out", self._backend.number)
        self._pack_rows(ops, _OFFSET["y"], y.pointer, y.strides, axes)
        plain = (
            axes == (0, 1, 2)
            and views["u"].strides[-1] == y.strides[-1] == 1
            and in_gate is out_gate is None
            and (out is None or self.blocks == 1)
        )
        self._backend.execute(self, _lib.FORWARD, handle, ops, views, (y,), plain)
        if repeat is not None:
            ops.keep = self, kernel, views, y
            repeat.append(self._backend.repeatable(self, _lib.FORWARD, handle, ops, views, (y,)))
        return result if out is not None else self._backend.finish(result, v)

    def _backward(
        self,
        dy,
        v,
        axes,
        kernel,
        k_rev,
        in_gate,
        out_gate,
        skip,
        activation,
        mask,
        needs,
        repeat=None,
    ):
        """Compute `Gradients`; the arguments are as in `_forward`."""
        ops, handle, views = self._operands(
            v, axes, kernel, k_rev, in_gate, out_gate, skip, activation, mask
        )
        if handle is not None:  # These Views have shape, dtype and kind, but no memory.
            views["k"] = kernel._k
            if kernel._k_rev is not None:
                views["k_rev"] = kernel._k_rev
        d = self._view(dy, "dy")
        if d.shape != v.shape:
            raise ValueError(f"dy has shape {d.shape}; it must be {v.shape}, as u")
        if d.dtype != self.dtype:
            d = self._converted(d, "dy", (self.dtype,))
        self._pack_rows(ops, _OFFSET["dy"], d.pointer, d.strides, axes)

        results, outputs, backend = {}, [d], self._backend
        for name in check_needs(needs, views):
            # The library writes gradients of full shape.  For a broadcast operand,
            # finish_gradient sums them to its shape.
            of, field = views[name], _OFFSET["d" + name]
            if name in ("k", "k_rev"):
                shape = of.shape
            else:
                shape = (self._rows[1],) if name == "skip" else v.shape
            if repeat is not None and (shape != of.shape or of.gradient_dtype != of.dtype):
                raise ValueError(
                    f"{name} has shape {of.shape} and dtype {of.original_dtype}; to prepare its "
                    "gradient it must be of full shape, not repeated, and need no conversion"
                )
            if of.shape != shape:
                backend.check_summed(of, name, shape)
            result, g = backend.empty(shape, of.dtype, of)
            if name in ("k", "k_rev"):
                pack(ops, field, g)
            elif name == "skip":
                pack_tensor(
                    ops, field, g.pointer, _lib.DTYPES[g.dtype], 0, 1, shape[0], 1, 0, *g.strides, 1
                )
            else:
                self._pack_rows(ops, field, g.pointer, g.strides, axes)
            results[name] = result, shape, of
            outputs.append(g)
        if results:
            backend.execute(self, _lib.BACKWARD, handle, ops, views, outputs, False)
        if results and repeat is not None:
            ops.keep = self, kernel, views, outputs
            repeat.append(backend.repeatable(self, _lib.BACKWARD, handle, ops, views, outputs))
        return Gradients(
            **{"d" + name: backend.finish_gradient(*x, v) for name, x in results.items()}
        )


@lru_cache(maxsize=32, typed=True)  # typed: 64.0 == 64, but is not a size
def cached_plan(
    rows, kernel, reverse, dtype, mode, fft_size, pattern, threads, device=None, sums=False
):
    """The plan of a call without an explicit one, kept for later calls with the same
    arguments.

    rows: (B, H, L); kernel: (1 or B, G, Lk); reverse: the length of k_rev, or None;
    device: a View's device number, None for the CPU; sums: whether few taps are summed
    directly.
    """
    few = sums and pattern is None and device is None
    return Plan(
        rows,
        kernel,
        dtype=dtype,
        mode=mode,
        fft_size=fft_size,
        k_rev_length=reverse,
        pattern=pattern,
        threads=threads,
        form=direct_form(kernel[2] + (reverse or 0), dtype) if few else None,
        device=backend_of(device).device,
    )


def direct_form(taps, dtype):
    """The form "direct" if so many taps of rows of this dtype are summed directly, else None."""
    return "direct" if taps <= DIRECT_TAPS and dtype not in COMPLEX else None


def check_needs(needs, views):
    """The names of the operands whose gradients are wanted, in the order of NEEDS.

    views: the operands that are given, by name.  Raises ValueError if `needs` names
    another.
    """
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


def _fill_radices(desc, radices, order):
    """Fill in the radices or the order of a PlanDesc; returns the radices as a list, or None."""
    if radices is None:
        if order is not None:
            desc.order = min(size(order, "order"), 2**31 - 1)
        return None
    radices = [size(r, "radices") for r in radices]
    if not radices:
        raise ValueError("radices is empty; name at least one, or pass None")
    if order is not None and order != len(radices):
        raise ValueError(f"order is {order!r}, and radices names {len(radices)}; leave one out")
    desc.radices = _lib.int64s(radices)
    desc.order = len(radices)
    return radices


def _shape(shape, name):
    try:
        sizes = list(shape)
    except TypeError:
        raise ValueError(
            f"{name} is {shape!r}; it must be a tuple of sizes, each from 1 to 2**40"
        ) from None
    return tuple(size(n, f"{name}[{i}]") for i, n in enumerate(sizes))
