# %% [markdown]
# # 4. Gates, heads and short convolutions: H3 and Hyena
#
# A convolution treats every place alike: what it does to a signal does not
# depend on the signal. A model of language or of genomes has to: what a letter
# means depends on what came before. H3 and Hyena get there with three small
# things around the long convolution of lessons 1 to 3.
#
# | step | idea |
# |---|---|
# | 1 | a short convolution shifts and compares neighbours |
# | 2 | a gate lets the signal choose |
# | 3 | a gated convolution is a matrix made of the data |
# | 4–5 | heads: outer products in, a contraction out; recall, exactly |
# | 6 | how many heads, and what they cost |
# | 7 | the Hyena operator, and its matrix |
# | 8 | the same over a whole genome |
# | 9 | heads that count as they read: a Markov chain of the genome |
# | 10 | the gradients |

# %%
import gzip
import platform
import time

import fftconv
import matplotlib.pyplot as plt
import numpy as np
from fftconv.hyena import fftconv_func, fftconv_func_backward

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(4)

with gzip.open("../experiments/data/NC_008253.fna.gz", "rt") as file:
    file.readline()  # the record's title
    letters = file.read().replace("\n", "")
codes = np.frombuffer(letters.encode(), np.uint8)
genome = codes == np.frombuffer(b"ACGT", np.uint8)[:, None]  # (4, L)
print(f"E. coli 536: {genome.shape[1]:,} letters")

# %% [markdown]
# ## Step 1. A short convolution
#
# Three or four taps per channel, every channel by itself. With the tap one step
# back at 1 it is a **shift**: the value that stood before. With taps 1, −1 it
# is a difference. H3 calls the first a *shift SSM*; Hyena learns the taps.
# It is a cross-correlation, as torch's `Conv1d` is: the last tap is the present
# one.

# %%
x = np.zeros((1, 3, 24), np.float32)
x[:] = np.repeat([0, 1, 0.3, 0.8], [4, 8, 4, 8])
w = np.array(
    [
        [0, 1, 0],  # what stood before
        [0, -1, 1],  # what changed
        [1 / 3, 1 / 3, 1 / 3],
    ],  # the mean of three
    np.float32,
)
y = fftconv.depthwise_conv1d(x, w, padding="causal")
assert np.array_equal(y[0, 0, 1:], x[0, 0, :-1])
assert np.allclose(y[0, 1, 1:], np.diff(x[0, 1]))

fig, axes = plt.subplots(1, 3, figsize=(8.6, 2.3), sharey=True)
for ax, out, title in zip(axes, y[0], ["shift", "difference", "mean of three"]):
    ax.step(np.arange(24), x[0, 0], where="mid", color="0.75", lw=4, label="x")
    ax.step(np.arange(24), out, where="mid", label="y")
    ax.set(title=title, xlabel="place")
axes[0].legend()
plt.show()

# %% [markdown]
# ## Step 2. A gate
#
# A gate is a product per element: $y = v \odot \big((w \odot u) * k\big)$. The
# one before the convolution says what goes *into* memory, the one behind it
# when memory is *read*. Below, the filter is all ones: it remembers everything,
# for ever. The gates make it keep three chosen samples and tell their sum
# twice.

# %%
L = 60
u = rng.standard_normal((1, 1, L)).astype(np.float32)
write, read = np.zeros((2, 1, 1, L), np.float32)
write[..., [2, 17, 30]] = 1
read[..., [25, 50]] = 1
ones = np.ones((1, L), np.float32)
y = fftconv.conv(u, ones, in_gate=write, out_gate=read)
assert np.isclose(y[0, 0, 25], u[0, 0, [2, 17]].sum(), atol=1e-5)
assert np.isclose(y[0, 0, 50], u[0, 0, [2, 17, 30]].sum(), atol=1e-5)

