"""What workers log is handled by the program's loggers, and what they warn of goes through its filters."""

from __future__ import annotations

import logging
import logging.config
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poolagg import Count, Into, ProcessPool, Sum, TaskError, ThreadPool, aggregate

NAME = "poolagg.tests.heard"


@pytest.fixture(params=["forkserver", "spawn", "fork", "threads"])
def pool(request: pytest.FixtureRequest) -> Any:
    """Every start method, and threads."""
    with ThreadPool(2) if request.param == "threads" else ProcessPool(2, start_method=request.param) as pool:
        yield pool


@pytest.fixture
def processes(method: str) -> Iterator[ProcessPool]:
    with ProcessPool(2, start_method=method) as pool:
        yield pool


class Listener(logging.Handler):
    """A handler that keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def heard() -> Iterator[list[logging.LogRecord]]:
    """What reaches a handler of a logger whose level is INFO."""
    logger, listener = logging.getLogger(NAME), Listener()
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    yield listener.records
    logger.removeHandler(listener)
    logger.setLevel(logging.NOTSET)


def logs(x: int) -> int:
    logger = logging.getLogger(NAME)
    logger.info("item %d", x)
    logger.debug("not at this level")
    return x


def test_a_record_reaches_the_handler_once_and_levels_decide(pool: Any, heard: list[logging.LogRecord]) -> None:
    assert aggregate(logs, range(20), Sum(), pool=pool) == 190
    assert sorted(record.getMessage() for record in heard) == sorted(f"item {x}" for x in range(20))
    assert {record.levelname for record in heard} == {"INFO"}


def test_a_record_says_which_process_and_which_item_it_is_from(
    processes: ProcessPool, heard: list[logging.LogRecord]
) -> None:
    aggregate(logs, range(20), Sum(), pool=processes)
    assert os.getpid() not in {record.process for record in heard}
    assert {(record.getMessage(), record.item_index) for record in heard} == {(f"item {x}", x) for x in range(20)}  # type: ignore[attr-defined]
    assert {record.funcName for record in heard} == {"logs"}
    assert {record.pathname for record in heard} == {__file__}


def test_records_are_handled_on_the_callers_thread(processes: ProcessPool) -> None:
    threads = set()

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            threads.add(threading.get_ident())

    logger, notes = logging.getLogger(NAME), Notes()
    logger.addHandler(notes)
    try:
        aggregate(lambda x: logger.error("oh"), range(3), Count(), pool=processes)
    finally:
        logger.removeHandler(notes)
    assert threads == {threading.get_ident()}


def test_a_filter_of_a_child_logger_decides(pool: Any, heard: list[logging.LogRecord]) -> None:
    child = logging.getLogger(f"{NAME}.child")

    def odd(record: logging.LogRecord) -> bool:
        return record.getMessage().endswith(("1", "3"))

    child.addFilter(odd)
    try:
        aggregate(lambda x: logging.getLogger(f"{NAME}.child").warning("%d", x), range(5), Count(), pool=pool)
    finally:
        child.removeFilter(odd)
    assert sorted(record.getMessage() for record in heard) == ["1", "3"]


def test_a_record_whose_arguments_do_not_pickle_arrives(pool: Any, heard: list[logging.LogRecord]) -> None:
    def logs_a_lock(x: int) -> None:
        extra = {"lock": threading.Lock(), "pair": (x, x)}
        logging.getLogger(NAME).info("%s of %r", "lock", threading.Lock(), extra=extra)

    aggregate(logs_a_lock, [7], Count(), pool=pool)
    (record,) = heard
    assert record.getMessage().startswith("lock of <unlocked _thread.lock")
    assert "_thread.lock" in str(record.lock)  # type: ignore[attr-defined]
    assert record.pair == (7, 7)  # type: ignore[attr-defined]


def test_a_logged_exception_arrives_as_its_traceback(pool: Any, heard: list[logging.LogRecord]) -> None:
    def fails(x: int) -> None:
        try:
            1 / x
        except ZeroDivisionError:
            logging.getLogger(NAME).exception("failed")

    aggregate(fails, [0], Count(), pool=pool)
    text = logging.Formatter().format(heard[0])
    assert text.startswith("failed\nTraceback (most recent call last)")
    assert text.endswith("ZeroDivisionError: division by zero")


def test_a_record_whose_arguments_do_not_fit_costs_no_item(
    processes: ProcessPool, heard: list[logging.LogRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported on stderr, as `logging` does anywhere."""
    assert aggregate(lambda x: logging.getLogger(NAME).info("%d", "x"), [1], Count(), pool=processes) == 1
    assert heard == []
    assert "--- Logging error ---" in capsys.readouterr().err


