# %% [markdown]
# # 8. Train it: a Hyena block on a genome
#
# The filters of lessons 4 and 6 were chosen by us. Here a filter of a thousand taps is
# learned: a small Hyena model reads the genome of *E. coli* and learns to predict each next
# letter, in about a minute on two processor cores. The convolution and its gradients are
# calls of `fftconv.torch`, so this lesson needs PyTorch: `pip install 'fftconv[torch]'`.
#
# | step | idea |
# |---|---|
# | 1 | how well letters can be predicted without a model: Markov chains |
# | 2 | the model, and where the convolution is in it |
# | 3 | the gradients are those of `torch.fft` |
# | 4 | the training |
# | 5 | how much of the past the model uses |
# | 6 | what the filters have learned |
# | 7 | the same training step with `torch.fft` |

# %%
import copy
import os
import platform
import sys
import time

import fftconv.torch
import matplotlib.pyplot as plt
import numpy as np

sys.path.append("../experiments")
import genome_model
import torch
import torch_fft

plt.style.use("lesson.mplstyle")
torch.manual_seed(0)
STEPS = int(os.environ.get("FFTCONV_TRAINING_STEPS", 800))
BATCH, L = 8, 1024

known, held_out = genome_model.split("ecoli")
print(f"{len(known):,} letters to learn from, and {len(held_out):,} that are never trained on")

# %% [markdown]
# ## Step 1. What there is to beat
#
# A prediction is four probabilities, one for each letter. Its **loss** is $-\log p$ of the
# letter that comes, in nats; the mean of it over many letters is the cross entropy. If
# nothing is known, $p = 1/4$ and the loss is $\log 4 \approx 1.386$.
#
# The simplest prediction from the past is a **Markov chain** of order $m$. It looks up how
# often each letter has followed the same $m$ letters before. A longer memory knows more,
# but the number of its contexts grows as $4^m$, until there are too few letters to fill
# the table. So one order is the best. The chains are counted on the known part and judged
# on the other.


# %%
def contexts(codes, order):
    """Return each stretch of order + 1 letters as a number below 4 ** (order + 1)."""
    n = len(codes) - order
    return sum(codes[i : i + n] * 4 ** (order - i) for i in range(order + 1))


def markov(known, unknown, order):
    """Return the loss of a Markov chain, counted on `known`, on each letter of `unknown`."""
    counts = np.bincount(contexts(known, order), minlength=4 ** (order + 1)).reshape(-1, 4) + 1
    p = counts / counts.sum(1, keepdims=True)
    return -np.log(p.ravel()[contexts(unknown, order)])


chains = {
    order: markov(known.numpy(), held_out.numpy(), order).mean() for order in (0, 1, 2, 3, 5, 7, 9)
}
for order, loss in chains.items():
    print(f"order {order}: {loss:.4f} nats per letter")
best = min(chains, key=chains.get)
print(f"nothing known: {np.log(4):.4f}; the best chain is that of order {best}")
assert 0 < best < 9 and chains[best] < chains[0]

# %% [markdown]
# ## Step 2. The model
#
# `experiments/genome_model.py` has the whole model. A letter becomes 64 numbers. One block
# mixes places by a Hyena operator (lesson 4, step 7) and then channels by two linear maps;
# a last linear map gives the logarithms of the four probabilities. The long filters are not
# parameters themselves. A small network computes them from the place of each tap, so the
# number of parameters does not grow with the length. This is what `HyenaOperator` of
# `fftconv.torch.hyena` does, under the names that safari gave it.
#
# The prediction at a place may depend on this letter and those before, but on no later one.
# The convolution guarantees this, because it is causal. We change one letter, and look
# where the output changes.

# %%
model = genome_model.GenomeModel(channels=64, length=L)
mixer = model.blocks[0].mixer
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
before = mixer.filter_fn.filter(L)[0].detach().numpy().T  # (channels, L)

letters = known[None, :L].clone()
with torch.no_grad():
    first = model(letters)
    letters[0, 600] = 3 - letters[0, 600]
    changed = (model(letters) - first).abs().amax((0, 2)) > 1e-6
print(f"letter 600 changed, and with it the outputs from {int(changed.nonzero()[0])} on")
assert not changed[:600].any() and changed[600]

