"""Convolutions of state-space layers: lrnnx's opt_ssm_forward and fft_conv.

    y[b, t, o] = Re sum_n C[o, n] sum_{j <= t} K[j, n] sum_i B_[n, i] x[b, t - j, i]

The sums can be taken in three orders, called strategies, which give the same result up to
rounding at different costs (Centaurus, arXiv 2409.03377, section 3):

1. compute the kernels of all pairs (o, i) in time, then convolve densely;
2. project x onto the N states, convolve each of these rows, and project back;
3. work at each frequency, between the transforms: either project there, or compute the
   kernels of all pairs (o, i) there.

No array of size (B, F, N, H) or (B, F, N), F frequencies, is ever allocated: blocks of the
batch, of the kernels or of the frequencies are processed one at a time, in the cache.
"""

import ctypes
import time
import warnings
from ctypes import byref
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from . import _lib
from ._array import (
    COMPLEX,
    COMPLEX_OF,
    WIDE,
    aligned_empty,
    choice,
    dtype_name,
    finish,
    fixed,
    numpy_dtype,
    result_dtype,
    size,
    view,
)
from ._gradients import shapes
from ._handles import tensor, thread_count
from .convolution import conv, conv_backward
from .matrix import BLOCK_BYTES, Spectra, conv_matrix, conv_matrix_backward, first_rows, row_plan
from .plan import Spectrum, cached_plan

#: Bytes of rows or spectra that one block of the batch may take in strategies 2 and 3.
ROWS_BYTES = 2 << 20

_REALS = ("float32", "float64")


class SsmGradients(NamedTuple):
    """Gradients of sum(dy . y), each of its operand's shape and dtype.

    The gradient of a complex operand is d/dRe + i d/dIm.  A gradient that was not asked for
    is None.

    Example:
        >>> x, K, B_, C = np.ones((1, 8, 2)), np.ones((8, 3)), np.ones((3, 2)), np.ones((2, 3))
        >>> opt_ssm_backward(np.ones((1, 8, 2)), x, K, B_, C, needs=["K", "C"])
        SsmGradients(dK: (8, 3) float64, dC: (2, 3) float64)
    """

    dx: Any = None
    dK: Any = None
    dB_: Any = None
    dC: Any = None

    __repr__ = shapes


# ---- Operands -----------------------------------------------------------------


class _Operands:
    """The checked operands of one call, as NumPy arrays of one precision.

    x (B, L, I), K (N, Lk) with Lk <= L, B (N, I), C (O, N).
    views: the operands as given, in the order x, K, B, C.
    transposed: K was given as (Lk, N).  full: the number of taps of K as given.
    dtype: the dtype of the result.  kind: the array library of x, which the result uses.
    real: whether all four arrays are real.
    """

    def __init__(self, x, K, B_, C, k_layout):
        x, K, B_, C = (view(a, name) for a, name in ((x, "x"), (K, "K"), (B_, "B_"), (C, "C")))
        for v, name, axes in (
            (x, "x", "(B, L, H_in)"),
            (B_, "B_", "(N, H_in)"),
            (C, "C", "(H_out, N)"),
        ):
            if len(v.shape) != axes.count(",") + 1 or 0 in v.shape:
                raise ValueError(
                    f"{name} has shape {tuple(v.shape)}; it must be {axes}, each at least 1"
                )
        states, inputs = B_.shape
        if inputs != x.shape[2]:
            raise ValueError(
                f"B_ has shape {tuple(B_.shape)}; it must be (N, "
                f"H_in) with H_in = {x.shape[2]}, as x"
            )
        if C.shape[1] != states:
            raise ValueError(
                f"C has shape {tuple(C.shape)}; it must be (H_out, N) with N = {states}, as B_"
            )
        self.transposed = layout_of_k(K.shape, states, k_layout) == "LN"
        self.views = x, K, B_, C
        self.kind = x.kind
        self.dtype = _real_dtype(self.views)
        real = WIDE[self.dtype]
        x, K, B_, C = (_in_precision(v, real) for v in self.views)
        K = K.T if self.transposed else K
        K = np.ascontiguousarray(K[:, : x.shape[1]])
        self.x, self.K, self.B, self.C = x, K, B_, C
        self.shape = x.shape
        self.states, self.inputs = B_.shape
        self.outputs = len(C)

    @property
    def real(self):
        return not any(map(np.iscomplexobj, (self.x, self.K, self.B, self.C)))

    def reduce(self):
        """Drop an imaginary part that does not affect the real part of the result.

        If x and two of K, B, C are real, the imaginary part of the third has no effect.
        """
        names = [n for n in ("K", "B", "C") if np.iscomplexobj(getattr(self, n))]
        if len(names) == 1 and not np.iscomplexobj(self.x):
            setattr(self, names[0], np.ascontiguousarray(getattr(self, names[0]).real))

    @property
    def complex_dtype(self):
        return COMPLEX_OF[WIDE[self.dtype]]


def _in_precision(v, real):
    """Return a View's numbers as an array in the real dtype, or the complex one that matches."""
    a = v.numpy()
    return a.astype(COMPLEX_OF[real] if a.dtype.kind == "c" else real, copy=False)


