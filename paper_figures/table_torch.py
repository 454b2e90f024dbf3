"""Draw training with fftconv.torch against torch.fft: speed and memory, as a figure and a table."""

import style
from style import METHODS, plt

TEXT = """One thread, float32, medians of steps in turns, each checked against float64
before. Convolution: forward and backward of u (B, H, L) with k (H, L); torch.fft transforms
rows and kernel in every call. 'Memory kept': malloc keeps what is freed; as it is by default,
it gives much back, and the next call meets fresh pages, of which torch.fft needs most.
Module: a training step (forward, backward, AdamW) with the module's own convolutions, and with
those of PyTorch (torch.fft; conv1d for short ones). Model: forward and backward of a model
written with torch.fft, compiled with the pass of compile_options and without it; 'convolution'
is the part of the latter that its convolution takes alone. Memory: the peak resident set of a
first step above that before it, in a process of its own."""
PARTS = {
    # part of the record: (its name, colour)
    "rows": ("convolution", METHODS["fftconv"][1]),
    "modules": ("module", style.GREEN),
    "models": ("model, by the pass", style.ORANGE),
}
COLUMNS = [
    ("part", "Part"),
    ("name", "Name"),
    ("batch", "B"),
    ("channels", "H"),
    ("length", "L"),
    ("fftconv", "libfftconv (ms)"),
    ("torch_fft", "torch.fft (ms)"),
    ("speedup", "torch.fft / libfftconv"),
    ("speedup_kept", "The same, memory kept"),
    ("arrays", "Calls on arrays (ms)"),
    ("share", "Convolution (%)"),
    ("memory", "Memory, libfftconv (bytes)"),
    ("memory_torch_fft", "Memory, torch.fft (bytes)"),
    ("memory_ratio", "Memory, torch.fft / libfftconv"),
    ("error", "Our largest error"),
]


def rows_of(record):
    """Return one row for each convolution, module and model."""
    rows = []
    for part, (title, _) in PARTS.items():
        for measured in record.get(part, []):
            batch, channels, length = measured["shape"]
            times = {way: 1e3 * t["median_s"] for way, t in measured["times"].items()}
            row = {
                "part": title,
                "name": measured.get("name", "conv"),
                "batch": batch,
                "channels": channels,
                "length": length,
                "fftconv": times["fftconv"],
                "torch_fft": times["torch.fft"],
                "speedup": measured["speedup"],
                "arrays": times.get("arrays"),
                "error": measured["errors"]["fftconv"],
            }
            if "kept" in measured:
                row["speedup_kept"] = measured["kept"]["speedup"]
            if "share" in measured:
                row["share"] = 100 * measured["share"]
            if "peak_bytes" in measured:
                ours, theirs = (measured["peak_bytes"][way] for way in ("fftconv", "torch.fft"))
                row |= {"memory": ours, "memory_torch_fft": theirs}
                row["memory_ratio"] = theirs / ours
            rows.append(row)
    return rows


def draw_torch(rows):
    """Return a figure with bars of the speed and of the memory, each of torch.fft over ours."""
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 0.8 + 0.3 * len(rows)), layout="constrained", sharey=True
    )
    labels = [f"{row['name']}, {style.short(row['length'])}" for row in rows]
    places = range(len(rows))
    for axis, key, title in (
        (axes[0], "speedup", "time"),
        (axes[1], "memory_ratio", "peak memory"),
    ):
        for words, colour in PARTS.values():
            shown = [i for i in places if rows[i]["part"] == words and key in rows[i]]
            values = [rows[i][key] for i in shown]
            bars = axis.barh(shown, values, color=colour, label=words)
            axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.axvline(1, color=style.GREY, lw=1)
        axis.set_title(f"{title}: torch.fft / libfftconv")
        axis.grid(False, axis="y")
        axis.margins(x=0.1)
    axes[0].set_yticks(places, labels)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right")
    return figure


def draw(results, out):
    """Draw the table and the figure from torch_speed.json."""
    record = style.read(results, "torch_speed")
    rows = rows_of(record)
    style.save_table(
        out,
        "table_torch",
        "Training in PyTorch: times and memory",
        f"PyTorch {record['machine']['versions']['torch']}. {TEXT}",
        COLUMNS,
        rows,
        record,
    )
    figure = draw_torch(rows)
    style.save_figure(
        figure,
        out,
        "torch",
        "Training in PyTorch",
        """The time and the peak memory with torch.fft, divided by those with libfftconv: of a
        convolution forward and backward, of a training step of modules, and of compiled
        models. The number behind a name is the length of the rows.""",
        COLUMNS,
        rows,
        record,
        """Two panels of horizontal bars, the time and the peak memory with torch.fft over those
        with libfftconv, one bar for each convolution, module and model; a line at 1.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
