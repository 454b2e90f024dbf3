"""Streams: pieces of any length give the result of the whole row."""

import copy
import pickle

import fftconv
import numpy as np
import pytest
from fftconv import Stream, _lib, reference
from hypothesis import given
from hypothesis import strategies as st
from support import COMPLEX, DTYPES, Case, check_forward, same_bits

GATES = ("in_gate", "out_gate")


def cuts(length, pieces):
    """(start, end) of each piece, whose lengths repeat `pieces` until the row ends."""
    at = [0]
    while at[-1] < length:
        at.append(min(length, at[-1] + pieces[len(at) % len(pieces)]))
    return list(zip(at, at[1:]))


def stream_of(case, **choices):
    batch, channels, _ = case.u.shape
    return Stream(
        case.k,
        channels=channels,
        batch=batch,
        dtype=case.dtype,
        skip=case.operands.get("skip"),
        activation=case.activation,
        **choices,
    )


def push_all(stream, case, pieces):
    gates = {name: case.operands[name] for name in GATES if name in case.operands}
    mask = case.operands.get("mask")
    return np.concatenate(
        [
            stream.push(
                case.u[..., a:b], mask=mask, **{name: x[..., a:b] for name, x in gates.items()}
            )
            for a, b in cuts(case.u.shape[-1], pieces)
        ],
        axis=-1,
    )


PIECES = [(1,), (1000,), (3, 1, 17), (64,), (100, 1), (333, 5, 8)]


@pytest.mark.pairwise
@pytest.mark.parametrize("taps", [1, 2, 40, 300])
@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_pieces(pieces, dtype, taps):
    """Kernels of one tap, and shorter or longer than a piece and than a block, are right."""
    activation = None if dtype in COMPLEX else "gelu"
    for options in ((), GATES + ("skip", "mask")):
        case = Case(
            2, 3, 500, taps, dtype, options=options, activation=activation if options else None
        )
        for block in (None, 50):
            y = push_all(stream_of(case, block=block), case, pieces)
            check_forward(case, y)


@given(
    st.integers(1, 200),
    st.integers(1, 60),
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
    st.integers(1, 100),
    st.sets(st.sampled_from(GATES + ("skip", "mask"))),
    st.sampled_from([(), (2,), (4,), (2, 2)]),
    st.integers(1, 3),
)
def test_anything(length, taps, pieces, block, options, kernels, threads):
    case = Case(2, 4, length, taps, "float32", options=options, kernels=kernels)
    stream = stream_of(case, block=block, threads=threads)
    check_forward(case, push_all(stream, case, pieces))
    assert stream.history.shape == (2, 4, taps - 1)


def test_long_pieces_go_in_blocks():
    """A piece may be far longer than the block, and a kernel longer than the piece."""
    case = Case(1, 2, 30000, 50)
    check_forward(case, push_all(stream_of(case, block=700), case, (30000,)))
    check_forward(case, push_all(stream_of(case), case, (30000,)))
    case = Case(1, 2, 3000, 2000)
    check_forward(case, push_all(stream_of(case, block=64), case, (10, 200)))


def test_history():
    """The history holds the last Lk - 1 samples of z, with zeros before the first."""
    case = Case(2, 3, 40, 16, "float64", options=("in_gate",))
    z = case.u * case.operands["in_gate"]
    stream = stream_of(case)
    assert stream.history.shape == (2, 3, 15) and not stream.history.any()
    for a, b in cuts(40, (4, 7)):
        stream.push(case.u[..., a:b], case.operands["in_gate"][..., a:b])
        want = np.concatenate([np.zeros((2, 3, 15)), z[..., :b]], -1)[..., -15:]
        assert np.array_equal(stream.history, want)
    stream.history[...] = 7  # it is a copy
    assert np.array_equal(stream.history, want)


