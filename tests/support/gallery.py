"""The manual's gallery: each example's section, and whether an example prints what its section shows."""

from __future__ import annotations

import re
from typing import NamedTuple

from paths import ROOT

PAGE = ROOT / "docs/gallery.md"
SOURCE = "https://github.com/poolagg/poolagg/blob/main/examples/"
VARIES = re.compile(r"(\.\.\.\n?|[+-]?\d[\d,.]*|█+| +)")
NUMBER = r"[+-]?\d[\d,.]*"


class Section(NamedTuple):
    """An example: its file, the sentence about it, the link, and the output, which may be an excerpt."""

    name: str
    summary: str
    source: str
    excerpt: bool
    output: str


def sections():
    """Return the sections of the gallery by the names of their files."""
    found = re.findall(
        r"^### (\w+\.py)\n\n(.*?)\n\n\[Source\]\((.*?)\)\. It prints(, as an excerpt)?:\n\n```\n(.*?)^```$",
        PAGE.read_text("utf-8"),
        re.M | re.S,
    )
    return {
        name: Section(name, summary.replace("\n", " "), source, bool(excerpt), output)
        for name, summary, source, excerpt, output in found
    }


def assert_shown(name, output):
    """Compare what an example prints with its section; in an excerpt a number stands for any, `...` for anything."""
    section = sections()[name]
    if section.excerpt:
        assert re.fullmatch(pattern(section.output), output, re.S), output
    else:
        assert output == section.output


def pattern(excerpt):
    """Return the regular expression of all outputs that an excerpt stands for."""
    fixed, varying = VARIES.split(excerpt)[::2], VARIES.split(excerpt)[1::2]
    wild = [{".": ".*", "█": "█+", " ": " +"}.get(text[0], NUMBER) for text in varying]
    return "".join(re.escape(text) + one for text, one in zip(fixed, [*wild, ""], strict=True))
