"""Convolutions over channels, and the matrix product at each frequency that they are made of.

The reference sums tap by tap in 64 bits, y[t] += k[s] u[t'], without a transform.  How many
kernels a block takes, and a row's plan, are set and seen inside the module.
"""

import ctypes
import tracemalloc
from ctypes import byref
from functools import partial

import fftconv
import numpy as np
import pytest
from fftconv import _lib, matrix
from fftconv._array import aligned_bytes
from support import COMPLEX, DTYPES, KERNEL_DTYPES, check_rows, norm, normal, same_bits, slow, wide


@pytest.fixture
def blocks(monkeypatch):
    """A function that sets how many kernels' spectra a block may take."""

    def limit(count, length, taps, **arguments):
        row = matrix.row_plan(
            length,
            taps,
            arguments.get("reverse"),
            arguments.get("dtype", "float32"),
            arguments.get("mode", "causal"),
            None,
            None,
        ).counters.spectra_row_bytes
        monkeypatch.setattr(matrix, "BLOCK_BYTES", count * row)

    return limit


class Matrix:
    """Random operands of O(1): the kernels of one output together have norm 1."""

    def __init__(
        self,
        batch,
        inputs,
        outputs,
        length,
        taps,
        *,
        mode="causal",
        fft_size=None,
        reverse=None,
        dtype="float32",
        k_dtype=None,
        seed=0,
    ):
        rng = np.random.default_rng([seed, batch, inputs, outputs, length])
        k_dtype = k_dtype or dtype
        scale = ((taps + (reverse or 0)) * inputs) ** -0.5
        self.u = normal(rng, (batch, inputs, length), dtype)
        self.k = normal(rng, (outputs, inputs, taps), k_dtype, scale)
        self.k_rev = reverse and normal(rng, (outputs, inputs, reverse), k_dtype, scale)
        if {dtype, k_dtype} & set(COMPLEX):  # dy takes their promoted type
            dtype = np.result_type(self.u, self.k).name
        self.dy = normal(rng, (batch, outputs, length), dtype)
        self.arguments = dict(mode=mode, fft_size=fft_size, k_rev=self.k_rev)

    def conv(self, **changes):
        return fftconv.conv_matrix(self.u, self.k, **{**self.arguments, **changes})

    def backward(self, **changes):
        return fftconv.conv_matrix_backward(
            self.dy, self.u, self.k, **{**self.arguments, **changes}
        )

    def taps(self):
        """(gradient's name, kernel, s, t of y, t' of u) for each tap."""
        t = np.arange(self.u.shape[2])
        n = self.arguments["fft_size"] or len(t)
        for name, k, sign in (("dk", self.k, -1), ("dk_rev", self.k_rev, 1)):
            for s in range(0 if k is None else k.shape[2]):
                at = t + sign * s
                if self.arguments["mode"] == "circular":
                    at %= n
                there = (at >= 0) & (at < len(t))
                yield name, wide(k[:, :, s]), s, t[there], at[there]

    def check_forward(self, y):
        want = np.zeros(self.dy.shape, wide(self.dy).dtype)
        u = wide(self.u)
        for _, k, _, t, at in self.taps():
            want[..., t] += np.einsum("oi,bit->bot", k, u[..., at])
        assert y.dtype == self.dy.dtype
        square = norm(self.k) ** 2
        if self.k_rev is not None:
            square = square + norm(self.k_rev) ** 2
        scale = np.sqrt(norm(self.u) ** 2 @ square.T)
        check_rows("y", y, want, scale, self.u.shape[2])

    def check_gradients(self, got):
        u, dy = np.conj(wide(self.u)), wide(self.dy)
        want = {"du": np.zeros(u.shape, dy.dtype), "dk": None, "dk_rev": None}
        of = {"du": self.u, "dk": self.k}
        for name, k in (("dk", self.k), ("dk_rev", self.k_rev)):
            if k is not None:
                of[name] = k
                want[name] = np.zeros(k.shape, dy.dtype)
        for name, k, s, t, at in self.taps():
            want["du"][..., at] += np.einsum("oi,bot->bit", np.conj(k), dy[..., t])
            want[name][..., s] = np.einsum("bot,bit->oi", dy[..., t], u[..., at])
        square = norm(self.k) ** 2
        if self.k_rev is not None:
            square = square + norm(self.k_rev) ** 2
        g, z = norm(dy) ** 2, norm(u) ** 2
        scales = {"du": np.sqrt(g @ square), "dk": np.sqrt(g.T @ z)}
        for name, x in got._asdict().items():
            if want.get(name) is None:
                assert x is None, name
                continue
            assert x.dtype == of[name].dtype
            right = want[name] if x.dtype.kind == "c" else want[name].real
            check_rows(
                name,
                x,
                right,
                scales.get(name, scales["dk"]),
                min(x.shape[-1], self.u.shape[2]),
                factor=2,
            )

    def check(self):
        self.check_forward(self.conv())
        self.check_gradients(self.backward())


