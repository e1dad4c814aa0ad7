"""Scores: from an evaluation's records to accuracies with intervals, and to curves over rounds and over tokens."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.answers import equivalent

_RESAMPLES, _CHUNK = 10_000, 500
_SCORES = ("strict_any", "strict", "fallback")
Record = dict[str, Any]


class Attempt(NamedTuple):
    """An answer (None = none found) and the tokens that it took: IR's, or those of KG and DR together."""

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
        tokens: mean of a question for each limit, as far as every undecided question has rounds.
        undecided: rounds so far of the questions that do not agree yet, and could have more.
    """

    outcomes: Mapping[int, Sequence[Outcome]]
    tokens: tuple[float, ...]
    undecided: Mapping[int, int]

    def at(self, limit: int) -> list[Outcome]:
        """The questions' outcomes with at most so many rounds (from 1)."""
        return [rounds[min(limit, len(rounds)) - 1] if rounds else _NOTHING for rounds in self.outcomes.values()]

    def right_within(self, budget: float) -> tuple[list[float], float]:
        """Whether the questions' answers are right with as many rounds at most as cost so many mean tokens, at least one.

        Returns:
            1 or 0 for each question, and the mean tokens that were spent.
        """
        limit = _within(self.tokens, budget)
        return _score(self.at(limit), "fallback"), self.tokens[limit - 1]

    def right_at(self, budget: float) -> list[float] | None:
        """How right the questions' answers are at exactly so many mean tokens; None if one round costs more.

        Between two limits of rounds both are weighted so that their tokens come to the budget; after the last one nothing changes.
        """
        limit = sum(tokens <= budget for tokens in self.tokens)
        if not limit:
            return None
        right = _score(self.at(limit), "fallback")
        if limit == len(self.tokens):
            return right
        before, after = self.tokens[limit - 1 : limit + 1]
        share = (budget - before) / (after - before)
        return [(1 - share) * a + share * b for a, b in zip(right, _score(self.at(limit + 1), "fallback"), strict=True)]


@functools.lru_cache(maxsize=1 << 16)
def is_right(answer: str | None, gold: str) -> bool:
    """Whether an answer says what the gold one says."""
    return answer is not None and equivalent(answer, gold)


def most_samples(settings: Mapping[str, Any]) -> int:
    """IR samples of a question at most, for the baselines: as many texts as the solver's rounds may have."""
    return 3 * int(settings["max_rounds"])


def samples_so_far(question: Record, drawn: Sequence[Record]) -> list[Attempt]:
    """A question's IR samples in order: those of the solver's rounds, then those that were drawn for the baselines."""
    own = (Attempt(round["ir"]["answer"], round["ir"]["tokens"]) for round in question["trace"])
    return [*own, *(Attempt(sample["answer"], sample["tokens"]) for sample in drawn)]


def pools_so_far(questions: Mapping[int, Record], samples: Mapping[int, Sequence[Record]]) -> dict[int, list[Attempt]]:
    """All IR samples of a results file's questions, in order."""
    return {index: samples_so_far(record, samples.get(index, ())) for index, record in questions.items()}


def solver_tokens(questions: Mapping[int, Record]) -> float:
    """Mean tokens of a question in the sequential schedule."""
    return _mean(record["tokens"] for record in questions.values())


def vote_tokens(pools: Mapping[int, Sequence[Attempt]], count: int) -> float:
    """Mean tokens of a question's first `count` IR samples."""
    return _mean(sum(sample.tokens for sample in pool[:count]) for pool in pools.values())


def solver_curve(questions: Mapping[int, Record]) -> AgreementCurve:
    """The solver's loop, stopped earlier and earlier. A question that ended in an error was not answered in any round."""
    outcomes: dict[int, list[Outcome]] = {}
    for index, record in questions.items():
        rounds = [(round["ir"]["answer"], round["dr"]["answer"], _round_tokens(round)) for round in record["trace"]]
        outcomes[index] = replay_rounds(rounds, record["gold"])
        if "error" in record:
            outcomes[index] = [replace(each, agreed=False, right=False, any_right=False) for each in outcomes[index]]
    return agreement_curve(outcomes, closed={index for index, record in questions.items() if "error" in record})


def replay_ir(pool: Sequence[Attempt], gold: str) -> list[Outcome]:
    """The same rule with a second stream of IR in place of KG and DR: samples 1, 3, ... against samples 2, 4, ..."""
    pairs = zip(pool[::2], pool[1::2], strict=False)
    return replay_rounds([(a.answer, b.answer, a.tokens + b.tokens) for a, b in pairs], gold)


