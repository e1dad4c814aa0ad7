"""MicroBatch: the rows of some roles' sequences, end to end without padding, for one forward and backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from lorid_engine.ops import SegmentPlan
from lorid_engine.train.examples import Example


@dataclass(frozen=True)
class TrainingSequence:
    """An example in a step.

    Attributes:
        slot: of its role.
        key: 64 bits from which its dropout is drawn.
    """

    slot: int
    example: Example
    key: int


@dataclass(frozen=True)
class MicroBatch:
    """T rows of B sequences, ordered by slot; K of the rows predict a target.

    Attributes:
        tokens: [T] int64 token ids.
        positions: [T] int64, each in its sequence.
        plan: the slots of the rows, always on the CPU, where lora_linear reads it without waiting for a GPU.
        dropout_key: [T] int64.
        seq_offset: [B + 1] int32, the rows of each sequence.
        target_row: [K] int64, the rows that predict a target.
        target_plan: the slots of those rows, on the CPU, too.
        label: [K] int64, what they should predict.
        label_slot: [K] int64, the slots of those rows.
        max_len: rows of the longest sequence.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    plan: SegmentPlan
    dropout_key: torch.Tensor
    seq_offset: torch.Tensor
    target_row: torch.Tensor
    target_plan: SegmentPlan
    label: torch.Tensor
    label_slot: torch.Tensor
    max_len: int

    @classmethod
    def of(cls, sequences: Sequence[TrainingSequence]) -> MicroBatch:
        """Lays out sequences."""
        ordered = sorted(sequences, key=lambda sequence: sequence.slot)
        lengths = np.array([sequence.example.rows for sequence in ordered])
        offset = np.concatenate([[0], np.cumsum(lengths)])
        starts, owner = offset[:-1], np.repeat(np.arange(len(ordered)), lengths)
        positions = np.arange(offset[-1]) - starts[owner]
        slots = np.array([sequence.slot for sequence in ordered])
        keys = np.array([sequence.key for sequence in ordered], np.uint64)
        targets, labels = [], []
        for sequence, start in zip(ordered, starts, strict=True):
            example = sequence.example
            targets.append(np.arange(example.prompt - 1, example.rows) + start)
            labels.append(example.tokens[example.prompt :])
        target_row = np.concatenate(targets)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values).astype(np.int64, copy=False))

        return cls(
            tokens=tensor(np.concatenate([sequence.example.tokens[:-1] for sequence in ordered])),
            positions=tensor(positions),
            plan=_plan(slots, lengths),
            dropout_key=tensor(_mix(keys[owner] + positions.astype(np.uint64) * _STEP).view(np.int64)),
            seq_offset=torch.from_numpy(offset.astype(np.int32)),
            target_row=tensor(target_row),
            target_plan=_plan(slots, np.array([len(rows) for rows in targets])),
            label=tensor(np.concatenate(labels)),
            label_slot=tensor(slots[owner[target_row]]),
            max_len=int(lengths.max()),
        )

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device; copies to a GPU are not waited for."""
        if device.type == "cpu":
            return self
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), torch.Tensor)}
        moved: dict[str, Any] = {
            name: value.pin_memory().to(device, non_blocking=True) for name, value in tensors.items()
        }
        return replace(self, **moved)


def _plan(slots: np.ndarray, lengths: np.ndarray) -> SegmentPlan:
    """A segment for the rows of each slot; slots are in order, with the rows of each sequence."""
    found, first = np.unique(slots, return_index=True)
    offset = np.append(0, np.cumsum(np.add.reduceat(lengths, first)))
    return SegmentPlan(torch.from_numpy(offset.astype(np.int32)), torch.from_numpy(found.astype(np.int32)))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele et al., OOPSLA 2014): close inputs have unlike outputs."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_step(
    sequences: Sequence[TrainingSequence], most_rows: int, processes: int = 1
) -> list[list[TrainingSequence]]:
    """Cuts a step's sequences into few passes of much the same number of rows.

    Args:
        most_rows: of a pass, unless one sequence has more.
        processes: that share the passes: as many passes for each, where there are enough sequences.

    Returns:
        passes, each with sequences of much the same length.
    """
    ordered = sorted(sequences, key=lambda sequence: -sequence.example.rows)
    fewest = -(-len(_filled(ordered, most_rows)) // processes) * processes
    total = sum(sequence.example.rows for sequence in ordered)
    low, high = total // max(fewest, 1), most_rows
    while low < high:  # the least rows at which they are as few
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(ordered, middle)) <= fewest else (middle + 1, high)
    return _filled(ordered, high)


def _filled(ordered: Sequence[TrainingSequence], most_rows: int) -> list[list[TrainingSequence]]:
    """Fills one pass after another."""
    passes: list[list[TrainingSequence]] = []
    rows = 0
    for sequence in ordered:
        if not passes or rows + sequence.example.rows > most_rows:
            passes.append([])
            rows = 0
        passes[-1].append(sequence)
        rows += sequence.example.rows
    return passes
