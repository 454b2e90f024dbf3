# %% [markdown]
# # 3. The cost model: which order, and why
#
# Lesson 2 left a choice open. A low order has few stages with large matrices and more
# arithmetic; a high order has many stages with small matrices and less arithmetic. The
# paper chooses the order by one equation with four numbers for each machine. Here we
# build this equation term by term, draw the paper's Figure 4 from it, and change the
# numbers of the machine with a slider. At the end we compare the model with measured
# times on the machine that ran this lesson, and see where it describes what really runs
# and where it does not.
#
# | step | idea |
# |---|---|
# | 1–3 | four numbers, one stage, one whole transform |
# | 4–5 | Figure 4 and its two bumps; the best order for each length |
# | 6 | radices need not be nearly equal |
# | 7 | sliders: other machines |
# | 8–9 | this machine: its measured constants, and the model against measured times |

# %%
import base64
import io
import json
import platform
import time
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from fftconv import cost
from IPython.display import HTML
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import LogLocator

plt.style.use("lesson.mplstyle")
ORDER_COLOURS = {2: "C0", 3: "C1", 4: "C2"}


def dots(radices):
    return "·".join(map(str, radices))


# %% [markdown]
# ## Step 1. A machine in four numbers
#
# | symbol | what it is | A100-40GB, measured (the paper's Table 19) |
# |---|---|---|
# | $\sigma_H$ | bandwidth of main memory (HBM) | 1.35 TB/s |
# | $\sigma_S$ | bandwidth of fast on-chip memory (SRAM) | 9.5 TB/s |
# | $\tau_M$ | rate of matrix products (tensor cores, half precision) | 234 Tflop/s |
# | $\tau_G$ | rate of all other arithmetic | 17.6 Tflop/s |
#
# Two limits belong to them: tensor cores take matrices with at least $\mu = 16$ rows,
# and a sequence of up to 32K points fits into fast memory. (K stands for 1024, and M
# for 1024K.)

# %%
a100 = cost.HARDWARE["A100"]
print(a100)
assert (a100.sigma_h, a100.sigma_s) == (1.35e12, 9.5e12)
assert (a100.tau_m, a100.tau_g, a100.mu) == (234e12, 17.6e12, 16)
assert a100.fast_points == 32768
print(f"tau_m / tau_g     = {a100.tau_m / a100.tau_g:.1f}")
print(f"sigma_s / sigma_h = {a100.sigma_s / a100.sigma_h:.1f}")

# %% [markdown]
# ## Step 2. One stage
#
# A stage of radix $N_i$ on $N$ points takes $8 N N_i$ operations (lesson 2, step 6). A
# convolution runs it once in the transform and once in the inverse, which makes
# $16 N N_i$. The intermediate result is $N$ complex numbers in half precision, or $4N$
# bytes. So
#
# $$\text{seconds of stage } i =
#   \underbrace{\frac{16\, N N_i}{\gamma(N_i)}}_{\text{arithmetic}}
#   + \underbrace{\frac{4 N}{\omega(i)}}_{\text{memory}},\qquad
#   \gamma(N_i) = \begin{cases}\tau_G & N_i < \mu\\
#                              \tau_M & N_i \ge \mu,\end{cases}$$
#
# where $\omega(i)$ is the bandwidth of the memory that holds the intermediate result.
# Divide by $N$, and the length drops out; the picture shows the time per point. On the
# A100 a radix of 8 costs *more* than a radix of 64, because it is too small for the
# tensor cores. Among the radices that the tensor cores take, the smallest, 16, has the
# cheapest arithmetic in one stage. But the radix also determines how many stages there
# are. A stage of radix $N_i$ replaces $\log_2 N_i$ of the halvings of lesson 1, and the
# dotted line is the arithmetic per halving.

# %%
radix = 2 ** np.arange(1, 12)
gamma = np.where(radix < a100.mu, a100.tau_g, a100.tau_m)
arithmetic = 16 * radix / gamma

