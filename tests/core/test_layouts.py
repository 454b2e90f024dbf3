"""Layouts: any order of the axes and any strides, of every operand and result, give the bits of
dense (B, H, L) arrays, without copies of whole tensors."""

import itertools

import fftconv
import numpy as np
import pytest
from fftconv._view import View  # results in memory that the test lays out
from hypothesis import given
from hypothesis import strategies as st
from support import COMPLEX, DTYPES, Case, check_forward, same_bits

ISAS = fftconv.isas()
GATES = ("in_gate", "out_gate")
ALL = GATES + ("skip", "mask")
MODES = ["causal", "circular", "two_sided"]
ORDERS = [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 1, 2)]
GUARD = 77


def room(shape, order, steps, dtype):
    """An array of this shape inside a larger one full of GUARD.  Its axes lie in memory in the
    given order, `steps` elements apart, some of them backwards."""
    big = [2 + 3 * abs(s) + (n - 1) * abs(s) + 1 for n, s in zip(shape, steps)]
    base = np.full([big[axis] for axis in order], GUARD, dtype)
    view = base.transpose(np.argsort(order))
    view = view[tuple(slice(2, 2 + (n - 1) * abs(s) + 1, abs(s)) for n, s in zip(shape, steps))]
    view = view[tuple(slice(None, None, -1 if s < 0 else 1) for s in steps)]
    assert view.shape == tuple(shape)
    return base, view


def laid_out(x, order, steps=(1, 1, 1)):
    """A copy of x that is laid out in this way."""
    view = room(x.shape, order, steps, x.dtype)[1]
    view[...] = x
    return view


