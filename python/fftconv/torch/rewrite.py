"""Models that nobody edits: `torch.compile` puts this library where they use `torch.fft`.

Long convolutions are written with `torch.fft` in many models: the transforms of the rows and of
the kernel, their product, the transform back, and a crop.

    n = 2 * L
    y = irfft(rfft(u, n=n) * rfft(k, n=n), n=n)[..., :L]

The pass of this module runs on the graph that Dynamo has traced, before autograd sees it, and
replaces such a group of nodes by `fftconv.torch.conv`, together with the skip, the activation
and the gates around it.  A group is replaced only if the graph shows that the result is the
same; for each group the pass says what it did, or why it left the group alone.

The variants that are understood: `norm="forward"` with a kernel divided by n; a second kernel
whose spectrum is conjugated and added (two-sided); circles of n samples, with or without zeros
behind the rows; a product by `*`, `torch.mul`, or an einsum that only multiplies; spectra with
an axis of length 1 inserted; conversions of type before and after.
"""

import contextlib
import operator
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ._conv import conv


class Found(NamedTuple):
    """One inverse transform that the pass met.

    node: the name of its node in the traced graph.
    mode: the `mode` of the convolution that took its place, or None if it was left alone.
    fused: what else the convolution took in, out of "in_gate", "skip", "gelu", "silu" and
        "out_gate".
    reason: why it was left alone; None if it was replaced.
    """

    node: str
    mode: Optional[str]
    fused: tuple
    reason: Optional[str]


def compile_options(report=None):
    """Options of `torch.compile` that replace convolutions by `torch.fft` with this library's.

    report: a list, to which each compilation appends a `Found` for every inverse transform.
        With a report, torch's cache of compiled graphs on disk is not used, since nothing
        would be reported of a graph that it holds.

    The options are for the "inductor" backend, torch 2.7 or later; torch 2.6 drops options of
    this kind without a word, and needs `rewriting`.  Values and gradients are those of the
    model to rounding.  Raises nothing: what is not understood stays as it is.

    Example:
        >>> import torch, fftconv.torch
        >>> def model(u, k):
        ...     u_f, k_f = torch.fft.rfft(u, n=200), torch.fft.rfft(k, n=200)
        ...     return torch.fft.irfft(u_f * k_f, n=200)[..., :100]
        >>> report = []
        >>> fast = torch.compile(model, options=fftconv.torch.compile_options(report))
        >>> y = fast(torch.ones(2, 3, 100), torch.ones(3, 100))
        >>> report[0].mode
        'causal'
    """
    return {"pre_grad_custom_pass": _Pass(report)}


@contextlib.contextmanager
def rewriting(report=None):
    """A context in which every `torch.compile` that compiles replaces convolutions.

    For models that call `torch.compile` themselves.  Compilation happens at a function's first
    call, which must be inside of the context.  Yields the report, a list of `Found`: the one
    given, or a new one.

    Example:
        >>> import torch, fftconv.torch
        >>> def model(u, k):
        ...     u_f, k_f = torch.fft.rfft(u, n=200), torch.fft.rfft(k, n=200)
        ...     return torch.fft.irfft(u_f * k_f, n=200)[..., :100]
        >>> with fftconv.torch.rewriting() as report:
        ...     y = torch.compile(model)(torch.ones(2, 3, 100), torch.ones(3, 100))
        >>> report[0].mode
        'causal'
    """
    report = [] if report is None else report
    with torch._inductor.config.patch(compile_options(report)):
        yield report


class _Pass(CustomGraphPass):
    def __init__(self, report):
        self.report = report

    def __call__(self, graph):
        for node in list(graph.nodes):
            if node.op == "call_function" and node.target is torch.fft.irfft:
                try:
                    found = _replace(graph, node)
                except _Unlike as unlike:
                    found = Found(node.name, None, (), str(unlike))
                if self.report is not None:
                    self.report.append(found)

    def uuid(self):
        return get_hash_for_files((__file__,)) if self.report is None else None  # None: no cache

    def __deepcopy__(self, memo):
        return self  # The report is the caller's list.


