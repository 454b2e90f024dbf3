"""The README's programs run as printed."""
import re
import sys

import pytest
from build_tree import LIBRARY, TOP, clean_environment, compile_and_run, run

README = (TOP / "README.md").read_text()


def block(language):
    """The README's one block of code in `language`."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)
    assert len(found) == 1, f"{len(found)} blocks of {language}"
    return found[0]


@pytest.mark.slow
def test_c(tmp_path):
    assert compile_and_run(block("c"), tmp_path).strip()


def test_python(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(block("python"))
    assert run(sys.executable, file, cwd=tmp_path, env=clean_environment(
        FFTCONV_LIBRARY=str(LIBRARY), PYTHONPATH=str(TOP / "python"))).strip()


def test_commands_exist():
    """The two commands it promises are there, and so is every file it names."""
    assert re.search(r"\./quickstart\b(?! check)", README)
    assert "./quickstart check" in README
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (TOP / target).exists(), target
