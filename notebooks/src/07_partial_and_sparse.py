# %% [markdown]
# # 7. Zeros are skipped: short filters, sparse spectra
#
# Lesson 1 let the filter be as long as the row, lesson 2 transformed the whole
# row at once. Two kinds of zero make that wasteful. A filter much shorter than
# the row is a long filter that is mostly zeros; a spectrum with parts removed is
# zero there. The paper calls the two *partial* and *frequency-sparse*
# convolutions. Multiplying by zero costs as much as by anything else, so the
# point is not to.
#
# | step | idea |
# |---|---|
# | 1–2 | overlap-save: a long row in short blocks, drawn |
# | 3 | how long a block should be |
# | 4 | the gradients: overlap-add, and a sum of spectra |
# | 5 | what it saves, measured |
# | 6 | streaming: a row that has no end yet |
# | 7–8 | a mask on the spectrum; patterns of digits |
# | 9–10 | on a real row a frequency goes only with its mirror |
# | 11–12 | asked, kept, computed; and the clock |

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
    file.readline()  # the record's title
    genome = file.read().replace("\n", "")
gc = np.array([base in "GC" for base in genome], dtype=np.float32)

# %% [markdown]
# ## Step 1. A short filter needs only what is near
#
# With $L_k$ taps, $y[t] = \sum_{s<L_k} k[s]\,u[t-s]$ asks for the last $L_k$
# samples and nothing else. So a stretch of outputs can be had from a stretch of
# inputs: the same one, and $L_k - 1$ samples before it. Take $N$ consecutive
# samples and convolve them with $k$ *circularly modulo $N$*. What wraps round
# falls on the first $L_k - 1$ places. They are wrong; all others are right.

# %%
N, Lk = 16, 5
x, k = rng.standard_normal(N), rng.standard_normal(Lk)
wrapped = irfft(rfft(x) * rfft(k, N), N)
right = np.convolve(x, k)[:N]  # as if zeros were before x
print("difference at each place:", np.round(np.abs(wrapped - right), 2))
assert np.allclose(wrapped[Lk - 1 :], right[Lk - 1 :], rtol=0, atol=1e-14)
assert np.abs(wrapped - right)[: Lk - 1].min() > 1e-3

# %% [markdown]
# ## Step 2. Overlap-save
#
# So cut the row into blocks that overlap by $L_k - 1$, convolve each
# circularly, throw the first $L_k - 1$ outputs of each away, and put the rest
# side by side. The filter is transformed once, at the length of a block.


# %%
def blocks_of(u, Lk, N):
    """(B, N): block b holds u[b step - (Lk - 1) ... b step + step - 1]."""
    step = N - (Lk - 1)  # right outputs of one block
    count = -(-len(u) // step)
    padded = np.zeros(Lk - 1 + count * step)  # zeros before and after the row
    padded[Lk - 1 : Lk - 1 + len(u)] = u
    return np.stack([padded[b * step : b * step + N] for b in range(count)])


def overlap_save(u, k, N):
    Lk = len(k)
    Y = rfft(blocks_of(u, Lk, N)) * rfft(k, N)  # one K for all blocks
    return irfft(Y, N)[:, Lk - 1 :].ravel()[: len(u)]  # save the right part


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
    title=f"a row of {L}, and its blocks of N = {N}; grey: the Lk − 1 = {Lk - 1} samples before",
    yticks=[0.6, -1, -2, -3],
    yticklabels=["u", "block 0", "block 1", "block 2"],
)
bottom.plot(np.arange(L), truth, color="0.8", lw=5, zorder=0, label="np.convolve")
bottom.plot([], [], "x", color="0.5", label="wrapped round, thrown away")
bottom.set(title="their circular convolutions", xlabel="place in the row", xlim=(low - 1, L))
bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=5)
plt.show()

# %% [markdown]
# ## Step 3. How long a block should be
#
# A short block wastes: of $N$ transformed points only $N - L_k + 1$ are kept. A
# long one takes more halvings, and leaves the fast memory. Count as in lesson 1,
# $N \log_2 N$ products for two transforms and $N$ between them, all per output:
#
# $$c(N) = \frac{N \log_2 N + N}{N - L_k + 1}.$$
#
# The curve is flat at its bottom, about ten times $L_k$, and **$L$ does not
# occur in it**: the same filter costs the same per sample on a row of any
# length.
#
# The library picks the block with its own costs, the ones lesson 3 ended with:
# codelets, and the bytes each cache moves. Its blocks are of the right-angle
# form (lesson 1, step 9): a complex transform of $M$ points is a ring of
# $N = 2M$ real places. There $t^M = i$, so $t^{2M} = -1$: what wraps round
# comes back with its sign turned, and still only to the first $L_k - 1$ places.

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
        f"Lk = {Lk:6,}: the library takes {plan.blocks:3d} blocks of "
        f"{plan.block_length:6,} outputs, N = {plan.padded_length:6,}"
    )
