"""Builds the CUDA engine on a machine with a GPU, tests it and measures it, in one call.

    python3 experiments/bench_gpu.py --out DIR      under ten minutes
    python3 experiments/bench_gpu.py --out DIR --quick
    python3 experiments/bench_gpu.py --out DIR --stages build,tests --build B
    python3 experiments/bench_gpu.py --out DIR --stages measure --build B

The program runs the stages below in turn.  Each stage writes a log DIR/<stage>.log, and
DIR/stages.json is updated with its outcome.  If a stage fails, or the machine lacks a program
that it needs, this is reported and the next stage runs.  A stage may use all the remaining
time except the least that the later stages need:

    build       configure for this card's architecture, and make
    verify      small cases of every table against the oracle, on the card
    tests       tests/cuda, on the card
    measure     the measurements described below
    sanitizer   compute-sanitizer's memcheck and racecheck over a few tests
    cpu         tests of the CPU engine

--library tests a library that was built elsewhere for this card's architecture.
`measure` writes DIR/bench_gpu.json after every case.  The file holds the paper's
Tables 11-15 (times in ms, scaled to B = 64, H = 768 from the measured B and H):

    11  forward   y  = u * k              circular, L = N
    12  gated     y  = v . ((u . w) * k)  circular, L = N
    13  forward   y  = u * k              causal,   L = N/2
    14  gated     y  = v . ((u . w) * k)  causal,   L = N/2
    15  backward  du, dk from dy, u, k    circular, L = N

Rows (u, gates, y) are mostly float16, in some cases bfloat16 or float32; k is float32.  The
methods are: the fused kernel, with the spectrum of k made in every call or made beforehand; the
cuFFT engine in the same two ways; PyTorch with complex FFTs, as in the paper, and PyTorch with
rfft.  The backward calls of PyTorch are autograd's, which keeps the spectra of the forward
call; ours keep nothing from it.

Every method is checked before it is timed: memory is filled with NaN beforehand, sampled rows
are compared with the float64 oracle and all rows with a result of PyTorch.  Wrong methods are
not timed.  The others are timed in turn, round by round, and medians are reported.  A timing
covers a CUDA graph of calls between two CUDA events; the calls rotate over sets of operands
that together far exceed the L2 cache.  The floor of a row is the time to move each byte of its
operands and results once, at the rate at which this card copies device memory, which is
measured in the same run.

The exit status is 0 after success, 1 if a stage failed or could not run, and 77 if there is no
GPU.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = {  # table: (gated, causal, backward)
    11: (False, False, False),
    12: (True, False, False),
    13: (False, True, False),
    14: (True, True, False),
    15: (False, False, True),
}
PAPER_BATCH, PAPER_CHANNELS = 64, 768
# Shapes of the paper's program: (least FFT size N, B, H).  The last row whose least N is not
# above the FFT size applies.
PAPER_ROWS = [
    (256, 64, 768),
    (2**14, 32, 768),
    (2**15, 16, 768),
    (2**16, 8, 768),
    (2**17, 8, 384),
    (2**18, 8, 192),
    (2**19, 8, 96),
    (2**20, 8, 48),
    (2**21, 8, 32),
    (2**22, 8, 16),
]
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
# A row with a larger error is wrong: twice the tolerance of tests/cuda against float64,
# relative to max(|y|, |k| |z| rms(v)); gradients may have twice this error.  The error itself
# is recorded too.
LIMITS = {"float16": 2e-3, "bfloat16": 4e-3, "float32": 2e-6}
OURS = {  # method: (engine, whether the kernel's spectrum is made beforehand)
    "fused": ("fused", False),
    "fused_ready": ("fused", True),
    "cufft": ("cufft", False),
    "cufft_ready": ("cufft", True),
}
TORCH = ("torch_complex", "torch_rfft")
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One row of a table: the operation, its shapes and its type, without any data."""

    table: int
    fft_size: int
    batch: int
    channels: int
    dtype: str = "float16"

    @property
    def gated(self):
        return TABLES[self.table][0]

    @property
    def causal(self):
        return TABLES[self.table][1]

    @property
    def backward(self):
        return TABLES[self.table][2]

    @property
    def length(self):
        return self.fft_size // 2 if self.causal else self.fft_size

    @property
    def shape(self):
        return self.batch, self.channels, self.length

    @property
    def how(self):
        """The keywords of the operation for Plan and for the oracle."""
        if self.causal:
            return {"mode": "causal"}
        return {"mode": "circular", "fft_size": self.fft_size}

    @property
    def scale(self):
        """The factor that scales a time to the paper's B = 64 and H = 768."""
        return PAPER_BATCH * PAPER_CHANNELS / (self.batch * self.channels)

    @property
    def rows_bytes(self):
        rows = self.batch * self.channels * self.length
        return rows * ITEM_BYTES[self.dtype]

    @property
    def io_bytes(self):
        """Bytes of all operands and results: u, y, gates, dy, du as given; k, dk in float32."""
        arrays = 3 if self.backward else 4 if self.gated else 2
        kernels = 2 if self.backward else 1
        return arrays * self.rows_bytes + kernels * 4 * self.taps

    @property
    def taps(self):
        return self.channels * self.length

    @property
    def limit(self):
        return LIMITS[self.dtype] * (2 if self.backward else 1)


