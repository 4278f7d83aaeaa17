"""A private PostgreSQL server: on a socket in a temporary folder, so that no other user can connect to it."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator


class Missing(Exception):
    """There is no PostgreSQL here."""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start one; gives what to connect with."""
    programs = _programs()
    # A socket's name is at most 107 bytes long, and root's folders are closed to the server, which must not be root.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        given = _another_user(folder)
        data, quiet = os.path.join(folder, "data"), {"stdin": subprocess.DEVNULL, "cwd": folder, **given}
        initdb = [f"{programs}/initdb", "-D", data, "-U", "poolagg", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        made = subprocess.run(initdb, capture_output=True, text=True, **quiet)
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        options = {"listen_addresses": "", "unix_socket_directories": folder, "autovacuum": "off", "fsync": "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with open(os.path.join(folder, "log"), "wb") as log:
            process = subprocess.Popen(
                [f"{programs}/postgres", "-D", data, *arguments], stderr=log, stdout=log, **quiet
            )
        try:
            address = f"host={folder} user=poolagg dbname=postgres"
            _wait(address, process, log.name)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _programs() -> str:
    """The folder that the server's programs are in; Debian does not put it on PATH."""
    if sys.platform == "win32":
        raise Missing("tests use PostgreSQL on other systems alone")
    found = shutil.which("postgres")
    if found is not None:
        return os.path.dirname(found)
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    if not folders:
        raise Missing("no PostgreSQL here: install it (Debian: apt-get install postgresql)")
    return folders[-1]


def _another_user(folder: str) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _wait(address: str, process: subprocess.Popen, log: str) -> None:
    """Wait until it replies and all of its processes run: a test counts those that it has started."""
    import psycopg

    until = time.monotonic() + 50
    while True:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(address, autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('checkpointer', 'background writer', "
            query += "'walwriter', 'logical replication launcher')"
            if connection.execute(query).fetchone() == (4,):
                return
        if process.poll() is not None or time.monotonic() > until:
            with open(log) as file:
                raise RuntimeError(f"PostgreSQL does not answer; exit code {process.poll()}: {file.read()[-2000:]}")
        time.sleep(0.02)
