"""What is built, installed and packed: a clean header, `make install`, the wheel, and the list of
files that a release holds."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from build_tree import (
    BUILD,
    CC,
    HEADER,
    LIBRARY,
    TOP,
    clean_environment,
    compile_and_run,
    installed,
    need,
    run,
)

# The files that a wheel is built from.
RELEASE = [
    "configure.ac",
    "Makefile.am",
    "pyproject.toml",
    "experiments",
    "libfftconv",
    "python",
    "tests",
]
PROGRAM = """
#include <fftconv.h>
#include <stdio.h>
int main(void)
{
    puts(fftconv_version());
    return fftconv_abi() != FFTCONV_ABI;
}
"""


@pytest.mark.parametrize(
    "language, standard", [("c", "c11"), ("c", "gnu11"), ("c++", "c++11"), ("c++", "c++17")]
)
def test_header_is_clean(language, standard, tmp_path):
    """The header compiles by itself, twice, as C and as C++, without a warning."""
    file = tmp_path / "header.c"
    file.write_text(
        '#include "fftconv.h"\n#include "fftconv.h"\nint main(void) { return FFTCONV_STATUS_OK; }\n'
    )
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    command = [*CC, "-x", language, f"-std={standard}", "-fsyntax-only"]
    if subprocess.run([*command, empty], capture_output=True).returncode:
        pytest.skip(f"{' '.join(CC)} does not compile {language}")
    run(*command, "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}", file)


@pytest.mark.slow
def test_installed_library(tmp_path):
    """A C program finds the installed library by its .pc file alone."""
    version = re.search(
        r"AC_INIT\(\[libfftconv\], \[([^]]+)\]", (TOP / "configure.ac").read_text()
    ).group(1)
    assert compile_and_run(PROGRAM, tmp_path).strip() == version


@pytest.mark.slow
def test_installed_package(tmp_path):
    """The installed package can be imported from an empty directory, and uses the library that was
    installed with it."""
    (site,) = {file.parent.parent for file in installed().rglob("fftconv/_lib.py")}
    script = (
        "import fftconv, fftconv._lib, sys; print(fftconv.__file__);"
        "print(open('/proc/self/maps').read())"
    )
    output = run(
        sys.executable, "-c", script, cwd=tmp_path, env=clean_environment(PYTHONPATH=str(site))
    )
    assert output.startswith(str(site))
    used = set(re.findall(r"\S+/libfftconv\.so\S*", output))
    assert used == {str((installed() / "lib/libfftconv.so").resolve())}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("library", ["packed", pytest.param("built", marks=pytest.mark.big)])
def test_wheel(library, tmp_path):
    """One wheel serves every Python 3 of this platform, with the library inside: this build's, or
    one that the wheel's build hook configures and compiles."""
    pytest.importorskip("setuptools", "70.1")
    tree = tmp_path / "tree"  # setuptools writes beside its sources
    tree.mkdir()
    for name in RELEASE:
        if (TOP / name).is_dir():
            shutil.copytree(
                TOP / name,
                tree / name,
                ignore=shutil.ignore_patterns("build", "__pycache__", "*.o"),
            )
        else:
            shutil.copy2(TOP / name, tree / name)
    environment = clean_environment(PYTHONPATH=str(tree / "python"))
    if library == "packed":
        environment["FFTCONV_LIBRARY"] = str(LIBRARY)
    else:
        need("autoreconf")
    run(
        sys.executable,
        "-c",
        "import sys, build_from_top as b; b.build_wheel(sys.argv[1])",
        tmp_path,
        cwd=tree,
        env=environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"fftconv-[\d.]+-py3-none-(?!any)\w+\.whl", wheel.name)
    # The kernels for GPUs double the wheel of a library that has them.
    has_cuda = library == "packed" and b"cudaLaunchKernel" in LIBRARY.read_bytes()
    assert wheel.stat().st_size < (10e6 if has_cuda else 4e6)
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    output = run(
        sys.executable,
        "-c",
        "import fftconv; print(open('/proc/self/maps').read())",
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(unpacked)),
    )
    used = set(re.findall(r"\S+/libfftconv\.so\S*", output))
    assert used == {str(unpacked / "fftconv" / "libfftconv.so")}
    need("readelf")
    sections = run("readelf", "--sections", "--wide", unpacked / "fftconv" / "libfftconv.so")
    assert ".text" in sections and ".debug" not in sections and ".symtab" not in sections
    # Other machines load it: it asks for nothing but the C library.
    if "linux" in wheel.name:
        pytest.importorskip("auditwheel")
        said = run(sys.executable, "-m", "auditwheel", "show", wheel)
        assert re.search(r'tag:\s+"manylinux_', said), said


def test_dependencies_and_extras():
    """The package imports only its dependencies, and torch in fftconv.torch alone; quickstart
    names the extras that exist, but for the one that is for users."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((TOP / "python" / "pyproject.toml").read_text())["project"]
    imported, package = set(), TOP / "python" / "fftconv"
    for file in package.glob("**/*.py"):
        if file.parent == package / "torch":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == set(project["dependencies"])
    named = re.findall(r'extras="([^"]*)"', (TOP / "quickstart").read_text())
    extras = {extra for names in named for extra in names.split()}
    assert extras == set(project["optional-dependencies"]) - {"torch"}


def test_release_lists_every_source():
    """Every source is in a Makefile, or it would be missing from the release, and every file named
    there exists, or `make dist` would stop."""
    listed = run("make", "-C", BUILD, "--silent", "print-distfiles").split()
    listed = {name.replace(f"{TOP}/", "").replace("../", "") for name in listed}
    wanted = {
        str(file.relative_to(TOP))
        for folder, pattern in [
            ("libfftconv", "**/*.[ch]"),
            ("python/fftconv", "**/*.py"),
            ("notebooks", "*.ipynb"),
            ("tests", "**/*.py"),
            ("tests", "**/*.c*"),
        ]
        for file in (TOP / folder).glob(pattern)
    }
    assert len(wanted) > 20
    folders = [folder for folder in listed if (TOP / folder).is_dir()]  # packed as a whole
    assert {
        name
        for name in wanted - listed
        if not any(name.startswith(f"{folder}/") for folder in folders)
    } == set()
    ours = {
        name
        for name in listed
        if name.split("/")[0] in ("libfftconv", "python", "tests", "experiments", "notebooks")
    }
    assert {name for name in ours if not (TOP / name).exists()} == set()
