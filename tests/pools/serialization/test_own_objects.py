"""A script's locks, thread-locals, context variables, streams and their kin work in workers, with every start method.

A row is a function of the script and what it gives in a worker. Each program runs in a process of its own.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import textwrap
import threading
from contextvars import ContextVar

import cloudpickle
import pytest

from poolagg import Collect, ProcessPool, TaskError, aggregate, share
from poolagg.pools.serialization.pickling import dumps_by_value, dumps_code

PREAMBLE = """
import contextvars, functools, itertools, json, logging, queue, random, re, sys, threading, time, weakref
from poolagg import *

def run(rows, methods=("fork", "forkserver", "spawn"), **options):
    for method in methods:
        with ProcessPool(1, start_method=method, **options) as pool:
            for f, expected in rows:
                (found,) = aggregate(f, [4], Collect(), pool=pool)
                if found != expected:
                    print(method, f.__name__, found, "and not", expected)
    print("done")
"""

LOCKS = """
KINDS = [threading.Lock, threading.RLock, threading.Condition, threading.BoundedSemaphore, threading._RLock]
HELD = [kind() for kind in KINDS]
lock, recursive, condition, bounded, pure = HELD
box = {"locks": [(threading.Lock(),)]}
def closing_over(box): return lambda x: taken(box["locks"][0][0])
in_containers = closing_over(box)
semaphore, event, unset = threading.Semaphore(3), threading.Event(), threading.Event()
barrier = threading.Barrier(1, timeout=5)
mutex = threading.Lock()
changed = threading.Condition(mutex)
jobs, stack, simple = queue.Queue(3), queue.LifoQueue(), queue.SimpleQueue()
jobs.put("a")
event.set()

def taken(one):
    got = one.acquire(blocking=False)
    if got:
        one.release()
    return got

def as_globals(x): return [taken(one) for one in (lock, recursive, condition, bounded, pure)]
def as_default(x, one=lock, *, more=(recursive,)): return taken(one), taken(more[0]), one is lock
def closing(one): return lambda x: (taken(one), one is lock)
as_closure = closing(lock)
as_partial = functools.partial(lambda one, x: taken(one), lock)
as_partial.__name__ = "as_partial"

class Guarded:
    lock, event = lock, event
    def __init__(self): self.own = threading.Lock()
    def __call__(self, x): return taken(self.own), taken(self.lock), self.lock is lock, self.event.is_set()
    def method(self, x): return self(x)
guarded = Guarded()
guarded.__name__ = "guarded"
HELD.append(guarded.own)
HELD.append(box["locks"][0][0])
def of_class(x): return Guarded()(x)
def of_global(x): return guarded(x), taken(box["locks"][0][0])
def counted(x): return [semaphore.acquire(blocking=False) for _ in range(4)].count(True), semaphore._value
def bounds(x):
    try:
        bounded.release()
    except ValueError:
        return "bounded"
def events(x): return event.is_set(), unset.is_set()
def waits(x): return barrier.wait()
def shared(x): return changed._lock is mutex, jobs.not_empty._lock is jobs.mutex
def queued(x): stack.put(jobs.get()); simple.put(x); return stack.get(), jobs.qsize(), jobs.maxsize, simple.get()
def notified(x):
    with condition:
        threading.Thread(target=lambda: [condition.acquire(), condition.notify(), condition.release()]).start()
        return condition.wait(5)
def initialize():
    global kept
    unset.set()
    kept = mutex
def initialized(x): return unset.is_set(), kept is mutex

ROWS = [
    (as_globals, [True] * 5), (as_default, (True, True, True)), (as_closure, (True, True)), (as_partial, True),
    (in_containers, True), (of_class, (True, True, True, True)), (guarded, (True, True, True, True)),
    (guarded.method, (True, True, True, True)), (bounds, "bounded"),
    (events, (True, False)), (waits, 0), (shared, (True, True)), (queued, ("a", 0, 3, 4)), (notified, True),
]
class Context:  # all are held while the run starts and goes on
    def __enter__(self): [one.acquire() for one in HELD]
    def __exit__(self, *_): [one.release() for one in HELD]

with Context():
    run(ROWS)
    run([(of_global, ((True, True, True, True), True))], ("forkserver", "spawn"))
run([(initialized, (True, True))], ("forkserver", "spawn"), initializer=initialize)
run([(counted, (3, 0))])
with Context():
    items = [as_globals, as_closure, guarded]
    print(aggregate(lambda f: f(1), items, Collect(), workers=1) == [f for _, f in (ROWS[0], ROWS[2], ROWS[6])])
