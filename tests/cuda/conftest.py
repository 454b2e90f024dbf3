"""Each test of the CUDA engine finds the emulated machine as it was at first."""

import pytest
from engine_calls import H100, LIBRARY, ON_GPU, library


@pytest.fixture(autouse=True)
def machine():
    if LIBRARY.exists() and not ON_GPU:
        lib = library()
        lib.cuda_emulated_set(H100, 3, 0)
        lib.cuda_emulated_set_tile(1 << 27)
        lib.cuda_emulated_fail(-1)
        lib.cuda_emulated_expect(None, 0)
