"""FFTConvS4: the document's example, convolution against recurrence, chunks, every argument,
gradients, and a test for each fault of the originals."""

import copy

import fftconv
import numpy as np
import pytest
from fftconv.lrnnx import FFTConvS4, S4DKernel, S4Kernel
from fftconv.s4 import TRANSFORMS  # no call shows their derivatives and inverses
from support import same_bits

# Limits relative to max |y|, over 4096 steps.
STEP_LIMIT = {"float32": 5e-5, "float64": 1e-10}
STATE = {"float32": "complex64", "float64": "complex128"}
KERNELS = {"s4": S4Kernel, "s4d": S4DKernel}
BOTH = pytest.mark.parametrize("kernel", ["s4", "s4d"])


def layer(kernel="s4d", heads=6, **arguments):
    return FFTConvS4(**{"d_model": heads, "kernel": kernel, "seed": 1, "d_state": 16, **arguments})


def close(a, b, dtype, factor=1):
    limit = factor * {"float32": 2e-6, "float64": 1e-12}[dtype]
    assert np.max(np.abs(a - b)) <= limit * np.max(np.abs(b))


def stepped(module, x, state):
    y = np.full((len(x), module.channels) + x.shape[1:], np.nan, x.dtype)
    for t in range(x.shape[-1]):
        y[..., t], state = module.step(x[..., t], state)
    return y, state


def test_document_example():
    """The document's high-level usage runs, with imports and arrays changed; in the original it
    ends in a TypeError."""
    conv_layer = FFTConvS4(d_model=64, l_max=1024, channels=4, kernel="s4d", dropout=0.1)
    x = np.random.randn(32, 64, 1024)  # (B, D, L) with transposed=True
    y, _ = conv_layer(x)  # (B, 4, 64, 1024)
    assert y.shape == (32, 4, 64, 1024) and _ is None
    assert np.isfinite(y).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", STEP_LIMIT)
@pytest.mark.parametrize(
    "kernel, init", [(kernel, init) for kernel in KERNELS for init in KERNELS[kernel].inits]
)
def test_step_is_forward(kernel, init, dtype, rng):
    module = layer(kernel, heads=4, channels=2, init=init, d_state=64)
    x = rng.standard_normal((2, 4, 4096)).astype(dtype)
    y, _ = module(x)
    module.setup_step()
    got, _ = stepped(module, x, module.default_state(2).astype(STATE[dtype]))
    assert np.max(np.abs(got - y)) <= STEP_LIMIT[dtype] * np.max(np.abs(y))


@pytest.mark.parametrize("kernel, disc", [("s4", "bilinear"), ("s4d", "bilinear"), ("s4d", "zoh")])
@pytest.mark.parametrize("lengths", [(300,), (1, 299), (100, 1, 99, 100), (7,) * 42 + (6,)])
@pytest.mark.parametrize("l_max", [None, 50])
def test_chunks_are_the_whole(kernel, lengths, disc, l_max, rng):
    """Any chunks, from any state, give the whole row, also with l_max below L, where the original
    stops with a shape error."""
    module = layer(kernel, channels=2, disc=disc, l_max=l_max)
    x = rng.standard_normal((3, 6, 300))
    state = rng.standard_normal((3, 6, 8)) + 1j * rng.standard_normal((3, 6, 8))
    whole, last = module(x, state)
    parts, at = [], 0
    s = state
    for n in lengths:
        y, s = module(x[..., at : at + n], s)
        parts.append(y)
        at += n
    close(np.concatenate(parts, -1), whole, "float64")
    close(s, last, "float64")
    module.setup_step()
    got, s = stepped(module, x, state)
    close(got, whole, "float64")
    close(s, last, "float64")


@BOTH
def test_l_max(kernel, rng):
    """Without a state the kernel ends after l_max / rate samples."""
    x = rng.standard_normal((2, 6, 100))
    for l_max, rate, taps in (40, 1, 40), (40, 2, 20), (500, 1, 100), (1, 4, 1):
        module = layer(kernel, l_max=l_max)
        y, state = module(x, rate=rate)
        k, _ = module.kernel(100, rate=rate, dtype="float64")
        want = fftconv.conv(x, k[0, :, :taps])
        close(y[:, 0], want, "float64")
        assert state is None


