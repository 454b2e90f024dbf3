"""Measures training with `fftconv.torch` against the same with `torch.fft`: time and memory.

    rows     a causal convolution of u (B, H, L) with k (H, L), forward and backward: by
             fftconv.torch.conv, by torch.fft, which transforms rows and kernel in every call,
             and by the calls on arrays, fftconv.conv and fftconv.conv_backward
    modules  a training step (forward, backward, AdamW) of modules of fftconv.torch, and of the
             same modules with the convolutions of torch_fft.py
    models   forward and backward of models written with torch.fft, as torch.compile makes them
             with the pass of fftconv.torch.compile_options, and without it

All is float32 on one thread, checked against float64 first, and timed in turns
(`bench.interleaved`).  A sample of a time repeats short calls, so that each way finds in the
caches what it left there.  malloc is as PyTorch's users have it: it gives large memory back,
and takes it again in fresh pages, of which torch.fft needs most.  "kept" has the times of the
rows where malloc keeps it (`bench.keep_freed_memory`).

peak_bytes is the peak resident set during a first step minus the resident set before it
(`memory.peak_extra`), in a forked process of its own: results, gradients, and all that is kept
until the backward pass or made in between.  Inputs and parameters are not counted.

Writes results/torch_speed.json.  It needs PyTorch (pip install 'fftconv[torch]').
"""

import contextlib
import copy
import ctypes
import multiprocessing
import time

import bench
import fftconv
import fftconv.torch
import genome_model
import numpy as np
import torch
import torch._dynamo  # AdamW imports it: here, and not in every measured process
import torch.nn.functional as F
import torch_fft
from fftconv.torch import flash, hyena, lrnnx
from memory import peak_extra
from torch import nn
from tqdm import tqdm

# rows, modules, models: the shapes (B, H, L).  Compiling a model takes half a minute.
GRIDS = {
    "quick": dict(rows=[(8, 64, 1024)], modules=[(2, 64, 1024)], models=[], repeats=1, least=0.0),
    "default": dict(
        rows=[(16, 64, 1024), (4, 32, 16384), (1, 8, 262144)],
        modules=[(4, 64, 4096)],
        models=[(8, 64, 4096)],
        repeats=9,
        least=0.1,
    ),
    "full": dict(
        rows=[(16, 64, 1024), (4, 32, 16384), (1, 8, 262144)],
        modules=[(16, 64, 1024), (4, 64, 4096), (1, 64, 16384)],
        models=[(8, 64, 4096), (2, 64, 16384)],
        repeats=15,
        least=0.1,
    ),
}

OURS, THEIRS = "fftconv", "torch.fft"
CONVOLUTIONS = {OURS: fftconv.torch.conv, THEIRS: torch_fft.conv}
CONTEXTS = {OURS: contextlib.nullcontext, THEIRS: torch_fft.in_modules}


# ---- Steps ----------------------------------------------------------------------------


def step_of(call, inputs, parameters=(), context=contextlib.nullcontext):
    """A function that runs a training step of `call`, and returns y and all gradients.

    inputs: the tensors that it is called with, all of which get gradients.  parameters: what
    AdamW changes at the end of the step, with a learning rate of 0, so that all steps are alike.
    """
    parameters = list(parameters)
    learned = [*inputs, *parameters]
    optimizer = torch.optim.AdamW(parameters, 0.0) if parameters else None
    dy = normal([inputs[0].shape], 1, inputs[0].dtype)[0].detach()

    def step():
        for x in learned:
            x.grad = None
        with context():
            y = call(*inputs)
            y = y[0] if isinstance(y, tuple) else y
            y.backward(dy)
        if optimizer:
            optimizer.step()
        return [y.detach(), *(x.grad for x in learned)]

    return step


