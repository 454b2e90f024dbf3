"""Bank conflicts of the CUDA kernels: the wavefronts that shared memory works for
their accesses, which the emulated machine counts (Wavefronts in machine_host.h)."""
import math
from ctypes import byref, c_char_p, c_int, c_int64

import pytest
from support import Case
from test_cuda import (LONGEST, ON_GPU, backward, forward, library,
                       pytestmark as needs_library)

pytestmark = [needs_library, pytest.mark.skipif(
    ON_GPU, reason="the emulated machine counts")]

ROLES = ("forward", "backward", "spectra", "taps")
# Wavefronts over the least there can be, of M: stage 1's stores, the tiles' loads
# and stores, and the loads of stage 1 back (for rows that are not aligned, stage 1
# also stores and loads samples where these are).
TIMES = {
    "float16": {256: (2, 1, 1, 4), 512: (1, 1, 1, 4), 1024: (1, 1, 1, 1),
                2048: (2, 1, 1, 2), 4096: (1, 1, 1, 1), 8192: (1, 1, 1, 1),
                16384: (1, 1, 1, 1), 32768: (1, 1, 2, 1)},
    "float32": {256: (2, 2, 2, 2), 512: (2, 2, 2, 2), 1024: (2, 2, 2, 2),
                2048: (2, 2, 2, 2), 4096: (2, 2, 2, 4), 8192: (2, 2, 2, 4),
                16384: (2, 2, 2, 4)},
}
ACCESSES = ("first store", "load_tile load", "second_back store", "last load")


def counted(calls):
    """{(role, access): (wavefronts, the least)} of the kernels that calls() runs."""
    lib = library()
    role, access = c_int(), c_char_p()
    taken, least = c_int64(), c_int64()
    counts = {}
    lib.cuda_emulated_count(1)
    calls()
    while lib.cuda_emulated_counted(len(counts), byref(role), byref(access),
                                    byref(taken), byref(least)):
        counts[ROLES[role.value], access.value.decode()] = (taken.value,
                                                            least.value)
    lib.cuda_emulated_count(0)
    return counts


@pytest.mark.parametrize("shift", (0, 1))
@pytest.mark.parametrize("dtype, m", [(dtype, m) for dtype in TIMES
                                      for m in TIMES[dtype]])
def test_bank_conflicts(dtype, m, shift):
    """Of every role together; some add loads of one exponent, which cost nothing."""
    assert max(TIMES[dtype]) == LONGEST[dtype]
    case = Case(max(1, 4096 // m), 1, m - shift, m - shift, dtype)
    counts = counted(lambda: (forward(case), backward(case)))
    times = dict(zip(ACCESSES, TIMES[dtype][m]))
    times["exponent load"] = 1
    if shift:       # not aligned: samples stand where the last stage reads
        times["read store"] = times["read load"] = times["last load"]
    assert {role for role, _ in counts} == set(ROLES)
    worst = {}              # of the roles: a spectrum of one row leaves lanes idle
    for (_, access), (taken, least) in counts.items():
        worst[access] = max(worst.get(access, 0), math.ceil(taken / least))
    assert worst == times


@pytest.mark.parametrize("size, at, taken, least", [
    (4, range(0, 128, 4), 1, 1), (4, [64] * 32, 1, 1), (4, range(0, 256, 8), 2, 1),
    (4, range(0, 4096, 128), 32, 1), (4, [128, 128, 0, 4], 2, 1), (4, [132, 0], 1, 1),
    (8, range(0, 256, 8), 2, 2), (8, range(0, 512, 16), 4, 2), (8, [8], 1, 1),
    (16, range(0, 512, 16), 4, 4), (16, range(0, 1024, 32), 8, 4),
    (16, [0] * 8 + [128] * 8, 2, 2), (16, [0] * 4 + [128] * 4, 2, 1),
    (32, range(0, 1024, 32), 16, 8)])
def test_wavefronts(size, at, taken, least):
    """Halves of a warp move 8 bytes a lane, quarters 16; a word that several want
    is given once."""
    got = c_int64(), c_int64()
    places = (c_int * 32)(*[*at, *[-1] * (32 - len(at))])
    library().cuda_emulated_wavefronts(places, size, *map(byref, got))
    assert tuple(x.value for x in got) == (taken, least)
