"""The report of an evaluation as rows for a person: what, right, its interval, tokens of a question, a remark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class ReportRow(NamedTuple):
    """One line of the table, as text."""

    name: str
    right: str
    interval: str
    tokens: str
    remark: str


def report_rows(report: Mapping[str, Any]) -> list[ReportRow]:
    """The rows of what the report has."""
    return list(_rows(report))


def _rows(report: Mapping[str, Any]) -> Iterator[ReportRow]:
    for role, rules in (("ir", ""), ("dr", "with KG's greedy rules")):
        if found := report.get(f"{role}_greedy"):
            yield _row(f"{role.upper()} greedy", found["accuracy"], None, rules)
    lorid = report["lorid"]
    remarks = {
        "strict_any": "any agreed answer is right",
        "strict": "the answer, where IR and DR agree",
        "fallback": "the answer, always",
    }
    for score, remark in remarks.items():
        yield _row(f"LoRID {score}", lorid["accuracy"][score], lorid["tokens_per_question"], remark)
    if vote := report.get("ir_vote"):
        yield _row("one IR sample", vote["one_sample"], vote["curve"][0]["tokens"], "")
        most = "" if vote["reached_budget"] else ", the most there may be"
        remark = f"{vote['samples']} samples{most}"
        yield _row("vote of IR samples", vote["accuracy"], vote["tokens_per_question"], remark)
    if twice := report.get("ir_ir"):
        most = "" if twice["reached_budget"] else ", all that are of use"
        for score in ("strict", "fallback"):
            remark = f"at most {twice['rounds_at_most']} rounds{most}; {100 * twice['agreed']:.1f} % agree"
            yield _row(f"IR-IR {score}", twice["accuracy"][score], twice["tokens_per_question"], remark)


def _row(name: str, accuracy: Mapping[str, float], tokens: float | None, remark: str) -> ReportRow:
    low, high = (f"{100 * accuracy[end]:.1f}" for end in ("low", "high"))
    shown = "" if tokens is None else f"{tokens:.0f}"
    return ReportRow(name, f"{100 * accuracy['value']:.1f} %", f"{low} to {high}", shown, remark)
