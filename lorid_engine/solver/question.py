"""One question's rounds: what is in flight, what has arrived, and which round is judged next."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lorid_engine.engine import Engine, Request, RequestOutput, SamplingParams
from lorid_engine.errors import LoridError, RequestError
from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.answers import extract
from lorid_engine.solver.packs import ROLES, Pack
from lorid_engine.solver.solution import Event, Round, RoundEvent, Sample, Solution, TextEvent


def request_key(question: str, role: str, round: int) -> bytes:
    """What a sample's draws depend on besides the seed: SHA-256 of (question, role, round), lengths written first."""
    text = question.encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"%d:%b%d:%b%d" % (len(text), text, len(role), role.encode(), round)).digest()


def complete_answer(text: str, pattern: str | None, searched: int = 0) -> int | None:
    """Where the first complete answer line ends: the pattern matches and a line break follows.

    Args:
        text: a rationale so far.
        pattern: the pack's answer pattern; None = never complete.
        searched: length of the part that was searched before; only lines that end after it are looked at.
    """
    if pattern is None or "\n" not in text[searched:]:
        return None
    start = text.rfind("\n", 0, searched) + 1
    for match in re.compile(pattern).finditer(text, start):
        if text.find("\n", match.end()) >= 0:
            return match.end()
    return None


@dataclass
class _Rationales:
    """The samples of a round as they arrive, or why there is none."""

    samples: dict[str, Sample] = field(default_factory=dict)
    errors: dict[str, LoridError] = field(default_factory=dict)


class Question:
    """Runs one question's rounds on the engine. The order in which samples arrive never shows in the result."""

    def __init__(
        self,
        engine: Engine,
        pack: Pack,
        index: int,
        text: str,
        *,
        seed: int,
        max_rounds: int,
        overrides: dict[str, float | int],
        tell: Callable[[Event], None],
    ) -> None:
        if not isinstance(text, str):
            raise RequestError(f"a question must be text; got {type(text).__name__}")
        if not text.strip():
            raise RequestError("the question is empty; give some text")
        engine.require_room(text)
        self._engine, self._pack, self._tell = engine, pack, tell
        self._seed, self._max_rounds, self._overrides = seed, max_rounds, overrides
        self.index, self.text = index, text
        self.started = 0  # rounds begun
        self._judged: list[Round] = []
        self._rounds: dict[int, _Rationales] = {}
        self._flight: dict[str, tuple[int, str]] = {}  # request id to round and role
        self._drawn: dict[tuple[int, str], int] = {}
        self._searched: dict[str, int] = {}
        self._agreement = Agreement()
        self._start = time.perf_counter()
        self.solution: Solution | None = None

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The requests in flight."""
        return tuple(self._flight)

    @property
    def lookahead(self) -> int:
        """Rounds begun beyond the one that is judged next."""
        return self.started - len(self._judged) - 1

    @property
    def can_start(self) -> bool:
        """Whether there is another round to begin."""
        return self.solution is None and self.started < self._max_rounds

    def start_round(self) -> None:
        """Begins the next round: IR and KG; DR follows when KG's rules are there."""
        assert self.can_start
        self.started += 1
        self._rounds[self.started] = _Rationales()
        for role in ("ir", "kg"):
            self._request(self.started, role, question=self.text)

    def _request(self, round: int, role: str, **values: str) -> None:
        options = self._pack.sampling_for(role, self._overrides)
        request = Request(
            self._pack.roles[role].template.encode(self._engine.tokenizer, **values),
            adapter=role,
            sampling=SamplingParams(**options, seed=self._seed, stop=self._pack.stop),
            key=request_key(self.text, role, round),
            priority=round - 1 - len(self._judged),
        )
        try:
            self._flight[self._engine.add_request(request)] = (round, role)
        except LoridError as error:
            if role == "dr" and isinstance(error, RequestError):  # the rules leave no room in the context
                self._arrive(round, role, Sample("", (), note=str(error)))
            else:
                self._miss(round, role, error)

    def take(self, output: RequestOutput) -> None:
        """Takes in what a step brought for one of the requests in flight."""
        round, role = self._flight[output.request_id]
        sample = output.outputs[0]
        self._drawn[round, role] = len(sample.token_ids)
        if output.error is not None:
            del self._flight[output.request_id]
            self._miss(round, role, output.error)
            return
        end = None
        if role != "kg":
            end = complete_answer(sample.text, self._pack.answer_pattern, self._searched.get(output.request_id, 0))
            self._searched[output.request_id] = len(sample.text)
        text = sample.text if end is None else sample.text[:end]
        self._tell(TextEvent(self.index, round, role, text))
        if end is None and not output.finished:
            return
        if not output.finished:
            self._engine.abort_request(output.request_id)
        del self._flight[output.request_id]
        answer = None if role == "kg" else extract(text, self._pack.answer_pattern)
        self._arrive(round, role, Sample(text, tuple(sample.token_ids), answer))

    def _arrive(self, round: int, role: str, sample: Sample) -> None:
        self._rounds[round].samples[role] = sample
        if role == "kg":
            self._request(round, "dr", question=self.text, knowledge=sample.text)
        self._judge()

    def _miss(self, round: int, role: str, error: LoridError) -> None:
        """Notes a sample that cannot be had. It matters when its round is judged: earlier rounds may agree without it."""
        self._rounds[round].errors[role] = error
        if role == "kg":
            self._rounds[round].errors["dr"] = error
        self._judge()

    def _judge(self) -> None:
        """Judges rounds in order, as far as they are complete."""
        while self.solution is None:
            number = len(self._judged) + 1
            arrived = self._rounds.get(number, _Rationales())
            if len(arrived.samples) + len(arrived.errors) < len(ROLES):
                return
            if arrived.errors:
                self._finish(None, False, next(arrived.errors[role] for role in ROLES if role in arrived.errors))
                return
            judged = Round(number, **arrived.samples)
            self._judged.append(judged)
            agreed = self._agreement.add_round(number, judged.ir.answer, judged.dr.answer)
            self._tell(RoundEvent(self.index, judged, agreed))
            if agreed is not None or number == self._max_rounds:
                self._finish(agreed if agreed is not None else self._agreement.most_voted(), agreed is not None)

    def _finish(self, answer: str | None, agreed: bool, error: LoridError | None = None) -> None:
        self.cancel()
        final = len(self._judged)
        self.solution = Solution(
            index=self.index,
            question=self.text,
            answer=answer,
            agreed=agreed,
            rounds=final,
            tokens=sum(round.tokens for round in self._judged),
            cancelled_tokens=sum(count for (number, _), count in self._drawn.items() if number > final),
            seconds=time.perf_counter() - self._start,
            trace=tuple(self._judged),
            error=error,
        )

    def cancel(self) -> None:
        """Aborts everything in flight."""
        for request_id in self._flight:
            self._engine.abort_request(request_id)
        self._flight.clear()