@BOTH
def test_rate(kernel, rng):
    """rate multiplies Delta exactly: the result is that of a layer with rate times the dt, not an
    approximation by powers of another rate's matrix."""
    slow, fast = layer(kernel), layer(kernel)
    fast.kernel.parameters["inv_dt"] += np.log(3)
    x = rng.standard_normal((2, 6, 65))
    close(slow(x, rate=3.0)[0], fast(x)[0], "float64")
    slow.setup_step(rate=3.0)
    got, _ = stepped(slow, x, slow.default_state(2).astype(complex))
    close(got, fast(x)[0], "float64")


@BOTH
def test_layouts(kernel, rng):
    """(B, H, L) or (B, L, H) goes in and (B, C, H, L) comes out; flatten orders heads and channels
    as swap_channels says."""
    x = rng.standard_normal((2, 6, 50)).astype("f4")
    y, _ = layer(kernel, channels=3)(x)
    back, _ = layer(kernel, channels=3, transposed=False)(np.ascontiguousarray(x.swapaxes(1, 2)))
    assert y.shape == back.shape == (2, 3, 6, 50)
    close(back, y, "float32")
    for swap in False, True:
        module = layer(kernel, channels=3, swap_channels=swap)
        assert module.d_output == 18
        flat = module.flatten(y)
        assert flat.shape == (2, 18, 50)
        for c in range(3):
            for h in range(6):
                assert same_bits(flat[:, h * 3 + c if swap else c * 6 + h], y[:, c, h])
        assert same_bits(module.flatten(y[..., 4]), flat[..., 4])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dtypes(dtype, rng):
    x = rng.standard_normal((2, 6, 50)).astype(dtype)
    y, _ = layer()(x)
    want, _ = layer()(x.astype("f8"))
    assert y.dtype == dtype
    assert np.max(np.abs(y - want)) < 3e-3 * np.max(np.abs(want))
    if dtype != "float16":
        close(y, want, dtype)


@BOTH
def test_torch_goes_in_and_out(kernel):
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 6, 50)
    module = layer(kernel)
    y, _ = module(x)
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), module(x.numpy())[0])


# ---- Dropout ---------------------------------------------------------------


def test_dropout(rng):
    """Dropout acts on y, in train() alone, and scales it; the original ignores it."""
    x = rng.standard_normal((4, 6, 200))
    plain, _ = layer()(x)
    module = layer(dropout=0.25)
    assert same_bits(module(x)[0], plain), "eval() is the start"
    y, _ = module.train()(x)
    gone = y == 0
    assert 0.2 < gone.mean() < 0.3
    np.testing.assert_allclose(y[~gone], plain[~gone] / 0.75, rtol=1e-12)
    assert not same_bits(module(x)[0], y), "another mask each time"
    assert same_bits(module.eval()(x)[0], plain)
    assert same_bits(layer(dropout=0.25).train()(x)[0], y), "seeded"


def test_tied_dropout(rng):
    x = rng.standard_normal((40, 6, 20))
    y, _ = layer(dropout=0.5, tie_dropout=True, channels=2).train()(x)
    gone = (y == 0).all(-1)
    assert ((y == 0) == gone[..., None]).all()
    assert 0.4 < gone.mean() < 0.6


def test_drop_kernel(rng):
    """drop_kernel drops entries of k in train(), which the response to an impulse shows."""
    x = np.zeros((1, 6, 400))
    x[..., 0] = 1
    plain, _ = layer()(x)
    y, _ = layer(drop_kernel=0.4).train()(x)
    gone = np.abs(y) < 1e-14
    assert 0.35 < gone.mean() < 0.45
    np.testing.assert_allclose(y[~gone], plain[~gone] / 0.6, rtol=1e-10, atol=1e-13)


# ---- Kernels and their parameters --------------------------------------------


