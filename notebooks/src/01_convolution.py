# %% [markdown]
# # 1. Convolution, and why it costs N log N
#
# This lesson starts from a sequence of numbers and a filter and ends with the
# way libfftconv turns one long convolution into one short complex transform.
# You need to know what a matrix and a complex number are, no more. Each step is
# one idea longer than the last; each claim is followed by an `assert` or by a
# figure of something measured on the machine that ran it.
#
# | step | idea |
# |---|---|
# | 1–2 | a signal, a filter, and the sum that joins them |
# | 3–4 | the same sum as a matrix; causal, circular, padded |
# | 5–6 | the DFT as a matrix; it makes every circular convolution a product |
# | 7 | why the fast transform costs N log N |
# | 8–9 | a real row costs half: even/odd packing, the right angle, folds |
# | 10 | the library, on a whole genome |

# %%
import gzip
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's products on one thread
import matplotlib.pyplot as plt
import numpy as np

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(1)

# %% [markdown]
# ## Step 1. A signal
#
# Bacteriophage lambda is a virus of 48,502 letters of DNA. Write 1 where the
# letter is G or C and 0 where it is A or T. That is our sequence $u$: real
# data, and long enough that a slow method hurts.

# %%
with gzip.open("../experiments/data/lambda_virus.fa.gz", "rt") as file:
    file.readline()  # the record's title
    genome = file.read().replace("\n", "")

u = np.array([base in "GC" for base in genome], dtype=np.float64)
assert len(u) == 48502 and set(genome) == set("ACGT")
print(genome[:60])
print("".join(str(int(v)) for v in u[:60]))
print(f"L = {len(u)} letters, {u.mean():.1%} of them G or C")

# %% [markdown]
# ## Step 2. A filter, and the sum
#
# To **convolve** $u$ with a filter $k$ of $L_k$ taps means
#
# $$y[t] = \sum_{s=0}^{L_k-1} k[s]\, u[t-s], \qquad u[n] = 0 \text{ for } n < 0.$$
#
# Tap $k[s]$ says how much of what was there $s$ places ago is still heard now.
# It never looks ahead, so it is called **causal**. With $k[s] = 1/L_k$ the sum
# is a mean of the last $L_k$ letters: the *GC content* of a window.


# %%
def convolve_by_hand(u, k):
    """Causal convolution, cut to the input's length: L * Lk products."""
    y = np.zeros(len(u))
    for s in range(len(k)):
        y[s:] += k[s] * u[: len(u) - s]
    return y


k = np.full(12, 1 / 12)
short = u[:80]
y = convolve_by_hand(short, k)
assert np.allclose(y, np.convolve(short, k)[:80], rtol=0, atol=1e-15)

fig, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 3.4), sharex=True, height_ratios=[1, 1.6])
top.bar(range(80), short, width=0.8, color="C0")
top.set(title="u[n]: 1 where the letter is G or C", yticks=[0, 1])
bottom.plot(y, "o-", color="C1")
bottom.axvspan(40 - 11.5, 40.5, color="C1", alpha=0.15, lw=0)
bottom.annotate(
    "y[40] is the mean\nof these 12 letters",
    (40, y[40]),
    (31, 0.72),
    arrowprops={"arrowstyle": "-", "color": "C1", "shrinkB": 4},
)
bottom.set(
    title="y = u * k, the mean of the last 12 letters",
    xlabel="place in the sequence (letters)",
    ylabel="GC content",
    ylim=(0, 1),
)
plt.show()

# %% [markdown]
# Two facts follow from the sum at once, and the tests of the library lean on
# them. It is **linear** in $u$, and **shifting** $u$ shifts $y$. So what the
# filter does to one single 1 (its *impulse response*, $k$ itself) says what it
# does to everything.

# %%
a, b = rng.standard_normal((2, 80))
k = rng.standard_normal(12)
assert np.allclose(
    convolve_by_hand(2 * a + b, k), 2 * convolve_by_hand(a, k) + convolve_by_hand(b, k)
)
shifted = np.concatenate([np.zeros(5), a[:-5]])
assert np.allclose(convolve_by_hand(shifted, k)[5:], convolve_by_hand(a, k)[:-5])
impulse = np.eye(80)[0]
assert np.array_equal(convolve_by_hand(impulse, k)[:12], k)