def untouched(base, view):
    """True where nothing of `base` outside of `view` was written to."""
    marked = np.zeros(base.shape, bool)
    start = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    item = base.itemsize
    np.lib.stride_tricks.as_strided(
        marked.reshape(-1)[start // item :], view.shape, [s // item for s in view.strides]
    )[...] = True
    return np.all(base[~marked] == np.asarray(GUARD, base.dtype))


def results(case, plan=None):
    """y and the gradients for dense operands."""
    plan = plan or case.plan()
    return [
        plan(case.u, case.k, **case.kernel_arguments),
        *plan.backward(case.dy, case.u, case.k, **case.kernel_arguments),
    ]


def strided_results(monkeypatch):
    """Makes the library write every result into strided memory between guards; returns the list of
    (base, view) to check afterwards."""
    written, kinds = (
        [],
        itertools.cycle(itertools.product(ORDERS[:5], [(1, 1, 1), (2, -1, 3), (-1, 1, -2)])),
    )

    def empty(shape, dtype, kind):
        full = (1,) * (3 - len(shape)) + tuple(shape)
        base, view = room(full, *next(kinds), np.dtype(dtype))
        view = view.reshape(shape) if len(shape) == 3 else view[(0,) * (3 - len(shape))]
        assert np.shares_memory(base, view)
        written.append((base, view))
        strides = tuple(s // view.itemsize for s in view.strides)
        return view, View(
            view.__array_interface__["data"][0], dtype, tuple(shape), strides, view, kind
        )

    monkeypatch.setattr(fftconv._array, "empty", empty)
    return written


STEPS = [(1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, -1), (-1, -3, 1)]


@pytest.mark.pairwise
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
@pytest.mark.parametrize(
    "mode, taps",
    [("causal", 150), ("causal", 9), ("circular", 150), ("circular", 9), ("two_sided", 20)],
)
@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order(order, dtype, mode, taps, channels, monkeypatch):
    """Operands in one layout and results in all of them give the dense bits, in one block and in
    several, with fewer channels than a tile has, as many, and more."""
    case = Case(
        2,
        channels,
        150,
        taps,
        dtype,
        mode=mode,
        options=ALL,
        activation=None if dtype in COMPLEX else "gelu",
    )
    choices = [{}] if taps > 100 else [{}, dict(radices=(4, 16))]
    for choice in choices:
        plan = case.plan(**choice)
        want = results(case, plan)
        steps = STEPS[channels % len(STEPS)]
        u, dy = (laid_out(x, order, steps) for x in (case.u, case.dy))
        at = {**case.kernel_arguments}
        for name in GATES:
            at[name] = laid_out(at[name], order, steps)
        with monkeypatch.context() as patch:
            written = strided_results(patch)
            got = [plan(u, case.k, **at), *plan.backward(dy, u, case.k, **at)]
        for a, b in zip(got, want):
            assert same_bits(a, b)
        for base, view in written:
            assert untouched(base, view)


@pytest.mark.parametrize("steps", STEPS[1:], ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_out(mode, order, steps):
    """out, which may be u, is written where it lies, and nothing beside it is."""
    for length, taps, choices in ((200, 200, {}), (600, 11, dict(radices=(4, 16)))):
        case = Case(3, 18, length, taps, "float32", mode=mode, options=ALL)
        plan = case.plan(**choices)
        want = plan(case.u, case.k, **case.kernel_arguments)
        for in_place in (False, True):
            base, out = room(case.u.shape, order, steps, case.u.dtype)
            u = out if in_place else case.u
            u[...] = case.u
            y = plan(u, case.k, **case.kernel_arguments, out=out)
            assert y is out and same_bits(np.ascontiguousarray(y), want)
            assert untouched(base, out)


@pytest.mark.parametrize("mode", MODES)
def test_mixed(mode):
    """Each operand may have a layout of its own."""
    case = Case(3, 17, 130, 40, "float32", mode=mode, options=ALL, activation="silu")
    for choices in ({}, dict(radices=(8, 8))):
        plan = case.plan(**choices)
        want = results(case, plan)
        for turn in range(len(ORDERS)):
            layouts = zip(ORDERS[turn:] + ORDERS[:turn], itertools.cycle(STEPS))
            u, dy, w, v = (
                laid_out(x, *next(layouts))
                for x in (case.u, case.dy, *(case.operands[n] for n in GATES))
            )
            at = {**case.kernel_arguments, "in_gate": w, "out_gate": v}
            got = [plan(u, case.k, **at), *plan.backward(dy, u, case.k, **at)]
            for a, b in zip(got, want):
                assert same_bits(a, b)


def repeated(x, axes):
    """x with its first element along these axes repeated by np.broadcast_to."""
    return np.broadcast_to(
        x[tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))], x.shape
    )


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("layout", ["BHL", "BLH"])
@pytest.mark.parametrize("mode", MODES)
def test_repeated(mode, layout, axes):
    """Strides of 0 in u, gates and dy give the bits of copies."""
    case = Case(3, 5, 90, 30, "float32", mode=mode, options=ALL)
    names = ("u", "dy", "in_gate", "out_gate")
    arrays = dict(zip(names, (case.u, case.dy, *(case.operands[n] for n in GATES))))
    arrays = {name: repeated(x, axes) for name, x in arrays.items()}
    rest = {**case.arguments, "layout": layout}
    if layout == "BLH":
        arrays = {name: x.transpose(0, 2, 1) for name, x in arrays.items()}
    for which in itertools.combinations(names, 2):
        got, want = (
            [
                fftconv.conv(at["u"], case.k, **{**rest, **{n: at[n] for n in GATES}}),
                *fftconv.conv_backward(
                    at["dy"], at["u"], case.k, **{**rest, **{n: at[n] for n in GATES}}
                ),
            ]
            for at in (
                {n: x if n in which else x.copy() for n, x in arrays.items()},
                {n: x.copy() for n, x in arrays.items()},
            )
        )
        for a, b in zip(got, want):
            assert same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
@pytest.mark.parametrize("isa", ISAS)
def test_blh(isa, dtype):
    """A plan with layout="BLH" gives the bits of (B, H, L), and its results are BLH too, in one
    block and in several, on each instruction set."""
    for channels, taps, choices in (
        (20, 70, {}),
        (33, 5, dict(radices=(8, 4))),
        (1, 70, {}),
        (2, 5, {}),
    ):
        case = Case(2, channels, 140, taps, dtype, options=ALL)
        want = results(case, case.plan(isa=isa, **choices))
        u, dy = (np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (case.u, case.dy))
        at = {**case.kernel_arguments}
        for name in GATES:
            at[name] = np.ascontiguousarray(at[name].transpose(0, 2, 1))
        plan = fftconv.Plan(u.shape, case.k.shape, dtype=dtype, layout="BLH", isa=isa, **choices)
        for kernel in (case.k, plan.spectrum(case.k)):
            got = [plan(u, kernel, **at), *plan.backward(dy, u, kernel, **at)]
            for name, a, b in zip(("y",) + fftconv.Gradients._fields, got, want):
                if a is None:
                    continue
                if name not in ("dk", "dskip"):
                    assert a.flags.c_contiguous
                    a = a.transpose(0, 2, 1)
                assert same_bits(np.ascontiguousarray(a), b), name


@pytest.mark.parametrize("kernels", [(), (2,), (3, 1), (3, 6)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_blh_kernels_and_threads(mode, kernels):
    """In BLH, kernels of every shape give the same bits on any number of threads."""
    case = Case(3, 18 if kernels != (3, 6) else 6, 150, 40, mode=mode, kernels=kernels, options=ALL)
    want = fftconv.conv(case.u, case.k, **case.arguments)
    gradients = fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments)
    at = case.arguments
    for name in GATES:
        at[name] = np.ascontiguousarray(at[name].transpose(0, 2, 1))
    u, dy = (np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (case.u, case.dy))
    for threads in (1, 2, 5):
        y = fftconv.conv(u, case.k, **at, layout="BLH", threads=threads)
        assert np.array_equal(y.transpose(0, 2, 1), want)
        g = fftconv.conv_backward(dy, u, case.k, **at, layout="BLH", threads=threads)
        for name, a, b in zip(g._fields, g, gradients):
            if a is not None and name not in ("dk", "dskip", "dk_rev"):
                a = a.transpose(0, 2, 1)
            assert a is b is None or np.array_equal(a, b), name


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_last_channels_of_one_kernel(threads):
    """Channels of a kernel go by 16; the last of a row are fewer, and nothing is written
    behind them."""
    case = Case(2, 18, 150, 40, kernels=(1,))
    base, y = room(case.u.shape, (0, 2, 1), (1, 1, 1), np.float32)
    fftconv.conv(laid_out(case.u, (0, 2, 1)), case.k, threads=threads, out=y)
    check_forward(case, y)
    assert untouched(base, y)


def test_no_copied_tensor():
    """A call on (B, L, H) takes memory for a tile of channels, not for a copy of u."""
    plan = fftconv.Plan((4, 1 << 14, 256), (256, 1 << 14), layout="BLH", threads=2)
    bytes_of_u = 4 * 4 * 256 << 14
    for need in (plan.counters.forward_workspace_bytes, plan.counters.backward_workspace_bytes):
        assert need < bytes_of_u / 2


@st.composite
def layouts(draw):
    return (
        draw(st.permutations(range(3))),
        [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in range(3)],
    )


@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 200),
    st.integers(1, 60),
    st.sampled_from(DTYPES + COMPLEX),
    st.sampled_from(MODES),
    st.lists(layouts(), min_size=5, max_size=5),
)
def test_anything(batch, channels, length, taps, dtype, mode, how):
    fft_size = length + taps if mode == "circular" else None
    case = Case(batch, channels, length, taps, dtype, mode=mode, fft_size=fft_size, options=ALL)
    want = fftconv.conv(case.u, case.k, **case.arguments)
    check_forward(case, want)
    base, out = room(case.u.shape, *how[0], case.u.dtype)
    at = {
        **case.arguments,
        "in_gate": laid_out(case.operands["in_gate"], *how[1]),
        "out_gate": laid_out(case.operands["out_gate"], *how[2]),
    }
    u, dy = laid_out(case.u, *how[3]), laid_out(case.dy, *how[4])
    y = fftconv.conv(u, case.k, **at, out=out)
    assert same_bits(np.ascontiguousarray(y), want) and untouched(base, out)
    for a, b in zip(
        fftconv.conv_backward(dy, u, case.k, **at),
        fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments),
    ):
        assert same_bits(a, b)
