"""Forward and backward in C refuse bad operands with a status and a message, and write nothing."""

import ctypes
from ctypes import byref

import fftconv
import numpy as np
import pytest
from c_calls import (
    BACKWARD,
    BOTH,
    FORWARD,
    LK,
    OUTPUTS,
    USED_BY,
    B,
    Call,
    H,
    L,
    Workspace,
    call,
    info_of,
    new_plan,
    new_spectrum,
    refused,
    tensor,
    workspace_bytes,
)
from fftconv import _lib
from fftconv._lib import Operands, Tensor


def test_the_right_call_is_right(plan):
    """The call that the other tests spoil succeeds as it is."""
    c = Call()
    for name in BOTH:
        status, message = call("fftconv_" + name, plan, None, byref(c.ops))
        assert status == _lib.OK, message
    assert all(np.isfinite(x).all() for x in c.arrays.values())
    assert not any(np.all(c.arrays[n] == 7) for n in OUTPUTS)


@pytest.mark.parametrize("name", ["fftconv_forward", "fftconv_backward"])
def test_null_arguments(plan, name):
    c = Call()
    refused(name, None, None, byref(c.ops), words="plan")
    refused(name, plan, None, None, words="operands")
    assert c.untouched()


@pytest.mark.parametrize("size", [0, 1, ctypes.sizeof(Operands) - 8, ctypes.sizeof(Operands) + 8])
def test_operands_size(plan, size):
    c = Call()
    c.ops.size = size
    c.refused(plan, words="size")


@pytest.mark.parametrize("operand", ["u", "y", "k", "k_rev", "dy"])
def test_missing_operand(plan, operand):
    c = Call()
    getattr(c.ops, operand).data = None
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda n: n + 1,
        lambda n: n - 1,
        lambda n: 0,
        lambda n: -n,
        lambda n: 2**62,
        lambda n: -(2**63),
    ],
    ids=["+1", "-1", "0", "neg", "2^62", "-2^63"],
)
def test_wrong_shape(plan, operand, axis, change):
    c = Call()
    shape = getattr(c.ops, operand).shape
    shape[axis] = change(shape[axis])
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("dtype", [0, 1, 3, 4, 5, 6, 7, -1, 2**31 - 1])
def test_wrong_dtype(plan, operand, dtype):
    c = Call()
    getattr(c.ops, operand).dtype = dtype
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned(plan, operand, offset):
    c = Call()
    getattr(c.ops, operand).data += offset
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize(
    "operand,axis",
    [
        (operand, axis)
        for operand in OUTPUTS
        for axis in range(3)
        if getattr(Call().ops, operand).shape[axis] > 1
    ],
)
def test_outputs_must_not_repeat(plan, operand, axis):
    """An output's axis may have a stride of 0 only if it has one entry."""
    c = Call()
    getattr(c.ops, operand).stride[axis] = 0
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("operand", sorted(USED_BY))
@pytest.mark.parametrize("stride", [2**62, -(2**62), 2**63 - 1, -(2**63)])
def test_overflowing_strides(plan, operand, stride):
    c = Call()
    t = getattr(c.ops, operand)
    for axis in range(3):
        if t.shape[axis] > 1:
            t.stride[axis] = stride
    c.refused(plan, words=operand, names=USED_BY[operand])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("other", sorted(USED_BY))
@pytest.mark.parametrize("shift", [0, 4, -4])
def test_overlap(plan, output, other, shift):
    """Only y exactly on u may overlap; any other overlap is refused, and both operands are
    named."""
    if other == output or (output, other, shift) == ("y", "u", 0):
        return
    names = [n for n in USED_BY[output] if n in USED_BY[other]]
    c = Call()
    getattr(c.ops, output).data = getattr(c.ops, other).data + shift
    kept = {name: x.copy() for name, x in c.arrays.items()}
    for name in names:
        refused("fftconv_" + name, plan, None, byref(c.ops), words=("overlap", output))
    for name, x in kept.items():
        assert np.array_equal(c.arrays[name], x)


def test_y_is_u(plan):
    c = Call()
    status, message = call("fftconv_forward", plan, None, byref(c.ops))
    assert status == _lib.OK, message
    c.ops.y.data = c.ops.u.data
    status, message = call("fftconv_forward", plan, None, byref(c.ops))
    assert status == _lib.OK, message
    assert np.array_equal(c.arrays["u"], c.arrays["y"])


def test_y_is_u_whatever_the_stride_of_an_axis_of_one():
    plan = new_plan(batch=1)
    u, k = np.ones((1, H, L), "float32"), np.ones((1, H, LK), "float32")
    ops = Operands(
        size=ctypes.sizeof(Operands), u=tensor(u), k=tensor(k), y=tensor(u, strides=(999, L, 1))
    )
    status, message = call("fftconv_forward", plan, None, byref(ops))
    assert status == _lib.OK, message
    assert np.allclose(u, np.arange(1, L + 1), rtol=1e-5)
    _lib.lib.fftconv_plan_destroy(plan)


