# %% [markdown]
# # 6. State spaces: a convolution and a recurrence are the same thing
#
# A long filter has as many taps as the row has samples. Where do so many taps come from?
# The model S4 computes all of them from a few dozen numbers, as the response of a linear
# system with $N$ states; such a model is called a **state-space model** (SSM). The system
# can be run one sample at a time, with a memory of $N$ numbers, or for a whole row at
# once, as one of the long convolutions of lesson 1. A filter that is computed in this way
# is called a **kernel**.
#
# | step | idea |
# |---|---|
# | 1 | one state is a decaying wave; running it step by step is a convolution |
# | 2 | many states: a kernel is a sum of waves |
# | 3 | HiPPO: states that remember the past |
# | 4 | why HiPPO cannot simply be made diagonal, and what is done instead |
# | 5 | the kernel at all frequencies at once |
# | 6 | the pole at $\omega = -1$, and how to remove it |
# | 7 | the layer: a whole row, in chunks, or one sample at a time |

# %%
import platform
import time

import fftconv
import matplotlib.pyplot as plt
import numpy as np
from fftconv import hippo
from fftconv.lrnnx import FFTConvS4
from fftconv.ssm import ssm_kernel

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(6)

# %% [markdown]
# ## Step 1. One state
#
# The equation $x'(t) = \lambda x(t) + u(t)$, with a complex $\lambda$ whose real part is
# negative, describes a wave that decays and is driven by the input $u$. If the input is
# constant during each time step $\Delta$, the solution at the ends of the steps is
# exactly
#
# $$ x_l = \bar A x_{l-1} + \bar B u_l,\qquad
#    \bar A = e^{\Delta\lambda},\quad \bar B = \frac{e^{\Delta\lambda}-1}{\lambda}.$$
#
# Insert this equation into itself again and again, starting from $x = 0$, and you get
# $x_l = \sum_{j \le l} \bar A^{\,j} \bar B\, u_{l-j}$. This is a convolution with the
# kernel $k_j = \bar A^{\,j}\bar B$. Below, both programs give the same result; the output
# is the real part of the state.

# %%
L, dt, lam = 300, 0.05, -0.3 + 4j
A_bar = np.exp(dt * lam)
B_bar = (A_bar - 1) / lam
u = rng.standard_normal(L)

x, stepped = 0, []
for sample in u:  # a recurrence: it remembers one number
    x = A_bar * x + B_bar * sample
    stepped.append(x.real)
k = (A_bar ** np.arange(L) * B_bar).real
convolved = fftconv.conv(u, k)  # a convolution: all samples at once
print("largest difference:", np.abs(convolved - stepped).max())
assert np.allclose(convolved, stepped, atol=1e-12)

# %% [markdown]
# ## Step 2. Many states
#
# $N$ states with weights $C$ give a sum of waves. For a real output the states come in
# pairs of complex conjugates. One state of each pair is enough, if twice the real part is
# taken:
#
# $$k_l = 2\,\mathrm{Re}\sum_n C_n \bar A_n^{\,l} \bar B_n.$$
#
# This is a product of a Vandermonde matrix, which holds the powers $\bar A_n^{\,l}$, with
# a vector. That matrix has $N L$ entries for each channel. The library never makes it.
# With $l = aR + b$ each power is $\bar A^{\,l} = \bar A^{\,aR}\,\bar A^{\,b}$, so two
# tables of about $\sqrt L$ powers and a matrix product give the same sum.

# %%
A = hippo.diagonal("lin", 16)  # the initial values S4D-Lin: lambda_n = -1/2 + i pi n
C = rng.standard_normal((3, 1, 8)) + 1j * rng.standard_normal((3, 1, 8))
k = ssm_kernel(0.01 * A[None], np.full((1, 1, 8), 0.01), C, 800)[0, :, 0]
direct = 2 * np.real(
    np.sum(
        C[:, 0, :, None]
        * (np.expm1(0.01 * A) / A)[:, None]
        * np.exp(0.01 * A[:, None] * np.arange(800)),
        axis=1,
    )
)
assert np.allclose(k, direct, atol=1e-12)

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(np.arange(800) * 0.01, k.T)
axis.set_xlabel("time")
axis.set_title("three kernels with the same eight pairs of states and different C")
plt.show()

