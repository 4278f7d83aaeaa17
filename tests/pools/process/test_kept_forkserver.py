"""One forkserver serves all pools of a process, but only as long as a worker would start in the same way without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
from tasks import wait_for

from poolagg import Collect, ProcessPool, Sum, aggregate
from poolagg.pools.process.launch.forkserver import connection, kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a start method of Linux")


@pytest.fixture(autouse=True)
def a_new_one() -> Iterator[None]:
    """No forkserver is there before a test, and none after it."""
    kept._at_exit()
    yield
    kept._at_exit()


def forkserver() -> int:
    """Return the pid of the forkserver that is kept."""
    found = kept.kept()
    assert found is not None
    assert found.process is not None
    return found.process.pid


def look(_: int) -> tuple[Any, ...]:
    """What a worker inherits from the process that started it."""
    import resource

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    umask = os.umask(0)
    os.umask(umask)
    return (
        os.getppid(),
        os.environ.get("POOLAGG_TEST"),
        os.getcwd(),
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        umask,
        signal.SIGUSR2 in mask,
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
        os.sched_getaffinity(0),
    )


def seen() -> tuple[Any, ...]:
    """Return what a worker of a new pool sees."""
    (found,) = aggregate(look, range(1), Collect(), pool=ProcessPool(1))
    return found


# -- one for all -------------------------------------------------------------------------------------------------------


def test_pools_one_after_another_and_side_by_side_use_one_and_their_workers_are_new() -> None:
    pids: list[int] = []
    with ProcessPool(2) as first, ProcessPool(2) as second:
        for pool in (first, second):
            pids += aggregate(lambda _: os.getpid(), range(8), Collect(), pool=pool, chunksize=1)
        assert {psutil.Process(pid).ppid() for pid in set(pids)} == {forkserver()}
    before = forkserver()
    pids_after = aggregate(lambda _: os.getpid(), range(8), Collect(), pool=ProcessPool(2), chunksize=1)
    assert forkserver() == before
    assert not set(pids) & set(pids_after)


def test_threads_that_open_pools_at_once_share_it_and_leave_no_other() -> None:
    before = {child.pid for child in psutil.Process().children()}  # servers of the standard library, say
    with ProcessPool(1) as pool:
        assert pool.map(abs, [-1]) == [1]
    totals: list[int] = []

    def some() -> None:
        totals.extend(aggregate(abs, range(10), Sum(), pool=ProcessPool(1)) for _ in range(5))

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == [45] * 20
    assert {child.pid for child in psutil.Process().children()} - before == {forkserver()}


def test_a_forked_child_has_one_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    seen()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            own = kept.kept() is None
            parent = seen()[0]
            os.write(writer, b"its own" if own and parent == forkserver() else b"not")
            kept._at_exit()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "its own"
    os.waitpid(child, 0)
    assert seen()[0] == forkserver()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="an interpreter within a process could start no other process")
def test_each_interpreter_of_a_process_has_one_of_its_own(tmp_path: Path) -> None:
    program = """
        import _interpreters, os, sys
        os.environ["LIKE"] = repr(sys.path)
        for _ in range(2):
            interpreter = _interpreters.create("legacy")
            error = _interpreters.exec(interpreter, '''if True:
                import os, sys
                sys.path[:] = eval(os.environ["LIKE"])
                from poolagg import *
                from poolagg.pools.process.launch.forkserver import kept
                for _ in range(2):
                    assert aggregate(abs, range(3), Sum(), pool=ProcessPool(1)) == 3
                    print(kept.kept().process.pid, flush=True)
                kept._at_exit()
            ''')
            assert error is None, error
            _interpreters.destroy(interpreter)
    """
    ran = run(program, tmp_path)
    pids = ran.stdout.split()
    assert (pids[0], pids[2]) == (pids[1], pids[3]), ran.stderr
    assert pids[0] != pids[2]


def test_processes_of_pytest_xdist_have_one_each(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import os, pytest
            from poolagg import *

            @pytest.mark.parametrize("number", range(4))
            def test_two_pools(number):
                parents = [aggregate(look, range(1), Collect(), pool=ProcessPool(1))[0] for _ in range(2)]
                assert parents[0] == parents[1]
                assert parents[0][1] == os.getpid()

            def look(_):
                server = os.getppid()
                with open(f"/proc/{server}/stat") as file:
                    return server, int(file.read().rpartition(")")[2].split()[1])
        """)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert "4 passed" in ran.stdout, ran.stdout


