"""The main job: experiments/ and paper_figures/, run as a whole on the tiny grid."""

import csv
import html
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch

import fftconv
import numpy as np
import pytest
from build_tree import TOP

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("tqdm")

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

FIGURES = (
    "figure4",
    "cpu",
    "speed",
    "memory",
    "partial",
    "sparsity",
    "short",
    "strategies",
    "torch",
    "genome",
    "readme",
)
TABLES = tuple(f"table{n}" for n in (3, 4, 7, 9, 11, 12, 13, 14, 15, 16, 17)) + (
    "table7_longer",
    "table_short",
    "table_strategies",
    "table_kernel",
    "table_torch",
    "genome_timing",
    "cpu_speed",
    "cpu_limits",
    "cpu_targets",
    "cpu_rows",
    "cpu_planner",
    "cpu_peaks",
    *(f"table{n}_gpu" for n in range(11, 16)),
    *(f"table{n}_predicted" for n in range(11, 16)),
)
RESULTS = (
    "host",
    "bench_cpu",
    "speed",
    "memory",
    "partial",
    "sparsity",
    "short",
    "strategies",
    "predict_gpu",
    "genome",
    "genome_tracks",
    "torch_speed",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder with everything that `make.py --quick` writes."""
    folder = tmp_path_factory.mktemp("figures")
    done = subprocess.run(
        [sys.executable, str(TOP / "paper_figures" / "make.py"), "--quick", "--out", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLCONFIGDIR": str(folder / "matplotlib"), "FULL": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def result(out, name):
    return json.loads((out / "results" / f"{name}.json").read_text())


def table(out, name):
    with open(out / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def numbers(value):
    """Every number inside a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def test_every_file_is_there(out):
    wanted = [f"{n}.{end}" for n in FIGURES for end in ("png", "pdf", "csv", "json")]
    wanted += [f"{n}.{end}" for n in TABLES for end in ("csv", "json")]
    wanted += [f"results/{n}.json" for n in RESULTS] + ["index.html"]
    assert [n for n in wanted if not (out / n).is_file() or not (out / n).stat().st_size] == []


def test_every_number_is_finite(out):
    for file in [*out.glob("*.json"), *(out / "results").glob("*.json")]:
        found = numbers(json.loads(file.read_text()))
        assert found and np.isfinite(found).all(), file.name


def test_every_result_names_its_machine(out):
    for name in set(RESULTS) - {"genome_tracks"}:
        machine = result(out, name)["machine"]
        assert machine["cpu"] and machine["isa"] and machine["processors"] >= 1
        assert {"fftconv", "numpy", "scipy", "python"} <= set(machine["versions"])
        assert re.fullmatch(r"[0-9a-f]{40}|unknown", machine["commit"])


def test_the_page_needs_no_network_and_all_its_links_exist(out):
    page = (out / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [x for x in links if "//" in x] == ["https://arxiv.org/abs/2311.05908"]
    files = {x for x in links if not x.startswith(("#", "https:", "data:"))}
    assert {f"{n}.png" for n in FIGURES if n != "readme"} <= files
    assert [x for x in files if not (out / x).is_file()] == []
    assert [x for x in links if x.startswith("#") and f'id="{x[1:]}"' not in page] == []


def test_every_picture_says_what_is_seen(out):
    for name in FIGURES:
        body = json.loads((out / f"{name}.json").read_text())
        assert len(body["alt"]) > 80 and body["alt"] != body["title"], name
    page = (out / "index.html").read_text()
    for name in set(FIGURES) - {"readme"}:
        assert re.search(rf'<img src="{name}.png" alt="[^"]{{80,}}">', page), name


def test_the_page_says_nothing_twice(out):
    """Everything drawn is on the page once, and no sentence of a caption is there again."""
    page = (out / "index.html").read_text()
    for name in (*FIGURES, *TABLES):
        seen = name != "readme" and not name.endswith("_gpu")
        assert page.count(f' id="{name}"') == seen, name
    assert "`" not in page and ">not measured<" not in page
    assert page.count("milliseconds at the paper's B".replace("'", "&#x27;")) <= 1
    assert page.count("milliseconds at the paper's B") <= 1
    # Without PyTorch, the figure and the table about it come from the committed run.
    elsewhere = 0 if importlib.util.find_spec("torch") else 2
    assert page.count("Measured on") == 1 + elsewhere


def test_tables_11_to_15_are_the_measured_times(out):
    record = result(out, "speed")
    compared = 0
    for number in range(11, 16):
        shown = {int(r["fft_size"]): r for r in table(out, f"table{number}")}
        for row in record["rows"]:
            if row["table"] == number:
                scaled = 1e3 * row["median_s"] * 64 * 768 / (row["batch"] * row["channels"])
                assert float(shown[row["fft_size"]][row["method"]]) == pytest.approx(scaled)
                compared += 1
    assert compared == len(record["rows"]) > 0


def test_tables_3_and_4_are_columns_of_11_and_12(out):
    for few, many in ((3, 11), (4, 12)):
        all_rows = {r["fft_size"]: r for r in table(out, f"table{many}")}
        rows = table(out, f"table{few}")
        assert rows
        for row in rows:
            for method in ("fftconv", "numpy", "scipy"):
                assert row[method] == all_rows[row["fft_size"]][method]


def test_tables_16_and_17_are_the_measured_bytes(out):
    for row in result(out, "memory")["rows"]:
        assert row["peak_bytes"] == row["input_bytes"] + row["resident_bytes"]
        assert row["counted_bytes"] >= row["array_bytes"]  # at least the result
        shown = next(
            r for r in table(out, f"table{row['table']}") if int(r["fft_size"]) == row["fft_size"]
        )
        scale = 64 * 768 / (row["batch"] * row["channels"])
        assert float(shown[row["method"] + "_gb"]) == pytest.approx(
            row["resident_bytes"] * scale / 1e9
        )


def test_table_7_is_what_was_measured_and_counted(out):
    record = result(out, "partial")
    shown = {
        (int(r["length"]), int(r["kernel_length"])): r
        for name in ("table7", "table7_longer")
        for r in table(out, name)
    }
    assert sorted(n for length, n in shown if length == 8192) == [2**a for a in range(8, 14)]
    for row in record["rows"]:
        seen = shown[row["length"], row["kernel_length"]][row["method"]]
        outputs = row["batch"] * row["channels"] * row["length"]
        assert float(seen) == pytest.approx(1e9 * row["median_s"] / outputs)
        assert 0 <= row["error"] <= 5e-7
    methods = {row["method"] for row in record["rows"]}
    assert len(record["rows"]) == len(methods) * len(
        {(r["length"], r["kernel_length"]) for r in record["rows"]}
    )
    for plan in record["plans"]:
        seen = shown.pop((plan["length"], plan["kernel_length"]))
        assert int(seen["blocks"]) == plan["blocks"]
        # The blocks cover the row, and the last of them is needed.
        covered = plan["blocks"] * plan["block_length"]
        assert 0 <= covered - plan["length"] < plan["block_length"]
        assert float(seen["forward_workspace_kb"]) == pytest.approx(
            plan["forward_workspace_bytes"] / 1e3
        )
    assert not shown
    for row in record["memory"]:
        # The result that a call returns was written, so it is part of the memory that the call
        # added.
        assert row["resident_bytes"] >= 0.9 * row["result_bytes"]


def test_a_short_filter_takes_less_memory_and_long_rows_no_more(out):
    plans = {(p["length"], p["kernel_length"]): p for p in result(out, "partial")["plans"]}
    for key in ("forward_workspace_bytes", "spectrum_bytes_per_channel"):
        cut = [plans[8192, 2**a][key] for a in range(13, 7, -1)]
        assert max(cut) == cut[0] and cut[-1] < cut[0]
        assert plans[2**22, 4096][key] <= 2e6


def test_the_short_table_is_what_was_measured(out):
    record = result(out, "short")
    shown = {
        tuple(r[k] for k in ("length", "channels", "taps", "dtype", "layout")): r
        for r in table(out, "table_short")
    }
    compared = 0
    for row in record["rows"]:
        assert 0 <= row["error"] <= (5e-7 if row["dtype"] == "float32" else 4e-3)
        seen = shown[tuple(str(row[k]) for k in ("length", "channels", "taps", "dtype", "layout"))]
        assert float(seen[row["method"]]) == pytest.approx(
            1e3 * row["median_s"] * 16 / row["batch"]
        )
        compared += 1
    assert compared == len(record["rows"]) > len(shown) > 0
    for seen in shown.values():
        assert float(seen["over_copy"]) == pytest.approx(
            float(seen["fftconv"]) / float(seen["copy"])
        )


def test_the_strategies_table_is_what_was_measured(out):
    record = result(out, "strategies")
    keys = ("batch", "length", "inputs", "outputs", "states")
    shown = {tuple(int(r[k]) for k in keys): r for r in table(out, "table_strategies")}
    orders = ("1", "2", "3 projections", "3 kernels")
    assert len(shown) == len(record["rows"]) > 1
    for row in record["rows"]:
        seen, runs = shown[tuple(row[k] for k in keys)], row["strategies"]
        times = {o: runs[o]["median_s"] for o in orders}
        for order in orders:
            assert float(seen[order]) == pytest.approx(1e3 * times[order])
            assert 0 < runs[order]["error"] <= 3e-6
            assert runs[order]["predicted_s"] > 0
        fastest = min(times.values())
        assert float(seen["over_fastest"]) == pytest.approx(times[row["auto"]] / fastest)
        assert row["upstream"] in (1, 2, 3)
        for name, run in runs.items():
            if name.startswith("scipy"):
                assert float(seen[f"{name} over"]) == pytest.approx(
                    run["median_s"] / runs["auto"]["median_s"]
                )
    assert sum("scipy 2" in row["strategies"] for row in record["rows"]) == 1
    (kernel,) = table(out, "table_kernel")
    assert float(kernel["speedup"]) == pytest.approx(
        record["kernel"]["numpy"]["median_s"] / record["kernel"]["fftconv"]["median_s"]
    )


def test_table_9_is_what_was_measured(out):
    record = result(out, "sparsity")
    shown = {(int(r["fft_size"]), r["order"], r["drop"]): r for r in table(out, "table9")}
    dense = {
        (r["fft_size"], r["direction"]): r["median_s"]
        for r in record["rows"]
        if r["order"] == "dense"
    }
    compared = 0
    for row in record["rows"]:
        assert 0 <= row["error"] <= 5e-7
        if row["order"] == "dense":
            assert row["asked"] == 0 and row["kept"] == row["computed"] == 1
            continue
        seen = shown[row["fft_size"], row["order"], " ".join(map(str, row["drop"]))]
        speed = dense[row["fft_size"], row["direction"]] / row["median_s"]
        assert float(seen[f"{row['direction']}_speedup"]) == pytest.approx(speed)
        for key, value in (
            ("asked", row["asked"]),
            ("removed", 1 - row["kept"]),
            ("computed", row["computed"]),
        ):
            assert float(seen[key]) == pytest.approx(100 * value, abs=1e-9)
        compared += 1
    assert compared == 2 * len(shown) == 2 * 2 * 6 * len({r["fft_size"] for r in record["rows"]})


def digits(m, shape, order):
    """The digits i_1 ... i_p of frequencies m, by the formulas of Pattern."""
    found = []
    for n in shape if order == "stage" else shape[::-1]:
        found.append(m % n)
        m = m // n
    return found if order == "stage" else found[::-1]


def test_patterns_ask_what_the_paper_prints_and_have_what_a_real_row_allows(out):
    with open(TOP / "paper_figures" / "paper" / "table9.csv") as file:
        printed = {" ".join(r[x] for x in "abcd"): r for r in csv.DictReader(file)}
    assert len(printed) == 6
    for row in table(out, "table9"):
        seen = printed[row["pattern"]]
        # S = 1 - prod (N_j - drop_j) / N_j, printed as a whole number.
        asked = 100 * (
            1 - math.prod(1 - int(seen[x]) / n for x, n in zip("abcd", (32, 32, 32, 64)))
        )
        assert float(row["asked"]) == pytest.approx(asked)
        assert abs(asked - float(seen["sparsity_percent"])) <= 0.5
    for row in result(out, "sparsity")["rows"]:
        if row["order"] == "dense":
            continue
        m = np.arange(row["fft_size"])

        def masked(m):
            return np.all(
                [
                    i < n - drop
                    for i, n, drop in zip(
                        digits(m, row["shape"], row["order"]), row["shape"], row["drop"]
                    )
                ],
                axis=0,
            )

        mirrored = masked(-m % row["fft_size"])
        assert row["asked"] == pytest.approx(1 - masked(m).mean())
        # A bin is removed where the pattern removes both it and its mirror image.
        assert row["kept"] == pytest.approx((masked(m) | mirrored).mean())
        assert row["kept"] - 1e-12 <= row["computed"] <= 1


def test_lines_of_the_partial_figure(out, scripts, tmp_path):
    import table_7

    figure = table_7.draw(out / "results", tmp_path)
    record = result(out, "partial")
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    expected = {}
    for row in record["rows"]:
        if row["length"] == 8192:
            expected.setdefault(row["method"], {})[row["kernel_length"]] = row["ns_per_output"]
    assert sorted(drawn) == sorted(
        [by_k[n] for n in sorted(by_k, reverse=True)] for by_k in expected.values()
    )
    for line in figure.axes[1].lines:
        assert line.get_ydata()[0] == 1


def test_lines_of_the_sparsity_figure(out, scripts, tmp_path):
    import table_9

    figure = table_9.draw(out / "results", tmp_path)
    rows = table(out, "table9")
    for axis, direction in zip(figure.axes[1:], ("forward", "backward")):
        drawn = [list(line.get_ydata()) for line in axis.lines]
        for order in ("stage", "natural"):
            speeds = [
                pytest.approx(float(r[f"{direction}_speedup"])) for r in rows if r["order"] == order
            ]
            assert speeds in drawn
    assert [1.0, 1.2, 1.3, 1.4, 1.5, 1.8] in [
        list(line.get_ydata()) for line in figure.axes[1].lines
    ]


def test_lines_of_the_speed_figure(out, scripts, tmp_path):
    import tables_11_15

    record = result(out, "speed")
    figure = tables_11_15.draw(out / "results", tmp_path)
    for column, number in enumerate(range(11, 16)):
        drawn = [list(line.get_ydata()) for line in figure.axes[column].lines]
        methods = {
            r["method"]: [] for r in record["rows"] if r["table"] == number and r["threads"] == 1
        }
        for row in record["rows"]:
            if row["table"] == number and row["threads"] == 1:
                methods[row["method"]].append(row["ns_per_output"])
        assert sorted(drawn) == sorted(methods.values())


def test_the_cpu_engines_speeds_are_what_was_measured(out):
    record = result(out, "bench_cpu")["program"]
    shown = {int(r["length"]): r for r in table(out, "cpu_speed")}
    ours, fftw = {}, {}
    for row in record["rows"]:
        assert 0 < row["error"] <= 5e-7
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        outputs = row["batch"] * row["channels"] * row["length"]
        ns = 1e9 * row["median_s"] / outputs
        assert row["ns_per_output"] == pytest.approx(ns, rel=1e-4)
        if row["method"].startswith("FFTW"):
            fftw.setdefault(row["length"], {})[row["method"][5:]] = ns
        else:
            ours[row["isa"], row["length"]] = row
    assert sorted(shown) == sorted({length for _, length in ours})
    peaks = {p["isa"]: p for p in record["peaks"]}
    limits = {(r["isa"], int(r["length"])): r for r in table(out, "cpu_limits")}
    assert set(limits) == set(ours)
    for (isa, length), row in ours.items():
        seen, ns = shown[length], row["ns_per_output"]
        assert float(seen[f"ours_{isa}"]) == pytest.approx(ns)
        assert float(seen[f"floor_{isa}"]) == pytest.approx(
            1e9 * 4 * (math.log2(2 * length) - 0.75) / peaks[isa]["add_flops"], rel=1e-3
        )
        rate = row["flops"] / row["median_s"]
        peak = peaks[isa]
        for key, value in (
            ("gflops", rate / 1e9),
            ("of_add", 100 * rate / peak["add_flops"]),
            ("of_fma", 100 * rate / peak["fma_flops"]),
        ):
            assert float(limits[isa, length][key]) == pytest.approx(value, rel=1e-3)
        # The limit that binds is the one that alone takes longest.
        alone = {"arithmetic": row["arithmetic_s"], **row["moving_s"]}
        assert row["binds"] == max(alone, key=alone.get)
        for level, seconds in row["moving_s"].items():
            assert seconds == pytest.approx(
                row["bytes"][level] / peak["copy_bytes"][level], rel=1e-4
            )
            assert float(limits[isa, length][f"of_{level}"]) == pytest.approx(
                100 * seconds / row["median_s"], rel=1e-4
            )
        if length in fftw:
            assert set(fftw[length]) == {"r2c", "pairs"}
            assert float(seen[f"over_fftw_{isa}"]) == pytest.approx(
                min(fftw[length].values()) / ns, rel=1e-4
            )
    if record["fftw"]:
        assert set(fftw) == set(shown)


def test_targets_are_held_to_their_rows(out, scripts):
    import bench
    import bench_cpu

    record = result(out, "bench_cpu")
    rows, targets = record["rows"], record["targets"]
    # Targets that need FFTW, PyTorch, AVX or a second processor may be missing.
    always = {"scipy", "batch", "fused", "fused_long", "half", "half_memory"}
    always |= {"backward", "backward_row", "workspace", "circular", "python"}
    always |= {"any_length", "planner", "planning", "planning_again"}
    if bench.processors() > 1:
        always |= {"threads", "threads_long", "threads_row"}
    assert always <= set(targets) <= set(bench_cpu.TARGETS)
    assert {row["target"] for row in rows} == set(targets)
    for row in rows:
        least = bench_cpu.TARGETS[row["target"]][1] == "least"
        value, limit = row["value"], row["limit"]
        assert row["met"] == (value >= limit if least else value <= limit)
    shown = {r["target"]: r for r in table(out, "cpu_targets")}
    for name, target in targets.items():
        mine = [r for r in rows if r["target"] == name]
        assert target["met"] == all(r["met"] for r in mine)
        assert shown[name]["reached"] == ("yes" if target["met"] else "no")
        assert any(
            (r["value"], r["limit"], r["length"])
            == (target["worst"], target["limit"], target["at"])
            for r in mine
        )
        if not target["met"]:  # the worst row is one that misses
            assert any(not r["met"] and r["value"] == target["worst"] for r in mine)
    assert len(table(out, "cpu_rows")) == len(rows)
    for row in record["planner"]:
        assert row["best_ns"] <= row["own_ns"]
        for who in ("own", "best"):
            assert math.prod(row[who]) == row[f"{who}_m"] >= row["length"]


def test_forced_radices_fit_the_row_and_are_not_all_alike(scripts):
    import bench_cpu

    for length in (256, 1000, 3001, 2**16):
        plan = fftconv.Plan((1, 1, length), (1, length))
        forced = list(bench_cpu.candidates(plan, 30, np.random.default_rng(0)))
        assert 5 <= len(forced) <= 60
        assert len(set(forced)) == len(forced)
        for radices in forced:
            assert math.prod(radices) >= length
            assert set(radices) <= {2, 3, 4, 5, 7, 8, 16}
        assert len({len(radices) for radices in forced}) > 1


def test_lines_of_the_cpu_engines_figure(out, scripts, tmp_path):
    import cpu_engine

    figure = cpu_engine.draw(out / "results", tmp_path)
    drawn = [[pytest.approx(y) for y in line.get_ydata()] for line in figure.axes[0].lines]
    methods = {}
    for row in result(out, "bench_cpu")["program"]["rows"]:
        methods.setdefault(row["method"], []).append(row["ns_per_output"])
    assert all(times in drawn for times in methods.values())


def test_lines_of_figure_4(out, scripts, tmp_path):
    import figure4

    figure = figure4.draw(out / "results", tmp_path)
    hardware = result(out, "host")["hardware"]
    with open(TOP / "paper_figures" / "paper" / "table19.csv") as file:
        (a100,) = csv.DictReader(file)
    for name, unit in (
        ("sigma_h", "bytes"),
        ("sigma_s", "bytes"),
        ("tau_m", "flop"),
        ("tau_g", "flop"),
    ):
        printed = float(a100[f"{name}_{unit}_per_s"])
        assert hardware["A100"][name] == printed
    assert hardware["A100"]["mu"] == int(a100["mu"])
    for axis, name, unit in zip(figure.axes, ("A100", "host"), (1e-12, 1e-9)):
        for line, order in zip(axis.lines, (2, 3, 4)):
            for n, drawn in zip(*line.get_data()):
                expected = equation_2(int(n), order, hardware[name]) / n / unit
                assert drawn == pytest.approx(expected, rel=1e-9), (name, order, n)


def test_training_in_pytorch_is_what_was_measured(out, scripts, tmp_path):
    import table_torch

    record = result(out, "torch_speed")
    measured = [row for part in ("rows", "modules", "models") for row in record[part]]
    shown = table(out, "table_torch")
    assert len(shown) == len(measured) > 0
    for row, seen in zip(measured, shown):
        assert [seen["batch"], seen["channels"], seen["length"]] == [str(n) for n in row["shape"]]
        ours, theirs = (row["times"][way]["median_s"] for way in ("fftconv", "torch.fft"))
        assert float(seen["fftconv"]) == pytest.approx(1e3 * ours)
        assert float(seen["torch_fft"]) == pytest.approx(1e3 * theirs)
        assert float(seen["speedup"]) == pytest.approx(theirs / ours)
        if "peak_bytes" in row:
            ours, theirs = (row["peak_bytes"][way] for way in ("fftconv", "torch.fft"))
            assert float(seen["memory_ratio"]) == pytest.approx(theirs / ours)
    for row in record["rows"]:
        outputs = 2 * 4 * math.prod(row["shape"])  # y and du
        ours, theirs = (row["peak_bytes"][way] for way in ("fftconv", "torch.fft"))
        assert 0.9 * outputs <= ours <= theirs / 3
    for row in record["modules"]:  # the convolutions of torch_fft.py did take our place
        assert row["peak_bytes"]["fftconv"] < 0.9 * row["peak_bytes"]["torch.fft"], row["name"]
    figure = table_torch.draw(out / "results", tmp_path)
    for axis, key in zip(figure.axes, ("speedup", "memory_ratio")):
        drawn = [bar.get_width() for bar in axis.patches]
        assert drawn == [pytest.approx(float(r[key])) for r in shown if r[key]]


def test_the_committed_run_is_drawn_where_a_package_is_missing(scripts, tmp_path, monkeypatch):
    import make

    monkeypatch.setattr(make, "EXPERIMENTS", {"torch_speed": ["torch_speed"]})
    monkeypatch.setitem(make.NEEDS, "torch_speed", "a_package_that_nobody_has")
    monkeypatch.setattr(sys, "argv", ["make.py", "--out", str(tmp_path)])
    make.main()
    kept = TOP / "experiments" / "results" / "torch_speed.json"
    assert (tmp_path / "results" / kept.name).read_bytes() == kept.read_bytes()
    assert (tmp_path / "torch.png").is_file()


def equation_2(n, order, machine):
    """The paper's cost of one row in seconds (Equation 2), written out again."""
    bits = int(math.log2(n))
    radices = [2 ** (bits // order + (i < bits % order)) for i in range(order)]
    seconds, left = 0.0, n
    for radix in radices:
        flops = machine["tau_g"] if radix < machine["mu"] else machine["tau_m"]
        slow = left > machine["fast_points"]
        seconds += 16 * n * radix / flops
        seconds += 4 * n / machine["sigma_h" if slow else "sigma_s"]
        left //= radix
    return seconds


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The folder with all that is drawn from the committed results."""
    kept, folder = TOP / "experiments" / "results", tmp_path_factory.mktemp("committed")
    done = subprocess.run(
        [
            sys.executable,
            str(TOP / "paper_figures" / "make.py"),
            "--draw-only",
            "--results",
            str(kept),
            "--out",
            str(folder),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# Opens every table, and then writes on the page what does not load or does not fit.
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const wide = e => e.scrollWidth > e.clientWidth;
  const name = e => e.closest("[id]").id;
  const found = {
    pictures: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
    tables: [...document.querySelectorAll(".scroll")].filter(wide).map(name),
    page: wide(document.documentElement),
    shown: [document.images.length, document.querySelectorAll("table").length],
  };
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify(found);
  document.body.append(probe);
});
</script>"""


@pytest.mark.parametrize("width", [1280, 412])
def test_the_page_in_a_browser(committed, width, tmp_path):
    """Every picture loads, nothing is wider than the page, and the browser has no complaint; on a
    phone, tables may scroll."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser here: apt-get install chromium")
    page = committed / f"probe{width}.html"
    page.write_text((committed / "index.html").read_text().replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path}", f"--window-size={width},2000"),
            *("--enable-logging=stderr", "--virtual-time-budget=20000", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(html.unescape(re.search(r'id="probe">(.*?)</pre>', done.stdout)[1]))
    pictures, tables = found.pop("shown")
    assert pictures >= len(FIGURES) and tables >= len(TABLES) - 5
    if width < 1280:
        found["tables"] = []
    assert found == {"pictures": [], "tables": [], "page": False}


def test_no_table_has_more_than_eight_columns(committed, scripts):
    import gallery

    for file in committed.glob("*.json"):
        body = json.loads(file.read_text())
        columns = gallery.columns_of(body)
        assert 1 <= len(columns) <= 8, file.name
        wanted = gallery.SHOWN.get(body["name"])
        if wanted is None:
            assert body["image"] or columns == columns_with_values(body), file.name
        else:  # every pattern fits a column, except where no row has a value
            keys = [key for key, _ in body["columns"]]
            assert all(any(fnmatch(key, pattern) for key in keys) for pattern in wanted), file.name


def columns_with_values(body):
    return [
        (key, words)
        for key, words in body["columns"]
        if any(row.get(key) not in (None, "") for row in body["rows"])
    ]


def test_numbers_as_people_read_them(scripts):
    import gallery

    assert gallery.shown(1605802.0, " (ms)") == "26.8\N{NO-BREAK SPACE}min"
    assert gallery.shown(0.0421, " (ms)") == "42.1\N{NO-BREAK SPACE}µs"
    assert gallery.shown(1.5, " (s)") == "1.50\N{NO-BREAK SPACE}s"
    assert gallery.shown(2_000_000, " (bytes)") == "2.00\N{NO-BREAK SPACE}MB"
    assert gallery.shown(None) == gallery.shown("") == "\N{EN DASH}"
    assert gallery.shown(4938920) == "4,938,920"
    assert gallery.text("`a*b` of *E. coli*") == "<code>a*b</code> of <i>E. coli</i>"


def test_the_committed_run_can_be_drawn(committed):
    kept = TOP / "experiments" / "results"
    assert (committed / "index.html").is_file()
    names = {file.stem for file in kept.glob("*.json")}
    assert names <= {*RESULTS, "bench_gpu", "cuda_resources", "load", "magnitude"}
    for name in names - {"genome_tracks", "cuda_resources"}:
        record = json.loads((kept / f"{name}.json").read_text())
        assert record["grid"] in ("default", "full")
        assert re.fullmatch("[0-9a-f]{40}", record["machine"]["commit"])


def test_the_genome_was_checked_and_its_mean_kept(out):
    record, tracks = result(out, "genome"), result(out, "genome_tracks")
    assert all(0 <= e["error"] <= 5e-7 for e in record["errors"])
    assert {e["against"] for e in record["errors"]} == {
        "float64 oracle",
        "integer sums",
        "integer sums, in float64",
    }
    counts = record["counts"]
    share = (counts["G"] + counts["C"]) / record["bases"]
    # A window of sum 1 on a circle keeps the mean.
    for curve in tracks["gc"]:
        assert np.mean(curve) == pytest.approx(share, abs=1e-3)


def test_a_changed_genome_is_refused(scripts, tmp_path, monkeypatch):
    import genome

    assert np.bincount(genome.load("lambda")).tolist() == [12334, 11362, 12820, 11986]
    file = genome.GENOMES["lambda"][0]
    packed = bytearray((genome.DATA / file).read_bytes())
    packed[-1] ^= 1
    (tmp_path / file).write_bytes(packed)
    monkeypatch.setattr(genome, "DATA", tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        genome.load("lambda")
    with pytest.raises(KeyError, match="yeast"):
        genome.load("yeast")
