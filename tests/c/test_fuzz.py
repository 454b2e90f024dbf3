"""The fuzzer of the C interface: some of its cases, which are always the same."""

import sys
from pathlib import Path

import pytest
from build_tree import BUILD, clean_environment, run
from fuzz import LIBRARY
from support import slow


@slow  # .ci/run starts `make fuzz` under sanitizers
@pytest.mark.skipif(not LIBRARY.exists(), reason="this linker cannot wrap allocations")
def test_fuzz():
    environment = clean_environment(FFTCONV_BUILDDIR=str(BUILD), FUZZ_SEED="1", FUZZ_CASES="40")
    printed = run(sys.executable, Path(__file__).with_name("fuzz.py"), env=environment)
    assert "40 cases from seed 1" in printed and " 0 findings" in printed
