"""A pack's roles as requests to the engine: their prompts, draws and ends; shared by the loop and by what it is compared with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lorid_engine.engine import Engine, Request, RequestOutput, SamplingParams
from lorid_engine.errors import LoridError
from lorid_engine.solver.answers import extract
from lorid_engine.solver.calculator import Calculator
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.solution import Sample


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


@dataclass(frozen=True)
class RoleJob:
    """One sample to draw.

    Attributes:
        question: as asked.
        role: "ir", "kg" or "dr".
        round: with seed, question and role it decides every draw.
        knowledge: KG's text, for DR.
        owner: the caller's number for whom it is; no draw depends on it.
    """

    question: str
    role: str
    round: int
    knowledge: str | None = None
    owner: int = 0

    def request(
        self, engine: Engine, pack: Pack, seed: int, overrides: Mapping[str, float | int], priority: int = 0
    ) -> Request:
        """The request for it; overrides come before the pack's sampling options."""
        values = {"question": self.question} | ({} if self.knowledge is None else {"knowledge": self.knowledge})
        special = engine.tokenizer.special_ids
        sampling = SamplingParams(
            **pack.sampling_for(self.role, overrides),
            seed=seed,
            stop=pack.stop,
            stop_token_ids=[special[text] for text in pack.stop if text in special],  # which no text has in it
        )
        return Request(
            pack.roles[self.role].template.encode(engine.tokenizer, **values),
            adapter=self.role,
            sampling=sampling,
            key=request_key(self.question, self.role, self.round),
            priority=priority,
            replace_token=Calculator(engine.tokenizer) if pack.calculator and self.role != "kg" else None,
        )


class SampleReader:
    """Follows one request's outputs until its text is complete: a rationale is with its answer line.

    Attributes:
        text: what is certain so far, cut after a complete answer line.
        drawn: tokens so far.
    """

    def __init__(self, pack: Pack, role: str) -> None:
        self._pattern = pack.answer_pattern
        self._ends_with_answer = role != "kg"
        self._searched = 0
        self.text, self.drawn = "", 0

    def read(self, output: RequestOutput) -> Sample | None:
        """Takes in an output without an error; the sample, once it is complete, be the request finished or not."""
        sample = output.outputs[0]
        end = complete_answer(sample.text, self._pattern, self._searched) if self._ends_with_answer else None
        self._searched, self.drawn = len(sample.text), len(sample.token_ids)
        self.text = sample.text if end is None else sample.text[:end]
        if end is None and not output.finished:
            return None
        answer = extract(self.text, self._pattern) if self._ends_with_answer else None
        return Sample(self.text, tuple(sample.token_ids), answer)


def draw_samples(
    engine: Engine, pack: Pack, jobs: Iterable[RoleJob], seed: int, overrides: Mapping[str, float | int]
) -> Iterator[tuple[RoleJob, Sample]]:
    """Draws samples that depend on no other, as many at once as the engine has rows, and yields each as it is complete.

    A job that cannot be served yields an empty sample whose note says why. Closing the iterator aborts what is in flight.
    """
    waiting = iter(jobs)
    flight: dict[str, tuple[RoleJob, SampleReader]] = {}
    more = True
    try:
        while more or flight:
            while more and len(flight) < engine.max_batch_rows:
                job = next(waiting, None)
                if job is None:
                    more = False
                    break
                try:
                    request_id = engine.add_request(job.request(engine, pack, seed, overrides))
                except LoridError as error:
                    yield job, Sample("", (), note=str(error))
                else:
                    flight[request_id] = job, SampleReader(pack, job.role)
            for output in engine.step_for(flight):
                job, reader = flight[output.request_id]
                sample = Sample("", (), note=str(output.error)) if output.error else reader.read(output)
                if sample is not None:
                    engine.abort_request(output.request_id)
                    del flight[output.request_id]
                    yield job, sample
    finally:
        for request_id in flight:
            engine.abort_request(request_id)