def test_history_of_16_bits_is_not_rounded():
    case = Case(1, 1, 8, 5, "bfloat16", options=("in_gate",))
    stream = stream_of(case)
    stream.push(case.u, case.operands["in_gate"])
    z = case.u.astype("float32") * case.operands["in_gate"].astype("float32")
    assert stream.history.dtype == np.float32
    assert np.array_equal(stream.history, z[..., -4:])


def test_state_can_be_moved():
    """A stream whose state was set, copied or reset goes on from there."""
    case = Case(2, 2, 100, 30, "bfloat16", options=("skip",), activation="silu")
    stream = stream_of(case)
    first = stream.push(case.u[..., :40])
    others = [stream.copy(), copy.copy(stream), copy.deepcopy(stream), stream_of(case)]
    others[-1].history = stream.history
    others.append(pickle.loads(pickle.dumps(stream)))
    assert repr(others[-1]) == repr(stream)
    second = stream.push(case.u[..., 40:])
    check_forward(case, np.concatenate([first, second], -1))
    for other in others:
        assert same_bits(other.push(case.u[..., 40:]), second)
    stream.reset()
    assert not stream.history.any()
    assert same_bits(stream.push(case.u[..., :40]), first)


def test_an_input_is_not_kept():
    """A stream does not depend on what the caller does with the arrays afterwards."""
    case = Case(1, 2, 60, 20, options=("skip",))
    skip = case.operands["skip"].copy()
    k = case.k.copy()
    stream = Stream(k, skip=skip)
    u = case.u[..., :30].copy()
    first = stream.push(u)
    u[...] = k[...] = skip[...] = np.nan
    second = stream.push(case.u[..., 30:])
    check_forward(case, np.concatenate([first, second], -1))


@pytest.mark.parametrize("kernels", [(), (1,), (2,), (6,), (1, 3), (3, 1), (3, 2), (3, 6)], ids=str)
def test_kernel_shapes(kernels):
    case = Case(3, 6, 90, 25, kernels=kernels)
    check_forward(case, push_all(stream_of(case), case, (7, 20)))


def test_axes():
    """Pieces may be (H, n) where B is 1, and (n,) where H is 1 too; k gives the channels."""
    case = Case(1, 3, 50, 9)
    check_forward(case, push_all(Stream(case.k), case, (8,)))
    stream = Stream(case.k)
    y = np.concatenate([stream.push(case.u[0, :, :20]), stream.push(case.u[0, :, 20:])], -1)
    check_forward(case, y[None])
    case = Case(1, 1, 50, 9)
    stream = Stream(case.k[0])
    y = np.concatenate([stream.push(case.u[0, 0, :1]), stream.push(case.u[0, 0, 1:])])
    check_forward(case, y[None, None])
    y = Stream([1, 1]).push([1, 2, 3])
    assert y.dtype == np.float64 and np.allclose(y, [1, 3, 5], atol=1e-14)


def test_strides_and_broadcast_gates():
    case = Case(2, 3, 60, 20, "float64")
    u = np.asfortranarray(case.u)
    gate = np.linspace(1, 2, 60)
    stream = stream_of(case)
    y = np.concatenate(
        [stream.push(u[..., a:b], gate[a:b], gate[:1]) for a, b in cuts(60, (7, 2))], -1
    )
    check_forward(case, y, reference.conv(case.u, case.k, gate, gate[:1]))
    y = stream_of(case).push(u[..., ::-1])
    check_forward(case, y, reference.conv(case.u[..., ::-1], case.k))


@pytest.mark.parametrize("isa_threads", [1, 2, 7])
def test_threads(isa_threads):
    case = Case(2, 3, 3000, 100)
    want = push_all(stream_of(case, threads=1), case, (900,))
    got = push_all(stream_of(case, threads=isa_threads), case, (900,))
    assert same_bits(got, want)


