"""`fftconv.torch.hyena` and `hyena_dna` against formulas in float64, and their checkpoints."""

import copy
import math
import pickle
from types import SimpleNamespace

import pytest
from compared import error, same_gradients, same_when_compiled
from fftconv.torch.hyena import H3, HyenaFilter, HyenaOperator, LongConv
from fftconv.torch.hyena_dna import HyenaDNAModel
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
    shift=0.0,
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
    filters = filter_of(p, length, l_max, emb_dim, 2, "filter_fn.", shift)
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
    same_when_compiled(H3(8, 6), torch.randn(2, 24, 8))


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


# ---- HyenaDNA -----------------------------------------------------------------------

LAYER = """mixer.in_proj.weight mixer.in_proj.bias mixer.out_proj.weight mixer.out_proj.bias
    mixer.short_filter.weight mixer.short_filter.bias mixer.filter_fn.bias
    mixer.filter_fn.pos_emb.z mixer.filter_fn.pos_emb.t mixer.filter_fn.implicit_filter.0.weight
    mixer.filter_fn.implicit_filter.0.bias mixer.filter_fn.implicit_filter.1.freq
    mixer.filter_fn.implicit_filter.2.weight mixer.filter_fn.implicit_filter.2.bias
    mixer.filter_fn.implicit_filter.3.freq mixer.filter_fn.implicit_filter.4.weight
    mixer.filter_fn.implicit_filter.4.bias mixer.filter_fn.implicit_filter.5.freq
    mixer.filter_fn.implicit_filter.6.weight mixer.filter_fn.modulation.deltas
    mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias
    norm1.weight norm1.bias norm2.weight norm2.bias""".split()
CONFIG = dict(_name_="hyena", l_max=26, emb_dim=5, filter_order=6, local_order=3, modulate=True)
CONFIG.update(w=10, lr=6e-4, wd=0.0, lr_pos_emb=0.0)


def hyena_dna(layers=2, **more):
    options = dict(pad_vocab_size_multiple=8, fused_mlp=True, checkpoint_mixer=False)
    return HyenaDNAModel(8, layers, 32, 12, dict(CONFIG), **{**options, **more})


def renamed(state, form):
    """A checkpoint as the standalone file writes it, in another form."""
    if form == "standalone":
        return state
    if form == "lightning":
        return {"model." + name: x for name, x in state.items()}
    if form == "checkpointing":  # gradient checkpointing wraps the parts of a block
        parts = [("mixer.", "mixer.layer."), ("mlp.", "mlp.layer.")]
        for old, new in parts:
            state = {name.replace(old, new): x for name, x in state.items()}
        return {"model." + name: x for name, x in state.items()}
    kept = {name: x for name, x in state.items() if ".freq" not in name or f".{form}.freq" in name}
    return {("hyena." if name[:8] == "backbone" else "") + name: x for name, x in kept.items()}


# A number: the form of Hugging Face, where safetensors has kept this name of freq.
@pytest.mark.parametrize("form", ["standalone", "lightning", "checkpointing", "1", "3", "5"])
def test_checkpoints_of_hyena_dna(form):
    model = hyena_dna(lm_head=True)
    names = [f"backbone.layers.{i}.{name}" for i in range(2) for name in LAYER]
    names += ["backbone.embeddings.word_embeddings.weight", "backbone.ln_f.weight"]
    names += ["backbone.ln_f.bias", "lm_head.weight"]
    assert set(names) == set(model.state_dict())
    assert model.lm_head.weight.shape == (16, 8)  # 12 tokens, padded
    state = {name: torch.randn(model.state_dict()[name].shape) for name in names}
    for i in range(2):
        freq = f"backbone.layers.{i}.mixer.filter_fn.implicit_filter.%d.freq"
        state[freq % 3] = state[freq % 5] = state[freq % 1]
    model.load_state_dict(renamed(state, form), strict=True)
    bare = hyena_dna()
    bare.load_state_dict(renamed(state, form), strict=True)
    for of in (model, bare):
        loaded = of.state_dict()
        assert len(loaded) == len(names) - (of is bare)
        for name, x in loaded.items():
            assert torch.equal(x, state[name]), name
        for block in of.backbone.layers:
            sines = block.mixer.filter_fn.implicit_filter
            assert sines[1] is sines[3] is sines[5]
    lacking = {name: x for name, x in state.items() if "0.mlp.fc1.bias" not in name}
    with pytest.raises(RuntimeError, match="Missing key.*0.mlp.fc1.bias"):
        model.load_state_dict(renamed(lacking, form), strict=True)
    with pytest.raises(RuntimeError, match="Unexpected key.*other"):
        model.load_state_dict({**renamed(state, form), "other": torch.ones(1)}, strict=True)


