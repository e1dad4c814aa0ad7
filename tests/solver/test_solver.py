"""The solver against strictly sequential rounds, and how it treats streams, bad questions and events."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorid_engine.engine import Request
from lorid_engine.errors import AdapterError, CapacityError, ConfigError, RequestError
from lorid_engine.solver import RoundEvent, Solution, Solver, SolverConfig, TextEvent
from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.role_requests import RoleJob, complete_answer, request_key
from sequential_oracle import Expected, judge, sequential_solve
from tiny_pack import make_engine, make_pack

QUESTIONS = [f"What is {k} plus {k * k % 7}?" for k in range(50)]
ROUNDS = 6


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def expected(pack: Pack) -> list[Expected]:
    engine = make_engine(pack, threads=1, max_batch_rows=1)
    return [sequential_solve(engine, pack, question, seed=7, max_rounds=ROUNDS) for question in QUESTIONS]


def check(solution: Solution, expected: Expected) -> None:
    drawn = [sample.token_ids for round in solution.trace for sample in (round.ir, round.kg, round.dr)]
    assert drawn == expected.token_ids
    assert (solution.answer, solution.agreed) == (expected.answer, expected.agreed)
    assert solution.rounds == len(solution.trace) == len(expected.token_ids) // 3
    assert solution.tokens == sum(map(len, expected.token_ids))


def test_the_questions_exercise_the_loop(expected: list[Expected]) -> None:
    rounds = [len(each.token_ids) // 3 for each in expected]
    assert sum(count > 1 for count in rounds) >= 10 and min(rounds) < ROUNDS
    assert any(each.agreed for each in expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [4, 64])
@pytest.mark.parametrize("lookahead", [0, 8])
def test_equals_sequential_rounds(
    pack: Pack, expected: list[Expected], lookahead: int, rows: int, threads: int
) -> None:
    """Invariant 5, among 50 questions and alone."""
    engine = make_engine(pack, threads=threads, max_batch_rows=rows)
    solver = Solver(engine, pack, SolverConfig(max_rounds=ROUNDS, lookahead=lookahead, seed=7))
    solutions = list(solver.solve_many(QUESTIONS))
    assert [solution.index for solution in solutions] == list(range(50))
    for solution, right in zip(solutions, expected, strict=True):
        check(solution, right)
    for number in (0, 17, 33):
        check(solver.solve(QUESTIONS[number]), expected[number])
    assert engine.stats().pages_held == 0 and not engine.has_unfinished_requests()


class AnyToken:
    """In the calculator's place: every token of a text depends on the text before it."""

    def __init__(self, tokenizer: object) -> None: ...

    def __call__(self, text: str, token: int) -> int:
        return (token + len(text)) % 200


def test_equals_sequential_rounds_where_tokens_are_replaced(
    pack: Pack, expected: list[Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lorid_engine.solver.role_requests", "sequential_oracle"):
        monkeypatch.setattr(f"{module}.Calculator", AnyToken)
    computing, few = replace(pack, calculator=True), QUESTIONS[:8]
    alone = make_engine(pack, max_batch_rows=1)
    replaced = [sequential_solve(alone, computing, question, seed=7, max_rounds=2) for question in few]
    for new, old in zip(replaced, expected, strict=False):
        assert [a == b for a, b in zip(new.token_ids, old.token_ids, strict=False)][:3] == [
            False,
            True,
            False,
        ]  # KG's stay
    solver = Solver(make_engine(pack), computing, SolverConfig(max_rounds=2, seed=7))
    for solution, right in zip(solver.solve_many(few), replaced, strict=True):
        check(solution, right)


def test_small_kv_memory_changes_nothing(pack: Pack, expected: list[Expected]) -> None:
    engine = make_engine(pack, max_batch_rows=16)
    while engine._pool.num_free > 40:  # hold pages, as a smaller kv_memory would
        assert engine._pool.take() is not None
    solver = Solver(engine, pack, SolverConfig(max_rounds=ROUNDS, lookahead=8, seed=7))
    for solution, right in zip(solver.solve_many(QUESTIONS[:12]), expected, strict=False):
        check(solution, right)
    assert engine.stats().preemptions > 0


def test_out_of_order_delivery_has_the_same_solutions(pack: Pack, expected: list[Expected]) -> None:
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=ROUNDS, seed=7))
    seen = {solution.index: solution for solution in solver.solve_many(QUESTIONS[:20], ordered=False)}
    assert sorted(seen) == list(range(20))
    for index, solution in seen.items():
        check(solution, expected[index])