def test_one_plan(monkeypatch):
    """A stream makes one plan, whatever the pieces' lengths: the C function that makes plans is
    replaced afterwards."""
    stream = Stream(np.ones((2, 30), np.float32), block=64)

    def no_more(*arguments):
        raise AssertionError("a second plan")

    monkeypatch.setattr(_lib.lib, "fftconv_plan_create", no_more)
    for n in (1, 64, 65, 1000, 3):
        stream.push(np.ones((2, n), np.float32))


def test_repr():
    assert "channels=3" in repr(Stream(np.ones((3, 5), np.float32)))


@pytest.mark.parametrize(
    "call,message",
    [
        (
            lambda s: s.push(np.ones((1, 3, 4), "f4")),
            r"u has shape \(1, 3, 4\); "
            r"this stream is for \(2, 3,",
        ),
        (lambda s: s.push(np.ones((3, 4), "f4")), r"u has shape \(3, 4\)"),
        (lambda s: s.push(np.ones((2, 3, 0), "f4")), r"n at least 1"),
        (lambda s: s.push(np.ones((2, 3, 4))), "u has dtype float64; this stream"),
        (lambda s: s.push(np.ones((2, 3, 4), int)), "u has dtype int64, that is float64; this"),
        (lambda s: s.push(np.ones((2, 3, 4), "f4"), np.ones((2, 3, 5), "f4")), "in_gate has shape"),
        (
            lambda s: s.push(np.ones((2, 3, 4), "f4"), None, np.ones((2, 3, 4))),
            "out_gate has dtype float64",
        ),
        (lambda s: s.push(np.ones((2, 3, 4), "f4"), mask=np.ones((3, 2), "f4")), "mask has shape"),
        (
            lambda s: setattr(s, "history", np.ones((2, 3, 5), "f4")),
            r"history has shape \(2, 3, 5\); it must be \(2, 3, 4\)",
        ),
        (lambda s: setattr(s, "history", np.ones((2, 3, 4))), "history has dtype float64"),
    ],
)
def test_errors_take_nothing_in(call, message):
    rng = np.random.default_rng(0)
    stream = Stream(rng.standard_normal((3, 5)).astype("f4"), batch=2)
    u = rng.standard_normal((2, 3, 9)).astype("f4")
    stream.push(u)
    before = stream.history
    with pytest.raises(ValueError, match=message):
        call(stream)
    assert same_bits(stream.history, before)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (dict(k=np.ones((3, 0), "f4")), "k has shape"),
        (dict(k=np.ones((2, 5), "f4"), channels=3), r"k has shape.*H = 3"),
        (dict(k=np.ones((2, 3, 5), "f4")), r"k has shape.*B = 1"),
        (dict(channels=0), "channels is 0"),
        (dict(batch=0), "batch is 0"),
        (dict(block=0), "block is 0"),
        (dict(block=1.5), "block is 1.5"),
        (dict(threads=0), "threads is 0"),
        (dict(dtype="int8"), "dtype is 'int8'"),
        (dict(dtype="float16", k=np.ones((3, 5))), "k has dtype float64; this plan is for float16"),
        (dict(activation="relu"), "activation is 'relu'"),
        (dict(skip=np.ones(2, "f4")), "skip has shape"),
    ],
)
def test_construction_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stream(**{"k": np.ones((3, 5), "f4"), **arguments})


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_single_samples_and_longer_pieces_agree(dtype):
    """Short pieces are summed directly, long ones transformed: any mixture of both equals the
    reference for the whole row."""
    for taps in (1, 2, 7, 64, 333):
        case = Case(2, 3, 400, taps, dtype, options=("skip",))
        stream = fftconv.Stream(case.k, batch=2, skip=case.operands["skip"])
        cuts = [0, 1, 2, 3, 5, 9, 30, 31, 100, 105, 399, 400]
        pieces = [stream.push(case.u[..., a:b]) for a, b in zip(cuts, cuts[1:])]
        check_forward(case, np.concatenate(pieces, axis=-1))
