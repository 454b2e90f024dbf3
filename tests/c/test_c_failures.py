"""Failures inside a call: the status and message of the first task that failed reach the caller, on
any number of threads; and memory that cannot be allocated."""

import ctypes
import json
import re
import sys
import threading
from ctypes import byref

import numpy as np
import pytest
from build_tree import clean_environment, run
from c_calls import call
from fftconv import _lib
from fftconv._lib import SsmDesc
from support import slow

HEADS, LENGTH = 40, 50


class Ssm:
    """One state for each head, of rank 1.  In `singular` heads A = -2 and Q* P = -2, so that the
    matrix I - A/2 is singular."""

    def __init__(self, singular):
        self.arrays = {
            name: np.full((1, HEADS, 1), value, complex)
            for name, value in {"A": -0.5, "B": 1, "C": 1, "P": 0.5, "Q": 0.5}.items()
        }
        for head in singular:
            for name, value in {"A": -2, "P": 2, "Q": -1}.items():
                self.arrays[name][0, head] = value
        self.k = np.full((1, 1, HEADS, LENGTH), 7.0)
        self.dk = np.ones_like(self.k)
        self.dC = np.full((1, HEADS, 1), 7, complex)

    def call(self, name, threads):
        d = SsmDesc(
            size=ctypes.sizeof(SsmDesc),
            **dict.fromkeys(("inputs", "channels", "states", "rank"), 1),
            heads=HEADS,
            length=LENGTH,
            dtype=_lib.DTYPES["float64"],
            discretization=_lib.DISCRETIZATIONS["bilinear"],
            threads=threads,
            **{n: x.ctypes.data for n, x in self.arrays.items()},
            k=self.k.ctypes.data,
            dk=self.dk.ctypes.data,
            dC=self.dC.ctypes.data,
        )
        return call(name, byref(d))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["fftconv_ssm_kernel", "fftconv_ssm_kernel_backward"])
