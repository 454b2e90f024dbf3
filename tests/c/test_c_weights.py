"""Weights of frequencies, in C, on circles whose length has a prime factor above 7: the kernel is
filtered before the convolution, and the results are right as for any other length."""

import ctypes
from ctypes import byref

import fftconv
import numpy as np
import pytest
from c_calls import (
    CIRCULAR,
    Workspace,
    call,
    info_of,
    new_plan,
    new_spectrum,
    refused,
    tensor,
    weights,
    workspace_bytes,
)
from fftconv import _lib
from fftconv._array import numpy_dtype
from fftconv._lib import Operands

# Limits of the error of a row in the 2-norm, relative to |k| |u| max |weight|; for sums over rows
# four times as much.
TOLERANCE = {"float64": 1e-14, "float32": 5e-7, "float16": 5e-4, "bfloat16": 4e-3}
SIZES = (11, 97, 121, 331, 2 * 331, 4 * 97, 1009)


class Circle:
    """A call on a circle of N with random weights, a third of which are 0, and the results that
    NumPy gives in float64."""

    def __init__(self, N, L, taps, dtype="float64", *, B=2, H=3, G=None, KB=1, w=None, seed=0):
        rng = np.random.default_rng([seed, N, L, taps])
        G = H if G is None else G
        self.N, self.dtype, self.shape, self.kernel = N, dtype, (B, H, L), (KB, G, taps)
        if w is None:
            w = rng.uniform(-1, 2, N // 2 + 1) * (rng.random(N // 2 + 1) > 1 / 3)
        self.w = np.asarray(w, float)

        def normal(*shape):
            return rng.standard_normal(shape).astype(numpy_dtype(dtype))

        self.u, self.dy, self.k = normal(B, H, L), normal(B, H, L), normal(KB, G, taps)
        # Each row's own kernel.
        k = np.repeat(self.k.astype(float), H // G, axis=1)
        U, G_ = (np.fft.rfft(x.astype(float), N) for x in (self.u, self.dy))
        K = np.fft.rfft(k, N) * self.w
        dk = np.fft.irfft(np.conj(U) * G_ * self.w, N)[..., :taps]
        dk = dk.reshape(B, G, H // G, taps).sum(2)
        self.want = {
            "y": np.fft.irfft(U * K, N)[..., :L],
            "du": np.fft.irfft(G_ * np.conj(K), N)[..., :L],
            "dk": dk if KB > 1 else dk.sum(0, keepdims=True),
        }

    def plan(self, **changes):
        B, H, L = self.shape
        KB, G, taps = self.kernel
        return new_plan(
            **{
                "batch": B,
                "channels": H,
                "length": L,
                "k_length": taps,
                "kernels": G,
                "kernel_batch": KB,
                "mode": CIRCULAR,
                "fft_size": self.N,
                "dtype": _lib.DTYPES[self.dtype],
                "weights": weights(self.w),
                **changes,
            }
        )

    def run(self, plan, direction, spectrum=None, threads=0):
        """{name: result} of a call with exactly the workspace that it asks for."""
        names = ("y",) if direction == _lib.FORWARD else ("du", "dk")
        got = {n: np.full(self.want[n].shape, np.nan, self.u.dtype) for n in names}
        ops = Operands(size=ctypes.sizeof(Operands), threads=threads)
        inputs = {"u": self.u, "dy": self.dy, **({} if spectrum else {"k": self.k})}
        for name, x in {**inputs, **got}.items():
            setattr(ops, name, tensor(x, dtype=self.dtype))
        w = Workspace(workspace_bytes(plan, ops, direction, spectrum))
        w.give(ops)
        function = ("fftconv_forward", "fftconv_backward")[direction]
        ops.workspace_bytes -= 1
        refused(function, plan, spectrum, byref(ops), words="workspace_bytes")
        assert all(np.isnan(x).all() for x in got.values())
        ops.workspace_bytes += 1
        status, message = call(function, plan, spectrum, byref(ops))
        assert status == _lib.OK, message
        assert w.is_kept_to()
        return got

    def check(self, got):
        u, dy, k = (np.linalg.norm(x.astype(float)) for x in (self.u, self.dy, self.k))
        top = max(1, np.abs(self.w).max())
        scale = {"y": k * u * top, "du": k * dy * top, "dk": u * dy * top}
        for name, x in got.items():
            assert np.isfinite(x.astype(float)).all(), name
            error = np.linalg.norm(x.astype(float) - self.want[name]) / scale[name]
            assert error <= TOLERANCE[self.dtype] * (4 if name == "dk" else 1), (name, error)


def check_both(case, threads=(0,), **changes):
    """Forward and backward are right, with k and with its spectrum, and give the same bits on each
    number of threads."""
    plan = case.plan(**changes)
    spectrum = new_spectrum(plan, case.k)
    for direction in (_lib.FORWARD, _lib.BACKWARD):
        found = []
        for given in (None, spectrum):
            for n in threads:
                found.append(case.run(plan, direction, given, n))
                case.check(found[-1])
        for other in found[1:]:
            for name, x in other.items():
                assert x.tobytes() == found[0][name].tobytes(), name
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    _lib.lib.fftconv_plan_destroy(plan)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("N", SIZES)
def test_circles(N, dtype):
    """Whole rows and kernels, and shorter ones, down to one sample and one tap, are right."""
    for L, taps in ((N, N), (N - N // 3, N), (N, N // 4), (N // 2, N // 3), (1, N), (N, 1), (1, 1)):
        check_both(Circle(N, L, taps, dtype))


@pytest.mark.parametrize("isa", fftconv.isas())
def test_every_instruction_set(isa):
    for dtype in ("float32", "float64"):
        for N in (97, 2 * 331):
            check_both(Circle(N, N - 5, N - 9, dtype), isa=isa.encode())


@pytest.mark.parametrize("B, H, G, KB", [(1, 1, 1, 1), (5, 4, 2, 1), (3, 4, 1, 3), (3, 4, 4, 3)])
def test_kernels_and_threads(B, H, G, KB):
    """Kernels of groups and of each batch entry are right, with the same bits on any number of
    threads."""
    case = Circle(331, 300, 200, "float32", B=B, H=H, G=G, KB=KB)
    check_both(case, threads=(1, 2, 3, 7))


def test_threads_within_a_row():
    """Long rows that are fewer than the threads are right."""
    check_both(Circle(20011, 20011, 20011, B=1, H=1), threads=(1, 4))


@pytest.mark.parametrize("N", (97, 2 * 331))
def test_weights_of_ones_and_of_zeros(N):
    """Weights of 1 change nothing and weights of 0 leave nothing, and the plan's `kept` says so."""
    for value in (1.0, 0.0):
        case = Circle(N, N, N, w=[value] * (N // 2 + 1))
        check_both(case)
        plan = case.plan()
        info = info_of(plan)
        assert (info.fft_size, info.kept, info.computed) == (N, value, 1)
        if value == 0:
            assert not case.run(plan, _lib.FORWARD)["y"].any()
        _lib.lib.fftconv_plan_destroy(plan)
    plain = Circle(N, N, N, w=[1] * (N // 2 + 1))
    plan = plain.plan(weights=None)
    plain.check(plain.run(plan, _lib.FORWARD))
    _lib.lib.fftconv_plan_destroy(plan)


@pytest.mark.parametrize("N", (64, 97))
def test_a_weight_acts_on_its_bin(N):
    """Each weight acts on its own bin, that of N/2 included."""
    for m in range(N // 2 + 1):
        check_both(Circle(N, N, N, B=1, H=1, w=np.eye(N // 2 + 1)[m]))


def test_spectrum_of_another_pattern():
    """A spectrum with the same stages but other weights, or none, is refused."""
    N = 97
    case = Circle(N, N, N, B=1, H=1)
    plans = [
        case.plan(weights=w)
        for w in (weights(case.w), weights(case.w * 0.5), weights([1] * (N // 2 + 1)), None)
    ]
    spectra = [new_spectrum(p, case.k) for p in plans]
    y = np.full_like(case.u, 7)
    ops = Operands(size=ctypes.sizeof(Operands))
    ops.u, ops.y = tensor(case.u, dtype="float64"), tensor(y, dtype="float64")
    for i, plan in enumerate(plans):
        for j, spectrum in enumerate(spectra):
            if i != j:
                refused("fftconv_forward", plan, spectrum, byref(ops), words="spectrum")
    assert np.all(y == 7)
    for plan, spectrum in zip(plans, spectra):
        assert call("fftconv_forward", plan, spectrum, byref(ops))[0] == _lib.OK
        _lib.lib.fftconv_spectrum_destroy(spectrum)
        _lib.lib.fftconv_plan_destroy(plan)
