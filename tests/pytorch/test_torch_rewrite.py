"""`fftconv.torch.compile_options`: the graph pass that replaces convolutions by `torch.fft`.

Each model below is written as one of the field's models writes its convolution.  Most tests run
the pass on Dynamo's graph and then the graph itself, which takes no compiler; two go through
inductor.  Values and gradients are held against the model as it stands, in float64.
"""

import copy

import pytest
from compared import error
from fftconv.torch import compile_options, rewriting
from torch_support import in_rest, torch

F = torch.nn.functional
pytestmark = in_rest

B, H, L = 2, 3, 50


def double_length(u, k, D=None, mask=None, gelu=False, k_rev=None, blocks=False):
    """safari's and hyena-dna's fftconv_ref, with the scale in the kernel."""
    length = u.shape[-1]
    n = 2 * length
    k_f = torch.fft.rfft(k, n=n) / n
    if k_rev is not None:
        k_f = k_f + (torch.fft.rfft(k_rev, n=n) / n).conj()
    u_f = torch.fft.rfft(u.to(dtype=k.dtype), n=n)
    if blocks:
        k_f = k_f.unsqueeze(1)
    y = torch.fft.irfft(u_f * k_f, n=n, norm="forward")[..., :length]
    if D is not None:
        y = y + u * D.unsqueeze(-1)
    if gelu:
        y = F.gelu(y)
    if mask is not None:
        y = y * mask[:, :, None]
    return y.to(dtype=u.dtype)


def contracted(x, k):
    """S4's, with channels and an einsum."""
    n = x.shape[-1] + k.shape[-1]
    y = torch.einsum("bhl,chl->bchl", torch.fft.rfft(x, n=n), torch.fft.rfft(k, n=n))
    return torch.fft.irfft(y, n=n)[..., : x.shape[-1]]


def circle(u, k):
    return torch.fft.irfft(torch.fft.rfft(u) * torch.fft.rfft(k), n=u.shape[-1])


def longer_circle(u, k):
    product = torch.fft.rfft(u, n=64) * torch.fft.rfft(k, n=64)
    return torch.fft.irfft(product, n=64)[..., : u.shape[-1]]


def gated(u, v, k, g, D):
    n = 2 * u.shape[-1]
    z = u * v
    y = torch.fft.irfft(torch.fft.rfft(z, n=n) * torch.fft.rfft(k, n=n), n=n)[:, :, : u.shape[-1]]
    return g * (y + z * D[:, None])


def residual(u, k):
    """fla's, whose skip has no weights; the kernel is the first factor."""
    n = 2 * u.shape[-1]
    y = torch.fft.irfft(torch.fft.rfft(k, n=n) * torch.fft.rfft(u, n=n), n=n)[..., : u.shape[-1]]
    return F.silu(y + u)


def added_in_place(u, k, D):
    n = 2 * u.shape[-1]
    y = torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]]
    y += u * D[:, None]
    return y


def spectrum_kept(u, k):
    n = 2 * u.shape[-1]
    u_f = torch.fft.rfft(u, n=n)
    y = torch.fft.irfft(u_f * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]]
    return y + u_f.abs().sum()


REPLACED = {
    "safari": (double_length, [(B, H, L), (H, L), (H,), None, True], "causal", ("skip", "gelu")),
    "mask": (double_length, [(B, H, L), (H, L), (H,), (B, H)], "causal", ("skip",)),
    "one kernel": (double_length, [(B, H, L), (1, H, L), (H,)], "causal", ("skip",)),
    "two-sided": (
        double_length,
        [(B, H, L), (H, L), (H,), None, False, (H, L)],
        "two_sided",
        ("skip",),
    ),
    "blocks": (double_length, [(B, H, 4, L), (H, L), None, None, False, None, True], "causal", ()),
    "blocks of rows": (double_length, [(B, 2, 4, H, L), (2, 1, H, L)], "causal", ()),
    "S4": (contracted, [(B, H, L), (1, H, 70)], "causal", ()),
    "S4, channels": (contracted, [(B, H, L), (2, H, L)], "causal", ()),
    "circle": (circle, [(B, H, L), (H, L)], "circular", ()),
    "longer circle": (longer_circle, [(B, H, L), (H, 40)], "circular", ()),
    "gated": (
        gated,
        [(B, H, L)] * 2 + [(H, L), (B, H, L), (H,)],
        "causal",
        ("in_gate", "skip", "out_gate"),
    ),
    "own kernels": (gated, [(B, H, L)] * 4 + [(H,)], "causal", ("in_gate", "skip", "out_gate")),
    "residual": (residual, [(B, H, L), (H, L)], "causal", ("skip", "silu")),
    "in place": (added_in_place, [(B, H, L), (H, L), (H,)], "causal", ("skip",)),
    "spectrum kept": (spectrum_kept, [(B, H, L), (H, L)], "causal", ()),
}


def operands(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        if isinstance(s, tuple)
        else s
        for s in shapes
    ]


