"""embed: rows of a packed weight, so that a tied embedding and head are held once."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.checks import expect_contiguous, expect_device, expect_dtype, expect_shape
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.pack_linear import PackedLinear, packed_shape, unpack


def _check(token_ids, weight, vocabulary, features) -> None:
    expect_shape("token_ids", token_ids, None)
    expect_dtype("token_ids", token_ids, torch.int32)
    expect_contiguous("token_ids", token_ids)
    expect_contiguous("weight", weight)
    expect_device(token_ids, weight=weight)
    if tuple(weight.shape) not in ((vocabulary, features), packed_shape(weight.dtype, vocabulary, features)):
        raise ShapeError(f"weight must hold [V, E] = [{vocabulary}, {features}]; got {list(weight.shape)}")
    if token_ids.device.type == "cpu" and token_ids.numel():
        least, most = int(token_ids.min()), int(token_ids.max())
        if least < 0 or most >= vocabulary:
            raise ShapeError(f"token_ids must be from 0 to {vocabulary - 1}; got {least if least < 0 else most}")


def _fake(token_ids, weight, vocabulary, features) -> torch.Tensor:
    return weight.new_empty(token_ids.shape[0], features)


@op(check=_check, fake=_fake)
def _embed(token_ids: torch.Tensor, weight: torch.Tensor, vocabulary: int, features: int) -> torch.Tensor:
    """embed over a packed weight's tensor."""
    return unpack(weight, vocabulary, features)[token_ids.long()].clone()


def _why_not(token_ids, weight, vocabulary, features) -> str | None:
    return "it takes weights from pack_linear; got a plain [V, E]" if weight.dim() == 2 else cpu.why_not_tensors(weight)


@_embed.backend("cpu", why_not=_why_not)
def _cpu(token_ids, weight, vocabulary, features) -> torch.Tensor:
    y = weight.new_empty(token_ids.shape[0], features)
    cpu.extension().embed(
        dtype=cpu.dtype(weight),
        weight=weight.data_ptr(),
        features=features,
        token_ids=token_ids.data_ptr(),
        rows=token_ids.shape[0],
        y=y.data_ptr(),
        y_stride=features,
        threads=cpu.op_threads(),
    )
    return y


def _why_not_triton(token_ids, weight, vocabulary, features) -> str | None:
    return "it takes plain weights [V, E]; got a packed one" if weight.dim() != 2 else gpu.why_not_tensors(weight)


@_embed.backend("triton", why_not=_why_not_triton)
def _triton(token_ids, weight, vocabulary, features) -> torch.Tensor:
    from lorid_kernels.embed import embed as launch

    y = weight.new_empty(token_ids.shape[0], features)
    launch(token_ids, weight, y)
    return y


def embed(token_ids: torch.Tensor, weight: PackedLinear) -> torch.Tensor:
    """Looks up every token's row.

    Args:
        token_ids: [T] int32, from 0 to V - 1.
        weight: [V, E] from pack_linear.

    Returns:
        [T, E] in the weight's dtype.

    Raises:
        ShapeError: a token id out of range, or shapes or devices disagree.
    """
    return _embed(token_ids, weight.data, weight.out_features, weight.in_features)
