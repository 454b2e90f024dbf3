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


def same_when_compiled(module, *inputs):
    """Compare a module, and its gradients, with the same one under torch.compile."""
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for call in (module, compiled):
        y = call(*inputs)
        y = y[0] if isinstance(y, tuple) else y
        results.append([y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))])
    assert torch.equal(results[0][0], results[1][0])
    for want, got in zip(*results):
        assert error(got, want) < 1e-5
