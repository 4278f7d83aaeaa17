"""poolagg against every shared object and every peer, measured on the machine it runs on.

    python -m benchmarks                                    lists the suites
    python -m benchmarks proxies [--quick] [--only NAME]    runs one: tables, JSON, charts, and a page with all

The rules, which `harness/` enforces and every suite in this folder keeps:

- A suite is one file and one question. Each contestant is a small function whose docstring states the idiom of its
  own documentation: nobody is set up worse than their manual says. Its lines, and those of the helpers it calls, are
  counted: they are what a user would have to write.
- Each contestant runs in a fresh process with a time limit. A hang is a result: it is killed with all its
  descendants, and reported. So is one that is not installed, or whose server is missing: nobody is dropped in
  silence.
- Runs are interleaved (A B C A B C) and there are at least five turns (fewer only with `--quick`); what is shown is
  the median, the least and the most, and the ratio to poolagg, turn by turn, of the same session.
- Each result is checked. Updates that were lost are counted and shown.
- Versions and machine are written down beside the numbers. No number is ever written by hand.

To add a suite, write `benchmarks/NAME.py` with a `suite = Suite(...)` and contestants: see `harness/suite.py`.
"""
