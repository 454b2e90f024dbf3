"""What every experiment shares: options, the machine record, timing, results.

A result is one JSON file, results/<experiment>.json, that says where, when and
with what it was measured; paper_figures/ draws from these files alone.
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

# The paper's appendix C.4: what every time is scaled to.
PAPER_BATCH, PAPER_CHANNELS = 64, 768

# A call's error before it is timed: float32, per row, relative to
# max(||y||, ||k|| ||z||).
ERROR_LIMIT = 5e-7


def options(description):
    """The command line all experiments have in common, parsed by the caller.

    grid is "quick" (seconds: does it run), "default" or "full".
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
    """The NumPy dtype of a name; bfloat16 is ml_dtypes'."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401  which is not installed everywhere
    return np.dtype(name)


def processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _field(path, key):
    """The first `key : value` of a /proc file, or ""."""
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
    """Where a number is from: processor, memory, system, versions, commit."""
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
                # What was measured, and what measured it.
                "libfftconv",
                "python",
                "experiments/*.[chp]*",
            )
        ),
    }


def keep_freed_memory():
    """Let malloc keep what was freed, as a long-lived process would.

    Every call then finds its pages mapped, whichever method ran before it; else
    glibc returns large arrays to the system and the page faults of getting them
    back are timed too, more or less of them from one size to the next.  It
    spares NumPy and SciPy most, whose calls allocate most.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most it takes


# Seconds after which no thread of a library that has returned still looks for
# work: GNU OpenMP's do for some 8 ms here, and take the processor of whoever is
# measured next.
SPIN_PAUSE = 0.03


def interleaved(calls, repeats, threads=1, cap=3.0, least=0.0, pause=0.0):
    """Median seconds of each of `calls` (name: function), run in turn.

    Round after round, each call once, in an order that rotates, so that a drift
    of the machine meets all of them alike.  A sample of a one-thread call
    during which other work took the processor (processor time below 95 % of
    wall time) is rejected, and taken again in up to three more rounds.  Where
    that leaves fewer than three of any call, the processor time of all samples
    of all calls is reported in place of wall time, and `clock` says
    "processor".  A call slower than `cap` seconds gets three samples; one faster
    than `least` is repeated within a sample until that is over.  With a `pause`,
    each sample begins after so many seconds of rest, in which the threads of the
    call before go to sleep, and one call not counted, which wakes its own.  Returns
    name: dict of median_s, low_s, high_s (quartiles), samples, rejected, clock.
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
        calls[name]()  # pages, caches, plans
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
    """The worst row's ||y - exact|| / max(||exact||, scale).

    y, exact: (..., L); scale: the size of the row's terms, ||k|| ||z||, so that
    a row that nearly cancels is not held to its own small norm.
    """
    norm = np.linalg.norm
    size = np.maximum(norm(exact, axis=-1), scale)
    return float(np.max(norm(y - exact, axis=-1) / size))


def check(name, error, limit=ERROR_LIMIT):
    """Refuse to time what is wrong; returns the error."""
    if not error <= limit:
        raise RuntimeError(f"{name}: relative error {error:.3g} is above {limit:.3g}")
    return error


def write(directory, experiment, settings, body, started):
    """results/<experiment>.json: the machine, the settings, then `body`."""
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
