"""The other calls of the package for tensors: matrices of kernels, short convolutions, heads,
state-space layers and their kernels."""

import torch

from .. import depthwise, hyena, matrix, ssm, strategies
from ..plan import check_reverse
from ..strategies import equation_axes
from ._autograd import OPERATIONS, Operation, apply
from ._conv import conv, kernel_dtype, result_dtype, tensors, wide_dtype
from ._ops import define, fake_gradients, fold_rows, loop, thread_count
from ._parts import activated


def _wide(x):
    """x, or its float32 if it has 16 bits; None for None."""
    return x if x is None else x.to(wide_dtype(x.dtype))


def _never(x, options):
    return False


def _add(name, operands, options, forward, backward, fake, is_bilinear, compose, batched=loop):
    ops = define(name, operands, options, forward, backward, fake, fake_gradients, batched)
    OPERATIONS[name] = Operation(*ops, is_bilinear, compose, batched)


# ---- conv_matrix ------------------------------------------------------------------


def _matrix(u, k, k_rev, mode, fft_size, threads):
    return matrix.conv_matrix(
        u, k, mode=mode, fft_size=fft_size, k_rev=k_rev, threads=thread_count(threads)
    )


def _matrix_gradients(g, u, k, k_rev, mode, fft_size, threads, needs):
    names = [name for name, need in zip(("u", "k", "k_rev"), needs) if need]
    found = matrix.conv_matrix_backward(
        g,
        u,
        k,
        mode=mode,
        fft_size=fft_size,
        k_rev=k_rev,
        threads=thread_count(threads),
        needs=names,
    )
    return [getattr(found, "d" + name) for name in names]


def _fake_matrix(u, k, k_rev, mode, fft_size, threads):
    return u.new_empty((u.shape[0], k.shape[0], u.shape[2]))


_add(
    "conv_matrix",
    "Tensor u, Tensor k, Tensor? k_rev",
    "str mode, SymInt? fft_size, int? threads",
    _matrix,
    _matrix_gradients,
    _fake_matrix,
    lambda x, options: True,
    None,
)


def conv_matrix(u, k, *, mode="causal", fft_size=None, k_rev=None, threads=None):
    """`fftconv.conv_matrix` for tensors, differentiable to any order.

    The arguments and dtypes are those of `fftconv.conv_matrix`, but for threads: None means
    `torch.get_num_threads()`.  Returns y (B, H_out, L).  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> u, k = torch.randn(2, 3, 50), torch.randn(4, 3, 50, requires_grad=True)
        >>> conv_matrix(u, k).sum().backward()
        >>> k.grad.shape
        torch.Size([4, 3, 50])
    """
    tensors(u=u, k=k, k_rev=k_rev)
    if u.dim() != 3 or k.dim() != 3 or k.shape[1] != u.shape[1]:
        raise ValueError(
            f"u has shape {tuple(u.shape)} and k {tuple(k.shape)}; they must be (B, H_in, L) and "
            "(H_out, H_in, Lk)"
        )
    check_reverse(k_rev, mode)
    dtype = result_dtype((u,), (k, k_rev))
    k, k_rev = (x if x is None else x.to(kernel_dtype(dtype, x.dtype)) for x in (k, k_rev))
    return apply("conv_matrix", (mode, fft_size, threads), u.to(dtype), k, k_rev)


# ---- depthwise_conv1d -------------------------------------------------------------


def _depthwise_options(left, right, activation, layout, threads):
    return dict(
        padding=(left, right), activation=activation, layout=layout, threads=thread_count(threads)
    )


def _depthwise(x, weight, bias, *options):
    return depthwise.depthwise_conv1d(x, weight, bias, **_depthwise_options(*options))


def _depthwise_gradients(g, x, weight, bias, *options):
    *options, needs = options
    names = [name for name, need in zip(("x", "weight", "bias"), needs) if need]
    found = depthwise.depthwise_conv1d_backward(
        g, x, weight, bias, needs=names, **_depthwise_options(*options)
    )
    return [getattr(found, "d" + name) for name in names]


def _fake_depthwise(x, weight, bias, left, right, activation, layout, threads):
    shape, more = list(x.shape), left + right - weight.shape[-1] + 1
    shape[1 if layout == "BLH" else 2] += more
    return x.new_empty(shape)


def _compose_depthwise(options, x, weight, bias):
    left, right, activation, layout, threads = options
    dtype = x.dtype
    y = apply("depthwise", (left, right, None, layout, threads), _wide(x), weight, None)
    if bias is not None:
        y = y + (bias if layout == "BLH" else bias[:, None])
    return activated(y, activation).to(dtype)


