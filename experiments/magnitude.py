"""Measures the time of calls against the magnitude of their numbers.

Each call is timed with u of size one, of large and of small numbers down to denormal ones, on
each instruction set of this machine, on one thread, in float32 and in float64: forward and
backward calls, without and with gates, skip and activation; a short convolution; and, on the best
instruction set, a stream's pieces and a convolution that mixes channels.  `ratio` is the time over
that with numbers of size one.

Writes results/magnitude.json.
"""

import time

import bench
import fftconv
import numpy as np

LIMIT = 1.5  # the largest ratio that is wanted
MAGNITUDES = {
    "float32": (1.0, 1e30, 1e-20, 1e-36, 1e-40),
    "float64": (1.0, 1e250, 1e-150, 1e-300, 1e-310),
}
GRIDS = {
    "quick": dict(length=2000, repeats=3, least=1e-3),
    "default": dict(length=48_000, repeats=15, least=5e-3),
    "full": dict(length=2**20, repeats=15, least=5e-3),
}


def calls(dtype, isa, length, magnitude, rng):
    """The calls as functions without arguments, by name."""

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    u, k = normal(1, 2, length) * np.dtype(dtype).type(magnitude), normal(2, length)
    plan = fftconv.Plan(u.shape, k.shape, dtype=dtype, threads=1, isa=isa)
    spectrum = plan.spectrum(k)
    y, forward = plan.prepare(u, spectrum)
    dy = normal(*u.shape)
    gates, taps = (normal(*u.shape), normal(*u.shape)), normal(2, 4)
    options = dict(skip=normal(2), activation="gelu")
    found = {
        "forward": forward,
        "backward": lambda: plan.backward(dy, u, k),
        "gated": lambda: plan(u, spectrum, *gates, **options),
        "gated backward": lambda: plan.backward(dy, u, k, *gates, **options),
        "short": lambda: fftconv.depthwise_conv1d(u, taps, padding="causal", threads=1, isa=isa),
    }
    if isa == fftconv.Plan(u.shape, k.shape).isa:  # these choose it themselves
        piece, mixing = u[..., :480], normal(2, 2, length)
        stream = fftconv.Stream(k[:, :4800], batch=1, threads=1)
        found["stream"] = lambda: stream.push(piece)
        found["conv_matrix"] = lambda: fftconv.conv_matrix(u, mixing, threads=1)
    return found


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    bench.keep_freed_memory()
    grid = GRIDS[settings.grid]
    rng = np.random.default_rng(settings.seed)
    rows = []
    for isa in (name for name in fftconv.isas() if name != "wide"):
        for dtype, magnitudes in MAGNITUDES.items():
            at = {m: calls(dtype, isa, grid["length"], m, rng) for m in magnitudes}
            for name in at[1.0]:
                times = bench.interleaved(
                    {m: at[m][name] for m in magnitudes}, grid["repeats"], least=grid["least"]
                )
                for m, timing in times.items():
                    ratio = timing["median_s"] / times[1.0]["median_s"]
                    rows.append(
                        dict(isa=isa, dtype=dtype, call=name, magnitude=m, ratio=ratio, **timing)
                    )
                    late = "" if ratio <= LIMIT else f", more than {LIMIT}"
                    print(
                        f"{isa} {dtype} {name} {m:g}: {timing['median_s'] * 1e6:.1f} us, "
                        f"{ratio:.2f} times{late}"
                    )
    body = {"length": grid["length"], "limit": LIMIT, "rows": rows}
    print(bench.write(settings.results, "magnitude", settings, body, started))


if __name__ == "__main__":
    main()