def test_one_head_is_singular(name, threads):
    """One singular head is reported, whichever head it is and whichever thread computes it."""
    right = Ssm(())
    for head in (0, 1, HEADS // 2, HEADS - 1):
        ssm = Ssm((head,))
        for _ in range(5):
            call(name, None)  # its message must not stay the caller's
            status, message = ssm.call(name, threads)
            assert status == _lib.INVALID, (head, status, message)
            assert "I - A/2 is singular" in message
        assert (ssm.k == 7).all()
        # The next call has a status of its own.
        status, message = right.call(name, threads)
        assert status == _lib.OK, message
    assert (right.dC if name.endswith("backward") else right.k).any()


def test_failures_of_threads_at_once():
    """Each caller gets the message of its own call, whichever call has the threads of the pool."""
    wrong = []

    def caller(singular):
        ssm = Ssm((HEADS - 1,) if singular else ())
        for _ in range(40):
            status, message = ssm.call("fftconv_ssm_kernel", 2)
            if status != (_lib.INVALID if singular else _lib.OK):
                wrong.append((singular, status, message))
            if singular and "singular" not in message:
                wrong.append(message)

    threads = [threading.Thread(target=caller, args=(i % 2,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


# ---- Memory that cannot be allocated ------------------------------------------------

# A program of its own: during one call, the process may have `spare` more bytes of addresses than
# it has already.  For each call it prints: a number of bytes whose lack must be reported (None: the
# call must lack nothing), the statuses and messages while `spare` grew, whether the final result
# equals the result without a limit, and the bytes that the failed calls left allocated, as glibc
# counts them.
PROGRAM = """
import ctypes, json, resource, sys
from ctypes import byref
sys.path[:0] = json.loads(sys.argv[1])
import numpy as np
from c_calls import CIRCULAR, Workspace, desc, info_of, kernels, new_plan, new_spectrum
from c_calls import tensor, weights, workspace_bytes
from fftconv import _lib
from fftconv._lib import HeadsDesc, Operands, RdftDesc

library = ctypes.CDLL(_lib.path)
library.fftconv_last_error.restype = ctypes.c_char_p
threads, found = int(sys.argv[2]), {}
rng = np.random.default_rng(0)


def addresses():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize()


class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def allocated():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def limited(name, arguments, output, bytes_, step, label=None):
    function = library["fftconv_" + name]
    function.restype, function.argtypes = _lib.PROTOTYPES["fftconv_" + name]
    handle = output if isinstance(output, ctypes.c_void_p) else None

    def again():
        status = function(*arguments)
        if handle is not None:
            assert (status == _lib.OK) == bool(handle.value)
            getattr(_lib.lib, "fftconv_" + name.replace("_create", "_destroy"))(handle)
        return status

    def written():
        return handle is None and output.tobytes()

    assert again() == _lib.OK, library.fftconv_last_error()
    want, start, met = written(), allocated(), []
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for spare in range(0, 400 * step, step):
        if handle is None:
            output[...] = np.nan
        resource.setrlimit(resource.RLIMIT_AS, (addresses() + spare, hard))
        status = again()
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        result = [status, library.fftconv_last_error().decode() if status else ""]
        if result not in met:
            met.append(result)
        if status == _lib.OK:
            break
    found[label or name] = bytes_, met, want == written(), allocated() - start


# Heads: each task makes a spectrum.
L = 1 << 16
rows, k = rng.standard_normal((4, 2, L)).astype("float32"), np.ones((1, 2, L), "float32")
plan = new_plan(batch=1, channels=1, kernels=1, length=L, k_length=L)
y, dk = np.empty_like(rows), np.empty_like(k)
d = HeadsDesc(size=ctypes.sizeof(HeadsDesc), u=tensor(rows), k=tensor(k), dy=tensor(rows))
d.y, d.dk, d.threads = tensor(y), tensor(dk), threads
size = info_of(plan).spectrum_bytes
for name, output in ("heads_forward", y), ("heads_backward", dk):
    limited(name, (plan, byref(d)), output, size, size // 3)
ops, handle = kernels(k[:, :1], threads=threads), ctypes.c_void_p()
limited("spectrum_create", (byref(handle), plan, byref(ops)), handle, size, size // 3)

# A real DFT of a prime length: each row is a convolution with memory of its own.
n = 16411
size = -(-16 * n // 64) * 64  # of a complex row
rows = rng.standard_normal((1, 4, n))
bins = np.empty((1, 4, n // 2 + 1), complex)
t, handle = ctypes.c_void_p(), ctypes.c_void_p()
d = RdftDesc(size=ctypes.sizeof(RdftDesc), n=n, dtype=1, threads=threads)
# The chirp's memory may be there again when the old handle is gone; its spectrum's is not.
spectrum_size = 16 * 36864 + 64
limited("rdft_create", (byref(handle), byref(d)), handle, spectrum_size, size // 3)
_lib.lib.fftconv_rdft_create(byref(t), byref(d))
there = tensor(rows, dtype="float64"), tensor(bins, dtype="complex128")
arguments = (t, *map(byref, there), 1.0)
limited("rdft_forward", arguments, bins, threads * 2 * size, size // 3)

# Weights on a circle of that length filter the kernel in memory of the task's own, with
# all the rest in the caller's workspace.
u, k = rng.standard_normal((2, 1, 2, n)).astype("float32")
y, dk = np.empty_like(u), np.empty_like(k)
shape = dict(batch=1, channels=2, length=n, k_length=n, mode=CIRCULAR, weights=weights([0.5] * n))
handle, d = ctypes.c_void_p(), desc(**shape)
limited("plan_create", (byref(handle), byref(d)), handle, spectrum_size, size // 3)
plan = new_plan(**shape)
ops = Operands(size=ctypes.sizeof(Operands), u=tensor(u), k=tensor(k), dy=tensor(u))
ops.y, ops.dk, ops.threads = tensor(y), tensor(dk), threads
single = new_plan(**{**shape, "channels": 1, "weights": None, "dtype": _lib.DTYPES["float64"]})
samples, made = np.zeros((1, 1, n)), ctypes.c_void_p()
row = tensor(samples, dtype="float64")
of_filter = Operands(size=ctypes.sizeof(Operands), k=row, u=row, y=row, threads=1)
_lib.lib.fftconv_spectrum_create(byref(made), single, byref(of_filter))
filter_size = workspace_bytes(single, of_filter, 0, made)
for direction, name, output in ((0, "forward", y), (1, "backward", dk)):
    workspace = Workspace(workspace_bytes(plan, ops, direction))
    workspace.give(ops)
    limited(name, (plan, None, byref(ops)), output, filter_size, filter_size // 3)

# With a workspace and a spectrum nothing is allocated, but for such a kernel's gradient.
spectrum = new_spectrum(plan, k)
workspace = Workspace(workspace_bytes(plan, ops, 0, spectrum))
workspace.give(ops)
limited("forward", (plan, spectrum, byref(ops)), y, None, size, "forward, filtered")
workspace = Workspace(workspace_bytes(plan, ops, 1, spectrum))
workspace.give(ops)
limited(
    "backward",
    (plan, spectrum, byref(ops)),
    dk,
    filter_size,
    filter_size // 3,
    "backward, filtered",
)
plan = new_plan(batch=1, channels=2, length=n, k_length=n)
spectrum = new_spectrum(plan, k)
for direction, name, output in ((0, "forward", y), (1, "backward", dk)):
    workspace = Workspace(workspace_bytes(plan, ops, direction, spectrum))
    workspace.give(ops)
    limited(name, (plan, spectrum, byref(ops)), output, None, size, name + ", ready")
print(json.dumps(found))
"""


@slow  # sanitizers need unlimited addresses
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory(threads):
    """A call that lacks memory returns a status and the message of the allocation that failed, and
    leaves nothing allocated; with enough memory it is right again."""
    printed = run(
        sys.executable,
        "-c",
        PROGRAM,
        json.dumps(sys.path),
        threads,
        env=clean_environment(
            FFTCONV_LIBRARY=_lib.path,
            MALLOC_MMAP_THRESHOLD_="65536",  # freed memory goes back to the system
            MALLOC_ARENA_MAX="1",  # threads' first allocations reserve none
        ),
    )
    for name, (size, met, right, left) in json.loads(printed).items():
        if size is None:
            assert met == [[_lib.OK, ""]] and right, (name, met)
            continue
        statuses, messages = zip(*met)
        assert statuses[-1] == _lib.OK and set(statuses[:-1]) == {_lib.NO_MEMORY}, (name, met)
        told = "out of memory: {} bytes could not be allocated"
        # A filter on a kernel makes one allocation, other calls more.
        least = 1 if name in ("forward", "backward", "backward, filtered") else 2
        assert told.format(size) in messages and len(messages) > least, (name, size, met)
        assert all(m == told.format(*re.findall(r"\d+", m)) for m in messages[:-1]), (name, met)
        assert right, f"{name} writes something else after it failed"
        assert left < 1 << 16, f"{name} left {left} bytes behind"
