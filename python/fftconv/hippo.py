"""Initial matrices A and B of state-space models: HiPPO matrices and diagonal matrices.

Sources: HiPPO, arXiv 2008.07669; HiPPO matrices as a normal matrix minus a low-rank one, S4,
arXiv 2111.00396, appendix C; diagonal matrices, S4D, arXiv 2206.11893, section 4.

In the basis V of the eigenvectors of W, a real matrix A = W - P P^T with W normal becomes

    V* A V = diag(Lambda) - Pt Pt*,    Bt = V* B,   Pt = V* P.

The eigenvalues come in conjugate pairs, of which the one with Im Lambda <= 0 is kept.
"""

import numpy as np

from ._array import choice, size

__all__ = ["DIAGONAL", "MEASURES", "diagonal", "low_rank", "nplr", "transition"]

#: The names of the initializations with A diagonal plus low rank (`nplr`), and of those with
#: A diagonal (`diagonal`).
MEASURES = ("legs", "fout", "legt")
DIAGONAL = ("lin", "inv", "inv2", "quad", "real", "legs")


def transition(measure, n):
    """Return the HiPPO matrix A (n, n) and the vector B (n,) of a measure, float64; n is even.

    "legs" (scaled Legendre): A[i, j] = -sqrt((2i+1)(2j+1)) below the diagonal, -(i+1) on it
        and 0 above it; B[i] = sqrt(2i+1).
    "legt" (translated Legendre): A[i, j] = -sqrt((2i+1)(2j+1)) / 2, times (-1)^(j-i) above the
        diagonal; B[i] = sqrt(2i+1) / 2.
    "fout" (Fourier basis over a window): A is the block-diagonal matrix with the blocks
        [[0, -pi j], [pi j, 0]], j = 0 ... n/2 - 1, minus B B^T; B = (1, 0, sqrt 2, 0,
        sqrt 2 ...).

    Raises ValueError.

    Example:
        >>> A, B = transition("legs", 4)
        >>> A.diagonal().tolist(), (B**2).round(9).tolist()
        ([-1.0, -2.0, -3.0, -4.0], [1.0, 3.0, 5.0, 7.0])
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
    """Return P (rank, n), float64, such that A + P^T P is normal.

    The sum is a skew-symmetric matrix, plus -I/2 for "legs".  The rank is 2 for "legt", else 1.

    Example:
        >>> A, P = transition("legs", 4)[0], low_rank("legs", 4)
        >>> S = A + P.T @ P
        >>> np.allclose(S @ S.T, S.T @ S)
        True
    """
    _, b = transition(measure, n)
    if measure == "fout":
        return b[None]
    p = np.sqrt(np.arange(n) + 0.5)[None]
    if measure == "legt":  # one row has the even entries, the other the odd ones
        p = p * np.stack([np.arange(n) % 2 == 0, np.arange(n) % 2 == 1])
    return p


def nplr(measure, n, b_clip=None):
    """Return (Lambda, P, B) of a HiPPO matrix in the eigenvectors of its normal part.

    measure: one of `MEASURES`.
    n: the number of states, even.
    b_clip: the imaginary part of B is clipped to +- b_clip; state-spaces/s4 uses 2.  None
        leaves B exact.

    Lambda (n/2,), P (rank, n/2) and B (n/2,) are complex128.  Of each conjugate pair they have
    the one with the smaller imaginary part, ordered by it with the most negative first.  The
    phase of each eigenvector is fixed by making its first nonzero entry positive, because the
    clipped B depends on the phase.  Raises ValueError.

    Example:
        >>> A, P, B = nplr("legs", 4)
        >>> A.shape, P.shape, B.shape
        ((2,), (1, 2), (2,))
    """
    a, b = transition(measure, n)
    p = low_rank(measure, n)
    normal = a + p.T @ p
    skew = (normal - normal.T) / 2
    imaginary, v = np.linalg.eigh(-1j * skew)  # in ascending order
    half = n // 2
    imaginary, v = imaginary[:half], v[:, :half]
    # The eigenvalue 0 of "fout" is double, so any basis of its two eigenvectors is valid: take
    # the one that forms a conjugate pair.
    if measure == "fout":
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
    """Return b with its imaginary part clipped to +- b_clip; None leaves b as it is."""
    if b_clip is None:
        return b
    if not b_clip > 0:
        raise ValueError(f"b_clip is {b_clip!r}; it must be positive or None")
    return b.real + 1j * np.clip(b.imag, -b_clip, b_clip)


def diagonal(init, n):
    """Return the diagonal A (n/2,), complex128, of an initialization of n states; n is even.

    For j = 0 ... n/2 - 1, A[j] is

    "lin":  -1/2 - i pi j
    "inv":  -1/2 - i n/pi (n/(2j+1) - 1)
    "inv2": -1/2 - i n/pi (n/(j+1) - 1)
    "quad": -1/2 - i (2j+1)^2 / pi
    "real": -(j+1)
    "legs": Lambda of `nplr`

    Source: S4D, equations 6 to 9, and its repository.  Raises ValueError.

    Example:
        >>> diagonal("inv", 4).real.tolist()
        [-0.5, -0.5]
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
