"""A whole genome through long convolutions: the picture, and its timing table."""
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

import style
from style import METHODS, plt

# From more C (or the second letter pair) to more G: blue, white, orange.
SKEW = LinearSegmentedColormap.from_list(
    "skew", ["#08306b", style.BLUE, "#a9cfe5", "#f7f7f7", "#f6cf8d", "#d98200", "#6b3d00"])
LINES = ["#b9c6d3", "#5b8db8", "#08306b"]
POLAR_HOLE = 0.75  # radius of the empty middle, in octaves of window length... see ring()


def degrees(place, bases):
    return 2 * np.pi * place / bases


def ring(axis, tracks, marks):
    """GC skew around the chromosome; outwards, ever shorter windows."""
    windows, bases = tracks["windows"], tracks["bases"]
    skew = np.asarray(tracks["gc_skew"])[::-1]  # longest window innermost
    levels = len(windows)
    radius = np.linspace(0.34, 1, levels + 1)
    angle = np.linspace(0, 2 * np.pi, tracks["bins"] + 1)
    # A window's skew shrinks as it averages: each ring is drawn in units of its
    # own largest value, or the inner ones would be white.
    relative = skew / np.abs(skew).max(axis=1, keepdims=True)
    axis.grid(False)
    axis.pcolormesh(angle, radius, relative, cmap=SKEW, vmin=-1, vmax=1, rasterized=True)
    axis.set_theta_zero_location("N")
    axis.set_theta_direction(-1)
    axis.set_ylim(0, 1.0)
    axis.set_yticks([])
    axis.spines["polar"].set_visible(False)
    step, unit, name = (1e6, 1e6, "Mb") if bases > 1e6 else (1e4, 1e3, "kb")
    places = np.arange(0, bases, step)
    axis.set_xticks(degrees(places, bases), [f"{p / unit:g} {name}" for p in places])
    axis.tick_params(pad=1)
    for label, place in marks.items():
        axis.plot([degrees(place, bases)] * 2, [0.34, 1.0], color="black", lw=1.1,
                  ls=(0, (4, 3)))
        axis.annotate(label, (degrees(place, bases), 0.23), ha="center", va="center",
                      fontsize=8.5, weight="bold")
    axis.annotate(f"inner ring\n{windows[-1]:,} taps\nouter ring\n{windows[0]:,} taps",
                  (0, 0), ha="center", va="center", fontsize=7.5, color="#444444")
    return relative


