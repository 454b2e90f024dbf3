# %% [markdown]
# # 6. State spaces: a convolution and a recurrence are the same thing
#
# A long filter has as many taps as the row has samples. Where do they come from?
# S4 writes all of them with a few dozen numbers: as the response of a linear
# system with $N$ states. Such a system can be run step by step, with a memory of
# $N$ numbers, or all at once, as one of the long convolutions of lesson 1.
#
# | step | idea |
# |---|---|
# | 1 | one state: a decaying wave; stepping is convolving |
# | 2 | many states: a kernel is a sum of waves |
# | 3 | HiPPO: states that remember the past |
# | 4 | why HiPPO cannot simply be made diagonal, and what can |
# | 5 | the kernel at all frequencies at once |
# | 6 | the pole at $\omega = -1$, and how it goes away |
# | 7 | the layer: whole, in chunks, or a sample at a time |

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
# $x'(t) = \lambda x(t) + u(t)$, with a complex $\lambda$ whose real part is
# negative, is a wave that dies out. Held constant over a step of $\Delta$, the
# input gives exactly
#
# $$ x_l = \bar A x_{l-1} + \bar B u_l,\qquad
#    \bar A = e^{\Delta\lambda},\quad \bar B = \frac{e^{\Delta\lambda}-1}{\lambda}.$$
#
# Unrolled, $x_l = \sum_{j \le l} \bar A^{\,j} \bar B\, u_{l-j}$: a convolution
# with the kernel $k_j = \bar A^{\,j}\bar B$. Two programs, one result.

# %%
L, dt, lam = 300, 0.05, -0.3 + 4j
A_bar = np.exp(dt * lam)
B_bar = (A_bar - 1) / lam
u = rng.standard_normal(L)

x, stepped = 0, []
for sample in u:  # a recurrence: one number of memory
    x = A_bar * x + B_bar * sample
    stepped.append(x.real)
k = (A_bar ** np.arange(L) * B_bar).real
convolved = fftconv.conv(u, k)  # a convolution: all at once
print("largest difference:", np.abs(convolved - stepped).max())
assert np.allclose(convolved, stepped, atol=1e-12)

# %% [markdown]
# ## Step 2. Many states
#
# $N$ states with weights $C$ give a sum of waves,
# $k_l = 2\,\mathrm{Re}\sum_n C_n \bar A_n^{\,l} \bar B_n$: the states come in
# conjugate pairs, and half of each pair is enough. That sum is a Vandermonde
# matrix times a vector. Written out it has $N L$ entries for each channel; with
# $l = aR + b$, $\bar A^{\,l} = \bar A^{\,aR}\,\bar A^{\,b}$, two tables of about
# $\sqrt L$ powers and a matrix product do the same.

# %%
A = hippo.diagonal("lin", 16)  # S4D-Lin: -1/2 + i pi n
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
axis.set_title("Three kernels of eight pairs of states, differing in C alone")
plt.show()

# %% [markdown]
# ## Step 3. HiPPO: states that remember
#
# Which $A$? HiPPO asks that the states be the best account of the past: the
# coefficients of the input's recent history in Legendre polynomials. `"legt"`
# does so for a window of two time units. Below, 64 numbers, updated a sample at a
# time, hold the last two units of a signal.

# %%
N, dt, steps = 64, 1 / 400, 2400
A, B = hippo.transition("legt", N)
I = np.eye(N)
A_bar = np.linalg.solve(I - dt / 2 * A, I + dt / 2 * A)  # bilinear rule
B_bar = np.linalg.solve(I - dt / 2 * A, dt * B)
t = np.arange(steps) * dt
smooth = np.convolve(rng.standard_normal(steps + 200), np.hanning(160), "valid")
signal = smooth[:steps] / 8
x = np.zeros(N)
for sample in signal:
    x = A_bar @ x + B_bar * sample

back = np.linspace(0, 2, 400)[:-1]  # how long ago
basis = np.polynomial.legendre.legvander(1 - back, N - 1)  # P_n(1), ..., P_n(-1)
remembered = basis @ (x * np.sqrt(2 * np.arange(N) + 1))
truth = np.interp(t[-1] - back, t, signal)
inner = slice(10, -10)
error = np.abs(remembered - truth)[inner].max() / np.abs(truth).max()
print(f"64 numbers for 800 samples; largest error inside the window {error:.3f}")
assert error < 0.15

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(t, signal, color="0.7", label="signal")
axis.plot(t[-1] - back, remembered, label="from the 64 states at the end")
axis.set_xlabel("time")
axis.legend()
plt.show()

# %% [markdown]
# ## Step 4. Normal, minus a low rank
#
# A matrix of $N^2$ entries at every step is too much. Diagonal would be cheap, but
# HiPPO's eigenvectors are nearly parallel: their condition number grows
# exponentially, and with it every rounding error. What saves the day: add a matrix
# of rank one, and the sum is *normal*, with orthogonal eigenvectors:
# $A = V(\Lambda - P P^*)V^*$.