fig, ax = plt.subplots(figsize=(7.2, 3.7))
ax.loglog(radix, 1e12 * arithmetic, "o-", color="C0", label="arithmetic, 16 Nᵢ / γ(Nᵢ)")
ax.loglog(
    radix,
    1e12 * arithmetic / np.log2(radix),
    "o:",
    color="C0",
    alpha=0.6,
    label="arithmetic per halving (÷ log₂ Nᵢ)",
)
ax.axhline(4e12 / a100.sigma_s, color="C2", ls="--", label=r"memory, $4 / \sigma_S$ (SRAM)")
ax.axhline(4e12 / a100.sigma_h, color="C1", ls="--", label=r"memory, $4 / \sigma_H$ (HBM)")
ax.axvspan(radix[0], a100.mu * 0.84, color="0.5", alpha=0.12, lw=0)
ax.text(2.1, 0.13, "too small for\ntensor cores", fontsize=8.5, color="0.35")
ax.set(
    title="one stage on an A100",
    xlabel="radix Nᵢ",
    ylim=(0.1, 300),
    ylabel="time per point (ps)",
    xlim=(radix[0], radix[-1]),
)
ax.set_xscale("log", base=2)
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Step 3. A whole convolution: Equation 2
#
# Add up the stages, for a batch of $B$ and $H$ channels:
#
# $$C = B H \sum_{i=1}^{p} \left[ \frac{16\, N N_i}{\gamma(N_i)}
#   + \frac{4N}{\omega(i)} \right].\tag{2}$$
#
# The paper says that $\omega(i)$ is the bandwidth of the memory that holds the
# intermediate result of stage $i$, and gives no formula for it. We use this rule: stage
# $i$ works on pieces of $N / (N_1 \cdots N_{i-1})$ points. If such a piece is longer
# than 32K points it lies in main memory and $\omega(i) = \sigma_H$; otherwise it lies in
# fast memory and $\omega(i) = \sigma_S$.


# %%
def equation_2(radices, hw):
    """Return the seconds of Equation 2 for B = H = 1."""
    N = int(np.prod(radices))
    seconds, piece = 0.0, N
    for N_i in radices:
        gamma = hw.tau_g if N_i < hw.mu else hw.tau_m
        omega = hw.sigma_h if piece > hw.fast_points else hw.sigma_s
        seconds += 16 * N * N_i / gamma + 4 * N / omega
        piece //= N_i
    return seconds


for radices in [(64, 64), (16, 16, 16), (8, 8, 8, 8)]:
    seconds = equation_2(radices, a100)
    assert np.isclose(cost.monarch_cost(4096, radices, "A100"), seconds, rtol=1e-12)
    print(
        f"N = 4096 as {dots(radices):9s}{1e9 * seconds:6.1f} ns per row, "
        f"{1e12 * seconds / 4096:5.2f} ps per point"
    )

# %% [markdown]
# ## Step 4. Figure 4
#
# The paper's Figure 4 shows $C/N$ for $p = 2, 3, 4$ and $N$ from 256 to 4M. Its vertical
# axis has ticks at 10 and 100 and no unit. In picoseconds per point our curves run from
# 3 to 283, which fits those ticks, so this is very likely the unit. We take
# **balanced** radices: the powers of two that are closest to being equal, with the
# largest first.

# %%
SIZES = 2 ** np.arange(8, 23)


def per_point(order, hw):
    """Return the picoseconds per point for every N of SIZES, with balanced radices."""
    return np.array(
        [
            1e12 / n * cost.monarch_cost(n, cost.balanced_radices(n, order), hw)
            for n in SIZES.tolist()
        ]
    )


def size_name(n):
    return f"{n >> 20}M" if n >= 1 << 20 else f"{n >> 10}K" if n >= 1 << 10 else str(n)


def draw_figure_4(ax, hw, unit=1.0, unit_name="ps"):
    curves = {p: unit * per_point(p, hw) for p in (2, 3, 4)}
    for p, curve in curves.items():
        ax.loglog(SIZES, curve, "o-", color=ORDER_COLOURS[p], label=f"p = {p}")
    ax.set_xscale("log", base=2)
    ax.set_xticks(SIZES[::2], [size_name(n) for n in SIZES[::2].tolist()])
    ax.minorticks_off()
    ax.set(xlabel="sequence length N (points)", ylabel=f"cost per point C/N ({unit_name})")
    ax.legend(loc="upper left")
    return curves


