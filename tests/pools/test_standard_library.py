"""CPython's own tests of `multiprocessing.Pool` pass with a pool of ours in its place.

The cases are those of `_TestPool` in the test suite of the interpreter that runs this. `LEFT_OUT` and `OTHERWISE` say
which cases, and which lines of the others, ask for what a pool of ours does not have, and why.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import unittest
from collections.abc import Callable
from typing import Any

import pytest
from tasks import METHODS

from poolagg import ProcessPool, ThreadPool

try:
    import test._test_multiprocessing as cpython
except (ImportError, unittest.SkipTest) as error:
    pytest.skip(f"this interpreter comes without CPython's tests of multiprocessing: {error}", allow_module_level=True)

LEFT_OUT = {
    "test_apply": "there is no apply: map runs func in the pool",
    "test_async": "there is no apply_async",
    "test_async_timeout": "there is no apply_async",
    "test_map_async": "there is no map_async: imap returns at once",
    "test_map_async_callbacks": "there is no map_async",
    "test_starmap_async": "there is no starmap_async",
    "test_resource_warning": "a pool that is dropped ends its workers, so there is nothing to warn of",
}
"""Cases that are about something else than the four verbs, and why."""

OTHERWISE: dict[str, list[tuple[str, str, str]]] = {
    "test_map_chunksize": [
        (
            "self.pool.map_async(sqr, [], chunksize=1).get(timeout=TIMEOUT1)",
            "self.pool.map(sqr, [], chunksize=1)",
            "there is no map_async",
        )
    ],
    "test_make_pool": [("self.assertEqual(3, len(p._pool))", "pass", "the list of workers is an internal")],
    "test_terminate": [
        (
            "result = p.map_async(time.sleep, args, chunksize=1)",
            "result = p.imap(time.sleep, args, chunksize=1)",
            "there is no map_async",
        )
    ],
    "test_empty_iterable": [
        ("self.assertEqual(p.map_async(sqr, []).get(), [])", "pass", "there is no map_async"),
    ],
    "test_context": [
        ("r = p.map_async(sqr, L)", "r = p.map(sqr, L)", "there is no map_async"),
        ("self.assertEqual(r.get(), expected)", "self.assertEqual(r, expected)", "there is no map_async"),
        (
            "self.assertRaises(ValueError, p.map_async, sqr, L)",
            "self.assertRaises(ValueError, p.map, sqr, L)",
            "as above",
        ),
    ],
    "test_traceback": [
        ("p.apply(self._test_traceback)", "p.starmap(self._test_traceback, [()])", "there is no apply"),
        ("cause = exc.__cause__", "pass", "a note holds the worker's traceback, and the cause is func's own"),
        ("self.assertIs(type(cause), multiprocessing.pool.RemoteTraceback)", "pass", "as above"),
        ("self.assertIn('raise RuntimeError(123) # some comment', cause.tb)", "pass", "as above"),
    ],
    "test_wrapped_exception": [
        ("p.apply(self._test_wrapped_exception)", "p.starmap(self._test_wrapped_exception, [()])", "there is no apply"),
    ],
    "test_map_no_failfast": [
        (
            "self.assertGreater(time.monotonic() - t_start, 0.9)",
            "self.assertGreater(time.monotonic() - t_start, 0.5)",
            "close() does not wait for work that nobody wants any more",
        )
    ],
}
"""Lines of cases, what stands in their place, and why."""


def case_of(name: str) -> Callable[[Any], None]:
    """The case, with the lines of `OTHERWISE` in the place of its own."""
    source = textwrap.dedent(inspect.getsource(getattr(cpython._TestPool, name)))
    for line, instead, _ in OTHERWISE.get(name, []):
        assert source.count(line) == 1, f"{name} of this Python has no line {line!r}: read what it asserts now"
        source = source.replace(line, instead)
    defined: dict[str, Any] = {}
    exec(compile(source, f"{cpython.__file__}:{name}", "exec"), vars(cpython), defined)
    return defined[name]


CASES = [name for name in vars(cpython._TestPool) if name.startswith("test_") and name not in LEFT_OUT]

POOLS = {method: functools.partial(ProcessPool, start_method=method) for method in METHODS} | {"threads": ThreadPool}

for kind, make in POOLS.items():
    # At the top level of a module, since workers find `cls._test_traceback` by name; pytest must not collect it.
    globals()[kind] = type(
        kind,
        (cpython._TestPool, unittest.TestCase),
        {
            **dict.fromkeys(LEFT_OUT),
            **{name: case_of(name) for name in CASES},
            "TYPE": "threads" if kind == "threads" else "processes",
            "Pool": staticmethod(make),
            "__test__": False,
            "__module__": __name__,
        },
    )


@pytest.mark.parametrize("kind", POOLS)
def test_the_cases_of_the_standard_library_pass(kind: str) -> None:
    cases = globals()[kind]
    result = unittest.TestResult()
    unittest.TestSuite(map(cases, CASES)).run(result)
    assert [trace for _, trace in result.errors + result.failures] == []
    skipped = {case._testMethodName for case, _ in result.skipped}
    assert skipped == ({"test_map_unplicklable"} if kind == "threads" else set())
    assert result.testsRun == len(CASES) >= 16


def test_each_line_that_is_left_out_has_its_reason() -> None:
    names = {name for name in vars(cpython._TestPool) if name.startswith("test_")}
    assert set(LEFT_OUT) | set(OTHERWISE) <= names
    assert all(LEFT_OUT.values())
    assert all(reason for lines in OTHERWISE.values() for *_, reason in lines)
