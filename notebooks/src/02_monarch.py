# %% [markdown]
# # 2. The FFT as a few matrix products
#
# Lesson 1 halved the DFT until nothing was left to halve. That takes $\log_2 N$
# steps, each of which does a few additions and products per point. A machine with
# units for matrix products, such as the tensor cores of a GPU, is faster with *few
# large* steps. FlashFFTConv (arXiv 2311.05908, called "the paper" in these lessons)
# therefore uses the **order-$p$ Monarch decomposition**: it writes
# $N = N_1 N_2 \cdots N_p$ and computes the DFT in $p$ **stages**, each of which is a
# product with a small DFT matrix. The factors $N_i$ are called **radices**.
#
# | step | idea |
# |---|---|
# | 1–2 | order 2, one equation per line; the whole DFT matrix as four factors |
# | 3–4 | its twiddles and its permutation, drawn |
# | 5–6 | orders 3 and 4 by recursion; what they cost |
# | 7 | transform and inverse without any permutation |
# | 8–9 | the library's own stages, as dense products or as codelets |
# | 10 | the right angle included in the first stage |
# | 11 | measured times for different radices |

# %%
import platform
import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(2)


def dft_matrix(N):
    """Return F[k, n] = exp(-2 pi i k n / N); k n is reduced modulo N for accuracy."""
    k, n = np.indices((N, N))
    return np.exp(-2j * np.pi * (k * n % N) / N)


def complex_row(N):
    return rng.standard_normal(N) + 1j * rng.standard_normal(N)


def dots(radices):
    return "·".join(map(str, radices))


# %% [markdown]
# ## Step 1. Order 2, one equation per line
#
# In this lesson $k$ is a frequency, where lesson 1 wrote $m$. Write the index $n$ of
# a sample with two digits. Write the frequency $k$ with two digits as well, but with
# the weights of the digits **exchanged**:
#
# $$n = n_1 N_2 + n_2, \qquad k = k_1 + N_1 k_2,$$
#
# with $n_1, k_1$ from $0$ to $N_1-1$ and $n_2, k_2$ from $0$ to $N_2-1$. With
# $W_N = e^{-2\pi i/N}$ the DFT needs the powers $W_N^{nk}$. The product $nk$ has four
# terms:
#
# $$nk = n_1 k_1 N_2 \;+\; n_2 k_1 \;+\; n_2 k_2 N_1 \;+\; n_1 k_2 N_1 N_2.$$
#
# The last term is a multiple of $N$, so its power of $W_N$ is 1. As
# $W_N^{N_2} = W_{N_1}$ and $W_N^{N_1} = W_{N_2}$,
#
# $$X[k_1 + N_1 k_2] = \sum_{n_2} \Big( \underbrace{W_N^{\,n_2 k_1}}_{\text{twiddle}}
#   \;\sum_{n_1} \underbrace{W_{N_1}^{\,n_1 k_1}}_{F_{N_1}}\, x[n_1 N_2 + n_2] \Big)
#   \underbrace{W_{N_2}^{\,n_2 k_2}}_{F_{N_2}}.$$
#
# Both sums are matrix products with an $N_1 \times N_2$ array:

# %%
N1, N2 = 4, 8
N = N1 * N2
x = complex_row(N)

A = x.reshape(N1, N2)  # A[n1,n2] = x[n1 N2 + n2]
k1, n2 = np.indices((N1, N2))
T = np.exp(-2j * np.pi * k1 * n2 / N)
B = dft_matrix(N1) @ A  # B[k1,n2] = sum_n1 W_N1^(n1 k1) A[n1,n2]
C = B * T  # C[k1,n2] = W_N^(k1 n2) B[k1,n2]
D = C @ dft_matrix(N2)  # D[k1,k2] = sum_n2 C[k1,n2] W_N2^(n2 k2)
X = D.T.reshape(N)  # X[k1 + N1 k2] = D[k1,k2]

assert np.allclose(X, np.fft.fft(x), rtol=0, atol=1e-13)

# %% [markdown]
# The picture shows the same five lines for 16 points, $N_1 = N_2 = 4$. The text in a
# square says which value lies there: a sample $n$ in panel 1, the pair $k_1, n_2$ in
# panel 2, the angle of the twiddle as a part of a full circle in panel 3, and a
# frequency $k$ in panels 4 and 5. A square keeps its colour from panel to panel. A
# red bar runs along the values that one small DFT combines.