# %% [markdown]
# ## Step 3. HiPPO: states that remember
#
# Which matrix $A$ should the system $x' = Ax + Bu$ have? HiPPO chooses it so that the
# states describe the recent input as well as possible: they are the coefficients of the
# input's recent history in a series of Legendre polynomials. The matrix `"legt"` does
# this for a window of two units of time. Below, 64 states are updated one sample at a
# time, and at the end they hold the last two units of the signal.

# %%
N, dt, steps = 64, 1 / 400, 2400
A, B = hippo.transition("legt", N)
I = np.eye(N)
A_bar = np.linalg.solve(I - dt / 2 * A, I + dt / 2 * A)  # the bilinear rule of discretization
B_bar = np.linalg.solve(I - dt / 2 * A, dt * B)
t = np.arange(steps) * dt
smooth = np.convolve(rng.standard_normal(steps + 200), np.hanning(160), "valid")
signal = smooth[:steps] / 8
x = np.zeros(N)
for sample in signal:
    x = A_bar @ x + B_bar * sample

back = np.linspace(0, 2, 400)[:-1]  # how long before the end
basis = np.polynomial.legendre.legvander(1 - back, N - 1)  # P_n(1), ..., P_n(-1)
remembered = basis @ (x * np.sqrt(2 * np.arange(N) + 1))
truth = np.interp(t[-1] - back, t, signal)
inner = slice(10, -10)
error = np.abs(remembered - truth)[inner].max() / np.abs(truth).max()
print(f"64 numbers describe 800 samples; largest error / largest sample = {error:.3f}")
assert error < 0.15

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(t, signal, color="0.7", label="signal")
axis.plot(t[-1] - back, remembered, label="computed from the 64 states at the end")
axis.set_xlabel("time")
axis.legend()
plt.show()

# %% [markdown]
# ## Step 4. A normal matrix minus a matrix of low rank
#
# To multiply by a matrix of $N^2$ entries at every step is too expensive. A diagonal
# matrix would be cheap, but the eigenvectors of HiPPO's matrices are nearly parallel. The
# condition number of the matrix of eigenvectors grows exponentially with $N$, and
# rounding errors grow with it. For HiPPO's matrix `"legs"`, whose states describe the
# whole past instead of a window, there is a way out. Add a certain matrix of rank one,
# and the sum is *normal*, which means that it has orthogonal eigenvectors. So
# $A = V(\Lambda - P P^*)V^*$ with a unitary $V$, a diagonal $\Lambda$ and a vector $P$.
# (Here $P^*$ is the conjugate transpose of $P$.)

# %%
for n in 4, 8, 16, 32:
    A, _ = hippo.transition("legs", n)
    P = hippo.low_rank("legs", n)
    alone = np.linalg.cond(np.linalg.eig(A)[1])
    with_p = np.linalg.cond(np.linalg.eig(A + P.T @ P)[1])
    print(
        f"N = {n:2}: condition number of the eigenvectors of A {alone:9.2e}, "
        f"of A plus the matrix of rank one {with_p:.2f}"
    )
assert alone > 1e8 and with_p < 1.01

