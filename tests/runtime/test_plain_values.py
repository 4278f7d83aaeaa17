"""Pickles of plain values of any depth need no proof, and those of no others; and a proof works."""

from __future__ import annotations

import abc
import collections
import contextlib
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import pickle
import sys
import uuid
import zoneinfo
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from biting import KeyThatBites

import poolagg
from poolagg import Collect, Frequencies, Mean, ProcessPool, Reducer, Sum, Variance, aggregate
from poolagg._runtime.plain_values import pickled
from poolagg.pools.process.arena import ArenaBuffers
from poolagg.pools.serialization import proof
from poolagg.pools.serialization.proof import dumps_proved
from poolagg.reducers import fold
from poolagg.strategies import Combine, Partition
from poolagg.strategies.keyed import Divided, Entries, divided


@dataclasses.dataclass(frozen=True)
class Own:
    """A class of the user's."""

    x: Any = 0


Named = collections.namedtuple("Named", "x")


class Number(int):
    """A number that C knows nothing of."""


class Meta(type):
    """A metaclass, whose classes have a hash of its own."""


class OfMeta(metaclass=Meta):
    """One of these."""


class Colour(enum.Enum):
    """An enum of the user's: it is unknown how its members are made again."""

    RED = 1


def object_array(value: Any) -> Any:
    """An array of one object."""
    found = np.empty(1, object)
    found[0] = value
    return found


def record(value: Any) -> Any:
    """A structured array with an object in it."""
    found = np.zeros(1, [("a", "O"), ("b", "f8")])
    found[0] = (value, 0.5)
    return found


PLAIN = [
    *(None, True, 1, 1 << 99, 1.5, "x", b"x", bytearray(3), 1j, range(3), slice(1, None)),
    *((), [1], {"a": {2}}, frozenset({3}), int, len, abc.ABC),
    *(collections.Counter("aab"), collections.OrderedDict(a=1), collections.deque([1])),
    *(collections.defaultdict(list, a=[1]), collections.defaultdict(Own)),
    *(decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.uuid4(), array("d", [1.0])),
    *(datetime.date(2020, 1, 1), datetime.time(1), datetime.timedelta(1), datetime.datetime(2020, 1, 1)),
    datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    *(pathlib.Path("a/b"), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")),
    *(
        np.float64(1),
        np.int32(1),
        np.bool_(True),
        np.str_("x"),
        np.bytes_(b"x"),
        np.datetime64("2020"),
        np.longdouble(1),
    ),
    *(np.arange(3), np.arange(100_000.0), np.ones((3, 3))[::2, 1:], np.array("abc"), np.zeros(2, "m8[s]")),
    *(np.zeros(3, [("a", "f8"), ("b", "S3")]), np.dtype("f8"), object_array(None), record([1])),
]

OTHERS: list[Callable[[], Any]] = [
    *(Own, Own(1).__class__, lambda: Named(1), lambda: Number(1), lambda: Colour.RED, lambda: OfMeta, OfMeta),
    *(lambda: collections.defaultdict(functools.partial(int)), lambda: datetime.datetime.now(zoneinfo.ZoneInfo("UTC"))),
    *(lambda: np.ma.zeros(3), lambda: np.random.default_rng(), lambda: decimal.getcontext()),
]

AROUND: list[Callable[[Any], Any]] = [
    lambda x: x,
    lambda x: [1, "a", (x, 2.0)],
    lambda x: {"a": {"b": [x]}},
    lambda x: collections.deque([x]),
    lambda x: collections.OrderedDict(a=x),
    lambda x: collections.defaultdict(list, a=[x]),
    lambda x: slice(x),
    object_array,
    record,
    lambda x: Entries([1], [x]),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_values_are_known_whatever_is_around_them(value: Any) -> None:
    for around in AROUND:
        data, plain = pickled(around(value))
        assert plain
        assert data == pickle.dumps(around(value), 5)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other()).__name__)