def draw(results, out):
    """The genome's picture and timings from results/genome.json, genome_tracks.json."""
    record = style.read(results, "genome")
    tracks = style.read(results, "genome_tracks")
    bases, bins = record["bases"], tracks["bins"]
    unit, name = (1e6, "Mb") if bases > 1e6 else (1e3, "kb")
    place = (np.arange(bins) + 0.5) * bases / bins
    marks = {"origin": record["cumulative_minimum"], "terminus": record["cumulative_maximum"]}

    figure = plt.figure(figsize=(14, 8.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.02, 1])
    polar = left.add_subplot(projection="polar")
    relative = ring(polar, tracks, marks)
    polar.set_title(f"GC skew (G \N{MINUS SIGN} C)/(G + C) around the chromosome,\n"
                    f"{len(tracks['windows'])} Gaussian windows", pad=16)
    bar = left.colorbar(polar.collections[0], ax=polar, orientation="horizontal",
                        shrink=0.55, aspect=30, pad=0.03, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["more C", "0", "more G"])
    bar.set_label("skew, in units of each ring's largest")
    bar.outline.set_visible(False)

    axes = right.subplots(5, 1, sharex=True,
                          gridspec_kw={"height_ratios": [1, 1, 1, 1, 1.5]})
    x = place / unit
    middle = [np.asarray(tracks["gc_skew"][tracks["windows"].index(t)])
              for t in tracks["lines"]]
    panels = [("GC content (%)", [100 * np.asarray(c) for c in tracks["gc"]]),
              ("GC skew (%)", [100 * c for c in middle]),
              ("AT skew (%)", [100 * np.asarray(c) for c in tracks["at_skew"]])]
    for axis, (label, curves) in zip(axes, panels):
        for taps, colour, width, curve in zip(tracks["lines"], LINES, (0.8, 1.3, 2.0), curves):
            axis.plot(x, curve, color=colour, lw=width, label=f"{taps:,} taps")
        axis.set_title(label)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3, borderaxespad=0)
    axes[3].plot(x, np.asarray(tracks["cumulative_skew"]) / 1e3, color=style.RED)
    axes[3].set_title("Cumulative G \N{MINUS SIGN} C (thousands of bases)")
    for axis in axes[:4]:
        for where in marks.values():
            axis.axvline(where / unit, color="black", lw=0.9, ls=(0, (4, 3)))
    for label, where in marks.items():
        axes[3].annotate(f" {label}, {where:,}", (where / unit, 0.5),
                         xycoords=("data", "axes fraction"), fontsize=8.5)
    pairs = 100 * np.asarray(tracks["pair_skew"])
    limit = np.percentile(np.abs(pairs), 99.5)
    image = axes[4].imshow(pairs, aspect="auto", cmap=SKEW, vmin=-limit, vmax=limit,
                           extent=(0, bases / unit, len(pairs) - 0.5, -0.5),
                           interpolation="nearest")
    axes[4].set_yticks(range(len(pairs)), tracks["pairs"], family="monospace")
    axes[4].grid(False)
    axes[4].set_title(f"Dinucleotide skew (%), {tracks['pair_taps']:,} taps")
    axes[4].set_xlabel(f"Position on the chromosome ({name})")
    axes[4].set_xlim(0, bases / unit)
    right.colorbar(image, ax=axes[4], pad=0.01, aspect=12).outline.set_visible(False)
    figure.suptitle(f"{record['genome']}: {bases:,} bases through filters of up to "
                    f"{tracks['windows'][-1]:,} taps", fontsize=12)

    counts = record["counts"]
    caption = (
        f"{bases:,} bases (A {counts['A']:,}, C {counts['C']:,}, G {counts['G']:,}, "
        f"T {counts['T']:,}) as four one-hot rows, convolved modulo {bases:,} with Gaussian "
        f"windows (6 sigma long). The skew of the strand changes sign where replication starts "
        f"(cumulative minimum, base {marks['origin']:,}) and where it ends (maximum, base "
        f"{marks['terminus']:,}). Checks: " + "; ".join(
            f"{e['filter']}, {e['taps']:,} taps, against {e['against']}: {e['error']:.1e}"
            for e in record["errors"]) + " (relative error of the worst row).")
    columns = [("position", "Position (base)"), ("cumulative_skew", "Cumulative G - C")]
    columns += [(f"gc_skew_{t}", f"GC skew, {t:,} taps") for t in tracks["windows"]]
    columns += [(f"{kind}_{t}", f"{words}, {t:,} taps") for kind, words in
                (("gc", "GC content"), ("at_skew", "AT skew")) for t in tracks["lines"]]
    columns += [(f"pair_{p}", f"{p} skew") for p in tracks["pairs"]]
    series = [np.round(place, 1), tracks["cumulative_skew"], *tracks["gc_skew"],
              *tracks["gc"], *tracks["at_skew"], *tracks["pair_skew"]]
    rows = [dict(zip((key for key, _ in columns), map(float, values)))
            for values in zip(*series)]
    style.save_figure(figure, out, "genome", "Long convolutions over a whole genome",
                      caption, columns, rows, record)

    timings = [{"taps": r["taps"], "method": METHODS[r["method"]][0],
                "seconds": r["median_s"], "ns_per_output": r["ns_per_output"],
                "error": r["error"]} for r in record["timings"]]
    style.save_table(
        out, "genome_timing", "The genome's convolution, timed",
        f"Four one-hot rows of {bases:,} bases, one Gaussian window, circular modulo {bases:,}, "
        "float32, one thread, the window's transform included. Medians of interleaved runs, "
        "each method compared with the float64 oracle first. NumPy and SciPy use the next fast "
        "length and fold the result onto the ring; oaconvolve is SciPy's overlap-add.",
        [("taps", "Taps"), ("method", "Method"), ("seconds", "Time (s)"),
         ("ns_per_output", "ns per output"), ("error", "Error")], timings, record)
    return figure


if __name__ == "__main__":
    style.main(draw)
