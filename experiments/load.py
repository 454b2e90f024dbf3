"""Measures how much longer calls take beside other busy processes.

Each call runs on the default threads; first alone, then while as many other processes as there
are processors count without end.  A fair scheduler then gives a call half of the processors, so
that it takes twice its quiet time.  The grid does not change; --quick repeats calls less often.

Writes results/load.json: for each call the median and the longest of its times in seconds, and
the ratio of the medians.
"""

import subprocess
import sys
import time

import bench
import fftconv
import numpy as np
import strategies
from fftconv import lrnnx

SECONDS = {"quick": 0.1, "default": 2.0, "full": 10.0}  # that each call is repeated for


def calls(rng):
    """{name: function}: one call of each kind."""

    def normal(*shape):
        return rng.standard_normal(shape).astype("float32")

    u, k, few = normal(8, 64, 4096), normal(64, 4096), normal(64, 4)
    row, long = normal(1, 1, 2**20), normal(1, 2**20)
    layer = lrnnx.FFTConvS4(64, kernel="s4", seed=0)
    x = strategies.operands(strategies.DOCUMENT, rng)
    found = {
        "conv": lambda: fftconv.conv(u, k),
        "backward": lambda: fftconv.conv_backward(u, u, k),
        "one row": lambda: fftconv.conv(row, long),
        "short": lambda: fftconv.depthwise_conv1d(u, few, padding="causal"),
        "s4": lambda: layer.forward(u),
    }
    for n in (1, 2, 3):
        found[f"strategy {n}"] = lambda n=n: lrnnx.opt_ssm_forward(*x, strategy=n)
    return found


def times(call, seconds):
    """The times of repeated calls, at least five."""
    found, end = [], time.perf_counter() + seconds
    while len(found) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    seconds = SECONDS[settings.grid]
    work = calls(np.random.default_rng(settings.seed))
    for call in work.values():
        call()  # makes plans
    quiet = {name: times(call, seconds) for name, call in work.items()}
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(bench.processors())
    ]
    try:
        time.sleep(0.5)
        loaded = {name: times(call, seconds) for name, call in work.items()}
    finally:
        for process in busy:
            process.kill()
            process.wait()
    rows = []
    for name in work:
        row = {"call": name}
        for state, of in (("quiet", quiet[name]), ("loaded", loaded[name])):
            row[state + "_s"], row[state + "_longest_s"] = float(np.median(of)), max(of)
        row["ratio"] = row["loaded_s"] / row["quiet_s"]
        rows.append(row)
        print(
            f"{name:12} {row['quiet_s'] * 1e3:9.3f} ms alone, {row['loaded_s'] * 1e3:9.3f} beside "
            f"{len(busy)} busy processes: {row['ratio']:5.2f} times"
        )
    body = {"busy": len(busy), "threads": fftconv.default_threads(), "rows": rows}
    print(bench.write(settings.results, "load", settings, body, started))


if __name__ == "__main__":
    main()
