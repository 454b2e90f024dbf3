"""FFTConv, a convolution that holds its kernel."""

import pickle

import numpy as np
import pytest
from fftconv import FFTConv, reference
from support import Case, check_forward, check_gradients, same_bits


def case_of(module, batch, length, options=(), seed=0):
    """A Case with the module's parameters, so that its reference is the module's."""
    two_sided = module.two_sided
    circular = (
        module.fft_size is not None and not two_sided and module.fft_size < 2 * module.length - 1
    )
    case = Case(
        batch,
        module.channels,
        length,
        module.length,
        module.precision,
        options=(*options, "skip"),
        activation=module.activation,
        k_dtype=module.k.dtype.name,
        mode="two_sided" if two_sided else "circular" if circular else "causal",
        fft_size=module.fft_size if circular else None,
        seed=seed,
    )
    case.k, case.operands["skip"] = module.k, module.skip
    if two_sided:
        case.k_rev = module.k_rev
    return case


def test_seed():
    """Two modules of one seed begin alike, and each seed begins elsewhere; both may be pickled."""
    a, b, other = (FFTConv(3, 8, two_sided=True, seed=seed) for seed in (1, 1, 2))
    for name, x in a.parameters().items():
        assert same_bits(x, b.parameters()[name])
        assert same_bits(x, pickle.loads(pickle.dumps(a)).parameters()[name])
        assert not np.any(x == other.parameters()[name])
    generator = np.random.default_rng(1)
    assert same_bits(FFTConv(3, 8, two_sided=True, seed=generator).skip, a.skip)
    assert not np.array_equal(FFTConv(3, 8).k, FFTConv(3, 8).k)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "two_sided, fft_size",
    [
        (False, None),
        (False, 64),
        (False, 90),
        (False, 127),
        (False, 1000),
        (True, None),
        (True, 127),
        (True, 256),
    ],
)
def test_forward_and_backward(two_sided, fft_size, gated, precision):
    """Every configuration is right, for whole sequences and shorter ones."""
    for activation, length in (("gelu", 64), (None, 41), ("silu", 1)):
        module = FFTConv(
            3,
            64,
            fft_size=fft_size,
            precision=precision,
            activation=activation,
            gated=gated,
            two_sided=two_sided,
        )
        gates = ("in_gate", "out_gate") if gated else ()
        case = case_of(module, 2, length, gates)
        rows = {name: case.operands[name] for name in gates}
        check_forward(case, module(case.u, **rows))
        check_gradients(case, module.backward(case.dy, case.u, **rows))
        assert same_bits(
            module(case.u[0], **{n: x[0] for n, x in rows.items()}),
            module(case.u, **rows, threads=1)[0],
        )


def test_parameters():
    """Parameters may be assigned, or changed in place; both take effect."""
    module = FFTConv(4, 32, two_sided=True)
    assert sorted(module.parameters()) == ["k", "k_rev", "skip"]
    for name, x in module.parameters().items():
        assert x is getattr(module, name) and x.dtype == np.float32
    assert np.allclose(np.linalg.norm(module.k, axis=1), 1)
    u = np.ones((1, 4, 32), np.float32)
    module.k = np.zeros((4, 32))
    module.k_rev[...] = 0
    module.skip = [1, 2, 3, 4]
    assert (module(u)[0, :, 0] == [1, 2, 3, 4]).all()
    module.skip *= 2
    assert (module(u)[0, :, 0] == [2, 4, 6, 8]).all()
    assert "k_rev" not in FFTConv(4, 32).parameters()
    assert FFTConv(2, 8, precision="float64").k.dtype == np.float64
    assert FFTConv(2, 8, precision="bfloat16").k.dtype == np.float32
    assert "channels" not in repr(module) and "FFTConv(4, 32" in repr(module)


def test_a_step_against_the_gradient_lowers_the_loss():
    """A training loop of gradient steps lowers the loss in every step."""
    rng = np.random.default_rng(0)
    module = FFTConv(3, 50, activation="silu")
    u, want = rng.standard_normal((2, 4, 3, 50)).astype(np.float32)
    losses = []
    for _ in range(20):
        error = module(u) - want
        losses.append(float(np.sum(error**2)))
        g = module.backward(2 * error, u, needs=("k", "skip"))
        assert g.du is None
        module.k -= 1e-3 * g.dk
        module.skip -= 1e-3 * g.dskip
    assert losses == sorted(losses, reverse=True)


def test_two_sided():
    module = FFTConv(2, 16, two_sided=True, precision="float64")
    u = np.random.default_rng(0).standard_normal((1, 2, 16))
    want = reference.conv(u, module.k, mode="two_sided", k_rev=module.k_rev, skip=module.skip)
    assert np.abs(module(u) - want).max() < 1e-14


def test_errors():
    for arguments, options, message in [
        ((0, 8), {}, "channels is 0"),
        ((2, 0), {}, "length is 0"),
        ((2.5, 8), {}, "channels is 2.5"),
        ((2, 8), dict(fft_size=7), "fft_size is 7; it must be from 8"),
        ((2, 8), dict(fft_size=14, two_sided=True), "fft_size is 14; it must be from 15"),
        ((2, 8), dict(precision="int8"), "precision is 'int8'; allowed: float32"),
        (
            (2, 8),
            dict(precision="complex64"),
            "precision is 'complex64'; allowed: float32, float16, bfloat16, float64",
        ),
        ((2, 8), dict(activation="relu"), "activation is 'relu'"),
        ((2, 8), dict(device="tpu"), "device is 'tpu'; allowed: 'cpu', 'cuda' and"),
    ]:
        with pytest.raises(ValueError, match=message):
            FFTConv(*arguments, **options)
    assert FFTConv(2, 8, device="cpu").device == "cpu" and FFTConv(2, 8).device is None
    module = FFTConv(2, 8)
    u = np.ones((1, 2, 8), np.float32)
    for rows, gates, message in [
        (u.astype(np.float64), (), "u has dtype float64; .* float32"),
        (np.ones((1, 2, 9), np.float32), (), r"u has shape \(1, 2, 9\)"),
        (np.ones((1, 3, 8), np.float32), (), r"u has shape \(1, 3, 8\)"),
        (u[0, 0], (), r"u has shape \(8,\)"),
        (u, (u,), "in_gate is given"),
        (u, (None, u), "out_gate is given; with gated=False"),
    ]:
        with pytest.raises(ValueError, match=message):
            module(rows, *gates)
        with pytest.raises(ValueError, match=message):
            module.backward(u, rows, *gates)
    with pytest.raises(ValueError, match="out_gate is None; with gated=True"):
        FFTConv(2, 8, gated=True)(u, u)
    with pytest.raises(ValueError, match=r"k has shape \(2, 7\)"):
        module.k = np.ones((2, 7))
    with pytest.raises(ValueError, match="k has dtype complex128; it must be real"):
        module.k = np.ones((2, 8), complex)
    with pytest.raises(ValueError, match=r"skip has shape \(3,\)"):
        module.skip = np.ones(3)
    with pytest.raises(AttributeError, match="no k_rev"):
        _ = module.k_rev
    with pytest.raises(AttributeError, match="no k_rev"):
        module.k_rev = np.ones((2, 8))
