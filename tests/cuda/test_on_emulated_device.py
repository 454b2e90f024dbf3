"""Where there is no GPU, the tests that need a device run on the emulated one, in processes of
their own that load the library of the emulated machine."""

import sys
from pathlib import Path

import pytest
from build_tree import BUILD, clean_environment, run
from engine_calls import LIBRARY, emulated_only, needs_library
from fftconv import _lib
from targets import TARGET

pytestmark = needs_library
TESTS = Path(__file__).parents[1]
ARRAYS, ROWS, INTERFACE = (
    TESTS / "cuda" / f"test_{name}.py" for name in ("device_arrays", "rows", "cuda_interface")
)
POISON, BENCH_GPU = TESTS / "core" / "test_poison.py", TESTS / "studies" / "test_bench_gpu.py"


# Of test_rows.py only the tests that lay out memory run here, where arrays are copied to the device
# as on a GPU.
@emulated_only
@pytest.mark.partly
@pytest.mark.parametrize(
    "files, which",
    [
        ([ARRAYS, ROWS], "test_conv or by_cufft or in_place"),
        ([ARRAYS, POISON], "on_device and not test_conv and not by_cufft"),
        ([ROWS, INTERFACE], "strides or refusals or workspace or of_the_cpu or other_device"),
        pytest.param([BENCH_GPU], "on_device", marks=pytest.mark.thorough),
    ],
    ids=["conv", "arrays", "rows", "bench_gpu"],
)
def test_on_emulated_device(files, which):
    # Targets beyond check run the inner tests in full, each of them once.
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
