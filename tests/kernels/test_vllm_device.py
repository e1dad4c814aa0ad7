"""The op that vLLM's GPU build runs: against the reference, through changes of the slots, and as opcheck wants it."""

from __future__ import annotations

import gc

import pytest
import torch

from helpers import assert_close, assert_same_bits
from lorid_engine.errors import ShapeError
from lorid_engine.integrations.vllm import device
from lorid_engine.integrations.vllm.device import DeviceRows, add_shares, refresh_layers
from lorid_engine.integrations.vllm.slots import bank_of
from lorid_engine.ops import SegmentPlan, gpu, lora_add, use_backend

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")
SLOTS, MOST_RANKS, FEATURES, COLUMNS = 3, 32, 48, [40, 16, 8, 24]


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 4


class Stacked:
    """vLLM's buffers of one layer with four modules, each slot filled up with zeros."""

    def __init__(self) -> None:
        self.a = [torch.zeros(SLOTS, 1, MOST_RANKS, FEATURES) for _ in COLUMNS]
        self.lora_a_stacked = tuple(self.a)
        self.b = [torch.zeros(SLOTS, 1, columns, MOST_RANKS) for columns in COLUMNS]

    def load(self, slot: int, rank: int, modules: list[int]) -> None:
        for m in range(len(COLUMNS)):
            self.a[m][slot], self.b[m][slot] = 0, 0
            if m in modules:
                self.a[m][slot, 0, :rank] = random(rank, FEATURES, seed=rank + m)
                self.b[m][slot, 0, :, :rank] = random(COLUMNS[m], rank, seed=rank + m + 50)
        refresh_layers([self])


def check(stacked: Stacked, slots: list[int], rows: DeviceRows, padded: int = 0) -> None:
    """What the op adds to rows, of which the last `padded` are in no plan, is what the reference adds."""
    x, y = random(len(slots) + padded, FEATURES), random(len(slots) + padded, sum(COLUMNS), seed=3)
    before, expected, begin = y.clone(), y.double(), 0
    for a, b, columns in zip(stacked.a, stacked.b, COLUMNS, strict=True):
        bank = bank_of(a[:, 0].double(), b[:, 0].double())
        if bank is not None:
            with use_backend("reference"):
                plan = SegmentPlan.from_slots([*slots, *[-1] * padded])
                lora_add(expected, x.double(), [(begin, bank)], plan)
        begin += columns
    rows.set(torch.tensor(slots, dtype=torch.int64))
    add_shares(y, x, stacked.a, stacked.b, COLUMNS, rows.order, rows.seg_offset, rows.seg_slot)
    assert_close(y, expected, 2e-6)
    base = [row for row, slot in enumerate([*slots, *[-1] * padded]) if slot < 0]
    assert_same_bits(y[base], before[base])


def test_follows_rows_and_slots() -> None:
    """Rows in any order and number, rows past the plan, adapters that come and go: with the tensors of the first call."""
    stacked, rows = Stacked(), DeviceRows(SLOTS, 64, "cpu")
    check(stacked, [0, 1, -1], rows)
    stacked.load(0, 5, [0, 1, 2, 3])
    stacked.load(2, 32, [1, 3])
    check(stacked, [2, 0, -1, 0, 2, -1, 0], rows, padded=3)
    check(stacked, [-1] * 4, rows)
    check(stacked, [0] * 20 + [2] * 30, rows)
    stacked.load(0, 17, [2])
    check(stacked, [0, 2] * 5, rows)
    check(stacked, [], rows, padded=2)


def test_tables_live_as_long_as_their_module() -> None:
    before, rows, stacked = len(device._layers), DeviceRows(SLOTS, 64, "cpu"), Stacked()
    check(stacked, [0, -1], rows)
    stacked.load(0, 8, [0, 1])
    stacked.load(1, 8, [0, 1])
    check(stacked, [0, -1], rows)
    assert len(device._layers) == before + 1
    del stacked
    gc.collect()
    assert len(device._layers) == before


def test_outputs_of_another_dtype_are_not_rounded() -> None:
    stacked, rows = Stacked(), DeviceRows(SLOTS, 8, "cpu")
    stacked.load(1, 8, [0, 1])
    a, b = ([each.half() for each in tensors] for tensors in (stacked.a, stacked.b))
    rows.set(torch.tensor([1, -1]))
    y = random(2, sum(COLUMNS)) + 1000.0
    before = y.clone()
    add_shares(y, random(2, FEATURES).half(), a, b, COLUMNS, rows.order, rows.seg_offset, rows.seg_slot)
    assert_same_bits(y[1], before[1])
    assert_same_bits(y[0, 56:], before[0, 56:])
    added = y[0, :56] - before[0, :56]
    assert (added % 0.5 != 0).any()  # float16 has steps of 0.5 there


def test_opcheck() -> None:
    stacked, rows = Stacked(), DeviceRows(SLOTS, 8, "cpu")
    stacked.load(1, 8, [0, 1])
    rows.set(torch.tensor([1, -1, 1]))
    arguments = (random(3, sum(COLUMNS)), random(3, FEATURES), stacked.a, stacked.b, COLUMNS)
    torch.library.opcheck(add_shares, (*arguments, rows.order, rows.seg_offset, rows.seg_slot))


def test_refuses() -> None:
    stacked, rows = Stacked(), DeviceRows(SLOTS, 8, "cpu")
    tables = (COLUMNS, rows.order, rows.seg_offset, rows.seg_slot)
    with pytest.raises(ShapeError, match=r"x must have shape \[any, 48\]; got \[2, 47\]"):
        add_shares(torch.zeros(2, sum(COLUMNS)), torch.zeros(2, 47), stacked.a, stacked.b, *tables)
    with pytest.raises(ShapeError, match=r"lora_a_stacked must be torch\.float16"):
        y, x = torch.zeros(2, sum(COLUMNS)).half(), torch.zeros(2, FEATURES).half()
        add_shares(y, x, stacked.a, stacked.b, *tables)
    with pytest.raises(ShapeError, match="x has 9 rows, more than the 8 of DeviceRows"):
        add_shares(torch.zeros(9, sum(COLUMNS)), torch.zeros(9, FEATURES), stacked.a, stacked.b, *tables)
    odd = [torch.zeros(SLOTS, 1, 1, 47)], [torch.zeros(SLOTS, 1, 40, 1)]
    with pytest.raises(ShapeError, match="rank times its features"):
        add_shares(torch.zeros(2, 40), torch.zeros(2, 47), *odd, [40], *tables[1:])
