# %% [markdown]
# # 3. The cost model: which order, and why
#
# Lesson 2 left a choice open. A low order means few stages, large matrices and more arithmetic; a high order
# means the reverse. The paper decides with one equation and four numbers per machine. Here we build the equation term by term,
# draw the paper's Figure 4 from it, move the machine's numbers with a slider, and at the end hold the model
# against the clock of the machine at hand, where it does *not* fare well, for a reason worth knowing.
#
# | step | idea |
# |---|---|
# | 1–3 | four numbers, one stage, one whole transform |
# | 4–5 | Figure 4 and its two bumps; the best order for each length |
# | 6 | radices need not be balanced |
# | 7 | sliders: other machines |
# | 8–9 | this machine: measured constants, and prediction against measurement |

# %%
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.animation import FuncAnimation

from fftconv import cost

plt.style.use("lesson.mplstyle")
ORDER_COLOURS = {2: "C0", 3: "C1", 4: "C2"}

# %% [markdown]
# ## Step 1. A machine in four numbers
#
# | symbol | what it is | A100-40GB, measured (Table 19) |
# |---|---|---|
# | $\sigma_H$ | bandwidth of main memory (HBM) | 1.35 TB/s |
# | $\sigma_S$ | bandwidth of fast on-chip memory (SRAM) | 9.5 TB/s |
# | $\tau_M$ | rate of matrix products (tensor cores, half precision) | 234 Tflop/s |
# | $\tau_G$ | rate of all other arithmetic | 17.6 Tflop/s |
#
# Two limits go with them: tensor cores take matrices of at least $\mu = 16$ rows, and
# a sequence of up to 32K points stays in fast memory.

# %%
a100 = cost.HARDWARE["A100"]
print(a100)
assert (a100.sigma_h, a100.sigma_s) == (1.35e12, 9.5e12)
assert (a100.tau_m, a100.tau_g, a100.mu) == (234e12, 17.6e12, 16)
assert a100.fast_points == 32768
print(f"matrix products are {a100.tau_m / a100.tau_g:.1f} times as fast as the rest,")
print(f"fast memory {a100.sigma_s / a100.sigma_h:.1f} times as fast as main memory")

# %% [markdown]
# ## Step 2. One stage
#
# A stage of radix $N_i$ on $N$ points takes $8 N N_i$ operations (lesson 2, step 6). A convolution does it forward
# and inverse: $16 N N_i$. Its intermediate result, $N$ complex numbers of half precision, is $4N$ bytes. So
#
# $$\text{seconds of stage } i = \underbrace{\frac{16\, N N_i}{\gamma(N_i)}}_{\text{arithmetic}}
#   + \underbrace{\frac{4 N}{\omega(i)}}_{\text{memory}},\qquad
#   \gamma(N_i) = \begin{cases}\tau_G & N_i < \mu\\ \tau_M & N_i \ge \mu.\end{cases}$$
#
# Divided by $N$ the length drops out, and one picture shows the trade. A radix of 8 costs *more* than one of
# 64: it is too small for the tensor cores. The cheapest arithmetic per stage is at 16, right on the edge; but the radix also decides
# how many stages there are. The dotted line spreads the arithmetic over the $\log_2 N_i$ halvings that the stage does.

# %%
radix = 2 ** np.arange(1, 12)
gamma = np.where(radix < a100.mu, a100.tau_g, a100.tau_m)
arithmetic = 16 * radix / gamma

fig, ax = plt.subplots(figsize=(7.2, 3.7))
ax.loglog(radix, 1e12 * arithmetic, "o-", color="C0", label="arithmetic, 16 Nᵢ / γ(Nᵢ)")
ax.loglog(radix, 1e12 * arithmetic / np.log2(radix), "o:", color="C0", alpha=0.6,
          label="the same per halving (÷ log₂ Nᵢ)")
ax.axhline(4e12 / a100.sigma_s, color="C2", ls="--", label="memory, 4 / σ_S (SRAM)")
ax.axhline(4e12 / a100.sigma_h, color="C1", ls="--", label="memory, 4 / σ_H (HBM)")
ax.axvspan(radix[0], a100.mu * 0.84, color="0.5", alpha=0.12, lw=0)
ax.text(2.1, 0.13, "too small for\ntensor cores", fontsize=8.5, color="0.35")
ax.set(title="one stage on an A100", xlabel="radix Nᵢ", ylim=(0.1, 300),
       ylabel="time per point (ps)", xlim=(radix[0], radix[-1]))
