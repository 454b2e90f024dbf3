"""Reports the registers and shared memory of every fused CUDA kernel, as compiled.

    python3 experiments/cuda_resources.py --results experiments/results

Compiles each fused kernel for each architecture of --arch, reads the report of ptxas (registers
and spills) and writes cuda_resources.json.  The file has a row for each kernel and architecture
with the kernel's registers, threads, shared memory and the number of blocks that a
multiprocessor holds; this number is 0 if the architecture has too little shared memory for a
block.  The program also prints these rows as a table.  It needs nvcc and some minutes, but no
GPU.

The exit status is 0 after success, 1 if a kernel that fits an architecture spills registers
there or if there are more than MOST kernels, and 77 if there is no nvcc.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = ROOT / "libfftconv" / "cuda"
SOURCES = (
    "arguments.h",
    "launch.h",
    "machine.h",
    "machine_device.h",
    "arithmetic.h",
    "rowio.h",
    "sink.h",
    "layout.h",
    "kernel.h",
    "kernel_first.h",
    "kernel_middle.h",
    "kernel_even_odd.h",
    "kernel_last.h",
    "shapes.h",
)
ARCHITECTURES = ("80", "89", "90a", "100")
ROLES = ("forward", "backward", "spectra", "taps")
MOST = 64
# For each architecture: the shared memory of a multiprocessor and the most that a block may use
# (KB; the system takes 1 KB of each block), and the most threads of a multiprocessor.  Source:
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".  All have 64K
# registers, allocated to a warp in units of 256.
LIMITS = {
    "80": (164, 163, 2048),
    "86": (100, 99, 1536),
    "89": (100, 99, 1536),
    "90a": (228, 227, 2048),
    "100": (228, 227, 2048),
    "120": (100, 99, 1536),
}
LANES, REGISTERS = 32, 65536

SOURCE = """#include "libfftconv/cuda/launch.h"
using namespace fftconv;
typedef RowKernel<Shape<{arith}, {r1}, {r2}, {r3}>, {role}> Kernel;
template __global__ void fftconv::entry<Kernel>(const __grid_constant__ Kernel::Arguments);
template <int SHARED, int WARPS> struct Report;
#ifdef ASK
Report<Kernel::SHARED_BYTES, Kernel::WARPS> report;
#endif
"""


def digest():
    """SHA-256 of the kernels' sources without comments and white space.

    A stored report is stale if this digest no longer matches the sources.
    """
    text = "".join((CUDA / name).read_text() for name in SOURCES)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return hashlib.sha256("".join(text.split()).encode()).hexdigest()


def shapes():
    """(arithmetic, R1, R2, R3) of every kernel that shapes.h lists."""
    text = (CUDA / "shapes.h").read_text()
    single = text[text.index("SINGLE(SHAPE)") : text.index("HALF(SHAPE)")]
    radices = [
        tuple(map(int, found)) for found in re.findall(r"SHAPE\((\d+), (\d+), (\d+)\)", single)
    ]
    more = [
        tuple(map(int, found))
        for found in re.findall(r"SHAPE\((\d+), (\d+), (\d+)\)", text[text.index("HALF(SHAPE)") :])
    ]
    return [("Half", *r) for r in radices + more] + [("Single", *r) for r in radices]


def nvcc(arguments, source):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cu"
        file.write_text(source)
        return subprocess.run(
            [
                "nvcc",
                "-std=c++17",
                "-O3",
                f"-I{ROOT}",
                f"-I{ROOT}/libfftconv",
                "-cubin",
                "-o",
                str(Path(folder) / "kernel.cubin"),
                *arguments,
                str(file),
            ],
            capture_output=True,
            text=True,
        )


def fits(arch, shared):
    """Whether a block may have `shared` bytes of shared memory on this architecture.

    A kernel that needs more is compiled, but never launched.
    """
    return shared <= LIMITS[arch][1] * 1024


def resident(arch, warps, registers, shared):
    """The number of blocks a multiprocessor holds, from registers, shared memory and threads."""
    total, _, threads = LIMITS[arch]
    if not fits(arch, shared):
        return 0
    each = -(-registers * LANES // 256) * 256 * warps
    return min(REGISTERS // each, total * 1024 // (shared + 1024), threads // (warps * LANES))


def compiled(job):
    """Compile one kernel for one architecture; return its row of the report."""
    (arith, r1, r2, r3), role, arch, (shared, warps) = job
    source = SOURCE.format(arith=arith, r1=r1, r2=r2, r3=r3, role=f"ROWS_{role.upper()}")
    done = nvcc([f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas", "-v"], source)
    if done.returncode:
        raise RuntimeError(f"nvcc: {done.stderr}")
    stores, loads = map(
        int, re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr).groups()
    )
    registers = int(re.search(r"Used (\d+) registers", done.stderr)[1])
    return {
        "arithmetic": {"Half": "float16", "Single": "float32"}[arith],
        "radices": [r1, r2, r3],
        "points": r1 * r2 * r3,
        "role": role,
        "arch": arch,
        "registers": registers,
        "shared_bytes": shared,
        "spill_store_bytes": stores,
        "spill_load_bytes": loads,
        "threads": warps * LANES,
        "fits": fits(arch, shared),
        "blocks": resident(arch, warps, registers, shared),
    }


def asked(shape):
    """(bytes of shared memory, warps) of a block of this shape.

    They are template arguments of an incomplete type, which nvcc's error message prints.
    """
    arith, r1, r2, r3 = shape
    done = nvcc(["-DASK"], SOURCE.format(arith=arith, r1=r1, r2=r2, r3=r3, role="ROWS_FORWARD"))
    found = re.search(r"Report<.*?(\d+), .*?(\d+)>", done.stderr)
    if not found:
        raise RuntimeError(f"nvcc: {done.stderr}")
    return int(found[1]), int(found[2])


def faults(rows):
    """One message for each fault of a report: too many kernels, or registers spilled."""
    kernels = {(row["arithmetic"], row["points"], row["role"]) for row in rows}
    found = [f"{len(kernels)} kernels, more than {MOST}"] * (len(kernels) > MOST)
    for row in rows:
        if row["fits"] and row["spill_store_bytes"]:
            found.append(
                "{arithmetic} {points} {role} on sm_{arch} spills {spill_store_bytes} bytes".format(
                    **row
                )
            )
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arch",
        default=",".join(ARCHITECTURES),
        help="compute capabilities (default: %(default)s)",
    )
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="where the JSON goes"
    )
    parser.add_argument("--jobs", type=int, default=2)
    settings = parser.parse_args()
    if not shutil.which("nvcc"):
        print("no nvcc")
        return 77
    version = subprocess.run(
        ["nvcc", "--version"], capture_output=True, text=True, check=True
    ).stdout
    with ThreadPoolExecutor(settings.jobs) as pool:
        sizes = list(pool.map(asked, shapes()))
        rows = list(
            pool.map(
                compiled,
                [
                    (shape, role, arch, size)
                    for shape, size in zip(shapes(), sizes)
                    for role in ROLES
                    for arch in settings.arch.split(",")
                ],
            )
        )
    record = {
        "experiment": "cuda_resources",
        "compiler": re.search(r"release [^\n]*", version)[0],
        "sources": digest(),
        "rows": rows,
    }
    settings.results.mkdir(parents=True, exist_ok=True)
    path = settings.results / "cuda_resources.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(
        f"{'kernel':<26}{'sm':>5}{'registers':>10}{'spilled':>8}"
        f"{'threads':>8}{'shared':>8}{'blocks':>7}"
    )
    for row in rows:
        print(
            "{arithmetic} {points:>5} {role:<9}".format(**row).ljust(26)
            + "{arch:>5}{registers:>10}{spill_store_bytes:>8}{threads:>8}"
            "{shared_bytes:>8}{blocks:>7}".format(**row)
            + "  does not fit" * (not row["fits"])
        )
    wrong = faults(rows)
    outside = sum(not row["fits"] for row in rows)
    print(
        "\n".join(wrong)
        or f"{len(rows)} reports, {outside} of kernels that do not fit there; no spills"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
