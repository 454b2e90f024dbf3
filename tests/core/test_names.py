"""The package's public names, where they are, and their examples."""

import doctest
import inspect

import fftconv
import numpy as np
import pytest

TOP = """Counters FFTConv Gradients Pattern Plan Spectrum Stream Unsupported conv
conv_backward conv_matrix conv_matrix_backward cost cuda default_threads depthwise_conv1d
depthwise_conv1d_backward flash hippo hyena isas lrnnx monarch reference release_workspace
set_default_threads ssm"""
# By module: the originals' calls under their own names, and the classes that they return.
ORIGINALS = {
    "flash": """FlashDepthWiseConv1d FlashDepthwiseConv1d FlashFFTConv
    FrequencySparseFFTConv PartialFFTConv""",
    "hyena": """FilterGradients FuncGradients fftconv_bwd fftconv_func
    fftconv_func_backward fftconv_fwd""",
    "lrnnx": """Centaurus Cost FFTConvS4 Machine S4DKernel S4Kernel SsmGradients fft_conv
    machine opt_ssm_backward opt_ssm_forward strategy_costs upstream_strategy""",
}
# Their functions and classes are public, too.
MODULES = ("cost", "cuda", "hippo", "monarch", "reference", "ssm")


def test_the_top_level_is_ours():
    assert dir(fftconv) == sorted(fftconv.__all__) == TOP.split()


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_have_their_own_modules(name):
    module = getattr(fftconv, name)
    assert dir(module) == sorted(module.__all__) == ORIGINALS[name].split()
    assert not set(module.__all__) & set(fftconv.__all__)
    for call in module.__all__:
        assert not hasattr(fftconv, call)


def test_both_spellings():
    assert fftconv.flash.FlashDepthWiseConv1d is fftconv.flash.FlashDepthwiseConv1d


def public():
    """{dotted name: object} of all public functions and classes."""
    modules = {f"{name}.": getattr(fftconv, name) for name in (*ORIGINALS, *MODULES)}
    spaces = {"": fftconv, **modules}
    return {
        prefix + name: getattr(space, name)
        for prefix, space in spaces.items()
        for name in space.__all__
        if callable(getattr(space, name))
    }


def test_everything_public_is_described():
    for name, x in public().items():
        assert inspect.getdoc(x), name
        # Every public function and class says that it is from a module of this package.
        assert getattr(x, "__module__", "").startswith("fftconv"), name


def test_every_module_is_looked_into():
    found = {name for name in fftconv.__all__ if inspect.ismodule(getattr(fftconv, name))}
    assert found == {*ORIGINALS, *MODULES}


def test_examples():
    """Every public function and class has an example, and it prints what it shows."""
    finder, run = doctest.DocTestFinder(), []
    for name, x in public().items():
        found = {"np": np, "fftconv": fftconv, **vars(inspect.getmodule(x))}
        for test in finder.find(x, name, globs=found):
            if not test.examples:
                continue
            results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
            assert not results.failed, f"{test.name}: see the output"
            run.append(test.name)
    assert {"Plan.prepare", "Plan.replace"} <= set(run)
    without = [name for name in public() if not any(f"{r}.".startswith(f"{name}.") for r in run)]
    assert without == []