ax.set(
    title="products per output against the block's length N (dotted: the library's N)",
    xlabel="N",
    ylabel="products per output",
    ylim=(0, 60),
)
ax.set_xscale("log", base=2)
ax.legend()
plt.show()

# %% [markdown]
# ## Step 4. The gradients
#
# Let $g = \partial\ell/\partial y$. Reading blocks that overlap is a linear
# map; its transpose *adds* where they overlap. So $\partial\ell/\partial u$ is
# **overlap-add**: each block of $g$, with zeros in the places that were thrown
# away, meets $\overline{K}$, and neighbours' ends are summed. And
#
# $$\frac{\partial\ell}{\partial k[s]} = \sum_t g[t]\,u[t-s]
#   \qquad\Rightarrow\qquad
#   dk = \mathrm{IDFT}\Big(\sum_{\text{blocks}} \overline{U_b}\, G_b\Big)$$
#
# sums *spectra*: one inverse transform of a block's length, however long the
# row and however many rows share the filter.


# %%
def overlap_save_backward(g, u, k, N):
    Lk, L = len(k), len(u)
    step = N - (Lk - 1)
    G = blocks_of(g, Lk, N)
    G[:, : Lk - 1] = 0  # those outputs were thrown away
    G, U = rfft(G), rfft(blocks_of(u, Lk, N))
    dk = irfft((U.conj() * G).sum(axis=0), N)[:Lk]
    padded = np.zeros(Lk - 1 + len(G) * step)
    for b, piece in enumerate(irfft(rfft(k, N).conj() * G, N)):
        padded[b * step : b * step + N] += piece  # overlap, and add
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
# ## Step 5. What it saves
#
# One row length, ever shorter filters, on one core of the machine that ran
# this. Each result is checked, then the calls take turns, and the median of the
# thread's own processor time counts. `single_block=True` forbids the cutting:
# then time hardly falls, and the memory for one row not at all.


# %%
def medians(calls, rounds=9):
    """Median processor seconds of each call, the calls taking turns."""
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
    ax.plot(kernels, values[0], "o-", color="C0", label="blocks, as planned")
    ax.plot(kernels, values[1], "s--", color="C4", label="one transform")
    ax.set(xlabel="filter length Lk", ylabel=unit, ylim=0)
    ax.set_xscale("log", base=2)
    ax.invert_xaxis()
left.set_title(f"a row of L = {L:,}: time, measured here")
right.set_title("memory, as the plans count it")
left.legend()
plt.show()
print(
    f"{platform.system()} {platform.machine()}, {plan.isa}, "
    f"libfftconv {fftconv.__version__}, NumPy {np.__version__}"
)

# %% [markdown]
# ## Step 6. Streaming
#
# A block needs the $L_k - 1$ samples before it, and nothing after it. So the
# row need not exist yet: keep those samples, and each piece that arrives can be
# answered at once. `fftconv.Stream` is that, for pieces of any size; what comes
# out is what one call on the whole would have given. Here three filters hear
# the genome arrive in pieces.

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
    n = int(rng.integers(1, 6000))  # any size, from 1
    piece = rows[..., at : at + n]
    heard.append(stream.push(piece))
    at += piece.shape[-1]
    cuts.append(at)
heard = np.concatenate(heard, axis=-1)
print(f"{len(cuts) - 1} pieces, of {min(np.diff(cuts))} to {max(np.diff(cuts))} letters")
assert np.allclose(heard, whole, rtol=0, atol=1e-6)
assert np.array_equal(stream.history, rows[..., -(max(windows) - 1) :])

fig, ax = plt.subplots(figsize=(8.6, 2.9))
for y, width, lw, colour in zip(heard[0], windows, [0.6, 1.3, 2.2], ["0.8", "C0", "C1"]):
    ax.plot(np.arange(len(y)) / 1000, 100 * y, color=colour, lw=lw, label=f"{width:,} letters")
for cut in cuts:
    ax.axvline(cut / 1000, color="C2", lw=0.5, alpha=0.6)
ax.set(
    title="GC content while the genome arrives (green: ends of pieces)",
    xlabel="letters so far (thousands)",
    ylabel="G or C (%)",
    ylim=(25, 75),
    xlim=(0, len(gc) / 1000),
)
ax.legend(loc="upper right", ncols=3)
plt.show()