class _Unlike(Exception):
    """The group of nodes is not one that the pass can replace; the message says why."""


# ---- Reading the graph ------------------------------------------------------------------------


def _value(x):
    """The example value of a node (a fake tensor or a symbolic integer), or x itself."""
    return x.meta.get("example_value") if isinstance(x, Node) else x


def _known(condition):
    return bool(statically_known_true(condition))


def _same_shape(a, b):
    return len(a) == len(b) and all(_known(p == q) for p, q in zip(a, b))


def _is(node, *targets):
    """Whether the node calls one of these functions, or a method of one of these names."""
    return (
        isinstance(node, Node)
        and node.op in ("call_function", "call_method")
        and (node.target in targets)
    )


_MUL = (operator.mul, torch.mul, "mul", "__mul__")
_ADD = (operator.add, operator.iadd, torch.add, "add", "__add__")
_DIV = (operator.truediv, torch.div, torch.true_divide, "div", "__truediv__")


def _is_tensor(x):
    return isinstance(_value(x), torch.Tensor)


def _unconverted(node):
    """The node that conversions to the type it already has begin with."""
    while (
        _is(node, "to", "float", "double", "contiguous")
        and _value(node).dtype == _value(node.args[0]).dtype
        and _value(node).device == _value(node.args[0]).device
    ):
        node = node.args[0]
    return node


def _argument(node, position, name, default=None):
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


class _Spectrum(NamedTuple):
    """A spectrum of real rows, as the graph computes it.

    row: the node of the rows.  n: the length of the transform.  powers: how often the spectrum
    is divided by n.  conjugated: whether it is conjugated.  views: the positions at which an
    axis of length 1 was inserted, one after the other.  nodes: what computes it from the rows.
    """

    row: Node
    n: object
    powers: int
    conjugated: bool
    views: tuple
    nodes: tuple


def _transform(node, function):
    """(input, n, whether the result is divided by n) of an rfft or irfft along the last axis."""
    x, n = node.args[0], _argument(node, 1, "n")
    dim, norm = _argument(node, 2, "dim", -1), _argument(node, 3, "norm")
    if not _known(dim % _value(x).ndim == _value(x).ndim - 1):
        raise _Unlike("a transform is not along the last axis")
    if norm not in (None, "backward", "forward"):
        raise _Unlike(f"a transform has norm={norm!r}")
    forward = function is torch.fft.rfft
    if n is None:
        length = _value(x).shape[-1]
        n = length if forward else 2 * (length - 1)
    return x, n, (norm == "forward") == forward


def _spectra(node, n):
    """The spectra whose sum the node is, or _Unlike."""
    if not _is_tensor(node):
        raise _Unlike("a factor of the product is not a tensor")
    if _is(node, torch.fft.rfft):
        row, own, divided = _transform(node, torch.fft.rfft)
        if not _known(_value(own) == _value(n)):
            raise _Unlike("the transforms have different lengths")
        row = _unconverted(row)
        value = _value(row)
        if value.dtype not in (torch.float32, torch.float64):
            raise _Unlike(f"rows are {value.dtype}")
        return [_Spectrum(row, n, int(divided), False, (), (node,))]
    if _is(node, *_ADD):
        return _spectra(node.args[0], n) + _with(_spectra(node.args[1], n), node)
    if _is(node, *_DIV) and not _is_tensor(node.args[1]):
        if not _known(_value(node.args[1]) == _value(n)):
            raise _Unlike("a spectrum is divided by something other than the length")
        return [s._replace(powers=s.powers + 1) for s in _with(_spectra(node.args[0], n), node)]
    if _is(node, "conj", torch.conj):
        inner = _with(_spectra(node.args[0], n), node)
        return [s._replace(conjugated=not s.conjugated) for s in inner]
    if _is(node, "unsqueeze", torch.unsqueeze):
        at, ndim = _argument(node, 1, "dim"), _value(node).ndim
        if at % ndim == ndim - 1:
            raise _Unlike("an axis is inserted behind the frequencies")
        inner = _with(_spectra(node.args[0], n), node)
        return [s._replace(views=(*s.views, at % ndim)) for s in inner]
    raise _Unlike(f"a factor of the product is {node.name}, not a transform of rows")


