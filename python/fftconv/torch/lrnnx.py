"""The functions and modules of the lrnnx package, under its names.

`FFTConvS4` is a convolution whose kernel is that of a state-space model, an `S4Kernel` or an
`S4DKernel`; `S4` and `S4D` are layers around it.  The `Centaurus` layers have structured
projections.  `opt_ssm_forward` and `fft_conv` are the convolutions that they are made of.
Sources: S4, arXiv 2111.00396; S4D, arXiv 2206.11893; Centaurus, arXiv 2409.03377.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .. import s4
from .._array import choice, size
from ._autograd import gradients
from ._calls import conv_matrix, fft_conv, opt_ssm_forward, ssm_kernel
from ._conv import conv
from ._parts import ACTIVATIONS, TiedDropout, cut, register

__all__ = [
    "Centaurus",
    "CentaurusDWS",
    "CentaurusFull",
    "CentaurusNeck",
    "CentaurusPWNeck",
    "FFTConvS4",
    "S4",
    "S4D",
    "S4DKernel",
    "S4Kernel",
    "fft_conv",
    "opt_ssm_forward",
]


def __dir__():
    return __all__


# ---- Kernels ----------------------------------------------------------------------

_TRANSFORMS = {
    "none": lambda x: x,
    "exp": torch.exp,
    "relu": lambda x: F.relu(x) + s4.SMALLEST,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
_SETTINGS = (
    *("disc", "dt_transform", "dt_fast", "real_transform", "imag_transform", "bandlimit"),
    "is_real",
)


def _check_decay(A):
    if not torch.compiler.is_compiling():
        s4.check_decay(_numpy(A))


def _numpy(x):
    """A tensor as a NumPy array; other objects unchanged."""
    if not isinstance(x, torch.Tensor):
        return x
    x = x.detach().cpu().resolve_conj()
    return (x if x.is_complex() else x.double()).numpy()


def _complex(x):
    """A parameter as complex128: complex, or with the last of four axes for the two parts."""
    if not x.is_complex() and x.dim() == 4:
        return torch.view_as_complex(x.double().contiguous())
    return x.to(torch.complex128)


def _state_after(u, A, B, P=None, Q=None, *, discretization):
    """sum_l Abar^(L - 1 - l) Bbar u[l] (batch, H, N), complex128, for real u (batch, H, L).

    It is half of the conjugate gradient of ssm_kernel with respect to C, for dk = u reversed.
    """
    C = A.new_zeros((u.shape[0], *A.shape))
    options = (u.shape[-1], discretization, False, "float64", None)
    needs = (False, False, True, False, False)
    return (
        gradients("ssm_kernel", options, needs, u.flip(-1)[None].double(), A, B, C, P, Q)[0].conj()
        / 2
    )


def _full_matrix(A, P, Q):
    """A - sum_j P_j Q_j* (H, 2N, 2N), which acts on the states and their conjugates."""
    P, Q = (torch.cat([x, x.conj()], -1) for x in (P, Q))
    low_rank = torch.einsum("jhm,jhn->hmn", P, Q.conj())
    return torch.diag_embed(torch.cat([A, A.conj()], -1)) - low_rank


class S4DKernel(nn.Module):
    """The convolution kernels of H diagonal state-space models, one for each head (S4D).

    d_model: H.
    l_max: accepted and ignored; each call gives the length.
    channels: C, the number of outputs of each head.
    param_config: lrnnx's dict of references to parameters: A_real, A_imag, B, C and inv_dt,
        and of settings (see `fftconv.lrnnx.S4DKernel.from_config`).  The module then holds
        these very parameters, and gradients reach them.  None makes new parameters.
    kernel_args: without param_config, the arguments of `fftconv.lrnnx.S4DKernel`.  Random
        numbers come from torch's generator.
    lr, wd: learning rate and weight decay of new parameters, for the attribute ``_optim``;
        with lr = 0 they are buffers.

    Parameters: A_real and A_imag (S, N), inv_dt (H, 1) or (H, N), and, with a last axis of 2
    for real and imaginary part, B (1, S, N, 2) and C (C, H, N, 2).  With is_real, B and C are
    real and there is no A_imag.  Raises ValueError.
    """

    _of_arrays = s4.S4DKernel
    _names = ("inv_dt", "C", "B", "A_real", "A_imag")

    def __init__(
        self, d_model, l_max=None, channels=1, param_config=None, *, lr=None, wd=0.0, **kernel_args
    ):
        super().__init__()
        if param_config is None:
            of = self._made(d_model, channels, lr, wd, kernel_args)
        else:
            if kernel_args:
                raise ValueError(
                    f"kernel_args has {sorted(kernel_args)}; with param_config they belong "
                    "inside it"
                )
            of = self._referred(param_config)
        for name in _SETTINGS:
            setattr(self, name, getattr(of, name))
        self.H, self.N, self.channels, self.l_max = of.H, of.N, of.channels, l_max

    def _made(self, d_model, channels, lr, wd, kernel_args):
        seed = int(torch.randint(2**62, ()))
        of = self._of_arrays(d_model, channels=channels, seed=seed, **kernel_args)
        for name in self._names:
            x = torch.from_numpy(of.parameters[name])
            if name == "A_imag" and of.is_real:
                self.A_imag = None
                continue
            if x.is_complex():
                x = x.real if of.is_real else torch.view_as_real(x)
            register(self, name, x.to(torch.get_default_dtype()).contiguous(), lr, wd)
        return of

    def _referred(self, config):
        if not isinstance(config, dict):
            raise ValueError(f"param_config is a {type(config).__name__}; it must be a dict")
        arrays = {name: _numpy(x) for name, x in config.items() if name != "repeat"}
        if config.get("is_real") and config.get("A_imag") is None:
            arrays["A_imag"] = arrays["A_real"] * 0
        of = self._of_arrays.from_config(arrays)
        if config.get("repeat") not in (None, of.H // len(of.parameters["A_real"])):
            raise ValueError(f"param_config['repeat'] is {config['repeat']}; its arrays disagree")
        for name in self._names:  # nn.Module registers those that are parameters
            setattr(self, name, config.get(name))
        return of

    def extra_repr(self):
        return f"{self.H}, N={self.N}, channels={self.channels}, disc={self.disc!r}"

    def _heads(self, x):
        """Repeat x (.., S, N) to (.., H, N): head h gets row h mod S."""
        return x.repeat(*(1,) * (x.dim() - 2), self.H // x.shape[-2], 1)

    def _dt(self, rate):
        raw = self.inv_dt.double()
        return _TRANSFORMS[self.dt_transform](torch.sinh(raw) if self.dt_fast else raw) * rate

    def _continuous(self):
        """Return A (S, N), B (1, S, N) and C (C, H, N), complex128."""
        A = -_TRANSFORMS[self.real_transform](self.A_real.double()) + 0j
        if self.A_imag is not None and not self.is_real:
            A = A - 1j * _TRANSFORMS[self.imag_transform](self.A_imag.double())
        C = _complex(self.C)
        return A, _complex(self.B), C.real + 0j if self.is_real else C

    def _system(self, rate):
        """Return A, B, C and, for S4, P and Q, in units of one time step."""
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise ValueError(f"rate is {rate!r}; it must be a positive number")
        dt = self._dt(rate)
        A, B, C = self._continuous()
        _check_decay(A)
        A = self._heads(A)
        if self.bandlimit is not None:
            frequency = self._dt(1.0) * A.imag.abs() / (2 * math.pi)
            C = C * (frequency < self.bandlimit / 2)
        system = {"A": dt * A, "B": dt * self._heads(B), "C": C}
        if "P" in self._names:
            P = self._heads(_complex(self.P))
            system.update(P=dt * P, Q=P)
        return system

    def _wide(self):
        return self.inv_dt.dtype == torch.float64

    def forward(self, L, state=None, rate=1.0, dtype=None):
        """Return (k, k_state): the kernel k (C, H, L), and what the state adds to each output.

        L: the length.
        state: (batch, H, N), the state before the first sample, or None.  k_state is
            (batch, C, H, L), or None without a state.
        rate: multiplies Delta.
        dtype: that of k, torch.float32 or torch.float64; None means float64 if inv_dt has it.
        """
        system = self._system(rate)
        options = {
            "discretization": self.disc,
            "dtype": dtype or (torch.float64 if self._wide() else torch.float32),
        }
        k = ssm_kernel(length=size(L, "L"), **system, **options)[0]
        if state is None:
            return k, None
        system["B"] = self._half(state)
        return k, ssm_kernel(length=L, **system, state=True, **options)

    # ---- The recurrence

    def _check_state(self, state):
        if self.disc == "dss":
            raise ValueError(
                "state is given, and disc is 'dss', whose kernel is no recurrence: "
                "state must be None"
            )
        return (self.N,)

    def _half(self, state):
        """Return the state (batch, H, N) in complex128, one of each conjugate pair."""
        allowed = self._check_state(state)
        if state.dim() != 3 or state.shape[1] != self.H or state.shape[2] not in allowed:
            raise ValueError(
                f"state has shape {tuple(state.shape)}; it must be (batch, {self.H}, "
                f"{' or '.join(map(str, allowed))}), as default_state gives it"
            )
        return state[..., : self.N].to(torch.complex128)

    def _like(self, half, state):
        """Return a state given by its half, in the form and dtype of `state`."""
        if state.shape[-1] != self.N:
            half = torch.cat([half, half.conj()], -1)
        return half.to(torch.promote_types(state.dtype, torch.complex64))

    def forward_state(self, u, state, rate=1.0):
        """Return the state after u (batch, H, L): Abar^L s + sum_l Abar^(L-1-l) Bbar u[l]."""
        half, system = self._half(state), self._system(rate)
        decayed = self._decayed(system, half, u.shape[-1])
        del system["C"]
        return self._like(decayed + _state_after(u, discretization=self.disc, **system), state)

    def _powers(self, system):
        """Return Abar, and what B is multiplied by."""
        x = system["A"]
        if self.disc == "bilinear":
            return (1 + x / 2) / (1 - x / 2), 1 / (1 - x / 2)
        near = x.abs() < 1e-3  # where a series avoids cancellation
        series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4))
        return torch.exp(x), torch.where(near, series, (torch.exp(x) - 1) / x)

    def _decayed(self, system, state, length):
        return self._powers(system)[0] ** length * state

    @torch.no_grad()
    def _setup_step(self, mode=None, rate=1.0):
        """Set dA, dB (H, N) and dC (C, H, N) of the recurrence

        s = dA s + dB u,   y = 2 Re sum_n dC s.
        """
        self._check_state(None)
        modes = self._of_arrays.modes
        if mode not in modes:
            raise ValueError(f"mode is {mode!r}; allowed: {', '.join(map(repr, modes))}")
        self._step_mode = mode
        self._constants(self._system(rate))

    def _set(self, **constants):
        dtype = torch.complex128 if self._wide() else torch.complex64
        for name, x in constants.items():
            setattr(self, name, x.to(dtype))

    def _constants(self, system):
        p, gain = self._powers(system)
        self._set(dA=p, dB=gain * system["B"][0], dC=system["C"])

    def default_state(self, *batch_shape, device=None):
        """Return zeros (*batch_shape, H, N), complex: the initial state."""
        shape = tuple(size(n, "batch_shape") for n in batch_shape)
        return torch.zeros(
            (*shape, self.H, self._state_width()),
            dtype=torch.complex128 if self._wide() else torch.complex64,
            device=self.inv_dt.device if device is None else device,
        )

    def _state_width(self):
        return self.N

    def step(self, u, state):
        """Return (y, next state) for one sample u (batch, H); y is (batch, C, H).

        `_setup_step` must have been called, again after a change of the parameters.
        """
        if not hasattr(self, "dC"):
            raise ValueError("step was called before setup_step: call setup_step() first")
        self._half(state)
        if tuple(u.shape) != (state.shape[0], self.H) or u.is_complex():
            raise ValueError(
                f"x has shape {tuple(u.shape)} and dtype {u.dtype}; it must be "
                f"{(state.shape[0], self.H)}: (batch, H), and real"
            )
        after = self._next(u, state)
        y = torch.einsum("chn,bhn->bch", self.dC, after[..., : self.dC.shape[-1]]).real
        return (self._gain() * y).to(u.dtype), after.to(state.dtype)

    def _gain(self):
        return 2

    def _next(self, u, state):
        return self.dA * state + self.dB * u[..., None]


class S4Kernel(S4DKernel):
    """The convolution kernels of H state-space models with A diagonal plus low rank (S4).

    The arguments are those of `S4DKernel`; kernel_args are those of
    `fftconv.lrnnx.S4Kernel`, and param_config also has P.  There is one more parameter, P
    (rank, S, N, 2).

    ``_setup_step(mode="dense")`` sets dA (H, 2N, 2N), dB (H, 2N) and dC (C, H, 2N), which act
    on the states and their conjugates, so that y = Re sum dC s; states are then (batch, H, 2N).
    With mode="linear", a step takes O(N) operations, and states are (batch, H, N).  `forward`
    and `forward_state` take both.

    The buffer l_kernel is 0.  In checkpoints of lrnnx and of state-spaces/s4 it may be L > 0,
    and C is then C (I - Abar^L), from which C is computed when they are loaded.
    """

    _of_arrays = s4.S4Kernel
    _names = (*S4DKernel._names, "P")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("l_kernel", torch.tensor(0))
        self.register_load_state_dict_post_hook(_restore_C)

    def _check_state(self, state):
        return (self.N, 2 * self.N)

    def _matrices(self, system):
        """Return (I - A/2)^-1 and Abar = (I - A/2)^-1 (I + A/2), (H, 2N, 2N)."""
        A = _full_matrix(system["A"], system["P"], system["Q"])
        one = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        inverse = torch.linalg.inv(one - A / 2)
        return inverse, 2 * inverse - one

    def _decayed(self, system, state, length):
        power = torch.linalg.matrix_power(self._matrices(system)[1], length)
        state = torch.cat([state, state.conj()], -1)
        return torch.einsum("hmn,bhn->bhm", power[:, : self.N], state)

    def _setup_step(self, mode="dense", rate=1.0):
        """Set dA, dB and dC of the recurrence; see the class."""
        super()._setup_step("linear" if mode is None else mode, rate)

    def _constants(self, system):
        inverse, step = self._matrices(system)
        B, C = (torch.cat([x, x.conj()], -1) for x in (system["B"], system["C"]))
        B = torch.einsum("hmn,hn->hm", inverse, B[0])
        if self._step_mode == "linear":
            B, C = B[:, : self.N], 2 * system["C"]
            arrays = {name: _numpy(x) for name, x in system.items()}
            solver = s4.S4Kernel._solver(None, arrays)
            device = step.device
            self._set(**{"_" + n: torch.from_numpy(x).to(device) for n, x in solver.items()})
        self._set(dA=step, dB=B, dC=C)

    def _state_width(self):
        return self.N if getattr(self, "_step_mode", "dense") == "linear" else 2 * self.N

    def _gain(self):
        return 1

    def _next(self, u, state):
        driven = self.dB * u[..., None]
        if self._step_mode == "dense":
            return torch.einsum("hmn,bhn->bhm", self.dA, state) + driven
        # Abar s = 2 (I - A/2)^-1 s - s, by the formula of Woodbury
        sums = torch.einsum("hjn,bhn->bhj", self._rows, state).real.to(self._columns.dtype)
        solved = self._D * state - torch.einsum("hjn,bhj->bhn", self._columns, sums)
        return 2 * solved - state + driven


@torch.no_grad()
def _restore_C(kernel, incompatible):
    length = int(kernel.l_kernel)
    if length:
        system = kernel._system(1.0)
        _, step = kernel._matrices(system)
        rest = torch.eye(step.shape[-1], device=step.device) - torch.linalg.matrix_power(
            step, length
        )
        C = torch.cat([system["C"], system["C"].conj()], -1)
        C = torch.linalg.solve(rest.mT, C[..., None])[..., : kernel.N, 0]
        kernel.C.copy_(torch.view_as_real(C))
        kernel.l_kernel.zero_()


def _kernel_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


_KERNELS = {"s4": S4Kernel, "s4d": S4DKernel}


class FFTConvS4(nn.Module):
    """lrnnx's FFTConvS4: a convolution layer whose kernel is that of a state-space model.

    d_model: H, the number of input channels.
    l_max: the length of the longest kernel, in samples at rate 1; None means the length of
        the input.
    channels: C, the number of outputs of each of the H inputs.
    swap_channels: the order in which `flatten` merges the axes C and H: False gives (C H),
        True gives (H C).
    transposed: True if x is (B, H, L), False if it is (B, L, H); y is (B, C, H, L) in both
        cases.
    dropout: the probability of dropout on y.
    tie_dropout: use one dropout mask for all L samples of a row.
    drop_kernel: the probability of dropout on the taps of the kernel.
    kernel: "s4" or "s4d": make a new `S4Kernel` or `S4DKernel` with the arguments kernel_args.
    param_config, kernel_type: instead of kernel, a dict of references to parameters (see
        `S4DKernel`), and the type of the kernel, "s4" or "s4d".

    Parameters: those of ``kernel``, which is the kernel.  Raises ValueError.

    Example:
        >>> import torch
        >>> layer = FFTConvS4(d_model=4, l_max=32, channels=2, kernel="s4d", dropout=0.1)
        >>> y, _ = layer(torch.randn(3, 4, 32))
        >>> y.shape
        torch.Size([3, 2, 4, 32])
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
        **kernel_args,
    ):
        super().__init__()
        self.d_model, self.channels = size(d_model, "d_model"), size(channels, "channels")
        self.l_max = None if l_max is None else size(l_max, "l_max")
        self.swap_channels, self.transposed = swap_channels, transposed
        self.dropout, self.drop_kernel = nn.Dropout(dropout), nn.Dropout(drop_kernel)
        self.tie_dropout = tie_dropout
        # lrnnx's S4D gives both, with the same name
        if (kernel or kernel_type) != (kernel_type or kernel) or (
            (kernel_type is None) != (param_config is None)
        ):
            raise ValueError(
                f"kernel is {kernel!r}, kernel_type {kernel_type!r} and param_config "
                f"{'None' if param_config is None else 'given'}; give kernel ('s4' or 's4d'), "
                "or param_config with kernel_type"
            )
        name = "kernel" if kernel_type is None else "kernel_type"
        self.kernel = choice(kernel or kernel_type, name, _KERNELS)(
            self.d_model, self.l_max, self.channels, param_config, **kernel_args
        )
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

    def forward(self, x, state=None, rate=1.0, **kwargs):
        """Return (y, next_state); y is (B, C, H, L).

        x: real, (B, H, L), or (B, L, H) if not transposed.
        state: the state before the first sample, as `default_state` gives it, or None.
            Without a state, the kernel ends after l_max / rate samples, and next_state is
            None.  With a state, l_max is ignored, so that an input may be processed in chunks
            with the same result; next_state is the state after x.
        rate: multiplies Delta.

        y has x's dtype.  Other keywords are ignored.  Raises ValueError, and TypeError for one
        that resembles the name of an argument.
        """
        s4.check_ignored(kwargs, "state", "rate")
        axes = "(B, H, L)" if self.transposed else "(B, L, H)"
        if x.dim() != 3 or 0 in x.shape or x.shape[1 if self.transposed else 2] != self.d_model:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be {axes} with H = {self.d_model}"
            )
        length = x.shape[2 if self.transposed else 1]
        taps = length
        if self.l_max is not None and state is None:
            taps = max(1, min(length, round(self.l_max / rate)))
        k, added = self.kernel(taps, state, rate, _kernel_dtype(x))
        k = self.drop_kernel(k)
        layout = "BHL" if self.transposed else "BLH"
        rows = [conv(x, k[c], layout=layout) for c in range(self.channels)]
        y = torch.stack(rows, 1) if self.channels > 1 else rows[0][:, None]
        y = y if self.transposed else y.mT
        next_state = None
        if state is not None:
            y = y + added.to(y.dtype)
            rows = x if self.transposed else x.mT
            next_state = self.kernel.forward_state(rows, state, rate)
        if self.tie_dropout:
            y = y * self.dropout(y.new_ones((*y.shape[:3], 1)))
        else:
            y = self.dropout(y)
        return y, next_state

    def flatten(self, y):
        """Return y with its axes C and H merged into one of length d_output.

        y: (B, C, H, L), or (B, C, H) as `step` returns it.  The merged axis is in the order
        (C H), or (H C) with swap_channels.
        """
        return (y.transpose(1, 2) if self.swap_channels else y).flatten(1, 2)

    def setup_step(self, **kwargs):
        """Prepare for `step`; call this before it, and again after a change of parameters.

        rate: as in the forward call.
        mode: with the kernel "s4", "dense" (the default), or "linear" for steps in O(N); with
            "s4d", None, "linear" or "diagonal", which are the same.
        """
        self.kernel._setup_step(**kwargs)

    def step(self, x, state):
        """Return (y, next_state) for one sample x (B, H) and a state of `default_state`.

        y is (B, C, H).  There is no dropout, and the kernel does not end after l_max samples.
        Raises ValueError, also if `setup_step` has not been called.
        """
        return self.kernel.step(x, state)

    def default_state(self, *batch_shape, device=None):
        """Return the initial state: zeros (*batch_shape, H, N), complex.

        N is the number of states; only one state of each conjugate pair is kept, which halves
        it, with the kernel "s4d", and with "s4" after setup_step(mode="linear").
        """
        return self.kernel.default_state(*batch_shape, device=device)


