"""From the engine's state to what users get: outputs of requests, and counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorid_engine.engine.batch import StepResult
from lorid_engine.engine.request import CompletionOutput, Logprob, Request, RequestOutput
from lorid_engine.engine.sequence import Group, Sequence
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import LoridError


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made, and its state now.

    Attributes:
        steps: forward passes.
        step_seconds: time inside them.
        prompt_tokens: rows computed that drew no token, preempted tokens computed again included.
        cached_prompt_tokens: prompt tokens taken over from pages that were filled already.
        generated_tokens: tokens drawn.
        preemptions: times that a sequence gave up its pages.
        live_sequences: samples that have not ended.
        pages_held: KV pages that sequences hold. pages_cached: free ones that still hold a prefix. pages_total: all.
        adapters: names of the loaded adapters.
    """

    steps: int
    step_seconds: float
    prompt_tokens: int
    cached_prompt_tokens: int
    generated_tokens: int
    preemptions: int
    live_sequences: int
    pages_held: int
    pages_cached: int
    pages_total: int
    adapters: tuple[str, ...]


def request_output(group: Group) -> RequestOutput:
    """A request's output as it stands."""
    return RequestOutput(
        request_id=group.request_id,
        prompt=group.prompt,
        prompt_token_ids=group.prompt_ids,
        outputs=tuple(_completion(sequence) for sequence in group.sequences),
        finished=group.finished,
        error=group.error,
        num_cached_tokens=group.cached_tokens,
    )


def _completion(sequence: Sequence) -> CompletionOutput:
    wanted = sequence.group.request.sampling.logprobs is not None
    finished = sequence.finish_reason is not None
    return CompletionOutput(
        index=sequence.index,
        text=sequence.stream.text if finished else sequence.stream.visible(),
        token_ids=tuple(sequence.output_ids),
        cumulative_logprob=_cumulative_logprob(sequence) if wanted else None,
        logprobs=tuple(sequence.logprobs) if wanted else None,
        finish_reason=sequence.finish_reason,
        stop_reason=sequence.stop_reason,
    )


def _cumulative_logprob(sequence: Sequence) -> float:
    return math.fsum(
        entries[token].logprob for entries, token in zip(sequence.logprobs, sequence.output_ids, strict=True)
    )


def refused_output(request: Request, error: LoridError) -> RequestOutput:
    """The output of a request that was never taken."""
    prompt = getattr(request, "prompt", None)
    return RequestOutput(
        request_id=getattr(request, "request_id", None) or "",
        prompt=prompt if isinstance(prompt, str) else None,
        prompt_token_ids=(),
        outputs=(CompletionOutput(0, "", (), finish_reason="error"),),
        finished=True,
        error=error,
    )


def logprob_entries(tokenizer: Tokenizer, token: int, count: int, result: StepResult, row: int) -> dict[int, Logprob]:
    """A drawn token's log-probability and those of the `count` likeliest, by id."""
    assert result.logprob is not None and result.rank is not None
    assert result.top_ids is not None and result.top_logprobs is not None
    entries = {token: Logprob(float(result.logprob[row]), int(result.rank[row]), tokenizer.token(token))}
    for place in range(min(count, result.top_ids.shape[1])):
        top = int(result.top_ids[row, place])
        if top >= 0 and top not in entries:
            entries[top] = Logprob(float(result.top_logprobs[row, place]), place + 1, tokenizer.token(top))
    return entries
