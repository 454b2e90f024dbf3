"""fftconv_matmul: sizes at the edges of its blocks, strides, types, and what it refuses."""

import ctypes
from ctypes import byref

import fftconv
import numpy as np
import pytest
from c_calls import call, refused
from fftconv import _lib
from fftconv._array import view
from fftconv._handles import tensor
from support import same_bits


def desc(a, b, out, **fields):
    d = _lib.MatmulDesc(**{"size": ctypes.sizeof(_lib.MatmulDesc), **fields})
    d.a, d.b, d.out = (tensor(view(x, "matrix")) for x in (a, b, out))
    return d


def product(a, b, out, **fields):
    d = desc(a, b, out, **fields)
    status, message = call("fftconv_matmul", byref(d))
    assert status == _lib.OK, message
    return out


def normal(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def turned(x, turn):
    """x with its last axes in memory in the other order, or with gaps between its numbers."""
    if turn == "turned":
        return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    wide = np.full((*x.shape[:-1], 3 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::3] = x
    return wide[..., ::3]


LIMIT = {"float32": 1e-6, "complex64": 1e-6, "float64": 2e-15, "complex128": 2e-15}


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (3, 5, 7, 129), (2, 130, 300, 3), (1, 65, 140, 257)]
)
@pytest.mark.parametrize("layout", ["plain", "turned", "gaps"])
@pytest.mark.pairwise
def test_products(isa, dtype, sizes, layout, rng):
    batch, rows, depth, columns = sizes
    a, b = normal(rng, (batch, rows, depth), dtype), normal(rng, (batch, depth, columns), dtype)
    want = a.astype(complex) @ b.astype(complex)
    out = np.full(want.shape, np.nan, dtype)
    if layout != "plain":
        a, b, out = (turned(x, layout) for x in (a, b, out))
    got = product(a, b, out, isa=isa.encode(), threads=2)
    size = np.linalg.norm(a, axis=2)[:, :, None] * np.linalg.norm(b, axis=1)[:, None]
    assert (np.abs(got - want) <= LIMIT[dtype] * size).all()
    assert same_bits(got, product(a, b, np.full_like(out, np.nan), isa=isa.encode(), threads=1))
    if np.dtype(dtype).kind == "c":
        part = product(a, b, np.full(want.shape, np.nan, out.real.dtype), isa=isa.encode())
        assert same_bits(part, got.real)


def test_one_matrix_for_the_whole_batch(rng):
    a, b = normal(rng, (4, 6), "float64"), normal(rng, (3, 6, 5), "float64")
    got = product(np.broadcast_to(a, (3, 4, 6)), b, np.full((3, 4, 5), np.nan))
    assert np.abs(got - a @ b).max() <= 1e-14


@pytest.mark.parametrize(
    "a, b, out, fields, words",
    [
        ("f4", "f4", "f4", {"size": 8}, "size is 8"),
        ("f4", "f4", "f4", {"threads": -1}, "threads is -1"),
        ("f4", "f4", "f4", {"threads": 256}, "threads is 256"),
        ("f2", "f2", "f2", {}, "a has dtype"),
        ("f4", "f8", "f4", {}, "b has dtype"),
        ("f4", "f4", "f8", {}, "out has dtype"),
        ("f4", "f4", "c8", {}, "out has dtype"),
        ("c8", "c8", "f8", {}, "out has dtype"),
    ],
)
def test_refused(a, b, out, fields, words):
    arrays = np.ones((1, 2, 3), a), np.ones((1, 3, 4), b), np.ones((1, 2, 4), out)
    refused("fftconv_matmul", byref(desc(*arrays, **fields)), words=words)


def test_refused_shapes_and_places():
    a, b, out = np.ones((1, 2, 3)), np.ones((1, 3, 4)), np.ones((1, 2, 4))
    refused("fftconv_matmul", None, words="desc is NULL")
    refused("fftconv_matmul", byref(desc(a, np.ones((1, 2, 4)), out)), words="b has shape")
    refused("fftconv_matmul", byref(desc(a, b, np.ones((2, 2, 4)))), words="a has shape")
    refused(
        "fftconv_matmul", byref(desc(a, b, np.broadcast_to(out[..., :1], out.shape))), words="out"
    )
    square = np.ones((1, 3, 3))
    refused("fftconv_matmul", byref(desc(square, square + 1, square)), words="overlap")
    d = desc(a, b, out)
    d.b.data = None
    refused("fftconv_matmul", byref(d), words="b is NULL")
    assert call("fftconv_matmul", byref(desc(a, b, out, isa=b"none")))[0] == _lib.INVALID
