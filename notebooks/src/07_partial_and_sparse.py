# %% [markdown]
# # 7. Zeros are skipped: short filters, sparse spectra
#
# In lesson 1 the filter was as long as the row, and in lesson 2 we transformed the whole
# row at once. Two kinds of zeros make this wasteful. A filter that is much shorter than
# the row is a long filter that is mostly zeros. And a spectrum from which some frequencies
# have been removed is zero at those frequencies. The paper calls the two cases *partial*
# and *frequency-sparse* convolutions. To multiply by zero takes as long as to multiply by
# any other number, so time is saved only if these products are not computed at all.
#
# | step | idea |
# |---|---|
# | 1–2 | overlap-save: a long row in short blocks, drawn |
# | 3 | how long a block should be |
# | 4 | the gradients: overlap-add, and a sum of spectra |
# | 5 | what blocks save, measured |
# | 6 | streaming: a row whose end is not known yet |
# | 7–8 | a mask on the spectrum; patterns of digits |
# | 9–10 | on a real row a frequency is removed only together with its mirror image |
# | 11–12 | asked, kept, computed; and the measured times |

# %%
import gzip
import platform
import time

import fftconv
import matplotlib.pyplot as plt
import numpy as np
from fftconv import Pattern

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(7)
rfft, irfft = np.fft.rfft, np.fft.irfft

with gzip.open("../experiments/data/lambda_virus.fa.gz", "rt") as file:
    file.readline()  # skip the title line
    genome = file.read().replace("\n", "")
gc = np.array([base in "GC" for base in genome], dtype=np.float32)

# %% [markdown]
# ## Step 1. A short filter needs only nearby samples
#
# With $L_k$ taps, the sum $y[t] = \sum_{s<L_k} k[s]\,u[t-s]$ needs only the last $L_k$
# samples. So a stretch of outputs can be computed from the same stretch of inputs and the
# $L_k - 1$ samples before it. Take $N$ consecutive samples and convolve them with $k$
# *circularly modulo $N$*. The terms that wrap round are added to the first $L_k - 1$
# outputs. These outputs are wrong, and all others are right.

# %%
N, Lk = 16, 5
x, k = rng.standard_normal(N), rng.standard_normal(Lk)
wrapped = irfft(rfft(x) * rfft(k, N), N)
right = np.convolve(x, k)[:N]  # zeros stand before x
print("difference at each place:", np.round(np.abs(wrapped - right), 2))
assert np.allclose(wrapped[Lk - 1 :], right[Lk - 1 :], rtol=0, atol=1e-14)
assert np.abs(wrapped - right)[: Lk - 1].min() > 1e-3

# %% [markdown]
# ## Step 2. Overlap-save
#
# So cut the row into **blocks** that overlap by $L_k - 1$ samples, convolve each block
# circularly, discard the first $L_k - 1$ outputs of each, and join the rest. This method
# is called **overlap-save**. The filter is transformed only once, at the length of a block.


