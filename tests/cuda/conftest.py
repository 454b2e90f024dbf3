"""Before each test of the CUDA engine, the emulated machine is set back to its first state.  After
it, no memory may have been written past its end."""

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
    yield
    if LIBRARY.exists() and hasattr(library(), "cuda_emulated_overruns"):
        assert library().cuda_emulated_overruns() == 0
