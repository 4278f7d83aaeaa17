"""What runs the suites and shows what they found; it knows nothing of any contestant.

    4  ../__main__.py                         the command line
    3  measuring.py  keeper.py  alone.py      processes: who runs when, in what, for how long
    2  suite.py                               what a suite is made of
    1  tables.py  charts.py  page.py          results, as people see them
    0  results.py  machine.py  processes.py   what was measured, on what; the processes below this one

A file imports from lower floors only. A run goes: `measuring` starts a keeper, the keeper starts `alone`, which times
the one contestant; whatever the contestant leaves behind is below the keeper, and ends with it.
"""

from benchmarks.harness.suite import Case, Missing, Suite, Timed, Verdict

__all__ = ["Case", "Missing", "Suite", "Timed", "Verdict"]
