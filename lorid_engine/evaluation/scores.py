"""Scores: from an evaluation's records to accuracies with intervals, and to curves over rounds and over tokens."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.answers import equivalent

_RESAMPLES = 10_000
_SCORES = ("strict_any", "strict", "fallback")
Record = dict[str, Any]


class IrSample(NamedTuple):
    """An IR sample's answer (None = none found) and tokens."""

    answer: str | None
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """Where a question stands after a round.

    Attributes:
        agreed: whether the two streams of answers agree.
        right: whether the answer is right that would be returned now.
        any_right: whether any agreed answer is right: what the authors count.
        tokens: drawn so far.
    """

    agreed: bool
    right: bool
    any_right: bool
    tokens: int


_NOTHING = Outcome(False, False, False, 0)


@dataclass(frozen=True)
class AgreementCurve:
    """Agreement within at most 1, 2, ... rounds, over all questions.

    Attributes:
        outcomes: of each question after each of its rounds, up to its agreement.
        tokens: mean of a question, for each limit of rounds.
        undecided: rounds so far of the questions that do not agree yet.
    """

    outcomes: dict[int, list[Outcome]]
    tokens: list[float]
    undecided: dict[int, int]

    def at(self, limit: int) -> list[Outcome]:
        """The questions' outcomes with at most so many rounds (from 1)."""
        return [rounds[min(limit, len(rounds)) - 1] if rounds else _NOTHING for rounds in self.outcomes.values()]


@functools.lru_cache(maxsize=1 << 16)
def is_right(answer: str | None, gold: str) -> bool:
    """Whether an answer says what the gold one says."""
    return answer is not None and equivalent(answer, gold)


def most_samples(settings: Mapping[str, Any]) -> int:
    """IR samples of a question at most, for the baselines: as many texts as the solver's rounds may have."""
    return 3 * int(settings["max_rounds"])


def samples_so_far(question: Record, drawn: Sequence[Record]) -> list[IrSample]:
    """A question's IR samples in order: those of the solver's rounds, then those that were drawn for the baselines."""
    own = (IrSample(round["ir"]["answer"], round["ir"]["tokens"]) for round in question["trace"])
    return [*own, *(IrSample(sample["answer"], sample["tokens"]) for sample in drawn)]


def solver_tokens(questions: Mapping[int, Record]) -> float:
    """Mean tokens of a question in the sequential schedule."""
    return _mean(record["tokens"] for record in questions.values())


def vote_tokens(pools: Mapping[int, Sequence[IrSample]], count: int) -> float:
    """Mean tokens of a question's first `count` IR samples."""
    return _mean(sum(sample.tokens for sample in pool[:count]) for pool in pools.values())


def solver_curve(questions: Mapping[int, Record]) -> AgreementCurve:
    """The solver's loop, stopped earlier and earlier."""
    rounds = {
        index: [(round["ir"]["answer"], round["dr"]["answer"], _round_tokens(round)) for round in record["trace"]]
        for index, record in questions.items()
    }
    return _agreement_curve(questions, rounds)


def ir_agreement_curve(questions: Mapping[int, Record], pools: Mapping[int, Sequence[IrSample]]) -> AgreementCurve:
    """The same rule with a second stream of IR in place of KG and DR: samples 1, 3, ... against samples 2, 4, ..."""
    rounds = {
        index: [(a.answer, b.answer, a.tokens + b.tokens) for a, b in zip(pool[::2], pool[1::2], strict=False)]
        for index, pool in pools.items()
    }
    return _agreement_curve(questions, rounds)


def _agreement_curve(
    questions: Mapping[int, Record], rounds: Mapping[int, Sequence[tuple[str | None, str | None, int]]]
) -> AgreementCurve:
    outcomes = {index: _replay(rounds[index], record["gold"]) for index, record in questions.items()}
    undecided = {
        index: len(each)
        for index, each in outcomes.items()
        if not (each and each[-1].agreed) and "error" not in questions[index]
    }
    longest = min(undecided.values(), default=max((len(each) for each in outcomes.values()), default=0))
    curve = AgreementCurve(outcomes, [], undecided)
    tokens = [_mean(outcome.tokens for outcome in curve.at(limit)) for limit in range(1, longest + 1)]
    return AgreementCurve(outcomes, tokens or [0.0], undecided)


def _replay(rounds: Sequence[tuple[str | None, str | None, int]], gold: str) -> list[Outcome]:
    agreement, outcomes, spent = Agreement(), [], 0
    for number, (first, second, tokens) in enumerate(rounds, start=1):
        spent += tokens
        agreed = agreement.add_round(number, first, second)
        answer = agreement.most_voted() if agreed is None else agreed
        any_right = any(is_right(each, gold) for each in agreement.agreed_answers())
        outcomes.append(Outcome(agreed is not None, is_right(answer, gold), any_right, spent))
        if agreed is not None:
            break
    return outcomes


def _round_tokens(round: Record) -> int:
    return round["ir"]["tokens"] + round["kg"]["tokens"] + round["dr"]["tokens"]


