"""What cannot be committed is refused at the call."""

from __future__ import annotations

import functools
import os
import sys

import pytest
from checkpointed import Idle

from poolagg import Checkpoint, Collect, Into, Reducer, Sum, ThreadPool, aggregate
from poolagg._checkpoint.store import look
from poolagg.strategies import Stream


@pytest.mark.parametrize("reducer", [Into(print), {"a": Sum(), "b": Into(print)}, Into(print).where(bool)])
def test_into_is_refused(reducer, path):
    """What lies outside cannot be committed together with what was covered."""
    with pytest.raises(ValueError, match="outside of the checkpoint"):
        aggregate(abs, range(3), reducer, checkpoint=path)
    assert not os.path.exists(path)


class Ungainly(Reducer):
    def init(self):
        return (x for x in ())

    def step(self, acc, prepared):
        return acc


def test_a_state_that_does_not_pickle_is_refused_before_the_run(path):
    """And no file is made."""
    with pytest.raises(TypeError, match=r"accumulator of Ungainly\(\), which does not pickle"):
        aggregate(abs, range(3), Ungainly(), pool=Idle(), checkpoint=path)
    assert not os.path.exists(path)


def test_a_state_that_ceases_to_pickle_ends_the_run(path):
    """With the reducer's name; the last commit stands."""
    call = functools.partial(aggregate, reducer=Collect(), strategy=Stream(), chunksize=1, checkpoint=path)
    with pytest.raises(TypeError, match=r"accumulator of Collect\(\), which does not pickle"):
        call(lambda x: sys._getframe() if x > 5 else x, range(10), pool=ThreadPool(1))
    assert look(path).facts == {}


@pytest.mark.parametrize("wrong", [3, b"path", ["a"]])
def test_what_is_no_path_is_refused(wrong):
    with pytest.raises(TypeError, match="takes a path or a Checkpoint"):
        aggregate(abs, range(3), Sum(), checkpoint=wrong)


@pytest.mark.parametrize("options", [{"every": 0}, {"every": "1s"}, {"key": 3}])
def test_options_are_checked(options):
    with pytest.raises((TypeError, ValueError), match="Checkpoint"):
        Checkpoint("a", **options)
