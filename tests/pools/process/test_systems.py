"""The primitives of systems: which a pool takes, and what a program can choose."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from paths import ROOT

from poolagg import ProcessPool
from poolagg.pools.process.systems.choice import native, system_of
from poolagg.pools.process.systems.posix import Posix


def test_programs_cannot_choose_the_portable_primitives(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for tests; a program is told what it can choose."""
    monkeypatch.delenv("POOLAGG_PORTABLE")
    with pytest.raises(ValueError, match=r"start_method must be one of \['forkserver', .*, not 'portable'"):
        ProcessPool(1, start_method="portable")


def test_a_pool_has_no_chunk_wait_where_a_worker_cannot_claim_it() -> None:
    """Else the chunk would wait behind a slow item while other workers are idle."""
    assert ProcessPool(1, start_method="portable").in_flight == 1
    assert ProcessPool(1).in_flight == 2


@pytest.mark.parametrize("module", ["systems.posix", "systems.portable", "systems.windows", "launch.windows"])
def test_what_another_system_uses_imports_here(module: str) -> None:
    """An editor, a type checker or a test can load it; it asks for what its system has when it is used."""
    program = f"import poolagg.pools.process.{module}"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=50)


@pytest.mark.orphans
@pytest.mark.parametrize("method", ["forkserver", "portable"])
def test_the_memory_of_a_pool_has_no_name_that_a_killed_program_leaves(method: str, tmp_path: Any) -> None:
    """Not even for a moment that a kill could hit, once the workers run."""
    program = f"""
        import os, signal
        from poolagg import ProcessPool
        with ProcessPool(2, start_method={method!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environ = {"TMPDIR": str(tmp_path), "POOLAGG_PORTABLE": "1"}
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, env=environ, timeout=50)
    assert ran.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_linux_has_its_own_primitives() -> None:
    """The portable ones are not what a program gets."""
    assert isinstance(native(), Posix)
    assert system_of("spawn") is native() is not system_of("portable")