def config(kernel, **more):
    """A param_config with the entries that lrnnx writes."""
    p = layer(kernel, channels=2).kernel.parameters
    return {
        **p,
        "N": 8,
        "H": 6,
        "channels": 2,
        "rank": 1,
        "repeat": 1,
        "dt_fast": False,
        "real_transform": "exp",
        "imag_transform": "none",
        "dt_transform": "exp",
        "is_real": False,
        "deterministic": False,
        "verbose": True,
        **more,
    }


@BOTH
def test_param_config(kernel, rng):
    x = rng.standard_normal((2, 6, 50))
    want, _ = layer(kernel, channels=2)(x)
    module = FFTConvS4(6, channels=2, kernel_type=kernel, param_config=config(kernel))
    assert same_bits(module(x)[0], want)
    pairs = {
        name: np.stack([v.real, v.imag], -1)
        for name, v in config(kernel).items()
        if np.iscomplexobj(v)
    }
    module = FFTConvS4(6, channels=2, kernel_type=kernel, param_config=config(kernel, **pairs))
    assert same_bits(module(x)[0], want)


@BOTH
def test_setup_step_has_one_signature(kernel, rng):
    """Both kernels take mode=, and refuse a mode that would lose every digit; setup_step may be
    called again."""
    module = layer(kernel)
    x = rng.standard_normal((2, 6, 40))
    want, _ = module(x)
    state = module.default_state(2).astype(complex)
    for mode in KERNELS[kernel].modes:
        module.setup_step(mode=mode)
        module.setup_step(mode=mode)
        close(stepped(module, x, state)[0], want, "float64")
    with pytest.raises(ValueError, match="mode is "):
        module.setup_step(mode="diagonal" if kernel == "s4" else "dense")


@BOTH
def test_step_before_setup(kernel):
    module = layer(kernel)
    with pytest.raises(ValueError, match="before setup_step"):
        module.step(np.zeros((2, 6)), module.default_state(2))


@BOTH
def test_step_sees_new_parameters(kernel, rng):
    """No old matrices are used: forward and step agree after the parameters changed in place."""
    module = layer(kernel)
    x = rng.standard_normal((2, 6, 30))
    state = module.default_state(2).astype(complex)
    module.setup_step()
    before, _ = stepped(module, x, state)
    for name in module.kernel.parameters:
        module.kernel.parameters[name] *= 1.1
        close(stepped(module, x, state)[0], module(x)[0], "float64")
    assert np.max(np.abs(module(x)[0] - before)) > 1e-3


@BOTH
def test_default_state(kernel):
    """A state has one of each pair, before and after setup_step, in any batch shape."""
    module = layer(kernel)
    for batch in (), (3,), (2, 5):
        state = module.default_state(*batch, device="cpu")
        assert state.shape == batch + (6, 8) and state.dtype == np.complex64
        assert not state.any()
    module.setup_step()
    assert module.default_state(3).shape == (3, 6, 8)
    with pytest.raises(ValueError, match="device is 'cuda'"):
        module.default_state(3, device="cuda")


def test_deterministic_steps():
    """dt is spaced evenly in the logarithm from dt_min to dt_max; the original exponentiates twice
    and gets 1.0 ... 1.1."""
    for transform in "exp", "softplus", "none", "relu", "sigmoid":
        kernel = S4DKernel(5, deterministic=True, dt_transform=transform)
        np.testing.assert_allclose(kernel.dt()[:, 0], np.geomspace(1e-3, 1e-1, 5), rtol=1e-10)
    kernel = S4DKernel(5, deterministic=True, dt_fast=True)
    np.testing.assert_allclose(kernel.dt()[:, 0], np.geomspace(1e-3, 1e-1, 5))


def test_frequency_zero_stays():
    """The first imaginary part of S4D-Lin is 0, not 1e-4, to which the original clamps it."""
    assert (S4DKernel(3, init="lin").A().imag[:, 0] == 0).all()


