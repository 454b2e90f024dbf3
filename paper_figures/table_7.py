"""Draw a CPU version of the paper's Table 7: the time and memory of partial convolutions."""

import style
from style import METHODS, plt

TIMED = ["fftconv", "fftconv_ready", "fftconv_backward", "fftconv_whole", "scipy_oaconvolve"]
REMEMBERED = ["fftconv_ready", "fftconv_backward", "scipy_oaconvolve"]
LENGTH = 8192  # the row length of Table 7

TIME_TEXT = """Causal, float32, one thread: nanoseconds per output element,
medians of interleaved runs at the B x H stated, every method compared with the
float64 oracle before. k's transform is made inside every call except under
'spectrum ready' and 'one transform per row'; backward is du and dk. The filters
of one L are one filter cut short; 'of Lk = L' divides a time by that of the same
method with the uncut filter. """
MEMORY_TEXT = """Workspace: of one thread, as the plan counts it. Spectrum: per
channel. Added: the peak resident set of one call in a process of its own, at {b}
x {h}, results included, inputs not; with the spectrum made and kept, backward
du and dk, and SciPy. """
PAPER_TEXT = """H100: the paper's Table 7 is the GPU memory of training a whole
model, Hyena-s-8K, and its perplexity. Ours is one convolution. What compares is
how each falls with the filter, the paper's model keeping all that is no
convolution."""


def by_length(rows):
    """Return {(L, Lk): {method: row of results}}."""
    found = {}
    for row in rows:
        key = row["length"], row["kernel_length"]
        found.setdefault(key, {})[row["method"]] = row
    return found


def times_of(found, length, kernel_length):
    """Return the columns with the times for one pair (L, Lk)."""
    here, uncut = found[length, kernel_length], found[length, length]
    row = {m: here[m]["ns_per_output"] for m in TIMED}
    for m in ("fftconv", "fftconv_ready", "fftconv_backward"):
        row[f"{m}_of_uncut"] = here[m]["median_s"] / uncut[m]["median_s"]
    row["over_oaconvolve"] = here["scipy_oaconvolve"]["median_s"] / here["fftconv"]["median_s"]
    row["error"] = max(here[m]["error"] for m in TIMED if m.startswith("fftconv"))
    return row


def plan_of(plan):
    """Return the columns with a plan's choices, operation counts and memory."""
    return {
        "blocks": plan["blocks"],
        "block_length": plan["block_length"],
        "transform_length": plan["transform_length"],
        "flops": plan["flops_per_output"],
        "forward_workspace_kb": plan["forward_workspace_bytes"] / 1e3,
        "backward_workspace_kb": plan["backward_workspace_bytes"] / 1e3,
        "spectrum_kb": plan["spectrum_bytes_per_channel"] / 1e3,
    }


def rows_of(record):
    """Return one row for each (L, Lk).

    It has the plan's columns, the times if they were measured, and the paper's numbers if it
    prints this case.
    """
    found = by_length(record["rows"])
    remembered = by_length(record["memory"])
    printed = style.paper(7, ("filter_length",))
    whole = printed[LENGTH]["memory_gb"]
    rows = []
    for plan in record["plans"]:
        length, kernel_length = key = plan["length"], plan["kernel_length"]
        row = {
            "length": length,
            "kernel_length": kernel_length,
            "run": f"{plan['batch']} x {plan['channels']}",
            **plan_of(plan),
        }
        row |= times_of(found, *key) if key in found else {"run": "not run"}
        if key in remembered:
            for method, run in remembered[key].items():
                row[f"{method}_mb"] = run["resident_bytes"] / 1e6
        if length == LENGTH:
            h100 = printed[kernel_length]
            row |= {
                "h100_memory": h100["memory_gb"],
                "h100_memory_of_uncut": h100["memory_gb"] / whole,
                "h100_ppl": h100["ppl"],
                "note": h100["note"],
            }
        rows.append(row)
    return sorted(rows, key=lambda r: (r["length"], -r["kernel_length"]))


COLUMNS = (
    [
        ("length", "L"),
        ("kernel_length", "Lk"),
        ("run", "B x H run"),
        ("blocks", "Blocks"),
        ("block_length", "Outputs of each"),
        ("transform_length", "M"),
        ("flops", "Flops per output, forward"),
    ]
    + [(m, METHODS[m][0] + " (ns)") for m in TIMED]
    + [
        ("fftconv_of_uncut", "libfftconv, of Lk = L"),
        ("fftconv_ready_of_uncut", "spectrum ready, of Lk = L"),
        ("fftconv_backward_of_uncut", "backward, of Lk = L"),
        ("over_oaconvolve", "oaconvolve / ours"),
        ("error", "Our largest error"),
        ("forward_workspace_kb", "Workspace, forward (kB)"),
        ("backward_workspace_kb", "Workspace, backward (kB)"),
        ("spectrum_kb", "Spectrum of a channel (kB)"),
    ]
    + [(f"{m}_mb", METHODS[m][0] + ", added (MB)") for m in REMEMBERED]
    + [
        ("h100_memory", "H100 training (GB)"),
        ("h100_memory_of_uncut", "H100 training, of Lk = L"),
        ("h100_ppl", "H100 perplexity"),
        ("note", "Note"),
    ]
)


