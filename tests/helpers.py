"""What the tests share: tolerances, segment patterns, comparison, and inputs of the awkward kind."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator

import torch

from lorid_engine.ops import AdapterBank, SegmentPlan, cpu

# Largest error as a share of the largest value, by dtype: float32 sums of a few hundred terms; bfloat16 rounds to 8 bits.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1 / 128}

DTYPES = [torch.float32, torch.bfloat16]
RANKS = [1, 3, 8, 16, 64, 96, 320, 512]
ROWS = [0, 1, 2, 15, 16, 17, 63, 64, 65, 255, 4097]

# Slot of each row; the banks of the tests have four slots, the last of them empty.
SEGMENTS: dict[str, list[int]] = {
    "one_row": [0],
    "one_adapter": [1] * 17,
    "one_row_each": [0, 1, 2, 0, 1, 2, -1],
    "mixed": [0] * 3 + [-1] * 10 + [1] * 2 + [2] * 16,
    "no_adapter": [-1] * 15,
    "empty_slot": [3] * 4 + [2] * 12,
    "no_rows": [],
    "many": [0] * 63 + [1] * 65 + [-1] * 64 + [2] * 63,
}


def random(*shape: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    """Fails unless every element is within tolerance (by default the dtype's) of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    if not actual.numel():
        return
    bound = (TOLERANCE[actual.dtype] if tolerance is None else tolerance) * float(expected.double().abs().max())
    error = (actual.double() - expected.double()).abs()
    assert not error.isnan().any(), "the result or the reference has a NaN"
    assert float(error.max()) <= bound, f"largest error {float(error.max()):.3g}, allowed {bound:.3g}"


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Fails unless the two hold the same bits, signs of zeros and NaNs included."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    different = actual.contiguous().view(integers) != expected.contiguous().view(integers)
    assert not different.any(), f"{int(different.sum())} of {actual.numel()} elements differ"


@contextlib.contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Runs the C++ backend on one instruction set."""
    extension = cpu.extension()
    before = extension.active_isa()
    extension.set_isa(name)
    try:
        yield
    finally:
        extension.set_isa(before)


def strided(tensor: torch.Tensor, poison: float = float("nan")) -> torch.Tensor:
    """The same rows, each followed by poisoned padding in memory."""
    padded = tensor.new_full((tensor.shape[0], tensor.shape[1] + 5), poison)
    padded[:, : tensor.shape[1]] = tensor
    return padded[:, : tensor.shape[1]]


def poisoned_tail(tensor: torch.Tensor, extra: int = 64) -> torch.Tensor:
    """The same contiguous tensor with NaNs after its end in memory: reading past the end shows."""
    flat = tensor.new_full((tensor.numel() + extra,), float("nan"))
    flat[: tensor.numel()] = tensor.flatten()
    return flat[: tensor.numel()].view(tensor.shape)


def make_bank(ranks: list[int], in_features: int, out_features: int, dtype: torch.dtype, seed: int = 0) -> AdapterBank:
    """A bank of zero-mean random adapters, one more slot than ranks: the last is empty."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    adapters = [(random(r, in_features), random(out_features, r), 0.5 + index) for index, r in enumerate(ranks)]
    bank = AdapterBank.from_tensors([*adapters, None], dtype=dtype)
    return AdapterBank(poisoned_tail(bank.a), poisoned_tail(bank.b_t), bank.rank_offset, bank.scale, bank.max_rank)


def double(bank: AdapterBank) -> AdapterBank:
    """The same adapters in float64, for the reference."""
    return AdapterBank(bank.a.double(), bank.b_t.double(), bank.rank_offset, bank.scale, bank.max_rank)


def plan_of(pattern: str) -> tuple[SegmentPlan, int]:
    """A named pattern's plan and its number of rows."""
    return SegmentPlan.from_slots(SEGMENTS[pattern]), len(SEGMENTS[pattern])


def lazy_zeros(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros that take memory only where they are written: for offsets past 2^31."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.13
    memory = mmap.mmap(-1, elements * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return torch.frombuffer(memory, dtype=dtype)
