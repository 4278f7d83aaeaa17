"""Functions for tests of workers as processes of `multiprocessing`. Imports little, since workers import it."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
import random
import tempfile
import time
import weakref


def who(x):
    time.sleep(0.02)
    me, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    return os.getpid(), me.name, me._identity, me.pid, me.daemon, parent.name, parent.pid, parent.is_alive()


def put(proxies, x):
    queue, counts, lock, event, value = proxies
    with lock:
        counts["n"] = counts.get("n", 0) + 1
        value.value += x
    queue.put(x)
    event.set()
    return x


def keep(*proxies):
    global kept
    kept = proxies


def put_in_kept(x):
    return put(kept, x)


def count_up(x):
    value, lock, event, queue = kept
    with lock, value.get_lock():
        value.value += x
    event.set()
    queue.put(x)
    return x


def note(folder, what):
    with open(os.path.join(folder, what), "a") as file:
        file.write("x")


class Thing:
    pass


def prepare_to_leave(folder):
    global thing, file, directory, binary
    atexit.register(note, folder, "atexit")
    multiprocessing.util.Finalize(None, note, args=(folder, "Finalize"), exitpriority=1)
    thing = Thing()
    weakref.finalize(thing, note, folder, "weakref")
    file = open(os.path.join(folder, f"text {os.getpid()}"), "w")
    file.write("written, not flushed")
    binary = open(os.path.join(folder, f"binary {os.getpid()}"), "wb")
    binary.write(b"written, not flushed")
    directory = tempfile.TemporaryDirectory(dir=folder)


def numbers(x):
    import numpy as np

    time.sleep(0.002)
    return random.random(), float(np.random.random())


def seed():
    import numpy as np

    random.seed(1)
    np.random.seed(1)
