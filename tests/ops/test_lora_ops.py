"""lora_shrink, lora_expand and lora_linear: every instruction set against the float64 reference on the hard cases."""

from __future__ import annotations

import pytest
import torch

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
    poisoned_tail,
    random,
    strided,
)
from lorid_engine.errors import BackendUnavailableError, ShapeError
from lorid_engine.ops import (
    AdapterBank,
    PackedLinear,
    SegmentPlan,
    cpu,
    lora_expand,
    lora_linear,
    lora_shrink,
    pack_linear,
    use_backend,
)


def check_linear(
    x: torch.Tensor, weight: torch.Tensor, bank: AdapterBank, plan: SegmentPlan, bias: torch.Tensor | None = None
) -> None:
    with use_backend("reference"):
        expected = lora_linear(x.double(), pack_linear(weight.double(), bias), double(bank), plan)
    with use_backend("cpu"):
        actual = lora_linear(x, pack_linear(weight, bias), bank, plan)
    assert_close(actual, expected)


def defined(shrunk: torch.Tensor, bank: AdapterBank, plan: SegmentPlan) -> torch.Tensor:
    """The defined part of a shrink, zeros elsewhere."""
    out = torch.zeros_like(shrunk)
    for s, slot in enumerate(plan.seg_slot.tolist()):
        if slot >= 0:
            rows = slice(int(plan.seg_offset[s]), int(plan.seg_offset[s + 1]))
            rank = int(bank.rank_offset[slot + 1] - bank.rank_offset[slot])
            out[rows, :rank] = shrunk[rows, :rank]
    return out


