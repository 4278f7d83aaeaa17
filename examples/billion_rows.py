"""The one billion row challenge, in miniature: min, mean and max of temperatures for each weather station.

Workers read their own blocks of the file. Temperatures have one decimal: as whole tenths they are ints, so sums are
exact, and every run prints the same bytes.
"""

import random
import tempfile
from pathlib import Path

from poolagg import Count, GroupBy, Reduce, Sum, aggregate, blocks

STATIONS = {"Abha": 180, "Accra": 264, "Berlin": 103, "Irkutsk": 10, "Mombasa": 263, "Reykjavík": 43, "Zürich": 93}
ROWS = 200_000


def write_rows(path):
    source = random.Random(1)
    names = list(STATIONS)
    with open(path, "w", encoding="utf-8") as file:
        for name in source.choices(names, k=ROWS):
            tenths = max(-999, min(999, round(source.gauss(STATIONS[name], 100))))
            file.write(f"{name};{text_of(tenths)}\n")


def text_of(tenths):
    return f"{'-' if tenths < 0 else ''}{abs(tenths) // 10}.{abs(tenths) % 10}"


def rows(block):
    """The work, in a worker process: (station, tenths of a degree) for each line of the block."""
    for line in block:
        station, _, temperature = line.rstrip().partition(";")
        yield station, int(temperature.replace(".", ""))


def summary(station):
    """As the challenge rounds: the mean to one decimal, halves towards positive infinity."""
    name, found = station
    mean = (2 * found["sum"] + found["n"]) // (2 * found["n"])
    return f"{name}={text_of(found['min'])}/{text_of(mean)}/{text_of(found['max'])}"


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "measurements.txt")
    write_rows(path)
    station = GroupBy({"min": Reduce(min), "sum": Sum(), "n": Count(), "max": Reduce(max)})
    found = aggregate(rows, blocks(path, size="256KiB"), station.flat())

print("{" + ", ".join(map(summary, sorted(found.items()))) + "}")
print(f"{sum(inner['n'] for inner in found.values()):,} rows")
