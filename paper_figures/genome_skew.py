"""Draw the figure and the timings of a whole genome filtered by long convolutions."""

import numpy as np
import style
from matplotlib.colors import LinearSegmentedColormap
from style import METHODS, plt

# Blue: more C (or more of the second pair of letters); white: equal; orange: more G.
SKEW = LinearSegmentedColormap.from_list(
    "skew", ["#08306b", style.BLUE, "#a9cfe5", "#f7f7f7", "#f6cf8d", "#d98200", "#6b3d00"]
)
MINUS = "\N{MINUS SIGN}"
LINES = ["#b9c6d3", "#5b8db8", "#08306b"]
HOLE = 0.34  # radius of the empty middle of the ring, whose outer radius is 1


def angle_of(place, bases):
    """Return the angle of a base, in radians, clockwise from the top."""
    return 2 * np.pi * place / bases


def unit_of(bases):
    """Return (the number of bases in a unit for labels, the name of the unit)."""
    return (1e6, "Mb") if bases > 1e6 else (1e3, "kb")


def ring(axis, tracks, marks):
    """Draw the GC skew around the chromosome, with shorter windows further out."""
    windows, bases = tracks["windows"], tracks["bases"]
    skew = np.asarray(tracks["gc_skew"])[::-1]  # the longest window is innermost
    levels = len(windows)
    radius = np.linspace(HOLE, 1, levels + 1)
    angle = np.linspace(0, 2 * np.pi, tracks["bins"] + 1)
    # Longer windows average more, so their skews are smaller.  Each ring is drawn relative to its
    # own largest value; otherwise the inner rings would be white.
    relative = skew / np.abs(skew).max(axis=1, keepdims=True)
    axis.grid(False)
    axis.pcolormesh(angle, radius, relative, cmap=SKEW, vmin=-1, vmax=1, rasterized=True)
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(-1)
    axis.set_ylim(0, 1.0)
    axis.set_yticks([])
    axis.spines["polar"].set_visible(False)
    unit, name = unit_of(bases)
    step = 10.0 ** np.floor(np.log10(bases))
    places = np.arange(0, bases, step)
    axis.set_xticks(angle_of(places, bases), [f"{p / unit:g} {name}" for p in places])
    axis.tick_params(pad=1)
    for label, place in marks.items():
        axis.plot([angle_of(place, bases)] * 2, [HOLE, 1.0], color="black", lw=1.1, ls=(0, (4, 3)))
        axis.annotate(
            label,
            (angle_of(place, bases), 0.7 * HOLE),
            ha="center",
            va="center",
            fontsize=8.5,
            weight="bold",
        )
    axis.annotate(
        f"inner ring\n{windows[-1]:,} taps\nouter ring\n{windows[0]:,} taps",
        (0, 0),
        ha="center",
        va="center",
        fontsize=7.5,
        color="#444444",
    )


def polar_panel(part, tracks, marks):
    """Draw the ring and its colour bar."""
    axis = part.add_subplot(projection="polar")
    ring(axis, tracks, marks)
    axis.set_title(
        f"GC skew (G {MINUS} C)/(G + C) around the chromosome,\n"
        f"{len(tracks['windows'])} Gaussian windows",
        pad=16,
    )
    bar = part.colorbar(
        axis.collections[0],
        ax=axis,
        orientation="horizontal",
        shrink=0.55,
        aspect=30,
        pad=0.03,
        ticks=[-1, 0, 1],
    )
    bar.ax.set_xticklabels(["more C", "0", "more G"])
    bar.set_label("skew, in units of each ring's largest")
    bar.outline.set_visible(False)


def line_panels(right, tracks, marks):
    """Draw the GC content, the skews and the cumulative skew along the chromosome."""
    bases = tracks["bases"]
    unit, name = unit_of(bases)
    x = places_of(tracks) / unit
    axes = right.subplots(5, 1, sharex=True, gridspec_kw={"height_ratios": [1, 1, 1, 1, 1.5]})
    middle = [np.asarray(tracks["gc_skew"][tracks["windows"].index(t)]) for t in tracks["lines"]]
    panels = [
        ("GC content (%)", [100 * np.asarray(c) for c in tracks["gc"]]),
        ("GC skew (%)", [100 * c for c in middle]),
        ("AT skew (%)", [100 * np.asarray(c) for c in tracks["at_skew"]]),
    ]
    for axis, (label, curves) in zip(axes, panels):
        for taps, colour, width, curve in zip(tracks["lines"], LINES, (0.8, 1.3, 2.0), curves):
            axis.plot(x, curve, color=colour, lw=width, label=f"{taps:,} taps")
        axis.set_title(label)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3, borderaxespad=0)
    axes[3].plot(x, np.asarray(tracks["cumulative_skew"]) / 1e3, color=style.RED)
    axes[3].set_title(f"Cumulative G {MINUS} C (thousands of bases)")
    for axis in axes[:4]:
        for where in marks.values():
            axis.axvline(where / unit, color="black", lw=0.9, ls=(0, (4, 3)))
    for (label, where), height in zip(marks.items(), (0.86, 0.06)):
        axes[3].annotate(
            f" {label}, {where:,} ",
            (where / unit, height),
            fontsize=8.5,
            xycoords=("data", "axes fraction"),
            ha="left" if where < bases / 2 else "right",
        )
    pairs = 100 * np.asarray(tracks["pair_skew"])
    limit = np.percentile(np.abs(pairs), 99.5)
    image = axes[4].imshow(
        pairs,
        aspect="auto",
        cmap=SKEW,
        vmin=-limit,
        vmax=limit,
        extent=(0, bases / unit, len(pairs) - 0.5, -0.5),
        interpolation="nearest",
    )
    axes[4].set_yticks(range(len(pairs)), tracks["pairs"], family="monospace")
    axes[4].grid(False)
    axes[4].set_title(f"Dinucleotide skew (%), {tracks['pair_taps']:,} taps")
    axes[4].set_xlabel(f"Position on the chromosome ({name})")
    axes[4].set_xlim(0, bases / unit)
    bar = right.colorbar(image, ax=axes[4], pad=0.01, aspect=12)
    bar.outline.set_visible(False)


