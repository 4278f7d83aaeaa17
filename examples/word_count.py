"""Which words is Python written in? Count those of its standard library's sources, its tests left out.

python examples/word_count.py             # a progress bar, and the twenty most frequent words
python examples/word_count.py --compare   # the same on one core too, and how long each took
"""

import re
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from pathlib import Path

from poolagg import Frequencies, aggregate

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
WORDY = (tokenize.NAME, tokenize.COMMENT, tokenize.STRING)


def words(path):
    """The words of one file, split at capitals and underscores: about 6 ms of work, run in a worker process."""
    found = []
    try:
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in WORDY:
                    found += map(str.lower, WORD.findall(token.string))
    except (SyntaxError, tokenize.TokenError):
        pass  # some files are there to test what the parser refuses
    return found


def serially(paths):
    counts = Counter()
    for path in paths:
        counts.update(words(path))
    return counts


LEFT_OUT = {"site-packages", "test", "tests", "idle_test"}
library = Path(sysconfig.get_path("stdlib"))
paths = [path for path in sorted(library.rglob("*.py")) if LEFT_OUT.isdisjoint(path.parts)]

started = time.perf_counter()
counts = aggregate(words, paths, Frequencies().flat(), progress=True)  # counted and merged in the workers
seconds = time.perf_counter() - started

print(f"{counts.total():,} words, {len(counts):,} different ones, in the {len(paths):,} files of {library}\n")
for rank, (word, count) in enumerate(counts.most_common(20), 1):
    print(f"{rank:2}  {word:8} {count:7,}  {'█' * round(40 * count / counts.most_common(1)[0][1])}")

if "--compare" in sys.argv:
    started = time.perf_counter()
    assert serially(paths) == counts
    alone = time.perf_counter() - started
    print(f"\none core {alone:.1f} s, poolagg {seconds:.1f} s: {alone / seconds:.1f} times as fast, the same counts")
