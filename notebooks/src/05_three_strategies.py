# %% [markdown]
# # 5. One sum, three orders
#
# A state-space layer mixes channels, convolves, and mixes again:
#
# $$ y[b,t,o] = \sum_n C[o,n] \sum_{j\le t} K[n,j] \sum_i B[n,i]\; x[b,t-j,i]. $$
#
# Three factors and a convolution: nobody says in which order. All orders give the
# same numbers; one may cost a hundred times what another does. lrnnx's
# `opt_ssm_forward` chooses among three by a rule of two inequalities. This lesson
# derives the rule, finds what it leaves out, and asks the clock.
#
# | step | idea |
# |---|---|
# | 1 | three programs, one result |
# | 2 | counting products: where the rule comes from |
# | 3 | counting transforms too: what the rule leaves out |
# | 4 | the plane: who is fastest where |
# | 5 | the model against the clock |
# | 6 | memory: what must never be made |
# | 7 | the library's calls, and a trap |

# %%
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from fftconv.lrnnx import Centaurus, fft_conv, opt_ssm_forward, strategy_costs, upstream_strategy

plt.style.use("lesson.mplstyle")
rng = np.random.default_rng(5)

# %% [markdown]
# ## Step 1. Three programs, one result


# %%
def convolve(u, k):
    """Causal, along the last axis."""
    n = 2 * u.shape[-1]
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(k, n), n)[..., : n // 2]


def kernels_first(x, K, B, C):  # 1: all (o, i) kernels, in time
    k = np.einsum("on,nl,ni->oil", C, K, B)
    rows = x.swapaxes(1, 2)  # (B, H_in, L)
    return sum(convolve(rows[:, i, None], k[:, i]) for i in range(k.shape[1])).swapaxes(1, 2)


def project_first(x, K, B, C):  # 2: N rows in the middle
    u = np.einsum("bli,ni->bnl", x, B)
    return np.einsum("bnl,on->blo", convolve(u, K), C)


def at_each_frequency(x, K, B, C):  # 3: everything between transforms
    n = 2 * x.shape[1]
    X, Kf = np.fft.rfft(x, n, axis=1), np.fft.rfft(K, n)
    Y = np.einsum("bfi,ni,nf,on->bfo", X, B, Kf, C, optimize=True)
    return np.fft.irfft(Y, n, axis=1)[:, : n // 2]


x = rng.standard_normal((2, 100, 5))
K = rng.standard_normal((7, 100))
B, C = rng.standard_normal((7, 5)), rng.standard_normal((4, 7))
first = kernels_first(x, K, B, C)
for other in project_first, at_each_frequency:
    print(other.__name__, np.abs(other(x, K, B, C) - first).max())
    assert np.allclose(other(x, K, B, C), first)
for strategy in 1, 2, 3:
    assert np.allclose(opt_ssm_forward(x, K, B, C, strategy=strategy), first)

# %% [markdown]
# ## Step 2. Where the rule comes from
#
# For each place in time (or frequency), kernels first costs $H_iH_oN$ to make
# them and $B\,H_iH_o$ to use them; projections cost $BN(H_i+H_o)$. So kernels
# first wins where $H_iH_o(N+B) < BN(H_i+H_o)$; divide by $BNH_iH_o$:
#
# $$ \frac1B+\frac1N < \frac1{H_i}+\frac1{H_o}. $$
#
# That is the first inequality, exactly. Inside either case the rule asks where
# fewer rows are to be transformed: kernels in time if $H_iH_o\le N$, projections
# in time if $N\le H_i$.

# %%
sizes = rng.integers(1, 400, (2000, 4)).tolist()
agree = 0
for b, i, o, n in sizes:
    kernels, projections = i * o * (n + b), b * n * (i + o)
    rule = 1 / i + 1 / o > 1 / b + 1 / n
    agree += rule == (kernels < projections) or kernels == projections
print(f"the inequality is the count at {agree} of {len(sizes)} random sizes")
assert agree == len(sizes)

# %% [markdown]
# ## Step 3. What the rule leaves out
#
# - A causal convolution is twice as long at the frequencies as in time: projecting
#   there costs two of projecting here.
# - Transforms are not free: $O(\log L)$ for each sample, and $L$ is in no inequality.
# - Bytes are not free either.
#
# `strategy_costs` counts all of it. At the shapes of lrnnx's own document:

# %%
shape = dict(batch=32, length=1024, inputs=64, outputs=64, states=128)
costs = strategy_costs(**shape, threads=1)
for order, cost in costs.items():
    print(
        f"{order:14} {cost.flops / 1e9:5.2f} Gflop, {1e3 * cost.seconds:6.1f} ms "
        f"expected, {cost.memory_bytes / 1e6:6.1f} MB beside operands and result"
    )
print("lrnnx's rule:", upstream_strategy(32, 64, 64, 128))

# %% [markdown]
# ## Step 4. The plane
#
# For $H_i=H_o=H$ and $N$ states, the choice by expected seconds, over $B$ and $H$,
# at three lengths. The dashed line is the rule's first inequality.

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
    axis.set_xlabel("B")
    axis.set_title(f"L = {length}, N = {states}")
axes[0].set_ylabel("$H$")
axes[0].set_ylim(1.5, 400)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %% [markdown]
# ## Step 5. The model against the clock
#
# Each strategy forced, at shapes where different ones win. The whole run is in
# `experiments/strategies.py`, with SciPy beside it.


# %%
def seconds(call):
    call()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


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
axis.set_xlabel("expected seconds")
axis.set_ylabel("measured seconds")
axis.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Step 6. What must never be made
#
# Evaluated from left to right, the einsum of strategy 3 makes an array of
# $(B, 2L, H, N)$ complex numbers first. At the document's shapes:

# %%
B_, L_, H_, N_ = 32, 1024, 64, 128
print(f"(B, 2L, H, N) complex64: {B_ * 2 * L_ * H_ * N_ * 8 / 1e9:.1f} GB")
for order, cost in strategy_costs(B_, L_, H_, H_, N_, threads=1).items():
    print(f"{order:14} {cost.memory_bytes / 1e6:6.1f} MB")

# %% [markdown]
# Even $(B, F, N)$ is not made: strategy 2 takes a few of the batch at a time,
# strategy 3 a block of frequencies that stays in cache, strategy 1 a block of
# kernels.
#
# ## Step 7. The calls, and a trap
#
# `K` may be (L, N), as lrnnx's document says, or (N, L), as its models pass it.
# Its shape tells which, but for a square one. There the original goes on silently
# and wrong; here the documented layout is taken, with a warning, unless you say.

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
# fft_conv reads the layout from the letters
assert np.allclose(fft_conv("blh,nl,nh,on->blo", x, K, B, C), rows)
assert np.allclose(fft_conv("blh,ln,hn,no->blo", x, K.T, B.T, C.T), rows)

# Centaurus' modes use the structure that B and C have
x = rng.standard_normal((3, 50, 4))
for mode, N in ("neck", 6), ("dws", 4), ("full", 16), ("pointwise", 6):
    layer = Centaurus(4, N, 2, mode, seed=0)
    state, steps = layer.default_state(3), np.empty_like(x)
    for t in range(50):
        steps[:, t], state = layer.step(x[:, t], state)
    print(f"{mode:10} forward against steps: {np.abs(layer(x) - steps).max():.1e}")
    assert np.allclose(layer(x), steps)
