"""Draw predicted (not measured) Tables 11-15, up to FFT size 32K, from predict_gpu.json."""

import style
from table_gpu import TITLES

TEXT = """Predicted, not measured: no GPU has run this. Milliseconds at B = 64,
H = 768, float16 rows, k's spectrum made in the call. The floor is every operand
once over device memory's rate; the prediction is the largest of what device
memory, tensor cores, shared memory and the issue of instructions would take by
themselves (experiments/predict_gpu.py has the rates and where they are from).
H100, measured by others: the paper's printed figures."""

COLUMNS = [
    ("fft_size", "FFT size"),
    *(
        (f"{machine}_{key}", f"{machine} {words}")
        for machine in ("A100", "H100")
        for key, words in (
            ("floor_ms", "I/O floor (ms)"),
            ("io_ms", "device memory (ms)"),
            ("tensor_ms", "tensor cores (ms)"),
            ("shared_ms", "shared memory (ms)"),
            ("issue_ms", "instructions (ms)"),
            ("predicted_ms", "predicted (ms)"),
            ("binds", "bound by"),
        )
    ),
    ("h100_flashfftconv", "H100 FlashFFTConv, measured by its paper (ms)"),
    ("ratio", "H100: FlashFFTConv over predicted"),
]


def table_rows(record, table):
    printed = style.paper(table)
    rows = {}
    for found in record["rows"]:
        if found["table"] != table:
            continue
        n, machine = found["fft_size"], found["machine"]
        row = rows.setdefault(
            n, {"fft_size": n, "h100_flashfftconv": printed[n]["flashfftconv_ms"]}
        )
        row |= {
            f"{machine}_{key}": found[key] for key in found if key.endswith("_ms") or key == "binds"
        }
        if machine == "H100":
            row["ratio"] = row["h100_flashfftconv"] / found["predicted_ms"]
    return [rows[n] for n in sorted(rows)]


def draw(results, out):
    """Draw the predicted Tables 11-15 from predict_gpu.json."""
    record = style.read(results, "predict_gpu")
    for table, title in TITLES.items():
        style.save_table(
            out,
            f"table{table}_predicted",
            f"Table {table}, predicted, not measured: {title}",
            TEXT,
            COLUMNS,
            table_rows(record, table),
            None,  # no machine has measured this
        )


if __name__ == "__main__":
    style.main(draw)