def test_transforms():
    """Slopes and inverses are right, also at softplus's small and large values."""
    for name, (f, slope, inverse) in TRANSFORMS.items():
        y = np.array([1e-3, 0.1, 0.9] + [30, 800.0] * (name != "sigmoid"))
        np.testing.assert_allclose(f(inverse(y)), y, rtol=1e-10)
        x = inverse(y)
        np.testing.assert_allclose(slope(x), (f(x + 1e-6) - f(x - 1e-6)) / 2e-6, rtol=1e-3)
    with pytest.raises(ValueError, match="real_transform is 'sigmoid'"):
        S4DKernel(3, init="real", real_transform="sigmoid")


def test_real_states(rng):
    """With is_real there are d_state states, in forward, step and default_state."""
    module = layer(is_real=True, init="real")
    assert module.default_state(2).shape == (2, 6, 16)
    x = rng.standard_normal((2, 6, 60))
    module.setup_step()
    got, _ = stepped(module, x, module.default_state(2).astype(complex))
    close(got, module(x)[0], "float64")
    with pytest.raises(ValueError, match="is_real is True"):
        layer("s4", is_real=True)


def test_b_clip():
    """B_clip=2 is the original's value, and None gives exact HiPPO."""
    clipped = S4Kernel(2, init="legs").parameters["B"]
    exact = S4Kernel(2, init="legs", B_clip=None).parameters["B"]
    assert np.abs(clipped.imag).max() <= 2 < np.abs(exact.imag).max()
    assert np.abs(clipped - exact).max() > 1


def test_bandlimit(rng):
    """C is 0 beyond the band limit, in the kernel and in its gradient."""
    options = dict(init="lin", deterministic=True, dt_min=0.1, seed=0)
    kernel = S4DKernel(2, bandlimit=0.5, **options)
    frequency = kernel.dt() * np.abs(kernel.A().imag) / (2 * np.pi)
    kept = kernel.backward(rng.standard_normal((1, 2, 40)))["C"] != 0
    np.testing.assert_array_equal(kept[0], frequency < 0.25)
    assert 0 < kept.sum() < kept.size
    every = S4DKernel(2, **options)
    assert not same_bits(kernel(40)[0], every(40)[0])
    every.parameters["C"] *= frequency < 0.25
    assert same_bits(kernel(40)[0], every(40)[0])


@BOTH
def test_shared_states(kernel, rng):
    """With n_ssm = S, head h has A, B (and P) number h mod S."""
    module = layer(kernel, n_ssm=2)
    p = module.kernel.parameters
    assert p["A_real"].shape == (2, 8) and p["B"].shape == (1, 2, 8)
    p["A_real"][1] += 1
    A = module.kernel.A()
    for h in range(6):
        np.testing.assert_array_equal(A[h], A[h % 2])
    assert (A[0] != A[1]).any()


def test_rank(rng):
    assert S4Kernel(2, init="legt").parameters["P"].shape[0] == 2
    wider = S4Kernel(2, init="legs", rank=3, seed=5)
    plain = S4Kernel(2, init="legs", seed=5)
    assert wider.parameters["P"].shape[0] == 3
    close(wider(80, dtype="float64")[0], plain(80, dtype="float64")[0], "float64")
    with pytest.raises(ValueError, match="rank is 1; 'legt' needs 2"):
        S4Kernel(2, init="legt", rank=1)


# ---- Gradients --------------------------------------------------------------


def check_gradient(f, x, got, rng):
    """Compares got, in d/dRe + i d/dIm, with a finite difference along a random direction."""
    way = rng.standard_normal(x.shape)
    if np.iscomplexobj(x):
        way = way + 1j * rng.standard_normal(x.shape)
    eps, saved, ends = 1e-6, x.copy(), []
    for side in eps, -eps:
        x[...] = saved + side * way
        ends.append(f())
    x[...] = saved
    want = (ends[0] - ends[1]) / (2 * eps)
    value = np.sum((np.conj(got) * way).real)
    assert abs(value - want) < 1e-6 * max(1, np.linalg.norm(got) * np.linalg.norm(way)), (
        value,
        want,
    )