"""


def ran(*parts: str) -> str:
    """What a program prints on stdout; it must print nothing on stderr."""
    program = PREAMBLE + textwrap.dedent("\n".join(parts))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=55, env=environ)
    assert done.stderr == ""
    return done.stdout


def test_locks_and_their_kin_are_fresh_in_each_worker() -> None:
    """Free there though they are held here, as globals, defaults, closures, attributes and in containers; one lock
    under two names stays one."""
    assert ran(LOCKS) == 4 * "done\n" + "True\n"


def test_a_local_is_empty_in_a_worker_and_keeps_what_its_initializer_sets() -> None:
    """The usual way to have a connection per thread; a subclass makes its values anew."""
    program = """
    local, other = threading.local(), threading.local()
    other.here = 1
    class Named(threading.local):
        kind = "class"
        def __init__(self, name="new"): self.name = name
        def loud(self): return self.name.upper()
    named = Named("old")
    def connect():
        local.connection = named.name + " connection"
        named.name = "initialized"
    def connected(x): return local.connection
    def by_default(x, own=local): return own is local and own.connection
    def class_of(x): return type(named) is Named, named.kind, named.loud()
    def fresh(x): return hasattr(other, "here"), named.name
    methods = ("forkserver", "spawn")
    rows = [(connected, "new connection"), (by_default, "new connection"), (class_of, (True, "class", "INITIALIZED"))]
    run(rows, methods, initializer=connect)
    run([(fresh, (False, "new"))], methods)
    run([(connected, "old connection"), (by_default, "old connection")], ["fork"], initializer=connect)
    class Needs(threading.local):
        def __init__(self, name): self.name = name
    needs = Needs("a")
    try:
        aggregate(lambda x: needs.name, [1], Collect())
    except TypeError as error:
        print(error)
    """
    printed = ran(program)
    assert printed.startswith("done\ndone\ndone\nfunc, ")
    assert "Needs, a subclass of threading.local, cannot be made in a worker without its arguments" in printed
    assert "missing a required argument: 'name'. Give them defaults, or the class a __reduce__" in printed


def test_a_context_variable_has_the_value_that_it_has_here() -> None:
    """At the start of each run, also if it changes between two runs of one pool, or is reset; with its default."""
    program = """
    user, unset = contextvars.ContextVar("user", default={"id": 0}), contextvars.ContextVar("unset")
    def get(x): return user.get()["id"], user.name
    def by_default(x, own=user): return own is user, own.get()["id"]
    def closing(own): return lambda x: own.get()["id"]
    closed = closing(user)
    class Has: variable = user
    def of_class(x): return Has.variable.get()["id"]
    def missing(x): return unset.get("none")
    def changes(x):
        token = user.set({"id": x})
        user.reset(token)
        return user.get()["id"]
    def rows(n): return [
        (get, (n, "user")), (by_default, (True, n)), (closed, n), (of_class, n), (missing, "none"), (changes, n),
    ]
    run(rows(0))
    user.set({"id": 1})
    run(rows(1))
    for method in ("fork", "forkserver", "spawn"):
        with ProcessPool(1, start_method=method) as pool:
            found = []
            for n in (1, 2, 1):
                token = user.set({"id": n})
                found += aggregate(get, [4], Collect(), pool=pool)
                user.reset(token)
            print(found)
    token = unset.set("set")
    with ProcessPool(1, start_method="spawn") as pool:
        found = aggregate(missing, [4], Collect(), pool=pool)
        unset.reset(token)
        print(found + aggregate(missing, [4], Collect(), pool=pool))
    """
    changed = "[(1, 'user'), (2, 'user'), (1, 'user')]\n"
    assert ran(program) == "done\ndone\n" + 3 * changed + "['set', 'none']\n"


def test_a_context_variable_keeps_what_the_initializer_sets() -> None:
    """As a name that the initializer assigns wins over the script's."""
    program = """
    user = contextvars.ContextVar("user")
    def login(): user.set("worker")
    def get(x): return user.get()
    run([(get, "worker")], initializer=login)
    user.set("script")
    run([(get, "worker")], initializer=login)
    """
    assert ran(program) == "done\ndone\n"


def test_a_forked_worker_gets_a_variable_whose_value_does_not_pickle() -> None:
    """It inherits it."""
    program = """
    held = contextvars.ContextVar("held")
    held.set((n for n in [7]))
    def get(x): return next(held.get())
    run([(get, 7)], ["fork"])
    """
    assert ran(program) == "done\n"


