"""Every test is held to the library's promise: nothing is left behind."""

from __future__ import annotations

import compileall
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator

import leaks
import pytest
import tasks
import windows
from hypothesis import settings
from paths import ROOT

# No example is too slow on a machine that does other things too. What decides whether a change lands is run on the
# same examples each time; on desks the search goes on.
settings.register_profile("poolagg", deadline=None, derandomize="POOLAGG_CI" in os.environ)
settings.load_profile("poolagg")

# Plugins of one name in several folders, which cannot be searched for doctests.
collect_ignore_glob = ["*conftest.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Orphans count, and a test may make some."""
    # Tests start a thousand interpreters. Where Python writes no byte code, each would compile what it imports.
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        for folder in ("poolagg", "benchmarks", "tests/support"):
            compileall.compile_dir(ROOT / folder, quiet=2)
    config.addinivalue_line("markers", "orphans: the test makes orphans by killing their parent; they may be zombies")
    leaks.adopt_orphans()
    os.environ["POOLAGG_PORTABLE"] = "1"  # offers the portable primitives as a start method
    # A job in the background ignores Ctrl-C, and so would the programs that are tested, which inherit it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what Windows does not have, and examples in docstrings of sketches without their library."""
    if sys.platform == "win32":
        windows.leave_out(config, items)
    if importlib.util.find_spec("datasketches") is None:
        for item in items:
            if item.name.startswith("poolagg.reducers.sketches."):
                item.add_marker(pytest.mark.skip("datasketches is not installed: pip install 'poolagg[sketches]'"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that skips itself on Windows fails where the suite decides: its name belongs into the list."""
    report = yield
    if sys.platform == "win32" and "POOLAGG_CI" in os.environ:
        windows.no_skip(report)
    return report


@pytest.fixture(params=tasks.METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Every start method."""
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process, descriptor, thread or shared memory outlives the test that made it."""
    before, servers = leaks.held(), leaks.standard_servers()
    yield
    orphans = leaks.stop_standard_servers(servers) or request.node.get_closest_marker("orphans") is not None
    extra = leaks.left_behind(before, orphans=orphans)
    assert not extra, f"left behind: {extra}"
