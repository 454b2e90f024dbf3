# %% [markdown]
# # 4. Gates, heads and short convolutions: H3 and Hyena
#
# A convolution treats every place alike: the weights with which it combines samples do
# not depend on the samples. A model of language or of genomes needs weights that do,
# because the meaning of a letter depends on the letters before it. H3 and Hyena are two
# such models. They add three simple operations to the long convolution of lessons 1 to
# 3: short convolutions, gates and heads.
#
# | step | idea |
# |---|---|
# | 1 | a short convolution shifts a signal or compares neighbouring samples |
# | 2 | a gate lets the data choose |
# | 3 | a gated convolution is a matrix that depends on the data |
# | 4–5 | heads: outer products in, a contraction out; exact recall |
# | 6 | how many convolutions heads need, and what they cost |
# | 7 | the Hyena operator and its matrix |
# | 8 | the same operator over a whole genome |
# | 9 | heads that count while they read: a Markov chain of the genome |
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
    file.readline()  # skip the title line
    letters = file.read().replace("\n", "")
codes = np.frombuffer(letters.encode(), np.uint8)
genome = codes == np.frombuffer(b"ACGT", np.uint8)[:, None]  # (4, L)
print(f"E. coli 536: {genome.shape[1]:,} letters")

# %% [markdown]
# ## Step 1. A short convolution
#
# A short convolution has three or four taps per channel and treats every channel
# separately. If the tap for one place back is 1 and the others are 0, it is a **shift**:
# each output is the sample before. With the taps −1, 1 it is the difference of a sample
# and the one before. H3 calls the shift a *shift SSM*, where SSM stands for state-space
# model (lesson 6). Hyena learns the taps. As in PyTorch's `Conv1d`, the taps are given
# in the order of a cross-correlation: the last tap belongs to the present sample.

# %%
x = np.zeros((1, 3, 24), np.float32)
x[:] = np.repeat([0, 1, 0.3, 0.8], [4, 8, 4, 8])
w = np.array(
    [
        [0, 1, 0],  # the sample before
        [0, -1, 1],  # the change since the sample before
        [1 / 3, 1 / 3, 1 / 3],  # the mean of three samples
    ],
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
# A gate is a product with a second signal, element by element:
# $y = v \odot \big((w \odot u) * k\big)$. The gate $w$ before the convolution
# determines what is written into its memory, and the gate $v$ behind it determines when
# the memory is read. Below, every tap of the filter is 1, so the output of the
# convolution is the sum of everything that was written before. The gates make it
# remember three chosen samples, and read their sum at two places. At the first of them
# only two of the three have been written.

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
    ["u (orange: written)", "memory", "y = read · memory"],
    ["0.7", "C0", "C2"],
):
    ax.bar(np.arange(L), row[0, 0], color=colour)
    ax.set_ylabel(label, fontsize=8)
axes[0].bar(np.arange(L), (write * u)[0, 0], color="C1")
plt.show()

# %% [markdown]
# ## Step 3. A matrix that depends on the data
#
# As a matrix, a gated convolution is $y = D_v\, T_k\, D_w\, u$. Here $T_k$ is the
# triangular Toeplitz matrix of lesson 1, and $D_v$ and $D_w$ are diagonal matrices of
# the gates. They scale the rows and the columns of $T_k$ by numbers computed from the
# data. This makes a gated convolution comparable to attention, whose whole matrix is
# computed from the data. A gated convolution needs only the $L$ numbers of each gate,
# and its work is still proportional to $L \log L$.

# %%
L = 48
k = np.exp(-np.arange(L) / 12)[None]
w, v = (np.abs(rng.standard_normal((1, 1, L))) for _ in range(2))
T = np.tril(k[0, np.abs(np.subtract.outer(np.arange(L), np.arange(L)))])
M = v[0, 0, :, None] * T * w[0, 0]
u = rng.standard_normal((1, 1, L))
assert np.allclose(fftconv.conv(u, k, in_gate=w, out_gate=v)[0, 0], M @ u[0, 0])