# %%
def blocks_of(u, Lk, N):
    """Return the blocks as rows of length N; block b holds the samples from
    b step - (Lk - 1) to b step + step - 1."""
    step = N - (Lk - 1)  # the number of right outputs of one block
    count = -(-len(u) // step)
    padded = np.zeros(Lk - 1 + count * step)  # zeros before and after the row
    padded[Lk - 1 : Lk - 1 + len(u)] = u
    return np.stack([padded[b * step : b * step + N] for b in range(count)])


def overlap_save(u, k, N):
    Lk = len(k)
    Y = rfft(blocks_of(u, Lk, N)) * rfft(k, N)  # one transform of k for all blocks
    return irfft(Y, N)[:, Lk - 1 :].ravel()[: len(u)]  # save the right outputs


L = 36
u = gc[:L] - 0.5
truth = np.convolve(u, k)[:L]
assert np.allclose(overlap_save(u, k, N), truth, rtol=0, atol=1e-14)

blocks = blocks_of(u, Lk, N)
pieces = irfft(rfft(blocks) * rfft(k, N), N)
step, low = N - (Lk - 1), -(Lk - 1)
fig, (top, bottom) = plt.subplots(2, 1, figsize=(8.6, 5), sharex=True)
top.bar(np.arange(L), 0.8 * u, 0.8, bottom=0.6, color="0.6")
for b, (block, piece) in enumerate(zip(blocks, pieces)):
    at = np.arange(b * step + low, b * step + step)
    top.bar(at, 0.8 * block, 0.8, bottom=-1 - b, color=f"C{b}")
    top.add_patch(plt.Rectangle((at[0] - 0.5, -1.5 - b), Lk - 1, 1, lw=0, color="0.85", zorder=0.5))
    bottom.plot(at[: Lk - 1], piece[: Lk - 1], "x", color=f"C{b}", alpha=0.7)
    bottom.plot(at[Lk - 1 :], piece[Lk - 1 :], "o", color=f"C{b}", label=f"block {b}")
top.set(
    title=f"a row of {L} samples in blocks of N = {N}; grey: the overlap of Lk − 1 = {Lk - 1}",
    yticks=[0.6, -1, -2, -3],
    yticklabels=["u", "block 0", "block 1", "block 2"],
)
bottom.plot(np.arange(L), truth, color="0.8", lw=5, zorder=0, label="np.convolve")
bottom.plot([], [], "x", color="0.5", label="wrong, discarded")
bottom.set(
    title="circular convolutions of the blocks", xlabel="position in the row", xlim=(low - 1, L)
)
bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=5)
plt.show()

# %% [markdown]
# ## Step 3. How long a block should be
#
# Short blocks waste work, because only $N - L_k + 1$ of the $N$ outputs of a transform are
# used. Long blocks need more halvings, and do not fit into the fast memory. Count as in
# lesson 1: two transforms take $N \log_2 N$ products, the product of the spectra takes $N$,
# and we divide by the number of outputs:
#
# $$c(N) = \frac{N \log_2 N + N}{N - L_k + 1}.$$
#
# The curve is flat near its minimum, which lies at 8 to 14 times $L_k$ for the filters in
# the figure. **$L$ does not occur in the formula**: the same filter costs the same per
# sample on a row of any length.
#
# The library chooses the length of a block by the costs that lesson 3 ended with, the
# cycles of the codelets and the bytes that move through each level of cache. Its blocks use
# the right angle (lesson 1, step 9): a complex transform of $M$ points holds $N = 2M$ real
# samples. There $t^M = i$, so $t^{2M} = -1$. What wraps round comes back with its sign
# changed, but still only at the first $L_k - 1$ outputs.

# %%
L = 2**17
fig, ax = plt.subplots(figsize=(8, 3.6))
for Lk, colour in [(64, "C0"), (1024, "C1"), (16384, "C2")]:
    sizes = np.unique((Lk * 2 ** np.arange(0.3, 9, 0.1)).astype(int))
    sizes = sizes[(sizes > Lk) & (sizes <= 2 * L)]
    cost = (sizes * np.log2(sizes) + sizes) / (sizes - Lk + 1)
    ax.plot(sizes, cost, color=colour, label=f"Lk = {Lk:,}")
    best = cost.argmin()
    ax.plot(sizes[best], cost[best], "o", color=colour)
    plan = fftconv.Plan((1, 1, L), (1, Lk))
    assert plan.block_length + Lk - 1 <= plan.padded_length
    assert (plan.blocks - 1) * plan.block_length < L
    assert plan.blocks * plan.block_length >= L
    ax.axvline(plan.padded_length, color=colour, ls=":")
    print(
        f"Lk = {Lk:6,}: fewest products at N = {sizes[best] / Lk:.0f} Lk; the library's N = "
        f"{plan.padded_length:,}; outputs: {plan.blocks} x {plan.block_length:,}"
    )