def test_streams_and_what_else_has_a_self_in_a_worker() -> None:
    """Standard streams, loggers and handlers, patterns, counters, random numbers of the system, decoders."""
    program = """
    out, err, into, raw, write = sys.stdout, sys.stderr, sys.stdin, sys.stdout.buffer, sys.stdout.write
    streams = {"out": [sys.stdout]}
    log, root, handler = logging.getLogger("a.b"), logging.getLogger(), logging.StreamHandler()
    adapter = logging.LoggerAdapter(log, {"k": 1})
    pattern, numbers, steps = re.compile("(a)b", re.I), itertools.count(5), itertools.count(1.5, -0.5)
    system, decoder, version = random.SystemRandom(), json.JSONDecoder(parse_float=str), sys.version_info
    flags, implementation = sys.flags, sys.implementation
    class Node:
        def __init__(self, parent=None): self.parent, self.children = parent and weakref.ref(parent), []
    tree = Node()
    tree.children.append(Node(tree))
    lost = weakref.ref(Node())
    def own_streams(x): return out is sys.stdout, err is sys.stderr, into is sys.stdin, streams["out"][0] is sys.stdout
    def own_buffer(x): return raw is sys.stdout.buffer, write.__self__ is sys.stdout
    def logs(x): return log is logging.getLogger("a.b"), root is logging.getLogger(), adapter.extra, taken(handler.lock)
    def taken(lock): return lock.acquire(blocking=False) and handler.stream is sys.stderr
    def matches(x): return pattern.match("AB").group(1), pattern.flags & re.I
    def counts(x): return next(numbers), next(numbers), next(steps), next(steps)
    def draws(x): return 0 <= system.random() < 1
    def decodes(x): return decoder.decode('{"a": [1.5, NaN]}')["a"][0]
    def of_sys(x): return version is sys.version_info, flags is sys.flags, implementation is sys.implementation
    def related(x): return tree.children[0].parent() is tree, lost()
    def printing(x, to=sys.stdout): print("printed", x, file=to, flush=True)
    run([
        (own_streams, (True,) * 4), (own_buffer, (True, True)), (logs, (True, True, {"k": 1}, True)),
        (matches, ("A", re.I)), (draws, True), (decodes, "1.5"), (of_sys, (True,) * 3), (related, (True, None)),
        (counts, (5, 6, 1.5, 1.0)),
    ])
    """
    assert ran(program) == "done\n"


def test_a_stream_that_was_replaced_is_the_workers_own() -> None:
    """As a notebook or pytest replaces `sys.stdout`, by an object that does not pickle."""
    program = """
    class Stream:
        def __init__(self, to): self.to, self.lines = to, (line for line in [])
        def write(self, text): return self.to.write(text)
        def flush(self): self.to.flush()
    sys.stdout = out = Stream(sys.stdout)
    def own(x): return out is sys.stdout
    run([(own, True)], ("forkserver", "spawn"))
    """
    assert ran(program) == "done\n"


def test_an_object_is_one_in_a_process_whichever_pickle_refers_to_it() -> None:
    """In this process it is the object itself."""
    event = threading.Event()
    for own in (threading.Lock(), threading.RLock(), threading.local(), event, ContextVar("x"), queue.SimpleQueue()):
        assert cloudpickle.loads(dumps_code([own])) == [own]
    event.set()
    assert cloudpickle.loads(dumps_code(event)).is_set()


def test_locks_are_not_kept_alive() -> None:
    """By having been sent."""
    import weakref

    def sent() -> weakref.ref[object]:
        lock = threading.Lock()
        dumps_code(lock)
        return weakref.ref(lock)

    assert sent()() is None


def test_a_lock_that_is_an_item_or_a_partial_is_a_mistake() -> None:
    """So is one in a shared value: each would be another lock than here."""
    lock = threading.Lock()
    with ProcessPool(1) as pool:
        for func, item in ((id, lock), (id, [lock]), (lambda x: threading.Lock(), 1)):
            with pytest.raises(TaskError, match="pickle"):
                aggregate(func, [item], Collect(), pool=pool)
    with pytest.raises(TypeError, match="lock"):
        share([lock])
    with pytest.raises(TypeError, match="lock"):
        dumps_by_value([lock])


def test_a_queue_with_contents_is_refused() -> None:
    """They cannot be read without taking them out."""
    held: queue.SimpleQueue[int] = queue.SimpleQueue()
    held.put(1)
    with pytest.raises(TypeError, match=r"SimpleQueue.*per_worker"):
        aggregate(lambda x: held.get(), [1], Collect(), workers=1)
    assert held.get() == 1
