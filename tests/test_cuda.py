"""The CUDA engine against the oracle: on a GPU where the library has one, else its
kernels and its host code run on the CPU by libfftconv/cuda/machine_host.h (see
there what it is strict about).  What that cannot show is speed and memory order; bank
conflicts are test_cuda_banks.py's.  FFTCONV_CUDA=emulated asks for it beside a GPU too."""

import ctypes
import itertools
import mmap
import os
import sys
import threading
from ctypes import byref, c_float, c_int, c_int64, c_uint32, c_void_p
from pathlib import Path

import numpy as np
import pytest
from build_tree import BUILD, clean_environment, run
from fftconv import _lib, cuda, reference
from fftconv._array import KERNEL_DTYPES, _numpy_view, aligned_bytes
from support import Case, big, norm, normal, wide

EMULATED = BUILD / "tests" / ".libs" / "libcuda_emulated.so"
ON_GPU = cuda.available() and os.environ.get("FFTCONV_CUDA") != "emulated"
LIBRARY = Path(_lib.path) if ON_GPU else EMULATED
DEVICE = 0 if ON_GPU else 1
DEVICES = cuda.devices() if ON_GPU else 2
pytestmark = pytest.mark.skipif(
    not LIBRARY.exists(), reason="no C++ compiler when this was configured"
)
emulated_only = pytest.mark.skipif(ON_GPU, reason="of the emulated machine")

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # M
LONGEST = {"float32": 16384, "float16": 32768, "bfloat16": 32768}
# Forward, rows of 64 samples or more; backward is held to twice of it.
TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 2e-3}
WIDE = {"float64": 1e-14}  # by cuFFT only
ENGINES = pytest.mark.parametrize("isa", ("fused", "cufft"))
H100 = 227 * 1024  # bytes of shared memory a block may have


def library():
    """The library whose statuses are not yet exceptions, and the emulated machine
    in a GPU's place where there is none."""
    if not hasattr(library, "lib"):
        if not ON_GPU:
            os.environ["FFTCONV_CUFFT"] = str(LIBRARY)  # it stands in for cuFFT
        lib = library.lib = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in _lib.PROTOTYPES.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        if not ON_GPU:
            lib.cuda_emulated_set.argtypes = [c_int64, c_int64, c_uint32]
            lib.cuda_emulated_set_tile.argtypes = [c_int64]
            lib.cuda_emulated_fail.argtypes = [c_int64]
            lib.cuda_emulated_expect.argtypes = [c_void_p, c_int]
            lib.cuda_emulated_strays.restype = c_int64
            lib.cuda_emulated_allocations.restype = c_int64
            lib.cuda_emulated_stops.restype = c_int64
            lib.cuda_emulated_bits.argtypes = [c_int, c_float]
    return library.lib


def nothing_is_left():
    """Of device memory; and this thread's device is what it was."""
    if not ON_GPU:
        assert library().cuda_emulated_allocations() == 0
        assert library().cuda_emulated_device() == 0


class Memory:
    """Arrays as the device sees them: copies on a GPU, whole buffers, so that
    views of one buffer stay so; themselves on the emulated machine."""

    def __init__(self):
        self.copies = {}  # address of a buffer: (it, the copy's address)

    def __enter__(self):
        return self

    def address(self, x):
        if not ON_GPU:
            return x.ctypes.data
        root = x
        while isinstance(root.base, np.ndarray):
            root = root.base
        at = root.ctypes.data
        if at not in self.copies:
            copy = c_void_p()
            must(library().fftconv_cuda_allocate(byref(copy), max(1, root.nbytes), DEVICE))
            self.copies[at] = root, copy.value
            self._copy(copy.value, at, root.nbytes)
        return self.copies[at][1] + x.ctypes.data - at

    def fetch(self):
        """What calls wrote, to where it belongs."""
        for at, (root, copy) in self.copies.items():
            self._copy(at, copy, root.nbytes)

    def _copy(self, to, of, size):
        must(library().fftconv_cuda_copy(to, of, size, DEVICE, None))

    def __exit__(self, *_):
        for _, copy in self.copies.values():
            library().fftconv_cuda_release(copy, DEVICE)


def must(status):
    if status:
        says = library().fftconv_last_error().decode()
        if ON_GPU and "cuFFT was not found" in says:
            pytest.skip(says)
        raise RuntimeError(says)


def tensor(x, axes, memory):
    """fftconv_tensor of an array, whose axes become the last of three."""
    v = _numpy_view(x, x.dtype.name)
    lead = 3 - len(v.shape) if axes == "rows" else None
    shape, strides = list(v.shape), list(v.strides)
    if axes == "column":  # (H,) or (B, H): a number for each row
        shape, strides = shape + [1], strides + [0]
        lead = 3 - len(shape)
    t = _lib.Tensor(data=memory.address(x), dtype=_lib.DTYPES[v.dtype])
    t.shape = (c_int64 * 3)(*[1] * lead, *shape)
    t.stride = (c_int64 * 3)(*[0] * lead, *strides)
    return t


AXES = {"skip": "column", "mask": "column", "dskip": "column"}


def call(
    case,
    direction,
    outputs,
    *,
    dy=None,
    prepared=True,
    blocks=3,
    shared=H100,
    seed=0,
    workspace=False,
    isa="fused",
    tile=1 << 27,
    stream=None,
    form=None,
    ask=None,
):
    """One call; `outputs` are written.  Returns M.  blocks, shared, seed, tile: of
    the emulated machine.  form: what is taken, ask: what is asked for."""
    with Memory() as memory:
        m = call_on(
            memory,
            case,
            direction,
            outputs,
            dy,
            prepared,
            workspace,
            isa,
            (shared, blocks, seed),
            tile,
            stream,
            form,
            ask,
        )
        memory.fetch()
    nothing_is_left()
    return m