def test_reference_by_hand() -> None:
    bank = AdapterBank.from_tensors([(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]]), 0.5)])
    weight = PackedLinear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2, 2)
    plan = SegmentPlan.from_slots([0, -1])
    x = torch.tensor([[10.0, 1.0], [7.0, 8.0]])
    with use_backend("reference"):
        assert lora_shrink(x, bank, plan)[0].tolist() == [12.0]
        assert lora_linear(x, weight, bank, plan).tolist() == [[28.0, 31.0], [7.0, 8.0]]
        y = x.clone()
        lora_expand(y, torch.tensor([[12.0], [99.0]]), bank, plan)
        assert y.tolist() == [[28.0, 31.0], [7.0, 8.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", SEGMENTS)
@pytest.mark.parametrize(("in_features", "out_features"), [(1, 1), (15, 33), (64, 32), (131, 75)])
def test_linear_on_every_pattern(
    isa: str, pattern: str, in_features: int, out_features: int, dtype: torch.dtype
) -> None:
    plan, rows = plan_of(pattern)
    bank = make_bank([3, 17, 8], in_features, out_features, dtype)
    x = strided(random(rows, in_features, dtype=dtype))
    check_linear(x, random(out_features, in_features, dtype=dtype, seed=2), bank, plan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", RANKS)
def test_linear_at_every_rank(isa: str, rank: int, dtype: torch.dtype) -> None:
    plan = SegmentPlan.from_slots([0] * 5 + [-1] * 2 + [1] * 13)
    bank = make_bank([rank, 2], 96, 64, dtype)
    x = random(20, 96, dtype=dtype)
    check_linear(x, random(64, 96, dtype=dtype, seed=2) / 10, bank, plan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_linear_at_every_row_count(isa: str, rows: int, dtype: torch.dtype) -> None:
    slots = [(-1, 0, 1)[(t // 7) % 3] for t in range(rows)]
    bank = make_bank([16, 5], 64, 48, dtype)
    check_linear(
        random(rows, 64, dtype=dtype), random(48, 64, dtype=dtype, seed=2), bank, SegmentPlan.from_slots(slots)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", SEGMENTS)
def test_shrink_and_expand_alone(isa: str, pattern: str, dtype: torch.dtype) -> None:
    plan, rows = plan_of(pattern)
    bank = make_bank([3, 17, 96], 131, 75, dtype)
    x = strided(random(rows, 131, dtype=dtype))
    with use_backend("reference"):
        expected = lora_shrink(x.double(), double(bank), plan)
    shrunk = lora_shrink(x, bank, plan)
    assert shrunk.dtype == torch.float32
    assert_close(defined(shrunk, bank, plan), defined(expected, bank, plan), 2e-6)
    y = strided(random(rows, 75, dtype=dtype, seed=3))
    wide = y.double()
    lora_expand(y, shrunk, bank, plan)
    with use_backend("reference"):
        lora_expand(wide, shrunk.double(), double(bank), plan)
    assert_close(y, wide)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_features", [1, 31, 32, 33, 75])
def test_bias(isa: str, out_features: int, dtype: torch.dtype) -> None:
    """Added once to every row, base rows too; nothing past the last column is read."""
    bank = make_bank([3, 17, 96], 131, out_features, dtype)
    plan, rows = plan_of("many")
    x, weight = strided(random(rows, 131, dtype=dtype)), random(out_features, 131, dtype=dtype, seed=2) / 12
    bias = poisoned_tail(random(out_features, dtype=torch.float32, seed=5))
    check_linear(x, weight, bank, plan, bias)
    with pytest.raises(ShapeError, match=rf"bias must have shape \[{out_features}\]; got \[{out_features + 1}\]"):
        pack_linear(weight, torch.ones(out_features + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rank", RANKS)
def test_every_rank_meets_every_number_of_rows(isa: str, rank: int, rows: int, dtype: torch.dtype) -> None:
    """Strided rows over poisoned padding, a base row, an empty slot, an empty segment, and NaN in other rows."""
    bank = make_bank([rank, 5, 0], 33, 37, dtype)
    offset, slots = [0, rows // 8, rows // 8, rows // 4, rows - rows // 8, rows], [-1, 1, 2, 0, 3]
    plan = SegmentPlan(torch.tensor(offset, dtype=torch.int32), torch.tensor(slots, dtype=torch.int32))
    x, weight = strided(random(rows, 33, dtype=dtype)), random(37, 33, dtype=dtype, seed=2) / 6
    check_linear(x, weight, bank, plan)
    packed = pack_linear(weight)
    clean = lora_linear(x, packed, bank, plan)
    x[::7] = float("nan")
    poisoned = lora_linear(x, packed, bank, plan)
    others = torch.arange(rows) % 7 != 0
    assert_same_bits(poisoned[others], clean[others])
    assert poisoned[~others].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_the_batch(isa: str, dtype: torch.dtype) -> None:
    """Invariant 1: alone, in any company, among NaNs, on any number of threads, a row has the same bits."""
    bank = make_bank([3, 64, 17], 131, 200, dtype)
    weight = pack_linear(random(200, 131, dtype=dtype, seed=2))
    x = random(70, 131, dtype=dtype)
    slots = [(-1, 0, 1, 2)[(t * t) % 4] for t in range(70)]
    together = lora_linear(x, weight, bank, SegmentPlan.from_slots(slots))
    for t in (0, 1, 2, 13, 69):
        alone = lora_linear(x[t : t + 1], weight, bank, SegmentPlan.from_slots([slots[t]]))
        assert_same_bits(alone, together[t : t + 1])
    order = torch.randperm(70, generator=torch.Generator().manual_seed(5))
    shuffled = lora_linear(x[order], weight, bank, SegmentPlan.from_slots([slots[t] for t in order]))
    assert_same_bits(shuffled, together[order])
    poisoned = x.clone()
    poisoned[1::2] = float("nan")
    among_nans = lora_linear(poisoned, weight, bank, SegmentPlan.from_slots(slots))
    assert_same_bits(among_nans[::2], together[::2])


def test_threads_do_not_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = make_bank([64, 17], 576, 960, torch.bfloat16)
    weight = pack_linear(random(960, 576, dtype=torch.bfloat16, seed=2))
    x, plan = random(40, 576, dtype=torch.bfloat16), SegmentPlan.from_slots([0] * 20 + [1] * 20)
    results = []
    for threads in ("1", "2", "3", "7"):
        monkeypatch.setenv("LORID_THREADS", threads)
        results.append(lora_linear(x, weight, bank, plan))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_base_rows_have_the_base_bits(isa: str, dtype: torch.dtype) -> None:
    """Invariant 2: a row of slot -1 is the base product alone, whatever the bank holds."""
    weight = pack_linear(random(75, 64, dtype=dtype, seed=2))
    x = random(9, 64, dtype=dtype)
    bank = make_bank([4], 64, 75, dtype)
    bank.a.fill_(float("nan"))
    bank.b_t.fill_(float("inf"))
    mixed = lora_linear(x, weight, bank, SegmentPlan.from_slots([0, -1, -1, 0, 1, -1, -1, -1, 0]))
    base = lora_linear(x, weight, make_bank([1], 64, 75, dtype), SegmentPlan.from_slots([-1] * 9))
    rows = [1, 2, 4, 5, 6, 7]  # slot 1 is empty: base as well
    assert_same_bits(mixed[rows], base[rows])
    assert mixed[[0, 3, 8]].isnan().all()


def test_output_padding_stays(isa: str) -> None:
    """expand writes its columns only: what lies between the rows of y keeps its poison."""
    bank, plan = make_bank([3], 8, 21, torch.float32), SegmentPlan.from_slots([0, 0])
    y = strided(torch.zeros(2, 21), poison=7.0)
    lora_expand(y, torch.ones(2, 3), bank, plan)
    assert (y.as_strided((2, 5), (26, 1), 21) == 7.0).all()


def test_expand_leaves_base_rows_alone(isa: str) -> None:
    """Invariant 2 to the bit: a negative zero stays one, a NaN keeps its payload."""
    bank, plan = make_bank([3], 8, 40, torch.bfloat16), SegmentPlan.from_slots([-1, 0, 1, -1])
    bits = torch.tensor([-(2**15), 0x7F81, 0x7FC1, 0], dtype=torch.int16).repeat(4, 10)
    y = bits.clone().view(torch.bfloat16)
    lora_expand(y, torch.ones(4, 3), bank, plan)
    assert torch.equal(y.view(torch.int16)[[0, 2, 3]], bits[[0, 2, 3]])
    assert not torch.equal(y.view(torch.int16)[1], bits[1])
    with pytest.raises(ShapeError, match="rows of y must not overlap; they are 0 elements apart"):
        lora_expand(torch.zeros(1, 40).bfloat16().expand(4, 40), torch.ones(4, 3), bank, plan)


def test_packing(isa: str) -> None:
    for dtype in DTYPES:
        weight = strided(random(37, 11, dtype=dtype))
        with use_backend("reference"):
            expected = pack_linear(weight)
        assert_same_bits(pack_linear(weight).data, expected.data)


def test_poisoned_tail_of_weight(isa: str) -> None:
    weight = pack_linear(random(33, 7, dtype=torch.bfloat16))
    guarded = PackedLinear(poisoned_tail(weight.data), 33, 7)
    bank, plan = make_bank([1], 7, 33, torch.bfloat16), SegmentPlan.from_slots([0, -1])
    x = random(2, 7, dtype=torch.bfloat16)
    assert_same_bits(lora_linear(x, guarded, bank, plan), lora_linear(x, weight, bank, plan))


class TestRefusals:
    """Bad input is named before any memory is touched."""

    bank = make_bank([4], 8, 6, torch.float32)
    weight = pack_linear(torch.zeros(6, 8))
    plan = SegmentPlan.from_slots([0, -1, 0])
    x = torch.zeros(3, 8)

    def refuse(self, match: str, **changes: object) -> None:
        arguments = {"x": self.x, "weight": self.weight, "bank": self.bank, "plan": self.plan, **changes}
        with pytest.raises(ShapeError, match=match):
            lora_linear(*arguments.values())

    def test_shapes(self) -> None:
        self.refuse(r"x must have shape \[T, 8\]; got \[3, 7\]", x=torch.zeros(3, 7))
        self.refuse(r"seg_offset must rise from 0 to T = 2", x=torch.zeros(2, 8))
        self.refuse("stride there is 3", x=torch.zeros(8, 3).t())
        self.refuse("must be torch.bfloat16", x=torch.zeros(3, 8, dtype=torch.bfloat16))
        self.refuse(r"a must have shape \[any, 8\]", bank=make_bank([4], 9, 6, torch.float32))
        self.refuse(r"b_t must have shape \[4, 6\]", bank=make_bank([4], 8, 7, torch.float32))

    def test_slots(self) -> None:
        self.refuse(r"seg_slot must be -1 or a slot from 0 to 1; got \[0, 5\]", plan=SegmentPlan.from_slots([0, 5, 5]))
        with pytest.raises(ShapeError, match="seg_slot must be -1 or"):
            SegmentPlan.from_slots([-2])
        with pytest.raises(ShapeError, match="must rise"):  # a difference of these wraps around in 32 bits
            SegmentPlan(
                torch.tensor([0, 10**7, -(2**31) + 10**7 - 1, 3], dtype=torch.int32),
                torch.tensor([0, -1, -1], dtype=torch.int32),
            )
        with pytest.raises(ShapeError, match="must rise"):
            SegmentPlan(torch.tensor([0, 3, 2], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32))

    def test_bank(self) -> None:
        with pytest.raises(ShapeError, match="at least one adapter"):
            AdapterBank.from_tensors([None])
        with pytest.raises(ShapeError, match=r"B must have shape \[6, 4\]; got \[6, 5\]"):
            AdapterBank.from_tensors([(torch.zeros(4, 8), torch.zeros(6, 5), 1.0)])
        a, b = torch.zeros(4, 8), torch.zeros(6, 4)
        for other in ((a.bfloat16(), b, 1.0), (a, b.bfloat16(), 1.0)):
            with pytest.raises(ShapeError, match=r"must be torch\.float32 like the first A; got torch\.bfloat16"):
                AdapterBank.from_tensors([(a, b, 1.0), other])
            assert AdapterBank.from_tensors([(a, b, 1.0), other], dtype=torch.bfloat16).a.dtype == torch.bfloat16
        with pytest.raises(ShapeError, match="B must be on cpu like the first A; got meta"):
            AdapterBank.from_tensors([(a, b.to("meta"), 1.0)])
        with pytest.raises(ShapeError, match="rank_offset must go from 0 to 4"):
            AdapterBank(self.bank.a, self.bank.b_t, torch.tensor([0, 3], dtype=torch.int32), torch.ones(1), 4)

    def test_backend_asked_for(self) -> None:
        plain = PackedLinear(torch.zeros(6, 8), 6, 8)
        with use_backend("cpu"), pytest.raises(BackendUnavailableError, match="pack_linear"):
            lora_linear(self.x, plain, self.bank, self.plan)
        with use_backend("cpu"), pytest.raises(BackendUnavailableError, match=r"float64"):
            lora_shrink(self.x.double(), double(self.bank), self.plan)


def test_unknown_isa() -> None:
    with pytest.raises(ValueError, match=r"one of .*scalar; got sse9"):
        cpu.extension().set_isa("sse9")
