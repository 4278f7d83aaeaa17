"""The pool of other people's workers: slots whose tasks an engine runs, and the states that stay on a cluster.

A slot is a place in the engine's queue: each worker has a few, each with one task in flight, so that the input stays
bounded. Where the engine can keep states, a large one stays where it was made, and meets others there:

    Run            a task leaves its state there: a leaf of the slot      ── facts ──▶  ChunkResult, without pieces
    Run, and flush  a task merges the slot's leaves into what it gathers   ── root ───▶  ChunkResult, with pieces
    Ship           a task of no items merges the slot's leaves            ── root ───▶  Flushed

So trees are as flat as can be: up to `LEAVES` leaves and one root, after which nothing of them is left on the cluster.
The scheduler decides when a slot flushes, as for any worker that holds state. A small state travels at once, for to
leave it there would cost a task, or a message, more. A slot does one thing after another, so its answers come in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
"""Leaves of a tree: so many states that the parent need not merge. If one is lost for good, so many chunks run again.
Each is memory on the cluster until its slot flushes."""


@dataclass(slots=True)
class _Slot:
    instructions: deque[tuple[RunChunk | Flush, InputBatch | None]] = field(default_factory=deque)
    """The first is under way."""
    leaves: list[Leaf] = field(default_factory=list)
    states: list[PartialState] = field(default_factory=list)
    """States that came along with the facts of a chunk, though the slot holds leaves: they flush with them."""


class ExternalPool(Pool):
    """Runs chunks as tasks of the engine behind `backend`."""

    in_flight = 1

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.workers = backend.slots * backend.workers
        self.slots_per_worker = backend.slots
        self.one_failure_domain = backend.one_failure_domain
        self.keeps_state = self.can_kill = backend.keeps_states
        self.leaves = LEAVES if backend.keeps_states else 0
        self.chunk_seconds = max(backend.task_seconds, 2 * backend.workers / backend.task_rate)
        self._now: list[PoolEvent] = []
        self._slots: list[_Slot] = []
        self._entered = True  # close() is the engine owner's to call

    def __repr__(self) -> str:
        return repr(self._backend)

    def encode(self) -> Callable[[Any], Encoded] | None:
        """Return what pickles an item, unless the workers are threads."""
        return None if self._backend.by_reference else encode_by_value

    def _begin(self, job: Job, slots: int) -> None:
        self._name = os.urandom(8).hex()  # drivers on other machines use the same workers, and have the same pids
        self._now = []
        self._slots = [_Slot() for _ in range(slots)]
        self._keeps_leaves = (
            self.keeps_state and job.strategy.stateful and job.strategy.merges_remotely and job.item_timeout is None
        )
        # The user's functions may write to what they are given.
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
        """Submit a task as soon as the slot's last one is answered. No worker is known, so none is replaced."""
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

    # -- results to answers --------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Wait for answers of this run."""
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
        """Answer for a slot, and start what it is to do next; after a loss it holds nothing."""
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
        if state.beside is not None:
            state.beside.only_here()
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
