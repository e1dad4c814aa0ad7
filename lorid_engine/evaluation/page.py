"""The report of an evaluation as one page of HTML that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorid_engine.errors import DataError
from lorid_engine.evaluation.table import report_rows
from lorid_engine.plots import bar_svg, line_svg


def write_page(
    path: Path,
    report: Mapping[str, Any],
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    questions: Mapping[int, Mapping[str, Any]],
) -> None:
    """Writes the page; what models and questions say is text there, never markup.

    Raises:
        DataError: it cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lorid_engine.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        report=report,
        rows=report_rows(report),
        settings=settings,
        machine=machine,
        questions=[questions[index] for index in sorted(questions)],
        plots=_plots(report),
    )
    new = path.with_name(f".{path.name}.new")  # the old one stays until this one is whole
    try:
        new.write_text(text, encoding="utf-8", errors="replace")
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise DataError(f"the report {path} cannot be written: {error.strerror}") from None


def _plots(report: Mapping[str, Any]) -> dict[str, str]:
    """SVG by title."""
    lorid = report["lorid"]
    scores = ("fallback", "strict", "strict_any")
    by_rounds = {score: _columns(lorid["curve"], "rounds", score) for score in scores}
    by_tokens = {"LoRID": _columns(lorid["curve"], "tokens", "fallback")}
    if vote := report.get("ir_vote"):
        by_tokens["vote of IR samples"] = _columns(vote["curve"], "tokens", "accuracy")
    if twice := report.get("ir_ir"):
        by_tokens["IR-IR agreement"] = _columns(twice["curve"], "tokens", "fallback")
    return {
        "Accuracy against rounds": line_svg(by_rounds, "rounds at most", "right, %"),
        "Accuracy against tokens": line_svg(by_tokens, "mean tokens of a question", "right, %"),
        "Rounds until a question ends": bar_svg(lorid["rounds_histogram"], "rounds", "questions"),
    }


def _columns(points: Sequence[Mapping[str, float]], x: str, share: str) -> tuple[list[float], list[float]]:
    return [point[x] for point in points], [100 * point[share] for point in points]
