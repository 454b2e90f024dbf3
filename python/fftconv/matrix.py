"""Convolutions that mix channels, with a kernel for each pair of output and input channel.

    y[b, o] = sum_i k[o, i] * u[b, i]            `*`: causal, circular or two-sided

Every row is transformed once.  The sum over channels is a matrix product at each
frequency m,

    Y[b, o, m] = sum_i U[b, i, m] K[o, i, m],

so that a row costs one transform instead of one for each kernel.  The kernels are
transformed in blocks: besides spectra of the rows of u and y, a call holds at most
`BLOCK_BYTES` of kernels' spectra (or one kernel's), and never an array of size
(B, M, H_out, H_in).
"""

import ctypes
from ctypes import byref
from functools import lru_cache

from . import _lib
from ._array import (
    COMPLEX,
    KERNEL_DTYPES,
    aligned_bytes,
    converted,
    demoted,
    empty,
    finish,
    output_view,
    result_dtype,
    view,
)
from ._gradients import Gradients
from ._handles import tensor
from ._view import ITEM_BYTES, View
from .plan import Plan, check_needs, check_reverse

#: The most bytes that the spectra of one block of kernels take.
BLOCK_BYTES = 32 << 20


@lru_cache(maxsize=32, typed=True)
def row_plan(length, taps, reverse, dtype, mode, fft_size, threads):
    """The plan of a single row; the primitives run it on any number of rows."""
    # The folded form is excluded: its spectra consist of parts with a factor 1/M each,
    # while `contract` applies one factor.
    return Plan(
        (1, 1, length),
        (1, 1, taps),
        dtype=dtype,
        mode=mode,
        fft_size=fft_size,
        k_rev_length=reverse,
        threads=threads,
        form=None if dtype in COMPLEX else "right_angle",
        single_block=True,
    )