def _real_dtype(views):
    """Return the real dtype of a result: the widest precision of the operands.

    It has 16 bits only if all operands have the same 16-bit dtype.
    """
    dtype = result_dtype(views)
    return WIDE[dtype] if dtype in COMPLEX else dtype


def layout_of_k(shape, states, k_layout):
    """Return the layout of K, "LN" or "NL": k_layout if given, else as K's shape tells.

    A square K is taken as "NL", with a warning.  Raises ValueError for a wrong shape.
    """
    if k_layout is not None:
        choice(k_layout, "k_layout", dict.fromkeys(("LN", "NL")))
    if len(shape) != 2 or 0 in shape or states not in shape:
        raise ValueError(
            f"K has shape {tuple(shape)}; it must be (L, N) or "
            f"(N, L) with N = {states}, as B_, or (L, H_out, "
            "H_in)"
        )
    if k_layout is None:
        if shape[0] != shape[1]:
            return "LN" if shape[1] == states else "NL"
        warnings.warn(
            f"K has shape {tuple(shape)}, with L = N: taken as (N, L), as "
            'lrnnx computes it; say k_layout="LN" or "NL"',
            stacklevel=4,
        )
        return "NL"
    if shape[k_layout.index("N")] != states:
        raise ValueError(
            f"K has shape {tuple(shape)}; with k_layout="
            f"{k_layout!r} its axis N must be {states}, as B_"
        )
    return k_layout


def _swapped(x):
    return x.swapaxes(1, 2)


def _batches(operands, row_bytes):
    """Return (start, stop) of blocks of the batch, all of the same size.

    row_bytes: the bytes for one batch entry.  The size is the largest divisor of the batch
    with at most ROWS_BYTES in a block, and 1 if one entry alone takes more.
    """
    batch = operands.shape[0]
    block = _block_of(batch, row_bytes)
    return [(b, b + block) for b in range(0, batch, block)]


# ---- The three strategies --------------------------------------------------------


def _spectra(length, taps, dtype, threads):
    return Spectra(row_plan(length, taps, None, dtype, "causal", None, threads))