def _with(spectra, node):
    return [s._replace(nodes=(*s.nodes, node)) for s in spectra]


def _einsum_views(equation, letters):
    """The axes to insert into an operand so that an einsum is a plain product, or _Unlike."""
    operands, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow or "." in equation or len(set(out)) < len(out):
        raise _Unlike(f"einsum {equation!r} is not a plain product")
    kept = [letter for letter in out if letter in letters]
    if kept != list(letters) or letters[-1] != out[-1] or set(operands) - {","} != set(out):
        raise _Unlike(f"einsum {equation!r} is not a plain product")
    return tuple(i for i, letter in enumerate(out) if letter not in letters)


def _factors(product, n):
    """The two factors of a product of spectra, each a list of `_Spectrum`."""
    if _is(product, *_MUL):
        return [_with(_spectra(a, n), product) for a in product.args[:2]]
    if _is(product, torch.einsum) and len(product.args) == 3:
        equation = product.args[0]
        operands = equation.replace(" ", "").partition("->")[0].split(",")
        return [
            [
                s._replace(views=(*s.views, *_einsum_views(equation, letters)))
                for s in _with(_spectra(a, n), product)
            ]
            for letters, a in zip(operands, product.args[1:])
        ]
    raise _Unlike("what is transformed back is not a product of two spectra")


def _only_user(node):
    return next(iter(node.users)) if len(node.users) == 1 else None


def _crop(node):
    """The node that crops the inverse transform, and the length that it keeps, or (None, None)."""
    user = _only_user(node)
    if not _is(user, operator.getitem):
        return None, None
    index = user.args[1] if isinstance(user.args[1], tuple) else (user.args[1],)
    last = index[-1]
    whole = all(i is Ellipsis or i == slice(None) for i in index[:-1])
    full = Ellipsis in index[:-1] or len(index) == _value(node).ndim
    if (
        whole
        and full
        and isinstance(last, slice)
        and last.step is None
        and (last.start is None or _known(_value(last.start) == 0))
    ):
        return user, last.stop
    return None, None


# ---- Replacing --------------------------------------------------------------------------------


def _replace(graph, inverse):
    """Replace the convolution that ends in this inverse transform; returns a `Found`."""
    product, n, divided = _transform(inverse, torch.fft.irfft)
    u, k, k_rev = _operands(product, n)
    if any(s.powers + u.powers + divided != 1 for s in (k, k_rev) if s is not None):
        raise _Unlike("the factor 1/n of the inverse transform is missing or there twice")
    end, kept = _crop(inverse)
    length = _value(u.row).shape[-1]
    if end is None:
        end, kept = inverse, n
    if not _known(_value(kept) == length):
        raise _Unlike("the crop does not keep as many samples as the rows have")
    mode = _mode(n, length, k, k_rev)
    nodes = [s.nodes for s in (u, k, k_rev) if s is not None]
    group = {inverse, end}.union(*nodes)
    options, end, fused = _surroundings(u, k, end, group)
    _check_order(graph, group, end)
    options.update(
        u=options.get("u", u.row),
        k=k.row,
        k_rev=k_rev and k_rev.row,
        n=n if mode == "circular" else None,
        mode=mode,
        u_views=u.views,
        k_views=k.views,
    )
    with graph.inserting_before(end):
        new = graph.call_function(convolution, kwargs=options)
    new.meta.update(end.meta)
    end.replace_all_uses_with(new)
    for node in reversed(list(graph.nodes)):
        if node in group and not node.users:
            graph.erase_node(node)
    return Found(inverse.name, mode, fused, None)


