"""Write out/index.html, a page with all figures and tables that needs no network.

It is drawn after every experiment, of what is there by then.
"""

import json
import os
import re
from collections import Counter
from fnmatch import fnmatch
from html import escape

import readme_numbers
import style
from style import METHODS

# A group's name: (title, what it shows, its lesson, {drawing script: names of its figures and
# tables}).  The first name of a group is its thumbnail.
GROUPS = {
    "genome": (
        "A whole genome",
        "The chromosome of *E. coli*, convolved with windows of up to four million bases.",
        "01_convolution",
        {"genome_skew": ["genome", "genome_timing"]},
    ),
    "paper": (
        "The paper",
        "FlashFFTConv's cost model and tables of speed, on this CPU, beside the figures that it "
        "prints for an H100; flash-fft-conv's short filters; lrnnx's three strategies.",
        "03_cost_model",
        {
            "tables_11_15": ["speed", "table3", "table4", *(f"table{n}" for n in range(11, 16))],
            "figure4": ["figure4"],
            "table_short": ["short", "table_short"],
            "table_strategies": ["strategies", "table_strategies", "table_kernel"],
            "table_gpu": [f"table{n}_gpu" for n in range(11, 16)],
            "table_predicted": [f"table{n}_predicted" for n in range(11, 16)],
        },
    ),
    "engine": (
        "The CPU engine",
        "Beside FFTW, SciPy and PyTorch, and beside what this machine can do.",
        "02_monarch",
        {
            "cpu_engine": [
                "cpu",
                "cpu_targets",
                "cpu_speed",
                "cpu_limits",
                "cpu_peaks",
                "cpu_planner",
                "cpu_rows",
            ]
        },
    ),
    "memory": (
        "Memory",
        "What a call needs beside its operands, and how that falls with the filter.",
        "07_partial_and_sparse",
        {
            "tables_16_17": ["memory", "table16", "table17"],
            "table_7": ["partial", "table7", "table7_longer"],
        },
    ),
    "sparsity": (
        "Sparse spectra",
        "What a pattern of frequencies asks to remove, what it removes on real rows, and the time "
        "that it saves.",
        "07_partial_and_sparse",
        {"table_9": ["sparsity", "table9"]},
    ),
    "torch": (
        "Training in PyTorch",
        "`fftconv.torch` beside `torch.fft`: convolutions, modules, and models that nobody edits.",
        "08_train_it",
        {"table_torch": ["torch", "table_torch"]},
    ),
}
PAPER = "https://arxiv.org/abs/2311.05908"
WIDEST = 8  # columns of a table on the page
# The columns of a table that are shown, where it has more: patterns, each for the first column
# that it fits.  The CSV file has all.
TABLES_11_15 = [
    *("fft_size", "fftconv", "numpy", "scipy", "over_numpy", "over_scipy"),
    *("h100_flashfftconv", "h100_speedup"),
]
TABLES_16_17 = [
    *("fft_size", "fftconv_gb", "numpy_gb", "scipy_gb", "reduction", "h100_pytorch_gb"),
    *("h100_flashfftconv_gb", "h100_reduction"),
]
TABLES_GPU = [
    *("fft_size", "fused", "fused_ready", "cufft", "torch_complex", "torch_rfft"),
    *("fused_over_floor", "h100_flashfftconv"),
]
TABLES_PREDICTED = [
    *("fft_size", "A100_floor_ms", "A100_predicted_ms", "A100_binds", "H100_floor_ms"),
    *("H100_predicted_ms", "H100_binds", "h100_flashfftconv"),
]
TABLES_7 = ["kernel_length", "blocks", "fftconv", "fftconv_of_uncut", "over_oaconvolve"]
TABLES_7 += ["forward_workspace_kb", "h100_memory_of_uncut", "h100_ppl"]
SHOWN = {
    **dict.fromkeys(["table3", "table4"], [
        *("fft_size", "fftconv", "numpy", "over_numpy", "memory"),
        *("h100_flashfftconv", "h100_speedup", "h100_memory")]),
    **{f"table{n}": TABLES_11_15 for n in range(11, 16)},
    **{f"table{n}_gpu": TABLES_GPU for n in range(11, 16)},
    **{f"table{n}_predicted": TABLES_PREDICTED for n in range(11, 16)},
    **dict.fromkeys(["table16", "table17"], TABLES_16_17),
    "table7": TABLES_7,
    "table7_longer": ["length", *TABLES_7[:5], "fftconv_ready", TABLES_7[5]],
    "table9": [
        *("fft_size", "order", "drop", "asked", "removed", "computed"),
        *("forward_speedup", "h100_speedup")],
    "table_short": [
        *("length", "channels", "taps", "layout", "dtype", "fftconv", "over_copy"), "speedup"],
    "table_strategies": [
        *("batch", "length", "states", "fastest", "auto", "over_fastest"),
        *("upstream_over_fastest", "memory")],
    "table_torch": [
        *("name", "length", "fftconv", "torch_fft", "speedup", "speedup_kept", "share"),
        "memory_ratio"],
    "cpu_targets": ["what", "sense", "limit", "worst", "at", "rows_met", "rows", "reached"],
    "cpu_speed": [
        *("length", "fftw_r2c", "fftw_pairs", "ours_*", "over_fftw_*", "floor_*", "stages_*"),
        "error_*"],
    "cpu_limits": ["isa", "length", "ours", "gflops", "of_add", "of_floor", "binds", "of_bound"],
    "cpu_peaks": [
        *("isa", "add", "fma", "mixed", "copy_l1", "copy_l2", "copy_l3", "copy_memory")],
    "cpu_planner": [
        *("length", "own_stages", "own_ns", "predicted_ns", "best_stages", "best_ns", "ratio")],
    "cpu_rows": [
        *("target", "length", "case", "value", "limit", "reached", "above_ns", "below_ns")],
}  # fmt: skip
TITLE = "libfftconv: figures and tables"
STYLE = """
:root { color-scheme: light dark; --text: #222; --page: #fff; --faint: #666; --line: #ddd;
        --link: #0072b2; --ours: #eaf3f9; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --page: #16181b; --faint: #999; --line: #3a3d42; --link: #6bb8e8;
          --ours: #1d3242; } }
body { font: 16px/1.5 "DejaVu Sans", Verdana, sans-serif; color: var(--text);
       background: var(--page); margin: 0 auto; max-width: 1180px; padding: 1.5em; }
h1 { font-size: 1.6em; margin-bottom: .2em; }
h2 { font-size: 1.35em; margin-top: 2.6em; border-top: 2px solid var(--line); padding-top: .6em; }
h3 { font-size: 1.05em; margin: 1.8em 0 .4em; }
a { color: var(--link); }
p { max-width: 62em; }
img { width: 100%; height: auto; background: #fff; border-radius: 6px; }
.headline, nav { display: grid; gap: 1em; padding: 0; list-style: none;
                 grid-template-columns: repeat(auto-fit, minmax(min(100%, 13em), 1fr)); }
.headline b { display: block; font-size: 1.9em; line-height: 1.2; }
nav a { text-decoration: none; border: 1px solid var(--line); border-radius: 8px; padding: .5em;
        text-align: center; }
nav img { height: 7.5em; object-fit: cover; object-position: 0 0; }
.faint, figcaption { color: var(--faint); font-size: .85em; }
.faint a { margin-right: .6em; }
figure { margin: 1em 0; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .4em .8em; margin: .8em 0; }
summary { cursor: pointer; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8em; font-variant-numeric: tabular-nums; }
th { text-align: right; vertical-align: bottom; padding: .3em .7em; max-width: 9em;
     border-bottom: 2px solid var(--faint); }
td { text-align: right; padding: .2em .7em; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--page); }
td.text { text-align: left; }
td.ours { background: var(--ours); font-weight: bold; }
@media (max-width: 40em) { body { padding: .8em; font-size: 15px; } }
"""
# The units of a heading in which numbers are shown as people say them: their size in seconds, or
# in bytes.
UNITS = {
    " (s)": (1, [(60, "min", 60), (1, "s", 1), (1e-3, "ms", 1e-3), (0, "µs", 1e-6)]),
    " (ms)": (1e-3, [(60, "min", 60), (1, "s", 1), (1e-3, "ms", 1e-3), (0, "µs", 1e-6)]),
    " (bytes)": (1, [(1e9, "GB", 1e9), (1e6, "MB", 1e6), (1e3, "kB", 1e3), (0, "B", 1)]),
    " (kB)": (1e3, [(1e9, "GB", 1e9), (1e6, "MB", 1e6), (1e3, "kB", 1e3), (0, "B", 1)]),
}


