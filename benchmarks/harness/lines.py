"""Results as lines over an axis, drawn as PNG by matplotlib: how one number grows with another.

Suites that measure one thing at many sizes use it. A dashed line is an ideal, not a measurement; dots without a line
are real runs next to simulated ones.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.harness.charts import FAINT, INK

COLOURS = ("#0b6e4f", "#d1702c", "#3b6fb5", "#8a4f9e", "#b8a21a", "#c8553d", "#4aa3a2")
"""The colours of lines in their order; the first is poolagg's."""

MARKERS = "osD^vPX"


def plainly(value: float) -> str:
    """Format a number without trailing zeros and without powers of ten.

    >>> plainly(0.0001), plainly(0.5), plainly(2.0), plainly(1e6)
    ('0.0001', '0.5', '2', '1,000,000')
    """
    return f"{value:,.8f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Line:
    """A name and its points, in order of x. `spread` is the least and the most at each point."""

    name: str
    points: Sequence[tuple[float, float]]
    style: Literal["measured", "ideal", "dots"] = "measured"
    spread: Sequence[tuple[float, float]] = ()
    colour: str = ""


@dataclass(frozen=True)
class Axis:
    """The label of an axis, the format of its ticks, and whether it is logarithmic, as its label then says."""

    label: str
    log: bool = False
    ticks: Mapping[float, str] | None = None
    """The positions of the ticks and their texts; by default matplotlib's."""
    reads: Callable[[float], str] = plainly
    limits: tuple[float | None, float | None] = (None, None)

    @property
    def text(self) -> str:
        """The label, with its scale."""
        return f"{self.label} (log scale)" if self.log else self.label


def lines(title: str, x: Axis, y: Axis, drawn: Sequence[Line], note: str = "") -> bytes:
    """Draw a chart of lines, with a legend at its side and a note below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    colours = iter(COLOURS * 2)
    for line, marker in zip(drawn, MARKERS * 3, strict=False):
        _draw(axes, line, line.colour or (FAINT if line.style == "ideal" else next(colours)), marker)
    _set_up(axes.set_xscale, axes.set_xlim, axes.xaxis, x)
    _set_up(axes.set_yscale, axes.set_ylim, axes.yaxis, y)
    _clean(axes)
    axes.set_title(textwrap.fill(title, 100), loc="left", fontsize=12, color=INK)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    if note:
        figure.supxlabel(textwrap.fill(note, 150), x=0.01, ha="left", fontsize=8.5, color=FAINT)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _draw(axes: Any, line: Line, colour: str, marker: str) -> None:
    style = {
        "ideal": {"linestyle": "--", "linewidth": 1.3},
        "measured": {"linestyle": "-", "linewidth": 1.8, "marker": marker, "markersize": 5},
        "dots": {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8},
    }[line.style]
    places, values = [at for at, _ in line.points], [value for _, value in line.points]
    axes.plot(places, values, color=colour, label=textwrap.fill(line.name, 30), **style)
    if line.spread:
        axes.vlines(places, *zip(*line.spread, strict=True), color=colour, linewidth=3.2, alpha=0.4)


def _set_up(scale: Callable[..., Any], limit: Callable[..., Any], ticks: Any, axis: Axis) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    scale("log" if axis.log else "linear")
    if axis.ticks is not None:
        ticks.set_ticks(list(axis.ticks), list(axis.ticks.values()))
        ticks.set_minor_locator(NullLocator())
    else:
        least, most = ticks.get_view_interval()
        if axis.log and most < 300 * least:  # powers of ten are too few ticks
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter(lambda value, _: axis.reads(value))
        ticks.set_minor_formatter(NullFormatter())
    ticks.set_label_text(axis.text, color=FAINT)
    limit(*axis.limits)


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT, length=0, which="both")
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
