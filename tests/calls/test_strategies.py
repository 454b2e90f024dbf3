"""opt_ssm_forward and fft_conv: the document's example, every strategy compared with the
definition, and a test for each fault of the original."""

import ctypes
import tracemalloc
import warnings

import fftconv
import numpy as np
import pytest
from fftconv import _lib
from fftconv.lrnnx import (
    fft_conv,
    machine,
    opt_ssm_backward,
    opt_ssm_forward,
    strategy_costs,
    upstream_strategy,
)
from fftconv.strategies import ORDERS  # what runs each order, to see which is chosen
from support import same_bits, slow

STRATEGIES = ("auto", "upstream", 1, 2, 3)
LIMIT = {"float64": 1e-13, "float32": 3e-6}


def definition(x, K, B_, C, real=True):
    """y[t] = sum_n C sum_j K[n, j] B_ x[t - j] with K (N, Lk), in float64."""
    x, K, B_, C = (a.astype(np.result_type(a, np.float64)) for a in (x, K, B_, C))
    u = np.einsum("bli,ni->bnl", x, B_)
    v = np.zeros(u.shape, np.result_type(u, K))
    for j in range(min(K.shape[1], x.shape[1])):
        v[..., j:] += K[None, :, j, None] * u[..., : u.shape[-1] - j]
    y = np.einsum("bnl,on->blo", v, C)
    return y.real if real else y


def random(rng, shape, dtype, is_complex=False):
    x = rng.standard_normal(shape)
    if is_complex:
        x = x + 1j * rng.standard_normal(shape)
        return x.astype(np.result_type(dtype, np.complex64))
    return x.astype(dtype)


def operands(rng, batch, length, inputs, outputs, states, taps=None, dtype="float64", kinds=""):
    """x, K (N, Lk), B_ and C; kinds names the complex ones of x, K, B, C."""
    shapes = {
        "x": (batch, length, inputs),
        "K": (states, taps or length),
        "B": (states, inputs),
        "C": (outputs, states),
    }
    scale = {"x": 1, "K": (taps or length) ** -0.5, "B": inputs**-0.5, "C": states**-0.5}
    return [
        random(rng, shape, dtype, name in kinds) * np.dtype(dtype).type(scale[name])
        for name, shape in shapes.items()
    ]


def check(y, want, dtype):
    assert y.dtype == dtype and y.shape == want.shape
    assert np.isfinite(y).all()
    error = np.max(np.abs(y - want)) / np.max(np.abs(want))
    assert error < LIMIT[dtype], error


def test_document_example():
    """The document's low-level usage, with K (L, N), runs; in the original it ends in a
    RuntimeError."""
    B, L, H, N = 32, 1024, 64, 128
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, L, H))
    K = rng.standard_normal((L, N))
    B_ = rng.standard_normal((N, H))
    C = rng.standard_normal((H, N))

    output = opt_ssm_forward(x, K, B_, C)  # (B, L, H)
    assert output.shape == (B, L, H)
    check(output[:1], definition(x[:1], K.T, B_, C), "float64")


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "batch, length, inputs, outputs, states",
    [
        (1, 1, 1, 1, 1),
        (2, 17, 3, 5, 4),
        (3, 64, 8, 2, 64),
        (8, 33, 16, 16, 5),
        (32, 40, 4, 4, 16),
        (2, 101, 5, 3, 101),
    ],
)
def test_strategies(strategy, batch, length, inputs, outputs, states, dtype, rng):
    x, K, B_, C = operands(rng, batch, length, inputs, outputs, states, dtype=dtype)
    want = definition(x, K, B_, C)
    for layout, k in ("NL", K), ("LN", np.ascontiguousarray(K.T)):
        check(opt_ssm_forward(x, k, B_, C, strategy=strategy, k_layout=layout), want, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "kinds", ["", "K", "B", "C", "KB", "KC", "BC", "KBC", "x", "xK", "xBC", "xKBC"]
)
@pytest.mark.parametrize("dtype", LIMIT)
def test_complex_operands(order, kinds, dtype, rng):
    """Every mixture of real and complex operands is right, at shapes where each of the original's
    branches fails: S1 and S2 with wrong types, Centaurus' complex C from batch 3 on."""
    arrays = operands(rng, 3, 40, 3, 4, 5, dtype=dtype, kinds=kinds)
    y = opt_ssm_forward(*arrays, strategy=order, k_layout="NL")
    check(y, definition(*arrays), dtype)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("taps", [1, 7, 29, 30, 31, 32, 45, 60, 61, 90])