def plain(value):
    """A number with three digits or more; the CSV and JSON files have all of them."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.{sum(abs(value) < limit for limit in (100, 10, 1))}f}"


def with_unit(value, unit):
    """A number of a column with the unit " (ms)", for instance, with the unit that suits it."""
    size, names = UNITS[unit]
    value *= size
    for least, name, of in names:
        if abs(value) >= least:
            return f"{plain(value / of)}\N{NO-BREAK SPACE}{name}"


def shown(value, unit=None):
    """The text of a table cell."""
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, (int, float)) and unit:
        return with_unit(value, unit)
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else plain(value)
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def text(words):
    """The HTML of a sentence in which `code` and *titles* are marked."""
    marked = re.compile(r"`([^`]*)`|\*(\S[^*]*)\*")
    return marked.sub(
        lambda m: f"<i>{m[2]}</i>" if m[1] is None else f"<code>{m[1]}</code>",
        escape(words, quote=False),
    )


def columns_of(body):
    """The columns of a table that the page shows: at most WIDEST, and none that is empty."""
    columns = [
        (key, words)
        for key, words in body["columns"]
        if any(row.get(key) not in (None, "") for row in body["rows"])
    ]
    if body["name"] in SHOWN:
        chosen = []
        for pattern in SHOWN[body["name"]]:
            chosen += [column for column in columns if fnmatch(column[0], pattern)][:1]
        columns = chosen
    return columns[:WIDEST]


def table(body):
    """The HTML of a table."""
    columns = []
    for key, words in columns_of(body):
        unit = next((unit for unit in UNITS if words.endswith(unit)), None)
        columns.append((key, words.removesuffix(unit or ""), unit))
    head = "".join(f'<th scope="col">{escape(words)}</th>' for _, words, _ in columns)
    lines = []
    for row in body["rows"]:
        cells = []
        for key, _, unit in columns:
            kind = "ours" if key == "fftconv" else "text" if isinstance(row.get(key), str) else ""
            cells.append(f'<td class="{kind}">{shown(row.get(key), unit)}</td>')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


class Page:
    """The page of what `out` holds."""

    def __init__(self, results, out):
        self.results, self.out = results, out
        self.bodies, self.said = {}, set()
        for *_, scripts in GROUPS.values():
            for name in sum(scripts.values(), []):
                if (out / f"{name}.json").is_file():
                    self.bodies[name] = json.loads((out / f"{name}.json").read_text())
        # Most results are of one machine, which is named once; others say where they are from.
        machines = Counter(map(self.machine, self.bodies.values()))
        machines.pop(None, None)
        self.usual = machines.most_common(1)[0][0] if machines else None

    def machine(self, body):
        """On what a figure or table was measured; None: on nothing.

        Without the day, and without the version of PyTorch, which some experiments do not need.
        """
        line = body["measured_on"]
        if line == style.machine_line(None):
            return None
        return re.sub(", torch [^,;]*", "", line.rpartition("; ")[0])

    def path(self, file):
        return escape(os.path.relpath(style.HERE.parent / file, self.out))

    def caption(self, body):
        """The sentences of a caption that the page has not said yet, and the machine where it is
        another one."""
        sentences = re.split(r"(?<=[.;]) (?=[A-Z'])", body["caption"])
        new = [s for s in dict.fromkeys(sentences) if s not in self.said]
        self.said.update(new)
        if self.machine(body) not in (None, self.usual):
            new.append(f"Measured on {self.machine(body)}.")
        return text(" ".join(new))

    def files(self, body):
        endings = ("png", "pdf", "csv", "json") if body["image"] else ("csv", "json")
        return " ".join(f'<a href="{body["name"]}.{end}">{end.upper()}</a>' for end in endings)

    def section(self, body):
        name, title = body["name"], escape(body["title"])
        if body["image"]:
            return (
                f'<figure id="{name}"><h3>{title}</h3><a href="{name}.png"><img src="{name}.png" '
                f'alt="{escape(body["alt"])}"></a><figcaption>{self.caption(body)}<br>'
                f"{self.files(body)}</figcaption></figure>"
            )
        rows = len(body["rows"])
        more = len(body["columns"]) - len(columns_of(body))
        files = self.files(body) + (f" ({more} more columns)" if more > 0 else "")
        return (
            f'<details id="{name}"><summary>{title} <span class="faint">({rows} '
            f"row{'s' * (rows != 1)})</span></summary><p>{self.caption(body)}</p>{table(body)}"
            f'<p class="faint">{files}</p></details>'
        )

    def script(self, script, names):
        """What one script drew."""
        bodies = [self.bodies[name] for name in names if name in self.bodies]
        if not bodies:
            return ""
        if script == "table_gpu" and not any(map(self.machine, bodies)):
            return (
                "<p><b>On a GPU:</b> no GPU has run this yet; "
                f'<a href="{self.path("experiments/bench_gpu.py")}">experiments/bench_gpu.py</a> '
                "fills Tables 11\N{EN DASH}15 there in one call. What a model expects follows.</p>"
            )
        drawn = self.path(f"paper_figures/{script}.py")
        return (
            "".join(map(self.section, bodies))
            + f'<p class="faint">Drawn by <a href="{drawn}">{script}.py</a></p>'
        )

    def group(self, name):
        title, about, lesson, scripts = GROUPS[name]
        parts = "".join(self.script(*one) for one in scripts.items())
        if not parts:
            return f'<h2 id="part-{name}">{title}</h2><p>{text(about)} Not measured yet.</p>'
        notebook = self.path(f"notebooks/{lesson}.ipynb")
        return (
            f'<h2 id="part-{name}">{title}</h2><p>{text(about)} '
            f'<a class="faint" href="{notebook}">The lesson about it</a></p>{parts}'
        )

    def card(self, name):
        """A group's thumbnail."""
        title, _, _, scripts = GROUPS[name]
        first = next(iter(scripts.values()))[0]
        image = f'<img src="{first}.png" alt="">' if first in self.bodies else ""
        return f'<a href="#part-{name}">{image}<br>{title}</a>'

    def headline(self):
        """The three numbers to begin with, of those that are measured."""
        found = []
        if (self.results / "speed.json").is_file():
            _, over = readme_numbers.causal_speedups(style.read(self.results, "speed"))
            found.append((f"{readme_numbers.span(over['numpy'])} ×",
                          "as fast as NumPy's FFTs on one core, causal, by length"))  # fmt: skip
        if "table16" in self.bodies:
            ratios = [row["reduction"] for row in self.bodies["table16"]["rows"]]
            found.append((f"{readme_numbers.span(ratios)} ×",
                          "less memory beside the operands than NumPy needs"))  # fmt: skip
        if "genome_timing" in self.bodies:
            rows = self.bodies["genome_timing"]["rows"]
            taps = max(row["taps"] for row in rows)
            times = {row["method"]: row["seconds"] for row in rows if row["taps"] == taps}
            ours, theirs = (with_unit(times[METHODS[m][0]], " (s)") for m in ("fftconv", "scipy"))
            found.append((ours, f"for a genome's four rows and a filter of {taps:,} taps; "
                          f"SciPy takes {theirs}"))  # fmt: skip
        return "".join(f"<li><b>{escape(a)}</b> {escape(b)}</li>" for a, b in found)

    def html(self):
        machine = f"Measured on {escape(self.usual)}." if self.usual else ""
        return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{TITLE}</title><style>{STYLE}</style></head>
<body>
<h1>{TITLE}</h1>
<p>A whole genome as real input, and the evaluation of <a href="{PAPER}">FlashFFTConv</a> on a CPU,
by this library, beside the figures that the paper prints for an H100. Those show the shape of the
curves; they are not a comparison of speed.</p>
<ul class="headline">{self.headline()}</ul>
<p class="faint">{machine} Times are medians of interleaved runs, and every result was compared
with a float64 oracle before it was timed.</p>
<nav>{"".join(map(self.card, GROUPS))}</nav>
{"".join(map(self.group, GROUPS))}
</body>
</html>
"""


def draw(results, out):
    """Write index.html from the JSON files that the other scripts wrote to out/."""
    (out / "index.html").write_text(Page(results, out).html())


if __name__ == "__main__":
    style.main(draw)
