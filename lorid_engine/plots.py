"""Plots as SVG, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_SIZE = (6.4, 3.8)  # inches; SVG scales


def line_plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    percent: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    log_x: bool = False,
) -> str:
    """Lines by name as (x, y), and single points by name, as an SVG element."""
    figure, axes = _axes(x_label, y_label)
    for name, (x, y) in lines.items():
        axes.plot(x, [100 * value for value in y] if percent else y, label=name, marker=".", linewidth=1.5)
    for name, (at_x, at_y) in (marks or {}).items():
        axes.plot([at_x], [100 * at_y if percent else at_y], linestyle="none", marker="D", label=name)
    if log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def bar_plot(bars: Mapping[str, float], x_label: str, y_label: str) -> str:
    """Bars by name, as an SVG element."""
    figure, axes = _axes(x_label, y_label)
    axes.bar(list(bars), list(bars.values()), color="tab:blue")
    return _svg(figure)


def _axes(x_label: str, y_label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it keeps figures and may look for a screen

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
