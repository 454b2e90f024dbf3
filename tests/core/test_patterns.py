"""Frequency patterns: their masks, weights and fractions, and convolutions with them."""

import copy
import itertools
import math
import pickle

import fftconv
import numpy as np
import pytest
from fftconv import Pattern, reference
from hypothesis import given
from hypothesis import strategies as st
from support import DTYPES, Case, big, check_forward, check_gradients, k_dtypes, same_bits

ISAS = fftconv.isas()
ALL = ("in_gate", "out_gate", "skip", "mask")
ORDERS = ["natural", "stage"]

# Table 10 of the paper, and the same digits scaled down.
PAPER = (
    (32, 32, 32, 64),
    [(0, 0, 0, 0), (16, 0, 0, 0), (16, 16, 0, 0), (16, 16, 4, 4), (16, 16, 8, 8), (16, 16, 16, 16)],
)
ASKED = [0, 0.5, 0.75, 0.7949, 0.8359, 0.9062]
SMALL = [
    (
        (8, 8, 8, 16),
        [(0, 0, 0, 0), (4, 0, 0, 0), (4, 4, 0, 0), (4, 4, 1, 1), (4, 4, 2, 2), (4, 4, 4, 4)],
    ),
    (
        (4, 4, 4, 8),
        [(0, 0, 0, 0), (2, 0, 0, 0), (2, 2, 0, 0), (2, 2, 1, 1), (2, 2, 2, 2), (3, 1, 2, 7)],
    ),
]
BOXES = [(shape, drop) for shape, drops in SMALL for drop in drops]


# ---- The pattern itself -----------------------------------------------------


