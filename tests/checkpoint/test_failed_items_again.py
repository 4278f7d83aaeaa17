"""Failed items are remembered, and run again when that is asked for."""

from __future__ import annotations

import functools

import pytest
from checkpointed import ITEMS, SERIAL, Fragile, skipped

from poolagg import Checkpoint, CheckpointMismatch, Collect, Sum, TaskError, aggregate
from poolagg.__main__ import main
from poolagg._checkpoint.store import look
from poolagg.strategies import Ordered


def test_failed_items_are_remembered_and_run_again_when_asked(tmp_path, path, capsys):
    """Their partials join the result, and nothing else is run."""
    func = Fragile(tmp_path, bad=(3, 77))
    call = functools.partial(aggregate, func, range(100), Sum(), pool=SERIAL)
    once = skipped(call, checkpoint=path)
    assert once == (sum(range(100)) - 80, [once[1][0]])
    assert skipped(call, checkpoint=path) == once, "the same result, and the same warning"
    assert main(["show", path]) == 0
    shown = capsys.readouterr().out
    assert "failed item 3  3  ValueError: no 3" in shown
    assert "items failed" in shown
    func.ran()
    again = Checkpoint(path, retry_failed=True)
    assert skipped(call, checkpoint=again)[0] == once[0], "they failed once more"
    assert func.ran() == []
    func.mend()
    assert skipped(call, checkpoint=again) == (sum(range(100)), [])
    assert func.ran() == [3, 77]
    assert call(checkpoint=path) == sum(range(100))


def test_without_skip_nothing_stays_left_out(tmp_path, path):
    """What an earlier run skipped is run again."""
    func = Fragile(tmp_path, bad=(3,))
    call = functools.partial(aggregate, func, range(10), Sum(), pool=SERIAL, checkpoint=path)
    skipped(call)
    with pytest.raises(TaskError, match="no 3"):
        call()
    func.mend()
    assert call() == 45


@pytest.mark.parametrize("options", [{"reproducible": True}, {"strategy": Ordered()}], ids=repr)
def test_where_order_counts_nothing_comes_in_late(options, tmp_path, path):
    """It is refused, and with skip the run goes on as it was."""
    func = Fragile(tmp_path, bad=(3, 40))
    call = functools.partial(aggregate, func, range(100), Collect(), pool=SERIAL, **options)
    once = skipped(call, checkpoint=path)
    func.mend()
    with pytest.raises(CheckpointMismatch, match="such as item 3, and they cannot come in later"):
        skipped(call, checkpoint=Checkpoint(path, retry_failed=True))
    assert skipped(call, checkpoint=path) == once


def test_a_leaf_with_a_failed_item_is_continued(tmp_path, path):
    """What failed in an earlier run is not run, though its leaf is."""
    func = Fragile(tmp_path, bad=(203, 250))
    call = functools.partial(aggregate, func, range(ITEMS), Collect(), pool=SERIAL, reproducible=True, chunksize=100)

    def on_error(failed):
        if failed.index == 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(on_error=on_error, checkpoint=path)
    assert look(path).failed.keys() == {203, 250}
    func.ran()
    result, (warning,) = skipped(call, checkpoint=path)
    assert result == [i for i in range(ITEMS) if i not in (203, 250)]
    assert warning.startswith("2 of 300")
    assert func.ran() == [i for i in range(200, ITEMS) if i not in (203, 250)]