def test_workspace_over_an_operand(plan):
    size = workspace_bytes(plan, Call().ops)
    rows = np.full(size + B * H * L * 4 + 128, 7, np.uint8)
    start = rows.ctypes.data + -rows.ctypes.data % 64
    for name in ("u", "y", "in_gate", "k"):
        c = Call()
        c.ops.workspace, c.ops.workspace_bytes = start, size
        getattr(c.ops, name).data = start + size - 4
        c.refused(plan, words=("workspace", name), names=FORWARD)
        assert np.all(rows == 7)


@pytest.mark.parametrize("activation", [-1, 3, 2**31 - 1])
def test_activation(plan, activation):
    c = Call()
    c.ops.activation = activation
    c.refused(plan, words="activation")


@pytest.mark.parametrize("threads", [-1, 2**31 - 1])
def test_threads(plan, threads):
    c = Call()
    c.ops.threads = threads
    c.refused(plan, words="threads")


def test_a_stream_is_for_gpus(plan):
    """A stream is refused by the CPU's calls; the workspace's size does not depend on it."""
    c = Call()
    size = workspace_bytes(plan, c.ops)
    c.ops.stream = c.ops.u.data
    c.refused(plan, words=("stream is given", "the CPU"))
    assert workspace_bytes(plan, c.ops) == size


def test_workspace(plan):
    """A workspace that is too small or misaligned is refused; one of the right size is enough."""
    for direction, name in enumerate(BOTH):
        c = Call()
        w = Workspace(workspace_bytes(plan, c.ops, direction))
        info = info_of(plan)
        assert w.size == (info.forward_workspace_bytes, info.backward_workspace_bytes)[direction]
        w.give(c.ops)
        for size in (0, 1, w.size - 1, -1, -(2**63)):
            c.ops.workspace_bytes = size
            c.refused(plan, words="workspace", names=(name,))
        c.ops.workspace_bytes = w.size
        c.ops.workspace = w.address + 1
        c.refused(plan, words="workspace", names=(name,))
        c.ops.workspace = w.address
        status, message = call("fftconv_" + name, plan, None, byref(c.ops))
        assert status == _lib.OK, message
        assert w.is_kept_to()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_workspace_is_enough_for_each_thread_count(threads):
    p = new_plan(batch=5, length=1000, k_length=900)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((5, H, 1000)).astype("float32")
    k = rng.standard_normal((1, H, 900)).astype("float32")
    y = np.full_like(u, np.nan)
    ops = Operands(
        size=ctypes.sizeof(Operands), threads=threads, u=tensor(u), k=tensor(k), y=tensor(y)
    )
    w = Workspace(workspace_bytes(p, ops))
    w.give(ops)
    status, message = call("fftconv_forward", p, None, byref(ops))
    assert status == _lib.OK, message
    assert w.is_kept_to()
    assert np.array_equal(y, fftconv.conv(u, k))
    _lib.lib.fftconv_plan_destroy(p)


def test_an_absent_gradient_may_say_anything_of_itself(plan):
    """An absent dk may have any dtype: dk_rev alone is computed all the same."""
    found = []
    for dtype in (0, _lib.DTYPES["complex64"]):
        c = Call()
        c.ops.dk = Tensor(None, dtype)
        status, message = call("fftconv_backward", plan, None, byref(c.ops))
        assert status == _lib.OK, message
        found.append(c.arrays["dk_rev"].copy())
    assert not np.any(found[0] == 7) and np.array_equal(*found)


def test_a_step_that_is_never_made():
    """An axis of one entry may have any stride, and needs no workspace."""
    plan = new_plan(length=1, k_length=1)
    x, found = np.ones((B, H, 1), "float32"), []
    for stride in (1, 100, 2**62):
        ops = Operands(size=ctypes.sizeof(Operands), threads=1)
        ops.u = ops.y = tensor(x, strides=(H, 1, stride))
        found.append(workspace_bytes(plan, ops))
    assert found == [workspace_bytes(plan, Operands(size=ctypes.sizeof(Operands), threads=1))] * 3
    _lib.lib.fftconv_plan_destroy(plan)


@pytest.mark.parametrize("direction", [_lib.FORWARD, _lib.BACKWARD])
def test_workspace_bytes_takes_operands_as_they_stand(plan, direction):
    """The workspace's size is given for any dtype, shape, stride or address: the call itself
    checks these."""
    for dtype in (0, 1, 7, -1, 2**31 - 1):
        for number in (0, -1, 2**62, 2**63 - 1, -(2**63)):
            c = Call()
            for name in USED_BY:
                t = getattr(c.ops, name)
                t.data, t.dtype, t.shape[:], t.stride[:] = 1, dtype, [number] * 3, [number] * 3
            assert workspace_bytes(plan, c.ops, direction)


def test_k_rev_without_a_two_sided_plan():
    plan = new_plan()
    for name, names in (("k_rev", BOTH), ("dk_rev", BACKWARD)):
        c = Call()
        for other in {"k_rev", "dk_rev"} - {name}:
            setattr(c.ops, other, Tensor())
        c.refused(plan, words=name, names=names)
    _lib.lib.fftconv_plan_destroy(plan)


