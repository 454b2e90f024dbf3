"""Measures the paper's Tables 3, 4 and 11-15 on this machine: fftconv, NumPy and SciPy.

The protocol is the paper's (appendix C.4), scaled down: batch 64 where it fits, fewer channels,
and times multiplied by 64*768 / (B H).  All calls are float32.  As in the paper, methods
transform the kernel inside the call, with two exceptions: "fftconv_ready" has the plan and the
spectrum made beforehand, and backward "numpy_saved" has the spectra of the forward call.  All
methods get the same arrays, allocate their own result, and run on one thread unless their name
ends in "_threads".  Every method is compared with the float64 oracle, row by row, before it is
timed.  Times are medians of interleaved runs, in a process that keeps its freed memory
(bench.keep_freed_memory).

    11  forward   y  = u * k              circular, L = N
    12  gated     y  = v . ((u . w) * k)  circular, L = N
    13  forward   y  = u * k              causal,   L = N/2
    14  gated     y  = v . ((u . w) * k)  causal,   L = N/2
    15  backward  du, dk from dy, u, k    circular, L = N

Writes results/speed.json.
"""

import time
from functools import partial

import bench
import fftconv
import numpy as np
import scipy.fft
import scipy.signal
from fftconv import reference
from tqdm import tqdm

# elements: elements of u in a call; least_batch: the least batch; repeats: samples of each call;
# sizes: FFT sizes.
GRIDS = {
    "quick": dict(elements=2**13, least_batch=2, repeats=1, sizes=[256, 1024]),
    "default": dict(
        elements=2**20,
        least_batch=4,
        repeats=7,
        sizes=[2**a for a in range(8, 17)] + [2**18, 2**20],
    ),
    "full": dict(elements=2**22, least_batch=8, repeats=9, sizes=[2**a for a in range(8, 23)]),
}

# Table: (gated, causal, backward).
TABLES = {
    11: (False, False, False),
    12: (True, False, False),
    13: (False, True, False),
    14: (True, True, False),
    15: (False, False, True),
}


