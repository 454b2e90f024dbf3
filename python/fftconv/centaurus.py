"""The Centaurus layer in its four modes, each computed in the way that suits its structure.

    y[b, t, o] = sum_n C[o, n] sum_{j <= t} K[n, j] sum_i B_[n, i] x[b, t - j, i]
    K[n, l] = Re sum_m E[n, m] exp(Delta[n] A[n, m] l),    B_ = Delta B

The modes differ in B, C and E:

"neck": B and C are dense.
"dws": B and C are diagonal, so each channel has one convolution of its own.
"full": each n belongs to one pair (o, i), so there is one kernel for each pair.
"pointwise": each pair (n, m) is a state of its own, with E = 1; B and C are dense.

Source: Centaurus, arXiv 2409.03377.
"""

import numpy as np

from ._array import WIDE, choice, finish, real, size, view
from .convolution import conv
from .matrix import conv_matrix
from .s4 import check_decay
from .ssm import ssm_kernel
from .strategies import matmul, opt_ssm_forward

MODES = ("neck", "dws", "full", "pointwise")


def _product(a, b):
    """Return a b^T on the caller's thread or the library's, where `@` would use those of BLAS.

    For a few rows a call of the library takes longer than the sums.
    """
    return np.einsum("bi,ni->bn", a, b) if len(a) <= 8 else matmul(a, b.T)


