"""Measures the CPU engine against its targets, one for every promise about its speed.

The C program bench_cpu runs first: it compares the engine with FFTW, measures the peak rates
of the machine and finds what limits each call.  This program then measures the following
groups, whose members are timed in turn:

    scipy, torch     padded real FFTs of SciPy and PyTorch (if PyTorch can be imported), the
                     kernel's transform included, on the same number of threads.  With
                     two threads or more, each sample begins after a rest
    threads          two threads against one, and a single row on two threads
    batch            B = 1 and odd B against B = 4, with the spectrum in cache
    fused            gates, skip and activation against none
    half             16-bit rows against float32
    backward         du, dk and the gradients of both gates against the gated forward call
    circular         a given fft_size against the causal transform of the same size
    any_length       odd, prime and smooth L against the nearest power of two
    baseline         the build without AVX against AVX2
    planner          the radices that the plan chose against the best of the forced ones
    planning         the seconds that a first and a second plan take; what Python adds to a
                     call

The ratios compare C calls alone, after all of Python's work is done; the exceptions are scipy,
torch and planning.  Unless the group says otherwise, calls are float32, causal, on one thread,
with the kernel's spectrum made beforehand.  Every call is compared with a float64 result
before it is timed.  The program prints a table of targets and writes results/bench_cpu.json.

FFTW plans the rows of up to 16K samples, three times each, in a quarter of a minute.  Planning
longer rows takes minutes: it happens with --full only, and the plans are stored beside the
results, where every later run finds them.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import bench
import fftconv
import numpy as np
import speed
from fftconv import reference
from tqdm import tqdm

K = 1024
GRIDS = {
    # repeats: samples of each call; least: seconds of a sample at least; long: lengths whose
    # rows exceed the cache; forced: the count of candidates() for the group "planner".
    "quick": dict(
        repeats=1,
        least=0.0,
        lengths=[256, K],
        long=[4 * K],
        any_length=[331, 1000],
        peers=[256, K],
        planner=[256, 1000],
        forced=4,
        planning=[4 * K],
    ),
    "default": dict(
        repeats=7,
        least=2e-3,
        lengths=[256, K, 4 * K, 16 * K, 64 * K],
        long=[256 * K, K * K],
        any_length=[300, 331, 500, 509, 769, 1000, 1025, 1279, 1999, 2049]
        + [2500, 3000, 3001, 4097, 5000, 6143, 10007, 12000, 20011, 40000]
        + [65537, 100003],
        peers=[256, K, 4 * K, 16 * K, 64 * K, 256 * K],
        planner=[256, K, 4 * K, 16 * K, 64 * K, 256 * K, 1000, 3001, 10007],
        forced=24,
        planning=[64 * K, 512 * K, 2 * K * K],
    ),
    "full": dict(
        repeats=11,
        least=5e-3,
        lengths=[256, 512, K, 2 * K, 4 * K, 8 * K, 16 * K, 32 * K, 64 * K],
        long=[128 * K, 256 * K, 512 * K, K * K],
        any_length=[257, 300, 331, 384, 450, 500, 509, 600, 700, 769, 900]
        + [1000, 1023, 1025, 1279, 1500, 1537, 1999, 2049, 2500, 3000, 3001]
        + [3333, 4097, 5000, 6000, 6143, 7777, 10007, 12000, 16385, 20011]
        + [24575, 40000, 50021, 65537, 100003, 200000, 262145, 500009]
        + [1000003],
        peers=[256, K, 4 * K, 16 * K, 64 * K, 256 * K, K * K],
        planner=[256, 512, K, 2 * K, 4 * K, 8 * K, 16 * K, 32 * K, 64 * K]
        + [256 * K, K * K, 300, 1000, 1537, 3001, 6143, 10007, 40000, 100003],
        forced=120,
        planning=[16 * K, 64 * K, 256 * K, 512 * K, K * K, 2 * K * K],
    ),
}

# Name: (the compared ratio or quantity, whether the limit is the "least" or the "most"
# allowed, the limit or None where every measured row has a limit of its own).
TARGETS = {
    "fftw_avx512": ("FFTW's better / ours, AVX-512", "least", None),
    "fftw_avx2": ("FFTW's better / ours, AVX2", "least", None),
    "scipy": ("SciPy's best / ours, kernel's transform in the call", "least", 8),
    "torch": ("PyTorch / ours, kernel's transform in the call", "least", 3),
    "threads": ("1 thread / 2 threads, to 64K", "least", 1.85),
    "threads_long": ("1 thread / 2 threads, beyond", "least", 1.6),
    "threads_row": ("1 thread / 2 threads, B = H = 1", "least", 1.5),
    "batch": ("B = 1 or odd / B = 4, per output", "most", 1.15),
    "fused": ("gates, skip, activation / none, in cache", "most", 1.2),
    "fused_long": ("gates / none, beyond: that and their bytes", "most", None),
    "half": ("16 bits / float32, in cache", "most", 1.25),
    "half_memory": ("16 bits / float32 where memory binds", "most", None),
    "backward": ("backward / gated forward, B = 4", "most", 2.6),
    "backward_row": ("backward / gated forward, B = 1", "most", 3.0),
    "workspace": ("workspace of B = 8, H = 64 / of 1, 1; one thread", "most", 1),
    "circular": ("circular / causal, per point of transform", "most", 1.25),
    "any_length": ("any L / the nearest 2^a, per output", "most", None),
    "baseline": ("AVX2 / baseline", "least", 0.4),
    "planner": ("the plan's radices / the best forced", "most", 1.1),
    "planning": ("a first plan, ms", "most", 50),
    "planning_again": ("a second plan, ms", "most", 1),
    "python": ("what a call from Python adds, us", "most", 15),
}
# The least allowed ratio of FFTW's time to ours, by instruction set and length.
MUST = {
    "avx512": dict(zip((4**a for a in range(4, 11)),
                       (1.7, 1.9, 2.5, 2.4, 2.7, 3.1, 3.8))),
    "avx2": dict(zip((4**a for a in range(4, 11)),
                     (1.1, 1.05, 1.5, 1.6, 1.9, 2.2, 2.7))),
}  # fmt: skip
# The largest error of a row relative to the size of its terms.
ERROR_LIMIT = {"float32": bench.ERROR_LIMIT, "float16": 1e-3, "bfloat16": 4e-3}
L2_BYTES = 2**20


class Case:
    """One call on its own arrays, whose result has been checked.

    `again()` repeats the C call.  The options gated, skip, activation, circular and backward
    choose the call; all other keywords go to the plan.
    """

    def __init__(self, rng, batch, channels, length, *, dtype="float32",
                 gated=False, skip=False, activation=None, circular=False,
                 backward=False, threads=1, **plan):  # fmt: skip
        shape = (batch, channels, length)
        self.outputs = math.prod(shape)

        def normal(*shape):
            x = rng.standard_normal(shape, np.float32)
            return x.astype(bench.dtype_of(dtype))

        self.u = normal(*shape)
        # k is float32 even if the rows have 16 bits, as in training.  The division makes y O(1).
        self.k = rng.standard_normal((channels, length), np.float32)
        self.k /= np.float32(np.sqrt(length))
        self.gates = [normal(*shape), normal(*shape)] if gated else [None] * 2
        self.skip = rng.standard_normal(channels, np.float32) if skip else None
        self.activation = activation
        self.mode = dict(mode="circular", fft_size=length) if circular else dict(mode="causal")
        self.plan = fftconv.Plan(
            shape, self.k.shape, dtype=dtype, threads=threads, **self.mode,
            **plan)  # fmt: skip
        spectrum = self.plan.spectrum(self.k)
        how = dict(skip=self.skip, activation=activation)
        if backward:
            self.dy = normal(*shape)
            needs = ["u", "k"] + ["in_gate", "out_gate"] * gated
            g, self.again = self.plan.prepare(
                self.u, spectrum, *self.gates, dy=self.dy, needs=needs, **how)  # fmt: skip
            self.found = {n: getattr(g, f"d{n}") for n in needs}
        else:
            y, self.again = self.plan.prepare(self.u, spectrum, *self.gates, **how)
            self.found = {"y": y}
        for array in self.found.values():
            array.fill(np.nan)
        self.again()
        self.error = self.check(backward)

    def check(self, backward):
        """Check the first and the last channel; return the largest error of a row.

        A forward call is checked at the first and the last batch entry only.  Raises
        RuntimeError if the error exceeds the limit.
        """
        batch, channels, _ = self.u.shape
        pick = sorted({0, channels - 1})
        # dk sums over the batch, so a backward call needs all batch entries.
        rows = slice(None) if backward else slice(0, None, max(1, batch - 1))

        def some(x):
            return None if x is None else x[rows][:, pick]

        u, k = some(self.u), self.k[pick]
        gates = [some(g) for g in self.gates]
        skip = None if self.skip is None else self.skip[pick]
        how = dict(skip=skip, activation=self.activation, **self.mode)

        def norm(*factors):
            product = np.ones(1)
            for x in factors:
                product = product if x is None else product * np.float64(x)
            return np.linalg.norm(product, axis=-1)

        def largest(x):
            return 1 if x is None else np.abs(np.float64(x)).max(axis=-1)

        w, v = gates
        taps = norm(k) + (0 if skip is None else np.abs(skip))
        if backward:
            dy = some(self.dy)
            exact = reference.conv_backward(dy, u, k, *gates, **how)
            exact = {n: getattr(exact, f"d{n}") for n in self.found}
            scales = {
                "u": taps * norm(dy, v) * largest(w),
                "k": np.sum(norm(dy, v) * norm(u, w), axis=0),
                "in_gate": taps * norm(dy, v) * largest(u),
                "out_gate": taps * norm(u, w) * largest(dy),
            }
        else:
            exact = {"y": reference.conv(u, k, *gates, **how)}
            scales = {"y": taps * norm(u, w) * largest(v)}
        worst = 0.0
        for name, of in exact.items():
            found = self.found[name]
            if not np.isfinite(np.float32(found)).all():
                raise RuntimeError(f"{self.plan}: {name} is not finite")
            found = found[pick] if name == "k" else some(found)
            found = found.astype(np.float64)
            worst = max(worst, bench.row_error(found, of, scales[name]))
        limit = ERROR_LIMIT[self.plan.dtype] * (2 if backward else 1)
        return bench.check(repr(self.plan), worst, limit)


def in_cache(length, bytes_per_point, batch):
    """(B, H) for which rows and spectra take about half of the L2 cache."""
    channels = L2_BYTES // 2 // (bytes_per_point * length)
    return batch, int(np.clip(channels, 1, 64))


def beyond(length):
    """(B, H) for rows beyond the cache, as in bench_cpu.c."""
    return 4, 64 if length < 2**18 else 16 if length < 2**20 else 4


class Run:
    """One run of the program, and the measured rows that it collects.

    A row holds its target, what was compared, the value, the limit and whether it is met.
    """

    def __init__(self, settings):
        self.grid = GRIDS[settings.grid]
        self.settings = settings
        self.rng = np.random.default_rng(settings.seed)
        self.rows = []
        self.planner = []

    def add(self, target, length, value, limit=None, **more):
        _, sense, usual = TARGETS[target]
        limit = usual if limit is None else limit
        met = value >= limit if sense == "least" else value <= limit
        self.rows.append(
            {
                "target": target,
                "length": length,
                "value": value,
                "limit": limit,
                "met": bool(met),
                **more,
            }
        )

    def time(self, calls, threads=1, pause=0.0):
        """({name: median seconds}, the whole result of bench.interleaved)."""
        timing = bench.interleaved(
            calls, self.grid["repeats"], threads, least=self.grid["least"],
            pause=pause)  # fmt: skip
        return {name: t["median_s"] for name, t in timing.items()}, timing

    def compare(self, target, length, above, below, limit=None, threads=1,
                per_output=False, **more):  # fmt: skip
        """Add the ratio of two cases' seconds (above / below), per output if asked."""
        t, timing = self.time(
            {"above": above.again, "below": below.again}, threads)  # fmt: skip
        value = t["above"] / t["below"]
        if per_output:
            value *= below.outputs / above.outputs
        self.add(target, length, value, limit,
                 above_ns=1e9 * t["above"] / above.outputs,
                 below_ns=1e9 * t["below"] / below.outputs,
                 clock=timing["above"]["clock"],
                 error=max(above.error, below.error), **more)  # fmt: skip
        return t

    def case(self, *shape, **options):
        return Case(self.rng, *shape, **options)

    # ---- C program ----------------------------------------------------------

    def program(self):
        """Run the C program bench_cpu, add its FFTW targets and return its record."""
        # The program belongs to the same build as the library that the package loads.
        library = os.environ.get("FFTCONV_LIBRARY")
        build = Path(library).resolve().parents[1] if library else bench.ROOT / "build"
        program = build / "experiments/bench_cpu"
        if not program.exists():
            raise SystemExit(
                f"{program} is not there: this measures a build tree, whose `make` builds it"
            )
        kept = self.settings.results.resolve() / "fftw"
        kept.mkdir(parents=True, exist_ok=True)
        command = [program, "--wisdom", kept, "--commit",
                   bench.machine()["commit"]]  # fmt: skip
        if self.settings.grid == "quick":
            command += ["--quick", "--length", "256", "--length", "1024"]
        elif self.settings.grid == "full":
            command += ["--full"]
        else:
            command += ["--plan-up-to", str(2**14)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        record = json.loads(done.stdout)
        fastest = {}
        for row in record["rows"]:
            if row["method"].startswith("FFTW"):
                length, ns = row["length"], row["ns_per_output"]
                fastest[length] = min(ns, fastest.get(length, ns))
        for row in record["rows"]:
            must = MUST.get(row.get("isa"), {}).get(row["length"])
            if must and row["length"] in fastest:
                ns = row["ns_per_output"]
                self.add(f"fftw_{row['isa']}", row["length"],
                         fastest[row["length"]] / ns, must, below_ns=ns,
                         above_ns=fastest[row["length"]], clock=row["clock"],
                         error=row["error"])  # fmt: skip
        return record

    # ---- Peers --------------------------------------------------------------

    def peers(self):
        names = ["scipy", "scipy_fftconvolve", "scipy_oaconvolve"]
        try:
            import torch  # noqa: F401

            names.append("torch")
        except ImportError:
            pass
        counts = sorted({1, bench.processors()})
        for length, threads in itertools.product(self.grid["peers"], counts):
            batch, channels = 4, max(1, min(64, 2**16 // length))
            case = speed.Case(13, 2 * length, batch, channels, self.rng)
            end = "" if threads == 1 else "_threads"
            methods = {n + end: (case.method(n + end), threads)
                       for n in ["fftconv", *names]}  # fmt: skip
            case.errors(methods)
            t, timing = self.time(
                {n: f for n, (f, _) in methods.items()}, threads,
                pause=bench.SPIN_PAUSE if threads > 1 else 0.0)  # fmt: skip
            ns = {n.removesuffix("_threads"): 1e9 * s / case.u.size
                  for n, s in t.items()}  # fmt: skip
            fastest = min(names[:3], key=ns.get)
            for target, peer in [("scipy", fastest), ("torch", "torch")]:
                if peer in ns:
                    self.add(target, length, ns[peer] / ns["fftconv"],
                             above_ns=ns[peer], below_ns=ns["fftconv"],
                             case=f"{peer}, {threads} threads", ns=ns,
                             clock=timing["fftconv" + end]["clock"])  # fmt: skip

    # ---- Ours against ours --------------------------------------------------

    def threads(self):
        if bench.processors() < 2:
            return
        grid = self.grid
        # Batches large enough for every call to take 100 us or more.
        every = [(n, beyond(n) if n > 512 else (4, 128)) for n in grid["lengths"] + grid["long"]]
        row = [(n, (1, 1)) for n in grid["lengths"][-1:] + grid["long"]]
        for length, shape in every + row:
            one, two = (self.case(*shape, length, threads=t) for t in (1, 2))
            target = (
                "threads_row" if shape == (1, 1)
                else "threads" if length in grid["lengths"]
                else "threads_long")  # fmt: skip
            self.compare(target, length, one, two, threads=2)

    def batch(self):
        # A spectrum has 8 bytes per point.
        for length in self.grid["lengths"]:
            channels = in_cache(length, 8, 1)[1]
            four = self.case(4, channels, length)
            for b in (1, 3):
                self.compare("batch", length, self.case(b, channels, length),
                             four, per_output=True, case=f"B = {b}")  # fmt: skip

    def fused(self, record):
        bandwidth = record["peaks"][0]["copy_bytes"]["memory"]
        for length in self.grid["lengths"]:
            shape = *in_cache(length, 2 * 16 + 8, 2), length
            bare = self.case(*shape)
            for activation in ("gelu", "silu"):
                both = self.case(*shape, gated=True, skip=True,
                                 activation=activation)  # fmt: skip
                self.compare("fused", length, both, bare, case=activation)
        for length in self.grid["long"]:
            shape = *beyond(length), length
            bare, gated = self.case(*shape), self.case(*shape, gated=True)
            extra = 2 * bare.u.nbytes / bandwidth
            t = self.time({"bare": bare.again})[0]["bare"]
            self.compare("fused_long", length, gated, bare,
                         limit=(t + extra) / t, case="gates")  # fmt: skip

    def sixteen_bits(self):
        try:
            bench.dtype_of("bfloat16")
        except ImportError:  # no ml_dtypes
            return ["float16"]
        return ["float16", "bfloat16"]

    def half(self):
        for length in self.grid["lengths"]:
            shape = *in_cache(length, 2 * 8 + 8, 2), length
            whole = self.case(*shape)
            for dtype in self.sixteen_bits():
                self.compare("half", length, self.case(*shape, dtype=dtype),
                             whole, case=dtype)  # fmt: skip

    def half_memory(self, record):
        """16-bit rows against float32 on all processors, where memory limits the speed.

        The rows are the shortest ones, which need the least arithmetic per byte, and exceed
        all caches.  If even then the transfer of float32 rows takes less than half of the
        time, memory does not limit this machine and the weaker limit applies.
        """
        bandwidth = record["peaks"][0]["copy_bytes"]["memory"]
        length = self.grid["lengths"][0]
        n = bench.processors()
        points = 2**16 if self.settings.grid == "quick" else 2**23
        shape = 4, points // 4 // length, length
        whole = self.case(*shape, threads=n)
        moving = 2 * whole.u.nbytes / bandwidth
        t = self.time({"whole": whole.again}, n)[0]["whole"]
        for dtype in self.sixteen_bits():
            half = self.case(*shape, dtype=dtype, threads=n)
            self.compare("half_memory", length, half, whole, threads=n,
                         limit=1.0 if moving > t / 2 else 1.25,
                         case=f"{dtype}, {n} threads, memory "
                         f"{moving / t:.0%} of float32")  # fmt: skip

    def backward(self):
        for length in self.grid["lengths"] + self.grid["long"][:1]:
            channels = max(1, min(16, 2**18 // length))
            for target, b in (("backward", 4), ("backward_row", 1)):
                there, back = (
                    self.case(b, channels, length, gated=True, backward=back)
                    for back in (False, True))  # fmt: skip
                self.compare(target, length, back, there)
            few, many = (
                fftconv.Plan((b, h, length), (h, length), threads=1)
                for b, h in ((1, 1), (8, 64)))  # fmt: skip
            for way in ("forward", "backward"):
                name = f"{way}_workspace_bytes"
                bytes_ = [getattr(plan.counters, name) for plan in (few, many)]
                self.add("workspace", length, bytes_[1] / max(1, bytes_[0]),
                         case=way)  # fmt: skip

    def circular(self):
        for length in self.grid["lengths"] + self.grid["long"][:1]:
            b, h = 2, max(1, min(16, 2**17 // length))
            # Both cases have transforms of 2 * length points.
            ring = self.case(b, h, 2 * length, circular=True)
            self.compare("circular", 2 * length, ring, self.case(b, h, length))

    def any_length(self):
        for length in self.grid["any_length"]:
            power = 2 ** round(math.log2(length))
            b, h = 4, max(1, min(32, 2**16 // length))
            other, usual = self.case(b, h, length), self.case(b, h, power)
            self.compare("any_length", length, other, usual, per_output=True,
                         limit=1.35 if length >= 2048 else 1.6,
                         case=f"M = {other.plan.transform_length}")  # fmt: skip

    def baseline(self):
        if "avx2" not in fftconv.isas():
            return
        for length in self.grid["lengths"] + self.grid["long"][:1]:
            shape = 2, max(1, min(16, 2**17 // length)), length
            fast, slow = (
                self.case(*shape, isa=isa) for isa in ("avx2", "baseline"))  # fmt: skip
            self.compare("baseline", length, fast, slow)

    # ---- The planner --------------------------------------------------------

    def forced(self):
        """The plan's own radices against the best forced ones.

        Three calls of each candidate select the few that are then timed in turn.
        """
        for length in self.grid["planner"]:
            shape = 2, max(1, min(16, 2**16 // length)), length
            own = self.case(*shape)
            tried = {}
            for radices in candidates(own.plan, self.grid["forced"], self.rng):
                try:
                    case = self.case(*shape, radices=radices)
                except ValueError:
                    continue  # the plan cannot use these radices
                if case.plan.stage_radices == own.plan.stage_radices:
                    continue
                t = [_seconds(case.again) for _ in range(3)]
                tried[radices] = min(t), case
                if len(tried) > 5:  # keep the fastest five, to bound the memory
                    tried.pop(max(tried, key=lambda r: tried[r][0]))
            calls = {"own": own.again}
            calls |= {r: case.again for r, (_, case) in tried.items()}
            t, timing = self.time(calls)
            best = min(t, key=t.get)
            self.add("planner", length, t["own"] / t[best],
                     above_ns=1e9 * t["own"] / own.outputs,
                     below_ns=1e9 * t[best] / own.outputs,
                     clock=timing["own"]["clock"])  # fmt: skip
            winner = own if best == "own" else tried[best][1]
            self.planner.append(
                {
                    "length": length,
                    "own": list(own.plan.stage_radices),
                    "own_m": own.plan.transform_length,
                    "own_ns": 1e9 * t["own"] / own.outputs,
                    "best": list(winner.plan.stage_radices),
                    "best_m": winner.plan.transform_length,
                    "best_ns": 1e9 * t[best] / own.outputs,
                    "ratio": t["own"] / t[best],
                    "predicted_ns": 1e9 * own.plan.counters.predicted_seconds / own.outputs,
                }
            )

    # ---- Planning, and Python -----------------------------------------------

    def planning(self):
        for length in self.grid["planning"]:
            found = []
            for _ in range(min(5, self.grid["repeats"])):
                done = subprocess.run(
                    [sys.executable, "-c", PLANNING, str(length)],
                    stdout=subprocess.PIPE, check=True)  # fmt: skip
                found.append(json.loads(done.stdout))
            first, second = np.median(found, axis=0)
            self.add("planning", length, 1e3 * first)
            self.add("planning_again", length, 1e3 * second)

    def python(self):
        case = self.case(1, 1, 64)
        plan, spectrum = case.plan, case.plan.spectrum(case.k)
        y = np.empty_like(case.u)
        t, timing = self.time(
            {
                "c": case.again,
                "plan": lambda: plan(case.u, spectrum),
                "plan_out": lambda: plan(case.u, spectrum, out=y),
            }
        )
        for way in ("plan", "plan_out"):
            self.add("python", 64, 1e6 * (t[way] - t["c"]),
                     case=way, clock=timing[way]["clock"])  # fmt: skip


# Run in a new process, in which no plan exists yet.
PLANNING = """
import json, sys, time
import fftconv
n = int(sys.argv[1])
t = [time.perf_counter()]
plans = []
for _ in range(2):
    plans.append(fftconv.Plan((1, 1, n), (1, n), threads=1))
    t.append(time.perf_counter())
print(json.dumps([t[1] - t[0], t[2] - t[1]]))
"""


def _seconds(call):
    t = time.perf_counter()
    call()
    return time.perf_counter() - t


def powers(bits, steps):
    """Yield every multiset of `steps` radices out of 16, 8, 4, 2 with product 2^bits."""
    for chosen in itertools.combinations_with_replacement((4, 3, 2, 1), steps):
        if sum(chosen) == bits:
            yield tuple(2**b for b in chosen)


def candidates(plan, count, rng):
    """Tuples of radices to force in place of the plan's own, at most about 2 `count`.

    The transform lengths are the plan's own and other smooth ones, up to 1.2 times the row's
    length; the number of radices is at most two above the smallest possible one.  Each set
    of radices comes with its powers of two in falling and in rising order, of which at most
    `count` are kept at random; up to `count` further tuples have a random order.
    """
    length = plan.u_shape[-1]
    lengths = {plan.transform_length}
    for odd in (1, 3, 5, 7, 9, 15, 25, 27, 45):
        m = odd
        while m < length:
            m *= 2
        lengths.add(m)
    lengths = sorted(m for m in lengths if m <= 1.2 * max(
        length, min(lengths)) or m == plan.transform_length)  # fmt: skip
    sets, others = [], []
    for m in lengths:
        odd, bits = m, 0
        while odd % 2 == 0:
            odd, bits = odd // 2, bits + 1
        factors = []
        for p in (7, 5, 3):
            while odd % p == 0:
                odd //= p
                factors.append(p)
        least = -(-bits // 4)
        for steps in range(least, least + 3):
            for even in powers(bits, steps):
                sets += [(*factors, *even), (*factors, *even[::-1])]
                others.append((factors, even))
    drawn = []
    while others and len(drawn) < count:
        factors, even = others[rng.integers(len(others))]
        drawn.append((*factors, *rng.permutation(even).tolist()))
    if len(sets) > count:
        sets = [sets[i] for i in sorted(rng.permutation(len(sets))[:count])]
    return dict.fromkeys(r for r in sets + drawn if r)


def summary(rows):
    """One entry for each target: its worst row, and whether all of its rows meet it."""
    found = {}
    for name, (what, sense, _) in TARGETS.items():
        mine = [r for r in rows if r["target"] == name]
        if not mine:
            continue
        worst = max(
            mine,
            key=lambda r: (r["limit"] / r["value"] if sense == "least"
                           else r["value"] / r["limit"]))  # fmt: skip
        found[name] = {
            "what": what,
            "sense": sense,
            "limit": worst["limit"],
            "worst": worst["value"],
            "at": worst["length"],
            "rows": len(mine),
            "rows_met": sum(r["met"] for r in mine),
            "met": all(r["met"] for r in mine),
        }
    return found


def show(targets, rows):
    """Print the table of targets, then every row that misses its limit."""
    for name, t in targets.items():
        print(
            f"{name:15s} {t['what']:54s} at {t['sense']:5s} "
            f"{t['limit']:6.2f}  worst {t['worst']:7.2f} at L = {t['at']:<8d}"
            f" {t['rows_met']:3d} of {t['rows']:3d}  "
            f"{'yes' if t['met'] else 'NO'}"
        )
    for r in rows:
        if not r["met"]:
            print(
                f"    {r['target']:15s} L = {r['length']:<8d} "
                f"{r.get('case', ''):28s} {r['value']:8.3f}, "
                f"limit {r['limit']:.3f}"
            )


def main():
    settings = bench.options(__doc__).parse_args()
    bench.keep_freed_memory()
    started = time.perf_counter()
    run = Run(settings)
    record = run.program()
    groups = [
        run.peers, run.threads, run.batch, partial(run.fused, record), run.half,
        partial(run.half_memory, record), run.backward, run.circular, run.any_length,
        run.baseline, run.forced, run.planning, run.python,
    ]  # fmt: skip
    for group in (bar := tqdm(groups, desc="bench_cpu", unit="group")):
        bar.set_postfix_str(getattr(group, "func", group).__name__)
        group()
    targets = summary(run.rows)
    body = {"program": record, "targets": targets, "rows": run.rows, "planner": run.planner}
    show(targets, run.rows)
    print(bench.write(settings.results, "bench_cpu", settings, body, started))


if __name__ == "__main__":
    main()
