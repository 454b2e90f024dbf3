"""The examples of flash-fft-conv's README and of lrnnx's documentation, as their readers have
them, on torch tensors.

Imports are changed, and what could not run anywhere is corrected: `def` where a class is meant,
a missing super().__init__(), `...`.  Comments within the examples are the documents' own.
"""

import pytest
from compared import error
from fftconv.torch.flash import FlashDepthWiseConv1d, FlashDepthwiseConv1d, FlashFFTConv
from fftconv.torch.lrnnx import FFTConvS4, opt_ssm_forward
from support import big
from torch import nn
from torch_support import in_rest, torch

pytestmark = in_rest


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- flash-fft-conv: "How to Use FlashFFTConv" -----------------------------------


@pytest.mark.parametrize(
    "B, H", [(2, 3), pytest.param(16, 768, marks=big)], ids=["small", "as printed"]
)
def test_usage(B, H):
    # size of the FFT
    my_flashfftconv = FlashFFTConv(32768, dtype=torch.bfloat16)  # generally more stable!

    # input can be smaller than FFT size, but needs to be divisible by 2
    L = 16384

    # the input, B H L
    x = torch.randn(B, H, L, dtype=torch.bfloat16)  # same type as the input
    k = torch.randn(H, L, dtype=torch.float32)  # kernel needs to be fp32 for now

    out = my_flashfftconv(x, k)

    assert out.dtype == torch.bfloat16
    f, u = torch.fft, x[:2, :3].double()
    want = f.irfft(f.rfft(u, 2 * L) * f.rfft(k[:3].double(), 2 * L), 2 * L)[..., :L]
    assert error(out[:2, :3], want) < 1e-2


# ---- "Example Model" --------------------------------------------------------------


class MyModel(torch.nn.Module):
    def __init__(self, H, seqlen, num_layers):
        super().__init__()

        self.H = H
        self.seqlen = seqlen
        self.num_layers = num_layers
        self.flashfftconv = FlashFFTConv(seqlen, dtype=torch.bfloat16)

        # create your conv layers
        self.long_conv_layers = torch.nn.ModuleList(
            [ConvLayer(H, seqlen) for i in range(num_layers)]
        )

        # add a pointer to the flashfft object in each layer
        for layer in self.long_conv_layers:
            layer.flashfftconv = self.flashfftconv

    def forward(self, x):
        for layer in self.long_conv_layers:
            x = layer(x)

        return x


class ConvLayer(torch.nn.Module):
    def __init__(self, H, seqlen):
        super().__init__()
        self.k = torch.nn.Parameter(torch.randn(H, seqlen, dtype=torch.float32))

    def forward(self, x):
        return self.flashfftconv(x, self.k)  # self.flashfftconv comes from the wrapper model!


def test_example_model():
    model = MyModel(4, 64, 2)
    x = torch.randn(2, 4, 64, dtype=torch.bfloat16)
    y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    f, want = torch.fft, x.double()
    ks = [layer.k.detach().double().requires_grad_() for layer in model.long_conv_layers]
    for k in ks:
        want = f.irfft(f.rfft(want) * f.rfft(k), 64)
    want.square().mean().backward()
    assert error(y, want) < 2e-2
    for layer, k in zip(model.long_conv_layers, ks):
        assert error(layer.k.grad, k.grad) < 4e-2


# ---- "Gating and Implicit Padding" ------------------------------------------------


def gated_conv(u, k, in_gate, out_gate):
    # u, in_gate, and out_gate have shape B, H, L
    # k has shape H, L
    B, H, L = u.shape
    fft_size = 2 * L
    padding = fft_size - L
    u = torch.nn.functional.pad(u, (0, padding))
    k = torch.nn.functional.pad(k, (0, padding))
    in_gate = torch.nn.functional.pad(in_gate, (0, padding))
    out_gate = torch.nn.functional.pad(out_gate, (0, padding))

    # compute the gated convolution
    u_f = torch.fft.fft(u * in_gate, dim=-1)
    k_f = torch.fft.fft(k, dim=-1)
    y_f = u_f * k_f
    y = torch.fft.ifft(y_f, dim=-1).real * out_gate
    return y


def test_gating():
    L = 100
    u, in_gate, out_gate = (torch.randn(2, 3, L, dtype=torch.bfloat16) for _ in range(3))
    k = torch.randn(3, L)

    flashfftconv = FlashFFTConv(2 * L, dtype=torch.bfloat16)  # bf16 is usually necessary for gating
    y = flashfftconv(u, k, in_gate, out_gate)

    want = gated_conv(*(x.double() for x in (u, k, in_gate, out_gate)))
    assert error(y, want[..., :L]) < 1e-2


# ---- "Short Depthwise Convolutions" ------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [FlashDepthWiseConv1d, FlashDepthwiseConv1d])
def test_short_convolution(dtype, name):
    d, k, padding = 8, 3, 1

    # set up PyTorch equivalent to get the weights
    # in_channels = out_channels, and kernel size must be odd
    conv1d_torch = nn.Conv1d(
        in_channels=d, out_channels=d, kernel_size=k, groups=d, padding=padding, dtype=dtype
    )

    flash_conv1d = name(
        channels=d,
        kernel_size=k,
        padding=padding,
        weights=conv1d_torch.weight,
        bias=conv1d_torch.bias,
        dtype=dtype,  # this should be the dtype of the weights
    )

    for of_x in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn(2, d, 50, dtype=of_x)
        out_torch = conv1d_torch.double()(x.double())  # x is B, d, L
        out_flash = flash_conv1d(x)  # x can be a different dtype than weights

        # out_torch and out_flash should be the same!
        assert out_flash.dtype == of_x
        assert error(out_flash, out_torch) < 1e-2


# ---- lrnnx: "Example Usage" ---------------------------------------------------------


def test_example_usage():
    # Low-level usage with opt_ssm_forward
    B, L, H, N = 32, 1024, 64, 128
    x = torch.randn(B, L, H)
    K = torch.randn(L, N)
    B_ = torch.randn(N, H)
    C = torch.randn(H, N)

    output = opt_ssm_forward(x, K, B_, C)  # (B, L, H)

    f, u = torch.fft, (x[:1].double() @ B_.double().t()).mT
    y = f.irfft(f.rfft(u, 2 * L) * f.rfft(K.double().t(), 2 * L), 2 * L)[..., :L]
    assert output.shape == (B, L, H)
    assert error(output[:1], y.mT @ C.double().t()) < 1e-5

    # High-level usage with FFTConvS4 module
    conv_layer = FFTConvS4(d_model=64, l_max=1024, channels=4, kernel="s4d", dropout=0.1)

    x = torch.randn(32, 64, 1024)  # (B, D, L) with transposed=True
    y, _ = conv_layer(x)  # (B, 4, 64, 1024)

    assert y.shape == (32, 4, 64, 1024) and 0.08 < (y == 0).float().mean() < 0.12