# %% [markdown]
# ## Step 3. The same sum as a matrix
#
# A linear map is a matrix. Here $y = Tu$ with $T[t, s] = k[t-s]$: the same
# number all along each diagonal (a **Toeplitz** matrix), and zero above the
# main diagonal, because nothing looks ahead.
#
# If we let the index wrap round, $C[t, s] = k[(t-s) \bmod N]$, the matrix is
# **circulant** and the convolution **circular modulo N**: what falls off the
# end comes back in at the front. A filter may also be as long as the sequence,
# and that is the case this library is for.

# %%
L = 12
k = 0.8 ** np.arange(L) * np.cos(np.arange(L))  # a filter of L taps
x = rng.standard_normal(L)


def toeplitz(k, L):
    t, s = np.indices((L, L))
    return np.where(t >= s, k[t - s], 0.0)  # k[t-s], causal


def circulant(k, N):
    k = np.concatenate([k, np.zeros(N - len(k))])
    t, s = np.indices((N, N))
    return k[(t - s) % N]


assert np.allclose(toeplitz(k, L) @ x, np.convolve(x, k)[:L])

# %% [markdown]
# ## Step 4. Padding: a circular convolution that does a causal one's work
#
# Why care about the circular kind? Because step 6 makes it cheap. And the
# causal kind is hidden in it: put $L$ zeros behind $x$ and $k$, take $N = 2L$,
# and what wraps round is only zeros. In the right-hand matrix below, the upper
# left quarter *is* the Toeplitz matrix, and the columns on the right meet
# nothing but padding.

# %%
padded = np.concatenate([x, np.zeros(L)])
causal = toeplitz(k, L) @ x
wrapped = circulant(k, L) @ x
assert np.allclose((circulant(k, 2 * L) @ padded)[:L], causal)
assert not np.allclose(wrapped, causal)

fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.2), width_ratios=[1, 1, 1.05])
for ax, matrix, title in [
    (axes[0], toeplitz(k, L), "causal: Toeplitz"),
    (axes[1], circulant(k, L), "circular modulo L"),
    (axes[2], circulant(k, 2 * L), "circular modulo 2L"),
]:
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    ticks = range(0, len(matrix), len(matrix) // 4)
    ax.set(title=title, xticks=ticks, yticks=ticks, xlabel="input place s", ylabel="output place t")
    ax.grid(False)
axes[2].add_patch(plt.Rectangle((-0.5, -0.5), L, L, fill=False, ec="k", lw=1.5))
axes[2].axvspan(L - 0.5, 2 * L - 0.5, color="0.8", alpha=0.55, lw=0)
axes[2].text(1.5 * L - 0.5, 0.45 * L, "meets\nzeros", ha="center", fontsize=9)
fig.colorbar(image, ax=axes, shrink=0.8, label="matrix entry")
plt.show()

# %% [markdown]
# ## Step 5. The DFT is a matrix too
#
# The discrete Fourier transform of $N$ numbers is the product $X = F x$ with
#
# $$F[m, n] = e^{-2\pi i\, mn/N}.$$
#
# Row $m$ is a wave that turns $m$ times round the circle. The matrix is
# symmetric, and its inverse is its own conjugate over $N$. Nothing here is
# "fast" yet: it is a matrix times a vector, $N^2$ products.


# %%
def dft_matrix(N):
    m, n = np.indices((N, N))
    return np.exp(-2j * np.pi * (m * n % N) / N)


N = 16
F = dft_matrix(N)
z = rng.standard_normal(N) + 1j * rng.standard_normal(N)
assert np.allclose(F @ z, np.fft.fft(z), rtol=0, atol=1e-13)
assert np.array_equal(F, F.T)
assert np.allclose(F.conj() @ F / N, np.eye(N))

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=[1, 1.5])
image = left.imshow(np.angle(F), cmap="twilight", vmin=-np.pi, vmax=np.pi)
left.set(
    title="phase of F, N = 16", xlabel="n", ylabel="m", xticks=range(0, N, 4), yticks=range(0, N, 4)
)
left.grid(False)
bar = fig.colorbar(image, ax=left, ticks=[-np.pi, 0, np.pi], shrink=0.85, label="phase (radians)")
bar.ax.set_yticklabels(["−π", "0", "π"])
fine = np.linspace(0, N - 1, 400)
for m in range(4):
    right.plot(fine, np.cos(2 * np.pi * m * fine / N) - 2.6 * m, "0.8", lw=1)
    right.plot(np.arange(N), F[m].real - 2.6 * m, "o", color=f"C{m}")