ax.set(
    title="products per output by the length N of a block (dot: least, dotted: the library's N)",
    xlabel="length of a block N (samples)",
    ylabel="products per output",
    ylim=(0, 60),
)
ax.set_xscale("log", base=2)
ax.legend()
plt.show()

# %% [markdown]
# ## Step 4. The gradients
#
# Let $\ell$ be a number computed from $y$, such as the loss of a model, and
# $g = \partial\ell/\partial y$ its gradient. To read overlapping blocks is a linear map,
# and its transpose *adds* where the blocks overlap. So $\partial\ell/\partial u$ is
# computed by **overlap-add**: set the places of each block of $g$ whose outputs were
# discarded to zero, multiply its transform by $\overline{K}$, transform back, and add the
# results where they overlap. For the filter,
#
# $$\frac{\partial\ell}{\partial k[s]} = \sum_t g[t]\,u[t-s]
#   \qquad\Rightarrow\qquad
#   dk = \mathrm{IDFT}\Big(\sum_{\text{blocks}} \overline{U_b}\, G_b\Big).$$
#
# This adds up *spectra*. It takes one inverse transform of the length of a block, however
# long the row is and however many rows share the filter.


# %%
def overlap_save_backward(g, u, k, N):
    Lk, L = len(k), len(u)
    step = N - (Lk - 1)
    G = blocks_of(g, Lk, N)
    G[:, : Lk - 1] = 0  # these outputs were discarded
    G, U = rfft(G), rfft(blocks_of(u, Lk, N))
    dk = irfft((U.conj() * G).sum(axis=0), N)[:Lk]
    padded = np.zeros(Lk - 1 + len(G) * step)
    for b, piece in enumerate(irfft(rfft(k, N).conj() * G, N)):
        padded[b * step : b * step + N] += piece  # add where blocks overlap
    return padded[Lk - 1 : Lk - 1 + L], dk


L, Lk = 5000, 100
u, g = rng.standard_normal((2, 1, 1, L))
k = rng.standard_normal((1, Lk))
exact = fftconv.reference.conv_backward(g, u, k)
for N in (256, 1024, 5000):
    du, dk = overlap_save_backward(g.ravel(), u.ravel(), k.ravel(), N)
    assert np.allclose(du, exact.du.ravel(), rtol=0, atol=1e-11)
    assert np.allclose(dk, exact.dk.ravel(), rtol=0, atol=1e-10)
ours = fftconv.conv_backward(g, u, k)
assert np.allclose(ours.du, exact.du, rtol=0, atol=1e-11)
assert np.allclose(ours.dk, exact.dk, rtol=0, atol=1e-10)

# %% [markdown]
# ## Step 5. What blocks save
#
# We take rows of one length and shorter and shorter filters, on one core of the machine
# that ran this lesson. Each result is checked before it is timed; the calls take turns, and
# each gets the median of this thread's processor times. `single_block=True` makes the
# library take the whole row in one transform. A shorter filter then saves only the zeros
# that pad the row, so beyond a certain point time and memory no longer fall. With blocks
# they fall further. Where a filter is nearly as long as the row, the two are the same or
# close to it. The printed line gives the ratios for the shortest filter.


# %%
def medians(calls, rounds=9):
    """Return the median processor time of each call in seconds; the calls take turns."""
    taken = np.zeros((rounds, len(calls)))
    for round_ in taken:
        for i, call in enumerate(calls):
            start = time.thread_time()
            call()
            round_[i] = time.thread_time() - start
    return np.median(taken, axis=0)


L = 2**18
kernels = [2**a for a in (18, 16, 14, 12, 10, 8)]
u = rng.standard_normal((1, 1, L)).astype(np.float32)
long = rng.standard_normal((1, L)).astype(np.float32)
plans, calls = [], []
for whole in (False, True):
    for Lk in kernels:
        k = long[:, :Lk] / Lk**0.5
        plan = fftconv.Plan(u.shape, k.shape, threads=1, single_block=whole)
        spectrum, y = plan.spectrum(k), np.empty_like(u)
        plan(u, spectrum, out=y)
        truth = fftconv.reference.conv(u, k)
        assert np.linalg.norm(y - truth) < 5e-7 * np.linalg.norm(truth)
        plans.append(plan)
        calls.append(lambda p=plan, s=spectrum, y=y: p(u, s, out=y))
