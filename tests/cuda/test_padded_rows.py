"""Rows by cuFFT, padded to a length that it transforms fast, and cut into tiles: compared with the
reference."""

import pytest
from engine_calls import (
    MODES,
    OPTIONS,
    TOLERANCE,
    WIDE,
    backward,
    check_backward,
    check_forward,
    forward,
    needs_library,
    pairwise,
)
from support import Case

pytestmark = needs_library


# A tile of 0 bytes holds one row.
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
    options = {"prepared": prepared, "engine": "cufft", "tile": tile}
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
    """The padded length has the factors 2, 3, 5 and 7 alone, and is even unless the caller names an
    odd circle."""
    case = Case(2, 1, length, length, "float32", mode=mode, fft_size=size)
    y, points = forward(case, engine="cufft")
    assert points == want
    check_forward(case, y)


@pytest.mark.pairwise
@pytest.mark.parametrize(
    "groups, per_batch", [(2, False), (1, False), (3, False), (6, True), (2, True), (1, True)]
)
@pytest.mark.parametrize("tile", (0, 7000, 15000, 40000))
@pytest.mark.parametrize("mode", ("causal", "two_sided"))
@pytest.mark.parametrize("prepared", (True, False))
def test_padded_kernels(groups, per_batch, tile, mode, prepared):
    """Kernels of groups of channels and of each row are right, however the rows are cut into
    tiles."""
    kernels = (5, groups) if per_batch else (groups,)
    case = Case(5, 6, 300, 200, "float32", kernels=kernels, mode=mode, options=("skip", "out_gate"))
    options = {"prepared": prepared, "engine": "cufft", "tile": tile}
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
    """Sums over few rows and over many, which several warps share, are right and are added in a
    fixed order: another order of blocks and warps gives the same bits."""
    case = Case(batch, 4, 500, 90, "float32", kernels=kernels, options=("skip", "in_gate"))
    got = backward(case, engine="cufft", tile=tile)
    check_backward(case, got)
    again = backward(case, engine="cufft", tile=tile, seed=9)
    for name, x in got.items():
        assert x.tobytes() == again[name].tobytes(), name


@pytest.mark.parametrize(
    "dtype, length", [("float16", 40000), ("float32", 20000), ("float64", 500)]
)
def test_what_fuses_not_is_padded(dtype, length):
    """Without a named engine, the first one that holds the row is taken."""
    case = Case(1, 1, length, 300, dtype, options=("skip",))
    y, points = forward(case, engine=None)
    assert points >= length + 300 - 1
    check_forward(case, y)
    case = Case(1, 1, 200, 3, "float16")
    assert forward(case, engine=None)[1] == 256
