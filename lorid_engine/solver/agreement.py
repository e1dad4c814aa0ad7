"""Agreement: the stopping rule of LoRID over the answers of all rounds so far (arXiv 2508.13037)."""

from __future__ import annotations

from dataclasses import dataclass

from lorid_engine.solver.answers import equivalent


@dataclass(frozen=True)
class Vote:
    """One sample's answer."""

    answer: str
    round: int
    role: str  # "ir" or "dr"


class Agreement:
    """Collects answers round by round; IR and DR agree when some answer of one is equivalent to some answer of the other."""

    def __init__(self) -> None:
        self._votes: list[Vote] = []
        self._equal: dict[tuple[str, str], bool] = {}  # answers repeat, and each comparison is exact arithmetic

    def add_round(self, number: int, ir: str | None, dr: str | None) -> str | None:
        """Adds a round's answers (None = none was found).

        Returns:
            The agreed answer, if there is agreement now: of the answers that both roles gave, the one with most votes, then of
            the earliest round, then DR's.
        """
        self._votes += [Vote(answer, number, role) for role, answer in (("ir", ir), ("dr", dr)) if answer is not None]
        return self._best([vote for vote in self._votes if self._other_role_agrees(vote)])

    def most_voted(self) -> str | None:
        """The answer with most votes, then of the earliest round, then DR's; None if no round gave any."""
        return self._best(self._votes)

    def _best(self, candidates: list[Vote]) -> str | None:
        if not candidates:
            return None
        return min(candidates, key=lambda vote: (-self._count(vote), vote.round, vote.role != "dr")).answer

    def _count(self, candidate: Vote) -> int:
        return sum(vote is candidate or self._same(vote.answer, candidate.answer) for vote in self._votes)

    def _other_role_agrees(self, vote: Vote) -> bool:
        return any(other.role != vote.role and self._same(vote.answer, other.answer) for other in self._votes)

    def _same(self, a: str, b: str) -> bool:
        if (a, b) not in self._equal:
            self._equal[a, b] = self._equal[b, a] = equivalent(a, b)
        return self._equal[a, b]
