"""How samples end, what comes back, and what happens to requests that cannot be served."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from fakes import EOS, VOCAB, byte_tokenizer, fake_engine, oracle
from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.text import TextStream
from lorid_engine.errors import (
    AdapterError,
    BackendUnavailableError,
    CapacityError,
    CheckpointError,
    ConfigError,
    LoridError,
    RequestError,
)

TOKENIZER = byte_tokenizer()


def scripted(tokens: list[int]) -> Engine:
    """An engine whose model says these tokens."""
    engine, runner = fake_engine()
    run, script = runner.run, iter(tokens)

    def scripted_run(batch):
        result = run(batch)
        for row in range(len(batch.sample_rows)):
            result.token_ids[row] = next(script)
        return result

    runner.run = scripted_run
    return engine


def say(text: str, *more: int, **params) -> object:
    engine = scripted([*TOKENIZER.encode(text), *more])
    return engine.generate(Request("x", sampling=SamplingParams(max_tokens=50, **params)))[0].outputs[0]


def test_end_of_text() -> None:
    sample = say("hello", EOS)
    assert (sample.text, sample.finish_reason, sample.stop_reason) == ("hello", "stop", None)
    assert sample.token_ids == (*TOKENIZER.encode("hello"), EOS)
    ignored = say("hello", EOS, *TOKENIZER.encode("!" * 44), ignore_eos=True)
    assert ignored.finish_reason == "length" and ignored.text == "hello" + "!" * 44


def test_stop_strings_across_tokens() -> None:
    sample = say("one END two", stop=["END"])
    assert (sample.text, sample.finish_reason, sample.stop_reason) == ("one ", "stop", "END")
    assert say("one END two", stop="END", include_stop_str_in_output=True).text == "one END"
    assert say("aab", stop=["ab", "b"]).text == "a"  # they end together: the longer one counts
    assert say("abcX", stop=["abX", "cX"]).stop_reason == "cX"


def test_stop_tokens() -> None:
    comma = TOKENIZER.encode(",")[0]
    sample = say("a,b", stop_token_ids=[comma])
    assert (sample.text, sample.stop_reason, sample.token_ids[-1]) == ("a", comma, comma)
    assert say("a,b", stop_token_ids=[comma], include_stop_str_in_output=True).text == "a,"


def test_characters_of_several_tokens_and_unfinished_ones() -> None:
    assert say("é€😀", EOS).text == "é€😀"
    cut = TOKENIZER.encode("a€")[:-1]
    engine = scripted(cut)
    assert engine.generate(Request("x", sampling=SamplingParams(max_tokens=len(cut))))[0].outputs[0].text == "a\ufffd"


def test_stream_holds_back_what_may_become_a_stop_string() -> None:
    engine = scripted(TOKENIZER.encode("ab<|") + TOKENIZER.encode("x<|end!"))
    seen = [
        o.outputs[0].text for o in engine.stream(Request("x", sampling=SamplingParams(max_tokens=11, stop=["<|end|>"])))
    ]
    assert seen[:5] == ["a", "ab", "ab", "ab", "ab<|x"] and seen[-1] == "ab<|x<|end!"
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))


def test_text_stream_is_linear_in_length() -> None:
    stream = TextStream(TOKENIZER, ("never",), keep_stop=False)
    for token in TOKENIZER.encode("a" * 20000):
        stream.push(token)
    assert stream.text == "a" * 20000


def test_context_ends_a_sample() -> None:
    engine, _ = fake_engine()
    output = engine.generate(Request([1] * 190, sampling=SamplingParams(max_tokens=100, seed=0)))[0]
    assert output.outputs[0].finish_reason == "length" and len(output.outputs[0].token_ids) == 10


def test_logprobs() -> None:
    engine, _ = fake_engine()
    sample = engine.generate(Request([1], sampling=SamplingParams(max_tokens=3, logprobs=2, seed=0)))[0].outputs[0]
    assert sample.cumulative_logprob == pytest.approx(-1.5) and len(sample.logprobs) == 3
    for token, entries in zip(sample.token_ids, sample.logprobs, strict=True):
        assert entries[token].logprob == -0.5 and {0, 1} <= set(entries)


def test_a_token_may_be_replaced() -> None:
    engine, seen = scripted([*TOKENIZER.encode("abcd")]), []
    dash = TOKENIZER.encode("-")[0]

    def replace(text: str, token: int) -> int:
        seen.append((text, TOKENIZER.token(token)))
        return np.int64(dash) if text == "a" else EOS if text == "a-c" else token

    sample = engine.generate(Request("x", sampling=SamplingParams(max_tokens=9), replace_token=replace))[0].outputs[0]
    assert (sample.text, sample.finish_reason) == ("a-c", "stop")
    assert sample.token_ids == (*TOKENIZER.encode("a-c"), EOS)
    assert seen == [("", "a"), ("a", "b"), ("a-", "c"), ("a-c", "d")]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


def raise_what_cannot_be_shown(text: str, token: int) -> int:
    raise UnprintableError


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (lambda text, token: 1 // 0, "replace_token failed: ZeroDivisionError"),
        (lambda text, token: None, "replace_token failed: TypeError"),
        (lambda text, token: VOCAB, f"replace_token must return a token, at least 0 and below {VOCAB}"),
        (lambda text, token: -1, "must return a token"),
        (lambda text, token: 10**5000, "must return a token"),
        (raise_what_cannot_be_shown, "UnprintableError: <exception str() failed>"),
    ],
)
def test_a_replacement_that_fails_ends_its_request_alone(replace, message: str) -> None:
    engine, _ = fake_engine()
    params = SamplingParams(max_tokens=5, temperature=0, stop_token_ids=())
    bad, good = engine.generate([Request("x", sampling=params, replace_token=replace), Request("y", sampling=params)])
    assert isinstance(bad.error, RequestError) and message in str(bad.error)
    assert good.error is None and list(good.outputs[0].token_ids) == oracle(
        Request("y", sampling=params), TOKENIZER.encode("y"), 0
    )
    assert engine.stats().pages_held == 0


def test_a_replacement_that_fails_for_one_sample_ends_all_of_them_once() -> None:
    engine, _ = fake_engine()
    seen = []

    def replace(text: str, token: int) -> int:
        seen.append(text)
        return token if len(seen) < 5 else VOCAB

    params = SamplingParams(n=3, max_tokens=8, stop_token_ids=())
    (output,) = engine.generate([Request("x", sampling=params, replace_token=replace)])
    assert isinstance(output.error, RequestError) and len(seen) == 5
    assert [sample.finish_reason for sample in output.outputs] == ["error"] * 3


def test_replacements_have_no_logprobs() -> None:
    with pytest.raises(ConfigError, match="replace_token and logprobs do not go together"):
        Request("x", sampling=SamplingParams(logprobs=1), replace_token=lambda text, token: token)


def test_seeds_and_keys_decide_the_draws() -> None:
    engine, _ = fake_engine()

    def draw(**changes: object) -> tuple[int, ...]:
        key = changes.pop("key", b"")
        request = Request([1], sampling=SamplingParams(max_tokens=20, **changes), key=key)
        return engine.generate(request)[0].outputs[0].token_ids

    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    assert draw(seed=1, key=b"a") != draw(seed=1)
    assert draw() != draw()


def test_bad_requests_among_good_ones() -> None:
    engine, _ = fake_engine(num_pages=4, adapters=("a",))
    good = Request("hello", adapter="a", sampling=SamplingParams(max_tokens=4, seed=0))
    bad = {
        "there is no adapter 'b'; loaded: 'a'": Request("x", adapter="b"),
        "the prompt is empty": Request([]),
        "context of 200": Request([1] * 200),
        "needs 5 KV pages; there are 4": Request([1] * 64),
        f"token ids must be from 0 to {VOCAB - 1}; got 999": Request([999]),
        "must be text or a list of token ids; got int": Request(12),
        "must be text or a list of token ids; got bytes": Request(b"2+2="),
        "must be text or a list of token ids; got 2.5 in it": Request([1, 2.5]),
        "must be text or a list of token ids; got True in it": Request([True]),
        "must be text or a list of token ids; got '5' in it": Request(["5"]),
        "the text has 1000000 characters, at least": Request("x" * 10**6),
        "must be a Request": "hello",
    }
    outputs = engine.generate([good, *bad.values(), good])
    assert outputs[0].outputs == outputs[-1].outputs and outputs[0].error is None
    for output, message in zip(outputs[1:-1], bad, strict=True):
        assert isinstance(output.error, LoridError) and message in str(output.error)
        assert output.finished and output.outputs[0].finish_reason == "error" and output.outputs[0].text == ""
    assert engine.stats().pages_held == 0


def test_add_request_raises_and_names_are_unique() -> None:
    engine, _ = fake_engine()
    with pytest.raises(AdapterError, match="loaded: none"):
        engine.add_request(Request("x", adapter="b"))
    engine.add_request(Request("x", request_id="0"))
    with pytest.raises(RequestError, match="unfinished request '0' already"):
        engine.add_request(Request("x", request_id="0"))
    assert engine.add_request(Request("x")) == "1"
    assert engine.abort_request("0") and not engine.abort_request("0")


def test_stream_and_generate_leave_other_requests_to_step() -> None:
    engine, _ = fake_engine()
    request = Request([4], sampling=SamplingParams(max_tokens=3, seed=0), request_id="mine")
    engine.add_request(request)
    engine.generate(Request([5], sampling=SamplingParams(max_tokens=20, seed=0)))
    assert engine.has_unfinished_requests()
    (output,) = engine.step()
    assert output.request_id == "mine" and list(output.outputs[0].token_ids) == oracle(request, [4], 0)
    assert not engine.has_unfinished_requests()


def test_outputs_of_ended_requests_alone() -> None:
    engine, _ = fake_engine()
    for name, most in (("short", 2), ("long", 4), ("other", 3)):
        engine.add_request(Request("ab", sampling=SamplingParams(max_tokens=most, seed=1), request_id=name))
    ended = []
    while engine.has_unfinished_requests() and len(ended) < 2:
        for output in engine.step_for({"short", "long"}, finished=True):
            assert output.finished and len(output.outputs[0].token_ids) == {"short": 2, "long": 4}[output.request_id]
            ended.append(output.request_id)
    assert ended == ["short", "long"]
    assert [(each.request_id, each.finished) for each in engine.step()] == [("other", True)]  # kept for step()


def test_closing_a_stream_aborts_it() -> None:
    engine, _ = fake_engine()
    stream = engine.stream(Request([4], sampling=SamplingParams(max_tokens=30, seed=0)))
    next(stream)
    stream.close()
    assert not engine.has_unfinished_requests() and engine.stats().pages_held == 0


def test_special_tokens_in_text_are_characters() -> None:
    ids = TOKENIZER.encode("a<|end|>b")
    assert EOS not in ids and TOKENIZER.decode(ids) == "a<|end|>b"
    with_bos = byte_tokenizer(bos=True)
    assert with_bos.bos_prefix == [256] and with_bos.encode("a<|start|>")[0] == 256
    assert 256 not in with_bos.encode("a<|start|>")[1:] and with_bos.encode_plain("a") == TOKENIZER.encode("a")
    assert TOKENIZER.decode(TOKENIZER.encode("lone \ud800")) == "lone ?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be a number of at least 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p must be a number above 0 and at most 1; got 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"n": True}, "n must be"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop must be strings that are not empty"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids"),
        ({"logprobs": 1000}, "logprobs"),
        ({"top_k": 2**31}, "top_k must be a whole number of at least -1 and at most 2.14748e\\+09"),
        ({"temperature": 10**400}, "temperature must be a number of at least 0 and at most"),
        ({"temperature": math.nan}, "temperature must be a number"),
        ({"max_tokens": np.float32(3)}, "max_tokens must be a whole number"),
        ({"stop": 5}, "stop must be a list; got 5"),
        ({"stop_token_ids": 5}, "stop_token_ids must be a list; got 5"),
    ],
)
def test_sampling_params_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**options)


def test_numpy_numbers_are_numbers() -> None:
    engine, _ = fake_engine()
    params = SamplingParams(n=np.int64(2), temperature=np.float32(1), seed=np.uint64(5), max_tokens=np.int32(4))
    plain = SamplingParams(n=2, temperature=1.0, seed=5, max_tokens=4)
    ours, theirs = engine.generate([Request(np.array([7, 8]), sampling=params), Request([7, 8], sampling=plain)])
    assert ours.outputs == theirs.outputs and ours.error is None


def test_text_with_a_token_that_the_model_lacks_fails_alone() -> None:
    engine, _ = fake_engine()
    engine.config.vocab_size = 120
    good, bad = engine.generate([Request("abc", sampling=SamplingParams(max_tokens=3)), Request("x\x7f")])
    assert good.error is None and isinstance(bad.error, RequestError)
    assert "token ids must be from 0 to 119" in str(bad.error) and "the tokenizer made" in str(bad.error)


def test_a_text_in_place_of_requests_is_refused() -> None:
    engine, _ = fake_engine()
    with pytest.raises(RequestError, match=r"wrap it in Request"):
        engine.generate("2+2=")


def test_no_stops_may_be_none() -> None:
    assert SamplingParams(stop_token_ids=np.array([2, 3])).stop_token_ids == (2, 3)
    with pytest.raises(ConfigError, match="stop must be a list; got False"):
        SamplingParams(stop=False)  # type: ignore[arg-type]
    engine, _ = fake_engine()
    assert engine.generate(Request(token for token in [7, 8]))[0].prompt_token_ids == (7, 8)  # type: ignore[arg-type]
    params = SamplingParams(stop=None, stop_token_ids=None)
    assert params == SamplingParams() and params.stop == ()


@pytest.mark.parametrize(
    "options",
    [{"adapter": 3}, {"sampling": {}}, {"key": "text"}, {"priority": 1.5}, {"request_id": 7}, {"replace_token": "x"}],
)
def test_request_fields_are_checked(options: dict) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} must be"):
        Request("x", **options)


def test_engine_options_are_checked(tmp_path: Path) -> None:
    for options, kind, message in (
        ({"dtype": "int8"}, ConfigError, "dtype must be one of bfloat16, float16, float32"),
        ({"dtype": "float16"}, ConfigError, "dtype float16 is for GPUs"),
        ({"device": "gpu"}, ConfigError, "device must be 'cpu', 'cuda' or 'cuda:' and a number; got 'gpu'"),
        ({"device": "cuda:99"}, BackendUnavailableError, "device 'cuda:99' cannot be used: there"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"max_batch_rows": 100, "max_batch_tokens": 50}, ConfigError, "max_batch_tokens must be at least"),
        ({"threads": 1025}, ConfigError, "threads must be a whole number from 1 to 1024; got 1025"),
        ({"max_batch_rows": 2**31}, ConfigError, "max_batch_rows must be a whole number from 1 to 65536"),
        ({"kv_memory": "2GB"}, ConfigError, "kv_memory"),
        ({}, CheckpointError, "config.json"),
    ):
        with pytest.raises(kind, match=message):
            Engine(tmp_path, **options)


def test_the_triton_backend_is_not_taken_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORID_BACKEND", "triton")
    with pytest.raises(BackendUnavailableError, match="or interpreted on the CPU with TRITON_INTERPRET=1"):
        Engine(tmp_path)
    monkeypatch.setenv("LORID_BACKEND", "cpu")
    with pytest.raises(BackendUnavailableError, match="LORID_BACKEND=cpu cannot run on device 'cuda'"):
        Engine(tmp_path, device="cuda")


def test_an_engine_does_not_pretend_to_run_on_the_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORID_BACKEND", "reference")
    with pytest.raises(BackendUnavailableError, match="an engine runs on the C\\+\\+ or the Triton backend"):
        Engine(tmp_path)
    monkeypatch.setenv("LORID_BACKEND", "fast")
    with pytest.raises(ConfigError, match="'fast'"):
        Engine(tmp_path)


def test_capacity_error_is_a_lorid_error() -> None:
    assert issubclass(CapacityError, LoridError)
