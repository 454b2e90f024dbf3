"""The C functions given garbage: a status and a message, and nothing written.

Straight through ctypes, without the checks of the Python package.
"""

import ctypes
from ctypes import byref, c_double, c_int64, c_void_p

import fftconv
import numpy as np
import pytest
from fftconv import _lib
from fftconv._lib import Contraction, DftDesc, Hardware, Operands, PlanDesc, PlanInfo, Tensor

B, H, L, LK, LREV = 2, 3, 64, 64, 32
ISA = fftconv.isas()[0]


def call(name, *arguments):
    """(status, message) of a C function, no exception raised."""
    function = ctypes.CDLL(_lib.path)[name]
    function.restype, function.argtypes = _lib.PROTOTYPES[name]
    status = function(*arguments)
    return status, _lib.lib.fftconv_last_error().decode(errors="replace")


def refused(name, *arguments, words=()):
    status, message = call(name, *arguments)
    assert status == _lib.INVALID, (name, status, message)
    for word in (words,) if isinstance(words, str) else words:
        assert word in message, (name, word, message)


def desc(**changes):
    d = PlanDesc(
        size=ctypes.sizeof(PlanDesc),
        batch=B,
        channels=H,
        length=L,
        kernel_length=LK,
        dtype=_lib.DTYPES["float32"],
    )
    for name, value in changes.items():
        setattr(d, name, value)
    return d


CAUSAL, CIRCULAR, TWO_SIDED = range(3)
RIGHT_ANGLE, FOLDED, COMPLEX = 1, 2, 3


def new_plan(**changes):
    plan = c_void_p()
    status, message = call("fftconv_plan_create", byref(plan), byref(desc(**changes)))
    assert status == _lib.OK, message
    return plan


def dense_strides(shape):
    return (shape[1] * shape[2], shape[2], 1)


def tensor(x, shape=None, strides=None, dtype="float32"):
    shape = shape or x.shape
    return Tensor(
        x.ctypes.data,
        _lib.DTYPES[dtype],
        0,
        (c_int64 * 3)(*shape),
        (c_int64 * 3)(*(strides or dense_strides(shape))),
    )


@pytest.fixture
def plan():
    """Of a call that all operands take part in but history."""
    p = new_plan(mode=TWO_SIDED, reverse_length=LREV)
    yield p
    _lib.lib.fftconv_plan_destroy(p)


class Call:
    """A right call, for tests to spoil one thing of."""

    def __init__(self):
        rng = np.random.default_rng(0)
        rows = (B, H, L)
        self.arrays = {
            name: rng.standard_normal(rows).astype("float32")
            for name in ("u", "in_gate", "out_gate", "dy")
        }
        self.arrays["k"] = rng.standard_normal((1, H, LK)).astype("float32")
        self.arrays["k_rev"] = rng.standard_normal((1, H, LREV)).astype("float32")
        self.arrays["skip"] = np.ones((1, H, 1), "float32")
        self.arrays["mask"] = np.ones((B, H, 1), "float32")
        for name in ("y", "du", "din_gate", "dout_gate"):
            self.arrays[name] = np.full(rows, 7, "float32")
        self.arrays["dk"] = np.full((1, H, LK), 7, "float32")
        self.arrays["dk_rev"] = np.full((1, H, LREV), 7, "float32")
        self.arrays["dskip"] = np.full((1, H, 1), 7, "float32")
        self.ops = Operands(size=ctypes.sizeof(Operands))
        for name, x in self.arrays.items():
            setattr(self.ops, name, tensor(x))

    def untouched(self):
        return all(np.all(self.arrays[name] == 7) for name in OUTPUTS)

    def refused(self, plan, *, words=(), names=("forward", "backward")):
        for name in names:
            refused("fftconv_" + name, plan, None, byref(self.ops), words=words)
        assert self.untouched(), words


FORWARD, BACKWARD = ("forward",), ("backward",)
BOTH = FORWARD + BACKWARD
# Which calls look at an operand.
USED_BY = {
    "u": BOTH,
    "k": BOTH,
    "k_rev": BOTH,
    "in_gate": BOTH,
    "out_gate": BOTH,
    "skip": BOTH,
    "mask": BOTH,
    "y": FORWARD,
    "dy": BACKWARD,
    "du": BACKWARD,
    "dk": BACKWARD,
    "dk_rev": BACKWARD,
    "din_gate": BACKWARD,
    "dout_gate": BACKWARD,
    "dskip": BACKWARD,
}
OUTPUTS = ["y", "du", "dk", "dk_rev", "din_gate", "dout_gate", "dskip"]


def test_the_right_call_is_right(plan):
    """What the others spoil does succeed."""
    c = Call()
    for name in BOTH:
        status, message = call("fftconv_" + name, plan, None, byref(c.ops))
        assert status == _lib.OK, message
    assert all(np.isfinite(x).all() for x in c.arrays.values())
    assert not any(np.all(c.arrays[n] == 7) for n in OUTPUTS)


@pytest.mark.parametrize("name", ["fftconv_forward", "fftconv_backward"])
def test_null_arguments(plan, name):
    c = Call()
    refused(name, None, None, byref(c.ops), words="plan")
    refused(name, plan, None, None, words="operands")
    assert c.untouched()


@pytest.mark.parametrize("size", [0, 1, ctypes.sizeof(Operands) - 8, ctypes.sizeof(Operands) + 8])
def test_operands_size(plan, size):
    c = Call()
    c.ops.size = size
    c.refused(plan, words="size")


