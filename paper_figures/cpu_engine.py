"""Draw the speed of the CPU engine beside FFTW, SciPy, PyTorch and the limits of the machine.

A table says which of the speed targets are met.
"""

import style
from style import METHODS, plt

SPEED_TEXT = """Causal, float32, one thread, u of B x H rows: medians of
interleaved runs, each result compared with a float64 FFT before. Floor: the
additions of a real FFT alone, 4 (log2 2L - 3/4) per output, at the measured rate
of additions in registers. {fftw}"""
LIMIT_TEXT = """The runs of the table above. Gflop/s: the plan's count of
operations over the time, beside the measured rates of additions, which are not
all of them, and of fused multiply-adds, which few of them can be. Bytes: by the
plan's count, in the memory where they stay; a row of the spectrum is read for
each of the batch. Alone: at the highest rate of arithmetic, or of copying, in the
table below. Binds: which of these takes longest; what is left of the time is
latency, shuffles, and loads and stores that do not overlap."""
FFTW_TEXT = """FFTW: {fftw}, {fftw_flags}, the best of {fftw_plans} plans; row by
row, or two rows as one complex one, in cache, copying in and out and zeros
included; the spectrum of k made beforehand on both sides; where it is missing,
FFTW had not planned such rows. Times FFTW: the better of its two over ours."""
TARGET_TEXT = """Ratios of medians of interleaved runs. Worst: the row furthest
from its limit, or nearest to it; every row is in the next table. Clock: where
other work took the processor, times are processor time."""
PLANNER_TEXT = """The plan's own choice of stages beside the best of those forced
upon it: other lengths, sets and orders of radices, screened first, the best five
then taking turns with the plan's own."""
PEAK_TEXT = """Arithmetic in registers, and arrays of a half of a cache (an eighth
of the third, which others share): bytes read plus bytes written."""


def peers_of(record):
    """Return {row length: {library: ns per output}}.

    The times are on one thread, and the FFT of the kernel is part of the call.
    """
    found = {}
    for row in record["rows"]:
        if row["target"] == "scipy" and row["case"].endswith(" 1 threads"):
            found[row["length"]] = row["ns"]
    return found


def speeds_of(record):
    """Return one row for each L: FFTW's two methods and each of libfftconv's instruction sets."""
    rows = {}
    for r in record["program"]["rows"]:
        row = rows.setdefault(
            r["length"], {"length": r["length"], "run": f"{r['batch']} x {r['channels']}"}
        )
        if r["method"].startswith("FFTW"):
            key = r["method"].lower().replace(" ", "_")
            row[key] = r["ns_per_output"]
            continue
        isa = r["isa"]
        row[f"ours_{isa}"] = r["ns_per_output"]
        for key, value in (
            ("floor", r["floor_ns"]),
            ("stages", " ".join(map(str, r["stages"]))),
            ("error", r["error"]),
            ("clock", r["clock"]),
        ):
            row[f"{key}_{isa}"] = value
    for row in rows.values():
        peers = [row[k] for k in ("fftw_r2c", "fftw_pairs") if k in row]
        for isa in isas_of(record):
            if peers:
                row[f"over_fftw_{isa}"] = min(peers) / row[f"ours_{isa}"]
    return list(rows.values())


def isas_of(record):
    return [p["isa"] for p in record["program"]["peaks"]]


def speed_columns(record):
    columns = [
        ("length", "L"),
        ("run", "B x H run"),
        ("fftw_r2c", "FFTW, row by row (ns per output)"),
        ("fftw_pairs", "FFTW, pairs of rows (ns)"),
    ]
    for isa in isas_of(record):
        columns += [
            (f"ours_{isa}", f"libfftconv, {isa} (ns)"),
            (f"over_fftw_{isa}", "Times FFTW"),
            (f"floor_{isa}", "Floor (ns)"),
            (f"stages_{isa}", "Stages"),
            (f"error_{isa}", "Error"),
            (f"clock_{isa}", "Clock"),
        ]
    return columns


# What each target compares, in words.  Times of one over times of the other, but for the last.
WORDS = {
    "fftw_avx512": "FFTW over ours, AVX-512, filter transformed beforehand",
    "fftw_avx2": "FFTW over ours, AVX2, filter transformed beforehand",
    "scipy": "the fastest of SciPy's over ours, filter transformed in the call",
    "torch": "PyTorch's FFTs over ours, filter transformed in the call",
    "threads": "one thread over two, rows of up to 65,536 samples",
    "threads_long": "one thread over two, longer rows",
    "threads_row": "one thread over two, a single long row",
    "batch": "one row or an odd number of them over four, per output",
    "fused": "with gates, skip and activation over without, rows in cache",
    "fused_long": "with gates over without, rows in no cache",
    "half": "16 bits over float32, rows in cache",
    "half_memory": "16 bits over float32, where memory binds",
    "backward": "backward over gated forward, four rows",
    "backward_row": "backward over gated forward, one row",
    "workspace": "workspace of 512 rows over that of one, one thread",
    "circular": "circular over causal, per point of the transform",
    "any_length": "any length over the nearest power of two, per output",
    "baseline": "AVX2 over the baseline",
    "planner": "the plan's radices over the best forced ones",
    "planning": "a first plan (ms)",
    "planning_again": "a second plan of the same size (ms)",
    "python": "what a call from Python adds (us)",
}
LEVELS = {"l1": "L1", "l2": "L2", "l3": "L3", "memory": "memory"}