seconds = medians(calls).reshape(2, -1)
memory = np.array(
    [
        [p.counters.forward_workspace_bytes + p.counters.spectrum_bytes for p in plans[i : i + 6]]
        for i in (0, 6)
    ]
)

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3))
for ax, values, unit in [
    (left, 1e9 * seconds / L, "time per sample (ns)"),
    (right, memory / 2**20, "workspace and spectrum (MiB)"),
]:
    ax.plot(kernels, values[0], "o-", color="C0", label="blocks, as the library plans")
    ax.plot(kernels, values[1], "s--", color="C4", label="one transform of the row")
    ax.set(xlabel="length of the filter Lk", ylabel=unit, ylim=0)
    ax.set_xscale("log", base=2)
    ax.invert_xaxis()
left.set_title(f"a row of L = {L:,}: time, measured here")
right.set_title("memory, as the plans report it")
left.legend()
plt.show()
print(
    f"Lk = {kernels[-1]}: one transform takes {seconds[1, -1] / seconds[0, -1]:.1f} times as long "
    f"as blocks, and {memory[1, -1] / memory[0, -1]:.0f} times the memory"
)
print(
    f"{platform.system()} {platform.machine()}, {plan.isa}, "
    f"libfftconv {fftconv.__version__}, NumPy {np.__version__}"
)

# %% [markdown]
# ## Step 6. Streaming
#
# A block needs the $L_k - 1$ samples before it, and nothing after it. So the row need not
# exist as a whole: keep those samples, and the outputs of each piece can be computed as
# soon as it arrives. `fftconv.Stream` does this for pieces of any size. Its outputs are
# those that one call on the whole row would give, up to rounding. Here three filters are
# applied to the genome while it arrives in pieces.

# %%
windows = [101, 1001, 4001]
k = np.zeros((3, max(windows)), dtype=np.float32)
for row, width in zip(k, windows):
    row[:width] = 1 / width
rows = np.tile(gc, (1, 3, 1))  # (B, H, L)
whole = fftconv.conv(rows, k)

stream = fftconv.Stream(k)
heard, cuts, at = [], [0], 0
while at < rows.shape[-1]:
    n = int(rng.integers(1, 6000))  # any size, 1 included
    piece = rows[..., at : at + n]
    heard.append(stream.push(piece))
    at += piece.shape[-1]
    cuts.append(at)
heard = np.concatenate(heard, axis=-1)
print(f"{len(cuts) - 1} pieces of {min(np.diff(cuts))} to {max(np.diff(cuts))} letters")
assert np.allclose(heard, whole, rtol=0, atol=1e-6)
assert np.array_equal(stream.history, rows[..., -(max(windows) - 1) :])

fig, ax = plt.subplots(figsize=(8.6, 2.9))
for y, width, lw, colour in zip(heard[0], windows, [0.6, 1.3, 2.2], ["0.8", "C0", "C1"]):
    ax.plot(np.arange(len(y)) / 1000, 100 * y, color=colour, lw=lw, label=f"{width:,} letters")
for cut in cuts:
    ax.axvline(cut / 1000, color="C2", lw=0.5, alpha=0.6)
ax.set(
    title="GC content while the genome arrives (green lines: ends of pieces)",
    xlabel="letters that have arrived (thousands)",
    ylabel="G or C in the window (%)",
    ylim=(25, 75),
    xlim=(0, len(gc) / 1000),
)
ax.legend(loc="upper right", ncols=3)
plt.show()

