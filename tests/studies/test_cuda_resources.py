"""experiments/cuda_resources.py and predict_gpu.py: the stored report of the compiler and the
prediction's counts are those of the present kernels."""

import importlib
import json
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(TOP / "experiments"))
    return importlib.import_module


def stored():
    return json.loads((TOP / "experiments" / "results" / "cuda_resources.json").read_text())


def test_no_stored_kernel_spills_and_none_is_missing(experiments):
    resources = experiments("cuda_resources")
    record = stored()
    assert resources.faults(record["rows"]) == []
    found = [(r["arithmetic"], tuple(r["radices"]), r["role"], r["arch"]) for r in record["rows"]]
    names = {"Half": "float16", "Single": "float32"}
    want = [
        (names[arith], tuple(radices), role, arch)
        for arith, *radices in resources.shapes()
        for role in resources.ROLES
        for arch in resources.ARCHITECTURES
    ]
    assert sorted(found) == sorted(want)
    for row in record["rows"]:
        assert 0 < row["registers"] <= 255, row
        assert row["fits"] == resources.fits(row["arch"], row["shared_bytes"])
        assert row["fits"] == (row["blocks"] >= 1), row
        assert row["blocks"] == resources.resident(
            row["arch"], row["threads"] // 32, row["registers"], row["shared_bytes"]
        )


def test_the_longest_kernels_do_not_fit_in_99_kb():
    """Every kernel fits into the shared memory of its GPU, except the longest ones on sm_89."""
    outside = {(r["arch"], r["arithmetic"], r["points"]) for r in stored()["rows"] if not r["fits"]}
    assert outside == {("89", "float16", 32768), ("89", "float32", 16384)}


def test_a_stale_report_is_said_to_be(experiments):
    """A report of older kernels is said to be old, which is no error: a change need not wait for
    nvcc to compile everything."""
    if stored()["sources"] != experiments("cuda_resources").digest():
        pytest.skip(
            "the kernels have changed since experiments/results/"
            "cuda_resources.json: run experiments/cuda_resources.py"
        )


def test_a_spill_and_too_many_kernels_are_faults(experiments):
    resources = experiments("cuda_resources")
    row = stored()["rows"][0]
    assert resources.faults([row]) == []
    assert resources.faults([row | {"spill_store_bytes": 4}])
    assert not resources.faults([row | {"spill_store_bytes": 4, "fits": False}])
    assert resources.faults([row | {"points": n} for n in range(100)])


def test_resident_blocks(experiments):
    resident = experiments("cuda_resources").resident
    assert resident("90a", 4, 168, 65616) == 3  # limited by registers and memory
    assert resident("80", 4, 168, 65616) == 2  # limited by memory
    assert resident("89", 4, 168, 65616) == 1
    assert resident("90a", 4, 128, 16464) == 4  # limited by registers
    assert resident("89", 8, 32, 131152) == 0


def test_the_prediction_counts_this_kernels_stages(experiments):
    predict = experiments("predict_gpu")
    resources = experiments("cuda_resources")
    radices = {a * b * c: (a, b, c) for arith, a, b, c in resources.shapes() if arith == "Half"}
    assert {n: predict.radices(n) for n in radices} == radices
    # 16 x 16 x 16: each of the four strips of 64 columns takes 32 products of 16 x 8 x 16 for stage
    # 1 and its inverse (64 in even/odd form), and 32 for each of the four tiles that make it up.
    assert predict.row_flops(4096) == 4 * (32 + 4 * 32) * 2 * 16 * 8 * 16
    assert predict.row_flops(4096, "even_odd") == 4 * (64 + 4 * 32) * 2 * 16 * 8 * 16
    assert predict.points_of(predict.Case(11, 8192, 64, 768)) == 4096  # circular
    assert predict.points_of(predict.Case(14, 8192, 64, 768)) == 4096  # causal
    for table in predict.TABLES:
        for n in predict.SIZES:
            case = predict.Case(table, n, 64, 768)
            for machine in predict.MACHINES:
                row = predict.predicted(case, machine)
                times = [row[f"{unit}_ms"] for unit in ("io", "tensor", "shared", "issue")]
                assert row["predicted_ms"] == max(times)
                assert row["binds"] in predict.MACHINES[machine]
                assert row["floor_ms"] <= row["io_ms"]