def call_on(
    memory, case, direction, outputs, dy, prepared, workspace, isa, machine, tile, stream, form, ask
):
    batch, channels, length = case.u.shape
    kernel = (1,) * (3 - case.k.ndim) + case.k.shape
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc),
        batch=batch,
        channels=channels,
        length=length,
        kernel_length=kernel[2],
        kernels=kernel[1],
        kernel_batch=kernel[0],
        mode=_lib.MODES[case.mode["mode"]],
        dtype=_lib.DTYPES[case.u.dtype.name],
        fft_size=case.mode["fft_size"] or 0,
        isa=isa.encode() if isa else None,
        form=_lib.FORMS[ask or "auto"],
        reverse_length=0 if case.k_rev is None else case.k_rev.shape[-1],
    )
    o = _lib.Operands(
        size=ctypes.sizeof(_lib.Operands), activation=_lib.ACTIVATIONS[case.activation]
    )
    arrays = {"u": case.u, "k": case.k, "k_rev": case.k_rev, "dy": dy, **case.operands, **outputs}
    for name, x in arrays.items():
        if x is not None:
            setattr(o, name, tensor(x, AXES.get(name, "rows"), memory))
    lib = library()
    if not ON_GPU:
        lib.cuda_emulated_set(*machine)
        lib.cuda_emulated_set_tile(tile)
    plan, spectrum = c_void_p(), c_void_p()
    info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
    try:
        must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
        must(lib.fftconv_cuda_plan_get_info(plan, byref(info)))
        assert (form or ask) is None or info.form == _lib.FORMS[form or ask]
        if prepared:
            must(
                lib.fftconv_cuda_spectrum_create(
                    byref(spectrum),
                    plan,
                    byref(o.k),
                    None if case.k_rev is None else byref(o.k_rev),
                    stream,
                )
            )
            o.k, o.k_rev = _lib.Tensor(), _lib.Tensor()
        if workspace:
            size = info.backward_workspace_bytes if direction else info.forward_workspace_bytes
            room = np.full(size + 64, 0xFF, np.uint8)  # NaN
            o.workspace = -(-memory.address(room) // 64) * 64
            o.workspace_bytes = size
        stops = 0 if ON_GPU else lib.cuda_emulated_stops()
        must(
            (lib.fftconv_cuda_backward if direction else lib.fftconv_cuda_forward)(
                plan, spectrum, byref(o), stream
            )
        )
        # a workspace that was not given is allocated in the stream's order
        assert ON_GPU or lib.cuda_emulated_stops() - stops <= (not workspace)
    finally:
        lib.fftconv_cuda_spectrum_destroy(spectrum)
        lib.fftconv_cuda_plan_destroy(plan)
    return info.transform_length


def poisoned(like):
    out = np.empty_like(like)
    out[...] = np.nan
    return out


def check(name, got, want, scale, length, factor=1, inside=None):
    """Each row's error, relative to max(|want|, scale), 2-norms.

    Where u has 16 bits (`inside`; got, where that is not given) the arithmetic
    inside may be off by 1e-3, and rounding the exact result to 16 bits by what
    it is: 1.7e-3 in bfloat16 for most rows, up to 3.9e-3 where few samples make
    the row.  There the two are not independent: they may add up.
    """
    assert np.isfinite(wide(got)).all(), f"{name}: not finite, or not written"
    size = np.maximum(norm(want), scale)
    size = np.where(size > 0, size, 1)
    error = norm(wide(got) - want) / size
    sixteen = (got.dtype if inside is None else inside).itemsize == 2
    limit = (
        TOLERANCE["float16" if sixteen else "float32"]
        if got.dtype != np.float64
        else WIDE["float64"]
    )
    if got.dtype.itemsize == 2:
        limit = limit + norm(wide(want.astype(got.dtype)) - want) / size
    limit = np.broadcast_to(factor * limit * (1 if length >= 64 else 2), error.shape)
    worst = np.unravel_index(np.argmax(error - limit), error.shape)
    assert error[worst] <= limit[worst], (
        f"{name}: error {error[worst]:.3g} in row {worst}, allowed {limit[worst]:.3g}"
    )


def gain(case):
    """What out_gate and mask make of an error of p, of each row."""
    gate = case.operands.get("out_gate")
    rms = 1 if gate is None else norm(gate) / np.sqrt(gate.shape[-1])
    return np.maximum(1, rms * np.abs(case.wide("mask")))


def forward(case, **options):
    y = poisoned(case.u)
    m = call(case, 0, {"y": y}, **options)
    return y, m


def check_forward(case, y):
    want = reference.conv(case.u, case.k, **case.arguments)
    z = wide(case.u) * case.wide("in_gate")
    check(f"y of {case}", y, want, case.kernel_norms() * norm(z) * gain(case), y.shape[-1])


def pairwise(*axes):
    """Rows of choices in which every pair of two axes' values occurs."""
    axes = [list(a) for a in axes]
    missing = {
        (i, a, j, b)
        for (i, x), (j, y) in itertools.combinations(list(enumerate(axes)), 2)
        for a in range(len(x))
        for b in range(len(y))
    }
    rng = np.random.default_rng(1)
    while missing:
        best = max(
            (tuple(int(rng.integers(len(a))) for a in axes) for _ in range(60)),
            key=lambda row: sum(
                (i, row[i], j, row[j]) in missing
                for i, j in itertools.combinations(range(len(axes)), 2)
            ),
        )
        covered = {
            (i, best[i], j, best[j]) for i, j in itertools.combinations(range(len(axes)), 2)
        } & missing
        if not covered:  # bad luck: build a row around one that misses
            i, a, j, b = next(iter(missing))
            best = list(best)
            best[i], best[j] = a, b
            covered = {(i, a, j, b)}
        missing -= covered
        yield tuple(a[n] for a, n in zip(axes, best))


CIRCLE = pytest.mark.parametrize("circle", (False, True))


def rows_of(m, circle):
    """The longest of M = m, and how: causal, or even/odd on a circle."""
    return (2 * m, {"mode": "circular", "fft_size": 2 * m}) if circle else (m, {})


OPTIONS = (
    (),
    ("in_gate",),
    ("skip", "out_gate"),
    ("in_gate", "out_gate"),
    ("skip", "mask"),
    ("in_gate", "out_gate", "skip", "mask"),
)
# (mode, taps and reversed taps as parts of L, circle as a part of L)
MODES = (
    ("causal", 1, None, None),
    ("causal", 0.1, None, None),
    ("two_sided", 1, 1, None),
    ("two_sided", 0.2, 0.6, None),
    ("circular", 1, None, 1),
    ("circular", 0.5, None, 1.1),
    ("circular", 0.7, None, 2),
)


def make(m, dtype, fill, mode, options, activation, *, k_float32=True, seed=0):
    """A case whose rows need M = m: `fill` of it."""
    batch, channels = (3, 2) if m < 16384 else (2, 1)
    name, taps, reverse, circle = mode
    length = max(m // 2 + 1, int(m * fill)) if m > 256 else int(m * fill)
    comes_round = False
    if circle is not None:
        comes_round = length + max(1, int(taps * length)) - 1 > int(circle * length)
        if comes_round and circle > 1:
            length = max(1, int(length / circle))
    taps = max(1, int(taps * length))
    size = None if circle is None else int(circle * length)
    return Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode=name,
        fft_size=size,
        reverse=None if reverse is None else max(1, int(reverse * length)),
        k_dtype="float32" if k_float32 else dtype,
        seed=seed,
    )


CASES = [
    (min(case[0], LONGEST[case[1]]), *case[1:])
    for case in pairwise(
        LENGTHS,
        ("float32", "float16", "bfloat16"),
        (1, 0.77, 0.501),
        MODES,
        OPTIONS,
        (None, "gelu", "silu"),
        (False, True),
        (True, False),
    )
]


@pytest.mark.parametrize("m, dtype, fill, mode, options, activation, wide_k, prepared", CASES)
def test_forward(m, dtype, fill, mode, options, activation, wide_k, prepared):
    case = make(m, dtype, fill, mode, options, activation, k_float32=wide_k)
    y, _ = forward(case, prepared=prepared, ask="right_angle")
    check_forward(case, y)


# Circles of N = 2 M, even/odd: (u's length as a part of N, taps as one of u's), and
# rows that do not come round in one of 2 M, whatever circle was named.
CIRCLES = ((1, 1), (1, 0.3), (0.77, 0.5), (0.501, 1), (0.92, 0.08))


def make_circle(m, dtype, circle, options, activation, *, k_float32=True, seed=0):
    """A case that is done even/odd with M = m."""
    batch, channels = (3, 2) if m < 8192 else (2, 1)
    length, taps = circle
    length = max(m + 1, int(length * 2 * m))
    taps = max(1, int(taps * length))
    size = 2 * m if length + taps - 1 > 2 * m else 2 * m + 7
    return Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode="circular",
        fft_size=size,
        k_dtype="float32" if k_float32 else dtype,
        seed=seed,
    )


