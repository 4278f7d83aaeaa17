"""Snapshot: a result that is still growing, as `snapshots` yields it."""

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
    """The result so far.

    `value` is the result of the items merged so far. `done` counts these and the failed ones; `total` is how many
    items there are, None if unknown; `elapsed` is in seconds. `final` marks the last snapshot, whose value is the
    result of the run.
    """

    value: Value
    done: int
    total: int | None
    elapsed: float
    final: bool