def test_levels_are_those_at_the_start_of_each_run(method: str, heard: list[logging.LogRecord]) -> None:
    """A kept worker hears of another level."""
    with ProcessPool(1, start_method=method) as kept:
        for level in (logging.INFO, logging.DEBUG, logging.ERROR):
            logging.getLogger(NAME).setLevel(level)
            aggregate(logs, [1], Sum(), pool=kept)
    assert [record.levelname for record in heard] == ["INFO", "INFO", "DEBUG"]


def test_what_logging_config_sets_up_gets_each_record_once(method: str, tmp_path: Path) -> None:
    """Also in a module that sets up `logging` when a worker imports it, and with a logger that does not propagate."""
    (tmp_path / "jobs.py").write_text(
        textwrap.dedent("""
        import logging, logging.config
        logging.config.dictConfig({
            "version": 1, "disable_existing_loggers": False,
            "formatters": {"short": {"format": "%(levelname)s %(name)s %(message)s"}},
            "handlers": {"file": {"class": "logging.FileHandler", "filename": "log", "formatter": "short"}},
            "loggers": {"jobs": {"handlers": ["file"], "level": "INFO", "propagate": False}},
        })
        def work(x):
            logging.getLogger("jobs.child").info("item %s", x)
            logging.getLogger("jobs").debug("too fine")
        """)
    )
    program = f"""
        import jobs
        from poolagg import Count, ProcessPool, aggregate
        aggregate(jobs.work, range(4), Count(), pool=ProcessPool(2, start_method={method!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == [f"INFO jobs.child item {x}" for x in range(4)]


def test_a_handler_that_only_the_worker_has_is_called_there(method: str, heard: list[logging.LogRecord]) -> None:
    """The initializer has added it, or `func` listens to what it calls."""

    def listens(x: int) -> list[str]:
        records: list[str] = []

        class Own(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record.getMessage())

        logger, own = logging.getLogger(NAME), Own()
        logger.addHandler(own)
        logger.info("heard twice")
        logger.removeHandler(own)
        return records

    seen: list[Any] = []
    aggregate(listens, [1], Into(seen.extend), pool=ProcessPool(1, start_method=method))
    assert seen == ["heard twice"]
    assert [record.getMessage() for record in heard] == ["heard twice"]


def test_an_exception_of_a_filter_propagates(processes: ProcessPool, heard: list[logging.LogRecord]) -> None:
    def refuses(record: logging.LogRecord) -> bool:
        raise LookupError("refused")

    logging.getLogger(NAME).addFilter(refuses)
    try:
        with pytest.raises(LookupError, match="refused"):
            aggregate(logs, range(100), Sum(), pool=processes)
    finally:
        logging.getLogger(NAME).removeFilter(refuses)


def test_records_of_threads_and_forked_children_arrive_whole(method: str, heard: list[logging.LogRecord]) -> None:
    """Longer than an atomic write, from four threads and a child at once."""

    def crowd(x: int) -> None:
        def talk(name: str) -> None:
            for n in range(20):
                logging.getLogger(NAME).info("%s %d %s", name, n, name * 9_000)

        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if (child := os.fork()) == 0:
            talk("e")
            os._exit(0)
        os.waitpid(child, 0)

    aggregate(crowd, [1], Count(), pool=ProcessPool(1, start_method=method))
    expected = [f"{name} {n} {name * 9_000}" for name in "abcde" for n in range(20)]
    assert sorted(record.getMessage() for record in heard) == sorted(expected)


# -- warnings ----------------------------------------------------------------------------------------------------------


class OwnWarning(UserWarning):
    """Of the program's own."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.pair = one, two

    def __reduce__(self) -> Any:
        return OwnWarning, self.pair


