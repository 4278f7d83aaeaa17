"""The parent's side of one worker: its process, its pipe, its cell, its claims.

                  messages (socket pair)
parent  ◀─────────────────────────────────────▶  worker      orders one way, answers the other
        ─────────── claims (pipe) ────────────▶              who reads a chunk's claim has the chunk
        ◀────────── cell (memory) ─────────────              which batch runs, since when
        ◀────────── arenas (memory) ──────────▶              large buffers, one arena for each direction
        ─────────── death (pipe) ─────────────▶              ends when the parent ends
        ◀────────── pidfd ─────────────────────              readable when the worker has ended
"""

from __future__ import annotations

import os
import signal
import socket
from time import monotonic
from typing import NamedTuple

from poolagg._orders import Broken, Cause, Finished, Lost, Run, Shipped
from poolagg._parcels import Parcel
from poolagg.errors import WorkerLost
from poolagg.pools import _channel
from poolagg.pools._arena import LEAST, Arena, Loan, Loans, Place, arena_fd
from poolagg.pools._cell import Batch, Cell
from poolagg.pools._channel import Channel, Message
from poolagg.pools._descriptors import Closable, Descriptor, close_all, descriptors, held, pipe
from poolagg.pools._launch import Launcher
from poolagg.pools._packing import as_reducer_error, pack_items, start_failed, unpack_failures, unpack_pieces
from poolagg.pools._worker import CLAIM

__all__ = ["Handle"]


class Killed(NamedTuple):
    """Why the parent killed a worker: what the worker had done, and in which batch (None: whatever it was running)."""

    cause: Cause
    how: str
    batch: Batch | None