# %% [markdown]
# ## Step 7. Zeros in the spectrum
#
# Now we turn to zeros of the other kind. Multiply every frequency $m$ of a circular
# convolution modulo $N$ by a **mask** of 0 or 1,
#
# $$y = \mathrm{Re}\;\mathrm{IDFT}\big(\mathrm{mask}\cdot Fk \cdot Fu\big).$$
#
# The simplest mask is a low-pass filter, which keeps the low frequencies.
# `Pattern.lowpass(n)` keeps the frequencies, also called bins, below $n/2$, as the argument
# `N_partial` of flash-fft-conv does. In the library the mask is applied to the *filter's*
# spectrum when it is made, and the plan knows the mask and leaves out what it can.
#
# The second printed number says how much of the work remains. A low-pass keeps neighbouring
# frequencies, and these lie far apart in stage order (lesson 2, step 4). The library can
# leave out only whole blocks of a stage and whole vectors of the processor, so a part with
# a single kept frequency is computed in full. With wide vectors nearly every part contains
# one, and then a low-pass saves little or nothing. Step 8 shows patterns that suit the
# stages.

# %%
N = 2**15
u = (gc[:N] - gc[:N].mean()).reshape(1, 1, N)
k = np.zeros((1, N), dtype=np.float32)
k[0, :101] = 1 / 101
plan = fftconv.Plan(u.shape, k.shape, mode="circular", fft_size=N)
smooth = plan.replace(pattern=Pattern.lowpass(128))
y, y_smooth = plan(u, plan.spectrum(k)), smooth(u, smooth.spectrum(k))

Y = rfft(u.astype(np.float64)) * rfft(k.astype(np.float64))
Y[..., 64:] = 0
assert np.allclose(y_smooth, irfft(Y, N), rtol=0, atol=1e-6)
print(
    f"kept {smooth.kept:.2%} of the bins, computed {smooth.computed:.2%} of the points "
    f"(instruction set {smooth.isa})"
)

fig, ax = plt.subplots(figsize=(8.6, 2.8))
ax.plot(y.ravel(), color="0.75", lw=0.6, label="mean of 101 letters")
ax.plot(y_smooth.ravel(), color="C1", label="the same, its 64 lowest frequencies")
ax.set(
    title="a filtered row and its low frequencies",
    xlim=(0, N),
    xlabel="position in the genome (letters)",
    ylabel="GC content minus its mean",
)
ax.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# ## Step 8. Patterns of digits
#
# A machine can skip work in *blocks*, and the blocks of a Monarch transform belong to the
# digits of a frequency (lesson 2, step 4). So the paper removes values of digits. With
# $N = N_1 N_2 N_3 N_4$, remove the highest $a$, $b$, $c$ and $d$ values of the four digits.
# Then the part
#
# $$S = 1 - \frac{(N_1-a)(N_2-b)(N_3-c)(N_4-d)}{N}$$
#
# of the bins is removed (the paper prints $S$ without the division). There are two ways to
# write a frequency with digits. In **natural order** the first digit is the most
# significant one. In **stage order** it is the least significant one, as the stages leave
# the frequencies:
#
# $$m = ((i_1 N_2 + i_2) N_3 + i_3) N_4 + i_4,\qquad
#   m = i_1 + N_1 (i_2 + N_2 (i_3 + N_3 i_4)).$$
#
# In both cases a pattern is a box in the space of digits. But as sets of *frequencies* the
# two boxes are very different. If only the first digit is restricted, the kept frequencies
# are an interval in natural order, and a comb with the period $N_1$ in stage order.


# %%
def mask_by_hand(shape, drop, order):
    """Return an array over the frequencies m, True where every digit i_j < N_j - drop_j."""
    box = np.zeros(shape, dtype=bool)  # box[i1, i2, i3, i4]
    box[tuple(slice(n - d) for n, d in zip(shape, drop))] = True
    return (box if order == "natural" else box.T).ravel()


