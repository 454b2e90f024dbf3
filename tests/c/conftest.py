"""A plan for the tests of the C interface."""

import pytest
from c_calls import LREV, TWO_SIDED, new_plan
from fftconv import _lib


@pytest.fixture
def plan():
    """A plan whose calls take all operands except history."""
    p = new_plan(mode=TWO_SIDED, k_rev_length=LREV)
    yield p
    _lib.lib.fftconv_plan_destroy(p)
