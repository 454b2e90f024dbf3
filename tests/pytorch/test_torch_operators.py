"""The operators under torch's own checks, torch.compile, torch.export and the tools around
training."""

import copy
import inspect
import pickle
import re
import threading
from pathlib import Path

import fftconv
import numpy as np
import pytest
from build_tree import TOP
from torch_support import CASES, bits, close, ft, in_rest, normal, torch

pytestmark = in_rest
ops = torch.ops.fftconv


def operands(dtype, layout, gated):
    rows = (2, 4, 10) if layout == "BHL" else (2, 10, 4)
    numbers = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    u = normal(*rows, dtype=torch.float64, grad=False).to(dtype)
    k = normal(2, 7, grad=False).to(numbers)
    more = [None] * 4
    if gated:
        more = [u + 1, u.flip(0), k[0, :4], k[:, :4].real > 0]
    return (u, k, None, *more)


@pytest.mark.pairwise
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("layout", ["BHL", "BLH"])
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "complex128", "complex64"]
)
def test_opcheck_conv(dtype, layout, gated):
    x = operands(getattr(torch, dtype), layout, gated)
    options = ("causal", None, "gelu" if gated and "complex" not in dtype else None, None, layout)
    torch.library.opcheck(ops.conv.default, (*x, *options, None))
    needs = [v is not None for v in x[:6]] + [False]
    torch.library.opcheck(ops.conv_gradients.default, (x[0], *x, *options, None, needs))


def recorded(name):
    """[(operator, arguments)] that a case of CASES calls, forward and backward."""
    from fftconv.torch import _autograd

    calls, operations = [], dict(_autograd.OPERATIONS)

    def spied(operator):
        def call(*arguments):
            calls.append((operator.op, arguments))
            return operator.kernel(*arguments)

        return operator._replace(kernel=call)

    for key, o in operations.items():
        _autograd.OPERATIONS[key] = o._replace(
            forward=spied(o.forward), gradients=spied(o.gradients)
        )
    try:
        function, x = CASES[name]
        y = function(*x)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.grad(y, x, torch.ones_like(y), allow_unused=True)
    finally:
        _autograd.OPERATIONS.update(operations)
    return calls


@pytest.mark.parametrize(
    "name", ["two-sided", "circular", "pattern", "matrix", "depthwise", "heads", "layer", "S4"]
)
def test_opcheck_others(name):
    calls = recorded(name)
    assert len(calls) == 2
    for op, arguments in calls:
        arguments = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in arguments)
        torch.library.opcheck(op, arguments)


def test_conv_is_the_packages():
    """Values are those of fftconv.conv to the bit, for every kind of argument."""
    u, k, k_rev = (normal(*s, grad=False) for s in ((2, 4, 30), (2, 9), (2, 12)))
    p, q, s, m = u + 1, u[0], k[0, :4], u[:, :, 0] > 0
    for x, options in (
        ((u, k), {}),
        ((u[0], k), {}),
        ((u[0, 0], k[0]), {}),
        ((u, k), {"mode": "circular", "fft_size": 32}),
        ((u, k), {"mode": "two_sided", "k_rev": k_rev}),
        ((u, k, p, q), {"skip": s, "mask": m, "activation": "gelu"}),
        ((u.int(), k.float()), {}),
        ((u.float(), k), {}),
        ((u.half(), k.float(), p.half()), {"skip": s.half()}),
        ((u.half(), k.bfloat16(), p.bfloat16()), {}),
        ((u.half(), k.to(torch.complex64)), {}),
        ((u.transpose(1, 2), k), {"layout": "BLH"}),
        ((u[0].T, k), {"layout": "BLH", "in_gate": q.T}),
        ((u[:, None, :1], k[:, None]), {"mode": "same"}),
        ((u.movedim(-1, 0), k), {"mode": "full", "axis": 0, "mask": m}),
        ((u[0, 0], normal(7, 9, grad=False)), {}),
    ):
        bits(ft.conv(*x, **options), fftconv.conv(*x, **options))


