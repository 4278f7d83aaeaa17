"""Runs that put pairs into a place, on this thread and chunk by chunk."""

from __future__ import annotations

import os
import signal

import places
from checkpointed import SERIAL
from paths import SUPPORT

from poolagg import Checkpoint, ResourceError, aggregate

ITEMS = 120


def made(name, folder, request):
    where = places.place(name, folder, request.getfixturevalue("address") if name == "postgres" else "")
    where.make()
    return where


def pair(item):
    return item, str(item)


def pairs(items):
    return [pair(item) for item in items]


KEY = Checkpoint(key="whatever it holds")
"""`Breaking` changes from run to run."""


def kept(**options):
    return Checkpoint(key=KEY.key, **options)


def into(func, items, where, **options):
    """A run on this thread, chunk by chunk."""
    given = {"pool": SERIAL, "chunksize": 10, "checkpoint": KEY, **options}
    return aggregate(func, items, where.into(), **given)


def arguments(where):
    """The words that a script finds the place by."""
    names = {places.SQLite: "sqlite", places.PostgreSQL: "postgres", places.File: "file", places.Own: "own"}
    return [str(SUPPORT), names[type(where)], where.folder, where.address]


def in_a_fork(what):
    """Do it in a child process; how that ended."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(30)
            what()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Countdown:
    """Wraps functions; at the n-th call of any of them it does something before it, or after it."""

    def __init__(self, number, then, after):
        self.left, self.then, self.after = number, then, after

    def wrap(self, owner, *names):
        for name in names:
            self._wrap(owner, name, getattr(owner, name))
        return self

    def _wrap(self, owner, name, function):
        def counted(*arguments, **keywords):
            self.left -= 1
            mine = not self.left
            if mine and not self.after:
                self.then()
            result = function(*arguments, **keywords)
            if mine and self.after:
                self.then()
            return result

        setattr(owner, name, counted)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def raised_by(what):
    """The ResourceError that it raised, if it did."""
    try:
        what()
    except ResourceError as error:
        return error
    return None