def places_of(tracks):
    """Return the position of the middle of each bin, in bases."""
    return (np.arange(tracks["bins"]) + 0.5) * tracks["bases"] / tracks["bins"]


def caption_of(record):
    """Return the caption: what was convolved, what is marked, and the errors measured."""
    bases = f"{record['bases']:,}"
    counts = ", ".join(f"{k} {n:,}" for k, n in record["counts"].items())
    marks = ", ".join(f"{k} at base {n:,}" for k, n in record["marks"].items())
    checks = "; ".join(
        f"{e['filter']}, {e['taps']:,} taps, against {e['against']}: {e['error']:.1e}"
        for e in record["errors"]
    )
    return f"""{bases} bases ({counts}) as four one-hot rows, convolved modulo
        {bases} with Gaussian windows 6 sigma long. Dashed: where the cumulative
        skew is least and greatest, {marks}; on a bacterial chromosome the skew
        of a strand changes sign where replication starts and where it ends.
        Relative error of the worst row: {checks}."""


def drawn(tracks):
    """Return (columns, rows) with the numbers of every curve in the figure, one row per bin."""
    columns = [("position", "Position (base)"), ("cumulative_skew", "Cumulative G - C")]
    columns += [(f"gc_skew_{t}", f"GC skew, {t:,} taps") for t in tracks["windows"]]
    columns += [
        (f"{kind}_{t}", f"{words}, {t:,} taps")
        for kind, words in (("gc", "GC content"), ("at_skew", "AT skew"))
        for t in tracks["lines"]
    ]
    columns += [(f"pair_{p}", f"{p} skew") for p in tracks["pairs"]]
    series = [
        np.round(places_of(tracks), 1),
        tracks["cumulative_skew"],
        *tracks["gc_skew"],
        *tracks["gc"],
        *tracks["at_skew"],
        *tracks["pair_skew"],
    ]
    rows = [dict(zip((key for key, _ in columns), map(float, values))) for values in zip(*series)]
    return columns, rows


TIMING_TEXT = """Four one-hot rows of {bases:,} bases, one Gaussian window,
circular modulo {bases:,}, float32, one thread, the window's transform included.
Medians of interleaved runs, each method compared with the float64 oracle first.
NumPy and SciPy use the next fast length and fold the result onto the ring;
oaconvolve is SciPy's overlap-add."""


def draw(results, out):
    """Draw the genome's figure and timings from genome.json and genome_tracks.json."""
    record = style.read(results, "genome")
    tracks = style.read(results, "genome_tracks")
    figure = plt.figure(figsize=(14, 8.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.02, 1])
    polar_panel(left, tracks, record["marks"])
    line_panels(right, tracks, record["marks"])
    figure.suptitle(
        f"{record['genome']}: {record['bases']:,} bases through filters of up "
        f"to {tracks['windows'][-1]:,} taps",
        fontsize=12,
    )
    style.save_figure(
        figure,
        out,
        "genome",
        "Long convolutions over a whole genome",
        caption_of(record),
        *drawn(tracks),
        record,
        f"""Left: {len(tracks["windows"])} rings around the chromosome, from short windows outside
        to long ones inside, in which the skew of G against C turns from one colour to the other at
        the two dashed marks, {" and ".join(record["marks"])}. Right: along the chromosome, GC
        content, GC and AT skew, the cumulative skew, which has its least and its greatest value at
        the marks, and a map of dinucleotide skews.""",
    )
    timings = [
        {
            "taps": r["taps"],
            "method": METHODS[r["method"]][0],
            "seconds": r["median_s"],
            "ns_per_output": r["ns_per_output"],
            "error": r["error"],
            "clock": r["clock"],
        }
        for r in record["timings"]
    ]
    style.save_table(
        out,
        "genome_timing",
        "The genome's convolution, timed",
        TIMING_TEXT.format(bases=record["bases"]),
        [
            ("taps", "Taps"),
            ("method", "Method"),
            ("seconds", "Time (s)"),
            ("ns_per_output", "ns per output"),
            ("error", "Error"),
            ("clock", "Clock"),
        ],
        timings,
        record,
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