@pytest.mark.parametrize(
    "kernel, arguments",
    [
        ("s4", {}),
        ("s4", {"init": "legt", "n_ssm": 2, "dt_tie": False}),
        ("s4", {"init": "fout", "dt_fast": True}),
        ("s4d", {}),
        ("s4d", {"init": "inv", "disc": "bilinear", "n_ssm": 3}),
        ("s4d", {"disc": "dss", "dt_tie": False}),
        (
            "s4d",
            {
                "dt_transform": "softplus",
                "real_transform": "relu",
                "imag_transform": "softplus",
                "bandlimit": 0.5,
            },
        ),
        ("s4d", {"is_real": True, "init": "real"}),
        ("s4d", {"dt_transform": "sigmoid", "imag_transform": "exp", "dt_fast": True}),
    ],
)
def test_gradients_of_parameters(kernel, arguments, rng):
    module = layer(kernel, d_state=8, channels=2, dt_min=0.02, **arguments)
    dk = rng.standard_normal((2, 6, 40))
    got = module.kernel.backward(dk, rate=1.5)
    assert list(got) == list(module.kernel.parameters)
    for name, x in module.kernel.parameters.items():
        assert got[name].shape == x.shape
        if np.iscomplexobj(x) and module.kernel.is_real:
            continue  # the imaginary part is no parameter
        check_gradient(
            lambda: np.sum(dk * module.kernel(40, rate=1.5, dtype="float64")[0]), x, got[name], rng
        )


@pytest.mark.parametrize("transposed", [True, False])
@BOTH
def test_gradients_of_the_layer(kernel, transposed, rng):
    """Gradients are right through dropout, a dropped kernel and a cut kernel."""
    module = layer(
        kernel, d_state=8, channels=2, l_max=30, dropout=0.3, drop_kernel=0.3, transposed=transposed
    ).train()
    x = rng.standard_normal((2, 6, 40) if transposed else (2, 40, 6))
    dy = rng.standard_normal((2, 2, 6, 40))
    ran = copy.deepcopy(module)  # each copy draws the same random numbers
    ran(x)
    dx, got = ran.backward(dy, x)

    def loss():
        return np.sum(dy * copy.deepcopy(module)(x)[0])

    assert dx.shape == x.shape
    check_gradient(loss, x, dx, rng)
    for name, p in module.kernel.parameters.items():
        check_gradient(loss, p, got[name], rng)


# ---- Bad input --------------------------------------------------------------


@pytest.mark.parametrize(
    "change, words",
    [
        ({"kernel": None}, "kernel is None and param_config None"),
        ({"param_config": {}}, "kernel is 's4d' and param_config given"),
        ({"kernel": "s5"}, "kernel is 's5'; allowed: 's4', 's4d'"),
        ({"kernel_type": "s4"}, "kernel_type is 's4', and kernel 's4d'"),
        ({"d_model": 0}, "d_model is 0"),
        ({"channels": 1.5}, "channels is 1.5"),
        ({"l_max": 0}, "l_max is 0"),
        ({"dropout": 1}, "dropout is 1"),
        ({"drop_kernel": -0.1}, "drop_kernel is -0.1"),
        ({"d_state": 7}, "d_state is 7.*even"),
        ({"n_ssm": 4}, "n_ssm is 4; it must divide d_model, 6"),
        ({"init": "fout"}, "init is 'fout'"),
        ({"disc": "euler"}, "disc is 'euler'"),
        ({"dt_transform": "log"}, "dt_transform is 'log'"),
        ({"dt_min": 0}, "dt_min is 0"),
        ({"B_clip": -1, "init": "legs"}, "b_clip is -1"),
        ({"rank": 1}, "rank is 1; a diagonal kernel has none"),
        ({"bandlimit": 0}, "bandlimit is 0"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        layer(**change)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"B": None}, r"lacks \['B'\]"),
        ({"gamma": 1}, r"has \['gamma'\]"),
        ({"N": 9}, r"param_config\['N'\] is 9; its arrays say 8"),
        ({"inv_dt": np.ones((5, 1))}, r"inv_dt has shape \(5, 1\)"),
        ({"C": np.ones((2, 6))}, r"param_config\['C'\] has shape \(2, 6\)"),
        ({"A_imag": np.ones((6, 9))}, r"A_imag has shape \(6, 9\)"),
        ({"real_transform": "log"}, "real_transform is 'log'"),
    ],
)
def test_bad_config(change, words):
    with pytest.raises(ValueError, match=words):
        FFTConvS4(6, channels=2, kernel_type="s4d", param_config=config("s4d", **change))


