"""StepBatch and StepResult: what the engine gives the runner each step, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepBatch:
    """The rows of one step, sequence by sequence; arrays are C-contiguous.

    Attributes:
        token_ids: int32 [T].
        positions: int32 [T], consecutive within a sequence.
        query_offset: int32 [B + 1], rows query_offset[b] to query_offset[b + 1] belong to sequence b.
        block_table: int32 [B, M], page j of a sequence holds positions 16 j to 16 j + 15; -1 past its last page.
        seg_offset: int32 [S + 1], runs of rows with one adapter slot.
        seg_slot: int32 [S], -1 = base only.
        sample_rows: int32 [K], rows whose next token is drawn; a row may appear once for each sample of its prompt.
        philox_key: uint64 [K], of (seed, Request.key).
        philox_counter: uint32 [K, 2], sample index and position of the token that is drawn.
        temperature: float32 [K], 0 = greedy.
        top_k: int32 [K], 0 = off.
        top_p: float32 [K].
        num_logprobs: the most top log-probabilities that any row wants; -1 = none, not even the drawn token's.
        page_copies: int32 [Q, 2], (from, to) page copies that are done before the step.
    """

    token_ids: Int32
    positions: Int32
    query_offset: Int32
    block_table: Int32
    seg_offset: Int32
    seg_slot: Int32
    sample_rows: Int32
    philox_key: npt.NDArray[np.uint64]
    philox_counter: npt.NDArray[np.uint32]
    temperature: Float32
    top_k: Int32
    top_p: Float32
    num_logprobs: int
    page_copies: Int32


@dataclass(frozen=True)
class StepResult:
    """What was drawn for each sampled row.

    Attributes:
        token_ids: int32 [K]; -1 where no logit is a number.
        logprob: float32 [K] of the drawn token, from the raw logits.
        rank: int32 [K], 1 = the largest logit.
        top_ids: int32 [K, num_logprobs].
        top_logprobs: float32 [K, num_logprobs].
    """

    token_ids: Int32
    logprob: Float32 | None = None
    rank: Int32 | None = None
    top_ids: Int32 | None = None
    top_logprobs: Float32 | None = None
