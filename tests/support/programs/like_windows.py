"""A process on Linux that lacks what Windows lacks; `like_windows.py NAME ARGUMENTS` runs a function of it there.

Modules that Windows does not have cannot be imported, the names that it does not have are gone from `os`, `signal`,
`socket`, `select` and `mmap` (they are those of CPython 3.12), and a file that is open can be neither renamed, replaced
nor removed. The modules of poolagg that are named for Windows have a stand-in, for they call Windows: the same tests
run with the real ones under Wine.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import io
import mmap
import os
import select
import signal
import socket
import sqlite3
import sys
import types
from pathlib import Path

import cloudpickle
import numpy
import tqdm.std

# These look for what Linux has when they are imported, as on Windows for what Windows has.
IMPORTED = [cloudpickle, numpy, tqdm.std, *map(importlib.import_module, [
    *("asyncio", "concurrent.futures.process", "ctypes.util", "multiprocessing.connection", "multiprocessing.pool"),
    *("multiprocessing.forkserver", "multiprocessing.managers", "multiprocessing.shared_memory", "shutil"),
    *("subprocess", "tempfile", "webbrowser"),
])]  # fmt: skip

MODULES = (
    *(
        "_posixshmem",
        "_posixsubprocess",
        "crypt",
        "curses",
        "fcntl",
        "grp",
        "nis",
        "ossaudiodev",
        "posix",
        "pty",
        "pwd",
    ),
    *("readline", "resource", "spwd", "syslog", "termios", "tty"),
)

NAMES = {
    "os": """
        F_LOCK F_TEST F_TLOCK F_ULOCK MFD_ALLOW_SEALING MFD_CLOEXEC O_ACCMODE O_ASYNC O_CLOEXEC O_DIRECT
        O_DIRECTORY O_DSYNC O_FSYNC O_LARGEFILE O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_RSYNC
        O_SYNC O_TMPFILE SEEK_DATA SEEK_HOLE WCONTINUED WCOREDUMP WEXITED WEXITSTATUS WIFCONTINUED WIFEXITED
        WIFSIGNALED WIFSTOPPED WNOHANG WNOWAIT WSTOPPED WSTOPSIG WTERMSIG WUNTRACED chown chroot confstr
        confstr_names copy_file_range ctermid environb eventfd eventfd_read eventfd_write fchdir fchmod fchown
        fdatasync fork forkpty fpathconf fstatvfs fwalk getegid getenvb geteuid getgid getgrouplist getgroups
        getloadavg getpgid getpgrp getpriority getrandom getresgid getresuid getsid getuid getxattr grantpt
        initgroups killpg lchown listxattr lockf login_tty major makedev memfd_create minor mkfifo mknod nice
        openpty pathconf pathconf_names pidfd_open pipe2 posix_fadvise posix_fallocate posix_openpt posix_spawn
        posix_spawnp pread preadv process_cpu_count ptsname pwrite pwritev readv register_at_fork removexattr
        sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam sched_getscheduler
        sched_param sched_rr_get_interval sched_setaffinity sched_setparam sched_setscheduler sched_yield
        sendfile setegid seteuid setgid setgroups setns setpgid setpgrp setpriority setregid setresgid setresuid
        setreuid setsid setuid setxattr spawnlp spawnlpe spawnvp spawnvpe splice statvfs sync sysconf
        sysconf_names tcgetpgrp tcsetpgrp timerfd_create timerfd_gettime timerfd_gettime_ns timerfd_settime
        timerfd_settime_ns ttyname uname unlockpt unshare wait wait3 wait4 waitid waitid_result writev EX_IOERR
        EX_OSERR EX_USAGE POSIX_SPAWN_DUP2 POSIX_SPAWN_CLOSE RTLD_NOW RTLD_GLOBAL P_PIDFD SCHED_OTHER ST_RDONLY
    """,
    "signal": """
        ITIMER_PROF ITIMER_REAL ITIMER_VIRTUAL ItimerError SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGHUP SIGIO
        SIGIOT SIGKILL SIGPIPE SIGPOLL SIGPROF SIGPWR SIGQUIT SIGRTMAX SIGRTMIN SIGSTKFLT SIGSTOP SIGSYS SIGTRAP
        SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ SIG_BLOCK SIG_SETMASK
        SIG_UNBLOCK Sigmasks alarm getitimer pause pidfd_send_signal pthread_kill pthread_sigmask setitimer
        siginterrupt sigpending sigtimedwait sigwait sigwaitinfo struct_siginfo
    """,
    "socket": """
        AF_UNIX CMSG_LEN CMSG_SPACE MSG_DONTWAIT MSG_NOSIGNAL SCM_RIGHTS SOCK_CLOEXEC SOCK_NONBLOCK
        SOCK_SEQPACKET recv_fds send_fds sethostname
    """,
    "select": """
        EPOLLERR EPOLLET EPOLLEXCLUSIVE EPOLLHUP EPOLLIN EPOLLMSG EPOLLONESHOT EPOLLOUT EPOLLPRI EPOLLRDBAND
        EPOLLRDHUP EPOLLRDNORM EPOLLWRBAND EPOLLWRNORM EPOLL_CLOEXEC PIPE_BUF POLLERR POLLHUP POLLIN POLLMSG
        POLLNVAL POLLOUT POLLPRI POLLRDBAND POLLRDHUP POLLRDNORM POLLWRBAND POLLWRNORM epoll poll
    """,
    "mmap": """
        MAP_32BIT MAP_ANON MAP_ANONYMOUS MAP_DENYWRITE MAP_EXECUTABLE MAP_NORESERVE MAP_POPULATE MAP_PRIVATE
        MAP_SHARED MAP_STACK PROT_EXEC PROT_READ PROT_WRITE MADV_DONTNEED MADV_REMOVE MADV_WILLNEED
    """,
}


def pretend() -> None:
    """Take away from this process what Windows lacks."""
    stand_in = _stand_in()
    _forbid_what_open_files_forbid()
    for module in (os, signal, socket, select, mmap):
        for name in NAMES[module.__name__].split():
            vars(module).pop(name, None)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.platform = "win32"
    sys.modules[stand_in.__name__] = stand_in


def _stand_in() -> types.ModuleType:
    """What takes the place of the module for Windows: its names, on Linux's calls."""
    made = types.ModuleType("poolagg._runtime.system.windows")
    opened, flock, pread = os.open, fcntl.flock, os.pread
    flags, refused = os.O_CLOEXEC, fcntl.LOCK_EX | fcntl.LOCK_NB

    def try_lock(descriptor: int) -> bool:
        try:
            flock(descriptor, refused)
        except BlockingIOError:
            return False
        return True

    vars(made).update(
        CAN_REPLACE_OPEN_FILES=False, HOW_TO_KEEP_FILE="", HOW_TO_KEEP_FOLDER="", NO_FOLLOW=os.O_NOFOLLOW, NO_WAIT=0,
        open_file=lambda path, wanted, mode=0o600: opened(path, wanted | flags, mode),
        try_lock=try_lock, unlock=lambda descriptor: flock(descriptor, fcntl.LOCK_UN), read_at=pread,
        rename=lambda made, path: os.replace(made, path), sync_folder=lambda path: None, peak_memory=lambda: (0, 0),
        other_owner=lambda path, status, *, folder=False: None, other_writers=lambda path, status: None,
    )  # fmt: skip
    return made