# %%
def draw_grid(ax, numbers, colours, title, bars=None):
    """Draw a 4 x 4 array; bars says whether a DFT combines its columns or its rows."""
    ax.imshow(colours, cmap="viridis", vmin=-3, vmax=18, alpha=0.75)
    for (i, j), number in np.ndenumerate(numbers):
        ax.text(j, i, number, ha="center", va="center", fontsize=9, color="k")
    for q in range(4):
        if bars == "columns":
            ax.plot([q - 0.42, q - 0.42], [-0.3, 3.3], color="C5", lw=2.5)
        elif bars == "rows":
            ax.plot([-0.3, 3.3], [q + 0.36, q + 0.36], color="C5", lw=2.5)
    ax.set_title(title, fontsize=9, loc="center")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


places = np.arange(16).reshape(4, 4)  # n = 4 n1 + n2
frequencies = np.arange(4)[:, None] + 4 * np.arange(4)  # k = k1 + 4 k2
fig, axes = plt.subplots(1, 5, figsize=(9.6, 2.5))
draw_grid(axes[0], places, places, "1. x as an array:\n$n = 4n_1 + n_2$")
pairs = np.array([[f"{i},{j}" for j in range(4)] for i in range(4)])
draw_grid(axes[1], pairs, places, "2. DFT of columns\n$F_4 A$: $k_1, n_2$", "columns")
turns = np.array([[f"{i * j}/16" if i * j else "0" for j in range(4)] for i in range(4)])
draw_grid(axes[2], turns, places, "3. twiddles $W_{16}^{k_1 n_2}$:\nparts of a circle")
draw_grid(axes[3], frequencies, places, "4. DFT of rows $C F_4$:\n$k = k_1 + 4k_2$", "rows")
draw_grid(axes[4], frequencies.T, places.T, "5. transpose:\nfrequencies in order")
plt.show()

# %% [markdown]
# ## Step 2. The whole DFT matrix as four factors
#
# Each line is a linear map, so the 16 × 16 matrix $F_{16}$ is the product of their
# matrices (the rightmost one acts first):
#
# $$F_{16} = P\,(I_4 \otimes F_4)\; T\; (F_4 \otimes I_4).$$
#
# $F_4 \otimes I_4$ is the DFT of the columns, the diagonal matrix $T$ holds the
# twiddles, $I_4 \otimes F_4$ is the DFT of the rows, and $P$ is the permutation that
# transposes the array. A full matrix with 256 entries has become two matrices with 64
# nonzero entries each, a diagonal and a permutation. A DFT of columns is a DFT of
# rows between two transpositions, $F_4 \otimes I_4 = P\,(I_4 \otimes F_4)\,P$. So
# $F_{16}$ is a product of permutations and of block diagonal matrices in turn. Such
# products are called *Monarch* matrices, which gives the decomposition its name.

# %%
F4, I4 = dft_matrix(4), np.eye(4)
k1, n2 = np.indices((4, 4))
T = np.diag(np.exp(-2j * np.pi * k1 * n2 / 16).ravel())
P = np.eye(16)[frequencies.ravel().argsort()]  # row k picks the place of X[k]
factors = [P, np.kron(I4, F4), T, np.kron(F4, I4)]
assert np.allclose(np.linalg.multi_dot(factors), dft_matrix(16), rtol=0, atol=1e-14)
assert np.allclose(P @ np.kron(I4, F4) @ P, np.kron(F4, I4))
counts = [int(np.count_nonzero(abs(f) > 1e-12)) for f in factors]
print("nonzero entries of the four factors:", counts)


def draw_matrix(ax, matrix, title):
    """Draw the phase of each entry as a colour; entries that are zero stay white."""
    phase = np.ma.masked_where(np.abs(matrix) < 1e-12, np.round(np.angle(matrix), 9) % (2 * np.pi))
    ax.imshow(phase, cmap="hsv", vmin=0, vmax=2 * np.pi, alpha=0.8)
    ax.set_title(title, loc="center", fontsize=10)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(True)


fig, axes = plt.subplots(1, 5, figsize=(9.6, 2.3))
for ax, matrix, title in zip(
    axes,
    [dft_matrix(16), *factors],
    ["$F_{16}$  =", "$P$", "$I_4 \\otimes F_4$", "$T$", "$F_4 \\otimes I_4$"],
):
    draw_matrix(ax, matrix, title)
