"""The reference itself, compared with NumPy's convolve, with sums written out, and with finite
differences."""

import math

import numpy as np
import pytest
from fftconv import reference


def loops(u, k, n, k_rev=()):
    """y[t] = sum_s k[s] u[t - s] + sum_s k_rev[s] u[t + s], with indices modulo n where n is
    given."""
    y = np.zeros(len(u), np.result_type(u, k, np.asarray(k_rev)))
    for t in range(len(u)):
        for tap, s in [*zip(k, range(len(k))), *zip(k_rev, range(0, -len(k_rev), -1))]:
            at = t - s if n is None else (t - s) % n
            if 0 <= at < len(u):
                y[t] += tap * u[at]
    return y


CASES = [
    ("causal", None, 11, 5),
    ("causal", None, 11, 30),
    ("causal", None, 1, 1),
    ("circular", None, 11, 7),
    ("circular", 13, 11, 13),
    ("circular", 29, 11, 20),
    ("circular", 200, 11, 190),
    ("circular", 1, 1, 1),
    ("two_sided", None, 11, 4),
    ("two_sided", None, 5, 9),
    ("two_sided", None, 1, 1),
]
# Shapes of k before its last axis, for B = 2 and H = 6.
KERNELS = [(), (1,), (2,), (6,), (1, 3), (2, 1), (2, 3), (2, 6)]


