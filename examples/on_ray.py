"""The same call on Ray: `python on_ray.py`, or `python on_ray.py ADDRESS`, such as auto or head:6379.

Without an address it starts Ray here, for as long as the pool is open. With one it goes to that cluster, whose nodes
need poolagg, and this program changes in nothing else.
"""

import sys
from math import isqrt

from poolagg import Count, Max, Sum, aggregate
from poolagg.pools import RayPool


def prime(n):
    """n if it is a prime number, else 0."""
    return n if n > 1 and all(n % d for d in range(2, isqrt(n) + 1)) else 0


with RayPool(*sys.argv[1:2]) as pool:
    found = {"primes": Count().where(bool), "sum": Sum(), "largest": Max()}
    result = aggregate(prime, range(200_000), found, pool=pool)
print(f"{result['primes']:,} primes, their sum {result['sum']:,}, the largest {result['largest']:,}")
