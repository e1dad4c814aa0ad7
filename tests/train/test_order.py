"""The order of examples and the layout of a pass."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorid_engine.train.examples import Example
from lorid_engine.train.micro_batch import MicroBatch, TrainingSequence, split_step
from lorid_engine.train.order import ExampleOrder
from tiny_training import random_examples


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 17), st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once_an_epoch(count: int, size: int, epochs: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 500, count)
    order = ExampleOrder(lengths, size, epochs, seed, "ir")
    assert order.steps == epochs * -(-count // size)
    for epoch in range(epochs):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = np.concatenate([order.batch(step) for step in steps])
        assert sorted(seen) == list(range(count))


def test_the_order_is_that_of_seed_role_and_epoch_alone() -> None:
    lengths = list(range(200))
    order = ExampleOrder(lengths, 4, 3, 1, "ir")
    again = ExampleOrder(lengths, 4, 3, 1, "ir")
    assert all(np.array_equal(order.batch(step), again.batch(step)) for step in (149, 3, 77, 0))
    for other in (ExampleOrder(lengths, 4, 3, 2, "ir"), ExampleOrder(lengths, 4, 3, 1, "dr")):
        assert not all(np.array_equal(order.batch(step), other.batch(step)) for step in range(50))
    assert not all(np.array_equal(order.batch(step), order.batch(step + 50)) for step in range(50))


def test_a_batch_has_like_lengths() -> None:
    """Padded to their longest, batches would waste little; drawn at random they would waste much."""
    lengths = np.random.default_rng(0).integers(20, 400, 2000)
    order = ExampleOrder(lengths, 16, 1, 0, "ir")
    batches = [lengths[order.batch(step)] for step in range(order.steps)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert padded < 1.15 * lengths.sum() < 1.5 * lengths.sum()


def test_a_pass_lays_rows_end_to_end() -> None:
    examples = random_examples()
    sequences = [
        TrainingSequence(slot, e, 7 * slot + n)
        for slot, role in enumerate(examples)
        for n, e in enumerate(examples[role])
    ]
    passes = split_step(sequences, 120)
    assert sum(map(len, passes)) == len(sequences)
    assert all(sum(s.example.rows for s in each) <= 120 for each in passes)
    for each in passes:
        batch = MicroBatch.of(each[::-1])
        ordered = sorted(each[::-1], key=lambda sequence: sequence.slot)
        row = target = 0
        for number, sequence in enumerate(ordered):
            example, rows = sequence.example, slice(row, row + sequence.example.rows)
            assert batch.tokens[rows].tolist() == example.tokens[:-1].tolist()
            assert batch.positions[rows].tolist() == list(range(example.rows))
            assert batch.seq_offset[number : number + 2].tolist() == [rows.start, rows.stop]
            targets = slice(target, target + example.targets)
            assert batch.label[targets].tolist() == example.tokens[example.prompt :].tolist()
            assert batch.target_row[targets].tolist() == list(range(row + example.prompt - 1, rows.stop))
            assert set(batch.label_slot[targets].tolist()) == {sequence.slot}
            row, target = rows.stop, targets.stop
        slots = torch.repeat_interleave(batch.plan.seg_slot.long(), batch.plan.seg_offset.diff().long())
        assert slots.tolist() == [s.slot for s in ordered for _ in range(s.example.rows)]
        assert len(set(batch.dropout_key.tolist())) == row
        targets = torch.repeat_interleave(batch.target_plan.seg_slot.long(), batch.target_plan.seg_offset.diff().long())
        assert targets.tolist() == batch.label_slot.tolist()


def filled(rows: list[int], most: int) -> int:
    """How many passes there are when one after another is filled, the longest sequences first."""
    passes, left = 0, 0
    for each in sorted(rows, reverse=True):
        if passes == 0 or each > left:
            passes, left = passes + 1, most
        left -= each
    return passes


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 200), st.integers(1, 4))
def test_a_step_is_cut_into_few_passes_of_equal_size(rows: list[int], most: int, processes: int) -> None:
    examples = [Example(n, n, np.zeros(count + 1, np.int32), 1) for n, count in enumerate(rows)]
    passes = split_step([TrainingSequence(0, example, 0) for example in examples], most, processes)
    assert sorted(sequence.example.index for each in passes for sequence in each) == list(range(len(rows)))
    sizes = [sum(sequence.example.rows for sequence in each) for each in passes]
    assert all(size <= most or len(each) == 1 for size, each in zip(sizes, passes, strict=True))
    fewest = -(-filled(rows, most) // processes) * processes
    assert len(passes) <= fewest
    if max(sizes, default=0) > max(rows, default=0):  # else no pass could be smaller
        assert filled(rows, max(sizes) - 1) > fewest


def test_dropout_keys_are_those_of_the_sequence_and_position_alone() -> None:
    examples = random_examples()
    first, second = TrainingSequence(0, examples["ir"][0], 5), TrainingSequence(0, examples["ir"][1], 6)
    alone, together = MicroBatch.of([first]), MicroBatch.of([second, first])
    assert together.dropout_key[-first.example.rows :].tolist() == alone.dropout_key.tolist()