right.set(
    title="real part of its first four rows",
    xlabel="n",
    yticks=[-2.6 * m for m in range(4)],
    yticklabels=[f"m = {m}" for m in range(4)],
)
plt.show()

# %% [markdown]
# ## Step 6. The DFT turns circular convolution into a product
#
# Take a wave of $m$ turns into a circular convolution: shifting a wave only
# turns it, so the same wave comes out, multiplied by one complex number,
# $K[m] = (Fk)[m]$. In matrix words the waves are eigenvectors of *every*
# circulant matrix,
#
# $$F\, C\, F^{-1} = \operatorname{diag}(F k), \qquad\text{so}\qquad
#   y = F^{-1}\big(Fk \odot Fu\big).$$
#
# This is the **convolution theorem**. The $N^2$ products are now $N$, with
# three transforms around them.

# %%
N = 24
k24 = np.concatenate([k, np.zeros(N - L)])
C = circulant(k, N)
F = dft_matrix(N)
D = F @ C @ F.conj() / N  # F C F^-1
assert np.allclose(D, np.diag(F @ k24), rtol=0, atol=1e-13)

y = np.fft.ifft(np.fft.fft(k24) * np.fft.fft(padded)).real
assert np.allclose(y[:L], causal, rtol=0, atol=1e-14)  # padded: causal again

fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2))
for ax, matrix, title in [
    (axes[0], np.abs(C), "|C|: a circulant matrix"),
    (axes[1], np.abs(D), "|F C F⁻¹|: only a diagonal"),
]:
    image = ax.imshow(matrix, cmap="Blues", vmin=0)
    ax.set(title=title, xlabel="column", ylabel="row")
    ax.grid(False)
    fig.colorbar(image, ax=ax, shrink=0.85, label="magnitude")
plt.show()

# %% [markdown]
# ## Step 7. Why N log N
#
# The three transforms cost $3N^2$ as matrices: nothing is won yet. But $F$ has
# structure. Sum over even and odd places apart, $n = 2j$ and $n = 2j+1$:
#
# $$X[m] = \sum_j x[2j]\, e^{-2\pi i\, mj/(N/2)} \;+\; e^{-2\pi i\, m/N}
#   \sum_j x[2j+1]\, e^{-2\pi i\, mj/(N/2)}.$$
#
# Both sums are DFTs of *half* the length. They repeat after $N/2$ values of
# $m$, while the factor in front (the **twiddle**) changes sign. So $N/2$
# products join two halves. There are $\log_2 N$ halvings, hence
# $\tfrac N2\log_2 N$ products in all. We let the program count them.

# %%
products = 0


