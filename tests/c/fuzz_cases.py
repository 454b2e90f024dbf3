"""The cases of fuzz.py, which starts this program as

    fuzz_cases.py PROGRESS FIRST_SEED END_SEED END_TIME

PROGRESS is a file that says what is done at the moment.  The library is one with fail_allocation.c.
"""

import ctypes
import os
import sys
import time
from ctypes import byref, c_char, c_double, c_int, c_int64, c_void_p, sizeof

import numpy as np
from fftconv import _lib, isas, reference
from support import Case, check_forward, check_gradients, normal

library, libc = ctypes.CDLL(_lib.path), ctypes.CDLL(None)
FUNCTIONS = {}  # the functions, by their names without fftconv_
for _name, (_result, _arguments) in _lib.PROTOTYPES.items():
    FUNCTIONS[_name.removeprefix("fftconv_")] = _function = library[_name]
    _function.restype, _function.argtypes = _result, _arguments

REAL = ("float64", "float32", "float16", "bfloat16")
TOLERANCE = {"float64": 1e-11, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
ISAS = [None, *(name.encode() for name in isas())]
TWO_SIDED = _lib.MODES["two_sided"]
# Numbers for spoiled descriptors.  They are refused, or harmless, or reach little further than the
# right ones: a size that is large and allowed would take hours.
SMALL = (0, 1, -1, 2, 3, 255, 256, -(2**31), 2**31 - 1)
LARGE = (0, -1, 2**59, 2**62, 2**63 - 1, -(2**63), -(2**62), -(2**59))
SLACK = 1 << 18  # bytes around each array of spoiled calls, so that pointers may be exchanged


def described(kind, **fields):
    return kind(size=sizeof(kind), **fields)


class Fuzz:
    """The case of one seed, whose calls are made in one way: "plain", "no memory" or "spoiled"."""

    calls, names = 0, set()

    def __init__(self, seed, progress):
        self.seed, self.progress = seed, progress
        self.rng = np.random.default_rng(seed)
        self.way = self.pick(("plain", "no memory", "spoiled"))
        self.blocks, self.pointers, self.handles, self.kept = [], [], [], []

    def pick(self, values):
        return values[self.rng.integers(len(values))]

    def coin(self, chance=0.5):
        return bool(self.rng.random() < chance)

    def size(self, most=5):
        most = min(most, 40) if self.way == "spoiled" else most  # arrays are below SLACK
        return int(self.rng.integers(1, most + 1))

    def threads(self):
        return self.pick((0, 1, 1, 2, 3, 7))

    def tell(self, what):
        """Leave for the parent what is done now, in case that it ends here."""
        text = f"{self.seed} {self.calls} {what}".encode()
        os.ftruncate(self.progress, os.pwrite(self.progress, text, 0))

    # ---- Memory

    def block(self, nbytes, offset=0):
        """Bytes of 0xFF, `offset` behind a multiple of 64; nothing follows them."""
        slack = SLACK if self.way == "spoiled" else 0
        total, p = offset + nbytes + 2 * slack, c_void_p()
        assert libc.posix_memalign(byref(p), 64, ctypes.c_size_t(total)) == 0
        whole = np.frombuffer((c_char * total).from_address(p.value), np.uint8)
        whole[...] = 0xFF
        self.blocks.append((p, whole))
        part = whole[slack + offset :][:nbytes]
        self.pointers.append(part.ctypes.data)
        return part

    def copy(self, x):
        """A contiguous copy of x in a block of its own."""
        to = self.block(x.nbytes).view(x.dtype).reshape(x.shape)
        to[...] = x
        return to

    def array(self, shape, dtype, values=None):
        """An array in memory of random strides, NaN where no values are given: its view, its
        tensor."""
        dtype, order = np.dtype(dtype), self.rng.permutation(3) if self.coin() else range(3)
        places = [shape[axis] + int(self.coin(0.2)) for axis in order]
        offset = self.pick((0, 0, 1, 3)) * (dtype.itemsize // (2 if dtype.kind == "c" else 1))
        view = self.block(int(np.prod(places)) * dtype.itemsize, offset).view(dtype)
        view = view.reshape(places)[tuple(slice(shape[axis]) for axis in order)]
        view = view[tuple(slice(None, None, self.pick((1, 1, -1))) for _ in order)]
        view = view.transpose(np.argsort(order))
        if values is not None:
            view[...] = values
        return view, self.tensor(view)

    def tensor(self, view):
        return _lib.Tensor(
            view.ctypes.data,
            _lib.DTYPES[view.dtype.name],
            0,
            (c_int64 * 3)(*view.shape),
            (c_int64 * 3)(*(stride // view.itemsize for stride in view.strides)),
        )

    def input(self, x):
        """The tensor of an array of random values, which may be changed to repeat one of them."""
        if self.coin(0.1):
            axis = self.pick(range(3))
            one = np.take(x, [0], axis)
            x[...] = one
            view, _ = self.array(one.shape, x.dtype, one)
            return self.tensor(np.broadcast_to(view, x.shape))
        return self.array(x.shape, x.dtype, x)[1]

    # ---- Calls

    def call(self, name, *arguments):
        """A right call, made in this case's way; for a call that makes a handle, the handle."""
        function = FUNCTIONS[name]
        Fuzz.names.add(name)
        self.kept.append(arguments)
        if name.endswith("create"):
            handle = c_void_p()
            arguments = (handle, *arguments)

        def run(arguments):
            Fuzz.calls += 1
            return function(*(byref(a) if isinstance(a, STRUCTURES) else a for a in arguments))

        for _ in range(6 if self.way == "spoiled" else 0):
            self.spoiled(name, run, arguments)
        self.tell(f"{name}, {self.way}")
        before = library.allocations_left()
        for n in range(500) if self.way == "no memory" else (-1,):
            library.fail_allocation(n)
            status = run(arguments)
            library.fail_allocation(-1)
            if status == _lib.OK:
                break
            message = FUNCTIONS["last_error"]().decode()
            assert n >= 0 and status == _lib.NO_MEMORY, (name, n, status, message)
            assert "out of memory" in message, message
            assert not name.endswith("create") or not handle.value, name
            assert library.allocations_left() == before, f"{name} leaks when allocation {n} fails"
        assert status == _lib.OK, (name, status)
        if name.endswith("create"):
            self.handles.append((name.replace("create", "destroy"), handle))
            return handle
        assert library.allocations_left() == before, f"{name} leaks"

    def spoiled(self, name, run, arguments):
        """One call with one to three wrong values."""
        copies = [type(a).from_buffer_copy(a) if isinstance(a, POINTED) else a for a in arguments]
        told = []
        for _ in range(self.size(3)):
            i = self.pick(range(len(copies)))
            if isinstance(copies[i], ctypes.Structure) and self.coin(0.97):
                told.append(self.spoil(copies[i]))
            elif name.endswith("create") and i == 0 and self.coin(0.9):
                continue
            elif isinstance(copies[i], (*POINTED, c_void_p)) or copies[i] is None:
                copies[i] = None
            elif isinstance(copies[i], int):
                copies[i] = self.pick((-1, 2, 17, 2**31 - 1, -(2**31)))
        before = [whole.copy() for _, whole in self.blocks]
        self.tell(f"{name}, spoiled: {', '.join(told)}")
        status = run(copies)
        assert status in range(4), (name, status)
        assert status == _lib.OK or FUNCTIONS["last_error"](), (name, status, told)
        for (_, whole), old in zip(self.blocks, before):
            if status in (_lib.INVALID, _lib.UNSUPPORTED):
                assert np.array_equal(whole, old), (name, "wrote before it refused", told)
            whole[...] = old
        if name.endswith("create") and copies[0] is not None:
            assert (status == _lib.OK) == bool(copies[0].value), (name, status, told)
            FUNCTIONS[name.replace("create", "destroy")](copies[0])
            copies[0].value = None

    def spoil(self, struct):
        """Change one value of a structure; return what was changed."""
        name, kind = self.pick(struct._fields_)[:2]
        value = getattr(struct, name)
        if isinstance(value, ctypes.Structure):
            return f"{name}.{self.spoil(value)}"
        if isinstance(value, ctypes.Array) and not isinstance(value, bytes):
            i = self.pick(range(len(value)))
            near = (value[i] - 1, value[i] + 1, -value[i], 1)
            value[i] = new = (
                self.pick(LARGE + near) if name != "shape" else self.pick(LARGE + near[:2])
            )
        elif kind is c_int64:
            new = self.pick((*LARGE, value - 1, value + 1))
        elif kind is ctypes.c_int32:
            new = self.pick((*SMALL, value - 1, min(value + 1, 2**31 - 1)))
        elif kind is ctypes.c_size_t:
            new = self.pick((0, 1, value - 8, value + 8, 2**64 - 1))
        elif kind is c_double:
            new = self.pick((0.0, float("nan"), float("inf")))
        elif kind is ctypes.c_char_p:
            new = self.pick((None, b"", b"none", b"x" * 2000))
        elif kind is c_void_p:
            new = self.pick((None, (value or 0) + 1, *self.pointers))
        else:
            new = None  # radices, weights, a name
        if not isinstance(value, (ctypes.Array, bytes)):
            setattr(struct, name, new)
        return f"{name}={new}"

    def end(self):
        for name, handle in reversed(self.handles):
            FUNCTIONS[name](handle)
        assert library.allocations_left() == 0, "a handle's memory is left behind"
        for p, _ in self.blocks:
            libc.free(p)


STRUCTURES = (ctypes.Structure, c_int64, c_double, c_int)
POINTED = (*STRUCTURES, ctypes.Array)


def close(name, got, want, dtype=None):
    """The largest error beside the largest number, which is taken to be at least 1."""
    got, want = np.asarray(got), np.asarray(want)
    dtype = dtype or got.dtype.name
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    error = np.max(np.abs(got.astype(wide) - want)) / max(1, np.max(np.abs(want)))
    limit = TOLERANCE[{"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)]
    assert error <= limit, f"{name}: error {error}, allowed {limit}"


# ---- What is called ------------------------------------------------------------------------------


def plan_of(f, **fields):
    return f.call("plan_create", described(_lib.PlanDesc, **fields))


def info_of(f, plan):
    info = described(_lib.PlanInfo)
    f.call("plan_get_info", plan, info)
    return info


def choices_of(f, case, fields):
    """Choices of a plan, at random, that are allowed for it."""
    for _ in range(3):
        order, dense = f.pick((0, 0, 0, 1, 2, 3)), int(f.coin(0.1))
        choices = dict(form=f.pick((0, 0, 1, 2, 3, 5)), order=order, dense=dense)
        if order and f.coin():
            radices = [f.pick((2, 4, 5, 8, 16, 11, 32)) for _ in range(order)]
            choices["radices"] = (c_int64 * 16)(*radices, *[2] * (16 - order))
        handle = c_void_p()
        d = described(_lib.PlanDesc, **fields, **choices)
        if FUNCTIONS["plan_create"](byref(handle), byref(d)) == _lib.OK:
            FUNCTIONS["plan_destroy"](handle)
            return choices
    return {}


def convolution(f):
    """Forward and backward, with and without spectra and workspaces."""
    dtype = f.pick((*REAL, "float32", "complex64", "complex128"))
    is_complex = dtype.startswith("complex")
    mode = f.pick(("causal", "circular", "two_sided"))
    batch, groups = f.size(4), f.size(4)
    channels, length = groups * f.size(3), f.size(f.pick((3, 40, 300, 2000)))
    taps = f.size(f.pick((1, 4, length)))
    fft_size = max(length, taps) + f.pick((0, 0, 1, 5)) if mode == "circular" else None
    options = [n for n in ("in_gate", "out_gate", "skip", "mask") if f.coin(0.3)]
    pattern = None
    if mode == "circular" and not is_complex and f.coin(0.3):
        pattern = f.rng.random(fft_size // 2 + 1) < f.pick((0.1, 0.5, 1.1))
    case = Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=None if is_complex else f.pick((None, None, "gelu", "silu")),
        mode=mode,
        fft_size=fft_size,
        reverse=f.size(length) if mode == "two_sided" else None,
        kernels=f.pick(((groups,), (batch, groups))),
        k_dtype=f.pick((dtype, "float32")) if dtype in REAL[2:] else dtype,
        pattern=pattern,
        seed=int(f.rng.integers(1 << 30)),
    )
    own = case.k.ndim == 3 and batch > 1
    fields = dict(
        batch=batch,
        channels=channels,
        length=length,
        k_length=taps,
        kernels=groups,
        kernel_batch=batch if own else 1,
        mode=_lib.MODES[mode],
        dtype=_lib.DTYPES[dtype],
        threads=f.threads(),
        isa=f.pick(ISAS),
        single_block=int(f.coin(0.3)),
        fft_size=fft_size or 0,
        k_rev_length=0 if case.k_rev is None else case.k_rev.shape[-1],
    )
    if pattern is not None:
        weights = f.copy(pattern.astype(float))
        fields["weights"] = ctypes.cast(weights.ctypes.data, ctypes.POINTER(c_double))
    plan = plan_of(f, **fields, **choices_of(f, case, fields))
    info_of(f, plan)
    shapes = {"skip": (1, channels, 1), "mask": (batch, channels, 1)}
    taps_shape = (batch if own else 1, groups)

    def operand(x, shape):
        whole = x.reshape(shape)
        return f.input(whole)  # which may change the case's own numbers

    o = described(_lib.Operands, activation=_lib.ACTIVATIONS[case.activation], threads=f.threads())
    o.u, o.k = operand(case.u, case.u.shape), operand(case.k, (*taps_shape, taps))
    if case.k_rev is not None:
        o.k_rev = operand(case.k_rev, (*taps_shape, case.k_rev.shape[-1]))
    for name, x in case.operands.items():
        if name == "mask" and is_complex:  # the reference has real ones
            setattr(o, name, f.array(shapes[name], dtype, x[..., None])[1])
        else:
            setattr(o, name, operand(x, shapes.get(name, case.u.shape)))
    spectrum = f.call("spectrum_create", plan, o) if f.coin() else None

    def lend(direction):
        need = c_int64()
        o.workspace, o.workspace_bytes = None, 0
        if f.coin(0.6):
            f.call("workspace_bytes", plan, spectrum, o, direction, need)
            o.workspace = f.block(need.value).ctypes.data
            o.workspace_bytes = need.value

    y, o.y = f.array(case.u.shape, dtype)
    lend(_lib.FORWARD)
    f.call("forward", plan, spectrum, o)
    check_forward(case, y)
    o.dy = operand(case.dy, case.u.shape)
    given = {"u": (case.u, case.u.shape), "k": (case.k, (*taps_shape, taps))}
    if case.k_rev is not None:
        given["k_rev"] = case.k_rev, (*taps_shape, case.k_rev.shape[-1])
    for name, x in case.operands.items():
        if name != "mask":
            given[name] = x, shapes.get(name, case.u.shape)
    got = dict.fromkeys(reference.Gradients._fields)
    needs = [name for name in given if f.coin(0.7)]
    for name in needs:
        x, shape = given[name]
        view, t = f.array(shape, x.dtype)
        setattr(o, "d" + name, t)
        got["d" + name] = view
    lend(_lib.BACKWARD)
    f.call("backward", plan, spectrum, o)
    got = {
        name: None if x is None else x.reshape(given[name[1:]][0].shape) for name, x in got.items()
    }
    check_gradients(case, reference.Gradients(**got), needs=needs)


def history(f):
    """Pieces of a stream: y of rows that continue what came before."""
    dtype, batch, channels = f.pick(REAL), f.size(3), f.size(4)
    length, taps = f.size(f.pick((8, 200))), f.size(f.pick((3, 100)))
    piece = f.size(length)
    whole = Case(batch, channels, piece + taps - 1, taps, dtype, seed=int(f.rng.integers(1 << 30)))
    plan = plan_of(
        f,
        batch=batch,
        channels=channels,
        length=length,
        k_length=taps,
        dtype=_lib.DTYPES[dtype],
        history=1,
        form=f.pick((0, 5)),
        isa=f.pick(ISAS),
    )
    o = described(_lib.Operands, threads=f.threads())
    u = np.ascontiguousarray(whole.u[..., taps - 1 :])
    before = np.ascontiguousarray(whole.u[..., : taps - 1])
    o.k = f.array((1, channels, taps), dtype, whole.k[None])[1]
    o.u = f.array(u.shape, dtype, u)[1]
    if taps > 1:
        o.history = f.array(before.shape, dtype, before)[1]
    y, o.y = f.array(u.shape, dtype)
    f.call("forward", plan, f.call("spectrum_create", plan, o) if f.coin() else None, o)
    want = reference.conv(whole.u, whole.k)[..., taps - 1 :]
    close("y", y, want, dtype)


def primitives(f):
    """Spectra of rows and of kernels, and matrix products of them."""
    real, other = f.pick((("float32", "complex64"), ("float64", "complex128")))
    wide = f.coin(0.3)
    dtype = other if wide else real
    rows, columns, depth, length = f.size(4), f.size(3), f.size(4), f.size(f.pick((3, 40, 200)))
    plan = plan_of(
        f,
        batch=rows,
        channels=depth,
        length=length,
        k_length=length,
        dtype=_lib.DTYPES[dtype],
        single_block=1,
        threads=f.threads(),
        isa=f.pick(ISAS),
    )
    info = info_of(f, plan)
    row, M = info.spectra_row_bytes, info.transform_length

    def spectra(count):
        return f.block(count * row).ctypes.data

    def desc(**fields):
        return described(_lib.SpectraDesc, threads=f.threads(), **fields)

    def transform(name, x, **fields):
        d = desc(spectra=spectra(x.shape[0] * x.shape[1]), **fields)
        f.call(name, plan, d)
        return d.spectra

    scale = length**-0.5
    u = normal(f.rng, (depth, columns, length), dtype)
    k = normal(f.rng, (rows, depth, length), dtype, scale)
    K = transform("kernels_to_spectra", k, k=f.input(k))
    U = transform("rows_to_spectra", u, rows=f.input(u))
    out = spectra(rows * columns)
    c = described(
        _lib.ContractionDesc,
        rows=rows,
        columns=columns,
        depth=depth,
        a=K,
        b=U,
        out=out,
        a_stride=(depth, 1),
        b_stride=(columns, 1),
        out_stride=(columns, 1),
        scale=1 / M,
        threads=f.threads(),
    )
    f.call("contract", plan, c)
    y, t = f.array((rows, columns, length), dtype)
    f.call("spectra_to_rows", plan, desc(rows=t, spectra=out))
    want = sum(
        reference.conv(np.broadcast_to(u[d], (rows, columns, length)), k[:, d : d + 1])
        for d in range(depth)
    )
    close("contract", y, want)
    # the gradient of k in y = k * u, by the adjoint
    dy = normal(f.rng, (rows, columns, length), dtype)
    G = transform("rows_to_spectra", dy, rows=f.input(dy), side=_lib.OUTPUT)
    dK = spectra(rows * depth)
    c = described(
        _lib.ContractionDesc,
        rows=rows,
        columns=depth,
        depth=columns,
        a=G,
        b=U,
        out=dK,
        a_stride=(columns, 1),
        b_stride=(1, columns),
        out_stride=(depth, 1),
        scale=1 / M,
        conjugate_b=1,
        threads=f.threads(),
    )
    f.call("contract", plan, c)
    dk, t = f.array((rows, depth, length), dtype)
    f.call("spectra_to_kernels", plan, desc(k=t, spectra=dK))
    for d in range(depth):
        same = np.broadcast_to(u[d], dy.shape)
        want = reference.conv_backward(dy, same, np.ascontiguousarray(k[:, d : d + 1])).dk
        close("dk", dk[:, d : d + 1], want)
    # a product with a spectrum of one kernel for each channel
    x = normal(f.rng, (rows, depth, length), dtype)
    X = transform("rows_to_spectra", x, rows=f.input(x))
    o = described(_lib.Operands, k=f.array((1, depth, length), dtype, k[:1])[1])
    f.call("multiply", plan, f.call("spectrum_create", plan, o), desc(in_=X, spectra=X))
    y, t = f.array(x.shape, dtype)
    f.call("spectra_to_rows", plan, desc(rows=t, spectra=X))
    close("multiply", y, reference.conv(x, k[0]))
    # where the frequencies are
    offset = f.block(8 * M).view(np.int64)
    f.call("spectra_offsets", plan, ctypes.cast(offset.ctypes.data, ctypes.POINTER(c_int64)))
    numbers = np.frombuffer((c_char * row).from_address(U), real)
    got = numbers[offset] + 1j * numbers[offset + info.lanes]
    shift = 0 if wide else 0.25
    angle = -2j * np.pi * np.outer(np.arange(M) - shift, np.arange(length)) / M
    close("offsets", got.astype(other), np.exp(angle) @ u[0, 0])
    # projections around the spectra of kernels
    states, outputs = f.size(4), f.size(3)
    imaginary = int(wide and f.coin())
    B = normal(f.rng, (1 + imaginary, states, depth), real)
    C = normal(f.rng, (1 + imaginary, outputs, states), real)
    kn = normal(f.rng, (1, states, length), dtype, scale)
    X = transform("rows_to_spectra", x, rows=f.input(x))
    N = transform("kernels_to_spectra", kn, k=f.input(kn))
    out = spectra(rows * outputs)
    p = described(
        _lib.ProjectionDesc,
        batch=rows,
        inputs=depth,
        states=states,
        outputs=outputs,
        in_=X,
        kernels=N,
        B=f.copy(B).ctypes.data,
        C=f.copy((C / M).astype(real)).ctypes.data,
        out=out,
        imaginary=imaginary,
        threads=f.threads(),
    )
    f.call("project", plan, p)
    y, t = f.array((rows, outputs, length), dtype)
    f.call("spectra_to_rows", plan, desc(rows=t, spectra=out))
    B, C = (m[0] + 1j * m[1] if imaginary else m[0] for m in (B, C))
    inner = reference.conv(np.einsum("ni,bil->bnl", B, x), kn[0])
    close("project", y, np.einsum("on,bnl->bol", C, inner))


def dft(f):
    """One transform, all of its stages, there or back."""
    radices = [f.pick((1, 2, 3, 4, 5, 7, 8, 11, 16)) for _ in range(f.size(3))]
    n, dtype, inverse = int(np.prod(radices)), f.pick(REAL[:2]), int(f.coin())
    count = f.size(min(20, 1 + SLACK // (64 * n)))
    x = f.copy(normal(f.rng, (count, n), "complex128" if dtype == "float64" else "complex64"))
    out = x if f.coin() and f.way == "plain" else f.copy(x)
    want = np.fft.ifft(x) if inverse else np.fft.fft(x)
    d = described(
        _lib.DftDesc,
        n=n,
        count=count,
        dtype=_lib.DTYPES[dtype],
        inverse=inverse,
        dense=int(f.coin()),
        stages=-1,
        order=len(radices),
        radices=(c_int64 * 16)(*radices, *[2] * (16 - len(radices))),
        isa=f.pick(ISAS),
        in_=x.ctypes.data,
        out=out.ctypes.data,
    )
    f.call("dft", d)
    close("dft", out, want)


def rdft(f):
    """Real transforms of any length."""
    dtype, n, shape = f.pick(REAL[:2]), f.size(f.pick((8, 130, 1000))), (f.size(3), f.size(3))
    other = "complex128" if dtype == "float64" else "complex64"
    d = described(
        _lib.RdftDesc, n=n, dtype=_lib.DTYPES[dtype], threads=f.threads(), isa=f.pick(ISAS)
    )
    t = f.call("rdft_create", d)
    x = normal(f.rng, (*shape, n), dtype)
    bins, to = f.array((*shape, n // 2 + 1), other)
    f.call("rdft_forward", t, f.input(x), to, 0.5)
    close("rdft_forward", bins, 0.5 * np.fft.rfft(x))
    X = normal(f.rng, (*shape, n // 2 + 1), other)
    rows, to = f.array((*shape, n), dtype)
    f.call("rdft_inverse", t, f.input(X), to, 1 / n)
    close("rdft_inverse", rows, np.fft.irfft(X, n))


def heads(f):
    """H3's heads, forward and backward."""
    dtype, lanes, groups, batch = f.pick(REAL[:2]), f.size(3), f.size(3), f.size(3)
    length, taps, two_sided = f.size(40), f.size(40), f.coin(0.3)
    rows_dtype = REAL[:1] if dtype == "float64" else REAL[1:]
    shape = (batch, lanes * groups, length)
    plan = plan_of(
        f,
        batch=1,
        channels=lanes,
        kernels=1,
        length=length,
        k_length=taps,
        k_rev_length=taps if two_sided else 0,
        mode=TWO_SIDED if two_sided else 0,
        dtype=_lib.DTYPES[dtype],
        isa=f.pick(ISAS),
    )
    activation = f.pick((None, "gelu", "silu"))
    d = described(
        _lib.HeadsDesc,
        activation=_lib.ACTIVATIONS[activation],
        gelu_u=int(f.coin()),
        gelu_q=int(f.coin()),
        threads=f.threads(),
    )
    x = {name: normal(f.rng, shape, f.pick(rows_dtype)) for name in ("u", "v", "q", "dy")}
    x["k"] = normal(f.rng, (1, groups, taps), dtype, taps**-0.5)
    if two_sided:
        x["k_rev"] = normal(f.rng, (1, groups, taps), dtype, taps**-0.5)
    if f.coin():
        x["skip"] = normal(f.rng, (1, groups, 1), f.pick(rows_dtype))
    if f.coin():
        x["mask"] = normal(f.rng, (batch, groups, 1), f.pick(rows_dtype))
    for name, value in x.items():
        setattr(d, name, f.input(value))
    y, d.y = f.array(shape, f.pick(rows_dtype))
    arguments = dict(activation=activation, gelu_u=d.gelu_u, gelu_q=d.gelu_q)
    arguments.update(mask=x["mask"][..., 0] if "mask" in x else None)
    arguments.update({n: x[n][0] for n in ("k", "k_rev") if n in x})
    arguments.update(skip=x["skip"][0, :, 0] if "skip" in x else None)
    operands = [x["u"], x["v"], x["q"], arguments.pop("k"), lanes]
    f.call("heads_forward", plan, d)
    close("heads", y, reference.conv_heads(*operands, **arguments))
    got = {}
    for name in x.keys() - {"dy", "mask"}:
        if f.coin(0.7):
            got[name], t = f.array(x[name].shape, x[name].dtype)
            setattr(d, "d" + name, t)
    f.call("heads_backward", plan, d)
    want = reference.conv_heads(*operands, **arguments, dy=x["dy"])
    for name, value in got.items():
        close("d" + name, value, want[name].reshape(value.shape))


def depthwise(f):
    """Short convolutions, forward and backward."""
    batch, channels, taps = f.size(3), f.size(f.pick((3, 40, 130))), f.size(f.pick((1, 4, 20)))
    length = f.size(f.pick((3, 40, 300)))
    before = taps - 1 if f.coin(0.7) else int(f.rng.integers(0, taps + 2))
    after = int(f.rng.integers(0, 3))
    while length + before + after < taps:
        after += 1
    activation, dtypes = f.pick((None, "gelu", "silu")), [f.pick(REAL)] * 3 + list(REAL)
    x = {
        "x": normal(f.rng, (batch, channels, length), f.pick(dtypes)),
        "weight": normal(f.rng, (1, channels, taps), f.pick(dtypes), taps**-0.5),
        "dy": normal(f.rng, (batch, channels, length + before + after - taps + 1), f.pick(dtypes)),
    }
    if f.coin():
        x["bias"] = normal(f.rng, (1, channels, 1), f.pick(dtypes))
    if before == taps - 1 > 0 and f.coin():
        x["state"] = normal(f.rng, (batch, channels, taps - 1), f.pick(dtypes))
    d = described(
        _lib.DepthwiseDesc,
        activation=_lib.ACTIVATIONS[activation],
        threads=f.threads(),
        isa=f.pick(ISAS),
        left=before,
    )
    for name, value in x.items():
        setattr(d, name, f.input(value))
    y, d.y = f.array(x["dy"].shape, f.pick(dtypes))
    if before == taps - 1 > 0 and f.coin():
        following, d.next_state = f.array((batch, channels, taps - 1), f.pick(dtypes))
    f.call("depthwise_forward", d)
    bias = x["bias"][0, :, 0] if "bias" in x else None
    arguments = dict(padding=(before, after), activation=activation, state=x.get("state"))
    want = reference.depthwise_conv1d(x["x"], x["weight"][0], bias, **arguments)
    # inputs of 16 bits are exact in the sums; the limit is that of float32, or of y
    close("y", y, want)
    if d.next_state.data:
        past = x.get("state", np.zeros((batch, channels, taps - 1)))
        whole = np.concatenate([past.astype(float), x["x"].astype(float)], axis=2)
        close("next_state", following, whole[..., whole.shape[2] - taps + 1 :])
    got = {}
    for name in x.keys() - {"dy"}:
        if f.coin(0.7):
            got[name], t = f.array(x[name].shape, x[name].dtype)
            setattr(d, "d" + name, t)
    f.call("depthwise_backward", d)
    want = reference.depthwise_conv1d(x["x"], x["weight"][0], bias, **arguments, dy=x["dy"])
    for name, value in got.items():
        close("d" + name, value, want[name].reshape(value.shape))


def ssm(f):
    """Kernels of state spaces, by a dense matrix of float64; gradients by differences."""
    rank = f.pick((0, 0, 1, 2))
    kind = "bilinear" if rank else f.pick(("zoh", "bilinear", "dss"))
    state = int(kind != "dss" and f.coin(0.3))
    I, C_, H, N, L = f.size(2), f.size(2), f.size(9), f.size(4), f.size(f.pick((4, 100)))
    dtype = f.pick(REAL[:2])

    def numbers(*shape):
        return normal(f.rng, shape, "complex128")

    p = {
        "A": -f.rng.uniform(0.1, 1, (H, N)) + 2j * f.rng.standard_normal((H, N)),
        "B": numbers(I, H, N),
        "C": numbers(C_, H, N),
    }
    if rank:
        p["P"], p["Q"] = numbers(rank, H, N) / 2, None
        p["Q"] = p["P"].copy()
    d = described(
        _lib.SsmDesc,
        inputs=I,
        channels=C_,
        heads=H,
        states=N,
        length=L,
        rank=rank,
        dtype=_lib.DTYPES[dtype],
        discretization=_lib.DISCRETIZATIONS[kind],
        state=state,
        threads=f.threads(),
        isa=f.pick(ISAS),
    )
    memory = {name: f.copy(value) for name, value in p.items()}
    for name, value in memory.items():
        setattr(d, name, value.ctypes.data)
    k = f.block(I * C_ * H * L * np.dtype(dtype).itemsize).view(dtype).reshape(I, C_, H, L)
    d.k = k.ctypes.data
    f.call("ssm_kernel", d)
    want = np.empty(k.shape)
    for h in range(H):
        whole = [np.concatenate([p[n][..., h, :], p[n][..., h, :].conj()], -1) for n in p]
        A, B, C = whole[:3]
        M = np.diag(A)
        if rank:
            M = M - whole[3].T @ whole[4].conj()
        unit = np.eye(2 * N)
        if kind == "bilinear":
            inverse = np.linalg.inv(unit - M / 2)
            step = inverse @ (unit + M / 2)
        else:
            step, inverse = np.diag(np.exp(A)), np.diag(np.expm1(A) / A)
        x = (step if state else inverse) @ B.T
        if kind == "dss":
            x = x / np.expm1(A * L)[:, None]
        for m in range(L):
            both = (C @ x).T if kind != "dss" else 2 * (C[:, :N] @ x[:N]).T
            want[:, :, h, m] = both.real / (2 if kind == "dss" else 1)
            x = step @ x
    close("k", k, want)
    dk = f.copy(normal(f.rng, k.shape, dtype))
    d.dk = dk.ctypes.data
    gradients = {}
    for name in p:
        if f.coin(0.8):
            gradients[name] = f.block(p[name].nbytes).view(complex).reshape(p[name].shape)
            setattr(d, "d" + name, gradients[name].ctypes.data)
    f.call("ssm_kernel_backward", d)
    if dtype != "float64":
        return
    for name, gradient in gradients.items():
        direction, ends = numbers(*p[name].shape), []
        for sign in (1, -1):
            memory[name][...] = p[name] + sign * 1e-6 * direction
            assert FUNCTIONS["ssm_kernel"](byref(d)) == _lib.OK
            ends.append(k.copy())
        memory[name][...] = p[name]
        slope = np.sum((ends[0] - ends[1]) * dk) / 2e-6
        got = np.sum((gradient.conj() * direction).real)
        size = np.linalg.norm(gradient) * np.linalg.norm(direction) + 1
        assert abs(got - slope) <= 1e-5 * size, f"d{name}: {got}, not {slope}"


def matmul(f):
    """Products of matrices, one or a batch of them."""
    real = f.pick(("float32", "float64"))
    wide = {"float32": "complex64", "float64": "complex128"}[real]
    dtype = f.pick((real, wide))
    to = f.pick((real, wide)) if dtype == wide else real
    batch, rows, depth, columns = f.size(3), f.size(200), f.size(200), f.size(60)
    a, b = (normal(f.rng, s, dtype) for s in ((batch, rows, depth), (batch, depth, columns)))
    out, t = f.array((batch, rows, columns), to)
    d = described(_lib.MatmulDesc, isa=f.pick(ISAS), threads=f.threads(), out=t)
    d.a, d.b = f.input(a), f.input(b)
    f.call("matmul", d)
    want = a.astype(complex) @ b.astype(complex)
    close("matmul", out, want if to == wide else want.real)


def cost(f):
    """The cost model, and the radices that it chooses."""
    order, bits = f.size(4), int(f.rng.integers(4, 24))
    radices, chosen = (c_int64 * 16)(), (c_int64 * 16)()
    machine, seconds = described(_lib.Hardware), c_double()
    f.call("hardware_get", f.pick((b"A100", b"H100")), machine)
    f.call("balanced_radices", 1 << bits, order, radices)
    f.call("best_radices", 1 << bits, order, machine, chosen)
    costs = []
    for r in (radices, chosen):
        r = list(r)[:order]
        assert np.prod(r) == 1 << bits and min(r) >= 2
        f.call("monarch_cost", (c_int64 * 16)(*r, *[2] * (16 - order)), order, machine, seconds)
        rest, want = float(1 << bits), 0.0
        for n in r:
            want += 16.0 * (1 << bits) * n / (machine.tau_m if n >= machine.mu else machine.tau_g)
            want += (
                4.0
                * (1 << bits)
                / (machine.sigma_h if rest > machine.fast_points else machine.sigma_s)
            )
            rest /= n
        assert abs(seconds.value - want) <= 1e-9 * want
        costs.append(want)
    assert costs[1] <= costs[0] * (1 + 1e-9)


def rest(f):
    """What has no arrays: names, numbers, empty handles, and devices where there are none."""
    plain = {
        "version": (),
        "abi": (),
        "last_error": (),
        "default_threads": (),
        "set_default_threads": (f.pick(SMALL),),
        "isa_name": (f.pick(SMALL),),
        "isa_available": (f.pick((None, b"", b"avx2", b"x" * 2000)),),
        "hardware_name": (f.pick(SMALL),),
        "cuda_devices": (),
        "cuda_release": (None, f.pick(SMALL)),
        **{f"{handle}_destroy": (None,) for handle in ("plan", "spectrum", "rdft")},
    }
    device = f.pick(SMALL)
    at = [f.pick((None, f.block(64).ctypes.data)) for _ in range(2)]
    refused = {
        "cuda_allocate": (byref(c_void_p()), f.pick(LARGE), device),
        "cuda_copy": (*at, f.pick(LARGE), device, None),
        "cuda_device_of": (at[0], byref(c_int())),
        "cuda_wait": (device, None, None),
        "cuda_synchronize": (device, None),
    }
    for name, arguments in {**plain, **refused}.items():
        if name in refused and FUNCTIONS["cuda_devices"]():
            continue
        status = FUNCTIONS[name](*arguments)
        Fuzz.names.add(name)
        Fuzz.calls += 1
        assert name in plain or status in (_lib.INVALID, _lib.UNSUPPORTED), (name, status)


KINDS = [convolution] * 6 + [history, primitives, dft, rdft, heads, depthwise, depthwise, ssm]
KINDS += [matmul, cost, rest]


def run(progress, first, end_seed, end_time):
    progress = os.open(progress, os.O_WRONLY)
    for seed in range(int(first), int(end_seed)):
        if time.time() > float(end_time):
            break
        f = Fuzz(seed, progress)
        kind = KINDS[seed % len(KINDS)]  # so that any few seeds in a row have all kinds
        f.tell(kind.__name__)
        kind(f)
        f.end()
        f.tell("nothing")
    missed = FUNCTIONS.keys() - Fuzz.names
    if missed and seed - int(first) >= 99:
        sys.exit(f"these functions were never called: {sorted(missed)}")


if __name__ == "__main__":
    run(*sys.argv[1:])
