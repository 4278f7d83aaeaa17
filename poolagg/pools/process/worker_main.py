"""The worker process: one thread, one pipe, one loop.

The parent gives it nine ends: its pipe, its progress cell, the pipe of claims (below), the parent-death pipe, those of
its output (`output/`: reports, stdout, stderr), and the memory of two arenas, its own and its parent's
(`systems/ends.py`). It may be killed at any instruction, since no other process waits for a lock of its.

The parent can cancel a chunk that waits in the pipe behind a slow one. Each chunk comes with a claim, eight bytes in a
pipe that both sides may read. The worker reads the claim before it starts the chunk, the parent reads it to cancel the
chunk; the kernel gives it to one of them. Where a system has no claims, a worker has one chunk at a time.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import types
from functools import partial
from typing import TYPE_CHECKING, Any

from poolagg._input.batches import open_batch
from poolagg._input.worker_state import here
from poolagg._scheduler.worker_messages import ChunkResult, Failure, RunChunk
from poolagg.pools.chunk_runner import ChunkRunner, Job, OpenedBatch
from poolagg.pools.forked_child import leave
from poolagg.pools.process import channel
from poolagg.pools.process.arena import Arena, Borrowed, BorrowedSegments, Region
from poolagg.pools.process.channel import BrokenFrame, Message, Pipe
from poolagg.pools.process.descriptors import MISUSED
from poolagg.pools.process.launch.bootstrap import forget_exits, introduce, new_random_numbers, run_exits
from poolagg.pools.process.launch.frozen import STARTED_BY
from poolagg.pools.process.launch.parent_death import ignore_interrupts
from poolagg.pools.process.launch.program import Program
from poolagg.pools.process.launch.standard_streams import flush_streams
from poolagg.pools.process.malloc import give_back_freed, keep_freed
from poolagg.pools.process.memory import fresh_memory
from poolagg.pools.process.output.reporter import Reporter, refuse_breakpoint, take_streams
from poolagg.pools.process.output.settings import Settings
from poolagg.pools.process.progress_cell import NO_CHUNK, ProgressCell, RunCancelled
from poolagg.pools.process.systems.choice import native
from poolagg.pools.process.systems.ends import WorkerEnds
from poolagg.pools.serialization.outbox import Outbox
from poolagg.pools.serialization.pickling import define, main_namespace
from poolagg.pools.serialization.shared_value import open_job
from poolagg.pools.serialization.wire import (
    PackedItems,
    as_reducer_error,
    job_does_not_open,
    pack_failure,
    put_failures,
    put_result,
    unpack_items,
)

if TYPE_CHECKING:  # a worker starts without it
    from poolagg.pools.process.systems.system import System

__all__ = ["CLAIM", "main"]

CLAIM = struct.Struct("=q")

QUIET = 1.0
"""Seconds after a run until freed memory goes back to the system: the next run would ask for the same pages again."""

PIPE_MARK: int = getattr(signal, "SIGUSR1", 0)
"""The number that marks the pipe."""


def main(
    *handed: Any,
    forked: bool = False,
    inherited: tuple[Any, Any] | None = None,
    system: System | None = None,
) -> None:
    """Serve until the parent closes its end or sends EXIT.

    `handed`: this worker's ends, as `Ends` has them. `forked`: the parent itself forked this process; `inherited`: its
    initializer and initargs, which need not pickle.
    """
    system = system or native()
    ends = system.worker_ends(*handed)
    os.environ.pop(STARTED_BY, None)
    take_streams(*ends.streams)
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    system.die_with_parent(ends.parent)
    new_random_numbers()
    if forked:
        from poolagg.pools.serialization.own_objects import note_after_fork  # imported before the fork

        forget_exits()
        note_after_fork()
    else:
        sys.modules["__main__"] = types.ModuleType("__main__")
    cell = ProgressCell(ends.cell)
    with ends.sock:
        pipe = Pipe(ends.sock, cell, system.mark(ends.sock.fileno(), PIPE_MARK))
        if (check := system.check_of(ends, pipe, cell)) is not None:
            cell.guard(check)
        reporter = Reporter(ends.reports, system.mark)
        try:
            _Worker(pipe, cell, ends, reporter, inherited).serve()
        except (EOFError, ConnectionError):
            return  # the parent has closed the pipe
        except BrokenFrame:  # an item has read part of a message
            os._exit(MISUSED)
    if forked:  # else the interpreter ends
        run_exits()


class _Worker:
    def __init__(
        self, pipe: Pipe, cell: ProgressCell, ends: WorkerEnds, reporter: Reporter, inherited: tuple[Any, Any] | None
    ) -> None:
        self._pipe = pipe
        self._cell = cell
        self._pid = os.getpid()
        self._ends = ends
        self._reporter = reporter
        self._inherited = inherited
        self._arena: Arena | None = None
        self._borrowed_segments = BorrowedSegments(ends.items, cell.lent_to_worker)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._borrowed_segments.before_fork)
        self._claim = -1
        self._epoch = 0
        self._work: ChunkRunner | None = None
        self._assigned: set[str] = set()
        self._not_started: BaseException | None = None
        self._memory_limit: int | None = None
        self._may_keep = True
        self._keeps = self._may_give_back = False

    def serve(self) -> None:
        handlers = {
            channel.IDENTITY: self._introduce,
            channel.HEAR: self._hear,
            channel.START: self._start,
            channel.DEFINE: self._define,
            channel.JOB: self._begin,
            channel.RUN: self._run,
            channel.FLUSH: self._flush,
            channel.END: self._end,
        }
        while (message := self._next()).kind != channel.EXIT:
            try:
                handlers[message.kind](message)
            except RunCancelled:
                self._work = None
                self._cell.rest()
            except BaseException as error:  # from the reducer, the initializer or poolagg: tell the parent
                if os.getpid() != self._pid:
                    leave(error)
                self._work = None
                self._cell.rest()
                if message.kind == channel.START:
                    self._not_started = error
                else:
                    # Here the traceback still shows if a signal handler raised it.
                    starting = error is self._not_started
                    self._say_broken(message.epoch, error if starting else as_reducer_error(error))
            self._borrowed_segments.take_back()
            flush_streams()

    def _next(self) -> Message:
        """Wait for the next message; give freed memory back if none comes soon after the end of a run."""
        if self._may_give_back and self._pipe.is_quiet(QUIET):
            give_back_freed()
        self._may_give_back = False
        return self._pipe.receive()

    def _say_broken(self, epoch: int, error: BaseException) -> None:
        errors = [one for one in (error, error.__cause__) if one is not None]
        failures, blobs = put_failures([pack_failure(Failure(0, "raised", one)) for one in errors])
        self._pipe.send(channel.BROKEN, epoch, (failures, error is self._not_started), blobs)

    # -- messages from the parent --------------------------------------------------------------------------------------

    def _introduce(self, message: Message) -> None:
        introduce(message.values, self._ends.parent)

    def _hear(self, message: Message) -> None:
        self._reporter.hear(Settings(*message.values))

    def _start(self, message: Message) -> None:
        identity, program, slot, output, settings, workers, environ, cwd, least, self._memory_limit = message.values
        introduce(identity, self._ends.parent)
        self._reporter.begin(output, Settings(*settings))
        refuse_breakpoint()
        here.make_process_worker(slot, workers)
        self._may_keep = self._memory_limit is None
        _set_environ(environ)
        Program(*program).become(forked=self._inherited is not None)
        if self._ends.arena is not None:
            self._arena = Arena(self._ends.arena, self._cell.lent_to_parent, least)
        try:
            os.chdir(cwd)
        except OSError:
            pass  # the folder was removed: the parent could not enter it either
        initializer, initargs = self._inherited or pickle.loads(message.payload)
        if initializer is not None:
            before = dict(main_namespace())
            with self._reporter.initializing():
                initializer(*initargs)
            after = main_namespace()
            self._assigned = {name for name in after if name not in before or after[name] is not before[name]}

    def _define(self, message: Message) -> None:
        with self._reporter.opening():
            define(*pickle.loads(message.payload))

    def _begin(self, message: Message) -> None:
        self._epoch = message.epoch
        if self._not_started is not None:
            raise self._not_started
        namespace = main_namespace()
        kept = {name: namespace[name] for name in self._assigned if name in namespace}
        try:
            with self._reporter.opening():
                job: Job = open_job(message.payload)
        except Exception as error:
            raise job_does_not_open(error) from error
        namespace.update(kept)  # a name that the initializer assigned wins over the parent's
        self._cell.begin(message.epoch)
        if self._memory_limit is not None:
            self._cell.weigh(fresh_memory(self._memory_limit), self._memory_limit)
            self._memory_limit = None  # fresh only once; from now on the parent checks
        least, watched = None if self._arena is None else self._arena.least, job.item_timeout is not None
        outbox = Outbox(job.reducer, job.strategy, least, self._cell.packing, often=watched)
        self._work = ChunkRunner(job, self._cell, outbox=outbox)

    def _run(self, message: Message) -> None:
        fields, claim, places = message.values
        run, items = RunChunk(*fields), PackedItems(*places)
        claimed = self._claims(claim)
        if not claimed or self._work is None:
            if items.region is not None:
                self._borrowed_segments.give_back(items.region[0])
            if not claimed:
                self._pipe.send(channel.MISSED, message.epoch, (run.chunk,))
            return
        finished = self._work.carry_out(run, partial(self._open_items, run, items, message.payload))
        if self._work.heavy and self._may_keep and not self._keeps:
            keep_freed()
            self._keeps = True
        self._send(channel.FINISHED, finished)

    def _open_items(self, run: RunChunk, items: PackedItems, payload: memoryview) -> OpenedBatch:
        return open_batch(*unpack_items(items, payload, self._open), run.stop - run.start)

    def _open(self, region: Region) -> Borrowed:
        """Open what the parent lent; end this process if an item has put another file in the arena's place."""
        if not self._borrowed_segments.is_intact():
            os._exit(MISUSED)
        return self._borrowed_segments.open(region)

    def _flush(self, message: Message) -> None:
        if self._work is not None:
            self._send(channel.FLUSHED, self._work.flushed(ChunkResult(0, NO_CHUNK, 0, 0.0)))

    def _send(self, kind: int, finished: ChunkResult) -> None:
        result = put_result(finished, self._arena)
        flush_streams()  # so that the parent finds all output of a chunk when it has the answer
        self._pipe.send(kind, self._epoch, *result)

    def _end(self, message: Message) -> None:
        self._work = None
        if self._arena is not None:
            self._arena.shrink()
        self._pipe.send(channel.ENDED, message.epoch)
        self._may_give_back = self._keeps

    def _claims(self, claim: int) -> bool:
        """Claim the chunk; False if the parent has cancelled it, or an item has read the claim."""
        if self._ends.claims < 0:
            return True
        if self._claim < claim:
            try:
                self._claim = CLAIM.unpack(os.read(self._ends.claims, CLAIM.size))[0]
            except BlockingIOError:
                return False
            except (OSError, struct.error):  # an item has closed the pipe, or read a part of a claim
                os._exit(MISUSED)
        return self._claim == claim


def _set_environ(environ: dict[str, str]) -> None:
    """Set only what differs: each change calls the C library, and a forked worker has most of it."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
