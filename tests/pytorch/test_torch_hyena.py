"""`fftconv.torch.hyena` against formulas in float64, and the checkpoints of HyenaDNA."""

import copy
import math
import pickle

import pytest
from compared import error, same_gradients, same_when_compiled
from fftconv.torch.hyena import HyenaFilter, HyenaOperator, LongConv
from torch import nn
from torch_support import in_rest, torch

pytestmark = in_rest


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def causal(u, k):
    n = 2 * u.shape[-1]
    f = torch.fft
    return f.irfft(f.rfft(u, n) * f.rfft(k, n), n)[..., : u.shape[-1]]


def filter_of(p, length, seq_len, emb_dim, mlps, prefix="", shift=0.0, normalized=False):
    """The filter (L, D) by its definition, from a dict of parameters and buffers."""
    t = torch.arange(seq_len).double() / (seq_len - 1)
    z = [t]
    bands = (emb_dim - 1) // 2
    for part in (torch.cos, lambda x: -torch.sin(x)):
        for b in range(bands):
            f = 1e-4 + (bands - 1 - 1e-4) * b / max(bands - 1, 1)
            z.append(part(2 * math.pi * f * torch.arange(seq_len).double() / seq_len))
    assert error(p[prefix + "pos_emb.z"], torch.stack(z, 1)[None]) < 1e-6
    h = p[prefix + "pos_emb.z"][0, :length]
    for i in range(mlps + 1):
        weight, bias = (p[f"{prefix}implicit_filter.{2 * i}.{n}"] for n in ("weight", "bias"))
        h = torch.sin(p[f"{prefix}implicit_filter.1.freq"] * (h @ weight.t() + bias))
    h = h @ p[f"{prefix}implicit_filter.{2 * mlps + 2}.weight"].t()
    d = h.shape[1]
    deltas = math.log(1e-2) / torch.linspace(1 / 1.5, 1 / 0.3, d).double().reciprocal()
    assert error(p[prefix + "modulation.deltas"], deltas[None, None]) < 1e-6
    h = h * (torch.exp(-t[:length, None] * deltas.abs()) + shift)
    return h / h.abs().sum(1, keepdim=True) if normalized else h


