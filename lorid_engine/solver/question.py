"""One question's rounds: what is in flight, what has arrived, and which round is judged next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lorid_engine.engine import Engine, RequestOutput
from lorid_engine.errors import LoridError, RequestError
from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.role_requests import RoleJob, SampleReader
from lorid_engine.solver.solution import Event, Round, RoundEvent, Sample, Solution, TextEvent


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
        self._flight: dict[str, tuple[RoleJob, SampleReader]] = {}  # by request id
        self._drawn: dict[tuple[int, str], int] = {}
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
            self._request(RoleJob(self.text, role, self.started))

    def _request(self, job: RoleJob) -> None:
        priority = job.round - 1 - len(self._judged)
        try:
            request = job.request(self._engine, self._pack, self._seed, self._overrides, priority)
            self._flight[self._engine.add_request(request)] = job, SampleReader(self._pack, job.role)
        except LoridError as error:
            if job.role == "dr" and isinstance(error, RequestError):  # the rules leave no room in the context
                self._arrive(job.round, "dr", Sample("", (), note=str(error)))
            else:
                self._miss(job.round, job.role, error)

    def take(self, output: RequestOutput) -> None:
        """Takes in what a step brought for one of the requests in flight."""
        job, reader = self._flight[output.request_id]
        if output.error is not None:
            self._drawn[job.round, job.role] = len(output.outputs[0].token_ids)
            del self._flight[output.request_id]
            self._miss(job.round, job.role, output.error)
            return
        sample = reader.read(output)
        self._drawn[job.round, job.role] = reader.drawn
        self._tell(TextEvent(self.index, job.round, job.role, reader.text))
        if sample is None:
            return
        self._engine.abort_request(output.request_id)
        del self._flight[output.request_id]
        self._arrive(job.round, job.role, sample)

    def _arrive(self, round: int, role: str, sample: Sample) -> None:
        self._rounds[round].samples[role] = sample
        if role == "kg":
            self._request(RoleJob(self.text, "dr", round, sample.text))
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
