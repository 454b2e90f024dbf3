"""How the CUDA engine is configured and linked; no GPU, driver or nvcc is needed."""

import os
import re
import subprocess

import pytest
from build_tree import LIBRARY, TOP, clean_environment, need, run


def test_the_library_needs_nothing_of_cuda():
    """The library loads where there is no driver, no CUDA runtime and no cuFFT."""
    need("readelf")
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", LIBRARY))
    assert any(name.startswith("libc.") for name in needed)
    assert not [name for name in needed if re.match("lib(cu|nv)", name)]


CORE = (TOP / "libfftconv").resolve()
CONFIGURE = """
AC_INIT([one], [1])
AC_DEFUN([AM_CONDITIONAL], [])
m4_include([{macros}])
AC_PROG_CC
FFTCONV_CUDA
AS_ECHO(["flags: $NVCC_FLAGS"])
"""


@pytest.fixture(scope="module")
def configure(tmp_path_factory):
    need("autoconf")
    folder = tmp_path_factory.mktemp("configure")
    (folder / "configure.ac").write_text(
        CONFIGURE.format(macros=TOP / "libfftconv" / "m4" / "fftconv.m4")
    )
    run("autoconf", cwd=folder)
    return folder / "configure"


@pytest.mark.slow
@pytest.mark.parametrize(
    "gpus, option, want",
    [
        (None, None, "80"),  # nvidia-smi sees no GPU
        ("9.0\n9.0\n", None, "90"),
        ("12.0\n8.6\n7.5\n", None, "86 120"),  # the engine needs 8.0 or later
        ("99.0\n", None, "80"),  # nvcc does not know this one
        ("NVIDIA-SMI has failed. Version 9.0\n", None, "80"),
        ("9.0\n", "100,80", "100 80"),
    ],
)
def test_architectures(configure, tmp_path, gpus, option, want):
    """Kernels are compiled for the architectures that the option names, else for the GPUs of this
    machine, else for 8.0; the first architecture is compiled to PTX as well."""
    for name, text in {
        "nvcc": 'test "$1" != --list-gpu-code || '
        "printf 'sm_80\\nsm_86\\nsm_90\\nsm_120\\n'; touch conftest.o",
        "nvidia-smi": f"cat {tmp_path}/gpus 2>/dev/null",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if gpus is not None:
        (tmp_path / "gpus").write_text(gpus)
    done = subprocess.run(
        [configure, *([f"--with-cuda-arch={option}"] if option else [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=clean_environment(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"),
    )
    found = re.findall(r"-gencode=arch=compute_(\w+),code=(\S+)", done.stdout)
    first = want.split()[0]
    assert found == [
        (a, f"[sm_{a},compute_{a}]" if a == first else f"sm_{a}") for a in want.split()
    ], done.stdout + done.stderr


def included(file):
    """All files of libfftconv that this one includes."""
    found = set()
    for name in re.findall(r'^#include "(.*?)"', file.read_text(), re.MULTILINE):
        beside = (file.parent / name).resolve()
        of = beside if beside.exists() else CORE / name
        found |= {of} | (included(of) if of.exists() else set())
    return found


@pytest.mark.parametrize("source", ("shapes.cpp", "device.cu", "rows_half.cu", "rows_single.cu"))
def test_kernels_are_rebuilt(source):
    """What nvcc compiles is compiled again after a change of any header that it includes."""
    makefile = (CORE / "Makefile.inc").read_text().replace("\\\n", "")
    values = dict(re.findall(r"^(\w+) = (.*)", makefile, re.MULTILINE))
    target = rf"^%D%/cuda/{source.partition('.')[0]}\.lo: (.*)"
    (needs,) = re.findall(target, makefile, re.MULTILINE)
    while "$(" in needs:
        needs = re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], needs)
    names = {CORE / name.removeprefix("%D%/") for name in needs.split()}
    assert included(CORE / "cuda" / source) <= names