def wide(module):
    """The module's parameters and buffers by name in float64, as leaves."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {n: x.detach().double().requires_grad_() for n, x in state.items()}


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("emb_dim, mlps", [(3, 2), (5, 1)])
def test_filter(emb_dim, mlps, normalized):
    module = HyenaFilter(
        6,
        emb_dim=emb_dim,
        order=8,
        seq_len=40,
        w=3,
        num_inner_mlps=mlps,
        normalized=normalized,
        shift=0.1,
        local_order=3,
    )
    p = wide(module)
    h = module.filter(30)
    want = filter_of(p, 30, 40, emb_dim, mlps, shift=0.1, normalized=normalized)
    assert error(h, want[None]) < 1e-5

    x = torch.randn(2, 6, 30, requires_grad=True)
    X = x.detach().double().requires_grad_()
    y = module(x, 30)
    Y = causal(X, want.t()) + p["bias"][:, None] * X
    assert error(y, Y) < 1e-5
    leaves = dict(module.named_parameters())
    same_gradients(y, [x, *leaves.values()], Y, [X, *(p[n] for n in leaves)], 1e-4)
    k = torch.randn(6, 30)
    no_bias = HyenaFilter(6, seq_len=40, bias=False)
    for given in (k, k[None], (k, None)):
        assert error(no_bias(x, 30, k=given), causal(X, k.double())) < 1e-5
    with pytest.raises(ValueError, match="L is 41"):
        module.filter(41)
    with pytest.raises(ValueError, match="emb_dim is 4"):
        HyenaFilter(6, emb_dim=4)
    with pytest.raises(ValueError, match="bidirectional is True"):
        HyenaFilter(6, bidirectional=True)


def operator(
    p,
    u,
    l_max,
    order,
    emb_dim=3,
    heads=1,
    blocks=1,
    inner=1,
    outer_mixing=False,
    post_order_ffn=False,
    taps=3,
    act=lambda x: x,
    interleaved=True,
):
    """Hyena's operator by its definition, in float64: loops over heads, blocks and orders."""
    u = u[:, :l_max]
    length, d = u.shape[1:]
    u = u @ p["in_proj.weight"].t() + p["in_proj.bias"]
    u = torch.stack(
        [
            sum(
                p["short_filter.weight"][:, 0, j] * u[:, t - taps + 1 + j]
                for j in range(taps)
                if t - taps + 1 + j >= 0
            )
            + p["short_filter.bias"]
            for t in range(length)
        ],
        1,
    )
    dim = d * inner // heads
    filters = filter_of(p, length, l_max, emb_dim, 2, "filter_fn.")
    piece = length // blocks
    v, x = {}, {}
    for h in range(heads):
        for b in range(blocks):
            own = u[:, b * piece : (b + 1) * piece, h * dim * (order + 1) :]
            for i in range(order):
                x[i, h, b] = own[..., i * dim : (i + 1) * dim].mT
            v[h, b] = own[..., order * dim : (order + 1) * dim].mT
    for o in range(order - 1):
        step, start = (order - 1, o) if interleaved else (1, o * dim)
        pick = slice(start, start + step * (dim - 1) + 1, step)
        k, bias = filters[:piece, pick].t(), p["filter_fn.bias"][pick]
        for h, b in v:
            gate = x[order - 1 - o, h, b]
            z = v[h, b] * (gate.sum(1, keepdim=True) if outer_mixing else gate)
            v[h, b] = causal(z, k) + bias[:, None] * z
        if post_order_ffn:
            w = p["ord_proj_w"][o]
            v = {(h, b): sum(w[g, h] * v[g, b] for g in range(heads)) for h, b in v}
    y = torch.cat(
        [torch.cat([(v[h, b] * x[0, h, b]).mT for h in range(heads)], 2) for b in range(blocks)], 1
    )
    return act(y) @ p["out_proj.weight"].t() + p["out_proj.bias"]


