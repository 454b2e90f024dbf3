"""How the experiments measure (experiments/bench_cpu.c and bench.py), and the paper's printed
ratios."""

import csv
import json
import math
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
from build_tree import BUILD

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--length", "0"], "--length is 0"),
        (["--isa", "none"], "--isa is none"),
        (["--plans", "-1"], "--plans is -1"),
        (["--json"], "--json is unknown, or lacks its value"),
        (["--slow", "1"], "--slow is unknown"),
        (["--json", "/nowhere/at/all"], "cannot write /nowhere/at/all"),
    ],
)
def test_the_c_program_refuses_what_it_does_not_know(arguments, message):
    done = subprocess.run(
        [BUILD / "experiments" / "bench_cpu", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stdout
    assert message in done.stderr


def test_the_c_program_runs_any_length_on_any_instruction_set():
    done = subprocess.run(
        [
            BUILD / "experiments" / "bench_cpu",
            "--quick",
            "--no-fftw",
            "--length",
            "331",
            "--isa",
            "baseline",
            "--commit",
            'a "quoted" one',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(done.stdout)
    assert record["commit"] == 'a "quoted" one'
    (row,) = record["rows"]
    assert row["length"] == 331 and row["isa"] == "baseline"
    assert 0 < row["error"] <= 5e-7


def test_a_wrong_result_is_not_timed(scripts):
    import bench

    exact = np.ones((2, 8))
    assert bench.row_error(exact, exact, 0) == 0
    wrong = exact.copy()
    wrong[1, 3] += 1e-3
    error = bench.row_error(wrong, exact, 0)
    assert error == pytest.approx(1e-3 / math.sqrt(8))
    assert bench.row_error(wrong, exact, 1e3) == pytest.approx(1e-6)
    with pytest.raises(RuntimeError, match="wrong one"):
        bench.check("wrong one", error)
    with pytest.raises(RuntimeError):
        bench.check("nan", float("nan"))


def test_interleaved_runs_every_call_every_round(scripts):
    import bench

    order = []
    calls = {name: (lambda n=name: order.append(n)) for name in "abc"}
    timing = bench.interleaved(calls, repeats=3, threads=2)
    assert order == list("abc") + list("abc") + list("bca") + list("cab")
    for sample in timing.values():
        assert sample["samples"] == 3 and sample["rejected"] == 0
        assert 0 <= sample["low_s"] <= sample["median_s"] <= sample["high_s"]


def test_a_pause_comes_before_every_sample(scripts, monkeypatch):
    """A pause precedes every sample, followed by one call that is not timed, alike for every
    side."""
    import bench

    order, now = [], [0.0]

    def clock():
        now[0] += 1e-6
        return now[0]

    def sleep(seconds):
        order.append(seconds)

    def call(name, seconds):
        order.append(name)
        now[0] += seconds

    monkeypatch.setattr(
        bench, "time", SimpleNamespace(perf_counter=clock, process_time=clock, sleep=sleep)
    )
    timing = bench.interleaved(
        {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}, repeats=2, threads=2, pause=0.25
    )
    assert order == ["a", "b", *[0.25, "a", "a", 0.25, "b", "b"], *[0.25, "b", "b", 0.25, "a", "a"]]
    assert timing["a"]["median_s"] == pytest.approx(1, abs=1e-3)
    assert timing["b"]["median_s"] == pytest.approx(2, abs=1e-3)


def test_a_short_call_is_repeated_within_a_sample(scripts, monkeypatch):
    import bench

    calls = [0]
    clock = SimpleNamespace(
        perf_counter=lambda: 1e-3 * calls[0], process_time=lambda: 1e-3 * calls[0]
    )
    monkeypatch.setattr(bench, "time", clock)

    def call():
        calls[0] += 1

    timing = bench.interleaved({"call": call}, 2, threads=2, least=9.5e-3)
    assert calls[0] == 2 + 2 * 9
    assert timing["call"]["median_s"] == pytest.approx(1e-3)


def test_a_busy_processor_is_noticed(scripts):
    import bench

    def sleep():  # like another program taking the processor
        time.sleep(0.02)

    both = bench.interleaved({"sleep": sleep, "quick": lambda: None}, 3)
    assert {timing["clock"] for timing in both.values()} == {"processor"}
    timing = both["sleep"]
    assert timing["samples"] == 6 and timing["median_s"] < 0.01
    timing = bench.interleaved({"sleep": sleep}, 3, threads=2)["sleep"]
    assert timing["clock"] == "wall" and timing["median_s"] > 0.019


def test_the_papers_printed_ratios_are_those_of_its_rows(scripts):
    """Every printed quotient agrees with its row within rounding; where the paper has a misprint,
    the row says so."""
    import style

    names = dict.fromkeys((3, 4, 11, 12, 13, 14, 15), ("pytorch_ms", "flashfftconv_ms", "speedup"))
    names |= dict.fromkeys((16, 17), ("pytorch_gb", "flashfftconv_gb", "reduction"))
    compared = 0
    for number, (above, below, ratio) in names.items():
        for n, row in style.paper(number).items():
            text = {
                r["fft_size"]: r
                for r in csv.DictReader(open(style.PAPER / f"table{number}.csv", newline=""))
            }[str(n)]
            half = {k: 0.5 * 10.0 ** -len(text[k].partition(".")[2]) for k in (above, below)}
            low = (row[above] - half[above]) / (row[below] + half[below]) - 0.005
            high = (row[above] + half[above]) / (row[below] - half[below]) + 0.005
            assert low <= row[ratio] <= high, (number, n)
            compared += 1
    assert compared == 2 * 9 + 7 * 15
    # Tables that print the same runs agree, except at the misprint.
    for few, many in ((3, 11), (4, 12)):
        whole = style.paper(many)
        for n, row in style.paper(few).items():
            same = row["pytorch_ms"] == pytest.approx(whole[n]["pytorch_ms"], rel=5e-3)
            assert same != ("misprint" in row["note"]), (few, n)
