# %% [markdown]
# # 1. Convolution, and why it costs N log N
#
# This lesson starts from a sequence of numbers and a filter. It ends with the
# method by which libfftconv turns one long convolution into one complex Fourier
# transform of half the usual length. You need to know what a matrix and a complex
# number are, and a little NumPy. Each step adds one idea to the step before it.
# Each claim is followed by an `assert` that checks it, or by a figure of something
# measured on the machine that ran the lesson.
#
# | step | idea |
# |---|---|
# | 1–2 | a signal, a filter, and the sum that combines them |
# | 3–4 | the same sum as a matrix; causal and circular convolution, padding |
# | 5–6 | the DFT as a matrix; it turns every circular convolution into a product |
# | 7 | why the fast transform costs N log N |
# | 8–9 | a real signal costs half: even/odd packing, the right angle, folding |
# | 10 | the library, applied to a whole genome |

# %%
import gzip
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy multiplies matrices on one thread
import matplotlib.pyplot as plt
import numpy as np

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(1)

# %% [markdown]
# ## Step 1. A signal
#
# Bacteriophage lambda is a virus whose DNA has 48,502 letters. We write 1 where
# the letter is G or C, and 0 where it is A or T. This sequence is our signal $u$.
# It is real data, and it is long enough for a slow method to be noticeably slow.

# %%
with gzip.open("../experiments/data/lambda_virus.fa.gz", "rt") as file:
    file.readline()  # skip the title line
    genome = file.read().replace("\n", "")

u = np.array([base in "GC" for base in genome], dtype=np.float64)
assert len(u) == 48502 and set(genome) == set("ACGT")
print(genome[:60])
print("".join(str(int(v)) for v in u[:60]))
print(f"L = {len(u)} letters, {u.mean():.1%} of them G or C")

# %% [markdown]
# ## Step 2. A filter, and the sum
#
# A filter $k$ is a list of $L_k$ numbers, called its **taps**. The **convolution**
# of $u$ with $k$ is
#
# $$y[t] = \sum_{s=0}^{L_k-1} k[s]\, u[t-s], \qquad u[n] = 0 \text{ for } n < 0.$$
#
# Tap $k[s]$ is the weight that the sample $s$ places earlier has in the present
# output. An output never depends on later samples, so this convolution is called
# **causal**. If every tap is $1/L_k$, the sum is the mean of the last $L_k$
# letters, which is the *GC content* of a window of the genome. For the first
# $L_k - 1$ outputs the window reaches back to before the sequence, where $u$ counts
# as zero. That is why the lower curve of the figure begins near 0.


# %%
def convolve_by_hand(u, k):
    """Return the first len(u) samples of the causal convolution, by L * Lk products."""
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
top.set(title="the signal u[n]: 1 where the letter is G or C", yticks=[0, 1])
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
    xlabel="position in the sequence (letters)",
    ylabel="GC content",
    ylim=(0, 1),
)
plt.show()

# %% [markdown]
# Two facts follow from the sum at once, and the library's tests use both. The
# convolution is **linear** in $u$, and **shifting** $u$ shifts $y$ by as many
# places. Therefore the answer of the filter to a single 1 (its *impulse response*,
# which is $k$ itself) determines its answer to every signal.

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
# Every linear map is a matrix. Here it is $y = Tu$ with $T[t, s] = k[t-s]$. The
# entries along each diagonal are equal, so $T$ is called a **Toeplitz** matrix.
# They are zero above the main diagonal, because the convolution is causal.
#
# If the index is taken modulo $N$, $C[t, s] = k[(t-s) \bmod N]$, the matrix is
# called **circulant** and the convolution **circular modulo $N$**: samples that
# move past the end come back in at the front. A filter may be as long as the
# sequence, and that is the case for which the library is made.

# %%
L = 12
k = 0.8 ** np.arange(L) * np.cos(np.arange(L))  # a filter of L taps
x = rng.standard_normal(L)


def toeplitz(k, L):
    t, s = np.indices((L, L))
    return np.where(t >= s, k[t - s], 0.0)  # k[t-s], zero where t < s


def circulant(k, N):
    k = np.concatenate([k, np.zeros(N - len(k))])
    t, s = np.indices((N, N))
    return k[(t - s) % N]


assert np.allclose(toeplitz(k, L) @ x, np.convolve(x, k)[:L])

