"""The README's programs run as printed."""

import re
import sys

import pytest
from build_tree import LIBRARY, TOP, clean_environment, compile_and_run, run

README = (TOP / "README.md").read_text()


def program(language):
    """The README's blocks of code in `language`, one after the other."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)
    assert found, f"no blocks of {language}"
    return "".join(found)


@pytest.mark.slow
def test_c(tmp_path):
    assert compile_and_run(program("c"), tmp_path).strip()


def test_python(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program("python"))
    assert run(
        sys.executable,
        file,
        cwd=tmp_path,
        env=clean_environment(FFTCONV_LIBRARY=str(LIBRARY), PYTHONPATH=str(TOP / "python")),
    ).strip()


def test_commands_exist():
    """The two commands that the README promises exist, and so does every file that it names."""
    assert re.search(r"\./quickstart\b(?! check)", README)
    assert "./quickstart check" in README
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (TOP / target).exists(), target
