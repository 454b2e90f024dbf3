"""How long the fused CUDA kernels should take: a prediction, no measurement.

    python3 experiments/predict_gpu.py --results DIR

For the FFT sizes of the paper's Tables 11-15 that one launch holds (B = 64,
H = 768, float16 rows, float32 k) and for an A100 and an H100, predict_gpu.json
has what a call needs of each of a GPU's units, in ms if it had nothing else to
do, and their largest, the predicted time:

    io       the bytes the engine moves, over the rate of device memory
    tensor   the products of all stages, padded as tiles are, over that of
             tensor cores
    shared   the rows' bytes through shared memory, over its rate
    issue    instructions, over the rate at which they are issued

and the floor: every operand once over the rate of device memory.  No GPU was
asked; experiments/bench_gpu.py is what asks one.
"""

import time

import bench
from bench_gpu import TABLES, Case

SIZES = [2**a for a in range(8, 16)]

# Per second.  A100: bytes of device and of shared memory and flops of tensor
# cores as measured, the paper's Table 19.  H100: device memory as a copy was
# seen to move it; the tensor cores' data sheet (989 Tflop/s), of which mma.sync
# is taken to reach 62 %, the rest being wgmma's; shared memory as the A100's, by
# multiprocessors and clock.  Instructions: 4 a clock of each multiprocessor.
MACHINES = {
    "A100": {"io": 1.35e12, "tensor": 234e12, "shared": 9.5e12, "issue": 4 * 108 * 1.41e9},
    "H100": {
        "io": 3.0e12,
        "tensor": 0.62 * 989e12,
        "shared": 9.5e12 * (132 * 1.755) / (108 * 1.41),
        "issue": 4 * 132 * 1.755e9,
    },
}
# Instructions of a warp for each point of a transform, there and back, counted
# along the path of aligned float16 rows in the disassembly for sm_90a of the
# forward kernel of 16 x 16 x 16.  In right angles: 926 + 904 for a strip of 1024
# points, 478 for a tile of 256.  Even/odd, by what differs: 654 + 840 for a strip
# of 512, 430 for a tile; and the product, 281 for 256 points, in the 1/16 of them
# that are met one by one 192 for 64.
INSTRUCTIONS = {
    "right_angle": (926 + 904) / 1024 + 478 / 256,
    "even_odd": (654 + 840) / 512 + 430 / 256 + 15 / 16 * 281 / 256 + 1 / 16 * 192 / 64,
}
# ... of which a transform without its way back takes this share.
THERE = 0.55
POINT = 4  # bytes, in float16


def radices(points):
    """Of the kernel of M = points: libfftconv/cuda/shapes.h."""
    if points <= 4096:
        return 16, 16, points // 256
    return {8192: (32, 16, 16), 16384: (32, 32, 16), 32768: (32, 32, 32)}[points]


def form_of(case):
    """Even/odd for circles whose half has a kernel."""
    return "right_angle" if case.causal or case.length < 512 else "even_odd"


def points_of(case):
    """M: half of a circle, a causal row's length; 256 at least."""
    return max(256, case.length // (1 + (form_of(case) == "even_odd")))


def row_flops(points, form="right_angle"):
    """Real flops of a transform and its way back, as tensor cores do them.

    In right angles stage 1 has real input and its inverse a real result, 2
    products for each element of its matrix; else 4.  Stage 3 is 16 wide at least.
    """
    r1, r2, r3 = radices(points)
    first = 2 if form == "right_angle" else 4
    return 2 * points * (2 * (first * r1 + 4 * r2 + 4 * max(16, r3)))


def needs(case):
    """Bytes, flops and instructions of one call."""
    points, rows, form = points_of(case), case.batch * case.channels, form_of(case)
    # V there and back, each written and read; even/odd, Z and the product too.
    moves = {"right_angle": 4, "even_odd": 8}[form]
    kernel = case.channels * points
    # k's spectrum: written in float32, read, written as points, and read once
    # by a channel's block; its transform is a row without its way back.
    io = case.io_bytes + kernel * (8 + 8 + POINT + POINT)
    transforms = rows + THERE * case.channels
    shared = moves * POINT * points * rows
    if case.backward:
        # z's spectrum kept and taken again; sums of conj(Z) G in float32, once
        # a channel (its rows find them in L2), then dk's.
        io += 2 * POINT * points * rows + kernel * (8 + 8 + POINT + POINT)
        transforms += THERE * rows + (1 - THERE) * case.channels
        # once more there: V, and even/odd Z left
        shared *= 1 + {"right_angle": 2, "even_odd": 3}[form] / moves
    return {
        "io": io,
        "tensor": row_flops(points, form) * transforms,
        "shared": shared,
        "issue": INSTRUCTIONS[form] * points * transforms,
    }


def predicted(case, machine):
    """Milliseconds of each unit, their largest, and the floor."""
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
