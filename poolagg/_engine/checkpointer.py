"""A run's side of its checkpoint: the state, the items that it covers, the items that failed, and the input's digest.

Rule: a commit holds one moment of the run, between two partial states. While the parent folds one in, the state is
dirty. If that raises, the state stays dirty, the run commits nothing more, and the last commit stands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from time import monotonic
from typing import Any, NoReturn

from poolagg import events
from poolagg._checkpoint.checkpoint import NOTHING, Checkpoint, CheckpointData, FailedItem, packed, unpacked
from poolagg._checkpoint.comparison import compared
from poolagg._checkpoint.fingerprint import fingerprint, parts_of_reducer
from poolagg._checkpoint.input_digest import InputDigest, Known
from poolagg._checkpoint.schedule import CheckpointSchedule
from poolagg._checkpoint.store import FileStore, ResourceStore, Store, is_private
from poolagg._engine.failures import Skipped
from poolagg._engine.options import RunOptions
from poolagg._input.functions import name_of
from poolagg._input.source import Source
from poolagg._runtime.callers import warn_caller
from poolagg._runtime.exception_text import add_note, message_of, said, trace_of
from poolagg._runtime.interrupts import interrupts_allowed
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import Interval, LeafGrid, RangeSet
from poolagg.errors import AcceptedChanges, CheckpointMismatch, RemoteError, clipped, short_repr
from poolagg.strategies import ParentFold

__all__ = ["Checkpointer"]

LONGEST_TRACE = 8_000
"""Characters to keep of a traceback: its beginning and its end."""

LISTED = 1_000
"""Failed items to keep with their text and traceback, 8 MB at most. Of further ones the checkpoint keeps the index
alone, as intervals: a retry needs no more."""


class Checkpointer:
    """A run's checkpoint: `begin` restores what it holds, then `commit` replaces that.

    The constructor opens nothing. So the run holds the object, and can close it, even if an interrupt strikes in
    `begin`.
    """

    def __init__(
        self, settings: RunOptions, parent_fold: ParentFold, digest: InputDigest, options: SchedulerOptions
    ) -> None:
        self._checkpoint: Checkpoint = settings.checkpoint
        self._parent_fold, self._digest, self._grid, self._settings = parent_fold, digest, options.grid, settings
        self._facts = _facts(settings, options.grid)
        self.covered, self.failed = RangeSet(), dict[int, FailedItem]()
        self.unlisted = RangeSet()
        self._flushes = self._checkpoint.every is not None and options.stateful
        self.changed = self._finished = False
        self._dirty = True  # until `begin` has restored the state
        if not hasattr(parent_fold, "state"):
            raise ValueError(
                f"{settings.strategy!r} cannot keep a checkpoint: its ParentFold has no state() and restore(). Pass "
                "checkpoint=None, or another strategy"
            )
        self._has_state = self._state() != NOTHING  # raises now, not after hours, if the state does not pickle
        self._store = _store(settings, self._has_state)

    def begin(self, options: SchedulerOptions) -> None:
        """Open the file or the resource, and restore what it holds."""
        data = self._store.open()
        self._schedule = CheckpointSchedule(self._checkpoint.every, monotonic(), self._flushes)
        self._restore(data, options)
        self._dirty = False

    @property
    def all_failed(self) -> RangeSet:
        """All items that failed for good, those listed with their errors and the others."""
        failed = RangeSet((index, index + 1) for index in sorted(self.failed))
        failed.update(self.unlisted)
        return failed

    @property
    def needed(self) -> int:
        """The end of the part of the input that the result depends on."""
        return max((stop for _, stop in self.covered), default=0)

    @property
    def next_look(self) -> float | None:
        """When to look at the commit schedule again; None if there is nothing to commit."""
        return self._schedule.next if self._ready or self._schedule.will_ask else None

    # -- restoring -----------------------------------------------------------------------------------------------------

    def _restore(self, data: CheckpointData, options: SchedulerOptions) -> None:
        if not data.facts:
            return
        accepted = self._accepts_changes(data)
        self._digest.expect(Known(**{**data.facts["input"], **_bytes(data)}), self.mismatch)
        covered = RangeSet((start, stop) for start, stop in data.facts["covered"])
        failed = data.all_failed
        again = bool(failed) and (self._checkpoint.retry_failed or not options.skip)
        if again:
            self._refuse_retry(options, failed)
            self.covered = _less(covered, failed)
        else:
            self.covered, self.failed, self.unlisted = covered, dict(data.failed), data.unlisted
        if data.state is not None:
            self._schedule.expect(len(data.state))
            self._parent_fold.restore(unpacked(self._store.name, self._expected(data.state)))
        self._facts["begun"], self._finished = data.facts["begun"], data.facts["finished"]
        self.changed = again or accepted

    def _expected(self, state: bytes) -> bytes:
        """Refuse a state that this run would never write: it is a pickle, and may be another user's."""
        if state != NOTHING and not self._has_state and self._settings.resource is not None:
            self.mismatch("it holds a state, but this run keeps none")
        return state

    def _accepts_changes(self, data: CheckpointData) -> bool:
        """Compare this run with the earlier one; return whether func differs, and the caller accepts that."""
        settings = self._settings
        found = compared(data.facts, self._facts, lambda: parts_of_reducer(settings.func, settings.reducer))
        if found is None:
            return False
        if not found.only_func:
            self.mismatch(f"another run made it: {found.words}")
        if not self._checkpoint.accept_changes:
            self.mismatch(
                f"another run made it: {found.words}",
                "; to continue with the changed func, pass Checkpoint(..., accept_changes=True) (poolagg run: "
                "--accept-changes), and the result mixes what both functions returned",
            )
        count = sum(stop - start for start, stop in data.facts["covered"]) - len(data.all_failed)
        warn_caller(
            AcceptedChanges(
                f"{self._store.name} continues with another func: {found.words}. The {count} items in it keep the "
                "results of the earlier func, and this func runs the others; if they must not be mixed, begin anew: "
                f"{self._store.anew}"
            )
        )
        return True

    def mismatch(self, what: str, remedy: str = "") -> NoReturn:
        """Refuse to continue another run's state, and stop committing over it."""
        self._dirty = True
        raise CheckpointMismatch(
            f"{self._store.name} does not fit this call: {what}. To continue it, call with what it was made with"
            f"{remedy}; to begin anew, {self._store.anew}. (With Checkpoint(..., key=...), from the first run on, you "
            "say yourself which func and reducer count as the same)"
        )

    def _refuse_retry(self, options: SchedulerOptions, failed: RangeSet) -> None:
        """Refuse to retry failed items if the strategy keeps the input order: they cannot be folded in late."""
        if options.in_order or options.grid is not None:
            first = next(start for start, _ in failed)
            raise CheckpointMismatch(
                f"{self._store.name} leaves out {len(failed)} items that failed, such as item {first}, and they "
                "cannot come in later, for this run keeps to the input order. Continue it with on_error='skip', and "
                f"without retry_failed; or begin anew: {self._store.anew}"
            )

    def skip(self, source: Source, count: int) -> None:
        """Pull `count` items that the result covers already, and compare them with the digest."""
        passed = source.skip(count)
        if isinstance(passed, islice):  # else a slice of an array, which need not be iterated over
            self._digest.pass_by(passed, count)

    def check_start(self, start: int) -> None:
        """Refuse items that follow a partial leaf of the grid: the earlier run took that leaf for the input's last."""
        if self._grid is not None and self._grid.floor(start) != start:
            self.mismatch(
                f"the input has grown: it ended with item {start - 1}, and what comes after would have to be folded "
                "together with the items before it to give the same bits, reproducible as it is"
            )

    def tell_skipped(self, skipped: Skipped) -> None:
        """Add the items that earlier runs skipped to the final warning."""
        for _, item in sorted(self.failed.items()):
            error = RemoteError(item.kind, item.trace)
            skipped.add(events.ItemFailed(item.number, _Recalled(item.item), error, item.attempts, False))
        skipped.add_count(len(self.unlisted))

    # -- folding and committing ----------------------------------------------------------------------------------------

    def covering(self, intervals: Iterable[Interval], nbytes: int = 0) -> _Covering:
        """Enter a block that folds in the partials of these items, of `nbytes`; if it raises, the state stays dirty."""
        return _Covering(self, intervals, nbytes)

    def begin_covering(self) -> bool:
        """Mark the state as dirty; return whether it was clean."""
        whole, self._dirty = not self._dirty, True
        return whole

    def end_covering(self, whole: bool, intervals: Iterable[Interval], nbytes: int) -> None:
        """Add items to what the state covers, and mark it as clean if it was `whole` before."""
        self._schedule.expect(nbytes)
        self.covered.update(intervals)
        self._dirty, self.changed, self._finished = not whole, True, False

    def skip_failed(self, item: events.ItemFailed) -> None:
        """Note an item that failed for good and is left out; the first are listed with their errors."""
        place = item.index, item.index + 1
        failed = None
        if len(self.failed) < LISTED:
            name, trace = type(item.error).__name__, _trace(item.error)
            failed = FailedItem(item.index, item.item_repr, item.attempt, name, trace)
        with self.covering([place]):
            if failed is None:
                self.unlisted.add(*place)
            else:
                self.failed[item.index] = failed

    def asks(self) -> bool:
        """Tell whether workers should flush now, for the next commit."""
        return self._schedule.will_ask and self._schedule.asks(monotonic())

    def due(self) -> bool:
        """Tell whether to commit now."""
        return self._ready and (self._store.full or monotonic() >= self._schedule.next)

    @property
    def _ready(self) -> bool:
        """Whether `commit` may run. Items between covered ones run before their page of the digest can be compared, and
        are committed after it."""
        return self.changed and not self._dirty and self._digest.verified

    def commit(self) -> events.Checkpointed:
        """Write the state and all that describes it in one atomic step."""
        began = monotonic()
        dirty, self._dirty = self._dirty, True  # if it raises, no later commit is tried
        state = self._state()
        known = self._digest.known(self.needed)
        about_input = {"kind": known.kind, "needed": self.needed, "items": known.items, "partial": known.partial.hex()}
        facts = {
            "covered": list(self.covered), "unlisted": list(self.unlisted), "input": about_input,
            "saved": time.time(), "finished": self._finished,
        }  # fmt: skip
        self._store.commit(CheckpointData({**self._facts, **facts}, state, known.pages, self.failed))
        self._dirty, self.changed = dirty, False
        now = monotonic()
        self._schedule.wrote(now - began, now)
        return events.Checkpointed(now - began, len(state), now)

    def _state(self) -> bytes:
        try:
            return packed(self._parent_fold.state())
        except Exception as error:
            raise TypeError(
                f"a checkpoint keeps the accumulator of {self._settings.reducer!r}, which does not pickle: "
                f"{said(error)}. Wrap it in a class with __reduce__"
            ) from error

    def commit_rest(self, tell: Callable[[events.RunEvent], None]) -> None:
        """Commit what is not committed yet as the run ends, in success or failure, unless the state is dirty."""
        if self._ready:
            tell(self.commit())

    def finished(self) -> None:
        """Note that the run has its result."""
        self.changed, self._finished = self.changed or not self._finished, True

    def close(self) -> None:
        """Release the file or the resource. If an interrupt strikes, call it again."""
        self._store.close()

    def end(self, error: BaseException | None, tell: Callable[[events.RunEvent], None]) -> None:
        """Commit what is not committed yet, and release the checkpoint, however the run ended."""
        try:
            with interrupts_allowed():
                self.commit_rest(tell)
        except Exception as another:
            if error is None:
                raise
            add_note(error, f"poolagg: the last commit of the checkpoint failed: {message_of(another)}")
        finally:
            self._release(error)

    def _release(self, error: BaseException | None) -> None:
        """Release the file or the resource even if interrupted, after a run that may have ended with `error`."""
        try:
            self.close()
        except Exception as another:
            if error is None:
                raise
            add_note(error, f"poolagg: closing the checkpoint raised {said(another)}")
        except BaseException:
            self.close()
            raise