fig, axes = plt.subplots(1, 2, figsize=(6.4, 3))
for ax, matrix, title in zip(
    axes, [T, M], ["$T_k$: the filter alone", "$D_v T_k D_w$: with gates"]
):
    ax.imshow(matrix, cmap="Blues")
    ax.set(title=title, xlabel="input index", ylabel="output index")
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Step 4. Heads
#
# With one gate and one value, a channel remembers a single number. To remember more, H3
# groups its channels into **heads**. A head takes $h$ channels of keys $u$, of values
# $v$ and of queries $q$, and convolves all $h^2$ products of a key and a value:
#
# $$z_{ij} = u_i \odot v_j, \qquad
#   y_j = \sum_{i} q_i \odot \big(z_{ij} * k + D\, z_{ij}\big).$$
#
# $D$ is a weight of the present sample, called the skip. In H3 the keys are shifted as
# in step 1, so that a value is stored under the key before it; here key and value stand
# at the same place, and nothing needs to be shifted. If every tap of $k$ is 1, a head is
# an exact memory: a query returns what was written under the same key. So a sequence of
# pairs of a key and a value that ends in a question, such as
#
#     a 3   c 7   b 1   ...   c ?
#
# is answered by `fftconv_func`, a call with the arguments of hyena-dna, although nothing
# has been learned.


# %%
def recall(pairs, h, keys_of):
    """Write (key, value) pairs, then ask for each key; return the answers, (B, pairs)."""
    B, n, _ = pairs.shape
    L = 2 * n  # n pairs, then n questions
    u, v, q = np.zeros((3, B, h, L), np.float32)
    for b, t in np.ndindex(B, n):
        key, value = pairs[b, t]
        u[b, :, t] = keys_of[key]
        v[b, value, t] = 1
        q[b, :, n + t] = keys_of[key]
    memory = np.ones((1, L), np.float32)  # one filter for the head
    y = fftconv_func(u, memory, np.zeros(1, np.float32), gelu=False, v=v, head_dim=h, q=q)
    return y[:, :, n:].argmax(1)


def some_pairs(B, n, h):
    keys = np.stack([rng.permutation(h)[:n] for _ in range(B)])
    return np.stack([keys, rng.integers(h, size=(B, n))], axis=-1)


h = 16
pairs = some_pairs(8, 16, h)
answers = recall(pairs, h, np.eye(h))
assert np.array_equal(answers, pairs[..., 1])
print(f"{answers.size} of {answers.size} answers are right")

# %% [markdown]
# ## Step 5. Why one channel of keys is not enough
#
# If the keys are not orthogonal, part of every other stored value is added to an
# answer. The inner product of two random unit vectors with $d$ components has a size of
# about $1/\sqrt{d}$. The contributions of the $n - 1$ other pairs add up to about
# $\sqrt{n / d}$, beside the right answer of size 1. So more pairs need keys with more
# components.

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
    xlabel="components of a key",
    ylabel="part of the answers that is right",
    ylim=(0, 1.05),
)
ax.set_xscale("log", base=2)
ax.legend()
plt.show()

# %% [markdown]
# ## Step 6. What heads cost
#
# A head of $h$ channels takes $h^2$ convolutions. If their inputs were stored in memory
# they would be $h^2$ rows, $h$ times as many as the keys have (eight times for $h = 8$),
# and the outputs would take the same again. The library stores neither: only $h$ of the
# rows $z_{ij}$ exist at a time, in memory that belongs to one thread, however large the
# batch is. Below, we compare it with a program that stores all rows.