# %%
for n in 4, 8, 16, 32:
    A, _ = hippo.transition("legs", n)
    P = hippo.low_rank("legs", n)
    alone = np.linalg.cond(np.linalg.eig(A)[1])
    with_p = np.linalg.cond(np.linalg.eig(A + P.T @ P)[1])
    print(
        f"N = {n:2}: condition of the eigenvectors {alone:9.2e}, "
        f"with the rank-one part {with_p:.2f}"
    )
assert alone > 1e8 and with_p < 1.01

# %% [markdown]
# ## Step 5. All frequencies at once
#
# The kernel's generating function, $\hat k(\omega)=\sum_{l<L}k_l\,\omega^l$, at the
# $L$ roots of unity is the kernel's DFT. With $\tilde C = C(I - \bar A^L)$,
# which cuts the sum off at $L$, it is a resolvent,
# $\tilde C\,(I-\bar A\,\omega)^{-1}\bar B$, and that of a diagonal matrix plus rank
# one is four Cauchy sums (S4, appendix C):
#
# $$ \hat k = \frac{2}{1+\omega}\Big(r_{00} - \frac{r_{01}\,r_{10}}{1+r_{11}}\Big),
#  \quad r[v] = \sum_n \frac{v_n}{z-\Delta\lambda_n} + \text{mirror},\quad
#  z = 2\,\frac{1-\omega}{1+\omega}. $$
#
# ## Step 6. The pole at $\omega = -1$
#
# At $\omega=-1$, the Nyquist frequency of every even $L$, $z$ is infinite and the
# sums are zero: infinity times zero. Near it, in float32, digits go. Put
# $\omega = e^{-i\theta}$, $s = \sin\frac\theta2$, $c=\cos\frac\theta2$ and multiply
# through by $c$: $z = 2is/c$, and
#
# $$ \hat k = e^{i\theta/2}\Big(R_{00} - \frac{c\,R_{01}R_{10}}{1+c\,R_{11}}\Big),
#  \qquad R[v]=\sum_n \frac{v_n}{2is-c\,\Delta\lambda_n} + \text{mirror}. $$
#
# Nothing is infinite any more, and a small $1+\omega$ is no difference of two
# numbers near 1: $s$ and $c$ come straight from $\theta$. Both formulas, in
# complex64:


# %%
def both(v):
    return np.concatenate([v, v.conj()])


def kernels(L, dt, N=64, single=np.complex64):
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
    root = np.exp(-2j * np.pi / L).astype(single)  # as it is usually done
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
    print(f"L = {L:6}: with the pole {errors[-1][0]:.1e}, without {errors[-1][1]:.1e} of max |k|")
assert errors[-1][0] > 30 * errors[-1][1]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
left.loglog(lengths, errors, "o-", label=["with the pole", "without"])
left.set_xlabel("L")
left.set_title("Error of the kernel, of max |k|")
left.legend()
for k, label in (first, "with the pole"), (second, "without"):
    right.semilogy(theta / np.pi, np.abs(np.fft.rfft(k - exact)) + 1e-12, lw=1, label=label)
right.set_xlabel(r"$\theta / \pi$")
right.set_title(f"Error at each frequency, L = {lengths[-1]}")
plt.show()

# %% [markdown]
# The library sums in float64 whatever the kernel's type, and takes the points
# where $\omega^M = i$ in place of the roots of unity: lesson 1's right angle, whose
# inverse transform has half the length.
#
# ## Step 7. The layer
#
# `FFTConvS4` is called as in lrnnx. The same numbers come out of it whole, in
# chunks that hand a state on, or a sample at a time.

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
    print(f"{name}: largest difference {np.abs(y - whole).max() / scale:.1e} of max |y|")
    assert np.abs(y - whole).max() < 5e-5 * scale

# %% [markdown]
# A step costs $O(N)$ for each channel, whatever came before; the convolution costs
# $O(\log L)$ for each sample, and all at once. One trains with the second and
# generates with the first.


# %%
def milliseconds(call, repeats=5):
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * np.median(times)


kernel = layer.kernel
one = milliseconds(lambda: layer.step(u[..., 0], layer.default_state(4)))
print(f"{platform.machine()}, {fftconv.default_threads()} threads")
print(f"a step: {one:.2f} ms; 1000 of them: {1000 * one:.0f} ms")
print(f"the convolution of 1000 samples, kernel included: {milliseconds(lambda: layer(u)):.1f} ms")
print(
    f"the kernel alone: {milliseconds(lambda: kernel(1000)):.1f} ms; its "
    f"gradients: {milliseconds(lambda: kernel.backward(kernel(1000)[0])):.1f} ms"
)
