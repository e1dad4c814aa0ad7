"""lora_dropout: dropout whose mask is a function of each row's key, so that it is the same whatever shares the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu, plain_torch
from lorid_engine.ops.checks import (
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op

_STREAM = 0x64726F70  # third word of the counter, apart from those of sampling
_HALVES = 8  # of a draw: each decides on one feature


@dataclass(frozen=True)
class LoraDropout:
    """What a module's LoRA input loses in training.

    Attributes:
        p: the share of features that is dropped, from 0 to below 1; it counts in steps of 1 / 65536.
        key: [T] int64, 64 random bits a row.
        module: from 0 to 2^32 - 1; modules of different numbers have independent masks.
    """

    p: float
    key: torch.Tensor
    module: int


def dropout_threshold(p: float) -> int:
    """p in 65536ths.

    Raises:
        ShapeError: p is not from 0 to below 1.
    """
    if not 0 <= p < 1:
        raise ShapeError(f"the dropout p must be from 0 to below 1; got {p}")
    return min(round(p * 65536), 65535)


def dropout_scale(p: float) -> float:
    """What a kept element is multiplied by: 1 / (1 - p), with p as it is counted."""
    return 65536 / (65536 - dropout_threshold(p))


def check(x: torch.Tensor, key: torch.Tensor, module: int, p: float) -> None:
    """Raises ShapeError unless these are arguments of lora_dropout."""
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_shape("key", key, x.shape[0])
    expect_dtype("key", key, torch.int64)
    expect_contiguous("key", key)
    expect_device(x, key=key)
    dropout_threshold(p)
    if not 0 <= module < 2**32:
        raise ShapeError(f"the dropout's module must be from 0 to 2^32 - 1; got {module}")


def _fake(x, key, module, p) -> torch.Tensor:
    return x.new_empty(x.shape)


def _product(multiplier: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a product of 32-bit numbers in int64, whose overflow is harmless to both."""
    product = word * multiplier
    return (product >> 32) & 0xFFFFFFFF, product & 0xFFFFFFFF


def _halves(key: torch.Tensor, module: int, features: int) -> torch.Tensor:
    """[T, features] draws from 0 to 65535: Philox4x32-10 with counter (feature // 8, module, stream, 0)."""
    draws = -(-features // _HALVES)
    c0 = torch.arange(draws, device=key.device).expand(key.shape[0], draws)
    c1, c2, c3 = (torch.full_like(c0, value) for value in (module, _STREAM, 0))
    k0, k1 = (key & 0xFFFFFFFF).unsqueeze(1), ((key >> 32) & 0xFFFFFFFF).unsqueeze(1)
    for _ in range(10):
        first_high, first_low = _product(0xD2511F53, c0)
        second_high, second_low = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = second_high ^ c1 ^ k0, second_low, first_high ^ c3 ^ k1, first_low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    halves = [part for word in (c0, c1, c2, c3) for part in (word & 0xFFFF, word >> 16)]
    return torch.stack(halves, dim=2).reshape(key.shape[0], -1)[:, :features]


@op(check=check, fake=_fake)
def lora_dropout(x: torch.Tensor, key: torch.Tensor, module: int, p: float) -> torch.Tensor:
    """Dropout (Srivastava et al., JMLR 2014) by a counter-based mask: y = x / (1 - p) where an element stays, else 0, with p
    rounded to 65536ths.

    Feature i of a row stays if half i % 8 of Philox4x32-10 at the row's key and counter (i // 8, module, 0x64726f70, 0) is at
    least 65536 p. The op is its own backward.

    Args:
        x: [T, I]; rows may be strided, the last dimension is contiguous.
        key: [T] int64, 64 bits a row.
        module: tells masks of one row apart, from 0 to 2^32 - 1.
        p: from 0 to below 1.

    Returns:
        [T, I] in x's dtype, rounded once.

    Raises:
        ShapeError: shapes, dtypes or devices disagree, or p or module is out of range.
    """
    kept = _halves(key, module, x.shape[1]) >= dropout_threshold(p)
    return torch.where(kept, x.double() * dropout_scale(p), 0).to(x.dtype)


@lora_dropout.backend("cpu", why_not=lambda x, *_: cpu.why_not_tensors(x))
def _cpu(x, key, module, p) -> torch.Tensor:
    y = x.new_empty(x.shape)
    cpu.extension().dropout(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        rows=x.shape[0],
        features=x.shape[1],
        key=key.data_ptr(),
        module=module,
        threshold=dropout_threshold(p),
        scale=dropout_scale(p),
        y=y.data_ptr(),
        y_stride=x.shape[1],
        threads=cpu.op_threads(),
    )
    return y


@lora_dropout.backend("triton", why_not=lambda x, *_: gpu.why_not_tensors(x))
def _triton(x, key, module, p) -> torch.Tensor:
    from lorid_kernels.lora_dropout import lora_dropout as launch

    y = x.new_empty(x.shape)
    launch(x, key, module, _STREAM, dropout_threshold(p), dropout_scale(p), y)
    return y


@lora_dropout.backend("torch", why_not=lambda x, *_: plain_torch.why_not_tensors(x))
def _torch(x, key, module, p) -> torch.Tensor:
    kept = _halves(key, module, x.shape[1]) >= dropout_threshold(p)
    return torch.where(kept, x.float() * dropout_scale(p), 0).to(x.dtype)


def _save(ctx, inputs, output) -> None:
    _, key, ctx.module, ctx.p = inputs
    ctx.save_for_backward(key)


def _backward(ctx, grad):
    (key,) = ctx.saved_tensors
    return lora_dropout(grad.contiguous(), key, ctx.module, ctx.p), None, None, None


lora_dropout.differentiable(_backward, _save)