# (B, H_in, H_out, L, Lk), and other arguments
CASES = [
    ((1, 1, 1, 1, 1), {}),
    ((2, 3, 4, 64, 64), {}),
    ((3, 1, 4, 101, 7), {}),
    ((1, 5, 1, 37, 37), {}),
    ((2, 3, 2, 33, 100), {}),  # some taps never act
    ((5, 17, 35, 96, 20), {}),  # more than a tile and a block
    ((2, 2, 3, 777, 5), {}),
    ((2, 4, 3, 64, 64), dict(mode="circular")),
    ((1, 2, 3, 45, 30), dict(mode="circular")),
    ((2, 3, 2, 45, 61), dict(mode="circular", fft_size=61)),
    ((2, 2, 2, 50, 9), dict(mode="circular", fft_size=128)),
    ((1, 2, 1, 1, 1), dict(mode="circular", fft_size=7)),
    ((1, 2, 2, 512, 512), dict(mode="circular")),  # a Plan would fold this
    ((2, 3, 2, 40, 40), dict(mode="two_sided", reverse=13)),
    ((1, 2, 3, 99, 3), dict(mode="two_sided", reverse=99)),
    ((2, 1, 1, 10, 30), dict(mode="two_sided", reverse=25)),
]


@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
@pytest.mark.parametrize("shape,arguments", CASES)
def test_against_sums(shape, arguments, dtype):
    Matrix(*shape, **arguments, dtype=dtype).check()


@pytest.mark.parametrize(
    "dtype,k_dtype",
    [
        *((d, k) for d in DTYPES for k in KERNEL_DTYPES[d] if k != d),
        ("float32", "complex64"),
        ("complex64", "float32"),
        ("float64", "complex128"),
        ("complex64", "complex128"),
        ("complex128", "float32"),
        ("float32", "complex128"),
    ],
)
@pytest.mark.parametrize("mode", ["causal", "two_sided"])
def test_types_beside_each_other(dtype, k_dtype, mode):
    """float32 kernels beside 16-bit rows, and real beside complex operands, are right, and each
    gradient has its operand's type."""
    Matrix(
        2,
        3,
        4,
        70,
        21,
        dtype=dtype,
        k_dtype=k_dtype,
        mode=mode,
        reverse=9 if mode == "two_sided" else None,
    ).check()


@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex64"])
def test_every_isa(isa, dtype, monkeypatch):
    monkeypatch.setattr(matrix, "Plan", partial(fftconv.Plan, isa=isa))
    monkeypatch.setattr(matrix, "row_plan", matrix.row_plan.__wrapped__)
    assert matrix.row_plan(64, 64, None, dtype, "causal", None, None).isa == isa
    Matrix(3, 5, 7, 130, 41, dtype=dtype).check()
    Matrix(2, 33, 34, 20, 20, dtype=dtype, mode="circular", fft_size=23).check()


@pytest.mark.parametrize("mode,reverse", [("causal", None), ("circular", None), ("two_sided", 50)])
@pytest.mark.parametrize("kernels", [1, 2, 5, 12, 20])
def test_blocks(kernels, mode, reverse, blocks):
    """A block may have one kernel, a part of an output's kernels, or those of several outputs: sums
    over blocks of inputs and of outputs are right."""
    case = Matrix(2, 5, 7, 100, 60, mode=mode, reverse=reverse)
    blocks(kernels, 100, 60, mode=mode, reverse=reverse)
    call = matrix._MatrixCall(case.u, case.k, mode, None, case.k_rev, None)
    assert len(call.blocks) == {1: 35, 2: 21, 5: 7, 12: 4, 20: 2}[kernels]
    case.check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128"])