# %% [markdown]
# ## Step 4. Padding: a causal convolution inside a circular one
#
# Circular convolutions matter because step 6 makes them cheap, and because a causal
# convolution is part of a longer circular one. Append $L$ zeros to $x$ and to $k$,
# and work modulo $N = 2L$. Then only zeros wrap round. In the right-hand matrix
# below, the upper left quarter is exactly the Toeplitz matrix, and the columns on
# the right are multiplied by the padding, which is zero.

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
    ax.set(title=title, xticks=ticks, yticks=ticks, xlabel="input index s", ylabel="output index t")
    ax.grid(False)
axes[2].add_patch(plt.Rectangle((-0.5, -0.5), L, L, fill=False, ec="k", lw=1.5))
axes[2].axvspan(L - 0.5, 2 * L - 0.5, color="0.8", alpha=0.55, lw=0)
axes[2].text(1.5 * L - 0.5, 0.45 * L, "times\nzero", ha="center", fontsize=9)
fig.colorbar(image, ax=axes, shrink=0.8, label="matrix entry")
plt.show()

# %% [markdown]
# ## Step 5. The DFT is a matrix too
#
# The **discrete Fourier transform** (DFT) of $N$ numbers is the product $X = F x$
# with
#
# $$F[m, n] = e^{-2\pi i\, mn/N}.$$
#
# Row $m$ is a complex wave that goes $m$ times round the unit circle, so $m$ is
# called the **frequency**. The matrix is symmetric, and its inverse is its complex
# conjugate divided by $N$. Nothing here is fast yet: a matrix times a vector takes
# $N^2$ products.


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
    title="real part of the first four rows of F",
    xlabel="n",
    yticks=[-2.6 * m for m in range(4)],
    yticklabels=[f"m = {m}" for m in range(4)],
)
plt.show()

# %% [markdown]
# ## Step 6. The DFT turns circular convolution into a product
#
# Let the input of a circular convolution be a wave of frequency $m$. Shifting a
# wave only multiplies it by a complex number of modulus 1. So the output, a sum of
# shifted waves, is the same wave multiplied by one complex number, which is
# $K[m] = (Fk)[m]$. In terms of matrices: the waves are eigenvectors of *every*
# circulant matrix,
#
# $$F\, C\, F^{-1} = \operatorname{diag}(F k), \qquad\text{so}\qquad
#   y = F^{-1}\big(Fk \odot Fu\big),$$
#
# where $\odot$ multiplies element by element. This is the **convolution theorem**.
# Instead of $N^2$ products there are now $N$, and three transforms.

# %%
N = 24
k24 = np.concatenate([k, np.zeros(N - L)])
C = circulant(k, N)
F = dft_matrix(N)
D = F @ C @ F.conj() / N  # F C F^-1
assert np.allclose(D, np.diag(F @ k24), rtol=0, atol=1e-13)

y = np.fft.ifft(np.fft.fft(k24) * np.fft.fft(padded)).real
assert np.allclose(y[:L], causal, rtol=0, atol=1e-14)  # with padding, the causal result

fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.2))
for ax, matrix, title in [
    (axes[0], np.abs(C), "|C|: a circulant matrix"),
    (axes[1], np.abs(D), "|F C F⁻¹|: a diagonal matrix"),
]:
    image = ax.imshow(matrix, cmap="Blues", vmin=0)
    ax.set(title=title, xlabel="column", ylabel="row")
    ax.grid(False)
    fig.colorbar(image, ax=ax, shrink=0.85, label="magnitude")
plt.show()

# %% [markdown]
# ## Step 7. Why N log N
#
# As matrix products the three transforms cost $3N^2$, so nothing is gained yet.
# But $F$ has structure. Separate the sum into even places $n = 2j$ and odd places
# $n = 2j+1$:
#
# $$X[m] = \sum_j x[2j]\, e^{-2\pi i\, mj/(N/2)} \;+\; e^{-2\pi i\, m/N}
#   \sum_j x[2j+1]\, e^{-2\pi i\, mj/(N/2)}.$$
#
# Both sums are DFTs of *half* the length, and repeat after $N/2$ values of $m$. The
# factor in front of the second sum, called a **twiddle factor** or twiddle, only
# changes its sign when $m$ grows by $N/2$. So $N/2$ products are enough to combine
# two transforms of half the length into one. The length can be halved $\log_2 N$
# times, hence there are $\tfrac N2\log_2 N$ products in all. This method is the
# **fast Fourier transform** (FFT). The program below counts its products.

# %%
products = 0


