"""Measures the constants of the paper's cost model on this machine (the paper's Table 19).

Writes results/host.json with sigma_h and sigma_s (bytes/s of main and of fast memory), tau_m
and tau_g (flop/s of matrix products and of everything else), mu and fast_points, as the library
measures them, and with the paper's values for an A100.
"""

import time
from dataclasses import asdict

import bench
from fftconv import cost


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    hardware = {name: asdict(cost.HARDWARE[name]) for name in ("A100", "host")}
    path = bench.write(settings.results, "host", settings, {"hardware": hardware}, started)
    host = hardware["host"]
    print(
        f"{path}: sigma_H {host['sigma_h'] / 1e9:.1f} GB/s, "
        f"sigma_S {host['sigma_s'] / 1e9:.1f} GB/s, "
        f"tau_M {host['tau_m'] / 1e9:.1f} Gflop/s, "
        f"tau_G {host['tau_g'] / 1e9:.1f} Gflop/s"
    )


if __name__ == "__main__":
    main()