CASES = [
    dict(order=2),
    dict(order=3, emb_dim=5),
    dict(order=3, interleaved=False),
    dict(order=2, num_heads=2),
    dict(order=3, num_blocks=2, short_filter_order=4),
    dict(order=2, inner_factor=2, activation="gelu"),
    dict(order=3, num_heads=2, num_blocks=2, post_order_ffn=True),
    dict(order=3, outer_mixing=True, activation="silu"),
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_operator(options):
    module = HyenaOperator(8, 24, filter_order=6, lr_pos_emb=0.0, w=2, **options)
    u = torch.randn(2, 24, 8, requires_grad=True)
    U, p = u.detach().double().requires_grad_(), wide(module)
    names = {
        "num_heads": "heads",
        "num_blocks": "blocks",
        "inner_factor": "inner",
        "short_filter_order": "taps",
        "activation": "act",
    }
    own = {names.get(n, n): v for n, v in options.items()}
    if "act" in own:
        own["act"] = getattr(nn.functional, own["act"])
    y, want = module(u), operator(p, U, 24, **own)
    assert error(y, want) < 2e-5
    leaves = dict(module.named_parameters())
    if "ord_proj_w" in leaves:  # its last matrix is used by no order
        y, want = y + module.ord_proj_w.sum(), want + p["ord_proj_w"].sum()
    same_gradients(y, [u, *leaves.values()], want, [U, *(p[n] for n in leaves)], 2e-4)


def test_operator_options():
    u = torch.randn(2, 32, 8)
    module = HyenaOperator(8, 24, dropout=0.5, filter_dropout=0.5, return_state=True)
    module.eval()
    y, state = module(u)
    assert state is None and y.shape == (2, 24, 8) and module.d_output == 8
    assert torch.equal(module(u)[0], y)
    module.train()
    assert not torch.equal(module(u)[0], y)
    module.filter_fn.eval()
    kept = torch.randint(0, 2, (2, 24, 8)) * 2.0

    class Drawn(nn.Dropout):
        def forward(self, x):
            return x * kept

    module.dropout = Drawn()
    dropped = module(u)[0]
    p = wide(module)
    # By the definition, with the mask on x_1 . v
    q = u[:, :24].double() @ p["in_proj.weight"].t() + p["in_proj.bias"]
    q = nn.functional.conv1d(
        nn.functional.pad(q.mT, (2, 0)), p["short_filter.weight"], p["short_filter.bias"], groups=24
    )
    z = q[:, 16:] * q[:, 8:16] * kept.mT
    k = filter_of(p, 24, 24, 3, 2, "filter_fn.").t()
    want = q[:, :8] * (causal(z, k) + p["filter_fn.bias"][:, None] * z)
    want = want.mT @ p["out_proj.weight"].t() + p["out_proj.bias"]
    assert error(dropped, want) < 1e-5

    class Ones(HyenaFilter):
        def filter(self, L):
            return torch.ones(1, L, self.d_model)

    other = HyenaOperator(8, 24, filter_cls=Ones, jit_filter=True, fused_bias_fc=True)
    assert other(u).shape == (2, 24, 8)
    for options, message in [
        (dict(num_heads=3), "num_heads is 3; it must divide d_model, 8"),
        (dict(order=1), "order is 1"),
        (dict(activation="glu"), "activation is 'glu'"),
        (dict(filter_cls="other"), "filter_cls is 'other'"),
    ]:
        with pytest.raises(ValueError, match=message):
            HyenaOperator(8, 24, **options)
    with pytest.raises(ValueError, match="u has length 23"):
        HyenaOperator(8, 24, num_blocks=2)(u[:, :23])


def test_autocast():
    module, u = HyenaOperator(8, 24, emb_dim=5), torch.randn(2, 24, 8)
    want = operator(wide(module), u.double(), 24, 2, emb_dim=5)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(u)
        assert module.filter_fn.filter(24).dtype == torch.float32
    assert y.dtype == torch.bfloat16 and error(y, want) < 3e-2
    y.float().sum().backward()
    assert module.filter_fn.bias.grad.dtype == torch.float32


def test_compiled():
    same_when_compiled(HyenaOperator(8, 24, order=3), torch.randn(2, 24, 8))


def test_optim_attributes():
    module = HyenaOperator(8, 24, lr=3e-4, lr_pos_emb=1e-5, wd=0.1, modulation_lr=0.0)
    optim = {n: getattr(p, "_optim", None) for n, p in module.named_parameters()}
    own = {"lr": 3e-4, "weight_decay": 0.1}
    for name, got in optim.items():
        if "implicit_filter" in name:
            assert got == own, name
        elif name.endswith("pos_emb.z"):
            assert got == {"lr": 1e-5, "weight_decay": 0.0}
        else:
            assert got is None, name
    assert {"filter_fn.pos_emb.t", "filter_fn.modulation.deltas"} == set(
        dict(module.named_buffers())
    )


# ---- HyenaDNA's checkpoints ------------------------------------------------------

MIXER = """in_proj.weight in_proj.bias out_proj.weight out_proj.bias short_filter.weight
    short_filter.bias filter_fn.bias filter_fn.pos_emb.z filter_fn.pos_emb.t
    filter_fn.implicit_filter.0.weight filter_fn.implicit_filter.0.bias
    filter_fn.implicit_filter.1.freq filter_fn.implicit_filter.2.weight
    filter_fn.implicit_filter.2.bias filter_fn.implicit_filter.3.freq
    filter_fn.implicit_filter.4.weight filter_fn.implicit_filter.4.bias
    filter_fn.implicit_filter.5.freq filter_fn.implicit_filter.6.weight
    filter_fn.modulation.deltas""".split()


class Block(nn.Module):
    def __init__(self, d, inner, **hyena):
        super().__init__()
        self.mixer = HyenaOperator(d, **hyena)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, inner), "fc2": nn.Linear(inner, d)})


def hyena_dna(layers=2, d=8, l_max=26):
    """The modules of HyenaDNA's backbone, under its names."""
    embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(16, d)})
    options = dict(l_max=l_max, emb_dim=5, filter_order=6, w=10, lr=6e-4, local_order=3)
    blocks = [Block(d, 4 * d, lr_pos_emb=0.0, modulate=True, **options) for _ in range(layers)]
    backbone = nn.ModuleDict(
        {"embeddings": embeddings, "layers": nn.ModuleList(blocks), "ln_f": nn.LayerNorm(d)}
    )
    return nn.ModuleDict({"backbone": backbone})


