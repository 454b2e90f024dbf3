"""The programs in the READMEs run as printed, their links lead somewhere, and their numbers are the
stored results."""

import re
import subprocess
import sys

import fftconv
import pytest
from build_tree import LIBRARY, TOP, clean_environment, compile_and_run, run

README = TOP / "README.md"
# Where no documents of ours are.
FOREIGN = ("build", ".venv", "autom4te.cache", "build-aux")
DOCUMENTS = sorted(
    file
    for file in TOP.glob("**/*.md")
    if not file.relative_to(TOP).parts[0].startswith((*FOREIGN, "."))
)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")


def program(document, language):
    """The document's blocks of code in `language`, one after the other."""
    found = re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.S | re.M)
    assert found, f"no blocks of {language}"
    return "".join(found)


@pytest.mark.slow
def test_c(tmp_path):
    assert compile_and_run(program(TOP / "libfftconv" / "README.md", "c"), tmp_path).strip()


@pytest.mark.parametrize("folder", ["", "python"])
def test_python(folder, tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program(TOP / folder / "README.md", "python") + "\nassert y.size\n")
    run(
        sys.executable,
        file,
        cwd=tmp_path,
        env=clean_environment(FFTCONV_LIBRARY=str(LIBRARY), PYTHONPATH=str(TOP / "python")),
    )


def test_commands_exist():
    """The two commands that the README promises exist."""
    text = README.read_text()
    assert re.search(r"\./quickstart\b(?! check)", text)
    assert "./quickstart check" in text
    assert (TOP / "quickstart").exists()


def heading(line):
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


def broken(document):
    """The links of a document to files or headings that do not exist."""
    found = []
    for path, anchor in LINK.findall(document.read_text()):
        if ":" in path:
            continue
        target = (document.parent / path) if path else document
        if not target.exists():
            found.append(path)
        elif anchor:
            lines = target.read_text().splitlines()
            if anchor not in [heading(line) for line in lines if line.startswith("#")]:
                found.append(f"{path}#{anchor}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(TOP)))
def test_links(document):
    assert broken(document) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One thing\n")
    (tmp_path / "b.md").write_text("[1](a.md) [2](c.md) [3](a.md#one-thing) [4](a.md#two) [5](#x)")
    assert broken(tmp_path / "b.md") == ["c.md", "a.md#two", "#x"]


def test_every_folder_is_described():
    """Each folder of the tree that has a README is linked from the top."""
    linked = {path for path, _ in LINK.findall(README.read_text())}
    here = {str(file.relative_to(TOP)) for file in TOP.glob("*/README.md")}
    assert here and here - linked == set()


def test_numbers_are_the_stored_results(scripts, tmp_path):
    pytest.importorskip("matplotlib")
    import readme_numbers

    text = README.read_text()
    for name, body in readme_numbers.BLOCKS.items():
        assert readme_numbers.block(name).search(text)[2] == body(readme_numbers.RESULTS) + "\n", (
            "run paper_figures/readme_numbers.py"
        )
    # Writing them changes what is not so, and nothing else.
    spoiled = tmp_path / "README.md"
    spoiled.write_text(readme_numbers.block("headline").sub(r"\1old\n\3", text))
    readme_numbers.write(readme=spoiled)
    assert spoiled.read_text() == text


def test_the_readmes_share_of_a_low_pass():
    """What python/README.md says a low-pass computes, by instruction set."""
    text = " ".join((TOP / "python" / "README.md").read_text().split())
    said = re.search(
        r"`lowpass\(128\)` at N = 32,768, (\d+) % is computed with the baseline's vectors, "
        r"(\d+) % with AVX2's and (\d+) % with AVX-512's",
        text,
    )
    for isa, percent in zip(("baseline", "avx2", "avx512"), said.groups()):
        if isa in fftconv.isas():
            plan = fftconv.Plan(
                (1, 1, 32768),
                (1, 32768),
                mode="circular",
                fft_size=32768,
                pattern=fftconv.Pattern.lowpass(128),
                isa=isa,
            )
            assert round(100 * plan.computed) == int(percent), isa


def test_the_files_of_a_release_are_documents_too():
    """Documents in folders that a release does not pack as a whole are named in a Makefile."""
    if not (TOP / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=TOP, capture_output=True, text=True
    ).stdout.split()
    makefiles = "".join(
        (TOP / name).read_text()
        for name in ("Makefile.am", "libfftconv/Makefile.inc", "python/Makefile.inc")
    )
    for name in tracked:
        if name.split("/")[0] in ("experiments", "paper_figures"):
            continue  # packed as a whole
        assert name in makefiles or f"%D%/{name.partition('/')[2]}" in makefiles, name
