"""`H3` of safari and of the H3 repository, with its state-space kernels.

Source: H3, arXiv 2212.14052.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .. import hippo, s4
from .._array import choice, size
from ._calls import fftconv_func
from ._conv import conv
from ._parts import register
from .lrnnx import _TRANSFORMS, S4DKernel

_MEASURES = {"diag": ("inv", "lin"), **{f"diag-{name}": (name,) for name in hippo.DIAGONAL}}
_RATES = ("dt", "A", "B")  # the names of learning rates


class _Shift(nn.Module):
    """The kernels of systems whose states are the last inputs, filtered by B:

        s[0] = B[0] u,   s[n] = (s[n - 1] one sample ago) + B[n] u,   y = C s
        k[l] = sum_n C[n + l] B[n]

    Parameters: B (H, N), initially 1, 0 ... 0, and C (C, H, N).
    """

    def __init__(self, heads, states, channels, lr):
        super().__init__()
        self.H, self.N = heads, states
        register(self, "B", torch.eye(1, states).repeat(heads, 1), lr.get("B"))
        bound = 1 / math.sqrt(channels * states)  # that of nn.Conv1d
        self.C = nn.Parameter(torch.empty(channels, heads, states).uniform_(-bound, bound))

    def forward(self, L, rate=1.0):
        if rate != 1:
            raise ValueError(f"rate is {rate!r}; it must be 1, as a shift has no time step")
        k = conv(self.C.float().flip(-1), self.B.float()).flip(-1)
        return k[..., : size(L, "L")], None

    def _setup_step(self):
        pass

    def default_state(self, *batch_shape):
        return self.C.new_zeros((*batch_shape, self.H, self.N))

    def step(self, u, state):
        state = F.pad(state, (1, -1)) + self.B * u[..., None]
        return torch.einsum("chn,bhn->bch", self.C, state), state

    def forward_state(self, u, state):
        length = min(u.shape[-1], self.N)
        recent = F.pad(u[..., -length:].flip(-1).to(self.B.dtype), (0, self.N - length))
        return conv(recent, self.B) + F.pad(state, (length, -length))


class _Diagonal(S4DKernel):
    """The kernels of S4D, with the parameters and the names that H3 gives them.

        Delta = exp(log_dt),   A = -f(inv_A_real) + i A_imag

    Parameters: log_dt (H,), inv_A_real and A_imag (S, N), and, with a last axis of 2 for real
    and imaginary part, B (S, N, 2) and C (C, H, N, 2).
    """

    _names = ("log_dt", "C", "B", "inv_A_real", "A_imag")

    def __init__(self, A, C, log_dt, lr, disc, real_type, bandlimit, force_real):
        nn.Module.__init__(self)
        choice(disc, "disc", dict.fromkeys(s4.S4DKernel.discretizations))
        self.disc, self.real_transform, self.bandlimit = disc, real_type, bandlimit
        self.dt_transform, self.dt_fast = "exp", False
        self.force_real = force_real
        self.channels, self.H, self.N = C.shape
        self.C = nn.Parameter(torch.view_as_real(C))
        inverse = torch.from_numpy(s4.inverse_transform(real_type, "real_type", -A.real.numpy()))
        register(self, "log_dt", log_dt, lr.get("dt"))
        register(self, "B", torch.view_as_real(torch.ones_like(A).to(C.dtype)), lr.get("B"))
        register(self, "inv_A_real", inverse.to(log_dt.dtype), lr.get("A"))
        register(self, "A_imag", A.imag.to(log_dt.dtype), lr.get("A"))

    @property
    def inv_dt(self):
        return self.log_dt[:, None]

    def _continuous(self):
        A = -_TRANSFORMS[self.real_transform](self.inv_A_real.double()) + 0j
        if not self.force_real:
            A = A + 1j * self.A_imag.double()
        B, C = (torch.view_as_complex(x.double().contiguous()) for x in (self.B, self.C))
        return A, B[None], C


class SSKernel(nn.Module):
    """The kernels of H3's state-space models, one for each head.

    H: the number of heads.  N: the number of states of a head, even for mode "diag".
    L: accepted and ignored; each call gives the length.
    measure: the initial A of mode "diag": "diag-" and one of "lin", "inv", "inv2", "quad",
        "real" and "legs"; or "diag", for half of the heads "inv" and half "lin".
    rank, measure_args: accepted and ignored.
    channels: C, the number of outputs of each head.
    dt_min, dt_max: the initial time steps Delta are log-uniform between these.
    deterministic: space Delta evenly in the logarithm, and let C read the first state, instead
        of drawing both.
    lr: the learning rate of Delta, A and B for the attribute ``_optim``, or a dict of those
        with the keys "dt", "A" and "B"; with 0 they are buffers.
    mode: "diag", a diagonal A (S4D), or "shift", whose states are the last N inputs.
    n_ssm: S, a divisor of H: the number of different A and B; head h uses number h mod S.
        None means H.
    verbose: accepted and ignored; nothing is printed.
    disc, real_type, bandlimit: of mode "diag", the disc, real_transform and bandlimit of
        `fftconv.lrnnx.S4DKernel`.  force_real: use only the real part of A.

    Parameters: kernel.B and kernel.C, and for "diag" kernel.log_dt, kernel.inv_A_real and
    kernel.A_imag.  Raises ValueError.
    """

    def __init__(
        self,
        H,
        N=64,
        L=None,
        measure="diag-lin",
        rank=1,
        channels=1,
        dt_min=0.001,
        dt_max=0.1,
        deterministic=False,
        lr=None,
        mode="diag",
        n_ssm=None,
        verbose=False,
        measure_args=None,
        *,
        disc="bilinear",
        real_type="exp",
        bandlimit=None,
        force_real=False,
    ):
        super().__init__()
        self.H, self.N, self.channels = size(H, "H"), size(N, "N"), size(channels, "channels")
        rates = lr if isinstance(lr, dict) else dict.fromkeys(_RATES, lr)
        if choice(mode, "mode", {"diag": False, "shift": True}):
            self.kernel = _Shift(H, N, channels, rates)
            return
        inits = choice(measure, "measure", _MEASURES)
        ssms = H if n_ssm is None else size(n_ssm, "n_ssm")
        if H % ssms or ssms % len(inits):
            raise ValueError(
                f"n_ssm is {ssms}; it must divide H, {H}, and be a multiple of {len(inits)}"
            )
        if not 0 < dt_min <= dt_max:
            raise ValueError(
                f"dt_min is {dt_min} and dt_max {dt_max}; they must be 0 < dt_min <= dt_max"
            )
        A = torch.stack([torch.from_numpy(hippo.diagonal(init, N)).conj() for init in inits])
        A = A.repeat_interleave(ssms // len(inits), 0).resolve_conj()
        C = torch.randn(channels, H, N // 2, dtype=torch.cfloat)
        spread = torch.linspace(0, 1, H) if deterministic else torch.rand(H)
        if deterministic:
            C = torch.eye(1, N // 2, dtype=C.dtype).repeat(channels, H, 1)
        log_dt = math.log(dt_min) + spread * math.log(dt_max / dt_min)
        self.kernel = _Diagonal(A, C, log_dt, rates, disc, real_type, bandlimit, force_real)

    def forward(self, L, rate=1.0):
        """Return (k, None), k (C, H, L), float32; of mode "shift" it has min(N, L) taps.

        rate: multiplies Delta; 1 for "shift".
        """
        return self.kernel(L, rate=rate)

    def default_state(self, *batch_shape):
        """Return zeros (*batch_shape, H, N), or complex (*batch_shape, H, N / 2) for "diag"."""
        return self.kernel.default_state(*batch_shape)

    @torch.no_grad()
    def forward_state(self, u, state):
        """Return the state after u (batch, H, L)."""
        return self.kernel.forward_state(u, state)

    def _setup_step(self):
        self.kernel._setup_step()

    def step(self, u, state):
        """Return (y (batch, C, H), the next state) for one sample u (batch, H)."""
        return self.kernel.step(u, state)


class H3(nn.Module):
    """H3's sequence mixer: a shift and a diagonal state-space model, with gates in between.

        q, k, v = q_proj(u), k_proj(u), v_proj(u)
        k = k * k_shift + ssm_k_D . k,   y = q . ((k . v) * k_diag + D . k . v)
        y = output_linear(y)

    With head_dim d, k . v is the outer product of the d channels of k and of v in a head, and
    q . is the sum over the channels of k times those of q.

    d_model: the width of u and y.
    d_state: the number of states of both models, even.
    l_max: the longest kernel; None means the length of the input.
    head_dim: d, a divisor of d_model.
    use_fast_fftconv: both ways are fused here.  As in the original, it decides the order of
        y's channels before output_linear if head_dim > 1: (head, d) if True, else (d, head).
    dropout: accepted and ignored, as the original does.
    layer_idx: the number of the layer, for inference_params.
    device, dtype: device is that of all parameters, dtype that of q_proj, k_proj, v_proj and D.
    kernel_args: for `SSKernel` of the diagonal model, its lr for both.

    Parameters: q_proj, k_proj, v_proj and output_linear (nn.Linear), ssm_k_kernel.kernel.{B, C},
    ssm_k_D (d_model,), kernel.kernel.{log_dt, inv_A_real, A_imag, B, C} and D (H,),
    H = d_model / head_dim.  Raises ValueError.

    Example:
        >>> import torch
        >>> H3(8, d_state=4, head_dim=2)(torch.ones(2, 32, 8)).shape
        torch.Size([2, 32, 8])
    """

    def __init__(
        self,
        d_model,
        d_state=64,
        l_max=None,
        head_dim=1,
        use_fast_fftconv=False,
        dropout=0.0,
        layer_idx=None,
        device=None,
        dtype=None,
        **kernel_args,
    ):
        super().__init__()
        self.d_model, self.N = size(d_model, "d_model"), size(d_state, "d_state")
        self.head_dim = size(head_dim, "head_dim")
        if d_model % head_dim:
            raise ValueError(f"head_dim is {head_dim}; it must divide d_model, {d_model}")
        self.H, self.L = d_model // head_dim, None if l_max is None else size(l_max, "l_max")
        self.use_fast_fftconv, self.layer_idx = use_fast_fftconv, layer_idx
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(d_model, d_model, dtype=dtype))
        self.ssm_k_kernel = SSKernel(d_model, d_state, mode="shift", lr=kernel_args.get("lr"))
        self.ssm_k_D = nn.Parameter(torch.randn(d_model))
        self.kernel = SSKernel(self.H, d_state, **kernel_args)
        self.D = nn.Parameter(torch.randn(self.H, dtype=dtype))
        self.output_linear = nn.Linear(d_model, d_model)
        self.to(device)

    def extra_repr(self):
        return f"{self.d_model}, {self.N}, l_max={self.L}, head_dim={self.head_dim}"

    def _outer(self, k, v):
        """k . v (B, d, d, H, ...), of k and v (B, d_model, ...)."""
        k, v = (x.unflatten(1, (self.H, self.head_dim)).movedim(2, 1) for x in (k, v))
        return k[:, :, None] * v[:, None]

    def _mixed(self, y):
        """output_linear of y (B, ..., d_model), whose channels are in the order (head, d)."""
        if not self.use_fast_fftconv:
            y = y.unflatten(-1, (self.H, self.head_dim)).mT.flatten(-2)
        return self.output_linear(y.to(self.output_linear.weight.dtype))

    def forward(self, u, inference_params=None):
        """Return y (B, L, d_model) for u of that shape.

        inference_params: an object with key_value_memory_dict, a dict that keeps the states of
            layer_idx, and sequence_len_offset: 0 for the first call, whose u is the prompt;
            above 0, u is one sample (B, 1, d_model) that goes on.
        """
        if u.dim() != 3 or u.shape[2] != self.d_model or 0 in u.shape:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; it must be (B, L, {self.d_model}), each at least 1"
            )
        if inference_params is not None:
            if self.layer_idx is None:
                raise ValueError("layer_idx is None; with inference_params it must be a number")
            states = inference_params.key_value_memory_dict
            if inference_params.sequence_len_offset > 0:
                y, *after = self.step(u, *states[self.layer_idx])
                states[self.layer_idx] = tuple(after)
                return y
        length = u.shape[1] if self.L is None else min(u.shape[1], self.L)
        q, k, v = (linear(u).mT for linear in (self.q_proj, self.k_proj, self.v_proj))
        shift, diagonal = self.ssm_k_kernel(length)[0][0], self.kernel(length)[0][0]
        shifted = fftconv_func(k, shift, self.ssm_k_D, None, False)
        y = fftconv_func(shifted, diagonal, self.D, None, False, v=v, head_dim=self.head_dim, q=q)
        if inference_params is not None:
            self.ssm_k_kernel._setup_step()
            self.kernel._setup_step()
            batch, d = u.shape[0], self.head_dim
            pairs = self._outer(shifted, v).flatten(0, 2)
            states[self.layer_idx] = (
                self.ssm_k_kernel.forward_state(k, self.ssm_k_kernel.default_state(batch)),
                self.kernel.forward_state(pairs, self.kernel.default_state(batch * d * d)),
            )
        return self._mixed(y.mT)

    def step(self, u, state_k, state):
        """Return (y, the next state_k, the next state) for one sample u (B, 1, d_model).

        state_k, state: as ssm_k_kernel.default_state(B) and kernel.default_state(B d^2) give
            them.  Both kernels' ``_setup_step`` must have been called, again after a change of
            the parameters; a call with inference_params does so.
        """
        q, k, v = (linear(u[:, 0]) for linear in (self.q_proj, self.k_proj, self.v_proj))
        shifted, state_k = self.ssm_k_kernel.step(k, state_k)
        pairs = self._outer(shifted[:, 0] + k * self.ssm_k_D, v)
        y, state = self.kernel.step(pairs.flatten(0, 2), state)
        y = y[:, 0].unflatten(0, pairs.shape[:3]) + pairs * self.D
        q = q.unflatten(1, (self.H, self.head_dim)).mT[:, :, None]
        y = (y * q).sum(1)  # (B, d, H), the channels of v
        return self._mixed(y.mT.flatten(1)[:, None]), state_k, state
