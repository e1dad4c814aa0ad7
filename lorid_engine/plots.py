"""Plots by matplotlib, without a screen: SVG for a page, or a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorid_engine.errors import DataError

_WIDTH, _HEIGHT = 6.4, 3.8  # inches of a panel; SVG scales
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Panel:
    """Lines by name, as (x, y), under a title; limits are lines that are dashed."""

    title: str
    lines: Lines
    limits: Lines = field(default_factory=dict)


def line_svg(lines: Lines, x_label: str, y_label: str) -> str:
    """Lines by name as an SVG element."""
    figure = _figure(1)
    _draw_lines(figure.add_subplot(), lines, x_label, y_label)
    return _svg(figure)


def bar_svg(bars: Mapping[str, float], x_label: str, y_label: str) -> str:
    """Bars by name as an SVG element."""
    figure = _figure(1)
    axes = figure.add_subplot()
    _label(axes, x_label, y_label)
    axes.bar(list(bars), list(bars.values()))
    return _svg(figure)


def write_plot(path: Path, panels: Sequence[Panel], x_label: str, y_label: str) -> None:
    """Writes panels side by side, x in powers of two; the format is that of the file's suffix.

    Raises:
        DataError: it cannot be written.
    """
    figure = _figure(len(panels))
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, (x, y) in panel.limits.items():
            axes.plot(x, y, label=name, linestyle="dashed", color="grey")
        _draw_lines(axes, panel.lines, x_label, y_label)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise DataError(f"the plot {path} cannot be written: {error.strerror}") from None


def _figure(panels: int) -> Any:
    from matplotlib.figure import Figure  # no pyplot: it keeps figures and may look for a screen

    return Figure(figsize=(_WIDTH * min(panels, 3), _HEIGHT), layout="constrained")


def _draw_lines(axes: Any, lines: Lines, x_label: str, y_label: str) -> None:
    _label(axes, x_label, y_label)
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name, marker=".", linewidth=1.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def _label(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
