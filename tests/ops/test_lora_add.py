"""lora_add, and the prepared LoraAdd and LoraLinear: against the reference, and against the ops that they prepare."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from helpers import (
    DTYPES,
    RANKS,
    ROWS,
    SEGMENTS,
    assert_close,
    assert_same_bits,
    double,
    make_bank,
    plan_of,
    random,
    strided,
)
from lorid_engine.errors import ShapeError
from lorid_engine.ops import (
    AdapterBank,
    LoraAdd,
    LoraLinear,
    SegmentPlan,
    lora_add,
    lora_linear,
    pack_linear,
    use_backend,
)


def fused_banks(dtype: torch.dtype, ranks: list[list[int]], in_features: int, columns: list[int]) -> list[tuple]:
    """Modules side by side, with a gap of three columns before each."""
    banks, begin = [], 0
    for width, of_module in zip(columns, ranks, strict=True):
        banks.append((begin + 3, make_bank(of_module, in_features, width, dtype)))
        begin += 3 + width
    return banks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", SEGMENTS)
@pytest.mark.parametrize("in_features", [1, 131])
def test_add(isa: str, pattern: str, in_features: int, dtype: torch.dtype) -> None:
    """Modules that share x, with odd columns and gaps between; rows that are strided and poisoned between."""
    plan, rows = plan_of(pattern)
    banks = fused_banks(dtype, [[3, 17, 96], [0, 1, 8], [320, 0, 5]], in_features, [75, 32, 33])
    x, y = strided(random(rows, in_features, dtype=dtype)), strided(random(rows, 149, dtype=dtype, seed=3))
    before, expected = y.clone(), y.double()
    with use_backend("reference"):
        lora_add(expected, x.double(), [(begin, double(bank)) for begin, bank in banks], plan)
    with use_backend("cpu"):
        lora_add(y, x, banks, plan)
    assert_close(y, expected)
    gaps = [column for begin, bank in banks for column in range(begin - 3, begin)]
    assert_same_bits(y[:, gaps], before[:, gaps])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rank", RANKS)
def test_add_at_every_rank_and_number_of_rows(isa: str, rank: int, rows: int, dtype: torch.dtype) -> None:
    plan = SegmentPlan.from_slots([(-1, 0, 1)[(t // 7) % 3] for t in range(rows)])
    banks = [(0, make_bank([rank, 2], 33, 37, dtype))]
    x, y = random(rows, 33, dtype=dtype), random(rows, 37, dtype=dtype, seed=3)
    expected = y.double()
    with use_backend("reference"):
        lora_add(expected, x.double(), [(0, double(banks[0][1]))], plan)
    lora_add(y, x, banks, plan)
    assert_close(y, expected)


def test_add_leaves_what_has_no_adapter_alone(isa: str) -> None:
    """Invariant 2 to the bit, rows of the base and columns of modules that the row's slot lacks: a negative zero stays one."""
    banks = [(0, make_bank([3, 0], 8, 40, torch.bfloat16)), (40, make_bank([0, 5], 8, 40, torch.bfloat16))]
    bits = torch.tensor([-(2**15), 0x7F81, 0x7FC1, 0], dtype=torch.int16).repeat(4, 20)
    y = bits.clone().view(torch.bfloat16)
    lora_add(y, random(4, 8, dtype=torch.bfloat16), banks, SegmentPlan.from_slots([-1, 0, 1, -1]))
    after = y.view(torch.int16)
    assert torch.equal(after[[0, 3]], bits[[0, 3]])
    assert torch.equal(after[1, 40:], bits[1, 40:]) and torch.equal(after[2, :40], bits[2, :40])
    assert not torch.equal(after[1, :40], bits[1, :40]) and not torch.equal(after[2, 40:], bits[2, 40:])


