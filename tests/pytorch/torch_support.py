"""What the tests of fftconv.torch share.  Where there is no PyTorch, importing it skips them.

The folder is not called torch: tests/ is on the path, and would hide a missing PyTorch.
"""

import itertools

import fftconv
import numpy as np
import pytest

torch = pytest.importorskip("torch", "2.6")

import fftconv.torch as ft  # noqa: E402  torch has to be there

torch.set_num_threads(1)

# `quickstart check` does not install PyTorch, so that the target "rest" runs these tests, too.
in_rest = [pytest.mark.partly, pytest.mark.slow]

double = {"dtype": torch.float64}


_seeds = itertools.count()


def normal(*shape, dtype=torch.float64, grad=True):
    """New normal numbers."""
    seed = torch.Generator().manual_seed(next(_seeds))
    return torch.randn(*shape, dtype=dtype, generator=seed).requires_grad_(grad)


def parameter(*shape):
    """Complex numbers with negative real parts, as the A of a state-space model."""
    x = normal(2, *shape, grad=False)
    return torch.complex(-0.2 - x[0].abs(), x[1]).requires_grad_()


# The operations with operands of a few samples: name -> (function of tensors, the tensors).
B, H, L, TAPS = 2, 4, 6, 5
U, K, REVERSE, SKIP = (B, H, L), (2, TAPS), (2, 3), (H,)
MASK = torch.tensor([[0.5, 2, 0, 1], [1, 1, 3, 0.25]], **double)
COMPLEX = {"dtype": torch.complex128}


def cases():
    u, gate, other = normal(*U), normal(B, 1, L), normal(H, L)
    k, k_rev, skip = normal(*K), normal(*REVERSE), normal(*SKIP)
    x = normal(B, L, 3)
    layer = [normal(4, L, **COMPLEX), normal(4, 3, **COMPLEX), normal(2, 4, **COMPLEX)]
    A, b, c = parameter(2, 3), normal(1, 2, 3, **COMPLEX), normal(2, 2, 3, **COMPLEX)
    low = fftconv.Pattern.lowpass(4)
    return {
        "causal": (ft.conv, (u, k)),
        "one kernel": (ft.conv, (normal(H, L), normal(TAPS))),
        "each row its own": (ft.conv, (u, normal(B, 2, TAPS))),
        "circular": (lambda *x: ft.conv(*x, mode="circular", fft_size=8), (u, k)),
        "pattern": (lambda *x: ft.conv(*x, mode="circular", fft_size=8, pattern=low), (u, k)),
        "two-sided": (
            lambda u, k, k_rev: ft.conv(u, k, k_rev=k_rev, mode="two_sided"),
            (u, k, k_rev),
        ),
        "full, broadcast": (
            lambda u, k, q: ft.conv(u, k, None, q, mode="full", activation="gelu"),
            (normal(2, 1, 3, L), normal(3, 1, TAPS), normal(L + TAPS - 1)),
        ),
        "valid, axis": (lambda *x: ft.conv(*x, mode="valid", axis=1), (normal(2, 9, 4), k)),
        "complex": (ft.conv, (normal(*U, **COMPLEX), normal(*K, **COMPLEX))),
        "real and complex": (ft.conv, (u, normal(*K, **COMPLEX))),
        "gates": (
            lambda u, k, p, q, s: ft.conv(u, k, p, q, skip=s, activation="gelu", mask=MASK),
            (u, k, gate, other, skip),
        ),
        "gates, silu, BLH": (
            lambda u, k, p, s: ft.conv(u, k, p, skip=s, activation="silu", layout="BLH"),
            (normal(B, L, H), k, normal(L, H), skip),
        ),
        "matrix": (ft.conv_matrix, (normal(2, 3, L), normal(4, 3, TAPS))),
        "depthwise": (
            lambda *x: ft.depthwise_conv1d(*x, padding="same", activation="silu"),
            (u, normal(H, 3), normal(H)),
        ),
        "depthwise, plain": (
            lambda *x: ft.depthwise_conv1d(*x, padding=(1, 2), layout="BLH"),
            (normal(L, H), normal(H, 1, 4)),
        ),
        "depthwise, state": (
            lambda x, w, s: ft.depthwise_conv1d(x, w, state=s, return_state=True),
            (u, normal(H, 4), normal(B, H, 3)),
        ),
        "fftconv_func": (
            lambda u, k, D: ft.fftconv_func(u, k, D, MASK),
            (u, normal(H, TAPS), skip),
        ),
        "heads": (
            lambda u, k, D, v, q: ft.fftconv_func(u, k, D, MASK, v=v, q=q, head_dim=2),
            (u, k, normal(2), normal(*U), normal(*U)),
        ),
        "layer": (lambda *x: ft.opt_ssm_forward(*x, strategy=2), (x, *layer)),
        "layer of kernels": (
            lambda x, K: ft.opt_ssm_forward(x, K, None, None),
            (x, normal(L, 2, 3)),
        ),
        "fft_conv": (lambda *x: ft.fft_conv("bln,ln->bln", *x), (x, normal(L, 3))),
        "fft_conv, complex": (
            lambda *x: ft.fft_conv("blh,nl,nh,on->blo", *x, real=False),
            (x, *layer),
        ),
        "S4D": (lambda *x: ft.ssm_kernel(*x, L, dtype=torch.float64), (A, b, c)),
        "S4D, bilinear, state": (
            lambda *x: ft.ssm_kernel(*x, L, discretization="bilinear", state=True, **double),
            (A, b, c),
        ),
        "DSS": (lambda *x: ft.ssm_kernel(*x, L, discretization="dss", **double), (A, b, c)),
        "S4": (
            lambda A, b, c, p: ft.ssm_kernel(A, b, c, L, p, discretization="bilinear", **double),
            (A, b, c, normal(1, 2, 3, **COMPLEX)),
        ),
        "S4, Q": (
            lambda A, b, c, p, q: ft.ssm_kernel(
                A, b, c, L, 0.1 * p, 0.1 * q, discretization="bilinear", **double
            ),
            (A, b, c, normal(1, 2, 3, **COMPLEX), normal(1, 2, 3, **COMPLEX)),
        ),
    }


CASES = cases()


def close(found, wanted, limit=1e-11):
    """Compare two tensors by their relative error."""
    found, wanted = (torch.as_tensor(np.asarray(x.detach())) for x in (found, wanted))
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    error = torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)
    assert error <= limit, float(error)


def bits(found, wanted):
    """Compare two tensors, or None, bit by bit."""
    assert (found is None) == (wanted is None)
    if found is not None:
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
