"""The modules of safari and hyena-dna, and their `fftconv_func`, under their names.

`HyenaOperator` also has the signature and the parameters of hyena-dna's standalone file, whose
whole model is `fftconv.torch.hyena_dna.HyenaDNAModel`.
Sources: Hyena, arXiv 2302.10866; long convolutions, arXiv 2302.06646.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .._array import choice, size
from ._calls import depthwise_conv1d, fftconv_func
from ._conv import conv
from ._h3 import H3, SSKernel
from ._parts import ACTIVATIONS, TiedDropout, cut, register

__all__ = [
    "H3",
    "HyenaFilter",
    "HyenaOperator",
    "LongConv",
    "LongConvKernel",
    "SSKernel",
    "fftconv_func",
]


def __dir__():
    return __all__


class _Sine(nn.Module):
    """sin(freq x), with a trained frequency for each channel."""

    def __init__(self, width, w):
        super().__init__()
        self.freq = nn.Parameter(w * torch.ones(1, width))

    def forward(self, x):
        return torch.sin(self.freq * x)


class _PositionalEmbedding(nn.Module):
    """z (1, seq_len, emb_dim): the time t in [0, 1], and cos and -sin at (emb_dim - 1) / 2
    frequencies f, from 1e-4 to their number minus 1, of 2 pi l / seq_len."""

    def __init__(self, emb_dim, seq_len, lr):
        super().__init__()
        t = torch.linspace(0, 1, seq_len)[:, None]
        bands = (emb_dim - 1) // 2
        angle = torch.linspace(1e-4, bands - 1, bands) * (
            2 * math.pi / seq_len * torch.arange(seq_len)[:, None]
        )
        register(self, "z", torch.cat([t, angle.cos(), -angle.sin()], 1)[None], lr)
        register(self, "t", t[None], 0.0)


class _Modulation(nn.Module):
    """h (exp(-t |delta|) + shift), delta from slow to fast decay over the channels.

    A channel decays to target at slow_decay_pct ... fast_decay_pct of the sequence.
    """

    def __init__(
        self,
        d_model,
        fast_decay_pct=0.3,
        slow_decay_pct=1.5,
        target=1e-2,
        modulation_lr=0.0,
        modulate=True,
        shift=0.0,
        **kwargs,
    ):
        super().__init__()
        self.modulate, self.shift = modulate, shift
        slow, fast = math.log(target) / slow_decay_pct, math.log(target) / fast_decay_pct
        register(self, "deltas", torch.linspace(slow, fast, d_model)[None, None], modulation_lr)

    def forward(self, t, h):
        return h * (torch.exp(-t * self.deltas.abs()) + self.shift) if self.modulate else h


class HyenaFilter(nn.Module):
    """Hyena's implicit filter: a small network of the position, times an exponential window.

        h(l) = (exp(-t |delta|) + shift) . W_n sin(freq (W_(n-1) ... sin(freq W_0 z(l))))

    d_model: D, the number of channels.
    emb_dim: the width of the positional embedding z, odd and at least 3.
    order: the width of the network.
    fused_fft_conv: accepted for compatibility and ignored; the convolution is always fused.
    seq_len: the longest filter.
    lr, wd: learning rate and weight decay of the network, lr_pos_emb the learning rate of z:
        a training script finds them in the attribute ``_optim`` of a parameter.  With
        lr_pos_emb = 0, z is a buffer.
    dropout: the probability of dropout on the taps of the filter.
    w: the initial frequency of the sines, all of which share one parameter freq.
    bias: whether `forward` adds bias . x to the convolution.
    num_inner_mlps: the number of inner layers of the network.
    normalized: divide h(l) by the sum of |h(l)| over its channels.
    fast_decay_pct, slow_decay_pct, target, modulation_lr, modulate, shift: the window.
        From the first channel to the last, it decays to target at slow_decay_pct ...
        fast_decay_pct of the sequence; modulate=False omits it.

    Other keywords are ignored, as the originals do; the options linear_mixer and bidirectional
    of later versions raise ValueError.

    Parameters and buffers: bias (D,), pos_emb.z, pos_emb.t, implicit_filter.{0, 2, ...}.weight
    and .bias (the last has no bias), implicit_filter.{1, 3, ...}.freq, modulation.deltas.  A
    checkpoint needs only one of the names of freq.

    Example:
        >>> import torch
        >>> filter_fn = HyenaFilter(4, emb_dim=5, seq_len=32)
        >>> filter_fn.filter(32).shape, filter_fn(torch.ones(2, 4, 32), 32).shape
        (torch.Size([1, 32, 4]), torch.Size([2, 4, 32]))
    """

    def __init__(
        self,
        d_model,
        emb_dim=3,
        order=16,
        fused_fft_conv=False,
        seq_len=1024,
        lr=1e-3,
        lr_pos_emb=1e-5,
        dropout=0.0,
        w=1,
        wd=0,
        bias=True,
        num_inner_mlps=2,
        normalized=False,
        **kwargs,
    ):
        super().__init__()
        for name in ("linear_mixer", "bidirectional"):
            if kwargs.get(name):
                raise ValueError(f"{name} is {kwargs[name]!r}; it must be False")
        self.d_model = size(d_model, "d_model")
        self.emb_dim = size(emb_dim, "emb_dim", 3)
        if emb_dim % 2 == 0:
            raise ValueError(f"emb_dim is {emb_dim}; it must be odd")
        self.seq_len = size(seq_len, "seq_len")
        self.use_bias, self.fused_fft_conv, self.normalized = bias, fused_fft_conv, normalized
        self.bias = nn.Parameter(torch.randn(self.d_model))
        self.dropout = nn.Dropout(dropout)
        self.pos_emb = _PositionalEmbedding(self.emb_dim, self.seq_len, lr_pos_emb)
        sine = _Sine(order, w)
        layers = [nn.Linear(self.emb_dim, order), sine]
        for _ in range(num_inner_mlps):
            layers += [nn.Linear(order, order), sine]
        self.implicit_filter = nn.Sequential(*layers, nn.Linear(order, self.d_model, bias=False))
        for parameter in self.implicit_filter.parameters():
            parameter._optim = {"weight_decay": wd, "lr": lr}
        self.modulation = _Modulation(self.d_model, **kwargs)

    def extra_repr(self):
        return f"{self.d_model}, emb_dim={self.emb_dim}, seq_len={self.seq_len}"

    def filter(self, L, *args, **kwargs):
        """Return the filter (1, L, D), L <= seq_len, computed in the parameters' own dtype."""
        if not 1 <= L <= self.seq_len:
            raise ValueError(f"L is {L}; it must be from 1 to seq_len = {self.seq_len}")
        z = self.pos_emb.z
        with torch.autocast(z.device.type, enabled=False):
            h = self.modulation(self.pos_emb.t[:, :L], self.implicit_filter(z[:, :L]))
            if self.normalized:
                h = h / h.norm(dim=-1, p=1, keepdim=True)
        return self.dropout(h)

    def forward(self, x, L, k=None, bias=None, *args, in_gate=None, out_gate=None, **kwargs):
        """Return out_gate . ((in_gate . x) * k + bias . in_gate . x), of x's shape.

        x, in_gate, out_gate: (B, D, L); a gate that is None counts as 1.
        k: (D, Lk), or (1, D, Lk), or a tuple that starts with one; None means the module's own.
        bias: (D,), or another shape with D entries; None means the module's own.

        dtypes promote as in `fftconv.torch.conv`.  Other arguments are ignored.  Raises
        ValueError.
        """
        if k is None:
            k = self.filter(L)[0].t()
        k = k[0] if isinstance(k, tuple) else k
        bias = self.bias if bias is None else bias.reshape(-1)
        return conv(x, k, in_gate, out_gate, skip=bias if self.use_bias else None)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # All sines share one freq, and safetensors keeps only one of its names.
        names = [
            f"{prefix}implicit_filter.{i}.freq"
            for i, layer in enumerate(self.implicit_filter)
            if isinstance(layer, _Sine)
        ]
        there = [name for name in names if name in state_dict]
        if there:
            for name in names:
                state_dict.setdefault(name, state_dict[there[0]])
        super()._load_from_state_dict(state_dict, prefix, *args)


