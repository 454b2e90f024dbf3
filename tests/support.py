"""What the tests share: data, the oracle's answer, and the error of each row.

Every check compares with `fftconv.reference` (NumPy float64) row by row:

    error = |y - reference| / max(|reference|, |k| |z|),   2-norms of one row

so a quiet row beside a loud one is held to its own size.  16-bit results are
held closer: to what rounding the exact result costs, plus the error of the
float32 arithmetic.
"""

import numpy as np
import pytest

import fftconv
from fftconv import reference
from fftconv._array import KERNEL_DTYPES, numpy_dtype

DTYPES = ("float64", "float32", "float16", "bfloat16")
ACTIVATIONS = (None, "gelu", "silu")

# Forward, rows of 64 samples or more, the rounding of y included.  Backward is
# held to twice of it.
TOLERANCE = {"float64": 1e-13, "float32": 5e-7, "float16": 3e-4,
             "bfloat16": 2e-3}

slow = pytest.mark.slow
big = pytest.mark.big


def tolerance(dtype, length):
    """A short row has no average: its worst rounding is twice the usual."""
    return TOLERANCE[dtype] * (1 if length >= 64 else 2)


def normal(rng, shape, dtype, scale=1.0):
    """Normal numbers of the given dtype."""
    return (scale * rng.standard_normal(shape)).astype(numpy_dtype(dtype))


class Case:
    """Random operands of one call, O(1): |k| is about 1 for each channel.

    options: any of "in_gate", "out_gate", "skip", "mask".
    """

    def __init__(self, batch, channels, length, taps, dtype="float32", *,
                 options=(), activation=None, mode="causal", fft_size=None,
                 k_dtype=None, seed=0):
        rng = np.random.default_rng([seed, batch, channels, length, taps])
        k_dtype = k_dtype or dtype
        rows = (batch, channels, length)
        self.dtype, self.k_dtype = dtype, k_dtype
        self.u = normal(rng, rows, dtype)
        self.k = normal(rng, (channels, taps), k_dtype, taps ** -0.5)
        self.dy = normal(rng, rows, dtype)
        shapes = {"in_gate": (rows, dtype), "out_gate": (rows, dtype),
                  "skip": ((channels,), k_dtype),
                  "mask": ((batch, channels), k_dtype)}
        every = {name: normal(rng, shape, of)
                 for name, (shape, of) in shapes.items()}
        self.operands = {name: every[name] for name in options}
        self.mode = {"mode": mode, "fft_size": fft_size}
        self.activation = activation

    def __repr__(self):
        return (f"Case({self.u.shape}, {self.k.shape}, {self.dtype}, "
                f"k {self.k_dtype}, {self.mode}, {self.activation}, "
                f"{sorted(self.operands)})")

    @property
    def arguments(self):
        """Keywords of conv, conv_backward and of the reference alike."""
        return {**self.operands, **self.mode, "activation": self.activation}

    @property
    def plan_arguments(self):
        """Keywords of a plan's calls."""
        return {**self.operands, "activation": self.activation}

    def plan(self, **choices):
        return fftconv.Plan(self.u.shape, self.k.shape, dtype=self.dtype,
                            **self.mode, **choices)

    def wide(self, name):
        """An operand in float64; 1 where it is absent."""
        x = self.operands.get(name)
        return 1.0 if x is None else x.astype(np.float64)


def norm(x, axis=-1):
    return np.sqrt(np.sum(np.square(x.astype(np.float64)), axis=axis))


def check_rows(name, got, want, scale, length, factor=1):
    """Each row's error is at most its type's tolerance times `factor`.

    scale is |k| |z| of each row, length what `tolerance` goes by.  In 16 bits
    a result that is nearest to x + e, x exact, is off by at most what the one
    nearest to x is, and 2 |e|.
    """
    assert got.shape == want.shape, f"{name}: {got.shape}, not {want.shape}"
    assert np.isfinite(got.astype(np.float32)).all(), f"{name}: not finite"
    size = np.maximum(norm(want), scale)
    size = np.where(size > 0, size, 1)
    error = norm(got.astype(np.float64) - want) / size
    if got.dtype.itemsize == 2:
        rounded = want.astype(got.dtype).astype(np.float64)
        limit = (norm(rounded - want) / size
                 + 2 * factor * tolerance("float32", length))
    else:
        limit = np.broadcast_to(factor * tolerance(got.dtype.name, length),
                                error.shape)
    worst = np.unravel_index(np.argmax(error - limit), error.shape)
    assert error[worst] <= limit[worst], (
        f"{name}: error {error[worst]:.3g} in row {worst}, allowed "
        f"{limit[worst]:.3g}")


def check_forward(case, y, want=None):
    """y against the oracle."""
    if want is None:
        want = reference.conv(case.u, case.k, **case.arguments)
    z = case.u.astype(np.float64) * case.wide("in_gate")
    assert y.dtype == case.u.dtype
    check_rows(f"y of {case}", y, want, norm(case.k) * norm(z),
               case.u.shape[-1])


def check_gradients(case, got, want=None, needs=None):
    """Gradients against the oracle; what is not in `needs` must be None."""
    if want is None:
        want = reference.conv_backward(case.dy, case.u, case.k,
                                       **case.arguments)
    k, u = norm(case.k), case.u.astype(np.float64)
    z = u * case.wide("in_gate")
    mask = case.wide("mask")
    g = (case.dy.astype(np.float64) * case.wide("out_gate")
         * (mask if np.isscalar(mask) else mask[..., None]))
    # Cauchy-Schwarz over the batch for what is summed over it.
    summed = norm(norm(g).T) * norm(norm(z).T)
    scales = {"du": k * norm(g), "dk": summed, "din_gate": k * norm(g),
              "dout_gate": k * norm(z), "dskip": summed}
    for name, reference_gradient in want._asdict().items():
        x = getattr(got, name)
        if reference_gradient is None or (needs is not None
                                          and name[1:] not in needs):
            assert x is None, f"{name} was not asked for"
            continue
        of = case.k if name == "dk" else case.operands.get(name[1:], case.u)
        assert x.dtype == of.dtype and x.shape == of.shape
        length = want.dk.shape[-1] if name == "dk" else case.u.shape[-1]
        if name == "dskip":
            x, reference_gradient = x[:, None], reference_gradient[:, None]
            length = 1
        check_rows(f"{name} of {case}", x, reference_gradient, scales[name],
                   length, factor=2)


def same_bits(a, b):
    """Equal to the last bit; NaN equals NaN of the same bits."""
    return (a.dtype == b.dtype and a.shape == b.shape
            and a.tobytes() == b.tobytes())


def k_dtypes():
    """(dtype of u, dtype of k), all that are allowed."""
    return [(d, k) for d in DTYPES for k in KERNEL_DTYPES[d]]
