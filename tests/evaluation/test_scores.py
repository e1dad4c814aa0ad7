"""Scores of evaluations that were counted by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from lorid_engine.evaluation.scores import (
    Attempt,
    agreement_curve,
    build_report,
    interval,
    is_right,
    replay_ir,
    right_by_way,
    samples_so_far,
    solver_curve,
    vote_tokens,
)


def record(
    index: int, gold: str, *rounds: tuple[str | None, str | None], agreed: bool, answer: str | None
) -> dict[str, Any]:
    """A question whose every text has 10 tokens."""
    trace = [
        {"round": number, "ir": {"answer": ir, "tokens": 10}, "kg": {"tokens": 10}, "dr": {"answer": dr, "tokens": 10}}
        for number, (ir, dr) in enumerate(rounds, start=1)
    ]
    fields = {"index": index, "gold": gold, "answer": answer, "agreed": agreed, "rounds": len(rounds), "trace": trace}
    return {**fields, "tokens": 30 * len(rounds), "cancelled_tokens": 5}


QUESTIONS = {
    0: record(0, "7", ("7", "7.0"), agreed=True, answer="7.0"),  # right at once
    1: record(1, "8", ("1", "2"), ("2", "3"), agreed=True, answer="2"),  # agrees on something wrong
    2: record(
        2, "9", ("9", None), (None, "4"), ("9", "5"), agreed=False, answer="9"
    ),  # never agrees; the vote is right
    # Two answers agree at once; the returned one (one more vote) is wrong, the other is right.
    3: record(3, "6", ("5", "3"), ("6", "3"), ("3", "6"), agreed=True, answer="3"),
}
SAMPLES = {
    0: [{"answer": "7", "tokens": 10}] * 5,
    1: [{"answer": "8", "tokens": 10}] * 4,
    2: [{"answer": "1", "tokens": 10}] * 3,
    3: [{"answer": "3", "tokens": 10}] * 3,
}


def greedy(index: int, ir: str, dr: str) -> dict[str, Any]:
    return {"ir": {"answer": ir, "tokens": 4}, "kg": {"tokens": 4}, "dr": {"answer": dr, "tokens": 4}}


GREEDY = {0: greedy(0, "7", "7"), 1: greedy(1, "8", "1"), 2: greedy(2, "1", "1"), 3: greedy(3, "1", "1")}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return build_report(QUESTIONS, GREEDY, SAMPLES, [3.0, 7.0], baselines=True)


def test_each_way_question_by_question(report: dict[str, Any]) -> None:
    found = right_by_way(QUESTIONS, GREEDY, SAMPLES)
    assert found == {
        "ir_greedy": [1, 1, 0, 0],
        "dr_greedy": [1, 0, 0, 0],
        "strict_any": [1, 0, 0, 1],
        "strict": [1, 0, 0, 0],
        "fallback": [1, 0, 1, 0],
        "ir_sample": [1, 0, 1, 0],
        "vote": [1, 1, 0, 0],
        "ir_ir": [1, 1, 0, 0],
        "fallback_at_ir_ir": [1, 0, 1, 0],  # between one round, 30 tokens, and two: IR-IR has 40
    }
    means = {way: sum(each) / 4 for way, each in found.items()}
    assert {score: report["lorid"]["accuracy"][score]["value"] for score in ("strict_any", "strict", "fallback")} == {
        score: means[score] for score in ("strict_any", "strict", "fallback")
    }
    assert report["ir_vote"]["accuracy"]["value"] == means["vote"]
    assert report["ir_ir"]["accuracy"]["fallback"]["value"] == means["ir_ir"]


def test_the_three_scores(report: dict[str, Any]) -> None:
    accuracy = report["lorid"]["accuracy"]
    assert accuracy["strict"]["value"] == 1 / 4  # only question 0
    assert accuracy["strict_any"]["value"] == 2 / 4  # and question 3
    assert accuracy["fallback"]["value"] == 2 / 4  # question 0, and 2's vote
    assert report["lorid"]["agreed"] == 3 / 4


def test_rounds_and_tokens(report: dict[str, Any]) -> None:
    lorid = report["lorid"]
    assert lorid["mean_rounds"] == (1 + 2 + 3 + 3) / 4 and lorid["rounds_histogram"] == {"1": 1, "2": 1, "3": 2}
    assert lorid["tokens_per_question"] == 30 * 9 / 4
    assert report["generated_tokens"] == 30 * 9 + 4 * 5 + 4 * 12 + 15 * 10
    assert report["seconds"] == 10 and report["tokens_per_second"] == report["generated_tokens"] / 10


def test_the_curve_is_the_loop_stopped_earlier(report: dict[str, Any]) -> None:
    first, second, third = report["lorid"]["curve"]
    # After one round: 0 agrees and is right; 1 says 2 (DR's), wrong; 2 says 9, right; 3 says 3, wrong.
    assert (first["strict"], first["fallback"], first["tokens"]) == (1 / 4, 2 / 4, 30)
    assert second["tokens"] == (30 + 60 + 60 + 60) / 4
    assert third["tokens"] == 30 * 9 / 4 and third["strict_any"] == 2 / 4


def test_greedy_roles(report: dict[str, Any]) -> None:
    assert report["ir_greedy"]["accuracy"]["value"] == 2 / 4 and report["dr_greedy"]["accuracy"]["value"] == 1 / 4


def test_the_vote_has_equally_many_samples_within_the_solver_s_tokens(report: dict[str, Any]) -> None:
    vote = report["ir_vote"]
    assert len(vote["curve"]) == 6  # the fewest that a question has, its own rounds included
    assert vote["samples"] == 6 and vote["tokens_per_question"] == 60 <= report["lorid"]["tokens_per_question"]
    # 7 six times; 1, 2 and then 8 four times; 9, nothing, 9, 1, 1, 1; 5, 6, 3, 3, 3, 3.
    assert vote["accuracy"]["value"] == 2 / 4
    assert vote["one_sample"]["value"] == 2 / 4  # 7, 1, 9, 5


def test_ir_ir_agreement(report: dict[str, Any]) -> None:
    pools = {index: samples_so_far(QUESTIONS[index], SAMPLES[index]) for index in QUESTIONS}
    curve = agreement_curve({index: replay_ir(pool, QUESTIONS[index]["gold"]) for index, pool in pools.items()})
    # 0: 7 and 7. 1: 1 and 2, then 8 and 8. 2: 9 and nothing, 9 and 1, 1 and 1. 3: 5 and 6, 3 and 3.
    assert [len(curve.outcomes[index]) for index in QUESTIONS] == [1, 2, 3, 2]
    assert not curve.undecided and curve.tokens == (20, (20 + 40 * 3) / 4, (20 + 40 + 60 + 40) / 4)
    twice = report["ir_ir"]
    assert twice["rounds_at_most"] == 3 and twice["agreed"] == 1 and twice["accuracy"]["strict"]["value"] == 2 / 4


def test_undecided_questions_bound_the_curve() -> None:
    pools = {0: [Attempt("1", 10), Attempt("2", 10)], 1: [Attempt("7", 10)] * 8}
    curve = agreement_curve({index: replay_ir(pool, "7") for index, pool in pools.items()})
    assert curve.undecided == {0: 1} and len(curve.tokens) == 1
    none = agreement_curve({0: [], 1: replay_ir(pools[1], "7")})
    assert none.undecided == {0: 0} and none.tokens == ()


def test_the_loop_is_stopped_at_tokens() -> None:
    """Within them at least one round is run; at them, between two limits, both are weighted; one round that costs more is none."""
    curve = solver_curve({0: record(0, "7", ("1", "2"), ("7", "2"), ("7", "7"), agreed=True, answer="7")})
    within = {budget: curve.right_within(budget) for budget in (5, 30, 89, 90, 1000)}
    assert within == {5: ([0], 30), 30: ([0], 30), 89: ([0], 60), 90: ([1], 90), 1000: ([1], 90)}
    at = {budget: curve.right_at(budget) for budget in (29, 30, 60, 75, 84, 90, 1000)}
    assert at == {29: None, 30: [0], 60: [0], 75: [0.5], 84: [pytest.approx(0.8)], 90: [1], 1000: [1]}


def test_the_budget_cuts_both_baselines() -> None:
    """LoRID costs 30 tokens a question: three IR samples of 10 tokens, and one round of two."""
    questions = {
        0: record(0, "7", ("1", "1"), agreed=True, answer="1"),
        1: record(1, "8", ("8", "8"), agreed=True, answer="8"),
    }
    samples = {
        0: [{"answer": answer, "tokens": 10} for answer in ("2", "2", "7", "7", "7", "7")],
        1: [{"answer": answer, "tokens": 10} for answer in ("3", "3", "8", "8", "8", "8")],
    }
    both_greedy = {0: greedy(0, "7", "7"), 1: greedy(1, "8", "8")}
    report = build_report(questions, both_greedy, samples, [1.0], baselines=True)
    vote, twice = report["ir_vote"], report["ir_ir"]
    # Three samples: 1, 2, 2 and 8, 3, 3: none right, though seven would be right twice.
    assert vote["samples"] == 3 and vote["accuracy"]["value"] == 0 and vote["curve"][-1]["accuracy"] == 1
    assert vote["tokens_per_question"] == 30 < vote["curve"][3]["tokens"] and vote["reached_budget"]
    # One round: 1 and 2, 8 and 3; in a tie the second stream's answer comes first, as DR's does.
    assert twice["rounds_at_most"] == 1 and twice["agreed"] == 0 and twice["accuracy"]["fallback"]["value"] == 0
    assert twice["tokens_per_question"] == 20 <= 30 < twice["curve"][1]["tokens"] and twice["reached_budget"]
    # LoRID's first round costs more than these 20: it is not compared at them.
    assert right_by_way(questions, both_greedy, samples).keys() >= {"ir_ir"}
    assert "fallback_at_ir_ir" not in right_by_way(questions, both_greedy, samples)


def test_baselines_that_end_below_the_budget_say_so(report: dict[str, Any]) -> None:
    assert not report["ir_vote"]["reached_budget"] and not report["ir_ir"]["reached_budget"]


@pytest.mark.parametrize("rounds", [(), (("1", "2"), ("1", None))])
def test_a_question_with_an_error_is_wrong_and_bounds_nothing(rounds: tuple) -> None:
    """Also where the rounds before it had a right answer: nothing was returned."""
    failed = {**record(5, "1", *rounds, agreed=False, answer=None), "error": "too long"}
    questions = {**QUESTIONS, 5: failed}
    assert len(solver_curve(questions).tokens) == 3
    report = build_report(questions, {}, {}, [1.0], baselines=False)
    assert report["errors"] == 1 and report["lorid"]["accuracy"]["fallback"]["value"] == 2 / 5
    assert report["lorid"]["curve"][0]["fallback"] == 2 / 5
    assert report["lorid"]["rounds_histogram"] == {"1": 1, "2": 1, "3": 2} and report["lorid"]["mean_rounds"] == 9 / 4


def test_incomplete_baselines_are_left_out() -> None:
    report = build_report(QUESTIONS, {0: greedy(0, "7", "7")}, {0: SAMPLES[0]}, [1.0], baselines=False)
    assert not {"ir_greedy", "ir_vote", "ir_ir"} & set(report)


def test_nothing_but_errors() -> None:
    failed = {0: {**record(0, "1", agreed=False, answer=None), "error": "too long"}}
    report = build_report(failed, {0: greedy(0, "", "")}, {}, [1.0], baselines=True)
    assert report["lorid"]["accuracy"]["fallback"]["value"] == 0 and "ir_vote" not in report


def test_the_interval_is_a_bootstrap_over_questions() -> None:
    values = [1.0] * 30 + [0.0] * 70
    found = interval(values)
    assert found["value"] == 0.3 and interval(values) == found
    exact = Counter(np.random.default_rng(1).binomial(100, 0.3, 200_000).tolist())
    cumulative = np.cumsum([exact[k] for k in range(101)]) / 200_000
    low, high = np.searchsorted(cumulative, [0.025, 0.975]) / 100
    assert abs(found["low"] - low) <= 0.011 and abs(found["high"] - high) <= 0.011
    assert interval([1.0, 1.0]) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_right_is_equivalence() -> None:
    assert is_right("$1,000", "1000") and not is_right(None, "1") and not is_right("", "1")


def test_vote_tokens_are_means_of_a_question() -> None:
    assert vote_tokens({0: [Attempt("1", 4), Attempt("1", 8)], 1: [Attempt("1", 2), Attempt("1", 2)]}, 2) == 8