def fft(x):
    """Return F x by halving, for N a power of two, and count the complex products."""
    global products
    N = len(x)
    if N == 1:
        return x
    even, odd = fft(x[0::2]), fft(x[1::2])
    odd = odd * np.exp(-2j * np.pi * np.arange(N // 2) / N)  # twiddles
    products += N // 2
    return np.concatenate([even + odd, even - odd])  # X[m], X[m + N/2]


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
# Measured times agree with the count once the rows are long. For short rows the fixed
# cost of calling a NumPy function is larger than the arithmetic. We compare three methods
# for the same causal convolution, with a filter as long as the sequence: the sum of step
# 2, the matrix of step 3, and NumPy's FFT on padded rows. Each result is checked before
# it is timed. The methods take turns, and each gets the median of its times. We measure
# the processor time of this thread, which does not count the time that the processor
# spends on other programs.


# %%
def medians(calls, rounds=15):
    """Return the median processor time of each call in seconds; the calls take turns."""
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
    methods = [
        lambda: convolve_by_hand(x, k),
        lambda: T @ x,
        lambda: irfft(rfft(k, 2 * L) * rfft(x, 2 * L))[:L],
    ]
    for method in methods[1:]:
        assert np.allclose(method(), methods[0](), rtol=0, atol=1e-12 * L)
    rows.append(medians(methods))

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
left.loglog(sizes, sizes**2, "s-", color="C1", label="matrix: N²")
left.loglog(sizes, counted, "o-", color="C0", label="FFT, counted: (N/2) log₂ N")
left.set(title="complex products of one DFT", xlabel="N (points)", ylabel="products")
left.legend()
for name, marker, colour, times in zip(
    ["the sum, tap by tap", "Toeplitz matrix (made beforehand)", "NumPy FFT, padded"],
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
# From here on we call the samples of one signal a **row**. Our rows are real, and
# the complex transform of a real row contains everything twice, because
# $X[-m] = \overline{X[m]}$ (indices are taken modulo the length). To avoid the
# double work, put the even samples into the real part and the odd samples into the
# imaginary part of a row of $M = N/2$ complex numbers:
#
# $$z[n] = x[2n] + i\,x[2n+1].$$
#
# Let $E$ and $O$ be the DFTs of length $M$ of the even and of the odd samples. Let
# $Z$ be the DFT of $z$, and write $Z^*[m] = \overline{Z[-m]}$ for its conjugate at
# the mirrored frequency, and $W = e^{-2\pi i/M}$. Then
#
# $$E = \tfrac12 (Z + Z^*), \qquad O = \tfrac1{2i} (Z - Z^*).$$
#
# (Appendix A.1 of the paper, FlashFFTConv, arXiv 2311.05908, prints
# $-i(Z-Z^*)/2i$ for $O$. The assert below shows that this is a misprint.) Let
# $K_e, K_o$ and $Y_e, Y_o$ be the same for the filter and for the output of the
# circular convolution. An even output comes from an even sample and an even tap, or
# from an odd sample and an odd tap, and similarly for the odd outputs:
#
# $$Y_e = E K_e + W^m O K_o, \qquad Y_o = E K_o + O K_e.$$
#
# The factor $W^m$ is a delay by one pair: the indices $2j+1$ and $2l+1$ add up to
# $2(j+l+1)$. The packed output has the transform
#
# $$Y = Y_e + i Y_o = E\,(K_e + i K_o) + O\,(W^m K_o + i K_e).$$
#
# Insert $E$ and $O$ from above and collect the terms with $Z$ and with $Z^*$:
#
# $$Y[m] = A[m]\,Z[m] + B[m]\,\overline{Z[-m]},\qquad
#   A = K_e + \tfrac i2 (1 - W^m) K_o,\quad B = \tfrac i2 (1 + W^m) K_o.$$
#
# So separating $Z$ into $E$ and $O$, multiplying and packing again have become one
# product with the pair $(A, B)$. This pair depends on $k$ alone and is computed
# once for a filter. The library calls what it prepares from a filter in this way
# the filter's **spectrum**.

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
# There is a simpler method where we may choose the length. Read the row as a
# polynomial, $u(t) = \sum u[n] t^n$. Then the product $u(t)k(t)$ has the linear
# convolution as its coefficients; there are $2M-1$ of them if $u$ and $k$ have $M$
# each. To work circularly modulo $M$ is to set $t^M = 1$: coefficient $M+j$ is
# added to coefficient $j$, and the two cannot be separated any more. Set instead
#
# $$t^M = i.$$
#
# Now coefficient $M+j$ is added to coefficient $j$ after a multiplication by $i$.
# As all samples are real, the two stay apart: the real part holds samples
# $0 \dots M-1$ of the convolution, the imaginary part samples $M \dots 2M-1$. The
# numbers with $t^M = i$ are the $M$-th roots of 1, turned by a quarter of the angle
# between neighbours: $t_m = \theta e^{-2\pi i m/M}$ with $\theta = e^{i\pi/2M}$.
# Evaluating the polynomials there is a DFT of $u[n]\theta^n$, so
#
# $$U = \mathrm{DFT}_M\big(u[n]\,\theta^n\big),\qquad
#   K = \mathrm{DFT}_M\big(k[n]\,\theta^n\big),\qquad
#   y[n] = \theta^{-n}\, \mathrm{DFT}_M^{-1}(K\,U)[n].$$
#
# Since $i$ stands at a right angle to 1, the library calls this method the **right
# angle**.

# %%
M = L = 20
x, k = rng.standard_normal((2, L))
theta = np.exp(1j * np.pi * np.arange(M) / (2 * M))  # theta^n
U, K = np.fft.fft(x * theta), np.fft.fft(k * theta)
y = np.fft.ifft(U * K) / theta

linear = np.convolve(x, k)  # 2M - 1 samples
assert np.allclose(y.real, linear[:M], rtol=0, atol=1e-13)
assert np.allclose(y.imag[:-1], linear[M:], rtol=0, atol=1e-13)
assert abs(y.imag[-1]) < 1e-13  # the convolution has no sample 2M-1

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
# The table compares the lengths of the transforms for a causal convolution of $L$
# real samples:

# %%
L = 65536


def halvings(n):
    return n / 2 * np.log2(n)


print("method              points   products of one transform (step 7)")
for method, n in [("padded, complex", 2 * L), ("padded, even/odd", L), ("right angle", L)]:
    print(f"{method:17s}{n:>9,}{halvings(n):>12,.0f}")

# %% [markdown]
# The two methods for real rows transform equally many points. They differ in the
# product between the transforms. Even/odd packing takes two products per point and
# combines each value with its mirror image $Z[-m]$, which lies far away in memory.
# The right angle takes one product per point, and its multiplication by $\theta^n$
# can be included in the constants of the transform (lesson 2, step 10).
#
# A circular convolution modulo $N$ of real rows can be computed with right angles
# too. As $t^N - 1 = (t^{N/2} - 1)(t^{N/2} + 1)$, **fold** the row into two of half
# the length. The sums $x[n] + x[n + N/2]$ are convolved circularly modulo $N/2$.
# The differences $x[n] - x[n + N/2]$ are convolved with $t^{N/2} = -1$, which is a
# right angle of $M = N/4$ points. The sums can be folded again in the same way.


# %%
def right_angle(x, k):
    """Return x k with t^2M = -1, by transforms of M complex points."""
    M = len(x) // 2
    theta = np.exp(1j * np.pi * np.arange(M) / (2 * M))
    X, K = (np.fft.fft((z[:M] + 1j * z[M:]) * theta) for z in (x, k))
    y = np.fft.ifft(X * K) / theta
    return np.concatenate([y.real, y.imag])


def circular(x, k):
    """Return x k with t^N = 1, by folding as long as N is a multiple of four."""
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
# packing has, and no value has to be combined with its mirror image. The library
# calls this the "folded" form.
#
# ## Step 10. The library, applied to a whole genome
#
# `fftconv.conv(u, k)` computes the sum of step 2 for `u` of shape (B, H, L) and `k`
# of shape (H, Lk). B is the size of the batch and H the number of channels; each
# channel has a filter of its own. It uses the right angle of step 9 and the
# transforms of lesson 2. Here three windows of different lengths are three
# channels, and each channel holds the same sequence. We compare the result with
# `fftconv.reference`, which computes in float64 with NumPy alone and never calls
# the library's C code.

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
    # A causal mean of `width` letters is drawn at the middle of its window.
    centre = (np.arange(len(u)) - (width - 1) / 2)[width - 1 :] / 1000
    ax.plot(centre, 100 * row[width - 1 :], color=colour, lw=line, label=f"{width:,} letters")
ax.set(
    title="GC content of phage lambda: three filters in one call",
    xlabel="position in the genome (thousands of letters)",
    ylabel="G or C in the window (%)",
    xlim=(0, len(u) / 1000),
)
ax.legend(title="window", loc="upper right", ncols=3)
plt.show()

# %% [markdown]
# The left half of the genome, which contains the genes for the head and the tail of
# the virus, has more G and C than the right half. The short window shows random
# variation that the longer windows average out.
#
# **Next.** Lesson 2 generalises step 7: instead of halving again and again, it
# splits $N$ into a few large factors, so that the transform becomes a few matrix
# products.
