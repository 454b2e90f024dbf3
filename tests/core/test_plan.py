"""Plans: every instruction set, form, set of radices and kind of stage, each one forced."""

import copy
import gc
import math
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import fftconv
import numpy as np
import pytest
from fftconv import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from support import DTYPES, TOLERANCE, Case, check_forward, check_gradients, norm, same_bits, slow

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")
# The forms that each mode can take.  A circular row in right angle wraps by reading round its end.
FORMS = [
    ("causal", "right_angle"),
    ("circular", "right_angle"),
    ("circular", "folded"),
    ("circular", "complex"),
]


def check_plan(case, plan):
    want = reference.conv(case.u, case.k, **case.arguments)
    gradients = reference.conv_backward(case.dy, case.u, case.k, **case.arguments)
    spectrum = plan.spectrum(case.k)
    for kernel in (spectrum, case.k):
        check_forward(case, plan(case.u, kernel, **case.plan_arguments), want)
        check_gradients(
            case, plan.backward(case.dy, case.u, kernel, **case.plan_arguments), gradients
        )


@pytest.mark.parametrize("form", ["folded", "complex"])
def test_causal_is_right_angle(form):
    with pytest.raises(ValueError, match=f"form is {form}.*right_angle"):
        fftconv.Plan((1, 1, 64), (1, 64), form=form)


@pytest.mark.pairwise
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("mode,form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_every_path(isa, dtype, mode, form, dense):
    for length in (4 if form == "folded" else 2, 96, 360, 1024):
        case = Case(2, 3, length, length, dtype, mode=mode, options=ALL, activation="gelu")
        plan = case.plan(isa=isa, form=form, dense=dense)
        assert plan.isa == isa and plan.form == form and plan.dense == dense
        check_plan(case, plan)


RADICES = [
    (2,),
    (3,),
    (5,),
    (7,),
    (128,),
    (1, 16),
    (16, 1),
    (1, 1, 8),
    (16, 16),
    (32, 32),
    (8, 8, 16),
    (4, 4, 4, 4),
    (2,) * 10,
    (128, 2),
    (2, 128),
    (64, 64),
    (16, 16, 16),
    (3, 5, 7),
    (7, 5, 3),
    (9, 25),
    (6, 10, 14),
    (15, 16),
    (100,),
    (49, 4),
    (27, 32),
    (13, 8),
    (11, 4, 2),
    (8, 127),
    (97, 2),
    (121, 3),
]


@pytest.mark.pairwise
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("mode,form", FORMS)
@pytest.mark.parametrize("radices", RADICES, ids=lambda r: "x".join(map(str, r)))
def test_radices(radices, mode, form, dense):
    """A plan runs the radices that it is given, and the result is right."""
    m = math.prod(radices)
    # In folded form the longest part has N/4 points; in right angle M points hold a linear
    # convolution of 2M samples.
    length = 4 * m if form == "folded" else m
    fft_size = None if mode == "causal" else length
    case = Case(
        2,
        2,
        length,
        length,
        "float32",
        mode=mode,
        fft_size=fft_size,
        options=ALL,
        activation="silu",
    )
    try:
        plan = case.plan(radices=radices, form=form, dense=dense)
    except (ValueError, fftconv.Unsupported) as error:
        # Only radices without a codelet may be refused, by name, and of dense plans only folded
        # ones, whose shorter parts have no dense product.
        assert (not dense or form == "folded") and "radi" in str(error), error
        assert any(largest_prime(r) > 7 for r in radices), error
        return
    assert plan.radices == radices
    assert plan.transform_length == m
    assert math.prod(plan.stage_radices) == m
    check_plan(case, plan)


def largest_prime(n):
    p = 2
    while n > 1 and p * p <= n:
        if n % p == 0:
            n //= p
        else:
            p += 1
    return n


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dense_is_the_codelets(isa, dtype):
    """Codelets and dense matrix products agree to rounding."""
    case = Case(2, 2, 512, 512, dtype)
    a, b = (case.plan(isa=isa, dense=dense)(case.u, case.k) for dense in (False, True))
    assert np.all(norm(a - b) <= 2 * TOLERANCE[dtype] * norm(case.k) * norm(case.u))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_order(order):
    case = Case(1, 2, 64, 64)
    plan = case.plan(order=order)
    assert len(plan.radices) == order
    check_plan(case, plan)


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_any_plan(length, taps, data):
    mode, form = data.draw(st.sampled_from(FORMS))
    fft_size = None
    if mode == "circular":
        fft_size = length + data.draw(st.integers(0, 200))
        taps = min(taps, fft_size)
    case = Case(
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 3)),
        length,
        taps,
        data.draw(st.sampled_from(DTYPES)),
        mode=mode,
        fft_size=fft_size,
        options=data.draw(st.sets(st.sampled_from(ALL))),
    )
    try:
        plan = case.plan(
            form=form,
            isa=data.draw(st.sampled_from(ISAS)),
            dense=data.draw(st.booleans()),
            threads=data.draw(st.integers(1, 3)),
        )
    except ValueError as error:
        # The folded form needs a multiple of 4, and folded and complex need a length that has
        # radices.
        assert form != "right_angle" and "fft_size" in str(error) or "form" in str(error), error
        assume(False)
    check_plan(case, plan)


