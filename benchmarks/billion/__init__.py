"""The one billion row challenge, in 10 million rows: least, mean and greatest temperature of 413 stations.

The input is a text file of lines such as `Abha;-23.0`. The answer is one line, `{Abha=-23.0/18.0/59.2, Adelaide=...}`,
sorted, to one decimal, each mean rounded half up. All answers must be equal to the letter: so each contestant adds
whole tenths or decimals, or rounds sums of floats to the tenths that they are.

`billion/measurements.py` makes the file by the challenge's recipe, with invented stations, before the clock starts. It
is in the page cache then, so the suite compares parsing and adding, not disks. Each contestant uses all cores. The
suite compares plain Python with plain Python, and compiled code with compiled code.
"""

import functools
import os
import tempfile
from multiprocessing import Pool
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.billion.measurements import answer, write
from benchmarks.harness import Case, Diagnosis, Suite, Timed
from poolagg import Fold, aggregate, blocks
from poolagg.pools import usable_cpus


def cases(scale):
    """Return one case; `units` are its rows."""
    rows = {"full": 10_000_000, "quick": 1_000_000, "tiny": 30_000}[scale]
    return [Case(f"{rows:,} rows", rows, limit={"full": 120, "quick": 40, "tiny": 20}[scale])]


def check(_, outcome):
    """Compare with the right answer, to the letter."""
    found, expected = outcome
    return Diagnosis(found == expected, "" if found == expected else f"another answer: {found[:60]}")


def contestant(name, *needs):
    """Add the decorated function as a contestant: it takes the path of the file, and returns the answer."""

    def enter(solve):
        @functools.wraps(solve)
        def run(case):
            path = Path(tempfile.mkdtemp(), "measurements.txt")  # the harness ends the temporary files of a run
            write(path, case.units)
            began = perf_counter()
            found = solve(path)
            seconds = perf_counter() - began
            return Timed((found, path.with_suffix(".expected").read_text("utf-8")), seconds)

        return suite.contestant(name, needs=needs)(run)

    return enter


suite = Suite(
    __name__,
    "The one billion row challenge: who answers first?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    unit=("ns per row", 1e-9),
    given=(contestant,),
    memory=True,
)


# -- plain Python ------------------------------------------------------------------------------------------------------


@contestant("poolagg, plain Python")
def plain(path):
    """README: `blocks`, a function that reads one, and a reducer from functions."""
    found = aggregate(stats_of_block, blocks(path, size="4MiB", encoding=None), Fold(merge, init=dict, merge=merge))
    return answer({name.decode(): stats for name, stats in found.items()})


def stats_of_block(block):
    return stats_of_lines(block.read().splitlines())


def stats_of_lines(lines):
    """Return least, sum, count and most of each station, in whole tenths."""
    stats = {}
    for line in lines:
        name, _, value = line.partition(b";")
        tenths = int(value.replace(b".", b""))
        found = stats.get(name)
        if found is None:
            stats[name] = [tenths, tenths, 1, tenths]
        else:
            if tenths < found[0]:
                found[0] = tenths
            if tenths > found[3]:
                found[3] = tenths
            found[1] += tenths
            found[2] += 1
    return stats


def merge(stats, more):
    """Add the statistics of some stations to those of others."""
    for name, (low, total, count, high) in more.items():
        least, sum_, number, most = stats.get(name, (low, 0, 0, high))
        stats[name] = (min(least, low), sum_ + total, number + count, max(most, high))
    return stats


@contestant("hand-written multiprocessing")
def by_hand(path):
    """Cut the file at line ends, a part for each core, make a dict of each, merge in the parent: the usual solution."""
    cores, stats = usable_cpus(), {}
    with Pool(cores) as pool:
        for more in pool.starmap(stats_of_part, parts(path, cores)):
            merge(stats, more)
    return answer({name.decode(): found for name, found in stats.items()})


