"""Draw a CPU version of flash-fft-conv's table of short depthwise convolutions."""

import csv

import style
from style import METHODS, plt

TEXT = """All processors, medians of interleaved runs, every result compared with
the float64 oracle before: milliseconds, scaled from the batch run to B = 16.
'Copy' is x read and y written once, on as many threads or on one, whichever is
faster: no convolution can take less. NumPy: one thread, float32, a
multiplication and an addition for each tap. H100: as printed in flash-fft-conv's
README, for BLH and K = 5."""
BATCH = 16  # the batch size in flash-fft-conv's README


def printed():
    """Return {(L, D): the row of that shape in flash-fft-conv's README}."""
    with open(style.PAPER / "short.csv", newline="") as file:
        return {
            (int(r["length"]), int(r["channels"])): {
                k: float(r[k]) for k in ("torch_ms", "flash_ms", "speedup")
            }
            for r in csv.DictReader(file)
        }


def rows_of(record):
    """Return one row for each shape, number of taps, dtype and layout."""
    cases, h100 = {}, printed()
    for row in record["rows"]:
        key = tuple(row[k] for k in ("length", "channels", "taps", "dtype", "layout"))
        cases.setdefault(key, {})[row["method"]] = row
    rows = []
    for (length, channels, taps, dtype, layout), found in cases.items():
        ours = found["fftconv"]
        scale = 1e3 * BATCH / ours["batch"]
        row = {
            "length": length,
            "channels": channels,
            "taps": taps,
            "layout": layout,
            "dtype": dtype,
            "run": ours["batch"],
            **{m: scale * r["median_s"] for m, r in found.items()},
            "over_copy": ours["median_s"] / found["copy"]["median_s"],
            "error": ours["error"],
        }
        if "numpy" in found:
            row["speedup"] = found["numpy"]["median_s"] / ours["median_s"]
        if layout == "BLH" and taps == 5 and (length, channels) in h100:
            row |= {f"h100_{k}": v for k, v in h100[length, channels].items()}
        rows.append(row)
    return rows


COLUMNS = [
    ("length", "L"),
    ("channels", "D"),
    ("taps", "K"),
    ("layout", "Layout"),
    ("dtype", "Type"),
    ("run", "B run"),
    ("numpy", "NumPy (ms)"),
    ("fftconv", "libfftconv (ms)"),
    ("copy", "Copy (ms)"),
    ("over_copy", "libfftconv / copy"),
    ("speedup", "NumPy / libfftconv"),
    ("error", "Our largest error"),
    ("h100_torch_ms", "H100, PyTorch (ms)"),
    ("h100_flash_ms", "H100, flash-fft-conv (ms)"),
    ("h100_speedup", "H100, speedup"),
]


def draw_short(rows):
    """Return a figure with a panel for each dtype: the time over that of a copy, by shape."""
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    figure, axes = plt.subplots(
        1,
        len(dtypes),
        figsize=(5 * len(dtypes), 4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    shapes = sorted({(r["length"], r["channels"]) for r in rows})
    places = {shape: i for i, shape in enumerate(shapes)}
    for axis, dtype in zip(axes[0], dtypes):
        for layout, colour, marker in (
            ("BHL", METHODS["fftconv"][1], "o"),
            ("BLH", style.ORANGE, "s"),
        ):
            for taps, dashes in ((3, ":"), (5, "-"), (7, "--")):
                points = [
                    (places[r["length"], r["channels"]], r["over_copy"])
                    for r in rows
                    if (r["dtype"], r["layout"], r["taps"]) == (dtype, layout, taps)
                ]
                axis.plot(
                    *zip(*points),
                    label=f"{layout}, K = {taps}",
                    color=colour,
                    marker="x" if taps == 7 else marker,
                    mfc="none" if taps == 3 else colour,
                    # Taps that were run at some shapes alone are marks without a line.
                    ls=dashes if len(points) == len(shapes) else "",
                )
        axis.axhline(1, color=style.GREY, lw=1)
        axis.set_title(dtype)
        axis.set_xticks(
            range(len(shapes)),
            [f"{style.short(n)} x {d}" for n, d in shapes],
            rotation=60,
            ha="right",
        )
        axis.set_xlabel("L x D")
    axes[0, 0].set_ylim(bottom=0)  # of all panels, when all is drawn
    axes[0, 0].set_ylabel("Time, of reading x and writing y once")
    axes[0, -1].legend(ncols=2, fontsize=8)
    return figure


def draw(results, out):
    """Draw the table and the figure of short convolutions from short.json."""
    record = style.read(results, "short")
    rows = rows_of(record)
    style.save_table(
        out, "table_short", "Short depthwise convolutions, CPU edition", TEXT, COLUMNS, rows, record
    )
    figure = draw_short(rows)
    style.save_figure(
        figure,
        out,
        "short",
        "Short depthwise convolutions",
        """libfftconv's time divided by that of reading x and writing y once, in
        the same run and with all processors; both layouts.""",
        COLUMNS,
        rows,
        record,
        """A panel for each type: the time of a short convolution over that of a copy, by shape, in
        two layouts and with 3, 5 and 7 taps; a line at 1 is the copy itself.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