EVEN_ODD = [
    (min(case[0], LONGEST[case[1]]), *case[1:])
    for case in pairwise(
        LENGTHS,
        ("float32", "float16", "bfloat16"),
        CIRCLES,
        OPTIONS,
        (None, "gelu", "silu"),
        (False, True),
        (True, False),
    )
]


@pytest.mark.parametrize("m, dtype, circle, options, activation, wide_k, prepared", EVEN_ODD)
def test_even_odd(m, dtype, circle, options, activation, wide_k, prepared):
    case = make_circle(m, dtype, circle, options, activation, k_float32=wide_k)
    y, chosen = forward(case, prepared=prepared, form="even_odd")
    assert chosen == m
    check_forward(case, y)


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("circle", CIRCLES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_even_odd_all(m, dtype, circle, activation):
    m = min(m, LONGEST[dtype])
    for options in OPTIONS:
        case = make_circle(m, dtype, circle, options, activation)
        check_forward(case, forward(case, form="even_odd")[0])
        check_backward(case, backward(case, form="even_odd"))


@pytest.mark.parametrize("m", (256, 512, 2048))
def test_which_form(m):
    """Even/odd where it needs a shorter transform: circles of 2 M that a length
    holds, and what does not come round in one; right angles elsewhere, or if
    asked for."""
    for length, taps, size, form, want in (
        (2 * m, 2 * m, 2 * m, "even_odd", m),
        (2 * m, 2, 2 * m, "even_odd", m),
        (m + 1, m + 1, 2 * m, "even_odd", m),
        (m + 1, m, 2 * m, "even_odd", m),  # 2 M places: not round
        (2 * m - 9, 10, 2 * m + 1, "even_odd", m),
        (2 * m - 9, 10, 2 * m - 1, "right_angle", 2 * m),
        (2 * m - 9, 11, 2 * m + 3, "right_angle", 2 * m),
        (m, m, 2 * m, "right_angle", m),  # neither, with real input
        (2 * m - 1, 2 * m - 1, 2 * m - 1, "right_angle", 2 * m),
        (2 * m - 2, 2 * m - 2, 2 * m - 2, "right_angle", 2 * m),
        (m, m, m, "right_angle" if m == 256 else "even_odd", max(256, m // 2)),
    ):
        case = Case(2, 1, length, taps, "float32", mode="circular", fft_size=size)
        y, chosen = forward(case, form=form)
        assert chosen == want, (length, taps, size)
        check_forward(case, y)
        if form == "even_odd":
            again, chosen = forward(case, ask="right_angle")
            assert chosen == 2 * want
            check_forward(case, again)
    for mode in ("causal", "two_sided"):
        case = Case(1, 1, m + 1, 2, "float32", mode=mode)
        assert forward(case, form="right_angle")[1] == 2 * m


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_forward_all(m, dtype, mode, activation):
    for i, options in enumerate(OPTIONS):
        m = min(m, LONGEST[dtype])
        case = make(m, dtype, (1, 0.77, 0.501)[i % 3], mode, options, activation)
        check_forward(case, forward(case)[0])


@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_each_length_is_chosen(m, dtype):
    """The shortest that holds the row, of M + 1 samples the next."""
    for length, want in ((m, m), (m // 2 + 1, m), (m + 1, 2 * m)):
        case = Case(1, 1, length, 5, dtype)
        if want > LONGEST[dtype]:
            with pytest.raises(RuntimeError, match=rf"length is {length}"):
                forward(case)
        elif length <= 4097 or length == m:
            y, chosen = forward(case)
            assert chosen == max(want, LENGTHS[0])
            check_forward(case, y)


@pytest.mark.parametrize("length", (1, 2, 3, 7, 31, 63, 64, 65, 100, 255))
@pytest.mark.parametrize("dtype", TOLERANCE)
@ENGINES
def test_short_rows(length, dtype, isa):
    """Less than the shortest transform, down to one sample; many rows."""
    case = Case(19, 3, length, length, dtype, options=("skip", "in_gate"))
    check_forward(case, forward(case, isa=isa)[0])


@pytest.mark.parametrize(
    "batch, channels, blocks", [(1, 1, 1), (1, 5, 2), (17, 1, 4), (33, 3, 100), (2, 150, 7)]
)
@pytest.mark.parametrize("m", (256, 8192))
@CIRCLE
def test_rows_and_blocks(batch, channels, blocks, m, circle):
    """Any number of rows over any number of blocks: the same bits."""
    if m > 1024:
        batch, channels = min(batch, 5), min(channels, 3)
    length, mode = rows_of(m, circle)
    case = Case(batch, channels, length - 5, 40, "float16", options=("out_gate",), **mode)
    y, _ = forward(case, blocks=blocks)
    check_forward(case, y)
    again, _ = forward(case, blocks=blocks + 3, seed=5)
    assert y.tobytes() == again.tobytes()


@pytest.mark.parametrize(
    "isa",
    (
        "cufft",
        pytest.param(
            "fused", marks=pytest.mark.skipif(not ON_GPU, reason="an hour of the emulated machine")
        ),
    ),
)
@pytest.mark.parametrize("batch, channels", [(65537, 1), (2, 32769)])
def test_many_rows(batch, channels, isa):
    """More than the 65,535 that two of a grid's three sizes hold."""
    case = Case(batch, channels, 2, 2, "float32", options=("skip",), kernels=(1,))
    check_forward(case, forward(case, isa=isa)[0])
    check_backward(case, backward(case, isa=isa))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (512, 4096))
@CIRCLE
@ENGINES
def test_strides(dtype, m, circle, isa):
    """Misaligned, transposed, reversed, spread and repeated rows."""
    m, mode = rows_of(m, circle)
    base = Case(2, 3, m - 3, 33, dtype, options=("in_gate", "out_gate", "skip"), **mode)
    want, _ = forward(base, isa=isa)

    def spread(x):
        out = np.full((*x.shape[:-1], 3 * x.shape[-1] + 1), np.nan, x.dtype)
        out[..., 1::3] = x
        return out[..., 1::3]

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    def backwards(x):
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]

    def shifted(x):
        out = np.empty((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
        out[..., 1:] = x
        return out[..., 1:]

    for lay in (spread, turned, backwards, shifted):
        case = Case(2, 3, m - 3, 33, dtype, options=("in_gate", "out_gate", "skip"), **mode)
        case.u = lay(case.u)
        case.operands = {
            **case.operands,
            "in_gate": lay(case.operands["in_gate"]),
            "out_gate": lay(case.operands["out_gate"]),
        }
        case.k = lay(case.k)
        y = lay(poisoned(base.u))
        call(case, 0, {"y": y}, isa=isa)
        assert np.array_equal(y.view(y.dtype), want), lay.__name__
    case = Case(2, 3, m, 33, dtype, **mode)
    case.u = np.broadcast_to(case.u[:1, :1], case.u.shape)
    check_forward(case, forward(case, isa=isa)[0])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (256, 16384))
@CIRCLE
@ENGINES
def test_in_place(dtype, m, circle, isa):
    m, mode = rows_of(m, circle)
    case = Case(3, 1, m, m, dtype, options=("skip", "in_gate"), **mode)
    want, _ = forward(case, isa=isa)
    call(case, 0, {"y": case.u}, isa=isa)
    assert case.u.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", LENGTHS)
@CIRCLE
def test_scales(dtype, m, circle):
    """u, k of any size, and with a large mean: the same relative error."""
    m, mode = rows_of(min(m, LONGEST[dtype]), circle)
    for factor, k_factor, mean in (
        (1e-3, 1, 0),
        (1e3, 1, 0),
        (1, 1, 100),
        (1, 1e4, 0),
        (1, 1e-6, 0),
    ):
        case = Case(1, 1, m, m, dtype, k_dtype="float32", seed=3, **mode)
        case.u = ((wide(case.u) + mean) * factor).astype(case.u.dtype)
        case.k = (wide(case.k) * k_factor).astype("float32")
        if dtype == "float16" and k_factor == 1e-6:
            case.u = (wide(case.u) * 1e4).astype(case.u.dtype)
        check_forward(case, forward(case)[0])


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@CIRCLE
@ENGINES
def test_far_exponents(dtype, circle, isa):
    """Near both ends of float32's range, with gates that bring it back."""
    for up in (1e30, 1e-30):
        case = Case(
            2,
            1,
            600,
            600,
            dtype,
            options=("out_gate",),
            k_dtype="float32",
            **rows_of(512, circle)[1],
        )
        case.u = (wide(case.u) * up).astype(case.u.dtype)
        case.operands["out_gate"] = (case.wide("out_gate") / up).astype(case.u.dtype)
        y, _ = forward(case, isa=isa)
        want = reference.conv(case.u, case.k, **case.arguments)
        check("y", y, want, norm(want), 600)


@pytest.mark.parametrize("m", (256, 1024, 4096, 8192))
@pytest.mark.parametrize("dtype", TOLERANCE)
@CIRCLE
@ENGINES
def test_rows_are_independent(m, dtype, circle, isa):
    """Not in their last bit, not through a NaN, an Inf, or a loud neighbour."""
    m, mode = rows_of(m, circle)
    case = Case(9, 1, m, m, dtype, **mode)
    want, _ = forward(case, isa=isa)
    loud = case.u.copy()
    loud[1] = np.nan
    loud[3, 0, 5] = np.inf
    loud[5] = (wide(loud[5]) * 1e4).astype(loud.dtype)
    loud[7] = 0
    case.u = loud
    y = poisoned(loud)
    call(case, 0, {"y": y}, isa=isa)
    for row in (0, 2, 4, 6, 8):
        assert y[row].tobytes() == want[row].tobytes()
    assert not np.isfinite(wide(y[1])).any()
    assert not np.isfinite(wide(y[3])).all()
    assert not wide(y[7]).any()


@pytest.mark.parametrize("m", (256, 2048, 4096))
@pytest.mark.parametrize("groups, per_batch", [(2, False), (1, False), (4, True), (2, True)])
@CIRCLE
@ENGINES
def test_shared_kernels(m, groups, per_batch, circle, isa):
    """Kernels of groups of channels, and of each row of the batch."""
    batch = 5
    kernels = (batch, groups) if per_batch else (groups,)
    m, mode = rows_of(m, circle)
    case = Case(batch, 4, m, m // 2, "float16", kernels=kernels, **mode)
    for prepared in (True, False):
        check_forward(case, forward(case, prepared=prepared, isa=isa)[0])


@CIRCLE
@pytest.mark.parametrize("m", (256, 512))
def test_impulses(m, circle):
    """A sample at each place, a tap at each lag: every constant is met."""
    m, mode = rows_of(m, circle)
    case = Case(m, 1, m, m, "float32", **mode)
    case.u[...] = 0
    case.u[np.arange(m), 0, np.arange(m)] = 1
    case.k[...] = np.random.default_rng(2).standard_normal(m)
    y, _ = forward(case)
    t, s = np.mgrid[:m, :m]
    want = np.where((s >= t) | circle, wide(case.k)[0][s - t], 0)
    assert np.abs(wide(y)[:, 0] - want).max() < 1e-5


@emulated_only
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": KB
# of shared memory a block may have; and the longest rows that fit them.
@pytest.mark.parametrize(
    "sm, kilobytes, half, single",
    [
        (80, 163, 32768, 16384),
        (86, 99, 16384, 8192),
        (89, 99, 16384, 8192),
        (90, 227, 32768, 16384),
        (100, 227, 32768, 16384),
        (120, 99, 16384, 8192),
    ],
)
def test_shared_memory(sm, kilobytes, half, single):
    shared = kilobytes * 1024
    for dtype, m in (("float16", half), ("float32", single)):
        assert forward(Case(1, 1, m, 3, dtype), shared=shared)[1] == m
        longer = Case(1, 1, m + 1, 3, dtype)
        with pytest.raises(RuntimeError, match="more than this device's"):
            forward(longer, shared=shared)
        assert forward(longer, shared=shared, isa=None)[1] > m + 1


@ENGINES
def test_workspace_of_the_caller(isa):
    """Then nothing is allocated, and nothing waited for: call() counts."""
    case = Case(3, 2, 300, 300, "float16", options=("out_gate", "skip"), activation="silu")
    for prepared in (True, False):
        options = {"prepared": prepared, "workspace": True, "isa": isa}
        y, _ = forward(case, **options)
        check_forward(case, y)
        check_backward(case, backward(case, **options))


def test_refusals():
    """Before anything is written, naming the argument."""
    for case, says in (
        (Case(1, 1, 300, 3, "float64"), "dtype is float64"),
        (Case(1, 1, 300, 3, "complex64"), "dtype is complex64"),
    ):
        with pytest.raises(RuntimeError, match=says):
            forward(case)
    case = Case(2, 1, 300, 3, "float32")
    case.operands = {"in_gate": case.u[:1]}
    with pytest.raises(RuntimeError, match="in_gate has shape"):
        forward(case)
    lib, plan = library(), c_void_p()
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc), batch=1, channels=1, length=300, kernel_length=3, dtype=2
    )

    def create(device=0, **fields):
        for name, value in fields.items():
            setattr(desc, name, value)
        try:
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), device))
            return plan.value
        finally:
            for name in fields:
                setattr(desc, name, 0)

    for device in (-1, DEVICES):
        with pytest.raises(
            RuntimeError, match=(f"device is {device}, must be 0 ... {DEVICES - 1}")
        ):
            create(device)
    for fields in ({"dense": 1}, {"order": 2}, {"history": 1}):
        (name,) = fields
        with pytest.raises(RuntimeError, match=f"{name} is given"):
            create(**fields)
    desc.isa = b"avx2"
    with pytest.raises(RuntimeError, match='isa is "avx2", must be NULL, "fused"'):
        create()
    desc.isa = b"fused"  # whose rows are counted in 32 bits
    for batch, channels, says in (
        ((1 << 30) + 1, 1, "batch is 1073741825, must be at most 1073741824"),
        (1, (1 << 30) + 1, "channels is 1073741825, must be at most 1073741824"),
    ):
        with pytest.raises(RuntimeError, match=says):
            create(batch=batch, channels=channels, length=300, kernel_length=3)
    # Kernels of each (b, h): a launch's tasks are the channels times the batch, here
    # eight rows at a time; one more of those than it takes.
    for batch, channels in ((1 << 23, (1 << 10) + 1), ((1 << 23) + 1, 1 << 10)):
        with pytest.raises(
            RuntimeError,
            match=(rf"batch \* channels is {batch} \* {channels}, more than one launch"),
        ):
            create(batch=batch, channels=channels, kernel_batch=batch, length=300, kernel_length=3)
    desc.batch = desc.channels = 1
    desc.isa = b"cufft"
    for fields in ({"length": 1 << 30}, {"kernel_length": 1 << 31}):
        with pytest.raises(RuntimeError, match="may have 1073741824 points"):
            create(**{"length": 300, "kernel_length": 3, **fields})
    desc.isa, desc.length, desc.kernel_length = None, 300, 3
    assert create()
    first, k, memory = plan.value, np.zeros((1, 1, 3), "float32"), Memory()
    spectrum = c_void_p()
    must(
        lib.fftconv_cuda_spectrum_create(
            byref(spectrum), first, byref(tensor(k, "rows", memory)), None, None
        )
    )
    second = create(length=600)
    o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
    u = np.zeros((1, 1, 600), "float32")
    o.u, o.y = tensor(u, "rows", memory), tensor(poisoned(u), "rows", memory)
    with pytest.raises(RuntimeError, match="spectrum was made for another plan"):
        must(lib.fftconv_cuda_forward(second, spectrum, byref(o), None))
    with pytest.raises(RuntimeError, match="k is NULL"):
        must(lib.fftconv_cuda_forward(second, None, byref(o), None))
    o.k = tensor(k, "rows", memory)
    for name in ("u", "k", "y"):
        t = getattr(o, name)
        t.data += 2
        with pytest.raises(
            RuntimeError, match=(f"{name} is at 0x.*, must be aligned to its 4-byte numbers")
        ):
            must(lib.fftconv_cuda_forward(second, None, byref(o), None))
        if name == "k":
            with pytest.raises(RuntimeError, match="k is at 0x.*, must be aligned"):
                must(
                    lib.fftconv_cuda_spectrum_create(
                        byref(c_void_p()), second, byref(t), None, None
                    )
                )
        t.data -= 2
    scratch, o.workspace = aligned_bytes(64)
    o.workspace_bytes = 64
    with pytest.raises(RuntimeError, match="workspace_bytes is 64"):
        must(lib.fftconv_cuda_forward(second, None, byref(o), None))
    memory.__exit__()
    lib.fftconv_cuda_spectrum_destroy(spectrum)
    lib.fftconv_cuda_plan_destroy(first)
    lib.fftconv_cuda_plan_destroy(second)
    nothing_is_left()


