"""What tests of checkpoints run: a function that can be mended, and a watcher that keeps what it is told."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from poolagg import SerialPool, SkippedItems

ITEMS = 300
BAD = 170

SERIAL = SerialPool()
SERIAL.__enter__()


class Fragile:
    """Gives back `made(item)`; fails on `bad` items until it is mended, which is no difference to a checkpoint."""

    def __init__(self, folder, made=None, bad=(BAD,)):
        self.folder, self.made, self.bad = str(folder), made, bad

    def __call__(self, item):
        if item in self.bad and not os.path.exists(os.path.join(self.folder, "mended")):
            raise ValueError(f"no {item}")
        with open(os.path.join(self.folder, "ran"), "a") as file:
            file.write(f"{item}\n")
        return item if self.made is None else self.made(item)

    def mend(self):
        Path(self.folder, "mended").touch()

    def ran(self):
        """The items that were run since it was last asked."""
        path = Path(self.folder, "ran")
        items = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(map(int, items))


class Started:
    """A watcher that keeps what it is told, by kind."""

    def __init__(self):
        self.told = []

    def __call__(self, event):
        self.told.append(event)

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]


def tenth(x):
    return x / 10


class Idle(SerialPool):
    """A pool that must not be used."""

    def _begin(self, job, slots):
        raise AssertionError("a finished run needs no workers")


class Differ(Exception):
    pass


def differs(what):
    raise Differ(what)


def skipped(call, **options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SkippedItems)
        result = call(on_error="skip", **options)
    return result, [str(warning.message) for warning in told if warning.category is SkippedItems]