def removed(shape, drop, order, m):
    """True where the pattern removes bin m, whose digits are found by division as in the
    formulas."""
    digits = [0] * len(shape)
    places = range(len(shape))
    # In natural order i_p is the remainder of m by N_p; in stage order i_1 is that of m by N_1.
    for j in reversed(places) if order == "natural" else places:
        digits[j], m = m % shape[j], m // shape[j]
    return any(i >= n - d for i, n, d in zip(digits, shape, drop))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "shape,drop",
    BOXES
    + [((12,), (5,)), ((3, 5), (1, 2)), ((1, 7, 2), (0, 3, 1)), ((2, 3, 2, 5, 2), (1, 0, 0, 2, 1))],
    ids=str,
)
def test_mask(shape, drop, order):
    n = math.prod(shape)
    pattern = Pattern(shape, drop, order)
    mask, weights = pattern.mask(n), pattern.weights(n)
    assert mask.dtype == bool and mask.shape == (n,)
    assert weights.dtype == np.float64 and weights.shape == (n // 2 + 1,)
    want = [not removed(shape, drop, order, m) for m in range(n)]
    assert mask.tolist() == want
    assert weights.tolist() == [(want[m] + want[-m % n]) / 2 for m in range(n // 2 + 1)]
    fraction = math.prod((s - d) / s for s, d in zip(shape, drop))
    assert math.isclose(pattern.asked(n), 1 - fraction, abs_tol=1e-12)
    kept = [want[m] or want[-m % n] for m in range(n)]
    assert math.isclose(pattern.kept(n), np.mean(kept))


def test_formulas():
    """The formulas of both orders hold, digit by digit, for four digits."""
    n1, n2, n3, n4 = shape = (2, 3, 4, 5)
    natural = Pattern(shape, (1, 1, 1, 1)).mask(120)
    stage = Pattern(shape, (1, 1, 1, 1), order="stage").mask(120)
    for i1, i2, i3, i4 in itertools.product(*map(range, shape)):
        kept = i1 < 1 and i2 < 2 and i3 < 3 and i4 < 4
        assert natural[((i1 * n2 + i2) * n3 + i3) * n4 + i4] == kept
        assert stage[i1 + n1 * (i2 + n2 * (i3 + n3 * i4))] == kept


def test_fractions_of_the_paper():
    """Patterns are asked for the fractions of Table 10; `kept` is the fraction that remains for
    real rows, counted here."""
    shape, drops = PAPER
    n = math.prod(shape)
    stage_removed = [0, 0.03, 0.5, 0.59, 0.67, 0.81]
    for drop, asked, really in zip(drops, ASKED, stage_removed):
        for order in ORDERS:
            pattern = Pattern(shape, drop, order)
            mask = pattern.mask(n)
            assert abs(pattern.asked(n) - asked) < 5e-5
            mirrored = np.roll(mask[::-1], 1)
            assert math.isclose(pattern.kept(n), np.mean(mask | mirrored))
        assert abs(1 - pattern.kept(n) - really) < 0.02, (drop, pattern)


def test_natural_halves():
    """a = N_1 / 2 drops the negative frequencies: every bin but DC keeps half its weight, and the
    Nyquist bin goes."""
    weights = Pattern((2, 8), (1, 0)).weights(16)
    assert weights.tolist() == [1] + [0.5] * 7 + [0]


@pytest.mark.parametrize("n", [1, 2, 7, 12, 97])
@pytest.mark.parametrize("n_partial", [1, 2, 3, 8, 13, 500])
def test_lowpass(n, n_partial):
    """A low-pass pattern sets K[..., n_partial // 2:] = 0 in the rfft."""
    pattern = Pattern.lowpass(n_partial)
    half = np.ones(n // 2 + 1)
    half[n_partial // 2 :] = 0
    assert np.array_equal(pattern.weights(n), half)
    full = np.fft.fft(np.fft.irfft(half, n)) if n > 1 else half
    assert np.allclose(pattern.mask(n), full)
    assert math.isclose(pattern.kept(n), np.mean(pattern.mask(n)))
    assert math.isclose(pattern.asked(n) + pattern.kept(n), 1)


@pytest.mark.parametrize("n", [1, 2, 9, 16])
def test_from_mask(n):
    half = np.random.default_rng(n).random(n // 2 + 1) < 0.5
    pattern = Pattern.from_mask(half)
    assert np.array_equal(pattern.weights(n), half)
    mask = pattern.mask(n)
    assert all(mask[m] == half[min(m, n - m)] for m in range(n))
    half[...] = True  # the pattern has its own copy
    assert pattern == Pattern.from_mask(pattern.weights(n) > 0)


def test_identity():
    """Patterns are compared, hashed, copied, pickled and shown by their contents."""
    make = [
        lambda: Pattern((4, 8), (1, 2)),
        lambda: Pattern([4, 8], [1, 3]),
        lambda: Pattern((4, 8), (1, 2), order="stage"),
        lambda: Pattern.lowpass(12),
        lambda: Pattern.lowpass(13),
        lambda: Pattern.from_mask(np.arange(17) < 12),
        lambda: Pattern.from_mask(np.arange(18) < 12),
    ]
    for a, b in itertools.product(range(len(make)), repeat=2):
        x, y = make[a](), make[b]()
        assert (x == y) == (a == b) and (x != y) == (a != b)
        if a == b:
            assert hash(x) == hash(y)
            assert pickle.loads(pickle.dumps(x)) == copy.deepcopy(x) == x
    assert Pattern((4,), (1,)) != "pattern"
    assert repr(make[2]()) == "Pattern((4, 8), (1, 2), order='stage')"
    assert eval(repr(make[0]())) == make[0]()
    assert repr(Pattern.lowpass(12)) == "Pattern.lowpass(12)"
    assert "12 of 17" in repr(make[5]())
    with pytest.raises(AttributeError):
        make[0]().shape = (1,)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: Pattern((4, 8), (1,)), "drop has 1 digits, and shape has 2"),
        (lambda: Pattern((), ()), "shape is empty"),
        (lambda: Pattern(4, (1,)), "shape is 4"),
        (lambda: Pattern((4, 0), (0, 0)), "shape is 0; it must be from 1"),
        (lambda: Pattern((4, 2.0), (0, 0)), "shape is 2.0"),
        (lambda: Pattern((4, 8), (0, -1)), "drop is -1; it must be from 0"),
        (lambda: Pattern((4, 8), (0, 8)), r"drop\[1\] is 8; it must be from 0 to 7"),
        (
            lambda: Pattern((4, 8), (0, 1), "reversed"),
            "order is 'reversed'; allowed: 'natural', 'stage'",
        ),
        (
            lambda: Pattern((4, 8), (0, 1)).mask(33),
            r"pattern has shape \(4, 8\), whose product is 32; .*fft_size = 33",
        ),
        (lambda: Pattern.lowpass(0), "n_partial is 0"),
        (lambda: Pattern.lowpass(1.5), "n_partial is 1.5"),
        (lambda: Pattern.from_mask(np.ones(5)), "mask has dtype float64"),
        (lambda: Pattern.from_mask(np.ones((5, 1), bool)), r"shape \(5, 1\)"),
        (lambda: Pattern.from_mask([]), "mask has"),
        (
            lambda: Pattern.from_mask(np.ones(5, bool)).weights(12),
            "pattern has 5 bins; for fft_size = 12 there must be 7",
        ),
        (lambda: Pattern.lowpass(5).mask(0), "fft_size is 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- Convolutions -----------------------------------------------------------


def check(case, **choices):
    """A plan's results and fractions are right, and its spectrum and kernel give the same bits."""
    plan = case.plan(**choices)
    n = plan.fft_size
    pattern = plan.pattern
    assert math.isclose(plan.kept, pattern.kept(n), abs_tol=1e-12)
    assert 0 <= plan.computed <= 1
    spectrum = plan.spectrum(case.k)
    y = plan(case.u, spectrum, **case.plan_arguments)
    g = plan.backward(case.dy, case.u, spectrum, **case.plan_arguments)
    check_forward(case, y)
    check_gradients(case, g)
    assert same_bits(plan(case.u, case.k, **case.plan_arguments), y)
    for a, b in zip(plan.backward(case.dy, case.u, case.k, **case.plan_arguments), g):
        assert same_bits(a, b)
    return plan


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape,drop", BOXES, ids=str)
def test_boxes(shape, drop, order):
    n = math.prod(shape)
    for dtype, length, taps in [
        ("float64", n, n),
        ("float32", n, n),
        ("float32", n // 3, 40),
        ("float16", n, n // 2),
        ("bfloat16", n - 1, n),
    ]:
        check(
            Case(
                2,
                3,
                length,
                taps,
                dtype,
                mode="circular",
                fft_size=n,
                pattern=Pattern(shape, drop, order),
                options=ALL,
                activation="gelu",
            )
        )


@pytest.mark.pairwise
@pytest.mark.parametrize("dense", [False, True], ids=["codelet", "dense"])
@pytest.mark.parametrize("form", ["folded", "complex"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("isa", ISAS)
def test_every_path(isa, order, form, dense):
    """Every instruction set, form and kind of stage is right, in every type."""
    for (shape, drop), dtype in itertools.product(
        [((4, 4, 4, 8), (2, 2, 1, 1)), ((8, 8, 8, 16), (4, 4, 2, 2)), ((6, 5, 14), (3, 2, 5))],
        DTYPES,
    ):
        n = math.prod(shape)
        case = Case(
            2,
            2,
            n,
            n,
            dtype,
            mode="circular",
            pattern=Pattern(shape, drop, order),
            options=("in_gate",),
        )
        plan = check(case, isa=isa, form=form, dense=dense)
        assert plan.isa == isa and plan.form == form and plan.dense == dense


@pytest.mark.parametrize(
    "radices",
    [(8, 16, 16), (8, 8, 8, 4), (32, 64), (2,) * 11, (128, 16), (16, 128), (16, 4, 32)],
    ids=str,
)
@pytest.mark.parametrize("order", ORDERS)
def test_radices(order, radices):
    """The pattern's shape does not depend on the transform: any radices give its result."""
    for shape, drop in [((8, 8, 8, 16), (4, 4, 2, 2)), ((64, 128), (33, 90)), ((8192,), (8000,))]:
        case = Case(
            1,
            2,
            8192,
            8192,
            mode="circular",
            options=("skip",),
            pattern=Pattern(shape, drop, order),
        )
        plan = check(case, radices=radices, form="folded")
        assert plan.radices == radices


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30, 64, 97, 105, 256, 1009, 1024, 2310, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lowpass_conv(n, dtype):
    """Any fft_size is right: even, odd, and with primes above 7."""
    for n_partial in {1, 2, 3, n // 2, n, 2 * n + 2} - {0}:
        check(
            Case(
                2,
                2,
                n,
                max(1, n // 2),
                dtype,
                mode="circular",
                pattern=Pattern.lowpass(n_partial),
                options=("out_gate",),
            )
        )


@pytest.mark.parametrize("n", [2, 9, 64, 210, 209, 1024, 4096])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_masks(n, share):
    """Any boolean mask may be given as an array; it may keep no bin or every bin."""
    half = np.random.default_rng(n).random(n // 2 + 1) < share
    for dtype in ("float64", "float32"):
        case = Case(
            2, 3, n, n, dtype, mode="circular", pattern=half, options=ALL, activation="silu"
        )
        check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
        check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))
        assert check(case).pattern == Pattern.from_mask(half)


def test_nothing_kept():
    """Where all bins are removed only the skip remains."""
    case = Case(2, 3, 64, 64, mode="circular", options=("skip",), pattern=np.zeros(33, bool))
    y = fftconv.conv(case.u, case.k, **case.arguments)
    assert np.allclose(y, case.operands["skip"][:, None] * case.u, rtol=1e-6, atol=1e-6)
    g = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    assert np.abs(g.dk).max() < 1e-5


def test_all_kept_is_dense():
    for n in (64, 105, 97):
        case = Case(2, 3, n, n, mode="circular", pattern=np.ones(n // 2 + 1, bool))
        y = fftconv.conv(case.u, case.k, **case.arguments)
        check_forward(case, y, reference.conv(case.u, case.k, mode="circular"))


@pytest.mark.parametrize("n", [11, 13, 97, 11 * 16, 1009, 2 * 1009])
@pytest.mark.parametrize("dtypes", k_dtypes(), ids="-".join)
def test_other_primes(n, dtypes):
    """Where fft_size has a prime factor above 7, k is filtered before the convolution."""
    half = np.random.default_rng(n).random(n // 2 + 1) < 0.4
    for pattern, kernels, length, taps in [
        (half, None, n, n),
        (Pattern.lowpass(n // 2), (), n, 5),
        (Pattern((n,), (n // 2,)), (2, 2), n - 1, n // 2),
    ]:
        check(
            Case(
                2,
                4,
                length,
                taps,
                dtypes[0],
                k_dtype=dtypes[1],
                mode="circular",
                fft_size=n,
                pattern=pattern,
                kernels=kernels,
                options=ALL,
                activation="gelu",
            )
        )


@pytest.mark.parametrize("order", ORDERS)
def test_counters_fall(order):
    """Bins that are removed are not computed: the more of them, the fewer flops."""
    shape, drops = (
        (16, 16, 16, 32),
        [(0, 0, 0, 0), (8, 0, 0, 0), (8, 8, 0, 0), (8, 8, 2, 2), (8, 8, 4, 4), (8, 8, 8, 8)],
    )
    n = math.prod(shape)
    dense = fftconv.Plan((1, 1, n), (1, n), mode="circular")
    plans = [
        fftconv.Plan((1, 1, n), (1, n), mode="circular", pattern=Pattern(shape, drop, order))
        for drop in drops
    ]
    flops = [plan.counters.flops for plan in plans]
    assert all(a <= 1.001 * dense.counters.flops for a in flops)
    assert all(b <= 1.001 * a for a, b in zip(flops, flops[1:])), flops
    assert all(plan.kept - 1e-3 <= plan.computed <= 1 for plan in plans)
    assert dense.kept == dense.computed == 1
    if order == "stage":  # half of the bins or more are not computed
        assert flops[2] < 0.8 * flops[0] and flops[5] < 0.8 * flops[0]
        assert plans[2].computed < 0.6


def test_lowpass_counters():
    n = 1 << 14
    plans = [
        fftconv.Plan((1, 1, n), (1, n), mode="circular", pattern=Pattern.lowpass(n >> shift))
        for shift in range(6)
    ]
    dense = fftconv.Plan((1, 1, n), (1, n), mode="circular").counters.flops
    flops = [plan.counters.flops for plan in plans]
    assert all(b <= a <= 1.001 * dense for a, b in zip(flops, flops[1:]))
    for shift, plan in enumerate(plans):
        assert abs(plan.kept - 2.0**-shift) < 1e-3


# ---- Spectra ----------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 97])
def test_plan_replaced(n):
    """plan.replace(pattern=) makes a new plan with the same other choices."""
    dense = Case(2, 3, n, n, mode="circular", options=ALL)
    plan = dense.plan(threads=2, isa=ISAS[0])
    pattern = Pattern.lowpass(n // 3)
    case = Case(2, 3, n, n, mode="circular", options=ALL, pattern=pattern)
    other = plan.replace(pattern=pattern)
    spectrum = other.spectrum(case.k)
    assert other is not plan and other.pattern == pattern and spectrum.plan is other
    assert (other.threads, other.isa, other.fft_size) == (2, ISAS[0], n)
    assert plan.replace(pattern=pattern) is not other
    assert plan.replace(u_shape=(5, 3, n), threads=1).u_shape == (5, 3, n)
    with pytest.raises(TypeError, match="patern"):
        plan.replace(patern=pattern)
    y = other(case.u, spectrum, **case.plan_arguments)
    check_forward(case, y)
    check_gradients(case, other.backward(case.dy, case.u, spectrum, **case.plan_arguments))
    # The first plan does not take the new plan's spectrum, and has not changed.
    for call in (
        lambda: plan(case.u, spectrum, **case.plan_arguments),
        lambda: plan.backward(case.dy, case.u, spectrum, **case.plan_arguments),
    ):
        with pytest.raises(ValueError, match="this plan's pattern is None"):
            call()
    # A boolean array is a pattern too, and the first plan still works.
    half = np.arange(n // 2 + 1) < n // 6
    again = plan.replace(pattern=half)
    assert same_bits(again(case.u, again.spectrum(case.k), **case.plan_arguments), y)
    assert plan.pattern is None and other.replace(pattern=None).pattern is None
    assert repr(pattern) in repr(spectrum) and repr(pattern) in repr(other)
    check_forward(dense, plan(dense.u, plan.spectrum(dense.k), **dense.plan_arguments))


def test_spectrum_of_another_pattern():
    """A spectrum of another pattern is refused by name, and nothing is written."""
    case = Case(1, 2, 64, 64, mode="circular")
    plans = [
        case.plan(),
        case.plan(pattern=Pattern.lowpass(20)),
        case.plan(pattern=Pattern.lowpass(21)),
        case.plan(pattern=Pattern.lowpass(30)),
    ]
    for plan, other in itertools.permutations(plans, 2):
        spectrum = other.spectrum(case.k)
        out = np.full_like(case.u, 7)
        with pytest.raises(ValueError, match="spectrum.*pattern"):
            plan(case.u, spectrum, out=out)
        assert np.all(out == 7)
        with pytest.raises(ValueError, match="spectrum"):
            plan.backward(case.dy, case.u, spectrum)


@pytest.mark.parametrize("order", ORDERS)
def test_primitives(order):
    case = Case(2, 3, 512, 512, mode="circular", pattern=Pattern((8, 8, 8), (4, 4, 2), order))
    plan = case.plan(single_block=True)
    s = plan.multiply(plan.spectrum(case.k), plan.rows_to_spectra(case.u))
    check_forward(case, plan.spectra_to_rows(s))


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_left_out_is_zero(isa):
    """Real rows in complex form leave out conjugates.  In a spectrum these are zeros, whatever its
    memory held before."""
    for n in 64, 256, 1024:
        case = Case(2, 3, n, n, mode="circular", pattern=Pattern.lowpass(n // 2))
        plan = case.plan(form="complex", single_block=True, isa=isa)
        s = plan.rows_to_spectra(case.u)
        for _ in range(3):
            held = [
                np.full(plan.counters.spectrum_bytes // 4 + 16 * i, np.nan, np.float32)
                for i in range(-1, 3)
                for _ in range(4)
            ]
            del held
            product = plan.multiply(plan.spectrum(case.k), s)
            assert np.isfinite(product).all()
        check_forward(case, plan.spectra_to_rows(product))


@pytest.mark.parametrize("kernels", [(), (2,), (1, 4), (3, 1), (3, 2), (3, 4)], ids=str)
def test_kernel_shapes(kernels):
    check(
        Case(
            3,
            4,
            512,
            512,
            mode="circular",
            kernels=kernels,
            pattern=Pattern((4, 4, 4, 8), (2, 2, 1, 1), "stage"),
            options=ALL,
        )
    )


@pytest.mark.parametrize("n", [1 << 16, 4096])
@pytest.mark.parametrize("order", ORDERS)
def test_threads(order, n):
    """Any number of threads gives the same bits, in place too."""
    case = Case(
        *((1, 1) if n > 10000 else (3, 2)),
        n,
        n,
        mode="circular",
        pattern=Pattern((8, 8, n // 64), (4, 4, n // 128), order),
        options=ALL,
    )
    want = None
    for threads in (1, 2, 3, 7):
        plan = case.plan(threads=threads)
        u = case.u.copy()
        got = [
            plan(case.u, case.k, **case.plan_arguments),
            plan(u, case.k, **case.plan_arguments, out=u),
            *plan.backward(case.dy, case.u, case.k, **case.plan_arguments),
        ]
        want = want or got
        for a, b in zip(got, want):
            assert same_bits(a, b), threads


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.data())
def test_anything(shape, data):
    n = math.prod(shape)
    drop = [data.draw(st.integers(0, s - 1)) for s in shape]
    case = Case(
        2,
        2,
        data.draw(st.integers(1, n)),
        data.draw(st.integers(1, n)),
        data.draw(st.sampled_from(DTYPES)),
        mode="circular",
        fft_size=n,
        pattern=Pattern(shape, drop, data.draw(st.sampled_from(ORDERS))),
        options=data.draw(st.sets(st.sampled_from(ALL))),
    )
    check_forward(case, fftconv.conv(case.u, case.k, **case.arguments))
    check_gradients(case, fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments))


@big
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("drop", PAPER[1], ids=str)
def test_big(drop, order):
    """The paper's patterns are right at the paper's size, N = 2M."""
    shape = PAPER[0]
    n = math.prod(shape)
    check(Case(1, 1, n, n, mode="circular", pattern=Pattern(shape, drop, order)))