fig, ax = plt.subplots(figsize=(7.6, 4.2))
curves = draw_figure_4(ax, a100)
ax.set(title="Order-p Monarch decompositions on an A100 (the paper's Figure 4)", ylim=(2, 500))
arrow = {"arrowstyle": "->", "color": "0.4"}
ax.annotate(
    "matrices too small\nfor tensor cores",
    (2048, 27),
    (1100, 75),
    ha="center",
    fontsize=9,
    arrowprops=arrow,
)
ax.annotate(
    "rows outgrow SRAM", (49000, 9.8), (60000, 4.2), ha="center", fontsize=9, arrowprops=arrow
)
plt.show()

# Values at the ends of the curves and around their bumps, computed by hand from (2).
for p, n, value in [
    (2, 2**8, 3.03),
    (2, 2**22, 283.45),
    (3, 2**11, 10.72),
    (3, 2**12, 4.55),
    (3, 2**15, 7.83),
    (3, 2**16, 12.56),
    (4, 2**12, 30.78),
    (4, 2**16, 8.60),
]:
    assert abs(curves[p][SIZES.tolist().index(n)] - value) < 0.006

# %% [markdown]
# Read the figure from left to right. For $p = 3$ the radices of short rows are below 16
# and run at the slow rate $\tau_G$. At 4K $= 16^3$ all three reach 16, and the curve has
# dropped. For $p = 4$ the same happens at 64K $= 16^4$. Between 32K and 64K a row
# becomes too long for fast memory, and the first stage of every order then uses the
# bandwidth $\sigma_H$. For $p = 3$ the curve rises there. For $p = 4$ the rise coincides
# with the drop, which hides it. For $p = 2$ the arithmetic takes so much longer that the
# rise is hardly visible.

# %% [markdown]
# ## Step 5. The best order for each length
#
# The table gives the balanced radices of each order, their cost in picoseconds per point,
# and the order that costs least. The asserts compare it with the orders that the paper
# reports for its own measurements.

# %%
print(f"{'N':>5s}" + "".join(f"{f'p = {p}':>14s}      ps" for p in (2, 3, 4)) + "   best")
best = {}
for i, n in enumerate(SIZES.tolist()):
    best[n] = min(curves, key=lambda p: curves[p][i])
    print(
        f"{size_name(n):>5s}"
        + "".join(f"{dots(cost.balanced_radices(n, p)):>14s}{curves[p][i]:8.2f}" for p in (2, 3, 4))
        + f"{best[n]:7d}"
    )

# The paper's Table 3 uses order 2 up to 1K, order 3 from 4K to 32K, and order 4 from 1M.
assert all(best[n] == 2 for n in (256, 1024))
assert all(best[n] == 3 for n in (4096, 8192, 16384, 32768))
assert all(best[n] == 4 for n in (2**20, 2**21, 2**22))

# %% [markdown]
# ## Step 6. Radices need not be balanced
#
# Instead of taking balanced radices, we can search for the *cheapest* ones by the same
# equation. A radix a little below 16 is the most expensive choice: it does nearly as
# much arithmetic as 16, but at the slow rate. A radix of 2 runs at the slow rate too,
# but does so little arithmetic that this hardly matters. So where the balanced radices
# are too small for the tensor cores, it is cheaper to have one or two stages of radix 2
# and larger radices in the others. For the longest rows a larger first radix is cheaper,
# because it leaves pieces that fit into fast memory.

# %%
fig, ax = plt.subplots(figsize=(7.6, 3.6))
for p in (2, 3, 4):
    cheapest = np.array(
        [
            1e12 / n * cost.monarch_cost(n, cost.best_radices(n, p, a100), a100)
            for n in SIZES.tolist()
        ]
    )
    assert np.all(cheapest <= curves[p] * (1 + 1e-12))
    ax.loglog(SIZES, curves[p], color=ORDER_COLOURS[p], alpha=0.35)
    ax.loglog(SIZES, cheapest, "o-", color=ORDER_COLOURS[p], label=f"p = {p}")
