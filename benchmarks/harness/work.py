"""What the jobs of the suite `peers` do with an item, where that needs no numpy.

A worker imports the module of the function that it runs. These need nothing, so that a pool whose workers import their
modules does not pay for numpy where the job does not use it.
"""

import time
from collections import Counter
from pathlib import Path


def square(number):
    """Do as little work as a function can."""
    return number * number


def square_after_a_nap(number):
    time.sleep(0.05)
    return number * number


def burn(seconds):
    """Keep a core busy, measured in CPU time, so that the work is the same on a shared core."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def square_in_100_us(number):
    burn(100e-6)
    return number * number


def nanoseconds(seconds):
    return round(seconds * 1e9)


def burn_for(seconds):
    burn(seconds)
    return nanoseconds(seconds)


def count_words(path):
    return Counter(Path(path).read_text("utf-8").split())
