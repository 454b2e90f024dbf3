"""Draw a CPU version of Tables 16 and 17, and a figure of the memory in them."""

import style
from style import METHODS, plt

TITLES = {16: "forward, circular", 17: "gated forward, circular"}
SHOWN = ["fftconv", "fftconv_ready", "numpy", "scipy"]
# The bytes of a GB in the paper's published benchmark, and of a float16 element.
PAPER_GB, PAPER_ITEM = 1.048576e9, 2
PAPER_ROWS = 64 * 768

TABLE_TEXT = """GB (1e9 bytes) of one float32 call, measured at the B x H stated
and multiplied by 64 x 768 / (B x H). Extra: peak resident set less the resident
set before the call; the result counts, the inputs do not. Counted: result,
workspace and spectrum as the plan counts them (ours), the peak that tracemalloc
sees (NumPy, SciPy). Peak: extra and the inputs. H100: the paper's figures,
float16; its text says that inputs are left out, its benchmark counts them, in
units of 1.048576e9 bytes."""


def in_arrays(gigabytes, n):
    """Convert GB of the paper to a number of float16 arrays of shape (64, 768, N)."""
    return gigabytes * PAPER_GB / (PAPER_ROWS * n * PAPER_ITEM)


def table_rows(cases, table):
    printed = style.paper(table)
    rows = []
    for (t, n), found in sorted(cases.items()):
        if t != table:
            continue
        row = {"fft_size": n, "run": f"{found['numpy']['batch']} x {found['numpy']['channels']}"}
        for method in SHOWN:
            r = found[method]
            row[f"{method}_gb"] = r["resident_bytes"] * r["scale"] / 1e9
            row[f"{method}_counted_gb"] = r["counted_bytes"] * r["scale"] / 1e9
            row[f"{method}_peak_gb"] = r["peak_bytes"] * r["scale"] / 1e9
            row[f"{method}_arrays"] = r["resident_bytes"] / r["array_bytes"]
            row[f"{method}_peak_arrays"] = r["peak_bytes"] / r["array_bytes"]
        row["reduction"] = row["numpy_gb"] / row["fftconv_gb"]
        if n in printed:
            h100 = printed[n]
            row |= {
                "h100_pytorch_gb": h100["pytorch_gb"],
                "h100_flashfftconv_gb": h100["flashfftconv_gb"],
                "h100_reduction": h100["reduction"],
                "h100_pytorch_arrays": in_arrays(h100["pytorch_gb"], n),
                "h100_flashfftconv_arrays": in_arrays(h100["flashfftconv_gb"], n),
            }
        rows.append(row)
    return rows


def columns():
    shown = [("fft_size", "FFT size"), ("run", "B x H run")]
    for kind, words in (
        ("gb", "extra (GB)"),
        ("counted_gb", "extra, counted (GB)"),
        ("peak_gb", "peak (GB)"),
    ):
        shown += [(f"{m}_{kind}", f"{METHODS[m][0]}, {words}") for m in SHOWN]
    return shown + [
        ("reduction", "NumPy / ours, extra"),
        ("h100_pytorch_gb", "H100 PyTorch (GB)"),
        ("h100_flashfftconv_gb", "H100 FlashFFTConv (GB)"),
        ("h100_reduction", "H100 reduction"),
    ]


def draw_memory(rows_of):
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.9), sharey=True, layout="constrained")
    panels = [(t, kind) for t in TITLES for kind in ("arrays", "peak_arrays")]
    for axis, (table, kind) in zip(axes, panels):
        rows = rows_of[table]
        sizes = [r["fft_size"] for r in rows]
        for method in SHOWN:
            label, colour, marker, dashes = METHODS[method]
            axis.plot(
                sizes,
                [r[f"{method}_{kind}"] for r in rows],
                color=colour,
                marker=marker,
                ls=dashes,
                label=label,
            )
        if kind == "peak_arrays":
            for key, label, dashes in (
                ("h100_pytorch_arrays", "PyTorch, H100 (the paper)", "--"),
                ("h100_flashfftconv_arrays", "FlashFFTConv, H100 (the paper)", ":"),
            ):
                curve = [(r["fft_size"], r[key]) for r in rows if key in r]
                axis.plot(*zip(*curve), color=style.GREY, ls=dashes, label=label)
        axis.set_title(
            f"Table {table}: {TITLES[table].split(',')[0]}\n"
            + ("extra: without the inputs" if kind == "arrays" else "peak: inputs included")
        )
        axis.set_xlabel("FFT size N")
        style.length_axis(axis, sizes)
    axes[0].set_ylabel("Memory (arrays of B x H x N elements)")
    axes[0].set_ylim(bottom=0)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    return figure


def draw(results, out):
    """Draw Tables 16 and 17 and the figure of memory from results/memory.json."""
    record = style.read(results, "memory")
    cases = style.by_case(record)
    rows_of = {table: table_rows(cases, table) for table in TITLES}
    for table, rows in rows_of.items():
        style.save_table(
            out,
            f"table{table}",
            f"Table {table}: memory, {TITLES[table]}, CPU edition",
            TABLE_TEXT,
            columns(),
            rows,
            record,
        )
    rows = [{"table": table, **row} for table in TITLES for row in rows_of[table]]
    figure = draw_memory(rows_of)
    drawn = [f"{m}_{kind}" for kind in ("arrays", "peak_arrays") for m in SHOWN]
    drawn += ["h100_pytorch_arrays", "h100_flashfftconv_arrays"]
    style.save_figure(
        figure,
        out,
        "memory",
        "Memory of Tables 16 and 17",
        """In units of one (B, H, N) array of the element type (float32 here,
        float16 on the H100), so that machines and types compare.""",
        [("table", "Table"), ("fft_size", "FFT size")] + [(k, k) for k in drawn],
        [{k: r.get(k) for k in ("table", "fft_size", *drawn)} for r in rows],
        record,
        """Four panels over the FFT size, for Tables 16 and 17: memory in arrays of the operands'
        size, without the inputs and with them, of libfftconv, NumPy and SciPy; where inputs count,
        the paper's PyTorch and FlashFFTConv on an H100 as grey lines.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
