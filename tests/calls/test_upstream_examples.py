"""The examples of the documents that this library follows, as their readers have them:
flash-fft-conv's README, and a note on hyena-dna's fftconv.

Imports are changed, tensors are NumPy arrays, and what could not run anywhere is corrected:
`def` where a class is meant, a missing super().__init__(), `...`.  Comments within the examples
are the documents' own.
"""

import sys

import fftconv
import numpy as np
import pytest
from fftconv import FFTConv, reference
from fftconv.flash import FlashDepthWiseConv1d, FlashDepthwiseConv1d, FlashFFTConv
from support import TOLERANCE, big, norm, wide

BF16 = np.dtype("bfloat16")


def randn(*shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype)


# ---- flash-fft-conv: "How to Use FlashFFTConv" -----------------------------------


@pytest.mark.parametrize(
    "B, H", [(2, 3), pytest.param(16, 768, marks=big)], ids=["small", "as printed"]
)
def test_usage(B, H):
    # size of the FFT
    my_flashfftconv = FlashFFTConv(32768, dtype=BF16)  # generally more stable!

    # input can be smaller than FFT size
    L = 16384

    # the input, B H L
    x = randn(B, H, L, dtype=BF16)
    k = randn(H, L, dtype=np.float32)

    out = my_flashfftconv(x, k)

    assert out.shape == x.shape and out.dtype == x.dtype
    want = reference.conv(x[:2, :3], k[:3])
    error = norm(wide(out[:2, :3]) - want)
    assert (error <= TOLERANCE["bfloat16"] * norm(want)).all()


class Module:
    """Stands in for torch.nn.Module, with the part that the example needs."""

    def __call__(self, x):
        return self.forward(x)


class MyModel(Module):
    def __init__(self, H, seqlen, num_layers):
        super().__init__()

        self.H = H
        self.seqlen = seqlen
        self.num_layers = num_layers
        self.flashfftconv = FlashFFTConv(seqlen, dtype=BF16)

        # create your conv layers
        self.long_conv_layers = [ConvLayer(H, seqlen) for i in range(num_layers)]

        # add a pointer to the flashfft object in each layer
        for layer in self.long_conv_layers:
            layer.flashfftconv = self.flashfftconv

    def forward(self, x):
        for layer in self.long_conv_layers:
            x = layer(x)

        return x


class ConvLayer(Module):
    def __init__(self, H, seqlen):
        super().__init__()
        self.k = randn(H, seqlen) / np.float32(np.sqrt(seqlen))

    def forward(self, x):
        # self.flashfftconv comes from the wrapper model!
        return self.flashfftconv(x, self.k)


def test_example_model():
    model = MyModel(4, 256, 3)
    x = randn(2, 4, 256, dtype=BF16)
    y = model(x)
    want = x
    for layer in model.long_conv_layers:
        want = reference.conv(want, layer.k, mode="circular", fft_size=256)
    assert y.dtype == BF16 and y.shape == x.shape
    assert (norm(wide(y) - want) <= 3 * TOLERANCE["bfloat16"] * norm(want)).all()


# ---- "Gating and Implicit Padding" ------------------------------------------------


def gated_conv(u, k, in_gate, out_gate):
    # u, in_gate, and out_gate have shape B, H, L
    # k has shape H, L
    B, H, L = u.shape
    fft_size = 2 * L
    padding = fft_size - L
    u = np.pad(u, ((0, 0), (0, 0), (0, padding)))
    k = np.pad(k, ((0, 0), (0, padding)))
    in_gate = np.pad(in_gate, ((0, 0), (0, 0), (0, padding)))
    out_gate = np.pad(out_gate, ((0, 0), (0, 0), (0, padding)))

    # compute the gated convolution
    u_f = np.fft.fft(u * in_gate, axis=-1)
    k_f = np.fft.fft(k, axis=-1)
    y_f = u_f * k_f
    y = np.fft.ifft(y_f, axis=-1).real * out_gate
    return y


@pytest.mark.parametrize("L", [1000, 1024, 777])
def test_gated_conv(L):
    rng = np.random.default_rng(L)
    u, in_gate, out_gate = (rng.standard_normal((2, 3, L)).astype(BF16) for _ in range(3))
    k = rng.standard_normal((3, L)).astype(np.float32)

    flashfftconv = FlashFFTConv(2 * L, dtype=BF16)
    y = flashfftconv(u, k, in_gate, out_gate)

    want = gated_conv(*map(wide, (u, k, in_gate, out_gate)))
    assert not want[..., L:].any()
    want = want[..., :L]
    assert y.dtype == BF16
    assert (norm(wide(y) - want) <= TOLERANCE["bfloat16"] * norm(want)).all()


# ---- "Short Depthwise Convolutions" -------------------------------------------------


