"""The operations in plain float64 NumPy: the reference results that the tests compare with.

Nothing here calls the C library.  Short rows are summed directly and long rows go through
numpy.fft; the relative error of both is about 1e-15.

    z = in_gate . u                        pre-gate
    p = z * k + skip . z                   convolution and skip
    y = out_gate . mask . act(p)           activation, mask, post-gate

u, the gates and y are (B, H, L), (H, L) or (L,); the gates may broadcast to u.  k is (Lk,),
(G, Lk), (1, G, Lk) or (B, G, Lk), where G divides H: channel h uses kernel h // (H // G).
skip is (H,) and mask is (B, H).  Without an activation, all of these but the mask may be
complex.
"""

import math

import numpy as np

from ._gradients import Gradients, sum_to_shape

__all__ = [
    "conv",
    "conv_backward",
    "conv_heads",
    "correlation",
    "depthwise_conv1d",
    "fold",
    "linear_convolution",
]

# Rows with at most this many products L * Lk are summed directly.
DIRECT_PRODUCTS = 1 << 14


def _wide(x):
    """Return x in float64, or in complex128 if it is complex; None stays None."""
    if x is None:
        return None
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def linear_convolution(a, b):
    """Return sum_s a[t - s] b[s] for t = 0 ... La + Lb - 2, along the last axis.

    Example:
        >>> linear_convolution([1, 2, 3], [1, 1]).tolist()
        [1.0, 3.0, 5.0, 3.0]
    """
    a, b = _wide(a), _wide(b)
    length = a.shape[-1] + b.shape[-1] - 1
    if a.shape[-1] * b.shape[-1] > DIRECT_PRODUCTS:
        n = 1 << (length - 1).bit_length()
        if np.iscomplexobj(a) or np.iscomplexobj(b):
            product = np.fft.ifft(np.fft.fft(a, n) * np.fft.fft(b, n))
        else:
            product = np.fft.irfft(np.fft.rfft(a, n) * np.fft.rfft(b, n), n)
        return product[..., :length]
    if a.shape[-1] < b.shape[-1]:
        a, b = b, a
    rows = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    out = np.zeros(rows + (length,), np.result_type(a, b))
    for s in range(b.shape[-1]):
        out[..., s : s + a.shape[-1]] += b[..., s : s + 1] * a
    return out


def correlation(g, x):
    """Return c[tau] = sum_t g[t] x[t - tau], and the tau of its first entry.

    Example:
        >>> c, first = correlation([1, 1, 1], [1, 2])
        >>> c.tolist(), first
        ([2.0, 3.0, 3.0, 1.0], -1)
    """
    x = np.asarray(x)
    return linear_convolution(g, x[..., ::-1]), 1 - x.shape[-1]


