"""The emulated machine's matrix fragments and conversions are those of the hardware, and the scales
of float16 those of the bounds in kernel.h."""

import itertools
from ctypes import byref, c_int

import numpy as np
import pytest
from engine_calls import emulated_only, library, needs_library
from support import Case, normal

pytestmark = needs_library


@emulated_only
def test_fragment_maps():
    """Fragments are laid out as in the PTX ISA's mma.m16n8k16, where groupID = lane / 4 and
    threadID = lane % 4."""
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
    """float32 is rounded to 16 bits as by NumPy and ml_dtypes: to nearest, ties to even."""
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


@emulated_only
@pytest.mark.parametrize("e", (-112, -20, 0, 7, 30, 126))
def test_exponents(e):
    """A row is divided by a power of two that brings its largest sample to [128, 256)."""
    for x in (2.0**e, np.nextafter(np.float32(2.0 ** (e + 1)), np.float32(0))):
        assert 128 <= x / 2.0 ** library().cuda_emulated_exponent(x) < 256