# %%
B, H, h, L = 2, 16, 8, 2048
u, v, q = rng.standard_normal((3, B, H, L)).astype(np.float32)
k = rng.standard_normal((H // h, L)).astype(np.float32) / L**0.5
D = rng.standard_normal(H // h).astype(np.float32)
y = fftconv_func(u, k, D, gelu=False, v=v, head_dim=h, q=q)


def all_rows_stored(u, v, q, k, D):
    """Return the result of the head and the bytes of the rows, which are all stored."""
    groups = (B, H // h, h, L)
    z = u.reshape(groups)[:, :, :, None] * v.reshape(groups)[:, :, None]
    rows = z.reshape(B, H * h, L)  # h times as many as u has
    p = fftconv.conv(rows, k, skip=np.repeat(D, h * h))
    p = p.reshape(z.shape) * q.reshape(groups)[:, :, :, None]
    return p.sum(2).reshape(u.shape), z.nbytes + 2 * p.nbytes


want, extra = all_rows_stored(u, v, q, k, D)
assert np.allclose(y, want, atol=1e-4)
seconds = []
for call in (
    lambda: fftconv_func(u, k, D, gelu=False, v=v, head_dim=h, q=q, threads=1),
    lambda: all_rows_stored(u, v, q, k, D),
):
    times = []
    for _ in range(5):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    seconds.append(np.median(times))
print(
    f"{H * h * B} convolutions of {L} samples: {1e3 * seconds[0]:.1f} ms by heads, "
    f"{1e3 * seconds[1]:.1f} ms with all rows stored, which takes {extra / 2**20:.0f} MiB"
)
print(
    f"(processor time; {platform.system()} {platform.machine()}, libfftconv {fftconv.__version__})"
)

# %% [markdown]
# ## Step 7. The Hyena operator
#
# Hyena repeats gated convolutions instead. It makes $N + 1$ projections of its input,
# $v, x_1, \dots, x_N$: each is a linear combination of the input's channels, followed
# by a short convolution. Then it alternates long filters $h_n$ and gates $x_n$:
#
# $$z_1 = v, \qquad z_{n+1} = x_n \odot (h_n * z_n + D_n z_n), \qquad y = z_{N+1}.$$
#
# $D_n$ is a skip as in step 4. Each step is one gated convolution of the library. As a
# matrix, $y = H(u)\,v$ with
#
# $$H = D_{x_N} (T_{h_N} + D_N I) \cdots D_{x_1} (T_{h_1} + D_1 I),$$
#
# where $D_{x_n}$ is the diagonal matrix of a gate as in step 3.


# %%
def projections(u, mix, short):
    """Return the N + 1 projections: channels are combined, then convolved with short taps."""
    rows = np.einsum("pdc,bcl->bpdl", mix, u)
    B, P, D, L = rows.shape
    return fftconv.depthwise_conv1d(rows.reshape(B, P * D, L), short, padding="causal").reshape(
        rows.shape
    )


def hyena(u, mix, short, filters, skips):
    """Apply the operator: mix (N + 1, D, C), short ((N + 1) D, K), filters (N, D, Lk),
    skips (N, D)."""
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
    ax.imshow(H, cmap="RdBu_r", vmin=-scale, vmax=scale)
    ax.set(title=f"H(u), channel {d}", xlabel="input index")
    ax.grid(False)
plt.show()

# %% [markdown]
# ## Step 8. Over a whole genome
#
# We apply the same function to a row of five million letters. The input is the one-hot
# genome: four channels, of which the channel of the present letter is 1 and the others
# are 0. A model would learn the projections; here we choose them. The first channel of
# the operator marks every C, and the second every G. The third marks every **C one
# place back** (by a short convolution) multiplied by **G at the present place** (by a
# gate), which is the pair CG, known as CpG. The long filter is the mean over a window of
# 50,000 letters. So there are three outputs at each place: how frequent C, G and CpG are
# in the window. The third one needs the gate, because a convolution cannot multiply two
# samples. If letters followed each other at random, CpG would be expected with the
# product of the frequencies of C and G. The figure shows the observed frequency divided
# by the expected one.

# %%
one_hot = genome[None].astype(np.float32)  # (1, 4, L): A C G T
L, window = one_hot.shape[-1], 50_000
C_, G_, every = [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]
mix = np.array(
    [
        [C_, G_, G_],  # v marks C, G, and G
        [every, every, C_],  # the gate x_1 passes everything, everything, and only C
        [every, every, every],  # the gate x_2 passes everything
    ],
    np.float32,
)
short = np.zeros((9, 2), np.float32)
short[:, 1] = 1  # the last tap belongs to the present letter
short[5] = [1, 0]  # row 5, the C of x_1, takes the letter before instead
filters = np.zeros((2, 3, window), np.float32)
filters[0, :, 0] = 1  # the first filter changes nothing
filters[1] = 1 / window  # the second filter is the mean over the window
start = time.perf_counter()
y = hyena(one_hot, mix, short, filters, np.zeros((2, 3), np.float32))[0]
taken = time.perf_counter() - start
print(f"{3 * L:,} outputs in {taken:.1f} s")

cpg = np.char.count(letters[L - window :], "CG")
assert abs(y[2, -1] * window - cpg) <= 1.5  # a pair may cross the edge of the window
places = np.arange(window, L, 5_000)
c, g, both = y[:, places]
fig, ax = plt.subplots(figsize=(8.6, 2.8))
ax.plot(places / 1e6, both / (c * g), color="C0", lw=1)
ax.axhline(1, color="0.6", lw=1)
ax.set(
    title="CpG in E. coli by a Hyena operator, window of 50,000 letters",
    xlabel="position in the genome (millions of letters)",
    ylabel="observed / expected",
    xlim=(0, L / 1e6),
)
plt.show()

# %% [markdown]
# In most of the genome CpG is more frequent than expected. At a few places the ratio
# falls below 1. There the sequence is composed differently from the rest.
#
# ## Step 9. Heads that count while they read
#
# Now we give the genome to the heads of step 4. The key is the letter before, and the
# value is the present letter. Of the 4 × 4 products exactly one is 1 at each place, and
# says which letter follows which. The filter decreases slowly, over about $\tau$
# letters, so $z_{ij} * k$ counts how often letter $j$ followed letter $i$ recently. The
# query is the present letter. So the output says, at every place, how often each letter
# has followed the present one. This is a Markov chain that is estimated while the genome
# is read. It predicts the next letter, and we measure how well in bits per letter: to
# know nothing about the next of four letters costs 2 bits.


# %%
def markov(rows, tau, heads):
    """Return weighted counts of the letters that followed, (4, L)."""
    n = rows.shape[-1]
    taps = min(n, int(8 * tau))
    k = np.exp(-np.arange(taps) / tau, dtype=np.float32)[None]
    before = np.zeros_like(rows)
    before[..., 1:] = rows[..., :-1]
    if not heads:  # counts of single letters, without a key
        return fftconv.conv(rows, k)[0]
    return fftconv_func(before, k, np.zeros(1, np.float32), gelu=False, v=rows, head_dim=4, q=rows)[
        0
    ]


def bits(counts, rows):
    """Return the mean bits for the next letter; 1 is added to every count."""
    p = (counts[:, :-1] + 1) / (counts[:, :-1].sum(0) + 4)
    truth = rows[0, :, 1:]
    return -np.log2((p * truth).sum(0)).mean()


part = one_hot[..., : 2**20]
taus = [100, 1000, 10_000, 100_000]
found = {heads: [bits(markov(part, tau, heads), part) for tau in taus] for heads in (False, True)}
assert min(found[True]) < min(found[False]) < 2

fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(taus, found[False], "s--", color="C4", label="single letters, no key")
ax.plot(taus, found[True], "o-", label="pairs of letters: head_dim = 4")
ax.axhline(2, color="0.6", lw=1)
ax.set(
    title="the first 1,048,576 letters of E. coli",
    xlabel=r"length of the memory $\tau$ (letters)",
    ylabel="bits for the next letter",
)
ax.set_xscale("log")
ax.legend()
plt.show()
gain = min(found[False]) - min(found[True])
print(
    f"best: {min(found[False]):.3f} bits by single letters, {min(found[True]):.3f} by pairs, "
    f"which is {gain:.3f} bits better"
)

# %% [markdown]
# The gain is small: DNA is hard to predict, and the letter before says little about the
# next one. It is nevertheless real, since it is a mean over a million letters. A short
# memory does worse, because its counts are too small to be reliable. A very long one
# does worse too, because the composition of the genome changes along it.
#
# ## Step 10. The gradients
#
# Nothing above was learned, but all of it can be. `fftconv_func_backward`,
# `conv_backward` and `depthwise_conv1d_backward` compute the gradients that training
# needs. They compute the intermediate values again instead of storing them. As an
# example, we let the filter of the memory learn. All its taps are equal at first. The
# task is to recall the *latest* value of a key that was written more than once, so the
# filter has to learn to forget.

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
left.set(title="the loss during training", xlabel="step", ylabel="squared error", ylim=0)
right.bar(np.arange(L), k[0], color="C0")
right.axhline(0.3, color="0.6", lw=1)
right.set(title="the learned filter (grey line: at the start)", xlabel="lag")
plt.show()

# %% [markdown]
# On the whole, the learned filter gives recent values more weight than old ones, as it
# should. The tap at lag 0 does not change: no question is asked at the place where a pair
# is written, so the gradient of this tap is zero. The loss stops decreasing well above
# zero: one fixed filter can prefer recent values, but it cannot remove an old one exactly.
#
# ## Summary
#
# * A short convolution moves samples by a few places, and a gate lets the data choose.
#   With a long filter between them they are a matrix that depends on the data.
# * Heads make a memory with keys out of a filter: $h^2$ memories for $h$ channels, none
#   of whose rows has to be stored.
# * Hyena alternates filters and gates. A row of five million letters takes seconds,
#   because every part of the operator is a convolution of lessons 1 to 3 or a product.
#
# Sources: Dao, Fu and others, *Hungry Hungry Hippos*, arXiv 2212.14052; Poli and others,
# *Hyena Hierarchy*, arXiv 2302.10866.
