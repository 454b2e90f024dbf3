"""The primitives, the matrix product, DFTs and the cost model in C refuse bad arguments with a
status and a message, and write nothing."""

import ctypes
from ctypes import byref, c_double, c_int64

import numpy as np
import pytest
from c_calls import (
    CIRCULAR,
    COMPLEX,
    FOLDED,
    LK,
    LREV,
    B,
    H,
    L,
    call,
    info_of,
    new_plan,
    new_spectrum,
    refused,
    spectra_desc,
    tensor,
    weights,
)
from fftconv import _lib
from fftconv._lib import ContractionDesc, DftDesc, Hardware, SpectraDesc, Tensor


def row_bytes(plan):
    return info_of(plan).spectra_row_bytes


def aligned(raw):
    return raw.ctypes.data + -raw.ctypes.data % 64


SIZES = [0, 8, ctypes.sizeof(SpectraDesc) - 8, ctypes.sizeof(SpectraDesc) + 8]


def test_primitives(plan):
    raw = np.zeros(B * H * row_bytes(plan) + 128, np.uint8)
    s = aligned(raw)
    u = np.ones((B, H, L), "float32")
    t, over = tensor(u), tensor(u)
    over.data = s + 64
    far = tensor(u, shape=(2**40, 2**40, L), strides=(0, 0, 1))
    for name in ("fftconv_rows_to_spectra", "fftconv_spectra_to_rows"):
        refused(name, None, byref(spectra_desc(rows=t, spectra=s)), words="plan")
        refused(name, plan, None, words="desc")
        for bad, word in [
            *((dict(size=size), "size") for size in SIZES),
            (dict(rows=Tensor()), "rows"),
            (dict(rows=tensor(u, shape=(B, H, L - 1))), "rows"),
            (dict(rows=tensor(u, shape=(0, H, L))), "rows"),
            (dict(rows=tensor(u, shape=(B, -H, L))), "rows"),
            (dict(rows=far), "rows"),
            (dict(rows=tensor(u, dtype="float64")), "rows"),
            (dict(spectra=None), "spectra"),
            (dict(spectra=s + 4), "spectra"),
            (dict(rows=over), "rows"),
            (dict(threads=-1), "threads"),
            (dict(threads=256), "threads"),
            (dict(side=2), "side"),
            (dict(side=-1), "side"),
        ]:
            d = spectra_desc(**{"rows": t, "spectra": s, **bad})
            refused(name, plan, byref(d), words=word)
    assert np.all(u == 1) and not raw.any()
    handle = new_spectrum(plan, np.ones((1, H, LK), "float32"), np.ones((1, H, LREV), "float32"))
    refused("fftconv_multiply", None, handle, byref(spectra_desc(in_=s, spectra=s)), words="plan")
    refused("fftconv_multiply", plan, handle, None, words="desc")
    refused("fftconv_multiply", plan, None, byref(spectra_desc(in_=s, spectra=s)), words="spectrum")
    for bad, word in [
        *((dict(size=size), "size") for size in SIZES),
        (dict(in_=None), "in is NULL"),
        (dict(spectra=None), "spectra is NULL"),
        (dict(in_=s + 4), "in is at"),
        (dict(spectra=s + 4), "spectra is at"),
        (dict(spectra=s + 64), "overlap"),
        (dict(threads=-1), "threads"),
        (dict(threads=256), "threads"),
    ]:
        d = spectra_desc(**{"in_": s, "spectra": s, **bad})
        refused("fftconv_multiply", plan, handle, byref(d), words=word)
    refused("fftconv_spectra_offsets", None, (c_int64 * 9)(), words="plan")
    refused("fftconv_spectra_offsets", plan, None, words="offset")
    assert not raw.any()
    _lib.lib.fftconv_spectrum_destroy(handle)


KERNEL_PRIMITIVES = ["fftconv_kernels_to_spectra", "fftconv_spectra_to_kernels"]


