"""Reads the genomes in experiments/data as arrays.

load(name)      the letters A, C, G, T as codes 0, 1, 2, 3: (L,) uint8
one_hot(codes)  one row for each base: (4, L), exactly one 1 in each column
"""

import gzip
import hashlib
from pathlib import Path

import numpy as np

BASES = "ACGT"
DATA = Path(__file__).resolve().parent / "data"

# name: (file, number of bases, SHA-256 of the file); data/README.md gives the origin.
GENOMES = {
    "ecoli": (
        "NC_008253.fna.gz",
        4_938_920,
        "b5f5e726fa79caeeb12c19f3697faf7af437f57daf4195419056d639fb36a334",
    ),
    "lambda": (
        "lambda_virus.fa.gz",
        48_502,
        "08fe207fcb4bbe47e80cc7469e68d1f1d8d497a836fe1c09f5a9734d2e4cd9e0",
    ),
}
TITLES = {
    "ecoli": "Escherichia coli 536, RefSeq NC_008253.1",
    "lambda": "Enterobacteria phage lambda, RefSeq NC_001416.1",
}


def load(name):
    """The sequence `name`, a key of GENOMES: (L,) uint8, with A C G T as 0 1 2 3.

    Raises KeyError if GENOMES has no such name, and ValueError if the file is not the one
    recorded in GENOMES or contains any other letter.
    """
    if name not in GENOMES:
        raise KeyError(f"name is {name!r}; it must be one of {sorted(GENOMES)}")
    file, length, sha256 = GENOMES[name]
    packed = (DATA / file).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise ValueError(f"{DATA / file}: SHA-256 is {found}; it must be {sha256}")
    lines = gzip.decompress(packed).split(b"\n")
    text = np.frombuffer(b"".join(lines[1:]), np.uint8)  # line 0 is a title
    code = np.full(256, 255, np.uint8)
    code[np.frombuffer(BASES.encode(), np.uint8)] = np.arange(4)
    codes = code[text]
    if codes.size != length or codes.max() > 3:
        raise ValueError(
            f"{DATA / file}: {codes.size} letters, the largest code "
            f"{codes.max()}; "
            f"it must hold {length} letters out of {BASES}"
        )
    return codes


def one_hot(codes, dtype=np.float32):
    """(4, L) of `dtype`: row b is 1 where codes == b, else 0."""
    return (codes == np.arange(4, dtype=np.uint8)[:, None]).astype(dtype)