def limits_of(record):
    """Return one row for each instruction set and L: how much of the machine's rates it uses."""
    rows = []
    for r in record["program"]["rows"]:
        if r["method"].startswith("FFTW"):
            continue
        outputs = r["batch"] * r["channels"] * r["length"]
        row = {
            "isa": r["isa"],
            "length": r["length"],
            "ours": r["ns_per_output"],
            "flops": r["flops"] / outputs,
            "gflops": r["gflops"],
            "of_add": 100 * r["of_add"],
            "of_fma": 100 * r["of_fma"],
            "of_floor": 100 * r["of_floor"],
            "arithmetic": 100 * r["arithmetic_s"] / r["median_s"],
            "binds": r["binds"],
            "of_bound": 100 * r["of_bound"],
        }
        for level in LEVELS:
            row[f"bytes_{level}"] = r["bytes"][level] / outputs
            row[f"of_{level}"] = 100 * r["moving_s"][level] / r["median_s"]
        rows.append(row)
    return rows


LIMIT_COLUMNS = (
    [
        ("isa", "Instruction set"),
        ("length", "L"),
        ("ours", "libfftconv (ns per output)"),
        ("flops", "Flops per output"),
        ("gflops", "Gflop/s"),
        ("of_add", "Of the ADD rate (%)"),
        ("of_fma", "Of the FMA rate (%)"),
        ("of_floor", "Floor of additions, of our time (%)"),
        ("arithmetic", "Arithmetic alone, of our time (%)"),
    ]
    + [(f"bytes_{k}", f"Bytes per output, {v}") for k, v in LEVELS.items()]
    + [(f"of_{k}", f"{v} alone, of our time (%)") for k, v in LEVELS.items()]
    + [("binds", "Binds"), ("of_bound", "That, of our time (%)")]
)


def draw_speeds(record, speeds, limits, peers):
    """Return a figure of three panels.

    They show the time per output, the time of the other libraries over that of libfftconv, and
    the part of the machine's measured rates that is used.
    """
    figure, (times, ratios, parts) = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    best = isas_of(record)[0]

    def line(axis, points, method, **look):
        label, colour, marker, dashes = METHODS[method]
        look = dict(label=label, color=colour, marker=marker, ls=dashes) | look
        if points:
            axis.plot(*zip(*points), **look)

    def column(key):
        return [(r["length"], r[key]) for r in speeds if key in r]

    line(times, column("fftw_r2c"), "fftw_r2c")
    line(times, column("fftw_pairs"), "fftw_pairs")
    for isa, dashes in zip(isas_of(record), ("-", "--", "-.")):
        line(
            times,
            column(f"ours_{isa}"),
            "fftconv_ready",
            label=f"libfftconv, {isa}",
            color=style.BLUE,
            ls=dashes,
        )
    line(times, column(f"floor_{best}"), "floor")
    for method, dashes in (("fftconv", ":"), ("scipy", "-"), ("torch", "-")):
        line(
            times,
            [(n, ns[method]) for n, ns in peers.items() if method in ns],
            method,
            label=f"{METHODS[method][0]}, kernel's FFT in the call",
            ls=dashes,
        )
    times.set_title("Time per output element")
    times.set_ylabel("ns, one thread, float32")
    times.set_yscale("log")
    style.plain_log(times, [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])

    line(ratios, column(f"over_fftw_{best}"), "fftw_r2c", label="FFTW, the better of two")
    for method in ("scipy", "scipy_fftconvolve", "scipy_oaconvolve", "torch"):
        line(
            ratios,
            [(n, ns[method] / ns["fftconv"]) for n, ns in peers.items() if method in ns],
            method,
        )
    ratios.axhline(1, color="#333333", lw=0.8)
    ratios.set_title(f"Their time over ours, {best}")
    ratios.set_ylabel("times")
    ratios.set_ylim(bottom=0)

    mine = [r for r in limits if r["isa"] == best]
    for key, label, colour, dashes in (
        ("of_add", "operations, of the ADD rate", style.BLUE, "-"),
        ("of_fma", "operations, of the FMA rate", style.BLUE, ":"),
        ("of_floor", "floor of additions, of the time", style.GREY, "--"),
        ("of_bound", "what binds, of the time", style.RED, "-"),
    ):
        parts.plot(
            [r["length"] for r in mine],
            [r[key] for r in mine],
            label=label,
            color=colour,
            ls=dashes,
            marker="o",
        )
    parts.set_title(f"Of what this machine can do, {best}")
    parts.set_ylabel("%")
    parts.set_ylim(bottom=0)
    for axis in (times, ratios, parts):
        style.length_axis(axis, [r["length"] for r in speeds])
        axis.set_xlabel("Row length L")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, fontsize=8)
    return figure


