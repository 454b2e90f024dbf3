"""Draw the README's figure: the time per output element of a causal convolution."""

import style
from style import METHODS, plt

SHOWN = ["scipy_fftconvolve", "numpy", "scipy", "fftconv", "fftconv_ready"]


def draw(results, out):
    """Draw readme.png from Table 13 in results/speed.json."""
    record = style.read(results, "speed")
    found = {}
    for row in record["rows"]:
        if row["table"] == 13:
            found.setdefault(row["method"], {})[row["length"]] = row["ns_per_output"]
    figure, axis = plt.subplots(figsize=(7.6, 4), layout="constrained")
    for method in SHOWN:
        label, colour, marker, dashes = METHODS[method]
        axis.plot(
            found[method].keys(),
            found[method].values(),
            color=colour,
            marker=marker,
            ls=dashes,
            label=label,
        )
    lengths = sorted(found["fftconv"])
    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [style.short(n) for n in lengths])
    axis.set_xlabel("Sequence length L")
    axis.set_ylabel("ns per output element")
    machine = record["machine"]
    axis.set_title(f"Causal convolution, float32, one thread\n{machine['cpu']}, {machine['isa']}")
    axis.legend(loc="upper left", ncols=2)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 1.3, high * 2)  # leave room for the legend
    style.plain_log(axis, [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200])
    style.save_figure(
        figure,
        out,
        "readme",
        "Time per output element, causal convolution",
        """Table 13's runs per element: input and kernel of L samples. The
        kernel's transform is part of every call except under 'spectrum
        ready'.""",
        [("length", "L")] + [(m, METHODS[m][0] + " (ns)") for m in SHOWN],
        [{"length": n, **{m: found[m][n] for m in SHOWN}} for n in lengths],
        record,
        """Five rising lines over the length of the signals: the time per output element of
        NumPy, of SciPy in two ways, and of libfftconv with and without the filter transformed
        beforehand.""",
    )
    return figure


if __name__ == "__main__":
    style.main(draw)
