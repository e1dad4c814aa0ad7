"""A step's arrays on a device: what the batch says, and padding that belongs to no sequence and no segment."""

from __future__ import annotations

import numpy as np
import torch

from lorid_engine.engine.batch import StepBatch
from lorid_engine.engine.step_buffers import StepBuffers, StepShape

BATCH = StepBatch(
    token_ids=np.array([5, 6, 7], np.int32),
    positions=np.array([16, 17, 3], np.int32),
    query_offset=np.array([0, 2, 3], np.int32),
    block_table=np.array([[4, 9], [2, -1]], np.int32),
    seg_offset=np.array([0, 3], np.int32),
    seg_slot=np.array([1], np.int32),
    sample_rows=np.array([1, 2], np.int32),
    philox_key=np.array([2**64 - 1, 3], np.uint64),
    philox_counter=np.array([[0, 18], [1, 2**32 - 1]], np.uint32),
    temperature=np.array([0.5, 0.0], np.float32),
    top_k=np.array([50, 0], np.int32),
    top_p=np.array([0.9, 1.0], np.float32),
    num_logprobs=-1,
    page_copies=np.zeros((0, 2), np.int32),
)
MOST = StepShape(rows=16, samples=8, sequences=8, segments=4, pages=32, max_query=16)


def test_arrays_are_the_batchs() -> None:
    shape = StepShape(3, 2, 2, 1, 16, 2)
    buffers = StepBuffers(MOST, torch.device("cpu"), pinned=False)
    buffers.fill(BATCH, shape)
    step, sampling = buffers.view(shape)
    assert step.token_ids.tolist() == [5, 6, 7] and step.positions.tolist() == [16, 17, 3]
    assert step.cache_slot.tolist() == [9 * 16, 9 * 16 + 1, 2 * 16 + 3]
    assert step.query_offset.tolist() == [0, 2, 3]
    assert step.block_table[:, :2].tolist() == [[4, 9], [2, -1]] and set(
        step.block_table[:, 2:].flatten().tolist()
    ) == {-1}
    assert (step.seg_offset.tolist(), step.seg_slot.tolist()) == ([0, 3], [1])
    assert (step.max_query, step.max_context) == (2, 256)
    assert sampling.philox_key.tolist() == [-1, 3]  # the same 64 bits
    assert sampling.philox_counter.tolist() == [[0, 18], [1, 2**32 - 1]]
    assert sampling.top_k.tolist() == [50, 0]
    assert torch.equal(sampling.temperature, torch.tensor([0.5, 0.0])) and sampling.top_p[1] == 1


def test_padding_belongs_to_nobody() -> None:
    small, shape = StepShape(3, 2, 2, 1, 16, 2), StepShape(8, 8, 8, 4, 32, 2)
    buffers = StepBuffers(MOST, torch.device("cpu"), pinned=False)
    for filled in (shape, small, shape):  # what another shape left there does not show
        buffers.fill(BATCH, filled)
    step, sampling = buffers.view(shape)
    assert step.token_ids.tolist() == [5, 6, 7, 0, 0, 0, 0, 0]
    assert step.cache_slot.tolist()[3:] == [-1] * 5
    assert step.query_offset.tolist() == [0, 2] + [3] * 7
    assert step.seg_offset.tolist() == [0, 3, 3, 3, 3] and step.seg_slot.tolist() == [1, -1, -1, -1]
    assert step.sample_rows.tolist() == [1, 2] + [0] * 6
    assert set(step.block_table[2:].flatten().tolist()) == {-1}
    assert sampling.temperature.tolist()[2:] == [0] * 6 and sampling.top_p.tolist()[2:] == [1] * 6