def test_spectrum_is_the_kernel():
    """A spectrum and its kernel give the same bits, and a spectrum keeps its plan alive."""
    case = Case(3, 4, 777, 500, options=("in_gate",), activation="gelu")
    plan = case.plan()
    spectrum = plan.spectrum(case.k)
    assert spectrum.plan is plan
    assert spectrum.nbytes == plan.counters.spectrum_bytes > 0
    want = plan(case.u, case.k, **case.plan_arguments)
    del plan
    y = spectrum.plan(case.u, spectrum, **case.plan_arguments)
    assert same_bits(y, want)
    assert "777" not in repr(spectrum) and "500" in repr(spectrum)


def test_conv_is_the_plan():
    for mode in ("causal", "circular"):
        case = Case(3, 4, 600, 600, mode=mode)
        y = fftconv.conv(case.u, case.k, mode=mode)
        assert same_bits(y, case.plan()(case.u, case.k))


def other_isa(plan):
    """An instruction set whose vectors have another number of lanes."""
    return next(isa for isa in ISAS if fftconv.Plan((1, 1, 8), (1, 8), isa=isa).lanes != plan.lanes)


def test_spectrum_of_another_plan():
    """A spectrum of another plan is refused by name, before anything is written."""
    case = Case(2, 3, 128, 128)
    plan = case.plan()
    others = [
        Case(2, 3, 256, 128).plan(),
        Case(2, 4, 128, 128).plan(),
        Case(2, 3, 128, 128, "float64").plan(),
        Case(2, 3, 128, 128, mode="circular").plan(),
        case.plan(radices=(2,) * 7),
        case.plan(isa=other_isa(plan)),
    ]
    for other in others:
        k = np.ones(other.k_shape, other.dtype)
        spectrum = other.spectrum(k)
        out = np.full_like(case.u, 7)
        with pytest.raises(ValueError, match="spectrum"):
            plan(case.u, spectrum, out=out)
        assert np.all(out == 7)
        with pytest.raises(ValueError, match="spectrum"):
            plan.backward(case.dy, case.u, spectrum)
        with pytest.raises(ValueError, match="spectrum"):
            plan.multiply(spectrum, plan.rows_to_spectra(case.u))


@pytest.mark.parametrize(
    "other", [dict(radices=(8, 16, 16)), dict(radices=(16, 16, 8)), dict(lanes=True)], ids=str
)
def test_spectrum_of_a_like_plan(other):
    """A spectrum is refused even if it has as many points and stages, but in another order."""
    case = Case(1, 2, 2048, 2048)
    plan = case.plan(radices=(16, 8, 16))
    if "lanes" in other:
        other = dict(radices=plan.radices, isa=other_isa(plan))
    spectrum = case.plan(**other).spectrum(case.k)
    with pytest.raises(ValueError, match="spectrum was made for another plan"):
        plan(case.u, spectrum)


@pytest.mark.parametrize("made, used", [((60, 60), (100, 20)), ((60, 200), (64, 200))], ids=str)
def test_spectrum_of_other_taps(made, used):
    """A spectrum is refused if it has the same transform, but a kernel that was cut elsewhere."""
    a, b = Case(1, 2, *made), Case(1, 2, *used)
    radices = (16, 8)
    spectrum = a.plan(radices=radices).spectrum(a.k)
    with pytest.raises(ValueError, match="spectrum"):
        b.plan(radices=radices)(b.u, spectrum)


