"""A 10 x 10 matrix filled cell by cell by 100 tasks, in whatever order they end."""

import time

import numpy as np

from poolagg import Into, aggregate, star


class LeafGrid:
    """The singleton: it is never pickled, and no lock guards it."""

    def __init__(self, rows, columns):
        self.values = np.full((rows, columns), np.nan)

    def set_value(self, row, column, value):
        self.values[row, column] = value


def cell(position):
    """The work, in a worker process. Later rows are faster, so that cells come home in disorder."""
    row, column = position
    time.sleep(0.002 * (10 - row))
    return row, column, (row + 1) * (column + 1)


grid = LeafGrid(10, 10)
positions = [(row, column) for row in range(10) for column in range(10)]
aggregate(cell, positions, Into(star(grid.set_value)))

print(grid.values.astype(int))
print(f"cells left empty: {np.isnan(grid.values).sum()}, sum: {grid.values.sum():.0f}")
