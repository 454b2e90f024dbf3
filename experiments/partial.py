"""Partial convolutions: what a filter shorter than the row costs.

    forward   y  = u * k           causal; u (B, H, L), k (H, Lk), Lk <= L
    backward  du, dk from dy, u, k

The filters of one L are one filter cut at Lk, as the paper cut Hyena-s-8K's for
its Table 7; Lk = L is the 1 x, and every Lk of one L takes turns with it.

    L = 8K     Table 7's lengths, 8K ... 256
    longer L   Lk = L, Lk = L/4, and Lk = 4K: one short filter on ever longer
               rows, a sliding window

Times: float32, one thread; medians of interleaved runs, in a process that keeps
its freed memory; each method is compared with the float64 oracle, row by row,
before it is timed.

    fftconv            forward, k's transform made inside the call
    fftconv_ready      forward, plan and spectrum made beforehand
    fftconv_backward   du and dk, k's transform made inside the call
    fftconv_whole      forward, spectrum ready, each row in one transform
    scipy_oaconvolve   forward, scipy.signal.oaconvolve, cut to L

Memory, at Table 7's lengths: what the plan counts (the workspace of one thread,
a spectrum of all channels), and what one call adds to the peak resident set of
a process of its own, its results included, its inputs not; "fftconv_ready" then
includes making plan and spectrum.

Writes results/partial.json.
"""

import multiprocessing
import time
from functools import partial

import bench
import fftconv
import memory
import numpy as np
import scipy.signal
import speed
from fftconv import reference
from tqdm import tqdm

TABLE_7 = [2**a for a in range(13, 7, -1)]
WINDOW = 2**12

# Elements of u per call; the least batch; repeats; L: its Lk, all timed; pairs
# of which only the plan's costs are wanted; (B, H) of the memory runs.
GRIDS = {
    "quick": dict(
        elements=2**14,
        least_batch=1,
        repeats=1,
        lengths={2**13: TABLE_7, 2**14: [2**14, WINDOW]},
        planned=[(2**22, WINDOW)],
        memory_rows=(1, 256),  # large beside the allocator's slack
    ),
    "default": dict(
        elements=2**20,
        least_batch=2,
        repeats=9,
        lengths={
            2**13: TABLE_7,
            **{2**a: [2**a, 2 ** (a - 2), WINDOW] for a in (16, 18, 20)},
            2**14: [2**14, WINDOW],
        },
        planned=[(2**22, WINDOW)],
        memory_rows=(2, 256),
    ),
    "full": dict(
        elements=2**22,
        least_batch=2,
        repeats=9,
        lengths={
            2**13: TABLE_7,
            2**16: [2**a for a in range(16, 7, -1)],
            **{2**a: [2**a, 2 ** (a - 2), WINDOW] for a in (18, 20, 22)},
            2**14: [2**14, WINDOW],
        },
        planned=[],
        memory_rows=(8, 256),
    ),
}

MEMORY_METHODS = ("fftconv_ready", "fftconv_backward", "scipy_oaconvolve")


class Rows:
    """u, dy and the longest filter of one L; every Lk works on these."""

    def __init__(self, length, batch, channels, rng):
        shape = (batch, channels, length)
        self.u = rng.standard_normal(shape, np.float32)
        self.dy = rng.standard_normal(shape, np.float32)
        self.taps = rng.standard_normal((channels, length), np.float32)


class Case:
    """One filter length on given rows: its kernel, its plan, its methods."""

    def __init__(self, rows, kernel_length):
        self.u, self.dy = rows.u, rows.dy
        self.k = np.ascontiguousarray(rows.taps[:, :kernel_length])
        self.k /= np.float32(np.sqrt(kernel_length))  # y is then O(1)
        self.plan = partial(fftconv.Plan, self.u.shape, self.k.shape, threads=1)

    def ready(self, **how):
        """The plan's call with its spectrum made now, once."""
        plan = self.plan(**how)
        return partial(plan, self.u, plan.spectrum(self.k))

    def backward(self):
        g = fftconv.conv_backward(self.dy, self.u, self.k, threads=1, needs=("u", "k"))
        return g.du, g.dk

    def by_oaconvolve(self):
        y = scipy.signal.oaconvolve(self.u, self.k[None], axes=-1)
        return y[..., : self.u.shape[-1]]

    def method(self, name):
        """A function of no arguments that computes this case the named way."""
        return {
            "fftconv": lambda: partial(fftconv.conv, self.u, self.k, threads=1),
            "fftconv_ready": self.ready,
            "fftconv_backward": lambda: self.backward,
            "fftconv_whole": lambda: self.ready(single_block=True),
            "scipy_oaconvolve": lambda: self.by_oaconvolve,
        }[name]()

    def methods(self):
        return {
            name: self.method(name)
            for name in (
                "fftconv",
                "fftconv_ready",
                "fftconv_backward",
                "fftconv_whole",
                "scipy_oaconvolve",
            )
        }

    def errors(self, methods):
        """name: worst row's error against float64; a wrong method raises.

        Random rows do not cancel: each is held to its own norm.
        """
        y = reference.conv(self.u, self.k)
        g = reference.conv_backward(self.dy, self.u, self.k)
        errors = {}
        for name, call in methods.items():
            found, exact = call(), (y,)
            if name == "fftconv_backward":
                exact = (g.du, g.dk)
            else:
                found = (found,)
            worst = max(bench.row_error(x, e, 0.0) for x, e in zip(found, exact))
            errors[name] = bench.check(
                f"L = {self.u.shape[-1]}, Lk = {self.k.shape[-1]}, {name}", worst
            )
        return errors


