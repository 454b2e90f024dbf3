"""Measures the three strategies of opt_ssm_forward: time, memory and the model's choice.

x is (B, L, H_in) in float32, with N kernels of length L, on one thread.  At each shape every
strategy (strategy 3 in both of its inner orders) is compared with the definition in float64 and
then timed in turn with the others.  The results also hold the strategies that "auto" and
lrnnx's rule choose, the times that the cost model predicts, and the memory that a call needs
besides operands and result (as traced for NumPy's arrays, and as predicted by the model, which
adds the library's own spectra).

At the shape of the lrnnx document, these are also timed in float32: strategy 2 and the fallback
(projections at each frequency) with scipy.fft and NumPy's matmul, as a careful user would write
them, with contiguous rows along time; and strategy 2 with einsum(optimize=True) as the document
writes it, with time on axis 1.

Finally, the S4D kernel of H channels is compared with the same Vandermonde product in NumPy, in
complex64.  NumPy computes only some of the heads, and its time is scaled to all.

Writes results/strategies.json.
"""

import time
import tracemalloc

import bench
import fftconv
import numpy as np
import scipy.fft
from fftconv import lrnnx
from tqdm import tqdm

DOCUMENT = (32, 1024, 64, 64, 128)  # B, L, H_in, H_out, N
SHAPES = [
    DOCUMENT,
    (8, 1024, 64, 64, 128),
    (1, 1024, 64, 64, 128),
    (16, 2048, 128, 128, 256),
    (4, 4096, 128, 128, 32),
    (64, 1024, 16, 16, 256),
    (64, 512, 8, 8, 128),
    (128, 128, 16, 16, 64),
    (32, 256, 32, 32, 32),
    (8, 4096, 4, 4, 16),
    (32, 4096, 4, 4, 64),
    (1, 65536, 4, 4, 16),
    (1, 65536, 16, 16, 16),
    (16, 1024, 8, 8, 16),
    (16, 1024, 8, 8, 64),
    (16, 1024, 8, 8, 256),
    (2, 2048, 8, 8, 256),
    (1, 1024, 16, 16, 256),
    (1, 8192, 16, 16, 256),
    (4, 8192, 16, 16, 64),
    (4, 8192, 32, 32, 512),
    (2, 4096, 64, 64, 512),
    (8, 2048, 32, 8, 128),
    (8, 2048, 8, 32, 128),
    (16, 1000, 24, 24, 48),
    (6, 3001, 12, 20, 100),
    (256, 256, 8, 8, 32),
    (64, 1024, 2, 2, 16),
]
# Half of the time of all would be theirs, so they are in the full grid alone.
SLOW_SHAPES = [(1, 16384, 128, 128, 64), (1, 4096, 256, 256, 64)]
GRIDS = {
    "quick": dict(
        shapes=[(4, 64, 8, 8, 16), (2, 65, 3, 5, 4), (8, 64, 2, 2, 32)],
        document=(4, 64, 8, 8, 16),
        kernel=(8, 8, 256, 2),
        repeats=1,
        least=0.0,
    ),
    "default": dict(
        shapes=SHAPES, document=DOCUMENT, kernel=(256, 64, 16384, 8), repeats=5, least=5e-3
    ),
}
GRIDS["full"] = {**GRIDS["default"], "shapes": SHAPES + SLOW_SHAPES, "repeats": 11}
ERROR_LIMIT = 3e-6  # the largest error relative to max |y|


def operands(shape, rng):
    """Random x (B, L, I), K (N, L), B_ (N, I) and C (O, N), scaled so that y is O(1)."""
    B, L, I, O, N = shape
    return [
        rng.standard_normal(s, np.float32) * np.float32(scale)
        for s, scale in (((B, L, I), 1), ((N, L), L**-0.5), ((N, I), I**-0.5), ((O, N), N**-0.5))
    ]


def exact(x, K, B_, C):
    """y in float64 by the definition, for the last batch entry: (1, L, O)."""
    x, K, B_, C = (a.astype(np.float64) for a in (x[-1:], K, B_, C))
    n = scipy.fft.next_fast_len(2 * x.shape[1], real=True)
    u = scipy.fft.rfft(B_ @ x.swapaxes(1, 2), n) * scipy.fft.rfft(K, n)
    return (C @ scipy.fft.irfft(u, n)[..., : x.shape[1]]).swapaxes(1, 2)


def scipy_2(x, K, B_, C):
    """Strategy 2 with scipy.fft and matmul."""
    length = x.shape[1]
    n = scipy.fft.next_fast_len(2 * length - 1, real=True)
    u = scipy.fft.rfft(B_ @ x.swapaxes(1, 2), n)
    u *= scipy.fft.rfft(K, n)
    v = scipy.fft.irfft(u, n, overwrite_x=True)[..., :length]
    return v.swapaxes(1, 2) @ C.T


def scipy_3(x, K, B_, C):
    """The fallback: real projections of the pairs (re, im) at each frequency."""
    length = x.shape[1]
    n = scipy.fft.next_fast_len(2 * length - 1, real=True)
    X = scipy.fft.rfft(np.ascontiguousarray(x.swapaxes(1, 2)), n)
    U = (B_ @ X.view(np.float32)).view(np.complex64)
    U *= scipy.fft.rfft(K, n)
    Y = (C @ U.view(np.float32)).view(np.complex64)
    return scipy.fft.irfft(Y, n)[..., :length].swapaxes(1, 2)