# %% [markdown]
# ## Step 3. The gradients
#
# Training needs the gradient of the loss with respect to every parameter. PyTorch goes
# through the model backwards; when it reaches the convolution, it calls the library once,
# for the gradients of the input, of both gates, of the filter and of the skip.
# `experiments/torch_fft.py` has the same convolution as models write it, with `rfft`, a
# product and `irfft`, and a context in which our modules use that one. Loss and gradients
# must agree.

# %%
generator = torch.Generator().manual_seed(0)
rows = genome_model.sample(known, BATCH, L, generator)


def loss_and_gradients():
    model.zero_grad()
    loss = genome_model.losses(model, rows).mean()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


loss, ours = loss_and_gradients()
with torch_fft.in_modules():
    loss_by_fft, theirs = loss_and_gradients()
largest = max(float((ours[n] - g).norm() / g.norm()) for n, g in theirs.items())
print(f"loss {loss:.6f}, with torch.fft {loss_by_fft:.6f}")
print(f"largest relative difference of a gradient: {largest:.0e}")
assert abs(loss - loss_by_fft) < 1e-5 and largest < 1e-3

# %% [markdown]
# ## Step 4. The training
#
# Each step takes eight stretches of 1,024 letters from random places of the known part.

# %%
step = genome_model.training(model, STEPS)
start = time.perf_counter()
losses = [step(genome_model.sample(known, BATCH, L, generator)) for _ in range(STEPS)]
taken = time.perf_counter() - start

