"""Write out/index.html, a page with all figures and tables that needs no network."""

import json
from html import escape

import style

ORDER = [
    "figure4",
    "cpu",
    "cpu_speed",
    "cpu_limits",
    "cpu_peaks",
    "cpu_targets",
    "cpu_rows",
    "cpu_planner",
    "speed",
    "table3",
    "table4",
    "table11",
    "table12",
    "table13",
    "table14",
    "table15",
    "table11_gpu",
    "table12_gpu",
    "table13_gpu",
    "table14_gpu",
    "table15_gpu",
    *(f"table{n}_predicted" for n in range(11, 16)),
    "memory",
    "table16",
    "table17",
    "partial",
    "table7",
    "table7_longer",
    "sparsity",
    "table9",
    "short",
    "table_short",
    "strategies",
    "table_strategies",
    "table_kernel",
    "genome",
    "genome_timing",
]
TITLE = "libfftconv: figures and tables"
STYLE = """
body { font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; color: #222;
       margin: 0 auto; max-width: 1180px; padding: 1.5em; }
h1 { font-size: 1.6em; margin-bottom: .2em; }
h2 { font-size: 1.15em; margin-top: 2.4em; }
a { color: #0072B2; }
nav a { margin-right: 1em; white-space: nowrap; }
img { width: 100%; }
p.caption { max-width: 62em; }
.files, .machine { color: #666; font-size: .82em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8em;
        font-variant-numeric: tabular-nums; }
th { text-align: right; vertical-align: bottom; padding: .3em .7em;
     border-bottom: 2px solid #888; max-width: 8.5em; }
td { text-align: right; padding: .2em .7em; white-space: nowrap;
     border-bottom: 1px solid #e4e4e4; }
td.text { text-align: left; white-space: normal; min-width: 18em; color: #666; }
th.text { text-align: left; }
td.ours { background: #eaf3f9; font-weight: bold; }
"""


def shown(key, value):
    """Return the text of a table cell.

    Measured numbers are shown with three or four digits and the paper's as printed; the CSV and
    JSON files have all digits.
    """
    if value is None or value == "":
        return "" if key == "note" else "\N{EN DASH}"
    if isinstance(value, int) or key.startswith("h100"):
        return f"{value:,}"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.1e}"
        digits = sum(abs(value) < limit for limit in (1000, 100, 1))
        return f"{value:,.{digits}f}"
    return escape(str(value))


# The CSS classes of columns that look different from the others.
KINDS = {"note": "text", "fftconv": "ours"}


def table(body):
    """Return the HTML of a table, without the columns that are empty in all of its rows."""
    columns = [
        (key, words)
        for key, words in body["columns"]
        if any(row.get(key) not in (None, "") for row in body["rows"])
    ]
    head = "".join(
        f'<th class="{KINDS.get(key, "")}">{escape(words)}</th>' for key, words in columns
    )
    lines = []
    for row in body["rows"]:
        cells = []
        for key, _ in columns:
            text = shown(key, row.get(key))
            cells.append(f'<td class="{KINDS.get(key, "")}">{text}</td>')
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def section(body):
    name = body["name"]
    endings = ("png", "pdf", "csv", "json") if body["image"] else ("csv", "json")
    files = " ".join(f'<a href="{name}.{end}">{end.upper()}</a>' for end in endings)
    content = (
        f'<img src="{name}.png" alt="{escape(body["title"])}">' if body["image"] else table(body)
    )
    return (
        f'<section id="{name}"><h2>{escape(body["title"])}</h2>{content}'
        f'<p class="caption">{escape(body["caption"])}</p>'
        f'<p class="files">{files}</p>'
        f'<p class="machine">Measured on {escape(body["measured_on"])}</p>'
        "</section>"
    )


def draw(results, out):
    """Write index.html from the JSON files that the other scripts wrote to out/."""
    files = [out / f"{name}.json" for name in ORDER]
    bodies = [json.loads(f.read_text()) for f in files if f.is_file()]
    links = " ".join(
        f'<a href="#{b["name"]}">{escape(b["title"].split(":")[0])}</a>' for b in bodies
    )
    machine = escape(style.machine_line(style.read(results, "speed")))
    sections = "".join(map(section, bodies))
    (out / "index.html").write_text(f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style></head>
<body>
<h1>{TITLE}</h1>
<p>The evaluation of FlashFFTConv (arXiv 2311.05908) on a CPU, by this library,
beside the paper's printed H100 figures; and a whole genome as real input.</p>
<p class="machine">{machine}</p>
<nav>{links}</nav>
{sections}
</body>
</html>
""")


if __name__ == "__main__":
    style.main(draw)
