"""Checkpoints and ledgers name what is public, so that files of the package may move without breaking them."""

from __future__ import annotations

import importlib
import pickle
import pickletools
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES

import poolagg
from poolagg import Collect, Mean, SerialPool, SkippedItems, Sum, aggregate, blocks
from poolagg._checkpoint.canonical import canonical
from poolagg._checkpoint.checkpoint import CheckpointData
from poolagg._checkpoint.fingerprint import fingerprint
from poolagg._checkpoint.fingerprint.origin import PACKAGE, is_own, name_of_type
from poolagg._checkpoint.fingerprint.values import _BY_ATTRIBUTES
from poolagg._checkpoint.store import FileStore, ResourceStore, look
from poolagg.reducers import Reducer

PUBLIC = {
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in ("errors", "events", "pools", "reducers", "resources", "strategies")),
}
"""The modules that a pickle may name."""


def names_in(data: bytes) -> Iterator[tuple[str, str]]:
    """Each module and name that opening a pickle looks up."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    fresh = False
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif "UNICODE" in opcode.name:
            texts.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts and fresh else ""
        elif opcode.name in ("BINGET", "LONG_BINGET") and memo.get(int(argument or 0)):
            texts.append(memo[int(argument or 0)])
        elif opcode.name == "STACK_GLOBAL":
            yield texts[-2], texts[-1]
        fresh = "UNICODE" in opcode.name


def check(data: bytes) -> set[tuple[str, str]]:
    """Assert that all names of ours are public, and lead to something; which those are."""
    ours = {(module, name) for module, name in names_in(data) if module.partition(".")[0] == PACKAGE}
    for module, name in ours:
        assert module in PUBLIC, (module, name)
        assert not name.startswith("_")
        assert getattr(importlib.import_module(module), name).__name__ == name
    return ours


KEPT = {name: family for name, family in FAMILIES.items() if not name.startswith("postgres")}


def states(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that receives the states committed from now on."""
    seen: list[bytes] = []
    for kind in (FileStore, ResourceStore):

        def commit(self: Any, data: CheckpointData, commit: Any = kind.commit) -> None:
            seen.append(data.state or b"")
            commit(self, data)

        monkeypatch.setattr(kind, "commit", commit)
    return seen


@pytest.mark.parametrize("name", KEPT)
def test_what_a_state_is_pickled_with_is_public(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name in each commit of each kind of run leads to something, from a module whose path stays."""
    seen = states(monkeypatch)
    KEPT[name].make(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedItems)
        KEPT[name].run(str(tmp_path), lambda event: None)
    assert seen
    for state in seen:
        check(state)


def test_names_are_seen_in_pickles(tmp_path: Path) -> None:
    """Else the tests here would show nothing."""
    path = tmp_path / "run.ckpt"
    aggregate(float, range(5), Mean(), pool=SerialPool(), checkpoint=path)
    state = look(path).state
    assert state is not None
    assert check(state) == {("poolagg.reducers", name) for name in ("FloatSum", "Moments", "Total")}
    with pytest.raises(AssertionError, match="_walk"):
        check(_private())


def _private() -> bytes:
    module = types.ModuleType(f"{PACKAGE}._walk")
    module.Walked = type("Walked", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        return pickle.dumps([module.Walked, module.Walked()])
    finally:
        del sys.modules[module.__name__]


def test_a_block_is_public(tmp_path: Path) -> None:
    """It may be a partial, and an item."""
    (tmp_path / "text").write_text("a\nb\n")
    made = blocks(str(tmp_path / "text"), size=2)
    assert check(pickle.dumps(list(made))) == {("poolagg", "Block")}
    assert canonical(made[0])[:2] == ("poolagg", "Block")
    aggregate(lambda block: block, made, Collect(), pool=SerialPool(), checkpoint=tmp_path / "run.ckpt")
    assert check(look(tmp_path / "run.ckpt").state or b"") == {("poolagg", "Block")}


@pytest.mark.parametrize("reducer", [Sum(), Sum().of(abs).where(bool), {"a": Mean(), "b": Collect()}], ids=repr)
def test_a_fingerprint_does_not_tell_which_file_a_class_is_in(reducer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts by its name and the package."""

    def func(item: Any) -> Any:
        return poolagg.star(abs)

    before = fingerprint(func, reducer)
    elsewhere = types.ModuleType(f"{PACKAGE}.reducers.elsewhere")
    monkeypatch.setitem(sys.modules, elsewhere.__name__, elsewhere)
    moved = [kind for kind in classes_of(Reducer) if kind.__module__.startswith(f"{PACKAGE}.reducers.")]
    for kind in moved:
        setattr(elsewhere, kind.__qualname__, kind)
        monkeypatch.setattr(kind, "__module__", elsewhere.__name__)
    assert {"Sum", "Mean", "Collect", "Of", "Where", "Tee"} <= {kind.__name__ for kind in moved}
    assert fingerprint(func, reducer) == before


def classes_of(base: type) -> list[type]:
    """The subclasses of a class that are loaded."""
    return [base, *(kind for child in base.__subclasses__() for kind in classes_of(child))]


def test_no_two_reducers_bear_one_name() -> None:
    """For the package and the name is all that a fingerprint tells of them."""
    for name in poolagg.reducers.__all__:
        getattr(poolagg.reducers, name)
    names = [kind.__qualname__ for kind in classes_of(Reducer) if not is_own(kind.__module__)]
    assert len(names) == len(set(names)) > 20


def test_each_type_of_ours_with_a_rule_of_its_own_is_there() -> None:
    """A rule for a type that has another name would never be used."""
    ours = [name for module, name in _BY_ATTRIBUTES if module == PACKAGE]
    assert ours == ["share"]
    for name in ours:
        assert name_of_type(getattr(poolagg, name)) == (PACKAGE, name)
