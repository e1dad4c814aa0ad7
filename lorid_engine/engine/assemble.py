"""From a plan to the runner's arrays."""

from __future__ import annotations

import numpy as np

from lorid_engine.engine.batch import StepBatch
from lorid_engine.engine.scheduler import Plan
from lorid_engine.engine.sequence import Sequence


def assemble(plan: Plan) -> tuple[StepBatch, list[Sequence]]:
    """The step's batch, and the sequences that draw a token in it, in the order of its sample_rows."""
    tokens: list[int] = []
    positions: list[np.ndarray] = []
    offset, seg_offset = [0], [0]
    seg_slot: list[int] = []
    drawing: list[Sequence] = []
    sample_rows: list[int] = []
    for sequence, count in plan.rows:
        end = sequence.computed + count
        tokens += sequence.tokens[sequence.computed : end]
        positions.append(np.arange(sequence.computed, end, dtype=np.int32))
        offset.append(len(tokens))
        slot = sequence.group.slot
        if seg_slot and seg_slot[-1] == slot:
            seg_offset[-1] = len(tokens)
        else:
            seg_slot.append(slot)
            seg_offset.append(len(tokens))
        if end == len(sequence.tokens):
            drawing.append(sequence)
            sample_rows.append(len(tokens) - 1)
    width = max(len(sequence.pages) for sequence, _ in plan.rows)
    table = np.full((len(plan.rows), width), -1, np.int32)
    for b, (sequence, _) in enumerate(plan.rows):
        table[b, : len(sequence.pages)] = sequence.table[: len(sequence.pages)]
    sampling = [sequence.group.request.sampling for sequence in drawing]
    wanted = [params.logprobs for params in sampling if params.logprobs is not None]
    batch = StepBatch(
        token_ids=np.array(tokens, np.int32),
        positions=np.concatenate(positions),
        query_offset=np.array(offset, np.int32),
        block_table=table,
        seg_offset=np.array(seg_offset, np.int32),
        seg_slot=np.array(seg_slot, np.int32),
        sample_rows=np.array(sample_rows, np.int32),
        philox_key=np.array([sequence.group.key for sequence in drawing], np.uint64),
        philox_counter=np.array([(s.index, len(s.tokens)) for s in drawing], np.uint32).reshape(-1, 2),
        temperature=np.array([params.temperature for params in sampling], np.float32),
        top_k=np.array([max(params.top_k, 0) for params in sampling], np.int32),
        top_p=np.array([params.top_p for params in sampling], np.float32),
        num_logprobs=max(wanted, default=-1),
        page_copies=np.array(plan.page_copies, np.int32).reshape(-1, 2),
    )
    return batch, drawing
