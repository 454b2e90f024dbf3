"""Selects the tests that run, and fills all memory with NaN before the library writes to it."""

import gc
from collections import defaultdict

import numpy as np
import pytest
from fftconv import _array, _backends, _lib, cuda
from hypothesis import settings
from targets import EXAMPLES, TARGET, TARGETS, covering, runs

# derandomize makes Hypothesis try the same examples on every run.
settings.register_profile(
    "fftconv", derandomize=True, deadline=None, database=None, max_examples=EXAMPLES
)
settings.load_profile("fftconv")


def pytest_configure(config):
    if TARGET not in TARGETS:
        raise pytest.UsageError(f"FFTCONV_TESTS is {TARGET!r}; allowed: {', '.join(TARGETS)}")


def pytest_collection_modifyitems(config, items):
    products = defaultdict(list)
    for item in items:
        if item.get_closest_marker("pairwise"):
            products[item.nodeid.partition("[")[0]].append(item)
    for product in products.values():
        enough = covering([list(map(repr, item.callspec.params.values())) for item in product])
        for i in set(range(len(product))) - set(enough):
            product[i].add_marker(pytest.mark.thorough)

    kept, left_out = [], []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        here = "on_device" not in marks or cuda.available()
        # With -m, the user's expression selects the tests instead of TARGET.
        chosen = here and (config.option.markexpr or runs(TARGET, marks))
        (kept if chosen else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


# Groups of test files.  pytest-xdist runs each group in one process, and starts with the groups.
# So the figures are made once, the library is installed once, and the lessons' packages are
# imported once.
TOGETHER = {
    "figures": "figures",
    "notebooks": "notebooks",
    "packaging": "install",
    "readme": "install",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            name = nodeid.partition("::")[0].rpartition("/test_")[2].removesuffix(".py")
            return TOGETHER.get(name, nodeid)

    return Scheduling(config, log)


def pytest_collection_finish():
    """Exclude objects that live until the end from garbage collection, to make it faster."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fill every output, spectrum and workspace with NaN before the library writes to it.

    A number that a call forgets to write, or reads before it was written, then shows up as
    NaN in the result.
    """
    fresh_bytes, fresh_tensor, device_empty = _array.fresh_bytes, _array.fresh_tensor, cuda.empty
    at_least = _backends.Workspace.at_least

    def bytes_of_nan(n):
        buffer = fresh_bytes(n)
        buffer[...] = 0xFF  # all bits set are a NaN in every type of the library
        return buffer

    def tensor_of_nan(*arguments):
        return fresh_tensor(*arguments).fill_(float("nan"))

    def workspace(self, size):
        held = at_least(self, size)
        if size:
            held[0][:size] = 0xFF  # only the part for this call, out of a reused buffer
        return held

    def device_nan(shape, dtype, like):
        array, v = device_empty(shape, dtype, like)
        bytes_ = int(np.prod(shape)) * _array.ITEM_BYTES[dtype]
        nan = np.full(bytes_, 0xFF, np.uint8)
        _lib.lib.fftconv_cuda_copy(v.pointer, nan.ctypes.data, bytes_, v.device, cuda.stream_of(v))
        return array, v

    device_nan.__wrapped__ = device_empty  # for tests that must not wait for the copy
    monkeypatch.setattr(_array, "fresh_bytes", bytes_of_nan)
    monkeypatch.setattr(_array, "fresh_tensor", tensor_of_nan)
    monkeypatch.setattr(_backends.Workspace, "at_least", workspace)
    monkeypatch.setattr(cuda, "empty", device_nan)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