# ---- Layers -----------------------------------------------------------------------


class _Layer(nn.Module):
    """The common part of `S4` and `S4D`."""

    _kernel = None  # the name of the kernel

    def __init__(
        self,
        d_model,
        bottleneck=None,
        gate=None,
        final_act="glu",
        postact=None,
        dropout=0.0,
        tie_dropout=False,
        transposed=True,
        l_max=None,
        channels=1,
        verbose=True,
        kernel=None,
        swap_channels=False,
        drop_kernel=0.0,
        **kernel_args,
    ):
        super().__init__()
        if kernel not in (None, self._kernel):
            raise ValueError(f"kernel is {kernel!r}; it must be {self._kernel!r} or None")
        if postact is not None:
            if final_act not in (None, "glu"):
                raise ValueError(
                    f"postact is {postact!r} beside final_act={final_act!r}, which it is "
                    "another name of"
                )
            final_act = postact
        self.d_model = size(d_model, "d_model")
        self.transposed, self.bottleneck, self.gate = transposed, bottleneck, gate
        inner = self.d_model
        if bottleneck is not None:
            if self.d_model % size(bottleneck, "bottleneck"):
                raise ValueError(f"bottleneck is {bottleneck}; it must divide d_model, {d_model}")
            inner = self.d_model // bottleneck
            self.input_linear = nn.Linear(self.d_model, inner)
        width = inner * channels
        if gate is not None:
            gated = inner * size(gate, "gate")
            self.input_gate = nn.Sequential(nn.Linear(self.d_model, gated), nn.GELU())
            self.output_gate = nn.Linear(width, gated) if width != gated else nn.Identity()
            width = gated
        self.layer = FFTConvS4(
            inner,
            l_max=l_max,
            channels=channels,
            swap_channels=swap_channels,
            transposed=False,
            drop_kernel=drop_kernel,
            kernel=self._kernel,
            **kernel_args,
        )
        for name, x in self.layer.kernel.named_parameters():
            self.register_parameter(name, x)
        self.D = nn.Parameter(torch.randn(channels, inner))
        self.conv_activation, self.mult_activation = nn.GELU(), nn.GELU()
        self.drop = (TiedDropout if tie_dropout else nn.Dropout)(dropout)
        if final_act is None:
            self.output_linear = nn.Identity()
        else:
            act = choice(final_act, "final_act", {"glu": nn.GELU, **ACTIVATIONS})
            self.output_linear = nn.Sequential(nn.Linear(width, self.d_model), act())

    @property
    def d_output(self):
        """The width of y, d_model."""
        return self.d_model

    def _mixed(self, y, x, source):
        """From the convolution y (.., C, H) of x (.., H) to the output; source: the input."""
        y = y + x[..., None, :] * self.D
        y = (y.mT if self.layer.swap_channels else y).flatten(-2)
        y = self.conv_activation(y)
        if self.gate is not None:
            y = self.output_gate(y) * self.input_gate(source)
        return self.output_linear(self.drop(self.mult_activation(y)))

    def forward(self, x, lengths=None, **kwargs):
        """Return (y, next_state); y has x's shape.

        x: (B, H, L) if transposed, else (B, L, H).
        lengths: an int, or integers (B,) or (1,): later samples of x count as zero.
        state, rate: as in `FFTConvS4`.  Other keywords are ignored.
        """
        source = x = cut(x.mT if self.transposed else x, lengths)
        if self.bottleneck is not None:
            x = self.input_linear(x)
        y, state = self.layer(x, **kwargs)
        y = self._mixed(y.permute(0, 3, 1, 2), x, source)
        return (y.mT if self.transposed else y), state

    def allocate_inference_cache(self, batch_size, max_seqlen=1, dtype=None, **kwargs):
        """Return {"lrnn_state": the initial state}, after `FFTConvS4.setup_step`.

        max_seqlen, dtype and other keywords are accepted and ignored.
        """
        self.layer.setup_step()
        return {"lrnn_state": self.default_state(batch_size)}

    def default_state(self, *batch_shape, device=None):
        """Return the initial state, as `FFTConvS4.default_state`."""
        return self.layer.default_state(*batch_shape, device=device)

    def step(self, x, inference_cache, **kwargs):
        """Return (y (B, H), inference_cache) for one sample x (B, H); the cache is updated."""
        source = x
        if self.bottleneck is not None:
            x = self.input_linear(x)
        y, state = self.layer.step(x, inference_cache["lrnn_state"])
        inference_cache["lrnn_state"].copy_(state)
        return self._mixed(y, x, source), inference_cache