def normal(shapes, seed, dtype=torch.float32):
    """Normal random numbers of these shapes, the same in each dtype, which require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def largest_error(found, exact):
    """The largest relative error, by the 2-norm, of a list of tensors."""
    pairs = zip(found, exact)
    return max(float((torch.as_tensor(a) - b).norm() / b.norm()) for a, b in pairs)


def checked(calls, exact, limit):
    """{name: error} of calls that return lists of tensors; raises where one is above `limit`."""
    return {
        name: bench.check(name, largest_error(call(), exact), limit) for name, call in calls.items()
    }


# ---- Convolutions ---------------------------------------------------------------------


def convolution_step(way, shape, seed, dtype=torch.float32):
    return step_of(CONVOLUTIONS[way], normal([shape, shape[1:]], seed, dtype))


def on_arrays(shape, seed):
    """The same step as `convolution_step` by the calls on arrays."""
    u, k = (x.detach().numpy() for x in normal([shape, shape[1:]], seed))
    dy = normal([shape], 1)[0].detach().numpy()

    def step():
        y = fftconv.conv(u, k, threads=1)
        g = fftconv.conv_backward(dy, u, k, threads=1)
        return [y, g.du, g.dk]

    return step


def convolution_calls(shape, seed):
    calls = {way: convolution_step(way, shape, seed) for way in CONVOLUTIONS}
    return {**calls, "arrays": on_arrays(shape, seed)}


def convolution_row(shape, grid, seed):
    calls = convolution_calls(shape, seed)
    errors = checked(calls, convolution_step(THEIRS, shape, seed, torch.float64)(), 2e-6)
    return {"shape": shape, "errors": errors, **timed(calls, grid)}


def timed(calls, grid):
    times = bench.interleaved(calls, grid["repeats"], least=grid["least"])
    return {"times": times, "speedup": times[THEIRS]["median_s"] / times[OURS]["median_s"]}


# ---- Modules --------------------------------------------------------------------------


def modules(batch, channels, length):
    """{name: (function that makes the module, shapes of its inputs)}."""
    rows, samples = (batch, channels, length), (batch, length, channels)
    return {
        "FlashFFTConv": (lambda: flash.FlashFFTConv(2 * length), [rows, rows[1:], rows, rows]),
        "FlashDepthWiseConv1d": (
            lambda: flash.FlashDepthWiseConv1d(
                channels, 3, 1, torch.randn(channels, 3), torch.randn(channels)
            ),
            [rows],
        ),
        "FFTConv": (lambda: fftconv.torch.FFTConv(channels, length, activation="gelu"), [rows]),
        "LongConv": (lambda: hyena.LongConv(channels, length, lam=1e-3), [rows]),
        "HyenaOperator": (lambda: hyena.HyenaOperator(channels, length, emb_dim=5), [samples]),
        "H3": (lambda: hyena.H3(channels, l_max=length), [samples]),
        "S4D": (lambda: lrnnx.S4D(channels, d_state=64, transposed=False), [samples]),
        "S4": (lambda: lrnnx.S4(channels, d_state=64, transposed=False), [samples]),
        "Hyena block": (lambda: genome_model.Block(channels, length), [samples]),
    }


def module_step(way, name, shape, seed, dtype=torch.float32):
    make, shapes = modules(*shape)[name]
    torch.manual_seed(seed)
    module = make().to(dtype)
    return step_of(module, normal(shapes, seed, dtype), module.parameters(), CONTEXTS[way])


def module_row(name, shape, grid, seed):
    calls = {way: module_step(way, name, shape, seed) for way in CONTEXTS}
    # Kernels of many states, and networks of sines, lose digits on the way to a parameter.
    errors = checked(calls, module_step(THEIRS, name, shape, seed, torch.float64)(), 1e-4)
    return {"name": name, "shape": shape, "errors": errors, **timed(calls, grid)}


# ---- Models that nobody edits ---------------------------------------------------------


class StateSpaces(nn.Module):
    """A layer with the diagonal state-space kernel of S4D, as one writes it in PyTorch."""

    def __init__(self, channels, length, states=4):
        super().__init__()
        self.log_rate = nn.Parameter(torch.randn(channels, states) - 4)
        self.frequency = nn.Parameter(torch.rand(channels, states))
        self.C = nn.Parameter(torch.randn(channels, states) / states)
        self.D = nn.Parameter(torch.randn(channels))
        self.mix = nn.Conv1d(channels, 2 * channels, 1)
        self.register_buffer("t", torch.arange(float(length)))

    def forward(self, u):
        length = u.shape[-1]
        waves = torch.exp(-self.log_rate.exp()[..., None] * self.t)
        k = (self.C[..., None] * waves * torch.cos(self.frequency[..., None] * self.t)).sum(1)
        u_f = torch.fft.rfft(u, n=2 * length)
        k_f = torch.fft.rfft(k, n=2 * length)
        y = torch.fft.irfft(u_f * k_f, n=2 * length)[..., :length]
        y = F.gelu(y + u * self.D.unsqueeze(-1))
        return F.glu(self.mix(y), dim=1)


class Gated(nn.Module):
    """A layer of Hyena's kind: two gates around a convolution whose kernel a network makes."""

    def __init__(self, channels, length, width=16):
        super().__init__()
        self.project = nn.Conv1d(channels, 3 * channels, 1)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.first, self.last = nn.Linear(9, width), nn.Linear(width, channels)
        self.D = nn.Parameter(torch.randn(channels))
        t = torch.linspace(0, 1, length)[:, None]
        angle = t * 2 * np.pi * torch.arange(1, 5)
        self.register_buffer("place", torch.cat([t, angle.sin(), angle.cos()], 1))
        self.register_buffer("window", torch.exp(-5 * t * torch.linspace(1, 10, channels)))

    def forward(self, u):
        n = 2 * u.shape[-1]
        k = (self.last(torch.sin(self.first(self.place))) * self.window).t()
        v, gate, out_gate = self.project(u).chunk(3, dim=1)
        z = v * gate
        y = torch.fft.irfft(
            torch.fft.rfft(z, n=n) * (torch.fft.rfft(k, n=n) / n), n=n, norm="forward"
        )
        y = y[..., : u.shape[-1]] + z * self.D[:, None]
        return self.mix(y * out_gate)


