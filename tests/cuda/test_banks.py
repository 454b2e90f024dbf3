"""Bank conflicts of the CUDA kernels: the emulated machine counts the wavefronts that shared memory
needs for their accesses (Wavefronts in machine_host.h)."""

from ctypes import byref, c_char_p, c_int, c_int64
from math import ceil

import pytest
from engine_calls import (
    LENGTHS,
    LONGEST,
    ON_GPU,
    backward,
    forward,
    library,
    needs_library,
    rows_of,
)
from support import Case, slow

pytestmark = [needs_library, pytest.mark.skipif(ON_GPU, reason="the emulated machine counts")]

ROLES = ("forward", "backward", "spectra", "taps")
ACCESSES = {
    "first store",
    "load_tile load",
    "second_back store",
    "load_pair load",
    "exponent load",
    "middle load",
    "middle store",
}
# Unaligned rows are staged in shared memory as well: each lane's samples lie where that lane will
# put its part of V.  Wavefronts divided by the least possible number, for the (dtype, M) where this
# is not 1: there a lane moves less than 16 bytes at a time.
UNALIGNED = {("float16", 256): 2, ("float16", 512): 2, ("float32", 256): 2}
# Wavefronts divided by the least possible number, rounded up, of accesses in even/odd form, one
# digit for each of LENGTHS.  Points are stored and loaded four at a time; for the product, which
# combines each point with its mirror image, some are taken one at a time.  Those lanes use at most
# 64 of a wavefront's 128 bytes in float32 and in the longest transforms of float16.
EVEN_ODD = {
    "load_pair load": {"float16": "11121111", "float32": "1212111"},
    "load_left<1> load": {"float16": "32222222", "float32": "2222222"},
    "store_left<1> store": {"float16": "32222222", "float32": "2222222"},
    "read load": {"float16": "22121111", "float32": "2212111"},
    "read store": {"float16": "22121111", "float32": "2212111"},
}


def counted(calls):
    """{(role, access): (wavefronts, least possible number)} of the kernels that calls() runs."""
    lib = library()
    role, access = c_int(), c_char_p()
    taken, least = c_int64(), c_int64()
    counts = {}
    lib.cuda_emulated_count(1)
    calls()
    while lib.cuda_emulated_counted(
        len(counts), byref(role), byref(access), byref(taken), byref(least)
    ):
        counts[ROLES[role.value], access.value.decode()] = (taken.value, least.value)
    lib.cuda_emulated_count(0)
    return counts


def worst(case, **options):
    """{access: wavefronts divided by the least possible number}, of the role where it is
    largest."""
    counts = counted(lambda: (forward(case, **options), backward(case, **options)))
    assert {role for role, _ in counts} == set(ROLES)
    times = {}
    for (_, access), (taken, least) in counts.items():
        times[access] = max(times.get(access, 1), taken / least)
    return times


EVERY = pytest.mark.parametrize(
    "dtype, m",
    [(dtype, m) for dtype in ("float16", "float32") for m in LENGTHS if m <= LONGEST[dtype]],
)
SHIFT = pytest.mark.parametrize("shift", (0, 1))


@slow
@SHIFT
@EVERY
def test_bank_conflicts(dtype, m, shift):
    """No access of any kernel has a bank conflict, except UNALIGNED's."""
    case = Case(max(1, 4096 // m), 1, m - shift, m - shift, dtype)
    want = dict.fromkeys(ACCESSES, 1)
    if shift:
        want["read store"] = want["read load"] = UNALIGNED.get((dtype, m), 1)
    assert worst(case) == want


@slow
@SHIFT
@EVERY
def test_bank_conflicts_even_odd(dtype, m, shift):
    """In even/odd form the only bank conflicts are those of EVEN_ODD."""
    length, circle = rows_of(m, True)
    case = Case(max(1, 4096 // m), 1, length - shift, length - shift, dtype, **circle)
    want = dict.fromkeys(ACCESSES | {"load_left<4> load", "store_left<4> store"}, 1)
    for name, times in EVEN_ODD.items():
        if shift or not name.startswith("read"):
            want[name] = int(times[dtype][LENGTHS.index(m)])
    assert {access: ceil(times) for access, times in worst(case, form="even_odd").items()} == want


@pytest.mark.parametrize(
    "size, at, taken, least",
    [
        (4, range(0, 128, 4), 1, 1),
        (4, [64] * 32, 1, 1),
        (4, range(0, 256, 8), 2, 1),
        (4, range(0, 4096, 128), 32, 1),
        (4, [128, 128, 0, 4], 2, 1),
        (4, [132, 0], 1, 1),
        (8, range(0, 256, 8), 2, 2),
        (8, range(0, 512, 16), 4, 2),
        (8, [8], 1, 1),
        (16, range(0, 512, 16), 4, 4),
        (16, range(0, 1024, 32), 8, 4),
        (16, [0] * 8 + [128] * 8, 2, 2),
        (16, [0] * 4 + [128] * 4, 2, 1),
        (32, range(0, 1024, 32), 16, 8),
    ],
)
def test_wavefronts(size, at, taken, least):
    """Half a warp is served at a time where a lane moves 8 bytes, a quarter where it moves 16, and
    a word that several lanes want is read once."""
    got = c_int64(), c_int64()
    places = (c_int * 32)(*[*at, *[-1] * (32 - len(at))])
    library().cuda_emulated_wavefronts(places, size, *map(byref, got))
    assert tuple(x.value for x in got) == (taken, least)
