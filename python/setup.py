"""Build a wheel py3-none-<platform> that contains the C library.

The library is loaded with ctypes, so the wheel depends on the platform but not on the version
of Python.  The library is configured and built in a temporary copy of the sources, so that no
files are left in the source tree, and an earlier configure in the source tree does no harm.
If the environment variable FFTCONV_LIBRARY names a library that is built already, that one is
packed instead.  The CUDA engine is part of it where FFTCONV_WITH_CUDA=yes; nvcc must then be
there.  The library in the wheel has no debug information.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent.parent
# The files and folders that configure and make need.
SOURCES = ["configure.ac", "Makefile.am", "experiments", "libfftconv", "python", "tests"]
# Those that a release has besides, because autoreconf has already run for it.
GENERATED = ["configure", "Makefile.in", "aclocal.m4", "config.h.in", "build-aux"]


def version():
    text = (TOP / "configure.ac").read_text()
    return re.search(r"AC_INIT\(\[libfftconv\], \[([^]]+)\]\)", text).group(1)


def run(command, directory):
    print(f"fftconv: {' '.join(command)}", flush=True)
    try:
        subprocess.run(command, cwd=directory, check=True)
    except FileNotFoundError:
        raise SystemExit(
            f"fftconv: {command[0]} not found; building the C library needs a C "
            "compiler, make, and from a git checkout autoconf, automake, libtool"
        ) from None


def build_library(target):
    """Configure and build libfftconv in a copy of the sources; copy the library to target."""
    with tempfile.TemporaryDirectory(prefix="fftconv-") as scratch:
        scratch = Path(scratch)
        built = shutil.ignore_patterns(
            "*.o", "*.lo", "*.la", ".libs", ".deps", "build", "__pycache__"
        )
        for name in SOURCES + GENERATED:
            source = TOP / name
            if source.is_dir():
                shutil.copytree(source, scratch / name, ignore=built)
            elif source.exists():
                shutil.copy2(source, scratch / name)
        if not (scratch / "configure").exists():
            run(["autoreconf", "--install"], scratch)
        cuda = os.environ.get("FFTCONV_WITH_CUDA") or "no"
        if cuda not in ("yes", "no"):
            raise SystemExit(f"fftconv: FFTCONV_WITH_CUDA is {cuda!r}; allowed: 'yes', 'no'")
        flags = os.environ.get("CFLAGS", "-O3")
        run(
            ["./configure", "--quiet", f"--with-cuda={cuda}", "PYTHON=:", f"CFLAGS={flags}"],
            scratch,
        )
        run(["make", "--silent", f"-j{len(os.sched_getaffinity(0))}", "libfftconv.la"], scratch)
        shutil.copyfile(scratch / ".libs" / "libfftconv.so", target)


class BuildPy(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install loads the library of the build tree
            target = Path(self.build_lib) / "fftconv" / "libfftconv.so"
            if os.environ.get("FFTCONV_LIBRARY"):
                shutil.copyfile(os.environ["FFTCONV_LIBRARY"], target)
            else:
                build_library(target)
            if shutil.which("strip"):
                run(["strip", "--strip-unneeded", str(target)], ".")


class BdistWheel(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """A distribution that tells bdist_wheel that the wheel depends on the platform."""

    def has_ext_modules(self):
        return True


setup(
    version=version(),
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel},
)