ax.set_xscale("log", base=2)
ax.set_xticks(SIZES[::2], [size_name(n) for n in SIZES[::2].tolist()])
ax.minorticks_off()
ax.set(
    title="cheapest radices on an A100 (pale: balanced radices)",
    ylim=(2, 500),
    xlabel="sequence length N (points)",
    ylabel="cost per point C/N (ps)",
)
ax.legend(loc="upper left")
plt.show()

for n, p in [(2048, 3), (4096, 4), (2**17, 3), (2**22, 4)]:
    print(
        f"N = {size_name(n):>4s}, p = {p}: "
        f"balanced {dots(cost.balanced_radices(n, p)):11s}  "
        f"cheapest {dots(cost.best_radices(n, p, 'A100'))}"
    )

# %% [markdown]
# ## Step 7. Other machines, with a slider
#
# The library takes any four numbers, so we can also ask about machines that do not
# exist. The first slider changes the rate of matrix products, from a machine without
# matrix units ($\tau_M = \tau_G$) to one whose matrix units are forty times as fast as
# its other arithmetic. Move it to see the drops appear where the radices reach 16. (The
# slider exchanges pictures that were drawn beforehand, so it needs no installation and
# no connection. If you did not run the notebook yourself, the slider works after you
# have marked the notebook as trusted.)


