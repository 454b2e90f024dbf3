"""How plans, counters, patterns and machines look in a notebook: HTML for `_repr_html_`.

All is drawn in the text's own colour, so it can be read on dark pages, too.
"""

from html import escape

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))


def amount(value, unit):
    """A number with three digits and a prefix: amount(1.35e12, "B/s") is "1.35 TB/s"."""
    size, prefix = next((p for p in PREFIXES if abs(value) >= p[0]), (1e-9, "n"))
    value = value / size if value else 0
    digits = sum(abs(value) < limit for limit in (100, 10)) if value % 1 else 0
    return f"{value:.{digits}f} {prefix if value else ''}{unit}".rstrip()


def table(title, rows):
    """A titled table of (name, value) pairs."""
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:right">{escape(str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{escape(title)}</caption>{lines}</table>"


def counters(c):
    stages = [
        (f"stage {i}, there and back", amount(flops, "flop"))
        for i, flops in enumerate(c.stage_flops, 1)
    ]
    moved = [
        (f"moved in {words}", amount(getattr(c, f"{level}_bytes"), "B"))
        for level, words in (("l1", "L1"), ("l2", "L2"), ("memory", "memory beyond"))
    ]
    return table(
        "One forward call, counted",
        [
            *stages,
            ("product", amount(c.product_flops, "flop")),
            ("folds", amount(c.fold_flops, "flop")),
            ("all arithmetic", amount(c.flops, "flop")),
            ("u read, y written", amount(c.io_bytes, "B")),
            *moved,
            ("spectrum", amount(c.spectrum_bytes, "B")),
            ("workspace, forward", amount(c.forward_workspace_bytes, "B")),
            ("workspace, backward", amount(c.backward_workspace_bytes, "B")),
            ("time on one thread, predicted", amount(c.predicted_seconds, "s")),
        ],
    )


def box(x, width, words):
    """A labelled box of a drawing 44 high."""
    return (
        f'<rect x="{x}" y="8" width="{width}" height="28" rx="4" fill="none" '
        f'stroke="currentColor"/><text x="{x + width / 2}" y="27" text-anchor="middle" '
        f'font-size="13" fill="currentColor">{escape(str(words))}</text>'
    )


def stages(radices):
    """The way of one row: its stages, the product with the spectrum, and the stages back."""
    words = ["u", *radices, "· spectrum", *reversed(radices), "y"]
    parts, x = [], 1
    for word in words:
        width = 18 + 8 * len(str(word))
        if x > 1:
            parts.append(
                f'<path d="M{x - 12} 22h10m-4 -3l4 3l-4 3" fill="none" stroke="currentColor"/>'
            )
        parts.append(box(x, width, word))
        x += width + 13
    return (
        f'<svg width="{x}" height="44" role="img" aria-label="stages '
        f'{" ".join(map(str, radices))}, there and back">{"".join(parts)}</svg>'
    )


def plan(p):
    c = p.counters
    blocks = "one" if p.blocks == 1 else f"{p.blocks}, of {p.block_length:,} outputs"
    where = f"{p.isa}, {p.threads} threads" if p.engine is None else f"{p.engine}, {p.device}"
    mode = p.mode if p.fft_size is None else f"{p.mode} modulo {p.fft_size:,}"
    rows = [
        ("rows", f"{p.u_shape}, {p.dtype}"),
        ("kernel", p.k_shape),
        ("mode", mode),
        ("blocks of a row", blocks),
        ("points of a transform", f"{p.transform_length:,}, {p.form.replace('_', ' ')}"),
        ("runs on", where),
    ]
    if p.pattern is not None:
        rows.append(("pattern", f"{p.pattern!r}, {p.computed:.0%} computed"))
    if p.engine is None:
        rows += [
            ("arithmetic", amount(c.flops, "flop")),
            ("spectrum", amount(c.spectrum_bytes, "B")),
            ("workspace, forward", amount(c.forward_workspace_bytes, "B")),
            ("time on one thread, predicted", amount(c.predicted_seconds, "s")),
        ]
    return f"<div>{stages(p.stage_radices)}{table('Plan', rows)}</div>"


def strip(kept, y, words):
    """A line of a drawing: which of up to 64 stretches are kept, and what it is about."""
    count = len(kept)
    cells = min(count, 64)
    parts = []
    for i in range(cells):
        part = kept[i * count // cells : (i + 1) * count // cells]
        opacity = round(0.08 + 0.72 * sum(map(bool, part)) / len(part), 3)
        parts.append(
            f'<rect x="{1 + 384 * i / cells:.1f}" y="{y}" width="{384 / cells:.1f}" height="16" '
            f'fill="currentColor" fill-opacity="{opacity}" stroke="currentColor" '
            'stroke-width="0.4"/>'
        )
    return "".join(parts) + (
        f'<text x="394" y="{y + 13}" font-size="13" fill="currentColor">{escape(words)}</text>'
    )


def pattern(title, lines):
    """lines: (which are kept, what the line is about), one for each digit or for all bins."""
    drawn = "".join(strip(kept, 2 + 22 * i, words) for i, (kept, words) in enumerate(lines))
    return (
        f'<div><code>{escape(title)}</code><br><svg width="700" height="{4 + 22 * len(lines)}" '
        f'role="img" aria-label="{escape(title)}">{drawn}</svg></div>'
    )


def hardware(h):
    how = "measured" if h.measured else "from its data sheet"
    return table(
        f"{h.name}, {how}",
        [
            ("main memory, sigma_h", amount(h.sigma_h, "B/s")),
            ("fast memory, sigma_s", amount(h.sigma_s, "B/s")),
            ("matrix products, tau_m", amount(h.tau_m, "flop/s")),
            ("other arithmetic, tau_g", amount(h.tau_g, "flop/s")),
            ("least radix at tau_m, mu", h.mu),
            ("points that fit fast memory", f"{h.fast_points:,}"),
        ],
    )
