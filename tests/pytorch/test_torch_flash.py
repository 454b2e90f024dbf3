"""`fftconv.torch.flash` and `fftconv.torch.FFTConv` against formulas in float64, and their
checkpoints."""

import copy
import pickle

import pytest
from compared import error, same_gradients
from fftconv.torch.flash import (
    FlashDepthWiseConv1d,
    FlashDepthwiseConv1d,
    FlashFFTConv,
    FrequencySparseFFTConv,
    PartialFFTConv,
)
from fftconv.torch.mixer import FFTConv
from torch import nn
from torch_support import in_rest, torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


pytestmark = in_rest


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def agree(module, inputs, formula, tolerance):
    """Compare the value of module(*inputs) and all gradients with those of the formula.

    formula(*inputs, **parameters) takes everything in float64.
    """
    inputs = [x.requires_grad_() for x in inputs]
    parameters = dict(module.named_parameters())
    wide = [x.detach().double().requires_grad_() for x in inputs]
    wide_parameters = {n: p.detach().double().requires_grad_() for n, p in parameters.items()}
    y, want = module(*inputs), formula(*wide, **wide_parameters)
    assert error(y, want) < tolerance
    leaves, wide_leaves = [*inputs, *parameters.values()], [*wide, *wide_parameters.values()]
    same_gradients(y, leaves, want, wide_leaves, 3 * tolerance)


def circular(u, k, n):
    f = torch.fft
    return f.irfft(f.rfft(u, n) * f.rfft(k, n), n)[..., : u.shape[-1]]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gates", ["none", "both", "post"])
