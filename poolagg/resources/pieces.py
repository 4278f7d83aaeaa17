"""A ledger as pieces of text, one for each row of a table: text, since every database calls bytes by another name.

Number 0 is the checksum of the others, put together. Only pieces that have changed are written, and of a long ledger
these are the last two.
"""

from __future__ import annotations

import base64
from hashlib import blake2b

__all__ = ["PIECE", "are_whole", "checksum", "cut", "joined"]

PIECE = 6144
"""Bytes of the ledger in a row."""


def cut(ledger: bytes, before: bytes, pieces: list[str]) -> list[str]:
    """Cut a ledger. The pieces of the one before that begin this one, too, are not made anew: they may be many."""
    same = 0
    while same + PIECE <= len(before) and ledger[same : same + PIECE] == before[same : same + PIECE]:
        same += PIECE
    new = [base64.b64encode(ledger[at : at + PIECE]).decode() for at in range(same, len(ledger), PIECE)]
    return [checksum(ledger), *pieces[1 : 1 + same // PIECE], *new]


def are_whole(pieces: list[str]) -> bool:
    """Tell whether the checksum is that of the other pieces."""
    try:
        return not pieces or pieces[0] == checksum(joined(pieces))
    except ValueError:  # not what base64 makes
        return False


def joined(pieces: list[str]) -> bytes:
    """Put a ledger together."""
    return b"".join(map(base64.b64decode, pieces[1:]))


def checksum(ledger: bytes) -> str:
    """Return what stands before the pieces."""
    return blake2b(ledger, digest_size=16).hexdigest()
