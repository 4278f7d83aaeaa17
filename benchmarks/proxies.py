"""What does an update of one shared object cost, by every way of sharing it between processes?

The approaches are the usual answers to the question how to share a complex Python object between processes. Each makes
N updates of one object from 2 and from 4 processes, and the object must have all of them at the end. The time includes
starting the processes (poolagg starts fresh ones; the others fork where that is Python's default). A very slow
approach makes a part of N updates (see "units"), and its time per update counts.

Whether updates get lost without a lock depends on the GIL of the process that owns the object, so the suite measures
two cases. In a manager, the method `self.n += 1` may lose nothing, by the luck of the interpreter's switching. The same
method loses updates if it releases the GIL between its read and its write, as any call into I/O does. A proxy reads and
writes attributes and items in two messages, and loses updates as well.
"""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import Array, Lock, Manager, Pipe, Pool, Process, Queue, Value
from multiprocessing.connection import wait
from multiprocessing.managers import BaseManager, BaseProxy, NamespaceProxy
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from benchmarks.harness import Case, Diagnosis, Missing, Suite
from poolagg import Into, Sum, aggregate, star


@dataclass(frozen=True)
class Sharing(Case):
    """`units` updates by several processes; `parts` is the work of each."""

    processes: int = 2

    @property
    def parts(self):
        """Return a range of items for each process."""
        cuts = [self.units * place // self.processes for place in range(self.processes + 1)]
        return [range(start, stop) for start, stop in pairwise(cuts)]


MATRIX = "10x10 matrix, a process per cell"
COUNTING = ("2 processes", "4 processes")


def cases(scale):
    """Return N updates by two and by four processes, and the matrix; for the tests, not four."""
    updates = {"full": 1_000_000, "quick": 100_000, "tiny": 400}[scale]
    limit = {"full": 120, "quick": 20, "tiny": 20}[scale]
    two, four = Sharing("2 processes", updates, limit, 2), Sharing("4 processes", updates, limit, 4)
    matrix = Sharing(MATRIX, 100, limit, 100)
    return [two, matrix] if scale == "tiny" else [two, four, matrix]


def check(case, result):
    """Count every update and every cell; those missing are lost."""
    if case.name == MATRIX:
        lost = int(np.count_nonzero(np.asarray(result) != np.arange(100).reshape(10, 10) + 1))
    else:
        lost = case.units - int(result)
    return Diagnosis(lost == 0, lost=lost) if lost >= 0 else Diagnosis(False, f"{-lost} updates too many")


def work(item):
    """Return the finding of a process about an item, for the update of the object: almost nothing."""
    del item
    return 1


suite = Suite(
    __name__,
    "What does an update of one shared object cost?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    reference="poolagg, Into",
    unit=("µs per update", 1e-6),
    given=(Sharing, work),
)


def run_all(target, case, *shared):
    """Start a process for each part, and wait for all."""
    workers = [Process(target=target, args=(*shared, part)) for part in case.parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# -- poolagg -----------------------------------------------------------------------------------------------------------


@suite.contestant("poolagg, Into", cases=COUNTING)
def poolagg_into(case):
    """Share nothing: the parent applies each partial to an ordinary object."""
    counter = Counter()
    aggregate(work, range(case.units), Into(counter.add), workers=case.processes)
    return counter.n


@suite.contestant("poolagg, combined in the workers", cases=COUNTING)
def poolagg_combined(case):
    """Sum partials in the workers, which send their sums."""
    return aggregate(work, range(case.units), Sum(), workers=case.processes)


class Counter:
    """The shared object."""

    def __init__(self):
        self.n = 0

    def add(self, amount):
        """Update it."""
        self.n += amount

    def value(self):
        """Return the total."""
        return self.n


# -- shared memory -----------------------------------------------------------------------------------------------------


@suite.contestant("Value, its lock", cases=COUNTING)
def value_with_lock(case):
    """Follow the multiprocessing documentation: `+=` on a Value is not atomic, so `with counter.get_lock()`."""
    counter = Value("q")
    run_all(add_to_value_with_lock, case, counter)
    return counter.value


def add_to_value_with_lock(counter, items):
    for item in items:
        amount = work(item)
        with counter.get_lock():
            counter.value += amount


@suite.contestant("Value, no lock", cases=COUNTING, sound=False)
def value_without_lock(case):
    """Use `Value(..., lock=False)` and `+=`: the documentation warns of it."""
    counter = Value("q", lock=False)
    run_all(add_to_value, case, counter)
    return counter.value


def add_to_value(counter, items):
    for item in items:
        counter.value += work(item)


@suite.contestant("Array, its lock", cases=COUNTING)
def array_with_lock(case):
    """Follow the multiprocessing documentation: a synchronized Array, of ten counters, and its lock around `+=`."""
    counters = Array("q", 10)
    run_all(add_to_array, case, counters)
    return sum(counters)


def add_to_array(counters, items):
    for item in items:
        amount = work(item)
        with counters.get_lock():
            counters[item % 10] += amount


@suite.contestant("shared_memory numpy, a lock", cases=COUNTING)
def shared_memory_with_lock(case):
    """Follow the shared_memory documentation: a numpy array over its buffer, and a process lock around `+=`."""
    return share_an_array(case, add_to_shared_array_with_lock, Lock())


@suite.contestant("shared_memory numpy, no lock", cases=COUNTING, sound=False)
def shared_memory_without_lock(case):
    """Follow the shared_memory documentation, without the lock."""
    return share_an_array(case, add_to_shared_array)


def share_an_array(case, target, *lock):
    memory = SharedMemory(create=True, size=8)
    try:
        counter = np.ndarray((1,), "q", memory.buf)
        counter[0] = 0
        run_all(target, case, memory.name, *lock)
        return int(counter[0])
    finally:
        del counter
        memory.close()
        memory.unlink()


def add_to_shared_array_with_lock(name, lock, items):
    memory = SharedMemory(name)
    counter = np.ndarray((1,), "q", memory.buf)
    for item in items:
        amount = work(item)
        with lock:
            counter[0] += amount
    del counter
    memory.close()


def add_to_shared_array(name, items):
    add_to_shared_array_with_lock(name, contextlib.nullcontext(), items)


# -- messages to the parent --------------------------------------------------------------------------------------------


@suite.contestant("Queue to the parent", cases=COUNTING, part=1 / 10)
def queue_to_parent(case):
    """Follow the multiprocessing documentation: workers put their findings on a Queue, the parent gets them."""
    queue, counter = Queue(), Counter()
    workers = [Process(target=put_all, args=(queue, part)) for part in case.parts]
    for worker in workers:
        worker.start()
    for _ in range(case.units):
        counter.add(queue.get())
    for worker in workers:
        worker.join()
    return counter.n


def put_all(queue, items):
    for item in items:
        queue.put(work(item))


@suite.contestant("Pipe per worker", cases=COUNTING, part=1 / 10)
def pipe_per_worker(case):
    """Follow the multiprocessing documentation, `connection.wait`: a Pipe for each worker, read when it has data."""
    counter, readers = Counter(), []
    for part in case.parts:
        reader, writer = Pipe(duplex=False)
        Process(target=send_all, args=(writer, part)).start()
        writer.close()
        readers.append(reader)
    while readers:
        for reader in wait(readers):
            try:
                counter.add(reader.recv())
            except EOFError:
                readers.remove(reader)
    return counter.n


def send_all(writer, items):
    for item in items:
        writer.send(work(item))
    writer.close()


# -- dicts and lists of a SyncManager ----------------------------------------------------------------------------------


@suite.contestant("Manager dict, no lock", cases=COUNTING, part=1 / 50, sound=False)
def manager_dict(case):
    """Follow the multiprocessing documentation, `Manager().dict()`: `+=` is a message to read, one to write."""
    with Manager() as manager:
        counts = manager.dict(n=0)
        run_all(add_to_item, case, counts, contextlib.nullcontext())
        return counts["n"]


@suite.contestant("Manager dict, a manager lock", cases=COUNTING, part=1 / 100)
def manager_dict_with_manager_lock(case):
    """Use `Manager().Lock()`: the lock lives in the manager as well, so an update is four messages."""
    with Manager() as manager:
        counts = manager.dict(n=0)
        run_all(add_to_item, case, counts, manager.Lock())
        return counts["n"]


@suite.contestant("Manager dict, a process lock", cases=COUNTING, part=1 / 50)
def manager_dict_with_process_lock(case):
    """Use `multiprocessing.Lock()` around the two messages."""
    with Manager() as manager:
        counts = manager.dict(n=0)
        run_all(add_to_item, case, counts, Lock())
        return counts["n"]


def add_to_item(counts, lock, items):
    for item in items:
        amount = work(item)
        with lock:
            counts["n"] += amount


@suite.contestant("Manager, nested dict and list", cases=COUNTING, part=1 / 1000)
def nested_manager_dict(case):
    """Nest shared objects, as since Python 3.6: `garage["cars"][0]["n"]`, where each level is a proxy; a lock."""
    with Manager() as manager:
        garage = manager.dict(cars=manager.list([manager.dict(n=0)]))
        run_all(add_to_nested_item, case, garage, Lock())
        return garage["cars"][0]["n"]


def add_to_nested_item(garage, lock, items):
    for item in items:
        amount = work(item)
        with lock:
            garage["cars"][0]["n"] += amount


@suite.contestant("Manager, a plain dict inside", cases=COUNTING, part=1 / 100, sound=False)
def plain_dict_in_manager_dict(case):
    """Step into the documentation's pitfall: an ordinary dict inside a shared one is a copy when it is read."""
    with Manager() as manager:
        garage = manager.dict(car={"n": 0})
        run_all(add_to_plain_item, case, garage, Lock())
        return garage["car"]["n"]


def add_to_plain_item(garage, lock, items):
    for item in items:
        amount = work(item)
        with lock:
            garage["car"]["n"] += amount


# -- classes of one's own in a BaseManager -----------------------------------------------------------------------------


class CounterManager(BaseManager):
    """Follow the multiprocessing documentation: customized managers."""


class SlowCounter(Counter):
    """Releases the GIL between its read and its write, as does any method that touches a file or a socket."""

    def add(self, amount):
        """Update in two steps."""
        n = self.n
        time.sleep(0)
        self.n = n + amount


@suite.contestant("own class in a manager, no lock: n += 1", cases=COUNTING, part=1 / 50, sound=False)
def custom_class(case):
    """Use `BaseManager.register`; a thread in the manager for each client; the method is a bare `self.n += amount`."""
    return count_in_manager(case, Counter, contextlib.nullcontext())


@suite.contestant("own class in a manager, no lock: lets go of the GIL", cases=COUNTING, part=1 / 50, sound=False)
def custom_class_without_gil(case):
    """Use `BaseManager.register`, with a method that releases the GIL between reading and writing."""
    return count_in_manager(case, SlowCounter, contextlib.nullcontext())


@suite.contestant("own class in a manager, a process lock", cases=COUNTING, part=1 / 50)
def custom_class_with_lock(case):
    """Use `BaseManager.register`, with a process lock around the call."""
    return count_in_manager(case, SlowCounter, Lock())


def count_in_manager(case, kind, lock):
    CounterManager.register("Counter", kind)
    with CounterManager() as manager:
        counter = manager.Counter()
        run_all(call_add, case, counter, lock)
        return counter.value()


def call_add(counter, lock, items):
    for item in items:
        amount = work(item)
        with lock:
            counter.add(amount)


class CounterProxy(BaseProxy):
    """Written by hand, as in CPython's own managers: one message a method."""

    _exposed_ = ("add", "value")

    def add(self, amount):
        """Update it."""
        return self._callmethod("add", (amount,))

    def value(self):
        """Return the total."""
        return self._callmethod("value")


@suite.contestant("hand-made proxy class, a process lock", cases=COUNTING, part=1 / 50)
def handmade_proxy(case):
    """Use `register(..., proxytype=...)` with a BaseProxy subclass: each method spelled out, calls under a lock."""
    CounterManager.register("Counter", Counter, CounterProxy)
    with CounterManager() as manager:
        counter = manager.Counter()
        run_all(call_add, case, counter, Lock())
        return counter.value()


class AttributeProxy(NamespaceProxy):
    """Attributes as well: NamespaceProxy does this for a Namespace, here for another class."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")


@suite.contestant("hand-made attribute proxy, no lock: n += 1", cases=COUNTING, part=1 / 50, sound=False)
def attribute_proxy(case):
    """Use a NamespaceProxy subclass, so that `counter.n += 1` works from outside: as two messages."""
    return count_by_attribute(case, contextlib.nullcontext())


@suite.contestant("hand-made attribute proxy, a process lock", cases=COUNTING, part=1 / 50)
def attribute_proxy_with_lock(case):
    """Use a NamespaceProxy subclass, with a process lock."""
    return count_by_attribute(case, Lock())


def count_by_attribute(case, lock):
    CounterManager.register("Counter", Counter, AttributeProxy)
    with CounterManager() as manager:
        counter = manager.Counter()
        run_all(add_to_attribute, case, counter, lock)
        return counter.n


def add_to_attribute(counter, lock, items):
    for item in items:
        amount = work(item)
        with lock:
            counter.n += amount


# -- an object in an object --------------------------------------------------------------------------------------------


class Car:
    """An object with an inner object, which is the one to update."""

    def __init__(self):
        self.engine = Counter()

    def get_engine(self):
        """Update the inner object: a proxy calls methods only, so there has to be one."""
        return self.engine


@suite.contestant("nested object: car.engine", cases=COUNTING, part=1 / 100, sound=False)
def nested_attribute(case):
    """Write the obvious: a proxy made by `register` has the public methods, and no attributes."""
    CounterManager.register("Car", Car)
    with CounterManager() as manager:
        car = manager.Car()
        run_all(add_to_engine_attribute, case, car)
        return car.engine.value()


def add_to_engine_attribute(car, items):
    for item in items:
        car.engine.add(work(item))


@suite.contestant("nested object: car.get_engine()", cases=COUNTING, part=1 / 100, sound=False)
def nested_copy(case):
    """Return the inner object from a method: it returns a copy, and every update is lost."""
    CounterManager.register("Car", Car)
    with CounterManager() as manager:
        car = manager.Car()
        run_all(add_to_engine, case, car)
        return car.get_engine().value()


@suite.contestant("nested object: child proxies", cases=COUNTING, part=1 / 100, sound=False)
def nested_child_proxies(case):
    """Use `method_to_typeid`, so that the method returns a proxy: but not in a worker, where `car` has no manager."""
    register_child_proxies()
    with CounterManager() as manager:
        car = manager.Car()
        run_all(add_to_engine, case, car)
        return car.get_engine().value()


def add_to_engine(car, items):
    for item in items:
        car.get_engine().add(work(item))


def register_child_proxies():
    CounterManager.register("Engine", exposed=("add", "value"))
    CounterManager.register("Car", Car, method_to_typeid={"get_engine": "Engine"})
    CounterManager.register("the_car", the_car, exposed=("get_engine",), method_to_typeid={"get_engine": "Engine"})


THE_CAR = Car()


def the_car():
    return THE_CAR


@suite.contestant("nested object: child proxies, own client manager, a lock", cases=COUNTING, part=1 / 100)
def nested_client_manager(case):
    """Do all that is needed: each worker connects its own manager, so that its child proxies have one; a lock."""
    register_child_proxies()
    with CounterManager(authkey=b"secret") as manager:
        run_all(connect_and_add_to_engine, case, manager.address, Lock())
        return manager.the_car().get_engine().value()


def connect_and_add_to_engine(address, lock, items):
    register_child_proxies()
    manager = CounterManager(address, b"secret")
    manager.connect()
    engine = manager.the_car().get_engine()
    for item in items:
        amount = work(item)
        with lock:
            engine.add(amount)


# -- a remote manager --------------------------------------------------------------------------------------------------


THE_COUNTER = Counter()


def the_counter():
    return THE_COUNTER


@suite.contestant("remote manager over TCP, a lock", cases=COUNTING, part=1 / 50)
def remote_manager(case):
    """Follow the multiprocessing documentation, using a remote manager: a TCP port, an authkey, one connection; a
    lock."""
    return count_remotely(case, add_remotely)


@suite.contestant("remote manager over TCP, connected per update, a lock", cases=COUNTING, part=1 / 10_000)
def remote_manager_per_update(case):
    """Use a remote manager, connecting inside the function that is mapped."""
    return count_remotely(case, connect_and_add)


def count_remotely(case, target):
    CounterManager.register("the_counter", the_counter)
    with CounterManager(("127.0.0.1", 0), b"secret") as manager:
        run_all(target, case, manager.address, Lock())
        return manager.the_counter().value()


def connect(address):
    CounterManager.register("the_counter")
    manager = CounterManager(address, b"secret")
    manager.connect()
    return manager.the_counter()


def add_remotely(address, lock, items):
    call_add(connect(address), lock, items)


def connect_and_add(address, lock, items):
    for item in items:
        call_add(connect(address), lock, [item])


# -- pipe-proxy --------------------------------------------------------------------------------------------------------


class PipeProxy:
    """The idea of the package pipe-proxy, which is for Python 2 only: any method, as a message through one pipe."""

    def __init__(self, connection):
        self.connection = connection

    def __getattr__(self, method):
        def call(*arguments):
            self.connection.send((method, arguments))
            return self.connection.recv()

        return call

    def __reduce__(self):
        return PipeProxy, (self.connection,)


def listen(connection, thing, workers):
    """Run the package's listener: it polls, since nothing tells it that all is done."""
    while connection.poll(0.2) or any(worker.is_alive() for worker in workers):
        if connection.poll():
            method, arguments = connection.recv()
            connection.send(getattr(thing, method)(*arguments))


@suite.contestant("pipe-proxy (a port), a lock", cases=COUNTING, part=1 / 50)
def pipe_proxy_with_lock(case):
    """Port pipe-proxy's `createProxy` and `listen` to Python 3; one pipe for all, so a lock around each call."""
    return count_by_pipe(case, Lock())


@suite.contestant("pipe-proxy (a port), no lock", cases=COUNTING, part=1 / 50, sound=False)
def pipe_proxy(case):
    """Follow pipe-proxy's README: several processes use one end of one pipe, and get each other's answers."""
    return count_by_pipe(case, contextlib.nullcontext())


def count_by_pipe(case, lock):
    counter, (here, there) = Counter(), Pipe()
    workers = [Process(target=call_add, args=(PipeProxy(there), lock, part)) for part in case.parts]
    for worker in workers:
        worker.start()
    listen(here, counter, workers)
    return counter.n


# -- Redis -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_server():
    """Start a server on a free port of the loopback, which keeps nothing; yield the port."""
    if shutil.which("redis-server") is None:
        raise Missing("no redis-server on PATH: install it (Debian: apt-get install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            wait_for_port(port, server)
            yield port
        finally:
            server.terminate()
            server.wait()


def wait_for_port(port, server, patience=10):
    """Wait until the server answers."""
    until = time.monotonic() + patience
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        if server.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"redis-server does not answer on port {port}; exit code {server.poll()}")
        time.sleep(0.01)


def client(port):
    import redis

    return redis.Redis(port=port)


REDIS = {"needs": ["redis"], "server": redis_server, "cases": COUNTING}


@suite.contestant("Redis INCRBY", part=1 / 50, **REDIS)
def redis_incrby(case, port):
    """Follow redis.io, `INCRBY`: atomic, a round trip per update."""
    run_all(incrby, case, port)
    return int(client(port).get("n"))


def incrby(port, items):
    server = client(port)
    for item in items:
        server.incrby("n", work(item))


@suite.contestant("Redis HINCRBY", part=1 / 50, **REDIS)
def redis_hincrby(case, port):
    """Follow redis.io, `HINCRBY`: the attributes of the object are the fields of a hash, here ten."""
    run_all(hincrby, case, port)
    return sum(map(int, client(port).hvals("object")))


def hincrby(port, items):
    server = client(port)
    for item in items:
        server.hincrby("object", item % 10, work(item))


@suite.contestant("Redis INCRBY, pipelined", part=1 / 5, **REDIS)
def redis_pipelined(case, port):
    """Follow redis-py, pipelines: a round trip per 1,000 updates."""
    run_all(incrby_pipelined, case, port)
    return int(client(port).get("n"))


def incrby_pipelined(port, items):
    pipeline = client(port).pipeline(transaction=False)
    for start in range(0, len(items), 1000):
        for item in items[start : start + 1000]:
            pipeline.incrby("n", work(item))
        pipeline.execute()


@suite.contestant("Redis list as a queue", part=1 / 50, **REDIS)
def redis_queue(case, port):
    """Follow redis.io, lists as queues: workers `RPUSH`, the parent `BLPOP`s."""
    workers = [Process(target=push_all, args=(port, part)) for part in case.parts]
    for worker in workers:
        worker.start()
    server, counter = client(port), Counter()
    for _ in range(case.units):
        counter.add(int(server.blpop("queue")[1]))
    for worker in workers:
        worker.join()
    return counter.n


def push_all(port, items):
    server = client(port)
    for item in items:
        server.rpush("queue", work(item))


@suite.contestant("Redis pub/sub", part=1 / 50, **REDIS)
def redis_pubsub(case, port):
    """Follow redis-py, publish and subscribe: the parent is subscribed, workers publish; delivered at most once."""
    subscriber, counter = client(port).pubsub(), Counter()
    subscriber.subscribe("updates")
    subscriber.get_message(timeout=None)
    workers = [Process(target=publish_all, args=(port, part)) for part in case.parts]
    for worker in workers:
        worker.start()
    for _ in range(case.units):
        counter.add(int(subscriber.get_message(timeout=None)["data"]))
    for worker in workers:
        worker.join()
    return counter.n


def publish_all(port, items):
    server = client(port)
    for item in items:
        server.publish("updates", work(item))


@suite.contestant("Redis GET and SET", part=1 / 50, sound=False, **REDIS)
def redis_get_set(case, port):
    """Read, add, write, without knowing `INCRBY`."""
    client(port).set("n", 0)
    run_all(get_and_set, case, port)
    return int(client(port).get("n"))


def get_and_set(port, items):
    server = client(port)
    for item in items:
        server.set("n", int(server.get("n")) + work(item))


# -- Pool --------------------------------------------------------------------------------------------------------------


@suite.contestant("Pool.imap_unordered, one by one", cases=COUNTING, part=1 / 20)
def pool_one_by_one(case):
    """Follow the multiprocessing documentation: the parent handles results as they arrive."""
    counter = Counter()
    with Pool(case.processes) as pool:
        for amount in pool.imap_unordered(work, range(case.units)):
            counter.add(amount)
    return counter.n


@suite.contestant("Pool.imap_unordered, chunks", cases=COUNTING)
def pool_chunks(case):
    """Follow the same documentation, with `chunksize` tuned by hand: "for very long iterables"."""
    counter = Counter()
    with Pool(case.processes) as pool:
        for amount in pool.imap_unordered(work, range(case.units), chunksize=1000):
            counter.add(amount)
    return counter.n


# -- the matrix --------------------------------------------------------------------------------------------------------
#
# The question's own example: a numpy matrix of 10x10, each cell of which is set by a process of its own.


class Matrix:
    """A matrix that is set cell by cell."""

    def __init__(self):
        self.cells = np.zeros((10, 10))

    def set_value(self, row, column, value):
        """Set a cell."""
        self.cells[row, column] = value

    def all_cells(self):
        """Return the matrix."""
        return self.cells


@suite.contestant("poolagg, Into: matrix", cases=[MATRIX])
def matrix_poolagg(case):
    """Keep the matrix in the parent; workers say what to set. As many workers as cores, not a hundred."""
    matrix = Matrix()
    aggregate(cell, range(case.units), Into(star(matrix.set_value)))
    return matrix.cells


def cell(item):
    return item // 10, item % 10, item + work(item)


@suite.contestant("own class in a manager: matrix", cases=[MATRIX])
def matrix_manager(case):
    """Follow the answer given there: `BaseManager.register`, a hundred processes with a proxy."""
    CounterManager.register("Matrix", Matrix)
    with CounterManager() as manager:
        matrix = manager.Matrix()
        run_all(set_cells, case, matrix)
        return matrix.all_cells()


def set_cells(matrix, items):
    for item in items:
        matrix.set_value(*cell(item))


@suite.contestant("shared_memory numpy: matrix", cases=[MATRIX])
def matrix_shared_memory(case):
    """Follow the shared_memory documentation; no cell is set twice, so no lock is needed."""
    memory = SharedMemory(create=True, size=800)
    run_all(set_shared_cells, case, memory.name)
    cells = np.ndarray((10, 10), buffer=memory.buf).copy()
    memory.close()
    memory.unlink()
    return cells


def set_shared_cells(name, items):
    memory = SharedMemory(name)
    cells = np.ndarray((10, 10), buffer=memory.buf)
    for item in items:
        row, column, value = cell(item)
        cells[row, column] = value
    del cells
    memory.close()


@suite.contestant("Array: matrix", cases=[MATRIX])
def matrix_array(case):
    """Use `Array("d", 100, lock=False)`, and numpy's `frombuffer` to see it as a matrix."""
    cells = Array("d", 100, lock=False)
    run_all(set_array_cells, case, cells)
    return np.frombuffer(cells).reshape(10, 10)


def set_array_cells(cells, items):
    for item in items:
        row, column, value = cell(item)
        cells[10 * row + column] = value
