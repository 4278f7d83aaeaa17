"""The instructions that follow from an event, as the parts of the plan collect them."""

from __future__ import annotations

from poolagg._orders import Fail, Order

__all__ = ["Instructions"]


class Instructions:
    """What is to be handed out next; `stopped` says that the run has ended early, and nothing more is to be begun."""

    def __init__(self) -> None:
        self.stopped = False
        self._next: list[Order] = []

    def add(self, order: Order) -> None:
        """Hand this out after what was added before."""
        self._next.append(order)

    def fail(self, order: Fail) -> None:
        """End the run; the first reason is the one that is told."""
        if not self.stopped:
            self.stopped = True
            self._next.append(order)

    def take(self) -> list[Order]:
        """Return what was added since the last call."""
        taken, self._next = self._next, []
        return taken
