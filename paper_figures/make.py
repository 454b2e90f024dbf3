"""Run all measurements, then draw all figures and tables into paper_figures/out/.

    make figures               takes about four minutes on two cores
    make figures FULL=1        measures the long grid, N up to 4,194,304
    make.py --quick            checks in seconds that everything runs
    make.py --draw-only --results experiments/results
                               draws again from the committed results, without
                               the figures for which some are missing
    make.py --snapshot         also copies the results to experiments/results, and
                               renews the README's figure and numbers

Open out/index.html when it is done.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cpu_engine
import figure4
import gallery
import genome_skew
import readme_figure
import readme_numbers
import style
import table_7
import table_9
import table_gpu
import table_predicted
import table_short
import table_strategies
import tables_11_15
import tables_16_17

ROOT = style.HERE.parent
EXPERIMENTS = [
    "calibrate",
    "bench_cpu",
    "speed",
    "memory",
    "partial",
    "sparsity",
    "short",
    "strategies",
    "predict_gpu",
    "genome_convolutions",
]
RESULTS = [
    "host",
    "bench_cpu",
    "speed",
    "memory",
    "partial",
    "sparsity",
    "short",
    "strategies",
    "predict_gpu",
    "genome",
    "genome_tracks",
]
# Each drawing script, and the names of the results that it needs.
DRAWINGS = {
    figure4: ["host"],
    cpu_engine: ["bench_cpu"],
    tables_11_15: ["speed", "memory"],
    tables_16_17: ["memory"],
    table_gpu: [],  # uses bench_gpu.json if there is one; only a machine with a GPU writes it
    table_predicted: ["predict_gpu"],
    table_7: ["partial"],
    table_9: ["sparsity"],
    table_short: ["short"],
    table_strategies: ["strategies"],
    genome_skew: ["genome", "genome_tracks"],
    readme_figure: ["speed"],
    gallery: ["speed"],
}


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument("--quick", action="store_true", help="a tiny grid")
    grid.add_argument(
        "--full",
        action="store_true",
        default=os.environ.get("FULL") == "1",
        help="the long grid; FULL=1 in the environment does the same",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=style.OUT,
        metavar="DIR",
        help="where to draw (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where results are put and read (default: OUT/results)",
    )
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    parser.add_argument(
        "--snapshot",
        action="store_true",
        help="copy results to experiments/results, renew the README's figure and numbers",
    )
    return parser.parse_args()


def timed(name, work):
    """Run one step and print the seconds that it took."""
    started = time.perf_counter()
    work()
    print(f"{name:<22} {time.perf_counter() - started:7.1f} s", flush=True)


def measure(experiment, settings):
    """Run one experiment in its own process, with OpenMP, OpenBLAS and MKL set to one thread."""
    command = [
        sys.executable,
        str(ROOT / "experiments" / f"{experiment}.py"),
        "--results",
        str(settings.results),
    ]
    command += ["--quick"] * settings.quick + ["--full"] * (settings.full and not settings.quick)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    subprocess.run(command, check=True, env={**os.environ, **one})


def main():
    settings = options()
    settings.results = settings.results or settings.out / "results"
    settings.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if not settings.draw_only:
        for experiment in EXPERIMENTS:
            timed(experiment, lambda: measure(experiment, settings))
    for drawing, needed in DRAWINGS.items():
        missing = [name for name in needed if not (settings.results / f"{name}.json").is_file()]
        if missing and settings.draw_only:
            print(f"{drawing.__name__:<22} not drawn: no {missing[0]}.json")
            continue
        timed(drawing.__name__, lambda: drawing.draw(settings.results, settings.out))
    if settings.snapshot:
        kept = ROOT / "experiments" / "results"
        kept.mkdir(exist_ok=True)
        for name in RESULTS:
            shutil.copy(settings.results / f"{name}.json", kept)
        shutil.copy(settings.out / "readme.png", style.HERE / "readme.png")
        readme_numbers.write()
    print(f"{'all':<22} {time.perf_counter() - started:7.1f} s\n{settings.out / 'index.html'}")


if __name__ == "__main__":
    main()