@pytest.mark.parametrize("operand", ["u", "y", "k", "k_rev", "dy"])
def test_missing_operand(plan, operand):
    c = Call()
    getattr(c.ops, operand).data = None
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda n: n + 1,
        lambda n: n - 1,
        lambda n: 0,
        lambda n: -n,
        lambda n: 2**62,
        lambda n: -(2**63),
    ],
    ids=["+1", "-1", "0", "neg", "2^62", "-2^63"],
)
def test_wrong_shape(plan, operand, axis, change):
    c = Call()
    shape = getattr(c.ops, operand).shape
    shape[axis] = change(shape[axis])
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("dtype", [0, 1, 3, 4, 5, 6, 7, -1, 2**31 - 1])
def test_wrong_dtype(plan, operand, dtype):
    c = Call()
    getattr(c.ops, operand).dtype = dtype
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned(plan, operand, offset):
    c = Call()
    getattr(c.ops, operand).data += offset
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize(
    "operand,axis",
    [
        (operand, axis)
        for operand in OUTPUTS
        for axis in range(3)
        if getattr(Call().ops, operand).shape[axis] > 1
    ],
)
def test_outputs_must_not_repeat(plan, operand, axis):
    """An axis of 1 may have any stride; another must not stand still."""
    c = Call()
    getattr(c.ops, operand).stride[axis] = 0
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("stride", [2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_overflowing_strides(plan, operand, stride):
    c = Call()
    t = getattr(c.ops, operand)
    for axis in range(3):
        if t.shape[axis] > 1:
            t.stride[axis] = stride
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("other", sorted(USED_BY))
@pytest.mark.parametrize("shift", [0, 4, -4])
def test_overlap(plan, output, other, shift):
    """Only y on u exactly is allowed; the rest is refused, both named."""
    if other == output or (output, other, shift) == ("y", "u", 0):
        return
    names = [n for n in USED_BY[output] if n in USED_BY[other]]
    c = Call()
    getattr(c.ops, output).data = getattr(c.ops, other).data + shift
    kept = {name: x.copy() for name, x in c.arrays.items()}
    for name in names:
        refused("fftconv_" + name, plan, None, byref(c.ops), words=("overlap", output))
    for name, x in kept.items():
        assert np.array_equal(c.arrays[name], x)


def test_y_is_u(plan):
    c = Call()
    status, message = call("fftconv_forward", plan, None, byref(c.ops))
    assert status == _lib.OK, message
    c.ops.y.data = c.ops.u.data
    status, message = call("fftconv_forward", plan, None, byref(c.ops))
    assert status == _lib.OK, message
    assert np.array_equal(c.arrays["u"], c.arrays["y"])


def test_y_is_u_whatever_the_stride_of_an_axis_of_one():
    plan = new_plan(batch=1)
    u, k = np.ones((1, H, L), "float32"), np.ones((1, H, LK), "float32")
    ops = Operands(
        size=ctypes.sizeof(Operands), u=tensor(u), k=tensor(k), y=tensor(u, strides=(999, L, 1))
    )
    status, message = call("fftconv_forward", plan, None, byref(ops))
    assert status == _lib.OK, message
    assert np.allclose(u, np.arange(1, L + 1), rtol=1e-5)
    _lib.lib.fftconv_plan_destroy(plan)


def test_workspace_over_an_operand(plan):
    need = c_int64()
    assert call("fftconv_workspace_bytes", plan, 0, 0, byref(need))[0] == 0
    rows = np.full(need.value + B * H * L * 4 + 128, 7, np.uint8)
    start = rows.ctypes.data + -rows.ctypes.data % 64
    for name in ("u", "y", "in_gate", "k"):
        c = Call()
        c.ops.workspace, c.ops.workspace_bytes = start, need.value
        getattr(c.ops, name).data = start + need.value - 4
        c.refused(plan, words=("workspace", name), names=FORWARD)
        assert np.all(rows == 7)


@pytest.mark.parametrize("activation", [-1, 3, 2**31 - 1])
def test_activation(plan, activation):
    c = Call()
    c.ops.activation = activation
    c.refused(plan, words="activation")


@pytest.mark.parametrize("threads", [-1, 2**31 - 1])
def test_threads(plan, threads):
    c = Call()
    c.ops.threads = threads
    c.refused(plan, words="threads")


def test_workspace(plan):
    """Too small and misaligned are refused; the right one is enough."""
    for direction, name in enumerate(BOTH):
        need = c_int64()
        status, message = call("fftconv_workspace_bytes", plan, direction, 0, byref(need))
        assert status == _lib.OK and need.value > 0, message
        raw = np.full(need.value + 128, 0xFF, np.uint8)
        start = -raw.ctypes.data % 64
        c = Call()
        c.ops.workspace = raw.ctypes.data + start
        for size in (0, 1, need.value - 1, -1, -(2**63)):
            c.ops.workspace_bytes = size
            c.refused(plan, words="workspace", names=(name,))
        c.ops.workspace_bytes = need.value
        c.ops.workspace = raw.ctypes.data + start + 1
        c.refused(plan, words="workspace", names=(name,))
        c.ops.workspace = raw.ctypes.data + start
        status, message = call("fftconv_" + name, plan, None, byref(c.ops))
        assert status == _lib.OK, message
        assert np.all(raw[start + need.value :] == 0xFF), "past the workspace"
        assert np.all(raw[:start] == 0xFF), "before the workspace"


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_workspace_is_enough_for_each_thread_count(threads):
    p = new_plan(batch=5, length=1000, kernel_length=900)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((5, H, 1000)).astype("float32")
    k = rng.standard_normal((1, H, 900)).astype("float32")
    y = np.full_like(u, np.nan)
    need = c_int64()
    assert call("fftconv_workspace_bytes", p, 0, threads, byref(need))[0] == _lib.OK
    raw = np.full(need.value + 64 + 4096, 0xFF, np.uint8)
    start = -raw.ctypes.data % 64
    ops = Operands(
        size=ctypes.sizeof(Operands),
        threads=threads,
        u=tensor(u),
        k=tensor(k),
        y=tensor(y),
        workspace=raw.ctypes.data + start,
        workspace_bytes=need.value,
    )
    status, message = call("fftconv_forward", p, None, byref(ops))
    assert status == _lib.OK, message
    assert np.all(raw[start + need.value :] == 0xFF)
    assert np.array_equal(y, fftconv.conv(u, k))
    _lib.lib.fftconv_plan_destroy(p)


PLANS = [
    ("size", 0),
    ("size", 8),
    ("size", ctypes.sizeof(PlanDesc) + 8),
    ("batch", 0),
    ("batch", -1),
    ("channels", 0),
    ("length", 0),
    ("length", -(2**63)),
    ("kernel_length", 0),
    ("kernel_length", -5),
    ("batch", 2**62),
    ("channels", 2**62),
    ("length", 2**62),
    ("kernel_length", 2**62),
    ("length", 2**63 - 1),
    ("fft_size", -1),
    ("fft_size", 64),
    ("mode", 3),
    ("mode", -1),
    ("dtype", 0),
    ("dtype", 7),
    ("dtype", -1),
    ("form", 4),
    ("form", -1),
    ("form", FOLDED),
    ("form", COMPLEX),
    ("dense", 2),
    ("dense", -1),
    ("threads", -1),
    ("threads", 2**31 - 1),
    ("order", -1),
    ("order", 17),
    ("single_block", 2),
    ("single_block", -1),
    ("history", 2),
    ("history", -1),
    ("kernels", -1),
    ("kernels", 2),
    ("kernels", 2 * H),
    ("kernels", -(2**63)),
    ("kernel_batch", -1),
    ("kernel_batch", 3),
    ("kernel_batch", -(2**63)),
    ("reverse_length", 1),
    ("reverse_length", -1),
    ("reverse_length", -(2**63)),
]


@pytest.mark.parametrize("field,value", PLANS)
def test_plan_desc(field, value):
    handle = c_void_p(123)
    refused("fftconv_plan_create", byref(handle), byref(desc(**{field: value})), words=field)
    assert handle.value is None, "a failure leaves NULL behind"


@pytest.mark.parametrize(
    "changes,word",
    [
        (dict(mode=TWO_SIDED), "reverse_length"),
        (dict(mode=TWO_SIDED, reverse_length=-1), "reverse_length"),
        (dict(mode=TWO_SIDED, reverse_length=2**62), "reverse_length"),
        (dict(mode=TWO_SIDED, reverse_length=LREV, fft_size=256), "fft_size"),
        (dict(mode=TWO_SIDED, reverse_length=LREV, form=FOLDED), "form"),
        (dict(mode=TWO_SIDED, reverse_length=LREV, history=1), "history"),
        (dict(mode=CIRCULAR, reverse_length=LREV), "reverse_length"),
        (dict(mode=CIRCULAR, history=1), "history"),
        (dict(mode=CIRCULAR, fft_size=127, form=FOLDED), "form"),
        (dict(history=1, single_block=1), "single_block"),
        (dict(dtype=6, form=RIGHT_ANGLE), "form"),
        (dict(dtype=5, mode=CIRCULAR, form=FOLDED), "form"),
    ],
)
def test_plan_fields_that_do_not_go_together(changes, word):
    handle = c_void_p(123)
    refused("fftconv_plan_create", byref(handle), byref(desc(**changes)), words=word)
    assert handle.value is None


def weights(values):
    return (c_double * len(values))(*values)


@pytest.mark.parametrize(
    "changes,word",
    [
        (dict(mode=CAUSAL), "weights"),
        (dict(mode=TWO_SIDED, reverse_length=LREV), "weights"),
        (dict(dtype=5), "weights"),
        (dict(dtype=6), "weights"),
        (dict(form=RIGHT_ANGLE), "form"),
        (dict(fft_size=88), "fft_size"),
        (dict(fft_size=2 * 67), "fft_size"),
        *(
            (dict(weights=weights([1.0] * at + [bad] + [1.0] * (32 - at))), f"weights[{at}]")
            for bad in (np.nan, np.inf, -np.inf)
            for at in (0, 17, 32)
        ),
    ],
)
def test_plan_weights(changes, word):
    handle = c_void_p(123)
    right = dict(mode=CIRCULAR, weights=weights([1.0] * 100))
    refused("fftconv_plan_create", byref(handle), byref(desc(**{**right, **changes})), words=word)
    assert handle.value is None


def test_plan_null():
    handle = c_void_p()
    refused("fftconv_plan_create", None, byref(desc()), words="plan")
    refused("fftconv_plan_create", byref(handle), None, words="desc")
    _lib.lib.fftconv_plan_destroy(None)
    _lib.lib.fftconv_spectrum_destroy(None)


@pytest.mark.parametrize(
    "radices,order",
    [
        ((0,), 1),
        ((-8,), 1),
        ((129,), 1),
        ((2**62,), 1),
        ((64, 2**62), 2),
        ((64,), 0),
        ((64,), -1),
        ((64,) * 17, 17),
        ((128,) * 16, 16),
    ],
)
def test_plan_radices(radices, order):
    handle = c_void_p()
    refused(
        "fftconv_plan_create",
        byref(handle),
        byref(desc(radices=_lib.int64s(radices), order=order)),
        words=() if order > 16 or order < 1 else "radices",
    )


def test_plan_circular():
    handle = c_void_p()
    for changes, word in [
        (dict(fft_size=L - 1), "fft_size"),
        (dict(kernel_length=L + 1), "kernel_length"),
        (dict(fft_size=2**62), "fft_size"),
        (dict(fft_size=-(2**63)), "fft_size"),
    ]:
        refused("fftconv_plan_create", byref(handle), byref(desc(mode=1, **changes)), words=word)


def test_plan_too_large_for_memory():
    """Sizes whose product overflows, and ones that merely do not fit."""
    handle = c_void_p()
    for changes in (
        dict(batch=2**31, channels=2**31, length=2**31),
        dict(batch=2**58, channels=2**58),
        dict(length=2**57, kernel_length=2**57),
    ):
        status, message = call("fftconv_plan_create", byref(handle), byref(desc(**changes)))
        assert status in (_lib.INVALID, _lib.NO_MEMORY), message
        assert message and handle.value is None


@pytest.mark.parametrize("isa", [b"", b"none", b"\xff\xfe", b"x" * 10000])
def test_plan_isa(isa):
    handle = c_void_p()
    status, message = call("fftconv_plan_create", byref(handle), byref(desc(isa=isa)))
    assert status in (_lib.INVALID, _lib.UNSUPPORTED) and "isa" in message


def test_plan_info(plan):
    info = PlanInfo(size=ctypes.sizeof(PlanInfo))
    refused("fftconv_plan_get_info", None, byref(info), words="plan")
    refused("fftconv_plan_get_info", plan, None, words="info")
    info.size = 4
    refused("fftconv_plan_get_info", plan, byref(info), words="size")
    need = c_int64()
    refused("fftconv_workspace_bytes", None, 0, 0, byref(need), words="plan")
    refused("fftconv_workspace_bytes", plan, 0, 0, None, words="bytes")
    refused("fftconv_workspace_bytes", plan, 2, 0, byref(need), words="direction")
    refused("fftconv_workspace_bytes", plan, 0, -1, byref(need), words="threads")


def test_spectrum(plan):
    k, k_rev = np.ones((1, H, LK), "float32"), np.ones((1, H, LREV), "float32")
    handle = c_void_p(123)
    right = byref(tensor(k)), byref(tensor(k_rev))
    refused("fftconv_spectrum_create", None, plan, *right, 0, words="spectrum")
    for arguments, word in [
        ((None, *right, 0), "plan"),
        ((plan, None, right[1], 0), "k"),
        ((plan, byref(Tensor()), right[1], 0), "k"),
        ((plan, byref(tensor(k[:, :2])), right[1], 0), "k"),
        ((plan, byref(tensor(k, dtype="float64")), right[1], 0), "k"),
        ((plan, byref(tensor(k, dtype="float16")), right[1], 0), "k"),
        ((plan, right[0], None, 0), "k_rev"),
        ((plan, right[0], byref(Tensor()), 0), "k_rev"),
        ((plan, right[0], right[0], 0), "k_rev"),
        ((plan, right[0], byref(tensor(k_rev, dtype="float64")), 0), "k_rev"),
        ((plan, *right, -1), "threads"),
    ]:
        refused("fftconv_spectrum_create", byref(handle), *arguments, words=word)
        assert handle.value is None
    causal = new_plan()
    refused("fftconv_spectrum_create", byref(handle), causal, *right, 0, words="k_rev")
    _lib.lib.fftconv_plan_destroy(causal)


def new_spectrum(plan, k, k_rev=None):
    handle = c_void_p()
    status, message = call(
        "fftconv_spectrum_create",
        byref(handle),
        plan,
        byref(tensor(k)),
        None if k_rev is None else byref(tensor(k_rev)),
        0,
    )
    assert status == _lib.OK, message
    return handle


@pytest.mark.parametrize(
    "changes",
    [
        dict(length=128, kernel_length=128),
        dict(reverse_length=LREV - 1),
        dict(kernels=1),
        dict(kernel_batch=B),
        dict(dtype=1),
        dict(mode=CAUSAL),
        dict(radices=_lib.int64s((8, 4, 4)), order=3),
    ],
)
def test_spectrum_of_another_plan(plan, changes):
    changes = {"mode": TWO_SIDED, "reverse_length": LREV, **changes}
    if changes["mode"] == CAUSAL:
        del changes["reverse_length"]
    other = new_plan(**changes)
    shape = (changes.get("kernel_batch", 1), changes.get("kernels", H))
    dtype = "float64" if "dtype" in changes else "float32"
    k = np.ones((*shape, changes.get("kernel_length", LK)), dtype)
    rev = np.ones((*shape, changes.get("reverse_length", 1)), dtype)
    handle = c_void_p()
    status, message = call(
        "fftconv_spectrum_create",
        byref(handle),
        other,
        byref(tensor(k, dtype=dtype)),
        byref(tensor(rev, dtype=dtype)) if "reverse_length" in changes else None,
        0,
    )
    assert status == _lib.OK, message
    c = Call()
    c.ops.k = c.ops.k_rev = Tensor()
    for name in BOTH:
        refused("fftconv_" + name, plan, handle, byref(c.ops), words="spectrum")
    assert c.untouched()
    _lib.lib.fftconv_spectrum_destroy(handle)
    _lib.lib.fftconv_plan_destroy(other)


def test_spectrum_of_another_pattern():
    """The same stages, other weights."""
    plans = [new_plan(mode=CIRCULAR, weights=weights([w] * 33)) for w in (1.0, 0.5)] + [
        new_plan(mode=CIRCULAR)
    ]
    k = np.ones((1, H, LK), "float32")
    spectra = [new_spectrum(p, k) for p in plans]
    c = Call()
    c.ops.k = c.ops.k_rev = c.ops.dk_rev = Tensor()
    for i, plan in enumerate(plans):
        for j, spectrum in enumerate(spectra):
            if i != j:
                refused("fftconv_forward", plan, spectrum, byref(c.ops), words="spectrum")
    assert c.untouched()
    for plan, spectrum in zip(plans, spectra):
        assert call("fftconv_forward", plan, spectrum, byref(c.ops))[0] == _lib.OK
        _lib.lib.fftconv_spectrum_destroy(spectrum)
        _lib.lib.fftconv_plan_destroy(plan)


def test_kernels_of_a_group_and_of_a_batch():
    """k's shape is (kernel_batch, kernels, Lk), and nothing else."""
    for changes, right in [
        (dict(kernels=1), (1, 1)),
        (dict(kernel_batch=B), (B, H)),
        (dict(kernels=1, kernel_batch=B), (B, 1)),
    ]:
        plan = new_plan(**changes)
        taps = np.ones((B, H, LK), "float32")
        for shape in ((1, 1), (1, H), (B, 1), (B, H)):
            c = Call()
            c.ops.k_rev = c.ops.dk_rev = Tensor()
            c.ops.k = tensor(taps, shape=(*shape, LK))
            c.arrays["dk"] = np.full((B, H, LK), 7, "float32")
            c.ops.dk = tensor(c.arrays["dk"], shape=(*right, LK))
            if shape != right:
                c.refused(plan, words="k has shape")
                c.ops.k = tensor(taps, shape=(*right, LK))
                c.ops.dk = tensor(c.arrays["dk"], shape=(*shape, LK))
                c.refused(plan, words="dk has shape", names=BACKWARD)
                continue
            for name in BOTH:
                status, message = call("fftconv_" + name, plan, None, byref(c.ops))
                assert status == _lib.OK, message
            written = (c.arrays["dk"] != 7).sum()
            assert written == right[0] * right[1] * LK
        _lib.lib.fftconv_plan_destroy(plan)


def test_a_spectrum_tells_a_batch_from_a_group():
    """(1, B H) kernels are as many as (B, H), and mean something else."""
    one = new_plan(batch=1, channels=B * H, kernels=B * H)
    many = new_plan(kernel_batch=B)
    spectrum = new_spectrum(one, np.ones((1, B * H, LK), "float32"))
    c = Call()
    c.ops.k = c.ops.k_rev = c.ops.dk_rev = Tensor()
    refused("fftconv_forward", many, spectrum, byref(c.ops), words="spectrum")
    assert c.untouched()
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    for p in (one, many):
        _lib.lib.fftconv_plan_destroy(p)


def test_an_absent_gradient_may_say_anything_of_itself(plan):
    """dk_rev alone, and with a dk that is absent but for its dtype."""
    found = []
    for dtype in (0, _lib.DTYPES["complex64"]):
        c = Call()
        c.ops.dk = Tensor(None, dtype)
        status, message = call("fftconv_backward", plan, None, byref(c.ops))
        assert status == _lib.OK, message
        found.append(c.arrays["dk_rev"].copy())
    assert not np.any(found[0] == 7) and np.array_equal(*found)


def test_a_step_that_is_never_made():
    """An axis of one entry may have any stride, and needs no workspace."""
    plan = new_plan(length=1, kernel_length=1)
    need, asked = c_int64(), c_int64()
    assert call("fftconv_workspace_bytes", plan, 0, 1, byref(need))[0] == 0
    ops = Operands(size=ctypes.sizeof(Operands), threads=1)
    x = np.ones((B, H, 1), "float32")
    for stride in (1, 100, 2**62):
        ops.u = ops.y = tensor(x, strides=(H, 1, stride))
        assert (
            call("fftconv_operands_workspace_bytes", plan, None, byref(ops), 0, byref(asked))[0]
            == _lib.OK
        )
        assert asked.value <= need.value
    _lib.lib.fftconv_plan_destroy(plan)


def test_k_rev_without_a_two_sided_plan():
    plan = new_plan()
    for name, names in (("k_rev", BOTH), ("dk_rev", BACKWARD)):
        c = Call()
        for other in {"k_rev", "dk_rev"} - {name}:
            setattr(c.ops, other, Tensor())
        c.refused(plan, words=name, names=names)
    _lib.lib.fftconv_plan_destroy(plan)


def test_history():
    """Given where the plan was made for it, and only there; rows of any
    length up to the plan's; no backward."""
    plan, plain = new_plan(history=1), new_plan()
    past = np.zeros((B, H, LK - 1), "float32")

    def new_call(length=L):
        c = Call()
        c.ops.k_rev = c.ops.dk_rev = Tensor()
        c.ops.history = tensor(past)
        for name in ("u", "y", "in_gate", "out_gate"):
            getattr(c.ops, name).shape[2] = length
        return c

    new_call().refused(plain, words="history", names=FORWARD)
    for spoil in (
        lambda t: setattr(t, "data", None),
        lambda t: setattr(t, "data", past.ctypes.data + 2),
        lambda t: setattr(t, "dtype", 1),
        lambda t: t.shape.__setitem__(0, 1),
        lambda t: t.shape.__setitem__(1, H + 1),
        lambda t: t.shape.__setitem__(2, LK),
        lambda t: t.stride.__setitem__(1, 2**62),
    ):
        c = new_call()
        spoil(c.ops.history)
        c.refused(plan, words="history", names=FORWARD)
    c = new_call()
    c.ops.history.data = c.ops.y.data
    c.refused(plan, words=("history", "overlap"), names=FORWARD)
    for length in (0, -1, L + 1, 2**62):
        new_call(length).refused(plan, words="u", names=FORWARD)
    c = new_call(5)
    c.ops.y.shape[2] = 6
    c.refused(plan, words="y", names=FORWARD)
    c = new_call()
    status, message = call("fftconv_backward", plan, None, byref(c.ops))
    assert status == _lib.UNSUPPORTED and "history" in message
    assert c.untouched()
    for length in (1, 5, L):
        c = new_call(length)
        status, message = call("fftconv_forward", plan, None, byref(c.ops))
        assert status == _lib.OK, message
        assert np.all(c.arrays["y"][..., :length] != 7)
        assert np.all(c.arrays["y"][..., length:] == 7)
    for p in (plan, plain):
        _lib.lib.fftconv_plan_destroy(p)


def test_complex_operands():
    """No activation; aligned to its reals, which is all it needs."""
    plan = new_plan(dtype=_lib.DTYPES["complex64"])
    raw = np.zeros(2 * B * H * L + 1, "float32")
    raw[1:] = 1
    u = raw[1:].view("complex64").reshape(B, H, L)
    k = np.ones((1, H, LK), "complex64")
    y = np.full((B, H, L), 7, "complex64")
    ops = Operands(
        size=ctypes.sizeof(Operands),
        u=tensor(u, dtype="complex64"),
        k=tensor(k, dtype="complex64"),
        y=tensor(y, dtype="complex64"),
    )
    for activation in (1, 2):
        ops.activation = activation
        refused("fftconv_forward", plan, None, byref(ops), words="activation")
    ops.activation = 0
    ops.u.data += 2
    refused("fftconv_forward", plan, None, byref(ops), words="u")
    ops.u.data -= 2
    for dtype in ("float32", "float64", "complex128"):
        ops.k.dtype = _lib.DTYPES[dtype]
        refused("fftconv_forward", plan, None, byref(ops), words="k")
    ops.k.dtype = _lib.DTYPES["complex64"]
    assert np.all(y == 7)
    assert call("fftconv_forward", plan, None, byref(ops))[0] == _lib.OK
    assert np.allclose(y, (1 + 1j) * np.arange(1, L + 1), rtol=1e-5)
    _lib.lib.fftconv_plan_destroy(plan)


def test_operands_workspace(plan):
    c, need, most = Call(), c_int64(-5), c_int64()
    for bad, word in [
        ((None, None, byref(c.ops), 0, byref(need)), "plan"),
        ((plan, None, None, 0, byref(need)), "operands"),
        ((plan, None, byref(c.ops), 0, None), "bytes"),
        ((plan, None, byref(c.ops), 2, byref(need)), "direction"),
        ((plan, None, byref(c.ops), -1, byref(need)), "direction"),
    ]:
        refused("fftconv_operands_workspace_bytes", *bad, words=word)
    c.ops.size = 8
    refused(
        "fftconv_operands_workspace_bytes", plan, None, byref(c.ops), 0, byref(need), words="size"
    )
    assert need.value == -5
    for direction, name in enumerate(BOTH):
        c = Call()
        for scattered in (False, True):
            if scattered:  # (B, L, H): rows by tiles
                for rows in ("u", "in_gate", "out_gate", "y", "dy", "du", "din_gate", "dout_gate"):
                    getattr(c.ops, rows).stride[:] = (L * H, 1, H)
            status, message = call(
                "fftconv_operands_workspace_bytes", plan, None, byref(c.ops), direction, byref(need)
            )
            assert status == _lib.OK and need.value > 0, message
            raw = np.full(need.value + 192, 0xFF, np.uint8)
            start = -raw.ctypes.data % 64
            c.ops.workspace = raw.ctypes.data + start
            c.ops.workspace_bytes = need.value
            status, message = call("fftconv_" + name, plan, None, byref(c.ops))
            assert status == _lib.OK, message
            assert np.all(raw[start + need.value :] == 0xFF)
            c.ops.workspace_bytes = need.value - 1
            refused("fftconv_" + name, plan, None, byref(c.ops), words="workspace_bytes")
            c.ops.workspace, c.ops.workspace_bytes = None, 0
            if not scattered:
                assert (
                    call("fftconv_workspace_bytes", plan, direction, 0, byref(most))[0] == _lib.OK
                )
                assert need.value <= most.value


def row_bytes(plan):
    info = PlanInfo(size=ctypes.sizeof(PlanInfo))
    assert call("fftconv_plan_get_info", plan, byref(info))[0] == _lib.OK
    return info.spectra_row_bytes


def aligned(raw):
    return raw.ctypes.data + -raw.ctypes.data % 64


def test_primitives(plan):
    raw = np.zeros(B * H * row_bytes(plan) + 128, np.uint8)
    s = aligned(raw)
    u = np.ones((B, H, L), "float32")
    t, over = tensor(u), tensor(u)
    over.data = s + 64
    for name in ("fftconv_rows_to_spectra", "fftconv_spectra_to_rows"):

        def arguments(plan, rows, spectra, threads=0, side=0, name=name):
            return (
                (plan, side, rows, spectra, threads)
                if name == "fftconv_rows_to_spectra"
                else (plan, side, spectra, rows, threads)
            )

        for bad, word in [
            (arguments(None, byref(t), s), "plan"),
            (arguments(plan, None, s), "rows"),
            (arguments(plan, byref(Tensor()), s), "rows"),
            (arguments(plan, byref(tensor(u, shape=(B, H, L - 1))), s), "rows"),
            (arguments(plan, byref(tensor(u, shape=(0, H, L))), s), "rows"),
            (arguments(plan, byref(tensor(u, shape=(B, -H, L))), s), "rows"),
            (
                arguments(plan, byref(tensor(u, shape=(2**40, 2**40, L), strides=(0, 0, 1))), s),
                "rows",
            ),
            (arguments(plan, byref(tensor(u, dtype="float64")), s), "rows"),
            (arguments(plan, byref(t), None), "spectra"),
            (arguments(plan, byref(t), s + 4), "spectra"),
            (arguments(plan, byref(over), s), "rows"),
            (arguments(plan, byref(t), s, -1), "threads"),
            (arguments(plan, byref(t), s, 0, 2), "side"),
            (arguments(plan, byref(t), s, 0, -1), "side"),
        ]:
            refused(name, *bad, words=word)
    assert np.all(u == 1) and not raw.any()
    handle = new_spectrum(plan, np.ones((1, H, LK), "float32"), np.ones((1, H, LREV), "float32"))
    for bad, word in [
        ((None, handle, s, s, 0), "plan"),
        ((plan, None, s, s, 0), "spectrum"),
        ((plan, handle, None, s, 0), "in"),
        ((plan, handle, s, None, 0), "out"),
        ((plan, handle, s + 4, s, 0), "in"),
        ((plan, handle, s, s + 4, 0), "out"),
        ((plan, handle, s, s + 64, 0), "overlap"),
        ((plan, handle, s, s, -1), "threads"),
    ]:
        refused("fftconv_multiply", *bad, words=word)
    refused("fftconv_spectra_offsets", None, (c_int64 * 9)(), words="plan")
    refused("fftconv_spectra_offsets", plan, None, words="offset")
    _lib.lib.fftconv_spectrum_destroy(handle)


KERNEL_PRIMITIVES = {
    "fftconv_kernels_to_spectra": ("k", "k_rev"),
    "fftconv_spectra_to_kernels": ("dk", "dk_rev"),
}


@pytest.mark.parametrize("name", sorted(KERNEL_PRIMITIVES))
def test_kernel_primitives(plan, name):
    names = KERNEL_PRIMITIVES[name]
    raw = np.zeros(2 * H * row_bytes(plan) + 128, np.uint8)
    s = aligned(raw)
    k, rev = np.full((2, H, LK), 7, "float32"), np.full((2, H, LREV), 7, "float32")

    def run(*, plan=plan, k=tensor(k), rev=tensor(rev), spectra=s, threads=0):
        kernels = [x and byref(x) for x in (k, rev)]
        return (
            (plan, *kernels, spectra, threads)
            if name == "fftconv_kernels_to_spectra"
            else (plan, spectra, *kernels, threads)
        )

    over, over_rev = tensor(k), tensor(rev)
    over.data = over_rev.data = s + 64
    bad = [
        (dict(plan=None), "plan"),
        (dict(k=None), names[0]),
        (dict(k=Tensor()), names[0]),
        (dict(k=over), names[0]),
        (dict(k=tensor(k, shape=(2, H, LK - 1))), names[0]),
        (dict(k=tensor(k, shape=(0, H, LK))), names[0]),
        (dict(k=tensor(k, dtype="float64")), names[0]),
        (dict(rev=None), names[1]),
        (dict(rev=Tensor()), names[1]),
        (dict(rev=over_rev), names[1]),
        (dict(rev=tensor(rev, shape=(2, H, LREV + 1))), names[1]),
        (dict(rev=tensor(rev, shape=(1, H, LREV))), names[1]),
        (dict(spectra=None), "spectra"),
        (dict(spectra=s + 8), "spectra"),
        (dict(threads=-1), "threads"),
    ]
    if name == "fftconv_spectra_to_kernels":
        same = tensor(k, shape=(2, H, LREV), strides=(H * LK, LK, 1))
        bad += [(dict(rev=same), names[1]), (dict(k=tensor(k, strides=(0, LK, 1))), names[0])]
    for changes, word in bad:
        refused(name, *run(**changes), words=word)
    causal = new_plan(single_block=1)
    refused(name, *run(plan=causal), words=names[1])
    assert not raw.any() and np.all(k == 7) and np.all(rev == 7)
    status, message = call(name, *run())
    assert status == _lib.OK, message
    _lib.lib.fftconv_plan_destroy(causal)


def test_primitives_of_plans_they_are_not_for():
    """Rows in blocks have no one spectrum; a folded row has several."""
    raw = np.zeros(1 << 16, np.uint8)
    s = aligned(raw)
    blocks = new_plan(length=512, kernel_length=4, radices=_lib.int64s((8, 4)), order=2)
    info = PlanInfo(size=ctypes.sizeof(PlanInfo))
    assert call("fftconv_plan_get_info", blocks, byref(info))[0] == _lib.OK
    assert info.blocks > 1
    u, k = np.ones((1, 1, 512), "float32"), np.ones((1, H, 4), "float32")
    spectrum = new_spectrum(blocks, k)
    for name, arguments in [
        ("rows_to_spectra", (0, byref(tensor(u)), s, 0)),
        ("spectra_to_rows", (0, s, byref(tensor(u)), 0)),
        ("kernels_to_spectra", (byref(tensor(k)), None, s, 0)),
        ("spectra_to_kernels", (s, byref(tensor(k)), None, 0)),
        ("multiply", (spectrum, s, s, 0)),
    ]:
        refused("fftconv_" + name, blocks, *arguments, words="block")
    folded = new_plan(mode=CIRCULAR, form=FOLDED)
    k = np.ones((1, H, LK), "float32")
    for name, arguments in [
        ("kernels_to_spectra", (byref(tensor(k)), None, s, 0)),
        ("spectra_to_kernels", (s, byref(tensor(k)), None, 0)),
        ("contract", (byref(Product(folded, (1, 1, 1)).c),)),
    ]:
        refused("fftconv_" + name, folded, *arguments, words="folded")
    weighted = new_plan(mode=CIRCULAR, form=COMPLEX, weights=weights([1] * 33))
    history = new_plan(history=1)
    for p, word in ((weighted, "weights"), (history, "history")):
        refused("fftconv_kernels_to_spectra", p, byref(tensor(k)), None, s, 0, words=word)
    assert not raw.any() and np.all(u == 1) and np.all(k == 1)
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    for p in (blocks, folded, weighted, history):
        _lib.lib.fftconv_plan_destroy(p)


class Product:
    """A right contraction (rows, columns, depth), for tests to spoil."""

    def __init__(self, plan, sizes=(2, 3, 4)):
        rows, columns, depth = sizes
        row = row_bytes(plan)
        entries = {"a": rows * depth, "b": depth * columns, "out": rows * columns}
        self.raw = {name: np.full(n * row + 64, 7, np.uint8) for name, n in entries.items()}
        self.c = Contraction(
            size=ctypes.sizeof(Contraction),
            rows=rows,
            columns=columns,
            depth=depth,
            scale=1,
            a_stride=(depth, 1),
            b_stride=(columns, 1),
            out_stride=(columns, 1),
            **{name: aligned(x) for name, x in self.raw.items()},
        )
        self.row = row

    def untouched(self):
        return all(np.all(x == 7) for x in self.raw.values())


@pytest.mark.parametrize(
    "spoil,word",
    [
        (lambda c, row: setattr(c, "size", 8), "size"),
        (lambda c, row: setattr(c, "size", c.size + 8), "size"),
        *(
            (lambda c, row, f=field, v=value: setattr(c, f, v), field)
            for field in ("rows", "columns", "depth")
            for value in (0, -1, -(2**63))
        ),
        *((lambda c, row, f=field: setattr(c, f, None), field) for field in ("a", "b", "out")),
        *(
            (lambda c, row, f=field: setattr(c, f, getattr(c, f) + 8), field)
            for field in ("a", "b", "out")
        ),
        *(
            (
                lambda c, row, f=field, i=axis, v=value: getattr(c, f).__setitem__(i, v),
                f"{field}[{axis}]",
            )
            for field in ("a_stride", "b_stride", "out_stride")
            for axis in (0, 1)
            for value in (2**62, -(2**62), 2**63 - 1, -(2**63), 2**56)
        ),
        (lambda c, row: setattr(c, "rows", 2**62), "a_stride"),
        (lambda c, row: setattr(c, "depth", 2**60), "a_stride"),
        (lambda c, row: c.out_stride.__setitem__(0, 0), "out_stride"),
        (lambda c, row: c.out_stride.__setitem__(1, 0), "out_stride"),
        (lambda c, row: c.out_stride.__setitem__(0, 2), "out_stride"),
        (lambda c, row: c.out_stride.__setitem__(0, -2), "out_stride"),
        (lambda c, row: c.out_stride.__setitem__(1, 3), "out_stride"),
        (lambda c, row: setattr(c, "out", c.a), ("out", "overlaps a")),
        (lambda c, row: setattr(c, "out", c.b), ("out", "overlaps b")),
        (lambda c, row: setattr(c, "out", c.a + 7 * row), ("out", "overlaps a")),
        (lambda c, row: setattr(c, "out", c.a - 5 * row), ("out", "overlaps a")),
        (lambda c, row: setattr(c, "threads", -1), "threads"),
        (lambda c, row: setattr(c, "threads", 256), "threads"),
    ],
)
def test_contract(plan, spoil, word):
    p = Product(plan)
    spoil(p.c, p.row)
    refused("fftconv_contract", plan, byref(p.c), words=word)
    assert p.untouched()


def test_contract_right_and_null(plan):
    p = Product(plan)
    refused("fftconv_contract", None, byref(p.c), words="plan")
    refused("fftconv_contract", plan, None, words="contraction")
    assert p.untouched()
    assert call("fftconv_contract", plan, byref(p.c))[0] == _lib.OK
    assert not np.all(p.raw["out"] == 7)
    assert np.all(p.raw["a"] == 7) and np.all(p.raw["b"] == 7)
    # one entry of each: any stride will do
    p = Product(plan, (1, 1, 1))
    p.c.a_stride = p.c.out_stride = (c_int64 * 2)(0, 2**62)
    assert call("fftconv_contract", plan, byref(p.c))[0] == _lib.OK


def test_dft():
    x = np.ones(64, np.complex64)
    out = np.full(64, 7, np.complex64)

    def d(**changes):
        changes = {"radices": (8, 8), **changes}
        radices = changes.pop("radices")
        base = dict(
            size=ctypes.sizeof(DftDesc),
            n=64,
            count=1,
            dtype=2,
            stages=-1,
            order=2,
            in_=x.ctypes.data,
            out=out.ctypes.data,
        )
        return DftDesc(**{**base, **changes}, radices=_lib.int64s(radices) if radices else None)

    refused("fftconv_dft", None, words="desc")
    for changes, word in [
        (dict(size=3), "size"),
        (dict(n=0), "n"),
        (dict(n=63), "n"),
        (dict(n=2**62), "n"),
        (dict(count=0), "count"),
        (dict(count=-1), "count"),
        (dict(count=2**62), "count"),
        (dict(dtype=3), "dtype"),
        (dict(dtype=0), "dtype"),
        (dict(inverse=2), "inverse"),
        (dict(dense=2), "dense"),
        (dict(stages=3), "stages"),
        (dict(order=0), "order"),
        (dict(order=17), "order"),
        (dict(order=-1), "order"),
        (dict(radices=None), "radices"),
        (dict(radices=(8, 0)), "radices"),
        (dict(radices=(8, 129)), "radices"),
        (dict(radices=(-8, -8)), "radices"),
        (dict(radices=(8, 16)), "radices"),
        (dict(in_=None), "in"),
        (dict(out=None), "out"),
        (dict(in_=x.ctypes.data + 1), "in"),
        (dict(out=out.ctypes.data + 1), "out"),
        (dict(out=x.ctypes.data + 8), "out"),
    ]:
        refused("fftconv_dft", byref(d(**changes)), words=word)
        assert np.all(out == 7) and np.all(x == 1), changes
    status, message = call("fftconv_dft", byref(d(isa=b"none")))
    assert status in (_lib.INVALID, _lib.UNSUPPORTED) and "isa" in message
    assert call("fftconv_dft", byref(d()))[0] == _lib.OK
    assert abs(out[0] - 64) < 1e-3


def test_cost():
    hardware = Hardware(size=ctypes.sizeof(Hardware))
    refused("fftconv_hardware_get", None, byref(hardware), words="name")
    refused("fftconv_hardware_get", b"Z80", byref(hardware), words="Z80")
    refused("fftconv_hardware_get", b"A100", None, words="hardware")
    hardware.size = 3
    refused("fftconv_hardware_get", b"A100", byref(hardware), words="size")
    hardware.size = ctypes.sizeof(Hardware)
    assert call("fftconv_hardware_get", b"A100", byref(hardware))[0] == 0
    seconds, radices = c_double(), _lib.int64s((16, 16))
    for bad, word in [
        ((None, 2, byref(hardware), byref(seconds)), "radices"),
        ((radices, 0, byref(hardware), byref(seconds)), "order"),
        ((radices, 17, byref(hardware), byref(seconds)), "order"),
        ((radices, 2, None, byref(seconds)), "hardware"),
        ((radices, 2, byref(hardware), None), "seconds"),
        ((_lib.int64s((16, 0)), 2, byref(hardware), byref(seconds)), "radices"),
        ((_lib.int64s((16, -1)), 2, byref(hardware), byref(seconds)), "radices"),
        ((_lib.int64s((2**62, 4)), 2, byref(hardware), byref(seconds)), "radices"),
    ]:
        refused("fftconv_monarch_cost", *bad, words=word)
    wrong = Hardware.from_buffer_copy(hardware)
    wrong.sigma_h = 0
    refused("fftconv_monarch_cost", radices, 2, byref(wrong), byref(seconds), words="sigma_h")
    out = (c_int64 * 16)()
    for name, extra in (
        ("fftconv_balanced_radices", ()),
        ("fftconv_best_radices", (byref(hardware),)),
    ):
        for n, order, word in [
            (0, 2, "n"),
            (-4, 2, "n"),
            (6, 2, "n"),
            (256, 0, "order"),
            (256, 17, "order"),
            (256, -1, "order"),
        ]:
            refused(name, n, order, *extra, out, words=word)
        refused(name, 256, 2, *extra, None, words="radices")
    refused("fftconv_best_radices", 256, 2, None, out, words="hardware")


def test_names_by_number():
    for name in ("fftconv_isa_name", "fftconv_hardware_name"):
        function = getattr(_lib.lib, name)
        assert function(0)
        assert function(-1) is None and function(10**6) is None
    assert _lib.lib.fftconv_isa_available(None) == 0
    assert _lib.lib.fftconv_isa_available(b"none") == 0
    assert _lib.lib.fftconv_isa_available(ISA.encode()) == 1
    assert "host" in fftconv.cost.HARDWARE


def test_message_belongs_to_the_thread():
    """A failure in another thread leaves this one's message alone."""
    import threading

    refused("fftconv_plan_create", byref(c_void_p()), byref(desc(batch=0)), words="batch")
    thread = threading.Thread(
        target=refused,
        args=("fftconv_plan_create", byref(c_void_p()), byref(desc(channels=0))),
        kwargs={"words": "channels"},
    )
    thread.start()
    thread.join()
    assert "batch" in _lib.lib.fftconv_last_error().decode()
