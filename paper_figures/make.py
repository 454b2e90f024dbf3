"""Run all measurements, then draw all figures and tables into paper_figures/out/.

    make figures               takes about five minutes on two cores, two more with PyTorch
    make figures FULL=1        measures the long grid, N up to 4,194,304
    make.py --quick            checks in seconds that everything runs
    make.py --draw-only --results experiments/results
                               draws again from the committed results, without
                               the figures for which some are missing
    make.py --snapshot         also copies the results to experiments/results, and
                               renews the README's figure and numbers

Open out/index.html: it is there after the first experiment, and grows.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
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
import table_torch
import tables_11_15
import tables_16_17

ROOT = style.HERE.parent
KEPT = ROOT / "experiments" / "results"
# Each experiment and the results that it writes.  The genome's is first: its figure is the first
# that there is to look at.
EXPERIMENTS = {
    "genome_convolutions": ["genome", "genome_tracks"],
    "speed": ["speed"],
    "memory": ["memory"],
    "bench_cpu": ["bench_cpu"],
    "calibrate": ["host"],
    "partial": ["partial"],
    "sparsity": ["sparsity"],
    "short": ["short"],
    "strategies": ["strategies"],
    "predict_gpu": ["predict_gpu"],
    "torch_speed": ["torch_speed"],
}
# The packages that an experiment needs and that may be missing: its committed run is drawn then.
NEEDS = {"torch_speed": "torch"}
RESULTS = sum(EXPERIMENTS.values(), [])
# Each drawing script, and the names of the results that it needs.
DRAWINGS = {
    genome_skew: ["genome", "genome_tracks"],
    readme_figure: ["speed"],
    tables_11_15: ["speed", "memory"],
    tables_16_17: ["memory"],
    cpu_engine: ["bench_cpu"],
    figure4: ["host"],
    table_7: ["partial"],
    table_9: ["sparsity"],
    table_short: ["short"],
    table_strategies: ["strategies"],
    table_predicted: ["predict_gpu"],
    table_torch: ["torch_speed"],
    table_gpu: [],  # uses bench_gpu.json if there is one; only a machine with a GPU writes it
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


class Clock:
    """Says what each step took and how long the rest may take.

    The stored results say what the experiments took; how much slower or faster this machine is,
    the steps so far have shown.
    """

    def __init__(self, steps):
        self.started = time.perf_counter()
        self.left = {name: self.usual(names[0]) for name, names in steps.items()}
        self.whole = sum(self.left.values())

    def usual(self, name):
        stored = KEPT / f"{name}.json"
        return 5 + (json.loads(stored.read_text())["seconds"] if stored.is_file() else 0)

    def taken(self):
        return time.perf_counter() - self.started

    def rest(self):
        """Seconds that the steps not yet done may take."""
        left = sum(self.left.values())
        return left * (self.taken() / (self.whole - left) if left < self.whole else 1)

    @contextmanager
    def step(self, name):
        started = self.taken()
        yield
        self.left.pop(name)
        minutes = self.rest() / 60
        print(
            f"{name:<22} {self.taken() - started:7.1f} s"
            + (f"   about {minutes:.1f} min left" if self.left else ""),
            flush=True,
        )


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


def can_run(experiment):
    """Whether the package that an experiment needs is here."""
    return experiment not in NEEDS or importlib.util.find_spec(NEEDS[experiment]) is not None


def draw(settings, drawn, there):
    """Draw what can be drawn of the results that are there and is not drawn yet, and the page."""
    for drawing, needed in DRAWINGS.items():
        if drawing not in drawn and there.issuperset(needed):
            drawing.draw(settings.results, settings.out)
            drawn.add(drawing)
    gallery.draw(settings.results, settings.out)


def main():
    settings = options()
    settings.results = settings.results or settings.out / "results"
    for folder in settings.out, settings.results:
        folder.mkdir(parents=True, exist_ok=True)
    page = settings.out / "index.html"
    drawn, there = set(), set()
    if settings.draw_only:
        there = {name for name in RESULTS if (settings.results / f"{name}.json").is_file()}
        for name in sorted(set(RESULTS) - there):
            print(f"there is no {name}.json: what it has is not drawn")
        draw(settings, drawn, there)
    else:
        measured = {name: names for name, names in EXPERIMENTS.items() if can_run(name)}
        clock = Clock(measured)
        print(f"{len(measured)} experiments, about {clock.rest() / 60:.0f} min", flush=True)
        for experiment, names in measured.items():
            with clock.step(experiment):
                measure(experiment, settings)
                there.update(names)
                draw(settings, drawn, there)
            if len(there) == len(names):
                print(f"The first picture is there: {page} grows as it goes on", flush=True)
        for experiment in EXPERIMENTS.keys() - measured.keys():
            print(f"{experiment}: no {NEEDS[experiment]} here, so the committed run is drawn")
            for name in EXPERIMENTS[experiment]:
                shutil.copy(KEPT / f"{name}.json", settings.results)
                there.add(name)
        draw(settings, drawn, there)
    if settings.snapshot:
        KEPT.mkdir(exist_ok=True)
        for name in RESULTS:
            shutil.copy(settings.results / f"{name}.json", KEPT)
        shutil.copy(settings.out / "readme.png", style.HERE / "readme.png")
        readme_numbers.write()
    print(page)


if __name__ == "__main__":
    main()
