"""Agreement: the stopping rule of LoRID over the answers of all rounds so far (arXiv 2508.13037)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from lorid_engine.solver.answers import equivalent as _equivalent

# Answers repeat, and comparing two is exact arithmetic.
equivalent = functools.lru_cache(maxsize=1 << 17)(_equivalent)


@dataclass
class _Candidate:
    """An answer as it was written.

    Attributes:
        first: the round in which it came, and whether it was not DR's.
        given: samples that wrote it just so, by role.
        same: the candidates that are equivalent to it; itself only if it says anything ("n/a" is equal to nothing).
    """

    answer: str
    first: tuple[int, bool]
    given: Counter[str] = field(default_factory=Counter)
    same: list[_Candidate] = field(default_factory=list)

    @property
    def votes(self) -> int:
        """How many samples say the same."""
        return sum(other.given.total() for other in self.same)

    @property
    def agreed(self) -> bool:
        """Whether both roles say the same."""
        return len(set().union(*(other.given for other in self.same))) == 2


class Agreement:
    """Collects answers round by round; IR and DR agree when some answer of one is equivalent to some answer of the other."""

    def __init__(self) -> None:
        self._candidates: dict[str, _Candidate] = {}  # answers repeat, and comparing two is exact arithmetic

    def add_round(self, number: int, ir: str | None, dr: str | None) -> str | None:
        """Adds a round's answers (None = none was found).

        Returns:
            The agreed answer, if there is agreement now: of the answers that both roles gave, the one with most votes, then of
            the earliest round, then DR's.
        """
        for role, answer in (("dr", dr), ("ir", ir)):
            if answer is not None:
                self._candidate(answer, (number, role != "dr")).given[role] += 1
        return _best(self._agreed())

    def agreed_answers(self) -> tuple[str, ...]:
        """All answers so far that both roles gave, in every form in which they were written."""
        return tuple(candidate.answer for candidate in self._agreed())

    def most_voted(self) -> str | None:
        """The answer with most votes, then of the earliest round, then DR's; None if no round gave any."""
        return _best(self._candidates.values())

    def _candidate(self, answer: str, first: tuple[int, bool]) -> _Candidate:
        if answer not in self._candidates:
            new = _Candidate(answer, first)
            new.same = [other for other in self._candidates.values() if equivalent(answer, other.answer)]
            for other in new.same:
                other.same.append(new)
            if equivalent(answer, answer):
                new.same.append(new)
            self._candidates[answer] = new
        return self._candidates[answer]

    def _agreed(self) -> list[_Candidate]:
        return [candidate for candidate in self._candidates.values() if candidate.agreed]


def _best(candidates: Iterable[_Candidate]) -> str | None:
    best = min(candidates, key=lambda candidate: (-candidate.votes, *candidate.first), default=None)
    return None if best is None else best.answer
