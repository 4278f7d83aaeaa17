"""`check_resource` names the law that a resource breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poolagg.testing import LawBroken, check_resource


class Lawful:
    """One file, written anew; each law has a subclass that breaks it."""

    def __init__(self, path):
        self.path = Path(path)

    def load(self):
        return json.loads(self.path.read_text()) if self.path.exists() else [[], None]

    def begin(self):
        self.partials, ledger = self.load()
        return None if ledger is None else bytes.fromhex(ledger)

    def apply(self, partial):
        self.partials.append(partial)

    def commit(self, ledger):
        self.path.write_text(json.dumps([self.partials, ledger.hex()]))

    def rollback(self):
        self.partials = None


class ForgetsEmptyLedgers(Lawful):
    def begin(self):
        return super().begin() or None


class Doubles(Lawful):
    def commit(self, ledger):
        super().commit(ledger)
        self.partials += self.partials


class KeepsTheLast(Lawful):
    def commit(self, ledger):
        super().commit(ledger)
        self.partials = []


class AppliesAtOnce(Lawful):
    def apply(self, partial):
        partials, ledger = self.load()
        self.partials.append(partial)
        self.path.write_text(json.dumps([[*partials, partial], ledger]))


class BeginsOnce(Lawful):
    partials = None

    def begin(self):
        if hasattr(self, "begun"):
            raise RuntimeError("once is enough")
        self.begun = True
        return super().begin()


class CommitsWhenItRollsBack(Lawful):
    def rollback(self):
        self.path.write_text(json.dumps([self.partials, self.load()[1]]))


class KeptByTheProcess(Lawful):
    held: list = [[], None]

    def load(self):
        return [list(self.held[0]), self.held[1]]

    def commit(self, ledger):
        self.held[:] = [list(self.partials), ledger.hex()]


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (ForgetsEmptyLedgers, "whatever bytes these are"),
        (Doubles, "each commit keeps"),
        (KeepsTheLast, "there once|each commit keeps"),
        (AppliesAtOnce, "gone after rollback"),
        (CommitsWhenItRollsBack, "gone after rollback"),
        (BeginsOnce, "begin again"),
        (KeptByTheProcess, "when it has been killed"),
    ],
)
def test_a_broken_law_is_named_with_a_small_example(kind, law, tmp_path):
    path = tmp_path / "kept"
    with pytest.raises(LawBroken, match=law) as broken:
        check_resource(lambda: kind(path), ["a", "b", "c", "d"], lambda: kind(path).load()[0])
    assert len(broken.value.samples) <= 2
    assert kind.__name__ in str(broken.value)


def test_a_lawful_one_passes(tmp_path):
    check_resource(lambda: Lawful(tmp_path / "kept"), "abc", lambda: Lawful(tmp_path / "kept").load()[0])
    with pytest.raises(ValueError, match="needs partials"):
        check_resource(lambda: Lawful(tmp_path / "kept"), [], list)