def _batched_depthwise(run, x, dims, size, options, needs):
    channels = (1, -2, 0) if needs is None else (1, 1, -2, 0)
    return fold_rows(run, x, dims, size, options, needs, channels, options[3])


_add(
    "depthwise",
    "Tensor x, Tensor weight, Tensor? bias",
    "SymInt left, SymInt right, str? activation, str layout, int? threads",
    _depthwise,
    _depthwise_gradients,
    _fake_depthwise,
    lambda x, options: options[2] is None and x[2] is None,
    _compose_depthwise,
    _batched_depthwise,
)


def depthwise_conv1d(
    x,
    weight,
    bias=None,
    *,
    padding=0,
    activation=None,
    layout="BHL",
    state=None,
    return_state=False,
    threads=None,
):
    """`fftconv.depthwise_conv1d` for tensors, differentiable to any order.

    The arguments and dtypes are those of `fftconv.depthwise_conv1d`, but for threads: None means
    `torch.get_num_threads()`.  Gradients flow to x, weight, bias and state.  Returns y, or
    (y, the next state) with return_state.  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> x, weight = torch.randn(2, 3, 50), torch.randn(3, 4, requires_grad=True)
        >>> depthwise_conv1d(x, weight, padding="causal", activation="silu").sum().backward()
        >>> weight.grad.shape
        torch.Size([3, 4])
    """
    tensors(x=x, weight=weight, bias=bias, state=state)
    if weight.dim() == 3 and weight.shape[1] == 1:
        weight = weight[:, 0]
    if layout not in ("BHL", "BLH"):
        raise ValueError(f"layout is {layout!r}; allowed: 'BHL', 'BLH'")
    time = -2 if layout == "BLH" else -1
    channels = x.shape[-3 - time] if x.dim() in (2, 3) else None
    if weight.dim() != 2 or weight.shape[0] != channels:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; they must be "
            "(B, D, L) or (D, L), in the order of the layout, and (D, K) or (D, 1, K)"
        )
    taps = weight.shape[1]
    streams = state is not None or return_state
    left, right = depthwise.check_padding(padding, taps, streams)
    if streams:
        shape = list(x.shape)
        shape[time] = taps - 1
        if state is None:
            state = x.new_zeros(shape)
        if tuple(state.shape) != tuple(shape):
            raise ValueError(f"state has shape {tuple(state.shape)}; it must be {tuple(shape)}")
        x, left = torch.cat([state.to(x.dtype), x], time), 0
    if not (x.is_floating_point() or x.is_complex()):
        x = x.double()
    rows = x if x.dim() == 3 else x[None]
    y = apply("depthwise", (left, right, activation, layout, threads), rows, weight, bias)
    y = y if x.dim() == 3 else y[0]
    if not return_state:
        return y
    return y, x.narrow(time, x.shape[time] - taps + 1, taps - 1).clone()


# ---- fftconv_func -----------------------------------------------------------------


def _heads(u, k, k_rev, D, mask, v, q, gelu, head_dim, threads):
    return hyena.fftconv_func(
        u, k, D, mask, gelu, v=v, head_dim=head_dim, q=q, k_rev=k_rev, threads=thread_count(threads)
    )


def _heads_gradients(g, u, k, k_rev, D, mask, v, q, gelu, head_dim, threads, needs):
    found = hyena.fftconv_func_backward(
        g,
        u,
        k,
        D,
        mask,
        gelu,
        v=v,
        head_dim=head_dim,
        q=q,
        k_rev=k_rev,
        threads=thread_count(threads),
    )
    found = (found.du, found.dk, found.dk_rev, found.dD, None, found.dv, found.dq)
    return [x for x, need in zip(found, needs) if need]


def _fake_heads(u, k, k_rev, D, mask, v, q, gelu, head_dim, threads):
    return u.new_empty(u.shape)


def _compose_heads(options, u, k, k_rev, D, mask, v, q):
    gelu, h, threads = options
    dtype = u.dtype
    u, k, k_rev, D, v, q = map(_wide, (u, k, k_rev, D, v, q))
    b, channels, n = u.shape
    groups = channels // h
    z = (u.view(b, groups, h, 1, n) * v.view(b, groups, 1, h, n)).flatten(1, 3)
    mode = "causal" if k_rev is None else "two_sided"
    p = apply("conv", (mode, None, None, None, "BHL", threads), z, k, k_rev, *(None,) * 4)
    if D is not None:
        p = p + D.repeat_interleave(h * h)[:, None] * z
    p = activated(p, "gelu" if gelu else None).view(b, groups, h, h, n)
    if mask is not None:
        p = p * mask[:, :groups, None, None, None].to(p.dtype)
    return (p * q.view(b, groups, h, 1, n)).sum(2).view(b, channels, n).to(dtype)