# %%
def slider(hardwares, titles, start):
    """Draw Figure 4 for each machine and show the one that a slider selects."""
    pictures = []
    for hw, title in zip(hardwares, titles):
        fig, ax = plt.subplots(figsize=(7.2, 3.8))
        draw_figure_4(ax, hw)
        ax.set(title=title, ylim=(1, 3000))
        file = io.BytesIO()
        fig.savefig(file, format="webp", dpi=72, pil_kwargs={"lossless": True})
        plt.close(fig)
        pictures.append("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode())
    return HTML(f"""
        <input type="range" style="width: 500px" value="{start}"
            min="0" max="{len(pictures) - 1}"
            data-pictures='{json.dumps(pictures)}'
            oninput="this.parentNode.querySelector('img').src =
                JSON.parse(this.dataset.pictures)[this.value]">
        <br><img src="{pictures[start]}">""")


ratios = [1, 1.5, 2, 3, 5, 8, 13.3, 20, 40]
slider(
    [replace(a100, tau_m=ratio * a100.tau_g) for ratio in ratios],
    [f"matrix products at {ratio:g} times the rate of other arithmetic" for ratio in ratios],
    start=6,
)

# %% [markdown]
# The second slider changes how many points fit into fast memory. The place where the
# curves rise moves with this number.

# %%
points = [2**i for i in range(11, 20)]
slider(
    [replace(a100, fast_points=n) for n in points],
    [f"fast memory holds {size_name(n)} points" for n in points],
    start=4,
)

# %% [markdown]
# The figure below shows in one picture what the first slider shows, and two asserts
# check it. Without a matrix unit the order with the least arithmetic, $p = 4$, is the
# best everywhere. The faster the matrix unit, the longer the rows for which $p = 2$ and
# $p = 3$ are best.

# %%
grid = []
for ratio in ratios:
    hw = replace(a100, tau_m=ratio * a100.tau_g)
    grid.append(2 + np.argmin([per_point(p, hw) for p in (2, 3, 4)], axis=0))
grid = np.array(grid)  # best order [ratio, N]
assert np.all(grid[0] == 4)
assert np.all(np.diff(grid, axis=0) <= 0)

fig, ax = plt.subplots(figsize=(7.2, 3.2))
image = ax.pcolormesh(
    grid,
    edgecolor="w",
    lw=0.6,
    cmap=ListedColormap(list(ORDER_COLOURS.values())),
    norm=BoundaryNorm([1.5, 2.5, 3.5, 4.5], 3),
)
ax.set(
    title="best order (balanced radices, other constants as on the A100)",
    xlabel="sequence length N (points)",
    ylabel=r"$\tau_M / \tau_G$",
    xticks=np.arange(0, len(SIZES), 2) + 0.5,
    xticklabels=[size_name(n) for n in SIZES[::2].tolist()],
    yticks=np.arange(len(ratios)) + 0.5,
    yticklabels=[f"{r:g}" for r in ratios],
)
ax.grid(False)
fig.colorbar(image, ax=ax, ticks=[2, 3, 4], label="order p")
plt.show()

# %% [markdown]
# ## Step 8. This machine
#
# `cost.HARDWARE["host"]` measures the four numbers on this machine, on one core, in
# about half a second. $\sigma_H$ is measured by a copy that is much larger than every
# cache, $\sigma_S$ by a copy inside the L2 cache, $\tau_M$ by a dense stage of radix 32,
# and $\tau_G$ by a codelet of radix 4. The number of points that fit into fast memory
# follows from the size of the L2 cache.

# %%
host = cost.HARDWARE["host"]
print(f"{'':12s}{'A100':>12s}{'this machine':>16s}")
for field, unit, size in [
    ("sigma_h", "GB/s", 1e9),
    ("sigma_s", "GB/s", 1e9),
    ("tau_m", "Gflop/s", 1e9),
    ("tau_g", "Gflop/s", 1e9),
    ("mu", "", 1),
    ("fast_points", "points", 1),
]:
    print(
        f"{field:12s}{getattr(a100, field) / size:12,.0f}"
        f"{getattr(host, field) / size:16,.1f} {unit}"
    )
print(f"on this machine tau_m / tau_g = {host.tau_m / host.tau_g:.2f}")
assert host.measured
assert min(host.sigma_h, host.sigma_s, host.tau_m, host.tau_g) > 0

fig, ax = plt.subplots(figsize=(7.6, 4.0))
host_curves = draw_figure_4(ax, host, 1e-3, "ns")
ax.set(title="the same model with the constants of this machine, one core")
plt.show()
for n in (1024, 16384, 2**20):
    print(
        f"N = {size_name(n):>4s}: the model's best order here is "
        f"{cost.best_order(n, host)}, on an A100 {cost.best_order(n, a100)}"
    )

# %% [markdown]
# The number that decides is the printed ratio $\tau_M / \tau_G$. On the A100 a matrix
# product runs 13.3 times as fast as other arithmetic. A CPU core has no matrix unit:
# dense products run on the same units as everything else, so the ratio is near 1, and
# the model chooses the order with the least arithmetic.
#
# ## Step 9. The model against measured times
#
# Now we test the model. We prescribe the radices, run the convolution on one core, and
# compare its time with Equation 2 and the constants of this machine. We do this once
# with dense products, which is what the equation describes, and once with codelets,
# which is what the library uses on a CPU. Results are checked before they are timed.
# The plans take turns, and each gets the median of this thread's processor times. $M$
# is the length of the complex transform, which for a causal convolution is the length
# of the row (lesson 1, step 9).

# %%
import fftconv

rng = np.random.default_rng(3)
points = []
for M in (1024, 4096, 16384):
    rows = 32768 // M
    u = rng.standard_normal((1, rows, M)).astype(np.float32)
    k = rng.standard_normal((rows, M)).astype(np.float32)
    truth = fftconv.reference.conv(u, k, mode="causal")
    for p in (2, 3, 4):
        radices = cost.balanced_radices(M, p)
        for dense in (True, False):
            plan = fftconv.Plan(u.shape, k.shape, radices=radices, dense=dense, threads=1)
            spectrum, y = plan.spectrum(k), np.empty_like(u)
            plan(u, spectrum, out=y)
            assert np.abs(y - truth).max() < 2e-6 * np.abs(truth).max()
            points.append(
                {
                    "M": M,
                    "p": p,
                    "radices": radices,
                    "dense": dense,
                    "predicted": 1e9 / M * cost.monarch_cost(M, radices, host),
                    "planner": 1e9 / u.size * plan.counters.predicted_seconds,
                    "call": partial(plan, u, spectrum, out=y),
                }
            )

taken = np.zeros((25, len(points)))
for round_ in taken:
    for i, point in enumerate(points):
        start = time.thread_time()
        point["call"]()
        round_[i] = time.thread_time() - start
for point, seconds in zip(points, np.median(taken, axis=0)):
    point["measured"] = 1e9 * seconds / 32768

fig, ax = plt.subplots(figsize=(7.4, 4.6))
for dense, colour, name in [(True, "C1", "dense products"), (False, "C0", "codelets")]:
    for M, marker in [(1024, "o"), (4096, "s"), (16384, "D")]:
        chosen = [q for q in points if q["dense"] == dense and q["M"] == M]
        ax.loglog(
            [q["predicted"] for q in chosen],
            [q["measured"] for q in chosen],
            marker,
            color=colour,
            ms=9,
            label=f"{name}, M = {size_name(M)}",
        )
        for q in chosen:
            ax.annotate(
                q["p"],
                (q["predicted"], q["measured"]),
                color="w",
                fontsize=7.5,
                ha="center",
                va="center",
            )
low, high = np.array(ax.get_xlim()), np.array(ax.get_ylim())
ends = [min(low[0], high[0]), max(low[1], high[1])]
ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
ax.text(
    ends[1] * 0.9,
    ends[1] * 0.8,
    "measured = predicted",
    color="0.45",
    ha="right",
    va="top",
    rotation=45,
    rotation_mode="anchor",
    fontsize=8.5,
)
ax.set(
    title="Equation 2 against measured times (the number is the order p)",
    aspect="equal",
    xlabel="predicted by Equation 2 (ns per point)",
    xlim=ends,
    ylim=ends,
    ylabel="measured (ns per sample, processor time)",
)
for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axis.set_major_formatter("{x:g}")
ax.minorticks_off()
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()


# %%
def best_of(M, dense, value):
    """Return the order whose predicted or measured time is least."""
    chosen = [q for q in points if q["M"] == M and q["dense"] == dense]
    return min(chosen, key=lambda q: q[value])["p"]


print(
    f"{platform.system()} {platform.machine()}, {plan.isa}, "
    f"libfftconv {fftconv.__version__}, NumPy {np.__version__}\n"
)
print("ns per sample          Eq. 2   measured   measured   planner's")
print("    M  radices         (host)     dense   codelets    estimate")
for dense, codelets in zip(points[0::2], points[1::2]):
    print(
        f"{size_name(dense['M']):>5s}  {dots(dense['radices']):12s}"
        f"{dense['predicted']:10.2f}{dense['measured']:10.2f}"
        f"{codelets['measured']:11.2f}{codelets['planner']:12.2f}"
    )


def off_by(name, chosen, value="predicted"):
    ratio = [q["measured"] / q[value] for q in chosen]
    print(f"{name:36s}{min(ratio):5.2f} to {max(ratio):5.2f}")


print("\nmeasured / predicted")
off_by("dense, all radices up to 16", [q for q in points if q["dense"] and max(q["radices"]) <= 16])
off_by("dense, some radix above 16", [q for q in points if q["dense"] and max(q["radices"]) > 16])
off_by("codelets", points[1::2])
off_by("codelets, by the planner's estimate", points[1::2], "planner")

print("\nbest order:  by Equation 2   dense   codelets")
for M in (1024, 4096, 16384):
    print(
        f"{size_name(M):>10s}{best_of(M, True, 'predicted'):>12d}"
        f"{best_of(M, True, 'measured'):>11d}"
        f"{best_of(M, False, 'measured'):>9d}"
    )

# %% [markdown]
# What the numbers say:
#
# - **Dense products.** Equation 2 is meant for these, and it describes them well. A longer
#   predicted time generally means a longer measured time. Where a large radix makes the
#   arithmetic the largest part, the predicted time is close to the measured one. For small
#   radices the prediction is too low. The equation counts their arithmetic at the rate $\tau_G$,
#   which we measured with a codelet. It counts the bytes of half precision, while these
#   rows are float32. And it leaves out reading and writing the rows, the twiddles and
#   the product of the spectra.
# - **Codelets.** Equation 2 does not describe these. A codelet does fewer operations
#   than the $8 N_i$ per point of a dense product, and a radix of 64 runs as two stages
#   of radix 8. So the measured times of one length differ far less than the predicted
#   ones. For this reason the library does not minimise Equation 2 when it plans for a
#   CPU. Its planner adds up the cycles of the codelets and the time for the bytes that
#   move through each level of cache; the last column of the table is its estimate.
# - **The method** is the same in both cases: count the arithmetic at the rate at which
#   it really runs, count the bytes at the bandwidth of the memory in which they really
#   lie, add both up over the stages, and let a program choose the least sum. On a GPU,
#   Equation 2 is this sum.