def interval(values: Iterable[float]) -> dict[str, float]:
    """The mean, with a 95 % percentile bootstrap interval over questions (10,000 resamples, a fixed seed)."""
    array = np.asarray(list(values), np.float64)
    if not len(array):
        return {"value": 0.0, "low": 0.0, "high": 1.0}
    random = np.random.default_rng(0)
    means = [array[random.integers(len(array), size=len(array))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(array.mean()), "low": float(low), "high": float(high)}


def _mean(values: Iterable[float]) -> float:
    array = list(values)
    return sum(array) / len(array) if array else 0.0


def _score(outcomes: Sequence[Outcome], score: str) -> list[float]:
    if score == "fallback":
        return [float(outcome.right) for outcome in outcomes]
    if score == "strict":
        return [float(outcome.right and outcome.agreed) for outcome in outcomes]
    return [float(outcome.any_right) for outcome in outcomes]


def _points(curve: AgreementCurve) -> list[dict[str, float]]:
    """For each limit of rounds: the three scores and the tokens."""
    points = []
    for limit, tokens in enumerate(curve.tokens, start=1):
        outcomes = curve.at(limit)
        scores = {score: _mean(_score(outcomes, score)) for score in _SCORES}
        points.append({"rounds": limit, "tokens": tokens, **scores})
    return points


def _votes(pool: Sequence[IrSample], gold: str, most: int) -> list[float]:
    """Whether the majority is right after 1, 2, ... samples; equivalent answers are one, ties go to the earlier."""
    agreement, right = Agreement(), []
    for number, sample in enumerate(pool[:most], start=1):
        agreement.add_round(number, sample.answer, None)
        right.append(float(is_right(agreement.most_voted(), gold)))
    return right


def _within(tokens: Sequence[float], budget: float) -> int:
    """How many entries of a growing list are within a budget; at least 1."""
    return max(1, sum(each <= budget for each in tokens))


def _solver_report(questions: Mapping[int, Record]) -> dict[str, Any]:
    curve = solver_curve(questions)
    final = curve.at(max((record["rounds"] for record in questions.values()), default=1))
    rounds = Counter(record["rounds"] for record in questions.values() if "error" not in record)
    return {
        "accuracy": {score: interval(_score(final, score)) for score in _SCORES},
        "agreed": _mean(float(outcome.agreed) for outcome in final),
        "tokens_per_question": solver_tokens(questions),
        "mean_rounds": _mean(record["rounds"] for record in questions.values()),
        "rounds_histogram": {str(count): rounds[count] for count in sorted(rounds)},
        "curve": _points(curve),
    }


def _vote_report(
    questions: Mapping[int, Record], pools: Mapping[int, Sequence[IrSample]], budget: float
) -> dict[str, Any] | None:
    each = min(map(len, pools.values()), default=0)
    if not each:
        return None
    right = [_votes(pools[index], record["gold"], each) for index, record in questions.items()]
    tokens = [vote_tokens(pools, count) for count in range(1, each + 1)]
    taken = _within(tokens, budget)
    curve = [
        {"samples": count, "tokens": tokens[count - 1], "accuracy": _mean(row[count - 1] for row in right)}
        for count in range(1, each + 1)
    ]
    return {
        "samples": taken,
        "tokens_per_question": tokens[taken - 1],
        "accuracy": interval(row[taken - 1] for row in right),
        "one_sample": interval(row[0] for row in right),
        "curve": curve,
    }


def _ir_agreement_report(
    questions: Mapping[int, Record], pools: Mapping[int, Sequence[IrSample]], budget: float
) -> dict[str, Any]:
    curve = ir_agreement_curve(questions, pools)
    taken = _within(curve.tokens, budget)
    outcomes = curve.at(taken)
    return {
        "rounds_at_most": taken,
        "tokens_per_question": curve.tokens[taken - 1],
        "agreed": _mean(float(outcome.agreed) for outcome in outcomes),
        "accuracy": {score: interval(_score(outcomes, score)) for score in _SCORES},
        "curve": _points(curve),
    }


def build_report(
    questions: Mapping[int, Record],
    greedy: Mapping[int, Record],
    samples: Mapping[int, Sequence[Record]],
    seconds: Iterable[float],
) -> dict[str, Any]:
    """The report of an evaluation, for JSON.

    Args:
        questions, greedy, samples: a results file's records, by question.
        seconds: of each of its runs.

    Returns:
        What the solver, and each baseline that is complete, came to; shares from 0 to 1, tokens as means of a question.
    """
    pools = {index: samples_so_far(record, samples.get(index, ())) for index, record in questions.items()}
    drawn = sum(record["tokens"] + record["cancelled_tokens"] for record in questions.values())
    drawn += sum(record[role]["tokens"] for record in greedy.values() for role in ("ir", "kg", "dr"))
    drawn += sum(sample["tokens"] for sample in itertools.chain.from_iterable(samples.values()))
    spent = sum(seconds)
    report: dict[str, Any] = {
        "questions": len(questions),
        "errors": sum("error" in record for record in questions.values()),
        "generated_tokens": drawn,
        "seconds": spent,
        "tokens_per_second": drawn / spent if spent else 0.0,
        "lorid": _solver_report(questions),
    }
    if questions and questions.keys() <= greedy.keys():
        golds = {index: record["gold"] for index, record in questions.items()}
        for role in ("ir", "dr"):
            right = (float(is_right(greedy[index][role]["answer"], gold)) for index, gold in golds.items())
            report[f"{role}_greedy"] = {"accuracy": interval(right)}
    if samples:
        budget = report["lorid"]["tokens_per_question"]
        report["ir_vote"] = _vote_report(questions, pools, budget)
        report["ir_ir"] = _ir_agreement_report(questions, pools, budget)
    return report
