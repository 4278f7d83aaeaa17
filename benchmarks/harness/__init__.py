"""The harness runs the suites and shows their results; it knows no contestant.

    5  ../__main__.py                         the command line
    4  measuring.py  keeper.py  alone.py      processes: which contestant runs when, in what, for how long
    3  suite.py                               the parts of a suite
    2  charts.py  lines.py  page.py           results, as charts and as a page
    1  tables.py                              results, as tables
    0  results.py  machine.py  processes.py   measurements, the machine; the descendants of this process

A file imports from lower layers only. In a run, `measuring` starts a keeper, the keeper starts `alone`, and `alone`
times one contestant. Processes that the contestant leaves behind are descendants of the keeper, which ends them.
"""

from benchmarks.harness.suite import Case, Diagnosis, Missing, Suite, Timed

__all__ = ["Case", "Diagnosis", "Missing", "Suite", "Timed"]
