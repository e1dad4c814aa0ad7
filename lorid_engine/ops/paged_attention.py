"""paged_attention: causal attention over KV pages, prefill and decode rows in one call."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.checks import (
    check_offsets,
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.kv_pages import PAGE_TOKENS, key_view, kv_heads, page_shapes, value_view


def _check(q, k_pages, v_pages, block_table, query_offset, positions, head_dim, scale, window) -> None:
    expect_shape("q", q, None, None)
    expect_floating("q", q)
    expect_rows("q", q)
    if head_dim <= 0 or head_dim % 2 or q.shape[1] % head_dim:
        raise ShapeError(f"head_dim must be even and divide q's {q.shape[1]} columns; got {head_dim}")
    num_kv_heads = kv_heads(k_pages)
    if num_kv_heads == 0 or (q.shape[1] // head_dim) % num_kv_heads:
        raise ShapeError(
            f"k_pages must be as kv_pages.page_shapes says with G dividing H = {q.shape[1] // head_dim}; got {list(k_pages.shape)}"
        )
    k_shape, v_shape = page_shapes(num_kv_heads, head_dim, q.dtype, q.device)
    expect_shape("k_pages", k_pages, None, *k_shape)
    expect_shape("v_pages", v_pages, k_pages.shape[0], *v_shape)
    for name, tensor in (("k_pages", k_pages), ("v_pages", v_pages)):
        expect_dtype(name, tensor, q.dtype)
        expect_contiguous(name, tensor)
    expect_shape("block_table", block_table, None, None)
    expect_shape("query_offset", query_offset, block_table.shape[0] + 1)
    expect_shape("positions", positions, q.shape[0])
    tables = {"block_table": block_table, "query_offset": query_offset, "positions": positions}
    for name, tensor in tables.items():
        expect_dtype(name, tensor, torch.int32)
        expect_contiguous(name, tensor)
    expect_device(q, k_pages=k_pages, v_pages=v_pages, **tables)
    if window < 0:
        raise ShapeError(f"window must be 0 (all) or positive; got {window}")
    if q.device.type == "cpu":
        _check_tables(q.shape[0], k_pages.shape[0], block_table, query_offset, positions)


def _check_tables(num_rows, num_pages, block_table, query_offset, positions) -> None:
    check_offsets("query_offset", query_offset, num_rows)
    for b in range(block_table.shape[0]):
        rows = positions[int(query_offset[b]) : int(query_offset[b + 1])]
        if not rows.numel():
            continue
        if int(rows[0]) < 0 or bool((rows.long().diff() != 1).any()):
            raise ShapeError(f"positions of sequence {b} must count up from 0 or more; got {rows.tolist()}")
        pages = int(rows[-1]) // PAGE_TOKENS + 1
        used = block_table[b, :pages]
        if used.numel() < pages or int(used.min()) < 0 or int(used.max()) >= num_pages:
            raise ShapeError(f"block_table[{b}] must name {pages} pages from 0 to {num_pages - 1}; got {used.tolist()}")


def _fake(q, k_pages, v_pages, block_table, query_offset, positions, head_dim, scale, window) -> torch.Tensor:
    return q.new_empty(q.shape)


@op(check=_check, fake=_fake)
def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    query_offset: torch.Tensor,
    positions: torch.Tensor,
    head_dim: int,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Softmax attention of every row over its own sequence's keys at positions up to its own.

        o[t, h] = sum over j of softmax_j(scale q[t, h] . k[j, g]) v[j, g]    with g = h G / H, j <= positions[t],
                                                                              j > positions[t] - window where window > 0

    Args:
        q: [T, H D] rotated queries; rows may be strided, the last dimension is contiguous.
        k_pages: [C, ...] key pages in q's dtype, laid out as kv_pages.page_shapes says. v_pages: likewise.
        block_table: [B, M] int32 pages of each sequence; page j holds positions 16 j to 16 j + 15. Unused entries: -1.
        query_offset: [B + 1] int32, rows query_offset[b] to query_offset[b + 1] belong to sequence b.
        positions: [T] int32, consecutive within a sequence. Keys up to a sequence's last row are already in its pages.
        head_dim: D.
        scale: usually 1 / sqrt(D).
        window: keys a row sees, its own included; 0 = all.

    Returns:
        [T, H D] in q's dtype, summed in float32. A row's bits do not depend on the other rows, nor on how its sequence was
        cut into calls: keys are added in chunks of 256 absolute positions, merged in order.

    Raises:
        ShapeError: shapes, dtypes or devices disagree, or a table is out of range.
    """
    num_heads, num_kv_heads = q.shape[1] // head_dim, kv_heads(k_pages)
    keys, values = key_view(k_pages), value_view(v_pages, head_dim)
    out = torch.zeros_like(q)
    for b in range(block_table.shape[0]):
        for t in range(int(query_offset[b]), int(query_offset[b + 1])):
            end = int(positions[t]) + 1
            begin = max(0, end - window) if window else 0
            pages = block_table[b, : -(-end // PAGE_TOKENS)].long()
            k, v = (part[pages].flatten(0, 1)[begin:end].double() for part in (keys, values))
            k, v = (part.repeat_interleave(num_heads // num_kv_heads, dim=1) for part in (k, v))
            scores = torch.einsum("hd,jhd->hj", q[t].double().reshape(num_heads, head_dim), k) * scale
            out[t] = torch.einsum("hj,jhd->hd", scores.softmax(dim=1), v).flatten().to(q.dtype)
    return out


def _why_not(q, k_pages, v_pages, block_table, query_offset, positions, head_dim, *_) -> str | None:
    heads = q.shape[1] // head_dim // kv_heads(k_pages)
    return cpu.why_not_heads(head_dim, heads) or cpu.why_not_tensors(q)


@paged_attention.backend("cpu", why_not=_why_not)
def _cpu(q, k_pages, v_pages, block_table, query_offset, positions, head_dim, scale, window) -> torch.Tensor:
    out = q.new_empty(q.shape)
    cpu.extension().paged_attention(
        dtype=cpu.dtype(q),
        q=q.data_ptr(),
        q_stride=q.stride(0),
        k_pages=k_pages.data_ptr(),
        v_pages=v_pages.data_ptr(),
        block_table=block_table.data_ptr(),
        block_table_stride=block_table.shape[1],
        query_offset=query_offset.data_ptr(),
        positions=positions.data_ptr(),
        num_sequences=block_table.shape[0],
        out=out.data_ptr(),
        out_stride=q.shape[1],
        scale=scale,
        window=window,
        num_heads=q.shape[1] // head_dim,
        num_kv_heads=kv_heads(k_pages),
        head_dim=head_dim,
        threads=cpu.op_threads(),
    )
    return out


@paged_attention.backend("triton", why_not=lambda q, *_: gpu.why_not_tensors(q))
def _triton(q, k_pages, v_pages, block_table, query_offset, positions, head_dim, scale, window) -> torch.Tensor:
    from lorid_kernels.paged_attention import paged_attention as launch

    out = q.new_empty(q.shape)
    # The lengths are on the device, and reading them would wait for it: bounds that always hold.
    bounds = {"max_query": q.shape[0], "max_context": block_table.shape[1] * PAGE_TOKENS}
    tables = (block_table, query_offset, positions)
    launch(q, k_pages, v_pages, *tables, out, head_dim=head_dim, scale=scale, window=window, **bounds)
    return out
