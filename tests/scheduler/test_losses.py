"""A dead worker's items: the decision table, printed, and checked row by row."""

from __future__ import annotations

import itertools

import pytest

from poolagg._scheduler.losses import TABLE, Case, Decision, decide, deciding_row

PRINTED = """
held  oldest  alone  named  one  shared  silent  packing  decision
yes   .       .      .      .    .       yes     .        REMEMBER
yes   .       .      .      .    .       .       yes      ISOLATE
yes   .       .      .      .    .       .       .        REPEAT
.     no      .      .      .    .       yes     .        REPEAT
.     .       no     .      .    .       yes     .        REMEMBER
.     .       .      no     .    .       .       .        REPEAT
.     .       yes    .      yes  .       .       .        CHARGE
.     .       yes    .      .    .       .       .        HALVE
.     .       .      .      .    .       .       yes      ISOLATE
.     .       .      .      yes  no      .       .        CHARGE
.     .       .      .      .    .       .       .        ISOLATE
"""

EXAMPLES = {
    "held items at a silent death run again, and are suspects the second time": Case(held=True, silent=True),
    "held items that were being packed are all suspects": Case(held=True, packing=True),
    "held items had run before an item killed their worker, so they are innocent": Case(held=True),
    "a chunk that waited at a silent death had not begun": Case(silent=True),
    "a chunk that ran at a silent death is a suspect the second time": Case(oldest=True, silent=True),
    "a chunk without a suspect runs again as it ran": Case(oldest=True),
    "an item that dies alone is charged": Case(oldest=True, alone=True, named=True, one=True, silent=True),
    "several items that ran alone are halved": Case(oldest=True, alone=True, named=True),
    "a chunk whose partials were packed with others is suspect, too": Case(named=True, one=True, packing=True),
    "one item that the pool names is charged": Case(oldest=True, named=True, one=True),
    "one of many chunks that died together may be innocent, and runs alone": Case(named=True, one=True, shared=True),
}
"""For each row a case that it decides, and the reason."""

CASES = [Case(*facts) for facts in itertools.product((False, True), repeat=len(Case._fields))]


def printed() -> str:
    """The table as text."""
    words = {None: ".", True: "yes", False: "no"}
    rows = [(*(words[conditions.get(fact)] for fact in Case._fields), made.name) for conditions, made in TABLE]
    widths = [*(len(fact) for fact in Case._fields), 0]
    lines = [[*Case._fields, "decision"], *rows]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) for line in lines)


def test_the_table_is_this_one() -> None:
    """A change of one row shows in the text of all."""
    print(printed())
    assert printed() == PRINTED.strip()


@pytest.mark.parametrize(("row", "reason"), list(enumerate(EXAMPLES)), ids=str)
def test_each_row_decides_its_example(row: int, reason: str) -> None:
    case = EXAMPLES[reason]
    assert deciding_row(case) == row
    assert decide(case) is TABLE[row][1]


def test_each_row_has_an_example_and_each_case_a_row() -> None:
    assert len(EXAMPLES) == len(TABLE)
    assert {deciding_row(case) for case in CASES} == set(range(len(TABLE)))


def test_only_an_item_that_must_be_at_fault_is_charged() -> None:
    """It is the one suspect, it was running, and it ran alone or no other worker's death can have been its own."""
    charged = [case for case in CASES if decide(case) is Decision.CHARGE]
    assert charged
    for case in charged:
        assert case.named
        assert case.one
        assert not case.held
        assert case.alone or not (case.shared or case.packing or case.silent)


def test_only_items_that_ran_alone_are_halved() -> None:
    """Else the halves of an innocent chunk would be run for nothing."""
    assert all(case.alone and case.named and not case.held for case in CASES if decide(case) is Decision.HALVE)


def test_items_of_which_none_is_under_suspicion_run_as_before() -> None:
    for case in CASES:
        if not (case.named or case.silent or case.packing):
            assert decide(case) is Decision.REPEAT