class Centaurus:
    """A state-space layer of H channels that maps x (B, L, H) to y (B, L, H).

    d_model: H, the number of channels.
    d_state: N, the number of latent kernels; it must be H for "dws" and H^2 for "full".
    sub_states: M, the number of exponentials in each latent kernel.
    mode: one of `MODES`.
    seed: for the random initial values.

    ``parameters`` is a dict of NumPy arrays that may be changed in place:

    A: (N, M), complex; initially -1/2 + i pi m / M.
    log_delta: (N,); initially evenly spaced from log 1e-3 to log 1e-1.
    E: (N, M); initially sqrt(2) times standard normal.  "pointwise" has no E.
    B, C: (N, H) and (H, N) for "neck", (N M, H) and (H, N M) for "pointwise", both (N,) for
        "dws" and "full".

    Raises ValueError.

    Example:
        >>> layer = Centaurus(4, 6, 2, seed=0)
        >>> layer(np.ones((2, 16, 4), "float32")).shape
        (2, 16, 4)
    """

    def __init__(self, d_model, d_state, sub_states, mode="neck", *, seed=None):
        H, N = size(d_model, "d_model"), size(d_state, "d_state")
        M = size(sub_states, "sub_states")
        choice(mode, "mode", dict.fromkeys(MODES))
        needed = {"dws": H, "full": H * H}.get(mode, N)
        if N != needed:
            raise ValueError(
                f"d_state is {N}; with mode={mode!r} and d_model {H} it must be {needed}"
            )
        self.d_model, self.d_state, self.sub_states = H, N, M
        self.mode = mode
        rng = np.random.default_rng(seed)
        frequencies = np.pi * np.arange(M) / M
        p = {
            "A": np.tile(-0.5 + 1j * frequencies, (N, 1)),
            "log_delta": np.linspace(np.log(1e-3), np.log(1e-1), N),
        }
        if mode != "pointwise":
            p["E"] = np.sqrt(2) * rng.standard_normal((N, M))
        if mode in ("dws", "full"):
            p["B"], p["C"] = np.ones(N), np.ones(N)
        else:
            n = N * M if mode == "pointwise" else N
            gain = 1 if mode == "pointwise" else np.sqrt(2)
            p["B"] = gain * rng.standard_normal((n, H)) / np.sqrt(H)
            p["C"] = np.sqrt(2 / n) * rng.standard_normal((H, n))
        self.parameters = p
        self._shapes = {name: x.shape for name, x in p.items()}

    def __repr__(self):
        return f"Centaurus({self.d_model}, {self.d_state}, {self.sub_states}, {self.mode!r})"

    def _checked(self):
        """Return (the parameters, Delta A (N, M)); raise ValueError if a shape is wrong."""
        p = self.parameters
        for name, shape in self._shapes.items():
            if np.shape(p.get(name)) != shape:
                raise ValueError(
                    f"parameters['{name}'] has shape {np.shape(p.get(name))}; it must be {shape}"
                )
        check_decay(p["A"])
        return p, np.exp(p["log_delta"])[:, None] * p["A"]

    def latent_kernels(self, length, dtype="float64", threads=None):
        """Return the latent kernels K (N, L), or (N M, L) for "pointwise".

        length: L.  dtype: "float32" or "float64".  threads: None means all processors.

        Raises ValueError.
        """
        p, x = self._checked()
        if self.mode == "pointwise":
            x, E = x.reshape(-1, 1), np.ones((x.size, 1))
        else:
            E = p["E"]
        # K[l] = Re E e^(x l) is the response 2 Re (E/2) e^(x (l+1)) s of the state s = e^-x.
        options = {"state": True, "dtype": dtype, "threads": threads}
        return ssm_kernel(x, np.exp(-x)[None], E[None] / 2, length, **options)[0, 0]

    def _input(self):
        """Return B_ = Delta B, in the shape of B."""
        p = self.parameters
        delta = np.exp(p["log_delta"])
        if self.mode == "pointwise":
            delta = np.repeat(delta, self.sub_states)
        return (delta if p["B"].ndim == 1 else delta[:, None]) * p["B"]

    def __call__(self, x, *, strategy="auto", threads=None):
        """Return y (B, L, H) for a real x (B, L, H), in x's dtype and array library.

        strategy: that of `opt_ssm_forward`, for "neck" and "pointwise"; else ignored.
        threads: None means all processors.

        Raises ValueError.
        """
        v = view(x, "x", "float32")
        if len(v.shape) != 3 or 0 in v.shape or v.shape[2] != self.d_model:
            raise ValueError(
                f"x has shape {tuple(v.shape)}; it must be (B, L, {self.d_model}), each at least 1"
            )
        dtype = WIDE[real(v, "x").dtype]
        K = self.latent_kernels(v.shape[1], dtype, threads)
        B, C = self._input().astype(dtype), self.parameters["C"].astype(dtype)
        rows = v.numpy()
        wide = rows.astype(dtype, copy=False)
        if B.ndim == 2:
            y = opt_ssm_forward(wide, K, B, C, strategy=strategy, k_layout="NL", threads=threads)
        else:
            k = (B * C)[:, None] * K
            if self.mode == "full":  # n = o H + i
                k = k.reshape(self.d_model, self.d_model, -1)
            run = conv if self.mode == "dws" else conv_matrix
            y = run(wide.swapaxes(1, 2), k, threads=threads).swapaxes(1, 2)
        return finish(np.ascontiguousarray(y).astype(rows.dtype, copy=False), v.kind)

    def default_state(self, *batch_shape):
        """Return the initial state for `step`: zeros (*batch_shape, N, M), complex128."""
        shape = tuple(size(n, "batch_shape") for n in batch_shape)
        return np.zeros(shape + (self.d_state, self.sub_states), complex)

    def step(self, x, state):
        """Return (y (B, H), the next state) for one sample x (B, H).

            s = e^(Delta A) s + B_ x,   y = C sum_m E Re s

        Each call uses the present values of the parameters.  Raises ValueError.
        """
        p, exponent = self._checked()
        H, shape = self.d_model, (self.d_state, self.sub_states)
        state, v = np.asarray(state), view(x, "x", "float32")
        if state.ndim != 3 or state.shape[1:] != shape:
            raise ValueError(
                f"state has shape {state.shape}; it must be "
                f"{('B', *shape)}, as default_state gives it"
            )
        if tuple(v.shape) != (len(state), H):
            raise ValueError(f"x has shape {tuple(v.shape)}; it must be {(len(state), H)}: (B, H)")
        rows, B, C = real(v, "x").numpy(), self._input(), p["C"]
        if self.mode == "pointwise":
            driven = _product(rows, B).reshape(-1, *shape)
        elif self.mode == "neck":
            driven = _product(rows, B)[..., None]
        else:  # state n reads channel n in "dws", and channel n mod H in "full"
            driven = (np.tile(rows, self.d_state // H) * B)[..., None]
        state = np.exp(exponent) * state + driven
        if self.mode == "pointwise":
            y = _product(state.real.reshape(len(state), -1), C)
        else:
            z = np.sum(p["E"] * state.real, -1)
            if self.mode == "neck":
                y = _product(z, C)
            else:
                y = (z * C).reshape(len(z), H, -1).sum(-1)
        return finish(y.astype(rows.dtype), v.kind), state
