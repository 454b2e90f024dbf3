"""Settings of the tests: what is left out, and poisoned memory everywhere."""

import os
import sys

import numpy as np
import pytest
from hypothesis import settings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fftconv import _array, _backends, _lib, cuda  # noqa: E402

# The same examples on every run; FFTCONV_EXAMPLES=2000 digs deeper.
settings.register_profile(
    "fftconv",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("FFTCONV_EXAMPLES", 200)),
)
settings.load_profile("fftconv")


# Arrays on devices: `make check` has test_cuda.py run it on the emulated ones.
collect_ignore = [] if cuda.available() else ["test_device.py"]


def pytest_configure(config):
    for marker in (
        "big: rows to 2^23; run by `make bigcheck` only",
        "slow: left out under sanitizers",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    """Rows to 2^23 only when asked for, by -m or by FFTCONV_TESTS=big."""
    if config.option.markexpr or os.environ.get("FFTCONV_TESTS") == "big":
        return
    left_out = [item for item in items if item.get_closest_marker("big")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Every output, spectrum and workspace is full of NaN before its call."""
    fresh_bytes, fresh_tensor, device_empty = _array.fresh_bytes, _array.fresh_tensor, cuda.empty
    at_least = _backends.Workspace.at_least

    def bytes_of_nan(n):
        buffer = fresh_bytes(n)
        buffer[...] = 0xFF  # a NaN in every type we have
        return buffer

    def tensor_of_nan(*arguments):
        return fresh_tensor(*arguments).fill_(float("nan"))

    def workspace(self, size):
        pointer = at_least(self, size)
        self._buffer[:size] = 0xFF  # of what may be a far larger one, and used before
        return pointer

    def device_nan(shape, dtype, like):
        array, v = device_empty(shape, dtype, like)
        bytes_ = int(np.prod(shape)) * _array.ITEM_BYTES[dtype]
        nan = np.full(bytes_, 0xFF, np.uint8)
        _lib.lib.fftconv_cuda_copy(v.pointer, nan.ctypes.data, bytes_, v.device, cuda.stream_of(v))
        return array, v

    device_nan.__wrapped__ = device_empty  # for who must not wait
    monkeypatch.setattr(_array, "fresh_bytes", bytes_of_nan)
    monkeypatch.setattr(_array, "fresh_tensor", tensor_of_nan)
    monkeypatch.setattr(_backends.Workspace, "at_least", workspace)
    monkeypatch.setattr(cuda, "empty", device_nan)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
