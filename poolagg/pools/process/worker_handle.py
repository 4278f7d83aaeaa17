"""The parent's side of one worker: its process, its pipe, its progress cell, its claims.

                  messages (socket pair)
parent  ◀─────────────────────────────────────▶  worker      instructions one way, results the other
        ─────────── claims (pipe) ────────────▶              the side that reads a chunk's claim has the chunk
        ◀────────── cell (memory) ─────────────              which batch runs, since when
        ◀────────── arenas (memory) ──────────▶              large buffers, one arena for each direction
        ─────────── death (pipe) ─────────────▶              ends when the parent ends
        ◀────────── output (two pipes) ────────              its streams; its log records and warnings
        ◀────────── sentinel ──────────────────              readable when the worker has ended
"""

import os
import signal
import struct
from time import monotonic
from typing import Any, NamedTuple

from poolagg._input.batches import InputBatch
from poolagg._scheduler.messages import Broken, Cause, ChunkResult, Flushed, Lost, RunChunk
from poolagg._scheduler.ranges import Interval
from poolagg.errors import WorkerLost
from poolagg.pools.process import channel as channel_module
from poolagg.pools.process.arena import LEAST_BUFFER, Arena, BorrowedSegments
from poolagg.pools.process.channel import Channel, Message
from poolagg.pools.process.descriptors import MISUSED, Closable, close_all, descriptors, held
from poolagg.pools.process.launch.bootstrap import identity_of_worker
from poolagg.pools.process.launch.program import Program
from poolagg.pools.process.output.relay import Relay
from poolagg.pools.process.output.stack import ASK
from poolagg.pools.process.output.worker_output import WorkerOutput
from poolagg.pools.process.progress_cell import Batch, ProgressCell
from poolagg.pools.process.systems.system import Launcher, System
from poolagg.pools.process.worker_main import CLAIM
from poolagg.pools.serialization.wire import as_reducer_error, pack_items, start_failed, unpack_failures, unpack_result

__all__ = ["Handle"]

ASKED = 0.25
"""Seconds that a worker has to write its stack; one that is stopped, or has blocked signals, writes none."""

RESULTS = {channel_module.FINISHED, channel_module.FLUSHED}
"""Messages whose values are a result; the last value is the arena region of its large buffers."""


class Killed(NamedTuple):
    """Why the parent killed a worker: `how` says what it did, `batch` in which batch (None: in any).

    `sent`: the parent sent the signal; False if the worker left the batch just before. `blameless`: no item is to
    blame.
    """

    cause: Cause
    how: str
    batch: Batch | None
    sent: bool
    blameless: bool = False