fig.suptitle("the colour is the phase of an entry; white is zero", fontsize=9, y=0.02)
plt.show()

# %% [markdown]
# ## Step 3. The twiddles, drawn by their phase
#
# A twiddle has modulus 1, so it only turns a value, by $k_1 n_2 / N$ of a full
# circle. The values in row $k_1 = 0$ and in column $n_2 = 0$ are not turned at all.
# The last corner is turned furthest, by 9/16 of a circle on the left and by 961/1024
# on the right.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5), width_ratios=[1, 1.15])
k1, n2 = np.indices((4, 4))
turn = -2 * np.pi * k1 * n2 / 16
left.quiver(
    n2,
    k1,
    np.cos(turn),
    np.sin(turn),
    -turn,
    cmap="hsv",
    pivot="mid",
    clim=(0, 2 * np.pi),
    scale=5.5,
    width=0.014,
)
left.set(
    title="16 = 4 · 4: each twiddle as an arrow",
    aspect="equal",
    xlim=(-0.6, 3.6),
    ylim=(3.6, -0.6),
    xticks=range(4),
    yticks=range(4),
    xlabel="$n_2$",
    ylabel="$k_1$",
)
left.grid(False)
k1, n2 = np.indices((32, 32))
image = right.imshow(k1 * n2 / 1024, cmap="hsv", vmin=0, vmax=1)
right.set(
    title="1024 = 32 · 32: phase as colour",
    xticks=range(0, 32, 8),
    yticks=range(0, 32, 8),
    xlabel="$n_2$",
    ylabel="$k_1$",
)
right.grid(False)
fig.colorbar(image, ax=right, label="turn, clockwise (full circles)")
plt.show()

# %% [markdown]
# ## Step 4. The permutation
#
# After the stages, place $k_1 N_2 + k_2$ of the array holds frequency
# $k_1 + N_1 k_2$: the digits stand in the reverse order of their weights. We call
# this order of the frequencies **stage order**. If all radices are 2 it is the
# well-known *bit reversal*. To sort the frequencies means to move every value in
# memory without computing anything, and for long rows memory traffic takes a large part
# of the time. Step 7 avoids it.


# %%
def stage_order(radices):
    """Return the frequency that the stages leave at each place."""
    frequency, weight = np.zeros(1, dtype=int), 1
    for N_i in radices:  # k = k_1 + N_1 (k_2 + N_2 (k_3 + ...))
        frequency = (frequency[:, None] + weight * np.arange(N_i)).ravel()
        weight *= N_i
    return frequency


assert np.array_equal(stage_order([4, 4]), frequencies.ravel())
assert np.array_equal(stage_order([2, 2, 2])[1], 0b100)  # 001 -> 100

fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.4), sharey=True)
for ax, radices in zip(axes, [(4, 4), (2, 8), (2, 2, 2, 2)]):
    for place, frequency in enumerate(stage_order(radices)):
        ax.plot([0, 1], [place, frequency], "o-", ms=3.5, lw=1.4, color=plt.cm.viridis(place / 18))
    ax.set(
        title=dots(radices),
        xlim=(-0.15, 1.15),
        xticks=[0, 1],
        xticklabels=["place after\nthe stages", "frequency"],
        yticks=range(0, 16, 5),
    )
    ax.grid(False)
axes[0].set_ylabel("index")
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# ## Step 5. Orders 3 and 4: split the second factor again
#
# The DFT of rows, the fourth of the five lines in step 1, has length $N_2$. If $N_2$
# is still too long for one matrix, split it in the same way. Higher orders need no
# other idea: transform the columns, multiply by the twiddles, and treat each row as a
# shorter problem of the same kind.


# %%
def stages(x, radices):
    """Run all stages along the last axis and return the result in stage order."""
    N1, N = radices[0], x.shape[-1]
    rest = N // N1
    assert N == np.prod(radices)
    k1, n2 = np.indices((N1, rest))
    A = x.reshape(*x.shape[:-1], N1, rest)
    C = (dft_matrix(N1) @ A) * np.exp(-2j * np.pi * k1 * n2 / N)
    if len(radices) > 1:
        C = stages(C, radices[1:])  # each row is a shorter DFT
    return C.reshape(x.shape)


def in_order(spectrum, radices):
    """Sort a spectrum from stage order into natural order."""
    X = np.empty_like(spectrum)
    X[..., stage_order(radices)] = spectrum
    return X