# %% [markdown]
# ## Step 5. All frequencies at once
#
# The kernel of this system is $k_l = C \bar A^{\,l} \bar B$. Its **generating function**
# is the polynomial $\hat k(\omega)=\sum_{l<L}k_l\,\omega^l$. Its values at the $L$-th
# roots of unity are the DFT of the kernel, so an inverse FFT gives the kernel. The sum is
# a geometric series of matrices. At a root of unity, where $\omega^L = 1$,
#
# $$ \hat k(\omega) = \tilde C\,(I-\bar A\,\omega)^{-1}\bar B,\qquad
#    \tilde C = C(I - \bar A^L). $$
#
# With the bilinear rule of step 3, $\bar A = (I - \tfrac\Delta2A)^{-1}(I + \tfrac\Delta2A)$
# and $\bar B = (I - \tfrac\Delta2A)^{-1}\Delta B$, this becomes
#
# $$ \hat k = \frac{2}{1+\omega}\; \tilde C\,(z I - \Delta A)^{-1} \Delta B, \qquad
#    z = 2\,\frac{1-\omega}{1+\omega}. $$
#
# In the basis of step 4, $A = \Lambda - PP^*$ is diagonal minus a matrix of rank one, and
# the Woodbury identity writes the inverse of such a matrix by the inverse
# $R = (zI - \Delta\Lambda)^{-1}$ of the diagonal one:
#
# $$ \hat k = \frac{2}{1+\omega}\Big(r_{00} - \frac{r_{01}\,r_{10}}{1+r_{11}}\Big),
#    \qquad
#    \begin{aligned} r_{00} &= \tilde C R\,\Delta B, & r_{01} &= \tilde C R\sqrt\Delta P,\\
#    r_{10} &= \sqrt\Delta P^* R\,\Delta B, & r_{11} &= \Delta P^* R P. \end{aligned} $$
#
# (S4, appendix C.) As $R$ is diagonal, each of the four is a **Cauchy sum**
# $r[v] = \sum_n v_n / (z-\Delta\lambda_n)$ over all states, both of each conjugate pair,
# where $v$ is the product of the two vectors element by element.
#
# ## Step 6. The pole at $\omega = -1$
#
# At $\omega=-1$, which is the Nyquist frequency of every even $L$, $z$ is infinite and the
# four sums are zero, so the formula asks for infinity times zero. Near this point digits
# are lost, which matters in float32. Put $\omega = e^{-i\theta}$, $s = \sin\frac\theta2$
# and $c=\cos\frac\theta2$. Then $1 + \omega = 2c\,e^{-i\theta/2}$ and $z = 2is/c$. Multiply
# the numerator and the denominator of each Cauchy sum by $c$, and the factor $1/c$ cancels:
#
# $$ \hat k = e^{i\theta/2}\Big(R_{00} - \frac{c\,R_{01}R_{10}}{1+c\,R_{11}}\Big),
#  \qquad R[v]=\sum_n \frac{v_n}{2is-c\,\Delta\lambda_n}. $$
#
# Now no term is infinite. Also, no small number $1+\omega$ is computed as a difference of
# two numbers near 1, because $s$ and $c$ are computed from $\theta$ directly. The program
# below evaluates both formulas in complex64 and compares the kernels with the library's.


# %%
def both(v):
    """Return the states of v and their conjugates."""
    return np.concatenate([v, v.conj()])


