"""Gradients of any order and forward mode for the operators of `_ops`.

An operation and its gradients are one `Function` each.  Their derivatives are again these two:
by the rules of `derivatives` where the operation is bilinear, else those of its composition
from bilinear operations and torch's own, which gives the same numbers.  So the first backward
pass is always one call of the library.

`torch.compile` does not trace a Function that has a jvp, so there is one of each kind with and
one without.
"""

from typing import Callable, NamedTuple

import torch
from torch.autograd import Function

from .. import derivatives
from ._ops import Operator, plain


class Operation(NamedTuple):
    """What the Functions have to know of an operation, whose operands are x and options."""

    forward: Operator  #: (*x, *options) -> y
    gradients: Operator  #: (g, *x, *options, needs) -> a list
    is_bilinear: Callable  #: (x, options) -> whether it is linear in x[0] and in x[1:] together
    compose: Callable  #: (options, *x) -> y from bilinear operations and torch's own
    batched: Callable  #: the batching rule, see `_ops`


OPERATIONS = {}


def _records(x):
    """Whether autograd records a call with these operands."""
    if torch.is_grad_enabled():
        for v in x:
            if v is not None and v.requires_grad:
                return True
    return False


def _forward_mode():
    """Whether tensors may carry tangents, by torch.autograd.forward_ad or torch.func.jvp."""
    return torch.autograd.forward_ad._current_level >= 0


def apply(name, options, *x):
    """The operation of that name, recorded if a gradient is wanted."""
    operation = OPERATIONS[name]
    alone = plain(x)
    if torch.compiler.is_compiling():
        if _records(x):
            return _Apply.apply(name, options, *x)
    elif _forward_mode():
        if not operation.is_bilinear(x, options):
            return operation.compose(options, *x)
        return _ApplyInFull.apply(name, options, *x)
    elif alone is not None:
        if _records(alone):
            return _apply_alone(name, options, *alone)
        return operation.forward.kernel(*alone, *options)
    elif torch._C._are_functorch_transforms_active():
        return _ApplyInFull.apply(name, options, *x)
    elif _records(x):
        return _Apply.apply(name, options, *x)
    return operation.forward.op(*x, *options)


def gradients(name, options, needs, g, *x):
    """The gradients of the operation for the operands x that are needed, as a sequence."""
    if True not in needs:
        return ()
    needs, x = list(needs), (g, *x)
    alone = plain(x)
    if torch.compiler.is_compiling():
        if _records(x):
            return _Gradients.apply(name, options, needs, *x)
    elif _forward_mode() or torch._C._are_functorch_transforms_active() or _records(x):
        return _GradientsInFull.apply(name, options, needs, *x)
    elif alone is not None:
        return OPERATIONS[name].gradients.kernel(*alone, *options, needs)
    return OPERATIONS[name].gradients.op(*x, *options, needs)


def _spread(values, needs):
    """A list with the values where `needs` is true, and None elsewhere."""
    values = iter(values)
    return [next(values) if need else None for need in needs]


def _composed(name, options, x, varied):
    """(function of the operands that `varied` tells, which computes y; these operands)."""
    compose = OPERATIONS[name].compose

    def function(*some):
        given = iter(some)
        return compose(options, *(next(given) if v else old for v, old in zip(varied, x)))

    return function, [v for v, there in zip(x, varied) if there]


def _varied(x):
    """Which of the operands may have derivatives."""
    return [v is not None and (v.is_floating_point() or v.is_complex()) for v in x]


def _composed_gradients(name, options, needs, x):
    """(function of g and the varied operands that computes the needed gradients; operands)."""
    varied = _varied(x)
    function, some = _composed(name, options, x, varied)
    picked = [need for need, v in zip(needs, varied) if v]

    def of(g, *some):
        _, pull = torch.func.vjp(function, *some)
        return tuple(d for d, need in zip(pull(g), picked) if need)

    return of, some, varied


class _Apply(Function):
    @staticmethod
    def forward(name, options, *x):
        return OPERATIONS[name].forward.op(*x, *options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, ctx.options, *x = inputs
        ctx.save_for_backward(*x)

    @staticmethod
    def backward(ctx, g):
        needs = ctx.needs_input_grad[2:]
        found = gradients(ctx.name, ctx.options, needs, g, *ctx.saved_tensors)
        return None, None, *_spread(found, needs)


class _ApplyInFull(_Apply):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, ctx.options, *x = inputs
        ctx.save_for_backward(*x)
        ctx.save_for_forward(*x)

    @staticmethod
    def jvp(ctx, _name, _options, *dx):
        name, options = ctx.name, ctx.options
        return derivatives.product_tangent(
            lambda *x: apply(name, options, *x), ctx.saved_tensors, dx, torch.zeros_like
        )

    @staticmethod
    def vmap(info, dims, name, options, *x):
        return OPERATIONS[name].batched(
            lambda *x: apply(name, options, *x), x, dims[2:], info.batch_size, options, None
        )


class _ApplyAlone(_Apply):
    @staticmethod
    def forward(name, options, *x):
        return OPERATIONS[name].forward.kernel(*x, *options)


# Outside of torch.func and of forward mode, this is what _ApplyAlone.apply comes to.  It leaves
# out the binding of default arguments by `inspect`, which takes longer than all the rest.
_apply_alone = super(Function, _ApplyAlone).apply


class _Gradients(Function):
    @staticmethod
    def forward(name, options, needs, g, *x):
        return tuple(OPERATIONS[name].gradients.op(g, *x, *options, needs))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, ctx.options, ctx.needs, *x = inputs
        ctx.save_for_backward(*x)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *c):
        name, options, needs = ctx.name, ctx.options, ctx.needs
        g, *x = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if all(d is None for d in c):
            return (None,) * (3 + len(wanted))
        if OPERATIONS[name].is_bilinear(x, options):
            found = derivatives.gradients_cotangent(
                lambda *x: apply(name, options, *x),
                lambda needs, g, *x: gradients(name, options, needs, g, *x),
                wanted,
                g,
                x,
                _spread(c, needs),
                torch.zeros_like,
            )
            return None, None, None, *found
        function, some, varied = _composed_gradients(name, options, needs, x)
        first, pull = torch.func.vjp(function, g, *some)
        c = tuple(torch.zeros_like(v) if d is None else d for d, v in zip(c, first))
        dg, *dx = pull(c)
        return None, None, None, dg, *_spread(dx, varied)


class _GradientsInFull(_Gradients):
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, ctx.options, ctx.needs, *x = inputs
        ctx.save_for_backward(*x)
        ctx.save_for_forward(*x)
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx, _name, _options, _needs, dg, *dx):
        name, options, needs = ctx.name, ctx.options, ctx.needs
        g, *x = ctx.saved_tensors
        if not OPERATIONS[name].is_bilinear(x, options):
            raise RuntimeError(
                f"forward mode reached the gradients of {name} that was called outside of it; "
                "call it inside"
            )
        return tuple(
            derivatives.gradients_tangent(
                lambda needs, g, *x: gradients(name, options, needs, g, *x),
                needs,
                g,
                x,
                dg,
                dx,
                torch.zeros_like,
            )
        )

    @staticmethod
    def vmap(info, dims, name, options, needs, g, *x):
        found, where = OPERATIONS[name].batched(
            lambda *x: gradients(name, options, needs, *x),
            (g, *x),
            dims[3:],
            info.batch_size,
            options,
            needs,
        )
        return tuple(found), tuple(where)
