"""What the tests of experiments/ and paper_figures/ share."""

import pytest
from build_tree import TOP


@pytest.fixture
def scripts(monkeypatch):
    """Makes the programs importable by name."""
    for folder in ("experiments", "paper_figures"):
        monkeypatch.syspath_prepend(str(TOP / folder))