def kernels(L, dt, N=64, single=np.complex64):
    """Return the library's kernel, those of both formulas, and theta."""
    lam, P, B = hippo.nplr("legs", N)
    lam, P, B = dt * lam, np.sqrt(dt) * P[0], dt * B
    C = rng.standard_normal(N // 2) + 1j * rng.standard_normal(N // 2)
    A = np.diag(both(lam)) - np.outer(both(P), both(P).conj())
    I = np.eye(N)
    A_bar = np.linalg.solve(I - A / 2, I + A / 2)
    cut = both(C) @ (I - np.linalg.matrix_power(A_bar, L))
    left, right = [cut, both(P).conj()], [both(B), both(P)]
    theta = 2 * np.pi * np.arange(L // 2 + 1) / L
    with_pole, without = [], []
    root = np.exp(-2j * np.pi / L).astype(single)  # omega as powers of one root
    omega = root ** np.arange(L // 2 + 1, dtype=np.float32)
    s, c = np.sin(theta / 2), np.cos(theta / 2)
    poles = both(lam).astype(single)
    with np.errstate(all="ignore"):
        z = 2 * (1 - omega) / (1 + omega)
        for v in (x * y for x in right for y in left):  # r00, r10, r01, r11
            v = v.astype(single)
            with_pole.append((v / (z[:, None] - poles)).sum(1))
            without.append(
                (v / ((2j * s).astype(single)[:, None] - c.astype(single)[:, None] * poles)).sum(1)
            )
        r00, r10, r01, r11 = with_pole
        first = 2 / (1 + omega) * (r00 - r01 * r10 / (1 + r11))
    first = np.where(np.isfinite(first), first, 0)
    r00, r10, r01, r11 = without
    c = c.astype(single)
    second = np.exp(1j * theta / 2) * (r00 - c * r01 * r10 / (1 + c * r11))
    exact = ssm_kernel(
        lam[None], B[None, None], C[None, None], L, P[None, None], discretization="bilinear"
    )[0, 0, 0]
    return exact, np.fft.irfft(first, L), np.fft.irfft(second, L), theta


lengths = [256, 1024, 4096, 16384]
errors = []
for L in lengths:
    exact, first, second, theta = kernels(L, 0.1)
    errors.append([np.abs(k - exact).max() / np.abs(exact).max() for k in (first, second)])
    print(f"L = {L:6}: error with the pole {errors[-1][0]:.1e}, without {errors[-1][1]:.1e}")
assert errors[-1][0] > 30 * errors[-1][1]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.loglog(lengths, errors, "o-", label=["with the pole", "without"])
left.set_xlabel("L")
left.set_title("largest error / max |k|")
left.legend()
for k, label in (first, "with the pole"), (second, "without"):
    right.semilogy(theta / np.pi, np.abs(np.fft.rfft(k - exact)) + 1e-12, lw=1, label=label)
right.set_xlabel(r"$\theta / \pi$")
right.set_title(f"error at each frequency, L = {lengths[-1]}")
plt.show()

# %% [markdown]
# The library computes these sums in float64, whatever the type of the kernel. Instead of
# the roots of unity it takes the points where $\omega^M = i$. This is the right angle of
# lesson 1, whose inverse transform has half the length.
#
# ## Step 7. The layer
#
# `FFTConvS4` is called like the layer of the same name in lrnnx (lesson 5). It gives the
# same numbers for a whole row, for chunks of which each passes its state to the next, and
# for one sample at a time.

# %%
layer = FFTConvS4(d_model=8, kernel="s4", d_state=64, channels=2, seed=0)
u = rng.standard_normal((4, 8, 1000)).astype("float32")

whole, _ = layer(u)  # (B, C, H, L)

state, chunks = layer.default_state(4), []
for start, stop in (0, 300), (300, 301), (301, 1000):
    y, state = layer(u[..., start:stop], state)
    chunks.append(y)
chunks = np.concatenate(chunks, axis=-1)

layer.setup_step()
state, steps = layer.default_state(4), np.empty_like(whole)
for t in range(1000):
    steps[..., t], state = layer.step(u[..., t], state)

scale = np.abs(whole).max()
for name, y in ("chunks", chunks), ("steps", steps):
    print(f"{name}: largest difference / max |y| = {np.abs(y - whole).max() / scale:.1e}")
    assert np.abs(y - whole).max() < 5e-5 * scale

# %% [markdown]
# A step takes time proportional to $N$ for each channel, however many samples came before.
# The convolution takes time proportional to $\log L$ for each sample, and needs all
# samples at once. So one trains with the convolution, and generates one sample after
# another with the steps.


# %%
def milliseconds(call, repeats=5):
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * np.median(times)


kernel = layer.kernel
one = milliseconds(lambda: layer.step(u[..., 0], layer.default_state(4)))
print(f"{platform.machine()}, {fftconv.default_threads()} threads")
print(f"one step: {one:.2f} ms; 1000 steps would take {1000 * one:.0f} ms")
print(f"1000 samples by convolution, including the kernel: {milliseconds(lambda: layer(u)):.1f} ms")
print(
    f"the kernel alone: {milliseconds(lambda: kernel(1000)):.1f} ms; its "
    f"gradients: {milliseconds(lambda: kernel.backward(kernel(1000)[0])):.1f} ms"
)

# %% [markdown]
# ## Summary
#
# - A linear system with $N$ states is a recurrence and a convolution. They give the same
#   numbers, and each is better at one task.
# - HiPPO chooses the system so that its states describe the recent input. Its matrix is a
#   normal matrix minus a matrix of rank one.
# - This form gives the DFT of the kernel by four Cauchy sums at each frequency. Written
#   with $\sin\frac\theta2$ and $\cos\frac\theta2$ they have no pole and keep their digits.
#
# Sources: Gu and others, *HiPPO*, arXiv 2008.07669, and *Efficiently Modeling Long
# Sequences with Structured State Spaces* (S4), arXiv 2111.00396; Gu and others, *On the
# Parameterization and Initialization of Diagonal State Space Models* (S4D), arXiv
# 2206.11893.