def test_a_spectrum_is_of_its_form():
    """Of M = 256 both, and kernels of 9 taps."""
    lib, k, plans = library(), np.ones((1, 1, 9), "float32"), {}
    with Memory() as memory:
        for length, form in ((500, "even_odd"), (200, "right_angle")):
            desc = _lib.PlanDesc(
                size=ctypes.sizeof(_lib.PlanDesc),
                batch=1,
                channels=1,
                length=length,
                kernel_length=9,
                dtype=2,
                mode=_lib.MODES["circular"],
                fft_size=length + 8,
            )
            plan, spectrum = c_void_p(), c_void_p()
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
            info = _lib.PlanInfo(size=ctypes.sizeof(_lib.PlanInfo))
            must(lib.fftconv_cuda_plan_get_info(plan, byref(info)))
            assert (info.form, info.transform_length) == (_lib.FORMS[form], 256)
            must(
                lib.fftconv_cuda_spectrum_create(
                    byref(spectrum), plan, byref(tensor(k, "rows", memory)), None, None
                )
            )
            u = np.ones((1, 1, length), "float32")
            y = poisoned(u)
            o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
            o.u, o.y = tensor(u, "rows", memory), tensor(y, "rows", memory)
            plans[form] = plan, spectrum, o, (u, y)
        for form, other in itertools.permutations(plans):
            plan, spectrum, o, _ = plans[form]
            must(lib.fftconv_cuda_forward(plan, spectrum, byref(o), None))
            with pytest.raises(RuntimeError, match="was made for another plan"):
                must(lib.fftconv_cuda_forward(plan, plans[other][1], byref(o), None))
        for plan, spectrum, _, _ in plans.values():
            lib.fftconv_cuda_spectrum_destroy(spectrum)
            lib.fftconv_cuda_plan_destroy(plan)
    nothing_is_left()


