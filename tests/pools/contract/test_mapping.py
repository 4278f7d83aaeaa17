"""`map`, `starmap`, `imap` and `imap_unordered`: the results and the exceptions of a plain loop."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract import Kind, kinds
from tasks import identity, inverse, short, square

from poolagg import ProcessPool, SerialPool, Sum, ThreadPool, WorkerLost, aggregate

VERBS: dict[str, Callable[..., Any]] = {
    "map": lambda pool, *arguments: pool.map(*arguments),
    "imap": lambda pool, *arguments: list(pool.imap(*arguments)),
    "imap_unordered": lambda pool, *arguments: list(pool.imap_unordered(*arguments)),
}
"""What a caller gets from each verb, in a list."""

verbs = pytest.mark.parametrize("verb", VERBS)


def until_raised(results: Iterator[Any], error: type[BaseException]) -> tuple[list[Any], BaseException]:
    """The results before the exception, and the exception."""
    before: list[Any] = []
    with pytest.raises(error) as caught:
        before.extend(itertools.chain(map(before.append, results)))
    return [result for result in before if result is not None], caught.value


@kinds(ours=True)
def test_results_are_those_of_a_loop(pool: Any) -> None:
    for items in ([], [3], range(300), "words", (x for x in range(50)), {"b": 1, "a": 2}):
        items = list(items) if isinstance(items, Iterator) else items
        expected = list(map(identity, items))
        for chunksize in (None, 1, 7):
            assert pool.map(identity, items, chunksize) == expected
            assert list(pool.imap(identity, iter(items), chunksize)) == expected
            assert sorted(pool.imap_unordered(identity, items, chunksize=chunksize)) == sorted(expected)
    assert pool.starmap(pow, [(2, 5), [3, 2]]) == [32, 9]
    assert pool.starmap(pow, zip(range(20), itertools.repeat(2)), chunksize=3) == [x**2 for x in range(20)]


@kinds(ours=True)
@verbs
def test_the_exception_is_that_of_func_with_a_note_that_names_the_item(pool: Any, verb: str) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        VERBS[verb](pool, inverse, [1, 2, 0, 4])
    assert "poolagg: inverse failed on item 2, 0" in caught.value.__notes__
    assert VERBS[verb](pool, square, [3]) == [9], "and the pool serves on"


@kinds(ours=True)
def test_an_exception_comes_after_the_results_before_it(pool: Any) -> None:
    before, _ = until_raised(pool.imap(inverse, [*range(1, 40), 0, *range(1, 400)]), ZeroDivisionError)
    assert before == [1 / x for x in range(1, 40)]
    before, _ = until_raised(pool.imap_unordered(inverse, [*range(1, 40), 0], 40), ZeroDivisionError)
    assert sorted(before) == sorted(1 / x for x in range(1, 40))


@kinds(ours=True)
def test_of_several_exceptions_the_first_in_the_input_is_raised(kind: Kind, pool: Any, tmp_path: Any) -> None:
    """However late it comes: item 0 fails after item 1 has."""

    def fails(x: int) -> None:
        path = tmp_path / "failed"
        if x == 0 and kind.slots > 1:
            while not path.exists():
                short(x)
        path.touch()
        raise LookupError(x)

    for verb in ("map", "imap"):
        (tmp_path / "failed").unlink(missing_ok=True)
        with pytest.raises(LookupError, match="0"):
            VERBS[verb](pool, fails, [0, 1], 1)


@kinds(ours=True)
def test_after_a_failure_no_further_input_is_pulled(pool: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        pool.map(inverse, itertools.chain([1, 0], itertools.count(1)))


@kinds(ours=True)
@verbs
def test_an_exception_of_the_input_comes_as_it_is_after_the_results_before_it(pool: Any, verb: str) -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise LookupError("midway")

    with pytest.raises(LookupError, match="midway") as caught:
        VERBS[verb](pool, square, items())
    assert "item 10" in caught.value.__notes__[0]
    if verb != "map":
        before, _ = until_raised(getattr(pool, verb)(square, items()), LookupError)
        assert sorted(before) == [x * x for x in range(10)]
        before, _ = until_raised(getattr(pool, verb)(square, items(), 4), LookupError)
        assert sorted(before) == [x * x for x in range(8)], "a chunk that is not complete does not run, as there"


@kinds(ours=True, pickles=True)
@verbs
def test_an_item_that_does_not_pickle_raises_what_its_pickling_raises(pool: Any, verb: str) -> None:
    with pytest.raises(TypeError, match="cannot pickle") as caught:
        VERBS[verb](pool, identity, [1, threading.Lock()])
    assert type(caught.value) is TypeError


@kinds(processes=True)
@verbs
def test_an_item_that_kills_its_worker_is_named(pool: Any, verb: str) -> None:
    def deadly(x: int) -> int:
        return os._exit(3) if x == 5 else x

    with pytest.raises(WorkerLost) as caught:
        VERBS[verb](pool, deadly, range(10))
    assert (caught.value.index, caught.value.item, caught.value.exitcode) == (5, 5, 3)


@kinds(ours=True)
@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_the_input_is_pulled_as_results_are_taken(pool: Any, verb: str) -> None:
    pulled = itertools.count()
    results = getattr(pool, verb)(short, (next(pulled) for _ in itertools.count()), 1)
    assert next(pulled) == 0, "nothing runs before the first result is asked for"
    for taken in range(30):
        next(results)
        assert next(pulled) < 40 + 3 * taken
    results.close()
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@kinds(ours=True)
def test_bad_arguments_fail_at_the_call(pool: Any) -> None:
    for verb in (pool.map, pool.imap, pool.imap_unordered, pool.starmap):
        with pytest.raises(TypeError, match=r"func|star"):
            verb(3, [1])
        with pytest.raises(TypeError, match="iterable"):
            verb(abs, 3)
        with pytest.raises(ValueError, match="chunksize"):
            verb(abs, [1], chunksize=0)


@kinds(ours=True)
def test_a_closed_pool_runs_nothing(kind: Kind) -> None:
    pool = kind.make()
    left = pool.imap(short, itertools.count())
    assert next(left) == 0
    pool.terminate()
    pool.join()
    for verb in (pool.map, pool.imap, pool.imap_unordered, pool.starmap, pool.__enter__):
        with pytest.raises(ValueError, match="is closed"):
            verb(*((abs, []) if verb != pool.__enter__ else ()))
    with pytest.raises(ValueError, match="is closed"):
        for _ in left:
            pass


@kinds(ours=True)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_join_waits_until_the_run_and_the_workers_have_ended(kind: Kind, end: str) -> None:
    import leaks

    pool, under_way, raised = kind.make(), threading.Event(), []
    with pytest.raises(ValueError, match="close"):
        pool.join()

    def run() -> None:
        with pytest.raises(ValueError, match="is closed") as caught:
            for _ in pool.imap(short, itertools.count()):
                under_way.set()
        raised.append(caught.value)

    before = leaks.held()
    thread = threading.Thread(target=run)
    thread.start()
    under_way.wait()
    getattr(pool, end)()
    pool.join()
    assert not leaks.left_behind(before, patience=0).get("processes")
    assert not any(name.startswith("poolagg") for name in leaks.left_behind(before, patience=0).get("threads", []))
    thread.join()
    assert len(raised) == 1


def test_the_arguments_of_the_standard_library_work_or_are_refused_by_name() -> None:
    with ProcessPool(2, os.chdir, ("/",)) as processes:
        assert processes.map(lambda x: os.getcwd(), [0]) == [os.path.abspath("/")]
    seen: list[int] = []
    with ThreadPool(2, seen.append, (1,)) as threads:
        assert threads.map(square, [3, 4]) == [9, 16]
    assert seen == [1, 1]
    for make, name, here in (
        (ProcessPool, "processes", "workers"),
        (ThreadPool, "processes", "workers"),
        (ProcessPool, "maxtasksperchild", "max_items_per_worker"),
        (ProcessPool, "context", "start_method"),
        (ProcessPool, "mp_context", "called start_method"),
        (ProcessPool, "n_jobs", "called workers"),
        (ThreadPool, "max_workers", "called workers"),
    ):
        with pytest.raises(TypeError, match=rf"{name}.*{here}"):
            make(**{name: 2})


@pytest.mark.parametrize("name", ["apply", "apply_async", "map_async", "starmap_async", "submit"])
def test_what_is_deliberately_not_there_names_the_way(name: str) -> None:
    for pool in (ProcessPool(2), ThreadPool(2), SerialPool()):
        assert not hasattr(pool, name)
        with pytest.raises(AttributeError, match=rf"'{name}': .*(map|aggregate|concurrent.futures)"):
            getattr(pool, name)
        with pytest.raises(AttributeError, match=r"'mapp'$"):
            pool.mapp
