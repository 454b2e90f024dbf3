"""Draw Tables 11-15 for a GPU: libfftconv, cuFFT, PyTorch, and the paper's numbers.

If experiments/bench_gpu.py has not been run on a GPU, there is no bench_gpu.json, and every
cell but the paper's says "not measured".
"""

import style

TITLES = {
    11: "forward, circular (input = FFT size)",
    12: "gated forward, circular",
    13: "forward, causal (input = FFT size / 2)",
    14: "gated forward, causal",
    15: "backward, circular",
}
METHODS = {
    "fused": "libfftconv, fused",
    "fused_ready": "fused, spectrum ready",
    "cufft": "libfftconv, cuFFT engine",
    "cufft_ready": "cuFFT engine, spectrum ready",
    "torch_complex": "PyTorch, complex FFT",
    "torch_rfft": "PyTorch, rfft",
}
NOT_MEASURED = "not measured"
TEXT = """Milliseconds at the paper's B = 64, H = 768, float16 rows, medians of
interleaved runs of CUDA graphs at the B x H stated, multiplied by 64 x 768 /
(B x H). k's spectrum is made inside every call, except where it is ready. The
floor is the operands' bytes, each once, over this card's measured copy rate.
Each method was checked against the float64 oracle before it was timed.
Memory: beside the operands, the result included. H100: the paper's printed
figures (one H100-SXM, float16)."""
NONE = """ No GPU has run this yet: `experiments/bench_gpu.py --out DIR` fills
these cells; nothing in them is estimated."""


def cell(found, key):
    """Return a number of the results, or a text that says why there is none."""
    if found is None:
        return NOT_MEASURED
    if key in found:
        return found[key]
    status = found["status"]
    return status if len(status) <= 24 else "could not run"


def table_rows(record, table):
    """Return one row for each FFT size in the paper's table."""
    measured = {
        (row["fft_size"], row["method"]): row
        for row in (record["rows"] if record else [])
        if row["table"] == table and row["dtype"] == "float16"
    }
    rows = []
    for n, printed in style.paper(table).items():
        ours = measured.get((n, "fused"))
        row = {"fft_size": n}
        if ours:
            row["run"] = f"{ours['batch']} x {ours['channels']}"
        for method in METHODS:
            row[method] = cell(measured.get((n, method)), "scaled_ms")
        for method in ("fused", "cufft"):
            of = measured.get((n, method))
            row[f"{method}_over_floor"] = cell(of, "over_floor")
        row["floor"] = cell(ours, "floor_ms")
        row["memory"] = cell(ours, "peak_bytes")
        row["memory_torch"] = cell(measured.get((n, "torch_complex")), "peak_bytes")
        rows.append(
            row
            | {
                "h100_pytorch": printed["pytorch_ms"],
                "h100_flashfftconv": printed["flashfftconv_ms"],
                "note": printed["note"],
            }
        )
    return rows


COLUMNS = (
    [("fft_size", "FFT size"), ("run", "B x H run")]
    + [(name, f"{words} (ms)") for name, words in METHODS.items()]
    + [
        ("floor", "I/O floor (ms)"),
        ("fused_over_floor", "Fused / floor"),
        ("cufft_over_floor", "cuFFT engine / floor"),
        ("memory", "Fused, memory (bytes)"),
        ("memory_torch", "PyTorch complex, memory (bytes)"),
        ("h100_pytorch", "H100 PyTorch (ms)"),
        ("h100_flashfftconv", "H100 FlashFFTConv (ms)"),
        ("note", "Note"),
    ]
)


def draw(results, out):
    """Draw Tables 11-15 for a GPU from bench_gpu.json, if there is one."""
    there = (results / "bench_gpu.json").is_file()
    record = style.read(results, "bench_gpu") if there else None
    for table, title in TITLES.items():
        style.save_table(
            out,
            f"table{table}_gpu",
            f"Table {table} on a GPU: {title}",
            TEXT + ("" if record else NONE),
            COLUMNS,
            table_rows(record, table),
            record,
        )


if __name__ == "__main__":
    style.main(draw)
