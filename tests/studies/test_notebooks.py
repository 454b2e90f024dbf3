"""The lessons run, and the committed notebooks are what their sources say."""

import importlib.util
import pathlib

import pytest

# Under sanitizers the lessons that measure would measure only the sanitizers.
pytestmark = pytest.mark.slow

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"

LESSONS = sorted((NOTEBOOKS / "src").glob("*.py"))
each_lesson = pytest.mark.parametrize("source", LESSONS, ids=lambda s: s.stem)


@pytest.fixture
def build():
    """notebooks/build.py, imported late because its libraries take a while to import."""
    for name in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(name)
    spec = importlib.util.spec_from_file_location("notebooks_build", NOTEBOOKS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_lessons(build):
    assert build.lessons() == LESSONS
    assert [s.stem[:2] for s in LESSONS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@pytest.mark.parametrize(
    "source",
    [LESSONS[0], *(pytest.param(s, marks=pytest.mark.thorough) for s in LESSONS[1:])],
    ids=lambda s: s.stem,
)
def test_runs_in_a_fresh_kernel(source, build, monkeypatch):
    if "import torch\n" in source.read_text("utf-8"):
        pytest.importorskip("torch", "2.6")
    monkeypatch.setenv("FFTCONV_TRAINING_STEPS", "10")
    book = build.execute(build.make_notebook(source))  # raises on any error
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")


@each_lesson
def test_committed_notebook_is_the_source_executed(source, build):
    import nbformat

    book = nbformat.read(build.notebook_path(source), as_version=4)
    nbformat.validate(book)
    cells = [(cell.cell_type, cell.source) for cell in book.cells]
    assert cells == build.read_percent(source.read_text("utf-8")), (
        f"{source.name} and its notebook differ: run notebooks/build.py {source.stem[:2]}"
    )
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(figures) >= sum(cell.source.count("plt.show()") for cell in code)


def test_percent_reader(build):
    text = "# %% [markdown]\n# a\n#\n# b\n\n# %%\nx = 1\n\n# a comment\n"
    assert build.read_percent(text) == [("markdown", "a\n\nb"), ("code", "x = 1\n\n# a comment")]
    for wrong in ("x = 1\n# %%\n", "# %% [raw]\n# a\n", "# %% [markdown]\nx = 1\n"):
        with pytest.raises(ValueError, match="line"):
            build.read_percent(wrong)