def scipy_2_einsum(x, K, B_, C):
    """Strategy 2 with einsum, as the document writes it."""
    length = x.shape[1]
    n = scipy.fft.next_fast_len(2 * length - 1, real=True)
    u = np.einsum("blh,nh->bln", x, B_, optimize=True)
    U = scipy.fft.rfft(u, n, axis=1)
    U *= scipy.fft.rfft(K, n).T
    v = scipy.fft.irfft(U, n, axis=1)[:, :length]
    return np.einsum("bln,hn->blh", v, C, optimize=True)


SCIPY = {"scipy 2": scipy_2, "scipy 3": scipy_3, "scipy 2 einsum": scipy_2_einsum}


def error_of(y, want):
    if y.shape[1:] != want.shape[1:] or not np.isfinite(y).all():
        return np.inf
    return float(np.max(np.abs(y[-1:] - want)) / np.max(np.abs(want)))


def held(call):
    """The peak bytes of NumPy's arrays during a call, without its result."""
    tracemalloc.start()
    y = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - y.nbytes


def measure(shape, grid, rng, with_scipy):
    """One row: the shape, the timing of its strategies, and the strategies chosen."""
    B, L, I, O, N = shape
    arrays = operands(shape, rng)
    want = exact(*arrays)
    costs = lrnnx.strategy_costs(*shape, threads=1)
    calls, errors = {}, {}
    for order in (*costs, *(["auto"] if with_scipy else [])):
        calls[order] = lambda order=order: lrnnx.opt_ssm_forward(
            *arrays, strategy=order, k_layout="NL", threads=1
        )
        errors[order] = bench.check(
            f"{shape}, {order}", error_of(calls[order](), want), ERROR_LIMIT
        )
    if with_scipy:
        for name, run in SCIPY.items():
            calls[name] = lambda run=run: run(*arrays)
            errors[name] = bench.check(
                f"{shape}, {name}", error_of(calls[name](), want), ERROR_LIMIT
            )
    timing = bench.interleaved(calls, grid["repeats"], cap=0.3, least=grid["least"])
    for name, sample in timing.items():
        sample["error"] = errors[name]
        if name in costs:
            sample["predicted_s"] = costs[name].seconds
            sample["flops"] = costs[name].flops
            sample["model_bytes"] = costs[name].memory_bytes
            sample["traced_bytes"] = held(calls[name])
    return {
        **dict(zip(("batch", "length", "inputs", "outputs", "states"), shape)),
        "auto": min(costs, key=lambda order: costs[order].seconds),
        "upstream": lrnnx.upstream_strategy(B, I, O, N),
        "strategies": timing,
    }


def kernels(grid, rng):
    """Times of the S4D kernel and of the same product in NumPy."""
    heads, states, length, some = grid["kernel"]
    kernel = lrnnx.S4DKernel(heads, states, init="inv", seed=0)
    dt, A = kernel.dt(), kernel.A()
    w = (kernel.parameters["C"][0] * np.expm1(dt * A) / A).astype(np.complex64)
    x = (dt * A).astype(np.complex64)[:some, :, None]
    places = np.arange(length, dtype=np.float32)

    def by_numpy():
        return 2 * np.einsum("hn,hnl->hl", w[:some], np.exp(x * places)).real

    def ours():
        return fftconv.ssm.ssm_kernel(length=length, dtype="float32", threads=1, **system)[0, 0]

    # B = 1 in continuous time; with time in units of Delta, A becomes dt A and B becomes dt.
    system = {"A": dt * A, "B": np.broadcast_to(dt, A.shape)[None], "C": kernel.parameters["C"]}
    k = ours()[:some]
    difference = float(np.max(np.abs(k - by_numpy())) / np.max(np.abs(k)))
    bench.check("S4D kernel, beside NumPy's", difference, 1e-3)
    timing = bench.interleaved({"fftconv": ours, "numpy": by_numpy}, grid["repeats"])
    for key in ("median_s", "low_s", "high_s"):
        timing["numpy"][key] *= heads / some
    return {
        "heads": heads,
        "states": states,
        "length": length,
        "heads_of_numpy": some,
        "difference": difference,
        **timing,
    }


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)
    bench.keep_freed_memory()
    rows = [
        measure(shape, grid, rng, shape == grid["document"])
        for shape in tqdm(grid["shapes"], leave=False)
    ]
    machine = lrnnx.machine("float32", 1)
    path = bench.write(
        settings.results,
        "strategies",
        settings,
        {
            "constants": {
                **{
                    name: getattr(machine, name)
                    for name in ("gemm", "contract", "project", "transform", "byte", "turn")
                },
                "call": machine.call,
            },
            "rows": rows,
            "kernel": kernels(grid, rng),
        },
        started,
    )
    late = [
        row["strategies"][row["auto"]]["median_s"]
        / min(row["strategies"][o]["median_s"] for o in machine.call)
        for row in rows
    ]
    print(
        f"{path}: auto is the fastest, or within 15 %, at "
        f"{sum(r <= 1.15 for r in late)} of {len(late)} shapes; at the worst "
        f"{max(late):.2f} times the fastest"
    )


if __name__ == "__main__":
    main()
