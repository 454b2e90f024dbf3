"""Measures short depthwise convolutions: the table in flash-fft-conv's README, on a CPU.

    y[b, d, l] = bias[d] + sum_k w[d, k] x[b, d, l - (K - 1) / 2 + k]

x is (B, D, L) in layout BHL or (B, L, D) in layout BLH, and y has the shape of x.  The lengths
and channels are those of the README.  The batch is the largest one, up to 16, for which x has
at most `elements` elements, and at least 1.  K is 5; at the smallest and the largest shape (at
every shape in the full grid) also 3 and 7.

Times are medians of interleaved runs on all processors.  Every result is compared with the
float64 oracle, on some of its channels, before it is timed.

    fftconv   depthwise_conv1d, into an existing array
    numpy     the same sum in NumPy, a multiplication and an addition for each tap, on one
              thread, in float32 and at the smallest and the largest shape only (in the full
              grid at every shape): it takes ten times as long as all the rest
    copy      np.copyto of x to y, on all processors or on one thread, whichever is faster

Writes results/short.json.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import bench
import fftconv
import numpy as np
from fftconv import reference
from tqdm import tqdm

LENGTHS = (1024, 2048, 4096, 8192)
CHANNELS = (768, 1024, 2048, 8192)
# The largest error of a row.  With 16 bits, most of it is the rounding of y.
ERRORS = {"float32": 5e-7, "bfloat16": 4e-3, "float16": 6e-4}

GRIDS = {
    "quick": dict(
        elements=2**12,
        batch=1,
        repeats=1,
        shapes=[(64, 24), (128, 48)],
        corners=[(64, 24)],
        dtypes=("float32", "bfloat16"),
    ),
    "default": dict(
        elements=2**24,
        batch=16,
        repeats=5,
        shapes=[(n, d) for n in LENGTHS for d in CHANNELS],
        corners=[(LENGTHS[0], CHANNELS[0]), (LENGTHS[-1], CHANNELS[-1])],
        dtypes=("float32", "bfloat16"),
    ),
    "full": dict(
        elements=2**26,
        batch=16,
        repeats=9,
        shapes=[(n, d) for n in LENGTHS for d in CHANNELS],
        corners=[(n, d) for n in LENGTHS for d in CHANNELS],
        dtypes=("float32", "bfloat16", "float16"),
    ),
}


class Copy:
    """A copy of x to y that is divided among `threads` threads."""

    def __init__(self, x, y, threads):
        self.pairs = list(zip(*(np.array_split(a.reshape(-1), threads) for a in (x, y))))
        self.pool = ThreadPoolExecutor(threads)

    def __call__(self):
        for done in [self.pool.submit(np.copyto, y, x) for x, y in self.pairs]:
            done.result()


def by_numpy(x, w, bias, padding, axis, y):
    """Write the convolution of x with w (D, K) along `axis` into y."""
    n = x.shape[axis]
    y[...] = bias if axis == 1 else bias[:, None]
    for k in range(w.shape[1]):
        shift = k - padding
        to = slice(max(0, -shift), min(n, n - shift))
        of = slice(max(0, shift), min(n, n + shift))
        tap = w[:, k] if axis == 1 else w[:, k, None]
        if axis == 1:
            y[:, to] += tap * x[:, of]
        else:
            y[:, :, to] += tap * x[:, :, of]


def measure(length, channels, taps, dtype, layout, grid, memory, rng):
    """Check and time the methods at one shape; return a row for each."""
    threads = bench.processors()
    batch = max(1, grid["elements"] // (length * channels))
    batch = min(grid["batch"], batch)
    axis = 2 if layout == "BHL" else 1
    shape = (batch, channels, length) if axis == 2 else (batch, length, channels)
    x, y = (
        m.view(bench.dtype_of(dtype))[: batch * channels * length].reshape(shape) for m in memory
    )
    # x repeats 2^20 + 7 normal numbers, a length that keeps channels different from each other.
    noise = rng.standard_normal(2**20 + 7, np.float32).astype(x.dtype)
    x.reshape(-1)[...] = np.resize(noise, x.size)
    w = rng.standard_normal((channels, taps), np.float32).astype(x.dtype)
    bias = rng.standard_normal(channels, np.float32).astype(x.dtype)
    padding = (taps - 1) // 2

    def ours():
        fftconv.depthwise_conv1d(x, w, bias, padding=padding, layout=layout, out=y)

    calls = {"fftconv": ours}
    if dtype == "float32" and (length, channels) in grid["corners"]:
        calls["numpy"] = lambda: by_numpy(x, w, bias, padding, axis, y)
    few = slice(0, channels, max(1, channels // 16))
    some = (-1, few) if axis == 2 else (-1, slice(None), few)
    rows = np.asarray(x[some], np.float64)
    exact = reference.depthwise_conv1d(
        (rows if axis == 2 else rows.T)[None], w[few], bias[few], padding=(padding, padding)
    )[0]
    errors = {}
    for name, call in calls.items():
        y[...] = np.nan
        call()
        found = np.asarray(y[some], np.float64)
        errors[name] = bench.check(
            f"{length} x {channels}, K = {taps}, {dtype}, {layout}, {name}",
            bench.row_error(found if axis == 2 else found.T, exact, 0.0),
            ERRORS[dtype],
        )
    raw = x.view(np.uint8), y.view(np.uint8)
    copies = {n: Copy(*raw, n) for n in {1, threads}}
    calls |= {f"copy_{n}": call for n, call in copies.items()}
    timing = bench.interleaved(calls, grid["repeats"], threads=threads, cap=0.1)
    fastest = min(copies, key=lambda n: timing[f"copy_{n}"]["median_s"])
    timing["copy"] = timing[f"copy_{fastest}"] | {"threads": fastest}
    return [
        {
            "length": length,
            "channels": channels,
            "batch": batch,
            "taps": taps,
            "dtype": dtype,
            "layout": layout,
            "method": name,
            "error": errors.get(name, 0.0),
            "threads": 1 if name == "numpy" else threads,
            **timing[name],
        }
        for name in [*errors, "copy"]
    ]


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)
    bench.keep_freed_memory()
    most = max(grid["elements"], max(n * d for n, d in grid["shapes"]))
    # The memory of x and y, shared by all shapes, so that its pages are mapped beforehand.
    memory = [np.zeros(4 * most, np.uint8) for _ in range(2)]
    work = [
        (n, d, taps, dtype, layout)
        for n, d in grid["shapes"]
        for taps in ((3, 5, 7) if (n, d) in grid["corners"] else (5,))
        for dtype in grid["dtypes"]
        for layout in ("BHL", "BLH")
    ]
    rows = []
    for case in tqdm(work, desc="short", unit="case"):
        rows += measure(*case, grid, memory, rng)
    body = {"elements": grid["elements"], "repeats": grid["repeats"], "rows": rows}
    print(bench.write(settings.results, "short", settings, body, started))


if __name__ == "__main__":
    main()