@pytest.mark.parametrize(
    "wrong, match",
    [
        (lambda u, k: ft.conv(u.numpy(), k), "u is a ndarray"),
        (lambda u, k: ft.conv(u, k[:3]), "k has shape"),
        (lambda u, k: ft.conv(u, k, u[..., 1:]), "in_gate has shape"),
        (lambda u, k: ft.conv(u, k, mode="two_sided"), "k_rev is None"),
        (lambda u, k: ft.conv(u, k, mode="other"), "mode is 'other'"),
        (lambda u, k: ft.conv(u, k, activation="relu"), "activation is 'relu'"),
        (
            lambda u, k: torch.func.jvp(lambda u: ft.conv(u, k, activation="tanh"), (u,), (u,)),
            "activation is 'tanh'",
        ),
        (lambda u, k: ft.conv(u, k, fft_size=64), "fft_size is 64"),
        (lambda u, k: ft.conv(u, k, threads=-1), "threads"),
        (lambda u, k: ft.conv(u[..., :0], k), "u has shape"),
        (lambda u, k: ft.conv(u, k, layout="LBH"), "layout is 'LBH'"),
        (lambda u, k: ft.conv_matrix(u, k), "u has shape"),
        (lambda u, k: ft.depthwise_conv1d(u, k[:1]), "weight"),
        (lambda u, k: ft.fftconv_func(u, k, None, head_dim=3), "v and q"),
        (lambda u, k: ft.opt_ssm_forward(u, k, k, k), "B_ has shape"),
        (lambda u, k: ft.fft_conv("bln->bln", u), "equation"),
        (lambda u, k: ft.ssm_kernel(k, k, k, 4), "A has|B has"),
    ],
)
def test_errors(wrong, match):
    u, k = normal(2, 4, 10, grad=False), normal(4, 10, grad=False)
    with pytest.raises((ValueError, TypeError), match=match):
        wrong(u, k)


# ---- Compiling --------------------------------------------------------------------


def hyena(u, k, p, s):
    return ft.conv(u * 2, k, p, skip=s, activation="gelu") + 1


def plain(u, k, p, s):
    return ft.conv(u, k)


def circular(u, k, p, s):
    return ft.conv(u, k, mode="circular", fft_size=2 * u.shape[-1])


def short(u, k, p, s):
    return ft.depthwise_conv1d(u, k[:, :4], s, padding="causal", activation="silu")


def mixed(u, k, p, s):
    return ft.conv_matrix(u, k.expand(3, *k.shape))


@pytest.mark.parametrize("function", [hyena, plain, circular, short, mixed])
def test_compile(function):
    """Compiled once for all lengths; values and gradients are those of eager, to the bit."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    for length in (64, 100, 33):
        x = [normal(2, 4, length), normal(4, length), normal(2, 4, length), normal(4)]
        y, wanted = compiled(*x), function(*x)
        bits(y, wanted)
        g = torch.cos(y.detach())
        for a, b in zip(
            torch.autograd.grad(y, x, g, allow_unused=True),
            torch.autograd.grad(wanted, x, g, allow_unused=True),
        ):
            bits(a, b)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_inductor():
    torch._dynamo.reset()
    x = [normal(2, 4, 50), normal(4, 50), normal(2, 4, 50), normal(4)]
    y = torch.compile(hyena, fullgraph=True)(*x)
    close(y, hyena(*x), 1e-14)
    for a, b in zip(*(torch.autograd.grad(f.sum(), x) for f in (y, hyena(*x)))):
        close(a, b, 1e-14)


def test_compiled_second_derivative_raises():
    """torch refuses second derivatives of compiled functions; nothing is wrong in silence."""
    torch._dynamo.reset()
    u, k = normal(2, 4, 10), normal(4, 10)
    compiled = torch.compile(lambda u, k: ft.conv(u, k).square().sum(), backend="aot_eager")
    (g,) = torch.autograd.grad(compiled(u, k), k, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        g.sum().backward()


def test_compiled_vmap():
    """Without gradients vmap compiles, by the batching rules of the operators."""
    torch._dynamo.reset()
    u, k = normal(3, 2, 4, 10, grad=False), normal(3, 4, 10, grad=False)
    f = torch.func.vmap(ft.conv)
    close(torch.compile(f, backend="aot_eager", fullgraph=True)(u, k), f(u, k))


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.linspace(-1, 1, 80).view(4, 20))
        self.D = torch.nn.Parameter(torch.ones(4))

    def forward(self, u):
        return ft.conv(u, self.k, skip=self.D, activation="gelu")


def test_export(tmp_path):
    u = normal(2, 4, 30, dtype=torch.float32, grad=False)
    length = torch.export.Dim("length", min=20, max=1000)
    program = torch.export.export(Layer(), (u,), dynamic_shapes=({2: length},))
    assert "fftconv.conv" in str(program.graph)
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    for n in (30, 77):
        u = normal(2, 4, n, dtype=torch.float32, grad=False)
        y = loaded(u)
        bits(y, Layer()(u))
    # What is exported is for inference; torch warns who wants gradients of it.
    with pytest.warns(UserWarning, match="fftconv::conv: an autograd kernel was not registered"):
        y.sum().backward()


# ---- Training ---------------------------------------------------------------------


def test_autocast():
    """u comes in 16 bits from a linear layer; k and D stay in float32, and so do their
    gradients."""
    layer, linear = Layer(), torch.nn.Linear(30, 30)
    with torch.autocast("cpu", torch.bfloat16):
        u = linear(normal(2, 4, 30, dtype=torch.float32, grad=False))
        y = layer(u)
    assert u.dtype == y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.k.grad.dtype == layer.D.grad.dtype == linear.weight.grad.dtype == torch.float32
    wanted = fftconv.reference.conv(
        *(np.asarray(x.detach().double()) for x in (u, layer.k)),
        skip=layer.D.detach().double().numpy(),
        activation="gelu",
    )
    assert np.linalg.norm(y.detach().double().numpy() - wanted) < 4e-3 * np.linalg.norm(wanted)


def test_checkpoint():
    layer, u = Layer(), normal(2, 4, 30, dtype=torch.float32)
    wanted = torch.autograd.grad(layer(u).square().sum(), (u, layer.k))
    y = torch.utils.checkpoint.checkpoint(layer, u, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.square().sum(), (u, layer.k)), wanted):
        bits(a, b)


def test_copies():
    """pickle, deepcopy, state_dict and strict loading, before and after a call."""
    layer, u = Layer(), normal(2, 4, 30, dtype=torch.float32)
    y = layer(u)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), Layer()):
        other.load_state_dict(layer.state_dict(), strict=True)
        bits(other(u), y)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return Layer()(torch.full((4, 30), float(i)))


def test_data_loader():
    """Workers that are forked after the library's threads have run compute the same."""
    Layer()(normal(64, 4, 500, dtype=torch.float32))
    alone = torch.stack([Rows()[i] for i in range(6)])
    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    bits(torch.cat(list(loader)), alone)