@pytest.mark.parametrize("kept", ["all", "1", "3", "5"])
@pytest.mark.parametrize("prefix", ["", "hyena."])
def test_checkpoints_of_hyena_dna(kept, prefix):
    model = hyena_dna()
    if prefix:
        model = nn.ModuleDict({"hyena": model})
    keys = [f"{prefix}backbone.layers.{i}.mixer.{name}" for i in range(2) for name in MIXER]
    assert set(keys) == {name for name in model.state_dict() if ".mixer." in name}
    state = {name: torch.randn(x.shape) for name, x in model.state_dict().items()}
    freq = {i: torch.randn(1, 6) for i in range(2)}
    for i in range(2):
        for j in "135":
            name = f"{prefix}backbone.layers.{i}.mixer.filter_fn.implicit_filter.{j}.freq"
            state[name] = freq[i]
            if kept not in ("all", j):  # safetensors keeps one name of a tensor
                del state[name]
    model.load_state_dict(state, strict=True)
    for name, x in state.items():
        assert torch.equal(model.state_dict()[name], x)
    for i in range(2):
        root = model["hyena"] if prefix else model
        layers = root["backbone"]["layers"][i].mixer.filter_fn.implicit_filter
        assert layers[1] is layers[3] is layers[5] and torch.equal(layers[5].freq, freq[i])
    del state[keys[5]]
    with pytest.raises(RuntimeError, match="Missing key.*short_filter.bias"):
        model.load_state_dict(state, strict=True)


# ---- LongConv ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {},
        dict(transposed=False, channels=2, postact=None, activation="silu", lam=0.0),
        dict(bidirectional=True, channels=2, postact="tanh", weight_init="double_exp"),
        dict(causal=False, initializer="xavier"),
        dict(use_ma_smoothing=True, ma_window_len=5),
        dict(use_ma_smoothing=True, smooth_freq=True, weight_norm=True),
    ],
    ids=str,
)
def test_long_conv(more):
    channels, transposed = more.get("channels", 1), more.get("transposed", True)
    module = LongConv(4, 20, **{"lam": 0.01, "learning_rate": 0.1, **more})
    with torch.no_grad():
        module.kernel.kernel.mul_(30)
    sides, taps = 1 + more.get("bidirectional", False), 20 * (2 - more.get("causal", True))
    assert module.kernel.kernel.shape == (sides * channels, 4, taps)
    assert module.kernel.kernel._optim == {"lr": 0.1, "weight_decay": 0.0}
    names = {"D", "kernel.kernel"}
    if more.get("postact", "glu") is not None:
        weights = ["weight"]
        if more.get("weight_norm"):
            weights = ["parametrizations.weight.original0", "parametrizations.weight.original1"]
            old = {**module.state_dict(), "output_linear.0.weight_g": torch.randn(8, 1)}
            old["output_linear.0.weight_v"] = torch.randn(8, 4)
            for name in weights:
                del old["output_linear.0." + name]
            module.load_state_dict(old, strict=True)
        names |= {"output_linear.0." + name for name in weights}
        names |= {"output_linear.0.bias"}
    assert set(module.state_dict()) == names
    p = {n: v.detach().double().requires_grad_() for n, v in module.named_parameters()}
    u = torch.randn(2, 4, 20).requires_grad_()
    U = u.detach().double().requires_grad_()
    y, state = module(u if transposed else u.mT)
    assert state is None

    k = p["kernel.kernel"]
    if more.get("smooth_freq"):
        f, i = torch.fft.rfft(k), torch.arange(11)
        k = torch.fft.irfft(
            f
            @ torch.exp(-0.5 * (i[:, None] - i) ** 2 * 1.0)
            .where((i[:, None] - i).abs() < 4, 0)
            .to(f),
            20,
        )
    elif "use_ma_smoothing" in more:
        i = torch.arange(20)
        k = k @ ((i[:, None] - i).abs() < 3).double() / 5
    k = k.sign() * (k.abs() - more.get("lam", 0.01)).clamp(min=0)
    # The whole matrix of the taps, from input s to output t
    lag = torch.arange(20)[:, None] - torch.arange(20)
    if sides == 2:
        k = torch.cat([k[:channels], k[channels:].flip(-1)], -1)  # lag -1 is the last tap
    matrix = k[..., lag % k.shape[-1]]
    if k.shape[-1] == 20:
        matrix = matrix * (lag >= 0)
    c = torch.einsum("chts,bhs->bcht", matrix, U) + p["D"][..., None] * U[:, None]
    c = getattr(nn.functional, more.get("activation", "gelu"))(c).flatten(1, 2).mT
    if more.get("postact", "glu") is not None:
        if more.get("weight_norm"):
            g, v = (p["output_linear.0." + name] for name in weights)
            weight = g * v / v.norm(dim=1, keepdim=True)
        else:
            weight = p["output_linear.0.weight"]
        act = {"glu": nn.functional.glu, "tanh": torch.tanh}[more.get("postact", "glu")]
        c = act(c @ weight.t() + p["output_linear.0.bias"])
    want = c.mT if transposed else c
    assert error(y, want) < 1e-5
    leaves = dict(module.named_parameters())
    same_gradients(y, [u, *leaves.values()], want, [U, *(p[n] for n in leaves)], 2e-4)


