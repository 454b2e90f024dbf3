"""Long convolutions over a whole genome: the real input.

The chromosome of E. coli is a ring, so its 4,938,920 bases are convolved
modulo 4,938,920, a length with a prime factor of 569.  One-hot rows A, C, G, T
are the batch; Gaussian windows of 4,096 ... 4,194,304 taps are the filters:

    GC content             c = (G + C) / (A + C + G + T)
    GC skew, AT skew       (G - C) / (G + C), (A - T) / (A + T)
    dinucleotide skew      (XY - rc) / (XY + rc), rc its reverse complement, for
                           the six pairs that are not their own
    cumulative GC skew     (G - C) * 1, a causal filter as long as the genome

Checked: Gaussian filters against the float64 oracle; box filters and the
cumulative skew against exact integer sums.  Then one circular convolution of
the four rows is timed, ours against NumPy and SciPy, one thread.

Writes results/genome.json (numbers) and results/genome_tracks.json (curves).
"""

import json
import time
from functools import partial

import bench
import fftconv
import genome
import numpy as np
import scipy.fft
import scipy.signal
from fftconv import reference
from tqdm import tqdm

# name: the genome; marks: what the least and the greatest cumulative skew are
# called; low, high, step: log2 of the windows; pair_taps: the dinucleotides'
# window; lines: windows drawn as lines; timed: windows timed; bins: points
# drawn.
GRIDS = {
    "quick": dict(
        name="lambda",
        marks=["minimum", "maximum"],
        low=8,
        high=14,
        step=2,
        pair_taps=4096,
        lines=[256, 1024, 4096],
        timed=[16384],
        repeats=1,
        bins=128,
    ),
    "default": dict(
        name="ecoli",
        marks=["origin", "terminus"],
        low=12,
        high=22,
        step=0.5,
        pair_taps=65536,
        lines=[8192, 65536, 1048576],
        timed=[4096, 4194304],
        repeats=3,
        bins=1080,
    ),
    "full": dict(
        name="ecoli",
        marks=["origin", "terminus"],
        low=12,
        high=22,
        step=0.25,
        pair_taps=65536,
        lines=[8192, 65536, 1048576],
        repeats=7,
        bins=1080,
        timed=[4096, 16384, 65536, 262144, 1048576, 4194304],
    ),
}
PAIRS = ["AA/TT", "AC/GT", "AG/CT", "CA/TG", "GA/TC", "GG/CC"]


def gaussian(taps):
    """A window of `taps` = 6 sigma taps with sum 1: (taps,) float32."""
    t = (np.arange(taps) - (taps - 1) / 2) / (taps / 6)
    window = np.exp(-t * t / 2)
    return (window / window.sum()).astype(np.float32)


