"""A system that has no pidfds, or a container that refuses them: the parent asks for deaths, and misses none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import PROGRAMS, ROOT, TESTS

FAULTS = {
    "ENOSYS": "grandchild or killed_at_once or template_that or closes_all or between_two_runs",
    "EPERM": "(grandchild or killed_at_once) and forkserver",
    "missing": "(grandchild or killed_at_once) and forkserver",
}
"""Where an end must be noticed that closes no pipe; that of a worker whose forkserver is gone; of one that lives on."""


@pytest.mark.parametrize("how", FAULTS)
def test_deaths_are_noticed_without_pidfds(how):
    "The tests of faults pass as they are; nothing hangs, and nothing is left behind."
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no_pidfd", "-k", FAULTS[how]]
    environ = {**os.environ, "POOLAGG_PIDFD": how, "PYTHONPATH": os.pathsep.join([str(PROGRAMS), *sys.path])}
    command = [sys.executable, "-m", "pytest", *options, TESTS / "pools/faults"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=ROOT, env=environ)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert " passed" in ran.stdout
