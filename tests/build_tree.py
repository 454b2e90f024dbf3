"""Paths of the source tree and the build, and helpers that install and use the built library."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
HEADER = TOP / "libfftconv" / "fftconv.h"
BUILD = Path(os.environ.get("FFTCONV_BUILDDIR", TOP / "build"))
LIBRARY = BUILD / ".libs" / "libfftconv.so"
CC = os.environ.get("CC", "cc").split()


def clean_environment(**extra):
    """The environment without the variables that `make check` sets for its tests."""
    ours = (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "MAKEOVERRIDES",
        "DESTDIR",
        "PYTHONPATH",
        "FFTCONV_LIBRARY",
        "FFTCONV_BUILDDIR",
    )
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return {**kept, **extra}


def run(*command, **options):
    """Run a program and return its output.

    Raises AssertionError with all of the program's messages if it fails.
    """
    options.setdefault("env", clean_environment())
    done = subprocess.run(
        [str(word) for word in command], text=True, capture_output=True, **options
    )
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def need(program):
    """Skip the test if `program` is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@functools.cache
def installed():
    """Run `make install` into an empty directory, once; return the prefix in it."""
    # Kept in an attribute of the function, so that the directory is removed when Python exits.
    holder = tempfile.TemporaryDirectory(prefix="fftconv-install-")
    installed.holder = holder
    run("make", "-C", BUILD, "install", f"DESTDIR={holder.name}")
    for found in Path(holder.name).rglob("include/fftconv.h"):
        return found.parent.parent
    raise AssertionError("make install installed no include/fftconv.h")


def pkg_config(*arguments):
    """The words that pkg-config prints for the installed fftconv.pc, with the actual prefix."""
    need("pkg-config")
    prefix = installed()
    return run(
        "pkg-config",
        f"--define-variable=prefix={prefix}",
        *arguments,
        "fftconv",
        env=clean_environment(PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig")),
    ).split()


def compile_and_run(source, directory):
    """Compile a C program against the installed library with pkg-config's flags; return its
    output."""
    file = Path(directory) / "program.c"
    file.write_text(source)
    run(
        *CC,
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        file,
        "-o",
        file.with_suffix(""),
        *pkg_config("--cflags", "--libs"),
        "-lm",
    )
    return run(
        file.with_suffix(""), env=clean_environment(LD_LIBRARY_PATH=str(installed() / "lib"))
    )
