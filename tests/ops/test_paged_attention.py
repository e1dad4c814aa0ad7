"""paged_attention against the reference, and the bits of a row whatever it is computed with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from helpers import assert_close, assert_same_bits, strided
from lorid_engine.errors import ShapeError
from lorid_engine.ops import paged_attention, use_backend
from lorid_engine.ops.kv_pages import page_shapes, write_token

DTYPES = [torch.float32, torch.bfloat16]
HEADS = [(1, 1, 2), (4, 2, 24), (9, 3, 64), (40, 1, 16)]


@dataclass
class Sequences:
    """Keys and values of several sequences in scattered pages; what no sequence has written is NaN."""

    q: list[torch.Tensor]  # of each sequence, [length, H D]
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    block_table: torch.Tensor
    head_dim: int


def make_sequences(lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> Sequences:
    num_heads, num_kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(seed)
    pages = [-(-length // 16) for length in lengths]
    order = torch.randperm(sum(pages) + 2, generator=generator).to(torch.int32)
    k_shape, v_shape = page_shapes(num_kv_heads, head_dim, dtype)
    k_pages = torch.full((len(order), *k_shape), float("nan"), dtype=dtype)
    v_pages = torch.full((len(order), *v_shape), float("nan"), dtype=dtype)
    table = torch.full((len(lengths), max(pages)), -1, dtype=torch.int32)
    queries, used = [], 0
    for b, length in enumerate(lengths):
        table[b, : pages[b]] = order[used : used + pages[b]]
        used += pages[b]
        kv = torch.randn(length, 2, num_kv_heads, head_dim, generator=generator)
        for position in range(length):
            slot = int(table[b, position // 16]) * 16 + position % 16
            write_token(k_pages, v_pages, slot, kv[position, 0], kv[position, 1])
        queries.append((2 * torch.randn(length, num_heads * head_dim, generator=generator)).to(dtype))
    return Sequences(queries, k_pages, v_pages, table, head_dim)


def attend(
    sequences: Sequences, spans: list[tuple[int, int, int]], window: int = 0, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """One call over (sequence, first position, end position) spans."""
    q = torch.cat([sequences.q[b][first:end] for b, first, end in spans])
    positions = torch.cat([torch.arange(first, end) for _, first, end in spans]).int()
    offset = torch.tensor([0, *[end - first for _, first, end in spans]]).cumsum(0).int()
    table = sequences.block_table[[b for b, _, _ in spans]].contiguous()
    scale = sequences.head_dim**-0.5
    pages = (sequences.k_pages, sequences.v_pages)
    return paged_attention(strided(q), *pages, table, offset, positions, sequences.head_dim, scale, window)


def reference(sequences: Sequences, spans: list[tuple[int, int, int]], window: int = 0) -> torch.Tensor:
    with use_backend("reference"):
        return attend(sequences, spans, window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 7, 100, 300])
@pytest.mark.parametrize("heads", HEADS)
def test_prefill_and_decode_in_one_call(isa: str, heads: tuple[int, int, int], window: int, dtype: torch.dtype) -> None:
    sequences = make_sequences([1, 16, 17, 40, 300], heads, dtype)
    spans = [(0, 0, 1), (1, 15, 16), (2, 0, 17), (3, 11, 40), (4, 250, 262), (4, 299, 300)]
    assert_close(attend(sequences, spans, window), reference(sequences, spans, window))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sequence_crosses_chunks(isa: str, dtype: torch.dtype) -> None:
    sequences = make_sequences([800], (6, 2, 32), dtype)
    spans = [(0, position, position + 1) for position in (254, 255, 256, 257, 511, 512, 799)]
    assert_close(attend(sequences, spans), reference(sequences, spans))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 33])
def test_rows_do_not_depend_on_chunking_or_company(isa: str, window: int, dtype: torch.dtype) -> None:
    """Invariant 1: one row at a time, chunks of any size, other sequences beside: the same bits."""
    sequences = make_sequences([530, 45], (6, 2, 24), dtype)
    whole = attend(sequences, [(0, 0, 530)], window)
    cuts = [0, 1, 2, 15, 16, 33, 255, 256, 257, 300, 511, 512, 513, 530]
    pieces = [attend(sequences, [(1, 3, 45), (0, a, b)], window)[42:] for a, b in pairwise(cuts)]
    assert_same_bits(torch.cat(pieces), whole)
    for t in (0, 14, 255, 256, 400, 529):
        assert_same_bits(attend(sequences, [(0, t, t + 1)], window), whole[t : t + 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_later_keys_do_not_reach_earlier_rows(isa: str, dtype: torch.dtype) -> None:
    """A NaN in a later token of the same sequence, or in the rest of a page, changes no earlier row."""
    sequences = make_sequences([64], (4, 2, 16), dtype)
    before = attend(sequences, [(0, 0, 40)])
    for position in range(37, 64):
        slot = int(sequences.block_table[0, position // 16]) * 16 + position % 16
        nan = torch.full((2, 16), float("nan"))
        write_token(sequences.k_pages, sequences.v_pages, slot, nan, nan)
    assert_same_bits(attend(sequences, [(0, 0, 40)])[:37], before[:37])
    assert attend(sequences, [(0, 0, 40)])[37:].isnan().all()


def test_large_scores_do_not_overflow(isa: str) -> None:
    sequences = make_sequences([20], (2, 1, 16), torch.float32)
    sequences.q[0] *= 1e4
    assert_close(attend(sequences, [(0, 0, 20)]), reference(sequences, [(0, 0, 20)]), 1e-4)


def test_refusals() -> None:
    sequences = make_sequences([20], (2, 1, 16), torch.float32)
    sequences.block_table[0, 1] = 99
    with pytest.raises(ShapeError, match=r"block_table\[0\] must name 2 pages"):
        attend(sequences, [(0, 0, 20)])
    assert attend(sequences, [(0, 0, 16)]).shape == (16, 32)
    with pytest.raises(ShapeError, match="window"):
        attend(sequences, [(0, 0, 16)], window=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [2, 5, 16, 17])
def test_keys_before_the_window_are_absent_even_as_nans(isa: str, window: int, dtype: torch.dtype) -> None:
    sequences, clean = (make_sequences([40], (4, 2, 24), dtype) for _ in range(2))
    at = int(sequences.block_table[0, 0]) * 16 + 3
    write_token(sequences.k_pages, sequences.v_pages, at, *torch.full((2, 2, 24), float("nan")))
    actual, expected = (attend(each, [(0, 0, 40)], window) for each in (sequences, clean))
    sees = [3 <= t < 3 + window for t in range(40)]
    assert actual.isnan().any(dim=1).tolist() == sees
    for t in range(40):
        if not sees[t]:
            assert_same_bits(actual[t], expected[t])