class HyenaOperator(nn.Module):
    """Hyena's sequence mixer: a short convolution, then long ones with gates in between.

        x_0 ... x_(n-1), v = short_filter(in_proj(u)),        n = order
        v = (x_i . v) * h_i + bias_i . x_i . v,               i = n - 1 ... 1
        y = out_proj(act(x_0 . v))

    d_model: D, the width of u and y.
    l_max: the longest sequence; later samples of u are dropped.
    order: n, at least 2.
    filter_order: the width of the filter's network, the `order` of `HyenaFilter`.
    num_heads: the channels form this many heads of equal width, which share the filters.
    inner_factor: the layer is this many times as wide as d_model inside.
    num_blocks: the sequence is cut into this many blocks, which do not see each other.  It
        must divide the length.
    fused_bias_fc: accepted for compatibility and ignored.
    outer_mixing: within a head, each channel of v is multiplied by the sum of all channels of
        x_i, instead of its own.
    dropout: the probability of dropout on x_i . v.
    filter_dropout: the dropout of `HyenaFilter`.
    filter_cls: "hyena-filter", or a class to be called like `HyenaFilter`.
    post_order_ffn: after each convolution, mix the heads by the matrix ord_proj_w[i].
    jit_filter: accepted for compatibility and ignored.
    short_filter_order: the number of taps of the short convolution.
    activation: act: "id", "gelu", "silu", "relu", "tanh", "sigmoid", "softplus" or "elu".
    return_state: return (y, None).
    interleaved: the channels of filter_fn are in the order (channel, i), as in safari; False
        means (i, channel), as in hyena-dna's standalone file.  It matters only if order > 2.
    filter_args: for `HyenaFilter`.

    Parameters: in_proj.{weight, bias} and out_proj.{weight, bias} (nn.Linear),
    short_filter.{weight, bias} (nn.Conv1d), filter_fn.* and, with post_order_ffn, ord_proj_w
    (order, num_heads, num_heads).  Raises ValueError.

    Example:
        >>> import torch
        >>> hyena = HyenaOperator(8, 32, emb_dim=5)
        >>> hyena(torch.ones(2, 32, 8)).shape
        torch.Size([2, 32, 8])
    """

    def __init__(
        self,
        d_model,
        l_max,
        order=2,
        filter_order=64,
        num_heads=1,
        inner_factor=1,
        num_blocks=1,
        fused_bias_fc=False,
        outer_mixing=False,
        dropout=0.0,
        filter_dropout=0.0,
        filter_cls="hyena-filter",
        post_order_ffn=False,
        jit_filter=False,
        short_filter_order=3,
        activation="id",
        return_state=False,
        *,
        interleaved=True,
        **filter_args,
    ):
        super().__init__()
        self.d_model, self.l_max = size(d_model, "d_model"), size(l_max, "l_max")
        self.order = size(order, "order", 2)
        self.num_heads = size(num_heads, "num_heads")
        self.inner_factor = size(inner_factor, "inner_factor")
        self.num_blocks = size(num_blocks, "num_blocks")
        for name, value, of, n in (
            ("num_heads", num_heads, "d_model", d_model),
            ("num_blocks", num_blocks, "l_max", l_max),
        ):
            if n % value:
                raise ValueError(f"{name} is {value}; it must divide {of}, {n}")
        self.short_filter_order = size(short_filter_order, "short_filter_order")
        self.outer_mixing, self.post_order_ffn = outer_mixing, post_order_ffn
        self.return_state, self.interleaved = return_state, interleaved
        self.activation = choice(activation, "activation", ACTIVATIONS)()
        self.dropout = nn.Dropout(dropout)
        inner = self.d_model * self.inner_factor
        self.head_dim = inner // self.num_heads
        width = inner * (self.order + 1)
        self.out_proj = nn.Linear(inner, self.d_model)
        self.in_proj = nn.Linear(self.d_model, width)
        if post_order_ffn:
            shape = (self.order, self.num_heads, self.num_heads)
            self.ord_proj_w = nn.Parameter(torch.randn(shape) / math.sqrt(self.head_dim))
        self.short_filter = nn.Conv1d(
            width, width, short_filter_order, groups=width, padding=short_filter_order - 1
        )
        if isinstance(filter_cls, str):
            filter_cls = choice(filter_cls, "filter_cls", {"hyena-filter": HyenaFilter})
        self.filter_fn = filter_cls(
            self.head_dim * (self.order - 1),
            order=filter_order,
            seq_len=self.l_max,
            channels=1,
            dropout=filter_dropout,
            **filter_args,
        )

    @property
    def d_output(self):
        """The width of y, d_model."""
        return self.d_model

    def extra_repr(self):
        return f"{self.d_model}, {self.l_max}, order={self.order}, num_heads={self.num_heads}"

    def _of_orders(self, x):
        """Return x (D', ...), D' = head_dim (order - 1), as (order - 1, head_dim, ...)."""
        if self.interleaved:
            return x.unflatten(0, (self.head_dim, self.order - 1)).transpose(0, 1)
        return x.unflatten(0, (self.order - 1, self.head_dim))

    def forward(self, u, *args, **kwargs):
        """Return y (B, min(L, l_max), D) for u (B, L, D); with return_state, (y, None).

        Other arguments are ignored.  Raises ValueError.
        """
        if u.dim() != 3 or u.shape[2] != self.d_model or 0 in u.shape:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; it must be (B, L, {self.d_model}), each at least 1"
            )
        u = self.in_proj(u[:, : self.l_max])
        batch, length, _ = u.shape
        blocks, heads = self.num_blocks, self.num_heads
        if length % blocks:
            raise ValueError(f"u has length {length}; num_blocks, {blocks}, must divide it")
        u = depthwise_conv1d(
            u, self.short_filter.weight, self.short_filter.bias, padding="causal", layout="BLH"
        )
        # Each of shape (rows, L / blocks, head_dim), a row for each (batch, head, block).  They are
        # separated first, so that their gradients come together in the order of u.
        u = u.reshape(batch, blocks, length // blocks, heads, self.order + 1, self.head_dim)
        *x, v = (part.permute(0, 3, 1, 2, 4).flatten(0, 2) for part in u.unbind(4))
        filters = self.filter_fn.filter(length)
        filters = filters[0] if isinstance(filters, tuple) else filters
        k = self._of_orders(filters[0, : length // blocks].t())
        bias = self._of_orders(self.filter_fn.bias)
        if not self.filter_fn.use_bias:
            bias = [None] * len(bias)
        for i, gate in enumerate(reversed(x[1:])):
            last = i == self.order - 2 and not self.post_order_ffn
            if self.outer_mixing:
                v = self.dropout(v[..., None, :] * gate[..., :, None]).sum(-2)
                gate = None
            elif self.training and self.dropout.p:
                v, gate = self.dropout(v * gate), None
            v = conv(v, k[i], gate, x[0] if last else None, skip=bias[i], layout="BLH")
            if self.post_order_ffn:
                v = v.unflatten(0, (batch, heads, blocks))
                v = torch.einsum("hg,bhzlv->bgzlv", self.ord_proj_w[i].to(v.dtype), v)
                v = v.flatten(0, 2)
        y = v if last else v * x[0]
        y = y.unflatten(0, (batch, heads, blocks)).permute(0, 2, 3, 1, 4)
        y = self.out_proj(self.activation(y.reshape(batch, length, -1)))
        return (y, None) if self.return_state else y


class LongConvKernel(nn.Module):
    """safari's explicit kernel, regularised: squash(k) = sign(k) max(|k| - lam, 0).

    H: the number of heads.  L: the number of taps; causal=False makes it 2 L, and the tap
    2 L - s then acts s samples ahead.
    channels: C.
    learning_rate: for the attribute ``_optim``; 0 makes the kernel a buffer.
    lam: the threshold.
    kernel_dropout: the probability of dropout on the taps.
    weight_init: "random" (0.002 times normal), or "double_exp" (0.02 times normal times
        exp(-l / L (H // 2)^(h / H))).
    use_ma_smoothing: smooth k before it is squashed, by the mean of ma_window_len taps, an odd
        number; with smooth_freq, sum neighbouring frequencies with the weights
        exp(-(i - ma_window_len // 2)^2 / 2) instead.

    Other keywords are ignored, as the original does.  Parameter: kernel (C, H, L).  Raises
    ValueError.
    """

    def __init__(
        self,
        H,
        L,
        channels=1,
        learning_rate=None,
        lam=0.1,
        causal=True,
        kernel_dropout=0,
        weight_init="random",
        use_ma_smoothing=False,
        ma_window_len=7,
        smooth_freq=False,
        **kwargs,
    ):
        super().__init__()
        self.H, self.L = size(H, "H"), size(L, "L") * (1 if causal else 2)
        self.channels, self.causal, self.lam = size(channels, "channels"), causal, lam
        self.drop = nn.Dropout(kernel_dropout)
        choice(weight_init, "weight_init", dict.fromkeys(("random", "double_exp")))
        k = torch.randn(self.channels, self.H, self.L)
        if weight_init == "random":
            k = 0.002 * k
        else:
            rates = (self.H // 2) ** (torch.arange(self.H) / self.H)
            k = 0.02 * k * torch.exp(-rates[:, None] * torch.arange(self.L) / self.L)
        register(self, "kernel", k, learning_rate)
        self.use_ma_smoothing, self.smooth_freq = use_ma_smoothing, smooth_freq
        self.ma_window_len = size(ma_window_len, "ma_window_len")
        if ma_window_len % 2 == 0:
            raise ValueError(f"ma_window_len is {ma_window_len}; it must be odd")

    def _smoothed(self, k):
        n = self.ma_window_len
        if not self.smooth_freq:
            return F.avg_pool1d(k, n, stride=1, padding=n // 2)
        weight = torch.exp(-0.5 * (torch.arange(n, device=k.device) - n // 2) ** 2).to(k.dtype)
        bins = torch.view_as_real(torch.fft.rfft(k)).movedim(-1, 0)
        bins = F.conv1d(bins.flatten(0, 2)[:, None], weight[None, None], padding=n // 2)
        bins = bins.reshape(2, *k.shape[:2], -1)
        return torch.fft.irfft(torch.complex(*bins), k.shape[-1])

    def forward(self, **kwargs):
        """Return (the kernel (C, H, L), None); all keywords are ignored."""
        k = self._smoothed(self.kernel) if self.use_ma_smoothing else self.kernel
        return self.drop(F.relu(k.abs() - self.lam) * k.sign()), None

    @property
    def d_output(self):
        """H."""
        return self.H


_INITIALIZERS = {
    "uniform": lambda x, act: nn.init.kaiming_uniform_(x, nonlinearity=act),
    "normal": lambda x, act: nn.init.kaiming_normal_(x, nonlinearity=act),
    "xavier": lambda x, act: nn.init.xavier_normal_(x),
    "zero": lambda x, act: nn.init.zeros_(x),
    "one": lambda x, act: nn.init.ones_(x),
}


class LongConv(nn.Module):
    """safari's long convolution with an explicit kernel, and a linear mix of its channels.

        y = postact(W dropout(act(k * u + D u)) + b)

    d_model: H, the width of u and y.
    l_max: the number of taps of the kernel.
    channels: C, the number of kernels of each head.
    bidirectional: a second kernel acts on the samples ahead, its first tap on the next one.
    activation: act, as in `HyenaOperator`.
    postact: one of these, or "glu"; None omits the last linear map too.
    initializer: of W: None (that of nn.Linear), "uniform", "normal", "xavier", "zero" or "one".
    weight_norm: make W by `torch.nn.utils.parametrizations.weight_norm`, which also loads the
        names weight_g and weight_v of older checkpoints.
    dropout: its probability.  tie_dropout: use one mask for all samples of a channel.
    transposed: True if u and y are (B, H, L), False if they are (B, L, H).
    verbose, block_fft_conv_args: accepted and ignored.
    block_fft_conv: must be False; with True, the original raises AttributeError in each call.
    kernel_args: for `LongConvKernel`.

    Parameters: D (C, H), kernel.kernel (C, H, L), (2 C, H, L) if bidirectional, and
    output_linear.0.{weight, bias}.  Raises ValueError.

    Example:
        >>> import torch
        >>> y, _ = LongConv(4, l_max=32, lam=0.001)(torch.randn(2, 4, 32))
        >>> y.shape
        torch.Size([2, 4, 32])
    """

    def __init__(
        self,
        d_model,
        l_max=1024,
        channels=1,
        bidirectional=False,
        activation="gelu",
        postact="glu",
        initializer=None,
        weight_norm=False,
        dropout=0.0,
        tie_dropout=False,
        transposed=True,
        verbose=False,
        block_fft_conv=False,
        block_fft_conv_args=None,
        **kernel_args,
    ):
        super().__init__()
        if block_fft_conv:
            raise ValueError(f"block_fft_conv is {block_fft_conv!r}; it must be False")
        self.d_model, self.l_max = size(d_model, "d_model"), size(l_max, "l_max")
        self.channels = size(channels, "channels")
        self.bidirectional, self.transposed = bidirectional, transposed
        self.D = nn.Parameter(torch.randn(self.channels, self.d_model))
        self.kernel = LongConvKernel(
            self.d_model, self.l_max, self.channels * (2 if bidirectional else 1), **kernel_args
        )
        if bidirectional and not self.kernel.causal:
            raise ValueError("causal is False beside bidirectional; one of them must be as usual")
        self.activation = choice(activation, "activation", ACTIVATIONS)()
        self.dropout = (TiedDropout if tie_dropout else nn.Dropout)(dropout)
        if postact is None:
            self.output_linear = nn.Identity()
            return
        act = choice(postact, "postact", {"glu": nn.GLU, **ACTIVATIONS})()
        wide = self.d_model * (2 if postact == "glu" else 1)
        linear = nn.Linear(self.d_model * self.channels, wide)
        if initializer is not None:
            gain = postact if postact in ("relu", "tanh", "sigmoid") else "linear"
            choice(initializer, "initializer", _INITIALIZERS)(linear.weight, gain)
        if weight_norm:
            linear = nn.utils.parametrizations.weight_norm(linear)
        self.output_linear = nn.Sequential(linear, act)

    @property
    def d_state(self):
        """H."""
        return self.d_model

    @property
    def d_output(self):
        """The width of y, d_model."""
        return self.d_model

    def extra_repr(self):
        return f"{self.d_model}, {self.l_max}, channels={self.channels}"

    def forward(self, u, state=None, rate=1.0, lengths=None, **kwargs):
        """Return (y, None); y has u's shape, (B, H, L) if transposed, else (B, L, H).

        lengths: an int, or integers (B,) or (1,): later samples of u count as zero.
        state, rate and other keywords are ignored, as the original does.
        """
        u = cut(u.mT if self.transposed else u, lengths)
        k, _ = self.kernel()
        options, k_rev = {}, None
        if self.bidirectional:
            k, k_rev = k.chunk(2)
            k_rev = F.pad(k_rev, (1, 0))  # lag 0 is the other kernel's
        elif not self.kernel.causal:
            k, k_rev = k[..., : self.l_max], F.pad(k[..., self.l_max + 1 :].flip(-1), (1, 0))
        y = []
        for c in range(self.channels):
            if k_rev is not None:
                options = {"mode": "two_sided", "k_rev": k_rev[c]}
            y.append(conv(u, k[c], skip=self.D[c], layout="BLH", **options))
        y = self.dropout(self.activation(y[0] if len(y) == 1 else torch.cat(y, -1)))
        y = self.output_linear(y)
        return (y.mT if self.transposed else y), None
