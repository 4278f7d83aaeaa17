"""The manual's claims on security: which users can write pickles that are opened, and that no other can reach in."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import leaks
import numpy as np
import psutil
import pytest
from paths import ROOT

from poolagg import Collect, ProcessPool, aggregate, share


def opens_pickles(path: Path) -> bool:
    """Tell whether a file of the library mentions something that opens pickles."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads", "Unpickler"):
            of = node.value
            if isinstance(of, ast.Name) and of.id in ("pickle", "cloudpickle", "dill", "marshal", "shelve"):
                return True
    return False


def test_every_place_that_opens_pickles_is_listed() -> None:
    security = (ROOT / "docs/explanation/security.md").read_text("utf-8")
    rows = [line.split("|")[2] for line in security.splitlines() if line.startswith("|")]
    listed = set(re.findall(r"`([^`]+\.py)`", " ".join(rows)))
    package = ROOT / "poolagg"
    assert listed == {path.relative_to(package).as_posix() for path in package.rglob("*.py") if opens_pickles(path)}


def test_while_a_run_goes_on_there_is_nothing_to_reach_it_by(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network socket, no socket or pipe with a name, no named shared memory, and no temporary file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shared = share(np.arange(100_000.0))
    # Of multiprocessing's own heap, where this process has used that before.
    others = {one.path for one in psutil.Process().memory_maps() if "/dev/shm/" in one.path}
    forkserver, _ = leaks.kept_forkserver()
    servers = {child for child in psutil.Process().children(recursive=True) if child.pid != forkserver}  # other tests'

    def look(array: Any) -> tuple[list[str], list[str]]:
        process = psutil.Process()
        reachable = [str(one) for one in process.net_connections("all") if one.laddr]
        named = [one.path for one in process.memory_maps() if "/dev/shm/" in one.path and one.path not in others]
        assert shared.value[1] == 1.0
        assert not array.any()
        return reachable, named

    with ProcessPool(2, start_method=method) as pool:
        found = aggregate(look, [np.zeros(100_000) for _ in range(8)], Collect(), pool=pool, chunksize=1)
        found.append(look(np.zeros(1)))
        children = set(psutil.Process().children(recursive=True)) - servers
        found += [([str(one) for one in child.net_connections("all") if one.laddr], []) for child in children]
        assert len(children) >= 2
        assert found == [([], [])] * len(found)
        assert list(tmp_path.iterdir()) == []
