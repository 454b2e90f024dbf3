"""What the tests of the CUDA engine share: its library, calls and checks.

Where the library finds a GPU, the tests run on it.  Elsewhere tests/cuda/machine_host.h
runs the engine's kernels and its host code on the CPU; that file says what it is strict about.
The emulated machine can show neither speed nor memory order; test_banks.py counts bank
conflicts.  FFTCONV_CUDA=emulated selects the emulated machine even where there is a GPU.
"""

import ctypes
import itertools
import os
from ctypes import byref, c_float, c_int, c_int64, c_uint32, c_void_p
from pathlib import Path

import numpy as np
import pytest
from build_tree import BUILD
from fftconv import _lib, cuda, reference
from fftconv._array import _numpy_view
from support import norm, wide

EMULATED = BUILD / "tests" / ".libs" / "libcuda_emulated.so"
ON_GPU = cuda.available() and os.environ.get("FFTCONV_CUDA") != "emulated"
LIBRARY = Path(_lib.path) if ON_GPU else EMULATED
DEVICE = 0 if ON_GPU else 1
DEVICES = cuda.devices() if ON_GPU else 2
needs_library = pytest.mark.skipif(
    not LIBRARY.exists(), reason="no C++ compiler when this was configured"
)
emulated_only = pytest.mark.skipif(ON_GPU, reason="of the emulated machine")

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # the values of M
LONGEST = {"float32": 16384, "float16": 32768, "bfloat16": 32768}
# Limits of the forward error for rows of 64 samples or more; backward may err by twice as much.
TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 2e-3}
WIDE = {"float64": 1e-14}  # only cuFFT computes in this type
ENGINES = pytest.mark.parametrize("engine", ("fused", "cufft"))
H100 = 227 * 1024  # bytes of shared memory a block may have


def library():
    """The library, whose functions return their status instead of raising it.  Where there is no
    GPU, it is the library on the emulated machine."""
    if not hasattr(library, "lib"):
        if not ON_GPU:
            os.environ["FFTCONV_CUFFT"] = str(LIBRARY)  # this library also stands in for cuFFT
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
            lib.cuda_emulated_exponent.argtypes = [c_float]
    return library.lib


def nothing_is_left():
    """No device memory is left allocated, and this thread's device is the one it started with."""
    if not ON_GPU:
        assert library().cuda_emulated_allocations() == 0
        assert library().cuda_emulated_device() == 0


class Memory:
    """Gives arrays an address on the device.  On a GPU whole buffers are copied to it, so that
    views of one buffer remain views of one buffer; on the emulated machine the arrays themselves
    are used."""

    def __init__(self):
        self.copies = {}  # address of a buffer: (the buffer, its copy's address)

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
        """Copies what calls wrote on the device back into the arrays."""
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
    """The fftconv_tensor of an array, whose axes become the last of three."""
    v = _numpy_view(x, x.dtype.name)
    lead = 3 - len(v.shape) if axes == "rows" else None
    shape, strides = list(v.shape), list(v.strides)
    if axes == "column":  # (H,) or (B, H): one number for each row
        shape, strides = shape + [1], strides + [0]
        lead = 3 - len(shape)
    t = _lib.Tensor(data=memory.address(x), dtype=_lib.DTYPES[v.dtype])
    t.shape = (c_int64 * 3)(*[1] * lead, *shape)
    t.stride = (c_int64 * 3)(*[0] * lead, *strides)
    return t


CUDA = _lib.DEVICES["cuda"]


def plan_desc(batch, channels, length, k_length, **fields):
    """The descriptor of a plan on DEVICE."""
    return _lib.PlanDesc(
        **{
            "size": ctypes.sizeof(_lib.PlanDesc),
            "batch": batch,
            "channels": channels,
            "length": length,
            "k_length": k_length,
            "dtype": _lib.DTYPES["float32"],
            "device": CUDA,
            "device_index": DEVICE,
            **fields,
        }
    )


def new_plan(*arguments, **fields):
    plan = c_void_p()
    must(library().fftconv_plan_create(byref(plan), byref(plan_desc(*arguments, **fields))))
    return plan


def operands(**fields):
    return _lib.Operands(size=ctypes.sizeof(_lib.Operands), **fields)


def new_spectrum(plan, k):
    """A new spectrum of the kernels in the tensor k."""
    spectrum = c_void_p()
    must(library().fftconv_spectrum_create(byref(spectrum), plan, byref(operands(k=k))))
    return spectrum


