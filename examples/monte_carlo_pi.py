"""Pi by throwing darts, watched while it converges; the same result for any number of processes.

`snapshots` is the run of `aggregate` as an iterator of results so far. `rng()` is a numpy generator that belongs to
the item, so the darts of an item are the same wherever and however often it runs.
"""

import math

from poolagg import Mean, rng, snapshots

DARTS = 200_000


def four_times_inside(_):
    """The work, in a worker process: four times the share of darts that hit the quarter circle."""
    x, y = rng(seed=2024).random((2, DARTS))
    return 4 * float((x * x + y * y <= 1).mean())


print("       darts  pi          error")
with snapshots(four_times_inside, range(300), Mean(), every=0.2) as results:
    for result in results:
        mark = "  final" if result.final else ""
        print(f"{result.done * DARTS:12,}  {result.value:.6f}  {result.value - math.pi:+.6f}{mark}")
