"""Derivatives of any order: by autograd, in forward mode, and by torch.func."""

import functools

import fftconv
import numpy as np
import pytest
from torch_support import CASES, MASK, TAPS, B, H, L, bits, close, ft, in_rest, normal, torch

pytestmark = in_rest
grad, vmap, jacrev, jacfwd = (
    torch.func.grad,
    torch.func.vmap,
    torch.func.jacrev,
    torch.func.jacfwd,
)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    """First and second derivatives, reverse and forward, against finite differences."""
    function, x = CASES[name]
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True, fast_mode=True)


def test_third_derivative():
    u, k = normal(1, 2, 3), normal(2, 2)

    def second(u, k):
        y = ft.conv(u, k, u, activation="gelu").square().sum()
        (g,) = torch.autograd.grad(y, k, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (u, k), create_graph=True)

    assert torch.autograd.gradcheck(second, (u, k), fast_mode=True)


def test_first_backward_is_the_librarys():
    """The gradients are those of conv_backward, to the bit, and None where none is wanted."""
    function, (u, k, p, q, s) = CASES["gates"]
    dy = normal(B, H, L, grad=False)
    found = torch.autograd.grad(function(u, k, p, q, s), (u, k, p, q, s), dy)
    with torch.no_grad():
        g = fftconv.conv_backward(dy, u, k, p, q, skip=s, activation="gelu", mask=MASK)
    for got, wanted in zip(found, (g.du, g.dk, g.din_gate, g.dout_gate, g.dskip)):
        close(got, wanted, 1e-15)
    y = function(u.detach(), k, p.detach(), q, s)
    y.backward(dy)
    bits(k.grad, found[1])
    k.grad = q.grad = s.grad = None


def test_what_is_not_finite_stays():
    """Few taps are summed directly: a NaN reaches what it is a term of, in every derivative."""
    length, taps = 50, 4
    u, k, g, c = (normal(1, 1, n) for n in (length, taps, length, length))
    with torch.no_grad():
        u[..., 20], g[..., 1] = torch.nan, torch.nan
    k = k[0]
    y = ft.conv(u, k)
    du, dk = torch.autograd.grad(y, (u, k), g, create_graph=True)
    second, third = torch.autograd.grad(du, (k, g), c)
    for x, spoilt in (
        (y, range(20, 24)),
        (du, (0, 1)),
        (dk, range(4)),
        (second, (0, 1)),
        (third, ()),
    ):
        assert x.isnan().flatten().nonzero().flatten().tolist() == list(spoilt)


def each(function, dims, size, *x):
    """vmap(function, dims), by a loop."""
    return [
        function(*(v if d is None else v.select(d, i) for v, d in zip(x, dims)))
        for i in range(size)
    ]


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (1, 2)])
@pytest.mark.parametrize(
    "name",
    [
        "causal",
        "each row its own",
        "gates",
        "gates, silu, BLH",
        "matrix",
        "depthwise",
        "heads",
        "layer",
        "S4D",
    ],
)
def test_vmap(name, dims):
    """Batched over some of the operands: values, and the gradients for each entry."""
    function, x = CASES[name]
    dims = [dims[i % 2] for i in range(len(x))]
    dims = tuple(d if d is None else min(d, v.dim()) for v, d in zip(x, dims))
    x = [
        v.detach() if d is None else normal(3, *v.shape, dtype=v.dtype, grad=False).movedim(0, d)
        for v, d in zip(x, dims)
    ]
    if name == "S4D" and dims[0] is not None:
        x[0] = torch.complex(-x[0].real.abs(), x[0].imag)

    def loss(*x):
        return function(*x).abs().square().sum()

    everything = tuple(range(len(x)))
    close(vmap(function, dims)(*x), torch.stack(each(function, dims, 3, *x)))
    found = vmap(grad(loss, everything), dims)(*x)
    for got, *wanted in zip(found, *each(grad(loss, everything), dims, 3, *x)):
        close(got, torch.stack(wanted))

    # The gradient of a batched call, the other way round.
    def total(*x):
        return vmap(loss, dims)(*x).sum()

    for got, wanted in zip(
        grad(total, everything)(*x),
        torch.autograd.grad(
            sum(each(loss, dims, 3, *(leaves := [v.clone().requires_grad_() for v in x]))), leaves
        ),
    ):
        close(got, wanted)


def test_jacobians():
    """jacrev, jacfwd, jvp, vjp and hessian agree with each other and with autograd."""
    u, k = normal(1, 2, 5, grad=False), normal(2, 4, grad=False)
    f = functools.partial(ft.conv, u, activation="silu")
    J = jacrev(f)(k)
    close(jacfwd(f)(k), J)
    close(torch.autograd.functional.jacobian(f, k), J)
    dk = normal(2, 4, grad=False) + 1
    close(torch.func.jvp(f, (k,), (dk,))[1], torch.einsum("bhlgt,gt->bhl", J, dk))
    dy = normal(1, 2, 5, grad=False)
    close(torch.func.vjp(f, k)[1](dy)[0], torch.einsum("bhlgt,bhl->gt", J, dy))

    def loss(k):
        return f(k).square().sum()

    close(torch.func.hessian(loss)(k), jacrev(jacrev(loss))(k))
    close(torch.func.hessian(loss)(k), torch.autograd.functional.hessian(loss, k))


def test_forward_mode_that_comes_too_late():
    """What cannot be computed raises, and is never wrong in silence."""
    u, k = normal(1, 2, 5), normal(2, 4)
    y = ft.conv(u, k, activation="silu")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(RuntimeError, match="forward mode"):
            torch.autograd.grad(y, (u, k), dual)


def test_mask_has_no_gradient():
    u, k = normal(B, H, L), normal(H, TAPS)
    with pytest.raises(ValueError, match="mask"):
        ft.conv(u, k, mask=MASK.clone().requires_grad_())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_types(dtype):
    """Gradients have the dtypes of their operands, and agree with those of the reference."""
    u, k = normal(2, 3, 100, dtype=torch.complex128, grad=False), normal(3, 40, grad=False)
    u = u.to(getattr(torch, dtype)) if dtype == "complex64" else u.real.to(getattr(torch, dtype))
    k = k.float()
    u, k = u.requires_grad_(), k.requires_grad_()
    y = ft.conv(u, k)
    dy = torch.ones_like(y)
    assert y.dtype == u.dtype
    du, dk = torch.autograd.grad(y, (u, k), dy)
    assert (du.dtype, dk.dtype) == (u.dtype, k.dtype)
    exact = [np.asarray(x.detach().to(torch.complex128)) for x in (dy, u, k)]
    wanted = fftconv.reference.conv_backward(*exact)
    limit = {"float16": 1e-3, "bfloat16": 1e-2}.get(dtype, 1e-6)
    for got, want in ((y, fftconv.reference.conv(*exact[1:])), (du, wanted.du), (dk, wanted.dk)):
        want = want if got.is_complex() else want.real
        error = np.linalg.norm(np.asarray(got.detach().to(torch.complex128)) - want)
        assert error <= limit * np.linalg.norm(want)
