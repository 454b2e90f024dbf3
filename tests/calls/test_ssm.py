"""Kernels of state-space models equal their recurrence in extended precision, and their gradients
equal finite differences."""

import math
import subprocess
import sys

import fftconv
import numpy as np
import pytest
from fftconv import hippo
from fftconv.ssm import ssm_kernel, ssm_kernel_backward
from support import big, same_bits, slow

# Limits relative to max |k|.  Measured errors are below 1e-5 in float32 (for sums of one sample
# that cancel; else below 2e-6) and below 1e-12 in float64.
LIMIT = {"float32": 1e-5, "float64": 1e-11}
WIDE = np.clongdouble


def normal(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def diagonal_oracle(A, B, C, length, discretization, state=False):
    """k of one head, as k[l] = 2 Re sum w p^l in long double."""
    A = A.astype(WIDE)
    if discretization == "bilinear":
        p, f = (1 + A / 2) / (1 - A / 2), 1 / (1 - A / 2)
    else:
        series = sum(A**k / np.longdouble(math.factorial(k + 1)) for k in range(25))
        p = np.exp(A)
        f = np.where(np.abs(A) < 1, series, (p - 1) / A)
    if discretization == "dss":
        f = f / (np.exp(A * length) - 1) / 2
    v = (p if state else f) * B * C
    k = np.empty(length, np.longdouble)
    for i in range(length):
        k[i] = 2 * v.real.sum()
        v = v * p
    return k


def dense_oracle(A, P, Q, B, C, length, state=False):
    """k of one head, by powers of the whole (2N, 2N) matrix in long double."""

    def whole(v):
        return np.concatenate([v, v.conj()], -1).astype(WIDE)

    M = np.diag(whole(A)) - whole(P).T @ whole(Q).conj()
    unit = np.eye(len(M), dtype=WIDE)
    inverse = np.linalg.inv((unit - M / 2).astype(complex)).astype(WIDE)
    for _ in range(3):  # Newton's method, to the last digits of long double
        inverse = inverse + inverse @ (unit - (unit - M / 2) @ inverse)
    step = inverse @ (unit + M / 2)
    x = (step if state else inverse) @ whole(B)
    k = np.empty(length, np.longdouble)
    for i in range(length):
        k[i] = (whole(C) @ x).real
        x = step @ x
    return k


def recurrence_oracle(A, P, B, C, length):
    """The same k in O(N) for each step, for long kernels: (I - A/2)^-1 by Woodbury's formula."""
    A, P = A.astype(WIDE), P.astype(WIDE)
    D = 1 / (1 - A / 2)
    S = np.eye(len(P)) + ((P.conj() * D) @ P.T).real.astype(np.longdouble)
    inverse = np.linalg.inv(S.astype(float)).astype(np.longdouble)
    for _ in range(3):
        inverse = inverse + inverse @ (np.eye(len(P)) - S @ inverse)
    rows, columns = 2 * P.conj() * D, (D * P / 2).T @ inverse

    def solve(x):
        return D * x - columns @ (rows @ x).real

    x = solve(B.astype(WIDE))
    k = np.empty(length, np.longdouble)
    for i in range(length):
        k[i] = 2 * (C @ x).real
        x = 2 * solve(x) - x
    return k


def error(k, want):
    assert np.isfinite(k).all()
    return float(np.max(np.abs(k - want)) / np.max(np.abs(want)))


@pytest.mark.parametrize("length", [1, 2, 17, 63, 64, 65, 1000])
@pytest.mark.parametrize(
    "discretization, state, rank",
    [
        ("zoh", 0, 0),
        ("zoh", 1, 0),
        ("bilinear", 0, 0),
        ("bilinear", 1, 0),
        ("dss", 0, 0),
        ("bilinear", 0, 1),
        ("bilinear", 1, 1),
        ("bilinear", 0, 2),
    ],
)
def test_definition(length, discretization, state, rank, rng):
    """Kernels equal their definition for any inputs, channels, heads and states, in all orders of
    sums and both precisions."""
    I, C_, H, N = 2, 3, 5, 3
    A = -rng.uniform(0.05, 1, (H, N)) + 3j * rng.standard_normal((H, N))
    B, C = normal(rng, I, H, N), normal(rng, C_, H, N)
    P, Q = [normal(rng, rank, H, N) / 2 for _ in range(2)] if rank else (None,) * 2
    if rank:
        Q = P + Q / 10
    want = np.array(
        [
            [
                [
                    dense_oracle(A[h], P[:, h], Q[:, h], B[i, h], C[c, h], length, state)
                    if rank
                    else diagonal_oracle(A[h], B[i, h], C[c, h], length, discretization, state)
                    for h in range(H)
                ]
                for c in range(C_)
            ]
            for i in range(I)
        ]
    )
    for dtype, limit in ("float64", 1e-13), ("float32", 2e-6):
        k = ssm_kernel(
            A, B, C, length, P, Q, discretization=discretization, state=state, dtype=dtype
        )
        assert k.dtype == dtype and k.shape == want.shape
        assert error(k, want) < limit


def check_initialisations(n, length, dt):
    rng = np.random.default_rng([n, length])
    C = normal(rng, n // 2)
    for init in hippo.DIAGONAL:
        A, B = dt * hippo.diagonal(init, n), np.full(n // 2, dt)
        for discretization in "zoh", "bilinear":
            want = diagonal_oracle(A, B, C, length, discretization)
            for dtype, limit in LIMIT.items():
                k = ssm_kernel(
                    A[None],
                    B[None, None],
                    C[None, None],
                    length,
                    discretization=discretization,
                    dtype=dtype,
                )
                assert error(k, want) < limit, (init, discretization, dtype)
    for measure in hippo.MEASURES:
        A, P, B = hippo.nplr(measure, n)
        A = dt * (np.minimum(A.real, -1e-4) + 1j * A.imag)
        P, B = np.sqrt(dt) * P, dt * B
        want = recurrence_oracle(A, P, B, C, length)
        for dtype, limit in LIMIT.items():
            k = ssm_kernel(
                A[None],
                B[None, None],
                C[None, None],
                length,
                P[:, None],
                discretization="bilinear",
                dtype=dtype,
            )
            assert error(k, want) < limit, (measure, dtype)


@slow
@pytest.mark.parametrize("n", [2, 16, 64, 256])
@pytest.mark.parametrize(
    "length, dt", [(1, 1e-3), (17, 1e-2), (1000, 1), (1000, 1e-4), (3000, 0.1)]
)
def test_initialisations(n, length, dt):
    check_initialisations(n, length, dt)


@big
@pytest.mark.parametrize("n", [2, 4, 16, 64, 256])
@pytest.mark.parametrize("length", [1024, 16384, 65536])
@pytest.mark.parametrize("dt", [1e-4, 1e-3, 1e-2, 0.1, 1])
def test_initialisations_long(n, length, dt):
    check_initialisations(n, length, dt)


def test_oracles_agree(rng):
    """The O(N) recurrence equals the dense one."""
    A = -rng.uniform(0.1, 1, 4) + 1j * rng.standard_normal(4)
    P, B, C = normal(rng, 2, 4) / 2, normal(rng, 4), normal(rng, 4)
    dense = dense_oracle(A, P, P, B, C, 50)
    assert error(recurrence_oracle(A, P, B, C, 50), dense) < 1e-17


def test_the_pole(rng):
    """z = -1, a node of every even DFT, is no special case, although the usual form divides by 0
    there."""
    n, length, dt = 64, 4096, 0.1
    A, P, B = hippo.nplr("legs", n)
    A, P, B = dt * A, np.sqrt(dt) * P[0], dt * B
    C = normal(rng, n // 2)
    want = recurrence_oracle(A, P[None], B, C, length)
    with np.errstate(all="ignore"):
        turn = np.float64(-1)
        z = 2 * (1 - turn) / (1 + turn)
        assert not np.isfinite(2 / (1 + turn) * np.sum(P * B / (z - A)))
    k = ssm_kernel(
        A[None],
        B[None, None],
        C[None, None],
        length,
        P[None, None],
        discretization="bilinear",
        dtype="float32",
    )
    assert error(k, want) < 1e-6  # in complex64 the usual form has 1e-3


def test_no_logarithm_of_nothing():
    """x = -2 in bilinear gives p = 0, and p^0 = 1: no logarithm of 0 is taken."""
    k = ssm_kernel([[-2]], [[[1]]], [[[1]]], 100, discretization="bilinear")
    assert k[0, 0, 0, 0] == 1 and not k[..., 1:].any()
    k = ssm_kernel([[-1e4]], [[[1]]], [[[1]]], 100)  # p underflows
    assert k[0, 0, 0, 0] == pytest.approx(2e-4) and not k[..., 1:].any()
    dk = np.ones((1, 1, 1, 100))
    got = ssm_kernel_backward(dk, [[-2]], [[[1]]], [[[1]]], discretization="bilinear")
    # k = 2 f p^l with f = 1/2: dk[0] = f^2 and dk[1] = 2 f p' = 2 f^3.
    assert got.dA[0, 0] == pytest.approx(0.25 + 0.25)


def test_slow_and_small(rng):
    """Steps of 1e-7 keep their digits: e^x - 1 does not cancel."""
    A = 1e-7 * (-rng.uniform(0.5, 1, 8) + 1j * rng.standard_normal(8))
    B, C = np.ones(8), normal(rng, 8)
    want = diagonal_oracle(A, B, C, 300, "zoh")
    k = ssm_kernel(A[None], B[None, None], C[None, None], 300)
    assert error(k, want) < 1e-14


def test_dss_of_tiny_steps(rng):
    """DSS' weights and their slopes are right to its smallest A: there k[l] = Re B C / (A L)."""
    A, B, C = 1e-100 * (rng.uniform(-2, -1, (2, 3)) + 1j), normal(rng, 2, 3), normal(rng, 2, 3)
    k = ssm_kernel(A, B[None], C[None], 5, discretization="dss")[0, 0]
    assert error(k, np.repeat((B * C / A / 5).sum(1).real[:, None], 5, 1)) < 1e-14
    got = ssm_kernel_backward(np.ones((1, 1, 2, 5)), A, B[None], C[None], discretization="dss")
    for gradient, want in (got.dA, -B * C / A / A), (got.dB[0], C / A), (got.dC[0], B / A):
        assert np.max(np.abs(gradient / want.conj() - 1)) < 1e-14


def operands(rng, rank, H=3, N=4):
    """A, B, C and, for a rank above 0, P and Q."""
    x = {
        "A": -rng.uniform(0.1, 1, (H, N)) + 1j * rng.standard_normal((H, N)),
        "B": normal(rng, 2, H, N),
        "C": normal(rng, 2, H, N),
    }
    if rank:
        x["P"] = normal(rng, rank, H, N) / 3
        x["Q"] = x["P"] + normal(rng, rank, H, N) / 20
    return x


@pytest.mark.parametrize("length", [1, 2, 37, 200])
@pytest.mark.parametrize(
    "discretization, state, rank",
    [
        ("zoh", 0, 0),
        ("zoh", 1, 0),
        ("bilinear", 0, 0),
        ("bilinear", 1, 0),
        ("dss", 0, 0),
        ("bilinear", 0, 1),
        ("bilinear", 1, 1),
        ("bilinear", 0, 3),
    ],
)
def test_gradients(length, discretization, state, rank, rng):
    x = operands(rng, rank)
    options = {"discretization": discretization, "state": state}
    g = rng.standard_normal((2, 2, 3, length))
    got = ssm_kernel_backward(g, **x, **options)
    for name in x:
        way, eps = normal(rng, *x[name].shape), 1e-6
        ends = [
            np.sum(g * ssm_kernel(length=length, **options, **{**x, name: x[name] + side * way}))
            for side in (eps, -eps)
        ]
        want = (ends[0] - ends[1]) / (2 * eps)
        value = np.sum((getattr(got, "d" + name).conj() * way).real)
        size = np.sqrt(np.sum(g**2) * np.sum(np.abs(way) ** 2))
        assert abs(value - want) < 1e-7 * size, name
    alone = ssm_kernel_backward(g, **x, **options, needs=("C",))
    assert alone.dA is None
    np.testing.assert_allclose(alone.dC, got.dC, rtol=1e-12, atol=1e-12)
    single = ssm_kernel_backward(g.astype("f4"), **x, **options)
    np.testing.assert_allclose(single.dC, got.dC, rtol=1e-4, atol=1e-4)


def test_gradient_of_one_p(rng):
    """Without Q, Q is P, and dP is the sum of both gradients."""
    x = operands(rng, 1)
    del x["Q"]
    g = rng.standard_normal((2, 2, 3, 20))
    both = ssm_kernel_backward(g, **x, Q=x["P"], discretization="bilinear")
    got = ssm_kernel_backward(g, **x, discretization="bilinear")
    assert got.dQ is None
    np.testing.assert_allclose(got.dP, both.dP + both.dQ, rtol=1e-13)


@pytest.mark.parametrize("rank", [0, 1])
def test_threads_and_isas(rank, rng):
    """Any number of threads gives the same bits, and every instruction set is right."""
    x = operands(rng, rank, H=19)
    options = {"discretization": "bilinear"}
    for dtype in "float32", "float64":
        k = ssm_kernel(length=700, dtype=dtype, **x, **options, threads=1)
        for threads in 2, 3, 8:
            assert same_bits(
                k, ssm_kernel(length=700, dtype=dtype, **x, **options, threads=threads)
            )
        for isa in fftconv.isas():
            other = ssm_kernel(length=700, dtype=dtype, **x, **options, isa=isa)
            assert error(other, k) < {"float32": 1e-6, "float64": 1e-13}[dtype]
    g = rng.standard_normal(k.shape)
    one = ssm_kernel_backward(g, **x, **options, threads=1)
    for threads in 2, 8:
        for a, b in zip(one, ssm_kernel_backward(g, **x, **options, threads=threads)):
            assert same_bits(a, b)
    for isa in fftconv.isas():
        for a, b in zip(one, ssm_kernel_backward(g, **x, **options, isa=isa)):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@slow
@pytest.mark.parametrize("rank", [0, 1])
def test_memory(rank):
    """Memory is O(H (N + L)): nothing has H N L entries, which would be 4 GiB of complex64 here."""
    program = f"""
import resource
import numpy as np
from fftconv.ssm import ssm_kernel
H, N, L = 128, 64, 65536
A = np.full((H, N), -0.1 + 1j)
P = np.ones(({rank}, H, N)) / 10 if {rank} else None
ssm_kernel(A, A[None], A[None], 64, P, discretization="bilinear")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
k = ssm_kernel(A, A[None], A[None], L, P, discretization="bilinear",
               dtype="float32", threads=1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
      / k.nbytes)
"""
    times = float(
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout
    )
    assert times < 1.5


GOOD = {
    "A": np.full((3, 4), -1 + 1j),
    "B": np.ones((2, 3, 4)),
    "C": np.ones((1, 3, 4)),
    "length": 8,
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"A": np.zeros((3, 4))}, r"A\[0, 0\] is 0\+0i.*negative real part"),
        ({"A": np.full((3, 4), np.nan)}, r"A\[0, 0\] is nan"),
        ({"A": np.ones(3)}, r"A has shape \(3,\)"),
        ({"B": np.ones((2, 3, 5))}, r"B has shape \(2, 3, 5\)"),
        ({"B": np.full((2, 3, 4), np.inf)}, "B has entries"),
        ({"C": np.ones((3, 4))}, r"C has shape \(3, 4\)"),
        ({"C": np.ones((0, 3, 4))}, r"C has shape \(0, 3, 4\)"),
        ({"P": np.ones((9, 3, 4)), "discretization": "bilinear"}, "at most 8"),
        ({"P": np.ones((1, 3, 4))}, r"discretization is 0, must be bilinear"),
        ({"P": np.ones((1, 3, 4)), "Q": np.ones((2, 3, 4))}, "Q has shape"),
        ({"Q": np.ones((1, 3, 4))}, "Q is given"),
        ({"length": 0}, "length is 0"),
        ({"length": 2.5}, "length is 2.5"),
        ({"discretization": "euler"}, "discretization is 'euler'"),
        ({"discretization": "dss", "state": True}, "state is 1"),
        ({"discretization": "dss", "A": np.full((3, 4), -1e-101)}, r"A\[0, 0\] is -1e-101.*dss"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1000}, "threads is 1000"),
        ({"isa": "mmx"}, 'isa is "mmx"'),
        ({"isa": 1}, "isa is 1"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        ssm_kernel(**{**GOOD, **change})


@pytest.mark.parametrize(
    "dk, change, words",
    [
        (np.ones((2, 1, 3)), {}, "dk has shape"),
        (np.ones((2, 1, 3, 8), "f2"), {}, "dtype float16"),
        (np.ones((1, 1, 3, 8)), {}, r"must be \(2, 1, 3, 8\)"),
        (np.ones((2, 1, 3, 8)), {"needs": ("P",)}, "needs names 'P'"),
    ],
)
def test_bad_gradients(dk, change, words):
    arguments = {name: x for name, x in GOOD.items() if name != "length"}
    with pytest.raises(ValueError, match=words):
        ssm_kernel_backward(dk, **arguments, **change)


@slow  # sanitizers' malloc stops the program
def test_no_memory():
    """A kernel larger than any address space, of the longest length that there may be."""
    A, B = -np.ones((32, 1)), np.ones((1, 32, 1))
    with pytest.raises(MemoryError):
        ssm_kernel(A, B, B, 2**40)
    with pytest.raises(ValueError, match=r"length is 1099511627777; it must be from 1 to 2\*\*40"):
        ssm_kernel(A, B, B, 2**40 + 1)


def test_singular(rng):
    """An I - A/2 that has no inverse is refused; this can happen only where Q is not P."""
    P = np.full((1, 1, 1), 1.0)
    with pytest.raises(ValueError, match="singular"):
        ssm_kernel([[-1.0]], [[[1]]], [[[1]]], 8, P, -1.5 * P, discretization="bilinear")


# ---- Initialisations --------------------------------------------------------


@pytest.mark.parametrize("measure", hippo.MEASURES)
@pytest.mark.parametrize("n", [2, 4, 8, 64])
def test_nplr_is_the_matrix(measure, n):
    """V diag(Lambda) V* - P P^T is A again, from one of each pair of eigenvalues."""
    a, b = hippo.transition(measure, n)
    p = hippo.low_rank(measure, n)
    normal_part = a + p.T @ p
    scale = max(1, np.abs(normal_part).max())
    symmetric = (normal_part + normal_part.T) / 2
    np.testing.assert_allclose(symmetric, np.eye(n) * symmetric[0, 0], atol=1e-12 * scale)
    eigenvalues, low, b_half = hippo.nplr(measure, n)
    assert (eigenvalues.imag <= 0).all()
    assert (np.diff(eigenvalues.imag) >= 0).all()
    # The moments b^T A^m b do not depend on the choice of V.
    whole = np.concatenate([b_half, b_half.conj()])
    lows = np.concatenate([low, low.conj()], 1)
    rotated = np.diag(np.concatenate([eigenvalues, eigenvalues.conj()])) - lows.T @ lows.conj()
    x, y = b, whole
    for _ in range(4):
        assert (whole.conj() @ y).real == pytest.approx(b @ x, rel=1e-9)
        x, y = a @ x / scale, rotated @ y / scale


def test_legs_by_hand():
    a, b = hippo.transition("legs", 4)
    np.testing.assert_allclose(a[2], [-(5**0.5), -(15**0.5), -3, 0])
    np.testing.assert_allclose(b, [1, 3**0.5, 5**0.5, 7**0.5])
    np.testing.assert_allclose(np.diag(a), [-1, -2, -3, -4])
    eigenvalues, p, b = hippo.nplr("legs", 64)
    np.testing.assert_allclose(eigenvalues.real, -0.5)
    np.testing.assert_allclose(eigenvalues.imag[[0, -1]], [-1303.27, -0.264], rtol=1e-3)
    np.testing.assert_allclose(b, np.sqrt(2) * p[0])
    assert np.abs(b).max() == pytest.approx(40.75, abs=0.01)
    clipped = hippo.nplr("legs", 64, b_clip=2)[2]
    assert np.abs(clipped.imag).max() <= 2
    assert np.abs(clipped - b).max() < np.abs(b).max()


def test_phase_is_fixed():
    """V[0] > 0 fixes the phases of B's entries, which would otherwise be LAPACK's."""
    _, p, b = hippo.nplr("legs", 8)
    a, _ = hippo.transition("legs", 8)
    q = hippo.low_rank("legs", 8)
    _, v = np.linalg.eigh(-1j * (a + q.T @ q + np.eye(8) / 2))
    turned = v[:, :4] * np.exp(1j * np.arange(4))
    turned *= np.abs(turned[0]) / turned[0]
    np.testing.assert_allclose(turned.conj().T @ np.sqrt(2 * np.arange(8) + 1), b, atol=1e-12)


def test_diagonal_by_hand():
    np.testing.assert_allclose(
        hippo.diagonal("lin", 6), [-0.5, -0.5 - 1j * np.pi, -0.5 - 2j * np.pi]
    )
    assert hippo.diagonal("lin", 6).imag[0] == 0
    assert hippo.diagonal("inv", 64).imag[0] == pytest.approx(-1283.4, abs=1)
    np.testing.assert_allclose(hippo.diagonal("inv2", 4).imag, [-12 / np.pi, -4 / np.pi])
    np.testing.assert_allclose(hippo.diagonal("quad", 4).imag, [-1 / np.pi, -9 / np.pi])
    np.testing.assert_allclose(hippo.diagonal("real", 6), [-1, -2, -3])
    np.testing.assert_array_equal(hippo.diagonal("legs", 8), hippo.nplr("legs", 8)[0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: hippo.diagonal("cosine", 4), "init is 'cosine'"),
        (lambda: hippo.diagonal("lin", 5), "n is 5.*even"),
        (lambda: hippo.transition("legs", 3), "n is 3.*even"),
        (lambda: hippo.nplr("lin", 4), "measure is 'lin'"),
        (lambda: hippo.nplr("legs", 4, b_clip=0), "b_clip is 0"),
    ],
)
def test_bad_initialisation(call, words):
    with pytest.raises(ValueError, match=words):
        call()