def parts(path, count):
    """Return the start and stop of each part, at line ends."""
    size, stops = os.path.getsize(path), []
    with open(path, "rb") as file:
        for number in range(1, count):
            file.seek(size * number // count)
            file.readline()
            stops.append(file.tell())
    return [(path, start, stop) for start, stop in zip([0, *stops], [*stops, size], strict=True)]


def stats_of_part(path, start, stop):
    """Read line by line, so that a part need not fit in memory."""
    with open(path, "rb") as file:
        file.seek(start)
        return stats_of_lines(lines_until(file, stop - start))


def lines_until(file, length):
    while length > 0:
        yield (line := file.readline())
        length -= len(line)


# -- compiled ----------------------------------------------------------------------------------------------------------


@contestant("poolagg, numpy blocks")
def numpy_blocks(path):
    """README: `blocks`, parsed as one array of bytes, with a reducer of the same kind as in plain Python."""
    found = aggregate(stats_by_numpy, blocks(path, size="4MiB", encoding=None), Fold(merge, init=dict, merge=merge))
    return answer({name.decode(): stats for name, stats in found.items()})


def stats_by_numpy(block):
    """Parse all lines at once: number the stations by a hash of the name, and count by number."""
    text = block.read()
    data = np.frombuffer(text + bytes(8), np.uint8)
    ends, stops = np.flatnonzero(data == ord("\n")), np.flatnonzero(data == ord(";"))
    starts = np.concatenate(([0], ends[:-1] + 1))
    hashes, tenths = hashes_of(data, starts, stops), tenths_of(data, stops, ends)
    known = np.unique(hashes)
    station = np.searchsorted(known, hashes)
    low, total, high, line = (np.full(len(known), start) for start in (999, 0, -999, 0))
    np.minimum.at(low, station, tenths)
    np.add.at(total, station, tenths)
    np.maximum.at(high, station, tenths)
    line[station] = np.arange(len(station))  # any one that has the name
    names = [text[start:stop] for start, stop in zip(starts[line], stops[line], strict=True)]
    return dict(zip(names, np.transpose((low, total, np.bincount(station), high)).tolist(), strict=True))


def hashes_of(data, starts, stops):
    """Hash each name to 64 bits, eight of its bytes at a time; shift out the bytes beyond its end."""
    words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
    hashes = np.zeros(len(starts), np.uint64)
    for offset in range(0, int((stops - starts).max()), 8):
        beyond = np.clip(8 - (stops - starts - offset), 0, 8).astype(np.uint64) * 8
        kept = words[np.minimum(starts + offset, stops)] << np.minimum(beyond, 63)
        hashes = (hashes ^ np.where(beyond < 64, kept, 0)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def tenths_of(data, stops, ends):
    """Parse backwards: the last character is the decimal, then the point, one digit or two, perhaps a minus."""
    tens, ones, tenths = (data[ends - place].astype(int) - ord("0") for place in (4, 3, 1))
    size = 100 * np.where((tens >= 0) & (tens < 10), tens, 0) + 10 * ones + tenths
    return np.where(data[stops + 1] == ord("-"), -size, size)


@contestant("duckdb", "duckdb")
def duckdb_sql(path):
    """Follow duckdb's documentation: `read_csv` with declared columns, and GROUP BY; decimals, so sums are exact."""
    import duckdb

    rows = duckdb.sql(
        f"""SELECT station, 10 * min(t), 10 * sum(t), count(*), 10 * max(t) FROM read_csv('{path}', delim = ';',
            header = false, columns = {{'station': 'VARCHAR', 't': 'DECIMAL(4, 1)'}}) GROUP BY station"""
    ).fetchall()
    return answer({station: tuple(map(int, stats)) for station, *stats in rows})


@contestant("polars", "polars")
def polars_lazy(path):
    """Follow polars's documentation: `scan_csv`, `group_by`, `collect` by the streaming engine; rounded float sums."""
    import polars as pl

    t = pl.col("t")
    table = pl.scan_csv(path, separator=";", has_header=False, schema={"station": pl.String, "t": pl.Float64})
    stats = table.group_by("station").agg(t.min().alias("low"), t.sum(), pl.len(), t.max().alias("high"))
    rows = stats.collect(engine="streaming").iter_rows()
    return answer({name: (round(10 * a), round(10 * b), n, round(10 * z)) for name, a, b, n, z in rows})
