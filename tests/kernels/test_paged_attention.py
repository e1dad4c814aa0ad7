"""paged_attention's kernels, interpreted: against the reference and the C++ backend, and the bits of a row in every mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from helpers import assert_close, assert_same_bits, lazy_zeros, strided
from lorid_engine.ops import gpu, paged_attention, use_backend
from lorid_engine.ops.kv_pages import page_shapes, write_token

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="the kernels are interpreted: it takes TRITON_INTERPRET=1")

NAN = float("nan")
HEADS = [(1, 1, 10), (4, 2, 24), (9, 3, 64), (1, 1, 80), (16, 1, 96), (65, 1, 16), (2, 2, 128)]
Span = tuple[int, int, int]  # sequence, first position, end


@pytest.fixture(autouse=True)
def ordered_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each element of an interpreted product adds up alike; BLAS adds in an order that depends on the row's place in the tile."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        left, right = (np.ascontiguousarray(each, dtype=d.data.dtype) for each in (a.data, b.data.T))
        return TensorHandle(np.einsum("mk,nk->mn", left, right) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


@dataclass
class Sequences:
    """Keys and values of several sequences in scattered pages of one backend's layout; what none has written is NaN."""

    q: list[torch.Tensor]  # of each sequence, [length, H D]
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    block_table: torch.Tensor
    head_dim: int
    backend: str

    def poison(self, b: int, position: int, value: float = NAN, *, keys: bool = True) -> None:
        """Makes a token's value, and with keys its key, something that is not finite."""
        with use_backend(self.backend):
            slot = int(self.block_table[b, position // 16]) * 16 + position % 16
            shape = self.v_pages.shape[2], self.head_dim
            key = torch.full(shape, value) if keys else self.k_pages[slot // 16, slot % 16]
            write_token(self.k_pages, self.v_pages, slot, key, torch.full(shape, value))


def make_sequences(
    lengths: list[int], heads: tuple[int, int, int], dtype: torch.dtype = torch.float32, backend: str = "triton"
) -> Sequences:
    """The same sequences whatever the backend."""
    num_heads, num_kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(0)
    pages = [-(-length // 16) for length in lengths]
    order = torch.randperm(sum(pages) + 2, generator=generator).to(torch.int32)
    with use_backend(backend):
        k_pages, v_pages = (
            torch.full((len(order), *shape), NAN, dtype=dtype) for shape in page_shapes(num_kv_heads, head_dim, dtype)
        )
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
    return Sequences(queries, k_pages, v_pages, table, head_dim, backend)


def arguments(sequences: Sequences, spans: list[Span]) -> tuple[torch.Tensor, ...]:
    """The op's tensors for one call over some spans."""
    q = torch.cat([sequences.q[b][first:end] for b, first, end in spans])
    positions = torch.cat([torch.arange(first, end) for _, first, end in spans]).int()
    offset = torch.tensor([0, *[end - first for _, first, end in spans]]).cumsum(0).int()
    table = sequences.block_table[[b for b, _, _ in spans]].contiguous()
    return strided(q), sequences.k_pages, sequences.v_pages, table, offset, positions


def attend(sequences: Sequences, spans: list[Span], window: int = 0, backend: str | None = None) -> torch.Tensor:
    """The op over some spans."""
    with use_backend(backend or sequences.backend):
        return paged_attention(*arguments(sequences, spans), sequences.head_dim, sequences.head_dim**-0.5, window)


def launch(
    sequences: Sequences, spans: list[Span], window: int = 0, *, max_query: int, max_context: int, **rest: torch.Tensor
) -> torch.Tensor:
    """The launcher over some spans, with bounds of the caller's choice: max_query 1 splits contexts of over 256 tokens."""
    from lorid_kernels.paged_attention import paged_attention as kernel

    tensors = arguments(sequences, spans)
    out = torch.full(tensors[0].shape, 7.0, dtype=tensors[0].dtype)
    shape = {"head_dim": sequences.head_dim, "scale": sequences.head_dim**-0.5, "window": window}
    kernel(*tensors, out, **shape, max_query=max_query, max_context=max_context, **rest)
    return out


def decode(sequences: Sequences, spans: list[Span], window: int = 0) -> torch.Tensor:
    """Rows of one query each, with the contexts split."""
    return launch(sequences, spans, window, max_query=1, max_context=16 * sequences.block_table.shape[1])


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("heads", HEADS)
def test_prefill_and_decode_in_one_call(heads: tuple[int, int, int], window: int) -> None:
    lengths = [1, 17, 40, 270]
    spans = [(0, 0, 1), (1, 15, 16), (1, 0, 17), (2, 11, 11), (2, 33, 40), (3, 254, 258), (3, 269, 270)]
    actual = attend(make_sequences(lengths, heads), spans, window)
    for backend in ("reference", "cpu"):
        assert_close(actual, attend(make_sequences(lengths, heads, backend=backend), spans, window), 4e-6)


@pytest.mark.parametrize("window", [0, 1, 40, 270])
@pytest.mark.parametrize("heads", [(4, 2, 24), (1, 1, 64)])
def test_contexts_of_several_chunks(heads: tuple[int, int, int], window: int) -> None:
    spans = [(0, position, position + 1) for position in (254, 255, 256, 257, 511, 512, 569)]
    split = decode(make_sequences([570], heads), spans, window)
    assert_close(split, attend(make_sequences([570], heads, backend="reference"), spans, window), 4e-6)
    assert_same_bits(attend(make_sequences([570], heads), spans, window), split)


def test_float16() -> None:
    spans = [(0, 290, 300), (1, 0, 20)]
    actual, expected = (
        attend(make_sequences([300, 20], (4, 2, 24), torch.float16, backend), spans)
        for backend in ("triton", "reference")
    )
    assert_close(actual, expected, 2**-9)


@pytest.mark.parametrize("window", [0, 33, 260])
@pytest.mark.parametrize(
    ("heads", "dtype"), [((3, 1, 24), torch.float32), ((1, 1, 64), torch.float32), ((2, 1, 16), torch.float16)]
)
def test_rows_do_not_depend_on_chunking_company_or_mode(
    heads: tuple[int, int, int], dtype: torch.dtype, window: int
) -> None:
    """Invariant 1: prefill at once, in pieces beside others, alone, as decode with the context split and not."""
    sequences = make_sequences([530, 45], heads, dtype)
    spans = [(0, 0, 40), (0, 240, 275), (0, 505, 530)]
    whole = attend(sequences, spans, window)
    cuts = [(0, 1), (1, 15), (15, 40), (240, 255), (255, 256), (256, 275), (505, 511), (511, 513), (513, 530)]
    pieces = [attend(sequences, [(1, 39, 45), (0, a, b), (1, 4, 4)], window)[6:] for a, b in cuts]
    assert_same_bits(torch.cat(pieces), whole)
    row_of = {t: row for row, t in enumerate(t for _, first, end in spans for t in range(first, end))}
    places = [0, 14, 39, 240, 255, 256, 511, 512, 529]
    alone, expected = [(0, t, t + 1) for t in places], whole[[row_of[t] for t in places]]
    assert_same_bits(decode(sequences, alone, window), expected)
    assert_same_bits(decode(sequences, [(1, 44, 45), (1, 3, 3), *alone], window)[1:], expected)
    assert_same_bits(launch(sequences, alone, window, max_query=2, max_context=544), expected)
    assert_same_bits(launch(sequences, alone, window, max_query=1, max_context=4000), expected)
    assert_same_bits(attend(sequences, alone[-1:], window), expected[-1:])


def test_one_chunk_is_not_split() -> None:
    from lorid_kernels.paged_attention import workspace_elements

    assert workspace_elements(3, 6, 2, 24, 1, 256) == workspace_elements(3, 6, 2, 24, 2, 4096) == 0
    assert workspace_elements(3, 6, 2, 24, 1, 257) == 3 * 6 * 2 * 26
    sequences = make_sequences([256], (6, 2, 24))
    at_once = attend(sequences, [(0, 250, 256)])
    for max_context in (256, 512):
        row = launch(sequences, [(0, 255, 256)], max_query=1, max_context=max_context)
        assert_same_bits(row, at_once[5:])


@pytest.mark.parametrize("max_query", [1, 64])
def test_padding_rows_and_sequences_are_left_alone(max_query: int) -> None:
    """A CUDA graph's bucket: rows past the last sequence's, sequences without rows; a workspace of the caller's."""
    sequences = make_sequences([300, 20], (4, 2, 16))
    q, k_pages, v_pages, table, _, positions = arguments(sequences, [(0, 299, 300), (1, 19, 20), (1, 0, 5)])
    table = torch.cat([table[:2], torch.full_like(table, -1)])
    offset = torch.tensor([0, 1, 2, 2, 2, 2], dtype=torch.int32)
    positions[2:] = -9
    from lorid_kernels.paged_attention import paged_attention as kernel

    out = torch.full(q.shape, 7.0)
    shape = {"head_dim": 16, "scale": 0.25, "window": 0, "max_query": max_query, "max_context": 304}
    workspace = torch.full((5 * 4 * 2 * 18 + 3,), NAN)
    kernel(q, k_pages, v_pages, table, offset, positions, out, **shape, workspace=workspace)
    assert_same_bits(out[:2], attend(sequences, [(0, 299, 300), (1, 19, 20)]))
    assert bool((out[2:] == 7.0).all())
    assert bool(workspace[-3:].isnan().all())


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("keys", [True, False])
def test_later_tokens_do_not_reach_earlier_rows(keys: bool, value: float) -> None:
    """Not even as NaNs within one tile, whose rows share their loads of values."""
    heads = (4, 2, 16)
    sequences = make_sequences([64], heads)
    before = attend(sequences, [(0, 0, 40)])
    for position in range(37, 64):
        sequences.poison(0, position, value, keys=keys)
    after = attend(sequences, [(0, 0, 40)])
    assert_same_bits(after[:37], before[:37])
    assert not after[37:].isfinite().any()
    alone = torch.cat([attend(sequences, [(0, t, t + 1)]) for t in range(40)])
    assert after.isnan().equal(alone.isnan())
    assert_same_bits(after.nan_to_num(), alone.nan_to_num())


@pytest.mark.parametrize("window", [2, 16, 17, 258])
def test_keys_before_the_window_are_absent_even_as_nans(window: int) -> None:
    sequences, clean = (make_sequences([300], (4, 2, 24)) for _ in range(2))
    sequences.poison(0, 3)
    spans = [(0, 0, 20), (0, 255, 265)]
    actual, expected = (attend(each, spans, window) for each in (sequences, clean))
    sees = torch.tensor([3 <= t < 3 + window for t in [*range(20), *range(255, 265)]])
    assert actual.isnan().any(dim=1).equal(sees)
    assert_same_bits(actual[~sees], expected[~sees])
    rows = [(0, t, t + 1) for t in (4, 255, 260, 261, 264)]
    split = decode(sequences, rows, window)
    sees = torch.tensor([3 <= t < 3 + window for _, t, _ in rows])
    assert split.isnan().any(dim=1).equal(sees)
    assert_same_bits(split[~sees], attend(clean, rows, window)[~sees])


def test_nans_of_other_sequences_do_not_reach_a_row() -> None:
    sequences = make_sequences([40, 40], (4, 2, 16))
    expected = attend(sequences, [(0, 0, 40)])
    sequences.poison(1, 0)
    sequences.q[1].fill_(NAN)
    actual = attend(sequences, [(1, 0, 40), (0, 0, 40)])
    assert_same_bits(actual[40:], expected)
    assert actual[:40].isnan().all()


def test_a_nan_in_a_query_stays_in_its_row() -> None:
    sequences = make_sequences([20], (2, 1, 16))
    expected = attend(sequences, [(0, 0, 20)])
    sequences.q[0][7] = NAN
    actual = attend(sequences, [(0, 0, 20)])
    others = [t for t in range(20) if t != 7]
    assert_same_bits(actual[others], expected[others])
    assert actual[7].isnan().all()


def test_large_scores_do_not_overflow() -> None:
    sequences, same = (make_sequences([20], (2, 1, 16), backend=backend) for backend in ("triton", "reference"))
    for each in (sequences, same):
        each.q[0] *= 1e4
    assert_close(attend(sequences, [(0, 0, 20)]), attend(same, [(0, 0, 20)]), 1e-4)


def test_pages_past_two_to_the_31_elements() -> None:
    sequences = make_sequences([20], (2, 1, 16))
    expected = attend(sequences, [(0, 0, 20)])
    page = 2**31 // (16 * 16) + 5
    far = []
    for pages in (sequences.k_pages, sequences.v_pages):
        big = lazy_zeros((page + 2) * 256, torch.float32).view(-1, *pages.shape[1:])
        big[page : page + 2] = pages[sequences.block_table[0].long()]
        far.append(big)
    sequences.k_pages, sequences.v_pages = far
    sequences.block_table = torch.tensor([[page, page + 1]], dtype=torch.int32)
    assert_same_bits(attend(sequences, [(0, 0, 20)]), expected)


def test_no_rows() -> None:
    sequences = make_sequences([20], (2, 1, 16))
    assert attend(sequences, [(0, 5, 5)]).shape == (0, 32)