def test_bad_questions_among_good_ones(pack: Pack, expected: list[Expected]) -> None:
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=ROUNDS, seed=7))
    bad = ["", " \n", "x" * 1_000_000, 12, None]
    solutions = list(solver.solve_many([QUESTIONS[0], *bad, QUESTIONS[1]]))
    check(solutions[0], expected[0])
    check(solutions[-1], expected[1])
    messages = [
        "empty",
        "empty",
        "the text has 1000000 characters, at least 111111 tokens; the context of 512",
        "must be text; got int",
        "got NoneType",
    ]
    for solution, message in zip(solutions[1:-1], messages, strict=True):
        assert isinstance(solution.error, RequestError) and message in str(solution.error)
        assert solution.to_dict()["error"] and solution.answer is None
    with pytest.raises(RequestError, match="empty"):
        solver.solve("")
    with pytest.raises(RequestError, match="call solve, or give a list"):
        next(solver.solve_many("What is 2+2?"))
    assert solver.engine.stats().pages_held == 0


def test_questions_may_hold_special_text(pack: Pack) -> None:
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=1, seed=7))
    ids = pack.roles["dr"].template.encode(
        solver.engine.tokenizer, question="<|end|>{knowledge}", knowledge="{question}<|start|>"
    )
    assert [token for token in ids if token >= 256] == [256, 257, 256]
    assert solver.solve("What is <|end|> and {knowledge}?").rounds == 1


def test_closing_early_aborts_everything(pack: Pack) -> None:
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=ROUNDS, seed=7))
    solutions = solver.solve_many(QUESTIONS)
    next(solutions)
    solutions.close()
    assert not solver.engine.has_unfinished_requests()


def test_what_a_stream_gave_before_it_broke_is_yielded(pack: Pack, expected: list[Expected]) -> None:
    def broken():
        yield from QUESTIONS[:3]
        raise OSError("the file is gone")

    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=ROUNDS, seed=7))
    solutions = []
    with pytest.raises(OSError, match="gone"):
        for solution in solver.solve_many(broken()):
            solutions.append(solution)
    assert len(solutions) == 3
    for solution, right in zip(solutions, expected, strict=False):
        check(solution, right)
    assert not solver.engine.has_unfinished_requests() and solver.engine.stats().pages_held == 0


def test_an_endless_stream_of_bad_questions_yields(pack: Pack) -> None:
    solver = Solver(make_engine(pack, max_batch_rows=4), pack, SolverConfig(max_rounds=2, seed=7))
    for stream in (itertools.repeat(""), itertools.chain([QUESTIONS[0]], itertools.repeat("x" * 600))):
        solutions = solver.solve_many(stream)
        assert [next(solutions).index for _ in range(5)] == list(range(5))
        solutions.close()