ax.set_xscale("log", base=2)
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# ## Step 3. A whole transform: Equation 2
#
# Add the stages up, for B batches and H channels:
#
# $$C = B H \sum_{i=1}^{p} \left[ \frac{16\, N N_i}{\gamma(N_i)} + \frac{4N}{\omega(i)} \right].\tag{2}$$
#
# The paper says that $\omega(i)$ is the bandwidth of the memory that holds step $i$'s intermediate result, and
# gives no formula. Ours: step $i$ works on pieces of $N / (N_1 \cdots N_{i-1})$ points; if such a piece is longer than 32K
# it lives in main memory, $\omega(i) = \sigma_H$, else in fast memory, $\sigma_S$.

# %%
def equation_2(radices, hw):
    """Seconds for B = H = 1, line by line."""
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
    print(f"N = 4096 as {' · '.join(map(str, radices)):12s}"
          f" {1e9 * seconds:6.1f} ns a row, {1e12 * seconds / 4096:5.2f} ps a point")

# %% [markdown]
# ## Step 4. Figure 4
#
# The paper's figure shows $C/N$ for $p = 2, 3, 4$ over $N$ from 256 to 4M. Its vertical axis has ticks at 10 and 100 and
# no unit. In picoseconds per point the curves run from 3 to 283, which fits those ticks, so that is
# very likely the unit. Radices are the most equal powers of two, the largest outermost.

# %%
SIZES = 2 ** np.arange(8, 23)


def per_point(order, hw):
    """Picoseconds per point for every N of SIZES, balanced radices."""
    return np.array([1e12 * cost.monarch_cost(n, cost.balanced_radices(n, order), hw) / n
                     for n in SIZES.tolist()])


def size_name(n):
    return f"{n >> 20}M" if n >= 1 << 20 else f"{n >> 10}K" if n >= 1 << 10 else str(n)


def draw_figure_4(ax, hw, unit=1.0, unit_name="ps"):
    curves = {p: unit * per_point(p, hw) for p in (2, 3, 4)}
    for p, curve in curves.items():
        ax.loglog(SIZES, curve, "o-", color=ORDER_COLOURS[p], label=f"p = {p}")
    ax.set_xscale("log", base=2)
    ax.set_xticks(SIZES[::2], [size_name(n) for n in SIZES[::2].tolist()])
    ax.minorticks_off()
    ax.set(xlabel="sequence length N (points)",
           ylabel=f"cost per point C/N ({unit_name})")
    ax.legend(loc="upper left")
    return curves


fig, ax = plt.subplots(figsize=(7.6, 4.2))
curves = draw_figure_4(ax, a100)
ax.set(title="Cost model for order-p Monarch decompositions, A100 (the paper's Figure 4)",
       ylim=(2, 500))
ax.annotate("matrices too small\nfor tensor cores", (2048, 27), (1100, 75), ha="center",
            fontsize=9, arrowprops={"arrowstyle": "->", "color": "0.4"})
ax.annotate("SRAM limit", (49000, 9.8), (60000, 4.2), ha="center", fontsize=9,
            arrowprops={"arrowstyle": "->", "color": "0.4"})
plt.show()

# The values at both ends of each curve and around each bump, by hand from (2).
for p, n, value in [(2, 256, 3.03), (2, 2**22, 283.45), (3, 2**11, 10.72), (3, 2**12, 4.55),
                    (3, 2**15, 7.83), (3, 2**16, 12.56), (4, 2**12, 30.78), (4, 2**16, 8.60)]:
    assert abs(curves[p][SIZES.tolist().index(n)] - value) < 0.006

# %% [markdown]
# Read it from left to right. With $p = 3$ the radices of short rows are below 16 and run at $\tau_G$; at 4K they reach
# $16^3$ and the curve drops. With $p = 4$ the same happens at 64K $= 16^4$. Between 32K and 64K a row
# outgrows fast memory: the outer step of every order, and with $p = 2$ and 3 no later
# one, now pays $\sigma_H$. For $p = 4$ that falls together with the drop, so it hardly shows.

# %% [markdown]
# ## Step 5. The best order for each length

# %%
print("     N   p=2: radices, ps      p=3: radices, ps       p=4: radices, ps      best")
best = {}
for i, n in enumerate(SIZES.tolist()):
    cells = [f"{'·'.join(map(str, cost.balanced_radices(n, p))):>12s} {curves[p][i]:7.2f}"
             for p in (2, 3, 4)]
    best[n] = min(curves, key=lambda p: curves[p][i])
    print(f"{size_name(n):>6s} {'   '.join(cells)}      {best[n]}")

# Table 3 of the paper names the orders it used: 2 to 1K, 3 from 4K to 32K, 4 from 1M.
assert all(best[n] == 2 for n in (256, 1024))
assert all(best[n] == 3 for n in (4096, 8192, 16384, 32768))
assert all(best[n] == 4 for n in (2**20, 2**21, 2**22))

