# %% [markdown]
# # 5. One sum, evaluated in three ways
#
# A state-space layer combines channels, convolves, and combines channels again (lesson 6
# explains where its kernels come from). Its input $x$ has a batch of $B$ sequences of
# length $L$ with $H_i$ channels, and its output $y$ has $H_o$ channels. Between them
# there are $N$ **states**, each with a convolution kernel of its own:
#
# $$ y[b,t,o] = \sum_n \mathbf{C}[o,n] \sum_{j\le t} K[n,j] \sum_i \mathbf{B}[n,i]\;
#    x[b,t-j,i]. $$
#
# We write the matrices $\mathbf{B}$ and $\mathbf{C}$ in bold, because $B$ is the size of
# the batch. The formula has three factors and does not say which of them to combine
# first. Every order of evaluation gives the same numbers, but one may cost many times as
# much as another. lrnnx, a PyTorch package of state-space and recurrent models, has a
# function `opt_ssm_forward` that chooses among three of them, called **strategies**, by a
# rule of two inequalities. The library offers this function for NumPy arrays. In this
# lesson we derive the rule, see what it leaves out, and measure.
#
# | step | idea |
# |---|---|
# | 1 | three programs with one result |
# | 2 | counting products: where the rule comes from |
# | 3 | counting transforms too: what the rule leaves out |
# | 4 | which strategy is expected to be fastest where |
# | 5 | expected times against measured ones |
# | 6 | memory: which arrays must never be made |
# | 7 | the library's calls, and an ambiguous case |

# %%
import os
import time
import warnings

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy multiplies matrices on one thread
import matplotlib.pyplot as plt
import numpy as np
from fftconv.lrnnx import Centaurus, fft_conv, opt_ssm_forward, strategy_costs, upstream_strategy

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(5)

# %% [markdown]
# ## Step 1. Three programs with one result
#
# **Strategy 1** multiplies the three factors first, which gives one kernel for each pair
# of an input and an output channel, and then convolves. **Strategy 2** projects the input
# onto the states with $\mathbf{B}$, convolves these $N$ rows, and combines the results
# with $\mathbf{C}$. **Strategy 3** transforms first, does everything at each frequency,
# and transforms back. The asserts check all three, and also the library's function.


