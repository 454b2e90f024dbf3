"""Draw a table of opt_ssm_forward's strategies and a map of where each one is the fastest."""

import style
from style import plt

ORDERS = {
    # name: (label, colour, marker)
    "1": ("1: kernels in time", style.BLUE, "o"),
    "2": ("2: projections in time", style.GREEN, "s"),
    "3 projections": ("3: projections in frequency", style.ORANGE, "^"),
    "3 kernels": ("3: kernels in frequency", style.RED, "v"),
}
SCIPY = {
    "scipy 2": "strategy 2, matmul",
    "scipy 3": "fallback, matmul",
    "scipy 2 einsum": "strategy 2, einsum",
}
TEXT = """x (B, L, H_in), float32, one thread: milliseconds, medians of interleaved
runs, every result compared with the float64 definition before. 'Model' is what
"auto" expects of its choice from this machine's measured rates; 'lrnnx's rule' is
the strategy that its two inequalities name, whose better inner order is shown.
Memory: of the choice, beside operands and result. SciPy, at the document's
shapes: scipy.fft, with NumPy's einsum(optimize=True) as the document writes it, and
with matmul over contiguous rows of time, one thread."""
MAP_TEXT = """Each shape at 1/B + 1/N and 1/H_in + 1/H_out, in the colour of the
fastest strategy; a ring where "auto" chose another, its time over the fastest
beside it. Above the line lrnnx's rule has the kernels made first, below it x
projected first. The length of the row, which the rule leaves out, is part of what
decides."""
KERNEL_TEXT = """The float32 kernel of H channels, one thread, beside the same
Vandermonde product in NumPy, complex64, einsum by blocks of heads (some heads
run, the time scaled to all)."""


def rows_of(record):
    """Return one row for each shape."""
    rows = []
    for measured in record["rows"]:
        runs = measured["strategies"]
        times = {order: runs[order]["median_s"] for order in ORDERS}
        fastest = min(times, key=times.get)
        auto = measured["auto"]
        named = min(time for order, time in times.items() if order[0] == str(measured["upstream"]))
        row = {key: measured[key] for key in ("batch", "length", "inputs", "outputs", "states")}
        row |= {order: 1e3 * time for order, time in times.items()}
        row |= {
            "fastest": fastest,
            "auto": auto,
            "over_fastest": times[auto] / times[fastest],
            "predicted": 1e3 * runs[auto]["predicted_s"],
            "upstream": measured["upstream"],
            "upstream_over_fastest": named / times[fastest],
            "memory": runs[auto]["model_bytes"] / 1e6,
            "traced": runs[auto]["traced_bytes"] / 1e6,
            "error": max(runs[order]["error"] for order in ORDERS),
        }
        for name in SCIPY:
            if name in runs:
                row[name] = 1e3 * runs[name]["median_s"]
                row[f"{name} over"] = runs[name]["median_s"] / runs["auto"]["median_s"]
        rows.append(row)
    return rows


COLUMNS = (
    [("batch", "B"), ("length", "L"), ("inputs", "H_in"), ("outputs", "H_out"), ("states", "N")]
    + [(order, f"{label} (ms)") for order, (label, _, _) in ORDERS.items()]
    + [
        ("fastest", "Fastest"),
        ("auto", "auto"),
        ("over_fastest", "auto / fastest"),
        ("predicted", "Model (ms)"),
        ("upstream", "lrnnx's rule"),
        ("upstream_over_fastest", "lrnnx's rule / fastest"),
        ("memory", "Memory, model (MB)"),
        ("traced", "NumPy's part of it, traced (MB)"),
        ("error", "Largest error"),
    ]
    + [(name, f"SciPy, {label} (ms)") for name, label in SCIPY.items()]
    + [(f"{name} over", f"SciPy, {label} / auto") for name, label in SCIPY.items()]
)
KERNEL_COLUMNS = [
    ("heads", "H"),
    ("states", "N"),
    ("length", "L"),
    ("fftconv", "libfftconv (ms)"),
    ("numpy", "NumPy (ms)"),
    ("heads_of_numpy", "Heads that NumPy ran"),
    ("speedup", "NumPy / libfftconv"),
    ("difference", "Difference, of max |k|"),
]


def draw_map(rows):
    """Return a map of the fastest strategy, over the two quantities that lrnnx's rule compares."""
    figure, axis = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
    for order, (label, colour, marker) in ORDERS.items():
        points = [
            (1 / r["batch"] + 1 / r["states"], 1 / r["inputs"] + 1 / r["outputs"])
            for r in rows
            if r["fastest"] == order
        ]
        axis.plot(
            *(zip(*points) if points else ([], [])),
            ls="",
            marker=marker,
            color=colour,
            ms=8,
            alpha=0.8,
            label=label,
        )
    for r in rows:
        if r["auto"] != r["fastest"]:
            place = (1 / r["batch"] + 1 / r["states"], 1 / r["inputs"] + 1 / r["outputs"])
            axis.plot(*place, "o", ms=14, mfc="none", mec=style.GREY)
            axis.annotate(
                f"{r['over_fastest']:.2f}",
                place,
                xytext=(9, 5),
                textcoords="offset points",
                fontsize=8,
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    high = max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot((low, high), (low, high), color=style.GREY, ls="--", label="lrnnx's rule")
    axis.set_xlabel("1/B + 1/N")
    axis.set_ylabel("1/H_in + 1/H_out")
    axis.legend()
    return figure


def draw(results, out):
    """Draw the tables and the map from strategies.json."""
    record = style.read(results, "strategies")
    rows = rows_of(record)
    style.save_table(
        out, "table_strategies", "State-space layers: three strategies", TEXT, COLUMNS, rows, record
    )
    kernel = record["kernel"]
    shown = {
        key: kernel[key] for key in ("heads", "states", "length", "heads_of_numpy", "difference")
    }
    shown |= {m: 1e3 * kernel[m]["median_s"] for m in ("fftconv", "numpy")}
    shown["speedup"] = shown["numpy"] / shown["fftconv"]
    style.save_table(
        out,
        "table_kernel",
        "State-space kernels: S4D",
        KERNEL_TEXT,
        KERNEL_COLUMNS,
        [shown],
        record,
    )
    figure = draw_map(rows)
    style.save_figure(
        figure,
        out,
        "strategies",
        "Which strategy is fastest where",
        MAP_TEXT,
        COLUMNS,
        rows,
        record,
        """A map with a mark for each shape, coloured by its fastest strategy, over 1/B + 1/N and
        1/H_in + 1/H_out; lrnnx's rule is the diagonal. Rings show where "auto" chose another.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