_LAYER = """lrnnx's {name} layer: a convolution, a skip, a GELU, and a linear mix of channels.

        p = k * x + D x,   y = act(W dropout(gelu(gelu(p))) + b)

    With a gate, gelu(p) is mapped to H gate channels and multiplied by gelu(G x + c).

    d_model: the width of x and y.
    bottleneck: the convolution has H = d_model / bottleneck channels, to which a linear map
        brings x; None means d_model.
    gate: the factor of the width of the gate; None means no gate.
    final_act: act, "glu" or "gelu" (both GELU, as in lrnnx), "relu", "silu", "tanh",
        "sigmoid", "softplus", "elu" or "id"; None omits the last linear map too.
    postact: another name for final_act.
    dropout: its probability.  tie_dropout: use one mask for all samples of a channel.
    transposed: True if x and y are (B, H, L), False if they are (B, L, H).
    l_max, channels, swap_channels, drop_kernel: as in `FFTConvS4`.
    verbose: accepted and ignored; nothing is printed.
    kernel: {kernel!r} or None.
    d_state, n_ssm, init, dt_min, dt_max, dt_tie, dt_transform, dt_fast, real_transform,
    imag_transform, is_real, deterministic, {more}, lr, wd: as in `{of}`.

    Parameters: D (channels, H), inv_dt, C, B, A_real, A_imag{P}, also as layer.kernel.*, and
    output_linear.0.{{weight, bias}}, input_linear.*, input_gate.0.*, output_gate.*.
    Raises ValueError.

    Example:
        >>> import torch
        >>> y, _ = {name}(d_model=4, d_state=8, transposed=False)(torch.randn(2, 16, 4))
        >>> y.shape
        torch.Size([2, 16, 4])
    """


