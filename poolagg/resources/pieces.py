"""Cut a ledger into pieces of text, one for each row of a table: each database has another type for bytes.

Piece 0 is the checksum of the ledger. Only changed pieces are written: of a long ledger, the last two.
"""

from __future__ import annotations

import base64
from hashlib import blake2b

__all__ = ["PIECE", "are_whole", "checksum", "cut", "joined"]

PIECE = 6144
"""Bytes of the ledger in a row."""


def cut(ledger: bytes, before: bytes, pieces: list[str]) -> list[str]:
    """Cut a ledger, and reuse the pieces that it has in common with the ledger before it: they may be many."""
    same = 0
    while same + PIECE <= len(before) and ledger[same : same + PIECE] == before[same : same + PIECE]:
        same += PIECE
    new = [base64.b64encode(ledger[at : at + PIECE]).decode() for at in range(same, len(ledger), PIECE)]
    return [checksum(ledger), *pieces[1 : 1 + same // PIECE], *new]


def are_whole(pieces: list[str]) -> bool:
    """Return whether the checksum is that of the other pieces."""
    try:
        return not pieces or pieces[0] == checksum(joined(pieces))
    except ValueError:  # not base64
        return False


def joined(pieces: list[str]) -> bytes:
    """Join the pieces of a ledger."""
    return b"".join(map(base64.b64decode, pieces[1:]))


def checksum(ledger: bytes) -> str:
    """Return a ledger's checksum, which is piece 0."""
    return blake2b(ledger, digest_size=16).hexdigest()