def _operands(product, n):
    """The `_Spectrum` of u, of k, and of k_rev or None."""
    factors = _factors(product, n)
    if len(factors[0]) > 1:
        factors.reverse()
    elif len(factors[1]) == 1:  # The rows are the factor that has the shape of the product.
        rows = [_value(f[0].nodes[0]).ndim + len(f[0].views) for f in factors]
        shape = _value(product).shape
        wide = [
            d == len(shape) and _same_shape(_value(a).shape, shape)
            for d, a in zip(rows, product.args[-2:])
        ]
        if wide == [False, True]:
            factors.reverse()
    (u, *more), kernels = factors
    if more or u.conjugated:
        raise _Unlike("neither factor is the transform of rows alone")
    forward = [s for s in kernels if not s.conjugated]
    backward = [s for s in kernels if s.conjugated]
    if len(forward) != 1 or len(backward) > 1:
        raise _Unlike("the kernel is not one transform, nor one and a conjugated one")
    k, k_rev = forward[0], backward[0] if backward else None
    if k_rev is not None and (
        k.views != k_rev.views
        or not _same_shape(_value(k.row).shape[:-1], _value(k_rev.row).shape[:-1])
    ):
        raise _Unlike("the two kernels have different shapes")
    types = {_value(s.row).dtype for s in (u, k, k_rev) if s is not None}
    if len(types) > 1:
        raise _Unlike("rows and kernel differ in type")
    return u, k, k_rev


def _mode(n, length, k, k_rev):
    """The mode of the convolution that a circle of n points holds, or _Unlike."""
    n = _value(n)
    taps = [_value(s.row).shape[-1] for s in (k, k_rev) if s is not None]
    if all(_known(n >= length + t - 1) for t in taps):
        return "causal" if k_rev is None else "two_sided"
    if k_rev is None and _known(n >= length) and _known(n >= taps[0]):
        return "circular"
    raise _Unlike("the transform is not known to be long enough for rows and kernel")


def _surroundings(u, k, end, group):
    """What the convolution takes in: (options, the last node, their names); fills the group."""
    options, fused = {}, []
    shape = _value(end).shape
    plain = not u.views and len(shape) == 3 and _same_shape(_value(u.row).shape, shape)
    plain = plain and _value(k.row).ndim + len(k.views) <= 3
    gate = _gate_of(u.row) if plain else None
    user = _only_user(end)
    skip = _skip_of(user, end, u.row) if plain else None
    if skip is not None:
        options["skip"], nodes = skip
        group.update(nodes)
        end, user = user, _only_user(user)
    if gate is not None and set(u.row.users) <= group:
        options["u"], options["in_gate"] = gate
        group.add(u.row)
        fused.append("in_gate")
    if skip is not None:
        fused.append("skip")
    name = _activation_of(user)
    if plain and name:
        options["activation"] = name
        fused.append(name)
        group.add(user)
        end, user = user, _only_user(user)
    if plain and _is(user, *_MUL):
        other = [a for a in user.args[:2] if a is not end]
        if len(other) == 1 and _alike(other[0], end):
            options["out_gate"] = other[0]
            fused.append("out_gate")
            group.add(user)
            end = user
    return options, end, tuple(fused)


def _alike(x, y):
    """Whether two nodes are tensors of the same known shape and type."""
    a, b = _value(x), _value(y)
    return isinstance(a, torch.Tensor) and a.dtype == b.dtype and _same_shape(a.shape, b.shape)


def _gate_of(row):
    """(u, in_gate) if the rows are their product, else None."""
    if _is(row, *_MUL) and all(_alike(a, row) for a in row.args[:2]):
        return row.args[0], row.args[1]
    return None


def _skip_of(add, end, row):
    """((H, 1) weights or None for ones, nodes) if `add` adds rows times weights, else None."""
    if not _is(add, *_ADD) or add.kwargs:
        return None
    other = [a for a in add.args[:2] if a is not end]
    if len(other) != 1 or not _alike(other[0], end):
        return None
    other = _unconverted(other[0])
    if other is row:
        return 1.0, {add}
    if not _is(other, *_MUL) or _only_user(other) is not add:
        return None
    weight = [a for a in other.args[:2] if _unconverted(a) is not row]
    value = _value(weight[0]) if len(weight) == 1 else None
    channels = _value(row).shape[1]
    if (
        isinstance(value, torch.Tensor)
        and value.dtype == _value(row).dtype
        and value.ndim in (2, 3)
        and _same_shape(value.shape[-2:], (channels, 1))
        and (value.ndim == 2 or _known(value.shape[0] == 1))
    ):
        return weight[0], {add, other}
    return None


