"""`fftconv.torch.lrnnx` against recurrences in float64, and its checkpoints."""

import copy
import pickle

import numpy as np
import pytest
from compared import error, same_gradients, same_when_compiled
from fftconv import s4
from fftconv.torch.lrnnx import (
    S4,
    S4D,
    Centaurus,
    CentaurusDWS,
    CentaurusFull,
    CentaurusNeck,
    CentaurusPWNeck,
    FFTConvS4,
)
from torch import nn
from torch.nn import functional as F
from torch_support import in_rest, torch

pytestmark = in_rest


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


TRANSFORMS = {
    "none": lambda x: x,
    "exp": torch.exp,
    "relu": lambda x: F.relu(x) + 1e-4,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.log(1 + torch.exp(x)),
}


def recurrence(
    p,
    x,
    state=None,
    rate=1.0,
    disc="zoh",
    dt_transform="exp",
    real_transform="exp",
    imag_transform="none",
    dt_fast=False,
    bandlimit=None,
    length=None,
):
    """y (B, C, H, L) and the state (B, H, 2N) by the recurrence of the whole matrices.

    p: the parameters in float64.  length: the kernel ends after so many samples.
    """
    heads, n = p["C"].shape[1], p["A_real"].shape[1]

    def part(v):
        return torch.view_as_complex(v) if v.dim() == 4 else v + 0j

    def tile(v):
        return torch.cat([v] * (heads // v.shape[-2]), -2)

    def both(v):
        return torch.cat([v, v.conj()], -1)

    dt = TRANSFORMS[dt_transform](torch.sinh(p["inv_dt"]) if dt_fast else p["inv_dt"])
    A = -TRANSFORMS[real_transform](p["A_real"]) + 0j
    if "A_imag" in p:
        A = A - 1j * TRANSFORMS[imag_transform](p["A_imag"])
    A, B, C = tile(A), tile(part(p["B"])[0]), part(p["C"])
    if bandlimit is not None:
        C = C * (dt * A.imag.abs() / (2 * np.pi) < bandlimit / 2)
    dt = dt * rate
    full, B, C, dt = (
        torch.diag_embed(both(A)),
        both(B),
        both(C),
        torch.cat([dt + 0 * A.real] * 2, 1),
    )
    if "P" in p:
        P = both(tile(part(p["P"])))
        full = full - torch.einsum("rhm,rhn->hmn", P, P.conj())
    full = dt[..., None] * full
    one = torch.eye(2 * n)
    if disc == "zoh":
        bar = torch.matrix_exp(full)
        B = torch.linalg.solve(full, ((bar - one) @ (dt * B)[..., None]))[..., 0]
    else:
        bar = torch.linalg.solve(one - full / 2, one + full / 2)
        B = torch.linalg.solve(one - full / 2, (dt * B)[..., None])[..., 0]
    s = torch.zeros(len(x), heads, 2 * n, dtype=torch.complex128) if state is None else both(state)
    late = torch.zeros_like(s)  # what inputs of `length` samples ago have left
    power = None if length is None else torch.linalg.matrix_power(bar, length)
    y = []
    for t in range(x.shape[2]):
        s = torch.einsum("hmn,bhn->bhm", bar, s) + B * x[..., t, None]
        if length is not None:
            late = torch.einsum("hmn,bhn->bhm", bar, late)
            if t >= length:
                late = late + torch.einsum("hmn,hn->hm", power, B) * x[..., t - length, None]
        y.append(torch.einsum("chn,bhn->bch", C, s - late).real)
    return torch.stack(y, -1), s


def leaves_of(layer):
    """(the parameters; the same in float64 by name)."""
    names = dict(layer.named_parameters())
    wide = {n.split(".")[-1]: p.detach().double().requires_grad_() for n, p in names.items()}
    return list(names.values()), wide


KERNELS = [
    ("s4d", {}),
    ("s4d", dict(disc="bilinear", dt_tie=False, n_ssm=2, init="lin")),
    ("s4d", dict(dt_transform="softplus", dt_fast=True, imag_transform="exp", init="inv")),
    ("s4d", dict(real_transform="relu", bandlimit=0.1, init="lin")),
    ("s4d", dict(is_real=True, init="real")),
    ("s4", {}),
    ("s4", dict(rank=2, n_ssm=1)),
    ("s4", dict(init="legt", real_transform="softplus", rank=2)),
]


def options_of(kernel, more):
    named = ("dt_transform", "real_transform", "imag_transform", "dt_fast", "bandlimit")
    return {
        "disc": more.get("disc", "zoh" if kernel == "s4d" else "bilinear"),
        **{n: more[n] for n in named if n in more},
    }


@pytest.mark.parametrize("kernel, more", KERNELS, ids=str)
@pytest.mark.parametrize(
    "channels, transposed, l_max, rate", [(1, True, None, 1.0), (2, False, 9, 1.5)]
)
def test_fftconv_s4(kernel, more, channels, transposed, l_max, rate):
    layer = FFTConvS4(
        4, l_max=l_max, channels=channels, transposed=transposed, kernel=kernel, d_state=6, **more
    )
    real = more.get("is_real")
    names = {"inv_dt", "C", "B", "A_real"} | (set() if real else {"A_imag"})
    names |= {"P", "l_kernel"} if kernel == "s4" else set()
    assert set(layer.state_dict()) == {"kernel." + name for name in names}
    x = torch.randn(2, 4, 20).requires_grad_()
    parameters, wide = leaves_of(layer)
    X = x.detach().double().requires_grad_()
    y, state = layer(x if transposed else x.mT, rate=rate)
    assert state is None and y.shape == (2, channels, 4, 20) and y.dtype == torch.float32
    taps = None if l_max is None else round(l_max / rate)
    want, _ = recurrence(wide, X, rate=rate, length=taps, **options_of(kernel, more))
    assert error(y, want) < 1e-5
    same_gradients(y, [x, *parameters], want, [X, *wide.values()], 1e-3)


@pytest.mark.parametrize("kernel, more", KERNELS[:2] + KERNELS[4:7], ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_states_and_steps(kernel, more, full):
    layer = FFTConvS4(4, l_max=9, channels=2, kernel=kernel, d_state=6, **more)
    x = torch.randn(3, 4, 20).requires_grad_()
    parameters, wide = leaves_of(layer)
    n = wide["A_real"].shape[1]
    half = torch.randn(3, 4, n, dtype=torch.complex64)
    if more.get("is_real"):
        half = half.real + 0j
    full = full and kernel == "s4"
    state = torch.cat([half, half.conj()], -1) if full else half
    state.requires_grad_()
    X = x.detach().double().requires_grad_()
    S = half.to(torch.complex128)
    y, after = layer(x, state)
    options = options_of(kernel, more)
    want, last = recurrence(wide, X, S, **options)
    assert error(y, want) < 1e-5
    assert error(after, last if full else last[..., :n]) < 1e-5
    # Gradients flow through the state as well
    loss, wanted = after.abs().square().sum(), last[..., : after.shape[-1]].abs().square().sum()
    same = dict(layer.named_parameters())
    used = [name for name in wide if name != "C"]
    got = torch.autograd.grad(loss, [x, *(same["kernel." + name] for name in used)])
    wanted = torch.autograd.grad(wanted, [X, *(wide[name] for name in used)])
    for a, b in zip(got, wanted):
        assert error(a, b) < 1e-3

    # In chunks, and sample by sample
    s, parts = state, []
    for piece in x.split([7, 1, 12], 2):
        part, s = layer(piece, s)
        parts.append(part)
    assert error(torch.cat(parts, -1), want) < 1e-5 and error(s, after) < 1e-5
    for how in [{}, {"mode": "linear"}] + [{"mode": "dense"}] * (kernel == "s4"):
        layer.setup_step(**how)
        s = layer.default_state(3)
        # An S4 in its usual mode, "dense", has the states and their conjugates.
        wide_state = kernel == "s4" and "linear" not in how.values()
        assert s.shape == (3, 4, 2 * n if wide_state else n) and s.dtype == torch.complex64
        s = torch.cat([half, half.conj()], -1) if wide_state else half
        parts = []
        for t in range(20):
            part, s = layer.step(x.detach()[..., t], s)
            parts.append(part)
        assert error(torch.stack(parts, -1), want) < 2e-5
        assert layer.flatten(part).shape == (3, 8)
        copy.deepcopy(layer).step(x.detach()[..., 0], s)


def config_of(kernel, channels=2, dtype=torch.float32):
    """lrnnx's param_config, with parameters that the caller holds."""
    of = s4.KERNELS[kernel](4, 6, channels=channels, n_ssm=2, seed=1)
    config = {}
    for name, x in of.parameters.items():
        x = torch.from_numpy(x)
        x = torch.view_as_real(x) if x.is_complex() else x
        config[name] = nn.Parameter(x.to(dtype))
    names = ("real_transform", "imag_transform", "dt_transform", "dt_fast", "is_real")
    return config, {
        "P": None,
        **config,
        **{name: getattr(of, name) for name in names},
        **dict(N=3, H=4, channels=channels, rank=1, repeat=2, deterministic=False, verbose=True),
    }


@pytest.mark.parametrize("kernel", ["s4", "s4d"])
def test_param_config_holds_references(kernel):
    own, config = config_of(kernel)
    layer = FFTConvS4(4, channels=2, kernel_type=kernel, param_config=config)
    x = torch.randn(2, 4, 15)
    y, _ = layer(x)
    y.sum().backward()
    wide = {n: p.detach().double().requires_grad_() for n, p in own.items()}
    disc = "zoh" if kernel == "s4d" else "bilinear"
    want, _ = recurrence(wide, x.double(), disc=disc)
    want.sum().backward()
    assert error(y, want) < 1e-5
    for name, p in own.items():
        assert getattr(layer.kernel, name) is p
        assert error(p.grad, wide[name].grad) < 1e-4
    with torch.no_grad():
        own["C"].mul_(2)
    assert error(layer(x)[0], 2 * want) < 1e-5
    # The names of lrnnx's checkpoints, where the layer S4 registers the parameters too
    more = {"kernel.l_kernel"} if kernel == "s4" else set()
    assert set(layer.state_dict()) == {f"kernel.{name}" for name in own} | more
    # S4D of lrnnx names the kernel twice
    FFTConvS4(4, channels=2, kernel_type=kernel, param_config=config, kernel=kernel)
    for wrong, message in [
        (dict(kernel_type=None), "give kernel"),
        (dict(param_config={"A_real": own["A_real"]}), "param_config lacks"),
        (dict(param_config={**config, "N": 4}), r"param_config\['N'\] is 4"),
        (dict(param_config={**config, "repeat": 1}), r"param_config\['repeat'\] is 1"),
        (dict(channels=1), "channels is 1"),
        (dict(d_state=6), "kernel_args has"),
    ]:
        with pytest.raises(ValueError, match=message):
            FFTConvS4(
                **{**dict(d_model=4, channels=2, kernel_type=kernel, param_config=config), **wrong}
            )


def test_dropout_and_flatten():
    x = torch.randn(2, 4, 50)
    layer = FFTConvS4(4, channels=2, kernel="s4d", d_state=6, dropout=0.5)
    clean = layer.eval()(x)[0]
    y = layer.train()(x)[0]
    kept = y != 0
    assert 0.4 < kept.float().mean() < 0.6 and error(y[kept], 2 * clean[kept]) < 1e-6
    layer.tie_dropout = True
    y = layer(x)[0]
    kept = (y != 0).float()
    assert torch.equal(kept, kept[..., :1].expand_as(kept)) and 0 < kept.mean() < 1
    drop = FFTConvS4(4, kernel="s4d", d_state=6, drop_kernel=0.5)
    impulse = torch.zeros(1, 4, 50)
    impulse[..., 0] = 1
    taps = drop(impulse)[0].abs() > 1e-6
    assert 0.3 < taps.float().mean() < 0.7
    y = torch.arange(16.0).reshape(1, 2, 4, 2)
    assert torch.equal(layer.flatten(y)[0, :, 0], torch.arange(0.0, 16, 2))
    layer.swap_channels = True
    assert layer.flatten(y)[0, :, 0].tolist() == [0, 8, 2, 10, 4, 12, 6, 14]
    assert layer.d_output == 8


def test_errors():
    layer = FFTConvS4(4, kernel="s4d", d_state=6)
    x = torch.randn(2, 4, 5)
    for call, message in [
        (lambda: FFTConvS4(4), "kernel is None"),
        (lambda: FFTConvS4(4, kernel="s5"), "kernel is 's5'"),
        (lambda: FFTConvS4(4, kernel="s4d", init="legt"), "init is 'legt'"),
        (lambda: layer(x[:, :3]), r"x has shape \(2, 3, 5\)"),
        (lambda: layer(x, rate=0), "rate is 0"),
        (lambda: layer(x, torch.zeros(2, 4, 6)), r"state has shape \(2, 4, 6\)"),
        (lambda: layer.step(x[..., 0], torch.zeros(2, 4, 3)), "before setup_step"),
        (lambda: layer.setup_step(mode="dense"), "mode is 'dense'"),
        (lambda: S4(4, kernel="s4d"), "kernel is 's4d'"),
        (lambda: S4(4, final_act="no"), "final_act is 'no'"),
        (lambda: S4(4, bottleneck=3), "bottleneck is 3"),
        (lambda: Centaurus(4, 5, 2, mode="dws"), "d_state is 5"),
        (lambda: Centaurus(4, 4, 2, mode="no"), "mode is 'no'"),
        (lambda: Centaurus(4, 4, 2, "bilinear"), "discretization is 'bilinear'"),
        (lambda: CentaurusNeck(4, 4, 2)(x), r"x has shape \(2, 4, 5\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert torch.equal(layer(x, return_output=True)[0], layer(x)[0])
    with pytest.raises(TypeError, match="did you mean 'rate'"):
        layer(x, rates=2.0)
    dss = FFTConvS4(4, kernel="s4d", d_state=6, disc="dss")
    assert torch.isfinite(dss(x)[0]).all()
    with pytest.raises(ValueError, match="disc is 'dss'"):
        dss(x, torch.zeros(2, 4, 3))
    grows = FFTConvS4(4, kernel="s4d", d_state=6, real_transform="none")
    with torch.no_grad():
        grows.kernel.A_real.neg_()
    with pytest.raises(ValueError, match="it must have a negative real part"):
        grows(x)


# ---- S4 and S4D ------------------------------------------------------------------


@pytest.mark.parametrize("make", [S4, S4D])
@pytest.mark.parametrize(
    "more",
    [
        {},
        dict(channels=2, swap_channels=True, transposed=False, final_act="id"),
        dict(gate=2, final_act="relu"),
        dict(bottleneck=2, gate=1, final_act=None, channels=2),
        dict(bottleneck=2),
    ],
    ids=str,
)
def test_layers(make, more):
    d, bottleneck = 4, more.get("bottleneck", 1)
    model = make(d, d_state=6, l_max=20, lr=1e-3, wd=0.1, verbose=True, **more)
    ssm = ["inv_dt", "C", "B", "A_real", "A_imag"] + ["P"] * (make is S4)
    names = {"D", *ssm, *(f"layer.kernel.{name}" for name in ssm)}

    def linear(name):
        return {f"{name}.weight", f"{name}.bias"}

    if make is S4:
        names |= {"layer.kernel.l_kernel"}
    if "gate" in more:
        names |= linear("input_gate.0")
    if "gate" in more and more.get("channels", 1) != more["gate"]:
        names |= linear("output_gate")
    if bottleneck > 1:
        names |= linear("input_linear")
    if more.get("final_act", "glu") is not None:
        names |= linear("output_linear.0")
    assert set(model.state_dict()) == names
    assert all(getattr(model, n)._optim == {"lr": 1e-3, "weight_decay": 0.1} for n in ssm)

    x = torch.randn(2, d, 20).requires_grad_()
    transposed = more.get("transposed", True)
    y, state = model(x if transposed else x.mT)
    assert state is None
    p = {n: v.detach().double().requires_grad_() for n, v in model.named_parameters()}
    X = x.detach().double().requires_grad_()

    def affine(name, v):
        return v @ p[f"{name}.weight"].t() + p[f"{name}.bias"]

    u = X.mT
    inner = affine("input_linear", u) if bottleneck > 1 else u
    c, _ = recurrence(p, inner.mT, disc="bilinear" if make is S4 else "zoh")
    c = c + p["D"][..., None] * inner.mT[:, None]
    order = "bchl->blhc" if more.get("swap_channels") else "bchl->blch"
    c = F.gelu(torch.einsum(order, c).flatten(2))
    if "gate" in more:
        c = affine("output_gate", c) if "output_gate.weight" in names else c
        c = c * F.gelu(affine("input_gate.0", u))
    want = F.gelu(c)
    act = more.get("final_act", "glu")
    if act is not None:
        act = {"glu": F.gelu, "id": lambda v: v, "relu": F.relu}[act]
        want = act(affine("output_linear.0", want))
    want = want.mT if transposed else want
    assert error(y, want) < 2e-5
    leaves = dict(model.named_parameters())
    same_gradients(y, [x, *leaves.values()], want, [X, *(p[n] for n in leaves)], 2e-3)

    # Step by step
    model.eval()
    cache = model.allocate_inference_cache(2)
    with torch.no_grad():
        steps = [model.step(x[..., t], cache)[0] for t in range(20)]
    assert error(torch.stack(steps, 2 if transposed else 1), want) < 5e-5
    # lengths
    cut, _ = model(x if transposed else x.mT, lengths=torch.tensor([20, 7]))
    at = (slice(None), slice(7)) if transposed else (slice(7), slice(None))
    assert error(cut[0], y[0]) < 1e-6 and error(cut[1][at], y[1][at]) < 1e-5
    assert error(cut[1], y[1]) > 1e-3
    assert error(model(x if transposed else x.mT, lengths=20)[0], y) < 1e-6


@pytest.mark.parametrize("tie_dropout", [False, True])
def test_dropout_of_layers(tie_dropout):
    model = S4D(4, d_state=6, dropout=0.5, tie_dropout=tie_dropout, final_act=None)
    x = torch.randn(2, 4, 50)
    kept = (model(x)[0] != 0).float()
    assert 0 < kept.mean() < 1
    assert torch.equal(kept, kept[..., :1].expand_as(kept)) == tie_dropout


@pytest.mark.parametrize("kernel", ["s4", "s4d"])
def test_the_recurrence_that_lrnnx_reads(kernel):
    """dA, dB and dC of _setup_step(), as the tests of lrnnx use them."""
    model = {"s4": S4, "s4d": S4D}[kernel](8, d_state=8, l_max=64, transposed=False)
    x = torch.randn(2, 64, 8)
    of = model.layer.kernel
    of._setup_step()
    state = torch.zeros(2, *of.dA.shape[:2], dtype=of.dA.dtype)
    y = []
    for t in range(64):
        if of.dA.dim() == 3:
            state = torch.einsum("hmn,bhn->bhm", of.dA, state)
        else:
            state = of.dA * state
        state = state + of.dB * x[:, t, :, None]
        y.append(torch.einsum("chn,bhn->bch", of.dC, state).real * (2 if kernel == "s4d" else 1))
    y = torch.stack(y, 1)[:, :, 0] + x * model.D[0]
    y = model.output_linear(model.drop(model.mult_activation(model.conv_activation(y))))
    assert y.dtype == torch.float32 and error(model(x)[0], y) < 1e-4


def test_a_checkpoint_with_the_transformed_C_loads():
    model, other = (S4(4, d_state=6, l_max=16) for _ in range(2))
    state = copy.deepcopy(model.state_dict())
    of = model.layer.kernel
    of._setup_step()
    power = torch.linalg.matrix_power(of.dA.to(torch.complex128), 16)
    C = of.dC.to(torch.complex128)
    C = C - torch.einsum("hnm,chn->chm", power, C)
    state["C"] = torch.view_as_real(C[..., :3].contiguous()).float()
    state["layer.kernel.C"] = state["C"]
    state["layer.kernel.l_kernel"] = torch.tensor(16)
    other.load_state_dict(state, strict=True)
    x = torch.randn(2, 4, 40)
    assert error(other.C, model.C) < 1e-3 and other.C is other.layer.kernel.C
    assert error(other(x)[0], model(x)[0]) < 1e-3 and other.layer.kernel.l_kernel == 0


@pytest.mark.parametrize("make, d_state", [(S4, 6), (S4D, 6), (CentaurusFull, 16)])
def test_compiled(make, d_state):
    module = make(4, d_state, 2) if make is CentaurusFull else make(4, d_state=d_state)
    same_when_compiled(module, torch.randn(2, 4, 4))


@pytest.mark.parametrize("make", [S4, S4D])
def test_types(make):
    model = make(4, d_state=6)
    x = torch.randn(2, 4, 20)
    want, _ = copy.deepcopy(model).double()(x.double())
    assert want.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = model(x)
    assert y.dtype == torch.bfloat16 and error(y, want) < 3e-2
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert error(model.bfloat16()(x.bfloat16())[0], want) < 0.1


# ---- Centaurus -------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, make, sizes, names",
    [
        ("neck", CentaurusNeck, (4, 6, 2), "A E log_delta B C"),
        ("pw", CentaurusPWNeck, (4, 3, 2), "A log_delta B C"),
        ("dws", CentaurusDWS, (4, 4, 3), "A E log_delta B C"),
        ("full", CentaurusFull, (3, 9, 2), "A E log_delta B C"),
    ],
)
@pytest.mark.parametrize("batch", [1, 8])
def test_centaurus(mode, make, sizes, names, batch):
    model = Centaurus(*sizes, mode=mode)
    assert type(model) is make
    assert set(model.state_dict()) == set(names.split())
    H, N, M = sizes
    with torch.no_grad():
        model.log_delta.add_(1)
    x = torch.randn(batch, 30, H).requires_grad_()
    X = x.detach().double().requires_grad_()
    p = {
        n: v.detach().to(torch.complex128 if v.is_complex() else torch.float64).requires_grad_()
        for n, v in model.named_parameters()
    }
    delta = p["log_delta"].exp()
    B, C = p["B"], p["C"]
    if mode == "pw":
        # Every (n, m) is a state of its own
        B, C = B.unflatten(0, (N, M)), C.unflatten(1, (N, M))
    elif mode != "neck":
        i, o = torch.arange(N) % H, torch.arange(N) // (1 if mode == "dws" else H)
        B, C = B[:, None] * F.one_hot(i, H), (C[:, None] * F.one_hot(o, H)).t()
    A, E = (delta[:, None] * p["A"]).exp(), p.get("E", torch.ones(N, M).double())
    s, want = torch.zeros(batch, N, M, dtype=torch.complex128), []
    for t in range(30):
        driven = torch.einsum("nmh,bh->bnm" if mode == "pw" else "nh,bh->bn", B, X[:, t])
        s = A * s + delta[:, None] * (driven if mode == "pw" else driven[..., None])
        if mode == "pw":
            want.append(torch.einsum("hnm,bnm->bh", C, s.real))
        else:
            want.append(torch.einsum("hn,bnm,nm->bh", C, s.real, E))
    want = torch.stack(want, 1)
    y = model(x)
    assert y.dtype == torch.float32 and error(y, want) < 1e-5
    leaves = dict(model.named_parameters())
    same_gradients(y, [x, *leaves.values()], want, [X, *(p[n] for n in leaves)], 1e-4)
    cache = model.allocate_inference_cache(batch_size=batch)
    with torch.no_grad():
        steps = [model.step(x[:, t], cache)[0] for t in range(30)]
    assert error(torch.stack(steps, 1), want) < 1e-5


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: FFTConvS4(4, kernel="s4", d_state=6), (2, 4, 16)),
        (lambda: FFTConvS4(4, kernel="s4d", d_state=6), (2, 4, 16)),
        (
            lambda: FFTConvS4(4, channels=2, kernel_type="s4", param_config=config_of("s4")[1]),
            (2, 4, 16),
        ),
        (lambda: S4(4, d_state=6), (2, 4, 16)),
        (lambda: S4D(4, d_state=6), (2, 4, 16)),
        (lambda: CentaurusFull(3, 9, 2), (2, 16, 3)),
        (lambda: CentaurusPWNeck(3, 4, 2), (2, 16, 3)),
    ],
)
def test_pickle_and_deepcopy(make, shape):
    module, x = make(), torch.randn(shape)

    def call(m):
        return m(x)[0] if isinstance(m(x), tuple) else m(x)

    y = call(module)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(call(other), y)
        for p in other.parameters():
            p.data.zero_()  # the copy's own
        assert torch.equal(call(module), y)
    other = make()
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(call(other), y)
    assert type(module).__name__ in repr(module)
    if isinstance(module, (S4, S4D)):
        assert other.C is other.layer.kernel.C
