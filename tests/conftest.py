"""Settings of the tests: what is left out, and poisoned memory everywhere."""

import os
import sys

import numpy as np
import pytest
from hypothesis import settings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fftconv.cuda  # noqa: E402
import fftconv.depthwise  # noqa: E402
import fftconv.hyena  # noqa: E402
import fftconv.plan  # noqa: E402

# The same examples on every run; FFTCONV_EXAMPLES=2000 digs deeper.
settings.register_profile(
    "fftconv",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("FFTCONV_EXAMPLES", 200)),
)
settings.load_profile("fftconv")


# Arrays on devices: test_on_emulated_device.py runs it on the emulated ones.
collect_ignore = [] if fftconv.cuda.available() else ["cuda/test_device_arrays.py"]


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
    module = fftconv.plan
    new_array, new_bytes = module.empty, module.aligned_bytes
    at_least = module._Workspace.at_least

    def empty(shape, dtype, kind):
        array, view = new_array(shape, dtype, kind)
        array[...] = float("nan")
        return array, view

    def aligned_bytes(n):
        buffer, address = new_bytes(n)
        buffer[...] = 0xFF  # a NaN in every type we have
        return buffer, address

    def workspace(self, size):
        pointer = at_least(self, size)
        self._buffer[:size] = 0xFF  # of what may be a far larger one
        return pointer

    for user in (module, fftconv.depthwise, fftconv.hyena):
        monkeypatch.setattr(user, "empty", empty)
    new_device_array = fftconv.cuda.empty

    def device_empty(shape, dtype, like):
        array, v = new_device_array(shape, dtype, like)
        bytes_ = int(np.prod(shape)) * fftconv._array.ITEM_BYTES[dtype]
        nan = np.full(bytes_, 0xFF, np.uint8)
        fftconv._lib.lib.fftconv_cuda_copy(
            v.pointer, nan.ctypes.data, bytes_, v.device, fftconv.cuda.stream_of(v)
        )
        return array, v

    device_empty.__wrapped__ = new_device_array  # for who must not wait
    monkeypatch.setattr(fftconv.cuda, "empty", device_empty)
    monkeypatch.setattr(module, "aligned_bytes", aligned_bytes)
    monkeypatch.setattr(module._Workspace, "at_least", workspace)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
