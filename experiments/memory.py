"""Tables 16 and 17 on this machine: the memory one forward call takes.

    16  y = u * k              circular, L = N
    17  y = v . ((u . w) * k)  circular, L = N

float32, one thread, one forked process per call, so that nothing is left over
from another.  Two numbers each, both without the inputs and with the result y:

    resident_bytes  the peak resident set during the call, less the resident set
                    just before it (Linux: VmHWM, reset through clear_refs)
    counted_bytes   ours: y, the workspace and the spectrum as the plan counts
                    them; NumPy and SciPy: the peak tracemalloc sees

and peak_bytes, the inputs included.  The paper's table says that it leaves the
inputs out; its published benchmark counts them, so both are kept.

Writes results/memory.json.
"""

import multiprocessing
import time
import tracemalloc
from pathlib import Path

import bench
import fftconv
import numpy as np
import speed
from tqdm import tqdm

# Elements of u, large beside a page and the allocator's slack; FFT sizes.
GRIDS = {
    # More than the kernel counts memory to, or an array is found to take none.
    "quick": dict(elements=2**18, sizes=[256, 1024]),
    "default": dict(elements=2**22, sizes=[2**a for a in range(8, 17, 2)] + [2**20]),
    "full": dict(elements=2**22, sizes=[2**a for a in range(8, 23)]),
}
TABLES = {16: 11, 17: 12}  # the speed table with the same operation
METHODS = ("fftconv", "fftconv_ready", "numpy", "scipy")


def resident(field):
    """This process's VmRSS (now) or VmHWM (highest since the reset), bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_extra(call):
    """(what call() returns, the peak resident set it adds, bytes)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak, to now
    except OSError:
        pass  # not everywhere; a forked process starts with it near there
    before = resident("VmRSS")
    found = call()
    return found, resident("VmHWM") - before


def one_call(table, n, method, elements, seed):
    """Measured in this process: the memory of one call, bytes."""
    batch, channels = speed.scaled_shape(n, elements, least_batch=1)
    rng = np.random.default_rng(seed)
    # A small call first: code and tables that stay are not the call's own.
    small = speed.Case(TABLES[table], 256, 1, 1, rng)
    small.method(method)()
    case = speed.Case(TABLES[table], n, batch, channels, rng)
    inputs = sum(a.nbytes for a in (case.u, case.k, case.w, case.v) if a is not None)
    # fftconv_ready: plan and spectrum included
    y, extra = peak_extra(lambda: case.method(method)())
    if method.startswith("fftconv"):
        plan = fftconv.Plan(case.u.shape, case.k.shape, threads=1, **case.how)
        counted = y.nbytes + plan.counters.forward_workspace_bytes
        if method == "fftconv_ready":
            counted += plan.counters.spectrum_bytes
    else:
        del y
        tracemalloc.start()
        y = case.method(method)()
        counted = tracemalloc.get_traced_memory()[1]
    return {
        "table": table,
        "fft_size": n,
        "batch": batch,
        "channels": channels,
        "method": method,
        "input_bytes": inputs,
        "resident_bytes": extra,
        "counted_bytes": counted,
        "peak_bytes": inputs + extra,
        "scale": bench.PAPER_BATCH * bench.PAPER_CHANNELS / (batch * channels),
        "array_bytes": case.u.nbytes,
    }


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rows = []
    work = [(n, t, m) for n in grid["sizes"] for t in TABLES for m in METHODS]
    # maxtasksperchild=1: a process per call.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for n, table, method in (bar := tqdm(work, desc="memory", unit="call")):
            bar.set_postfix_str(f"table {table}, N = {n}, {method}")
            rows.append(pool.apply(one_call, (table, n, method, grid["elements"], settings.seed)))
    body = {
        "dtype": "float32",
        "scaled_to": [bench.PAPER_BATCH, bench.PAPER_CHANNELS],
        "rows": rows,
    }
    print(bench.write(settings.results, "memory", settings, body, started))


if __name__ == "__main__":
    main()
