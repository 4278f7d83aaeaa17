"""The pool of an engine's workers: slots whose tasks the engine runs, and states that stay on a cluster.

A slot is a place in the engine's queue: each worker has a few, each with one task in flight, so that the input stays
bounded. If the engine can keep states, a large one stays on its worker, to be merged with others there:

    RunChunk            a task leaves its state there as a leaf of the slot  ── facts ──▶  ChunkResult without states
    RunChunk and flush  a task merges the slot's leaves into its state       ── root ───▶  ChunkResult with states
    Flush               a task without items merges the slot's leaves        ── root ───▶  Flushed

So a tree has up to `LEAVES` leaves and one root, and afterwards no state of it is left on the cluster. The scheduler
decides when a slot flushes, as for any worker that holds state. A small state is sent at once, since leaving it there
would cost another task or message. A slot runs one task after another, so its events come in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from poolagg._input.batches import Encoded, InputBatch
from poolagg._scheduler.messages import ChunkResult, Flush, Flushed, PartialState, PoolEvent, RunChunk
from poolagg.pools.chunk_runner import Job
from poolagg.pools.external.backend import Backend, Leaf, Result, Task
from poolagg.pools.external.task import LARGE, Ended, Kept, Returned, open_state, unpack
from poolagg.pools.pool import Pool, PoolInstruction
from poolagg.pools.serialization.pickling import encode_by_value

__all__ = ["LEAVES", "ExternalPool"]

LEAVES = 16
"""Leaves of a tree. More leaves spare the parent merges, but each takes memory on the cluster until its slot flushes,
and all their chunks run again if one is lost for good."""


@dataclass(slots=True)
class _Slot:
    instructions: deque[tuple[RunChunk | Flush, InputBatch | None]] = field(default_factory=deque)
    """The first one is running."""
    leaves: list[Leaf] = field(default_factory=list)
    states: list[PartialState] = field(default_factory=list)
    """States that came with the facts of a chunk while the slot holds leaves; they are flushed with the leaves."""


class ExternalPool(Pool):
    """Runs chunks as tasks of the engine behind `backend`."""

    in_flight = 1

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend
        self.workers = backend.slots * backend.workers
        self.slots_per_worker = backend.slots
        self.one_failure_domain = backend.one_failure_domain
        self.keeps_state = self.can_kill = backend.keeps_states
        self.leaves = LEAVES if backend.keeps_states else 0
        self.chunk_seconds = max(backend.task_seconds, 2 * backend.workers / backend.task_rate)
        self._now: list[PoolEvent] = []
        self._slots: list[_Slot] = []

    def __repr__(self) -> str:
        return repr(self._backend)

    def encode(self, refuse: bool) -> Callable[[Any], Encoded] | None:
        """Return the function that pickles an item; None if the workers are threads."""
        if self._backend.by_reference:
            return None
        return partial(encode_by_value, refuse=True) if refuse else encode_by_value

    def _begin(self, job: Job, slots: int) -> None:
        self._name = os.urandom(8).hex()  # random, since drivers on other machines may have the same pid
        self._now = []
        self._slots = [_Slot() for _ in range(slots)]
        self._keeps_leaves = (
            self.keeps_state and job.strategy.stateful and job.strategy.merges_remotely and job.item_timeout is None
        )
        # The user's functions may keep their arguments, or write to them.
        self._copies = job.reducer.retains_input or not job.reducer.mergeable
        self._large = False
        self._backend.place(self._name, job)

    def _end(self, clean: bool) -> None:
        self._slots = []
        self._backend.cancel()

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)
        self._backend.close()

    # -- instructions to tasks -----------------------------------------------------------------------------------------

    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Submit a task once the slot's last one has ended. Workers are unknown, so none is replaced."""
        if isinstance(instruction, (RunChunk, Flush)):
            instructions = self._slots[instruction.slot].instructions
            instructions.append((instruction, input_batch))
            if len(instructions) == 1:
                self._start_next(instruction.slot)

    def _start_next(self, number: int) -> None:
        slot = self._slots[number]
        while slot.instructions:
            instruction, input_batch = slot.instructions[0]
            if isinstance(instruction, RunChunk) or slot.leaves:
                keep = (
                    self._keeps_leaves and self._large and isinstance(instruction, RunChunk) and not instruction.flush
                )
                self._backend.submit(Task(self._name, instruction, input_batch, () if keep else slot.leaves, keep))
                return
            slot.instructions.popleft()
            self._now.append(self._flushed(slot, number, ()))

    # -- results to events ---------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Wait for events of this run."""
        events, self._now = self._now, []
        if events:
            return events
        began = monotonic()
        try:
            results = self._backend.wait(timeout)
        finally:
            self.waited += monotonic() - began
        return list(map(self._take, results))

    def _take(self, result: Result) -> PoolEvent:
        """Return the event of a slot's task, and start the slot's next one; a loss empties the slot."""
        number = result.task.instruction.slot
        event = self._event(result, self._slots[number])
        if isinstance(event, (ChunkResult, Flushed)):
            self._slots[number].instructions.popleft()
            self._start_next(number)
        else:
            self._slots[number] = _Slot()
        return event

    def _event(self, result: Result, slot: _Slot) -> PoolEvent:
        task, value = result.task, result.value
        if isinstance(value, Kept):
            assert isinstance(task.instruction, RunChunk)
            self._large = value.nbytes >= LARGE
            slot.leaves.append(Leaf(result.state, value.covers))
            return unpack(task.instruction, value.facts, None)
        if isinstance(value, Returned):
            return self._returned(task, value, slot, result.seconds)
        if isinstance(value, Ended):
            return value.open(task.instruction.slot)
        return value

    def _returned(self, task: Task, result: Returned, slot: _Slot, seconds: float) -> PoolEvent:
        instruction, (facts, state) = task.instruction, result
        self._large = state.nbytes >= LARGE
        if state.out_of_band is not None:
            state.out_of_band.only_here()
        if task.leaves:
            slot.leaves = []
        if isinstance(instruction, Flush):
            states = open_state(state, self._copies)
            return self._flushed(slot, instruction.slot, states, facts.pack_seconds, seconds)
        finished = unpack(instruction, facts, state, self._copies)
        if seconds:
            finished = finished._replace(open_seconds=finished.open_seconds + seconds)
        if slot.leaves:
            slot.states.extend(finished.states or ())
            return finished._replace(states=None)
        if slot.states:
            states, slot.states = (*slot.states, *(finished.states or ())), []
            return finished._replace(states=states)
        return finished

    def _flushed(
        self, slot: _Slot, number: int, states: Sequence[PartialState], pack: float = 0.0, opening: float = 0.0
    ) -> Flushed:
        states, slot.states = (*slot.states, *states), []
        return Flushed(number, states, pack, opening)