class _Covering:
    """The context manager of `Checkpointer.covering`.

    A class, because `contextlib.contextmanager` sets the `__traceback__` of exceptions, and a user's may forbid that.
    """

    def __init__(self, checkpointer: Checkpointer, intervals: Iterable[Interval], nbytes: int) -> None:
        self._checkpointer, self._ranges, self._nbytes = checkpointer, intervals, nbytes

    def __enter__(self) -> None:
        self._whole = self._checkpointer.begin_covering()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._checkpointer.end_covering(self._whole, self._ranges, self._nbytes)


def _store(settings: RunOptions, has_state: bool) -> Store:
    """Return the store of a run: the resource that it changes, if that can commit, else a file."""
    if settings.resource is None:
        return FileStore(settings.checkpoint.path)
    if has_state and not is_private(settings.resource):
        exposed = getattr(settings.resource, "exposure", None)
        raise ValueError(
            f"{settings.reducer!r} has a state beside {settings.resource!r}, which would be a pickle in its ledger: "
            f"another user who can write there could run code here{': ' * bool(exposed)}{exposed or ''}. Make a run "
            "for each; or pass private=True to say that nobody but you can write it"
        )
    return ResourceStore(settings.resource)


class _Recalled(str):
    """An item known by its repr alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _facts(settings: RunOptions, grid: LeafGrid | None) -> dict[str, Any]:
    key = settings.checkpoint.key
    parts = fingerprint(settings.func, settings.reducer) if key is None else {"the key": key}
    parts["the strategy"] = repr(settings.strategy)
    if grid is not None:
        parts["the chunksize"] = repr(grid.size) if grid == LeafGrid(grid.size) else f"{grid.most} at most"
    return {
        "parts": parts,
        "func": name_of(settings.func),
        "reducer": short_repr(settings.reducer),
        "begun": time.time(),
        "python": sys.version.split()[0],
    }


def _bytes(data: CheckpointData) -> dict[str, Any]:
    return {"pages": data.pages, "partial": bytes.fromhex(data.facts["input"]["partial"])}


def _less(covered: RangeSet, failed: RangeSet) -> RangeSet:
    """Return the part of `covered` that is not in `failed`."""
    left = RangeSet()
    for start, stop in covered:
        for hole, end in failed.near(start, stop):
            left.add(start, hole)
            start = end
        left.add(start, stop)
    return left


def _trace(error: BaseException) -> str:
    trace = error.trace if type(error) is RemoteError else trace_of(error)
    return clipped(trace, LONGEST_TRACE)
