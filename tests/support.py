"""Random operands for the tests, and their comparison with the oracle row by row.

Every check compares with `fftconv.reference` (float64 NumPy):

    error = |y - reference| / max(|reference|, |k| |z|),   2-norms of one row

so that a row of small numbers is judged by its own size even next to a row of large ones.  A
16-bit result may differ from the oracle by the rounding of the exact result to its type plus
the error of the float32 arithmetic, which is a closer limit.
"""

import fftconv
import ml_dtypes  # noqa: F401  makes np.dtype("bfloat16") known
import numpy as np
import pytest
from fftconv import reference

DTYPES = ("float64", "float32", "float16", "bfloat16")
COMPLEX = ("complex128", "complex64")
ACTIVATIONS = (None, "gelu", "silu")

# For each type of u: the types of kernel, skip and mask with which the result has u's type.
KERNEL_DTYPES = {
    "float64": ("float64",),
    "float32": ("float32",),
    "float16": ("float16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
}

# The largest error of a forward result with rows of 64 samples or more, the rounding of y
# included.  Gradients may have twice this error.
TOLERANCE = {
    "float64": 1e-13,
    "float32": 5e-7,
    "float16": 3e-4,
    "bfloat16": 2e-3,
    "complex128": 1e-13,
    "complex64": 5e-7,
}

slow = pytest.mark.slow
big = pytest.mark.big


def tolerance(dtype, length):
    """The largest error of a row of `length` samples.

    It is twice TOLERANCE below 64 samples, since rounding errors average less over short rows.
    """
    return TOLERANCE[dtype] * (1 if length >= 64 else 2)


def normal(rng, shape, dtype, scale=1.0):
    """Normal numbers of the given dtype, of mean square scale^2."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        x = rng.standard_normal((2, *shape)) / np.sqrt(2)
        return (scale * (x[0] + 1j * x[1])).astype(dtype)
    return (scale * rng.standard_normal(shape)).astype(dtype)


def wide(x):
    """x in float64, or complex128 if it is complex."""
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


class Case:
    """Random operands of one call.  They are O(1), and |k| is about 1 for each channel.

    options: the optional operands, out of "in_gate", "out_gate", "skip" and "mask".
    kernels: k's shape without its last axis; None means (channels,).
    reverse: the length of k_rev; None means `taps` in mode "two_sided", else no k_rev.
    """

    def __init__(
        self,
        batch,
        channels,
        length,
        taps,
        dtype="float32",
        *,
        options=(),
        activation=None,
        mode="causal",
        fft_size=None,
        reverse=None,
        pattern=None,
        kernels=None,
        k_dtype=None,
        seed=0,
    ):
        rng = np.random.default_rng([seed, batch, channels, length, taps])
        k_dtype = k_dtype or dtype
        rows = (batch, channels, length)
        kernels = (channels,) if kernels is None else tuple(kernels)
        if mode == "two_sided":
            reverse = reverse or taps
        self.dtype, self.k_dtype = dtype, k_dtype
        self.u = normal(rng, rows, dtype)
        scale = (taps + (reverse or 0)) ** -0.5
        self.k = normal(rng, kernels + (taps,), k_dtype, scale)
        self.dy = normal(rng, rows, dtype)
        real = {"complex128": "float64", "complex64": "float32"}
        shapes = {
            "in_gate": (rows, dtype),
            "out_gate": (rows, dtype),
            "skip": ((channels,), k_dtype),
            "mask": ((batch, channels), real.get(k_dtype, k_dtype)),
        }
        every = {name: normal(rng, shape, of) for name, (shape, of) in shapes.items()}
        self.operands = {name: every[name] for name in options}
        self.mode = {"mode": mode, "fft_size": fft_size}
        self.pattern = pattern
        self.k_rev = None if reverse is None else normal(rng, kernels + (reverse,), k_dtype, scale)
        self.activation = activation

    def __repr__(self):
        reverse = "" if self.k_rev is None else f"k_rev {self.k_rev.shape}, "
        pattern = "" if self.pattern is None else f"{self.pattern}, "
        return (
            f"Case({self.u.shape}, {self.k.shape}, {self.dtype}, "
            f"k {self.k_dtype}, {reverse}{pattern}{self.mode}, "
            f"{self.activation}, {sorted(self.operands)})"
        )

    @property
    def arguments(self):
        """The keywords of conv and conv_backward, both the library's and the reference's."""
        return {
            **self.operands,
            **self.mode,
            "k_rev": self.k_rev,
            "pattern": self.pattern,
            "activation": self.activation,
        }

    @property
    def plan_arguments(self):
        """The keywords of a plan's calls that take a spectrum."""
        return {**self.operands, "activation": self.activation}

    @property
    def kernel_arguments(self):
        """The keywords of a plan's calls that take the kernel itself."""
        return {**self.plan_arguments, "k_rev": self.k_rev}

    def plan(self, **choices):
        reverse = None if self.k_rev is None else self.k_rev.shape[-1]
        return fftconv.Plan(
            self.u.shape,
            self.k.shape,
            **{
                "dtype": self.dtype,
                **self.mode,
                "k_rev_length": reverse,
                "pattern": self.pattern,
                **choices,
            },
        )

    def wide(self, name):
        """An optional operand in float64 or complex128; 1.0 if this case does not have it."""
        x = self.operands.get(name)
        return 1.0 if x is None else wide(x)

    def kernel_norms(self):
        """|k| for each row, with k_rev included: (1 or B, H)."""
        square = norm(self.k) ** 2
        if self.k_rev is not None:
            square = square + norm(self.k_rev) ** 2
        square = np.atleast_1d(square)
        square = square.reshape((-1, square.shape[-1]))
        return np.sqrt(np.repeat(square, self.u.shape[1] // square.shape[1], axis=1))

    def shared(self, rows):
        """Sums of `rows` (B, H) over the rows that share a kernel: shape k.shape[:-1]."""
        batch, groups = ((1, 1) + self.k.shape[:-1])[-2:]
        rows = rows.reshape(rows.shape[0], groups, -1).sum(2)
        return (rows if batch > 1 else rows.sum(0)).reshape(self.k.shape[:-1])


def norm(x, axis=-1):
    return np.sqrt(np.sum(np.square(np.abs(wide(x))), axis=axis))


def check_rows(name, got, want, scale, length, factor=1):
    """Assert that the error of each row is at most `factor` times the tolerance of its type.

    got and want are (..., L).  scale is |k| |z| of each row, and `length` is the argument of
    `tolerance`.

    A 16-bit result is the rounding of x + e, where x is exact and e is the error of the
    float32 arithmetic.  It differs from x by at most the rounding error of x plus 2 |e|.
    """
    assert got.shape == want.shape, f"{name}: {got.shape}, not {want.shape}"
    assert np.isfinite(wide(got)).all(), f"{name}: not finite"
    if got.ndim == 1:
        got, want = got[None], want[None]
    size = np.maximum(norm(want), scale)
    size = np.where(size > 0, size, 1)
    error = norm(wide(got) - want) / size
    if got.dtype.itemsize == 2:
        rounded = want.astype(got.dtype).astype(np.float64)
        limit = norm(rounded - want) / size + 2 * factor * tolerance("float32", length)
    else:
        limit = np.broadcast_to(factor * tolerance(got.dtype.name, length), error.shape)
    worst = np.unravel_index(np.argmax(error - limit), error.shape)
    assert error[worst] <= limit[worst], (
        f"{name}: error {error[worst]:.3g} in row {worst}, allowed {limit[worst]:.3g}"
    )


def check_forward(case, y, want=None):
    """Check y against `want`, by default the oracle's result."""
    if want is None:
        want = reference.conv(case.u, case.k, **case.arguments)
    z = wide(case.u) * case.wide("in_gate")
    operands = (case.u, case.k, case.k_rev, *case.operands.values())
    if not any(map(np.iscomplexobj, operands)):
        assert y.dtype == case.u.dtype
    check_rows(f"y of {case}", y, want, case.kernel_norms() * norm(z), case.u.shape[-1])


def check_gradients(case, got, want=None, needs=None):
    """Check gradients against `want`, by default the oracle's; others than `needs` must be None."""
    if want is None:
        want = reference.conv_backward(case.dy, case.u, case.k, **case.arguments)
    k, z = case.kernel_norms(), wide(case.u) * case.wide("in_gate")
    mask = case.wide("mask")
    g = wide(case.dy) * case.wide("out_gate") * (mask if np.isscalar(mask) else mask[..., None])
    # The scale of a sum over rows, by the Cauchy-Schwarz inequality.
    g, z = norm(g), norm(z)
    shared = np.sqrt(case.shared(g**2) * case.shared(z**2))
    scales = {
        "du": k * g,
        "dk": shared,
        "dk_rev": shared,
        "din_gate": k * g,
        "dout_gate": k * z,
        "dskip": norm(g.T) * norm(z.T),
    }
    for name, reference_gradient in want._asdict().items():
        x = getattr(got, name)
        if reference_gradient is None or (needs is not None and name[1:] not in needs):
            assert x is None, f"{name} was not asked for"
            continue
        of = {
            "du": case.u,
            "dk": case.k,
            "dk_rev": case.k_rev,
            **{"d" + n: x for n, x in case.operands.items()},
        }[name]
        assert x.dtype == of.dtype and x.shape == of.shape
        length = of.shape[-1]
        if name == "dskip":
            x, reference_gradient = x[:, None], reference_gradient[:, None]
            length = 1
        check_rows(f"{name} of {case}", x, reference_gradient, scales[name], length, factor=2)


def same_bits(a, b):
    """Whether two arrays have equal types, shapes and bits; None equals only None.

    NaNs with the same bits are equal.
    """
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def k_dtypes():
    """All pairs (dtype of u, dtype of k) of KERNEL_DTYPES."""
    return [(d, k) for d in DTYPES for k in KERNEL_DTYPES[d]]
