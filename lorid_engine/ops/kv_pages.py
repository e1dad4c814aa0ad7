"""The layout of key and value pages, for the ops that write and read them."""

from __future__ import annotations

import torch

from lorid_engine.ops import gpu

PAGE_TOKENS = 16


def padded_head_dim(head_dim: int) -> int:
    """The row length of a CPU's value page: the head's, up to the next multiple of 16."""
    return -(-head_dim // 16) * 16


def page_shapes(
    num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of one key page and one value page.

    The Triton backend: keys and values [16, G, D], as vLLM and FlashAttention have them.
    On the CPU, bfloat16 pairs what a dot product adds together: keys [G, D / 2, 16, 2] by feature, values [G, 8, Dp, 2] by
    token. Other dtypes there: keys [G, D, 16], values [G, 16, Dp]. Dp is D rounded up to 16.
    """
    if gpu.takes(device):
        return ((PAGE_TOKENS, num_kv_heads, head_dim),) * 2
    padded = padded_head_dim(head_dim)
    if dtype == torch.bfloat16:
        return (num_kv_heads, head_dim // 2, PAGE_TOKENS, 2), (num_kv_heads, PAGE_TOKENS // 2, padded, 2)
    return (num_kv_heads, head_dim, PAGE_TOKENS), (num_kv_heads, PAGE_TOKENS, padded)


def kv_heads(k_pages: torch.Tensor) -> int:
    """G of key pages, or 0 where they cannot be pages."""
    dim = 2 if gpu.takes(k_pages.device) else 1
    return k_pages.shape[dim] if k_pages.dim() > dim else 0


def key_view(k_pages: torch.Tensor) -> torch.Tensor:
    """The keys as [C, 16, G, D], whatever the layout; a view where the layout is not paired."""
    if gpu.takes(k_pages.device):
        return k_pages
    if k_pages.dim() == 5:  # [C, G, D / 2, 16, 2]
        return k_pages.permute(0, 3, 1, 2, 4).flatten(3)
    return k_pages.permute(0, 3, 1, 2)


def value_view(v_pages: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The values as [C, 16, G, D], whatever the layout."""
    if gpu.takes(v_pages.device):
        return v_pages
    if v_pages.dim() == 5:  # [C, G, 8, Dp, 2]
        return v_pages.permute(0, 2, 4, 1, 3).flatten(1, 2)[..., :head_dim]
    return v_pages.permute(0, 2, 1, 3)[..., :head_dim]


def write_token(
    k_pages: torch.Tensor, v_pages: torch.Tensor, slot: int, key: torch.Tensor, value: torch.Tensor
) -> None:
    """Writes one token's key and value [G, D] into place slot % 16 of page slot // 16."""
    page, place = divmod(slot, PAGE_TOKENS)
    head_dim = key.shape[1]
    if gpu.takes(k_pages.device):
        k_pages[page, place] = key.to(k_pages.dtype)
        v_pages[page, place] = value.to(v_pages.dtype)
    elif k_pages.dim() == 5:
        k_pages[page, :, :, place, :] = key.reshape(key.shape[0], -1, 2).to(k_pages.dtype)
        v_pages[page, :, place // 2, :head_dim, place % 2] = value.to(v_pages.dtype)
    else:
        k_pages[page, :, :, place] = key.to(k_pages.dtype)
        v_pages[page, :, place, :head_dim] = value.to(v_pages.dtype)