def rewritten(model, dynamic=False):
    """The model after the pass, as Dynamo's graph, and the report."""
    torch._dynamo.reset()
    report = []
    graph_pass = compile_options(report)["pre_grad_custom_pass"]

    def backend(module, example):
        graph_pass(module.graph)
        module.graph.lint()
        module.recompile()
        return module

    return torch.compile(model, backend=backend, dynamic=dynamic, fullgraph=True), report


def check(fast, model, shapes):
    """Values and gradients of `fast` against the model itself in float64."""
    given = operands(shapes)
    exact = operands(shapes, torch.float64)
    with torch.no_grad():
        for a, b in zip(exact, given):
            if isinstance(a, torch.Tensor):
                a.copy_(b)
    y, expected = fast(*given), model(*exact)
    dy = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    y.backward(dy)
    expected.backward(dy.double())
    pairs = [(y, expected)]
    pairs += [(a.grad, b.grad) for a, b in zip(given, exact) if isinstance(a, torch.Tensor)]
    for a, b in pairs:
        assert error(a, b) < 2e-6


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", REPLACED)
def test_replaced(name, dynamic):
    model, shapes, mode, fused = REPLACED[name]
    fast, report = rewritten(model, dynamic)
    check(fast, model, shapes)
    assert [(f.mode, f.fused, f.reason) for f in report] == [(mode, fused, None)]


def unscaled(u, k):
    n = 2 * u.shape[-1]
    product = torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n)
    return torch.fft.irfft(product, n=n, norm="forward")[..., : u.shape[-1]]


def longer_than_rows(u, k):
    return torch.fft.irfft(torch.fft.rfft(u, n=120) * torch.fft.rfft(k, n=120), n=120)


def filtered(u):
    return torch.fft.irfft(torch.fft.rfft(u) * 2, n=u.shape[-1])


def too_short(u, k):
    return torch.fft.irfft(torch.fft.rfft(u, n=30) * torch.fft.rfft(k, n=30), n=30)[..., :30]


def written_between(u, k):
    n = 2 * u.shape[-1]
    u = u.clone()
    u_f = torch.fft.rfft(u, n=n)
    u.mul_(2)
    return torch.fft.irfft(u_f * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]] + u


def correlation(u, k):
    n = 2 * u.shape[-1]
    product = torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n).conj()
    return torch.fft.irfft(product, n=n)[..., : u.shape[-1]]


def summed(u, k):
    n = 2 * u.shape[-1]
    y = torch.einsum("bhl,hl->bl", torch.fft.rfft(u, n=n), torch.fft.rfft(k, n=n))
    return torch.fft.irfft(y, n=n)[..., : u.shape[-1]]


def other_axis(u, k):
    n = 2 * u.shape[1]
    product = torch.fft.rfft(u, n=n, dim=1) * torch.fft.rfft(k, n=n, dim=0)
    return torch.fft.irfft(product, n=n, dim=1)[:, : u.shape[1]]


LEFT = {
    "unscaled": (unscaled, [(B, H, L), (H, L)], "factor 1/n"),
    "longer than rows": (longer_than_rows, [(B, H, L), (H, L)], "crop"),
    "filtered": (filtered, [(B, H, L)], "not a tensor"),
    "too short": (too_short, [(B, H, L), (H, L)], "crop"),
    "written between": (written_between, [(B, H, L), (H, L)], "mul_ writes"),
    "correlation": (correlation, [(B, H, L), (H, L)], "conjugated"),
    "summed": (summed, [(B, H, L), (H, L)], "not a plain product"),
    "other axis": (other_axis, [(B, L, H), (L, H)], "last axis"),
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name):
    """What the pass does not understand stays as it is, and the report says why."""
    model, shapes, reason = LEFT[name]
    fast, report = rewritten(model)
    check(fast, model, shapes)
    assert [f.mode for f in report] == [None] and reason in report[0].reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_in_half(dtype):
    """Rows that the model itself converts to float32 are convolved in float32."""
    fast, report = rewritten(double_length)
    u, k, D = operands([(B, H, L), (H, L), (H,)])
    y = fast(u.to(dtype), k, D)
    expected = double_length(u.to(dtype).double(), k.double(), D.double())
    assert report[0].mode == "causal" and y.dtype == dtype
    assert error(y, expected) < 2e-2


def test_inductor():
    """Through the compiler, by options and by the context, in any length without recompiling."""
    torch._dynamo.reset()
    report = []
    with torch._inductor.config.patch(force_disable_caches=True):
        fast = torch.compile(
            double_length, options=compile_options(report), dynamic=True, fullgraph=True
        )
        for length in (50, 64, 100):
            check(fast, double_length, [(B, H, length), (H, length), (H,), None, True])
        assert [(f.mode, f.fused) for f in report] == [("causal", ("skip", "gelu"))]
        with rewriting() as found:
            check(torch.compile(residual), residual, [(B, H, L), (H, L)])
        assert [(f.mode, f.fused) for f in found] == [("causal", ("skip", "silu"))]


def test_report_is_the_callers():
    report = []
    options = copy.deepcopy(compile_options(report))
    assert options["pre_grad_custom_pass"].report is report