def plan_row(batch, channels, length, kernel_length):
    """What the plan chose for one (L, Lk), and what it counts."""
    plan = fftconv.Plan((batch, channels, length), (channels, kernel_length), threads=1)
    return {
        "length": length,
        "kernel_length": kernel_length,
        "batch": batch,
        "channels": channels,
        "blocks": plan.blocks,
        "block_length": plan.block_length,
        "transform_length": plan.transform_length,
        "radices": list(plan.radices),
        "flops_per_output": plan.counters.flops / (batch * channels * length),
        "forward_workspace_bytes": plan.counters.forward_workspace_bytes,
        "backward_workspace_bytes": plan.counters.backward_workspace_bytes,
        "spectrum_bytes_per_channel": plan.counters.spectrum_bytes / channels,
    }


def measure(length, kernel_lengths, grid, rng):
    """(rows of times, rows of plans) of every Lk of one L."""
    batch, channels = speed.scaled_shape(length, grid["elements"], grid["least_batch"])
    rows = Rows(length, batch, channels, rng)
    calls, errors = {}, {}
    for n in kernel_lengths:
        case = Case(rows, n)
        methods = case.methods()
        calls |= {(n, name): call for name, call in methods.items()}
        errors |= {(n, name): e for name, e in case.errors(methods).items()}
    timing = bench.interleaved(calls, grid["repeats"])
    times = [
        {
            "length": length,
            "kernel_length": n,
            "batch": batch,
            "channels": channels,
            "method": name,
            "error": errors[n, name],
            "ns_per_output": 1e9 * timing[n, name]["median_s"] / (batch * channels * length),
            **timing[n, name],
        }
        for n, name in calls
    ]
    plans = [plan_row(batch, channels, length, n) for n in kernel_lengths]
    return times, plans


def one_memory(rows, length, kernel_length, method, seed):
    """Measured in this process: what one call adds to it, bytes."""
    batch, channels = rows
    rng = np.random.default_rng(seed)
    # A small call first: code and tables that stay are not the call's own.
    Case(Rows(256, 1, 1, rng), 16).method(method)()
    case = Case(Rows(length, batch, channels, rng), kernel_length)
    result, extra = memory.peak_extra(lambda: case.method(method)())
    results = result if isinstance(result, tuple) else (result,)
    counted = sum(x.nbytes for x in results)
    counters = case.plan().counters
    if method == "fftconv_ready":
        counted += counters.spectrum_bytes + counters.forward_workspace_bytes
    elif method == "fftconv_backward":
        counted += counters.backward_workspace_bytes
    else:
        counted = None
    return {
        "length": length,
        "kernel_length": kernel_length,
        "batch": batch,
        "channels": channels,
        "method": method,
        "result_bytes": sum(x.nbytes for x in results),
        "spectrum_bytes": counters.spectrum_bytes,
        "counted_bytes": counted,
        "resident_bytes": extra,
    }


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)

    # Memory first, in processes forked from a small one, one for each call.
    work = [(n, m) for n in TABLE_7 for m in MEMORY_METHODS]
    remembered = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for n, method in tqdm(work, desc="partial, memory", unit="call"):
            remembered.append(
                pool.apply(one_memory, (grid["memory_rows"], TABLE_7[0], n, method, settings.seed))
            )

    bench.keep_freed_memory()
    times, plans = [], []
    for length, kernels in (bar := tqdm(sorted(grid["lengths"].items()), desc="partial", unit="L")):
        bar.set_postfix_str(f"L = {length}")
        more_times, more_plans = measure(length, kernels, grid, rng)
        times += more_times
        plans += more_plans
    plans += [plan_row(1, 1, *pair) for pair in grid["planned"]]
    body = {
        "dtype": "float32",
        "threads": 1,
        "elements": grid["elements"],
        "repeats": grid["repeats"],
        "rows": times,
        "plans": plans,
        "memory": remembered,
    }
    print(bench.write(settings.results, "partial", settings, body, started))


if __name__ == "__main__":
    main()