def _activation_of(node):
    if _is(node, F.gelu) and _argument(node, 1, "approximate", "none") == "none":
        return "gelu"
    if _is(node, F.silu) and not _argument(node, 1, "inplace", False):
        return "silu"
    return None


def _writes(node):
    """Whether a node may write into one of its arguments."""
    if node.op == "call_method":
        return node.target == "__setitem__" or (
            node.target.endswith("_") and not node.target.endswith("__")
        )
    if node.op != "call_function":
        return node.op == "call_module"
    name = getattr(node.target, "__name__", "")
    return (
        "out" in node.kwargs
        or bool(node.kwargs.get("inplace"))
        or name in ("setitem", "iadd", "imul", "isub", "itruediv", "copy_")
        or (name.endswith("_") and not name.endswith("__"))
    )


def _check_order(graph, group, end):
    """Refuse a group in whose middle another node writes: the convolution is computed at its
    end, from what the operands hold there."""
    started = False
    for node in graph.nodes:
        if node is end:
            return
        started = started or node in group
        if started and node not in group and _writes(node):
            raise _Unlike(f"{node.name} writes between the transforms")


def convolution(
    u,
    k,
    k_rev=None,
    *,
    mode,
    n,
    u_views,
    k_views,
    in_gate=None,
    skip=None,
    activation=None,
    out_gate=None,
):
    """What takes a group's place: `fftconv.torch.conv` on rows and kernels of any axes.

    u: (..., L), k: (..., Lk), whose leading axes broadcast, once axes of length 1 have been
    inserted at `u_views` and `k_views`.  n: the length of the circle, if the mode is circular.
    skip: (H, 1) or (1, H, 1), or 1.0.  The others are as `fftconv.torch.conv` takes them.
    """
    for at in u_views:
        u = u.unsqueeze(at)
    kernels = [x for x in (k, k_rev) if x is not None]
    for at in k_views:
        kernels = [x.unsqueeze(at) for x in kernels]
    leading = torch.broadcast_shapes(u.shape[:-1], kernels[0].shape[:-1])
    u = u.expand(*leading, u.shape[-1])
    shapes = (1,) * (len(leading) + 1 - kernels[0].ndim) + tuple(kernels[0].shape[:-1])
    # Kernels differ along the axes [first, last); behind these, channels share them.
    differ = [i for i, size in enumerate(shapes) if size != 1]
    first, last = (differ[0], differ[-1] + 1) if differ else (len(leading), len(leading))
    if len(leading) == 2:
        first = 1  # `conv` itself takes kernels of shape (1 or B, 1 or H, Lk).
    else:
        shapes = (1, _product(leading[first:last]))
        kernels = [
            x.reshape((1,) * (len(leading) + 1 - x.ndim) + tuple(x.shape)).expand(
                *[1] * first, *leading[first:last], *[1] * (len(leading) - last), x.shape[-1]
            )
            for x in kernels
        ]
    kernels = [x.reshape(*shapes, x.shape[-1]) for x in kernels]
    rows = (-1, _product(leading[first:]), u.shape[-1])
    if isinstance(skip, float):
        skip = u.new_ones(rows[1])
    elif skip is not None:
        skip = skip.reshape(-1)
    y = conv(
        u.reshape(rows),
        kernels[0],
        in_gate,
        out_gate,
        k_rev=kernels[1] if k_rev is not None else None,
        mode=mode,
        fft_size=n,
        skip=skip,
        activation=activation,
    )
    return y.reshape(*leading, u.shape[-1])


def _product(sizes):
    total = 1
    for size in sizes:
        total = total * size
    return total