def scaled_shape(n, elements, least_batch):
    """(B, H) with B H n near `elements`, and B = 64 as long as that fits."""
    batch = int(np.clip(elements // n, least_batch, bench.PAPER_BATCH))
    channels = int(np.clip(elements // (n * batch), 1, bench.PAPER_CHANNELS))
    return batch, channels


class Case:
    """One table at one FFT size: its arrays, its oracle and its methods."""

    def __init__(self, table, n, batch, channels, rng):
        self.table, self.n = table, n
        self.gated, self.causal, self.backward = TABLES[table]
        self.length = n // 2 if self.causal else n
        shape = (batch, channels, self.length)
        self.u = rng.standard_normal(shape, np.float32)
        self.k = rng.standard_normal((channels, self.length), np.float32)
        self.k /= np.float32(np.sqrt(self.length))  # makes y O(1)
        self.w = rng.standard_normal(shape, np.float32) if self.gated else None
        self.v = rng.standard_normal(shape, np.float32) if self.gated else None
        self.dy = rng.standard_normal(shape, np.float32) if self.backward else None
        self.how = dict(mode="causal") if self.causal else dict(mode="circular", fft_size=n)

    # ---- ours ----

    def ours(self, threads=1):
        if self.backward:
            g = fftconv.conv_backward(
                self.dy, self.u, self.k, threads=threads, needs=("u", "k"), **self.how
            )
            return g.du, g.dk
        return fftconv.conv(self.u, self.k, self.w, self.v, threads=threads, **self.how)

    def ours_ready(self):
        """Our call, with plan and spectrum made here, once."""
        plan = fftconv.Plan(self.u.shape, self.k.shape, threads=1, **self.how)
        spectrum = plan.spectrum(self.k)
        if self.backward:

            def call():
                g = plan.backward(self.dy, self.u, spectrum, needs=("u", "k"))
                return g.du, g.dk

            return call
        return partial(plan, self.u, spectrum, self.w, self.v)

    # ---- NumPy and SciPy: rfft, product, irfft ----

    def by_fft(self, rfft, irfft):
        u, n = self.u, self.n
        if self.gated:
            u = u * self.w
        kernel = rfft(self.k, n)
        rows = rfft(u, n)
        if self.backward:
            return self.gradients(rfft, irfft, rows, kernel)
        rows *= kernel
        y = irfft(rows, n)[..., : self.length]
        return y * self.v if self.gated else y

    def gradients(self, rfft, irfft, rows, kernel):
        """du: dy correlated with k; dk: dy correlated with u, summed over the batch."""
        slope = rfft(self.dy, self.n)
        dk = irfft(np.sum(slope * rows.conj(), axis=0), self.n)
        slope *= kernel.conj()
        return irfft(slope, self.n), dk

    def by_saved_fft(self):
        """NumPy's backward call, with the forward spectra kept as autograd does."""
        rows, kernel = np.fft.rfft(self.u, self.n), np.fft.rfft(self.k, self.n)
        return partial(self.gradients, np.fft.rfft, np.fft.irfft, rows, kernel)

    def by_scipy(self, workers):
        return partial(
            self.by_fft,
            partial(scipy.fft.rfft, workers=workers),
            partial(scipy.fft.irfft, workers=workers),
        )

    def by_signal(self, convolve, workers=1):
        """The causal convolution by scipy.signal's fftconvolve or oaconvolve."""
        u = self.u * self.w if self.gated else self.u
        with scipy.fft.set_workers(workers):
            y = convolve(u, self.k[None], axes=-1)[..., : self.length]
        return y * self.v if self.gated else y

    def by_torch(self, threads):
        """The forward call by PyTorch's padded rfft and irfft, as its users write it."""
        import torch

        u, k = torch.from_numpy(self.u), torch.from_numpy(self.k)
        w, v = (x if x is None else torch.from_numpy(x) for x in (self.w, self.v))
        n = self.n

        def call():
            torch.set_num_threads(threads)
            z = u if w is None else u * w
            y = torch.fft.irfft(torch.fft.rfft(z, n) * torch.fft.rfft(k, n), n)
            y = y[..., : self.length]
            return (y if v is None else y * v).numpy()

        return call

    def method(self, name):
        """A function without arguments that computes this case by the named method.

        A name that ends in "_threads" runs on all processors.
        """
        way = name.removesuffix("_threads")
        threads = bench.processors() if name != way else 1
        return {
            "fftconv": lambda: partial(self.ours, threads),
            "fftconv_ready": self.ours_ready,
            "numpy": lambda: partial(self.by_fft, np.fft.rfft, np.fft.irfft),
            "numpy_saved": self.by_saved_fft,
            "scipy": lambda: self.by_scipy(threads),
            "scipy_fftconvolve": lambda: partial(self.by_signal, scipy.signal.fftconvolve, threads),
            "scipy_oaconvolve": lambda: partial(self.by_signal, scipy.signal.oaconvolve, threads),
            "torch": lambda: self.by_torch(threads),
        }[way]()

    def methods(self):
        """{name: (function, threads)} of all methods that apply to this case."""
        names = ["fftconv", "fftconv_ready", "numpy", "scipy"]
        names += ["scipy_fftconvolve"] * self.causal
        names += ["numpy_saved"] * self.backward
        if bench.processors() > 1:
            names += ["fftconv_threads", "scipy_threads"]
        return {
            name: (self.method(name), bench.processors() if name.endswith("_threads") else 1)
            for name in names
        }

    # ---- the oracle ----

    def errors(self, methods):
        """{name: the largest error of a row against float64}; RuntimeError if it is too large."""

        def norm(x):
            return np.linalg.norm(x.astype(np.float64), axis=-1)

        if self.backward:
            g = reference.conv_backward(self.dy, self.u, self.k, **self.how)
            exact = [g.du, g.dk]
            scales = [norm(self.k) * norm(self.dy), np.sum(norm(self.dy) * norm(self.u), axis=0)]
        else:
            exact = [reference.conv(self.u, self.k, self.w, self.v, **self.how)]
            if self.gated:
                # The post-gate also multiplies the error.
                scales = [norm(self.k) * norm(self.u * self.w) * np.abs(self.v).max(axis=-1)]
            else:
                scales = [norm(self.k) * norm(self.u)]
        errors = {}
        for name, (call, _) in methods.items():
            found = call()
            found = found if self.backward else (found,)
            worst = max(map(bench.row_error, found, exact, scales))
            errors[name] = bench.check(f"table {self.table}, N = {self.n}, {name}", worst)
        return errors


def measure(table, n, grid, rng):
    """Check and time the methods of one table at one FFT size; return a row for each."""
    batch, channels = scaled_shape(n, grid["elements"], grid["least_batch"])
    case = Case(table, n, batch, channels, rng)
    methods = case.methods()
    errors = case.errors(methods)
    timing = {}
    for group in sorted({t for _, t in methods.values()}):  # one thread, then all processors
        calls = {name: f for name, (f, t) in methods.items() if t == group}
        timing |= bench.interleaved(calls, grid["repeats"], threads=group)
    scale = bench.PAPER_BATCH * bench.PAPER_CHANNELS / (batch * channels)
    return [
        {
            "table": table,
            "fft_size": n,
            "length": case.length,
            "batch": batch,
            "channels": channels,
            "method": name,
            "threads": methods[name][1],
            "error": errors[name],
            "scale": scale,
            "scaled_ms": 1e3 * scale * timing[name]["median_s"],
            "ns_per_output": 1e9 * timing[name]["median_s"] / (batch * channels * case.length),
            **timing[name],
        }
        for name in methods
    ]


def main():
    settings = bench.options(__doc__).parse_args()
    bench.keep_freed_memory()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)
    rows = []
    work = [(n, table) for n in grid["sizes"] for table in TABLES]
    for n, table in (bar := tqdm(work, desc="speed", unit="case")):
        bar.set_postfix_str(f"table {table}, N = {n}")
        rows += measure(table, n, grid, rng)
    body = {
        "dtype": "float32",
        "elements": grid["elements"],
        "repeats": grid["repeats"],
        "scaled_to": [bench.PAPER_BATCH, bench.PAPER_CHANNELS],
        "rows": rows,
    }
    print(bench.write(settings.results, "speed", settings, body, started))


if __name__ == "__main__":
    main()