def test_threads_agree_to_the_bit(dtype):
    case = Matrix(3, 6, 5, 1000, 300, dtype=dtype)
    y, gradients = case.conv(threads=1), case.backward(threads=1)
    for threads in (2, 3):
        assert same_bits(case.conv(threads=threads), y)
        for a, b in zip(case.backward(threads=threads), gradients):
            assert (a is b is None) or same_bits(a, b)


def test_rows_of_the_batch_are_alone(blocks):
    """A row's bits depend neither on the other rows, nor on a NaN among them, nor on their
    number."""
    case = Matrix(5, 3, 4, 90, 90)
    y = case.conv()
    du = case.backward(needs="u").du
    for batch in (1, 2, 4):
        part = Matrix(5, 3, 4, 90, 90)
        part.u, part.dy = case.u[:batch], case.dy[:batch]
        assert same_bits(part.conv(), y[:batch])
        assert same_bits(part.backward(needs="u").du, du[:batch])
    case.u[1, 2, 3] = np.nan
    got = case.conv()
    assert np.isnan(got[1]).any()
    assert same_bits(got[[0, 2, 3, 4]], y[[0, 2, 3, 4]])


def test_needs():
    case = Matrix(2, 3, 4, 30, 10, mode="two_sided", reverse=6)
    full = case.backward()
    for needs in (("u",), ("k",), ("k_rev",), ("u", "k_rev"), "k", ()):
        got = case.backward(needs=needs)
        names = (needs,) if isinstance(needs, str) else needs
        for name, x in got._asdict().items():
            if name[1:] in names:
                assert same_bits(x, getattr(full, name)), name
            else:
                assert x is None, name


