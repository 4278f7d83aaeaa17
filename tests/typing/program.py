"""A user's program, which type checkers read with an installed package: they have nothing to report."""

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from poolagg import (
    Count,
    Frequencies,
    Into,
    Mean,
    PoolAggError,
    ProcessPool,
    Reducer,
    Report,
    Sum,
    Top,
    aggregate,
    blocks,
    events,
    per_worker,
    snapshots,
    star,
    strategies,
    with_item,
)
from poolagg._input.blocks import Block


class Last(Reducer):
    def init(self) -> str:
        return ""

    def step(self, acc: str, x: str) -> str:
        return acc + x


def square(x: int) -> int:
    return x * x


def words(block: Block) -> list[str]:
    text: str = block.read()
    return text.lower().split()


def sizes(folder: Path) -> Iterator[int]:
    return (path.stat().st_size for path in folder.iterdir())


def told(event: events.RunEvent) -> None:
    print(event)


vocabulary = per_worker(set, ["a", "the"])


def main() -> None:
    total = aggregate(square, range(10_000_000), Sum(), progress=True)
    print(total + 1)
    counts = aggregate(words, blocks("corpus.txt"), Frequencies().flat(), checkpoint=Path("run.ckpt"))
    print(counts.most_common(3), "a" in vocabulary())
    result = aggregate(len, ["a", "to"], {"n": Count(), "mean": Mean().of(abs), "worst": Top(10)}, on_error="skip")
    print(result["n"] + 1, result["mean"] / 2, result["worst"][0])
    n, mean = aggregate(sizes, [Path()], (Count().flat(), Mean().flat()), strategy=strategies.Combine())
    print(n.bit_length(), mean.is_integer())
    aggregate(star(pow), [(2, 3)], Into(print), watch=[told, Report()])
    print(aggregate(with_item(square), range(-3, 4), Top(1, key=itemgetter(1)))[0])
    print(aggregate(str, range(3), Last()))
    print(aggregate(square, range(3), lambda a, b: a + b), aggregate(square, range(3), max))
    with ProcessPool(workers=2) as pool, snapshots(square, range(100), Mean().by(str), pool=pool) as looks:
        for look in looks:
            print(look.value["1"].is_integer(), look.done)
    try:
        for y in ProcessPool(2).imap_unordered(square, range(10)):
            print(y.bit_length())
    except PoolAggError as error:
        print(error)