def fft(x):
    """X = F x by halving, N a power of two; counts its complex products."""
    global products
    N = len(x)
    if N == 1:
        return x
    even, odd = fft(x[0::2]), fft(x[1::2])
    odd = odd * np.exp(-2j * np.pi * np.arange(N // 2) / N)  # twiddles
    products += N // 2
    return np.concatenate([even + odd, even - odd])  # m, m + N/2


sizes = 2 ** np.arange(1, 13)
counted = []
for N in sizes:
    z = rng.standard_normal(N) + 1j * rng.standard_normal(N)
    products = 0
    assert np.allclose(fft(z), np.fft.fft(z), rtol=0, atol=1e-12 * N)
    counted.append(products)
counted = np.array(counted)
assert np.array_equal(counted, sizes * np.log2(sizes) / 2)

# %% [markdown]
# And the clock agrees. Three ways to the same causal convolution with a filter
# as long as the sequence: the sum of step 2, the matrix of step 3, and NumPy's
# FFT on padded rows. Each is checked first, then timed in turns; the median
# counts. The clock is the thread's own processor time, so that whatever else
# the machine is doing stays out of it.


# %%
def medians(calls, rounds=15):
    """Median processor seconds of each call, the calls taking turns."""
    taken = []
    for _ in range(rounds):
        taken.append([])
        for call in calls:
            start = time.thread_time()
            call()
            taken[-1].append(time.thread_time() - start)
    return np.median(taken, axis=0)


rfft, irfft = np.fft.rfft, np.fft.irfft
lengths = 2 ** np.arange(5, 12)
rows = []
for L in lengths:
    x, k = rng.standard_normal((2, L))
    T = toeplitz(k, L)
    ways = [
        lambda: convolve_by_hand(x, k),
        lambda: T @ x,
        lambda: irfft(rfft(k, 2 * L) * rfft(x, 2 * L))[:L],
    ]
    for way in ways[1:]:
        assert np.allclose(way(), ways[0](), rtol=0, atol=1e-12 * L)
    rows.append(medians(ways))

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
left.loglog(sizes, sizes**2, "s-", color="C1", label="matrix: N²")
left.loglog(sizes, counted, "o-", color="C0", label="FFT, counted: (N/2) log₂ N")
left.set(title="complex products of one DFT", xlabel="N (points)", ylabel="products")
left.legend()
for name, marker, colour, times in zip(
    ["the sum, a tap at a time", "Toeplitz matrix, built before", "NumPy FFT, padded"],
    "^so",
    ["C2", "C1", "C0"],
    np.transpose(rows),
):
    right.loglog(lengths, 1e6 * times, marker + "-", color=colour, label=name)
right.set(
    title="one causal convolution, measured here", xlabel="L = Lk (samples)", ylabel="time (µs)"
)
right.legend()
for ax in (left, right):
    ax.set_xscale("log", base=2)
plt.show()

# %% [markdown]
# ## Step 8. A real row costs half: even/odd packing
#
# Our rows are real, and a complex transform of a real row does everything
# twice: $X[-m] = \overline{X[m]}$. To use the room, put the even samples in the
# real part and the odd ones in the imaginary part of a row of $M = N/2$ complex
# numbers:
#
# $$z[n] = x[2n] + i\,x[2n+1].$$
#
# Let $E, O$ be the DFTs of length $M$ of the even and the odd samples,
# $Z^*[m] = \overline{Z[-m]}$, and $W = e^{-2\pi i/M}$. Then
#
# $$E = \tfrac12 (Z + Z^*), \qquad O = \tfrac1{2i} (Z - Z^*).$$
#
# (The paper's appendix A.1 prints $-i(Z-Z^*)/2i$ for $O$; that is a slip, as
# the assert shows.) A circular convolution mixes them so:
#
# $$Y_e = E K_e + W^m O K_o, \qquad Y_o = E K_o + O K_e,$$
#
# where $W^m$ is the delay by one pair that an odd sample meeting an odd tap
# gives. Put all this into $Y = Y_e + i Y_o$ and collect:
#
# $$Y[m] = A[m]\,Z[m] + B[m]\,\overline{Z[-m]},\qquad
#   A = K_e + \tfrac i2 (1 - W^m) K_o,\quad B = \tfrac i2 (1 + W^m) K_o.$$
#
# Untangle, multiply and tangle again have become one product with a
# **spectrum** $(A, B)$ that depends on $k$ alone and is computed once.

# %%
M = 20
x, k = rng.standard_normal((2, 2 * M))  # circular modulo N = 2M
z = x[0::2] + 1j * x[1::2]
Z = np.fft.fft(z)
Z_mirror = np.conj(Z[-np.arange(M)])  # conj Z[-m]

E, O = (Z + Z_mirror) / 2, (Z - Z_mirror) / 2j
assert np.allclose(E, np.fft.fft(x[0::2]))
assert np.allclose(O, np.fft.fft(x[1::2]))

W = np.exp(-2j * np.pi * np.arange(M) / M)
Ke, Ko = np.fft.fft(k[0::2]), np.fft.fft(k[1::2])
A = Ke + 0.5j * (1 - W) * Ko
B = 0.5j * (1 + W) * Ko
y_packed = np.fft.ifft(A * Z + B * Z_mirror)
y = np.empty(2 * M)
y[0::2], y[1::2] = y_packed.real, y_packed.imag
assert np.allclose(y, circulant(k, 2 * M) @ x, rtol=0, atol=1e-13)

# %% [markdown]
# ## Step 9. The right angle: a causal convolution with no padding at all
#
# There is a neater way where the length is ours to choose. Read the row as a
# polynomial, $u(t) = \sum u[n] t^n$; then $u(t)k(t)$ is the linear convolution,
# $2M-1$ coefficients long. Working circularly modulo $M$ means $t^M = 1$: place
# $M+j$ lands on place $j$ and is lost in it. Choose instead
#
# $$t^M = i.$$
#
# Now place $M+j$ lands on place $j$ *times i*. As everything is real, the two
# stay apart: the real part holds samples $0 \dots M-1$ of the convolution, the
# imaginary part samples $M \dots 2M-1$. The numbers with $t^M = i$ are the
# $M$-th roots of 1, turned by a quarter of a step,
# $t_m = \theta e^{-2\pi i m/M}$ with $\theta = e^{i\pi/2M}$. So
#
# $$U = \mathrm{DFT}_M\big(u[n]\,\theta^n\big),\qquad Y = K\,U,\qquad
#   y[n] = \theta^{-n}\, \mathrm{DFT}_M^{-1}(Y)[n].$$

# %%
M = L = 20
x, k = rng.standard_normal((2, L))
theta = np.exp(1j * np.pi * np.arange(M) / (2 * M))  # theta^n
U, K = np.fft.fft(x * theta), np.fft.fft(k * theta)
y = np.fft.ifft(U * K) / theta

linear = np.convolve(x, k)  # 2M - 1 samples
assert np.allclose(y.real, linear[:M], rtol=0, atol=1e-13)
assert np.allclose(y.imag[:-1], linear[M:], rtol=0, atol=1e-13)
assert abs(y.imag[-1]) < 1e-13  # there is no sample 2M-1

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=[1, 1.7])
circle = np.exp(2j * np.pi * np.linspace(0, 1, 200))
left.plot(circle.real, circle.imag, color="0.8", lw=1)
m = np.arange(8)
for turn, marker, colour, name in [(0, "o", "C4", "t⁸ = 1"), (0.25, "s", "C1", "t⁸ = i")]:
    roots = np.exp(2j * np.pi * (turn - m) / 8)
    assert np.allclose(roots**8, np.exp(2j * np.pi * turn))
    left.plot(roots.real, roots.imag, marker, color=colour, label=name, ms=6)
left.set(
    aspect="equal",
    title="where u(t) is evaluated, M = 8",
    xlabel="real part",
    ylabel="imaginary part",
)
left.legend(loc="center")
right.plot(linear, color="0.75", lw=5, label="linear convolution, np.convolve")
right.plot(np.arange(M), y.real, "o", color="C0", label="Re y: samples 0 … M−1")
right.plot(M + np.arange(M), y.imag, "s", color="C1", label="Im y: samples M … 2M−1")
right.axvline(M - 0.5, color="0.5", lw=0.8)
right.set(
    title=f"{2 * M - 1} samples from a complex transform of {M} points",
    xlabel="sample",
    ylabel="value",
    ylim=(linear.min() - 1, linear.max() + 6),
)
right.legend(loc="upper right", ncols=1)
plt.show()

# %% [markdown]
# Compare what is transformed for a causal convolution of $L$ real samples:

# %%
L = 65536


def halvings(n):
    return n / 2 * np.log2(n)


print("way                 points   products of one transform (step 7)")
for way, n in [("padded, complex", 2 * L), ("padded, even/odd", L), ("right angle", L)]:
    print(f"{way:17s}{n:>9,}{halvings(n):>12,.0f}")

# %% [markdown]
# The two real forms transform alike. The product in the middle differs:
# even/odd takes two per point and brings each value together with its mirror
# from the other end of memory; the right angle takes one, and its turning by
# $\theta^n$ can be hidden in the constants of the first stage (lesson 2, step
# 10).
#
# A row that must wrap around $N$ gets there too. As
# $t^N - 1 = (t^{N/2} - 1)(t^{N/2} + 1)$, fold it in halves: the sums
# $x[n] + x[n + N/2]$ wrap around $N/2$, and the differences $x[n] - x[n + N/2]$
# live where $t^{N/2} = -1$, which is a right angle of $M = N/4$ points. The sums
# fold again.


# %%
def right_angle(x, k):
    """x k modulo t^2M = -1, by M complex points."""
    M = len(x) // 2
    theta = np.exp(1j * np.pi * np.arange(M) / (2 * M))
    X, K = (np.fft.fft((z[:M] + 1j * z[M:]) * theta) for z in (x, k))
    y = np.fft.ifft(X * K) / theta
    return np.concatenate([y.real, y.imag])


def circular(x, k):
    N = len(x)
    if N % 4:
        return np.fft.ifft(np.fft.fft(x) * np.fft.fft(k)).real
    (x0, x1), (k0, k1) = np.split(x, 2), np.split(k, 2)
    sums, differences = circular(x0 + x1, k0 + k1), right_angle(x0 - x1, k0 - k1)
    return np.concatenate([sums + differences, sums - differences]) / 2


x, k = rng.standard_normal((2, 48))
assert np.allclose(
    circular(x, k), [(x[(n - np.arange(48)) % 48] * k).sum() for n in range(48)], rtol=0, atol=1e-13
)

# %% [markdown]
# Together the right angles have $N/4 + N/8 + \dots$ points, as many as even/odd
# packing, and nothing has to meet its mirror. That is the library's form
# "folded".
#
# ## Step 10. The library, on the whole genome
#
# `fftconv.conv(u, k)` is the sum of step 2 for `u` of shape (B, H, L) and `k`
# of shape (H, Lk), by the right angle of step 9 and the stages of lesson 2.
# Three windows are three channels, with one and the same sequence in each. We
# check against `fftconv.reference`, plain float64 NumPy that never calls the
# library.

# %%
import fftconv

windows = [101, 1001, 10001]
k = np.zeros((3, max(windows)), dtype=np.float32)
for row, width in zip(k, windows):
    row[:width] = 1 / width
rows = np.tile(u.astype(np.float32), (1, 3, 1))  # (B, H, L)

y = fftconv.conv(rows, k)
truth = fftconv.reference.conv(rows, k, mode="causal")
error = np.abs(y - truth).max() / np.abs(truth).max()
print(f"y {y.shape} {y.dtype}, largest error / largest value = {error:.1e}")
assert error < 1e-6
assert np.allclose(truth[0, 0, :2000], convolve_by_hand(u[:2000], k[0, :101].astype(float)))

plan = fftconv.Plan(rows.shape, k.shape)
print(plan)

# %%
fig, ax = plt.subplots(figsize=(8.6, 3.4))
for row, width, colour, line in zip(y[0], windows, ["0.8", "C0", "C1"], [0.6, 1.3, 2.2]):
    # A causal mean of `width` letters belongs to the window's middle.
    centre = (np.arange(len(u)) - (width - 1) / 2)[width - 1 :] / 1000
    ax.plot(centre, 100 * row[width - 1 :], color=colour, lw=line, label=f"{width:,} letters")
ax.set(
    title="GC content of phage lambda: three filters, one call",
    xlabel="place in the genome (thousands of letters)",
    ylabel="G or C in the window (%)",
    xlim=(0, len(u) / 1000),
)
ax.legend(title="window", loc="upper right", ncols=3)
plt.show()

# %% [markdown]
# The left half of the genome, which makes the virus's head and tail, is rich in
# G and C; the right half is not, and the short window shows the noise that the
# long ones average away.
#
# **Next.** Lesson 2 takes step 7 apart: instead of halving, it splits $N$ into
# a few large factors, so that the transform becomes a few matrix products.
