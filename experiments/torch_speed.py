"""Times `fftconv.torch.conv` against the convolution that people write with `torch.fft`.

Each row of the report is a causal convolution of u (B, H, L) with k (H, L), forward and backward,
on one thread, checked against float64 first. Its times, taken in turns (`bench.interleaved`), are
those of `fftconv.torch.conv`; of torch.fft, that is rfft of rows and kernel, product and irfft in
every call; and of the calls on arrays, `fftconv.conv` and `fftconv.conv_backward`.

It needs PyTorch (pip install 'fftconv[torch]').
"""

import time

import bench
import fftconv
import fftconv.torch
import numpy as np
import torch

GRIDS = {
    "quick": dict(rows=[(2, 4, 256)], repeats=3),
    "default": dict(rows=[(16, 64, 1024), (4, 32, 16384), (1, 8, 262144)], repeats=9),
}
GRIDS["full"] = GRIDS["default"]


def by_torch_fft(u, k):
    """The causal convolution of u with k as models write it."""
    n = 2 * u.shape[-1]
    product = torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n)
    return torch.fft.irfft(product, n=n)[..., : u.shape[-1]]


WAYS = {"fftconv": fftconv.torch.conv, "torch.fft": by_torch_fft}


def operands(batch, channels, length, seed):
    """u, k and dy, of which u and k require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, channels, length), (channels, length), (batch, channels, length)
    u, k, dy = (torch.randn(s, generator=generator) for s in shapes)
    return u.requires_grad_(), k.requires_grad_(), dy


def step_of(way, u, k, dy):
    """A function that runs forward and backward and returns (y, du, dk)."""

    def step():
        u.grad = k.grad = None
        y = WAYS[way](u, k)
        y.backward(dy)
        return y.detach(), u.grad, k.grad

    return step


def on_arrays(u, k, dy):
    """The same step by the calls on arrays."""
    u, k, dy = (x.detach().numpy() for x in (u, k, dy))

    def step():
        y = fftconv.conv(u, k, threads=1)
        g = fftconv.conv_backward(dy, u, k, threads=1)
        return y, g.du, g.dk

    return step


def convolutions(shape, repeats, seed):
    """The row of the report for rows of one shape."""
    u, k, dy = operands(*shape, seed)
    calls = {way: step_of(way, u, k, dy) for way in ("fftconv", "torch.fft")}
    calls["arrays"] = on_arrays(u, k, dy)
    exact = step_of(
        "torch.fft", *(x.detach().double().requires_grad_() for x in (u, k)), dy.double()
    )
    errors = {}
    for name, call in calls.items():
        pairs = zip(call(), exact())
        errors[name] = max(
            bench.row_error(np.asarray(a, float), np.asarray(b), 0) for a, b in pairs
        )
        bench.check(name, errors[name], 2e-6)
    times = bench.interleaved(calls, repeats)
    speedup = times["torch.fft"]["median_s"] / times["fftconv"]["median_s"]
    return {"shape": shape, "errors": errors, "times": times, "speedup": speedup}


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)
    bench.keep_freed_memory()
    grid = GRIDS[settings.grid]
    rows = [convolutions(shape, grid["repeats"], settings.seed) for shape in grid["rows"]]
    print(bench.write(settings.results, "torch_speed", settings, {"rows": rows}, started))
    for row in rows:
        print(row["shape"], f"{row['speedup']:.2f}")


if __name__ == "__main__":
    main()
