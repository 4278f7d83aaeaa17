"""The suite `keyed` reduces the same pairs in every way, and sees a wrong result."""

from __future__ import annotations

import pytest
from test_benchmarks import measured, skip_or_fail

from benchmarks import keyed

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

TINY = keyed.cases("tiny")


def test_keyed(monkeypatch):
    """Each contestant is right about numbers, and about tuples."""
    monkeypatch.setattr(keyed.suite, "cases", lambda _: [TINY[0], TINY[-1]])
    results, missing = measured("keyed", monkeypatch)
    assert not results.unsound()
    skip_or_fail(missing)


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_a_wrong_result_is_seen(case):
    """The dicts of items join to a right result, as poolagg's is; with a pair more or a key less it is wrong."""
    groups = keyed.joined(case.kind, [keyed.grouped(case.kind, case.keys, number) for number in case.items])
    assert keyed.check(case, groups).correct
    assert keyed.check(case, keyed.by_poolagg_alone(case).result).correct
    key = next(iter(groups))
    keyed.KINDS[case.kind].loop(groups, [(key, -1)])
    assert not keyed.check(case, groups).correct
    del groups[key]
    assert not keyed.check(case, groups).correct
