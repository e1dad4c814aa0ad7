"""rope: rotary position embedding (Su et al., arXiv 2104.09864), and the write of keys and values into their pages."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.checks import (
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.kv_pages import PAGE_TOKENS, kv_heads, page_shapes, write_token


def _check(
    qkv, cos, sin, positions, cache_slot, k_pages, v_pages, num_heads, q_norm=None, k_norm=None, norm_epsilon=0.0
) -> None:
    expect_shape("qkv", qkv, None, None)
    expect_floating("qkv", qkv)
    expect_rows("qkv", qkv)
    expect_shape("cos", cos, None, None)
    expect_shape("sin", sin, *cos.shape)
    for name, tensor in (("cos", cos), ("sin", sin)):
        expect_dtype(name, tensor, torch.float64 if qkv.dtype == torch.float64 else torch.float32)
        expect_contiguous(name, tensor)
    expect_shape("positions", positions, qkv.shape[0])
    expect_dtype("positions", positions, torch.int32)
    expect_contiguous("positions", positions)
    expect_shape("cache_slot", cache_slot, qkv.shape[0])
    expect_dtype("cache_slot", cache_slot, torch.int64)
    expect_contiguous("cache_slot", cache_slot)
    head_dim = 2 * cos.shape[1]
    for name, norm in (("q_norm", q_norm), ("k_norm", k_norm)):
        if norm is not None:
            expect_shape(name, norm, head_dim)
            expect_dtype(name, norm, cos.dtype)
            expect_contiguous(name, norm)
            expect_device(qkv, **{name: norm})
    num_kv_heads = kv_heads(k_pages)
    if qkv.shape[1] != (num_heads + 2 * num_kv_heads) * head_dim:
        raise ShapeError(
            f"qkv must have (H + 2 G) D columns, H = {num_heads}, D = {head_dim}, k_pages {list(k_pages.shape)}; "
            f"got {qkv.shape[1]}"
        )
    k_shape, v_shape = page_shapes(num_kv_heads, head_dim, qkv.dtype, qkv.device)
    expect_shape("k_pages", k_pages, None, *k_shape)
    expect_shape("v_pages", v_pages, k_pages.shape[0], *v_shape)
    for name, tensor in (("k_pages", k_pages), ("v_pages", v_pages)):
        expect_dtype(name, tensor, qkv.dtype)
        expect_contiguous(name, tensor)
    expect_device(qkv, cos=cos, sin=sin, positions=positions, cache_slot=cache_slot, k_pages=k_pages, v_pages=v_pages)
    if qkv.device.type == "cpu" and qkv.shape[0]:
        if int(positions.min()) < 0 or int(positions.max()) >= cos.shape[0]:
            raise ShapeError(f"positions must be from 0 to {cos.shape[0] - 1}; got {positions.tolist()}")
        if int(cache_slot.min()) < 0 or int(cache_slot.max()) >= k_pages.shape[0] * PAGE_TOKENS:
            last = k_pages.shape[0] * PAGE_TOKENS - 1
            raise ShapeError(f"cache_slot must be from 0 to {last}; got {cache_slot.tolist()}")
        if cache_slot.unique().numel() < cache_slot.numel():
            raise ShapeError(f"cache_slot must give each row a place of its own; got {cache_slot.tolist()}")


def _fake(
    qkv, cos, sin, positions, cache_slot, k_pages, v_pages, num_heads, q_norm=None, k_norm=None, norm_epsilon=0.0
) -> torch.Tensor:
    return qkv.new_empty(qkv.shape[0], num_heads * 2 * cos.shape[1])


@op(check=_check, fake=_fake, mutates=("k_pages", "v_pages"))
def rope(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    cache_slot: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    num_heads: int,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    norm_epsilon: float = 0.0,
) -> torch.Tensor:
    """Rotates queries and keys by their position, and writes keys and values into their pages.

        y[d] = x[d] cos[p, d] - x[D / 2 + d] sin[p, d];  y[D / 2 + d] = x[D / 2 + d] cos[p, d] + x[d] sin[p, d]

    With q_norm or k_norm, x is the head after its RMS norm: x / sqrt(mean of x^2 + norm_epsilon) times the weight.

    Args:
        qkv: [T, (H + 2 G) D] queries, keys, values side by side; rows may be strided.
        cos: [positions, D / 2] float32, contiguous. sin: the same.
        positions: [T] int32.
        cache_slot: [T] int64, page times 16 plus the place in the page.
        k_pages: [C, ...] key pages in qkv's dtype, laid out as kv_pages.page_shapes says. Written. v_pages: likewise.
        num_heads: H.
        q_norm: [D] float32 weight of the norm of each query head, or None for no norm. k_norm: of each key head.
        norm_epsilon: of both norms.

    Returns:
        [T, H D] the rotated queries, in qkv's dtype.

    Raises:
        ShapeError: shapes, dtypes or devices disagree, or a position or slot is out of range.
    """
    half, num_kv_heads = cos.shape[1], kv_heads(k_pages)
    heads = qkv.double().reshape(qkv.shape[0], -1, 2 * half)
    for norm, part in ((q_norm, slice(num_heads)), (k_norm, slice(num_heads, num_heads + num_kv_heads))):
        if norm is not None:
            scale = (heads[:, part].square().mean(-1, keepdim=True) + norm_epsilon).rsqrt()
            heads = heads.clone()
            heads[:, part] *= scale * norm.double()
    c, s = (table[positions.long()].double().unsqueeze(1) for table in (cos, sin))
    first, second = heads[..., :half], heads[..., half:]
    rotated = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
    for t, slot in enumerate(cache_slot.tolist()):
        value = heads[t, num_heads + num_kv_heads :]
        write_token(k_pages, v_pages, slot, rotated[t, num_heads : num_heads + num_kv_heads], value)
    return rotated[:, :num_heads].flatten(1).to(qkv.dtype)


@rope.backend("cpu", why_not=lambda qkv, cos, *_: cpu.why_not_heads(2 * cos.shape[1]) or cpu.why_not_tensors(qkv))
def _cpu(
    qkv, cos, sin, positions, cache_slot, k_pages, v_pages, num_heads, q_norm=None, k_norm=None, norm_epsilon=0.0
) -> torch.Tensor:
    head_dim = 2 * cos.shape[1]
    q = qkv.new_empty(qkv.shape[0], num_heads * head_dim)
    cpu.extension().rope(
        dtype=cpu.dtype(qkv),
        qkv=qkv.data_ptr(),
        qkv_stride=qkv.stride(0),
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        q_norm=0 if q_norm is None else q_norm.data_ptr(),
        k_norm=0 if k_norm is None else k_norm.data_ptr(),
        norm_epsilon=norm_epsilon,
        positions=positions.data_ptr(),
        cache_slot=cache_slot.data_ptr(),
        q_out=q.data_ptr(),
        q_out_stride=q.shape[1],
        k_pages=k_pages.data_ptr(),
        v_pages=v_pages.data_ptr(),
        num_heads=num_heads,
        num_kv_heads=kv_heads(k_pages),
        head_dim=head_dim,
        rows=qkv.shape[0],
        threads=cpu.op_threads(),
    )
    return q


@rope.backend("triton", why_not=lambda qkv, *_: gpu.why_not_tensors(qkv))
def _triton(
    qkv, cos, sin, positions, cache_slot, k_pages, v_pages, num_heads, q_norm=None, k_norm=None, norm_epsilon=0.0
) -> torch.Tensor:
    from lorid_kernels.rope import rope as launch

    q = qkv.new_empty(qkv.shape[0], num_heads * 2 * cos.shape[1])
    norms = {"q_norm": q_norm, "k_norm": k_norm, "norm_epsilon": norm_epsilon}
    launch(qkv, cos, sin, positions, cache_slot, q, k_pages, v_pages, num_heads=num_heads, **norms)
    return q
