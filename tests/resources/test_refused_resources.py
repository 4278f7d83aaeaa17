"""What is refused at the call, and what is told."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import places
import pytest
from checkpointed import SERIAL, Idle
from places import outcome
from runs_into import KEY, into, made, pair, pairs

from poolagg import Checkpoint, CheckpointError, Count, Into, ProcessPool, Sum, aggregate, events
from poolagg.resources import IntoDatabase, IntoFile
from poolagg.strategies import Combine

pytestmark = pytest.mark.usefixtures("postgresql", "pool")


def test_two_resources_are_refused(tmp_path):
    """They cannot commit together; the same one twice can."""
    one, two = (IntoFile(tmp_path / name) for name in ("one", "two"))
    with pytest.raises(ValueError, match="2 resources, which cannot commit together"):
        aggregate(str, range(3), (one, two), pool=Idle())
    aggregate(str, range(3), (one, one.where(lambda text: text != "1")), pool=SERIAL)
    assert sorted((tmp_path / "one").read_text().split()) == ["0", "0", "1", "2", "2"]


def test_beside_an_into_that_cannot_commit_it_is_refused(tmp_path):
    """A continued run would apply some partials twice."""
    with pytest.raises(ValueError, match="by an Into that cannot"):
        aggregate(str, range(3), (IntoFile(tmp_path / "one"), Into(print)), pool=Idle())


def test_a_path_for_the_checkpoint_is_refused(tmp_path):
    """The ledger is in the resource; and without a resource, a path it takes."""
    for checkpoint in ("a.ckpt", Checkpoint("a.ckpt", every=3)):
        with pytest.raises(ValueError, match=r"the resource of .* keeps the checkpoint itself"):
            aggregate(str, range(3), IntoFile(tmp_path / "one"), pool=Idle(), checkpoint=checkpoint)
    with pytest.raises(ValueError, match="needs a path"):
        aggregate(str, range(3), Sum(), pool=Idle(), checkpoint=Checkpoint(every=3))
    assert not os.listdir(tmp_path)


def test_a_pickle_is_not_kept_where_others_may_write_it(table, tmp_path):
    """The state of another reducer would be one: refused at the call, unless one says that it is private."""
    os.chmod(tmp_path / "found.db", 0o606) if isinstance(table, places.SQLite) else None
    both = {"rows": table.into(private=False), "n": Count()}
    with pytest.raises(ValueError, match="a pickle in its ledger"):
        aggregate(pair, range(30), both, pool=Idle())
    aggregate(pair, range(30), {**both, "rows": table.into(private=True)}, pool=SERIAL, checkpoint=KEY)
    with pytest.raises(CheckpointError, match="holds a state, which is a pickle"):
        aggregate(pair, range(30), table.into(private=False), pool=Idle(), checkpoint=KEY)


def test_strategies_that_merge_are_refused(tmp_path):
    """Only the parent writes."""
    with pytest.raises(ValueError, match="has no merge"):
        aggregate(str, range(3), IntoFile(tmp_path / "one"), pool=Idle(), strategy=Combine())


def test_commits_are_told_to_watchers(lines):
    """As those of a checkpoint are."""
    told = []
    into(pair, range(30), lines, watch=told.append)
    assert [event for event in told if isinstance(event, events.Checkpointed)]


@pytest.mark.parametrize("name", places.NAMES)
def test_workers_that_are_forked_neither_keep_the_lock_nor_end_the_session(name, tmp_path, request):
    """They have the parent's descriptors, and end while the run goes on, or outlive it."""
    where = made(name, tmp_path, request)
    with ProcessPool(2, start_method="fork", max_items_per_worker=20) as forked:
        for count in (60, 120):
            into(pair, iter(range(count)), where, pool=forked, chunksize=5)
            assert outcome(where) == pairs(range(count))


def test_lambdas_and_open_handles_stay_in_the_parent(tmp_path, pool):
    """A resource need not pickle."""
    path = tmp_path / "found.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE found (item, text)")
        handle = open(os.devnull)
        table = IntoDatabase(lambda: handle and sqlite3.connect(path), places.INSERT["sqlite"], run="a")
        aggregate(pair, range(30), table, pool=pool)
        handle.close()
        assert sorted(connection.execute("SELECT * FROM found")) == pairs(range(30))


def test_reprs_say_what_it_is(tmp_path):
    """Without what it is connected with."""
    table = IntoDatabase("a.db", "INSERT INTO t VALUES (?)", run="r", ordered=True)
    assert repr(table) == "IntoDatabase('a.db', 'INSERT INTO t VALUES (?)', run='r', ordered=True)"
    assert repr(IntoFile("a", ordered=True)) == "IntoFile('a', ordered=True)"
    assert repr(Into(places.Pickled("a"))).startswith("Into(<places.")
