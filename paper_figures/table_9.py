"""Draw a CPU version of Tables 9 and 10: the requested and the actual frequency sparsity."""

import style
from style import plt

ORDERS = {
    # name: (label, colour, marker)
    "stage": ("stage order", style.BLUE, "o"),
    "natural": ("natural order", style.ORANGE, "s"),
}

TABLE_TEXT = """Circular convolution modulo N, float32, one thread, spectrum
ready: medians of interleaved runs, each compared with the formula Re IDFT(DFT(u)
mask DFT(k)) in float64 before; backward is du and dk. A pattern (a, b, c, d)
removes that many of the highest values of each digit of the frequency index, on
32 x 32 x 32 x 64 or scaled down with the shape. 1 x is our own circular
convolution of the same N without a pattern. Asked: bins outside the mask.
Removed: bins that do nothing on a real row, where a bin acts with its mirror and
goes only if both are asked for. Computed: the part of the transform's points
that stages and product visit. H100: the paper's printed sparsity, perplexity of
pretrained HyenaDNA-1M, and speed over its own convolution without a pattern,
whose complex transform knows no mirrors."""


def name_of(drop):
    return " ".join(map(str, drop))


def dense_of(record):
    """Return {(N, direction): the row of results without a pattern}."""
    return {(r["fft_size"], r["direction"]): r for r in record["rows"] if r["order"] == "dense"}


def rows_of(record):
    """Return one row for each N, order and pattern, with the paper's numbers."""
    printed = style.paper(9, ("a", "b", "c", "d"))
    dense = dense_of(record)
    rows = {}
    for r in record["rows"]:
        if r["order"] == "dense":
            continue
        drop = tuple(r["paper_drop"])
        once = dense[r["fft_size"], r["direction"]]
        row = rows.setdefault(
            (r["fft_size"], r["order"], drop),
            {
                "fft_size": r["fft_size"],
                "order": r["order"],
                "pattern": name_of(drop),
                "drop": name_of(r["drop"]),
                "run": f"{r['batch']} x {r['channels']}",
                "asked": 100 * r["asked"],
                "removed": 100 * (1 - r["kept"]),
                "computed": 100 * r["computed"],
                "flops": r["flops_per_output"] / once["flops_per_output"],
                "h100_sparsity": printed[drop]["sparsity_percent"],
                "h100_speedup": printed[drop]["speedup"],
                "h100_ppl": printed[drop]["ppl"],
                "note": printed[drop]["note"],
            },
        )
        where = r["direction"]
        row[f"{where}_ns"] = r["ns_per_output"]
        row[f"{where}_speedup"] = once["median_s"] / r["median_s"]
        row[f"{where}_error"] = r["error"]
    return list(rows.values())


COLUMNS = [
    ("fft_size", "N"),
    ("order", "Order"),
    ("pattern", "Pattern of the paper"),
    ("drop", "Pattern run"),
    ("run", "B x H run"),
    ("asked", "Asked (%)"),
    ("removed", "Removed on a real row (%)"),
    ("computed", "Computed (%)"),
    ("flops", "Flops, of dense"),
    ("forward_ns", "Forward (ns per output)"),
    ("forward_speedup", "Forward, speed over dense"),
    ("backward_ns", "Backward (ns per output)"),
    ("backward_speedup", "Backward, speed over dense"),
    ("forward_error", "Error, forward"),
    ("backward_error", "Error, backward"),
    ("h100_sparsity", "H100 sparsity (%)"),
    ("h100_speedup", "H100 speedup"),
    ("h100_ppl", "H100 perplexity"),
    ("note", "Note"),
]


def draw_sparsity(rows):
    """Return a figure for the longest N: the requested and the actual sparsity, and the speeds."""
    figure, (parts, forward, backward) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    n = max(r["fft_size"] for r in rows)
    mine = {
        order: [r for r in rows if r["order"] == order and r["fft_size"] == n] for order in ORDERS
    }
    patterns = [r["pattern"] for r in mine["stage"]]
    places = range(len(patterns))

    parts.plot(
        places,
        [r["asked"] for r in mine["stage"]],
        color=style.GREY,
        marker="_",
        markersize=22,
        mew=2,
        ls="",
        label="asked",
    )
    for shift, (order, (label, colour, _)) in zip((-0.2, 0.2), ORDERS.items()):
        parts.bar(
            [p + shift for p in places],
            [r["removed"] for r in mine[order]],
            0.36,
            color=colour,
            alpha=0.35,
            label=f"removed on a real row, {label}",
        )
        parts.bar(
            [p + shift for p in places],
            [100 - r["computed"] for r in mine[order]],
            0.18,
            color=colour,
            label=f"not computed, {label}",
        )
    parts.set_title(f"Asked and had, N = {style.short(n)}")
    parts.set_ylabel("Part of the bins (%)")
    parts.set_ylim(0, 100)

    backward.sharey(forward)
    for axis, direction in ((forward, "forward"), (backward, "backward")):
        for order, (label, colour, marker) in ORDERS.items():
            axis.plot(
                places,
                [r[f"{direction}_speedup"] for r in mine[order]],
                color=colour,
                marker=marker,
                label=f"libfftconv, {label}, this CPU",
            )
        if direction == "forward":
            axis.plot(
                places,
                [r["h100_speedup"] for r in mine["stage"]],
                color=style.GREY,
                ls="--",
                label="FlashFFTConv, H100 (the paper)",
            )
        axis.axhline(1, color="#333333", lw=0.8)
        axis.set_title(f"Speed of {direction}, N = {style.short(n)}")
        axis.set_ylabel("Speed over the same convolution, dense")
        axis.set_ylim(bottom=0)
    for axis in (parts, forward, backward):
        axis.set_xticks(
            places,
            [f"{p.replace(' ', ',')}\n{r['asked']:.0f} %" for p, r in zip(patterns, mine["stage"])],
            fontsize=6.5,
        )
        axis.set_xlabel("Pattern (a, b, c, d) and the part it asks to remove")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=1, fontsize=8)
    return figure


def draw(results, out):
    """Draw Table 9 and a figure of its patterns from sparsity.json."""
    record = style.read(results, "sparsity")
    rows = rows_of(record)
    style.save_table(
        out,
        "table9",
        "Table 9: frequency-sparse convolutions, CPU edition",
        TABLE_TEXT,
        COLUMNS,
        rows,
        record,
    )
    figure = draw_sparsity(rows)
    style.save_figure(
        figure,
        out,
        "sparsity",
        "Frequency-sparse convolutions",
        """The six patterns of Tables 9 and 10. Left: what each asks to remove,
        what that removes on a real row (pale), and what the library does not
        compute (full). Middle and right: speed against our own convolution
        without a pattern; the paper's is against its own, forward.""",
        COLUMNS,
        rows,
        record,
        """Three panels over the paper's six patterns. Left: bars of what is removed on a real row
        and of what is not computed, in stage order and in natural order, below marks of what was
        asked. Middle and right: speed over the dense convolution, forward and backward.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