def test_keywords():
    """Those that resemble no argument's name are ignored, as the original ignores them."""
    layer = FFTConvS4(6, kernel="s4d", d_state=8, seed=0)
    x = np.ones((2, 6, 20), np.float32)
    want, _ = layer(x)
    assert np.array_equal(layer(x, lengths=None, inference_cache=1)[0], want)
    layer.setup_step(verbose=True)
    for call, keyword, meant in (
        (lambda: layer(x, states=layer.default_state(2)), "states", "state"),
        (lambda: layer.forward(x, State=None), "State", "state"),
        (lambda: layer(x, rates=2.0), "rates", "rate"),
        (lambda: layer.setup_step(modes="linear"), "modes", "mode"),
    ):
        with pytest.raises(TypeError, match=f"no argument '{keyword}'; did you mean '{meant}'"):
            call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'dstate'"):
        FFTConvS4(6, kernel="s4d", dstate=8)
    with pytest.raises(TypeError, match="there is no argument 'dstate'"):
        FFTConvS4(6, channels=2, kernel_type="s4d", param_config=config("s4d"), dstate=8)


def test_states_have_complex_types():
    layer = FFTConvS4(6, kernel="s4d", d_state=8).kernel
    assert layer.default_state(2).dtype == "complex64"
    assert layer.default_state(2, dtype=">c16").dtype == np.dtype("complex128")
    with pytest.raises(ValueError, match="dtype is 'f4'; allowed: complex128, complex64"):
        layer.default_state(2, dtype="f4")


def test_bad_config_beside_other_arguments():
    for arguments, words in (
        ({"kernel_type": None}, "kernel_type is None"),
        ({"kernel_type": "s4d", "d_state": 4}, r"kernel_args has \['d_state'\]"),
        ({"kernel_type": "s4d", "channels": 3}, "channels is 3"),
        ({"kernel_type": "s4d", "d_model": 7}, "d_model is 7"),
        ({"kernel_type": "s4d", "param_config": [1]}, "param_config is a list"),
    ):
        with pytest.raises(ValueError, match=words):
            FFTConvS4(**{"d_model": 6, "channels": 2, "param_config": config("s4d"), **arguments})


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m(np.zeros((2, 5, 9))), r"x has shape \(2, 5, 9\).*H = 6"),
        (lambda m: m(np.zeros((2, 6, 0))), "x has shape"),
        (lambda m: m(np.zeros((6, 9))), "x has shape"),
        (lambda m: m(np.zeros((2, 6, 9), complex)), "x has dtype complex128"),
        (lambda m: m(np.zeros((2, 6, 9)), rate=0), "rate is 0"),
        (lambda m: m(np.zeros((2, 6, 9)), np.zeros((2, 6, 16))), "state has shape"),
        (lambda m: m(np.zeros((2, 6, 9)), np.zeros((3, 6, 8))), "state has shape"),
        (lambda m: m.step(np.zeros((2, 5)), m.default_state(2)), "x has shape"),
        (lambda m: m.step(np.zeros((2, 6)), np.zeros((2, 8))), "state has shape"),
        (lambda m: m.setup_step(rate=-1), "rate is -1"),
        (lambda m: m.backward(np.zeros((2, 6, 9)), np.zeros((2, 6, 9))), "dy has shape"),
        (lambda m: m.flatten(np.zeros((2, 6, 9))), "y has shape"),
        (lambda m: m.default_state(-1), "batch_shape is -1"),
    ],
)
@BOTH
def test_bad_calls(kernel, call, words):
    module = layer(kernel)
    module.setup_step()
    with pytest.raises(ValueError, match=words):
        call(module)


