"""Draw a CPU version of Tables 3, 4 and 11-15, and a figure of their speeds."""

import style
from style import METHODS, plt

TITLES = {
    11: "forward, circular (input = FFT size)",
    12: "gated forward, circular",
    13: "forward, causal (input = FFT size / 2)",
    14: "gated forward, causal",
    15: "backward, circular",
}
# Tables 3 and 4 each combine a table of speeds with a table of memory: 11 and 16, 12 and 17.
SELECTED = {3: (11, 16), 4: (12, 17)}
ONE_THREAD = ["fftconv", "fftconv_ready", "numpy", "numpy_saved", "scipy", "scipy_fftconvolve"]
ALL_THREADS = ["fftconv_threads", "scipy_threads"]

METHOD_TEXT = """CPU columns: float32, one thread unless the heading says
otherwise, milliseconds at the paper's B = {b}, H = {h}: medians of interleaved
runs at the B x H stated, multiplied by {b} x {h} / (B x H). k's transform is
made inside every call, as in the paper, except under 'spectrum ready'. Each
method was compared with the float64 oracle before it was timed. NumPy and SciPy
run real FFTs; the paper's PyTorch baseline ran complex ones, about twice the
work. H100: the paper's printed figures (one H100-SXM, float16)."""
MEMORY_TEXT = """ Memory savings: the resident bytes that NumPy's call adds over
those ours adds, the result included, the inputs not."""
BACKWARD_TEXT = """ Nothing is kept from a forward pass, on any side, except
under 'forward spectra kept', which is given NumPy's spectra of u and k, as
PyTorch's autograd keeps them."""


def clock_text(record):
    """Return a sentence on how many times are processor time; empty if none is."""
    clocks = [r["clock"] for r in record["rows"] if r["threads"] == 1]
    busy = clocks.count("processor")
    if not busy:
        return ""
    return f""" Other work kept this machine busy: {busy} of {len(clocks)}
        one-thread times are processor time, not wall time, and the
        all-threads columns, always wall time, mean little."""


def speedup(found, baseline, ours="fftconv"):
    return found[baseline]["median_s"] / found[ours]["median_s"]


def table_rows(cases, table):
    """Return the rows of one of Tables 11-15, with the times on the CPU and on the H100."""
    printed = style.paper(table)
    rows = []
    for (t, n), found in sorted(cases.items()):
        if t != table:
            continue
        first = found["fftconv"]
        row = {
            "fft_size": n,
            "run": f"{first['batch']} x {first['channels']}",
            **{m: found[m]["scaled_ms"] for m in ONE_THREAD + ALL_THREADS if m in found},
            "over_numpy": speedup(found, "numpy"),
            "over_scipy": speedup(found, "scipy"),
            "error": first["error"],
        }
        if n in printed:
            h100 = printed[n]
            row |= {
                "h100_pytorch": h100["pytorch_ms"],
                "h100_flashfftconv": h100["flashfftconv_ms"],
                "h100_speedup": h100["speedup"],
                "note": h100["note"],
            }
        rows.append(row)
    return rows


def columns_of(rows):
    methods = [m for m in ONE_THREAD + ALL_THREADS if any(m in r for r in rows)]
    return (
        [("fft_size", "FFT size"), ("run", "B x H run")]
        + [(m, METHODS[m][0] + " (ms)") for m in methods]
        + [
            ("over_numpy", "NumPy / ours"),
            ("over_scipy", "SciPy / ours"),
            ("error", "Our error"),
            ("h100_pytorch", "H100 PyTorch (ms)"),
            ("h100_flashfftconv", "H100 FlashFFTConv (ms)"),
            ("h100_speedup", "H100 speedup"),
            ("note", "Note"),
        ]
    )


def selected_rows(cases, table, memory):
    """Return the rows of Table 3 or 4: each column of the paper's table becomes a row."""
    speed_table, memory_table = SELECTED[table]
    printed = style.paper(table)
    savings = {}
    for row in memory["rows"]:
        if row["table"] == memory_table:
            savings.setdefault(row["fft_size"], {})[row["method"]] = row["resident_bytes"]
    rows = []
    for n, h100 in printed.items():
        found = cases.get((speed_table, n))
        if not found:
            continue
        row = {
            "fft_size": n,
            **{m: found[m]["scaled_ms"] for m in ("fftconv", "numpy", "scipy")},
            "over_numpy": speedup(found, "numpy"),
            "h100_pytorch": h100["pytorch_ms"],
            "h100_flashfftconv": h100["flashfftconv_ms"],
            "h100_speedup": h100["speedup"],
            "h100_memory": h100["memory_savings"],
            "note": h100["note"],
        }
        if "fusion_only_ms" in h100:
            row["h100_fusion_only"] = h100["fusion_only_ms"]
        if n in savings:
            row["memory"] = savings[n]["numpy"] / savings[n]["fftconv"]
        rows.append(row)
    return rows


