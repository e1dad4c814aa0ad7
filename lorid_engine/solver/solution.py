"""What the solver returns, and what it tells while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorid_engine.errors import LoridError


@dataclass(frozen=True)
class Sample:
    """One text of one role.

    Attributes:
        text: without the stop string.
        token_ids: what was drawn for it.
        answer: of IR and DR, as extracted; None = none found. Always None for KG.
        note: why there is no full text, if something was in the way.
    """

    text: str
    token_ids: tuple[int, ...]
    answer: str | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {"text": self.text, "answer": self.answer, "tokens": len(self.token_ids)}
        return fields | ({"note": self.note} if self.note else {})


@dataclass(frozen=True)
class Round:
    """One intuitive rationale, and rules with the rationale that applies them; numbered from 1."""

    number: int
    ir: Sample
    kg: Sample
    dr: Sample

    @property
    def tokens(self) -> int:
        """Tokens drawn for the round."""
        return sum(len(sample.token_ids) for sample in (self.ir, self.kg, self.dr))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rules = {"text": self.kg.text, "tokens": len(self.kg.token_ids)}
        return {"round": self.number, "ir": self.ir.to_dict(), "kg": rules, "dr": self.dr.to_dict()}


@dataclass(frozen=True)
class Solution:
    """A question's answer and how it came about.

    Attributes:
        index: the question's place in the input.
        question: as asked.
        answer: agreed or, without agreement, with most votes; None if no rationale had an answer.
        agreed: whether IR and DR agreed.
        rounds: how many rounds it took.
        tokens: tokens drawn in these rounds, as strictly sequential rounds would draw them.
        cancelled_tokens: tokens of later rounds that had been begun meanwhile.
        seconds: wall time from the question's start.
        trace: the rounds.
        error: why the question could not be worked on.
    """

    index: int
    question: str
    answer: str | None
    agreed: bool
    rounds: int
    tokens: int
    cancelled_tokens: int
    seconds: float
    trace: tuple[Round, ...]
    error: LoridError | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {
            "question": self.question,
            "answer": self.answer,
            "agreed": self.agreed,
            "rounds": self.rounds,
            "tokens": self.tokens,
            "cancelled_tokens": self.cancelled_tokens,
            "seconds": self.seconds,
            "trace": [round.to_dict() for round in self.trace],
        }
        return fields | ({"error": str(self.error)} if self.error else {})


@dataclass(frozen=True)
class TextEvent:
    """A sample's text has grown."""

    question: int
    round: int
    role: str
    text: str


@dataclass(frozen=True)
class RoundEvent:
    """A round was judged."""

    question: int
    round: Round
    agreed: str | None


Event = TextEvent | RoundEvent
