"""The pages of the reference: every public name with its lesson, readable without a network."""

import re
import sys

import fftconv
import pytest
from build_tree import LIBRARY, TOP, clean_environment, run


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(TOP / "python"))
    import reference_pages

    return reference_pages


def test_every_public_name_has_a_lesson(pages):
    names = pages.public(fftconv)
    assert {"fftconv.conv", "fftconv.cost.monarch_cost", "fftconv.hippo.nplr"} <= set(names)
    for name in names:
        assert pages.lesson_of(name).is_file(), name
    assert pages.lesson_of("fftconv.cost.monarch_cost").stem == "03_cost_model"
    torch = {name for name in pages.LESSONS if name.startswith("fftconv.torch")}
    assert set(pages.LESSONS) - torch <= set(names)


def test_arguments_become_a_list(pages):
    text = "Return y.\n\nu, k: (B, H, L),\n    real.\nlength: L.  It says: no.\n\nMore: text"
    assert pages.markdown(text) == (
        "Return y.\n\n- **u, k**: (B, H, L),\n    real.\n"
        "- **length**: L.  It says: no.\n\n- **More**: text"
    )
    assert pages.markdown("Shape it:\nn: rows") == "Shape it:\n\n- **n**: rows"


@pytest.mark.slow
@pytest.mark.thorough
def test_pages(pages, tmp_path):
    pytest.importorskip("pdoc")
    environment = clean_environment(FFTCONV_LIBRARY=str(LIBRARY), PYTHONPATH=str(TOP / "python"))
    run(sys.executable, pages.__file__, tmp_path, env=environment)
    page = (tmp_path / "fftconv.html").read_text()
    for name in ("conv", "Plan", "Pattern"):
        assert f'id="{name}"' in page
    assert page.count("is about it") >= 19 and "file:///" in page
    for file in tmp_path.rglob("*.html"):
        loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]*)"', file.read_text())
        assert [x for x in loaded if x.startswith(("http", "//"))] == [], file.name
