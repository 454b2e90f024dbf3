"""Write into README.md what it says of measurements, from the results in experiments/results.

In README.md the text between <!-- NAME --> and <!-- /NAME --> is that of one function here.  A
test compares the two, so no number there is older than the stored results.

    .venv/bin/python paper_figures/readme_numbers.py
"""

import re
import textwrap

import cpu_engine
import style

README = style.HERE.parent / "README.md"
RESULTS = style.HERE.parent / "experiments" / "results"
# The targets that are always shown: the comparisons with other libraries, and threads.
ALWAYS = ("fftw_avx512", "fftw_avx2", "scipy", "torch", "threads", "threads_row")


def where(record):
    """The processor of a record and its instruction set."""
    machine = record["machine"]
    names = {"avx2": "AVX2", "avx512": "AVX-512"}
    return f"{machine['cpu']}, {names.get(machine['isa'], machine['isa'])}"


def span(values, digits=1):
    """The least and the largest of some numbers, as text."""
    low, high = (f"{x:.{digits}f}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def filled(text):
    """A paragraph in lines of the README's length."""
    return textwrap.fill(" ".join(text.split()), 97, break_on_hyphens=False)


def causal_speedups(record):
    """(lengths, {method: its time over ours, by length}) of Table 13, on one thread."""
    cases = [found for (table, _), found in sorted(style.by_case(record).items()) if table == 13]
    return [found["fftconv"]["length"] for found in cases], {
        method: [found[method]["median_s"] / found["fftconv"]["median_s"] for found in cases]
        for method in ("numpy", "scipy")
    }


def headline(results):
    record = style.read(results, "speed")
    lengths, over = causal_speedups(record)
    return filled(
        f"""Convolves long signals with long filters: **on one core {span(over["numpy"])} times as
        fast as NumPy's FFTs, and {span(over["scipy"])} times as fast as SciPy's**. (Causal,
        float32, filters as long as the signals, of {min(lengths):,} to {max(lengths):,} samples;
        {where(record)}.)"""
    )


def targets(results):
    record = style.read(results, "bench_cpu")
    shown = record["targets"]
    rows = {name: [r for r in record["rows"] if r["target"] == name] for name in shown}
    lines = ["| time of one over time of the other | target | reached | rows that reach it |"]
    lines += ["|---|---|---|---|"]
    for name, target in shown.items():
        if name not in ALWAYS and target["met"]:
            continue
        limits = span([r["limit"] for r in rows[name]], 2)
        lines.append(
            f"| {cpu_engine.WORDS[name]} | at {target['sense']} {limits} "
            f"| {span([r['value'] for r in rows[name]], 2)} "
            f"| {target['rows_met']} of {target['rows']} |"
        )
    met = sum(target["met"] for target in shown.values())
    text = f"""Measured on {where(record)}, in rows of different lengths. {met} of {len(shown)}
        targets are reached; the table has the comparisons with other libraries and of threads, and
        every target that is missed."""
    if (results / "torch_speed.json").is_file():
        record = style.read(results, "torch_speed")
        text += f""" In PyTorch a convolution and its gradients are
            {span([r["speedup"] for r in record["rows"]])} times as fast as with `torch.fft`
            ({where(record)})."""
    return "\n".join([*lines, "", filled(text)])


def block(name):
    """The pattern of a block of the README: its beginning, its text and its end."""
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- /{name} -->)", re.S)


BLOCKS = {"headline": headline, "targets": targets}


def write(results=RESULTS, readme=README):
    """Write every block of the README."""
    text = readme.read_text()
    for name, body in BLOCKS.items():
        text = block(name).sub(lambda m, body=body: m[1] + body(results) + "\n" + m[3], text)
    readme.write_text(text)


if __name__ == "__main__":
    write()
