"""Initialisations of state-space models: HiPPO matrices and diagonal ones.

HiPPO: arXiv 2008.07669; as a normal matrix minus a low rank, S4: 2111.00396,
appendix C; diagonal ones, S4D: 2206.11893, section 4.

A real matrix A = W - P P^T with W normal is, in W's eigenvectors V,

    V* A V = diag(Lambda) - Pt Pt*,    Bt = V* B,   Pt = V* P,

in conjugate pairs; half of each pair is kept, that with Im Lambda <= 0.
"""

import numpy as np

from ._array import choice, size

#: (H, N) of states: those of a "low rank" and those of a diagonal A.
MEASURES = ("legs", "fout", "legt")
DIAGONAL = ("lin", "inv", "inv2", "quad", "real", "legs")


def transition(measure, n):
    """(A, B) of a HiPPO matrix: (n, n) and (n,), float64.

    "legs", scaled Legendre: A[i, j] = -sqrt((2i+1)(2j+1)) below the diagonal,
    -(i+1) on it, B[i] = sqrt(2i+1). "legt", translated Legendre:
    A[i, j] = -sqrt((2i+1)(2j+1)) / 2, times (-1)^(j-i) above the diagonal,
    B[i] = sqrt(2i+1) / 2. "fout", a Fourier basis over a window:
    rotations by pi j in pairs, minus B B^T, B = (1, 0, sqrt 2, 0, sqrt 2 ...).
    """
    n = size(n, "n")
    choice(measure, "measure", dict.fromkeys(MEASURES))
    if n % 2:
        raise ValueError(f"n is {n}; it must be even: states are pairs")
    i = np.arange(n)
    root = np.sqrt(2.0 * i + 1)
    if measure == "legs":
        return -np.tril(np.outer(root, root), -1) - np.diag(i + 1.0), root
    if measure == "legt":
        sign = np.where(i[None, :] > i[:, None], (-1.0) ** (i[None, :] - i[:, None]), 1)
        return -np.outer(root, root) * sign / 2, root / 2
    frequencies = np.zeros(n - 1)
    frequencies[::2] = np.arange(n // 2)
    rotation = np.pi * (np.diag(frequencies, -1) - np.diag(frequencies, 1))
    b = np.where(i % 2 == 0, np.sqrt(2.0), 0)
    b[0] = 1
    return rotation - np.outer(b, b), b


def low_rank(measure, n):
    """P (rank, n), float64, such that A + P^T P is normal: -I/2, or 0, plus
    a skew matrix. Rank 2 for "legt", else 1."""
    _, b = transition(measure, n)
    if measure == "fout":
        return b[None]
    p = np.sqrt(np.arange(n) + 0.5)[None]
    if measure == "legt":  # even and odd entries each by themselves
        p = p * np.stack([np.arange(n) % 2 == 0, np.arange(n) % 2 == 1])
    return p


def nplr(measure, n, b_clip=None):
    """(Lambda, P, B) of a HiPPO matrix in the eigenvectors of its normal part.

    n: an even number of states. Lambda (n/2,), P (rank, n/2), B (n/2,),
    complex128, of the half of each pair with the smaller imaginary part, by
    that part, the most negative first. Eigenvectors are of one phase, their
    first entry that is not 0 positive: other phases would give other clipped
    B. b_clip: the imaginary part of B is held to +- b_clip, as state-spaces/s4 does
    at 2; None leaves the exact HiPPO matrix.
    """
    a, b = transition(measure, n)
    p = low_rank(measure, n)
    normal = a + p.T @ p
    skew = (normal - normal.T) / 2
    imaginary, v = np.linalg.eigh(-1j * skew)  # ascending
    half = n // 2
    imaginary, v = imaginary[:half], v[:, :half]
    if measure == "fout":  # the pair at 0, where any mixture is one
        imaginary[-1] = 0
        v[:, -1] = 0
        v[:2, -1] = np.sqrt(0.5), 1j * np.sqrt(0.5)
    first = np.argmax(np.abs(v) > 1e-12, axis=0)
    entry = v[first, np.arange(half)]
    v = v * (np.abs(entry) / entry)
    eigenvalues = np.mean(np.diag(normal)) + 1j * imaginary
    b, p = v.conj().T @ b, p @ v.conj()
    return eigenvalues, p, clipped(b, b_clip)


def clipped(b, b_clip):
    """Im b within +- b_clip."""
    if b_clip is None:
        return b
    if not b_clip > 0:
        raise ValueError(f"b_clip is {b_clip!r}; it must be positive or None")
    return b.real + 1j * np.clip(b.imag, -b_clip, b_clip)


def diagonal(init, n):
    """A (n/2,), complex128, of a diagonal initialisation of n states.

    "lin": -1/2 - i pi j; "inv": -1/2 - i n/pi (n/(2j+1) - 1); "inv2":
    -1/2 - i n/pi (n/(j+1) - 1); "quad": -1/2 - i (2j+1)^2 / pi (S4D,
    equations 6 to 9, and its repository); "real": -(j+1); "legs": Lambda of
    `nplr`. j = 0 ... n/2 - 1.
    """
    n = size(n, "n")
    choice(init, "init", dict.fromkeys(DIAGONAL))
    if n % 2:
        raise ValueError(f"n is {n}; it must be even: states are pairs")
    j = np.arange(n // 2)
    if init == "legs":
        return nplr("legs", n)[0]
    if init == "real":
        return -(j + 1.0) + 0j
    imaginary = {
        "lin": np.pi * j,
        "inv": n / np.pi * (n / (2 * j + 1) - 1),
        "inv2": n / np.pi * (n / (j + 1) - 1),
        "quad": (2 * j + 1) ** 2 / np.pi,
    }[init]
    return -0.5 - 1j * imaginary
