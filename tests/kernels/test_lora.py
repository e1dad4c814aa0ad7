"""lora_shrink, lora_expand and lora_linear of the Triton backend: against the reference and the C++ backend, and their bits."""

from __future__ import annotations

import pytest
import torch

from helpers import (
    SEGMENTS,
    assert_close,
    assert_same_bits,
    double,
    lazy_zeros,
    make_bank,
    plan_of,
    poisoned_tail,
    strided,
)
from lorid_engine.ops import (
    AdapterBank,
    SegmentPlan,
    gpu,
    lora_add,
    lora_expand,
    lora_linear,
    lora_shrink,
    pack_linear,
    use_backend,
)
from lorid_kernels import lora_linear as linear
from lorid_kernels import lora_shrink as shrink
from lorid_kernels.segments import Adapters, Segments
from lorid_kernels.tuning import CANDIDATES, DEFAULTS, MANY, MANY_OF_PARTS, MOST_ROWS, Tile

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3}
RANKS = [1, 3, 8, 16, 64, 96, 320, 512]
ROWS = [0, 1, 2, 15, 16, 17, 63, 64, 65, 255]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(backend: str, x: torch.Tensor, weight: torch.Tensor, bank: AdapterBank, plan: SegmentPlan, bias=None):
    with use_backend(backend):
        return lora_linear(x, pack_linear(weight, bias), bank, plan)


def check_linear(x: torch.Tensor, weight: torch.Tensor, bank: AdapterBank, plan: SegmentPlan, bias=None) -> None:
    expected = run("reference", x.double(), weight.double(), double(bank), plan, bias)
    assert_close(run("triton", x, weight, bank, plan, bias), expected, TOLERANCE[x.dtype])