def line(axis, points, method, **look):
    """Plot the curve of one method in its usual style; `look` overrides parts of the style."""
    label, colour, marker, dashes = METHODS[method]
    look = dict(label=label, color=colour, marker=marker, ls=dashes) | look
    axis.plot(*zip(*points), **look)


def draw_partial(rows):
    """Return a figure of three panels.

    They show the time over Lk, the time and memory relative to the full-length filter, and the
    time over L.
    """
    figure, (times, falls, long) = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    cut = [r for r in rows if r["length"] == LENGTH]
    kernels = [r["kernel_length"] for r in cut]
    for method in TIMED:
        line(times, [(r["kernel_length"], r[method]) for r in cut], method)
    times.set_title("Time, L = 8K")
    times.set_ylabel("Time per output element (ns)\none thread, float32")

    uncut = cut[0]
    for key, label, colour, marker, dashes in (
        ("fftconv_ready", "time, spectrum ready", style.SKY, "o", "--"),
        ("fftconv_backward", "time, backward", style.BLUE, "o", ":"),
        ("forward_workspace_kb", "workspace", style.GREEN, "^", "-"),
        ("spectrum_kb", "spectrum", style.ORANGE, "s", "-"),
        ("h100_memory", "GPU memory of training Hyena-s-8K (the paper)", style.GREY, "", "--"),
    ):
        falls.plot(
            kernels,
            [r[key] / uncut[key] for r in cut],
            label=label,
            color=colour,
            marker=marker,
            ls=dashes,
        )
    falls.set_title("Of the uncut filter's, L = 8K")
    falls.set_ylabel("Part of what Lk = L takes")
    falls.set_ylim(bottom=0)
    for axis in (times, falls):
        axis.set_xlabel("Filter length Lk")
        axis.set_xscale("log", base=2)
        axis.set_xticks(kernels, [style.short(n) for n in kernels])
        axis.invert_xaxis()
        axis.minorticks_off()

    timed = [r for r in rows if "fftconv_ready" in r]
    lengths = sorted({r["length"] for r in timed})
    window = min(r["kernel_length"] for r in timed if r["length"] > LENGTH)
    for label, chosen, look in (
        ("Lk = L", lambda r: r["kernel_length"] == r["length"], "-"),
        ("Lk = L / 4", lambda r: 4 * r["kernel_length"] == r["length"], "--"),
        (f"Lk = {style.short(window)}", lambda r: r["kernel_length"] == window, ":"),
    ):
        for method in ("fftconv_ready", "scipy_oaconvolve"):
            line(
                long,
                [(r["length"], r[method]) for r in timed if chosen(r)],
                method,
                ls=look,
                label=f"{METHODS[method][0]}, {label}",
            )
    long.set_title("Longer rows")
    long.set_xlabel("Row length L")
    long.set_ylabel("Time per output element (ns)")
    long.set_xscale("log", base=2)
    long.set_xticks(lengths, [style.short(n) for n in lengths])
    long.minorticks_off()
    for axis in (times, long):
        axis.set_ylim(bottom=0)
    for axis in (times, falls, long):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, fontsize=8)
    return figure


def draw(results, out):
    """Draw Table 7, a table of longer rows, and a figure, from partial.json."""
    record = style.read(results, "partial")
    rows = rows_of(record)
    first = record["memory"][0]
    memory_text = MEMORY_TEXT.format(b=first["batch"], h=first["channels"])
    style.save_table(
        out,
        "table7",
        "Table 7: partial convolutions, CPU edition",
        TIME_TEXT + memory_text + PAPER_TEXT,
        COLUMNS,
        [r for r in rows if r["length"] == LENGTH],
        record,
    )
    style.save_table(
        out,
        "table7_longer",
        "Partial convolutions on longer rows",
        TIME_TEXT
        + """One short filter on ever longer rows is a sliding window. 'Not
        run': the plan's counts alone.""",
        COLUMNS,
        [r for r in rows if r["length"] > LENGTH],
        record,
    )
    figure = draw_partial(rows)
    style.save_figure(
        figure,
        out,
        "partial",
        "Partial convolutions",
        """Left: the filter of Table 7's row cut short. Middle: times, workspace
        of a thread and spectrum as parts of the uncut filter's, beside the GPU
        memory that the paper reports for training a whole model. Right: the
        uncut filter, a quarter of it, and one short filter on longer rows.""",
        COLUMNS,
        rows,
        record,
        """Three panels. Left: time per output over the filter's length for rows of 8K samples.
        Middle: time, workspace and spectrum as parts of the uncut filter's, and the paper's memory
        of training. Right: time over the row's length for whole, quarter and short filters, beside
        SciPy's oaconvolve.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
