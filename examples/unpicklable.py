"""A singleton that no proxy can carry: it holds a lock, a queue and an open file. So it does not travel at all."""

import pickle
import queue
import tempfile
import threading

from poolagg import Into, aggregate


class Journal:
    """One per program: `Journal()` is always the same object."""

    _only = None

    def __new__(cls):
        if cls._only is None:
            cls._only = super().__new__(cls)
            cls._only.lock = threading.Lock()
            cls._only.latest = queue.Queue(maxsize=3)
            cls._only.file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the program runs
        return cls._only

    def write(self, line):
        with self.lock:
            self.file.write(line + "\n")
            if self.latest.full():
                self.latest.get()
            self.latest.put(line)


def primality(number):
    """The work, in a worker process, which has never seen a Journal."""
    divisor = next((d for d in range(2, int(number**0.5) + 1) if number % d == 0), None)
    return f"{number} is prime" if divisor is None else f"{number} = {divisor} x {number // divisor}"


try:
    pickle.dumps(Journal())
except TypeError as error:
    print(f"pickle says: {error}")

aggregate(primality, range(10**9, 10**9 + 300), Into(Journal().write, ordered=True))

Journal().file.seek(0)
lines = Journal().file.read().splitlines()
print(f"{len(lines)} lines in the file, of which prime: {sum(line.endswith('prime') for line in lines)}")
print("the latest, in input order:", *Journal().latest.queue, sep="\n  ")