class Spectra:
    """The operations on spectra of one plan: making them, contracting them, inverting them.

    Spectra are arrays (n0, n1, reals), one row of reals for each pair of indices.
    """

    def __init__(self, plan):
        self.plan = plan
        self.row_bytes = plan.counters.spectra_row_bytes

    def new_spectra(self, n0, n1):
        """An uninitialised array of spectra, (n0, n1, reals), aligned to 64 bytes."""
        data, _ = aligned_bytes(n0 * n1 * self.row_bytes)
        return data.view(self.plan.spectra_dtype).reshape(n0, n1, -1)

    def _desc(self, s, **members):
        return _lib.SpectraDesc(
            size=ctypes.sizeof(_lib.SpectraDesc), spectra=s.ctypes.data, **members
        )

    def spectra_of(self, rows, side):
        """The spectra of rows, a View (n0, n1, L).

        side: `_lib.INPUT` for rows of u or du, `_lib.OUTPUT` for rows of y or dy.
        """
        s = self.new_spectra(*rows.shape[:2])
        desc = self._desc(s, side=side, rows=tensor(rows))
        _lib.lib.fftconv_rows_to_spectra(self.plan._handle, byref(desc))
        return s

    def rows_from(self, s, side, rows):
        """Write the rows of spectra s to the View `rows`.  s is overwritten."""
        desc = self._desc(s, side=side, rows=tensor(rows))
        _lib.lib.fftconv_spectra_to_rows(self.plan._handle, byref(desc))

    def spectra_of_taps(self, tensors, memory):
        """The spectra of kernels (n0, n1, Lk), written to `memory`.

        tensors: k, and k_rev if there is one.  The factor 1/M of the inverse DFT is not
        included.
        """
        s = first_rows(memory, *tensors[0].shape[:2])
        desc = self._desc(s, **_kernels(tensors))
        _lib.lib.fftconv_kernels_to_spectra(self.plan._handle, byref(desc))
        return s

    def contract(self, a, b, out, *, conjugate_b=False, accumulate=False):
        """out[r, c] = (1 / M) sum_d a[r, d] b[d, c] at every frequency.

        The factor 1/M is that of the inverse DFT, which the transforms leave out.
        conjugate_b: use conj(b).  accumulate: add to out.
        """
        c = _lib.ContractionDesc(
            size=ctypes.sizeof(_lib.ContractionDesc),
            rows=a.shape[0],
            columns=b.shape[1],
            depth=a.shape[1],
            a=a.ctypes.data,
            b=b.ctypes.data,
            out=out.ctypes.data,
            scale=1 / self.plan.transform_length,
            conjugate_b=conjugate_b,
            accumulate=accumulate,
        )
        for name, x in ("a", a), ("b", b), ("out", out):
            getattr(c, name + "_stride")[:] = [s // self.row_bytes for s in x.strides[:2]]
        _lib.lib.fftconv_contract(self.plan._handle, byref(c))


class _MatrixCall(Spectra):
    """The checked operands of one call, and the steps that the calls are made of.

    u: a View.
    kernels: the Views of k and k_rev, by name.
    dy: a View in a backward call, else None.
    blocks: the blocks of kernels, each as (first output, last + 1, first input,
        last + 1); those that share outputs follow one another.
    """

    def __init__(self, u, k, mode, fft_size, k_rev, threads, dy=None):
        u, k = view(u, "u"), view(k, "k")
        if len(u.shape) != 3 or 0 in u.shape:
            raise ValueError(f"u has shape {u.shape}; it must be (B, H_in, L), each at least 1")
        if len(k.shape) != 3 or 0 in k.shape or k.shape[1] != u.shape[1]:
            raise ValueError(
                f"k has shape {k.shape}; it must be (H_out, H_in, "
                f"Lk) with H_in = {u.shape[1]}, as u, and the "
                "others at least 1"
            )
        kernels, reverse = {"k": k}, None
        check_reverse(k_rev, mode)
        if k_rev is not None:
            k_rev = view(k_rev, "k_rev")
            if len(k_rev.shape) != 3 or k_rev.shape[:2] != k.shape[:2] or k_rev.shape[2] < 1:
                raise ValueError(
                    f"k_rev has shape {k_rev.shape}; it must be "
                    f"k's, {k.shape}, but for the length, at "
                    "least 1"
                )
            kernels["k_rev"], reverse = k_rev, k_rev.shape[2]
        self.dtype = result_dtype((u, dy), kernels.values())
        self.u, self.dy = self._rows(u, "u"), dy and self._rows(dy, "dy")
        self.kernels = {
            name: converted(v, name, KERNEL_DTYPES[self.dtype], self._why())
            for name, v in kernels.items()
        }

        arguments = (u.shape[2], k.shape[2], reverse, self.dtype, mode, fft_size, threads)
        try:
            super().__init__(row_plan(*arguments))
        except TypeError:  # An argument is not hashable; Plan names it in its error.
            super().__init__(row_plan.__wrapped__(*arguments))
        self.outputs, self.inputs = k.shape[:2]
        inputs = min(self.inputs, max(1, BLOCK_BYTES // self.row_bytes))
        outputs = min(self.outputs, max(1, BLOCK_BYTES // (self.row_bytes * inputs)))
        self.blocks = [
            (o, min(o + outputs, self.outputs), i, min(i + inputs, self.inputs))
            for o in range(0, self.outputs, outputs)
            for i in range(0, self.inputs, inputs)
        ]

    def _rows(self, v, name):
        return converted(v, name, (self.dtype,), self._why())

    def _why(self):
        return f"the result is {self.dtype}"

    def spectra_of_kernels(self, block, memory):
        """The spectra of a block of kernels, written to `memory`."""
        return self.spectra_of_taps(
            [tensor(_block(v, *block)) for v in self.kernels.values()], memory
        )

    def kernels_from(self, s, block, gradients):
        """Write a block of the kernels' gradients, Views (H_out, H_in, length), from its
        spectra s."""
        tensors = [tensor(_block(v, *block)) for v in gradients]
        desc = self._desc(s, **_kernels(tensors))
        _lib.lib.fftconv_spectra_to_kernels(self.plan._handle, byref(desc))


def _kernels(tensors):
    """{"k": tensor}, and "k_rev" if there is one: members of a SpectraDesc."""
    return dict(zip(("k", "k_rev"), tensors))


def _block(v, o, o_end, i, i_end):
    """A View of entries [o, o_end) x [i, i_end) of View v, (H_out, H_in, L)."""
    start = o * v.strides[0] + i * v.strides[1]
    return View(
        v.pointer + start * ITEM_BYTES[v.dtype],
        v.dtype,
        (o_end - o, i_end - i, v.shape[2]),
        v.strides,
        v.keep,
        v.kind,
    )


def first_rows(memory, n0, n1):
    """The first n0 n1 rows of the array `memory` of spectra, as (n0, n1, reals)."""
    rows = memory.reshape(-1, memory.shape[-1])[: n0 * n1]
    return rows.reshape(n0, n1, -1)


def _span(v):
    """The addresses of a View's first byte and of the byte after its last."""
    reach = [(n - 1) * s * ITEM_BYTES[v.dtype] for n, s in zip(v.shape, v.strides)]
    return (
        v.pointer + sum(r for r in reach if r < 0),
        v.pointer + sum(r for r in reach if r > 0) + ITEM_BYTES[v.dtype],
    )


def conv_matrix(u, k, *, mode="causal", fft_size=None, k_rev=None, threads=None, out=None):
    """y[b, o] = sum_i k[o, i] * u[b, i]: a convolution that mixes all channels.

    Args:
        u: (B, H_in, L), any dtype and array library that `conv` takes on the CPU, any
            strides.
        k: (H_out, H_in, Lk).
        mode: "causal", sum_{s<=t} k[s] u[t-s]; "circular", the same sum with t - s taken
            modulo fft_size; "two_sided", the causal sum plus
            sum_{s>=0} k_rev[s] u[t+s], so that lag 0 is counted in both sums.
        fft_size: the circular mode's period, at least L and Lk; None means L.
            Other modes take None only.
        k_rev: the two-sided mode's second kernel, required there and not allowed
            elsewhere: (H_out, H_in, its own length).
        threads: None means all processors. The result does not depend on it.
        out: the array to write y to: (B, H_out, L), of the result's dtype. It may be u
            itself, and must not overlap k or k_rev.

    Types promote as in `conv`: y has u's 16-bit dtype if the kernels have 16 bits or
    float32.

    Returns y (B, H_out, L), of u's array library. Products and sums are in float32
    (float64 for float64 and complex128), and sums over H_in have a fixed order. Numbers
    are taken as they stand, without the powers of two of `conv`: the largest number of
    each row and kernel should be between 2^-40 and 2^40 (float64: 2^-400 and 2^400), and
    denormal numbers count as zeros. Each
    sequence of the batch is independent of the others, to the last bit. Besides the
    operands, the call needs memory for the spectra of u's rows, those of a block of
    outputs, and `BLOCK_BYTES` (32 MiB) of kernels' spectra, or one kernel's if that is
    more.

    Raises TypeError for an operand that is not an array of numbers and ValueError for
    a wrong value, both before anything is written and naming the argument; MemoryError.

    Example:
        >>> u = [[[1, 2, 3], [0, 1, 0]]]  # one row of two channels
        >>> k = [[[1, 1], [1, 0]]]  # into one
        >>> conv_matrix(u, k).round(6).tolist()
        [[[1.0, 4.0, 5.0]]]
    """
    call = _MatrixCall(u, k, mode, fft_size, k_rev, threads)
    batch, _, length = call.u.shape
    shape = (batch, call.outputs, length)
    if out is None:
        result, y = empty(shape, call.dtype, call.u.kind)
    else:
        result, y = out, output_view(out, "out", shape, call.dtype)
        low, high = _span(y)
        for name, v in call.kernels.items():
            first, last = _span(v)
            if low < last and first < high:
                raise ValueError(f"out overlaps {name}; it must not")

    U = call.spectra_of(call.u, _lib.INPUT)
    o, o_end, i, i_end = call.blocks[0]
    kernels = call.new_spectra(o_end - o, i_end - i)
    outputs = call.new_spectra(batch, o_end - o)
    for block in call.blocks:
        o, o_end, i, i_end = block
        K = call.spectra_of_kernels(block, kernels)
        Y = first_rows(outputs, batch, o_end - o)
        call.contract(U[:, i:i_end], K.swapaxes(0, 1), Y, accumulate=i > 0)
        if i_end == call.inputs:
            call.rows_from(
                Y,
                _lib.OUTPUT,
                View(
                    y.pointer + o * y.strides[1] * ITEM_BYTES[y.dtype],
                    y.dtype,
                    (batch, o_end - o, length),
                    y.strides,
                    y.keep,
                    y.kind,
                ),
            )
    return result if out is not None else finish(result, call.u.kind)


def conv_matrix_backward(
    dy, u, k, *, mode="causal", fft_size=None, k_rev=None, threads=None, needs=None
):
    """`Gradients` (du, dk, dk_rev) of L = sum(dy . y), where y is that of `conv_matrix`.

        dU[b, i] = sum_o conj(K[o, i]) G[b, o]
        dK[o, i] = sum_b conj(U[b, i]) G[b, o]        G: the spectra of dy

    If y is complex, L = Re sum(conj(dy) . y).

    dy: (B, H_out, L); it takes part in the promotion of types as u does.  The other
    arguments are those of `conv_matrix`.
    needs: the operands whose gradients are wanted, out of "u", "k" and "k_rev"; None
    means all that are given.  The other gradients are None.

    Each gradient has its operand's shape, dtype and array library.  The gradient of a
    complex operand x is dL/dRe x + i dL/dIm x; that of a real operand is real.  Sums are
    in float32 or better and have a fixed order.  Memory is needed as for `conv_matrix`,
    and for the spectra of the rows of dy and du.

    Raises TypeError for an operand that is not an array of numbers and ValueError for
    a wrong value, both naming the argument; MemoryError.

    Example:
        >>> conv_matrix_backward(np.ones((1, 3, 8)), np.ones((1, 2, 8)), np.ones((3, 2, 4)))
        Gradients(du: (1, 2, 8) float64, dk: (3, 2, 4) float64)
    """
    call = _MatrixCall(u, k, mode, fft_size, k_rev, threads, view(dy, "dy"))
    batch, inputs, length = call.u.shape
    if call.dy.shape != (batch, call.outputs, length):
        raise ValueError(
            f"dy has shape {call.dy.shape}; it must be {(batch, call.outputs, length)}, as y"
        )
    operands = {"u": call.u, **call.kernels}
    needs = check_needs(needs, operands)
    if not needs:
        return Gradients()
    results = {
        name: empty(operands[name].shape, operands[name].dtype, operands[name].kind)
        for name in needs
    }

    G = call.spectra_of(call.dy, _lib.OUTPUT)
    o, o_end, i, i_end = call.blocks[0]
    kernels = call.new_spectra(o_end - o, i_end - i)
    if "u" in needs:
        dU = call.new_spectra(batch, inputs)
    # The inverse transform computes dk and dk_rev together.  If only one of them is
    # wanted, the other one is written to memory that is then dropped.
    gradients = {
        name: results[name][1] if name in results else empty(v.shape, v.dtype, None)[1]
        for name, v in call.kernels.items()
    }
    want_kernels = len(needs) > ("u" in needs)
    if want_kernels:
        U = call.spectra_of(call.u, _lib.INPUT)
    for block in call.blocks:
        o, o_end, i, i_end = block
        if "u" in needs:
            K = call.spectra_of_kernels(block, kernels)
            call.contract(G[:, o:o_end], K, dU[:, i:i_end], conjugate_b=True, accumulate=o > 0)
        if want_kernels:
            dK = first_rows(kernels, o_end - o, i_end - i)
            call.contract(G[:, o:o_end].swapaxes(0, 1), U[:, i:i_end], dK, conjugate_b=True)
            call.kernels_from(dK, block, gradients.values())
    if "u" in needs:
        call.rows_from(dU, _lib.INPUT, results["u"][1])
    return Gradients(
        **{
            "d" + name: finish(demoted(results[name][0], operands[name]), operands[name].kind)
            for name in needs
        }
    )
