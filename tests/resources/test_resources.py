"""What every resource promises: each partial is there once, and a run that stopped is continued."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from operator import itemgetter

import places
import pytest
from checkpointed import SERIAL, Idle
from places import outcome
from runs_into import ITEMS, KEY, arguments, into, kept, made, pair, pairs

from poolagg import (
    Checkpoint,
    CheckpointMismatch,
    Count,
    ResourceError,
    SerialPool,
    SkippedItems,
    Sum,
    TaskError,
    aggregate,
    snapshots,
)
from poolagg.errors import AcceptedChanges
from poolagg.strategies import Ordered, Stream
from poolagg.testing import check_resource

pytestmark = pytest.mark.usefixtures("postgresql", "pool")


class Breaking:
    """Gives pairs and counts its calls; raises at `bad` items until it is mended."""

    def __init__(self, *bad):
        self.state = {"bad": set(bad), "ran": []}

    def __call__(self, item):
        if item in self.state["bad"]:
            raise ValueError(f"no {item}")
        self.state["ran"].append(item)
        return pair(item)

    def mend(self):
        self.state["bad"] = set()
        ran, self.state["ran"] = self.state["ran"], []
        return ran


# -- what every resource promises --------------------------------------------------------------------------------------


def test_every_partial_is_there_once_and_a_finished_run_does_nothing(where, pool):
    """From worker processes; the result is None."""
    for _ in range(2):
        assert aggregate(pair, range(ITEMS), where.into(), pool=pool) is None
        assert outcome(where) == pairs(range(ITEMS))
    assert aggregate(pair, range(ITEMS), where.into(), pool=Idle()) is None


def test_the_laws_hold(where):
    """As `check_resource` tries them: a killed process among them."""
    given = pairs(range(3))
    partials = [json.dumps(partial) for partial in given] if isinstance(where, places.File) else given
    read = where.found if not isinstance(where, places.File) else lambda: map(json.dumps, where.found())
    check_resource(lambda: _inner(where.into()), partials, read)


def _inner(into):
    return getattr(into, "inner", into)


@pytest.mark.parametrize("strategy", [Stream(), Ordered()], ids=repr)
def test_a_run_that_an_exception_ended_is_continued(strategy, where):
    """What is in the resource already is not run again."""
    func = Breaking(70)
    with pytest.raises(TaskError):
        into(func, range(ITEMS), where, strategy=strategy)
    before = outcome(where)
    assert before == pairs(range(len(before)))
    assert len(before) >= 60
    func.mend()
    into(func, range(ITEMS), where, strategy=strategy)
    assert func.mend() == [*range(len(before), ITEMS)]
    assert outcome(where) == pairs(range(ITEMS))


@pytest.mark.parametrize("options", [{"reproducible": True}, {"strategy": Ordered()}, {}], ids=repr)
def test_in_input_order_where_it_is_asked_for(options, where, pool):
    """By the strategy, or by the resource."""
    ordered = {} if options else {"ordered": True}
    aggregate(pair, range(ITEMS), where.into(**ordered), pool=pool, chunksize=1, **options)
    assert where.found() == pairs(range(ITEMS))


def test_an_input_that_has_grown_at_its_end(where):
    """Only what is new is run; another input is refused, with the item that differs."""
    into(pair, [*range(50)], where)
    into(pair, [*range(60)], where)
    assert outcome(where) == pairs(range(60))
    with pytest.raises(CheckpointMismatch, match=r"ledger in .* item 7 is not what it was.*another path"):
        into(pair, [*range(7), 99, *range(8, 60)], where)
    with pytest.raises(CheckpointMismatch, match="func"):
        aggregate(str, [*range(60)], where.into(), pool=SERIAL)
    assert outcome(where) == pairs(range(60))


def test_skipped_items_are_remembered_and_run_again_when_asked(where):
    """Their partials come in late, and nothing else does."""
    func = Breaking(3, 44)
    for _ in range(2):
        with pytest.warns(SkippedItems, match="2 of 120"):
            into(func, range(ITEMS), where, on_error="skip")
    assert outcome(where) == pairs(item for item in range(ITEMS) if item not in (3, 44))
    func.mend()
    into(func, range(ITEMS), where, on_error="skip", checkpoint=kept(retry_failed=True))
    assert func.mend() == [3, 44]
    assert outcome(where) == pairs(range(ITEMS))


def test_what_comes_late_is_refused_where_order_counts(where):
    """With a name to begin anew under."""
    func = Breaking(3)
    with pytest.warns(SkippedItems):
        into(func, range(ITEMS), where, on_error="skip", reproducible=True)
    with pytest.raises(CheckpointMismatch, match=r"such as item 3.* begin anew: take another"):
        into(func, range(ITEMS), where, on_error="skip", reproducible=True, checkpoint=kept(retry_failed=True))


def test_ctrl_c_keeps_what_is_there(where):
    """And the next call goes on from it."""

    def items():
        yield from range(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        into(pair, items(), where)
    assert len(outcome(where)) >= 50
    into(pair, iter(range(ITEMS)), where)
    assert outcome(where) == pairs(range(ITEMS))


def test_leaving_snapshots_early_keeps_what_was_shown(where):
    with snapshots(pair, range(10_000), where.into(), every=0.001, pool=SERIAL, chunksize=10) as looks:
        for snapshot in looks:
            if snapshot.done:
                break
    found = outcome(where)
    assert len(found) >= snapshot.done
    assert found == pairs(range(len(found)))


def test_beside_other_reducers_all_are_continued_together(where):
    """Their states are in the same ledger."""
    func = Breaking(70)
    reducers = {"rows": where.into(), "n": Count(), "sum": Sum().of(itemgetter(0))}
    call = {"pool": SERIAL, "chunksize": 10, "checkpoint": KEY}
    with pytest.raises(TaskError):
        aggregate(func, range(ITEMS), reducers, **call)
    func.mend()
    result = aggregate(func, range(ITEMS), reducers, **call)
    assert len(func.mend()) < 70
    assert result == {"rows": None, "n": ITEMS, "sum": sum(range(ITEMS))}
    assert outcome(where) == pairs(range(ITEMS))


def test_the_derived_forms(where, pool):
    """Run in the workers, as with any reducer."""
    reducer = where.into().of(pair).where(lambda item: item % 2).flat()
    aggregate(range, [3, 0, 6], reducer, pool=pool)
    assert outcome(where) == sorted(pairs([1, 1, 3, 5]))


def test_an_apply_that_fails_commits_nothing_after_it(where, monkeypatch):
    """The last commit stands, and the item is named."""
    into(pair, range(30), where)
    reducer = where.into()
    resource = _inner(reducer).resource
    apply = resource.apply
    monkeypatch.setattr(_inner(reducer), "apply", lambda partial: apply(partial) if "45" not in str(partial) else 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        aggregate(pair, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=KEY)
    assert "the partial of item 45, 45" in caught.value.__notes__[0]
    assert outcome(where) == pairs(range(len(outcome(where))))
    assert len(outcome(where)) <= 40
    into(pair, range(ITEMS), where)
    assert outcome(where) == pairs(range(ITEMS))


@pytest.mark.parametrize("name", ["sqlite", "postgres", "file"])
def test_two_runs_at_a_time_are_refused(name, tmp_path, request, monkeypatch):
    """The second, in this process and in another; afterwards it is free."""
    where = made(name, tmp_path, request)
    monkeypatch.setattr("poolagg.resources.database.OTHERS", 0.05)
    monkeypatch.setattr("poolagg.resources.file.PATIENCE", 0.05)

    def items():
        yield from range(30)
        for reducer in (shared, where.into()):
            with pytest.raises(ResourceError, match="another run"):
                aggregate(pair, range(30), reducer, pool=SerialPool())
        other = subprocess.run([sys.executable, "-c", OTHER, *arguments(where)], capture_output=True, text=True)
        assert "ResourceError" in other.stderr
        assert "another run" in other.stderr
        yield 30

    shared = where.into()
    aggregate(pair, items(), shared, pool=SerialPool())
    monkeypatch.undo()
    assert outcome(where) == pairs(range(31))
    aggregate(pair, iter(range(32)), where.into(), pool=SerialPool())
    assert outcome(where) == pairs(range(32))


OTHER = """
import sys; sys.path.insert(0, sys.argv[1])
from places import place
from poolagg import SerialPool, aggregate
import poolagg.resources.database, poolagg.resources.file
poolagg.resources.database.OTHERS = poolagg.resources.file.PATIENCE = 0.05
aggregate(lambda item: (item, str(item)), range(5), place(*sys.argv[2:]).into(), pool=SerialPool())
"""


def test_a_mended_function_continues_if_told_so_and_from_then_on(where):
    """The ledger keeps the new function's fingerprint, and every partial is there once."""

    def run(func, items=ITEMS, **options):
        given = Checkpoint(**options) if options else None
        return aggregate(func, range(items), where.into(), pool=SERIAL, chunksize=10, checkpoint=given)

    with pytest.raises(TaskError):
        run(lambda item: pair(item) if item != 50 else 1 / 0)
    before = outcome(where)
    assert 50 not in dict(before)
    with pytest.raises(CheckpointMismatch, match="accept_changes=True"):
        run(lambda item: (item, "mended"))
    with pytest.warns(AcceptedChanges, match=f"The {len(before)} items in it"):
        run(lambda item: (item, "mended"), accept_changes=True)
    mended = [*before, *((item, "mended") for item in range(len(before), ITEMS))]
    assert outcome(where) == mended
    run(lambda item: (item, "mended"), ITEMS + 1)
    assert outcome(where) == [*mended, (ITEMS, "mended")]


# -- check_resource ----------------------------------------------------------------------------------------------------


def test_no_warning_is_given_by_a_run_that_went_well(where):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        into(pair, range(30), where)
