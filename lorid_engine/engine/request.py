"""What a user asks of the engine and gets back; field names are vLLM's where it has them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from lorid_engine.errors import ConfigError, LoridError

_LARGEST_FLOAT32 = 3.4028234663852886e38


def _number(
    name: str, value: object, least: float, most: float = math.inf, *, whole: bool = False, above: bool = False
) -> int | float:
    """The value as Python's own number, whatever kind of number it is; raises ConfigError where it is out of range."""
    valid = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if valid:
        valid = least <= value <= most and not (above and value == least)  # type: ignore[operator]
    if not valid or value == math.inf:
        kind = "a whole number" if whole else "a number"
        bound = f"above {least:g}" if above else f"of at least {least:g}"
        upper = f" and at most {most:g}" if most < math.inf else ""
        raise ConfigError(f"{name} must be {kind} {bound}{upper}; got {value!r}")
    return int(value) if whole else float(value)  # type: ignore[call-overload, arg-type]


def _entries(name: str, value: Iterable[Any] | None) -> tuple[Any, ...]:
    """A list option as a tuple; None = empty."""
    try:
        return () if value is None else tuple(value)
    except TypeError:
        raise ConfigError(f"{name} must be a list; got {value!r}") from None


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and when a sample ends.

    Attributes:
        n: samples of the prompt.
        temperature: 0 takes the likeliest token.
        top_p: keep the fewest tokens that hold this share of the probability; 1 = all.
        top_k: keep the likeliest so many; 0 or -1 = all.
        seed: with Request.key it decides every draw; None = a fresh one.
        stop: strings that end a sample; the text is cut before them.
        stop_token_ids: tokens that end a sample.
        max_tokens: most tokens of a sample.
        logprobs: report the drawn token's log-probability and so many of the likeliest; None = none.
        ignore_eos: go on after the end-of-text token.
        include_stop_str_in_output: leave the stop string in the text.

    Raises:
        ConfigError: a value out of range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | Sequence[str] | None = ()
    stop_token_ids: Sequence[int] | None = ()
    max_tokens: int = 16
    logprobs: int | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "n": _number("n", self.n, 1, 1024, whole=True),
            "temperature": _number("temperature", self.temperature, 0, _LARGEST_FLOAT32),
            "top_p": _number("top_p", self.top_p, 0, 1, above=True),
            "top_k": _number("top_k", self.top_k, -1, 2**31 - 1, whole=True),
            "max_tokens": _number("max_tokens", self.max_tokens, 1, whole=True),
        }
        if self.seed is not None:
            checked["seed"] = _number("seed", self.seed, 0, 2**64 - 1, whole=True)
        if self.logprobs is not None:
            checked["logprobs"] = _number("logprobs", self.logprobs, 0, 100, whole=True)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "stop", _entries("stop", (self.stop,) if isinstance(self.stop, str) else self.stop))
        object.__setattr__(self, "stop_token_ids", _entries("stop_token_ids", self.stop_token_ids))
        if not all(isinstance(text, str) and text for text in _entries("stop", self.stop)):
            raise ConfigError(f"stop must be strings that are not empty; got {self.stop!r}")
        for token in _entries("stop_token_ids", self.stop_token_ids):
            _number("stop_token_ids", token, 0, whole=True)


@dataclass(frozen=True)
class Request:
    """A prompt for one adapter or for the base alone.

    Attributes:
        prompt: text, encoded as plain characters, or token ids.
        adapter: name of a loaded adapter; None = base only.
        sampling: how to draw.
        key: with the seed it decides every draw; two requests of one seed and key draw alike.
        priority: lower runs first.
        request_id: the caller's name for it; None = the engine gives one.
        replace_token: called with a sample's text so far and each token drawn for it; the token that it returns is taken
            instead. The text is without special tokens and half characters. What is returned must depend on the two alone,
            as an interrupted step asks again; the engine must not be called from it. An exception ends this request. Not
            together with logprobs: those of a token that was not drawn are not known.

    Raises:
        ConfigError: an option of the wrong type, or two that do not go together. (The prompt is checked when the request is added.)
    """

    prompt: str | Sequence[int]
    adapter: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    key: bytes = b""
    priority: int = 0
    request_id: str | None = None
    replace_token: Callable[[str, int], int] | None = None

    def __post_init__(self) -> None:
        for name, kinds, expected in (
            ("adapter", (str, NoneType), "an adapter's name or None"),
            ("sampling", (SamplingParams,), "SamplingParams"),
            ("key", (bytes,), "bytes"),
            ("priority", (int,), "a whole number"),
            ("request_id", (str, NoneType), "a string or None"),
        ):
            if not isinstance(getattr(self, name), kinds):
                raise ConfigError(f"{name} must be {expected}; got {getattr(self, name)!r}")
        if self.replace_token is not None:
            if not callable(self.replace_token):
                raise ConfigError(f"replace_token must be a function or None; got {self.replace_token!r}")
            if self.sampling.logprobs is not None:
                raise ConfigError("replace_token and logprobs do not go together; leave one of them out")


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability under the raw logits, its rank (1 = likeliest) and its text."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass(frozen=True)
class CompletionOutput:
    """One sample so far.

    Attributes:
        index: which of the n samples.
        text: what is certain of the text; without the stop string or stop token.
        token_ids: the tokens drawn, or put in their place; the stop token included.
        cumulative_logprob: sum over the tokens, where logprobs were asked for.
        logprobs: for each token, its own and the likeliest ones' log-probabilities by id, where asked for.
        finish_reason: "stop", "length", "error", or None while it runs.
        stop_reason: the stop string or stop token id that ended it; None for the end-of-text token.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None = None
    logprobs: tuple[dict[int, Logprob], ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True)
class RequestOutput:
    """A request so far: its samples, and the error that ended it if one did."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    error: LoridError | None = None
    num_cached_tokens: int = 0