MODELS = {"state spaces": StateSpaces, "gated": Gated}


def model_row(name, shape, grid, seed):
    _, channels, length = shape
    torch.manual_seed(seed)
    model, report = MODELS[name](channels, length), []
    torch._dynamo.reset()
    ways = {
        OURS: torch.compile(model, options=fftconv.torch.compile_options(report)),
        THEIRS: torch.compile(model),
    }
    calls = {
        way: step_of(compiled, normal([shape], seed), model.parameters())
        for way, compiled in ways.items()
    }
    double = copy.deepcopy(model).double()
    exact = step_of(double, normal([shape], seed, torch.float64), double.parameters())()
    errors = checked(calls, exact, 1e-4)
    replaced = [[found.mode, *found.fused] for found in report]
    if len(replaced) != 1 or replaced[0][0] != "causal":
        raise RuntimeError(f"{name}: the pass did not replace the convolution: {report}")
    calls["convolution"] = convolution_step(THEIRS, shape, seed)
    row = {"name": name, "shape": shape, "errors": errors, "replaced": replaced[0]}
    row |= timed(calls, grid)
    seconds = {way: t["median_s"] for way, t in row["times"].items()}
    # The part of the step without the pass that the convolution alone takes.
    return {**row, "share": seconds["convolution"] / seconds[THEIRS]}


# ---- Memory ---------------------------------------------------------------------------


def peak(way, case, seed):
    """peak_bytes of the step of a case in this process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # Large arrays come from the system and go back to it, so that all are counted.
        M_MMAP_THRESHOLD = -3
        mallopt(M_MMAP_THRESHOLD, 2**16)
    make = convolution_step if len(case) == 1 else module_step
    *name, shape = case
    # A small step first loads code and tables that outlast a step, so they are not counted.
    make(way, *name, (1, 8, 64), seed)()
    _, extra = peak_extra(make(way, *name, shape, seed))
    return extra


def peaks(cases, seed):
    """{case: {way: peak_bytes}} of cases ([name,] shape), those with a name of modules."""
    # maxtasksperchild=1 runs each step in a new process.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return {
            case: {way: pool.apply(peak, (way, case, seed)) for way in CONTEXTS} for case in cases
        }


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)
    grid, seed = GRIDS[settings.grid], settings.seed
    rows = [(shape,) for shape in grid["rows"]]
    named = [(name, shape) for shape in grid["modules"] for name in modules(*shape)]
    memory = peaks(rows + named, seed)  # first, while nothing has been allocated here
    body = {"threads": 1, "rows": [], "modules": [], "models": []}
    for part, measure, cases in (
        ("rows", convolution_row, rows),
        ("modules", module_row, named),
        ("models", model_row, [(name, shape) for shape in grid["models"] for name in MODELS]),
    ):
        for case in tqdm(cases, desc=f"torch_speed, {part}"):
            row = measure(*case, grid, seed)
            if case in memory:
                row["peak_bytes"] = memory[case]
            body[part].append(row)
    bench.keep_freed_memory()
    for row in body["rows"]:
        row["kept"] = timed(convolution_calls(row["shape"], seed), grid)
    print(bench.write(settings.results, "torch_speed", settings, body, started))


if __name__ == "__main__":
    main()