# %% [markdown]
# ## Step 6. Radices need not be balanced
#
# The equation can be asked for the *cheapest* radices instead. Where a balanced choice falls just under 16, an unequal
# one does not: three stages of 2K are better as 16 · 16 · 8 in any order, but $p = 3$ for 256
# has no good choice at all. And with several stages in main memory it helps to let the first one be
# large, so that the rest fits.

# %%
fig, ax = plt.subplots(figsize=(7.6, 3.6))
for p in (2, 3, 4):
    cheapest = np.array([1e12 / n * cost.monarch_cost(n, cost.best_radices(n, p, "A100"), "A100")
                         for n in SIZES.tolist()])
    assert np.all(cheapest <= curves[p] * (1 + 1e-12))
    ax.loglog(SIZES, curves[p], color=ORDER_COLOURS[p], alpha=0.35)
    ax.loglog(SIZES, cheapest, "o-", color=ORDER_COLOURS[p], label=f"p = {p}")
ax.set_xscale("log", base=2)
ax.set_xticks(SIZES[::2], [size_name(n) for n in SIZES[::2].tolist()])
ax.minorticks_off()
ax.set(title="cheapest radices (pale: balanced ones), A100", ylim=(2, 500),
       xlabel="sequence length N (points)", ylabel="cost per point C/N (ps)")
ax.legend(loc="upper left")
plt.show()

for n, p in [(2048, 3), (4096, 4), (2**17, 3), (2**22, 4)]:
    print(f"N = {size_name(n):>4s}, p = {p}: balanced {cost.balanced_radices(n, p)}, "
          f"cheapest {cost.best_radices(n, p, 'A100')}")

# %% [markdown]
# ## Step 7. Other machines, with a slider
#
# The library takes any four numbers, so we can ask about machines that do not exist. First slider: the rate of matrix
# products, from no matrix unit at all ($\tau_M = \tau_G$) to one far ahead of the rest. Move it and watch the drops
# at 16 appear. (A slider made by matplotlib: it needs nothing installed, and works in a saved notebook once it is
# trusted, or run again.)

# %%
def slider(hardwares, titles):
    """Figure 4 for a list of machines, as frames behind a slider."""
    fig, ax = plt.subplots(figsize=(7.2, 3.8), dpi=72)

    def frame(i):
        ax.clear()
        draw_figure_4(ax, hardwares[i])
        ax.set(title=titles[i], ylim=(1, 3000))

    animation = FuncAnimation(fig, frame, len(hardwares), interval=700)
    html = animation.to_jshtml(default_mode="once")
    plt.close(fig)
    return HTML(html)


ratios = [1, 1.5, 2, 3, 5, 8, 13.3, 20, 40, 60]
slider([replace(a100, tau_m=ratio * a100.tau_g) for ratio in ratios],
       [f"matrix products at {ratio:g} times the rate of the rest" for ratio in ratios])

# %% [markdown]
# Second slider: how long a row fast memory holds. The step in the curves moves with it.

# %%
points = [2**i for i in range(9, 23)]
slider([replace(a100, fast_points=n) for n in points],
       [f"fast memory holds {size_name(n)} points" for n in points])

# %% [markdown]
# What the sliders show, as a static figure and an assert: with no matrix unit a higher order always does less arithmetic,
# and $p = 4$ wins from short rows on; the faster the matrix unit, the longer $p = 2$ and 3 stay ahead.

# %%
fig, ax = plt.subplots(figsize=(7.2, 3.2))
grid = np.array([[min((2, 3, 4), key=lambda p: per_point(p, replace(a100, tau_m=r * a100.tau_g))[i])
                  for i in range(len(SIZES))] for r in ratios])
from matplotlib.colors import BoundaryNorm, ListedColormap
image = ax.pcolormesh(grid, cmap=ListedColormap(["#2a6fbb", "#e07b39", "#2f9e77"]),
                      norm=BoundaryNorm([1.5, 2.5, 3.5, 4.5], 3), edgecolor="w", lw=0.6)
ax.set(title="best order (balanced radices, other constants as A100)",
       xlabel="sequence length N (points)", ylabel="τ_M / τ_G",
       xticks=np.arange(0, len(SIZES), 2) + 0.5,
       xticklabels=[size_name(n) for n in SIZES[::2].tolist()],
       yticks=np.arange(len(ratios)) + 0.5, yticklabels=[f"{r:g}" for r in ratios])
ax.grid(False)
fig.colorbar(image, ax=ax, ticks=[2, 3, 4], label="order p")
plt.show()

