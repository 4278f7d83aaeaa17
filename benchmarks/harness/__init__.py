"""What runs the suites and shows what they found; it knows nothing of any contestant.

    5  ../__main__.py                         the command line
    4  measuring.py  keeper.py  alone.py      processes: who runs when, in what, for how long
    3  suite.py                               what a suite is made of
    2  charts.py  lines.py  page.py           results, as pictures and as a page
    1  tables.py                              results, as tables
    0  results.py  machine.py  processes.py   what was measured, on what; the processes below this one

A file imports from lower floors only. A run goes: `measuring` starts a keeper, the keeper starts `alone`, which times
the one contestant; whatever the contestant leaves behind is below the keeper, and ends with it.
"""

from benchmarks.harness.suite import Case, Diagnosis, Missing, Suite, Timed

__all__ = ["Case", "Diagnosis", "Missing", "Suite", "Timed"]