def normal(p, name, x):
    x = x - x.mean(-1, keepdim=True)
    return (
        x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[name + "weight"]
        + p[name + "bias"]
    )


@pytest.mark.parametrize(
    "more",
    [{}, dict(use_head=True, n_classes=3, residual_in_fp32=True), dict(max_position_embeddings=26)],
    ids=str,
)
def test_hyena_dna(more):
    model = hyena_dna(**more).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.3 * torch.randn(x.shape))
    p, tokens = wide(model), torch.randint(0, 16, (2, 20))
    x = r = p["backbone.embeddings.word_embeddings.weight"][tokens]
    if "max_position_embeddings" in more:
        x = r = r + p["backbone.embeddings.position_embeddings.weight"][:20]
    for i in range(2):
        own = {n.split(".", 3)[3]: v for n, v in p.items() if n.startswith(f"backbone.layers.{i}.")}
        mixer = {n[6:]: v for n, v in own.items() if n.startswith("mixer.")}
        x = operator(mixer, normal(own, "norm1.", r), 26, 2, emb_dim=5, shift=0.05)
        r = x + r
        x = normal(own, "norm2.", r) @ own["mlp.fc1.weight"].t() + own["mlp.fc1.bias"]
        x = x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        r = r + x @ own["mlp.fc2.weight"].t() + own["mlp.fc2.bias"]
    want = normal(p, "backbone.ln_f.", r)
    if "use_head" in more:
        want = (
            want.mean(1) @ p["head.output_transform.weight"].t() + p["head.output_transform.bias"]
        )
    y = model(tokens)
    assert error(y, want) < 1e-4
    leaves = dict(model.named_parameters())
    same_gradients(y, list(leaves.values()), want, [p[n] for n in leaves], 1e-3)


def test_hyena_dna_options():
    model = hyena_dna(8, initializer_cfg={"initializer_range": 0.5}, dtype=torch.bfloat16)
    weights = {n: x.float().std() for n, x in model.named_parameters() if x.numel() > 100}
    for name, std in weights.items():
        if "out_proj" in name or "fc2" in name:
            assert 0.09 < std < 0.16, name  # 0.5 / sqrt(2 * 8)
        elif "weight" in name and "short_filter" not in name:
            assert 0.4 < std < 0.6, name
    tokens = torch.randint(0, 16, (2, 20))
    y = model(tokens)  # in training, with dropout on the embedding
    assert y.dtype == torch.bfloat16 and y.shape == (2, 20, 8)
    assert not torch.equal(y, model(tokens))
    for more, message in [
        (dict(attn_layer_idx=[1]), "attn_layer_idx is"),
        (dict(use_head=True, lm_head=True), "use_head and lm_head are both True"),
    ]:
        with pytest.raises(ValueError, match=message):
            hyena_dna(**more)
    with pytest.raises(ValueError, match="layer is None; it must be a dict with l_max"):
        HyenaDNAModel(8, 2, 32, 12)


# ---- H3 -------------------------------------------------------------------------------

H3_SHAPES = {
    **{f"{name}_proj.weight": (8, 8) for name in "qkv"},
    **{f"{name}_proj.bias": (8,) for name in "qkv"},
    "ssm_k_D": (8,),
    "ssm_k_kernel.kernel.B": (8, 6),
    "ssm_k_kernel.kernel.C": (1, 8, 6),
    "output_linear.weight": (8, 8),
    "output_linear.bias": (8,),
}


