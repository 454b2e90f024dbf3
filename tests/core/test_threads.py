"""Threads: the same bits for any number, one plan shared by many, and calls after a fork."""

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import weakref

import fftconv
import numpy as np
import pytest
from build_tree import CC, TOP, run
from support import Case, check_forward, same_bits

ALL = ("in_gate", "out_gate", "skip", "mask")
# Many rows, few rows, and one long row, inside which the threads work.
SHAPES = [(5, 7, 300), (3, 2, 1009), (1, 1, 1 << 16), (2, 1, 100000), (40, 1, 64)]


@pytest.mark.pairwise
@pytest.mark.parametrize("mode", ["causal", "circular"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_do_not_change_a_bit(shape, dtype, mode):
    case = Case(*shape, shape[-1], dtype, options=ALL, activation="gelu", mode=mode)
    want = None
    for threads in (1, 2, 3, 7, None):
        got = [
            fftconv.conv(case.u, case.k, **case.arguments, threads=threads),
            *fftconv.conv_backward(case.dy, case.u, case.k, **case.arguments, threads=threads),
        ]
        want = want or got
        for a, b in zip(got, want):
            assert same_bits(a, b), threads


@pytest.mark.parametrize("threads", [1, 3])
def test_one_plan_in_many_threads(threads):
    """Eight threads may call one plan with one spectrum at the same time."""
    case = Case(4, 3, 1500, 1500, options=("in_gate",))
    plan = case.plan(threads=threads)
    spectrum = plan.spectrum(case.k)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(case.u.shape).astype("float32") for _ in range(8)]
    want = [
        (
            plan(u, spectrum, **case.plan_arguments),
            plan.backward(case.dy, u, spectrum, **case.plan_arguments),
        )
        for u in inputs
    ]
    failures, gate = [], threading.Barrier(8)

    def work(i):
        gate.wait()
        for _ in range(10):
            y = plan(inputs[i], spectrum, **case.plan_arguments)
            g = plan.backward(case.dy, inputs[i], spectrum, **case.plan_arguments)
            if not (
                same_bits(y, want[i][0])
                and same_bits(g.du, want[i][1].du)
                and same_bits(g.dk, want[i][1].dk)
            ):
                failures.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures


def test_many_plans_made_at_once():
    """Plans may be made and destroyed in threads while others run."""
    failures = []

    def work(seed):
        try:
            for i in range(10):
                case = Case(1, 2, 50 + 13 * seed + i, 40, seed=seed)
                check_forward(case, case.plan(threads=2)(case.u, case.k))
        except BaseException as error:  # noqa: B902, reported below
            failures.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures, failures[0]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or not os.path.isdir("/proc/self/task"),
    reason="needs Linux",
)
def test_threads_run_where_they_may():
    """A thread that is woken is kept off its waker's processor for that moment.  Afterwards it has
    the processors that it had before, or those that it was given in between."""
    case = Case(64, 1, 4096, 4096)
    mine = threading.get_native_id()

    def wake(times=20):
        for _ in range(times):
            time.sleep(2e-3)  # longer than threads look for work before they sleep
            fftconv.conv(case.u, case.k, threads=2)

    def allowed():
        """The processors of every thread but this one, once all sleep again."""
        time.sleep(0.1)
        return {
            int(task): os.sched_getaffinity(int(task))
            for task in os.listdir("/proc/self/task")
            if int(task) != mine
        }

    here = os.sched_getaffinity(0)
    wake()
    others = allowed()
    assert others and all(may == here for may in others.values())
    try:
        for task in others:
            os.sched_setaffinity(task, {min(here)})
        wake()
        assert all(may == {min(here)} for may in allowed().values())
    finally:
        for task in others:
            os.sched_setaffinity(task, here)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_caller_that_runs_is_not_steered():
    """With more threads than processors, which finish at about the same time, threads that come
    after the caller has woken do not change the caller's processors."""
    case = Case(8, 8, 512, 512)
    here = os.sched_getaffinity(0)
    plan = case.plan(threads=2 * len(here))
    spectrum = plan.spectrum(case.k)
    try:
        for _ in range(5000):
            plan(case.u, spectrum)
            assert os.sched_getaffinity(0) == here
    finally:
        os.sched_setaffinity(0, here)


