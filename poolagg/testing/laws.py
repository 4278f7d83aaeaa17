"""The error for a broken law, and the search for the smallest example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["LawBroken", "fewest"]


class LawBroken(AssertionError):
    """A reducer or a resource breaks a law: `law` is its name, `samples` the smallest example found."""

    __module__ = "poolagg.testing"

    def __init__(self, message: str, law: str = "", samples: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.law = law
        self.samples = list(samples)


def fewest(samples: list[Any], broken: Callable[[list[Any]], bool]) -> list[Any]:
    """Remove ever smaller runs of samples as long as the law stays broken (delta debugging: Zeller 1999).

    >>> fewest([3, 1, 4, 1, 5, 9], lambda some: 4 in some and 9 in some)
    [4, 9]
    """
    size = len(samples) // 2
    while size:
        for start in range(0, len(samples), size):
            fewer = samples[:start] + samples[start + size :]
            if fewer and broken(fewer):
                samples = fewer
                break
        else:
            size //= 2
    return samples
