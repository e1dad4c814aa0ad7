"""Whatever shares the engine, every sample's tokens are those of a plain loop; and every page comes back."""

from __future__ import annotations

import itertools
import random
import sys
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import EOS, InterruptAt, fake_engine, oracle
from lorid_engine.engine import Request, RequestOutput, SamplingParams
from lorid_engine.engine.pages import PagePool
from lorid_engine.errors import CapacityError

PREFIXES = [[7] * 40, list(range(60)), [5, 6]]


def make_request(chance: random.Random, number: int) -> Request:
    prompt = chance.choice(PREFIXES)[: chance.randint(1, 60)] + [
        chance.randrange(64) for _ in range(chance.randint(0, 30))
    ]
    return Request(
        prompt,
        adapter=chance.choice([None, "a", "b"]),
        sampling=SamplingParams(
            n=chance.choice([1, 1, 2, 5]),
            temperature=chance.choice([0.0, 1.0]),
            seed=chance.randrange(3),
            max_tokens=chance.randint(1, 40),
            stop_token_ids=(chance.randrange(64),),
        ),
        key=b"%d" % chance.randrange(3),
        priority=chance.randrange(3),
        request_id=str(number),
        replace_token=chance.choice([None, None, add_length]),
    )


def add_length(text: str, token: int) -> int:
    """Another token than the drawn one; a character of the text that is missing or twice shows."""
    return (token + len(text)) % 64


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**9))
def test_random_traffic_equals_a_plain_loop(seed: int) -> None:
    chance = random.Random(seed)
    rows = chance.choice([1, 2, 8])
    engine, _ = fake_engine(
        num_pages=chance.choice([9, 14, 64]),
        max_batch_rows=rows,
        max_batch_tokens=chance.choice([rows, 11, 64]) if rows <= 11 else 64,
        adapters=("a", "b"),
        gather=chance.choice([1, 1, 3]),
    )
    requests: dict[str, Request] = {}
    numbers, finished = count(), {}
    for _ in range(2000):
        if len(requests) < 12 and chance.random() < 0.3:
            request = make_request(chance, next(numbers))
            engine.add_request(request)
            requests[request.request_id or ""] = request
        for output in engine.step():
            finished[output.request_id] = output
        unfinished = [name for name in requests if name not in finished or not finished[name].finished]
        if unfinished and chance.random() < 0.02:
            victim = chance.choice(unfinished)
            assert engine.abort_request(victim)
            del requests[victim]
        if len(requests) == 12 and not engine.has_unfinished_requests():
            break
    assert not engine.has_unfinished_requests()
    for name, request in requests.items():
        output = finished[name]
        if isinstance(output.error, CapacityError):
            continue  # a long sequence, alone in a small pool
        for index, sample in enumerate(output.outputs):
            assert list(sample.token_ids) == oracle(request, list(output.prompt_token_ids), index)
    assert engine.stats().pages_held == 0


def test_prefills_are_gathered_while_most_rows_decode() -> None:
    engine, runner = fake_engine(num_pages=64, max_batch_rows=8, max_batch_tokens=64, gather=3)

    def add(count: int) -> None:
        for _ in range(count):
            engine.add_request(Request([1, 2, 3], sampling=SamplingParams(max_tokens=100, ignore_eos=True)))

    def rows_of(steps: int) -> list[int]:
        runner.rows.clear()
        for _ in range(steps):
            engine.step()
        return list(runner.rows)

    add(3)  # none decodes: there is nothing to wait for
    add(1)
    assert rows_of(2) == [4, 4]
    add(2)
    assert rows_of(3) == [4, 4, 4]
    add(1)
    assert rows_of(1) == [7]  # three are there
    add(1)
    assert rows_of(34) == [7] * 32 + [8, 8]  # it does not wait for ever


def test_a_prefill_that_has_begun_does_not_wait() -> None:
    engine, runner = fake_engine(num_pages=64, max_batch_rows=8, max_batch_tokens=16, gather=3)
    sampling = SamplingParams(max_tokens=100, ignore_eos=True)
    engine.add_request(Request(list(range(60)), sampling=sampling))
    engine.step()  # its first 16 tokens
    for prompt in [[1], [2], [3], [4]]:
        engine.add_request(Request(prompt, sampling=sampling))
    computed = [runner.computed]
    for _ in range(5):
        engine.step()
        computed.append(runner.computed)
    assert [after - before for before, after in itertools.pairwise(computed)] == [16, 16, 16, 12, 5]


def test_small_pool_preempts_and_resumes() -> None:
    engine, _ = fake_engine(num_pages=10, max_batch_rows=8, max_batch_tokens=64)
    requests = [Request([k, 1, 2], sampling=SamplingParams(max_tokens=70, seed=k)) for k in range(6)]
    outputs = engine.generate(requests)
    assert engine.stats().preemptions > 0
    for request, output in zip(requests, outputs, strict=True):
        assert list(output.outputs[0].token_ids) == oracle(request, list(request.prompt), 0)


def test_a_sequence_that_can_never_fit_ends_with_an_error_and_keeps_its_text() -> None:
    engine, _ = fake_engine(num_pages=4)
    good = Request([1, 2], sampling=SamplingParams(max_tokens=5, seed=0))
    long, short = engine.generate([Request([3] * 20, sampling=SamplingParams(max_tokens=150, seed=1)), good])
    assert isinstance(long.error, CapacityError) and "raise kv_memory" in str(long.error)
    assert len(long.outputs[0].token_ids) == 4 * 16 - 20 + 1
    assert short.error is None and len(short.outputs[0].token_ids) == 5


