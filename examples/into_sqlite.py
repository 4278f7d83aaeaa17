"""Eight workers parse files, and one SQLite table fills: without "database is locked", and each row once.

Only this process writes, in batches, each in one transaction with the ledger of the files whose rows it holds. Stop it
with Ctrl-C or `kill -9`, run it again with the same database, and it goes on where it was:

python examples/into_sqlite.py functions.db
"""

import ast
import sqlite3
import sys
import sysconfig
import tempfile
from pathlib import Path

from poolagg import aggregate
from poolagg.resources import IntoDatabase

LIBRARY = Path(sysconfig.get_path("stdlib"))
INSERT = "INSERT INTO functions VALUES (?, ?, ?, ?)"


def functions(path):
    """The work, in a worker process: a row for each function that a file of Python's standard library defines."""
    tree = ast.parse(path.read_bytes())
    file = str(path.relative_to(LIBRARY))
    return [
        (file, node.lineno, node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def fill(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS functions (file TEXT, line INTEGER, name TEXT, lines INTEGER)")
    database.close()
    files = sorted([*LIBRARY.glob("*.py"), *LIBRARY.glob("asyncio/*.py"), *LIBRARY.glob("email/*.py")])
    # Each partial is a list of rows, and each of them is one: `flat`.
    aggregate(functions, files, IntoDatabase(path, INSERT, run="functions").flat(), workers=8, progress=True)
    return sqlite3.connect(path)


with tempfile.TemporaryDirectory() as folder:
    path = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/functions.db"
    for turn in ("filled", "again"):  # the second time there is nothing left to do
        database = fill(path)
        rows, files, different = database.execute(
            "SELECT count(*), count(DISTINCT file), count(DISTINCT file || line || name) FROM functions"
        ).fetchone()
        print(f"{turn}: {rows:,} functions of {files} files, of which different: {different:,}")
        longest = database.execute("SELECT lines, name, file FROM functions ORDER BY lines DESC LIMIT 1").fetchone()
        database.close()
    print("the longest: {} lines, {} in {}".format(*longest))