def test_long_conv_options():
    module, u = (
        LongConv(4, 30, lam=0.0, dropout=0.5, tie_dropout=True, postact=None),
        torch.randn(2, 4, 20),
    )
    kept = (module(u)[0] != 0).float()
    assert 0 < kept.mean() < 1 and torch.equal(kept, kept[..., :1].expand_as(kept))
    module.eval()
    y = module(u)[0]
    assert torch.equal(module(u, lengths=[20, 5])[0][0], y[0])
    assert torch.equal(module(u, lengths=[20, 5])[0][1, :, :5], y[1, :, :5])
    assert torch.equal(module(u, lengths=5)[0], module(u * (torch.arange(20) < 5))[0])
    assert isinstance(LongConv(4, 30, learning_rate=0.0).kernel.kernel, torch.Tensor)
    assert "kernel.kernel" in dict(LongConv(4, 30, learning_rate=0.0).named_buffers())
    assert (LongConv(4, 30, initializer="one").output_linear[0].weight == 1).all()
    dropped = LongConv(4, 30, lam=0.0, kernel_dropout=0.5).kernel()[0]
    assert 0.2 < (dropped == 0).float().mean() < 0.8
    for options, message in [
        (dict(block_fft_conv=True), "block_fft_conv is True"),
        (dict(activation="glu"), "activation is 'glu'"),
        (dict(postact="no"), "postact is 'no'"),
        (dict(initializer="no"), "initializer is 'no'"),
        (dict(weight_init="no"), "weight_init is 'no'"),
        (dict(ma_window_len=4), "ma_window_len is 4"),
        (dict(causal=False, bidirectional=True), "causal is False"),
    ]:
        with pytest.raises(ValueError, match=message):
            LongConv(4, 30, **options)
    with pytest.raises(ValueError, match="lengths has 3 entries"):
        module(u, lengths=[1, 2, 3])


@pytest.mark.parametrize(
    "make, inputs",
    [
        (lambda: LongConv(4, 16, lam=0.0, postact=None), [torch.ones(1, 4, 16)]),
        (lambda: HyenaOperator(4, 16, order=3), [torch.ones(1, 16, 4)]),
        (lambda: HyenaFilter(4, seq_len=16), [torch.ones(1, 4, 16), 16]),
    ],
)
def test_pickle_and_deepcopy(make, inputs):
    module = make()
    other = make()
    other.load_state_dict(module.state_dict(), strict=True)

    def call(m):
        return m(*inputs)[0] if isinstance(m, LongConv) else m(*inputs)

    y = call(module)
    for same in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        assert torch.equal(call(same), y)
    assert type(module).__name__ in repr(module)