def warns(x: int) -> int:
    warnings.warn(OwnWarning(1, 2), stacklevel=1)
    return x


def test_a_warning_is_caught_by_the_program(pool: Any) -> None:
    with pytest.warns(OwnWarning, match="1 and 2") as caught:
        assert aggregate(warns, range(5), Sum(), pool=pool) == 10
    assert {warning.filename for warning in caught} == {__file__}
    assert isinstance(caught[0].message, OwnWarning)


def test_a_recorded_place_warns_once_over_all_workers_and_again_in_the_next_run(method: str) -> None:
    with ProcessPool(2, start_method=method) as kept:
        for _ in range(2):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                aggregate(warns, range(20), Sum(), pool=kept, chunksize=1)
            assert len(caught) == 1


def test_an_ignored_warning_is_not_heard(processes: ProcessPool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="1 and", category=OwnWarning)
        aggregate(warns, range(5), Sum(), pool=processes)
    assert caught == []


def test_a_warning_that_is_an_error_is_the_items_failure(pool: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OwnWarning)
        with pytest.raises(TaskError, match="OwnWarning: 1 and 2") as caught:
            aggregate(warns, [3], Sum(), pool=pool)
    assert caught.value.index == 0
    assert type(caught.value.__cause__) is OwnWarning


def test_a_warning_that_does_not_pickle_arrives_as_the_nearest_class(processes: ProcessPool) -> None:
    def warns_oddly(x: int) -> None:
        class Odd(DeprecationWarning):
            def __reduce__(self) -> Any:
                raise pickle.PicklingError("odd")

        warnings.warn(Odd("odd one"), stacklevel=1)

    with pytest.warns(DeprecationWarning, match="odd one"):
        aggregate(warns_oddly, [1], Count(), pool=processes)


def test_a_function_that_listens_to_warnings_hears_them(processes: ProcessPool) -> None:
    def listens(x: int) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warns(x)
        return len(caught)

    assert aggregate(listens, [1, 2], Sum(), pool=processes) == 2


@pytest.mark.parametrize("option", ["error", "default"])
def test_the_option_of_the_interpreter_counts_for_a_script(method: str, option: str, tmp_path: Path) -> None:
    """The warning names the script's file and line, and shows the line."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import warnings
        from poolagg import Count, ProcessPool, aggregate
        def warns(x):
            warnings.warn("careful")  # the line
        aggregate(warns, range(3), Count(), pool=ProcessPool(2, start_method={method!r}), chunksize=1)
        """)
    )
    command = [sys.executable, "-W", option, script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if option == "error":
        assert ran.returncode == 1
        assert "UserWarning: careful" in ran.stderr
    else:
        assert ran.returncode == 0
        assert ran.stderr == f'{script}:5: UserWarning: careful\n  warnings.warn("careful")  # the line\n'


# -- where code is -----------------------------------------------------------------------------------------------------


def test_a_traceback_from_a_worker_shows_the_files_and_lines_of_a_script(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from poolagg import Count, ProcessPool, aggregate
        def fails(x):
            return 1 / x  # the line
        aggregate(fails, [0], Count(), pool=ProcessPool(1, start_method={method!r}))
        """)
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert f'File "{script}", line 4, in fails\n' in ran.stderr.partition("In the worker:")[2]
    assert "return 1 / x  # the line" in ran.stderr
    assert "<dynamic-code>" not in ran.stderr


@pytest.mark.orphans  # the kernel is killed, and its forkserver ends after it
def test_a_traceback_from_a_worker_shows_the_lines_of_a_notebook_cell(method: str) -> None:
    import notebook

    cell = f"""
    from poolagg import Count, ProcessPool, aggregate
    def fails(x):
        return 1 / x  # the line
    try:
        aggregate(fails, [0], Count(), pool=ProcessPool(1, start_method={method!r}))
    except Exception as error:
        print(error.__cause__.__notes__[-1])
    """
    assert "return 1 / x  # the line" in notebook.shown(textwrap.dedent(cell))