SHAPE = (32, 32, 32, 64)  # N = 2,097,152
DROPS = [
    (0, 0, 0, 0),
    (16, 0, 0, 0),
    (16, 16, 0, 0),
    (16, 16, 4, 4),
    (16, 16, 8, 8),
    (16, 16, 16, 16),
]
N = int(np.prod(SHAPE))
for drop in DROPS:
    for order in ("natural", "stage"):
        mask = mask_by_hand(SHAPE, drop, order)
        pattern = Pattern(SHAPE, drop, order=order)
        assert np.array_equal(pattern.mask(N), mask)
        assert np.isclose(pattern.asked(N), 1 - mask.mean())
    print(f"remove {str(drop):18s} S = {pattern.asked(N):.2%}")

# %% [markdown]
# ## Step 9. On a real row a frequency is removed only together with its mirror image
#
# How much of $S$ can really be left out? The row is real, so $U[-m] = \overline{U[m]}$
# (lesson 1, step 8), and the same holds for $K$. To take the real part in step 7 is to take
# the mean of the spectrum and its mirrored conjugate:
#
# $$\tfrac12\Big(\mathrm{mask}[m] K[m] U[m] +
#   \overline{\mathrm{mask}[-m] K[-m] U[-m]}\Big)
#   = \underbrace{\tfrac12\big(\mathrm{mask}[m] + \mathrm{mask}[-m]\big)}_{w[m]}
#   \; K[m]\, U[m].$$
#
# So a mask acts as a **weight** $w$ of 0, ½ or 1, which is the same at $m$ and at $-m$. If
# $m$ alone is removed, the wave is still there with half of its amplitude, because $-m$
# contains it too. It is absent only where both $m$ **and** $-m$ are removed.


# %%
def weights(mask):
    """Return w, the mean of the mask and its mirror image."""
    return (mask + mask[-np.arange(len(mask))]) / 2  # mask[-m], m modulo N


