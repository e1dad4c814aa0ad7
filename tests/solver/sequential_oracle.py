"""The LoRID loop as the paper tells it: one sample after another, one question after another, nothing ahead of time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.errors import RequestError
from lorid_engine.solver.answers import equivalent, extract
from lorid_engine.solver.calculator import Calculator
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.role_requests import request_key


@dataclass
class Expected:
    """What the solver must return."""

    answer: str | None
    agreed: bool
    token_ids: list[tuple[int, ...]]  # of IR, KG, DR of each round


def draw(
    engine: Engine, pack: Pack, question: str, role: str, round: int, seed: int, **values: str
) -> tuple[str, tuple]:
    """One sample; a rationale ends with its first complete answer line."""
    special = engine.tokenizer.special_ids
    tokens = [special[text] for text in pack.stop if text in special]
    options = {**pack.sampling_for(role), "seed": seed, "stop": pack.stop, "stop_token_ids": tokens}
    prompt = pack.roles[role].template.encode(engine.tokenizer, question=question, **values)
    key = request_key(question, role, round)
    calculator = Calculator(engine.tokenizer) if pack.calculator and role != "kg" else None
    request = Request(prompt, adapter=role, sampling=SamplingParams(**options), key=key, replace_token=calculator)
    for output in engine.stream(request):
        sample = output.outputs[0]
        for match in re.finditer(pack.answer_pattern or "$^", sample.text):
            if role != "kg" and "\n" in sample.text[match.end() :]:
                return sample.text[: match.end()], sample.token_ids
    return sample.text, sample.token_ids


def judge(ir: list[str | None], dr: list[str | None]) -> tuple[str | None, bool]:
    """The stopping rule, written the long way: answers by round, from the first."""
    samples = [
        (a, t, role) for role, answers in (("ir", ir), ("dr", dr)) for t, a in enumerate(answers) if a is not None
    ]

    def votes(answer: str) -> int:
        return sum(equivalent(answer, other) for other, _, _ in samples)

    agreed = [s for s in samples if any(o[2] != s[2] and equivalent(o[0], s[0]) for o in samples)]
    ranked = sorted(agreed or samples, key=lambda s: (-votes(s[0]), s[1], 0 if s[2] == "dr" else 1))
    return (ranked[0][0] if ranked else None), bool(agreed)


def sequential_solve(engine: Engine, pack: Pack, question: str, seed: int, max_rounds: int) -> Expected:
    """Rounds until agreement."""
    ir, dr, tokens = [], [], []
    for round in range(1, max_rounds + 1):
        text, ids = draw(engine, pack, question, "ir", round, seed)
        ir.append(extract(text, pack.answer_pattern))
        rules, rule_ids = draw(engine, pack, question, "kg", round, seed)
        try:
            text, dr_ids = draw(engine, pack, question, "dr", round, seed, knowledge=rules)
        except RequestError:
            text, dr_ids = "", ()
        dr.append(extract(text, pack.answer_pattern) if text else None)
        tokens += [ids, rule_ids, dr_ids]
        answer, agreed = judge(ir, dr)
        if agreed:
            break
    return Expected(answer, agreed, tokens)
