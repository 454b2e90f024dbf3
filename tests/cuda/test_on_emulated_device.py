"""The tests of arrays on devices, where there is none: on the emulated one."""

import sys
from pathlib import Path

from build_tree import BUILD, clean_environment, run
from engine_calls import LIBRARY, emulated_only, needs_library
from fftconv import _lib

pytestmark = needs_library


@emulated_only
def test_device_arrays():
    """test_device_arrays.py, test_bench_gpu.py, and of the engine's own tests what lays out
    memory as on a GPU, in a process whose library is the emulated one."""
    tests = Path(__file__).parents[1]
    run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        tests.parent / "pyproject.toml",
        "-p",
        "no:cacheprovider",
        tests / "cuda" / "test_device_arrays.py",
        tests / "studies" / "test_bench_gpu.py",
        tests / "cuda" / "test_rows.py",
        tests / "cuda" / "test_cuda_interface.py",
        "-k",
        "test_device or test_bench_gpu or strides or in_place or refusals or workspace"
        " or of_the_cpu or other_device",
        env=clean_environment(
            FFTCONV_LIBRARY=str(LIBRARY),
            FFTCONV_CUFFT=str(LIBRARY),
            FFTCONV_BUILDDIR=str(BUILD),
            PYTHONPATH=str(Path(_lib.__file__).parent.parent),
        ),
    )