def mixed_plan(rows: int) -> SegmentPlan:
    """Rows of two adapters and of none."""
    return SegmentPlan.from_slots([0] * (rows // 2) + [-1] * (rows // 5) + [1] * (rows - rows // 2 - rows // 5))


@pytest.mark.parametrize(("index", "rank"), list(enumerate(RANKS)))
@pytest.mark.parametrize("rows", ROWS)
def test_every_rank_with_every_number_of_rows(rows: int, index: int, rank: int) -> None:
    in_features, out_features = (33, 41) if index % 2 else (16, 70)
    bank = make_bank([rank, 5], in_features, out_features, torch.float32)
    x, weight = random(rows, in_features), random(out_features, in_features, seed=2)
    check_linear(x, weight, bank, mixed_plan(rows))


def test_thousands_of_rows() -> None:
    bank = make_bank([96, 5], 16, 40, torch.float32)
    check_linear(random(4097, 16), random(40, 16, seed=2), bank, mixed_plan(4097), random(40, seed=3))


@pytest.mark.parametrize("pattern", SEGMENTS)
def test_every_pattern_in_half_precision(pattern: str) -> None:
    plan, rows = plan_of(pattern)
    bank = make_bank([3, 17, 70], 48, 75, torch.float16)
    x = strided(random(rows, 48, dtype=torch.float16))
    check_linear(x, poisoned_tail(random(75, 48, dtype=torch.float16, seed=2)), bank, plan, random(75, seed=3))


@pytest.mark.parametrize("pattern", ["one_row_each", "many"])
def test_features_in_whole_blocks(pattern: str) -> None:
    """No mask along the features; what lies past a rank is poisoned, or another slot's."""
    _, rows = plan_of(pattern)
    bank = make_bank([3, 17, 70], 256, 128, torch.float32)
    bank.a[3:20], bank.b_t[3:20] = float("nan"), float("nan")
    for slots in ([0, 2], [2, -1]):
        used = SegmentPlan.from_slots(sorted(slots * ((rows + 1) // 2)))
        check_linear(strided(random(2 * ((rows + 1) // 2), 256)), random(128, 256, seed=2), bank, used)


@pytest.mark.parametrize("in_features", [1, 15, 300, 1100])
def test_shrink_and_expand(in_features: int) -> None:
    """Features in one to four parts, whole and not."""
    plan, rows = plan_of("mixed")
    bank = make_bank([3, 17, 70], in_features, 33, torch.float32)
    x, y = strided(random(rows, in_features)), random(rows, 33, seed=2)
    with use_backend("reference"):
        wide = lora_shrink(x.double(), double(bank), plan)
        expected = y.double()
        lora_expand(expected, wide, double(bank), plan)
    with use_backend("triton"):
        shrunk = lora_shrink(x, bank, plan)
        lora_expand(y, shrunk, bank, plan)
    for row, slot in enumerate(SEGMENTS["mixed"]):
        rank = 0 if slot < 0 else (3, 17, 70)[slot]
        assert_close(shrunk[row, :rank], wide[row, :rank], 4e-6)
    assert_close(y, expected, 4e-6)


@pytest.mark.parametrize("pattern", ["one_row_each", "many"])
def test_equals_the_cpp_backend(pattern: str) -> None:
    plan, rows = plan_of(pattern)
    bank = make_bank([3, 17, 70], 131, 75, torch.float32)
    x, weight, bias = random(rows, 131), random(75, 131, seed=2), random(75, seed=3)
    assert_close(run("triton", x, weight, bank, plan, bias), run("cpu", x, weight, bank, plan, bias), 2e-6)


@pytest.mark.usefixtures("ordered_dot")
@pytest.mark.parametrize("ranks", [[3, 17, 60], [3, 17, 70]])
def test_a_row_depends_on_itself_alone(ranks: list[int]) -> None:
    """Alone, with others, with others' NaNs in activations and adapters; in tiles of one segment and of several."""
    bank = make_bank(ranks, 48, 40, torch.float32)
    x, weight = random(140, 48), random(40, 48, seed=2)
    slots = [0] * 20 + [1] * 30 + [2] * 60 + [-1] * 30
    together = run("triton", x, weight, bank, SegmentPlan.from_slots(slots))
    for row in (0, 19, 20, 49, 50, 109, 110, 139):
        alone = run("triton", x[row : row + 1], weight, bank, SegmentPlan.from_slots(slots[row : row + 1]))
        assert_same_bits(alone, together[row : row + 1])
    few = [0, 1, 25, 26, 60, 120]
    poisoned = x[few].clone()
    poisoned[2] = float("nan")
    slots = [slots[row] for row in few]
    for slot in (1, 2):
        first, last = bank.rank_offset[slot], bank.rank_offset[slot + 1]
        bank.a[first:last] = bank.b_t[first:last] = float("nan")
    mixed = run("triton", poisoned, weight, bank, SegmentPlan.from_slots(slots))
    for place in (0, 1, 5):
        assert_same_bits(mixed[place], together[few[place]])


@pytest.mark.usefixtures("ordered_dot")
def test_rows_without_adapter_have_the_bits_of_the_base() -> None:
    bank = make_bank([3, 70], 48, 40, torch.float32)
    x, weight = random(9, 48), random(40, 48, seed=2)
    base = torch.empty(9, 40)
    linear.lora_linear(x, weight, None, base)
    mixed = run("triton", x, weight, bank, SegmentPlan.from_slots([0, 0, 0, -1, -1, 1, 1, -1, 2]))
    for row in (3, 4, 7, 8):  # the last slot is empty
        assert_same_bits(mixed[row], base[row])
    assert (mixed[0] != base[0]).any()


@pytest.mark.parametrize("pattern", ["mixed", "many"])
@pytest.mark.parametrize("rank", [60, 200])
def test_forms_of_other_devices(rank: int, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that do not go on from W x to B s, and twice as many ranks at a time: chosen by the device."""
    monkeypatch.setattr(linear, "chains", lambda: False)
    monkeypatch.setattr(linear, "multiplies_from_shared", lambda: True)
    plan, rows = plan_of(pattern)
    bank = make_bank([3, 17, rank], 48, 75, torch.float32)
    check_linear(random(rows, 48), random(75, 48, seed=2), bank, plan, random(75, seed=3))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pattern", SEGMENTS)
def test_add(pattern: str, dtype: torch.dtype) -> None:
    """Modules that share x, with a gap between; one that has no rank at all."""
    plan, rows = plan_of(pattern)
    banks = [(0, make_bank([3, 17, 70], 48, 33, dtype)), (40, make_bank([0, 5, 96], 48, 35, dtype))]
    banks.append((75, make_bank([0, 0, 0], 48, 5, dtype)))
    x, y = strided(random(rows, 48, dtype=dtype)), strided(random(rows, 80, dtype=dtype, seed=3))
    before, expected = y.clone(), y.double()
    with use_backend("reference"):
        lora_add(expected, x.double(), [(begin, double(bank)) for begin, bank in banks], plan)
    with use_backend("triton"):
        lora_add(y, x, banks, plan)
    assert_close(y, expected, TOLERANCE[dtype])
    assert_same_bits(y[:, [*range(33, 40), *range(75, 80)]], before[:, [*range(33, 40), *range(75, 80)]])


def every_tile() -> list[Tile]:
    return list(
        dict.fromkeys(
            [*DEFAULTS.values(), MANY, MANY_OF_PARTS, *(tile for each in CANDIDATES.values() for tile in each)]
        )
    )


@pytest.mark.usefixtures("ordered_dot")
def test_all_tiles_have_the_same_bits() -> None:
    x, weight, bank = random(40, 300), random(70, 300, seed=2), make_bank([70, 5], 300, 70, torch.float32)
    adapters = Adapters(bank.a, bank.b_t, bank.rank_offset, bank.scale, (70,), bank.max_rank)
    plan = mixed_plan(40)
    segments = Segments(plan.seg_offset, plan.seg_slot)
    shrunk = shrink.shrink_for_linear(x, adapters, segments)
    results = []
    for tile in every_tile():
        results.append(torch.empty(40, 70))
        linear.lora_linear(x, weight, None, results[-1], adapters, segments, shrunk, tile=tile)
    for result in results[1:]:
        assert_same_bits(result, results[0])
    assert len(results) > 15 and MOST_ROWS in CANDIDATES


@pytest.mark.usefixtures("ordered_dot")
@pytest.mark.parametrize("rows", [3, 129])
@pytest.mark.parametrize("rank", [5, 70])
def test_parts_of_a_weight_add_up_to_the_same_bits(rank: int, rows: int) -> None:
    """A weight of few columns is cut along its features: in planes, or added where it is computed."""
    features = 2100
    assert linear.num_splits(40, features) == 2
    x, weight, bias = random(rows, features), random(40, features, seed=2), random(40, seed=3)
    bank = make_bank([rank, 3], features, 40, torch.float32)
    adapters = Adapters(bank.a, bank.b_t, bank.rank_offset, bank.scale, (40,), bank.max_rank)
    plan = mixed_plan(rows)
    segments = Segments(plan.seg_offset, plan.seg_slot)
    shrunk = shrink.shrink_for_linear(x, adapters, segments)
    whole, planes = torch.empty(rows, 40), torch.full((2, rows, 40), float("nan"))
    assert linear.lora_linear(x, weight, bias, whole, adapters, segments, shrunk) == 1
    count = linear.lora_linear(x, weight, bias, planes, adapters, segments, shrunk)
    assert count == (2 if rows <= 128 else 1)
    total = torch.zeros(rows, 40)
    for plane in planes[:count]:
        total += plane
    assert_same_bits(total, whole)
    assert_close(whole, run("reference", x.double(), weight.double(), double(bank), plan, bias), 2e-6)


@pytest.mark.usefixtures("ordered_dot")
def test_few_and_many_rows_shrink_alike() -> None:
    """Parts that the reader adds, and whole sums: the same bits."""
    bank = make_bank([3, 17, 60], 1100, 8, torch.float32)
    x, slots = random(130, 1100), [0] * 10 + [1] * 90 + [2] * 30
    adapters = Adapters(bank.a, bank.b_t, bank.rank_offset, bank.scale, (8,), bank.max_rank)

    def shrunk(rows: int) -> torch.Tensor:
        plan = SegmentPlan.from_slots(slots[:rows])
        return shrink.shrink_for_linear(x[:rows], adapters, Segments(plan.seg_offset, plan.seg_slot))

    parts, middle, many = shrunk(16), shrunk(100), shrunk(130)
    assert parts.dim() == 3 and middle.dim() == many.dim() == 2
    assert_same_bits(middle, many[:100])
    total = torch.zeros(16, parts.shape[2])
    for part in parts:
        total += part
    scale = torch.tensor([0.5, 1.5])[(torch.arange(16) >= 10).long()]
    assert_same_bits(total * scale.unsqueeze(1), many[:16])


def test_many_ranks_need_whole_sums() -> None:
    bank = make_bank([65], 16, 8, torch.float32)
    adapters = Adapters(bank.a, bank.b_t, bank.rank_offset, bank.scale, (8,), bank.max_rank)
    plan = SegmentPlan.from_slots([0])
    segments = Segments(plan.seg_offset, plan.seg_slot)
    with pytest.raises(ValueError, match="more than 64 ranks take A x that is summed"):
        linear.lora_linear(
            random(1, 16), random(8, 16), None, torch.empty(1, 8), adapters, segments, torch.empty(1, 1, 128)
        )


def test_offsets_past_two_billion() -> None:
    past = 2**31
    storage = lazy_zeros(2 * past + 64, torch.float16)
    x = storage.as_strided((3, 16), (past, 1))
    x.copy_(random(3, 16))
    bank = make_bank([2], 16, 16, torch.float16)
    plan, weight = SegmentPlan.from_slots([0, -1, 0]), random(16, 16, dtype=torch.float16)
    assert_same_bits(run("triton", x, weight, bank, plan), run("triton", x.contiguous(), weight, bank, plan))
    near = storage.as_strided((4, 16), (past // 2, 1))  # a stride of 32 bits whose third multiple has more
    near.copy_(random(4, 16, seed=3))
    plan = SegmentPlan.from_slots([0, -1, 0, 0])
    assert_same_bits(run("triton", near, weight, bank, plan), run("triton", near.contiguous(), weight, bank, plan))
    features, rank = 2**14, 4
    before = past // features  # slot 0 has so many ranks that slot 1 begins past 2^31
    a, b_t = (lazy_zeros((before + rank) * features, torch.float16).view(-1, features) for _ in range(2))
    a[before:], b_t[before:] = random(rank, features) / 128, random(rank, features, seed=2)
    offset = torch.tensor([0, before, before + rank], dtype=torch.int32)
    bank = AdapterBank(a, b_t, offset, torch.tensor([1.0, 0.5]), before)
    small = AdapterBank.from_tensors([None, (a[before:].clone(), b_t[before:].t().clone(), 0.5)])
    x, plan, results = random(1, features, dtype=torch.float16), SegmentPlan.from_slots([1]), []
    with use_backend("triton"):
        parts = [lora_shrink(x, small, plan)]
        y = torch.zeros(1, features, dtype=torch.float16)
        lora_expand(y, parts[0], small, plan)
        results.append(y[0])
    adapters = Adapters(bank.a, bank.b_t, bank.rank_offset, bank.scale, (features,), rank)
    segments = Segments(plan.seg_offset, plan.seg_slot)
    shrunk = torch.empty(1, 64, dtype=torch.float16)
    shrink.lora_shrink(x, adapters, segments, shrunk)
    from lorid_kernels.lora_expand import lora_expand as launch

    y = torch.zeros(1, features, dtype=torch.float16)
    launch(y, shrunk, adapters, segments)
    assert_close(y[0], results[0], 2e-3)
    assert float(y.abs().max()) > 0