def random(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if dtype is complex else x


@pytest.mark.parametrize("direct", [0, 1 << 14], ids=["fft", "direct"])
@pytest.mark.parametrize(
    "dtypes", [(float, float), (complex, float), (float, complex), (complex, complex)], ids=str
)
@pytest.mark.parametrize("mode,n,length,taps", CASES)
def test_conv(mode, n, length, taps, dtypes, direct, monkeypatch):
    monkeypatch.setattr(reference, "DIRECT_PRODUCTS", direct)
    rng = np.random.default_rng(0)
    u = random(rng, (2, 6, length), dtypes[0])
    modulus = (n or length) if mode == "circular" else None
    for kernels in KERNELS:
        k = random(rng, kernels + (taps,), dtypes[1])
        k_rev = None
        if mode == "two_sided":
            k_rev = random(rng, kernels + (taps + 3,), dtypes[1])
        y = reference.conv(u, k, mode=mode, fft_size=n, k_rev=k_rev)
        batch, groups = ((1, 1) + kernels)[-2:]
        for b in range(2):
            for h in range(6):
                of = (b % batch, h // (6 // groups))
                want = loops(
                    u[b, h],
                    k.reshape(batch, groups, -1)[of],
                    modulus,
                    () if k_rev is None else k_rev.reshape(batch, groups, -1)[of],
                )
                assert np.allclose(y[b, h], want, rtol=0, atol=1e-13)
                if mode == "causal" and kernels == (6,):
                    assert np.allclose(want, np.convolve(u[b, h], k[h])[:length])


def differences(function, at, dy, gradients):
    """Compares each gradient with central differences along random directions: along d, the
    derivative of Re sum(conj(dy) y) is Re sum(conj(gradient) d)."""
    rng = np.random.default_rng(1)
    step = 1e-5
    for name, x in at.items():
        gradient = getattr(gradients, "d" + name)
        assert gradient.shape == x.shape
        assert np.iscomplexobj(gradient) == np.iscomplexobj(x), name
        d = random(rng, x.shape, complex if np.iscomplexobj(x) else float)
        high, low = (
            np.sum(np.conj(dy) * function(**{**at, name: x + s * d})).real for s in (step, -step)
        )
        want = np.sum(np.conj(gradient) * d).real
        assert abs((high - low) / (2 * step) - want) <= 1e-7 * max(
            1, abs(want), np.sqrt(np.sum(np.abs(gradient) ** 2))
        ), name


@pytest.mark.parametrize("direct", [0, 1 << 14], ids=["fft", "direct"])
@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
@pytest.mark.parametrize("kernels", [(), (3,), (2, 2), (2, 6)], ids=str)
@pytest.mark.parametrize("mode,n,length,taps", CASES)
def test_backward(mode, n, length, taps, kernels, activation, direct, monkeypatch):
    """Every operand's gradient equals central differences along random directions."""
    monkeypatch.setattr(reference, "DIRECT_PRODUCTS", direct)
    rng = np.random.default_rng(1)
    rows = (2, 6, length)
    at = {
        "u": rng.standard_normal(rows),
        "k": rng.standard_normal((*kernels, taps)),
        "in_gate": rng.standard_normal(rows),
        "out_gate": rng.standard_normal((6, 1)),
        "skip": rng.standard_normal(6),
    }
    if mode == "two_sided":
        at["k_rev"] = rng.standard_normal((*kernels, taps + 2))
    options = dict(mode=mode, fft_size=n, activation=activation, mask=rng.random((2, 6)))
    dy = rng.standard_normal(rows)
    differences(
        lambda **x: reference.conv(**x, **options),
        at,
        dy,
        reference.conv_backward(dy, **at, **options),
    )


@pytest.mark.parametrize("which", ["u", "k", "in_gate", "out_gate", "skip", "k_rev", "all"])
@pytest.mark.parametrize("mode", ["causal", "circular", "two_sided"])
def test_complex_backward(which, mode):
    """One complex operand makes y complex, and real operands keep real gradients."""
    rng = np.random.default_rng(2)
    shapes = {
        "u": (2, 4, 9),
        "k": (2, 2, 5),
        "in_gate": (2, 4, 9),
        "out_gate": (2, 1, 9),
        "skip": (4,),
    }
    if mode == "two_sided":
        shapes["k_rev"] = (2, 2, 6)
    elif which == "k_rev":
        return
    at = {
        name: random(rng, shape, complex if which in (name, "all") else float)
        for name, shape in shapes.items()
    }
    options = dict(mode=mode, mask=rng.random((2, 4)))
    y = reference.conv(**at, **options)
    assert np.iscomplexobj(y)
    dy = random(rng, y.shape, complex)
    differences(
        lambda **x: reference.conv(**x, **options),
        at,
        dy,
        reference.conv_backward(dy, **at, **options),
    )


class Mask:
    """The part of a pattern that the reference uses."""

    def __init__(self, mask):
        self._mask = mask

    def mask(self, n):
        assert n == len(self._mask)
        return self._mask


@pytest.mark.parametrize(
    "n,length,taps", [(12, 12, 12), (13, 9, 4), (16, 16, 5), (1, 1, 1), (2, 2, 2)]
)
def test_pattern(n, length, taps):
    """With a pattern y is Re IDFT(DFT(z) . mask . DFT(k)), here with the DFTs as matrices; half a
    mask is mirrored; gradients equal finite differences."""
    rng = np.random.default_rng(3)
    u, k = rng.standard_normal((2, 4, length)), rng.standard_normal((2, taps))
    f = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n)
    half = rng.random(n // 2 + 1) < 0.6
    mirrored = np.concatenate([half, half[1 : (n + 1) // 2][::-1]])
    for pattern, mask in [
        (Mask(m := rng.random(n) < 0.5), m),
        (half, mirrored),
        (Mask(np.ones(n, bool)), 1.0),
        (Mask(np.zeros(n, bool)), 0.0),
    ]:
        options = dict(mode="circular", fft_size=n, pattern=pattern)
        y = reference.conv(u, k, **options)
        for b in range(2):
            for h in range(4):
                product = mask * (f[:, :length] @ u[b, h]) * (f[:, :taps] @ k[h // 2])
                want = (np.conj(f) @ product / n).real[:length]
                assert np.allclose(y[b, h], want, rtol=0, atol=1e-12)
        at = {
            "u": u,
            "k": k,
            "in_gate": rng.standard_normal(u.shape),
            "skip": rng.standard_normal(4),
        }
        dy = rng.standard_normal(u.shape)
        options["activation"] = "silu"
        differences(
            lambda **x: reference.conv(**x, **options),
            at,
            dy,
            reference.conv_backward(dy, **at, **options),
        )


def test_absent_is_none():
    g = reference.conv_backward(np.ones(3), np.ones(3), np.ones(2))
    assert g.din_gate is g.dout_gate is g.dskip is g.dk_rev is None


def test_activations():
    p = np.array([-40.0, -3.0, -1e-9, 0.0, 0.5, 40.0])
    gelu, silu = (reference.ACTIVATIONS[name][0](p) for name in ("gelu", "silu"))
    for i, x in enumerate(p):
        # The lower tail is computed by erfc, since 1 + erf cancels there.
        assert math.isclose(gelu[i], x * math.erfc(-x / math.sqrt(2)) / 2, rel_tol=1e-14)
        assert math.isclose(silu[i], x / (1 + math.exp(-x)), rel_tol=1e-14)


def test_errors():
    u, k = np.ones(4), np.ones(5)
    with pytest.raises(ValueError, match="mode is 'same'"):
        reference.conv(u, k, mode="same")
    with pytest.raises(ValueError, match="fft_size is 4"):
        reference.conv(u, k, mode="circular")
    with pytest.raises(ValueError, match="circular"):
        reference.conv(u, k, fft_size=8)
    for options, message in [
        (dict(mode="two_sided"), "k_rev"),
        (dict(k_rev=k), "k_rev"),
        (dict(pattern=np.ones(3, bool)), "pattern"),
    ]:
        with pytest.raises(ValueError, match=message):
            reference.conv(u, k, **options)
    for options in (dict(activation="gelu"), dict(mode="circular", pattern=np.ones(3, bool))):
        with pytest.raises(ValueError, match="real"):
            reference.conv(u + 0j, u, **options)
    with pytest.raises(KeyError):
        reference.conv(u, k, activation="relu")
