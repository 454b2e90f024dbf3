"""What needs a device, where there is none: on the emulated one, in processes whose
library is that one."""

import sys
from pathlib import Path

import pytest
from build_tree import BUILD, clean_environment, run
from engine_calls import LIBRARY, emulated_only, needs_library
from fftconv import _lib
from targets import TARGET

pytestmark = needs_library
TESTS = Path(__file__).parents[1]
ARRAYS = TESTS / "cuda" / "test_device_arrays.py"


@emulated_only
@pytest.mark.partly
@pytest.mark.parametrize(
    "files, which",
    [
        ([ARRAYS], "test_conv"),
        ([ARRAYS, TESTS / "core" / "test_poison.py"], "on_device and not test_conv"),
        ([TESTS / "studies" / "test_bench_gpu.py"], "on_device"),
        # Memory laid out as on a GPU.
        (
            [TESTS / "cuda" / "test_rows.py", TESTS / "cuda" / "test_cuda_interface.py"],
            "strides or refusals or workspace or of_the_cpu or other_device",
        ),
        ([TESTS / "cuda" / "test_rows.py"], "in_place"),
    ],
    ids=["conv", "arrays", "bench_gpu", "memory", "in_place"],
)
def test_on_emulated_device(files, which):
    # Where all of it runs, once.
    target = "check" if TARGET in ("check", "short") else "all"
    run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        TESTS.parent / "pyproject.toml",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        which,
        env=clean_environment(
            FFTCONV_TESTS=target,
            FFTCONV_LIBRARY=str(LIBRARY),
            FFTCONV_CUFFT=str(LIBRARY),
            FFTCONV_BUILDDIR=str(BUILD),
            PYTHONPATH=str(Path(_lib.__file__).parent.parent),
        ),
    )