N = 4096
x = complex_row(N)
truth = np.fft.fft(x)
for radices in [(64, 64), (16, 16, 16), (8, 8, 8, 8), (128, 32), (32, 8, 4, 4), (2,) * 12]:
    X = in_order(stages(x, radices), radices)
    error = np.abs(X - truth).max() / np.abs(truth).max()
    print(f"order {len(radices):2d}   {dots(radices):25s} error {error:.1e}")
    assert error < 1e-13

# %% [markdown]
# The radices need not be powers of two. Any factors will do:

# %%
for radices in [(3, 5, 7), (11, 13), (6, 10, 9)]:
    x = complex_row(int(np.prod(radices)))
    assert np.allclose(in_order(stages(x, radices), radices), np.fft.fft(x), rtol=0, atol=1e-12)

# %% [markdown]
# ## Step 6. What an order costs
#
# A stage of radix $N_i$ computes each of the $N$ points as a sum of $N_i$ complex
# products. A complex product and its addition to the sum take 8 real operations (4
# products and 4 additions), so the stage takes $8 N N_i$. A transform of order $p$
# with equal radices takes $8\,p\,N^{1+1/p}$; for $p = \log_2 N$ this is proportional
# to $N \log N$ like the FFT. So **a lower order does more arithmetic**, but it does it
# in fewer and larger products and moves the data through memory fewer times. Lesson 3
# shows when that is faster.

# %%
sizes = 2 ** np.arange(4, 23)
fig, ax = plt.subplots(figsize=(7, 3.7))
for p, colour in zip([1, 2, 3, 4], ["C4", "C0", "C1", "C2"]):
    ax.loglog(
        sizes,
        8 * p * sizes ** (1 / p),
        color=colour,
        label=f"order {p}: $8 \\cdot {p} \\cdot N^{{1/{p}}}$",
    )
ax.loglog(sizes, 5 * np.log2(sizes), "k--", lw=1.2, label="FFT: $5 \\log_2 N$")
ax.set(
    title="real operations per point of one DFT, equal radices",
    xlabel="N (points)",
    ylabel="operations per point",
    ylim=(10, 1e5),
)
ax.set_xscale("log", base=2)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## Step 7. Transform and inverse without any permutation
#
# A convolution only needs $F^{-1}(Fk \odot Fu)$, where $k$ is again a filter as in
# lesson 1. The product in the middle is taken point by point. So **any order of the
# frequencies will do, as long as it is the same for $u$ and $k$**, and both can stay
# in stage order. The inverse transform undoes the stages one by one, beginning with
# the last: conjugate DFT of the rows, conjugate twiddles, conjugate DFT of the
# columns. In the language of the field, the transform is *decimation in frequency*
# and the inverse is *decimation in time*. No value is ever moved just to sort it. A
# spectrum in natural order that comes from elsewhere is permuted once, and not on
# every call.


# %%
def unstages(X, radices):
    """Invert stages(): take a spectrum in stage order, return samples in natural order."""
    N1, N = radices[0], X.shape[-1]
    rest = N // N1
    C = X.reshape(*X.shape[:-1], N1, rest)
    if len(radices) > 1:
        C = unstages(C, radices[1:])  # undo the later stages first
    k1, n2 = np.indices((N1, rest))
    B = C * np.exp(+2j * np.pi * k1 * n2 / N)  # undo the twiddle
    return (dft_matrix(N1).conj() @ B / N1).reshape(X.shape)  # undo the columns


radices = (8, 16, 4)
N = int(np.prod(radices))
u, k = complex_row(N), complex_row(N)
assert np.allclose(unstages(stages(u, radices), radices), u, rtol=0, atol=1e-13)

y = unstages(stages(k, radices) * stages(u, radices), radices)  # no permutation
truth = np.fft.ifft(np.fft.fft(k) * np.fft.fft(u))
assert np.allclose(y, truth, rtol=0, atol=1e-12)

K = np.fft.fft(k)[stage_order(radices)]  # a natural spectrum, sorted once
assert np.allclose(unstages(K * stages(u, radices), radices), truth, rtol=0, atol=1e-12)

# %% [markdown]
# ## Step 8. The library's own stages
#
# `fftconv.monarch` runs the same stage code as the convolutions, and can run a single
# stage. Its intermediate results must equal those of step 5, and they must lie in the
# same order: after stage $i$ the digits $k_1 \dots k_i$ stand where the digits
# $n_1 \dots n_i$ stood before.