def _blocks(outputs, inputs, row_bytes):
    """Return blocks (o, o_end, i, i_end) of kernels whose spectra take at most BLOCK_BYTES.

    The blocks with the same outputs follow each other, until all inputs are done.
    """
    i_block = min(inputs, max(1, BLOCK_BYTES // row_bytes))
    o_block = min(outputs, max(1, BLOCK_BYTES // (row_bytes * i_block)))
    return [
        (o, min(o + o_block, outputs), i, min(i + i_block, inputs))
        for o in range(0, outputs, o_block)
        for i in range(0, inputs, i_block)
    ]


def matmul(a, b, out=None, threads=None):
    """The matrix product a b of arrays with two or three axes, by the library's own threads.

    a and b are promoted to one dtype.  Matrices of a batch lie along the first of three axes;
    two axes are one matrix for the whole batch.  out: the array to write to, of the promoted
    dtype, or of its real one to get the real part alone; None makes a new one.
    """
    dtype = np.result_type(a, b)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    if out is None:
        batch = a.shape[:-2] or b.shape[:-2]
        out = aligned_empty((*batch, a.shape[-2], b.shape[-1]), dtype)
    batch = out.shape[:-2]
    a, b = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    desc = _lib.MatmulDesc(size=ctypes.sizeof(_lib.MatmulDesc), threads=thread_count(threads))
    desc.a, desc.b, desc.out = (tensor(view(x, "matrix")) for x in (a, b, out))
    _lib.lib.fftconv_matmul(byref(desc))
    return out


def _folded(p):
    """Return rows K' (N', Lk) and a function w(o, o_end, i, i_end) -> (outputs, inputs, N').

    The kernel of (o, i) is sum_n w[o, i, n] K'[n].  If x is real, only the kernel's real part
    matters, so K' and w are real: Re(w K) = Re w Re K - Im w Im K.
    """
    if p.real or np.iscomplexobj(p.x):

        def weights(o, o_end, i, i_end):
            return p.C[o:o_end, None] * p.B.T[None, i:i_end]

        return p.K, weights
    kernels = [p.K.real]
    if np.iscomplexobj(p.K):
        kernels.append(p.K.imag)

    def weights(o, o_end, i, i_end):
        w = p.C[o:o_end, None] * p.B.T[None, i:i_end]
        return np.concatenate([w.real, -w.imag][: len(kernels)], -1)

    return np.concatenate(kernels), weights


def _dense(p, y, threads, in_time):
    """Compute y by strategy 1 if in_time, else by 3 with the kernels made at each frequency."""
    K, weights = _folded(p)
    is_complex = np.iscomplexobj(p.x) or np.iscomplexobj(K)
    dtype = p.complex_dtype if is_complex else WIDE[p.dtype]
    K = K.astype(dtype, copy=False)
    s = _spectra(p.shape[1], K.shape[1], dtype, threads)
    U = s.spectra_of(view(_swapped(p.x.astype(dtype, copy=False)), "x"), _lib.INPUT)
    blocks = _blocks(p.outputs, p.inputs, s.row_bytes)
    o, o_end, i, i_end = blocks[0]
    memory = s.new_spectra(o_end - o, i_end - i)
    sums = s.new_spectra(p.shape[0], o_end - o)
    if not in_time:
        SK = s.spectra_of_taps([tensor(view(K[:, None], "K"))], s.new_spectra(len(K), 1))[:, 0]
    for o, o_end, i, i_end in blocks:
        w = weights(o, o_end, i, i_end).reshape(-1, len(K))
        if in_time:
            k = matmul(w, K, threads=threads).astype(dtype, copy=False)
            k = k.reshape(o_end - o, i_end - i, -1)
            S = s.spectra_of_taps([tensor(view(k, "K"))], memory)
            del k  # free it before the k of the next block is allocated
        else:
            S = first_rows(memory, o_end - o, i_end - i)
            _spectral_matmul(w, SK, S.reshape(len(w), -1), s.plan.lanes, threads)
        Y = first_rows(sums, p.shape[0], o_end - o)
        s.contract(U[:, i:i_end], S.swapaxes(0, 1), Y, accumulate=i > 0)
        if i_end == p.inputs:
            _real_rows(s, Y, dtype, y[:, :, o:o_end])


def _real_rows(s, Y, dtype, y):
    """Write y (batch, L, outputs), the real part of the rows with spectra Y."""
    rows = _swapped(y)
    if np.dtype(dtype).kind != "c":
        s.rows_from(Y, _lib.OUTPUT, view(rows, "y"))
        return
    wide = aligned_empty(rows.shape, dtype)
    s.rows_from(Y, _lib.OUTPUT, view(wide, "y"))
    rows[...] = wide.real


def _spectral_matmul(w, s, out, lanes, threads):
    """Compute out = w s for spectra s (N, reals) and a real or complex matrix w.

    A spectrum stores `lanes` real parts, then the `lanes` imaginary parts that go with them.
    """
    if not np.iscomplexobj(w):
        matmul(w.astype(s.dtype, copy=False), s, out, threads)
        return
    matmul(w.real, s, out, threads)
    turned = matmul(w.imag, s, threads=threads).reshape(len(w), -1, 2, lanes)
    parts = out.reshape(len(w), -1, 2, lanes)
    parts[:, :, 0] -= turned[:, :, 1]
    parts[:, :, 1] += turned[:, :, 0]


def _projected_rows(p, start, stop, u, threads):
    """Write u (batch, N, L) = B x for the batch entries start ... stop - 1, in u's dtype."""
    x = _swapped(p.x[start:stop].astype(u.dtype, copy=False))
    matmul(p.B, x, u, threads)


def _outputs(C, z, y, threads):
    """Write y (batch, L, H_out) = C z, or its real part if y is real, for z (batch, N, L)."""
    matmul(C, z, _swapped(y), threads)


def _projections_in_time(p, y, threads):
    """Compute y by strategy 2."""
    dtype = numpy_dtype(WIDE[p.dtype] if p.real else p.complex_dtype)
    length = p.shape[1]
    batches = _batches(p, p.states * length * dtype.itemsize)
    u = aligned_empty((batches[0][1], p.states, length), dtype)
    plan = cached_plan(u.shape, p.K.shape, None, dtype.name, "causal", None, None, threads)
    spectrum = Spectrum(plan, p.K, None, keep=False)
    for start, stop in batches:
        _projected_rows(p, start, stop, u, threads)
        plan(u, spectrum, out=u)
        _outputs(p.C, u, y[start:stop], threads)


def _projections_in_frequency(p, y, threads):
    """Compute y by strategy 3, with projections at each frequency."""
    dtype = WIDE[p.dtype] if p.real else p.complex_dtype
    length = p.shape[1]
    s = _spectra(length, p.K.shape[1], dtype, threads)
    taps = p.K.astype(dtype, copy=False)[:, None]
    SK = s.spectra_of_taps([tensor(view(taps, "K"))], s.new_spectra(p.states, 1))
    real = s.plan.spectra_dtype
    imaginary = not p.real
    B, C = (
        np.stack([m.real, m.imag] if imaginary else [m]).astype(real)
        for m in (p.B, p.C / s.plan.transform_length)
    )
    batches = _batches(p, (p.inputs + p.outputs) * s.row_bytes)
    Y = s.new_spectra(batches[0][1], p.outputs)
    for start, stop in batches:
        x = p.x[start:stop].astype(dtype, copy=False)
        U = s.spectra_of(view(_swapped(x), "x"), _lib.INPUT)
        c = _lib.ProjectionDesc(
            size=ctypes.sizeof(_lib.ProjectionDesc),
            batch=stop - start,
            inputs=p.inputs,
            states=p.states,
            outputs=p.outputs,
            in_=U.ctypes.data,
            kernels=SK.ctypes.data,
            B=B.ctypes.data,
            C=C.ctypes.data,
            out=Y.ctypes.data,
            imaginary=imaginary,
        )
        _lib.lib.fftconv_project(s.plan._handle, byref(c))
        del x, U  # free them before those of the next block are allocated
        _real_rows(s, Y, dtype, y[start:stop])


#: The function that runs each order.  Strategy 3 has two orders.
ORDERS = {
    "1": lambda p, y, threads: _dense(p, y, threads, True),
    "2": _projections_in_time,
    "3 projections": _projections_in_frequency,
    "3 kernels": lambda p, y, threads: _dense(p, y, threads, False),
}


# ---- What they cost --------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """The measured rates of a machine, in seconds, with a fixed number of threads.

    Example:
        >>> machine().byte < 1e-6  # it moves a byte in less than a microsecond
        True
    """

    gemm: float  #: seconds per real flop of the matrix products
    contract: float  #: seconds per real flop of the matrix product at each frequency
    project: float  #: seconds per real flop of the projections at each frequency
    transform: float  #: measured time of a row's transform / the planner's estimate of it
    byte: float  #: seconds per byte of an array that is read or written in order
    turn: float  #: seconds per byte where the axes of time and channels are exchanged
    call: dict  #: order -> seconds that the smallest problem takes


@dataclass(frozen=True)
class Cost:
    """The predicted cost of one order: real flops, seconds and memory.

    memory_bytes: the most that a call holds besides its operands and result.

    Example:
        >>> cost = strategy_costs(8, 1024, 64, 64, 128)["2"]
        >>> cost.flops > 0, cost.memory_bytes > 0
        (True, True)
    """

    flops: float
    seconds: float
    memory_bytes: int


def _shape_of(p):
    """Return the arguments of `_costs`, from batch to K_complex, for the operands p."""
    return (
        p.shape[0],
        p.shape[1],
        p.inputs,
        p.outputs,
        p.states,
        p.K.shape[1],
        WIDE[p.dtype],
        not p.real,
        np.iscomplexobj(p.x),
        np.iscomplexobj(p.K),
    )


def _costs(
    machine,
    batch,
    length,
    inputs,
    outputs,
    states,
    taps,
    real_dtype,
    is_complex,
    x_complex,
    K_complex,
    threads,
):
    """Return {order: Cost} for a problem of the given sizes."""
    item = np.dtype(real_dtype).itemsize
    B, L, I, O, N = batch, length, inputs, outputs, states
    result = {}
    for order in ORDERS:
        dense = order in ("1", "3 kernels")
        # In the dense orders the rows are real if x is real.
        wide = x_complex if dense else is_complex
        c = 2 if wide else 1
        dtype = COMPLEX_OF[real_dtype] if wide else real_dtype
        s = _spectra(L, taps, dtype, threads)
        row, bytes_ = s.row_bytes, c * item * L
        M = s.plan.transform_length
        rows_flops = (s.plan.counters.flops - s.plan.counters.product_flops) / 2
        row_seconds = s.plan.counters.predicted_seconds / 2 * machine.transform
        if dense:
            folds = 2 if is_complex and not x_complex and K_complex else 1
            rate = 4 if x_complex else 1  # a complex product takes four real ones
            fold = 2 * rate * folds * N * I * O
            contract = 8 * M * B * I * O
            blocks = _blocks(O, I, row)
            _, ob, _, ib = blocks[0]
            if order == "1":
                fold, transforms = fold * taps, I * (O + B) + B * O
            else:
                fold, transforms = fold * 2 * M / c, folds * N + B * (I + O)
            gemm, special = fold, contract * machine.contract
            flops = fold + contract
            passes = -(-O // ob)  # how often all spectra of x are read
            moved = (
                B * (I * (1 + passes) + 3 * O) * row
                + B * O * bytes_
                + I * O * (4 * row if order != "1" else 2 * bytes_ + 2 * row)
            )
            turned = 2 * B * (I + O) * bytes_
            copied = bytes_ if wide else 0  # a complex copy of a row of x or y
            memory = (
                B * I * (row + (0 if x_complex else copied))
                + ob * ib * row
                + B * ob * (row + copied)
                + ob * ib * folds * N * item * rate
            )
            memory += ob * ib * bytes_ * taps // L if order == "1" else folds * N * row
        elif order == "2":
            gemm = 2 * B * L * N * (I + O) * c * c  # a complex product takes four real ones
            flops, special = gemm + 6 * M * B * N, 0
            transforms = N + 2 * B * N
            moved, turned = B * L * ((I + O) * item + 4 * N * c * item), 0
            block = _block_of(B, N * bytes_)
            memory = N * row + block * N * bytes_ + (c - 1) * block * max(I, O) * bytes_
        else:
            flops = 4 * M * c * B * N * (I + O) + 6 * M * B * N
            special, gemm = flops * machine.project, 0
            transforms = N + B * (I + O)
            moved = B * (2 * (I + O) + N) * row
            turned = 2 * B * (I + O) * bytes_
            block = _block_of(B, (I + O) * row)
            memory = N * row + block * (I + O) * row + (c - 1) * block * max(I, O) * bytes_
        seconds = (
            machine.call[order]
            + gemm * machine.gemm
            + special
            + transforms * row_seconds
            + moved * machine.byte
            + turned * machine.turn
        )
        result[order] = Cost(float(flops + transforms * rows_flops), seconds, int(memory))
    return result


def _block_of(batch, row_bytes):
    most = max(1, ROWS_BYTES // row_bytes)
    return max(d for d in range(1, batch + 1) if batch % d == 0 and d <= most)


def machine(dtype="float32", threads=None):
    """Return the `Machine` of this computer, measured on first use (about 0.1 s).

    dtype: "float32" or "float64".  threads: None means all processors.  Raises ValueError.

    Example:
        >>> sorted(machine("float64").call)
        ['1', '2', '3 kernels', '3 projections']
    """
    return measured(dtype_name(dtype, allowed=_REALS), threads)


@cache
def measured(dtype, threads):
    rng = np.random.default_rng(0)

    def fastest(call, least=1e-2):
        call()
        best, runs, end = np.inf, 0, time.perf_counter() + least
        while True:
            began = time.perf_counter()
            call()
            now = time.perf_counter()
            best, runs = min(best, now - began), runs + 1
            if now > end and runs >= 7:
                return best

    def random(*shape):
        return rng.standard_normal(shape).astype(dtype)

    n, length = 64, 1024
    a, b = random(n, n), random(n, length)
    gemm = fastest(lambda: matmul(a, b, threads=threads)) / (2 * n * n * length)
    s = _spectra(length, length, dtype, threads)
    rows = view(random(n, n // 4, length), "rows")
    U = s.spectra_of(rows, _lib.INPUT)
    few = view(random(1, n, length), "rows")
    plan = cached_plan((1, n, length), (n, length), None, dtype, "causal", None, None, threads)
    taps = plan.spectrum(random(n, length))
    transform = fastest(lambda: plan(few.keep, taps, out=few.keep))
    transform /= n * s.plan.counters.predicted_seconds
    half = n // 2
    square = U.reshape(half, half, -1)
    Y = s.new_spectra(half, half)
    contract = fastest(lambda: s.contract(square, square, Y))
    contract /= 8 * s.plan.transform_length * half**3
    c = _lib.ProjectionDesc(
        size=ctypes.sizeof(_lib.ProjectionDesc),
        batch=1,
        inputs=n // 4,
        states=n,
        outputs=n // 4,
        in_=U.ctypes.data,
        kernels=U[n // 4 :].ctypes.data,
        B=a.ctypes.data,
        C=a.ctypes.data,
        out=Y.ctypes.data,
    )
    project = fastest(lambda: _lib.lib.fftconv_project(s.plan._handle, byref(c)))
    project /= s.plan.transform_length * (4 * n * n // 2 + 6 * n)
    big, copied = random(64, length, 16), aligned_empty((64, length, 16), dtype)
    byte = fastest(lambda: np.copyto(copied, big)) / (2 * big.nbytes)
    other = copied.reshape(64, 16, length)
    turn = fastest(lambda: np.copyto(other, _swapped(big))) / (2 * big.nbytes)
    tiny = _Operands(random(1, 8, 1), random(8, 2), random(2, 1), random(1, 2), "LN")
    y = aligned_empty((1, 8, 1), dtype)
    call = {order: fastest(lambda: run(tiny, y, threads), 1e-3) for order, run in ORDERS.items()}
    return Machine(gemm, contract, project, transform, byte, turn, call)


def strategy_costs(
    batch,
    length,
    inputs,
    outputs,
    states,
    *,
    dtype="float32",
    is_complex=False,
    threads=None,
    hardware=None,
):
    """Return the predicted `Cost` of each order of opt_ssm_forward.

    The result is a dict with the keys "1", "2", "3 projections" and "3 kernels".

    batch, length, inputs: the shape of x.  outputs: H_out.
    states: N, the number of kernels; each has `length` taps.
    dtype: "float32" or "float64".
    is_complex: whether K, B_ and C are complex; x is real.
    hardware: a `Machine`; None means this computer, measured on first use.

    The flops are counted.  The seconds are the sum of those for matrix products, transforms
    (the planner's estimate), bytes moved and the fixed cost of a call, each at the rate
    measured on the machine.  Raises ValueError.

    Example:
        >>> list(strategy_costs(8, 1024, 64, 64, 128))
        ['1', '2', '3 projections', '3 kernels']
    """
    sizes = {
        "batch": batch,
        "length": length,
        "inputs": inputs,
        "outputs": outputs,
        "states": states,
    }
    for name, value in sizes.items():
        size(value, name)
    dtype = dtype_name(dtype, allowed=_REALS)
    if hardware is None:
        hardware = machine(dtype, threads)
    return _costs(
        hardware,
        batch,
        length,
        inputs,
        outputs,
        states,
        length,
        dtype,
        is_complex,
        False,
        is_complex,
        threads,
    )


def upstream_strategy(batch, inputs, outputs, states):
    """Return the strategy 1, 2 or 3 that lrnnx's rule chooses, whatever the length.

    If 1/H_in + 1/H_out > 1/B + 1/N: 1 if H_in H_out <= N, else 3.
    Otherwise:                       2 if N <= H_in, else 3.

    Raises ValueError.

    Example:
        >>> upstream_strategy(8, 4, 4, 32), upstream_strategy(8, 64, 64, 32)
        (1, 2)
    """
    for value, name in (
        (batch, "batch"),
        (inputs, "inputs"),
        (outputs, "outputs"),
        (states, "states"),
    ):
        size(value, name)
    if 1 / inputs + 1 / outputs > 1 / batch + 1 / states:
        return 1 if inputs * outputs <= states else 3
    return 2 if states <= inputs else 3


def _order(p, strategy, threads):
    """Return the order that runs a strategy: the cheapest one that it allows for p."""
    if strategy in ORDERS:
        return strategy
    if strategy == "upstream":
        strategy = upstream_strategy(p.shape[0], p.inputs, p.outputs, p.states)
    allowed = [o for o in ORDERS if strategy in ("auto", int(o[0]))]
    if len(allowed) == 1:
        return allowed[0]
    costs = _costs(machine(WIDE[p.dtype], threads), *_shape_of(p), threads)
    return min(allowed, key=lambda order: costs[order].seconds)


# ---- The calls -------------------------------------------------------------------


def opt_ssm_forward(x, K, B_, C, *, strategy="auto", k_layout=None, threads=None):
    """Return y (B, L, H_out): project x with B_, convolve with K, and project with C.

        y[b,t,o] = Re sum_n C[o,n] sum_{j<=t} K[j,n] sum_i B_[n,i] x[b,t-j,i]

    Args:
        x: (B, L, H_in).  x, K, B_ and C may each be real or complex, in float64, float32,
            float16 or bfloat16; integers and booleans become float64.  The arithmetic is in
            float32 or float64.
        K: (Lk, N), as lrnnx documents it, or (N, Lk), as lrnnx's models pass it; the shape
            tells which.  Taps beyond L have no effect.  With B_ and C None, K is
            (Lk, H_out, H_in), one kernel for each output and input.
        B_: (N, H_in), or None.
        C: (H_out, N), or None.
        strategy: the order of the sums; all give the same result up to rounding.
            1: compute the kernels first, in time.
            2: project in time.
            3: project, or compute the kernels, at each frequency.
            "auto": the order to which `strategy_costs` gives the fewest seconds.
            "upstream": the rule of lrnnx, `upstream_strategy`.
            A key of `strategy_costs`, such as "3 kernels", means that order.
        k_layout: "LN" or "NL".  None decides by the shape of K; if Lk = N it is taken as "NL",
            which is what lrnnx computes, with a warning.
        threads: None means all processors.  The result does not depend on it.

    Returns y, an array from the same library as x.  It is real, in the widest precision of the
    four operands (16 bits only if all have the same 16-bit dtype); Python lists take the dtype
    of the other operands.  Raises TypeError for an argument that is not an array of numbers,
    ValueError, naming the argument, for wrong values, and MemoryError.

    Source: Centaurus, arXiv 2409.03377, section 3.

    Example:
        >>> x, K = [[[1], [2], [3]]], [[1, 1]]  # (B, L, H_in), (N, Lk)
        >>> opt_ssm_forward(x, K, [[1]], [[2]]).round(6).tolist()
        [[[2.0], [6.0], [10.0]]]
    """
    check_strategy(strategy)
    if len(np.shape(K)) == 3:
        return _with_kernels(x, K, B_, C, k_layout, threads)
    p = _Operands(x, K, B_, C, k_layout)
    p.reduce()
    return _run(p, _order(p, strategy, threads), threads)


def _run(p, order, threads):
    y = aligned_empty(p.shape[:2] + (p.outputs,), WIDE[p.dtype])
    ORDERS[order](p, y, threads)
    return finish(y.astype(numpy_dtype(p.dtype), copy=False), p.kind)


def check_strategy(strategy):
    """Raise ValueError unless `opt_ssm_forward` takes this strategy."""
    allowed = ("auto", "upstream", 1, 2, 3, *ORDERS)
    if isinstance(strategy, bool) or strategy not in allowed:
        raise ValueError(f"strategy is {strategy!r}; allowed: {', '.join(map(repr, allowed))}")


def _kernels_3d(x, K, B_, C, k_layout):
    """Check a call with K (Lk, H_out, H_in), the kernels themselves.

    Returns (x (B, H_in, L), k (H_out, H_in, Lk), the dtype of the result, the Views (x, K)).
    """
    for name, value in (("B_", B_), ("C", C), ("k_layout", k_layout)):
        if value is not None:
            raise ValueError(f"{name} is given; with K of (L, H_out, H_in) it must be None")
    x, K = view(x, "x"), view(K, "K")
    if len(x.shape) != 3 or 0 in x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (B, L, H_in), each at least 1")
    if 0 in K.shape or K.shape[2] != x.shape[2]:
        raise ValueError(
            f"K has shape {tuple(K.shape)}; it must be (L, H_out, "
            f"H_in) with H_in = {x.shape[2]}, as x"
        )
    dtype = _real_dtype((x, K))
    rows = _swapped(_in_precision(x, WIDE[dtype]))
    k = _in_precision(K, WIDE[dtype])[: x.shape[1]].transpose(1, 2, 0)
    return rows, k, dtype, (x, K)


def _with_kernels(x, K, B_, C, k_layout, threads):
    rows, k, dtype, views = _kernels_3d(x, K, B_, C, k_layout)
    if not np.iscomplexobj(rows):
        k = k.real
    y = conv_matrix(rows, k, threads=threads).real
    return finish(
        np.ascontiguousarray(_swapped(y)).astype(numpy_dtype(dtype), copy=False), views[0].kind
    )


def opt_ssm_backward(dy, x, K, B_, C, *, k_layout=None, needs=None, threads=None):
    """Return the `SsmGradients` (dx, dK, dB_, dC) of sum(dy . y), y = opt_ssm_forward(...).

    They are computed with projections in time, one block of the batch at a time.

    dy: (B, L, H_out), in y's dtype or one that is narrower.
    needs: which gradients to compute, out of "x", "K", "B_", "C"; None means those of all
        operands given.

    Each gradient has the shape, dtype and array library of its operand; that of a complex
    operand is d/dRe + i d/dIm.  Taps of K beyond L have gradient 0.  Raises TypeError for an
    argument that is not an array of numbers, ValueError for wrong values, and MemoryError.

    Example:
        >>> x, K, B_, C = [[[1], [2], [3]]], [[1], [1], [0]], [[1]], [[1]]
        >>> opt_ssm_backward([[[1], [1], [1]]], x, K, B_, C).dx.round(6).tolist()
        [[[2.0], [2.0], [1.0]]]
    """
    dense = len(np.shape(K)) == 3
    there = ("x", "K") if dense else ("x", "K", "B_", "C")
    needs = there if needs is None else (needs,) if needs in there else needs
    for name in needs:
        if name not in there:
            raise ValueError(f"needs names {name!r}; allowed here: {', '.join(map(repr, there))}")
    if dense:
        rows, k, dtype, views = _kernels_3d(x, K, B_, C, k_layout)
        shape = rows.shape[0], rows.shape[2], k.shape[0]
    else:
        p = _Operands(x, K, B_, C, k_layout)
        dtype, views = p.dtype, p.views
        shape = p.shape[:2] + (p.outputs,)
    g = fixed(dy, "dy", (dtype,), f"y is {dtype}")
    if tuple(g.shape) != shape:
        raise ValueError(f"dy has shape {tuple(g.shape)}; it must be {shape}, as y")
    g = _in_precision(g, WIDE[dtype])
    if dense:
        got = conv_matrix_backward(
            np.ascontiguousarray(_swapped(g)).astype(np.result_type(rows, k)),
            rows,
            k,
            threads=threads,
        )
        results = {"x": _swapped(got.du), "K": got.dk.transpose(2, 0, 1)}
    else:
        results = _backward(p, g, threads)
        if p.transposed:
            results["K"] = results["K"].T
    return SsmGradients(
        **{"d" + name: _like(results[name], v) for name, v in zip(there, views) if name in needs}
    )


def _like(gradient, v):
    """Return a gradient in the dtype, array library and shape of its operand v.

    Taps that had no effect get zeros.
    """
    dtype = v.gradient_dtype
    x = gradient if dtype in COMPLEX else gradient.real
    if x.shape != tuple(v.shape):
        x = np.pad(x, [(0, n - m) for n, m in zip(v.shape, x.shape)])
    return finish(np.ascontiguousarray(x).astype(numpy_dtype(dtype), copy=False), v.kind)


def _backward(p, g, threads):
    """Return {name: gradient} for g = dy.  With u = B x, z = K * u and y = Re C z,

    dz = conj(C)^T g,  dC = g conj(z)^T,
    dB = du conj(x)^T, dx = conj(B)^T du,

    where du and dK are the gradients of the convolution.
    """
    dtype = WIDE[p.dtype] if p.real else p.complex_dtype
    length = p.shape[1]
    batches = _batches(p, p.states * length * np.dtype(dtype).itemsize)
    u = aligned_empty((batches[0][1], p.states, length), dtype)
    K = p.K.astype(dtype, copy=False)
    dx = aligned_empty(p.shape, np.result_type(dtype, p.x.dtype))
    dK, dB, dC = (np.zeros(m.shape, np.result_type(dtype, np.float64)) for m in (p.K, p.B, p.C))
    for start, stop in batches:
        x = p.x[start:stop]
        _projected_rows(p, start, stop, u, threads)
        gt = _swapped(g[start:stop])
        dz = matmul(p.C.conj().T, gt, threads=threads).astype(dtype, copy=False)
        z = conv(u, K, threads=threads)
        dC += matmul(gt, _swapped(z), threads=threads).conj().sum(0)
        got = conv_backward(dz, u, K, threads=threads, needs=("u", "k"))
        dK += got.dk
        dB += matmul(got.du, x.conj(), threads=threads).sum(0)
        _outputs(p.B.conj().T, got.du, dx[start:stop], threads)
    return {"x": dx, "K": dK, "B_": dB, "C": dC}


# ---- fft_conv --------------------------------------------------------------------


def fft_conv(equation, input, *args, real=True, threads=None):
    """Convolve causally over the time axis, as an equation like those of einsum says.

        fft_conv("bli,loi->blo", x, k)              each output sums over the inputs
        fft_conv("bln,ln->bln", x, k)               one kernel for each channel
        fft_conv("blh,nl,nh,on->blo", x, K, B_, C)  the operation of opt_ssm_forward

    equation: the letters of the input are batch, time and channel, in this order; the result
        starts with the same batch and time.  Kernels and matrices may have their axes in any
        order, which their letters tell: (n, l) or (l, n).  A kernel whose only axis is time
        is used for all channels.
    input: (B, L, H_in).  args: one kernel, or K, B_ and C.  Kernels may have any length:
        taps beyond L have no effect, and nothing wraps around.
    real: True returns the real part, False the whole result as a complex array.
    threads: None means all processors.

    Returns (B, L, H_out), an array from the same library as the input.  dtypes promote to the
    widest precision, as in `opt_ssm_forward`; 16-bit operands are computed in float32.
    Raises TypeError for an argument that is not an array of numbers, and ValueError, naming
    the part of the equation that is wrong.

    Example:
        >>> fft_conv("bln,l->bln", [[[1], [2], [3]]], [1, 1]).round(6).tolist()
        [[[1.0], [3.0], [5.0]]]
    """
    x, arrays, order = _parse(equation, input, args)
    if len(arrays) == 3:
        K, B_, C = arrays
        p = _Operands(x, K, B_, C, "NL")
        if real:
            p.reduce()
            return _run(p, _order(p, "auto", threads), threads)
        dtype = numpy_dtype(p.complex_dtype)
        y = aligned_empty(p.shape[:2] + (p.outputs,), dtype)
        length = p.shape[1]
        for start, stop in _batches(p, p.states * length * dtype.itemsize):
            u = aligned_empty((stop - start, p.states, length), dtype)
            _projected_rows(p, start, stop, u, threads)
            conv(u, p.K, threads=threads, out=u)
            _outputs(p.C, u, y[start:stop], threads)
        return finish(y, p.kind)
    (k,) = arrays
    dtype = _real_dtype((x, k))
    rows = _swapped(_in_precision(x, WIDE[dtype]))
    k = _in_precision(k, WIDE[dtype])[..., : rows.shape[2]]
    if real and not np.iscomplexobj(rows):
        k = k.real
    run = conv if order == "channels" else conv_matrix
    y = _swapped(run(rows, k, threads=threads))
    y = np.ascontiguousarray(y.real if real else y).astype(
        numpy_dtype(dtype if real else COMPLEX_OF[dtype]), copy=False
    )
    return finish(y, x.kind)


def _parse(equation, input, args):
    """Return (the View of the input, the Views of args, the name of the convolution).

    The Views of args have their axes in the order that `equation_axes` tells.
    """
    names = operand_names(args)
    views = [view(a, name) for a, name in zip((input, *args), names)]
    axes, order = equation_axes(equation, [v.shape for v in views])
    arrays = [
        v.reshaped(tuple(v.shape[a] for a in axis), tuple(v.strides[a] for a in axis))
        for v, axis in zip(views[1:], axes)
    ]
    return views[0], arrays, order


def operand_names(args):
    """Return the names of fft_conv's operands."""
    return ["input"] + (["K", "B_", "C"] if len(args) == 3 else ["kernel"] * len(args))


def equation_axes(equation, shapes):
    """Return (the order of each argument's axes, the name of the convolution).

    shapes: those of fft_conv's input and of its args.  The axes are brought to the order that
    the library uses:
    "channels": [k] as (n, l) or (l,); "matrix": [k] as (o, i, l);
    "states": [K, B_, C] as (n, l), (n, i), (o, n).
    """
    count = len(shapes)

    def wrong(what):
        return ValueError(f"equation is {equation!r}; {what}")

    if not isinstance(equation, str) or equation.count("->") != 1:
        raise wrong("it must be a str such as 'bli,loi->blo'")
    left, out = equation.replace(" ", "").split("->")
    terms = left.split(",")
    if count not in (2, 4) or len(terms) != count:
        raise wrong(
            f"it has {len(terms)} operands and {count} are "
            "given; there must be an input and a kernel, or an input, "
            "K, B and C"
        )
    for term in [*terms, out]:
        if not term.isalpha() or len(set(term)) != len(term):
            raise wrong(f"{term!r} must be letters, none of them twice")
    if len(terms[0]) != 3 or len(out) != 3 or terms[0][:2] != out[:2]:
        raise wrong(
            "the input and the result must have three letters, the "
            "first two, batch and time, the same"
        )
    lengths = {}
    for shape, name, term in zip(shapes, operand_names(shapes[1:]), terms):
        if len(shape) != len(term) or 0 in shape:
            raise ValueError(
                f"{name} has shape {tuple(shape)}; by the "
                f"equation's {term!r} it must have {len(term)} "
                "axes, each at least 1"
            )
        for letter, n in zip(term, shape):
            if letter != terms[0][1] and lengths.setdefault(letter, n) != n:
                raise ValueError(
                    f"{name} has shape {tuple(shape)}; by the "
                    f"equation its axis {letter!r} must be "
                    f"{lengths[letter]}"
                )
    time_, i, o = terms[0][1], terms[0][2], out[2]

    def axes(*letters):
        return [[term.index(letter) for letter in word] for term, word in zip(terms[1:], letters)]

    if count == 4:
        state = set(terms[1]) - {time_}
        n = state.pop() if len(state) == 1 else ""
        if (
            set(terms[1]) != {time_, n}
            or set(terms[2]) != {n, i}
            or set(terms[3]) != {o, n}
            or len({time_, n, i, o}) < 4
        ):
            raise wrong(
                "K must have the letters of time and state, B_ of "
                "state and channel, C of the result's channel and "
                "state"
            )
        return axes(n + time_, n + i, o + n), "states"
    if i == o and set(terms[1]) in ({time_, i}, {time_}):
        return axes(terms[1].replace(time_, "") + time_), "channels"
    if i != o and set(terms[1]) == {time_, o, i}:
        return axes(o + i + time_), "matrix"
    raise wrong(
        "the kernel must have the letters of time and, of equal "
        "channels in and out, none or that of the channel; of others, "
        "both"
    )