_add(
    "heads",
    "Tensor u, Tensor k, Tensor? k_rev, Tensor? D, Tensor? mask, Tensor? v, Tensor? q",
    "bool gelu, SymInt head_dim, int? threads",
    _heads,
    _heads_gradients,
    _fake_heads,
    _never,
    _compose_heads,
)


def fftconv_func(
    u,
    k,
    D,
    dropout_mask=None,
    gelu=True,
    force_fp16_output=False,
    output_hbl_layout=False,
    v=None,
    head_dim=1,
    q=None,
    fftfp16=False,
    k_rev=None,
    *,
    threads=None,
):
    """hyena-dna's fftconv_func for tensors, differentiable to any order.

    The arguments and dtypes are those of `fftconv.hyena.fftconv_func`, but for threads: None
    means `torch.get_num_threads()`.  Returns out (B, H, L).  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> u, D = torch.randn(2, 3, 50), torch.ones(3)
        >>> k = torch.randn(3, 50, requires_grad=True)
        >>> fftconv_func(u, k, D).sum().backward()
        >>> k.grad.shape
        torch.Size([3, 50])
    """
    tensors(u=u, k=k, D=D, dropout_mask=dropout_mask, v=v, q=q, k_rev=k_rev)
    if (v is None) != (q is None) or v is None and head_dim != 1:
        raise ValueError(
            f"v and q must be given together, and with head_dim = {head_dim} above 1 always"
        )
    if u.dim() != 3 or u.shape[1] % head_dim:
        raise ValueError(
            f"u has shape {tuple(u.shape)}; it must be (B, H, L), and head_dim = {head_dim} must "
            "divide H"
        )
    if head_dim == 1:
        y = conv(
            u,
            k,
            v,
            q,
            mode="causal" if k_rev is None else "two_sided",
            k_rev=k_rev,
            skip=D,
            activation="gelu" if gelu else None,
            mask=dropout_mask,
            threads=threads,
        )
    else:
        if dropout_mask is not None and dropout_mask.requires_grad:
            raise ValueError("dropout_mask requires grad, and none flows to it; detach it")
        dtype = result_dtype((u, v, q), (k, D, k_rev), dropout_mask)
        u, v, q = (x.to(dtype) for x in (u, v, q))
        k, k_rev = (x if x is None else x.to(wide_dtype(dtype)) for x in (k, k_rev))
        D = D if D is None else D.to(kernel_dtype(dtype, D.dtype))
        y = apply("heads", (gelu, head_dim, threads), u, k, k_rev, D, dropout_mask, v, q)
    if force_fp16_output:
        if y.dtype == torch.float64:
            raise ValueError(
                "force_fp16_output is True and the result is float64; it is for float32"
            )
        y = y.half() if y.dtype == torch.float32 else y
    return y.transpose(0, 1).contiguous().transpose(0, 1) if output_hbl_layout else y


# ---- State-space layers -----------------------------------------------------------


def _strategy(name):
    return int(name) if name.isdigit() else name


def _layer(x, K, B_, C, strategy, threads):
    return strategies.opt_ssm_forward(
        x, K, B_, C, strategy=_strategy(strategy), k_layout="NL", threads=thread_count(threads)
    )


def _layer_gradients(g, x, K, B_, C, strategy, threads, needs):
    names = [name for name, need in zip(("x", "K", "B_", "C"), needs) if need]
    found = strategies.opt_ssm_backward(
        g, x, K, B_, C, k_layout="NL", needs=names, threads=thread_count(threads)
    )
    return [getattr(found, "d" + name) for name in names]


def _real_dtype(*x):
    """The real dtype of a result: the widest precision; 16 bits only if all have the same."""
    dtype = result_dtype(x, ())
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def _fake_layer(x, K, B_, C, strategy, threads):
    return x.new_empty((*x.shape[:2], C.shape[0]), dtype=_real_dtype(x, K, B_, C))


def _complex_layer(x, K, B_, C, threads):
    """The layer from its parts, in the precision of its operands and complex if one is."""
    dtype = result_dtype((x, K, B_, C), ())
    x, K, B_, C = (v.to(wide_dtype(dtype)) for v in (x, K, B_, C))
    u = torch.einsum("bli,ni->bnl", x, B_)
    return torch.einsum("bnl,on->blo", conv(u, K[:, : x.shape[1]], threads=threads), C)