def smooth(rows, window, threads):
    """rows (C, L) convolved on the ring with one window, centred: (C, L)."""
    batch = rows[:, None, :]  # C rows of one channel share the kernel
    plan = fftconv.Plan(
        batch.shape, (1, window.size), mode="circular", fft_size=rows.shape[-1], threads=threads
    )
    y = plan(batch, plan.spectrum(window[None]))[:, 0]
    return np.roll(y, -(window.size // 2), axis=-1)


def ratio(x, y):
    """(x - y) / (x + y), rows or arrays of densities."""
    return (x - y) / (x + y)


def binned(track, bins):
    """Means of `bins` equal stretches of a track of any length: (bins,)."""
    edges = np.linspace(0, track.size, bins + 1).astype(np.int64)
    return np.add.reduceat(track.astype(np.float64), edges[:-1]) / np.diff(edges)


def rounded(track):
    """For JSON: four decimals are finer than a pixel."""
    return [round(float(x), 4) for x in track]


def pair_rows(codes):
    """Indicators of PAIRS on the ring, each XY, then rc: (12, L) float32."""
    following = np.roll(codes, -1)
    rows = []
    for pair in PAIRS:
        for first, second in pair.split("/"):
            x, y = genome.BASES.index(first), genome.BASES.index(second)
            rows.append((codes == x) & (following == y))
    return np.asarray(rows, np.float32)


def oracle(rows, window):
    """The ring convolution in float64, not centred: (C, L)."""
    return reference.conv(rows[:, None], window[None], mode="circular", fft_size=rows.shape[-1])[
        :, 0
    ]


def box_error(rows, taps, threads):
    """A window of ones counts bases: against integer sums, the worst row."""
    length = rows.shape[-1]
    total = np.cumsum(np.concatenate([rows, rows], axis=-1), axis=-1, dtype=np.int64)
    counts = total[:, length:] - total[:, length - taps : 2 * length - taps]
    exact = np.roll(counts, -(taps // 2), axis=-1).astype(np.float64)
    return bench.row_error(smooth(rows, np.ones(taps, np.float32), threads), exact, 0)


def cumulative_skew(rows, threads):
    """(sum over s <= t of G - C, by a filter of L ones; its relative error).

    In float64: rounded to whole numbers it is exact, and refused if not.
    """
    difference = (rows[2] - rows[1]).astype(np.float64)[None, None]
    ones = np.ones((1, difference.shape[-1]))
    y = fftconv.conv(difference, ones, threads=threads)[0, 0]
    exact = np.cumsum(difference[0, 0])  # whole numbers: no rounding
    if np.any(np.rint(y) != exact):
        raise RuntimeError("cumulative skew: not the integer sums")
    scale = np.linalg.norm(ones) * np.linalg.norm(difference)
    return np.rint(y), bench.row_error(y[None], exact[None], scale)


def ring_by_fft(rows, window, rfft, irfft):
    """NumPy's or SciPy's way: a fast length, then folded onto the ring."""
    length, taps = rows.shape[-1], window.size
    n = scipy.fft.next_fast_len(length + taps - 1, real=True)
    spectra = rfft(rows, n)
    spectra *= rfft(window, n)
    y = irfft(spectra, n)
    y[:, : taps - 1] += y[:, length : length + taps - 1]
    return y[:, :length]


def ring_by_overlap_add(rows, window):
    """SciPy's overlap-add: blocks near the filter's length."""
    length, taps = rows.shape[-1], window.size
    y = scipy.signal.oaconvolve(rows, window[None], axes=-1)
    y[:, : taps - 1] += y[:, length:]
    return y[:, :length]


def ways(rows, window):
    """name: function, each the same ring convolution on one thread."""
    return {
        "fftconv": lambda: fftconv.conv(
            rows[:, None], window[None], mode="circular", fft_size=rows.shape[-1], threads=1
        )[:, 0],
        "numpy": partial(ring_by_fft, rows, window, np.fft.rfft, np.fft.irfft),
        "scipy": partial(ring_by_fft, rows, window, scipy.fft.rfft, scipy.fft.irfft),
        "scipy_oaconvolve": partial(ring_by_overlap_add, rows, window),
    }


def checked_and_timed(rows, taps, repeats):
    """Each way against the oracle; rows of results, timed where repeats > 0."""
    window = gaussian(taps)
    exact = oracle(rows, window)
    calls = ways(rows, window)
    if not repeats:
        calls = {"fftconv": calls["fftconv"]}
    found = [
        {
            "taps": taps,
            "method": name,
            "threads": 1,
            "error": bench.check(f"{taps} taps, {name}", bench.row_error(call(), exact, 0)),
        }
        for name, call in calls.items()
    ]
    if repeats:
        timing = bench.interleaved(calls, repeats)
        for row in found:
            row |= timing[row["method"]]
            row["ns_per_output"] = 1e9 * row["median_s"] / rows.size
    return found


def main():
    settings = bench.options(__doc__).parse_args()
    bench.keep_freed_memory()
    started = time.perf_counter()
    grid = GRIDS[settings.grid]
    threads = bench.processors()
    codes = genome.load(grid["name"])
    rows = genome.one_hot(codes)
    steps = np.arange(grid["low"], grid["high"] + 1e-9, grid["step"])
    windows = [int(round(2**a)) for a in steps]
    checked = sorted({windows[0], windows[len(windows) // 2], windows[-1], *grid["timed"]})
    lines = [taps for taps in grid["lines"] if taps in windows]
    bins = grid["bins"]

    bar = tqdm(total=len(windows) + len(checked) + 3, desc="genome", unit="step")

    def step(text):
        bar.update()
        bar.set_postfix_str(text)

    curves = {"windows": windows, "gc_skew": [], "lines": lines, "gc": [], "at_skew": []}
    for taps in windows:
        a, c, g, t = smooth(rows, gaussian(taps), threads)
        curves["gc_skew"].append(rounded(binned(ratio(g, c), bins)))
        if taps in lines:
            curves["gc"].append(rounded(binned((g + c) / (a + c + g + t), bins)))
            curves["at_skew"].append(rounded(binned(ratio(a, t), bins)))
        step(f"{taps} taps")

    timings, errors = [], []
    for taps in checked:
        found = checked_and_timed(rows, taps, grid["repeats"] * (taps in grid["timed"]))
        errors.append(
            {
                "filter": "Gaussian",
                "taps": taps,
                "against": "float64 oracle",
                "error": found[0]["error"],
            }
        )
        timings += found if len(found) > 1 else []
        step(f"{taps} taps against the oracle")

    taps = windows[-1]
    errors.append(
        {
            "filter": "box",
            "taps": taps,
            "against": "integer sums",
            "error": bench.check("box", box_error(rows, taps, threads)),
        }
    )
    step("box")

    total, error = cumulative_skew(rows, threads)
    errors.append(
        {
            "filter": "step",
            "taps": int(codes.size),
            "against": "integer sums, in float64",
            "error": bench.check("cumulative skew", error, 1e-13),
        }
    )
    curves["cumulative_skew"] = rounded(binned(total, bins))
    step("cumulative skew")

    pairs = smooth(pair_rows(codes), gaussian(grid["pair_taps"]), threads)
    curves["pairs"] = PAIRS
    curves["pair_taps"] = grid["pair_taps"]
    curves["pair_skew"] = [
        rounded(binned(ratio(pairs[2 * i], pairs[2 * i + 1]), bins)) for i in range(len(PAIRS))
    ]
    del pairs
    step("dinucleotides")

    bar.close()

    body = {
        "genome": genome.TITLES[grid["name"]],
        "bases": int(codes.size),
        "counts": dict(zip(genome.BASES, np.bincount(codes).tolist())),
        # A bacterium's leading strand holds more G than C: the sum is least at
        # the origin of replication and greatest at its terminus.
        "marks": dict(zip(grid["marks"], (int(np.argmin(total)), int(np.argmax(total))))),
        "threads_of_curves": threads,
        "errors": errors,
        "timings": timings,
    }
    print(bench.write(settings.results, "genome", settings, body, started))
    tracks = {"genome": body["genome"], "bases": body["bases"], "bins": bins, **curves}
    (settings.results / "genome_tracks.json").write_text(json.dumps(tracks) + "\n")


if __name__ == "__main__":
    main()