def paper_rows(n):
    """(B, H) at FFT size n, as in the paper's program."""
    return next(rest for least, *rest in reversed(PAPER_ROWS) if n >= least)


def cases(grid):
    """All cases, the most important first, because the last ones may run out of time."""
    if grid == "quick":
        sizes = [256, 4096]
    else:
        sizes = [2**a for a in range(8, 16)]
    found = [Case(t, n, *paper_rows(n)) for t in (12, 14, 15, 11, 13) for n in sizes]
    if grid != "quick":
        found += [
            Case(t, n, *paper_rows(n), dtype)
            for dtype in ("bfloat16", "float32")
            for t in (14, 12)
            for n in (1024, 4096, 16384)
        ]
        found += [  # sizes that one launch of the fused kernel cannot hold
            Case(t, n, *paper_rows(n)) for n in (2**16, 2**18, 2**20) for t in (14, 12)
        ]
    return found


# ---- Data and the oracle ----------------------------------------------------


def sampled(channels):
    """The channels whose rows are compared with the oracle."""
    return sorted({0, channels // 2, channels - 1})


def exact(case, arrays):
    """(float64 results for NumPy operands, the scale of each row's error)."""
    import numpy as np
    from fftconv import reference

    def norm(x):
        return np.linalg.norm(x.astype(np.float64), axis=-1)

    u, k = arrays["u"], arrays["k"]
    if case.backward:
        dy = arrays["dy"]
        g = reference.conv_backward(dy, u, k, **case.how)
        return [g.du, g.dk], [
            norm(k) * norm(dy),
            np.sqrt(np.sum(norm(dy) ** 2, 0) * np.sum(norm(u) ** 2, 0)),
        ]
    w, v = arrays.get("w"), arrays.get("v")
    y = reference.conv(u, k, w, v, **case.how)
    if not case.gated:
        return [y], [norm(k) * norm(u)]
    z = u.astype(np.float64) * w
    return [y], [norm(k) * norm(z) * norm(v) / case.length**0.5]


def worst_error(found, wanted, scales):
    """The largest error of a row; NaN if a result is not finite."""
    import numpy as np

    worst = 0.0
    for x, y, scale in zip(found, wanted, scales):
        x = x.astype(np.float64)
        size = np.maximum(np.linalg.norm(y, axis=-1), scale)
        error = np.linalg.norm(x - y, axis=-1) / size
        if not np.all(np.isfinite(error)):
            return float("nan")
        worst = max(worst, float(np.max(error)))
    return worst


def our_calls(case, sets, engine, ready):
    """Functions without arguments, one for each set of operands, of a plan whose engine is
    forced."""
    import fftconv

    plan = fftconv.Plan(
        tuple(sets[0]["u"].shape),
        tuple(sets[0]["k"].shape),
        dtype=case.dtype,
        device="cuda",
        engine=engine,
        **case.how,
    )

    def call_of(arrays):
        kernel = plan.spectrum(arrays["k"]) if ready else arrays["k"]
        gates = arrays.get("w"), arrays.get("v")

        def forward():
            return (plan(arrays["u"], kernel, *gates),)

        def backward():
            g = plan.backward(arrays["dy"], arrays["u"], kernel, needs=("u", "k"))
            return g.du, g.dk

        call = backward if case.backward else forward
        call.plan, call.ready = plan, ready
        return call

    return [call_of(arrays) for arrays in sets]


def names_of(case):
    return ["u", "k"] + ["w", "v"] * case.gated + ["dy"] * case.backward


def random_operands(case, rng):
    """NumPy operands for which the results are O(1)."""
    import numpy as np

    if case.dtype == "bfloat16":
        import ml_dtypes  # noqa: F401  imported here because it is an optional package
    dtype = np.dtype(case.dtype)
    found = {
        name: rng.standard_normal(case.shape, "float32").astype(dtype)
        for name in names_of(case)
        if name != "k"
    }
    taps = rng.standard_normal((case.channels, case.length), "float32")
    found["k"] = taps / case.length**0.5
    return found


def verify(settings):
    """Check small cases of every table with arrays of fftconv.cuda, without timings.

    This needs no PyTorch, and runs on the emulated machine too.
    """
    import numpy as np
    from fftconv import Unsupported, cuda

    rng = np.random.default_rng(settings.seed)
    rows = []
    for table in TABLES:
        for n, dtype in (256, "float16"), (1024, "bfloat16"), (512, "float32"):
            case = Case(table, n, 3, 2, dtype)
            arrays = random_operands(case, rng)
            wanted = exact(case, arrays)
            there = {name: cuda.asarray(x) for name, x in arrays.items()}
            for method, (engine, ready) in OURS.items():
                row = row_of(case, method)
                try:
                    (call,) = our_calls(case, [there], engine, ready)
                    found = [x.numpy() for x in call()]
                    row["error"] = worst_error(found, *wanted)
                    right = row["error"] <= case.limit
                    row["status"] = "right" if right else "wrong"
                except (Unsupported, ValueError) as error:
                    row["status"] = f"not here: {error}"
                rows.append(row)
    return rows


def row_of(case, method):
    return {
        "table": case.table,
        "fft_size": case.fft_size,
        "dtype": case.dtype,
        "batch": case.batch,
        "channels": case.channels,
        "method": method,
        "io_bytes": case.io_bytes,
    }


# ---- PyTorch ----------------------------------------------------------------


class Card:
    """The GPU as PyTorch offers it: operands, PyTorch's methods, events and memory."""

    def __init__(self, seed, device="cuda"):
        import torch

        self.torch, self.device = torch, device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.stream = torch.cuda.Stream()
        properties = torch.cuda.get_device_properties(0)
        self.name = properties.name
        self.memory = properties.total_memory
        self.l2 = getattr(properties, "L2_cache_size", 64 * MIB)

    def operands(self, case):
        torch = self.torch
        found = {
            name: torch.randn(
                case.shape,
                device=self.device,
                generator=self.generator,
                dtype=getattr(torch, case.dtype),
            )
            for name in names_of(case)
            if name != "k"
        }
        taps = torch.randn(
            (case.channels, case.length), device=self.device, generator=self.generator
        )
        found["k"] = taps / case.length**0.5
        return found

    def host(self, x):
        """A NumPy copy of x in float32, which holds every 16-bit value exactly."""
        return x.detach().float().cpu().numpy()

    def torch_call(self, case, arrays, method):
        """A call of y = irfft(rfft(u, N) rfft(k, N)), or the same with complex FFTs.

        u is converted to float32 first, y back to the type of u.
        """
        torch, n = self.torch, case.fft_size
        fft, ifft = torch.fft.fft, torch.fft.ifft
        if method == "torch_rfft":
            fft, ifft = torch.fft.rfft, torch.fft.irfft
        w, v = arrays.get("w"), arrays.get("v")

        def forward(u, k):
            z = u if w is None else u * w
            p = ifft(fft(z.float(), n=n) * fft(k, n=n), n=n)
            y = (p.real if p.is_complex() else p)[..., : case.length]
            y = y.to(u.dtype)
            return y if v is None else y * v

        u, k = arrays["u"], arrays["k"]
        if not case.backward:

            def call():
                with torch.no_grad():
                    return (forward(u, k),)

            return call
        u, k = (x.detach().clone().requires_grad_() for x in (u, k))
        y = forward(u, k)
        return lambda: torch.autograd.grad(y, (u, k), arrays["dy"], retain_graph=True)

    def poison(self):
        """Fill the free memory that PyTorch will allocate next with NaN."""
        torch = self.torch
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        pieces = [
            torch.full((size // 4,), float("nan"), device=self.device)
            for size in (free // 4, 64 * MIB, MIB)
        ]
        torch.cuda.synchronize()
        del pieces

    def peak(self, call):
        """(result of the call, bytes that it allocates at its peak, the result included)."""
        torch = self.torch
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before

    def milliseconds(self, run):
        torch = self.torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # keeps the GPU busy while the CPU submits the work
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def repeated(self, calls, least_ms):
        """(run, calls in a run, "graph" or "events").

        `run` repeats `calls` in turn, often enough to last about `least_ms` (64 rounds at
        most).  It replays a CUDA graph if the calls can be captured.
        """
        torch = self.torch
        for call in calls:
            call()
        torch.cuda.synchronize()
        once = self.milliseconds(lambda: [call() for call in calls])
        rounds = max(1, min(64, int(least_ms / max(once, 1e-3))))

        def all_of_it():
            held = deque(maxlen=len(calls))  # keeps results alive, so that their memory rotates
            for _ in range(rounds):
                for call in calls:
                    held.append(call())

        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                all_of_it()
            graph.replay()
            torch.cuda.synchronize()
            return graph.replay, rounds * len(calls), "graph"
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            print(f"    not captured: {str(error).splitlines()[0]}")
            torch.cuda.synchronize()
            return all_of_it, rounds * len(calls), "events"

    def agreement(self, found, other, scales):
        """The largest error of all rows against the results of another method."""
        worst = 0.0
        for x, y, scale in zip(found, other, scales):
            x, y = x.float(), y.float()
            size = y.norm(dim=-1).clamp_min(scale)
            worst = max(worst, float(((x - y).norm(dim=-1) / size).max()))
            if worst != worst:
                break
        return worst

    def working(self):
        """A context that selects a stream of its own.

        CUDA graphs cannot be captured on the default stream.
        """
        return self.torch.cuda.stream(self.stream)

    def forget(self):
        self.torch.cuda.empty_cache()

    def copy_rate(self, size=2**32):
        """The rate of a copy within device memory: bytes read plus written per second."""
        torch = self.torch
        x = torch.randint(-(2**31), 2**31 - 1, (size // 4,), dtype=torch.int32, device=self.device)
        y = torch.empty_like(x)
        times = [self.milliseconds(lambda: y.copy_(x)) for _ in range(12)][2:]
        middle = sorted(times)[len(times) // 2]
        return {"bytes": size, "median_s": middle / 1e3, "bytes_per_s": 2 * size / (middle / 1e3)}


def interleaved(card, runs, repeats):
    """{name: sorted seconds per call}, for runs = {name: (run, calls in a run, clock)}."""
    samples = {name: [] for name in runs}
    names = list(runs)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            run, count, _ = runs[name]
            samples[name].append(card.milliseconds(run) / 1e3 / count)
    return {name: sorted(x) for name, x in samples.items()}


def methods_of(case):
    return [*OURS, *TORCH]


def make_calls(card, case, sets, method):
    if method in OURS:
        return our_calls(case, sets, *OURS[method])
    return [card.torch_call(case, arrays, method) for arrays in sets]


def measure_case(card, case, settings, copy_rate):
    """Check and time all methods on one case; return a row for each method."""
    quick = settings.grid == "quick"
    each = case.rows_bytes * (4 if case.gated else 3)
    sets = max(1, min(8, -(-4 * card.l2 // each)))
    arrays = [card.operands(case) for _ in range(sets)]
    some = sampled(case.channels)
    wanted = exact(
        case,
        {name: card.host(x[some] if name == "k" else x[:, some]) for name, x in arrays[0].items()},
    )
    rows, calls, everywhere = {}, {}, None
    for method in reversed(methods_of(case)):  # PyTorch's rfft first: others are compared with it
        row = rows[method] = row_of(case, method)
        try:
            row["status"] = "failed"
            card.forget()  # the library cannot use the memory in PyTorch's cache
            mine = make_calls(card, case, arrays, method)
            card.poison()
            mine[0]()  # cuFFT makes its plans here, so that the peak excludes them
            found, row["peak_bytes"] = card.peak(mine[0])
            if getattr(mine[0], "ready", False):
                row["spectrum_bytes"] = mine[0].plan.counters.spectrum_bytes
            host = [card.host(x[some] if x.ndim == 2 else x[:, some]) for x in found]
            error = worst_error(host, *wanted)
            limit = case.limit if method in OURS else 2 * case.limit
            if everywhere is None and error <= limit:
                everywhere = found
            # All rows are compared; the sampled rows give the size of a row's terms.
            scales = [float(s.min()) for s in wanted[1]]
            apart = card.agreement(found, everywhere or found, scales)
            right = error <= limit and apart <= 5 * case.limit
            row["status"] = "right" if right else "wrong"
            for name, x in ("error", error), ("disagreement", apart):
                row[name] = x if x == x else None  # JSON has no NaN
            if row["status"] == "right":
                calls[method] = mine
        except Exception as error:  # the other methods must still run
            text = str(error).splitlines()[0] if str(error) else repr(error)
            row["status"] = f"{type(error).__name__}: {text}"[:200]
        found = None
    everywhere = None
    runs = {}
    for method, mine in calls.items():
        try:
            runs[method] = card.repeated(mine, 0.5 if quick else 3.0)
        except Exception as error:
            rows[method]["status"] = f"{type(error).__name__}: {error}"[:200]
            card.forget()
    floor = case.io_bytes / copy_rate
    for method, samples in interleaved(card, runs, 3 if quick else 11).items() if runs else ():
        row, middle = rows[method], samples[len(samples) // 2]
        row["status"] = "measured"
        row |= {
            "clock": runs[method][2],
            "sets": sets,
            "median_s": middle,
            "low_s": samples[len(samples) // 4],
            "high_s": samples[-1 - len(samples) // 4],
            "samples": len(samples),
            "scaled_ms": middle * 1e3 * case.scale,
            "floor_ms": floor * 1e3 * case.scale,
            "over_floor": middle / floor,
        }
    return [rows[method] for method in methods_of(case)]


def short_line(case, rows):
    """The line that is printed for a case."""
    words = []
    for row in rows:
        what = (
            f"{row['scaled_ms']:.3f} ms x{row['over_floor']:.2f}"
            if "scaled_ms" in row
            else row["status"][:40]
        )
        words.append(f"{row['method']} {what}")
    return (
        f"T{case.table} N={case.fft_size} {case.dtype} "
        f"({case.batch}, {case.channels}): " + "; ".join(words)
    )


def measure(settings, card=None):
    """Run the stage `measure`, in its own process; return the exit status."""
    import bench

    started = time.perf_counter()
    card = card or Card(settings.seed)

    copy = card.copy_rate(2**28 if settings.grid == "quick" else 2**32)
    body = {
        "gpu": gpu_record(),
        "copy": copy,
        "scaled_to": [PAPER_BATCH, PAPER_CHANNELS],
        "rows": [],
        "not_reached": [],
    }
    print(f"{card.name}: copies {copy['bytes_per_s'] / 1e12:.2f} TB/s", flush=True)
    todo = cases(settings.grid)
    for i, case in enumerate(todo):
        if time.perf_counter() - started > settings.seconds:
            body["not_reached"] = [[c.table, c.fft_size, c.dtype] for c in todo[i:]]
            print(f"out of time before {case}")
            break
        try:
            with card.working():
                rows = measure_case(card, case, settings, copy["bytes_per_s"])
        except Exception as error:
            rows = [row_of(case, m) | {"status": f"{error!r}"[:200]} for m in methods_of(case)]
        body["rows"] += rows
        print(short_line(case, rows), flush=True)
        card.forget()
        record(settings, body, started, bench)
    record(settings, body, started, bench)
    wrong = [r for r in body["rows"] if r["status"] == "wrong"]
    return 1 if wrong else 0


def record(settings, body, started, bench):
    """Replace bench_gpu.json as a whole, so that it is complete at every moment."""
    path = bench.write(settings.out / "part", "bench_gpu", settings, body, started)
    if settings.commit:
        found = json.loads(path.read_text())
        found["machine"]["commit"] = settings.commit
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    os.replace(path, settings.out / "bench_gpu.json")
    path.parent.rmdir()


# ---- The machine ------------------------------------------------------------


def driver():
    """The initialised CUDA driver; None if there is none."""
    try:
        found = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if found.cuInit(0) else found


def number_of(function, *arguments):
    """The integer that a function of the driver returns through a pointer; 0 if it fails."""
    found = ctypes.c_int()
    return 0 if function(ctypes.byref(found), *arguments) else found.value


def devices():
    """The number of devices; 0 without a driver."""
    found = driver()
    return number_of(found.cuDeviceGetCount) if found else 0


def capability():
    """The compute capability (major, minor) of the first device; (0, 0) without one."""
    found = driver()
    MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
    return tuple(
        number_of(found.cuDeviceGetAttribute, a, 0) if found else 0 for a in (MAJOR, MINOR)
    )


def output_of(*command):
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def gpu_record():
    """The record of the card, its driver, the compiler and the cuFFT library."""
    asked = (
        "name",
        "compute_cap",
        "driver_version",
        "memory.total",
        "clocks.max.sm",
        "clocks.max.memory",
        "power.limit",
    )
    values = output_of(
        "nvidia-smi", "--query-gpu=" + ",".join(asked), "--format=csv,noheader"
    ).splitlines()
    found = dict(zip(asked, map(str.strip, values[0].split(",")))) if values else {}
    found["compute_cap"] = "{}.{}".format(*capability())
    version = number_of(driver().cuDriverGetVersion) if driver() else 0
    found["driver_cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    release = [line for line in output_of("nvcc", "--version").splitlines() if "release" in line]
    found["nvcc"] = release[0].split("release")[1].strip() if release else ""
    found["cufft"] = os.environ.get("FFTCONV_CUFFT", "")
    return found


def architecture():
    """The value of --with-cuda-arch for this card: 90a on Hopper, for its own instructions."""
    number = "{}{}".format(*capability())
    return {"90": "90a", "00": "80"}.get(number, number)


def cufft():
    """The path of the cuFFT library that FFTCONV_CUFFT names or that came with PyTorch.

    "" if there is neither; the dynamic loader may still find a cuFFT by itself.
    """
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    found = [f for folder in folders for f in sorted(folder.glob("*/lib/libcufft.so.*"))]
    return os.environ.get("FFTCONV_CUFFT") or (str(found[-1]) if found else "")


# ---- Stages -----------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One stage: a program to run.

    command is a list of words, or a function that makes it from the seconds it may take.
    """

    name: str
    command: object
    least: float = 0  # seconds that earlier stages must leave for it
    environment: dict = field(default_factory=dict)
    programs: tuple = ()  # programs that it needs
    modules: tuple = ()  # Python modules that it needs

    def lacks(self):
        return [x for x in self.programs if not shutil.which(x)] + [
            f"Python's {x}" for x in self.modules if not importlib.util.find_spec(x)
        ]


def end(process):
    """End a stage's process group: SIGINT first, on which pytest reports its failures so
    far, then SIGKILL."""
    for sign, wait in (signal.SIGINT, 10), (signal.SIGKILL, None):
        try:
            os.killpg(process.pid, sign)
            process.wait(wait)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            pass


def run_stage(stage, limit, out):
    """Run a stage for at most `limit` seconds, with its output in OUT/<name>.log.

    Returns a dict of status (an exit status or "timeout") and seconds.
    """
    started = time.perf_counter()
    command = stage.command
    # A shell's background jobs ignore SIGINT.  Stages would inherit that, so it is undone.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(out / f"{stage.name}.log", "w") as log:
        process = subprocess.Popen(
            command(limit) if callable(command) else command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **stage.environment},
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = "timeout"
        finally:
            end(process)
    return {"status": status, "seconds": round(time.perf_counter() - started, 1)}


def run_stages(stages, seconds, out):
    """Run the stages in turn within `seconds` and write OUT/stages.json after each.

    Returns 0 if every stage succeeded, else 1.
    """
    finish, done = time.perf_counter() + seconds, {}
    for i, stage in enumerate(stages):
        name = stage.name
        left = finish - time.perf_counter()
        left -= min(left / 2, sum(later.least for later in stages[i + 1 :]))
        if stage.lacks():
            done[name] = {"status": "lacks " + ", ".join(stage.lacks()), "seconds": 0}
        elif left < 1:
            done[name] = {"status": "no time left", "seconds": 0}
        else:
            done[name] = run_stage(stage, left, out)
        print(f"==== {name}: {done[name]['status']}, {done[name]['seconds']} s", flush=True)
        log = out / f"{name}.log"
        if log.is_file():
            lines = log.read_text(errors="replace").splitlines()
            print("\n".join(lines[-(60 if name == "measure" else 12) :]), flush=True)
        (out / "stages.json").write_text(json.dumps(done, indent=1) + "\n")
    return 0 if all(s["status"] == 0 for s in done.values()) else 1


def build_command(build):
    """The shell command that configures and builds the library in the folder `build`."""
    generate = "autoreconf -i && " if not (ROOT / "configure").exists() else ""
    # Without the Autotools, keep make from regenerating the configure script, whatever its date.
    tools = all(map(shutil.which, ("autoreconf", "automake", "libtoolize")))
    keep = "" if tools else "ACLOCAL=: AUTOCONF=: AUTOMAKE=: AUTOHEADER=: "
    return (
        f"cd '{ROOT}' && {generate}mkdir -p '{build}' && cd '{build}' && "
        f"'{ROOT}/configure' --with-cuda "
        f"--with-cuda-arch={architecture()} PYTHON='{sys.executable}' && "
        f"make {keep}-j{os.cpu_count()} libfftconv.la"
    )


# Tests with a few launches of each kind of kernel, because sanitizers are slow.
SANITIZED = (
    "(test_short_rows and 65) or (test_backward_strides) or "
    "(test_each_length_is_chosen and (256 or 4096 or 32768)) or "
    "(test_backward_shared_kernels and 256)"
)


STAGES = ("build", "verify", "tests", "measure", "sanitizer", "cpu")


def stages_of(settings, build):
    library = settings.library or build / ".libs" / "libfftconv.so"
    python = {
        "FFTCONV_LIBRARY": str(library),
        "FFTCONV_BUILDDIR": str(build),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT / "python"), os.environ.get("PYTHONPATH")])
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    if cufft():
        python["FFTCONV_CUFFT"] = cufft()
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(ROOT),
        "-o",
        "faulthandler_timeout=60",
        "-m",
        "not big",
    ]

    def files(folder, *names):
        return [str(ROOT / "tests" / folder / f"test_{name}.py") for name in names]

    on_gpu = files("cuda", "rows", "padded_rows", "cuda_interface", "device_arrays")
    on_cpu = files("core", "kernel_shapes", "convolution", "arrays")

    def here(stage):
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--inside",
            stage,
            "--out",
            str(settings.out),
            "--seed",
            str(settings.seed),
            "--commit",
            settings.commit,
        ]
        return command + ["--quick"] * (settings.grid == "quick")

    def measure(seconds):
        """The command of `measure`, which ends by itself 20 seconds before its limit."""
        return here("measure") + ["--seconds", str(max(1, seconds - 20))]

    def one_by_one(*commands):
        """A shell command that runs all commands; its status is that of the last failed one.

        SIGINT ends the running command, and then the shell.
        """
        return [
            "sh",
            "-c",
            "trap 'exit 130' INT; status=0; "
            + "; ".join(shlex.join(c) + " || status=$?" for c in commands)
            + "; exit $status",
        ]

    needs = ("numpy", "pytest", "hypothesis")
    found = [
        Stage("build", ["sh", "-c", build_command(build)], 100, {}, ("make", "nvcc")),
        Stage("verify", here("verify"), 15, python, (), ("numpy",)),
        # One process for each file: after a failed kernel, a process cannot use CUDA any more.
        Stage(
            "tests",
            one_by_one(*([*pytest, "--maxfail=40", "--durations=5", f] for f in on_gpu)),
            60,
            python,
            (),
            needs,
        ),
        Stage("measure", measure, 150, python, (), ("numpy", "scipy", "torch")),
        Stage(
            "sanitizer",
            one_by_one(
                *(
                    [
                        "compute-sanitizer",
                        "--tool",
                        tool,
                        "--error-exitcode",
                        "9",
                        *pytest,
                        "-x",
                        "-k",
                        SANITIZED,
                        on_gpu[0],
                    ]
                    for tool in ("memcheck", "racecheck")
                )
            ),
            50,
            python,
            ("compute-sanitizer",),
            needs,
        ),
        Stage("cpu", [*pytest, "--maxfail=20", *on_cpu], 15, python, (), needs),
    ]
    return [
        s
        for s in found
        if s.name in settings.stages and not (s.name == "build" and settings.library)
    ]


def stage_names(text):
    found = text.split(",")
    if not set(found) <= set(STAGES):
        raise argparse.ArgumentTypeError(f"{text} must be of {', '.join(STAGES)}")
    return found


def options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where logs and bench_gpu.json go"
    )
    parser.add_argument(
        "--quick",
        dest="grid",
        action="store_const",
        const="quick",
        default="default",
        help="two sizes of each table",
    )
    parser.add_argument(
        "--seconds", type=float, default=530, help="for all of it (default: %(default)s)"
    )
    parser.add_argument(
        "--library", type=Path, help="a libfftconv.so for this card: nothing is built"
    )
    parser.add_argument(
        "--seed", type=int, default=20231110, help="of the random data (default: %(default)s)"
    )
    parser.add_argument(
        "--commit", default="", help="what the JSON calls this tree, if it is no clone"
    )
    parser.add_argument(
        "--stages",
        type=stage_names,
        default=STAGES,
        metavar="NAME,...",
        help="some of " + ", ".join(STAGES),
    )
    parser.add_argument(
        "--build",
        type=Path,
        metavar="DIR",
        help="where it is built, or was (default: a folder that is removed)",
    )
    parser.add_argument(
        "--inside", choices=("measure", "verify"), help=argparse.SUPPRESS
    )  # for internal use: the stage to run in this process
    settings = parser.parse_args()
    for name in "out", "library", "build":
        path = getattr(settings, name)
        setattr(settings, name, path and path.resolve())
    settings.out.mkdir(parents=True, exist_ok=True)
    return settings


def main():
    settings = options()
    os.environ["PATH"] += os.pathsep + "/usr/local/cuda/bin"
    if settings.inside == "verify":
        rows = verify(settings)
        for row in rows:
            print(
                *(
                    row.get(name, "")
                    for name in ("table", "fft_size", "dtype", "method", "status", "error")
                )
            )
        return int(
            not all(
                r["status"] == "right"
                or (r["method"].startswith("cufft") and r["status"] != "wrong")
                for r in rows
            )
        )
    if settings.inside == "measure":
        return measure(settings)
    if not devices():
        print(
            "bench_gpu: nothing was run; this machine lacks a CUDA device "
            "and its driver (libcuda.so.1)"
        )
        return 77
    build = settings.build or Path(tempfile.mkdtemp(prefix="fftconv-build-"))
    try:
        return run_stages(stages_of(settings, build), settings.seconds, settings.out)
    finally:
        if not settings.build:
            shutil.rmtree(build, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
