"""The file of the one billion row challenge, by the challenge's own recipe, with any number of rows.

A row is a station, drawn uniformly from 413, and a temperature: gaussian, sigma 10, around the mean of the station, to
one decimal. The challenge's list of stations is not part of this repository: this module invents names and means, of
the same number and range, with two-byte letters and blanks among them, the same at every run.

It counts the right answer in whole tenths while it writes the file, so the answer depends on no parser.
"""

import random
from pathlib import Path

import numpy as np

STATIONS, SIGMA = 413, 10.0

AT_ONCE = 50_000
"""Rows made at once: few, because they count in the memory of the contestant's process."""

SYLLABLES = "a an ba bel da dun el gar hol ka kor la lan ma mar na né nor os ra ran rim são tal tor ul vår ven zü łod"


def stations():
    """Return names, each with its mean temperature.

    >>> len(stations()), stations() == stations()
    (413, True)
    """
    rng = random.Random(STATIONS)
    means = {}
    while len(means) < STATIONS:
        words = [_word(rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        means[" ".join(words)] = round(rng.uniform(-15, 30), 1)
    return means


def _word(rng):
    return "".join(rng.choices(SYLLABLES.split(), k=rng.randint(2, 4))).capitalize()


def write(path, rows):
    """Write the file, and next to it the answer, with the suffix .expected."""
    means, statistics = stations(), StationStatistics()
    rng = np.random.default_rng(1)
    with open(path, "wb") as file:
        for done in range(0, rows, AT_ONCE):
            chosen = rng.integers(0, STATIONS, min(AT_ONCE, rows - done))
            tenths = np.rint(10 * rng.normal(np.array(list(means.values()))[chosen], SIGMA)).astype(int)
            file.write(_lines(list(means), chosen, tenths))
            statistics.add(chosen, tenths)
    Path(path).with_suffix(".expected").write_text(answer(statistics.of(list(means))), "utf-8")


def _lines(names, chosen, tenths):
    low = int(tenths.min())
    values = [_decimal(value) for value in range(low, int(tenths.max()) + 1)]
    pairs = zip(chosen.tolist(), (tenths - low).tolist(), strict=True)
    return "".join([f"{names[station]};{values[value]}\n" for station, value in pairs]).encode()


class StationStatistics:
    """Least, sum, count and most of each station, in tenths."""

    def __init__(self):
        self.low, self.high = np.full(STATIONS, 10**6), np.full(STATIONS, -(10**6))
        self.sums, self.counts = np.zeros(STATIONS, int), np.zeros(STATIONS, int)

    def add(self, chosen, tenths):
        """Add more rows."""
        np.minimum.at(self.low, chosen, tenths)
        np.maximum.at(self.high, chosen, tenths)
        np.add.at(self.sums, chosen, tenths)
        self.counts += np.bincount(chosen, minlength=STATIONS)

    def of(self, names):
        """Return the statistics by name, without stations that have no row."""
        columns = (column.tolist() for column in (self.low, self.sums, self.counts, self.high))
        return {name: found for name, found in zip(names, zip(*columns, strict=True), strict=True) if found[2]}


def answer(stats):
    """Return the challenge's answer, from least, sum, count and most of each station in whole tenths.

    The mean is rounded half up, as Java's `Math.round` does.

    >>> answer({"B": (-5, -5, 1, -5), "A": (-10, 5, 10, 12)})
    '{A=-1.0/0.1/1.2, B=-0.5/-0.5/-0.5}'
    """
    rows = ((name, low, (2 * total + count) // (2 * count), high) for name, (low, total, count, high) in stats.items())
    return "{" + ", ".join(f"{name}={'/'.join(map(_decimal, tenths))}" for name, *tenths in sorted(rows)) + "}"


def _decimal(tenths):
    return f"{'-' if tenths < 0 else ''}{abs(tenths) // 10}.{abs(tenths) % 10}"