fig, axes = plt.subplots(3, 1, figsize=(8.6, 3.6), sharex=True)
for ax, row, label, colour in zip(
    axes,
    [u, fftconv.conv(u, ones, in_gate=write), y],
    ["u (orange: let in)", "memory", "y = read . memory"],
    ["0.7", "C0", "C2"],
):
    ax.bar(np.arange(L), row[0, 0], color=colour)
    ax.set_ylabel(label, fontsize=8)
axes[0].bar(np.arange(L), (write * u)[0, 0], color="C1")
plt.show()

# %% [markdown]
# ## Step 3. A matrix made of the data
#
# In matrices, $y = D_v\, T_k\, D_w\, u$, with $T_k$ the triangular Toeplitz
# matrix of lesson 1 and $D$ diagonal: rows and columns of $T_k$ scaled by the
# data. That is what makes it comparable to attention, whose matrix is made of
# the data altogether. $L$ numbers of each gate, and still $L \log L$ work.

# %%
L = 48
k = np.exp(-np.arange(L) / 12)[None]
w, v = (np.abs(rng.standard_normal((1, 1, L))) for _ in range(2))
T = np.tril(k[0, np.abs(np.subtract.outer(np.arange(L), np.arange(L)))])
M = v[0, 0, :, None] * T * w[0, 0]
u = rng.standard_normal((1, 1, L))
assert np.allclose(fftconv.conv(u, k, in_gate=w, out_gate=v)[0, 0], M @ u[0, 0])

fig, axes = plt.subplots(1, 2, figsize=(6.4, 3))
for ax, matrix, title in zip(axes, [T, M], ["T: the filter alone", "D T D: gated"]):
    ax.imshow(matrix, cmap="Blues")
    ax.set(title=title, xlabel="from place", ylabel="to place")
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Step 4. Heads
#
# One gate and one value make one number of memory per channel. H3 makes more of
# them: it takes $h$ channels of keys and $h$ of values, and writes all $h^2$
# products,
#
# $$z_{ij} = u_i \odot v_j, \qquad
#   y_j = \sum_{i} q_i \odot \big(z_{ij} * k + D\, z_{ij}\big).$$
#
# $u$ is the key (shifted, step 1), $v$ the value, $q$ the query. With a filter
# of ones this is exactly a store: what was written under a key is read by that
# key. A sequence such as
#
#     a 3   c 7   b 1   ...   c ?
#
# is answered by hyena-dna's call, `fftconv_func`, with nothing learned.


# %%
def recall(pairs, h, keys_of):
    """Writes (key, value) pairs, then asks for each key: (B, pairs) answers."""
    B, n, _ = pairs.shape
    L = 2 * n  # n pairs, then n questions
    u, v, q = np.zeros((3, B, h, L), np.float32)
    for b, t in np.ndindex(B, n):
        key, value = pairs[b, t]
        u[b, :, t] = keys_of[key]
        v[b, value, t] = 1
        q[b, :, n + t] = keys_of[key]
    memory = np.ones((1, L), np.float32)  # one kernel for the group
    y = fftconv_func(u, memory, np.zeros(1, np.float32), gelu=False, v=v, head_dim=h, q=q)
    return y[:, :, n:].argmax(1)


def some_pairs(B, n, h):
    keys = np.stack([rng.permutation(h)[:n] for _ in range(B)])
    return np.stack([keys, rng.integers(h, size=(B, n))], axis=-1)


h = 16
pairs = some_pairs(8, 16, h)
answers = recall(pairs, h, np.eye(h))
assert np.array_equal(answers, pairs[..., 1])
print(f"{answers.size} of {answers.size} right")

# %% [markdown]
# ## Step 5. Why one channel of keys is not enough
#
# With keys that are not at right angles to each other the products of one pair
# leak into the answer for another. Random keys of $d$ dimensions overlap by
# about $1/\sqrt{d}$, and the leaks of $n - 1$ others add up to
# $\sqrt{n / d}$, beside an answer of size 1.