# -- as if each worker were started now --------------------------------------------------------------------------------


def with_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    monkeypatch.setenv("POOLAGG_TEST", "changed")
    return 1, "changed"


def with_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    monkeypatch.chdir(folder)
    return 2, str(folder)


def with_umask(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    os.umask(0o27)
    return 4, 0o27


def with_signal_mask(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    return 5, True


def with_ignored_signal(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return 6, True


def with_one_cpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    one = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, one)
    return 7, one


def with_limit(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[int, Any]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    return 3, soft - 1


@pytest.fixture
def restored() -> Iterator[None]:
    """Put back what a test changes of this process."""
    import resource

    limits, cpus = resource.getrlimit(resource.RLIMIT_NOFILE), os.sched_getaffinity(0)
    umask, hangup = os.umask(0), signal.getsignal(signal.SIGHUP)
    os.umask(umask)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.sched_setaffinity(0, cpus)
    os.umask(umask)
    signal.signal(signal.SIGHUP, hangup)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.mark.parametrize(
    "change",
    [with_environment, with_folder, with_umask, with_signal_mask, with_ignored_signal, with_one_cpu, with_limit],
)
def test_a_worker_has_what_its_parent_has_when_it_starts(
    change: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restored: None
) -> None:
    """Though the forkserver was started before the change; and again after it is taken back."""
    before = seen()
    which, value = change(monkeypatch, tmp_path)
    assert seen()[which] == value != before[which]


def test_a_worker_finds_the_import_path_and_the_streams_of_its_parent(tmp_path: Path) -> None:
    program = """
        import os, sys
        from poolagg import *

        def one(x):
            print("from a worker", flush=True)
            import found_there
            return found_there.ONE

        def total():
            return aggregate(one, range(1), Sum(), pool=ProcessPool(1, output="inherit"))

        assert aggregate(abs, range(3), Sum(), pool=ProcessPool(1, output="inherit")) == 3
        sys.path.insert(0, sys.argv[1])
        assert total() == 1
        os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 1)
        assert total() == 1
    """
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "found_there.py").write_text("ONE = 1")
    ran = run(program, tmp_path, str(tmp_path / "lib"), str(tmp_path / "out"))
    assert (ran.stdout, ran.stderr) == ("from a worker\n", "")
    assert (tmp_path / "out").read_text() == "from a worker\n"


def test_flags_of_the_interpreter_reach_workers(tmp_path: Path) -> None:
    program = """
        import sys
        from poolagg import *
        total = aggregate(lambda _: sys.flags.utf8_mode + sys.flags.optimize, range(1), Sum(), pool=ProcessPool(1))
        print(total)
    """
    assert run(program, tmp_path, flags=["-O", "-X", "utf8"]).stdout == "2\n"


# -- installed packages ------------------------------------------------------------------------------------------------

VERSIONS = """
    import importlib, os, sys
    from pathlib import Path
    from poolagg import *

    PLACE = Path(sys.argv[1])
    sys.path.insert(0, str(PLACE))

    def write(version):
        (PLACE / "dependency.py").write_text(f"VERSION = {version!r}")

    write("the first")
    import dependency
    import package

    def versions():
        return aggregate(lambda _: (package.VERSION, os.getppid()), range(1), Collect(), pool=ProcessPool(1))[0]

    version, forkserver = versions()
    again, same = versions()
    assert version == again == "the first" and same == forkserver
"""


@pytest.mark.parametrize("place", ["site-packages", "of_the_user"])
@pytest.mark.parametrize(
    "change",
    [
        'write("edited")',
        'write("reloaded"); importlib.reload(dependency); importlib.reload(package)',
        'os.rename(PLACE / "dependency.py", PLACE / "old.py"); write("upgraded")',
    ],
    ids=["edited", "reloaded", "upgraded in place"],
)
def test_a_module_that_is_another_by_now_is_never_the_old_one(change: str, place: str, tmp_path: Path) -> None:
    """Installed or not, and though the file that changed is of a module that only another one imports."""
    folder = tmp_path / place
    folder.mkdir()
    (folder / "package.py").write_text("from dependency import VERSION")
    program = f"{textwrap.dedent(VERSIONS)}\n{change}\nprint(versions()[0])"
    ran = run(program, tmp_path, str(folder))
    assert (ran.stdout, ran.stderr) == (f"{change.split(chr(34))[-2]}\n", "")


def test_it_imports_what_jobs_name_before_it_forks_and_no_file_of_the_users(tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from poolagg import *
        installed, own = Path(sys.argv[1]) / "site-packages", Path(sys.argv[1]) / "own"
        for folder in (installed, own):
            folder.mkdir()
            sys.path.insert(0, str(folder))
        (installed / "package.py").write_text("import os; PID = os.getpid()")
        (own / "mine.py").write_text("import os, package; PID = os.getpid()\\ndef pids(_): return package.PID, PID")
        import mine
        for pids in aggregate(mine.pids, range(2), Collect(), pool=ProcessPool(1)):
            parent = aggregate(lambda _: os.getppid(), range(1), Collect(), pool=ProcessPool(1))[0]
            print(pids[0] == parent, pids[1] == parent)
    """
    ran = run(program, tmp_path, str(tmp_path))
    assert (ran.stdout, ran.stderr) == ("True False\n" * 2, "")


@pytest.mark.parametrize(
    "leaves",
    [
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import os; OPEN = os.open(os.devnull, os.O_RDONLY)",
    ],
    ids=["a thread", "a descriptor"],
)
def test_a_package_whose_import_leaves_something_behind_is_imported_by_workers(leaves: str, tmp_path: Path) -> None:
    """A thread does not survive a fork, and a descriptor would be shared."""
    program = """
        import os, sys
        from pathlib import Path
        from poolagg import *
        folder = Path(sys.argv[1]) / "site-packages"
        folder.mkdir()
        sys.path.insert(0, str(folder))
        (folder / "package.py").write_text("import os; PID = os.getpid()\\n" + sys.argv[2])
        import package
        for _ in range(2):
            pids = aggregate(lambda _: (package.PID, os.getpid()), range(1), Collect(), pool=ProcessPool(1))
            print(pids[0][0] == pids[0][1])
    """
    ran = run(program, tmp_path, str(tmp_path), leaves)
    assert (ran.stdout, ran.stderr) == ("True\n" * 2, "")


def test_a_package_that_refuses_to_be_imported_is_the_workers_error(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from poolagg import *
        folder = Path(sys.argv[1]) / "site-packages"
        folder.mkdir()
        sys.path.insert(0, str(folder))
        (folder / "package.py").write_text("ONE = 1")
        import package
        (folder / "package.py").write_text("raise RuntimeError('not here')")
        try:
            aggregate(lambda _: package.ONE, range(1), Sum(), pool=ProcessPool(1))
        except ReducerError as error:
            print("not here" in str(error) or "not here" in str(error.__cause__))
        except Exception as error:
            print(type(error), error)
    """
    assert run(program, tmp_path, str(tmp_path)).stdout == "True\n"


@pytest.mark.orphans
def test_a_package_whose_import_ends_the_process_does_not_end_the_pool(tmp_path: Path) -> None:
    """The import ends workers, as it did before, but no forkserver a second time."""
    program = """
        import os, sys
        from pathlib import Path
        from poolagg import *
        folder = Path(sys.argv[1]) / "site-packages"
        folder.mkdir()
        sys.path.insert(0, str(folder))
        PARENT = os.getpid()
        (folder / "package.py").write_text(f"import os\\nif os.getppid() == {PARENT}: os._exit(3)\\nONE = 1")
        import package
        print(aggregate(lambda _: package.ONE, range(3), Sum(), pool=ProcessPool(1)))
    """
    ran = run(program, tmp_path, str(tmp_path))
    assert (ran.stdout, ran.stderr) == ("3\n", "")


def test_a_module_of_the_users_with_an_installed_name_keeps_all_imports_in_workers(tmp_path: Path) -> None:
    """An installed package may import it by that name."""
    program = """
        import sys
        from pathlib import Path
        import numpy
        from poolagg.pools.process.launch.forkserver.preload import modules_named
        print(modules_named([b"\\x8c\\x05numpy\\x94"]))
        (Path(sys.argv[1]) / "tqdm.py").write_text("")
        sys.modules.pop("tqdm", None)
        import tqdm
        assert tqdm.__file__.startswith(sys.argv[1])
        print(modules_named([b"\\x8c\\x05numpy\\x94"]))
    """
    ran = run(program, tmp_path, str(tmp_path))
    assert (ran.stdout, ran.stderr) == ("['numpy']\n[]\n", "")


def test_an_archive_in_the_import_path_is_the_workers(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "site-packages.zip", "w") as archive:
        archive.writestr("zipped.py", "ONE = 1")
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import zipped
        from poolagg import *
        print(aggregate(lambda _: zipped.ONE, range(3), Sum(), pool=ProcessPool(1)))
    """
    assert run(program, tmp_path, str(tmp_path / "site-packages.zip")).stdout == "3\n"


def test_workers_that_are_forked_with_numpy_draw_different_numbers() -> None:
    for _ in range(2):
        with ProcessPool(2) as pool:
            drawn = aggregate(draw, range(8), Collect(), pool=pool, chunksize=1)
        assert len({number for _, number in drawn}) == 8


def draw(_: int) -> tuple[int, int]:
    return os.getpid(), int(numpy.random.randint(0, 2**62))


def test_an_environment_of_each_worker_is_there_before_its_packages() -> None:
    """A library may read it as it is imported."""
    seen()
    with ProcessPool(2, env=lambda worker: {"POOLAGG_TEST": str(worker)}) as pool:
        found = aggregate(look, range(20), Collect(), pool=pool, chunksize=1)
    assert {one[1] for one in found} <= {"0", "1"}


# -- its end -----------------------------------------------------------------------------------------------------------


def test_it_ends_when_it_is_idle_and_the_next_pool_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.05)
    first = seen()[0]
    assert kept.kept() is not None
    assert kept.kept().process.ends_within(30)  # type: ignore[union-attr]
    assert seen()[0] != first


def test_it_does_not_end_while_it_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.01)
    with ProcessPool(1) as pool:
        first = pool.map(look, range(1))[0][0]
        assert not kept.kept().process.ends_within(0.3)  # type: ignore[union-attr]
        assert pool.map(look, range(1))[0][0] == first


@pytest.mark.orphans
@pytest.mark.parametrize(
    "end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.execv('/bin/true', ['true'])"]
)
def test_it_ends_with_its_parent_however_that_ends(end: str, tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from poolagg import *
        from poolagg.pools.process.launch.forkserver.kept import kept
        assert aggregate(abs, range(3), Sum(), pool=ProcessPool(1)) == 3
        print(kept().process.pid, flush=True)
        {end}
    """
    pid = int(run(program, tmp_path).stdout)
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_program_that_ends_leaves_no_orphan(tmp_path: Path) -> None:
    """With a pool that it has closed, and with one that it has not."""
    program = """
        from poolagg import *
        assert aggregate(abs, range(3), Sum(), pool=ProcessPool(1)) == 3
        pool = ProcessPool(2)
        assert pool.map(abs, range(3)) == [0, 1, 2]
    """
    assert run(program, tmp_path).returncode == 0


def run(program: str, folder: Path, *arguments: str, flags: list[str] | None = None) -> Any:
    """Run a program of its own."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(program))
    command = [sys.executable, *(flags or []), str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)
