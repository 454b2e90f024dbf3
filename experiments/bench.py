"""What all experiments share: the command line, the machine record, timing and results.

Each experiment writes one JSON file, results/<experiment>.json, which records the machine,
the time and the versions of the measurement.  The scripts in paper_figures/ draw from
these files and measure nothing themselves.
"""

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import fftconv
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "paper_figures" / "out" / "results"

# The batch and the number of channels of the paper's appendix C.4.  Every measured time is
# scaled to them.
PAPER_BATCH, PAPER_CHANNELS = 64, 768

# The largest error of a float32 row with which a call is still timed, relative to
# max(||y||, ||k|| ||z||).
ERROR_LIMIT = 5e-7


def options(description):
    """An argument parser with the options that all experiments have; the caller parses.

    The parsed `grid` is "quick" (a run of seconds, which only shows that the experiment
    works), "default" or "full".
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument(
        "--quick",
        dest="grid",
        action="store_const",
        const="quick",
        default="default",
        help="a tiny grid, seconds: does it run",
    )
    grid.add_argument(
        "--full",
        dest="grid",
        action="store_const",
        const="full",
        help="the long grid, up to N = 4,194,304",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="where the JSON goes (default: paper_figures/out/results)",
    )
    parser.add_argument(
        "--seed", type=int, default=20231110, help="of the random data (default: %(default)s)"
    )
    return parser


def dtype_of(name):
    """The NumPy dtype called `name`; the package ml_dtypes defines "bfloat16"."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401  imported here because it is an optional package
    return np.dtype(name)


def processors():
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _field(path, key):
    """The value of the first line "key : value" of a /proc file; "" if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((s.split(":", 1)[1].strip() for s in lines if s.startswith(key)), "")


def _git(*arguments):
    try:
        run = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.strip()


def machine():
    """The origin of a measurement: processor, memory, system, versions and commit."""
    memory_kib = _field("/proc/meminfo", "MemTotal").split()
    versions = {"fftconv": fftconv.__version__, "python": platform.python_version()}
    for package in ("numpy", "scipy"):
        versions[package] = importlib.metadata.version(package)
    if "torch" in sys.modules:
        versions["torch"] = importlib.metadata.version("torch")
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "processors": processors(),
        "memory_gib": (round(int(memory_kib[0]) / 2**20, 1) if memory_kib else None),
        "system": " ".join((platform.system(), platform.release(), platform.machine())),
        "isa": fftconv.Plan((1, 1, 256), (1, 256)).isa,
        "versions": versions,
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(
            _git(
                "status",
                "--porcelain",
                "--untracked-files=no",
                # The measured library and the programs that measure it.
                "libfftconv",
                "python",
                "experiments/*.[chp]*",
            )
        ),
    }


def keep_freed_memory():
    """Make malloc keep freed memory, as it mostly does in a long-lived process.

    Every call then finds its pages mapped, whichever method ran before it.  Otherwise
    glibc returns large arrays to the system, and the timings include the page faults of
    allocating them again, whose number changes from one size to the next.  NumPy and SciPy
    gain most from this setting, because their calls allocate most.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value mallopt accepts


# A rest in seconds after which the threads of any library are asleep.  After a call returns,
# the threads of GNU OpenMP keep looking for work for about 8 ms on this machine, and
# meanwhile they take processors from the method that is measured next.
SPIN_PAUSE = 0.03


def interleaved(calls, repeats, threads=1, cap=3.0, least=0.0, pause=0.0):
    """Median seconds of each of `calls` (a dict name: function), run in turn.

    Every round takes one sample of each call.  The order rotates from round to round, so
    that a drift of the machine affects all calls equally.

    A sample of a one-thread call is rejected if other work used the processor meanwhile
    (processor time below 95 % of wall time); up to three more rounds replace rejected
    samples.  If fewer than three samples of any call remain, the function reports the
    processor time of all samples of all calls in place of the wall time, and `clock` is
    "processor".

    A call slower than `cap` seconds gets three samples.  A call faster than `least` seconds
    is repeated within each sample until it lasts about that long.  With a `pause`, each
    sample begins with that many seconds of rest, in which the threads of the previous call
    go to sleep, and with one untimed call, which wakes the threads of the call itself.

    Returns a dict name: dict of median_s, low_s, high_s (quartiles), samples, rejected and
    clock.
    """
    samples = {name: [] for name in calls}  # (wall, processor) seconds
    names = list(calls)

    def quiet(name):
        return [wall for wall, cpu in samples[name] if threads > 1 or cpu >= 0.95 * wall]

    def wanted(name):
        enough = 3 if samples[name] and samples[name][0][0] > cap else repeats
        return len(quiet(name)) < enough

    inner = {}
    for name in names:
        calls[name]()  # maps pages, fills caches and makes plans
        wall = time.perf_counter()
        if least:
            calls[name]()
        wall = time.perf_counter() - wall
        inner[name] = max(1, int(least / wall))
    for turn in range(repeats + 3):
        left = [name for name in names if wanted(name)]
        shift = turn % max(1, len(left))
        for name in left[shift:] + left[:shift]:
            if pause:
                time.sleep(pause)
                calls[name]()
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(inner[name]):
                calls[name]()
            wall = time.perf_counter() - wall
            cpu = time.process_time() - cpu
            samples[name].append((wall / inner[name], cpu / inner[name]))
    disturbed = any(len(quiet(name)) < min(3, repeats) for name in names)
    timing = {}
    for name in names:
        kept = [cpu for _, cpu in samples[name]] if disturbed else quiet(name)
        low, mid, high = np.percentile(kept, [25, 50, 75])
        timing[name] = {
            "median_s": float(mid),
            "low_s": float(low),
            "high_s": float(high),
            "samples": len(kept),
            "rejected": len(samples[name]) - len(kept),
            "clock": "processor" if disturbed else "wall",
        }
    return timing


def row_error(y, exact, scale):
    """The largest ||y - exact|| / max(||exact||, scale) of all rows.

    y and exact are (..., L).  scale is the size of a row's terms, ||k|| ||z||, so that a
    row whose terms nearly cancel is not judged by its own small norm.
    """
    norm = np.linalg.norm
    size = np.maximum(norm(exact, axis=-1), scale)
    return float(np.max(norm(y - exact, axis=-1) / size))


def check(name, error, limit=ERROR_LIMIT):
    """Return `error`; raise RuntimeError if it exceeds `limit`, so wrong calls are not timed."""
    if not error <= limit:
        raise RuntimeError(f"{name}: relative error {error:.3g} is above {limit:.3g}")
    return error


def write(directory, experiment, settings, body, started):
    """Write the settings, the machine and `body` to directory/<experiment>.json.

    `started` is the time.perf_counter() at which the experiment began.  Returns the path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = {
        "experiment": experiment,
        "grid": settings.grid,
        "seed": settings.seed,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 2),
        "machine": machine(),
        **body,
    }
    path = directory / f"{experiment}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path
