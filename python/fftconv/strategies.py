"""Convolutions of state-space layers: lrnnx's opt_ssm_forward and fft_conv.

    y[b, t, o] = Re sum_n C[o, n] sum_{j <= t} K[j, n] sum_i B_[n, i] x[b, t - j, i]

in three orders, which cost differently and give the same numbers (Centaurus,
arXiv 2409.03377, section 3):

1. the kernels of all (o, i) in time, then a dense convolution;
2. project, convolve each of N rows, project back;
3. project, or make the kernels, between the transforms, at each frequency.

Nothing of size (B, F, N, H) or (B, F, N) is ever made: blocks of the batch, of
kernels, or of frequencies pass through the cache.
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
from ._array import COMPLEX_OF, WIDE, aligned_empty, choice, finish, numpy_dtype, size, view
from .convolution import _plan as _rows_plan
from .convolution import conv, conv_backward
from .matrix import BLOCK_BYTES, Spectra, _first, _plan, _tensor, conv_matrix, conv_matrix_backward

#: What the N rows of strategy 2 may take at a time.
ROWS_BYTES = 2 << 20
STRATEGIES = ("auto", "upstream", 1, 2, 3)


class SsmGradients(NamedTuple):
    """Gradients of sum(dy * y), of each operand's shape and dtype; of complex
    ones d/dRe + i d/dIm. None where not asked for."""

    dx: Any = None
    dK: Any = None
    dB_: Any = None
    dC: Any = None


# ---- Operands -----------------------------------------------------------------


class _Operands:
    """What a call computes with: x (B, L, I), K (N, Lk), Lk <= L, B (N, I),
    C (O, N), NumPy arrays of one precision; real where the result is not changed
    by it.

    dtype: the result's; kind: x's; real: all four are.
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
        self.transposed = _k_layout(K.shape, states, k_layout) == "LN"
        self.views = x, K, B_, C
        self.kind = x.kind
        self.dtype = _result([v.dtype for v in self.views])
        real = WIDE[self.dtype]
        x, K, B_, C = (_array(v, real) for v in self.views)
        K = K.T if self.transposed else K
        self.full = K.shape[1]
        K = np.ascontiguousarray(K[:, : x.shape[1]])
        self.x, self.K, self.B, self.C = x, K, B_, C
        self.shape = x.shape
        self.states, self.inputs = B_.shape
        self.outputs = len(C)

    @property
    def real(self):
        return not any(map(np.iscomplexobj, (self.x, self.K, self.B, self.C)))

    def reduce(self):
        """Parts that a real part of the result cannot see: with x real and two
        of K, B, C real, the third's imaginary part."""
        names = [n for n in ("K", "B", "C") if np.iscomplexobj(getattr(self, n))]
        if len(names) == 1 and not np.iscomplexobj(self.x):
            setattr(self, names[0], np.ascontiguousarray(getattr(self, names[0]).real))

    @property
    def complex_dtype(self):
        return COMPLEX_OF[WIDE[self.dtype]]


def _array(v, real):
    """A View as an array of this precision."""
    a = v.numpy()
    return a.astype(COMPLEX_OF[real] if a.dtype.kind == "c" else real, copy=False)


def _result(dtypes):
    """The real dtype of a result: the widest precision; 16 bits if all are."""
    wide = {WIDE[d] for d in dtypes}
    if "float64" in wide:
        return "float64"
    return (
        dtypes[0] if len(set(dtypes)) == 1 and dtypes[0] in ("float16", "bfloat16") else "float32"
    )


def _k_layout(shape, states, k_layout):
    """ "LN" or "NL", from K's shape where that tells, or ValueError."""
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
            f"K has shape {tuple(shape)}, with L = N: taken as (L, N), as "
            'documented; say k_layout="LN" or "NL"',
            stacklevel=4,
        )
        return "LN"
    if shape[k_layout.index("N")] != states:
        raise ValueError(
            f"K has shape {tuple(shape)}; with k_layout="
            f"{k_layout!r} its axis N must be {states}, as B_"
        )
    return k_layout


def _swapped(x):
    return x.swapaxes(1, 2)


def _batches(operands, row_bytes):
    """(start, stop) over the batch, with at most ROWS_BYTES of rows each, all
    of one size: the largest divisor."""
    batch = operands.shape[0]
    block = _block_of(batch, row_bytes)
    return [(b, b + block) for b in range(0, batch, block)]


# ---- The three strategies --------------------------------------------------------


def _spectra(length, taps, dtype, threads):
    return Spectra(_plan(length, taps, None, dtype, "causal", None, threads))