def test_add_does_not_depend_on_the_batch_or_threads(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 1, over so many rows that threads share them, and one that has the caller's alone."""
    banks = fused_banks(torch.bfloat16, [[64, 17], [512, 3]], 131, [75, 200])
    x, y = random(300, 131, dtype=torch.bfloat16), random(300, 281, dtype=torch.bfloat16, seed=3)
    slots = [(-1, 0, 1)[(t * t) % 3] for t in range(300)]
    together = y.clone()
    lora_add(together, x, banks, SegmentPlan.from_slots(slots))
    monkeypatch.setenv("LORID_THREADS", "3")
    for t in (0, 1, 2, 299):
        alone = y[t : t + 1].clone()
        lora_add(alone, x[t : t + 1], banks, SegmentPlan.from_slots([slots[t]]))
        assert_same_bits(alone, together[t : t + 1])
    again = y.clone()
    lora_add(again, x, banks, SegmentPlan.from_slots(slots))
    assert_same_bits(again, together)


def test_add_refuses() -> None:
    bank, plan = make_bank([4], 8, 6, torch.float32), SegmentPlan.from_slots([0, -1, 0])
    x, y = torch.zeros(3, 8), torch.zeros(3, 9)

    def refuse(match: str, y: torch.Tensor = y, x: torch.Tensor = x, banks: object = ((3, bank),)) -> None:
        with pytest.raises(ShapeError, match=match):
            lora_add(y, x, banks, plan)

    refuse(r"among the 9; got 6 from column 4 on", banks=[(4, bank)])
    refuse("needs a bank of adapters; got none", banks=[])
    refuse(r"y must have shape \[3, any\]; got \[2, 9\]", y=torch.zeros(2, 9))
    refuse("y must be torch.float32; got torch.bfloat16", y=y.bfloat16())
    refuse("y must be contiguous along its last dimension", y=torch.zeros(9, 3).t())
    refuse("rows of y must not overlap", y=torch.zeros(9).expand(3, 9))
    refuse("x must be contiguous along its last dimension", x=torch.zeros(8, 3).t())
    refuse("must be torch.bfloat16", y=y.bfloat16(), x=x.bfloat16())
    refuse("y must be on cpu like the activations; got meta", y=y.to("meta"))
    assert not y.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_prepared_has_the_bits_of_add(isa: str, dtype: torch.dtype) -> None:
    """Where its short way can be taken, and where it cannot: with gradients on, and strided rows."""
    banks = fused_banks(dtype, [[3, 17], [64, 0]], 131, [75, 33])
    x, y = random(9, 131, dtype=dtype), random(9, 114, dtype=dtype, seed=3)
    plan = SegmentPlan.from_slots([0, 0, -1, 1, 1, 1, 0, -1, 1])
    expected, add = y.clone(), LoraAdd(banks)
    lora_add(expected, x, banks, plan)
    with torch.no_grad():
        short, strided_y = y.clone(), strided(y)
        add(short, x, plan)
        add(strided_y, strided(x), plan)
    long = y.clone()
    add(long, x, plan)
    for each in (short, strided_y, long):
        assert_same_bits(each, expected)


def test_add_prepared_refuses_what_add_does() -> None:
    bank = make_bank([4, 2], 8, 6, torch.float32)
    add, y, x = LoraAdd([(3, bank)]), torch.zeros(3, 9), torch.zeros(3, 8)
    plan = SegmentPlan.from_slots([0, -1, 1])
    with torch.no_grad():
        for match, changes in {
            r"seg_offset must rise from 0 to T = 3": {"plan": SegmentPlan.from_slots([0, 1])},
            r"seg_slot must be -1 or a slot from 0 to 2; got \[0, 5\]": {"plan": SegmentPlan.from_slots([0, 5, 5])},
            r"a must have shape \[any, 7\]": {"x": torch.zeros(3, 7)},
            r"y must have shape \[3, any\]; got \[2, 9\]": {"y": torch.zeros(2, 9)},
            r"among the 8; got 6 from column 3 on": {"y": torch.zeros(3, 8)},
            r"y must be torch\.float32": {"y": y.bfloat16()},
        }.items():
            with pytest.raises(ShapeError, match=match):
                add(**{"y": y, "x": x, "plan": plan, **changes})
        assert not y.any()
    with pytest.raises(ShapeError, match="needs a bank"):
        LoraAdd([])
    with pytest.raises(ShapeError, match=r"a must have shape \[any, 8\]; got \[2, 5\]"):
        LoraAdd([(0, bank), (6, make_bank([2], 5, 3, torch.float32))])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("ranks", [[3, 17], [512, 0], [0, 0]])
def test_linear_prepared_has_the_bits_of_linear(isa: str, dtype: torch.dtype, has_bias: bool, ranks: list[int]) -> None:
    """Where its short way can be taken, and where it cannot; also after values have changed in place."""
    bank = make_bank(ranks, 131, 75, dtype)
    bias = random(75, dtype=torch.float32, seed=4) if has_bias else None
    weight = pack_linear(random(75, 131, dtype=dtype, seed=2), bias)
    linear = LoraLinear(weight, bank)
    for slots in ([0, 0, -1, 1, 1, 1, 0, -1, 1], [1], [-1, -1], [], [0] * 70 + [1] * 30):
        x, plan = random(len(slots), 131, dtype=dtype), SegmentPlan.from_slots(slots)
        expected = lora_linear(x, weight, bank, plan)
        with torch.no_grad():
            short, of_strided = linear(x, plan), linear(strided(x), plan)
        for each in (short, of_strided, linear(x, plan)):
            assert_same_bits(each, expected)
        bank.scale.mul_(1.5)


@torch.no_grad()
def test_prepared_ops_are_seen_by_tracers_and_can_be_copied() -> None:
    bank, weight = make_bank([4, 2], 8, 6, torch.float32), pack_linear(random(6, 8, dtype=torch.float32, seed=2))
    linear, add, plan = LoraLinear(weight, bank), LoraAdd([(0, bank)]), SegmentPlan.from_slots([0, -1, 1])
    x = random(3, 8, dtype=torch.float32)

    def both(x: torch.Tensor) -> torch.Tensor:
        y = linear(x, plan)
        add(y, x, plan)
        return y

    expected = both(x)
    assert_same_bits(make_fx(both)(torch.zeros(3, 8))(x), expected)
    linear, add = copy.deepcopy((linear, add))
    assert_same_bits(both(x), expected)


def test_linear_prepared_refuses_what_linear_does() -> None:
    bank, weight = make_bank([4, 2], 8, 6, torch.float32), pack_linear(torch.zeros(6, 8))
    linear, x, plan = LoraLinear(weight, bank), torch.zeros(3, 8), SegmentPlan.from_slots([0, -1, 1])
    with torch.no_grad():
        for match, changes in {
            r"seg_offset must rise from 0 to T = 3": {"plan": SegmentPlan.from_slots([0, 1])},
            r"seg_slot must be -1 or a slot from 0 to 2; got \[0, 5\]": {"plan": SegmentPlan.from_slots([0, 5, 5])},
            r"x must have shape \[T, 8\]; got \[3, 7\]": {"x": torch.zeros(3, 7)},
            r"weight must be torch\.bfloat16": {"x": x.bfloat16()},
            "x must be contiguous along its last dimension": {"x": torch.zeros(8, 3).t()},
        }.items():
            with pytest.raises(ShapeError, match=match):
                linear(**{"x": x, "plan": plan, **changes})
    with pytest.raises(ShapeError, match=r"b_t must have shape \[6, 5\]; got \[6, 6\]"):
        LoraLinear(pack_linear(torch.zeros(5, 8)), bank)
    with pytest.raises(ShapeError, match=r"weight must be torch\.float32; got torch\.bfloat16"):
        LoraLinear(pack_linear(torch.zeros(6, 8).bfloat16()), bank)


def test_linear_without_inputs() -> None:
    """Its outputs are the bias."""
    bank, bias = (
        AdapterBank(torch.zeros(2, 0), torch.zeros(2, 3), torch.tensor([0, 2], dtype=torch.int32), torch.ones(1), 2),
        torch.ones(3),
    )
    weight, plan = pack_linear(torch.zeros(3, 0), bias), SegmentPlan.from_slots([0, -1])
    with torch.no_grad():
        for y in (
            lora_linear(torch.zeros(2, 0), weight, bank, plan),
            LoraLinear(weight, bank)(torch.zeros(2, 0), plan),
        ):
            assert y.tolist() == [[1.0] * 3] * 2
