"""The gallery has every example. `tests/test_examples.py` compares its outputs, since it runs the examples."""

from __future__ import annotations

import ast
import re

import pytest
from gallery import PAGE, SOURCE, pattern, sections
from paths import EXAMPLES


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda example: example.name)
def test_every_example_is_in_the_gallery(example):
    """With the first line of its docstring, and a link to its source."""
    section = sections()[example.name]
    assert section.summary == ast.get_docstring(ast.parse(example.read_text("utf-8"))).splitlines()[0]
    assert section.source == SOURCE + example.name


def test_every_section_is_of_an_example():
    """No section is left over from an example that is gone, and each has the form that tests read."""
    headings = re.findall(r"^### (.*)$", PAGE.read_text("utf-8"), re.M)
    assert headings == list(sections())
    assert set(headings) == {example.name for example in EXAMPLES.glob("*.py")}


def test_an_excerpt_stands_for_other_numbers_but_no_other_words():
    """Also for bars of another length, and for what `...` leaves out."""
    excerpt = pattern("1,438 words in ...\n 1  self  55,175  ████\n...\nerror -0.5\n")
    assert re.fullmatch(excerpt, "9 words in /usr/lib\n 1  self     1  ██\n 2  the\nerror +1.25\n", re.S)
    assert not re.fullmatch(excerpt, "9 words in /usr/lib\n 1  other    1  ██\n 2  the\nerror +1.25\n", re.S)
