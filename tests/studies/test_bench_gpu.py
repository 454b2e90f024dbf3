"""experiments/bench_gpu.py without its timings: the cases, their bytes, what is checked before
it is timed, the stages, the JSON, and the tables drawn from it.

The tests that need a device run on the emulated one, like test_device_arrays.py.  A stand-in
for PyTorch's access to the GPU has made-up times, which no file of the project holds.
"""

import contextlib
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from build_tree import clean_environment
from fftconv import _lib, cuda, reference

TOP = Path(__file__).resolve().parents[2]
on_device = pytest.mark.on_device


@pytest.fixture
def bench_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(TOP / "experiments"))
    return importlib.import_module("bench_gpu")


@pytest.fixture
def table_gpu(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(TOP / "paper_figures"))
    return importlib.import_module("table_gpu")


def settings(out, grid="quick", **more):
    return SimpleNamespace(
        **{
            "out": out,
            "grid": grid,
            "seed": 1,
            "seconds": 1e9,
            "commit": "f" * 40,
            "library": None,
            "stages": importlib.import_module("bench_gpu").STAGES,
            **more,
        }
    )


# ---- The cases -----------------------------------------------------------------


def test_the_papers_sizes_are_there(bench_gpu):
    found = bench_gpu.cases("default")
    assert len(set(found)) == len(found)
    for table in range(11, 16):
        half = [c for c in found if c.table == table and c.dtype == "float16"]
        sizes = {c.fft_size for c in half}
        assert {2**a for a in range(8, 16)} <= sizes
        for case in half:
            assert (case.batch, case.channels) == {
                2**14: (32, 768),
                2**15: (16, 768),
                2**16: (8, 768),
                2**18: (8, 192),
                2**20: (8, 48),
            }.get(case.fft_size, (64, 768))
    assert {"float32", "bfloat16"} <= {c.dtype for c in found}
    assert set(bench_gpu.cases("quick")) < set(found)
    assert [bench_gpu.paper_rows(n) for n in (2**17, 2**22)] == [[8, 384], [8, 16]]


