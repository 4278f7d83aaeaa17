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

import contextlib
import os
import signal
import socket
from time import monotonic
from typing import NamedTuple

from poolagg._chunks import Interval
from poolagg._orders import Broken, Cause, Finished, Lost, Run, Shipped
from poolagg._parcels import Parcel
from poolagg.errors import WorkerLost
from poolagg.pools import _channel
from poolagg.pools._arena import LEAST, Arena, Loan, Loans, Place, arena_fd
from poolagg.pools._cell import Batch, Cell
from poolagg.pools._channel import Channel, Message
from poolagg.pools._launch import Launcher
from poolagg.pools._packing import as_reducer_error, pack_items, start_failed, unpack_failures, unpack_pieces
from poolagg.pools._worker import CLAIM

__all__ = ["Handle"]


class Killed(NamedTuple):
    """Why the parent killed a worker: what the worker had done, and in which batch (None: whatever it was running).

    `sent`: it was killed, or else it had left the batch just before. `blameless`: no item is to blame.
    """

    cause: Cause
    how: str
    batch: Batch | None
    sent: bool
    blameless: bool = False


class Handle:
    """One worker process, seen from the parent."""

    def __init__(self, lane: int, launcher: Launcher) -> None:
        self.lane = lane
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            here, there = socket.socketpair()
            ours.enter_context(here)
            theirs.enter_context(there)
            claims_reader, claims_writer = _pipe(ours, ours)
            death_reader, death_writer = _pipe(theirs, ours)
            self.cell = Cell()
            ours.callback(self.cell.close)
            os.set_blocking(claims_reader, False)
            os.set_blocking(claims_writer, False)
            to_parent, to_worker = _arena(ours), _arena(ours)
            fds = [there.fileno(), self.cell.fd, claims_reader, death_reader]
            fds += [fd for fd in (to_parent, to_worker) if fd >= 0]
            self.child = launcher.launch(fds, [here.fileno(), claims_writer, death_writer])
            self.loans = Loans(to_parent, self.cell.lent_to_parent)
            self._arena = Arena(to_worker, self.cell.lent_to_worker, LEAST) if to_worker >= 0 else None
            ours.pop_all()  # the worker has been started, and these stay open
        self.channel = Channel(here)
        self.cell.close_fd()
        self._claims_reader, self._claims_writer, self._death = claims_reader, claims_writer, death_writer
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

    def kill(self, cause: Cause, how: str, batch: Batch | None = None, blameless: bool = False) -> None:
        """Kill the worker; `how` says what it did. With `batch`: in that one, and in nothing it has begun since."""
        if self.killed is not None and self.killed.sent:
            return
        sent = batch is None or self.cell.condemn(batch)
        self.killed = Killed(cause, how, batch, sent, blameless)
        if sent:
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
        """The worker has ended: what it was running, and how it ended."""
        exitcode, killed = self.child.reap(), self.killed
        batch = self.cell.read()
        if killed is not None and killed.batch is not None:
            if batch is None and killed.sent:  # it was about to leave the batch, and only begun to say so
                batch = killed.batch
            if batch != killed.batch:  # it had left that before
                killed = None
        packing = batch is not None and batch.packing
        suspect = None if killed is not None and killed.blameless else self._suspect(batch)
        if killed is None:
            return Lost(self.lane, suspect, "died", _worker_lost(exitcode), packing=packing)
        how = f"it {killed.how}"
        error = TimeoutError(how) if killed.cause == "timeout" else _worker_lost(exitcode, killed.how)
        return Lost(self.lane, suspect, killed.cause, error, how, packing=packing)

    def _suspect(self, batch: Batch | None) -> Interval | None:
        """What the worker was at; all of the chunk that its state is packed with."""
        run = None if batch is None else self.runs.get(batch.chunk)
        if batch is None or run is None:
            return None
        return (run.start, batch.stop) if batch.packing else (batch.start, batch.stop)

    @property
    def idle(self) -> bool:
        """Whether the worker has nothing to do."""
        return not self.runs and self.ending is None

    def forget_in_child(self) -> None:
        """A forked child keeps none of the parent's ends: else the end of the parent would never be seen."""
        fds = (self.channel.sock.detach(), self._claims_reader, self._claims_writer, self._death, self.child.pidfd)
        for fd in (*fds, self.loans.fd, -1 if self._arena is None else self._arena.fd):
            with contextlib.suppress(OSError):
                os.close(fd)

    def close(self) -> None:
        """Give everything back; the process has ended."""
        self.channel.close()
        self.child.close()
        self.loans.close()
        if self._arena is not None:
            self._arena.close()
        self.cell.close()
        for fd in (self._claims_reader, self._claims_writer, self._death):
            os.close(fd)


# -- how a worker was lost --------------------------------------------------------------------------------------------


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    fds = os.pipe()
    reader.callback(os.close, fds[0])
    writer.callback(os.close, fds[1])
    return fds


def _arena(stack: contextlib.ExitStack) -> int:
    if (fd := arena_fd()) >= 0:
        stack.callback(os.close, fd)
    return fd


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
