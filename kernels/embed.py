"""embed: rows of the embedding table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _embed_kernel(token_ids_ptr, weight_ptr, y_ptr, features, BLOCK_E: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    token = tl.load(token_ids_ptr + t).to(tl.int64)
    row = tl.load(weight_ptr + token * features + e, mask=e < features)
    tl.store(y_ptr + t * features + e, row.to(y_ptr.dtype.element_ty), mask=e < features)


def embed(token_ids: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> None:
    """Writes rows token_ids [T] int32 of weight [V, E] into y [T, E] of any dtype, contiguous."""
    rows, features = y.shape
    if rows == 0 or features == 0:
        return
    block = min(triton.next_power_of_2(features), 1024)
    grid = (rows, triton.cdiv(features, block))
    _embed_kernel[grid](token_ids, weight, y, features, BLOCK_E=block, num_warps=4)