@pytest.mark.parametrize("x_dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_short_depthwise(dtype, x_dtype):
    d, k, padding = 6, 5, 2
    rng = np.random.default_rng(0)

    class conv1d_torch:  # its weight and bias
        weight = rng.standard_normal((d, 1, k)).astype(dtype)
        bias = rng.standard_normal(d).astype(dtype)

    flash_conv1d = FlashDepthWiseConv1d(
        channels=d,
        kernel_size=k,
        padding=padding,
        weights=conv1d_torch.weight,
        bias=conv1d_torch.bias,
        dtype=dtype,  # this should be the dtype of the weights
    )

    x = randn(4, d, 100, dtype=np.dtype(x_dtype))
    out_torch = reference.depthwise_conv1d(
        x, conv1d_torch.weight[:, 0], conv1d_torch.bias, padding=(padding, padding)
    )  # x is B, d, L
    out_flash = flash_conv1d(x)  # x can be a different dtype than weights

    # out_torch and out_flash should be the same!
    assert out_flash.dtype == x.dtype
    limit = TOLERANCE[x_dtype] * 2
    assert (norm(wide(out_flash) - out_torch) <= limit * norm(out_torch)).all()


def test_short_depthwise_of_torch():
    """The example runs with torch itself, where it is installed."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    d, k, padding, dtype = 6, 3, 1, torch.float32
    conv1d_torch = nn.Conv1d(
        in_channels=d, out_channels=d, kernel_size=k, groups=d, padding=padding, dtype=dtype
    )
    flash_conv1d = FlashDepthwiseConv1d(
        channels=d,
        kernel_size=k,
        padding=padding,
        weights=conv1d_torch.weight,
        bias=conv1d_torch.bias,
        dtype=dtype,
    )
    x = torch.randn(2, d, 50)
    out_torch = conv1d_torch(x)
    out_flash = flash_conv1d(x)
    assert torch.allclose(out_torch, out_flash, atol=1e-5)
    assert flash_conv1d(x.bfloat16()).dtype == torch.bfloat16


# ---- hyena-dna: "Function Signature" and "Implementation Strategy" ------------------


def test_fftconv_fwd():
    """fftconv_fwd takes all arguments that the note lists, in its order."""
    rng = np.random.default_rng(0)
    B, H, L, head_dim, fft_size = 2, 16, 100, 8, 256
    u, v, q = rng.standard_normal((3, B, H, L)).astype(np.float32)
    k = rng.standard_normal((H // head_dim, L))
    filter = np.fft.rfft(k, fft_size).astype(np.complex64)
    D = rng.standard_normal(H // head_dim).astype(np.float32)
    dropout_mask = rng.standard_normal((B, H)).astype(np.float32)
    out = fftconv.hyena.fftconv_fwd(
        u,  # Input tensor
        filter,  # Complex filter tensor
        D,  # Diagonal matrix
        v,  # Optional input tensor
        head_dim,  # Dimension of attention heads
        q,  # Optional query tensor
        dropout_mask,  # Optional dropout mask
        True,  # Whether to apply GELU activation
        True,  # Whether to apply GELU to input
        True,  # Whether to apply GELU to query
        fft_size,  # Size of the FFT
        True,  # Whether to force fp16 output
        True,  # Whether to use HBL layout for output
        True,  # Whether to use fp16 for FFT
    )
    want = reference.conv_heads(
        u,
        v,
        q,
        k,
        head_dim,
        skip=D,
        activation="gelu",
        mask=dropout_mask[:, :2],
        gelu_u=True,
        gelu_q=True,
    )
    assert out.dtype == np.float16 and out.shape == u.shape
    assert out.swapaxes(0, 1).flags.c_contiguous
    assert (norm(wide(out) - want) <= 2 * TOLERANCE["float16"] * norm(want)).all()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_sequence_mixing_primitive(precision):
    """The note asks for this: "Allow users to configure parameters like FFT size, precision, and
    activation functions".  The kind of the input array selects the backend."""
    mixer = FFTConv(8, 100, fft_size=256, precision=precision, activation="gelu", device=None)
    u = randn(2, 8, 100, dtype=np.dtype(precision))
    y = mixer(u)
    want = reference.conv(u, mixer.k, skip=mixer.skip, activation="gelu")
    assert y.dtype == u.dtype
    scale = norm(u) * (norm(mixer.k) + np.abs(mixer.skip))
    assert (norm(wide(y) - want) <= 2 * TOLERANCE[precision] * scale).all()
    if "torch" in sys.modules and precision == "float32":
        torch = sys.modules["torch"]
        z = mixer(torch.from_numpy(u))
        assert isinstance(z, torch.Tensor) and np.array_equal(z.numpy(), y)