@pytest.mark.parametrize("role", ["ir", "kg", "dr"])
@pytest.mark.parametrize("late", [False, True])  # refused when it is added, or failed by a later step
def test_an_error_counts_only_when_its_round_is_judged(
    pack: Pack, expected: list[Expected], monkeypatch: pytest.MonkeyPatch, role: str, late: bool
) -> None:
    """Invariant 5: rounds that sequential rounds would not have begun cannot fail a question."""
    number = next(k for k, right in enumerate(expected) if right.agreed and 6 <= len(right.token_ids) < 3 * ROUNDS)
    rounds = len(expected[number].token_ids) // 3
    for lookahead, failing in ((0, rounds), (8, rounds), (8, rounds + 1)):
        engine = make_engine(pack)
        key, failing_ids = request_key(QUESTIONS[number], role, failing), set()

        def add(request: Request, add=engine.add_request, key=key, failing_ids=failing_ids) -> str:
            if request.key == key and not late:
                raise CapacityError("planted")
            request_id = add(request)
            if request.key == key:
                failing_ids.add(request_id)
            return request_id

        def step_for(mine, step=engine.step_for, failing_ids=failing_ids, engine=engine):
            outputs = step(mine)
            for place, output in enumerate(outputs):
                if output.request_id in failing_ids:
                    engine.abort_request(output.request_id)
                    outputs[place] = replace(output, finished=True, error=CapacityError("planted"))
            return outputs

        monkeypatch.setattr(engine, "add_request", add)
        monkeypatch.setattr(engine, "step_for", step_for)
        solver = Solver(engine, pack, SolverConfig(max_rounds=ROUNDS, lookahead=lookahead, seed=7))
        (solution,) = solver.solve_many([QUESTIONS[number]])
        if failing > rounds:
            check(solution, expected[number])
        else:
            assert str(solution.error) == "planted" and solution.rounds == failing - 1
            drawn = [sample.token_ids for round in solution.trace for sample in (round.ir, round.kg, round.dr)]
            assert drawn == expected[number].token_ids[: 3 * (failing - 1)]
        assert not engine.has_unfinished_requests() and engine.stats().pages_held == 0


def test_questions_are_read_as_they_are_needed(pack: Pack) -> None:
    solver = Solver(make_engine(pack, max_batch_rows=4), pack, SolverConfig(max_rounds=2, seed=7))
    read = []
    solutions = solver.solve_many(read.append(question) or question for question in QUESTIONS)
    next(solutions)
    assert len(read) <= 6
    solutions.close()


def test_events_tell_the_story(pack: Pack, expected: list[Expected]) -> None:
    events = []
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=ROUNDS, seed=7))
    solution = solver.solve(QUESTIONS[3], on_event=events.append)
    judged = [event for event in events if isinstance(event, RoundEvent)]
    assert tuple(event.round for event in judged) == solution.trace
    assert [event.agreed is not None for event in judged] == [False] * (solution.rounds - 1) + [solution.agreed]
    last = {(e.round, e.role): e.text for e in events if isinstance(e, TextEvent)}
    assert all(last[round.number, "ir"] == round.ir.text for round in solution.trace)


def test_rules_that_leave_no_room_make_an_empty_deep_answer(pack: Pack) -> None:
    engine = make_engine(pack)
    limit = len(pack.roles["kg"].template.encode(engine.tokenizer, question=""))
    question = "y" * (511 - limit - 1)
    solution = Solver(engine, pack, SolverConfig(max_rounds=2, seed=7)).solve(question)
    assert all(round.dr.answer is None and "context of 512" in round.dr.note for round in solution.trace)
    assert not solution.agreed


def test_an_engine_without_the_roles_is_refused(pack: Pack) -> None:
    engine = make_engine(pack)
    engine.delete_adapter("dr")
    with pytest.raises(AdapterError, match="'dr'; loaded: 'ir', 'kg'"):
        Solver(engine, pack)


@pytest.mark.parametrize(
    "options", [{"max_rounds": 0}, {"lookahead": -1}, {"seed": -1}, {"temperature": -1.0}, {"calculator": 1}]
)
def test_config_is_checked(options: dict) -> None:
    with pytest.raises(ConfigError):
        SolverConfig(**options)


def test_a_pack_may_have_rounds_of_its_own(pack: Pack) -> None:
    engine, few = make_engine(pack), replace(pack, max_rounds=2)
    assert SolverConfig().resolved(pack).max_rounds == 20 and SolverConfig(max_rounds=3).resolved(few).max_rounds == 3
    found = list(Solver(engine, few, SolverConfig(seed=7)).solve_many(QUESTIONS[:10]))
    assert max(solution.rounds for solution in found) == 2