@emulated_only
def test_a_spectrum_is_of_its_engine():
    """However it was chosen: here because no circle of 2^15 fits a block."""
    lib, case = library(), Case(1, 1, 1 << 15, 2, "float32", mode="circular")
    lib.cuda_emulated_set(1024, 3, 0)
    plans, y = [], poisoned(case.u)
    with Memory() as memory:
        o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
        o.u, o.y = tensor(case.u, "rows", memory), tensor(y, "rows", memory)
        for isa in (b"cufft", None):
            plan, spectrum = c_void_p(), c_void_p()
            desc = _lib.PlanDesc(
                size=ctypes.sizeof(_lib.PlanDesc),
                batch=1,
                channels=1,
                length=1 << 15,
                kernel_length=2,
                dtype=2,
                isa=isa,
                mode=_lib.MODES["circular"],
                fft_size=1 << 15,
            )
            must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
            must(
                lib.fftconv_cuda_spectrum_create(
                    byref(spectrum), plan, byref(tensor(case.k, "rows", memory)), None, None
                )
            )
            plans.append((plan, spectrum))
        for (plan, _), (_, spectrum) in itertools.permutations(plans):
            must(lib.fftconv_cuda_forward(plan, spectrum, byref(o), None))
            check_forward(case, y)
        for plan, spectrum in plans:
            lib.fftconv_cuda_spectrum_destroy(spectrum)
            lib.fftconv_cuda_plan_destroy(plan)
    nothing_is_left()


