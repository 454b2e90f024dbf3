"""S4 and S4D: kernels of state-space models, and the convolution layer that uses them.

    x'(t) = A x(t) + B u(t),   y(t) = C x(t),   one system for each of H channels

The layer computes the discretized system either as a convolution with
k[l] = 2 Re C Abar^l Bbar (`forward`), or sample by sample as a recurrence (`step`); both give
the same output.  The interface is that of lrnnx's FFTConvS4, for arrays.
Sources: S4, arXiv 2111.00396; S4D, arXiv 2206.11893.
"""

import inspect
from difflib import get_close_matches

import numpy as np

from . import hippo
from ._array import COMPLEX, aligned_empty, choice, dtype_name, finish, real, size, view
from .convolution import conv, conv_backward
from .ssm import ssm_kernel, ssm_kernel_backward
from .strategies import matmul

#: Smaller values are raised to this one before a transform is inverted: exp(x) is never 0.
SMALLEST = 1e-4

#: The largest |Delta A| and |Delta P|; kernels of larger ones would overflow inside.
LARGEST = 1e60


def _softplus(x):
    return np.logaddexp(x, 0.0)


def _sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


# Name of a transform: (the function f, its derivative, its inverse).
TRANSFORMS = {
    "none": (lambda x: x, np.ones_like, lambda y: y),
    "exp": (np.exp, np.exp, lambda y: np.log(np.maximum(y, SMALLEST))),
    "relu": (
        lambda x: np.maximum(x, 0) + SMALLEST,
        lambda x: (x > 0).astype(np.float64),
        lambda y: np.maximum(y, SMALLEST) - SMALLEST,
    ),
    "sigmoid": (
        _sigmoid,
        lambda x: _sigmoid(x) * _sigmoid(-x),
        lambda y: np.log(np.maximum(y, SMALLEST)) - np.log1p(-y),
    ),
    # The inverse is log(e^y - 1), computed as y + log(1 - e^-y), which does not overflow.
    "softplus": (
        _softplus,
        _sigmoid,
        lambda y: (y := np.maximum(y, SMALLEST)) + np.log(-np.expm1(-y)),
    ),
}


def inverse_transform(name, of, value):
    """The parameter that the transform of that name takes to `value`, in float64.

    of: the argument that named the transform, for the ValueError where it reaches no such value.
    """
    _, _, inverse = choice(name, of, TRANSFORMS)
    if name == "sigmoid" and np.max(value) >= 1:
        raise ValueError(
            f"{of} is 'sigmoid', whose values are below 1, and "
            f"the initialisation asks for {np.max(value):g}"
        )
    return inverse(np.asarray(value, np.float64))


def check_decay(A):
    """Raise ValueError unless Re A < 0 everywhere."""
    bad = np.argwhere(~(A.real < 0))
    if len(bad):
        h, n = bad[0]
        raise ValueError(f"A[{h}, {n}] is {A[h, n]:g}; it must have a negative real part")


