"""Partial convolutions: kernels much shorter than the row, which is cut into blocks (overlap-save)
because of forced radices or by the plan's own choice."""

import fftconv
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    ACTIVATIONS,
    COMPLEX,
    DTYPES,
    Case,
    big,
    check_forward,
    check_gradients,
    same_bits,
)

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")
EVERY = DTYPES + COMPLEX


def forced(case, radices=(8, 16), **choices):
    """A plan whose transform is shorter than the row, so that it must cut the row into blocks."""
    plan = case.plan(radices=radices, **choices)
    assert plan.radices == radices
    assert plan.blocks == -(-case.u.shape[-1] // plan.block_length)
    return plan


def check(case, plan):
    spectrum = plan.spectrum(case.k, case.k_rev)
    y = plan(case.u, spectrum, **case.plan_arguments)
    g = plan.backward(case.dy, case.u, spectrum, **case.plan_arguments)
    check_forward(case, y)
    check_gradients(case, g)
    assert same_bits(plan(case.u, case.k, **case.kernel_arguments), y)
    for a, b in zip(plan.backward(case.dy, case.u, case.k, **case.kernel_arguments), g):
        assert same_bits(a, b)


def case_of(mode, length, taps, dtype="float32", **more):
    """A case of B = 2 and H = 3; complex ones have no activation; a circle is a little longer than
    L."""
    if mode == "two_sided":
        more.setdefault("reverse", max(1, taps // 2))
    if mode == "circular":
        more.setdefault("fft_size", length + taps // 3)
    more.setdefault("activation", None if dtype in COMPLEX else "gelu")
    return Case(2, 3, length, taps, dtype, mode=mode, options=more.pop("options", ALL), **more)


MODES = ["causal", "two_sided", "circular"]


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_path(isa, mode, dtype):
    """Several blocks, the last one cut short, are right on every instruction set."""
    for taps, radices in ((20, (8, 16)), (1, (4, 4, 4)), (50, (9, 15))):
        case = case_of(mode, 1111, taps, dtype)
        plan = forced(case, radices, isa=isa)
        assert plan.blocks > 3 and plan.isa == isa
        check(case, plan)


@pytest.mark.pairwise
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "radices", [(64,), (2,) * 7, (128, 2), (16, 16, 4), (7, 9), (5, 5, 5), (3, 16)], ids=str
)
def test_radices(radices, mode, dense):
    case = case_of(mode, 3000, 17)
    plan = forced(case, radices, dense=dense)
    assert plan.blocks > 1
    check(case, plan)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("mode", ["causal", "two_sided"])
def test_row_lengths(mode, dtype):
    """Rows of one sample, of exactly one or more blocks, of one sample fewer or more, are right."""
    v = forced(case_of(mode, 5000, 30, dtype)).block_length
    for length in (1, 2, v - 1, v, v + 1, 2 * v - 1, 2 * v, 2 * v + 1, 5 * v + 3):
        case = case_of(mode, length, 30, dtype)
        check(case, forced(case))


@pytest.mark.parametrize("taps", [1, 2, 3, 30, 100])
@pytest.mark.parametrize("n", [1200, 1201, 1024, 1013, 1000 + 250])
def test_wrap(n, taps):
    """Circular rows take what wraps around from the end of the row, from the zeros behind it, or
    from both; N is even, odd or prime."""
    for length in (1000, min(n, 1013)):
        case = case_of("circular", length, taps, fft_size=n)
        plan = forced(case)
        assert plan.blocks > 1 and plan.fft_size == n
        check(case, plan)


def test_wrap_reaches_many_blocks_back():
    """A kernel that wraps around completely may be several blocks long."""
    case = case_of("circular", 200, 200, fft_size=200, options=())
    check(case, case.plan(radices=(16, 8)))
    for taps in (110, 150):
        case = case_of("circular", 900, taps, fft_size=900, options=())
        check(case, forced(case, (8, 12)))


@pytest.mark.parametrize(
    "options",
    [(), ("in_gate",), ("out_gate",), ("in_gate", "out_gate"), ("skip",), ("mask",), ALL],
    ids="+".join,
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_every_operand(mode, activation, options):
    for dtype, k_dtype in (("float32",) * 2, ("bfloat16", "float32")):
        case = case_of(
            mode, 700, 25, dtype, k_dtype=k_dtype, activation=activation, options=options
        )
        check(case, forced(case))


@pytest.mark.parametrize(
    "needs",
    [
        (),
        ("u",),
        ("k",),
        ("in_gate",),
        ("out_gate",),
        ("skip",),
        ("k", "skip"),
        ("u", "in_gate"),
        ("u", "out_gate"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("mode", MODES)
def test_needs(mode, activation, needs):
    case = case_of(mode, 800, 25, activation=activation)
    plan = forced(case)
    some = plan.backward(case.dy, case.u, case.k, **case.kernel_arguments, needs=needs)
    check_gradients(case, some, needs=needs)
    every = plan.backward(case.dy, case.u, case.k, **case.kernel_arguments)
    for a, b in zip(some, every):
        assert a is None or same_bits(a, b)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("mode", MODES)
def test_in_place(mode, dtype):
    """In place, samples that the next block still reads are kept before a block overwrites them."""
    for length, taps in ((700, 25), (1500, 1), (1700, 200)):
        case = case_of(mode, length, taps, dtype)
        for threads in (1, 3):
            plan = forced(case, (16, 32), threads=threads)
            want = plan(case.u, case.k, **case.kernel_arguments)
            u = case.u.copy()
            assert plan(u, case.k, **case.kernel_arguments, out=u) is u
            assert same_bits(u, want)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("mode", MODES)
def test_in_place_without_gates(mode, dtype):
    """Contiguous rows alone, which elsewhere need no more workspace than the plan says."""
    case = Case(1, 2, 1700, 25, dtype, mode=mode)
    plan = forced(case, (16, 32))
    u = case.u.copy()
    assert plan.blocks > 1 and plan(u, case.k, **case.kernel_arguments, out=u) is u
    assert same_bits(u, plan(case.u, case.k, **case.kernel_arguments))


@pytest.mark.pairwise
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [(1, 1), (2, 3), (9, 2)], ids=str)
def test_threads(rows, mode, dtype):
    """Blocks shared among any number of threads give the same bits."""
    case = Case(*rows, 5000, 60, dtype, mode=mode, options=ALL)
    want = None
    for threads in (1, 2, 3, 7, None):
        plan = forced(case, (16, 16), threads=threads)
        got = [
            plan(case.u, case.k, **case.kernel_arguments),
            *plan.backward(case.dy, case.u, case.k, **case.kernel_arguments),
        ]
        u = case.u.copy()
        got.append(plan(u, case.k, **case.kernel_arguments, out=u))
        want = want or got
        for a, b in zip(got, want):
            assert same_bits(a, b), threads


@pytest.mark.parametrize("kernels", [(), (1,), (2,), (1, 4), (3, 1), (3, 2), (3, 4)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_kernel_shapes(mode, kernels):
    case = Case(3, 4, 900, 25, mode=mode, kernels=kernels, options=ALL)
    check(case, forced(case))


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_independent(mode):
    """NaN and infinite values in other rows, in any block, do not change a bit of a row."""
    case = case_of(mode, 700, 25)
    plan = forced(case)

    def results(u, dy):
        g = plan.backward(
            dy, u, case.k, **case.kernel_arguments, needs=("u", "in_gate", "out_gate")
        )
        return [plan(u, case.k, **case.kernel_arguments), g.du, g.din_gate, g.dout_gate]

    want = results(case.u, case.dy)
    u, dy = case.u.copy(), case.dy.copy()
    u[0], dy[0] = np.nan, np.inf
    u[1, 2, 300] = np.nan
    for a, b in zip(results(u, dy), want):
        assert same_bits(a[1, :2], b[1, :2])
        assert np.isnan(a[0]).any(-1).all()


def test_no_look_ahead():
    """In causal mode y[:t] does not depend on u[t:] beyond rounding, in any block."""
    case = Case(1, 2, 1000, 30, "float64")
    plan = forced(case)
    y = plan(case.u, case.k)
    for t in (1, 100, plan.block_length, plan.block_length + 1, 999):
        u = case.u.copy()
        u[..., t:] = 1e3
        assert np.allclose(plan(u, case.k)[..., :t], y[..., :t], rtol=0, atol=1e-9)


# ---- Chosen by the plan ------------------------------------------------------


def counters(length, taps, **choices):
    plan = fftconv.Plan((1, 4, length), (4, taps), threads=1, **choices)
    return plan, plan.counters


@pytest.mark.parametrize(
    "choices",
    [{}, dict(mode="circular"), dict(mode="two_sided", k_rev_length=30)],
    ids=["causal", "circular", "two_sided"],
)
def test_chosen(choices):
    """The plan chooses blocks by itself where the kernel is short, and its result is right."""
    mode = choices.get("mode", "causal")
    plan, _ = counters(1 << 16, 64, **choices)
    assert plan.blocks > 1
    assert plan.blocks == -(-(1 << 16) // plan.block_length)
    case = Case(1, 2, 40000, 77, mode=mode, options=ALL, activation="silu")
    assert case.plan().blocks > 1
    check(case, case.plan())
    one = case.plan(single_block=True)
    assert one.blocks == 1
    check(case, one)
    full, _ = counters(1 << 12, 1 << 12, **choices)
    assert full.blocks == 1


def test_less_work_for_fewer_taps():
    """Workspace, spectrum, predicted time and flops fall with Lk: a shorter kernel needs at most
    what the longer one needs.  (Of flops it may need up to 5 % more, which the plan may spend to
    save time.)"""
    length = 1 << 20
    found = [counters(length, length >> shift)[1] for shift in (0, 2, 4, 6, 8, 10, 12, 14)]
    for of in (
        "spectrum_bytes",
        "forward_workspace_bytes",
        "backward_workspace_bytes",
        "flops",
        "predicted_seconds",
    ):
        values = [getattr(c, of) for c in found]
        slack = 1.05 if of == "flops" else 1
        assert all(b <= slack * a for a, b in zip(values, values[1:])), (of, values)
        assert values[-1] < values[0], (of, values)
    # Lk is a thousandth of L: the spectrum is smaller in proportion, up to the factor by which a
    # block is longer than the kernel.
    assert found[5].spectrum_bytes < found[0].spectrum_bytes / 30
    assert found[5].forward_workspace_bytes < found[0].forward_workspace_bytes / 30


def test_workspace_of_a_short_kernel():
    """With L = 4M and Lk = 4K a thread needs less than 2 MB of workspace."""
    plan = fftconv.Plan((1, 1, 1 << 22), (1, 4096), threads=1)
    assert plan.blocks > 1
    assert plan.counters.forward_workspace_bytes < 2 << 20


@pytest.mark.parametrize("taps", [16, 256, 1000])
def test_longer_rows_cost_the_same_each_element(taps):
    """A filter costs the same for each element of longer and longer rows: only the unused part of
    the last block makes a difference, and the longest rows have the same blocks."""
    found = [counters(taps << shift, taps) for shift in (8, 10, 12, 14)]
    assert all(plan.blocks > 1 for plan, _ in found)
    lengths = [plan.u_shape[-1] for plan, _ in found]
    for of in ("flops", "predicted_seconds"):
        costs = [getattr(c, of) / n for (_, c), n in zip(found, lengths)]
        assert max(costs) <= 1.2 * min(costs), (of, costs)
        assert costs[3] <= 1.01 * costs[2] <= 1.02 * costs[1], (of, costs)
    assert found[2][0].block_length == found[3][0].block_length
    assert len({c.spectrum_bytes for _, c in found[2:]}) == 1
    assert len({c.forward_workspace_bytes for _, c in found[2:]}) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_filter_on_longer_rows(mode, dtype):
    """A filter's first outputs are right, whatever follows in the row."""
    case = Case(1, 2, 30000, 33, dtype, mode=mode)
    arguments = dict(mode=mode, k_rev=case.k_rev)
    for length in (3000, 10000, 30000):
        part = Case(1, 2, length, 33, dtype, mode=mode)
        part.u, part.k, part.k_rev = case.u[..., :length], case.k, case.k_rev
        check_forward(part, fftconv.conv(part.u, part.k, **arguments))


@given(st.integers(1, 3000), st.integers(1, 200), st.data())
def test_anything(length, taps, data):
    mode = data.draw(st.sampled_from(MODES))
    dtype = data.draw(st.sampled_from(EVERY))
    fft_size = reverse = None
    if mode == "circular":
        fft_size = length + data.draw(st.integers(0, 300))
        taps = min(taps, fft_size)
    if mode == "two_sided":
        reverse = data.draw(st.integers(1, 200))
    case = Case(
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 3)),
        length,
        taps,
        dtype,
        mode=mode,
        fft_size=fft_size,
        reverse=reverse,
        options=data.draw(st.sets(st.sampled_from(ALL))),
    )
    radices = data.draw(st.lists(st.sampled_from([2, 3, 4, 5, 7, 8, 16]), min_size=1, max_size=4))
    m = int(np.prod(radices)) * (1 if dtype in COMPLEX else 2)
    if m < 2 * (taps + (reverse or 0)):
        radices = [16] * 3  # a block would not fit in so few points
    plan = case.plan(
        radices=radices, isa=data.draw(st.sampled_from(ISAS)), threads=data.draw(st.integers(1, 3))
    )
    check(case, plan)


def test_too_few_points_for_the_taps():
    """Radices too small for a block are refused by name."""
    for mode, reverse in (("causal", None), ("two_sided", 40)):
        case = Case(1, 1, 500, 100, mode=mode, reverse=reverse)
        with pytest.raises(ValueError, match="radices"):
            case.plan(radices=(7, 7))


def test_primitives_need_one_block():
    case = Case(1, 2, 5000, 20)
    plan = case.plan()
    assert plan.blocks > 1
    with pytest.raises((ValueError, fftconv.Unsupported), match="single_block|one block"):
        plan.rows_to_spectra(case.u)
    plan = case.plan(single_block=True)
    s = plan.multiply(plan.spectrum(case.k), plan.rows_to_spectra(case.u))
    check_forward(case, plan.spectra_to_rows(s))


def test_repr():
    plan = fftconv.Plan((1, 2, 5000), (2, 20), radices=(8, 16))
    assert f"{plan.blocks} blocks of {plan.block_length}" in repr(plan)


@big
@pytest.mark.parametrize("taps", [256, 4096, 1 << 18])
@pytest.mark.parametrize("mode", MODES)
def test_big(mode, taps):
    case = Case(1, 1, 1 << 22, taps, mode=mode, options=("in_gate",))
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))