def test_other_values_are_found_whatever_is_around_them(other: Callable[[], Any]) -> None:
    for around in AROUND:
        value = around(other())
        data, plain = pickled(value)
        assert not plain
        assert data == pickle.dumps(value, 5)
        assert not pickled([1, {2: value}, PLAIN])[1]


@pytest.mark.parametrize("key", [Own(1), Named(1), Number(1), Colour.RED, OfMeta])
def test_other_keys_are_found(key: Any) -> None:
    for value in ({key: 1}, {key}, frozenset({key}), collections.Counter([key]), {(1, key): 2}):
        assert not pickled(value)[1]


def test_what_only_looks_plain_is_not() -> None:
    pretender = type("Decimal", (decimal.Decimal,), {"__module__": "decimal"})
    assert not pickled([pretender is not decimal.Decimal, object_array(Number(1))])[1]
    with pytest.raises(pickle.PicklingError):
        pickled(pretender(1))


def test_a_function_that_the_user_registers_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is called: a pickler with a table of its own asks that of the process, too."""
    assert pickled(decimal.Decimal(1))[1]
    monkeypatch.setitem(copyreg.dispatch_table, decimal.Decimal, lambda value: (Own, (str(value),)))
    data, plain = pickled([decimal.Decimal(1)])
    assert not plain
    assert pickle.loads(data) == [Own("1")]


@pytest.mark.parametrize("size", [0, 100, 1 << 16, 1 << 20])
def test_large_values_are_as_pickle_makes_them(size: int) -> None:
    values = [bytes(size), bytearray(size), "x" * size, pickle.PickleBuffer(bytearray(size)), list(range(size // 8))]
    assert pickled(values)[0] == pickle.dumps(values, 5)
    out_of_band, alike = ArenaBuffers(1 << 16), ArenaBuffers(1 << 16)
    arrays = [np.zeros(size), np.zeros(10)]
    assert pickled(arrays, out_of_band)[0] == pickle.dumps(arrays, 5, buffer_callback=alike)
    assert len(out_of_band) == len(alike) == (8 * size >= 1 << 16)


EXAMPLES: dict[str, list[Any]] = {
    "MergeCounts": [{"a": 1}],
    "ArraySum": [np.arange(3.0)],
    "ArrayMean": [np.arange(3.0)],
    "ArrayStd": [np.arange(3.0)],
    "Concat": [np.arange(3.0)],
    "ArrayReduce": [np.arange(3.0)],
    "Histogram": [0.5, 2.0],
}


def reducers() -> Iterator[Reducer]:
    """One of each that poolagg exports, and some that are made of several."""
    arguments: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("Top", "Bottom"), (3,)),
        "Sample": (3, 1),
        "Histogram": ([0, 1, 2],),
        "ArrayReduce": (np.add,),
        "HeavyHitters": (3,),
        "Quantiles": (0.5,),
    }
    for name in poolagg.__all__:
        kind = getattr(poolagg, name)
        if isinstance(kind, type) and issubclass(kind, Reducer):
            if name not in ("Reducer", "Into", "Fold", "Reduce", "GroupBy", "Tee"):
                with contextlib.suppress(ImportError):  # of a sketch whose library has no release for this Python
                    yield kind(*arguments.get(name, ()))
    yield from (poolagg.Tee({"a": Sum(), "b": Variance()}), Mean().by(abs), poolagg.Reduce(max), Collect().then(len))


@pytest.mark.parametrize("reducer", list(reducers()), ids=repr)
def test_accumulators_of_plain_values_are_plain(reducer: Reducer) -> None:
    values = EXAMPLES.get(type(reducer).__name__, [3, 1, 4])
    acc = fold(reducer, reducer.init(), 0, list(map(reducer.prepare, values)))
    for strategy in (Combine(), Partition(2)):
        if strategy.refusal(reducer) is None:
            assert pickled(strategy.packed(reducer, acc))[1]


def test_sums_of_any_kind_are_plain() -> None:
    for values in (
        [0.1, 0.2],
        [1, 0.5],
        [decimal.Decimal(1), 2],
        [fractions.Fraction(1, 3), 0.5],
        [1j],
        [np.float32(1)],
    ):
        reducer = Sum()
        assert pickled(functools.reduce(reducer.step, map(reducer.prepare, values), reducer.init()))[1]


# -- the proof ---------------------------------------------------------------------------------------------------------

opened: list[Any] = []


class Counts:
    """Counts how often it is unpickled in this process."""

    def __reduce__(self) -> Any:
        return opened.append, (1,)


def opens(value: Any) -> bool:
    """Tell whether a value opens as it pickles."""
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "open_watched", lambda *arguments: calls.append(arguments))
        dumps_proved(value, ArenaBuffers(1 << 16))
    return bool(calls)


def test_only_what_is_not_plain_is_opened() -> None:
    assert not opens(PLAIN)
    assert not opens([np.arange(1e6), {"a": (1, 2)}])
    assert opens(Own())
    assert opens(lambda: 1)
    opened.clear()
    assert pickle.loads(dumps_proved([Counts.__name__])) == ["Counts"]
    assert opened == []


@dataclasses.dataclass
class Doubles:
    """Writes to its array where it is opened."""

    values: Any

    def __setstate__(self, state: Any) -> None:
        self.values = state["values"]
        self.values *= 2


def test_what_writes_to_its_buffers_as_it_is_opened_does_not_write_to_those_that_are_sent() -> None:
    value, out_of_band = Doubles(np.ones(100_000)), ArenaBuffers(1 << 16)
    data = dumps_proved(value, out_of_band)
    assert len(out_of_band) == 1
    assert (value.values == 1).all()
    again = pickle.loads(data, buffers=[bytearray(buffer.raw()) for buffer in out_of_band])
    assert (again.values == 2).all()


def test_buffers_are_not_copied() -> None:
    seen = []
    value = Own(np.ones(100_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "open_watched", lambda packed, alive: seen.extend(packed.buffers))
        dumps_proved(value, ArenaBuffers(1 << 16))
    assert np.shares_memory(np.frombuffer(seen[0]), value.x)


def test_there_are_signs_of_life_while_a_pickle_is_opened() -> None:
    """As many as while it is made: one for each 64 kB."""
    signs: list[int] = []
    plain = [float(x) for x in range(100_000)]
    data = dumps_proved(plain, None, lambda: signs.append(1))
    assert len(data) / 65536 - 1 <= len(signs) <= len(data) / 65536 + 3
    once = len(signs)
    dumps_proved([plain, Own()], None, lambda: signs.append(1))
    assert len(signs) >= 3 * once - 3


def test_a_function_that_is_opened_assigns_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"].__dict__
    monkeypatch.setitem(main, "kept", kept := [1])
    function = eval("lambda: kept", main)
    dumps_proved(function)
    assert main["kept"] is kept


def test_keys_of_ones_own_are_in_no_pickle_within_a_pickle() -> None:
    plain, own = (divided(dict.fromkeys(keys, 1), 2) for keys in (range(10), map(KeyThatBites, range(10))))
    assert {type(part) for part in plain.packed} == {bytes}
    assert {type(part) for part in own.packed} == {Entries}
    assert pickled(Divided([plain]))[1]
    assert not pickled(Divided([own]))[1]
    assert own.nbytes > 10 * 50


@pytest.mark.parametrize("reducer", [Collect(), Frequencies()], ids=repr)
def test_results_of_ones_own_arrive(method: str, reducer: Reducer) -> None:
    with ProcessPool(2, start_method=method) as pool:
        got = aggregate(Own, range(50), reducer, pool=pool)
    assert sorted(one.x for one in got) == list(range(50))