def test_bytes_and_floors(bench_gpu):
    """u, y and the gates count with two bytes a number and k with four, each of them once."""
    rows = 64 * 768 * 1024
    for table, arrays, length, kernels in (
        (11, 2, 1024, 1),
        (12, 4, 1024, 1),
        (13, 2, 512, 1),
        (14, 4, 512, 1),
        (15, 3, 1024, 2),
    ):
        case = bench_gpu.Case(table, 1024, 64, 768)
        assert case.length == length
        assert case.io_bytes == (arrays * 2 * rows * length // 1024 + kernels * 4 * 768 * length)
    assert bench_gpu.Case(12, 2**15, 16, 768).scale == 4
    assert bench_gpu.Case(12, 256, 64, 768, "float32").rows_bytes == rows


def test_what_is_not_finite_or_off_is_no_small_error(bench_gpu):
    y = np.ones((2, 3, 8))
    wrong = y.copy()
    wrong[1, 2, 3] = np.nan
    assert np.isnan(bench_gpu.worst_error([wrong], [y], [np.zeros((2, 3))]))
    wrong[1, 2, 3] = 2
    found = bench_gpu.worst_error([y, wrong], [y, y], [np.zeros((2, 3))] * 2)
    assert abs(found - 8**-0.5) < 1e-15


@pytest.mark.parametrize("table", range(11, 16))
@pytest.mark.parametrize("method", ("torch_complex", "torch_rfft"))
def test_pytorchs_methods_are_the_same_operation(bench_gpu, table, method):
    torch = pytest.importorskip("torch")
    card = bench_gpu.Card.__new__(bench_gpu.Card)
    card.torch = torch
    case = bench_gpu.Case(table, 64, 3, 2, "float32")
    arrays = bench_gpu.random_operands(case, np.random.default_rng(0))
    call = card.torch_call(case, {name: torch.from_numpy(x) for name, x in arrays.items()}, method)
    found = [card.host(x) for x in call()]
    assert bench_gpu.worst_error(found, *bench_gpu.exact(case, arrays)) < 1e-6


# ---- Stages --------------------------------------------------------------------


def test_a_failed_or_endless_stage_does_not_stop_the_others(bench_gpu, tmp_path, capsys):
    def stage(name, code, **more):
        return bench_gpu.Stage(name, ["sh", "-c", code], **more)

    started = time.perf_counter()
    status = bench_gpu.run_stages(
        [
            stage("fails", "echo said; exit 3"),
            stage("needs", "true", programs=("sh", "no-such"), modules=("os", "no_such")),
            stage("works", "echo $WORD", environment={"WORD": "done"}),
            stage("hangs", "echo begun; sleep 3600 & wait"),
            stage("starves", "true"),
        ],
        2,
        tmp_path,
    )
    assert status == 1 and time.perf_counter() - started < 3600
    found = json.loads((tmp_path / "stages.json").read_text())
    assert {name: s["status"] for name, s in found.items()} == {
        "fails": 3,
        "needs": "lacks no-such, Python's no_such",
        "works": 0,
        "hangs": "timeout",
        "starves": "no time left",
    }
    assert "said" in (tmp_path / "fails.log").read_text()
    assert "begun" in (tmp_path / "hangs.log").read_text()
    assert "done" in capsys.readouterr().out
    assert bench_gpu.run_stages([stage("works", "true")], 600, tmp_path) == 0


def test_a_stage_leaves_the_others_their_time(bench_gpu, tmp_path):
    """A stage gets the time that the later ones do not need, and is told how much that is."""
    found = []

    def tell(seconds):
        found.append(seconds)
        return ["true"]

    stages = [bench_gpu.Stage(str(i), tell, least) for i, least in enumerate((50, 30, 20))]
    assert bench_gpu.run_stages(stages, 100, tmp_path) == 0
    assert np.abs(np.array(found) - [50, 80, 100]).max() < 20
    assert bench_gpu.run_stages(stages, 40, tmp_path) == 0  # too little for all: half for the first
    assert np.abs(np.array(found[3:]) - [20, 20, 40]).max() < 10


def test_what_failed_is_told_when_time_is_over(bench_gpu, tmp_path):
    """When time is over, pytest is interrupted as by Ctrl-C and reports its failures, and no other
    program runs after it."""
    (tmp_path / "test_slow.py").write_text(
        "import time\n\n\ndef test_wrong():\n    assert 'this' == 'that'\n\n\n"
        "def test_endless():\n    open('begun', 'w')\n    time.sleep(3600)\n"
    )
    stages = bench_gpu.stages_of(settings(tmp_path, stages=["tests"]), tmp_path)
    code = stages[0].command[2]
    for name in "rows", "padded_rows", "cuda_interface", "device_arrays":
        code = code.replace(str(TOP / "tests" / "cuda" / f"test_{name}.py"), "test_slow.py")
    assert code.count("test_slow.py") == 4
    code = (
        f"cd {tmp_path} && (while ! test -e begun; do sleep 0.1; done; "
        f"kill -INT 0) & cd {tmp_path}; " + code
    )
    stage = bench_gpu.Stage("tests", ["sh", "-c", code])
    done = bench_gpu.run_stage(stage, 120, tmp_path)
    assert done["status"] == 130, done
    log = (tmp_path / "tests.log").read_text()
    assert "KeyboardInterrupt" in log and "assert 'this' == 'that'" in log
    assert log.count("1 failed in") == 1


def test_the_stages(bench_gpu, tmp_path, monkeypatch):
    """Each stage names programs and tests that exist, and there is time for all stages."""
    build = tmp_path / "build"
    stages = {s.name: s for s in bench_gpu.stages_of(settings(tmp_path), build)}
    assert tuple(stages) == bench_gpu.STAGES
    assert sum(s.least for s in stages.values()) < 500
    for stage in stages.values():
        command = stage.command(100) if callable(stage.command) else stage.command
        if command[0] == "sh":
            assert subprocess.run(["sh", "-n", "-c", command[2]]).returncode == 0
        for word in " ".join(command).split():
            if word.startswith("/") and "/tests/" in word:
                assert Path(word.rstrip(";")).is_file(), word
    assert "with-cuda-arch=" in stages["build"].command[2]
    assert stages["sanitizer"].command[2].count("compute-sanitizer") == 2
    assert float(stages["measure"].command(100)[-1]) == 80
    for more, names in (
        ({"library": Path("/x.so")}, bench_gpu.STAGES[1:]),
        ({"stages": ["tests", "build"]}, ("build", "tests")),
    ):
        found = bench_gpu.stages_of(settings(tmp_path, **more), build)
        assert tuple(s.name for s in found) == names
    with pytest.raises(Exception, match="tets must be of build, "):
        bench_gpu.stage_names("tets")


@pytest.mark.parametrize(
    "version, arch", [((8, 0), "80"), ((9, 0), "90a"), ((12, 0), "120"), ((0, 0), "80")]
)
def test_the_cards_architecture(bench_gpu, monkeypatch, version, arch):
    monkeypatch.setattr(bench_gpu, "capability", lambda: version)
    assert bench_gpu.architecture() == arch


def test_the_sanitizers_tests_exist(bench_gpu):
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--collect-only",
            "-p",
            "no:cacheprovider",
            "-c",
            TOP / "pyproject.toml",
            "-m",
            "not big",
            "-k",
            bench_gpu.SANITIZED,
            TOP / "tests" / "cuda" / "test_rows.py",
        ],
        capture_output=True,
        text=True,
        env=clean_environment(
            FFTCONV_LIBRARY=_lib.path, PYTHONPATH=str(Path(_lib.__file__).parent.parent)
        ),
    ).stdout
    names = set(re.findall(r"::(\w+)\[?", found))
    assert {
        "test_short_rows",
        "test_each_length_is_chosen",
        "test_backward_shared_kernels",
    } <= names, found
    assert 5 <= found.count("::") <= 40