@pytest.mark.parametrize("seqlen, length, taps", [(256, 128, 128), (256, 256, 256), (30, 17, 30)])
def test_flash(dtype, gates, seqlen, length, taps):
    u, pre, post = (torch.randn(2, 3, length).to(dtype) for _ in range(3))
    k = torch.randn(3, taps, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    module = FlashFFTConv(seqlen, dtype=dtype)
    inputs = [u, k] + {"none": [], "both": [pre, post], "post": [post]}[gates]

    def call(u, k, *gates):
        return module(u, k, *gates) if len(gates) != 1 else module(u, k, postgate=gates[0])

    def formula(u, k, *gates):
        pre, post = (1, *gates)[-2:] if gates else (1, 1)
        return post * circular(pre * u, k, seqlen)

    call.named_parameters = module.named_parameters
    agree(call, inputs, formula, TOLERANCE[dtype])


@pytest.mark.parametrize("taps", [5, 30, 60])
def test_partial_and_sparse(taps):
    u, k = torch.randn(2, 3, 30), torch.randn(3, taps)
    n = 60

    def partial(u, k):
        return circular(u, torch.cat([k[:, :40], 0 * k[:, 40:]], 1), n)

    def sparse(u, k):
        low = torch.fft.rfft(k, n) * (torch.arange(n // 2 + 1) < 10)
        return torch.fft.irfft(torch.fft.rfft(u, n) * low, n)[..., :30]

    agree(PartialFFTConv(40), [u, k], partial, 1e-5)
    agree(FrequencySparseFFTConv(20), [u, k], sparse, 1e-5)
    with pytest.raises(ValueError, match="N_partial is 0"):
        PartialFFTConv(0)


# The buffers of flash-fft-conv by FFT size.
STALE = {
    512: "f_sqrt_N_fft f_sqrt_N_ifft twiddle_factors_fft twiddle_factors_ifft twid".split(),
    8192: [*("f_32_fft", "f_16_ifft", "twiddle_factors_fft_16_16", "twiddle_factors_ifft_32_256")],
    65536: ["f_16_fft_real", "f_16_ifft_imag", "twiddle_factors_fft_real"],
}


class Layer(nn.Module):
    def __init__(self, channels, length):
        super().__init__()
        self.k = nn.Parameter(torch.randn(channels, length))


class Model(nn.Module):
    def __init__(self, seqlen):
        super().__init__()
        self.flashfftconv = FlashFFTConv(seqlen)
        self.layers = nn.ModuleList([Layer(3, 20) for _ in range(2)])
        for layer in self.layers:
            layer.flashfftconv = self.flashfftconv


@pytest.mark.parametrize("seqlen", STALE)
def test_a_checkpoint_with_stale_buffers_loads(seqlen):
    model, source = Model(seqlen), Model(seqlen)
    assert set(model.state_dict()) == {"layers.0.k", "layers.1.k"}
    state = source.state_dict()
    for place in ("flashfftconv", "layers.0.flashfftconv", "layers.1.flashfftconv"):
        state.update({f"{place}.{name}": torch.randn(16, 16, 2) for name in STALE[seqlen]})
    before = set(state)
    model.load_state_dict(state, strict=True)
    assert set(state) == before
    assert torch.equal(model.layers[1].k, source.layers[1].k)
    state["flashfftconv.twist"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="flashfftconv.twist"):
        model.load_state_dict(state)
    alone = FlashFFTConv(seqlen)
    alone.load_state_dict({name: torch.randn(4) for name in STALE[seqlen]}, strict=True)


@pytest.mark.parametrize("is_bhl", [True, False])
@pytest.mark.parametrize("taps, padding", [(3, 1), (4, (3, 0)), (1, 0), (5, 7)])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_depthwise(is_bhl, taps, padding, activation, dtype):
    conv = nn.Conv1d(3, 3, taps, groups=3)
    module = FlashDepthWiseConv1d(
        3, taps, padding, conv.weight, conv.bias, is_bhl, dtype=dtype, activation=activation
    )
    assert list(module.state_dict()) == ["weights", "bias"]
    assert module.weights.shape == ((3, taps) if is_bhl else (taps, 3))
    assert module.weights.dtype == dtype and conv.weight.data_ptr() != module.weights.data_ptr()

    def formula(x, weights, bias):
        x, weights = (x, weights) if is_bhl else (x.mT, weights.t())
        sides = padding if isinstance(padding, tuple) else (padding, padding)
        y = nn.functional.conv1d(nn.functional.pad(x, sides), weights[:, None], bias, groups=3)
        y = y if activation is None else nn.functional.silu(y)
        return y if is_bhl else y.mT

    x = torch.randn(2, 3, 40, dtype=dtype) if is_bhl else torch.randn(2, 40, 3, dtype=dtype)
    agree(module, [x], formula, TOLERANCE[dtype])
    want = formula(x.double(), *(p.double() for p in module.parameters()))
    y = module(x.half())
    assert y.dtype == torch.float16
    assert error(y, want) < 2 * TOLERANCE[torch.float16]

    # From a checkpoint of torch's module, and from its own
    other = FlashDepthwiseConv1d(3, taps, padding, torch.zeros(3, taps), torch.zeros(3), is_bhl)
    other.load_state_dict(conv.state_dict(), strict=True)
    assert torch.equal(other.weights, module.weights.float())
    other.load_state_dict(module.state_dict(), strict=True)


def test_depthwise_errors():
    with pytest.raises(ValueError, match=r"weights has shape \(3, 4\)"):
        FlashDepthWiseConv1d(3, 5, 1, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"bias has shape \(2,\)"):
        FlashDepthWiseConv1d(3, 4, 1, torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        FlashDepthWiseConv1d(3, 4, 1, torch.zeros(3, 4), activation="tanh")
    with pytest.raises(ValueError, match="dtype is torch.int64"):
        FlashFFTConv(16, dtype=torch.int64)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("options", [{}, {"two_sided": True}, {"fft_size": 24}])
@pytest.mark.parametrize("layout", ["BHL", "BLH"])
def test_fftconv(gated, options, layout):
    module = FFTConv(3, 20, activation="gelu", gated=gated, layout=layout, **options)
    names = ["k", "k_rev", "skip"] if "two_sided" in options else ["k", "skip"]
    assert list(module.state_dict()) == names
    norms = module.k.norm(dim=1)
    assert torch.allclose(norms, torch.ones(3), atol=1e-6)

    def formula(u, *gates, k, skip, k_rev=None):
        u, *gates = (x if layout == "BHL" else x.mT for x in (u, *gates))
        z = u * gates[0] if gated else u
        n = options.get("fft_size", 64)
        p = circular(z, k, n) + skip[:, None] * z
        if k_rev is not None:
            p = p + circular(z.flip(-1), k_rev, n).flip(-1)
        y = nn.functional.gelu(p)
        y = y * gates[1] if gated else y
        return y if layout == "BHL" else y.mT

    shape = (2, 3, 20) if layout == "BHL" else (2, 20, 3)
    agree(module, [torch.randn(shape) for _ in range(3 if gated else 1)], formula, 1e-5)
    module.load_state_dict(copy.deepcopy(module).state_dict(), strict=True)


def test_fftconv_errors():
    module = FFTConv(3, 20)
    assert module(torch.ones(3, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert FFTConv(3, 20, dtype=torch.float64).k.dtype == torch.float64
    with pytest.raises(ValueError, match="its axis H must be 3"):
        module(torch.ones(2, 4, 5))
    with pytest.raises(ValueError, match="its axis L from 1 to 20"):
        module(torch.ones(2, 3, 21))
    with pytest.raises(ValueError, match="in_gate is given; with gated=False"):
        module(torch.ones(2, 3, 5), torch.ones(2, 3, 5))
    with pytest.raises(ValueError, match="fft_size is 38"):
        FFTConv(3, 20, two_sided=True, fft_size=38)


@pytest.mark.parametrize(
    "make, inputs",
    [
        (lambda: FlashFFTConv(32), [(1, 2, 16), (2, 16)]),
        (lambda: PartialFFTConv(4), [(1, 2, 16), (2, 16)]),
        (lambda: FrequencySparseFFTConv(4), [(1, 2, 16), (2, 16)]),
        (lambda: FlashDepthWiseConv1d(2, 3, 1, torch.randn(2, 3)), [(1, 2, 16)]),
        (lambda: FFTConv(2, 16), [(1, 2, 16)]),
    ],
)
def test_pickle_and_deepcopy(make, inputs):
    module = make()
    inputs = [torch.randn(shape) for shape in inputs]
    y = module(*inputs)
    assert torch.equal(copy.deepcopy(module)(*inputs), y)
    assert torch.equal(pickle.loads(pickle.dumps(module))(*inputs), y)
    assert type(module).__name__ in repr(module)