def test_rows_are_full_while_there_is_work_and_budget_is_kept() -> None:
    engine, runner = fake_engine(num_pages=200, max_batch_rows=4, max_batch_tokens=16)
    engine.generate([Request([9, k], sampling=SamplingParams(max_tokens=10, seed=0)) for k in range(8)])
    assert max(runner.rows) == 4 and runner.rows.count(4) >= 15


def test_lower_priority_values_run_first() -> None:
    engine, _ = fake_engine(max_batch_rows=1)
    for name, priority in (("late", 5), ("early", 0), ("middle", 3)):
        engine.add_request(
            Request([1], sampling=SamplingParams(max_tokens=3, seed=0), priority=priority, request_id=name)
        )
    order = []
    while engine.has_unfinished_requests():
        order += [output.request_id for output in engine.step() if output.finished]
    assert order == ["early", "middle", "late"]


def test_a_prompt_is_computed_once_for_its_samples() -> None:
    engine, runner = fake_engine(num_pages=64, max_batch_rows=8, max_batch_tokens=128)
    prompt = [k % 50 for k in range(100)]
    output = engine.generate(Request(prompt, sampling=SamplingParams(n=6, max_tokens=1, seed=3)))[0]
    assert runner.computed == 100 + 5  # every further sample draws from the prompt's last token
    assert len({sample.token_ids for sample in output.outputs}) > 1


def test_a_shared_prompt_is_computed_once_even_within_one_step() -> None:
    engine, runner = fake_engine(num_pages=64, max_batch_rows=8, max_batch_tokens=128)
    prompt = [k % 50 for k in range(49)]
    requests = [Request(prompt, sampling=SamplingParams(max_tokens=1, seed=k)) for k in range(3)]
    outputs = engine.generate(requests)
    assert runner.computed == 49 + 1 + 1
    assert [output.num_cached_tokens for output in outputs] == [0, 48, 48]
    other = engine.generate(Request([*prompt[:40], 63], sampling=SamplingParams(max_tokens=1, seed=0)))[0]
    assert other.num_cached_tokens == 32


def test_adapters_do_not_share_pages() -> None:
    engine, _ = fake_engine(adapters=("a", "b"))
    prompt = list(range(40))
    params = SamplingParams(max_tokens=4, seed=0)
    for adapter in ("a", "b", None):
        assert engine.generate(Request(prompt, adapter=adapter, sampling=params))[0].num_cached_tokens == 0
        assert engine.generate(Request(prompt, adapter=adapter, sampling=params))[0].num_cached_tokens == 32


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_failed_step_loses_nothing(error: BaseException) -> None:
    engine, runner = fake_engine(max_batch_tokens=8)
    requests = [
        # two begin alike: pages that a failed step filled must not be shared as if they held something
        Request([k // 2] * 40, sampling=SamplingParams(max_tokens=12, seed=k, n=2), request_id=str(k))
        for k in range(3)
    ]
    for request in requests:
        engine.add_request(request)
    done = {}
    for step in range(200):
        if step in (1, 4, 9, 20, 21):
            runner.fail_next = error
            with pytest.raises(type(error)):
                engine.step()
        done |= {output.request_id: output for output in engine.step()}
        if not engine.has_unfinished_requests():
            break
    for request in requests:
        for index, sample in enumerate(done[request.request_id].outputs):
            assert list(sample.token_ids) == oracle(request, list(request.prompt), index)
    assert engine.stats().pages_held == 0


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9))
def test_ctrl_c_anywhere_in_a_step_loses_nothing(seed: int) -> None:
    chance = random.Random(seed)
    engine, _ = fake_engine(num_pages=30, max_batch_rows=6, max_batch_tokens=24, adapters=("a", "b"))
    interrupted = 0

    def traced_step() -> list[RequestOutput]:
        """Also in the recovery from the interrupt before."""
        before = sys.gettrace()
        sys.settrace(InterruptAt(chance.randint(1, 600)))
        try:
            return engine.step()
        finally:
            sys.settrace(before)

    requests = {str(number): make_request(chance, number) for number in range(6)}
    for request in requests.values():
        engine.add_request(request)
    finished = {}
    for _ in range(2000):
        if not engine.has_unfinished_requests():
            break
        try:
            for output in traced_step() if interrupted < 40 and chance.random() < 0.4 else engine.step():
                finished[output.request_id] = output
        except KeyboardInterrupt:
            interrupted += 1
    for name, request in requests.items():
        output = finished[name]
        assert output.finished and output.error is None
        for index, sample in enumerate(output.outputs):
            assert list(sample.token_ids) == oracle(request, list(output.prompt_token_ids), index)
            assert sample.text == engine.tokenizer.decode(shown(request, sample.token_ids))
    assert engine.stats().pages_held == 0


def shown(request: Request, token_ids: tuple[int, ...]) -> list[int]:
    """The tokens that show in the text: not one that stopped it."""
    return list(token_ids[:-1] if token_ids[-1] in (*request.sampling.stop_token_ids, EOS) else token_ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=200))
def test_page_pool_counts(actions: list[tuple[int, int]]) -> None:
    """Against a plain model: what is held stays, what is released comes back exactly once."""
    pool, held, names = PagePool(5), [], 0
    for action, pick in actions:
        if action == 0:
            page = pool.take()
            assert (page is None) == (len(set(held)) == 5)
            if page is not None:
                assert page not in held
                held.append(page)
        elif held and action == 1:
            pool.share(held[pick % len(held)])
            held.append(held[pick % len(held)])
        elif held and action == 2:
            pool.release(held.pop(pick % len(held)))
        elif held:
            pool.register(held[pick % len(held)], b"%d" % names)
            names += 1
        assert pool.num_free == 5 - len(set(held))
        assert all(pool.references(page) == held.count(page) for page in range(5))
