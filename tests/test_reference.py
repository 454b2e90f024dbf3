"""The oracle itself: against NumPy's convolve, sums written out, differences."""

import math

import numpy as np
import pytest

from fftconv import reference


def loops(u, k, n):
    """y[t] = sum_s k[s] u[t - s], index modulo n when circular."""
    y = np.zeros(len(u))
    for t in range(len(u)):
        for s in range(len(k)):
            at = t - s if n is None else (t - s) % n
            if 0 <= at < len(u):
                y[t] += k[s] * u[at]
    return y


CASES = [("causal", None, 11, 5), ("causal", None, 11, 30),
         ("causal", None, 1, 1), ("circular", None, 11, 7),
         ("circular", 13, 11, 13), ("circular", 29, 11, 20),
         ("circular", 200, 11, 190), ("circular", 1, 1, 1)]


@pytest.mark.parametrize("direct", [0, 1 << 14], ids=["fft", "direct"])
@pytest.mark.parametrize("mode,n,length,taps", CASES)
def test_conv(mode, n, length, taps, direct, monkeypatch):
    monkeypatch.setattr(reference, "DIRECT_PRODUCTS", direct)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2, 3, length))
    k = rng.standard_normal((3, taps))
    y = reference.conv(u, k, mode=mode, fft_size=n)
    modulus = (n or length) if mode == "circular" else None
    for b in range(2):
        for h in range(3):
            want = loops(u[b, h], k[h], modulus)
            assert np.allclose(y[b, h], want, rtol=0, atol=1e-13)
            if mode == "causal":
                assert np.allclose(want, np.convolve(u[b, h], k[h])[:length])


@pytest.mark.parametrize("direct", [0, 1 << 14], ids=["fft", "direct"])
@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
@pytest.mark.parametrize("mode,n,length,taps", CASES)
def test_backward(mode, n, length, taps, activation, direct, monkeypatch):
    """By central differences, each operand along random directions."""
    monkeypatch.setattr(reference, "DIRECT_PRODUCTS", direct)
    rng = np.random.default_rng(1)
    rows = (2, 3, length)
    at = {"u": rng.standard_normal(rows), "k": rng.standard_normal((3, taps)),
          "in_gate": rng.standard_normal(rows),
          "out_gate": rng.standard_normal((3, 1)),
          "skip": rng.standard_normal(3)}
    options = dict(mode=mode, fft_size=n, activation=activation,
                   mask=rng.random((2, 3)))
    dy = rng.standard_normal(rows)
    gradients = reference.conv_backward(dy, **at, **options)
    step = 1e-5
    for name, gradient in zip(at, gradients):
        assert gradient.shape == at[name].shape
        d = rng.standard_normal(at[name].shape)
        high, low = (np.sum(dy * reference.conv(
            **{**at, name: at[name] + s * d}, **options))
            for s in (step, -step))
        want = np.sum(gradient * d)
        assert abs((high - low) / (2 * step) - want) <= 1e-7 * max(
            1, abs(want), np.sqrt(np.sum(gradient ** 2)))


def test_absent_is_none():
    g = reference.conv_backward(np.ones(3), np.ones(3), np.ones(2))
    assert g.din_gate is g.dout_gate is g.dskip is None


def test_activations():
    p = np.array([-40.0, -3.0, -1e-9, 0.0, 0.5, 40.0])
    gelu, silu = (reference.ACTIVATIONS[name][0](p) for name in ("gelu",
                                                                 "silu"))
    for i, x in enumerate(p):
        # The lower tail by erfc: 1 + erf would cancel there.
        assert math.isclose(gelu[i], x * math.erfc(-x / math.sqrt(2)) / 2,
                            rel_tol=1e-14)
        assert math.isclose(silu[i], x / (1 + math.exp(-x)), rel_tol=1e-14)


def test_errors():
    u, k = np.ones(4), np.ones(5)
    with pytest.raises(ValueError, match="mode is 'same'"):
        reference.conv(u, k, mode="same")
    with pytest.raises(ValueError, match="fft_size is 4"):
        reference.conv(u, k, mode="circular")
    with pytest.raises(ValueError, match="circular"):
        reference.conv(u, k, fft_size=8)
    with pytest.raises(KeyError):
        reference.conv(u, k, activation="relu")