def _blocks(outputs, inputs, row_bytes):
    """Blocks of kernels of at most BLOCK_BYTES of spectra, all inputs of an
    output in turn."""
    i_block = min(inputs, max(1, BLOCK_BYTES // row_bytes))
    o_block = min(outputs, max(1, BLOCK_BYTES // (row_bytes * i_block)))
    return [
        (o, min(o + o_block, outputs), i, min(i + i_block, inputs))
        for o in range(0, outputs, o_block)
        for i in range(0, inputs, i_block)
    ]


def _folded(p):
    """K' (N', Lk) and w(o, o_end, i, i_end) -> (outputs, inputs, N') such that
    the kernel of (o, i) is sum_n w K': for real x of the real part alone."""
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
    """Strategy 1, or 3 with the kernels made at each frequency."""
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
        SK = s.spectra_of_taps([_tensor(view(K[:, None], "K"))], s.new_spectra(len(K), 1))[:, 0]
    for o, o_end, i, i_end in blocks:
        w = weights(o, o_end, i, i_end).reshape(-1, len(K))
        if in_time:
            k = (w @ K).reshape(o_end - o, i_end - i, -1).astype(dtype, copy=False)
            S = s.spectra_of_taps([_tensor(view(k, "K"))], memory)
            del k  # before the next block's is made
        else:
            S = _first(memory, o_end - o, i_end - i)
            _spectral_matmul(w, SK, S.reshape(len(w), -1), s.plan.lanes)
        Y = _first(sums, p.shape[0], o_end - o)
        s.contract(U[:, i:i_end], S.swapaxes(0, 1), Y, accumulate=i > 0)
        if i_end == p.inputs:
            _real_rows(s, Y, dtype, y[:, :, o:o_end])


def _real_rows(s, Y, dtype, y):
    """y (batch, L, outputs) from its rows' spectra: the real part."""
    rows = _swapped(y)
    if np.dtype(dtype).kind != "c":
        s.rows_from(Y, _lib.OUTPUT, view(rows, "y"))
        return
    wide = aligned_empty(rows.shape, dtype)
    s.rows_from(Y, _lib.OUTPUT, view(wide, "y"))
    rows[...] = wide.real


def _spectral_matmul(w, s, out, lanes):
    """out = w s, s (N, reals) of spectra, w real or complex."""
    if not np.iscomplexobj(w):
        np.matmul(w.astype(s.dtype, copy=False), s, out=out)
        return
    np.matmul(np.ascontiguousarray(w.real), s, out=out)
    turned = (np.ascontiguousarray(w.imag) @ s).reshape(len(w), -1, 2, lanes)
    parts = out.reshape(len(w), -1, 2, lanes)
    parts[:, :, 0] -= turned[:, :, 1]
    parts[:, :, 1] += turned[:, :, 0]


def _projected_rows(p, start, stop, u):
    """u (batch, N, L) = B x, for some of the batch; in u's dtype, real or
    complex."""
    x = _swapped(p.x[start:stop].astype(u.dtype, copy=False))
    np.matmul(p.B.astype(u.dtype, copy=False), x, out=u)


def _projections_in_time(p, y, threads):
    """Strategy 2."""
    dtype = numpy_dtype(WIDE[p.dtype] if p.real else p.complex_dtype)
    length = p.shape[1]
    batches = _batches(p, p.states * length * dtype.itemsize)
    u = aligned_empty((batches[0][1], p.states, length), dtype)
    plan = _rows_plan(u.shape, p.K.shape, None, dtype.name, "causal", None, None, threads)
    spectrum = plan.spectrum(p.K)
    for start, stop in batches:
        _projected_rows(p, start, stop, u)
        plan(u, spectrum, out=u)
        if p.real:
            np.matmul(_swapped(u), p.C.T, out=y[start:stop])
        else:
            y[start:stop] = (_swapped(u) @ p.C.T).real


def _projections_in_frequency(p, y, threads):
    """Strategy 3, projections at each frequency."""
    dtype = WIDE[p.dtype] if p.real else p.complex_dtype
    length = p.shape[1]
    s = _spectra(length, p.K.shape[1], dtype, threads)
    taps = p.K.astype(dtype, copy=False)[:, None]
    SK = s.spectra_of_taps([_tensor(view(taps, "K"))], s.new_spectra(p.states, 1))
    real = s.plan._real_dtype()
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
        c = _lib.Projection(
            size=ctypes.sizeof(_lib.Projection),
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
        del x, U  # before the next batches' are made
        _real_rows(s, Y, dtype, y[start:stop])


#: What runs each: strategy 3 has two inner orders.
ORDERS = {
    "1": lambda p, y, threads: _dense(p, y, threads, True),
    "2": _projections_in_time,
    "3 projections": _projections_in_frequency,
    "3 kernels": lambda p, y, threads: _dense(p, y, threads, False),
}


# ---- What they cost --------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What the cost model knows of a machine, in seconds, on the threads it was
    measured with."""

    gemm: float  #: a real flop of NumPy's matmul
    contract: float  #: ... of the matrix product at each frequency
    project: float  #: ... of the projections at each frequency
    transform: float  #: a row's transform, over the planner's estimate
    byte: float  #: a byte of an array read or written in order
    turn: float  #: ... where axes of time and channels are exchanged
    call: dict  #: of each order: what the smallest problem takes


@dataclass(frozen=True)
class Cost:
    """A strategy's prediction. Flops are real ones; memory is what a call holds
    at most beside operands and result."""

    flops: float
    seconds: float
    memory_bytes: int


def _shape_of(p):
    """What decides a problem's cost; of zeros in place of arrays, too."""
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
    """{order: Cost} of a problem."""
    item = np.dtype(real_dtype).itemsize
    B, L, I, O, N = batch, length, inputs, outputs, states
    result = {}
    for order in ORDERS:
        dense = order in ("1", "3 kernels")
        # the rows of the dense orders are real where x is
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
            rate = 4 if x_complex else 1  # complex products
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
            passes = -(-O // ob)  # of x's spectra
            moved = (
                B * (I * (1 + passes) + 3 * O) * row
                + B * O * bytes_
                + I * O * (4 * row if order != "1" else 2 * bytes_ + 2 * row)
            )
            turned = 2 * B * (I + O) * bytes_
            copied = bytes_ if wide else 0  # x, and y, made complex
            memory = (
                B * I * (row + (0 if x_complex else copied))
                + ob * ib * row
                + B * ob * (row + copied)
                + ob * ib * folds * N * item * rate
            )
            memory += ob * ib * bytes_ * taps // L if order == "1" else folds * N * row
        elif order == "2":
            gemm = 2 * B * L * N * (I + O) * c * c  # complex: 4 products
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


@cache
def machine(dtype="float32", threads=None):
    """This `Machine`, measured on first use (about a tenth of a second)."""
    dtype = choice(dtype, "dtype", {"float32": "float32", "float64": "float64"})
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
    gemm = fastest(lambda: a @ b) / (2 * n * n * length)
    s = _spectra(length, length, dtype, threads)
    rows = view(random(n, n // 4, length), "rows")
    U = s.spectra_of(rows, _lib.INPUT)
    few = view(random(1, n, length), "rows")
    plan = _rows_plan((1, n, length), (n, length), None, dtype, "causal", None, None, threads)
    taps = plan.spectrum(random(n, length))
    transform = fastest(lambda: plan(few.keep, taps, out=few.keep))
    transform /= n * s.plan.counters.predicted_seconds
    half = n // 2
    square = U.reshape(half, half, -1)
    Y = s.new_spectra(half, half)
    contract = fastest(lambda: s.contract(square, square, Y))
    contract /= 8 * s.plan.transform_length * half**3
    c = _lib.Projection(
        size=ctypes.sizeof(_lib.Projection),
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
    """{"1", "2", "3 projections", "3 kernels": `Cost`} of opt_ssm_forward for
    x (batch, length, inputs), a kernel for each of `states`, and `outputs`;
    is_complex: of K, B_ and C. hardware: a `Machine`; None: this one.

    Flops are counted; seconds add those of matrix products, transforms (the
    planner's estimate), bytes moved and of a call, each at the machine's
    measured rate. Raises ValueError.
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
    """1, 2 or 3 by lrnnx's rule, which length does not enter:

    1/H_in + 1/H_out > 1/B + 1/N: 1 if H_in H_out <= N, else 3
    otherwise:                    2 if N <= H_in, else 3
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
    """The order that a strategy means for a problem."""
    if strategy == "upstream":
        strategy = upstream_strategy(p.shape[0], p.inputs, p.outputs, p.states)
    allowed = [o for o in ORDERS if strategy in ("auto", int(o[0]))]
    if len(allowed) == 1:
        return allowed[0]
    costs = _costs(machine(WIDE[p.dtype], threads), *_shape_of(p), threads)
    return min(allowed, key=lambda order: costs[order].seconds)


# ---- The calls -------------------------------------------------------------------


def opt_ssm_forward(x, K, B_, C, *, strategy="auto", k_layout=None, threads=None):
    """y (B, L, H_out): project x by B_, convolve with K, project by C.

        y[b,t,o] = Re sum_n C[o,n] sum_{j<=t} K[j,n] sum_i B_[n,i] x[b,t-j,i]

    Args:
        x: (B, L, H_in). B_: (N, H_in). C: (H_out, N). All, and K, real or
            complex, float64 to bfloat16; arithmetic in float32 or better.
        K: (Lk, N) as lrnnx documents it, or (N, Lk) as its models pass it, told
            by shape; taps past L do nothing. Or (Lk, H_out, H_in), the kernels
            themselves, B_ and C None.
        strategy: 1, the kernels first; 2, projections in time; 3, at each
            frequency; "auto", the least seconds of `strategy_costs`;
            "upstream", lrnnx's rule. All equal but for rounding.
        k_layout: "LN" or "NL". None: by shape, and where Lk = N the documented
            "LN", with a warning.
        threads: of the transforms; None: all. NumPy's matrix products use its
            own.

    Returns y, of x's kind; real, of the widest precision of the four (16 bits if
    all have the same 16). Raises ValueError naming the argument; MemoryError.

    Centaurus, arXiv 2409.03377, section 3.
    """
    _check_strategy(strategy)
    if len(np.shape(K)) == 3:
        return _with_kernels(x, K, B_, C, k_layout, threads)
    p = _Operands(x, K, B_, C, k_layout)
    p.reduce()
    return _run(p, _order(p, strategy, threads), threads)


def _run(p, order, threads):
    y = aligned_empty(p.shape[:2] + (p.outputs,), WIDE[p.dtype])
    ORDERS[order](p, y, threads)
    return finish(y.astype(numpy_dtype(p.dtype), copy=False), p.kind)


def _check_strategy(strategy):
    if isinstance(strategy, bool) or strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; allowed: {', '.join(map(repr, STRATEGIES))}")


def _kernels_3d(x, K, B_, C, k_layout):
    """(x (B, H_in, L), k (H_out, H_in, Lk), the result's dtype, Views)."""
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
    dtype = _result([x.dtype, K.dtype])
    rows = _swapped(_array(x, WIDE[dtype]))
    k = _array(K, WIDE[dtype])[: x.shape[1]].transpose(1, 2, 0)
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
    """`SsmGradients` (dx, dK, dB_, dC) of sum(dy . y), y that of
    `opt_ssm_forward`, by projections in time, a block of the batch at a time.

    dy: (B, L, H_out), y's dtype. needs: which, out of "x", "K", "B_", "C"; None
    means all that are given. Each has its operand's shape, dtype and kind; of
    complex ones d/dRe + i d/dIm. Taps of K past L have gradient 0. Raises
    ValueError; MemoryError.
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
    g = view(dy, "dy")
    if tuple(g.shape) != shape or g.dtype != dtype:
        raise ValueError(
            f"dy has shape {tuple(g.shape)} and dtype {g.dtype}; "
            f"it must be {shape} and {dtype}, as y"
        )
    g = _array(g, WIDE[dtype])
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
    """A gradient in its operand's dtype, kind and shape: zeros for taps that
    did nothing."""
    x = gradient if v.dtype.startswith("complex") else gradient.real
    if x.shape != tuple(v.shape):
        x = np.pad(x, [(0, n - m) for n, m in zip(v.shape, x.shape)])
    return finish(np.ascontiguousarray(x).astype(numpy_dtype(v.dtype), copy=False), v.kind)


def _backward(p, g, threads):
    """{name: gradient}: with u = B x, z = K * u and y = Re C z,

    dz = conj(C)^T g,  dC = g conj(z)^T,  (du, dK) by the convolution,
    dB = du conj(x)^T, dx = conj(B)^T du."""
    dtype = WIDE[p.dtype] if p.real else p.complex_dtype
    length = p.shape[1]
    batches = _batches(p, p.states * length * np.dtype(dtype).itemsize)
    u = aligned_empty((batches[0][1], p.states, length), dtype)
    K = p.K.astype(dtype, copy=False)
    dx = aligned_empty(p.shape, np.result_type(dtype, p.x.dtype))
    dK, dB, dC = (np.zeros(m.shape, np.result_type(dtype, np.float64)) for m in (p.K, p.B, p.C))
    for start, stop in batches:
        x = p.x[start:stop]
        _projected_rows(p, start, stop, u)
        gt = _swapped(g[start:stop])
        dz = (p.C.conj().T @ gt).astype(dtype, copy=False)
        z = conv(u, K, threads=threads)
        dC += (gt @ _swapped(z).conj()).sum(0)
        got = conv_backward(dz, u, K, threads=threads, needs=("u", "k"))
        dK += got.dk
        dB += (got.du @ x.conj()).sum(0)
        dx[start:stop] = _swapped(got.du) @ p.B.conj()
    return {"x": dx, "K": dK, "B_": dB, "C": dC}


# ---- fft_conv --------------------------------------------------------------------


def fft_conv(equation, input, *args, real=True, threads=None):
    """Causal convolution over the axis of time, by an einsum-like equation.

        fft_conv("bli,loi->blo", x, k)              k mixes channels
        fft_conv("bln,ln->bln", x, k)               a kernel for each channel
        fft_conv("blh,nl,nh,on->blo", x, K, B_, C)  opt_ssm_forward's

    The input's letters are batch, time, channel; the result has batch and time
    in these places. The axes of kernels and matrices are told by their letters,
    in any order: (n, l) or (l, n). A kernel of time alone serves all channels.
    Kernels of any length: taps past L do nothing, nothing wraps.

    real: True: the real part. False: the whole, a complex array. float64 stays
    float64, 16 bits compute in float32. Returns (B, L, H_out), of the input's
    kind. Raises ValueError naming the equation's part that is wrong.
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
            _projected_rows(p, start, stop, u)
            conv(u, p.K, threads=threads, out=u)
            y[start:stop] = _swapped(u) @ p.C.T
        return finish(y, p.kind)
    (k,) = arrays
    dtype = _result([x.dtype, k.dtype])
    rows = _swapped(_array(x, WIDE[dtype]))
    k = _array(k, WIDE[dtype])[..., : rows.shape[2]]
    if real and not np.iscomplexobj(rows):
        k = k.real
    run = conv if order == "channels" else conv_matrix
    y = _swapped(run(rows, k, threads=threads))
    y = np.ascontiguousarray(y.real if real else y).astype(
        numpy_dtype(dtype if real else COMPLEX_OF[dtype]), copy=False
    )
    return finish(y, x.kind)


def _parse(equation, input, args):
    """(View of the input, Views of the arguments in the library's axes, which
    convolution): [k] as (n, l) or (l,), "channels"; [k] as (o, i, l),
    "matrix"; [K, B_, C] as (n, l), (n, i), (o, n)."""

    def wrong(what):
        return ValueError(f"equation is {equation!r}; {what}")

    if not isinstance(equation, str) or equation.count("->") != 1:
        raise wrong("it must be a str such as 'bli,loi->blo'")
    left, out = equation.replace(" ", "").split("->")
    terms = left.split(",")
    if len(args) not in (1, 3) or len(terms) != len(args) + 1:
        raise wrong(
            f"it has {len(terms)} operands and {len(args) + 1} are "
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
    names = ["input"] + (["K", "B_", "C"] if len(args) == 3 else ["kernel"])
    views = [view(a, name) for a, name in zip((input, *args), names)]
    lengths = {}
    for v, name, term in zip(views, names, terms):
        if len(v.shape) != len(term) or 0 in v.shape:
            raise ValueError(
                f"{name} has shape {tuple(v.shape)}; by the "
                f"equation's {term!r} it must have {len(term)} "
                "axes, each at least 1"
            )
        for letter, n in zip(term, v.shape):
            if letter != terms[0][1] and lengths.setdefault(letter, n) != n:
                raise ValueError(
                    f"{name} has shape {tuple(v.shape)}; by the "
                    f"equation its axis {letter!r} must be "
                    f"{lengths[letter]}"
                )
    time_, i, o = terms[0][1], terms[0][2], out[2]

    def in_order(v, term, letters):
        axes = [term.index(letter) for letter in letters]
        return v.reshaped(tuple(v.shape[a] for a in axes), tuple(v.strides[a] for a in axes))

    if len(args) == 3:
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
        return (
            views[0],
            [
                in_order(v, term, letters)
                for v, term, letters in zip(views[1:], terms[1:], (n + time_, n + i, o + n))
            ],
            "states",
        )
    if i == o and set(terms[1]) in ({time_, i}, {time_}):
        letters = terms[1].replace(time_, "") + time_
        return views[0], [in_order(views[1], terms[1], letters)], "channels"
    if i != o and set(terms[1]) == {time_, o, i}:
        return views[0], [in_order(views[1], terms[1], o + i + time_)], "matrix"
    raise wrong(
        "the kernel must have the letters of time and, of equal "
        "channels in and out, none or that of the channel; of others, "
        "both"
    )