# %%
h, dimensions = 16, [1, 2, 4, 8, 16]
fig, ax = plt.subplots(figsize=(6.4, 3))
for n in (4, 8, 16):
    right = []
    for d in dimensions:
        keys_of = np.zeros((h, h))
        keys_of[:, :d] = rng.standard_normal((h, d))
        keys_of /= np.linalg.norm(keys_of, axis=1, keepdims=True)
        pairs = some_pairs(64, n, h)
        right.append((recall(pairs, h, keys_of) == pairs[..., 1]).mean())
    assert right[-1] > right[0]
    ax.plot(dimensions, right, "o-", label=f"{n} pairs")
ax.set(
    title="recall with random keys",
    xlabel="dimensions of a key",
    ylabel="answers right",
    ylim=(0, 1.05),
)
ax.set_xscale("log", base=2)
ax.legend()
plt.show()

# %% [markdown]
# ## Step 6. What they cost
#
# $h^2$ convolutions of a group, and if their inputs were written down, $h^2$
# rows: of $h = 8$, eight times as much as $u$ itself, and once more for the
# outputs. The call writes none of them down: a group's $z_{ij}$ exist $h$ rows
# at a time, in a thread's own memory, whatever the batch.

# %%
B, H, h, L = 2, 16, 8, 2048
u, v, q = rng.standard_normal((3, B, H, L)).astype(np.float32)
k = rng.standard_normal((H // h, L)).astype(np.float32) / L**0.5
D = rng.standard_normal(H // h).astype(np.float32)
y = fftconv_func(u, k, D, gelu=False, v=v, head_dim=h, q=q)


def written_down(u, v, q, k, D):
    """The same, with all rows there are."""
    groups = (B, H // h, h, L)
    z = u.reshape(groups)[:, :, :, None] * v.reshape(groups)[:, :, None]
    rows = z.reshape(B, H * h, L)  # h times as many
    p = fftconv.conv(rows, k, skip=np.repeat(D, h * h))
    p = p.reshape(z.shape) * q.reshape(groups)[:, :, :, None]
    return p.sum(2).reshape(u.shape), z.nbytes + 2 * p.nbytes


want, extra = written_down(u, v, q, k, D)
assert np.allclose(y, want, atol=1e-4)
seconds = []
for call in (
    lambda: fftconv_func(u, k, D, gelu=False, v=v, head_dim=h, q=q, threads=1),
    lambda: written_down(u, v, q, k, D),
):
    times = []
    for _ in range(5):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    seconds.append(np.median(times))
print(
    f"{H * h * B} convolutions of {L}: {1e3 * seconds[0]:.1f} ms by heads, "
    f"{1e3 * seconds[1]:.1f} ms written down, beside {extra / 2**20:.0f} MiB "
    "of rows"
)
print(
    f"(processor time; {platform.system()} {platform.machine()}, libfftconv {fftconv.__version__})"
)

# %% [markdown]
# ## Step 7. The Hyena operator
#
# Hyena repeats the gate instead: of an input it makes $N + 1$ projections, each
# through a short convolution, and alternates long filters with gates:
#
# $$z_1 = v, \qquad z_{n+1} = x_n \odot (h_n * z_n), \qquad y = z_{N+1}.$$
#
# Each step is one gated convolution of the library, and $y = H(u)\,v$ with
# $H = D_{x_N} T_{h_N} \cdots D_{x_1} T_{h_1}$.


# %%
def projections(u, mix, short):
    """N + 1 rows of channels: dense over channels, then short in time."""
    rows = np.einsum("pdc,bcl->bpdl", mix, u)
    B, P, D, L = rows.shape
    return fftconv.depthwise_conv1d(rows.reshape(B, P * D, L), short, padding="causal").reshape(
        rows.shape
    )


def hyena(u, mix, short, filters, skips):
    """mix (N + 1, D, C), short ((N + 1) D, K), filters and skips (N, D, ...)."""
    x = projections(u, mix, short)
    z = x[:, 0]
    for n, (k, D) in enumerate(zip(filters, skips)):
        z = fftconv.conv(z, k, out_gate=x[:, n + 1], skip=D)
    return z


N, D, C, L = 2, 3, 4, 40
u = rng.standard_normal((1, C, L))
mix = rng.standard_normal((N + 1, D, C)) / 2
short = rng.standard_normal(((N + 1) * D, 3)) / 2
filters = rng.standard_normal((N, D, L)) * np.exp(-np.arange(L) / 8)
skips = rng.standard_normal((N, D))
y = hyena(u, mix, short, filters, skips)

x = projections(u, mix, short)[0]
lags = np.subtract.outer(np.arange(L), np.arange(L))
fig, axes = plt.subplots(1, D, figsize=(8.6, 2.9))
for d, ax in enumerate(axes):
    H = np.eye(L)
    for n in range(N):
        T = np.where(lags >= 0, filters[n, d, np.abs(lags)], 0)
        H = x[n + 1, d, :, None] * (T + skips[n, d] * np.eye(L)) @ H
    assert np.allclose(H @ x[0, d], y[0, d])
    scale = np.abs(H).max()
    ax.imshow(H, cmap="RdBu", vmin=-scale, vmax=scale)
    ax.set(title=f"H(u), channel {d}", xlabel="from place")
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Step 8. Over a whole genome
#
# The same function, five million letters long. Of the one-hot genome (C = 4)
# the projections take what we choose here and a model would learn: in the
# first channel C alone, in the second G alone, and in the third **C one step
# back** (a short convolution) times **G now** (a gate): the dinucleotide CpG.
# The long filter is a window of 50,000 letters. Three numbers per place, of
# which one could not be had without a gate; their ratio is the CpG observed
# over expected.

# %%
one_hot = genome[None].astype(np.float32)  # (1, 4, L): A C G T
L, window = one_hot.shape[-1], 50_000
C_, G_, every = [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]
mix = np.array(
    [
        [C_, G_, G_],  # v
        [every, every, C_],  # x_1: a gate
        [every, every, every],
    ],  # x_2
    np.float32,
)
short = np.zeros((9, 2), np.float32)
short[:, 1] = 1  # the present letter
short[5] = [1, 0]  # the one before
filters = np.zeros((2, 3, window), np.float32)
filters[0, :, 0] = 1  # at once
filters[1] = 1 / window  # the mean
start = time.perf_counter()
y = hyena(one_hot, mix, short, filters, np.zeros((2, 3), np.float32))[0]
taken = time.perf_counter() - start
print(f"{3 * L:,} outputs in {taken:.1f} s")

cpg = np.char.count(letters[L - window :], "CG")
assert abs(y[2, -1] * window - cpg) <= 1.5  # at the window's edge
places = np.arange(window, L, 5_000)
c, g, both = y[:, places]
fig, ax = plt.subplots(figsize=(8.6, 2.8))
ax.plot(places / 1e6, both / (c * g), color="C0", lw=1)
ax.axhline(1, color="0.6", lw=1)
ax.set(
    title="CpG observed / expected, window of 50,000 letters: a Hyena operator over E. coli",
    xlabel="place (million letters)",
    ylabel="ratio",
    xlim=(0, L / 1e6),
)
plt.show()

# %% [markdown]
# ## Step 9. Heads that count as they read
#
# Give step 4 the genome. The key is the letter before, the value the letter
# now: the four by four products say which letter follows which. The filter
# forgets slowly, over $\tau$ letters: so each $z_{ij} * k$ is a count of "$j$
# after $i$" in the neighbourhood. The query is the letter now: out comes, for
# every place, how often each letter followed it lately. That is a Markov chain
# estimated on the way; it predicts the next letter, and how well is measured in
# bits: 2 would be no knowledge at all.


# %%
def markov(rows, tau, heads):
    """(4, L) pseudo-counts of the letter after each place."""
    n = rows.shape[-1]
    taps = min(n, int(8 * tau))
    k = np.exp(-np.arange(taps) / tau, dtype=np.float32)[None]
    before = np.zeros_like(rows)
    before[..., 1:] = rows[..., :-1]
    if not heads:  # letters by themselves: no key at all
        return fftconv.conv(rows, k)[0]
    return fftconv_func(before, k, np.zeros(1, np.float32), gelu=False, v=rows, head_dim=4, q=rows)[
        0
    ]


def bits(counts, rows):
    """Mean bits of the next letter, one pseudo-count each beforehand."""
    p = (counts[:, :-1] + 1) / (counts[:, :-1].sum(0) + 4)
    truth = rows[0, :, 1:]
    return -np.log2((p * truth).sum(0)).mean()


part = one_hot[..., : 2**20]
taus = [100, 1000, 10_000, 100_000]
found = {heads: [bits(markov(part, tau, heads), part) for tau in taus] for heads in (False, True)}
assert min(found[True]) < min(found[False]) < 2

fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(taus, found[False], "s--", color="C4", label="letters alone, no key")
ax.plot(taus, found[True], "o-", label="pairs of letters: head_dim = 4")
ax.axhline(2, color="0.6", lw=1)
ax.set(
    title="the first 1,048,576 letters of E. coli",
    xlabel="memory τ (letters)",
    ylabel="bits for the next letter",
)
ax.set_xscale("log")
ax.legend()
plt.show()
print(f"best: {min(found[False]):.3f} bits alone, {min(found[True]):.3f} by pairs")

# %% [markdown]
# ## Step 10. The gradients
#
# Nothing above was learned, but all of it can be: `fftconv_func_backward`,
# `conv_backward` and `depthwise_conv1d_backward` give what a step of training
# needs, recomputing forward and storing nothing in between. Let the memory's
# filter, flat at first, learn to recall the *latest* value of a key that was
# written more than once: it learns to forget.

# %%
h, n, B = 8, 12, 64
L = 2 * n
u, v, q, want = np.zeros((4, B, h, L), np.float32)
for b in range(B):
    latest = {}
    for t, (key, value) in enumerate(rng.integers(h, size=(n, 2))):
        u[b, key, t] = v[b, value, t] = 1
        latest[key] = value
    for t, key in enumerate(rng.choice(list(latest), n)):
        q[b, key, n + t] = want[b, latest[key], n + t] = 1

k, D = np.full((1, L), 0.3, np.float32), np.zeros(1, np.float32)
losses = []
for _ in range(300):
    y = fftconv_func(u, k, D, gelu=False, v=v, head_dim=h, q=q)
    error = (y - want) * q.max(1, keepdims=True)
    losses.append(float(np.sum(error**2) / (B * n)))
    g = fftconv_func_backward(2 * error / (B * n), u, k, D, gelu=False, v=v, head_dim=h, q=q)
    k -= 0.3 * g.dk
assert losses[-1] < 0.8 * losses[0]

fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 2.8))
left.plot(losses)
left.set(title="the loss", xlabel="step", ylabel="squared error", ylim=0)
right.bar(np.arange(L), k[0], color="C0")
right.axhline(0.3, color="0.6", lw=1)
right.set(title="the filter that was learned (grey: at the start)", xlabel="lag")
plt.show()

# %% [markdown]
# ## What to keep
#
# * A short convolution moves things by a few places; a gate makes the data
#   choose; together with a long filter they are a matrix made of the data.
# * Heads turn a filter into a store with keys: $h^2$ memories for $h$ channels,
#   and none of the rows between written down.
# * Hyena alternates filters and gates. At five million letters it takes
#   seconds, since every part of it is the convolution of lessons 1 to 3.
#
# Dao, Fu and others, *Hungry Hungry Hippos*, arXiv 2212.14052; Poli and others,
# *Hyena Hierarchy*, arXiv 2302.10866.
