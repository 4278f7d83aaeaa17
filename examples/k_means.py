"""k-means: points that all workers share, one pool for all iterations, and one array that sums up each of them.

In every iteration workers assign their part of the points to the nearest centre. For each centre they return the sum
of its x, the sum of its y, and how many points it has: three columns, which `ArraySum` adds up where they are made.
"""

import numpy as np

from poolagg import ArraySum, ProcessPool, aggregate, share

TRUE = np.array([[0.0, 0.0], [6.0, 1.0], [2.0, 7.0], [9.0, 8.0]])
PART = 20_000

random = np.random.default_rng(0)
points = TRUE[random.integers(len(TRUE), size=20 * PART)] + random.normal(size=(20 * PART, 2))
shared = share(points)  # in memory that workers map: it travels neither with a part nor with an iteration


def sums_by_centre(start):
    """The work, in a worker process, on the part of the points that begins at `start`."""
    part = shared.value[start : start + PART]
    distances = ((part[:, None] - centres) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1)
    columns = [part[:, 0], part[:, 1], np.ones(len(part))]
    return np.stack([np.bincount(nearest, column, minlength=len(centres)) for column in columns], axis=1)


print(f"{len(points):,} points in {shared}")
centres = np.array([[1.0, 4.0], [4.0, 0.0], [5.0, 5.0], [7.0, 7.0]])
with ProcessPool() as pool:  # started once; `centres` travels with the function, once a call
    for iteration in range(1, 31):
        sums = aggregate(sums_by_centre, range(0, len(points), PART), ArraySum(), pool=pool)
        moved, centres = centres, sums[:, :2] / sums[:, 2:]
        step = np.abs(centres - moved).max()
        print(f"iteration {iteration:2}: centres moved by at most {step:.4f}")
        if step < 1e-3:
            break

print("centres:", *(f"({x:.2f}, {y:.2f})" for x, y in centres))
