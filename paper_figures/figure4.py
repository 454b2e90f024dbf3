"""Draw the paper's Figure 4: the cost model of order-p Monarch decompositions."""

import style
from fftconv import cost
from style import plt

ORDERS = {2: style.BLUE, 3: style.ORANGE, 4: style.GREEN}
SIZES = [2**a for a in range(8, 23)]


# For each panel: the name of the machine in results/host.json; the title; the unit and how many
# picoseconds it has; the texts of the two annotations, which for the A100 are the paper's.
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
    """Return rows of C/N in picoseconds, for B = H = 1 and the balanced radices of Figure 4."""
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
    """Draw the curves of one machine.  unit: (its name, how many picoseconds it has)."""
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
    # Annotate the bump of order 4, which is due to radices below mu.
    small = [n for n in SIZES if min(cost.balanced_radices(n, 4)) < hardware.mu]
    peak = max(small, key=value[4].get, default=None)
    if small and value[4][peak] > min(value[4][n] for n in SIZES if n > peak):
        height = value[4][peak]
        # The text is above the curve if order 4 is the costliest at the peak, else below it.
        above = height == max(curve[peak] for curve in value.values())
        place = (2**11.5, high) if above else (peak, height / 3)
        note(axis, small_note, (peak, height), place)
    # Annotate the first length at which order 3 no longer fits in the fast memory.
    limit = 2 * hardware.fast_points
    if limit in value[3]:
        note(axis, limit_note, (limit, value[3][limit]), (limit * 2, low / 1.4))


def draw(results, out):
    """Draw Figure 4 from results/host.json, which includes the constants of Table 19."""
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
        """Two panels, an A100 and this machine: the cost per token over the sequence length from
        256 to 4 million, a line each for orders 2, 3 and 4. The line of order 2 climbs steepest.
        Arrows point at where matrices are too small and where fast memory ends.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
