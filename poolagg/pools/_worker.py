"""The worker process: one thread, one pipe, one loop.

It is given six descriptors: its pipe, its progress cell, the pipe of claims (below), the parent-death pipe, and the
memory of two arenas, its own and its parent's. It may be killed at any instruction: it holds no lock that anyone else
waits for.

A chunk that waits in the pipe behind a slow one can be taken back. Each chunk comes with a claim, eight bytes in a pipe
that both sides may read: whoever reads the claim has the chunk. The worker reads it before it starts the chunk, the
parent to take the chunk back; the kernel gives it to one of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import types
from functools import partial
from typing import Any

from poolagg._parcels import open_parcel
from poolagg._worker_messages import Failure, Finished, Run
from poolagg.pools import _channel
from poolagg.pools._arena import Arena, Loan, Loans, Place
from poolagg.pools._cell import NO_CHUNK, Cell, Over
from poolagg.pools._channel import BrokenFrame, Message, Pipe, identity
from poolagg.pools._citizen import forget_exits, introduce, new_random_numbers, run_exits
from poolagg.pools._death import die_with_parent, ignore_interrupts
from poolagg.pools._forked import leave
from poolagg.pools._frozen import STARTED_BY
from poolagg.pools._malloc import give_back_freed, keep_freed
from poolagg.pools._memory import fresh_memory
from poolagg.pools._outbox import Outbox
from poolagg.pools._packing import (
    PackedItems,
    as_reducer_error,
    job_does_not_open,
    pack_failure,
    put_failures,
    put_result,
    unpack_items,
)
from poolagg.pools._share import open_job
from poolagg.pools._standard_streams import flush_streams
from poolagg.pools._tampering import Descriptors, put_aside
from poolagg.pools._travel import define, main_namespace
from poolagg.pools._work import Job, OpenedParcel, Work

__all__ = ["CLAIM", "main"]

CLAIM = struct.Struct("=q")


def main(
    pipe_fd: int,
    cell_fd: int,
    claims_fd: int,
    death_fd: int,
    *arena_fds: int,
    forked: bool = False,
    inherited: tuple[Any, Any] | None = None,
) -> None:
    """Serve until the parent closes its end or says EXIT.

    `forked`: by the parent itself; `inherited`: its initializer and initargs, which need not travel.
    """
    os.environ.pop(STARTED_BY, None)
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(death_fd)
    new_random_numbers()
    if forked:
        forget_exits()
    else:
        sys.modules["__main__"] = types.ModuleType("__main__")
    cell = Cell(cell_fd)
    put_aside(cell_fd)  # the mapping has a copy of it, which an item may write to
    os.close(cell_fd)
    with socket.socket(fileno=pipe_fd) as sock:
        pipe = Pipe(sock, cell)
        cell.guard(Descriptors(sock, pipe, cell, [claims_fd, death_fd], arena_fds).check)
        try:
            _Worker(pipe, cell, claims_fd, death_fd, inherited, *arena_fds).serve()
        except (EOFError, ConnectionError):
            return  # the parent has let go of us
        except BrokenFrame:  # an item has read a part of what was sent
            os._exit(os.EX_IOERR)
    if forked:  # else the interpreter ends
        run_exits()


class _Worker:
    def __init__(
        self,
        pipe: Pipe,
        cell: Cell,
        claims_fd: int,
        death_fd: int,
        inherited: tuple[Any, Any] | None,
        arena_fd: int = -1,
        items_fd: int = -1,
    ) -> None:
        self._pipe = pipe
        self._cell = cell
        self._pid = os.getpid()
        self._claims_fd = claims_fd
        self._death_fd = death_fd
        self._inherited = inherited
        self._arena_fd = arena_fd
        self._arena: Arena | None = None
        self._loans = Loans(items_fd, cell.lent_to_worker)
        self._items_identity = identity(items_fd)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._loans.before_fork)
        self._claim = -1
        self._epoch = 0
        self._work: Work | None = None
        self._assigned: set[str] = set()
        self._not_started: BaseException | None = None
        self._memory_limit: int | None = None
        self._may_keep = True
        self._keeps = False

    def serve(self) -> None:
        handlers = {
            _channel.IDENTITY: self._introduce,
            _channel.START: self._start,
            _channel.DEFINE: self._define,
            _channel.JOB: self._begin,
            _channel.RUN: self._run,
            _channel.SHIP: self._ship,
            _channel.END: self._end,
        }
        while (message := self._pipe.receive()).kind != _channel.EXIT:
            try:
                handlers[message.kind](message)
            except Over:
                self._work = None
                self._cell.rest()
            except BaseException as error:  # the reducer's, the initializer's, or ours: the parent is to know
                if os.getpid() != self._pid:
                    leave(error)
                self._work = None
                self._cell.rest()
                if message.kind == _channel.START:
                    self._not_started = error
                else:
                    # Here its traceback shows whether it was a signal handler's.
                    starting = error is self._not_started
                    self._say_broken(message.epoch, error if starting else as_reducer_error(error))
            self._loans.take_back()
            flush_streams()

    def _say_broken(self, epoch: int, error: BaseException) -> None:
        errors = [one for one in (error, error.__cause__) if one is not None]
        failures, blobs = put_failures([pack_failure(Failure(0, "raised", one)) for one in errors])
        self._pipe.send(_channel.BROKEN, epoch, (failures, error is self._not_started), blobs)

    # -- what the parent asks for ------------------------------------------------------------------------------

    def _introduce(self, message: Message) -> None:
        introduce(message.values, self._death_fd)

    def _start(self, message: Message) -> None:
        identity, environ, cwd, path, least, self._memory_limit = message.values
        introduce(identity, self._death_fd)
        self._may_keep = self._memory_limit is None
        _set_environ(environ)
        sys.path[:] = path
        if self._arena_fd >= 0:
            self._arena = Arena(self._arena_fd, self._cell.lent_to_parent, least)
        try:
            os.chdir(cwd)
        except OSError:
            pass  # the folder is gone: the parent could not go there either
        initializer, initargs = self._inherited or pickle.loads(message.payload)
        if initializer is not None:
            before = dict(main_namespace())
            initializer(*initargs)
            after = main_namespace()
            self._assigned = {name for name in after if name not in before or after[name] is not before[name]}

    def _define(self, message: Message) -> None:
        define(*pickle.loads(message.payload))

    def _begin(self, message: Message) -> None:
        self._epoch = message.epoch
        if self._not_started is not None:
            raise self._not_started
        namespace = main_namespace()
        kept = {name: namespace[name] for name in self._assigned if name in namespace}
        try:
            job: Job = open_job(message.payload)
        except Exception as error:
            raise job_does_not_open(error) from error
        namespace.update(kept)  # what an initializer assigned wins over what the parent has under that name
        self._cell.begin(message.epoch)
        if self._memory_limit is not None:
            self._cell.weigh(fresh_memory(self._memory_limit), self._memory_limit)
            self._memory_limit = None  # it is not fresh any more, and looking at it is the parent's business
        least, watched = None if self._arena is None else self._arena.least, job.item_timeout is not None
        outbox = Outbox(job.reducer, job.strategy, least, self._cell.packing, often=watched)
        self._work = Work(job, self._cell, outbox=outbox)

    def _run(self, message: Message) -> None:
        fields, claim, places = message.values
        run, items = Run(*fields), PackedItems(*places)
        claimed = self._claims(claim)
        if not claimed or self._work is None:
            if items.place is not None:
                self._loans.give_back(items.place[0])
            if not claimed:
                self._pipe.send(_channel.MISSED, message.epoch, (run.chunk,))
            return
        finished = self._work.carry_out(run, partial(self._open_items, run, items, message.payload))
        if self._work.heavy and self._may_keep and not self._keeps:
            keep_freed()
            self._keeps = True
        self._send(_channel.FINISHED, finished)

    def _open_items(self, run: Run, items: PackedItems, payload: memoryview) -> OpenedParcel:
        return open_parcel(*unpack_items(items, payload, self._open), run.stop - run.start)

    def _open(self, place: Place) -> Loan:
        """What the parent lent; a task may have closed the arena, and opened something of its own in its place."""
        if identity(self._loans.fd) != self._items_identity:
            os._exit(os.EX_IOERR)
        return self._loans.open(place)

    def _ship(self, message: Message) -> None:
        if self._work is not None:
            self._send(_channel.SHIPPED, self._work.shipped(Finished(0, NO_CHUNK, 0, 0.0)))

    def _send(self, kind: int, finished: Finished) -> None:
        self._pipe.send(kind, self._epoch, *put_result(finished, self._arena))

    def _end(self, message: Message) -> None:
        self._work = None
        if self._arena is not None:
            self._arena.shrink()
        self._pipe.send(_channel.ENDED, message.epoch)
        if self._keeps:
            give_back_freed()  # while nobody waits for it

    def _claims(self, claim: int) -> bool:
        """Whether the chunk is ours. If not, the parent took it back, or an item has read the claim."""
        if self._claim < claim:
            try:
                self._claim = CLAIM.unpack(os.read(self._claims_fd, CLAIM.size))[0]
            except BlockingIOError:
                return False
            except (OSError, struct.error):  # an item has closed the pipe, or read a part of a claim
                os._exit(os.EX_IOERR)
        return self._claim == claim


def _set_environ(environ: dict[str, str]) -> None:
    """Only what differs: each change is a call of the C library, and a forked worker has most of it."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
