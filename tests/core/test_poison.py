"""The other tests fill each output with NaN before C writes it, so that an output that is not
written cannot pass.  Here C functions that do nothing show that this holds for every call: a result
then is the NaN that was there before."""

import ast
import re
from pathlib import Path

import fftconv
import numpy as np
import pytest
from fftconv import _lib, cuda

SOURCE = Path(fftconv.__file__).parent
# The C functions that compute nothing stay as they are; all others are replaced.
LEFT = re.compile(
    "create|destroy|get|bytes|version|abi|error|name|available|threads|cost|radices"
    "|devices|allocate|release|copy|device_of|wait|synchronize"
)
B, H, L = 2, 4, 32
RNG = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return RNG.standard_normal(shape).astype(dtype)


def complex_normal(*shape):
    return normal(*shape, dtype="float64") + 1j * normal(*shape, dtype="float64")


u, v, q, dy = normal(4, B, H, L)
k, skip, mask = normal(H, 20), normal(H), normal(B, H)
w, bias, state = normal(H, 3), normal(H), normal(B, H, 2)
k_matrix = normal(3, H, 20)
every = dict(in_gate=v, out_gate=q, skip=skip, mask=mask, activation="gelu")
two = dict(mode="two_sided", k_rev=normal(H, 9))
heads = dict(v=v, q=q, head_dim=2)
k_heads, d_heads = normal(H // 2, 20), normal(H // 2)
bins = np.fft.rfft(normal(H // 2, L), 2 * L).astype("complex64")
circle = dict(mode="circular", pattern=fftconv.Pattern.lowpass(9))
x, dx = normal(2, B, L, H)
K, B_, C = normal(L, 5), normal(5, H), normal(H, 5)
A, b, c = -1 + 0.1 * complex_normal(H, 6), complex_normal(1, H, 6), complex_normal(2, H, 6)
P = 0.1 * complex_normal(1, H, 6)
z = complex_normal(3, 64)


def plan_calls():
    plan = fftconv.Plan(u.shape, k.shape)
    spectrum = plan.spectrum(k)
    s = plan.rows_to_spectra(u)
    return [
        lambda: plan(u, k),
        lambda: plan(u, spectrum, skip=skip, activation="silu"),
        lambda: plan.backward(dy, u, k, **every),
        lambda: plan.rows_to_spectra(u),
        lambda: plan.multiply(spectrum, s),
        lambda: plan.spectra_to_rows(s),
        lambda: plan.natural(plan.rows_to_spectra(u)),
    ]


def modules():
    """The modules that hold their kernel, and how they are called."""
    mixer = fftconv.FFTConv(H, L)
    flash = fftconv.flash.FlashFFTConv(2 * L, "float32")
    partial, sparse = fftconv.flash.PartialFFTConv(9), fftconv.flash.FrequencySparseFFTConv(9)
    short = fftconv.flash.FlashDepthWiseConv1d(H, 3, 1, w[:, None], bias)
    layer = fftconv.lrnnx.FFTConvS4(H, d_state=8, kernel="s4d", seed=0)
    dense = fftconv.lrnnx.FFTConvS4(H, d_state=8, kernel="s4", seed=0)
    centaurus = [
        fftconv.lrnnx.Centaurus(H, n, 3, mode, seed=0) for mode, n in (("neck", 5), ("dws", H))
    ]
    stream = fftconv.Stream(k, batch=B)
    return {
        "FFTConv": [lambda: mixer(u), lambda: mixer.backward(dy, u)],
        "FlashFFTConv": [lambda: flash(u, k, v, q), lambda: flash.backward(dy, u, k, v, q)],
        "PartialFFTConv": [lambda: partial(u, k), lambda: partial.backward(dy, u, k[:, :9])],
        "FrequencySparseFFTConv": [lambda: sparse(u, k), lambda: sparse.backward(dy, u, k)],
        "FlashDepthWiseConv1d": [lambda: short(u), lambda: short.backward(dy, u)],
        "FlashDepthwiseConv1d": [
            lambda: fftconv.flash.FlashDepthwiseConv1d(H, 3, 1, w[:, None], bias)(u)
        ],
        "FFTConvS4": [
            lambda: layer(u)[0],
            lambda: dense(u)[0],
            lambda: layer.backward(dy[:, None], u)[0],
        ],
        "Centaurus": [lambda m=m: m(x, strategy=1) for m in centaurus],
        "Stream": [lambda: stream.push(u)],
    }


def calls():
    """{public name: calls of it, one for each way in which it makes arrays}.

    Calls that convolve in place are left out, since their results are the inputs:
    opt_ssm_forward with strategy 2, and fft_conv with three arrays.
    """
    return {
        "conv": [
            lambda: fftconv.conv(u, k),
            lambda: fftconv.conv(u, k, **every),
            lambda: fftconv.conv(u, k, **two),
            lambda: fftconv.conv(u, k, **circle),
            lambda: fftconv.conv(u + 1j * u, k),
            lambda: fftconv.conv(u, k, mode="same"),
            lambda: fftconv.conv(u[None], k, axis=-1),
        ],
        "conv_backward": [
            lambda: fftconv.conv_backward(dy, u, k, **every),
            lambda: fftconv.conv_backward(dy, u, k, **two),
            lambda: fftconv.conv_backward(dy, u, k, **circle),
            lambda: fftconv.conv_backward(dy, u, k, mode="same"),
        ],
        "conv_matrix": [lambda: fftconv.conv_matrix(u, k_matrix)],
        "conv_matrix_backward": [lambda: fftconv.conv_matrix_backward(dy[:, :3], u, k_matrix)],
        "depthwise_conv1d": [
            lambda: fftconv.depthwise_conv1d(u, w, bias),
            lambda: fftconv.depthwise_conv1d(u, w, padding="causal", state=state),
        ],
        "depthwise_conv1d_backward": [
            lambda: fftconv.depthwise_conv1d_backward(dy, u, w, bias, padding=1)
        ],
        "fftconv_fwd": [
            lambda: fftconv.hyena.fftconv_fwd(u, bins, d_heads, **heads),
            lambda: fftconv.hyena.fftconv_fwd(u, bins, d_heads, **heads, force_fp16_output=True),
        ],
        "fftconv_bwd": [lambda: fftconv.hyena.fftconv_bwd(dy, u, bins, d_heads, **heads)],
        "fftconv_func": [
            lambda: fftconv.hyena.fftconv_func(u, k, skip),
            lambda: fftconv.hyena.fftconv_func(u, k_heads, d_heads, **heads),
        ],
        "fftconv_func_backward": [
            lambda: fftconv.hyena.fftconv_func_backward(dy, u, k_heads, d_heads, **heads)
        ],
        "opt_ssm_forward": [
            *(
                lambda s=s, m=m: fftconv.lrnnx.opt_ssm_forward(x, K, B_, m, strategy=s)
                for s in (1, 3)
                for m in (C, C + 1j * C)
            ),
            lambda: fftconv.lrnnx.opt_ssm_forward(x, normal(20, 3, H), None, None),
        ],
        "opt_ssm_backward": [
            lambda: fftconv.lrnnx.opt_ssm_backward(dx, x, K, B_, C),
            lambda: fftconv.lrnnx.opt_ssm_backward(dx, x, K, B_, C + 1j * C),
        ],
        "fft_conv": [
            lambda: fftconv.lrnnx.fft_conv("bli,loi->blo", x, normal(20, 3, H)),
            lambda: fftconv.lrnnx.fft_conv("bln,ln->bln", x, normal(20, H)),
        ],
        "ssm": [
            lambda: fftconv.ssm.ssm_kernel(A, b, c, L),
            lambda: fftconv.ssm.ssm_kernel(A, b, c, L, P, discretization="bilinear"),
            lambda: fftconv.ssm.ssm_kernel_backward(normal(1, 2, H, L), A, b, c),
            lambda: fftconv.ssm.ssm_kernel_backward(
                normal(1, 2, H, L), A, b, c, P, discretization="bilinear"
            ),
        ],
        "monarch": [
            lambda: fftconv.monarch.dft(z, (8, 8)),
            lambda: fftconv.monarch.idft(z, (8, 8)),
            lambda: fftconv.monarch.stage(z, 1, (8, 8)),
            lambda: list(fftconv.monarch.stages(z, (8, 8))),
        ],
        "Plan": plan_calls(),
        **modules(),
    }


# Public names for which C writes no array.
OTHERS = {
    "Counters",
    "Gradients",
    "Pattern",
    "Spectrum",
    "Unsupported",
    "cost",
    "cuda",  # tested below
    "default_threads",
    "hippo",
    "isas",
    "reference",
    "release_workspace",
    "set_default_threads",
    "flash",  # modules whose names are among the calls
    "hyena",
    "lrnnx",
    # Names of lrnnx and hyena.
    "Cost",
    "FilterGradients",
    "FuncGradients",
    "Machine",
    "S4DKernel",
    "S4Kernel",
    "SsmGradients",
    "machine",
    "strategy_costs",
    "upstream_strategy",
}
CALLS = calls()


def nothing(monkeypatch):
    """Replaces every C function that computes by one that returns at once."""
    functions = {name: getattr(_lib.lib, name) for name in _lib.PROTOTYPES if not LEFT.search(name)}

    def returns(*arguments):
        return _lib.OK

    for name in functions:
        monkeypatch.setattr(_lib.lib, name, returns)
    by_id = {id(f) for f in functions.values()}
    for module in vars(fftconv).values():  # the same functions under the modules' own names
        if getattr(module, "__package__", None) == "fftconv":
            for name, value in list(vars(module).items()):
                if id(value) in by_id:
                    monkeypatch.setattr(module, name, returns)


def arrays(result):
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in arrays(part)]
    return [] if result is None else [result]


def are_nan(result):
    found = arrays(result)
    assert found
    for a in found:
        assert np.isnan(np.asarray(a).astype(complex)).all(), a


@pytest.mark.parametrize(
    "name, i", [(name, i) for name, ways in CALLS.items() for i in range(len(ways))]
)
def test_what_c_does_not_write_is_nan(name, i, monkeypatch):
    call = CALLS[name][i]
    assert all(np.isfinite(np.asarray(a).astype(complex)).all() for a in arrays(call()))
    nothing(monkeypatch)
    are_nan(call())


def test_every_public_call_is_looked_at():
    modules = (fftconv, fftconv.flash, fftconv.hyena, fftconv.lrnnx)
    public = {name for module in modules for name in module.__all__}
    assert set(CALLS) | OTHERS == public and not set(CALLS) & OTHERS


def test_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    rows, kernel = torch.from_numpy(u), torch.from_numpy(k)
    nothing(monkeypatch)
    are_nan(fftconv.conv(rows, kernel))
    are_nan(fftconv.conv_backward(rows, rows, kernel))


@pytest.mark.on_device
def test_on_a_device(monkeypatch):
    rows, kernel = cuda.asarray(u), cuda.asarray(k)
    nothing(monkeypatch)
    are_nan(fftconv.conv(rows, kernel).numpy())
    are_nan([g.numpy() for g in arrays(tuple(fftconv.conv_backward(rows, rows, kernel)))])


def test_a_used_workspace_is_poisoned_again():
    workspace = fftconv._backends.Workspace()
    for _ in range(2):
        buffer, _ = workspace.at_least(100)
        assert (buffer[:100] == 0xFF).all()
        buffer[...] = 0


def test_nothing_is_allocated_beside_the_seam():
    """Unwritten memory comes from _array alone, and on devices from cuda.empty: a module's own
    np.empty would not be filled with NaN.  torch.empty makes parameters of fftconv.torch, which
    are then initialised."""
    for file in SOURCE.glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                assert (
                    node.func.attr not in ("empty", "empty_like", "ndarray")
                    or called
                    in ("_array.empty", "cuda.empty", "self._backend.empty", "backend.empty")
                    or (called == "torch.empty" and file.parent.name == "torch")
                    or file.name in ("_array.py", "cuda.py")
                ), f"{file.name}:{node.lineno}: {called}"
