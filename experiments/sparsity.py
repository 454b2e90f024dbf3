"""Measures frequency-sparse convolutions: the six patterns of the paper's Table 9.

    forward   y  = Re IDFT(DFT(u) . mask . DFT(k))     circular modulo N
    backward  du, dk from dy, u, k

A pattern (a, b, c, d) on N = N1 N2 N3 N4 removes that many of the highest values of each digit
of the frequency index m.  The digits follow from m in stage order, m = i1 + N1 (i2 + N2 (i3 +
N3 i4)), or in natural order, m = ((i1 N2 + i2) N3 + i3) N4 + i4.  The paper's patterns belong to
32 x 32 x 32 x 64, N = 2M.  On a smaller shape each number is scaled by the same factor as its
digit, so that the removed fractions stay the same.

All calls are float32 on one thread, with the same u, k and dy, and with plan and spectrum made
beforehand, as for a pretrained filter.  The baseline (1 x) is "dense", our own circular
convolution of the same N without a pattern.  Each result is compared with the formula in
float64 before it is timed.  Times are medians of interleaved runs, in a process that keeps its
freed memory.

    asked     the fraction of the N bins that the mask removes, as the paper counts
    kept      the fraction of the bins with a nonzero weight (mask[m] + mask[-m]) / 2:
              in a real row, bins m and -m act together, so a bin can be left out only
              if both are removed
    computed  the number of points that stages and product visit, relative to that
              without a pattern
    flops     of a forward call, as the plan counts them

Writes results/sparsity.json.
"""

import math
import time
from functools import partial

import bench
import fftconv
import numpy as np
from tqdm import tqdm

PAPER_SHAPE = (32, 32, 32, 64)
PAPER_DROPS = [
    (0, 0, 0, 0),
    (16, 0, 0, 0),
    (16, 16, 0, 0),
    (16, 16, 4, 4),
    (16, 16, 8, 8),
    (16, 16, 16, 16),
]
ORDERS = ("stage", "natural")

# elements: elements of u in a call; repeats: samples of each call; shapes: the digits N_i.
GRIDS = {
    "quick": dict(elements=2**14, repeats=1, shapes=[(8, 8, 8, 16)]),
    "default": dict(elements=2**21, repeats=9, shapes=[(16, 16, 16, 32), PAPER_SHAPE]),
    "full": dict(elements=2**22, repeats=15, shapes=[(8, 8, 8, 16), (16, 16, 16, 32), PAPER_SHAPE]),
}


def scaled_drop(drop, shape):
    """The paper's (a, b, c, d) on another shape, with the same removed fractions.

    Raises ValueError if a fraction of the shape's digit is not a whole number.
    """
    scaled = []
    for removed, n, paper_n in zip(drop, shape, PAPER_SHAPE):
        whole, rest = divmod(removed * n, paper_n)
        if rest:
            raise ValueError(f"{removed} of {paper_n} has no like among {n}")
        scaled.append(whole)
    return tuple(scaled)


class Case:
    """One shape: its arrays, their float64 spectra, and the formula as an oracle."""

    def __init__(self, shape, elements, rng):
        self.shape, self.n = shape, math.prod(shape)
        channels = max(1, elements // self.n)
        rows = (1, channels, self.n)
        self.u = rng.standard_normal(rows, np.float32)
        self.dy = rng.standard_normal(rows, np.float32)
        self.k = rng.standard_normal((channels, self.n), np.float32)
        self.k /= np.float32(np.sqrt(self.n))  # makes y O(1)
        self.spectra = [np.fft.fft(x.astype(np.float64)) for x in (self.u, self.k, self.dy)]

    def plan(self, pattern):
        return fftconv.Plan(
            self.u.shape, self.k.shape, mode="circular", fft_size=self.n, pattern=pattern, threads=1
        )

    def methods(self, plan):
        """{direction: function without arguments}, on a spectrum made here."""
        spectrum = plan.spectrum(self.k)

        def backward():
            g = plan.backward(self.dy, self.u, spectrum, needs=("u", "k"))
            return g.du, g.dk

        return {"forward": partial(plan, self.u, spectrum), "backward": backward}

    def error(self, direction, mask, found):
        """The largest error of a row against the formula in complex128.

        y is linear in u, as a real matrix times u, and likewise in k.  A gradient is the
        transposed matrix times dy; for DFTs that means multiplying DFT(dy) by the
        conjugate factor:

            du = Re IDFT(DFT(dy) . conj(mask . DFT(k)))
            dk = Re IDFT(DFT(dy) . conj(mask . DFT(u))), summed over the batch
        """

        def real(spectrum):
            return np.fft.ifft(spectrum).real

        def norm(x):
            return np.linalg.norm(x.astype(np.float64), axis=-1)

        u, k, dy = self.spectra
        if direction == "forward":
            wanted = [(found, real(u * mask * k), norm(self.u) * norm(self.k))]
        else:
            du, dk = found
            wanted = [
                (du, real(dy * (mask * k).conj()), norm(self.dy) * norm(self.k)),
                (
                    dk,
                    real(dy * (mask * u).conj()).sum(axis=0),
                    np.sum(norm(self.dy) * norm(self.u), axis=0),
                ),
            ]
        return max(bench.row_error(*one) for one in wanted)


def patterns(shape):
    """Yield (order or "dense", the paper's drop or None, Pattern or None)."""
    yield "dense", None, None
    for order in ORDERS:
        for drop in PAPER_DROPS:
            scaled = scaled_drop(drop, shape)
            yield order, drop, fftconv.Pattern(shape, scaled, order=order)


def measure(shape, grid, rng):
    """The rows of one shape: all patterns, forward and backward."""
    case = Case(shape, grid["elements"], rng)
    calls, rows = {}, []
    for order, drop, pattern in patterns(shape):
        plan = case.plan(pattern)
        mask = 1.0 if pattern is None else pattern.mask(case.n)
        for direction, call in case.methods(plan).items():
            name = f"{shape}, {order} {drop}, {direction}"
            error = bench.check(name, case.error(direction, mask, call()))
            calls[len(rows)] = call
            rows.append(
                {
                    "fft_size": case.n,
                    "shape": list(shape),
                    "batch": 1,
                    "channels": case.u.shape[1],
                    "order": order,
                    "paper_drop": drop,
                    "drop": drop and scaled_drop(drop, shape),
                    "direction": direction,
                    "asked": (0.0 if pattern is None else pattern.asked(case.n)),
                    "kept": plan.kept,
                    "computed": plan.computed,
                    "flops_per_output": plan.counters.flops / case.u.size,
                    "error": error,
                }
            )
    timing = bench.interleaved(calls, grid["repeats"])
    for i, row in enumerate(rows):
        row["ns_per_output"] = 1e9 * timing[i]["median_s"] / case.u.size
        row |= timing[i]
    return rows


def main():
    settings = bench.options(__doc__).parse_args()
    bench.keep_freed_memory()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)
    rows = []
    for shape in (bar := tqdm(grid["shapes"], desc="sparsity", unit="shape")):
        bar.set_postfix_str(" x ".join(map(str, shape)))
        rows += measure(shape, grid, rng)
    body = {
        "dtype": "float32",
        "threads": 1,
        "elements": grid["elements"],
        "repeats": grid["repeats"],
        "rows": rows,
    }
    print(bench.write(settings.results, "sparsity", settings, body, started))


if __name__ == "__main__":
    main()
