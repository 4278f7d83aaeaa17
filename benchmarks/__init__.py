"""Benchmarks of poolagg, of ways to share an object, and of other pools, measured on this machine.

    python -m benchmarks                                    lists the suites
    python -m benchmarks proxies [--quick] [--only NAME]    runs one: tables, JSON, charts, and a page with all

The rules, which `harness/` enforces and every suite in this folder keeps:

- A suite is one file and one question. Each contestant is a small function whose docstring states the idiom of its
  own documentation: each is set up at least as well as its manual says. The harness counts its lines, and those of its
  helpers: a user would have to write them.
- Each contestant runs in a fresh process with a time limit. A hang is a result: the harness kills the contestant with
  all its descendants, and reports it. It also reports a contestant that is not installed, or whose server is missing.
- Runs are interleaved (A B C A B C) in at least five turns (fewer only with `--quick`). The tables show the median, the
  least and the most, and the ratio to poolagg in the same turn.
- The suite checks each result, and counts lost updates.
- Results include versions and the machine. No number is ever written by hand.

To add a suite, write `benchmarks/NAME.py` with a `suite = Suite(...)` and contestants: see `harness/suite.py`.
"""