def _compose_layer(options, x, K, B_, C):
    y = _complex_layer(x, K, B_, C, options[1])
    return (y.real if y.is_complex() else y).to(_real_dtype(x, K, B_, C))


_add(
    "ssm_layer",
    "Tensor x, Tensor K, Tensor B_, Tensor C",
    "str strategy, int? threads",
    _layer,
    _layer_gradients,
    _fake_layer,
    _never,
    _compose_layer,
)


def opt_ssm_forward(x, K, B_, C, *, strategy="auto", k_layout=None, threads=None):
    """lrnnx's opt_ssm_forward for tensors, differentiable to any order.

    The arguments and dtypes are those of `fftconv.lrnnx.opt_ssm_forward`, but for threads: None
    means `torch.get_num_threads()`.  Returns y (B, L, H_out).  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> x, B, C = torch.randn(2, 50, 3), torch.randn(4, 3), torch.randn(5, 4)
        >>> K = torch.randn(4, 50, requires_grad=True)
        >>> opt_ssm_forward(x, K, B, C).sum().backward()
        >>> K.grad.shape
        torch.Size([4, 50])
    """
    tensors(x=x, K=K, B_=B_, C=C)
    strategies.check_strategy(strategy)
    if K.dim() == 3:
        for name, value in (("B_", B_), ("C", C), ("k_layout", k_layout)):
            if value is not None:
                raise ValueError(f"{name} is given; with K of (L, H_out, H_in) it must be None")
        return _by_matrix(x, K.permute(1, 2, 0), True, threads)
    for name, v, axes in (("x", x, 3), ("B_", B_, 2), ("C", C, 2)):
        if v is None or v.dim() != axes:
            shape = None if v is None else tuple(v.shape)
            raise ValueError(f"{name} has shape {shape}; it must have {axes} axes")
    if B_.shape[1] != x.shape[2] or C.shape[1] != B_.shape[0]:
        raise ValueError(
            f"B_ has shape {tuple(B_.shape)} and C {tuple(C.shape)}; they must be (N, H_in) with "
            f"H_in = {x.shape[2]}, as x, and (H_out, N)"
        )
    if strategies.layout_of_k(tuple(K.shape), B_.shape[0], k_layout) == "LN":
        K = K.transpose(0, 1)
    return apply("ssm_layer", (str(strategy), threads), x, K, B_, C)


def _by_matrix(x, k, real, threads):
    """conv_matrix with x and y of (B, L, H); real: only the real part."""
    dtype = _real_dtype(x, k)
    if real and k.is_complex() and not x.is_complex():
        k = k.real
    y = conv_matrix(x.transpose(1, 2), k[..., : x.shape[1]], threads=threads).transpose(1, 2)
    return _finished(y, dtype, real)


def _finished(y, dtype, real):
    if real:
        return (y.real if y.is_complex() else y).to(dtype).contiguous()
    return y.to(torch.complex128 if dtype == torch.float64 else torch.complex64).contiguous()


def fft_conv(equation, input, *args, real=True, threads=None):
    """lrnnx's fft_conv for tensors, differentiable to any order.

    The arguments and dtypes are those of `fftconv.lrnnx.fft_conv`, but for threads: None means
    `torch.get_num_threads()`.  Returns (B, L, H_out).  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> x, k = torch.randn(2, 50, 3), torch.randn(50, 3, requires_grad=True)
        >>> fft_conv("bln,ln->bln", x, k).sum().backward()
        >>> k.grad.shape
        torch.Size([50, 3])
    """
    tensors(**dict(zip(strategies.operand_names(args), (input, *args))))
    axes, order = equation_axes(equation, [tuple(v.shape) for v in (input, *args)])
    args = [v.permute(axis) for v, axis in zip(args, axes)]
    if order == "states":
        if real:
            return opt_ssm_forward(input, *args, k_layout="NL", threads=threads)
        return _finished(_complex_layer(input, *args, threads), _real_dtype(input, *args), real)
    (k,) = args
    if order == "matrix":
        return _by_matrix(input, k, real, threads)
    dtype = _real_dtype(input, k)
    if real and k.is_complex() and not input.is_complex():
        k = k.real
    y = conv(input, k[..., : input.shape[1]], layout="BLH", threads=threads)
    return _finished(y, dtype, real)


# ---- Kernels of state-space models ------------------------------------------------

_REAL = {"float32": torch.float32, "float64": torch.float64}