TINY, n = (4, 4, 4), 64
x, k = rng.standard_normal((2, n))
fig, axes = plt.subplots(3, 2, figsize=(9.4, 2.3), sharex=True, sharey="row")
for column, order in zip(axes.T, ("natural", "stage")):
    mask = mask_by_hand(TINY, (2, 1, 0), order).astype(float)
    w = weights(mask)
    direct = np.fft.ifft(mask * np.fft.fft(k) * np.fft.fft(x)).real
    by_weights = irfft(w[: n // 2 + 1] * rfft(k) * rfft(x), n)
    assert np.allclose(direct, by_weights, rtol=0, atol=1e-14)
    for ax, values, name in zip(
        column, [mask, mask[-np.arange(n)], w], ["mask[m]", "mask[−m]", "w[m]"]
    ):
        ax.imshow(values[None], aspect="auto", cmap="Blues", vmin=0, vmax=1.3)
        ax.set(yticks=[0], yticklabels=[name], xticks=range(0, 64, 8))
        ax.grid(False)
    column[0].set_title(
        f"{order} order, 4 · 4 · 4, remove (2, 1, 0): "
        f"asked {1 - mask.mean():.0%}, absent {np.mean(w == 0):.0%}",
        fontsize=9,
    )
    column[2].set_xlabel("frequency m (dark: 1, pale: ½, white: 0)")
plt.show()

# %% [markdown]
# ## Step 10. A pattern that removes half and loses nothing
#
# In natural order $a = N_1/2$ removes $m = N/2 \dots N-1$. These are exactly the negative
# frequencies and the Nyquist frequency $m = N/2$. The positive frequencies remain, and they
# determine the negative ones, so nearly everything remains: $w = ½$ at all frequencies but
# two, which are their own mirror images. $m = 0$ keeps the weight 1, and $m = N/2$ is
# removed. So this pattern of "50 % sparsity" only **halves the output**, apart from these
# two frequencies. In stage order the same $a$ removes the frequencies with
# $m \bmod N_1 \ge N_1/2$. The mirror image of residue $i$ is $N_1 - i$, so of these only
# residue $N_1/2$ is removed together with its mirror image: for $N_1 = 32$ that is 1 of 32
# residues, or 3 %.

# %%
n = 512
mask = mask_by_hand((8, 8, 8), (4, 0, 0), "natural")
w = weights(mask.astype(float))
assert w[0] == 1 and w[n // 2] == 0
assert np.all(np.delete(w, [0, n // 2]) == 0.5)

x = gc[:n].astype(np.float64)
k = np.exp(-np.arange(n) / 20) / 20
dense = irfft(rfft(k) * rfft(x), n)
sparse = np.fft.ifft(mask * np.fft.fft(k) * np.fft.fft(x)).real
mean = x.mean() * k.sum()  # the wave m = 0
nyquist = (-1.0) ** np.arange(n)
nyquist *= (x @ nyquist) * (k @ nyquist) / n  # the wave m = N/2
assert np.allclose(sparse, (dense + mean - nyquist) / 2, rtol=0, atol=1e-14)

fig, ax = plt.subplots(figsize=(8.6, 2.8))
ax.plot(dense - mean, color="0.75", lw=4, label="all frequencies")
ax.plot(sparse - mean, color="C1", label="50 % removed")
ax.plot(2 * (sparse - mean), color="C0", lw=1, label="50 % removed, times 2")
ax.set(
    title="natural order, a = N₁/2, on a real row: the output is halved",
    xlim=(0, n),
    xlabel="position",
    ylabel="y minus its mean",
)
ax.legend(ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# ## Step 11. Asked, kept, computed
#
# The figure shows the paper's six patterns. Each small square belongs to one pair of digits
# $i_1, i_2$, and its colour shows which part of its 2,048 bins has a weight other than
# zero. The top row shows the bins that the pattern **asks** to keep, which are the same box
# in both orders. The other rows show the bins that are **kept** on a real row: the box
# **and its mirror image**. In natural order the mirror image of a digit $i$ is
# $N_j - 1 - i$ (except for frequencies whose lower digits are all 0). In stage order the
# mirror image of $i_1$ is $-i_1 \bmod N_1$, and the later digits behave as in natural
# order.


# %%
def by_digits(bins, order):
    """Return the mean over i3 and i4 of an array over the frequencies, as (i1, i2)."""
    box = bins.reshape(SHAPE) if order == "natural" else bins.reshape(SHAPE[::-1]).T
    return box.mean(axis=(2, 3))


fig, axes = plt.subplots(3, 6, figsize=(9.4, 4.9), sharex=True, sharey=True)
for column, drop in zip(axes.T, DROPS):
    for ax, order in zip(column[1:], ("natural", "stage")):
        mask = Pattern(SHAPE, drop, order=order).mask(N)
        acts = weights(mask.astype(float)) > 0
        assert np.isclose(Pattern(SHAPE, drop, order=order).kept(N), acts.mean())
        image = ax.imshow(by_digits(acts, order), cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"absent {1 - acts.mean():.0%}", fontsize=9)
    column[0].imshow(by_digits(mask, "stage"), cmap="Blues", vmin=0, vmax=1)
    column[0].set_title(f"{', '.join(map(str, drop))}\nasked {1 - mask.mean():.0%}", fontsize=9)
for ax, name in zip(axes[:, 0], ["asked", "kept, natural", "kept, stage"]):
    ax.set_ylabel(f"{name}\n$i_1$")
for ax in axes.flat:
    ax.set(xticks=[0, 16, 31], yticks=[0, 16, 31])
    ax.grid(False)
for ax in axes[2]:
    ax.set_xlabel("$i_2$")
fig.colorbar(image, ax=axes, shrink=0.6, label="part of the bins with a weight")
plt.show()

# %% [markdown]
# If 50, 75, 79, 84 or 91 % of the bins are asked to be removed, about 0–3, 50, 59, 67 or
# 81 % are absent. This is about $1 - 2(1-S)$, because the box and its mirror image hardly
# overlap. The library leaves out what is absent, in whole blocks and vectors of its own
# transform, whatever its radices are. It also says what it could not leave out: `plan.kept`
# is the part of the bins that have a weight, and `plan.computed` is the part of the points
# that are still computed. The results are those of the formula in step 7, for every pattern
# and in both orders.

# %%
SMALL, HALF = (16, 16, 16, 32), 2  # half of each radix: the same parts of N are removed
N = int(np.prod(SMALL))
u = rng.standard_normal((1, 4, N)).astype(np.float32)
k = (rng.standard_normal((4, N)) / np.sqrt(N)).astype(np.float32)
UK = np.fft.fft(u.astype(np.float64)) * np.fft.fft(k.astype(np.float64))
cases = [("dense", DROPS[0], None)]
cases += [
    (order, drop, Pattern(SMALL, [d // HALF for d in drop], order=order))
    for order in ("stage", "natural")
    for drop in DROPS
]
calls, plans = [], []
y = np.empty_like(u)  # one for all plans, so that its place in memory makes no difference
print("order    pattern            asked absent  not computed   flops / dense")
for order, drop, pattern in cases:
    plan = fftconv.Plan(u.shape, k.shape, mode="circular", fft_size=N, pattern=pattern, threads=1)
    spectrum = plan.spectrum(k)
    plan(u, spectrum, out=y)
    mask = 1 if pattern is None else pattern.mask(N)
    truth = np.fft.ifft(mask * UK).real
    assert np.linalg.norm(y - truth) < 1e-6 * np.linalg.norm(truth)
    calls.append(lambda p=plan, s=spectrum: p(u, s, out=y))
    plans.append(plan)
    asked = 0 if pattern is None else pattern.asked(N)
    print(
        f"{order:9s}{str(drop):18s}{asked:6.1%}{1 - plan.kept:7.1%}"
        f"{1 - plan.computed:14.1%}"
        f"{plan.counters.flops / plans[0].counters.flops:16.2f}"
    )

# %% [markdown]
# The table shows that few operations can be left out unless the absent bins lie in whole
# blocks of the library's stages.
#
# ## Step 12. Measured times
#
# Finally we measure the time, in comparison with the library's own convolution without a
# pattern. The spectra of the filters are made beforehand. `make figures` measures the same
# at the paper's $N$ = 2M, and shows the paper's own speeds beside it.

# %%
seconds = medians(calls, rounds=25)
speed = seconds[0] / seconds
fig, ax = plt.subplots(figsize=(8.4, 3.4))
place = np.arange(len(DROPS))
for shift, first, order, colour in [(-0.2, 1, "stage", "C0"), (0.2, 7, "natural", "C1")]:
    bars = ax.bar(
        place + shift, speed[first : first + 6], 0.38, color=colour, label=f"{order} order"
    )
    ax.bar_label(bars, [f"{v:.2f}" for v in speed[first : first + 6]], fontsize=8, padding=2)
ax.axhline(1, color="0.3", lw=0.8)
ax.set(
    title=f"speed relative to the convolution without a pattern, N = {N:,}: measured here",
    xticks=place,
    xticklabels=[
        f"{', '.join(map(str, drop))}\nasked {case[2].asked(N):.0%}"
        for drop, case in zip(DROPS, cases[1:])
    ],
    ylabel="times as fast as without",
    ylim=(0, 1.3 * speed.max()),
)
ax.tick_params(axis="x", labelsize=8)
ax.grid(axis="x", visible=False)
ax.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# ## Summary
#
# - With a **short filter** the row is cut into blocks that fit the fast memory. Time per
#   sample, workspace and spectrum then depend on $L_k$ and not on $L$. This holds for the
#   convolution and for its gradients, and a row may arrive in pieces.
# - A **sparse spectrum** can save only those frequencies that are removed together with
#   their mirror images. So look at the part that is really kept (`plan.kept`) and not at
#   the part that was asked to be removed: "50 % removed" can mean that nothing is.
# - The time falls less than the number of operations, because the rows must still be read
#   and written, and the stages that combine kept and removed digits must still run.
