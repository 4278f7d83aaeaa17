"""Tests that are left out on Windows, by name, with the reason; a conftest reads this.

A name is a file, a test, or one case of a test. A name that no test has is an error.
"""

from __future__ import annotations

import pytest

NEEDS_PROCESS_POOL: tuple[str, ...] = ()
"""Tests of runs in worker processes, which the pool does not have on Windows yet."""

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "it acts as another user, by setuid": ("tests/checkpoint/test_ownership.py",),
    "the standard library's ProcessPoolExecutor hangs under Wine": (
        "tests/report/test_report.py::test_slots_of_external_pools_are_not_workers",
    ),
}
"""Tests of what Windows does not have, by the reason."""

MOST = 0.1
"""The share of tests that may be left out, beside those that need the process pool."""


SERVER = "postgres"
"""Cases with this word are about PostgreSQL's server, which other systems try; they are not counted."""


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are listed here."""
    listed = {name for names in (*LEFT_OUT.values(), NEEDS_PROCESS_POOL) for name in names}
    met, kept, left = set(), [], []
    for item in items:
        found = listed.intersection(_names(item.nodeid))
        met |= found
        (left if found or SERVER in item.nodeid else kept).append(item)
    files = {item.nodeid.partition("::")[0] for item in items}
    unknown = {name for name in listed - met if name.partition("::")[0] in files}
    if unknown and not config.option.keyword:
        raise pytest.UsageError(f"tests/support/windows.py names tests that do not exist: {sorted(unknown)}")
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def _names(nodeid: str) -> tuple[str, str, str]:
    """The file, the test and the case."""
    file, _, test = nodeid.partition("::")
    return file, f"{file}::{test.partition('[')[0]}", nodeid
