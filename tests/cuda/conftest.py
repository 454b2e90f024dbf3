"""Before each test of the CUDA engine, the emulated machine is set back to its first state."""

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