def peak_rows(record):
    rows = []
    for p in record["program"]["peaks"]:
        row = {
            "isa": p["isa"],
            "vector": p["vector_bytes"],
            **{k: p[f"{k}_flops"] / 1e9 for k in ("add", "fma", "mixed")},
        }
        for kind in ("copy", "triad"):
            for level, rate in p[f"{kind}_bytes"].items():
                row[f"{kind}_{level}"] = rate / 1e9
        rows.append(row)
    return rows


PEAK_COLUMNS = [
    ("isa", "Instruction set"),
    ("vector", "Vector (bytes)"),
    ("add", "ADD (Gflop/s)"),
    ("fma", "FMA (Gflop/s)"),
    ("mixed", "One of each (Gflop/s)"),
] + [
    (f"{kind}_{level}", f"{kind.capitalize()}, {words} (GB/s)")
    for kind in ("copy", "triad")
    for level, words in LEVELS.items()
]
TARGET_COLUMNS = [
    ("target", "Target"),
    ("what", "What over what"),
    ("sense", "At"),
    ("limit", "Limit"),
    ("worst", "Worst"),
    ("at", "At L"),
    ("rows_met", "Rows that meet theirs"),
    ("rows", "Of"),
    ("reached", "Met"),
]
ROW_COLUMNS = [
    ("target", "Target"),
    ("length", "L"),
    ("case", "Case"),
    ("value", "Value"),
    ("sense", "At"),
    ("limit", "Limit"),
    ("reached", "Met"),
    ("above_ns", "Above (ns per output)"),
    ("below_ns", "Below (ns per output)"),
    ("error", "Error"),
    ("clock", "Clock"),
]
PLANNER_COLUMNS = [
    ("length", "L"),
    ("own_m", "M"),
    ("own_stages", "The plan's stages"),
    ("own_ns", "Its time (ns per output)"),
    ("predicted_ns", "Predicted (ns)"),
    ("best_m", "M of the best"),
    ("best_stages", "Its stages"),
    ("best_ns", "Its time (ns)"),
    ("ratio", "Own over best"),
]


def yes(met):
    return "yes" if met else "no"


def draw(results, out):
    """Draw six tables and a figure of the CPU engine from bench_cpu.json."""
    record = style.read(results, "bench_cpu")
    program = record["program"]
    how = SPEED_TEXT.format(
        fftw=FFTW_TEXT.format(**program)
        if program["fftw"]
        else "FFTW was not there to compare with."
    )
    speeds = speeds_of(record)
    columns = speed_columns(record)
    style.save_table(
        out, "cpu_speed", "CPU engine: speed", how, columns, speeds,
        record)  # fmt: skip
    limits = limits_of(record)
    style.save_table(
        out, "cpu_limits", "CPU engine: what limits it", LIMIT_TEXT,
        LIMIT_COLUMNS, limits, record)  # fmt: skip
    style.save_table(
        out, "cpu_peaks", "CPU engine: what this machine can do", PEAK_TEXT,
        PEAK_COLUMNS, peak_rows(record), record)  # fmt: skip
    targets = record["targets"]
    style.save_table(
        out, "cpu_targets", "CPU engine: targets", TARGET_TEXT, TARGET_COLUMNS,
        [{"target": name, **t, "what": WORDS[name], "reached": yes(t["met"])}
         for name, t in targets.items()], record)  # fmt: skip
    style.save_table(
        out, "cpu_rows", "CPU engine: every row of the targets", TARGET_TEXT,
        ROW_COLUMNS,
        [{**r, "sense": targets[r["target"]]["sense"],
          "reached": yes(r["met"])} for r in record["rows"]],
        record)  # fmt: skip
    style.save_table(
        out, "cpu_planner", "CPU engine: the planner's choices", PLANNER_TEXT,
        PLANNER_COLUMNS,
        [{**r, **{f"{who}_stages": " ".join(map(str, r[who]))
                  for who in ("own", "best")}}
         for r in record["planner"]], record)  # fmt: skip
    peers = peers_of(record)
    figure = draw_speeds(record, speeds, limits, peers)
    with_fftw = (
        "; with FFTW the kernel's spectrum is made beforehand on both sides"
        if program["fftw"]
        else ""
    )
    torch = any("torch" in ns for ns in peers.values())
    peers_text = "SciPy and PyTorch" if torch else "SciPy"
    style.save_figure(
        figure, out, "cpu", "CPU engine",
        f"""Left: time per output element{with_fftw}. Middle: how many times longer the
        others take; the calls of {peers_text} transform the kernel, as ours beside them
        does. Right: how much of this machine's measured rates is used, and how
        much of the time what binds would take alone.""",
        columns, speeds, record,
        f"""Three panels over the row length. Left: time per output element of libfftconv on each
        instruction set, beside {peers_text}. Middle: their time over libfftconv's. Right: the
        shares of the machine's measured rates that are used.""")  # fmt: skip
    return figure


if __name__ == "__main__":
    style.main(draw)