# %% [markdown]
# ## Step 7. Zeros in the spectrum
#
# Now the other kind. Give every frequency $m$ of a circular convolution modulo
# $N$ a **mask** of 0 or 1,
#
# $$y = \mathrm{Re}\;\mathrm{IDFT}\big(\mathrm{mask}\cdot Fk \cdot Fu\big).$$
#
# The plainest mask is a low-pass: keep the slow waves.
# `Pattern.lowpass(n)` keeps the bins below $n/2$, as flash-fft-conv's
# `N_partial` does. In the library it is the *kernel's* spectrum that carries
# it, and the plan that knows what not to compute.

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
print(f"kept {smooth.kept:.2%} of the bins, computed {smooth.computed:.2%} of the points")

fig, ax = plt.subplots(figsize=(8.6, 2.8))
ax.plot(y.ravel(), color="0.75", lw=0.6, label="mean of 101 letters")
ax.plot(y_smooth.ravel(), color="C1", label="its lowest 64 frequencies")
ax.set(
    title="one filter, and the low frequencies of it",
    xlim=(0, N),
    xlabel="place in the genome (letters)",
    ylabel="GC, less the mean",
)
ax.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# ## Step 8. Patterns of digits
#
# A machine skips *blocks* of work, and the blocks of a Monarch transform are
# its digits (lesson 2, step 4). So the paper removes digits: with
# $N = N_1 N_2 N_3 N_4$, drop the highest $(a, b, c, d)$ values of each, and
#
# $$S = 1 - \frac{(N_1-a)(N_2-b)(N_3-c)(N_4-d)}{N}$$
#
# of the bins are gone (the paper prints $S$ without the division). Two ways to
# read a frequency's digits are in use. **Natural order** is how the number is
# written, **stage order** is how the stages leave it:
#
# $$m = ((i_1 N_2 + i_2) N_3 + i_3) N_4 + i_4,\qquad
#   m = i_1 + N_1 (i_2 + N_2 (i_3 + N_3 i_4)).$$
#
# Either way a pattern is a box of digits. But as *frequencies* the two boxes
# are very different things: an interval, or a comb.


# %%
def mask_by_hand(shape, drop, order):
    """True where every digit i_j < N_j - drop_j; by frequency m."""
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
    print(f"{str(drop):18s} S = {pattern.asked(N):.2%}")

# %% [markdown]
# ## Step 9. On a real row a frequency goes only with its mirror
#
# How much of $S$ can really be left out? The row is real, so $U[-m] =
# \overline{U[m]}$ (lesson 1, step 8), and so it is with $K$. Taking the real
# part in step 7 keeps the mean of a spectrum and its mirrored conjugate:
#
# $$\tfrac12\Big(\mathrm{mask}[m] K[m] U[m] +
#   \overline{\mathrm{mask}[-m] K[-m] U[-m]}\Big)
#   = \underbrace{\tfrac12\big(\mathrm{mask}[m] + \mathrm{mask}[-m]\big)}_{w[m]}
#   \; K[m]\, U[m].$$
#
# So a mask acts as a **weight** $w$ of 0, ½ or 1 that is the same at $m$ and
# $-m$. Remove $m$ alone, and the wave is not gone: its other half brings it
# back, half as loud. It is gone where $m$ **and** $-m$ are removed.


# %%
def weights(mask):
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
        f"{order} order, 4 · 4 · 4, drop (2, 1, 0): asked "
        f"{1 - mask.mean():.0%}, gone {np.mean(w == 0):.0%}",
        fontsize=9,
    )
    column[2].set_xlabel("frequency m (dark 1, pale ½, white 0)")
plt.show()

# %% [markdown]
# ## Step 10. The pattern that removes half and loses nothing
#
# In natural order $a = N_1/2$ removes $m = N/2 \dots N-1$: those are exactly
# the negative frequencies (and the Nyquist wave $m = N/2$). The positive ones
# remain, so everything remains: $w = ½$ everywhere but at $m = 0$, which is its
# own mirror and keeps 1, and at $m = N/2$, which is too and is lost. "50 %
# sparse" is then a filter **at half volume**. In stage order the same $a$
# removes residues $m \bmod N_1 \ge N_1/2$; their mirrors have residues up to
# $N_1/2$, and only residue $N_1/2$ itself is gone: 1 of 32, or 3 %.

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
ax.plot(2 * (sparse - mean), color="C0", lw=1, label="the same, times 2")
ax.set(
    title="natural order, a = N₁/2, on a real row",
    xlim=(0, n),
    xlabel="place",
    ylabel="y, less its mean",
)
ax.legend(ncols=3, loc="upper center")
plt.show()

