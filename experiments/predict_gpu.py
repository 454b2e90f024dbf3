"""Predicts the time of the fused CUDA kernels from a model, without any measurement.

    python3 experiments/predict_gpu.py --results DIR

The prediction covers the FFT sizes of the paper's Tables 11-15 that one launch holds (B = 64,
H = 768, float16 rows, float32 k), on an A100 and an H100.  For each of them predict_gpu.json
has the time in ms that each unit of the GPU would need alone; the largest of these four times
is the predicted time:

    io       bytes that the engine moves / rate of device memory
    tensor   flops of the matrix products of all stages, with the padding of tiles /
             rate of the tensor cores
    shared   bytes of the rows that pass through shared memory / its rate
    issue    instructions / rate at which they are issued

It also has the floor: the bytes of every operand and result, each once, over the rate of device
memory.  experiments/bench_gpu.py measures the same calls on a GPU.
"""

import time

import bench
from bench_gpu import TABLES, Case

SIZES = [2**a for a in range(8, 16)]

# Rates of the units per second: bytes of device memory (io), flops of tensor cores, bytes of
# shared memory, instructions (issue).  A100: measured values from the paper's Table 19.  H100:
# the measured rate of a copy within device memory; the tensor cores' 989 Tflop/s of the data
# sheet, of which mma.sync is assumed to reach 62 %, since only wgmma reaches the rest; the
# A100's rate of shared memory, scaled by multiprocessors and clock.  Both: 4 instructions per
# clock of each multiprocessor.
MACHINES = {
    "A100": {"io": 1.35e12, "tensor": 234e12, "shared": 9.5e12, "issue": 4 * 108 * 1.41e9},
    "H100": {
        "io": 3.0e12,
        "tensor": 0.62 * 989e12,
        "shared": 9.5e12 * (132 * 1.755) / (108 * 1.41),
        "issue": 4 * 132 * 1.755e9,
    },
}
# Warp instructions for each point of a transform and its inverse.  They were counted in the
# disassembly for sm_90a of the forward kernel 16 x 16 x 16, along the path of aligned float16
# rows.  Right angle: 926 + 904 for a strip of 1024 points and 478 for a tile of 256.
# Even/odd: 654 + 840 for a strip of 512 points and 430 for a tile of 256, and for the product
# 281 for 256 points, or 192 for 64 points in the 1/16 of the points that are handled singly.
INSTRUCTIONS = {
    "right_angle": (926 + 904) / 1024 + 478 / 256,
    "even_odd": (654 + 840) / 512 + 430 / 256 + 15 / 16 * 281 / 256 + 1 / 16 * 192 / 64,
}
# The share of these instructions that a transform without its inverse takes.
THERE = 0.55
POINT = 4  # bytes of a complex point in float16


def radices(points):
    """The radices of the kernel for M = points, as in libfftconv/cuda/shapes.h."""
    if points <= 4096:
        return 16, 16, points // 256
    return {8192: (32, 16, 16), 16384: (32, 32, 16), 32768: (32, 32, 32)}[points]


def form_of(case):
    """The form: "even_odd" for circular rows of N >= 512, whose N/2 points have a kernel."""
    return "right_angle" if case.causal or case.length < 512 else "even_odd"


def points_of(case):
    """M: half the length of an even/odd row, else the row's length; at least 256."""
    return max(256, case.length // (1 + (form_of(case) == "even_odd")))


def row_flops(points, form="right_angle"):
    """Real flops of a transform and its inverse on tensor cores.

    A matrix element costs 4 real products, or 2 in stage 1 of the right-angle form, whose
    input is real, and in its inverse, whose result is real.  Stage 3 is padded to a radix of
    16.
    """
    r1, r2, r3 = radices(points)
    first = 2 if form == "right_angle" else 4
    return 2 * points * (2 * (first * r1 + 4 * r2 + 4 * max(16, r3)))


def needs(case):
    """Bytes of device and of shared memory, flops and instructions of one call."""
    points, rows, form = points_of(case), case.batch * case.channels, form_of(case)
    # Passes of a row's points through shared memory: V is written and read in the transform and
    # in its inverse; in the even/odd form, so are Z and the product.
    moves = {"right_angle": 4, "even_odd": 8}[form]
    kernel = case.channels * points
    # The spectrum of k is written and read in float32 (8 bytes a point), then written as float16
    # points and read once by the block of its channel.  Making it costs a row's transform
    # without the inverse.
    io = case.io_bytes + kernel * (8 + 8 + POINT + POINT)
    transforms = rows + THERE * case.channels
    shared = moves * POINT * points * rows
    if case.backward:
        # The spectrum of z is written and read again.  The sums of conj(Z) G are written and
        # read in float32, once for each channel (the rows of a channel find them in L2); the
        # spectrum of dk is then written and read as float16 points.
        io += 2 * POINT * points * rows + kernel * (8 + 8 + POINT + POINT)
        transforms += THERE * rows + (1 - THERE) * case.channels
        # One more transform without its inverse: V again and, in the even/odd form, Z.
        shared *= 1 + {"right_angle": 2, "even_odd": 3}[form] / moves
    return {
        "io": io,
        "tensor": row_flops(points, form) * transforms,
        "shared": shared,
        "issue": INSTRUCTIONS[form] * points * transforms,
    }


def predicted(case, machine):
    """The row of one case: the ms of each unit, the largest of them, and the floor."""
    rates = MACHINES[machine]
    times = {f"{unit}_ms": 1e3 * amount / rates[unit] for unit, amount in needs(case).items()}
    most = max(times, key=times.get)
    return {
        "table": case.table,
        "fft_size": case.fft_size,
        "machine": machine,
        "batch": case.batch,
        "channels": case.channels,
        "points": points_of(case),
        "form": form_of(case),
        "floor_ms": 1e3 * case.io_bytes / rates["io"],
        **times,
        "predicted_ms": times[most],
        "binds": most[:-3],
    }


def main():
    settings = bench.options(__doc__).parse_args()
    started = time.perf_counter()
    rows = [
        predicted(Case(table, n, bench.PAPER_BATCH, bench.PAPER_CHANNELS), name)
        for table in TABLES
        for n in SIZES
        for name in MACHINES
    ]
    print(
        bench.write(
            settings.results, "predict_gpu", settings, {"machines": MACHINES, "rows": rows}, started
        )
    )


if __name__ == "__main__":
    main()