def test_growing_states_are_refused():
    """Re Lambda >= 0, which the transform "none" allows, is refused."""
    module = layer(real_transform="none")
    module.kernel.parameters["A_real"][2, 3] = -0.1
    with pytest.raises(ValueError, match=r"A\[2, 3\] is .*negative real part"):
        module(np.zeros((1, 6, 9)))


@BOTH
def test_step_checks_its_parameters(kernel):
    """`step` runs no kernel, so it checks the parameters itself."""
    for change, words in (
        (("A_real", -0.1), r"A\[2, 3\] is .*negative real part"),
        (("C", np.nan), "C has entries that are not finite"),
        (("C", None), r"C has shape \(1, 2, 8\)"),
    ):
        module = layer(kernel, real_transform="none")
        module.setup_step()
        name, value = change
        p = module.kernel.parameters
        if value is None:
            p[name] = p[name][:, :2]
        else:
            p[name][..., 2, 3] = value
        with pytest.raises(ValueError, match=words):
            module.step(np.zeros((2, 6)), module.default_state(2))


@BOTH
def test_a_real_state_keeps_both_parts(kernel, rng):
    module = layer(kernel)
    module.setup_step()
    x = rng.standard_normal((2, 6, 9))
    want, last = module(x, np.zeros((2, 6, 8), complex))
    got, after = module(x, np.zeros((2, 6, 8)))
    assert same_bits(got, want) and same_bits(after, last)
    got, after = stepped(module, x, np.zeros((2, 6, 8)))
    close(got, want, "float64")
    close(after, last, "float64")
    with pytest.raises(ValueError, match="x has dtype complex128"):
        module.step(x[..., 0] + 0j, np.zeros((2, 6, 8)))


@BOTH
def test_torch_bfloat16(kernel):
    """torch does not know NumPy's bfloat16, so its bits are passed."""
    torch = pytest.importorskip("torch")
    x = torch.linspace(-1, 1, 108).reshape(2, 6, 9)
    module = layer(kernel)
    got, _ = module(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    want, _ = module(x)
    assert (got.float() - want).abs().max() < 2e-2 * want.abs().max()


def test_dss_refuses_tiny_time_steps():
    module = layer(disc="dss")
    module.kernel.parameters["inv_dt"][...] = np.log(1e-300)
    for call in (module, lambda x: module.backward(np.zeros((1, 1, 6, 9)), x)):
        with pytest.raises(
            ValueError, match=r"A\[0, 0\] is .*e-30.*, must be of size 1e-100 or more"
        ):
            call(np.zeros((1, 6, 9)))


def test_dss_has_no_step():
    module = layer(disc="dss")
    module(np.zeros((1, 6, 9)))
    for call in (module.setup_step, lambda: module(np.zeros((1, 6, 9)), np.zeros((1, 6, 8)))):
        with pytest.raises(ValueError, match="disc is 'dss'"):
            call()


@pytest.mark.parametrize("kind", ["s4", "s4d"])
@pytest.mark.parametrize("dt", [1e-300, 1e-20, 1e20, 1e55, 1e84, 1e160, 1e300])
def test_forward_and_step_at_extreme_time_steps(kind, dt, rng):
    """Both give the same, or both say that the step is too large."""
    layer = FFTConvS4(2, kernel=kind, d_state=4, disc="bilinear", seed=0)
    layer.kernel.parameters["inv_dt"][...] = np.log(dt)
    x = rng.standard_normal((1, 2, 8))
    layer.setup_step()
    state = layer.default_state(1).astype(np.complex128)
    if dt > 1e60:
        with pytest.raises(ValueError, match="times Delta"):
            layer.forward(x)
        with pytest.raises(ValueError, match="times Delta"):
            layer.step(x[..., 0], state)
        return
    y, _ = layer.forward(x)
    for t in range(8):
        want, state = layer.step(x[..., t], state)
        assert np.abs(y[..., t] - want).max() <= 1e-13 * np.abs(y).max()
        assert np.abs(want).max() > 0