class Handle:
    """One worker process, seen from the parent."""

    def __init__(self, lane: int, launcher: Launcher) -> None:
        self.lane = lane
        self._ours: list[Closable] = []
        theirs: list[Closable] = []
        try:
            with descriptors:
                here, there = socket.socketpair()
                self._ours.append(held(here))
                theirs.append(held(there))
                death_reader, death_writer = pipe()
                theirs.append(death_reader)
                claims_reader, claims_writer = pipe()
                self._ours += [death_writer, claims_reader, claims_writer]
                self.cell = held(Cell())
                self._ours.append(self.cell)
                to_parent, to_worker = self._arena_fd(), self._arena_fd()
            self._claims_reader, self._claims_writer = claims_reader.fd, claims_writer.fd
            os.set_blocking(self._claims_reader, False)
            os.set_blocking(self._claims_writer, False)
            self.channel = Channel(here)
            self.loans = Loans(to_parent, self.cell.lent_to_parent)
            self._arena = Arena(to_worker, self.cell.lent_to_worker, LEAST) if to_worker >= 0 else None
            fds = [there.fileno(), self.cell.fd, self._claims_reader, death_reader.fd]
            self.child = launcher.launch([*fds, *(fd for fd in (to_parent, to_worker) if fd >= 0)])
            self.cell.close_fd()
        except BaseException:
            close_all(self._ours)
            raise
        finally:
            close_all(theirs)
        self._claim = 0
        self.runs: dict[int, Run] = {}
        """Chunks in flight, the oldest first."""
        self._claimed: dict[int, int] = {}
        self.items = 0
        self.worn = False
        self.ending: int | None = None
        """The epoch whose end the worker has not acknowledged yet."""
        self.ended_at = 0.0
        self.killed: Killed | None = None

    def _arena_fd(self) -> int:
        if (fd := arena_fd()) >= 0:
            self._ours.append(Descriptor(fd))
        return fd

    # -- orders ------------------------------------------------------------------------------------------------

    def run(self, epoch: int, run: Run, parcel: Parcel) -> None:
        """Send a chunk, and the claim to it."""
        self._claim += 1
        self.runs[run.chunk] = run
        self._claimed[self._claim] = run.chunk
        os.write(self._claims_writer, CLAIM.pack(self._claim))
        fields = (run.lane, run.chunk, run.start, run.stop, run.ship, run.alone, run.budget, run.without)
        items, payloads = pack_items(parcel, run.start, run.stop, self._arena)
        self.channel.send(_channel.RUN, epoch, (fields, self._claim, tuple(items)), payloads)

    def revoke(self, chunk: int) -> bool:
        """Take back the chunk that waits behind another, if the worker has not claimed it.

        Claims come out in the order they went in. So the first chunk must be known to be claimed, by its worker's own
        account, before the second can be taken.
        """
        batch = self.cell.read()
        first = next(iter(self.runs), None)
        if batch is None or batch.chunk != first or first == chunk or chunk not in self.runs:
            return False
        return self._take_claim() == chunk

    def _take_claim(self) -> int | None:
        try:
            (claim,) = CLAIM.unpack(os.read(self._claims_reader, CLAIM.size))
        except BlockingIOError:
            return None
        chunk = self._claimed.pop(claim)
        del self.runs[chunk]
        return chunk

    def kill(self, cause: Cause, how: str, batch: Batch | None = None) -> None:
        """Kill the worker; `how` says what it did. With `batch`: for that one, and for nothing it has begun since."""
        if self.killed is None:
            self.killed = Killed(cause, how, batch)
        self.child.kill()

    def end(self, epoch: int) -> None:
        """Tell the worker that the run is over; it leaves its chunk at the next batch."""
        self.cell.over(epoch)
        self.loans.take_back()
        if self._arena is not None:
            self._arena.shrink()
        while self._take_claim() is not None:
            pass
        self.runs.clear()
        self._claimed.clear()
        self.ending, self.ended_at = epoch, monotonic()
        self.channel.send(_channel.END, epoch)

    # -- answers -----------------------------------------------------------------------------------------------

    def answer(self, message: Message, keeps: bool) -> Finished | Shipped | Broken:
        """Unpack a message of this run. `keeps`: what the reducer is given lives on in its accumulator."""
        if message.kind == _channel.FINISHED:
            chunk, stop, times, failures, pieces, place, packing = message.values
            run = self.runs.pop(chunk)
            self._claimed = {claim: waiting for claim, waiting in self._claimed.items() if waiting != chunk}
            self.items += stop - run.start
            began = monotonic()
            rest, unpacked = unpack_failures(failures, message.payload)
            opened = None if pieces is None else unpack_pieces(pieces, rest, self._loan(place), keeps)
            opening = monotonic() - began
            seconds, reducing, *more = times
            return Finished(self.lane, chunk, stop, seconds, unpacked, opened, reducing, packing, opening, *more)
        if message.kind == _channel.SHIPPED:
            pieces, place, packing = message.values
            began = monotonic()
            opened = unpack_pieces(pieces, message.payload, self._loan(place), keeps)
            return Shipped(self.lane, opened, packing, monotonic() - began)
        failures, starting = message.values
        _, (failure, *cause) = unpack_failures(failures, message.payload)
        if cause:
            failure.error.__cause__ = cause[0].error
        return Broken(self.lane, start_failed(failure.error) if starting else as_reducer_error(failure.error))

    def ignore(self, message: Message) -> None:
        """A message of a run that is over: nobody will look at what it lends."""
        if message.kind in (_channel.FINISHED, _channel.SHIPPED) and (place := message.values[-2]) is not None:
            self.loans.give_back(place[0])

    def _loan(self, place: tuple[int, int, int] | None) -> Loan | None:
        return None if place is None else self.loans.open(Place(*place))

    def lost(self) -> Lost:
        """The worker has ended: what it was running, and how it ended.

        If it was killed for a batch that it had just finished, what it was running since is innocent.
        """
        batch = self.cell.read()
        exitcode = self.child.reap()
        suspect = (batch.start, batch.stop) if batch is not None and batch.chunk in self.runs else None
        if self.killed is None:
            return Lost(self.lane, suspect, "died", _worker_lost(exitcode))
        cause, how, meant = self.killed
        if meant is not None and meant != batch:
            cause, suspect = "died", None
        error = TimeoutError(f"it {how}") if cause == "timeout" else _worker_lost(exitcode, how)
        return Lost(self.lane, suspect, cause, error, f"it {how}")

    @property
    def idle(self) -> bool:
        """Whether the worker has nothing to do."""
        return not self.runs and self.ending is None

    def close(self) -> None:
        """Give everything back; the process has ended."""
        self.loans.close()
        if self._arena is not None:
            self._arena.close()
        close_all([*self._ours, self.child])


# -- how a worker was lost --------------------------------------------------------------------------------------------


def _worker_lost(exitcode: int | None, how: str = "") -> WorkerLost:
    """`how`: what the worker did, if the parent knows it, for it has killed it."""
    name = signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else None
    text = f"the worker {how or _ended(exitcode, name)}"
    return WorkerLost(text, exitcode=exitcode, signal=name, index=None, item=None)


def _ended(exitcode: int | None, name: str | None) -> str:
    if name == "SIGKILL":
        return "was killed by SIGKILL: by hand, or by the kernel when memory ran out"
    if name is not None:
        return f"was killed by {name}"
    if exitcode is None:
        return "is gone; nobody knows how"
    return f"ended with exit code {exitcode}, in the middle of its work"
