"""Centaurus' modes equal dense matrices, and its step equals forward."""

import numpy as np
import pytest
from fftconv.lrnnx import Centaurus

CASES = [("neck", 6, 10, 3), ("dws", 5, 5, 2), ("full", 4, 16, 2), ("pointwise", 6, 4, 2)]
each_mode = pytest.mark.parametrize("mode, H, N, M", CASES)


def dense(layer, x):
    """The definition of the layer, with B_ and C as full matrices."""
    p, H, N = layer.parameters, layer.d_model, layer.d_state
    delta, length = np.exp(p["log_delta"]), x.shape[1]
    K = np.exp((delta[:, None] * p["A"])[..., None] * np.arange(length)).real
    B, C = p["B"], p["C"]
    if layer.mode == "pointwise":
        K, delta = K.reshape(-1, length), np.repeat(delta, layer.sub_states)
    else:
        K = np.einsum("nm,nml->nl", p["E"], K)
    if layer.mode == "dws":
        B, C = np.diag(B), np.diag(C)
    elif layer.mode == "full":
        n = np.arange(N)
        B, C = np.zeros((N, H)), np.zeros((H, N))
        B[n, n % H], C[n // H, n] = p["B"], p["C"]
    u = np.einsum("bli,ni->bnl", x, delta[:, None] * B)
    v = np.zeros_like(u)
    for j in range(length):
        v[..., j:] += K[:, j, None] * u[..., : length - j]
    return np.einsum("bnl,on->blo", v, C)


def changed(layer, rng):
    """The layer with changed parameters, since the initial ones have symmetries that hide
    faults."""
    for name, x in layer.parameters.items():
        x += 0.2 * rng.standard_normal(x.shape) * (name != "A")
    return layer


def close(y, want, dtype):
    assert y.dtype == dtype and y.shape == want.shape
    limit = {"float64": 1e-12, "float32": 3e-6, "float16": 3e-3}[dtype]
    assert np.max(np.abs(y - want)) < limit * np.max(np.abs(want))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 32])
@each_mode
def test_forward(mode, H, N, M, batch, dtype, rng):
    """Every batch size is right.  The original stops with a type error where its rule takes
    strategy 1: CentaurusFull(4, 16) from batch 3 on."""
    layer = changed(Centaurus(H, N, M, mode, seed=1), rng)
    x = rng.standard_normal((batch, 40, H)).astype(dtype)
    close(layer(x), dense(layer, x.astype("f8")), dtype)


@pytest.mark.parametrize("strategy", ["upstream", 1, 2, 3])
@each_mode
def test_strategies(mode, H, N, M, strategy, rng):
    layer = Centaurus(H, N, M, mode, seed=1)
    x = rng.standard_normal((3, 33, H))
    close(layer(x, strategy=strategy), dense(layer, x), "float64")


@each_mode
def test_step(mode, H, N, M, rng):
    """step equals forward, for few rows and for many, also after the parameters have changed:
    nothing computed before is used."""
    layer = Centaurus(H, N, M, mode, seed=1)
    for batch in 3, 9:
        x = rng.standard_normal((batch, 200, H))
        state = layer.default_state(batch)
        y = np.full_like(x, np.nan)
        for t in range(x.shape[1]):
            y[:, t], state = layer.step(x[:, t], state)
        close(layer(x), y, "float64")
        changed(layer, rng)


def test_structure_is_used(monkeypatch, rng):
    """dws runs one convolution for each channel and full a dense kernel, without matrices of zeros.
    Which calls the layer makes can be seen only inside its module."""
    import fftconv.centaurus as module

    ran = []
    for name in "conv", "conv_matrix", "opt_ssm_forward":
        monkeypatch.setattr(
            module,
            name,
            lambda *a, name=name, run=getattr(module, name), **k: (
                ran.append((name, np.shape(a[1]))),
                run(*a, **k),
            )[1],
        )
    for mode, H, N, M in CASES:
        Centaurus(H, N, M, mode, seed=1)(rng.standard_normal((2, 9, H)))
    assert ran == [
        ("opt_ssm_forward", (10, 9)),
        ("conv", (5, 9)),
        ("conv_matrix", (4, 4, 9)),
        ("opt_ssm_forward", (8, 9)),
    ]


def test_initial_values():
    p = Centaurus(4, 3, 5, seed=0).parameters
    np.testing.assert_allclose(p["A"][1], -0.5 + 1j * np.pi * np.arange(5) / 5)
    np.testing.assert_allclose(np.exp(p["log_delta"]), [1e-3, 1e-2, 1e-1])
    assert Centaurus(4, 3, 5, "pointwise").parameters["B"].shape == (15, 4)
    same = Centaurus(4, 3, 5, seed=0).parameters
    np.testing.assert_array_equal(p["E"], same["E"])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Centaurus(4, 5, 2, "dws"), "d_state is 5.*must be 4"),
        (lambda: Centaurus(4, 5, 2, "full"), "d_state is 5.*must be 16"),
        (lambda: Centaurus(4, 5, 2, "s6"), "mode is 's6'"),
        (lambda: Centaurus(0, 5, 2), "d_model is 0"),
        (lambda: Centaurus(4, 5, 0), "sub_states is 0"),
        (lambda: Centaurus(4, 5, 2)(np.ones((2, 9, 5))), r"x has shape \(2, 9, 5\)"),
        (lambda: Centaurus(4, 5, 2)(np.ones((2, 9, 4), complex)), "x has dtype"),
        (lambda: Centaurus(4, 5, 2)(np.ones((2, 9, 4)), strategy=9), "strategy is 9"),
        (lambda: Centaurus(4, 5, 2).step(np.ones((2, 4)), np.ones((2, 5))), "state has"),
        (lambda: Centaurus(4, 5, 2).step(np.ones((3, 4)), np.ones((2, 5, 2))), "x has"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_bad_parameters():
    layer = Centaurus(4, 5, 2)
    layer.parameters["B"] = np.ones((5, 3))
    with pytest.raises(ValueError, match=r"parameters\['B'\] has shape"):
        layer(np.ones((2, 9, 4)))
    layer = Centaurus(4, 5, 2)
    layer.parameters["A"][2, 1] = 0.1
    with pytest.raises(ValueError, match=r"A\[2, 1\] is .*negative real part"):
        layer(np.ones((2, 9, 4)))
    with pytest.raises(ValueError, match=r"A\[2, 1\] is .*negative real part"):
        layer.step(np.ones((2, 4)), layer.default_state(2))
    with pytest.raises(ValueError, match="x has dtype complex128"):
        Centaurus(4, 5, 2).step(np.ones((2, 4), complex), layer.default_state(2))
