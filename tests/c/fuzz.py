"""Fuzzes the C interface: random right calls, compared with an oracle in float64; the same calls
while each of their allocations fails once; and calls with spoiled arguments, which must be refused
or be harmless.

    make fuzz                      for FUZZ_SECONDS, by default 15
    make fuzz FUZZ_SECONDS=36000   overnight
    make fuzz FUZZ_SEED=17         the case of seed 17 alone

The cases are in fuzz_cases.py, and run in a process of their own.  If it dies, hangs or meets a
wrong result, this is a finding: its seed is printed with what there is to see, and the next case
goes on.  The exit status is 1 if there was a finding.  In a build with --enable-sanitizers each
access outside an array and each signed overflow is one.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("FFTCONV_BUILDDIR", TESTS.parent / "build"))
LIBRARY = BUILD / "tests" / ".libs" / "libfuzzed.so"
CASES = Path(__file__).with_name("fuzz_cases.py")
HANG = 300  # seconds that one case may take, on a busy machine


def environment():
    paths = TESTS, TESTS / "c", TESTS.parent / "python"
    return {
        **os.environ,
        "LD_PRELOAD": os.environ.get("SANITIZER_PRELOAD", ""),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "FFTCONV_LIBRARY": str(LIBRARY),
        "PYTHONPYCACHEPREFIX": str(BUILD / ".pycache"),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def run_cases(first, end_seed, end_time):
    """Run cases in one process until one fails: (the last seed, calls made, output or None)."""
    with tempfile.NamedTemporaryFile("r") as progress, tempfile.TemporaryFile("w+") as log:
        numbers = map(str, (first, end_seed, end_time))
        command = [sys.executable, "-X", "faulthandler", str(CASES), progress.name, *numbers]
        child = subprocess.Popen(command, env=environment(), stdout=log, stderr=subprocess.STDOUT)
        while child.poll() is None:
            time.sleep(0.05)
            if time.time() - os.stat(progress.name).st_mtime > HANG:
                child.kill()
        seed, calls, what = (progress.read() or f"{first} 0 start").split(maxsplit=2)
        log.seek(0)
        how = f"exit {child.returncode}" + (" (a hang)" if child.returncode == -9 else "")
        output = f"{how}, in {what}\n{log.read()[-6000:]}"
        return int(seed), int(calls), None if child.returncode == 0 else output


def main():
    seconds = float(os.environ.get("FUZZ_SECONDS") or 15)
    given = os.environ.get("FUZZ_SEED")
    cases = int(os.environ.get("FUZZ_CASES") or (1 if given else 0))
    seed = first = int(given) if given else random.randrange(1 << 40)
    end_time, end_seed = time.time() + (1e9 if cases else seconds), first + (cases or 1 << 40)
    findings = calls = 0
    while seed < end_seed and time.time() < end_time:
        last, made, output = run_cases(seed, end_seed, end_time)
        calls += made
        seed = last + 1
        if output:
            findings += 1
            print(f"==== Finding: make fuzz FUZZ_SEED={last}   {output}", flush=True)
    print(f"fuzz: {seed - first} cases from seed {first}, {calls} calls, {findings} findings")
    return findings > 0


if __name__ == "__main__":
    sys.exit(main())
