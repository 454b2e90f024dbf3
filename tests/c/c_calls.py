"""What the tests of the C interface share: a right call, and how a call is refused.

C functions are called through ctypes, without the checks of the Python package.
"""

import ctypes
from ctypes import byref, c_double, c_int64, c_void_p

import fftconv
import numpy as np
from fftconv import _lib
from fftconv._lib import Operands, PlanDesc, PlanInfo, SpectraDesc, Tensor

B, H, L, LK, LREV = 2, 3, 64, 64, 32
ISA = fftconv.isas()[0]


def call(name, *arguments):
    """(status, message) of a C function; no exception is raised."""
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
        k_length=LK,
        dtype=_lib.DTYPES["float32"],
    )
    for name, value in changes.items():
        setattr(d, name, value)
    return d


CAUSAL, CIRCULAR, TWO_SIDED = range(3)
RIGHT_ANGLE, FOLDED, COMPLEX = 1, 2, 3
CUDA = 1  # the device


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


class Call:
    """A right call, of which tests spoil one thing at a time."""

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
# The calls that read or write each operand.
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


def weights(values):
    return (c_double * len(values))(*values)


def kernels(k, k_rev=None, **fields):
    """The operands of a spectrum, from arrays or from tensors."""
    given = {"k": k, "k_rev": k_rev}
    for name, x in given.items():
        if isinstance(x, np.ndarray):
            x = tensor(x, dtype=x.dtype.name)
        fields[name] = x or Tensor()
    return Operands(**{"size": ctypes.sizeof(Operands), **fields})


def new_spectrum(plan, k, k_rev=None):
    handle = c_void_p()
    status, message = call("fftconv_spectrum_create", byref(handle), plan, byref(kernels(k, k_rev)))
    assert status == _lib.OK, message
    return handle


def spectra_desc(**fields):
    return SpectraDesc(**{"size": ctypes.sizeof(SpectraDesc), **fields})


def info_of(plan):
    info = PlanInfo(size=ctypes.sizeof(PlanInfo))
    status, message = call("fftconv_plan_get_info", plan, byref(info))
    assert status == _lib.OK, message
    return info


def workspace_bytes(plan, operands, direction=_lib.FORWARD, spectrum=None):
    need = c_int64(-5)
    status, message = call(
        "fftconv_workspace_bytes", plan, spectrum, byref(operands), direction, byref(need)
    )
    assert status == _lib.OK and need.value > 0, message
    return need.value


class Workspace:
    """A workspace of exactly so many bytes, each 0xFF and so NaN in every type, between guards."""

    def __init__(self, size):
        self.size = size
        self.raw = np.full(size + 192, 0xFF, np.uint8)
        self.start = 64 + -self.raw.ctypes.data % 64
        self.address = self.raw.ctypes.data + self.start

    def give(self, operands):
        operands.workspace, operands.workspace_bytes = self.address, self.size

    def is_kept_to(self):
        """True where nothing before or behind the workspace was written."""
        before, behind = self.raw[: self.start], self.raw[self.start + self.size :]
        return np.all(before == 0xFF) and np.all(behind == 0xFF)