def _forbid_what_open_files_forbid() -> None:
    """Let no file be renamed, replaced or removed that this process has open."""

    def guarded(function):
        def call(*paths, **keywords):
            for path in paths:
                if os.path.realpath(path) in _open_files():
                    raise PermissionError(errno.EACCES, "another process has it open", path)
            return function(*paths, **keywords)

        return call

    for name in ("remove", "rename", "replace", "unlink"):
        setattr(os, name, guarded(getattr(os, name)))


def _open_files() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the one that listed them
            pass
    return found


# -- what works there --------------------------------------------------------------------------------------------------


OF_POSIX = "tampering", "posix", "portable", "child", "launchers", "parent_death"
"""Modules of processes that a system without descriptors of pipes, signals or forks never imports."""


def imports() -> None:
    """Every module, but those that are named for another system, and the adapters of clusters."""
    import poolagg

    root = Path(poolagg.__file__).parent
    names = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in sorted(root.rglob("*.py"))]
    own = ("posix", "linux", "macos", "windows", "windows_acl")
    names = [name for name in names if name.rpartition(".")[2] not in (*own, "__main__", "dask", "ray", *OF_POSIX)]
    names = [name for name in names if "forkserver" not in name]
    assert len(names) > 100
    for name in names:
        importlib.import_module(name)
    for name in poolagg.__all__:
        getattr(poolagg, name)