SELECTED_COLUMNS = [
    ("fft_size", "FFT size"),
    ("fftconv", "libfftconv (ms)"),
    ("numpy", "NumPy (ms)"),
    ("scipy", "SciPy (ms)"),
    ("over_numpy", "Speedup over NumPy"),
    ("memory", "Memory savings over NumPy"),
    ("h100_pytorch", "H100 PyTorch (ms)"),
    ("h100_flashfftconv", "H100 FlashFFTConv (ms)"),
    ("h100_fusion_only", "H100 fusion only, cuFFTdx (ms)"),
    ("h100_speedup", "H100 speedup over PyTorch"),
    ("h100_memory", "H100 memory savings"),
    ("note", "Note"),
]


def drawn_rows(cases):
    """Return the numbers that the figure draws: ns per output element, and speedups."""
    rows = []
    for (table, n), found in sorted(cases.items()):
        printed = style.paper(table).get(n)
        row = {
            "table": table,
            "fft_size": n,
            **{m: found[m]["ns_per_output"] for m in ONE_THREAD if m in found},
            "over_numpy": speedup(found, "numpy"),
            "over_scipy": speedup(found, "scipy"),
        }
        if printed:
            row["h100_speedup"] = printed["speedup"]
        rows.append(row)
    return rows


def draw_speeds(rows, sizes):
    """Return a figure with five panels of time per output element and five of speedup."""
    figure, axes = plt.subplots(
        2, 5, figsize=(14, 6), sharex=True, sharey="row", layout="constrained"
    )
    for (time_axis, ratio_axis), table in zip(axes.T, TITLES):
        mine = [r for r in rows if r["table"] == table]
        for method in ONE_THREAD:
            curve = [(r["fft_size"], r[method]) for r in mine if method in r]
            if curve:
                label, colour, marker, dashes = METHODS[method]
                time_axis.plot(*zip(*curve), color=colour, marker=marker, ls=dashes, label=label)
        for key, label, colour, marker, dashes in (
            ("over_numpy", "libfftconv over NumPy, this CPU", style.ORANGE, "s", "-"),
            ("over_scipy", "libfftconv over SciPy, this CPU", style.GREEN, "^", "-"),
            ("h100_speedup", "FlashFFTConv over PyTorch, H100 (the paper)", style.GREY, "", "--"),
        ):
            curve = [(r["fft_size"], r[key]) for r in mine if key in r]
            ratio_axis.plot(*zip(*curve), color=colour, marker=marker, ls=dashes, label=label)
        ratio_axis.axhline(1, color="#333333", lw=0.8)
        time_axis.set_title(f"Table {table}\n{TITLES[table].split(' (')[0]}")
        style.length_axis(ratio_axis, sizes)
        ratio_axis.set_xlabel("FFT size N")
        time_axis.set_yscale("log")
    style.plain_log(axes[0, 0], [0.5, 1, 2, 5, 10, 20, 50, 100, 200])
    axes[0, 0].set_ylabel("Time per output element (ns)\none thread, float32")
    axes[1, 0].set_ylabel("Speedup")
    axes[1, 0].set_ylim(bottom=0)
    seen = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            seen.setdefault(label, handle)
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=5)
    return figure


def draw(results, out):
    """Draw Tables 3, 4 and 11-15, and the figure of speeds, from speed.json and memory.json."""
    record = style.read(results, "speed")
    memory = style.read(results, "memory")
    cases = style.by_case(record)
    batch, channels = record["scaled_to"]
    how = METHOD_TEXT.format(b=batch, h=channels) + clock_text(record)
    for table in SELECTED:
        gated = "gated " if table == 4 else ""
        style.save_table(
            out,
            f"table{table}",
            f"Table {table}: {gated}forward convolution, CPU edition",
            how + MEMORY_TEXT,
            [
                column
                for column in SELECTED_COLUMNS
                if table == 3 or column[0] != "h100_fusion_only"
            ],
            selected_rows(cases, table, memory),
            record,
        )
    for table, title in TITLES.items():
        rows = table_rows(cases, table)
        style.save_table(
            out,
            f"table{table}",
            f"Table {table}: {title}, CPU edition",
            how + (BACKWARD_TEXT if table == 15 else ""),
            columns_of(rows),
            rows,
            record,
        )
    rows = drawn_rows(cases)
    figure = draw_speeds(rows, sorted({r["fft_size"] for r in rows}))
    style.save_figure(
        figure,
        out,
        "speed",
        "Speed of Tables 11-15",
        """Top: time per output element on one thread of this machine. Bottom:
        how many times faster libfftconv is than NumPy and SciPy here, beside
        what the paper reports for FlashFFTConv over PyTorch on an H100; above
        the line at 1 is faster.""",
        [("table", "Table"), ("fft_size", "FFT size")]
        + [(m, METHODS[m][0] + " (ns)") for m in ONE_THREAD]
        + [
            ("over_numpy", "NumPy / ours"),
            ("over_scipy", "SciPy / ours"),
            ("h100_speedup", "H100 speedup"),
        ],
        rows,
        record,
        """Two rows of five panels, one for each of Tables 11 to 15, over the FFT size. Above: time
        per output element of libfftconv, NumPy and SciPy on one thread. Below: how many times
        faster libfftconv is than each, and the paper's speedup on an H100 as a dashed line.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