# %%
from fftconv import monarch

radices = (16, 8, 4)
N = int(np.prod(radices))
x = complex_row(N)

by_hand = x.reshape(1, N)
ours = x
for i, N_i in enumerate(radices, 1):
    # Stage i by hand: for every row that stage i - 1 left, the DFT of its columns.
    rest = by_hand.shape[-1] // N_i
    k_i, n = np.indices((N_i, rest))
    twiddle = np.exp(-2j * np.pi * k_i * n / by_hand.shape[-1])
    by_hand = (dft_matrix(N_i) @ by_hand.reshape(-1, N_i, rest)) * twiddle
    by_hand = by_hand.reshape(-1, rest)

    ours = monarch.stage(ours, i, radices)
    error = np.abs(ours - by_hand.ravel()).max() / np.abs(ours).max()
    print(f"after stage {i} (radix {N_i:2d}): difference {error:.1e}")
    assert error < 1e-14

assert np.array_equal(monarch.digit_reversal(radices), stage_order(radices))
assert np.allclose(monarch.dft(x, radices), np.fft.fft(x), rtol=0, atol=1e-12)
assert np.allclose(monarch.idft(monarch.dft(x, radices), radices), x, rtol=0, atol=1e-13)

# %% [markdown]
# ## Step 9. Dense products and codelets
#
# On tensor cores a stage is a dense product with $F_{N_i}$, as above. A CPU core has
# no such unit, and a small DFT can be computed with fewer operations. A **codelet** is
# a DFT of 2 to 16 points that is written out as additions and a few products, in the
# way of lesson 1, step 7. Below is a codelet for 4 points. It takes 16 real additions,
# where the dense product takes $8 \cdot 4^2 = 128$ operations.


# %%
def codelet_4(x):
    a, b = x[0] + x[2], x[0] - x[2]
    c, d = x[1] + x[3], x[1] - x[3]
    return np.array([a + c, b - 1j * d, a - c, b + 1j * d])  # 8 complex additions in all


x = complex_row(4)
assert np.allclose(codelet_4(x), dft_matrix(4) @ x, rtol=0, atol=1e-15)

# %% [markdown]
# The library has both. `dense=True` forces the dense product. The results are equal
# up to rounding, and the counters of a plan say how many operations each stage takes,
# for transform and inverse together, over all rows. A radix that has no codelet of its
# own runs as several smaller ones, for example 64 as 8 · 8. So with codelets the
# radices that you ask for determine the order of the frequencies, but not always the
# arithmetic. The column "runs as" shows the radices that are really used.

# %%
import fftconv

B, H, L = 2, 4, 4096
u = rng.standard_normal((B, H, L)).astype(np.float32)
k = rng.standard_normal((H, L)).astype(np.float32)
truth = fftconv.reference.conv(u, k, mode="causal")

for radices in [(64, 64), (16, 16, 16)]:
    for dense in (False, True):
        plan = fftconv.Plan(u.shape, k.shape, radices=radices, dense=dense)
        y = plan(u, plan.spectrum(k))
        error = np.abs(y - truth).max() / np.abs(truth).max()
        assert error < 1e-6
        flops = sum(plan.counters.stage_flops) / (B * H * L)
        print(
            f"{dots(radices):10s}{'dense' if dense else 'codelets':10s}"
            f"runs as {dots(plan.stage_radices):10s}"
            f"{flops:7.1f} flops per sample, error {error:.0e}"
        )

# %% [markdown]
# ## Step 10. The right angle, included in the first stage
#
# Lesson 1 ended with the transform of $u[n]\,\theta^n$, $\theta = e^{i\pi/2M}$. As
# $\theta^n = e^{-2\pi i\,n(-1/4)/M}$, this is the DFT evaluated at frequency
# $k - \tfrac14$ instead of $k$. Put that into the product of step 1:
#
# $$n\,(k - \tfrac14) = n_1 (k_1 - \tfrac14) N_2 + n_2 (k_1 - \tfrac14)
#   + n_2 k_2 N_1 + n_1 k_2 N_1 N_2.$$
#
# Only the first stage changes: its matrix and its twiddles use $k_1 - \tfrac14$ in
# place of $k_1$. In addition the input of this stage is real, so half of the real
# products would be with zero and are left out. Where only the real part of the result
# is wanted, half of the last stage of the inverse is left out too.