def test_without_a_device():
    """The library of this build loads, and says that there is none."""
    if _lib.lib.fftconv_cuda_devices():
        pytest.skip("there is one")
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc), batch=1, channels=1, length=300, kernel_length=3, dtype=2
    )
    with pytest.raises(_lib.Unsupported, match="CUDA"):
        _lib.lib.fftconv_cuda_plan_create(byref(c_void_p()), byref(desc), 0)


# ---- Backward -----------------------------------------------------------------

NEEDS = ("u", "k", "k_rev", "in_gate", "out_gate", "skip")


def backward(case, needs=NEEDS, **options):
    """The gradients of what `needs` names and the case has, by name."""
    operands = {"u": case.u, "k": case.k, "k_rev": case.k_rev, **case.operands}
    outputs = {
        "d" + name: poisoned(operands[name]) for name in needs if operands.get(name) is not None
    }
    call(case, 1, outputs, dy=case.dy, **options)
    return outputs


def check_backward(case, got):
    want = reference.conv_backward(case.dy, case.u, case.k, **case.arguments)._asdict()
    k, z = case.kernel_norms(), norm(wide(case.u) * case.wide("in_gate"))
    g = norm(wide(case.dy) * case.wide("out_gate")) * np.abs(case.wide("mask"))
    g = np.maximum(g, norm(wide(case.dy)))
    if case.activation is not None:  # p's own error moves the slope
        g, z = 1.2 * g * np.maximum(1, k), z * np.maximum(1, k)
    # Cauchy-Schwarz over the rows for what is summed over them.
    shared = np.sqrt(case.shared(g**2) * case.shared(z**2))
    u, gate = case.wide("in_gate"), gain(case)
    scales = {
        "du": k * g * np.maximum(1, np.sqrt(np.mean(u**2))),
        "dk": shared,
        "dk_rev": shared,
        "din_gate": k * g,
        "dout_gate": k * z * gate,
        "dskip": (norm(g.T) * norm(z.T)),
    }
    for name, x in got.items():
        exact = want[name]
        if name == "dskip":
            x, exact = x[:, None], exact[:, None]
        check(
            f"{name} of {case}", x, exact, scales[name], x.shape[-1], factor=2, inside=case.u.dtype
        )


@pytest.mark.parametrize("m, dtype, fill, mode, options, activation, wide_k, prepared", CASES)
def test_backward(m, dtype, fill, mode, options, activation, wide_k, prepared):
    case = make(m, dtype, fill, mode, options, activation, k_float32=wide_k, seed=1)
    check_backward(case, backward(case, prepared=prepared, ask="right_angle"))


@pytest.mark.parametrize("m, dtype, circle, options, activation, wide_k, prepared", EVEN_ODD)
def test_backward_even_odd(m, dtype, circle, options, activation, wide_k, prepared):
    case = make_circle(m, dtype, circle, options, activation, k_float32=wide_k, seed=1)
    check_backward(case, backward(case, prepared=prepared, form="even_odd"))


