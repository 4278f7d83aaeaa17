"""Places of each kind for tests, and the server and the workers that some of them need.

A module asks for the server and the workers by `pytestmark`, so that they start before the fixture that counts what a
test leaves behind.
"""

from __future__ import annotations

import contextlib
import os
import sys

import places
import postgres
import pytest
from runs_into import made

from poolagg import ProcessPool, Sum, aggregate


@pytest.fixture(scope="module")
def postgresql():
    """The address of a PostgreSQL server, or why there is none: where CI installs it, that is an error."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(postgres.server())
        except postgres.Missing as error:
            if os.environ.get("POOLAGG_CI") and sys.platform != "win32":
                raise
            found = error
        yield found


@pytest.fixture
def address(postgresql):
    """That of a server; without one, the tests that need it are left out."""
    if isinstance(postgresql, postgres.Missing):
        pytest.skip(str(postgresql))
    return postgresql


@pytest.fixture(scope="module")
def pool():
    """Two workers for the tests that need some, started before anything is counted."""
    with ProcessPool(2) as made:
        aggregate(abs, range(100), Sum(), pool=made)
        yield made


@pytest.fixture(params=places.NAMES)
def where(request, tmp_path):
    """A place of each kind, empty."""
    return made(request.param, tmp_path, request)


@pytest.fixture(params=["sqlite", "postgres"])
def table(request, tmp_path):
    """A table in each database."""
    return made(request.param, tmp_path, request)


@pytest.fixture
def lines(tmp_path):
    return places.place("file", tmp_path)