def h3_shapes(heads, ssms):
    return {
        **H3_SHAPES,
        "D": (heads,),
        "kernel.kernel.C": (1, heads, 3, 2),
        "kernel.kernel.log_dt": (heads,),
        "kernel.kernel.B": (ssms, 3, 2),
        "kernel.kernel.inv_A_real": (ssms, 3),
        "kernel.kernel.A_imag": (ssms, 3),
    }


def h3(p, u, d, taps, fast=False, disc="bilinear", real=torch.exp, bandlimit=None, imag=True):
    """H3 by its recurrences, in float64: loops over the samples and the pairs of channels.

    taps: the kernels end after so many samples, which is done by sums over these samples.
    """
    q, k, v = (u @ p[f"{n}_proj.weight"].t() + p[f"{n}_proj.bias"] for n in "qkv")
    B, C = p["ssm_k_kernel.kernel.B"], p["ssm_k_kernel.kernel.C"][0]
    length, states = u.shape[1], B.shape[1]
    shift = [(B[:, : states - j] * C[:, j:]).sum(1) for j in range(min(states, taps))]
    dt = p["kernel.kernel.log_dt"].exp()[:, None]
    A = -real(p["kernel.kernel.inv_A_real"]) + 1j * imag * p["kernel.kernel.A_imag"]
    A, B = (
        torch.cat([x] * (len(dt) // len(x)))
        for x in (A, torch.view_as_complex(p["kernel.kernel.B"]))
    )
    C = torch.view_as_complex(p["kernel.kernel.C"])[0]
    if bandlimit is not None:
        C = C * (dt * A.imag.abs() / (2 * math.pi) < bandlimit / 2)
    if disc == "zoh":
        bar, B = (dt * A).exp(), B * ((dt * A).exp() - 1) / A
    else:
        bar, B = (1 + dt * A / 2) / (1 - dt * A / 2), dt * B / (1 - dt * A / 2)
    diagonal = [2 * (C * bar**j * B).sum(1).real for j in range(taps)]

    def filtered(x, kernel):
        rows = [
            sum(kernel[j] * x[:, t - j] for j in range(min(t + 1, len(kernel))))
            for t in range(length)
        ]
        return torch.stack(rows, 1)

    k = filtered(k, shift) + p["ssm_k_D"] * k
    y = {}
    for i in range(d):
        for j in range(d):
            z = k[..., i::d] * v[..., j::d]  # one of each head
            y[j] = y.get(j, 0) + q[..., i::d] * (filtered(z, diagonal) + p["D"] * z)
    y = torch.stack([y[j] for j in range(d)], -1 if fast else -2).flatten(-2)
    return y @ p["output_linear.weight"].t() + p["output_linear.bias"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        dict(head_dim=2, l_max=9, n_ssm=2),
        dict(head_dim=2, use_fast_fftconv=True, disc="zoh", measure="diag"),
        dict(real_type="softplus", bandlimit=0.2, deterministic=True),
        dict(head_dim=4, force_real=True, measure="diag-legs"),
    ],
    ids=str,
)
def test_h3(more):
    d = more.get("head_dim", 1)
    module = H3(8, 6, **more)
    shapes = h3_shapes(8 // d, more.get("n_ssm", 8 // d))
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state["kernel.kernel.log_dt"] -= 3
    module.load_state_dict(state, strict=True)
    u = torch.randn(2, 20, 8, requires_grad=True)
    U, p = u.detach().double().requires_grad_(), wide(module)
    own = {"disc": more.get("disc", "bilinear"), "bandlimit": more.get("bandlimit")}
    own["real"] = nn.functional.softplus if "real_type" in more else torch.exp
    own["imag"] = not more.get("force_real", False)
    want = h3(p, U, d, more.get("l_max", 20), more.get("use_fast_fftconv", False), **own)
    y = module(u)
    assert error(y, want) < 1e-5
    leaves = {n: x for n, x in module.named_parameters() if own["imag"] or "A_imag" not in n}
    same_gradients(y, [u, *leaves.values()], want, [U, *(p[n] for n in leaves)], 2e-4)


@pytest.mark.parametrize(
    "d, fast, mode", [(1, False, "diag"), (2, False, "diag"), (2, True, "shift")]
)
def test_h3_sample_by_sample(d, fast, mode):
    module = H3(8, 6, head_dim=d, use_fast_fftconv=fast, layer_idx=3, mode=mode)
    u = torch.randn(2, 20, 8)
    with torch.no_grad():
        y = module(u)
        for prompt in (1, 9):  # fewer samples than states, and more
            memory = SimpleNamespace(key_value_memory_dict={}, sequence_len_offset=0)
            pieces = [module(u[:, :prompt], memory)]
            for t in range(prompt, 20):
                memory.sequence_len_offset = t
                pieces.append(module(u[:, t : t + 1], inference_params=memory))
            assert error(torch.cat(pieces, 1), y) < 1e-5
            assert list(memory.key_value_memory_dict) == [3]


def test_states_of_h3_in_pieces():
    """The state after two pieces is that after both, however long they are."""
    module, u = H3(8, 6), torch.randn(2, 8, 20)
    for kernel in (module.ssm_k_kernel, module.kernel):
        start = kernel.default_state(2)
        whole = kernel.forward_state(u, start)
        for cut in (1, 4, 17):
            state = kernel.forward_state(u[..., :cut], start)
            assert error(kernel.forward_state(u[..., cut:], state), whole) < 1e-5


def test_h3_options():
    module = H3(8, 6, lr={"dt": 0.0, "A": 1e-3, "B": 1e-4}, dtype=torch.float16, device="cpu")
    assert {n: x._optim for n, x in module.named_parameters() if hasattr(x, "_optim")} == {
        "ssm_k_kernel.kernel.B": {"lr": 1e-4, "weight_decay": 0.0},
        "kernel.kernel.B": {"lr": 1e-4, "weight_decay": 0.0},
        "kernel.kernel.inv_A_real": {"lr": 1e-3, "weight_decay": 0.0},
        "kernel.kernel.A_imag": {"lr": 1e-3, "weight_decay": 0.0},
    }
    assert "kernel.kernel.log_dt" in dict(module.named_buffers())
    half = {n for n, x in module.named_parameters() if x.dtype == torch.float16}
    assert half == {"D", *(f"{n}_proj.{w}" for n in "qkv" for w in ("weight", "bias"))}
    # Initially the shift is a short convolution by C, and Delta is between the bounds.
    module, u = H3(8, 6, dt_min=0.01, dt_max=0.02, deterministic=True), torch.randn(2, 20, 8)
    assert error(module.ssm_k_kernel(20)[0], module.ssm_k_kernel.kernel.C) < 1e-6
    found = module.kernel.kernel.log_dt.exp()
    assert error(found, 0.01 * 2 ** torch.linspace(0, 1, 8)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        y = module(u)
    assert y.dtype == torch.bfloat16 and error(y, module(u)) < 3e-2
    for options, message in [
        (dict(head_dim=3), "head_dim is 3; it must divide d_model, 8"),
        (dict(mode="ema"), "mode is 'ema'"),
        (dict(measure="legt"), "measure is 'legt'"),
        (dict(n_ssm=3), "n_ssm is 3; it must divide H, 8"),
        (dict(measure="diag", n_ssm=1), "n_ssm is 1; .* a multiple of 2"),
        (dict(dt_min=1.0), "dt_min is 1.0"),
        (dict(disc="no"), "disc is 'no'"),
        (dict(real_type="no"), "real_type is 'no'"),
    ]:
        with pytest.raises(ValueError, match=message):
            H3(8, 6, **options)
    with pytest.raises(ValueError, match="layer_idx is None"):
        module(u, SimpleNamespace(key_value_memory_dict={}, sequence_len_offset=0))
    with pytest.raises(ValueError, match=r"u has shape \(2, 8\)"):
        module(u[:, 0])
    with pytest.raises(ValueError, match="rate is 2.0; it must be 1"):
        module.ssm_k_kernel(20, 2.0)


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
        (lambda: H3(4, 2), [torch.ones(1, 16, 4)]),
        (lambda: hyena_dna().eval(), [torch.ones(1, 16, dtype=torch.int64)]),
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