# %%
def right_angle_stages(u, radices):
    N1, M = radices[0], len(u)
    rest = M // N1
    k1, n1 = np.indices((N1, N1))
    F = np.exp(-2j * np.pi * n1 * (k1 - 0.25) / N1)
    k1, n2 = np.indices((N1, rest))
    T = np.exp(-2j * np.pi * n2 * (k1 - 0.25) / M)
    return stages((F @ u.reshape(N1, rest)) * T, radices[1:]).ravel()


radices = (16, 8, 8)
M = int(np.prod(radices))
u1 = rng.standard_normal(M)
theta = np.exp(1j * np.pi * np.arange(M) / (2 * M))  # theta^n
assert np.allclose(
    in_order(right_angle_stages(u1, radices), radices), np.fft.fft(u1 * theta), rtol=0, atol=1e-12
)

plan = fftconv.Plan((1, 1, M), (1, M), dtype="float64", radices=radices, form="right_angle")
spectra = plan.rows_to_spectra(u1.reshape(1, 1, M))  # in stage order
assert np.allclose(plan.natural(spectra).ravel(), np.fft.fft(u1 * theta), rtol=0, atol=1e-12)

# %% [markdown]
# ## Step 11. Measured times
#
# We run the same causal convolution with different radices, as codelets and as dense
# products, on one core of the machine that ran this lesson. Every result is checked
# before it is timed. The calls take turns, and each gets the median of this thread's
# processor times.

# %%
B, H, L = 1, 8, 4096
u = rng.standard_normal((B, H, L)).astype(np.float32)
k = rng.standard_normal((H, L)).astype(np.float32)
truth = fftconv.reference.conv(u, k, mode="causal")
choices = [(64, 64), (128, 32), (16, 16, 16), (32, 16, 8), (8, 8, 8, 8), (4,) * 6]
calls = []
for radices in choices:
    for dense in (False, True):
        plan = fftconv.Plan(u.shape, k.shape, radices=radices, dense=dense, threads=1)
        spectrum, y = plan.spectrum(k), np.empty_like(u)
        plan(u, spectrum, out=y)
        assert np.abs(y - truth).max() < 1e-6 * np.abs(truth).max()
        calls.append(partial(plan, u, spectrum, out=y))

taken = np.zeros((25, len(calls)))
for round_ in taken:
    for i, call in enumerate(calls):
        start = time.thread_time()
        call()
        round_[i] = time.thread_time() - start
nanoseconds = 1e9 * np.median(taken, axis=0) / u.size
codelet_ns, dense_ns = nanoseconds[0::2], nanoseconds[1::2]
print(
    f"{platform.system()} {platform.machine()}, {plan.isa}, "
    f"libfftconv {fftconv.__version__}, NumPy {np.__version__}"
)

fig, ax = plt.subplots(figsize=(7.6, 3.4))
place = np.arange(len(choices))
for shift, values, colour, name in [
    (-0.2, codelet_ns, "C0", "codelets"),
    (0.2, dense_ns, "C1", "dense products"),
]:
    bars = ax.barh(place + shift, values, 0.38, color=colour, label=name)
    ax.bar_label(bars, [f"{v:.1f}" for v in values], padding=3, fontsize=8.5)
ax.set(
    yticks=place,
    yticklabels=[dots(r) for r in choices],
    xlabel="processor time per sample (ns), one thread, float32",
    title=f"causal convolution, B = {B}, H = {H}, L = {L}: measured here",
)
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.legend(loc="lower right")
plt.show()
for name, values in [("codelets", codelet_ns), ("dense products", dense_ns)]:
    print(
        f"{name}: the slowest takes {values.max() / values.min():.1f} times as long as the fastest"
    )

# %% [markdown]
# As codelets the six decompositions run as similar small steps, and their times differ
# much less than those of the dense products; the lines printed above say by how much.
# They are not equal, because the codelets that a radix runs as differ in speed: 64 · 64
# and 8 · 8 · 8 · 8 both run as four stages of radix 8, while 16 · 16 · 16 runs as three
# stages of radix 16. The times of the dense products follow the operations counted in
# step 6, so large radices are slow. They are worth using on machines that multiply
# matrices at ten times the rate of all other arithmetic. Lesson 3 puts that ratio into
# an equation.
