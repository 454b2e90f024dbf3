"""Measures the memory of one forward call: the paper's Tables 16 and 17 on this machine.

    16  y = u * k              circular, L = N
    17  y = v . ((u . w) * k)  circular, L = N

All calls are float32 on one thread.  Each call runs in a forked process of its own, so that no
memory of an earlier call remains.  Two numbers exclude the inputs and include the result y:

    resident_bytes  the peak resident set during the call minus the resident set
                    just before it (Linux: VmHWM, reset through clear_refs)
    counted_bytes   ours: y, the workspace and a ready spectrum, as the plan counts
                    them; NumPy and SciPy: the peak that tracemalloc reports

A third one, peak_bytes, is resident_bytes plus the inputs.  The paper says that its tables
exclude the inputs, but its published benchmark counts them, so both are recorded.

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

# elements: the size of u, large compared with a page and the allocator's slack; sizes: FFT sizes.
GRIDS = {
    # Linux counts resident memory inexactly; smaller arrays could seem to take none.
    "quick": dict(elements=2**18, sizes=[256, 1024]),
    "default": dict(elements=2**22, sizes=[2**a for a in range(8, 17, 2)] + [2**20]),
    "full": dict(elements=2**22, sizes=[2**a for a in range(8, 23)]),
}
TABLES = {16: 11, 17: 12}  # the speed table with the same operation
METHODS = ("fftconv", "fftconv_ready", "numpy", "scipy")


def resident(field):
    """This process's VmRSS (current) or VmHWM (peak since the last reset), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_extra(call):
    """(the result of call(), the bytes that it adds to the peak resident set)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    except OSError:
        pass  # not allowed everywhere; the peak of a forked process starts near its size anyway
    before = resident("VmRSS")
    found = call()
    return found, resident("VmHWM") - before


def one_call(table, n, method, elements, seed):
    """Measure the memory of one call in this process; return the row, in bytes."""
    batch, channels = speed.scaled_shape(n, elements, least_batch=1)
    rng = np.random.default_rng(seed)
    # A small call first loads code and tables that outlast a call, so they are not counted.
    small = speed.Case(TABLES[table], 256, 1, 1, rng)
    small.method(method)()
    case = speed.Case(TABLES[table], n, batch, channels, rng)
    inputs = sum(a.nbytes for a in (case.u, case.k, case.w, case.v) if a is not None)
    # Making the method inside the measured call includes plan and spectrum of fftconv_ready.
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
    # maxtasksperchild=1 runs each call in a new process.
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