# %% [markdown]
# ## Step 11. Asked, kept, computed
#
# The paper's six patterns as heat maps: each small square is one pair of
# digits $i_1, i_2$, its colour the part of the 2,048 bins in it that does
# something. The top row is what is asked for, the same box in both orders. The
# others are what acts on a real row: the box **and its mirror**. Natural order
# mirrors a digit $i$ to $N_j - 1 - i$ (but for the edges); stage order mirrors
# $i_1$ to $-i_1 \bmod N_1$, and the later digits like natural order.


# %%
def by_digits(bins, order):
    """The mean over i3, i4 of an array by frequency, as (i1, i2)."""
    box = bins.reshape(SHAPE) if order == "natural" else bins.reshape(SHAPE[::-1]).T
    return box.mean(axis=(2, 3))


fig, axes = plt.subplots(3, 6, figsize=(9.4, 4.9), sharex=True, sharey=True)
for column, drop in zip(axes.T, DROPS):
    for ax, order in zip(column[1:], ("natural", "stage")):
        mask = Pattern(SHAPE, drop, order=order).mask(N)
        acts = weights(mask.astype(float)) > 0
        assert np.isclose(Pattern(SHAPE, drop, order=order).kept(N), acts.mean())
        image = ax.imshow(by_digits(acts, order), cmap="Blues", vmin=0, vmax=1)
        ax.set_title(f"gone {1 - acts.mean():.0%}", fontsize=9)
    column[0].imshow(by_digits(mask, "stage"), cmap="Blues", vmin=0, vmax=1)
    column[0].set_title(f"{', '.join(map(str, drop))}\nasked {1 - mask.mean():.0%}", fontsize=9)
for ax, name in zip(axes[:, 0], ["asked", "natural order", "stage order"]):
    ax.set_ylabel(f"{name}\n$i_1$")
for ax in axes.flat:
    ax.set(xticks=[0, 16, 31], yticks=[0, 16, 31])
    ax.grid(False)
for ax in axes[2]:
    ax.set_xlabel("$i_2$")
fig.colorbar(image, ax=axes, shrink=0.6, label="part of the square that acts")
plt.show()

# %% [markdown]
# So of 50, 75, 79, 84, 91 % asked, about 0–3, 50, 59, 67, 81 % are gone:
# $1 - 2(1-S)$, as mask and mirror hardly overlap. The library skips what is gone
# in whole pieces of its own transform, whatever its radices are, and says what
# it could not skip: `plan.kept` is the part of the bins with a weight,
# `plan.computed` the part of its points that it still visits. Results are those
# of step 7's formula, for every pattern and order.

# %%
SMALL, HALF = (16, 16, 16, 32), 2  # the same parts of N
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
print("order    pattern            asked   gone  not computed   flops")
for order, drop, pattern in cases:
    plan = fftconv.Plan(u.shape, k.shape, mode="circular", fft_size=N, pattern=pattern, threads=1)
    spectrum, y = plan.spectrum(k), np.empty_like(u)
    plan(u, spectrum, out=y)
    mask = 1 if pattern is None else pattern.mask(N)
    truth = np.fft.ifft(mask * UK).real
    assert np.linalg.norm(y - truth) < 1e-6 * np.linalg.norm(truth)
    calls.append(lambda p=plan, s=spectrum, y=y: p(u, s, out=y))
    plans.append(plan)
    asked = 0 if pattern is None else pattern.asked(N)
    print(
        f"{order:9s}{str(drop):18s}{asked:6.1%}{1 - plan.kept:7.1%}"
        f"{1 - plan.computed:14.1%}"
        f"{plan.counters.flops / plans[0].counters.flops:8.2f}"
    )

# %% [markdown]
# ## Step 12. The clock
#
# And the time, against our own convolution without a pattern, with the spectra
# made beforehand. `make figures` does the same at the paper's $N$ = 2M, beside
# the paper's own speeds.

# %%
seconds = medians(calls)
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
    title=f"speed over the dense convolution, N = {N:,}: measured here",
    xticks=place,
    xticklabels=[
        f"{', '.join(map(str, drop))}\nasked {case[2].asked(N):.0%}"
        for drop, case in zip(DROPS, cases[1:])
    ],
    ylabel="times as fast",
    ylim=(0, 1.3 * speed.max()),
)
ax.tick_params(axis="x", labelsize=8)
ax.grid(axis="x", visible=False)
ax.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# What to take home:
#
# - A **short filter** is cut into blocks that fit the fast memory: time per
#   sample, workspace and spectrum then depend on $L_k$ and not on $L$, forward
#   and backward, and a row may arrive in pieces.
# - A **sparse spectrum** saves what a frequency and its mirror both lack. Ask
#   for the part really kept (`plan.kept`), not for the part asked: 50 % can be
#   nothing at all.
# - Fewer operations are not as much less time: rows must still be read and
#   written, and the stages that mix kept with removed digits must still run.
