"""The fuzzer of the C interface: some of its cases, which are always the same."""

import sys
from pathlib import Path

import pytest
from build_tree import clean_environment, run
from fftconv import _lib
from support import slow


@slow  # .ci/run starts `make fuzz` under sanitizers
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_fuzz():
    build = Path(_lib.path).parents[1]
    environment = clean_environment(FFTCONV_BUILDDIR=str(build), FUZZ_SEED="1", FUZZ_CASES="60")
    printed = run(sys.executable, Path(__file__).with_name("fuzz.py"), env=environment)
    assert "60 cases from seed 1" in printed and " 0 findings" in printed
