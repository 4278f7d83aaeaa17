"""Which words does Python explain itself with? Count those of all docstrings in its standard library.

python examples/word_count.py             # a progress bar, and the twenty most frequent words
python examples/word_count.py --compare   # the same on one core too, and how long each took
"""

import ast
import re
import sys
import sysconfig
import time
import warnings
from collections import Counter
from pathlib import Path

from poolagg import Frequencies, aggregate

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def words(path):
    """The words of a file's docstrings: about 5 ms of work, run in a worker process."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []  # some files are there to test what the parser refuses
    docstrings = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
    return re.findall(r"[a-z]+", " ".join(docstrings).lower())


def serially(paths):
    counts = Counter()
    for path in paths:
        counts.update(words(path))
    return counts


library = Path(sysconfig.get_path("stdlib"))
paths = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]

started = time.perf_counter()
counts = aggregate(words, paths, Frequencies().flat(), progress=True)  # counted and merged in the workers
seconds = time.perf_counter() - started

print(f"{counts.total():,} words, {len(counts):,} different ones, in the docstrings of {len(paths):,} files\n")
for rank, (word, count) in enumerate(counts.most_common(20), 1):
    print(f"{rank:2}  {word:8} {count:7,}  {'█' * round(40 * count / counts.most_common(1)[0][1])}")

if "--compare" in sys.argv:
    started = time.perf_counter()
    assert serially(paths) == counts
    alone = time.perf_counter() - started
    print(f"\none core {alone:.1f} s, poolagg {seconds:.1f} s: {alone / seconds:.1f} times as fast, the same counts")