ROUND_CASES = [
    # (IR answers, DR answers), each by round; then the answer, whether it is agreed, and after how many rounds
    (["5"], ["5"], "5", True, 1),
    (["5"], ["6"], "6", False, 1),  # a tie of votes: the round, then DR's
    ([None], [None], None, False, 1),
    (["5", None], [None, "5.0"], "5", True, 2),  # of two equal answers the earlier round's text
    (["5", "7"], ["6", "5"], "5", True, 2),
    (["5", "6", "6"], ["1", "2", "3"], "6", False, 3),
    (["1", "2"], ["2", "1"], "2", True, 2),  # both enter at once with two votes each, both of round 1: DR's
    (["1", "2", "2"], ["3", "1", "2"], "1", True, 2),  # what comes later cannot change an agreement
]


@pytest.mark.parametrize(("ir", "dr", "answer", "agreed", "rounds"), ROUND_CASES)
def test_stopping_rule(ir: list, dr: list, answer: str | None, agreed: bool, rounds: int) -> None:
    agreement, found = Agreement(), None
    for number, (a, b) in enumerate(zip(ir, dr, strict=True), start=1):
        found = agreement.add_round(number, a, b)
        if found is not None:
            break
    final = found if found is not None else agreement.most_voted()
    assert (final, found is not None, number) == (answer, agreed, rounds)
    assert judge(ir[:number], dr[:number]) == (answer, agreed)  # the tests' own loop follows the same rule


def test_ties_by_hand() -> None:
    agreement = Agreement()
    assert agreement.add_round(1, "1", "2") is None
    assert agreement.add_round(2, "2", "1") == "2"  # two votes each, both since round 1: DR's
    assert Agreement().add_round(1, "5", "5.0") == "5.0"
    votes = Agreement()
    assert votes.add_round(1, "4", "6") is None and votes.most_voted() == "6"
    assert votes.add_round(2, "4", None) is None and votes.most_voted() == "4"
    assert Agreement().most_voted() is None


def test_stop_strings_that_are_special_tokens_stop_as_tokens(pack: Pack) -> None:
    engine = make_engine(pack)
    params = RoleJob("a?", "ir", 1).request(engine, replace(pack, stop=("<|start|>", "###")), 0, {}).sampling
    assert params.stop_token_ids == (engine.tokenizer.special_ids["<|start|>"],)
    assert params.stop == ("<|start|>", "###")  # a model may spell it in letters, too


def test_complete_answer_lines() -> None:
    pattern = "#### (.+)"
    assert complete_answer("so\n#### 72", pattern) is None
    assert complete_answer("so\n#### 72\n", pattern) == len("so\n#### 72")
    assert complete_answer("so\n#### 72\nmore", pattern, searched=8) == len("so\n#### 72")
    assert complete_answer("a\nb\n", pattern) is None and complete_answer("#### 1\n", None) is None


def test_keys_cannot_collide() -> None:
    assert request_key("a", "ir", 1) != request_key("a", "ir", 11) != request_key("a1:", "ir", 1)
    assert request_key("q2:ir", "ir", 1) != request_key("q", "ir", 1)
    assert request_key("\ud800", "ir", 1) != request_key("?", "ir", 1)


def test_answers_that_say_nothing_agree_with_nothing() -> None:
    """ "?" and "n/a" are equivalent to no answer, themselves included."""
    agreement = Agreement()
    assert agreement.add_round(1, "?", "?") is None and agreement.agreed_answers() == ()
    assert agreement.add_round(2, "?", "5") is None
    assert agreement.add_round(3, "n/a", "6") is None and agreement.most_voted() == "5"
    assert agreement.add_round(4, "5", None) == "5" and agreement.agreed_answers() == ("5",)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from(["1", "1.0", "2", "$2", "1/2", "0.5", "?", "n/a", "x", None])] * 2), max_size=8
    )
)
def test_agreement_is_the_rule_written_the_long_way(rounds: list[tuple[str | None, str | None]]) -> None:
    agreement, ir, dr = Agreement(), [], []
    for number, answers in enumerate(rounds, start=1):
        agreed = agreement.add_round(number, *answers)
        ir.append(answers[0])
        dr.append(answers[1])
        assert (agreement.most_voted() if agreed is None else agreed, agreed is not None) == judge(ir, dr)