class S4(_Layer):
    __doc__ = _LAYER.format(name="S4", kernel="s4", of="S4Kernel", P=", P", more="rank, B_clip")
    _kernel = "s4"


class S4D(_Layer):
    __doc__ = _LAYER.format(
        name="S4D", kernel="s4d", of="S4DKernel", P="", more="disc, bandlimit, B_clip"
    )
    _kernel = "s4d"

    def __init__(self, *args, rank=None, **kwargs):  # lrnnx's S4D ignores rank
        super().__init__(*args, **kwargs)


class _Centaurus(nn.Module):
    """A state-space layer of H channels that maps x (B, L, H) to y (B, L, H).

        y[b, t, o] = sum_n C[o, n] sum_{j <= t} K[n, j] sum_i B_[n, i] x[b, t - j, i]
        K[n, l] = Re sum_m E[n, m] exp(Delta[n] A[n, m] l),    B_ = Delta B

    d_model: H.  d_state: N.  sub_state_dim: M.
    discretization: "zoh", the only one.

    Parameters: A (N, M), complex, log_delta (N,), E (N, M), B and C.  Raises ValueError.

    Example:
        >>> import torch
        >>> CentaurusNeck(d_model=4, d_state=8, sub_state_dim=2)(torch.randn(2, 16, 4)).shape
        torch.Size([2, 16, 4])
    """

    mode = None

    def __init__(self, d_model, d_state, sub_state_dim, discretization="zoh"):
        super().__init__()
        H, N = size(d_model, "d_model"), size(d_state, "d_state")
        M = size(sub_state_dim, "sub_state_dim")
        choice(discretization, "discretization", {"zoh": None})
        needed = {"dws": H, "full": H * H}.get(self.mode, N)
        if N != needed:
            raise ValueError(
                f"d_state is {N}; with mode={self.mode!r} and d_model {H} it must be {needed}"
            )
        self.d_model, self.d_state, self.sub_state_dim = H, N, M
        self.discretization = discretization
        frequency = math.pi * torch.arange(M) / M
        self.A = nn.Parameter(torch.complex(torch.full((N, M), -0.5), frequency.expand(N, M)))
        self.E = nn.Parameter(math.sqrt(2) * torch.randn(N, M))
        self.log_delta = nn.Parameter(torch.logspace(-3, -1, N).log())
        self._make()

    def extra_repr(self):
        return f"{self.d_model}, {self.d_state}, {self.sub_state_dim}"

    def _exponent(self):
        """Delta A (N, M), complex128."""
        _check_decay(self.A)
        return self.log_delta.double().exp()[:, None] * self.A.to(torch.complex128)

    def _latent(self, exponent, E, length, dtype):
        # K[l] = Re E e^(x l) is the response 2 Re (E/2) e^(x (l+1)) s of the state s = e^-x.
        s = torch.exp(-exponent)[None]
        return ssm_kernel(exponent, s, E[None] / 2, length, state=True, dtype=dtype)[0, 0]

    def _delta(self):
        return self.log_delta.exp()

    def compute_kernel(self, length, dtype=torch.float32):
        """Return the latent kernels K (N, length)."""
        return self._latent(self._exponent(), self.E, length, dtype)

    def _effective_B(self):
        """B_ as a dense matrix (N, H)."""
        return self._delta()[:, None] * self.B

    def _effective_C(self):
        """C as a dense matrix (H, N)."""
        return self.C

    def _checked(self, x):
        if x.dim() != 3 or 0 in x.shape or x.shape[2] != self.d_model:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (B, L, {self.d_model}), each at least 1"
            )
        return self.compute_kernel(x.shape[1], _kernel_dtype(x))

    def forward(self, x, integration_timesteps=None, lengths=None):
        """Return y (B, L, H) for x (B, L, H).

        integration_timesteps and lengths are accepted and ignored, as in lrnnx.
        """
        K = self._checked(x)
        return opt_ssm_forward(x, K, self._effective_B(), self._effective_C(), k_layout="NL")

    @torch.no_grad()
    def allocate_inference_cache(self, batch_size, max_seqlen=1, **kwargs):
        """Return what `step` needs: the initial state and the matrices of the recurrence.

        Other arguments are accepted and ignored.
        """
        A = self._exponent().exp().to(self.A.dtype)
        return {
            "lrnn_state": A.new_zeros((batch_size, *A.shape)),
            "A_bar": A,
            "B_bar": self._effective_B(),
            "E": self.E.detach(),
            "C": self._effective_C().detach(),
        }

    def step(self, x, inference_cache, **kwargs):
        """Return (y (B, H), inference_cache) for one sample x (B, H); the cache is updated.

        s = e^(Delta A) s + B_ x,   y = C sum_m E Re s
        """
        c = inference_cache
        driven = self._driven(x.to(c["B_bar"].dtype) @ c["B_bar"].mT)
        state = c["A_bar"] * c["lrnn_state"] + driven
        c["lrnn_state"].copy_(state)
        return self._read(state.real, c["E"]) @ c["C"].mT, c

    def _driven(self, u):
        return u[..., None]

    def _read(self, state, E):
        return (state * E).sum(-1)