def fold(full, first, length, n=None):
    """Return entries 0 ... length - 1 of a sequence `full` that starts at index `first`.

    With n, entries whose indices are equal modulo n are added, which turns a linear convolution
    into a circular one.

    Example:
        >>> fold(np.array([1, 3, 5, 3]), 0, 3, n=3).tolist()
        [4, 3, 5]
    """
    if n is None:
        out = np.zeros(full.shape[:-1] + (length,), full.dtype)
        low, high = max(first, 0), min(first + full.shape[-1], length)
        if low < high:
            out[..., low:high] = full[..., low - first : high - first]
        return out
    start = first % n
    blocks = -(-(start + full.shape[-1]) // n)
    padded = np.zeros(full.shape[:-1] + (blocks * n,), full.dtype)
    padded[..., start : start + full.shape[-1]] = full
    return padded.reshape(full.shape[:-1] + (blocks, n)).sum(-2)[..., :length]


def _normal_cdf(p):
    """Return Phi(p) = (1 + erf(p / sqrt 2)) / 2, by erfc, which keeps the lower tail accurate."""
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return 0.5 * erfc(-p / math.sqrt(2)).astype(np.float64)


def _sigmoid(p):
    e = np.exp(-np.abs(p))
    return np.where(p >= 0, 1, e) / (1 + e)


def _gelu_derivative(p):
    """Return (p Phi(p))' = Phi(p) + p phi(p), where phi is the normal density."""
    return _normal_cdf(p) + p * np.exp(-p * p / 2) / math.sqrt(2 * math.pi)


def _silu_derivative(p):
    """Return (p s(p))' = s + p s (1 - s), where s is the logistic function."""
    s = _sigmoid(p)
    return s + p * s * (1 - s)


# Name of an activation: (the function, its derivative).
ACTIVATIONS = {
    None: (lambda p: p, np.ones_like),
    "gelu": (lambda p: p * _normal_cdf(p), _gelu_derivative),
    "silu": (lambda p: p * _sigmoid(p), _silu_derivative),
}


def _modulus(u, k, mode, fft_size):
    """Return the modulus N of a circular convolution; None in the linear modes."""
    if mode in ("causal", "two_sided"):
        if fft_size is not None:
            raise ValueError("fft_size is for mode='circular' only")
        return None
    if mode != "circular":
        raise ValueError(f"mode is {mode!r}; allowed: 'causal', 'circular', 'two_sided'")
    n = u.shape[-1] if fft_size is None else fft_size
    if u.shape[-1] > n or k.shape[-1] > n:
        raise ValueError(
            f"fft_size is {n}; it must be at least the length of "
            f"u ({u.shape[-1]}) and of k ({k.shape[-1]})"
        )
    return n


def _full_mask(pattern, n):
    """Return a boolean array (n,) of the FFT bins kept by a Pattern or by a mask of rfft bins."""
    if hasattr(pattern, "mask"):
        return pattern.mask(n)
    m = np.arange(n)
    return np.asarray(pattern)[np.minimum(m, n - m)]


class _Operation:
    """The operands with three axes in 64 bits, and the convolutions of z and k.

    u, z: (B, H, L).  w, v: in_gate and out_gate, broadcast to (B, H, L).
    k, r: k and k_rev, repeated to (1 or B, H, Lk).  d, m: skip and mask, with an axis for L.
    n: the modulus of a circular convolution, else None.
    keep: the FFT bins that a pattern keeps, or None.
    given: the operands in their original shapes.
    """

    def __init__(
        self, u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, activation, mask
    ):
        u, k, w, v, r, d, m = map(_wide, (u, k, in_gate, out_gate, k_rev, skip, mask))
        self.n = _modulus(u, k, mode, fft_size)
        if (r is None) == (mode == "two_sided"):
            raise ValueError("k_rev is for mode='two_sided', and needed there")
        self.keep = None
        operands = [x for x in (u, k, w, v, r, d) if x is not None]
        if any(map(np.iscomplexobj, operands)):
            if activation is not None or pattern is not None:
                raise ValueError("activation and pattern are for real operands")
        if pattern is not None:
            if mode != "circular":
                raise ValueError("pattern is for mode='circular' only")
            self.keep = _full_mask(pattern, self.n)
        self.shape = u.shape
        self.u = u.reshape((1,) * (3 - u.ndim) + u.shape)
        self.given = {"k": k, "k_rev": r, "in_gate": w, "out_gate": v, "skip": d}
        self.w, self.v = (
            1.0 if x is None else np.broadcast_to(x, u.shape).reshape(self.u.shape) for x in (w, v)
        )
        self.d = None if d is None else d[..., None]
        self.m = 1.0 if m is None else m[..., None]
        self.k, self.r = (None if x is None else self.spread(x) for x in (k, r))
        self.z = self.w * self.u
        self.act, self.derivative = ACTIVATIONS[activation]

    def spread(self, k):
        k = k.reshape((1,) * (3 - k.ndim) + k.shape)
        return np.repeat(k, self.u.shape[1] // k.shape[1], axis=1)

    def gather(self, dk, k):
        """Return the gradient of k, given the gradient dk (B, H, Lk) of the kernel of each row."""
        batch, channels, taps = dk.shape
        shape = (1,) * (3 - k.ndim) + k.shape
        dk = dk.reshape(batch, shape[1], channels // shape[1], taps).sum(2)
        return sum_to_shape(dk, shape).reshape(k.shape)

    def convolved(self):
        """Return p = z * k + skip . z."""
        z, n, length = self.z, self.n, self.u.shape[-1]
        if self.keep is not None:  # Re IDFT(DFT(z) . mask . DFT(k))
            p = np.fft.ifft(np.fft.fft(z, n) * self.keep * np.fft.fft(self.k, n)).real[..., :length]
        else:
            p = fold(linear_convolution(z, self.k), 0, length, n)
        if self.r is not None:
            p = p + fold(*correlation(z, self.r), length)
        return p if self.d is None else p + self.d * z

    def dz(self, g):
        """Return the gradient of z from that of p: the adjoint of z -> z * k + skip . z."""
        n, length = self.n, self.u.shape[-1]
        if self.keep is not None:
            dz = np.fft.ifft(np.fft.fft(g, n) * np.conj(self.keep * np.fft.fft(self.k, n))).real[
                ..., :length
            ]
        else:
            dz = fold(*correlation(g, np.conj(self.k)), length, n)
        if self.r is not None:
            dz = dz + fold(linear_convolution(g, np.conj(self.r)), 0, length)
        return dz if self.d is None else dz + np.conj(self.d) * g

    def dk(self, g):
        """Return the gradient (B, H, Lk) of the kernel of each row from that of p."""
        taps, z = self.k.shape[-1], np.conj(self.z)
        if self.keep is not None:
            return np.fft.ifft(
                np.fft.fft(g, self.n) * np.conj(self.keep * np.fft.fft(self.z, self.n))
            ).real[..., :taps]
        return fold(*correlation(g, z), taps, self.n)

    def gradient(self, name, x):
        """Return x as the gradient of the operand `name`: in its shape, real if it is real."""
        of = self.given[name]
        x = x if np.iscomplexobj(of) else x.real
        if name in ("k", "k_rev"):
            return self.gather(x, of)
        if name == "skip":
            return sum_to_shape(x, of.shape)
        return sum_to_shape(x.reshape(self.shape), of.shape)


def conv(
    u,
    k,
    in_gate=None,
    out_gate=None,
    *,
    mode="causal",
    fft_size=None,
    k_rev=None,
    pattern=None,
    skip=None,
    activation=None,
    mask=None,
):
    """Return y of the module's equations, float64 or complex128, in u's shape.

    The convolution z * k depends on mode:

    causal:     sum_{s<=t} k[s] z[t-s]
    circular:   the same with t - s modulo fft_size, by default L
    two_sided:  the causal sum plus sum_s k_rev[s] z[t+s]; lag 0 counts in both

    pattern, for circular only: z * k is Re IDFT(DFT(z) . mask . DFT(k)), where mask is
    pattern.mask(fft_size).  An array of booleans in place of a Pattern says which rfft bins are
    kept; their mirror images are kept too.

    Raises ValueError.

    Example:
        >>> conv([[[1, 2, 3]]], [[1, 1]]).tolist()
        [[[1.0, 3.0, 5.0]]]
    """
    c = _Operation(u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, activation, mask)
    return (c.v * (c.m * c.act(c.convolved()))).reshape(c.shape)


def conv_backward(
    dy,
    u,
    k,
    in_gate=None,
    out_gate=None,
    *,
    mode="causal",
    fft_size=None,
    k_rev=None,
    pattern=None,
    skip=None,
    activation=None,
    mask=None,
):
    """Return the `Gradients` of sum(dy . conv(u, k, ...)) in 64 bits, by closed formulas.

    With g = act'(p) . mask . out_gate . dy, the gradient of p:

        dz[t]     = sum_s k[s] g[t + s] + sum_s k_rev[s] g[t - s] + skip g[t]
        du        = in_gate . dz            din_gate = u . dz
        dk[s]     = sum g[t] z[t - s]       dk_rev[s] = sum g[t] z[t + s]
        dskip     = sum g[t] z[t]           dout_gate = dy . mask . act(p)

    In circular mode, indices are modulo fft_size.  Sums are over t and over all rows that share
    the operand.  With a pattern, dz = Re IDFT(DFT(g) . conj(mask . DFT(k))), and dk likewise.
    With complex operands, the factors that multiply g, dz and dy above are conjugated, and the
    gradient of a real operand is the real part.

    Example:
        >>> g = conv_backward([[[1, 1, 1]]], [[[1, 2, 3]]], [[1, 1]])
        >>> g.du.tolist(), g.dk.tolist()
        ([[[2.0, 2.0, 1.0]]], [[6.0, 3.0]])
    """
    c = _Operation(u, k, in_gate, out_gate, mode, fft_size, k_rev, pattern, skip, activation, mask)
    dy = _wide(dy).reshape(c.u.shape)
    p = c.convolved()
    masked = np.conj(c.m) * dy
    g = c.derivative(p) * (np.conj(c.v) * masked)
    dz = c.dz(g)
    every = {
        "in_gate": lambda: np.conj(c.u) * dz,
        "out_gate": lambda: masked * np.conj(c.act(p)),
        "skip": lambda: (g * np.conj(c.z)).sum(-1),
        "k": lambda: c.dk(g),
        "k_rev": lambda: fold(*correlation(np.conj(c.z), g), c.r.shape[-1]),
    }
    du = np.conj(c.w) * dz
    return Gradients(
        du=(du if np.iscomplexobj(u) else du.real).reshape(c.shape),
        **{
            "d" + name: c.gradient(name, gradient())
            for name, gradient in every.items()
            if c.given[name] is not None
        },
    )


def _in_groups(x, head_dim):
    """Reshape x (B, H, L) to (B, G, head_dim, L)."""
    batch, channels, length = x.shape
    return x.reshape(batch, channels // head_dim, head_dim, length)


def conv_heads(
    u,
    v,
    q,
    k,
    head_dim,
    *,
    k_rev=None,
    skip=None,
    activation=None,
    mask=None,
    gelu_u=False,
    gelu_q=False,
    dy=None,
):
    """Return y (B, H, L) of hyena-dna's fftconv, for each pair (i, j) of a group's channels.

        z_ij = u_i . v_j,   y_j = sum_i q_i . mask[b, g] . act(z_ij * k_g + D_g z_ij)

    If dy is given, return {name: gradient of sum(dy . y)} instead.

    u, v, q: (B, H, L); v and q may be None if head_dim is 1.  k, k_rev: (H / head_dim, Lk).
    skip: D, (H / head_dim,).  mask: (B, H / head_dim).
    gelu_u, gelu_q: replace u by GELU(u), q by GELU(q).

    Example:
        >>> u, v, q = np.ones((3, 1, 2, 4))
        >>> conv_heads(u, v, q, np.ones((1, 4)), head_dim=2)[0, 0].tolist()
        [2.0, 4.0, 6.0, 8.0]
    """
    gelu, slope = ACTIVATIONS["gelu"]
    given = {"u": _wide(u), "v": _wide(v), "q": _wide(q)}
    rows = {
        name: None
        if x is None
        else _in_groups(
            gelu(x) if (name == "u" and gelu_u) or (name == "q" and gelu_q) else x, head_dim
        )
        for name, x in given.items()
    }
    y = np.zeros(rows["u"].shape)
    total = {name: np.zeros(x.shape) for name, x in rows.items() if x is not None}
    total.update(
        {
            name: np.zeros(np.shape(x))
            for name, x in (("k", k), ("k_rev", k_rev), ("skip", skip))
            if x is not None
        }
    )
    options = dict(
        mode="causal" if k_rev is None else "two_sided",
        k_rev=k_rev,
        skip=skip,
        activation=activation,
        mask=mask,
    )
    for i in range(head_dim):
        for j in range(head_dim):
            arguments = (
                rows["u"][:, :, i],
                k,
                None if v is None else rows["v"][:, :, j],
                None if q is None else rows["q"][:, :, i],
            )
            if dy is None:
                y[:, :, j] += conv(*arguments, **options)
                continue
            g = conv_backward(_in_groups(_wide(dy), head_dim)[:, :, j], *arguments, **options)
            total["u"][:, :, i] += g.du
            total["k"] += g.dk
            for name, of, channel, x in (("v", v, j, g.din_gate), ("q", q, i, g.dout_gate)):
                if of is not None:
                    total[name][:, :, channel] += x
            for name, of, x in (("k_rev", k_rev, g.dk_rev), ("skip", skip, g.dskip)):
                if of is not None:
                    total[name] += x
    if dy is None:
        return y.reshape(np.shape(u))
    for name in ("u", "v", "q"):
        if given[name] is not None:
            total[name] = total[name].reshape(given[name].shape)
    for name, wanted in ("u", gelu_u), ("q", gelu_q):
        if wanted:
            total[name] *= slope(given[name])
    return total


def depthwise_conv1d(x, weight, bias=None, *, padding=(0, 0), activation=None, state=None, dy=None):
    """Return the short depthwise convolution y (B, D, L + before + after - K + 1) of x.

        y[l] = act(bias + sum_k weight[k] x[l - before + k])

    If dy is given, return {name: gradient of sum(dy . y)} instead.

    x: (B, D, L); it counts as zero outside its samples.  weight: (D, K).  bias: (D,).
    padding: (before, after).
    state: the K - 1 samples before x, used in place of the `before` zeros.

    Example:
        >>> depthwise_conv1d(np.array([[[1, 2, 3]]]), [[1, 1]], padding=(1, 0)).tolist()
        [[[1.0, 3.0, 5.0]]]
    """
    x, w = _wide(x), _wide(weight)
    batch, channels, length = x.shape
    before, after = padding
    start = np.zeros((batch, channels, before)) if state is None else _wide(state)
    before = start.shape[-1]
    padded = np.concatenate([start, x, np.zeros((batch, channels, after))], axis=2)
    taps = w.shape[1]
    n = padded.shape[2] - taps + 1
    p = np.zeros((batch, channels, n))
    if bias is not None:
        p += _wide(bias)[:, None]
    for k in range(taps):
        p += w[:, k : k + 1] * padded[:, :, k : k + n]
    act, derivative = ACTIVATIONS[activation]
    if dy is None:
        return act(p)
    g = _wide(dy) * derivative(p)
    dpadded = np.zeros(padded.shape)
    dw = np.zeros(w.shape)
    for k in range(taps):
        dpadded[:, :, k : k + n] += w[:, k : k + 1] * g
        dw[:, k] = (g * padded[:, :, k : k + n]).sum((0, 2))
    found = {
        "x": dpadded[:, :, before : before + length],
        "weight": dw,
        "bias": g.sum((0, 2)),
        "state": dpadded[:, :, :before],
    }
    return {
        name: found[name]
        for name, of in (("x", x), ("weight", w), ("bias", bias), ("state", state))
        if of is not None
    }