@pytest.mark.parametrize("strides", ["reversed", "transposed", "sliced"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_strides(strides, dtype, blocks):
    def embed(x):
        if strides == "reversed":
            return np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
        if strides == "transposed":
            return np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
        big = np.full((x.shape[0] + 1, 2 * x.shape[1], x.shape[2] + 5), 9, x.dtype)
        big[1:, ::2, 2:-3] = x
        return big[1:, ::2, 2:-3]

    case = Matrix(2, 3, 4, 50, 20, dtype=dtype)
    blocks(6, 50, 20, dtype=dtype)  # two outputs at a time
    y, gradients = case.conv(), case.backward()
    case.u, case.k, case.dy = map(embed, (case.u, case.k, case.dy))
    assert not case.k.flags.c_contiguous
    before = case.u.copy(), case.k.copy()
    assert same_bits(case.conv(), y)
    out = embed(np.full_like(y, np.nan))
    assert case.conv(out=out) is out
    assert same_bits(np.ascontiguousarray(out), y)
    for a, b in zip(case.backward(), gradients):
        assert (a is b is None) or same_bits(a, b)
    assert np.array_equal(case.u, before[0])
    assert np.array_equal(case.k, before[1])


def test_out_may_be_u(blocks):
    """All of u is read before y is written, in one block or in many, so that out may be u."""
    for kernels in (100, 2):
        case = Matrix(2, 4, 4, 40, 40)
        blocks(kernels, 40, 40)
        y = case.conv()
        assert case.conv(out=case.u) is case.u
        assert same_bits(case.u, y)


def test_repeated_inputs():
    """Strides of 0, which repeat one kernel and one row for all, are right."""
    case = Matrix(3, 4, 5, 60, 30)
    case.k = np.broadcast_to(case.k[:, :1], case.k.shape)
    case.u = np.broadcast_to(case.u[:1], case.u.shape)
    case.check()


def test_kinds():
    """Lists are taken, and torch tensors where torch is installed."""
    y = fftconv.conv_matrix([[[1, 2, 3]]], [[[1, 1]], [[0, 2]]])
    assert y.dtype == np.float64 and np.allclose(y, [[[1, 3, 5], [0, 2, 4]]])
    torch = pytest.importorskip("torch")
    case = Matrix(2, 3, 4, 50, 20)
    u, k, dy = map(torch.from_numpy, (case.u, case.k, case.dy))
    y = fftconv.conv_matrix(u, k)
    assert isinstance(y, torch.Tensor)
    assert same_bits(y.numpy(), case.conv())
    for a, b in zip(fftconv.conv_matrix_backward(dy, u, k), case.backward()):
        assert (a is b is None) or same_bits(a.numpy(), b)


def test_the_same_as_conv_of_each_pair():
    """The result equals a sum of `conv` of each pair, which is computed in another way."""
    case = Matrix(2, 3, 2, 200, 150)
    y = np.zeros(case.dy.shape)
    for o in range(2):
        y[:, o] = fftconv.conv(case.u.astype(float), case.k[o].astype(float)).sum(1)
    assert np.abs(case.conv() - y).max() < 1e-5


@slow
def test_memory(monkeypatch):
    """Beside the spectra of u and y, a call holds the spectra of one block of kernels: far less
    than (B, M, H_out, H_in), and less than the spectra of all kernels."""
    batch, channels, length, taps = 4, 64, 1024, 4
    case = Matrix(batch, channels, channels, length, taps)
    monkeypatch.setattr(matrix, "BLOCK_BYTES", 1 << 20)
    row = matrix.row_plan(
        length, taps, None, "float32", "causal", None, None
    ).counters.spectra_row_bytes
    rows = batch * channels * (row + 4 * length)  # spectra, and a result
    spare = 1 << 20
    for call, limit in ((case.conv, 2 * rows), (case.backward, 3 * rows)):
        call()  # makes its plan, once
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit + matrix.BLOCK_BYTES + spare
        assert 2 * peak < channels * channels * row, "nor all kernels'"
        assert 8 * peak < batch * channels * channels * row


# ---- Bad input -------------------------------------------------------------


def bad_calls():
    u, k = np.ones((2, 3, 10), "float32"), np.ones((4, 3, 5), "float32")
    two = dict(mode="two_sided")
    return [
        (dict(u=u[0]), "u has shape"),
        (dict(u=u[:, :, :0]), "u has shape"),
        (dict(u=u[:0]), "u has shape"),
        (dict(u=u[:, :2]), "k has shape"),
        (dict(k=k[0]), "k has shape"),
        (dict(k=k[:, :2]), "k has shape"),
        (dict(k=k[:, :, :0]), "k has shape"),
        (dict(k=k[:0]), "k has shape"),
        (dict(mode="linear"), "mode"),
        (dict(mode=["causal"]), "mode"),
        (dict(fft_size=16), "fft_size"),
        (dict(mode="circular", fft_size=9), "fft_size"),
        (dict(mode="circular", fft_size=10.0), "fft_size"),
        (
            dict(mode="circular", fft_size=10, k=np.ones((4, 3, 11), "float32")),
            "k_length|k_length|k_shape|k has",
        ),
        (dict(threads=0), "threads"),
        (dict(threads=-1), "threads"),
        (dict(two), "k_rev"),
        (dict(k_rev=k), "k_rev"),
        (dict(two, k_rev=k[:1]), "k_rev has shape"),
        (dict(two, k_rev=k[0]), "k_rev has shape"),
        (dict(two, k_rev=k[:, :, :0]), "k_rev has shape"),
    ]


@pytest.mark.parametrize("changes,words", bad_calls())
def test_refused(changes, words):
    arguments = dict(u=np.ones((2, 3, 10), "float32"), k=np.ones((4, 3, 5), "float32"))
    arguments.update(changes)
    out = np.full((2, 4, 10), 7, "float32")
    with pytest.raises(ValueError, match=words):
        fftconv.conv_matrix(**arguments, out=out)
    assert np.all(out == 7)
    with pytest.raises(ValueError, match=words):
        fftconv.conv_matrix_backward(out, **arguments)


def test_out_refused():
    case = Matrix(2, 4, 3, 40, 40)
    good = np.full((2, 3, 40), 7, "float32")
    for out, words in [
        (good[:, :2], "out has shape"),
        (good.astype("float64"), "out has dtype"),
        (np.broadcast_to(good[:1], good.shape), "read-only"),
        (case.k.reshape(-1)[:240].reshape(2, 3, 40), "out overlaps k"),
        (case.k.reshape(-1)[-240:].reshape(2, 3, 40)[::-1], "out overlaps k"),
    ]:
        with pytest.raises(ValueError, match=words):
            case.conv(out=out)
    with pytest.raises(TypeError, match="out is a list; it must be a NumPy array"):
        case.conv(out=[1, 2])
    assert np.all(good == 7)
    case = Matrix(1, 4, 3, 40, 40, mode="two_sided", reverse=40)
    with pytest.raises(ValueError, match="out overlaps k_rev"):
        case.conv(out=case.k_rev[:, 1].reshape(1, 3, 40))
    y = case.conv()
    memory = np.full(3 * 40 + case.k.size, np.nan, "float32")
    memory[120:] = case.k.reshape(-1)  # next to it, without overlap
    case.k = memory[120:].reshape(case.k.shape)
    assert same_bits(case.conv(out=memory[:120].reshape(1, 3, 40)), y)
    # Rows in descending order reach below the address that they begin at.
    memory = np.full(2 * 120 + case.k.size, 7, "float32")
    case = Matrix(2, 4, 3, 40, 40)
    memory[: case.k.size] = case.k.reshape(-1)
    case.k = memory[: case.k.size].reshape(case.k.shape)
    out = memory[case.k.size - 120 : case.k.size + 120].reshape(2, 3, 40)[::-1]
    with pytest.raises(ValueError, match="out overlaps k"):
        case.conv(out=out)
    assert np.all(out[0] == 7)


def test_no_plan_is_folded():
    """The product at every frequency needs one transform, so a row is not folded, whatever form a
    plan would choose for a circular row of this length."""
    plan = matrix.row_plan(512, 512, None, "float32", "circular", None, None)
    assert plan.form == "right_angle"


def test_backward_refused():
    case = Matrix(2, 4, 3, 40, 40)
    for dy, words in [(case.dy[:1], "dy has shape"), (case.dy[:, :2], "dy has shape")]:
        with pytest.raises(ValueError, match=words):
            fftconv.conv_matrix_backward(dy, case.u, case.k)
    for needs in ("k_rev", ("u", "skip"), [3]):
        with pytest.raises(ValueError, match="needs names"):
            case.backward(needs=needs)


# ---- fftconv_contract ------------------------------------------------------


class Product:
    """A matrix product of random spectra of one plan."""

    def __init__(self, rows, columns, depth, length=64, dtype="float32", isa=None, seed=0):
        form = None if dtype in COMPLEX else "right_angle"
        self.plan = fftconv.Plan(
            (1, 1, length), (1, 1, length), dtype=dtype, form=form, isa=isa, single_block=True
        )
        self.real = self.plan.spectra_dtype
        self.reals = self.plan.counters.spectra_row_bytes // self.real.itemsize
        self.rng = np.random.default_rng([seed, rows, columns, depth])
        self.a, self.b = self.spectra(rows, depth), self.spectra(depth, columns)
        self.out = self.spectra(rows, columns)

    def spectra(self, n0, n1):
        data, _ = aligned_bytes(n0 * n1 * self.reals * self.real.itemsize)
        s = data.view(self.real).reshape(n0, n1, self.reals)
        s[...] = self.rng.standard_normal(s.shape)
        return s

    def run(self, threads=1, **options):
        row = self.reals * self.real.itemsize
        c = _lib.ContractionDesc(
            size=ctypes.sizeof(_lib.ContractionDesc),
            rows=self.a.shape[0],
            columns=self.b.shape[1],
            depth=self.a.shape[1],
            a=self.a.ctypes.data,
            b=self.b.ctypes.data,
            out=self.out.ctypes.data,
            threads=threads,
            **{"scale": 1.0, **options},
        )
        for name in ("a", "b", "out"):
            getattr(c, name + "_stride")[:] = [s // row for s in getattr(self, name).strides[:2]]
        _lib.lib.fftconv_contract(self.plan._handle, byref(c))

    def complex(self, s):
        """Spectra as complex numbers, in the order in which they are stored."""
        lanes = self.plan.lanes
        v = s.astype(np.float64).reshape(*s.shape[:2], -1, 2, lanes)
        return v[..., 0, :] + 1j * v[..., 1, :]

    def check(self, scale=1.0, conjugate_a=0, conjugate_b=0, accumulate=0, threads=1):
        a, b = self.complex(self.a), self.complex(self.b)
        a = a.conj() if conjugate_a else a
        b = b.conj() if conjugate_b else b
        want = scale * np.einsum("rdvl,dcvl->rcvl", a, b)
        if accumulate:
            want += self.complex(self.out)
        else:
            self.out[...] = np.nan
        self.run(
            threads,
            scale=scale,
            conjugate_a=conjugate_a,
            conjugate_b=conjugate_b,
            accumulate=accumulate,
        )
        error = np.abs(self.complex(self.out) - want).max(axis=(2, 3))
        tolerance = 1e-14 if self.real == np.float64 else 1e-5
        size = abs(scale) * np.sqrt(a.shape[1]) * 10 + accumulate
        assert np.all(error <= tolerance * size)


@pytest.mark.pairwise
@pytest.mark.parametrize("isa", fftconv.isas())
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "complex64"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (2, 2, 2),
        (3, 1, 5),
        (1, 3, 16),
        (2, 5, 17),
        (4, 33, 40),
        (65, 3, 2),
        (32, 32, 16),
        (33, 35, 15),
        (40, 34, 18),
        (1, 64, 1),
    ],
)
def test_contract(shape, dtype, isa):
    """Full and partial tiles and blocks are right, in all four conjugations."""
    for length in (1, 24, 150):
        p = Product(*shape, length, dtype, isa)
        for conjugate in range(4):
            p.check(1.5, conjugate & 1, conjugate >> 1, 0)
        p.check(-0.25, accumulate=1)
        p.check(1 / 3, accumulate=1, threads=2)


def test_contract_strides():
    """Entries in any order, repeated, with gaps and with negative steps are right."""
    p = Product(4, 6, 5)
    p.a, p.out = p.spectra(5, 4).swapaxes(0, 1), p.spectra(6, 4).swapaxes(0, 1)
    p.check()
    p.b = p.spectra(10, 12)[8::-2, ::2]
    p.check(accumulate=1)
    p.a = np.broadcast_to(p.spectra(1, 5), (4, 5, p.reals))
    p.b = np.broadcast_to(p.spectra(5, 1), (5, 6, p.reals))
    p.check(conjugate_a=1)
    whole = p.spectra(9, 13)
    p.out = whole[::2, 1::2][:4, :6]
    kept = whole.copy()
    p.check()
    untouched = np.ones(whole.shape[:2], bool)
    untouched[:8:2, 1::2] = False
    assert np.array_equal(whole[untouched], kept[untouched])


@pytest.mark.parametrize("isa", fftconv.isas())
def test_contract_at_any_row(isa):
    """Operands may begin within an array of spectra whose rows are not a multiple of 64 bytes
    long."""
    p = Product(2, 3, 4, length=3, isa=isa)
    p.a, p.b = p.spectra(3, 5)[1:, 1:], p.spectra(5, 4)[1:, 1:]
    p.out = p.spectra(5, 5)[2:4, 1:4]
    p.check()


def test_contract_threads_agree_to_the_bit():
    p = Product(5, 7, 40, length=3000)
    p.run(1)
    one = p.out.copy()
    for threads in (2, 3, 7):
        p.out[...] = np.nan
        p.run(threads)
        assert same_bits(p.out, one)


def test_contract_entries_are_alone():
    """A NaN in row 1 of a, or column 1 of b, stays in that row or column of out."""
    p = Product(3, 3, 4)
    p.a[1, 2], p.b[1, 1] = np.nan, np.inf
    p.run()
    assert np.isfinite(p.out[::2, ::2]).all()
    assert np.isnan(p.out[1]).all() and not np.isfinite(p.out[:, 1]).any()


def test_primitives_make_the_convolution(rng):
    """spectra_to_rows(contract(rows_to_spectra)) with the identity matrix gives the rows back."""
    p = Product(3, 3, 3, length=50)
    rows = normal(rng, (3, 50), "float32")
    plan = fftconv.Plan((3, 50), (3, 50), single_block=True, form="right_angle")
    assert plan.counters.spectra_row_bytes == p.reals * 4
    p.a = np.ascontiguousarray(plan.rows_to_spectra(rows))[0][None]
    s = p.spectra(1, 3)
    s[0] = p.a[0]
    p.a, p.out = s, p.spectra(1, 3)
    # The diagonal is (1, 0), the number 1, at every frequency.
    p.b[...] = 0
    p.b.reshape(3, 3, -1, 2, plan.lanes)[range(3), range(3), :, 0] = 1
    p.run(scale=1 / plan.transform_length)
    y = plan.spectra_to_rows(p.out)
    assert np.allclose(y, rows, atol=1e-5)
