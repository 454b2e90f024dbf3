"""Frequency-sparse convolutions: Table 9's six patterns, asked and really had.

    forward   y  = Re IDFT(DFT(u) . mask . DFT(k))     circular modulo N
    backward  du, dk from dy, u, k

A pattern (a, b, c, d) on N = N1 N2 N3 N4 removes that many of the highest values
of each digit of the frequency index, in stage order, m = i1 + N1 (i2 + N2 (i3 +
N3 i4)), or in natural order, m = ((i1 N2 + i2) N3 + i3) N4 + i4.  The paper's
are on 32 x 32 x 32 x 64, N = 2M; on a smaller shape every number is scaled by
the same factor as its digit, so that the fractions stay.

float32, one thread, plan and spectrum made beforehand, as a pretrained filter's
are; the same u, k and dy for all.  1 x is our own circular convolution of the
same N without a pattern, "dense".  Each result is compared with the formula in
float64 before it is timed; times are medians of interleaved runs, in a process
that keeps its freed memory.

    asked     the fraction of N bins outside mask, as the paper counts
    kept      the fraction with a weight (mask[m] + mask[-m]) / 2 other than
              zero: on a real row a bin acts with its mirror, so a bin can go
              only where both are removed
    computed  of the points that stages and product visit without a pattern, the
              part that they still do
    flops     counted by the plan, of a forward call

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

# Elements of u per call; repeats; shapes.
GRIDS = {
    "quick": dict(elements=2**14, repeats=1, shapes=[(8, 8, 8, 16)]),
    "default": dict(elements=2**21, repeats=9, shapes=[(16, 16, 16, 32), PAPER_SHAPE]),
    "full": dict(elements=2**22, repeats=15, shapes=[(8, 8, 8, 16), (16, 16, 16, 32), PAPER_SHAPE]),
}


def scaled_drop(drop, shape):
    """The paper's (a, b, c, d) on another shape, the fractions kept."""
    scaled = []
    for removed, n, paper_n in zip(drop, shape, PAPER_SHAPE):
        whole, rest = divmod(removed * n, paper_n)
        if rest:
            raise ValueError(f"{removed} of {paper_n} has no like among {n}")
        scaled.append(whole)
    return tuple(scaled)


class Case:
    """One shape: its arrays, their spectra in float64, the formula."""

    def __init__(self, shape, elements, rng):
        self.shape, self.n = shape, math.prod(shape)
        channels = max(1, elements // self.n)
        rows = (1, channels, self.n)
        self.u = rng.standard_normal(rows, np.float32)
        self.dy = rng.standard_normal(rows, np.float32)
        self.k = rng.standard_normal((channels, self.n), np.float32)
        self.k /= np.float32(np.sqrt(self.n))  # y is then O(1)
        self.spectra = [np.fft.fft(x.astype(np.float64)) for x in (self.u, self.k, self.dy)]

    def plan(self, pattern):
        return fftconv.Plan(
            self.u.shape, self.k.shape, mode="circular", fft_size=self.n, pattern=pattern, threads=1
        )

    def methods(self, plan):
        """direction: function of no arguments."""
        spectrum = plan.spectrum(self.k)

        def backward():
            g = plan.backward(self.dy, self.u, spectrum, needs=("u", "k"))
            return g.du, g.dk

        return {"forward": partial(plan, self.u, spectrum), "backward": backward}

    def error(self, direction, mask, found):
        """The worst row's error against the formula, in complex float64.

        y is linear in u and in k, each by a real matrix: the gradients are
        its transposes, the conjugates of what multiplies the other's DFT.
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
    """(order or "dense", the paper's drop or None, Pattern or None), in turn."""
    yield "dense", None, None
    for order in ORDERS:
        for drop in PAPER_DROPS:
            scaled = scaled_drop(drop, shape)
            yield order, drop, fftconv.Pattern(shape, scaled, order=order)


def measure(shape, grid, rng):
    """The rows of one shape: every pattern, forward and backward."""
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
