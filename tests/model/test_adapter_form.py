"""Which adapters are merged, and what they are then."""

from __future__ import annotations

import pytest
import torch

from lorid_engine.errors import BackendUnavailableError
from lorid_engine.model.adapter_form import can_merge, hold_low_rank, hold_merged, is_merged, least_merged_rank
from lorid_engine.model.large_pages import LargePages
from lorid_engine.ops import pack_linear
from lorid_engine.ops.pack_linear import unpack
from lorid_engine.ops.peft_adapter import LoraWeights


@pytest.mark.parametrize(
    ("out_features", "in_features", "rank", "active", "merged"),
    [
        (576, 576, 512, 100, True),  # A and B are larger than W
        (576, 576, 16, 2, False),
        (576, 576, 16, 1, True),  # nobody reads W itself
        (576, 576, 144, 2, False),  # 2 (1 - 1/2) = 1: no gain
        (576, 576, 145, 2, True),
        (4096, 4096, 512, 2, False),
        (192, 576, 72, 2, False),
        (192, 576, 73, 2, True),
        (576, 576, 0, 1, False),
    ],
)
def test_the_form_that_reads_fewer_bytes(out_features: int, in_features: int, rank: int, active: int, merged: bool):
    assert is_merged(out_features, in_features, rank, active) is merged
    low_rank_bytes = out_features * in_features + active * rank * (in_features + out_features)
    assert (active * out_features * in_features < low_rank_bytes) is merged or rank == 0


def test_the_least_rank_is_where_the_form_changes() -> None:
    for active in (1, 2, 3, 50):
        least = least_merged_rank(576, 192, active)
        assert is_merged(576, 192, least, active) and not is_merged(576, 192, least - 1, active)


def test_only_whole_blocks_of_a_fused_weight_are_copied() -> None:
    assert can_merge(slice(0, 64), 100) and can_merge(slice(64, 100), 100)
    assert not can_merge(slice(0, 50), 100) and not can_merge(slice(50, 64), 100)


def make_lora(rank: int, out_features: int, in_features: int) -> LoraWeights:
    return LoraWeights(torch.randn(rank, in_features), torch.randn(out_features, rank), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_merged_weight_is_rounded_once(dtype: torch.dtype, autocast: bool) -> None:
    torch.manual_seed(0)
    weight, lora = torch.randn(100, 70).to(dtype), make_lora(9, 36, 70)
    with torch.autocast("cpu", enabled=autocast):
        held = hold_merged(lora, pack_linear(weight), slice(64, 100), dtype, LargePages().take)
    expected = weight[64:].double() + 0.5 * lora.b.double() @ lora.a.double()
    actual = unpack(held.merged, 36, 70).double()
    assert held.a is None and held.b is None and held.rank == 0
    assert torch.equal(actual, expected.to(dtype).double())


def test_b_lies_in_blocks_of_32_outputs() -> None:
    lora = make_lora(5, 70, 8)
    held = hold_low_rank(lora, torch.float32, LargePages().take)
    assert held.b.shape == (3, 5, 32) and held.rank == 5 and held.merged is None
    for column in (0, 31, 32, 69):
        assert torch.equal(held.b[column // 32, :, column % 32], lora.b[column])
    assert not held.b[2, :, 6:].any()
    a = lora.a.clone()
    lora.a.zero_()  # the file or the caller's tensor may change: what is held is a copy
    assert torch.equal(held.a, a)


@pytest.mark.parametrize("weight", [torch.zeros(4, 4, dtype=torch.float16), torch.zeros(4, 4, dtype=torch.float64)])
def test_memory_of_the_cpp_backend_takes_its_dtypes_alone(weight: torch.Tensor) -> None:
    with pytest.raises(BackendUnavailableError, match="bfloat16 and float32"):
        pack_linear(weight, allocate=LargePages().take)


def test_memory_that_is_not_to_be_had() -> None:
    with pytest.raises(MemoryError, match="no memory"):
        LargePages().take((2**62,), torch.float32)


def test_large_pages_hand_out_separate_tensors() -> None:
    memory = LargePages(chunk=1 << 20)
    taken = [
        memory.take(shape, dtype)
        for shape in ((3, 5), (1 << 19,), (1 << 19,), (7,))
        for dtype in (torch.bfloat16, torch.float32)
    ]
    for number, tensor in enumerate(taken):
        assert tensor.data_ptr() % 64 == 0 and tensor.is_contiguous()
        tensor.fill_(number)
    del memory
    assert all((tensor == number).all() for number, tensor in enumerate(taken))