@pytest.mark.skipif(cuda.available(), reason="there is a device")
def test_without_a_gpu(tmp_path):
    """Without a GPU the program says what is missing, with automake's status for a skipped test."""
    done = subprocess.run(
        [sys.executable, TOP / "experiments" / "bench_gpu.py", "--out", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 77 and "lacks a CUDA device" in done.stdout
    assert not list(tmp_path.iterdir())


# ---- Checked before timed --------------------------------------------------------


class StandIn:
    """Takes the place of bench_gpu.Card, with arrays of fftconv.cuda and made-up times."""

    l2 = 2**14
    name = "stand-in"

    def __init__(self, bench_gpu, spoilt=()):
        self.bench, self.spoilt = bench_gpu, spoilt
        self.rng = np.random.default_rng(0)

    def operands(self, case):
        found = self.bench.random_operands(case, self.rng)
        return {name: Rows(x) for name, x in found.items()}

    def host(self, x):
        return np.asarray(x, np.float32)

    def torch_call(self, case, arrays, method):
        if "raises" in self.spoilt:
            raise RuntimeError("no such FFT\nat all")
        arrays = {name: np.asarray(x.x) for name, x in arrays.items()}

        def call():
            if case.backward:
                g = reference.conv_backward(arrays["dy"], arrays["u"], arrays["k"], **case.how)
                found = [g.du, g.dk]
            else:
                found = [
                    reference.conv(
                        arrays["u"], arrays["k"], arrays.get("w"), arrays.get("v"), **case.how
                    )
                ]
            return [x.astype(np.float32) for x in found]

        return call

    def poison(self):
        pass

    forget = poison
    working = staticmethod(contextlib.nullcontext)

    def peak(self, call):
        found = [x.numpy() if isinstance(x, cuda.Array) else x for x in call()]
        if "wrong" in self.spoilt:
            found = [x * 1.05 for x in found]
        if "nan" in self.spoilt:
            found[0].flat[7] = np.nan
        return found, 1000

    def agreement(self, found, other, scales):
        zeros = [np.full(x.shape[:-1], s) for x, s in zip(other, scales)]
        return self.bench.worst_error(found, other, zeros)

    def repeated(self, calls, least_ms):
        assert len(calls) > 1
        return (lambda: None), len(calls), "graph"

    def milliseconds(self, run):
        run()
        return float(self.rng.uniform(1, 2))

    def copy_rate(self, size):
        return {"bytes": size, "median_s": 1.0, "bytes_per_s": 2.0 * size}


class Rows:
    """A NumPy array that can be indexed, and that the library reads from the device."""

    def __init__(self, x):
        self.x, self.there, self.shape = x, cuda.asarray(x), x.shape

    def __getitem__(self, key):
        return self.x[key]

    @property
    def __cuda_array_interface__(self):
        return self.there.__cuda_array_interface__


@pytest.fixture
def small(bench_gpu, monkeypatch):
    monkeypatch.setattr(
        bench_gpu,
        "cases",
        lambda grid: [bench_gpu.Case(table, 256, 3, 4) for table in bench_gpu.TABLES],
    )
    return bench_gpu


@on_device
def test_measure_writes_what_the_tables_draw(small, table_gpu, tmp_path):
    """Every case and method is right, and has a time, bytes and a floor."""
    pytest.importorskip("scipy")  # the record of the machine names its version
    options = settings(tmp_path)
    assert small.measure(options, StandIn(small)) == 0
    record = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert record["machine"]["commit"] == "f" * 40 and record["grid"] == "quick"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench_gpu.json"]
    rows = record["rows"]
    assert len(rows) == 5 * 6 and not record["not_reached"]
    for row in rows:
        if "cuFFT was not found" in row["status"]:
            continue
        assert row["status"] == "measured" and row["clock"] == "graph"
        assert row["error"] <= 2e-3 and row["peak_bytes"] == 1000
        assert row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["scaled_ms"] == pytest.approx(row["median_s"] * 1e3 * 64 * 768 / 12)
        assert row["over_floor"] == pytest.approx(row["median_s"] / (row["io_bytes"] / 2**29))
    table_gpu.draw(tmp_path, tmp_path)
    body = json.loads((tmp_path / "table14_gpu.json").read_text())
    drawn = {row["fft_size"]: row for row in body["rows"]}
    mine = next(r for r in rows if (r["table"], r["method"]) == (14, "fused"))
    assert drawn[256]["fused"] == mine["scaled_ms"] and drawn[256]["run"] == "3 x 4"
    assert drawn[512]["fused"] == "not measured"
    assert "No GPU has run" not in body["caption"]


@on_device
@pytest.mark.parametrize(
    "how, says", [("wrong", "wrong"), ("nan", "wrong"), ("raises", "RuntimeError: no such FFT")]
)
def test_what_is_wrong_is_not_timed(small, tmp_path, how, says):
    pytest.importorskip("scipy")
    status = small.measure(settings(tmp_path), StandIn(small, [how]))
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["rows"]
    of = [r for r in rows if r["method"] == "torch_rfft"]
    assert len(of) == 5 and all(r["status"] == says for r in of)
    assert not any("median_s" in r for r in of)
    if how == "raises":  # the other methods were timed all the same
        assert status == 0
        assert all("median_s" in r for r in rows if r["method"] == "fused")
    else:
        assert status == 1 and not any("median_s" in r for r in rows)


def test_with_pytorch_alone(bench_gpu, tmp_path, monkeypatch):
    """Card itself runs on CPU tensors, with the GPU's part of torch made up: PyTorch's methods are
    timed, and ours say why they cannot be."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy")
    slept = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            slept.append("record")

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 3.0

    class Graph:
        def replay(self):
            slept.append("replay")

    cuda_ = {
        "Event": Event,
        "CUDAGraph": Graph,
        "_sleep": slept.append,
        "Stream": lambda: None,
        "stream": contextlib.nullcontext,
        "graph": contextlib.nullcontext,
        "empty_cache": lambda: None,
        "synchronize": lambda: None,
        "mem_get_info": lambda: (2**20, 2**21),
        "memory_allocated": lambda: 5,
        "max_memory_allocated": lambda: 12,
        "reset_peak_memory_stats": lambda: None,
        "get_device_properties": lambda device: SimpleNamespace(
            name="made up", total_memory=2**30, L2_cache_size=2**14
        ),
    }
    for name, value in cuda_.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(
        bench_gpu,
        "cases",
        lambda grid: [
            bench_gpu.Case(table, 256, 3, 4, dtype)
            for table, dtype in (
                (11, "float16"),
                (12, "bfloat16"),
                (13, "float32"),
                (14, "float16"),
                (15, "float16"),
            )
        ],
    )
    card = bench_gpu.Card(1, "cpu")
    monkeypatch.setattr(card, "copy_rate", lambda size: bench_gpu.Card.copy_rate(card, 2**16))
    options = settings(tmp_path)
    assert bench_gpu.measure(options, card) == 0
    rows = json.loads((tmp_path / "bench_gpu.json").read_text())["rows"]
    assert len(rows) == 5 * 6
    for row in rows:
        if row["method"].startswith("torch"):
            assert row["status"] == "measured", row
            assert row["clock"] == "graph" and row["peak_bytes"] == 7
            assert 0 < row["error"] < 1e-2 and row["sets"] > 1
        else:
            assert re.match("Unsupported|ValueError", row["status"]), row
    assert "replay" in slept and 1_000_000 in slept


@on_device
def test_time_runs_out(small, tmp_path):
    """When time runs out, the record has what was measured and names what was not."""
    pytest.importorskip("scipy")
    small.measure(settings(tmp_path, seconds=0), StandIn(small))
    record = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert not record["rows"]
    assert record["not_reached"] == [[t, 256, "float16"] for t in range(11, 16)]


@on_device
def test_verify(bench_gpu, tmp_path):
    """Every table and type is right with our own arrays, with a spectrum and without."""
    rows = bench_gpu.verify(settings(tmp_path))
    assert not any("median_s" in row for row in rows)
    for row in rows:
        if "cuFFT was not found" not in row["status"]:
            assert row["status"] == "right", row
            assert row["error"] > 0
    assert len(rows) == 5 * 3 * 4


# ---- Tables --------------------------------------------------------------------


def test_not_measured(table_gpu, tmp_path):
    """Without a run on a GPU no cell of ours has a number."""
    table_gpu.draw(tmp_path, tmp_path)
    for table in range(11, 16):
        body = json.loads((tmp_path / f"table{table}_gpu.json").read_text())
        assert "No GPU has run this yet" in body["caption"]
        assert body["measured_on"] == "no machine yet"
        assert len(body["rows"]) == 15
        for row in body["rows"]:
            assert row["h100_pytorch"] > 0
            for name in (
                *table_gpu.METHODS,
                "floor",
                "memory",
                "memory_torch",
                "fused_over_floor",
                "cufft_over_floor",
            ):
                assert row[name] == "not measured"


def test_cells(table_gpu):
    assert table_gpu.cell({"status": "measured", "scaled_ms": 1.5}, "scaled_ms") == 1.5
    assert table_gpu.cell({"status": "wrong"}, "scaled_ms") == "wrong"
    assert (
        table_gpu.cell({"status": "OutOfMemoryError: tried to allocate"}, "scaled_ms")
        == "could not run"
    )