def _kernel(A, B, C, P, Q, length, discretization, state, dtype, threads):
    k = ssm.ssm_kernel(
        A,
        B,
        C,
        length,
        P,
        Q,
        discretization=discretization,
        state=state,
        dtype=dtype,
        threads=thread_count(threads),
    )
    return torch.from_numpy(k)


def _kernel_gradients(g, A, B, C, P, Q, length, discretization, state, dtype, threads, needs):
    names = [name for name, need in zip("ABCPQ", needs) if need]
    found = ssm.ssm_kernel_backward(
        g,
        A,
        B,
        C,
        P,
        Q,
        discretization=discretization,
        state=state,
        needs=names,
        threads=thread_count(threads),
    )
    return [torch.from_numpy(getattr(found, "d" + name)) for name in names]


def _fake_kernel(A, B, C, P, Q, length, discretization, state, dtype, threads):
    return A.new_empty((B.shape[0], C.shape[0], A.shape[0], length), dtype=_REAL[dtype])


def _powers(first, matrix, length):
    """(matrix^l first for l = 0 ... length - 1), stacked along a new last axis, by doubling.

    matrix: (H, N), a diagonal, or (H, N, N).  first: (..., H, N).
    """
    x, dense = first[..., None], matrix.dim() == 3
    while x.shape[-1] < length:
        x = torch.cat([x, matrix @ x if dense else matrix[..., None] * x], -1)
        matrix = matrix @ matrix if dense else matrix * matrix
    return x[..., :length]


def _compose_kernel(options, A, B, C, P, Q):
    length, discretization, state, dtype, _ = options
    factor = 2.0
    if P is not None:
        A, B, C, P, Q = (torch.cat([x, x.conj()], -1) for x in (A, B, C, P, Q))
        A = torch.diag_embed(A) - torch.einsum("rhn,rhm->hnm", P, Q.conj())
        one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        Abar = torch.linalg.solve(one - A / 2, one + A / 2)
        apply_A = lambda x: (Abar @ x[..., None])[..., 0]  # noqa: E731
        B = apply_A(B) if state else torch.linalg.solve(one - A / 2, B[..., None])[..., 0]
        factor = 1.0
    elif discretization == "bilinear":
        Abar = (1 + A / 2) / (1 - A / 2)
        B = B * (Abar if state else 1 / (1 - A / 2))
    else:
        Abar = A.exp()
        B = B * (Abar if state else torch.special.expm1(A) / A)
        if discretization == "dss":
            B, factor = B / torch.special.expm1(A * length), 1.0
    k = torch.einsum("chn,ihnl->ichl", C, _powers(B, Abar, length))
    return (factor * k.real).to(_REAL[dtype])


_add(
    "ssm_kernel",
    "Tensor A, Tensor B, Tensor C, Tensor? P, Tensor? Q",
    "SymInt length, str discretization, bool state, str dtype, int? threads",
    _kernel,
    _kernel_gradients,
    _fake_kernel,
    _never,
    _compose_kernel,
)


def ssm_kernel(
    A,
    B,
    C,
    length,
    P=None,
    Q=None,
    *,
    discretization="zoh",
    state=False,
    dtype=torch.float32,
    threads=None,
):
    """The kernels of S4D and, with P, of S4, as differentiable functions of their parameters.

    The arguments are those of `fftconv.ssm.ssm_kernel`: complex tensors in units of one time
    step, so that gradients flow through the caller's own step Delta.  The first derivatives are
    the library's; higher ones are composed of torch's operations, and hold the states of all
    samples in memory.  dtype: torch.float32 or torch.float64, that of the kernels.  threads:
    None means `torch.get_num_threads()`.

    Returns k (I, C, H, L).  Raises TypeError and ValueError.

    Example:
        >>> import torch
        >>> A = (-torch.rand(3, 8) + 1j * torch.randn(3, 8)).requires_grad_()
        >>> B, C = torch.ones(1, 3, 8), torch.ones(1, 3, 8)
        >>> ssm_kernel(A, B, C, 50).sum().backward()
        >>> A.grad.shape
        torch.Size([3, 8])
    """
    tensors(A=A, B=B, C=C, P=P, Q=Q)
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in _REAL:
        raise ValueError(f"dtype is {dtype}; allowed: torch.float32, torch.float64")
    if P is None and Q is not None:
        raise ValueError("Q is given, and P is None; give both or P alone")
    A, B, C, P, Q = (x if x is None else x.to(torch.complex128) for x in (A, B, C, P, Q))
    if P is not None and Q is None:
        Q = P
    options = (length, discretization, state, dtype, threads)
    return apply("ssm_kernel", options, A, B, C, P, Q)
