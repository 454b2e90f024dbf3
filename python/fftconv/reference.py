"""The operation written out in NumPy float64: the oracle of the tests.

Nothing here calls the library.  Short rows are summed directly, long ones go
through numpy.fft; both are exact to about 1e-15.

    z = in_gate . u                        pre-gate
    p = z * k + skip . z                   convolution and skip
    y = out_gate . mask . act(p)           activation, mask, post-gate

u, gates and y are (B, H, L), k is (H, Lk), skip is (H,), mask is (B, H).
Fewer leading axes do as well: (H, L) with k (H, Lk), or (L,) with k (Lk,).
"""

import math

import numpy as np

from ._gradients import Gradients, sum_to_shape

# Rows with at most this many products L * Lk are summed directly.
DIRECT_PRODUCTS = 1 << 14


def linear_convolution(a, b):
    """Sum_s a[t - s] b[s] for t = 0 ... La + Lb - 2, along the last axis."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    length = a.shape[-1] + b.shape[-1] - 1
    if a.shape[-1] * b.shape[-1] > DIRECT_PRODUCTS:
        n = 1 << (length - 1).bit_length()
        product = np.fft.rfft(a, n) * np.fft.rfft(b, n)
        return np.fft.irfft(product, n)[..., :length]
    if a.shape[-1] < b.shape[-1]:
        a, b = b, a
    rows = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    out = np.zeros(rows + (length,))
    for s in range(b.shape[-1]):
        out[..., s:s + a.shape[-1]] += b[..., s:s + 1] * a
    return out


def correlation(g, x):
    """c[tau] = sum_t g[t] x[t - tau], and the tau of its first entry."""
    x = np.asarray(x, np.float64)
    return linear_convolution(g, x[..., ::-1]), 1 - x.shape[-1]


def fold(full, first, length, n=None):
    """Entries 0 ... length - 1 of a sequence that starts at index `first`.

    With n, indices that agree modulo n are added: a linear convolution becomes
    a circular one.
    """
    if n is None:
        out = np.zeros(full.shape[:-1] + (length,))
        low, high = max(first, 0), min(first + full.shape[-1], length)
        if low < high:
            out[..., low:high] = full[..., low - first:high - first]
        return out
    start = first % n
    blocks = -(-(start + full.shape[-1]) // n)
    padded = np.zeros(full.shape[:-1] + (blocks * n,))
    padded[..., start:start + full.shape[-1]] = full
    return padded.reshape(full.shape[:-1] + (blocks, n)).sum(-2)[..., :length]


def _normal_cdf(p):
    """Phi(p) = (1 + erf(p / sqrt 2)) / 2; erfc keeps the lower tail exact."""
    erfc = np.frompyfunc(math.erfc, 1, 1)
    return 0.5 * erfc(-p / math.sqrt(2)).astype(np.float64)


def _sigmoid(p):
    e = np.exp(-np.abs(p))
    return np.where(p >= 0, 1, e) / (1 + e)


def _gelu_derivative(p):
    """(p Phi(p))' = Phi(p) + p phi(p), phi the normal density."""
    return _normal_cdf(p) + p * np.exp(-p * p / 2) / math.sqrt(2 * math.pi)


def _silu_derivative(p):
    """(p s(p))' = s + p s (1 - s), s the logistic function."""
    s = _sigmoid(p)
    return s + p * s * (1 - s)


# name: (act, its derivative)
ACTIVATIONS = {
    None: (lambda p: p, np.ones_like),
    "gelu": (lambda p: p * _normal_cdf(p), _gelu_derivative),
    "silu": (lambda p: p * _sigmoid(p), _silu_derivative),
}


def _float64(x):
    return None if x is None else np.asarray(x).astype(np.float64)


def _modulus(u, k, mode, fft_size):
    """The circular convolution's N; None when causal."""
    if mode == "causal":
        if fft_size is not None:
            raise ValueError("fft_size is for mode='circular' only")
        return None
    if mode != "circular":
        raise ValueError(f"mode is {mode!r}; allowed: 'causal', 'circular'")
    n = u.shape[-1] if fft_size is None else fft_size
    if u.shape[-1] > n or k.shape[-1] > n:
        raise ValueError(f"fft_size is {n}; it must be at least the length of "
                         f"u ({u.shape[-1]}) and of k ({k.shape[-1]})")
    return n


def conv(u, k, in_gate=None, out_gate=None, *, mode="causal", fft_size=None,
         skip=None, activation=None, mask=None):
    """y as in the module's docstring; float64, of u's shape."""
    u, k, w, v, d, m = map(_float64, (u, k, in_gate, out_gate, skip, mask))
    n = _modulus(u, k, mode, fft_size)
    z = u if w is None else w * u
    p = fold(linear_convolution(z, k), 0, u.shape[-1], n)
    if d is not None:
        p = p + d[..., None] * z
    y = ACTIVATIONS[activation][0](p)
    if m is not None:
        y = m[..., None] * y
    return y if v is None else v * y


def conv_backward(dy, u, k, in_gate=None, out_gate=None, *, mode="causal",
                  fft_size=None, skip=None, activation=None, mask=None):
    """Gradients of sum(dy * conv(u, k, ...)); float64, by closed formulas.

    With g = dL/dp = act'(p) . mask . out_gate . dy:

        dz[t]     = sum_s k[s] g[t + s] + skip g[t]
        du        = in_gate . dz            din_gate = u . dz
        dk[s]     = sum_{b,t} g[t] z[t - s] dskip = sum_{b,t} g[t] z[t]
        dout_gate = dy . mask . act(p)

    indices modulo fft_size when circular.
    """
    dy, u, k, w, v, d, m = map(
        _float64, (dy, u, k, in_gate, out_gate, skip, mask))
    n = _modulus(u, k, mode, fft_size)
    length = u.shape[-1]
    act, derivative = ACTIVATIONS[activation]

    z = u if w is None else w * u
    p = fold(linear_convolution(z, k), 0, length, n)
    if d is not None:
        p = p + d[..., None] * z

    masked = dy if m is None else m[..., None] * dy
    g = masked if v is None else v * masked
    g = derivative(p) * g

    dz = fold(*correlation(g, k), length, n)
    if d is not None:
        dz = dz + d[..., None] * g
    return Gradients(
        du=dz if w is None else w * dz,
        dk=sum_to_shape(fold(*correlation(g, z), k.shape[-1], n), k.shape),
        din_gate=None if w is None else sum_to_shape(u * dz, w.shape),
        dout_gate=None if v is None else sum_to_shape(masked * act(p),
                                                      v.shape),
        dskip=None if d is None else sum_to_shape((g * z).sum(-1), d.shape))
