"""What the tests of the modules share: relative errors of values and of gradients."""

from torch_support import torch


def error(got, want):
    """The norm of the difference, relative to the norm of `want`."""
    got, want = got.detach(), want.detach()
    assert got.shape == want.shape
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got.to(wide), want.to(wide)
    return float((got - want).norm() / want.norm())


def same_gradients(y, leaves, want, wide_leaves, tolerance):
    """Compare the gradients of y and of `want`, by a random cotangent."""
    g = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    got = torch.autograd.grad(y, leaves, g)
    wanted = torch.autograd.grad(want, wide_leaves, g.double())
    for x, a, b in zip(leaves, got, wanted):
        assert a.dtype == x.dtype
        assert error(a, b) < tolerance