def test_spectrum_for_another_batch():
    """A plan that differs in B alone takes the spectrum, and gives the same bits."""
    case = Case(6, 2, 500, 500)
    spectrum = case.plan().spectrum(case.k)
    few = fftconv.Plan((2, 2, 500), case.k.shape)
    assert same_bits(few(case.u[:2], spectrum), few(case.u[:2], case.k))


@pytest.mark.parametrize("mode,form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_primitives(dtype, mode, form):
    """A convolution is the composition of the three primitives."""
    for length in (4, 60, 256, 1000):
        case = Case(2, 3, length, length, dtype, mode=mode)
        plan = case.plan(form=form)
        spectrum = plan.spectrum(case.k)
        s = plan.rows_to_spectra(case.u)
        product = plan.multiply(spectrum, s)
        kept = product.copy()
        check_forward(case, plan.spectra_to_rows(product))
        assert np.array_equal(product, kept, equal_nan=True)
        assert plan.multiply(spectrum, s, out=s) is s
        check_forward(case, plan.spectra_to_rows(s, overwrite=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "radices",
    [
        (2, 8, 8),
        (3, 8, 8),
        (4, 8, 8),
        (7, 16, 16),
        (8, 16, 16),
        (16, 8, 8),
        (16, 16, 4),
        (5, 5, 8),
        (8, 8, 8, 8),
        (16, 4, 8, 16, 16),
    ],
    ids=str,
)
def test_conjugates_left_out(radices, isa):
    """Real rows in complex form compute half of the outputs of stage 1, in whole vectors and in
    whole blocks of the stages below.  Forward, backward, one row on three threads and the three
    primitives are right."""
    n = int(np.prod(radices))
    case = Case(2, 2, n, n, mode="circular", options=("in_gate", "out_gate"))
    plan = case.plan(form="complex", radices=radices, isa=isa)
    check_forward(case, plan(case.u, plan.spectrum(case.k), **case.plan_arguments))
    check_gradients(case, plan.backward(case.dy, case.u, case.k, **case.plan_arguments))
    row = Case(1, 1, n, n, mode="circular")
    plan = row.plan(form="complex", radices=radices, isa=isa, threads=3)
    check_forward(row, plan(row.u, row.k))
    s = plan.multiply(plan.spectrum(row.k), plan.rows_to_spectra(row.u))
    assert np.isfinite(s).all()
    check_forward(row, plan.spectra_to_rows(s))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("radices", [(8, 8), (16, 8), (8, 8, 8), (16, 16, 16)], ids=str)
def test_a_spectrum_has_what_its_plan_reads(radices, isa):
    """Dense stages leave no conjugates out, codelets of the same radices do: the spectrum of either
    is used rightly by the other, or refused."""
    n = int(np.prod(radices))
    case = Case(2, 3, n, n, mode="circular")
    plans = [
        case.plan(form="complex", radices=radices, isa=isa, dense=dense) for dense in (False, True)
    ]
    for one, other in (plans, plans[::-1]):
        try:
            y = one(case.u, other.spectrum(case.k))
        except ValueError as refusal:
            assert "made for another plan" in str(refusal)
        else:
            check_forward(case, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode,form", [f for f in FORMS if f != FORMS[1]])
def test_natural(mode, form, isa, dtype):
    """natural() gives the bins that the form's formula and np.fft give."""
    for length in (4 if form == "folded" else 2, 60, 256, 2000):
        case = Case(2, 2, length, length, dtype, mode=mode)
        plan = case.plan(form=form, isa=isa)
        got = plan.natural(plan.rows_to_spectra(case.u))
        x = case.u.astype(np.float64)
        if form == "folded":
            want = np.fft.rfft(x)
        elif form == "complex":
            want = np.fft.fft(x)
        else:
            m = plan.transform_length
            x = np.concatenate([x, np.zeros(x.shape[:2] + (2 * m - length,))], -1)
            want = np.fft.fft(
                (x[..., :m] + 1j * x[..., m:]) * np.exp(0.5j * np.pi * np.arange(m) / m)
            )
        assert got.shape == want.shape
        kind = "float64" if dtype == "float64" else "float32"
        assert got.dtype == np.result_type(kind, np.complex64)
        assert np.all(norm(np.abs(got - want)) <= 2 * TOLERANCE[kind] * norm(np.abs(want)))


def test_counters():
    """A plan's counters agree with its shapes."""
    case = Case(3, 5, 1000, 1000, "float16", k_dtype="float32")
    plan = case.plan()
    c = plan.counters
    assert c.io_bytes == 2 * 3 * 5 * 1000 * 2
    assert len(c.stage_flops) == len(plan.stage_radices)
    assert all(f > 0 for f, r in zip(c.stage_flops, plan.stage_radices) if r > 1)
    assert c.flops == sum(c.stage_flops) + c.product_flops
    # Each row takes two transforms of M points and a product: between the bare arithmetic of a
    # radix-8 FFT and that of a dense DFT.
    rows, m = 15, plan.transform_length
    assert rows * 2 * 2 * m * math.log2(m) < c.flops < rows * 2 * 8 * m * m
    assert rows * 6 * m <= c.product_flops <= rows * 20 * m
    # A spectrum holds at least M complex numbers for each channel.
    assert 5 * 8 * m <= c.spectrum_bytes <= 4 * 5 * 8 * m + 4096
    assert c.spectra_row_bytes >= 8 * m
    assert c.spectra_row_bytes % 64 == 0
    assert 0 < c.forward_workspace_bytes <= c.backward_workspace_bytes
    assert c.l1_bytes + c.l2_bytes + c.memory_bytes > 0
    assert c.predicted_seconds > 0
    dense = case.plan(radices=plan.radices, dense=True).counters
    assert dense.flops > c.flops
    twice = Case(6, 5, 1000, 1000, "float16").plan().counters
    assert twice.io_bytes == 2 * c.io_bytes
    with pytest.raises(AttributeError):
        c.io_bytes = 0


def test_workspace_grows_with_threads_not_with_rows():
    one = Case(64, 64, 1000, 1000).plan(threads=1).counters
    four = Case(64, 64, 1000, 1000).plan(threads=4).counters
    fewer = Case(8, 64, 1000, 1000).plan(threads=1).counters
    assert one.forward_workspace_bytes == fewer.forward_workspace_bytes
    assert one.forward_workspace_bytes < four.forward_workspace_bytes
    assert one.forward_workspace_bytes < 64 * 64 * 1000 * 4


def test_repr():
    plan = fftconv.Plan((4, 64, 1024), (64, 1024), radices=(32, 32), threads=3, isa=ISAS[0])
    text = repr(plan)
    for part in (
        "(4, 64, 1024)",
        "float32",
        "causal",
        "right_angle",
        "M=1024",
        "32·32",
        ISAS[0],
        "threads=3",
        f"lanes={plan.lanes}",
        "·".join(map(str, plan.stage_radices)),
    ):
        assert part in text, part
    assert re.search(
        "fft_size=100", repr(fftconv.Plan((1, 1, 64), (1, 64), mode="circular", fft_size=100))
    )


PICKLED = [
    ({}, {}),
    ({"mode": "two_sided", "options": ("skip",)}, dict(isa=ISAS[0], threads=2)),
    ({"dtype": "bfloat16", "k_dtype": "float32"}, dict(radices=(8, 8), dense=True)),
    ({"dtype": "complex64", "kernels": (3, 2)}, dict(order=2, single_block=True)),
    ({"mode": "circular", "fft_size": 60}, dict(form="folded", pattern=np.arange(31) < 9)),
]


@pytest.mark.parametrize("arguments,choices", PICKLED, ids=[str(i) for i, _ in PICKLED])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_copies(arguments, choices, protocol):
    """Plans and spectra do not change, so a copy is the same object.  They are pickled by what
    they were made from, and what is read gives the same bits, whatever became of k since."""
    case = Case(3, 4, 50, 20, **arguments)
    k = case.k.copy()
    plan = case.plan(**choices)
    spectrum = plan.spectrum(k, case.k_rev)
    for x in (plan, spectrum):
        assert copy.copy(x) is x and copy.deepcopy([x])[0] is x
    want = [plan(case.u, spectrum), *plan.backward(case.dy, case.u, spectrum)]
    k[...] = np.nan
    read, of_read = pickle.loads(pickle.dumps((plan, spectrum), protocol))
    assert of_read.plan is read is not plan and type(read) is type(plan)
    assert repr(read) == repr(plan) and repr(of_read) == repr(spectrum)
    got = [read(case.u, of_read), *read.backward(case.dy, case.u, of_read)]
    for a, b in zip(got, want):
        assert a is b is None or (a.dtype == b.dtype and same_bits(a, b))
    # The next one, too: what is read is pickled as well.
    assert same_bits(plan(case.u, pickle.loads(pickle.dumps(of_read, protocol))), want[0])


def test_pickled_kernels_keep_their_type():
    """The gradient of a kernel that was converted has the kernel's own type after reading, too."""
    u = np.ones((1, 2, 30))
    plan = fftconv.Plan(u.shape, (2, 9), dtype="float64")
    for k in (np.ones((2, 9), "float32"), np.ones((2, 9), int), [[1.0] * 9] * 2):
        spectra = plan.spectrum(k), pickle.loads(pickle.dumps(plan.spectrum(k)))
        a, b = (plan.backward(u, u, s).dk for s in spectra)
        assert a.dtype == b.dtype and same_bits(a, b)


def test_pickled_torch_kernels():
    torch = pytest.importorskip("torch")
    u, k = torch.ones((1, 2, 30)).bfloat16(), torch.ones((2, 9)).bfloat16()
    plan = fftconv.Plan(u.shape, k.shape, dtype=torch.bfloat16)
    read = pickle.loads(pickle.dumps(plan.spectrum(k)))
    dk = read.plan.backward(u, u, read).dk
    assert dk.dtype == torch.bfloat16 and torch.equal(dk, plan.backward(u, u, k).dk)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@slow  # sanitizers keep freed memory for a while
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_nothing_leaks(mode):
    """Creating and dropping plans, spectra and results does not make the process grow."""
    case = Case(2, 4, 1 << 15, 1 << 15, mode=mode)

    def use(times):
        for _ in range(times):
            plan = case.plan(threads=2)
            spectrum = plan.spectrum(case.k)
            plan(case.u, spectrum)
            plan.backward(case.dy, case.u, spectrum)
            plan.multiply(spectrum, plan.rows_to_spectra(case.u))
        gc.collect()

    use(5)
    before = resident_bytes()
    use(60)
    # Any one of plan, spectrum and workspace takes more than 100 KB each time.
    assert resident_bytes() - before < 60 * 100e3 / 2


def test_dtypes_alike():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for same in (
        ["float32", np.float32, np.dtype("float32"), "torch.float32"],
        ["bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), "torch.bfloat16"],
        ["float64", float, np.float64, "f8", "double", ">f8", "<f8", np.dtype(">f8"), "d"],
        ["float32", "single", "f4", "=f4"],
        ["float16", np.half, "half", "e", ">f2"],
        ["complex128", complex, "complex", "c16", np.cdouble],
        ["complex64", "csingle", "F", ">c8"],
    ):
        for dtype in same:
            plan = fftconv.Plan((1, 1, 8), (1, 8), dtype=dtype)
            assert plan.dtype == same[0]


@pytest.mark.parametrize("length", [256, 1000, 4096, 65536])
def test_sizes_chosen(length):
    """A causal plan pads by little: M is at least about L / 2 and at most 2 L."""
    plan = fftconv.Plan((2, 3, length), (3, length))
    if plan.form == "right_angle":
        assert 2 * plan.transform_length >= length + 1
        assert plan.transform_length <= 2 * length
    assert plan.padded_length == 2 * plan.transform_length
    assert plan.fft_size is None


@pytest.mark.parametrize("mode", ["causal", "circular"])
def test_plans_of_one_size_share_tables(mode):
    """If one of two plans that share tables is destroyed, the other still gives the same
    results."""
    cases = [Case(batch, channels, 512, 512, mode=mode) for batch, channels in ((1, 2), (3, 4))]
    alone = []
    for case in cases:
        plan = case.plan()
        alone.append(plan(case.u, plan.spectrum(case.k)))
        del plan
        gc.collect()
    first, second = (case.plan() for case in cases)
    spectrum = first.spectrum(cases[0].k)
    assert same_bits(first(cases[0].u, spectrum), alone[0])
    assert second.stage_radices == first.stage_radices
    del first, spectrum
    gc.collect()
    assert same_bits(second(cases[1].u, second.spectrum(cases[1].k)), alone[1])


def test_sizes_beside_each_other_do_not_share():
    """Plans do not share tables where an input of their choice differs: changing one input at a
    time gives right results."""
    base = dict(batch=1, channels=2, length=96, taps=96)
    changes = [
        {},
        dict(length=80),
        dict(taps=40),
        dict(mode="circular"),
        dict(mode="circular", fft_size=128),
        dict(dtype="float64"),
        dict(dtype="complex64"),
    ]
    cases = [Case(**{**base, **change}) for change in changes]
    plans = [case.plan() for case in cases]
    for case, plan in zip(cases, plans):
        check_forward(case, plan(case.u, plan.spectrum(case.k)))


def test_a_prepared_call_is_the_same_call():
    """A prepared call that is run again writes the result for what the operands then hold, whatever
    calls were made in between."""
    u, k = np.ones((2, 3, 40), "f4"), np.ones((3, 40), "f4")
    plan = fftconv.Plan(u.shape, k.shape)
    y = np.empty_like(u)
    kept = plan(u, plan.spectrum(k))
    result, run = plan.prepare(u, plan.spectrum(k), out=y)
    assert result is y and same_bits(y, kept)
    plan(u, plan.spectrum(2 * k))  # another call does not take this one's memory
    gc.collect()
    fftconv.conv(np.ones((9, 9, 999), "f4"), np.ones((9, 999), "f4"))
    y.fill(np.nan)
    u[0] = 2
    del plan
    run()
    assert np.array_equal(y, kept * u)


@pytest.mark.parametrize("prepared", [True, False], ids=["spectrum", "kernels"])
@pytest.mark.parametrize("mode", ["causal", "circular", "two_sided"])
def test_prepared_calls(mode, prepared):
    """Prepared calls, forward and backward and with all operands, equal the reference."""
    first, case = (Case(2, 3, 90, 40, mode=mode, options=ALL, activation="gelu") for _ in range(2))
    plan = case.plan()
    arguments = {**first.plan_arguments}
    kernel = first.k
    if prepared:
        kernel = plan.spectrum(first.k, first.k_rev)
    else:
        arguments["k_rev"] = first.k_rev
    y, forward = plan.prepare(first.u, kernel, **arguments)
    g, backward = plan.prepare(first.u, kernel, dy=first.dy, **arguments)
    check_forward(case, y)
    check_gradients(case, g)
    case.u = first.u[...] = -2 * case.u
    first.dy[...] = case.dy = case.dy[::-1].copy()
    for x in (y, *g):
        if x is not None:
            x[...] = np.nan
    forward()
    backward()
    check_forward(case, y)
    check_gradients(case, g)
    _, nothing = plan.prepare(first.u, kernel, dy=first.dy, needs=(), **arguments)
    nothing()


def test_what_cannot_be_prepared():
    case = Case(2, 3, 40, 40, options=("in_gate",))
    plan, gate = case.plan(), case.operands["in_gate"]
    with pytest.raises(ValueError, match="needs is 'k', and dy is None"):
        plan.prepare(case.u, case.k, needs="k")
    with pytest.raises(ValueError, match="out is given beside dy"):
        plan.prepare(case.u, case.k, dy=case.dy, out=case.u)
    for change, name in (
        (dict(in_gate=gate[:1]), "in_gate"),
        (dict(in_gate=gate.astype("f2")), "in_gate"),
        (dict(u=case.u.astype("f2")), "u"),
    ):
        arguments = {"u": case.u, "spectrum": case.k, "in_gate": gate, **change}
        with pytest.raises(ValueError, match=f"{name} has shape .*; to prepare its gradient"):
            plan.prepare(dy=case.dy, **arguments)
        plan.prepare(dy=case.dy, **arguments, needs="k")
        check = plan.prepare(**arguments)[0]
        assert same_bits(check, plan(**arguments))


def test_plans_come_and_go_on_many_threads():
    case = Case(2, 3, 200, 200)
    plan = case.plan()
    want = plan(case.u, plan.spectrum(case.k))
    del plan

    def use(_):
        plan = case.plan()
        return same_bits(plan(case.u, plan.spectrum(case.k)), want)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(400)))