def test_any_kernel_length(strategy, taps, rng):
    """Kernels may be shorter than L, as long, longer and far longer; in the original they wrap from
    L + 2 on."""
    x, K, B_, C = operands(rng, 3, 30, 2, 3, 4, taps)
    check(opt_ssm_forward(x, K, B_, C, strategy=strategy), definition(x, K, B_, C), "float64")


@pytest.mark.parametrize("order", ORDERS)
def test_blocks(order, rng, monkeypatch):
    """Small blocks of the batch, of kernels and of inputs give the same result.  Their sizes are
    set inside the module."""
    arrays = operands(rng, 6, 50, 5, 7, 3, kinds="KBC")
    monkeypatch.setattr(fftconv.strategies, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(fftconv.strategies, "ROWS_BYTES", 9000)
    for kinds in arrays, [a.real for a in arrays]:
        y = opt_ssm_forward(*kinds, strategy=order, k_layout="NL")
        check(y, definition(*kinds), "float64")


def test_layout_of_k(rng):
    """The layout of K is found from its shape.  Where L = N, it is that of the original's
    code, with a warning, or the one that k_layout names."""
    x, K, B_, C = operands(rng, 2, 12, 3, 3, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(opt_ssm_forward(x, K, B_, C, k_layout="NL"), definition(x, K, B_, C), "float64")
        check(opt_ssm_forward(x, K, B_, C, k_layout="LN"), definition(x, K.T, B_, C), "float64")
        opt_ssm_forward(x, K[:, :11], B_, C)
    with pytest.warns(UserWarning, match=r"K has shape \(12, 12\), with L = N"):
        y = opt_ssm_forward(x, K, B_, C)
    check(y, definition(x, K, B_, C), "float64")


def test_kernels_themselves(rng):
    """The kernels themselves, K (L, H_out, H_in), are taken, which no path of the original does."""
    x = rng.standard_normal((2, 20, 3))
    K = rng.standard_normal((20, 4, 3))
    want = sum(
        np.einsum("bli,oi->blo", np.pad(x, ((0, 0), (j, 0), (0, 0)))[:, :20], K[j])
        for j in range(20)
    )
    check(opt_ssm_forward(x, K, None, None), want, "float64")
    check(opt_ssm_forward(x, K + 1j, None, None), want, "float64")
    longer = np.concatenate([K, np.ones((30, 4, 3))])
    check(opt_ssm_forward(x, longer, None, None), want, "float64")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dtypes(strategy, rng):
    """The result has the widest precision; 16-bit operands are computed in float32."""
    x, K, B_, C = operands(rng, 2, 30, 3, 3, 4)
    want = definition(x, K, B_, C)
    half = [a.astype("f2") for a in (x, K, B_, C)]
    y = opt_ssm_forward(*half, strategy=strategy)
    assert y.dtype == np.float16
    assert np.max(np.abs(y - want)) < 1e-2 * np.max(np.abs(want))
    single = [a.astype("f4") for a in (x, K, B_, C)]
    assert opt_ssm_forward(*half[:3], single[3], strategy=strategy).dtype == np.float32
    assert opt_ssm_forward(x.astype("f4"), K, *single[2:], strategy=strategy).dtype == np.float64


def test_torch_goes_in_and_out(rng):
    torch = pytest.importorskip("torch")
    arrays = operands(rng, 2, 30, 3, 3, 4)
    y = opt_ssm_forward(*map(torch.from_numpy, arrays))
    assert isinstance(y, torch.Tensor)
    check(y.numpy(), definition(*arrays), "float64")


def test_threads(rng):
    arrays = operands(rng, 4, 500, 6, 6, 8, dtype="float32")
    for strategy in 1, 2, 3:
        one = opt_ssm_forward(*arrays, strategy=strategy, threads=1)
        for threads in 2, 3:
            check(opt_ssm_forward(*arrays, strategy=strategy, threads=threads), one, "float32")


# ---- The choice ---------------------------------------------------------------


def test_upstream_rule():
    for (B, I, O, N), want in {
        (32, 64, 64, 128): 3,
        (32, 128, 128, 256): 3,
        (1, 256, 256, 64): 2,
        (64, 16, 16, 256): 1,
        (8, 4, 4, 16): 1,
        (2, 4, 4, 16): 3,
        (8, 4, 4, 15): 3,
        (4, 8, 8, 4): 2,
        (2, 2, 2, 2): 2,
    }.items():
        assert upstream_strategy(B, I, O, N) == want, (B, I, O, N)
    # The kernels are made first where that takes fewer products.
    for B, I, O, N in np.random.default_rng(0).integers(1, 300, (200, 4)).tolist():
        kernels, projections = I * O * (N + B), B * N * (I + O)
        if kernels < 0.999 * projections:
            assert upstream_strategy(B, I, O, N) == (1 if I * O <= N else 3)
        elif kernels > 1.001 * projections:
            assert upstream_strategy(B, I, O, N) == (2 if N <= I else 3)


def test_upstream_runs_its_rule(rng, monkeypatch):
    ran = []
    for order, run in ORDERS.items():
        monkeypatch.setitem(
            ORDERS, order, lambda *a, run=run, order=order: (ran.append(order), run(*a))
        )
    for shape in (8, 30, 4, 4, 16), (1, 30, 8, 8, 4), (2, 30, 4, 4, 16):
        opt_ssm_forward(*operands(rng, *shape), strategy="upstream")
    assert [r[0] for r in ran] == ["1", "2", "3"]


@pytest.mark.parametrize("is_complex", [False, True])
def test_auto_is_the_cheapest(is_complex, rng, monkeypatch):
    ran = []
    for order, run in ORDERS.items():
        monkeypatch.setitem(
            ORDERS, order, lambda *a, run=run, order=order: (ran.append(order), run(*a))
        )
    for shape in (32, 50, 2, 2, 64), (1, 200, 32, 32, 8), (2, 50, 3, 3, 64):
        arrays = operands(rng, *shape, dtype="float32", kinds="KBC" if is_complex else "")
        opt_ssm_forward(*arrays)
        costs = strategy_costs(*shape, is_complex=is_complex)
        assert ran[-1] == min(costs, key=lambda o: costs[o].seconds)


def test_flops_of_the_document_shape():
    """The flops of each order, counted by hand as 2BLN(H_in + H_out) and so on, plus the planner's
    flops for the transforms."""
    costs = strategy_costs(32, 1024, 64, 64, 128)
    assert set(costs) == set(ORDERS)
    gemm = {
        "1": 2 * 1024 * 128 * 64**2 + 8 * 1024 * 32 * 64**2,
        "2": 2 * 32 * 1024 * 128 * 128 + 6 * 1024 * 32 * 128,
        "3 projections": 4 * 1024 * 32 * 128 * 128 + 6 * 1024 * 32 * 128,
        "3 kernels": 4 * 1024 * 128 * 64**2 + 8 * 1024 * 32 * 64**2,
    }
    rows = {
        "1": 64 * 64 + 32 * 128,
        "2": 128 + 2 * 32 * 128,
        "3 projections": 128 + 32 * 128,
        "3 kernels": 128 + 32 * 128,
    }
    for order, cost in costs.items():
        transforms = (cost.flops - gemm[order]) / rows[order]
        assert 0.5 < transforms / (2.5 * 2048 * 11) < 1.2, order
        assert cost.seconds > 0


@slow
@pytest.mark.parametrize("shape", [(16, 2048, 16, 16, 64), (4, 4096, 64, 64, 32)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kinds", ["", "KBC"])
def test_memory_is_the_model_s(shape, order, kinds, rng):
    """The memory beside operands and result is what the cost model says, and far below (B, F, N,
    H)."""
    arrays = operands(rng, *shape, dtype="float32", kinds=kinds)
    options = dict(strategy=order, k_layout="NL", threads=1)
    y = opt_ssm_forward(*arrays, **options)  # makes the plans
    tracemalloc.start()
    opt_ssm_forward(*arrays, **options)
    peak = tracemalloc.get_traced_memory()[1] - y.nbytes
    tracemalloc.stop()
    costs = strategy_costs(
        *shape, is_complex=bool(kinds), threads=1, hardware=machine("float32", 1)
    )
    model = costs[order].memory_bytes
    if order == "2":  # plus what the library allocates itself
        length = shape[1]
        row = fftconv.Plan(
            (1, 1, length),
            (1, 1, length),
            dtype="complex64" if kinds else "float32",
            form=None if kinds else "right_angle",
            single_block=True,
        )
        peak += row.counters.spectra_row_bytes * shape[4]
    assert 0.9 * model < peak < 1.1 * model
    B, L, H, _, N = shape
    assert peak < B * L * N * H * 8 / 4


# ---- Gradients ----------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["", "KBC", "C", "xKBC", "B"])
@pytest.mark.parametrize("taps", [20, 7, 33])
def test_gradients(kinds, taps, rng):
    names = ("x", "K", "B_", "C")
    arrays = operands(rng, 3, 20, 4, 3, 5, taps, kinds=kinds)
    for layout in "NL", "LN":
        if layout == "LN":
            arrays[1] = np.ascontiguousarray(arrays[1].T)
        g = rng.standard_normal((3, 20, 3))
        got = opt_ssm_backward(g, *arrays)
        for i, (name, a) in enumerate(zip(names, arrays)):
            d = getattr(got, "d" + name)
            assert d.shape == a.shape and d.dtype == a.dtype
            way = random(rng, a.shape, "f8", np.iscomplexobj(a))
            ends = []
            for side in 1e-5, -1e-5:  # bilinear: exact but for rounding
                moved = list(arrays)
                moved[i] = a + side * way
                ends.append(np.sum(g * opt_ssm_forward(*moved, strategy=2)))
            want = (ends[0] - ends[1]) / 2e-5
            assert np.sum((d.conj() * way).real) == pytest.approx(want, rel=1e-6, abs=1e-7), name


def test_gradients_of_kernels(rng):
    x, K = rng.standard_normal((2, 20, 3)), rng.standard_normal((25, 4, 3))
    g = rng.standard_normal((2, 20, 4))
    got = opt_ssm_backward(g, x, K, None, None)
    assert got.dB_ is None and got.dC is None
    for a, d in (x, got.dx), (K, got.dK):
        way = rng.standard_normal(a.shape)
        want = np.sum(g * opt_ssm_forward(*(way if b is a else b for b in (x, K)), None, None))
        assert d.shape == a.shape
        assert np.sum(d * way) == pytest.approx(want, rel=1e-10)


def test_wanted_gradients(rng):
    arrays = operands(rng, 2, 20, 3, 4, 5, dtype="float32")
    g = rng.standard_normal((2, 20, 4)).astype("f4")
    every = opt_ssm_backward(g, *arrays)
    some = opt_ssm_backward(g, *arrays, needs=("K", "C"))
    assert some.dx is None and some.dB_ is None
    assert same_bits(some.dK, every.dK) and same_bits(some.dC, every.dC)
    with pytest.raises(ValueError, match="needs names 'D'"):
        opt_ssm_backward(g, *arrays, needs=("D",))
    with pytest.raises(ValueError, match="dy has shape"):
        opt_ssm_backward(g[:, :9], *arrays)
    with pytest.raises(ValueError, match="dtype float64"):
        opt_ssm_backward(g.astype("f8"), *arrays)


# ---- fft_conv -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("taps", [9, 30, 50])
@pytest.mark.parametrize("x_complex", [False, True])
@pytest.mark.parametrize("k_complex", [False, True])
def test_fft_conv(dtype, taps, x_complex, k_complex, rng):
    """One kernel that mixes channels, or one for each channel, with its axes in any order, gives
    the real part or the complex result, in float32 and float64."""
    x = random(rng, (2, 30, 3), dtype, x_complex)
    k = random(rng, (taps, 4, 3), dtype, k_complex) * np.dtype(dtype).type(0.1)
    wide = np.zeros((2, 30, 4), complex)
    for j in range(min(taps, 30)):
        wide[:, j:] += np.einsum("bli,oi->blo", x[:, : 30 - j], k[j])
    each = np.zeros((2, 30, 3), complex)
    for j in range(min(taps, 30)):
        each[:, j:] += x[:, : 30 - j] * k[j, 0]
    for equation, kernel, want in (
        ("bli,loi->blo", k, wide),
        ("bli, oil -> blo", k.transpose(1, 2, 0), wide),
        ("atc,dct->atd", k.transpose(1, 2, 0), wide),
        ("bln,ln->bln", k[:, 0], each),
        ("bln,nl->bln", k[:, 0].T, each),
    ):
        check(fft_conv(equation, x, kernel), want.real, dtype)
        y = fft_conv(equation, x, kernel, real=False)
        assert y.dtype == np.result_type(dtype, np.complex64)
        assert np.max(np.abs(y - want)) < LIMIT[dtype] * np.max(np.abs(want))


def test_fft_conv_one_kernel_for_all(rng):
    x, k = rng.standard_normal((2, 30, 3)), rng.standard_normal(30)
    y = fft_conv("bln,l->bln", x, k)
    for c in range(3):
        np.testing.assert_allclose(y[0, :, c], np.convolve(x[0, :, c], k)[:30], atol=1e-12)


@pytest.mark.parametrize("kinds", ["", "KBC", "C", "x"])
def test_fft_conv_with_projections(kinds, rng):
    """K, B and C are told apart by the equation's letters; the original crashes on float64."""
    for dtype in LIMIT:
        x, K, B_, C = operands(rng, 3, 24, 2, 3, 5, dtype=dtype, kinds=kinds)
        want = definition(x, K, B_, C, real=False)
        for equation, args in (
            ("blh,nl,nh,on->blo", (K, B_, C)),
            ("blh,ln,nh,on->blo", (K.T, B_, C)),
            ("blh,ln,hn,no->blo", (K.T, B_.T, C.T)),
        ):
            check(fft_conv(equation, x, *args), want.real, dtype)
            y = fft_conv(equation, x, *args, real=False)
            assert y.dtype == np.result_type(dtype, np.complex64)
            assert np.max(np.abs(y - want)) < LIMIT[dtype] * np.max(np.abs(want))


# ---- Bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"x": np.ones((2, 8))}, r"x has shape \(2, 8\); it must be \(B, L, H_in\)"),
        ({"x": np.ones((0, 8, 3))}, r"x has shape \(0, 8, 3\)"),
        ({"x": np.ones((2, 0, 3))}, r"x has shape \(2, 0, 3\)"),
        ({"B_": np.ones((5, 4))}, r"B_ has shape \(5, 4\).*H_in = 3"),
        ({"B_": np.ones(5)}, r"B_ has shape \(5,\)"),
        ({"C": np.ones((4, 6))}, r"C has shape \(4, 6\).*N = 5"),
        ({"K": np.ones((8, 6))}, r"K has shape \(8, 6\).*N = 5"),
        ({"K": np.ones((8, 0))}, r"K has shape \(8, 0\)"),
        ({"K": np.ones(8)}, r"K has shape \(8,\)"),
        ({"K": np.ones((8, 4, 3))}, "B_ is given; with K of"),
        ({"k_layout": "NL"}, r"its axis N must be 5"),
        ({"k_layout": "LH"}, "k_layout is 'LH'"),
        ({"strategy": 4}, "strategy is 4"),
        ({"strategy": True}, "strategy is True"),
        ({"strategy": "best"}, "strategy is 'best'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_input(change, words):
    good = {
        "x": np.ones((2, 8, 3)),
        "K": np.ones((8, 5)),
        "B_": np.ones((5, 3)),
        "C": np.ones((4, 5)),
    }
    with pytest.raises(ValueError, match=words):
        opt_ssm_forward(**{**good, **change})


@pytest.mark.parametrize(
    "x, K, B_, C, words",
    [
        ((2, 8), (8, 4, 3), None, None, "x has shape"),
        ((2, 8, 3), (8, 4, 2), None, None, r"K has shape \(8, 4, 2\).*H_in = 3"),
        ((2, 8, 3), (8, 4, 3), None, (4, 5), "C is given"),
    ],
)
def test_bad_kernels(x, K, B_, C, words):
    with pytest.raises(ValueError, match=words):
        opt_ssm_forward(*(a and np.ones(a) for a in (x, K, B_, C)))


@pytest.mark.parametrize(
    "equation, shapes, words",
    [
        (7, [(2, 8, 3), (8, 3)], "equation is 7; it must be a str"),
        ("bln,ln", [(2, 8, 3), (8, 3)], "it must be a str such as"),
        ("bln,ln->bln", [(2, 8, 3)], "it has 2 operands and 1 are given"),
        ("bln,ln,nh->blh", [(2, 8, 3), (8, 3), (3, 3)], "it has 3 operands"),
        ("bln,ln->bln", [(2, 8, 3), (8, 3), (3, 3)], "2 operands and 3 are given"),
        ("bln,lnn->bln", [(2, 8, 3), (8, 3, 3)], "none of them twice"),
        ("bln,l1->bln", [(2, 8, 3), (8, 3)], "must be letters"),
        ("bln,ln->bnl", [(2, 8, 3), (8, 3)], "first two, batch and time"),
        ("bln,ln->bl", [(2, 8, 3), (8, 3)], "three letters"),
        ("bln,ln->bln", [(2, 8), (8, 3)], r"input has shape \(2, 8\)"),
        ("bln,ln->bln", [(2, 8, 3), (8, 4)], r"kernel has shape \(8, 4\).*'n' must be 3"),
        ("bli,lo->blo", [(2, 8, 3), (8, 4)], "the kernel must have the letters"),
        ("bln,bln->bln", [(2, 8, 3), (2, 8, 3)], "the kernel must have"),
        ("blh,nm,nh,on->blo", [(2, 8, 3), (5, 8), (5, 3), (4, 5)], "K must have"),
        ("blh,nl,nh,oh->blo", [(2, 8, 3), (5, 8), (5, 3), (4, 3)], "K must have"),
        (
            "blh,nl,nh,on->blo",
            [(2, 8, 3), (5, 8), (5, 3), (4, 6)],
            r"C has shape \(4, 6\).*'n' must be 5",
        ),
    ],
)
def test_bad_equations(equation, shapes, words):
    """A wrong equation is refused with a message of its own, not with einsum's."""
    arrays = [np.ones(s) for s in shapes]
    with pytest.raises(ValueError, match=words):
        fft_conv(equation, *arrays)


@pytest.mark.parametrize(
    "change, words", [({"inputs": 0}, "inputs is 0"), ({"dtype": "float16"}, "dtype is 'float16'")]
)
def test_bad_costs(change, words):
    with pytest.raises(ValueError, match=words):
        strategy_costs(**{**dict(batch=1, length=8, inputs=2, outputs=2, states=2), **change})


def test_imaginary_projections_need_complex_plans():
    """A complex matrix needs a complex plan: spectra of a real plan leave out conjugates, which
    would be other numbers after an imaginary matrix."""
    plan = fftconv.Plan(
        (1, 1, 64), (1, 64), dtype="float64", mode="circular", form="complex", single_block=True
    )
    s = plan.rows_to_spectra(np.ones((1, 1, 64)))
    out = np.full_like(s, np.nan)
    B, C = np.array([0.0, 1]), np.array([1.0, 0])
    c = _lib.ProjectionDesc(
        size=ctypes.sizeof(_lib.ProjectionDesc),
        batch=1,
        inputs=1,
        states=1,
        outputs=1,
        in_=s.ctypes.data,
        kernels=s.ctypes.data,
        B=B.ctypes.data,
        C=C.ctypes.data,
        out=out.ctypes.data,
        imaginary=1,
    )
    with pytest.raises(ValueError, match="imaginary is 1, must be 0, or 1"):
        _lib.lib.fftconv_project(plan._handle, ctypes.byref(c))
    assert np.isnan(out).all()
