"""A pool of worker processes that cannot hang.

Each worker has a duplex pipe, and no two processes share a lock: killing a worker at any instruction blocks no other
process. The parent is one loop on the caller's thread and waits on all pipes and all deaths at once. See
`worker_handle.py` for the channels between parent and worker, `worker_main.py` for the worker, `launchers.py` for how
it starts.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from selectors import EVENT_WRITE
from time import monotonic
from typing import Any, Never

from poolagg._input.batches import Encoded, InputBatch
from poolagg._runtime.arguments import checked_count
from poolagg._runtime.interrupts import interrupts_held_back, when_collected
from poolagg._scheduler import messages
from poolagg.pools.chunk_runner import Job, pickle_job
from poolagg.pools.cpus import WorkerEnviron, default_workers
from poolagg.pools.pool import Lifecycle, Pool, PoolInstruction, checked_initializer, refuse_standard_names
from poolagg.pools.process import arena
from poolagg.pools.process import channel as channel_module
from poolagg.pools.process.launch.frozen import refuse_frozen, refuse_second_run
from poolagg.pools.process.launch.launchers import checked_start_method, folder
from poolagg.pools.process.memory import checked_limit, peak_memory
from poolagg.pools.process.output.relay import Relay, checked_output
from poolagg.pools.process.progress_cell import NO_CHUNK, Batch
from poolagg.pools.process.recycling import Recycling
from poolagg.pools.process.worker_handle import Handle
from poolagg.pools.process.workers import GOODBYE, Workers
from poolagg.pools.serialization.pickling import (
    Encoder,
    inherited_namespace,
    pickle_start,
    plainly,
    refuse_inherited_only,
)

__all__ = ["ProcessPool"]

DYING = 0.1
"""Longest time, in seconds, between the end of a dying worker's pipe and its death; a worker that lives on has closed
its pipe."""


class ProcessPool(Pool):
    """Worker processes, kept for many runs: until the pool is closed or collected, or the interpreter ends.

    workers               how many; by default the CPUs this process may use, and inside a worker, its share
    initializer           `initializer(*initargs)` runs first in each worker; `func` sees what it assigns to globals of
                          the script
    start_method          "forkserver" (the default where available), "spawn", or "fork", which shares memory
                          copy-on-write and inherits any lock that a thread holds
    max_items_per_worker  the most items that a worker runs, in all runs of the pool together
    memory_limit          the most memory of a worker: bytes, or a text such as "2GiB" (Linux only)
    env                   environment variables for the workers, or a function of `worker_index()` that returns them;
                          BLAS and OpenMP threads default to CPUs divided by workers
    output                "forward" hands log records, warnings and output of workers to this process, "inherit" leaves
                          streams, handlers and filters of workers alone, "discard" drops all of it

    With `output="forward"` the loggers of this process handle the log records, which have `item_index`, and its warning
    filters the warnings, on the thread that runs the job, with the levels and filters that it has when a run starts.
    Lines on stdout and stderr, those of C code too, come out on `sys.stdout` and `sys.stderr`, each worker's in its
    order, at the latest with the result of their chunk. A worker that has filled its pipe waits until this process
    reads.

    A worker is a process of `multiprocessing`: it has a name and a parent, and proxies of a Manager connect in it. When
    it exits without being killed, it runs `atexit` functions and finalizers, and flushes files. Locks and values of
    `multiprocessing` itself go to forked workers only, as `initargs`, which they inherit, so these need not pickle.

    For `max_items_per_worker` the scheduler cuts chunks to the items that a worker has left. At the limit, the worker
    flushes its state, so that no item runs again, and another worker takes its place. One worker folds a leaf of
    `Tree`, so `reproducible=True` requires a `chunksize` up to the limit, or a limit of at least 1,024.

    For `memory_limit` the pool replaces a worker whose own memory exceeds it after a chunk, in the same way; within a
    chunk, such a worker hands back the rest. The pool kills a worker that outgrows the limit within a single item, not
    counting the memory that earlier items have left. That item has lost its worker (`WorkerLost`, with the figures),
    which counts as any death does (`retries`, `on_error`); its neighbours, and items whose results were not flushed,
    run again without counting as retries. A worker's own memory is resident and in no file: it excludes shared memory
    and the code of libraries, and includes all that a forked worker has from its parent. The caller's thread checks it
    about every 0.05 s: a worker may exceed the limit for a moment, and an item that takes all memory in an instant is
    not caught. If a worker that has run no item exceeds the limit, the run ends with `WorkerLost` at once.

    >>> with ProcessPool(workers=2) as pool:
    ...     sorted(pool.imap_unordered(abs, [-3, 1, -2]))
    [1, 2, 3]
    """

    can_kill = True

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        *,
        start_method: str | None = None,
        max_items_per_worker: int | None = None,
        memory_limit: int | str | None = None,
        env: Mapping[str, str] | Callable[[int], Mapping[str, str]] | None = None,
        output: str = "forward",
        **unknown: Never,
    ) -> None:
        super().__init__()
        refuse_standard_names(ProcessPool, unknown)
        self.workers = checked_count("workers", default_workers() if workers is None else workers)
        self._initializer, self._initargs = checked_initializer(initializer), tuple(initargs)
        self.start_method = checked_start_method(start_method)
        refuse_second_run()
        if self.start_method != "fork":
            refuse_frozen()
        if self.start_method != "fork" and self._initargs:
            refuse_inherited_only("initargs", self._initargs)
        if max_items_per_worker is not None:
            checked_count("max_items_per_worker", max_items_per_worker)
        self.most_items = max_items_per_worker
        self._memory_limit = checked_limit(memory_limit)
        self._recycling = Recycling(max_items_per_worker, self._memory_limit)
        self._environ = WorkerEnviron(self.workers, env)
        self._relay = Relay(checked_output(output))
        kept = self._workers = Workers(os.getpid(), self.start_method, self._relay)
        self._handles, self._leaving, self.in_flight = kept.handles, kept.leaving, kept.system.in_flight
        self._events: list[messages.PoolEvent] = []
        self._dirty = False
        """True while pipes are read or written: an exception then leaves them half way."""
        self._epoch = 0
        self._job = b""
        self._keeps = True
        self._encoder = Encoder()
        self._definitions = 0
        self._inherited: dict[str, Any] | None = None
        when_collected(self, self._workers.abandon)  # `Workers` has its own exit function

    def __repr__(self) -> str:
        return f"ProcessPool(workers={self.workers}, start_method={self.start_method!r})"

    # -- the life of a run ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the workers."""
        self._note_inherited()
        self._open_workers()
        for slot in range(self.workers):
            if slot not in self._handles:
                self._launch(slot)

    def encode(self, refuse: bool) -> Callable[[Any], Encoded]:
        """Return the encoder, which pickles items one by one."""
        return self._encoder.refusing() if refuse else self._encoder

    def _begin(self, job: Job, slots: int) -> None:
        self._epoch += 1
        self._dirty = False
        self._workers.runner = threading.get_ident()
        self._note_inherited()
        plain = plainly(job)
        self._open_workers()  # first, so that cloudpickle is imported while the forkserver starts
        self._job = pickle_job(job, self._inherited) if plain is None else plain
        self._keeps = job.reducer.retains_input
        self._dirty = True
        self._release_busy()
        if not self._handles.keys() >= set(range(slots)):
            self._workers.expect(self._job)
        for slot in range(slots):
            if slot in self._handles:
                self._brief(self._handles[slot])
            else:
                self._launch(slot)
        self._dirty = False

    def _note_inherited(self) -> None:
        """Note the contents of `__main__`, which workers forked from now on inherit and need not be sent."""
        if self.start_method == "fork" and self._inherited is None:
            self._inherited = inherited_namespace()

    def _end(self, clean: bool) -> None:
        if self._dirty:
            self._interrupt()
        self._job, self._workers.runner = b"", None
        for handle in list(self._handles.values()):
            handle.end(self._epoch)
            # The run had no more items to replace it for; the next run starts another.
            if handle.retiring or self._recycling.has_run_all(handle.items):
                self._workers.dismiss(handle, at_once=not clean)
        self._events = []

    def _interrupt(self) -> None:
        """Kill all workers, since a message to or from any of them may be cut off anywhere."""
        self._job, self._workers.runner = b"", None
        self._stop_workers(at_once=True)
        self._relay.emit_last()

    def _release_busy(self) -> None:
        """Wait a second for workers that are still busy with an earlier run, then replace them.

        This also finds workers that died since that run.
        """
        if self._handles:
            self._collect(0)
        while busy := [handle for handle in self._handles.values() if handle.ending is not None]:
            left = max(handle.ended_at for handle in busy) + GOODBYE - monotonic()
            if left > 0:
                self._collect(left)
                self._relay.emit()
                continue
            for handle in busy:
                self._workers.dismiss(handle, at_once=True)
        self._events = []

    def _stop(self) -> None:
        for handle in list(self._handles.values()):
            handle.child.kill()

    def _close(self, at_once: bool) -> None:
        self._stop_workers(at_once)
        self._workers.close()
        self._relay.emit_last()

    def _stop_workers(self, at_once: bool) -> None:
        for handle in list(self._handles.values()):
            self._workers.dismiss(handle, at_once or not handle.idle)
        until = monotonic() + GOODBYE
        while not at_once and self._leaving and (left := until - monotonic()) > 0:
            self._collect(left)
        self._workers.end(self._workers.everyone())
        self._events = []

    # -- workers -------------------------------------------------------------------------------------------------------

    def _open_workers(self) -> None:
        self._environ.renew()
        self._relay.begin()
        if self._workers.launcher is None:
            start = self._initializer, self._initargs
            self._workers.open(self.workers, self._environ.of_all(), self._environ.alike, start)

    def _launch(self, slot: int) -> None:
        start = b"" if self.start_method == "fork" else pickle_start(self._initializer, self._initargs)
        handle = self._workers.launch(slot)
        if self.lifecycle is not Lifecycle.OPEN:  # another thread closed the pool without seeing this worker
            handle.child.kill()
        settings = self._environ.of(slot), folder(), arena.LEAST_BUFFER, self._memory_limit
        handle.start((self.workers, *settings), start)
        self._brief(handle, self._encoder.definitions)

    def _brief(self, handle: Handle, definitions: Iterable[bytes] = ()) -> None:
        for definition in definitions:
            handle.channel.send(channel_module.DEFINE, self._epoch, (), [definition])
        if self._job:
            handle.introduce()
            handle.channel.send(channel_module.JOB, self._epoch, (), [self._job])

    # -- instructions and events ---------------------------------------------------------------------------------------

    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Carry out an instruction."""
        self._dirty = True
        if isinstance(instruction, messages.RestartWorker):
            if (old := self._handles.get(instruction.slot)) is not None:
                self._workers.dismiss(old, at_once=False)
            self._launch(instruction.slot)
        elif (handle := self._handles.get(instruction.slot)) is not None:
            self._tell(handle, instruction, input_batch)
        # else the worker was just lost, and a `Lost` is on its way to the scheduler
        self._dirty = False

    def _tell(
        self,
        handle: Handle,
        instruction: messages.RunChunk | messages.Flush | messages.Cancel | messages.Yield,
        input_batch: InputBatch | None,
    ) -> None:
        if isinstance(instruction, messages.RunChunk):
            assert input_batch is not None
            self._send_definitions()
            handle.run(self._epoch, instruction, input_batch)
        elif isinstance(instruction, messages.Flush):
            handle.channel.send(channel_module.FLUSH, self._epoch)
        elif isinstance(instruction, messages.Cancel):
            ok = handle.cancel(instruction.chunk)
            self._events.append(messages.Cancelled(instruction.slot, instruction.chunk, ok))
        elif isinstance(instruction, messages.Yield):
            self._events.append(messages.Yielded(instruction.slot, instruction.chunk, handle.share(instruction.chunk)))

    def _send_definitions(self) -> None:
        """Send new classes of `__main__` to all workers, before any item that refers to them."""
        new = self._encoder.definitions[self._definitions :]
        self._definitions += len(new)
        for handle in self._handles.values() if new else ():
            for definition in new:
                handle.channel.send(channel_module.DEFINE, self._epoch, (), [definition])

    def wait(self, timeout: float | None) -> list[messages.PoolEvent]:
        """Wait for events."""
        self._dirty = True
        if not self._events:
            self._collect(self._recycling.patience(timeout))
        if self._recycling.look_is_due():
            self._stop_outgrown()
        self._dirty = False
        self._relay.emit()
        events, self._events = self._events, []
        return events

    def batch(self, slot: int) -> Batch | None:
        """Read the worker's progress cell."""
        handle = self._handles.get(slot)
        batch = handle.cell.read() if handle is not None else None
        known = batch is not None and handle is not None and (batch.chunk in handle.runs or batch.chunk == NO_CHUNK)
        return batch if known else None

    def advanced(self, slot: int) -> tuple[int, int]:
        """Read the units in the worker's progress cell."""
        return self._handles[slot].cell.units(self._epoch) if slot in self._handles else (-1, 0)

    def items_run(self) -> Mapping[int, int]:
        """Return the item count of each worker, which continues from run to run."""
        return {slot: handle.items for slot, handle in self._handles.items()}

    def peak_memory(self) -> int:
        """Return the peak memory of the largest current worker, in bytes."""
        return max((peak_memory(handle.child.pid) for handle in list(self._handles.values())), default=0)

    def stopped(self, slot: int) -> bool:
        """Tell if the worker is stopped (SIGSTOP) with work to do."""
        handle = self._handles.get(slot)
        return handle is not None and not handle.idle and handle.child.stopped

    def kill(self, slot: int, how: str, batch: Batch | None) -> None:
        """Kill the worker, if it is still in this batch."""
        if (handle := self._handles.get(slot)) is not None:
            if batch is None:
                handle.kill("died", how, blameless=True)
            else:
                handle.kill("timeout", how, batch)

    def _stop_outgrown(self) -> None:
        for slot, handle in self._handles.items():
            batch = self.batch(slot)
            how = "" if batch is None or batch.packing else self._recycling.within_item(handle.child.pid, batch)
            if how:  # a worker that has ended its item may flush its state
                handle.kill("died", how, batch)

    def _collect(self, timeout: float | None) -> None:
        """Read pending messages before handling exits, so that a dying worker's results are kept."""
        workers = self._workers
        for handle in workers.everyone():
            handle.borrowed_segments.take_back()
            if handle.channel.full:
                workers.watch(handle)
        began = monotonic()
        ready = workers.select(timeout)
        self.waited += monotonic() - began
        for handle, events in ready.values():
            if events & EVENT_WRITE:
                handle.channel.flush()
                workers.watch(handle)
        for fd, (handle, _) in ready.items():
            if fd is handle.channel.sock:
                self._receive(handle)
            elif fd in handle.output:
                workers.read_output(handle, fd)
        for fd, (handle, _) in ready.items():
            if fd == handle.child.sentinel:
                self._ended(handle)
        for handle in workers.found_dead():
            self._ended(handle)

    def _receive(self, handle: Handle) -> None:
        messages, ended = handle.channel.receive()
        for message in messages:
            self._take(handle, message)
        if ended is not None:
            handle.channel.forget()
            self._workers.selector.unregister(handle.channel.sock)
            if isinstance(ended, channel_module.BrokenFrame):
                handle.kill_misused("wrote to the descriptors of its worker")
            if self._handles.get(handle.slot) is handle and not handle.child.ends_within(DYING):
                handle.kill("died", "closed the descriptors of its worker, which was then killed")
            self._workers.next_look = 0.0

    def _take(self, handle: Handle, message: channel_module.Message) -> None:
        if message.kind == channel_module.ENDED:
            if handle.ending == message.epoch:
                handle.ending = None
            return
        # What a worker finishes after a chunk that it missed is out of order; its chunks run again.
        current = self._handles.get(handle.slot) is handle and handle.ending is None and handle.unclaimed is None
        if not current or message.epoch not in (0, self._epoch):
            handle.ignore(message)
            return
        if message.kind == channel_module.MISSED:
            handle.missed(*message.values)
            return
        handle.output.settle()
        event = handle.event(message, self._keeps)
        if not handle.retiring and (reason := self._recycling.after_chunk(handle.child.pid, handle.items)):
            handle.retiring = True
            self._events.append(messages.Retiring(handle.slot, reason))
        self._events.append(event)

    def _ended(self, handle: Handle) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._workers.selector.get_key(handle.channel.sock)
            self._receive(handle)
        with interrupts_held_back():
            if self._handles.get(handle.slot) is handle and handle.ending is None and self._busy:
                self._events.append(handle.lost())
            handle.child.reap()  # before `end` kills: its pipe may end first, while its exit functions run
            self._workers.end([handle])
