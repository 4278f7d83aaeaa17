"""The same call on a dask cluster: `python on_dask.py`, or `python on_dask.py tcp://head:8786`.

Without an address it starts a cluster of two workers here. With one it goes to that cluster, whose workers need
poolagg, and this program changes in nothing else. One thread a worker is best for Python code, and for knowing which
item it was when a worker dies.
"""

import sys
from contextlib import ExitStack
from math import isqrt
from tempfile import TemporaryDirectory

import dask
from distributed import Client

from poolagg import Count, Max, Sum, aggregate


def prime(n):
    """n if it is a prime number, else 0."""
    return n if n > 1 and all(n % d for d in range(2, isqrt(n) + 1)) else 0


def cluster(stack):
    if len(sys.argv) > 1:
        return Client(sys.argv[1])
    # On the loopback only: by default anybody in the network may connect, and run code.
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    folder = stack.enter_context(TemporaryDirectory())  # else dask leaves one behind
    stack.enter_context(dask.config.set(temporary_directory=folder))
    return Client(n_workers=2, threads_per_worker=1, **here)


if __name__ == "__main__":  # dask's own workers import this file
    with ExitStack() as stack:
        client = stack.enter_context(cluster(stack))
        found = {"primes": Count().where(bool), "sum": Sum(), "largest": Max()}
        result = aggregate(prime, range(200_000), found, pool=client)
    print(f"{result['primes']:,} primes, their sum {result['sum']:,}, the largest {result['largest']:,}")