class CentaurusNeck(_Centaurus):
    __doc__ = "The layer with dense B (N, H) and C (H, N).\n\n    " + _Centaurus.__doc__
    mode = "neck"

    def _make(self):
        self.B = nn.Parameter(torch.empty(self.d_state, self.d_model))
        self.C = nn.Parameter(torch.empty(self.d_model, self.d_state))
        for x in (self.B, self.C):
            nn.init.kaiming_uniform_(x, a=math.sqrt(5))


class CentaurusDWS(_Centaurus):
    """The layer with diagonal B and C (N,), N = H: one convolution for each channel.

    See `CentaurusNeck`.
    """

    mode = "dws"

    def _make(self):
        self.B, self.C = (nn.Parameter(torch.ones(self.d_model)) for _ in range(2))

    def _effective_B(self):
        return torch.diag(self._delta() * self.B)

    def _effective_C(self):
        return torch.diag(self.C)

    def forward(self, x, integration_timesteps=None, lengths=None):
        k = (self._delta() * self.B * self.C)[:, None] * self._checked(x)
        return conv(x, k, layout="BLH")


class CentaurusFull(_Centaurus):
    """The layer with B and C (N,), N = H^2: state n = o H + i leads from channel i to o.

    See `CentaurusNeck`.
    """

    mode = "full"

    def _make(self):
        H, N = self.d_model, self.d_state
        n = torch.arange(N)
        self.register_buffer("_full_in_index", n % H, persistent=False)
        self.register_buffer("_full_out_index", n // H, persistent=False)
        self.B = nn.Parameter(math.sqrt(2 / H) * torch.randn(N))
        self.C = nn.Parameter(math.sqrt(2 / N) * torch.randn(N))

    def _effective_B(self):
        one = F.one_hot(self._full_in_index, self.d_model)
        return (self._delta() * self.B)[:, None] * one

    def _effective_C(self):
        return F.one_hot(self._full_out_index, self.d_model).t() * self.C

    def forward(self, x, integration_timesteps=None, lengths=None):
        k = (self._delta() * self.B * self.C)[:, None] * self._checked(x)
        return conv_matrix(x.mT, k.unflatten(0, (self.d_model, self.d_model))).mT


class CentaurusPWNeck(_Centaurus):
    """The layer whose N M states are separate, without E: B (N M, H) and C (H, N M).

    See `CentaurusNeck`.
    """

    mode = "pointwise"

    def _make(self):
        self.E = None
        states = self.d_state * self.sub_state_dim
        self.B = nn.Parameter(torch.full((states, self.d_model), 1 / math.sqrt(self.d_model)))
        self.C = nn.Parameter(math.sqrt(2 / states) * torch.randn(self.d_model, states))

    def _delta(self):
        return self.log_delta.exp().repeat_interleave(self.sub_state_dim)

    def compute_kernel(self, length, dtype=torch.float32):
        """Return the kernels (N M, length)."""
        exponent = self._exponent().reshape(-1, 1)
        return self._latent(exponent, exponent.new_ones(exponent.shape), length, dtype)

    @torch.no_grad()
    def allocate_inference_cache(self, batch_size, max_seqlen=1, **kwargs):
        A = self._exponent().exp().to(self.A.dtype).flatten()
        return {
            "lrnn_state": A.new_zeros((batch_size, *A.shape)),
            "A_bar": A,
            "B_bar": self._effective_B(),
            "E": None,
            "C": self._effective_C().detach(),
        }

    def _driven(self, u):
        return u

    def _read(self, state, E):
        return state


_CENTAURUS = {
    "neck": CentaurusNeck,
    "pointwise": CentaurusPWNeck,
    "pw": CentaurusPWNeck,
    "s5": CentaurusPWNeck,
    "dws": CentaurusDWS,
    "full": CentaurusFull,
}


def Centaurus(d_model, d_state, sub_state_dim, discretization="zoh", mode="neck"):
    """Return a Centaurus layer of the given mode.

    mode: "neck", "pointwise" (also "pw" and "s5"), "dws" or "full".
    The other arguments are those of `CentaurusNeck`.  Raises ValueError.

    Example:
        >>> Centaurus(4, 4, 2, mode="dws")
        CentaurusDWS(4, 4, 2)
    """
    return choice(mode, "mode", _CENTAURUS)(d_model, d_state, sub_state_dim, discretization)