# %%
def convolve(u, k):
    """Return the causal convolution along the last axis."""
    n = 2 * u.shape[-1]
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(k, n), n)[..., : n // 2]


def kernels_first(x, K, B, C):  # strategy 1: a kernel for each pair (o, i)
    k = np.einsum("on,nl,ni->oil", C, K, B)
    rows = x.swapaxes(1, 2)  # (B, H_in, L)
    return sum(convolve(rows[:, i, None], k[:, i]) for i in range(k.shape[1])).swapaxes(1, 2)


def project_first(x, K, B, C):  # strategy 2: N rows are convolved
    u = np.einsum("bli,ni->bnl", x, B)
    return np.einsum("bnl,on->blo", convolve(u, K), C)


def at_each_frequency(x, K, B, C):  # strategy 3: all sums are taken between the transforms
    n = 2 * x.shape[1]
    X, Kf = np.fft.rfft(x, n, axis=1), np.fft.rfft(K, n)
    Y = np.einsum("bfi,ni,nf,on->bfo", X, B, Kf, C, optimize=True)
    return np.fft.irfft(Y, n, axis=1)[:, : n // 2]


x = rng.standard_normal((2, 100, 5))
K = rng.standard_normal((7, 100))
B, C = rng.standard_normal((7, 5)), rng.standard_normal((4, 7))
first = kernels_first(x, K, B, C)
for other in project_first, at_each_frequency:
    difference = np.abs(other(x, K, B, C) - first).max()
    print(f"{other.__name__:18s}largest difference from kernels_first {difference:.0e}")
    assert np.allclose(other(x, K, B, C), first)
for strategy in 1, 2, 3:
    assert np.allclose(opt_ssm_forward(x, K, B, C, strategy=strategy), first)

# %% [markdown]
# ## Step 2. Where the rule comes from
#
# Count the products at each place in time, or at each frequency. To combine the factors
# into kernels takes $H_iH_oN$ products, and to use the kernels takes $B\,H_iH_o$. To
# project onto the states and back takes $BN(H_i+H_o)$. So kernels are the cheaper choice
# where $H_iH_o(N+B) < BN(H_i+H_o)$. Divide by $BNH_iH_o$:
#
# $$ \frac1B+\frac1N < \frac1{H_i}+\frac1{H_o}. $$
#
# This is exactly the first inequality of lrnnx's rule. The second one decides whether to
# work in time or at each frequency, by comparing how many rows would be transformed.
# Where kernels are cheaper, the rule makes them in time (strategy 1) if $H_iH_o\le N$.
# Where projections are cheaper, it makes them in time (strategy 2) if $N\le H_i$. In all
# other cases it takes strategy 3.

# %%
sizes = rng.integers(1, 400, (2000, 4)).tolist()
agree = 0
for b, i, o, n in sizes:
    kernels, projections = i * o * (n + b), b * n * (i + o)
    rule = 1 / i + 1 / o > 1 / b + 1 / n
    agree += rule == (kernels < projections) or kernels == projections
print(f"the inequality agrees with the count at {agree} of {len(sizes)} random sizes")
assert agree == len(sizes)

# %% [markdown]
# ## Step 3. What the rule leaves out
#
# - A causal convolution of length $L$ is computed with transforms of padded rows, which
#   have about $L$ complex frequencies and so twice as many real numbers as the rows have
#   samples. To project at each frequency costs as much as to project twice in time.
# - Transforms are not free. They take time proportional to $\log L$ for each sample, and
#   $L$ occurs in neither inequality.
# - Reading and writing memory is not free either.
#
# `strategy_costs` counts all of this. It splits strategy 3 into two: "3 projections"
# projects at each frequency, and "3 kernels" makes the kernels there. These are its
# results for the sizes that lrnnx's documentation uses as an example:

# %%
shape = dict(batch=32, length=1024, inputs=64, outputs=64, states=128)
costs = strategy_costs(**shape, threads=1)
for order, cost in costs.items():
    print(
        f"{order:14} {cost.flops / 1e9:5.2f} Gflop, {1e3 * cost.seconds:6.1f} ms "
        f"expected, {cost.memory_bytes / 1e6:6.1f} MB besides operands and result"
    )
print("lrnnx's rule chooses strategy", upstream_strategy(32, 64, 64, 128))

# %% [markdown]
# ## Step 4. Which strategy is expected to be fastest where
#
# Take $H_i=H_o=H$ channels and $N=64$ states. For each $B$ and $H$ the figure shows the
# strategy with the least expected time, at three lengths. On the dashed line both sides
# of the rule's first inequality are equal; below it the rule makes kernels, above it the
# rule projects.

# %%
orders = list(costs)
states, batches = 64, 2 ** np.arange(0, 9)
channels = 2 ** np.arange(1, 9)
colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
for axis, length in zip(axes, (128, 1024, 8192)):
    for order, marker, colour in zip(orders, "os^v", colours):
        points = [
            (b, h)
            for b in batches
            for h in channels
            if order
            == min(
                (found := strategy_costs(int(b), length, int(h), int(h), states, threads=1)),
                key=lambda o: found[o].seconds,
            )
        ]
        axis.plot(*(zip(*points) if points else ([], [])), marker, color=colour, label=order)
    b = np.geomspace(1, 256, 50)
    axis.plot(b, 2 / (1 / b + 1 / states), "--", color="0.5")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlabel("$B$, size of the batch")
    axis.set_title(f"L = {length}, N = {states}")
axes[0].set_ylabel("$H$, channels")
axes[0].set_ylim(1.5, 400)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# ## Step 5. Expected times against measured ones
#
# Here each strategy is forced in turn, for four combinations of sizes, on one core. The
# table gives the measured times, with the expected times in parentheses. The script
# `experiments/strategies.py` measures many more, and compares with SciPy.


# %%
def seconds(call):
    call()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


print("strategy: measured ms (expected ms)")
figure, axis = plt.subplots(figsize=(5.2, 4))
for b, length, h, n in (
    (8, 1024, 32, 64),
    (32, 512, 8, 128),
    (1, 4096, 16, 256),
    (4, 2048, 64, 16),
):
    x = rng.standard_normal((b, length, h)).astype("f4")
    K = rng.standard_normal((n, length)).astype("f4")
    B = rng.standard_normal((n, h)).astype("f4")
    C = rng.standard_normal((h, n)).astype("f4")
    costs = strategy_costs(b, length, h, h, n, threads=1)
    measured, expected = [], []
    for strategy in 1, 2, 3:
        measured.append(
            seconds(
                lambda: opt_ssm_forward(x, K, B, C, strategy=strategy, k_layout="NL", threads=1)
            )
        )
        expected.append(min(c.seconds for o, c in costs.items() if o[0] == str(strategy)))
    print(
        f"B={b:2} L={length} H={h:2} N={n:3}: "
        + "  ".join(
            f"{s}: {1e3 * m:6.2f} ms ({1e3 * e:6.2f})"
            for s, m, e in zip((1, 2, 3), measured, expected)
        )
    )
    axis.loglog(expected, measured, "o", label=f"B={b}, L={length}, H={h}, N={n}")
ends = axis.get_xlim()
axis.plot(ends, ends, color="0.7", zorder=0)
axis.set_title("three strategies at each of four sizes", fontsize=10)
axis.set_xlabel("expected seconds")
axis.set_ylabel("measured seconds (grey line: as expected)")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Step 6. Which arrays must never be made
#
# Evaluated from left to right, the `einsum` of strategy 3 first makes an array of
# $(B, 2L, H, N)$ complex numbers. For the sizes of step 3 this array alone would take
# gigabytes. The library needs the following memory besides the operands and the result:

# %%
B_, L_, H_, N_ = 32, 1024, 64, 128
print(f"an array (B, 2L, H, N) of complex64: {B_ * 2 * L_ * H_ * N_ * 8 / 1e9:.1f} GB")
for order, cost in strategy_costs(B_, L_, H_, H_, N_, threads=1).items():
    print(f"{order:14} {cost.memory_bytes / 1e6:6.1f} MB")

# %% [markdown]
# The library does not even make an array of $(B, F, N)$ numbers for the $F$ frequencies.
# Strategy 1 makes a block of kernels at a time, strategy 2 works on a few sequences of
# the batch at a time, and strategy 3 on a block of frequencies that fits into the cache.
#
# ## Step 7. The library's calls, and an ambiguous case
#
# `K` may have the shape (L, N), as in lrnnx's documentation, or (N, L), as in the code of
# its models. The shape says which of the two is meant, unless $L = N$. In that case lrnnx
# takes (N, L) without a warning, and its result is wrong if (L, N) was meant. The library
# takes (N, L), too, but warns, unless the argument `k_layout` names one.

# %%
x, K = rng.standard_normal((2, 8, 3)), rng.standard_normal((8, 8))
B, C = rng.standard_normal((8, 3)), rng.standard_normal((3, 8))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    opt_ssm_forward(x, K, B, C)
print(caught[0].message)
rows = opt_ssm_forward(x, K, B, C, k_layout="NL")
columns = opt_ssm_forward(x, K.T, B, C, k_layout="LN")
assert np.allclose(rows, columns)

# %%
# fft_conv takes the layout from the letters of its first argument.
assert np.allclose(fft_conv("blh,nl,nh,on->blo", x, K, B, C), rows)
assert np.allclose(fft_conv("blh,ln,hn,no->blo", x, K.T, B.T, C.T), rows)

# Centaurus is a layer made of this sum.  Its modes differ in the structure of B and C.
x = rng.standard_normal((3, 50, 4))
for mode, N in ("neck", 6), ("dws", 4), ("full", 16), ("pointwise", 6):
    layer = Centaurus(4, N, 2, mode, seed=0)
    state, steps = layer.default_state(3), np.empty_like(x)
    for t in range(50):
        steps[:, t], state = layer.step(x[:, t], state)
    difference = np.abs(layer(x) - steps).max()
    print(f"{mode:10} whole sequence against step by step: difference {difference:.0e}")
    assert np.allclose(layer(x), steps)

# %% [markdown]
# ## Summary
#
# - Whether to make kernels or to project depends on the sizes alone, and lrnnx's first
#   inequality is the exact count of the products.
# - The rule leaves out the transforms, the doubled length at the frequencies, and the
#   bytes. `opt_ssm_forward` chooses by a cost that includes them, unless a strategy is
#   given.
# - Each strategy works in blocks, so that no large array is ever made.
