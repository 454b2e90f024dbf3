"""Measures partial convolutions: the cost of a filter that is shorter than the row.

    forward   y  = u * k           causal; u (B, H, L), k (H, Lk), Lk <= L
    backward  du, dk from dy, u, k

All filters of one L are the same filter cut off at Lk, as the paper cut the filters of
Hyena-s-8K for its Table 7.  Lk = L is the baseline (1 x); all Lk of one L are timed in turn.

    L = 8K     Table 7's lengths, 8K ... 256
    longer L   mostly Lk = L, Lk = L/4, and Lk = 4K, which is one short filter on ever
               longer rows (a sliding window)

Times are medians of interleaved float32 runs on one thread, in a process that keeps its freed
memory.  Each method is compared with the float64 oracle, row by row, before it is timed.

    fftconv            forward, transform of k inside the call
    fftconv_ready      forward, plan and spectrum made beforehand
    fftconv_backward   du and dk, transform of k inside the call
    fftconv_whole      forward, spectrum made beforehand, each row in one transform
    scipy_oaconvolve   forward, scipy.signal.oaconvolve, cut to L

Memory is measured at Table 7's lengths in two ways: the bytes that the plan counts (the
workspace of one thread and a spectrum of all channels), and the bytes that one call, with its
results but without its inputs, adds to the peak resident set of its own process.  There,
"fftconv_ready" includes making the plan and the spectrum.

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

# elements: elements of u in a call; least_batch: the least batch; repeats: samples of each call;
# lengths: {L: the timed Lk}; planned: pairs (L, Lk) that are planned but not timed;
# memory_rows: (B, H) of the memory runs.
GRIDS = {
    "quick": dict(
        elements=2**14,
        least_batch=1,
        repeats=1,
        lengths={2**13: TABLE_7, 2**14: [2**14, WINDOW]},
        planned=[(2**22, WINDOW)],
        memory_rows=(1, 256),  # large compared with the allocator's slack
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
    """u, dy and the longest filter of one L, which all its Lk share."""

    def __init__(self, length, batch, channels, rng):
        shape = (batch, channels, length)
        self.u = rng.standard_normal(shape, np.float32)
        self.dy = rng.standard_normal(shape, np.float32)
        self.taps = rng.standard_normal((channels, length), np.float32)


class Case:
    """One filter length on given rows: its kernel, its plan and its methods."""

    def __init__(self, rows, kernel_length):
        self.u, self.dy = rows.u, rows.dy
        self.k = np.ascontiguousarray(rows.taps[:, :kernel_length])
        self.k /= np.float32(np.sqrt(kernel_length))  # makes y O(1)
        self.plan = partial(fftconv.Plan, self.u.shape, self.k.shape, threads=1)

    def ready(self, **how):
        """The plan's call on a spectrum that is made here, once."""
        plan = self.plan(**how)
        return partial(plan, self.u, plan.spectrum(self.k))

    def backward(self):
        g = fftconv.conv_backward(self.dy, self.u, self.k, threads=1, needs=("u", "k"))
        return g.du, g.dk

    def by_oaconvolve(self):
        y = scipy.signal.oaconvolve(self.u, self.k[None], axes=-1)
        return y[..., : self.u.shape[-1]]

    def method(self, name):
        """A function without arguments that computes this case by the named method."""
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
        """{name: the largest error of a row against float64}; RuntimeError if one is too large.

        The terms of random rows do not cancel, so each error is relative to its own row's norm.
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
    """The choices of the plan for one (L, Lk), and its counts of flops and bytes."""
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
    """(rows of times, rows of plans) for every Lk of one L."""
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
    """Measure, in this process, the memory that one call adds; return the row, in bytes."""
    batch, channels = rows
    rng = np.random.default_rng(seed)
    # A small call first loads code and tables that outlast a call, so they are not counted.
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

    # Memory is measured first, while this process is small; each call gets a forked process.
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