class Handle:
    """One worker process, seen from the parent."""

    def __init__(self, slot: int, launcher: Launcher, system: System, relay: Relay) -> None:
        self.slot = slot
        self._ours: list[Closable] = []
        theirs: list[Closable] = []
        try:
            with descriptors:
                self.output = WorkerOutput(relay, self._ours, theirs, system.has_pipes)
                ends = system.ends(self._ours, theirs, self.output.theirs)
                self.cell = held(ProgressCell(ends.cell))
            self._ours.append(self.cell)
            self._claims = ends.claims
            self.channel = Channel(ends.sock, self.cell, system.gathers)
            self.borrowed_segments = BorrowedSegments(ends.to_parent, self.cell.lent_to_parent)
            arena = ends.to_worker
            self._arena = None if arena is None else Arena(arena, self.cell.lent_to_worker, LEAST_BUFFER)
            self.child = launcher.launch(ends.handed)
        except BaseException:
            close_all(self._ours)
            raise
        finally:
            close_all(theirs)
        self._claim = self._epoch = 0
        self.runs: dict[int, RunChunk] = {}
        """Chunks in flight, oldest first."""
        self._claimed: dict[int, int] = {}
        self.items, self.retiring, self._cut_short = 0, False, False
        self._identity = identity_of_worker()
        self.ending: int | None = None
        """The epoch whose end the worker has not yet acknowledged."""
        self.ended_at = 0.0
        self.killed: Killed | None = None
        self._misused = False
        """True if an item has used the pipe. The oldest chunk is to blame, even if the cell names a later one."""
        self.unclaimed: int | None = None
        """The chunk that the worker did not run, since an item of a chunk before has read its claim."""

    # -- instructions --------------------------------------------------------------------------------------------------

    def start(self, settings: tuple[Any, ...], payload: bytes) -> None:
        """Tell the worker its identity for `multiprocessing`, its program, its settings and its initializer."""
        output = self.output.mode, self.output.changed_settings()
        values = self._identity, tuple(Program.here()), self.slot, *output, *settings
        self.channel.send(channel_module.START, 0, values, [payload])

    def introduce(self) -> None:
        """Tell the worker what has changed: log levels, warning filters; its identity, since this process may have
        imported `multiprocessing`."""
        if (settings := self.output.changed_settings()) is not None:
            self.channel.send(channel_module.HEAR, 0, settings)
        identity = identity_of_worker(self._identity)
        if identity != self._identity:
            self._identity = identity
            self.channel.send(channel_module.IDENTITY, 0, identity)

    def run(self, epoch: int, run: RunChunk, input_batch: InputBatch) -> None:
        """Send a chunk, and the claim to it."""
        self._claim += 1
        self._epoch = epoch
        self.runs[run.chunk] = run
        self._claimed[self._claim] = run.chunk
        if self._claims is not None:
            os.write(self._claims[1], CLAIM.pack(self._claim))
        fields = (run.slot, run.chunk, run.start, run.stop, run.flush, run.alone, run.budget, run.without)
        items, payloads = pack_items(input_batch, run.start, run.stop, self._arena)
        self.channel.send(channel_module.RUN, epoch, (fields, self._claim, tuple(items)), payloads)

    def cancel(self, chunk: int) -> bool:
        """Cancel the chunk that waits behind another, if the worker has not claimed it.

        The pipe returns claims first in, first out. So the parent takes one only if the cell says that the worker has
        claimed the first chunk.
        """
        batch = self.cell.read()
        first = next(iter(self.runs), None)
        if batch is None or batch.chunk != first or first == chunk or chunk not in self.runs:
            return False
        return self._take_claim() == chunk

    def share(self, chunk: int) -> int | None:
        """Have the running chunk end early; return the first item that the worker will not run, None if unknown."""
        return self.cell.sharing.ask(chunk, self.cell.read) if chunk in self.runs else None

    def _take_claim(self) -> int | None:
        if self._claims is None:
            return None
        try:
            (claim,) = CLAIM.unpack(os.read(self._claims[0], CLAIM.size))
            chunk = self._claimed.pop(claim)
        except BlockingIOError:
            return None
        except (struct.error, KeyError):
            self.kill_misused("read from the descriptors of its worker")
            return None
        del self.runs[chunk]
        return chunk

    def kill(self, cause: Cause, how: str, batch: Batch | None = None, blameless: bool = False) -> None:
        """Kill the worker; `how` says what it did. With `batch`, kill it only while it is in that batch."""
        if self.killed is not None and self.killed.sent:
            return
        sent = batch is None or self.cell.condemn(batch)
        self.killed = Killed(cause, how, batch, sent, blameless)
        if sent and cause == "timeout" and self.output.fds:
            self.output.expect_stack()
            self.child.send(ASK)
            self.child.ends_within(ASKED)
        if sent:
            self.child.kill()

    def kill_misused(self, how: str) -> None:
        """Kill a worker whose pipe an item has written to or read from."""
        self._misused = True
        self.kill("died", f"{how}, which was then killed")

    def end(self, epoch: int) -> None:
        """Tell the worker that the run is over; it leaves its chunk at the next batch."""
        self.cell.over(epoch)
        self.cell.sharing.reset()
        self.borrowed_segments.take_back()
        if self._arena is not None:
            self._arena.shrink()
        while self._take_claim() is not None:
            pass
        self._cut_short = bool(self.runs)
        self.items += sum(run.items() for run in self.runs.values())  # an upper bound: it leaves chunks half way
        self.runs.clear()
        self._claimed.clear()
        self.ending, self.ended_at = epoch, monotonic()
        self.channel.send(channel_module.END, epoch)

    # -- events --------------------------------------------------------------------------------------------------------

    def event(self, message: Message, retains_input: bool) -> ChunkResult | Flushed | Broken:
        """Unpack a message of this run. `retains_input`: the reducer's accumulator keeps what it is given."""
        if message.kind in RESULTS:
            finished = unpack_result(self.slot, message.values, message.payload, self.borrowed_segments, retains_input)
            if message.kind == channel_module.FLUSHED:
                return Flushed(self.slot, finished.states or (), finished.pack_seconds, finished.open_seconds)
            run = self.runs.pop(finished.chunk)
            self._claimed = {claim: waiting for claim, waiting in self._claimed.items() if waiting != run.chunk}
            self.items += run.items(finished.stop)
            return finished
        failures, starting = message.values
        _, (failure, *cause) = unpack_failures(failures, message.payload)
        if cause:
            failure.error.__cause__ = cause[0].error
        return Broken(self.slot, start_failed(failure.error) if starting else as_reducer_error(failure.error))

    def missed(self, chunk: int) -> None:
        """Handle that the worker did not find a chunk's claim: unless the parent cancelled it, an item has read it."""
        if chunk in self.runs:
            self.unclaimed = chunk
            self.kill_misused("read from the descriptors of its worker")

    def ignore(self, message: Message) -> None:
        """Drop a message of an earlier run or after a missed chunk, and give back the segment that it lends."""
        if message.kind in RESULTS and (region := message.values[-1]) is not None:
            self.borrowed_segments.give_back(region[0])

    def lost(self) -> Lost:
        """Return the event for a worker that has ended: what it was running, and how it ended."""
        exitcode, killed = self.child.reap(), self.killed
        stack = self.output.finish(crashed=exitcode is None or exitcode < 0)
        batch = self.cell.read()
        if killed is not None and killed.batch is not None:
            if batch is None and killed.sent:  # it was killed while it wrote to the cell, before it left the batch
                batch = killed.batch
            if batch != killed.batch:  # it had left that batch before
                killed = None
        packing = batch is not None and batch.packing
        blameless = killed is not None and killed.blameless
        suspect = None if blameless else self._suspect(batch)
        silent = suspect is None and not (blameless or packing) and self.cell.last()[0] == self._epoch
        if silent:
            suspect = self._begun()
        if killed is None:
            return Lost(self.slot, suspect, "died", _worker_lost(exitcode, stack), silent=silent, packing=packing)
        how = f"it {killed.how}"
        timeout = killed.cause == "timeout"
        error = _timeout(how, stack) if timeout else _worker_lost(exitcode, stack, killed.how)
        return Lost(self.slot, suspect, killed.cause, error, how, silent=silent, packing=packing)

    def _begun(self) -> Interval | None:
        """Return the oldest chunk, if the worker has begun it: it was mapped, and then folded or packed."""
        oldest = next(iter(self.runs.values()), None)
        return (oldest.start, oldest.stop) if oldest is not None and self.cell.last()[1] == oldest.chunk else None

    def _suspect(self, batch: Batch | None) -> Interval | None:
        """Return the items to suspect: the batch, or the whole chunk while packing or after a misuse of the pipe."""
        if self._misused:
            return self._misuser(batch)
        run = None if batch is None else self.runs.get(batch.chunk)
        if batch is None or run is None:
            return None
        return (run.start, batch.stop) if batch.packing else (batch.start, batch.stop)

    def _misuser(self, batch: Batch | None) -> Interval | None:
        """Return the items of the oldest chunk that may have run."""
        oldest, last = next(iter(self.runs.values()), None), self.cell.last()[1]
        if oldest is None or last < oldest.chunk or oldest.chunk == self.unclaimed:
            return None
        return oldest.start, batch.stop if batch is not None and batch.chunk == oldest.chunk else oldest.stop

    @property
    def idle(self) -> bool:
        """True if the worker has no work left but to read its last messages."""
        return not self.runs and (self.ending is None or not self._cut_short)

    def close(self) -> None:
        """Free everything; the process has ended."""
        self.borrowed_segments.close()
        if self._arena is not None:
            self._arena.close()
        close_all([*self._ours, self.child])


# -- how a worker was lost ---------------------------------------------------------------------------------------------


def _worker_lost(exitcode: int | None, stack: str | None, how: str = "") -> WorkerLost:
    """Make the error of a lost worker; `how` says what the worker did, if the parent killed it."""
    name = _name_of(-exitcode) if exitcode is not None and exitcode < 0 else None
    text = f"the worker {how or _ended(exitcode, name)}"
    return WorkerLost(text, exitcode=exitcode, signal=name, index=None, item=None, stack=stack)


def _timeout(how: str, stack: str | None) -> TimeoutError:
    error = TimeoutError(how)
    error.stack = stack  # type: ignore[attr-defined]
    return error


def _name_of(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal
        return f"signal {signum}"


def _ended(exitcode: int | None, name: str | None) -> str:
    if name == "SIGKILL":
        return "was killed by SIGKILL: by hand, or by the kernel when memory ran out"
    if name is not None:
        return f"was killed by {name}"
    if exitcode is None:
        return "ended; its exit code is unknown"
    if exitcode == MISUSED:
        return f"ended with exit code {exitcode}: an item has closed, replaced or used the descriptors of its worker"
    return f"ended with exit code {exitcode}, in the middle of its work"