stretches = held_out[: len(held_out) // L * L - L + 1].unfold(0, L + 1, L)  # (rows, L + 1)
with torch.no_grad():
    by_place = torch.cat([genome_model.losses(model, r) for r in stretches.split(BATCH)]).mean(0)
by_place = by_place.numpy()
reached = by_place.mean()
print(f"{STEPS} steps in {taken:.0f} s, on {torch.get_num_threads()} threads")
print(
    f"the letters never trained on: {reached:.4f} nats each, which is "
    f"{np.log(4) - reached:.4f} better than nothing known; the best Markov chain is "
    f"{np.log(4) - chains[best]:.4f} better"
)
assert reached < losses[0]
assert STEPS < 300 or reached < chains[best]

width = max(1, STEPS // 60)
smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
fig, ax = plt.subplots(figsize=(7.5, 3.2))
ax.plot(losses, color="C0", lw=0.6, alpha=0.4)
ax.plot(np.arange(len(smooth)) + width / 2, smooth, color="C0", label="training")
ax.axhline(reached, color="C2", label="the model on the held-out part, after training")
for order, style in (0, ":"), (best, "--"):
    ax.axhline(chains[order], color="0.4", ls=style, lw=1.2, label=f"Markov chain of order {order}")
ax.set(
    title="the loss during training",
    xlabel="step",
    ylabel="nats per letter",
    ylim=(min(smooth.min(), reached) - 0.01, 1.45),
)
ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# ## Step 5. How much of the past is used
#
# The first letter of a stretch has nothing before it, and the last one a thousand letters.
# If the model uses the far past, its loss falls along the stretch. Each point of the figure
# is the mean over a range of places in all held-out stretches; the ranges double in length.

# %%
edges = 2 ** np.arange(3, 11)
falling = [by_place[a:b].mean() for a, b in zip(edges[:-1], edges[1:])]
print(
    f"{edges[0]} to {edges[1]} letters before: {falling[0]:.4f} nats; "
    f"{edges[-2]} to {edges[-1]}: {falling[-1]:.4f}, which is {falling[0] - falling[-1]:.4f} better"
)
assert STEPS < 300 or falling[-1] < falling[0]

fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(np.sqrt(edges[:-1] * edges[1:]), falling, "o-")
ax.axhline(chains[best], color="0.4", ls="--", lw=1.2, label=f"Markov chain of order {best}")
ax.set(
    title="held-out loss by the place in the stretch",
    xlabel="letters before",
    ylabel="nats per letter",
)
ax.set_xscale("log", base=2)
ax.legend()
plt.show()

# %% [markdown]
# ## Step 6. What the filters have learned
#
# Most of this genome codes for proteins. There, three letters in a row (a *codon*) stand
# for one building block, and each of the three places prefers other letters. Whoever knows
# the place within the codon predicts better; a chain with a short memory does not know it.
# The model was told nothing of this. We look at the spectrum of its filters: at how strongly
# they respond to each frequency, before and after the training.

# %%
after = mixer.filter_fn.filter(L)[0].detach().numpy().T
frequencies = np.arange(L // 2 + 1) / L
power = {
    name: (np.abs(np.fft.rfft(k)) ** 2).mean(0)
    for name, k in (("before", before), ("after", after))
}
third = np.abs(frequencies - 1 / 3) < 2 / L
around = (np.abs(frequencies - 1 / 3) < 0.1) & ~third
peak = {name: p[third].max() / np.median(p[around]) for name, p in power.items()}
print(
    f"power at the period of three letters, over that around it: {peak['before']:.1f} before "
    f"the training, {peak['after']:.1f} after"
)
assert STEPS < 300 or peak["after"] > 10 * peak["before"]

strongest = np.argsort(-(after**2).sum(1))[:3]
fig, axes = plt.subplots(2, 2, figsize=(8.6, 5), height_ratios=[1, 1.2])
for ax, k, name in zip(axes[0], (before, after), ("before", "after")):
    ax.plot(k[strongest, :60].T, lw=1.2)
    ax.set(title=f"three of the filters {name} the training", xlabel="lag (letters)")
axes[0, 1].sharey(axes[0, 0])
axes[1, 0].plot(k[strongest].T, lw=0.5)
axes[1, 0].set(title="the same three after the training, all taps", xlabel="lag (letters)")
for name, color in ("before", "0.6"), ("after", "C0"):
    axes[1, 1].semilogy(frequencies, power[name], color=color, lw=1.2, label=name)
axes[1, 1].axvline(1 / 3, color="C1", lw=1, ls=":", label="period of three letters")
axes[1, 1].set(title="the mean spectrum of all filters", xlabel="cycles per letter")
axes[1, 1].legend()
plt.show()

# %% [markdown]
# The filters have found the codons: they oscillate with a period of three letters for
# hundreds of taps, and a gate can then compare the result with the present letter. This
# takes filters that are far longer than a codon, since many letters must be averaged before
# the place within the codon is known.
#
# ## Step 7. The same step with torch.fft
#
# Finally, the same training step is timed with the library's convolutions and with PyTorch's
# own: `torch.fft` for the long one, and `conv1d` for the short one of the Hyena operator. The
# linear maps and everything else are the same in both. The two take turns, so that both meet
# the same conditions, on one thread, where other work on the machine disturbs least.


# %%
def in_turns(calls, rounds=7):
    """Return the median milliseconds of each call, after one that is not counted."""
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: 1e3 * np.median(t[1:]) for name, t in times.items()}


torch.set_num_threads(1)
trial = genome_model.training(copy.deepcopy(model), 1000)
u, gate, out_gate = (torch.randn(BATCH, L, 64, requires_grad=True) for _ in range(3))
k = torch.tensor(after).requires_grad_()
skip = torch.ones(64, requires_grad=True)


def convolution(conv):
    y = conv(u, k, gate, out_gate, skip=skip, layout="BLH")
    torch.autograd.grad(y.sum(), (u, k, gate, out_gate, skip))


def by_fft():
    with torch_fft.in_modules():
        trial(rows)


steps = in_turns({"ours": lambda: trial(rows), "torch.fft": by_fft})
alone = in_turns(
    {
        "ours": lambda: convolution(fftconv.torch.conv),
        "torch.fft": lambda: convolution(torch_fft.conv),
    }
)
print(
    f"{platform.machine()}, PyTorch {torch.__version__}, one thread: "
    f"a training step takes {steps['ours']:.0f} ms, by PyTorch alone {steps['torch.fft']:.0f} ms: "
    f"{steps['torch.fft'] / steps['ours']:.1f} times as long"
)
print(
    f"its long convolution, forward and backward: {alone['ours']:.1f} ms, with torch.fft "
    f"{alone['torch.fft']:.1f} ms: {alone['torch.fft'] / alone['ours']:.1f} times as long"
)
assert np.isfinite([*steps.values(), *alone.values()]).all()

# %% [markdown]
# `experiments/torch_speed.py` measures the other modules of `fftconv.torch` in the same way,
# and the memory that they take.
#
# ## Summary
#
# - A model with a long convolution is trained by PyTorch as any other; the gradients are
#   calls of the library, and equal those of `torch.fft`.
# - One block predicts the genome better than every Markov chain, because its filters reach
#   back hundreds of letters and find the rhythm of the codons there.
#
# Sources: Poli and others, *Hyena Hierarchy*, arXiv 2302.10866; Nguyen and others,
# *HyenaDNA*, arXiv 2306.15794.
