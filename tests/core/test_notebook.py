"""How objects look in a notebook, and gradients anywhere."""

from xml.etree import ElementTree

import fftconv
import numpy as np
import pytest
from fftconv import _notebook, cost

N = 64


def words(thing):
    """The text of an object's HTML, which is well formed, too."""
    tree = ElementTree.fromstring(thing._repr_html_().replace("<br>", "<br/>"))
    return " ".join(tree.itertext())


def test_plan():
    plan = fftconv.Plan((2, 3, 1000), (3, 100), threads=1)
    seen = words(plan)
    for stage in plan.stage_radices:
        assert seen.split().count(str(stage)) >= 2 or f" {stage} " in seen
    c = plan.counters
    assert _notebook.amount(c.spectrum_bytes, "B") in seen
    assert _notebook.amount(c.predicted_seconds, "s") in seen
    assert "(2, 3, 1000), float32" in seen and "causal" in seen
    pattern = fftconv.Pattern.lowpass(8)
    sparse = fftconv.Plan((1, 1, N), (1, N), mode="circular", fft_size=N, pattern=pattern)
    assert "circular modulo 64" in words(sparse) and repr(pattern) in words(sparse)


def test_counters():
    counters = fftconv.Plan((1, 1, 1024), (1, 1024), threads=1).counters
    seen = words(counters)
    for i, flops in enumerate(counters.stage_flops, 1):
        assert f"stage {i}, there and back" in seen and _notebook.amount(flops, "flop") in seen
    assert _notebook.amount(counters.flops, "flop") in seen


@pytest.mark.parametrize(
    "pattern, said",
    [
        (fftconv.Pattern((4, 16), (2, 0)), ["digit 1: 2 of 4", "digit 2: 16 of 16"]),
        (fftconv.Pattern.from_mask(np.arange(33) < 5), ["rfft bins: 5 of 33"]),
        (fftconv.Pattern.lowpass(10), []),
    ],
)
def test_pattern(pattern, said):
    seen = words(pattern)
    assert repr(pattern) in seen
    assert [line for line in said if line not in seen] == []


def test_hardware():
    seen = words(cost.HARDWARE["A100"])
    assert "1.35 TB/s" in seen and "234 Tflop/s" in seen and "32,768" in seen


@pytest.mark.parametrize(
    "value, text",
    [(0, "0 B"), (1, "1 B"), (999.6, "1000 B"), (1.35e12, "1.35 TB"), (0.0421, "42.1 mB")]
    + [(5.25e-9, "5.25 nB"), (524288, "524 kB")],
)
def test_amounts(value, text):
    assert _notebook.amount(value, "B") == text


def test_gradients_show_shapes():
    g = fftconv.conv_backward(np.ones((2, 1, 8), "f4"), np.ones((2, 1, 8), "f4"), np.ones((1, 4)))
    assert repr(g).startswith("Gradients(du: (2, 1, 8) float")
    assert "dskip" not in repr(g)
    assert repr(fftconv.Gradients()) == "Gradients()"