@pytest.mark.parametrize("name", KERNEL_PRIMITIVES)
def test_kernel_primitives(plan, name):
    raw = np.zeros(2 * H * row_bytes(plan) + 128, np.uint8)
    s = aligned(raw)
    k, rev = np.full((2, H, LK), 7, "float32"), np.full((2, H, LREV), 7, "float32")

    def d(**changes):
        right = {"k": tensor(k), "k_rev": tensor(rev), "spectra": s}
        return byref(spectra_desc(**{**right, **changes}))

    over, over_rev = tensor(k), tensor(rev)
    over.data = over_rev.data = s + 64
    refused(name, None, d(), words="plan")
    refused(name, plan, None, words="desc")
    bad = [
        *((dict(size=size), "size") for size in SIZES),
        (dict(k=Tensor()), "k is NULL"),
        (dict(k=over), "k overlaps"),
        (dict(k=tensor(k, shape=(2, H, LK - 1))), "k has shape"),
        (dict(k=tensor(k, shape=(0, H, LK))), "k has shape"),
        (dict(k=tensor(k, dtype="float64")), "k has dtype"),
        (dict(k_rev=Tensor()), "k_rev"),
        (dict(k_rev=over_rev), "k_rev"),
        (dict(k_rev=tensor(rev, shape=(2, H, LREV + 1))), "k_rev"),
        (dict(k_rev=tensor(rev, shape=(1, H, LREV))), "k_rev"),
        (dict(spectra=None), "spectra"),
        (dict(spectra=s + 8), "spectra"),
        (dict(threads=-1), "threads"),
        (dict(threads=256), "threads"),
    ]
    if name == "fftconv_spectra_to_kernels":
        same = tensor(k, shape=(2, H, LREV), strides=(H * LK, LK, 1))
        bad += [
            (dict(k_rev=same), "k_rev"),
            (dict(k=tensor(k, strides=(0, LK, 1))), "k has stride"),
        ]
    for changes, word in bad:
        refused(name, plan, d(**changes), words=word)
    causal = new_plan(single_block=1)
    refused(name, causal, d(), words="k_rev")
    assert not raw.any() and np.all(k == 7) and np.all(rev == 7)
    status, message = call(name, plan, d())
    assert status == _lib.OK, message
    _lib.lib.fftconv_plan_destroy(causal)


def test_primitives_of_plans_they_are_not_for():
    """The primitives refuse plans in blocks, whose rows have more than one spectrum, and some of
    them folded plans, whose rows have several parts."""
    raw = np.zeros(1 << 16, np.uint8)
    s = aligned(raw)
    blocks = new_plan(length=512, k_length=4, radices=_lib.int64s((8, 4)), order=2)
    assert info_of(blocks).blocks > 1
    u, k = np.ones((1, 1, 512), "float32"), np.ones((1, H, 4), "float32")
    spectrum = new_spectrum(blocks, k)
    d = spectra_desc(rows=tensor(u), k=tensor(k), in_=s, spectra=s)
    for name in ("rows_to_spectra", "spectra_to_rows", "kernels_to_spectra", "spectra_to_kernels"):
        refused("fftconv_" + name, blocks, byref(d), words="block")
    refused("fftconv_multiply", blocks, spectrum, byref(d), words="block")
    folded = new_plan(mode=CIRCULAR, form=FOLDED)
    k = np.ones((1, H, LK), "float32")
    d = spectra_desc(k=tensor(k), spectra=s)
    for name in ("kernels_to_spectra", "spectra_to_kernels"):
        refused("fftconv_" + name, folded, byref(d), words="folded")
    refused("fftconv_contract", folded, byref(Product(folded, (1, 1, 1)).c), words="folded")
    weighted = new_plan(mode=CIRCULAR, form=COMPLEX, weights=weights([1] * 33))
    filtered = new_plan(mode=CIRCULAR, fft_size=97, weights=weights([1] * 49), single_block=1)
    history = new_plan(history=1)
    for p, word in ((weighted, "weights"), (filtered, "weights"), (history, "history")):
        refused("fftconv_kernels_to_spectra", p, byref(d), words=word)
    assert not raw.any() and np.all(u == 1) and np.all(k == 1)
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    for p in (blocks, folded, weighted, filtered, history):
        _lib.lib.fftconv_plan_destroy(p)


class Product:
    """A right contraction of (rows, columns, depth), which tests spoil."""

    def __init__(self, plan, sizes=(2, 3, 4)):
        rows, columns, depth = sizes
        row = row_bytes(plan)
        entries = {"a": rows * depth, "b": depth * columns, "out": rows * columns}
        self.raw = {name: np.full(n * row + 64, 7, np.uint8) for name, n in entries.items()}
        self.c = ContractionDesc(
            size=ctypes.sizeof(ContractionDesc),
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
        (lambda c, row: setattr(c, "rows", 2**62), "rows is"),
        (lambda c, row: setattr(c, "depth", 2**60), "depth is"),
        (lambda c, row: setattr(c, "rows", 2**58), "a_stride"),
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
    refused("fftconv_contract", plan, None, words="desc")
    assert p.untouched()
    assert call("fftconv_contract", plan, byref(p.c))[0] == _lib.OK
    assert not np.all(p.raw["out"] == 7)
    assert np.all(p.raw["a"] == 7) and np.all(p.raw["b"] == 7)
    # With one entry in each operand, any stride is allowed.
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
