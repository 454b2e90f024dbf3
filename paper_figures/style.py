"""What the drawing scripts share: the style, the paper's numbers, and the output files.

Each figure or table has a NAME.  Its files are NAME.json (title, caption, columns and rows),
NAME.csv (only the rows) and, for a figure, NAME.png and NAME.pdf.  The rows of a figure are the
numbers drawn in it, and its alt says what is seen, for those who do not see it.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
PAPER = HERE / "paper"

# The colours of Okabe and Ito, which colour-blind readers can tell apart.  Each method has the
# same colour, marker and label in every figure.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#777777",
)
METHODS = {
    # name: (label, colour, marker, dashes)
    "fftconv": ("libfftconv", BLUE, "o", "-"),
    "fftconv_ready": ("libfftconv, spectrum ready", SKY, "o", "--"),
    "numpy": ("NumPy", ORANGE, "s", "-"),
    "numpy_saved": ("NumPy, forward spectra kept", ORANGE, "s", ":"),
    "scipy": ("SciPy", GREEN, "^", "-"),
    "scipy_fftconvolve": ("SciPy fftconvolve", RED, "v", "-"),
    "scipy_oaconvolve": ("SciPy oaconvolve", PURPLE, "D", "-"),
    "fftconv_backward": ("libfftconv, backward", BLUE, "o", ":"),
    "fftconv_whole": ("libfftconv, one transform per row", GREY, "o", "--"),
    "fftconv_threads": ("libfftconv, all threads", BLUE, "o", ":"),
    "scipy_threads": ("SciPy, all threads", GREEN, "^", ":"),
    "torch": ("PyTorch", "#222222", "D", "-"),
    "fftw_r2c": ("FFTW, row by row", ORANGE, "s", "-"),
    "fftw_pairs": ("FFTW, pairs of rows", ORANGE, "s", ":"),
    "floor": ("additions alone", GREY, "", "--"),
}

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.edgecolor": "#888888",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.7,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.color": "#444444",
        "ytick.color": "#444444",
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 4,  # long enough to tell dashes apart
        "figure.dpi": 100,
        "savefig.dpi": 180,
        "savefig.bbox": "tight",
        "pdf.fonttype": 42,
    }
)


def options(description):
    """Return an argument parser with the options --results DIR and --out DIR."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--results",
        type=Path,
        default=OUT / "results",
        metavar="DIR",
        help="the JSON of experiments/ (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="where to draw (default: %(default)s)"
    )
    return parser


def main(draw):
    """Run one drawing script from the command line; draw is its function."""
    settings = options(draw.__doc__).parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    draw(settings.results, settings.out)


def read(results, experiment):
    """Return the record of one experiment, read from results/<experiment>.json."""
    return json.loads((results / f"{experiment}.json").read_text())


def paper(table, keys=("fft_size",)):
    """Return a table of the paper as {key: {column: value}}.

    Values are floats or None; the column "note" has text.  The key is the integer in the column
    keys[0], or a tuple of integers if there are several keys.
    """
    with open(PAPER / f"table{table}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        key = tuple(int(row.pop(name)) for name in keys)
        found[key if len(keys) > 1 else key[0]] = {
            name: value if name == "note" else float(value) if value else None
            for name, value in row.items()
        }
    return found


def short(n):
    """Return a number as the paper writes powers of two: 256, 1K, 64K, 4M."""
    for unit, size in (("M", 2**20), ("K", 2**10)):
        if n >= size and n % size == 0:
            return f"{n // size}{unit}"
    return f"{n:,}"


# The ticks of the paper's Figure 4, used on every axis of lengths.
TICKS = [2**a for a in range(8, 23, 2)]


def length_axis(axis, sizes):
    """Make the x axis logarithmic to base 2, with those of TICKS that are within `sizes`."""
    axis.set_xscale("log", base=2)
    ticks = [n for n in TICKS if min(sizes) <= n <= max(sizes)]
    axis.set_xticks(ticks, [short(n) for n in ticks])
    axis.minorticks_off()


def plain_log(axis, ticks):
    """Make the y axis logarithmic, with plain numbers at those of `ticks` in its range."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    shown = [t for t in ticks if low <= t <= high]
    axis.set_yticks(shown, [f"{t:g}" for t in shown])
    axis.minorticks_off()


def machine_line(record):
    """Return one line on the machine that measured a record; None: not measured anywhere."""
    if record is None:
        return "no machine yet"
    m = record["machine"]
    gpu = record.get("gpu", {})
    card = "".join(
        f"{gpu[key]}{words}, "
        for key, words in (("name", ""), ("driver_version", " driver"), ("nvcc", " nvcc"))
        if gpu.get(key)
    )
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    changed = " with uncommitted changes" if m["uncommitted_changes"] else ""
    return (
        f"{card}{m['cpu']}, {m['processors']} processors, {m['memory_gib']} GiB, "
        f"{m['isa']}; {m['system']}; {versions}; "
        f"commit {m['commit'][:12]}{changed}; "
        f"grid {record['grid']}, {record['finished']}"
    )


def save_table(out, name, title, caption, columns, rows, record, alt=None):
    """Write NAME.csv and NAME.json.  columns: pairs (key, heading); rows: dicts by key."""
    keys = [key for key, _ in columns]
    with open(out / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: row.get(key) for key in keys} for row in rows])
    body = {
        "name": name,
        "title": title,
        "caption": " ".join(caption.split()),
        "image": alt is not None,
        "alt": " ".join((alt or "").split()),
        "measured_on": machine_line(record),
        "columns": columns,
        "rows": rows,
    }
    (out / f"{name}.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")


def save_figure(figure, out, name, title, caption, columns, rows, record, alt):
    """Write NAME.png and NAME.pdf, and the numbers drawn as NAME.csv and NAME.json."""
    figure.savefig(out / f"{name}.png")
    figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
    plt.close(figure)
    save_table(out, name, title, caption, columns, rows, record, alt)


def by_case(record):
    """Return {(table, N): {method: row of results}}."""
    cases = {}
    for row in record["rows"]:
        cases.setdefault((row["table"], row["fft_size"]), {})[row["method"]] = row
    return cases