def test_history():
    """history must be given where the plan was made for it, and only there; rows may be of any
    length up to the plan's; there is no backward."""
    plan, plain = new_plan(history=1), new_plan()
    past = np.zeros((B, H, LK - 1), "float32")

    def new_call(length=L):
        c = Call()
        c.ops.k_rev = c.ops.dk_rev = Tensor()
        c.ops.history = tensor(past)
        for name in ("u", "y", "in_gate", "out_gate"):
            getattr(c.ops, name).shape[2] = length
        return c

    new_call().refused(plain, words="history", names=FORWARD)
    for spoil in (
        lambda t: setattr(t, "data", None),
        lambda t: setattr(t, "data", past.ctypes.data + 2),
        lambda t: setattr(t, "dtype", 1),
        lambda t: t.shape.__setitem__(0, 1),
        lambda t: t.shape.__setitem__(1, H + 1),
        lambda t: t.shape.__setitem__(2, LK),
        lambda t: t.stride.__setitem__(1, 2**62),
    ):
        c = new_call()
        spoil(c.ops.history)
        c.refused(plan, words="history", names=FORWARD)
    c = new_call()
    c.ops.history.data = c.ops.y.data
    c.refused(plan, words=("history", "overlap"), names=FORWARD)
    for length in (0, -1, L + 1, 2**62):
        new_call(length).refused(plan, words="u", names=FORWARD)
    c = new_call(5)
    c.ops.y.shape[2] = 6
    c.refused(plan, words="y", names=FORWARD)
    c = new_call()
    status, message = call("fftconv_backward", plan, None, byref(c.ops))
    assert status == _lib.UNSUPPORTED and "history" in message
    assert c.untouched()
    for length in (1, 5, L):
        c = new_call(length)
        status, message = call("fftconv_forward", plan, None, byref(c.ops))
        assert status == _lib.OK, message
        assert np.all(c.arrays["y"][..., :length] != 7)
        assert np.all(c.arrays["y"][..., length:] == 7)
    for p in (plan, plain):
        _lib.lib.fftconv_plan_destroy(p)


def test_complex_operands():
    """Complex operands take no activation, and need only be aligned to their real parts."""
    plan = new_plan(dtype=_lib.DTYPES["complex64"])
    raw = np.zeros(2 * B * H * L + 1, "float32")
    raw[1:] = 1
    u = raw[1:].view("complex64").reshape(B, H, L)
    k = np.ones((1, H, LK), "complex64")
    y = np.full((B, H, L), 7, "complex64")
    ops = Operands(
        size=ctypes.sizeof(Operands),
        u=tensor(u, dtype="complex64"),
        k=tensor(k, dtype="complex64"),
        y=tensor(y, dtype="complex64"),
    )
    for activation in (1, 2):
        ops.activation = activation
        refused("fftconv_forward", plan, None, byref(ops), words="activation")
    ops.activation = 0
    ops.u.data += 2
    refused("fftconv_forward", plan, None, byref(ops), words="u")
    ops.u.data -= 2
    for dtype in ("float32", "float64", "complex128"):
        ops.k.dtype = _lib.DTYPES[dtype]
        refused("fftconv_forward", plan, None, byref(ops), words="k")
    ops.k.dtype = _lib.DTYPES["complex64"]
    assert np.all(y == 7)
    assert call("fftconv_forward", plan, None, byref(ops))[0] == _lib.OK
    assert np.allclose(y, (1 + 1j) * np.arange(1, L + 1), rtol=1e-5)
    _lib.lib.fftconv_plan_destroy(plan)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("direction", [_lib.FORWARD, _lib.BACKWARD])
def test_workspace_of_these_operands(plan, direction, scattered, prepared):
    """The workspace's size is exactly what a call with these strides needs, with a spectrum or
    without."""
    name, c = "fftconv_" + BOTH[direction], Call()
    if scattered:  # (B, L, H): rows in tiles
        for rows in ("u", "in_gate", "out_gate", "y", "dy", "du", "din_gate", "dout_gate"):
            getattr(c.ops, rows).stride[:] = (L * H, 1, H)
    spectrum = new_spectrum(plan, c.arrays["k"], c.arrays["k_rev"]) if prepared else None
    w = Workspace(workspace_bytes(plan, c.ops, direction, spectrum))
    w.give(c.ops)
    status, message = call(name, plan, spectrum, byref(c.ops))
    assert status == _lib.OK, message
    assert w.is_kept_to()
    c.ops.workspace_bytes = w.size - 1
    refused(name, plan, spectrum, byref(c.ops), words=("workspace_bytes", str(w.size)))
    _lib.lib.fftconv_spectrum_destroy(spectrum)
    if not scattered:
        info = info_of(plan)
        most = (info.forward_workspace_bytes, info.backward_workspace_bytes)[direction]
        assert w.size <= most if prepared else w.size == most