def workspace_bytes(plan, spectrum, o, direction):
    need = c_int64(-5)
    must(library().fftconv_workspace_bytes(plan, spectrum, byref(o), direction, byref(need)))
    return need.value


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
    engine="fused",
    tile=1 << 27,
    stream=None,
    form=None,
    ask=None,
):
    """Makes one call of a plan, which writes `outputs`, and returns M.

    blocks, shared, seed and tile set up the emulated machine.  `ask` is the form that the plan
    is asked for, and `form` the form that the plan must have taken.
    """
    with Memory() as memory:
        m = call_on(
            memory,
            case,
            direction,
            outputs,
            dy,
            prepared,
            workspace,
            engine,
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
    memory,
    case,
    direction,
    outputs,
    dy,
    prepared,
    workspace,
    engine,
    machine,
    tile,
    stream,
    form,
    ask,
):
    kernel = (1,) * (3 - case.k.ndim) + case.k.shape
    desc = plan_desc(
        *case.u.shape,
        kernel[2],
        kernels=kernel[1],
        kernel_batch=kernel[0],
        mode=_lib.MODES[case.mode["mode"]],
        dtype=_lib.DTYPES[case.u.dtype.name],
        fft_size=case.mode["fft_size"] or 0,
        engine=engine.encode() if engine else None,
        form=_lib.FORMS[ask or "auto"],
        k_rev_length=0 if case.k_rev is None else case.k_rev.shape[-1],
    )
    o = operands(activation=_lib.ACTIVATIONS[case.activation], stream=stream)
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
        must(lib.fftconv_plan_create(byref(plan), byref(desc)))
        must(lib.fftconv_plan_get_info(plan, byref(info)))
        assert (info.device, info.device_index) == (CUDA, DEVICE)
        assert info.isa is None and info.engine.decode() in (engine or "fused", engine or "cufft")
        assert (form or ask) is None or info.form == _lib.FORMS[form or ask]
        if prepared:
            must(lib.fftconv_spectrum_create(byref(spectrum), plan, byref(o)))
            o.k, o.k_rev = _lib.Tensor(), _lib.Tensor()
        execute = lib.fftconv_backward if direction else lib.fftconv_forward
        if workspace:
            size = workspace_bytes(plan, spectrum, o, direction)
            most = info.backward_workspace_bytes if direction else info.forward_workspace_bytes
            assert size <= most if prepared else size == most
            room = np.full(size + 4096, 0xFF, np.uint8)  # every byte 0xFF: NaN
            o.workspace = -(-memory.address(room) // 64) * 64
            o.workspace_bytes = size - 1
            if size:
                assert execute(plan, spectrum, byref(o)) == _lib.INVALID
                assert b"workspace_bytes is" in lib.fftconv_last_error()
            o.workspace_bytes = size
        stops = 0 if ON_GPU else lib.cuda_emulated_stops()
        must(execute(plan, spectrum, byref(o)))
        if workspace and not ON_GPU:
            end = o.workspace - memory.address(room) + size
            assert (room[end:] == 0xFF).all(), "past the workspace"
        # A workspace that the caller did not give is allocated in the stream's order.
        assert ON_GPU or lib.cuda_emulated_stops() - stops <= (not workspace)
    finally:
        lib.fftconv_spectrum_destroy(spectrum)
        lib.fftconv_plan_destroy(plan)
    return info.transform_length


def poisoned(like):
    out = np.empty_like(like)
    out[...] = np.nan
    return out


def check(name, got, want, scale, length, factor=1, inside=None):
    """Checks each row's error relative to max(|want|, scale), in 2-norms.

    Where u has 16 bits the arithmetic inside may be off by 1e-3 (`inside` is u's dtype; got's
    dtype where it is not given).  Rounding the exact result to 16 bits adds the error that it
    has: 1.7e-3 in bfloat16 for most rows, up to 3.9e-3 for rows with few samples.  In such
    rows the two errors are not independent, so the limit is their sum.
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
    """The factor by which out_gate and mask amplify an error of p, for each row."""
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
    """Rows of choices in which every pair of values of two axes occurs."""
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
        if not covered:  # no luck: start from a missing pair
            i, a, j, b = next(iter(missing))
            best = list(best)
            best[i], best[j] = a, b
            covered = {(i, a, j, b)}
        missing -= covered
        yield tuple(a[n] for a, n in zip(axes, best))


CIRCLE = pytest.mark.parametrize("circle", (False, True))


def rows_of(m, circle):
    """The length and mode of the longest rows with M = m: causal, or even/odd on a circle."""
    return (2 * m, {"mode": "circular", "fft_size": 2 * m}) if circle else (m, {})


OPTIONS = (
    (),
    ("in_gate",),
    ("skip", "out_gate"),
    ("in_gate", "out_gate"),
    ("skip", "mask"),
    ("in_gate", "out_gate", "skip", "mask"),
)
# (mode, taps and reversed taps as fractions of L, circle's size as a fraction of L)
MODES = (
    ("causal", 1, None, None),
    ("causal", 0.1, None, None),
    ("two_sided", 1, 1, None),
    ("two_sided", 0.2, 0.6, None),
    ("circular", 1, None, 1),
    ("circular", 0.5, None, 1.1),
    ("circular", 0.7, None, 2),
)

NEEDS = ("u", "k", "k_rev", "in_gate", "out_gate", "skip")


def backward(case, needs=NEEDS, **options):
    """The gradients of those operands that `needs` names and the case has, by name."""
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
    if case.activation is not None:  # an error of p changes the slope
        g, z = 1.2 * g * np.maximum(1, k), z * np.maximum(1, k)
    # Gradients summed over rows are bounded by the Cauchy-Schwarz inequality over those rows.
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