def agreement_curve(outcomes: Mapping[int, Sequence[Outcome]], closed: Collection[int] = ()) -> AgreementCurve:
    """The curve of outcomes by question; the closed ones get no more rounds, whether they agree or not."""
    undecided = {
        index: len(each) for index, each in outcomes.items() if index not in closed and not (each and each[-1].agreed)
    }
    longest = min(undecided.values(), default=max(map(len, outcomes.values()), default=0))
    curve = AgreementCurve(outcomes, (), undecided)
    tokens = (_mean(outcome.tokens for outcome in curve.at(limit)) for limit in range(1, longest + 1))
    return replace(curve, tokens=tuple(tokens))


def replay_rounds(rounds: Sequence[tuple[str | None, str | None, int]], gold: str) -> list[Outcome]:
    """Where a question stands after each of its rounds, up to its agreement.

    Args:
        rounds: two streams' answers (None = none found) and the round's tokens.
    """
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
    chunks = (min(_CHUNK, _RESAMPLES - done) for done in range(0, _RESAMPLES, _CHUNK))
    means = [array[random.integers(len(array), size=(rows, len(array)))].mean(axis=1) for rows in chunks]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
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


def _votes(pool: Sequence[Attempt], gold: str, most: int) -> list[float]:
    """Whether the majority is right after 1, 2, ... samples; equivalent answers are one, ties go to the earlier."""
    agreement, right = Agreement(), []
    for number, sample in enumerate(pool[:most], start=1):
        agreement.add_round(number, sample.answer, None)
        right.append(float(is_right(agreement.most_voted(), gold)))
    return right


def _within(tokens: Sequence[float], budget: float) -> int:
    """How many entries of a growing list are within a budget; at least 1."""
    return max(1, sum(each <= budget for each in tokens))


def _most_rounds(questions: Mapping[int, Record]) -> int:
    return max((record["rounds"] for record in questions.values() if "error" not in record), default=1)


def _solver_report(questions: Mapping[int, Record]) -> dict[str, Any]:
    curve = solver_curve(questions)
    final = curve.at(_most_rounds(questions))
    ended = [record["rounds"] for record in questions.values() if "error" not in record]
    rounds = Counter(ended)
    return {
        "accuracy": {score: interval(_score(final, score)) for score in _SCORES},
        "agreed": _mean(float(outcome.agreed) for outcome in final),
        "tokens_per_question": solver_tokens(questions),
        "mean_rounds": _mean(ended),
        "rounds_histogram": {str(count): rounds[count] for count in sorted(rounds)},
        "curve": _points(curve),
    }


@dataclass(frozen=True)
class Vote:
    """A vote of each question's first samples, 1 to as many as all questions have.

    Attributes:
        right: of each question, whether the majority is right after 1, 2, ... samples.
        tokens: mean of a question for 1, 2, ... samples.
        taken: how many samples are within the budget.
    """

    right: list[list[float]]
    tokens: list[float]
    taken: int

    @classmethod
    def of(cls, questions: Mapping[int, Record], pools: Mapping[int, Sequence[Attempt]], budget: float) -> Vote:
        each = min(map(len, pools.values()))
        right = [_votes(pools[index], record["gold"], each) for index, record in questions.items()]
        tokens = [vote_tokens(pools, count) for count in range(1, each + 1)]
        return cls(right, tokens, _within(tokens, budget))

    def after(self, count: int) -> list[float]:
        """Whether each question's majority is right after so many samples."""
        return [row[count - 1] for row in self.right]


def _ir_curve(questions: Mapping[int, Record], pools: Mapping[int, Sequence[Attempt]]) -> AgreementCurve:
    """IR-IR over the questions' samples."""
    return agreement_curve({index: replay_ir(pools[index], record["gold"]) for index, record in questions.items()})


def _vote_report(vote: Vote, budget: float) -> dict[str, Any]:
    counts = range(1, len(vote.tokens) + 1)
    return {
        "samples": vote.taken,
        "tokens_per_question": vote.tokens[vote.taken - 1],
        "reached_budget": vote.tokens[-1] > budget,
        "accuracy": interval(vote.after(vote.taken)),
        "one_sample": interval(vote.after(1)),
        "curve": [
            {"samples": count, "tokens": vote.tokens[count - 1], "accuracy": _mean(vote.after(count))}
            for count in counts
        ],
    }