def test_two_threads_on_one_module():
    layer = Layer()
    inputs = [normal(2, 4, n, dtype=torch.float32) for n in (300, 400)]
    wanted = [torch.autograd.grad(layer(u).sum(), u)[0] for u in inputs]
    found = [[], []]

    def work(i):
        for _ in range(20):
            found[i].append(torch.autograd.grad(layer(inputs[i]).sum(), inputs[i])[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(2):
        assert len(found[i]) == 20
        for g in found[i]:
            bits(g, wanted[i])


def test_torchs_number_of_threads(monkeypatch):
    """torch.get_num_threads() is the default of `threads`."""
    from fftconv import convolution

    used, make = [], convolution.cached_plan

    def spied(*arguments):
        used.append(arguments[7])
        return make(*arguments)

    monkeypatch.setattr(convolution, "cached_plan", spied)
    u, k = normal(2, 4, 10), normal(4, 10)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ft.conv(u, k).sum().backward()
        ft.conv(u, k, threads=1)
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1, 2, 2, 1]


def flags_at(address):
    """The flags of the memory at an address, by /proc/self/smaps."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if "-" in key and not key.endswith(":"):
            first, end = (int(x, 16) for x in key.split("-"))
            here = first <= address < end
        elif here and key == "VmFlags:":
            return values
    raise AssertionError(f"no memory at {address:#x}")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="no huge pages here"
)
def test_large_results_ask_for_huge_pages():
    u, k = torch.ones(1, 8, 2**18, requires_grad=True), torch.ones(8, 2)
    y = ft.conv(u, k)
    y.backward(torch.ones_like(y))
    for x in (y, u.grad):
        for place in (4096, x.nbytes // 2, x.nbytes - 4096):
            assert "hg" in flags_at(x.data_ptr() + place)


def test_examples():
    """The examples of the docstrings print what they show; every call and module has one."""
    import doctest

    for name in ft.__all__:
        of = getattr(ft, name)
        globs = dict(vars(of if inspect.ismodule(of) else ft))
        # Of a module, also what it has from another one
        named = [getattr(of, x) for x in of.__all__] if inspect.ismodule(of) else [of]
        tests = [t for x in named for t in doctest.DocTestFinder().find(x, name, globs=globs)]
        assert any(test.examples for test in tests), name
        for test in tests:
            # Globals that torch has compiled with must outlive what it has compiled.
            assert not doctest.DocTestRunner().run(test, clear_globs=False).failed, test.name
    torch._dynamo.reset()


def test_readme():
    """The programs for PyTorch in python/README.md run as printed."""
    text = (TOP / "python" / "README.md").read_text()
    found = re.findall(r"^```py\n(.*?)^```", text, re.S | re.M)
    names = {}
    for program in found:
        exec(program, names)
    assert names["each"].shape == (2, 4, 1000)
    assert names["y"].shape == (2, 1024, 128)
