"""Figure 4: the cost model of order-p Monarch decompositions."""

import style
from fftconv import cost
from style import plt

ORDERS = {2: style.BLUE, 3: style.ORANGE, 4: style.GREEN}
SIZES = [2**a for a in range(8, 23)]


# Table 19's name for it; title; unit; the words of the two annotations, the
# paper's own on its own machine.
PANELS = [
    (
        "A100",
        "A100, the paper's constants",
        ("ps", 1),
        "Matrices Too Small\nfor Tensor Cores",
        "SRAM Limit",
    ),
    (
        "host",
        "This machine, measured",
        ("ns", 1000),
        "Matrices smaller than \N{GREEK SMALL LETTER MU}",
        "Fast memory limit",
    ),
]


def curves(hardware):
    """Rows of C/N in picoseconds, B = H = 1, at Figure 4's balanced radices."""
    rows = []
    for order in ORDERS:
        for n in SIZES:
            radices = cost.balanced_radices(n, order)
            seconds = cost.monarch_cost(n, radices, hardware)
            rows.append(
                {
                    "hardware": hardware.name,
                    "order": order,
                    "n": n,
                    "radices": " ".join(map(str, radices)),
                    "ps_per_token": 1e12 * seconds / n,
                }
            )
    return rows


def note(axis, text, at, to):
    axis.annotate(
        text,
        xy=at,
        xytext=to,
        fontsize=8.5,
        color="#333333",
        ha="center",
        arrowprops=dict(arrowstyle="-|>", color="#333333", lw=0.9, shrinkA=1, shrinkB=4),
    )


def panel(axis, rows, hardware, unit, small_note, limit_note):
    """One machine's curves; unit: (name, picoseconds in one)."""
    value = {}
    for order, colour in ORDERS.items():
        value[order] = {r["n"]: r["ps_per_token"] / unit[1] for r in rows if r["order"] == order}
        axis.plot(SIZES, list(value[order].values()), color=colour, marker="o")
        axis.annotate(
            f"p = {order}",
            (SIZES[-1], value[order][SIZES[-1]]),
            color=colour,
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )
    style.length_axis(axis, SIZES)
    every = [c for curve in value.values() for c in curve.values()]
    low, high = min(every), max(every)
    axis.set_ylim(low / 2, high * 2)
    style.plain_log(axis, [10.0**e for e in range(-3, 7)])
    axis.set_xlabel("Sequence length N")
    axis.set_ylabel(f"Cost per token C/N ({unit[0]})")
    # The bumps: orders 3 and 4 while their radices are below mu ...
    small = [n for n in SIZES if min(cost.balanced_radices(n, 4)) < hardware.mu]
    if small:
        peak = max(small, key=value[4].get)
        height = value[4][peak]
        # From above where order 4 is the costliest there, else from below.
        above = height == max(curve[peak] for curve in value.values())
        place = (2**11.5, high) if above else (peak, height / 3)
        note(axis, small_note, (peak, height), place)
    # ... and order 3 once a sub-transform no longer fits the fast memory.
    limit = 2 * hardware.fast_points
    if limit in value[3]:
        note(axis, limit_note, (limit, value[3][limit]), (limit * 2, low / 1.4))


def draw(results, out):
    """Figure 4 from results/host.json and the paper's Table 19."""
    record = style.read(results, "host")
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    rows = []
    for axis, (name, title, *words) in zip(axes, PANELS):
        hardware = cost.Hardware(**record["hardware"][name])
        mine = curves(hardware)
        panel(axis, mine, hardware, *words)
        axis.set_title(title)
        rows += mine
    figure.suptitle("Cost model for order-p Monarch decompositions", fontsize=12)
    style.save_figure(
        figure,
        out,
        "figure4",
        "Figure 4: cost model for order-p Monarch decompositions",
        """Equation 2 per token, B = H = 1, radices the most equal powers of
        two, largest outermost. Left: the A100's constants of Table 19. Right:
        this machine's, measured. The paper prints no unit on its axis;
        picoseconds fit its ticks of 10 and 100.""",
        [
            ("hardware", "Hardware"),
            ("order", "p"),
            ("n", "N"),
            ("radices", "Radices"),
            ("ps_per_token", "C/N (ps)"),
        ],
        rows,
        record,
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