@big
@pytest.mark.parametrize("m", LENGTHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", (None, "gelu", "silu"))
def test_backward_all(m, dtype, mode, activation):
    for i, options in enumerate(OPTIONS):
        m = min(m, LONGEST[dtype])
        case = make(m, dtype, (1, 0.77, 0.501)[i % 3], mode, options, activation)
        check_backward(case, backward(case))


@pytest.mark.parametrize("activation", (None, "silu"))
@pytest.mark.parametrize(
    "needs",
    [
        tuple(n for i, n in enumerate(NEEDS) if bits >> i & 1)
        for bits in range(1, 64)
        if not bits & 4
    ],
)
@pytest.mark.parametrize("isa, circle", [("fused", False), ("fused", True), ("cufft", False)])
def test_needs(needs, activation, isa, circle):
    """Any choice of gradients, and the same bits as all of them give."""
    case = Case(
        3,
        2,
        500 if circle else 200,
        150,
        "float16",
        activation=activation,
        options=("in_gate", "out_gate", "skip", "mask"),
        **rows_of(256, circle)[1],
    )
    every = backward(case, isa=isa)
    for name, x in backward(case, needs, isa=isa).items():
        if activation is None and name in ("du", "din_gate", "dskip", "dk"):
            # without dout_gate g is not stored on its way
            check_backward(case, {name: x})
        else:
            assert x.tobytes() == every[name].tobytes(), name


@pytest.mark.parametrize(
    "batch, channels, blocks", [(1, 1, 1), (17, 1, 4), (33, 3, 100), (40, 2, 7)]
)
@pytest.mark.parametrize("m", (256, 1024, 4096))
@CIRCLE
def test_backward_rows_and_blocks(batch, channels, blocks, m, circle):
    """Sums over the batch: the same bits, whatever the blocks."""
    batch = min(batch, 40960 // m)
    m, mode = rows_of(m, circle)
    case = Case(batch, channels, m - 5, 40, "float16", options=("out_gate", "skip"), **mode)
    got = backward(case, blocks=blocks)
    check_backward(case, got)
    again = backward(case, blocks=blocks + 3, seed=5)
    for name, x in got.items():
        assert x.tobytes() == again[name].tobytes(), name


@pytest.mark.parametrize("m", (256, 2048))
@pytest.mark.parametrize("groups, per_batch", [(2, False), (1, False), (4, True), (2, True)])
def test_backward_shared_kernels(m, groups, per_batch):
    batch = 5
    kernels = (batch, groups) if per_batch else (groups,)
    for mode in ("causal", "two_sided", "circular"):
        length, circle = rows_of(m, mode == "circular")
        case = Case(
            batch, 4, length, m // 2, "float32", kernels=kernels, **{"mode": mode, **circle}
        )
        got = backward(case)
        for options in ({"prepared": False}, {"blocks": 5, "seed": 7}):
            again = backward(case, **options)
            for name, x in got.items():
                assert x.tobytes() == again[name].tobytes(), name
        check_backward(case, got)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", (256, 4096, 16384))
@CIRCLE
def test_backward_scales(dtype, m, circle):
    m, mode = rows_of(m, circle)
    for factor, dy_factor in ((1e-3, 1), (1e3, 1), (1, 1e-3), (1, 1e3)):
        case = Case(2, 1, m, m, dtype, k_dtype="float32", **mode)
        case.u = (wide(case.u) * factor).astype(case.u.dtype)
        case.dy = (wide(case.dy) * dy_factor).astype(case.dy.dtype)
        check_backward(case, backward(case))


@ENGINES
def test_backward_strides(isa):
    base = Case(
        2, 3, 509, 33, "float16", options=("in_gate", "out_gate", "skip"), activation="gelu"
    )
    want = backward(base, isa=isa)
    case = Case(
        2, 3, 509, 33, "float16", options=("in_gate", "out_gate", "skip"), activation="gelu"
    )

    def turned(x):
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    operands = {"u": case.u, "k": case.k, **case.operands}
    outputs = {
        "d" + n: turned(poisoned(x)) if x.ndim == 3 else poisoned(x) for n, x in operands.items()
    }
    case.u = turned(case.u)
    call(case, 1, outputs, dy=turned(case.dy), isa=isa)
    for name, x in outputs.items():
        assert np.array_equal(x, want[name]), name


@CIRCLE
def test_backward_rows_are_independent(circle):
    length, mode = rows_of(256, circle)
    case = Case(9, 1, length, length, "float16", options=("skip",), **mode)
    want = backward(case)
    case.u = case.u.copy()
    case.u[1] = np.nan
    case.dy[3, 0, 7] = np.inf
    operands = {"du": poisoned(case.u)}
    call(case, 1, operands, dy=case.dy)
    for row in (0, 2, 4, 5, 6, 7, 8):
        assert operands["du"][row].tobytes() == want["du"][row].tobytes()


@ENGINES
def test_taps_that_never_act(isa):
    """Beyond the row's length: their gradient is zero, and is written."""
    case = Case(2, 2, 300, 700, "float32", mode="two_sided", reverse=900)
    got = backward(case, isa=isa)
    assert not got["dk"][:, 300:].any() and not got["dk_rev"][:, 300:].any()
    check_backward(case, got)


# ---- Arrays of Python -----------------------------------------------------------


@emulated_only
def test_device_arrays():
    """test_device.py, test_bench_gpu.py, and of this file what lays out memory as
    on a GPU, in a process whose library is the emulated one."""
    tests = Path(__file__).parent
    run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        tests.parent / "pyproject.toml",
        "-p",
        "no:cacheprovider",
        tests / "test_device.py",
        tests / "test_bench_gpu.py",
        tests / "test_cuda.py",
        "-k",
        "test_device or test_bench_gpu or strides or in_place or refusals or workspace",
        env=clean_environment(
            FFTCONV_LIBRARY=str(LIBRARY),
            FFTCONV_CUFFT=str(LIBRARY),
            FFTCONV_BUILDDIR=str(BUILD),
            PYTHONPATH=str(Path(_lib.__file__).parent.parent),
        ),
    )


# ---- Rows by cuFFT: as test_forward and test_backward, and in tiles -------------

# A tile of 0 bytes is one row.
PADDED = list(
    pairwise(
        (1, 2, 7, 64, 257, 1000, 4099),
        (*TOLERANCE, *WIDE),
        MODES,
        OPTIONS,
        (None, "gelu", "silu"),
        (False, True),
        (True, False),
        (0, 20000, 40000, 1 << 27),
    )
)


def padded(length, dtype, mode, options, activation, wide_k, seed=0):
    batch, channels = (5, 6) if length < 1000 else (3, 2)
    name, taps, reverse, circle = mode
    taps = max(1, int(taps * length))
    return Case(
        batch,
        channels,
        length,
        taps,
        dtype,
        options=options,
        activation=activation,
        mode=name,
        fft_size=None if circle is None else max(length, int(circle * length)),
        reverse=None if reverse is None else max(1, int(reverse * length)),
        k_dtype="float32" if wide_k and dtype != "float64" else dtype,
        seed=seed,
    )


@pytest.mark.parametrize("length, dtype, mode, options, activation, wide_k, prepared, tile", PADDED)
def test_padded(length, dtype, mode, options, activation, wide_k, prepared, tile):
    case = padded(length, dtype, mode, options, activation, wide_k)
    options = {"prepared": prepared, "isa": "cufft", "tile": tile}
    check_forward(case, forward(case, **options)[0])
    check_backward(case, backward(case, **options))


@pytest.mark.parametrize(
    "length, mode, size, want",
    [
        (1000, "causal", None, 2000),
        (1001, "causal", None, 2016),
        (1, "causal", None, 2),
        (7, "causal", None, 14),
        (8192, "causal", None, 16384),
        (1000, "circular", 1000, 1000),
        (1000, "circular", 1029, 1029),
        (1000, "circular", 1999, 2000),
        (1000, "circular", 1009, 2000),
        (17, "circular", 17, 36),
        (15, "circular", 15, 15),
    ],
)
def test_padded_length(length, mode, size, want):
    """Factors 2, 3, 5 and 7; even, but where the caller names an odd circle."""
    case = Case(2, 1, length, length, "float32", mode=mode, fft_size=size)
    y, points = forward(case, isa="cufft")
    assert points == want
    check_forward(case, y)


@pytest.mark.parametrize(
    "groups, per_batch", [(2, False), (1, False), (3, False), (6, True), (2, True), (1, True)]
)
@pytest.mark.parametrize("tile", (0, 7000, 15000, 40000))
def test_padded_kernels(groups, per_batch, tile):
    """Kernels of groups and of each row, in every division into tiles."""
    kernels = (5, groups) if per_batch else (groups,)
    for mode in ("causal", "two_sided"):
        case = Case(
            5, 6, 300, 200, "float32", kernels=kernels, mode=mode, options=("skip", "out_gate")
        )
        for prepared in (True, False):
            options = {"prepared": prepared, "isa": "cufft", "tile": tile}
            check_forward(case, forward(case, **options)[0])
            check_backward(case, backward(case, **options))


@pytest.mark.parametrize(
    "batch, kernels, tile",
    [
        (9, (2,), 30000),
        (9, (2,), 1 << 27),
        (37, (1,), 1 << 27),
        (40, (1,), 200000),
        (5, (5, 1), 1 << 27),
    ],
)
def test_padded_sums(batch, kernels, tile):
    """Of few rows and many, by several warps: right, and in a fixed order, the same
    bits in another order of blocks and warps."""
    case = Case(batch, 4, 500, 90, "float32", kernels=kernels, options=("skip", "in_gate"))
    got = backward(case, isa="cufft", tile=tile)
    check_backward(case, got)
    again = backward(case, isa="cufft", tile=tile, seed=9)
    for name, x in got.items():
        assert x.tobytes() == again[name].tobytes(), name


@pytest.mark.parametrize(
    "dtype, length", [("float16", 40000), ("float32", 20000), ("float64", 500)]
)
def test_what_fuses_not_is_padded(dtype, length):
    """An engine that is not named is the first that holds the row."""
    case = Case(1, 1, length, 300, dtype, options=("skip",))
    y, points = forward(case, isa=None)
    assert points >= length + 300 - 1
    check_forward(case, y)
    case = Case(1, 1, 200, 3, "float16")
    assert forward(case, isa=None)[1] == 256


@emulated_only
@pytest.mark.skipif(sys.platform != "linux", reason="much memory, of which little is used")
@ENGINES
def test_far_apart(isa):
    """Rows more than 2^31 elements from each other."""
    base = Case(2, 2, 300, 40, "float16", options=("in_gate", "out_gate"), activation="silu")
    want, gradients = forward(base, isa=isa)[0], backward(base, isa=isa)
    steps = (5 << 30, 3 << 30)

    def far(x):
        bytes_ = (steps[0] + steps[1] + 300) * x.itemsize
        memory = mmap.mmap(
            -1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        )  # Linux's MAP_NORESERVE: pages when touched
        out = np.lib.stride_tricks.as_strided(
            np.frombuffer(memory, x.dtype),
            x.shape,
            (steps[0] * x.itemsize, steps[1] * x.itemsize, x.itemsize),
        )
        out[...] = x
        return out

    case = Case(2, 2, 300, 40, "float16", options=("in_gate", "out_gate"), activation="silu")
    case.u = far(case.u)
    case.operands = {name: far(x) for name, x in case.operands.items()}
    y = far(poisoned(want))
    call(case, 0, {"y": y}, isa=isa)
    assert y.tobytes() == want.tobytes()
    du = far(poisoned(want))
    call(case, 1, {"du": du}, dy=far(case.dy), isa=isa)
    assert du.tobytes() == gradients["du"].tobytes()


@emulated_only
@ENGINES
def test_stream_and_device(isa):
    """Every launch and allocation is on the caller's stream and the plan's device."""
    lib, stream = library(), 0x5EED
    case = Case(
        3, 2, 300, 300, "float32", options=("skip", "out_gate"), mode="two_sided", activation="gelu"
    )
    for on, device, strays in (
        (stream, DEVICE, False),
        (stream + 1, DEVICE, True),
        (stream, 0, True),
    ):
        for prepared, direction in itertools.product((True, False), (forward, backward)):
            lib.cuda_emulated_expect(on, device)
            before = lib.cuda_emulated_strays()
            direction(case, prepared=prepared, isa=isa, stream=stream)
            lib.cuda_emulated_expect(None, 0)
            assert (lib.cuda_emulated_strays() > before) == strays


@emulated_only
@ENGINES
def test_every_failure(isa):
    """Of an allocation, a launch or a call of cuFFT, one after another: a status,
    a message, and nothing left behind."""
    lib, says = library(), set()
    case = Case(3, 2, 300, 300, "float32", options=("skip", "out_gate"))
    for prepared in (True, False):
        for direction in (forward, backward):
            for operations in itertools.count():
                assert operations < 100
                lib.cuda_emulated_fail(operations)
                try:
                    direction(case, prepared=prepared, isa=isa)
                    break
                except RuntimeError as error:
                    says.add(str(error))
                finally:
                    lib.cuda_emulated_fail(-1)
                nothing_is_left()
            assert operations > 3
    for message in (
        "a launch was made to fail",
        "bytes",
        *(["cuFFT says"] if isa == "cufft" else []),
    ):
        assert any(message in s for s in says), message


def test_threads_share_a_plan():
    """One cuFFT handle, many threads, each with its workspace."""
    lib = library()
    case = Case(4, 2, 700, 700, "float32")
    want, _ = forward(case, isa="cufft")
    desc = _lib.PlanDesc(
        size=ctypes.sizeof(_lib.PlanDesc),
        batch=4,
        channels=2,
        length=700,
        kernel_length=700,
        dtype=2,
        isa=b"cufft",
    )
    plan, wrong = c_void_p(), []
    if not ON_GPU:
        lib.cuda_emulated_set_tile(1 << 14)
    must(lib.fftconv_cuda_plan_create(byref(plan), byref(desc), DEVICE))
    results = [poisoned(want) for _ in range(6)]

    def work(o):
        if lib.fftconv_cuda_forward(plan, None, byref(o), None):
            wrong.append(lib.fftconv_last_error())

    with Memory() as memory:
        threads = []
        for y in results:
            o = _lib.Operands(size=ctypes.sizeof(_lib.Operands))
            o.u, o.k, o.y = (tensor(x, "rows", memory) for x in (case.u, case.k, y))
            threads.append(threading.Thread(target=work, args=(o,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        memory.fetch()
    lib.fftconv_cuda_plan_destroy(plan)
    assert not wrong
    assert all(y.tobytes() == want.tobytes() for y in results)


@emulated_only
def test_without_cufft(monkeypatch, tmp_path):
    """It says so, naming what it looked for; and finds it later."""
    fresh = tmp_path / "libcuda_emulated.so"  # not loaded yet: no cuFFT known
    fresh.write_bytes(LIBRARY.read_bytes())
    lib = ctypes.CDLL(str(fresh))
    lib.fftconv_last_error.restype = ctypes.c_char_p
    plan = c_void_p()

    def create(length, isa=None):
        desc = _lib.PlanDesc(
            size=ctypes.sizeof(_lib.PlanDesc),
            batch=1,
            channels=1,
            length=length,
            kernel_length=3,
            dtype=2,
            isa=isa,
        )
        return (
            lib.fftconv_cuda_plan_create(byref(plan), byref(desc), 0),
            lib.fftconv_last_error().decode(),
        )

    monkeypatch.setenv("FFTCONV_CUFFT", str(tmp_path / "none.so"))
    for length, isa in ((300, b"cufft"), (40000, None)):
        status, says = create(length, isa)
        assert status == _lib.UNSUPPORTED and not plan.value
        assert "cuFFT was not found" in says and "none.so" in says
        assert ("length is 40000" in says) == (isa is None)
    monkeypatch.setenv("FFTCONV_CUFFT", str(_lib.path))  # a library without it
    assert "cuFFT has no cufftCreate" in create(300, b"cufft")[1]
    monkeypatch.setenv("FFTCONV_CUFFT", str(fresh))  # found: asked again
    assert create(300, b"cufft")[0] == 0
    lib.fftconv_cuda_plan_destroy(plan)


# ---- The emulated machine itself ----------------------------------------------


@emulated_only
def test_fragment_maps():
    """PTX ISA, mma.m16n8k16: groupID = lane / 4, threadID = lane % 4."""
    row, column = c_int(), c_int()
    for lane, i in itertools.product(range(32), range(4)):
        group, thread = divmod(lane, 4)
        want = {
            "a": (group + 8 * (i in (1, 3)), 2 * thread + 8 * (i >= 2)),
            "b": (2 * thread + 8 * (i >= 1), group),
            "c": (group + 8 * (i >= 2), 2 * thread + (i & 1)),
        }
        for matrix, place in want.items():
            if matrix == "b" and i > 1:
                continue
            library().cuda_emulated_fragment(ord(matrix), lane, i, byref(row), byref(column))
            assert (row.value, column.value) == place


@emulated_only
def test_conversions(rng):
    """To 16 bits as NumPy and ml_dtypes round: nearest, ties to even."""
    bits = np.concatenate(
        [
            rng.integers(0, 2**32, 20000, dtype=np.uint32),
            np.arange(2**16, dtype=np.uint32)[::7] << 16,
            normal(rng, 5000, "float32").view(np.uint32),
            (np.arange(4096, dtype=np.uint32) << 12) + 0x33000000,
        ]
    )
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        half = x.astype(np.float16).view(np.uint16)
    brain = x.astype(Case(1, 1, 1, 1, "bfloat16").u.dtype).view(np.uint16)
    lib = library()
    assert [lib.cuda_emulated_bits(0, v) for v in x] == half.tolist()
    assert [lib.cuda_emulated_bits(1, v) for v in x] == brain.tolist()


def test_kernel_dtypes_are_known():
    """What the engine reads is what the package lets in."""
    assert set(KERNEL_DTYPES["float16"]) == {"float16", "float32"}