def pools() -> None:
    """The serial pool and threads, with reducers that fold everywhere, failures and several strategies."""
    from poolagg import Collect, Frequencies, SerialPool, ThreadPool, aggregate, snapshots, strategies

    for pool in (SerialPool(), ThreadPool(3)):
        with pool:
            assert aggregate(lambda x: x * x, range(1000), Collect(), pool=pool) == [x * x for x in range(1000)]
            counted = aggregate(lambda x: x % 7, range(999), Frequencies(), pool=pool, strategy=strategies.Partition(3))
            assert sum(counted.values()) == 999
            assert sorted(pool.imap_unordered(abs, range(-50, 0))) == list(range(1, 51))
            with snapshots(abs, iter(range(200)), Collect(), pool=pool, every=1e-9) as looks:
                assert [*looks][-1].value == list(range(200))
            failed = []
            assert aggregate(lambda x: 4 / x, range(3), Collect(), pool=pool, on_error=failed.append) == [4.0, 2.0]
            assert [event.index for event in failed] == [0]


def progress() -> None:
    """A bar, and a report with the peak of memory."""
    from poolagg import Progress, Report, Sum, ThreadPool, aggregate

    drawn, report = io.StringIO(), Report()
    watch = [Progress(file=drawn), report]
    assert aggregate(abs, range(100), Sum(), pool=ThreadPool(2), watch=watch) == 4950
    assert "100%" in drawn.getvalue()
    assert "Sum" in str(report)
    assert aggregate(abs, range(100), Sum(), pool=ThreadPool(2), progress=True) == 4950


def checkpoint(folder: str, dies: str) -> None:
    """A run that ends its process in the middle, and is then continued."""
    from poolagg import Checkpoint, Collect, SerialPool, aggregate

    path = os.path.join(folder, "run.ckpt")

    def work(x: int) -> float:
        if dies and x == 70:
            os._exit(9)
        with open(os.path.join(folder, "ran"), "a") as file:
            file.write(f"{x}\n")
        return x / 7

    kept = Checkpoint(path, every=1e-9, key="whether it dies is no difference")
    result = aggregate(work, range(100), Collect(), pool=SerialPool(), chunksize=5, checkpoint=kept)
    assert result == [x / 7 for x in range(100)]
    assert sorted(os.listdir(folder)) == ["ran", "run.ckpt"], os.listdir(folder)


def resources(folder: str, dies: str) -> None:
    """A database and a file that partials go into, also after the process ended in the middle."""
    from poolagg import SerialPool, aggregate
    from poolagg.resources import IntoDatabase, IntoFile

    database, lines = os.path.join(folder, "found.db"), os.path.join(folder, "lines")
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE IF NOT EXISTS found (item INTEGER)")
    connection.close()

    def row(x: int) -> tuple[int]:
        if dies and x == 70:
            os._exit(9)
        return (x,)

    rows = IntoDatabase(database, "INSERT INTO found VALUES (?)", run="all", batch=10)
    for into in (IntoFile(lines).of(lambda row: str(*row)), rows):
        aggregate(row, range(100), into, pool=SerialPool(), chunksize=5, checkpoint=_kept())
    connection = sqlite3.connect(database)
    assert sorted(x for (x,) in connection.execute("SELECT item FROM found")) == list(range(100))
    connection.close()
    assert sorted(map(int, Path(lines).read_text().split())) == list(range(100))


def _kept():
    from poolagg import Checkpoint

    return Checkpoint(key="whether it dies is no difference")


def command_line(folder: str) -> None:
    """`poolagg run` in the serial pool, and `poolagg show`."""
    from poolagg.__main__ import main

    text, code, kept = (os.path.join(folder, name) for name in ("text", "my_code.py", "run.ckpt"))
    Path(text).write_text("to be\nor not to be\n")
    Path(code).write_text("def words(line):\n    return line.split()\n")
    words = ["run", f"{code}:words", text, "--reduce", "Frequencies().flat()", "--lines", "--pool", "serial"]
    assert main([*words, "--checkpoint", kept]) == 0
    assert main(["show", kept]) == 0


if __name__ == "__main__":
    pretend()
    globals()[sys.argv[1]](*sys.argv[2:])