def in_child(case, want, queue):
    """Puts into the queue whether the child has the parent's bits, on threads of its own."""
    y = fftconv.conv(case.u, case.k, threads=3)
    g = fftconv.conv_backward(case.dy, case.u, case.k, threads=3)
    tasks = "/proc/self/task"  # on Linux this has an entry for each thread
    threads = len(os.listdir(tasks)) if os.path.isdir(tasks) else 2
    queue.put(same_bits(y, want[0]) and same_bits(g.dk, want[1]) and threads > 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_after_use():
    """A forked child computes on threads of its own, as PyTorch's DataLoader needs it to."""
    case = Case(4, 4, 3000, 3000)
    want = (
        fftconv.conv(case.u, case.k, threads=3),
        fftconv.conv_backward(case.dy, case.u, case.k, threads=3).dk,
    )
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=in_child, args=(case, want, queue)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        if child.is_alive():
            child.kill()
            pytest.fail("a forked child hangs")
        assert child.exitcode == 0
    assert all(queue.get() for _ in children)
    # The parent goes on as before.
    assert same_bits(fftconv.conv(case.u, case.k, threads=3), want[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_during_use():
    """A child that is forked while another thread computes can compute."""
    case = Case(8, 8, 4096, 4096)
    want = (
        fftconv.conv(case.u, case.k, threads=3),
        fftconv.conv_backward(case.dy, case.u, case.k, threads=3).dk,
    )
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            fftconv.conv(case.u, case.k, threads=3)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(5):
            queue = context.SimpleQueue()
            child = context.Process(target=in_child, args=(case, want, queue))
            child.start()
            child.join(60)
            if child.is_alive():
                child.kill()
                pytest.fail("a forked child hangs")
            assert child.exitcode == 0 and queue.get()
    finally:
        stop.set()
        thread.join()


# The start of a program that ends while daemon threads are inside the C library.
ENDS = """
import sys, threading, time
import numpy as np
import fftconv
from fftconv import hyena, lrnnx, ssm

f = lambda *shape: np.ones(shape, "float32")
u, k, few = f(4, 16, 4096), f(16, 4096), f(16, 4)
begun = threading.Barrier(4, timeout=10)

def endless(call, *arguments, **keywords):
    call(*arguments, **keywords)
    begun.wait()
    while True:
        call(*arguments, **keywords)
"""
CALLS = {
    "conv": "fftconv.conv, u, k, threads=2",
    "backward": "fftconv.conv_backward, u, u, k, u",
    "stream": "lambda: fftconv.Stream(k, batch=4).push(u)",
    "prepared": "lambda: (p := fftconv.Plan(u.shape, k.shape)).prepare(u, p.spectrum(k))[1]()",
    "depthwise": "fftconv.depthwise_conv1d_backward, u[..., 3:], u, few",
    "matrix": "fftconv.conv_matrix, u, f(16, 16, 4096)",
    "heads": "hyena.fftconv_func, u, k[:4], f(4), v=u, head_dim=4, q=u",
    "ssm": "ssm.ssm_kernel, -few, few[None], few[None], 1 << 18",
    "strategies": "lrnnx.opt_ssm_forward, u.swapaxes(1, 2), k.T, f(16, 16), f(16, 16), strategy=2",
}


@pytest.mark.parametrize("call", CALLS)
def test_exit_during_a_call(call):
    """What a call uses lives until it returns, even if the interpreter ends before."""
    program = ENDS + (
        "for _ in range(3):\n"
        f"    threading.Thread(target=lambda: endless({CALLS[call]}), daemon=True).start()\n"
        "begun.wait()\n"
        "time.sleep(0.1)\n"
        "u = k = None\n"
        "sys.exit(7)\n"
    )
    freed_is_unmapped = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "4096"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, env=freed_is_unmapped
    )
    assert done.returncode == 7, done.stderr.decode()


def test_destroyed_while_spectrum_lives():
    """A spectrum works after the last name of its plan is gone, and both are freed without an
    error."""
    case = Case(1, 2, 100, 100)
    for _ in range(10):
        spectrum = case.plan().spectrum(case.k)
        gc.collect()
        check_forward(case, spectrum.plan(case.u, spectrum))


def test_default_threads():
    n = fftconv.default_threads()
    assert 1 <= n <= os.cpu_count()
    assert fftconv.Plan((64, 64, 64), (64, 64)).threads >= 1


# ---- How many threads --------------------------------------------------------------


@pytest.fixture(scope="module")
def c_processors(tmp_path_factory):
    """processors.c by itself: its functions that are not exported can be called."""
    library = tmp_path_factory.mktemp("processors") / "processors.so"
    source = TOP / "libfftconv"
    files = [source / "processors.c", source / "status.c"]
    run(
        *CC,
        "-std=gnu11",
        "-shared",
        "-fPIC",
        "-pthread",
        '-DPACKAGE_VERSION=""',
        *files,
        "-o",
        library,
    )
    return ctypes.CDLL(str(library))


QUOTAS = {
    "none": ({"proc/self/cgroup": "0::/\n"}, 0),
    "no files": ({}, 0),
    "version 2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "version 2 without a limit": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        0,
    ),
    "the least of the groups around": (
        {
            "proc/self/cgroup": "0::/a/b/c\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "700000 100000\n",
            "sys/fs/cgroup/a/b/c/cpu.max": "max 100000\n",
        },
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpuset:/a\n4:cpu,cpuacct:/a\n0::/\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "version 1 without a limit": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        0,
    ),
    "version 1, of which the container sees its own group alone": (
        {
            "proc/self/cgroup": "4:cpu:/docker/0123\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "wrong": ({"proc/self/cgroup": "x\n0:\n0::\n", "sys/fs/cgroup/cpu.max": "-1 0\n"}, 0),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota_of_a_container(name, c_processors, tmp_path):
    files, want = QUOTAS[name]
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert c_processors.quota_processors(os.fsencode(tmp_path)) == want


def test_numbers_of_the_environment(c_processors):
    numbers = {"3": 3, "4,2": 4, " 5 ": 5, "6 ,1": 6, "300": 255, "9" * 30: 255}
    wrong = ("", "0", "-2", "x", "4x", "2.5", ",2")
    for text, want in {**numbers, **dict.fromkeys(wrong, 0)}.items():
        assert c_processors.threads_of_text(text.encode()) == want, text
    assert c_processors.threads_of_text(None) == 0


@pytest.mark.parametrize(
    "variables, want",
    [
        ({"OMP_NUM_THREADS": "4,2"}, "4"),
        ({"FFTCONV_NUM_THREADS": "3", "OMP_NUM_THREADS": "4"}, "3"),
        ({"FFTCONV_NUM_THREADS": "none", "OMP_NUM_THREADS": "4"}, "4"),
    ],
)
def test_environment(variables, want):
    program = "import fftconv; print(fftconv.default_threads())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, stdout=subprocess.PIPE
    )
    assert done.stdout.decode().strip() == want


def test_no_other_library_adds_threads():
    """With one thread, only the caller computes: products of matrices run on no threads of BLAS,
    which the library's threads would not bound."""
    program = """
import os
import numpy as np
import fftconv
from fftconv.lrnnx import Centaurus, FFTConvS4, opt_ssm_forward

def others():  # hundredths of a second that the other threads have computed
    ticks = 0
    for task in set(os.listdir("/proc/self/task")) - {str(os.getpid())}:
        with open(f"/proc/self/task/{task}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return ticks

f = lambda *shape: np.ones(shape)
fftconv.set_default_threads(1)
necks = Centaurus(512, 512, 2), Centaurus(512, 256, 2, "pointwise")
s4 = FFTConvS4(4, kernel="s4", d_state=256)
before = others()
for strategy in 1, 2, 3:
    opt_ssm_forward(f(1, 512, 256), f(512, 64), f(64, 256), f(256, 64), strategy=strategy)
for layer in necks:
    for batch in 8, 9:
        layer.step(f(batch, 512), layer.default_state(batch))
s4.forward(f(1, 4, 100), s4.default_state(1))
s4.setup_step("dense")
s4.step(f(1, 4), s4.default_state(1))

print(others() - before)
"""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("this system does not tell what a thread has run")
    many = {**os.environ, "OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", program], env=many, stdout=subprocess.PIPE)
    assert int(done.stdout) <= 8  # with products by NumPy: 25 to 35


def test_set_default_threads():
    """The number holds for new plans, and for those that calls keep; a Plan keeps its own."""
    before, shapes = fftconv.default_threads(), ((1, 1, 64), (1, 64))
    kept = ((1, 1, 64), (1, 1, 64), None, "float32", "causal", None, None, None)
    old = fftconv.Plan(*shapes)
    try:
        for n in (5, 255):
            fftconv.set_default_threads(n)
            assert fftconv.default_threads() == n == fftconv.Plan(*shapes).threads
            assert fftconv.plan.cached_plan(*kept).threads == n
        assert old.threads == before
        for n in (0, -1, 256, 2**40, 1.5, "2"):
            with pytest.raises(ValueError, match="threads"):
                fftconv.set_default_threads(n)
        assert fftconv.default_threads() == 255
    finally:
        fftconv.set_default_threads()
    assert fftconv.default_threads() == before


def test_release_workspace():
    """It takes the workspaces of all threads, and leaves that of a running call."""
    released, buffers = threading.Event(), {}

    def work(name, running):
        buffer, _ = fftconv._backends._workspace.at_least(1000)
        buffers[name] = weakref.ref(buffer)
        if not running:
            del buffer
        begun.wait()
        released.wait()

    begun = threading.Barrier(3)
    threads = [threading.Thread(target=work, args=of) for of in (("idle", 0), ("running", 1))]
    for thread in threads:
        thread.start()
    begun.wait()
    buffers["mine"] = weakref.ref(fftconv._backends._workspace.at_least(1000)[0])
    assert all(buffer() is not None for buffer in buffers.values())
    fftconv.release_workspace()
    left = [name for name, buffer in buffers.items() if buffer() is not None]
    released.set()
    for thread in threads:
        thread.join()
    assert left == ["running"]
    assert buffers["running"]() is None