def _ir_agreement_report(curve: AgreementCurve, budget: float) -> dict[str, Any]:
    taken = _within(curve.tokens, budget)
    outcomes = curve.at(taken)
    return {
        "rounds_at_most": taken,
        "tokens_per_question": curve.tokens[taken - 1],
        "reached_budget": curve.tokens[-1] > budget,
        "agreed": _mean(float(outcome.agreed) for outcome in outcomes),
        "accuracy": {score: interval(_score(outcomes, score)) for score in _SCORES},
        "curve": _points(curve),
    }


def baseline_rights(questions: Mapping[int, Record], pools: Mapping[int, Sequence[Attempt]]) -> dict[str, list[float]]:
    """What IR's samples got right within the loop's mean tokens, which are not 0.

    Args:
        questions: a results file's, by number.
        pools: their IR samples, in order.

    Returns:
        From 0 to 1 for each question, in the order of `questions`: ir_sample, vote, ir_ir (its fallback); and fallback_at_ir_ir,
        the loop's at IR-IR's tokens, which are fewer where IR-IR agrees early, unless its first round costs more.
    """
    budget = solver_tokens(questions)
    vote = Vote.of(questions, pools, budget)
    ir_ir, spent = _ir_curve(questions, pools).right_within(budget)
    found = {"ir_sample": vote.after(1), "vote": vote.after(vote.taken), "ir_ir": ir_ir}
    if (loop := solver_curve(questions).right_at(spent)) is not None:
        found["fallback_at_ir_ir"] = loop
    return found


def baseline_reports(
    questions: Mapping[int, Record], pools: Mapping[int, Sequence[Attempt]]
) -> dict[str, dict[str, Any]]:
    """The parts of a report that are on the vote and on IR-IR; arguments as of baseline_rights."""
    budget = solver_tokens(questions)
    return {
        "ir_vote": _vote_report(Vote.of(questions, pools, budget), budget),
        "ir_ir": _ir_agreement_report(_ir_curve(questions, pools), budget),
    }


def right_by_way(
    questions: Mapping[int, Record], greedy: Mapping[int, Record], samples: Mapping[int, Sequence[Record]]
) -> dict[str, list[float]]:
    """What each way of answering got right, question by question, so that ways can be compared in pairs.

    Args:
        questions, greedy, samples: a results file's records, by question, baselines complete.

    Returns:
        From 0 to 1 for each question, in the order of `questions`: ir_greedy, dr_greedy; strict_any, strict and fallback of the
        loop; and baseline_rights, unless every question ended in an error.
    """
    golds = {index: record["gold"] for index, record in questions.items()}
    found = {
        f"{role}_greedy": [float(is_right(greedy[index][role]["answer"], gold)) for index, gold in golds.items()]
        for role in ("ir", "dr")
    }
    final = solver_curve(questions).at(_most_rounds(questions))
    found |= {score: _score(final, score) for score in _SCORES}
    if solver_tokens(questions):
        found |= baseline_rights(questions, pools_so_far(questions, samples))
    return found


def seed_means(rights: Iterable[Sequence[float]]) -> list[float]:
    """Each question's mean over the seeds, from its score with each."""
    return [_mean(each) for each in zip(*rights, strict=True)]


def build_report(
    questions: Mapping[int, Record],
    greedy: Mapping[int, Record],
    samples: Mapping[int, Sequence[Record]],
    seconds: Iterable[float],
    *,
    baselines: bool,
) -> dict[str, Any]:
    """The report of an evaluation, for JSON.

    Args:
        questions, greedy, samples: a results file's records, by question.
        seconds: of each of its runs.
        baselines: whether all of them are there.

    Returns:
        What the solver came to, and the baselines; shares from 0 to 1, tokens as means of a question.
    """
    drawn = sum(record["tokens"] + record["cancelled_tokens"] for record in questions.values())
    drawn += sum(record[role]["tokens"] for record in greedy.values() for role in ("ir", "kg", "dr"))
    drawn += sum(sample["tokens"] for sample in itertools.chain.from_iterable(samples.values()))
    spent = sum(seconds)
    errors = [f"question {index}: {record['error']}" for index, record in questions.items() if "error" in record]
    report: dict[str, Any] = {
        "questions": len(questions),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "generated_tokens": drawn,
        "seconds": spent,
        "tokens_per_second": drawn / spent if spent else 0.0,
        "lorid": _solver_report(questions),
    }
    if not baselines:
        return report
    golds = {index: record["gold"] for index, record in questions.items()}
    for role in ("ir", "dr"):
        right = (float(is_right(greedy[index][role]["answer"], gold)) for index, gold in golds.items())
        report[f"{role}_greedy"] = {"accuracy": interval(right)}
    if solver_tokens(questions):  # else every question ended in an error, and nothing is compared
        report |= baseline_reports(questions, pools_so_far(questions, samples))
    return report
