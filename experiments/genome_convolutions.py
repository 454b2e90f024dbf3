"""Long convolutions over a whole genome, as an example of real data.

The chromosome of E. coli is a ring, so its 4,938,920 bases are convolved circularly modulo
4,938,920, a length with the prime factor 569.  The one-hot rows A, C, G, T are the batch, and
Gaussian windows of 4,096 ... 4,194,304 taps are the filters.  From them follow:

    GC content             c = (G + C) / (A + C + G + T)
    GC skew, AT skew       (G - C) / (G + C), (A - T) / (A + T)
    dinucleotide skew      (XY - rc) / (XY + rc), where rc is the reverse complement
                           of XY, for the six pairs with rc other than XY
    cumulative GC skew     (G - C) * 1, with a causal filter of ones as long as the genome

Gaussian filters are checked against the float64 oracle, a box filter and the cumulative skew
against exact integer sums.  Then the circular convolution of the four rows with one window is
timed on one thread: ours, NumPy's and SciPy's.

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

# name: the genome; marks: the names of the places of the least and the greatest cumulative skew;
# low, high, step: log2 of the windows' taps; pair_taps: the window of the dinucleotides;
# lines: windows drawn as lines; timed: windows that are timed; repeats: samples of each
# timing; bins: points of a drawn curve.
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
    """rows (C, L) convolved circularly modulo L with one centred window: (C, L)."""
    batch = rows[:, None, :]  # (C, 1, L): C batch entries of one channel share the kernel
    plan = fftconv.Plan(
        batch.shape, (1, window.size), mode="circular", fft_size=rows.shape[-1], threads=threads
    )
    y = plan(batch, plan.spectrum(window[None]))[:, 0]
    return np.roll(y, -(window.size // 2), axis=-1)


def ratio(x, y):
    """(x - y) / (x + y) of two arrays of densities."""
    return (x - y) / (x + y)


def binned(track, bins):
    """The means of `bins` nearly equal stretches of a track of any length: (bins,)."""
    edges = np.linspace(0, track.size, bins + 1).astype(np.int64)
    return np.add.reduceat(track.astype(np.float64), edges[:-1]) / np.diff(edges)


def rounded(track):
    """The track as a list for JSON, with four decimals, which are finer than a pixel."""
    return [round(float(x), 4) for x in track]


def pair_rows(codes):
    """Indicators of PAIRS on the ring, (12, L) float32: for each pair XY, then its rc."""
    following = np.roll(codes, -1)
    rows = []
    for pair in PAIRS:
        for first, second in pair.split("/"):
            x, y = genome.BASES.index(first), genome.BASES.index(second)
            rows.append((codes == x) & (following == y))
    return np.asarray(rows, np.float32)


def oracle(rows, window):
    """The circular convolution in float64, not centred: (C, L)."""
    return reference.conv(rows[:, None], window[None], mode="circular", fft_size=rows.shape[-1])[
        :, 0
    ]


def box_error(rows, taps, threads):
    """The largest row error of `smooth` with a window of ones, against integer counts."""
    length = rows.shape[-1]
    total = np.cumsum(np.concatenate([rows, rows], axis=-1), axis=-1, dtype=np.int64)
    counts = total[:, length:] - total[:, length - taps : 2 * length - taps]
    exact = np.roll(counts, -(taps // 2), axis=-1).astype(np.float64)
    return bench.row_error(smooth(rows, np.ones(taps, np.float32), threads), exact, 0)


def cumulative_skew(rows, threads):
    """(the sums of G - C over s <= t, their relative error before rounding).

    Computed in float64 by a causal filter of L ones and rounded to whole numbers.  Raises
    RuntimeError if the rounded sums are not exact.
    """
    difference = (rows[2] - rows[1]).astype(np.float64)[None, None]
    ones = np.ones((1, difference.shape[-1]))
    y = fftconv.conv(difference, ones, threads=threads)[0, 0]
    exact = np.cumsum(difference[0, 0])  # exact: sums of whole numbers
    if np.any(np.rint(y) != exact):
        raise RuntimeError("cumulative skew: not the integer sums")
    scale = np.linalg.norm(ones) * np.linalg.norm(difference)
    return np.rint(y), bench.row_error(y[None], exact[None], scale)


def ring_by_fft(rows, window, rfft, irfft):
    """The circular convolution by FFTs of NumPy or SciPy.

    A linear convolution of a fast FFT length, whose end is then added to its beginning.
    """
    length, taps = rows.shape[-1], window.size
    n = scipy.fft.next_fast_len(length + taps - 1, real=True)
    spectra = rfft(rows, n)
    spectra *= rfft(window, n)
    y = irfft(spectra, n)
    y[:, : taps - 1] += y[:, length : length + taps - 1]
    return y[:, :length]


def ring_by_overlap_add(rows, window):
    """The circular convolution by SciPy's overlap-add, with blocks near the filter's length."""
    length, taps = rows.shape[-1], window.size
    y = scipy.signal.oaconvolve(rows, window[None], axes=-1)
    y[:, : taps - 1] += y[:, length:]
    return y[:, :length]


def ways(rows, window):
    """{name: function}; each function computes the same circular convolution on one thread."""
    return {
        "fftconv": lambda: fftconv.conv(
            rows[:, None], window[None], mode="circular", fft_size=rows.shape[-1], threads=1
        )[:, 0],
        "numpy": partial(ring_by_fft, rows, window, np.fft.rfft, np.fft.irfft),
        "scipy": partial(ring_by_fft, rows, window, scipy.fft.rfft, scipy.fft.irfft),
        "scipy_oaconvolve": partial(ring_by_overlap_add, rows, window),
    }


def checked_and_timed(rows, taps, repeats):
    """Check every method against the oracle; time them if repeats > 0; return result rows.

    With repeats = 0, only "fftconv" is checked.
    """
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
        # The leading strand of a bacterium has more G than C, so the cumulative skew is least
        # at the origin of replication and greatest at its terminus.
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
