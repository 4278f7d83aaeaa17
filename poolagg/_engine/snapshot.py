"""A result that is still growing, as `snapshots` yields it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Value = TypeVarWithDefault("Value", covariant=True, default=Any)
else:
    Value = TypeVar("Value", covariant=True)

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[Value]):
    """The result of the `done` items that are merged so far; `final` marks the last one, which is the result."""

    value: Value
    done: int
    total: int | None
    elapsed: float
    final: bool