# %% [markdown]
# ## Step 8. This machine
#
# `cost.HARDWARE["host"]` measures the four numbers here, in about half a second: a large copy for $\sigma_H$, a copy
# inside the L2 cache for $\sigma_S$, the library's own dense stages for $\tau_M$ and its codelets' kind of
# arithmetic for $\tau_G$, all on one core.

# %%
host = cost.HARDWARE["host"]
print(f"{'':12s}{'A100':>12s}{'this machine':>16s}")
for field, unit, size in [("sigma_h", "GB/s", 1e9), ("sigma_s", "GB/s", 1e9),
                          ("tau_m", "Gflop/s", 1e9), ("tau_g", "Gflop/s", 1e9),
                          ("mu", "", 1), ("fast_points", "points", 1)]:
    print(f"{field:12s}{getattr(a100, field) / size:12,.0f}"
          f"{getattr(host, field) / size:16,.1f} {unit}")
assert host.measured and min(host.sigma_h, host.sigma_s, host.tau_m, host.tau_g) > 0

fig, ax = plt.subplots(figsize=(7.6, 4.0))
host_curves = draw_figure_4(ax, host, 1e-3, "ns")
ax.set(title="the same model with this machine's constants, one core")
plt.show()
for n in (1024, 16384, 2**20):
    print(f"N = {size_name(n):>4s}: the model's best order here is {cost.best_order(n, 'host')}, "
          f"on an A100 {cost.best_order(n, 'A100')}")

# %% [markdown]
# ## Step 9. The model against the clock
#
# Now the honest part. We force radices, run the convolution on one core, and compare with Equation 2 and this
# machine's constants: once with dense products, which is what the equation describes, and once with
# codelets, which is what the library does on a CPU. Results are checked before they are timed, the plans take turns,
# the median counts.

# %%
import fftconv

rng = np.random.default_rng(3)
points = []                          # (M, radices, dense, predicted, call, time)
for M in (1024, 4096, 16384):
    rows = 65536 // M
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
            points.append({
                "M": M, "p": p, "radices": radices, "dense": dense,
                "predicted": 1e9 * cost.monarch_cost(M, radices, "host") / M,
                "call": lambda plan=plan, u=u, spectrum=spectrum, y=y:
                    plan(u, spectrum, out=y)})

taken = np.zeros((7, len(points)))
for round_ in taken:
    for i, point in enumerate(points):
        start = time.perf_counter()
        point["call"]()
        round_[i] = time.perf_counter() - start
for point, seconds in zip(points, np.median(taken, axis=0)):
    point["measured"] = 1e9 * seconds / 65536

fig, ax = plt.subplots(figsize=(6.4, 5.0))
for dense, colour, name in [(True, "C1", "dense products"), (False, "C0", "codelets")]:
    for M, marker in [(1024, "o"), (4096, "s"), (16384, "^")]:
        chosen = [q for q in points if q["dense"] == dense and q["M"] == M]
        ax.loglog([q["predicted"] for q in chosen], [q["measured"] for q in chosen],
                  marker, color=colour, ms=7, label=f"{name}, M = {size_name(M)}")
        for q in chosen:
            ax.annotate(str(q["p"]), (q["predicted"], q["measured"]), fontsize=7,
                        ha="center", va="center", color="w")
low, high = np.array(ax.get_xlim()), np.array(ax.get_ylim())
ends = [min(low[0], high[0]), max(low[1], high[1])]
ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
ax.text(ends[1] * 0.9, ends[1] * 0.8, "measured = predicted", ha="right", va="top",
        rotation=45, rotation_mode="anchor", fontsize=8.5, color="0.45")
ax.set(title="Equation 2 against the clock (number: order p)", aspect="equal",
       xlabel="predicted by Equation 2 (ns per point)", xlim=ends, ylim=ends,
       ylabel="measured (ns per sample)")
ax.legend(fontsize=8, loc="upper left")
plt.show()

# %%
print("     M   radices          predicted   dense   codelets   (ns per sample)")
for dense_point, codelet_point in zip(points[0::2], points[1::2]):
    print(f"{size_name(dense_point['M']):>6s}   {'·'.join(map(str, dense_point['radices'])):14s}"
          f"{dense_point['predicted']:10.2f}{dense_point['measured']:9.2f}"
          f"{codelet_point['measured']:10.2f}")
for M in (1024, 4096, 16384):
    fastest = {key: min((q for q in points if q["M"] == M and q["dense"] in kinds),
                        key=lambda q: q[value])["p"]
               for key, value, kinds in [("the model", "predicted", (True,)),
                                         ("dense", "measured", (True,)),
                                         ("codelets", "measured", (False,))]}
    print(f"M = {size_name(M):>4s}, best order: " +
          ", ".join(f"{key} {p}" for key, p in fastest.items()))