class S4DKernel:
    """The convolution kernels of H diagonal state-space models, one for each head (S4D).

    d_model: H, the number of heads.
    d_state: the number of states of a head, even unless is_real.  States come in conjugate
        pairs, and one of each pair is stored: N = d_state / 2.
    channels: C, the number of outputs of each head.
    n_ssm: S, a divisor of H: the number of different A and B; head h uses number h mod S.
        None means H.
    init: the initialization of A, one of `hippo.DIAGONAL`.
    B_clip: for init "legs", Im B is clipped to +- B_clip; None leaves it exact.
    dt_min, dt_max: the initial time steps Delta are log-uniform between these.
    deterministic: space the initial Delta evenly in the logarithm instead of drawing them.
    dt_tie: use one Delta for all N states of a head.
    dt_transform, real_transform, imag_transform: the functions f in Delta = f(inv_dt) and
        A = -f(A_real) - i f(A_imag): "none", "exp", "relu", "sigmoid" or "softplus".
    dt_fast: Delta = f(sinh(inv_dt)) instead of f(inv_dt).
    disc: the discretization, "zoh", "bilinear" or "dss"; None means the class's first one.
    bandlimit: C counts as 0 for states with Delta |Im A| / (2 pi) >= bandlimit / 2, where
        Delta is taken without the factor rate.  None means no limit.
    is_real: use N = d_state real states instead of pairs; A is the real part of init.
    rank: must be None; only `S4Kernel` takes a rank.
    l_max: accepted and ignored; each call gives the length.
    seed: for everything that is drawn at random.
    verbose: accepted and ignored; nothing is printed.

    ``parameters`` is a dict of float64 and complex128 arrays that may be changed in place:
    A_real and A_imag (S, N), B (1, S, N), C (C, H, N), inv_dt (H, 1) or (H, N).

    Raises ValueError.

    Example:
        >>> k, _ = S4DKernel(4, 8, init="lin", seed=0)(16)
        >>> k.shape
        (1, 4, 16)
    """

    discretizations = ("zoh", "bilinear", "dss")
    modes = (None, "linear", "diagonal")
    inits = hippo.DIAGONAL

    def __init__(
        self,
        d_model,
        d_state=64,
        *,
        channels=1,
        n_ssm=None,
        init="legs",
        B_clip=2.0,
        dt_min=1e-3,
        dt_max=0.1,
        dt_tie=True,
        dt_transform="exp",
        dt_fast=False,
        real_transform="exp",
        imag_transform="none",
        disc=None,
        bandlimit=None,
        is_real=False,
        deterministic=False,
        rank=None,
        l_max=None,
        seed=None,
        verbose=False,
    ):
        heads = size(d_model, "d_model")
        self.channels = size(channels, "channels")
        ssms = heads if n_ssm is None else size(n_ssm, "n_ssm")
        if heads % ssms:
            raise ValueError(f"n_ssm is {ssms}; it must divide d_model, {heads}")
        if not is_real and size(d_state, "d_state") % 2:
            raise ValueError(f"d_state is {d_state}; it must be even: states are pairs")
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"dt_min is {dt_min} and dt_max {dt_max}; they must be 0 < dt_min <= dt_max"
            )
        rng = np.random.default_rng(seed)
        self._settings(
            disc, dt_transform, dt_fast, real_transform, imag_transform, bandlimit, is_real
        )
        A, B, P = self._initial(init, size(d_state, "d_state"), B_clip, rank)
        N = len(A)
        if is_real:
            A, B = A.real + 0j, B.real + 0j
        p = {
            "A_real": inverse_transform(real_transform, "real_transform", -A.real),
            "A_imag": inverse_transform(imag_transform, "imag_transform", -A.imag),
            "B": B[None],
        }
        p = {name: np.repeat(x[..., None, :], ssms, -2) for name, x in p.items()}
        if P is not None:
            p["P"] = np.repeat(P[:, None], ssms, 1)
        shape = (self.channels, heads, N)
        # Both cases have the expectation E |C|^2 = 1.
        p["C"] = (
            rng.standard_normal(shape) + 0j
            if is_real
            else (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
        )
        low, high = np.log(dt_min), np.log(dt_max)
        if deterministic:
            log_dt = np.repeat(np.linspace(low, high, heads)[:, None], 1 if dt_tie else N, 1)
        else:
            log_dt = rng.uniform(low, high, (heads, 1 if dt_tie else N))
        # For "exp" the logarithm is used directly, so that a Delta below SMALLEST is kept.
        inv_dt = (
            log_dt
            if dt_transform == "exp"
            else inverse_transform(dt_transform, "dt_transform", np.exp(log_dt))
        )
        p["inv_dt"] = np.arcsinh(inv_dt) if dt_fast else inv_dt
        self._take(p)

    @classmethod
    def from_config(cls, config):
        """Return a kernel with the parameters and settings of lrnnx's param_config, a dict.

        It must have the arrays A_real, A_imag, B, C and inv_dt, for `S4Kernel` also P.  B, C
        and P are complex, or real with a last axis of 2 for the real and imaginary parts.  It
        may have the settings disc, dt_transform, dt_fast, real_transform, imag_transform,
        bandlimit and is_real.  N, H and channels may be given if they agree with the shapes of
        the arrays; rank, repeat, verbose, deterministic and l_max are ignored, and so is P by
        `S4DKernel`.

        Raises ValueError.
        """
        if not isinstance(config, dict):
            raise ValueError(f"param_config is a {type(config).__name__}; it must be a dict")
        arrays = ["A_real", "A_imag", "B", "C", "inv_dt"] + ["P"] * (cls is S4Kernel)
        settings = {
            "disc": None,
            "dt_transform": "exp",
            "dt_fast": False,
            "real_transform": "exp",
            "imag_transform": "none",
            "bandlimit": None,
            "is_real": False,
        }
        said = {"N", "H", "channels", "rank", "repeat", "verbose", "deterministic", "l_max", "P"}
        missing = [name for name in arrays if config.get(name) is None]
        unknown = set(config) - set(arrays) - set(settings) - said
        if missing or unknown:
            raise ValueError(
                f"param_config lacks {missing} and has {sorted(unknown)}; it "
                f"must have {arrays}, and may have "
                f"{sorted(set(settings) | said)}"
            )
        self = cls.__new__(cls)
        self._settings(**{name: config.get(name, usual) for name, usual in settings.items()})
        p = {name: np.array(config[name]) for name in arrays}
        for name in {"B", "C", "P"} & set(p):
            x = p[name]
            if x.ndim == 4 and x.shape[-1] == 2 and x.dtype.kind != "c":
                x = x[..., 0] + 1j * x[..., 1]
            if x.ndim != 3:
                raise ValueError(
                    f"param_config['{name}'] has shape {x.shape}; "
                    "it must have three axes, the last of them N"
                )
            p[name] = x.astype(np.complex128)
        if p["A_real"].ndim != 2:
            raise ValueError(
                f"param_config['A_real'] has shape {p['A_real'].shape}; it must be (S, N)"
            )
        self.channels = p["C"].shape[0]
        self._take(
            {name: x if x.dtype.kind == "c" else x.astype(np.float64) for name, x in p.items()}
        )
        for name, value in (("N", self.N), ("H", self.H), ("channels", self.channels)):
            if config.get(name) not in (None, value):
                raise ValueError(
                    f"param_config['{name}'] is {config[name]!r}; its arrays say {value}"
                )
        return self

    def _settings(
        self, disc, dt_transform, dt_fast, real_transform, imag_transform, bandlimit, is_real
    ):
        self.disc = self.discretizations[0] if disc is None else disc
        choice(self.disc, "disc", dict.fromkeys(self.discretizations))
        for name, value in (
            ("dt_transform", dt_transform),
            ("real_transform", real_transform),
            ("imag_transform", imag_transform),
        ):
            choice(value, name, TRANSFORMS)
            setattr(self, name, value)
        if bandlimit is not None and not bandlimit > 0:
            raise ValueError(f"bandlimit is {bandlimit!r}; it must be positive or None")
        self.dt_fast, self.bandlimit = dt_fast, bandlimit
        self.is_real = is_real
        self._step = None

    def _initial(self, init, d_state, b_clip, rank):
        """Return the initial A (N,), B (N,) and P, which is (rank, N) or None."""
        if rank is not None:
            raise ValueError(f"rank is {rank!r}; a diagonal kernel has none: it must be None")
        A = hippo.diagonal(init, 2 * d_state if self.is_real else d_state)
        B = (
            hippo.nplr("legs", 2 * len(A), b_clip)[2]
            if init == "legs"
            else np.ones(len(A), np.complex128)
        )
        return A, B, None

    def _take(self, p):
        """Set the parameters, and the numbers of heads and states by their shapes."""
        self.N, self.H = p["A_real"].shape[1], p["C"].shape[1]
        self._check(p)
        self.parameters = p

    def _check(self, p):
        """Raise ValueError unless the parameters have matching shapes and finite numbers."""
        S = len(p["A_real"])
        shapes = {
            "A_real": [(S, self.N)],
            "A_imag": [(S, self.N)],
            "B": [(1, S, self.N)],
            "C": [(self.channels, self.H, self.N)],
            "P": [(len(p.get("P", ())), S, self.N)],
            "inv_dt": [(self.H, 1), (self.H, self.N)],
        }
        for name, x in p.items():
            if x.shape not in shapes[name] or 0 in x.shape:
                raise ValueError(
                    f"{name} has shape {x.shape}; it must be {' or '.join(map(str, shapes[name]))}"
                )
            if not np.isfinite(x).all():
                raise ValueError(f"{name} has entries that are not finite")
        if self.H % S:
            raise ValueError(
                f"A_real has shape {(S, self.N)}; its first axis must divide H, {self.H}"
            )

    # ---- The continuous system, and its gradients -------------------------

    def _heads(self, x):
        """Repeat x (.., S, N) to (.., H, N): head h gets row h mod S."""
        return np.tile(x, (1,) * (x.ndim - 2) + (self.H // x.shape[-2], 1))

    def dt(self, rate=1.0):
        """Return Delta times rate, (H, 1) or (H, N)."""
        if not np.isscalar(rate) or not 0 < rate < np.inf:
            raise ValueError(f"rate is {rate!r}; it must be a positive number")
        raw = self.parameters["inv_dt"]
        f, _, _ = TRANSFORMS[self.dt_transform]
        return f(np.sinh(raw) if self.dt_fast else raw) * rate

    def A(self):
        """Return A (H, N) = -f(A_real) - i f(A_imag)."""
        f, _, _ = TRANSFORMS[self.real_transform]
        g, _, _ = TRANSFORMS[self.imag_transform]
        A = -f(self.parameters["A_real"]) + 0j
        if not self.is_real:
            A -= 1j * g(self.parameters["A_imag"])
        return self._heads(A)

    def _kept(self):
        """Return a mask (H, N) of the states below the band limit; True if there is no limit."""
        if self.bandlimit is None:
            return True
        frequency = self.dt() * np.abs(self.A().imag) / (2 * np.pi)
        return frequency < self.bandlimit / 2

    def _system(self, rate):
        """Return a dict of A, B, C and, for S4, P and Q, in units of one time step."""
        self._check(self.parameters)
        dt, p, A = self.dt(rate), self.parameters, self.A()
        check_decay(A)
        system = {"A": dt * A, "B": dt * self._heads(p["B"]), "C": p["C"] * self._kept()}
        if "P" in p:
            P = self._heads(p["P"])
            system.update(P=dt * P, Q=P)
        for name in ("A", "P"):
            largest = np.max(np.abs(system.get(name, 0)))
            if not largest <= LARGEST:  # C refuses some of them; step must refuse the same
                raise ValueError(
                    f"{name} times Delta has entries of {largest:g}; "
                    f"they must be at most {LARGEST:g}"
                )
        return system

    def __call__(self, length, state=None, rate=1.0, dtype="float32"):
        """Return (k, k_state): the kernel k (C, H, L), and what the state adds to each output.

        length: L.
        state: (batch, H, N), the state before the first sample, or None.  k_state is
            (batch, C, H, L), or None without a state.
        rate: multiplies Delta.
        dtype: the dtype of k and k_state, "float32" or "float64".

        Raises ValueError.
        """
        system = self._system(rate)
        options = {"discretization": self.disc, "dtype": dtype}
        k = ssm_kernel(length=length, **system, **options)[0]
        if state is None:
            return k, None
        system["B"] = self._checked_state(state)
        return k, ssm_kernel(length=length, **system, state=True, **options)

    def backward(self, dk, rate=1.0):
        """Return {name: gradient} of sum(dk . k) for every parameter; dk is (C, H, L).

        The gradient of a complex parameter is d/dRe + i d/dIm.
        """
        system, p, dt = self._system(rate), self.parameters, self.dt(rate)
        got = ssm_kernel_backward(np.asarray(dk)[None], **system, discretization=self.disc)
        A, B = self.A(), self._heads(p["B"])
        dA, dB = dt * got.dA, dt * got.dB
        ddt = (A.conj() * got.dA).real + (B.conj() * got.dB).real.sum(0)
        result = {"C": got.dC * self._kept()}
        if "P" in p:
            P = self._heads(p["P"])
            result["P"] = self._shared(dt * got.dP + got.dQ)
            ddt = ddt + (P.conj() * got.dP).real.sum(0)
        result["B"] = self._shared(dB)
        _, slope, _ = TRANSFORMS[self.real_transform]
        result["A_real"] = -self._shared(dA.real) * slope(p["A_real"])
        if self.is_real:
            result["A_imag"] = np.zeros_like(p["A_imag"])
            result = {name: x.real + 0j if np.iscomplexobj(x) else x for name, x in result.items()}
        else:
            _, slope, _ = TRANSFORMS[self.imag_transform]
            result["A_imag"] = -self._shared(dA.imag) * slope(p["A_imag"])
        raw = p["inv_dt"]
        _, slope, _ = TRANSFORMS[self.dt_transform]
        slope = slope(np.sinh(raw)) * np.cosh(raw) if self.dt_fast else slope(raw)
        if raw.shape[1] == 1:
            ddt = ddt.sum(1, keepdims=True)
        result["inv_dt"] = ddt * rate * slope
        return {name: result[name] for name in p}

    def _shared(self, x):
        """Sum x (.., H, N) over the heads that share an SSM: the adjoint of `_heads`."""
        ssms = self.parameters["A_real"].shape[0]
        return x.reshape(x.shape[:-2] + (-1, ssms, self.N)).sum(-3)

    # ---- The recurrence -----------------------------------------------------

    def default_state(self, *batch_shape, dtype="complex64"):
        """Return zeros (*batch_shape, H, N): one state of each conjugate pair.

        dtype: "complex64" or "complex128".  Raises ValueError.
        """
        shape = tuple(size(n, "batch_shape") for n in batch_shape)
        return np.zeros(shape + (self.H, self.N), dtype_name(dtype, allowed=COMPLEX))

    def _checked_state(self, state):
        """Return the state (batch, H, N) in a complex dtype; raise ValueError if it is wrong.

        The next state is stored in the dtype of this one and is complex, so a real dtype would
        lose its imaginary part.
        """
        state = np.asarray(state)
        if state.ndim != 3 or state.shape[1:] != (self.H, self.N):
            raise ValueError(
                f"state has shape {state.shape}; it must be "
                f"(batch, {self.H}, {self.N}), as default_state "
                "gives it"
            )
        if self.disc == "dss":
            raise ValueError(
                "state is given, and disc is 'dss', whose kernel "
                "is no recurrence: state must be None"
            )
        return state.astype(np.result_type(state, np.complex64), copy=False)

    def forward_state(self, u, state, rate=1.0):
        """Return the state after u (batch, H, L): Abar^L s + sum_l Abar^(L-1-l) Bbar u[l]."""
        state = self._checked_state(state)
        length, batch = u.shape[-1], len(u)
        system = self._system(rate)
        # With dk = u in reversed order, the sum over l is conj(dC) / 2.
        own = {**system, "C": np.zeros((batch, self.H, self.N))}
        backwards = np.ascontiguousarray(u[None, ..., ::-1], np.float64)
        added = (
            ssm_kernel_backward(backwards, **own, needs=("C",), discretization=self.disc).dC.conj()
            / 2
        )
        return (self._decayed(system, state, length) + added).astype(state.dtype)

    def _decayed(self, system, state, length):
        """Return Abar^length s for a state s."""
        x = system["A"]
        if self.disc == "zoh":
            return np.exp(x * length) * state
        return ((1 + x / 2) / (1 - x / 2)) ** length * state

    def setup_step(self, mode=None, rate=1.0):
        """Prepare for `step`.

        mode: one of ``modes``; None means "linear".
        rate: as in the forward call.

        Parameters that are changed afterwards take effect.  Raises ValueError.
        """
        if mode == "diagonal" and mode not in self.modes:
            raise ValueError(
                "mode is 'diagonal': eigenvectors of a HiPPO matrix are so far "
                "from orthogonal that it loses every digit; allowed: "
                f"{', '.join(map(repr, self.modes))}"
            )
        choice(mode, "mode", dict.fromkeys(self.modes))
        if self.disc == "dss":
            raise ValueError("disc is 'dss', whose kernel is no recurrence: there is no step")
        self.dt(rate)
        self._step = {"mode": mode, "rate": rate}

    def _ready(self):
        """Return the constants of the recurrence, computed again if a parameter changed."""
        if self._step is None:
            raise ValueError("step was called before setup_step: call setup_step() first")
        made = self._step.get("parameters")
        if made is None or any(
            not np.array_equal(made[name], x) for name, x in self.parameters.items()
        ):
            self._step["parameters"] = {name: x.copy() for name, x in self.parameters.items()}
            self._step["constants"] = self._constants(self._system(self._step["rate"]))
        return self._step["constants"]

    def _constants(self, system):
        x, B = system["A"], system["B"][0]
        if self.disc == "zoh":
            # f = (e^x - 1) / x; a series for small x avoids cancellation.
            near = np.abs(x) < 1e-3
            series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4))
            p = np.exp(x)
            f = np.where(near, series, (p - 1) / np.where(near, 1, x))
        else:
            p, f = (1 + x / 2) / (1 - x / 2), 1 / (1 - x / 2)
        return {"A": p, "B": f * B, "C": 2 * system["C"]}

    def _next(self, constants, state, u):
        return constants["A"] * state + constants["B"] * u[..., None]

    def step(self, u, state):
        """Return (y, next state) for one sample u (batch, H), real; y is (batch, C, H).

        The computation is in float64.  y has the dtype of u, and the next state that of state.
        Raises ValueError, also if `setup_step` has not been called.
        """
        constants = self._ready()
        state = self._checked_state(state)
        u = np.asarray(u)
        if u.shape != (len(state), self.H):
            raise ValueError(
                f"x has shape {u.shape}; it must be {(len(state), self.H)}: (batch, H)"
            )
        if u.dtype.kind == "c":
            raise ValueError(f"x has dtype {u.dtype}; it must be real")
        after = self._next(constants, state, u)
        y = np.einsum("chn,bhn->bch", constants["C"], after).real
        return y.astype(u.dtype), after.astype(state.dtype)


class S4Kernel(S4DKernel):
    """The convolution kernels of H state-space models with A diagonal plus low rank (S4).

    The arguments are those of `S4DKernel`, except for these:

    init: one of `hippo.MEASURES`.
    rank: the rank of the correction.  None means that of the measure: 2 for "legt", else 1.
        A larger rank is filled with zeros; a smaller one is an error.
    disc: only "bilinear".
    B_clip: 2 as in the original S4, whose default system is therefore not exactly HiPPO's;
        None gives the exact one.
    is_real: must be False.

    The modes of setup_step are "linear" (also None), a recurrence in O(N) operations per step,
    and "dense", a matrix product.  ``parameters`` also has P (rank, S, N).

    For "fout" and "legt" Re Lambda is 0; with real_transform "exp" it becomes -`SMALLEST`.

    Example:
        >>> kernel = S4Kernel(4, 8, seed=0)
        >>> kernel.parameters["P"].shape
        (1, 4, 4)
    """

    discretizations = ("bilinear",)
    modes = (None, "linear", "dense")
    inits = hippo.MEASURES

    def _initial(self, init, d_state, b_clip, rank):
        if self.is_real:
            raise ValueError(
                "is_real is True; HiPPO matrices have complex eigenvalues: it must be False"
            )
        A, P, B = hippo.nplr(init, d_state, b_clip)
        rank = len(P) if rank is None else size(rank, "rank")
        if rank < len(P):
            raise ValueError(f"rank is {rank}; {init!r} needs {len(P)}")
        return A, B, np.concatenate([P, np.zeros((rank - len(P), len(A)))])

    def _solver(self, system):
        """Return D, rows and columns of (I - A/2)^-1 x = D x - sum_j column_j Re(row_j . x)."""
        D = 1 / (1 - system["A"] / 2)
        P, Q = system["P"], system["Q"]
        # S = I + Re(Q* D P), one matrix for each head
        S = np.eye(len(P)) + np.einsum("ihn,jhn->hij", Q.conj(), D * P).real
        columns = np.einsum("ihn,hij->hjn", D * P / 2, np.linalg.inv(S))
        return {"D": D, "rows": np.moveaxis(2 * Q.conj() * D, 0, 1), "columns": columns}

    def _solve(self, s, x):
        sums = np.einsum("hjn,...hn->...hj", s["rows"], x).real
        return s["D"] * x - np.einsum("hjn,...hj->...hn", s["columns"], sums)

    def _constants(self, system):
        s = self._solver(system)
        constants = {"B": self._solve(s, system["B"])[0], "C": 2 * system["C"], "solver": s}
        if self._step["mode"] == "dense":
            constants["dense"] = self._dense(s)
        return constants

    def _dense(self, s):
        """Return Abar as a real matrix (H, 2N, 2N) that acts on (Re x, Im x)."""
        unit = np.concatenate([np.eye(self.N), 1j * np.eye(self.N)])
        unit = np.repeat(unit[:, None], self.H, 1)  # (2N, H, N)
        image = 2 * self._solve(s, unit) - unit
        return np.moveaxis(np.concatenate([image.real, image.imag], -1), 0, 2)

    def _next(self, constants, state, u):
        driven = constants["B"] * u[..., None]
        if "dense" in constants:
            x = np.concatenate([state.real, state.imag], -1)
            x = np.einsum("hij,bhj->bhi", constants["dense"], x)
            return x[..., : self.N] + 1j * x[..., self.N :] + driven
        # Abar = 2 (I - A/2)^-1 - I
        wide = state.astype(np.complex128)
        return 2 * self._solve(constants["solver"], wide) - wide + driven

    def _decayed(self, system, state, length):
        power = self._dense(self._solver(system))
        x = np.concatenate([state.real, state.imag], -1)
        while length:  # power is Abar^1, Abar^2, Abar^4 ...
            if length % 2:
                x = np.einsum("hij,bhj->bhi", power, x)
            length //= 2
            if length:
                power = matmul(power, power)
        return x[..., : self.N] + 1j * x[..., self.N :]


KERNELS = {"s4": S4Kernel, "s4d": S4DKernel}


def check_ignored(keywords, *names):
    """Raise TypeError if a keyword that would be ignored is nearly one of the names."""
    for keyword in keywords:
        meant = get_close_matches(keyword.lower(), names, 1)
        if meant:
            raise TypeError(f"there is no argument {keyword!r}; did you mean {meant[0]!r}?")


def _probability(p, name):
    if not np.isscalar(p) or not 0 <= p < 1:
        raise ValueError(f"{name} is {p!r}; it must be from 0 to below 1")
    return float(p)


class FFTConvS4:
    """lrnnx's FFTConvS4: a convolution layer whose kernel is that of a state-space model.

    d_model: H, the number of input channels.
    l_max: the length of the longest kernel, in samples at rate 1; None means the length of
        the input.
    channels: C, the number of outputs of each of the H inputs.
    swap_channels: the order in which `flatten` merges the axes C and H: False gives (C H),
        True gives (H C).
    transposed: True if x is (B, H, L), False if it is (B, L, H); y is (B, C, H, L) in both
        cases.
    dropout: the probability of dropout on y after train().  A new layer is in eval() mode.
    tie_dropout: use one dropout mask for all L samples of a row.
    drop_kernel: the probability of dropout on the taps of the kernel after train().
    kernel: "s4" or "s4d": make a new `S4Kernel` or `S4DKernel` with the arguments kernel_args.
    param_config, kernel_type: instead of kernel, the parameters themselves
        (see `S4DKernel.from_config`) and the type of the kernel, "s4" or "s4d".
    seed: for the kernel and for dropout.

    The attribute ``kernel`` is the kernel; its ``parameters`` are the layer's.

    Raises ValueError.

    Example:
        >>> layer = FFTConvS4(4, kernel="s4d", d_state=8, seed=0)
        >>> y, _ = layer(np.ones((2, 4, 16), "float32"))
        >>> y.shape
        (2, 1, 4, 16)
    """

    def __init__(
        self,
        d_model,
        l_max=None,
        channels=1,
        swap_channels=False,
        transposed=True,
        dropout=0.0,
        tie_dropout=False,
        drop_kernel=0.0,
        kernel_type=None,
        param_config=None,
        kernel=None,
        *,
        seed=None,
        **kernel_args,
    ):
        self.d_model = size(d_model, "d_model")
        self.channels = size(channels, "channels")
        self.l_max = None if l_max is None else size(l_max, "l_max")
        self.swap_channels, self.transposed = swap_channels, transposed
        self.dropout = _probability(dropout, "dropout")
        self.drop_kernel = _probability(drop_kernel, "drop_kernel")
        self.tie_dropout = tie_dropout
        self.training = False
        self._rng = np.random.default_rng(seed)
        self._masks = None, None
        if (kernel is None) == (param_config is None):
            raise ValueError(
                f"kernel is {kernel!r} and param_config "
                f"{'None' if param_config is None else 'given'}; give one of "
                "them: kernel ('s4' or 's4d'), or param_config with "
                "kernel_type"
            )
        if kernel is not None:
            if kernel_type is not None:
                raise ValueError(
                    f"kernel_type is {kernel_type!r}, and kernel "
                    f"{kernel!r}; kernel_type goes with "
                    "param_config"
                )
            self.kernel = choice(kernel, "kernel", KERNELS)(
                self.d_model,
                channels=self.channels,
                l_max=self.l_max,
                seed=self._rng.integers(2**63),
                **kernel_args,
            )
            return
        unknown = kernel_args.keys() - inspect.signature(S4DKernel).parameters
        if unknown:
            raise TypeError(f"there is no argument {', '.join(map(repr, sorted(unknown)))}")
        if kernel_args:
            raise ValueError(
                f"kernel_args has {sorted(kernel_args)}; with param_config they belong inside it"
            )
        self.kernel = choice(kernel_type, "kernel_type", KERNELS).from_config(param_config)
        for name, got, want in (
            ("d_model", self.kernel.H, self.d_model),
            ("channels", self.kernel.channels, self.channels),
        ):
            if got != want:
                raise ValueError(f"{name} is {want}; param_config's arrays are for {got}")

    @property
    def d_output(self):
        """The number of output channels, d_model * channels."""
        return self.d_model * self.channels

    def train(self, mode=True):
        """Turn dropout on, or off if mode is False; return self."""
        self.training = bool(mode)
        return self

    def eval(self):
        """Turn dropout off; return self."""
        return self.train(False)

    def _rows(self, x):
        """Return x as a NumPy array (B, H, L), and the array library that it comes from."""
        v = view(x, "x", "float32")
        axes = "(B, H, L)" if self.transposed else "(B, L, H)"
        if (
            len(v.shape) != 3
            or 0 in v.shape
            or v.shape[1 if self.transposed else 2] != self.d_model
        ):
            raise ValueError(f"x has shape {v.shape}; it must be {axes} with H = {self.d_model}")
        rows = real(v, "x").numpy()
        return (rows if self.transposed else rows.swapaxes(1, 2)), v.kind

    def _mask(self, p, shape):
        """Return a random mask of 0 (with probability p) or 1 / (1 - p); None without dropout."""
        if not self.training or p == 0:
            return None
        return (self._rng.random(shape) >= p) / (1 - p)

    def _kernel_length(self, length, rate):
        self.kernel.dt(rate)  # called only because it checks rate
        if self.l_max is None:
            return length
        return max(1, min(length, round(self.l_max / rate)))

    def __call__(self, x, state=None, rate=1.0, **kwargs):
        return self.forward(x, state, rate, **kwargs)

    def forward(self, x, state=None, rate=1.0, **kwargs):
        """Return (y, next_state); y is (B, C, H, L), of x's dtype and array library.

        x: real, (B, H, L), or (B, L, H) if not transposed.
        state: (B, H, N), one state of each conjugate pair, before the first sample, or None.
            Without a state, the kernel ends after l_max / rate samples, and next_state is
            None.  With a state, l_max is ignored, so that an input may be processed in chunks
            with the same result; next_state is the state after x.
        rate: multiplies Delta.

        Other keywords are ignored.  Raises ValueError, and TypeError for one that resembles
        the name of an argument.
        """
        check_ignored(kwargs, "state", "rate")
        rows, kind = self._rows(x)
        batch, _, length = rows.shape
        if state is not None:
            state = self.kernel._checked_state(state)
            if len(state) != batch:
                raise ValueError(
                    f"state has shape {state.shape}; its first axis must be x's, {batch}"
                )
        taps = length if state is not None else self._kernel_length(length, rate)
        k, added = self.kernel(taps, state, rate, _kernel_dtype(rows))
        kernel_mask = self._mask(self.drop_kernel, k.shape)
        if kernel_mask is not None:
            k = (k * kernel_mask).astype(k.dtype)
        y = aligned_empty((batch, self.channels) + rows.shape[1:], rows.dtype)
        for c in range(self.channels):
            conv(rows, k[c], out=y[:, c])
        next_state = None
        if state is not None:
            y += added.astype(y.dtype)
            next_state = self.kernel.forward_state(rows, state, rate)
        shape = y.shape[:3] + (1,) if self.tie_dropout else y.shape
        output_mask = self._mask(self.dropout, shape)
        if output_mask is not None:
            y *= output_mask.astype(y.dtype)
        self._masks = kernel_mask, output_mask
        return finish(y, kind), next_state

    def backward(self, dy, x, rate=1.0):
        """Return (dx, {parameter: gradient}) of sum(dy . y), y = forward(x, rate=rate).

        If y was computed in train() mode, that must have been the last forward call: its
        dropout masks are used.

        dy: (B, C, H, L), in x's dtype.  dx has x's shape.  Raises ValueError.
        """
        rows, kind = self._rows(x)
        dy = view(dy, "dy", "float32").numpy()
        shape = (len(rows), self.channels) + rows.shape[1:]
        if dy.shape != shape or dy.dtype != rows.dtype:
            raise ValueError(
                f"dy has shape {dy.shape} and dtype {dy.dtype}; "
                f"it must be {shape} and {rows.dtype}, as y"
            )
        k, _ = self.kernel(
            self._kernel_length(rows.shape[2], rate), None, rate, _kernel_dtype(rows)
        )
        kernel_mask, output_mask = self._masks
        for mask, of in ((kernel_mask, k), (output_mask, dy)):
            if mask is not None and any(m not in (1, n) for m, n in zip(mask.shape, of.shape)):
                raise ValueError(
                    f"x has shape {np.shape(x)}; the forward call whose dropout this is had another"
                )
        if output_mask is not None:
            dy = dy * output_mask.astype(dy.dtype)
        if kernel_mask is not None:
            k = (k * kernel_mask).astype(k.dtype)
        dk = aligned_empty(k.shape, k.dtype)
        dx = np.zeros(rows.shape, rows.dtype)
        for c in range(self.channels):
            got = conv_backward(dy[:, c], rows, k[c], needs=("u", "k"))
            dx += got.du
            dk[c] = got.dk
        if kernel_mask is not None:
            dk = (dk * kernel_mask).astype(k.dtype)
        dx = dx if self.transposed else np.ascontiguousarray(dx.swapaxes(1, 2))
        return finish(dx, kind), self.kernel.backward(dk, rate)

    def flatten(self, y):
        """Return y with its axes C and H merged into one of length d_output.

        y: (B, C, H, L), or (B, C, H) as `step` returns it.  The merged axis is in the order
        (C H), or (H C) with swap_channels.  Raises ValueError.
        """
        if np.ndim(y) not in (3, 4) or tuple(y.shape[1:3]) != (self.channels, self.d_model):
            raise ValueError(
                f"y has shape {tuple(np.shape(y))}; it must be "
                f"(B, {self.channels}, {self.d_model}, L), or "
                "without L"
            )
        if self.swap_channels:
            y = y.swapaxes(1, 2)
        return y.reshape((y.shape[0], self.d_output) + tuple(y.shape[3:]))

    def setup_step(self, mode=None, rate=1.0, **kwargs):
        """Prepare for `step`; call this once before it.

        The arguments are those of the kernel's setup_step.  Parameters that are changed
        afterwards take effect.  Other keywords are ignored.  Raises ValueError, and TypeError
        for one that resembles the name of an argument.
        """
        check_ignored(kwargs, "mode", "rate")
        self.kernel.setup_step(mode, rate)

    def step(self, x, state):
        """Return (y, next_state) for one sample x (B, H) and a state (B, H, N).

        y is (B, C, H).  There is no dropout, and the kernel does not end after l_max samples.
        Raises ValueError, also if `setup_step` has not been called.
        """
        v = view(x, "x", "float32")
        y, state = self.kernel.step(v.numpy(), state)
        return finish(y, v.kind), state

    def default_state(self, *batch_shape, device=None):
        """Return zeros (*batch_shape, H, N), complex64: the initial state.

        A state holds, of each conjugate pair, the component whose eigenvalue has an imaginary
        part of at most 0.  A state keeps its dtype from step to step, so convert it to
        complex128 for float64 precision.  device: None or "cpu"; else ValueError.
        """
        if device is not None and str(device) != "cpu":
            raise ValueError(
                f"device is {device!r}; this build computes on the CPU: allowed: None, 'cpu'"
            )
        return self.kernel.default_state(*batch_shape)


def _kernel_dtype(rows):
    return "float64" if rows.dtype == np.float64 else "float32"
